// commands.c: command lines, one argument a line, up to where a model would be made: parsed, resolved, the data
// opened where that is quick, the sizes added up as --dry-run prints them.
#define main generate_main
#include "generate.c"
#undef main
#include "tests/fuzz/fuzz.h"
#include "run/report.h"

enum { MOST_WORDS = 64 };
typedef struct { char *argv[MOST_WORDS + 2]; int argc; } Words;

static Words words_of(const char *input, size_t bytes) {
    Words w = {{"program"}, 1};
    char *text = memcpy(xmalloc(bytes + 1), input, bytes);
    for (char *at = text, *end; at < text + bytes && w.argc <= MOST_WORDS; at = end ? end : text + bytes) {
        end = strchr(at, '\n');
        if (end) *end++ = '\0';
        w.argv[w.argc++] = at;
    }
    return w;
}

// Every value as text must set the same value again: run.json and the printed command rely on it.
static void check_texts(const Config *c) {
    for (size_t i = 0; i < config_table.count; i++) {
        if (config_table.flag[i].kind == FLAG_GROUP) continue;
        Config again = *c;
        char *text = flags_get(&config_table, c, i);
        flags_set(&config_table, &again, config_table.flag[i].name, text);
        char *second = flags_get(&config_table, &again, i);
        if (strcmp(text, second)) fuzz_fault("--%s %s is read back as %s", config_table.flag[i].name, text, second);
        free(text), free(second);
    }
}

// The tables and floors of some sources take time in proportion to these; a glob may look through a whole disk.
static bool is_quick(const Config *c) {
    return c->context <= 128 && c->vocab <= 128 && c->pairs <= 128 && !strpbrk(c->data, "*?[") &&
           !strpbrk(c->val, "*?[");
}

void train_command(const char *input, size_t bytes) {
    Words w = words_of(input, bytes);
    Config c;
    bool *given = xmalloc(config_table.count * sizeof *given);
    flags_parse(&config_table, &c, w.argc, w.argv, given);
    check_texts(&c);
    report_command(w.argc, w.argv), flags_summary(&config_table, &c, true), report_label(c.data);
    if (is_quick(&c)) {
        Data *d = data_open(&c);
        c.vocab = d->vocab;
        data_close(d);
    }
    if (!c.vocab) c.vocab = 64;
    config_resolve(&c);
    check_texts(&c);
    hf_architecture(&c), hf_obstacle(&c);
    ModelSize s = model_size(&c);
    if (s.active_parameters > s.parameters)
        fuzz_fault("%zu of %zu parameters are active", s.active_parameters, s.parameters);
}

static Source source = {.dir = "run", .ours = true};
void prepare_generate(void) {
    flags_defaults(&config_table, &source.config);
    source.config.vocab = 6;
    source.tokenizer = tokenizer_char("abc \n.", 6);
}

void generate_command(const char *input, size_t bytes) {
    Words w = words_of(input, bytes);
    GenerateOptions o;
    bool *given = xmalloc(generate_table.count * sizeof *given);
    int *prompt;
    flags_parse(&generate_table, &o, w.argc, w.argv, given);
    size_t n = read_prompt(&o, given, &source, &prompt);
    for (size_t i = 0; i < n; i++)
        if (prompt[i] < 0 || prompt[i] > 5) fuzz_fault("token %d of a prompt", prompt[i]);
}

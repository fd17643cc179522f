// generate.c: main(). Continues a text with the model of a run, token by token from a cache.
//
//     ./generate --run runs/NAME --prompt "Once upon a time"
//     ./generate --help
//
// The text goes to stdout as it comes, everything else to stderr: at the end, how fast the prompt was
// read (prefill: many tokens at once, bound by arithmetic) and how fast tokens were written (decode: one at
// a time, bound by memory). The sampling itself is in sample.c. What this file is not: a server, a
// batch of requests, speculation.
#include "data/data.h"
#include "hf.h"
#include "lib/plot.h"
#include "sample.h"
#include <dirent.h>
#include <errno.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- flags ---------------------------------------------------------------------------------------
typedef struct {
#define GROUP(...)
#define SIZE(name, ...) size_t name;
#define REAL(name, ...) double name;
#define TEXT(name, ...) char name[FLAG_TEXT_SIZE];
#include "generate.def"
#undef GROUP
#undef SIZE
#undef REAL
#undef TEXT
} Options;

#define ROW(kind, name, standard, low, high, post, help) \
    {kind, #name, offsetof(Options, name), standard, NULL, NULL, low, high, post, help, true},
#define GROUP(help) {FLAG_GROUP, "", 0, "", NULL, NULL, 0, 0, "", help, false},
#define SIZE(name, standard, low, high, post, help) ROW(FLAG_SIZE, name, #standard, low, high, post, help)
#define REAL(name, standard, low, high, post, help) ROW(FLAG_REAL, name, #standard, low, high, post, help)
#define TEXT(name, standard, post, help) ROW(FLAG_TEXT, name, standard, 0, 0, post, help)
static const Flag flags[] = {
#include "generate.def"
};

static const FlagTable generate_table = {
    .flag = flags, .count = sizeof flags / sizeof flags[0],
    .program = "./generate [--name value]...",
    .about = "Continues a text with the model of a run, token by token from a cache of keys and values.\n"
             "Text goes to stdout as it comes; speed of reading the prompt (prefill) and of writing (decode) to stderr.\n"
             "The same run, prompt, seed and flags give the same text on every machine. Ctrl-C ends the text early.",
    .examples = "  ./generate                                          the newest run goes on from where its data starts\n"
                "  ./generate --run runs/NAME --prompt \"ROMEO:\"        your own beginning\n"
                "  ./generate --temperature 0 --tokens 50              no chance: the most probable token each time\n"
                "  ./generate --top-k 40 --top-p 0.9 --seed 7          leave the tail of the distribution out\n"
                "  ./generate --prompt \"the cat\" --picture maps.png    which token looks at which\n",
};

// ---- the run -------------------------------------------------------------------------------------
typedef struct {
    char *dir;
    Config config;
    Model *model;
    Tokenizer *tokenizer;
} Source;

// The directory in runs/ whose weights were written last; "" if there is none.
static char *newest_run(void) {
    char *newest = xprintf("%s", "");
    struct timespec latest = {0};
    DIR *all = opendir("runs");
    for (struct dirent *e; all && (e = readdir(all));) {
        char *dir = xprintf("runs/%s", e->d_name), *weights = xprintf("%s/model.safetensors", dir);
        struct stat s;
        bool found = e->d_name[0] != '.' && stat(weights, &s) == 0;
        bool later = found && (s.st_mtim.tv_sec > latest.tv_sec ||
                               (s.st_mtim.tv_sec == latest.tv_sec && s.st_mtim.tv_nsec > latest.tv_nsec));
        if (later) latest = s.st_mtim;
        free(later ? newest : dir);
        if (later) newest = dir;
        free(weights);
    }
    if (all) closedir(all);
    return newest;
}

static char *find_run(const Options *o) {
    char *dir = *o->run ? xprintf("%s", o->run) : newest_run(), *config = xprintf("%s/config.json", dir);
    struct stat s;
    if (!*dir) usage_error("there is no run in runs/ yet; ./train makes one, --run names one elsewhere");
    if (stat(dir, &s) != 0) fail("--run %s: %s; ./train makes a run, and tells the name of its directory", dir, strerror(errno));
    if (!S_ISDIR(s.st_mode)) fail("--run %s is a file; the directory of a run was expected", dir);
    if (!file_exists(config)) fail("--run %s has no config.json: it is no run, or its first checkpoint is not yet written", dir);
    if (!*o->run) fprintf(stderr, "run      %s\n", dir);
    free(config);
    return dir;
}

// A run of ours has our tokenizer.json. The file of that name in other checkpoints is another format, so
// their tokens stay numbers, unless llm.c's tokenizer.bin is there to give them a text.
static Tokenizer *open_tokenizer(const Source *s, bool ours) {
    const char *const names[] = {"tokenizer.json", "tokenizer.bin"};
    for (size_t i = !ours; i < 2; i++) {
        char *path = xprintf("%s/%s", s->dir, names[i]);
        Tokenizer *t = file_exists(path) ? tokenizer_load(path) : NULL;
        if (t && tokenizer_vocab(t) > s->config.vocab)
            fail("%s has %zu tokens, but the model of %s only %zu; they do not belong together", path, tokenizer_vocab(t), s->dir,
                 s->config.vocab);
        free(path);
        if (t) return t;
    }
    fprintf(stderr, "note     %s has no tokenizer of ours: tokens are numbers, below and in --prompt\n", s->dir);
    return tokenizer_numbers(s->config.vocab);
}

static Source open_source(const Options *o) {
    Source s = {.dir = find_run(o)};
    flags_defaults(&config_table, &s.config);
    bool ours = hf_flags(&s.config, s.dir);
    if (!ours) hf_config(&s.config, s.dir);
    config_resolve(&s.config);
    s.tokenizer = open_tokenizer(&s, ours);
    s.model = model_new(&s.config, false);
    hf_load(s.model, s.dir);
    return s;
}

// ---- the prompt ----------------------------------------------------------------------------------
// What the data of the run starts with. A text file need not be there any more: it starts with nothing.
static char *default_prompt(const Config *c) {
    if (file_exists(c->data) || strpbrk(c->data, "./")) return xprintf("%s", "");
    Data *d = data_open(c);
    char *prompt = xprintf("%s", d->default_prompt);
    data_close(d);
    return prompt;
}

static char *prompt_from_file(const char *path) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    if (strlen(text) != bytes) fail("--prompt-file %s: byte %zu is NUL; a text was expected", path, strlen(text));
    return text;
}

static bool is_given(const bool *given, const char *name) { return given[flags_find(&generate_table, name)]; }

static size_t read_prompt(const Options *o, const bool *given, const Source *s, int **tokens) {
    bool text = is_given(given, "prompt"), file = is_given(given, "prompt_file"), numbers = is_given(given, "prompt_tokens");
    if (text + file + numbers > 1) usage_error("--prompt, --prompt-file and --prompt-tokens are three ways to say one thing; give one");
    if (numbers) {
        Tokenizer *t = tokenizer_numbers(s->config.vocab);
        size_t n = tokenizer_encode(t, o->prompt_tokens, strlen(o->prompt_tokens), tokens);
        if (!n) usage_error("--prompt-tokens is empty; numbers from 0 to %zu were expected", s->config.vocab - 1);
        tokenizer_free(t);
        return n;
    }
    char *prompt = text ? xprintf("%s", o->prompt) : file ? prompt_from_file(o->prompt_file) : default_prompt(&s->config);
    size_t n = tokenizer_prompt(s->tokenizer, prompt, tokens);
    free(prompt);
    return n;
}

// ---- the text ------------------------------------------------------------------------------------
static volatile sig_atomic_t stop_signal;
static void on_signal(int number) { stop_signal = number; }

// The first signal ends the text, and the report follows; a second one ends the process at once.
static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

// A terminal obeys control characters, and an untrained model may write any: it gets U+FFFD instead.
static void print_text(const char *text, size_t bytes, bool terminal) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool obeyed = (c < 32 && c != '\n' && c != '\t') || c == 127;
        fputs(terminal && obeyed ? "\xEF\xBF\xBD" : "", stdout);
        if (!terminal || !obeyed) putchar(c);
    }
    if (fflush(stdout) != 0) fail("cannot write the text: %s", strerror(errno));
}

static void print_prompt(Sampler *s, bool terminal) {
    const char *text;
    size_t bytes = sampler_echo(s, &text);
    bool bold = terminal && !getenv("NO_COLOR");
    if (bold) fputs("\033[1m", stdout);
    print_text(text, bytes, terminal);
    if (bold) fputs("\033[0m", stdout);
}

typedef struct { double prefill, first, decode; size_t read, refilled; } Clock;  // seconds; tokens of the prefill

static Sampler *stream(const Source *s, const int *prompt, size_t n, SampleOptions o, Clock *clock) {
    const char *text;
    bool terminal = isatty(STDOUT_FILENO);
    double start = seconds_now();
    Sampler *sampler = sampler_new(s->model, s->tokenizer, prompt, n, o);
    clock->prefill = seconds_now() - start, clock->read = sampler->read;
    print_prompt(sampler, terminal);
    for (size_t i = 0; i < o.tokens && !stop_signal; i++) {
        size_t bytes = sampler_next(sampler, &text);
        print_text(text, bytes, terminal);
        if (i == 0) clock->first = seconds_now() - start;
    }
    clock->decode = seconds_now() - start - clock->first;
    print_text("\n", 1, terminal);
    return sampler;
}

// ---- the report ----------------------------------------------------------------------------------
static void report(const Source *s, const Sampler *t, const Clock *clock) {
    size_t written = t->count - t->prompt, per_token = model_size(&s->config).cache_bytes_per_token, decoded = written ? written - 1 : 0;
    fprintf(stderr, "\nprefill  %zu tokens, %.0f tok/s; %.1f ms to the first token\n", clock->read,
            (double)clock->read / clock->prefill, 1e3 * clock->first);
    if (decoded)
        fprintf(stderr, "decode   %zu tokens, %.0f tok/s; %.2f ms per token\n", decoded, (double)decoded / clock->decode,
                1e3 * clock->decode / (double)decoded);
    fprintf(stderr, "cache    %zu bytes per token, %.2f MiB for %zu tokens\n", per_token,
            (double)(per_token * cache_length(t->cache)) / (1 << 20), cache_length(t->cache));
    if (t->refills)
        fprintf(stderr, "note     the model has %zu learned positions; %zu times they were used up, and the last %zu tokens were read again\n",
                t->window, t->refills, t->window > 1 ? t->window / 2 : 1);
    else if (t->count > s->config.context)
        fprintf(stderr, "note     from token %zu on, the text is longer than the %zu tokens that the model was trained on\n",
                s->config.context, s->config.context);
}

// ---- the picture ---------------------------------------------------------------------------------
enum { PICTURE_TOKENS = 64 };    // more could not be read

// A token's text for the margin of a map: no blanks around it, what cannot be seen as an escape.
static char *tick_of(const Tokenizer *t, int token) {
    const char *bytes;
    size_t n = tokenizer_decode(t, -1, token, &bytes), used = 0, spaces = 0;
    bool valid = utf8_valid_length(bytes, n) == n;
    for (size_t i = 0; i < n; i++) spaces += bytes[i] == ' ';
    char *label = xmalloc(4 * n + 2);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '\n') used += (size_t)sprintf(label + used, "\\n");
        else if (c < 32 || c == 127 || (c > 127 && !valid)) used += (size_t)sprintf(label + used, "\\x%02x", c);
        else if (c != ' ' || spaces == n) label[used++] = c == ' ' ? '_' : (char)c;
    }
    return label;
}

static void draw(const Source *s, const Sampler *t, const char *path) {
    const Config *c = &s->config;
    size_t n = t->count < PICTURE_TOKENS ? t->count : PICTURE_TOKENS, maps = c->layers * c->heads;
    if (n > t->window) n = t->window;
    real *probability = xmalloc(size_mul(maps, n * n * sizeof(real)));
    double *value = xmalloc(size_mul(maps, n * n * sizeof(double)));
    const double **map = xmalloc(maps * sizeof *map);
    char **label = xmalloc(maps * sizeof *label), **tick = xmalloc(n * sizeof *tick);
    model_record_attention(s->model, probability);
    model_infer(s->model, NULL, t->token, n, false, t->logits);
    model_record_attention(s->model, NULL);
    for (size_t i = 0; i < maps * n * n; i++) value[i] = (double)probability[i];
    for (size_t i = 0; i < maps; i++) map[i] = value + i * n * n, label[i] = xprintf("layer %zu, head %zu", i / c->heads, i % c->heads);
    for (size_t i = 0; i < n; i++) tick[i] = tick_of(s->tokenizer, t->token[i]);
    char *title = xprintf("Attention in %s", s->dir), *flag_text = flags_summary(&config_table, c, true);
    plot_map_grid(path, &(MapGrid){title, flag_text, map, (const char *const *)label, maps, c->heads, n, (const char *const *)tick});
    fprintf(stderr, "picture  %s: %zu maps of the first %zu tokens; a row shows where its token looks\n", path, maps, n);
    for (size_t i = 0; i < maps; i++) free(label[i]);
    for (size_t i = 0; i < n; i++) free(tick[i]);
    free(probability), free(value), free(map), free(label), free(tick), free(title), free(flag_text);
}

int main(int argc, char **argv) {
    Options o;
    bool given[sizeof flags / sizeof flags[0]];
    flags_parse(&generate_table, &o, argc, argv, given);
    if (o.threads) omp_set_num_threads((int)o.threads);
    Source s = open_source(&o);
    int *prompt;
    size_t n = read_prompt(&o, given, &s, &prompt);
    Clock clock = {0};
    catch_signals();
    Sampler *sampler = stream(&s, prompt, n, (SampleOptions){o.temperature, o.top_k, o.top_p, o.seed, o.tokens}, &clock);
    report(&s, sampler, &clock);
    if (*o.picture) draw(&s, sampler, o.picture);
    sampler_free(sampler);
    model_free(s.model);
    tokenizer_free(s.tokenizer);
    free(prompt), free(s.dir);
    return 0;
}

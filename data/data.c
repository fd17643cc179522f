// data.c: opens what --data names, and what all sources share. The sources themselves are one file each.
#include "data/source.h"
#include <sys/stat.h>

#define SOURCE_ROW(name) {#name, name##_open},
static const struct { const char *name; void (*open)(Data *d, const Config *config); } sources[] = {
    DATA_SOURCES(SOURCE_ROW)};
#define BAR_WORD(name) "|" #name
static const char *const source_names = &DATA_SOURCES(BAR_WORD)[1];  // "|a|b" without its first bar
enum { SOURCES = sizeof sources / sizeof *sources };

// ---- checking a configuration ------------------------------------------------------------------
size_t vocab_or(const Config *c, size_t standard, size_t low, size_t high) {
    size_t vocab = c->vocab ? c->vocab : standard;
    if (vocab < low || vocab > high)
        usage_error("--vocab %zu does not fit --data %s, which takes %zu to %zu tokens", vocab, c->data, low, high);
    return vocab;
}

void set_vocab(Data *d, const Config *c, size_t vocab) {
    if (*c->load && c->vocab < vocab)
        usage_error("the model in %s knows %zu tokens, but --data %s has %zu; give data made with the tokenizer of "
                    "that model", c->load, c->vocab, c->data, vocab);
    if (c->vocab && c->vocab < vocab)
        usage_error("--vocab %zu is too small for --data %s, which has %zu tokens; leave --vocab out", c->vocab,
                    c->data, vocab);
    d->vocab = c->vocab ? c->vocab : vocab;
}

void context_at_least(const Config *c, size_t need, const char *why) {
    if (c->context < need)
        usage_error("--context %zu is too short for --data %s: %s need --context %zu or more",
                    c->context, c->data, why, need);
}

// ---- drawing -----------------------------------------------------------------------------------
void shuffle(Rng *r, int *x, size_t count) {
    for (size_t i = count; i > 1; i--) {
        size_t j = rng_below(r, (uint32_t)i);
        int swapped = x[i - 1];
        x[i - 1] = x[j], x[j] = swapped;
    }
}

// True when the value was not yet in the table of `size` places (a power of two); 0 marks an empty place.
static bool insert_new(int *table, size_t size, int value) {
    size_t i = (uint32_t)value * 0x9E3779B9u & (size - 1);
    for (; table[i]; i = (i + 1) & (size - 1))
        if (table[i] == value + 1) return false;
    table[i] = value + 1;
    return true;
}

// Floyd's sampling (Bentley and Floyd, "A sample of brilliance", CACM 1987): every subset is equally likely.
void draw_distinct(Rng *r, int *out, size_t count, size_t n) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    int *table = xmalloc(size_mul(size, sizeof *table));
    for (size_t i = 0; i < count; i++) {
        size_t last = n - count + i;
        int value = (int)rng_below(r, (uint32_t)last + 1);
        if (!insert_new(table, size, value)) insert_new(table, size, value = (int)last);
        out[i] = value;
    }
    free(table);
    shuffle(r, out, count);
}

// ---- opening -----------------------------------------------------------------------------------
void truth_certain(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    (void)d, (void)tokens, (void)targets;
    for (size_t t = 0; t < T; t++) log_probability[t] = 0;
}

// The start of validation row 0 up to its first scored token, so that a sample begins where the task asks.
static char *prompt_from_row(const Data *d, size_t T) {
    int *tokens = xmalloc(size_mul(T, sizeof *tokens)), *targets = xmalloc(size_mul(T, sizeof *targets));
    d->row(d, SPLIT_VALIDATION, 0, T, tokens, targets, NULL);
    char *prompt = xprintf("%s", "");
    size_t length = 0;
    for (size_t t = 0; t < T; t++) {
        const char *bytes;
        size_t n = tokenizer_decode(d->tokenizer, t ? tokens[t - 1] : -1, tokens[t], &bytes);
        prompt = xrealloc(prompt, length + n + 1);
        memcpy(prompt + length, bytes, n);
        prompt[length += n] = '\0';
        if (targets[t] >= 0) break;
    }
    free(tokens), free(targets);
    return prompt;
}

// A word that could be a slip of the fingers gets a suggestion; a file's name is far from any source.
static _Noreturn void fail_unknown(const char *data) {
    char nearest[64];
    if (!flags_nearest(source_names, data, nearest))
        fail("--data %s: neither a file nor one of the sources %s", data, source_names);
    fail("--data %s: neither a file nor one of the sources %s; the nearest is %s", data, source_names, nearest);
}

static void open_source(Data *d, const Config *config) {
    for (size_t i = 0; i < SOURCES; i++)
        if (strcmp(config->data, sources[i].name) == 0) {
            sources[i].open(d, config);
            return;
        }
    struct stat s;
    if (stat(config->data, &s) != 0) fail_unknown(config->data);
    if (S_ISDIR(s.st_mode))
        fail("--data %s is a directory; a text or .bin file was expected, or one of %s", config->data, source_names);
    if (!S_ISREG(s.st_mode))
        fail("--data %s is not a regular file, which has an end and can be read again", config->data);
    file_open(d, config);
}

Data *data_open(const Config *config) {
    Data *d = xmalloc(sizeof *d);
    d->name = xprintf("%s", config->data);
    d->floor = NAN;
    d->hash = hash_text(HASH_START, "receipts data 1");
    d->validation_rows = (config->eval_tokens + config->context - 1) / config->context;
    open_source(d, config);
    if (!d->tokenizer) d->tokenizer = tokenizer_numbers(d->vocab);
    if (!d->default_prompt) d->default_prompt = prompt_from_row(d, config->context);
    uint64_t about[] = {d->vocab, config->seed, config->data_seed};
    d->hash = hash_bytes(d->hash, about, sizeof about);
    return d;
}

void data_close(Data *d) {
    if (!d) return;
    d->close(d);
    tokenizer_free((Tokenizer *)d->tokenizer);
    free((char *)d->name), free((char *)d->floor_about), free((char *)d->default_prompt);
    free(d);
}

// data.c: opens what --data names. The sources are one file each.
#include "data/source.h"
#include "data/files.h"
#include <errno.h>
#include <sys/stat.h>

// Every source is one function, NAME_open: recall_open in recall.c, and so on (iid in markov.c). file.c opens the rest.
#define OPEN(name) SourceOpen name##_open;
DATA_SOURCES(OPEN)
SourceOpen file_open;

#define ROW(name) {#name, name##_open},
static const struct { const char *name; SourceOpen *open; } sources[] = {DATA_SOURCES(ROW)};
#define BAR_WORD(name) "|" #name
static const char *const source_names = &DATA_SOURCES(BAR_WORD)[1];  // "|a|b" without its first bar
enum { SOURCES = sizeof sources / sizeof *sources };

// The start of validation row 0 up to its first scored token, so that a sample begins where the task asks. Where all
// tokens are scored and a row begins as a longer one does, T = 1 is enough.
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

static SourceOpen *source_called(const char *data) {
    for (size_t i = 0; i < SOURCES; i++)
        if (strcmp(data, sources[i].name) == 0) return sources[i].open;
    return NULL;
}

bool data_is_files(const char *data) { return !source_called(data); }

static void open_source(Data *d, const Config *config) {
    SourceOpen *open = source_called(config->data);
    struct stat s;
    bool missing = !open && !files_is_glob(config->data) && stat(config->data, &s) != 0;
    if (missing && errno == ENOENT && lstat(config->data, &s) == 0)
        fail("--data %s: a symbolic link to a file that does not exist", config->data);
    if (missing && errno == ENOENT) fail_unknown(config->data);
    (open ? open : file_open)(d, config);
}

Data *data_open(const Config *config) {
    Data *d = xmalloc(sizeof *d);
    d->name = xprintf("%s", config->data);
    d->floor = NAN;
    d->hash = hash_text(HASH_START, "receipts data 1");
    d->validation_rows = (config->eval_tokens + config->context - 1) / config->context;
    open_source(d, config);
    if (!d->tokenizer) d->tokenizer = tokenizer_numbers(d->vocab);
    if (!d->default_prompt) d->default_prompt = prompt_from_row(d, d->prefixes ? 1 : config->context);
    uint64_t about[] = {d->vocab, config->seed, config->data_seed};
    d->hash = hash_bytes(d->hash, about, sizeof about);
    return d;
}

void data_close(Data *d) {
    if (!d) return;
    d->close(d);
    tokenizer_free((Tokenizer *)d->tokenizer);
    free((char *)d->name), free((char *)d->floor_about), free((char *)d->default_prompt), free((char *)d->splits);
    free(d);
}

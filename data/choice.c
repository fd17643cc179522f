// choice.c: a tokenizer that is read, or one that is made from the text.
#include "data/choice.h"
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---- texts ---------------------------------------------------------------------------------------
static bool is_auto(const Config *c) { return strcmp(c->tokenizer, "auto") == 0; }
bool choice_is_made(const Config *c) {
    const char *kind = c->tokenizer;
    return strcmp(kind, "byte") == 0 || strcmp(kind, "char") == 0 || strncmp(kind, "bpe:", 4) == 0;
}

// Of a Hugging Face's tokenizer, the files beside it say which token ends a text.
static char *directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return !slash ? xprintf(".") : slash == path ? xprintf("/") : xprintf("%.*s", (int)(slash - path), path);
}

static bool is_called(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return strcmp(slash ? slash + 1 : path, name) == 0;
}

static Tokenizer *tokenizer_at(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0)
        usage_error("--tokenizer %s: auto, byte, char or bpe:N was expected, for example bpe:1024, or a tokenizer.json "
                    "or a directory that has one", path);
    bool file = !S_ISDIR(s.st_mode);
    if (file && !is_called(path, "tokenizer.json")) return tokenizer_load(path);
    Tokenizer *t = tokenizer_open_dir(file ? directory_of(path) : path);
    if (!t) fail("--tokenizer %s: the directory has no tokenizer", path);
    return t;
}

// Somebody else's model knows its tokens by their numbers: characters numbered 0, 1, ... would be other tokens to it.
static Tokenizer *tokenizer_of_model(const Config *c) {
    Tokenizer *t = tokenizer_open_dir(c->load);
    if (!t)
        fail("%s: the model has no tokenizer beside it, so what its %zu tokens mean is not known; put its "
             "tokenizer.json there, or say --tokenizer FILE (or byte, char, bpe:N, to number anew)", c->load, c->vocab);
    if (strcmp(tokenizer_kind(t), "table") == 0)
        fail("%s: the tokenizer there only turns tokens into text; put its tokenizer.json there, or say --tokenizer "
             "FILE", c->load);
    return t;
}

static Tokenizer *make_char(const Config *config, const Texts *x) {
    if (!x->has_bad) return tokenizer_char(x->text, x->bytes);
    const char *path = x->path[x->bad_file];
    if (!is_auto(config))
        fail("%s: byte %zu (0x%02x) is not UTF-8, so it has no characters; use --tokenizer byte or bpe:N", path,
             x->bad_at, x->bad);
    fprintf(stderr, "note     %s: byte %zu (0x%02x) is not UTF-8, so tokens are bytes and not characters; convert the "
            "text (iconv -t UTF-8), or say so (--tokenizer byte)\n", path, x->bad_at, x->bad);
    return tokenizer_byte();
}

static Tokenizer *make_tokenizer(const Config *config, const Texts *x, size_t training) {
    const char *kind = config->tokenizer;
    if (strcmp(kind, "byte") == 0) return tokenizer_byte();
    if (is_auto(config) || strcmp(kind, "char") == 0) return make_char(config, x);
    size_t vocab = 0;
    int end = 0;
    if (sscanf(kind, "bpe:%zu%n", &vocab, &end) != 1 || kind[end] || kind[4] == '-')
        usage_error("--tokenizer %s: auto, byte, char or bpe:N was expected, for example bpe:1024", kind);
    return tokenizer_bpe(x->text, training, vocab);
}

Choice choice_for_text(const Config *c, const Texts *texts, size_t training) {
    if (is_auto(c) && *c->load) return (Choice){tokenizer_of_model(c), true};
    if (is_auto(c) || choice_is_made(c)) return (Choice){make_tokenizer(c, texts, training), false};
    return (Choice){tokenizer_at(c->tokenizer), true};
}

// ---- shards --------------------------------------------------------------------------------------
// What cannot be read beside a shard costs the text of the tokens, not the tokens: the reader's refusal becomes a note.
static struct { jmp_buf back; void (*hook)(int status, const char *message); Tokenizer *t; } attempt;
static void note_refusal(int status, const char *message) {
    (void)status;
    fprintf(stderr, "note     %s; tokens are shown as numbers\n", message);
    longjmp(attempt.back, 1);
}

static Tokenizer *tokenizer_if_readable(const char *dir) {
    attempt.hook = fail_hook, attempt.t = NULL;
    fail_hook = note_refusal;
    if (setjmp(attempt.back) == 0) attempt.t = tokenizer_open_dir(dir);
    fail_hook = attempt.hook;
    return attempt.t;
}

Tokenizer *choice_for_shard(const Config *config, const char *path) {
    if (!is_auto(config)) return tokenizer_at(config->tokenizer);
    char *dir = directory_of(path);
    Tokenizer *t = tokenizer_if_readable(dir);
    free(dir);
    return t || !*config->load ? t : tokenizer_if_readable(config->load);
}

// tokenizer_inside.h: what tokenizer.c and tokenizer_file.c share, and nobody else includes.
#ifndef TOKENIZER_INSIDE_H
#define TOKENIZER_INSIDE_H
#include "data/bpe.h"
#include "data/bytelevel.h"
#include "data/strings.h"
#include "data/tokenizer.h"
#include <limits.h>
#include <string.h>

enum { TOKENIZER_FILES = 2 };  // tokenizer.json and tokenizer_config.json

struct Tokenizer {
    const char *kind;
    size_t vocab;
    int start, begin;          // -1: none; begin: what an empty prompt becomes
    int *end; size_t ends;     // the tokens that end a document
    bool show_special;
    Strings token;             // the bytes of every token (numbers: empty)
    Bpe bpe;
    ByteLevel *others;         // hf, and the files as they were read
    struct { char *text; size_t bytes; } file[TOKENIZER_FILES];
    size_t longest;            // words: bytes of the longest
    char *spoken;              // what tokenizer_decode returned last
};

static inline bool is_kind(const Tokenizer *t, const char *kind) { return strcmp(t->kind, kind) == 0; }

static inline Tokenizer *tokenizer_make(const char *kind, size_t vocab) {
    if (vocab == 0 || vocab > INT_MAX)
        fail("a tokenizer of %zu tokens; between 1 and %d were expected", vocab, INT_MAX);
    Tokenizer *t = xmalloc(sizeof *t);
    t->kind = kind, t->vocab = vocab, t->start = t->begin = -1;
    return t;
}

// Words are looked up by their length, from the longest.
static inline void tokenizer_note_longest(Tokenizer *t) {
    for (size_t i = 0, n; i < t->vocab; i++) {
        strings_get(&t->token, i, &n);
        if (n > t->longest) t->longest = n;
    }
}
#endif

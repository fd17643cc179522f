// tokens.c: documents become tokens, once, and are kept in as few bytes as their vocabulary needs.
#include "data/tokens.h"
#include <stdlib.h>
#include <string.h>

// ---- messages -----------------------------------------------------------------------------------
// A tokenizer's message says which byte or word it does not know; here follows of which file.
static struct { void (*hook)(int status, const char *message); const Texts *texts; size_t document; bool loaded; } busy;
static void name_the_file(int status, const char *message) {
    fail_hook = busy.hook;
    if (busy.document == SIZE_MAX)
        fail("two newlines stand between documents, which the tokenizer refuses: %s", message);
    const Document *d = &busy.texts->document[busy.document];
    size_t number = 1;
    for (size_t i = busy.document; i > 0 && busy.texts->document[i - 1].file == d->file; i--) number++;
    bool first = number == 1, last = busy.document + 1 == busy.texts->documents;
    bool alone = first && (last || d[1].file != d->file);
    (status == 2 ? usage_error : fail)("%s%s: %s%s", busy.texts->path[d->file],
                                       alone ? "" : xprintf(", document %zu", number), message,
                                       busy.loaded ? "; --tokenizer char, byte or bpe:N would number anew" : "");
}

// ---- tokens in memory ----------------------------------------------------------------------------
static Tokens tokens_for(const Tokenizer *t) {
    size_t vocab = tokenizer_vocab(t);
    return (Tokens){.width = vocab <= 1 << 8 ? 1 : vocab <= 1 << 16 ? 2 : 4};
}

static void put(Tokens *out, const int *tokens, size_t count) {
    size_t needed = size_add(out->count, count);
    if (needed > out->room) {
        out->room = needed > 2 * out->room ? needed : 2 * out->room;
        out->bytes = xrealloc(out->bytes, size_mul(out->room, out->width));
    }
    unsigned char *to = out->bytes + out->count * out->width;
    for (size_t i = 0; i < count; i++)
        for (size_t b = 0; b < out->width; b++) *to++ = (unsigned char)((uint32_t)tokens[i] >> 8 * b);
    out->count = needed;
}

int tokens_at(const Tokens *s, size_t i) {
    const unsigned char *p = s->bytes + i * s->width;
    if (s->width == 1) return p[0];
    uint32_t low = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    return (int)(s->width == 2 ? low : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

// ---- encoding ------------------------------------------------------------------------------------
typedef struct { const Texts *texts; const Tokenizer *t; int end, *separator; size_t separators, piece; } Encoder;

// Characters and bytes are encoded piece by piece, to take less memory; what a loaded tokenizer refuses is counted in
// bytes from the start of the document, so it gets it whole.
static Encoder encoder_new(const Texts *x, const Tokenizer *t, bool loaded) {
    const char *kind = tokenizer_kind(t);
    bool pieces = !loaded && (strcmp(kind, "byte") == 0 || strcmp(kind, "char") == 0);
    Encoder e = {x, t, tokenizer_end(t), NULL, 0, pieces ? 1 << 20 : SIZE_MAX};
    if (e.end < 0 && x->documents > 1) e.separators = tokenizer_encode(t, SEPARATOR, strlen(SEPARATOR), &e.separator);
    return e;
}

static void encode_bytes(const Encoder *e, Tokens *out, size_t from, size_t to) {
    const char *text = e->texts->text;
    for (size_t next; from < to; from = next) {
        next = to - from <= e->piece ? to : utf8_next(text, from + e->piece, to);
        int *tokens;
        size_t count = tokenizer_encode(e->t, text + from, next - from, &tokens);
        put(out, tokens, count);
        free(tokens);
    }
}

static Tokens encode_documents(const Encoder *e, size_t from, size_t to) {
    Tokens out = tokens_for(e->t);
    for (size_t i = 0; i < e->texts->documents; i++) {
        size_t start = e->texts->document[i].start, end = smaller(texts_end(e->texts, i), to);
        if (start >= to || (start < from && end <= from)) continue;
        busy.document = i;
        if (start >= from && e->end >= 0) put(&out, &e->end, 1);
        else if (out.count) put(&out, e->separator, e->separators);
        encode_bytes(e, &out, start < from ? from : start, end);
    }
    return out;
}

Tokens tokens_of(const Texts *texts, const Tokenizer *t, size_t from, size_t to, bool loaded) {
    busy.hook = fail_hook, busy.texts = texts, busy.document = SIZE_MAX, busy.loaded = loaded;
    fail_hook = name_the_file;
    Encoder e = encoder_new(texts, t, loaded);
    Tokens out = encode_documents(&e, from, to);
    fail_hook = busy.hook;
    free(e.separator);
    return out;
}

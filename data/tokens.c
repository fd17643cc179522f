// tokens.c: documents become tokens, once, and are kept in as few bytes as their vocabulary needs.
#include "data/tokens.h"
#include <stdlib.h>
#include <string.h>

// ---- messages -----------------------------------------------------------------------------------
// A tokenizer's message says which byte or word it does not know; here follows of which file.
static struct {
    void (*hook)(int status, const char *message);
    const Texts *texts; const Tokenizer *t;
    size_t document, from, to; bool loaded;
} busy;

static void name_the_file(int status, const char *message) {
    fail_hook = busy.hook;
    if (busy.document == SIZE_MAX)
        fail("two newlines stand between documents, which the tokenizer refuses: %s", message);
    const Document *d = &busy.texts->document[busy.document];
    if (busy.from > d->start) {         // a split begins within: bytes are counted from where the document does
        int *tokens;
        busy.from = d->start, fail_hook = name_the_file;
        tokenizer_encode(busy.t, busy.texts->text + d->start, busy.to - d->start, &tokens);
        fail_hook = busy.hook;
        free(tokens);
    }
    size_t number = 1;
    for (size_t i = busy.document; i > 0 && busy.texts->document[i - 1].file == d->file; i--) number++;
    bool first = number == 1, last = busy.document + 1 == busy.texts->documents;
    bool alone = first && (last || d[1].file != d->file);
    const char *others = busy.texts->has_bad ? "byte" : "char, byte";       // what is not UTF-8 has no characters
    const char *advice = busy.loaded ? xprintf("; --tokenizer %s or bpe:N would number anew", others) : "";
    (status == 2 ? usage_error : fail)("%s%s: %s%s", busy.texts->path[d->file],
                                       alone ? "" : xprintf(", document %zu", number), message, advice);
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
// opening: a document begins with it, closing: it ends with it; -1: with no token of the kind.
typedef struct {
    const Texts *texts;
    const Tokenizer *t;
    int opening, closing, *separator; size_t separators;
    size_t piece;
} Encoder;

// What a sample from nothing begins with is what documents begin with: the token for the begin of a text where the
// tokenizer puts one (Llama 3), and then the one for its end stands at its end; else the latter, as in llm.c (GPT-2).
static void choose_marks(Encoder *e) {
    int end = tokenizer_end(e->t), *prompt;
    e->opening = e->closing = -1;
    if (end < 0 && e->texts->documents > 1)
        e->separators = tokenizer_encode(e->t, SEPARATOR, strlen(SEPARATOR), &e->separator);
    if (end < 0) return;
    tokenizer_prompt(e->t, "", &prompt);
    e->opening = prompt[0];
    if (!tokenizer_is_end(e->t, e->opening)) e->closing = end;
    free(prompt);
}

// Characters and bytes are encoded piece by piece, to take less memory; what a loaded tokenizer refuses is counted in
// bytes from the start of the document, so it gets it whole.
static Encoder encoder_new(const Texts *x, const Tokenizer *t, bool loaded) {
    const char *kind = tokenizer_kind(t);
    bool pieces = !loaded && (strcmp(kind, "byte") == 0 || strcmp(kind, "char") == 0);
    Encoder e = {.texts = x, .t = t, .piece = pieces ? 1 << 20 : SIZE_MAX};
    choose_marks(&e);
    return e;
}

// The name of a special token in a text becomes that token, as in transformers, where tiktoken refuses it: said once.
static struct { size_t count, at, document; int token; } marks;
static void count_marks(const Tokenizer *t, size_t from) {
    size_t at;
    int token;
    size_t count = tokenizer_spelled_out(t, &at, &token);
    if (count && !marks.count) marks.at = from + at, marks.document = busy.document, marks.token = token;
    marks.count += count;
}

static void note_marks(const Texts *x, Tokenizer *t) {
    const Document *d = &x->document[marks.document];
    const char *text;
    if (!marks.count) return;
    size_t number = 1, n;
    for (size_t i = marks.document; i > 0 && x->document[i - 1].file == d->file; i--) number++;
    tokenizer_show_special(t, true);
    n = tokenizer_decode(t, 0, marks.token, &text);
    print_line(stderr, "note     %s, document %zu, byte %zu: \"%.*s\" is a special token of this tokenizer and becomes "
               "it, as %zu in these texts do; if they are meant as text, take them out\n", x->path[d->file], number,
               marks.at - d->start, (int)n, text, marks.count);
    tokenizer_show_special(t, false);
}

static void encode_bytes(const Encoder *e, Tokens *out, size_t from, size_t to) {
    const char *text = e->texts->text;
    for (size_t next; from < to; from = next) {
        next = to - from <= e->piece ? to : utf8_next(text, from + e->piece, to);
        int *tokens;
        size_t count = tokenizer_encode(e->t, text + from, next - from, &tokens);
        put(out, tokens, count);
        count_marks(e->t, from);
        free(tokens);
    }
}

static void begin_document(const Encoder *e, Tokens *out) {
    if (e->opening >= 0) put(out, &e->opening, 1);
    else if (out->count) put(out, e->separator, e->separators);
}

static Tokens encode_documents(const Encoder *e, size_t from, size_t to) {
    Tokens out = tokens_for(e->t);
    for (size_t i = 0; i < e->texts->documents; i++) {
        size_t start = e->texts->document[i].start, whole = texts_end(e->texts, i), end = smaller(whole, to);
        if (start >= to || (start < from && end <= from)) continue;
        busy.document = i;
        if (start >= from) begin_document(e, &out);
        busy.from = start < from ? from : start, busy.to = end;
        encode_bytes(e, &out, busy.from, end);
        if (end == whole && e->closing >= 0) put(&out, &e->closing, 1);
    }
    return out;
}

Tokens tokens_of(const Texts *texts, const Tokenizer *t, size_t from, size_t to, bool loaded) {
    busy.hook = fail_hook, busy.texts = texts, busy.t = t, busy.document = SIZE_MAX, busy.loaded = loaded;
    fail_hook = name_the_file;
    Encoder e = encoder_new(texts, t, loaded);
    marks.count = 0;
    Tokens out = encode_documents(&e, from, to);
    fail_hook = busy.hook;
    note_marks(texts, (Tokenizer *)t);
    free(e.separator);
    return out;
}

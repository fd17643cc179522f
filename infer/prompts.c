// prompts.c: see prompts.h.
#include "infer/prompts.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <string.h>

// ---- where they come from ------------------------------------------------------------------------
Prompts prompts_random(uint64_t seed, size_t vocab) { return (Prompts){.seed = seed, .vocab = vocab, .start = -1}; }

Prompts prompts_of_data(uint64_t seed, const Data *d) {
    return (Prompts){.seed = seed, .data = d, .count = d->length, .start = -1};
}

// A tokenizer's message says what it does not know; here follows of which file.
static struct { void (*hook)(int status, const char *message); const char *path; } reading;
static void name_the_file(int status, const char *message) {
    fail_hook = reading.hook;
    (status == 2 ? usage_error : fail)("--prompts %s: %s", reading.path, message);
}

Prompts prompts_of_file(uint64_t seed, const char *path, const Tokenizer *words, size_t vocab) {
    Prompts p = {.seed = seed, .start = tokenizer_start(words)};
    size_t bytes, at;
    int mark;
    reading.hook = fail_hook, reading.path = path, fail_hook = name_the_file;
    char *text = read_whole_file(path, &bytes);
    p.count = tokenizer_encode(words, text, bytes, &p.text);
    for (size_t i = 0; i < p.count; i++)
        if ((size_t)p.text[i] >= vocab)
            fail("its token %zu is %d, and the model knows 0 to %zu; they do not belong together", i, p.text[i],
                 vocab - 1);
    fail_hook = reading.hook;
    size_t marks = tokenizer_spelled_out(words, &at, &mark);
    if (marks)
        print_line(stderr, "note     --prompts %s spells out %zu special token%s, the first at byte %zu, which become "
                   "what they name\n", path, marks, plural(marks), at);
    free(text);
    return p;
}

// ---- pieces --------------------------------------------------------------------------------------
// The piece of one number of a trace, or a request's own. Its tokens are the same, however many of them are wanted.
typedef struct { bool own; uint64_t number; size_t whole; } Piece;

static void write_random(const Prompts *p, Piece x, size_t from, size_t n, int *token) {
    for (size_t j = 0; j < n; j++) {
        uint32_t out[4];
        philox(out, x.own ? p->seed : x.number, x.own ? RNG_DATA | (x.number + 1) << 32 : RNG_DATA, from + j);
        token[j] = (int)(out[0] % p->vocab);
    }
}

static void write_text(const Prompts *p, Rng r, size_t from, size_t n, int *token) {
    size_t place = (size_t)(rng_uniform(&r) * (double)p->count), at = (place + from) % p->count;
    for (size_t done = 0, some; done < n; done += some, at = 0) {       // behind its end comes its beginning
        some = smaller(n - done, p->count - at);
        if (p->text) memcpy(token + done, p->text + at, some * sizeof *token);
        else p->data->read(p->data, at, some, token + done);
    }
}

// Rows of some languages depend on how long they are, so a piece is always made whole.
static void write_row(const Prompts *p, Rng r, size_t whole, size_t from, size_t n, int *token) {
    uint64_t row = rng_u32(&r);
    row = row << 32 | rng_u32(&r);
    int *all = xmalloc(size_mul(size_mul(2, whole), sizeof *all));
    p->data->row(p->data, SPLIT_VALIDATION, row, whole, all, all + whole, NULL);
    memcpy(token, all + from, n * sizeof *token);
    free(all);
}

static void write_piece(const Prompts *p, Piece x, size_t from, size_t n, int *token) {
    Rng r = rng_stream(p->seed, x.own ? RNG_PROMPT : RNG_PROMPT | (uint64_t)1 << 32, x.number);
    if (!n) return;
    if (!p->data && !p->text) write_random(p, x, from, n, token);
    else if (p->count) write_text(p, r, from, n, token);
    else write_row(p, r, x.whole, from, n, token);
}

// ---- prompts -------------------------------------------------------------------------------------
// Tokens of the numbered pieces of a request; the rest of its prompt is its own.
static size_t numbered(const Trace *t, const Asked *a) {
    return !a->hashes ? 0 : t->hash_size >= a->prompt ? a->prompt
                          : smaller(size_mul(a->hashes, t->hash_size), a->prompt);
}

void prompts_fit(Prompts *p, const Trace *t, const char *what) {
    for (size_t i = 0; i < t->count; i++) {
        const Asked *a = &t->asked[i];
        size_t known = numbered(t, a), said = i % t->turns ? a[-1].prompt + a[-1].answer : known;
        size_t own = a->prompt - said, piece = smaller(known, t->hash_size), most = own > piece ? own : piece;
        if (a->prompt > p->longest) p->longest = a->prompt;
        if ((p->text || p->count) && most > p->count)
            usage_error("--prompts %s: a text of %zu tokens, and request %zu wants %zu of it; give a longer one, or "
                        "shorter prompts (--prompt-length, --tool-tokens, --length-scale)", what, p->count, i, most);
    }
}

void prompts_write(const Prompts *p, const Trace *t, size_t i, int *token) {
    const Asked *a = &t->asked[i];
    size_t known = numbered(t, a), whole = smaller(t->hash_size, p->longest);
    for (size_t k = 0, at = 0, n; at < known; k++, at += n) {
        n = smaller(t->hash_size, known - at);
        write_piece(p, (Piece){false, a->hash[k], whole}, 0, n, token + at);
    }
    write_piece(p, (Piece){true, i, a->prompt}, known, a->prompt - known, token + known);
    if (p->start >= 0) token[0] = p->start;
}

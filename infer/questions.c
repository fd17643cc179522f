// questions.c: see questions.h.
#include "infer/questions.h"
#include <stdlib.h>
#include <string.h>

// A row: what is read before anything is asked, and for each question its key, its answer and where its pair stands.
typedef struct { int *text, *key, *answer; size_t length, count, *pair; bool *wanted, *read; } Asked;

static Asked new_row(const Config *c, const QuestionOptions *o) {
    Asked a = {.length = 2 * (c->pairs + (o->known ? o->questions : 0))};
    a.text = xmalloc(a.length * sizeof *a.text), a.wanted = xmalloc(a.length * sizeof *a.wanted);
    a.key = xmalloc(o->questions * sizeof *a.key), a.answer = xmalloc(o->questions * sizeof *a.answer);
    a.pair = xmalloc(o->questions * sizeof *a.pair), a.read = xmalloc(c->pairs * sizeof *a.read);
    return a;
}
static void free_row(const Asked *a) {
    free(a->text), free(a->wanted), free(a->key), free(a->answer), free(a->pair), free(a->read);
}

static void read_row(Asked *a, const Data *d, const Config *c, const QuestionOptions *o, size_t row) {
    size_t T = c->context, known = 0, P = 2 * c->pairs;
    int *token = xmalloc(2 * T * sizeof *token), *target = token + T;
    bool *is_answer = xmalloc(T * sizeof *is_answer);
    d->row(d, SPLIT_VALIDATION, row, T, token, target, is_answer);
    memset(a->text, 0, a->length * sizeof *a->text), memset(a->wanted, 0, a->length * sizeof *a->wanted);
    memset(a->read, 0, c->pairs * sizeof *a->read);
    memcpy(a->text, token, P * sizeof *token);
    a->count = 0;
    for (size_t t = P; t < T && a->count < o->questions; t++) {
        if (!is_answer[t]) continue;
        size_t pair = 0;
        while (token[2 * pair] != token[t]) pair++;
        bool reads = o->known && known < o->questions;
        if (reads) {
            a->text[P + 2 * known++] = token[t];                               // and the blank, which is 0
            a->wanted[2 * pair] = a->wanted[2 * pair + 1] = a->read[pair] = true;
        }
        if (o->others && (reads || a->read[pair])) continue;
        a->wanted[2 * pair] |= !o->others, a->wanted[2 * pair + 1] |= !o->others;
        a->key[a->count] = token[t], a->answer[a->count] = target[t], a->pair[a->count++] = pair;
    }
    free(token), free(is_answer);
}

static int most_probable(const real *logits, size_t V) {
    size_t best = 0;
    for (size_t i = 1; i < V; i++) best = logits[i] > logits[best] ? i : best;
    return (int)best;
}

static void ask_row(Model *m, const Asked *a, const QuestionOptions *o, Questions *q) {
    size_t V = model_config(m)->vocab;
    KeepOptions keep = o->keep;
    keep.wanted = a->wanted, keep.wanted_count = a->length;
    real *logits = xmalloc(size_mul(a->count, V * sizeof *logits));
    Cache *read = cache_new_kept(m, 1, a->length + 1, &keep, a->length);
    model_infer(m, read, a->text, a->length, false, logits);
    Cache *each = cache_repeat(m, read, a->count);
    model_infer(m, each, a->key, 1, false, logits);
    for (size_t i = 0; i < a->count; i++) {
        int answer = most_probable(logits + i * V, V);
        q->answers++, q->right += answer == a->answer[i];
        q->held += cache_holds(m, read, 2 * a->pair[i] + 1);
        q->digest = hash_bytes(q->digest, &answer, sizeof answer);
    }
    q->digest = hash_bytes(q->digest, logits, a->count * V * sizeof *logits);
    cache_free(read), cache_free(each);
    free(logits);
}

Questions questions_ask(Model *m, const Data *d, QuestionOptions o) {
    const Config *c = model_config(m);
    if (strcmp(d->name, "recall") || c->rebind)
        usage_error("--questions: the answers follow from the rows of --data recall without --rebind, but this run is "
                    "on %s", c->rebind ? "one with it" : d->name);
    if (o.questions > c->pairs)
        usage_error("--questions %zu: a row of this run has %zu", o.questions, c->pairs);
    if (o.others && 2 * o.questions > c->pairs)
        usage_error("--others: %zu questions that are read and as many others are more than the %zu of a row",
                    o.questions, c->pairs);
    Asked a = new_row(c, &o);
    KeepOptions all = keep_everything();
    Questions q = {.tokens = a.length, .pairs = keep_held(&o.keep, a.length, a.length),
                   .bytes = keep_bytes(m, &o.keep, a.length, a.length + 1),
                   .bytes_full = keep_bytes(m, &all, a.length, a.length + 1), .digest = HASH_START};
    for (size_t row = 0; row < o.rows; row++) {
        read_row(&a, d, c, &o, row);
        if (a.count) ask_row(m, &a, &o, &q);
    }
    double held = (double)q.held / (double)q.answers;
    q.ceiling = held + (1 - held) / (double)c->keys;               // values are drawn alone, whatever the others are
    free_row(&a);
    return q;
}

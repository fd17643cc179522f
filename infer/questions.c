// questions.c: see questions.h.
#include "infer/questions.h"
#include <stdlib.h>
#include <string.h>

// A row: what is read before anything is asked, and for each question its key, its answer and where its pair stands.
typedef struct { int *text, *key, *answer; size_t length, *pair; bool *wanted; } Asked;

static Asked new_row(const Config *c, const QuestionOptions *o) {
    Asked a = {.length = 2 * (c->pairs + (o->known ? o->questions : 0))};
    a.text = xmalloc(a.length * sizeof *a.text), a.wanted = xmalloc(a.length * sizeof *a.wanted);
    a.key = xmalloc(o->questions * sizeof *a.key), a.answer = xmalloc(o->questions * sizeof *a.answer);
    a.pair = xmalloc(o->questions * sizeof *a.pair);
    return a;
}
static void free_row(const Asked *a) { free(a->text), free(a->wanted), free(a->key), free(a->answer), free(a->pair); }

static void read_row(Asked *a, const Data *d, const Config *c, const QuestionOptions *o, size_t row) {
    size_t T = c->context, asked = 0;
    int *token = xmalloc(2 * T * sizeof *token), *target = token + T;
    bool *is_answer = xmalloc(T * sizeof *is_answer);
    d->row(d, SPLIT_VALIDATION, row, T, token, target, is_answer);
    memset(a->text, 0, a->length * sizeof *a->text), memset(a->wanted, 0, a->length * sizeof *a->wanted);
    memcpy(a->text, token, 2 * c->pairs * sizeof *token);
    for (size_t t = 2 * c->pairs; t < T && asked < o->questions; t++) {
        if (!is_answer[t]) continue;
        size_t pair = 0;
        while (token[2 * pair] != token[t]) pair++;
        if (o->known) a->text[2 * (c->pairs + asked)] = token[t];              // and the blank, which is 0
        a->key[asked] = token[t], a->answer[asked] = target[t], a->pair[asked++] = pair;
        a->wanted[2 * pair] = a->wanted[2 * pair + 1] = true;
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
    real *logits = xmalloc(size_mul(o->questions, V * sizeof *logits));
    Cache *read = cache_new_kept(m, 1, a->length + 1, &keep, a->length);
    model_infer(m, read, a->text, a->length, false, logits);
    Cache *each = cache_repeat(m, read, o->questions);
    model_infer(m, each, a->key, 1, false, logits);
    for (size_t i = 0; i < o->questions; i++) {
        q->answers++, q->right += most_probable(logits + i * V, V) == a->answer[i];
        q->held += cache_holds(m, read, 2 * a->pair[i] + 1);
    }
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
    Asked a = new_row(c, &o);
    KeepOptions all = keep_everything();
    Questions q = {.tokens = a.length, .pairs = keep_held(&o.keep, a.length, a.length),
                   .bytes = keep_bytes(m, &o.keep, a.length, a.length),
                   .bytes_full = keep_bytes(m, &all, a.length, a.length)};
    for (size_t row = 0; row < o.rows; row++) {
        read_row(&a, d, c, &o, row);
        ask_row(m, &a, &o, &q);
    }
    free_row(&a);
    return q;
}

// source.c: what the sources share: checks of a configuration, and drawing without repetition.
#include "data/source.h"

// ---- checking a configuration ------------------------------------------------------------------
size_t vocab_or(const Config *c, size_t fallback, size_t low, size_t high) {
    size_t vocab = c->vocab ? c->vocab : fallback;
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

// ---- the truth where nothing is left to chance ---------------------------------------------------
void truth_certain(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    (void)d, (void)tokens, (void)targets;
    for (size_t t = 0; t < T; t++) log_probability[t] = 0;
}

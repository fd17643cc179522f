// recall.c: multi-query associative recall (MQAR), after Arora et al. 2023, "Zoology: measuring and
// improving recall in efficient language models", section 4 (arXiv:2312.04927).
//
//     k1 v1 k2 v2 ... kN vN  . .  k7 v7  . .  k2 v2  . .  ...
//
// A row is one document: N = --pairs distinct keys of --keys, each followed by a uniform value of as
// many; then every key is asked for once, in random order, at random places, and answered by its value.
// Elsewhere stands the blank. Only the answers are scored, and they follow from the row, so the floor
// is 0: what is left is what the model's memory cannot hold. A longer context adds blanks, not pairs.
// Tokens: 0 the blank, 1 .. K the keys, K+1 .. 2K the values.
#include "data/source.h"

typedef struct { RowSeeds seeds; size_t pairs, keys; } Recall;
enum { BLANK = 0 };

static void recall_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Recall *s = d->state;
    size_t pairs = s->pairs, places = T + 1 > 4 * pairs ? (T + 1 - 2 * pairs) / 2 : pairs;
    Rng r = row_rng(s->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    int *key = xmalloc(3 * pairs * sizeof *key), *value = key + pairs, *asked = value + pairs;
    draw_distinct(&r, key, pairs, s->keys);
    for (size_t i = 0; i < pairs; i++) {
        value[i] = (int)(1 + s->keys + rng_below(&r, (uint32_t)s->keys));
        row_put(&out, 1 + key[i], PLAIN);
        row_put(&out, value[i], PLAIN);
        asked[i] = (int)i;
    }
    shuffle(&r, asked, pairs);
    // Every choice of `pairs` places out of those left is equally likely.
    for (size_t place = 0, question = 0; place < places; place++) {
        bool ask = rng_below(&r, (uint32_t)(places - place)) < pairs - question;
        int pair = ask ? asked[question++] : 0;
        row_put(&out, ask ? 1 + key[pair] : BLANK, PLAIN);
        row_put(&out, ask ? value[pair] : BLANK, ask ? ANSWER : PLAIN);
    }
    while (!row_full(&out)) row_put(&out, BLANK, PLAIN);
    free(key);
}

static void recall_close(Data *d) { free(d->state); }

void recall_open(Data *d, const Config *config) {
    Recall *s = d->state = xmalloc(sizeof *s);
    *s = (Recall){row_seeds(config), config->pairs, config->keys};
    d->row = recall_row, d->truth = truth_certain, d->close = recall_close;
    if (s->pairs > s->keys)
        usage_error("--pairs %zu needs as many distinct keys, but --keys is %zu; choose --keys %zu or more",
                    s->pairs, s->keys, s->pairs);
    set_vocab(d, config, 1 + 2 * s->keys);
    context_at_least(config, 4 * s->pairs - 1, "the pairs and as many questions");
    d->has_accuracy = true;
    d->floor = 0;
    d->floor_about = xprintf("exact: 0, only answers are scored and each stands in the row (guessing: log %zu = %.3f)",
                             s->keys, num_log((double)s->keys));
    uint64_t about[] = {s->pairs, s->keys};
    d->hash = hash_bytes(hash_text(d->hash, "recall"), about, sizeof about);
}

// recall.c: multi-query associative recall (MQAR), after Arora et al. 2023, "Zoology: measuring and
// improving recall in efficient language models", section 4 (arXiv:2312.04927).
//
//     k1 v1 k2 v2 ... kN vN  . .  k7 v7  . .  k2 v2  . .  ...
//
// A row is one document: N = --pairs distinct keys of --keys, each followed by a uniform value of as
// many; then every key is asked for once, in random order, at random places, and answered by its value.
// Elsewhere stands the blank. Only the answers are scored, and they follow from the row, so the floor
// is 0: what is left is what the model's memory cannot hold. A longer context adds blanks, not pairs.
// What a model reaches that binds nothing is in elimination.c. With --repeat-questions each question is drawn anew:
// keys come again or not at all, and answers use nothing up. With --rebind the pairs of validation rows are bound anew
// while the answers stay: a model that recalls falls below what elimination reaches, one that eliminates loses nothing.
// Tokens: 0 the blank, 1 .. K the keys, K+1 .. 2K the values.
#include "data/elimination.h"
#include "data/source.h"

typedef struct { RowSeeds seeds; size_t pairs, keys; bool repeats, rebinds; } Recall;
enum { BLANK = 0 };

static void recall_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Recall *s = d->state;
    size_t pairs = s->pairs, places = T + 1 > 4 * pairs ? (T + 1 - 2 * pairs) / 2 : pairs;
    Rng r = row_rng(s->seeds, split, row), other = row_rng(s->seeds, split, ~row);
    Row out = {tokens, targets, is_answer, T, 0};
    int *key = xmalloc(4 * pairs * sizeof *key), *value = key + pairs, *asked = value + pairs, *shown = asked + pairs;
    draw_distinct(&r, key, pairs, s->keys);
    for (size_t i = 0; i < pairs; i++) {
        shown[i] = value[i] = (int)(1 + s->keys + rng_below(&r, (uint32_t)s->keys));
        asked[i] = (int)i;
    }
    if (s->rebinds && split == SPLIT_VALIDATION) shuffle(&other, shown, pairs);
    for (size_t i = 0; i < pairs; i++) {
        row_put(&out, 1 + key[i], PLAIN);
        row_put(&out, shown[i], PLAIN);
    }
    for (size_t i = 0; s->repeats && i < pairs; i++) asked[i] = (int)rng_below(&r, (uint32_t)pairs);
    if (!s->repeats) shuffle(&r, asked, pairs);
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

// Where pairs are bound anew: the answer is one of the values that are left, each with equal chance.
static void recall_truth(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    const Recall *s = d->state;
    size_t left = s->pairs, *count = xmalloc((2 * s->keys + 1) * sizeof *count);
    for (size_t i = 0; i < s->pairs; i++) count[tokens[2 * i + 1]]++;
    for (size_t t = 0; t < T; t++) {
        log_probability[t] = 0;
        if (targets[t] >= 0) log_probability[t] = num_log((double)count[targets[t]]--) - num_log((double)left--);
    }
    free(count);
}

static void recall_close(Data *d) { free(d->state); }

// What any model can reach, and what one reaches that binds nothing.
static void recall_floor(Data *d, const Recall *s) {
    Elimination e = elimination_recall(s->pairs, s->keys, s->repeats);
    char *without = elimination_about(e, s->keys);
    d->floor = !s->rebinds ? 0 : s->repeats ? NAN : e.loss;   // a repeated question shows what is bound to what
    d->truth = !s->rebinds ? truth_certain : s->repeats ? NULL : recall_truth;
    const char *exact = s->rebinds ? "exact: pairs are bound anew, and elimination is the best there is"
                                   : "exact: 0, only answers are scored and each stands in the row";
    d->floor_about = xprintf("%s%s", exact, without);
    free(without);
}

void recall_open(Data *d, const Config *config) {
    Recall *s = d->state = xmalloc(sizeof *s);
    *s = (Recall){row_seeds(config), config->pairs, config->keys, config->repeat_questions, config->rebind};
    d->row = recall_row, d->close = recall_close;
    if (s->pairs > s->keys)
        usage_error("--pairs %zu needs as many distinct keys, but --keys is %zu; choose --keys %zu or more",
                    s->pairs, s->keys, s->pairs);
    set_vocab(d, config, 1 + 2 * s->keys);
    context_at_least(config, 4 * s->pairs - 1, "the pairs and as many questions");
    d->has_accuracy = true;
    recall_floor(d, s);
    uint64_t about[] = {s->pairs, s->keys};
    d->hash = hash_bytes(hash_text(d->hash, "recall"), about, sizeof about);
    if (s->repeats) d->hash = hash_text(d->hash, "repeat-questions");
    if (s->rebinds) d->hash = hash_text(d->hash, "rebind");
}

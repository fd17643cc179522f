// induction.c: bigrams that hold in one row only, in a stream of noise. What an induction head learns:
// Olsson et al. 2022, "In-context learning and induction heads"; with trigger tokens as in Bietti et
// al. 2023, "Birth of a transformer: a memory viewpoint" (arXiv:2306.00802).
//
// Of V tokens (--vocab) the first quarter are triggers. In every row each trigger has a follower, uniform
// over the other tokens. After a trigger comes its follower; after anything else a uniform token. Every
// token is scored; those that follow a trigger seen before in the row are the answers.
//
// Floor: after noise log V, after a trigger's first occurrence log(V - triggers), after a later one 0.
// Which of these holds depends on the past through the number of triggers seen and the kind of the last
// token only, so their probabilities at every position follow exactly from those at the one before.
#include "data/source.h"

typedef struct { RowSeeds seeds; size_t vocab, triggers; } Induction;
typedef enum { NOISE, FIRST, AGAIN } Kind;   // of the last token: no trigger, a new one, one seen before

// ---- the floor ---------------------------------------------------------------------------------
// now[j][kind]: probability that j triggers have shown their follower and that the last token is of this kind.
static double induction_floor(const Induction *s, size_t T) {
    double v = (double)s->vocab, k = (double)s->triggers, sum = 0;
    double entropy[3] = {num_log(v), num_log(v - k), 0};
    size_t bytes = size_mul(s->triggers + 2, 3 * sizeof(double));
    double (*now)[3] = xmalloc(bytes), (*next)[3] = xmalloc(bytes);
    now[0][NOISE] = 1 - k / v, now[0][FIRST] = k / v;
    double change = 1;
    size_t t = 0;
    for (; t < T && !has_mixed(t, change); t++) {
        memset(next, 0, bytes);
        for (size_t j = 0; j <= s->triggers; j++) {
            for (int kind = 0; kind < 3; kind++) sum += now[j][kind] * entropy[kind];
            double seen = (double)j;
            next[j][NOISE] += now[j][NOISE] * (1 - k / v) + now[j][AGAIN];
            next[j][FIRST] += now[j][NOISE] * (k - seen) / v;
            next[j][AGAIN] += now[j][NOISE] * seen / v;
            next[j + 1][NOISE] += now[j][FIRST];
        }
        change = 0;
        for (size_t j = 0; j <= s->triggers; j++)
            for (int kind = 0; kind < 3; kind++) change += fabs(next[j][kind] - now[j][kind]);
        memcpy(now, next, bytes);
    }
    for (size_t j = 0; j <= s->triggers; j++)
        for (int kind = 0; kind < 3; kind++) sum += (double)(T - t) * now[j][kind] * entropy[kind];
    free(now), free(next);
    return sum / (double)T;
}

// ---- the source --------------------------------------------------------------------------------
static void induction_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets,
                          bool *is_answer) {
    const Induction *s = d->state;
    Rng r = row_rng(s->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    int *follower = xmalloc(size_mul(s->triggers, sizeof *follower));  // 0, a trigger itself: not drawn yet
    size_t last = rng_below(&r, (uint32_t)s->vocab);
    row_put(&out, (int)last, PLAIN);
    while (!row_full(&out)) {
        bool trigger = last < s->triggers, again = trigger && follower[last];
        if (trigger && !again) follower[last] = (int)(s->triggers + rng_below(&r, (uint32_t)(s->vocab - s->triggers)));
        last = trigger ? (size_t)follower[last] : rng_below(&r, (uint32_t)s->vocab);
        row_put(&out, (int)last, again ? ANSWER : SCORED);
    }
    free(follower);
}

static void induction_truth(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    const Induction *s = d->state;
    int *follower = xmalloc(size_mul(s->triggers, sizeof *follower));  // 0: not seen yet
    for (size_t t = 0; t < T; t++) {
        size_t last = (size_t)tokens[t];
        bool trigger = last < s->triggers, again = trigger && follower[last];
        bool possible = !trigger || (again ? targets[t] == follower[last] : targets[t] >= (int)s->triggers);
        log_probability[t] = again ? 0 : -num_log((double)(trigger ? s->vocab - s->triggers : s->vocab));
        if (!possible) log_probability[t] = -INFINITY;
        if (trigger) follower[last] = targets[t];
    }
    free(follower);
}

static void induction_close(Data *d) { free(d->state); }

void induction_open(Data *d, const Config *config) {
    Induction *s = d->state = xmalloc(sizeof *s);
    d->row = induction_row, d->truth = induction_truth, d->close = induction_close;
    d->vocab = vocab_or(config, 64, 4, 1000000);
    *s = (Induction){row_seeds(config), d->vocab, d->vocab / 4};
    d->has_accuracy = true;
    d->floor = induction_floor(s, config->context);
    d->floor_about = xprintf("exact: a recursion over the number of triggers seen (%zu of %zu tokens are triggers)",
                             s->triggers, s->vocab);
    d->hash = hash_text(d->hash, "induction");
}

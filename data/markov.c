// markov.c: two sources whose every token is scored.
//
// `markov`: a chain of order k (--order) over V tokens (--vocab). The row of the transition table for a
// context of k tokens is drawn from --data-seed: weights x*x*x with x exponential, scaled to sum to 1,
// which leaves about half of log V to learn. A row of data starts with token 0 in the context 0 ... 0.
// Floor: the distribution of the context is carried from position to position, exactly, and the entropies
// of the table's rows are averaged under it. It no longer moves once the chain has mixed; from there
// the last value is repeated.
//
// `iid`: uniform tokens. Nothing can be learnt, so the floor is log V, and a loss below it is a leak.
//
// A model with one layer can learn order 1; order k needs attention that looks k tokens back.
#include "data/source.h"

typedef struct {
    RowSeeds seeds;
    size_t vocab, contexts;    // V, V^k
    uint32_t *below;           // [contexts, V]: token j is drawn for random words below[j-1] .. below[j]-1 (of 2^32)
} Markov;

// ---- the table ---------------------------------------------------------------------------------
static void draw_context(Markov *m, uint64_t data_seed, size_t context, double *weight) {
    Rng r = rng_stream(data_seed, RNG_WORLD, context);
    double total = 0, sum = 0;
    for (size_t j = 0; j < m->vocab; j++) {
        double x = -num_log(1 - rng_uniform(&r));
        total += weight[j] = x * x * x;
    }
    for (size_t j = 0; j < m->vocab; j++) {
        sum += weight[j];
        double bound = sum / total * 0x1p32;
        m->below[context * m->vocab + j] = bound < 0x1p32 ? (uint32_t)bound : UINT32_MAX;
    }
    m->below[context * m->vocab + m->vocab - 1] = UINT32_MAX;
}

// The last token also has the word 2^32 - 1 itself.
static double probability(const Markov *m, size_t context, size_t token) {
    const uint32_t *below = m->below + context * m->vocab;
    double low = token ? below[token - 1] : 0, high = token == m->vocab - 1 ? 0x1p32 : below[token];
    return (high - low) * 0x1p-32;
}

static size_t draw(const Markov *m, size_t context, uint32_t word) {
    const uint32_t *below = m->below + context * m->vocab;
    size_t low = 0, high = m->vocab - 1;  // the first token whose bound is above the word
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (word < below[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

static size_t next_context(const Markov *m, size_t context, size_t token) {
    return (context * m->vocab + token) % m->contexts;
}

// ---- the floor ---------------------------------------------------------------------------------
static double context_entropy(const Markov *m, size_t context) {
    double h = 0;
    for (size_t j = 0; j < m->vocab; j++) {
        double p = probability(m, context, j);
        if (p > 0) h -= p * num_log(p);
    }
    return h;
}

// Moves the distribution of the context by one token; returns how much it changed (the sum of |differences|).
static double step_distribution(const Markov *m, double *now, double *next) {
    for (size_t c = 0; c < m->contexts; c++) next[c] = 0;
    for (size_t c = 0; c < m->contexts; c++) {
        if (now[c] == 0) continue;
        for (size_t j = 0; j < m->vocab; j++) next[next_context(m, c, j)] += now[c] * probability(m, c, j);
    }
    double change = 0;
    for (size_t c = 0; c < m->contexts; c++) change += fabs(next[c] - now[c]), now[c] = next[c];
    return change;
}

static double markov_floor(const Markov *m, size_t T) {
    size_t bytes = size_mul(m->contexts, sizeof(double));
    double *entropy = xmalloc(bytes), *now = xmalloc(bytes), *next = xmalloc(bytes);
    for (size_t c = 0; c < m->contexts; c++) entropy[c] = context_entropy(m, c);
    now[0] = 1;
    double sum = 0, expected = 0;
    bool mixed = false;
    for (size_t t = 0; t < T; t++) {
        if (!mixed) {
            expected = 0;
            for (size_t c = 0; c < m->contexts; c++) expected += now[c] * entropy[c];
            mixed = step_distribution(m, now, next) < 1e-13;
        }
        sum += expected;
    }
    free(entropy), free(now), free(next);
    return sum / (double)T;
}

// ---- the source --------------------------------------------------------------------------------
static void markov_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Markov *m = d->state;
    Rng r = row_rng(m->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    row_put(&out, 0, PLAIN);
    for (size_t context = 0; !row_full(&out);) {
        size_t token = draw(m, context, rng_u32(&r));
        row_put(&out, (int)token, SCORED);
        context = next_context(m, context, token);
    }
}

static void markov_truth(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    const Markov *m = d->state;
    (void)tokens;
    for (size_t t = 0, context = 0; t < T; t++) {
        log_probability[t] = num_log(probability(m, context, (size_t)targets[t]));
        context = next_context(m, context, (size_t)targets[t]);
    }
}

static void markov_close(Data *d) {
    Markov *m = d->state;
    free(m->below);
    free(m);
}

// V^(k+1), the size of the table, or SIZE_MAX if that is beyond `limit`.
static size_t table_size(size_t vocab, size_t order, size_t limit) {
    size_t size = 1;
    for (size_t i = 0; i <= order; i++) size = size > limit / vocab ? limit + 1 : size * vocab;
    return size > limit ? SIZE_MAX : size;
}

void markov_open(Data *d, const Config *config) {
    enum { LARGEST = 1 << 22, LARGEST_FALLBACK = 1 << 18 };
    size_t fallback = 64;
    while (table_size(fallback, config->order, LARGEST_FALLBACK) == SIZE_MAX) fallback /= 2;
    Markov *m = d->state = xmalloc(sizeof *m);
    d->prefixes = true, d->row = markov_row, d->truth = markov_truth, d->close = markov_close;
    d->vocab = m->vocab = vocab_or(config, fallback, 2, LARGEST);
    size_t size = table_size(m->vocab, config->order, LARGEST);
    if (size == SIZE_MAX)
        usage_error("--data markov: --vocab %zu with --order %zu needs a table of %zu^%zu probabilities, more than %d; "
                    "choose a smaller one", m->vocab, config->order, m->vocab, config->order + 1, LARGEST);
    m->contexts = size / m->vocab;
    m->seeds = row_seeds(config);
    m->below = xmalloc(size_mul(size, sizeof *m->below));
    double *weight = xmalloc(size_mul(m->vocab, sizeof *weight));
    for (size_t c = 0; c < m->contexts; c++) draw_context(m, config->data_seed, c, weight);
    free(weight);
    d->floor = markov_floor(m, config->context);
    d->floor_about =
        xprintf("exact: the entropies of the transition table's %zu rows, averaged over the %zu positions of a row",
                m->contexts, config->context);
    d->hash = hash_bytes(hash_text(d->hash, "markov"), m->below, size * sizeof *m->below);
}

static void iid_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const RowSeeds *seeds = d->state;
    Rng r = row_rng(*seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    while (!row_full(&out)) row_put(&out, (int)rng_below(&r, (uint32_t)d->vocab), SCORED);
}

static void iid_truth(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    (void)tokens, (void)targets;
    for (size_t t = 0; t < T; t++) log_probability[t] = -d->floor;
}

static void iid_close(Data *d) { free(d->state); }

void iid_open(Data *d, const Config *config) {
    d->vocab = vocab_or(config, 64, 2, 10000000);
    RowSeeds *seeds = d->state = xmalloc(sizeof *seeds);
    *seeds = row_seeds(config);
    d->row = iid_row, d->truth = iid_truth, d->close = iid_close;
    d->floor = num_log((double)d->vocab);
    d->floor_about = xprintf("exact: log %zu, tokens being uniform and independent", d->vocab);
    d->hash = hash_text(d->hash, "iid");
}

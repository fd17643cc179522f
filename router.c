// router.c: which expert takes which token, and with what weight: scores, choices, the slots that copies of the
// tokens get, the losses that keep the load balanced, and the way back from weights to logits; at the end Soft MoE,
// where nothing is chosen and everything is mixed. moe.c says which --router is which shape.
#include "router.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "lib/rng.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <stdlib.h>

// Added to the sum that weights are divided by, as in DeepSeek-V3: a selection bias can choose experts whose
// scores are all 0. Next to any other sum it is too small to change a bit.
#define LEAST_SUM ((real)1e-20)

// ---- pools ---------------------------------------------------------------------------------------

size_t pool_count(size_t M, RouterShape s) {
    if (s.pool == POOL_ALL) return 1;
    return s.pool == POOL_BATCH ? s.T : M / s.T * ((s.T + s.pool_tokens - 1) / s.pool_tokens);
}

Pool pool_at(size_t i, size_t M, RouterShape s) {
    if (s.pool == POOL_ALL) return (Pool){0, 1, M};
    if (s.pool == POOL_BATCH) return (Pool){i, s.T, M / s.T};
    size_t each = (s.T + s.pool_tokens - 1) / s.pool_tokens, at = i % each * s.pool_tokens, left = s.T - at;
    return (Pool){i / each * s.T + at, 1, left < s.pool_tokens ? left : s.pool_tokens};
}

// How many of a pool's tokens an expert takes: tokens K/E, rounded, at least 1.
static size_t pool_share(size_t tokens, size_t E, size_t K) {
    size_t share = (tokens * K + E / 2) / E;
    return share ? share : 1;
}

size_t route_max_choices(size_t M, RouterShape s) {
    size_t choices = 0;
    if (s.choice == CHOOSE_BEST) return size_mul(M, s.K);
    if (s.choice != CHOOSE_TOKENS) return size_mul(M, s.E);
    for (size_t i = 0; i < pool_count(M, s); i++)
        choices += size_mul(s.E, pool_share(pool_at(i, M, s).tokens, s.E, s.K));
    return choices;
}

// ---- scores --------------------------------------------------------------------------------------

static void score_row(real *score, real *log_sum, const real *logits, RouterShape s) {
    memcpy(score, logits, s.E * sizeof *score);
    *log_sum = s.score == SCORE_RELU ? 0 : (real)softmax_row(score, s.E);
    for (size_t i = 0; i < s.E && s.score == SCORE_SIGMOID; i += LANES)
        vec_store_at(score, i, s.E, vec_sigmoid(vec_load_at(logits, i, s.E)));
    for (size_t i = 0; i < s.E && s.score == SCORE_RELU; i += LANES)     // in this order a NaN stays
        vec_store_at(score, i, s.E, vec_max(vec_zero(), vec_load_at(score, i, s.E)));
}

// ---- choices of tokens ---------------------------------------------------------------------------

#define VALUE(e) (score[e] + (bias ? bias[e] : 0))

// How good the group of `size` experts from `first` on is.
static real group_score(const real *score, const real *bias, size_t first, size_t size, bool sum) {
    real best = VALUE(first), second = -INFINITY;
    for (size_t e = first + 1; e < first + size; e++) {
        real value = VALUE(e);
        if (value > best) second = best, best = value;
        else if (value > second) second = value;
    }
    return sum ? best + second : best;
}

// Node-limited routing, DeepSeek-V3 2024, section 2.1.2 (V2: 2.2.2): marks the groups that a token may choose from.
static void open_groups(uint8_t *open, const real *score, const real *bias, RouterShape s) {
    size_t size = s.E / s.groups;
    memset(open, 0, s.groups);
    for (size_t k = 0; k < s.top_groups; k++) {
        size_t best = s.groups;
        real most = 0;
        for (size_t g = 0; g < s.groups; g++) {
            real value = open[g] ? 0 : group_score(score, bias, g * size, size, s.group_sum);
            if (!open[g] && (best == s.groups || value > most)) best = g, most = value;
        }
        open[best] = 1;
    }
}

// The K experts with the largest score + bias, best first, in one pass: the best so far are kept sorted, and once
// there are K of them most experts cost one comparison. open: [groups] with those to choose from, or NULL.
static void choose_top_k(int *expert, const real *score, const real *bias, const uint8_t *open, RouterShape s) {
    real least = 0;                                                    // of the K best so far
    for (size_t e = 0, n = 0; e < s.E; e++) {
        if (open && !open[e / (s.E / s.groups)]) continue;
        real value = VALUE(e);
        if (n == s.K && !(value > least)) continue;
        size_t k = n < s.K ? n++ : s.K - 1;
        for (; k > 0 && value > VALUE(expert[k - 1]); k--) expert[k] = expert[k - 1];
        expert[k] = (int)e;
        least = VALUE(expert[n - 1]);
    }
}
#undef VALUE

// A score that is no number counts as above, so that it is seen in the loss.
static void choose_above(uint8_t *taken, const real *score, const real *threshold, RouterShape s) {
    for (size_t e = 0; e < s.E; e++) taken[e] = s.choice == CHOOSE_ALL || !(score[e] <= (threshold ? threshold[e] : 0));
}

// ---- choices of experts --------------------------------------------------------------------------

real kth_largest(real *x, size_t n, size_t k) {        // Hoare's selection
    long low = 0, high = (long)n - 1, wanted = (long)k - 1;
    while (low < high) {
        real pivot = x[(low + high) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            real y = x[i];
            x[i++] = x[j], x[j--] = y;
        }
        if (wanted <= j) high = j;
        else if (wanted >= i) low = i;
        else break;
    }
    return x[wanted];
}

// Expert e takes the best tokens of one pool: all that score above the last that fits, and of those equal to it
// the earliest.
static void take_tokens(uint8_t *taken, const real *score, Pool p, size_t e, real *sorted, RouterShape s) {
    size_t share = pool_share(p.tokens, s.E, s.K), left = share;
    for (size_t i = 0; i < p.tokens; i++) sorted[i] = score[(p.first + i * p.step) * s.E + e];
    real last = kth_largest(sorted, p.tokens, share);
    for (int equal = 0; equal < 2; equal++)
        for (size_t i = 0; i < p.tokens; i++) {
            size_t at = (p.first + i * p.step) * s.E + e;
            bool takes = left && (equal ? score[at] == last : score[at] > last);
            if (takes) taken[at] = 1, left--;
        }
}

static void choose_tokens(Routing *r, size_t M, RouterShape s) {
    size_t pools = pool_count(M, s), most = pool_at(0, M, s).tokens;
    memset(r->taken, 0, M * s.E);
#pragma omp parallel if (M * s.E > PARALLEL_FROM)
    {
        real *sorted = xmalloc(most * sizeof *sorted);
#pragma omp for
        for (size_t i = 0; i < pools * s.E; i++)
            take_tokens(r->taken, r->score, pool_at(i / s.E, M, s), i % s.E, sorted, s);
        free(sorted);
    }
}

// ---- weights and slots ---------------------------------------------------------------------------

static void list_taken(Routing *r, size_t M, RouterShape s) {
    size_t n = 0;
    for (size_t m = 0; m < M; m++) {
        r->first[m] = n;
        for (size_t e = 0; e < s.E; e++)
            if (r->taken[m * s.E + e]) r->expert[n++] = (int)e;
    }
    r->first[M] = n;
}

static void list_equal(Routing *r, size_t M, size_t K) {     // K choices each
    for (size_t m = 0; m <= M; m++) r->first[m] = m * K;
}

static void weigh(Routing *r, size_t m, RouterShape s) {
    const real *score = r->score + m * s.E;
    real sum = LEAST_SUM;
    for (size_t i = r->first[m]; i < r->first[m + 1]; i++) sum += r->weight[i] = score[r->expert[i]];
    for (size_t i = r->first[m]; i < r->first[m + 1]; i++)
        r->weight[i] = (s.normalise ? r->weight[i] / sum : r->weight[i]) * (real)s.scale;
}

// Marks (slot -1) what an expert's capacity leaves out: choices are admitted token by token, a token's best first.
// Unlike GShard (Lepikhin et al. 2020, algorithm 1), which admits all first choices before the second ones, no token
// depends on a later one.
static void admit(Routing *r, size_t M, RouterShape s) {
    for (size_t m = 0; m < M; m++) {
        for (size_t e = 0; e < s.E && m % s.T == 0; e++) r->count[e] = 0;
        for (size_t i = r->first[m]; i < r->first[m + 1]; i++)
            r->slot[i] = s.capacity && r->count[r->expert[i]]++ >= s.capacity ? -1 : 0;
    }
}

static void sort_by_expert(Routing *r, size_t M, RouterShape s) {
    admit(r, M, s);
    for (size_t e = 0; e < s.E; e++) r->count[e] = 0;
    for (size_t i = 0; i < r->first[M]; i++) r->count[r->expert[i]] += r->slot[i] >= 0;
    r->start[0] = 0;
    for (size_t e = 0; e < s.E; e++) r->start[e + 1] = r->start[e] + r->count[e], r->count[e] = 0;
    for (size_t m = 0; m < M; m++)             // in order of tokens: a stable counting sort
        for (size_t i = r->first[m]; i < r->first[m + 1]; i++) {
            int e = r->expert[i];
            if (r->slot[i] < 0) continue;
            size_t slot = r->start[e] + r->count[e]++;
            r->slot[i] = (int)slot, r->token[slot] = (int)m;
        }
    r->copies = r->start[s.E];
}

void route_forward(Routing *r, const real *logits, const real *state, size_t M, RouterShape s) {
    PROFILE(route, (PROFILE_EXP + 3 + (s.score == SCORE_SIGMOID ? PROFILE_SIGMOID : 0)) * M * s.E,
            2 * M * s.E + 2 * M * s.K);
    bool best = s.choice == CHOOSE_BEST;
    PARALLEL_ROWS(M, s.E * s.K)
    for (size_t m = 0; m < M; m++) {
        real *score = r->score + m * s.E;
        score_row(score, r->log_sum + m, logits + m * s.E, s);
        uint8_t *taken = r->taken + m * s.E;            // of a token that chooses groups: those
        if (best && s.groups) open_groups(taken, score, state, s);
        if (best) choose_top_k(r->expert + m * s.K, score, state, s.groups ? taken : NULL, s);
        else if (s.choice != CHOOSE_TOKENS) choose_above(taken, score, state, s);
    }
    if (s.choice == CHOOSE_TOKENS) choose_tokens(r, M, s);
    if (best) list_equal(r, M, s.K);
    else list_taken(r, M, s);
    PARALLEL_ROWS(M, s.K)
    for (size_t m = 0; m < M; m++) weigh(r, m, s);
    sort_by_expert(r, M, s);
}

void route_by_hash(Routing *r, const int *id, uint64_t seed, size_t M, RouterShape s) {
    PROFILE(route, 0, M * s.K);
    PARALLEL_ROWS(M, s.E * s.K)
    for (size_t m = 0; m < M; m++) {
        Rng random = rng_stream(seed, RNG_HASH, (uint64_t)id[m]);
        int *expert = r->expert + m * s.K;
        for (size_t k = 0; k < s.K; k++) {     // the n-th of those that are not yet chosen
            size_t n = rng_below(&random, (uint32_t)(s.E - k)), e = 0;
            for (;; e++) {
                bool chosen = false;
                for (size_t j = 0; j < k; j++) chosen |= expert[j] == (int)e;
                if (!chosen && n-- == 0) break;
            }
            expert[k] = (int)e, r->weight[m * s.K + k] = (real)(s.scale / (double)s.K);
        }
    }
    list_equal(r, M, s.K);
    sort_by_expert(r, M, s);
}

void route_by_weight(Routing *r, size_t M, size_t E) {
    list_equal(r, M, E);
    for (size_t i = 0; i < M * E; i++) r->expert[i] = (int)(i % E), r->weight[i] = r->score[i];
    sort_by_expert(r, M, (RouterShape){.E = E, .K = E, .T = M});
}

// ---- balance -------------------------------------------------------------------------------------

void route_move_bias(real *bias, const double *load, size_t E, double rate) {
    uint64_t total = 0;
    for (size_t e = 0; e < E; e++) total += (uint64_t)load[e];
    for (size_t e = 0; e < E; e++) {
        uint64_t share = (uint64_t)load[e] * E;        // compared with the total: a mean would be rounded
        bias[e] += (real)(rate * (double)((share < total) - (share > total)));
    }
}

static real score_total(const real *score, RouterShape s) {   // softmax scores sum to 1 by construction
    real sum = 0;
    for (size_t e = 0; e < s.E && s.score == SCORE_SIGMOID; e++) sum += score[e];
    return s.score == SCORE_SIGMOID ? sum : 1;
}

// The choices of a sequence that the loss counts: those that were made, or where a bias moved them those of the scores
// alone (DeepSeek-V3 2024, eq. 18).
static void count_choices(real *count, const Routing *r, size_t first, RouterShape s) {
    for (size_t e = 0; e < s.E; e++) count[e] = 0;
    if (!s.biased) {
        for (size_t i = r->first[first]; i < r->first[first + s.T]; i++) count[r->expert[i]] += 1;
        return;
    }
    int *best = xmalloc(s.K * sizeof *best);
    for (size_t m = first; m < first + s.T; m++) {
        choose_top_k(best, r->score + m * s.E, NULL, NULL, s);
        for (size_t k = 0; k < s.K; k++) count[best[k]] += 1;
    }
    free(best);
}

// E f_e / T of the sequence that starts at token `first`: the slope of its balance loss in P's sum.
static void balance_slope(real *slope, const Routing *r, size_t first, RouterShape s) {
    count_choices(slope, r, first, s);
    for (size_t e = 0; e < s.E; e++) slope[e] *= (real)s.E / ((real)s.T * (real)s.K * (real)s.T);
}

double route_balance_loss(const Routing *r, size_t M, RouterShape s) {
    PROFILE(route, 2 * M * s.E, M * s.E);
    double loss = 0;
    real *slope = xmalloc(s.E * sizeof *slope);
    for (size_t first = 0; first < M; first += s.T) {
        balance_slope(slope, r, first, s);
        for (size_t m = first; m < first + s.T; m++) {
            const real *score = r->score + m * s.E;
            double total = (double)score_total(score, s);
            if (s.score != SCORE_SIGMOID)
                for (size_t e = 0; e < s.E; e++) loss += (double)slope[e] * (double)score[e];
            else
                for (size_t e = 0; e < s.E; e++) loss += (double)slope[e] * (double)score[e] / total;
        }
    }
    free(slope);
    return loss;
}

double route_z_loss(const Routing *r, size_t M, RouterShape s) {
    PROFILE(route, 2 * M, M);
    double loss = 0;
    for (size_t m = 0; m < M; m++) loss += (double)r->log_sum[m] * (double)r->log_sum[m];
    return loss / (double)s.T;
}

// d loss / d score of one token: from the weights of its choices, and from the balance loss.
static void score_backward(real *dscore, const real *dweight, const Routing *r, size_t m, const real *slope,
                           RouterShape s) {
    const real *score = r->score + m * s.E;
    size_t from = r->first[m], to = r->first[m + 1];
    for (size_t e = 0; e < s.E; e++) dscore[e] = 0;
    real chosen = LEAST_SUM, mean = 0;   // w_k = scale s_k / sum s: dL/ds_k = (scale dw_k - sum_j dw_j w_j) / sum s
    for (size_t i = from; i < to; i++) chosen += score[r->expert[i]], mean += dweight[i] * r->weight[i];
    for (size_t i = from; i < to; i++)
        dscore[r->expert[i]] = s.normalise ? (dweight[i] * (real)s.scale - mean) / chosen : dweight[i] * (real)s.scale;
    if (s.aux == 0) return;
    // P uses s_e / total: for softmax total is 1, and the second term is left to its own backward.
    real total = score_total(score, s), dot = 0;
    for (size_t e = 0; e < s.E && s.score == SCORE_SIGMOID; e++) dot += slope[e] * score[e] / total;
    for (size_t e = 0; e < s.E; e++) dscore[e] += (real)s.aux * (slope[e] - dot) / total;
}

// From d loss / d score to d loss / d logit, in place.
static void logit_backward(real *d, const real *score, RouterShape s) {
    real dot = 0;
    for (size_t e = 0; e < s.E && s.score == SCORE_SOFTMAX; e++) dot += d[e] * score[e];
    for (size_t e = 0; e < s.E; e++) {
        if (s.score == SCORE_SOFTMAX) d[e] = score[e] * (d[e] - dot);
        else d[e] = s.score == SCORE_SIGMOID ? d[e] * score[e] * (1 - score[e]) : score[e] > 0 ? d[e] : 0;
    }
}

void route_backward(real *dlogits, const real *dweight, const Routing *r, size_t M, RouterShape s) {
    PROFILE(route, 8 * M * s.E, 2 * M * s.E + 2 * r->first[M]);
    PARALLEL_ROWS(M / s.T, s.T * s.E)
    for (size_t b = 0; b < M / s.T; b++) {
        real few[FEW_EXPERTS], *slope = s.E <= FEW_EXPERTS ? few : xmalloc(s.E * sizeof *slope);
        if (s.aux != 0) balance_slope(slope, r, b * s.T, s);
        for (size_t m = b * s.T; m < (b + 1) * s.T; m++) {
            const real *score = r->score + m * s.E;
            real *d = dlogits + m * s.E;
            score_backward(d, dweight, r, m, slope, s);
            logit_backward(d, score, s);
            real dz = (real)(2 * s.z / (double)s.T) * r->log_sum[m];     // the z-loss reads the softmax of the logits
            for (size_t e = 0; e < s.E && s.z > 0; e++) d[e] += dz * score[e];
        }
        if (slope != few) free(slope);
    }
}

// ---- soft routing: slots ---------------------------------------------------------------------------
// Soft MoE (Puigcerver et al. 2023): nothing is chosen. Every slot of every expert gets a mean of the tokens of a pool,
// every token a mean of the outputs of all slots, and all of it is matrix products and softmaxes. A pool along time
// mixes later tokens into earlier ones, so that is no language model; a pool of one token is causal, and then every
// expert sees every token. Unlike section 2.3 of the paper, tokens and slots are not brought to norm 1: our router
// reads the normalised residual stream.

size_t soft_rows(size_t M, RouterShape s) { return size_mul(size_mul(s.E, pool_count(M, s)), s.slots); }

// ---- soft routing: weights -------------------------------------------------------------------------------------

// Columns j .. j+15 of one pool: softmax over its tokens.
static void column_softmax(real *in, const real *logits, Pool p, size_t j, size_t columns) {
    vec most = vec_load_at(logits + p.first * columns, j, columns), sum = vec_zero();
    for (size_t i = 1; i < p.tokens; i++)
        most = vec_max(most, vec_load_at(logits + (p.first + i * p.step) * columns, j, columns));
    for (size_t i = 0; i < p.tokens; i++) {
        size_t at = (p.first + i * p.step) * columns;
        vec e = vec_exp(vec_sub(vec_load_at(logits + at, j, columns), most));
        sum = vec_add(sum, e);
        vec_store_at(in + at, j, columns, e);
    }
    for (size_t i = 0; i < p.tokens; i++) {
        real *x = in + (p.first + i * p.step) * columns;
        vec_store_at(x, j, columns, vec_div(vec_load_at(x, j, columns), sum));
    }
}

// dlogits += D (dD - sum over tokens of dD D).
static void column_softmax_backward(real *dlogits, const real *din, const real *in, Pool p, size_t j, size_t columns) {
    vec dot = vec_zero();
    for (size_t i = 0; i < p.tokens; i++) {
        size_t at = (p.first + i * p.step) * columns;
        dot = vec_fma(vec_load_at(din + at, j, columns), vec_load_at(in + at, j, columns), dot);
    }
    for (size_t i = 0; i < p.tokens; i++) {
        size_t at = (p.first + i * p.step) * columns;
        vec d = vec_sub(vec_load_at(din + at, j, columns), dot);
        vec sum = vec_fma(vec_load_at(in + at, j, columns), d, vec_load_at(dlogits + at, j, columns));
        vec_store_at(dlogits + at, j, columns, sum);
    }
}

static void row_softmax_backward(real *dlogits, const real *dout, const real *out, size_t columns) {
    vec total = vec_set(row_dot(dout, out, columns));
    for (size_t j = 0; j < columns; j += LANES) {
        vec d = vec_sub(vec_load_at(dout, j, columns), total);
        vec_store_at(dlogits, j, columns, vec_mul(vec_load_at(out, j, columns), d));
    }
}

static void row_softmaxes(real *out, const real *logits, size_t M, size_t columns) {
    PARALLEL_ROWS(M, columns)
    for (size_t m = 0; m < M; m++) {
        memcpy(out + m * columns, logits + m * columns, columns * sizeof *logits);
        softmax_row(out + m * columns, columns);
    }
}

void soft_route_forward(Routing *r, Mixing w, const real *logits, size_t M, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s), blocks = (columns + LANES - 1) / LANES;
    PROFILE(route, 2 * (PROFILE_EXP + 3) * M * columns, 3 * M * columns);
    row_softmaxes(w.combine, logits, M, columns);
    PARALLEL_ROWS(M, columns)
    for (size_t i = 0; i < pools * blocks; i++)
        column_softmax(w.dispatch, logits, pool_at(i / blocks, M, s), i % blocks * LANES, columns);
    for (size_t e = 0; e <= s.E; e++) r->start[e] = e * pools * s.slots;
    r->copies = r->start[s.E];
}

void soft_route_backward(real *dlogits, Mixing dw, Mixing w, size_t M, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s), blocks = (columns + LANES - 1) / LANES;
    PROFILE(route, 9 * M * columns, 6 * M * columns);
    PARALLEL_ROWS(M, columns)
    for (size_t m = 0; m < M; m++)
        row_softmax_backward(dlogits + m * columns, dw.combine + m * columns, w.combine + m * columns, columns);
    PARALLEL_ROWS(M, columns)
    for (size_t i = 0; i < pools * blocks; i++)
        column_softmax_backward(dlogits, dw.dispatch, w.dispatch, pool_at(i / blocks, M, s), i % blocks * LANES,
                                columns);
}

void soft_route_alone(Routing *r, real *out, const real *logits, size_t M, RouterShape s) {
    row_softmaxes(out, logits, M, s.E * s.slots);
    for (size_t i = 0; i < M * s.E; i++) {
        r->score[i] = 0;
        for (size_t j = 0; j < s.slots; j++) r->score[i] += out[i * s.slots + j];
    }
    route_by_weight(r, M, s.E);
}

// ---- soft routing: mixing ------------------------------------------------------------------------
// For each expert and pool, with W [tokens,S] the part of the weights that is theirs, X [tokens,C] the tokens and
// Z [S,C] the slots: Z = W^T X, X = sum over experts of W Z, and for gradients W = X Z^T.

// The parts of pool i and expert e.
typedef struct { Pool pool; size_t weights, tokens, slots; } Place;      // where each starts
static Place place_at(size_t e, size_t i, size_t M, size_t C, RouterShape s) {
    Pool p = pool_at(i, M, s);
    return (Place){p, p.first * s.E * s.slots + e * s.slots, p.first * C, (e * pool_count(M, s) + i) * s.slots * C};
}

static size_t mixing_flops(size_t M, size_t C, RouterShape s) { return 2 * M * s.E * s.slots * C; }

static void slots_from_tokens(real *z, const real *w, const real *x, size_t M, size_t C, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s);
    PROFILE(dispatch, mixing_flops(M, C, s), M * (columns + C) + soft_rows(M, s) * C);
    Product *p = xmalloc(s.E * pools * sizeof *p);
    for (size_t i = 0; i < s.E * pools; i++) {
        Place at = place_at(i / pools, i % pools, M, C, s);
        p[i] = (Product){.c = z + at.slots, .ldc = C,
                         .a = w + at.weights, .a_row = 1, .a_col = at.pool.step * columns,
                         .b = x + at.tokens, .b_row = at.pool.step * C, .b_col = 1,
                         .M = s.slots, .N = C, .K = at.pool.tokens};
    }
    products(p, s.E * pools);
    free(p);
}

// One expert after another adds to its tokens.
static void tokens_from_slots(real *x, const real *w, const real *z, size_t M, size_t C, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s);
    PROFILE(dispatch, mixing_flops(M, C, s), M * (columns + C) + soft_rows(M, s) * C);
    Product *p = xmalloc(pools * sizeof *p);
    for (size_t e = 0; e < s.E; e++) {
        for (size_t i = 0; i < pools; i++) {
            Place at = place_at(e, i, M, C, s);
            p[i] = (Product){.c = x + at.tokens, .ldc = at.pool.step * C,
                             .a = w + at.weights, .a_row = at.pool.step * columns, .a_col = 1,
                             .b = z + at.slots, .b_row = C, .b_col = 1,
                             .M = at.pool.tokens, .N = C, .K = s.slots, .accumulate = e > 0};
        }
        products(p, pools);
    }
    free(p);
}

static void weights_from_both(real *w, const real *x, const real *z, size_t M, size_t C, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s);
    PROFILE(dispatch, mixing_flops(M, C, s), M * (columns + C) + soft_rows(M, s) * C);
    Product *p = xmalloc(s.E * pools * sizeof *p);
    for (size_t i = 0; i < s.E * pools; i++) {
        Place at = place_at(i / pools, i % pools, M, C, s);
        p[i] = (Product){.c = w + at.weights, .ldc = at.pool.step * columns,
                         .a = x + at.tokens, .a_row = at.pool.step * C, .a_col = 1,
                         .b = z + at.slots, .b_row = 1, .b_col = C, .M = at.pool.tokens, .N = s.slots, .K = C};
    }
    products(p, s.E * pools);
    free(p);
}

void soft_dispatch_forward(real *sorted, const real *x, Mixing w, size_t M, size_t C, RouterShape s) {
    slots_from_tokens(sorted, w.dispatch, x, M, C, s);
}
void soft_dispatch_backward(real *dx, Mixing dw, const real *dsorted, const real *x, Mixing w, size_t M, size_t C,
                            RouterShape s) {
    tokens_from_slots(dx, w.dispatch, dsorted, M, C, s);
    weights_from_both(dw.dispatch, x, dsorted, M, C, s);
}

void soft_combine_forward(real *y, const real *sorted, Mixing w, size_t M, size_t C, RouterShape s) {
    tokens_from_slots(y, w.combine, sorted, M, C, s);
}
void soft_combine_backward(real *dsorted, Mixing dw, const real *dy, const real *sorted, Mixing w, size_t M, size_t C,
                           RouterShape s) {
    slots_from_tokens(dsorted, w.combine, dy, M, C, s);
    weights_from_both(dw.combine, dy, sorted, M, C, s);
}

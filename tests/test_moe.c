// test_moe.c: routing and its invariants, balancing losses by hand, dispatch, and the experts' products
// against the dense layer; all against loops that are too simple to be wrong. Gradients of the routers are in
// test_gradients.c, models with routers in test_router.c.
#include "tests/arrays.h"
#include "kernels/matmul.h"
#include "router.h"
#include <omp.h>
#include <stdlib.h>

static Routing make_routing(size_t M, size_t E, size_t K) {
    return (Routing){.score = array(M * E), .log_sum = array(M), .taken = array_bytes(M * E),
                     .first = array_bytes((M + 1) * sizeof(size_t)), .expert = array_bytes(M * K * sizeof(int)),
                     .weight = array(M * K), .count = array_bytes(E * sizeof(size_t)),
                     .start = array_bytes((E + 1) * sizeof(size_t)), .slot = array_bytes(M * K * sizeof(int)),
                     .token = array_bytes(M * K * sizeof(int))};
}

static RouterShape shape(size_t E, size_t K, size_t T) {
    return (RouterShape){.E = E, .K = K, .T = T, .normalise = true, .scale = 1};
}

static Routing route(const real *logits, const real *bias, size_t M, RouterShape s) {
    Routing r = make_routing(M, s.E, s.K);
    route_forward(&r, logits, bias, M, s);
    return r;
}

// ---- routing -------------------------------------------------------------------------------------

static double score_by_formula(const real *logits, size_t e, RouterShape s, double *log_sum) {
    double sum = 0, most = -INFINITY;
    for (size_t i = 0; i < s.E; i++) most = fmax(most, (double)logits[i]);
    for (size_t i = 0; i < s.E; i++) sum += exp((double)logits[i] - most);
    *log_sum = log(sum) + most;
    return s.score == SCORE_SIGMOID ? 1 / (1 + exp(-(double)logits[e])) : exp((double)logits[e] - *log_sum);
}

// A score is good to a few roundings; a weight is a quotient of scores. Logits are of order 1.
static void check_weights(const Routing *r, const real *logits, size_t m, RouterShape s) {
    double total = 0, sum = 0, log_sum = 0;
    for (size_t k = 0; k < s.K; k++) total += (double)r->score[m * s.E + (size_t)r->expert[m * s.K + k]];
    for (size_t e = 0; e < s.E; e++) {
        double score = score_by_formula(logits, e, s, &log_sum);
        CHECK(fabs((double)r->score[m * s.E + e] - score) <= 8 * EPSILON, "score %g of expert %zu, expected %g",
              (double)r->score[m * s.E + e], e, score);
    }
    CHECK(fabs((double)r->log_sum[m] - log_sum) <= 8 * EPSILON * fmax(1, fabs(log_sum)), "log sum exp %g, expected %g",
          (double)r->log_sum[m], log_sum);
    for (size_t k = 0; k < s.K; k++) {
        double score = (double)r->score[m * s.E + (size_t)r->expert[m * s.K + k]],
               weight = s.scale * (s.normalise ? score / total : score);
        CHECK(fabs((double)r->weight[m * s.K + k] - weight) <= 4 * EPSILON * s.scale, "weight %g, expected %g",
              (double)r->weight[m * s.K + k], weight);
        sum += (double)r->weight[m * s.K + k];
    }
    if (s.normalise) CHECK(fabs(sum - s.scale) <= 8 * EPSILON * s.scale, "the weights of token %zu sum to %g", m, sum);
}

// The K best, best first: nobody left out scores higher, and of equals the lower expert comes first.
static void check_choice(const Routing *r, const real *bias, size_t m, RouterShape s) {
    const int *expert = r->expert + m * s.K;
    const real *score = r->score + m * s.E;
    for (size_t k = 0; k < s.K; k++) {
        CHECK(expert[k] >= 0 && (size_t)expert[k] < s.E, "expert %d of %zu", expert[k], s.E);
        real mine = score[expert[k]] + (bias ? bias[expert[k]] : 0);
        for (size_t e = 0; e < s.E; e++) {
            bool earlier = false;
            for (size_t j = 0; j <= k; j++) earlier |= expert[j] == (int)e;
            real other = score[e] + (bias ? bias[e] : 0);
            CHECK(earlier || other < mine || (other == mine && (int)e > expert[k]),
                  "token %zu: choice %zu is expert %d, but %zu comes first", m, k, expert[k], e);
        }
        for (size_t j = 0; j < k; j++) CHECK(expert[j] != expert[k], "token %zu has expert %d twice", m, expert[k]);
    }
}

// Slots are a permutation of the copies, sorted by expert, within an expert by token.
static void check_slots(const Routing *r, size_t M, RouterShape s) {
    size_t copies = M * s.K;
    CHECK(r->start[0] == 0 && r->start[s.E] == copies, "the slots run from %zu to %zu of %zu", r->start[0],
          r->start[s.E], copies);
    for (size_t e = 0; e < s.E; e++) {
        CHECK(r->count[e] == r->start[e + 1] - r->start[e], "expert %zu: count %zu, slots %zu to %zu", e, r->count[e],
              r->start[e], r->start[e + 1]);
        for (size_t i = r->start[e] + 1; i < r->start[e + 1]; i++)
            CHECK(r->token[i - 1] < r->token[i], "expert %zu: tokens out of order", e);
    }
    bool *seen = array_bytes(copies);
    for (size_t i = 0; i < copies; i++) {
        size_t slot = (size_t)r->slot[i], e = (size_t)r->expert[i];
        CHECK(slot < copies && !seen[slot], "slot %zu of %zu is outside or taken twice", slot, copies);
        if (slot < copies) seen[slot] = true;
        CHECK(slot >= r->start[e] && slot < r->start[e + 1], "slot %zu is not of expert %zu", slot, e);
        CHECK(r->token[slot] == (int)(i / s.K), "slot %zu holds token %d, expected %zu", slot, r->token[slot], i / s.K);
    }
}

static void invariants(void) {
    Rng rng = rng_stream(4, RNG_TEST, 0);
    for (int draw = 0; draw < 400; draw++) {
        size_t E = 1 + rng_below(&rng, draw % 4 ? 9 : 100), K = 1 + rng_below(&rng, (uint32_t)(E < 8 ? E : 8)),
               T = 1 + rng_below(&rng, 12), M = T * 3;
        RouterShape s = shape(E, K, T);
        s.score = draw & 1 ? SCORE_SIGMOID : SCORE_SOFTMAX, s.normalise = draw & 2, s.scale = draw & 4 ? 2.5 : 1;
        real *logits = array_random(M * E, &rng), *bias = draw & 8 ? array_random(E, &rng) : NULL;
        for (size_t i = 0; i < M * E; i++)
            logits[i] = draw & 16 ? (real)floor(3 * (double)logits[i]) : 3 * logits[i];    // many ties
        Routing r = route(logits, bias, M, s);
        for (size_t m = 0; m < M; m++) check_choice(&r, bias, m, s), check_weights(&r, logits + m * E, m, s);
        check_slots(&r, M, s);
        arrays_free();
    }
}

// Groups as they are defined, with sorting by hand: s.top_groups times the best group that is left, then K times the
// best expert of those groups that is left; of equal ones the lower.
static void choose_in_groups(int *expert, const real *score, const real *bias, RouterShape s) {
    size_t size = s.E / s.groups;
    bool open[128] = {false}, used[128] = {false};
    for (size_t k = 0; k < s.top_groups; k++) {
        size_t best = 0;
        real most = -INFINITY;
        for (size_t g = s.groups; g-- > 0;) {
            real first = -INFINITY, sum = -INFINITY;
            for (size_t i = 0; i < size; i++) {
                real x = score[g * size + i] + (bias ? bias[g * size + i] : 0);
                first = x > first ? x : first;
                for (size_t j = 0; j < i; j++) {
                    real pair = x + (score[g * size + j] + (bias ? bias[g * size + j] : 0));
                    sum = pair > sum ? pair : sum;
                }
            }
            if (!open[g] && (s.group_sum ? sum : first) >= most) best = g, most = s.group_sum ? sum : first;
        }
        open[best] = true;
    }
    for (size_t k = 0; k < s.K; k++) {
        real most = -INFINITY;
        for (size_t e = s.E; e-- > 0;) {
            real x = score[e] + (bias ? bias[e] : 0);
            if (open[e / size] && !used[e] && x >= most) expert[k] = (int)e, most = x;
        }
        used[expert[k]] = true;
    }
}

static void groups(void) {
    Rng rng = rng_stream(4, RNG_TEST, 20);
    for (int draw = 0; draw < 400; draw++) {
        size_t N = 2 + rng_below(&rng, 5), size = 1 + rng_below(&rng, 6), top = 1 + rng_below(&rng, (uint32_t)N - 1),
               most = top * size, K = 1 + rng_below(&rng, (uint32_t)(most < 8 ? most : 8)), T = 1 + rng_below(&rng, 12),
               M = T * 3, E = N * size;
        RouterShape s = shape(E, K, T);
        s.groups = N, s.top_groups = top, s.group_sum = size > 1 && draw & 32;
        s.score = draw & 1 ? SCORE_SIGMOID : SCORE_SOFTMAX, s.normalise = draw & 2, s.scale = draw & 4 ? 2.5 : 1;
        real *logits = array_random(M * E, &rng), *bias = draw & 8 ? array_random(E, &rng) : NULL;
        for (size_t i = 0; i < M * E; i++)
            logits[i] = draw & 16 ? (real)floor(3 * (double)logits[i]) : 3 * logits[i];    // many ties
        Routing r = route(logits, bias, M, s);
        for (size_t m = 0; m < M; m++) {
            int expected[8];
            choose_in_groups(expected, r.score + m * E, bias, s);
            for (size_t k = 0; k < K; k++)
                CHECK(r.expert[m * K + k] == expected[k], "%zu of %zu groups of %zu: choice %zu is %d, not %d", top, N,
                      size, k, r.expert[m * K + k], expected[k]);
            check_weights(&r, logits + m * E, m, s);
        }
        check_slots(&r, M, s);
        arrays_free();
    }
}

static void ties(void) {
    enum { M = 4, E = 6, K = 3 };
    real *logits = array(M * E);
    Routing r = route(logits, NULL, M, shape(E, K, M));
    for (int i = 0; i < M * K; i++) CHECK(r.expert[i] == i % K, "choice %d of equal experts is %d", i % K, r.expert[i]);
    for (int e = 0; e < E; e++) CHECK(r.count[e] == (e < K ? M : 0), "expert %d has %zu tokens", e, r.count[e]);
}

static void bias_moves_the_selection(void) {
    enum { M = 5, E = 7, K = 2 };
    Rng rng = rng_stream(4, RNG_TEST, 1);
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        real *logits = array_random(M * E, &rng), *bias = array(E);
        RouterShape s = shape(E, K, M);
        s.score = sigmoid ? SCORE_SIGMOID : SCORE_SOFTMAX;
        Routing plain = route(logits, NULL, M, s), even = route(logits, bias, M, s);
        CHECK(!memcmp(plain.expert, even.expert, M * K * sizeof(int)) && same_bits(plain.weight, even.weight, M * K),
              "a bias of zeros changes something");
        bias[6] = 10, bias[4] = 20;
        Routing moved = route(logits, bias, M, s);
        CHECK(same_bits(plain.score, moved.score, M * E), "the bias changes scores");
        for (size_t m = 0; m < M; m++) {
            double a = (double)plain.score[m * E + 4], b = (double)plain.score[m * E + 6];
            CHECK(moved.expert[m * K] == 4 && moved.expert[m * K + 1] == 6, "token %zu went to %d and %d", m,
                  moved.expert[m * K], moved.expert[m * K + 1]);
            CHECK(fabs((double)moved.weight[m * K] - a / (a + b)) <= 4 * EPSILON,
                  "the bias changes the weight of token %zu", m);
        }
    }
}

// A NaN logit must not lead out of bounds.
static void routing_nan(void) {
    enum { M = 3, E = 5, K = 5 };
    real *logits = array(M * E);
    for (size_t i = 0; i < M * E; i++) logits[i] = (real)NAN;
    RouterShape s = shape(E, K, M);
    Routing r = route(logits, NULL, M, s);
    check_slots(&r, M, s);
    for (size_t i = 0; i < M * K; i++) CHECK(isnan(r.weight[i]), "a weight made of NaN is %g", (double)r.weight[i]);
}

// A bias can select experts whose softmax score is 0: a weight that is scaled to sum 1 must not become 0/0.
static void scores_of_zero(void) {
    enum { E = 4, K = 2 };
    real logits[E] = {200, 0, 0, 0}, bias[E] = {0, 0, 2, 2}, weight[K] = {1, 1}, dlogits[E];
    RouterShape s = shape(E, K, 1);
    Routing r = route(logits, bias, 1, s);
    CHECK(r.expert[0] == 2 && r.expert[1] == 3, "the bias selects %d and %d", r.expert[0], r.expert[1]);
    for (int k = 0; k < K; k++) CHECK(isfinite(r.weight[k]), "weight %d is %g", k, (double)r.weight[k]);
    route_backward(dlogits, weight, &r, 1, s);
    for (int e = 0; e < E; e++) CHECK(isfinite(dlogits[e]), "the gradient of logit %d is %g", e, (double)dlogits[e]);
}

// ---- routers that do not choose K experts ----------------------------------------------------------

static bool same_pool(size_t a, size_t b, RouterShape s) {
    if (s.pool == POOL_ALL) return true;
    if (s.pool == POOL_BATCH) return a % s.T == b % s.T;
    return a / s.T == b / s.T && a % s.T / s.pool_tokens == b % s.T / s.pool_tokens;
}

// Fewer tokens of m's pool than the expert's share come before it.
static bool expert_takes(const real *score, size_t m, size_t e, size_t M, RouterShape s) {
    size_t before = 0, tokens = 0;
    for (size_t i = 0; i < M; i++) {
        real mine = score[m * s.E + e], other = score[i * s.E + e];
        if (!same_pool(m, i, s)) continue;
        tokens++, before += other > mine || (other == mine && i < m);
    }
    double share = fmax(1, floor((double)tokens * (double)s.K / (double)s.E + 0.5));
    return (double)before < share;
}

static bool is_chosen(const real *score, const real *threshold, size_t m, size_t e, size_t M, RouterShape s) {
    if (s.choice == CHOOSE_TOKENS) return expert_takes(score, m, e, M, s);
    return s.choice == CHOOSE_ALL || score[m * s.E + e] > (threshold ? threshold[e] : 0);
}

// Choices stand in order of experts, their weights are scores, and what is above the capacity is dropped.
static void check_choices(const Routing *r, const real *threshold, size_t M, RouterShape s) {
    size_t *used = array_bytes(s.E * sizeof *used), i = 0, copies = 0;
    for (size_t m = 0; m < M; m++) {
        if (m % s.T == 0) memset(used, 0, s.E * sizeof *used);
        CHECK(r->first[m] == i, "the choices of token %zu begin at %zu, expected %zu", m, r->first[m], i);
        for (size_t e = 0; e < s.E; e++) {
            if (!is_chosen(r->score, threshold, m, e, M, s)) continue;
            bool kept = !s.capacity || used[e]++ < s.capacity;
            CHECK(r->expert[i] == (int)e, "token %zu: expert %d, expected %zu", m, r->expert[i], e);
            CHECK(same_bits(&r->weight[i], &(real){r->score[m * s.E + e] * (real)s.scale}, 1), "weight %g of score %g",
                  (double)r->weight[i], (double)r->score[m * s.E + e]);
            CHECK((r->slot[i] >= 0) == kept && (!kept || r->token[r->slot[i]] == (int)m),
                  "token %zu, expert %zu: slot %d", m, e, r->slot[i]);
            i++, copies += kept;
        }
    }
    CHECK(r->first[M] == i && i <= route_max_choices(M, s), "%zu choices, expected %zu, room for %zu", r->first[M], i,
          route_max_choices(M, s));
    CHECK(r->copies == copies && r->start[s.E] == copies, "%zu copies, expected %zu", r->copies, copies);
}

static void choices(void) {
    Rng rng = rng_stream(4, RNG_TEST, 7);
    for (int draw = 0; draw < 600; draw++) {
        size_t E = 1 + rng_below(&rng, 9), T = 1 + rng_below(&rng, 12), M = T * 3;
        RouterShape s = shape(E, 1 + rng_below(&rng, (uint32_t)E), T);
        s.choice = CHOOSE_ALL + (Choice)rng_below(&rng, 3), s.score = (Score)rng_below(&rng, 3), s.normalise = false;
        s.scale = draw & 1 ? 2.5 : 1;
        s.pool = (PoolKind)rng_below(&rng, 3), s.pool_tokens = 1 + rng_below(&rng, (uint32_t)T);
        s.capacity = s.choice != CHOOSE_TOKENS && draw & 2 ? 1 + rng_below(&rng, (uint32_t)T) : 0;
        real *logits = array_random(M * E, &rng), *threshold = draw & 4 ? array_random(E, &rng) : NULL;
        for (size_t i = 0; i < M * E && draw & 8; i++) logits[i] = (real)floor(3 * (double)logits[i]);    // many ties
        Routing r = make_routing(M, E, E);
        route_forward(&r, logits, threshold, M, s);
        for (size_t i = 0; i < M * E && s.score == SCORE_RELU; i++)
            CHECK(r.score[i] == (logits[i] > 0 ? logits[i] : 0), "score %g of logit %g", (double)r.score[i],
                  (double)logits[i]);
        check_choices(&r, threshold, M, s);
        arrays_free();
    }
}

// By hand: capacity 2 of three tokens that all want expert 0 first. The first two get it, the third only its second.
static void capacity(void) {
    enum { M = 6, E = 3, K = 2 };
    real logits[M * E];
    for (size_t m = 0; m < M; m++) logits[m * E] = 2, logits[m * E + 1] = m % 3 == 2, logits[m * E + 2] = m % 3 != 2;
    RouterShape s = shape(E, K, 3);
    s.capacity = 2;
    Routing r = route(logits, NULL, M, s);
    static const bool kept[M * K] = {1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1};
    for (size_t i = 0; i < M * K; i++)
        CHECK((r.slot[i] >= 0) == kept[i], "choice %zu of token %zu: slot %d", i % K, i / K, r.slot[i]);
    CHECK(r.count[0] == 4 && r.count[1] == 2 && r.count[2] == 4 && r.copies == 10, "%zu, %zu and %zu copies",
          r.count[0], r.count[1], r.count[2]);
    real x[M] = {1, 2, 3, 4, 5, 6}, sorted[M * K], y[M], dx[M] = {0}, dsorted[M * K], dweight[M * K];
    dispatch_forward(sorted, x, &r, 1);
    combine_forward(y, sorted, &r, M, 1);
    combine_backward(dsorted, dweight, x, sorted, &r, M, 1);
    dispatch_backward(dx, dsorted, &r, M, 1);
    real lost = 3 * r.weight[5];
    CHECK(fabs((double)(y[2] - lost)) <= 4 * EPSILON && fabs((double)y[0] - 1) <= 4 * EPSILON,
          "token 2 keeps %g of itself, expected %g", (double)y[2], (double)lost);
    CHECK(same_bits(dx, y, M), "the gradient of a sum of copies is that sum");
    CHECK(dweight[4] == 0 && dweight[5] == 9, "a dropped choice has gradient %g", (double)dweight[4]);
}

static int descending(const void *a, const void *b) {
    real x = *(const real *)a, y = *(const real *)b;
    return (x < y) - (x > y);
}

static void selection(void) {
    Rng rng = rng_stream(4, RNG_TEST, 8);
    for (int draw = 0; draw < 500; draw++) {
        size_t n = 1 + rng_below(&rng, 40), k = 1 + rng_below(&rng, (uint32_t)n);
        real *x = array_random(n, &rng);
        for (size_t i = 0; i < n && draw & 1; i++) x[i] = (real)floor(3 * (double)x[i]);
        real *y = array_copy(x, n), found = kth_largest(x, n, k);
        qsort(y, n, sizeof *y, descending);
        CHECK(found == y[k - 1], "the %zu-th largest of %zu is %g, expected %g", k, n, (double)found, (double)y[k - 1]);
        arrays_free();
    }
}

// Every token has K different experts with equal weights, by its number and the layer's seed alone; over many numbers
// the experts get their share: 4000 draws of 3 from 8 are 1500 each, with a deviation of 31; six of them are allowed.
static void hashing(void) {
    enum { M = 4000, E = 8, K = 3 };
    int *id = array_bytes(M * sizeof *id);
    for (int i = 0; i < M; i++) id[i] = i % (M - 1);        // the last is the first again
    Routing r = make_routing(M, E, K), other = make_routing(M, E, K);
    RouterShape s = shape(E, K, M);
    route_by_hash(&r, id, 0, M, s), route_by_hash(&other, id, 1, M, s);
    check_slots(&r, M, s);
    for (size_t m = 0; m < M; m++)
        for (size_t k = 0; k < K; k++) {
            const int *e = r.expert + m * K;
            CHECK(e[k] != e[(k + 1) % K], "token %zu has expert %d twice", m, e[k]);
            CHECK(r.weight[m * K + k] == (real)(1.0 / K), "weight %g", (double)r.weight[m * K + k]);
        }
    CHECK(!memcmp(r.expert, r.expert + (M - 1) * K, K * sizeof(int)), "the same token has other experts");
    CHECK(memcmp(r.expert, other.expert, M * K * sizeof(int)), "layers are alike");
    for (size_t e = 0; e < E; e++) CHECK(fabs((double)r.count[e] - 1500) < 6 * 31, "expert %zu: %zu", e, r.count[e]);
}

// ---- soft routing --------------------------------------------------------------------------------

// exp(logits[at]) over its sum along a column of the pool, or along its row.
static double soft_weight(const real *logits, size_t m, size_t j, size_t M, bool over_tokens, RouterShape s) {
    size_t columns = s.E * s.slots;
    double sum = 0, mine = exp((double)logits[m * columns + j]);
    for (size_t i = 0; i < M && over_tokens; i++)
        if (same_pool(m, i, s)) sum += exp((double)logits[i * columns + j]);
    for (size_t i = 0; i < columns && !over_tokens; i++) sum += exp((double)logits[m * columns + i]);
    return mine / sum;
}

// Experts that double their slots, so that y = 2 sum_j Y_mj sum_i D_ij x_i over the tokens i of m's pool.
static double soft_output(const real *logits, const real *x, size_t m, size_t c, size_t M, size_t C, RouterShape s) {
    double y = 0;
    for (size_t j = 0; j < s.E * s.slots; j++) {
        double slot = 0;
        for (size_t i = 0; i < M; i++)
            if (same_pool(m, i, s)) slot += soft_weight(logits, i, j, M, true, s) * (double)x[i * C + c];
        y += 2 * soft_weight(logits, m, j, M, false, s) * slot;
    }
    return y;
}

static void soft(void) {
    Rng rng = rng_stream(4, RNG_TEST, 9);
    for (int draw = 0; draw < 40; draw++) {
        size_t E = 1 + rng_below(&rng, 5), T = 1 + rng_below(&rng, 7), M = T * 2, C = 1 + rng_below(&rng, 20);
        RouterShape s = shape(E, 1, T);
        s.slots = 1 + rng_below(&rng, 4);
        s.pool = (PoolKind)(draw % 3), s.pool_tokens = 1 + rng_below(&rng, (uint32_t)T);
        size_t columns = E * s.slots, rows = soft_rows(M, s);
        real *logits = array_random(M * columns, &rng), *x = array_random(M * C, &rng), *sorted = array(rows * C),
             *y = array(M * C);
        double *expected = array_bytes(M * C * sizeof *expected);
        Mixing w = {array(M * columns), array(M * columns)};
        Routing r = make_routing(M, E, 1);
        soft_route_forward(&r, w, logits, M, s);
        soft_dispatch_forward(sorted, x, w, M, C, s);
        for (size_t i = 0; i < rows * C; i++) sorted[i] *= 2;
        soft_combine_forward(y, sorted, w, M, C, s);
        for (size_t i = 0; i < M * C; i++) expected[i] = soft_output(logits, x, i / C, i % C, M, C, s);
        CHECK(largest_error(y, expected, M * C) <= 32 * EPSILON,
              "pool %d of %zu, %zu experts with %zu slots: off by %g", s.pool, s.pool_tokens, E, s.slots,
              largest_error(y, expected, M * C));
        CHECK(r.copies == rows && r.start[E] == rows && r.start[1] == rows / E, "%zu slots of %zu", r.copies, rows);
        arrays_free();
    }
}

// Alone, all slots of an expert hold the token itself: y = sum over experts of (sum of their Y) f(x).
static void soft_alone(void) {
    enum { M = 5, E = 3, S = 4 };
    Rng rng = rng_stream(4, RNG_TEST, 10);
    real *logits = array_random(M * E * S, &rng), *out = array(M * E * S);
    RouterShape s = shape(E, 1, M);
    s.slots = S;
    Routing r = make_routing(M, E, E);
    soft_route_alone(&r, out, logits, M, s);
    for (size_t i = 0; i < M * E; i++) {
        double weight = 0;
        for (size_t j = 0; j < S; j++) weight += soft_weight(logits, i / E, i % E * S + j, M, false, s);
        CHECK(r.expert[i] == (int)(i % E) && fabs((double)r.weight[i] - weight) <= 8 * EPSILON,
              "weight %g, expected %g", (double)r.weight[i], weight);
    }
}

// ---- balancing losses ----------------------------------------------------------------------------

// Two sequences of two tokens, two experts, one choice each; scores are 3/4 and 1/4.
//   first: both choose expert 0: f = (1, 0), P = (3/4, 1/4), loss 2 (1 * 3/4) = 3/2
//   second: one each: f = P = (1/2, 1/2), loss 2 (1/4 + 1/4) = 1
// Log-partitions: log(3 + 1) for each token, so the z-loss is log(4)^2 per sequence.
static void losses_by_hand(void) {
    const real three = (real)1.0986122886681098;      // log 3
    real logits[8] = {three, 0, three, 0, three, 0, 0, three};
    RouterShape s = shape(2, 1, 2);
    Routing r = route(logits, NULL, 4, s);
    double balance = route_balance_loss(&r, 4, s), z = route_z_loss(&r, 4, s), log4 = 1.3862943611198906;
    CHECK(fabs(balance - 2.5) <= 8 * EPSILON, "balance loss %.9g, expected 2.5", balance);
    CHECK(fabs(z - 2 * log4 * log4) <= 16 * EPSILON, "z-loss %.9g, expected %.9g", z, 2 * log4 * log4);
    // Sigmoid scores of log 3 and 0 are 3/4 and 1/2; they count in proportion: 3/5 and 2/5, so 2 * 3/5 + 1.
    s.score = SCORE_SIGMOID;
    Routing g = route(logits, NULL, 4, s);
    balance = route_balance_loss(&g, 4, s);
    CHECK(fabs(balance - 2.2) <= 8 * EPSILON, "balance loss of sigmoid scores %.9g, expected 2.2", balance);
}

// E sum f P is 1 per sequence when all scores are equal, and E when one expert gets everything.
static void losses_at_the_ends(void) {
    enum { M = 6, E = 4, K = 2 };
    real *logits = array(M * E);
    RouterShape s = shape(E, K, 3);
    Routing even = route(logits, NULL, M, s);
    double balance = route_balance_loss(&even, M, s);
    CHECK(fabs(balance - 2) <= 8 * EPSILON, "equal scores: %.9g for two sequences, expected 2", balance);
    for (size_t m = 0; m < M; m++) logits[m * E + 3] = 60;
    RouterShape one = shape(E, 1, 3);
    Routing all = route(logits, NULL, M, one);
    balance = route_balance_loss(&all, M, one);
    CHECK(fabs(balance - 2 * E) <= 32 * EPSILON, "one expert gets all: %.9g for two sequences, expected %d", balance,
          2 * E);
}

// The first sequence of losses_by_hand, but a bias sends both tokens to expert 1: the loss is that of the scores, as in
// DeepSeek-V3's eq. 18, not 2 (1 * 1/4) = 1/2.
static void losses_without_bias(void) {
    const real three = (real)1.0986122886681098;      // log 3
    real logits[4] = {three + 1, 1, three, 0}, bias[2] = {0, 1}, dlogits[4], dweight[2] = {0}, expected[4];
    RouterShape s = shape(2, 1, 2);
    s.biased = true, s.aux = 1;
    Routing r = route(logits, bias, 2, s), plain = route(logits, NULL, 2, s);
    CHECK(r.expert[0] == 1 && r.expert[1] == 1 && plain.expert[0] == 0, "the bias moves the selection");
    double balance = route_balance_loss(&r, 2, s);
    CHECK(fabs(balance - 1.5) <= 8 * EPSILON, "balance loss %.9g, expected 1.5", balance);
    route_backward(dlogits, dweight, &r, 2, s), route_backward(expected, dweight, &plain, 2, s);
    CHECK(same_bits(dlogits, expected, 4), "the gradient of the loss is that of the scores alone");
}

// Loads that sum to 288: expert 5 has the mean, which a sum of sixths in doubles misses (47.99999999999999).
static void bias_moves_by_whole_loads(void) {
    const double load[6] = {16, 70, 45, 72, 37, 48}, scaled[6] = {1600, 7000, 4500, 7200, 3700, 4800};
    static const real expected[6] = {1, -1, 1, -1, 1, 0};
    real bias[6] = {0};
    route_move_bias(bias, load, 6, 0.5), route_move_bias(bias, scaled, 6, 0.5);
    for (size_t e = 0; e < 6; e++)
        CHECK(bias[e] == expected[e], "expert %zu with load %g of 288 moves by %g", e, load[e], (double)bias[e]);
}

// ---- dispatch ------------------------------------------------------------------------------------

enum { TOKENS = 11, EXPERTS = 5, CHOICES = 3 };

static Routing random_routing(Rng *rng, bool dead) {
    real *logits = array_random(TOKENS * EXPERTS, rng);
    for (size_t m = 0; m < TOKENS && dead; m++) logits[m * EXPERTS + 1] = logits[m * EXPERTS + 4] = -20;
    return route(logits, NULL, TOKENS, shape(EXPERTS, CHOICES, TOKENS));
}

static void dispatch(void) {
    Rng rng = rng_stream(4, RNG_TEST, 2);
    for (size_t C = 1; C < 40; C += C < 3 || (C > 13 && C < 18) ? 1 : 5) {
        Routing r = random_routing(&rng, false);
        size_t copies = TOKENS * CHOICES;
        real *x = array_random(TOKENS * C, &rng), *sorted = array(copies * C), *back = array_random(copies * C, &rng),
             *dx = array_random(TOKENS * C, &rng);
        real *y = array(TOKENS * C), *dsorted = array(copies * C), *dweight = array(copies);
        double *edx = array_bytes(TOKENS * C * sizeof(double)), *ey = array_bytes(TOKENS * C * sizeof(double));
        double *edsorted = array_bytes(copies * C * sizeof(double)), *edweight = array_bytes(copies * sizeof(double));
        for (size_t i = 0; i < TOKENS * C; i++) edx[i] = (double)dx[i];
        for (size_t i = 0; i < copies; i++)
            for (size_t c = 0; c < C; c++) {
                size_t at = i / CHOICES * C + c, to = (size_t)r.slot[i] * C + c;
                edx[at] += (double)back[to], ey[at] += (double)r.weight[i] * (double)back[to];
                edsorted[to] = (double)r.weight[i] * (double)x[at], edweight[i] += (double)x[at] * (double)back[to];
            }
        dispatch_forward(sorted, x, &r, C);
        for (size_t i = 0; i < copies; i++)
            CHECK(same_bits(sorted + i * C, x + (size_t)r.token[i] * C, C), "slot %zu is not its token", i);
        dispatch_backward(dx, back, &r, TOKENS, C);
        combine_forward(y, back, &r, TOKENS, C);
        combine_backward(dsorted, dweight, x, back, &r, TOKENS, C);
        CHECK(largest_error(dx, edx, TOKENS * C) <= 4 * EPSILON, "dispatch_backward, C %zu", C);
        CHECK(largest_error(y, ey, TOKENS * C) <= 4 * EPSILON, "combine_forward, C %zu", C);
        CHECK(largest_error(dsorted, edsorted, copies * C) <= EPSILON, "combine_backward, C %zu", C);
        CHECK(largest_error(dweight, edweight, copies) <= 16 * EPSILON, "combine_backward, weights, C %zu", C);
        arrays_free();
    }
}

// All experts with equal gates: the output is the mean of theirs. Four halves of 1/4: exact.
static void mean_of_experts(void) {
    enum { M = 3, E = 4, C = 18 };
    Rng rng = rng_stream(4, RNG_TEST, 3);
    real *logits = array(M * E), *sorted = array_random(M * E * C, &rng), *y = array(M * C);
    Routing r = route(logits, NULL, M, shape(E, E, M));
    combine_forward(y, sorted, &r, M, C);
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c++) {
            double mean = 0;
            for (size_t e = 0; e < E; e++) mean += (double)sorted[(e * M + m) * C + c] / E;
            CHECK(fabs((double)y[m * C + c] - mean) <= 2 * EPSILON, "token %zu: %g, the mean is %g", m,
                  (double)y[m * C + c], mean);
        }
}

// ---- experts -------------------------------------------------------------------------------------

// Each expert is a dense layer over its tokens, bit for bit; one without tokens leaves everything alone.
static void check_experts(bool dead, size_t N, size_t K, Rng *rng) {
    Routing r = random_routing(rng, dead);
    size_t copies = TOKENS * CHOICES, ldx = K + 2, ldy = N + 3, each = packed_size(K, N);
    real *w = array_random(EXPERTS * N * K, rng), *packed = array(EXPERTS * each), *x = array_random(copies * ldx, rng),
         *dy = array_random(copies * ldy, rng);
    real *y = array_random(copies * ldy, rng), *dx = array_random(copies * ldx, rng),
         *dw = array_random(EXPERTS * N * K, rng);
    real *ey = array_copy(y, copies * ldy), *edx = array_copy(dx, copies * ldx), *edw = array_copy(dw, EXPERTS * N * K);
    linear_pack(packed, w, EXPERTS, N, K);
    for (size_t e = 0; e < EXPERTS; e++) {
        size_t first = r.start[e], tokens = r.count[e];
        CHECK(!dead || (e != 1 && e != 4) || !tokens, "expert %zu should have no token", e);
        Product p[3] = {
            {.c = ey + first * ldy, .ldc = ldy, .a = x + first * ldx, .a_row = ldx, .a_col = 1, .b = w + e * N * K,
             .b_row = 1, .b_col = K, .M = tokens, .N = N, .K = K},
            {.c = edx + first * ldx, .ldc = ldx, .a = dy + first * ldy, .a_row = ldy, .a_col = 1, .b = w + e * N * K,
             .b_row = K, .b_col = 1, .M = tokens, .N = K, .K = N, .accumulate = true},
            {.c = edw + e * N * K, .ldc = K, .a = dy + first * ldy, .a_row = 1, .a_col = ldy, .b = x + first * ldx,
             .b_row = ldx, .b_col = 1, .M = N, .N = K, .K = tokens, .accumulate = true},
        };
        products_naive(p, 3);
    }
    experts_forward(y, ldy, x, ldx, packed, &r, EXPERTS, N, K);
    experts_backward_input(dx, ldx, dy, ldy, w, &r, EXPERTS, N, K, true);
    experts_backward_weight(dw, dy, ldy, x, ldx, &r, EXPERTS, N, K);
    CHECK(same_bits(y, ey, copies * ldy), "forward, N %zu K %zu", N, K);
    CHECK(same_bits(dx, edx, copies * ldx), "gradient of the input, N %zu K %zu", N, K);
    CHECK(same_bits(dw, edw, EXPERTS * N * K), "gradient of the weights, N %zu K %zu", N, K);
    arrays_free();
}

static void experts(void) {
    Rng rng = rng_stream(4, RNG_TEST, 4);
    for (int dead = 0; dead < 2; dead++)
        for (size_t N = 1; N < 70; N += 17)
            for (size_t K = 1; K < 70; K += 13) check_experts(dead, N, K, &rng);
}

// More experts than fit on the stack of the implementation, most of them without a token.
static void many_experts(void) {
    enum { E = 300, M = 5, N = 3, K = 4 };
    Rng rng = rng_stream(4, RNG_TEST, 5);
    real *logits = array_random(M * E, &rng), *w = array_random(E * N * K, &rng), *x = array_random(M * K, &rng),
         *y = array(M * N), *e = array(M * N);
    real *packed = array(E * packed_size(K, N)), *dlogits = array(M * E), weight[M] = {1, 1, 1, 1, 1};
    RouterShape s = shape(E, 1, M);
    s.aux = 0.1;
    Routing r = route(logits, NULL, M, s);
    linear_pack(packed, w, E, N, K);
    experts_forward(y, N, x, K, packed, &r, E, N, K);
    for (size_t i = 0; i < M; i++)
        products_naive(&(Product){.c = e + i * N, .ldc = N, .a = x + i * K, .a_row = K, .a_col = 1,
                                  .b = w + (size_t)r.expert[r.token[i]] * N * K, .b_row = 1, .b_col = K, .M = 1, .N = N,
                                  .K = K},
                       1);
    CHECK(same_bits(y, e, M * N), "300 experts");
    route_backward(dlogits, weight, &r, M, s);
    for (size_t i = 0; i < M * E; i++) CHECK(isfinite(dlogits[i]), "gradient %g", (double)dlogits[i]);
}

// ---- threads -------------------------------------------------------------------------------------

static void threads(void) {
    enum { M = 400, E = 20, K = 4, C = 24 };
    static const int counts[] = {1, 2, 3, 8};
    Rng rng = rng_stream(4, RNG_TEST, 6);
    real *logits = array_random(M * E, &rng), *x = array_random(M * C, &rng), *sorted = array(M * K * C),
         *y = array(M * C), *dlogits = array(M * E);
    real *dsorted = array(M * K * C), *dweight = array(M * K), *dx = array(M * C);
    RouterShape s = shape(E, K, 50);
    s.aux = 0.1, s.z = 0.01;
    Routing r = make_routing(M, E, K);
    uint64_t one = 0;
    for (int t = 0; t < 4; t++) {
        omp_set_num_threads(counts[t]);
        memset(dx, 0, M * C * sizeof *dx);
        route_forward(&r, logits, NULL, M, s);
        dispatch_forward(sorted, x, &r, C);
        combine_forward(y, sorted, &r, M, C);
        combine_backward(dsorted, dweight, x, sorted, &r, M, C);
        dispatch_backward(dx, dsorted, &r, M, C);
        route_backward(dlogits, dweight, &r, M, s);
        uint64_t h = hash_bytes(hash_bytes(HASH_START, y, M * C * sizeof *y), dlogits, M * E * sizeof *dlogits);
        h = hash_bytes(hash_bytes(h, dx, M * C * sizeof *dx), r.slot, M * K * sizeof *r.slot);
        if (!t) one = h;
        CHECK(h == one, "%d threads give other bits than one", counts[t]);
    }
}

// Pools over time, batch and both; soft weights, forward and backward.
static void threads_of_pools(void) {
    enum { M = 600, E = 12, K = 3, C = 20, T = 100, S = 25 };
    Rng rng = rng_stream(4, RNG_TEST, 11);
    real *logits = array_random(M * E * S, &rng), *x = array_random(M * C, &rng), *y = array(M * C), *dx = array(M * C);
    for (int pool = 0; pool < 3; pool++) {
        RouterShape s = shape(E, K, T);
        s.choice = CHOOSE_TOKENS, s.pool = (PoolKind)pool, s.pool_tokens = 30, s.slots = S, s.normalise = false;
        size_t rows = soft_rows(M, s);
        Routing r = make_routing(M, E, E);
        real *sorted = array(rows * C), *dsorted = array(rows * C), *dlogits = array(M * E * S);
        Mixing w = {array(M * E * S), array(M * E * S)}, dw = {array(M * E * S), array(M * E * S)};
        uint64_t one = 0;
        for (int t = 1; t <= 8; t += t < 3 ? 1 : 5) {
            omp_set_num_threads(t);
            route_forward(&r, logits, NULL, M, s);
            uint64_t h = hash_bytes(HASH_START, r.slot, r.first[M] * sizeof *r.slot);
            soft_route_forward(&r, w, logits, M, s);
            soft_dispatch_forward(sorted, x, w, M, C, s);
            soft_combine_forward(y, sorted, w, M, C, s);
            soft_combine_backward(dsorted, dw, x, sorted, w, M, C, s);
            soft_dispatch_backward(dx, dw, dsorted, x, w, M, C, s);
            soft_route_backward(dlogits, dw, w, M, s);
            h = hash_bytes(hash_bytes(h, y, M * C * sizeof *y), dx, M * C * sizeof *dx);
            h = hash_bytes(h, dlogits, M * E * S * sizeof *dlogits);
            if (t == 1) one = h;
            CHECK(h == one, "pool %d: %d threads give other bits than one", pool, t);
        }
    }
}

static const Test tests[] = {
    {"moe/invariants", "the K best, weights that sum to 1, slots that are a permutation sorted by expert", invariants},
    {"moe/ties", "of equal experts the lowest are chosen", ties},
    {"moe/groups", "choices from the best groups of experts, against a plain reading of the definition", groups},
    {"moe/bias", "a selection bias moves the selection and nothing else", bias_moves_the_selection},
    {"moe/nan", "logits of NaN stay in bounds and stay NaN", routing_nan},
    {"moe/bias-loss", "the balancing loss counts what the scores alone would choose", losses_without_bias},
    {"moe/bias-moves", "an expert at the mean load keeps its bias, also among six", bias_moves_by_whole_loads},
    {"moe/zero-scores", "experts chosen by their bias with a score of 0", scores_of_zero},
    {"moe/choices", "all experts, those above a threshold, those that choose tokens of a pool: against plain loops",
     choices},
    {"moe/capacity", "full experts drop the later tokens of a sequence, whose copies then count as zero", capacity},
    {"moe/selection", "the k-th largest of numbers with and without ties", selection},
    {"moe/hash", "K experts by a token's number: different, fixed, and evenly spread", hashing},
    {"moe/soft", "soft routing over every kind of pool, against the sums that define it", soft},
    {"moe/soft-alone", "a token without a pool passes every expert once", soft_alone},
    {"moe/losses", "balance loss and z-loss of a small example, by hand", losses_by_hand},
    {"moe/losses-ends", "balance loss of equal scores, and of one expert that gets everything", losses_at_the_ends},
    {"moe/dispatch", "copies to experts, weighted sums back, and their gradients", dispatch},
    {"moe/mean", "all experts with equal gates are their mean", mean_of_experts},
    {"moe/experts", "every expert is a dense layer over its tokens, bit for bit; dead ones stay untouched", experts},
    {"moe/many-experts", "300 experts, most of them without a token", many_experts},
    {"moe/threads", "1, 2, 3 and 8 threads give the same bits", threads},
    {"moe/threads-pools", "also where tokens are pooled", threads_of_pools},
};
REGISTER_TESTS(tests)

// test_moe.c: routing and its invariants, balancing losses by hand, dispatch, and the experts' products
// against the dense layer. Gradients of the routers are in test_gradients.c.
#include "arrays.h"
#include "../lib/matmul.h"
#include "../moe.h"
#include <omp.h>
#include <stdlib.h>

static Routing make_routing(size_t M, size_t E, size_t K) {
    return (Routing){.score = array(M * E), .log_sum = array(M), .expert = array_bytes(M * K * sizeof(int)),
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
    return s.sigmoid ? 1 / (1 + exp(-(double)logits[e])) : exp((double)logits[e] - *log_sum);
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
        s.sigmoid = draw & 1, s.normalise = draw & 2, s.scale = draw & 4 ? 2.5 : 1;
        real *logits = array_random(M * E, &rng), *bias = draw & 8 ? array_random(E, &rng) : NULL;
        for (size_t i = 0; i < M * E; i++)
            logits[i] = draw & 16 ? (real)floor(3 * (double)logits[i]) : 3 * logits[i];    // many ties
        Routing r = route(logits, bias, M, s);
        for (size_t m = 0; m < M; m++) check_choice(&r, bias, m, s), check_weights(&r, logits + m * E, m, s);
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
        s.sigmoid = sigmoid;
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
    s.sigmoid = true;
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
        dispatch_forward(sorted, x, &r, TOKENS, CHOICES, C);
        for (size_t i = 0; i < copies; i++)
            CHECK(same_bits(sorted + i * C, x + (size_t)r.token[i] * C, C), "slot %zu is not its token", i);
        dispatch_backward(dx, back, &r, TOKENS, CHOICES, C);
        combine_forward(y, back, &r, TOKENS, CHOICES, C);
        combine_backward(dsorted, dweight, x, back, &r, TOKENS, CHOICES, C);
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
    combine_forward(y, sorted, &r, M, E, C);
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
    for (size_t e = 0; e < EXPERTS; e++) {
        size_t first = r.start[e], tokens = r.count[e];
        linear_pack(packed + e * each, w + e * N * K, N, K);
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
    for (size_t i = 0; i < E; i++) linear_pack(packed + i * packed_size(K, N), w + i * N * K, N, K);
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
        dispatch_forward(sorted, x, &r, M, K, C);
        combine_forward(y, sorted, &r, M, K, C);
        combine_backward(dsorted, dweight, x, sorted, &r, M, K, C);
        dispatch_backward(dx, dsorted, &r, M, K, C);
        route_backward(dlogits, dweight, &r, M, s);
        uint64_t h = hash_bytes(hash_bytes(HASH_START, y, M * C * sizeof *y), dlogits, M * E * sizeof *dlogits);
        h = hash_bytes(hash_bytes(h, dx, M * C * sizeof *dx), r.slot, M * K * sizeof *r.slot);
        if (!t) one = h;
        CHECK(h == one, "%d threads give other bits than one", counts[t]);
    }
}

static const Test tests[] = {
    {"moe/invariants", "the K best, weights that sum to 1, slots that are a permutation sorted by expert", invariants},
    {"moe/ties", "of equal experts the lowest are chosen", ties},
    {"moe/bias", "a selection bias moves the selection and nothing else", bias_moves_the_selection},
    {"moe/nan", "logits of NaN stay in bounds and stay NaN", routing_nan},
    {"moe/zero-scores", "experts chosen by their bias with a score of 0", scores_of_zero},
    {"moe/losses", "balance loss and z-loss of a small example, by hand", losses_by_hand},
    {"moe/losses-ends", "balance loss of equal scores, and of one expert that gets everything", losses_at_the_ends},
    {"moe/dispatch", "copies to experts, weighted sums back, and their gradients", dispatch},
    {"moe/mean", "all experts with equal gates are their mean", mean_of_experts},
    {"moe/experts", "every expert is a dense layer over its tokens, bit for bit; dead ones stay untouched", experts},
    {"moe/many-experts", "300 experts, most of them without a token", many_experts},
    {"moe/threads", "1, 2, 3 and 8 threads give the same bits", threads},
};
REGISTER_TESTS(tests)

// moe.c: routers, their balancing, dispatch and the grouped products of the experts.
#include "moe.h"
#include "lib/matmul.h"
#include "lib/numeric.h"
#include "lib/ops.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include <omp.h>
#include <stdlib.h>

enum { SMALL = 1 << 14, FEW_EXPERTS = 64 };
// Added to the sum that weights are divided by, as in DeepSeek-V3: a selection bias can choose experts whose
// scores are all 0. Next to any other sum it is too small to change a bit.
#define LEAST_SUM ((real)1e-20)
#define PRAGMA(text) _Pragma(#text)
#define ROWS(count, size) PRAGMA(omp parallel for if ((count) * (size) > SMALL))

// ---- choosing ------------------------------------------------------------------------------------

// The K experts with the largest score + bias, best first, and the weights of their outputs.
static void choose(int *expert, real *weight, const real *score, const real *bias, RouterShape s) {
    for (size_t k = 0; k < s.K; k++) {
        int best = -1;
        real most = 0;
        for (size_t e = 0; e < s.E; e++) {
            bool taken = false;
            for (size_t j = 0; j < k; j++) taken |= expert[j] == (int)e;
            real value = score[e] + (bias ? bias[e] : 0);
            if (!taken && (best < 0 || value > most)) best = (int)e, most = value;
        }
        expert[k] = best;
    }
    real sum = LEAST_SUM;
    for (size_t k = 0; k < s.K; k++) sum += weight[k] = score[expert[k]];
    for (size_t k = 0; k < s.K; k++) weight[k] = (s.normalise ? weight[k] / sum : weight[k]) * (real)s.scale;
}

static void sort_by_expert(Routing *r, size_t M, RouterShape s) {
    for (size_t e = 0; e < s.E; e++) r->count[e] = 0;
    for (size_t i = 0; i < M * s.K; i++) r->count[r->expert[i]]++;
    r->start[0] = 0;
    for (size_t e = 0; e < s.E; e++) r->start[e + 1] = r->start[e] + r->count[e], r->count[e] = 0;
    for (size_t i = 0; i < M * s.K; i++) {     // in order of tokens: a stable counting sort
        int e = r->expert[i];
        size_t slot = r->start[e] + r->count[e]++;
        r->slot[i] = (int)slot, r->token[slot] = (int)(i / s.K);
    }
}

void route_forward(Routing *r, const real *logits, const real *bias, size_t M, RouterShape s) {
    PROFILE(route, (PROFILE_EXP + 3 + (s.sigmoid ? PROFILE_SIGMOID : 0)) * M * s.E, 2 * M * s.E + 2 * M * s.K);
    ROWS(M, s.E * s.K)
    for (size_t m = 0; m < M; m++) {
        real *score = r->score + m * s.E;
        memcpy(score, logits + m * s.E, s.E * sizeof *score);
        r->log_sum[m] = (real)softmax_row(score, s.E);
        for (size_t i = 0; i < s.E && s.sigmoid; i += LANES)
            vec_store_at(score, i, s.E, vec_sigmoid(vec_load_at(logits + m * s.E, i, s.E)));
        choose(r->expert + m * s.K, r->weight + m * s.K, score, bias, s);
    }
    sort_by_expert(r, M, s);
}

// ---- balance -------------------------------------------------------------------------------------

static real score_total(const real *score, RouterShape s) {   // softmax scores sum to 1 by construction
    real sum = 0;
    for (size_t e = 0; e < s.E && s.sigmoid; e++) sum += score[e];
    return s.sigmoid ? sum : 1;
}

// E f_e / T of the sequence that starts at token `first`: the slope of its balance loss in P's sum.
static void balance_slope(real *slope, const Routing *r, size_t first, RouterShape s) {
    for (size_t e = 0; e < s.E; e++) slope[e] = 0;
    for (size_t i = first * s.K; i < (first + s.T) * s.K; i++) slope[r->expert[i]] += 1;
    for (size_t e = 0; e < s.E; e++) slope[e] *= (real)s.E / ((real)s.T * (real)s.K * (real)s.T);
}

double route_balance_loss(const Routing *r, size_t M, RouterShape s) {
    double loss = 0;
    real *slope = xmalloc(s.E * sizeof *slope);
    for (size_t first = 0; first < M; first += s.T) {
        balance_slope(slope, r, first, s);
        for (size_t m = first; m < first + s.T; m++) {
            const real *score = r->score + m * s.E;
            double total = (double)score_total(score, s);
            for (size_t e = 0; e < s.E; e++) loss += (double)slope[e] * (double)score[e] / total;
        }
    }
    free(slope);
    return loss;
}

double route_z_loss(const Routing *r, size_t M, RouterShape s) {
    double loss = 0;
    for (size_t m = 0; m < M; m++) loss += (double)r->log_sum[m] * (double)r->log_sum[m];
    return loss / (double)s.T;
}

// d loss / d score of one token: from the weights of its K experts, and from the balance loss.
static void score_backward(real *dscore, const real *dweight, const real *score, const int *expert, const real *weight,
                           const real *slope, RouterShape s) {
    for (size_t e = 0; e < s.E; e++) dscore[e] = 0;
    real chosen = LEAST_SUM, mean = 0;   // w_k = scale s_k / sum s: dL/ds_k = (scale dw_k - sum_j dw_j w_j) / sum s
    for (size_t k = 0; k < s.K; k++) chosen += score[expert[k]], mean += dweight[k] * weight[k];
    for (size_t k = 0; k < s.K; k++)
        dscore[expert[k]] = s.normalise ? (dweight[k] * (real)s.scale - mean) / chosen : dweight[k] * (real)s.scale;
    if (s.aux == 0) return;
    real total = score_total(score, s), dot = 0;     // P uses s_e / total: for softmax total is 1 and the second term is left to its own backward
    for (size_t e = 0; e < s.E && s.sigmoid; e++) dot += slope[e] * score[e] / total;
    for (size_t e = 0; e < s.E; e++) dscore[e] += (real)s.aux * (slope[e] - dot) / total;
}

// From d loss / d score to d loss / d logit, in place.
static void logit_backward(real *d, const real *score, RouterShape s) {
    real dot = 0;
    for (size_t e = 0; e < s.E && !s.sigmoid; e++) dot += d[e] * score[e];
    for (size_t e = 0; e < s.E; e++) d[e] = s.sigmoid ? d[e] * score[e] * (1 - score[e]) : score[e] * (d[e] - dot);
}

void route_backward(real *dlogits, const real *dweight, const Routing *r, size_t M, RouterShape s) {
    PROFILE(route, 8 * M * s.E, 2 * M * s.E + 2 * M * s.K);
    ROWS(M / s.T, s.T * s.E)
    for (size_t b = 0; b < M / s.T; b++) {
        real few[FEW_EXPERTS], *slope = s.E <= FEW_EXPERTS ? few : xmalloc(s.E * sizeof *slope);
        balance_slope(slope, r, b * s.T, s);
        for (size_t m = b * s.T; m < (b + 1) * s.T; m++) {
            const real *score = r->score + m * s.E;
            real *d = dlogits + m * s.E;
            score_backward(d, dweight + m * s.K, score, r->expert + m * s.K, r->weight + m * s.K, slope, s);
            logit_backward(d, score, s);
            real dz = (real)(2 * s.z / (double)s.T) * r->log_sum[m];     // the z-loss reads the softmax of the logits
            for (size_t e = 0; e < s.E && s.z > 0; e++) d[e] += dz * score[e];
        }
        if (slope != few) free(slope);
    }
}

// ---- dispatch ------------------------------------------------------------------------------------

void dispatch_forward(real *sorted, const real *x, const Routing *r, size_t M, size_t K, size_t C) {
    PROFILE(dispatch, 0, 2 * M * K * C);
    ROWS(M * K, C)
    for (size_t i = 0; i < M * K; i++) memcpy(sorted + i * C, x + (size_t)r->token[i] * C, C * sizeof *x);
}

void dispatch_backward(real *dx, const real *dsorted, const Routing *r, size_t M, size_t K, size_t C) {
    PROFILE(dispatch, M * K * C, (K + 2) * M * C);
    ROWS(M, K * C)
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c += LANES) {
            vec sum = vec_load_at(dx + m * C, c, C);
            for (size_t k = 0; k < K; k++) sum = vec_add(sum, vec_load_at(dsorted + (size_t)r->slot[m * K + k] * C, c, C));
            vec_store_at(dx + m * C, c, C, sum);
        }
}

void combine_forward(real *y, const real *sorted, const Routing *r, size_t M, size_t K, size_t C) {
    PROFILE(dispatch, 2 * M * K * C, (K + 1) * M * C);
    ROWS(M, K * C)
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c += LANES) {
            vec sum = vec_zero();
            for (size_t k = 0; k < K; k++)
                sum = vec_fma(vec_set(r->weight[m * K + k]), vec_load_at(sorted + (size_t)r->slot[m * K + k] * C, c, C), sum);
            vec_store_at(y + m * C, c, C, sum);
        }
}

void combine_backward(real *dsorted, real *dweight, const real *dy, const real *sorted, const Routing *r, size_t M, size_t K, size_t C) {
    PROFILE(dispatch, 3 * M * K * C, (2 * K + 1) * M * C);
    ROWS(M, K * C)
    for (size_t i = 0; i < M * K; i++) {
        const real *d = dy + i / K * C, *y = sorted + (size_t)r->slot[i] * C;
        vec dot = vec_zero(), weight = vec_set(r->weight[i]);
        for (size_t c = 0; c < C; c += LANES) {
            vec g = vec_load_at(d, c, C);
            dot = vec_fma(g, vec_load_at(y, c, C), dot);
            vec_store_at(dsorted + (size_t)r->slot[i] * C, c, C, vec_mul(weight, g));
        }
        dweight[i] = vec_sum(dot);
    }
}

// ---- experts -------------------------------------------------------------------------------------

// One product per expert over its own tokens: `set` moves the pointers of the common shape to expert e.
typedef struct { size_t first, tokens, ldx, ldy, weight; } Share;    // weight: where its matrix starts
typedef void SetShare(Product *p, Share s);
static void set_forward(Product *p, Share s) { p->M = s.tokens, p->a += s.first * s.ldx, p->c += s.first * s.ldy, p->packed += s.weight; }
static void set_input(Product *p, Share s) { p->M = s.tokens, p->a += s.first * s.ldy, p->c += s.first * s.ldx, p->b += s.weight; }
static void set_weight(Product *p, Share s) { p->K = s.tokens, p->a += s.first * s.ldy, p->b += s.first * s.ldx, p->c += s.weight; }

static void for_experts(Product shape, size_t E, const Routing *r, size_t ldx, size_t ldy, size_t weight_size, SetShare *set) {
    Product few[FEW_EXPERTS] = {{0}}, *p = E <= FEW_EXPERTS ? few : xmalloc(E * sizeof *p);
    for (size_t e = 0; e < E; e++) {
        p[e] = shape;
        set(&p[e], (Share){r->start[e], r->start[e + 1] - r->start[e], ldx, ldy, e * weight_size});
    }
    products(p, E);
    if (p != few) free(p);
}

void experts_forward(real *y, size_t ldy, const real *x, size_t ldx, const real *w_packed, const Routing *r, size_t E, size_t N, size_t K) {
    PROFILE(experts_forward, 2 * r->start[E] * N * K, r->start[E] * (N + K) + E * N * K);
    for_experts((Product){.c = y, .ldc = ldy, .a = x, .a_row = ldx, .a_col = 1, .packed = w_packed, .N = N, .K = K},
                E, r, ldx, ldy, packed_size(K, N), set_forward);
}

void experts_backward_input(real *dx, size_t ldx, const real *dy, size_t ldy, const real *w, const Routing *r, size_t E, size_t N, size_t K, bool accumulate) {
    PROFILE(experts_input, 2 * r->start[E] * N * K, r->start[E] * (N + K * (1 + (size_t)accumulate)) + E * N * K);
    for_experts((Product){.c = dx, .ldc = ldx, .a = dy, .a_row = ldy, .a_col = 1, .b = w, .b_row = K, .b_col = 1,
                          .N = K, .K = N, .accumulate = accumulate}, E, r, ldx, ldy, N * K, set_input);
}

void experts_backward_weight(real *dw, const real *dy, size_t ldy, const real *x, size_t ldx, const Routing *r, size_t E, size_t N, size_t K) {
    PROFILE(experts_weight, 2 * r->start[E] * N * K, r->start[E] * (N + K) + 2 * E * N * K);
    for_experts((Product){.c = dw, .ldc = K, .a = dy, .a_row = 1, .a_col = ldy, .b = x, .b_row = ldx, .b_col = 1,
                          .M = N, .N = K, .accumulate = true}, E, r, ldx, ldy, N * K, set_weight);
}

// dispatch.c: copies of tokens to experts and back, and the grouped products of the experts.
#include "kernels/dispatch.h"
#include "kernels/matmul.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <stdlib.h>

// ---- dispatch ------------------------------------------------------------------------------------
// A choice without a slot was dropped: its copy does not exist, and its output counts as zero.

void dispatch_forward(real *sorted, const real *x, const Routing *r, size_t C) {
    PROFILE(dispatch, 0, 2 * r->copies * C);
    PARALLEL_ROWS(r->copies, C)
    for (size_t i = 0; i < r->copies; i++) memcpy(sorted + i * C, x + (size_t)r->token[i] * C, C * sizeof *x);
}

void dispatch_backward(real *dx, const real *dsorted, const Routing *r, size_t M, size_t C) {
    PROFILE(dispatch, r->copies * C, (r->copies + 2 * M) * C);
    PARALLEL_ROWS(r->copies + M, C)
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c += LANES) {
            vec sum = vec_load_at(dx + m * C, c, C);
            for (size_t i = r->first[m]; i < r->first[m + 1]; i++)
                if (r->slot[i] >= 0) sum = vec_add(sum, vec_load_at(dsorted + (size_t)r->slot[i] * C, c, C));
            vec_store_at(dx + m * C, c, C, sum);
        }
}

void combine_forward(real *y, const real *sorted, const Routing *r, size_t M, size_t C) {
    PROFILE(dispatch, 2 * r->copies * C, (r->copies + M) * C);
    PARALLEL_ROWS(r->copies + M, C)
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c += LANES) {
            vec sum = vec_zero();
            for (size_t i = r->first[m]; i < r->first[m + 1]; i++)
                if (r->slot[i] >= 0)
                    sum = vec_fma(vec_set(r->weight[i]), vec_load_at(sorted + (size_t)r->slot[i] * C, c, C), sum);
            vec_store_at(y + m * C, c, C, sum);
        }
}

// One choice: dsorted = weight dy, dweight = dy . y.
static real choice_backward(real *dsorted, const real *dy, const real *y, real weight, size_t C) {
    vec dot = vec_zero(), w = vec_set(weight);
    for (size_t c = 0; c < C; c += LANES) {
        vec g = vec_load_at(dy, c, C);
        dot = vec_fma(g, vec_load_at(y, c, C), dot);
        vec_store_at(dsorted, c, C, vec_mul(w, g));
    }
    return vec_sum(dot);
}

void combine_backward(real *dsorted, real *dweight, const real *dy, const real *sorted, const Routing *r, size_t M,
                      size_t C) {
    PROFILE(dispatch, 3 * r->copies * C, (2 * r->copies + M) * C);
    PARALLEL_ROWS(r->copies + M, C)
    for (size_t m = 0; m < M; m++)
        for (size_t i = r->first[m]; i < r->first[m + 1]; i++) {
            size_t at = r->slot[i] < 0 ? 0 : (size_t)r->slot[i] * C;
            dweight[i] = r->slot[i] < 0 ? 0 : choice_backward(dsorted + at, dy + m * C, sorted + at, r->weight[i], C);
        }
}

// ---- experts -------------------------------------------------------------------------------------

// One product per expert over its own tokens: `set` moves the pointers of the common shape to expert e.
typedef struct { size_t first, tokens, ldx, ldy, weight; } Share;    // weight: where its matrix starts
typedef void SetShare(Product *p, Share s);
static void set_forward(Product *p, Share s) {
    p->M = s.tokens, p->a += s.first * s.ldx, p->c += s.first * s.ldy, p->packed += s.weight;
}
static void set_input(Product *p, Share s) {
    p->M = s.tokens, p->a += s.first * s.ldy, p->c += s.first * s.ldx, p->b += s.weight;
}
static void set_weight(Product *p, Share s) {
    p->K = s.tokens, p->a += s.first * s.ldy, p->b += s.first * s.ldx, p->c += s.weight;
}

static void for_experts(Product shape, size_t E, const Routing *r, size_t ldx, size_t ldy, size_t weight_size,
                        SetShare *set) {
    Product few[FEW_EXPERTS] = {{0}}, *p = E <= FEW_EXPERTS ? few : xmalloc(E * sizeof *p);
    for (size_t e = 0; e < E; e++) {
        p[e] = shape;
        set(&p[e], (Share){r->start[e], r->start[e + 1] - r->start[e], ldx, ldy, e * weight_size});
    }
    products(p, E);
    if (p != few) free(p);
}

void experts_forward(real *y, size_t ldy, const real *x, size_t ldx, const real *w_packed, const Routing *r, size_t E,
                     size_t N, size_t K) {
    PROFILE(experts_forward, 2 * r->start[E] * N * K, r->start[E] * (N + K) + E * N * K);
    for_experts((Product){.c = y, .ldc = ldy, .a = x, .a_row = ldx, .a_col = 1, .packed = w_packed, .N = N, .K = K},
                E, r, ldx, ldy, packed_size(K, N), set_forward);
}

void experts_backward_input(real *dx, size_t ldx, const real *dy, size_t ldy, const real *w, const Routing *r, size_t E,
                            size_t N, size_t K, bool accumulate) {
    PROFILE(experts_input, 2 * r->start[E] * N * K, r->start[E] * (N + K * (1 + (size_t)accumulate)) + E * N * K);
    for_experts((Product){.c = dx, .ldc = ldx, .a = dy, .a_row = ldy, .a_col = 1, .b = w, .b_row = K, .b_col = 1,
                          .N = K, .K = N, .accumulate = accumulate}, E, r, ldx, ldy, N * K, set_input);
}

void experts_backward_weight(real *dw, const real *dy, size_t ldy, const real *x, size_t ldx, const Routing *r,
                             size_t E, size_t N, size_t K) {
    PROFILE(experts_weight, 2 * r->start[E] * N * K, r->start[E] * (N + K) + 2 * E * N * K);
    for_experts((Product){.c = dw, .ldc = K, .a = dy, .a_row = 1, .a_col = ldy, .b = x, .b_row = ldx, .b_col = 1,
                          .M = N, .N = K, .accumulate = true}, E, r, ldx, ldy, N * K, set_weight);
}

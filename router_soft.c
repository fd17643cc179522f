// router_soft.c: Soft MoE (Puigcerver et al. 2023): nothing is chosen. Every slot of every expert gets a mean of the
// tokens of a pool, every token a mean of the outputs of all slots, and all of it is matrix products and softmaxes.
// A pool along time mixes later tokens into earlier ones, so that is no language model; a pool of one token is
// causal, and then every expert sees every token. Unlike section 2.3 of the paper, tokens and slots are not brought to
// norm 1: our router reads the normalised residual stream.
#include "router.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include <stdlib.h>

enum { SMALL = 1 << 14 };
#define PRAGMA(text) _Pragma(#text)
#define ROWS(count, size) PRAGMA(omp parallel for if ((count) * (size) > SMALL))

size_t soft_rows(size_t M, RouterShape s) { return size_mul(size_mul(s.E, pool_count(M, s)), s.slots); }

// ---- weights -------------------------------------------------------------------------------------

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
    vec dot = vec_zero();
    for (size_t j = 0; j < columns; j += LANES)
        dot = vec_fma(vec_load_at(dout, j, columns), vec_load_at(out, j, columns), dot);
    vec total = vec_set(vec_sum(dot));
    for (size_t j = 0; j < columns; j += LANES) {
        vec d = vec_sub(vec_load_at(dout, j, columns), total);
        vec_store_at(dlogits, j, columns, vec_mul(vec_load_at(out, j, columns), d));
    }
}

static void row_softmaxes(real *out, const real *logits, size_t M, size_t columns) {
    ROWS(M, columns)
    for (size_t m = 0; m < M; m++) {
        memcpy(out + m * columns, logits + m * columns, columns * sizeof *logits);
        softmax_row(out + m * columns, columns);
    }
}

void soft_route_forward(Routing *r, Mixing w, const real *logits, size_t M, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s), blocks = (columns + LANES - 1) / LANES;
    PROFILE(route, 2 * (PROFILE_EXP + 3) * M * columns, 3 * M * columns);
    row_softmaxes(w.combine, logits, M, columns);
    ROWS(M, columns)
    for (size_t i = 0; i < pools * blocks; i++)
        column_softmax(w.dispatch, logits, pool_at(i / blocks, M, s), i % blocks * LANES, columns);
    for (size_t e = 0; e <= s.E; e++) r->start[e] = e * pools * s.slots;
    r->copies = r->start[s.E];
}

void soft_route_backward(real *dlogits, Mixing dw, Mixing w, size_t M, RouterShape s) {
    size_t columns = s.E * s.slots, pools = pool_count(M, s), blocks = (columns + LANES - 1) / LANES;
    PROFILE(route, 9 * M * columns, 6 * M * columns);
    ROWS(M, columns)
    for (size_t m = 0; m < M; m++)
        row_softmax_backward(dlogits + m * columns, dw.combine + m * columns, w.combine + m * columns, columns);
    ROWS(M, columns)
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

// ---- mixing --------------------------------------------------------------------------------------
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

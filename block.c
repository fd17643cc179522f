// block.c: what happens inside a residual branch: the attention block (mha, gqa, mla) and the
// feed-forward block (dense, or a mixture of experts). Each forward stands directly above its backward.
#include "block.h"
#include "attention.h"
#include "lib/matmul.h"
#include "lib/ops.h"
#include "lib/profile.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the pieces ----------------------------------------------------------------------------------

static void apply(const Model *m, real *y, const Linear *l, const real *x, size_t M) {
    linear_forward(y, x, m->packed + l->packed, l->bias == NOWHERE ? NULL : m->values + l->bias, M, l->N, l->K);
}
static void apply_backward(Model *m, real *dx, const real *dy, const Linear *l, const real *x, size_t M, bool accumulate) {
    linear_backward_weight(m->gradients + l->at, l->bias == NOWHERE ? NULL : m->gradients + l->bias, dy, x, M, l->N, l->K);
    linear_backward_input(dx, dy, m->values + l->at, M, l->N, l->K, accumulate);
}

static NormShape norm_shape(const Norm *n, size_t M, size_t groups, size_t x_stride, size_t y_stride) {
    return (NormShape){.M = M, .groups = groups, .C = n->C, .x_stride = x_stride, .y_stride = y_stride, .eps = n->eps};
}
void normalise(const Model *m, real *y, size_t y_stride, real *mean, real *rstd, const real *x, size_t x_stride, const Norm *n,
               size_t M, size_t groups) {
    norm_forward(y, n->center ? mean : NULL, rstd, x, m->values + n->w, n->b == NOWHERE ? NULL : m->values + n->b,
                 norm_shape(n, M, groups, x_stride, y_stride));
}
void normalise_backward(Model *m, real *dx, const real *dy, size_t y_stride, const real *mean, const real *rstd, const real *x,
                        size_t x_stride, const Norm *n, size_t M, size_t groups, bool accumulate) {
    norm_backward(dx, m->gradients + n->w, n->b == NOWHERE ? NULL : m->gradients + n->b, dy, x, m->values + n->w,
                  n->center ? mean : NULL, rstd, norm_shape(n, M, groups, x_stride, y_stride), accumulate);
}

static void activation_forward(const Model *m, real *y, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_forward(y, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_forward(y, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_forward(y, x, M * F);
}
static void activation_backward(const Model *m, real *dx, const real *dy, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_backward(dx, dy, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_backward(dx, dy, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_backward(dx, dy, x, M * F);
}
static size_t up_width(const Model *m, size_t F) { return m->c.ffn == FFN_swiglu ? 2 * F : F; }

// Positions of the rotated part of `heads` heads of width D; inverse for gradients.
static void rotate(const Model *m, const Layer *y, real *x, size_t stride, size_t heads, size_t D, const Batch *b, bool inverse) {
    bool mla = y->attn == ATTN_mla;
    if (y->P) rope(x, stride, heads, D, y->P, m->cosine[mla], m->sine[mla], b->M, b->T, b->past, inverse);
}

static AttnShape attn_shape(const Model *m, const Layer *y) {
    return (AttnShape){.H = y->H, .KV = y->KV, .D = y->D, .Dv = y->Dv, .scale = 1 / sqrt((double)y->D),
                       .flash = m->c.attn_kernel == KERNEL_flash, .tile = m->c.tile};
}

// Attention over keys and values wherever they stand: in the batch, or in the cache.
static void attend(Model *m, size_t l, const real *q, size_t q_stride, KvView view, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    AttnShape s = attn_shape(m, y);
    real *probability = a->probability;
    if (m->record && !b->cache && b->B == 1) s.flash = false, probability = m->record + l * y->H * b->T * b->T;
    attention_forward(a->out, y->H * y->Dv, a->lse, probability, q, q_stride, view, b->B, b->T, s);
}
static void attend_backward(Model *m, size_t l, real *dq, real *dk, real *dv, const real *q, size_t q_stride, KvView view,
                            const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    attention_backward(dq, q_stride, dk, dv, m->grads.dout, a->out, y->H * y->Dv, a->lse, a->probability, q, q_stride, view,
                       b->B, b->T, attn_shape(m, y));
}

// ---- mha and gqa ---------------------------------------------------------------------------------
// One product makes [q | k | v] rows; q and k are normalised (if asked), rotated, and attended in place.

static size_t qkv_width(const Layer *y) { return (y->H + 2 * y->KV) * y->D; }

static KvView qkv_view(const Layer *y, const real *qkv, size_t T) {
    size_t row = qkv_width(y);
    return (KvView){.k = qkv + y->H * y->D, .v = qkv + (y->H + y->KV) * y->D, .k_step = T * row, .v_step = T * row,
                    .k_stride = row, .v_stride = row, .k_head = y->D, .v_head = y->D, .length = T};
}

// Where row i of the batch goes in a cache.
static size_t cache_slot(const Batch *b, size_t i) { return i / b->T * b->cache->capacity + b->past + i % b->T; }

// Appends the rows of [q | k | v] to the cache and shows all of it.
static KvView cache_append_kv(Cache *c, size_t l, const Layer *y, const real *qkv, const Batch *b) {
    size_t row = qkv_width(y), width = y->KV * y->D, step = c->capacity * width;
    PROFILE(cache, 0, 4 * b->M * width);
    for (size_t i = 0; i < b->M; i++) {
        memcpy(c->k[l] + cache_slot(b, i) * width, qkv + i * row + y->H * y->D, width * sizeof *qkv);
        memcpy(c->v[l] + cache_slot(b, i) * width, qkv + i * row + (y->H + y->KV) * y->D, width * sizeof *qkv);
    }
    return (KvView){.k = c->k[l], .v = c->v[l], .k_step = step, .v_step = step, .k_stride = width, .v_stride = width,
                    .k_head = y->D, .v_head = y->D, .length = b->past + b->T};
}

static void mha_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t row = qkv_width(y), k_at = y->H * y->D;
    apply(m, a->qkv, &y->qkv, x, b->M);
    if (y->q_norm.on) {
        memcpy(a->qkv_raw, a->qkv, b->M * row * sizeof *a->qkv);
        normalise(m, a->qkv, row, a->q_mean, a->q_rstd, a->qkv_raw, row, &y->q_norm, b->M, k_at / y->q_norm.C);
        normalise(m, a->qkv + k_at, row, a->k_mean, a->k_rstd, a->qkv_raw + k_at, row, &y->k_norm, b->M, y->KV * y->D / y->k_norm.C);
    }
    rotate(m, y, a->qkv, row, y->H + y->KV, y->D, b, false);
    attend(m, l, a->qkv, row, b->cache ? cache_append_kv(b->cache, l, y, a->qkv, b) : qkv_view(y, a->qkv, b->T), b);
    apply(m, out, &y->o, a->out, b->M);
}

static void mha_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    size_t row = qkv_width(y), k_at = y->H * y->D;
    apply_backward(m, g->dout, dout, &y->o, a->out, b->M, false);
    attend_backward(m, l, g->dqkv, g->dqkv + k_at, g->dqkv + k_at + y->KV * y->D, a->qkv, row, qkv_view(y, a->qkv, b->T), b);
    rotate(m, y, g->dqkv, row, y->H + y->KV, y->D, b, true);
    if (y->q_norm.on) {
        normalise_backward(m, g->dqkv, g->dqkv, row, a->q_mean, a->q_rstd, a->qkv_raw, row, &y->q_norm, b->M, k_at / y->q_norm.C, false);
        normalise_backward(m, g->dqkv + k_at, g->dqkv + k_at, row, a->k_mean, a->k_rstd, a->qkv_raw + k_at, row, &y->k_norm, b->M,
                           y->KV * y->D / y->k_norm.C, false);
    }
    apply_backward(m, dx, g->dqkv, &y->qkv, x, b->M, false);
}

// ---- mla -----------------------------------------------------------------------------------------
// Multi-head latent attention: DeepSeek-V2 2024, eq. 9-19, as in DeepSeek-V3. The latent c (width R) is
// normalised and expanded to the keys (N numbers without position) and values of every head; P rotated
// numbers, shared by the heads, carry the position. A head's key is [N | P].

static size_t nope(const Layer *y) { return y->D - y->P; }
static size_t kv_width(const Layer *y) { return y->H * (nope(y) + y->Dv); }

static KvView mla_view(const Layer *y, const real *k, const real *kv, size_t T) {
    size_t wide = y->H * y->D, row = kv_width(y);
    return (KvView){.k = k, .v = kv + nope(y), .k_step = T * wide, .v_step = T * row, .k_stride = wide, .v_stride = row,
                    .k_head = y->D, .v_head = nope(y) + y->Dv, .length = T};
}

// k [M, H*(N+P)]: each head's own N from kv, and the shared P from kv_a.
static void keys_forward(real *k, const real *kv, const real *kv_a, const Layer *y, size_t M, size_t R) {
    PROFILE(cache, 0, 2 * M * y->H * y->D);
#pragma omp parallel for
    for (size_t t = 0; t < M; t++)
        for (size_t h = 0; h < y->H; h++) {
            real *key = k + (t * y->H + h) * y->D;
            memcpy(key, kv + t * kv_width(y) + h * (nope(y) + y->Dv), nope(y) * sizeof *k);
            memcpy(key + nope(y), kv_a + t * (R + y->P) + R, y->P * sizeof *k);
        }
}
static void keys_backward(real *dkv, real *dkv_a, const real *dk, const Layer *y, size_t M, size_t R) {
    PROFILE(cache, M * y->H * y->P, 2 * M * y->H * y->D);
#pragma omp parallel for
    for (size_t t = 0; t < M; t++) {
        real *shared = dkv_a + t * (R + y->P) + R;
        for (size_t i = 0; i < y->P; i++) shared[i] = 0;
        for (size_t h = 0; h < y->H; h++) {
            const real *key = dk + (t * y->H + h) * y->D;
            memcpy(dkv + t * kv_width(y) + h * (nope(y) + y->Dv), key, nope(y) * sizeof *dk);
            for (size_t i = 0; i < y->P; i++) shared[i] += key[nope(y) + i];
        }
    }
}

static void latent_products(const Product *p, size_t H) {
    PROFILE(latent, 2 * H * p->M * p->N * p->K, H * (p->M * (p->N + p->K) + p->N * p->K));
    products(p, H);
}

// The same through the latent: q_h . (W_UK c) = (W_UK^T q_h) . c, so that the past is never expanded;
// the values likewise: sum_j p_j (W_UV c_j) = W_UV (sum_j p_j c_j). DeepSeek-V2, section 2.1.2. All heads
// then share one key [c | P] and one value c: the cache holds R + P numbers per token.
static void mla_absorbed(Model *m, size_t l, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t R = y->kv_b.K, N = nope(y), wide = R + y->P, H = y->H;
    Product *p = xmalloc(H * sizeof *p);
    for (size_t h = 0; h < H; h++)
        p[h] = (Product){.c = a->latent_q + h * wide, .ldc = H * wide, .a = a->q + h * y->D, .a_row = H * y->D, .a_col = 1,
                         .packed = m->packed + y->absorbed_k + h * packed_size(N, R), .M = b->M, .N = R, .K = N};
    latent_products(p, H);
    for (size_t t = 0; t < b->M; t++)
        for (size_t h = 0; h < H; h++)
            memcpy(a->latent_q + (t * H + h) * wide + R, a->q + (t * H + h) * y->D + N, y->P * sizeof *a->q);
    AttnShape s = attn_shape(m, y);      // the scale stays that of the full head
    s.KV = 1, s.D = wide, s.Dv = R;
    const real *rows = b->cache->k[l];
    size_t step = b->cache->capacity * wide;
    KvView view = {.k = rows, .v = rows, .k_step = step, .v_step = step, .k_stride = wide, .v_stride = wide, .length = b->past + b->T};
    attention_forward(a->latent_out, H * R, NULL, NULL, a->latent_q, H * wide, view, b->B, b->T, s);
    for (size_t h = 0; h < H; h++)
        p[h] = (Product){.c = a->out + h * y->Dv, .ldc = H * y->Dv, .a = a->latent_out + h * R, .a_row = H * R, .a_col = 1,
                         .packed = m->packed + y->absorbed_v + h * packed_size(R, y->Dv), .M = b->M, .N = y->Dv, .K = R};
    latent_products(p, H);
    free(p);
}

static void cache_append_latent(Cache *c, size_t l, const Layer *y, const LayerActs *a, const Batch *b) {
    size_t R = y->kv_b.K, wide = R + y->P;
    PROFILE(cache, 0, 2 * b->M * wide);
    for (size_t i = 0; i < b->M; i++) {
        memcpy(c->k[l] + cache_slot(b, i) * wide, a->c + i * R, R * sizeof *a->c);
        memcpy(c->k[l] + cache_slot(b, i) * wide + R, a->kv_a + i * wide + R, y->P * sizeof *a->c);
    }
}

static void mla_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t R = y->kv_b.K, wide = R + y->P, q_row = y->H * y->D;
    if (y->q_a.N) {
        apply(m, a->q_a, &y->q_a, x, b->M);
        normalise(m, a->q_c, y->q_a.N, NULL, a->q_c_rstd, a->q_a, y->q_a.N, &y->q_a_norm, b->M, 1);
    }
    apply(m, a->q, y->q_a.N ? &y->q_b : &y->q, y->q_a.N ? a->q_c : x, b->M);
    apply(m, a->kv_a, &y->kv_a, x, b->M);
    normalise(m, a->c, R, NULL, a->c_rstd, a->kv_a, wide, &y->kv_a_norm, b->M, 1);
    rotate(m, y, a->q + nope(y), q_row, y->H, y->D, b, false);
    rotate(m, y, a->kv_a + R, wide, 1, y->P, b, false);
    if (b->cache) cache_append_latent(b->cache, l, y, a, b);
    if (b->past) {
        mla_absorbed(m, l, b);
    } else {
        apply(m, a->kv, &y->kv_b, a->c, b->M);
        keys_forward(a->k, a->kv, a->kv_a, y, b->M, R);
        attend(m, l, a->q, q_row, mla_view(y, a->k, a->kv, b->T), b);
    }
    apply(m, out, &y->o, a->out, b->M);
}

static void mla_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    size_t R = y->kv_b.K, wide = R + y->P, q_row = y->H * y->D;
    apply_backward(m, g->dout, dout, &y->o, a->out, b->M, false);
    attend_backward(m, l, g->dq, g->dqkv, g->dkv + nope(y), a->q, q_row, mla_view(y, a->k, a->kv, b->T), b);
    keys_backward(g->dkv, g->dkv_a, g->dqkv, y, b->M, R);
    rotate(m, y, g->dq + nope(y), q_row, y->H, y->D, b, true);
    rotate(m, y, g->dkv_a + R, wide, 1, y->P, b, true);
    apply_backward(m, g->dc, g->dkv, &y->kv_b, a->c, b->M, false);
    normalise_backward(m, g->dkv_a, g->dc, R, NULL, a->c_rstd, a->kv_a, wide, &y->kv_a_norm, b->M, 1, false);
    apply_backward(m, dx, g->dkv_a, &y->kv_a, x, b->M, false);
    if (!y->q_a.N) {
        apply_backward(m, dx, g->dq, &y->q, x, b->M, true);
        return;
    }
    apply_backward(m, g->dq_c, g->dq, &y->q_b, a->q_c, b->M, false);
    normalise_backward(m, g->dq_a, g->dq_c, y->q_a.N, NULL, a->q_c_rstd, a->q_a, y->q_a.N, &y->q_a_norm, b->M, 1, false);
    apply_backward(m, dx, g->dq_a, &y->q_a, x, b->M, true);
}

void attention_block_forward(Model *m, size_t l, real *y, const real *x, const Batch *b) {
    (m->layers[l].attn == ATTN_mla ? mla_forward : mha_forward)(m, l, y, x, b);
}
void attention_block_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b) {
    (m->layers[l].attn == ATTN_mla ? mla_backward : mha_backward)(m, l, dx, dy, x, b);
}

// ---- dense feed-forward --------------------------------------------------------------------------

static void dense_forward(Model *m, const Linear *up, const Linear *down, real *out, real *up_out, real *hidden, const real *x, size_t M) {
    apply(m, up_out, up, x, M);
    activation_forward(m, hidden, up_out, M, down->K);
    apply(m, out, down, hidden, M);
}
static void dense_backward(Model *m, const Linear *up, const Linear *down, real *dx, const real *dy, const real *up_out,
                           const real *hidden, const real *x, size_t M, bool accumulate) {
    apply_backward(m, m->grads.dhidden, dy, down, hidden, M, false);
    activation_backward(m, m->grads.dup, m->grads.dhidden, up_out, M, down->K);
    apply_backward(m, dx, m->grads.dup, up, x, M, accumulate);
}

// ---- mixture of experts --------------------------------------------------------------------------

static RouterShape router_shape(const Model *m, const Batch *b) {
    const Config *c = &m->c;
    return (RouterShape){.E = c->experts, .K = c->top_k, .T = b->T, .sigmoid = c->gate == GATE_sigmoid, .normalise = c->norm_topk,
                         .scale = c->route_scale, .aux = c->aux_loss * b->row_scale, .z = c->z_loss * b->row_scale};
}

static void count_load(Model *m, size_t l, const Batch *b) {
    const Routing *r = &m->acts[l].routing;
    RouterShape s = router_shape(m, b);
    RouterStats *stats = &m->stats[l];
    for (size_t e = 0; e < s.E; e++) m->load[l * s.E + e] += (double)(r->start[e + 1] - r->start[e]);
    if (s.aux > 0) stats->aux_loss += s.aux * route_balance_loss(r, b->M, s);
    if (s.z > 0) stats->z_loss += s.z * route_z_loss(r, b->M, s);
}

static void moe_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    Routing *r = &a->routing;
    size_t E = m->c.experts, K = m->c.top_k, C = m->c.width, F = y->F, up = up_width(m, F);
    apply(m, a->logits, &y->router, x, b->M);
    route_forward(r, a->logits, m->c.router == ROUTER_bias ? m->values + y->router_bias : NULL, b->M, router_shape(m, b));
    if (b->keep) count_load(m, l, b);
    dispatch_forward(a->sorted, x, r, b->M, K, C);
    if (y->gate_e.N) experts_forward(a->up_e, up, a->sorted, C, m->packed + y->gate_e.packed, r, E, F, C);
    experts_forward(a->up_e + (up - F), up, a->sorted, C, m->packed + y->up_e.packed, r, E, F, C);
    activation_forward(m, a->hidden_e, a->up_e, b->M * K, F);
    experts_forward(a->out_e, C, a->hidden_e, F, m->packed + y->down_e.packed, r, E, C, F);
    combine_forward(out, a->out_e, r, b->M, K, C);
    if (!m->c.shared_experts) return;
    dense_forward(m, &y->shared_up, &y->shared_down, a->shared_out, a->shared_up, a->shared_hidden, x, b->M);
    add_scaled(out, out, 1, a->shared_out, b->M * C);
}

static void moe_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    Routing *r = &a->routing;
    real *grad = m->gradients;
    size_t E = m->c.experts, K = m->c.top_k, C = m->c.width, F = y->F, up = up_width(m, F);
    combine_backward(g->dsorted_out, g->dweight, dy, a->out_e, r, b->M, K, C);
    experts_backward_weight(grad + y->down_e.at, g->dsorted_out, C, a->hidden_e, F, r, E, C, F);
    experts_backward_input(g->dhidden_e, F, g->dsorted_out, C, m->values + y->down_e.at, r, E, C, F, false);
    activation_backward(m, g->dup_e, g->dhidden_e, a->up_e, b->M * K, F);
    bool gated = y->gate_e.N > 0;        // the gate first, as in the dense layer: one expert is the same sum
    if (gated) {
        experts_backward_weight(grad + y->gate_e.at, g->dup_e, up, a->sorted, C, r, E, F, C);
        experts_backward_input(g->dsorted, C, g->dup_e, up, m->values + y->gate_e.at, r, E, F, C, false);
    }
    experts_backward_weight(grad + y->up_e.at, g->dup_e + (up - F), up, a->sorted, C, r, E, F, C);
    experts_backward_input(g->dsorted, C, g->dup_e + (up - F), up, m->values + y->up_e.at, r, E, F, C, gated);
    route_backward(g->dlogits, g->dweight, r, b->M, router_shape(m, b));
    apply_backward(m, dx, g->dlogits, &y->router, x, b->M, false);
    dispatch_backward(dx, g->dsorted, r, b->M, K, C);
    if (m->c.shared_experts) dense_backward(m, &y->shared_up, &y->shared_down, dx, dy, a->shared_up, a->shared_hidden, x, b->M, true);
}

void ffn_block_forward(Model *m, size_t l, real *y, const real *x, const Batch *b) {
    const Layer *w = &m->layers[l];
    LayerActs *a = &m->acts[l];
    if (w->moe) moe_forward(m, l, y, x, b);
    else dense_forward(m, &w->up, &w->down, y, a->up, a->hidden, x, b->M);
}
void ffn_block_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b) {
    const Layer *w = &m->layers[l];
    LayerActs *a = &m->acts[l];
    if (w->moe) moe_backward(m, l, dx, dy, x, b);
    else dense_backward(m, &w->up, &w->down, dx, dy, a->up, a->hidden, x, b->M, false);
}

// ---- memory --------------------------------------------------------------------------------------

static void layout_mha(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t M) {
    a->qkv = take(arena, M * qkv_width(y));
    if (!y->q_norm.on) return;
    (void)m;
    a->qkv_raw = take(arena, M * qkv_width(y));
    a->q_rstd = take(arena, M * y->H), a->k_rstd = take(arena, M * y->KV);
}
static void layout_mla(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t M, bool keep) {
    size_t R = y->kv_b.K, q_rank = y->q_a.N;
    (void)m;
    if (q_rank) a->q_a = take(arena, M * q_rank), a->q_c = take(arena, M * q_rank), a->q_c_rstd = take(arena, M);
    a->q = take(arena, M * y->H * y->D), a->k = take(arena, M * y->H * y->D), a->kv = take(arena, M * kv_width(y));
    a->kv_a = take(arena, M * (R + y->P)), a->c = take(arena, M * R), a->c_rstd = take(arena, M);
    if (!keep) a->latent_q = take(arena, M * y->H * (R + y->P)), a->latent_out = take(arena, M * y->H * R);
}
static void layout_moe(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t M) {
    size_t E = m->c.experts, K = m->c.top_k, C = m->c.width, F = y->F, S = m->c.shared_experts * F;
    Routing *r = &a->routing;
    a->logits = take(arena, M * E), r->score = take(arena, M * E), r->log_sum = take(arena, M), r->weight = take(arena, M * K);
    r->expert = arena_take(arena, M * K * sizeof(int)), r->slot = arena_take(arena, M * K * sizeof(int));
    r->token = arena_take(arena, M * K * sizeof(int));
    r->count = arena_take(arena, E * sizeof(size_t)), r->start = arena_take(arena, (E + 1) * sizeof(size_t));
    a->sorted = take(arena, M * K * C), a->up_e = take(arena, M * K * up_width(m, F)), a->hidden_e = take(arena, M * K * F);
    a->out_e = take(arena, M * K * C);
    if (S) a->shared_up = take(arena, M * up_width(m, S)), a->shared_hidden = take(arena, M * S), a->shared_out = take(arena, M * C);
}

void block_layout_acts(const Model *m, size_t l, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    const Layer *y = &m->layers[l];
    size_t M = B * T;
    if (y->attn == ATTN_mla) layout_mla(m, y, a, arena, M, keep);
    else layout_mha(m, y, a, arena, M);
    a->out = take(arena, M * y->H * y->Dv), a->lse = take(arena, M * y->H);
    if (keep && m->c.attn_kernel == KERNEL_naive) a->probability = take(arena, size_mul(B * y->H, T * T));
    if (y->moe) layout_moe(m, y, a, arena, M);
    else a->up = take(arena, M * up_width(m, y->F)), a->hidden = take(arena, M * y->F);
}

// The attention branch, then the feed-forward branch of a layer, use the memory one after the other.
void block_layout_grads(const Model *m, size_t l, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    const Layer *y = &m->layers[l];
    size_t M = B * T, C = m->c.width, K = m->c.top_k, F = y->F, start = arena->used, S = m->c.shared_experts * F;
    g->dout = take(arena, M * y->H * y->Dv);
    if (y->attn != ATTN_mla) {
        g->dqkv = take(arena, M * qkv_width(y));
    } else {
        size_t R = y->kv_b.K;
        g->dq = take(arena, M * y->H * y->D), g->dqkv = take(arena, M * y->H * y->D), g->dkv = take(arena, M * kv_width(y));
        g->dc = take(arena, M * R), g->dkv_a = take(arena, M * (R + y->P));
        g->dq_c = take(arena, M * y->q_a.N), g->dq_a = take(arena, M * y->q_a.N);
    }
    size_t attention_end = arena->used;
    arena->used = start;
    size_t dense = y->moe ? S : F;
    g->dup = take(arena, M * up_width(m, dense)), g->dhidden = take(arena, M * dense);
    if (y->moe) {
        g->dlogits = take(arena, M * m->c.experts), g->dweight = take(arena, M * K);
        g->dsorted_out = take(arena, M * K * C), g->dsorted = take(arena, M * K * C);
        g->dhidden_e = take(arena, M * K * F), g->dup_e = take(arena, M * K * up_width(m, F));
    }
    if (arena->used < attention_end) arena->used = attention_end;
}

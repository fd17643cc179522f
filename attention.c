// attention.c: the mixers with softmax attention: mha, gqa and swa, and mla. Their parameters, forward
// directly above backward, memory, and what they keep in a cache.
#include "model/layer.h"
#include "kernels/attention.h"
#include "kernels/gates.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- shared --------------------------------------------------------------------------------------

// Positions of the rotated part of `heads` heads of width D; inverse for gradients.
static void rotate(const Model *m, const Layer *y, real *x, size_t stride, size_t heads, size_t D, const Batch *b,
                   bool inverse) {
    bool mla = y->attn == ATTN_mla;
    if (y->P) rope(x, stride, heads, D, y->P, m->cosine[mla], m->sine[mla], b->M, b->T, b->past, inverse);
}

_Static_assert((int)KERNEL_naive == ATTENTION_naive && (int)KERNEL_band == ATTENTION_band &&
                   (int)KERNEL_flash == ATTENTION_flash, "the flag's values are those of kernels/attention.h");
static AttnShape attn_shape(const Model *m, const Layer *y) {
    return (AttnShape){.H = y->H, .KV = y->KV, .D = y->D, .Dv = y->Dv, .scale = 1 / sqrt((double)y->D),
                       .kernel = (AttnKernel)m->c.attn_kernel, .tile = m->c.tile, .window = y->window,
                       .slope = m->slopes};
}

// Attention over the keys and values of the batch.
static void attend(Model *m, size_t l, const real *q, size_t q_stride, KvView view, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    AttnShape s = attn_shape(m, y);
    real *probability = a->probability;
    if (m->record && !b->cache && b->B == 1)
        s.kernel = ATTENTION_band, probability = m->record + l * y->H * b->T * b->T;
    attention_forward((AttnOutput){a->out, y->H * y->Dv, a->lse, probability},
                      (AttnInput){q, q_stride, view, b->B, b->T}, s);
}
static void attend_backward(Model *m, size_t l, real *dq, real *dk, real *dv, const real *q, size_t q_stride,
                            KvView view, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    attention_backward((AttnGradient){dq, dk, dv}, m->grads.dout,
                       (AttnOutput){a->out, y->H * y->Dv, a->lse, a->probability},
                       (AttnInput){q, q_stride, view, b->B, b->T}, attn_shape(m, y));
}

// What the output matrix reads: what attention gives, or with --attn-gate that times sigmoid(W x), number by number
// (Qiu et al. 2025, "Gated Attention for Large Language Models", eq. 5 at the place G1; Qwen3-Next).
static void add_gate(Model *m, int l, Layer *y, Deviations d) {
    if (m->c.attn_gate)
        y->gate = add_linear(m, l, (Part[]){{"attn.gate", y->H * y->Dv, d.plain}}, 1, m->c.width, m->c.bias);
}
static void output_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    if (y->gate.N) {
        apply(m, a->gate, &y->gate, x, b->M);
        sigmoid_gate_forward(a->gated, a->out, a->gate, b->M * y->gate.N);
    }
    apply(m, out, &y->o, y->gate.N ? a->gated : a->out, b->M);
}
// Sets the gradient of what attention gives. Through the gate it also reaches x: true where dx has been set.
static bool output_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    bool gated = y->gate.N > 0;
    apply_backward(m, gated ? g->dgated : g->dout, dout, &y->o, gated ? a->gated : a->out, b->M, false);
    if (!gated) return false;
    sigmoid_gate_backward(g->dout, g->dgated, g->dgated, a->out, a->gate, b->M * y->gate.N);
    apply_backward(m, dx, g->dgated, &y->gate, x, b->M, false);
    return true;
}

static void layout_attention(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T,
                             bool keep) {
    if (y->gate.N) a->gate = take(arena, B * T * y->gate.N), a->gated = take(arena, B * T * y->gate.N);
    a->out = take(arena, B * T * y->H * y->Dv), a->lse = take(arena, B * T * y->H);
    if (keep && m->c.attn_kernel != KERNEL_flash) a->probability = take(arena, size_mul(B * y->H, T * T));
}

static void layout_output_grads(const Layer *y, LayerGrads *g, Arena *arena, size_t M) {
    g->dout = take(arena, M * y->H * y->Dv), g->dgated = take(arena, M * y->gate.N);
}

// Forward and backward of the scores and of their sum: a query sees T/2 keys on average, with a window w - w^2/(2T).
static double attention_flops(const Layer *y, size_t T) {
    double width = (double)(y->H * (y->D + y->Dv)), all = (double)T, window = (double)y->window;
    if (y->window && y->window < T) return 6 * width * (window - window * window / (2 * all));
    return 3.0 * width * all;
}

static size_t workspace_of_attention(const Model *m, const Layer *y, size_t T) {
    return attention_workspace(T, attn_shape(m, y));
}

// ---- mha, gqa and swa ---------------------------------------------------------------------------
// One product makes [q | k | v] rows; q and k are normalised (if asked), rotated, and attended in place.

static size_t qkv_width(const Layer *y) { return (y->H + 2 * y->KV) * y->D; }

static void add_mha(Model *m, int l, Layer *y, Deviations d) {
    const Config *c = &m->c;
    size_t q = y->H * y->D, kv = y->KV * y->D;
    y->Dv = y->D;
    const Part parts[] = {{"attn.q", q, d.plain}, {"attn.k", kv, d.plain}, {"attn.v", kv, d.value}};
    y->qkv = add_linear(m, l, parts, 3, c->width, c->bias);
    add_gate(m, l, y, d);
    if (c->qk_norm == QK_none) return;
    y->q_norm = add_rms_norm(m, l, "attn.q_norm", c->qk_norm == QK_head ? y->D : q, c->norm_eps);
    y->k_norm = add_rms_norm(m, l, "attn.k_norm", c->qk_norm == QK_head ? y->D : kv, c->norm_eps);
}

static KvView qkv_view(const Layer *y, const real *qkv, size_t T) {
    size_t row = qkv_width(y);
    return (KvView){.k = qkv + y->H * y->D, .v = qkv + (y->H + y->KV) * y->D, .k_step = T * row, .v_step = T * row,
                    .k_stride = row, .v_stride = row, .k_head = y->D, .v_head = y->D, .length = T};
}

// Where a position stands in the cache of layer l: head `head` of all those of the rows.
static size_t cache_slot(const Cache *c, size_t l, size_t head, size_t position) {
    return head * c->room[l] + position - c->first[l];
}

// Makes room behind `length` positions, where it is used up, by dropping tiles that no query will see again, but for
// one more that cache_rewind may want back. Returns how many of n new positions there is room for.
static size_t cache_make_room(Cache *c, size_t l, const Layer *y, size_t length, size_t n, size_t tile) {
    size_t end = c->first[l] + c->room[l];
    if (length + n <= end) return n;
    if (length + 1 > y->window + tile) {
        size_t first = (length + 1 - y->window - tile) / tile * tile;
        if (first < c->first[l]) first = c->first[l];             // after a rewind: what is gone is gone
        size_t heads = c->rows * y->KV, kept = (length - first) * y->D * sizeof(real);
        PROFILE(cache, 0, 4 * heads * (length - first) * y->D);
        for (size_t h = 0; h < heads; h++) {
            size_t to = h * c->room[l] * y->D, from = cache_slot(c, l, h, first) * y->D;
            memmove(c->k[l] + to, c->k[l] + from, kept);
            memmove(c->v[l] + to, c->v[l] + from, kept);
        }
        c->first[l] = first, end = first + c->room[l];
    }
    return length + n <= end ? n : end - length;
}

// Appends keys and values of the new tokens at .. at+n-1 of each row to the cache and shows all of it.
static KvView cache_append_kv(Cache *c, size_t l, const Layer *y, const real *qkv, const Batch *b, size_t at,
                              size_t n) {
    size_t row = qkv_width(y), KV = y->KV, D = y->D, head = c->room[l] * D;
    PROFILE(cache, 0, 4 * b->B * n * KV * D);
    for (size_t r = 0; r < b->B; r++)
        for (size_t i = at; i < at + n; i++) {
            const real *key = qkv + (r * b->T + i) * row + y->H * D;
            for (size_t g = 0; g < KV; g++, key += D) {
                size_t slot = cache_slot(c, l, r * KV + g, b->past + i) * D;
                memcpy(c->k[l] + slot, key, D * sizeof *key);
                memcpy(c->v[l] + slot, key + KV * D, D * sizeof *key);
            }
        }
    return (KvView){.k = c->k[l], .v = c->v[l], .k_step = KV * head, .v_step = KV * head, .k_stride = D, .v_stride = D,
                    .k_head = head, .v_head = head, .length = b->past + at + n - c->first[l]};
}

// Attention over the cache, to which the batch is added: at once, or, where a window's cache is too small for that, in
// pieces. The bits are the same: tiles start at multiples of their width, and what is dropped is a number of tiles.
static void attend_cached(Model *m, size_t l, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t row = qkv_width(y), wide = y->H * y->Dv;
    for (size_t at = 0, n; at < b->T; at += n) {
        n = cache_make_room(b->cache, l, y, b->past + at, b->T - at, m->c.tile);
        KvView view = cache_append_kv(b->cache, l, y, a->qkv, b, at, n);
        size_t together = n == b->T ? b->B : 1;                  // the rows of a piece do not stand side by side
        for (size_t r = 0; r < b->B; r += together, view.k += view.k_step, view.v += view.v_step) {
            size_t i = r * b->T + at;
            attention_forward((AttnOutput){.out = a->out + i * wide, .out_stride = wide},
                              (AttnInput){a->qkv + i * row, row, view, together, n}, attn_shape(m, y));
        }
    }
}

static void mha_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t row = qkv_width(y), k_at = y->H * y->D;
    apply(m, a->qkv, &y->qkv, x, b->M);
    if (y->q_norm.on) {
        memcpy(a->qkv_raw, a->qkv, b->M * row * sizeof *a->qkv);
        normalise(m, a->qkv, row, NULL, a->q_rstd, a->qkv_raw, row, &y->q_norm, b->M, k_at / y->q_norm.C);
        normalise(m, a->qkv + k_at, row, NULL, a->k_rstd, a->qkv_raw + k_at, row, &y->k_norm, b->M,
                  y->KV * y->D / y->k_norm.C);
    }
    rotate(m, y, a->qkv, row, y->H + y->KV, y->D, b, false);
    if (b->cache) attend_cached(m, l, b);
    else attend(m, l, a->qkv, row, qkv_view(y, a->qkv, b->T), b);
    output_forward(m, l, out, x, b);
}

static void mha_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    size_t row = qkv_width(y), k_at = y->H * y->D;
    bool gated = output_backward(m, l, dx, dout, x, b);
    attend_backward(m, l, g->dqkv, g->dqkv + k_at, g->dqkv + k_at + y->KV * y->D, a->qkv, row,
                    qkv_view(y, a->qkv, b->T), b);
    rotate(m, y, g->dqkv, row, y->H + y->KV, y->D, b, true);
    if (y->q_norm.on) {
        normalise_backward(m, g->dqkv, g->dqkv, row, NULL, a->q_rstd, a->qkv_raw, row, &y->q_norm, b->M,
                           k_at / y->q_norm.C, false);
        normalise_backward(m, g->dqkv + k_at, g->dqkv + k_at, row, NULL, a->k_rstd, a->qkv_raw + k_at, row,
                           &y->k_norm, b->M, y->KV * y->D / y->k_norm.C, false);
    }
    apply_backward(m, dx, g->dqkv, &y->qkv, x, b->M, gated);
}

static void layout_mha(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T;
    a->qkv = take(arena, M * qkv_width(y));
    if (y->q_norm.on) {
        a->qkv_raw = take(arena, M * qkv_width(y));
        a->q_rstd = take(arena, M * y->H), a->k_rstd = take(arena, M * y->KV);
    }
    layout_attention(m, y, a, arena, B, T, keep);
}
static void layout_mha_grads(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    (void)m;
    layout_output_grads(y, g, arena, B * T);
    g->dqkv = take(arena, B * T * qkv_width(y));
}

static CacheNeed mha_cache(const Layer *y) { return (CacheNeed){.heads = y->KV, .k = y->D, .v = y->D}; }

const Mixer mixer_mha = {add_mha, layout_mha, layout_mha_grads, mha_forward, mha_backward, mha_cache, attention_flops,
                         workspace_of_attention};

// ---- mla -----------------------------------------------------------------------------------------
// Multi-head latent attention: DeepSeek-V2 2024, eq. 9-19, as in DeepSeek-V3. The latent c (width R) is
// normalised and expanded to the keys (N numbers without position) and values of every head; P rotated
// numbers, shared by the heads, carry the position. A head's key is [N | P].

static size_t nope(const Layer *y) { return y->D - y->P; }
static size_t kv_width(const Layer *y) { return y->H * (nope(y) + y->Dv); }

static void add_mla(Model *m, int l, Layer *y, Deviations d) {
    const Config *c = &m->c;
    const double latent_eps = 1e-6;      // the reference implementation's default, whatever the other norms use
    size_t R = c->kv_rank, q = y->H * y->D;
    if (c->q_rank) {
        y->q_a = add_linear(m, l, (Part[]){{"attn.q_a", c->q_rank, d.plain}}, 1, c->width, c->bias);
        y->q_a_norm = add_rms_norm(m, l, "attn.q_a_norm", c->q_rank, latent_eps);
        y->q_b = add_linear(m, l, (Part[]){{"attn.q_b", q, d.plain}}, 1, c->q_rank, false);
    } else {
        y->q = add_linear(m, l, (Part[]){{"attn.q", q, d.plain}}, 1, c->width, false);
    }
    add_gate(m, l, y, d);
    y->kv_a = add_linear(m, l, (Part[]){{"attn.kv_a", R + y->P, d.plain}}, 1, c->width, c->bias);
    y->kv_a_norm = add_rms_norm(m, l, "attn.kv_a_norm", R, latent_eps);
    y->kv_b = add_linear(m, l, (Part[]){{"attn.kv_b", y->H * (c->nope_dim + y->Dv), d.value}}, 1, R, false);
    y->absorbed_k = add_packed(m, y->H * packed_size(c->nope_dim, R));
    y->absorbed_v = add_packed(m, y->H * packed_size(R, y->Dv));
}

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
        p[h] = (Product){.c = a->latent_q + h * wide, .ldc = H * wide, .a = a->q + h * y->D, .a_row = H * y->D,
                         .a_col = 1, .packed = m->packed + y->absorbed_k + h * packed_size(N, R), .M = b->M, .N = R,
                         .K = N};
    latent_products(p, H);
    for (size_t t = 0; t < b->M; t++)
        for (size_t h = 0; h < H; h++)
            memcpy(a->latent_q + (t * H + h) * wide + R, a->q + (t * H + h) * y->D + N, y->P * sizeof *a->q);
    AttnShape s = attn_shape(m, y);      // the scale stays that of the full head
    s.KV = 1, s.D = wide, s.Dv = R;
    const real *rows = b->cache->k[l];
    size_t step = b->cache->room[l] * wide;
    KvView view = {.k = rows, .v = rows, .k_step = step, .v_step = step, .k_stride = wide, .v_stride = wide,
                   .length = b->past + b->T};
    attention_forward((AttnOutput){.out = a->latent_out, .out_stride = H * R},
                      (AttnInput){a->latent_q, H * wide, view, b->B, b->T}, s);
    for (size_t h = 0; h < H; h++)
        p[h] = (Product){.c = a->out + h * y->Dv, .ldc = H * y->Dv, .a = a->latent_out + h * R, .a_row = H * R,
                         .a_col = 1, .packed = m->packed + y->absorbed_v + h * packed_size(R, y->Dv), .M = b->M,
                         .N = y->Dv, .K = R};
    latent_products(p, H);
    free(p);
}

static void cache_append_latent(Cache *c, size_t l, const Layer *y, const LayerActs *a, const Batch *b) {
    size_t R = y->kv_b.K, wide = R + y->P;
    PROFILE(cache, 0, 2 * b->M * wide);
    for (size_t i = 0; i < b->M; i++) {
        real *slot = c->k[l] + cache_slot(c, l, i / b->T, b->past + i % b->T) * wide;
        memcpy(slot, a->c + i * R, R * sizeof *a->c);
        memcpy(slot + R, a->kv_a + i * wide + R, y->P * sizeof *a->c);
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
    output_forward(m, l, out, x, b);
}

static void mla_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    size_t R = y->kv_b.K, wide = R + y->P, q_row = y->H * y->D;
    bool gated = output_backward(m, l, dx, dout, x, b);
    attend_backward(m, l, g->dq, g->dqkv, g->dkv + nope(y), a->q, q_row, mla_view(y, a->k, a->kv, b->T), b);
    keys_backward(g->dkv, g->dkv_a, g->dqkv, y, b->M, R);
    rotate(m, y, g->dq + nope(y), q_row, y->H, y->D, b, true);
    rotate(m, y, g->dkv_a + R, wide, 1, y->P, b, true);
    apply_backward(m, g->dc, g->dkv, &y->kv_b, a->c, b->M, false);
    normalise_backward(m, g->dkv_a, g->dc, R, NULL, a->c_rstd, a->kv_a, wide, &y->kv_a_norm, b->M, 1, false);
    apply_backward(m, dx, g->dkv_a, &y->kv_a, x, b->M, gated);
    if (!y->q_a.N) {
        apply_backward(m, dx, g->dq, &y->q, x, b->M, true);
        return;
    }
    apply_backward(m, g->dq_c, g->dq, &y->q_b, a->q_c, b->M, false);
    normalise_backward(m, g->dq_a, g->dq_c, y->q_a.N, NULL, a->q_c_rstd, a->q_a, y->q_a.N, &y->q_a_norm, b->M, 1,
                       false);
    apply_backward(m, dx, g->dq_a, &y->q_a, x, b->M, true);
}

static void layout_mla(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T, R = y->kv_b.K, q_rank = y->q_a.N;
    if (q_rank) a->q_a = take(arena, M * q_rank), a->q_c = take(arena, M * q_rank), a->q_c_rstd = take(arena, M);
    a->q = take(arena, M * y->H * y->D), a->k = take(arena, M * y->H * y->D), a->kv = take(arena, M * kv_width(y));
    a->kv_a = take(arena, M * (R + y->P)), a->c = take(arena, M * R), a->c_rstd = take(arena, M);
    if (!keep) a->latent_q = take(arena, M * y->H * (R + y->P)), a->latent_out = take(arena, M * y->H * R);
    layout_attention(m, y, a, arena, B, T, keep);
}
static void layout_mla_grads(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, R = y->kv_b.K;
    (void)m;
    layout_output_grads(y, g, arena, M);
    g->dq = take(arena, M * y->H * y->D), g->dqkv = take(arena, M * y->H * y->D), g->dkv = take(arena, M * kv_width(y));
    g->dc = take(arena, M * R), g->dkv_a = take(arena, M * (R + y->P));
    g->dq_c = take(arena, M * y->q_a.N), g->dq_a = take(arena, M * y->q_a.N);
}

static CacheNeed mla_cache(const Layer *y) { return (CacheNeed){.heads = 1, .k = y->kv_b.K + y->P}; }

const Mixer mixer_mla = {add_mla, layout_mla, layout_mla_grads, mla_forward, mla_backward, mla_cache, attention_flops,
                         workspace_of_attention};

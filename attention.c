// attention.c: the mixers with softmax attention: mha, gqa and swa, and mla. Their parameters, forward
// directly above backward, memory, and what they keep in a cache. Attention itself, from queries, keys and values to
// outputs, is in kernels/attention.c.
#include "attention.h"
#include "kernels/attention.h"
#include "kernels/gates.h"
#include "lib/profile.h"
#include "model/keep_attention.h"
#include "model/pieces.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- shared --------------------------------------------------------------------------------------

// Rotates the first P dimensions of `heads` heads of width D (Su et al. 2021, eq. 34); inverse for gradients.
static void rotate(const Model *m, const Layer *layer, real *x, size_t stride, size_t heads, size_t D, const Batch *b,
                   bool inverse) {
    bool mla = layer->attn == ATTN_mla;
    if (!layer->P) return;
    for EACH_PART(p, b)
        rope(x + p.at * stride, stride, heads, D, layer->P, m->cosine[mla], m->sine[mla], p.B * p.T, p.T, p.past,
             inverse);
}

_Static_assert((int)KERNEL_naive == ATTENTION_naive && (int)KERNEL_band == ATTENTION_band &&
                   (int)KERNEL_flash == ATTENTION_flash, "the flag's values are those of kernels/attention.h");
// Of mla stretched by YaRN, the part without position grows too, and that by its scores: DeepSeek-V3's reference code.
static double score_scale(const Model *m, const Layer *layer) {
    double scale = 1 / sqrt((double)layer->D), mscale = m->c.rope_mscale_all_dim;
    double grown = mscale > 0 && layer->attn == ATTN_mla ? rope_mscale(m->c.rope_factor, mscale) : 1;
    return scale * grown * grown;
}

static AttnShape attn_shape(const Model *m, const Layer *layer) {
    return (AttnShape){.H = layer->H, .KV = layer->KV, .D = layer->D, .Dv = layer->Dv, .scale = score_scale(m, layer),
                       .kernel = (AttnKernel)m->c.attn_kernel, .tile = m->c.tile, .window = layer->mha.window,
                       .slope = m->slopes};
}

// Attention over the keys and values of the batch.
static void attend(Model *m, size_t l, const real *q, size_t q_stride, KvView view, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const SoftmaxActs *a = &m->acts[l].softmax;
    AttnShape s = attn_shape(m, layer);
    real *probability = a->probability;
    if (m->record.attention && b->B == 1)
        s.kernel = ATTENTION_band, probability = m->record.attention + l * layer->H * b->T * b->T;
    attention_forward((AttnOutput){a->out, layer->H * layer->Dv, a->lse, probability},
                      (AttnInput){.q = q, .q_stride = q_stride, .view = view, .B = b->B, .n = b->T}, s);
}

// Attention of the n tokens from `at` on of each row, where it has so many, over its blocks, in which they already are.
static void attend_blocks(AttnOutput o, const real *q, size_t q_stride, size_t l, AttnShape s, const Batch *b,
                          size_t at, size_t n) {
    const Blocks *blocks = b->paged.blocks;
    const real *k = blocks->k[l], *v = blocks->v[l] ? blocks->v[l] : k;      // a latent's value begins its key
    size_t slots = blocks->slots[l], rows = 0;
    KvView view = {.k = k, .v = v, .k_stride = s.D, .k_head = slots * s.D, .v_stride = k == v ? s.D : s.Dv,
                   .block_size = blocks->size};
    view.v_head = slots * view.v_stride, view.k_step = s.KV * view.k_head, view.v_step = s.KV * view.v_head;
    AttnRow *row = xmalloc(b->paged.rows * sizeof *row);
    for EACH_PART(p, b) {
        if (p.T <= at) continue;
        size_t some = smaller(n, p.T - at), length = p.past + at + some - blocks->first[l];
        row[rows++] = (AttnRow){p.at + at, some, length, b->paged.row[p.i].block};
    }
    attention_forward(o, (AttnInput){.q = q, .q_stride = q_stride, .view = view, .B = rows, .row = row}, s);
    free(row);
}
static void attend_backward(Model *m, size_t l, real *dq, real *dk, real *dv, const real *q, size_t q_stride,
                            KvView view, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const SoftmaxActs *a = &m->acts[l].softmax;
    attention_backward((AttnGradient){dq, dk, dv}, m->grads.softmax.dout,
                       (AttnOutput){a->out, layer->H * layer->Dv, a->lse, a->probability},
                       (AttnInput){.q = q, .q_stride = q_stride, .view = view, .B = b->B, .n = b->T},
                       attn_shape(m, layer));
}

// What the output matrix reads: what attention gives, or with --attn-gate that times sigmoid(W x), number by number
// (Qiu et al. 2025, "Gated Attention for Large Language Models", eq. 5 at the place G1; Qwen3-Next).
static void add_gate(Model *m, Layer *layer, int l) {
    if (!m->c.attn_gate) return;
    layer->gate = add_linear(m, l, (Weight[]){{"attn.gate", layer->H * layer->Dv, m->std.plain}}, 1, m->c.width,
                             config_qkv_bias(&m->c));
}
static void output_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const SoftmaxActs *a = &m->acts[l].softmax;
    bool gated = layer->gate.N > 0;
    if (gated) {
        apply(m, a->gate, &layer->gate, x, b->M);
        sigmoid_gate_forward(a->gated, a->out, a->gate, b->M * layer->gate.N);
    }
    apply(m, out, &layer->o, gated ? a->gated : a->out, b->M);
}
// Sets the gradient of what attention gives. Through the gate it also reaches x: true where dx has been set.
static bool output_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const SoftmaxActs *a = &m->acts[l].softmax;
    real *da = m->grads.softmax.dout, *dgated = m->grads.softmax.dgated;
    bool gated = layer->gate.N > 0;
    apply_backward(m, gated ? dgated : da, dout, &layer->o, gated ? a->gated : a->out, b->M, false);
    if (!gated) return false;
    sigmoid_gate_backward(da, dgated, dgated, a->out, a->gate, b->M * layer->gate.N);
    apply_backward(m, dx, dgated, &layer->gate, x, b->M, false);
    return true;
}

static void layout_output(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                          bool keep) {
    size_t M = B * T, H = layer->H;
    SoftmaxActs *a = &acts->softmax;
    if (layer->gate.N) a->gate = take(arena, M * layer->gate.N), a->gated = take(arena, M * layer->gate.N);
    a->out = take(arena, M * H * layer->Dv), a->lse = take(arena, M * H);
    if (keep && m->c.attn_kernel != KERNEL_flash) a->probability = take(arena, size_mul(B * H, T * T));
}
static void layout_output_grads(const Layer *layer, LayerGrads *g, Arena *arena, size_t M) {
    g->softmax.dout = take(arena, M * layer->H * layer->Dv);
    g->softmax.dgated = take(arena, M * layer->gate.N);
}

// Forward and backward of the scores and of their sum: a query sees T/2 keys on average, with a window w - w^2/(2T).
static double attention_flops(const Model *m, const Layer *layer, size_t T) {
    (void)m;
    double width = (double)(layer->H * (layer->D + layer->Dv)), all = (double)T, window = (double)layer->mha.window;
    if (window > 0 && window < all) return 6 * width * (window - window * window / (2 * all));
    return 3.0 * width * all;
}

static size_t workspace_of_attention(const Model *m, const Layer *layer, size_t T) {
    return attention_workspace(T, attn_shape(m, layer));
}

// ---- mha, gqa and swa: the cache -----------------------------------------------------------------

static size_t qkv_width(const Layer *layer) { return (layer->H + 2 * layer->KV) * layer->D; }

static KvView qkv_view(const Layer *layer, const real *qkv, size_t T) {
    size_t row = qkv_width(layer), D = layer->D;
    return (KvView){.k = qkv + layer->H * D, .v = qkv + (layer->H + layer->KV) * D, .k_step = T * row,
                    .v_step = T * row, .k_stride = row, .v_stride = row, .k_head = D, .v_head = D, .length = T};
}

// Keys and values of the n tokens from `at` on of each row, where it has so many, go into its blocks.
static void append_kv(size_t l, const Layer *layer, const real *qkv, const Batch *b, size_t at, size_t n) {
    Blocks *s = b->paged.blocks;
    size_t row = qkv_width(layer), KV = layer->KV, D = layer->D;
    PROFILE(cache, 0, 4 * (n < b->M ? n * b->paged.rows : b->M) * KV * D);
    for EACH_PART(p, b)
        for (size_t i = at * KV; i < smaller(at + n, p.T) * KV; i++) {
            const real *key = qkv + (p.at + i / KV) * row + (layer->H + i % KV) * D;
            size_t slot = block_slot(s, l, &b->paged.row[p.i], KV, i % KV, p.past + i / KV) * D;
            memcpy(s->k[l] + slot, key, D * sizeof *key);
            memcpy(s->v[l] + slot, key + KV * D, D * sizeof *key);
        }
}

// Attention over the blocks, to which the new tokens are added: at once, or, where a window's slots are too few for
// that, in pieces. The bits are the same: tiles start at multiples of their width, and what is dropped is a number of
// tiles.
static void attend_rows(Model *m, size_t l, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const real *qkv = m->acts[l].mha.qkv;
    Blocks *s = b->paged.blocks;
    AttnOutput o = {.out = m->acts[l].softmax.out, .out_stride = layer->H * layer->Dv};
    size_t longest = 0;
    for EACH_PART(p, b) longest = p.T > longest ? p.T : longest;
    for (size_t at = 0, n; at < longest; at += n) {
        n = blocks_slide(m, s, l, b->paged.row[0].past + at, longest - at);
        append_kv(l, layer, qkv, b, at, n);
        attend_blocks(o, qkv, qkv_width(layer), l, attn_shape(m, layer), b, at, n);
    }
}

// ---- mha, gqa and swa: the mixer -----------------------------------------------------------------
// One product makes [q | k | v] rows; q and k are normalised (if asked), rotated, and attended in place.

static void add_mha(Model *m, Layer *layer, int l) {
    const Config *c = &m->c;
    size_t q = layer->H * layer->D, kv = layer->KV * layer->D;
    layer->Dv = layer->D;
    layer->mha.window = layer->attn == ATTN_swa ? c->window : 0;
    if (layer->mha.window)                                       // and spare tiles: see free_slots
        layer->mha.cache_slots = (layer->mha.window + 7 * c->tile - 1) / c->tile * c->tile;
    const Weight weights[] = {{"attn.q", q, m->std.plain}, {"attn.k", kv, m->std.plain}, {"attn.v", kv, m->std.value}};
    layer->mha.qkv = add_linear(m, l, weights, 3, c->width, config_qkv_bias(c));
    add_gate(m, layer, l);
    if (c->qk_norm == QK_none) return;
    Norm *norm[] = {&layer->mha.q_norm, &layer->mha.k_norm};
    for (size_t i = 0; i < 2; i++) {
        size_t width = i ? kv : q, C = c->qk_norm == QK_head ? layer->D : width;
        *norm[i] = add_rms_norm(m, l, i ? "attn.k_norm" : "attn.q_norm", C, c->norm_eps);
        norm[i]->groups = width / C, norm[i]->x_stride = norm[i]->y_stride = qkv_width(layer);
    }
}

static void mha_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    size_t row = qkv_width(layer), k = layer->H * layer->D;      // keys begin k numbers after the queries
    real *qkv = acts->mha.qkv, *raw = acts->mha.qkv_raw;
    apply(m, qkv, &layer->mha.qkv, x, b->M);
    if (layer->mha.q_norm.on) {
        memcpy(raw, qkv, b->M * row * sizeof *raw);
        normalise(m, &layer->mha.q_norm, qkv, acts->mha.q_norm, raw, b->M);
        normalise(m, &layer->mha.k_norm, qkv + k, acts->mha.k_norm, raw + k, b->M);
    }
    if (!keep_rotates(b)) rotate(m, layer, qkv, row, layer->H + layer->KV, layer->D, b, false);
    if (keep_batch(b))
        keep_attention(m, l, (AttnOutput){.out = acts->softmax.out, .out_stride = layer->H * layer->Dv},
                       (KeepInput){qkv, row, qkv + k, qkv + k + layer->KV * layer->D, row}, attn_shape(m, layer), b);
    else if (b->paged.rows) attend_rows(m, l, b);
    else attend(m, l, qkv, row, qkv_view(layer, qkv, b->T), b);
    output_forward(m, l, out, x, b);
}

static void mha_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    size_t row = qkv_width(layer), k = layer->H * layer->D, v = k + layer->KV * layer->D;
    real *dqkv = m->grads.mha.dqkv;
    const real *qkv = acts->mha.qkv, *raw = acts->mha.qkv_raw;
    bool gated = output_backward(m, l, dx, dout, x, b);
    attend_backward(m, l, dqkv, dqkv + k, dqkv + v, qkv, row, qkv_view(layer, qkv, b->T), b);
    rotate(m, layer, dqkv, row, layer->H + layer->KV, layer->D, b, true);
    if (layer->mha.q_norm.on) {
        normalise_backward(m, &layer->mha.q_norm, dqkv, dqkv, acts->mha.q_norm, raw, b->M, false);
        normalise_backward(m, &layer->mha.k_norm, dqkv + k, dqkv + k, acts->mha.k_norm, raw + k, b->M, false);
    }
    apply_backward(m, dx, dqkv, &layer->mha.qkv, x, b->M, gated);
}

static void layout_mha(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                       bool keep) {
    size_t M = B * T;
    acts->mha.qkv = take(arena, M * qkv_width(layer));
    if (layer->mha.q_norm.on) {
        acts->mha.qkv_raw = take(arena, M * qkv_width(layer));
        acts->mha.q_norm = take_rms_norm(arena, M * layer->H), acts->mha.k_norm = take_rms_norm(arena, M * layer->KV);
    }
    layout_output(m, layer, acts, arena, B, T, keep);
}
static void layout_mha_grads(const Model *m, const Layer *layer, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    (void)m;
    layout_output_grads(layer, g, arena, B * T);
    g->mha.dqkv = take(arena, B * T * qkv_width(layer));
}

static CacheNeed mha_cache(const Layer *layer) {
    return (CacheNeed){.heads = layer->KV, .k = layer->D, .v = layer->D};
}

const Branch mixer_mha = {.add_params = add_mha, .layout_acts = layout_mha, .layout_grads = layout_mha_grads,
                          .forward = mha_forward, .backward = mha_backward, .cache = mha_cache,
                          .flops = attention_flops, .workspace = workspace_of_attention};

// ---- mla -----------------------------------------------------------------------------------------
// Multi-head latent attention: DeepSeek-V2 2024, eq. 9-19, as in DeepSeek-V3. The latent c (width R) is
// normalised and expanded to the keys (N numbers without position) and values of every head; P rotated
// numbers, shared by the heads, carry the position. A head's key is [N | P].

static size_t nope(const Layer *layer) { return layer->D - layer->P; }
static size_t kv_width(const Layer *layer) { return layer->H * (nope(layer) + layer->Dv); }

static void add_mla(Model *m, Layer *layer, int l) {
    const Config *c = &m->c;
    const double latent_eps = 1e-6;      // the reference implementation's default, whatever the other norms use
    size_t R = c->kv_rank, q = layer->H * layer->D;
    bool bias = config_qkv_bias(c);
    if (c->q_rank) {
        layer->mla.q_a = add_linear(m, l, (Weight[]){{"attn.q_a", c->q_rank, m->std.plain}}, 1, c->width, bias);
        layer->mla.q_a_norm = add_rms_norm(m, l, "attn.q_a_norm", c->q_rank, latent_eps);
        layer->mla.q_b = add_linear(m, l, (Weight[]){{"attn.q_b", q, m->std.plain}}, 1, c->q_rank, false);
    } else {
        layer->mla.q = add_linear(m, l, (Weight[]){{"attn.q", q, m->std.plain}}, 1, c->width, false);
    }
    add_gate(m, layer, l);
    layer->mla.kv_a = add_linear(m, l, (Weight[]){{"attn.kv_a", R + layer->P, m->std.plain}}, 1, c->width, bias);
    layer->mla.kv_a_norm = add_rms_norm(m, l, "attn.kv_a_norm", R, latent_eps);
    layer->mla.kv_a_norm.x_stride = R + layer->P;
    layer->mla.kv_b = add_linear(m, l, (Weight[]){{"attn.kv_b", kv_width(layer), m->std.value}}, 1, R, false);
    layer->mla.absorbed_k = add_packed(m, layer->H * packed_size(nope(layer), R));
    layer->mla.absorbed_v = add_packed(m, layer->H * packed_size(R, layer->Dv));
}

static KvView mla_view(const Layer *layer, const real *k, const real *kv, size_t T) {
    size_t wide = layer->H * layer->D, row = kv_width(layer);
    return (KvView){.k = k, .v = kv + nope(layer), .k_step = T * wide, .v_step = T * row, .k_stride = wide,
                    .v_stride = row, .k_head = layer->D, .v_head = nope(layer) + layer->Dv, .length = T};
}

// k [M, H*(N+P)]: each head's own N from kv, and the shared P from kv_a.
static void keys_forward(real *k, const real *kv, const real *kv_a, const Layer *layer, size_t M) {
    size_t R = layer->mla.kv_b.K;
    PROFILE(cache, 0, 2 * M * layer->H * layer->D);
#pragma omp parallel for
    for (size_t t = 0; t < M; t++)
        for (size_t h = 0; h < layer->H; h++) {
            real *key = k + (t * layer->H + h) * layer->D;
            memcpy(key, kv + t * kv_width(layer) + h * (nope(layer) + layer->Dv), nope(layer) * sizeof *k);
            memcpy(key + nope(layer), kv_a + t * (R + layer->P) + R, layer->P * sizeof *k);
        }
}
static void keys_backward(real *dkv, real *dkv_a, const real *dk, const Layer *layer, size_t M) {
    size_t R = layer->mla.kv_b.K;
    PROFILE(cache, M * layer->H * layer->P, 2 * M * layer->H * layer->D);
#pragma omp parallel for
    for (size_t t = 0; t < M; t++) {
        real *shared = dkv_a + t * (R + layer->P) + R;
        for (size_t i = 0; i < layer->P; i++) shared[i] = 0;
        for (size_t h = 0; h < layer->H; h++) {
            const real *key = dk + (t * layer->H + h) * layer->D;
            memcpy(dkv + t * kv_width(layer) + h * (nope(layer) + layer->Dv), key, nope(layer) * sizeof *dk);
            for (size_t i = 0; i < layer->P; i++) shared[i] += key[nope(layer) + i];
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
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    size_t R = layer->mla.kv_b.K, N = nope(layer), P = layer->P, wide = R + P, H = layer->H, D = layer->D;
    size_t Dv = layer->Dv;
    real *latent_q = acts->mla.latent_q, *latent_out = acts->mla.latent_out, *out = acts->softmax.out;
    Product *p = xmalloc(H * sizeof *p);
    for (size_t h = 0; h < H; h++)
        p[h] = (Product){.c = latent_q + h * wide, .ldc = H * wide, .a = acts->mla.q + h * D, .a_row = H * D,
                         .a_col = 1, .packed = m->packed + layer->mla.absorbed_k + h * packed_size(N, R), .M = b->M,
                         .N = R, .K = N};
    latent_products(p, H);
    for (size_t t = 0; t < b->M; t++)
        for (size_t h = 0; h < H; h++)
            memcpy(latent_q + (t * H + h) * wide + R, acts->mla.q + (t * H + h) * D + N, P * sizeof *latent_q);
    AttnShape s = attn_shape(m, layer);      // the scale stays that of the full head
    s.KV = 1, s.D = wide, s.Dv = R;
    AttnOutput o = {.out = latent_out, .out_stride = H * R};
    if (keep_batch(b)) keep_attention(m, l, o, (KeepInput){latent_q, H * wide, acts->mla.kv_a, NULL, wide}, s, b);
    else attend_blocks(o, latent_q, H * wide, l, s, b, 0, b->M);
    for (size_t h = 0; h < H; h++)
        p[h] = (Product){.c = out + h * Dv, .ldc = H * Dv, .a = latent_out + h * R, .a_row = H * R, .a_col = 1,
                         .packed = m->packed + layer->mla.absorbed_v + h * packed_size(R, Dv), .M = b->M, .N = Dv,
                         .K = R};
    latent_products(p, H);
    free(p);
}

static void append_latent(size_t l, const Layer *layer, const LayerActs *acts, const Batch *b) {
    size_t R = layer->mla.kv_b.K, P = layer->P, wide = R + P;
    PROFILE(cache, 0, 2 * b->M * wide);
    for EACH_PART(p, b)
        for (size_t i = 0; i < p.T; i++) {
            size_t position = p.past + i, token = p.at + i;
            if (keep_batch(b)) {                                  // side by side, for keep_attention
                memcpy(acts->mla.kv_a + token * wide, acts->mla.c + token * R, R * sizeof(real));
                continue;
            }
            real *slot = b->paged.blocks->k[l] + block_slot(b->paged.blocks, l, &b->paged.row[p.i], 1, 0, position) *
                                                     wide;
            memcpy(slot, acts->mla.c + token * R, R * sizeof *slot);
            memcpy(slot + R, acts->mla.kv_a + token * wide + R, P * sizeof *slot);
        }
}

static void mla_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    size_t R = layer->mla.kv_b.K, wide = R + layer->P, q_row = layer->H * layer->D;
    real *q = acts->mla.q, *kv_a = acts->mla.kv_a, *c = acts->mla.c, *kv = acts->mla.kv, *k = acts->mla.k;
    bool low_rank_q = layer->mla.q_a.N > 0;
    if (low_rank_q) {
        apply(m, acts->mla.q_a, &layer->mla.q_a, x, b->M);
        normalise(m, &layer->mla.q_a_norm, acts->mla.q_c, acts->mla.q_a_norm, acts->mla.q_a, b->M);
    }
    apply(m, q, low_rank_q ? &layer->mla.q_b : &layer->mla.q, low_rank_q ? acts->mla.q_c : x, b->M);
    apply(m, kv_a, &layer->mla.kv_a, x, b->M);
    normalise(m, &layer->mla.kv_a_norm, c, acts->mla.kv_a_norm, kv_a, b->M);
    rotate(m, layer, q + nope(layer), q_row, layer->H, layer->D, b, false);
    rotate(m, layer, kv_a + R, wide, 1, layer->P, b, false);
    if (b->paged.rows) {                 // whatever has come before, so that it cannot be seen how a text was cut
        append_latent(l, layer, acts, b);
        mla_absorbed(m, l, b);
    } else {
        apply(m, kv, &layer->mla.kv_b, c, b->M);
        keys_forward(k, kv, kv_a, layer, b->M);
        attend(m, l, q, q_row, mla_view(layer, k, kv, b->T), b);
    }
    output_forward(m, l, out, x, b);
}

static void mla_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    size_t R = layer->mla.kv_b.K, wide = R + layer->P, q_row = layer->H * layer->D, N = nope(layer);
    real *dq = m->grads.mla.dq, *dk = m->grads.mla.dk, *dkv = m->grads.mla.dkv, *dkv_a = m->grads.mla.dkv_a,
         *dc = m->grads.mla.dc, *dq_c = m->grads.mla.dq_c, *dq_a = m->grads.mla.dq_a;
    bool gated = output_backward(m, l, dx, dout, x, b);
    attend_backward(m, l, dq, dk, dkv + N, acts->mla.q, q_row, mla_view(layer, acts->mla.k, acts->mla.kv, b->T), b);
    keys_backward(dkv, dkv_a, dk, layer, b->M);
    rotate(m, layer, dq + N, q_row, layer->H, layer->D, b, true);
    rotate(m, layer, dkv_a + R, wide, 1, layer->P, b, true);
    apply_backward(m, dc, dkv, &layer->mla.kv_b, acts->mla.c, b->M, false);
    normalise_backward(m, &layer->mla.kv_a_norm, dkv_a, dc, acts->mla.kv_a_norm, acts->mla.kv_a, b->M, false);
    apply_backward(m, dx, dkv_a, &layer->mla.kv_a, x, b->M, gated);
    if (!layer->mla.q_a.N) {
        apply_backward(m, dx, dq, &layer->mla.q, x, b->M, true);
        return;
    }
    apply_backward(m, dq_c, dq, &layer->mla.q_b, acts->mla.q_c, b->M, false);
    normalise_backward(m, &layer->mla.q_a_norm, dq_a, dq_c, acts->mla.q_a_norm, acts->mla.q_a, b->M, false);
    apply_backward(m, dx, dq_a, &layer->mla.q_a, x, b->M, true);
}

static void layout_mla(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                       bool keep) {
    size_t M = B * T, R = layer->mla.kv_b.K, q_rank = layer->mla.q_a.N, q = M * layer->H * layer->D;
    if (q_rank) {
        acts->mla.q_a = take(arena, M * q_rank), acts->mla.q_c = take(arena, M * q_rank);
        acts->mla.q_a_norm = take_rms_norm(arena, M);
    }
    acts->mla.q = take(arena, q), acts->mla.k = take(arena, q), acts->mla.kv = take(arena, M * kv_width(layer));
    acts->mla.kv_a = take(arena, M * (R + layer->P)), acts->mla.c = take(arena, M * R);
    acts->mla.kv_a_norm = take_rms_norm(arena, M);
    if (!keep) {
        acts->mla.latent_q = take(arena, M * layer->H * (R + layer->P));
        acts->mla.latent_out = take(arena, M * layer->H * R);
    }
    layout_output(m, layer, acts, arena, B, T, keep);
}
static void layout_mla_grads(const Model *m, const Layer *layer, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, R = layer->mla.kv_b.K, q = M * layer->H * layer->D;
    (void)m;
    layout_output_grads(layer, g, arena, M);
    g->mla.dq = take(arena, q), g->mla.dk = take(arena, q), g->mla.dkv = take(arena, M * kv_width(layer));
    g->mla.dc = take(arena, M * R), g->mla.dkv_a = take(arena, M * (R + layer->P));
    g->mla.dq_c = take(arena, M * layer->mla.q_a.N), g->mla.dq_a = take(arena, M * layer->mla.q_a.N);
}

static CacheNeed mla_cache(const Layer *layer) {
    return (CacheNeed){.heads = 1, .k = layer->mla.kv_b.K + layer->P};
}

const Branch mixer_mla = {.add_params = add_mla, .layout_acts = layout_mla, .layout_grads = layout_mla_grads,
                          .forward = mla_forward, .backward = mla_backward, .cache = mla_cache,
                          .flops = attention_flops, .workspace = workspace_of_attention};

// linear.c: the mixers with linear attention: linear, gla, delta, gated-delta and mamba2. One product makes
// [q | k | v | gates] rows; q, k and v pass a short convolution, q and k a feature map; then the recurrence of
// kernels/recurrence.c. What a mixer adds, as in its paper:
//     linear       elu + 1 on q and k, divided by the sum of the weights (Katharopoulos et al. 2020)
//     gla          decays per key dimension through 16 numbers, norm and silu gate on the output (Yang et al. 2023)
//     delta        unit q and k, a write strength per head, norm on the output (Yang et al. 2024)
//     gated-delta  as delta, with a decay per head and a silu gate (Yang, Kautz, Hatamizadeh 2024; Qwen3-Next)
//     mamba2       v times a step per head, which also sets the head's decay; a share of v itself is added to the
//                  output, then silu gate, then norm (Dao and Gu 2024, section 7 and reference code)
// In Mamba-2's words q, k, v, the gate and the skip are C, B, x, z and D. Here every head has its own B and C (its code
// with as many groups as heads, so that a norm is over one head); published models share them, as GQA shares keys. And
// the convolution has no bias, and the norm's weights are the same for all heads: the output matrix can scale them.
#include "model/layer.h"
#include "kernels/recurrence.h"
#include "kernels/gates.h"
#include <math.h>
#include <string.h>

enum { GATE_RANK = 16 };                 // of the decays of gla: the paper's choice

static bool has_delta(const Layer *y) { return y->attn == ATTN_delta || y->attn == ATTN_gated_delta; }
static bool is_mamba2(const Layer *y) { return y->attn == ATTN_mamba2; }
static bool has_head_decay(const Layer *y) { return y->attn == ATTN_gated_delta || is_mamba2(y); }
static bool has_gate(const Layer *y) { return y->attn == ATTN_gla || has_head_decay(y); }
static bool has_silu(const Layer *y) { return y->taps || has_delta(y) || is_mamba2(y); }     // on q, k and v

// Columns of a row of the first product, and their widths.
static size_t key_width(const Layer *y) { return y->H * y->D; }
static size_t value_width(const Layer *y) { return y->H * y->Dv; }
static size_t channels(const Layer *y) { return 2 * key_width(y) + value_width(y); }
static size_t gate_at(const Layer *y) { return channels(y); }
static size_t beta_at(const Layer *y) { return channels(y) + has_gate(y) * value_width(y); }
static size_t decay_at(const Layer *y) { return beta_at(y) + has_delta(y) * y->H; }

static RecurrenceShape recurrence_shape(const Layer *y) {
    return (RecurrenceShape){.H = y->H, .D = y->D, .Dv = y->Dv, .delta = has_delta(y), .has_decay = has_gate(y),
                             .decay_per_key = y->attn == ATTN_gla, .has_step = is_mamba2(y)};
}

static void add_linear_mixer(Model *m, int l, Layer *y, Deviations d) {
    size_t C = m->c.width, q = y->H * y->D, v = y->H * y->Dv, n = 3;
    Part part[6] = {{"attn.q", q, d.plain}, {"attn.k", q, d.plain}, {"attn.v", v, d.value}};
    if (has_gate(y)) part[n++] = (Part){"attn.gate", v, d.plain};
    if (has_delta(y)) part[n++] = (Part){"attn.beta", y->H, d.plain};
    if (has_head_decay(y)) part[n++] = (Part){"attn.decay", y->H, d.plain};
    if (y->attn == ATTN_gla) part[n++] = (Part){"attn.decay_a", GATE_RANK, d.plain};
    y->taps = m->c.short_conv;
    y->qkv = add_linear(m, l, part, n, C, m->c.bias);
    if (y->attn == ATTN_gla) y->decay_b = add_linear(m, l, (Part[]){{"attn.decay_b", q, d.plain}}, 1, GATE_RANK, true);
    // The deviation of PyTorch's Conv1d: uniform in +-1/sqrt(taps).
    if (y->taps) y->conv = add_matrix(m, l, "attn.conv.weight", y->taps, channels(y), sqrt(1 / (3 * (double)y->taps)));
    if (has_head_decay(y)) {
        y->decay_rate = add_vector(m, l, "attn.decay_rate", y->H, INIT_DECAY_RATE);
        y->decay_shift = add_vector(m, l, "attn.decay_shift", y->H, INIT_DECAY_SHIFT);
    }
    if (is_mamba2(y)) y->skip = add_vector(m, l, "attn.skip", y->H, INIT_ONE);
    if (y->attn != ATTN_linear) y->o_norm = add_rms_norm(m, l, "attn.o_norm", y->Dv, m->c.norm_eps);
}

// ---- memory --------------------------------------------------------------------------------------
// A sequence's state in a cache: that of the recurrence, the sums of the keys (linear), the last tokens of the
// convolution.

static size_t sums_at(const Layer *y) { return recurrence_state_size(recurrence_shape(y)); }
static size_t tail_at(const Layer *y) { return sums_at(y) + (y->attn == ATTN_linear ? key_width(y) : 0); }
static CacheNeed linear_cache(const Layer *y) {
    return (CacheNeed){.state = tail_at(y) + (y->taps ? (y->taps - 1) * channels(y) : 0)};
}

static void layout_linear(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T, q = key_width(y), v = value_width(y);
    (void)m;
    a->qkv = take(arena, M * y->qkv.N), a->features = take(arena, M * 2 * q), a->out = take(arena, M * v);
    if (has_silu(y)) a->before = take(arena, M * channels(y)), a->mixed = take(arena, M * channels(y));
    if (has_delta(y) || is_mamba2(y)) a->beta = take(arena, M * y->H);
    if (has_head_decay(y)) a->decay = take(arena, M * y->H);
    if (y->attn == ATTN_gla)
        a->decay_a = take(arena, M * GATE_RANK), a->decay_b = take(arena, M * q), a->decay = take(arena, M * q);
    if (y->attn == ATTN_linear) a->sum = take(arena, M * y->H);
    else a->normed = take(arena, M * v), a->out_rstd = take(arena, M * y->H);
    if (has_gate(y)) a->gated = take(arena, M * v);
    if (keep) a->states = take(arena, recurrence_states_size(B, T, recurrence_shape(y)));
}
static void layout_linear_grads(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, q = key_width(y), v = value_width(y);
    (void)m;
    g->dqkv = take(arena, M * y->qkv.N), g->dout = take(arena, M * v), g->dgated = take(arena, M * v);
    g->dfeatures = take(arena, M * 2 * q), g->dmixed = take(arena, M * channels(y));
    g->dbeta = take(arena, M * y->H), g->dlog = take(arena, M * (y->attn == ATTN_gla ? q : y->H));
    g->ddecay_b = take(arena, M * q), g->ddecay_a = take(arena, M * GATE_RANK);
}

// ---- the pieces ----------------------------------------------------------------------------------

static ConvShape conv_shape(const Layer *y, const Batch *b) {
    return (ConvShape){.B = b->B, .T = b->T, .W = y->taps, .C = channels(y), .x_stride = y->qkv.N};
}
static const real *conv_weight(const Model *m, const Layer *y) { return y->taps ? m->values + y->conv : NULL; }

// q, k and v after the convolution: [M, stride].
typedef struct { real *at; size_t stride; } Rows;
static Rows mixed_rows(const Layer *y, const LayerActs *a) {
    return has_silu(y) ? (Rows){a->mixed, channels(y)} : (Rows){a->qkv, y->qkv.N};
}

// Queries times 1/sqrt(K), except where a sum of weights divides and in Mamba-2. Both maps of q and of k.
static FeatureShape feature_shape(const Layer *y, size_t stride, size_t M, bool query) {
    Feature f = y->attn == ATTN_linear ? FEATURE_ELU : has_delta(y) ? FEATURE_UNIT : FEATURE_PLAIN;
    bool scaled = query && (has_delta(y) || y->attn == ATTN_gla);
    return (FeatureShape){.M = M, .heads = y->H, .K = y->D, .feature = f, .x_stride = stride,
                          .y_stride = 2 * key_width(y),
                          .scale = scaled ? 1 / sqrt((double)y->D) : 1};
}

static RecurrenceInput recurrence_input(const Layer *y, const LayerActs *a) {
    Rows r = mixed_rows(y, a);
    size_t q = key_width(y);
    return (RecurrenceInput){.q = a->features, .k = a->features + q, .v = r.at + 2 * q, .q_stride = 2 * q,
                             .k_stride = 2 * q, .v_stride = r.stride, .beta = a->beta, .decay = a->decay};
}

static SumShape sum_shape(const Layer *y, const LayerActs *a) {
    size_t q = key_width(y);
    return (SumShape){.q = a->features, .k = a->features + q, .q_stride = 2 * q, .k_stride = 2 * q,
                      .H = y->H, .D = y->D, .Dv = y->Dv};
}

static void copy_rows(real *to, size_t to_stride, const real *from, size_t from_stride, size_t M, size_t N) {
    for (size_t m = 0; m < M; m++) memcpy(to + m * to_stride, from + m * from_stride, N * sizeof *to);
}

static void gates_forward(Model *m, const Layer *y, LayerActs *a, size_t M) {
    size_t N = y->qkv.N;
    if (has_delta(y)) sigmoid_forward(a->beta, a->qkv + beta_at(y), N, M, y->H);
    if (has_head_decay(y))
        head_decay_forward(a->decay, is_mamba2(y) ? a->beta : NULL, a->qkv + decay_at(y), N,
                           m->values + y->decay_rate, m->values + y->decay_shift, M, y->H);
    if (y->attn != ATTN_gla) return;
    copy_rows(a->decay_a, GATE_RANK, a->qkv + decay_at(y), N, M, GATE_RANK);
    apply(m, a->decay_b, &y->decay_b, a->decay_a, M);
    key_decay_forward(a->decay, a->decay_b, M * key_width(y));
}
static void gates_backward(Model *m, const Layer *y, LayerActs *a, LayerGrads *g, size_t M) {
    size_t N = y->qkv.N;
    if (has_delta(y)) sigmoid_backward(g->dqkv + beta_at(y), N, g->dbeta, a->beta, M, y->H);
    if (has_head_decay(y))
        head_decay_backward(g->dqkv + decay_at(y), N, m->gradients + y->decay_rate, m->gradients + y->decay_shift,
                            g->dlog, is_mamba2(y) ? g->dbeta : NULL, a->qkv + decay_at(y), m->values + y->decay_rate,
                            m->values + y->decay_shift, M, y->H);
    if (y->attn != ATTN_gla) return;
    key_decay_backward(g->ddecay_b, g->dlog, a->decay_b, M * key_width(y));
    apply_backward(m, g->ddecay_a, g->ddecay_b, &y->decay_b, a->decay_a, M, false);
    copy_rows(g->dqkv + decay_at(y), N, g->ddecay_a, GATE_RANK, M, GATE_RANK);
}

// What the output matrix reads: the output divided by the sum, or normalised and then gated; or gated and normalised.
static const real *output_of(const Layer *y, const LayerActs *a) {
    return has_gate(y) && !is_mamba2(y) ? a->gated : a->normed ? a->normed : a->out;
}
static void output_forward(const Model *m, const Layer *y, LayerActs *a, size_t M) {
    size_t v = value_width(y), N = y->qkv.N;
    const real *gate = a->qkv + gate_at(y);
    if (is_mamba2(y)) {
        skip_forward(a->out, a->mixed + 2 * key_width(y), channels(y), m->values + y->skip, M, y->H, y->Dv);
        silu_gate_forward(a->gated, a->out, gate, N, M, v);
        normalise(m, a->normed, v, NULL, a->out_rstd, a->gated, v, &y->o_norm, M, y->H);
        return;
    }
    if (y->attn != ATTN_linear) normalise(m, a->normed, v, NULL, a->out_rstd, a->out, v, &y->o_norm, M, y->H);
    if (has_gate(y)) silu_gate_forward(a->gated, a->normed, gate, N, M, v);
}
// From what the output matrix gives (dgated, or dout where there is no gate) to dout of the recurrence.
static void output_backward(Model *m, const Layer *y, LayerActs *a, LayerGrads *g, size_t M) {
    size_t v = value_width(y), N = y->qkv.N;
    const real *gate = a->qkv + gate_at(y);
    real *dgate = g->dqkv + gate_at(y);
    if (is_mamba2(y)) {
        normalise_backward(m, g->dgated, g->dgated, v, NULL, a->out_rstd, a->gated, v, &y->o_norm, M, y->H, false);
        silu_gate_backward(g->dout, dgate, g->dgated, a->out, gate, N, M, v);
        return;
    }
    if (has_gate(y)) silu_gate_backward(g->dout, dgate, g->dgated, a->normed, gate, N, M, v);
    if (y->attn != ATTN_linear)
        normalise_backward(m, g->dout, g->dout, v, NULL, a->out_rstd, a->out, v, &y->o_norm, M, y->H, false);
}

// ---- the mixers ----------------------------------------------------------------------------------

// What a picture shows (model.h): this layer's shares of the past, without what Mamba-2 adds of the token's own value,
// and the rank of its states.
static void record(const Model *m, const Layer *y, size_t l, const LayerActs *a, const Batch *b) {
    const RecurrenceInput in = recurrence_input(y, a);
    if (m->record) recurrence_weights(m->record + l * y->H * b->T * b->T, &in, b->T, recurrence_shape(y));
    if (m->record_rank)
        recurrence_ranks(m->record_rank + l * y->H * b->T, &in, b->T, (b->T + 63) / 64, recurrence_shape(y));
}

static void linear_mixer_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    size_t step = linear_cache(y).state;
    real *state = b->cache ? b->cache->state[l] : NULL, *tail = state ? state + tail_at(y) : NULL,
         *sums = state ? state + sums_at(y) : NULL;
    apply(m, a->qkv, &y->qkv, x, b->M);
    if (has_silu(y)) short_conv_forward(a->mixed, a->before, a->qkv, conv_weight(m, y), tail, step, conv_shape(y, b));
    Rows r = mixed_rows(y, a);
    feature_forward(a->features, r.at, feature_shape(y, r.stride, b->M, true));
    feature_forward(a->features + key_width(y), r.at + key_width(y), feature_shape(y, r.stride, b->M, false));
    gates_forward(m, y, a, b->M);
    const RecurrenceInput in = recurrence_input(y, a);
    recurrence_forward(a->out, a->states, &in, b->B, b->T, (RecurrenceState){state, step, b->past},
                       recurrence_shape(y));
    if (y->attn == ATTN_linear) normalise_sum_forward(a->out, a->sum, sums, step, b->B, b->T, sum_shape(y, a));
    output_forward(m, y, a, b->M);
    apply(m, out, &y->o, output_of(y, a), b->M);
    if (!b->cache && b->B == 1) record(m, y, l, a, b);
}

static void linear_mixer_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    size_t q = key_width(y), N = y->qkv.N;
    apply_backward(m, has_gate(y) ? g->dgated : g->dout, dout, &y->o, output_of(y, a), b->M, false);
    output_backward(m, y, a, g, b->M);
    real *dfeatures = g->dfeatures, *dmixed = has_silu(y) ? g->dmixed : g->dqkv;
    size_t stride = has_silu(y) ? channels(y) : N;
    const RecurrenceInput in = recurrence_input(y, a);
    const RecurrenceGradient to = {.q = dfeatures, .k = dfeatures + q, .v = dmixed + 2 * q, .q_stride = 2 * q,
                                   .k_stride = 2 * q, .v_stride = stride, .beta = g->dbeta, .log_decay = g->dlog};
    if (y->attn == ATTN_linear) normalise_sum_numerator(g->dout, a->sum, a->out, b->M, sum_shape(y, a));
    recurrence_backward(&to, g->dout, a->states, &in, b->B, b->T, recurrence_shape(y));
    if (y->attn == ATTN_linear) normalise_sum_backward(dfeatures, dfeatures + q, a->sum, b->B, b->T, sum_shape(y, a));
    if (is_mamba2(y))
        skip_backward(dmixed + 2 * q, m->gradients + y->skip, g->dout, a->mixed + 2 * q, stride, m->values + y->skip,
                      b->M, y->H, y->Dv);
    gates_backward(m, y, a, g, b->M);
    Rows r = mixed_rows(y, a);
    feature_backward(dmixed, dfeatures, r.at, feature_shape(y, r.stride, b->M, true));
    feature_backward(dmixed + q, dfeatures + q, r.at + q, feature_shape(y, r.stride, b->M, false));
    if (has_silu(y))
        short_conv_backward(g->dqkv, y->taps ? m->gradients + y->conv : NULL, dmixed, a->before, a->qkv,
                            conv_weight(m, y), conv_shape(y, b));
    apply_backward(m, dx, g->dqkv, &y->qkv, x, b->M, false);
}

// Reading and writing the state, per token and head, in the forward; twice that in the backward.
static double linear_flops(const Layer *y, size_t T) {
    (void)T;
    return 3.0 * (double)(2 * y->H * y->D * y->Dv) * (has_delta(y) ? 3 : 2);
}

static size_t linear_workspace_of(const Model *m, const Layer *y, size_t T) {
    (void)m, (void)T;
    return recurrence_workspace(recurrence_shape(y));
}

const Mixer mixer_linear = {add_linear_mixer, layout_linear, layout_linear_grads, linear_mixer_forward,
                            linear_mixer_backward, linear_cache, linear_flops, linear_workspace_of};

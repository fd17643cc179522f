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
#include "linear.h"
#include "kernels/gates.h"
#include "kernels/recurrence.h"
#include "model/pieces.h"
#include <math.h>
#include <string.h>

enum { GATE_RANK = 16 };                 // of the decays of gla: the paper's choice

static bool has_delta(const Layer *layer) { return layer->attn == ATTN_delta || layer->attn == ATTN_gated_delta; }
static bool is_mamba2(const Layer *layer) { return layer->attn == ATTN_mamba2; }
static bool has_head_decay(const Layer *layer) { return layer->attn == ATTN_gated_delta || is_mamba2(layer); }
static bool has_gate(const Layer *layer) { return layer->attn == ATTN_gla || has_head_decay(layer); }
static bool has_silu(const Layer *layer) {               // on q, k and v
    return layer->linear.taps || has_delta(layer) || is_mamba2(layer);
}

// Columns of a row of the first product, and their widths.
static size_t key_width(const Layer *layer) { return layer->H * layer->D; }
static size_t value_width(const Layer *layer) { return layer->H * layer->Dv; }
static size_t channels(const Layer *layer) { return 2 * key_width(layer) + value_width(layer); }
static size_t gate_at(const Layer *layer) { return channels(layer); }
static size_t beta_at(const Layer *layer) { return channels(layer) + has_gate(layer) * value_width(layer); }
static size_t decay_at(const Layer *layer) { return beta_at(layer) + has_delta(layer) * layer->H; }

static RecurrenceShape recurrence_shape(const Layer *layer) {
    return (RecurrenceShape){.H = layer->H, .D = layer->D, .Dv = layer->Dv, .delta = has_delta(layer),
                             .has_decay = has_gate(layer), .decay_per_key = layer->attn == ATTN_gla,
                             .has_step = is_mamba2(layer)};
}

static void add_linear_mixer(Model *m, Layer *layer, int l) {
    size_t C = m->c.width, H = layer->H, q = key_width(layer), v = value_width(layer), n = 3, taps = m->c.short_conv;
    double std = m->std.plain;
    bool gla = layer->attn == ATTN_gla;
    Weight weight[6] = {{"attn.q", q, std}, {"attn.k", q, std}, {"attn.v", v, m->std.value}};
    if (has_gate(layer)) weight[n++] = (Weight){"attn.gate", v, std};
    if (has_delta(layer)) weight[n++] = (Weight){"attn.beta", H, std};
    if (has_head_decay(layer)) weight[n++] = (Weight){"attn.decay", H, std};
    if (gla) weight[n++] = (Weight){"attn.decay_a", GATE_RANK, std};
    layer->linear.taps = taps;
    layer->linear.qkv = add_linear(m, l, weight, n, C, config_qkv_bias(&m->c));
    if (gla) layer->linear.decay_b = add_linear(m, l, (Weight[]){{"attn.decay_b", q, std}}, 1, GATE_RANK, true);
    // The deviation of PyTorch's Conv1d: uniform in +-1/sqrt(taps).
    if (taps)
        layer->linear.conv = add_matrix(m, l, "attn.conv.weight", taps, channels(layer), sqrt(1 / (3 * (double)taps)));
    if (has_head_decay(layer)) {
        layer->linear.decay_rate = add_vector(m, l, "attn.decay_rate", H, INIT_DECAY_RATE);
        layer->linear.decay_shift = add_vector(m, l, "attn.decay_shift", H, INIT_DECAY_SHIFT);
    }
    if (is_mamba2(layer)) layer->linear.skip = add_vector(m, l, "attn.skip", H, INIT_ONE);
    if (layer->attn == ATTN_linear) return;
    Norm *o_norm = &layer->linear.o_norm;          // one per head
    *o_norm = add_rms_norm(m, l, "attn.o_norm", layer->Dv, m->c.norm_eps);
    o_norm->groups = H, o_norm->x_stride = o_norm->y_stride = v;
}

// ---- memory --------------------------------------------------------------------------------------
// A sequence's state in a cache: that of the recurrence, the sums of the keys (linear), the last tokens of the
// convolution.

static size_t sums_at(const Layer *layer) { return recurrence_state_size(recurrence_shape(layer)); }
static size_t tail_at(const Layer *layer) {
    return sums_at(layer) + (layer->attn == ATTN_linear ? key_width(layer) : 0);
}
static CacheNeed linear_cache(const Layer *layer) {
    size_t taps = layer->linear.taps;
    return (CacheNeed){.state = tail_at(layer) + (taps ? (taps - 1) * channels(layer) : 0)};
}

static void layout_linear(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                          bool keep) {
    size_t M = B * T, q = key_width(layer), v = value_width(layer);
    LinearActs *a = &acts->linear;
    (void)m;
    a->qkv = take(arena, M * layer->linear.qkv.N), a->features = take(arena, M * 2 * q), a->out = take(arena, M * v);
    size_t convolved = has_silu(layer) ? M * channels(layer) : 0;
    if (convolved) a->pre_silu = take(arena, convolved), a->convolved = take(arena, convolved);
    if (has_delta(layer) || is_mamba2(layer)) a->beta = take(arena, M * layer->H);
    if (has_head_decay(layer)) a->decay = take(arena, M * layer->H);
    if (layer->attn == ATTN_gla)
        a->decay_a = take(arena, M * GATE_RANK), a->decay_b = take(arena, M * q), a->decay = take(arena, M * q);
    if (layer->attn == ATTN_linear) a->sum = take(arena, M * layer->H);
    else a->normed = take(arena, M * v), a->o_norm = take_rms_norm(arena, M * layer->H);
    if (has_gate(layer)) a->gated = take(arena, M * v);
    if (keep) a->states = take(arena, recurrence_states_size(B, T, recurrence_shape(layer)));
}
static void layout_linear_grads(const Model *m, const Layer *layer, LayerGrads *grads, Arena *arena, size_t B,
                                size_t T) {
    size_t M = B * T, q = key_width(layer), v = value_width(layer);
    LinearGrads *g = &grads->linear;
    (void)m;
    g->dqkv = take(arena, M * layer->linear.qkv.N), g->dout = take(arena, M * v), g->dgated = take(arena, M * v);
    g->dfeatures = take(arena, M * 2 * q), g->dconvolved = take(arena, M * channels(layer));
    g->dbeta = take(arena, M * layer->H), g->dlog_decay = take(arena, M * (layer->attn == ATTN_gla ? q : layer->H));
    g->ddecay_b = take(arena, M * q), g->ddecay_a = take(arena, M * GATE_RANK);
}

// ---- the pieces ----------------------------------------------------------------------------------

static ConvShape conv_shape(const Layer *layer, size_t B, size_t T) {
    return (ConvShape){.B = B, .T = T, .W = layer->linear.taps, .C = channels(layer),
                       .x_stride = layer->linear.qkv.N};
}
static const real *conv_weight(const Model *m, const Layer *layer) {
    return layer->linear.taps ? m->values + layer->linear.conv : NULL;
}

// q, k and v after the convolution: [M, stride].
typedef struct { real *at; size_t stride; } Rows;
static Rows qkv_rows(const Layer *layer, const LinearActs *a) {
    return has_silu(layer) ? (Rows){a->convolved, channels(layer)} : (Rows){a->qkv, layer->linear.qkv.N};
}

// Queries times 1/sqrt(K), except where a sum of weights divides and in Mamba-2. Both maps of q and of k.
static FeatureShape feature_shape(const Layer *layer, size_t stride, size_t M, bool query) {
    Feature f = layer->attn == ATTN_linear ? FEATURE_ELU : has_delta(layer) ? FEATURE_UNIT : FEATURE_PLAIN;
    bool scaled = query && (has_delta(layer) || layer->attn == ATTN_gla);
    return (FeatureShape){.M = M, .heads = layer->H, .K = layer->D, .feature = f, .x_stride = stride,
                          .y_stride = 2 * key_width(layer), .scale = scaled ? 1 / sqrt((double)layer->D) : 1};
}

static RecurrenceInput recurrence_input(const Layer *layer, const LinearActs *a) {
    Rows r = qkv_rows(layer, a);
    size_t q = key_width(layer);
    return (RecurrenceInput){.q = a->features, .k = a->features + q, .v = r.at + 2 * q, .q_stride = 2 * q,
                             .k_stride = 2 * q, .v_stride = r.stride, .beta = a->beta, .decay = a->decay};
}

static SumShape sum_shape(const Layer *layer, const LinearActs *a) {
    size_t q = key_width(layer);
    return (SumShape){.q = a->features, .k = a->features + q, .q_stride = 2 * q, .k_stride = 2 * q,
                      .H = layer->H, .D = layer->D, .Dv = layer->Dv};
}

static void copy_rows(real *to, size_t to_stride, const real *from, size_t from_stride, size_t M, size_t N) {
    for (size_t m = 0; m < M; m++) memcpy(to + m * to_stride, from + m * from_stride, N * sizeof *to);
}

static void gates_forward(Model *m, const Layer *layer, const LinearActs *a, size_t M) {
    size_t N = layer->linear.qkv.N;
    if (has_delta(layer)) sigmoid_forward(a->beta, a->qkv + beta_at(layer), N, M, layer->H);
    if (has_head_decay(layer))
        head_decay_forward(a->decay, is_mamba2(layer) ? a->beta : NULL, a->qkv + decay_at(layer), N,
                           m->values + layer->linear.decay_rate, m->values + layer->linear.decay_shift, M, layer->H);
    if (layer->attn != ATTN_gla) return;
    copy_rows(a->decay_a, GATE_RANK, a->qkv + decay_at(layer), N, M, GATE_RANK);
    apply(m, a->decay_b, &layer->linear.decay_b, a->decay_a, M);
    key_decay_forward(a->decay, a->decay_b, M * key_width(layer));
}
static void gates_backward(Model *m, const Layer *layer, const LinearActs *a, LinearGrads *g, size_t M) {
    size_t N = layer->linear.qkv.N, rate = layer->linear.decay_rate, shift = layer->linear.decay_shift;
    if (has_delta(layer)) sigmoid_backward(g->dqkv + beta_at(layer), N, g->dbeta, a->beta, M, layer->H);
    if (has_head_decay(layer))
        head_decay_backward(g->dqkv + decay_at(layer), N, m->gradients + rate, m->gradients + shift, g->dlog_decay,
                            is_mamba2(layer) ? g->dbeta : NULL, a->qkv + decay_at(layer), m->values + rate,
                            m->values + shift, M, layer->H);
    if (layer->attn != ATTN_gla) return;
    key_decay_backward(g->ddecay_b, g->dlog_decay, a->decay_b, M * key_width(layer));
    apply_backward(m, g->ddecay_a, g->ddecay_b, &layer->linear.decay_b, a->decay_a, M, false);
    copy_rows(g->dqkv + decay_at(layer), N, g->ddecay_a, GATE_RANK, M, GATE_RANK);
}

// What the output matrix reads: the output divided by the sum, or normalised and then gated; or gated and normalised.
static const real *output_of(const Layer *layer, const LinearActs *a) {
    return has_gate(layer) && !is_mamba2(layer) ? a->gated : a->normed ? a->normed : a->out;
}
static void output_forward(const Model *m, const Layer *layer, const LinearActs *a, size_t M) {
    size_t v = value_width(layer), N = layer->linear.qkv.N;
    const real *gate = a->qkv + gate_at(layer);
    if (is_mamba2(layer)) {
        skip_forward(a->out, a->convolved + 2 * key_width(layer), channels(layer), m->values + layer->linear.skip, M,
                     layer->H, layer->Dv);
        silu_gate_forward(a->gated, a->out, gate, N, M, v);
        normalise(m, &layer->linear.o_norm, a->normed, a->o_norm, a->gated, M);
        return;
    }
    if (layer->attn != ATTN_linear) normalise(m, &layer->linear.o_norm, a->normed, a->o_norm, a->out, M);
    if (has_gate(layer)) silu_gate_forward(a->gated, a->normed, gate, N, M, v);
}
// From what the output matrix gives (dgated, or dout where there is no gate) to dout of the recurrence.
static void output_backward(Model *m, const Layer *layer, const LinearActs *a, LinearGrads *g, size_t M) {
    size_t v = value_width(layer), N = layer->linear.qkv.N;
    const real *gate = a->qkv + gate_at(layer);
    real *dgate = g->dqkv + gate_at(layer);
    if (is_mamba2(layer)) {
        normalise_backward(m, &layer->linear.o_norm, g->dgated, g->dgated, a->o_norm, a->gated, M, false);
        silu_gate_backward(g->dout, dgate, g->dgated, a->out, gate, N, M, v);
        return;
    }
    if (has_gate(layer)) silu_gate_backward(g->dout, dgate, g->dgated, a->normed, gate, N, M, v);
    if (layer->attn != ATTN_linear)
        normalise_backward(m, &layer->linear.o_norm, g->dout, g->dout, a->o_norm, a->out, M, false);
}

// ---- the mixers ----------------------------------------------------------------------------------

// What a picture shows (model.h): this layer's shares of the past, without what Mamba-2 adds of the token's own value,
// and its states.
static void record(const Model *m, const Layer *layer, size_t l, const LinearActs *a, const Batch *b) {
    const RecurrenceInput in = recurrence_input(layer, a);
    size_t H = layer->H, T = b->T;
    if (m->record.attention)
        recurrence_weights(m->record.attention + l * H * T * T, &in, T, recurrence_shape(layer));
    if (m->record.state)
        recurrence_states_at(m->record.state + l * m->record.states * H * layer->D * layer->Dv, &in, m->record.token,
                             m->record.states, recurrence_shape(layer));
}

// What a part of a batch reads and writes, from its first token on.
static LinearActs acts_of(const Layer *layer, const LinearActs *all, const Part *p) {
    LinearActs a = *all;
    size_t q = key_width(layer), v = value_width(layer), at = p->at;
    if (at == 0) return a;
    a.qkv += at * layer->linear.qkv.N, a.features += at * 2 * q, a.out += at * v;
    if (a.convolved) a.convolved += at * channels(layer), a.pre_silu += at * channels(layer);
    if (a.beta) a.beta += at * layer->H;
    if (a.decay) a.decay += at * (layer->attn == ATTN_gla ? q : layer->H);
    if (a.sum) a.sum += at * layer->H;
    return a;
}
// A stretch of a part, whose sequences go from one state to another, both of `step` numbers (NULL: nothing before, and
// nothing to keep).
typedef struct { Part p; const real *from; real *to; size_t step; } Run;
static Run run_of(const Layer *layer, size_t l, const Batch *b, const Part *part, size_t done) {
    Run run = {.p = *part, .step = linear_cache(layer).state};
    if (!b->paged.rows) {
        if (done) run.p.T = 0;
        return run;
    }
    Stretch s = blocks_stretch(b->paged.blocks, &b->paged.row[part->i], done, l);
    run.p.at += done, run.p.past += done, run.p.T = s.n, run.from = s.from, run.to = s.to;
    return run;
}
// After the last one T is 0.
static Run first_run(const Layer *layer, size_t l, const Batch *b, const Part *p) { return run_of(layer, l, b, p, 0); }
static Run next_run(const Layer *layer, size_t l, const Batch *b, const Part *p, const Run *run) {
    return run_of(layer, l, b, p, run->p.at + run->p.T - p->at);
}
// The numbers from `at` up to `end` of the state that this stretch goes on from, where it will write.
static real *begin_state(const Run *run, size_t at, size_t end) {
    if (!run->to) return NULL;
    if (!run->from) memset(run->to + at, 0, (end - at) * sizeof(real));
    else if (run->from != run->to) memcpy(run->to + at, run->from + at, (end - at) * sizeof(real));
    return run->to + at;
}

static void convolution_forward(Model *m, const Layer *layer, size_t l, const Batch *b) {
    if (!has_silu(layer)) return;
    for EACH_PART(p, b)
        for (Run r = first_run(layer, l, b, &p); r.p.T; r = next_run(layer, l, b, &p, &r)) {
            LinearActs a = acts_of(layer, &m->acts[l].linear, &r.p);
            real *tail = begin_state(&r, tail_at(layer), r.step);
            short_conv_forward(a.convolved, a.pre_silu, a.qkv, conv_weight(m, layer), tail, r.step,
                               conv_shape(layer, r.p.B, r.p.T));
        }
}
static void states_forward(Model *m, const Layer *layer, size_t l, const Batch *b) {
    for EACH_PART(p, b)
        for (Run r = first_run(layer, l, b, &p); r.p.T; r = next_run(layer, l, b, &p, &r)) {
            LinearActs a = acts_of(layer, &m->acts[l].linear, &r.p);
            real *state = begin_state(&r, 0, tail_at(layer));
            const RecurrenceInput in = recurrence_input(layer, &a);
            recurrence_forward(a.out, a.states, &in, r.p.B, r.p.T, (RecurrenceState){state, r.step, r.p.past},
                               recurrence_shape(layer));
            if (layer->attn == ATTN_linear)
                normalise_sum_forward(a.out, a.sum, state ? state + sums_at(layer) : NULL, r.step, r.p.B, r.p.T,
                                      sum_shape(layer, &a));
        }
}

// From rows of q, k, v to what the recurrence reads: features of q and k, gates.
static void inputs_forward(Model *m, const Layer *layer, const LinearActs *a, const Batch *b) {
    Rows r = qkv_rows(layer, a);
    size_t q = key_width(layer);
    feature_forward(a->features, r.at, feature_shape(layer, r.stride, b->M, true));
    feature_forward(a->features + q, r.at + q, feature_shape(layer, r.stride, b->M, false));
    gates_forward(m, layer, a, b->M);
}
static void inputs_backward(Model *m, const Layer *layer, const LinearActs *a, LinearGrads *g, real *dconvolved,
                            const Batch *b) {
    gates_backward(m, layer, a, g, b->M);
    Rows r = qkv_rows(layer, a);
    size_t q = key_width(layer);
    feature_backward(dconvolved, g->dfeatures, r.at, feature_shape(layer, r.stride, b->M, true));
    feature_backward(dconvolved + q, g->dfeatures + q, r.at + q, feature_shape(layer, r.stride, b->M, false));
    if (has_silu(layer))
        short_conv_backward(g->dqkv, layer->linear.taps ? m->gradients + layer->linear.conv : NULL, dconvolved,
                            a->pre_silu, a->qkv, conv_weight(m, layer), conv_shape(layer, b->B, b->T));
}

static void linear_mixer_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LinearActs *a = &m->acts[l].linear;
    apply(m, a->qkv, &layer->linear.qkv, x, b->M);
    convolution_forward(m, layer, l, b);
    inputs_forward(m, layer, a, b);
    states_forward(m, layer, l, b);
    output_forward(m, layer, a, b->M);
    apply(m, out, &layer->o, output_of(layer, a), b->M);
    if (!b->paged.rows && b->B == 1) record(m, layer, l, a, b);
}

static void linear_mixer_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    const LinearActs *a = &m->acts[l].linear;
    LinearGrads *g = &m->grads.linear;
    size_t q = key_width(layer), stride = has_silu(layer) ? channels(layer) : layer->linear.qkv.N;
    real *dfeatures = g->dfeatures, *dconvolved = has_silu(layer) ? g->dconvolved : g->dqkv, *dv = dconvolved + 2 * q;
    apply_backward(m, has_gate(layer) ? g->dgated : g->dout, dout, &layer->o, output_of(layer, a), b->M, false);
    output_backward(m, layer, a, g, b->M);
    if (layer->attn == ATTN_linear) normalise_sum_numerator(g->dout, a->sum, a->out, b->M, sum_shape(layer, a));
    const RecurrenceInput in = recurrence_input(layer, a);
    const RecurrenceGradient d = {.q = dfeatures, .k = dfeatures + q, .v = dv, .q_stride = 2 * q, .k_stride = 2 * q,
                                  .v_stride = stride, .beta = g->dbeta, .log_decay = g->dlog_decay};
    recurrence_backward(&d, g->dout, a->states, &in, b->B, b->T, recurrence_shape(layer));
    if (layer->attn == ATTN_linear)
        normalise_sum_backward(dfeatures, dfeatures + q, a->sum, b->B, b->T, sum_shape(layer, a));
    if (is_mamba2(layer))
        skip_backward(dv, m->gradients + layer->linear.skip, g->dout, a->convolved + 2 * q, stride,
                      m->values + layer->linear.skip, b->M, layer->H, layer->Dv);
    inputs_backward(m, layer, a, g, dconvolved, b);
    apply_backward(m, dx, g->dqkv, &layer->linear.qkv, x, b->M, false);
}

// Reading and writing the state, per token and head, in the forward; twice that in the backward.
static double linear_flops(const Model *m, const Layer *layer, size_t T) {
    (void)m, (void)T;
    return 3.0 * (double)(2 * layer->H * layer->D * layer->Dv) * (has_delta(layer) ? 3 : 2);
}

static size_t linear_workspace_of(const Model *m, const Layer *layer, size_t T) {
    (void)m, (void)T;
    return recurrence_workspace(recurrence_shape(layer));
}

const Branch mixer_linear = {.add_params = add_linear_mixer, .layout_acts = layout_linear,
                             .layout_grads = layout_linear_grads, .forward = linear_mixer_forward,
                             .backward = linear_mixer_backward, .cache = linear_cache, .flops = linear_flops,
                             .workspace = linear_workspace_of};

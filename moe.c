// moe.c: the mixture of experts as a feed-forward branch: what each --router is made of, the layer forward and
// backward, what a step tells about its routing, and what the routers without gradients learn from that. The
// numbers are in router.c and kernels/dispatch.c.
#include "moe.h"
#include "lib/numeric.h"
#include "model/pieces.h"
#include "router.h"
#include <stdlib.h>
#include <string.h>

// ---- the routers ---------------------------------------------------------------------------------
//   topk           the K best of a token; balanced by a loss       Shazeer et al. 2017, Fedus et al. 2021
//   bias           the K best, after a bias that balances          L. Wang et al. 2024
//   expert-choice  an expert takes the best tokens of a pool       Zhou et al. 2022
//   threshold      the experts whose score is above a threshold    Sun et al. 2026 (expert threshold routing)
//   relu           the experts whose ReLU gate is open             ReMoE, Z. Wang et al. 2024
//   hash           K experts by the token's number                 Roller et al. 2021
//   soft           slots that hold means of a pool's tokens        Puigcerver et al. 2023
//   dense          all experts, weighted by the gate               Jacobs et al. 1991

static RouterShape router_shape(const Model *m, size_t T, bool inference) {
    static const Choice choice[] = {[ROUTER_expert_choice] = CHOOSE_TOKENS, [ROUTER_threshold] = CHOOSE_ABOVE,
                                    [ROUTER_relu] = CHOOSE_ABOVE, [ROUTER_soft] = CHOOSE_ALL,
                                    [ROUTER_dense] = CHOOSE_ALL};
    const Config *c = &m->c;
    RouterShape s = {.E = c->experts, .K = c->top_k, .T = T, .choice = choice[c->router], .normalise = c->norm_topk,
                     .biased = c->router == ROUTER_bias, .scale = c->route_scale,
                     .capacity = inference ? 0 : config_capacity(c, T), .groups = c->route_groups,
                     .top_groups = c->route_top_groups, .group_sum = c->route_group_score == GROUP_SCORE_top2};
    s.score = c->router == ROUTER_relu ? SCORE_RELU : c->gate == GATE_sigmoid ? SCORE_SIGMOID : SCORE_SOFTMAX;
    if (c->router != ROUTER_expert_choice && c->router != ROUTER_soft) return s;
    ConfigPool pool = config_pool(c);
    s.pool = !pool.batch ? POOL_TIME : pool.time ? POOL_ALL : POOL_BATCH;
    s.pool_tokens = pool.tokens, s.slots = config_pool_share(c);
    // The tokens that an expert would choose among do not exist yet: each chooses for itself.
    if (inference && c->router == ROUTER_expert_choice) s.choice = CHOOSE_BEST;
    return s;
}

// With the weights of the losses that balance.
static RouterShape with_losses(RouterShape s, const Model *m, const Batch *b) {
    double l1 = m->c.router == ROUTER_relu ? (double)m->values[m->router_l1] : 0;
    s.aux = (m->c.aux_loss + l1) * b->row_scale, s.z = m->c.z_loss * b->row_scale;
    return s;
}

// Slots in place of copies: in training and evaluation. In inference a token is alone.
static bool is_mixed(const Model *m, const Batch *b) { return m->c.router == ROUTER_soft && !b->inference; }

static void route(Model *m, size_t l, const real *x, const Batch *b, RouterShape s) {
    const Layer *layer = &m->layers[l];
    size_t state = layer->moe.router_state;
    Routing *r = &m->acts[l].moe.routing;
    Mixing mixing = m->acts[l].moe.mixing;
    real *logits = m->acts[l].moe.logits;
    if (m->c.router == ROUTER_hash) {
        route_by_hash(r, b->tokens, l, b->M, s);
        return;
    }
    apply(m, logits, &layer->moe.router, x, b->M);
    if (is_mixed(m, b)) soft_route_forward(r, mixing, logits, b->M, s);
    else if (m->c.router == ROUTER_soft) soft_route_alone(r, mixing.combine, logits, b->M, s);
    else route_forward(r, logits, state == NOWHERE ? NULL : m->values + state, b->M, s);
}

// ---- what a step tells ---------------------------------------------------------------------------

// Keeps the scores of the step until the thresholds have moved, in memory for the whole step.
static void keep_scores(Model *m, size_t l, size_t M) {
    size_t E = m->c.experts, before = (size_t)m->stats[l].tokens, step = m->c.batch * m->c.context;
    size_t capacity = size_mul(before + M > step ? before + M : step, E);
    m->seen_scores[l] = xrealloc(m->seen_scores[l], size_mul(capacity, sizeof(real)));
    memcpy(m->seen_scores[l] + before * E, m->acts[l].moe.routing.score, M * E * sizeof(real));
}

static void count_choices(RouterStats *stats, double *load, const Routing *r, size_t M, size_t E) {
    stats->dropped += (double)(r->first[M] - r->copies);
    for (size_t e = 0; e < E; e++) load[e] += (double)(r->start[e + 1] - r->start[e]);
    for (size_t m = 0; m < M; m++) {
        bool passes = false;
        for (size_t i = r->first[m]; i < r->first[m + 1]; i++) passes |= r->slot[i] >= 0;
        stats->skipped += !passes;
    }
}

static void count(Model *m, size_t l, const Batch *b, RouterShape s) {
    const Routing *r = &m->acts[l].moe.routing;
    const real *combine = m->acts[l].moe.mixing.combine;
    RouterStats *stats = &m->stats[l];
    double *load = m->load + l * s.E;
    if (m->c.router == ROUTER_threshold) keep_scores(m, l, b->M);
    stats->tokens += (double)b->M, stats->copies += (double)r->copies;
    if (is_mixed(m, b)) {
        for (size_t i = 0; i < b->M * s.E * s.slots; i++) load[i / s.slots % s.E] += (double)combine[i];
        return;
    }
    count_choices(stats, load, r, b->M, s.E);
    s = with_losses(s, m, b);
    if (s.aux != 0) stats->aux_loss += s.aux * route_balance_loss(r, b->M, s);
    if (s.z > 0) stats->z_loss += s.z * route_z_loss(r, b->M, s);
}

static void record_experts(int *main, const Routing *r, size_t M) {
    for (size_t m = 0; m < M; m++) {
        real most = 0;
        main[m] = -1;
        for (size_t i = r->first[m]; i < r->first[m + 1]; i++)
            if (r->slot[i] >= 0 && r->weight[i] > most) main[m] = r->expert[i], most = r->weight[i];
    }
}

// Both softmaxes' means, forward and twice backward, of slots that are each made of a whole pool.
static double mixing_flops(const Model *m, const Layer *layer, size_t T) {
    (void)T;
    return m->c.router == ROUTER_soft ? 12.0 * (double)(layer->moe.router.N * m->c.width) : 0;
}

static double weights_of(const Linear *l) { return (double)(l->N * l->K); }    // of one matrix of the stack
static double measured_flops(const Model *m, const Layer *layer, double experts_per_token) {
    const Linear *gate = &layer->moe.gate, *up = &layer->moe.up, *down = &layer->moe.down;
    const Dense *shared = &layer->moe.shared;
    double expert = weights_of(gate) + weights_of(up) + weights_of(down);
    double always = weights_of(&shared->up) + weights_of(&shared->down) + weights_of(&layer->moe.router);
    return 6 * (experts_per_token * expert + always) + mixing_flops(m, layer, 0);
}

const RouterStats *model_router_stats(Model *m, size_t l) {
    RouterStats *s = &m->stats[l];
    size_t E = m->c.experts;
    const double *load = m->load + l * E;
    double total = 0, most = 0;
    s->load = load, s->dead = 0, s->entropy = 0;
    for (size_t e = 0; e < E; e++) {
        total += load[e], most = load[e] > most ? load[e] : most;
        s->dead += s->tokens > 0 && load[e] == 0;
    }
    for (size_t e = 0; e < E; e++)
        if (load[e] > 0) s->entropy -= load[e] / total * num_log(load[e] / total);
    s->max_violation = total > 0 ? most * (double)E / total - 1 : 0;
    s->flops = s->tokens > 0 ? measured_flops(m, &m->layers[l], s->copies / s->tokens) : 0;
    return s;
}

// ---- what routers learn without gradients ----------------------------------------------------------

// A share of the way to the score that K/E of the step's tokens are above: a running mean of quantiles.
static void move_thresholds(real *threshold, const real *score, size_t M, size_t E, size_t K, double rate) {
    real *column = xmalloc(size_mul(M, sizeof *column));
    size_t above = M * K / E < M ? M * K / E : M - 1;
    for (size_t e = 0; e < E; e++) {
        for (size_t i = 0; i < M; i++) column[i] = score[i * E + e];
        real quantile = kth_largest(column, M, above + 1);
        threshold[e] += (real)rate * (quantile - threshold[e]);
    }
    free(column);
}

// lambda grows while experts are open for more than K per token over all layers, and shrinks while for less: ReMoE's
// update by the sign of the sparsity's error. Kept above a least value, so that it can come back.
static void move_l1(Model *m) {
    real *l1 = m->master + m->router_l1, factor = (real)(1 + m->c.sparsity_rate);
    double open = 0, wanted = 0;
    for (size_t l = 0; l < m->c.layers; l++)
        open += m->stats[l].copies + m->stats[l].dropped, wanted += m->stats[l].tokens * (double)m->c.top_k;
    if (open > wanted) *l1 *= factor;
    if (open < wanted && *l1 > (real)1e-12) *l1 /= factor;
}

void model_update_routers(Model *m) {
    const Config *c = &m->c;
    for (size_t l = 0; l < c->layers; l++) {
        const Layer *layer = &m->layers[l];
        size_t M = (size_t)m->stats[l].tokens;
        if (!layer->has_experts || layer->moe.router_state == NOWHERE || !M) continue;
        real *state = m->master + layer->moe.router_state;
        if (c->router == ROUTER_bias) route_move_bias(state, m->load + l * c->experts, c->experts, c->bias_rate);
        else move_thresholds(state, m->seen_scores[l], M, c->experts, c->top_k, c->threshold_rate);
    }
    if (c->experts && c->router == ROUTER_relu) move_l1(m);
}

// ---- the layer -----------------------------------------------------------------------------------

static void add_router(Model *m, Layer *layer, int l) {
    const Config *c = &m->c;
    size_t slots = c->router == ROUTER_soft ? config_pool_share(c) : 1;
    layer->moe.router_state = NOWHERE;
    if (c->router == ROUTER_hash) return;
    layer->moe.router = add_linear(m, l, (Weight[]){{"moe.router", c->experts * slots, m->std.plain}}, 1, c->width,
                                   false);
    if (c->router == ROUTER_bias) layer->moe.router_state = add_buffer(m, l, "moe.router.bias", c->experts, 0);
    if (c->router == ROUTER_threshold)     // the score of equal logits
        layer->moe.router_state = add_buffer(m, l, "moe.router.threshold", c->experts,
                                             c->gate == GATE_sigmoid ? 0.5 : 1 / (double)c->experts);
}

static void add_moe(Model *m, Layer *layer, int l) {
    const Config *c = &m->c;
    add_router(m, layer, l);
    if (c->ffn == FFN_swiglu) layer->moe.gate = add_experts(m, l, "moe.gate.weight", layer->F, c->width, m->std.ffn);
    layer->moe.up = add_experts(m, l, "moe.up.weight", layer->F, c->width, m->std.ffn);
    layer->moe.down = add_experts(m, l, "moe.down.weight", c->width, layer->F, m->std.residual);
    if (c->shared_experts) layer->moe.shared = add_dense(m, l, "moe.shared", c->shared_experts * layer->F, false);
}

static void moe_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *layer = &m->layers[l];
    LayerActs *acts = &m->acts[l];
    const Routing *r = &acts->moe.routing;
    Mixing mixing = acts->moe.mixing;
    real *sorted = acts->moe.sorted, *up = acts->moe.up, *hidden = acts->moe.hidden;
    RouterShape s = router_shape(m, b->T, b->inference);
    size_t C = m->c.width, F = layer->F, wide = up_width(m, F);
    route(m, l, x, b, s);
    if (b->keep) count(m, l, b, s);
    if (m->record.experts && b->inference && b->B == 1) record_experts(m->record.experts + l * b->M, r, b->M);
    if (is_mixed(m, b)) soft_dispatch_forward(sorted, x, mixing, b->M, C, s);
    else dispatch_forward(sorted, x, r, C);
    if (layer->moe.gate.N) apply_experts(m, up, wide, &layer->moe.gate, sorted, C, r);
    apply_experts(m, up + (wide - F), wide, &layer->moe.up, sorted, C, r);
    activation_forward(m, hidden, up, r->copies, F);
    apply_experts(m, acts->moe.out, C, &layer->moe.down, hidden, F, r);
    if (is_mixed(m, b)) soft_combine_forward(out, acts->moe.out, mixing, b->M, C, s);
    else combine_forward(out, acts->moe.out, r, b->M, C);
    if (!m->c.shared_experts) return;
    dense_forward(m, &layer->moe.shared, acts->moe.shared_out, acts->moe.shared, x, b->M);
    add_scaled(out, out, 1, acts->moe.shared_out, b->M * C);
}

// From the experts' outputs to their inputs.
static void experts_backward(Model *m, size_t l) {
    const Layer *layer = &m->layers[l];
    const LayerActs *acts = &m->acts[l];
    const Linear *gate = &layer->moe.gate, *up = &layer->moe.up, *down = &layer->moe.down;
    const Routing *r = &acts->moe.routing;
    const real *sorted = acts->moe.sorted;
    real *dup = m->grads.moe.dup, *dhidden = m->grads.moe.dhidden, *dsorted = m->grads.moe.dsorted;
    size_t C = m->c.width, F = layer->F, wide = up_width(m, F);
    apply_experts_backward(m, dhidden, F, m->grads.moe.dout, C, down, acts->moe.hidden, r, false);
    activation_backward(m, dup, dhidden, acts->moe.up, r->copies, F);
    bool gated = gate->N > 0;            // the gate first, as in the dense layer: one expert is the same sum
    if (gated) apply_experts_backward(m, dsorted, C, dup, wide, gate, sorted, r, false);
    apply_experts_backward(m, dsorted, C, dup + (wide - F), wide, up, sorted, r, gated);
}

static void choices_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b,
                             RouterShape s) {
    const Linear *router = &m->layers[l].moe.router;
    const LayerActs *acts = &m->acts[l];
    const Routing *r = &acts->moe.routing;
    real *dlogits = m->grads.moe.dlogits, *dweight = m->grads.moe.dweight;
    combine_backward(m->grads.moe.dout, dweight, dout, acts->moe.out, r, b->M, m->c.width);
    experts_backward(m, l);
    if (router->N) {
        route_backward(dlogits, dweight, r, b->M, with_losses(s, m, b));
        apply_backward(m, dx, dlogits, router, x, b->M, false);
    } else {
        memset(dx, 0, b->M * m->c.width * sizeof *dx);
    }
    dispatch_backward(dx, m->grads.moe.dsorted, r, b->M, m->c.width);
}

static void mixing_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b,
                            RouterShape s) {
    Mixing mixing = m->acts[l].moe.mixing, dmixing = m->grads.moe.dmixing;
    real *dlogits = m->grads.moe.dlogits;
    soft_combine_backward(m->grads.moe.dout, dmixing, dout, m->acts[l].moe.out, mixing, b->M, m->c.width, s);
    experts_backward(m, l);
    soft_dispatch_backward(dx, dmixing, m->grads.moe.dsorted, x, mixing, b->M, m->c.width, s);
    soft_route_backward(dlogits, dmixing, mixing, b->M, s);
    apply_backward(m, dx, dlogits, &m->layers[l].moe.router, x, b->M, true);
}

static void moe_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    RouterShape s = router_shape(m, b->T, false);
    (is_mixed(m, b) ? mixing_backward : choices_backward)(m, l, dx, dout, x, b, s);
    if (m->c.shared_experts)
        dense_backward(m, &m->layers[l].moe.shared, dx, dout, m->acts[l].moe.shared, x, b->M, true);
}

// ---- memory --------------------------------------------------------------------------------------

// Rows that the experts can get: with a backward to follow those of a batch, else also those of tokens on their own.
static size_t expert_rows(const Model *m, size_t B, size_t T, bool keep) {
    RouterShape s = router_shape(m, T, false);
    size_t M = B * T, batch = m->c.router == ROUTER_soft ? soft_rows(M, s) : route_max_choices(M, s);
    size_t alone = keep ? 0 : route_max_choices(M, router_shape(m, T, true));
    return batch > alone ? batch : alone;
}

static Mixing take_mixing(Arena *arena, size_t numbers) {
    real *dispatch = take(arena, numbers);
    return (Mixing){dispatch, take(arena, numbers)};
}

static void layout_moe(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                       bool keep) {
    size_t M = B * T, E = m->c.experts, N = expert_rows(m, B, T, keep), C = m->c.width, F = layer->F;
    Routing *r = &acts->moe.routing;
    acts->moe.logits = take(arena, M * layer->moe.router.N);
    r->score = take(arena, M * E), r->log_sum = take(arena, M), r->weight = take(arena, N);
    r->first = arena_take(arena, (M + 1) * sizeof(size_t));
    r->expert = arena_take(arena, N * sizeof(int)), r->slot = arena_take(arena, N * sizeof(int));
    r->token = arena_take(arena, N * sizeof(int)), r->taken = arena_take(arena, M * E);
    r->count = arena_take(arena, E * sizeof(size_t)), r->start = arena_take(arena, (E + 1) * sizeof(size_t));
    if (m->c.router == ROUTER_soft) acts->moe.mixing = take_mixing(arena, M * layer->moe.router.N);
    acts->moe.sorted = take(arena, N * C), acts->moe.out = take(arena, N * C);
    acts->moe.up = take(arena, N * up_width(m, F)), acts->moe.hidden = take(arena, N * F);
    if (!m->c.shared_experts) return;
    acts->moe.shared = take_dense(m, arena, M, m->c.shared_experts * F);
    acts->moe.shared_out = take(arena, M * C);
}

static void layout_moe_grads(const Model *m, const Layer *layer, LayerGrads *grads, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, N = expert_rows(m, B, T, true), C = m->c.width, F = layer->F;
    grads->ddense = take_dense(m, arena, M, m->c.shared_experts * F);
    grads->moe.dlogits = take(arena, M * layer->moe.router.N), grads->moe.dweight = take(arena, N);
    if (m->c.router == ROUTER_soft) grads->moe.dmixing = take_mixing(arena, M * layer->moe.router.N);
    grads->moe.dout = take(arena, N * C), grads->moe.dsorted = take(arena, N * C);
    grads->moe.dhidden = take(arena, N * F), grads->moe.dup = take(arena, N * up_width(m, F));
}

const Branch ffn_moe = {.add_params = add_moe, .layout_acts = layout_moe, .layout_grads = layout_moe_grads,
                        .forward = moe_forward, .backward = moe_backward, .flops = mixing_flops,
                        .stacked_rows = expert_rows};

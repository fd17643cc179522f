// moe.c: the mixture of experts as a feed-forward block: what each --router is made of, the layer forward and
// backward, what a step tells about its routing, and what the routers without gradients learn from that. The
// kernels are in router.c and kernels/dispatch.c.
#include "model/layer.h"
#include "lib/numeric.h"
#include "kernels/ops.h"
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

static RouterShape router_shape(const Model *m, size_t T, bool writing) {
    static const Choice choice[] = {[ROUTER_expert_choice] = CHOOSE_TOKENS, [ROUTER_threshold] = CHOOSE_ABOVE,
                                    [ROUTER_relu] = CHOOSE_ABOVE, [ROUTER_soft] = CHOOSE_ALL,
                                    [ROUTER_dense] = CHOOSE_ALL};
    const Config *c = &m->c;
    RouterShape s = {.E = c->experts, .K = c->top_k, .T = T, .choice = choice[c->router], .normalise = c->norm_topk,
                     .scale = c->route_scale, .capacity = writing ? 0 : config_capacity(c, T)};
    s.score = c->router == ROUTER_relu ? SCORE_RELU : c->gate == GATE_sigmoid ? SCORE_SIGMOID : SCORE_SOFTMAX;
    if (c->router != ROUTER_expert_choice && c->router != ROUTER_soft) return s;
    ConfigPool pool = config_pool(c);
    s.pool = !pool.batch ? POOL_TIME : pool.time ? POOL_ALL : POOL_BATCH;
    s.pool_tokens = pool.tokens, s.slots = config_pool_share(c);
    // The tokens that an expert would choose among do not exist yet: each chooses for itself.
    if (writing && c->router == ROUTER_expert_choice) s.choice = CHOOSE_BEST;
    return s;
}

// With the weights of the losses that balance.
static RouterShape with_losses(RouterShape s, const Model *m, const Batch *b) {
    double l1 = m->c.router == ROUTER_relu ? (double)m->values[m->router_l1] : 0;
    s.aux = (m->c.aux_loss + l1) * b->row_scale, s.z = m->c.z_loss * b->row_scale;
    return s;
}

// Slots in place of copies: in training and evaluation. A token that is written is alone.
static bool is_mixed(const Model *m, const Batch *b) { return m->c.router == ROUTER_soft && !b->writing; }

static void route(Model *m, size_t l, const real *x, const Batch *b, RouterShape s) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    Routing *r = &a->routing;
    if (m->c.router == ROUTER_hash) {
        route_by_hash(r, b->tokens, l, b->M, s);
        return;
    }
    apply(m, a->logits, &y->router, x, b->M);
    if (is_mixed(m, b)) soft_route_forward(r, a->mixing, a->logits, b->M, s);
    else if (m->c.router == ROUTER_soft) soft_route_alone(r, a->mixing.combine, a->logits, b->M, s);
    else route_forward(r, a->logits, y->router_state == NOWHERE ? NULL : m->values + y->router_state, b->M, s);
}

// ---- what a step tells ---------------------------------------------------------------------------

// Keeps the scores of the step until the thresholds have moved, in room for the whole step.
static void keep_scores(Model *m, size_t l, size_t M) {
    size_t E = m->c.experts, before = (size_t)m->stats[l].tokens, step = m->c.batch * m->c.context;
    m->seen[l] = xrealloc(m->seen[l], size_mul(size_mul(before + M > step ? before + M : step, E), sizeof(real)));
    memcpy(m->seen[l] + before * E, m->acts[l].routing.score, M * E * sizeof(real));
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
    const LayerActs *a = &m->acts[l];
    const Routing *r = &a->routing;
    RouterStats *stats = &m->stats[l];
    double *load = m->load + l * s.E;
    if (m->c.router == ROUTER_threshold) keep_scores(m, l, b->M);
    stats->tokens += (double)b->M, stats->copies += (double)r->copies;
    if (is_mixed(m, b)) {
        for (size_t i = 0; i < b->M * s.E * s.slots; i++) load[i / s.slots % s.E] += (double)a->mixing.combine[i];
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
double moe_mixing_flops(const Model *m, const Layer *y) {
    return m->c.router == ROUTER_soft ? 12.0 * (double)(y->router.N * m->c.width) : 0;
}

static double measured_flops(const Model *m, const Layer *y, double experts_per_token) {
    double expert = (double)(y->up_e.N * y->up_e.K + y->gate_e.N * y->gate_e.K + y->down_e.N * y->down_e.K);
    double shared = (double)(y->shared_up.N * y->shared_up.K + y->shared_down.N * y->shared_down.K);
    return 6 * (experts_per_token * expert + shared + (double)(y->router.N * y->router.K)) + moe_mixing_flops(m, y);
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

// Experts that got less than the mean load of the step become easier to choose, the others harder.
static void move_bias(real *bias, const double *load, size_t E, double rate) {
    double mean = 0;
    for (size_t e = 0; e < E; e++) mean += load[e] / (double)E;
    for (size_t e = 0; e < E; e++) bias[e] += (real)(rate * (double)((mean > load[e]) - (mean < load[e])));
}

// A share of the way to the score that K/E of the step's tokens are above: a running mean of quantiles.
static void move_thresholds(real *threshold, const real *seen, size_t M, size_t E, size_t K, double rate) {
    real *column = xmalloc(size_mul(M, sizeof *column));
    size_t above = M * K / E < M ? M * K / E : M - 1;
    for (size_t e = 0; e < E; e++) {
        for (size_t i = 0; i < M; i++) column[i] = seen[i * E + e];
        real quantile = kth_largest(column, M, above + 1);
        threshold[e] += (real)rate * (quantile - threshold[e]);
    }
    free(column);
}

// lambda grows while experts are open for more than K per token over all layers, and shrinks while for less: ReMoE's
// update by the sign of the sparsity's error. Kept above a least value, so that it can come back.
static void move_l1(Model *m) {
    real *l1 = m->values + m->router_l1, factor = (real)(1 + m->c.sparsity_rate);
    double open = 0, wanted = 0;
    for (size_t l = 0; l < m->c.layers; l++)
        open += m->stats[l].copies + m->stats[l].dropped, wanted += m->stats[l].tokens * (double)m->c.top_k;
    if (open > wanted) *l1 *= factor;
    if (open < wanted && *l1 > (real)1e-12) *l1 /= factor;
}

void model_update_routers(Model *m) {
    const Config *c = &m->c;
    for (size_t l = 0; l < c->layers; l++) {
        const Layer *y = &m->layers[l];
        size_t M = (size_t)m->stats[l].tokens;
        if (!y->moe || y->router_state == NOWHERE || !M) continue;
        real *state = m->values + y->router_state;
        if (c->router == ROUTER_bias) move_bias(state, m->load + l * c->experts, c->experts, c->bias_rate);
        else move_thresholds(state, m->seen[l], M, c->experts, c->top_k, c->threshold_rate);
    }
    if (c->experts && c->router == ROUTER_relu) move_l1(m);
}

// ---- the layer -----------------------------------------------------------------------------------

void moe_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    Routing *r = &a->routing;
    RouterShape s = router_shape(m, b->T, b->writing);
    size_t E = m->c.experts, C = m->c.width, F = y->F, up = up_width(m, F);
    bool mixed = is_mixed(m, b);
    route(m, l, x, b, s);
    if (b->keep) count(m, l, b, s);
    if (m->record_experts && b->writing && b->B == 1) record_experts(m->record_experts + l * b->M, r, b->M);
    if (mixed) soft_dispatch_forward(a->sorted, x, a->mixing, b->M, C, s);
    else dispatch_forward(a->sorted, x, r, C);
    if (y->gate_e.N) experts_forward(a->up_e, up, a->sorted, C, m->packed + y->gate_e.packed, r, E, F, C);
    experts_forward(a->up_e + (up - F), up, a->sorted, C, m->packed + y->up_e.packed, r, E, F, C);
    activation_forward(m, a->hidden_e, a->up_e, r->copies, F);
    experts_forward(a->out_e, C, a->hidden_e, F, m->packed + y->down_e.packed, r, E, C, F);
    if (mixed) soft_combine_forward(out, a->out_e, a->mixing, b->M, C, s);
    else combine_forward(out, a->out_e, r, b->M, C);
    if (!m->c.shared_experts) return;
    dense_forward(m, &y->shared_up, &y->shared_down, a->shared_out, a->shared_up, a->shared_hidden, x, b->M);
    add_scaled(out, out, 1, a->shared_out, b->M * C);
}

// From the experts' outputs to their inputs.
static void experts_backward(Model *m, size_t l) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    const Routing *r = &a->routing;
    real *grad = m->gradients;
    size_t E = m->c.experts, C = m->c.width, F = y->F, up = up_width(m, F);
    experts_backward_weight(grad + y->down_e.at, g->dsorted_out, C, a->hidden_e, F, r, E, C, F);
    experts_backward_input(g->dhidden_e, F, g->dsorted_out, C, m->values + y->down_e.at, r, E, C, F, false);
    activation_backward(m, g->dup_e, g->dhidden_e, a->up_e, r->copies, F);
    bool gated = y->gate_e.N > 0;        // the gate first, as in the dense layer: one expert is the same sum
    if (gated) {
        experts_backward_weight(grad + y->gate_e.at, g->dup_e, up, a->sorted, C, r, E, F, C);
        experts_backward_input(g->dsorted, C, g->dup_e, up, m->values + y->gate_e.at, r, E, F, C, false);
    }
    experts_backward_weight(grad + y->up_e.at, g->dup_e + (up - F), up, a->sorted, C, r, E, F, C);
    experts_backward_input(g->dsorted, C, g->dup_e + (up - F), up, m->values + y->up_e.at, r, E, F, C, gated);
}

static void choices_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b,
                             RouterShape s) {
    const Layer *y = &m->layers[l];
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    combine_backward(g->dsorted_out, g->dweight, dy, a->out_e, &a->routing, b->M, m->c.width);
    experts_backward(m, l);
    if (y->router.N) {
        route_backward(g->dlogits, g->dweight, &a->routing, b->M, with_losses(s, m, b));
        apply_backward(m, dx, g->dlogits, &y->router, x, b->M, false);
    } else {
        memset(dx, 0, b->M * m->c.width * sizeof *dx);
    }
    dispatch_backward(dx, g->dsorted, &a->routing, b->M, m->c.width);
}

static void mixing_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b,
                            RouterShape s) {
    LayerActs *a = &m->acts[l];
    LayerGrads *g = &m->grads;
    soft_combine_backward(g->dsorted_out, g->dmixing, dy, a->out_e, a->mixing, b->M, m->c.width, s);
    experts_backward(m, l);
    soft_dispatch_backward(dx, g->dmixing, g->dsorted, x, a->mixing, b->M, m->c.width, s);
    soft_route_backward(g->dlogits, g->dmixing, a->mixing, b->M, s);
    apply_backward(m, dx, g->dlogits, &m->layers[l].router, x, b->M, true);
}

void moe_backward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b) {
    const Layer *y = &m->layers[l];
    const LayerActs *a = &m->acts[l];
    RouterShape s = router_shape(m, b->T, false);
    (is_mixed(m, b) ? mixing_backward : choices_backward)(m, l, dx, dy, x, b, s);
    if (m->c.shared_experts)
        dense_backward(m, &y->shared_up, &y->shared_down, dx, dy, a->shared_up, a->shared_hidden, x, b->M, true);
}

// ---- memory --------------------------------------------------------------------------------------

size_t moe_rows(const Model *m, size_t B, size_t T, bool keep) {
    RouterShape s = router_shape(m, T, false);
    size_t M = B * T, batch = m->c.router == ROUTER_soft ? soft_rows(M, s) : route_max_choices(M, s);
    size_t alone = keep ? 0 : route_max_choices(M, router_shape(m, T, true));
    return batch > alone ? batch : alone;
}

void moe_layout_acts(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T, E = m->c.experts, N = moe_rows(m, B, T, keep), C = m->c.width, F = y->F;
    size_t S = m->c.shared_experts * F;
    Routing *r = &a->routing;
    a->logits = take(arena, M * y->router.N);
    r->score = take(arena, M * E), r->log_sum = take(arena, M), r->weight = take(arena, N);
    r->first = arena_take(arena, (M + 1) * sizeof(size_t));
    r->expert = arena_take(arena, N * sizeof(int)), r->slot = arena_take(arena, N * sizeof(int));
    r->token = arena_take(arena, N * sizeof(int)), r->taken = arena_take(arena, M * E);
    r->count = arena_take(arena, E * sizeof(size_t)), r->start = arena_take(arena, (E + 1) * sizeof(size_t));
    if (m->c.router == ROUTER_soft) a->mixing = (Mixing){take(arena, M * y->router.N), take(arena, M * y->router.N)};
    a->sorted = take(arena, N * C), a->up_e = take(arena, N * up_width(m, F)), a->hidden_e = take(arena, N * F);
    a->out_e = take(arena, N * C);
    if (!S) return;
    a->shared_up = take(arena, M * up_width(m, S)), a->shared_hidden = take(arena, M * S);
    a->shared_out = take(arena, M * C);
}

void moe_layout_grads(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, N = moe_rows(m, B, T, true), C = m->c.width, F = y->F;
    g->dlogits = take(arena, M * y->router.N), g->dweight = take(arena, N);
    if (m->c.router == ROUTER_soft) g->dmixing = (Mixing){take(arena, M * y->router.N), take(arena, M * y->router.N)};
    g->dsorted_out = take(arena, N * C), g->dsorted = take(arena, N * C);
    g->dhidden_e = take(arena, N * F), g->dup_e = take(arena, N * up_width(m, F));
}

// block.c: what happens inside a residual branch: the pieces that all branches are made of, and the
// feed-forward block (dense, or a mixture of experts). The sequence mixers are in block_attention.c.
// Each forward stands directly above its backward.
#include "block.h"
#include "lib/matmul.h"
#include "lib/ops.h"

// ---- the pieces ----------------------------------------------------------------------------------

void apply(const Model *m, real *y, const Linear *l, const real *x, size_t M) {
    linear_forward(y, x, m->packed + l->packed, l->bias == NOWHERE ? NULL : m->values + l->bias, M, l->N, l->K);
}
void apply_backward(Model *m, real *dx, const real *dy, const Linear *l, const real *x, size_t M, bool accumulate) {
    linear_backward_weight(m->gradients + l->at, l->bias == NOWHERE ? NULL : m->gradients + l->bias, dy, x, M, l->N, l->K);
    linear_backward_input(dx, dy, m->values + l->at, M, l->N, l->K, accumulate);
}

static NormShape norm_shape(const Norm *n, size_t M, size_t groups, size_t x_stride, size_t y_stride) {
    return (NormShape){.M = M, .groups = groups, .C = n->C, .x_stride = x_stride, .y_stride = y_stride, .eps = n->eps};
}
void normalise(const Model *m, real *y, size_t y_stride, real *mean, real *rstd, const real *x, size_t x_stride, const Norm *n,
               size_t M, size_t groups) {
    const real *v = m->values;
    if (n->dyt) dyt_forward(y, x, v + n->alpha, v + n->w, v + n->b, M, n->C);
    else
        norm_forward(y, n->center ? mean : NULL, rstd, x, v + n->w, n->b == NOWHERE ? NULL : v + n->b,
                     norm_shape(n, M, groups, x_stride, y_stride));
}
void normalise_backward(Model *m, real *dx, const real *dy, size_t y_stride, const real *mean, const real *rstd, const real *x,
                        size_t x_stride, const Norm *n, size_t M, size_t groups, bool accumulate) {
    const real *v = m->values;
    real *g = m->gradients, *db = n->b == NOWHERE ? NULL : g + n->b;
    if (n->dyt) dyt_backward(dx, g + n->alpha, g + n->w, db, dy, x, v + n->alpha, v + n->w, M, n->C, accumulate);
    else
        norm_backward(dx, g + n->w, db, dy, x, v + n->w, n->center ? mean : NULL, rstd,
                      norm_shape(n, M, groups, x_stride, y_stride), accumulate);
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

const Mixer *mixer_of(int attn) {
    return config_is_linear(attn) ? &mixer_linear : attn == ATTN_mla ? &mixer_mla : &mixer_mha;
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
    y->mixer->layout_acts(m, y, a, arena, B, T, keep);
    if (y->moe) layout_moe(m, y, a, arena, M);
    else a->up = take(arena, M * up_width(m, y->F)), a->hidden = take(arena, M * y->F);
}

// The mixer's branch, then the feed-forward branch of a layer, use the memory one after the other.
void block_layout_grads(const Model *m, size_t l, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    const Layer *y = &m->layers[l];
    size_t M = B * T, C = m->c.width, K = m->c.top_k, F = y->F, start = arena->used, S = m->c.shared_experts * F;
    y->mixer->layout_grads(m, y, g, arena, B, T);
    size_t mixer_end = arena->used;
    arena->used = start;
    size_t dense = y->moe ? S : F;
    g->dup = take(arena, M * up_width(m, dense)), g->dhidden = take(arena, M * dense);
    if (y->moe) {
        g->dlogits = take(arena, M * m->c.experts), g->dweight = take(arena, M * K);
        g->dsorted_out = take(arena, M * K * C), g->dsorted = take(arena, M * K * C);
        g->dhidden_e = take(arena, M * K * F), g->dup_e = take(arena, M * K * up_width(m, F));
    }
    if (arena->used < mixer_end) arena->used = mixer_end;
}

// block.c: what happens inside a residual branch: the pieces that all branches are made of, and the dense
// feed-forward block. The mixture of experts is in moe.c, the sequence mixers are in attention.c and linear.c.
// Each forward stands directly above its backward.
#include "model/layer.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"

// ---- the pieces ----------------------------------------------------------------------------------

void apply(const Model *m, real *y, const Linear *l, const real *x, size_t M) {
    linear_forward(y, x, m->packed + l->packed, l->bias == NOWHERE ? NULL : m->values + l->bias, M, l->N, l->K);
}
void apply_backward(Model *m, real *dx, const real *dy, const Linear *l, const real *x, size_t M, bool accumulate) {
    real *dbias = l->bias == NOWHERE ? NULL : m->gradients + l->bias;
    linear_backward_weight(m->gradients + l->at, dbias, dy, x, M, l->N, l->K);
    linear_backward_input(dx, dy, m->values + l->at, M, l->N, l->K, accumulate);
}

static NormShape norm_shape(const Norm *n, size_t M, size_t groups, size_t x_stride, size_t y_stride) {
    return (NormShape){.M = M, .groups = groups, .C = n->C, .x_stride = x_stride, .y_stride = y_stride, .eps = n->eps};
}
void normalise(const Model *m, real *y, size_t y_stride, real *mean, real *rstd, const real *x, size_t x_stride,
               const Norm *n, size_t M, size_t groups) {
    const real *v = m->values;
    if (n->dyt) dyt_forward(y, x, v + n->alpha, v + n->w, v + n->b, M, n->C);
    else
        norm_forward(y, n->center ? mean : NULL, rstd, x, v + n->w, n->b == NOWHERE ? NULL : v + n->b,
                     norm_shape(n, M, groups, x_stride, y_stride));
}
void normalise_backward(Model *m, real *dx, const real *dy, size_t y_stride, const real *mean, const real *rstd,
                        const real *x, size_t x_stride, const Norm *n, size_t M, size_t groups, bool accumulate) {
    const real *v = m->values;
    real *g = m->gradients, *db = n->b == NOWHERE ? NULL : g + n->b;
    if (n->dyt) dyt_backward(dx, g + n->alpha, g + n->w, db, dy, x, v + n->alpha, v + n->w, M, n->C, accumulate);
    else
        norm_backward(dx, g + n->w, db, dy, x, v + n->w, n->center ? mean : NULL, rstd,
                      norm_shape(n, M, groups, x_stride, y_stride), accumulate);
}

void activation_forward(const Model *m, real *y, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_forward(y, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_forward(y, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_forward(y, x, M * F);
}
void activation_backward(const Model *m, real *dx, const real *dy, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_backward(dx, dy, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_backward(dx, dy, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_backward(dx, dy, x, M * F);
}
size_t up_width(const Model *m, size_t F) { return m->c.ffn == FFN_swiglu ? 2 * F : F; }

const Mixer *mixer_of(int attn) {
    return config_is_linear(attn) ? &mixer_linear : attn == ATTN_mla ? &mixer_mla : &mixer_mha;
}

// ---- dense feed-forward --------------------------------------------------------------------------

void dense_forward(Model *m, const Linear *up, const Linear *down, real *out, real *up_out, real *hidden, const real *x,
                   size_t M) {
    apply(m, up_out, up, x, M);
    activation_forward(m, hidden, up_out, M, down->K);
    apply(m, out, down, hidden, M);
}
void dense_backward(Model *m, const Linear *up, const Linear *down, real *dx, const real *dy, const real *up_out,
                    const real *hidden, const real *x, size_t M, bool accumulate) {
    apply_backward(m, m->grads.dhidden, dy, down, hidden, M, false);
    activation_backward(m, m->grads.dup, m->grads.dhidden, up_out, M, down->K);
    apply_backward(m, dx, m->grads.dup, up, x, M, accumulate);
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

void block_layout_acts(const Model *m, size_t l, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep) {
    const Layer *y = &m->layers[l];
    size_t M = B * T;
    y->mixer->layout_acts(m, y, a, arena, B, T, keep);
    if (y->moe) moe_layout_acts(m, y, a, arena, B, T, keep);
    else a->up = take(arena, M * up_width(m, y->F)), a->hidden = take(arena, M * y->F);
}

// The mixer's branch, then the feed-forward branch of a layer, use the memory one after the other.
void block_layout_grads(const Model *m, size_t l, LayerGrads *g, Arena *arena, size_t B, size_t T) {
    const Layer *y = &m->layers[l];
    size_t M = B * T, start = arena->used;
    y->mixer->layout_grads(m, y, g, arena, B, T);
    size_t mixer_end = arena->used;
    arena->used = start;
    size_t dense = y->moe ? m->c.shared_experts * y->F : y->F;
    g->dup = take(arena, M * up_width(m, dense)), g->dhidden = take(arena, M * dense);
    if (y->moe) moe_layout_grads(m, y, g, arena, B, T);
    if (arena->used < mixer_end) arena->used = mixer_end;
}

// pieces.c: what residual branches are made of. Each forward stands directly above its backward.
#include "model/pieces.h"
#include "model/packed.h"

// ---- matrix products -----------------------------------------------------------------------------

void apply(const Model *m, real *out, const Linear *l, const real *x, size_t M) {
    if (l->integer && !packed_in_use(m)) packed_apply_exact(m, out, l->N, l, x, l->K, NULL, M);
    else if (l->integer) packed_apply(m, out, l, x, M);
    else linear_forward(out, x, m->packed + l->packed, l->bias == NOWHERE ? NULL : m->values + l->bias, M, l->N, l->K);
}
void apply_backward(Model *m, real *dx, const real *dout, const Linear *l, const real *x, size_t M, bool accumulate) {
    real *dbias = l->bias == NOWHERE ? NULL : m->gradients + l->bias;
    if (l->integer && packed_in_use(m)) packed_backward_weight(m, l, dout, x, M);
    else linear_backward_weight(m->gradients + l->weight, dbias, dout, x, M, l->N, l->K);
    linear_backward_input(dx, dout, m->values + l->weight, M, l->N, l->K, accumulate);
}

void apply_experts(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                   const Routing *r) {
    if (l->integer && !packed_in_use(m)) packed_apply_exact(m, out, ldo, l, x, ldx, r, r->copies);
    else if (l->integer) packed_experts(m, out, ldo, l, x, ldx, r);
    else experts_forward(out, ldo, x, ldx, m->packed + l->packed, r, l->count, l->N, l->K);
}

void apply_experts_backward(Model *m, real *dx, size_t ldx, const real *dout, size_t ldo, const Linear *l,
                            const real *x, const Routing *r, bool accumulate) {
    const real *seen = x;
    size_t ld = ldx;
    if (l->integer && packed_in_use(m)) seen = packed_seen(m, x, ldx, r->copies, l->K), ld = l->K;
    experts_backward_weight(m->gradients + l->weight, dout, ldo, seen, ld, r, l->count, l->N, l->K);
    experts_backward_input(dx, ldx, dout, ldo, m->values + l->weight, r, l->count, l->N, l->K, accumulate);
}

// ---- norms ---------------------------------------------------------------------------------------

static NormShape norm_shape(const Norm *n, size_t M) {
    return (NormShape){.M = M, .groups = n->groups, .C = n->C, .x_stride = n->x_stride, .y_stride = n->y_stride,
                       .eps = n->eps};
}
void normalise(const Model *m, const Norm *n, real *out, NormActs kept, const real *x, size_t M) {
    const real *v = m->values, *bias = n->bias == NOWHERE ? NULL : v + n->bias;
    if (n->dyt) dyt_forward(out, x, v + n->alpha, v + n->weight, bias, M, n->C);
    else norm_forward(out, n->center ? kept.mean : NULL, kept.rstd, x, v + n->weight, bias, norm_shape(n, M));
}
void normalise_backward(Model *m, const Norm *n, real *dx, const real *dout, NormActs kept, const real *x, size_t M,
                        bool accumulate) {
    const real *v = m->values;
    real *g = m->gradients, *dweight = g + n->weight, *dbias = n->bias == NOWHERE ? NULL : g + n->bias;
    if (n->dyt)
        dyt_backward(dx, g + n->alpha, dweight, dbias, dout, x, v + n->alpha, v + n->weight, M, n->C, accumulate);
    else
        norm_backward(dx, dweight, dbias, dout, x, v + n->weight, n->center ? kept.mean : NULL, kept.rstd,
                      norm_shape(n, M), accumulate);
}

// ---- activations ---------------------------------------------------------------------------------

void activation_forward(const Model *m, real *out, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_forward(out, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_forward(out, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_forward(out, x, M * F);
}
void activation_backward(const Model *m, real *dx, const real *dout, const real *x, size_t M, size_t F) {
    if (m->c.ffn == FFN_swiglu) swiglu_backward(dx, dout, x, M, F);
    if (m->c.ffn == FFN_gelu) gelu_backward(dx, dout, x, M * F);
    if (m->c.ffn == FFN_relu2) relu2_backward(dx, dout, x, M * F);
}
size_t up_width(const Model *m, size_t F) { return m->c.ffn == FFN_swiglu ? 2 * F : F; }

// ---- dense feed-forward --------------------------------------------------------------------------

Dense add_dense(Model *m, int layer, const char *prefix, size_t F, bool bias) {
    char gate[32], up[32], down[32];
    snprintf(gate, sizeof gate, "%s.gate", prefix), snprintf(up, sizeof up, "%s.up", prefix);
    snprintf(down, sizeof down, "%s.down", prefix);
    const Weight gate_up[] = {{gate, F, m->std.ffn}, {up, F, m->std.ffn}};
    bool gated = m->c.ffn == FFN_swiglu;
    Dense d = {.up = add_linear(m, layer, gate_up + !gated, 1 + gated, m->c.width, bias)};
    d.down = add_linear(m, layer, (Weight[]){{down, m->c.width, m->std.residual}}, 1, F, bias);
    return d;
}
DenseActs take_dense(const Model *m, Arena *arena, size_t M, size_t F) {
    return (DenseActs){.up = take(arena, M * up_width(m, F)), .hidden = take(arena, M * F)};
}

void dense_forward(Model *m, const Dense *dense, real *out, DenseActs a, const real *x, size_t M) {
    apply(m, a.up, &dense->up, x, M);
    activation_forward(m, a.hidden, a.up, M, dense->down.K);
    apply(m, out, &dense->down, a.hidden, M);
}
void dense_backward(Model *m, const Dense *dense, real *dx, const real *dout, DenseActs a, const real *x, size_t M,
                    bool accumulate) {
    DenseActs d = m->grads.ddense;
    apply_backward(m, d.hidden, dout, &dense->down, a.hidden, M, false);
    activation_backward(m, d.up, d.hidden, a.up, M, dense->down.K);
    apply_backward(m, dx, d.up, &dense->up, x, M, accumulate);
}

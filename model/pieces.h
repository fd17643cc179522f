// pieces.h: what residual branches are made of: a matrix product, a norm, an activation, two products with an
// activation between them. Each forward stands directly above its backward.
#ifndef PIECES_H
#define PIECES_H
#include "model/layer.h"

// out [M,N] = x [M,K] W^T + bias. The backward sets dx, or adds to it (accumulate), and adds to the gradients.
void apply(const Model *m, real *out, const Linear *l, const real *x, size_t M);
void apply_backward(Model *m, real *dx, const real *dout, const Linear *l, const real *x, size_t M, bool accumulate);

// A stack of matrices, each over the rows that were sorted to it: out [*,ldo] from x [*,ldx].
void apply_experts(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                   const Routing *r);
void apply_experts_backward(Model *m, real *dx, size_t ldx, const real *dout, size_t ldo, const Linear *l,
                            const real *x, const Routing *r, bool accumulate);

// Rows and their strides: see Norm. dx is laid out as x, dout as out; dx may be dout.
void normalise(const Model *m, const Norm *n, real *out, NormActs kept, const real *x, size_t M);
void normalise_backward(Model *m, const Norm *n, real *dx, const real *dout, NormActs kept, const real *x, size_t M,
                        bool accumulate);

// out [M,F] from x [M,up_width]: swiglu reads [gate | up].
void activation_forward(const Model *m, real *out, const real *x, size_t M, size_t F);
void activation_backward(const Model *m, real *dx, const real *dout, const real *x, size_t M, size_t F);
size_t up_width(const Model *m, size_t F);

// The dense feed-forward of model.c, and the shared experts of moe.c.
Dense add_dense(Model *m, int layer, const char *prefix, size_t F, bool bias);
DenseActs take_dense(const Model *m, Arena *arena, size_t M, size_t F);
void dense_forward(Model *m, const Dense *dense, real *out, DenseActs a, const real *x, size_t M);
void dense_backward(Model *m, const Dense *dense, real *dx, const real *dout, DenseActs a, const real *x, size_t M,
                    bool accumulate);
#endif

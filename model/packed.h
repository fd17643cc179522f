// packed.h: a model that computes in integers, --quant with --quant-act. Its rounded matrices are held in the few
// bits of their format (kernels/quant_matmul.h) and nowhere else: when they are packed, on the first forward, the
// floats that they were made of are given back to the system. Each product rounds the numbers that it reads to int8 and
// sums integers, so a row is again a function of its own tokens, and the bits are the same on every instruction set.
//
// What is rounded is what rounding.h says. Of that, the embedding is held as rows of bytes, of which a token reads one;
// and the matrix kv_b of mla is multiplied in floats: the steps of a cache multiply by it from the left, along the
// other side of its groups (attention.c).
//
// A training keeps the exact weights, which the optimizer moves, and the rounded ones as floats, for the backward. Its
// forward is the products of inference, so what is trained is what ships, to the bit. The backward is that of a product
// of the numbers that both factors were rounded to, x^ and w^: dx = dy w^ and dw = dy^T x^, given to x and w as they
// are: the straight-through estimator (rounding.h). None is masked, for the scale of a group is that of its largest
// number, so that nothing is clipped. With --hadamard, x and w are rotated before they are rounded, and x^ and w^ are
// rotated back, so that nothing of the backward changes.
#ifndef PACKED_H
#define PACKED_H
#include "kernels/dispatch.h"
#include "kernels/quant_matmul.h"
#include "model/layer.h"

// Rows [N,K] of a matrix that have one scale of a tensor: column: of the output where they begin; from: where their
// numbers stand among the parameters; at: their bytes.
struct QuantPiece { QuantWeight weight; size_t column, from, at; };

// While the table is built: which rows of a matrix are integers. They come first.
void packed_plan(Model *m, Linear *l);
void packed_plan_embedding(Model *m);
void packed_take(Model *m);                      // memory for all that was planned
void packed_make(Model *m);                      // from the parameters; in a training also the values that they mean
void packed_release(Model *m);                   // the parameters that are not needed any more
void packed_needs_floats(const Model *m);        // fail()s when they have been given back

void packed_embed(Model *m, const int *tokens, const Batch *b);       // to the first state of the residual stream
// A training computes in integers from --qat-start on; then, and in inference always, this is true.
bool packed_in_use(const Model *m);
// apply() and apply_experts() of pieces.h.
void packed_apply(const Model *m, real *out, const Linear *l, const real *x, size_t M);
void packed_experts(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                    const Routing *r);
// Either without rounding. r: of a stack of matrices; else NULL.
void packed_apply_exact(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                        const Routing *r, size_t M);
// What a product saw of x [M,K]: its rounded numbers, in memory that the next call takes.
const real *packed_seen(const Model *m, const real *x, size_t ldx, size_t M, size_t K);
size_t packed_workspace(const Model *m, size_t M, size_t K);     // numbers of memory that this takes
// The gradient of the weights and the bias, added to: of the numbers that the product saw.
void packed_backward_weight(Model *m, const Linear *l, const real *dout, const real *x, size_t M);
#endif

// packed.h: a model that computes in integers, --quant with --quant-act int8. Its rounded matrices are held in the few
// bits of their format (kernels/quant_matmul.h) and nowhere else: when they are packed, on the first forward, the
// floats that they were made of are given back to the system. Each product rounds the numbers that it reads to int8 and
// sums integers, so a row is again a function of its own tokens, and the bits are the same on every instruction set.
//
// What is rounded is what rounding.h says. Of that, the embedding is held as rows of bytes, of which a token reads one;
// and the matrix kv_b of mla is multiplied in floats: the steps of a cache multiply by it from the left, along the
// other side of its groups (attention.c).
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
void packed_make(Model *m);                      // from the parameters
void packed_release(Model *m);                   // the parameters that are not needed any more
void packed_needs_floats(const Model *m);        // fail()s when they have been given back

void packed_embed(Model *m, const int *tokens, const Batch *b);       // to the first state of the residual stream
// apply() and apply_experts() of pieces.h.
void packed_apply(const Model *m, real *out, const Linear *l, const real *x, size_t M);
void packed_experts(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                    const Routing *r);
#endif

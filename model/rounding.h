// rounding.h: weights rounded to a number format (kernels/quant.h) wherever the model computes with them. In training
// the optimizer moves exact ones, the master weights, and so learns what rounding will do: quantisation-aware training
// (Krishnamoorthi 2018, section 3). The gradient is that of the rounded weights, given to the master weights as it is:
// the straight-through estimator (Bengio 2013). None is masked: the scale of a group comes from its largest number.
//
// Rounded are the matrices of products, in groups along their rows [N,K]; not routers, nor gates that say how a state
// fades; the embedding and the head with --quant-embed only. What a run saves for others to read is rounded; what it
// resumes from is not.
#ifndef ROUNDING_H
#define ROUNDING_H
#include "kernels/quant.h"
#include "model/memory.h"

Quant rounding_format(const Config *c);             // of a c->quant that is not none
// Whether a tensor is a matrix that is rounded, and what becomes of it; out may be exact.
bool rounding_concerns(const Config *c, const Param *p);
void round_tensor(const Config *c, const Param *p, real *out, const real *exact);
// Whether the format holds all exact weights that are to be rounded: a training in which it does not has diverged.
bool rounding_holds(const Model *m);
void rounding_refuse(const Config *c, const char *name, const real *x, size_t n);    // where it does not hold x
bool is_rounded(const Model *m, const Param *p);
bool is_integer(const Model *m, const Param *p);     // with --quant-act: all of those but mla's kv_b (packed.h)
// The sizes of --quant: what is rounded, the copy that is computed with, and its bytes in a packed file.
void rounding_sizes(ModelSize *s, const Model *m);
// Makes the values that the model computes with from its master weights, if they are kept apart. all: also those that
// packed_make() makes of the codes that it packs.
void round_weights(Model *m, bool all);
#endif

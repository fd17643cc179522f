// quant.h: a model whose weights mean only what a format of few bits can (kernels/quant.h), computed with as floats.
#ifndef MODEL_QUANT_H
#define MODEL_QUANT_H
#include "kernels/quant.h"
#include "model/params.h"

// Which tensors: the matrices of layers, stacks of experts among them, but not routers and short convolutions; with
// `embed` also the embedding and the head, but not learned positions.
bool model_is_quantised(const Param *p, bool embed);
// Rounds them, each row along its inputs; nvfp4 has a scale for each tensor. fail()s as quant_encode_rows does.
typedef struct { size_t tensors, weights, bytes, others; } Quantised;   // bytes that the weights would take; the rest
Quantised model_quantise(Model *m, Quant q, bool embed);
#endif

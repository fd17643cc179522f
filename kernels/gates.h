// gates.h: what stands around the recurrence of a linear attention layer: a short convolution, feature
// maps of queries and keys, gates and decays; and the gate of softmax attention. Rows are tokens; x_forward stands
// directly above its x_backward.
#ifndef GATES_H
#define GATES_H
#include "lib/util.h"

// A causal convolution over the last W tokens for each of C channels (w [W,C], the last row for the token itself),
// then silu: before [B*T,C] = sum_j w_j x_{t-W+1+j},  y = silu(before). W == 0: silu(x) alone, before is not used.
// tail [B, (W-1)*C] (step apart): the W-1 tokens before the first, updated; NULL: zeros, nothing kept.
typedef struct { size_t B, T, W, C, x_stride; } ConvShape;
void short_conv_forward(real *y, real *before, const real *x, const real *w, real *tail, size_t tail_step, ConvShape s);
// dx (stride of x) is set, dw is added to, tokens in order. dy is overwritten.
void short_conv_backward(real *dx, real *dw, real *dy, const real *before, const real *x, const real *w, ConvShape s);

// What a head does to a query or key x of width K: nothing; elu(x) + 1 (Katharopoulos et al. 2020, eq. 7); or
// x / sqrt(|x|^2 + 1e-6); then times `scale`. y and x have M rows, `heads` heads side by side.
typedef enum { FEATURE_PLAIN, FEATURE_ELU, FEATURE_UNIT } Feature;
typedef struct { size_t M, heads, K, x_stride, y_stride; Feature feature; double scale; } FeatureShape;
void feature_forward(real *y, const real *x, FeatureShape s);
void feature_backward(real *dx, const real *dy, const real *x, FeatureShape s);

// y [M,N] = sigmoid(x); and for the backward dx (stride of x) = dy y (1 - y).
void sigmoid_forward(real *y, const real *x, size_t x_stride, size_t M, size_t N);
void sigmoid_backward(real *dx, size_t x_stride, const real *dy, const real *y, size_t M, size_t N);
// Decays of gla: sigmoid(x)^(1/16) (Yang et al. 2023). From the gradient of their logarithm: dx.
void key_decay_forward(real *decay, const real *x, size_t n);
void key_decay_backward(real *dx, const real *dlog, const real *x, size_t n);
// Decays of the gated delta rule: exp(-exp(rate_h) step), step = softplus(x + shift_h), as Mamba-2 discretises (Dao and
// Gu 2024), which also writes with the step; step and dstep are NULL where nothing else reads it.
// dx is set, drate and dshift are added to, tokens in order.
void head_decay_forward(real *decay, real *step, const real *x, size_t x_stride, const real *rate, const real *shift,
                        size_t M, size_t H);
void head_decay_backward(real *dx, size_t x_stride, real *drate, real *dshift, const real *dlog, const real *dstep,
                         const real *x, const real *rate, const real *shift, size_t M, size_t H);
// y [M,H*V] += by_h x, for each head. dx and dby [H] are added to, tokens in order; x and dx have rows x_stride apart.
void skip_forward(real *y, const real *x, size_t x_stride, const real *by, size_t M, size_t H, size_t V);
void skip_backward(real *dx, real *dby, const real *dy, const real *x, size_t x_stride, const real *by, size_t M,
                   size_t H, size_t V);
// y [M,N] = x silu(gate); gate and dgate have rows gate_stride apart.
void silu_gate_forward(real *y, const real *x, const real *gate, size_t gate_stride, size_t M, size_t N);
void silu_gate_backward(real *dx, real *dgate, const real *dy, const real *x, const real *gate, size_t gate_stride,
                        size_t M, size_t N);
// y [n] = x sigmoid(gate). dgate may be dy.
void sigmoid_gate_forward(real *y, const real *x, const real *gate, size_t n);
void sigmoid_gate_backward(real *dx, real *dgate, const real *dy, const real *x, const real *gate, size_t n);
#endif

// ops.h: everything in a transformer that is not a matrix product: norms, activations, rotary
// positions, embeddings, cross-entropy. M rows (tokens), C columns; `stride` is the distance between
// rows. x_forward stands directly above its x_backward. All threads; outputs are owned, never shared.
#ifndef OPS_H
#define OPS_H
#include "lib/util.h"

// ---- norms ---------------------------------------------------------------------------------------
// LayerNorm (Ba et al. 2016) y = (x - mean) / sqrt(var + eps) * w + b, or, with mean == NULL, RMSNorm
// (Zhang and Sennrich 2019) y = x / sqrt(mean(x^2) + eps) * w. Each row holds `groups` vectors of
// width C side by side that are normalised apart and share w (1 group, or the heads of a query).
typedef struct { size_t M, groups, C, x_stride, y_stride; double eps; } NormShape;
// mean, rstd: [M, groups], kept for the backward. b may be NULL.
void norm_forward(real *y, real *mean, real *rstd, const real *x, const real *w, const real *b, NormShape s);
// dx (strides as x) is set, or added to with accumulate. dw [C], db [C] are added to, rows in order.
void norm_backward(real *dx, real *dw, real *db, const real *dy, const real *x, const real *w,
                   const real *mean, const real *rstd, NormShape s, bool accumulate);
// Dynamic tanh (Zhu et al. 2025, section 4), which stands where a norm would: y = w tanh(alpha x) + b, with one
// number alpha for all of x [M,C]. The backward as above; dalpha is added to, rows in order.
void dyt_forward(real *y, const real *x, const real *alpha, const real *w, const real *b, size_t M, size_t C);
void dyt_backward(real *dx, real *dalpha, real *dw, real *db, const real *dy, const real *x, const real *alpha,
                  const real *w, size_t M, size_t C, bool accumulate);

// ---- activations ---------------------------------------------------------------------------------
// SwiGLU (Shazeer 2020): x [M, 2F] = gate | up, y [M,F] = silu(gate) * up.
// GELU (Hendrycks and Gimpel 2016) in the tanh form that GPT-2 uses; squared ReLU (So et al. 2021): x [M,F].
void swiglu_forward(real *y, const real *x, size_t M, size_t F);
void swiglu_backward(real *dx, const real *dy, const real *x, size_t M, size_t F);
void gelu_forward(real *y, const real *x, size_t n);
void gelu_backward(real *dx, const real *dy, const real *x, size_t n);
void relu2_forward(real *y, const real *x, size_t n);
void relu2_backward(real *dx, const real *dy, const real *x, size_t n);

// ---- rotary positions ----------------------------------------------------------------------------
// How rotations are slowed down for texts longer than those that a model was trained on, by a factor:
//   linear  every frequency is divided by it (positional interpolation: Chen et al. 2023)
//   ntk     theta grows, so that the slowest frequency is divided by it and the fastest stays
//           ("NTK-aware": Peng et al. 2023, definition 1)
//   yarn    frequencies that turn often over `trained` tokens (beta_fast times) stay, those that turn less than once
//           (beta_slow) are divided by it, and in between there is a ramp over pairs; queries and keys grow a little
//           (Peng et al. 2023, section 3.2 to 3.4)
//   llama3  the same with low_freq and high_freq turns, and a ramp over turns (Llama 3.1's reference code, 2024)
//   dynamic none; model/ sees to it that no text is longer than `trained`
enum { ROPE_none, ROPE_linear, ROPE_ntk, ROPE_yarn, ROPE_llama3, ROPE_dynamic };
typedef struct {
    int kind;
    double factor, trained;
    double beta_fast, beta_slow;    // yarn; 0: 32 and 1, as in the paper
    bool fractional;                // yarn: the ends of the ramp are not rounded to whole pairs
    double attention;               // yarn: multiplies cosine and sine; 0: rope_mscale(factor, 1), eq. 22 of the paper
    double low_freq, high_freq;     // llama3
} RopeScaling;
// 0.1 mscale ln(factor) + 1: how much queries and keys, or (squared) their scores, grow.
double rope_mscale(double factor, double mscale);

// cosine, sine [positions, P/2] of position * theta^(-2i/P): Su et al. 2021, eq. 15.
void rope_table(real *cosine, real *sine, size_t positions, size_t P, double theta, RopeScaling s);
// Rotates, in place, the first P numbers of each of `heads` heads (head_stride apart) of M rows. Row m
// has position start + m % T. Dimension d pairs with d + P/2. inverse: the transposed map, which is the backward: the
// rotation goes back, a factor in cosine and sine stays.
void rope(real *x, size_t stride, size_t heads, size_t head_stride, size_t P, const real *cosine, const real *sine,
          size_t M, size_t T, size_t start, bool inverse);

// ---- embeddings ----------------------------------------------------------------------------------
// y [M,C] = table[token[m]] + (position ? position[start + m % T] : 0)
void embed_forward(real *y, const real *table, const real *position, const int *token, size_t M, size_t T, size_t start,
                   size_t C);
void embed_backward(real *dtable, real *dposition, const real *dy, const int *token, size_t M, size_t T, size_t C);

// ---- the residual stream -------------------------------------------------------------------------
void add_scaled(real *y, const real *x, double scale, const real *f, size_t n);   // y = scale * x + f; y may be x or f
double sum_of_squares(const real *x, size_t n);   // fixed blocks, fixed tree: the same bits for any threads

// ---- cross-entropy -------------------------------------------------------------------------------
// Row m of logits [M,V]: loss[m] = -log softmax(logits)[target[m]] in nats (0 where target is -1), and
// hit[m] (if not NULL) tells whether the largest logit is the target (ties: the lowest index wins).
void cross_entropy_forward(double *loss, bool *hit, const real *logits, const int *target, size_t M, size_t V);
// logits become their gradient (softmax - onehot) * scale, or 0 where target is -1.
void cross_entropy_backward(real *logits, const int *target, double scale, size_t M, size_t V);
// x [V] becomes its softmax; returns log sum exp. One row, this thread.
double softmax_row(real *x, size_t V);
#endif

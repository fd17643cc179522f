// recurrence.h: linear attention: a state of fixed size per head where softmax attention keeps all keys and
// values. This header is the manual of recurrence.c; it knows nothing of models.
//
// With a state S [D,Dv], initially 0, for token t of a head:
//     S_t = Diag(a_t) S_{t-1} + k_t u_t^T,      out_t = S_t^T q_t
//     u_t = v_t                                          linear (Katharopoulos et al. 2020, eq. 18-20): a = 1
//                                                        gla (Yang et al. 2023): a decay for every key dimension
//     u_t = b_t v_t                                      mamba2 (Dao and Gu 2024, eq. 2): b the step, one decay
//     u_t = b_t (v_t - (Diag(a_t) S_{t-1})^T k_t)        delta (Schlag et al. 2021, Yang et al. 2024): a = 1
//                                                        gated delta (Yang, Kautz, Hatamizadeh 2024): one decay
#ifndef RECURRENCE_H
#define RECURRENCE_H
#include "lib/util.h"

// ---- the recurrence ------------------------------------------------------------------------------

typedef struct {
    size_t H, D, Dv;                // heads, width of a query and key, of a value
    bool delta;                     // the delta rule: u is v less what the state already answers to k
    bool has_decay, decay_per_key;  // a decay per head, or with both per head and key dimension
    bool has_step;                  // u is v times the size of a step
} RecurrenceShape;

// Rows are tokens. beta (b above: delta or steps) [B*T,H]; decay (has_decay) [B*T,H] or [B*T,H*D], in [0,1].
typedef struct {
    const real *q, *k, *v;     // head h at h*D, h*D, h*Dv
    size_t q_stride, k_stride, v_stride;
    const real *beta, *decay;
} RecurrenceInput;

// What a sequence remembers between calls: recurrence_state_size() numbers, initially 0, for sequence b at
// at + b*step, after `past` tokens. at == NULL: it starts from nothing and remembers nothing.
typedef struct { real *at; size_t step, past; } RecurrenceState;

// Tokens go in chunks, whose borders stand at multiples of a length from the start of the sequence, cached or not: so
// a token has the same bits in training, prefill and decoding. A cache holds the state at the last border, and the
// keys, u and decays of the tokens since then.
size_t recurrence_state_size(RecurrenceShape s);

// out [B*T,H*Dv]. states: NULL, or what the backward needs, recurrence_states_size() numbers.
size_t recurrence_states_size(size_t B, size_t T, RecurrenceShape s);
void recurrence_forward(real *out, real *states, const RecurrenceInput *in, size_t B, size_t T, RecurrenceState memory,
                        RecurrenceShape s);

// Gradients of a forward without past, all of them set; strides and shapes as in the input. log_decay: with
// respect to the logarithm of the decay. beta and log_decay are left alone where there is none.
typedef struct { real *q, *k, *v, *beta, *log_decay; size_t q_stride, k_stride, v_stride; } RecurrenceGradient;
// dout [B*T,H*Dv].
void recurrence_backward(const RecurrenceGradient *g, const real *dout, const real *states, const RecurrenceInput *in,
                         size_t B, size_t T, RecurrenceShape s);

// Numbers of scratch memory that both take, with all threads.
size_t recurrence_workspace(RecurrenceShape s);

// The readable reference: token by token, as the formula says, from nothing.
void recurrence_forward_naive(real *out, const RecurrenceInput *in, size_t B, size_t T, RecurrenceShape s);

// For pictures, of one sequence. weight [H,T,T]: row t is what each value v_j, j <= t, does to out_t, which is linear
// in them: magnitudes, as shares of their sum (out_t is normalised afterwards). states [count,H,K,V]: S_t after the
// tokens t = token[0] < token[1] < ...
void recurrence_weights(real *weight, const RecurrenceInput *in, size_t T, RecurrenceShape s);
void recurrence_states_at(real *states, const RecurrenceInput *in, const size_t *token, size_t count,
                          RecurrenceShape s);

// ---- the normaliser ------------------------------------------------------------------------------

// The denominator of Katharopoulos et al. 2020, eq. 20, for positive queries and keys: with z_t = k_1 + ... + k_t,
// sum_t = q_t . z_t + 1e-6 and out_t /= sum_t. z [B,H*D] (step apart) goes on from where it was; NULL: from 0.
// out [B*T,H*Dv], sum [B*T,H].
typedef struct { const real *q, *k; size_t q_stride, k_stride, H, D, Dv; } SumShape;
void normalise_sum_forward(real *out, real *sum, real *z, size_t z_step, size_t B, size_t T, SumShape s);
// First dout [M,H*Dv] and sum [M,H] become the gradients of the numerator and of the sum; when the recurrence has made
// dq and dk of the numerator's, what the sum gives is added (strides of q and k).
void normalise_sum_numerator(real *dout, real *sum, const real *out, size_t M, SumShape s);
void normalise_sum_backward(real *dq, real *dk, const real *dsum, size_t B, size_t T, SumShape s);
#endif

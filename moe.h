// moe.h: mixture of experts: a router picks K of E feed-forward networks for each token. Dropless
// (Gale et al. 2022): tokens are sorted by expert and every expert does one dense product over its
// tokens, so that sparsity saves real time and no token is lost.
#ifndef MOE_H
#define MOE_H
#include "lib/util.h"

// What a layer remembers of the routing of M tokens.
typedef struct {
    real *score;               // [M,E] softmax or sigmoid of the router's logits
    real *log_sum;             // [M] log sum exp of the logits (for the z-loss)
    int *expert;               // [M,K] chosen experts, best first
    real *weight;              // [M,K] with which their outputs are summed
    size_t *count, *start;     // [E], [E+1]: tokens of each expert; its slots are start[e] .. start[e+1]-1
    int *slot;                 // [M,K]: where token m's k-th copy stands among the tokens sorted by expert
    int *token;                // [M*K]: the token in each slot; within an expert tokens keep their order
} Routing;

typedef struct {
    size_t E, K, T;            // T: tokens per sequence; balance is measured within a sequence
    bool sigmoid, normalise;   // the score; whether the K weights are scaled to sum to 1
    double scale;              // multiplies the weights
    double aux, z;             // weights of the load-balancing and z losses, times 1/rows of the whole step
} RouterShape;

// logits [M,E] (kept unchanged); bias [E] moves the selection only, never the weights (Wang et al. 2024,
// "Auxiliary-loss-free load balancing"), may be NULL. Ties go to the lower expert.
void route_forward(Routing *r, const real *logits, const real *bias, size_t M, RouterShape s);
// dweight [M,K] -> dlogits [M,E], with the gradients of the auxiliary losses.
void route_backward(real *dlogits, const real *dweight, const Routing *r, size_t M, RouterShape s);

// The auxiliary losses themselves, unweighted, summed over sequences (M/T of them).
// Balance: E sum_e f_e P_e, f_e the share of choices that expert e got and P_e its mean score (scores
// that sum to 1), both within one sequence: Fedus et al. 2021, eq. 4, and DeepSeek-V3 2024, eq. 17-20.
// z: mean over tokens of (log sum exp logits)^2: Zoph et al. 2022, eq. 5.
double route_balance_loss(const Routing *r, size_t M, RouterShape s);
double route_z_loss(const Routing *r, size_t M, RouterShape s);

// x [M,C] -> copies sorted by expert [M*K,C], and back.
void dispatch_forward(real *sorted, const real *x, const Routing *r, size_t M, size_t K, size_t C);
void dispatch_backward(real *dx, const real *dsorted, const Routing *r, size_t M, size_t K, size_t C);          // dx is added to
void combine_forward(real *y, const real *sorted, const Routing *r, size_t M, size_t K, size_t C);              // y is set
void combine_backward(real *dsorted, real *dweight, const real *dy, const real *sorted, const Routing *r, size_t M, size_t K, size_t C);

// A stack of E linear layers w [E][N,K] over tokens sorted by expert: y [*,ldy] = x [*,ldx] w_e^T.
void experts_forward(real *y, size_t ldy, const real *x, size_t ldx, const real *w_packed, const Routing *r, size_t E, size_t N, size_t K);
void experts_backward_input(real *dx, size_t ldx, const real *dy, size_t ldy, const real *w, const Routing *r, size_t E, size_t N, size_t K, bool accumulate);
void experts_backward_weight(real *dw, const real *dy, size_t ldy, const real *x, size_t ldx, const Routing *r, size_t E, size_t N, size_t K);
#endif

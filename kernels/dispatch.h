// dispatch.h: what experts do once it is known which token passes which: copies of the tokens, sorted by expert, the
// grouped products of all experts, and the way back. router.h says who chooses.
#ifndef DISPATCH_H
#define DISPATCH_H
#include "lib/util.h"

// ---- which token passes which expert --------------------------------------------------------------
// What a layer remembers of the routing of M tokens. A choice is a pair of token and expert; those of token m are
// first[m] .. first[m+1]-1. There are at most route_max_choices().
typedef struct {
    real *score;               // [M,E] what the logits become: see Score
    real *log_sum;             // [M] log sum exp of the logits (for the z-loss)
    uint8_t *taken;            // [M,E] where the number of choices varies: whether the expert takes the token
    size_t *first;             // [M+1]
    int *expert;               // [choices] of a token: best first (CHOOSE_BEST), else by number
    real *weight;              // [choices] with which their outputs are summed
    int *slot;                 // [choices] where the token's copy stands among those sorted by expert; -1: dropped
    size_t *count, *start;     // [E], [E+1]: copies of each expert; its slots are start[e] .. start[e+1]-1
    int *token;                // [slots] the token in each slot; within an expert tokens keep their order
    size_t copies;             // slots in use: start[E]
} Routing;
enum { FEW_EXPERTS = 64 };  // of so many a loop keeps something on its stack; for more it allocates
// Soft routing instead: the weights with which tokens are mixed into slots, and slots into outputs (router.h).
typedef struct { real *dispatch, *combine; } Mixing;    // [M,E*S] each; in the backward their gradients

// ---- dispatch ------------------------------------------------------------------------------------
// x [M,C] -> copies sorted by expert [copies,C], and back.
void dispatch_forward(real *sorted, const real *x, const Routing *r, size_t C);
void dispatch_backward(real *dx, const real *dsorted, const Routing *r, size_t M, size_t C);       // dx is added to
void combine_forward(real *y, const real *sorted, const Routing *r, size_t M, size_t C);           // y is set
void combine_backward(real *dsorted, real *dweight, const real *dy, const real *sorted, const Routing *r, size_t M,
                      size_t C);

// ---- experts -------------------------------------------------------------------------------------
// A stack of E linear layers w [E][N,K] over rows sorted by expert: y [*,ldy] = x [*,ldx] w_e^T.
void experts_forward(real *y, size_t ldy, const real *x, size_t ldx, const real *w_packed, const Routing *r, size_t E,
                     size_t N, size_t K);
void experts_backward_input(real *dx, size_t ldx, const real *dy, size_t ldy, const real *w, const Routing *r, size_t E,
                            size_t N, size_t K, bool accumulate);
void experts_backward_weight(real *dw, const real *dy, size_t ldy, const real *x, size_t ldx, const Routing *r,
                             size_t E, size_t N, size_t K);
#endif

// router.h: who chooses which expert. A router decides which of E feed-forward networks a token passes, and with what
// weights their outputs are summed (router.c). kernels/dispatch.h then sorts the tokens by expert, so that every expert
// does one dense product over its own (dropless, Gale et al. 2022). Soft routing mixes tokens instead of choosing
// (router.c, at the end). The Config is not known here; moe.c says which flag is which shape.
#ifndef ROUTER_H
#define ROUTER_H
#include "kernels/dispatch.h"

// ---- routing -------------------------------------------------------------------------------------
typedef enum { SCORE_SOFTMAX, SCORE_SIGMOID, SCORE_RELU } Score;
typedef enum {
    CHOOSE_BEST,     // a token takes the K experts with the best score, plus bias: Shazeer et al. 2017
    CHOOSE_ALL,      // a token takes all experts
    CHOOSE_ABOVE,    // a token takes the experts whose score is above a threshold of theirs
    CHOOSE_TOKENS,   // an expert takes the best tokens of each pool, K/E of them: Zhou et al. 2022
} Choice;
typedef enum { POOL_TIME, POOL_BATCH, POOL_ALL } PoolKind;

typedef struct {
    size_t E, K, T;            // K: experts per token, exactly or on average; T: tokens per sequence
    Score score; Choice choice;
    bool biased;               // CHOOSE_BEST: a bias moves the selection, which the load-balancing loss does not count
    bool normalise;            // whether the weights of a token's choices are scaled to sum to 1
    double scale;              // multiplies the weights
    double aux, z;             // weights of the load-balancing and z losses, times 1/rows of the whole step
    size_t capacity;           // most tokens of a sequence that an expert takes, in their order; 0: all
    PoolKind pool;             // CHOOSE_TOKENS, soft: tokens that are routed together, see Pool
    size_t pool_tokens;        // POOL_TIME: how many
    size_t slots;              // soft: per expert and pool
    // CHOOSE_BEST: where groups is not 0, experts stand in so many groups of E/groups neighbours, and a token's choices
    // come from the top_groups best of them, by their best score plus bias, or by the sum of their best two.
    size_t groups, top_groups;
    bool group_sum;
} RouterShape;

// Tokens that are routed together: `tokens` of them, first, first + step, ... POOL_TIME: neighbours in a sequence (the
// last pool of a sequence may be shorter); POOL_BATCH: those at one place of all sequences; POOL_ALL: all M.
typedef struct { size_t first, step, tokens; } Pool;
size_t pool_count(size_t M, RouterShape s);
Pool pool_at(size_t i, size_t M, RouterShape s);

size_t route_max_choices(size_t M, RouterShape s);   // the most choices that M tokens can have
// logits [M,E] (kept unchanged). state [E]: for CHOOSE_BEST a bias that moves the selection only, never the weights
// (may be NULL); for CHOOSE_ABOVE the thresholds (NULL: zeros). Ties go to the lower expert or group; in a pool,
// to the earlier token.
void route_forward(Routing *r, const real *logits, const real *state, size_t M, RouterShape s);
// dweight [choices] -> dlogits [M,E], with the gradients of the auxiliary losses.
void route_backward(real *dlogits, const real *dweight, const Routing *r, size_t M, RouterShape s);
// K experts for each token by its number id[m] alone, with equal weights. The random hash of Roller et al. 2021;
// seed: layers should differ.
void route_by_hash(Routing *r, const int *id, uint64_t seed, size_t M, RouterShape s);
// All experts for each token, with the weights that r->score [M,E] holds.
void route_by_weight(Routing *r, size_t M, size_t E);
// The k-th largest of x [n], k from 1; reorders x.
real kth_largest(real *x, size_t n, size_t k);

// The auxiliary losses themselves, unweighted, summed over sequences (M/T of them).
// Balance: E sum_e f_e P_e, f_e = (choices of expert e) / (K T) and P_e its mean score (scores that sum to 1),
// both within one sequence: Fedus et al. 2021, eq. 4, and DeepSeek-V3 2024, eq. 17-20. Where a bias moves the
// selection, f_e counts the K best scores without it, as eq. 18 does. With SCORE_RELU the scores are taken as they are:
// the L1 norm of ReMoE (Z. Wang et al. 2024), in its form that balances.
// z: mean over tokens of (log sum exp logits)^2: Zoph et al. 2022, eq. 5.
double route_balance_loss(const Routing *r, size_t M, RouterShape s);
double route_z_loss(const Routing *r, size_t M, RouterShape s);
// bias [E] moves by `rate`: up where an expert's load [E], whole numbers of tokens, is below the mean load, down where
// it is above, and not at all where it is the mean (L. Wang et al. 2024, algorithm 1).
void route_move_bias(real *bias, const double *load, size_t E, double rate);

// ---- soft routing --------------------------------------------------------------------------------
// Soft MoE (Puigcerver et al. 2023, section 2.1). Each expert has S = s.slots slots per pool. A slot's input is a
// mean of all tokens of the pool, with the dispatch weights (their D): softmax over tokens of the logits [M,E*S]; a
// token's output is a mean of all slots' outputs, with the combine weights (their C): softmax over slots. Slots
// [E][pools][S] of width C are sorted by expert.
size_t soft_rows(size_t M, RouterShape s);    // slots in all: E * pools * S
void soft_route_forward(Routing *r, Mixing w, const real *logits, size_t M, RouterShape s);     // sets r->start
void soft_route_backward(real *dlogits, Mixing dw, Mixing w, size_t M, RouterShape s);
void soft_dispatch_forward(real *sorted, const real *x, Mixing w, size_t M, size_t C, RouterShape s);
void soft_dispatch_backward(real *dx, Mixing dw, const real *dsorted, const real *x, Mixing w, size_t M, size_t C,
                            RouterShape s);
void soft_combine_forward(real *y, const real *sorted, Mixing w, size_t M, size_t C, RouterShape s);
void soft_combine_backward(real *dsorted, Mixing dw, const real *dy, const real *sorted, Mixing w, size_t M, size_t C,
                           RouterShape s);
// Every token alone, as a pool of its own: all slots of an expert hold it, so it passes each expert once, with the sum
// of their weights. out [M,E*S] is overwritten.
void soft_route_alone(Routing *r, real *out, const real *logits, size_t M, RouterShape s);
#endif

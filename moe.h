// moe.h: the mixture of experts as a feed-forward branch, and what a step tells about its routing. router.h says how
// experts are chosen.
#ifndef MOE_H
#define MOE_H
#include "model/params.h"

typedef struct Branch Branch;     // model/layer.h
extern const Branch ffn_moe;

// Statistics of the routers, summed over the forwards since model_zero_gradients.
typedef struct RouterStats {
    double aux_loss, z_loss;       // as they enter the loss, weighted
    const double *load;            // [E] tokens that passed each expert (soft: the weight of its slots in the outputs)
    double entropy;                // of the load, in nats; log E when balanced
    double max_violation;          // largest load over mean load, minus 1 (MaxVio)
    size_t dead;                   // experts without a token
    double tokens, copies;         // tokens, and how often one passed an expert (soft: slots)
    double dropped, skipped;       // choices that an expert had no capacity for; tokens that passed no expert
    double flops;                  // of router and experts, measured: per token, forward and backward
} RouterStats;
const RouterStats *model_router_stats(Model *m, size_t layer);   // zeros for a dense layer
// Moves what a router goes by, by what the step has shown; call once per step.
//   bias: the selection biases, by the sign of the load error (L. Wang et al. 2024, algorithm 1)
//   threshold: each expert's threshold, towards the score that K/E of the step's tokens were above
//   relu: the weight of the L1 norm, by the sign of the error of the sparsity (ReMoE, Z. Wang et al. 2024)
void model_update_routers(Model *m);
#endif

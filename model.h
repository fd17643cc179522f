// model.h: the GPT whose whole architecture is flags. This header is the manual of model.c.
#ifndef MODEL_H
#define MODEL_H
#include "config/config.h"
#include "kernels/ops.h"

// ---- parameters --------------------------------------------------------------------------------
// One row per tensor. The rows drive sizing, init, checkpoints, the optimizer's groups, the gradient
// check, the digest and the printed summary. Names (i is the layer), shapes in [out, in] order:
//   embed.weight [V,C]  pos.weight [T,C] (learned)  head.weight [V,C] (absent when tied)  final_norm.{weight,bias} [C]
//   layers.i.attn_norm, attn_norm_out, ffn_norm, ffn_norm_out .{weight,bias} [C]: which exist depends on --norm:
//       pre: attn_norm, ffn_norm, final_norm     peri: all four, final_norm     out: *_norm_out, final_norm
//       post, deepnorm: *_norm_out only (applied after the sum; there is no final norm)     none: none
//       keel: attn_norm, ffn_norm and, but for the first branch, *_norm_out (after the sum; no final norm)
//       --norm-kind dyt: .alpha [1] besides, and .bias whatever --bias says
//   layers.i.attn.q [H*D,C]  .k .v [KV*D,C]  .o [C,H*D] .{weight,bias};  q_norm, k_norm .weight ([D] or [H*D], [KV*D])
//        attn.gate [H*Dv,C] (--attn-gate, mla too)
//   mla: layers.i.attn.q [H*(N+P),C], or q_a [Rq,C] q_a_norm [Rq] q_b [H*(N+P),Rq];  kv_a [R+P,C]  kv_a_norm [R]
//        kv_b [H*(N+Dv),R] (per head: N rows of keys, then Dv rows of values)  o [C,H*Dv]
//        (N = nope_dim, P = rope_dim; biases, as in DeepSeek-V3, on q_a, kv_a and o only)
//   linear mixers: layers.i.attn.q, k [H*K,C] v, gate [H*Dv,C] beta, decay [H,C] decay_a [16,C] decay_b [H*K,16] (which
//        exist, see linear.c; K = state_dim)  conv.weight [taps, H*(2K+Dv)]  decay_rate, decay_shift, skip [H]
//        o_norm [Dv]
//   layers.i.ffn.gate, up [F,C], down [C,F] .{weight,bias} (gate: swiglu only)
//   layers.i.moe.router.weight [E,C] (soft: a row per slot; hash: none)
//   moe.router.bias [E] (router bias), moe.router.threshold [E] (threshold), and for all layers router.l1 [1] (relu):
//   without gradients, moved by model_update_routers
//   layers.i.moe.gate, up [E,F,C]  down [E,C,F] .weight;  moe.shared.gate, up [S*F,C]  down [C,S*F] .weight
// q, k, v (and gate, up) are adjacent in memory, so that each group is one matrix product.
// RoPE rotates halves (the Hugging Face Llama layout): dimension d pairs with d + rope_dim/2.
// For mha, gqa and swa with rope_dim < head_dim the first rope_dim dimensions of a head rotate; for mla a
// head is [nope; rope].
typedef enum {
    INIT_NORMAL, INIT_ONE, INIT_HALF, INIT_ZERO, INIT_VALUE, INIT_DECAY_RATE, INIT_DECAY_SHIFT
} InitKind;
typedef struct {
    char name[96];
    size_t rank, shape[3], size;
    InitKind init; double std; // std: of INIT_NORMAL; the value of INIT_VALUE
    bool decay;                // weight decay: matrices only
    bool trained;              // false: a buffer (the state of a router)
    int layer;                 // -1: not of a block
    size_t at;                 // first element in the arenas of parameters, gradients and moments
} Param;

typedef struct Model Model;

// Sizes without allocating anything: for --dry-run and the banner.
typedef struct {
    size_t parameters, active_parameters;       // active: per token (experts not chosen left out)
    double flops_per_token;                     // forward and backward: 6 per weight used, causal attention at half
    size_t parameter_bytes, gradient_bytes, moment_bytes, packed_bytes, activation_bytes;
    size_t workspace_bytes;                     // scratch memory of products and attention, with all threads
    size_t cache_bytes_per_token, state_bytes;  // of a sequence: what grows with it, and what does not (swa, linear)
} ModelSize;

Model *model_new(const Config *config, bool training);  // resolved config; parameters initialised from config->seed
void model_free(Model *m);
ModelSize model_size(const Config *config);
const Config *model_config(const Model *m);
size_t model_params(const Model *m, const Param **rows);     // the table
real *model_values(Model *m);                                // arena of parameters: row i at rows[i].at
real *model_gradients(Model *m);                             // arena of gradients, same layout
const Param *model_find(const Model *m, const char *name);   // NULL if absent
void model_changed(Model *m);                     // call after writing to the values: packed copies are stale

// ---- training ----------------------------------------------------------------------------------
// Statistics of the routers, summed over the forwards since model_zero_gradients.
typedef struct {
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

void model_zero_gradients(Model *m);
// Forward and backward of B rows of T tokens; gradients are added to. targets of -1 are not scored.
// token_scale = 1 / scored tokens of the whole step, row_scale = 1 / rows of the whole step (for the
// routers' losses), so that micro-batches add up to the batch bit for bit.
// row_loss[b] = sum over the row of -log p(target), in nats (not scaled).
void model_forward_backward(Model *m, const int *tokens, const int *targets, size_t B, size_t T,
                            double token_scale, double row_scale, double *row_loss);
// After the last micro-batch: folds in what is kept apart until then (the tied embedding).
void model_finish_gradients(Model *m);
// Sum of squares of the residual stream after a layer, over the `rows` rows of the last model_forward_backward.
double model_residual_squares(const Model *m, size_t layer, size_t rows);
// From now on forwards pass this layer by, as if it were not there, to see what it is good for; layers: none.
void model_drop_layer(Model *m, size_t layer);
// Forward only. row_loss as above; if hit is not NULL, hit[b*T+t] tells whether the most probable
// token is the target.
void model_evaluate(Model *m, const int *tokens, const int *targets, size_t B, size_t T, double *row_loss, bool *hit);

// ---- inference ---------------------------------------------------------------------------------
// A cache for `rows` sequences of the same length, of up to `capacity` tokens each: keys and values after RoPE
// for mha, gqa and swa (of its window), latent and rotated key for mla (decoded with absorbed matrices), a state for
// linear mixers.
typedef struct Cache Cache;
Cache *cache_new(const Model *m, size_t rows, size_t capacity);
// A cache of `rows` sequences that all go on from the first one in c. No number of a row depends on another row
// of its batch, so these are the bits that every row would have got from reading those tokens itself.
Cache *cache_repeat(const Model *m, const Cache *c, size_t rows);
void cache_free(Cache *c);
size_t cache_length(const Cache *c);
// Forgets all but the first `length` tokens; fails where a window has moved on by more than a tile since then, or
// where there is a recurrent state, which can only forget everything.
void cache_rewind(Cache *c, size_t length);
// n new tokens, [rows, n], after what the cache holds. logits, for each row's last token only: [rows, V]; or, with
// all_logits, for every new token: [rows, n, V]. cache == NULL: one row, no past, nothing kept.
void model_infer(Model *m, Cache *cache, const int *tokens, size_t n, bool all_logits, real *logits);
// Stretches the rotations of --pos rope (ops.h). A cache that was filled before is of no use any more.
void model_scale_rope(Model *m, RopeScaling s);
// Attention weights of the last model_infer when asked for: probability[layer][head][query][key] of an
// n x n map, filled during a model_infer with cache == NULL. NULL switches it off. Of a linear mixer: the shares that
// the values have in the output.
void model_record_attention(Model *m, real *probability);
// Likewise state[layer][i][head][K][V]: the recurrent states after the tokens token[0] < token[1] < ... < n
// (K = state_dim, V = head_dim); of layers without any it is left alone.
void model_record_states(Model *m, real *state, const size_t *token, size_t count);
// Likewise expert[layer][token]: the expert with the largest weight in the token's output, -1 where there is none.
void model_record_experts(Model *m, int *expert);
#endif

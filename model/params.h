// params.h: the table of parameters, one row per tensor. The rows drive sizing, init, checkpoints, the optimizer's
// groups, the gradient check, the digest and the printed summary.
//
// Names (i is the layer), shapes in [out, in] order:
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
#ifndef PARAMS_H
#define PARAMS_H
#include "config/config.h"

typedef enum {
    INIT_NORMAL, INIT_ONE, INIT_HALF, INIT_ZERO, INIT_VALUE, INIT_DECAY_RATE, INIT_DECAY_SHIFT
} InitKind;
typedef struct {
    char name[96];
    size_t rank, shape[3], size;
    InitKind init; double std; // std: of INIT_NORMAL; the value of INIT_VALUE
    bool decay;                // weight decay: matrices only
    bool trained;              // false: a buffer (the state of a router)
    int layer;                 // -1: not of a layer
    size_t offset;             // first element in the arenas of parameters, gradients and moments
} Param;

typedef struct Model Model;

size_t model_params(const Model *m, const Param **params);   // the table
size_t model_numbers(const Model *m);                        // elements of all parameters together
real *model_values(Model *m);                                // arena of parameters: row i begins at its offset
real *model_rounded_values(Model *m);                        // what it computes with: the same, or by --quant
bool model_rounds(const Config *c, const Param *p);          // whether --quant concerns a tensor
void model_round(const Config *c, const Param *p, real *out, const real *exact);   // what it makes of such a tensor
real *model_gradients(Model *m);                             // arena of gradients, same layout
const Param *model_find(const Model *m, const char *name);   // NULL if absent
void model_changed(Model *m);                     // call after writing to the values: packed copies are stale
// Likewise, of a training that has done `steps` steps: weights are not rounded before --qat-start.
void model_changed_after(Model *m, size_t steps);
bool model_fits_quant(const Model *m);           // whether --quant, where it rounds by now, holds all weights
void model_use_exact(Model *m, bool exact);       // from now on weights are exact, whatever --quant says; or not

// Values of the whole table, from the seed.
void init_values(Model *m);
#endif

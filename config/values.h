// values.h: the words that flags take. Each list is declared once: the constants and the words on the command line
// come from it.
#ifndef VALUES_H
#define VALUES_H

// The synthetic languages of data/; --data takes one of them, or a file.
#define DATA_SOURCES(X) X(stories) X(markov) X(iid) X(recall) X(induction) X(copy) X(facts) X(khop)
#define SOURCE_WORD(name) #name "|"

#define ATTN_VALUES(X)        X(ATTN, mha) X(ATTN, gqa) X(ATTN, mla) X(ATTN, swa) X(ATTN, linear) X(ATTN, gla) \
                              X(ATTN, delta) X(ATTN, gated_delta) X(ATTN, mamba2)
#define ATTN_KERNEL_VALUES(X) X(KERNEL, naive) X(KERNEL, band) X(KERNEL, flash)
#define FEATURE_MAP_VALUES(X) X(FEATURE_MAP, elu) X(FEATURE_MAP, unit)
#define QK_NORM_VALUES(X)     X(QK, none) X(QK, head) X(QK, full)
#define POS_VALUES(X)         X(POS, rope) X(POS, learned) X(POS, none) X(POS, alibi)
#define NORM_VALUES(X)        X(NORM, pre) X(NORM, post) X(NORM, out) X(NORM, peri) X(NORM, deepnorm) \
                              X(NORM, keel) X(NORM, none)
#define NORM_KIND_VALUES(X)   X(NORM_KIND, rms) X(NORM_KIND, layer) X(NORM_KIND, dyt)
#define FFN_VALUES(X)         X(FFN, swiglu) X(FFN, gelu) X(FFN, relu2)
#define MOE_LAYER_VALUES(X)   X(MOE_LAYER, dense) X(MOE_LAYER, moe)
#define GATE_VALUES(X)        X(GATE, softmax) X(GATE, sigmoid)
#define ROUTER_VALUES(X)      X(ROUTER, topk) X(ROUTER, bias) X(ROUTER, expert_choice) X(ROUTER, threshold) \
                              X(ROUTER, relu) X(ROUTER, hash) X(ROUTER, soft) X(ROUTER, dense)
#define DRAFT_LOSS_VALUES(X) X(DRAFT_LOSS, ce) X(DRAFT_LOSS, kl) X(DRAFT_LOSS, tv)
#define QUANT_VALUES(X)       X(WEIGHTS, none) X(WEIGHTS, int8) X(WEIGHTS, q8_0) X(WEIGHTS, q4_0) X(WEIGHTS, int4) \
                              X(WEIGHTS, int4_full) X(WEIGHTS, int4_asym) X(WEIGHTS, int3) X(WEIGHTS, int2) \
                              X(WEIGHTS, ternary) X(WEIGHTS, mxfp4) X(WEIGHTS, nvfp4)
#define QUANT_ACT_VALUES(X)   X(QUANT_ACT, none) X(QUANT_ACT, int8) X(QUANT_ACT, int4)
#define WEIGHT_BITS_VALUES(X) X(WEIGHT_BITS, none) X(WEIGHT_BITS, 8) X(WEIGHT_BITS, 4) X(WEIGHT_BITS, 3) \
                              X(WEIGHT_BITS, 2)
#define GROUP_VALUES(X)       X(GROUP, 32) X(GROUP, row)
#define MX_SCALE_VALUES(X)    X(MX_SCALE, floor) X(MX_SCALE, even) X(MX_SCALE, rceil)
#define SCHEDULE_VALUES(X)    X(SCHEDULE, cosine) X(SCHEDULE, linear) X(SCHEDULE, wsd) X(SCHEDULE, constant)
#define ROPE_SCALING_VALUES(X) X(ROPE_SCALING, none) X(ROPE_SCALING, linear) X(ROPE_SCALING, ntk) \
                               X(ROPE_SCALING, yarn) X(ROPE_SCALING, llama3) X(ROPE_SCALING, dynamic)
#define ROPE_LAYER_VALUES(X)  X(ROPE_LAYER, rope) X(ROPE_LAYER, none)
#define ATTN_BIAS_VALUES(X)   X(ATTN_BIAS, auto) X(ATTN_BIAS, none) X(ATTN_BIAS, qkv) X(ATTN_BIAS, all)
#define FFN_BIAS_VALUES(X)    X(FFN_BIAS, auto) X(FFN_BIAS, none) X(FFN_BIAS, all)
#define GROUP_SCORE_VALUES(X) X(GROUP_SCORE, top2) X(GROUP_SCORE, max)
#define SAVE_DTYPE_VALUES(X)  X(SAVE_DTYPE, f32) X(SAVE_DTYPE, bf16)
#define DRY_RUN_VALUES(X)     X(DRY_RUN, no) X(DRY_RUN, text) X(DRY_RUN, json)
#define ARRIVALS_VALUES(X)    X(ARRIVALS, poisson) X(ARRIVALS, bursts) X(ARRIVALS, closed)
#define LENGTHS_VALUES(X)     X(LENGTHS, uniform) X(LENGTHS, lognormal)
#define SCHED_VALUES(X)       X(SCHED, continuous) X(SCHED, static) X(SCHED, padded)
#define ADMIT_VALUES(X)       X(ADMIT, chunk) X(ADMIT, prompt) X(ADMIT, full)
#define VICTIM_VALUES(X)      X(VICTIM, last) X(VICTIM, least_computed)
#define CHAT_VALUES(X)        X(CHAT, auto) X(CHAT, plain) X(CHAT, chatml) X(CHAT, llama3)
#define CLOCK_VALUES(X)       X(CLOCK, real) X(CLOCK, model) X(CLOCK, both)
#define ACCEPT_VALUES(X)      X(ACCEPT, exact) X(ACCEPT, ratio)
#define PREEMPT_VALUES(X)     X(PREEMPT, recompute) X(PREEMPT, swap)
#define KV_POLICY_VALUES(X)   X(KV_POLICY, full) X(KV_POLICY, window) X(KV_POLICY, sink) X(KV_POLICY, random) \
                              X(KV_POLICY, h2o) X(KV_POLICY, snapkv) X(KV_POLICY, pool) X(KV_POLICY, oracle)
#define KV_POSITIONS_VALUES(X) X(KV_POSITIONS, true) X(KV_POSITIONS, packed)
#define KV_BITS_VALUES(X)     X(KV_BITS, 32) X(KV_BITS, 16) X(KV_BITS, 8) X(KV_BITS, 4) X(KV_BITS, 2)

// ATTN_mha, ATTN_gqa, ..., NORM_pre, ...: prefix_word.
#define CONFIG_CONSTANT(prefix, word) prefix##_##word,
enum { ATTN_VALUES(CONFIG_CONSTANT) };
enum { ATTN_KERNEL_VALUES(CONFIG_CONSTANT) };
enum { FEATURE_MAP_VALUES(CONFIG_CONSTANT) };
enum { QK_NORM_VALUES(CONFIG_CONSTANT) };
enum { POS_VALUES(CONFIG_CONSTANT) };
enum { NORM_VALUES(CONFIG_CONSTANT) };
enum { NORM_KIND_VALUES(CONFIG_CONSTANT) };
enum { FFN_VALUES(CONFIG_CONSTANT) };
enum { QUANT_VALUES(CONFIG_CONSTANT) };
enum { QUANT_ACT_VALUES(CONFIG_CONSTANT) };
enum { WEIGHT_BITS_VALUES(CONFIG_CONSTANT) };
enum { GROUP_VALUES(CONFIG_CONSTANT) };
enum { MX_SCALE_VALUES(CONFIG_CONSTANT) };
enum { MOE_LAYER_VALUES(CONFIG_CONSTANT) };
enum { GATE_VALUES(CONFIG_CONSTANT) };
enum { ROUTER_VALUES(CONFIG_CONSTANT) };
enum { DRAFT_LOSS_VALUES(CONFIG_CONSTANT) };
enum { SCHEDULE_VALUES(CONFIG_CONSTANT) };
enum { ROPE_SCALING_VALUES(CONFIG_CONSTANT) };
enum { ROPE_LAYER_VALUES(CONFIG_CONSTANT) };
enum { ATTN_BIAS_VALUES(CONFIG_CONSTANT) };
enum { FFN_BIAS_VALUES(CONFIG_CONSTANT) };
enum { GROUP_SCORE_VALUES(CONFIG_CONSTANT) };
enum { SAVE_DTYPE_VALUES(CONFIG_CONSTANT) };
enum { DRY_RUN_VALUES(CONFIG_CONSTANT) };
enum { ARRIVALS_VALUES(CONFIG_CONSTANT) };
enum { LENGTHS_VALUES(CONFIG_CONSTANT) };
enum { SCHED_VALUES(CONFIG_CONSTANT) };
enum { ADMIT_VALUES(CONFIG_CONSTANT) };
enum { VICTIM_VALUES(CONFIG_CONSTANT) };
enum { CHAT_VALUES(CONFIG_CONSTANT) };
enum { CLOCK_VALUES(CONFIG_CONSTANT) };
enum { ACCEPT_VALUES(CONFIG_CONSTANT) };
enum { PREEMPT_VALUES(CONFIG_CONSTANT) };
enum { KV_POLICY_VALUES(CONFIG_CONSTANT) };
enum { KV_POSITIONS_VALUES(CONFIG_CONSTANT) };
enum { KV_BITS_VALUES(CONFIG_CONSTANT) };
#endif

// layer.h: the inside of a model: what a layer is, what its forward keeps for its backward, and what a residual branch
// must be able to do. Users of the model need model.h only.
#ifndef LAYER_H
#define LAYER_H
#include "kernels/dispatch.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"
#include "model/cache.h"
#include "model/table.h"

// ---- a layer -------------------------------------------------------------------------------------
// Two branches on the residual stream, a sequence mixer and a feed-forward, each with its norms.

// The norms around a branch F of the stream x; those that are on decide the placement:
//   x + out(F(in(x))), or with of_sum: out(skip x + F(in(x)))
typedef struct { Norm in, out; bool of_sum; double skip; } BranchNorms;

typedef struct { Linear up, down; } Dense;             // up holds gate, then up (swiglu)
typedef struct Branch Branch;
typedef struct {
    int attn;
    bool has_experts;
    const Branch *mixer, *ffn;
    BranchNorms mixer_norm, ffn_norm;
    size_t H, KV, D, P, Dv;                // D: width of a query and key; P of them rotated; Dv: width of a value
    size_t F;                              // width of the dense feed-forward or of one expert
    Linear o;                              // from all heads' outputs to the stream
    Linear gate;                           // of softmax attention's output (--attn-gate)
    struct {                               // mha, gqa, swa
        Linear qkv;                        // rows of q, then k, then v
        Norm q_norm, k_norm;
        size_t window, cache_slots;        // swa: positions a query sees; slots of its cache
    } mha;
    struct {
        Linear q, q_a, q_b, kv_a, kv_b;
        Norm q_a_norm, kv_a_norm;
        size_t absorbed_k, absorbed_v;     // for inference: W_UK and W_UV of each head, among the packed weights
    } mla;
    struct {
        Linear qkv, decay_b;               // qkv: rows of q, k, v, then those of the gates (see linear.c)
        Norm o_norm;
        size_t taps, conv, decay_rate, decay_shift, skip;      // taps: of the convolution, whose weight is conv
        bool unit_keys;                    // of linear: the keys of delta
    } linear;
    Dense dense;
    struct {
        Linear router, gate, up, down;     // gate, up, down: of the experts
        Dense shared;
        size_t router_state;               // the biases or thresholds of a router, or NOWHERE
    } moe;
} Layer;

// ---- what the forward keeps for the backward -----------------------------------------------------
// M = B*T rows.
typedef struct { real *mean, *rstd; } NormActs;        // [M * groups] (mean: LayerNorm only)
typedef struct { real *x, *h, *f, *sum; NormActs in, out; } BranchActs;   // [M,C] before, after the inner norm, F, sum
typedef struct { real *up, *hidden; } DenseActs;       // [M,2F or F], [M,F]
typedef struct { real *qkv, *qkv_raw; NormActs q_norm, k_norm; } MhaActs;     // [M,(H+2KV)D], before qk-norm
typedef struct {
    real *q_a, *q_c; NormActs q_a_norm;    // [M,Rq] before and after its norm
    real *q, *kv_a, *c; NormActs kv_a_norm;            // [M,H*D], [M,R+P], [M,R]
    real *kv, *k;                          // [M,H*(N+Dv)], [M,H*D]
    real *latent_q, *latent_out;           // inference: [M,H*(R+P)], [M,H*R]
} MlaActs;
typedef struct {                           // of mha and of mla
    real *out, *lse, *probability;         // [M,H*Dv], [B,H,T], naive and band: [B,H,T,T]
    real *gate, *gated;                    // --attn-gate: its logits, and the output times their sigmoid [M,H*Dv]
} SoftmaxActs;
typedef struct {
    real *qkv, *pre_silu, *convolved;      // [M, with all gates], convolved [M,H*(2D+Dv)], then silu
    real *features;                        // q, k mapped [M,2*H*D]
    real *beta, *decay, *decay_a, *decay_b;            // [M,H], [M,H] or [M,H*D], [M,16], [M,H*D]
    real *states, *out, *sum, *normed, *gated;         // of each chunk, [M,H*Dv], [M,H], [M,H*Dv] twice
    NormActs o_norm;
} LinearActs;
typedef struct {
    Routing routing; Mixing mixing;
    real *logits, *sorted, *up, *hidden, *out;         // copies sorted by expert and what becomes of them
    DenseActs shared; real *shared_out;
} MoeActs;
typedef struct {
    BranchActs mixer_norm, ffn_norm;
    SoftmaxActs softmax; MhaActs mha; MlaActs mla; LinearActs linear;
    DenseActs dense; MoeActs moe;
} LayerActs;

// Gradients that live only while one layer goes backward; layers share the memory.
typedef struct { real *dqkv, *dout, *dgated, *dfeatures, *dconvolved, *dbeta, *dlog_decay, *ddecay_a, *ddecay_b;
} LinearGrads;
typedef struct {
    real *dsum, *df, *dh;                  // [M,C]
    struct { real *dout, *dgated; } softmax;           // [M,H*Dv]
    struct { real *dqkv; } mha;
    struct { real *dq, *dk, *dkv, *dc, *dkv_a, *dq_c, *dq_a; } mla;
    LinearGrads linear;
    DenseActs ddense;                      // of the dense feed-forward, or of the shared experts
    struct { real *dlogits, *dweight, *dout, *dhidden, *dup, *dsorted; Mixing dmixing; } moe;
} LayerGrads;

// ---- the model -----------------------------------------------------------------------------------
typedef struct {
    size_t B, T, M;                        // M = B*T rows
    const int *tokens;                     // [M]
    double row_scale;                      // 1 / rows of the whole step, for the routers' losses
    bool keep;                             // a backward will follow
    bool inference;                        // of a text that goes on: no router may look at later tokens
    struct { Blocks *blocks; const Row *row; size_t rows; } paged;     // of a step: rows of any length
} Batch;

// A part of a batch that has one past: all of it, or one row of a step. B sequences of T tokens, from token `at` on.
typedef struct { size_t i, at, B, T, past; } Part;
static inline Part part_at(const Batch *b, size_t i, size_t at) {
    if (!b->paged.rows) return (Part){i, at, b->B, i ? 0 : b->T, 0};
    if (i == b->paged.rows) return (Part){i, at, 0, 0, 0};
    return (Part){i, at, 1, b->paged.row[i].n, b->paged.row[i].past};
}
static inline Part first_part(const Batch *b) { return part_at(b, 0, 0); }
static inline Part next_part(const Batch *b, Part p) { return part_at(b, p.i + 1, p.at + p.B * p.T); }
#define EACH_PART(p, b) (Part p = first_part(b); p.T; p = next_part(b, p))

typedef struct RouterStats RouterStats;    // moe.h
typedef struct QuantPiece QuantPiece;      // packed.h
struct Model {
    Config c;
    bool training;
    Param *params; size_t count, capacity;
    InitStds std;
    Layer *layers;
    size_t embed, pos; Norm final_norm; Linear head;
    Linear *packs; size_t pack_count, pack_capacity;   // every matrix to be packed
    size_t total, packed_total;
    struct {                               // see packed.h
        QuantPiece *piece; size_t count, capacity;
        size_t bytes, embed_bytes;         // of the packed pieces, of the embedding's rows
        unsigned char *embed; float embed_scale;
        Arena arena;
        bool done;                         // the floats have been given back
    } integers;
    Arena parameter_arena, rounded_arena, packed_arena, gradient_arena, activation_arena;
    real *master, *values, *packed, *gradients, *tied_gradient;     // values: master, or rounded (rounding.h)
    bool packed_fresh, absorbed_fresh, exact, exact_asked;       // exact: weights are not rounded yet
    struct { size_t B, T; bool keep; } allocated;      // what there are activations for
    real **x;                              // 2L+1 states of the residual stream, [M,C]
    LayerActs *acts; LayerGrads *layer_grads, grads;   // grads: those of the layer that goes backward now
    NormActs final;
    real *hidden, *dx, *dhidden, *logits, *branch;     // branch: F(h) where it need not be kept
    double *token_loss;
    size_t head_rows;                      // rows of logits at a time
    real *cosine[2], *sine[2]; size_t rope_positions;  // [0]: mha, gqa, swa, [1]: mla
    RopeScaling rope_scaling;
    real *slopes;                          // of ALiBi [H], or NULL
    RouterStats *stats; double *load;
    size_t router_l1;                      // --router relu: the weight of its L1 norm
    real **seen_scores;                    // --router threshold: [layers][tokens of the step, E]
    struct {                               // see model_record_attention and its kin
        real *attention, *state; int *experts;
        const size_t *token; size_t states;            // the tokens after which states are recorded
    } record;
    size_t dropped_layer;                  // that forward passes by; L: none
    bool routes_alone;                     // in model_evaluate
    struct {                               // see model_learn_from
        Model *model; int loss;            // DRAFT_LOSS_...
        real *logits; size_t rows;         // [rows, V]
        double *agreement; size_t tokens;  // [tokens]
    } teacher;
};

// ---- a branch ------------------------------------------------------------------------------------
// A residual branch F: out [M,C] = F(x [M,C]); the backward sets dx and adds to the gradients.
typedef void BranchForward(Model *m, size_t l, real *out, const real *x, const Batch *b);
typedef void BranchBackward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b);
// Numbers that a cache holds of a sequence: in k and in v for each token and head, in state however long it is.
typedef struct { size_t heads, k, v, state; } CacheNeed;

// What a branch is: the mixers of attention.h and linear.h, the dense feed-forward of model.c, the experts of moe.h.
// Layouts walk an arena, measuring or taking (lib/util.h).
struct Branch {
    void (*add_params)(Model *m, Layer *layer, int l);                // adds the rows, fills in the Layer
    void (*layout_acts)(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                        bool keep);
    void (*layout_grads)(const Model *m, const Layer *layer, LayerGrads *grads, Arena *arena, size_t B, size_t T);
    BranchForward *forward; BranchBackward *backward;                 // training and steps (b->paged)
    CacheNeed (*cache)(const Layer *layer);                           // NULL: keeps nothing of the past
    double (*flops)(const Model *m, const Layer *layer, size_t T);    // per token, beyond 6 per weight; NULL: none
    // Numbers of scratch memory beyond those of the products over all rows, and the rows that stacked products
    // (experts) can get. NULL: none.
    size_t (*workspace)(const Model *m, const Layer *layer, size_t T);
    size_t (*stacked_rows)(const Model *m, size_t B, size_t T, bool keep);
};

static inline real *take(Arena *a, size_t numbers) { return arena_take(a, size_mul(numbers, sizeof(real))); }
static inline NormActs take_rms_norm(Arena *a, size_t numbers) { return (NormActs){.rstd = take(a, numbers)}; }
static inline NormActs take_norm(Arena *a, size_t numbers) {
    real *mean = take(a, numbers);
    return (NormActs){mean, take(a, numbers)};
}
#endif

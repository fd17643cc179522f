// layer.h: the inside of a model: how its parameters, activations and layers are laid out, shared by
// model.c (table, residual stream, loss), block.c (what happens inside a residual branch), the sequence mixers
// and the mixture of experts (moe.c). Users of the model need model.h only.
#ifndef LAYER_H
#define LAYER_H
#include "model.h"
#include "router.h"

#define NOWHERE ((size_t)-1)

// Offsets into the arenas of parameters and gradients, and of packed weights.
typedef struct { size_t at, bias, packed, N, K, count; } Linear;    // count matrices [N,K] (experts: E)
// center: LayerNorm; dyt: dynamic tanh, whose one number stands at alpha; else RMSNorm
typedef struct { size_t w, b, alpha, C; double eps; bool on, center, dyt; } Norm;

// The norms around a residual branch F of the stream x; those that are on decide the placement:
//   x + out(F(in(x))), or with of_sum: out(skip x + F(in(x)))
typedef struct { Norm in, out; bool of_sum; double skip; } BranchNorms;

typedef struct Mixer Mixer;
typedef struct {
    int attn; bool moe;
    const Mixer *mixer;
    size_t H, KV, D, P, Dv;                // D: width of a query and key; P of them rotated; Dv: width of a value
    size_t window, room;                   // swa: positions a query sees; slots of a cache
    size_t F;                              // width of the dense feed-forward or of one expert
    BranchNorms attn_norm, ffn_norm;
    Linear qkv, o;                         // mha, gqa, swa: rows of q, then k, then v; linear mixers: and gates
    Norm q_norm, k_norm;
    Linear gate;                           // of softmax attention's output (--attn-gate)
    Linear q, q_a, q_b, kv_a, kv_b;        // mla
    Norm q_a_norm, kv_a_norm;
    Linear up, down;                       // dense: up holds gate, then up (swiglu)
    Linear router, gate_e, up_e, down_e, shared_up, shared_down;
    size_t router_state;                   // the biases or thresholds of a router
    Linear decay_b; Norm o_norm;           // linear mixers; taps: of the convolution, whose weight is conv
    size_t taps, conv, decay_rate, decay_shift, skip;
    size_t absorbed_k, absorbed_v;         // mla decoding: packed W_UK and W_UV of each head, in the packed arena
} Layer;

// What the forward keeps for the backward. M = B*T rows.
typedef struct { real *x, *h, *f, *sum, *mean_in, *rstd_in, *mean_out, *rstd_out; } BranchActs;
typedef struct {
    BranchActs attn, ffn;
    real *qkv, *qkv_raw;                   // [M,(H+2KV)D], before qk-norm
    real *q_rstd, *k_rstd;
    real *out, *lse, *probability;         // [M,H*Dv], [B,H,T], naive: [B,H,T,T]
    real *gate, *gated;                    // --attn-gate: its logits, and the output times their sigmoid [M,H*Dv]
    real *q_a, *q_c, *q_c_rstd;            // mla: [M,Rq] before and after its norm
    real *q, *kv_a, *c, *c_rstd, *kv, *k;  // [M,H*D], [M,R+P], [M,R], [M], [M,H*(N+Dv)], [M,H*D]
    real *latent_q, *latent_out;           // mla decoding: [M,H*(R+P)], [M,H*R]
    real *before, *mixed, *features;       // linear mixers: convolved, then silu [M,H*(2D+Dv)]; q, k mapped [M,2*H*D]
    real *beta, *decay, *decay_a, *decay_b;// [M,H], [M,H] or [M,H*D], [M,16], [M,H*D]
    real *states, *sum, *normed, *out_rstd;            // of each chunk; [M,H], [M,H*Dv], [M,H]; gated as above
    real *up, *hidden;                     // [M,2F or F], [M,F]
    Routing routing; Mixing mixing;
    real *logits, *sorted, *up_e, *hidden_e, *out_e, *shared_up, *shared_hidden, *shared_out;
} LayerActs;

// Gradients that live only while one layer goes backward; layers share the memory.
typedef struct {
    real *dsum, *df, *dh;                  // [M,C]
    real *dqkv, *dout, *dq, *dkv, *dc, *dkv_a, *dq_c, *dq_a;
    real *dgated, *dfeatures, *dmixed, *dbeta, *dlog, *ddecay_a, *ddecay_b;
    real *dup, *dhidden, *dlogits, *dweight, *dsorted_out, *dhidden_e, *dup_e, *dsorted;
    Mixing dmixing;
} LayerGrads;

// k and v of layer l: [rows, key heads, room[l], D] from position first[l] on, so that decoding reads a head's past
// from one end to the other; mla: k holds [latent | rotated key], as of one head, v is NULL. The room is the capacity,
// but for swa, which drops what its window has left behind. Linear mixers have neither, but a state [rows, numbers]
// that stays as large as it is.
struct Cache {
    size_t rows, length, capacity, layers, *room, *first, *window, *state_size;
    real **k, **v, **state;
    Arena arena;
};

typedef struct {
    size_t B, T, M, past;                  // M = B*T rows; past: tokens before them in the cache
    const int *tokens;                     // [M]
    Cache *cache;                          // or NULL
    double row_scale;                      // 1 / rows of the whole step, for the routers' losses
    bool keep;                             // a backward will follow
    bool writing;                          // a text is being written: no router may look at other tokens
} Batch;

struct Model {
    Config c;
    bool training;
    Param *rows; size_t count, room;
    Layer *layers;
    size_t embed, pos, head; Norm final_norm; Linear head_linear;
    Linear *packs; size_t pack_count, pack_room;   // every matrix to be packed
    size_t total, packed_total;
    Arena parameter_arena, packed_arena, gradient_arena, activation_arena;
    real *values, *packed, *gradients, *tied_gradient;
    bool packed_fresh, absorbed_fresh;
    // activations for up to room_B rows of room_T tokens
    size_t room_B, room_T; bool room_keep;
    real **x;                              // 2L+1 states of the residual stream, [M,C]
    LayerActs *acts; LayerGrads *layer_grads, grads;   // grads: those of the layer that goes backward now
    real *hidden, *final_mean, *final_rstd, *dx, *dhidden, *logits, *branch;  // branch: F(h) where it need not be kept
    double *token_loss;
    size_t head_rows;                      // rows of logits at a time
    real *cosine[2], *sine[2]; size_t rope_positions;   // [0]: mha, gqa, swa, [1]: mla
    RopeScaling rope_scaling;
    real *slopes;                          // of ALiBi [H], or NULL
    RouterStats *stats; double *load;
    size_t router_l1;                      // --router relu: the weight of its L1 norm
    real **seen;                           // --router threshold: [layers][tokens of the step, E] scores
    real *record, *record_states; int *record_experts;
    const size_t *look; size_t looks;      // the tokens after which states are recorded
    size_t dropped;                        // a layer that forward passes by; L: none
};

// A residual branch F: y [M,C] = F(x [M,C]); backward sets dx and adds to the gradients.
typedef void BranchForward(Model *m, size_t l, real *y, const real *x, const Batch *b);
typedef void BranchBackward(Model *m, size_t l, real *dx, const real *dy, const real *x, const Batch *b);
BranchForward ffn_block_forward, moe_forward;
BranchBackward ffn_block_backward, moe_backward;

// Standard deviations at init, of matrices in different places (model.c).
typedef struct { double plain, value, residual, ffn; } Deviations;
// Numbers that a cache holds of a sequence: in k and in v for each token and head, in state however long it is.
typedef struct { size_t heads, k, v, state; } CacheNeed;

// What a sequence mixer is. Its output matrix (o) is declared by model.c, after its own parameters.
struct Mixer {
    void (*parameters)(Model *m, int l, Layer *y, Deviations d);      // adds the rows, fills in the Layer
    void (*layout_acts)(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep);
    void (*layout_grads)(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T);
    BranchForward *forward; BranchBackward *backward;                 // training, prefill and decoding (b->cache)
    CacheNeed (*cache)(const Layer *y);
    double (*flops)(const Layer *y, size_t T);                        // per token of a step, beyond 6 per weight
    size_t (*workspace)(const Model *m, const Layer *y, size_t T);    // numbers, beyond those of products; NULL: none
};
extern const Mixer mixer_mha, mixer_mla, mixer_linear;
const Mixer *mixer_of(int attn);

// Lays out what the branches of layer l keep, and what their backward needs; measuring or taking (util.h).
void block_layout_acts(const Model *m, size_t l, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep);
void block_layout_grads(const Model *m, size_t l, LayerGrads *g, Arena *arena, size_t B, size_t T);

// The mixture of experts (moe.c).
void moe_layout_acts(const Model *m, const Layer *y, LayerActs *a, Arena *arena, size_t B, size_t T, bool keep);
void moe_layout_grads(const Model *m, const Layer *y, LayerGrads *g, Arena *arena, size_t B, size_t T);
// Rows that the experts can get: with a backward to follow those of a batch, else also those of tokens on their own.
size_t moe_rows(const Model *m, size_t B, size_t T, bool keep);
double moe_mixing_flops(const Model *m, const Layer *y);   // of a step, per token, beyond 6 per weight

// Rows of the table of parameters. add_linear: one product of several weights that stand side by side.
typedef struct { const char *name; size_t rows; double std; } Part;
size_t add_matrix(Model *m, int layer, const char *name, size_t N, size_t K, double std);
size_t add_vector(Model *m, int layer, const char *name, size_t N, InitKind init);
Linear add_linear(Model *m, int layer, const Part *part, size_t parts, size_t K, bool bias);
size_t add_packed(Model *m, size_t numbers);   // room among the packed weights: where it begins
Norm add_rms_norm(Model *m, int layer, const char *name, size_t C, double eps);   // RMSNorm whatever --norm-kind is

// The pieces of a branch.
void apply(const Model *m, real *y, const Linear *l, const real *x, size_t M);
void apply_backward(Model *m, real *dx, const real *dy, const Linear *l, const real *x, size_t M, bool accumulate);
void activation_forward(const Model *m, real *y, const real *x, size_t M, size_t F);
void activation_backward(const Model *m, real *dx, const real *dy, const real *x, size_t M, size_t F);
size_t up_width(const Model *m, size_t F);         // of what an activation of width F reads: swiglu has a gate
void dense_forward(Model *m, const Linear *up, const Linear *down, real *out, real *up_out, real *hidden, const real *x,
                   size_t M);
void dense_backward(Model *m, const Linear *up, const Linear *down, real *dx, const real *dy, const real *up_out,
                    const real *hidden, const real *x, size_t M, bool accumulate);
void normalise(const Model *m, real *y, size_t y_stride, real *mean, real *rstd, const real *x, size_t x_stride,
               const Norm *n, size_t M, size_t groups);
void normalise_backward(Model *m, real *dx, const real *dy, size_t y_stride, const real *mean, const real *rstd,
                        const real *x, size_t x_stride, const Norm *n, size_t M, size_t groups, bool accumulate);
static inline real *take(Arena *a, size_t numbers) { return arena_take(a, size_mul(numbers, sizeof(real))); }
#endif

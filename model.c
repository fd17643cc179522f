// model.c: the GPT whose whole architecture is flags: the table of parameters, their initial values,
// the residual stream with its norms, the output head and loss, forward and backward, and inference
// with a cache. What happens inside a residual branch is in model/block.c.
#include "kernels/attention.h"
#include "model/layer.h"
#include "kernels/matmul.h"
#include "lib/numeric.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "lib/rng.h"
#include "lib/simd.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the table of parameters ---------------------------------------------------------------------

// Room for numbers behind `total` others: where it begins. From 2^58 on, bytes of gradients and moments could
// not be counted any more.
static size_t add_numbers(size_t *total, size_t numbers) {
    size_t at = *total;
    if (numbers > ((size_t)1 << 58) - at) fail("the parameters are larger than any memory; choose smaller sizes");
    *total += numbers;
    return at;
}
size_t add_packed(Model *m, size_t numbers) { return add_numbers(&m->packed_total, numbers); }

static Param *add_row(Model *m, int layer, const char *name, size_t rank, const size_t *shape, InitKind init,
                      double std) {
    if (m->count == m->room) {
        m->room = m->room ? 2 * m->room : 64;
        m->rows = xrealloc(m->rows, m->room * sizeof *m->rows);
    }
    Param *p = &m->rows[m->count++];
    *p = (Param){.rank = rank, .size = 1, .init = init, .std = std, .decay = rank > 1, .trained = true, .layer = layer,
                 .at = m->total};
    if (layer < 0) snprintf(p->name, sizeof p->name, "%s", name);
    else snprintf(p->name, sizeof p->name, "layers.%d.%s", layer, name);
    for (size_t i = 0; i < rank; i++) p->shape[i] = shape[i], p->size = size_mul(p->size, shape[i]);
    add_numbers(&m->total, p->size);
    return p;
}

size_t add_matrix(Model *m, int layer, const char *name, size_t N, size_t K, double std) {
    return add_row(m, layer, name, 2, (size_t[]){N, K}, INIT_NORMAL, std)->at;
}
size_t add_vector(Model *m, int layer, const char *name, size_t N, InitKind init) {
    return add_row(m, layer, name, 1, (size_t[]){N}, init, 0)->at;
}

// Registers matrices [N,K] that stand at `at` for packing, and makes them a Linear.
static Linear pack_later(Model *m, size_t at, size_t bias, size_t N, size_t K, size_t count) {
    size_t packed = add_packed(m, size_mul(packed_size(K, N), count));
    Linear l = {.at = at, .bias = bias, .packed = packed, .N = N, .K = K, .count = count};
    if (m->pack_count == m->pack_room) {
        m->pack_room = m->pack_room ? 2 * m->pack_room : 64;
        m->packs = xrealloc(m->packs, m->pack_room * sizeof *m->packs);
    }
    return m->packs[m->pack_count++] = l;
}

Linear add_linear(Model *m, int layer, const Part *part, size_t parts, size_t K, bool bias) {
    size_t at = m->total, bias_at = NOWHERE, N = 0;
    char name[64];
    for (size_t i = 0; i < parts; i++) {
        snprintf(name, sizeof name, "%s.weight", part[i].name);
        add_matrix(m, layer, name, part[i].rows, K, part[i].std);
        N += part[i].rows;
    }
    for (size_t i = 0; i < parts && bias; i++) {
        snprintf(name, sizeof name, "%s.bias", part[i].name);
        size_t here = add_vector(m, layer, name, part[i].rows, INIT_ZERO);
        if (!i) bias_at = here;
    }
    return pack_later(m, at, bias_at, N, K, 1);
}

static Linear add_experts(Model *m, int layer, const char *name, size_t N, size_t K, double std) {
    size_t at = add_row(m, layer, name, 3, (size_t[]){m->c.experts, N, K}, INIT_NORMAL, std)->at;
    return pack_later(m, at, NOWHERE, N, K, m->c.experts);
}

// A norm over C numbers: LayerNorm, RMSNorm or dynamic tanh, as asked.
static Norm add_norm(Model *m, int layer, const char *name, size_t C) {
    char full[64];
    bool center = m->c.norm_kind == NORM_KIND_layer, dyt = m->c.norm_kind == NORM_KIND_dyt;
    snprintf(full, sizeof full, "%s.weight", name);
    Norm n = {.w = add_vector(m, layer, full, C, INIT_ONE), .b = NOWHERE, .C = C, .eps = m->c.norm_eps, .on = true,
              .center = center, .dyt = dyt};
    snprintf(full, sizeof full, "%s.bias", name);
    if (dyt || (center && m->c.bias)) n.b = add_vector(m, layer, full, C, INIT_ZERO);
    snprintf(full, sizeof full, "%s.alpha", name);
    if (dyt) n.alpha = add_vector(m, layer, full, 1, INIT_HALF);     // the value of Zhu et al. 2025, section 4
    return n;
}
Norm add_rms_norm(Model *m, int layer, const char *name, size_t C, double eps) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    return (Norm){.w = add_vector(m, layer, full, C, INIT_ONE), .b = NOWHERE, .C = C, .eps = eps, .on = true};
}

// ---- the layers ----------------------------------------------------------------------------------

static bool stream_is_normalised(int norm) { return norm == NORM_post || norm == NORM_deepnorm || norm == NORM_keel; }

// Placements of the norms around a branch F (--norm):
//   pre x + F(Nx)  Xiong et al. 2020      post N(x + F(x))  Vaswani et al. 2017     out x + N(F(x))  OLMo 2 2025
//   peri x + N(F(Nx))  Kim et al. 2025    deepnorm N(a x + F(x)), a = (2L)^(1/4)  Wang et al. 2022
//   keel N(a x + F(Nx)), a = 2L, the number of branches  Chen and Wei 2026 (arXiv 2601.19895); the first branch is
//        pre and the second has a = 1, as in AI2's OLMo-core
//   none x + F(x)
// Where norms do not end a branch, final_norm ends the stream (but not of none).
static BranchNorms add_branch_norms(Model *m, int l, size_t branch, const char *in, const char *out) {
    int norm = m->c.norm;
    double branches = 2 * (double)m->c.layers;
    BranchNorms n = {.skip = 1};
    if (norm == NORM_deepnorm) n.skip = sqrt(sqrt(branches));
    if (norm == NORM_keel && branch > 1) n.skip = branches;
    bool first_of_keel = norm == NORM_keel && branch == 0;
    n.of_sum = stream_is_normalised(norm) && !first_of_keel;
    if (norm == NORM_pre || norm == NORM_peri || norm == NORM_keel) n.in = add_norm(m, l, in, m->c.width);
    if (n.of_sum || norm == NORM_out || norm == NORM_peri) n.out = add_norm(m, l, out, m->c.width);
    return n;
}

// Standard deviations at init: 0.02 everywhere; projections into the residual stream by 1/sqrt(2L)
// (GPT-2, section 2.3); DeepNorm (Wang et al. 2022, figure 2) instead scales v, o and the
// feed-forward by (8L)^(-1/4).
static Deviations deviations(const Config *c) {
    double s = 0.02 * c->init_scale, L = (double)c->layers, root = 1 / sqrt(2 * L), beta = sqrt(sqrt(1 / (8 * L)));
    if (c->norm == NORM_deepnorm) return (Deviations){s, s * beta, s * beta, s * beta};
    return (Deviations){s, s, s * root, s};
}

static void add_dense(Model *m, int l, const char *prefix, size_t F, bool bias, Deviations d, Linear *up,
                      Linear *down) {
    char gate[32], up_name[32], down_name[32];
    snprintf(gate, sizeof gate, "%s.gate", prefix), snprintf(up_name, sizeof up_name, "%s.up", prefix);
    snprintf(down_name, sizeof down_name, "%s.down", prefix);
    const Part parts[] = {{gate, F, d.ffn}, {up_name, F, d.ffn}};
    bool gated = m->c.ffn == FFN_swiglu;
    *up = add_linear(m, l, parts + !gated, 1 + gated, m->c.width, bias);
    *down = add_linear(m, l, (Part[]){{down_name, m->c.width, d.residual}}, 1, F, bias);
}

static void add_router(Model *m, int l, Layer *y, double std) {
    const Config *c = &m->c;
    size_t slots = c->router == ROUTER_soft ? config_pool_share(c) : 1;
    y->router_state = NOWHERE;
    if (c->router == ROUTER_hash) return;
    y->router = add_linear(m, l, (Part[]){{"moe.router", c->experts * slots, std}}, 1, c->width, false);
    if (c->router != ROUTER_bias && c->router != ROUTER_threshold) return;
    bool bias = c->router == ROUTER_bias;
    y->router_state = add_vector(m, l, bias ? "moe.router.bias" : "moe.router.threshold", c->experts,
                                 bias ? INIT_ZERO : INIT_VALUE);
    Param *p = &m->rows[m->count - 1];
    p->trained = false;
    if (!bias) p->std = c->gate == GATE_sigmoid ? 0.5 : 1 / (double)c->experts;     // the score of equal logits
}

static void add_moe(Model *m, int l, Layer *y, Deviations d) {
    const Config *c = &m->c;
    add_router(m, l, y, d.plain);
    if (c->ffn == FFN_swiglu) y->gate_e = add_experts(m, l, "moe.gate.weight", y->F, c->width, d.ffn);
    y->up_e = add_experts(m, l, "moe.up.weight", y->F, c->width, d.ffn);
    y->down_e = add_experts(m, l, "moe.down.weight", c->width, y->F, d.residual);
    if (c->shared_experts)
        add_dense(m, l, "moe.shared", c->shared_experts * y->F, false, d, &y->shared_up, &y->shared_down);
}

static void add_layer(Model *m, int l) {
    const Config *c = &m->c;
    Deviations d = deviations(c);
    Layer *y = &m->layers[l];
    y->attn = pattern_at(&c->attn, (size_t)l), y->moe = config_layer_has_experts(c, (size_t)l);
    y->H = c->heads, y->KV = config_kv_heads(c, y->attn), y->P = config_rope_dim(c, y->attn);
    y->D = y->attn == ATTN_mla ? c->nope_dim + y->P : config_is_linear(y->attn) ? c->state_dim : c->head_dim;
    y->Dv = y->attn == ATTN_mla ? c->v_dim : c->head_dim;
    y->window = y->attn == ATTN_swa ? c->window : 0;
    y->room = y->window ? (y->window + 7 * c->tile - 1) / c->tile * c->tile : 0;      // see cache_make_room
    y->F = y->moe ? c->expert_width : c->ffn_width;
    y->attn_norm = add_branch_norms(m, l, 2 * (size_t)l, "attn_norm", "attn_norm_out");
    y->mixer = mixer_of(y->attn);
    y->mixer->parameters(m, l, y, d);
    y->o = add_linear(m, l, (Part[]){{"attn.o", c->width, d.residual}}, 1, y->H * y->Dv, c->bias);
    y->ffn_norm = add_branch_norms(m, l, 2 * (size_t)l + 1, "ffn_norm", "ffn_norm_out");
    if (y->moe) add_moe(m, l, y, d);
    else add_dense(m, l, "ffn", y->F, c->bias, d, &y->up, &y->down);
}

static void build_table(Model *m) {
    const Config *c = &m->c;
    double std = 0.02 * c->init_scale;
    m->embed = add_matrix(m, -1, "embed.weight", c->vocab, c->width, std);
    m->pos = c->pos == POS_learned ? add_matrix(m, -1, "pos.weight", c->context, c->width, std) : NOWHERE;
    m->layers = xmalloc(c->layers * sizeof *m->layers);
    for (size_t l = 0; l < c->layers; l++) add_layer(m, (int)l);
    if (c->experts && c->router == ROUTER_relu) {
        m->router_l1 = add_vector(m, -1, "router.l1", 1, INIT_VALUE);
        m->rows[m->count - 1].std = 1e-8, m->rows[m->count - 1].trained = false;     // as ReMoE starts
    }
    if (!stream_is_normalised(c->norm) && c->norm != NORM_none) m->final_norm = add_norm(m, -1, "final_norm", c->width);
    m->head = c->tie ? m->embed : add_matrix(m, -1, "head.weight", c->vocab, c->width, std);
    m->head_linear = pack_later(m, m->head, NOWHERE, c->vocab, c->width, 1);
}

// ---- initial values ------------------------------------------------------------------------------

// Number i of a tensor is a function of (seed, the tensor's name, i), so that models which share a
// tensor's name and shape start it alike. Box-Muller: two normals from one counter.
static double uniform(uint32_t high, uint32_t low) {          // of 53 bits, inside (0, 1)
    return ((double)(((uint64_t)high << 21) ^ (low >> 11)) + 0.5) * 0x1p-53;
}
static void init_normal(real *x, size_t n, uint64_t seed, uint64_t name, double std) {
#pragma omp parallel for
    for (size_t i = 0; i < n; i += 2) {
        uint32_t r[4];
        double s, c;
        philox(r, seed, name, i / 2);
        double radius = std * sqrt(-2 * num_log(uniform(r[0], r[1])));
        num_sincos(6.283185307179586 * uniform(r[2], r[3]), &s, &c);
        x[i] = (real)(radius * c);
        if (i + 1 < n) x[i + 1] = (real)(radius * s);
    }
}

// Decays as Mamba-2 starts them (Dao and Gu 2024, its reference code): exp(rate) is uniform in [1, 16], and
// softplus(shift), the size of a step, is log-uniform in [0.001, 0.1].
static void init_decay(real *x, const Param *p, uint64_t seed) {
    for (size_t i = 0; i < p->size; i++) {
        uint32_t r[4];
        philox(r, seed, hash_text(HASH_START ^ RNG_INIT, p->name), i);
        double u = ((double)r[0] + 0.5) * 0x1p-32, step = 0.001 * num_pow(100, u);
        x[i] = (real)(p->init == INIT_DECAY_RATE ? num_log(1 + 15 * u) : num_log(num_exp(step) - 1));
    }
}

static real value_of(const Param *p) {
    switch (p->init) {
    case INIT_ONE: return 1;
    case INIT_HALF: return (real)0.5;
    case INIT_VALUE: return (real)p->std;
    default: return 0;
    }
}

static void init_values(Model *m) {
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->rows[i];
        real *x = m->values + p->at;
        uint64_t name = hash_text(HASH_START ^ RNG_INIT, p->name);
        if (p->init == INIT_NORMAL) init_normal(x, p->size, m->c.seed, name, p->std);
        else for (size_t j = 0; j < p->size; j++) x[j] = value_of(p);
        if (p->init == INIT_DECAY_RATE || p->init == INIT_DECAY_SHIFT) init_decay(x, p, m->c.seed);
    }
}

// ---- memory --------------------------------------------------------------------------------------

static size_t head_rows(const Model *m, size_t M) {        // logits of about 16 MB at a time
    size_t rows = ((size_t)4 << 20) / m->c.vocab;
    rows = rows < 96 ? 96 : rows;
    return rows < M ? rows : M;
}

static void layout_branch(BranchActs *a, const Model *m, const BranchNorms *n, Arena *arena, size_t M, bool keep) {
    size_t C = m->c.width;
    if (n->in.on) a->h = take(arena, M * C), a->mean_in = take(arena, M), a->rstd_in = take(arena, M);
    if (n->out.on) a->mean_out = take(arena, M), a->rstd_out = take(arena, M);
    if (n->out.on && keep) {               // the input of the outer norm is needed again
        if (n->of_sum) a->sum = take(arena, M * C);
        else a->f = take(arena, M * C);
    }
}

// Everything that a forward (and with keep a backward) of B rows of T tokens needs. Walked twice, to
// measure and to take. Without a backward, layers go through the same memory one after the other.
static void layout(Model *m, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T, C = m->c.width, L = m->c.layers;
    m->branch = take(arena, M * C), m->hidden = take(arena, M * C);
    m->final_mean = take(arena, M), m->final_rstd = take(arena, M);
    m->head_rows = head_rows(m, M);
    m->logits = take(arena, m->head_rows * m->c.vocab);
    m->token_loss = arena_take(arena, M * sizeof(double));
    for (size_t i = 0; i <= 2 * L; i++) m->x[i] = keep || i == 0 ? take(arena, M * C) : m->x[0];
    size_t start = arena->used, end = start;
    for (size_t l = 0; l < L; l++) {
        if (!keep) arena->used = start;
        LayerActs *a = &m->acts[l];
        *a = (LayerActs){0};
        layout_branch(&a->attn, m, &m->layers[l].attn_norm, arena, M, keep);
        layout_branch(&a->ffn, m, &m->layers[l].ffn_norm, arena, M, keep);
        a->attn.x = m->x[2 * l], a->ffn.x = m->x[2 * l + 1];
        block_layout_acts(m, l, a, arena, B, T, keep);
        end = arena->used > end ? arena->used : end;
    }
    arena->used = end;
    if (!keep) return;
    m->dx = take(arena, M * C), m->dhidden = take(arena, M * C);
    const LayerGrads shared = {.dsum = take(arena, M * C), .df = take(arena, M * C), .dh = take(arena, M * C)};
    start = end = arena->used;
    for (size_t l = 0; l < L; l++) {
        arena->used = start;
        m->layer_grads[l] = shared;
        block_layout_grads(m, l, &m->layer_grads[l], arena, B, T);
        end = arena->used > end ? arena->used : end;
    }
    arena->used = end;
}

// An arena that is as large as B rows of T tokens need. For one token no size is beyond size_t, so none is
// for as many as these if the whole is not.
static Arena measured(Model *m, size_t B, size_t T, bool keep) {
    Arena one = {.name = "activations"}, all = one;
    layout(m, &one, 1, 1, keep);
    size_mul(size_mul(B, T), one.used);
    layout(m, &all, B, T, keep);
    return all;
}

// Room for B rows of T tokens; nothing happens when there is enough. Evaluation uses what training has;
// decoding needs its own.
static void make_room(Model *m, size_t B, size_t T, bool keep, bool decoding) {
    if (B <= m->room_B && T == m->room_T && (m->room_keep ? !decoding : !keep)) return;
    keep |= m->room_keep && !decoding;
    arena_free(&m->activation_arena);
    m->activation_arena = measured(m, B, T, keep);
    arena_commit(&m->activation_arena);
    layout(m, &m->activation_arena, B, T, keep);
    m->room_B = B, m->room_T = T, m->room_keep = keep;
}

static void make_rope(Model *m, size_t positions) {
    if (positions <= m->rope_positions) return;
    if (positions < 2 * m->rope_positions) positions = 2 * m->rope_positions;    // a text that grows token by token
    m->rope_positions = positions;
    for (int mla = 0; mla < 2; mla++) {
        size_t P = 0;
        for (size_t l = 0; l < m->c.layers; l++)
            if (m->layers[l].P && (m->layers[l].attn == ATTN_mla) == mla) P = m->layers[l].P;
        if (!P) continue;
        m->cosine[mla] = xrealloc(m->cosine[mla], size_mul(positions, P / 2 * sizeof(real)));
        m->sine[mla] = xrealloc(m->sine[mla], size_mul(positions, P / 2 * sizeof(real)));
        rope_table(m->cosine[mla], m->sine[mla], positions, P, m->c.rope_theta, m->rope_scaling);
    }
}

void model_scale_rope(Model *m, RopeScaling s) {
    m->rope_scaling = s, m->rope_positions = 0;
    make_rope(m, m->c.context);
}

static real *take_all(Arena *a, const char *name, size_t numbers) {
    *a = (Arena){.name = name};
    take(a, numbers);
    arena_commit(a);
    return take(a, numbers);
}

static Model *model_sketch(const Config *config) {          // everything but the numbers
    Model *m = xmalloc(sizeof *m);
    m->c = *config;
    build_table(m);
    size_t L = m->c.layers;
    m->dropped = L;
    m->x = xmalloc((2 * L + 1) * sizeof *m->x);
    m->acts = xmalloc(L * sizeof *m->acts), m->layer_grads = xmalloc(L * sizeof *m->layer_grads);
    m->stats = xmalloc(L * sizeof *m->stats), m->load = xmalloc((L * m->c.experts + 1) * sizeof *m->load);
    m->seen = xmalloc(L * sizeof *m->seen);
    return m;
}

Model *model_new(const Config *config, bool training) {
    Model *m = model_sketch(config);
    m->training = training;
    m->values = take_all(&m->parameter_arena, "parameters", m->total);
    m->packed = take_all(&m->packed_arena, "packed weights", m->packed_total);
    if (training) {
        size_t tied = m->c.tie ? m->c.vocab * m->c.width : 0;
        m->gradients = take_all(&m->gradient_arena, "gradients", m->total + tied);
        m->tied_gradient = tied ? m->gradients + m->total : NULL;
    }
    make_rope(m, m->c.context);
    if (m->c.pos == POS_alibi) alibi_slopes(m->slopes = xmalloc(m->c.heads * sizeof *m->slopes), m->c.heads);
    init_values(m);
    return m;
}

void model_free(Model *m) {
    if (!m) return;
    arena_free(&m->parameter_arena), arena_free(&m->packed_arena);
    arena_free(&m->gradient_arena), arena_free(&m->activation_arena);
    for (int i = 0; i < 2; i++) free(m->cosine[i]), free(m->sine[i]);
    for (size_t l = 0; l < m->c.layers; l++) free(m->seen[l]);
    free(m->seen), free(m->rows), free(m->layers), free(m->packs), free(m->x), free(m->acts), free(m->layer_grads);
    free(m->stats), free(m->load), free(m->slopes), free(m);
}

// Numbers of a layer's weights that one token passes: experts not chosen are left out.
static double active(const Model *m, const Param *p) {
    return p->rank == 3 ? (double)p->size / (double)m->c.experts * config_experts_per_token(&m->c) : (double)p->size;
}

// What products and attention take of scratch memory in a step: the most of any, since they come one after the other.
static size_t workspace(const Model *m, size_t M) {
    size_t product = 0, mixer = 0;
    for (size_t i = 0; i < m->pack_count; i++) {
        const Linear *p = &m->packs[i];
        size_t rows = p == m->packs + m->pack_count - 1 ? head_rows(m, M) : M;
        size_t routed = m->c.experts ? moe_rows(m, m->c.micro_batch, m->c.context, true) : 0;
        size_t need = linear_workspace(p->count > 1 ? routed : rows, p->N, p->K);
        product = need > product ? need : product;
    }
    for (size_t l = 0; l < m->c.layers; l++) {
        const Layer *y = &m->layers[l];
        size_t need = y->mixer->workspace ? y->mixer->workspace(m, y, m->c.context) : 0;
        mixer = need > mixer ? need : mixer;
    }
    return product + mixer;
}

ModelSize model_size(const Config *config) {
    Model *m = model_sketch(config);
    const Config *c = &m->c;
    ModelSize s = {.parameter_bytes = m->total * sizeof(real), .packed_bytes = m->packed_total * sizeof(real),
                   .gradient_bytes = (m->total + (c->tie ? c->vocab * c->width : 0)) * sizeof(real),
                   .moment_bytes = size_mul(m->total, 2 * sizeof(real))};
    double matrices = c->tie ? (double)(c->vocab * c->width) : 0;      // the head is a product, the embedding a look-up
    double passed = 0;
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->rows[i];
        bool lookup = p->layer < 0 && strcmp(p->name, "head.weight");
        s.parameters += p->size, passed += active(m, p);
        if (p->rank > 1 && !lookup) matrices += active(m, p);
    }
    s.active_parameters = (size_t)passed;
    s.flops_per_token = 6.0 * matrices;
    for (size_t l = 0; l < c->layers; l++) {
        const Layer *y = &m->layers[l];
        CacheNeed need = y->mixer->cache(y);
        s.flops_per_token += y->mixer->flops(y, c->context);
        if (y->moe) s.flops_per_token += moe_mixing_flops(m, y);
        size_t token = size_mul(size_mul(need.heads, need.k + need.v), sizeof(real));
        if (y->room) s.state_bytes = size_add(s.state_bytes, size_mul(y->room, token));
        else s.cache_bytes_per_token = size_add(s.cache_bytes_per_token, token);
        s.state_bytes = size_add(s.state_bytes, size_mul(need.state, sizeof(real)));
        if (y->router_state != NOWHERE && c->router == ROUTER_threshold)         // see keep_scores
            s.activation_bytes += size_mul(size_mul(c->batch, c->context), size_mul(c->experts, sizeof(real)));
    }
    s.workspace_bytes = workspace(m, size_mul(c->micro_batch, c->context)) * sizeof(real);
    s.activation_bytes += measured(m, c->micro_batch, c->context, true).used;
    model_free(m);
    return s;
}

const Config *model_config(const Model *m) { return &m->c; }
size_t model_params(const Model *m, const Param **rows) { *rows = m->rows; return m->count; }
real *model_values(Model *m) { return m->values; }
real *model_gradients(Model *m) { return m->gradients; }
void model_changed(Model *m) { m->packed_fresh = false; }
const Param *model_find(const Model *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (!strcmp(m->rows[i].name, name)) return &m->rows[i];
    return NULL;
}

// ---- packed weights ------------------------------------------------------------------------------

// Per head, W_UK [N,R] and W_UV [Dv,R] of kv_b, as decoding through the latent reads them.
static void pack_absorbed(Model *m, const Layer *y) {
    size_t N = m->c.nope_dim, R = y->kv_b.K;
#pragma omp parallel for
    for (size_t h = 0; h < y->H; h++) {
        const real *w = m->values + y->kv_b.at + h * (N + y->Dv) * R;
        pack(m->packed + y->absorbed_k + h * packed_size(N, R), w, R, 1, N, R);
        pack(m->packed + y->absorbed_v + h * packed_size(R, y->Dv), w + N * R, 1, R, R, y->Dv);
    }
}

static void pack_weights(Model *m) {                         // once per change of the weights
    if (m->packed_fresh) return;
    for (size_t i = 0; i < m->pack_count; i++) {
        const Linear *l = &m->packs[i];
        linear_pack(m->packed + l->packed, m->values + l->at, l->count, l->N, l->K);
    }
    m->packed_fresh = true, m->absorbed_fresh = false;
}
static void pack_latent_weights(Model *m) {
    for (size_t l = 0; l < m->c.layers && !m->absorbed_fresh; l++)
        if (m->layers[l].attn == ATTN_mla) pack_absorbed(m, &m->layers[l]);
    m->absorbed_fresh = true;
}

// ---- the residual stream -------------------------------------------------------------------------

static void branch_forward(Model *m, size_t l, BranchForward *F, const BranchNorms *n, BranchActs *a, real *out,
                           const Batch *b) {
    size_t C = m->c.width, M = b->M;
    real *h = a->x, *f = a->f ? a->f : m->branch, *sum = a->sum ? a->sum : m->branch;
    if (n->in.on) normalise(m, h = a->h, C, a->mean_in, a->rstd_in, a->x, C, &n->in, M, 1);
    F(m, l, f, h, b);
    if (n->of_sum) {
        add_scaled(sum, a->x, n->skip, f, M * C);
        normalise(m, out, C, a->mean_out, a->rstd_out, sum, C, &n->out, M, 1);
        return;
    }
    if (n->out.on) normalise(m, m->branch, C, a->mean_out, a->rstd_out, f, C, &n->out, M, 1), f = m->branch;
    add_scaled(out, a->x, 1, f, M * C);
}

// dx holds d out on entry and d x on return.
static void branch_backward(Model *m, size_t l, BranchBackward *F, const BranchNorms *n, BranchActs *a, real *dx,
                            const Batch *b) {
    size_t C = m->c.width, M = b->M;
    LayerGrads *g = &m->grads;
    const real *h = n->in.on ? a->h : a->x, *df = dx;
    if (n->of_sum) {
        normalise_backward(m, g->dsum, dx, C, a->mean_out, a->rstd_out, a->sum, C, &n->out, M, 1, false);
        F(m, l, g->dh, g->dsum, h, b);
        if (n->in.on) normalise_backward(m, dx, g->dh, C, a->mean_in, a->rstd_in, a->x, C, &n->in, M, 1, false);
        add_scaled(dx, g->dsum, n->skip, n->in.on ? dx : g->dh, M * C);
        return;
    }
    if (n->out.on) {
        normalise_backward(m, g->df, dx, C, a->mean_out, a->rstd_out, a->f, C, &n->out, M, 1, false);
        df = g->df;
    }
    F(m, l, g->dh, df, h, b);
    if (n->in.on) normalise_backward(m, dx, g->dh, C, a->mean_in, a->rstd_in, a->x, C, &n->in, M, 1, true);
    else add_scaled(dx, dx, 1, g->dh, M * C);
}

// Returns the rows that the head reads, [M,C].
static const real *forward(Model *m, const int *tokens, const Batch *b) {
    size_t L = m->c.layers, C = m->c.width;
    pack_weights(m);
    if (b->past) pack_latent_weights(m);
    const real *position = m->pos == NOWHERE ? NULL : m->values + m->pos;
    embed_forward(m->x[0], m->values + m->embed, position, tokens, b->M, b->T, b->past, C);
    for (size_t l = 0; l < L; l++) {
        LayerActs *a = &m->acts[l];
        if (l == m->dropped) {
            memmove(m->x[2 * l + 2], m->x[2 * l], b->M * C * sizeof(real));
            continue;
        }
        branch_forward(m, l, m->layers[l].mixer->forward, &m->layers[l].attn_norm, &a->attn, m->x[2 * l + 1], b);
        branch_forward(m, l, ffn_block_forward, &m->layers[l].ffn_norm, &a->ffn, m->x[2 * l + 2], b);
    }
    if (!m->final_norm.on) return m->x[2 * L];
    normalise(m, m->hidden, C, m->final_mean, m->final_rstd, m->x[2 * L], C, &m->final_norm, b->M, 1);
    return m->hidden;
}

// From d hidden (m->dhidden) to the gradients of everything below the head.
static void backward(Model *m, const int *tokens, const Batch *b) {
    size_t L = m->c.layers, C = m->c.width;
    real *dx = m->dx;
    if (m->final_norm.on)
        normalise_backward(m, dx, m->dhidden, C, m->final_mean, m->final_rstd, m->x[2 * L], C, &m->final_norm, b->M, 1,
                           false);
    else
        memcpy(dx, m->dhidden, b->M * C * sizeof *dx);
    for (size_t l = L; l-- > 0;) {
        LayerActs *a = &m->acts[l];
        m->grads = m->layer_grads[l];
        branch_backward(m, l, ffn_block_backward, &m->layers[l].ffn_norm, &a->ffn, dx, b);
        branch_backward(m, l, m->layers[l].mixer->backward, &m->layers[l].attn_norm, &a->attn, dx, b);
    }
    real *dtable = m->tied_gradient ? m->tied_gradient : m->gradients + m->embed;
    real *dposition = m->pos == NOWHERE ? NULL : m->gradients + m->pos;
    embed_backward(dtable, dposition, dx, tokens, b->M, b->T, C);
}

// ---- head and loss -------------------------------------------------------------------------------

static void head_forward(Model *m, real *logits, const real *hidden, size_t rows) {
    linear_forward(logits, hidden, m->packed + m->head_linear.packed, NULL, rows, m->c.vocab, m->c.width);
}

static void sum_rows(double *row_loss, const double *token_loss, size_t B, size_t T) {
    for (size_t b = 0; b < B; b++) {
        row_loss[b] = 0;
        for (size_t t = 0; t < T; t++) row_loss[b] += token_loss[b * T + t];
    }
}

// Logits exist for head_rows tokens at a time: loss, gradient and both products before the next ones.
void model_forward_backward(Model *m, const int *tokens, const int *targets, size_t B, size_t T, double token_scale,
                            double row_scale, double *row_loss) {
    make_rope(m, T);
    make_room(m, B, T, true, false);
    Batch b = {.B = B, .T = T, .M = B * T, .tokens = tokens, .row_scale = row_scale, .keep = true};
    const real *hidden = forward(m, tokens, &b);
    size_t C = m->c.width, V = m->c.vocab;
    for (size_t i = 0; i < b.M; i += m->head_rows) {
        size_t rows = b.M - i < m->head_rows ? b.M - i : m->head_rows;
        head_forward(m, m->logits, hidden + i * C, rows);
        cross_entropy_forward(m->token_loss + i, NULL, m->logits, targets + i, rows, V);
        cross_entropy_backward(m->logits, targets + i, token_scale, rows, V);
        linear_backward_weight(m->gradients + m->head, NULL, m->logits, hidden + i * C, rows, V, C);
        linear_backward_input(m->dhidden + i * C, m->logits, m->values + m->head, rows, V, C, false);
    }
    sum_rows(row_loss, m->token_loss, B, T);
    backward(m, tokens, &b);
}

void model_zero_gradients(Model *m) {
    PROFILE(zero, 0, m->gradient_arena.used / sizeof(real));
    memset(m->gradients, 0, m->gradient_arena.used);
    memset(m->stats, 0, m->c.layers * sizeof *m->stats);
    memset(m->load, 0, m->c.layers * m->c.experts * sizeof *m->load);
}

// The tied matrix gets gradients from the head and from the embedding. They add up apart, each over
// tokens in order, so that the sum does not depend on how the batch was cut.
void model_finish_gradients(Model *m) {
    real *g = m->gradients + m->embed;
    if (m->tied_gradient) add_scaled(g, g, 1, m->tied_gradient, m->c.vocab * m->c.width);
}

void model_evaluate(Model *m, const int *tokens, const int *targets, size_t B, size_t T, double *row_loss, bool *hit) {
    make_rope(m, T);
    make_room(m, B, T, false, false);
    Batch b = {.B = B, .T = T, .M = B * T, .tokens = tokens};
    const real *hidden = forward(m, tokens, &b);
    for (size_t i = 0; i < b.M; i += m->head_rows) {
        size_t rows = b.M - i < m->head_rows ? b.M - i : m->head_rows;
        head_forward(m, m->logits, hidden + i * m->c.width, rows);
        cross_entropy_forward(m->token_loss + i, hit ? hit + i : NULL, m->logits, targets + i, rows, m->c.vocab);
    }
    sum_rows(row_loss, m->token_loss, B, T);
}

void model_drop_layer(Model *m, size_t layer) { m->dropped = layer; }

double model_residual_squares(const Model *m, size_t l, size_t rows) {
    return sum_of_squares(m->x[2 * l + 2], rows * m->room_T * m->c.width);
}

// ---- inference -----------------------------------------------------------------------------------

static void layout_cache(const Model *m, Cache *c) {
    for (size_t l = 0; l < c->layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        const Layer *y = &m->layers[l];
        c->room[l] = y->room && y->room < c->capacity ? y->room : c->capacity, c->window[l] = y->window;
        size_t places = size_mul(size_mul(c->rows, need.heads), c->room[l]);
        c->k[l] = need.k ? take(&c->arena, size_mul(places, need.k)) : NULL;
        c->v[l] = need.v ? take(&c->arena, size_mul(places, need.v)) : NULL;
        c->state[l] = need.state ? take(&c->arena, size_mul(c->rows, need.state)) : NULL, c->state_size[l] = need.state;
    }
}

Cache *cache_new(const Model *m, size_t rows, size_t capacity) {
    Cache *c = xmalloc(sizeof *c);
    *c = (Cache){.rows = rows, .capacity = capacity, .layers = m->c.layers, .arena = {.name = "cache"}};
    c->k = xmalloc(c->layers * sizeof *c->k), c->v = xmalloc(c->layers * sizeof *c->v);
    c->room = xmalloc(c->layers * sizeof *c->room), c->first = xmalloc(c->layers * sizeof *c->first);
    c->window = xmalloc(c->layers * sizeof *c->window);
    c->state = xmalloc(c->layers * sizeof *c->state), c->state_size = xmalloc(c->layers * sizeof *c->state_size);
    layout_cache(m, c);
    arena_commit(&c->arena);
    layout_cache(m, c);
    return c;
}
Cache *cache_repeat(const Model *m, const Cache *c, size_t rows) {
    Cache *all = cache_new(m, rows, c->capacity);
    all->length = c->length;
    for (size_t l = 0; l < c->layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        size_t room = c->room[l], held = (c->length - c->first[l]) * sizeof(real);
        all->first[l] = c->first[l];
        for (size_t b = 0; b < rows; b++)
            if (need.state) memcpy(all->state[l] + b * need.state, c->state[l], need.state * sizeof(real));
        for (size_t h = 0; h < rows * need.heads; h++) {
            size_t to = h * room, from = h % need.heads * room;
            if (need.k) memcpy(all->k[l] + to * need.k, c->k[l] + from * need.k, held * need.k);
            if (need.v) memcpy(all->v[l] + to * need.v, c->v[l] + from * need.v, held * need.v);
        }
    }
    return all;
}
void cache_free(Cache *c) {
    if (!c) return;
    arena_free(&c->arena);
    free(c->k), free(c->v), free(c->room), free(c->first), free(c->window), free(c->state), free(c->state_size);
    free(c);
}
size_t cache_length(const Cache *c) { return c->length; }
void cache_rewind(Cache *c, size_t length) {
    if (length >= c->length) return;
    for (size_t l = 0; l < c->layers; l++) {
        if (length && c->first[l] && c->first[l] + c->window[l] > length + 1)
            fail("a window of %zu tokens has moved on: a cache of %zu cannot go back to %zu", c->window[l], c->length,
                 length);
        if (!length) c->first[l] = 0;
        if (c->state[l] && length)
            fail("a recurrent state of %zu tokens cannot go back to %zu, only to 0", c->length, length);
        if (c->state[l]) memset(c->state[l], 0, c->rows * c->state_size[l] * sizeof(real));
    }
    c->length = length;
}

void model_infer(Model *m, Cache *cache, const int *tokens, size_t n, bool all_logits, real *logits) {
    size_t B = cache ? cache->rows : 1, past = cache ? cache->length : 0, V = m->c.vocab, C = m->c.width;
    if (!n) fail("a model needs at least one token to say what comes next");
    if (cache && past + n > cache->capacity)
        fail("the cache holds %zu tokens, but %zu are needed; make it larger", cache->capacity, past + n);
    if (m->pos != NOWHERE && past + n > m->c.context)
        fail("the model has learned positions for %zu tokens, but token %zu was asked for; use --pos rope, or a "
             "shorter text", m->c.context, past + n);
    for (size_t i = 0; i < B * n; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= V) fail("token %d is outside the vocabulary of %zu", tokens[i], V);
    make_rope(m, past + n);
    make_room(m, B, n, false, cache || m->c.experts);   // alone, tokens may need more room for experts than in a batch
    Batch b = {.B = B, .T = n, .M = B * n, .past = past, .cache = cache, .tokens = tokens, .writing = true};
    const real *hidden = forward(m, tokens, &b);
    for (size_t i = 0; i < B && !all_logits; i++)
        memcpy(m->branch + i * C, hidden + (i * n + n - 1) * C, C * sizeof *hidden);
    head_forward(m, logits, all_logits ? hidden : m->branch, all_logits ? b.M : B);
    if (cache) cache->length = past + n;
}

void model_record_attention(Model *m, real *probability) { m->record = probability; }
void model_record_rank(Model *m, double *rank) { m->record_rank = rank; }
void model_record_experts(Model *m, int *expert) { m->record_experts = expert; }

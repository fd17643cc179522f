// model.c: the GPT whose whole architecture is flags: which layers there are and how their norms stand around the
// residual branches, the residual stream, the feed-forward, the output head and loss, forward and backward, and
// inference with a cache. The sequence mixers are in attention.c and linear.c, the mixture of experts in moe.c; tables
// and memory are in model/.
#include "model.h"
#include "attention.h"
#include "kernels/attention.h"
#include "kernels/distill.h"
#include "lib/profile.h"
#include "linear.h"
#include "model/pack.h"
#include "model/packed.h"
#include "model/pieces.h"
#include "moe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the dense feed-forward ----------------------------------------------------------------------

static void add_ffn(Model *m, Layer *layer, int l) {
    layer->dense = add_dense(m, l, "ffn", layer->F, config_ffn_bias(&m->c));
}
static void layout_ffn(const Model *m, const Layer *layer, LayerActs *acts, Arena *arena, size_t B, size_t T,
                       bool keep) {
    (void)keep;
    acts->dense = take_dense(m, arena, B * T, layer->F);
}
static void layout_ffn_grads(const Model *m, const Layer *layer, LayerGrads *grads, Arena *arena, size_t B, size_t T) {
    grads->ddense = take_dense(m, arena, B * T, layer->F);
}
static void ffn_forward(Model *m, size_t l, real *out, const real *x, const Batch *b) {
    dense_forward(m, &m->layers[l].dense, out, m->acts[l].dense, x, b->M);
}
static void ffn_backward(Model *m, size_t l, real *dx, const real *dout, const real *x, const Batch *b) {
    dense_backward(m, &m->layers[l].dense, dx, dout, m->acts[l].dense, x, b->M, false);
}
static const Branch ffn_dense = {.add_params = add_ffn, .layout_acts = layout_ffn, .layout_grads = layout_ffn_grads,
                                 .forward = ffn_forward, .backward = ffn_backward};

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

static const Branch *mixer_of(int attn) {
    return config_is_linear(attn) ? &mixer_linear : attn == ATTN_mla ? &mixer_mla : &mixer_mha;
}

static void add_layer(Model *m, int l) {
    const Config *c = &m->c;
    Layer *layer = &m->layers[l];
    layer->attn = pattern_at(&c->attn, (size_t)l), layer->has_experts = config_layer_has_experts(c, (size_t)l);
    layer->mixer = mixer_of(layer->attn), layer->ffn = layer->has_experts ? &ffn_moe : &ffn_dense;
    layer->H = c->heads, layer->KV = config_kv_heads(c, layer->attn), layer->P = config_layer_rope_dim(c, (size_t)l);
    layer->D = layer->attn == ATTN_mla           ? c->nope_dim + layer->P
               : config_is_linear(layer->attn) ? c->state_dim
                                                 : c->head_dim;
    layer->Dv = layer->attn == ATTN_mla ? c->v_dim : c->head_dim;
    layer->F = layer->has_experts ? c->expert_width : c->ffn_width;
    layer->mixer_norm = add_branch_norms(m, l, 2 * (size_t)l, "attn_norm", "attn_norm_out");
    layer->mixer->add_params(m, layer, l);
    layer->o = add_linear(m, l, (Weight[]){{"attn.o", c->width, m->std.residual}}, 1, layer->H * layer->Dv,
                          config_o_bias(c));
    layer->ffn_norm = add_branch_norms(m, l, 2 * (size_t)l + 1, "ffn_norm", "ffn_norm_out");
    layer->ffn->add_params(m, layer, l);
}

static void build_table(Model *m) {
    const Config *c = &m->c;
    double std = 0.02 * c->init_scale;
    m->embed = add_matrix(m, -1, "embed.weight", c->vocab, c->width, std);
    packed_plan_embedding(m);
    m->pos = c->pos == POS_learned ? add_matrix(m, -1, "pos.weight", c->context, c->width, std) : NOWHERE;
    for (size_t l = 0; l < c->layers; l++) add_layer(m, (int)l);
    if (c->experts && c->router == ROUTER_relu)
        m->router_l1 = add_buffer(m, -1, "router.l1", 1, 1e-8);      // as ReMoE starts
    if (!stream_is_normalised(c->norm) && c->norm != NORM_none) m->final_norm = add_norm(m, -1, "final_norm", c->width);
    size_t head = c->tie ? m->embed : add_matrix(m, -1, "head.weight", c->vocab, c->width, std);
    m->head = add_tied(m, head, c->vocab, c->width);
}

static Model *model_sketch(const Config *config) {          // everything but the numbers
    Model *m = xmalloc(sizeof *m);
    size_t L = config->layers;
    m->c = *config, m->std = init_stds(config), m->dropped_layer = L;
    m->layers = xmalloc(L * sizeof *m->layers);
    build_table(m);
    m->x = xmalloc((2 * L + 1) * sizeof *m->x);
    m->acts = xmalloc(L * sizeof *m->acts), m->layer_grads = xmalloc(L * sizeof *m->layer_grads);
    m->stats = xmalloc(L * sizeof *m->stats), m->load = xmalloc((L * m->c.experts + 1) * sizeof *m->load);
    m->seen_scores = xmalloc(L * sizeof *m->seen_scores);
    return m;
}

#define SAME(word) (int)ROPE_SCALING_##word == ROPE_##word
_Static_assert(SAME(none) && SAME(linear) && SAME(ntk) && SAME(yarn) && SAME(llama3) && SAME(dynamic),
               "--rope-scaling is passed to the kernel as it is");
static RopeScaling rope_scaling(const Config *c) {
    RopeScaling s = {.kind = c->rope_scaling, .factor = c->rope_factor, .trained = (double)c->rope_trained,
                     .beta_fast = c->rope_beta_fast, .beta_slow = c->rope_beta_slow, .fractional = !c->rope_truncate,
                     .attention = c->rope_attention_factor, .low_freq = c->rope_low_freq,
                     .high_freq = c->rope_high_freq};
    if (c->rope_mscale > 0)                     // as DeepSeek-V3's reference code has it
        s.attention = rope_mscale(s.factor, c->rope_mscale) / rope_mscale(s.factor, c->rope_mscale_all_dim);
    return s;
}

Model *model_new(const Config *config, bool training) {
    Model *m = model_sketch(config);
    m->training = training, m->rope_scaling = rope_scaling(config);
    memory_take_parameters(m);
    memory_take_rotations(m, m->c.context);
    if (m->c.pos == POS_alibi) alibi_slopes(m->slopes = xmalloc(m->c.heads * sizeof *m->slopes), m->c.heads);
    init_values(m);
    return m;
}

void model_free(Model *m) {
    if (!m) return;
    memory_free(m);
    for (size_t l = 0; l < m->c.layers; l++) free(m->seen_scores[l]);
    free(m->seen_scores), free(m->params), free(m->layers), free(m->packs), free(m->x), free(m->acts);
    free(m->integers.piece);
    free(m->teacher.logits), free(m->teacher.agreement);
    free(m->layer_grads), free(m->stats), free(m->load), free(m->slopes), free(m);
}

ModelSize model_size(const Config *config) {
    Model *m = model_sketch(config);
    ModelSize s = memory_sizes(m);
    model_free(m);
    return s;
}

const Config *model_config(const Model *m) { return &m->c; }

// ---- the residual stream -------------------------------------------------------------------------

// out = what the branch F and its norms make of the stream a->x.
static void branch_forward(Model *m, size_t l, const Branch *F, const BranchNorms *n, const BranchActs *a, real *out,
                           const Batch *b) {
    size_t M = b->M, size = M * m->c.width;
    real *h = n->in.on ? a->h : a->x, *f = a->f ? a->f : m->branch, *sum = a->sum ? a->sum : m->branch;
    if (n->in.on) normalise(m, &n->in, h, a->in, a->x, M);
    F->forward(m, l, f, h, b);
    if (n->of_sum) {
        add_scaled(sum, a->x, n->skip, f, size);
        normalise(m, &n->out, out, a->out, sum, M);
        return;
    }
    if (n->out.on) normalise(m, &n->out, m->branch, a->out, f, M), f = m->branch;
    add_scaled(out, a->x, 1, f, size);
}

// dx holds the gradient of the stream after the branch on entry, and of that before it on return.
static void branch_backward(Model *m, size_t l, const Branch *F, const BranchNorms *n, const BranchActs *a, real *dx,
                            const Batch *b) {
    size_t M = b->M, size = M * m->c.width;
    LayerGrads *g = &m->grads;
    const real *h = n->in.on ? a->h : a->x, *df = dx;
    if (n->of_sum) {
        normalise_backward(m, &n->out, g->dsum, dx, a->out, a->sum, M, false);
        F->backward(m, l, g->dh, g->dsum, h, b);
        if (n->in.on) normalise_backward(m, &n->in, dx, g->dh, a->in, a->x, M, false);
        add_scaled(dx, g->dsum, n->skip, n->in.on ? dx : g->dh, size);
        return;
    }
    if (n->out.on) normalise_backward(m, &n->out, g->df, dx, a->out, a->f, M, false), df = g->df;
    F->backward(m, l, g->dh, df, h, b);
    if (n->in.on) normalise_backward(m, &n->in, dx, g->dh, a->in, a->x, M, true);
    else add_scaled(dx, dx, 1, g->dh, size);
}

static void embed(Model *m, const int *tokens, const Batch *b) {
    const real *position = m->pos == NOWHERE ? NULL : m->values + m->pos;
    if (m->integers.embed_bytes && !m->training) {
        packed_embed(m, tokens, b);
        return;
    }
    for EACH_PART(p, b)
        embed_forward(m->x[0] + p.at * m->c.width, m->values + m->embed, position, tokens + p.at, p.B * p.T, p.T,
                      p.past, m->c.width);
}

// Returns the rows that the head reads, [M,C].
static const real *forward(Model *m, const int *tokens, const Batch *b) {
    size_t L = m->c.layers, C = m->c.width;
    pack_weights(m);
    if (b->paged.rows) pack_absorbed_weights(m);
    embed(m, tokens, b);
    for (size_t l = 0; l < L; l++) {
        const Layer *layer = &m->layers[l];
        const LayerActs *a = &m->acts[l];
        if (l == m->dropped_layer) {
            memmove(m->x[2 * l + 2], m->x[2 * l], b->M * C * sizeof(real));
            continue;
        }
        branch_forward(m, l, layer->mixer, &layer->mixer_norm, &a->mixer_norm, m->x[2 * l + 1], b);
        branch_forward(m, l, layer->ffn, &layer->ffn_norm, &a->ffn_norm, m->x[2 * l + 2], b);
    }
    if (!m->final_norm.on) return m->x[2 * L];
    normalise(m, &m->final_norm, m->hidden, m->final, m->x[2 * L], b->M);
    return m->hidden;
}

// From d hidden (m->dhidden) to the gradients of everything below the head.
static void backward(Model *m, const int *tokens, const Batch *b) {
    size_t L = m->c.layers, C = m->c.width;
    real *dx = m->dx;
    if (m->final_norm.on) normalise_backward(m, &m->final_norm, dx, m->dhidden, m->final, m->x[2 * L], b->M, false);
    else memcpy(dx, m->dhidden, b->M * C * sizeof *dx);
    for (size_t l = L; l-- > 0;) {
        const Layer *layer = &m->layers[l];
        const LayerActs *a = &m->acts[l];
        m->grads = m->layer_grads[l];
        branch_backward(m, l, layer->ffn, &layer->ffn_norm, &a->ffn_norm, dx, b);
        branch_backward(m, l, layer->mixer, &layer->mixer_norm, &a->mixer_norm, dx, b);
    }
    real *dtable = m->tied_gradient ? m->tied_gradient : m->gradients + m->embed;
    real *dposition = m->pos == NOWHERE ? NULL : m->gradients + m->pos;
    embed_backward(dtable, dposition, dx, tokens, b->M, b->T, C);
}

// ---- head and loss -------------------------------------------------------------------------------

static void head_forward(Model *m, real *logits, const real *hidden, size_t rows) {
    apply(m, logits, &m->head, hidden, rows);
}

static void sum_rows(double *row_loss, const double *token_loss, size_t B, size_t T) {
    for (size_t b = 0; b < B; b++) {
        row_loss[b] = 0;
        for (size_t t = 0; t < T; t++) row_loss[b] += token_loss[b * T + t];
    }
}

void model_learn_from(Model *m, Model *teacher, int draft_loss) {
    m->teacher.model = teacher, m->teacher.loss = draft_loss;
}

static DistillLoss distill_loss(const Model *m) { return m->teacher.loss == DRAFT_LOSS_tv ? DISTILL_TV : DISTILL_KL; }

// The rows that the teacher's head reads, as in writing: nothing that a router does may depend on the batch.
static const real *ask_teacher(Model *m, const Batch *b) {
    Model *t = m->teacher.model;
    if (b->M > m->teacher.tokens) {
        m->teacher.tokens = b->M;
        m->teacher.agreement = xrealloc(m->teacher.agreement, b->M * sizeof *m->teacher.agreement);
    }
    if (m->head_rows > m->teacher.rows) {
        m->teacher.rows = m->head_rows;
        m->teacher.logits = xrealloc(m->teacher.logits, size_mul(m->head_rows, m->c.vocab * sizeof *m->teacher.logits));
    }
    memory_take_rotations(t, b->T);
    memory_take_activations(t, b->B, b->T, false, t->c.experts);
    return forward(t, b->tokens, &(Batch){.B = b->B, .T = b->T, .M = b->M, .tokens = b->tokens, .inference = true});
}

// Turns `rows` rows of logits, from token i on, into distributions, those of the teacher beside them.
static void compare_with_teacher(Model *m, const real *hidden, const int *targets, size_t i, size_t rows,
                                 double *loss) {
    Model *t = m->teacher.model;
    head_forward(t, m->teacher.logits, hidden + i * t->c.width, rows);
    distill_forward(loss, m->teacher.agreement + i, m->logits, m->teacher.logits, targets + i, distill_loss(m), rows,
                    m->c.vocab);
}

double model_agreement(const Model *m, size_t row) {
    double sum = 0;
    for (size_t i = 0, T = m->allocated.T; i < T && m->teacher.model; i++) sum += m->teacher.agreement[row * T + i];
    return sum;
}

// Logits exist for head_rows tokens at a time: loss, gradient and both products before the next ones.
void model_forward_backward(Model *m, const int *tokens, const int *targets, size_t B, size_t T, double token_scale,
                            double row_scale, double *row_loss) {
    memory_take_rotations(m, T);
    memory_take_activations(m, B, T, true, false);
    Batch b = {.B = B, .T = T, .M = B * T, .tokens = tokens, .row_scale = row_scale, .keep = true};
    const real *hidden = forward(m, tokens, &b);
    const real *taught = m->teacher.model && m->teacher.loss != DRAFT_LOSS_ce ? ask_teacher(m, &b) : NULL;
    size_t C = m->c.width, V = m->c.vocab;
    for (size_t i = 0; i < b.M; i += m->head_rows) {
        size_t rows = smaller(b.M - i, m->head_rows);
        head_forward(m, m->logits, hidden + i * C, rows);
        if (taught) {
            compare_with_teacher(m, taught, targets, i, rows, m->token_loss + i);
            distill_backward(m->logits, m->teacher.logits, targets + i, token_scale, distill_loss(m), rows, V);
        } else {
            cross_entropy_forward(m->token_loss + i, NULL, m->logits, targets + i, rows, V);
            cross_entropy_backward(m->logits, targets + i, token_scale, rows, V);
        }
        apply_backward(m, m->dhidden + i * C, m->logits, &m->head, hidden + i * C, rows, false);
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
    memory_take_rotations(m, T);
    memory_take_activations(m, B, T, false, m->routes_alone && m->c.experts);
    Batch b = {.B = B, .T = T, .M = B * T, .tokens = tokens, .inference = m->routes_alone};
    const real *hidden = forward(m, tokens, &b), *taught = m->teacher.model ? ask_teacher(m, &b) : NULL;
    for (size_t i = 0; i < b.M; i += m->head_rows) {
        size_t rows = smaller(b.M - i, m->head_rows);
        head_forward(m, m->logits, hidden + i * m->c.width, rows);
        cross_entropy_forward(m->token_loss + i, hit ? hit + i : NULL, m->logits, targets + i, rows, m->c.vocab);
        if (taught) compare_with_teacher(m, taught, targets, i, rows, NULL);
    }
    sum_rows(row_loss, m->token_loss, B, T);
}

void model_drop_layer(Model *m, size_t layer) { m->dropped_layer = layer; }
void model_route_alone(Model *m, bool alone) { m->routes_alone = alone; }

double model_residual_squares(const Model *m, size_t l, size_t rows) {
    return sum_of_squares(m->x[2 * l + 2], rows * m->allocated.T * m->c.width);
}

// ---- inference -----------------------------------------------------------------------------------

static void check_tokens(const Model *m, const int *tokens, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= m->c.vocab)
            fail("token %d is outside the vocabulary of %zu", tokens[i], m->c.vocab);
}
static void check_positions(const Model *m, size_t n) {
    if (m->pos != NOWHERE && n > m->c.context)
        fail("the model has learned positions for %zu tokens, but token %zu was asked for; use --pos rope, or a "
             "shorter text", m->c.context, n);
}

// The tokens of all rows stand one after the other, for what does not look at the past.
static Batch batch_of_rows(Model *m, Blocks *s, const Row *rows, size_t count, int **tokens) {
    size_t M = 0, longest = 0;
    for (size_t i = 0; i < count; i++) {
        size_t end = rows[i].past + rows[i].n;
        M += rows[i].n, longest = end > longest ? end : longest;
        if (!rows[i].n || rows[i].logits_from > rows[i].n)
            fail("row %zu of a step has %zu tokens and logits from %zu", i, rows[i].n, rows[i].logits_from);
        size_t slots = keep_most(&s->keep.o, rows[i].prompt, rows[i].past, end);
        for (size_t k = 0; k * s->size < slots; k++)
            if (rows[i].block[k] >= s->count) fail("row %zu of a step: block %u of %zu", i, rows[i].block[k], s->count);
        check_positions(m, end), check_tokens(m, rows[i].tokens, rows[i].n);
        if (blocks_resume(s, rows[i].block, rows[i].past) != rows[i].past)
            fail("row %zu of a step comes after %zu tokens, but no state of these is there", i, rows[i].past);
    }
    *tokens = xmalloc(M * sizeof **tokens);
    for (size_t i = 0, at = 0; i < count; at += rows[i++].n)
        memcpy(*tokens + at, rows[i].tokens, rows[i].n * sizeof(int));
    memory_take_rotations(m, longest);
    memory_take_activations(m, M, 1, false, true);
    return (Batch){.B = M, .T = 1, .M = M, .tokens = *tokens, .inference = true, .paged = {s, rows, count}};
}

void model_step(Model *m, Blocks *s, const Row *rows, size_t count, real *logits) {
    int *tokens;
    size_t C = m->c.width, wanted = 0;
    Batch b = batch_of_rows(m, s, rows, count, &tokens);
    blocks_take_states(s, rows, count);
    const real *hidden = forward(m, tokens, &b);
    for (size_t i = 0, at = 0; i < count; at += rows[i++].n) {
        size_t from = rows[i].logits_from, n = rows[i].n - from;
        memcpy(m->branch + wanted * C, hidden + (at + from) * C, n * C * sizeof *hidden);
        wanted += n;
    }
    if (wanted) head_forward(m, logits, m->branch, wanted);
    free(tokens);
}

// Without a cache: the forward of the training, of a text that goes on.
static void read_alone(Model *m, const int *tokens, size_t n, bool all_logits, real *logits) {
    check_positions(m, n), check_tokens(m, tokens, n);
    memory_take_rotations(m, n);
    memory_take_activations(m, 1, n, false, m->c.experts);   // alone, tokens may need more memory for experts
    Batch b = {.B = 1, .T = n, .M = n, .tokens = tokens, .inference = true};
    const real *hidden = forward(m, tokens, &b);
    head_forward(m, logits, all_logits ? hidden : hidden + (n - 1) * m->c.width, all_logits ? n : 1);
}

void model_infer(Model *m, Cache *c, const int *tokens, size_t n, bool all_logits, real *logits) {
    if (!n) fail("a model needs at least one token to say what comes next");
    if (!c) {
        read_alone(m, tokens, n, all_logits, logits);
        return;
    }
    if (c->length + n > c->capacity)
        fail("the cache holds %zu tokens, but %zu are needed; make it larger", c->capacity, c->length + n);
    for (size_t i = 0; i < c->rows; i++) {
        Row *r = &c->row[i];
        r->tokens = tokens + i * n, r->n = n, r->past = c->length, r->logits_from = all_logits ? 0 : n - 1;
    }
    model_step(m, c->blocks, c->row, c->rows, logits);
    c->length += n;
}

void model_scale_rope(Model *m, RopeScaling s) {
    m->rope_scaling = s, m->rope_positions = 0;
    memory_take_rotations(m, m->c.context);
}
void model_record_attention(Model *m, real *probability) { m->record.attention = probability; }
void model_record_states(Model *m, real *state, const size_t *token, size_t count) {
    m->record.state = state, m->record.token = token, m->record.states = count;
}
void model_record_experts(Model *m, int *expert) { m->record.experts = expert; }

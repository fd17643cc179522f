// memory.c: the arenas of a model. A layout is walked twice by the same code, to measure and to take (lib/util.h).
#include "model/memory.h"
#include "model/packed.h"
#include "model/rounding.h"
#include <stdlib.h>
#include <string.h>

// ---- activations ---------------------------------------------------------------------------------

static size_t head_rows(const Model *m, size_t M) {        // logits of about 16 MB at a time
    size_t rows = ((size_t)4 << 20) / m->c.vocab;
    rows = rows < 96 ? 96 : rows;
    return smaller(rows, M);
}

static void layout_norms(const Model *m, BranchActs *a, const BranchNorms *n, Arena *arena, size_t M, bool keep) {
    size_t C = m->c.width;
    if (n->in.on) a->h = take(arena, M * C), a->in = take_norm(arena, M);
    if (n->out.on) a->out = take_norm(arena, M);
    if (n->out.on && keep) {               // the input of the outer norm is needed again
        if (n->of_sum) a->sum = take(arena, M * C);
        else a->f = take(arena, M * C);
    }
}

// Both branches of layer l.
static void layout_layer(Model *m, size_t l, Arena *arena, size_t B, size_t T, bool keep) {
    const Layer *layer = &m->layers[l];
    LayerActs *acts = &m->acts[l];
    *acts = (LayerActs){0};
    layout_norms(m, &acts->mixer_norm, &layer->mixer_norm, arena, B * T, keep);
    layout_norms(m, &acts->ffn_norm, &layer->ffn_norm, arena, B * T, keep);
    acts->mixer_norm.x = m->x[2 * l], acts->ffn_norm.x = m->x[2 * l + 1];
    layer->mixer->layout_acts(m, layer, acts, arena, B, T, keep);
    layer->ffn->layout_acts(m, layer, acts, arena, B, T, keep);
}

// The backward of the feed-forward, then that of the mixer, use the memory one after the other; so do the layers.
static void layout_gradients(Model *m, Arena *arena, size_t B, size_t T) {
    size_t M = B * T, C = m->c.width;
    m->dx = take(arena, M * C), m->dhidden = take(arena, M * C);
    const LayerGrads shared = {.dsum = take(arena, M * C), .df = take(arena, M * C), .dh = take(arena, M * C)};
    size_t start = arena->used, end = start;
    for (size_t l = 0; l < m->c.layers; l++) {
        const Layer *layer = &m->layers[l];
        const Branch *branch[] = {layer->mixer, layer->ffn};
        m->layer_grads[l] = shared;
        for (size_t i = 0; i < 2; i++) {
            arena->used = start;
            branch[i]->layout_grads(m, layer, &m->layer_grads[l], arena, B, T);
            end = arena->used > end ? arena->used : end;
        }
    }
    arena->used = end;
}

// Everything that a forward (and with keep a backward) of B rows of T tokens needs. Without a backward, layers go
// through the same memory one after the other.
static void layout(Model *m, Arena *arena, size_t B, size_t T, bool keep) {
    size_t M = B * T, C = m->c.width, L = m->c.layers;
    m->branch = take(arena, M * C), m->hidden = take(arena, M * C);
    m->final = take_norm(arena, M);
    m->head_rows = head_rows(m, M);
    m->logits = take(arena, m->head_rows * m->c.vocab);
    m->token_loss = arena_take(arena, M * sizeof(double));
    for (size_t i = 0; i <= 2 * L; i++) m->x[i] = keep || i == 0 ? take(arena, M * C) : m->x[0];
    size_t start = arena->used, end = start;
    for (size_t l = 0; l < L; l++) {
        if (!keep) arena->used = start;
        layout_layer(m, l, arena, B, T, keep);
        end = arena->used > end ? arena->used : end;
    }
    arena->used = end;
    if (keep) layout_gradients(m, arena, B, T);
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

void memory_take_activations(Model *m, size_t B, size_t T, bool keep, bool decoding) {
    if (B <= m->allocated.B && T == m->allocated.T && (m->allocated.keep ? !decoding : !keep)) return;
    keep |= m->allocated.keep && !decoding;
    arena_free(&m->activation_arena);
    m->activation_arena = measured(m, B, T, keep);
    arena_commit(&m->activation_arena);
    layout(m, &m->activation_arena, B, T, keep);
    m->allocated.B = B, m->allocated.T = T, m->allocated.keep = keep;
}

// ---- parameters ----------------------------------------------------------------------------------

static real *take_all(Arena *a, const char *name, size_t numbers) {
    *a = (Arena){.name = name};
    take(a, numbers);
    arena_commit(a);
    return take(a, numbers);
}

// A tied matrix has a second gradient (see model_finish_gradients).
static size_t tied_numbers(const Model *m) { return m->c.tie ? m->c.vocab * m->c.width : 0; }

void memory_take_parameters(Model *m) {
    m->master = m->values = take_all(&m->parameter_arena, "parameters", m->total);
    packed_take(m);
    bool apart = m->c.quant && (m->training || !m->c.quant_act);
    if (apart) m->values = take_all(&m->rounded_arena, "rounded weights", m->total);
    m->packed = take_all(&m->packed_arena, "packed weights", m->packed_total);
    if (!m->training) return;
    m->gradients = take_all(&m->gradient_arena, "gradients", m->total + tied_numbers(m));
    m->tied_gradient = m->c.tie ? m->gradients + m->total : NULL;
}

void memory_take_rotations(Model *m, size_t positions) {
    if (m->rope_scaling.kind == ROPE_dynamic && (double)positions > m->rope_scaling.trained)
        fail("the model was trained on %.0f tokens, and its rotations are dynamic: beyond them they would depend on "
             "how a text is cut, but token %zu was asked for; use --rope-scaling ntk or yarn, or a shorter text",
             m->rope_scaling.trained, positions);
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

void memory_free(Model *m) {
    arena_free(&m->parameter_arena), arena_free(&m->rounded_arena), arena_free(&m->packed_arena);
    arena_free(&m->gradient_arena), arena_free(&m->activation_arena), arena_free(&m->integers.arena);
    for (int i = 0; i < 2; i++) free(m->cosine[i]), free(m->sine[i]);
}

// ---- sizes ---------------------------------------------------------------------------------------

// Numbers of a layer's weights that one token passes: experts not chosen are left out.
static double active(const Model *m, const Param *p) {
    return p->rank == 3 ? (double)p->size / (double)m->c.experts * config_experts_per_token(&m->c) : (double)p->size;
}

// What products and attention take of scratch memory in a step: the most of any, since they come one after the other.
static size_t workspace(const Model *m, size_t M) {
    size_t product = 0, branch = 0, stacked_rows = 0;
    for (size_t l = 0; l < m->c.layers; l++) {
        const Layer *layer = &m->layers[l];
        size_t need = layer->mixer->workspace ? layer->mixer->workspace(m, layer, m->c.context) : 0;
        branch = need > branch ? need : branch;
        if (layer->ffn->stacked_rows)
            stacked_rows = layer->ffn->stacked_rows(m, m->c.micro_batch, m->c.context, true);
    }
    for (size_t i = 0; i < m->pack_count; i++) {
        const Linear *p = &m->packs[i];
        size_t rows = p == m->packs + m->pack_count - 1 ? head_rows(m, M) : M;
        rows = p->count > 1 ? stacked_rows : rows;
        size_t need = linear_workspace(rows, p->N, p->K) + packed_workspace(m, rows, p->K);
        product = need > product ? need : product;
    }
    return product + branch;
}

static void count_parameters(ModelSize *s, const Model *m) {
    double matrices = (double)tied_numbers(m);      // the head is a product, the embedding a look-up
    double passed = 0;
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        bool lookup = p->layer < 0 && strcmp(p->name, "head.weight");
        s->parameters += p->size, passed += active(m, p);
        if (p->rank > 1 && !lookup) matrices += active(m, p);
    }
    s->active_parameters = (size_t)passed;
    s->flops_per_token = 6.0 * matrices;
}

static void count_layer(ModelSize *s, const Model *m, const Layer *layer) {
    const Branch *branch[] = {layer->mixer, layer->ffn};
    for (size_t i = 0; i < 2; i++)
        if (branch[i]->flops) s->flops_per_token += branch[i]->flops(m, layer, m->c.context);
    CacheNeed need = layer->mixer->cache(layer);
    size_t token = size_mul(size_mul(need.heads, need.k + need.v), sizeof(real)), slots = layer->mha.cache_slots;
    if (slots) s->state_bytes = size_add(s->state_bytes, size_mul(slots, token));
    else s->cache_bytes_per_token = size_add(s->cache_bytes_per_token, token);
    s->state_bytes = size_add(s->state_bytes, size_mul(need.state, sizeof(real)));
    if (layer->has_experts && m->c.router == ROUTER_threshold)       // the scores of a step are kept (moe.c)
        s->activation_bytes += size_mul(size_mul(m->c.batch, m->c.context), size_mul(m->c.experts, sizeof(real)));
}

ModelSize memory_sizes(Model *m) {
    const Config *c = &m->c;
    ModelSize s = {.parameter_bytes = m->total * sizeof(real),
                   .packed_bytes = m->packed_total * sizeof(real) + m->integers.bytes,
                   .gradient_bytes = (m->total + tied_numbers(m)) * sizeof(real),
                   .moment_bytes = size_mul(m->total, 2 * sizeof(real))};
    rounding_sizes(&s, m);
    count_parameters(&s, m);
    for (size_t l = 0; l < c->layers; l++) count_layer(&s, m, &m->layers[l]);
    s.workspace_bytes = workspace(m, size_mul(c->micro_batch, c->context)) * sizeof(real);
    s.activation_bytes += measured(m, c->micro_batch, c->context, true).used;
    return s;
}

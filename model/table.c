// table.c: rows of the table of parameters, and what is to be packed of them.
#include "model/packed.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- rows ----------------------------------------------------------------------------------------

// Space for numbers behind `total` others: where it begins. From 2^58 on, bytes of gradients and moments could
// not be counted any more.
static size_t add_numbers(size_t *total, size_t numbers) {
    size_t offset = *total;
    if (numbers > SIZE_MAX / 64 - offset) fail("the parameters are larger than any memory; choose smaller sizes");
    *total += numbers;
    return offset;
}
size_t add_packed(Model *m, size_t numbers) { return add_numbers(&m->packed_total, numbers); }

static Param *add_row(Model *m, int layer, const char *name, size_t rank, const size_t *shape, InitKind init,
                      double std) {
    if (m->count == m->capacity) {
        m->capacity = m->capacity ? 2 * m->capacity : 64;
        m->params = xrealloc(m->params, m->capacity * sizeof *m->params);
    }
    Param *p = &m->params[m->count++];
    *p = (Param){.rank = rank, .size = 1, .init = init, .std = std, .decay = rank > 1, .trained = true, .layer = layer,
                 .offset = m->total};
    if (layer < 0) snprintf(p->name, sizeof p->name, "%s", name);
    else snprintf(p->name, sizeof p->name, "layers.%d.%s", layer, name);
    for (size_t i = 0; i < rank; i++) p->shape[i] = shape[i], p->size = size_mul(p->size, shape[i]);
    add_numbers(&m->total, p->size);
    return p;
}

size_t add_matrix(Model *m, int layer, const char *name, size_t N, size_t K, double std) {
    return add_row(m, layer, name, 2, (size_t[]){N, K}, INIT_NORMAL, std)->offset;
}
size_t add_vector(Model *m, int layer, const char *name, size_t N, InitKind init) {
    return add_row(m, layer, name, 1, (size_t[]){N}, init, 0)->offset;
}
size_t add_buffer(Model *m, int layer, const char *name, size_t N, double value) {
    Param *p = add_row(m, layer, name, 1, (size_t[]){N}, value == 0 ? INIT_ZERO : INIT_VALUE, value);
    p->trained = false;
    return p->offset;
}

// ---- matrices of products --------------------------------------------------------------------------

// Registers `count` matrices [N,K] for packing, and makes them a Linear.
static Linear pack_later(Model *m, size_t weight, size_t bias, size_t N, size_t K, size_t count) {
    Linear l = {.weight = weight, .bias = bias, .N = N, .K = K, .count = count};
    packed_plan(m, &l);
    if (l.integer < N) l.packed = add_packed(m, size_mul(packed_size(K, N - l.integer), count));
    if (m->pack_count == m->pack_capacity) {
        m->pack_capacity = m->pack_capacity ? 2 * m->pack_capacity : 64;
        m->packs = xrealloc(m->packs, m->pack_capacity * sizeof *m->packs);
    }
    return m->packs[m->pack_count++] = l;
}

Linear add_linear(Model *m, int layer, const Weight *weight, size_t weights, size_t K, bool bias) {
    size_t offset = m->total, bias_offset = NOWHERE, N = 0;
    char name[64];
    for (size_t i = 0; i < weights; i++) {
        snprintf(name, sizeof name, "%s.weight", weight[i].name);
        add_matrix(m, layer, name, weight[i].rows, K, weight[i].std);
        N += weight[i].rows;
    }
    for (size_t i = 0; i < weights && bias; i++) {
        snprintf(name, sizeof name, "%s.bias", weight[i].name);
        size_t added = add_vector(m, layer, name, weight[i].rows, INIT_ZERO);
        if (!i) bias_offset = added;
    }
    return pack_later(m, offset, bias_offset, N, K, 1);
}

Linear add_experts(Model *m, int layer, const char *name, size_t N, size_t K, double std) {
    size_t offset = add_row(m, layer, name, 3, (size_t[]){m->c.experts, N, K}, INIT_NORMAL, std)->offset;
    return pack_later(m, offset, NOWHERE, N, K, m->c.experts);
}

Linear add_tied(Model *m, size_t weight, size_t N, size_t K) { return pack_later(m, weight, NOWHERE, N, K, 1); }

// ---- norms ---------------------------------------------------------------------------------------

Norm add_norm(Model *m, int layer, const char *name, size_t C) {
    char full[64];
    bool center = m->c.norm_kind == NORM_KIND_layer, dyt = m->c.norm_kind == NORM_KIND_dyt;
    Norm n = add_rms_norm(m, layer, name, C, m->c.norm_eps);
    n.center = center, n.dyt = dyt;
    snprintf(full, sizeof full, "%s.bias", name);
    if (dyt || (center && m->c.bias)) n.bias = add_vector(m, layer, full, C, INIT_ZERO);
    snprintf(full, sizeof full, "%s.alpha", name);
    if (dyt) n.alpha = add_vector(m, layer, full, 1, INIT_HALF);     // the value of Zhu et al. 2025, section 4
    return n;
}
Norm add_rms_norm(Model *m, int layer, const char *name, size_t C, double eps) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    return (Norm){.weight = add_vector(m, layer, full, C, INIT_ONE), .bias = NOWHERE, .C = C, .groups = 1,
                  .x_stride = C, .y_stride = C, .eps = eps, .on = true};
}

// ---- standard deviations ---------------------------------------------------------------------------

// 0.02 everywhere; with --scaled-init, projections into the residual stream by 1/sqrt(2L) (GPT-2, section 2.3).
// DeepNorm (Wang et al. 2022, figure 2) instead scales v, o and the feed-forward by (8L)^(-1/4).
InitStds init_stds(const Config *c) {
    double s = 0.02 * c->init_scale, L = (double)c->layers, root = 1 / sqrt(2 * L), beta = sqrt(sqrt(1 / (8 * L)));
    if (c->norm == NORM_deepnorm) return (InitStds){s, s * beta, s * beta, s * beta};
    return (InitStds){s, s, c->scaled_init ? s * root : s, s};
}

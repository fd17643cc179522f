// packed.c: see packed.h.
#include "model/packed.h"
#include "kernels/hadamard.h"
#include "kernels/matmul.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "lib/threads.h"
#include "model/rounding.h"
#include <stdlib.h>
#include <string.h>

// ---- what is packed ------------------------------------------------------------------------------

// Rows that follow on others share their panels, unless each tensor has a scale of its own.
static void add_piece(Model *m, const Linear *l, size_t column, size_t rows, size_t from) {
    QuantFormat format = rounding_format(&m->c).format;
    if (m->integers.count > l->piece && l->count == 1 && format != QUANT_nvfp4) {
        m->integers.piece[m->integers.count - 1].weight.N += rows;
        return;
    }
    if (m->integers.count == m->integers.capacity) {
        m->integers.capacity = m->integers.capacity ? 2 * m->integers.capacity : 64;
        m->integers.piece = xrealloc(m->integers.piece, m->integers.capacity * sizeof *m->integers.piece);
    }
    m->integers.piece[m->integers.count++] =
        (QuantPiece){.weight = {.format = format, .N = rows, .K = l->K}, .column = column, .from = from};
}

void packed_plan(Model *m, Linear *l) {
    size_t each = l->N * l->K;
    l->piece = m->integers.count;
    size_t first = m->count;        // its rows are the last of the table: all of it would take layers squared
    while (first && m->params[first - 1].offset >= l->weight) first--;
    for (size_t i = first; i < m->count; i++) {
        const Param *p = &m->params[i];
        if (p->offset - l->weight >= l->count * each || !is_integer(m, p)) continue;
        size_t rows = p->shape[p->rank - 2];
        for (size_t e = 0; e < l->count; e++) add_piece(m, l, l->integer, rows, p->offset + e * each);
        l->integer += rows;
    }
    l->pieces = (m->integers.count - l->piece) / l->count;
    for (size_t i = l->piece; i < m->integers.count; i++) {
        const QuantWeight *w = &m->integers.piece[i].weight;
        m->integers.piece[i].at = m->integers.bytes;
        m->integers.bytes = size_add(m->integers.bytes, round_up(quant_packed_bytes(w->format, w->N, w->K), 64));
    }
}

void packed_plan_embedding(Model *m) {
    const Param *p = &m->params[m->count - 1];
    if (is_integer(m, p))
        m->integers.embed_bytes = size_mul(p->shape[0], quant_row_bytes(rounding_format(&m->c).format, p->shape[1]));
}

void packed_take(Model *m) {
    Arena *a = &m->integers.arena;
    if (!m->c.quant_act) return;
    for (int taken = 0; taken < 2; taken++) {
        if (!taken) *a = (Arena){.name = "packed weights"};
        else arena_commit(a);
        char *at = arena_take(a, m->integers.bytes);
        if (!m->training) m->integers.embed = arena_take(a, m->integers.embed_bytes);
        for (size_t i = 0; taken && i < m->integers.count; i++)
            m->integers.piece[i].weight.packed = (unsigned char *)at + m->integers.piece[i].at;
    }
}

bool packed_in_use(const Model *m) { return !(m->exact || m->exact_asked); }

// By --hadamard, in memory that the next call takes; else x itself.
static const real *rotated(const Model *m, const real *x, size_t ldx, size_t rows, size_t columns) {
    static Workspace workspace;
    if (!m->c.hadamard) return x;
    real *y = workspace_take(&workspace, size_mul(rows, columns));
    hadamard_rows(y, columns, x, ldx, rows, columns);
    return y;
}

static const char *name_at(const Model *m, size_t offset) {
    size_t i = 0;
    while (offset - m->params[i].offset >= m->params[i].size) i++;       // a smaller offset wraps around
    return m->params[i].name;
}

void packed_make(Model *m) {
    const Quant format = rounding_format(&m->c);
    if (!m->c.quant_act || !packed_in_use(m)) return;
    packed_needs_floats(m);
    for (size_t i = 0; i < m->count && !m->training; i++) {
        const Param *p = &m->params[i];
        real *x = m->master + p->offset;
        if (is_rounded(m, p) && !is_integer(m, p)) round_tensor(&m->c, p, x, x);
        if (p->offset != m->embed || !m->integers.embed_bytes) continue;
        const real *turned = rotated(m, x, p->shape[1], p->shape[0], p->shape[1]);
        rounding_refuse(&m->c, p->name, turned, p->size);
        m->integers.embed_scale = quant_tensor_scale(format.format, turned, p->size);
        quant_encode_rows(format, m->integers.embed, m->integers.embed_scale, turned, p->shape[0], p->shape[1]);
    }
    for (size_t i = 0; i < m->integers.count; i++) {
        const QuantPiece *piece = &m->integers.piece[i];
        QuantWeight *w = &m->integers.piece[i].weight;
        const real *x = rotated(m, m->master + piece->from, w->K, w->N, w->K);
        unsigned char *rows = xmalloc(size_mul(w->N, quant_row_bytes(w->format, w->K)));
        rounding_refuse(&m->c, name_at(m, piece->from), x, w->N * w->K);
        w->tensor_scale = quant_tensor_scale(w->format, x, w->N * w->K);
        quant_encode_rows(format, rows, w->tensor_scale, x, w->N, w->K);
        quant_pack((unsigned char *)w->packed, w->format, rows, w->N, w->K);
        if (m->training) {                           // for the backward: decode(encode(x)) is what is rounded to
            real *y = m->values + piece->from;
            quant_decode_rows(w->format, y, rows, w->tensor_scale, w->N, w->K);
            if (m->c.hadamard) hadamard_rows(y, w->K, y, w->K, w->N, w->K);
        }
        free(rows);
    }
}

// Tensors that stand side by side go together, with the pages that they share.
void packed_release(Model *m) {
    for (size_t i = 0, end; i < m->count; i = end) {
        size_t numbers = 0;
        for (end = i; end < m->count && is_rounded(m, &m->params[end]); end++) numbers += m->params[end].size;
        if (end == i) end++;
        else arena_release(m->master + m->params[i].offset, numbers * sizeof(real));
    }
    m->integers.done = true;
}

void packed_needs_floats(const Model *m) {
    if (m->integers.done)
        fail("the weights of a model with --quant-act int8 are held in few bits from its first step on, and nothing "
             "else of them is left");
}

// ---- products ------------------------------------------------------------------------------------

static QuantRows read_rows(const Model *m, const real *x, size_t ldx, size_t M, size_t K) {
    static Workspace workspace;
    real *at = workspace_take(&workspace, quant_rows_bytes(M, K) / sizeof(real) + 1);
    const real *y = rotated(m, x, ldx, M, K);
    return quant_rows_within(at, y, y == x ? ldx : K, M, K, m->c.quant_act == QUANT_ACT_int4 ? 7 : 127);
}

void packed_apply(const Model *m, real *out, const Linear *l, const real *x, size_t M) {
    enum { MOST = 8 };                               // tensors of one product
    const real *bias = l->bias == NOWHERE ? NULL : m->values + l->bias;
    QuantRows rows = read_rows(m, x, l->K, M, l->K);
    QuantProduct p[MOST];
    for (size_t i = 0; i < l->pieces; i++) {
        const QuantPiece *piece = &m->integers.piece[l->piece + i];
        p[i] = (QuantProduct){.y = out + piece->column, .ldy = l->N, .x = &rows, .M = M, .w = &piece->weight,
                              .bias = bias ? bias + piece->column : NULL};
    }
    quant_products(p, l->pieces);
    if (l->integer == l->N) return;
    products(&(Product){.c = out + l->integer, .ldc = l->N, .a = x, .a_row = l->K, .a_col = 1,
                        .packed = m->packed + l->packed, .bias = bias ? bias + l->integer : NULL, .M = M,
                        .N = l->N - l->integer, .K = l->K}, 1);
}

void packed_experts(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                    const Routing *r) {
    QuantRows rows = read_rows(m, x, ldx, r->copies, l->K);
    QuantProduct few[FEW_EXPERTS] = {{0}}, *p = l->count <= FEW_EXPERTS ? few : xmalloc(l->count * sizeof *p);
    for (size_t e = 0; e < l->count; e++)
        p[e] = (QuantProduct){.y = out + r->start[e] * ldo, .ldy = ldo, .x = &rows, .first = r->start[e],
                              .M = r->start[e + 1] - r->start[e], .w = &m->integers.piece[l->piece + e].weight};
    quant_products(p, l->count);
    if (p != few) free(p);
}

// Both factors as the products saw them, in the basis of x: what is rotated is rotated back.
const real *packed_seen(const Model *m, const real *x, size_t ldx, size_t M, size_t K) {
    static Workspace workspace;
    QuantRows rows = read_rows(m, x, ldx, M, K);
    real *seen = workspace_take(&workspace, size_mul(M, K));
    quant_rows_meaning(seen, K, &rows);
    if (m->c.hadamard) hadamard_rows(seen, K, seen, K, M, K);
    return seen;
}

size_t packed_workspace(const Model *m, size_t M, size_t K) {
    size_t numbers = size_mul(M, K), rotations = m->c.hadamard ? numbers : 0;
    if (!m->c.quant_act) return 0;
    return size_add(size_add(numbers, rotations), quant_rows_bytes(M, K) / sizeof(real) + 1);
}

// The gradient of rows from .. to of the weights.
static void weight_backward(Model *m, const Linear *l, size_t from, size_t to, const real *dout, const real *x,
                            size_t M) {
    PROFILE(linear_weight, 2 * M * (to - from) * l->K, M * (to - from) + M * l->K + 2 * (to - from) * l->K);
    products(&(Product){.c = m->gradients + l->weight + from * l->K, .ldc = l->K, .a = dout + from, .a_row = 1,
                        .a_col = l->N, .b = x, .b_row = l->K, .b_col = 1, .M = to - from, .N = l->K, .K = M,
                        .accumulate = true}, 1);
}
void packed_backward_weight(Model *m, const Linear *l, const real *dout, const real *x, size_t M) {
    weight_backward(m, l, 0, l->integer, dout, packed_seen(m, x, l->K, M, l->K), M);
    if (l->integer < l->N) weight_backward(m, l, l->integer, l->N, dout, x, M);
    if (l->bias != NOWHERE) linear_backward_bias(m->gradients + l->bias, dout, M, l->N);
}

// Without rounding, by the weights as they are: they are packed on the way, for this is seldom.
void packed_apply_exact(const Model *m, real *out, size_t ldo, const Linear *l, const real *x, size_t ldx,
                        const Routing *r, size_t M) {
    PROFILE(linear_forward, 2 * M * l->N * l->K, M * (l->N + l->K) + l->count * l->N * l->K);
    for (size_t e = 0; e < l->count; e++) {
        size_t first = r ? r->start[e] : 0, rows = r ? r->start[e + 1] - first : M;
        if (!rows) continue;
        products(&(Product){.c = out + first * ldo, .ldc = ldo, .a = x + first * ldx, .a_row = ldx, .a_col = 1,
                            .b = m->values + l->weight + e * l->N * l->K, .b_row = 1, .b_col = l->K, .M = rows,
                            .bias = l->bias == NOWHERE ? NULL : m->values + l->bias, .N = l->N, .K = l->K}, 1);
    }
}

// ---- the embedding -------------------------------------------------------------------------------

void packed_embed(Model *m, const int *tokens, const Batch *b) {
    const real *position = m->pos == NOWHERE ? NULL : m->values + m->pos;
    size_t C = m->c.width;
    QuantFormat format = rounding_format(&m->c).format;
    int *itself = xmalloc(b->M * sizeof *itself);
    for (size_t i = 0; i < b->M; i++) {
        itself[i] = (int)i;
        quant_decode_rows(format, m->x[0] + i * C, m->integers.embed + (size_t)tokens[i] * quant_row_bytes(format, C),
                          m->integers.embed_scale, 1, C);
    }
    if (m->c.hadamard) hadamard_rows(m->x[0], C, m->x[0], C, b->M, C);
    for (Part p = first_part(b); position && p.T; p = next_part(b, p))
        embed_forward(m->x[0] + p.at * C, m->x[0] + p.at * C, position, itself, p.B * p.T, p.T, p.past, C);
    free(itself);
}

// links.c: see links.h. Names first, then where each number lies.
#include "formats/links.h"
#include <stdlib.h>
#include <string.h>

// ---- names -------------------------------------------------------------------------------------
// Splits "layers.3.attn.q.weight" into "attn.q" and ".weight" when row r is about it. A row may also
// name a tensor in full (then there is no suffix).
static bool row_matches(const TensorName *r, unsigned family, const char *tensor, const char **suffix) {
    size_t n = strlen(r->ours);
    *suffix = tensor + n;
    return r->families & family && strncmp(tensor, r->ours, n) == 0 &&
           (tensor[n] == '\0' || (tensor[n] == '.' && !strchr(tensor + n + 1, '.')));
}

static const char *without_layer(const Param *p) {
    return p->layer < 0 ? p->name : strchr(strchr(p->name, '.') + 1, '.') + 1;
}

static void write_name(char out[TENSOR_NAME], const char *prefix, const Param *p, const char *theirs,
                       const char *suffix, size_t expert) {
    char layer[64] = "", number[32];
    const char *star = strchr(theirs, '*');
    if (p->layer >= 0) snprintf(layer, sizeof layer, "%s%d.", prefix, p->layer);
    snprintf(number, sizeof number, "%zu", expert);
    snprintf(out, TENSOR_NAME, "%s%.*s%s%s%s", layer, (int)strcspn(theirs, "*"), theirs, star ? number : "",
             star ? star + 1 : "", suffix);
}

static Link *add_link(Links *all, const Param *p, size_t offset, size_t first_dimension) {
    all->link = xrealloc(all->link, (all->count + 1) * sizeof *all->link);
    Link *k = &all->link[all->count++];
    *k = (Link){.layer = p->layer, .rank = p->rank - first_dimension, .size = 1, .parts = 1, .groups = 1};
    for (size_t d = 0; d < k->rank; d++) k->size *= k->shape[d] = p->shape[first_dimension + d];
    k->columns = k->rank > 1 ? k->shape[k->rank - 1] : 1;
    k->part[0] = (Part){offset, k->size / k->columns};
    return k;
}

// Makes the tensor of this name, which has been begun, longer by p. False where there is none.
static bool join(Links *all, const char *name, const Param *p) {
    for (size_t i = all->count; i-- > 0 && all->link[i].layer == p->layer;) {
        Link *k = &all->link[i];
        if (strcmp(k->name, name) != 0) continue;
        k->part[k->parts++] = (Part){p->offset, p->shape[0] / k->groups};
        k->shape[k->transposed && k->rank > 1] += p->shape[0];
        k->size += p->size;
        return true;
    }
    return false;
}

static void lay_out(Link *k, Layout layout, size_t heads) {
    size_t rows = k->shape[0];
    k->from_one = layout == FROM_ONE;
    k->transposed = (layout == TRANSPOSED && k->rank == 2) || layout == TAPS;
    if (layout == BY_HEAD) k->groups = heads, k->part[0].rows /= heads;
    if (k->transposed) k->shape[0] = k->columns, k->shape[1] = rows;
    if (layout == TAPS) k->shape[2] = rows, k->shape[1] = 1, k->rank = 3;
}

// Of kv_b [H (nope + v), R], the rows of each head that make its keys (turned), or its values.
static void lay_out_part(Link *k, Layout layout, const Config *c) {
    bool keys = layout == KEYS_OF;
    size_t R = k->columns, rows = keys ? c->nope_dim : c->v_dim;
    k->first = keys ? 0 : c->nope_dim, k->stride = c->nope_dim + c->v_dim, k->transposed = keys;
    k->rank = 3, k->shape[0] = c->heads, k->shape[1] = keys ? R : rows, k->shape[2] = keys ? rows : R;
    k->size = c->heads * rows * R;
}

static void link_by_row(Links *all, const Naming *naming, const TensorName *row, const Param *p, const Config *c,
                        const char *suffix, Pairs *pairs) {
    char name[TENSOR_NAME];
    bool experts = strchr(row->theirs, '*') != NULL;
    size_t pieces = experts ? p->shape[0] : 1;
    for (size_t e = 0; e < pieces; e++) {
        write_name(name, naming->layer, p, row->theirs, suffix, e);
        if (!experts && join(all, name, p)) continue;
        Link *k = add_link(all, p, p->offset + e * (p->size / pieces), experts);
        strcpy(k->name, name);
        if (row->layout >= KEYS_OF) lay_out_part(k, row->layout, c);
        else lay_out(k, row->layout, c->heads);
        if (pairs) pairs(k, without_layer(p), c);
    }
}

static void link_theirs(Links *all, const Naming *naming, const Param *p, const Config *c, Pairs *pairs) {
    const char *suffix;
    bool delta = p->layer >= 0 && pattern_at(&c->attn, (size_t)p->layer) == ATTN_gated_delta;
    unsigned bits = naming->family | (delta ? naming->delta : 0);
    const TensorName *row = naming->names;
    while (row->families && !row_matches(row, bits, without_layer(p), &suffix)) row++;
    if (!row->families)
        fail("%s has no tensor for %s; the flags of this model are not its own", naming->owner, p->name);
    link_by_row(all, naming, row, p, c, suffix, pairs);
    if (row->layout == KEYS_OF) link_by_row(all, naming, row + 1, p, c, suffix, pairs);
}

Links links_named(const Model *m, const Naming *naming, Pairs *pairs) {
    const Param *p;
    Links all = {0};
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) link_theirs(&all, naming, &p[i], model_config(m), pairs);
    return all;
}

Links links_ours(const Model *m) {
    const Param *p;
    Links all = {0};
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        Link *k = add_link(&all, &p[i], p[i].offset, 0);
        snprintf(k->name, sizeof k->name, "%s", p[i].name);
    }
    return all;
}

// ---- layouts -----------------------------------------------------------------------------------
bool link_is_plain(const Link *k) { return k->parts == 1 && !k->transposed && !k->rotated && !k->stride; }

// Row r of a tensor whose rotated rows are neighbours, in ours.
static size_t paired_by_halves(const Link *k, size_t r) {
    size_t first = k->head - k->rotated, at = r % k->head;
    if (at < first) return r;
    size_t i = at - first;
    return r - at + first + (i % 2 ? k->rotated / 2 + i / 2 : i / 2);
}

// Number i of one of the two parts of kv_b: of each head some rows, in the order of the file or turned.
static size_t place_in_head(const Link *k, size_t i) {
    size_t each = k->size / k->shape[0], rows = each / k->columns, h = i / each, within = i % each;
    size_t row = k->transposed ? within % rows : within / k->columns;
    size_t column = k->transposed ? within / rows : within % k->columns;
    return k->part[0].offset + (h * k->stride + k->first + row) * k->columns + column;
}

size_t link_place(const Link *k, size_t i) {
    if (k->stride) return place_in_head(k, i);
    size_t rows = k->size / k->columns;
    size_t row = k->transposed ? i % rows : i / k->columns, column = k->transposed ? i / rows : i % k->columns;
    if (k->rotated) row = paired_by_halves(k, row);
    size_t group = row / (rows / k->groups), within = row % (rows / k->groups);
    const Part *part = k->part;
    while (within >= part->rows) within -= part++->rows;
    return part->offset + (group * part->rows + within) * k->columns + column;
}

const real *link_gathered(const Link *k, const real *arena) {
    real *file = xmalloc(k->size * sizeof *file);
    for (size_t i = 0; i < k->size; i++) file[i] = arena[link_place(k, i)];
    return file;
}

const char *link_shape(size_t rank, const size_t *shape, char out[96]) {
    int n = snprintf(out, 96, "[");
    for (size_t d = 0; d < smaller(rank, TENSOR_RANK); d++)
        n += snprintf(out + n, (size_t)(96 - n), d ? ", %zu" : "%zu", shape[d]);
    snprintf(out + n, (size_t)(96 - n), rank > TENSOR_RANK ? ", ...]" : "]");
    return out;
}

// blocks.c: memory of the paged cache, copied, saved, and laid out for one row of a step.
#include "model/blocks.h"
#include "lib/profile.h"
#include "model/layer.h"
#include <stdlib.h>
#include <string.h>

static CacheNeed need_of(const Model *m, size_t l) { return m->layers[l].mixer->cache(&m->layers[l]); }

static void layout_blocks(const Model *m, Blocks *s) {
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        size_t places = size_mul(size_mul(s->count, s->size), need.heads);
        s->k[l] = need.k ? take(&s->arena, size_mul(places, need.k)) : NULL;
        s->v[l] = need.v ? take(&s->arena, size_mul(places, need.v)) : NULL;
        s->state[l] = need.state ? take(&s->arena, size_mul(s->slots, need.state)) : NULL;
    }
}

Blocks *blocks_new(const Model *m, size_t count, size_t block_size, size_t slots) {
    Blocks *s = xmalloc(sizeof *s);
    *s = (Blocks){.count = count, .size = block_size, .slots = slots, .layers = m->c.layers,
                  .arena = {.name = "blocks"}};
    s->k = xmalloc(s->layers * sizeof *s->k), s->v = xmalloc(s->layers * sizeof *s->v);
    s->state = xmalloc(s->layers * sizeof *s->state);
    layout_blocks(m, s);
    arena_commit(&s->arena);
    layout_blocks(m, s);
    return s;
}

void blocks_free(Blocks *s) {
    if (!s) return;
    arena_free(&s->arena);
    cache_free(s->row);
    free(s->k), free(s->v), free(s->state), free(s);
}

// ---- whole blocks --------------------------------------------------------------------------------
// Calls a function on what a block holds in each layer, one piece of memory after the other.
typedef void Visit(void *piece, size_t bytes, void *to);
static void visit(const Model *m, const Blocks *s, uint32_t block, Visit *call, char *to) {
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        size_t k = need.heads * s->size * need.k, v = need.heads * s->size * need.v;
        if (k) call(s->k[l] + block * k, k * sizeof(real), to), to += k * sizeof(real);
        if (v) call(s->v[l] + block * v, v * sizeof(real), to), to += v * sizeof(real);
    }
}
static void save_piece(void *piece, size_t bytes, void *to) { memcpy(to, piece, bytes); }
static void load_piece(void *piece, size_t bytes, void *to) { memcpy(piece, to, bytes); }

size_t blocks_bytes(const Model *m, const Blocks *s) {
    size_t numbers = 0;
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        numbers += need.heads * s->size * (need.k + need.v);
    }
    return numbers * sizeof(real);
}
void blocks_save(const Model *m, const Blocks *s, uint32_t block, void *to) { visit(m, s, block, save_piece, to); }
void blocks_load(const Model *m, Blocks *s, const void *from, uint32_t block) {
    visit(m, s, block, load_piece, (char *)from);
}
void blocks_copy(const Model *m, Blocks *s, uint32_t from, uint32_t to) {
    char *held = xmalloc(blocks_bytes(m, s) + 1);
    blocks_save(m, s, from, held), blocks_load(m, s, held, to);
    free(held);
}

// ---- one row -------------------------------------------------------------------------------------

// A contiguous cache with room for as many positions; its sizes are told to it, whatever windows there are.
static Cache *row_cache(const Model *m, Blocks *s, size_t positions) {
    if (s->row && s->row->capacity >= positions) return s->row;
    cache_free(s->row);
    s->row = cache_new_whole(m, 1, positions + positions / 2);
    return s->row;
}

// Positions from .. from+n-1 of one layer, between the blocks and the contiguous cache.
static void move_positions(real *row, real *blocks, const Row *r, size_t size, size_t heads, size_t slots, size_t width,
                           size_t from, size_t n, bool into_row) {
    for (size_t i = from, here; i < from + n; i += here) {
        size_t at = i % size;
        here = smaller(size - at, from + n - i);
        for (size_t h = 0; h < heads; h++) {
            real *one = row + (h * slots + i) * width;
            real *other = blocks + ((r->block[i / size] * heads + h) * size + at) * width;
            memcpy(into_row ? one : other, into_row ? other : one, here * width * sizeof(real));
        }
    }
}

Cache *blocks_open(const Model *m, Blocks *s, size_t l, const Row *r) {
    Cache *c = row_cache(m, s, r->past + r->n);
    CacheNeed need = need_of(m, l);
    PROFILE(cache, 0, 2 * r->past * need.heads * (need.k + need.v));
    c->length = r->past, c->first[l] = 0;
    if (need.k) move_positions(c->k[l], s->k[l], r, s->size, need.heads, c->slots[l], need.k, 0, r->past, true);
    if (need.v) move_positions(c->v[l], s->v[l], r, s->size, need.heads, c->slots[l], need.v, 0, r->past, true);
    if (!need.state) return c;
    real *kept = s->state[l] + r->slot * need.state;
    if (!r->past) memset(kept, 0, need.state * sizeof *kept);
    memcpy(c->state[l], kept, need.state * sizeof *kept);
    return c;
}

void blocks_close(const Model *m, Blocks *s, size_t l, const Row *r) {
    Cache *c = s->row;
    CacheNeed need = need_of(m, l);
    PROFILE(cache, 0, 2 * r->n * need.heads * (need.k + need.v));
    if (need.k) move_positions(c->k[l], s->k[l], r, s->size, need.heads, c->slots[l], need.k, r->past, r->n, false);
    if (need.v) move_positions(c->v[l], s->v[l], r, s->size, need.heads, c->slots[l], need.v, r->past, r->n, false);
    if (need.state) memcpy(s->state[l] + r->slot * need.state, c->state[l], need.state * sizeof(real));
}

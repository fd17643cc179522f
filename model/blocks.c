// blocks.c: memory of the paged cache, copied and saved.
#include "model/blocks.h"
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

// cache.c: see cache.h.
#include "model/cache.h"
#include "model/layer.h"
#include <stdlib.h>

Cache *cache_new_kept(const Model *m, size_t rows, size_t capacity, const KeepOptions *o, size_t prompt) {
    Cache *c = xmalloc(sizeof *c);
    KeepOptions fitted = *o;
    keep_fit(m, &fitted), o = &fitted;
    size_t slots = keep_is_on(o) ? round_up(keep_most(o, prompt, 0, capacity), 16) : capacity;
    *c = (Cache){.rows = rows, .capacity = capacity, .blocks = blocks_new_long(m, rows, slots, o),
                 .row = xmalloc(size_mul(rows, sizeof *c->row)), .table = xmalloc(size_mul(rows, sizeof *c->table))};
    for (size_t r = 0; r < rows; r++)
        c->table[r] = (uint32_t)r, c->row[r] = (Row){.block = c->table + r, .prompt = prompt};
    return c;
}
Cache *cache_new(const Model *m, size_t rows, size_t capacity) {
    KeepOptions all = keep_everything();
    return cache_new_kept(m, rows, capacity, &all, 0);
}

Cache *cache_repeat(const Model *m, const Cache *c, size_t rows) {
    Cache *all = cache_new_kept(m, rows, c->capacity, &c->blocks->keep.o, c->row->prompt);
    all->length = c->length;
    size_t slots = keep_most(&c->blocks->keep.o, c->row->prompt, c->length, c->length);
    for (size_t r = 0; r < rows; r++) blocks_copy_to(m, all->blocks, (uint32_t)r, c->blocks, 0, slots);
    return all;
}

void cache_free(Cache *c) {
    if (!c) return;
    blocks_free(c->blocks);
    free(c->row), free(c->table), free(c);
}
size_t cache_length(const Cache *c) { return c->length; }
size_t cache_held(const Cache *c) { return keep_held(&c->blocks->keep.o, c->row->prompt, c->length); }

bool cache_holds(const Model *m, const Cache *c, size_t position) {
    const Keep *keep = &c->blocks->keep;
    bool pools = keep->o.policy == KV_POLICY_pool;
    if (!keep_evicts(&keep->o)) return position < c->length;
    for (size_t l = 0; l < m->c.layers; l++)
        for (size_t g = 0; g < m->layers[l].mixer->cache(&m->layers[l]).heads; g++)
            for (size_t i = g * c->blocks->slots[l], end = i + cache_held(c); i < end; i++) {
                size_t run = pools ? (size_t)keep->score[l][i] : 1, first = keep->at[l][i] - (run - 1) / 2;
                if (position >= first && position < first + run) return true;
            }
    return false;
}

void cache_rewind(Cache *c, size_t length) {
    if (length >= c->length) return;
    blocks_rewind(c->blocks, c->length, length);
    c->length = length;
}

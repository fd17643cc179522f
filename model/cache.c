// cache.c: see cache.h.
#include "model/cache.h"
#include <stdlib.h>

Cache *cache_new(const Model *m, size_t rows, size_t capacity) {
    Cache *c = xmalloc(sizeof *c);
    *c = (Cache){.rows = rows, .capacity = capacity, .blocks = blocks_new_long(m, rows, capacity),
                 .row = xmalloc(size_mul(rows, sizeof *c->row)), .table = xmalloc(size_mul(rows, sizeof *c->table))};
    for (size_t r = 0; r < rows; r++) c->table[r] = (uint32_t)r, c->row[r] = (Row){.block = c->table + r};
    return c;
}

Cache *cache_repeat(const Model *m, const Cache *c, size_t rows) {
    Cache *all = cache_new(m, rows, c->capacity);
    all->length = c->length;
    for (size_t r = 0; r < rows; r++) blocks_copy_to(m, all->blocks, (uint32_t)r, c->blocks, 0, c->length);
    return all;
}

void cache_free(Cache *c) {
    if (!c) return;
    blocks_free(c->blocks);
    free(c->row), free(c->table), free(c);
}
size_t cache_length(const Cache *c) { return c->length; }

void cache_rewind(Cache *c, size_t length) {
    if (length >= c->length) return;
    blocks_rewind(c->blocks, c->length, length);
    c->length = length;
}

// cache.c: memory for what a model remembers of its texts, copied and rewound. The mixers fill it.
#include "model/layer.h"
#include <stdlib.h>
#include <string.h>

static void layout_cache(const Model *m, Cache *c) {
    for (size_t l = 0; l < c->layers; l++) {
        const Layer *layer = &m->layers[l];
        CacheNeed need = layer->mixer->cache(layer);
        c->slots[l] = layer->mha.cache_slots && !c->whole ? smaller(layer->mha.cache_slots, c->capacity) : c->capacity;
        if (keep_is_on(&c->keep.o)) c->slots[l] = round_up(keep_most(&c->keep.o, c->prompt, 0, c->capacity), 16);
        c->window[l] = layer->mha.window;
        size_t slots = size_mul(size_mul(c->rows, need.heads), c->slots[l]);
        c->k[l] = need.k ? take(&c->arena, size_mul(slots, need.k)) : NULL;
        c->v[l] = need.v ? take(&c->arena, size_mul(slots, need.v)) : NULL;
        if (keep_evicts(&c->keep.o)) {
            c->keep.at[l] = arena_take(&c->arena, size_mul(slots, sizeof **c->keep.at));
            c->keep.score[l] = take(&c->arena, slots);
        }
        c->state[l] = need.state ? take(&c->arena, size_mul(c->rows, need.state)) : NULL, c->state_size[l] = need.state;
    }
}

static Cache *make_cache(const Model *m, size_t rows, size_t capacity, bool whole, KeepOptions o, size_t prompt) {
    Cache *c = xmalloc(sizeof *c);
    *c = (Cache){.rows = rows, .capacity = capacity, .layers = m->c.layers, .whole = whole, .arena = {.name = "cache"},
                 .keep.o = o, .prompt = prompt};
    c->keep.at = xmalloc(c->layers * sizeof *c->keep.at), c->keep.score = xmalloc(c->layers * sizeof *c->keep.score);
    c->k = xmalloc(c->layers * sizeof *c->k), c->v = xmalloc(c->layers * sizeof *c->v);
    c->slots = xmalloc(c->layers * sizeof *c->slots), c->first = xmalloc(c->layers * sizeof *c->first);
    c->window = xmalloc(c->layers * sizeof *c->window);
    c->state = xmalloc(c->layers * sizeof *c->state), c->state_size = xmalloc(c->layers * sizeof *c->state_size);
    layout_cache(m, c);
    arena_commit(&c->arena);
    layout_cache(m, c);
    return c;
}
Cache *cache_new(const Model *m, size_t rows, size_t capacity) {
    return make_cache(m, rows, capacity, false, keep_everything(), 0);
}
Cache *cache_new_whole(const Model *m, size_t rows, size_t capacity) {
    return make_cache(m, rows, capacity, true, keep_everything(), 0);
}
Cache *cache_new_kept(const Model *m, size_t rows, size_t capacity, const KeepOptions *o, size_t prompt) {
    const char *refusal = keep_refusal(m, o);
    if (refusal) usage_error("this model's cache keeps all of a text, exactly (--kv-policy full, --kv-bits 32): %s",
                             refusal);
    return make_cache(m, rows, capacity, false, *o, prompt);
}

Cache *cache_repeat(const Model *m, const Cache *c, size_t rows) {
    Cache *all = make_cache(m, rows, c->capacity, false, c->keep.o, c->prompt);
    all->length = c->length;
    for (size_t l = 0; l < c->layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        size_t slots = c->slots[l], known = cache_held(c) - c->first[l];
        size_t held = known * sizeof(real);
        all->first[l] = c->first[l];
        for (size_t b = 0; b < rows; b++)
            if (need.state) memcpy(all->state[l] + b * need.state, c->state[l], need.state * sizeof(real));
        for (size_t h = 0; h < rows * need.heads; h++) {
            size_t to = h * slots, from = h % need.heads * slots;
            if (need.k) memcpy(all->k[l] + to * need.k, c->k[l] + from * need.k, held * need.k);
            if (need.v) memcpy(all->v[l] + to * need.v, c->v[l] + from * need.v, held * need.v);
            if (!keep_evicts(&c->keep.o)) continue;
            memcpy(all->keep.at[l] + to, c->keep.at[l] + from, known * sizeof **c->keep.at);
            memcpy(all->keep.score[l] + to, c->keep.score[l] + from, held);
        }
    }
    return all;
}

void cache_free(Cache *c) {
    if (!c) return;
    arena_free(&c->arena);
    free(c->keep.at), free(c->keep.score);
    free(c->k), free(c->v), free(c->slots), free(c->first), free(c->window), free(c->state), free(c->state_size);
    free(c);
}
size_t cache_length(const Cache *c) { return c->length; }

size_t cache_held(const Cache *c) { return keep_held(&c->keep.o, c->prompt, c->length); }

bool cache_holds(const Model *m, const Cache *c, size_t position) {
    bool pools = c->keep.o.policy == KV_POLICY_pool;
    size_t held = cache_held(c);
    if (!keep_evicts(&c->keep.o)) return position < c->length;
    for (size_t l = 0; l < c->layers; l++)
        for (size_t g = 0; g < m->layers[l].mixer->cache(&m->layers[l]).heads; g++)
            for (size_t i = 0; i < held; i++) {
                size_t run = pools ? (size_t)c->keep.score[l][g * c->slots[l] + i] : 1;
                size_t first = c->keep.at[l][g * c->slots[l] + i] - (run - 1) / 2;
                if (position >= first && position < first + run) return true;
            }
    return false;
}

void cache_rewind(Cache *c, size_t length) {
    if (length >= c->length) return;
    if (length && keep_alters(&c->keep.o))
        fail("a cache of %zu tokens cannot go back to %zu: what has gone or been rounded since then does not come back",
             c->length, length);
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

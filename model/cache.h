// cache.h: what a model remembers of the texts that it is writing: keys and values after RoPE for mha, gqa and swa (of
// its window), latent and rotated key for mla (read with absorbed matrices), a state for linear mixers.
#ifndef CACHE_H
#define CACHE_H
#include "model/keep.h"

// k and v of layer l: [rows, key heads, slots[l], D] from position first[l] on, so that decoding reads a head's past
// from one end to the other; mla: k holds [latent | rotated key], as of one head, v is NULL. There are as many slots as
// the capacity, but for swa, which drops what its window has left behind. Linear mixers have neither, but a state
// [rows, numbers] that stays as large as it is.
typedef struct {
    size_t rows, length, capacity, layers, *slots, *first, *window, *state_size;
    bool whole;              // windows drop nothing
    real **k, **v, **state;
    Keep keep; size_t prompt;      // what is kept of a text that began with so many tokens (keep.h)
    Arena arena;
} Cache;

// For `rows` sequences of the same length, of up to `capacity` tokens each.
Cache *cache_new(const Model *m, size_t rows, size_t capacity);
Cache *cache_new_whole(const Model *m, size_t rows, size_t capacity);    // with all positions, whatever windows see
// One that keeps what the options say of texts that begin with a prompt of so many tokens. A slot is then not of a
// position, and there are as many as are ever used.
Cache *cache_new_kept(const Model *m, size_t rows, size_t capacity, const KeepOptions *o, size_t prompt);
// A cache of `rows` sequences that all go on from the first one in c. No number of a row depends on another row
// of its batch, so these are the bits that every row would have got from reading those tokens itself.
Cache *cache_repeat(const Model *m, const Cache *c, size_t rows);
void cache_free(Cache *c);
size_t cache_length(const Cache *c);
size_t cache_held(const Cache *c);           // slots of a head in use: as many as tokens, unless pairs have gone
// Whether any head of any layer still has the pair of this position, of the first text; of pool: in one of its means.
bool cache_holds(const Model *m, const Cache *c, size_t position);
// Forgets all but the first `length` tokens; fails where a window has moved on by more than a tile since then, or
// where there is a recurrent state, or where pairs may have gone or been rounded, which can only forget everything.
void cache_rewind(Cache *c, size_t length);

// Where a position of a head (of all heads of all rows) stands in the cache of layer l.
static inline size_t cache_slot(const Cache *c, size_t l, size_t head, size_t position) {
    return head * c->slots[l] + position - c->first[l];
}
#endif

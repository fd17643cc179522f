// cache.h: what a model remembers of the texts that it is writing: a paged cache (blocks.h) with one long block for
// each. All are of the same length, so model_infer (model.h) need not be told where they stand.
#ifndef CACHE_H
#define CACHE_H
#include "model/blocks.h"

// Row r of the next step has block r. length: tokens that all of them hold.
typedef struct { size_t rows, length, capacity; Blocks *blocks; Row *row; uint32_t *table; } Cache;

// For `rows` sequences of the same length, of up to `capacity` tokens each.
Cache *cache_new(const Model *m, size_t rows, size_t capacity);
// One that keeps what the options say (keep.h) of texts that begin with a prompt of so many tokens. A block then has as
// many slots as are ever used.
Cache *cache_new_kept(const Model *m, size_t rows, size_t capacity, const KeepOptions *o, size_t prompt);
// A cache of `rows` sequences that all go on from the first one in c. No number of a row depends on another row
// of its batch, so these are the bits that every row would have got from reading those tokens itself.
Cache *cache_repeat(const Model *m, const Cache *c, size_t rows);
void cache_free(Cache *c);
size_t cache_length(const Cache *c);
size_t cache_held(const Cache *c);           // pairs of a head: as many as tokens, unless some have gone
// Whether any head of any layer still has the pair of this position, of the first text; of pool: in one of its means.
bool cache_holds(const Model *m, const Cache *c, size_t position);
// Forgets all but the first `length` tokens; fails where a window has moved on by more than a tile since then, or
// where there is a recurrent state, or where pairs may have gone or been rounded, which can only forget everything.
void cache_rewind(Cache *c, size_t length);
#endif

// blocks.h: the paged cache: keys and values of many sequences in blocks of a few positions each, and what recurrent
// mixers remember in slots of their own. Which block belongs to whom is decided elsewhere (infer/pool.h); here is only
// the memory. model_step (model.h) computes over it.
#ifndef BLOCKS_H
#define BLOCKS_H
#include "model/cache.h"

// k of layer l: [blocks, key heads, block size, numbers], v likewise (NULL for mla, whose latent is in k);
// state: [slots, numbers], NULL for softmax attention.
typedef struct {
    size_t count, size, slots, layers;
    real **k, **v, **state;
    Arena arena;
} Blocks;

Blocks *blocks_new(const Model *m, size_t count, size_t block_size, size_t slots);
void blocks_free(Blocks *s);
size_t blocks_bytes(const Model *m, const Blocks *s);            // of one block, in all layers
void blocks_copy(const Model *m, Blocks *s, uint32_t from, uint32_t to);
void blocks_save(const Model *m, const Blocks *s, uint32_t block, void *to);     // blocks_bytes
void blocks_load(const Model *m, Blocks *s, const void *from, uint32_t block);

// n new tokens of a sequence that has `past` tokens in the cache. Positions [i size, (i+1) size) stand in block[i]; the
// table covers past + n. Logits are wanted of tokens logits_from .. n-1. slot: of its recurrent state, which begins
// anew where past is 0.
typedef struct { const int *tokens; size_t n, past; const uint32_t *block; size_t logits_from, slot; } Row;

// Where a position of a head of the row stands in the blocks of a layer that has `heads` of them.
static inline size_t block_slot(const Blocks *s, const Row *r, size_t heads, size_t head, size_t position) {
    return (r->block[position / s->size] * heads + head) * s->size + position % s->size;
}
#endif

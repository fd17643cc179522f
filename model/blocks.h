// blocks.h: the paged cache: keys and values of many sequences in blocks of a few positions each. Which block belongs
// to whom is decided elsewhere (infer/pool.h); here is only the memory. model_step (model.h) computes over it.
//
// A recurrent mixer keeps a state that is as large however long the text is. Here it belongs to the block that holds
// the last position that went into it, and is copied, saved and loaded with that block. Blocks get memory for one when
// they need it: without snapshots a text has one state, which goes along from block to block; with snapshots every full
// block keeps its own, so that another text can go on from there.
#ifndef BLOCKS_H
#define BLOCKS_H
#include "model/keep.h"

// Of all layers after the first `length` tokens of a text; numbers: NULL, or [state_at[layers]].
typedef struct { real *numbers; size_t length; } State;

// Keys and values after RoPE for mha, gqa and swa, latent and rotated key for mla (read with absorbed matrices), a
// state for linear mixers. k of layer l: [blocks, key heads, slots[l], numbers], v likewise (NULL for mla, whose latent
// is in k); the state of layer l begins at state_at[l]. A block has as many slots as positions. But of long blocks, one
// for each text and all texts of the same length, swa drops what its window has left behind: the slots are then those
// of the positions from first[l] on.
typedef struct {
    size_t count, size, layers, *slots, *first, *window;
    real **k, **v;           // numbers, or what the options of `keep` have made of them
    size_t *k_bytes, *v_bytes;          // of a slot
    size_t *state_at;
    State *state;            // [count]
    bool snapshots;
    Keep keep;               // at, score: [blocks, key heads, slots]
    void (*filled)(void *owner, size_t l); void *owner;     // NULL, or called in a step when layer l has set all of its
    bool *unheld;            // NULL, or of each row of a step: it had numbers that `keep` cannot hold; else they fail()
    real **spare; size_t spares;        // memory of states that nobody needs now
    Arena arena;
} Blocks;

Blocks *blocks_new(const Model *m, size_t count, size_t block_size);
// What is kept of each text, in its blocks, is as the options say. A block's places are then of slots (keep.h) and not
// of positions, a row needs a table for keep_most() of them, and tells how long its prompt is.
Blocks *blocks_new_kept(const Model *m, size_t count, size_t block_size, const KeepOptions *o);
Blocks *blocks_new_long(const Model *m, size_t count, size_t capacity, const KeepOptions *o);
void blocks_free(Blocks *s);
size_t blocks_bytes(const Model *m, const Blocks *s);            // of one block, in all layers, and its state
void blocks_copy(const Model *m, Blocks *s, uint32_t from, uint32_t to);
// The first `length` positions, or slots, of a block of others, which has as many slots.
void blocks_copy_to(const Model *m, Blocks *s, uint32_t to, const Blocks *others, uint32_t from, size_t length);
void blocks_save(const Model *m, const Blocks *s, uint32_t block, void *to);     // blocks_bytes
void blocks_load(const Model *m, Blocks *s, const void *from, uint32_t block);

// n new tokens of a sequence that has `past` tokens in the cache. Positions [i size, (i+1) size) stand in block[i]; the
// table covers past + n. Logits are wanted of tokens logits_from .. n-1. prompt: for blocks_new_kept.
typedef struct { const int *tokens; size_t n, past; const uint32_t *block; size_t logits_from, prompt; } Row;

// Where a position of a head of the row stands in the blocks of layer l, which has `heads` of them.
static inline size_t block_slot(const Blocks *s, size_t l, const Row *r, size_t heads, size_t head, size_t position) {
    return (r->block[position / s->size] * heads + head) * s->slots[l] + position % s->size - s->first[l];
}

// Long blocks. Where the slots of layer l are used up, drops tiles that no query will see again, but for one more that
// a rewind may want back. Returns how many of n new positions there are slots for behind `length` of them.
size_t blocks_slide(const Model *m, Blocks *s, size_t l, size_t length, size_t n);
// Back from `length` positions to fewer; fails where a window, a recurrent state or what blocks_new_kept lets go cannot
// go back.
void blocks_rewind(Blocks *s, size_t length, size_t to);

// How many of `past` tokens in these blocks a row can come after: all of them, but with recurrent states those up to
// the last one that is still there.
size_t blocks_resume(const Blocks *s, const uint32_t *block, size_t past);
// For model_step: gives the blocks of its rows the states that they will set. Then the layers go through the row in
// stretches: the next one after `done` of its tokens, from the state `from` (NULL: nothing has been yet) to the state
// `to`.
void blocks_take_states(Blocks *s, const Row *rows, size_t count);
typedef struct { size_t n; const real *from; real *to; } Stretch;
Stretch blocks_stretch(const Blocks *s, const Row *r, size_t done, size_t layer);
#endif

// pool.c: blocks with counts of their holders. The list of free blocks is also the list of cached ones, least recently
// used first (as vLLM has it): a published block keeps its tokens when its last holder has left, and can be held again
// until it is taken for something else.
#include "infer/pool.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t holders, previous, next;    // in the list of free blocks
    uint32_t chain;                      // the next published block in the same bucket
    uint64_t hash, before, mark;         // mark 0: not published
} Block;

struct Pool {
    size_t blocks, block_size, available, swap_available, buckets;
    uint64_t key, last_mark, hash_mask;
    Block *block;                        // [blocks + 1]: the last one is both ends of the list of free blocks
    int *token;                          // [blocks, block_size], of published blocks
    uint32_t *bucket, *swap;
};

static void unlink_block(Pool *p, uint32_t b) {
    Block *x = p->block;
    x[x[b].previous].next = x[b].next, x[x[b].next].previous = x[b].previous;
    p->available--;
}

static void append_block(Pool *p, uint32_t b) {
    Block *x = p->block;
    uint32_t end = (uint32_t)p->blocks, last = x[end].previous;
    x[b].previous = last, x[b].next = end;
    x[last].next = x[end].previous = b;
    p->available++;
}

Pool *pool_new(size_t blocks, size_t block_size, size_t swap_blocks, uint64_t key, unsigned hash_bits) {
    Pool *p = xmalloc(sizeof *p);
    *p = (Pool){.blocks = blocks, .block_size = block_size, .swap_available = swap_blocks, .buckets = 1, .key = key,
                .hash_mask = hash_bits < 64 ? ((uint64_t)1 << hash_bits) - 1 : UINT64_MAX};
    while (p->buckets < blocks) p->buckets *= 2;
    p->block = xmalloc(size_mul(blocks + 1, sizeof *p->block));
    p->token = xmalloc(size_mul(size_mul(blocks, block_size), sizeof *p->token));
    p->bucket = xmalloc(size_mul(p->buckets, sizeof *p->bucket));
    p->swap = xmalloc(size_mul(swap_blocks + 1, sizeof *p->swap));
    memset(p->bucket, 0xff, p->buckets * sizeof *p->bucket);
    p->block[blocks].previous = p->block[blocks].next = (uint32_t)blocks;
    for (size_t i = 0; i < blocks; i++) append_block(p, (uint32_t)i);
    for (size_t i = 0; i < swap_blocks; i++) p->swap[i] = (uint32_t)(swap_blocks - 1 - i);
    return p;
}

void pool_free(Pool *p) {
    free(p->block), free(p->token), free(p->bucket), free(p->swap), free(p);
}

size_t pool_blocks(const Pool *p) { return p->blocks; }
size_t pool_block_size(const Pool *p) { return p->block_size; }
size_t pool_available(const Pool *p) { return p->available; }
size_t pool_holders(const Pool *p, uint32_t b) { return p->block[b].holders; }
bool pool_is_fixed(const Pool *p, uint32_t b) { return p->block[b].holders > 1 || p->block[b].mark; }
uint64_t pool_mark(const Pool *p, uint32_t b) { return p->block[b].mark; }

// ---- who holds it --------------------------------------------------------------------------------

static void forget(Pool *p, uint32_t b) {
    uint32_t *at = &p->bucket[p->block[b].hash & (p->buckets - 1)];
    while (*at != b) at = &p->block[*at].chain;
    *at = p->block[b].chain;
    p->block[b].mark = 0;
}

uint32_t pool_take(Pool *p) {
    uint32_t b = p->block[p->blocks].next;
    if (b == p->blocks) fail("a block was taken from a pool that has none left; please report this");
    unlink_block(p, b);
    if (p->block[b].mark) forget(p, b);
    p->block[b].holders = 1;
    return b;
}

void pool_hold(Pool *p, uint32_t b) {
    if (p->block[b].holders++ == 0) unlink_block(p, b);
}

// The last block first: the next that is taken is then the end of a text, which is of use to fewer than its beginning.
void pool_drop(Pool *p, const uint32_t *block, size_t n) {
    while (n-- > 0)
        if (--p->block[block[n]].holders == 0) append_block(p, block[n]);
}

// ---- what is in it -------------------------------------------------------------------------------

uint64_t pool_root(uint64_t domain) { return domain | (uint64_t)1 << 63; }

static uint64_t hash_of(const Pool *p, uint64_t before, const int *token) {
    uint64_t start[2] = {p->key, before};
    uint64_t h = hash_bytes(hash_bytes(HASH_START, start, sizeof start), token, p->block_size * sizeof *token);
    return (h ^ h >> 32) & p->hash_mask;
}

// A hash alone proves nothing: the tokens are compared, and what came before them, so that a collision is a miss.
uint32_t pool_find(const Pool *p, uint64_t before, const int *token) {
    uint64_t h = hash_of(p, before, token);
    size_t bytes = p->block_size * sizeof *token;
    uint32_t b = p->bucket[h & (p->buckets - 1)];
    for (; b != NO_BLOCK; b = p->block[b].chain) {
        const Block *x = &p->block[b];
        if (x->hash == h && x->before == before && !memcmp(p->token + b * p->block_size, token, bytes)) return b;
    }
    return NO_BLOCK;
}

// Two requests may compute the same block at the same time: both stay, with one mark, so that what follows either is
// found after both.
uint64_t pool_publish(Pool *p, uint32_t b, uint64_t before, const int *token) {
    Block *x = &p->block[b];
    if (x->mark) return x->mark;
    uint32_t twin = pool_find(p, before, token);
    x->hash = hash_of(p, before, token), x->before = before;
    x->mark = twin == NO_BLOCK ? ++p->last_mark : p->block[twin].mark;
    memcpy(p->token + b * p->block_size, token, p->block_size * sizeof *token);
    uint32_t *bucket = &p->bucket[x->hash & (p->buckets - 1)];
    x->chain = *bucket, *bucket = b;
    return x->mark;
}

// ---- the swap area -------------------------------------------------------------------------------

size_t pool_swap_available(const Pool *p) { return p->swap_available; }
uint32_t pool_swap_take(Pool *p) { return p->swap[--p->swap_available]; }
void pool_swap_give(Pool *p, uint32_t place) { p->swap[p->swap_available++] = place; }

// ---- the check -----------------------------------------------------------------------------------

static bool is_in_its_bucket(const Pool *p, uint32_t b) {
    uint32_t at = p->bucket[p->block[b].hash & (p->buckets - 1)];
    while (at != b && at != NO_BLOCK) at = p->block[at].chain;
    return at == b;
}

const char *pool_check(const Pool *p, const uint32_t *held) {
    size_t listed = 0, unheld = 0;
    for (uint32_t b = p->block[p->blocks].next; b != p->blocks; b = p->block[b].next, listed++) {
        if (listed > p->blocks) return "the list of free blocks is a circle";
        if (p->block[b].holders) return "a block on the list of free ones is held";
        if (p->block[p->block[b].next].previous != b) return "the list of free blocks is torn";
    }
    for (uint32_t b = 0; b < p->blocks; b++) {
        const Block *x = &p->block[b];
        unheld += x->holders == 0;
        if (x->holders != held[b]) return "a block's count is not the number of tables that hold it";
        if (x->mark && !is_in_its_bucket(p, b)) return "a published block cannot be found";
        if (x->mark && x->hash != hash_of(p, x->before, p->token + b * p->block_size))
            return "a hash is not of its tokens";
    }
    if (listed != p->available || unheld != listed) return "free and held blocks are not all blocks";
    return NULL;
}

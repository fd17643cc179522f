// pool.h: keys and values live in blocks of a few positions, and a request has a table of blocks. Who holds which,
// which blocks can be found again by the tokens in them, and which may be given away. The blocks' contents are
// elsewhere: what has to be copied, saved or loaded is said to the one who has them (infer/sched.h).
#ifndef POOL_H
#define POOL_H
#include "lib/util.h"

typedef struct Pool Pool;
#define NO_BLOCK UINT32_MAX

// key: of the hash; nothing that a request gets depends on it. hash_bits: 64, or fewer in tests, which want collisions.
Pool *pool_new(size_t blocks, size_t block_size, size_t swap_blocks, uint64_t key, unsigned hash_bits);
void pool_free(Pool *p);
size_t pool_blocks(const Pool *p);
size_t pool_block_size(const Pool *p);

size_t pool_available(const Pool *p);                        // blocks that nobody holds
uint32_t pool_take(Pool *p);                                 // the one of these that was given back first
void pool_hold(Pool *p, uint32_t block);                     // one more table has it
void pool_drop(Pool *p, const uint32_t *block, size_t n);    // a table gives its blocks back, the last one first
size_t pool_holders(const Pool *p, uint32_t block);
bool pool_is_fixed(const Pool *p, uint32_t block);           // others hold or may find it: never written, but copied

// A published block can be found by its tokens and by the mark of the block before it. Blocks with the same tokens
// after the same past have the same mark; no other two ever have. The first block comes after its domain's root: what
// else decides about keys and values (weights, rotations, codec).
uint64_t pool_root(uint64_t domain);
uint64_t pool_publish(Pool *p, uint32_t block, uint64_t before, const int *token);   // its mark
uint32_t pool_find(const Pool *p, uint64_t before, const int *token);                // or NO_BLOCK
uint64_t pool_mark(const Pool *p, uint32_t block);           // 0: not published

// Places outside of the pool for the contents of preempted requests.
size_t pool_swap_available(const Pool *p);
uint32_t pool_swap_take(Pool *p);
void pool_swap_give(Pool *p, uint32_t place);

// NULL, or what is wrong. held[block]: in how many tables it is.
const char *pool_check(const Pool *p, const uint32_t *held);
#endif

// keep_attention.h: attention over a cache that does not keep everything, or not exactly (model/keep.h): appends the
// new tokens of each text to its slots, lets kernels/attention.c read those, and clears up behind the queries.
#ifndef KEEP_ATTENTION_H
#define KEEP_ATTENTION_H
#include "kernels/attention.h"
#include "model/layer.h"

// Whether the cache of this batch is of that kind; and whether its keys are rotated when they are read, not before.
bool keep_batch(const Batch *b);
bool keep_rotates(const Batch *b);
// q [M, q_stride]; k, v [M, kv_stride] of the new tokens, head g at g*D and g*Dv; v NULL: the first Dv numbers of k.
// out as of attention_forward, of which lse and probability are not asked.
typedef struct { const real *q; size_t q_stride; const real *k, *v; size_t kv_stride; } KeepInput;
void keep_attention(Model *m, size_t l, AttnOutput o, KeepInput in, AttnShape s, const Batch *b);
#endif

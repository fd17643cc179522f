// rng.h: counter-based random numbers: a value depends on (seed, purpose, index) and on nothing
// else, so data order, initialisation and sampling never depend on call order, on threads, or on
// whether a run was resumed. Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011.
#ifndef RNG_H
#define RNG_H
#include "lib/util.h"

typedef enum {
    RNG_INIT = 1, RNG_DATA, RNG_VALIDATION, RNG_SAMPLE, RNG_WORLD, RNG_TEST, RNG_HASH,
    RNG_DRAFT, RNG_ACCEPT, RNG_RESIDUAL, RNG_KEEP, RNG_PROMPT,
} RngPurpose;  // RNG_WORLD: the fixed facts of a synthetic source (its transition matrix, its table); RNG_HASH: experts
               // by hash; then three of speculation; RNG_KEEP: --kv-policy random; RNG_PROMPT: --prompts

void philox(uint32_t out[4], uint64_t seed, uint64_t purpose, uint64_t index);

// A stream: successive numbers of one (seed, purpose, index), for generators that need many.
typedef struct { uint64_t seed, purpose, index; uint32_t block; uint32_t have, buffer[4]; } Rng;
Rng rng_stream(uint64_t seed, uint64_t purpose, uint64_t index);
uint32_t rng_u32(Rng *r);
double rng_uniform(Rng *r);                   // [0, 1), 53 bits, no libm
uint32_t rng_below(Rng *r, uint32_t n);       // 0 .. n-1, unbiased (Lemire's rejection)
double rng_normal(Rng *r);                    // Box-Muller over numeric.h: same bits everywhere
#endif

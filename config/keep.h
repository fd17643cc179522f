// keep.h: what follows from the section keep.def, in ./generate and ./serve.
#ifndef CONFIG_KEEP_H
#define CONFIG_KEEP_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
    int policy;                  // KV_POLICY_...
    size_t budget, from;         // from: 0, or after how many tokens pairs begin to go
    bool packed;                 // rotations by place
    uint64_t seed;               // of random
    size_t bits, group, residual;
    int quant;                   // WEIGHTS_...: the format of each token by itself
    size_t ahead;                // guesses that may be taken back (--draft): so many of the last tokens stay whole, too
    size_t sealed;               // slots that a packed group takes (model/keep.h: keep_fit); 0: one a token
    const bool *wanted; size_t wanted_count;       // oracle: of each position, whether it will be asked for
} KeepOptions;

static inline KeepOptions keep_everything(void) { return (KeepOptions){.policy = KV_POLICY_full, .bits = 32}; }
// Of a program that has the section; refuses what cannot be.
KeepOptions keep_options(const FlagTable *t, const void *options);
#endif

// served.h: a model over its paged cache, as what an engine computes with. What a request gets is a function of the
// weights, its prompt, the sampling options and its seed alone: ./generate --seed S writes the same text as request i
// of --seed S - i.
#ifndef SERVED_H
#define SERVED_H
#include "infer/engine.h"
#include "infer/sample.h"
#include "infer/tier.h"

typedef struct {
    Model *model; Blocks *blocks;
    size_t spoken;                       // tokens that its tokenizer has: others are never drawn
    SampleOptions options;               // the seed of request r is options.seed + r->seed
    char *swap; size_t places;           // [places] blocks, or NULL
    Tier *tier;                          // or in a file
    Row *row;                            // [running]
    real *logits, *draw; size_t wanted;  // [wanted, V] of the step; one row to draw from
    size_t *first;                       // of each row's logits
    size_t again;                        // tokens computed again, because no recurrent state was left before them
} Served;

Served *served_new(Model *m, size_t blocks, size_t block_size, size_t running, size_t places, SampleOptions o,
                   size_t spoken);
void served_free(Served *s);
Backend served_backend(Served *s);
// Before the first step: what its cache keeps (model/keep.h). Where that is less than all, served_slots of these
// options tells the scheduler (SchedOptions.slots) how many places a request needs.
void served_keep(Served *s, const KeepOptions *o);
// After that: what is swapped goes to a new file (infer/tier.h).
void served_tier(Served *s, const char *path);
size_t served_slots(const void *keep, size_t prompt, size_t from, size_t to);
// Whether the model has recurrent states. Then a block that others find or share is of use to them only if it has kept
// its state, which takes memory: before the first step.
bool served_has_state(const Model *m);
void served_keep_snapshots(Served *s);
#endif

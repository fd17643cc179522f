// served.h: a model over its paged cache, as what an engine computes with. What a request gets is a function of the
// weights, its prompt, the sampling options and its seed alone: ./generate --seed S writes the same text as request i
// of --seed S - i.
#ifndef SERVED_H
#define SERVED_H
#include "infer/engine.h"
#include "infer/sample.h"
#include "infer/tier.h"

// How the tokens of a request are drawn: token p is draw number first + p of these options.
typedef struct { SampleOptions options; uint64_t first; } Drawing;

// A smaller model that guesses for all texts at once (infer/speculate.h). It reads what the model reads, in the same
// step, and keeps its keys in blocks of the same numbers: whatever becomes of a block, found, shared, copied, swapped
// or given away, becomes of both. So a text that goes on has nothing to read again, and memory is a sum.
typedef struct {
    Model *model; Blocks *blocks; char *swap;
    bool ratio;
    size_t known;                        // positions: beyond them nothing is guessed
    Row *row; size_t *who;               // [running] of a round: rows, and whose they are
    real *logits;                        // [running, V] of a round
    int *guess; real *weights; size_t room;      // [wanted], -1: none; with ratio [wanted, V]: where each came from
} Guesser;

typedef struct {
    Model *model; Blocks *blocks;
    size_t spoken;                       // tokens that its tokenizer has: others are never drawn
    SampleOptions options;               // the seed of request r is options.seed + r->seed
    char *swap; size_t places;           // [places] blocks, or NULL
    Tier *tier;                          // or in a file
    Row *row;                            // [running]
    real *logits; size_t wanted;         // [wanted, V] of the step
    real *draw; size_t drawers;          // [drawers, V]: of each thread that draws, a row to draw from
    size_t *first;                       // of each row's logits
    size_t again;                        // tokens computed again, because no recurrent state was left before them
    Guesser *guesser;                    // or NULL
    // What is wrong with the numbers of a row: [running] of the step, each NULL or a line that says it. Such a row has
    // no token. NULL, as at first: then that is the end of the program.
    const char **wrong;
    Drawing (*drawing)(void *owner, const Request *r); void *owner;      // NULL: the options above
} Served;

Served *served_new(Model *m, size_t blocks, size_t block_size, size_t running, size_t places, SampleOptions o,
                   size_t spoken);
// Its cache keeps what the options say (model/keep.h). Where that is less than all, served_slots of these options tells
// the scheduler (SchedOptions.slots) how many places a request needs.
Served *served_new_kept(Model *m, size_t blocks, size_t block_size, size_t running, size_t places, SampleOptions o,
                        size_t spoken, const KeepOptions *keep);
void served_free(Served *s);
Backend served_backend(Served *s);
// From now on this model guesses: the engine has draft_elsewhere(known) for it. It has the same tokens, no recurrent
// state, and stays the caller's. Of `running` and `places` as for served_new.
void served_guess(Served *s, Model *draft, bool ratio, size_t known, size_t running, size_t places);
static inline Drawing served_drawing(const Served *s, const Request *r) {
    if (s->drawing) return s->drawing(s->owner, r);
    Drawing d = {s->options, 0};
    d.options.seed += r->seed;
    return d;
}
// The others go on: from now on numbers of one request that are none end no more than its own answer, for which whoever
// reads `wrong` after a step, or gets -1 for a token, has to cancel it.
void served_survive(Served *s, size_t running);
// So many threads may draw at a time now; returns how many of them are worth it.
size_t served_drawers(Served *s, size_t threads);
// A process that was made of another one: writes to all pages of the cache, with `swap` also to those of the swap area.
void served_own(Served *s, bool swap);
// Before the first step: what is swapped goes to a new file (infer/tier.h).
void served_tier(Served *s, const char *path);
size_t served_slots(const void *keep, size_t prompt, size_t from, size_t to);
// Whether the model has recurrent states. Then a block that others find or share is of use to them only if it has kept
// its state, which takes memory: before the first step.
bool served_has_state(const Model *m);
void served_keep_snapshots(Served *s);

// ---- the guesser (served_guess.c) ------------------------------------------------------------------
// Before a step: it reads the same rows and puts its guesses where the engine has left places for them. first[i]: where
// the logits of row i will begin, of `wanted`.
void guesser_step(Served *s, const StepRow *row, size_t rows, size_t wanted);
int guesser_token(const Served *s, real *logits, size_t at, const Drawing *d, size_t position);
void guesser_free(Guesser *g);
#endif

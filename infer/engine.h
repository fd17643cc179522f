// engine.h: a scheduler and something that computes, step by step. What computes is a table of functions: the model
// over its paged cache, nothing at all on the event clock, or in tests a toy that every fault of paging shows in.
#ifndef ENGINE_H
#define ENGINE_H
#include "infer/clock.h"
#include "infer/speculate.h"

typedef struct {
    void *self;
    void (*step)(void *self, const StepRow *row, size_t rows);        // keys and values of all rows, wanted logits
    void (*copy)(void *self, uint32_t from, uint32_t to);             // a block
    void (*save)(void *self, uint32_t block, uint32_t place);         // into the swap area
    void (*load)(void *self, uint32_t place, uint32_t block);
    // The token at `position` of the request, from the logits of token i of row `row`. A function of the seed and the
    // position, never of the step: several threads may ask for tokens of several rows. -1: there is none, and the
    // request has been cancelled.
    int (*sample)(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position);
    bool (*ends)(void *self, const Request *r, int token);            // NULL: no token ends a text
} Backend;

typedef struct { int *token; size_t count; bool stop; } Drawn;            // after the last tokens of a row

typedef struct {
    Sched *sched;
    Backend backend;
    void (*emit)(void *owner, Request *r, const int *token, size_t count);    // new tokens of a request, or NULL
    void *owner;
    size_t drawers;                     // threads that draw, each for a row; 0: one
    size_t spared;                      // from this row on one fewer, if there are several: somebody else wants it
    void (*spare)(void *owner);         // says so; or NULL
    bool timed; double drawing;         // timed: adds seconds of drawing to the other
    int *token; size_t tokens; Drawn *drawn; size_t rows;    // of a step; room for so many
    Draft *draft; size_t guesses;       // for each text that writes, so many guesses for its next step; NULL: none
    size_t (*guess)(Draft *d, const int *text, size_t count, size_t n, int *guess);    // draft_guess
    const CostTable *cost, *draft_cost; // NULL, or guesses are set before each step to what pays by the model's table
    size_t (*pays)(const CostTable *c, const CostTable *draft, const Step *step, double a);   // cost_best_guesses
    double kept, tried;                 // and its draft's, by what became of guesses of late: kept ones, looked at ones
    size_t steps;
} Engine;

Step *engine_schedule(Engine *e, double now);          // rows == 0: there is nothing to do
void engine_finish(Engine *e, const Step *step);       // sampled, accepted, handed out
bool engine_step(Engine *e, double now);               // both; false: there was nothing to do
void engine_free(Engine *e);                           // what the engine itself allocated
#endif

// service.h: requests of a trace and who answers them: what the flags of ./serve ask for, and what has become of it.
// The parts of a run share this struct: infer/sessions.c says which request comes next, infer/answers.c makes the
// steps, infer/workers.c those of many workers, infer/replay.c sets both clocks beside each other, and
// infer/service_receipt.c prints what is left.
#ifndef SERVICE_H
#define SERVICE_H
#include "infer/disagg.h"
#include "infer/pipe.h"
#include "infer/prompts.h"
#include "infer/served.h"
#include "plot/plot.h"

enum { RANDOM_VOCAB = 32768 };          // without a model

typedef struct Service {
    ServeOptions o; uint64_t seed;
    Trace trace; Prompts prompts; CostTable cost, draft_cost;
    Pool *pool; Sched *sched; Engine engine;
    Model *model; size_t vocab;         // NULL: tokens are random
    Config config; Served *served;
    bool real; double start;            // whether time passes by itself, and since when
    double priced, took;                // seconds of the steps by the table; of the run by a watch
    struct { double took, priced; } *stretch; size_t stretches;    // --clock both: of steps, by when they began
    bool paced;                         // a replay at the pace of each stretch of the run; else as the table says
    bool automatic;                     // --gamma auto
    Record *record; Request **request;
    size_t submitted, begun;            // requests; in the order of the trace, those that begin a session
    size_t *due, dues;                  // requests whose sessions have their answers
    double now, busy, held;             // seconds; held: blocks, as a sum over the time of steps
    Draft *draft; size_t guesses;
    Model *smaller; size_t knows;       // with --draft DIR: it, and how many positions it knows
    int **guess; const struct Service *timed;   // of each request what it guessed; of a replay: whose these are
    KeepOptions *keep;
    Span *span; size_t spans;           // --picture: of each step its texts, blocks that are held, requests that wait
    FleetOptions workers;               // with --disagg, and what came of them
    Fleet *fleet; Pipe *pipe; int **answer;             // on the event clock; on the real one, and all its tokens
    SchedCounters total; LinkCounters link; WorkerTimes reading, writing;
} Service;

// Scheduler, pool, tables of costs and guesses. The model is the caller's: model, config, vocab, served, and with
// --draft DIR smaller, knows, draft.
Service service_open(const ServeOptions *o);
size_t service_places(const ServeOptions *o);           // blocks of the swap area
size_t service_guesses(const ServeOptions *o);          // with --draft: --gamma; 0: auto
const SchedCounters *service_counters(const Service *run);      // of all workers
#endif

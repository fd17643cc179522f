// disagg.h: many workers on the event clock, each with a scheduler, a pool and a time of its own. Some read prompts and
// others write answers (disaggregation: Splitwise, DistServe, Mooncake), or each does both. Between a reader and a
// writer the keys and values of a prompt cross a link.
//
// A request goes to the reader with the fewest requests, which draws its first token, and then to the writer with the
// fewest. There it is a request that has been swapped out: what came over the link stands in the swap area until there
// are blocks for it. If it is preempted there, the writer reads its prompt again. A reader's blocks are free when the
// prompt has been read: what is on its way, or finds the swap area full, waits outside of the pools.
#ifndef DISAGG_H
#define DISAGG_H
#include "config/keep.h"
#include "infer/engine.h"
#include "infer/stats.h"

typedef struct {
    size_t readers, writers;            // no readers: every writer reads prompts too
    double link;                        // bytes per second, into and out of each worker; INFINITY: no limit
    bool overlap;                       // a layer's keys and values go while the next layer is computed
    size_t layers; double each;         // of the model: bytes of a token in all of them, as floats
    KeepOptions keep;                   // the bits that cross the link
    SchedOptions sched; size_t blocks, block;    // of each worker
    const CostTable *cost; double pace[2];      // steps of who writes, or does both, and of readers take so much of
                                                // what it says; 0: as it says
    Backend backend;                    // computes nothing: tokens alone
    void (*emit)(void *owner, Request *r, const int *token, size_t count); void *owner;
} FleetOptions;

typedef struct { double bytes, seconds; size_t prompts; } LinkCounters;      // seconds: of all sending workers
// Seconds of steps; of these, as shares of the pool; and, where both are known, what a table says of the steps.
typedef struct { double busy, held, priced; } WorkerTimes;

typedef struct Fleet Fleet;
Fleet *fleet_new(const FleetOptions *o, size_t requests);
void fleet_free(Fleet *f);
// Request i, whose answer has `answer` tokens; i in order from 0.
void fleet_submit(Fleet *f, const int *prompt, size_t n, size_t answer, double now);
size_t fleet_flying(const Fleet *f);    // submitted and not ended
// Idle workers begin a step, if there is something to do; when the next thing happens then (INFINITY: nothing will);
// all that happens until `now`, which is that time or earlier.
void fleet_start(Fleet *f, double now);
double fleet_next(const Fleet *f, double now);
void fleet_happen(Fleet *f, double now);

void counters_add(SchedCounters *all, const SchedCounters *c);      // all but what is received
// Of all workers together; of requests, as if there were one.
SchedCounters fleet_counters(const Fleet *f);
LinkCounters fleet_link(const Fleet *f);
WorkerTimes fleet_times(const Fleet *f, bool readers);  // on average over the workers of a kind
void fleet_tell(const Fleet *f, Record *record);        // ends, preemptions and hits, once all is over
const char *fleet_check(const Fleet *f);                // NULL, or which promise is broken

// Bytes of the first n tokens of a prompt that can be sent: all of them when it has ended; before, those that no later
// token will round.
double fleet_bytes(const FleetOptions *o, size_t n, bool ended);
#endif

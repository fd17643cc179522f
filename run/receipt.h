// receipt.h: what ./serve leaves of a run without a network, as JSON: flags, machine, counters, times, digest.
#ifndef RECEIPT_H
#define RECEIPT_H
#include "config/serve.h"
#include "infer/stats.h"
#include <jansson.h>

typedef struct {
    double seconds, busy;       // until the last step ended; of them, those of steps
    double wall;                // of them, on the clock of the room: on the event clock how long it took to simulate
    double held;                // share of the pool's blocks that somebody holds, on average over the time of steps
    bool workers;               // of several workers all this is the mean, and there is more:
    double reading, writing;    // seconds of steps of those that read prompts, and write
    double link_bytes, link_seconds; size_t sent;       // what was sent, seconds of that, prompts
} ServedTimes;

json_t *receipt_plan(const ServeOptions *o);    // what is known beforehand: --dry-run json
// The same with "final" and "digest", written to `path` at once. On the event clock, without a model or with one, all
// of "final" follows from the flags.
void receipt_write(const ServeOptions *o, const SchedCounters *c, const Stats *s, ServedTimes t, const char *path);
#endif

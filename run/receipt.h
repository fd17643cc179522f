// receipt.h: what ./serve leaves of a run without a network, and ./generate of questions, as JSON: flags, machine,
// numbers, digest.
#ifndef RECEIPT_H
#define RECEIPT_H
#include "config/flags.h"
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

// What is known beforehand, to stdout: --dry-run of ./serve, --plan of ./generate.
void receipt_print_plan(const FlagTable *t, const void *flags);
// The same with "final" and "digest", written to `path` at once. On the event clock, without a model or with one, all
// of "final" follows from the flags.
void receipt_write_served(const ServeOptions *o, const SchedCounters *c, const Stats *s, ServedTimes t,
                          const char *path);

typedef struct { const char *name; double value; } ReceiptNumber;
// The same of a program with this table: "final" is these numbers. wall: seconds.
void receipt_write(const FlagTable *t, const void *flags, const ReceiptNumber *number, size_t count, uint64_t digest,
                   double wall, const char *path);
#endif

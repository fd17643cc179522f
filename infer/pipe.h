// pipe.h: workers that are processes: one reads prompts and one writes answers, and between them the keys and values
// of the prompts cross a pipe that is as slow as --link-gbps says (infer/link.h); or each does both. What
// infer/disagg.h is on the event clock, on the real one, and with the same options.
//
// Prompts of a reader go layer by layer while it computes, or at once when they have been read. What is on its way
// waits outside of the pools. A request that has arrived is one that has been swapped out: it waits for blocks, and if
// it is preempted, the writer reads its prompt again.
//
// All processes are made at the beginning, of a model that is loaded, by one that has no threads yet. If one of them
// ends before its time, or this one is told to stop, all of them do: there is no half of a result.
#ifndef PIPE_H
#define PIPE_H
#include "infer/disagg.h"
#include "infer/served.h"

typedef struct {
    size_t readers, writers;            // 1 and 1; or none, and some that do both
    double link; bool overlap;          // bytes per second, INFINITY: no limit; layers go while others are computed
    SchedOptions sched; size_t blocks, block;   // of each worker
    Served *served;                     // with as many places in its swap area as blocks
    Backend backend;                    // what computes: of `served`
    size_t threads;                     // of each worker; 0: cores are shared out
    const CostTable *cost;              // NULL, or steps are priced
    void (*emit)(void *owner, size_t request, int token, double time); void *owner;     // a new token
} PipeOptions;

typedef struct Pipe Pipe;
Pipe *pipe_new(const PipeOptions *o, size_t requests);       // o outlives it
void pipe_print(const Pipe *p, FILE *out);                  // a note of who does what
// Before the first request: when all workers have their memory. *start, on the clock of seconds_now(), is where times
// are counted from. NULL or a reason, as below.
const char *pipe_begin(Pipe *p, double *start);
// Request i, in order from 0; `now`: when it came.
void pipe_submit(Pipe *p, const int *prompt, size_t n, size_t answer, double now);
size_t pipe_flying(const Pipe *p);      // submitted and not ended
// Until something has been told, or until `until`. NULL, or why it cannot go on, in one line: then nothing runs.
const char *pipe_wait(Pipe *p, double until);
// When all have ended: the workers tell what they did, and end. NULL or a reason, likewise.
const char *pipe_end(Pipe *p);
void pipe_free(Pipe *p);                // whatever still runs is ended; until then signals are caught (lib/process.h)

// After the end. As fleet_...() of infer/disagg.h
SchedCounters pipe_counters(const Pipe *p);
LinkCounters pipe_link(const Pipe *p);
WorkerTimes pipe_times(const Pipe *p, bool readers);
double pipe_priced(const Pipe *p);      // seconds of steps by the table, on average over the workers
void pipe_tell(const Pipe *p, Record *record);  // also before it; who has not ended by then is cancelled

// Bytes of a prompt of n tokens that cross the link.
size_t pipe_bytes(const PipeOptions *o, size_t n);
#endif

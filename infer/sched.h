// sched.h: who computes what in the next step. No model, no clock, no input or output: it is told the time, and what
// was sampled. A request has `length` tokens, of which `computed` have keys and values; a step lets these catch up.
// Prefill, a chunk of it, decoding, verifying drafts and computing again after preemption are all this one case.
#ifndef SCHED_H
#define SCHED_H
#include "config/values.h"
#include "infer/pool.h"

typedef struct {
    size_t budget, running, chunk;      // tokens in a step, requests at a time, tokens of one prompt in a step
    int sched, admit, victim, preempt;  // SCHED_..., ADMIT_..., VICTIM_..., PREEMPT_...
    double watermark, shed;             // share of the pool that admission leaves free; seconds (0: never)
    bool prefix_cache;
    // Where a cache does not keep everything as it was: places that a request needs while its tokens from .. to-1 are
    // computed. NULL: to. What a text makes free goes back to the pool, and no block is shared.
    size_t (*slots)(const void *keep, size_t prompt, size_t from, size_t to);
    const void *keep;
    double ttl;                         // seconds for which an ended request's blocks are held
} SchedOptions;

typedef enum { STATE_WAITING, STATE_RUNNING, STATE_SWAPPED, STATE_ENDED } RequestState;
typedef enum { END_NONE, END_LENGTH, END_STOP, END_CANCELLED, END_SHED, END_REFUSED, ENDS } RequestEnd;

typedef struct Request Request;
struct Request {
    size_t id, prompt, length, most;    // tokens: of the prompt, known, at the end
    size_t computed, reached;           // positions that have keys and values; the most that ever had
    int *token;                         // [most]; drafts stand behind `length`
    size_t drafts;
    uint32_t *block; size_t blocks;     // the table: block[i] has positions [i*size, (i+1)*size)
    uint32_t *place; size_t places;     // in the swap area
    size_t published; uint64_t root, mark;      // blocks that can be found, and the mark of the last
    Request *leader; bool leads;        // the request whose prompt this one shares (n > 1), or NULL
    RequestState state; RequestEnd end;
    bool padding;                       // it has ended, and takes its row until its batch has
    bool fresh, cancelled;              // fresh: may not use the cache (logits of its whole prompt are wanted)
    size_t slot, row, n, drafted;       // of the step: its row, tokens of it, drafts among these
    size_t preempted, hits;             // how often; tokens found in the cache
    double arrival;
    uint64_t seed;
    void *owner;                        // for whoever submitted it
    Request *previous, *next;           // in the queue
    size_t at;                          // among all that live
};

// In the order in which they stand, before the rows are computed: later ones may use what earlier ones made free.
typedef enum { OP_COPY, OP_SAVE, OP_LOAD } OpKind;
typedef struct { OpKind kind; uint32_t from, to; } Op;       // block, or place in the swap area

typedef struct {
    Request *request;
    const int *tokens; size_t n, past;
    const uint32_t *block;
    size_t logits_from;                 // logits are wanted of tokens [logits_from, n)
    size_t slot;                        // below --running: a number of its own while it runs
    size_t draw_from;                   // tokens are drawn after these of them: [draw_from, n)
} StepRow;

typedef struct { StepRow *row; size_t rows, tokens; Op *op; size_t ops, capacity; bool preempted; } Step;

typedef struct {
    size_t steps, executed, useful, recomputed, drafted, rejected, padded;
    size_t hits, rehits, shared;        // tokens not computed: found, found again after preemption, of the leader
    size_t preempted, saved, copied;
    size_t received, ended[ENDS];
} SchedCounters;

typedef struct Sched Sched;
Sched *sched_new(SchedOptions o, Pool *pool);
void sched_free(Sched *s);
// A request for `most` - n tokens after a prompt of n > 0. One that could not be computed even alone ends as
// END_REFUSED. It lives until sched_release.
Request *sched_submit(Sched *s, const int *prompt, size_t n, size_t most, uint64_t domain, double now);
// One more text after the prompt of `leader`, whose keys and values it shares if they are there in time (n > 1).
Request *sched_fork(Sched *s, Request *leader, double now);
// A request whose tokens but the last others have computed: their keys and values are in r->place[], of the swap area,
// as those of one that was swapped out. NULL: there is no room now.
Request *sched_receive(Sched *s, const int *token, size_t prompt, size_t length, size_t most, double now);
void sched_cancel(Sched *s, Request *r);        // in every state, also during a step; of an ended one: nothing
void sched_release(Sched *s, Request *r);       // after its end
size_t sched_propose(Request *r, const int *draft, size_t n);   // for its next step; returns how many it takes

Step *sched_step(Sched *s, double now);         // rows == 0: there is nothing to do
// What came of a row: the drafts that were accepted and one token more; no token where no logits were wanted.
void sched_commit(Sched *s, const StepRow *row, const int *token, size_t count, bool stop);

const SchedCounters *sched_counters(const Sched *s);
size_t sched_waiting(const Sched *s);
size_t sched_running(const Sched *s);
const Request *sched_oldest(const Sched *s);    // of the running ones; NULL: none runs
const char *sched_check(const Sched *s);        // NULL, or which promise is broken
const char *sched_check_step(const Sched *s, const Step *step);     // the same, between step and commit
#endif

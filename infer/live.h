// live.h: the engine while others come and go. One thread runs it and touches no socket; any others hand calls in, wait
// for tokens, and leave when they like. Between them stand one lock and two queues: calls that have come, and answers
// that have grown. A call has one or several answers, and each ends exactly once.
#ifndef LIVE_H
#define LIVE_H
#include "infer/served.h"
#include <pthread.h>
#include <signal.h>

typedef struct { int token; double logprob; } Likely;      // of the distribution before temperature, top-k and top-p

// Why an answer ended, as those outside see it: the engine only knows that it was cancelled.
typedef enum { WHY_NONE, WHY_LENGTH, WHY_STOP, WHY_GONE, WHY_TIMEOUT, WHY_SHED, WHY_REFUSED, WHY_DRAIN,
               WHY_ERROR, WHYS } Why;
const char *why_name(Why why);                             // as the label of a metric

// What those outside know of an answer: its tokens, and why there are no more of them. One word, so that nobody ever
// sees the last token without its reason, nor a reason without all tokens.
typedef struct { uint32_t count; Why why; } Progress;

typedef struct Call Call;
typedef struct {
    Call *call;
    size_t prompt, index;        // which of the call's prompts; text i of ./generate --samples draws as index i
    int *token; uint32_t *step;  // [most]; the step that drew it
    Likely *likely;              // [most, 1 + K]: the token, then the K most probable; or NULL
    _Atomic Progress progress;
    double first, last;          // when its first and its latest token came
    // The engine's own.
    Request *request;
    size_t drawn, noted;         // tokens; of these, those that the statistics know of
    Why asked;                   // it is to end for this reason
    const char *wrong;           // of WHY_ERROR: what is wrong with its numbers
    bool started, counted;
} Answer;

struct Call {
    uint64_t id;
    int **prompt; size_t *length, prompts;       // tokens
    Likely **read;                               // [prompts][length, 1 + K] of their own tokens, or NULL; 0: unknown
    Answer *answer; size_t answers;
    SampleOptions options;                       // .tokens: of an answer at most
    bool ignore_eos, logprobs;
    bool words;                                  // those outside look for words that end an answer: its reason is
                                                 // known, and counted, when they leave
    size_t likely;                               // K
    double arrival;
    // Under the lock.
    bool whole;                                  // nobody wants news before all answers have ended
    size_t open;                                 // answers that have not ended
    bool listened;                               // its news are for whoever listens to many (live_hear)
    bool submitted, news, left;                  // left: nobody outside looks at it any more
    pthread_cond_t come;
    Call *next, *before, *after;
    bool queued;
};

typedef struct {
    size_t queue, running;
    double slo_ttft, slo_tpot;
    double flops_per_token, weight_bytes, cache_bytes;    // cache_bytes: of a token
    double peak_flops, peak_bytes;                        // of this machine, per second
    double grace;
    Draft *draft; size_t guesses; const CostTable *cost, *draft_cost;    // as an Engine has them
} LiveOptions;

// Buckets as Prometheus has them: count[i] of values up to bound[i], not yet added up.
enum { BUCKETS = 18 };
typedef struct { double bound[BUCKETS], sum; size_t count[BUCKETS + 1], total; } Histogram;

enum { RECENT = 256 };
typedef struct { double ttft, tpot, latency, end; size_t prompt, tokens; Why why; } Finished;

// All of it under the lock; counters only grow.
typedef struct {
    double start, now, busy, flops, bytes;               // seconds; of the steps
    size_t received, ended[WHYS], good, turned_away;     // answers; calls that met a full queue or an end
    size_t prompt_tokens, tokens;
    size_t running, waiting, batch, step_tokens, held, blocks;
    SchedCounters sched; size_t queries;                 // tokens that were looked up in the cache
    Histogram ttft, gap, latency, queued, prompt, answer;
    Finished recent[RECENT]; size_t finished;            // a ring
} LiveStats;

typedef struct Live Live;
Live *live_new(LiveOptions o, Sched *sched, Pool *pool, Served *served, const Tokenizer *words);
void live_free(Live *l);

// ---- outside the engine ----------------------------------------------------------------------------
// A call to be filled in: prompts, options; n answers to each prompt. Who has handed it in frees it by live_leave.
Call *call_new(size_t prompts, size_t n);
void call_free(Call *c);
void call_take_room(Call *c);          // for tokens and log-probabilities, when the options are known
typedef enum { SUBMIT_DONE, SUBMIT_FULL, SUBMIT_DRAINING } Submitted;
Submitted live_submit(Live *l, Call *c);
// Waits for news of a call, at most so long. Whoever is back may read what answers have up to `count`.
void live_wait(Live *l, Call *c, double seconds);
Progress live_progress(const Answer *a);                  // without the lock
// One thread for many calls: a step with news of any that are listened to wakes it once, when it begins to draw, and
// keeps it awake until it has drawn; so does a ring, once.
void live_listen(Live *l, Call *c, bool listen);
void live_ring(Live *l);
void live_hear(Live *l, double seconds);                  // waits for either, at most so long
void live_stop(Live *l, Answer *a, Why why);              // no more tokens of this one are wanted
void live_leave(Live *l, Call *c, Why why);               // what has not ended ends so; the call is gone
bool live_draining(Live *l);
double live_retry_after(Live *l);                         // seconds until there might be room
LiveStats live_stats(Live *l);
char *live_picture(Live *l);                              // blocks, queue, batch as JSON; malloc'd

// ---- the engine ------------------------------------------------------------------------------------
// Until *stopped is not 0 and all calls have ended, or were cancelled when the time of grace was over.
void live_run(Live *l, const volatile sig_atomic_t *stopped);
bool live_turn(Live *l, bool stopped);      // looks around, makes a step if there is one to make; false: all is over
#endif

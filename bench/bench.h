// bench.h: how speed is measured here. Whatever is compared runs in turns, round by round, so that a noisy machine is
// noisy for all alike; the machine's own limits are measured again beside it; what counts is the median of the rounds.
// A figure is given as a share: the least time that the machine's limits allow, over the time it took.
#ifndef BENCH_H
#define BENCH_H
#include "config/config.h"
#include "lib/machine.h"
#include "plot/roofline.h"
#include "model.h"
#include "model/optimizer.h"
#include "moe.h"
#include <jansson.h>
#include <sys/types.h>

typedef enum { TINY, QUICK, FULL } Effort;      // tiny: once, at the smallest sizes, to see that it works
enum { GROUP_PRODUCTS, GROUP_STEPS, GROUP_ATTENTION, GROUP_INFERENCE, GROUPS };    // of the roofline's points

typedef struct {
    Effort effort;
    size_t rounds;
    double least_seconds;      // that one sample takes: the work is repeated until then
    int threads;
    const char *python;        // with PyTorch in it, or ""
    const char *llama;         // a python with llama-cpp-python in it, or ""
    ReadProbe probe;
    size_t caches;             // bytes of the last-level caches
    double load;               // processes that wanted a core in the minute before the start
    json_t *sections;          // by name: an array of results
    RooflinePoint *point; size_t points;
} Bench;

// ---- races ---------------------------------------------------------------------------------------
// Does the work `repeats` times; returns the seconds that this took.
typedef double Timed(void *work, size_t repeats);
typedef struct {
    Timed *run; void *work;
    double flops, bytes;       // of one repeat, at least: what the limits are applied to (0: that one does not bind)
    double then_flops, then_bytes;      // of a part that waits for that one: its least time is added
    int threads;               // 0: all
    size_t repeats;            // in a sample
    double *seconds, *share;   // [rounds] of one repeat
} Contestant;

void race(Bench *b, const char *name, Contestant *c, size_t n);     // measures all of them; NULL runs are left out
void race_free(Contestant *c, size_t n);

typedef struct { double median, low, high; } Summary;               // and the quartiles
Summary summary(const double *x, size_t n);
Summary seconds_of(const Bench *b, const Contestant *c);
Summary share_of(const Bench *b, const Contestant *c);
Summary ratio_of(const Bench *b, const Contestant *fast, const Contestant *slow);   // how many times faster, by rounds
double spread_of(Summary s);                                        // half the quartiles' distance, over the median
// The limits as they are now, not measured again within a tenth of a second (reading: half a second).
double peak_now(Bench *b, int threads);                             // GFLOP/s
double bandwidth_now(Bench *b, int threads);                        // GB/s

// ---- somebody else's program ---------------------------------------------------------------------
typedef struct { pid_t pid; FILE *ask, *answers; char version[128], error[256]; } Peer;
// A script with one string of arguments. False: it does not run, and p->error says why; peer_stop() in any case.
bool peer_start(Peer *p, const char *python, const char *script, const char *arguments);
bool peer_seconds(Peer *p, double *seconds, const char *format, ...) __attribute__((format(printf, 3, 4)));
void peer_stop(Peer *p);

// The same, but rounds in which other processes use the cores are run again, as long as `again` allows. Returns how
// many of those kept were disturbed all the same. peer: whose time is no one else's.
size_t race_quiet(Bench *b, const char *name, Contestant *c, size_t n, const Peer *peer, size_t again);

// Seconds of the cores that processes other than this one, those that it made and that have ended, and its peer (NULL:
// none) have used since the machine started; 0 where the system does not say.
double seconds_of_others(const Peer *peer);

// ---- what is left --------------------------------------------------------------------------------
json_t *summary_json(Summary s);
json_t *contestant_json(const Bench *b, const Contestant *c);       // seconds, GFLOP/s, GB/s, share
void add_result(Bench *b, const char *section, json_t *result);     // takes it over
void add_point(Bench *b, int group, const char *label, double flops, double bytes, double seconds);

// ---- the sections --------------------------------------------------------------------------------
void bench_products(Bench *b);
void bench_steps(Bench *b);
void bench_attention(Bench *b);
void bench_flash(Bench *b);
void bench_starved(Bench *b);
void bench_decode(Bench *b);
void bench_context(Bench *b);
void bench_rows(Bench *b);
void bench_serve(Bench *b);
void bench_http(Bench *b);
void bench_llama(Bench *b);
void bench_torch(Bench *b);
void bench_threads(Bench *b);
void bench_memory(Bench *b);
void bench_quant(Bench *b);
void bench_packed(Bench *b);
void bench_costs(Bench *b);
void bench_ridge(Bench *b);
void bench_batches(Bench *b);
void bench_guesses(Bench *b);
void bench_shared(Bench *b);
void bench_disagg(Bench *b);
void bench_split(Bench *b);
void bench_codecs(Bench *b);
void bench_experts(Bench *b);
void bench_tier(Bench *b);

// ---- a training without data or directory --------------------------------------------------------
typedef struct {
    Config config;
    ModelSize size;
    Model *model;
    Optimizer optimizer;
    int *tokens, *targets;
    double *row_loss;
    size_t step;
} Trainer;
Config config_of(const char *flags, size_t vocab);                  // resolved
Trainer *trainer_new(const char *flags, size_t vocab);
void trainer_free(Trainer *t);
double trainer_run(void *trainer, size_t steps);                    // a Timed: whole steps on random tokens
double trainer_flops(const Trainer *t);                             // useful, of one step
double trainer_bytes(const Trainer *t);                             // that one step must move, at least

// ---- a step of a server ----------------------------------------------------------------------------
// `rows` texts over blocks of their own, each with `past` tokens before it, go on by one.
enum { MOST_ROWS = 64, ROW_BLOCK = 16 };
typedef struct { Model *model; Blocks *blocks; Row row[MOST_ROWS]; size_t rows; real *logits; } Server;
Server *server_new(Model *m, Blocks *blocks, size_t rows, size_t past);
void server_free(Server *s);
double server_run(void *server, size_t steps);                      // a Timed
Server *step_new(Model *m, Blocks *blocks, size_t rows, size_t n, size_t past);     // by n tokens, all with logits
double server_flops(const ModelSize *size, size_t rows);            // of a step, for half of the model's context
double server_bytes(const ModelSize *size, size_t rows, size_t past);

// The settings that steps, torch and threads share.
extern const char small_flags[], mid_flags[], baby_flags[];
#endif

// run.h: the directory that a run leaves behind, and how a run goes on from it.
//     run.json           every flag, command, commit, machine, sizes, final metrics, digest
//     log.jsonl          one object per logged step
//     state.safetensors  parameters, moments and counters: the one file that resuming needs. Its rename is
//                        the moment at which a step is kept; whatever else is newer is cut back to it.
//     model.safetensors, config.json, tokenizer.json, sample.txt, loss.png    written by others
// Knows no layers: it sees flags as a table and tensors as named pieces of the arenas.
#ifndef RUN_H
#define RUN_H
#include "config/flags.h"
#include <jansson.h>

#define EVENTS_FILE "events.out.tfevents.receipts"   // TensorBoard looks for names with .tfevents. in them

typedef struct {
    const FlagTable *table;
    const void *flags;         // resolved
    const char *out;           // the directory, or "": runs/LABEL-HASH, with the hash of the identity flags
    const char *label;
    const char *command;       // as typed
    uint64_t data_hash;
    bool fresh;                // forget what the directory holds
    const char *load;          // the checkpoint that it starts from, which is not to be overwritten, or "", or NULL
} RunPlan;

typedef enum { RUN_NEW, RUN_STARTED, RUN_FINISHED, RUN_DIVERGED } RunStatus;
typedef struct {
    char *dir;
    RunStatus status;          // what the directory held
    json_t *json;              // becomes run.json
    FILE *log;
    int lock;
} Run;

// Makes or enters the directory. Fails if another process trains in it, or if it holds a run with other
// flags, other data or another precision, saying which.
Run *run_open(const RunPlan *plan);
void run_close(Run *r);
char *run_path(const Run *r, const char *file);   // malloc'd
// Writes run.json with this status: "running", "interrupted", "finished" or "diverged".
void run_write(Run *r, const char *status);
const char *run_commit(void);                     // that this program was built from
const char *run_precision(void);                  // float32 or float64
char *run_flag_text(const json_t *value);         // a flag in run.json, as flags_set takes it; malloc'd
json_t *run_flags(const FlagTable *t, const void *flags);       // every flag, as in run.json
char *run_json_text(const json_t *object);        // laid out as run.json is, malloc'd
json_t *run_number(double x);                     // null where x is not finite
json_t *run_machine(int threads);                 // cpu, cores, threads, simd, compiler, system

// ---- what a resumed run needs to be the uninterrupted one -------------------------------------
typedef struct {
    size_t step, tokens;       // done
    double seconds, train_seconds;                          // wall time in all, and in optimizer steps alone
    double train_loss, val_loss, best_val_loss, accuracy;   // the last ones; NAN: none yet
    uint64_t loss_hash;        // over every logged loss so far
} RunState;
typedef struct { const char *name; size_t rank, shape[3], offset, size; } RunTensor;
typedef struct { const RunTensor *tensor; size_t count; real *value, *mean, *square; } RunTensors;

void run_save(Run *r, const RunTensors *t, const RunState *s);
// Reads the state, cuts the log back to its step, and returns true; false if there is none yet (the
// log is then emptied).
bool run_resume(Run *r, const RunTensors *t, RunState *s);

// ---- log and receipt ---------------------------------------------------------------------------
void run_log(Run *r, json_t *line);               // takes the object over; on disk as soon as it returns
// The digest: a hash over names and values of all tensors and over the logged losses. Their own hashes, from which
// it is made, are added to the object `each`, unless that is NULL.
uint64_t run_digest(const RunTensors *t, const RunState *s, json_t *each);
json_t *run_hash(uint64_t hash);                  // as 16 hexadecimal digits
#endif

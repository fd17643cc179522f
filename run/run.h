// run.h: the directory that a run leaves behind, and how a run goes on from it.
//     run.json           every flag, command, commit, machine, sizes, final metrics, digest
//     log.jsonl          one object per logged step
//     state.safetensors  parameters, moments and counters: the one file that resuming needs. Its rename is
//                        the moment at which a step is kept; whatever else is newer is cut back to it.
//     model.safetensors, config.json, tokenizer.json, sample.txt, loss.png    written by others
// It is ours by its run.json alone: what else is in a directory without one is not touched.
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
    uint64_t load_hash;        // of the weights there; 0 without one
    const char *teacher;       // likewise the one that it learns from
    uint64_t teacher_hash;
    // How many of the first `upto` steps have the same learning rate in trainings of so many `steps` and of `others`.
    // NULL: no training of one length goes on as one of another.
    size_t (*same_rates)(const void *flags, size_t steps, size_t others, size_t upto);
} RunPlan;

typedef enum { RUN_NEW, RUN_STARTED, RUN_FINISHED, RUN_DIVERGED } RunStatus;
typedef struct {
    char *dir;
    RunStatus status;          // what the directory held
    json_t *json;              // becomes run.json
    FILE *log;
    int lock;                  // the directory itself: all of its files are reached through it, wherever it is moved
    uint64_t identity;         // of flags, data and loaded weights, but for the number of steps
    size_t steps, eval_every;  // as planned
    size_t steps_before;       // that the run in the directory was planned with
    const void *flags;         // and what follows: of the plan
    size_t (*same_rates)(const void *flags, size_t steps, size_t others, size_t upto);
} Run;

// Makes or enters the directory. Fails if another process trains in it, if it is not empty and not of a run, or if it
// holds a run with other flags, data, loaded weights or precision, saying which. A run that is to be longer than before
// counts as started, whether or not it has finished.
Run *run_open(const RunPlan *plan);
void run_close(Run *r);
char *run_path(const Run *r, const char *file);   // malloc'd
extern const char *const run_file_names[];        // of whatever a run leaves beside run.json; ends with NULL
// Before the work: fails if writing the file that --flag names would replace the model at `source` (a GGUF, or what a
// directory of a run or a checkpoint is read from).
void run_refuse_replacing(const char *flag, const char *path, const char *source);
// A note on stderr where the directory is not at its path any more, which is what messages and commands name.
void run_note_move(const Run *r);
// Writes run.json with this status: "running", "interrupted", "finished" or "diverged".
void run_write(Run *r, const char *status);
// The same when nothing more will be saved: with the hashes of the files that others open, as "files".
void run_end(Run *r, const char *status);
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
// log is then emptied, and the directory becomes ours). Fails if the state is of another run, or of a shorter training
// that this one is not the continuation of, bit for bit.
bool run_resume(Run *r, const RunTensors *t, RunState *s);
// The state of a finished run, and its digest, computed from what is in the directory. Fails if that is not what
// run.json says, naming the file.
RunState run_finished(const Run *r, uint64_t *digest);

// ---- log and receipt ---------------------------------------------------------------------------
void run_log(Run *r, json_t *line);               // takes the object over; on disk as soon as it returns
// The digest: a hash over names and values of all tensors and over the logged losses. Their own hashes, from which
// it is made, are added to the object `each`, unless that is NULL.
uint64_t run_digest(const RunTensors *t, const RunState *s, json_t *each);
json_t *run_hash(uint64_t hash);                  // as 16 hexadecimal digits

// ---- files that others open --------------------------------------------------------------------
// Weights, configuration, tokenizer, log: an object with a hash per file; for weights one per tensor, of its bytes.
json_t *run_file_hashes(const char *dir);
// Fails, with the advice, if a file of this directory is not the one of which its run.json has a hash; what is gone is
// a fault only if `whole`, and so is another log. A directory without such hashes passes: that of a checkpoint of
// others, and, with a note, that of a run that goes on, was killed, or is older.
void run_check_files(const char *dir, bool whole, const char *advice);
#endif

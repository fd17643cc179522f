// verify.h: a recorded run, trained again and compared with its record, bit for bit. The rerun is a run like
// any other, in a temporary directory that goes with the process; the recorded directory is only read.
#ifndef VERIFY_H
#define VERIFY_H
#include "run/run.h"

typedef struct {
    char *dir;
    const FlagTable *table;
    json_t *record;            // its run.json
    bool finished;             // else it is compared up to the step of its last saved state
    size_t steps;              // to train
} Verify;

// Turns the flags into those of the run in `dir`: what decides the numbers comes from run.json, and a given
// flag that says otherwise is refused; the others (threads, simd, micro-batch) stay as given, because no
// bit may depend on them. given[] becomes all false.
Verify *verify_begin(const FlagTable *t, void *flags, bool *given, const char *dir);
void verify_data(const Verify *v, uint64_t hash);    // fails if the data is not what the run has read
// Compares the rerun, saved after v->steps steps, its "digest" and "hashes" in its json, with the record; prints what
// differs first and why that may be; returns the exit status.
int verify_end(const Verify *v, const Run *rerun);
#endif

// source.h: what the sources share. Included inside data/ only.
//
// To add a source: write data/NAME.c with NAME_open, and add NAME to DATA_SOURCES in config/config.h.
#ifndef SOURCE_H
#define SOURCE_H
#include "data/data.h"
#include "lib/numeric.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// What every source defines as NAME_open: checks the configuration and fills in what the comments in data.h ask
// for. data.c sets name, validation_rows, and a tokenizer and prompt where the source leaves them NULL.
typedef void SourceOpen(Data *d, const Config *config);

// ---- writing a row -----------------------------------------------------------------------------
// A source emits a sequence of T+1 tokens; the row is that sequence and the same one shifted by one.
typedef enum { PLAIN, SCORED, ANSWER } Role;   // of an emitted token: given, scored, scored with one right answer
typedef struct { int *tokens, *targets; bool *is_answer; size_t T, at; } Row;

static inline bool row_full(const Row *r) { return r->at > r->T; }
static inline void row_put(Row *r, int token, Role role) {
    if (row_full(r)) return;
    if (r->at < r->T) r->tokens[r->at] = token;
    if (r->at > 0) {
        r->targets[r->at - 1] = role == PLAIN ? -1 : token;
        if (r->is_answer) r->is_answer[r->at - 1] = role == ANSWER;
    }
    r->at++;
}

// The random numbers of a row: see the note on splits in data.h.
typedef struct { uint64_t train, validation; } RowSeeds;
static inline RowSeeds row_seeds(const Config *c) { return (RowSeeds){c->seed, c->data_seed}; }
static inline Rng row_rng(RowSeeds seeds, Split split, uint64_t row) {
    bool train = split == SPLIT_TRAIN;
    return rng_stream(train ? seeds.train : seeds.validation, train ? RNG_DATA : RNG_VALIDATION, row);
}

// ---- floors ------------------------------------------------------------------------------------
// A distribution that is followed from token to token, and changes by so little (the sum of |differences|) after so
// many, stays: all further tokens have the entropy of the next one, and a long row takes no longer.
static inline bool has_mixed(size_t t, double change) { return t >= (1 << 16) && change < 1e-13; }

// ---- checking a configuration ------------------------------------------------------------------
// The vocabulary the user asked for, or the fallback; refused outside low .. high.
size_t vocab_or(const Config *c, size_t fallback, size_t low, size_t high);
// For sources whose vocabulary follows from the rest: --vocab may only add tokens that never occur, as some
// do to round it up (nanoGPT: 50257 to 50304).
void set_vocab(Data *d, const Config *c, size_t vocab);
// Refuses a context shorter than `need`; `why` says what has to fit.
void context_at_least(const Config *c, size_t need, const char *why);

// Distinct numbers below n, in random order: the first `count` of a Fisher-Yates shuffle.
void draw_distinct(Rng *r, int *out, size_t count, size_t n);
void shuffle(Rng *r, int *x, size_t count);

// truth() of sources whose scored tokens all follow from the row.
void truth_certain(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability);
#endif

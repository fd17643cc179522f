// data.h: where tokens come from. A row is a pure function of (source, split, row number): there is
// no reading position to save, shuffle or lose, so a resumed run and a run cut into micro-batches
// see exactly the same rows.
//
// Synthetic sources are seeded generators with an exactly known floor: the lowest expected loss
// that any model can reach, in nats per scored token. Real text comes from a file with a tokenizer,
// or from .bin shards.
#ifndef DATA_H
#define DATA_H
#include "../lib/config.h"
#include "tokenizer.h"

typedef enum { SPLIT_TRAIN, SPLIT_VALIDATION } Split;

typedef struct Data Data;
struct Data {
    const char *name;          // "stories", or the file's path
    size_t vocab;              // tokens are 0 .. vocab-1
    double floor;              // nats per scored token at config.context tokens a row, or NAN when unknown
    const char *floor_about;   // one line: how the floor was computed
    bool has_accuracy;         // the scored tokens of `answer` have one right answer (recall, copy, ...)
    uint64_t hash;             // of everything that decides the rows, for run.json
    const Tokenizer *tokenizer;// NULL: tokens print as numbers
    const char *default_prompt;// what a sample starts from, as text; "" for the start of a document

    // One row: tokens[0..T-1] is the input, targets[t] is what follows tokens[t], or -1 where it is
    // not scored. is_answer[t] (may be NULL) tells which targets count for the accuracy.
    // Every row of a synthetic source starts at a document boundary.
    void (*row)(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer);
    void *state;               // the source's own
    void (*close)(Data *d);
};

// Opens what config->data names: a synthetic source, a .bin shard (llm.c or nanoGPT), or a text
// file, for which the tokenizer is made as config->tokenizer says. Fails with one line on missing,
// empty, truncated or corrupted input, and on a vocabulary or context that the source cannot have.
// Reads config->seed for the rows and config->data_seed for the world.
Data *data_open(const Config *config);
void data_close(Data *d);
#endif

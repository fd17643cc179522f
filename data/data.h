// data.h: where tokens come from. A row is a pure function of (source, split, row number): there is
// no reading position to save, shuffle or lose, so a resumed run and a run cut into micro-batches
// see exactly the same rows.
//
// Synthetic sources are seeded generators with an exactly known floor: the lowest expected loss
// that any model can reach, in nats per scored token. Real text comes from files with a tokenizer,
// or from .bin shards.
//
// Training rows follow config->seed. Validation rows do not: they follow config->data_seed (text:
// they are fixed windows), so that runs which differ in the seed are measured on the same rows.
#ifndef DATA_H
#define DATA_H
#include "config/config.h"
#include "data/tokenizer.h"

typedef enum { SPLIT_TRAIN, SPLIT_VALIDATION } Split;

typedef struct Data Data;
struct Data {
    const char *name;          // "stories", or the file's path
    size_t vocab;              // tokens are 0 .. vocab-1
    double floor;              // nats per scored token at config.context tokens a row, or NAN when unknown
    const char *floor_about;   // one line: how the floor was computed
    bool has_accuracy;         // the scored tokens of `is_answer` have one right answer (recall, copy, ...)
    const char *splits;        // files: one line, how many tokens of which are for training and validation; else NULL
    bool prefixes;             // a shorter row begins a longer one, and all tokens are scored
    uint64_t hash;             // of everything that decides the rows, for run.json
    const Tokenizer *tokenizer;// never NULL; sources without a text print their tokens as numbers
    const char *default_prompt;// what a sample starts from, as text for tokenizer_prompt; "": a document's start
    size_t validation_rows;    // rows of one validation: config.eval_tokens / config.context, rounded up

    // One row: tokens[0..T-1] is the input, targets[t] is what follows tokens[t], or -1 where it is
    // not scored. is_answer[t] (may be NULL) tells which targets count for the accuracy.
    // Every row of a synthetic source starts at a document boundary. Safe to call from many threads.
    void (*row)(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer);

    // Files: tokens of the validation part, and a way to read some of them. 0: rows are made, as many as one likes.
    size_t length;
    void (*read)(const Data *d, size_t at, size_t count, int *tokens);

    // The true log-probability, in nats, of every scored target given the row up to it (0 where it is
    // not scored); NULL for real text, where nobody knows it. Minus its mean over the validation rows is
    // the loss that the source itself would have on them. stories, markov, iid and induction judge any
    // row, a model's sample too: -INFINITY where the source cannot have made the token (stories: and
    // from there on). The others expect rows of their own, and it is 0 there.
    void (*truth)(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability);

    void *state;               // the source's own
    void (*close)(Data *d);    // frees the state
};

// Opens what config->data names: a synthetic source, or a file, a directory or a glob of files: .bin shards (llm.c or
// nanoGPT), texts or JSONL, for which the tokenizer is read or made as config->tokenizer says. Fails with one line on
// missing, empty, truncated or corrupted input, and on a vocabulary or context that the source cannot have; what is
// doubtful is noted on stderr.
// config->vocab may already hold the vocabulary of the source (as in the configuration of a saved run), or more.
Data *data_open(const Config *config);
bool data_is_files(const char *data);      // what --data names is none of the synthetic sources
void data_close(Data *d);
#endif

// prompts.h: what the requests of a trace say: random tokens, or pieces of a text (--prompts). A prompt is a function
// of the seed, of its number and its length, and where a trace has numbers for pieces of prompts, of these: equal
// numbers are equal tokens, whatever they are made of.
#ifndef PROMPTS_H
#define PROMPTS_H
#include "data/data.h"
#include "infer/trace.h"

typedef struct {
    uint64_t seed; size_t vocab;        // random tokens below vocab, unless there is
    const Data *data;                   // the data of a run, or
    int *text; size_t count;            // a text in tokens
    int start;                          // what every prompt begins with; -1: nothing
    size_t longest;                     // prompt of the trace: of a generated language as much is made for each number
} Prompts;

Prompts prompts_random(uint64_t seed, size_t vocab);
// Pieces of its validation part from places by chance, around its end; of a generated language the beginnings of
// validation rows that no validation sees.
Prompts prompts_of_data(uint64_t seed, const Data *d);
// Likewise of a file in the words of a tokenizer, of which a model knows the first `vocab`. Where every text of that
// tokenizer has a first token, so has every prompt. Fails, naming the file.
Prompts prompts_of_file(uint64_t seed, const char *path, const Tokenizer *words, size_t vocab);
// Before the first prompt is written: refuses a text that is shorter than what a prompt wants of it (`what`, for the
// message), which would repeat itself.
void prompts_fit(Prompts *p, const Trace *t, const char *what);
void prompts_write(const Prompts *p, const Trace *t, size_t i, int *token);     // all tokens of request i
#endif

// questions.h: what a cache that does not keep everything still knows (--questions): rows of recall, whose answers
// follow from pairs at their beginning.
#ifndef QUESTIONS_H
#define QUESTIONS_H
#include "data/data.h"
#include "model.h"

typedef struct { size_t rows, questions; bool known, others; KeepOptions keep; } QuestionOptions;
typedef struct {
    size_t answers, right;
    size_t held;                    // answers whose pair has its value in some head's cache when they are asked
    double ceiling;                 // the share that is right if those are, and of the others those that chance guesses
    size_t tokens, pairs;           // of a text before it is asked: read, kept by a head
    size_t bytes, bytes_full;       // when it is asked, with the question's own pair: as kept, and with all
    uint64_t digest;                // of all answers and their logits
} Questions;

// Each row: its pairs, with `known` its questions too, then each question alone after that past; with `others` then
// come as many about pairs that no question was read about (fewer where a row asks about no more). The prompt of
// --kv-from 0 ends where the questions are asked. Fails for runs on other data, and for more questions than a row has.
Questions questions_ask(Model *m, const Data *d, QuestionOptions o);
#endif

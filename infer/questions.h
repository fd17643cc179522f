// questions.h: what a cache that does not keep everything still knows (--questions): rows of recall, whose answers
// follow from pairs at their beginning.
#ifndef QUESTIONS_H
#define QUESTIONS_H
#include "data/data.h"
#include "model.h"

typedef struct { size_t rows, questions; bool known; KeepOptions keep; } QuestionOptions;
typedef struct {
    size_t answers, right;
    size_t held;                    // answers whose pair has its value in some head's cache when they are asked
    size_t tokens, pairs, bytes, bytes_full;     // of a text when it is asked: read, kept by a head, bytes with all
} Questions;

// Each row: its pairs, with `known` its questions too, then each question alone after that past. The prompt of
// --kv-from 0 ends where the questions are asked. Fails for runs on other data, and for more questions than a row has.
Questions questions_ask(Model *m, const Data *d, QuestionOptions o);
#endif

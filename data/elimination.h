// elimination.h: what tasks of recall give to a model that binds nothing.
#ifndef ELIMINATION_H
#define ELIMINATION_H
#include <stdbool.h>
#include <stddef.h>

typedef struct { double loss, accuracy; } Elimination;   // nats per answer; share of the answers that are right

// The mean over the questions of a row. repeats: questions are drawn with replacement, so answers use nothing up.
// pairs <= values.
Elimination elimination_recall(size_t pairs, size_t values, bool repeats);
Elimination elimination_khop(size_t nodes, size_t questions, bool repeats);

// "; without binding: guessing costs log GUESSES = ..., elimination ... and ...% right", to be freed.
char *elimination_about(Elimination e, size_t guesses);
#endif

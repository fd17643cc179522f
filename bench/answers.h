// answers.h: requests answered by a model through the engine of ./serve, without a network, and what a watch says.
#ifndef ANSWERS_H
#define ANSWERS_H
#include "bench/bench.h"
#include "infer/served.h"

// A text whose tokens are known from a run without guesses: each guess is the right one with chance `right`, else
// another token. So the acceptance is what was asked for.
typedef struct { int **text; const size_t *length; double right; size_t vocab; } Oracle;
typedef struct {
    const size_t *answer; size_t count;         // tokens of each answer
    size_t running; int sched;                  // SCHED_...
    size_t guesses; bool lookup; const Oracle *oracle;
    double temperature;
} Asking;
typedef struct { size_t tokens, steps; uint64_t digest; int *text; } Told;     // text: its prompt, then its answer
typedef struct {
    Told *told; size_t count;
    double seconds, drawing, tokens;            // of all steps; of these, what the model does not take
    double full_seconds, full_drawing, full_tokens;     // of those with others waiting: every row had its text
    size_t steps_of[MOST_ROWS + 1]; double seconds_of[MOST_ROWS + 1], drawing_of[MOST_ROWS + 1];  // by a step's rows
    uint64_t digest;                            // of all texts
} Answered;

enum { PROMPT = 1 };                            // token: the number of the request
Answered answer_all(Model *m, const Asking *ask);       // its texts go with answered_free()
void answered_free(Answered *x);
// The same requests in several ways, [ways], step by step in turns: the way that has written the fewest tokens goes on,
// so that what the machine does meanwhile happens to all of them.
void answer_in_turns(Model *m, const Asking *ask, size_t ways, Answered *x);
#endif

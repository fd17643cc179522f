// draw.h: the next token, drawn from logits. Flags and texts are not known here.
#ifndef DRAW_H
#define DRAW_H
#include "lib/util.h"

typedef struct {
    double temperature;    // divides the logits; 0: greedy, the most probable token (ties: the lowest number)
    size_t top_k;          // only the k most probable tokens (0: all)
    double top_p;          // of these, only the fewest that hold this share of their probability (1: all)
    uint64_t seed;
    size_t tokens;         // how many to sample after the prompt
    size_t samples;        // how many texts; each is the same, however many others there are
    bool stop;             // a text ends with the token that its tokenizer has for that
} SampleOptions;
// One text, temperature 0.8, all tokens: what ./generate does when it is not told otherwise.
SampleOptions sample_defaults(uint64_t seed, size_t tokens);

// Logits [V] become the weights of a draw, in place: temperature first, then top-k, then top-p over what top-k kept.
// What is left out has weight 0, the sum is anything; at temperature 0 one token has all of it. False: the logits are
// not numbers, which draw_no_numbers says.
bool draw_weights(real *logits, size_t V, const SampleOptions *o);
extern const char draw_no_numbers[];
// The token in whose share of the weights [V] a number of [0, 1) falls, in the order of their numbers.
size_t draw_pick(const real *weights, size_t V, double uniform);
// One draw from logits [V], which are overwritten, by draw_weights. The random number is a function of the seed and the
// draw's number alone. -1: the logits are not numbers.
int sample_token(real *logits, size_t V, const SampleOptions *o, uint64_t draw);
int draw_sure(int token);       // the token, where -1 is the end of the program
#endif

// speculate.h: speculation, or several tokens for one step. A draft guesses what comes next; the model reads all
// guesses at once, which costs little more than one token where memory is what a step waits for, and keeps those that
// it would have written itself.
//
// exact: a guess is kept if it is the token that the model's own draw gives at this position. The text is the same,
// bit for bit, as without a draft. ratio: a guess x is kept with probability min(1, p(x) / q(x)), and else replaced by
// a draw from (p - q)+: more guesses stay, the law of the text is that of the model, but the text is another one
// (Leviathan et al. 2023, algorithm 1; Chen et al. 2023). Its random numbers belong to the seed and the position, as
// all draws do. Here every token but the first of an answer comes by this rule, also the one behind the last guess,
// which the paper draws from p at once: then the text is a function of both models, the prompt and the seed, and not
// of how many guesses a step had.
//
// A guess of lookup is certain (q is all on it), so that both rules keep it with probability p(x): there is no ratio.
#ifndef SPECULATE_H
#define SPECULATE_H
#include "infer/draw.h"
#include "model.h"

enum { MOST_GUESSES = 31 };     // in a step. With the token before them they are a tile, which every window can go back

// ---- drafts --------------------------------------------------------------------------------------
typedef struct Draft Draft;
// What followed the first earlier place where the last tokens of the text stand as well: the longest such end, of 8
// down to 2 tokens (Saxena 2023, prompt lookup). Costs nothing and knows only what the text says itself.
Draft *draft_lookup(void);
// A smaller model with the same tokens. It draws from `spoken` of them with the same options: for exact with the random
// number that the model will use, so that near-equal distributions agree; for ratio with one of its own. It guesses
// nothing beyond `capacity` tokens of text. The model stays the caller's.
Draft *draft_of_model(Model *m, size_t spoken, SampleOptions o, bool ratio, size_t capacity);
// A model that guesses within the step that reads its guesses (served.h): all that is known before are their places.
Draft *draft_elsewhere(size_t capacity);
void draft_free(Draft *d);
// Guesses for the positions count, count + 1, ... of a text, n at most, and one more by ratio. Returns how many there
// are.
size_t draft_guess(Draft *d, const int *text, size_t count, size_t n, int *guess);
// A model's guess from its logits [spoken], which become its weights; -1: they are not numbers.
int draft_draw(real *logits, size_t spoken, const SampleOptions *o, bool ratio, uint64_t draw);
// The weights from which guess i of the last draft_guess was drawn; NULL: it could not have been another.
const real *draft_weights_of(const Draft *d, size_t i);

// ---- acceptance ----------------------------------------------------------------------------------
// p and q: weights [V] of model and draft (q NULL: all on the guess), which need not sum to 1.
double speculate_chance(const real *p, const real *q, size_t V, int guess);            // min(1, p / q)
void speculate_residual(double *r, const real *p, const real *q, size_t V, int guess); // (p - q)+; p where that is 0
// The token at a position, by ratio: the guess, or a draw from the residual. logits [V] are overwritten. -1: they are
// not numbers.
int speculate_token(real *logits, size_t V, const SampleOptions *o, uint64_t draw, int guess, const real *q);

// ---- how many guesses ----------------------------------------------------------------------------
// Of a step's guesses those after the first wrong one are lost. With a chance a for each, g guesses give
// (1 - a^(g+1)) / (1 - a) tokens, in seconds[g] for the model and g times draft_seconds for the draft.
size_t speculate_best(double a, const double *seconds, size_t most, double draft_seconds);

typedef struct {
    Draft *draft;
    bool ratio;
    size_t most;                        // guesses in a step
    bool automatic;                     // as many of these as pay: by seconds[g] of a step with g guesses
    double seconds[MOST_GUESSES + 1];
    int guess[MOST_GUESSES + 1];        // guess[i], of `drawn`, is for position from + i; the model reads `guesses`
    size_t from, guesses, drawn;
    size_t steps, guessed, accepted;    // so far: steps that read guesses or could have, and what became of them
    double kept, tried, draft_seconds;  // of late: guesses that stayed, guesses looked at; seconds for one
} Speculation;
// Guesses for the position `count`, `room` at most; they are in s->guess.
void speculate_guess(Speculation *s, const int *text, size_t count, size_t room);
// What became of the guess for a position of the last step.
void speculate_learn(Speculation *s, bool accepted);
#endif

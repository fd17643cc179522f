// maps.h: what a model does with a text, as pictures: where its attention looks, how full its states get, which
// expert takes which token. generate.c --picture.
#ifndef MAPS_H
#define MAPS_H
#include "data/tokenizer.h"
#include "model.h"

// Draws PATH (NAME.png), the attention of every layer and head over the first `shown` of the n tokens; where layers
// keep a state NAME-rank.png, its effective rank over all n; where there are experts NAME-experts.png, the `shown`
// tokens coloured by expert (in a terminal, stderr has them too). One line on stderr for each picture. `from` is the
// run's name, for the titles.
void maps_draw(Model *m, const Tokenizer *t, const int *token, size_t n, size_t shown, const char *from,
               const char *path);

// The effective rank of a matrix S [K,V]: exp of the entropy of its singular values, as shares of their sum (Roy and
// Vetterli 2007, "The effective rank: a measure of effective dimensionality"). Of 0 it is 0.
double maps_effective_rank(const real *S, size_t K, size_t V);
#endif

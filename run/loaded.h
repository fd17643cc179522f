// loaded.h: other directories that a training reads: the weights from which it starts (--load), the run from which a
// draft learns (--teacher).
#ifndef LOADED_H
#define LOADED_H
#include "data/tokenizer.h"
#include "model.h"

// The architecture is that of the checkpoint; a flag that says otherwise is a mistake. Rotations may be stretched.
void loaded_config(Config *c, const bool *given);
// Fails unless its tokens are those of `words` and it knows as many positions as a row has; says what it is to `out`.
Model *loaded_teacher(const Config *c, const Tokenizer *words, FILE *out);
#endif

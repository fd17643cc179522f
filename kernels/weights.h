// weights.h: how much a query looks at each key, for policies that ask (model/keep.h): attention itself keeps no such
// numbers. A second pass over the keys, one query at a time.
#ifndef WEIGHTS_H
#define WEIGHTS_H
#include "lib/util.h"

// w [n] = softmax over j of scale * q . key[j]; key[j] has D numbers.
void attention_weights(real *w, const real *q, const real *const *key, size_t n, size_t D, double scale);
#endif

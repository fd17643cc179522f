// pack.h: weights as the matrix products read them (kernels/matmul.h), made anew once per change of the weights.
#ifndef PACK_H
#define PACK_H
#include "model/layer.h"

void pack_weights(Model *m);             // all of them, unless they are fresh
void pack_absorbed_weights(Model *m);    // of mla, as decoding through the latent reads them
#endif

// linear.h: the mixers with a recurrent state: linear, gla, delta, gated-delta, mamba2 (linear.c).
#ifndef LINEAR_H
#define LINEAR_H
#include "model/params.h"

typedef struct Branch Branch;     // model/layer.h
extern const Branch mixer_linear;
#endif

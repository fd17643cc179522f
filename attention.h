// attention.h: the mixers with softmax attention (attention.c).
#ifndef ATTENTION_H
#define ATTENTION_H
#include "model/params.h"

typedef struct Branch Branch;     // model/layer.h
extern const Branch mixer_mha;    // mha, gqa, swa
extern const Branch mixer_mla;
#endif

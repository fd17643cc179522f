// served.h: a model over its paged cache, as what an engine computes with. What a request gets is a function of the
// weights, its prompt, the sampling options and its seed alone: ./generate --seed S writes the same text as request i
// of --seed S - i.
#ifndef SERVED_H
#define SERVED_H
#include "infer/engine.h"
#include "infer/sample.h"

typedef struct {
    Model *model; Blocks *blocks;
    size_t spoken;                       // tokens that its tokenizer has: others are never drawn
    SampleOptions options;               // the seed of request r is options.seed + r->seed
    char *swap;                          // [places] blocks, or NULL
    Row *row; size_t rows;
    real *logits, *draw; size_t wanted;  // [wanted, V] of the step; one row to draw from
    size_t *first;                       // of each row's logits
} Served;

Served *served_new(Model *m, size_t blocks, size_t block_size, size_t slots, size_t places, SampleOptions o,
                   size_t spoken);
void served_free(Served *s);
Backend served_backend(Served *s);
// A recurrent state is not in blocks: it cannot be found, shared or swapped. Whether the model keeps one.
bool served_has_state(const Model *m);
#endif

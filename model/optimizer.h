// optimizer.h: AdamW with clipping and a schedule (kernels/optim.h) over the table of a model's parameters, as its
// config says.
#ifndef OPTIMIZER_H
#define OPTIMIZER_H
#include "kernels/optim.h"
#include "model/params.h"

typedef struct {
    OptimRow *row; size_t rows;     // the trained parameters
    real *mean, *square;            // moments, laid out as the parameters, one behind the other
} Optimizer;

Optimizer optimizer_new(const Model *m);
void optimizer_free(Optimizer *o);
double optimizer_norm(const Optimizer *o, Model *m);       // of the gradients
// The step that comes after `step` others, with gradients of this norm; returns its learning rate. model_changed() and
// model_update_routers() must follow.
double optimizer_step(Optimizer *o, Model *m, double norm, size_t step);
// How many of the first `upto` steps have the same learning rate in trainings of `steps` and of `others` steps that
// are alike in everything else. config: a Config.
size_t optimizer_same_rates(const void *config, size_t steps, size_t others, size_t upto);
#endif

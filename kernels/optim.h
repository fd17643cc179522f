// optim.h: AdamW, gradient clipping and learning-rate schedules over named flat tensors. Knows no
// layers: a tensor is a piece of the arenas of values, gradients and moments, which share one layout.
#ifndef OPTIM_H
#define OPTIM_H
#include "lib/util.h"

typedef struct { size_t at, size; bool decay; } OptimRow;  // first element, elements, decoupled weight decay or not

// The Euclidean norm over all rows, in double: the same bits for any number of threads.
double optim_norm(const OptimRow *row, size_t rows, const real *x);
// What clipping multiplies the gradient by: largest / norm where the norm is above `largest`, else 1
// (always 1 with largest == 0).
double optim_clip_scale(double norm, double largest);

// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2, with Adam's bias correction of Kingma
// and Ba 2015): with g = gradient_scale * gradient and step counting from 1,
//     mean   = beta1 mean + (1 - beta1) g              square = beta2 square + (1 - beta2) g^2
//     value -= lr * (mean / (1 - beta1^step) / (sqrt(square / (1 - beta2^step)) + eps) + decay * value)
typedef struct { double lr, beta1, beta2, eps, weight_decay; } AdamW;
void optim_adamw(const OptimRow *row, size_t rows, real *value, const real *gradient, real *mean, real *square,
                 double gradient_scale, AdamW a, size_t step);

// Learning rate of the step that comes after `step` others: linear warm-up to lr, then as `kind` says down to min_lr at
// the last of `steps`. decay: share of the steps in which wsd goes down, linearly (Hu et al. 2024 hold, then decay): at
// least the last step, unless it is 0.
typedef enum { LR_COSINE, LR_LINEAR, LR_WSD, LR_CONSTANT } ScheduleKind;
typedef struct { ScheduleKind kind; double lr, min_lr, decay; size_t warmup, steps; } Schedule;
double optim_lr(const Schedule *s, size_t step);
#endif

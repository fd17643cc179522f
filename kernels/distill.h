// distill.h: losses of a draft q that learns from a teacher p, row by row over V tokens: KL(p|q) = sum p log(p/q), or
// the total variation TV(p, q) = sum |p - q| / 2 (Zhou et al. 2024, DistillSpec, arXiv 2310.08461, sections 3 and 4). A
// guess from q is kept by p with probability sum min(p, q) = 1 - TV (Leviathan et al. 2023, theorem 3.5), so TV is the
// share of guesses that is lost, and KL bounds it: TV^2 <= KL/2 (Pinsker).
#ifndef DISTILL_H
#define DISTILL_H
#include "lib/util.h"

typedef enum { DISTILL_KL, DISTILL_TV } DistillLoss;
// Both logits [M,V] become distributions, in place. loss[m] in nats or as a share, agreement[m] = sum min(p, q); both 0
// where target is -1, and left out if NULL.
void distill_forward(double *loss, double *agreement, real *q, real *p, const int *target, DistillLoss kind, size_t M,
                     size_t V);
void distill_forward_naive(double *loss, double *agreement, real *q, real *p, const int *target, DistillLoss kind,
                           size_t M, size_t V);
// After it: q becomes the gradient of scale * loss for the draft's logits. KL: q - p. TV: q (g - sum q g), where g is
// the derivative of |q - p| / 2, a half with the sign of q - p; 0 where they are equal, of all subgradients the one
// that leaves a draft alone that is right.
void distill_backward(real *q, const real *p, const int *target, double scale, DistillLoss kind, size_t M, size_t V);
void distill_backward_naive(real *q, const real *p, const int *target, double scale, DistillLoss kind, size_t M,
                            size_t V);
#endif

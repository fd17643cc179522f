// clock.h: what a step costs, as a table fitted to measured steps, for the event clock on which the scheduler runs
// without a model. Time is piecewise linear in the tokens of a step, for weights are read once and then arithmetic is
// the bound, and linear in the keys that decoding and prefill attend to.
#ifndef CLOCK_H
#define CLOCK_H
#include "infer/sched.h"

enum { KNOTS = 8 };
typedef struct { double tokens, decode, pairs; } StepSize;      // decode: sum of contexts; pairs: queries times keys
typedef struct { StepSize size; double seconds; } CostPoint;
typedef struct {
    double base, slope, bend[KNOTS], knot[KNOTS]; size_t knots;  // base + slope M + sum of bend max(0, M - knot)
    double decode, pairs;               // seconds per unit
    StepSize most;                      // largest that were measured: beyond it nothing is known
    double median, worst;               // relative errors of the points that were held out; NAN: unknown
} CostTable;

StepSize step_size(const Step *step);
double cost_of(const CostTable *c, StepSize size);      // fails beyond what was measured
// Least squares of the relative error over three of every four points; the error of the fourth ones is stored.
CostTable cost_fit(const CostPoint *point, size_t points, const double *knot, size_t knots);
CostTable cost_built_in(void);
CostTable cost_read(const char *path);
void cost_write(const CostTable *c, const char *path);
#endif

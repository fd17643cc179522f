// calibrate.h: what a step of a model costs on this machine, measured, as the table that the event clock reads.
#ifndef CALIBRATE_H
#define CALIBRATE_H
#include "infer/clock.h"
#include "infer/served.h"

enum { MOST_POINTS = 512 };
typedef struct { CostPoint point[MOST_POINTS]; size_t points; } Measured;
// Steps that a scheduler with this budget and so many running requests can make in the pool of s, of texts of `longest`
// tokens at most: the largest of each kind, a grid of those that only write or only read, and many of a mixed kind, as
// chance has it: texts that write a token or check guesses, beside prompts that go on or end. Seconds are 0.
Measured calibrate_sizes(const Served *s, size_t budget, size_t running, size_t longest);
// Their times: each step is made in five rounds, and its median counts, with the draw of a token wherever logits are
// wanted. told: called before each round; false ends it, and the times are of no use then.
Measured calibrate(Served *s, size_t budget, size_t running, size_t longest, bool (*told)(size_t round, size_t of));
// Each round has an order of its own: the k-th step is order[k]. What the machine was slower or faster in a stretch of
// it than otherwise is divided out of the medians: took[round][i] of step i becomes point[i].seconds.
enum { CALIBRATE_ROUNDS = 5 };
void calibrate_order(size_t round, size_t points, size_t order[]);
void calibrate_even_out(double (*took)[MOST_POINTS], Measured *m);
CostTable calibrate_fit(const Measured *m);
#endif

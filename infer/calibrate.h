// calibrate.h: what a step of a model costs on this machine, measured, as the table that the event clock reads.
#ifndef CALIBRATE_H
#define CALIBRATE_H
#include "infer/clock.h"
#include "infer/served.h"

enum { MOST_POINTS = 256 };
// Steps that a scheduler with this budget and so many running requests could make in the pool of s, of texts of
// `longest` tokens at most: decoding alone, prefill alone, both. Returns how many; seconds are 0.
size_t calibrate_sizes(const Served *s, size_t budget, size_t running, size_t longest, CostPoint *point);
// The table over those: each step is made five times, in an order that mixes them, and its median counts, with the draw
// of a token for each row. told: called before each round; false ends it, and the table is of no use then.
CostTable calibrate(Served *s, size_t budget, size_t running, size_t longest, bool (*told)(size_t round, size_t of));
#endif

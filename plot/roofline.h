// roofline.h: the roofline picture (S. Williams, A. Waterman and D. Patterson, Communications of the ACM, 2009): how
// fast kinds of work went, over how many FLOPs they do per byte that must pass, under the two roofs of the machine:
// what its units can compute, and what its memory can feed them at that intensity.
#ifndef ROOFLINE_H
#define ROOFLINE_H
#include "lib/util.h"

// group: points of one group share colour and shape (0, 1, 2, ...); the picture names them where group_label is given.
typedef struct { const char *label; double intensity, gflops; int group; } RooflinePoint;   // FLOP per byte, GFLOP/s
typedef struct {
    const char *title, *subtitle;      // NULL: none
    double peak, bandwidth;            // GFLOP/s of fused multiply-adds, GB/s read
    const RooflinePoint *point; size_t points;
    const char *const *group_label; size_t groups;
} Roofline;

// GFLOP/s that the machine allows at an intensity.
static inline double roofline_at(const Roofline *r, double intensity) {
    return intensity * r->bandwidth < r->peak ? intensity * r->bandwidth : r->peak;
}

// Writes a PNG. Every point is labelled with its share of the roof above it; labels that would cover one another are
// moved. Those that find no place are named under the picture. Points that are not finite and positive are left out.
void roofline_draw(const char *path, const Roofline *r);
#endif

// hadamard.h: an orthonormal rotation by signs and additions. Of each whole 16 numbers of a row, y_j = sum_i +-x_i / 4,
// with a minus where i and j have an odd number of bits in common: Sylvester's matrix H, and H H / 16 is the identity.
// What stands behind the last whole 16 stays as it is. One outlier becomes 16 numbers of a quarter of its size, so that
// the others keep more of a scale that the largest sets (QuaRot, Ashkboos et al. 2024, section 3, with one large H).
#ifndef HADAMARD_H
#define HADAMARD_H
#include "lib/util.h"

enum { HADAMARD = 16 };
// x [rows, columns], row stride ldx, to y, row stride ldy; y may be x. All threads. Twice it is x, but for rounding.
void hadamard_rows(real *y, size_t ldy, const real *x, size_t ldx, size_t rows, size_t columns);
#endif

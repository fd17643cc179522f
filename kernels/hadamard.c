// hadamard.c: see hadamard.h. Sums of pairs 8 apart, then 4, 2 and 1: the same additions on every machine.
#include "kernels/hadamard.h"
#include "lib/profile.h"
#include "lib/threads.h"
#include <string.h>

static void stage(real *to, const real *from, size_t apart) {
    for (size_t at = 0; at < HADAMARD; at += 2 * apart)
        for (size_t i = at; i < at + apart; i++) {
            to[i] = from[i] + from[i + apart];
            to[i + apart] = from[i] - from[i + apart];
        }
}

void hadamard_rows(real *y, size_t ldy, const real *x, size_t ldx, size_t rows, size_t columns) {
    PROFILE(round, 5 * rows * columns, 2 * rows * columns);
    size_t whole = columns / HADAMARD * HADAMARD;
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) {
        for (size_t at = 0; at < whole; at += HADAMARD) {
            real a[HADAMARD], b[HADAMARD];
            stage(a, x + r * ldx + at, 8), stage(b, a, 4), stage(a, b, 2), stage(b, a, 1);
            for (size_t i = 0; i < HADAMARD; i++) y[r * ldy + at + i] = b[i] * (real)0.25;
        }
        memmove(y + r * ldy + whole, x + r * ldx + whole, (columns - whole) * sizeof *y);
    }
}

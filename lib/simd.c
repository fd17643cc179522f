// simd.c: measures the roof: how many fused multiply-adds per second this machine can do.
#include "simd.h"
#include <omp.h>

const char *simd_name(void) { return SIMD_NAME; }

enum { CHAINS = 12 / (SIMD_VECS == 1 ? 2 : 1) };

// Twelve independent chains hide the latency of the unit; nothing leaves the registers.
static real fma_chains(size_t rounds, real first) {
    vec a = vec_set((real)0.999), b = vec_set((real)0.001), chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = vec_set(first + (real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) chain[i] = vec_fma(chain[i], a, b);
    vec sum = vec_zero();
    for (int i = 0; i < CHAINS; i++) sum = vec_add(sum, chain[i]);
    return vec_sum(sum);
}

enum { TRIES = 12, ROUNDS = 150000 };
typedef struct { double start, end; } Lap;

// A function of its own: of a region's own volatile variables GCC 12 forgets that they are volatile.
static Lap run_lap(void) {
    volatile real cell = 0;    // read after one look at the clock, written before the next: no reordering
    Lap lap = {.start = seconds_now()};
    cell = fma_chains(ROUNDS, cell);
    lap.end = seconds_now();
    return lap;
}

// From when the first thread starts to when the last one ends, of no more threads than cores: more are no faster. The
// best of several tries: a core that another program takes for a moment spoils one of them, not the measurement.
double simd_fma_peak(int threads) {
    int cores = omp_get_num_procs();
    Lap all = {INFINITY, 0};
    double best = 0;
#pragma omp parallel num_threads(threads < cores ? threads : cores)
    for (int try = 0; try < TRIES; try++) {
#pragma omp barrier
        Lap own = run_lap();
#pragma omp critical
        all = (Lap){fmin(all.start, own.start), fmax(all.end, own.end)};
#pragma omp barrier
#pragma omp master
        {
            double rate = 2e-9 * LANES * CHAINS * ROUNDS * omp_get_num_threads() / (all.end - all.start);
            best = fmax(best, rate), all = (Lap){INFINITY, 0};
        }
    }
    return best;
}

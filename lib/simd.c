// simd.c: measures the roof: how many fused multiply-adds per second this machine can do.
#include "lib/simd.h"
#include <omp.h>

const char *simd_name(void) { return SIMD_NAME; }

// Twelve independent chains hide the latency of the unit; nothing leaves the registers.
static real fma_chains(size_t rounds, real first) {
    enum { CHAINS = 12 / (SIMD_VECS == 1 ? 2 : 1) };
    vec a = vec_set((real)0.999), b = vec_set((real)0.001), chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = vec_set(first + (real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) chain[i] = vec_fma(chain[i], a, b);
    vec sum = vec_zero();
    for (int i = 0; i < CHAINS; i++) sum = vec_add(sum, chain[i]);
    return vec_sum(sum);
}

// GFLOP/s of one thread, the best of several tries: a core that another program takes for a moment spoils
// one try of one thread, not the measurement.
static double best_rate(void) {
    enum { CHAINS = 12 / (SIMD_VECS == 1 ? 2 : 1), TRIES = 12 };
    const size_t rounds = 150000;
    volatile real cell = 0;    // read after one look at the clock, written before the next: no reordering
    double best = 0;
    for (int try = 0; try < TRIES; try++) {
        double start = seconds_now();
        cell = fma_chains(rounds, cell);
        double rate = 2.0 * LANES * CHAINS * (double)rounds / (seconds_now() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

// Of no more threads than cores: those that take turns on one would each count it as their own.
double simd_fma_peak(int threads) {
    int cores = omp_get_num_procs();
    double total = 0;
#pragma omp parallel num_threads(threads < cores ? threads : cores) reduction(+ : total)
    total += best_rate();
    return total;
}

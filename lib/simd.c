// simd.c: measures the roof: how many fused multiply-adds per second this machine can do.
#include "simd.h"
#include <omp.h>

const char *simd_name(void) { return SIMD_NAME; }

// Twelve independent chains hide the latency of the unit; nothing leaves the registers.
static real fma_chains(size_t rounds) {
    enum { CHAINS = 12 / (SIMD_VECS == 1 ? 2 : 1) };
    vec a = vec_set((real)0.999), b = vec_set((real)0.001), chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = vec_set((real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) chain[i] = vec_fma(chain[i], a, b);
    vec sum = vec_zero();
    for (int i = 0; i < CHAINS; i++) sum = vec_add(sum, chain[i]);
    return vec_sum(sum);
}

double simd_fma_peak(int threads) {
    enum { CHAINS = 12 / (SIMD_VECS == 1 ? 2 : 1), REPEATS = 5 };
    size_t rounds = 400000;
    double best = 0;
    volatile real sink = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double start = seconds_now(), flops = 2.0 * LANES * CHAINS * (double)rounds * threads;
#pragma omp parallel num_threads(threads)
        {
            real x = fma_chains(rounds);
#pragma omp critical
            sink = sink + x;
        }
        double rate = flops / (seconds_now() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

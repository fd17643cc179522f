// rng.c: Philox4x32-10 and the distributions drawn from it. Integer arithmetic and numeric.h only,
// so a draw is the same bits on every machine.
#include "lib/rng.h"
#include "lib/numeric.h"
#include <math.h>

// Salmon et al. 2011, section 3.3 and table 2: ten rounds of two 32x32 multiplications. The 128-bit
// counter is (index, purpose), the 64-bit key is the seed.
void philox(uint32_t out[4], uint64_t seed, uint64_t purpose, uint64_t index) {
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)purpose, (uint32_t)(purpose >> 32)};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ key0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c[3] ^ key1,
                            (uint32_t)p0};
        for (int i = 0; i < 4; i++) c[i] = next[i];
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) out[i] = c[i];
}

// The upper half of the purpose numbers the blocks of a stream, so a purpose must be below 2^32.
Rng rng_stream(uint64_t seed, uint64_t purpose, uint64_t index) { return (Rng){seed, purpose, index, 0, 0, {0}}; }

uint32_t rng_u32(Rng *r) {
    if (r->have == 0) {
        philox(r->buffer, r->seed, r->purpose | (uint64_t)r->block++ << 32, r->index);
        r->have = 4;
    }
    return r->buffer[4 - r->have--];
}

double rng_uniform(Rng *r) {
    uint64_t high = rng_u32(r) >> 5, low = rng_u32(r) >> 6;  // 27 and 26 bits
    return (double)(high << 26 | low) * 0x1p-53;
}

// Lemire, "Fast random integer generation in an interval", 2019: the high half of a product, with
// the few low halves that would favour some values rejected.
uint32_t rng_below(Rng *r, uint32_t n) {
    uint64_t product = (uint64_t)rng_u32(r) * n;
    if ((uint32_t)product < n) {
        uint32_t threshold = -n % n;
        while ((uint32_t)product < threshold) product = (uint64_t)rng_u32(r) * n;
    }
    return (uint32_t)(product >> 32);
}

double rng_normal(Rng *r) {
    double radius = sqrt(-2 * num_log(1 - rng_uniform(r)));  // 1 - u is never 0
    double sine, cosine;
    num_sincos(6.283185307179586 * rng_uniform(r), &sine, &cosine);
    return radius * cosine;
}

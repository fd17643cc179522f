// fma.h: the fused multiply-add, a b + c rounded once, to the same bits everywhere: the machine's instruction where the
// compiler has one, else the formulas below and not the C library, because libraries differ (that of musl 1.2.3 rounds
// subnormal results twice).
#ifndef FMA_H
#define FMA_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if !defined(FMA_SOFT) && ((defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)) || defined(__FMA__) || \
                           defined(__aarch64__) || __riscv_flen >= 64)
#define FMA_INSTRUCTION
#endif

// a + b rounded, and in *rest exactly what the rounding took (Knuth, The Art of Computer Programming 2, 4.2.2).
static inline double fma_two_sum(double a, double b, double *rest) {
    double sum = a + b, of_b = sum - a, of_a = sum - of_b;
    *rest = (a - of_a) + (b - of_b);
    return sum;
}

// a + b rounded to odd: where it is no double, to that neighbour whose last bit is 1. It can then be rounded again to
// fewer bits as if it had been exact (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
static inline double fma_odd_sum(double a, double b) {
    double rest, sum = fma_two_sum(a, b, &rest);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    uint64_t is_inexact = (uint64_t)(rest < 0 || rest > 0) & ~bits & 1;       // of an infinite sum the rest is a NaN
    bits += (rest > 0) == (sum > 0) ? is_inexact : -is_inexact;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

// The product of two floats is a double.
static inline float fma_float_soft(float a, float b, float c) { return (float)fma_odd_sum((double)a * b, c); }

// The upper 26 bits of a double (Veltkamp); the rest has 26 as well.
static inline double fma_upper_half(double a) {
    double shifted = 0x1.0000002p27 * a;
    return shifted - (shifted - a);
}

// The product in two parts (Dekker 1971), then Boldo and Melquiond's sum of three. For numeric.c: finite, far from
// overflow, and the product's lower part no subnormal.
static inline double fma_double_soft(double a, double b, double c) {
    double a1 = fma_upper_half(a), b1 = fma_upper_half(b), a0 = a - a1, b0 = b - b1, rest[2];
    double product = a * b, low = ((a1 * b1 - product) + a1 * b0 + a0 * b1) + a0 * b0;
    double sum = fma_two_sum(product, fma_two_sum(c, low, &rest[0]), &rest[1]);
    return sum + fma_odd_sum(rest[0], rest[1]);
}

#ifdef FMA_INSTRUCTION
static inline float fma_float(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fma_double(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
static inline float fma_float(float a, float b, float c) { return fma_float_soft(a, b, c); }
static inline double fma_double(double a, double b, double c) { return fma_double_soft(a, b, c); }
#endif

// Whether these two are right in the hard cases: results that lie between two numbers, or almost; subnormal ones; those
// of which a rounded product leaves nothing.
bool fma_is_right(float (*of_floats)(float, float, float), double (*of_doubles)(double, double, double));
// NULL where this build, on this machine, rounds as every other does; else what is wrong and what to do. Microseconds.
const char *fma_fault(void);
#endif

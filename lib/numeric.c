// numeric.c: exp, log, sin, cos and pow in double precision with bits that depend on no C library.
// Method throughout: reduce the argument exactly with a fused multiply-add, then sum the Taylor series by Horner's
// rule; with the reduced arguments below, the first term left out is under 1e-17 of the result.
// floor() and sqrt() are the only library calls: IEEE 754 fixes every bit of theirs.
#include "lib/numeric.h"
#include "lib/fma.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

// Constants in two parts: the double nearest to the value, and the double nearest to the rest.
static const double LN2_HIGH = 0x1.62e42fefa39efp-1, LN2_LOW = 0x1.abc9e3b39803fp-56;
static const double HALF_PI_HIGH = 0x1.921fb54442d18p+0, HALF_PI_LOW = 0x1.1a62633145c07p-54;

// c[0] + c[1] x + c[2] x^2 + ...
static double horner(double x, const double *c, int count) {
    double sum = c[count - 1];
    for (int i = count - 2; i >= 0; i--) sum = fma_double(sum, x, c[i]);
    return sum;
}

static double power_of_two(int n) {  // -1022 <= n <= 1023
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// exp(x) = 2^n exp(r), |r| <= ln(2)/2.
double num_exp(double x) {
    static const double c[] = {1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880,
                               1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
    if (isnan(x)) return x;
    if (x > 709) return INFINITY;
    if (x < -708) return 0;
    double n = floor(fma_double(x, 1.4426950408889634, 0.5));
    double r = fma_double(-n, LN2_LOW, fma_double(-n, LN2_HIGH, x));
    return horner(r, c, 14) * power_of_two((int)n);
}

// log(x) = n ln 2 + log m, with m in [sqrt(1/2), sqrt(2)) and log m = 2 atanh(s), s = (m-1)/(m+1).
// The result is high + low, good to about 1e-19 of the larger: num_pow multiplies it by large numbers.
static void log_in_two_parts(double x, double *high, double *low) {
    static const double c[] = {2. / 3,  2. / 5,  2. / 7,  2. / 9,  2. / 11, 2. / 13,
                               2. / 15, 2. / 17, 2. / 19, 2. / 21, 2. / 23};
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int n = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m >= 1.4142135623730951) m *= 0.5, n++;
    double numerator = m - 1, denominator = m + 1, denominator_low = m - (denominator - 1);
    double s = numerator / denominator;
    double s_low = fma_double(-s, denominator_low, fma_double(-s, denominator, numerator)) / denominator;
    double tail = fma_double(s * s * s, horner(s * s, c, 11), 2 * s_low);  // log m = 2 s + tail
    double a = n * LN2_HIGH, a_low = fma_double(n, LN2_HIGH, -a), b = 2 * s;
    double sum = a + b, rest = (b - (sum - a)) + fma_double(n, LN2_LOW, a_low + tail);  // |a| > |b|, or a is 0
    *high = sum + rest;
    *low = rest - (*high - sum);
}

double num_log(double x) {
    double high, low;
    log_in_two_parts(x, &high, &low);
    return high + low;
}

// x = n pi/2 + r, |r| <= pi/4. n*HALF_PI_HIGH cancels against x without rounding for |x| < 1e6.
void num_sincos(double x, double *sine, double *cosine) {
    static const double cs[] = {1, -1. / 6, 1. / 120, -1. / 5040, 1. / 362880, -1. / 39916800, 1. / 6227020800,
                                -1. / 1307674368000, 1. / 355687428096000};
    static const double cc[] = {1, -1. / 2, 1. / 24, -1. / 720, 1. / 40320, -1. / 3628800, 1. / 479001600,
                                -1. / 87178291200, 1. / 20922789888000, -1. / 6402373705728000};
    double n = floor(fma_double(x, 0.6366197723675814, 0.5));
    double r = fma_double(-n, HALF_PI_LOW, fma_double(-n, HALF_PI_HIGH, x));
    double s = r * horner(r * r, cs, 9), c = horner(r * r, cc, 10);
    long long quadrant = (long long)n & 3;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

// base^e = exp(e log base); the low part enters as a factor 1 + low.
double num_pow(double base, double exponent) {
    double high, low;
    log_in_two_parts(base, &high, &low);
    double product = exponent * high, product_low = fma_double(exponent, low, fma_double(exponent, high, -product));
    double result = num_exp(product);
    return isinf(result) ? result : fma_double(result, product_low, result);
}

double num_powi(double base, unsigned long n) {
    double result = 1;
    for (; n; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

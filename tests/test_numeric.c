// test_numeric.c: the scalar functions against the C library in long double, over random and special
// arguments, and a hash of their bits, which must be the same for every compiler and machine.
#include "tests/test.h"
#include "lib/numeric.h"
#include "lib/rng.h"

// The promise of numeric.h. Measured: at most 3e-16 (one and a half units in the last place).
static const double TOLERANCE = 1e-14;
enum { DRAWS = 50000 };

static double between(Rng *r, double low, double high) { return low + (high - low) * rng_uniform(r); }

static void near(const char *name, double x, double found, long double expected) {
    long double error = fabsl(found - expected);
    CHECK(error <= TOLERANCE * fabsl(expected), "%s(%.17g) = %.17g, expected %.20Lg", name, x, found, expected);
}

static void test_exp(void) {
    Rng r = rng_stream(1, RNG_TEST, 1);
    for (int i = 0; i < DRAWS; i++) {
        double x = between(&r, -700, 700), y = between(&r, -1, 1);
        near("exp", x, num_exp(x), expl((long double)x));
        near("exp", y, num_exp(y), expl((long double)y));
    }
    CHECK(num_exp(0) == 1 && num_exp(-1e9) == 0 && isinf(num_exp(1e9)) && isnan(num_exp(NAN)), "special values");
}

static void test_log(void) {
    Rng r = rng_stream(1, RNG_TEST, 2);
    for (int i = 0; i < DRAWS; i++) {
        double x = exp(between(&r, -700, 700)), y = between(&r, 0.9, 1.1), z = 1 - between(&r, 1e-12, 1e-6);
        near("log", x, num_log(x), logl((long double)x));
        near("log", y, num_log(y), logl((long double)y));
        near("log", z, num_log(z), logl((long double)z));
    }
    CHECK(num_log(1) == 0, "log(1)");
}

static void test_sincos(void) {
    Rng r = rng_stream(1, RNG_TEST, 3);
    double s, c;
    for (int i = 0; i < DRAWS; i++) {
        double x = i % 2 ? between(&r, -1e6, 1e6) : between(&r, -7, 7);
        num_sincos(x, &s, &c);
        near("sin", x, s, sinl((long double)x));
        near("cos", x, c, cosl((long double)x));
    }
    for (int n = 1; n < 600000; n += 997) {  // where one of the two is nearly zero
        double x = n * 1.5707963267948966;
        num_sincos(x, &s, &c);
        near("sin", x, s, sinl((long double)x));
        near("cos", x, c, cosl((long double)x));
    }
    num_sincos(0, &s, &c);
    CHECK(s == 0 && c == 1, "at 0: %g %g", s, c);
}

static void test_pow(void) {
    Rng r = rng_stream(1, RNG_TEST, 4);
    for (int i = 0; i < DRAWS; i++) {
        double base = exp(between(&r, -30, 30)), e = between(&r, -20, 20);
        near("pow", base, num_pow(base, e), powl((long double)base, (long double)e));
    }
    for (unsigned long n = 0; n < 3000; n++) {  // half a unit for each of n multiplications
        long double expected = powl((long double)0.99, n), error = fabsl(num_powi(0.99, n) - expected);
        CHECK(error <= (long double)n * 0x1p-53L * expected, "power %lu is off by %Lg", n, error / expected);
    }
    CHECK(num_pow(10000, 0) == 1 && num_powi(0, 0) == 1 && num_powi(-2, 3) == -8, "special values");
}

// Recorded once; a compiler or machine that gives another hash breaks the promise of DESIGN.md.
static void test_bits(void) {
    Rng r = rng_stream(1, RNG_TEST, 5);
    uint64_t h = HASH_START;
    for (int i = 0; i < DRAWS; i++) {
        double x = between(&r, -600, 600),
               v[6] = {num_exp(x), num_log(fabs(x) + 1e-9), 0, 0, num_pow(fabs(x) + 1, 0.37), rng_normal(&r)};
        num_sincos(1000 * x, &v[2], &v[3]);
        h = hash_bytes(h, v, sizeof v);
    }
    CHECK(h == 0xc3a6c82cdd9e8a53ull, "found %016llx", (unsigned long long)h);
}

static const Test tests[] = {
    {"numeric/exp", "exp to 1e-14", test_exp},
    {"numeric/log", "log to 1e-14, also next to 1", test_log},
    {"numeric/sincos", "sine and cosine to 1e-14 up to a million", test_sincos},
    {"numeric/pow", "powers to 1e-14", test_pow},
    {"numeric/bits", "the same bits on every compiler and machine", test_bits},
};
REGISTER_TESTS(tests)

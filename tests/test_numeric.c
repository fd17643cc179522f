// test_numeric.c: the scalar functions against the C library in long double, over random and special
// arguments, and a hash of their bits, which must be the same for every compiler and machine.
#include "tests/test.h"
#include "lib/fma.h"
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

// ---- fused multiply-adds -------------------------------------------------------------------------
static float rounded_product(float a, float b, float c) { return a * b + c; }
static float rounded_twice(float a, float b, float c) { return (float)((double)a * b + c); }
static float without_subnormals(float a, float b, float c) {
    float y = fma_float_soft(a, b, c);
    return fabsf(y) < 0x1p-126f ? 0 * y : y;
}
// musl 1.2.3: the sum in double is corrected where it is half way between two normal floats.
static float as_musl(float a, float b, float c) {
    double sum = (double)a * b + c;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return (bits & 0x1fffffff) == 0x10000000 ? fma_float_soft(a, b, c) : (float)sum;
}
static double rounded_product_double(double a, double b, double c) { return a * b + c; }

static void test_fma(void) {
    CHECK(fma_fault() == NULL, "%s", fma_fault());
    CHECK(fma_is_right(fma_float_soft, fma_double_soft), "the formulas");
    float (*const wrong[])(float, float, float) = {rounded_product, rounded_twice, without_subnormals, as_musl};
    for (int i = 0; i < 4; i++) CHECK(!fma_is_right(wrong[i], fma_double_soft), "wrong way %d is taken for right", i);
    CHECK(!fma_is_right(fma_float_soft, rounded_product_double), "a rounded product is taken for right");
    double start = seconds_now();
    for (int i = 0; i < 100; i++) fma_fault();
    CHECK(seconds_now() - start < 0.1, "%g s for the test at the start", (seconds_now() - start) / 100);
}

// Another build does not help where the process takes subnormal numbers for 0.
static void test_fma_advice(void) {
#ifdef __SSE2__
    enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40 };
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
    const char *fault = fma_fault();
    __builtin_ia32_ldmxcsr(before);
    CHECK(fault && strstr(fault, "subnormal") && !strstr(fault, "make SIMD"), "%s", fault ? fault : "no fault");
#endif
}

// Random bits, of which every other pair cancels: subnormal, huge, infinite, not a number.
static float random_float(Rng *r) {
    uint32_t bits = rng_u32(r);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void test_fma_random(void) {
    Rng r = rng_stream(5, RNG_TEST, 1);
    for (int i = 0; i < 300000; i++) {
        float a = random_float(&r), b = random_float(&r), c = i & 1 ? random_float(&r) : -a * b;
        float found = fma_float_soft(a, b, c), right = fmaf(a, b, c);
        CHECK(memcmp(&found, &right, 4) == 0 || (isnan(found) && isnan(right)), "%a * %a + %a is %a, not %a", (double)a,
              (double)b, (double)c, (double)right, (double)found);
        double x = rng_normal(&r), y = rng_normal(&r) * exp(20 * rng_normal(&r)), z = i & 1 ? rng_normal(&r) : -x * y;
        CHECK(fma_double_soft(x, y, z) == fma(x, y, z), "%a * %a + %a is %a, not %a", x, y, z, fma(x, y, z),
              fma_double_soft(x, y, z));
    }
}

static const Test tests[] = {
    {"numeric/exp", "exp to 1e-14", test_exp},
    {"numeric/log", "log to 1e-14, also next to 1", test_log},
    {"numeric/sincos", "sine and cosine to 1e-14 up to a million", test_sincos},
    {"numeric/pow", "powers to 1e-14", test_pow},
    {"numeric/fma", "the test at the start finds four wrong fused multiply-adds, and the right ones right", test_fma},
    {"numeric/fma-advice", "the fault is named that another build would not mend", test_fma_advice},
    {"numeric/fma-random", "the formulas where there is no instruction are the C library's here", test_fma_random},
    {"numeric/bits", "the same bits on every compiler and machine", test_bits},
};
REGISTER_TESTS(tests)

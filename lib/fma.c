// fma.c: the cases that show whether a fused multiply-add is one, whoever computes it.
#include "lib/fma.h"
#include "lib/simd.h"
#include <float.h>

// In the comments U is the last bit of c. (1 + u)(1 - u) = 1 - u^2: with u = 2^-23 no double has that and c, and their
// sum in double becomes a tie.
#define UP (1 + 0x1p-23f)
#define DOWN (1 - 0x1p-23f)
#define DOUBLE_UP (1 + 0x1p-52)
#define DOUBLE_DOWN (1 - 0x1p-52)
static const struct { float a, b, c, right; } floats[] = {
    {1 + 0x1p-12f, 1 + 0x1p-12f, -(1 + 0x1p-11f), 0x1p-24f},     // rounded, the product is -c
    {0x1p-12f * UP, 0x1p-12f * DOWN, UP, UP},                    // c + U/2 (1 - u^2)
    {0x1p-12f * UP, -0x1p-12f * DOWN, UP, UP},
    {0x1p51f * UP, 0x1p52f * DOWN, FLT_MAX, FLT_MAX},            // and not infinite
    {0x1p-75f * UP, 0x1p-75f * DOWN, 0x1p-127f + 0x1p-149f, 0x1p-127f + 0x1p-149f},    // the same among subnormals
    {0x1p-75f * UP, -0x1p-75f * DOWN, 0x1p-130f + 0x1p-149f, 0x1p-130f + 0x1p-149f},
    {0x1p-75f, 0x1p-75f, 0x1p-148f, 0x1p-148f},                  // a tie, to even
    {0x1p-75f, 0x1p-75f, 0x3p-149f, 0x1p-147f},
    {0x1p-70f, 0x1p-70f, 0, 0x1p-140f},                          // subnormals are not taken for 0, whether they go out
    {1, 0x1p-149f, 0x1p-149f, 0x1p-148f},                        // or come in
    {-1, 0, -0.f, -0.f},
};
static const struct { double a, b, c, right; } doubles[] = {
    {1 + 0x1p-27, 1 + 0x1p-27, -(1 + 0x1p-26), 0x1p-54},
    {DOUBLE_UP, DOUBLE_UP, -(1 + 0x1p-51), 0x1p-104},
    {0x1p-27 * DOUBLE_UP, 0x1p-26 * DOUBLE_DOWN, DOUBLE_UP, DOUBLE_UP},
    {0x1p-27 * DOUBLE_UP, -0x1p-26 * DOUBLE_DOWN, DOUBLE_UP, DOUBLE_UP},
    {0x1p-27, 0x1p-26, DOUBLE_UP, 1 + 0x1p-51},
    {0x1p-27, 0x1p-26, 1, 1},
};

// volatile: it is the machine that computes, not the compiler.
bool fma_is_right(float (*of_floats)(float, float, float), double (*of_doubles)(double, double, double)) {
    bool right = true;
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        volatile float a = floats[i].a, b = floats[i].b, c = floats[i].c;
        float found = of_floats(a, b, c);
        right &= memcmp(&found, &floats[i].right, sizeof found) == 0;
    }
    for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++) {
        volatile double a = doubles[i].a, b = doubles[i].b, c = doubles[i].c;
        double found = of_doubles(a, b, c);
        right &= memcmp(&found, &doubles[i].right, sizeof found) == 0;
    }
    return right;
}

// As the kernels do it.
static float of_vectors(float a, float b, float c) {
    real lane[LANES];
    vec_store(lane, vec_fma(vec_set(a), vec_set(b), vec_set(c)));
    return sizeof(real) == sizeof(double) ? fma_float(a, b, c) : (float)lane[LANES - 1];
}

static bool is_contracted(void) {
    volatile float a = floats[0].a, b = floats[0].b, c = floats[0].c;
    float x = a, y = b, z = c;
    return x * y + z != 0;
}

// The formulas are made of sums and products alone: where they are right, only the instruction is not.
#define HERE "not rounded as IEEE 754 says on this machine, or emulator, "
#define ELSEWHERE "and would give other bits than elsewhere"
#define FUSED_WRONG "fused multiply-adds are " HERE ELSEWHERE "; build it with: make SIMD=soft"
#define ALL_WRONG "sums and products are " HERE "or in this process (are subnormal numbers taken for 0, which a " \
                  "library that was built with -ffast-math may ask for?), " ELSEWHERE
const char *fma_fault(void) {
    if (is_contracted())
        return "this program was compiled so that any product and sum may be fused, and would give other bits than "
               "others; build it with -ffp-contract=off, as make does";
    if (fma_is_right(of_vectors, fma_double)) return NULL;
    return fma_is_right(fma_float_soft, fma_double_soft) ? FUSED_WRONG : ALL_WRONG;
}

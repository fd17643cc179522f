// test_optim.c: AdamW against the formula of PyTorch's documentation in double precision, the norm,
// clipping and the schedules.
#include "tests/test.h"
#include "config/config.h"
#include "kernels/optim.h"
#include "lib/rng.h"
#include <omp.h>
#include <stdlib.h>

// Sizes that are no multiple of the 16 lanes or of a block, with gaps between the tensors.
static const OptimRow rows[] = {{0, 1, false}, {16, 37, true}, {64, 9000, true}, {9072, 4096, false}};
enum { ROWS = 4, TOTAL = 9072 + 4096 };

static void fill(real *x, uint64_t index, double scale) {
    Rng r = rng_stream(7, RNG_TEST, index);
    for (size_t i = 0; i < TOTAL; i++) x[i] = (real)(scale * rng_normal(&r));
}

// https://pytorch.org/docs/stable/generated/torch.optim.AdamW.html, one element, no amsgrad.
typedef struct { double value, mean, square; } Element;
static void adamw_reference(Element *e, double g, AdamW a, bool decay, size_t step) {
    if (decay) e->value -= a.lr * a.weight_decay * e->value;
    e->mean = a.beta1 * e->mean + (1 - a.beta1) * g;
    e->square = a.beta2 * e->square + (1 - a.beta2) * g * g;
    double mean_hat = e->mean / (1 - pow(a.beta1, (double)step)),
           square_hat = e->square / (1 - pow(a.beta2, (double)step));
    e->value -= a.lr * mean_hat / (sqrt(square_hat) + a.eps);
}

static void test_adamw(void) {
    enum { STEPS = 20 };
    const AdamW a = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
    real *value = xmalloc(TOTAL * sizeof *value), *gradient = xmalloc(TOTAL * sizeof *gradient);
    real *mean = xmalloc(TOTAL * sizeof *mean), *square = xmalloc(TOTAL * sizeof *square);
    Element *reference = xmalloc(TOTAL * sizeof *reference);
    fill(value, 0, 1);
    for (size_t i = 0; i < TOTAL; i++) reference[i].value = (double)value[i];
    for (size_t step = 1; step <= STEPS; step++) {
        fill(gradient, step, 0.1);
        optim_adamw(rows, ROWS, value, gradient, mean, square, 0.5, a, step);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t i = rows[r].at; i < rows[r].at + rows[r].size; i++)
                adamw_reference(&reference[i], 0.5 * (double)gradient[i], a, rows[r].decay, step);
    }
    // A step is rounded three times to 24 bits at values around 1: 20 * 3 * 2^-24 = 4e-6.
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = rows[r].at; i < rows[r].at + rows[r].size; i++)
            CHECK(fabs((double)value[i] - reference[i].value) < 4e-6, "row %zu, %zu: %.9g, expected %.9g", r, i,
                  (double)value[i], reference[i].value);
    for (size_t i = 1; i < 16; i++)
        CHECK(mean[i] == 0 && (double)value[i] == reference[i].value, "the gap is untouched");
    free(value), free(gradient), free(mean), free(square), free(reference);
}

static void test_threads(void) {
    uint64_t hash[2];
    double norm[2];
    for (int t = 0; t < 2; t++) {
        static real x[4][TOTAL];
        memset(x, 0, sizeof x);
        fill(x[0], 0, 1), fill(x[1], 1, 1);
        omp_set_num_threads(t ? 5 : 1);
        norm[t] = optim_norm(rows, ROWS, x[1]);
        optim_adamw(rows, ROWS, x[0], x[1], x[2], x[3], 1, (AdamW){0.01, 0.9, 0.99, 1e-8, 0.1}, 3);
        hash[t] = hash_bytes(HASH_START, x, sizeof x);
    }
    CHECK(hash[0] == hash[1] && norm[0] == norm[1], "1 and 5 threads: %.17g, %.17g", norm[0], norm[1]);
#ifndef REAL_DOUBLE  // recorded once: what every SIMD path, compiler and machine must give
    CHECK(hash[0] == 0x88cc69ce039c6a4full, "found %016llx", (unsigned long long)hash[0]);
#endif
}

static void test_norm(void) {
    static real x[TOTAL];
    fill(x, 3, 1);
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = rows[r].at; i < rows[r].at + rows[r].size; i++) sum += (double)x[i] * (double)x[i];
    double norm = optim_norm(rows, ROWS, x);
    // 256 additions per lane in float, errors of random sign: 16 * 2^-24 = 1e-6.
    CHECK(fabs(norm - sqrt(sum)) < 1e-6 * norm, "%.9g, expected %.9g", norm, sqrt(sum));
    CHECK(optim_clip_scale(4, 1) == 0.25 && optim_clip_scale(0.5, 1) == 1 && optim_clip_scale(4, 0) == 1, "clipping");
}

static double lr_at(int kind, size_t step) {
    return optim_lr(&(Schedule){.kind = kind, .lr = 1, .min_lr = 0.1, .decay = 0.25, .warmup = 10, .steps = 101}, step);
}

static void test_schedules(void) {
    static const int kinds[] = {LR_COSINE, LR_LINEAR, LR_WSD, LR_CONSTANT};
    for (int k = 0; k < 4; k++) {
        for (size_t s = 0; s < 10; s++)
            CHECK(fabs(lr_at(kinds[k], s) - 0.1 * (double)(s + 1)) < 1e-15, "warm-up %zu", s);
        CHECK(lr_at(kinds[k], 10) == 1, "the peak comes after the warm-up");
        double last = kinds[k] == LR_CONSTANT ? 1 : 0.1;
        CHECK(fabs(lr_at(kinds[k], 100) - last) < 1e-15, "schedule %d ends at %g", k, lr_at(kinds[k], 100));
        for (size_t s = 10; s < 100; s++)
            CHECK(lr_at(kinds[k], s + 1) <= lr_at(kinds[k], s), "never up after the peak");
    }
    CHECK(fabs(lr_at(LR_COSINE, 55) - 0.55) < 1e-15 && fabs(lr_at(LR_LINEAR, 55) - 0.55) < 1e-15,
          "half way");
    CHECK(lr_at(LR_WSD, 75) == 1 && lr_at(LR_WSD, 76) < 1, "wsd holds for three quarters of 101 steps");
    Schedule brief = {.kind = LR_COSINE, .lr = 1, .min_lr = 0, .warmup = 50, .steps = 20};
    CHECK(optim_lr(&brief, 19) == 0.4, "a run shorter than its warm-up");
    brief = (Schedule){.kind = LR_COSINE, .lr = 1, .min_lr = 0, .warmup = 0, .steps = 1};
    CHECK(isfinite(optim_lr(&brief, 0)), "a single step");
    for (int tenth = 1; tenth <= 10; tenth++) {      // a share of one step or less is the last step
        Schedule wsd = {.kind = LR_WSD, .lr = 1, .min_lr = 0.25, .decay = 0.01 * tenth, .steps = 10};
        CHECK(optim_lr(&wsd, 8) == 1 && optim_lr(&wsd, 9) == 0.25, "wsd, decay %g of 10 steps: %g, then %g", wsd.decay,
              optim_lr(&wsd, 8), optim_lr(&wsd, 9));
    }
    CHECK(optim_lr(&(Schedule){.kind = LR_WSD, .lr = 1, .min_lr = 0.25, .steps = 10}, 9) == 1, "wsd without a decay");
}

static const Test tests[] = {
    {"optim/adamw", "twenty steps of AdamW are PyTorch's formula", test_adamw},
    {"optim/threads", "norm and step are the same bits with 1 and 5 threads", test_threads},
    {"optim/norm", "the global norm, and what clipping makes of it", test_norm},
    {"optim/schedules", "warm-up, cosine, linear, wsd, constant: start, middle, end, monotone", test_schedules},
};
REGISTER_TESTS(tests)

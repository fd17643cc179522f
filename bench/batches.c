// batches.c: the same requests by a true model in three ways: continuous, in static batches whose rows leave as they
// end, and padded to the longest. What each takes is beside what lengths and single steps say of it. Then guesses by
// lookup, of each text alone and of many together: how many tokens a step has, by request and over all.
#include "bench/answers.h"
#include "lib/numeric.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>

static const struct { const char *flags; size_t vocab, answer; } settings[] = {
    {"--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 4096", 32000, 20},
    {"--layers 2 --width 64 --heads 2 --context 512", 256, 8},
};
enum { BATCHES = 5, POINTS = 3, MOST = 3, WAYS = 3, FIRST_SEED = 21 };
static const struct { size_t rows; double cv; } points[POINTS] = {{8, 1}, {32, 1}, {32, 2}};
static const int ways[WAYS] = {SCHED_continuous, SCHED_static, SCHED_padded};

// Lognormal, as ./serve draws them (infer/trace.c).
static void draw_lengths(size_t *answer, size_t count, size_t mean, double cv, uint64_t seed) {
    double variance = num_log(1 + cv * cv);
    for (size_t i = 0; i < count; i++) {
        Rng r = rng_stream(seed, RNG_DATA, i);
        double x = (double)mean * num_exp(sqrt(variance) * rng_normal(&r) - variance / 2);
        answer[i] = x < 1 ? 1 : (size_t)(x + 0.5);
    }
}

// Over batches in the order of arrival: the mean of their longest answers, over the mean of all.
static double longest_over_mean(const size_t *answer, size_t count, size_t rows) {
    double sum = 0, longest = 0;
    for (size_t i = 0; i < count; i += rows) {
        size_t most = 0;
        for (size_t k = i; k < i + rows; k++) most = answer[k] > most ? answer[k] : most;
        longest += (double)most;
    }
    for (size_t i = 0; i < count; i++) sum += (double)answer[i];
    return longest * (double)rows / sum;
}

// The line a + b n through the steps of a static run, by least squares. drawn: with the draws of their tokens.
typedef struct { double a, b; } Line;
static double seconds_by(const Answered *x, size_t rows, bool drawn) {
    return x->seconds_of[rows] - (drawn ? 0 : x->drawing_of[rows]);
}
static Line line_of(const Answered *x, bool drawn) {
    double n = 0, t = 0, nn = 0, nt = 0, steps = 0;
    for (size_t i = 1; i <= MOST_ROWS; i++) {
        double k = (double)x->steps_of[i], rows = (double)i, took = seconds_by(x, i, drawn);
        steps += k, n += k * rows, t += took, nn += k * rows * rows, nt += rows * took;
    }
    double slope = (nt - n * t / steps) / (nn - n * n / steps);
    return (Line){(t - slope * n) / steps, slope};
}

enum { GAIN, PADDED, BY_LINE, BY_STEPS, W, DRAWING, NUMBERS };
static const char *const number_name[NUMBERS] = {"gain", "padded", "by_line", "by_steps", "w", "drawing"};

// Tokens per second while there is work for all rows, over those of whole batches. Beside that what other arms say: the
// line of the static steps, and how long a full step takes, all of which are full where batches are padded. A row of
// padding draws no token, so times count with the draws and without.
static void compare(double found[NUMBERS], const Answered *x, double factor, size_t rows, bool drawn) {
    const Answered *batch = &x[1], *padded = &x[2];
    Line l = line_of(batch, drawn);
    double full = seconds_by(padded, rows, drawn) / (double)padded->steps_of[rows];
    double each = batch->tokens / (batch->seconds - (drawn ? 0 : batch->drawing));
    double rate = x->full_tokens / (x->full_seconds - (drawn ? 0 : x->full_drawing));
    found[GAIN] = rate / each;
    found[PADDED] = rate / (padded->tokens / (padded->seconds - (drawn ? 0 : padded->drawing)));
    found[W] = l.a / (l.a + l.b * (double)rows);
    found[BY_LINE] = 1 + found[W] * (factor - 1), found[BY_STEPS] = (double)rows / full / each;
    found[DRAWING] = x->full_drawing / x->full_seconds;
}

typedef struct { double padding, steps, line; } Apart;         // the largest error of what was said, over all points

static void report_point(Bench *b, size_t point, double factor, double value[NUMBERS][MOST], size_t rounds, bool drawn,
                         Apart *apart) {
    double found[NUMBERS];
    json_t *row = json_pack("{s:I, s:f, s:s, s:f}", "rows", (json_int_t)points[point].rows, "cv", points[point].cv,
                            "what", drawn ? "all" : "model", "longest_over_mean", factor);
    for (size_t i = 0; i < NUMBERS; i++) {
        found[i] = summary(value[i], rounds).median;
        json_object_set_new(row, number_name[i], json_real(found[i]));
    }
    printf("%4zu %5.1f %-6s %10.2f %9.2f %6.2f %9.2f %7.2f %12.2f\n", points[point].rows, points[point].cv,
           drawn ? "all" : "model", factor, found[PADDED], found[W], found[GAIN], found[BY_LINE], found[BY_STEPS]);
    add_result(b, "batches", row);
    *apart = (Apart){fmax(apart->padding, fabs(found[PADDED] / factor - 1)),
                     fmax(apart->steps, fabs(found[GAIN] / found[BY_STEPS] - 1)),
                     fmax(apart->line, fabs(found[GAIN] / found[BY_LINE] - 1))};
}

static void measure_point(Bench *b, Model *m, size_t point, size_t mean, Apart apart[2]) {
    size_t rows = points[point].rows, count = BATCHES * rows, rounds = b->rounds < MOST ? b->rounds : MOST;
    size_t *answer = xmalloc(count * sizeof *answer);
    draw_lengths(answer, count, mean, points[point].cv, FIRST_SEED + point);
    double factor = longest_over_mean(answer, count, rows), value[2][NUMBERS][MOST];
    for (size_t r = 0; r < rounds; r++) {
        Answered x[WAYS];
        Asking ask[WAYS];
        for (size_t i = 0; i < WAYS; i++)
            ask[i] = (Asking){.answer = answer, .count = count, .running = rows, .sched = ways[i]};
        answer_in_turns(m, ask, WAYS, x);
        if (x[1].digest != x[0].digest || x[2].digest != x[0].digest) fail("texts differ by how they were batched");
        for (int drawn = 0; drawn < 2; drawn++) {
            double found[NUMBERS];
            compare(found, x, factor, rows, drawn);
            for (size_t i = 0; i < NUMBERS; i++) value[drawn][i][r] = found[i];
        }
        for (size_t i = 0; i < WAYS; i++) answered_free(&x[i]);
    }
    for (int drawn = 1; drawn >= 0; drawn--)
        report_point(b, point, factor, value[drawn], rounds, drawn, &apart[drawn]);
    free(answer);
}

// ---- guesses, alone and together -------------------------------------------------------------------
// Weighted by the tokens of each request: the mean of its tokens a step, and of the inverse. All tokens over all steps
// is one over the latter, so the two means differ by the factor E[m] E[1/m], whatever the texts are.
typedef struct { double pooled, mean, factor; } Accepted;
static Accepted accepted_of(const Answered *x, size_t count) {
    double tokens = 0, steps = 0, mean = 0, inverse = 0;
    for (size_t i = 0; i < count; i++) {
        double n = (double)x->told[i].tokens, k = (double)x->told[i].steps;
        tokens += n, steps += k, mean += n * (n / k), inverse += n * (k / n);
    }
    return (Accepted){tokens / steps, mean / tokens, mean / tokens * (inverse / tokens)};
}

static void measure_acceptance(Bench *b) {
    enum { REQUESTS = 64, TOGETHER = 16, GUESSES = 4, TOKENS = 64 };
    Config config = config_of("--layers 2 --width 64 --heads 2 --context 1024 --init-scale 4", 256);
    Model *m = model_new(&config, false);
    size_t answer[REQUESTS], alike = 0;
    draw_lengths(answer, REQUESTS, TOKENS, 1, 1);
    Asking ask = {.answer = answer, .count = REQUESTS, .running = 1, .guesses = GUESSES, .lookup = true};
    Answered alone = answer_all(m, &ask), together;
    ask.running = TOGETHER;
    together = answer_all(m, &ask);
    for (size_t i = 0; i < REQUESTS; i++)
        alike += alone.told[i].digest == together.told[i].digest && alone.told[i].steps == together.told[i].steps;
    Accepted a = accepted_of(&alone, REQUESTS), t = accepted_of(&together, REQUESTS);
    printf("tokens a step: over all %.4f alone, %.4f together; mean of requests %.4f, %.4f; ratio %.6f, E[m] E[1/m] "
           "%.6f; %zu of %d requests alike\n", a.pooled, t.pooled, a.mean, t.mean, t.mean / t.pooled, t.factor, alike,
           REQUESTS);
    add_result(b, "acceptance", json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "pooled", t.pooled, "mean", t.mean,
                                          "factor", t.factor, "over_factor", t.mean / t.pooled / t.factor, "alone",
                                          a.pooled / t.pooled, "alone_mean", a.mean / t.mean, "alike",
                                          (double)alike / REQUESTS));
    answered_free(&alone), answered_free(&together), model_free(m);
}

void bench_batches(Bench *b) {
    size_t tiny = b->effort == TINY;
    Config config = config_of(settings[tiny].flags, settings[tiny].vocab);
    Model *m = model_new(&config, false);
    Apart apart[2] = {{0}};
    printf("rows    cv times    max/mean    padded      w      gain by line  by full step\n");
    for (size_t i = 0; i < POINTS; i++) measure_point(b, m, i, settings[tiny].answer, apart);
    for (int drawn = 0; drawn < 2; drawn++)
        add_result(b, "apart", json_pack("{s:s, s:f, s:f, s:f}", "what", drawn ? "all" : "model", "padding",
                                         apart[drawn].padding, "steps", apart[drawn].steps, "line",
                                         apart[drawn].line));
    model_free(m);
    measure_acceptance(b);
}

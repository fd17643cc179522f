// ridge.c: where batched decoding turns compute-bound, and what moves that: the bytes of a weight, the rate of its
// products, and the threads. Three arms in turns: floats, 8-bit integers (--quant q8_0 --quant-act int8, embedding and
// head, too), and floats with one thread. Of each the ridge by two constants, seconds of a step of one row over seconds
// of a token in a prompt of 256; and that of its own steps: half of the rows with which a step takes twice as long as
// with one.
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>

static const struct { const char *flags; size_t vocab; } settings[] = {
    {"--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 512", 32000},
    {"--layers 2 --width 64 --heads 2 --context 512", 256},
};
enum { FLOATS, INTEGERS, ONE_THREAD, ARMS, COUNTS = 10, MANY = 256, PAST = 16 };
static const size_t counts[COUNTS] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64};       // so few keys that they cost nothing
static const char *const names[ARMS] = {"floats", "integers", "one-thread"};

typedef struct { Model *model; Blocks *blocks; double bytes; Server *server[COUNTS + 1]; } Arm;

static Arm arm_new(const char *flags, size_t vocab) {
    Config c = config_of(flags, vocab);
    Arm a = {.model = model_new(&c, false), .bytes = (double)model_size(&c).packed_bytes};
    a.blocks = blocks_new(a.model, MOST_ROWS * (PAST / ROW_BLOCK + 1) + MANY / ROW_BLOCK, ROW_BLOCK);
    for (size_t i = 0; i < COUNTS; i++) a.server[i] = step_new(a.model, a.blocks, counts[i], 1, PAST);
    a.server[COUNTS] = step_new(a.model, a.blocks, 1, MANY, 0);
    return a;
}
static void arm_free(Arm *a) {
    for (size_t i = 0; i <= COUNTS; i++) server_free(a->server[i]);
    blocks_free(a->blocks), model_free(a->model);
}

// On a straight line between the two numbers of rows on either side; NAN: not even the most take twice as long.
static double knee_of(const Bench *b, const Contestant c[COUNTS + 1]) {
    double twice = 2 * seconds_of(b, &c[0]).median;
    for (size_t i = 1; i < COUNTS; i++) {
        double t = seconds_of(b, &c[i]).median, before = seconds_of(b, &c[i - 1]).median;
        if (t < twice) continue;
        double part = (twice - before) / (t - before), from = (double)counts[i - 1];
        return (from + part * ((double)counts[i] - from)) / 2;
    }
    return NAN;
}

void bench_ridge(Bench *b) {
    size_t tiny = b->effort == TINY;
    char *in_integers = xprintf("%s --quant q8_0 --quant-act int8 --quant-embed", settings[tiny].flags);
    size_t vocab = settings[tiny].vocab;
    Arm arm[ARMS - 1] = {arm_new(settings[tiny].flags, vocab), arm_new(in_integers, vocab)};
    Contestant c[ARMS][COUNTS + 1] = {{{0}}};
    for (size_t k = 0; k < ARMS; k++)
        for (size_t i = 0; i <= COUNTS; i++)
            c[k][i] = (Contestant){.run = server_run, .work = arm[k == INTEGERS].server[i],
                                   .threads = k == ONE_THREAD ? 1 : 0};
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "ridge", &c[0][0], ARMS * (COUNTS + 1));
    b->least_seconds = least;
    double first = 0, first_told = 0;
    printf("arm            MB   one row ms   a token ms   ridge by constants   ridge of its steps   of the floats'   "
           "said\n");
    for (size_t k = 0; k < ARMS; k++) {
        double bytes = arm[k == INTEGERS].bytes, token = seconds_of(b, &c[k][COUNTS]).median / MANY;
        double one = seconds_of(b, &c[k][0]).median, told = one / token, found = knee_of(b, c[k]);
        if (isnan(found)) found = 0;
        if (k == FLOATS) first = found, first_told = told;
        double moves = first > 0 ? found / first : 0;
        printf("%-10s %6.1f %12.2f %12.3f %20.1f %20.1f %16.2f %6.2f\n", names[k], 1e-6 * bytes, 1e3 * one,
               1e3 * token, told, found, moves, told / first_told);
        json_t *steps = json_array();
        for (size_t i = 0; i < COUNTS; i++)
            json_array_append_new(steps, json_pack("{s:I, s:f}", "rows", (json_int_t)counts[i], "ms",
                                                   1e3 * seconds_of(b, &c[k][i]).median));
        add_result(b, "ridge", json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "arm", names[k],
                                         "mb", 1e-6 * bytes, "one_ms", 1e3 * one, "token_ms", 1e3 * token, "predicted",
                                         told, "measured", found, "over_predicted", found / told, "moves", moves,
                                         "told_moves", told / first_told, "bytes_of_floats", bytes / arm[0].bytes,
                                         "steps", steps));
    }
    race_free(&c[0][0], ARMS * (COUNTS + 1));
    for (size_t k = 0; k < ARMS - 1; k++) arm_free(&arm[k]);
    free(in_integers);
}

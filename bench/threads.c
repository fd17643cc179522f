// threads.c: how speed grows with threads: a large product, whole steps, and what the machine itself allows.
#include "kernels/matmul.h"
#include "bench/bench.h"
#include <stdlib.h>

enum { SIZE = 1024, MOST_COUNTS = 16, WORKS = 3 };                  // small step, baby step, product
static const struct { const char *name, *flags; Effort from; } settings[WORKS] = {
    {"small step", small_flags, TINY}, {"baby step", baby_flags, FULL}, {"product 1024^3", NULL, QUICK}};

typedef struct { real *y, *x, *w; } Operands;

static double run_product(void *work, size_t repeats) {
    const Operands *o = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) linear_forward(o->y, o->x, o->w, NULL, SIZE, SIZE, SIZE);
    return seconds_now() - start;
}

// 1, 2, 4, ... and all.
static size_t thread_counts(const Bench *b, int count[MOST_COUNTS]) {
    size_t n = 0;
    for (int t = 1; t < b->threads && n < MOST_COUNTS - 1; t *= 2) count[n++] = t;
    count[n++] = b->threads;
    return n;
}

static void report(Bench *b, size_t i, const int *count, size_t counts, const Contestant *c) {
    printf("%-15s", settings[i].name);
    for (size_t k = 0; k < counts; k++) {
        Summary times = ratio_of(b, &c[k], &c[0]), share = share_of(b, &c[k]);
        printf("   %3d: %5.2fx %4.0f%% ±%-3.0f", count[k], times.median, 100 * share.median, 100 * spread_of(times));
        add_result(b, "threads",
                   json_pack("{s:s, s:i, s:o, s:o}", "work", settings[i].name, "threads", count[k], "times_one_thread",
                             summary_json(times), "run", contestant_json(b, &c[k])));
    }
    printf("\n");
}

void bench_threads(Bench *b) {
    int count[MOST_COUNTS];
    size_t counts = thread_counts(b, count);
    Contestant c[WORKS][MOST_COUNTS] = {{{0}}};
    Trainer *t[WORKS] = {NULL};
    Operands o = {xmalloc(SIZE * SIZE * sizeof(real)), xmalloc(SIZE * SIZE * sizeof(real)),
                  xmalloc(SIZE * SIZE * sizeof(real))};
    for (size_t i = 0; i < WORKS; i++) {
        if (settings[i].from > b->effort) continue;
        if (settings[i].flags) t[i] = trainer_new(settings[i].flags, 65);
        for (size_t k = 0; k < counts; k++)
            c[i][k] = (Contestant){.run = t[i] ? trainer_run : run_product,
                                   .work = t[i] ? (void *)t[i] : &o,
                                   .threads = count[k],
                                   .flops = t[i] ? trainer_flops(t[i]) : 2.0 * SIZE * SIZE * SIZE};
    }
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "threads", &c[0][0], WORKS * MOST_COUNTS);
    b->least_seconds = least;
    printf("threads: times the speed of one thread, share of the FMA peak of as many threads\n");
    for (size_t i = 0; i < WORKS; i++)
        if (c[i][0].run) report(b, i, count, counts, c[i]);
    race_free(&c[0][0], WORKS * MOST_COUNTS);
    for (size_t i = 0; i < WORKS; i++) trainer_free(t[i]);
    free(o.y), free(o.x), free(o.w);
}

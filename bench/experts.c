// experts.c: what experts cost in seconds. Whole training steps, in turns, of models of one layer whose feed-forward
// layer is dense and 1 to 64 times as wide, or 4 to 256 experts of which each token passes one: its arithmetic is that
// of the narrow dense layer, but AdamW moves all of them. In two sizes: the telephone book's model of moe-bits.toml,
// where all fits into the caches, and one whose experts do not. Of each:
//
//     as dense   how many times as wide a dense layer is that takes as long as the mixture
//     by sum     t(dense) + k (parameters more), with k from 256 experts alone: what is left over of 4, 16 and 64
//     doubled    with how many experts a step takes twice as long, by that sum, and how many tokens each then gets
#include "run/run.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>

#define HASH " --top-k 1 --router hash"
#define LEARNED " --top-k 1 --router bias --norm-topk 0 --gate sigmoid --route-scale 2"
enum { SIZES = 2, DENSE = 5, HASHED = 4, LEARNT = 1, MODELS = DENSE + HASHED + LEARNT, MOST = DENSE + HASHED - 1 };
static const struct { const char *name, *flags; size_t vocab, width; } sizes[SIZES] = {
    {"book", "--pos learned --context 48 --layers 1 --width 16 --heads 2 --batch 16 --weight-decay 0", 74, 16},
    {"wide", "--context 64 --layers 1 --width 256 --heads 4 --batch 16 --weight-decay 0", 256, 256},
};
static const struct { const char *kind, *flags; size_t times, experts; } models[MODELS] = {
    {"dense", "", 1, 0}, {"dense", "", 2, 0}, {"dense", "", 4, 0}, {"dense", "", 16, 0}, {"dense", "", 64, 0},
    {"hash", HASH, 1, 4}, {"hash", HASH, 1, 16}, {"hash", HASH, 1, 64}, {"hash", HASH, 1, 256},
    {"learned", LEARNED, 1, 16},
};

static Trainer *model_of(size_t size, size_t i) {
    char *flags = xprintf("%s --ffn-width %zu", sizes[size].flags, models[i].times * sizes[size].width);
    char *all = models[i].experts ? xprintf("%s --experts %zu%s", flags, models[i].experts, models[i].flags) : flags;
    Trainer *t = trainer_new(all, sizes[size].vocab);
    if (all != flags) free(all);
    free(flags);
    return t;
}

// The width, in times the narrow one, of a dense layer that takes that many seconds: a line through its neighbours in
// logs, at the ends through the nearest two.
static double as_dense(const Bench *b, const Contestant *c, double seconds) {
    size_t i = 1;
    while (i + 1 < DENSE && seconds_of(b, &c[i]).median < seconds) i++;
    double low = log(seconds_of(b, &c[i - 1]).median), high = log(seconds_of(b, &c[i]).median);
    double from = log((double)models[i - 1].times), to = log((double)models[i].times);
    return exp(from + (log(seconds) - low) / (high - low) * (to - from));
}

static void report(Bench *b, size_t size, Trainer *const t[MODELS], const Contestant c[MODELS]) {
    for (size_t i = 0; i < MODELS; i++) {
        Summary seconds = seconds_of(b, &c[i]), longer = ratio_of(b, &c[0], &c[i]);
        size_t tokens = t[i]->config.batch * t[i]->config.context, experts = models[i].experts;
        double dense = experts ? as_dense(b, c, seconds.median) : (double)models[i].times;
        printf("%-5s %-8s %4zu %10zu %9.3f %9.0f %7.2f %9.1f\n", sizes[size].name, models[i].kind,
               experts ? experts : models[i].times, t[i]->size.parameters, 1e3 * seconds.median,
               (double)tokens / seconds.median, longer.median, dense);
        add_result(b, "experts", json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:f, s:o, s:f}", "size", sizes[size].name,
                                           "kind", models[i].kind, "number",
                                           (json_int_t)(experts ? experts : models[i].times), "parameters",
                                           (json_int_t)t[i]->size.parameters, "tokens", (json_int_t)tokens, "step",
                                           contestant_json(b, &c[i]), "tokens_per_second",
                                           (double)tokens / seconds.median, "longer", summary_json(longer), "as_dense",
                                           dense));
    }
}

static double more_parameters(Trainer *const t[MODELS], size_t i) {
    return (double)(t[i]->size.parameters - t[0]->size.parameters);
}

static void report_sum(Bench *b, size_t size, Trainer *const t[MODELS], const Contestant c[MODELS]) {
    double one = seconds_of(b, &c[0]).median, worst = 0;
    double k = (seconds_of(b, &c[MOST]).median - one) / more_parameters(t, MOST);
    double rate = (trainer_bytes(t[MOST]) - trainer_bytes(t[0])) / more_parameters(t, MOST) / k;
    for (size_t i = DENSE; i < MOST; i++)
        worst = fmax(worst, fabs((one + k * more_parameters(t, i)) / seconds_of(b, &c[i]).median - 1));
    double expert = more_parameters(t, MOST) / (double)(models[MOST].experts - 1), doubled = 1 + one / (k * expert);
    double tokens = (double)(t[0]->config.batch * t[0]->config.context) / doubled;
    printf("%-5s a parameter more takes %.3f ns a step (%.1f GB/s), which is within %.1f%% of 4, 16 and 64 experts; "
           "doubled by %.1f, of %.1f tokens each\n", sizes[size].name, 1e9 * k, 1e-9 * rate, 100 * worst, doubled,
           tokens);
    add_result(b, "idle", json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "size", sizes[size].name, "nanoseconds", 1e9 * k,
                                    "gbytes", 1e-9 * rate, "worst", worst, "doubled", doubled, "tokens", tokens));
}

void bench_experts(Bench *b) {
    Trainer *t[SIZES][MODELS];
    Contestant c[SIZES][MODELS] = {{{0}}};
    size_t n = b->effort == TINY ? 1 : SIZES;
    for (size_t size = 0; size < n; size++)
        for (size_t i = 0; i < MODELS; i++) {
            t[size][i] = model_of(size, i);
            c[size][i] = (Contestant){.run = trainer_run, .work = t[size][i], .flops = trainer_flops(t[size][i])};
        }
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "experts", c[0], n * MODELS);
    b->least_seconds = least;
    printf("size  kind      E/x     params   ms/step     tok/s  times   as dense\n");
    for (size_t size = 0; size < n; size++) report(b, size, t[size], c[size]), report_sum(b, size, t[size], c[size]);
    race_free(c[0], n * MODELS);
    for (size_t size = 0; size < n; size++)
        for (size_t i = 0; i < MODELS; i++) trainer_free(t[size][i]);
}

// attention.c: softmax attention alone, over the context: naive, flash, and band between them, which shows how much of
// what flash gains are the FLOPs that the mask hides and how much is memory; and flash with a sliding window. Useful
// FLOPs: causal, at half, or the pairs inside the window; what naive computes and then masks, and what flash computes
// again in its backward, does not count.
#include "kernels/attention.h"
#include "lib/rng.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { HEADS = 2, WIDTH = 64, ROW = HEADS * WIDTH, CONTEXTS = 8 };
typedef enum { NAIVE, BAND, FLASH, SWA, KINDS } Kind;
static const AttnKernel kernel_of[KINDS] = {ATTENTION_naive, ATTENTION_band, ATTENTION_flash, ATTENTION_flash};
enum { PASSES = 2 };                                               // forward, backward
static const struct { size_t T; Effort from; } contexts[CONTEXTS] = {
    {64, TINY}, {128, FULL}, {256, QUICK}, {512, FULL}, {1024, QUICK}, {2048, FULL}, {4096, QUICK}, {8192, FULL}};

// Of swa: 256 from 1024 tokens on, which is where it is measured (and at the smallest size, to see that it works).
static size_t window_of(size_t T, int kind) { return kind != SWA ? 0 : T < 1024 ? T / 4 : 256; }

// One sequence, its keys and values, its gradients, and what its forward keeps.
typedef struct {
    size_t T;
    AttnShape shape;
    KvView view;
    Arena arena;
    real *q, *k, *v, *out, *dout, *dq, *dk, *dv, *lse, *probability;
    size_t kept;               // bytes from the forward to the backward
    bool backward;
} Work;

static void lay_out(Work *w) {
    size_t n = w->T * ROW * sizeof(real);
    real **each[] = {&w->q, &w->k, &w->v, &w->dout, &w->dq, &w->dk, &w->dv, &w->out};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) *each[i] = arena_take(&w->arena, n);
    size_t before = w->arena.used - n;                             // out is kept, too
    w->lse = arena_take(&w->arena, HEADS * w->T * sizeof(real));
    size_t matrices = size_mul(HEADS * w->T, w->T * sizeof(real));
    w->probability = w->shape.kernel == ATTENTION_flash ? NULL : arena_take(&w->arena, matrices);
    w->kept = w->arena.used - before;
}

static void work_new(Work *w, size_t T, int kind) {
    *w = (Work){.T = T, .arena = {.name = "attention"}};
    w->shape = (AttnShape){.H = HEADS, .KV = HEADS, .D = WIDTH, .Dv = WIDTH, .scale = 1 / sqrt(WIDTH),
                           .kernel = kernel_of[kind], .tile = 64, .window = window_of(T, kind)};
    lay_out(w);
    arena_commit(&w->arena);
    lay_out(w);
    Rng random = rng_stream(1, RNG_TEST, T);
    for (size_t i = 0; i < T * ROW; i++) {
        w->q[i] = (real)(rng_uniform(&random) - 0.5), w->k[i] = (real)(rng_uniform(&random) - 0.5);
        w->v[i] = (real)(rng_uniform(&random) - 0.5), w->dout[i] = (real)(rng_uniform(&random) - 0.5);
    }
    w->view = (KvView){.k = w->k, .v = w->v, .k_step = T * ROW, .k_stride = ROW, .k_head = WIDTH, .v_step = T * ROW,
                       .v_stride = ROW, .v_head = WIDTH, .length = T};
}

static double run_forward(void *work, size_t repeats) {
    Work *w = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++)
        attention_forward((AttnOutput){w->out, ROW, w->lse, w->probability},
                          (AttnInput){.q = w->q, .q_stride = ROW, .view = w->view, .B = 1, .n = w->T}, w->shape);
    return seconds_now() - start;
}

static double run_backward(void *work, size_t repeats) {
    Work *w = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++)
        attention_backward((AttnGradient){w->dq, w->dk, w->dv}, w->dout,
                           (AttnOutput){w->out, ROW, w->lse, w->probability},
                           (AttnInput){.q = w->q, .q_stride = ROW, .view = w->view, .B = 1, .n = w->T}, w->shape);
    return seconds_now() - start;
}

static double flops_of(size_t T, int kind, int pass) {
    double n = (double)T, window = (double)window_of(T, kind);
    double pairs = kind == SWA ? window * (window + 1) / 2 + (n - window) * window : n * n / 2;
    return (pass ? 8.0 : 4.0) * HEADS * pairs * WIDTH;
}

// The least that passes through memory: inputs and outputs; naive, the matrix of scores too: written and read in the
// forward, read again in the backward, where that of its gradient is written and read. Of band, half of it.
static double bytes_of(size_t T, int kind, int pass) {
    double rows = (pass ? 8.0 : 4.0) * (double)(T * ROW),
           passed = kind >= FLASH ? 0 : (pass ? 3.0 : 2.0) * (kind == BAND ? 0.5 : 1),
           matrix = passed * HEADS * (double)T * (double)T;
    return (double)sizeof(real) * (rows + matrix);
}

// The matrices of the largest context, of naive and band, must fit into half of the memory.
static bool fits(size_t T) {
    double need = 6.0 * HEADS * (double)T * (double)T * sizeof(real);
    return need < 0.5 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

// Whether one matrix of scores is larger than the last-level cache.
static bool leaves_cache(const Bench *b, size_t T) { return b->caches && T * T * sizeof(real) > b->caches; }

static void print_seconds(const Bench *b, const Contestant *c) {
    if (c->run) printf(" %9.3f", 1e3 * seconds_of(b, c).median);
    else printf("         -");
}

// One line of one pass; c: [KINDS][PASSES]. Adds what it prints to the results of this context.
static void report(const Bench *b, json_t *results, size_t T, int pass, const Contestant *c) {
    const Contestant *naive = &c[NAIVE * PASSES + pass], *band = &c[BAND * PASSES + pass],
                     *flash = &c[FLASH * PASSES + pass], *swa = &c[SWA * PASSES + pass];
    const Summary none = {NAN, NAN, NAN};
    Summary times = naive->run ? ratio_of(b, flash, naive) : none, flops = naive->run ? ratio_of(b, band, naive) : none,
            memory = naive->run ? ratio_of(b, flash, band) : none;
    printf("%-8s %7zu%s", pass ? "backward" : "forward", T, leaves_cache(b, T) ? " *" : "  ");
    print_seconds(b, naive), print_seconds(b, band), print_seconds(b, flash);
    printf(" %5.0f%% %6.2fx ±%-3.0f %6.2fx %6.2fx\n", 100 * share_of(b, flash).median, times.median,
           100 * spread_of(times), flops.median, memory.median);
    json_t *p = json_pack("{s:o, s:o, s:o, s:o}", "flash", contestant_json(b, flash), "times_naive",
                          summary_json(times), "band_times_naive", summary_json(flops), "flash_times_band",
                          summary_json(memory));
    if (naive->run) json_object_set_new(p, "naive", contestant_json(b, naive));
    if (band->run) json_object_set_new(p, "band", contestant_json(b, band));
    if (swa->run) json_object_set_new(p, "swa", contestant_json(b, swa));
    if (swa->run) json_object_set_new(p, "swa_times_flash", summary_json(ratio_of(b, swa, flash)));
    json_object_set_new(results, pass ? "backward" : "forward", p);
}

static void report_memory(size_t T, const Work *flash, json_t *results) {
    double kept = (double)flash->kept, naive = kept + HEADS * (double)T * (double)T * sizeof(real);
    printf("kept     %7zu   %9.2f MiB by naive and band, %.2f by flash\n", T, naive / (1 << 20), kept / (1 << 20));
    json_object_set_new(results, "kept_bytes_naive", json_real(naive));
    json_object_set_new(results, "kept_bytes_flash", json_real(kept));
}

// The window beside flash without one, which sees T/2 keys on average instead of nearly as many as the window has.
static void report_window(const Bench *b, size_t T, const Contestant *c) {
    printf("%7zu %6zu", T, window_of(T, SWA));
    for (int pass = 0; pass < PASSES; pass++) {
        const Contestant *flash = &c[FLASH * PASSES + pass], *swa = &c[SWA * PASSES + pass];
        Summary times = ratio_of(b, swa, flash);
        printf("  %9.3f %9.3f %5.0f%% %6.2fx ±%-3.0f of %.2fx", 1e3 * seconds_of(b, flash).median,
               1e3 * seconds_of(b, swa).median, 100 * share_of(b, swa).median, times.median, 100 * spread_of(times),
               flash->flops / swa->flops);
    }
    printf("\n");
}

static void mark(Bench *b, size_t T, const Contestant *c) {
    static const char *const name[KINDS][PASSES] = {{"naive", "naive backward"}, {"band", "band backward"},
                                                      {"flash", "flash backward"}, {"swa", "swa backward"}};
    for (int kind = 0; kind < KINDS; kind++)
        for (int pass = 0; pass < PASSES; pass++) {
            const Contestant *x = &c[kind * PASSES + pass];
            char *label = xprintf("%s %zu", name[kind][pass], T);
            if (x->run)
                add_point(b, GROUP_ATTENTION, label, x->flops, bytes_of(T, kind, pass), seconds_of(b, x).median);
            free(label);
        }
}

void bench_attention(Bench *b) {
    static Work work[CONTEXTS][KINDS];
    static Contestant c[CONTEXTS][KINDS][PASSES];
    for (size_t i = 0; i < CONTEXTS; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            size_t T = contexts[i].T;
            if (contexts[i].from > b->effort || (kind < FLASH && !fits(T))) continue;
            if (kind == SWA && T < 1024 && b->effort != TINY) continue;
            work_new(&work[i][kind], T, kind);
            for (int pass = 0; pass < PASSES; pass++)
                c[i][kind][pass] = (Contestant){.run = pass ? run_backward : run_forward, .work = &work[i][kind],
                                                .flops = flops_of(T, kind, pass)};
        }
    race(b, "attention", &c[0][0][0], CONTEXTS * KINDS * PASSES);
    json_t *results[CONTEXTS];
    for (size_t i = 0; i < CONTEXTS; i++)
        results[i] = json_pack("{s:I, s:b}", "context", (json_int_t)contexts[i].T, "matrix_leaves_cache",
                               leaves_cache(b, contexts[i].T));
    printf("pass     context     naive ms      band     flash  share  flash/naive    FLOPs  memory\n");
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t i = 0; i < CONTEXTS; i++)
            if (c[i][FLASH][0].run) report(b, results[i], contexts[i].T, pass, &c[i][0][0]);
    for (size_t i = 0; i < CONTEXTS; i++) {
        if (c[i][FLASH][0].run) report_memory(contexts[i].T, &work[i][FLASH], results[i]);
        if (c[i][SWA][0].run)
            json_object_set_new(results[i], "window", json_integer((json_int_t)window_of(contexts[i].T, SWA)));
        if (c[i][FLASH][0].run) add_result(b, "attention", results[i]);
        else json_decref(results[i]);
    }
    printf("%d heads of %d; share of the FMA peak, in useful FLOPs; goal 0.95x, and 1.5x where one T x T matrix is "
           "larger than the last-level cache (*)\nnaive computes the whole matrix and masks half of it, band does not: "
           "FLOPs is what that gains, memory what flash gains beyond it\n",
           HEADS, WIDTH);
    printf("context window    forward: flash, swa ms, share, flash/swa, of what fewer pairs allow   backward\n");
    for (size_t i = 0; i < CONTEXTS; i++)
        if (c[i][SWA][0].run) report_window(b, contexts[i].T, &c[i][0][0]);
    size_t shown = b->effort == TINY ? 0 : 6;
    mark(b, contexts[shown].T, &c[shown][0][0]);
    race_free(&c[0][0][0], CONTEXTS * KINDS * PASSES);
    for (size_t i = 0; i < CONTEXTS; i++)
        for (int kind = 0; kind < KINDS; kind++) arena_free(&work[i][kind].arena);
}

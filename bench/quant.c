// quant.c: the products of a model with quantised weights, and nothing else of it, by format and rows. Of few rows
// reading the weights is the limit; the tokens per second are those that a model would write if all the rest of it cost
// nothing. float: our own products in full precision, beside them. What is smaller than the caches may be read faster
// than memory: MB says what that can be.
#include "bench/bench.h"
#include "kernels/matmul.h"
#include "kernels/quant_matmul.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <string.h>

// The matrices [N,K] of a layer, and the head.
typedef struct { size_t N, K; } Shape;
static const struct { const char *name; size_t layers; Shape layer[4], head; Effort from; } models[] = {
    {"124M", 12, {{2304, 768}, {768, 768}, {3072, 768}, {768, 3072}}, {50257, 768}, FULL},   // GPT-2
    {"51M", 12, {{1024, 512}, {512, 512}, {2752, 512}, {512, 1376}}, {32000, 512}, QUICK},   // llama, 4 of 8 heads
    {"tiny", 1, {{64, 64}, {64, 64}, {128, 64}, {64, 128}}, {256, 64}, TINY},
};
static const size_t counts[] = {1, 2, 4, 8, 16, 32, 64, 256};
static const QuantFormat formats[] = {QUANT_int8, QUANT_q8_0, QUANT_q4_0, QUANT_int4_asym, QUANT_mxfp4, QUANT_nvfp4};
enum { MODELS = sizeof models / sizeof models[0], COUNTS = sizeof counts / sizeof counts[0],
       FORMATS = sizeof formats / sizeof formats[0], SHAPES = 4, MOST = 64 };

// All weights lie in one arena, as those of a model do: from the first to the last they are one walk through memory.
typedef struct {
    const char *name;
    Arena arena;
    size_t matrices, weights, bytes;
    Shape shape[MOST];
    QuantWeight quantised[MOST];
    const real *packed[MOST];           // in full precision
} Weights;

static real *pool;                      // random numbers, read from the start by each matrix
enum { POOL = 1 << 20 };

static void pack_quantised(QuantFormat format, unsigned char *packed, Shape s) {
    size_t bytes = quant_row_bytes(format, s.K), rows = smaller(s.N, POOL / s.K);
    unsigned char *held = xmalloc(s.N * bytes);
    quant_encode_rows((Quant){.format = format}, held, quant_tensor_scale(format, pool, rows * s.K), pool, rows, s.K);
    for (size_t n = rows; n < s.N; n++) memcpy(held + n * bytes, held + n % rows * bytes, bytes);
    quant_pack(packed, format, held, s.N, s.K);
    free(held);
}

// format NULL: floats.
static void walk(Weights *w, size_t model, const QuantFormat *format) {
    w->matrices = w->weights = 0;
    for (size_t l = 0; l <= models[model].layers; l++)
        for (size_t i = 0; i < (l < models[model].layers ? SHAPES : 1); i++) {
            Shape s = w->shape[w->matrices] = l < models[model].layers ? models[model].layer[i] : models[model].head;
            bool taken = w->arena.base != NULL;
            size_t bytes = format ? quant_packed_bytes(*format, s.N, s.K) : packed_size(s.K, s.N) * sizeof(real);
            void *at = arena_take(&w->arena, bytes);
            w->weights += s.N * s.K;
            w->packed[w->matrices] = at;
            if (format) w->quantised[w->matrices] = (QuantWeight){*format, s.N, s.K, 1, at};
            if (taken && format) pack_quantised(*format, at, s);
            w->matrices++;
        }
    w->bytes = w->arena.used;
}
static Weights *weights_new(size_t model, const QuantFormat *format) {
    Weights *w = xmalloc(sizeof *w);
    w->name = format ? quant_name(*format) : "float", w->arena.name = "quantised weights";
    walk(w, model, format);
    arena_commit(&w->arena);
    walk(w, model, format);
    return w;
}

// Activations are quantised where a model would: once for each product.
typedef struct { const Weights *weights; size_t rows; real *x, *y; void *held; } Products;
static double run(void *work, size_t repeats) {
    const Products *p = work;
    double start = seconds_now();
    for (size_t r = 0; r < repeats; r++)
        for (size_t i = 0; i < p->weights->matrices; i++) {
            Shape s = p->weights->shape[i];
            if (p->weights->quantised[i].packed) {
                QuantRows rows = quant_rows(p->held, p->x, s.K, p->rows, s.K);
                quant_product(p->y, s.N, &rows, &p->weights->quantised[i], NULL);
            } else linear_forward(p->y, p->x, p->weights->packed[i], NULL, p->rows, s.N, s.K);
        }
    return seconds_now() - start;
}

static void report(Bench *b, size_t model, const Products *p, const Contestant *c, const Contestant *whole) {
    Summary seconds = seconds_of(b, c), share = share_of(b, c), ratio = ratio_of(b, c, whole);
    double rate = (double)p->rows / seconds.median;
    printf("%-5s %-9s %4zu %8.1f %10.3f %10.0f %7.1f %6.0f%% ±%.0f %9.0f %8.2f\n", models[model].name,
           p->weights->name, p->rows, 1e-6 * (double)p->weights->bytes, 1e3 * seconds.median, rate,
           1e-9 * c->bytes / seconds.median, 100 * share.median, 100 * spread_of(share),
           2e-9 * rate * (double)p->weights->weights, ratio.median);
    add_result(b, "quant",
               json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:o}", "model", models[model].name, "format",
                         p->weights->name, "path", quant_product_path(), "rows", (json_int_t)p->rows, "weights",
                         (json_int_t)p->weights->weights, "weight_bytes", (json_int_t)p->weights->bytes,
                         "tokens_per_second", rate, "times_float", ratio.median, "products", contestant_json(b, c)));
}

static void race_model(Bench *b, size_t model) {
    enum { ALL = FORMATS + 1 };
    Weights *w[ALL];
    for (size_t f = 0; f < ALL; f++) w[f] = weights_new(model, f ? &formats[f - 1] : NULL);
    size_t widest = models[model].head.N, deepest = models[model].layer[SHAPES - 1].K, most = counts[COUNTS - 1];
    real *y = xmalloc(widest * most * sizeof *y);
    void *held = xmalloc(quant_rows_bytes(most, deepest));
    for (size_t k = 0; k < COUNTS; k++) {
        Contestant c[ALL] = {{0}};
        Products p[ALL];
        for (size_t f = 0; f < ALL; f++) {
            p[f] = (Products){w[f], counts[k], pool, y, held};
            double products = (double)counts[k] * (double)w[f]->weights, depth = f ? quant_dot_depth() : 1;
            c[f] = (Contestant){.run = run, .work = &p[f], .bytes = (double)w[f]->bytes,
                                .flops = depth > 0 ? 2 * products / depth : 0};
        }
        double least = b->least_seconds;
        b->least_seconds = 10 * least;      // several walks: the first one wakes threads and finds other weights cached
        race(b, "quantised products", c, ALL);
        b->least_seconds = least;
        for (size_t f = 0; f < ALL; f++) report(b, model, &p[f], &c[f], &c[0]);
        race_free(c, ALL);
    }
    for (size_t f = 0; f < ALL; f++) arena_free(&w[f]->arena), free(w[f]);
    free(y), free(held);
}

void bench_quant(Bench *b) {
    Rng r = rng_stream(1, RNG_TEST, 0);
    pool = xmalloc(POOL * sizeof *pool);
    for (size_t i = 0; i < POOL; i++) pool[i] = (real)(0.02 * rng_normal(&r));
    printf("products by %s; share: of the larger of reading all weights and %s\n", quant_product_path(),
           quant_dot_depth() ? "all products, four of integers as fast as one of floats"
                             : "all products of floats; how fast integers can be here is not known");
    printf("model format    rows       MB    ms/step      tok/s    GB/s     share    GOP/s  x float\n");
    for (size_t i = 0; i < MODELS; i++)
        if (b->effort == TINY ? models[i].from == TINY : models[i].from && models[i].from <= b->effort)
            race_model(b, i);
    free(pool);
}

// products.c: the three matrix products of a linear layer at the shapes of real models, beside OpenBLAS. Its operands
// are read again and again, as in a training step: only those larger than the last-level cache come from memory.
#include "kernels/matmul.h"
#include "lib/rng.h"
#include "bench/bench.h"
#include <dlfcn.h>
#include <omp.h>
#include <stdlib.h>
#include <time.h>

enum { FORWARD, INPUT, WEIGHT, PASSES };
static const char *const pass_name[PASSES] = {"forward", "input gradient", "weight gradient"};
static const struct { const char *name; size_t K, N; Effort from; } shapes[] = {   // y [M,N] = x [M,K] w^T
    {"small", 128, 512, TINY},  {"mid", 256, 1024, FULL},    {"baby", 384, 1536, QUICK},
    {"baby", 1536, 384, FULL},  {"gpt-2", 768, 2304, FULL},  {"gpt-2", 768, 3072, QUICK},
    {"gpt-2", 3072, 768, FULL}, {"llama", 2048, 5632, FULL}, {"llama", 5632, 2048, FULL},
};
static const struct { size_t M; Effort from; } batches[] = {
    {1, QUICK}, {16, FULL}, {128, TINY}, {1024, QUICK}, {4096, FULL}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], BATCHES = sizeof batches / sizeof batches[0] };

// ---- OpenBLAS, found at run time: nothing here links it --------------------------------------------
// Values of the cblas interface.
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
typedef void Sgemm(int order, int trans_a, int trans_b, int M, int N, int K, float alpha, const float *a, int lda,
                   const float *b, int ldb, float beta, float *c, int ldc);
typedef void Sgemv(int order, int trans, int M, int N, float alpha, const float *a, int lda, const float *x, int incx,
                   float beta, float *y, int incy);
typedef void Sger(int order, int M, int N, float alpha, const float *x, int incx, const float *y, int incy,
                  float *a, int lda);
static struct { Sgemm *gemm; Sgemv *gemv; Sger *ger; void (*set_threads)(int); } blas;

static bool open_blas(int threads) {
    setenv("OPENBLAS_THREAD_TIMEOUT", "20", 0); // 2^20 cycles: idle threads shall not spin beside the next contestant
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library || sizeof(real) != sizeof(float)) return false;
    *(void **)&blas.gemm = dlsym(library, "cblas_sgemm"), *(void **)&blas.gemv = dlsym(library, "cblas_sgemv");
    *(void **)&blas.ger = dlsym(library, "cblas_sger");
    *(void **)&blas.set_threads = dlsym(library, "openblas_set_num_threads");
    if (!blas.gemm || !blas.gemv || !blas.ger || !blas.set_threads) return false;
    blas.set_threads(threads);
    return true;
}

// ---- one product ---------------------------------------------------------------------------------
typedef struct { int pass; size_t M, N, K; real *x, *y, *w, *packed; } Work;    // x [M,K], y [M,N], w [N,K]

static double run_ours(void *work, size_t repeats) {
    const Work *p = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) {
        if (p->pass == FORWARD) linear_forward(p->y, p->x, p->packed, NULL, p->M, p->N, p->K);
        if (p->pass == INPUT) linear_backward_input(p->x, p->y, p->w, p->M, p->N, p->K, false);
        if (p->pass == WEIGHT) linear_backward_weight(p->w, NULL, p->y, p->x, p->M, p->N, p->K);
    }
    return seconds_now() - start;
}

static void blas_vectors(const Work *p, int N, int K) {
    float *x = (float *)p->x, *y = (float *)p->y, *w = (float *)p->w;
    if (p->pass == FORWARD) blas.gemv(ROW_MAJOR, NO_TRANS, N, K, 1, w, K, x, 1, 0, y, 1);
    if (p->pass == INPUT) blas.gemv(ROW_MAJOR, TRANS, N, K, 1, w, K, y, 1, 0, x, 1);
    if (p->pass == WEIGHT) blas.ger(ROW_MAJOR, N, K, 1, y, 1, x, 1, w, K);
}

static void blas_matrices(const Work *p, int M, int N, int K) {
    float *x = (float *)p->x, *y = (float *)p->y, *w = (float *)p->w;
    if (p->pass == FORWARD) blas.gemm(ROW_MAJOR, NO_TRANS, TRANS, M, N, K, 1, x, K, w, K, 0, y, N);
    if (p->pass == INPUT) blas.gemm(ROW_MAJOR, NO_TRANS, NO_TRANS, M, K, N, 1, y, N, w, K, 0, x, K);
    if (p->pass == WEIGHT) blas.gemm(ROW_MAJOR, TRANS, NO_TRANS, N, K, M, 1, y, N, x, K, 1, w, K);
}

static double run_blas(void *work, size_t repeats) {
    const Work *p = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++)
        if (p->M == 1) blas_vectors(p, (int)p->N, (int)p->K);
        else blas_matrices(p, (int)p->M, (int)p->N, (int)p->K);
    double took = seconds_now() - start;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);       // until its threads sleep
    return took;
}

// ---- all of them ---------------------------------------------------------------------------------
static double operand_bytes(const Work *p) {
    return (double)((p->M * p->K + p->M * p->N + p->N * p->K) * sizeof(real));
}

static real *numbers(size_t n) {
    real *x = xmalloc(size_mul(n, sizeof *x));
#pragma omp parallel for schedule(static)
    for (size_t block = 0; block < n; block += 4096) {
        Rng r = rng_stream(1, RNG_TEST, block);
        for (size_t i = block; i < block + 4096 && i < n; i++) x[i] = (real)(1e-3 * (rng_uniform(&r) - 0.5));
    }
    return x;
}

// Every shape with every number of rows. They share the largest one's memory.
static size_t list_work(const Bench *b, Work *work, const char **name) {
    size_t n = 0, x = 0, y = 0, w = 0, packed = 0;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t m = 0; m < BATCHES; m++) {
            if (shapes[s].from > b->effort || batches[m].from > b->effort) continue;
            size_t M = batches[m].M, N = shapes[s].N, K = shapes[s].K;
            for (int pass = 0; pass < PASSES; pass++)
                name[n] = shapes[s].name, work[n++] = (Work){.pass = pass, .M = M, .N = N, .K = K};
            x = M * K > x ? M * K : x, y = M * N > y ? M * N : y, w = N * K > w ? N * K : w;
            packed = packed_size(K, N) > packed ? packed_size(K, N) : packed;
        }
    Work memory = {.x = numbers(x), .y = numbers(y), .w = numbers(w), .packed = numbers(packed)};
    for (size_t i = 0; i < n; i++)
        work[i].x = memory.x, work[i].y = memory.y, work[i].w = memory.w, work[i].packed = memory.packed;
    return n;
}

static void print_row(const Bench *b, const char *name, const Work *p, const Contestant *ours,
                      const Contestant *theirs) {
    printf("%-6s %5zu -> %-5zu M %4zu ", name, p->K, p->N, p->M);
    for (int pass = 0; pass < PASSES; pass++) {
        Summary s = seconds_of(b, &ours[pass]);
        printf("  %7.1f %4.0f%% ±%-2.0f", 1e-9 * ours[pass].flops / s.median, 100 * share_of(b, &ours[pass]).median,
               100 * spread_of(s));
        if (theirs[pass].run) printf(" %5.2fx", ratio_of(b, &ours[pass], &theirs[pass]).median);
    }
    printf("%s\n", ours->bytes ? "  *" : "");
}

static void keep(Bench *b, const char *name, const Work *p, const Contestant *ours, const Contestant *theirs) {
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "shape", name, "product", pass_name[p->pass], "M", (json_int_t)p->M,
                  "N", (json_int_t)p->N, "K", (json_int_t)p->K, "ours", contestant_json(b, ours));
    if (theirs->run) {
        json_object_set_new(o, "openblas", contestant_json(b, theirs));
        json_object_set_new(o, "times_openblas", summary_json(ratio_of(b, ours, theirs)));
    }
    add_result(b, "products", o);
}

// In the picture: forwards of many rows, and of one where the weights come from memory.
static void show(Bench *b, const char *name, const Work *p, const Contestant *ours) {
    if (p->pass != FORWARD || p->K > p->N || p->N == 3 * p->K || (p->M < 1024 && !(p->M == 1 && ours->bytes))) return;
    char *label = xprintf("%s, %zu row%s", name, p->M, p->M > 1 ? "s" : "");
    add_point(b, GROUP_PRODUCTS, label, ours->flops, operand_bytes(p), seconds_of(b, ours).median);
    free(label);
}

void bench_products(Bench *b) {
    enum { MOST = SHAPES * BATCHES * PASSES };
    static Work work[MOST];
    static const char *name[MOST];
    bool with_blas = open_blas(b->threads);
    size_t n = list_work(b, work, name);
    Contestant *c = xmalloc(2 * n * sizeof *c), *theirs = c + n;
    for (size_t i = 0; i < n; i++) {
        double bytes = operand_bytes(&work[i]);
        c[i] = (Contestant){.run = run_ours,
                            .work = &work[i],
                            .flops = 2.0 * (double)(work[i].M * work[i].N * work[i].K),
                            .bytes = bytes > (double)b->caches ? bytes : 0};
        theirs[i] = c[i], theirs[i].run = with_blas ? run_blas : NULL;
    }
    Contestant *turns = xmalloc(2 * n * sizeof *turns);            // ours, then theirs, of each
    for (size_t i = 0; i < n; i++) turns[2 * i] = c[i], turns[2 * i + 1] = theirs[i];
    race(b, "products", turns, 2 * n);
    for (size_t i = 0; i < n; i++) c[i] = turns[2 * i], theirs[i] = turns[2 * i + 1];
    printf("%-28s   %-*s%-*s%s\n", "GFLOP/s, share of the limit", with_blas ? 25 : 18, "forward", with_blas ? 25 : 18,
           "input gradient", "weight gradient");
    for (size_t i = 0; i < n; i += PASSES) print_row(b, name[i], &work[i], &c[i], &theirs[i]);
    for (size_t i = 0; i < n; i++) keep(b, name[i], &work[i], &c[i], &theirs[i]), show(b, name[i], &work[i], &c[i]);
    printf("%s; * operands larger than the last-level cache: the limit may be memory\n",
           with_blas ? "x: times as fast as OpenBLAS" : "OpenBLAS (libopenblas.so.0) is not installed: no comparison");
    race_free(turns, 2 * n);
    free(turns), free(c), free(work[0].x), free(work[0].y), free(work[0].w), free(work[0].packed);
}

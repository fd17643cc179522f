// test_matmul.c: products against three loops. Every output is one chain of fused multiply-adds over k,
// so all comparisons are bit for bit: there is no tolerance in this file.
#include "tests/arrays.h"
#include "kernels/matmul.h"
#include <omp.h>

// How the operands of a product lie in memory; bits of an option number.
enum { A_COLUMNS = 1, B_COLUMNS = 2, PACKED = 4, BIAS = 8, ACCUMULATE = 16, GAPS = 32, OPTIONS = 64 };

static size_t last(size_t rows, size_t stride, size_t n) { return rows && n ? (rows - 1) * stride + n : 0; }

// A random product of that shape. Rows lie a few numbers apart with GAPS, and every array ends at a fence.
static Product make(size_t M, size_t N, size_t K, unsigned options, Rng *r) {
    size_t gap = options & GAPS ? 3 : 0;
    bool a_columns = options & A_COLUMNS, b_columns = options & B_COLUMNS;
    Product p = {.M = M, .N = N, .K = K, .ldc = N + gap, .accumulate = options & ACCUMULATE};
    p.a_row = a_columns ? 1 : K + gap, p.a_col = a_columns ? M + gap : 1;
    p.b_row = b_columns ? 1 : N + gap, p.b_col = b_columns ? K + gap : 1;
    p.c = array_random(last(M, p.ldc, N), r);
    p.a = array_random(a_columns ? last(K, p.a_col, M) : last(M, p.a_row, K), r);
    p.b = array_random(b_columns ? last(N, p.b_col, K) : last(K, p.b_row, N), r);
    p.bias = options & BIAS ? array_random(N, r) : NULL;
    if (options & PACKED) {
        real *packed = array_random(packed_size(K, N), r);      // what was there before must not matter
        pack(packed, p.b, p.b_row, p.b_col, K, N);
        p.packed = packed;
    }
    return p;
}

// The naive result in a new array, gaps between rows as they were.
static real *expected(const Product *p) {
    size_t n = last(p->M, p->ldc, p->N);
    Product naive = *p;
    naive.c = array_copy(p->c, n);
    products_naive(&naive, 1);
    return naive.c;
}

static void check_same(const Product *p, const real *c, const char *what) {
    CHECK(same_bits(p->c, c, last(p->M, p->ldc, p->N)),
          "%s: M %zu N %zu K %zu%s%s%s%s%s, row strides a %zu b %zu c %zu", what, p->M, p->N, p->K,
          p->a_col == 1 ? "" : ", a by columns", p->b_col == 1 ? "" : ", b by columns", p->packed ? ", packed" : "",
          p->bias ? ", bias" : "", p->accumulate ? ", accumulated" : "", p->a_row, p->b_row, p->ldc);
}

static void check_product(size_t M, size_t N, size_t K, unsigned options, Rng *r) {
    Product p = make(M, N, K, options, r);
    real *c = expected(&p);
    products(&p, 1);
    check_same(&p, c, "products");
    arrays_free();
}

static void shapes(void) {
    static const size_t Ms[] = {1, 2, 5, 6, 7, 12, 13, 25, 47}, Ns[] = {1, 15, 16, 17, 31, 32, 33, 64, 100};
    static const size_t Ks[] = {0, 1, 2, 15, 16, 17, 33, 384, 385};
    Rng r = rng_stream(1, RNG_TEST, 0);
    for (size_t i = 0; i < sizeof Ms / sizeof *Ms; i++)
        for (size_t j = 0; j < sizeof Ns / sizeof *Ns; j++)
            for (size_t k = 0; k < sizeof Ks / sizeof *Ks; k++)
                for (int draw = 0; draw < 2; draw++) check_product(Ms[i], Ns[j], Ks[k], rng_below(&r, OPTIONS), &r);
}

static void layouts(void) {
    Rng r = rng_stream(1, RNG_TEST, 1);
    for (unsigned options = 0; options < OPTIONS; options++) {
        check_product(29, 75, 401, options, &r);                 // ragged in every direction, two blocks of k
        check_product(13, 33, 1024, options & ~GAPS, &r);        // rows of A 4096 bytes apart: the copied tile
    }
    for (unsigned options = 0; options < OPTIONS; options += 7)  // more rows than one pass takes, for four threads
        check_product(4 * 48 * 2 + 29, 2 * PANEL + 5, 401, options, &r);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    for (unsigned options = 0; options < OPTIONS; options += 3)  // more panels than a thread packs at a time
        check_product(17, 40 * PANEL + 5, 401, options, &r);
    omp_set_num_threads(threads);
}

// A panel is 32 columns, row by row; the last one is filled up with zeros.
static void packing(void) {
    Rng r = rng_stream(1, RNG_TEST, 2);
    for (size_t N = 1; N <= 70; N += N < 3 || N == 31 || N == 32 || N > 60 ? 1 : 7)
        for (size_t K = 0; K <= 40; K += K < 2 || (K > 14 && K < 18) ? 1 : 5)
            for (unsigned options = PACKED; options < PACKED + 4; options++) {
                Product p = make(1, N, K, options, &r);
                size_t wrong = 0;
                for (size_t i = 0; i < packed_size(K, N); i++) {
                    size_t panel = i / (K * PANEL), k = i / PANEL % K, n = panel * PANEL + i % PANEL;
                    wrong += !(p.packed[i] == (n < N ? p.b[k * p.b_row + n * p.b_col] : 0));
                }
                CHECK(!wrong, "K %zu N %zu: %zu numbers of the panels are wrong", K, N, wrong);
                if (p.b_row == 1 && p.b_col == K) {              // weights are [N,K]
                    real *again = array_random(packed_size(K, N), &r);
                    linear_pack(again, p.b, 1, N, K);
                    CHECK(same_bits(again, p.packed, packed_size(K, N)), "linear_pack: K %zu N %zu", K, N);
                }
                arrays_free();
            }
}

// A few rows sweep through packed panels: every number of tiles, panels of one part and of several, the last one full
// or not; and rows of 4096 bytes, which are copied. Many rows in one part and in several, also for few panels.
static void sweeps(void) {
    static const size_t rows[] = {2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 37, 63, 64, 65}, depths[] = {1, 511, 513, 1100};
    Rng r = rng_stream(1, RNG_TEST, 8);
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++) {
        for (size_t k = 0; k < sizeof depths / sizeof *depths; k++)
            for (int draw = 0; draw < 2; draw++)
                check_product(rows[m], 16 * (1 + m % 5) + m % 3, depths[k], PACKED | rng_below(&r, OPTIONS), &r);
        check_product(rows[m], 35, 1024, PACKED | (m % 2 ? BIAS : ACCUMULATE), &r);
    }
    static const size_t many[] = {66, 191, 192, 193, 385, 1023, 1024, 1025};
    for (size_t m = 0; m < sizeof many / sizeof *many; m++) {
        check_product(many[m], 1 + 40 * (m % 3), 70, PACKED | rng_below(&r, OPTIONS), &r);
        check_product(many[m], 300 - 70 * (m % 4), m % 2 ? 1024 : 515, PACKED | BIAS, &r);
    }
}

// Some experts get no token: products with M = 0 or K = 0 stand between the others.
static void groups(void) {
    static const size_t sizes[] = {0, 7, 0, 1, 40, 0, 3, 12};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    Rng r = rng_stream(1, RNG_TEST, 3);
    for (unsigned options = 0; options < OPTIONS; options++)
        for (int empty = 0; empty < 3; empty++) {                // of M, of N, of K
            Product p[COUNT];
            real *c[COUNT];
            for (size_t i = 0; i < COUNT; i++) {
                size_t n = sizes[i];
                p[i] = make(empty == 0 ? n : 21, empty == 1 ? n : 70, empty == 2 ? n : 45,
                            i % 3 ? options : options ^ PACKED, &r);
                c[i] = expected(&p[i]);
            }
            products(p, COUNT);
            for (size_t i = 0; i < COUNT; i++) check_same(&p[i], c[i], "one of a group");
            arrays_free();
        }
    products(NULL, 0);
}

// Attention multiplies by K rows in the middle of taller panels.
static void serial(void) {
    Rng r = rng_stream(1, RNG_TEST, 4);
    for (unsigned options = PACKED; options < OPTIONS; options++) {
        if (!(options & PACKED)) continue;
        size_t tall = 90, first = 32, K = options & 1 ? 17 : 58, N = 70;
        Product p = make(19, N, tall, options, &r);
        p.K = K, p.packed_rows = tall, p.packed += first * PANEL, p.b += first * p.b_row;
        real *c = expected(&p);
        product_serial(&p);
        check_same(&p, c, "product_serial inside taller panels");
        arrays_free();
    }
}

// Large enough that all threads are woken. Also a group, whose members rotate over the threads.
static void threads(void) {
    static const int counts[] = {1, 2, 3, 8};
    static const size_t shape[][3] = {{1, 1000, 130}, {1, 70, 1000}, {300, 20, 90}, {50, 97, 400},
                                      {1000, 1, 70}, {97, 130, 61}};
    enum { SHAPES = sizeof shape / sizeof *shape };
    Rng r = rng_stream(1, RNG_TEST, 5);
    for (unsigned options = 0; options < OPTIONS; options += 3) {
        Product p[SHAPES];
        real *c[SHAPES], *start[SHAPES];
        for (size_t i = 0; i < SHAPES; i++) {
            p[i] = make(shape[i][0], shape[i][1], shape[i][2], options, &r);
            c[i] = expected(&p[i]), start[i] = array_copy(p[i].c, last(p[i].M, p[i].ldc, p[i].N));
        }
        for (size_t t = 0; t < sizeof counts / sizeof *counts; t++)
            for (int together = 0; together < 2; together++) {
                omp_set_num_threads(counts[t]);
                for (size_t i = 0; i < SHAPES; i++)
                    memcpy(p[i].c, start[i], last(p[i].M, p[i].ldc, p[i].N) * sizeof(real));
                if (together) products(p, SHAPES);
                else for (size_t i = 0; i < SHAPES; i++) products(&p[i], 1);
                for (size_t i = 0; i < SHAPES; i++) check_same(&p[i], c[i], together ? "threads, a group" : "threads");
            }
        arrays_free();
    }
}

// ---- a linear layer ------------------------------------------------------------------------------

static real multiply_add(real a, real b, real c) {
    return sizeof(real) == sizeof(double) ? (real)fma(a, b, c) : (real)fmaf((float)a, (float)b, (float)c);
}

typedef struct { real *w, *bias, *x, *dy, *y, *dx, *dw, *dbias; } Linear;

// y = x w^T + bias and its gradients by the textbook loops.
static void linear_by_loops(const Linear *l, size_t M, size_t N, size_t K, bool accumulate) {
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            l->y[m * N + n] = l->bias[n];
            for (size_t k = 0; k < K; k++)
                l->y[m * N + n] = multiply_add(l->x[m * K + k], l->w[n * K + k], l->y[m * N + n]);
        }
    for (size_t m = 0; m < M; m++)
        for (size_t k = 0; k < K; k++) {
            real sum = accumulate ? l->dx[m * K + k] : 0;
            for (size_t n = 0; n < N; n++) sum = multiply_add(l->dy[m * N + n], l->w[n * K + k], sum);
            l->dx[m * K + k] = sum;
        }
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            for (size_t k = 0; k < K; k++)
                l->dw[n * K + k] = multiply_add(l->dy[m * N + n], l->x[m * K + k], l->dw[n * K + k]);
            l->dbias[n] += l->dy[m * N + n];
        }
}

// A batch cut in two continues the sums of its first part: the same bits as the whole.
static void check_linear(size_t M, size_t N, size_t K, bool accumulate, size_t cut, Rng *r) {
    Linear e = {array_random(N * K, r), array_random(N, r), array_random(M * K, r), array_random(M * N, r),
                array_random(M * N, r), array_random(M * K, r), array_random(N * K, r), array_random(N, r)};
    Linear l = {
        e.w, e.bias, e.x, e.dy, array(M * N), array_copy(e.dx, M * K), array_copy(e.dw, N * K), array_copy(e.dbias, N)};
    real *packed = array(packed_size(K, N));
    linear_pack(packed, e.w, 1, N, K);
    linear_by_loops(&e, M, N, K, accumulate);
    linear_forward(l.y, l.x, packed, l.bias, M, N, K);
    linear_backward_input(l.dx, l.dy, l.w, M, N, K, accumulate);
    linear_backward_weight(l.dw, l.dbias, l.dy, l.x, cut, N, K);
    linear_backward_weight(l.dw, l.dbias, l.dy + cut * N, l.x + cut * K, M - cut, N, K);
    CHECK(same_bits(l.y, e.y, M * N), "forward: M %zu N %zu K %zu", M, N, K);
    CHECK(same_bits(l.dx, e.dx, M * K), "gradient of the input: M %zu N %zu K %zu", M, N, K);
    CHECK(same_bits(l.dw, e.dw, N * K), "gradient of the weight: M %zu N %zu K %zu, cut at %zu", M, N, K, cut);
    CHECK(same_bits(l.dbias, e.dbias, N), "gradient of the bias: M %zu N %zu K %zu, cut at %zu", M, N, K, cut);
    arrays_free();
}

static void linear(void) {
    Rng r = rng_stream(1, RNG_TEST, 6);
    for (int i = 0; i < 60; i++) {
        size_t M = 1 + rng_below(&r, 60), N = 1 + rng_below(&r, 80), K = 1 + rng_below(&r, 80);
        check_linear(M, N, K, i % 2, rng_below(&r, (uint32_t)M + 1), &r);
    }
    check_linear(900, 33, 40, false, 450, &r);                   // more rows than one block of k takes
}

// A NaN or an infinity spoils its own row or column and nothing else: padding never mixes in.
static void not_a_number(void) {
    Rng r = rng_stream(1, RNG_TEST, 7);
    for (unsigned options = 0; options < OPTIONS; options++) {
        Product p = make(17, 37, 20, options & ~PACKED, &r);
        ((real *)p.a)[4 * p.a_row + 7 * p.a_col] = (real)NAN;
        ((real *)p.a)[16 * p.a_row] = (real)INFINITY;
        ((real *)p.b)[3 * p.b_row + 36 * p.b_col] = (real)NAN;
        products(&p, 1);
        for (size_t i = 0; i < p.M; i++)
            for (size_t j = 0; j < p.N; j++) {
                bool spoilt = i == 4 || i == 16 || j == 36;
                CHECK(isfinite(p.c[i * p.ldc + j]) != spoilt, "options %u: element %zu,%zu is %g", options, i, j,
                      (double)p.c[i * p.ldc + j]);
            }
        arrays_free();
    }
}

static const Test tests[] = {
    {"matmul/shapes", "products of 729 ragged shapes are the three loops, bit for bit, and touch nothing else", shapes},
    {"matmul/layouts", "rows or columns, packed or not, bias, accumulation, gaps: all 64 combinations", layouts},
    {"matmul/packing", "panels hold 32 columns, the last one filled up with zeros", packing},
    {"matmul/sweeps", "a few rows times packed weights are the three loops, bit for bit", sweeps},
    {"matmul/groups", "groups of products with empty members", groups},
    {"matmul/serial", "a product with a part of taller panels", serial},
    {"matmul/threads", "1, 2, 3 and 8 threads give the same bits", threads},
    {"matmul/linear", "a linear layer and its gradients, the batch whole or cut in two", linear},
    {"matmul/nan", "NaN and infinity stay in their rows and columns", not_a_number},
};
REGISTER_TESTS(tests)

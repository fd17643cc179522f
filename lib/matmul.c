// matmul.c: matrix products near the machine's limit that give the same bits everywhere.
//
// The scheme is the outer-product micro-kernel of Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", ACM TOMS 2008: B in packed panels of 32 columns, a register tile of a few rows of A times one or
// two vectors of columns, a few tiles of A in the L2 cache while all panels of B go by. Lanes run along the columns
// of the output and nothing is ever summed across lanes, so each element is one chain over k. Blocking over k
// stores the accumulator and loads it again, which changes no bit.
#include "matmul.h"
#include "profile.h"
#include "simd.h"
#include <omp.h>
#include <stdlib.h>

#define COPY_COST 0.3                    // of copying a tile of A, where 1 is to multiply it by a panel
enum {
    K_BLOCK = 384,                       // rows of B per pass: a tile of A (12 x 384 floats) stays in L1
    TILES = 48 / SIMD_ROWS,              // of A at a time: they stay in L2 while all of B goes by
    ROW = K_BLOCK + LANES,               // from one row of such a tile to the next, where it is copied row by row
    AHEAD = 1024,                        // numbers: how far ahead of the reads they are asked for
    SUB = SIMD_VECS * LANES,             // columns of a register tile
    ROWS_AHEAD = 12,                     // how far ahead of a copy that skips through memory rows are asked for
    SMALL = 1 << 16,                     // multiply-adds below which waking the threads costs more than it gains
};

// ---- packing -------------------------------------------------------------------------------------

// One panel of B: n <= 32 columns. Columns are contiguous in memory (a copy), or rows are (a transposition).
static void pack_panel(real *panel, const real *b, size_t b_row, size_t b_col, size_t K, size_t n) {
    if (b_col == 1 && n == PANEL) {
        for (size_t k = 0; k < K; k++)
            for (size_t j = 0; j < PANEL; j += LANES) {
                __builtin_prefetch(b + (k + ROWS_AHEAD) * b_row + j);
                vec_store(panel + k * PANEL + j, vec_load(b + k * b_row + j));
            }
        return;
    }
    size_t k = 0;
    if (b_row == 1 && n == PANEL)
        for (; k + LANES <= K; k += LANES)
            for (size_t j = 0; j < PANEL; j += LANES) {
                vec r[LANES];
                for (size_t i = 0; i < LANES; i++) r[i] = vec_load(b + k + (j + i) * b_col);
                vec_transpose(r);
                for (size_t i = 0; i < LANES; i++) vec_store(panel + (k + i) * PANEL + j, r[i]);
            }
    for (; k < K; k++)
        for (size_t j = 0; j < PANEL; j++) panel[k * PANEL + j] = j < n ? b[k * b_row + j * b_col] : 0;
}

static void pack_panels(real *packed, const real *b, size_t b_row, size_t b_col, size_t K, size_t N, size_t from,
                        size_t to) {
    for (size_t p = from; p < to; p++) {
        size_t n = smaller(N - p * PANEL, PANEL);
        pack_panel(packed + p * PANEL * K, b + p * PANEL * b_col, b_row, b_col, K, n);
    }
}

void pack(real *packed, const real *b, size_t b_row, size_t b_col, size_t K, size_t N) {
    pack_panels(packed, b, b_row, b_col, K, N, 0, (N + PANEL - 1) / PANEL);
}

// ---- the register tile ---------------------------------------------------------------------------

// What the chains of a tile start from.
typedef enum { START_ZERO, START_C, START_BIAS } Start;

// c [rows, SUB] gets the chains over K of a [rows, K] and b [K, SUB] (row stride 32). `rows` and the
// strides of a are constants where this is expanded, so that the accumulators live in registers.
INLINE void tile(size_t rows, real *c, size_t ldc, const real *a, size_t a_row, size_t a_col, const real *b, size_t K,
                 Start start, const real *bias) {
    vec sum[SIMD_ROWS][SIMD_VECS];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++)
            __builtin_prefetch(c + i * ldc + (start == START_C ? SUB : 0) + j * LANES, 1);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++)
            sum[i][j] = start == START_C ? vec_load(c + i * ldc + j * LANES)
                      : start == START_BIAS ? vec_load(bias + j * LANES) : vec_zero();
    for (size_t k = 0; k < K; k++) {
        vec column[SIMD_VECS];
        for (size_t j = 0; j < SIMD_VECS; j++) column[j] = vec_load(b + k * PANEL + j * LANES);
        for (size_t i = 0; i < rows; i++) {
            vec x = vec_set(a[i * a_row + k * a_col]);
            for (size_t j = 0; j < SIMD_VECS; j++) sum[i][j] = vec_fma(x, column[j], sum[i][j]);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++) vec_store(c + i * ldc + j * LANES, sum[i][j]);
}

// One function per number of rows and layout of A: by rows (a_col == 1) or by columns (a_row == 1).
typedef void TileFunction(real *c, size_t ldc, const real *a, size_t lda, const real *b, size_t K, Start start,
                          const real *bias);
#define TILE_FUNCTION(name, rows, a_row, a_col)                                                            \
    static void name(real *c, size_t ldc, const real *a, size_t lda, const real *b, size_t K, Start start, \
                     const real *bias) {                                                                   \
        tile(rows, c, ldc, a, a_row, a_col, b, K, start, bias);                                            \
    }
#define TILE(rows) TILE_FUNCTION(tile_rows_##rows, rows, lda, 1) TILE_FUNCTION(tile_columns_##rows, rows, 1, lda)
TILE(1) TILE(2) TILE(3) TILE(4)
#if SIMD_ROWS > 4
TILE(5) TILE(6)
#endif
#if SIMD_ROWS > 6
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
static TileFunction *const tiles[2][SIMD_ROWS + 1] = {
    {0, tile_rows_1, tile_rows_2, tile_rows_3, tile_rows_4,
#if SIMD_ROWS > 4
     tile_rows_5, tile_rows_6,
#endif
#if SIMD_ROWS > 6
     tile_rows_7, tile_rows_8, tile_rows_9, tile_rows_10, tile_rows_11, tile_rows_12,
#endif
    },
    {0, tile_columns_1, tile_columns_2, tile_columns_3, tile_columns_4,
#if SIMD_ROWS > 4
     tile_columns_5, tile_columns_6,
#endif
#if SIMD_ROWS > 6
     tile_columns_7, tile_columns_8, tile_columns_9, tile_columns_10, tile_columns_11, tile_columns_12,
#endif
    },
};

// Up to SUB columns of c: all in place, fewer through a copy, so that nothing beyond column n is touched.
static void tile_in_bounds(size_t rows, size_t n, real *c, size_t ldc, bool by_columns, const real *a, size_t lda,
                           const real *b, size_t K, Start start, const real *bias) {
    if (n >= SUB) {
        tiles[by_columns][rows](c, ldc, a, lda, b, K, start, bias);
        return;
    }
    real copy[SIMD_ROWS * SUB] = {0}, bias_copy[SUB] = {0};
    for (size_t i = 0; i < rows && start == START_C; i++) memcpy(copy + i * SUB, c + i * ldc, n * sizeof *c);
    if (bias) memcpy(bias_copy, bias, n * sizeof *bias);
    tiles[by_columns][rows](copy, SUB, a, lda, b, K, start, bias_copy);
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, copy + i * SUB, n * sizeof *c);
}

// ---- blocks --------------------------------------------------------------------------------------

// Copies up to TILES tiles of A whose columns are far apart, each into [K][SIMD_ROWS]. All at once, because a line of
// memory holds the columns of more than one tile.
static void pack_columns(real *copy, const real *a, size_t a_col, size_t rows, size_t K) {
    size_t full = SIMD_ROWS < LANES ? rows / SIMD_ROWS : 0;
    for (size_t k = 0; k < K; k++)
        for (size_t t = 0; t < full; t++) {
            __builtin_prefetch(a + (k + ROWS_AHEAD) * a_col + t * SIMD_ROWS);
            vec column = vec_load_n(a + k * a_col + t * SIMD_ROWS, SIMD_ROWS);
            vec_store_n(copy + (t * K + k) * SIMD_ROWS, column, SIMD_ROWS);
        }
    for (size_t i = full * SIMD_ROWS; i < rows; i++)
        for (size_t k = 0; k < K; k++) copy[(i / SIMD_ROWS * K + k) * SIMD_ROWS + i % SIMD_ROWS] = a[k * a_col + i];
}

// Copies rows of A that are a multiple of 4096 bytes apart, and so would fall on the same lines of the L1 cache.
static void pack_rows(real *copy, const real *a, size_t a_row, size_t rows, size_t K) {
    for (size_t i = 0; i < rows; i++) memcpy(copy + i * ROW, a + i * a_row, K * sizeof *a);
}

// Asks for part `part` of `parts` of a [rows, K], which is multiplied next, while what came before it is.
static void prefetch_part(const real *a, size_t a_row, size_t a_col, size_t rows, size_t K, size_t part, size_t parts) {
    size_t lines = a_row == 1 ? K : rows, length = a_row == 1 ? rows : K, stride = a_row == 1 ? a_col : a_row;
    for (size_t i = lines * part / parts; i < lines * (part + 1) / parts; i++)
        for (size_t j = 0; j < length; j += LANES) __builtin_prefetch(a + i * stride + j, 0, 2);
}

// Rows row_from..row_to and panels from..to of a product whose B is packed: for every pass over k, a few tiles of A
// against one panel of B after the other.
static void block(const Product *p, size_t row_from, size_t row_to, size_t panel_from, size_t panel_to) {
    real copy[TILES * SIMD_ROWS * ROW];
    size_t stride = p->packed_rows ? p->packed_rows : p->K, begin = panel_from * PANEL;
    size_t end = smaller(panel_to * PANEL, p->N), parts = (end - begin + SUB - 1) / SUB;
    bool by_columns = p->a_col != 1, by_rows = !by_columns && p->a_row * sizeof(real) % 4096 == 0;
    if (p->K == 0)
        for (size_t i = row_from; i < row_to && !p->accumulate; i++)
            for (size_t j = begin; j < end; j++) p->c[i * p->ldc + j] = p->bias ? p->bias[j] : 0;
    for (size_t k = 0; k < p->K; k += K_BLOCK) {
        size_t depth = smaller(p->K - k, K_BLOCK);
        Start start = k || p->accumulate ? START_C : p->bias ? START_BIAS : START_ZERO;
        for (size_t i = row_from, rows, next; i < row_to; i += rows) {
            rows = smaller(row_to - i, TILES * SIMD_ROWS);
            next = smaller(row_to - i - rows, TILES * SIMD_ROWS);
            const real *a = p->a + i * p->a_row + k * p->a_col, *tile_a = by_columns || by_rows ? copy : a;
            size_t lda = by_columns ? SIMD_ROWS : by_rows ? ROW : p->a_row;
            size_t next_tile = SIMD_ROWS * (by_columns ? depth : lda);
            if (by_columns) pack_columns(copy, a, p->a_col, rows, depth);
            if (by_rows) pack_rows(copy, a, p->a_row, rows, depth);
            for (size_t j = begin; j < end; j += SUB) {
                const real *b = p->packed + (j / PANEL * stride + k) * PANEL + j % PANEL;
                prefetch_part(a + rows * p->a_row, p->a_row, p->a_col, next, depth, (j - begin) / SUB, parts);
                for (size_t t = 0; t * SIMD_ROWS < rows; t++)
                    tile_in_bounds(smaller(rows - t * SIMD_ROWS, SIMD_ROWS), end - j,
                                   p->c + (i + t * SIMD_ROWS) * p->ldc + j, p->ldc, by_columns,
                                   tile_a + t * next_tile, lda, b, depth, start, p->bias ? p->bias + j : NULL);
            }
        }
    }
}

// One row, as decoding has it: the work is to read B, once, from one end to the other. Nothing is blocked, since
// the row of A stays in the cache anyway; what comes next is asked for across the borders of pages.
static void row_panel(const Product *p, size_t panel) {
    size_t stride = (p->packed_rows ? p->packed_rows : p->K) * PANEL, vecs = PANEL / LANES;
    const real *b = p->packed + panel * stride, *bias = p->bias ? p->bias + panel * PANEL : NULL;
    real *c = p->c + panel * PANEL;
    vec sum[PANEL / LANES];
    for (size_t j = 0; j < vecs; j++)
        sum[j] = p->accumulate ? vec_load(c + j * LANES) : bias ? vec_load(bias + j * LANES) : vec_zero();
    for (size_t k = 0; k < p->K; k++, b += PANEL) {
        vec x = vec_set(p->a[k * p->a_col]);
        for (size_t j = 0; j < vecs; j++) {
            __builtin_prefetch(b + AHEAD + j * LANES, 0, 2);
            sum[j] = vec_fma(x, vec_load(b + j * LANES), sum[j]);
        }
    }
    for (size_t j = 0; j < vecs; j++) vec_store(c + j * LANES, sum[j]);
}

static void row(const Product *p, size_t panel_from, size_t panel_to) {
    size_t full = smaller(p->N / PANEL, panel_to), j = panel_from;
    for (; j < full; j++) row_panel(p, j);
    if (j < panel_to) block(p, 0, 1, j, panel_to);
}

void product_serial(const Product *p) { block(p, 0, p->M, 0, (p->N + PANEL - 1) / PANEL); }

// ---- threads -------------------------------------------------------------------------------------

real *workspace_take(Workspace *w, size_t size) {
    if (size > w->size) {
        free(w->at);
        w->at = xmalloc(size_mul(size, sizeof(real)));
        w->size = size;
    }
    return w->at;
}

static void share(size_t n, size_t threads, size_t thread, size_t *from, size_t *to) {
    *from = n * thread / threads, *to = n * (thread + 1) / threads;
}

// The part of a product that belongs to one thread: a range of tiles of rows or of panels, whichever gives the
// thread with the most to do less of it. A thread owns whole outputs, never a part of a sum.
static void block_of_thread(const Product *p, size_t threads, size_t thread) {
    size_t row_tiles = (p->M + SIMD_ROWS - 1) / SIMD_ROWS, panels = (p->N + PANEL - 1) / PANEL, from, to;
    if (p->M == 1) {
        share(panels, threads, thread, &from, &to);
        row(p, from, to);
        return;
    }
    double copy = p->a_col == 1 ? 0 : COPY_COST;
    double by_rows = (double)((row_tiles + threads - 1) / threads) * ((double)panels + copy);
    double by_panels = (double)row_tiles * ((double)((panels + threads - 1) / threads) + copy);
    if (by_rows <= by_panels) {
        share(row_tiles, threads, thread, &from, &to);
        block(p, from * SIMD_ROWS, smaller(to * SIMD_ROWS, p->M), 0, panels);
    } else {
        share(panels, threads, thread, &from, &to);
        block(p, 0, p->M, from, to);
    }
}

void products(const Product *given, size_t count) {
    size_t space = 0, work = 0;
    for (size_t i = 0; i < count; i++) {
        work += given[i].M * given[i].N * given[i].K;
        if (!given[i].packed && given[i].M) space += packed_size(given[i].K, given[i].N);
    }
    static Workspace workspace;
    real *free_space = workspace_take(&workspace, space);
#pragma omp parallel if (work > SMALL)
    {
        size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num(), from, to;
        real *at = free_space;
        for (size_t i = 0; i < count; i++) {
            const Product *p = &given[i];
            if (p->packed || !p->M) continue;
            share((p->N + PANEL - 1) / PANEL, threads, thread, &from, &to);
            pack_panels(at, p->b, p->b_row, p->b_col, p->K, p->N, from, to);
            at += packed_size(p->K, p->N);
        }
        if (space) {
#pragma omp barrier
        }
        at = free_space;
        for (size_t i = 0; i < count; i++) {
            Product p = given[i];
            if (!p.M || !p.N) continue;
            if (!p.packed) p.packed = at, at += packed_size(p.K, p.N);
            block_of_thread(&p, threads, (thread + i) % threads);
        }
    }
}

void products_naive(const Product *p, size_t count) {
    for (; count; count--, p++)
        for (size_t i = 0; i < p->M; i++)
            for (size_t j = 0; j < p->N; j++) {
                real sum = p->accumulate ? p->c[i * p->ldc + j] : p->bias ? p->bias[j] : 0;
                for (size_t k = 0; k < p->K; k++) {
                    real a = p->a[i * p->a_row + k * p->a_col];
#ifdef REAL_DOUBLE
                    sum = fma(a, p->b[k * p->b_row + j * p->b_col], sum);
#else
                    sum = fmaf(a, p->b[k * p->b_row + j * p->b_col], sum);
#endif
                }
                p->c[i * p->ldc + j] = sum;
            }
}

// ---- a linear layer ------------------------------------------------------------------------------

void linear_forward(real *y, const real *x, const real *w_packed, const real *bias, size_t M, size_t N, size_t K) {
    PROFILE(linear_forward, 2 * M * N * K, M * K + N * K + M * N);
    products(&(Product){.c = y, .ldc = N, .a = x, .a_row = K, .a_col = 1, .packed = w_packed, .bias = bias,
                        .M = M, .N = N, .K = K}, 1);
}

void linear_backward_input(real *dx, const real *dy, const real *w, size_t M, size_t N, size_t K, bool accumulate) {
    PROFILE(linear_input, 2 * M * N * K, M * N + N * K + M * K * (1 + (size_t)accumulate));
    products(&(Product){.c = dx, .ldc = K, .a = dy, .a_row = N, .a_col = 1, .b = w, .b_row = K, .b_col = 1,
                        .M = M, .N = K, .K = N, .accumulate = accumulate}, 1);
}

void linear_backward_weight(real *dw, real *dbias, const real *dy, const real *x, size_t M, size_t N, size_t K) {
    PROFILE(linear_weight, 2 * M * N * K + (dbias ? M * N : 0), M * N + M * K + 2 * N * K);
    products(&(Product){.c = dw, .ldc = K, .a = dy, .a_row = 1, .a_col = N, .b = x, .b_row = K, .b_col = 1,
                        .M = N, .N = K, .K = M, .accumulate = true}, 1);
    if (!dbias) return;
#pragma omp parallel for if (M * N > SMALL)
    for (size_t j = 0; j < N; j += LANES) {
        vec sum = vec_load_at(dbias, j, N);
        for (size_t i = 0; i < M; i++) sum = vec_add(sum, vec_load_at(dy + i * N, j, N));
        vec_store_at(dbias, j, N, sum);
    }
}

size_t linear_workspace(size_t M, size_t N, size_t K, size_t count) {
    size_t weights = size_mul(packed_size(N, K), count), inputs = packed_size(M, K);
    return weights > inputs ? weights : inputs;
}

void linear_pack(real *packed, const real *w, size_t N, size_t K) {
    PROFILE(pack, 0, 2 * N * K);
#pragma omp parallel if (N * K > SMALL)
    {
        size_t from, to;
        share((N + PANEL - 1) / PANEL, (size_t)omp_get_num_threads(), (size_t)omp_get_thread_num(), &from, &to);
        pack_panels(packed, w, 1, K, K, N, from, to);
    }
}

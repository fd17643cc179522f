// matmul.c: matrix products near the machine's limit that give the same bits everywhere.
//
// The scheme is the outer-product micro-kernel of Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", ACM TOMS 2008: B in packed panels of 32 columns, a register tile of a few rows of A times one or
// two vectors of columns, a few tiles of A in the L2 cache while a thread's panels of B go by. Lanes run along the
// columns of the output and nothing is ever summed across lanes, so each element is one chain over k. Blocking over
// k stores the accumulator and loads it again, which changes no bit.
#include "kernels/matmul.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include <omp.h>
#include <stdlib.h>

#define READ_COST 0.3                    // of loading a row of A into the cache, where 1 is to multiply it by a panel
#define PACK_COST 12                     // of packing a panel of B, in the same unit
enum {
    K_BLOCK = 384,                       // rows of B per macro-kernel: a tile of A (12 x 384 floats) stays in L1
    PANELS = 32,                         // of B that a thread packs at a time: with their K_BLOCK rows, 1.5 MB
    ROW_GRAIN = 4,                       // the rows of C are shared out to threads in multiples of it
    TILES = 48 / SIMD_ROWS,              // of A per macro-kernel: they stay in L2 while a thread's panels of B go by
    LD_COPY = K_BLOCK + LANES,           // leading dimension of a tile of A that is copied row by row
    SUB = SIMD_VECS * LANES,             // columns of a register tile
    SWEEP_MOST = 1024,                   // rows of A that sweep through packed panels,
    SWEEP_ROWS = 192,                    // at most so many together, which stay in L2, in parts of
    SWEEP_DEPTH = 512,                   // rows of a panel at most: with the next part, 128 KB
    SWEEP_SHARED = 64,                   // rows of A up to which a panel is read by one thread only
    PREFETCH = 2048,                     // distance in numbers, of a sweep through memory
    PREFETCH_COLUMNS = 48,               // distance in numbers along the rows of a matrix that is transposed
    PREFETCH_ROWS = 12,                  // distance in rows of a copy with a stride
    COLUMNS_IN_PLACE = SIMD_ROWS > LANES / 2,  // columns of A are not copied: a tile uses most of a cache line
    SMALL = 1 << 16,                     // multiply-adds below which waking the threads costs more than it gains
};

// ---- packing -------------------------------------------------------------------------------------

// One panel of B: n <= 32 columns. Columns are contiguous in memory (a copy), or rows are (a transposition).
static void pack_panel(real *panel, const real *b, size_t b_row, size_t b_col, size_t K, size_t n) {
    if (b_col == 1 && n == PANEL) {
        for (size_t k = 0; k < K; k++)
            for (size_t j = 0; j < PANEL; j += LANES) {
                __builtin_prefetch(b + (k + PREFETCH_ROWS) * b_row + j);
                vec_store(panel + k * PANEL + j, vec_load(b + k * b_row + j));
            }
        return;
    }
    size_t k = 0;
    if (b_row == 1 && n == PANEL)
        for (; k + LANES <= K; k += LANES) {
            size_t ahead = k + PREFETCH_COLUMNS < K ? PREFETCH_COLUMNS : PANEL * b_col + PREFETCH_COLUMNS - K;
            for (size_t j = 0; j < PANEL; j += LANES) {
                vec r[LANES];
                const real *at = b + k + j * b_col;
                for (size_t i = 0; i < LANES; i++, at += b_col) {
                    OPAQUE(at);
                    __builtin_prefetch(at + ahead);
                    r[i] = vec_load(at);
                }
                vec_transpose(r);
                for (size_t i = 0; i < LANES; i++) vec_store(panel + (k + i) * PANEL + j, r[i]);
            }
        }
    for (; k < K; k++)
        for (size_t j = 0; j < PANEL; j++) panel[k * PANEL + j] = j < n ? b[k * b_row + j * b_col] : 0;
}

void pack(real *packed, const real *b, size_t b_row, size_t b_col, size_t K, size_t N) {
    for (size_t j = 0; j < N; j += PANEL)
        pack_panel(packed + j * K, b + j * b_col, b_row, b_col, K, smaller(N - j, PANEL));
}

// ---- the micro-kernel ----------------------------------------------------------------------------

// What the chains of a tile start from.
typedef enum { START_ZERO, START_C, START_BIAS } Start;

// How a tile of A lies, and what is prefetched meanwhile, for every k: by columns a cache line of the next tiles' 16
// rows; in a sweep through B, where A lies by rows, `step` numbers of a panel: two cache lines, or one.
typedef enum { BY_ROWS, BY_COLUMNS, SWEEP, LAYOUTS } Layout;

// c [rows, SUB] gets the chains over K of a [rows, K], which lies by rows or by columns, `lda` apart, and b [K, SUB]
// (row stride 32). `rows` and `layout` are constants where this is expanded, so that the accumulators live in
// registers.
INLINE void micro_kernel(size_t rows, Layout layout, real *c, size_t ldc, const real *a, size_t lda, const real *b,
                         size_t K, Start start, const real *bias, const real *next, size_t step) {
    bool by_columns = layout == BY_COLUMNS;
    size_t a_row = by_columns ? 1 : lda, a_col = by_columns ? lda : 1;
    vec sum[SIMD_ROWS][SIMD_VECS];
    const real *fourth[(SIMD_ROWS + 3) / 4];     // rows 0, 4, 8: four rows with one base and three distances
    for (size_t i = 0; i < rows; i += 4) {
        fourth[i / 4] = a + i * a_row;
        if (!by_columns) OPAQUE(fourth[i / 4]);  // or the compiler finds 12 distances, more than it has registers
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++)
            __builtin_prefetch(c + i * ldc + (start == START_C ? SUB : 0) + j * LANES, 1);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++)
            sum[i][j] = start == START_C ? vec_load(c + i * ldc + j * LANES)
                      : start == START_BIAS ? vec_load(bias + j * LANES) : vec_zero();
    for (size_t k = 0; k < K; k++) {
        vec column[SIMD_VECS];
        if (by_columns && COLUMNS_IN_PLACE) __builtin_prefetch(next + k * lda, 0, 2);
        for (size_t j = 0; j < 2 && layout == SWEEP; j++) __builtin_prefetch(next + k * step + j * step / 2, 0, 2);
        for (size_t j = 0; j < SIMD_VECS; j++) column[j] = vec_load(b + k * PANEL + j * LANES);
        for (size_t i = 0; i < rows; i++) {
            vec x = vec_set(fourth[i / 4][i % 4 * a_row + k * a_col]);
            for (size_t j = 0; j < SIMD_VECS; j++) sum[i][j] = vec_fma(x, column[j], sum[i][j]);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < SIMD_VECS; j++) vec_store(c + i * ldc + j * LANES, sum[i][j]);
}

// One function per number of rows and layout.
typedef void TileFunction(real *c, size_t ldc, const real *a, size_t lda, const real *b, size_t K, Start start,
                          const real *bias, const real *next, size_t step);
#define TILE_FUNCTION(name, rows, layout)                                                                  \
    static void name(real *c, size_t ldc, const real *a, size_t lda, const real *b, size_t K, Start start, \
                     const real *bias, const real *next, size_t step) {                                    \
        micro_kernel(rows, layout, c, ldc, a, lda, b, K, start, bias, next, step);                         \
    }
#define TILE(rows)                                       \
    TILE_FUNCTION(tile_rows_##rows, rows, BY_ROWS)       \
    TILE_FUNCTION(tile_columns_##rows, rows, BY_COLUMNS) \
    TILE_FUNCTION(tile_sweep_##rows, rows, SWEEP)
TILE(1) TILE(2) TILE(3) TILE(4)
#if SIMD_ROWS > 4
TILE(5) TILE(6)
#endif
#if SIMD_ROWS > 6
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
static TileFunction *const tiles[LAYOUTS][SIMD_ROWS + 1] = {
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
    {0, tile_sweep_1, tile_sweep_2, tile_sweep_3, tile_sweep_4,
#if SIMD_ROWS > 4
     tile_sweep_5, tile_sweep_6,
#endif
#if SIMD_ROWS > 6
     tile_sweep_7, tile_sweep_8, tile_sweep_9, tile_sweep_10, tile_sweep_11, tile_sweep_12,
#endif
    },
};

// A full tile in place, one at the edge (n < SUB columns) through a copy, so that nothing beyond column n is touched.
static void tile_in_bounds(size_t rows, size_t n, real *c, size_t ldc, Layout layout, const real *a, size_t lda,
                           const real *b, size_t K, Start start, const real *bias, const real *next, size_t step) {
    if (n >= SUB) {
        tiles[layout][rows](c, ldc, a, lda, b, K, start, bias, next, step);
        return;
    }
    real copy[SIMD_ROWS * SUB] = {0}, bias_copy[SUB] = {0};
    for (size_t i = 0; i < rows && start == START_C; i++) memcpy(copy + i * SUB, c + i * ldc, n * sizeof *c);
    if (bias) memcpy(bias_copy, bias, n * sizeof *bias);
    tiles[layout][rows](copy, SUB, a, lda, b, K, start, bias_copy, next, step);
    for (size_t i = 0; i < rows; i++) memcpy(c + i * ldc, copy + i * SUB, n * sizeof *c);
}

// ---- blocks --------------------------------------------------------------------------------------

typedef struct { size_t from, to; } Range;

static Range share(size_t n, size_t parts, size_t part) { return (Range){n * part / parts, n * (part + 1) / parts}; }
static size_t panels_of(size_t columns) { return (columns + PANEL - 1) / PANEL; }

// Copies up to TILES tiles of A whose columns are far apart, each into [K][SIMD_ROWS]. All at once, because a line of
// memory holds the columns of more than one tile.
static void pack_columns(real *copy, const real *a, size_t a_col, size_t rows, size_t K) {
    size_t full = rows / SIMD_ROWS;
    for (size_t k = 0; k < K; k++)
        for (size_t t = 0; t < full; t++) {
            __builtin_prefetch(a + (k + PREFETCH_ROWS) * a_col + t * SIMD_ROWS);
            vec column = vec_load_n(a + k * a_col + t * SIMD_ROWS, SIMD_ROWS);
            vec_store_n(copy + (t * K + k) * SIMD_ROWS, column, SIMD_ROWS);
        }
    for (size_t i = full * SIMD_ROWS; i < rows; i++)
        for (size_t k = 0; k < K; k++) copy[(i / SIMD_ROWS * K + k) * SIMD_ROWS + i % SIMD_ROWS] = a[k * a_col + i];
}

// Copies rows of A that are a multiple of 4096 bytes apart, and so would fall on the same lines of the L1 cache.
static void pack_rows(real *copy, const real *a, size_t a_row, size_t rows, size_t K) {
    for (size_t i = 0; i < rows; i++) memcpy(copy + i * LD_COPY, a + i * a_row, K * sizeof *a);
}

// Prefetches part `part` of `parts` of a [rows, K], the next tiles of A, while those before it are multiplied.
static void prefetch_part(const real *a, size_t a_row, size_t a_col, size_t rows, size_t K, size_t part, size_t parts) {
    size_t lines = a_row == 1 ? K : rows, length = a_row == 1 ? rows : K, stride = a_row == 1 ? a_col : a_row;
    for (size_t i = lines * part / parts; i < lines * (part + 1) / parts; i++)
        for (size_t j = 0; j < length; j += LANES) __builtin_prefetch(a + i * stride + j, 0, 2);
}

// The macro-kernel: rows k .. k + depth of B, a range of its columns (`packed`, `stride` numbers from panel to panel),
// times a range of the rows of A: a few tiles of A, then one panel after the other.
static void macro_kernel(const Product *p, Range rows, Range columns, const real *packed, size_t stride, size_t k,
                         size_t depth) {
    real copy[TILES * SIMD_ROWS * LD_COPY];
    bool by_columns = p->a_col != 1, copied = by_columns ? !COLUMNS_IN_PLACE : p->a_row * sizeof(real) % 4096 == 0;
    size_t a_row = !copied ? p->a_row : by_columns ? depth : LD_COPY;
    size_t lda = !by_columns ? a_row : copied ? SIMD_ROWS : p->a_col;
    size_t parts = (columns.to - columns.from + SUB - 1) / SUB;
    Start start = k || p->accumulate ? START_C : p->bias ? START_BIAS : START_ZERO;
    for (size_t i = rows.from, count, next; i < rows.to; i += count) {
        count = smaller(rows.to - i, TILES * SIMD_ROWS);
        next = smaller(rows.to - i - count, TILES * SIMD_ROWS);
        const real *a = p->a + i * p->a_row + k * p->a_col, *next_a = a + count * p->a_row, *tile_a = copied ? copy : a;
        size_t prefetched = 0;
        if (copied) (by_columns ? pack_columns : pack_rows)(copy, a, by_columns ? p->a_col : p->a_row, count, depth);
        for (size_t j = columns.from, part = 0; j < columns.to; j += SUB, part++) {
            const real *b = packed + part * SUB / PANEL * stride + part * SUB % PANEL;
            if (!by_columns || copied) prefetch_part(next_a, p->a_row, p->a_col, next, depth, part, parts);
            for (size_t t = 0; t < count; t += SIMD_ROWS, prefetched += LANES)
                tile_in_bounds(smaller(count - t, SIMD_ROWS), columns.to - j, p->c + (i + t) * p->ldc + j, p->ldc,
                               by_columns ? BY_COLUMNS : BY_ROWS, tile_a + t * a_row, lda, b, depth, start,
                               p->bias ? p->bias + j : NULL, prefetched < next ? next_a + prefetched : a, LANES);
        }
    }
}

// A range of rows and a range of panels of a product. What is not packed yet is packed into `space` for one
// macro-kernel at a time: panels are used while they are in the cache, and are never written to memory.
static void block(const Product *p, Range rows, Range panels, real *space) {
    size_t rows_of_b = p->packed_rows ? p->packed_rows : p->K, most = p->packed ? SIZE_MAX : PANELS;
    if (p->K == 0)
        for (size_t i = rows.from; i < rows.to && !p->accumulate; i++)
            for (size_t j = panels.from * PANEL; j < smaller(panels.to * PANEL, p->N); j++)
                p->c[i * p->ldc + j] = p->bias ? p->bias[j] : 0;
    for (size_t panel = panels.from, count; panel < panels.to; panel += count) {
        count = smaller(panels.to - panel, most);
        Range columns = {panel * PANEL, smaller((panel + count) * PANEL, p->N)};
        for (size_t k = 0; k < p->K; k += K_BLOCK) {
            size_t depth = smaller(p->K - k, K_BLOCK), stride = (p->packed ? rows_of_b : depth) * PANEL;
            if (!p->packed)
                pack(space, p->b + k * p->b_row + columns.from * p->b_col, p->b_row, p->b_col, depth,
                     columns.to - columns.from);
            macro_kernel(p, rows, columns, p->packed ? p->packed + panel * stride + k * PANEL : space, stride, k,
                         depth);
        }
    }
}

// Vector times matrix, as decoding has it: the work is to read B, once, from one end to the other. Nothing is blocked,
// since the vector stays in the cache anyway. The prefetch crosses pages, where the hardware's own stops.
static void vector_panel(const Product *p, size_t panel) {
    size_t stride = (p->packed_rows ? p->packed_rows : p->K) * PANEL, vecs = PANEL / LANES;
    const real *b = p->packed + panel * stride, *bias = p->bias ? p->bias + panel * PANEL : NULL;
    real *c = p->c + panel * PANEL;
    vec sum[PANEL / LANES];
    for (size_t j = 0; j < vecs; j++)
        sum[j] = p->accumulate ? vec_load(c + j * LANES) : bias ? vec_load(bias + j * LANES) : vec_zero();
    for (size_t k = 0; k < p->K; k++, b += PANEL) {
        vec x = vec_set(p->a[k * p->a_col]);
        for (size_t j = 0; j < vecs; j++) {
            __builtin_prefetch(b + PREFETCH + j * LANES, 0, 2);
            sum[j] = vec_fma(x, vec_load(b + j * LANES), sum[j]);
        }
    }
    for (size_t j = 0; j < vecs; j++) vec_store(c + j * LANES, sum[j]);
}

// Rows times packed weights, as decoding a batch and reading a prompt have them: B is read from one end to the other.
// One tile of rows goes through a panel as a vector does. Several go through a part of it one after the other, and in
// turns prefetch the first and the second half of the next part: so memory is asked all the time, and never for more
// than it gives, for a prefetch is dropped while all of the core's line-fill buffers are in use. Rows are shared out
// evenly to tiles, so that one row more than a tile holds is no step up.
static void sweep_panel(const Product *p, Range rows, const real *a, size_t lda, size_t panel) {
    size_t rows_of_b = p->packed_rows ? p->packed_rows : p->K, parts = (p->K + SWEEP_DEPTH - 1) / SWEEP_DEPTH;
    size_t count = rows.to - rows.from, n = (count + SIMD_ROWS - 1) / SIMD_ROWS, passes = n * (PANEL / SUB);
    for (size_t part = 0; part < parts; part++) {
        Range k = share(p->K, parts, part);
        const real *b = p->packed + (panel * rows_of_b + k.from) * PANEL, *after = b + (k.to - k.from) * PANEL;
        Start start = part || p->accumulate ? START_C : p->bias ? START_BIAS : START_ZERO;
        for (size_t pass = 0; pass < passes; pass++) {
            size_t column = panel * PANEL + pass / n * SUB;
            Range tile = share(count, n, pass % n);
            const real *next = passes == 1 ? b + PREFETCH : after + pass % 2 * (k.to - k.from) * LANES;
            if (column < p->N)
                tile_in_bounds(tile.to - tile.from, p->N - column, p->c + (rows.from + tile.from) * p->ldc + column,
                               p->ldc, SWEEP, a + tile.from * lda + k.from, lda, b + pass / n * SUB, k.to - k.from,
                               start, p->bias ? p->bias + column : NULL, next, passes == 1 ? PANEL : LANES);
        }
    }
}

void product_serial(const Product *p) { block(p, (Range){0, p->M}, (Range){0, panels_of(p->N)}, NULL); }

// ---- threads -------------------------------------------------------------------------------------

// Vector times matrix, called by all threads. The guided schedule hands out ever shorter ranges of panels, so that they
// end together although the memory does not serve them alike.
static void vector_product(const Product *p) {
#pragma omp for schedule(guided) nowait
    for (size_t j = 0; j < panels_of(p->N); j++)
        if ((j + 1) * PANEL <= p->N) vector_panel(p, j);
        else block(p, (Range){0, 1}, (Range){j, j + 1}, NULL);
}

static bool is_sweep(const Product *p) {
    return p->packed && p->M && p->M <= SWEEP_MOST && p->N && p->a_col == 1 && p->K;
}
// Rows that would fall on the same lines of the L1 cache are copied.
static size_t sweep_space(const Product *p) {
    return p->a_row * sizeof(real) % 4096 == 0 && p->M > 4 ? smaller(p->M, SWEEP_ROWS) * (p->K + LANES) : 0;
}
// Into how many parts the rows go. Many rows wait for arithmetic, so where there are few panels for each thread, it is
// rows that are shared out; few rows wait for memory, which is read once.
static size_t sweep_parts(const Product *p, size_t threads) {
    enum { TASKS = 4 };                  // for each thread, or some wait in the end
    size_t least = (p->M + SWEEP_ROWS - 1) / SWEEP_ROWS, most = (p->M + SIMD_ROWS - 1) / SIMD_ROWS;
    size_t wanted = (TASKS * threads + panels_of(p->N) - 1) / panels_of(p->N);
    return p->M <= SWEEP_SHARED || wanted <= least ? least : smaller(wanted, most);
}
static void sweep_product(const Product *p, size_t threads, real *copy) {
    size_t panels = panels_of(p->N), parts = sweep_parts(p, threads), copied = parts;
    bool copies = sweep_space(p) > 0;
#pragma omp for schedule(guided) nowait
    for (size_t i = 0; i < parts * panels; i++) {
        Range rows = share(p->M, parts, i / panels);
        const real *a = p->a + rows.from * p->a_row;
        if (copies && copied != i / panels)
            for (size_t r = 0; r < rows.to - rows.from; r++)
                memcpy(copy + r * (p->K + LANES), a + r * p->a_row, p->K * sizeof *a);
        copied = i / panels;
        sweep_panel(p, rows, copies ? copy : a, copies ? p->K + LANES : p->a_row, i % panels);
    }
}

real *workspace_take(Workspace *w, size_t size) {
    if (size > w->size) {
        free(w->at);
        w->at = xmalloc(size_mul(size, sizeof(real)));
        w->size = size;
    }
    return w->at;
}

// Numbers of scratch memory that a thread needs to pack its part of B [K,N].
static size_t packing_space(size_t K, size_t N) { return packed_size(smaller(K, K_BLOCK), smaller(N, PANELS * PANEL)); }

// The part of a product that belongs to one thread: the threads form a grid over the rows and the panels of C, the one
// where the thread with the most to do has the least. A thread owns whole outputs, never a part of a sum.
static void block_of_thread(const Product *p, size_t threads, size_t thread, real *space) {
    size_t pieces = (p->M + ROW_GRAIN - 1) / ROW_GRAIN, across = 1;
    double least = 0, packing = p->packed ? 0 : PACK_COST;
    for (size_t n = 1; n <= threads; n++) {
        if (threads % n) continue;
        double panels = (double)((panels_of(p->N) + n - 1) / n);
        double rows = (double)((pieces + threads / n - 1) / (threads / n) * ROW_GRAIN);
        double cost = rows * (panels + READ_COST) + panels * packing;
        if (n == 1 || cost < least) least = cost, across = n;
    }
    Range panels = share(panels_of(p->N), across, thread % across);
    Range rows = share(pieces, threads / across, thread / across);
    if (rows.from == rows.to) return;
    block(p, (Range){rows.from * ROW_GRAIN, smaller(rows.to * ROW_GRAIN, p->M)}, panels, space);
}

void products(const Product *p, size_t count) {
    size_t each = 0, work = 0;
    for (size_t i = 0; i < count; i++) {
        size_t need = is_sweep(&p[i]) ? sweep_space(&p[i]) : p[i].packed ? 0 : packing_space(p[i].K, p[i].N);
        work += p[i].M * p[i].N * p[i].K;
        each = need > each ? need : each;
    }
    static Workspace workspace;
    real *space = workspace_take(&workspace, size_mul(each, (size_t)omp_get_max_threads()));
#pragma omp parallel if (work > SMALL)
    {
        size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
        real *own = each ? space + thread * each : NULL;
        for (size_t i = 0; i < count; i++)
            if (p[i].M == 1 && p[i].packed) vector_product(&p[i]);
            else if (is_sweep(&p[i])) sweep_product(&p[i], threads, own);
            else if (p[i].M && p[i].N) block_of_thread(&p[i], threads, (thread + i) % threads, own);
    }
}

void products_naive(const Product *p, size_t count) {
    for (; count; count--, p++)
        for (size_t i = 0; i < p->M; i++)
            for (size_t j = 0; j < p->N; j++) {
                real sum = p->accumulate ? p->c[i * p->ldc + j] : p->bias ? p->bias[j] : 0;
                for (size_t k = 0; k < p->K; k++) {
                    real a = p->a[i * p->a_row + k * p->a_col];
                    sum = real_fma(a, p->b[k * p->b_row + j * p->b_col], sum);
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

void linear_backward_bias(real *dbias, const real *dy, size_t M, size_t N) {
#pragma omp parallel for if (M * N > SMALL)
    for (size_t j = 0; j < N; j += LANES) {
        vec sum = vec_load_at(dbias, j, N);
        for (size_t i = 0; i < M; i++) sum = vec_add(sum, vec_load_at(dy + i * N, j, N));
        vec_store_at(dbias, j, N, sum);
    }
}
void linear_backward_weight(real *dw, real *dbias, const real *dy, const real *x, size_t M, size_t N, size_t K) {
    PROFILE(linear_weight, 2 * M * N * K + (dbias ? M * N : 0), M * N + M * K + 2 * N * K);
    products(&(Product){.c = dw, .ldc = K, .a = dy, .a_row = 1, .a_col = N, .b = x, .b_row = K, .b_col = 1,
                        .M = N, .N = K, .K = M, .accumulate = true}, 1);
    if (dbias) linear_backward_bias(dbias, dy, M, N);
}

size_t linear_workspace(size_t M, size_t N, size_t K) {
    size_t weights = packing_space(N, K), inputs = packing_space(M, K);
    return size_mul(weights > inputs ? weights : inputs, (size_t)omp_get_max_threads());
}

void linear_pack(real *packed, const real *w, size_t count, size_t N, size_t K) {
    PROFILE(pack, 0, 2 * count * N * K);
    size_t panels = panels_of(N);
#pragma omp parallel for schedule(static) if (count * N * K > SMALL)
    for (size_t i = 0; i < count * panels; i++) {
        size_t matrix = i / panels, j = i % panels * PANEL;
        pack_panel(packed + matrix * packed_size(K, N) + j * K, w + (matrix * N + j) * K, 1, K, K,
                   smaller(N - j, PANEL));
    }
}

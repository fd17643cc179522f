// attention.c: softmax attention (Vaswani et al. 2017, eq. 1), causal, with grouped heads (Ainslie et
// al. 2023). Three kernels over the same matrix products and the same bits on every machine:
//   naive   the matrix of scores exists: T x T numbers per head, computed whole, masked, kept for the backward (Dao et
//           al. 2022, algorithm 0)
//   band    that matrix, but what the mask hides is not computed: half of the FLOPs, the same memory
//   flash   tiles of 24 queries by `tile` keys, an online softmax, O(T) memory; the backward computes the
//           scores again from the saved log-sum-exp (Dao et al. 2022, algorithms 1 and 4; Dao 2023)
// From naive to band is what flash gains by leaving out FLOPs, from band to flash what it gains by its memory.
// A query may see a window of positions only (Child et al. 2019; Jiang et al. 2023, section 2); then band and flash
// leave out the keys before it, in whole panels and tiles. Scores may fall with the distance between query and key
// (ALiBi: Press et al. 2022).
// A task is one key/value head of one sequence with all the query heads that read it, so that no two
// threads ever add to the same gradient. Tiles start at position 0 whatever is cached, so decoding goes
// through the same additions as training and gives the same bits.
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "lib/numeric.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { QUERY_TILE = 24, QUERIES_BACKWARD = 4 * QUERY_TILE };
static Workspace workspace;        // of the one attention that runs at a time

static real log_sum(real most, real sum) { return sum > 0 ? most + (real)num_log((double)sum) : (real)NAN; }

// The first position that the query at position p sees; the last is p.
static size_t first_seen(const AttnShape *s, size_t p) { return s->window && p >= s->window ? p + 1 - s->window : 0; }

// The columns of the matrix of scores that are computed for `rows` queries from position p on: all L of them, or from
// the border of a panel to what the last query sees. The others are 0.
typedef struct { size_t start, keys; } Band;
static Band band_of(const AttnShape *s, size_t p, size_t rows, size_t L) {
    if (s->kernel == ATTENTION_naive) return (Band){0, L};
    size_t start = first_seen(s, p) / PANEL * PANEL;
    return (Band){start, p + rows - start};
}

// Pairs of a query and a key that it sees, of queries at positions 0 .. n-1.
static size_t pairs_seen(const AttnShape *s, size_t n) {
    size_t growing = s->window ? smaller(n, s->window) : n;
    return growing * (growing + 1) / 2 + (n - growing) * s->window;
}

// C [M,N] = or += A [M,K] B, in this thread; B is the part of packed panels (of `rows` rows) from row `first`.
static void multiply(real *c, size_t ldc, const real *a, size_t a_row, size_t a_col, const real *packed, size_t rows,
                     size_t first, size_t M, size_t N, size_t K, bool accumulate) {
    product_serial(&(Product){.c = c, .ldc = ldc, .a = a, .a_row = a_row, .a_col = a_col,
                              .packed = packed + first * PANEL, .packed_rows = rows, .M = M, .N = N, .K = K,
                              .accumulate = accumulate});
}

// ---- where keys and values stand -----------------------------------------------------------------

// One sequence: n queries from row `at` on, the last of `length` positions from `first` on. What is before that no
// query sees: a number of whole tiles, so that tiles start where they always do.
typedef struct { size_t at, n, first, length; const uint32_t *block; } Sequence;
static Sequence sequence_of(const AttnOutput *o, const AttnInput *in, const AttnShape *s, size_t b) {
    const AttnRow *r = in->row ? &in->row[b] : NULL;
    Sequence q = r ? (Sequence){r->at, r->n, 0, r->length, r->block}
                   : (Sequence){b * in->n, in->n, 0, in->view.length, NULL};
    if (s->kernel == ATTENTION_flash || (s->kernel == ATTENTION_band && !o->probability))
        q.first = first_seen(s, q.length - q.n) / s->tile * s->tile;
    q.length -= q.first;
    return q;
}

// The keys or the values of one head of a sequence.
typedef struct {
    const real *at; size_t step, stride, first, size; const uint32_t *block;
    const KvPacked *packed; bool values; size_t b, g;            // packed: or NULL
} Past;
static Past keys_of(const KvView *v, const Sequence *q, size_t b, size_t g) {
    return (Past){v->k + g * v->k_head + (q->block ? 0 : b * v->k_step), v->k_step, v->k_stride, q->first,
                  v->block_size, q->block, v->packed.unpack ? &v->packed : NULL, false, b, g};
}
static Past values_of(const KvView *v, const Sequence *q, size_t b, size_t g) {
    return (Past){v->v + g * v->v_head + (q->block ? 0 : b * v->v_step), v->v_step, v->v_stride, q->first,
                  v->block_size, q->block, v->packed.unpack ? &v->packed : NULL, true, b, g};
}
static const real *position_of(const Past *p, size_t j) {            // j: from the first that is seen
    j += p->first;
    if (!p->block) return p->at + j * p->stride;
    return p->at + p->block[j / p->size] * p->step + j % p->size * p->stride;
}
// How many of the `n` positions from j on follow one another in memory.
static size_t together(const Past *p, size_t j, size_t n) {
    if (p->packed) return 0;
    return p->block ? smaller(n, p->size - (p->first + j) % p->size) : n;
}
static void copy_positions(real *to, const Past *p, size_t j, size_t n, size_t width) {
    if (p->packed) p->packed->unpack(p->packed->cache, to, p->values, p->b, p->g, p->first + j, n);
    else for (size_t i = 0; i < n; i++) memcpy(to + i * width, position_of(p, j + i), width * sizeof *to);
}

// Keys as packed [D,L]: a panel of 32 keys in place or, from several blocks, through `copy` [32,D].
static void pack_keys(real *packed, const Past *k, size_t D, size_t L, real *copy) {
    for (size_t j = 0, n; j < L; j += n) {
        size_t here = together(k, j, L - j);
        n = j + here == L ? here : smaller(PANEL, L - j);
        bool in_place = here >= n;
        if (!in_place) copy_positions(copy, k, j, n, D);
        pack(packed + j * D, in_place ? position_of(k, j) : copy, 1, in_place ? k->stride : D, D, n);
    }
}

// Values as packed [L,Dv]: what stands together, or comes through `copy` [32,Dv], becomes rows of each panel.
static void pack_values(real *packed, const Past *v, size_t L, size_t Dv, real *copy) {
    for (size_t j = 0, n; j < L; j += n) {
        n = v->packed ? smaller(PANEL, L - j) : together(v, j, L - j);
        if (v->packed) copy_positions(copy, v, j, n, Dv);
        const real *from = v->packed ? copy : position_of(v, j);
        for (size_t d = 0; d < Dv; d += PANEL)
            pack(packed + d * L + j * PANEL, from + d, v->packed ? Dv : v->stride, 1, n, smaller(PANEL, Dv - d));
    }
}

// ---- one row of scores ---------------------------------------------------------------------------

// Of the `keys` positions from j on, those that the query at position p sees: from .. to-1, counted from j.
typedef struct { size_t from, to; } Span;
static Span span_seen(const AttnShape *s, size_t p, size_t j, size_t keys) {
    size_t first = first_seen(s, p), from = first > j ? first - j : 0, to = p >= j ? smaller(keys, p + 1 - j) : 0;
    return from < to ? (Span){from, to} : (Span){0, 0};
}

// ALiBi (Press et al. 2022, section 3): x[i] = x[i] * scale - slope * distance, where x[0] is the key `behind`
// positions before the query. Returns by how much the scores are still to be scaled.
static real row_alibi(real *x, size_t n, real scale, real slope, size_t behind) {
    if (slope == 0) return scale;
    vec by = vec_set(scale), lose = vec_set(slope), at = vec_sub(vec_lane_numbers(), vec_set((real)behind));
    for (size_t i = 0; i < n; i += LANES)
        vec_store_at(x, i, n, vec_fma(lose, vec_add(at, vec_set((real)i)), vec_mul(vec_load_at(x, i, n), by)));
    return 1;
}

// The largest of x[0..n-1] * scale and `most`. n > 0.
static real row_max(const real *x, size_t n, real scale, real most) {
    vec top = vec_set(most), by = vec_set(scale);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) top = vec_max(vec_mul(vec_load(x + i), by), top);
    if (i < n) {
        vec last = vec_mul(vec_load_n(x + i, n - i), by);
        top = vec_max(vec_first(n - i, last, top), top);
    }
    return vec_largest(top);
}

// x[i] = exp(x[i] * scale - most) for those in the span, 0 for the others of 0 <= i < width; returns the sum.
static real row_exp(real *x, Span seen, size_t width, real scale, real most) {
    vec sum = vec_zero(), by = vec_set(scale), minus = vec_set(-most);
    size_t start = seen.from / LANES * LANES;
    for (size_t i = 0; i < start; i++) x[i] = 0;
    for (size_t i = start; i < seen.to; i += LANES) {
        vec e = vec_exp(vec_fma(vec_load_at(x, i, width), by, minus));
        if (i < seen.from || i + LANES > seen.to) {
            vec at = vec_add(vec_lane_numbers(), vec_set((real)i));
            e = vec_select_less(at, vec_set((real)seen.from), vec_zero(), e);
            e = vec_select_less(at, vec_set((real)seen.to), e, vec_zero());
        }
        sum = vec_add(sum, e);
        vec_store_at(x, i, width, e);
    }
    for (size_t i = round_up(seen.to, LANES); i < width; i++) x[i] = 0;
    return vec_sum(sum);
}

// ---- forward -------------------------------------------------------------------------------------

// One head: n queries at q against L keys (packed transposed) and values (packed).
typedef struct {
    real *out; size_t out_stride;
    real *lse, *probability;            // [n], [n,L]
    const real *q; size_t q_stride;
    const real *keys, *values;          // packed [D,L], [L,Dv]
    size_t n, L;
    real slope;                         // 0: no ALiBi
} Head;

// The online softmax of one query (Milakov and Gimelshein 2018): its largest score so far, and the sum of
// exp(score - max).
typedef struct { real max, sum; } Softmax;

// The scores x of one more tile become exp(score - max). Returns what the weighted values so far are to be multiplied
// by: less than 1 where max grows. The first of the tile's keys is `behind` positions before the query.
static real row_softmax(Softmax *row, real *x, Span seen, size_t keys, size_t behind, real slope, const AttnShape *s) {
    if (!seen.to) {                                                        // nothing in this tile
        memset(x, 0, keys * sizeof *x);
        return 1;
    }
    real scale = row_alibi(x, seen.to, (real)s->scale, slope, behind);
    real max = row_max(x + seen.from, seen.to - seen.from, scale, row->max);
    real sum = row_exp(x, seen, keys, scale, max), rescale[LANES] = {1};
    if (row->sum > 0 && max > row->max) {
        vec_store(rescale, vec_exp(vec_set(row->max - max)));
        row->sum *= rescale[0];
    }
    row->sum += sum, row->max = max;
    return rescale[0];
}
static void row_forward(Softmax *row, real *x, Span seen, size_t keys, real *o, size_t behind, real slope,
                        const AttnShape *s) {
    real rescale = row_softmax(row, x, seen, keys, behind, slope, s);
    if (rescale != 1) row_scale(o, o, rescale, s->Dv);
}

static void row_end(const Softmax *row, real *o, size_t Dv, real *lse) {
    row_scale(o, o, 1 / row->sum, Dv);
    if (lse) *lse = log_sum(row->max, row->sum);
}

// scores of one tile in scratch: flash [QUERY_TILE, tile]; else [n, L] unless they are kept.
static void head_forward_flash(const Head *t, const AttnShape *s, real *score) {
    size_t past = t->L - t->n, width = s->tile;
    for (size_t i = 0; i < t->n; i += QUERY_TILE) {
        size_t rows = smaller(QUERY_TILE, t->n - i), end = past + i + rows;    // keys that the last query sees
        Softmax row[QUERY_TILE];
        for (size_t r = 0; r < rows; r++) row[r] = (Softmax){-(real)INFINITY, 0};
        size_t start = first_seen(s, past + i) / width * width;
        for (size_t j = start; j < end; j += width) {
            size_t keys = smaller(width, end - j);
            multiply(score, width, t->q + i * t->q_stride, t->q_stride, 1, t->keys + j * s->D, s->D, 0, rows, keys,
                     s->D, false);
            for (size_t r = 0; r < rows; r++)
                row_forward(&row[r], score + r * width, span_seen(s, past + i + r, j, keys), keys,
                            t->out + (i + r) * t->out_stride, past + i + r - j, t->slope, s);
            multiply(t->out + i * t->out_stride, t->out_stride, score, width, 1, t->values, t->L, j, rows, s->Dv, keys,
                     j > start);
        }
        for (size_t r = 0; r < rows; r++)
            row_end(&row[r], t->out + (i + r) * t->out_stride, s->Dv, t->lse ? t->lse + i + r : NULL);
    }
}

// Decoding: a few queries (one, or those of a draft) of the `heads` that read one head of keys and values, as these lie
// in a cache, tile by tile. The same tiles and chains as above, so the same bits. Texts that begin in the same blocks
// go through these together: each key is read once for all of their queries (Juravsky et al. 2024, "Hydragen"; Ye et
// al. 2024, "Cascade Inference"). Nothing is merged: every query goes on with its own sums where the texts part.
typedef struct { Past keys, values; size_t length; } Memory;
typedef struct {
    real *out; const real *q;           // of the first query and head
    Memory m;
    size_t n, at, shared;               // at: its first query in the task; shared: positions that are those of the row
} DecodeRow;                            // before it, whole tiles
typedef struct {
    DecodeRow *row; size_t rows, heads, out_stride, q_stride;   // strides: from query to query
    Memory next;                        // what the thread will probably read then; length 0: nothing
    const real *slope;                  // of the first head, or NULL
} DecodeTask;

enum {
    UNROLL = 4,                         // queries, or vectors of columns, whose sums stay in registers; and of
    MANY = 2 * UNROLL,                  // queries so many, with half of the vectors
    TURN = 4,                           // dimensions of 16 keys that are turned in registers at a time
    PANELS_FROM = 3 * MANY,             // queries of a key head, for which keys are turned once, in panels
    WIDTH = 64, DEPTH = 64,             // keys, and dimensions of them, that are turned for them at a time
    PREFETCH = 2048,                    // distance in numbers
    FEW = 8,                            // tokens of a sequence, and
    FEW_QUERIES = 32,                   // queries of a key head, for which keys are not packed
    MOST_QUERIES = 64,                  // of rows that go through shared keys together: they stay in the L1 cache
};

// A tile of keys or values, in groups of 16 positions: where each begins, and then as many of the next tile, or of the
// beginning of the next task.
typedef struct { const real **group; size_t groups, stride; bool scattered; } Tile;

// How the rows of a matrix lie, and what is prefetched while they are read:
//   IN_ORDER   one after the other: what is a little further on, at three distances
//   SCATTERED  in groups, each somewhere else, or so long that the next one is as far away: the next two
//   SLOW       in groups that are multiplied by many queries, which takes a while: those of the next tile
//   TURNED     keys as columns of a panel, in the cache: the next tile's keys, as below
//   READ       in groups that are in the cache already
// A prefetch is dropped while all of the core's line-fill buffers are in use: what is asked for faster than memory can
// answer must be asked for again.
typedef enum { IN_ORDER, SCATTERED, SLOW, TURNED, READ } Layout;
typedef struct { Layout layout; ptrdiff_t near, far; } Ahead;
INLINE Ahead ahead_of(Layout layout, const Tile *t, size_t i) {
    if (layout != SCATTERED && layout != SLOW) return (Ahead){layout, 0, 0};
    const real *const *g = t->group + i;
    return (Ahead){layout, g[1] - g[0], g[layout == SLOW ? t->groups : 2] - g[0]};
}
INLINE void prefetch_ahead(const real *x, Ahead a) {
    if (a.layout == SCATTERED || a.layout == SLOW) __builtin_prefetch(x + a.far, 0, 2);
    if (a.layout == SCATTERED) __builtin_prefetch(x + a.near, 0, 2);
    for (size_t ahead = PREFETCH; a.layout == IN_ORDER && ahead >= PREFETCH / 4; ahead /= 2)
        __builtin_prefetch(x + ahead, 0, 2);
}

// score [heads,ld] = q [heads,D] K^T of n <= 16 keys, transposed in registers, so that lanes run along keys and
// each score is one chain over D. whole: n is 16 and D a multiple of 4; it and `heads` are constants where this is
// expanded.
INLINE void scores_of_keys(size_t heads, bool whole, real *score, size_t ld, const real *q, const real *k,
                           size_t stride, size_t D, size_t n, Ahead ahead) {
    vec sum[MANY], column[TURN];
    for (size_t h = 0; h < heads; h++) sum[h] = vec_zero();
    for (size_t d = 0; d < D; d += TURN) {
        size_t some = whole ? TURN : smaller(TURN, D - d);
        real edge[TURN * LANES] = {0};
        for (size_t i = 0; i < n && !whole; i++) memcpy(edge + i * TURN, k + i * stride + d, some * sizeof *k);
        vec_turn(column, whole ? k + d : edge, whole ? stride : TURN);
        for (size_t i = 0; i < TURN; i++)
            prefetch_ahead(k + (d + i) * LANES, ahead);                 // in a cache, a head's keys follow one another
        for (size_t i = 0; i < some; i++)
            for (size_t h = 0; h < heads; h++) sum[h] = vec_fma(vec_set(q[h * D + d + i]), column[i], sum[h]);
    }
    for (size_t h = 0; h < heads; h++) vec_store_at(score + h * ld, 0, whole ? LANES : n, sum[h]);
}

INLINE void scores_of_heads(size_t heads, real *score, size_t ld, const real *q, const real *k, size_t stride, size_t D,
                            size_t n, Ahead ahead) {
    if (n == LANES && D % TURN == 0) scores_of_keys(heads, true, score, ld, q, k, stride, D, n, ahead);
    else scores_of_keys(heads, false, score, ld, q, k, stride, D, n, ahead);
}

// A few queries, as decoding has them: keys are turned in registers, anew for every eight queries.
INLINE void scores_of_groups(Layout layout, real *score, size_t ld, const real *q, size_t heads, const Tile *t,
                             size_t D, size_t keys) {
    for (size_t j = 0, i = 0; j < keys; j += LANES, i++, score += LANES) {
        size_t n = smaller(LANES, keys - j), h = 0;
        const real *k = t->group[i];
        Ahead ahead = ahead_of(layout, t, i);
        for (; h + MANY <= heads; h += MANY, ahead.layout = READ)
            scores_of_heads(MANY, score + h * ld, ld, q + h * D, k, t->stride, D, n, ahead);
        for (; h + UNROLL <= heads; h += UNROLL, ahead.layout = READ)
            scores_of_heads(UNROLL, score + h * ld, ld, q + h * D, k, t->stride, D, n, ahead);
        for (; h + 2 <= heads; h += 2) scores_of_heads(2, score + h * ld, ld, q + h * D, k, t->stride, D, n, ahead);
        for (; h < heads; h++) scores_of_heads(1, score + h * ld, ld, q + h * D, k, t->stride, D, n, ahead);
    }
}

// C [rows,ldc] = or += A [rows,lda] B for `vecs` vectors of columns of B, from column d up to n further: lanes run
// along them, and each element is one chain over the K rows of B. `rows`, `vecs` and `layout` are constants where it is
// expanded.
INLINE void tile_of_product(Layout layout, size_t rows, size_t vecs, real *c, size_t ldc, const real *a, size_t lda,
                            const Tile *b, size_t d, size_t n, size_t K, bool accumulate) {
    vec sum[MANY][UNROLL], value[UNROLL];
    for (size_t h = 0; h < rows; h++)
        for (size_t i = 0; i < vecs; i++)
            sum[h][i] = accumulate ? vec_load_at(c + h * ldc + d, i * LANES, n) : vec_zero();
    for (size_t k = 0; k < K;) {
        const real *row = b->group[k / LANES] + d;
        Ahead ahead = ahead_of(layout, b, k / LANES);
        bool whole = layout == IN_ORDER || layout == TURNED;
        for (size_t end = whole ? K : smaller(K, k + LANES); k < end; k++, row += b->stride) {
            for (size_t i = 0; i < vecs; i++) {
                value[i] = vec_load_at(row, i * LANES, n);
                prefetch_ahead(row + i * LANES, ahead);
                if (layout == TURNED) __builtin_prefetch(b->group[1 + d / LANES + i] + k * LANES, 0, 2);
            }
            for (size_t h = 0; h < rows; h++) {
                vec x = vec_set(a[h * lda + k]);
                for (size_t i = 0; i < vecs; i++) sum[h][i] = vec_fma(x, value[i], sum[h][i]);
            }
        }
    }
    for (size_t h = 0; h < rows; h++)
        for (size_t i = 0; i < vecs; i++) vec_store_at(c + h * ldc + d, i * LANES, n, sum[h][i]);
}

INLINE void columns_of_product(Layout layout, size_t vecs, real *c, size_t ldc, const real *a, size_t lda, size_t rows,
                               const Tile *b, size_t d, size_t n, size_t K, bool accumulate) {
    size_t i = 0;
    for (; vecs <= UNROLL / 2 && i + MANY <= rows; i += MANY)
        tile_of_product(layout, MANY, vecs, c + i * ldc, ldc, a + i * lda, lda, b, d, n, K, accumulate);
    for (; i + UNROLL <= rows; i += UNROLL)
        tile_of_product(layout, UNROLL, vecs, c + i * ldc, ldc, a + i * lda, lda, b, d, n, K, accumulate);
    for (; i + 2 <= rows; i += 2)
        tile_of_product(layout, 2, vecs, c + i * ldc, ldc, a + i * lda, lda, b, d, n, K, accumulate);
    for (; i < rows; i++)
        tile_of_product(layout, 1, vecs, c + i * ldc, ldc, a + i * lda, lda, b, d, n, K, accumulate);
}

// C [rows,ldc] = or += A [rows,lda] B, of the columns d .. N-1.
enum { WIDE = UNROLL * LANES, HALF = WIDE / 2 };
INLINE void small_product(Layout layout, real *c, size_t ldc, const real *a, size_t lda, size_t rows, const Tile *b,
                          size_t d, size_t N, size_t K, bool accumulate) {
    for (; rows < MANY && d + WIDE <= N; d += WIDE)
        columns_of_product(layout, UNROLL, c, ldc, a, lda, rows, b, d, WIDE, K, accumulate);
    for (; d + HALF <= N; d += HALF)
        columns_of_product(layout, UNROLL / 2, c, ldc, a, lda, rows, b, d, HALF, K, accumulate);
    for (; d < N; d += LANES)
        columns_of_product(layout, 1, c, ldc, a, lda, rows, b, d, smaller(LANES, N - d), K, accumulate);
}

// `depth` dimensions of n <= 16 keys become columns of a panel [depth,64]; next: as many numbers of the next tile.
static void turn_keys(real *panel, const real *k, const real *next, size_t stride, size_t depth, size_t n) {
    size_t d = 0;
    for (; n == LANES && d + LANES <= depth; d += LANES) {
        vec row[LANES];
        const real *at = k + d;
        for (size_t i = 0; i < LANES; i++, at += stride) {
            OPAQUE(at);                                            // or the compiler keeps 16 addresses
            __builtin_prefetch(next + (d + i) * LANES, 0, 2);
            row[i] = vec_load(at);
        }
        vec_transpose(row);
        for (size_t i = 0; i < LANES; i++) vec_store(panel + (d + i) * WIDTH, row[i]);
    }
    for (; d < depth; d++)
        for (size_t i = 0; i < n; i++) panel[d * WIDTH + i] = k[i * stride + d];
}

// Many queries, as of a latent that all heads share: some dimensions of 64 keys are turned, and multiplied by all
// queries while they are in the L1 cache. Turning alone asks for the next tile faster than memory answers; multiplying
// asks again, evenly, a line for every vector of the panel.
static void scores_of_panels(real *score, size_t ld, const real *q, size_t queries, const Tile *t, size_t D,
                             size_t keys) {
    real panel[DEPTH * WIDTH];
    for (size_t j = 0; j < keys; j += WIDTH)
        for (size_t d = 0; d < D; d += DEPTH) {
            size_t n = smaller(WIDTH, keys - j), depth = smaller(DEPTH, D - d);
            const real *place[1 + WIDTH / LANES] = {panel};
            for (size_t i = 0; i < n; i += LANES) {
                const real **group = t->group + (j + i) / LANES;
                place[1 + i / LANES] = group[t->groups] + d * LANES;
                turn_keys(panel + i, *group + d, place[1 + i / LANES], t->stride, depth, smaller(LANES, n - i));
            }
            const Tile turned = {.group = place, .stride = WIDTH};
            small_product(TURNED, score + j, ld, q + d, D, queries, &turned, 0, n, depth, d > 0);
        }
}

// score [queries,ld] = q [queries,D] K^T; each score is one chain over D.
static void scores_of_tile(real *score, size_t ld, const real *q, size_t queries, const Tile *t, size_t D,
                           size_t keys) {
    if (queries >= PANELS_FROM) scores_of_panels(score, ld, q, queries, t, D, keys);
    else if (queries >= UNROLL) scores_of_groups(SLOW, score, ld, q, queries, t, D, keys);
    else if (t->scattered) scores_of_groups(SCATTERED, score, ld, q, queries, t, D, keys);
    else scores_of_groups(IN_ORDER, score, ld, q, queries, t, D, keys);
}

// Columns d .. end-1 of out [queries,Dv] = or += p [queries,ld] V; each output is one chain over keys. read: the values
// are the beginning of the keys, which are in the cache.
static void values_of_tile(real *out, size_t Dv, const real *p, size_t ld, size_t queries, const Tile *t, bool read,
                           size_t d, size_t end, size_t keys, bool accumulate) {
    if (read) small_product(READ, out, Dv, p, ld, queries, t, d, end, keys, accumulate);
    else if (queries >= UNROLL) small_product(SLOW, out, Dv, p, ld, queries, t, d, end, keys, accumulate);
    else if (t->scattered) small_product(SCATTERED, out, Dv, p, ld, queries, t, d, end, keys, accumulate);
    else small_product(IN_ORDER, out, Dv, p, ld, queries, t, d, end, keys, accumulate);
}

// What a thread needs to decode, in numbers: scores [queries, tile], queries and outputs side by side, copies of a tile
// whose positions are scattered, the places of its groups, and a softmax for each query.
typedef struct { size_t scores, queries, outs, keys, values, groups, rows, each; } DecodeSpace;
static DecodeSpace decode_space(const AttnShape *s, const KvView *view) {
    size_t group = s->H / s->KV, most = group > MOST_QUERIES ? group : MOST_QUERIES;
    size_t copied = view->packed.unpack || view->block_size % LANES ? s->tile : 0;
    DecodeSpace d = {.scores = most * s->tile, .queries = most * s->D, .outs = most * s->Dv, .keys = copied * s->D,
                     .values = view->k == view->v ? 0 : copied * s->Dv};
    d.groups = (4 * (s->tile / LANES) * sizeof(real *) + sizeof(real) - 1) / sizeof(real);
    d.rows = most * sizeof(Softmax) / sizeof(real);
    size_t *part[] = {&d.scores, &d.queries, &d.outs, &d.keys, &d.values, &d.groups, &d.rows};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) d.each += *part[i] = round_up(*part[i], LANES);
    return d;
}

static const real *group_at(const Past *p, size_t length, size_t i) {
    return position_of(p, smaller(i, (length - 1) / LANES) * LANES);
}

// The tile from position j on, of `tile` positions or what is left, and the one that the thread reads then, `step`
// positions further; what a block does not hold together is copied.
static Tile tile_of(const Past *p, size_t length, const Past *next, size_t next_length, size_t j, size_t tile,
                    size_t step, const real **group, real *copy, size_t width) {
    size_t n = tile / LANES, groups = (length + LANES - 1) / LANES;
    if (p->packed || (p->block && p->size % LANES)) {
        copy_positions(copy, p, j, smaller(tile, length - j), width);
        for (size_t i = 0; i < 2 * n; i++) group[i] = copy + i % n * LANES * width;
        return (Tile){group, n, width, false};
    }
    for (size_t i = 0, at = j / LANES; i < 2 * n; i++, at += i == n ? 1 + (step - tile) / LANES : 1)
        group[i] = at >= groups && next_length ? group_at(next, next_length, at - groups) : group_at(p, length, at);
    bool scattered = (p->block && p->first + length > p->size) || LANES * p->stride >= PREFETCH || step > tile;
    return (Tile){group, n, p->stride, scattered};
}

static size_t queries_of(const DecodeTask *t, size_t row) { return t->row[row].n * t->heads; }
static size_t position_of_query(const DecodeTask *t, size_t row, size_t i) {
    return t->row[row].m.length - t->row[row].n + i / t->heads;
}

static void gather_queries(const DecodeTask *t, const AttnShape *s, real *q) {
    size_t width = t->heads * s->D;
    for (const DecodeRow *r = t->row; r < t->row + t->rows; r++)
        for (size_t i = 0; i < r->n; i++)
            memcpy(q + r->at * s->D + i * width, r->q + i * t->q_stride, width * sizeof *q);
}
static void scatter_outs(const DecodeTask *t, const AttnShape *s, const real *out) {
    size_t width = t->heads * s->Dv;
    for (const DecodeRow *r = t->row; r < t->row + t->rows; r++)
        for (size_t i = 0; i < r->n; i++)
            memcpy(r->out + i * t->out_stride, out + r->at * s->Dv + i * width, width * sizeof *out);
}

static bool is_in_place(const DecodeTask *t) { return t->rows == 1 && t->row->n == 1; }

// Where a thread decodes: its scratch memory, and the queries and outputs of the task, in place or side by side.
typedef struct { real *score, *out, *copy; const real *q, **group; Softmax *row; size_t values; } DecodeMemory;

// Keys and values of a tile; a latent is both.
static bool is_latent(const DecodeRow *r) { return r->m.values.at == r->m.keys.at; }
static Tile keys_of_tile(const DecodeRow *r, const Memory *next, const AttnShape *s, size_t j, size_t step,
                         const DecodeMemory *d) {
    return tile_of(&r->m.keys, r->m.length, &next->keys, next->length, j, s->tile, step, d->group, d->copy, s->D);
}
static Tile values_of_row(const DecodeRow *r, const Memory *next, const AttnShape *s, size_t j, size_t step,
                          const DecodeMemory *d) {
    return tile_of(&r->m.values, r->m.length, &next->values, next->length, j, s->tile, step,
                   d->group + 2 * (s->tile / LANES), d->copy + d->values, s->Dv);
}

// All queries of the rows from .. to-1 go through the tiles [j, end) of what these have in common, while a tile is in
// the cache.
static void decode_tiles(const DecodeTask *t, const AttnShape *s, const DecodeMemory *d, size_t from, size_t to,
                         size_t j, size_t end, const Memory *next) {
    const DecodeRow *one = &t->row[from];
    size_t at = one->at, queries = t->row[to - 1].at + queries_of(t, to - 1) - at;
    const real *q = d->q + at * s->D;
    real *out = d->out + at * s->Dv;
    for (; j < end; j += s->tile) {
        size_t keys = smaller(s->tile, one->m.length - j);
        Tile tile = keys_of_tile(one, next, s, j, s->tile, d);
        Tile values = is_latent(one) ? tile : values_of_row(one, next, s, j, s->tile, d);
        scores_of_tile(d->score, s->tile, q, queries, &tile, s->D, keys);
        for (size_t r = from, i = 0; r < to; r++)
            for (size_t k = 0; k < queries_of(t, r); k++, i++) {
                size_t position = position_of_query(t, r, k);
                row_forward(&d->row[at + i], d->score + i * s->tile, span_seen(s, position, j, keys), keys,
                            out + i * s->Dv, position - j, t->slope ? t->slope[k % t->heads] : 0, s);
            }
        values_of_tile(out, s->Dv, d->score, s->tile, queries, &values, is_latent(one), 0, s->Dv, keys, j > 0);
    }
}

static Memory after(Memory m, size_t j) {
    m.keys.first += j, m.values.first += j, m.length -= j;
    return m;
}

// Rows from .. to-1 from position j on: together as far as all of them are the same text, then those that still are.
static void decode_rows(const DecodeTask *t, const AttnShape *s, const DecodeMemory *d, size_t from, size_t to,
                        size_t j, const Memory *next) {
    size_t end = to - from == 1 ? t->row[from].m.length : t->row[from + 1].shared;
    for (size_t r = from + 1; r < to; r++) end = smaller(end, t->row[r].shared);
    decode_tiles(t, s, d, from, to, j, end, next);
    if (to - from == 1) return;
    for (size_t r = from, part; r < to; r = part) {
        for (part = r + 1; part < to && t->row[part].shared > end; part++) {}
        Memory then = part < to ? after(t->row[part].m, end) : *next;
        decode_rows(t, s, d, r, part, end, &then);
    }
}

static DecodeMemory decode_memory(const DecodeTask *t, const DecodeSpace *d, real *score) {
    real *side = score + d->scores, *copy = side + d->queries + d->outs;
    DecodeMemory m = {.score = score, .q = side, .out = side + d->queries, .copy = copy, .values = d->keys,
                      .group = (const real **)(copy + d->keys + d->values),
                      .row = (Softmax *)(copy + d->keys + d->values + d->groups)};
    if (is_in_place(t)) m.q = t->row->q, m.out = t->row->out;
    return m;
}

static void decode_heads(const DecodeTask *t, const AttnShape *s, const DecodeSpace *d, real *space) {
    DecodeMemory m = decode_memory(t, d, space);
    size_t queries = t->row[t->rows - 1].at + queries_of(t, t->rows - 1);
    if (!is_in_place(t)) gather_queries(t, s, space + d->scores);
    for (size_t i = 0; i < queries; i++) m.row[i] = (Softmax){-(real)INFINITY, 0};
    decode_rows(t, s, &m, 0, t->rows, 0, &t->next);
    for (size_t i = 0; i < queries; i++) row_end(&m.row[i], m.out + i * s->Dv, s->Dv, NULL);
    if (!is_in_place(t)) scatter_outs(t, s, m.out);
}

// One text whose key heads are fewer than the threads: these go through it together, a stretch at a time. Of the scores
// each has some of the tiles; then of the softmax some of the queries; then of the outputs some of the columns. Each
// key is read and turned by one thread, and no sum is ever split. Every thread of the team calls this; `shared` is
// theirs together, `own` has the places of a tile.
enum { STRETCH = 16384 };      // few barriers: beside other processes each is a wait
typedef struct { size_t ld, factors, scores, each; } SharedSpace;
static SharedSpace shared_space(const AttnShape *s) {
    size_t most = s->H / s->KV > FEW_QUERIES ? s->H / s->KV : FEW_QUERIES;
    SharedSpace n = {.ld = STRETCH + LANES, .factors = STRETCH / s->tile};   // or rows fall on the same lines of L1
    n.scores = round_up(most * (n.ld + n.factors), LANES);
    n.each = n.scores + round_up(most * sizeof(Softmax) / sizeof(real), LANES);
    return n;
}
static void decode_by_all(const DecodeTask *t, const AttnShape *s, const DecodeMemory *d, const SharedSpace *n) {
    size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num(), stretch = n->factors * s->tile;
    size_t length = t->row->m.length, queries = queries_of(t, 0);
    real *factor = d->score + queries * n->ld;
    for (size_t start = 0, end; start < length; start = end) {
        end = smaller(start + stretch, length);
        for (size_t j = start + me * s->tile; j < end; j += threads * s->tile) {
            Tile keys = keys_of_tile(t->row, &t->next, s, j, threads * s->tile, d);
            scores_of_tile(d->score + j - start, n->ld, d->q, queries, &keys, s->D, smaller(s->tile, length - j));
        }
#pragma omp barrier
        for (size_t i = me; i < queries; i += threads)
            for (size_t j = start; j < end; j += s->tile) {
                size_t position = position_of_query(t, 0, i), keys = smaller(s->tile, length - j);
                factor[i * n->factors + (j - start) / s->tile] =
                    row_softmax(&d->row[i], d->score + i * n->ld + j - start, span_seen(s, position, j, keys), keys,
                                position - j, t->slope ? t->slope[i % t->heads] : 0, s);
            }
#pragma omp barrier
        for (size_t j = start; j < end; j += s->tile) {
            Tile values = (is_latent(t->row) ? keys_of_tile : values_of_row)(t->row, &t->next, s, j, s->tile, d);
            for (size_t c = me * HALF; c < s->Dv; c += threads * HALF) {
                size_t to = smaller(c + HALF, s->Dv);
                for (size_t i = 0; i < queries; i++) {
                    real *o = d->out + i * s->Dv + c, rescale = factor[i * n->factors + (j - start) / s->tile];
                    if (rescale != 1) row_scale(o, o, rescale, to - c);
                }
                values_of_tile(d->out, s->Dv, d->score + j - start, n->ld, queries, &values, false, c, to,
                               smaller(s->tile, length - j), j > 0);
            }
        }
#pragma omp barrier
    }
}

// A latent where threads are so few that the values of one stretch after the other keep up with the scores of all: each
// thread has every so many stretches for itself, so that what it has read for the scores is near when the values are
// added up. Those are added in order: `turn` is the stretch whose values are next.
enum { IN_TURNS = 3, TURN_TILES = 4 };      // threads at most, whose stretches are of so many tiles
static atomic_size_t turn;                  // of the one attention that runs at a time
static bool in_turns(const DecodeRow *r, const AttnShape *s, size_t threads) {
    return is_latent(r) && threads > 1 && threads <= IN_TURNS && threads * (TURN_TILES * s->tile + LANES) <= STRETCH;
}
static void wait_for_turn(size_t mine) {
    enum { PATIENCE = 10000 };              // then another process may need this core, or the thread that is waited for
    for (size_t i = 0; atomic_load_explicit(&turn, memory_order_acquire) != mine; i++)
        if (i > PATIENCE) sched_yield();
}
static void decode_in_turns(const DecodeTask *t, const AttnShape *s, const DecodeMemory *d) {
    size_t length = t->row->m.length, queries = queries_of(t, 0), stretch = TURN_TILES * s->tile, ld = stretch + LANES;
    size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num(), step = threads * stretch;
    real *score = d->score + me * queries * ld;
    for (size_t mine = me, start = me * stretch; start < length; start += step, mine += threads) {
        size_t end = smaller(start + stretch, length);
        for (size_t j = start; j < end; j += s->tile) {
            size_t next = j + s->tile < end ? s->tile : step - stretch + s->tile;
            Tile keys = keys_of_tile(t->row, &t->next, s, j, next, d);
            scores_of_tile(score + j - start, ld, d->q, queries, &keys, s->D, smaller(s->tile, length - j));
        }
        wait_for_turn(mine);
        for (size_t j = start; j < end; j += s->tile) {
            size_t keys = smaller(s->tile, length - j);
            Tile values = keys_of_tile(t->row, &t->next, s, j, step, d);
            for (size_t i = 0; i < queries; i++) {
                size_t position = position_of_query(t, 0, i);
                row_forward(&d->row[i], score + i * ld + j - start, span_seen(s, position, j, keys), keys,
                            d->out + i * s->Dv, position - j, t->slope ? t->slope[i % t->heads] : 0, s);
            }
            values_of_tile(d->out, s->Dv, score + j - start, ld, queries, &values, false, 0, s->Dv, keys, j > 0);
        }
        atomic_store_explicit(&turn, mine + 1, memory_order_release);
    }
#pragma omp barrier
}

static void head_forward_matrix(const Head *t, const AttnShape *s, real *scratch) {
    size_t past = t->L - t->n, L = t->L;
    real *p = t->probability ? t->probability : scratch;
    for (size_t i = 0; i < t->n; i += QUERY_TILE) {
        size_t rows = smaller(QUERY_TILE, t->n - i);
        Band band = band_of(s, past + i, rows, L);
        multiply(p + i * L + band.start, L, t->q + i * t->q_stride, t->q_stride, 1, t->keys + band.start * s->D, s->D,
                 0, rows, band.keys, s->D, false);
    }
    for (size_t i = 0; i < t->n; i++) {
        Span seen = span_seen(s, past + i, 0, L);
        real scale = row_alibi(p + i * L, seen.to, (real)s->scale, t->slope, past + i);
        real most = row_max(p + i * L + seen.from, seen.to - seen.from, scale, -(real)INFINITY);
        real sum = row_exp(p + i * L, seen, L, scale, most);
        row_scale(p + i * L, p + i * L, 1 / sum, seen.to);
        if (t->lse) t->lse[i] = log_sum(most, sum);
    }
    for (size_t i = 0; i < t->n; i += QUERY_TILE) {
        size_t rows = smaller(QUERY_TILE, t->n - i);
        Band band = band_of(s, past + i, rows, L);
        multiply(t->out + i * t->out_stride, t->out_stride, p + i * L + band.start, L, 1, t->values, L, band.start,
                 rows, s->Dv, band.keys, false);
    }
}

// What a thread needs, in numbers: packed keys and values, 32 of either on their way there, and scores. `kept`: the
// probabilities have a place.
typedef struct { size_t keys, values, copy, each; } ForwardSpace;
static ForwardSpace forward_space(size_t n, size_t L, bool kept, const AttnShape *s) {
    size_t scores = s->kernel == ATTENTION_flash ? QUERY_TILE * s->tile : kept ? 0 : size_mul(n, L);
    ForwardSpace f = {.keys = packed_size(s->D, L), .values = packed_size(L, s->Dv),
                      .copy = PANEL * (s->D > s->Dv ? s->D : s->Dv)};
    f.each = f.keys + f.values + f.copy + scores;
    return f;
}

// A unit is a sequence, or several of few queries that begin alike; a task is one key head of it, or a part `part` of
// `split` of the query heads that read that.
typedef struct { size_t first, rows; } Unit;
typedef struct { Sequence q; size_t b, size, shared; bool decoding; } Member;   // shared: see DecodeRow
typedef struct { Sequence q; size_t b, g, h, heads; Memory next; } ForwardTask;

static void forward_packed(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const ForwardTask *t,
                           real *keys) {
    size_t n = t->q.n, L = t->q.length;
    ForwardSpace need = forward_space(n, L, o->probability != NULL, s);
    real *values = keys + need.keys, *copy = values + need.values, *score = copy + need.copy;
    Past k = keys_of(&in->view, &t->q, t->b, t->g), v = values_of(&in->view, &t->q, t->b, t->g);
    pack_keys(keys, &k, s->D, L, copy);
    pack_values(values, &v, L, s->Dv, copy);
    for (size_t h = t->h; h < t->h + t->heads; h++) {
        size_t kept = t->b * s->H + h;
        Head head = {.out = o->out + t->q.at * o->out_stride + h * s->Dv, .out_stride = o->out_stride,
                     .lse = o->lse ? o->lse + kept * n : NULL,
                     .probability = o->probability ? o->probability + kept * n * L : NULL,
                     .q = in->q + t->q.at * in->q_stride + h * s->D, .q_stride = in->q_stride, .keys = keys,
                     .values = values, .n = n, .L = L, .slope = s->slope ? s->slope[h] : 0};
        if (s->kernel == ATTENTION_flash) head_forward_flash(&head, s, score);
        else head_forward_matrix(&head, s, score);
    }
}

static Memory memory_of(const KvView *v, const Sequence *q, size_t b, size_t g) {
    return (Memory){keys_of(v, q, b, g), values_of(v, q, b, g), q->length};
}

static DecodeTask decode_task(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const ForwardTask *t,
                              const Member *member, size_t rows, DecodeRow *row) {
    for (size_t i = 0, at = 0; i < rows; at += row[i++].n * t->heads) {
        const Sequence *q = &member[i].q;
        row[i] = (DecodeRow){.out = o->out + q->at * o->out_stride + t->h * s->Dv,
                             .q = in->q + q->at * in->q_stride + t->h * s->D,
                             .m = memory_of(&in->view, q, member[i].b, t->g), .n = q->n, .at = at,
                             .shared = i ? member[i].shared : 0};
    }
    return (DecodeTask){.row = row, .rows = rows, .heads = t->heads, .out_stride = o->out_stride,
                        .q_stride = in->q_stride, .next = t->next, .slope = s->slope ? s->slope + t->h : NULL};
}
static void forward_decoding(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const ForwardTask *t,
                             const Member *member, size_t rows, real *space) {
    DecodeSpace need = decode_space(s, &in->view);
    DecodeRow row[MOST_QUERIES];
    DecodeTask task = decode_task(o, in, s, t, member, rows, row);
    decode_heads(&task, s, &need, space);
}

// The same by all threads, each of which has memory at `own`; what they share is at `space`.
static void forward_by_all(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const ForwardTask *t,
                           const Member *member, real *space, real *own) {
    DecodeSpace need = decode_space(s, &in->view);
    SharedSpace shared = shared_space(s);
    DecodeRow row;
    DecodeTask task = decode_task(o, in, s, t, member, 1, &row);
    DecodeMemory all = decode_memory(&task, &need, space + shared.each), m = decode_memory(&task, &need, own);
    size_t queries = queries_of(&task, 0);
    m.score = space, m.row = (Softmax *)(space + shared.scores), m.q = all.q, m.out = all.out;
#pragma omp single
    {
        if (!is_in_place(&task)) gather_queries(&task, s, space + shared.each + need.scores);
        for (size_t i = 0; i < queries; i++) m.row[i] = (Softmax){-(real)INFINITY, 0};
        atomic_store(&turn, 0);
    }
    if (in_turns(&row, s, (size_t)omp_get_num_threads())) decode_in_turns(&task, s, &m);
    else decode_by_all(&task, s, &m, &shared);
#pragma omp single
    {
        for (size_t i = 0; i < queries; i++) row_end(&m.row[i], m.out + i * s->Dv, s->Dv, NULL);
        if (!is_in_place(&task)) scatter_outs(&task, s, m.out);
    }
}

// Packing keys pays for many queries only.
static bool is_decoding(const AttnOutput *o, const AttnShape *s, size_t n) {
    bool few = n == 1 || (n <= FEW && n * (s->H / s->KV) <= FEW_QUERIES);
    return few && s->kernel == ATTENTION_flash && !o->lse && !o->probability;
}

// ---- which rows go together ----------------------------------------------------------------------

// Whole tiles, in positions, at which two sequences begin with the same blocks.
static size_t shared_of(const Sequence *a, const Sequence *b, size_t block_size, size_t tile) {
    if (!a->block || !b->block || a->first != b->first) return 0;
    size_t most = smaller(a->length, b->length), i = a->first / block_size;
    while (i * block_size < a->first + most && a->block[i] == b->block[i]) i++;
    size_t same = i * block_size > a->first ? i * block_size - a->first : 0;
    return smaller(same, most) / tile * tile;
}

// Rows of many queries come last; of those of few queries, rows that begin with the same block come together, and of
// these the ones that go on alike.
static int by_blocks(const void *a, const void *b) {
    const Member *x = a, *y = b;
    if (x->decoding != y->decoding) return x->decoding ? -1 : 1;
    if (!x->decoding || x->q.first != y->q.first) return x->decoding && x->q.first < y->q.first ? -1 : 1;
    size_t i = x->q.first / x->size, end = x->q.first + smaller(x->q.length, y->q.length);
    for (; i * x->size < end; i++)
        if (x->q.block[i] != y->q.block[i]) return x->q.block[i] < y->q.block[i] ? -1 : 1;
    return x->q.length != y->q.length ? (x->q.length < y->q.length ? -1 : 1) : x->b < y->b ? -1 : 1;
}

// What is to be done: members [B] in the order in which they are grouped, units [B] of them; numbers of scratch memory
// of a thread; products of a query and a key; whether all sequences have few queries; positions of the rows that are
// read with those of another one.
typedef struct { Member *member; Unit *unit; size_t units, each, work, shared; bool decoding; } Plan;

// Rows that share a tile go together, as long as they leave every thread something to do.
static bool goes_along(const AttnShape *s, const Member *m, const Unit *u, size_t queries, size_t most) {
    return m->shared && u->rows < most && (queries + m->q.n) * (s->H / s->KV) <= MOST_QUERIES;
}
static void plan_units(Plan *plan, const AttnInput *in, const AttnShape *s) {
    size_t most = in->B * s->KV / (size_t)omp_get_max_threads(), queries = 0;
    for (size_t i = 0; i < in->B; i++) {
        Member *m = &plan->member[i];
        Unit *u = &plan->unit[plan->units ? plan->units - 1 : 0];
        if (i && in->row && m->decoding && m[-1].decoding)
            m->shared = shared_of(&m[-1].q, &m->q, m->size, s->tile);
        if (i && goes_along(s, m, u, queries, most)) u->rows++, queries += m->q.n, plan->shared += m->shared;
        else plan->unit[plan->units++] = (Unit){i, 1}, queries = m->q.n;
    }
}
static Plan plan_of(const AttnOutput *o, const AttnInput *in, const AttnShape *s) {
    Plan plan = {.member = xmalloc(in->B * sizeof *plan.member), .unit = xmalloc(in->B * sizeof *plan.unit),
                 .decoding = true};
    for (size_t b = 0; b < in->B; b++) {
        Sequence q = sequence_of(o, in, s, b);
        bool decoding = is_decoding(o, s, q.n);
        size_t need = decoding ? decode_space(s, &in->view).each
                               : forward_space(q.n, q.length, o->probability != NULL, s).each;
        plan.member[b] = (Member){.q = q, .b = b, .size = in->view.block_size, .decoding = decoding};
        plan.each = need > plan.each ? need : plan.each;
        plan.work += q.n * q.length * s->H * s->D;
        plan.decoding &= decoding;
    }
    if (in->row) qsort(plan.member, in->B, sizeof *plan.member, by_blocks);
    plan_units(&plan, in, s);
    return plan;
}

// Tasks are done from the last one to the first.
static void forward_task(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const Plan *plan, size_t task,
                         size_t split, real *space) {
    size_t part = task % split, group = s->H / s->KV, g = task / split % s->KV;
    const Unit *u = &plan->unit[task / split / s->KV];
    const Member *m = &plan->member[u->first];
    ForwardTask t = {.q = m->q, .b = m->b, .g = g};
    if (task >= split) {
        size_t next = task / split - 1;
        const Member *after = &plan->member[plan->unit[next / s->KV].first];
        t.next = memory_of(&in->view, &after->q, after->b, next % s->KV);
    }
    // Where others keep the threads busy, a few queries of all heads read the keys together: once.
    size_t parts = m->decoding && plan->units * s->KV >= (size_t)omp_get_num_threads() ? 1 : split;
    if (part >= parts) return;
    t.h = g * group + group * part / parts, t.heads = g * group + group * (part + 1) / parts - t.h;
    if (m->decoding) forward_decoding(o, in, s, &t, m, u->rows, space);
    else forward_packed(o, in, s, &t, space);
}

// For --profile: pairs of a query and a key that are computed, those seen, numbers read and written.
typedef struct { size_t pairs, seen, numbers; } Counted;
static Counted count_forward(const AttnOutput *o, const AttnInput *in, const AttnShape *s, const Plan *plan) {
    Counted c = {0, 0, 0};
    size_t both = in->view.k == in->view.v ? s->D : s->D + s->Dv;          // a latent is both
    double each = in->view.packed.unpack ? in->view.packed.numbers : (double)both;
    for (size_t b = 0; b < in->B; b++) {
        size_t n = in->row ? in->row[b].n : in->n, L = in->row ? in->row[b].length : in->view.length;
        size_t seen = s->H * (pairs_seen(s, L) - pairs_seen(s, L - n));
        size_t pairs = s->kernel == ATTENTION_naive ? s->H * n * L : seen;
        c.pairs += pairs, c.seen += seen;
        c.numbers += n * s->H * (s->D + s->Dv) + (size_t)((double)((L - first_seen(s, L - n)) * s->KV) * each);
        if (o->probability) c.numbers += pairs;
    }
    c.numbers -= (size_t)((double)(plan->shared * s->KV) * each);
    return c;
}

// Whether all threads go through one text after the other: where there are fewer heads than threads, and these are long
// enough for the barriers.
static bool by_all(const Plan *plan, const AttnInput *in, const AttnShape *s, size_t threads) {
    enum { FROM = 1 << 20 };
    size_t heads = plan->units * s->KV;
    return plan->decoding && heads < threads && plan->units == in->B && s->tile * threads <= STRETCH &&
           plan->work / heads > FROM && s->Dv > HALF;
}

void attention_forward(AttnOutput o, AttnInput in, AttnShape s) {
    Plan plan = plan_of(&o, &in, &s);
    Counted c = profile_on ? count_forward(&o, &in, &s, &plan) : (Counted){0, 0, 0};
    PROFILE(attention_forward, c.pairs * 2 * (s.D + s.Dv) + c.seen * (PROFILE_EXP + (s.slope ? 8 : 4)), c.numbers);
    size_t group = s.H / s.KV, threads = (size_t)omp_get_max_threads(), heads = in.row ? s.KV : in.B * s.KV;
    // With few key heads (decoding, or a latent shared by all heads) the queries of one are shared out too.
    size_t split = heads < threads ? smaller(group, (threads + heads - 1) / heads) : 1;
    size_t tasks = plan.units * s.KV * split;
    bool together = by_all(&plan, &in, &s, threads);
    size_t shared = together ? shared_space(&s).each + plan.each : 0;
    real *space = workspace_take(&workspace, size_mul(plan.each, threads) + shared);
    // Rows differ in length: the last ones, which read prompts, come first, and threads take one task after another; or
    // where none reads a prompt, a few that follow one another, so that each can prefetch the beginning of the next.
    size_t few = smaller(tasks / (4 * threads), 8), least = (s.KV * split + threads - 1) / threads;
    size_t at_once = !in.row ? (tasks + threads - 1) / threads : !plan.decoding ? 1 : few > least ? few : least;
#pragma omp parallel if (plan.work > PARALLEL_FROM)
    {
        real *own = space + shared + (size_t)omp_get_thread_num() * plan.each;
        for (size_t i = 0; i < plan.units * s.KV && together; i++) {
            const Member *m = &plan.member[i / s.KV];
            ForwardTask t = {.q = m->q, .b = m->b, .g = i % s.KV, .h = i % s.KV * group, .heads = group};
            forward_by_all(&o, &in, &s, &t, m, space, own);
        }
#pragma omp for schedule(dynamic, at_once) nowait
        for (size_t i = 0; i < (together ? 0 : tasks); i++)
            forward_task(&o, &in, &s, &plan, tasks - 1 - i, split, own);
    }
    free(plan.member), free(plan.unit);
}

// ---- backward ------------------------------------------------------------------------------------
// With P = softmax(scale Q K^T), O = P V:   dV = P^T dO,  dP = dO V^T,  dS = scale P (dP - rowsum(dO O)),
// dQ = dS K,  dK = dS^T Q   (Dao et al. 2022, appendix B.2).

typedef struct {
    real *dq, *dk, *dv;
    const real *q, *dout, *out; size_t q_stride, out_stride;
    const real *lse, *probability;
    const real *keys_t, *keys, *values_t;     // packed [D,T], [T,D], [Dv,T]: the same for all heads of a group
    real *queries, *douts;                    // packed [T,D], [T,Dv] of this head
    size_t k_stride, v_stride, T;
    real slope;
} HeadGradient;

// From dP to dS in place: x = p (x - delta) scale.
static void score_gradient(real *x, const real *p, size_t n, real delta, real scale) {
    vec d = vec_set(delta), by = vec_set(scale);
    for (size_t i = 0; i < n; i += LANES)
        vec_store_at(x, i, n, vec_mul(vec_mul(vec_load_at(p, i, n), vec_sub(vec_load_at(x, i, n), d)), by));
}

// The tile of `rows` queries from i and `keys` keys from j, with its P and dS (row stride ld). first: of these queries.
static void tile_backward(const HeadGradient *t, const AttnShape *s, const real *p, const real *ds, size_t ld, size_t i,
                          size_t rows, size_t j, size_t keys, bool first) {
    multiply(t->dv + j * t->v_stride, t->v_stride, p, 1, ld, t->douts, t->T, i, keys, s->Dv, rows, true);
    multiply(t->dk + j * t->k_stride, t->k_stride, ds, 1, ld, t->queries, t->T, i, keys, s->D, rows, true);
    multiply(t->dq + i * t->q_stride, t->q_stride, ds, ld, 1, t->keys, t->T, j, rows, s->D, keys, !first);
}

// The same for flash, from the scores on; delta: rowsum(dO O) of these queries.
static void tile_backward_flash(const HeadGradient *t, const AttnShape *s, real *p, real *ds, const real *delta,
                                size_t i, size_t rows, size_t j, size_t keys, bool first) {
    size_t width = s->tile;
    multiply(p, width, t->q + i * t->q_stride, t->q_stride, 1, t->keys_t + j * s->D, s->D, 0, rows, keys, s->D, false);
    multiply(ds, width, t->dout + i * t->out_stride, t->out_stride, 1, t->values_t + j * s->Dv, s->Dv, 0, rows, keys,
             s->Dv, false);
    for (size_t r = 0; r < rows; r++) {
        Span seen = span_seen(s, i + r, j, keys);
        real scale = seen.to ? row_alibi(p + r * width, seen.to, (real)s->scale, t->slope, i + r - j) : 0;
        row_exp(p + r * width, seen, keys, scale, t->lse[i + r]);
        score_gradient(ds + r * width, p + r * width, keys, delta[r], (real)s->scale);
    }
    tile_backward(t, s, p, ds, width, i, rows, j, keys, first);
}

// scratch: P and dS of one tile. Queries go by in order, so dV and dK add up over queries in order, many at a time, so
// that these sums are read and written seldom; few where the mask cuts through the tile.
static void head_backward_flash(const HeadGradient *t, const AttnShape *s, real *p, real *ds) {
    for (size_t i = 0; i < t->T; i += QUERIES_BACKWARD) {
        size_t rows = smaller(QUERIES_BACKWARD, t->T - i), start = first_seen(s, i) / s->tile * s->tile;
        real delta[QUERIES_BACKWARD];
        for (size_t r = 0; r < rows; r++)
            delta[r] = row_dot(t->dout + (i + r) * t->out_stride, t->out + (i + r) * t->out_stride, s->Dv);
        for (size_t j = start; j < i + rows; j += s->tile) {
            for (size_t r = 0, some; r < rows; r += some) {
                some = j + s->tile <= i + r ? rows - r : smaller(QUERY_TILE, rows - r);
                size_t end = i + r + some;
                if (j < end)
                    tile_backward_flash(t, s, p, ds, delta + r, i + r, some, j, smaller(s->tile, end - j), j == start);
            }
        }
    }
}

static void head_backward_matrix(const HeadGradient *t, const AttnShape *s, real *ds) {
    size_t T = t->T;
    for (size_t i = 0; i < T; i += QUERY_TILE) {
        size_t rows = smaller(QUERY_TILE, T - i);
        Band band = band_of(s, i, rows, T);
        multiply(ds + i * T + band.start, T, t->dout + i * t->out_stride, t->out_stride, 1,
                 t->values_t + band.start * s->Dv, s->Dv, 0, rows, band.keys, s->Dv, false);
    }
    for (size_t i = 0; i < T; i++) {
        real delta = row_dot(t->dout + i * t->out_stride, t->out + i * t->out_stride, s->Dv);
        size_t first = i / QUERY_TILE * QUERY_TILE;
        Band band = band_of(s, first, smaller(QUERY_TILE, T - first), T);
        score_gradient(ds + i * T + band.start, t->probability + i * T + band.start, band.keys, delta, (real)s->scale);
    }
    for (size_t i = 0; i < T; i += QUERY_TILE) {
        size_t rows = smaller(QUERY_TILE, T - i);
        Band band = band_of(s, i, rows, T);
        size_t at = i * T + band.start;
        tile_backward(t, s, t->probability + at, ds + at, T, i, rows, band.start, band.keys, true);
    }
}

// What a thread needs, in numbers: keys, values, queries and gradients of outputs, packed, and scores.
typedef struct { size_t keys_t, keys, values_t, values, each; } BackwardSpace;
static BackwardSpace backward_space(size_t T, AttnShape s) {
    BackwardSpace b = {packed_size(s.D, T), packed_size(T, s.D), packed_size(s.Dv, T), packed_size(T, s.Dv), 0};
    size_t scores = s.kernel == ATTENTION_flash ? 2 * QUERIES_BACKWARD * s.tile : size_mul(T, T);
    b.each = b.keys_t + 2 * b.keys + b.values_t + b.values + scores;
    return b;
}

size_t attention_workspace(size_t T, AttnShape s) {
    size_t forward = forward_space(T, T, false, &s).each, backward = backward_space(T, s).each;
    return size_mul(forward > backward ? forward : backward, (size_t)omp_get_max_threads());
}

// A task is one key head of one sequence with all the query heads that read it.
static void backward_task(const AttnGradient *d, const real *dout, const AttnOutput *o, const AttnInput *in,
                          const AttnShape *s, size_t task, BackwardSpace need, real *keys_t) {
    size_t b = task / s->KV, g = task % s->KV, group = s->H / s->KV, T = in->n;
    const KvView *view = &in->view;
    const real *k = view->k + b * view->k_step + g * view->k_head, *v = view->v + b * view->v_step + g * view->v_head;
    real *dk = d->dk + (k - view->k), *dv = d->dv + (v - view->v);
    real *keys = keys_t + need.keys_t, *values_t = keys + need.keys, *queries = values_t + need.values_t;
    real *douts = queries + need.keys, *score = douts + need.values;
    pack(keys_t, k, 1, view->k_stride, s->D, T);
    pack(keys, k, view->k_stride, 1, T, s->D);
    pack(values_t, v, 1, view->v_stride, s->Dv, T);
    for (size_t j = 0; j < T; j++) {
        memset(dk + j * view->k_stride, 0, s->D * sizeof *dk);
        memset(dv + j * view->v_stride, 0, s->Dv * sizeof *dv);
    }
    for (size_t h = g * group; h < (g + 1) * group; h++) {
        size_t query = b * T * in->q_stride + h * s->D, output = b * T * o->out_stride + h * s->Dv;
        pack(queries, in->q + query, in->q_stride, 1, T, s->D);
        pack(douts, dout + output, o->out_stride, 1, T, s->Dv);
        HeadGradient t = {.dq = d->dq + query, .dk = dk, .dv = dv, .q = in->q + query, .dout = dout + output,
                          .out = o->out + output, .q_stride = in->q_stride, .out_stride = o->out_stride,
                          .k_stride = view->k_stride, .v_stride = view->v_stride,
                          .lse = o->lse ? o->lse + (b * s->H + h) * T : NULL,
                          .probability = o->probability ? o->probability + (b * s->H + h) * T * T : NULL,
                          .keys_t = keys_t, .keys = keys, .values_t = values_t, .queries = queries, .douts = douts,
                          .T = T, .slope = s->slope ? s->slope[h] : 0};
        if (s->kernel == ATTENTION_flash) head_backward_flash(&t, s, score, score + QUERIES_BACKWARD * s->tile);
        else head_backward_matrix(&t, s, score);
    }
}

void attention_backward(AttnGradient d, const real *dout, AttnOutput o, AttnInput in, AttnShape s) {
    bool flash = s.kernel == ATTENTION_flash;
    size_t B = in.B, T = in.n, pairs = B * s.H * (s.kernel == ATTENTION_naive ? T * T : pairs_seen(&s, T));
    size_t recomputed = flash ? 2 * s.D + PROFILE_EXP + (s.slope ? 7 : 3) : 0;          // the scores
    PROFILE(attention_backward, pairs * (4 * (s.D + s.Dv) + 3 + recomputed),
            B * T * (2 * s.H * (s.D + s.Dv) + 2 * s.KV * (s.D + s.Dv)) + (flash ? 0 : pairs));
    BackwardSpace need = backward_space(T, s);
    real *space = workspace_take(&workspace, size_mul(need.each, (size_t)omp_get_max_threads()));
#pragma omp parallel for schedule(static) if (B * T * T * s.H * s.D > PARALLEL_FROM)
    for (size_t task = 0; task < B * s.KV; task++)
        backward_task(&d, dout, &o, &in, &s, task, need, space + (size_t)omp_get_thread_num() * need.each);
}

// ---- ALiBi ---------------------------------------------------------------------------------------

// For a power of two, 2^(-8/H), 2^(-16/H), ..., 2^-8; else those of the power below, then every other one of the power
// above, from its first on (Press et al. 2022, section 3 and the authors' code).
void alibi_slopes(real *slope, size_t H) {
    size_t power = 1;
    while (2 * power <= H) power *= 2;
    for (size_t h = 0; h < H; h++) {
        double eights = (double)(h + 1) / (double)power;
        if (h >= power) eights = (double)(2 * (h - power) + 1) / (double)(2 * power);
        slope[h] = (real)num_pow(2, -8 * eights);
    }
}

// ---- the reference -------------------------------------------------------------------------------

void attention_forward_naive(AttnOutput to, AttnInput in, AttnShape s) {
    KvView view = in.view;
    for (size_t b = 0; b < in.B; b++)
        for (size_t h = 0; h < s.H; h++)
            for (size_t i = 0; i < in.n; i++) {
                size_t g = h / (s.H / s.KV), p = view.length - in.n + i;
                const real *k = view.k + b * view.k_step + g * view.k_head;
                const real *v = view.v + b * view.v_step + g * view.v_head;
                const real *x = in.q + (b * in.n + i) * in.q_stride + h * s.D;
                real *o = to.out + (b * in.n + i) * to.out_stride + h * s.Dv;
                double total = 0;
                for (size_t e = 0; e < s.Dv; e++) o[e] = 0;
                for (size_t j = first_seen(&s, p); j <= p; j++) {
                    double score = 0;
                    for (size_t d = 0; d < s.D; d++) score += (double)x[d] * (double)k[j * view.k_stride + d];
                    double weight = exp(score * s.scale - (s.slope ? (double)s.slope[h] * (double)(p - j) : 0));
                    total += weight;
                    for (size_t e = 0; e < s.Dv; e++) o[e] += (real)weight * v[j * view.v_stride + e];
                }
                for (size_t e = 0; e < s.Dv; e++) o[e] /= (real)total;
            }
}

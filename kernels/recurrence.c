// recurrence.c: linear attention and the delta rules, in the chunked form (Hua et al. 2022; Yang et al. 2023 and
// 2024) beside the recurrence that it equals. A chunk of n tokens that starts from the state S:
//     out = (Q * from) S + mask(Q K^T) U,      U = V, or row by row b_i v_i
//     delta rule: U solves a triangular system, row by row: u_i = b_i x_i with
//                 x_i = v_i - (from_i k_i)^T S - sum_{j<i} m_ij (k_i.k_j) u_j
//                 (the UT transform of Yang et al. 2024, without forming the inverse)
//     S <- Diag(from_n) S + (K * until)^T U
// from_i is the decay from the chunk's start to token i, until_j from token j to its end, m_ij from j to i. They are
// running products of the decays themselves: no logarithm, no exponential, nothing that could overflow.
//
// Scores decayed per key dimension are no matrix product; lanes follow the keys of a chunk instead, which therefore
// has as many tokens as a vector has lanes. Everything else is matrix products, in the thread that owns the head.
#include "kernels/recurrence.h"
#include "kernels/matmul.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <omp.h>
#include <math.h>
#include <stdlib.h>

enum { CHUNK = 32 };

static size_t recurrence_chunk(RecurrenceShape s) { return s.decay_per_key ? LANES : CHUNK; }
// Decays per token and head.
static size_t decay_width(RecurrenceShape s) { return s.decay_per_key ? s.D : s.has_decay ? 1 : 0; }
static bool has_beta(RecurrenceShape s) { return s.delta || s.has_step; }
static size_t chunks(size_t T, RecurrenceShape s) { return (T + recurrence_chunk(s) - 1) / recurrence_chunk(s); }

// What is cached of a head: the state in panels of 32 columns (matmul.h), then of each token since the border k, u and
// decay.
static size_t remembered_token(RecurrenceShape s) { return s.D + s.Dv + decay_width(s); }
static size_t head_memory(RecurrenceShape s) {
    return packed_size(s.D, s.Dv) + (recurrence_chunk(s) - 1) * remembered_token(s);
}
size_t recurrence_state_size(RecurrenceShape s) { return s.H * head_memory(s); }
size_t recurrence_states_size(size_t B, size_t T, RecurrenceShape s) {
    return size_mul(size_mul(B * s.H, chunks(T, s)), packed_size(s.D, s.Dv));
}

// ---- one chunk of one head -----------------------------------------------------------------------

// Rows of tokens are padded with zeros: of keys to Dp, of values to Dvp numbers. Two readers multiply the state and the
// keys: the queries (rows 0..len-1 of `read`) and, in a delta rule, the keys themselves (rows len..2 len-1).
typedef struct {
    RecurrenceShape s;
    size_t len, Dp, Dvp, readers;
    size_t first, n;             // tokens first..n-1 of the chunk are new
    real *state;                 // [D,Dv] in panels, at the chunk's start
    real *read, *from_read;      // [2 len,Dp]; from_read: times the decay from the start
    real *write;                 // [len,Dp] keys times the decay until the end
    real *x, *u;                 // [len,Dvp] with beta u = beta x, else only u = v
    real *beta, *decay, *from;   // [len]; [len] or [len,Dp]
    real *mask, *score;          // [len,len]; [2 len,len]
    real *lane;                  // [2,Dp,16] keys on their way to a query, and where they start
    real *packed;                // a buffer for any packed operand
    // The backward: as the above; dout [2 len,Dvp], dlog [len,Dp], dlog_state [Dp].
    real *dread, *dwrite, *du, *dscore, *dout, *dlog, *dstate, *dlog_state;
} Chunk;

static size_t chunk_layout(Chunk *t, RecurrenceShape s, real *at, bool backward) {
    size_t len = recurrence_chunk(s), Dp = round_up(s.D, LANES), Dvp = round_up(s.Dv, PANEL), used = 0;
    *t = (Chunk){.s = s, .len = len, .Dp = Dp, .Dvp = Dvp, .readers = s.delta ? 2 : 1};
    size_t rows = 2 * len > s.D ? 2 * len : s.D, wide = round_up(s.D > s.Dv ? s.D : s.Dv, PANEL);
    const struct { real **field; size_t numbers; } parts[] = {
        {&t->state, s.D * Dvp}, {&t->read, 2 * len * Dp}, {&t->from_read, 2 * len * Dp}, {&t->write, len * Dp},
        {&t->x, len * Dvp}, {&t->u, len * Dvp}, {&t->beta, len}, {&t->decay, len * Dp}, {&t->from, len * Dp},
        {&t->mask, len * len}, {&t->score, 2 * len * len}, {&t->lane, 2 * Dp * LANES},
        {&t->packed, (rows > PANEL ? rows : PANEL) * wide},
        {&t->dread, 2 * len * Dp}, {&t->dwrite, len * Dp}, {&t->du, len * Dvp}, {&t->dscore, 2 * len * len},
        {&t->dout, 2 * len * Dvp}, {&t->dlog, len * Dp}, {&t->dstate, s.D * Dvp}, {&t->dlog_state, Dp}};
    for (size_t i = 0; i < (backward ? 21 : 13); i++) {
        *parts[i].field = at ? at + used : NULL;
        used += round_up(parts[i].numbers, LANES);
    }
    return used;
}

// A chunk for every thread, in memory that forward and backward share; the backward's is the larger one.
static Workspace workspace;
static size_t chunks_size(RecurrenceShape s, bool backward) {
    Chunk any;
    return chunk_layout(&any, s, NULL, backward) * (size_t)omp_get_max_threads();
}
static Chunk chunk_of_thread(RecurrenceShape s, bool backward) {
    Chunk t;
    size_t each = chunk_layout(&t, s, NULL, backward);
    chunk_layout(&t, s, workspace.at + (size_t)omp_get_thread_num() * each, backward);
    return t;
}
size_t recurrence_workspace(RecurrenceShape s) { return chunks_size(s, true); }

static void multiply(real *c, size_t ldc, const real *a, size_t a_row, size_t a_col, const real *packed, size_t M,
                     size_t N, size_t K, bool accumulate) {
    product_serial(&(Product){.c = c, .ldc = ldc, .a = a, .a_row = a_row, .a_col = a_col, .packed = packed,
                              .M = M, .N = N, .K = K, .accumulate = accumulate});
}

// rows [n,D] (stride Dp) = or += values [n,Dv] (stride Dvp) times the transpose of a state in panels.
static void times_state_transposed(const Chunk *t, real *rows, const real *values, const real *state, size_t n) {
    for (size_t p = 0; p < t->s.Dv; p += PANEL) {
        size_t columns = smaller(PANEL, t->s.Dv - p);
        pack(t->packed, state + p * t->s.D, 1, PANEL, columns, t->s.D);
        multiply(rows, t->Dp, values + p, t->Dvp, 1, t->packed, n, t->s.D, columns, p > 0);
    }
}

// state [D,Dv] in panels += rows [n,D]^T values [n,Dv].
static void add_to_state(const Chunk *t, real *state, const real *rows, const real *values, size_t n) {
    pack(t->packed, values, t->Dvp, 1, n, t->s.Dv);
    for (size_t p = 0; p < t->s.Dv; p += PANEL)
        multiply(state + p * t->s.D, PANEL, rows, 1, t->Dp, t->packed + p * n, t->s.D, smaller(PANEL, t->s.Dv - p), n,
                 true);
}

static void copy_padded(real *to, const real *from, size_t n, size_t width) {
    memcpy(to, from, n * sizeof *to);
    memset(to + n, 0, (width - n) * sizeof *to);
}

// Tokens first..n-1 of the chunk are rows from `row` on.
static void load_tokens(Chunk *t, const RecurrenceInput *in, size_t row, size_t h) {
    const RecurrenceShape *s = &t->s;
    for (size_t i = t->first; i < t->n; i++, row++) {
        copy_padded(t->read + i * t->Dp, in->q + row * in->q_stride + h * s->D, s->D, t->Dp);
        copy_padded(t->read + (t->len + i) * t->Dp, in->k + row * in->k_stride + h * s->D, s->D, t->Dp);
        copy_padded((has_beta(*s) ? t->x : t->u) + i * t->Dvp, in->v + row * in->v_stride + h * s->Dv, s->Dv, t->Dvp);
        if (has_beta(*s)) t->beta[i] = in->beta[row * s->H + h];
        if (s->decay_per_key) copy_padded(t->decay + i * t->Dp, in->decay + (row * s->H + h) * s->D, s->D, t->Dp);
        else t->decay[i] = s->has_decay ? in->decay[row * s->H + h] : 1;
    }
}

// The tokens before `first`, that a cache has kept behind the state; and those that it has to keep.
static void recall_tokens(Chunk *t, const real *kept) {
    const RecurrenceShape *s = &t->s;
    for (size_t i = 0; i < t->first; i++, kept += remembered_token(*s)) {
        copy_padded(t->read + (t->len + i) * t->Dp, kept, s->D, t->Dp);
        copy_padded(t->u + i * t->Dvp, kept + s->D, s->Dv, t->Dvp);
        if (s->decay_per_key) copy_padded(t->decay + i * t->Dp, kept + s->D + s->Dv, s->D, t->Dp);
        else t->decay[i] = s->has_decay ? kept[s->D + s->Dv] : 1;
    }
}
static void keep_tokens(const Chunk *t, real *kept) {
    const RecurrenceShape *s = &t->s;
    kept += t->first * remembered_token(*s);
    for (size_t i = t->first; i < t->n; i++, kept += remembered_token(*s)) {
        memcpy(kept, t->read + (t->len + i) * t->Dp, s->D * sizeof *kept);
        memcpy(kept + s->D, t->u + i * t->Dvp, s->Dv * sizeof *kept);
        memcpy(kept + s->D + s->Dv, t->decay + i * (s->decay_per_key ? t->Dp : 1), decay_width(*s) * sizeof *kept);
    }
}

// ---- decays --------------------------------------------------------------------------------------

static void multiply_row(real *y, const real *x, const real *by, size_t n) {
    for (size_t i = 0; i < n; i += LANES) vec_store(y + i, vec_mul(vec_load(x + i), vec_load(by + i)));
}

// rows i of x [.,Dp] times the decay from the start to token i.
static void decay_from_start(const Chunk *t, real *y, const real *x, size_t first) {
    for (size_t i = first; i < t->n; i++) {
        if (t->s.decay_per_key) multiply_row(y + i * t->Dp, x + i * t->Dp, t->from + i * t->Dp, t->Dp);
        else row_scale(y + i * t->Dp, x + i * t->Dp, t->from[i], t->Dp);
    }
}

// rows j of x [n,Dp] times the decay from token j to the end.
static void decay_until_end(const Chunk *t, real *y, const real *x) {
    const real *last = t->mask + (t->n - 1) * t->len;
    if (!t->s.decay_per_key) {
        for (size_t j = 0; j < t->n; j++) row_scale(y + j * t->Dp, x + j * t->Dp, last[j], t->Dp);
        return;
    }
    for (size_t d = 0; d < t->Dp; d += LANES) {
        vec until = vec_set(1);
        for (size_t j = t->n; j-- > 0;) {
            vec_store(y + j * t->Dp + d, vec_mul(vec_load(x + j * t->Dp + d), until));
            until = vec_mul(until, vec_load(t->decay + j * t->Dp + d));
        }
    }
}

// state row d times the decay of the whole chunk.
static void decay_state(const Chunk *t, real *state) {
    const real *whole = t->from + (t->n - 1) * (t->s.decay_per_key ? t->Dp : 1);
    for (size_t p = 0; p < t->Dvp && t->s.has_decay; p += PANEL)
        for (size_t d = 0; d < t->s.D; d++) {
            real *row = state + p * t->s.D + d * PANEL;
            row_scale(row, row, whole[t->s.decay_per_key ? d : 0], PANEL);
        }
}

// from, and with one decay per head mask_ij = decay_{j+1} ... decay_i for j <= i, else 0.
static void prepare_decays(Chunk *t) {
    size_t len = t->len, Dp = t->Dp;
    for (size_t i = 0; i < t->n; i++) {
        if (t->s.decay_per_key) {
            if (i) multiply_row(t->from + i * Dp, t->from + (i - 1) * Dp, t->decay + i * Dp, Dp);
            else memcpy(t->from, t->decay, Dp * sizeof *t->from);
            continue;
        }
        t->from[i] = i ? t->from[i - 1] * t->decay[i] : t->decay[0];
        if (i) row_scale(t->mask + i * len, t->mask + (i - 1) * len, t->decay[i], len);
        else memset(t->mask, 0, len * sizeof *t->mask);
        t->mask[i * len + i] = 1;
    }
}

// ---- scores --------------------------------------------------------------------------------------

// Scores of both readers with all keys; the delta rule reads only those below the diagonal of its own.
static void scores_of_products(Chunk *t) {
    size_t len = t->len, rows = t->n - t->first;
    pack(t->packed, t->read + len * t->Dp, 1, t->Dp, t->s.D, t->n);
    for (size_t r = 0; r < t->readers; r++) {
        real *score = t->score + (r * len + t->first) * len;
        multiply(score, len, t->read + (r * len + t->first) * t->Dp, t->Dp, 1, t->packed, rows, t->n, t->s.D, false);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < len; j += LANES) {
                vec kept = j < t->n ? vec_load_at(score + i * len + j, 0, smaller(LANES, t->n - j)) : vec_zero();
                vec_store(score + i * len + j, vec_mul(kept, vec_load(t->mask + (t->first + i) * len + j)));
            }
    }
}

// score_ij = sum_d q_id k_jd decay_{j+1,d} ... decay_{i,d}. Lane j of each dimension carries key j from token to token,
// decayed at each; the query of a token meets it there.
static void scores_per_key(Chunk *t) {
    real *carried = t->lane, *start = t->lane + t->Dp * LANES;
    memset(t->lane, 0, 2 * t->Dp * LANES * sizeof *t->lane);
    for (size_t j = 0; j < t->n; j++)
        for (size_t d = 0; d < t->s.D; d++) start[d * LANES + j] = t->read[(t->len + j) * t->Dp + d];
    for (size_t i = 0; i < t->n; i++) {
        const real *q = t->read + i * t->Dp, *decay = t->decay + i * t->Dp;
        real only[LANES] = {0};
        only[i] = 1;
        vec begins = vec_load(only), sum = vec_zero();
        for (size_t d = 0; d < t->s.D; d++) {
            vec k = vec_fma(vec_load(start + d * LANES), begins,
                            vec_mul(vec_load(carried + d * LANES), vec_set(decay[d])));
            vec_store(carried + d * LANES, k);
            if (i >= t->first) sum = vec_fma(vec_set(q[d]), k, sum);
        }
        if (i >= t->first) vec_store(t->score + i * t->len, sum);
    }
}

// ---- forward -------------------------------------------------------------------------------------

// u = beta x; in a delta rule the triangular system, column by column, so that each row is one chain over j.
static void solve(Chunk *t) {
    for (size_t j = 0; j < t->n; j++) {
        real *u = t->u + j * t->Dvp;
        if (j >= t->first) row_scale(u, t->x + j * t->Dvp, t->beta[j], t->Dvp);
        for (size_t i = j + 1 > t->first ? j + 1 : t->first; t->s.delta && i < t->n; i++) {
            real *x = t->x + i * t->Dvp;
            vec score = vec_set(-t->score[(t->len + i) * t->len + j]);
            for (size_t d = 0; d < t->Dvp; d += LANES)
                vec_store(x + d, vec_fma(score, vec_load(u + d), vec_load(x + d)));
        }
    }
}

// From the state and the tokens: decays, scores, u.
static void chunk_prepare(Chunk *t) {
    size_t rows = t->n - t->first, at = (t->len + t->first) * t->Dp;
    prepare_decays(t);
    if (t->s.decay_per_key) scores_per_key(t);
    else scores_of_products(t);
    for (size_t r = 0; r < t->readers; r++)
        decay_from_start(t, t->from_read + r * t->len * t->Dp, t->read + r * t->len * t->Dp, t->first);
    for (size_t i = at; t->s.delta && i < at + rows * t->Dp; i += LANES)
        vec_store(t->from_read + i, vec_sub(vec_zero(), vec_load(t->from_read + i)));
    if (t->s.delta)                                                // x = v - from_read S, by adding the negative
        multiply(t->x + t->first * t->Dvp, t->Dvp, t->from_read + at, t->Dp, 1, t->state, rows, t->s.Dv, t->s.D, true);
    if (has_beta(t->s)) solve(t);
}

static void chunk_forward(Chunk *t, real *out, size_t out_stride) {
    size_t rows = t->n - t->first, len = t->len;
    chunk_prepare(t);
    multiply(out, out_stride, t->from_read + t->first * t->Dp, t->Dp, 1, t->state, rows, t->s.Dv, t->s.D, false);
    pack(t->packed, t->u, t->Dvp, 1, t->n, t->s.Dv);
    multiply(out, out_stride, t->score + t->first * len, len, 1, t->packed, rows, t->s.Dv, t->n, true);
}

static void chunk_end(Chunk *t) {
    decay_until_end(t, t->write, t->read + t->len * t->Dp);
    decay_state(t, t->state);
    add_to_state(t, t->state, t->write, t->u, t->n);
}

// All chunks of head h of sequence b.
static void head_forward(Chunk *t, real *out, real *states, const RecurrenceInput *in, size_t b, size_t h, size_t T,
                         RecurrenceState memory) {
    const RecurrenceShape *s = &t->s;
    size_t size = packed_size(s->D, s->Dv), out_stride = s->H * s->Dv;
    real *kept = memory.at ? memory.at + b * memory.step + h * head_memory(*s) + size : NULL;
    if (kept) t->state = kept - size;
    else memset(t->state, 0, size * sizeof *t->state);
    t->first = memory.at ? memory.past % t->len : 0;
    if (t->first) recall_tokens(t, kept);
    for (size_t at = 0; at < T; t->first = 0) {
        size_t row = b * T + at;
        t->n = smaller(t->len, t->first + T - at);
        load_tokens(t, in, row, h);
        if (states) memcpy(states + at / t->len * size, t->state, size * sizeof *states);
        chunk_forward(t, out + row * out_stride + h * s->Dv, out_stride);
        if (t->n == t->len) chunk_end(t);
        else if (kept) keep_tokens(t, kept);
        at += t->n - t->first;
    }
}

// Additions and multiplications of the chunked form: pairs of a query and a key that it sees, and the products with
// the state; without masked scores, decays, and what the backward computes again.
static double recurrence_flops(size_t B, size_t T, RecurrenceShape s, bool backward) {
    double sum = 0, state = (double)(s.D * s.Dv), both = (double)(s.D + s.Dv);
    for (size_t at = 0, len = recurrence_chunk(s); at < T; at += len) {
        double n = (double)smaller(len, T - at), pairs = n * (n + 1) / 2, below = n * (n - 1) / 2;
        double products = 2 * n * state * (2 + s.delta);             // read (twice in a delta rule), write
        double seen = 2 * both * (pairs + (s.delta ? below : 0));
        sum += backward ? 2 * (products + seen) : products + seen;
    }
    return sum * (double)(B * s.H);
}

void recurrence_forward(real *out, real *states, const RecurrenceInput *in, size_t B, size_t T, RecurrenceState memory,
                        RecurrenceShape s) {
    size_t token = 2 * s.D + 2 * s.Dv + has_beta(s) + decay_width(s);
    size_t kept = (states ? chunks(T, s) : memory.at ? 1 : 0) * s.D * s.Dv;
    PROFILE(recurrence_forward, recurrence_flops(B, T, s, false), B * s.H * (T * token + kept));
    size_t heads = B * s.H, size = chunks(T, s) * packed_size(s.D, s.Dv);
    workspace_take(&workspace, chunks_size(s, false));
#pragma omp parallel for schedule(static) if (heads * T * s.D * s.Dv > PARALLEL_FROM)
    for (size_t i = 0; i < heads; i++) {
        Chunk t = chunk_of_thread(s, false);
        head_forward(&t, out, states ? states + i * size : NULL, in, i / s.H, i % s.H, T, memory);
    }
}

// ---- backward ------------------------------------------------------------------------------------
// For each reader r (queries with dO, and in a delta rule keys with -dX, as x = v - ...), with D = mask(dO_r U^T):
//     d reader_r = from * (dO_r S^T) + (D_r * decays) K         dK = until * (U dS^T) + sum_r (D_r * decays)^T reader_r
//     dS <- Diag(from_n) dS + sum_r (reader_r * from)^T dO_r
//     dU = mask(Q K^T)^T dO + (K * until) dS, then the triangular system the other way round.
// With G_i the sum of the logarithms of the decays up to token i, every term has exp(G_i) from its reader and exp(-G_j)
// from its key, so dG_i = reader_i . d reader_i - k_i . dK_i (Yang et al. 2023); the last one also moves the next
// state.

// D = mask(dO_r U^T) times decays, then both gradients of the scores.
static void scores_backward_products(Chunk *t) {
    size_t len = t->len, n = t->n, D = t->s.D;
    pack(t->packed, t->u, 1, t->Dvp, t->s.Dv, n);
    for (size_t r = 0; r < t->readers; r++) {
        real *d = t->dscore + r * len * len;
        multiply(d, len, t->dout + r * len * t->Dvp, t->Dvp, 1, t->packed, n, n, t->s.Dv, false);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j += LANES)
                vec_store_at(d + i * len, j, n,
                             vec_mul(vec_load_at(d + i * len, j, n), vec_load(t->mask + i * len + j)));
            if (r) d[i * len + i] = 0;
        }
    }
    pack(t->packed, t->read + len * t->Dp, t->Dp, 1, n, D);
    for (size_t r = 0; r < t->readers; r++)
        multiply(t->dread + r * len * t->Dp, t->Dp, t->dscore + r * len * len, len, 1, t->packed, n, D, n, true);
    for (size_t r = 0; r < t->readers; r++) {
        pack(t->packed, t->read + r * len * t->Dp, t->Dp, 1, n, D);
        multiply(t->dwrite, t->Dp, t->dscore + r * len * len, 1, len, t->packed, n, D, n, true);
    }
}

// The same where each key dimension has its own decay, by Horner's rule along the tokens.
static void scores_backward_per_key(Chunk *t) {
    size_t len = t->len, n = t->n, Dp = t->Dp;
    pack(t->packed, t->u, 1, t->Dvp, t->s.Dv, n);
    multiply(t->dscore, len, t->dout, t->Dvp, 1, t->packed, n, n, t->s.Dv, false);
    for (size_t d = 0; d < Dp; d += LANES)
        for (size_t i = 0; i < n; i++) {
            vec query = vec_zero(), key = vec_zero();
            for (size_t j = 0; j <= i; j++)                        // what query i saw of the keys
                query = vec_fma(vec_set(t->dscore[i * len + j]), vec_load(t->read + (len + j) * Dp + d),
                                vec_mul(query, vec_load(t->decay + j * Dp + d)));
            for (size_t j = n; j-- > i;) {                         // which queries saw key i
                if (j + 1 < n) key = vec_mul(key, vec_load(t->decay + (j + 1) * Dp + d));
                key = vec_fma(vec_set(t->dscore[j * len + i]), vec_load(t->read + j * Dp + d), key);
            }
            vec_store(t->dread + i * Dp + d, vec_add(vec_load(t->dread + i * Dp + d), query));
            vec_store(t->dwrite + i * Dp + d, vec_add(vec_load(t->dwrite + i * Dp + d), key));
        }
}

// du becomes dx = dv; dbeta of each token to `dbeta` (stride H).
static void solve_backward(Chunk *t, real *dbeta, size_t stride) {
    for (size_t j = t->n; j-- > 0;) {
        real *d = t->du + j * t->Dvp;
        dbeta[j * stride] = row_dot(d, t->x + j * t->Dvp, t->Dvp);
        row_scale(d, d, t->beta[j], t->Dvp);
        for (size_t i = 0; t->s.delta && i < j; i++) {
            real *other = t->du + i * t->Dvp;
            vec score = vec_set(-t->score[(t->len + j) * t->len + i]);
            for (size_t c = 0; c < t->Dvp; c += LANES)
                vec_store(other + c, vec_fma(score, vec_load(d + c), vec_load(other + c)));
        }
        if (t->s.delta) row_scale(t->dout + (t->len + j) * t->Dvp, d, -1, t->Dvp);
    }
}

// dlog_state_d = sum_v S_dv dS_dv, with S the state after the chunk: what the last decay does for all that comes later.
static void state_decay_backward(Chunk *t, const real *after) {
    for (size_t d = 0; d < t->Dp; d++) {
        t->dlog_state[d] = 0;
        for (size_t p = 0; after && d < t->s.D && p < t->Dvp; p += PANEL)
            t->dlog_state[d] += row_dot(after + p * t->s.D + d * PANEL, t->dstate + p * t->s.D + d * PANEL, PANEL);
    }
}

// d log decay_i = sum of dG over the tokens i.. of the chunk.
static void decays_backward(Chunk *t) {
    size_t Dp = t->Dp;
    for (size_t d = 0; d < Dp; d += LANES) {
        vec sum = vec_load(t->dlog_state + d);
        for (size_t i = t->n; i-- > 0;) {
            const real *q = t->read + i * Dp + d, *k = q + t->len * Dp;
            const real *dq = t->dread + i * Dp + d, *dk = dq + t->len * Dp;
            vec own = vec_mul(vec_load(q), vec_load(dq));
            if (t->s.delta) own = vec_fma(vec_load(k), vec_load(dk), own);
            sum = vec_add(sum, vec_sub(own, vec_mul(vec_load(k), vec_load(t->dwrite + i * Dp + d))));
            vec_store(t->dlog + i * Dp + d, sum);
        }
    }
}

// dstate: of the state after the chunk on entry (0 where nothing comes after), before it on return.
static void chunk_backward(Chunk *t, real *dbeta, size_t stride, const real *after) {
    size_t len = t->len, n = t->n, D = t->s.D, Dv = t->s.Dv;
    chunk_prepare(t);
    decay_until_end(t, t->write, t->read + len * t->Dp);
    pack(t->packed, t->dout, t->Dvp, 1, n, Dv);
    memset(t->du, 0, len * t->Dvp * sizeof *t->du);
    multiply(t->du, t->Dvp, t->score, 1, len, t->packed, n, Dv, n, false);
    multiply(t->du, t->Dvp, t->write, t->Dp, 1, t->dstate, n, Dv, D, true);
    if (has_beta(t->s)) solve_backward(t, dbeta, stride);
    for (size_t r = 0; r < t->readers; r++) {
        real *d = t->dread + r * len * t->Dp;
        memset(d, 0, len * t->Dp * sizeof *d);
        times_state_transposed(t, d, t->dout + r * len * t->Dvp, t->state, n);
        decay_from_start(t, d, d, 0);
    }
    memset(t->dwrite, 0, len * t->Dp * sizeof *t->dwrite);
    times_state_transposed(t, t->dwrite, t->u, t->dstate, n);
    decay_until_end(t, t->dwrite, t->dwrite);
    if (t->s.decay_per_key) scores_backward_per_key(t);
    else scores_backward_products(t);
    if (t->s.has_decay) state_decay_backward(t, after), decays_backward(t);
    decay_state(t, t->dstate);
    add_to_state(t, t->dstate, t->from_read, t->dout, n);
    // In from_read the keys are negated, as they read with a minus; du = dx is not.
    if (t->s.delta) add_to_state(t, t->dstate, t->from_read + len * t->Dp, t->du, n);
}

static void store_gradients(const Chunk *t, const RecurrenceGradient *g, size_t row, size_t h) {
    const RecurrenceShape *s = &t->s;
    for (size_t i = 0; i < t->n; i++, row++) {
        memcpy(g->q + row * g->q_stride + h * s->D, t->dread + i * t->Dp, s->D * sizeof *g->q);
        real *dk = g->k + row * g->k_stride + h * s->D;
        const real *read = t->dread + (t->len + i) * t->Dp, *write = t->dwrite + i * t->Dp;
        for (size_t d = 0; d < s->D; d++) dk[d] = s->delta ? write[d] + read[d] : write[d];
        memcpy(g->v + row * g->v_stride + h * s->Dv, t->du + i * t->Dvp, s->Dv * sizeof *g->v);
        const real *dlog = t->dlog + i * t->Dp;
        if (s->decay_per_key) {
            memcpy(g->log_decay + (row * s->H + h) * s->D, dlog, s->D * sizeof *dlog);
        } else if (s->has_decay) {
            vec sum = vec_zero();
            for (size_t d = 0; d < t->Dp; d += LANES) sum = vec_add(sum, vec_load(dlog + d));
            g->log_decay[row * s->H + h] = vec_sum(sum);
        }
    }
}

static void head_backward(Chunk *t, const RecurrenceGradient *g, const real *dout, const real *states,
                          const RecurrenceInput *in, size_t b, size_t h, size_t T) {
    const RecurrenceShape *s = &t->s;
    size_t size = packed_size(s->D, s->Dv), count = chunks(T, *s);
    memset(t->dstate, 0, size * sizeof *t->dstate);
    t->first = 0;
    for (size_t c = count; c-- > 0;) {
        size_t row = b * T + c * t->len;
        t->n = smaller(t->len, T - c * t->len);
        load_tokens(t, in, row, h);
        memcpy(t->state, states + c * size, size * sizeof *t->state);
        for (size_t i = 0; i < t->n; i++)
            copy_padded(t->dout + i * t->Dvp, dout + ((row + i) * s->H + h) * s->Dv, s->Dv, t->Dvp);
        chunk_backward(t, has_beta(*s) ? g->beta + row * s->H + h : NULL, s->H,
                       c + 1 < count ? states + (c + 1) * size : NULL);
        store_gradients(t, g, row, h);
    }
}

void recurrence_backward(const RecurrenceGradient *g, const real *dout, const real *states, const RecurrenceInput *in,
                         size_t B, size_t T, RecurrenceShape s) {
    size_t token = 4 * s.D + 3 * s.Dv + 2 * (has_beta(s) + decay_width(s));
    PROFILE(recurrence_backward, recurrence_flops(B, T, s, true), B * s.H * (T * token + chunks(T, s) * s.D * s.Dv));
    size_t heads = B * s.H, size = chunks(T, s) * packed_size(s.D, s.Dv);
    workspace_take(&workspace, chunks_size(s, true));
#pragma omp parallel for schedule(static) if (heads * T * s.D * s.Dv > PARALLEL_FROM)
    for (size_t i = 0; i < heads; i++) {
        Chunk t = chunk_of_thread(s, true);
        head_backward(&t, g, dout, states + i * size, in, i / s.H, i % s.H, T);
    }
}

// ---- the reference -------------------------------------------------------------------------------

// One token of one head: S [D,Dv] row by row.
static void token_naive(real *out, real *S, real *u, const real *q, const real *k, const real *v, const real *decay,
                        real beta, RecurrenceShape s) {
    for (size_t d = 0; d < s.D && s.has_decay; d++)
        for (size_t e = 0; e < s.Dv; e++) S[d * s.Dv + e] *= decay[s.decay_per_key ? d : 0];
    for (size_t e = 0; e < s.Dv; e++) {
        u[e] = v[e];
        for (size_t d = 0; d < s.D && s.delta; d++) u[e] -= S[d * s.Dv + e] * k[d];
        if (has_beta(s)) u[e] *= beta;
        out[e] = 0;
    }
    for (size_t d = 0; d < s.D; d++)
        for (size_t e = 0; e < s.Dv; e++) {
            S[d * s.Dv + e] += k[d] * u[e];
            out[e] += S[d * s.Dv + e] * q[d];
        }
}

void recurrence_forward_naive(real *out, const RecurrenceInput *in, size_t B, size_t T, RecurrenceShape s) {
    real *S = xmalloc((s.D * s.Dv + s.Dv) * sizeof *S);
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < s.H; h++) {
            memset(S, 0, s.D * s.Dv * sizeof *S);
            for (size_t row = b * T; row < (b + 1) * T; row++)
                token_naive(out + (row * s.H + h) * s.Dv, S, S + s.D * s.Dv, in->q + row * in->q_stride + h * s.D,
                            in->k + row * in->k_stride + h * s.D, in->v + row * in->v_stride + h * s.Dv,
                            s.has_decay ? in->decay + (row * s.H + h) * decay_width(s) : NULL,
                            has_beta(s) ? in->beta[row * s.H + h] : 0, s);
        }
    free(S);
}

// ---- the state, looked at -------------------------------------------------------------------------

// The output for values that are the unit vectors of T dimensions.
void recurrence_weights(real *weight, const RecurrenceInput *in, size_t T, RecurrenceShape s) {
    size_t width = s.H * T, bytes = size_mul(size_mul(T, width), sizeof(real));
    real *v = xmalloc(bytes), *out = xmalloc(bytes);
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < s.H; h++) v[t * width + h * T + t] = 1;
    RecurrenceInput units = *in;
    units.v = v, units.v_stride = width, s.Dv = T;
    recurrence_forward(out, NULL, &units, 1, T, (RecurrenceState){0}, s);
    for (size_t i = 0; i < T * s.H; i++) {
        real *to = weight + (i % s.H * T + i / s.H) * T, sum = 0;
        for (size_t j = 0; j < T; j++) sum += to[j] = (real)fabs((double)out[i * T + j]);
        for (size_t j = 0; j < T && sum > 0; j++) to[j] /= sum;
    }
    free(v), free(out);
}

void recurrence_states_at(real *states, const RecurrenceInput *in, const size_t *token, size_t count,
                          RecurrenceShape s) {
    size_t each = s.D * s.Dv;
    real *S = xmalloc((each + 2 * s.Dv) * sizeof *S), *u = S + each;
    for (size_t h = 0; h < s.H; h++) {
        memset(S, 0, each * sizeof *S);
        for (size_t t = 0, i = 0; i < count; t++) {
            token_naive(u + s.Dv, S, u, in->q + t * in->q_stride + h * s.D, in->k + t * in->k_stride + h * s.D,
                        in->v + t * in->v_stride + h * s.Dv,
                        s.has_decay ? in->decay + (t * s.H + h) * decay_width(s) : NULL,
                        has_beta(s) ? in->beta[t * s.H + h] : 0, s);
            if (t == token[i]) memcpy(states + (i++ * s.H + h) * each, S, each * sizeof *S);
        }
    }
    free(S);
}

// ---- the normaliser ------------------------------------------------------------------------------

static void sum_head_forward(real *out, real *sum, real *z, size_t T, const SumShape *s, const real *q, const real *k) {
    for (size_t t = 0; t < T; t++, q += s->q_stride, k += s->k_stride, out += s->H * s->Dv, sum += s->H) {
        vec dot = vec_zero();
        for (size_t d = 0; d < s->D; d += LANES) {
            vec now = vec_add(vec_load_at(z, d, s->D), vec_load_at(k, d, s->D));
            vec_store_at(z, d, s->D, now);
            dot = vec_fma(now, vec_load_at(q, d, s->D), dot);
        }
        *sum = vec_sum(dot) + (real)1e-6;
        vec by = vec_set(1 / *sum);
        for (size_t d = 0; d < s->Dv; d += LANES) vec_store_at(out, d, s->Dv, vec_mul(vec_load_at(out, d, s->Dv), by));
    }
}

void normalise_sum_forward(real *out, real *sum, real *z, size_t z_step, size_t B, size_t T, SumShape s) {
    PROFILE(recurrence_forward, B * T * s.H * (3 * s.D + s.Dv + 2), B * T * s.H * (2 * s.D + 2 * s.Dv + 1));
    size_t width = round_up(s.D, LANES);
    real *space = z ? NULL : workspace_take(&workspace, B * s.H * width);
    if (space) memset(space, 0, B * s.H * width * sizeof *space);
#pragma omp parallel for schedule(static) if (B * T * s.H * s.D > PARALLEL_FROM)
    for (size_t i = 0; i < B * s.H; i++) {
        size_t b = i / s.H, h = i % s.H, row = b * T;
        sum_head_forward(out + (row * s.H + h) * s.Dv, sum + row * s.H + h,
                         z ? z + b * z_step + h * s.D : space + i * width, T, &s, s.q + row * s.q_stride + h * s.D,
                         s.k + row * s.k_stride + h * s.D);
    }
}

// With out = num / sum: d num = dout / sum, d sum = - d num . out; dq_t = dsum_t z_t, dk_t = sum_{i>=t} dsum_i q_i.
void normalise_sum_numerator(real *dout, real *sum, const real *out, size_t M, SumShape s) {
    PROFILE(recurrence_backward, M * s.H * (3 * s.Dv + 1), M * s.H * (3 * s.Dv + 2));
#pragma omp parallel for if (M * s.H * s.Dv > PARALLEL_FROM)
    for (size_t i = 0; i < M * s.H; i++) {
        vec dot = vec_zero(), by = vec_set(1 / sum[i]);
        for (size_t d = 0; d < s.Dv; d += LANES) {
            vec g = vec_mul(vec_load_at(dout + i * s.Dv, d, s.Dv), by);
            dot = vec_fma(g, vec_load_at(out + i * s.Dv, d, s.Dv), dot);
            vec_store_at(dout + i * s.Dv, d, s.Dv, g);
        }
        sum[i] = -vec_sum(dot);
    }
}

static void sum_head_backward(real *dq, real *dk, const real *dsum, size_t T, const SumShape *s, const real *q,
                              const real *k) {
    for (size_t d = 0; d < s->D; d += LANES) {
        vec z = vec_zero(), after = vec_zero();
        for (size_t t = 0; t < T; t++) {
            real *to = dq + t * s->q_stride;
            z = vec_add(z, vec_load_at(k + t * s->k_stride, d, s->D));
            vec_store_at(to, d, s->D, vec_fma(vec_set(dsum[t * s->H]), z, vec_load_at(to, d, s->D)));
        }
        for (size_t t = T; t-- > 0;) {
            real *to = dk + t * s->k_stride;
            after = vec_fma(vec_set(dsum[t * s->H]), vec_load_at(q + t * s->q_stride, d, s->D), after);
            vec_store_at(to, d, s->D, vec_add(vec_load_at(to, d, s->D), after));
        }
    }
}

void normalise_sum_backward(real *dq, real *dk, const real *dsum, size_t B, size_t T, SumShape s) {
    PROFILE(recurrence_backward, B * T * s.H * 6 * s.D, B * T * s.H * (6 * s.D + 1));
#pragma omp parallel for schedule(static) if (B * T * s.H * s.D > PARALLEL_FROM)
    for (size_t i = 0; i < B * s.H; i++) {
        size_t b = i / s.H, h = i % s.H, row = b * T, q = row * s.q_stride + h * s.D, k = row * s.k_stride + h * s.D;
        sum_head_backward(dq + q, dk + k, dsum + row * s.H + h, T, &s, s.q + q, s.k + k);
    }
}

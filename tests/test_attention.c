// test_attention.c: both attention kernels, forward and backward, against the formula in double precision
// written here, against each other, and against themselves with a cache or with other threads.
//
// Tolerance: values lie in [-1, 1) and an output is their weighted mean, so errors are absolute, in units of
// the last place of 1. A score of size s is off by about s/2 units and shifts its weight by as much; scores
// here stay below 20 and their errors mostly cancel in the mean. Measured: at most 7 units forward and 13
// backward, relative to the largest gradient where that is above 1. Allowed: 32.
#include "tests/arrays.h"
#include "kernels/attention.h"
#include <omp.h>
#include <stdlib.h>

static const double UNITS = 32;

// Everything about one call: sizes, operands and results. Rows of q, k, v and out lie a few numbers apart.
typedef struct {
    size_t B, n, L;
    AttnShape s;
    KvView view;
    size_t q_stride, out_stride, k_size, v_size, q_size, out_size;
    real *q, *k, *v, *dout;
    real *out, *lse, *probability, *dq, *dk, *dv;
} Call;

typedef struct { size_t H, KV, D, Dv, window; bool alibi; } Heads;
static const char *const kernel_name[] = {"naive", "band", "flash"};
enum { KERNELS = 3 };
static const real slopes[] = {(real)0.5, (real)0.25, (real)0.0625, 1, (real)0.01, (real)0.125, (real)0.7};

static Call make_call(size_t B, size_t n, size_t L, Heads h, int kernel, size_t tile, Rng *r) {
    Call c = {.B = B, .n = n, .L = L,
              .s = {h.H, h.KV, h.D, h.Dv, 1 / sqrt((double)h.D), (AttnKernel)kernel, tile, h.window, NULL}};
    if (h.alibi) {
        real *slope = array(h.H);
        for (size_t i = 0; i < h.H; i++) slope[i] = slopes[i % (sizeof slopes / sizeof *slopes)];
        c.s.slope = slope;
    }
    size_t k_row = h.KV * h.D + 2, v_row = h.KV * h.Dv + 1;
    c.q_stride = h.H * h.D + 3, c.out_stride = h.H * h.Dv + 4;
    c.q_size = (B * n - 1) * c.q_stride + h.H * h.D, c.out_size = (B * n - 1) * c.out_stride + h.H * h.Dv;
    c.k_size = (B * L - 1) * k_row + h.KV * h.D, c.v_size = (B * L - 1) * v_row + h.KV * h.Dv;
    c.q = array_random(c.q_size, r), c.k = array_random(c.k_size, r), c.v = array_random(c.v_size, r),
    c.dout = array_random(c.out_size, r);
    for (size_t i = 0; i < c.q_size; i++) c.q[i] *= 4;
    c.view = (KvView){.k = c.k, .k_step = L * k_row, .k_stride = k_row, .k_head = h.D, .v = c.v, .v_step = L * v_row,
                      .v_stride = v_row, .v_head = h.Dv, .length = L};
    c.out = array_random(c.out_size, r), c.lse = array_random(B * h.H * n, r),
    c.probability = array_random(B * h.H * n * L, r);
    c.dq = array_random(c.q_size, r), c.dk = array_random(c.k_size, r), c.dv = array_random(c.v_size, r);
    return c;
}

static AttnOutput output_of(Call *c) { return (AttnOutput){c->out, c->out_stride, c->lse, c->probability}; }
static AttnInput input_of(const Call *c) {
    return (AttnInput){.q = c->q, .q_stride = c->q_stride, .view = c->view, .B = c->B, .n = c->n};
}
static void forward(Call *c) { attention_forward(output_of(c), input_of(c), c->s); }
static void backward(Call *c) {
    attention_backward((AttnGradient){c->dq, c->dk, c->dv}, c->dout, output_of(c), input_of(c), c->s);
}

// ---- the formula ---------------------------------------------------------------------------------

typedef struct { double *out, *lse, *probability, *dq, *dk, *dv, *dp; } Exact;   // dp: scratch, [L]

static double *exact_like(const real *x, size_t n) {            // what no row covers stays as it was
    double *e = array_bytes(n * sizeof *e);
    for (size_t i = 0; i < n; i++) e[i] = (double)x[i];
    return e;
}

// Query i of head h: p = softmax(scale q k - slope distance) over what it sees, out = p v; dv_j = p_j dout,
// dp_j = dout v_j, ds = p (dp - p dp) scale.
static void exact_query(const Call *c, Exact *e, size_t b, size_t h, size_t i) {
    const AttnShape *s = &c->s;
    size_t row = (b * s->H + h) * c->n + i, seen = c->L - c->n + i + 1, g = h / (s->H / s->KV);
    size_t first = s->window && seen > s->window ? seen - s->window : 0;
    size_t q = (b * c->n + i) * c->q_stride + h * s->D, o = (b * c->n + i) * c->out_stride + h * s->Dv;
    size_t k = b * c->view.k_step + g * s->D, v = b * c->view.v_step + g * s->Dv;
    double *p = e->probability + row * c->L, *dp = e->dp, most = -INFINITY, sum = 0, mean = 0;
    for (size_t j = first; j < seen; j++) {
        p[j] = s->slope ? -(double)s->slope[h] * (double)(seen - 1 - j) : 0, dp[j] = 0;
        for (size_t d = 0; d < s->D; d++)
            p[j] += s->scale * (double)c->q[q + d] * (double)c->k[k + j * c->view.k_stride + d];
        most = fmax(most, p[j]);
    }
    for (size_t j = first; j < seen; j++) sum += p[j] = exp(p[j] - most);
    for (size_t j = 0; j < c->L; j++) p[j] = j >= first && j < seen ? p[j] / sum : 0;
    e->lse[row] = most + log(sum);
    for (size_t d = 0; d < s->Dv; d++) e->out[o + d] = 0;
    for (size_t j = first; j < seen; j++)
        for (size_t d = 0; d < s->Dv; d++) {
            e->out[o + d] += p[j] * (double)c->v[v + j * c->view.v_stride + d];
            dp[j] += (double)c->dout[o + d] * (double)c->v[v + j * c->view.v_stride + d];
            if (e->dv) e->dv[v + j * c->view.v_stride + d] += p[j] * (double)c->dout[o + d];
        }
    for (size_t j = first; j < seen; j++) mean += p[j] * dp[j];
    for (size_t d = 0; d < s->D && e->dq; d++) e->dq[q + d] = 0;
    for (size_t j = first; j < seen && e->dq; j++)
        for (size_t d = 0; d < s->D; d++) {
            double ds = p[j] * (dp[j] - mean) * s->scale;
            e->dq[q + d] += ds * (double)c->k[k + j * c->view.k_stride + d];
            e->dk[k + j * c->view.k_stride + d] += ds * (double)c->q[q + d];
        }
}

static Exact by_formula(const Call *c, bool gradients) {
    const AttnShape *s = &c->s;
    Exact e = {.out = exact_like(c->out, c->out_size), .lse = exact_like(c->lse, c->B * s->H * c->n),
               .probability = array_bytes(c->B * s->H * c->n * c->L * sizeof(double)),
               .dp = array_bytes(c->L * sizeof(double))};
    if (gradients)
        e.dq = exact_like(c->dq, c->q_size), e.dk = exact_like(c->dk, c->k_size), e.dv = exact_like(c->dv, c->v_size);
    for (size_t m = 0; m < c->B * c->L && gradients; m++) {
        for (size_t d = 0; d < s->KV * s->D; d++) e.dk[m * c->view.k_stride + d] = 0;
        for (size_t d = 0; d < s->KV * s->Dv; d++) e.dv[m * c->view.v_stride + d] = 0;
    }
    for (size_t b = 0; b < c->B; b++)
        for (size_t h = 0; h < s->H; h++)
            for (size_t i = 0; i < c->n; i++) exact_query(c, &e, b, h, i);
    return e;
}

static void close_to(const Call *c, const char *what, const real *found, const double *expected, size_t n) {
    double scale = 1, worst = 0;
    for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(expected[i]));
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - expected[i]) / scale;
        if (!(error <= worst)) worst = isnan(error) ? (double)INFINITY : error;
    }
    CHECK(worst <= UNITS * EPSILON,
          "%s, %s: B %zu n %zu L %zu H %zu KV %zu D %zu Dv %zu window %zu%s tile %zu: off by %.1f units", what,
          kernel_name[c->s.kernel], c->B, c->n, c->L, c->s.H, c->s.KV, c->s.D, c->s.Dv, c->s.window,
          c->s.slope ? " alibi" : "", c->s.tile, worst / EPSILON);
}

// ---- against the formula -------------------------------------------------------------------------

static void check_call(size_t B, size_t n, size_t L, Heads h, int kernel, size_t tile, Rng *r) {
    Call c = make_call(B, n, L, h, kernel, tile, r);
    bool gradients = n == L;
    Exact e = by_formula(&c, gradients);
    forward(&c);
    close_to(&c, "output", c.out, e.out, c.out_size);
    close_to(&c, "log sum exp", c.lse, e.lse, B * h.H * n);
    if (kernel != ATTENTION_flash) close_to(&c, "probabilities", c.probability, e.probability, B * h.H * n * L);
    if (gradients) {
        backward(&c);
        close_to(&c, "d queries", c.dq, e.dq, c.q_size);
        close_to(&c, "d keys", c.dk, e.dk, c.k_size);
        close_to(&c, "d values", c.dv, e.dv, c.v_size);
    }
    attention_forward_naive(output_of(&c), input_of(&c), c.s);
    close_to(&c, "the readable reference", c.out, e.out, c.out_size);
    arrays_free();
}

static const Heads heads[] = {{1, 1, 1, 1, 0, false},    {4, 4, 8, 8, 0, false},    {4, 2, 16, 16, 0, false},
                              {6, 1, 7, 5, 0, false},    {3, 3, 24, 40, 0, false},  {2, 1, 33, 17, 0, false},
                              {2, 2, 64, 64, 0, false},  {2, 2, 8, 8, 1, false},    {4, 2, 16, 12, 33, false},
                              {2, 1, 24, 24, 64, false}, {7, 7, 8, 8, 0, true},     {4, 1, 20, 9, 50, true}};
enum { HEADS = sizeof heads / sizeof *heads };

static void lengths(void) {
    static const size_t Ts[] = {1, 2, 31, 33, 47, 48, 49, 64, 100, 257};
    Rng r = rng_stream(3, RNG_TEST, 0);
    for (size_t t = 0; t < sizeof Ts / sizeof *Ts; t++)
        for (int i = 0; i < HEADS; i++) {
            size_t B = Ts[t] < 100 ? 2 : 1;
            check_call(B, Ts[t], Ts[t], heads[i], ATTENTION_flash, (size_t)32 << (t + (size_t)i) % 3, &r);
            check_call(B, Ts[t], Ts[t], heads[i], ATTENTION_band, 64, &r);
            check_call(B, Ts[t], Ts[t], heads[i], ATTENTION_naive, 64, &r);
        }
}

static void tiles(void) {
    Rng r = rng_stream(3, RNG_TEST, 1);
    for (size_t tile = 32; tile <= 512; tile *= 2)
        for (size_t T = 40; T <= 200; T += 40) check_call(1, T, T, heads[3], ATTENTION_flash, tile, &r);
    check_call(1, 50, 50, heads[2], ATTENTION_flash, 65536, &r);            // a tile far longer than the row
}

static void cached(void) {
    Rng r = rng_stream(3, RNG_TEST, 2);
    for (size_t n = 1; n <= 51; n += n < 2 || n == 47 || n == 48 ? 1 : n == 2 ? 45 : 2)
        for (int i = 0; i < HEADS; i++)
            for (int kernel = 0; kernel < KERNELS; kernel++) {
                check_call(1, n, n + 40, heads[i], kernel, 32, &r);
                check_call(2, n, 130, heads[i], kernel, 64, &r);
            }
}

// ---- against itself ------------------------------------------------------------------------------

// n new queries after a past are the last n rows of the whole, in the same bits, whatever n; without the log-sum-exp,
// which only a backward needs, a single one takes the way of decoding.
static void check_past(size_t L, size_t n, Heads h, int kernel, size_t tile, Rng *r) {
    Call all = make_call(1, L, L, h, kernel, tile, r), part = make_call(1, n, L, h, kernel, tile, r);
    part.view = all.view, part.probability = NULL, part.lse = NULL;
    memcpy(part.q, all.q + (L - n) * all.q_stride, part.q_size * sizeof *part.q);
    forward(&all), forward(&part);
    for (size_t i = 0; i < n; i++)
        CHECK(same_bits(part.out + i * part.out_stride, all.out + (L - n + i) * all.out_stride, h.H * h.Dv),
              "%s: H %zu KV %zu D %zu, window %zu, tile %zu: query %zu of %zu after %zu differs from the whole",
              kernel_name[kernel], h.H, h.KV, h.D, h.window, tile, i, n, L - n);
    arrays_free();
}

static void past(void) {
    static const size_t ns[] = {1, 2, 7, 8, 9, 30, 47, 48, 49, 96, 97, 140};
    Rng r = rng_stream(3, RNG_TEST, 3);
    for (size_t k = 0; k < sizeof ns / sizeof *ns; k++)
        for (int i = 0; i < HEADS; i++) {
            for (size_t tile = 32; tile <= 128; tile *= 2) check_past(141, ns[k], heads[i], ATTENTION_flash, tile, &r);
            check_past(141, ns[k], heads[i], ATTENTION_band, 64, &r);
            check_past(141, ns[k], heads[i], ATTENTION_naive, 64, &r);
        }
}

// What one thread has to do depends on how many there are: 1, 2, 4 or 8 query heads of a key head at a time, whose
// values are 4, 2, 1 or a part of a vector wide; keys of 150 numbers are turned in three parts.
static void past_of_groups(void) {
    static const int counts[] = {1, 2, 3, 8};
    static const struct { size_t D, Dv; } sizes[] = {{64, 64}, {40, 112}, {16, 36}, {150, 20}};
    Rng r = rng_stream(3, RNG_TEST, 9);
    for (size_t t = 0; t < sizeof counts / sizeof *counts; t++)
        for (size_t group = 1; group <= 16; group++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                omp_set_num_threads(counts[t]);
                Heads h = {group * (1 + i % 3), 1 + i % 3, sizes[i].D, sizes[i].Dv, 0, i == 2};
                check_past(75, 1, h, ATTENTION_flash, 32, &r);
            }
}

static void batches(void) {
    Rng r = rng_stream(3, RNG_TEST, 4);
    for (int i = 0; i < HEADS; i++)
        for (int kernel = 0; kernel < KERNELS; kernel++) {
            Call all = make_call(3, 60, 60, heads[i], kernel, 32, &r),
                 one = make_call(1, 60, 60, heads[i], kernel, 32, &r);
            forward(&all), backward(&all);
            for (size_t b = 0; b < 3; b++) {
                memcpy(one.q, all.q + b * 60 * all.q_stride, one.q_size * sizeof(real));
                memcpy(one.k, all.k + b * all.view.k_step, one.k_size * sizeof(real));
                memcpy(one.v, all.v + b * all.view.v_step, one.v_size * sizeof(real));
                memcpy(one.dout, all.dout + b * 60 * all.out_stride, one.out_size * sizeof(real));
                memcpy(one.dk, all.dk + b * all.view.k_step, one.k_size * sizeof(real));   // the gaps
                memcpy(one.dv, all.dv + b * all.view.v_step, one.v_size * sizeof(real));
                forward(&one), backward(&one);
                CHECK(same_bits(one.dk, all.dk + b * all.view.k_step, one.k_size) &&
                          same_bits(one.dv, all.dv + b * all.view.v_step, one.v_size),
                      "gradients of sequence %zu depend on the others", b);
                for (size_t t = 0; t < 60; t++)
                    CHECK(same_bits(one.out + t * one.out_stride, all.out + (b * 60 + t) * all.out_stride,
                                    heads[i].H * heads[i].Dv) &&
                              same_bits(one.dq + t * one.q_stride, all.dq + (b * 60 + t) * all.q_stride,
                                        heads[i].H * heads[i].D),
                          "row %zu of sequence %zu depends on the other sequences", t, b);
            }
            arrays_free();
        }
}

// Rows of several lengths over blocks that stand in any order, each with the bits of its own contiguous keys. Where
// the value is the beginning of the key (as of a latent), the blocks hold it once. What no row owns is NaN.
static void check_blocks(Heads h, int kernel, size_t size, bool latent, Rng *r) {
    enum { ROWS = 5, MOST = 150 };
    static const size_t ns[ROWS] = {1, 8, 30, 3, 9}, lengths[ROWS] = {150, 77, 64, 3, 141};
    size_t blocks = 2 * ROWS * (MOST / size + 1), k_block = h.KV * size * h.D, v_block = h.KV * size * h.Dv, at = 0;
    real *k = array(blocks * k_block), *v = latent ? k : array(blocks * v_block);
    for (size_t i = 0; i < blocks * k_block; i++) k[i] = (real)NAN;
    for (size_t i = 0; i < blocks * v_block && !latent; i++) v[i] = (real)NAN;
    uint32_t table[ROWS][MOST], next = (uint32_t)blocks;
    AttnRow row[ROWS];
    Call alone[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        Call *c = &alone[i];
        *c = make_call(1, ns[i], lengths[i], h, kernel, 64, r);
        c->lse = c->probability = NULL;
        if (latent) c->view.v = c->k, c->view.v_stride = c->view.k_stride, c->view.v_head = c->view.k_head;
        for (size_t j = 0; j * size < lengths[i]; j++) table[i][j] = next -= 1 + (uint32_t)rng_below(r, 2);
        for (size_t j = 0; j < lengths[i]; j++)
            for (size_t g = 0; g < h.KV; g++) {
                size_t slot = (table[i][j / size] * h.KV + g) * size + j % size;
                memcpy(k + slot * h.D, c->k + j * c->view.k_stride + g * h.D, h.D * sizeof *k);
                if (!latent) memcpy(v + slot * h.Dv, c->v + j * c->view.v_stride + g * h.Dv, h.Dv * sizeof *v);
            }
        row[i] = (AttnRow){at, ns[i], lengths[i], table[i]}, at += ns[i];
        forward(c);
    }
    Call all = make_call(1, at, at, h, kernel, 64, r);
    for (size_t i = 0; i < ROWS; i++) memcpy(all.q + row[i].at * all.q_stride, alone[i].q, alone[i].q_size * sizeof *k);
    size_t v_width = latent ? h.D : h.Dv;
    KvView view = {.k = k, .v = v, .k_step = k_block, .k_stride = h.D, .k_head = size * h.D,
                   .v_step = h.KV * size * v_width, .v_stride = v_width, .v_head = size * v_width, .block_size = size};
    attention_forward((AttnOutput){.out = all.out, .out_stride = all.out_stride},
                      (AttnInput){.q = all.q, .q_stride = all.q_stride, .view = view, .B = ROWS, .row = row}, all.s);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t t = 0; t < ns[i]; t++)
            CHECK(same_bits(all.out + (row[i].at + t) * all.out_stride, alone[i].out + t * alone[i].out_stride,
                            h.H * h.Dv),
                  "%s, blocks of %zu: H %zu KV %zu D %zu Dv %zu, window %zu: query %zu of row %zu differs",
                  kernel_name[kernel], size, h.H, h.KV, h.D, h.Dv, h.window, t, i);
    arrays_free();
}

static void blocks(void) {
    static const size_t sizes[] = {1, 5, 16, 24, 32, 48, 64, 200};
    static const Heads latents[] = {{4, 1, 24, 16, 0, false}, {9, 1, 80, 64, 0, true}, {2, 1, 16, 16, 20, false}};
    Rng r = rng_stream(3, RNG_TEST, 10);
    for (int t = 1; t <= 3; t += 2)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            omp_set_num_threads(t);
            for (int kernel = 0; kernel < KERNELS; kernel++) {
                for (int h = 0; h < HEADS; h++) check_blocks(heads[h], kernel, sizes[i], false, &r);
                for (size_t h = 0; h < 3; h++) check_blocks(latents[h], kernel, sizes[i], true, &r);
            }
        }
}

// Rows that begin in the same blocks: each but the first goes on from some block of another one, up to a place within a
// tile, a whole tile, or as far as that reaches; so they part as a tree does. Bit for bit, each is alone.
static void check_shared(Heads h, size_t size, size_t tile, bool latent, Rng *r) {
    enum { ROWS = 12, MOST = 240 };
    size_t each = MOST / size + 1, k_block = h.KV * size * h.D, v_width = latent ? h.D : h.Dv;
    size_t v_block = h.KV * size * v_width, at = 0;
    real *k = array(ROWS * each * k_block), *v = latent ? k : array(ROWS * each * v_block);
    for (size_t i = 0; i < ROWS * each * k_block; i++) k[i] = (real)NAN;
    for (size_t i = 0; i < ROWS * each * v_block && !latent; i++) v[i] = (real)NAN;
    uint32_t table[ROWS][MOST + 1], next = (uint32_t)(ROWS * each);
    AttnRow row[ROWS];
    Call alone[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        size_t length = 1 + rng_below(r, MOST), most = rng_below(r, 6) ? 3 : 40, n = 1 + rng_below(r, most);
        size_t parent = i ? rng_below(r, i) : 0, from = 0;
        if (i && rng_below(r, 5)) from = rng_below(r, smaller(length, row[parent].length) / size + 1);
        if (n > length) n = 1;
        Call *c = &alone[i];
        *c = make_call(1, n, length, h, ATTENTION_flash, tile, r);
        c->lse = c->probability = NULL;
        if (latent) c->view.v = c->k, c->view.v_stride = c->view.k_stride, c->view.v_head = c->view.k_head;
        for (size_t j = 0; j * size < length; j++) table[i][j] = j < from ? table[parent][j] : --next;
        for (size_t j = 0; j < length; j++)
            for (size_t g = 0; g < h.KV; g++) {
                size_t slot = (table[i][j / size] * h.KV + g) * size + j % size;
                real *key = k + slot * h.D, *mine = c->k + j * c->view.k_stride + g * h.D;
                real *value = v + slot * v_width, *my_value = c->v + j * c->view.v_stride + g * h.Dv;
                bool old = j / size < from;
                memcpy(old ? mine : key, old ? key : mine, h.D * sizeof *k);
                if (!latent) memcpy(old ? my_value : value, old ? value : my_value, h.Dv * sizeof *v);
            }
        row[i] = (AttnRow){at, n, length, table[i]}, at += n;
        forward(c);
    }
    Call all = make_call(1, at, at, h, ATTENTION_flash, tile, r);
    for (size_t i = 0; i < ROWS; i++) memcpy(all.q + row[i].at * all.q_stride, alone[i].q, alone[i].q_size * sizeof *k);
    KvView view = {.k = k, .v = v, .k_step = k_block, .k_stride = h.D, .k_head = size * h.D, .v_step = v_block,
                   .v_stride = v_width, .v_head = size * v_width, .block_size = size};
    attention_forward((AttnOutput){.out = all.out, .out_stride = all.out_stride},
                      (AttnInput){.q = all.q, .q_stride = all.q_stride, .view = view, .B = ROWS, .row = row}, all.s);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t t = 0; t < row[i].n; t++)
            CHECK(same_bits(all.out + (row[i].at + t) * all.out_stride, alone[i].out + t * alone[i].out_stride,
                            h.H * h.Dv),
                  "blocks of %zu, tile %zu: H %zu KV %zu D %zu Dv %zu, window %zu: query %zu of row %zu of %zu differs",
                  size, tile, h.H, h.KV, h.D, h.Dv, h.window, t, i, row[i].length);
    arrays_free();
}

static void shared(void) {
    static const size_t sizes[] = {1, 5, 16, 48, 64};
    static const Heads latents[] = {{4, 1, 24, 16, 0, false}, {9, 1, 80, 64, 0, true}, {70, 1, 16, 16, 20, false}};
    Rng r = rng_stream(3, RNG_TEST, 11);
    for (int t = 1; t <= 3; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            omp_set_num_threads(t);
            for (int h = 0; h < HEADS; h++) check_shared(heads[h], sizes[i], t == 2 ? 64 : 32, false, &r);
            for (size_t h = 0; h < 3; h++) check_shared(latents[h], sizes[i], t == 2 ? 64 : 32, true, &r);
        }
}

static uint64_t digest(const Call *c, bool gradients) {
    uint64_t h = hash_bytes(HASH_START, c->out, c->out_size * sizeof(real));
    if (c->lse) h = hash_bytes(h, c->lse, c->B * c->s.H * c->n * sizeof(real));
    if (!gradients) return h;
    h = hash_bytes(hash_bytes(h, c->dq, c->q_size * sizeof(real)), c->dk, c->k_size * sizeof(real));
    return hash_bytes(h, c->dv, c->v_size * sizeof(real));
}

// What the mask hides adds nothing: without it the bits stay the same.
static void band_is_naive(void) {
    Rng r = rng_stream(3, RNG_TEST, 8);
    for (int i = 0; i < HEADS; i++) {
        Call naive = make_call(2, 110, 110, heads[i], ATTENTION_naive, 32, &r), band = naive;
        forward(&naive), backward(&naive);
        uint64_t whole = digest(&naive, true);
        band.s.kernel = ATTENTION_band;
        for (size_t j = 0; j < 2 * heads[i].H * 110 * 110; j++) band.probability[j] = (real)NAN;
        forward(&band), backward(&band);
        CHECK(digest(&band, true) == whole, "H %zu KV %zu D %zu, window %zu: other bits", heads[i].H, heads[i].KV,
              heads[i].D, heads[i].window);
        arrays_free();
    }
}

// Enough work to wake all threads; with one key head, the threads share its queries' heads.
static void threads(void) {
    static const int counts[] = {1, 2, 3, 8};
    static const struct { size_t B, n, L; Heads h; } call[] = {
                {3, 70, 70, {4, 2, 24, 24, 0, false}},
                {1, 90, 90, {7, 1, 20, 12, 0, false}},
                {1, 1, 700, {8, 1, 40, 32, 0, false}},
                {1, 1, 500, {6, 3, 32, 32, 0, false}},
                {2, 120, 120, {4, 2, 24, 24, 50, true}},
                {1, 1, 700, {8, 1, 40, 32, 100, false}}};
    Rng r = rng_stream(3, RNG_TEST, 5);
    for (size_t i = 0; i < sizeof call / sizeof *call; i++)
        for (int kernel = 0; kernel < KERNELS; kernel++) {
            Call c = make_call(call[i].B, call[i].n, call[i].L, call[i].h, kernel, 64, &r);
            uint64_t one = 0;
            if (c.n == 1) c.lse = NULL, c.probability = NULL;             // as in decoding
            for (int t = 0; t < 4; t++) {
                omp_set_num_threads(counts[t]);
                forward(&c);
                if (c.n == c.L) backward(&c);
                uint64_t h = digest(&c, c.n == c.L);
                if (!t) one = h;
                CHECK(h == one, "%s, call %zu: %d threads give other bits than one", kernel_name[kernel], i,
                      counts[t]);
            }
            arrays_free();
        }
}

// One or two long texts with fewer key heads than threads, which these go through together, in blocks or not: the bits
// are those of one thread.
static void check_by_all(size_t B, size_t n, size_t L, Heads h, size_t size, bool latent, Rng *r) {
    static const int counts[] = {1, 2, 3, 8};
    size_t each = (L + size - 1) / size, v_width = latent ? h.D : h.Dv, k_block = h.KV * size * h.D;
    size_t v_block = h.KV * size * v_width;
    real *k = array_random(B * each * k_block, r), *v = latent ? k : array_random(B * each * v_block, r);
    uint32_t *table = xmalloc(B * each * sizeof *table);
    for (size_t i = 0; i < B * each; i++) table[i] = (uint32_t)(B * each - 1 - i);
    AttnRow row[2] = {{0, n, L, table}, {n, 1, L - 70, table + each}};
    Call c = make_call(1, n + 1, n + 1, h, ATTENTION_flash, 64, r);
    KvView view = {.k = k, .v = v, .k_step = k_block, .k_stride = h.D, .k_head = size * h.D, .v_step = v_block,
                   .v_stride = v_width, .v_head = size * v_width, .block_size = size};
    uint64_t one = 0;
    for (int t = 0; t < 4; t++) {
        omp_set_num_threads(counts[t]);
        for (size_t i = 0; i < c.out_size; i++) c.out[i] = 7;
        attention_forward((AttnOutput){.out = c.out, .out_stride = c.out_stride},
                          (AttnInput){.q = c.q, .q_stride = c.q_stride, .view = view, .B = B, .row = row}, c.s);
        uint64_t found = hash_bytes(HASH_START, c.out, c.out_size * sizeof(real));
        if (!t) one = found;
        CHECK(found == one, "%zu texts of %zu, blocks of %zu, H %zu KV %zu D %zu Dv %zu, %zu queries: %d threads give "
              "other bits than one", B, L, size, h.H, h.KV, h.D, h.Dv, n, counts[t]);
    }
    free(table);
    arrays_free();
}

static void by_all(void) {
    static const Heads latents[] = {{8, 1, 80, 64, 0, false}, {9, 1, 88, 40, 0, true}, {6, 1, 100, 70, 2500, false}};
    static const Heads others[] = {{8, 1, 64, 64, 0, false}, {3, 1, 130, 72, 0, true}, {12, 2, 64, 48, 0, false}};
    static const size_t sizes[] = {5, 16, 10000};
    Rng r = rng_stream(3, RNG_TEST, 12);
    for (size_t B = 1; B <= 2; B++)
        for (size_t i = 0; i < 3; i++)
            for (size_t h = 0; h < 3; h++) {
                check_by_all(B, 1, 4500 + 31 * i, latents[h], sizes[i], true, &r);
                check_by_all(B, 1, 6000 + 31 * i, others[h], sizes[i], false, &r);
                check_by_all(B, 3, 1500 + 31 * i, latents[h], sizes[i], true, &r);
            }
    check_by_all(1, 1, 17001, (Heads){8, 1, 16, 36, 0, true}, 48, false, &r);        // more than a stretch
}

// ---- hard scores ---------------------------------------------------------------------------------

// One key far above the others takes all the weight: output and gradients are exact. It may stand in any
// tile: before it every other weight fades to nothing, after it nothing is added. Scores reach 4000.
static void one_key_wins(void) {
    Rng r = rng_stream(3, RNG_TEST, 6);
    for (size_t winner = 0; winner < 100; winner += 9)
        for (int kernel = 0; kernel < KERNELS; kernel++)
            for (int sign = -1; sign <= 1; sign += 2) {
                Call c = make_call(1, 100, 100, (Heads){1, 1, 16, 16, 0, false}, kernel, 32, &r);
                for (size_t t = 0; t < 100; t++)
                    for (size_t d = 0; d < 16; d++) {
                        c.q[t * c.q_stride + d] = d ? 0 : 100;
                        c.k[t * c.view.k_stride + d] = d ? 0 : (real)(160 * ((t == winner) - (sign < 0)));
                    }
                forward(&c), backward(&c);
                for (size_t t = winner; t < 100; t++)
                    CHECK(same_bits(c.out + t * c.out_stride, c.v + winner * c.view.v_stride, 16),
                          "%s: query %zu is not the value of key %zu", kernel_name[kernel], t, winner);
                for (size_t i = 0; i < c.k_size; i++)
                    CHECK(isfinite(c.dk[i]), "the gradient of a key is %g", (double)c.dk[i]);
                for (size_t i = 0; i < c.v_size; i++)
                    CHECK(isfinite(c.dv[i]), "the gradient of a value is %g", (double)c.dv[i]);
                arrays_free();
            }
}

// A NaN in a query spoils its own row; in a key, the rows that see it.
static void not_a_number(void) {
    Rng r = rng_stream(3, RNG_TEST, 7);
    for (int where = 0; where < 3; where++)
        for (int kernel = 0; kernel < KERNELS; kernel++) {
            Call c = make_call(1, 100, 100, (Heads){1, 1, 16, 16, 0, false}, kernel, 32, &r);
            size_t bad = where == 1 ? 0 : 70;
            if (where == 2) c.q[bad * c.q_stride + 3] = (real)NAN;
            else c.k[bad * c.view.k_stride + 3] = (real)NAN;
            forward(&c);
            for (size_t t = 0; t < 100; t++) {
                bool spoilt = where == 2 ? t == bad : t >= bad;
                for (size_t d = 0; d < 16; d++)
                    CHECK(isnan(c.out[t * c.out_stride + d]) == spoilt, "%s: NaN in %s %zu: output %zu is %g",
                          kernel_name[kernel], where == 2 ? "query" : "key", bad, t,
                          (double)c.out[t * c.out_stride + d]);
                CHECK(isnan(c.lse[t]) == spoilt, "log sum exp of query %zu is %g", t, (double)c.lse[t]);
            }
            arrays_free();
        }
}

// Those that the paper states: 8 heads halve from 1/2, 16 heads from 1/sqrt 2; 12 heads are 8 and every other of 16.
static void slopes_of_alibi(void) {
    real slope[16];
    double expected[16];
    for (size_t H = 1; H <= 16; H++) {
        alibi_slopes(slope, H);
        size_t base = H < 2 ? 1 : H < 4 ? 2 : H < 8 ? 4 : H < 16 ? 8 : 16;
        for (size_t h = 0; h < H; h++)
            expected[h] = h < base ? pow(2, -8.0 * (double)(h + 1) / (double)base)
                                   : pow(2, -4.0 * (double)(2 * (h - base) + 1) / (double)base);
        for (size_t h = 0; h < H; h++)
            CHECK(fabs((double)slope[h] - expected[h]) <= EPSILON * expected[h],
                  "head %zu of %zu has slope %g, expected %g", h, H, (double)slope[h], expected[h]);
    }
    alibi_slopes(slope, 8);
    CHECK(slope[0] == (real)0.5 && slope[7] == (real)0.00390625, "8 heads: %g to %g", (double)slope[0],
          (double)slope[7]);
}

static const Test tests[] = {
    {"attention/lengths", "the kernels, forward and backward, are the formula for rows of 1 to 257 tokens", lengths},
    {"attention/tiles", "tiles of 32 to 65536 keys", tiles},
    {"attention/cached", "new queries after a past are the formula", cached},
    {"attention/past", "new queries after a past are the rows of the whole forward, bit for bit", past},
    {"attention/past-of-groups", "one query of every number of heads, with any threads, is the last row of the whole",
     past_of_groups},
    {"attention/blocks", "rows of several lengths over scattered blocks have the bits of contiguous keys", blocks},
    {"attention/shared", "rows that begin in the same blocks, and part as a tree does, have the bits of each alone",
     shared},
    {"attention/batch", "a sequence does not depend on the others in its batch, bit for bit", batches},
    {"attention/band", "band is naive, bit for bit", band_is_naive},
    {"attention/threads", "1, 2, 3 and 8 threads give the same bits", threads},
    {"attention/by-all", "long texts with fewer key heads than threads give the same bits with any", by_all},
    {"attention/slopes", "the slopes of ALiBi for 1 to 16 heads", slopes_of_alibi},
    {"attention/one-key", "one key that takes all the weight, in any tile", one_key_wins},
    {"attention/nan", "a NaN spoils the rows that see it and no others", not_a_number},
};
REGISTER_TESTS(tests)

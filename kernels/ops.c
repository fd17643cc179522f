// ops.c: norms, activations, rotary positions, embeddings, cross-entropy. Each is memory-bound: one
// pass where possible, 16 lanes, rows shared out to threads. Gradients of weights are sums over rows in
// order, with threads owning columns, so that cutting a batch into micro-batches continues the same sum.
#include "kernels/ops.h"
#include "lib/numeric.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"

static real inverse_root(real x) {
#ifdef REAL_DOUBLE
    return 1 / sqrt(x);
#else
    return 1 / sqrtf(x);
#endif
}

// ---- norms ---------------------------------------------------------------------------------------

static void norm_row(real *y, real *mean, real *rstd, const real *x, const real *w, const real *b, size_t C,
                     double eps) {
    vec total = vec_zero(), squares = vec_zero();
    for (size_t i = 0; i < C && mean; i += LANES) total = vec_add(total, vec_load_at(x, i, C));
    real mu = mean ? vec_sum(total) / (real)C : 0;
    vec center = vec_set(mu);
    for (size_t i = 0; i + LANES <= C; i += LANES) {
        vec d = vec_sub(vec_load(x + i), center);
        squares = vec_fma(d, d, squares);
    }
    if (C % LANES) {    // the padding must not count as (0 - mean)^2
        real d[LANES] = {0};
        for (size_t i = C / LANES * LANES; i < C; i++) d[i % LANES] = x[i] - mu;
        squares = vec_fma(vec_load(d), vec_load(d), squares);
    }
    real r = inverse_root(vec_sum(squares) / (real)C + (real)eps);
    vec scale = vec_set(r);
    for (size_t i = 0; i < C; i += LANES) {
        vec n = vec_mul(vec_mul(vec_sub(vec_load_at(x, i, C), center), scale), vec_load_at(w, i, C));
        vec_store_at(y, i, C, b ? vec_add(n, vec_load_at(b, i, C)) : n);
    }
    if (mean) *mean = mu;
    *rstd = r;
}

static size_t norm_numbers(NormShape s) { return s.M * s.groups * s.C; }

void norm_forward(real *y, real *mean, real *rstd, const real *x, const real *w, const real *b, NormShape s) {
    PROFILE(norm_forward, (6 + (mean != NULL) + (b != NULL)) * norm_numbers(s), 2 * norm_numbers(s));
    PARALLEL_ROWS(s.M * s.groups, s.C)
    for (size_t i = 0; i < s.M * s.groups; i++) {
        size_t m = i / s.groups, g = i % s.groups;
        norm_row(y + m * s.y_stride + g * s.C, mean ? mean + i : NULL, rstd + i, x + m * s.x_stride + g * s.C, w, b,
                 s.C, s.eps);
    }
}

// With n = (x - mean) rstd and d = dy w:  dx = rstd (d - mean(d) - n mean(d n)); RMSNorm has no mean(d).
static void norm_row_backward(real *dx, const real *dy, const real *x, const real *w, real mean, real rstd, size_t C,
                              bool center, bool accumulate) {
    vec mu = vec_set(mean), r = vec_set(rstd), sum_d = vec_zero(), sum_dn = vec_zero();
    for (size_t i = 0; i < C; i += LANES) {
        vec d = vec_mul(vec_load_at(dy, i, C), vec_load_at(w, i, C));
        vec n = vec_mul(vec_sub(vec_load_at(x, i, C), mu), r);
        sum_d = vec_add(sum_d, d);
        sum_dn = vec_fma(d, n, sum_dn);     // padding: d is 0 there
    }
    vec mean_d = vec_set(center ? vec_sum(sum_d) / (real)C : 0), mean_dn = vec_set(vec_sum(sum_dn) / (real)C);
    for (size_t i = 0; i < C; i += LANES) {
        vec d = vec_mul(vec_load_at(dy, i, C), vec_load_at(w, i, C));
        vec n = vec_mul(vec_sub(vec_load_at(x, i, C), mu), r);
        vec g = vec_mul(r, vec_sub(vec_sub(d, mean_d), vec_mul(n, mean_dn)));
        vec_store_at(dx, i, C, accumulate ? vec_add(vec_load_at(dx, i, C), g) : g);
    }
}

void norm_backward(real *dx, real *dw, real *db, const real *dy, const real *x, const real *w,
                   const real *mean, const real *rstd, NormShape s, bool accumulate) {
    PROFILE(norm_backward, (17 + (db != NULL) + accumulate) * norm_numbers(s), (3 + accumulate) * norm_numbers(s));
    // Weights first: dx may stand in the memory of dy.
    PARALLEL_ROWS(s.M * s.groups, s.C)
    for (size_t c = 0; c < s.C; c += LANES) {
        vec sum_w = vec_load_at(dw, c, s.C), sum_b = db ? vec_load_at(db, c, s.C) : vec_zero();
        for (size_t i = 0; i < s.M * s.groups; i++) {
            size_t m = i / s.groups, g = i % s.groups;
            vec d = vec_load_at(dy + m * s.y_stride + g * s.C, c, s.C);
            vec n = vec_sub(vec_load_at(x + m * s.x_stride + g * s.C, c, s.C), vec_set(mean ? mean[i] : 0));
            sum_w = vec_fma(d, vec_mul(n, vec_set(rstd[i])), sum_w);
            sum_b = vec_add(sum_b, d);
        }
        vec_store_at(dw, c, s.C, sum_w);
        if (db) vec_store_at(db, c, s.C, sum_b);
    }
    PARALLEL_ROWS(s.M * s.groups, s.C)
    for (size_t i = 0; i < s.M * s.groups; i++) {
        size_t m = i / s.groups, g = i % s.groups, at = m * s.x_stride + g * s.C;
        norm_row_backward(dx + at, dy + m * s.y_stride + g * s.C, x + at, w, mean ? mean[i] : 0, rstd[i], s.C,
                          mean != NULL, accumulate);
    }
}

// ---- dynamic tanh --------------------------------------------------------------------------------

void dyt_forward(real *y, const real *x, const real *alpha, const real *w, const real *b, size_t M, size_t C) {
    PROFILE(norm_forward, (PROFILE_TANH + 3) * M * C, 2 * M * C);
    vec a = vec_set(*alpha);
    PARALLEL_ROWS(M, C)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i += LANES) {
            vec t = vec_tanh(vec_mul(a, vec_load_at(x + m * C, i, C)));
            vec_store_at(y + m * C, i, C, vec_fma(t, vec_load_at(w, i, C), vec_load_at(b, i, C)));
        }
}

// With t = tanh(alpha x) and s = dy w (1 - t^2):  dx = alpha s. Returns the row's part of dalpha, sum(s x).
static real dyt_row_backward(real *dx, const real *dy, const real *x, real alpha, const real *w, size_t C,
                             bool accumulate) {
    vec a = vec_set(alpha), one = vec_set(1), sum = vec_zero();
    for (size_t i = 0; i < C; i += LANES) {
        vec v = vec_load_at(x, i, C), t = vec_tanh(vec_mul(a, v));
        vec s = vec_mul(vec_mul(vec_load_at(dy, i, C), vec_load_at(w, i, C)), vec_sub(one, vec_mul(t, t)));
        sum = vec_fma(s, v, sum);
        vec_store_at(dx, i, C, accumulate ? vec_fma(a, s, vec_load_at(dx, i, C)) : vec_mul(a, s));
    }
    return vec_sum(sum);
}

static void dyt_backward_weight(real *dw, real *db, const real *dy, const real *x, real alpha, size_t M, size_t C) {
    vec a = vec_set(alpha);
    PARALLEL_ROWS(M, C)
    for (size_t i = 0; i < C; i += LANES) {
        vec sum_w = vec_load_at(dw, i, C), sum_b = vec_load_at(db, i, C);
        for (size_t m = 0; m < M; m++) {
            vec d = vec_load_at(dy + m * C, i, C);
            sum_w = vec_fma(d, vec_tanh(vec_mul(a, vec_load_at(x + m * C, i, C))), sum_w);
            sum_b = vec_add(sum_b, d);
        }
        vec_store_at(dw, i, C, sum_w), vec_store_at(db, i, C, sum_b);
    }
}

void dyt_backward(real *dx, real *dalpha, real *dw, real *db, const real *dy, const real *x, const real *alpha,
                  const real *w, size_t M, size_t C, bool accumulate) {
    PROFILE(norm_backward, (2 * PROFILE_TANH + 12 + accumulate) * M * C, (3 + accumulate) * M * C);
    enum { BLOCK = 256 };               // rows that the threads share out before their sums are added in order
    dyt_backward_weight(dw, db, dy, x, *alpha, M, C);      // first: dx may stand in the memory of dy
    for (size_t first = 0; first < M; first += BLOCK) {
        size_t rows = M - first < BLOCK ? M - first : BLOCK;
        real part[BLOCK];
        PARALLEL_ROWS(rows, C)
        for (size_t m = 0; m < rows; m++) {
            size_t at = (first + m) * C;
            part[m] = dyt_row_backward(dx + at, dy + at, x + at, *alpha, w, C, accumulate);
        }
        for (size_t m = 0; m < rows; m++) *dalpha += part[m];
    }
}

// ---- activations ---------------------------------------------------------------------------------

void swiglu_forward(real *y, const real *x, size_t M, size_t F) {
    PROFILE(activation_forward, (PROFILE_SIGMOID + 2) * M * F, 3 * M * F);
    PARALLEL_ROWS(M, F)
    for (size_t m = 0; m < M; m++) {
        const real *gate = x + m * 2 * F, *up = gate + F;
        for (size_t i = 0; i < F; i += LANES) {
            vec g = vec_load_at(gate, i, F);
            vec_store_at(y + m * F, i, F, vec_mul(vec_mul(g, vec_sigmoid(g)), vec_load_at(up, i, F)));
        }
    }
}

// silu'(g) = s + g s (1 - s) with s = sigmoid(g).
void swiglu_backward(real *dx, const real *dy, const real *x, size_t M, size_t F) {
    PROFILE(activation_backward, (PROFILE_SIGMOID + 7) * M * F, 5 * M * F);
    vec one = vec_set(1);
    PARALLEL_ROWS(M, F)
    for (size_t m = 0; m < M; m++) {
        const real *gate = x + m * 2 * F, *up = gate + F;
        for (size_t i = 0; i < F; i += LANES) {
            vec g = vec_load_at(gate, i, F), u = vec_load_at(up, i, F), d = vec_load_at(dy + m * F, i, F);
            vec s = vec_sigmoid(g), silu = vec_mul(g, s);
            vec slope = vec_fma(silu, vec_sub(one, s), s);
            vec_store_at(dx + m * 2 * F, i, F, vec_mul(vec_mul(d, u), slope));
            vec_store_at(dx + m * 2 * F + F, i, F, vec_mul(d, silu));
        }
    }
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3): one sigmoid, no cancellation.
#define GELU_A ((real)1.5957691216057308)            // 2 sqrt(2/pi)
#define GELU_B ((real)(1.5957691216057308 * 0.044715))

void gelu_forward(real *y, const real *x, size_t n) {
    PROFILE(activation_forward, (PROFILE_SIGMOID + 5) * n, 2 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec v = vec_load_at(x, i, n), square = vec_mul(v, v);
        vec u = vec_mul(v, vec_fma(vec_set(GELU_B), square, vec_set(GELU_A)));
        vec_store_at(y, i, n, vec_mul(v, vec_sigmoid(u)));
    }
}

void gelu_backward(real *dx, const real *dy, const real *x, size_t n) {
    PROFILE(activation_backward, (PROFILE_SIGMOID + 12) * n, 3 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec v = vec_load_at(x, i, n), square = vec_mul(v, v);
        vec s = vec_sigmoid(vec_mul(v, vec_fma(vec_set(GELU_B), square, vec_set(GELU_A))));
        vec du = vec_fma(vec_set(3 * GELU_B), square, vec_set(GELU_A));
        vec slope = vec_fma(vec_mul(vec_mul(v, du), s), vec_sub(vec_set(1), s), s);
        vec_store_at(dx, i, n, vec_mul(vec_load_at(dy, i, n), slope));
    }
}

void relu2_forward(real *y, const real *x, size_t n) {
    PROFILE(activation_forward, n, 2 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec v = vec_max(vec_zero(), vec_load_at(x, i, n));     // in this order a NaN stays
        vec_store_at(y, i, n, vec_mul(v, v));
    }
}

void relu2_backward(real *dx, const real *dy, const real *x, size_t n) {
    PROFILE(activation_backward, 2 * n, 3 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec v = vec_max(vec_zero(), vec_load_at(x, i, n));     // in this order a NaN stays
        vec_store_at(dx, i, n, vec_mul(vec_load_at(dy, i, n), vec_add(v, v)));
    }
}

// ---- rotary positions ----------------------------------------------------------------------------

// The pair of dimensions, as a number that need not be whole, that makes `turns` rotations over the trained tokens.
static double pair_that_turns(double turns, double P, double theta, double trained) {
    return P * num_log(trained / (turns * 6.283185307179586)) / (2 * num_log(theta));
}

static double clamp(double x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

// Where the ramp of YaRN is at pair i, from 0 (stays) to 1 (is divided): from beta_fast turns to beta_slow, as whole
// pairs, as in the authors' code. Peng et al. 2023, section 3.2, have it over turns, with the same ends. Where those
// are not among the pairs, it is what transformers makes of them.
static double yarn_ramp(double i, double P, double theta, const RopeScaling *s) {
    double first = pair_that_turns(s->beta_fast > 0 ? s->beta_fast : 32, P, theta, s->trained);
    double last = pair_that_turns(s->beta_slow > 0 ? s->beta_slow : 1, P, theta, s->trained);
    if (!s->fractional) first = floor(first), last = ceil(last);
    first = first > 0 ? first : 0, last = last < P - 1 ? last : P - 1;
    return clamp((i - first) / (last != first ? last - first : 0.001));
}

// That of Llama 3.1, by how often a frequency turns over the trained tokens.
static double llama3_ramp(double frequency, const RopeScaling *s) {
    double turns = s->trained * frequency / 6.283185307179586;
    return 1 - clamp((turns - s->low_freq) / (s->high_freq - s->low_freq));
}

static double rope_frequency(size_t i, size_t P, double theta, const RopeScaling *s) {
    double exponent = -2.0 * (double)i / (double)P, ramp = 1;
    if (s->kind == ROPE_ntk && P > 2) theta *= num_pow(s->factor, (double)P / (double)(P - 2));
    double frequency = num_pow(theta, exponent);
    if (s->kind == ROPE_none || s->kind == ROPE_ntk || s->kind == ROPE_dynamic) return frequency;
    if (s->kind == ROPE_yarn) ramp = yarn_ramp((double)i, (double)P, theta, s);
    if (s->kind == ROPE_llama3) ramp = llama3_ramp(frequency, s);
    return frequency / s->factor * ramp + frequency * (1 - ramp);
}

double rope_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * num_log(factor) + 1; }

void rope_table(real *cosine, real *sine, size_t positions, size_t P, double theta, RopeScaling scaling) {
    double size = scaling.kind != ROPE_yarn ? 1 : scaling.attention > 0 ? scaling.attention
                                                                        : rope_mscale(scaling.factor, 1);
    for (size_t i = 0; i < P / 2; i++) {
        double frequency = rope_frequency(i, P, theta, &scaling);
        for (size_t t = 0; t < positions; t++) {
            double s, c;
            num_sincos((double)t * frequency, &s, &c);
            cosine[t * (P / 2) + i] = (real)(size * c), sine[t * (P / 2) + i] = (real)(size * s);
        }
    }
}

static void rope_head(real *x, const real *cosine, const real *sine, size_t half, bool inverse) {
    for (size_t i = 0; i < half; i += LANES) {
        vec a = vec_load_at(x, i, half), b = vec_load_at(x + half, i, half);
        vec c = vec_load_at(cosine, i, half), s = vec_load_at(sine, i, half);
        if (inverse) s = vec_sub(vec_zero(), s);
        vec minus_s = vec_sub(vec_zero(), s);
        vec_store_at(x, i, half, vec_fma(a, c, vec_mul(b, minus_s)));
        vec_store_at(x + half, i, half, vec_fma(b, c, vec_mul(a, s)));
    }
}

void rope(real *x, size_t stride, size_t heads, size_t head_stride, size_t P, const real *cosine, const real *sine,
          size_t M, size_t T, size_t start, bool inverse) {
    PROFILE(rope, 3 * M * heads * P, 2 * M * heads * P + M * P);
    PARALLEL_ROWS(M, heads * P)
    for (size_t m = 0; m < M; m++) {
        size_t at = (start + m % T) * (P / 2);
        for (size_t h = 0; h < heads; h++)
            rope_head(x + m * stride + h * head_stride, cosine + at, sine + at, P / 2, inverse);
    }
}

// ---- embeddings ----------------------------------------------------------------------------------

void embed_forward(real *y, const real *table, const real *position, const int *token, size_t M, size_t T, size_t start,
                   size_t C) {
    PROFILE(embed_forward, position ? M * C : 0, (position ? 3 : 2) * M * C);
    PARALLEL_ROWS(M, C)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i += LANES) {
            vec v = vec_load_at(table + (size_t)token[m] * C, i, C);
            if (position) v = vec_add(v, vec_load_at(position + (start + m % T) * C, i, C));
            vec_store_at(y + m * C, i, C, v);
        }
}

// Two rows may hold the same token, so threads own columns and go through the rows in order.
void embed_backward(real *dtable, real *dposition, const real *dy, const int *token, size_t M, size_t T, size_t C) {
    PROFILE(embed_backward, (dposition ? 2 : 1) * M * C, (dposition ? 5 : 3) * M * C);
    PARALLEL_ROWS(M, C)
    for (size_t i = 0; i < C; i += LANES)
        for (size_t m = 0; m < M; m++) {
            real *d = dtable + (size_t)token[m] * C, *p = dposition ? dposition + m % T * C : NULL;
            vec g = vec_load_at(dy + m * C, i, C);
            vec_store_at(d, i, C, vec_add(vec_load_at(d, i, C), g));
            if (p) vec_store_at(p, i, C, vec_add(vec_load_at(p, i, C), g));
        }
}

// ---- the residual stream -------------------------------------------------------------------------

void add_scaled(real *y, const real *x, double scale, const real *f, size_t n) {
    PROFILE(residual, 2 * n, 3 * n);
    vec a = vec_set((real)scale);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES)
        vec_store_at(y, i, n, vec_fma(a, vec_load_at(x, i, n), vec_load_at(f, i, n)));
}

double sum_of_squares(const real *x, size_t n) {
    PROFILE(squares, 2 * n, n);
    enum { BLOCK = 4096, BLOCKS = 64 };     // a block's sum is a tree over lanes; blocks add up in order, in double
    double total = 0, part[BLOCKS];
    for (size_t first = 0; first < n; first += BLOCK * BLOCKS) {
        size_t blocks = (n - first + BLOCK - 1) / BLOCK < BLOCKS ? (n - first + BLOCK - 1) / BLOCK : BLOCKS;
        PARALLEL_ROWS(blocks, (size_t)BLOCK)
        for (size_t b = 0; b < blocks; b++) {
            const real *at = x + first + b * BLOCK;
            size_t m = n - first - b * BLOCK < BLOCK ? n - first - b * BLOCK : BLOCK;
            vec sum = vec_zero();
            for (size_t i = 0; i < m; i += LANES) {
                vec v = vec_load_at(at, i, m);
                sum = vec_fma(v, v, sum);
            }
            part[b] = (double)vec_sum(sum);
        }
        for (size_t b = 0; b < blocks; b++) total += part[b];
    }
    return total;
}

// ---- cross-entropy -------------------------------------------------------------------------------

// The largest of a row. Padding is not looked at, so that it never wins.
static real largest(const real *x, size_t V) {
    vec top = vec_set(x[0]);
    size_t i = 0;
    for (; i + LANES <= V; i += LANES) top = vec_max(vec_load(x + i), top);
    if (i < V) top = vec_max(vec_first(V - i, vec_load_n(x + i, V - i), top), top);
    return vec_largest(top);
}

// Sum of exp(x - most); with out, the exponentials are stored there.
static real sum_exp(const real *x, real most, size_t V, real *out) {
    vec sum = vec_zero(), top = vec_set(most);
    size_t i = 0;
    for (; i + LANES <= V; i += LANES) {
        vec e = vec_exp(vec_sub(vec_load(x + i), top));
        sum = vec_add(sum, e);
        if (out) vec_store(out + i, e);
    }
    if (i < V) {
        vec e = vec_exp(vec_sub(vec_load_n(x + i, V - i), top));
        sum = vec_add(sum, vec_first(V - i, e, vec_zero()));
        if (out) vec_store_n(out + i, e, V - i);
    }
    return vec_sum(sum);
}

// A NaN must reach the caller as a NaN: num_log is defined on normal numbers only.
static double log_of(real x) { return x > 0 ? num_log((double)x) : (double)NAN; }

void cross_entropy_forward(double *loss, bool *hit, const real *logits, const int *target, size_t M, size_t V) {
    PROFILE(loss_forward, (PROFILE_EXP + 2) * M * V, M * V);
    PARALLEL_ROWS(M, V)
    for (size_t m = 0; m < M; m++) {
        const real *x = logits + m * V;
        loss[m] = 0;
        if (hit) hit[m] = false;
        if (target[m] < 0) continue;
        real most = largest(x, V);
        loss[m] = log_of(sum_exp(x, most, V, NULL)) + (double)most - (double)x[target[m]];
        if (!hit) continue;
        size_t best = 0;
        while (best < V && x[best] != most) best++;
        hit[m] = best == (size_t)target[m];
    }
}

void cross_entropy_backward(real *logits, const int *target, double scale, size_t M, size_t V) {
    PROFILE(loss_backward, (PROFILE_EXP + 3) * M * V, 2 * M * V);
    PARALLEL_ROWS(M, V)
    for (size_t m = 0; m < M; m++) {
        real *x = logits + m * V;
        if (target[m] < 0) {
            memset(x, 0, V * sizeof *x);
            continue;
        }
        real sum = sum_exp(x, largest(x, V), V, x);
        row_scale(x, x, (real)scale / sum, V);
        x[target[m]] -= (real)scale;
    }
}

double softmax_row(real *x, size_t V) {
    real most = largest(x, V), sum = sum_exp(x, most, V, x);
    row_scale(x, x, 1 / sum, V);
    return log_of(sum) + (double)most;
}

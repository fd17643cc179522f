// gates.c: what stands around the recurrence of a linear attention layer. Everything is done once per number:
// 16 lanes along the channels, rows shared out to threads. Gradients of weights are sums over tokens in order,
// with threads owning channels, so that cutting a batch into micro-batches continues the same sum.
#include "kernels/gates.h"
#include "lib/numeric.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"

// ---- short convolution ---------------------------------------------------------------------------

static vec silu(vec x) { return vec_mul(x, vec_sigmoid(x)); }
static vec silu_slope(vec x) {                               // s + x s (1 - s) with s = sigmoid(x)
    vec s = vec_sigmoid(x);
    return vec_fma(vec_mul(x, s), vec_sub(vec_set(1), s), s);
}

// The token j - (W-1) places after token t of sequence b: in x, or before it in the tail, or nothing.
static const real *conv_source(const real *x, const real *tail, size_t b, size_t t, size_t j, const ConvShape *s) {
    if (t + j + 1 >= s->W) return x + (b * s->T + t + j + 1 - s->W) * s->x_stride;
    return tail ? tail + (t + j) * s->C : NULL;
}

static void conv_token(real *y, real *before, const real *x, const real *w, const real *tail, size_t b, size_t t,
                       const ConvShape *s) {
    for (size_t c = 0; c < s->C; c += LANES) {
        vec sum = vec_zero();
        for (size_t j = 0; j < s->W; j++) {
            const real *from = conv_source(x, tail, b, t, j, s);
            if (from) sum = vec_fma(vec_load_at(w + j * s->C, c, s->C), vec_load_at(from, c, s->C), sum);
        }
        vec_store_at(before, c, s->C, sum);
        vec_store_at(y, c, s->C, silu(sum));
    }
}

// The last W-1 tokens of tail and x together.
static void move_tail(real *tail, const real *x, size_t b, const ConvShape *s) {
    for (size_t i = 0; i + 1 < s->W; i++) {
        const real *from = s->T + i + 1 >= s->W ? x + (b * s->T + s->T + i + 1 - s->W) * s->x_stride
                                                : tail + (s->T + i) * s->C;
        memmove(tail + i * s->C, from, s->C * sizeof *tail);
    }
}

void short_conv_forward(real *y, real *before, const real *x, const real *w, real *tail, size_t tail_step,
                        ConvShape s) {
    size_t M = s.B * s.T;
    PROFILE(conv_forward, (2 * s.W + PROFILE_SIGMOID + 1) * M * s.C, 2 * M * s.C + s.W * s.C + (s.W > 0) * M * s.C);
    PARALLEL_ROWS(M, s.C)
    for (size_t m = 0; m < M; m++) {
        size_t b = m / s.T;
        if (s.W) conv_token(y + m * s.C, before + m * s.C, x, w, tail ? tail + b * tail_step : NULL, b, m % s.T, &s);
        for (size_t c = 0; c < s.C && !s.W; c += LANES)
            vec_store_at(y + m * s.C, c, s.C, silu(vec_load_at(x + m * s.x_stride, c, s.C)));
    }
    for (size_t b = 0; b < s.B && tail && s.W; b++) move_tail(tail + b * tail_step, x, b, &s);
}

// dx_t = sum_j w_j dbefore_{t+W-1-j}
static void conv_token_backward(real *dx, const real *dbefore, const real *w, size_t b, size_t t, const ConvShape *s) {
    for (size_t c = 0; c < s->C; c += LANES) {
        vec sum = vec_zero();
        for (size_t j = s->W; j-- > 0;) {
            size_t later = t + s->W - 1 - j;
            if (later < s->T)
                sum = vec_fma(vec_load_at(w + j * s->C, c, s->C),
                              vec_load_at(dbefore + (b * s->T + later) * s->C, c, s->C), sum);
        }
        vec_store_at(dx, c, s->C, sum);
    }
}

static void conv_weight_backward(real *dw, const real *dbefore, const real *x, size_t c, const ConvShape *s) {
    for (size_t j = 0; j < s->W; j++) {
        vec sum = vec_load_at(dw + j * s->C, c, s->C);
        for (size_t m = 0; m < s->B * s->T; m++) {
            const real *from = conv_source(x, NULL, m / s->T, m % s->T, j, s);
            if (from) sum = vec_fma(vec_load_at(dbefore + m * s->C, c, s->C), vec_load_at(from, c, s->C), sum);
        }
        vec_store_at(dw + j * s->C, c, s->C, sum);
    }
}

void short_conv_backward(real *dx, real *dw, real *dy, const real *before, const real *x, const real *w, ConvShape s) {
    size_t M = s.B * s.T;
    PROFILE(conv_backward, (4 * s.W + PROFILE_SIGMOID + 5) * M * s.C, (3 + (s.W > 0)) * M * s.C + 3 * s.W * s.C);
    PARALLEL_ROWS(M, s.C)
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < s.C; c += LANES) {
            vec slope = silu_slope(vec_load_at(s.W ? before + m * s.C : x + m * s.x_stride, c, s.C));
            vec_store_at(s.W ? dy + m * s.C : dx + m * s.x_stride, c, s.C,
                         vec_mul(vec_load_at(dy + m * s.C, c, s.C), slope));
        }
    if (!s.W) return;
    PARALLEL_ROWS(M, s.C)
    for (size_t c = 0; c < s.C; c += LANES) conv_weight_backward(dw, dy, x, c, &s);
    PARALLEL_ROWS(M, s.C)
    for (size_t m = 0; m < M; m++) conv_token_backward(dx + m * s.x_stride, dy, w, m / s.T, m % s.T, &s);
}

// ---- features ------------------------------------------------------------------------------------

static real unit_scale(const real *x, size_t K) {            // 1 / sqrt(|x|^2 + 1e-6)
    real root[LANES];
    vec_store(root, vec_sqrt(vec_set(row_dot(x, x, K) + (real)1e-6)));
    return 1 / root[0];
}

// Per number: exp and its sum, or the squares and a product.
static size_t feature_flops(FeatureShape s) {
    return s.feature == FEATURE_ELU ? PROFILE_EXP + 2 : s.feature == FEATURE_UNIT ? 3 : 1;
}

void feature_forward(real *y, const real *x, FeatureShape s) {
    PROFILE(gate_forward, feature_flops(s) * s.M * s.heads * s.K, 2 * s.M * s.heads * s.K);
    PARALLEL_ROWS(s.M, s.heads * s.K)
    for (size_t m = 0; m < s.M; m++)
        for (size_t h = 0; h < s.heads; h++) {
            const real *from = x + m * s.x_stride + h * s.K;
            real *to = y + m * s.y_stride + h * s.K;
            vec by = vec_set(s.feature == FEATURE_UNIT ? unit_scale(from, s.K) * (real)s.scale : (real)s.scale);
            for (size_t d = 0; d < s.K; d += LANES) {
                vec v = vec_load_at(from, d, s.K), zero = vec_zero();
                if (s.feature == FEATURE_ELU)
                    v = vec_select_less(zero, v, vec_add(v, vec_set(1)), vec_exp(vec_min(v, zero)));
                vec_store_at(to, d, s.K, vec_mul(v, by));
            }
        }
}

// elu': 1 above 0, e^x below. A unit vector y = x r has dx = r (dy - y (y . dy)).
void feature_backward(real *dx, const real *dy, const real *x, FeatureShape s) {
    PROFILE(gate_backward, (feature_flops(s) + (s.feature == FEATURE_UNIT ? 6 : 0)) * s.M * s.heads * s.K,
            3 * s.M * s.heads * s.K);
    PARALLEL_ROWS(s.M, s.heads * s.K)
    for (size_t m = 0; m < s.M; m++)
        for (size_t h = 0; h < s.heads; h++) {
            const real *from = x + m * s.x_stride + h * s.K, *g = dy + m * s.y_stride + h * s.K;
            real *to = dx + m * s.x_stride + h * s.K;
            real r = s.feature == FEATURE_UNIT ? unit_scale(from, s.K) : 1;
            vec dot = vec_zero(), by = vec_set(r * (real)s.scale);
            for (size_t d = 0; d < s.K && s.feature == FEATURE_UNIT; d += LANES)
                dot = vec_fma(vec_load_at(from, d, s.K), vec_load_at(g, d, s.K), dot);
            vec inside = vec_set(-vec_sum(dot) * r * r);
            for (size_t d = 0; d < s.K; d += LANES) {
                vec v = vec_load_at(from, d, s.K), slope = vec_load_at(g, d, s.K), zero = vec_zero();
                if (s.feature == FEATURE_UNIT) slope = vec_fma(v, inside, slope);
                if (s.feature == FEATURE_ELU)
                    slope = vec_mul(slope, vec_select_less(zero, v, vec_set(1), vec_exp(vec_min(v, zero))));
                vec_store_at(to, d, s.K, vec_mul(slope, by));
            }
        }
}

// ---- gates ---------------------------------------------------------------------------------------

void sigmoid_forward(real *y, const real *x, size_t x_stride, size_t M, size_t N) {
    PROFILE(gate_forward, PROFILE_SIGMOID * M * N, 2 * M * N);
    PARALLEL_ROWS(M, N)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < N; i += LANES)
            vec_store_at(y + m * N, i, N, vec_sigmoid(vec_load_at(x + m * x_stride, i, N)));
}

void sigmoid_backward(real *dx, size_t x_stride, const real *dy, const real *y, size_t M, size_t N) {
    PROFILE(gate_backward, 3 * M * N, 3 * M * N);
    PARALLEL_ROWS(M, N)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < N; i += LANES) {
            vec s = vec_load_at(y + m * N, i, N), slope = vec_mul(s, vec_sub(vec_set(1), s));
            vec_store_at(dx + m * x_stride, i, N, vec_mul(vec_load_at(dy + m * N, i, N), slope));
        }
}

// The sixteenth root is four square roots.
void key_decay_forward(real *decay, const real *x, size_t n) {
    PROFILE(gate_forward, (PROFILE_SIGMOID + 4) * n, 2 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec s = vec_sigmoid(vec_load_at(x, i, n));
        for (int root = 0; root < 4; root++) s = vec_sqrt(s);
        vec_store_at(decay, i, n, s);
    }
}

// d log sigmoid(x) / 16 = (1 - sigmoid(x)) / 16
void key_decay_backward(real *dx, const real *dlog, const real *x, size_t n) {
    PROFILE(gate_backward, (PROFILE_SIGMOID + 3) * n, 3 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec slope = vec_mul(vec_sub(vec_set(1), vec_sigmoid(vec_load_at(x, i, n))), vec_set((real)(1. / 16)));
        vec_store_at(dx, i, n, vec_mul(vec_load_at(dlog, i, n), slope));
    }
}

// One number per token and head: scalar functions in double precision are fast enough.
enum { HEAD_DECAY_FLOPS = 100 };     // of num_exp and num_log, twice

static double softplus(double x) { return x > 30 || isnan(x) ? x : num_log(1 + num_exp(x)); }

void head_decay_forward(real *decay, real *step, const real *x, size_t x_stride, const real *rate, const real *shift,
                        size_t M, size_t H) {
    PROFILE(gate_forward, HEAD_DECAY_FLOPS * M * H, (2 + !!step) * M * H + 2 * H);
    PARALLEL_ROWS(M, H * HEAD_DECAY_FLOPS)
    for (size_t m = 0; m < M; m++)
        for (size_t h = 0; h < H; h++) {
            double size = softplus((double)x[m * x_stride + h] + (double)shift[h]);
            decay[m * H + h] = (real)num_exp(-num_exp((double)rate[h]) * size);
            if (step) step[m * H + h] = (real)size;
        }
}

// With log decay = - exp(rate) step: its derivatives are - exp(rate), and itself; that of a step is sigmoid(x + shift).
void head_decay_backward(real *dx, size_t x_stride, real *drate, real *dshift, const real *dlog, const real *dstep,
                         const real *x, const real *rate, const real *shift, size_t M, size_t H) {
    PROFILE(gate_backward, HEAD_DECAY_FLOPS * M * H, (3 + !!dstep) * M * H + 6 * H);
    PARALLEL_ROWS(H, M * HEAD_DECAY_FLOPS)
    for (size_t h = 0; h < H; h++)
        for (size_t m = 0; m < M; m++) {
            double z = (double)x[m * x_stride + h] + (double)shift[h],
                   d = (double)dlog[m * H + h] * -num_exp((double)rate[h]), size = d;
            if (dstep) size += (double)dstep[m * H + h];
            real slope = (real)(size / (1 + num_exp(-z)));
            dx[m * x_stride + h] = slope;
            dshift[h] += slope;
            drate[h] += (real)(d * softplus(z));
        }
}

void skip_forward(real *y, const real *x, size_t x_stride, const real *by, size_t M, size_t H, size_t V) {
    PROFILE(gate_forward, 2 * M * H * V, 3 * M * H * V + H);
    PARALLEL_ROWS(M, H * V)
    for (size_t m = 0; m < M; m++)
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < V; i += LANES) {
                real *to = y + (m * H + h) * V;
                vec_store_at(to, i, V, vec_fma(vec_set(by[h]), vec_load_at(x + m * x_stride + h * V, i, V),
                                               vec_load_at(to, i, V)));
            }
}

void skip_backward(real *dx, real *dby, const real *dy, const real *x, size_t x_stride, const real *by, size_t M,
                   size_t H, size_t V) {
    PROFILE(gate_backward, 4 * M * H * V, 4 * M * H * V + 3 * H);
    PARALLEL_ROWS(H, M * V)
    for (size_t h = 0; h < H; h++)
        for (size_t m = 0; m < M; m++) {
            const real *d = dy + (m * H + h) * V;
            size_t at = m * x_stride + h * V;
            vec dot = vec_zero();
            for (size_t i = 0; i < V; i += LANES) {
                vec slope = vec_load_at(d, i, V);
                dot = vec_fma(slope, vec_load_at(x + at, i, V), dot);
                vec_store_at(dx + at, i, V, vec_fma(vec_set(by[h]), slope, vec_load_at(dx + at, i, V)));
            }
            dby[h] += vec_sum(dot);
        }
}

void silu_gate_forward(real *y, const real *x, const real *gate, size_t gate_stride, size_t M, size_t N) {
    PROFILE(gate_forward, (PROFILE_SIGMOID + 2) * M * N, 3 * M * N);
    PARALLEL_ROWS(M, N)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < N; i += LANES)
            vec_store_at(y + m * N, i, N,
                         vec_mul(vec_load_at(x + m * N, i, N), silu(vec_load_at(gate + m * gate_stride, i, N))));
}

void silu_gate_backward(real *dx, real *dgate, const real *dy, const real *x, const real *gate, size_t gate_stride,
                        size_t M, size_t N) {
    PROFILE(gate_backward, (PROFILE_SIGMOID + 7) * M * N, 5 * M * N);
    PARALLEL_ROWS(M, N)
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < N; i += LANES) {
            vec z = vec_load_at(gate + m * gate_stride, i, N), d = vec_load_at(dy + m * N, i, N);
            vec slope = vec_mul(vec_mul(d, vec_load_at(x + m * N, i, N)), silu_slope(z));
            vec_store_at(dx + m * N, i, N, vec_mul(d, silu(z)));
            vec_store_at(dgate + m * gate_stride, i, N, slope);
        }
}

void sigmoid_gate_forward(real *y, const real *x, const real *gate, size_t n) {
    PROFILE(gate_forward, (PROFILE_SIGMOID + 1) * n, 3 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES)
        vec_store_at(y, i, n, vec_mul(vec_load_at(x, i, n), vec_sigmoid(vec_load_at(gate, i, n))));
}

void sigmoid_gate_backward(real *dx, real *dgate, const real *dy, const real *x, const real *gate, size_t n) {
    PROFILE(gate_backward, (PROFILE_SIGMOID + 5) * n, 5 * n);
    PARALLEL_ROWS(n, 1)
    for (size_t i = 0; i < n; i += LANES) {
        vec s = vec_sigmoid(vec_load_at(gate, i, n)), d = vec_load_at(dy, i, n), open = vec_mul(d, s);
        vec slope = vec_mul(open, vec_sub(vec_set(1), s));
        vec_store_at(dx, i, n, open);
        vec_store_at(dgate, i, n, vec_mul(slope, vec_load_at(x, i, n)));
    }
}

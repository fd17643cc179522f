// test_ops.c: norms, activations, rotary positions, embeddings, cross-entropy and the vectors under them,
// each against a twin in double precision written here from its formula, and against itself with other
// numbers of threads, bit for bit.
//
// Tolerances count units in the last place (EPSILON) of max(1, |expected|). Inputs are of order 1 and a
// sum of C terms is made of 16 lanes, so a result is at most some 16 + C/16 roundings away from exact.
#include "tests/arrays.h"
#include "kernels/ops.h"
#include "lib/simd.h"
#include <omp.h>
#include <stdlib.h>

static const size_t widths[] = {1, 2, 3, 15, 16, 17, 31, 33, 64, 100};
enum { WIDTHS = sizeof widths / sizeof *widths };

static double tolerance(size_t C) { return (16 + (double)C / 16) * EPSILON; }
static double *exact(size_t n) { return array_bytes(n * sizeof(double)); }

static void close_to(const char *what, const real *found, const double *expected, size_t n, double allowed) {
    double error = largest_error(found, expected, n);
    CHECK(error <= allowed, "%s: off by %.3g, allowed %.3g", what, error, allowed);
}

// ---- vectors -------------------------------------------------------------------------------------

static void largest_is_a_tree(const real *x) {
    real *tree = array_copy(x, LANES), largest = vec_largest(vec_load(x));
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) tree[i] = tree[i] > tree[i + half] ? tree[i] : tree[i + half];
    CHECK(same_bits(&largest, tree, 1), "vec_largest is %.9g, its tree %.9g", (double)largest, (double)tree[0]);
}

static void vectors(void) {
    Rng r = rng_stream(2, RNG_TEST, 0);
    real special[] = {0, -(real)0.0, 1, -1, (real)NAN, (real)INFINITY, -(real)INFINITY, 2};
    for (int draw = 0; draw < 1000; draw++) {
        real *x = array_random(LANES, &r), *y = array_random(LANES, &r), *z = array(LANES),
             *tree = array_copy(x, LANES);
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++) tree[i] += tree[i + half];
        real sum = vec_sum(vec_load(x));
        CHECK(same_bits(&sum, tree, 1), "vec_sum is %.9g, its tree %.9g", (double)sum, (double)tree[0]);
        largest_is_a_tree(x);
        for (int i = 0; i < LANES; i++)
            x[i] = rng_below(&r, 2) ? special[rng_below(&r, 8)] : x[i], y[i] = special[rng_below(&r, 8)];
        largest_is_a_tree(x);
        for (int i = 0; i < LANES; i++) z[i] = x[i] > y[i] ? x[i] : y[i];
        vec_store(tree, vec_max(vec_load(x), vec_load(y)));
        CHECK(same_bits(tree, z, LANES), "vec_max is not a > b ? a : b on zeros, infinities or NaN");
        for (int i = 0; i < LANES; i++) z[i] = x[i] < y[i] ? x[i] : y[i];
        vec_store(tree, vec_min(vec_load(x), vec_load(y)));
        CHECK(same_bits(tree, z, LANES), "vec_min is not a < b ? a : b on zeros, infinities or NaN");
        for (int i = 0; i < LANES; i++) z[i] = x[i] < y[i] ? 3 : 4;
        vec_store(tree, vec_select_less(vec_load(x), vec_load(y), vec_set(3), vec_set(4)));
        CHECK(same_bits(tree, z, LANES), "vec_select_less on zeros, infinities or NaN");
        arrays_free();
    }
}

// Neither a partial load nor a partial store touches what lies beyond n: a fence stands there.
static void partial(void) {
    Rng r = rng_stream(2, RNG_TEST, 1);
    for (size_t n = 1; n < LANES; n++) {
        real *x = array_random(n, &r), *y = array(n), *all = array(LANES);
        vec_store(all, vec_load_n(x, n));
        vec_store_n(y, vec_load_n(x, n), n);
        for (size_t i = 0; i < LANES; i++) CHECK(all[i] == (i < n ? x[i] : 0), "lane %zu of %zu", i, n);
        CHECK(same_bits(x, y, n), "vec_store_n of %zu", n);
        arrays_free();
    }
}

static void transposing(void) {
    vec v[LANES];
    real row[LANES];
    for (int i = 0; i < LANES; i++) {
        for (int j = 0; j < LANES; j++) row[j] = (real)(100 * i + j);
        v[i] = vec_load(row);
    }
    vec_transpose(v);
    for (int i = 0; i < LANES; i++) {
        vec_store(row, v[i]);
        for (int j = 0; j < LANES; j++)
            CHECK(row[j] == (real)(100 * j + i), "row %d column %d is %g", i, j, (double)row[j]);
    }
}

static void turning(void) {
    enum { STRIDE = 7 };
    real rows[LANES * STRIDE], found[LANES];
    vec x[4];
    for (int i = 0; i < LANES * STRIDE; i++) rows[i] = (real)i;
    vec_turn(x, rows + 2, STRIDE);
    for (int i = 0; i < 4; i++) {
        vec_store(found, x[i]);
        for (int j = 0; j < LANES; j++)
            CHECK(found[j] == (real)(j * STRIDE + 2 + i), "number %d of row %d is %g", i, j, (double)found[j]);
    }
}

static double units_off(real found, double expected) {          // in units of the last place of the expected float
    int exponent;
    frexp(expected, &exponent);
    return fabs((double)found - expected) / ldexp(EPSILON, exponent - 1);
}

// Measured on every fifth float of [-87, 88]: at most 0.94 units in the last place (here: two million arguments).
static void exponential(void) {
    double worst = 0;
    real x[LANES], y[LANES];
    for (int i = 0; i < 2000000; i += LANES) {
        for (int j = 0; j < LANES; j++) x[j] = (real)(-87 + 175 * ((i + j) / 2000000.0));
        vec_store(y, vec_exp(vec_load(x)));
        for (int j = 0; j < LANES; j++) worst = fmax(worst, units_off(y[j], exp((double)x[j])));
    }
    CHECK(worst <= 1, "exp is off by %.3f units in the last place", worst);
}

static real exp_of(double x) {
    real y[LANES];
    vec_store(y, vec_exp(vec_set((real)x)));
    return y[0];
}
static real sigmoid_of(double x) {
    real y[LANES];
    vec_store(y, vec_sigmoid(vec_set((real)x)));
    return y[0];
}

// In float the exponential is 0 below -87 and stays at e^88 above 88, so that nothing overflows. The double
// build has the C library's.
static void exponential_special(void) {
    CHECK(exp_of(0) == 1 && exp_of(-0.0) == 1, "exp(0) is %g, exp(-0) is %g", (double)exp_of(0), (double)exp_of(-0.0));
    CHECK(exp_of(-INFINITY) == 0 && exp_of(-1000) == 0, "exp(-infinity) is %g, exp(-1000) %g",
          (double)exp_of(-INFINITY), (double)exp_of(-1000));
    CHECK(isnan(exp_of(NAN)), "exp(NaN) is %g", (double)exp_of(NAN));
    CHECK(sigmoid_of(1e30) == 1 && sigmoid_of(0) == (real)0.5, "sigmoid(1e30) is %g, sigmoid(0) %g",
          (double)sigmoid_of(1e30), (double)sigmoid_of(0));
    CHECK(sigmoid_of(-1e30) >= 0 && sigmoid_of(-1e30) < (real)1e-37, "sigmoid(-1e30) is %g", (double)sigmoid_of(-1e30));
    if (sizeof(real) == sizeof(double)) CHECK(isinf(exp_of(1e30)), "exp(1e30) is %g", (double)exp_of(1e30));
    else
        CHECK(exp_of(1e30) == exp_of(88) && exp_of(INFINITY) == exp_of(88) && exp_of(-87.01) == 0, "exp(1e30) is %g",
              (double)exp_of(1e30));
}

// Measured: at most 1.4 units, just above 0.625.
static void hyperbolic_tangent(void) {
    double worst = 0;
    real x[LANES], y[LANES];
    for (int i = -500000; i < 500000; i += LANES) {
        for (int j = 0; j < LANES; j++) x[j] = (real)((i + j) * (i / LANES % 2 ? 2e-5 : 2e-6));
        vec_store(y, vec_tanh(vec_load(x)));
        for (int j = 0; j < LANES; j++)
            if (x[j] != 0) worst = fmax(worst, units_off(y[j], tanh((double)x[j])));
    }
    CHECK(worst <= 2, "tanh is off by %.3f units in the last place", worst);
    const double special[] = {0, 1e-30, 30, 1e30, INFINITY};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            vec_store(y, vec_tanh(vec_set((real)(sign * special[i]))));
            CHECK(y[0] == (real)tanh((double)(real)(sign * special[i])), "tanh(%g) is %g", sign * special[i],
                  (double)y[0]);
        }
    vec_store(y, vec_tanh(vec_set((real)NAN)));
    CHECK(isnan(y[0]), "tanh(NaN) is %g", (double)y[0]);
}

// ---- norms ---------------------------------------------------------------------------------------

typedef struct { NormShape s; bool center, bias; real *x, *w, *b, *dy; } NormCase;

static NormCase make_norm(size_t C, size_t groups, size_t gap, bool center, bool bias, Rng *r) {
    NormCase c = {.s = {.M = 5, .groups = groups, .C = C, .x_stride = groups * C + gap,
                        .y_stride = groups * C + 2 * gap, .eps = 1e-3}, .center = center, .bias = bias};
    c.x = array_random(4 * c.s.x_stride + groups * C, r), c.w = array_random(C, r),
    c.b = bias ? array_random(C, r) : NULL;
    c.dy = array_random(4 * c.s.y_stride + groups * C, r);
    for (size_t i = 0; i < C && center; i++) c.x[i] += 3;        // a mean that is not nearly zero
    return c;
}

// n_j = (x_j - mean) rstd and, from dn_i/dx_j = rstd ([i = j] - [center]/C - n_i n_j / C), the gradients.
static void norm_by_formula(const NormCase *c, double *y, double *dx, double *dw, double *db) {
    size_t C = c->s.C;
    double *n = exact(C);
    for (size_t v = 0; v < c->s.M * c->s.groups; v++) {
        size_t at = v / c->s.groups * c->s.x_stride + v % c->s.groups * C,
               to = v / c->s.groups * c->s.y_stride + v % c->s.groups * C;
        double mean = 0, square = 0;
        for (size_t i = 0; i < C && c->center; i++) mean += (double)c->x[at + i] / (double)C;
        for (size_t i = 0; i < C; i++)
            square += ((double)c->x[at + i] - mean) * ((double)c->x[at + i] - mean) / (double)C;
        double rstd = 1 / sqrt(square + c->s.eps);
        for (size_t i = 0; i < C; i++) {
            n[i] = ((double)c->x[at + i] - mean) * rstd;
            y[to + i] = n[i] * (double)c->w[i] + (c->b ? (double)c->b[i] : 0);
            dw[i] += (double)c->dy[to + i] * n[i], db[i] += (double)c->dy[to + i];
        }
        for (size_t j = 0; j < C; j++)
            for (size_t i = 0; i < C; i++)
                dx[at + j] += (double)c->dy[to + i] * (double)c->w[i] * rstd *
                              ((double)(i == j) - c->center / (double)C - n[i] * n[j] / (double)C);
    }
}

static void check_norm(NormCase c, bool accumulate, bool in_place, Rng *r) {
    size_t C = c.s.C, rows = c.s.M * c.s.groups, nx = 4 * c.s.x_stride + c.s.groups * C,
           ny = 4 * c.s.y_stride + c.s.groups * C;
    real *y = array_random(ny, r), *dx = in_place ? array_copy(c.dy, ny) : array_random(nx, r),
         *dw = array_random(C, r), *db = array_random(C, r);
    real *mean = c.center ? array(rows) : NULL, *rstd = array(rows);
    double *ey = exact(ny), *edx = exact(nx), *edw = exact(C), *edb = exact(C);
    for (size_t i = 0; i < ny; i++) ey[i] = (double)y[i];         // gaps stay as they are
    for (size_t i = 0; i < nx; i++) edx[i] = accumulate || i % c.s.x_stride >= c.s.groups * C ? (double)dx[i] : 0;
    for (size_t i = 0; i < C; i++) edw[i] = (double)dw[i], edb[i] = (double)db[i];
    norm_by_formula(&c, ey, edx, edw, edb);
    norm_forward(y, mean, rstd, c.x, c.w, c.b, c.s);
    norm_backward(dx, dw, c.bias ? db : NULL, in_place ? dx : c.dy, c.x, c.w, mean, rstd, c.s, accumulate);
    // rstd can be as large as 1/sqrt(eps) = 32 and multiplies what was rounded before it, twice in dx.
    close_to("norm", y, ey, ny, 8 * tolerance(C));
    close_to("norm, d input", dx, edx, nx, 32 * tolerance(C));
    close_to("norm, d weight", dw, edw, C, 8 * tolerance(C));
    if (c.bias) close_to("norm, d bias", db, edb, C, tolerance(C));
    arrays_free();
}

static void norms(void) {
    Rng r = rng_stream(2, RNG_TEST, 2);
    for (size_t i = 0; i < WIDTHS; i++)
        for (unsigned options = 0; options < 32; options++) {
            bool center = options & 1, bias = options & 2, accumulate = options & 4, gap = options & 8,
                 groups = options & 16;
            check_norm(make_norm(widths[i], groups ? 3 : 1, gap ? 5 : 0, center, bias, &r), accumulate,
                       !accumulate && !gap, &r);
        }
}

// The gradients of the weights of rows 0..M-1 are those of the first rows, then of the others, in the same bits.
static void norms_cut(void) {
    Rng r = rng_stream(2, RNG_TEST, 3);
    NormCase c = make_norm(37, 3, 0, true, true, &r);
    size_t C = c.s.C, row = c.s.x_stride;
    real *y = array(5 * row), *mean = array(15), *rstd = array(15), *dx = array(5 * row), *dw[2], *db[2];
    norm_forward(y, mean, rstd, c.x, c.w, c.b, c.s);
    for (int cut = 0; cut < 2; cut++) {
        dw[cut] = array(C), db[cut] = array(C);
        NormShape first = c.s, rest = c.s;
        first.M = cut ? 2 : 5, rest.M = 3;
        norm_backward(dx, dw[cut], db[cut], c.dy, c.x, c.w, mean, rstd, first, false);
        if (cut)
            norm_backward(dx + 2 * row, dw[cut], db[cut], c.dy + 2 * row, c.x + 2 * row, c.w, mean + 6, rstd + 6, rest,
                          false);
    }
    CHECK(same_bits(dw[0], dw[1], C) && same_bits(db[0], db[1], C), "a batch cut in two gives other gradients");
    arrays_free();
}

// y = w t + b with t = tanh(a x); the gradient of a sums over all of x. Rows come in two parts, as micro-batches
// would bring them, so that a sum which did not go on where it was left would be seen.
static void check_dyt(size_t M, size_t C, bool accumulate, Rng *r) {
    real *x = array_random(M * C, r), *dy = array_random(M * C, r), *w = array_random(C, r), *b = array_random(C, r);
    real *y = array(M * C), *dx = array_random(M * C, r), *dw = array_random(C, r), *db = array_random(C, r);
    real a = (real)0.7, da = 3;
    double *ey = exact(M * C), *edx = exact(M * C), *edw = exact(C), *edb = exact(C), eda = 3;
    for (size_t i = 0; i < C; i++) edw[i] = (double)dw[i], edb[i] = (double)db[i];
    for (size_t i = 0; i < M * C; i++) {
        double t = tanh((double)a * (double)(x[i] *= 3)), d = (double)dy[i], s = d * (double)w[i % C] * (1 - t * t);
        ey[i] = (double)w[i % C] * t + (double)b[i % C];
        edx[i] = (accumulate ? (double)dx[i] : 0) + (double)a * s;
        edw[i % C] += d * t, edb[i % C] += d, eda += s * (double)x[i];
    }
    real whole = da, *unused = array(M * C), *sums = array(2 * C);
    dyt_forward(y, x, &a, w, b, M, C);
    dyt_backward(unused, &whole, sums, sums + C, dy, x, &a, w, M, C, false);
    dyt_backward(dx, &da, dw, db, dy, x, &a, w, M / 3, C, accumulate);
    size_t at = M / 3 * C;
    dyt_backward(dx + at, &da, dw, db, dy + at, x + at, &a, w, M - M / 3, C, accumulate);
    CHECK(same_bits(&whole, &da, 1), "%zu rows of %zu: a batch cut in two gives another gradient of alpha", M, C);
    close_to("dyt", y, ey, M * C, tolerance(C)), close_to("dyt, d input", dx, edx, M * C, tolerance(C));
    close_to("dyt, d weight", dw, edw, C, (double)M * EPSILON + tolerance(C));
    close_to("dyt, d bias", db, edb, C, (double)M * EPSILON + tolerance(C));
    close_to("dyt, d alpha", &da, &eda, 1, (double)M * tolerance(C));
    arrays_free();
}

static void dynamic_tanh(void) {
    Rng r = rng_stream(2, RNG_TEST, 13);
    for (size_t i = 0; i < WIDTHS; i++) check_dyt(7, widths[i], i % 2, &r), check_dyt(600, widths[i], !(i % 2), &r);
}

// ---- activations ---------------------------------------------------------------------------------

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) {
    double k = sqrt(2 / 3.14159265358979324), t = tanh(k * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
}

// Inputs from -8 to 8 and a few far out. A sigmoid is good to 3 units; its argument, for GELU, is a cubic
// that reaches 30 and whose relative error the exponential multiplies by 30: so 64 units.
static void activations(void) {
    Rng r = rng_stream(2, RNG_TEST, 4);
    const double allowed = 64 * EPSILON;
    for (size_t i = 0; i < WIDTHS; i++) {
        size_t M = 7, F = widths[i], n = M * F;
        real *x = array_random(2 * n, &r), *dy = array_random(n, &r), *y = array(n), *dx = array(2 * n);
        double *ey = exact(n), *edx = exact(2 * n);
        for (size_t j = 0; j < 2 * n; j++) x[j] *= j % 13 == 5 ? 90 : 8;
        for (size_t j = 0; j < n; j++) {
            size_t at = j / F * 2 * F + j % F;
            double g = (double)x[at], u = (double)x[at + F], s = sigmoid(g), d = (double)dy[j];
            ey[j] = g * s * u, edx[at] = d * u * (s + g * s * (1 - s)), edx[at + F] = d * g * s;
        }
        swiglu_forward(y, x, M, F), swiglu_backward(dx, dy, x, M, F);
        close_to("swiglu", y, ey, n, allowed), close_to("swiglu, gradient", dx, edx, 2 * n, allowed);
        for (size_t j = 0; j < n; j++) ey[j] = gelu((double)x[j]), edx[j] = (double)dy[j] * gelu_slope((double)x[j]);
        gelu_forward(y, x, n), gelu_backward(dx, dy, x, n);
        close_to("gelu", y, ey, n, allowed), close_to("gelu, gradient", dx, edx, n, allowed);
        for (size_t j = 0; j < n; j++)
            ey[j] = x[j] > 0 ? (double)x[j] * (double)x[j] : 0,
            edx[j] = x[j] > 0 ? 2 * (double)dy[j] * (double)x[j] : 0;
        relu2_forward(y, x, n), relu2_backward(dx, dy, x, n);
        close_to("relu2", y, ey, n, allowed), close_to("relu2, gradient", dx, edx, n, allowed);
        arrays_free();
    }
}

// A NaN must come out as a NaN, or a broken model would look sound.
static void activations_of_nan(void) {
    real x[2] = {(real)NAN, 1}, dy[1] = {1}, y[1], dx[2];
    relu2_forward(y, x, 1), relu2_backward(dx, dy, x, 1);
    CHECK(isnan(y[0]) && isnan(dx[0]), "squared ReLU of NaN is %g, its gradient %g", (double)y[0], (double)dx[0]);
    gelu_forward(y, x, 1), gelu_backward(dx, dy, x, 1);
    CHECK(isnan(y[0]) && isnan(dx[0]), "GELU of NaN is %g, its gradient %g", (double)y[0], (double)dx[0]);
    swiglu_forward(y, x, 1, 1), swiglu_backward(dx, dy, x, 1, 1);
    CHECK(isnan(y[0]) && isnan(dx[0]) && isnan(dx[1]), "SwiGLU of NaN is %g, its gradient %g %g", (double)y[0],
          (double)dx[0], (double)dx[1]);
}

// ---- rotary positions ----------------------------------------------------------------------------

enum { POSITIONS = 40 };
typedef struct { real *cosine, *sine; } Table;
static Table make_scaled_table(size_t P, RopeScaling s) {
    Table t = {array(POSITIONS * (P / 2)), array(POSITIONS * (P / 2))};
    rope_table(t.cosine, t.sine, POSITIONS, P, 10000, s);
    return t;
}
static RopeScaling scaling(int kind, double factor, double trained) {
    return (RopeScaling){.kind = kind, .factor = factor, .trained = trained};
}
static Table make_table(size_t P) { return make_scaled_table(P, (RopeScaling){0}); }

static void rotary(void) {
    Rng r = rng_stream(2, RNG_TEST, 5);
    for (size_t P = 2; P <= 70; P += P < 4 || P == 30 ? 2 : 14)
        for (int gap = 0; gap < 2; gap++) {
            size_t T = 5, M = 15, start = 9, heads = 3, head = P + (gap ? 3 : 0), stride = heads * head + (gap ? 2 : 0),
                   n = M * stride;
            Table t = make_table(P);
            real *x = array_random(n, &r), *y = array_copy(x, n);
            double *e = exact(n);
            for (size_t i = 0; i < n; i++) e[i] = (double)x[i];
            for (size_t m = 0; m < M; m++)
                for (size_t h = 0; h < heads; h++)
                    for (size_t d = 0; d < P / 2; d++) {
                        size_t at = m * stride + h * head + d;
                        double angle = (double)(start + m % T) * pow(10000, -2.0 * (double)d / (double)P),
                               a = (double)x[at], b = (double)x[at + P / 2];
                        e[at] = a * cos(angle) - b * sin(angle), e[at + P / 2] = a * sin(angle) + b * cos(angle);
                    }
            rope(y, stride, heads, head, P, t.cosine, t.sine, M, T, start, false);
            close_to("rope", y, e, n, tolerance(1));
            rope(y, stride, heads, head, P, t.cosine, t.sine, M, T, start, true);
            for (size_t i = 0; i < n; i++) e[i] = (double)x[i];
            close_to("rope and back", y, e, n, tolerance(1));
            for (size_t i = 0; i < n; i++)
                if (i % stride >= heads * head || i % stride % head >= P)
                    CHECK(same_bits(x + i, y + i, 1), "rope touches number %zu", i);
            arrays_free();
        }
}

static double dot(const real *a, const real *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

// The inverse is the transpose: <R x, y> = <x, R' y>; and a score depends on the distance of two positions only.
static void rotary_properties(void) {
    enum { P = 22 };
    Rng r = rng_stream(2, RNG_TEST, 6);
    Table t = make_scaled_table(P, scaling(ROPE_yarn, 4, 40));     // with a factor on top of the rotation
    for (size_t i = 0; i < 30; i++)
        for (size_t j = 0; j < 30; j++) {
            real x[P], y[P], at[5][P];
            const size_t position[5] = {i, j, i + 10, j + 10, i};
            for (size_t d = 0; d < P; d++)
                x[d] = (real)(2 * rng_uniform(&r) - 1), y[d] = (real)(2 * rng_uniform(&r) - 1);
            for (int k = 0; k < 5; k++) {
                memcpy(at[k], k == 0 || k == 2 ? x : y, sizeof x);
                rope(at[k], P, 1, P, P, t.cosine, t.sine, 1, 1, position[k], k == 4);
            }
            CHECK(fabs(dot(at[0], y, P) - dot(x, at[4], P)) < 8 * tolerance(P), "position %zu: not the transpose", i);
            CHECK(fabs(dot(at[0], at[1], P) - dot(at[2], at[3], P)) < 8 * tolerance(P),
                  "positions %zu and %zu, then ten further", i, j);
        }
    arrays_free();
}

// Whether pair i of s turns as that of plain does, `slower` times slower, and is `size` long.
static bool turns_as(Table s, Table plain, size_t pairs, size_t i, size_t slower, double size) {
    bool same = true;
    for (size_t t = 0; t * slower < POSITIONS; t++) {
        size_t at = t * slower * pairs + i, as = t * pairs + i;
        same &= fabs((double)s.cosine[at] - size * (double)plain.cosine[as]) < 8 * EPSILON &&
                fabs((double)s.sine[at] - size * (double)plain.sine[as]) < 8 * EPSILON;
    }
    return same;
}

// A factor of 4. Over 2048 trained tokens, pair i of 32 turns 2048 / (2 pi 10000^(i/32)) times: 32 of them at i = 8.05,
// one at i = 20.1, so YaRN leaves 0 to 8 as they are, divides 21 and above, and does something between to the others.
static void rotary_scaling(void) {
    enum { P = 64, PAIRS = P / 2, FACTOR = 4 };
    Table plain = make_table(P), linear = make_scaled_table(P, scaling(ROPE_linear, FACTOR, 0)),
          ntk = make_scaled_table(P, scaling(ROPE_ntk, FACTOR, 0)),
          yarn = make_scaled_table(P, scaling(ROPE_yarn, FACTOR, 2048));
    double size = 0.1 * log(FACTOR) + 1;
    for (size_t i = 0; i < PAIRS; i++) {
        CHECK(turns_as(linear, plain, PAIRS, i, FACTOR, 1), "linear: pair %zu", i);
        CHECK(turns_as(ntk, plain, PAIRS, i, 1, 1) == (i == 0), "ntk: pair %zu is %sas it was", i, i ? "" : "not ");
        CHECK(turns_as(ntk, plain, PAIRS, i, FACTOR, 1) == (i == PAIRS - 1), "ntk: pair %zu and the factor", i);
        CHECK(turns_as(yarn, plain, PAIRS, i, 1, size) == (i <= 8), "yarn: pair %zu of the fast ones", i);
        CHECK(turns_as(yarn, plain, PAIRS, i, FACTOR, size) == (i >= 21), "yarn: pair %zu of the slow ones", i);
    }
    const RopeScaling narrow[] = {scaling(ROPE_linear, 1, 0), scaling(ROPE_ntk, 8, 0), scaling(ROPE_yarn, 1, 40)};
    plain = make_table(2);
    for (size_t k = 0; k < 3; k++)
        CHECK(turns_as(make_scaled_table(2, narrow[k]), plain, 1, 0, 1, 1), "one pair alone, or a factor of 1");
    arrays_free();
}

// The formulas as transformers 5.23 writes them (modeling_rope_utils.py), by wavelengths and by dimensions.
static double frequency_of(size_t i, double P, RopeScaling s) {
    double plain = pow(10000, -2 * (double)i / P), wave = 2 * M_PI / plain;
    if (s.kind == ROPE_llama3) {
        double smooth = (s.trained / wave - s.low_freq) / (s.high_freq - s.low_freq);
        if (wave < s.trained / s.high_freq) return plain;
        if (wave > s.trained / s.low_freq) return plain / s.factor;
        return (1 - smooth) * plain / s.factor + smooth * plain;
    }
    double low = P * log(s.trained / (s.beta_fast * 2 * M_PI)) / (2 * log(10000)),
           high = P * log(s.trained / (s.beta_slow * 2 * M_PI)) / (2 * log(10000));
    if (!s.fractional) low = floor(low), high = ceil(high);
    low = fmax(low, 0), high = fmin(high, P - 1);
    double ramp = fmin(fmax(((double)i - low) / (low == high ? 0.001 : high - low), 0), 1);
    return plain / s.factor * ramp + plain * (1 - ramp);
}

// Angles are good to a few roundings of doubles, which the angle itself multiplies: 40 at most.
static void rotary_ramps(void) {
    static const RopeScaling cases[] = {
        {ROPE_llama3, 8, 64, .low_freq = 1, .high_freq = 4}, {ROPE_llama3, 32, 8192, .low_freq = 1, .high_freq = 4},
        {ROPE_llama3, 3, 200, .low_freq = 0.5, .high_freq = 20}, {ROPE_llama3, 4, 2, .low_freq = 1, .high_freq = 4},
        {ROPE_yarn, 4, 2048, 32, 1, false, 1.25, 0, 0}, {ROPE_yarn, 4, 2048, 32, 1, true, 0.5, 0, 0},
        {ROPE_yarn, 40, 4096, 8, 3, false, 1, 0, 0}, {ROPE_yarn, 16, 100, 2, 2, false, 1, 0, 0},
        {ROPE_yarn, 16, 100, 12, 0.25, true, 1, 0, 0}, {ROPE_yarn, 2, 3, 32, 1, false, 1, 0, 0},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (size_t P = 2; P <= 64; P += 62) {
            RopeScaling s = cases[k];
            Table t = make_scaled_table(P, s);
            double size = s.kind == ROPE_yarn ? s.attention : 1;
            for (size_t i = 0; i < P / 2; i++)
                for (size_t at = 0; at < POSITIONS; at++) {
                    double angle = (double)at * frequency_of(i, (double)P, s), c = (double)t.cosine[at * (P / 2) + i],
                           sine = (double)t.sine[at * (P / 2) + i];
                    CHECK(fabs(c - size * cos(angle)) < 64 * EPSILON && fabs(sine - size * sin(angle)) < 64 * EPSILON,
                          "case %zu, pair %zu of %zu at %zu: %g and %g, expected %g and %g", k, i, P / 2, at, c, sine,
                          size * cos(angle), size * sin(angle));
                }
            arrays_free();
        }
    Table plain = make_table(64), dynamic = make_scaled_table(64, scaling(ROPE_dynamic, 4, 40)),
          deep = make_scaled_table(64, scaling(ROPE_yarn, 40, 4096)),
          same = make_scaled_table(64, (RopeScaling){ROPE_yarn, 40, 4096, 32, 1, false, 0.1 * log(40) + 1, 0, 0});
    CHECK(same_bits(plain.cosine, dynamic.cosine, POSITIONS * 32), "dynamic is plain as far as it goes");
    for (size_t i = 0; i < POSITIONS * 32; i++)
        CHECK(fabs((double)deep.sine[i] - (double)same.sine[i]) < 8 * EPSILON, "what is left out is the paper's");
    CHECK(fabs(rope_mscale(40, 0.7) - (0.07 * log(40) + 1)) < 8 * EPSILON && rope_mscale(1, 3) == 1 &&
          rope_mscale(0.5, 3) == 1, "mscale");
    arrays_free();
}

// ---- embeddings and the residual stream ----------------------------------------------------------

static void embeddings(void) {
    Rng r = rng_stream(2, RNG_TEST, 7);
    for (size_t i = 0; i < WIDTHS; i++)
        for (int learned = 0; learned < 2; learned++) {
            enum { V = 9, T = 6, B = 3, M = B * T, START = 4 };
            size_t C = widths[i];
            int token[M];
            real *table = array_random(V * C, &r), *position = array_random((START + T) * C, &r), *y = array(M * C),
                 *dy = array_random(M * C, &r);
            real *dtable = array_random(V * C, &r), *dposition = array_random(T * C, &r);
            real *ey = array(M * C), *etable = array_copy(dtable, V * C), *eposition = array_copy(dposition, T * C);
            for (size_t m = 0; m < M; m++) token[m] = (int)rng_below(&r, V);
            for (size_t m = 0; m < M; m++)
                for (size_t c = 0; c < C; c++) {
                    ey[m * C + c] = table[(size_t)token[m] * C + c] + (learned ? position[(START + m % T) * C + c] : 0);
                    etable[(size_t)token[m] * C + c] += dy[m * C + c], eposition[m % T * C + c] += dy[m * C + c];
                }
            embed_forward(y, table, learned ? position : NULL, token, M, T, START, C);
            embed_backward(dtable, learned ? dposition : NULL, dy, token, M, T, C);
            CHECK(same_bits(y, ey, M * C), "forward, width %zu", C);          // one addition: no tolerance
            CHECK(same_bits(dtable, etable, V * C), "tokens' gradients, width %zu: not the sum over rows in order", C);
            CHECK(!learned || same_bits(dposition, eposition, T * C),
                  "positions' gradients, width %zu: not the sum over rows in order", C);
            arrays_free();
        }
}

static void residual(void) {
    Rng r = rng_stream(2, RNG_TEST, 8);
    for (size_t n = 0; n < 50; n++)
        for (int alias = 0; alias < 3; alias++) {
            real *x = array_random(n, &r), *f = array_random(n, &r), *e = array(n),
                 *y = alias == 1 ? x : alias == 2 ? f : array(n);
            for (size_t i = 0; i < n; i++)
                e[i] = sizeof(real) == sizeof(double) ? (real)fma((double)(real)1.7, (double)x[i], (double)f[i])
                                                      : (real)fmaf(1.7f, (float)x[i], (float)f[i]);
            add_scaled(y, x, 1.7, f, n);
            CHECK(same_bits(y, e, n), "%zu numbers, %s", n, alias == 1 ? "onto x" : alias == 2 ? "onto f" : "apart");
            arrays_free();
        }
}

// A block of 4096 numbers is summed in 16 lanes of 256: its relative error is below 256 roundings, and
// mostly they cancel.
static void squares(void) {
    static const size_t sizes[] = {0, 1, 15, 17, 4095, 4096, 4097, 262143, 262144, 262145, 600000};
    Rng r = rng_stream(2, RNG_TEST, 9);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        real *x = array_random(sizes[i], &r);
        long double sum = 0;
        for (size_t j = 0; j < sizes[i]; j++) sum += (long double)x[j] * (long double)x[j];
        double found = sum_of_squares(x, sizes[i]);
        CHECK(fabsl(found - sum) <= 16 * EPSILON * sum, "%zu numbers: %.12g, expected %.12Lg", sizes[i], found, sum);
        arrays_free();
    }
}

// ---- cross-entropy -------------------------------------------------------------------------------

// Loss and gradient of one row, shifted by its largest logit. Returns log sum exp.
static double softmax_by_formula(double *p, const real *x, size_t V) {
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < V; i++) most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < V; i++) sum += p[i] = exp((double)x[i] - most);
    for (size_t i = 0; i < V; i++) p[i] /= sum;
    return log(sum) + most;
}

// `size`: magnitude of the logits. A logit of 1e4 is itself known to 5e-4 only, but the difference of two
// floats of similar size is exact, so the tolerance is that of the sum of exponentials, on the scale of the loss.
static void check_cross_entropy(size_t V, double size, Rng *r) {
    enum { M = 9 };
    int target[M];
    double loss[M], *p = exact(V), *gradient = exact(M * V), expected[M];
    bool hit[M];
    const double scale = 0.37;
    real *x = array_random(M * V, r);
    for (size_t i = 0; i < M * V; i++) x[i] *= (real)size;
    for (size_t m = 0; m < M; m++) {
        target[m] = m % 4 == 3 ? -1 : (int)rng_below(r, (uint32_t)V);
        double total = softmax_by_formula(p, x + m * V, V);
        expected[m] = target[m] < 0 ? 0 : total - (double)x[m * V + (size_t)target[m]];
        for (size_t i = 0; i < V; i++)
            gradient[m * V + i] = target[m] < 0 ? 0 : scale * (p[i] - (double)((int)i == target[m]));
    }
    cross_entropy_forward(loss, hit, x, target, M, V);
    for (size_t m = 0; m < M; m++) {
        size_t best = 0;
        for (size_t i = 1; i < V; i++)
            if (x[m * V + i] > x[m * V + best]) best = i;
        CHECK(fabs(loss[m] - expected[m]) <= tolerance(V) * fmax(1, fabs(expected[m])),
              "V %zu, logits to %g: loss %.12g, expected %.12g", V, size, loss[m], expected[m]);
        CHECK(hit[m] == (target[m] == (int)best), "V %zu: target %d, largest logit %zu, hit %d", V, target[m], best,
              hit[m]);
    }
    real *row = array_copy(x, V);
    double total = softmax_row(row, V), wanted = softmax_by_formula(p, x, V);
    CHECK(fabs(total - wanted) <= tolerance(V) * fmax(1, fabs(wanted)),
          "softmax_row: V %zu, log sum exp %.9g, expected %.9g", V, total, wanted);
    close_to("softmax_row", row, p, V, tolerance(V));
    cross_entropy_backward(x, target, scale, M, V);
    close_to("gradient of the logits", x, gradient, M * V, tolerance(V));
    for (size_t m = 0; m < M; m++) {
        double sum = 0;
        for (size_t i = 0; i < V; i++) sum += (double)x[m * V + i];
        CHECK(fabs(sum) <= tolerance(V), "V %zu: the gradient of a row sums to %g", V, sum);
    }
    arrays_free();
}

static void cross_entropy(void) {
    Rng r = rng_stream(2, RNG_TEST, 10);
    for (size_t i = 0; i < WIDTHS; i++)
        for (double size = 0.01; size < 1e31; size *= size < 1e4 ? 10 : 1e13) check_cross_entropy(widths[i], size, &r);
    check_cross_entropy(5000, 3, &r);
}

// A NaN anywhere in a row, padding lanes included, makes its loss NaN and no other's; ties go to the lowest.
static void cross_entropy_special(void) {
    enum { V = 21, M = V + 1 };
    double loss[M];
    bool hit[M];
    int target[M];
    Rng r = rng_stream(2, RNG_TEST, 11);
    real *x = array_random(M * V, &r), *alike = array(2 * V);
    for (size_t m = 0; m < V; m++) x[m * V + m] = m % 3 ? (real)NAN : (real)INFINITY;
    for (size_t m = 0; m < M; m++) target[m] = (int)(m * 5 % V);
    cross_entropy_forward(loss, hit, x, target, M, V);
    for (size_t m = 0; m < V; m++)
        CHECK(isnan(loss[m]), "a loss of %g from a row with NaN or infinity at %zu", loss[m], m);
    CHECK(isfinite(loss[V]), "the sound row has loss %g", loss[V]);
    int first[2] = {0, 1};
    cross_entropy_forward(loss, hit, alike, first, 2, V);
    CHECK(hit[0] && !hit[1], "of equal logits the lowest index wins");
}

// ---- threads -------------------------------------------------------------------------------------

typedef struct { size_t M, C; real *x, *dy, *w, *b, *table; int *token; } Work;

static uint64_t digest(uint64_t h, const real *x, size_t n) { return hash_bytes(h, x, n * sizeof *x); }

// Every operation once, over enough numbers that all threads are woken; a hash after each.
static void run_all(const Work *k, uint64_t h[8]) {
    size_t M = k->M, C = k->C, n = M * C;
    real *y = array(n), *dx = array(2 * n), *mean = array(M), *rstd = array(M), *dw = array(C), *db = array(C),
         *dtable = array(n);
    NormShape s = {.M = M, .groups = 1, .C = C, .x_stride = C, .y_stride = C, .eps = 1e-5};
    double *loss = exact(M), square;
    norm_forward(y, mean, rstd, k->x, k->w, k->b, s);
    norm_backward(dx, dw, db, k->dy, k->x, k->w, mean, rstd, s, false);
    h[0] = digest(digest(digest(digest(HASH_START, y, n), dx, n), dw, C), db, C);
    swiglu_forward(y, k->x, M, C / 2), swiglu_backward(dx, k->dy, k->x, M, C / 2);
    h[1] = digest(digest(HASH_START, y, M * (C / 2)), dx, n);
    gelu_forward(y, k->x, n), gelu_backward(dx, k->dy, k->x, n);
    h[2] = digest(digest(HASH_START, y, n), dx, n);
    relu2_forward(y, k->x, n), relu2_backward(dx, k->dy, k->x, n);
    h[3] = digest(digest(HASH_START, y, n), dx, n);
    embed_forward(y, k->table, k->table, k->token, M, M, 0, C);
    embed_backward(dtable, dtable, k->dy, k->token, M, M, C);
    h[4] = digest(digest(HASH_START, y, n), dtable, n);
    memcpy(y, k->x, n * sizeof *y);
    rope(y, C, 2, C / 2, C / 4 * 2, k->table, k->table + n / 2, M, M, 0, false), add_scaled(y, y, 1.3, k->x, n);
    square = sum_of_squares(y, n);
    h[5] = hash_bytes(digest(HASH_START, y, n), &square, sizeof square);
    memcpy(y, k->x, n * sizeof *y);
    cross_entropy_forward(loss, NULL, y, k->token, M, C), cross_entropy_backward(y, k->token, 0.1, M, C);
    h[6] = hash_bytes(digest(HASH_START, y, n), loss, M * sizeof *loss);
    real a = (real)0.5, da = 0;
    dyt_forward(y, k->x, &a, k->w, k->b, M, C), dyt_backward(dx, &da, dw, db, k->dy, k->x, &a, k->w, M, C, false);
    h[7] = digest(digest(digest(digest(digest(HASH_START, y, n), dx, n), dw, C), db, C), &da, 1);
}

static void threads(void) {
    static const int counts[] = {1, 2, 3, 8};
    static const char *const names[] = {"norm", "swiglu", "gelu", "relu2", "embed", "rope, add_scaled, sum_of_squares",
                                        "cross-entropy", "dyt"};
    Rng r = rng_stream(2, RNG_TEST, 12);
    Work k = {.M = 301, .C = 118};
    size_t n = k.M * k.C;
    k.x = array_random(n, &r), k.dy = array_random(n, &r), k.w = array_random(k.C, &r), k.b = array_random(k.C, &r);
    k.table = array_random(n, &r), k.token = array_bytes(k.M * sizeof(int));
    for (size_t m = 0; m < k.M; m++) k.token[m] = (int)rng_below(&r, (uint32_t)k.C);
    uint64_t one[8], h[8];
    for (size_t t = 0; t < sizeof counts / sizeof *counts; t++) {
        omp_set_num_threads(counts[t]);
        run_all(&k, t ? h : one);
        for (size_t i = 0; i < 8 && t; i++)
            CHECK(h[i] == one[i], "%s: %d threads give other bits than one", names[i], counts[t]);
    }
}

static const Test tests[] = {
    {"ops/vectors", "sums follow their tree; max, min and comparisons are defined for zeros, infinities and NaN",
     vectors},
    {"ops/vectors-partial", "partial loads and stores touch nothing beyond n", partial},
    {"ops/vectors-transpose", "16 rows become 16 columns", transposing},
    {"ops/vectors-turn", "4 numbers of 16 rows become 4 vectors", turning},
    {"ops/exp", "the exponential is good to one unit in the last place over its range", exponential},
    {"ops/exp-special", "exponential and sigmoid of zeros, NaN, infinite and huge arguments", exponential_special},
    {"ops/tanh", "tanh is good to two units in the last place, with zeros, NaN and infinities", hyperbolic_tangent},
    {"ops/norm", "LayerNorm and RMSNorm, forward and backward, groups, strides, accumulation", norms},
    {"ops/norm-cut", "gradients of a batch cut in two are those of the whole, bit for bit", norms_cut},
    {"ops/dyt", "dynamic tanh, forward and backward, in pieces", dynamic_tanh},
    {"ops/activations", "SwiGLU, GELU and squared ReLU, forward and backward", activations},
    {"ops/activations-nan", "a NaN stays a NaN", activations_of_nan},
    {"ops/rope", "rotations are those of the formula, undone by the inverse, and touch nothing else", rotary},
    {"ops/rope-scaling", "linear, ntk and yarn slow down the pairs that they should", rotary_scaling},
    {"ops/rope-ramps", "yarn and llama3 with all that can be set, against the formulas of transformers", rotary_ramps},
    {"ops/rope-relative", "the inverse is the transpose; scores depend on distances only", rotary_properties},
    {"ops/embed", "embeddings and their gradients, summed over rows in order, bit for bit", embeddings},
    {"ops/residual", "y = scale x + f, also in place", residual},
    {"ops/squares", "the sum of squares over any number of blocks", squares},
    {"ops/cross-entropy", "loss, hits, gradient and softmax, for logits up to 1e30", cross_entropy},
    {"ops/cross-entropy-special", "NaN and infinity become NaN in their row only; ties", cross_entropy_special},
    {"ops/threads", "1, 2, 3 and 8 threads give the same bits", threads},
};
REGISTER_TESTS(tests)

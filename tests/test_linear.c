// test_linear.c: the chunked recurrence, forward and backward, against the recurrence written here token by token in
// double precision, against the readable reference, and against itself with a memory, other threads and batches; and
// what stands around it (kernels/gates.c) against its formulas.
//
// Tolerance: relative to the largest number of the tensor. Sums go over up to 70 tokens and 40 dimensions, in another
// order than the recurrence; the project promises 1e-5. Measured: at most 2e-6 forward and 4e-6 backward, where
// gradients of decays are differences of larger sums. In double precision the same bounds hold a billion times over,
// which tests/test_gradients.c relies on.
#include "tests/arrays.h"
#include "infer/maps.h"
#include "kernels/gates.h"
#include "kernels/recurrence.h"
#include <omp.h>

static const double PROMISED = 1e-5;

typedef struct {
    size_t B, T, q_size, v_size, beta_size, decay_size;
    RecurrenceShape s;
    RecurrenceInput in;
    real *q, *k, *v, *beta, *decay, *dout, *out, *states, *dq, *dk, *dv, *dbeta, *dlog;
} Call;

static bool has_beta(RecurrenceShape s) { return s.delta || s.has_step; }

// Rows lie a few numbers apart. Keys of a delta rule are unit vectors, as in the layer: with longer ones the recurrence
// itself grows without bound. Decays are between `least` and 1.
static Call make_call(size_t B, size_t T, RecurrenceShape s, double least, Rng *r) {
    Call c = {.B = B, .T = T, .s = s};
    size_t q_row = s.H * s.D + 3, v_row = s.H * s.Dv + 2, decays = s.decay_per_key ? s.D : 1;
    c.q_size = (B * T - 1) * q_row + s.H * s.D, c.v_size = (B * T - 1) * v_row + s.H * s.Dv;
    c.beta_size = B * T * s.H, c.decay_size = B * T * s.H * decays;
    c.q = array_random(c.q_size, r), c.k = array_random(c.q_size, r), c.v = array_random(c.v_size, r);
    c.beta = array_random(c.beta_size, r), c.decay = array_random(c.decay_size, r),
    c.dout = array_random(B * T * s.H * s.Dv, r);
    for (size_t i = 0; i < c.beta_size; i++) c.beta[i] = (1 + c.beta[i]) / 2;
    for (size_t i = 0; i < c.decay_size; i++) c.decay[i] = (real)(least + (1 - least) * (1 + (double)c.decay[i]) / 2);
    for (size_t i = 0; i < B * T * s.H && s.delta; i++) {
        real *k = c.k + i / s.H * q_row + i % s.H * s.D, sum = 0;
        for (size_t d = 0; d < s.D; d++) sum += k[d] * k[d];
        for (size_t d = 0; d < s.D; d++) k[d] /= (real)sqrt((double)sum);
    }
    c.in = (RecurrenceInput){c.q, c.k, c.v, q_row, q_row, v_row, has_beta(s) ? c.beta : NULL,
                             s.has_decay ? c.decay : NULL};
    c.out = array_random(B * T * s.H * s.Dv, r), c.states = array(recurrence_states_size(B, T, s));
    c.dq = array_random(c.q_size, r), c.dk = array_random(c.q_size, r), c.dv = array_random(c.v_size, r);
    c.dbeta = array_random(c.beta_size, r), c.dlog = array_random(c.decay_size, r);
    return c;
}

static void forward(Call *c) {
    recurrence_forward(c->out, c->states, &c->in, c->B, c->T, (RecurrenceState){0}, c->s);
}
static void backward(Call *c) {
    const RecurrenceGradient g = {c->dq, c->dk, c->dv, c->dbeta, c->dlog,
                                  c->in.q_stride, c->in.k_stride, c->in.v_stride};
    recurrence_backward(&g, c->dout, c->states, &c->in, c->B, c->T, c->s);
}

// ---- the formula ---------------------------------------------------------------------------------

typedef struct { double *out, *dq, *dk, *dv, *dbeta, *dlog; } Exact;

static double *exact_like(const real *x, size_t n) {            // what no row covers stays as it was
    double *e = array_bytes(n * sizeof *e);
    for (size_t i = 0; i < n; i++) e[i] = (double)x[i];
    return e;
}
static double decay_at(const Call *c, size_t row, size_t h, size_t d) {
    if (!c->s.has_decay) return 1;
    return (double)c->decay[c->s.decay_per_key ? (row * c->s.H + h) * c->s.D + d : row * c->s.H + h];
}

// The state after every token of one head: S[t+1] = Diag(a) S[t] + k u^T, with u and the unwritten part v - S^T k kept.
static void exact_states(const Call *c, double *S, double *u, double *error, Exact *e, size_t b, size_t h) {
    size_t K = c->s.D, V = c->s.Dv;
    for (size_t t = 0; t < c->T; t++) {
        size_t row = b * c->T + t;
        const real *q = c->q + row * c->in.q_stride + h * K, *k = c->k + row * c->in.k_stride + h * K;
        double *now = S + (t + 1) * K * V, *o = e->out + (row * c->s.H + h) * V;
        for (size_t i = 0; i < K * V; i++) now[i] = decay_at(c, row, h, i / V) * S[t * K * V + i];
        for (size_t j = 0; j < V; j++) {
            double x = (double)c->v[row * c->in.v_stride + h * V + j];
            for (size_t d = 0; d < K && c->s.delta; d++) x -= now[d * V + j] * (double)k[d];
            error[t * V + j] = x, u[t * V + j] = has_beta(c->s) ? (double)c->beta[row * c->s.H + h] * x : x, o[j] = 0;
        }
        for (size_t i = 0; i < K * V; i++) {
            now[i] += (double)k[i / V] * u[t * V + i % V];
            o[i % V] += now[i] * (double)q[i / V];
        }
    }
}

// The chain rule through the same, from the last token to the first. dS: of the state after the token.
static void exact_gradients(const Call *c, const double *S, const double *u, const double *error, double *dS, Exact *e,
                            size_t b, size_t h) {
    size_t K = c->s.D, V = c->s.Dv;
    memset(dS, 0, K * V * sizeof *dS);
    for (size_t t = c->T; t-- > 0;) {
        size_t row = b * c->T + t, q = row * c->in.q_stride + h * K, v = row * c->in.v_stride + h * V,
               one = row * c->s.H + h;
        const double *now = S + (t + 1) * K * V, *before = S + t * K * V;
        double beta = has_beta(c->s) ? (double)c->beta[one] : 1;
        for (size_t d = 0; d < K; d++) e->dq[q + d] = e->dk[q + d] = 0;
        e->dbeta[one] = has_beta(c->s) ? 0 : e->dbeta[one];
        for (size_t i = 0; i < K * V; i++) {
            double g = (double)c->dout[one * V + i % V];
            e->dq[q + i / V] += now[i] * g, dS[i] += (double)c->q[q + i / V] * g;
        }
        for (size_t j = 0; j < V; j++) {
            double du = 0;
            for (size_t d = 0; d < K; d++)
                du += dS[d * V + j] * (double)c->k[q + d], e->dk[q + d] += dS[d * V + j] * u[t * V + j];
            e->dv[v + j] = beta * du;
            if (has_beta(c->s)) e->dbeta[one] += du * error[t * V + j];
            if (!c->s.delta) continue;
            for (size_t d = 0; d < K; d++) {
                e->dk[q + d] -= decay_at(c, row, h, d) * before[d * V + j] * beta * du;
                dS[d * V + j] -= (double)c->k[q + d] * beta * du;
            }
        }
        for (size_t d = 0; d < K; d++) {
            double *to = &e->dlog[c->s.decay_per_key ? one * K + d : one], a = decay_at(c, row, h, d);
            if (c->s.has_decay && (c->s.decay_per_key || d == 0)) *to = 0;
            for (size_t j = 0; j < V; j++) {
                dS[d * V + j] *= a;
                if (c->s.has_decay) *to += dS[d * V + j] * before[d * V + j];
            }
        }
    }
}

static Exact by_formula(const Call *c) {
    size_t KV = c->s.D * c->s.Dv;
    Exact e = {exact_like(c->out, c->B * c->T * c->s.H * c->s.Dv),
               exact_like(c->dq, c->q_size),
               exact_like(c->dk, c->q_size),
               exact_like(c->dv, c->v_size),
               exact_like(c->dbeta, c->beta_size),
               exact_like(c->dlog, c->decay_size)};
    double *S = array_bytes((c->T + 1) * KV * sizeof *S), *u = array_bytes(c->T * c->s.Dv * sizeof *u),
           *error = array_bytes(c->T * c->s.Dv * sizeof *error), *dS = array_bytes(KV * sizeof *dS);
    for (size_t i = 0; i < c->B * c->s.H; i++) {
        exact_states(c, S, u, error, &e, i / c->s.H, i % c->s.H);
        exact_gradients(c, S, u, error, dS, &e, i / c->s.H, i % c->s.H);
    }
    return e;
}

static void close_to(const Call *c, const char *what, const real *found, const double *expected, size_t n) {
    double scale = 1, worst = 0;
    for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(expected[i]));
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - expected[i]) / scale;
        if (!(error <= worst)) worst = isnan(error) ? (double)INFINITY : error;
    }
    double allowed = sizeof(real) == sizeof(double) ? 1e-12 : PROMISED;
    CHECK(worst <= allowed,
          "%s: B %zu T %zu H %zu K %zu V %zu delta %d fades %d per key %d steps %d: off by %.2g of %.2g", what, c->B,
          c->T, c->s.H, c->s.D, c->s.Dv, c->s.delta, c->s.has_decay, c->s.decay_per_key, c->s.has_step, worst, scale);
}

// ---- against the formula -------------------------------------------------------------------------

// Every mixer that a layer can ask for, a decay without its delta rule's help, and steps without a decay.
static const struct { bool delta, fades, per_key, steps; } kinds[] = {
    {.delta = false}, {.fades = true, .per_key = true}, {.delta = true}, {.delta = true, .fades = true},
    {.fades = true}, {.fades = true, .steps = true}, {.steps = true}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const struct { size_t H, K, V; } widths[] =
    {{1, 1, 1}, {2, 8, 8}, {3, 16, 32}, {2, 7, 40}, {1, 33, 5}, {2, 64, 64}};
enum { WIDTHS = sizeof widths / sizeof *widths };

static RecurrenceShape shape(int kind, int width) {
    return (RecurrenceShape){widths[width].H, widths[width].K, widths[width].V,
                             kinds[kind].delta, kinds[kind].fades, kinds[kind].per_key, kinds[kind].steps};
}

static void check_call(size_t B, size_t T, RecurrenceShape s, double least, Rng *r) {
    Call c = make_call(B, T, s, least, r);
    Exact e = by_formula(&c);
    forward(&c);
    close_to(&c, "output", c.out, e.out, B * T * s.H * s.Dv);
    backward(&c);
    close_to(&c, "d queries", c.dq, e.dq, c.q_size);
    close_to(&c, "d keys", c.dk, e.dk, c.q_size);
    close_to(&c, "d values", c.dv, e.dv, c.v_size);
    close_to(&c, "d beta", c.dbeta, e.dbeta, c.beta_size);
    close_to(&c, "d log decay", c.dlog, e.dlog, c.decay_size);
    recurrence_forward_naive(c.out, &c.in, B, T, s);
    close_to(&c, "the readable reference", c.out, e.out, B * T * s.H * s.Dv);
    arrays_free();
}

// Around the borders of chunks of 16 and of 32.
static void lengths(void) {
    static const size_t Ts[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 70};
    Rng r = rng_stream(20, RNG_TEST, 0);
    omp_set_num_threads(1);
    for (size_t t = 0; t < sizeof Ts / sizeof *Ts; t++)
        for (int k = 0; k < KINDS; k++)
            for (int w = 0; w < WIDTHS; w++) check_call(1 + t % 2, Ts[t], shape(k, w), 0.8, &r);
}

// Decays down to nothing: products of many underflow, quotients of them would be 0/0.
static void strong_decays(void) {
    Rng r = rng_stream(20, RNG_TEST, 1);
    for (int k = 0; k < KINDS; k++) {
        if (!kinds[k].fades) continue;
        check_call(1, 70, shape(k, 1), 1e-30, &r);
        Call c = make_call(1, 70, shape(k, 1), 0, &r);
        for (size_t i = 0; i < c.decay_size; i++) c.decay[i] = i % 3 ? c.decay[i] : 0;
        Exact e = by_formula(&c);
        forward(&c), backward(&c);
        close_to(&c, "output where all is forgotten", c.out, e.out, 70 * c.s.H * c.s.Dv);
        close_to(&c, "d keys where all is forgotten", c.dk, e.dk, c.q_size);
        close_to(&c, "d log decay where all is forgotten", c.dlog, e.dlog, c.decay_size);
        arrays_free();
    }
}

// ---- against itself ------------------------------------------------------------------------------

// In pieces, with a memory: the same bits as in one go, wherever the pieces end.
static void memory(void) {
    enum { T = 75 };
    Rng r = rng_stream(20, RNG_TEST, 2);
    for (int k = 0; k < KINDS; k++)
        for (int w = 1; w < WIDTHS; w++)
            for (size_t most = 1; most <= 40; most += 13) {
                RecurrenceShape s = shape(k, w);
                Call c = make_call(2, T, s, 0.8, &r);
                size_t size = recurrence_state_size(s), row = s.H * s.Dv, decays = s.decay_per_key ? s.D : 1;
                real *state = array(size), *piece = array(T * row);
                forward(&c);
                for (size_t done = 0, n; done < T; done += n) {
                    n = most == 1 ? 1 : 1 + rng_below(&r, (uint32_t)most);
                    n = n < T - done ? n : T - done;
                    size_t at = T + done;                       // of the second sequence
                    const RecurrenceInput in = {c.q + at * c.in.q_stride,
                                                c.k + at * c.in.k_stride,
                                                c.v + at * c.in.v_stride,
                                                c.in.q_stride,
                                                c.in.k_stride,
                                                c.in.v_stride,
                                                has_beta(s) ? c.beta + at * s.H : NULL,
                                                s.has_decay ? c.decay + at * s.H * decays : NULL};
                    recurrence_forward(piece + done * row, NULL, &in, 1, n, (RecurrenceState){state, size, done}, s);
                }
                size_t i = 0;
                while (i < T * row && !memcmp(piece + i, c.out + T * row + i, sizeof *piece)) i++;
                CHECK(i == T * row, "kind %d, width %d, pieces of up to %zu: token %zu: %.9g in pieces, %.9g in one go",
                      k, w, most, i / row, (double)piece[i], (double)c.out[T * row + i]);
                arrays_free();
            }
}

static uint64_t digest(const Call *c) {
    uint64_t h = hash_bytes(HASH_START, c->out, c->B * c->T * c->s.H * c->s.Dv * sizeof(real));
    h = hash_bytes(hash_bytes(h, c->dq, c->q_size * sizeof(real)), c->dk, c->q_size * sizeof(real));
    h = hash_bytes(hash_bytes(h, c->dv, c->v_size * sizeof(real)), c->dbeta, c->beta_size * sizeof(real));
    return hash_bytes(h, c->dlog, c->decay_size * sizeof(real));
}

static void threads(void) {
    static const int counts[] = {1, 2, 3, 8};
    Rng r = rng_stream(20, RNG_TEST, 3);
    for (int k = 0; k < KINDS; k++) {
        Call c = make_call(3, 70, shape(k, 2), 0.8, &r);
        uint64_t one = 0;
        for (int t = 0; t < 4; t++) {
            omp_set_num_threads(counts[t]);
            forward(&c), backward(&c);
            uint64_t h = digest(&c);
            if (!t) one = h;
            CHECK(h == one, "kind %d: %d threads give other bits than one", k, counts[t]);
        }
        arrays_free();
    }
    omp_set_num_threads(1);
}

// A delta rule with beta 1 and keys that are unit vectors of the axes is a table: it returns the last value written.
static void overwriting(void) {
    enum { T = 50, K = 8, V = 5 };
    Rng r = rng_stream(20, RNG_TEST, 4);
    Call c = make_call(1, T, (RecurrenceShape){.H = 1, .D = K, .Dv = V, .delta = true}, 1, &r);
    int key[T], last[K];
    for (size_t d = 0; d < K; d++) last[d] = -1;
    for (size_t t = 0; t < T; t++) {
        key[t] = (int)rng_below(&r, K), c.beta[t] = 1;
        for (size_t d = 0; d < K; d++) c.k[t * c.in.k_stride + d] = c.q[t * c.in.q_stride + d] = (int)d == key[t];
    }
    for (size_t t = 0; t < T; t++)      // queries ask for the key that will be written next
        for (size_t d = 0; d < K && t + 1 < T; d++) c.q[t * c.in.q_stride + d] = (int)d == key[t + 1];
    forward(&c);
    for (size_t t = 0; t + 1 < T; t++) {
        last[key[t]] = (int)t;
        for (size_t j = 0; j < V; j++) {
            real expected = last[key[t + 1]] < 0 ? 0 : c.v[(size_t)last[key[t + 1]] * c.in.v_stride + j];
            CHECK(fabs((double)(c.out[t * V + j] - expected)) <= 8 * EPSILON, "token %zu reads %g instead of %g", t,
                  (double)c.out[t * V + j], (double)expected);
        }
    }
    arrays_free();
}

// The same table, looked at: each row is all its last value, and the rank is the number of keys written so far, where
// all that was written are unit vectors along different axes.
static void looked_at(void) {
    enum { T = 37, K = 8, V = 11 };
    Rng r = rng_stream(20, RNG_TEST, 9);
    Call c = make_call(1, T, (RecurrenceShape){.H = 1, .D = K, .Dv = V, .delta = true}, 1, &r);
    real *weight = array(T * T);
    double written = 0;
    size_t look[T], looks = 0;
    int key[T], last[K];
    for (size_t t = 0; t < T; t++) {
        key[t] = (int)rng_below(&r, K), c.beta[t] = 1;
        for (size_t d = 0; d < K; d++) c.k[t * c.in.k_stride + d] = c.q[t * c.in.q_stride + d] = (int)d == key[t];
        for (size_t e = 0; e < V; e++) c.v[t * c.in.v_stride + e] = (int)e == key[t];
    }
    for (size_t t = 0; t + 1 < T; t++)
        for (size_t d = 0; d < K; d++) c.q[t * c.in.q_stride + d] = (int)d == key[t + 1];
    for (size_t d = 0; d < K; d++) last[d] = -1;
    recurrence_weights(weight, &c.in, T, c.s);
    for (size_t t = 0; t < T; t += 3) look[looks++] = t;
    real *state = array(looks * K * V);
    recurrence_states_at(state, &c.in, look, looks, c.s);
    for (size_t t = 0; t < T; t++) {
        written += last[key[t]] < 0, last[key[t]] = (int)t;
        int read = t + 1 < T ? last[key[t + 1]] : (int)t;
        for (size_t j = 0; j < T; j++)
            CHECK(weight[t * T + j] == (read == (int)j), "token %zu reads %g of %zu", t, (double)weight[t * T + j], j);
        double rank = t % 3 ? written : maps_effective_rank(state + t / 3 * K * V, K, V);
        CHECK(fabs(rank - written) < 1e-9, "rank %g after %g keys", rank, written);
    }
    arrays_free();
}

// Singular values 3 and 1: their entropy is that of shares 3/4 and 1/4, whatever the directions.
static void rank_of_two(void) {
    const double angle = 0.6, c = cos(angle), s = sin(angle);
    const real q[4] = {1, 1, 1, 1}, k[4] = {(real)c, (real)s, (real)-s, (real)c}, v[4] = {0, 3, 1, 0};
    const RecurrenceInput in = {.q = q, .k = k, .v = v, .q_stride = 2, .k_stride = 2, .v_stride = 2};
    double expected = exp(-0.75 * log(0.75) - 0.25 * log(0.25));
    real state[2][4];
    recurrence_states_at(state[0], &in, (size_t[]){0, 1}, 2, (RecurrenceShape){.H = 1, .D = 2, .Dv = 2});
    double one = maps_effective_rank(state[0], 2, 2), two = maps_effective_rank(state[1], 2, 2);
    CHECK(fabs(one - 1) < 1e-6 && fabs(two - expected) < 1e-6, "%g, then %g", one, two);
}

// ---- the normaliser ------------------------------------------------------------------------------

static void normaliser(void) {
    enum { B = 2, T = 40, H = 2, K = 7, V = 5 };
    Rng r = rng_stream(20, RNG_TEST, 5);
    real *q = array_random(B * T * H * K, &r), *k = array_random(B * T * H * K, &r),
         *out = array_random(B * T * H * V, &r), *sum = array(B * T * H), *dout = array_random(B * T * H * V, &r),
         *dq = array(B * T * H * K), *dk = array(B * T * H * K);
    for (size_t i = 0; i < B * T * H * K; i++) q[i] += 1, k[i] += 1;
    double *expected = exact_like(out, B * T * H * V), *edq = exact_like(dq, B * T * H * K),
           *edk = exact_like(dk, B * T * H * K);
    const SumShape s = {q, k, H * K, H * K, H, K, V};
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < T; t++) {
                size_t row = (b * T + t) * H + h;
                double total = 1e-6, dtotal = 0;
                for (size_t j = 0; j <= t; j++)
                    for (size_t d = 0; d < K; d++)
                        total += (double)q[row * K + d] * (double)k[((b * T + j) * H + h) * K + d];
                for (size_t e = 0; e < V; e++) {
                    dtotal -= (double)dout[row * V + e] * expected[row * V + e] / (total * total);
                    expected[row * V + e] /= total;
                }
                for (size_t j = 0; j <= t; j++)
                    for (size_t d = 0; d < K; d++) {
                        edq[row * K + d] += dtotal * (double)k[((b * T + j) * H + h) * K + d];
                        edk[((b * T + j) * H + h) * K + d] += dtotal * (double)q[row * K + d];
                    }
            }
    normalise_sum_forward(out, sum, NULL, 0, B, T, s);
    CHECK(largest_error(out, expected, B * T * H * V) < 32 * EPSILON, "quotients");
    normalise_sum_numerator(dout, sum, out, B * T, s);
    normalise_sum_backward(dq, dk, sum, B, T, s);
    CHECK(largest_error(dq, edq, B * T * H * K) < 64 * EPSILON, "d queries %g",
          largest_error(dq, edq, B * T * H * K) / EPSILON);
    CHECK(largest_error(dk, edk, B * T * H * K) < 64 * EPSILON, "d keys %g",
          largest_error(dk, edk, B * T * H * K) / EPSILON);
    arrays_free();
}

// ---- around it -----------------------------------------------------------------------------------

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void convolution(void) {
    enum { B = 2, C = 19 };
    Rng r = rng_stream(20, RNG_TEST, 6);
    for (size_t W = 1; W <= 5; W++)
        for (size_t T = 1; T <= 9; T += 2) {
            size_t stride = C + 2, M = B * T, before = W - 1;
            real *x = array_random((M - 1) * stride + C, &r), *w = array_random(W * C, &r), *y = array(M * C),
                 *sum = array(M * C), *tail = array_random(B * (before * C + 1), &r),
                 *old = array_copy(tail, B * (before * C + 1));
            short_conv_forward(y, sum, x, w, tail, before * C + 1, (ConvShape){B, T, W, C, stride});
            for (size_t b = 0; b < B; b++)
                for (size_t i = 0; i < T + before; i++)             // token i - before; the last ones stay in the tail
                    for (size_t c = 0; c < C; c++) {
                        double total = 0;
                        for (size_t j = 0; j < W && i >= before; j++) {
                            size_t from = i - before + j;
                            total += (double)w[j * C + c] * (double)(from >= before
                                                                         ? x[(b * T + from - before) * stride + c]
                                                                         : old[b * (before * C + 1) + from * C + c]);
                        }
                        double error = 0;
                        if (i >= before) error = fabs((double)y[(b * T + i - before) * C + c] - total * sigmoid(total));
                        CHECK(error < 8 * EPSILON, "W %zu T %zu: token %zu is off by %g", W, T, i, error);
                        if (i >= T && W > 1)
                            CHECK(tail[b * (before * C + 1) + (i - T) * C + c] ==
                                      (i >= before ? x[(b * T + i - before) * stride + c]
                                                   : old[b * (before * C + 1) + i * C + c]),
                                  "W %zu T %zu: the tail", W, T);
                    }
            arrays_free();
        }
}

static void features(void) {
    enum { M = 3, H = 2, K = 21 };
    Rng r = rng_stream(20, RNG_TEST, 7);
    real *x = array_random(M * H * K, &r), *y = array(M * H * K);
    for (int f = FEATURE_PLAIN; f <= FEATURE_UNIT; f++) {
        feature_forward(y, x, (FeatureShape){M, H, K, H * K, H * K, (Feature)f, 0.5});
        for (size_t i = 0; i < M * H; i++) {
            double length = 1e-6;
            for (size_t d = 0; d < K; d++) length += (double)x[i * K + d] * (double)x[i * K + d];
            for (size_t d = 0; d < K; d++) {
                double v = (double)x[i * K + d], e = f == FEATURE_UNIT ? v / sqrt(length) : v;
                if (f == FEATURE_ELU) e = v > 0 ? v + 1 : exp(v);
                CHECK(fabs((double)y[i * K + d] - e / 2) < 4 * EPSILON, "feature %d of %g is %g", f, v,
                      (double)y[i * K + d]);
            }
        }
    }
    arrays_free();
}

static void gates(void) {
    enum { M = 50, H = 3 };
    Rng r = rng_stream(20, RNG_TEST, 8);
    real *x = array_random(M * H, &r), *y = array(M * H), *gate = array_random(M * H, &r), *rate = array_random(H, &r),
         *shift = array_random(H, &r), *step = array(M * H), *alone = array(M * H);
    for (size_t i = 0; i < M * H; i++) x[i] *= 20, gate[i] *= 9;
    key_decay_forward(y, x, M * H);
    for (size_t i = 0; i < M * H; i++)
        CHECK(fabs((double)y[i] - pow(sigmoid((double)x[i]), 1. / 16)) < 4 * EPSILON, "decay of %g is %g", (double)x[i],
              (double)y[i]);
    head_decay_forward(y, step, x, H, rate, shift, M, H);
    head_decay_forward(alone, NULL, x, H, rate, shift, M, H);
    CHECK(!memcmp(y, alone, M * H * sizeof *y), "decays are others where the step is wanted as well");
    for (size_t i = 0; i < M * H; i++) {
        double size = log1p(exp((double)x[i] + (double)shift[i % H])), e = exp(-exp((double)rate[i % H]) * size);
        CHECK(fabs((double)y[i] - e) < 2 * EPSILON, "decay of %g is %g instead of %g", (double)x[i], (double)y[i], e);
        CHECK(fabs((double)step[i] - size) <= EPSILON * fmax(1, size), "step of %g is %g", (double)x[i],
              (double)step[i]);
    }
    x[0] = (real)NAN;
    head_decay_forward(y, step, x, H, rate, shift, M, H);
    CHECK(isnan(y[0]) && isnan(step[0]), "decay and step of a NaN are %g and %g", (double)y[0], (double)step[0]);
    x[0] = 1;
    silu_gate_forward(y, x, gate, H, M, H);
    for (size_t i = 0; i < M * H; i++) {
        double e = (double)x[i] * (double)gate[i] * sigmoid((double)gate[i]);
        CHECK(fabs((double)y[i] - e) <= 8 * EPSILON * fmax(1, fabs(e)), "%g gated by %g is %g", (double)x[i],
              (double)gate[i], (double)y[i]);
    }
    arrays_free();
}

// Widths that are no multiple of a vector, rows of x further apart; the gradients go on from what is there.
static void skip(void) {
    enum { M = 5, H = 3, V = 19, STRIDE = H * V + 4 };
    Rng r = rng_stream(20, RNG_TEST, 10);
    real *x = array_random(M * STRIDE, &r), *by = array_random(H, &r), *dby = array_random(H, &r),
         *y = array_random(M * H * V, &r), *dy = array_random(M * H * V, &r), *dx = array_random(M * STRIDE, &r);
    double *ey = exact_like(y, M * H * V), *edx = exact_like(dx, M * STRIDE), *edby = exact_like(dby, H);
    for (size_t i = 0; i < M * H * V; i++) {
        size_t at = i / (H * V) * STRIDE + i % (H * V), h = i % (H * V) / V;
        ey[i] += (double)by[h] * (double)x[at];
        edx[at] += (double)by[h] * (double)dy[i], edby[h] += (double)dy[i] * (double)x[at];
    }
    skip_forward(y, x, STRIDE, by, M, H, V);
    skip_backward(dx, dby, dy, x, STRIDE, by, M, H, V);
    for (size_t i = 0; i < M * H * V; i++)
        CHECK(fabs((double)y[i] - ey[i]) < 2 * EPSILON, "y is off by %g", (double)y[i] - ey[i]);
    for (size_t i = 0; i < M * STRIDE; i++)
        CHECK(fabs((double)dx[i] - edx[i]) < 2 * EPSILON, "dx is off by %g", (double)dx[i] - edx[i]);
    for (size_t h = 0; h < H; h++)                               // sums of 95 products
        CHECK(fabs((double)dby[h] - edby[h]) < 64 * EPSILON, "dby is off by %g", (double)dby[h] - edby[h]);
    arrays_free();
}

static const Test tests[] = {
    {"linear/lengths", "chunks, forward and backward, are the recurrence token by token", lengths},
    {"linear/strong-decays", "decays that underflow, and decays of 0, give no NaN and no other result", strong_decays},
    {"linear/memory", "in pieces with a memory: the same bits as in one go", memory},
    {"linear/threads", "1, 2, 3 and 8 threads give the same bits", threads},
    {"linear/overwriting", "a delta rule with beta 1 and orthogonal keys is a table", overwriting},
    {"linear/looked-at", "shares of the values and ranks of the states of a table", looked_at},
    {"linear/rank", "the effective rank of singular values 3 and 1", rank_of_two},
    {"linear/normaliser", "the sum of weights that divides the output of linear attention", normaliser},
    {"linear/convolution", "the short convolution and its tail", convolution},
    {"linear/features", "elu + 1, and vectors of length 1", features},
    {"linear/gates", "decays, steps and the silu gate", gates},
    {"linear/skip", "a share of the values added to the output, forward and backward", skip},
};
REGISTER_TESTS(tests)

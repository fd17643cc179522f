// distill.c: see distill.h. One pass for KL and one for the rest; sums are chains of doubles over the tokens in order.
#include "kernels/distill.h"
#include "kernels/ops.h"
#include "lib/numeric.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static real most_of(const real *x, size_t V) {
    real most = x[0];
    for (size_t i = 1; i < V; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// e = exp(x - most) for n numbers, and its sum.
enum { PIECE = 256 };
static double exp_of_piece(real *e, const real *x, real most, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i += LANES) vec_store_at(e, i, n, vec_exp(vec_sub(vec_load_at(x, i, n), vec_set(most))));
    for (size_t i = 0; i < n; i++) sum += (double)e[i];
    return sum;
}

static double log_of(double x) { return x > 0 ? num_log(x) : (double)NAN; }

// With p = e^x / P and q = e^y / Q: KL = sum e^x (x - y) / P - log P + log Q. From logits, where no q is 0 yet. x and y
// are less their largest, which is what keeps the difference of the logarithms small.
static double kl_of(const real *x, const real *y, size_t V) {
    real e[PIECE], x_most = most_of(x, V), y_most = most_of(y, V);
    double P = 0, Q = 0, sum = 0;
    for (size_t at = 0; at < V; at += PIECE) {
        size_t n = V - at < PIECE ? V - at : PIECE;
        Q += exp_of_piece(e, y + at, y_most, n), P += exp_of_piece(e, x + at, x_most, n);
        for (size_t i = 0; i < n; i++)
            sum += (double)e[i] * (((double)x[at + i] - (double)x_most) - ((double)y[at + i] - (double)y_most));
    }
    return sum / P - log_of(P) + log_of(Q);
}

void distill_forward(double *loss, double *agreement, real *q, real *p, const int *target, DistillLoss kind, size_t M,
                     size_t V) {
    PROFILE(loss_forward, (4 * PROFILE_EXP + 8) * M * V, 4 * M * V);
    PARALLEL_ROWS(M, V)
    for (size_t m = 0; m < M; m++) {
        real *y = q + m * V, *x = p + m * V;
        double both = 0, apart = 0;
        if (loss) loss[m] = 0;
        if (agreement) agreement[m] = 0;
        if (target[m] < 0) continue;
        if (loss && kind == DISTILL_KL) loss[m] = kl_of(x, y, V);
        softmax_row(y, V), softmax_row(x, V);
        for (size_t i = 0; i < V; i++) {
            double a = (double)x[i], b = (double)y[i];
            both += a < b ? a : b, apart += a < b ? b - a : a - b;
        }
        if (loss && kind == DISTILL_TV) loss[m] = 0.5 * apart;
        if (agreement) agreement[m] = both;
    }
}

static double slope(real q, real p) { return q > p ? 0.5 : q < p ? -0.5 : 0; }

void distill_backward(real *q, const real *p, const int *target, double scale, DistillLoss kind, size_t M, size_t V) {
    PROFILE(loss_backward, 4 * M * V, 3 * M * V);
    PARALLEL_ROWS(M, V)
    for (size_t m = 0; m < M; m++) {
        real *y = q + m * V;
        const real *x = p + m * V;
        double mean = 0;
        if (target[m] < 0) {
            memset(y, 0, V * sizeof *y);
            continue;
        }
        for (size_t i = 0; i < V && kind == DISTILL_TV; i++) mean += (double)y[i] * slope(y[i], x[i]);
        for (size_t i = 0; i < V; i++) {
            double d = kind == DISTILL_TV ? (double)y[i] * (slope(y[i], x[i]) - mean) : (double)y[i] - (double)x[i];
            y[i] = (real)(scale * d);
        }
    }
}

// ---- the same, as it is defined ------------------------------------------------------------------
static double naive_softmax(double *p, const real *x, size_t V) {
    double most = (double)most_of(x, V), sum = 0;
    for (size_t i = 0; i < V; i++) sum += p[i] = num_exp(fmax((double)x[i] - most, -690));
    for (size_t i = 0; i < V; i++) p[i] /= sum;
    return most + num_log(sum);
}

void distill_forward_naive(double *loss, double *agreement, real *q, real *p, const int *target, DistillLoss kind,
                           size_t M, size_t V) {
    double *a = xmalloc(size_mul(V, sizeof *a)), *b = xmalloc(size_mul(V, sizeof *b));
    for (size_t m = 0; m < M; m++) {
        loss[m] = agreement[m] = 0;
        if (target[m] < 0) continue;
        real *x = p + m * V, *y = q + m * V;
        double of_p = naive_softmax(a, x, V), of_q = naive_softmax(b, y, V);
        for (size_t i = 0; i < V; i++) {
            double log_ratio = ((double)x[i] - of_p) - ((double)y[i] - of_q);
            loss[m] += kind == DISTILL_TV ? 0.5 * fabs(a[i] - b[i]) : a[i] * log_ratio;
            agreement[m] += fmin(a[i], b[i]);
        }
        for (size_t i = 0; i < V; i++) x[i] = (real)a[i], y[i] = (real)b[i];
    }
    free(a), free(b);
}

// By the whole Jacobian of the softmax: dq_j / dy_i = q_j ([i = j] - q_i).
void distill_backward_naive(real *q, const real *p, const int *target, double scale, DistillLoss kind, size_t M,
                            size_t V) {
    double *d = xmalloc(size_mul(V, sizeof *d));
    for (size_t m = 0; m < M; m++) {
        real *y = q + m * V;
        const real *x = p + m * V;
        for (size_t i = 0; i < V; i++) d[i] = 0;
        for (size_t i = 0; i < V && target[m] >= 0; i++)
            for (size_t j = 0; j < V; j++) {
                double by_q = kind == DISTILL_TV ? slope(y[j], x[j]) : -(double)x[j] / (double)y[j];
                d[i] += by_q * (double)y[j] * ((i == j) - (double)y[i]);
            }
        for (size_t i = 0; i < V; i++) y[i] = (real)(scale * d[i]);
    }
    free(d);
}

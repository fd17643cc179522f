// optim.c: AdamW in one pass over memory, the gradient norm, the schedules. Coefficients are computed
// in double with numeric.h and rounded once, so every machine applies the same ones.
#include "kernels/optim.h"
#include "lib/numeric.h"
#include "kernels/ops.h"
#include "lib/profile.h"
#include "lib/simd.h"

double optim_norm(const OptimRow *row, size_t rows, const real *x) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++) sum += sum_of_squares(x + row[r].at, row[r].size);
    return sqrt(sum);
}

double optim_clip_scale(double norm, double largest) { return largest > 0 && norm > largest ? largest / norm : 1; }

// ---- AdamW -------------------------------------------------------------------------------------
// The formula of optim.h, rearranged so that only one division and one root per element are left:
// value -= lr decay value;  value -= step_size * mean / (sqrt(square) * root_scale + eps).
typedef struct { vec scale, beta1, rest1, beta2, rest2, root_scale, eps, minus_step, minus_decay; } Coefficients;

static Coefficients coefficients(double gradient_scale, AdamW a, size_t step) {
    double correction1 = 1 - num_powi(a.beta1, step), correction2 = 1 - num_powi(a.beta2, step);
    return (Coefficients){
        vec_set((real)gradient_scale), vec_set((real)a.beta1), vec_set((real)(1 - a.beta1)), vec_set((real)a.beta2),
        vec_set((real)(1 - a.beta2)), vec_set((real)(1 / sqrt(correction2))), vec_set((real)a.eps),
        vec_set((real)(-a.lr / correction1)), vec_set((real)(-a.lr * a.weight_decay)),
    };
}

static void update(const Coefficients *c, bool decay, real *value, const real *gradient, real *mean, real *square,
                   size_t from, size_t to, size_t size) {
    for (size_t i = from; i < to; i += LANES) {
        vec g = vec_mul(vec_load_at(gradient, i, size), c->scale);
        vec m = vec_fma(c->beta1, vec_load_at(mean, i, size), vec_mul(c->rest1, g));
        vec s = vec_fma(c->beta2, vec_load_at(square, i, size), vec_mul(vec_mul(c->rest2, g), g));
        vec w = vec_load_at(value, i, size);
        if (decay) w = vec_fma(c->minus_decay, w, w);
        w = vec_fma(c->minus_step, vec_div(m, vec_fma(vec_sqrt(s), c->root_scale, c->eps)), w);
        vec_store_at(mean, i, size, m);
        vec_store_at(square, i, size, s);
        vec_store_at(value, i, size, w);
    }
}

void optim_adamw(const OptimRow *row, size_t rows, real *value, const real *gradient, real *mean, real *square,
                 double gradient_scale, AdamW a, size_t step) {
    size_t numbers = 0, decayed = 0;
    for (size_t r = 0; r < rows; r++)
        numbers += row[r].size, decayed += row[r].decay && a.weight_decay > 0 ? row[r].size : 0;
    PROFILE(adamw, 14 * numbers + 2 * decayed, 7 * numbers);
    enum { BLOCK = 4096 };  // elements that one thread takes at a time; a multiple of LANES
    const Coefficients c = coefficients(gradient_scale, a, step);
#pragma omp parallel
    for (size_t r = 0; r < rows; r++) {
        size_t at = row[r].at, size = row[r].size;
#pragma omp for schedule(static) nowait
        for (size_t from = 0; from < size; from += BLOCK)
            update(&c, row[r].decay && a.weight_decay > 0, value + at, gradient + at, mean + at, square + at, from,
                   from + BLOCK < size ? from + BLOCK : size, size);
    }
}

// ---- schedules ---------------------------------------------------------------------------------
double optim_lr(const Schedule *s, size_t step) {
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    size_t left = s->steps > s->warmup ? s->steps - s->warmup : 0;
    double progress = left > 1 ? (double)(step - s->warmup) / (double)(left - 1) : 1, sine, cosine;
    if (progress > 1) progress = 1;
    switch (s->kind) {
    case LR_COSINE:  // Loshchilov and Hutter 2017, eq. 5, without restarts
        num_sincos(3.141592653589793 * progress, &sine, &cosine);
        return s->min_lr + 0.5 * (1 + cosine) * (s->lr - s->min_lr);
    case LR_LINEAR: return s->lr + progress * (s->min_lr - s->lr);
    case LR_WSD: {
        double end = (double)s->steps, start = end - s->decay * end, last = end - 1;
        if ((double)step <= start && ((double)step < last || s->decay == 0)) return s->lr;
        return last > start ? s->lr + ((double)step - start) / (last - start) * (s->min_lr - s->lr) : s->min_lr;
    }
    default: return s->lr;
    }
}

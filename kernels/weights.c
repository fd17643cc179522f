// weights.c: see weights.h.
#include "kernels/weights.h"
#include "lib/simd.h"

void attention_weights(real *w, const real *q, const real *const *key, size_t n, size_t D, double scale) {
    real most = -(real)INFINITY;
    for (size_t j = 0; j < n; j++) {
        w[j] = row_dot(q, key[j], D) * (real)scale;
        most = w[j] > most ? w[j] : most;
    }
    vec minus = vec_set(-most), sum = vec_zero();
    for (size_t j = 0; j < n; j += LANES) {
        size_t left = n - j;
        vec e = vec_exp(vec_add(vec_load_at(w, j, n), minus));
        if (left < LANES) e = vec_first(left, e, vec_zero());
        sum = vec_add(sum, e);
        vec_store_at(w, j, n, e);
    }
    row_scale(w, w, 1 / vec_sum(sum), n);
}

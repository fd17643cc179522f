// params.c: the table of parameters as its users see it, and the initial values.
#include "lib/numeric.h"
#include "lib/rng.h"
#include "model/packed.h"
#include "model/rounding.h"
#include <math.h>
#include <string.h>

size_t model_params(const Model *m, const Param **params) { *params = m->params; return m->count; }
size_t model_numbers(const Model *m) { return m->total; }
real *model_values(Model *m) { return packed_needs_floats(m), m->master; }
real *model_rounded_values(Model *m) { return packed_needs_floats(m), round_weights(m, true), m->values; }
bool model_rounds(const Config *c, const Param *p) { return c->quant && rounding_concerns(c, p); }
void model_round(const Config *c, const Param *p, real *out, const real *exact) { round_tensor(c, p, out, exact); }
real *model_gradients(Model *m) { return m->gradients; }
void model_changed(Model *m) { m->packed_fresh = false; }
void model_changed_after(Model *m, size_t steps) {
    m->exact = (double)steps < m->c.qat_start * (double)m->c.steps;
    model_changed(m);
}
bool model_fits_quant(const Model *m) { return m->exact || rounding_holds(m); }
void model_use_exact(Model *m, bool exact) { m->exact_asked = exact, m->packed_fresh = false; }
const Param *model_find(const Model *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (!strcmp(m->params[i].name, name)) return &m->params[i];
    return NULL;
}

// ---- initial values ------------------------------------------------------------------------------

// Number i of a tensor is a function of (seed, the tensor's name, i), so that models which share a
// tensor's name and shape start it alike. Box-Muller: two normals from one counter.
static double uniform(uint32_t high, uint32_t low) {          // of 53 bits, inside (0, 1)
    return ((double)(((uint64_t)high << 21) ^ (low >> 11)) + 0.5) * 0x1p-53;
}
static void init_normal(real *x, size_t n, uint64_t seed, uint64_t name, double std) {
#pragma omp parallel for
    for (size_t i = 0; i < n; i += 2) {
        uint32_t r[4];
        double s, c;
        philox(r, seed, name, i / 2);
        double radius = std * sqrt(-2 * num_log(uniform(r[0], r[1])));
        num_sincos(6.283185307179586 * uniform(r[2], r[3]), &s, &c);
        x[i] = (real)(radius * c);
        if (i + 1 < n) x[i + 1] = (real)(radius * s);
    }
}

// Decays as Mamba-2 starts them (Dao and Gu 2024, its reference code): exp(rate) is uniform in [1, 16], and
// softplus(shift), the size of a step, is log-uniform in [0.001, 0.1].
static void init_decay(real *x, const Param *p, uint64_t seed) {
    for (size_t i = 0; i < p->size; i++) {
        uint32_t r[4];
        philox(r, seed, hash_text(HASH_START ^ RNG_INIT, p->name), i);
        double u = ((double)r[0] + 0.5) * 0x1p-32, step = 0.001 * num_pow(100, u);
        x[i] = (real)(p->init == INIT_DECAY_RATE ? num_log(1 + 15 * u) : num_log(num_exp(step) - 1));
    }
}

static real value_of(const Param *p) {
    switch (p->init) {
    case INIT_ONE: return 1;
    case INIT_HALF: return (real)0.5;
    case INIT_VALUE: return (real)p->std;
    default: return 0;
    }
}

void init_values(Model *m) {
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        real *x = m->master + p->offset;
        uint64_t name = hash_text(HASH_START ^ RNG_INIT, p->name);
        if (p->init == INIT_NORMAL) init_normal(x, p->size, m->c.seed, name, p->std);
        else for (size_t j = 0; j < p->size; j++) x[j] = value_of(p);
        if (p->init == INIT_DECAY_RATE || p->init == INIT_DECAY_SHIFT) init_decay(x, p, m->c.seed);
    }
}

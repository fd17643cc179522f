// rounding.c: see rounding.h.
#include "model/rounding.h"
#include "kernels/hadamard.h"
#include "model/layer.h"
#include <string.h>

// Matrices, but for those that are looked up by position, filter, or decide who computes and what is forgotten.
bool rounding_concerns(const Config *c, const Param *p) {
    static const char *const exact[] = {"pos.weight", ".conv.weight", ".moe.router.weight", ".attn.beta.weight",
                                        ".attn.decay.weight", ".attn.decay_a.weight", ".attn.decay_b.weight"};
    if (p->rank < 2) return false;
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        size_t n = strlen(p->name), end = strlen(exact[i]);
        if (n >= end && !strcmp(p->name + n - end, exact[i])) return false;
    }
    return p->layer >= 0 || c->quant_embed;
}

bool is_rounded(const Model *m, const Param *p) { return m->c.quant && rounding_concerns(&m->c, p); }

bool is_integer(const Model *m, const Param *p) {
    static const char exact[] = ".attn.kv_b.weight";
    size_t n = strlen(p->name), end = sizeof exact - 1;
    return m->c.quant_act && is_rounded(m, p) && !(n >= end && !strcmp(p->name + n - end, exact));
}

static bool made_of_codes(const Model *m, const Param *p) {
    return m->training && !(m->exact || m->exact_asked) && (p->offset != m->embed || m->c.tie) && is_integer(m, p);
}

#define SAME(word) (int)WEIGHTS_##word == (int)QUANT_##word + 1
_Static_assert(SAME(int8) && SAME(q8_0) && SAME(q4_0) && SAME(int4) && SAME(int4_full) && SAME(int4_asym) &&
                   SAME(int3) && SAME(int2) && SAME(ternary) && SAME(mxfp4) && SAME(nvfp4) &&
                   (int)MX_SCALE_floor == QUANT_MX_floor && (int)MX_SCALE_even == QUANT_MX_even &&
                   (int)MX_SCALE_rceil == QUANT_MX_rceil,
               "the flags' values are those of kernels/quant.h");
Quant rounding_format(const Config *c) {
    return (Quant){(QuantFormat)(c->quant - 1), (QuantMxScale)c->mx_scale, c->quant_search};
}

void rounding_sizes(ModelSize *s, const Model *m) {
    if (!m->c.quant) return;
    s->integer_bytes = m->integers.bytes + m->integers.embed_bytes;
    s->rounded_bytes = m->c.quant_act ? m->integers.embed_bytes : m->total * sizeof(real);
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        size_t columns = p->shape[p->rank - 1];
        if (!rounding_concerns(&m->c, p)) continue;
        s->rounded += p->size;
        s->format_bytes += p->size / columns * quant_row_bytes(rounding_format(&m->c).format, columns);
    }
}

// --hadamard multiplies 16 numbers by signs over 4, and none of the sums is more than four times the largest.
bool rounding_holds(const Model *m) {
    for (size_t i = 0; m->c.quant && i < m->count; i++) {
        const Param *p = &m->params[i];
        if (rounding_concerns(&m->c, p) && !quant_holds(rounding_format(&m->c).format, m->master + p->offset, p->size,
                                                        m->c.hadamard ? 4 : 1))
            return false;
    }
    return true;
}

void rounding_refuse(const Config *c, const char *name, const real *x, size_t n) {
    QuantFormat format = rounding_format(c).format;
    if (!quant_holds(format, x, n, 1))
        fail("tensor %s has numbers that are not finite, or too large for %s; leave out --quant, or choose another "
             "format", name, quant_name(format));
}

void round_tensor(const Config *c, const Param *p, real *out, const real *exact) {
    size_t columns = p->shape[p->rank - 1], matrices = p->rank == 3 ? p->shape[0] : 1, each = p->size / matrices;
    size_t rows = each / columns;
    for (size_t e = 0; e < matrices; e++) {          // each expert is a tensor
        const real *x = exact + e * each;
        real *y = out + e * each;
        if (c->hadamard) hadamard_rows(y, columns, x, columns, rows, columns), x = y;
        rounding_refuse(c, p->name, x, each);
        quant_round(rounding_format(c), y, x, rows, columns);
        if (c->hadamard) hadamard_rows(y, columns, y, columns, rows, columns);
    }
}

void round_weights(Model *m, bool all) {
    if (m->values == m->master) return;
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        const real *exact = m->master + p->offset;
        real *x = m->values + p->offset;
        if (!all && made_of_codes(m, p)) continue;
        if (m->exact || m->exact_asked || !rounding_concerns(&m->c, p)) memcpy(x, exact, p->size * sizeof *x);
        else round_tensor(&m->c, p, x, exact);
    }
}

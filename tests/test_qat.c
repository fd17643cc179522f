// test_qat.c: training with rounded weights and rounded activations: the forward against the numbers that both factors
// mean, the backward against central differences of what it is the gradient of, the rotation, and whether what was
// trained is what is loaded, to the bit.
#include "tests/config.h"
#include "tests/program.h"
#include "formats/hf.h"
#include "kernels/hadamard.h"
#include "lib/rng.h"
#include "model/optimizer.h"
#include "model/packed.h"
#include "model/pieces.h"
#include "model/rounding.h"
#include "moe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V = 50, ROWS = 5, B = 2, T = 12 };

static void random_numbers(real *x, size_t n, uint64_t stream) {
    Rng r = rng_stream(stream, RNG_TEST, 8);
    for (size_t i = 0; i < n; i++) x[i] = (real)(float)rng_normal(&r);
}

// ---- the rotation --------------------------------------------------------------------------------

// By the definition: a minus where i and j have an odd number of bits in common.
static void rotate_naive(double *x, size_t columns) {
    for (size_t at = 0; at + HADAMARD <= columns; at += HADAMARD) {
        double y[HADAMARD] = {0};
        for (unsigned j = 0; j < HADAMARD; j++)
            for (unsigned i = 0; i < HADAMARD; i++)
                y[j] += (__builtin_popcount(i & j) % 2 ? -x[at + i] : x[at + i]) / 4;
        memcpy(x + at, y, sizeof y);
    }
}

static void rotation(void) {
    for (size_t columns = 1; columns < 100; columns += 7) {
        real x[3 * 100], y[3 * 100];
        double wide[100];
        random_numbers(x, 300, columns);
        hadamard_rows(y, columns, x, 100, 3, columns);
        for (size_t r = 0; r < 3; r++) {
            for (size_t i = 0; i < columns; i++) wide[i] = (double)x[100 * r + i];
            rotate_naive(wide, columns);
            for (size_t i = 0; i < columns; i++)
                CHECK(fabs((double)y[columns * r + i] - wide[i]) < 2e-6, "number %zu of %zu: %.9g, not %.9g", i,
                      columns, (double)y[columns * r + i], wide[i]);
        }
        hadamard_rows(y, columns, y, columns, 3, columns);             // in place, and back
        for (size_t r = 0; r < 3; r++)
            for (size_t i = 0; i < columns; i++)
                CHECK(fabs((double)y[columns * r + i] - (double)x[100 * r + i]) < 2e-6, "number %zu of %zu: not back",
                      i, columns);
    }
}

// ---- one product ---------------------------------------------------------------------------------

static const char *const models[] = {
    "--attn mha --bias 1 --quant-embed", "--attn mla --experts 4 --top-k 2 --expert-width 24 --shared-experts 1",
    "--attn gla+gated-delta --attn-bias qkv",
};
static const char *const acts[] = {"--quant-act int8", "--quant-act int4", "--quant-act int8 --hadamard",
                                   "--quant-act int4 --hadamard"};
static const char *const formats[] = {"int8", "q4_0", "int4_asym", "int2", "ternary", "mxfp4", "nvfp4"};
enum { FORMATS = sizeof formats / sizeof *formats };
#define BASE "--width 40 --heads 4 --layers 2 --context 16 --ffn-width 56 --init-scale 4 --batch 2"

static Config config_with(const char *model, const char *format, const char *act) {
    return config_of(BASE, xprintf("%s --quant %s %s", model, format, act), V);
}

// x^ of a row in double, by NUMBERS: d = amax/most, q = rint(x most/amax).
static void seen_naive(double *seen, const real *x, size_t K, const Config *c) {
    float most = c->quant_act == QUANT_ACT_int4 ? 7 : 127;
    real turned[200];
    memcpy(turned, x, K * sizeof *x);
    if (c->hadamard) hadamard_rows(turned, K, turned, K, 1, K);        // in the same floats: a tie must not be another
    for (size_t at = 0; at < K; at += 32) {
        float amax = 0;
        for (size_t k = at; k < K && k < at + 32; k++) amax = fmaxf(amax, fabsf((float)turned[k]));
        for (size_t k = at; k < K && k < at + 32; k++)
            seen[k] = (double)rintf((float)turned[k] * (most / amax)) * (double)(amax / most);
    }
    if (c->hadamard) rotate_naive(seen, K);
}

// Which rows of a matrix see rounded numbers: all but those that are not rounded themselves, and mla's kv_b.
static bool is_integer_row(const Model *m, const Linear *l, size_t row) {
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        size_t at = l->weight + row * l->K;
        if (p->rank < 2 || at < p->offset || at >= p->offset + p->size) continue;
        return model_rounds(&m->c, p) && !strstr(p->name, "kv_b");
    }
    return false;
}

typedef struct { const Linear *l; Routing routing; size_t start[5], rows; real *x, *y, *dy, *dx, *dw; } Product1;

static Product1 product_of(Model *m, const Linear *l) {
    Product1 p = {.l = l, .rows = ROWS * l->count};
    for (size_t i = 0; i <= l->count; i++) p.start[i] = i * ROWS + (i == 1 && l->count > 1);
    p.x = xmalloc(p.rows * l->K * sizeof *p.x), p.dx = xmalloc(p.rows * l->K * sizeof *p.x);
    p.y = xmalloc(p.rows * l->N * sizeof *p.y), p.dy = xmalloc(p.rows * l->N * sizeof *p.y);
    random_numbers(p.x, p.rows * l->K, 1), random_numbers(p.dy, p.rows * l->N, 2);
    memset(m->gradients, 0, m->total * sizeof *m->gradients);
    return p;
}
static void both_ways(Model *m, Product1 *p) {
    const Linear *l = p->l;
    p->routing = (Routing){.start = p->start, .copies = p->rows};
    if (l->count == 1) {
        apply(m, p->y, l, p->x, p->rows);
        apply_backward(m, p->dx, p->dy, l, p->x, p->rows, false);
    } else {
        apply_experts(m, p->y, l->N, l, p->x, l->K, &p->routing);
        apply_experts_backward(m, p->dx, l->K, p->dy, l->N, l, p->x, &p->routing, false);
    }
}
static size_t matrix_of(const Product1 *p, size_t row) {
    size_t e = 0;
    while (p->l->count > 1 && row >= p->start[e + 1]) e++;
    return e;
}
static void free_product(Product1 *p) { free(p->x), free(p->y), free(p->dy), free(p->dx); }

// In double: y = x^ w^ + bias, with the numbers that both mean.
static void check_forward(Model *m, const Product1 *p, const char *what) {
    const Linear *l = p->l;
    double worst = 0;
    for (size_t i = 0; i < p->rows; i++) {
        double seen[200];
        seen_naive(seen, p->x + i * l->K, l->K, &m->c);
        for (size_t n = 0; n < l->N; n++) {
            const real *w = m->values + l->weight + (matrix_of(p, i) * l->N + n) * l->K;
            bool integer = is_integer_row(m, l, n);
            double y = l->bias == NOWHERE ? 0 : (double)m->values[l->bias + n], size = fabs(y);
            for (size_t k = 0; k < l->K; k++) {
                double term = (integer ? seen[k] : (double)p->x[i * l->K + k]) * (double)w[k];
                y += term, size += fabs(term);
            }
            double off = fabs(y - (double)p->y[i * l->N + n]) / (size + 1e-30);
            worst = off > worst ? off : worst;
        }
    }
    CHECK(worst < 2e-6, "%s: matrix [%zu,%zu] is %.3g of its terms off what its numbers mean", what, l->N, l->K, worst);
}

// sum dy (x + e)(w + E), with the errors of rounding as constants: what the straight-through gradient is that of.
static double surrogate(Model *m, const Product1 *p, const double *x, const double *ex, const double *w,
                        const double *ew, size_t matrix) {
    const Linear *l = p->l;
    double sum = 0;
    for (size_t i = 0; i < p->rows; i++) {
        if (matrix_of(p, i) != matrix) continue;
        for (size_t n = 0; n < l->N; n++) {
            bool integer = is_integer_row(m, l, n);
            double y = 0;
            for (size_t k = 0; k < l->K; k++)
                y += (x[i * l->K + k] + (integer ? ex[i * l->K + k] : 0)) * (w[n * l->K + k] + ew[n * l->K + k]);
            sum += (double)p->dy[i * l->N + n] * y;
        }
    }
    return sum;
}

static void check_backward(Model *m, const Product1 *p, const char *what) {
    const Linear *l = p->l;
    size_t matrix = l->count - 1, first = l->weight + matrix * l->N * l->K, nx = p->rows * l->K, nw = l->N * l->K;
    double *x = xmalloc(2 * (nx + nw) * sizeof *x), *ex = x + nx, *w = ex + nx, *ew = w + nw, h = 1e-3;
    for (size_t i = 0; i < p->rows; i++) seen_naive(ex + i * l->K, p->x + i * l->K, l->K, &m->c);
    for (size_t i = 0; i < nx; i++) x[i] = (double)p->x[i], ex[i] -= x[i];
    for (size_t i = 0; i < nw; i++) w[i] = (double)m->master[first + i], ew[i] = (double)m->values[first + i] - w[i];
    for (int which = 0; which < 2; which++)
        for (size_t n = 0; n < 12; n++) {
            size_t rows = p->start[matrix] * l->K, i = which ? n * 997 % nw : rows + n * 31 % (nx - rows);
            double *at = which ? &w[i] : &x[i], kept = *at, up, down;
            *at = kept + h, up = surrogate(m, p, x, ex, w, ew, matrix);
            *at = kept - h, down = surrogate(m, p, x, ex, w, ew, matrix);
            *at = kept;
            double expected = (up - down) / (2 * h), found = (double)(which ? m->gradients[first + i] : p->dx[i]);
            CHECK(fabs(expected - found) < 3e-5 * (1 + fabs(expected)), "%s: %s %zu of [%zu,%zu] has %.8g, not %.8g",
                  what, which ? "weight" : "number", i, l->N, l->K, found, expected);
        }
    for (size_t n = 0; l->bias != NOWHERE && n < l->N; n++) {
        double sum = 0;
        for (size_t i = 0; i < p->rows; i++) sum += (double)p->dy[i * l->N + n];
        CHECK(fabs(sum - (double)m->gradients[l->bias + n]) < 1e-5, "%s: bias %zu", what, n);
    }
    free(x);
}

static void one_step(Model *m, double *loss) {
    int tokens[B * T], targets[B * T];
    Rng r = rng_stream(2, RNG_TEST, 4);
    for (int i = 0; i < B * T; i++) tokens[i] = (int)rng_below(&r, V), targets[i] = (int)rng_below(&r, V);
    model_zero_gradients(m);
    model_forward_backward(m, tokens, targets, B, T, 1.0 / (B * T), 1.0 / B, loss);
    model_finish_gradients(m);
}

static void products_both_ways(void) {
    for (size_t i = 0; i < 3; i++)
        for (size_t a = 0; a < 4; a++)
            for (size_t f = (i + a) % 3; f < FORMATS; f += 3) {
                const char *what = xprintf("%s --quant %s %s", models[i], formats[f], acts[a]);
                Config c = config_with(models[i], formats[f], acts[a]);
                Model *m = model_new(&c, true);
                double loss[B];
                one_step(m, loss);                                     // so that all is packed
                for (size_t k = 0; k < m->pack_count; k++) {
                    Product1 p = product_of(m, &m->packs[k]);
                    if (p.l->count > 4) continue;
                    both_ways(m, &p);
                    check_forward(m, &p, what), check_backward(m, &p, what);
                    free_product(&p);
                }
                model_free(m);
            }
}

// ---- the whole model -----------------------------------------------------------------------------

// With the rotation and without rounding nothing changes but the last digits; 8 bits change little.
static void near(void) {
    for (size_t i = 0; i < 3; i++) {
        double loss[B], plain[B], turned[B];
        const char *flags[] = {"int8", "q8_0"};
        Config c = config_of(BASE, strstr(models[i], "quant-embed") ? "--attn mha --bias 1" : models[i], V);
        Model *m = model_new(&c, true);
        one_step(m, plain);
        for (size_t k = 0; k < 2; k++) {
            Config q = config_with(models[i], flags[k], "--quant-act int8"), r = q;
            r.hadamard = true;
            Model *a = model_new(&q, true), *b = model_new(&r, true);
            one_step(a, loss), one_step(b, turned);
            for (size_t n = 0; n < B; n++) {
                CHECK(fabs(loss[n] - plain[n]) < 0.05 * plain[n], "%s: %.6g, exact %.6g", models[i], loss[n], plain[n]);
                CHECK(fabs(turned[n] - plain[n]) < 0.05 * plain[n] && turned[n] != loss[n],
                      "%s: turned %.6g, exact %.6g", models[i], turned[n], plain[n]);
            }
            model_use_exact(a, true), one_step(a, loss);
            CHECK(loss[0] == plain[0] && loss[1] == plain[1], "%s: exact is %.17g, not %.17g", models[i], loss[0],
                  plain[0]);
            CHECK(!memcmp(model_gradients(a), model_gradients(m), model_numbers(m) * sizeof(real)), "%s: gradients",
                  models[i]);
            model_free(a), model_free(b);
        }
        model_free(m);
    }
}

// A few steps; then what a run would save, loaded by the flags of ./generate, is the same model to the bit, in the
// losses of a validation and in the logits of a text.
static void ships(void) {
    for (size_t i = 0; i < 3; i++)
        for (size_t f = 0; f < FORMATS; f++) {
            const char *dir = xprintf("run-%zu-%zu", i, f), *flags = acts[(i + f) % 4];
            Config c = config_with(models[i], formats[f], flags);
            Model *m = model_new(&c, true), *loaded = model_new(&c, false);
            Optimizer o = optimizer_new(m);
            double loss[B], trained[B], evaluated[B];
            for (size_t step = 0; step < 3; step++) {
                model_changed_after(m, step), one_step(m, loss);
                optimizer_step(&o, m, optimizer_norm(&o, m), step);
                model_update_routers(m);
            }
            model_changed_after(m, 3);
            make_directories(test_path(dir));
            hf_save(m, test_path(dir));
            const Param *p;
            size_t params = model_params(m, &p);
            TensorOut *out = xmalloc(params * sizeof *out);
            for (size_t k = 0; k < params; k++) {
                out[k] = (TensorOut){.rank = p[k].rank, .data = model_values(m) + p[k].offset};
                strcpy(out[k].name, p[k].name), memcpy(out[k].shape, p[k].shape, sizeof p[k].shape);
            }
            safetensors_write(test_path(xprintf("%s/state.safetensors", dir)), out, params, NULL, 0);
            hf_load(loaded, test_path(dir));
            int tokens[B * T], targets[B * T];
            Rng r = rng_stream(3, RNG_TEST, 4);
            for (int k = 0; k < B * T; k++) tokens[k] = (int)rng_below(&r, V), targets[k] = (int)rng_below(&r, V);
            model_evaluate(m, tokens, targets, B, T, trained, NULL);
            model_evaluate(loaded, tokens, targets, B, T, evaluated, NULL);
            CHECK(trained[0] == evaluated[0] && trained[1] == evaluated[1], "%s %s %s: loss %.17g, loaded %.17g",
                  models[i], formats[f], flags, trained[0], evaluated[0]);
            real *a = xmalloc(2 * T * V * sizeof *a);
            model_infer(m, NULL, tokens, T, true, a), model_infer(loaded, NULL, tokens, T, true, a + T * V);
            CHECK(!memcmp(a, a + T * V, T * V * sizeof *a), "%s %s %s: other logits", models[i], formats[f], flags);
            free(a), free(out), optimizer_free(&o), model_free(m), model_free(loaded);
        }
}

// ---- programs ------------------------------------------------------------------------------------
#define TINY "--data stories --layers 1 --width 32 --heads 2 --context 32 --batch 4 --warmup 1 --schedule constant " \
             "--lr 1e-2 --eval-every 2 --eval-tokens 96 --sample-tokens 0 --steps 6 "

static const char *digest_of(Result r) {
    const char *at = strstr(r.out, "receipt: digest ");
    CHECK(r.status == 0 && at, "%d: %s%s", r.status, r.out, r.error);
    return at ? xprintf("%.16s", at + 16) : "none";
}
static Result beside(const char *program, const char *arguments) {
    const char *binary = train_binary();
    return shell(xprintf("'%.*s/%s' %s", (int)(strrchr(binary, '/') - binary), binary, program, arguments));
}

static void command(void) {
    static const char *const flags[] = {
        "--quant int4 --quant-act int4 --hadamard --qat-start 0.5", "--quant q4_0 --quant-act int8 --quant-embed"};
    const char *none = digest_of(train(TINY "--out none"));
    for (int i = 0; i < 2; i++) {
        const char *once = digest_of(train(xprintf(TINY "--out once-%d %s", i, flags[i])));
        const char *pieces = digest_of(train(xprintf(TINY "--out pieces-%d --micro-batch 3 --threads 3 %s", i,
                                                     flags[i])));
        CHECK(strcmp(once, none) && !strcmp(once, pieces), "%s: %s, in pieces %s", flags[i], once, pieces);
        Result verified = train(xprintf("--verify once-%d", i));
        CHECK(verified.status == 0, "%s: %s%s", flags[i], verified.out, verified.error);
    }
    Result as_trained = beside("generate", "--run once-1 --tokens 9 --quant q4_0 --quant-act int8 --quant-embed");
    Result floats = beside("generate", "--run once-1 --tokens 9"), half = beside("generate", "--run once-1 --tokens 9 "
                                                                               "--quant q4_0 --quant-embed");
    CHECK(as_trained.status == 0 && !strstr(as_trained.error, "was trained"), "%s", as_trained.error);
    CHECK(strstr(floats.error, "trained with --quant-act int8") && strstr(half.error, "trained with --quant-act int8"),
          "%s%s", floats.error, half.error);
    Result packed = beside("quantize", "once-0 int4 -o a.gguf"), wide = beside("quantize", "once-0 f32 -o b.gguf");
    CHECK(packed.status == 1 && strstr(packed.error, "--hadamard") && count_lines(packed.error) <= 2, "%s",
          packed.error);
    CHECK(wide.status == 0 && strstr(wide.error, "trained with --quant-act int4"), "%s", wide.error);
    Result refused = train(TINY "--out x --quant-act int8");
    CHECK(refused.status == 2 && strstr(refused.error, "--quant"), "%s", refused.error);
}

static const Test tests[] = {
    {"qat/rotation", "blocks of 16 are rotated by the matrix of the definition, and back", rotation},
    {"qat/products", "forward: what both factors mean; backward: central differences of the surrogate",
     products_both_ways},
    {"qat/near", "8 bits change little, a rotation less, and without rounding nothing changes", near},
    {"qat/ships", "with rounded activations, what is trained is what is loaded, to the bit", ships},
    {"qat/command", "./train --quant-act: in pieces, verified; who computes it otherwise says so", command},
};
REGISTER_TESTS(tests)

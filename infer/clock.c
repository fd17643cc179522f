// clock.c: the cost of a step: evaluated, fitted, read and written.
#include "infer/clock.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

StepSize step_size(const Step *step) {
    StepSize size = {(double)step->tokens, 0, 0};
    for (size_t i = 0; i < step->rows; i++) {
        double n = (double)step->row[i].n, past = (double)step->row[i].past;
        if (n == 1) size.decode += past + 1;
        else size.pairs += n * past + n * (n + 1) / 2;
    }
    return size;
}

static double value_of(const CostTable *c, StepSize x) {
    double t = c->base + c->slope * x.tokens + c->decode * x.decode + c->pairs * x.pairs;
    for (size_t i = 0; i < c->knots; i++) t += c->bend[i] * fmax(0, x.tokens - c->knot[i]);
    return t;
}

static void refuse_beyond(const char *what, double found, double most) {
    if (found > most)
        fail("a step has %.0f %s, but the table of costs was measured up to %.0f; measure larger steps, or give a "
             "smaller --budget, --running or shorter lengths", found, what, most);
}

double cost_of(const CostTable *c, StepSize x) {
    refuse_beyond("tokens", x.tokens, c->most.tokens);
    refuse_beyond("keys that decoding reads", x.decode, c->most.decode);
    refuse_beyond("pairs of prefill", x.pairs, c->most.pairs);
    double t = value_of(c, x);
    if (!(t > 0)) fail("the table of costs gives a step of %.0f tokens %g seconds; measure it again", x.tokens, t);
    return t;
}

// ---- the fit -------------------------------------------------------------------------------------

enum { TERMS = 4 + KNOTS };

static void terms_of(double f[TERMS], StepSize x, const double *knot, size_t knots) {
    f[0] = 1, f[1] = x.tokens, f[2] = x.decode, f[3] = x.pairs;
    for (size_t i = 0; i < knots; i++) f[4 + i] = fmax(0, x.tokens - knot[i]);
}

// Gauss, with the largest pivot. A term that no point has gets 0.
static void solve(double a[TERMS][TERMS + 1], size_t n) {
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++) if (fabs(a[i][k]) > fabs(a[pivot][k])) pivot = i;
        for (size_t j = 0; j <= n; j++) {
            double swapped = a[k][j];
            a[k][j] = a[pivot][j], a[pivot][j] = swapped;
        }
        if (fabs(a[k][k]) < 1e-12) {
            memset(a[k], 0, sizeof a[k]), a[k][k] = 1;
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            double factor = i == k ? 0 : a[i][k] / a[k][k];
            for (size_t j = k; j <= n; j++) a[i][j] -= factor * a[k][j];
        }
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void hold_out(CostTable *c, const CostPoint *point, size_t points) {
    double *error = xmalloc((points / 4 + 1) * sizeof *error);
    size_t n = 0;
    for (size_t i = 3; i < points; i += 4) error[n++] = fabs(value_of(c, point[i].size) / point[i].seconds - 1);
    qsort(error, n, sizeof *error, by_size);
    c->median = n ? error[n / 2] : NAN, c->worst = n ? error[n - 1] : NAN;
    free(error);
}

// Each term is scaled to at most 1, which keeps the equations well conditioned.
CostTable cost_fit(const CostPoint *point, size_t points, const double *knot, size_t knots) {
    double a[TERMS][TERMS + 1] = {{0}}, scale[TERMS] = {0}, f[TERMS];
    size_t n = 4 + knots;
    CostTable c = {.knots = knots};
    for (size_t p = 0; p < points; p++) {
        terms_of(f, point[p].size, knot, knots);
        for (size_t i = 0; i < n; i++) scale[i] = fmax(scale[i], f[i] / point[p].seconds);
        c.most.tokens = fmax(c.most.tokens, f[1]);
        c.most.decode = fmax(c.most.decode, f[2]), c.most.pairs = fmax(c.most.pairs, f[3]);
    }
    for (size_t p = 0; p < points; p++) {
        if (p % 4 == 3) continue;
        terms_of(f, point[p].size, knot, knots);
        for (size_t i = 0; i < n; i++) f[i] = scale[i] > 0 ? f[i] / point[p].seconds / scale[i] : 0;
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) a[i][j] += f[i] * f[j];
            a[i][n] += f[i];
        }
    }
    solve(a, n);
    for (size_t i = 0; i < n; i++) f[i] = scale[i] > 0 ? a[i][n] / a[i][i] / scale[i] : 0;
    c.base = f[0], c.slope = f[1], c.decode = f[2], c.pairs = f[3];
    for (size_t i = 0; i < knots; i++) c.knot[i] = knot[i], c.bend[i] = f[4 + i];
    hold_out(&c, point, points);
    return c;
}

// ---- tables --------------------------------------------------------------------------------------

// Weights are read in 5 ms, a token is computed in 0.435 ms, whichever is longer; a cached token is read in 0.42 us.
CostTable cost_built_in(void) {
    return (CostTable){.base = 5e-3, .knots = 1, .knot = {11.5}, .bend = {0.435e-3}, .decode = 0.42e-6,
                       .most = {4096, 1e7, 1e8}, .median = NAN, .worst = NAN};
}

CostTable cost_read(const char *path) {
    json_error_t error;
    CostTable c = {.median = NAN, .worst = NAN};
    json_t *knot, *bend, *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root) fail("--cost %s: line %d: %s; a table of costs was expected", path, error.line, error.text);
    if (json_unpack_ex(root, &error, 0, "{s:F, s:F, s:F, s:F, s:o, s:o, s:[F, F, F], s?F, s?F}", "base", &c.base,
                       "slope", &c.slope, "decode", &c.decode, "pairs", &c.pairs, "knot", &knot, "bend", &bend, "most",
                       &c.most.tokens, &c.most.decode, &c.most.pairs, "median", &c.median, "worst", &c.worst) != 0)
        fail("--cost %s: %s; a table of costs has base, slope, decode, pairs, knot, bend and most", path, error.text);
    c.knots = json_array_size(knot);
    if (!json_is_array(knot) || json_array_size(bend) != c.knots || c.knots > KNOTS)
        fail("--cost %s: knot and bend are two lists of the same length, at most %d", path, KNOTS);
    for (size_t i = 0; i < c.knots; i++) {
        c.knot[i] = json_number_value(json_array_get(knot, i));
        c.bend[i] = json_number_value(json_array_get(bend, i));
    }
    json_decref(root);
    return c;
}

void cost_write(const CostTable *c, const char *path) {
    json_t *knot = json_array(), *bend = json_array();
    for (size_t i = 0; i < c->knots; i++) {
        json_array_append_new(knot, json_real(c->knot[i]));
        json_array_append_new(bend, json_real(c->bend[i]));
    }
    json_t *root = json_pack("{s:f, s:f, s:f, s:f, s:o, s:o, s:[f, f, f]}", "base", c->base, "slope", c->slope,
                             "decode", c->decode, "pairs", c->pairs, "knot", knot, "bend", bend, "most", c->most.tokens,
                             c->most.decode, c->most.pairs);
    if (isfinite(c->median)) json_object_set_new(root, "median", json_real(c->median));
    if (isfinite(c->worst)) json_object_set_new(root, "worst", json_real(c->worst));
    char *text = json_dumps(root, JSON_INDENT(2));
    write_whole_file(path, text, strlen(text));
    free(text), json_decref(root);
}

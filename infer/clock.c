// clock.c: the cost of a step: evaluated, fitted, read and written.
#include "infer/clock.h"
#include "infer/speculate.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void add_row(StepSize *size, const StepRow *r) {
    double n = (double)r->n, past = (double)r->past;
    *(r->n <= FEW_TOKENS ? &size->keys : &size->packed) += past + n;
    size->pairs += n * past + n * (n + 1) / 2;
    size->draws += (double)(r->n - r->logits_from);
}

StepSize step_size(const Step *step) {
    StepSize size = {.tokens = (double)step->tokens};
    for (size_t i = 0; i < step->rows; i++) add_row(&size, &step->row[i]);
    return size;
}

// ---- a step's cost -------------------------------------------------------------------------------

// The terms, in the order of a table's factors. Few draws wait for the matrix, and many for its arithmetic.
enum { CROWD = 12, TERMS = 8 + KNOTS };

static void terms_of(double f[TERMS], StepSize x, const double *knot, size_t knots) {
    f[0] = 1, f[1] = x.tokens, f[2] = x.draws > 0, f[3] = x.draws, f[4] = fmax(0, x.draws - CROWD);
    f[5] = x.keys, f[6] = x.packed, f[7] = x.pairs;
    for (size_t i = 0; i < knots; i++) f[8 + i] = fmax(0, x.tokens - knot[i]);
}

static double value_of(const CostTable *c, StepSize x) {
    double t = c->base + c->slope * x.tokens + c->keys * x.keys + c->packed * x.packed + c->pairs * x.pairs;
    if (x.draws > 0) t += c->head + c->draw * x.draws + c->crowd * fmax(0, x.draws - CROWD);
    for (size_t i = 0; i < c->knots; i++) t += c->bend[i] * fmax(0, x.tokens - c->knot[i]);
    return t;
}

bool cost_is_known(const CostTable *c, StepSize x) {
    return x.tokens <= c->most.tokens && x.keys <= c->most.keys && x.packed <= c->most.packed &&
           x.pairs <= c->most.pairs && x.draws <= c->most.draws;
}

static void refuse_beyond(const char *what, double found, double most) {
    if (found > most)
        fail("a step has %.0f %s, but the table of costs was measured up to %.0f; measure larger steps, or give a "
             "smaller --budget, --running or shorter lengths", found, what, most);
}

double cost_of(const CostTable *c, StepSize x) {
    refuse_beyond("tokens", x.tokens, c->most.tokens);
    refuse_beyond("keys that writing reads", x.keys, c->most.keys);
    refuse_beyond("keys that prompts read", x.packed, c->most.packed);
    refuse_beyond("pairs of a query and a key", x.pairs, c->most.pairs);
    refuse_beyond("tokens that draw", x.draws, c->most.draws);
    double t = value_of(c, x);
    if (!(t > 0)) fail("the table of costs gives a step of %.0f tokens %g seconds; measure it again", x.tokens, t);
    return t;
}

// The token behind the last guess, too, is drawn beside one of the draft by ratio; but not the first one of an answer.
static bool is_guessed(const StepRow *r, size_t round, size_t position, bool ratio) {
    bool drawn = r->draw_from < r->n && position > r->request->prompt;
    return round < r->request->drafted || (round == r->request->drafted && ratio && drawn);
}

StepRow draft_row(const StepRow *r, size_t round, bool ratio, size_t known) {
    size_t told = r->n - r->request->drafted, done = round ? told + round - 1 : 0, past = r->past + done;
    size_t n = smaller(round ? 1 : told, past < known ? known - past : 0), position = r->past + told + round;
    if (round > r->request->drafted) n = 0;
    size_t from = n - (n && position < known && is_guessed(r, round, position, ratio));
    return (StepRow){r->request, r->tokens + done, n, past, r->block, from, r->slot, from};
}

double cost_of_draft(const CostTable *draft, const Step *step, bool ratio, size_t known) {
    double seconds = 0;
    for (size_t round = 0;; round++) {
        StepSize size = {0};
        for (size_t i = 0; i < step->rows; i++) {
            StepRow r = draft_row(&step->row[i], round, ratio, known);
            if (r.n) size.tokens += (double)r.n, add_row(&size, &r);
        }
        if (size.tokens == 0) return seconds;
        seconds += cost_of(draft, size);
    }
}

static StepSize with_guesses(const Step *step, double g) {
    StepSize size = {0};
    for (size_t i = 0; i < step->rows; i++) {
        const StepRow *r = &step->row[i];
        double past = (double)(r->past + r->n), n = 1 + g;
        if (r->draw_from == r->n) continue;
        size.tokens += n, size.draws += n, size.pairs += n * past + n * (n + 1) / 2;
        *(n <= FEW_TOKENS ? &size.keys : &size.packed) += past + n;
    }
    return size;
}

// The draft reads what the model reads in any case; each guess is one more round of it.
size_t cost_best_guesses(const CostTable *c, const CostTable *draft, const Step *step, double a) {
    double seconds[MOST_GUESSES + 1], each = 0;
    size_t known = 0;
    StepSize alone = with_guesses(step, 0);
    if (draft && alone.tokens > 0) {
        if (!cost_is_known(draft, alone)) return 0;
        each = cost_of(draft, alone);
    }
    for (; known <= MOST_GUESSES; known++) {
        StepSize size = with_guesses(step, (double)known);
        if (size.tokens == 0 || !cost_is_known(c, size)) break;
        seconds[known] = each + cost_of(c, size);
    }
    return known ? speculate_best(a, seconds, known - 1, each) : 0;
}

// ---- the fit -------------------------------------------------------------------------------------

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

// The factors f of the terms that are used, which are those whose scale is above 0. Each is scaled to at most 1, which
// keeps the equations well conditioned.
static void fit_terms(const CostPoint *point, size_t points, const CostTable *c, const double scale[TERMS],
                      double f[TERMS]) {
    double a[TERMS][TERMS + 1] = {{0}};
    size_t n = TERMS - KNOTS + c->knots;
    for (size_t p = 0; p < points; p++) {
        if (p % 4 == 3) continue;
        terms_of(f, point[p].size, c->knot, c->knots);
        for (size_t i = 0; i < n; i++) f[i] = scale[i] > 0 ? f[i] / point[p].seconds / scale[i] : 0;
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) a[i][j] += f[i] * f[j];
            a[i][n] += f[i];
        }
    }
    solve(a, n);
    for (size_t i = 0; i < n; i++) f[i] = scale[i] > 0 ? a[i][n] / a[i][i] / scale[i] : 0;
}

static void set_factors(CostTable *c, const double f[TERMS]) {
    c->base = f[0], c->slope = f[1], c->head = f[2], c->draw = f[3], c->crowd = f[4];
    c->keys = f[5], c->packed = f[6], c->pairs = f[7];
    for (size_t i = 0; i < c->knots; i++) c->bend[i] = f[8 + i];
}

// A cost is a sum of functions of one size each, linear between knots: its least is that at their ends.
bool cost_is_positive(const CostTable *c) {
    double tokens = INFINITY, draws = 0;
    for (size_t i = 0; i < c->knots + 2; i++) {
        double m = i == 0 ? fmin(1, c->most.tokens) : i == 1 ? c->most.tokens : c->knot[i - 2];
        if (m <= c->most.tokens) tokens = fmin(tokens, value_of(c, (StepSize){.tokens = m}));
    }
    const double drawn[] = {1, CROWD, c->most.draws};
    for (size_t i = 0; i < 3; i++)
        if (drawn[i] <= c->most.draws && drawn[i] > 0)
            draws = fmin(draws, c->head + c->draw * drawn[i] + c->crowd * fmax(0, drawn[i] - CROWD));
    return tokens + draws + fmin(0, c->keys * c->most.keys) + fmin(0, c->packed * c->most.packed) +
               fmin(0, c->pairs * c->most.pairs) > 0;
}

// Where noise makes a term negative enough for a step that takes less than nothing, the most negative term goes, until
// none is: what is left cannot.
static void fit_without_negative(const CostPoint *point, size_t points, CostTable *c, double scale[TERMS],
                                 double f[TERMS]) {
    for (size_t dropped = 0; dropped < TERMS; dropped++) {
        size_t least = 0;
        for (size_t i = 1; i < TERMS - KNOTS + c->knots; i++)
            if (f[i] * scale[i] < f[least] * scale[least]) least = i;
        if (f[least] >= 0) return;
        scale[least] = 0;
        fit_terms(point, points, c, scale, f);
    }
}

CostTable cost_fit(const CostPoint *point, size_t points, const double *knot, size_t knots) {
    double scale[TERMS] = {0}, f[TERMS];
    size_t n = TERMS - KNOTS + knots;
    CostTable c = {.knots = knots};
    for (size_t i = 0; i < knots; i++) c.knot[i] = knot[i];
    for (size_t p = 0; p < points; p++) {
        StepSize x = point[p].size;
        terms_of(f, x, knot, knots);
        for (size_t i = 0; i < n; i++) scale[i] = fmax(scale[i], f[i] / point[p].seconds);
        c.most = (StepSize){fmax(c.most.tokens, x.tokens), fmax(c.most.keys, x.keys), fmax(c.most.packed, x.packed),
                            fmax(c.most.pairs, x.pairs), fmax(c.most.draws, x.draws)};
    }
    fit_terms(point, points, &c, scale, f);
    set_factors(&c, f);
    if (!cost_is_positive(&c)) fit_without_negative(point, points, &c, scale, f), set_factors(&c, f);
    hold_out(&c, point, points);
    return c;
}

// ---- tables --------------------------------------------------------------------------------------

// Weights are read in 5 ms, a token is computed in 0.435 ms, whichever is longer; a cached token is read in 0.42 us.
CostTable cost_built_in(void) {
    return (CostTable){.base = 5e-3, .knots = 1, .knot = {11.5}, .bend = {0.435e-3}, .keys = 0.42e-6,
                       .cache_bytes = 12288, .layers = 12, .most = {4096, 1e7, 1e7, 1e8, 4096}, .median = NAN,
                       .worst = NAN};
}

static void read_list(const char *path, const json_t *list, const char *name, double *value, size_t n) {
    if (!json_is_array(list) || json_array_size(list) != n)
        fail("--cost %s: %s is a list of %zu numbers", path, name, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, i);
        value[i] = json_is_null(x) ? NAN : json_number_value(x);
    }
}

static json_t *load(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root) fail("--cost %s: line %d: %s; a table of costs was expected", path, error.line, error.text);
    return root;
}

static Replay replay_of(const char *path, const json_t *noted) {
    Replay r = {.requests = (size_t)json_integer_value(json_object_get(noted, "requests")),
                .pace = json_number_value(json_object_get(noted, "pace"))};
    if (!r.requests) return r;
    read_list(path, json_object_get(noted, "ttft"), "ttft", r.ttft, 3);
    read_list(path, json_object_get(noted, "tpot"), "tpot", r.tpot, 3);
    read_list(path, json_object_get(noted, "latency"), "latency", r.latency, 3);
    return r;
}

CostTable cost_read(const char *path) {
    json_error_t error;
    CostTable c = {.median = NAN, .worst = NAN};
    json_int_t layers = 0;
    json_t *knot, *bend, *root = load(path);
    if (json_unpack_ex(root, &error, 0, "{s:F, s:F, s:F, s:F, s:F, s:F, s:F, s:F, s:o, s:o, s:[F, F, F, F, F], s?F, "
                       "s?F, s?F, s?I}", "base", &c.base, "slope", &c.slope, "head", &c.head, "draw", &c.draw, "crowd",
                       &c.crowd, "keys", &c.keys, "packed", &c.packed, "pairs", &c.pairs, "knot", &knot, "bend", &bend,
                       "most", &c.most.tokens, &c.most.keys, &c.most.packed, &c.most.pairs, &c.most.draws, "median",
                       &c.median, "worst", &c.worst, "cache_bytes", &c.cache_bytes, "layers", &layers) != 0)
        fail("--cost %s: %s; ./serve --run DIR --calibrate %s measures a table of costs", path, error.text, path);
    if (!(c.cache_bytes >= 0) || layers < 0 || (layers > 0) != (c.cache_bytes > 0))
        fail("--cost %s: cache_bytes and layers are both there and above 0, or both left out", path);
    c.knots = json_array_size(knot), c.layers = (size_t)layers;
    if (c.knots > KNOTS) fail("--cost %s: it has %zu knots, at most %d are known", path, c.knots, KNOTS);
    read_list(path, knot, "knot", c.knot, c.knots), read_list(path, bend, "bend", c.bend, c.knots);
    c.replay = replay_of(path, json_object_get(root, "replay"));
    json_decref(root);
    return c;
}

static json_t *list_of(const double *value, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, isfinite(value[i]) ? json_real(value[i]) : json_null());
    return list;
}

// Each measured point stands on a line, so that others can look at them or fit anew.
static void write_table(json_t *root, const char *path) {
    size_t i;
    json_t *point, *measured = json_incref(json_object_get(root, "measured"));
    json_object_del(root, "measured");
    char *text = json_dumps(root, JSON_INDENT(1));
    AtomicFile f = atomic_open(path);
    atomic_write(&f, text, strlen(text) - strlen("\n}"));
    json_array_foreach(measured, i, point) {
        char *row = json_dumps(point, JSON_REAL_PRECISION(9));
        char *line = xprintf("%s%s", i ? ",\n  " : ",\n \"measured\": [\n  ", row);
        atomic_write(&f, line, strlen(line));
        free(line), free(row);
    }
    const char *end = json_array_size(measured) ? "\n ]\n}\n" : "\n}\n";
    atomic_write(&f, end, strlen(end));
    atomic_close(&f);
    free(text), json_decref(measured), json_decref(root);
}

// With the points that it was fitted to.
void cost_write(const CostTable *c, const CostPoint *point, size_t points, const char *path) {
    json_t *measured = json_array();
    for (size_t i = 0; i < points; i++) {
        StepSize x = point[i].size;
        json_array_append_new(measured, json_pack("[I, I, I, I, I, f]", (json_int_t)x.tokens, (json_int_t)x.keys,
                                                  (json_int_t)x.packed, (json_int_t)x.pairs, (json_int_t)x.draws,
                                                  point[i].seconds));
    }
    json_t *root = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:[f, f, f, f, f]}",
                             "base", c->base, "slope", c->slope, "head", c->head, "draw", c->draw, "crowd", c->crowd,
                             "keys", c->keys, "packed", c->packed, "pairs", c->pairs,
                             "knot", list_of(c->knot, c->knots), "bend", list_of(c->bend, c->knots),
                             "most", c->most.tokens, c->most.keys, c->most.packed, c->most.pairs, c->most.draws);
    if (c->layers)
        json_object_update_new(root, json_pack("{s:f, s:I}", "cache_bytes", c->cache_bytes, "layers",
                                               (json_int_t)c->layers));
    if (isfinite(c->median)) json_object_set_new(root, "median", json_real(c->median));
    if (isfinite(c->worst)) json_object_set_new(root, "worst", json_real(c->worst));
    json_object_set_new(root, "measured", measured);
    write_table(root, path);
}

void cost_note_replay(const char *path, const Replay *r) {
    json_t *root = load(path);
    json_object_set_new(root, "replay", json_pack("{s:I, s:f, s:o, s:o, s:o}", "requests", (json_int_t)r->requests,
                                                  "pace", r->pace, "ttft", list_of(r->ttft, 3), "tpot",
                                                  list_of(r->tpot, 3), "latency", list_of(r->latency, 3)));
    write_table(root, path);
}

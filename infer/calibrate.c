// calibrate.c: see calibrate.h.
#include "infer/calibrate.h"
#include "lib/rng.h"
#include <stdlib.h>

// A step: `rows` texts that write a token after `context` others, and one that reads n tokens after `past`.
typedef struct { size_t rows, context, n, past; } Shape;

static bool fits(const Served *s, Shape x, size_t budget, size_t running, size_t longest) {
    size_t size = s->blocks->size, blocks = x.rows * ((x.context + 1 + size - 1) / size);
    if (x.n) blocks += (x.past + x.n + size - 1) / size;
    return blocks <= s->blocks->count && x.rows + x.n <= budget && x.rows + (x.n > 0) <= running &&
           x.context < longest && x.past + x.n <= longest;
}

// Contexts up to the share of the pool that as many texts have; prefill after nothing, and after half of the longest.
static size_t shapes_of(const Served *s, size_t budget, size_t running, size_t longest, Shape *shape) {
    static const size_t beside[] = {0, 1, 4, 16};
    size_t count = 0, pool = s->blocks->count * s->blocks->size;
    for (size_t rows = 1; rows <= smaller(running, budget); rows += rows < 4 ? 1 : rows < 16 ? 4 : rows / 2)
        for (size_t quarter = 0; quarter <= 4; quarter++) {
            size_t share = smaller(pool / rows / s->blocks->size * s->blocks->size, longest);
            Shape x = {rows, share * quarter / 4 > 1 ? share * quarter / 4 - 1 : 0, 0, 0};
            if (count < MOST_POINTS && fits(s, x, budget, running, longest)) shape[count++] = x;
        }
    for (size_t n = 2; n <= budget; n = n < budget && 2 * n > budget ? budget : 2 * n)
        for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
            for (size_t half = 0; half < 2; half++) {
                Shape x = {beside[i], longest / 8, n - smaller(n - 1, beside[i]), half * longest / 2};
                if (x.n > 1 && count < MOST_POINTS && fits(s, x, budget, running, longest)) shape[count++] = x;
            }
    return count;
}

static Step make_step(const Served *s, Shape x, const int *text, uint32_t *block) {
    size_t size = s->blocks->size, next = 0;
    Step step = {.row = xmalloc((x.rows + 1) * sizeof *step.row), .rows = x.rows + (x.n > 0),
                 .tokens = x.rows + x.n};
    for (size_t i = 0; i < step.rows; i++) {
        bool reads = i == x.rows;
        size_t past = reads ? x.past : x.context, n = reads ? x.n : 1;
        step.row[i] = (StepRow){.tokens = text + past, .n = n, .past = past, .block = block + next,
                                .logits_from = n - 1, .draw_from = n - 1};
        next += (past + n + size - 1) / size;
    }
    return step;
}

static double seconds_of(const Backend *b, const Step *step) {
    Request nobody = {0};
    double start = seconds_now();
    b->step(b->self, step->row, step->rows);
    for (size_t i = 0; i < step->rows; i++)
        b->sample(b->self, &step->row[i], i, step->row[i].n - 1, &nobody, step->row[i].past + step->row[i].n);
    return seconds_now() - start;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// In an order of chance, always the same: neither what is held out of the fit nor a slow minute meets one kind alone.
static void shuffle(Shape *shape, size_t count) {
    Rng r = rng_stream(1, RNG_SAMPLE, 0);
    for (size_t i = count; i > 1; i--) {
        size_t j = rng_below(&r, (uint32_t)i);
        Shape x = shape[i - 1];
        shape[i - 1] = shape[j], shape[j] = x;
    }
}

typedef struct { int *text; uint32_t *block; Shape shape[MOST_POINTS]; size_t count; } Plan;

static Plan plan_of(const Served *s, size_t budget, size_t running, size_t longest) {
    Plan p = {.text = xmalloc(longest * sizeof *p.text), .block = xmalloc(s->blocks->count * sizeof *p.block)};
    Rng r = rng_stream(1, RNG_SAMPLE, 1);
    for (size_t i = 0; i < longest; i++) p.text[i] = (int)rng_below(&r, (uint32_t)s->spoken);
    for (size_t i = 0; i < s->blocks->count; i++) p.block[i] = (uint32_t)i;
    p.count = shapes_of(s, budget, running, longest, p.shape);
    shuffle(p.shape, p.count);
    return p;
}

size_t calibrate_sizes(const Served *s, size_t budget, size_t running, size_t longest, CostPoint *point) {
    Plan p = plan_of(s, budget, running, longest);
    for (size_t i = 0; i < p.count; i++) {
        Step step = make_step(s, p.shape[i], p.text, p.block);
        point[i] = (CostPoint){step_size(&step), 0};
        free(step.row);
    }
    free(p.text), free(p.block);
    return p.count;
}

CostTable calibrate(Served *s, size_t budget, size_t running, size_t longest, bool (*told)(size_t round, size_t of)) {
    enum { ROUNDS = 5 };
    static const double knots[] = {4, 12, 24, 48, 96};
    CostPoint point[MOST_POINTS];
    Plan p = plan_of(s, budget, running, longest);
    Backend b = served_backend(s);
    double (*took)[ROUNDS] = xmalloc(MOST_POINTS * sizeof *took);
    bool more = true;
    calibrate_sizes(s, budget, running, longest, point);
    for (size_t round = 0; round < ROUNDS && (more = told(round, ROUNDS)); round++)
        for (size_t i = 0; i < p.count; i++) {
            Step step = make_step(s, p.shape[i], p.text, p.block);
            took[i][round] = seconds_of(&b, &step);
            free(step.row);
        }
    for (size_t i = 0; more && i < p.count; i++) {
        qsort(took[i], ROUNDS, sizeof **took, by_size);
        point[i].seconds = took[i][ROUNDS / 2];
    }
    size_t kept = 0;
    while (kept < sizeof knots / sizeof *knots && 2 * knots[kept] < (double)budget) kept++;
    CostTable c = more ? cost_fit(point, p.count, knots, kept) : cost_built_in();
    free(took), free(p.text), free(p.block);
    return c;
}

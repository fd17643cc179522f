// calibrate.c: see calibrate.h.
#include "infer/calibrate.h"
#include "lib/rng.h"
#include <omp.h>
#include <stdlib.h>

// A step: texts that write `each` tokens after `context` others, and prompts that read n tokens after `past`. If these
// end here, each draws a token; all tokens of a text do, for more than one are guesses. Uneven: every second text has
// half of the context.
typedef struct { size_t texts, each, context, prompts, n, past; bool ends, uneven; } Shape;

static size_t context_of(Shape x, size_t text) { return x.uneven && text % 2 ? x.context / 2 : x.context; }

static size_t blocks_of(const Served *s, Shape x) {
    size_t size = s->blocks->size, blocks = x.prompts * ((x.past + x.n + size - 1) / size);
    for (size_t i = 0; i < x.texts; i++) blocks += (context_of(x, i) + x.each + size - 1) / size;
    return blocks;
}

typedef struct { const Served *s; size_t budget, running, longest; Shape shape[MOST_POINTS]; size_t count; } Plan;

static void add(Plan *p, Shape x) {
    size_t texts = x.texts * x.each, prompts = x.prompts * x.n, rows = x.texts + x.prompts;
    bool long_enough = rows > 0 && (!x.prompts || x.n > 0) && (!x.texts || x.each > 0);
    if (p->count < MOST_POINTS && long_enough && texts + prompts <= p->budget && rows <= p->running &&
        x.context + x.each <= p->longest && x.past + x.n <= p->longest && blocks_of(p->s, x) <= p->s->blocks->count)
        p->shape[p->count++] = x;
}

// Contexts up to the share of the pool that as many texts have.
static void add_writing(Plan *p, size_t texts, size_t each) {
    size_t size = p->s->blocks->size, share = smaller(p->s->blocks->count / texts * size, p->longest);
    for (size_t quarter = 0; quarter <= 4 && share > each; quarter += each > 1 ? 2 : 1)
        add(p, (Shape){.texts = texts, .each = each, .context = (share - each) * quarter / 4});
}

// A prompt alone: its beginning, its middle, its end.
static void add_reading(Plan *p, size_t n) {
    for (size_t half = 0; half <= 2 && n <= p->longest; half++)
        add(p, (Shape){.prompts = 1, .n = n, .past = (p->longest - n) * half / 2, .ends = half == 2});
}

// A whole number from 1 to `most`, of which small ones are as likely as large ones.
static size_t some(Rng *r, size_t most) {
    size_t power = 0;
    while (most >> (power + 1)) power++;
    size_t low = (size_t)1 << rng_below(r, (uint32_t)power + 1);
    return smaller(low + rng_below(r, (uint32_t)low), most);
}

static void add_mixed(Plan *p, uint64_t index) {
    Rng r = rng_stream(1, RNG_SAMPLE, index);
    Shape x = {.texts = rng_below(&r, 5) ? some(&r, p->running) : 0, .each = 1, .uneven = rng_below(&r, 2)};
    x.prompts = rng_below(&r, 4) ? 1 : some(&r, smaller(p->running, 8)), x.ends = rng_below(&r, 2);
    if (rng_below(&r, 8) == 0) x.each = 1 + some(&r, FEW_TOKENS - 1);
    if (x.texts && rng_below(&r, 3) == 0) x.prompts = 0;
    if (x.texts + x.prompts > p->running || x.texts * x.each >= p->budget) return;
    size_t left = p->budget - x.texts * x.each, room = p->s->blocks->count / (x.texts + x.prompts);
    if (x.prompts) x.n = rng_below(&r, 3) ? some(&r, left / x.prompts) : left / x.prompts;
    room = smaller(room * p->s->blocks->size, p->longest);
    if (room <= x.each || room <= x.n) return;
    x.context = rng_below(&r, (uint32_t)(room - x.each));
    x.past = x.prompts ? rng_below(&r, (uint32_t)(room - x.n)) : 0;
    add(p, x);
}

// In an order of chance, always the same: neither what is held out of the fit nor a slow minute meets one kind alone.
static void shuffle(Plan *p) {
    Rng r = rng_stream(1, RNG_SAMPLE, 0);
    for (size_t i = p->count; i > 1; i--) {
        size_t j = rng_below(&r, (uint32_t)i);
        Shape x = p->shape[i - 1];
        p->shape[i - 1] = p->shape[j], p->shape[j] = x;
    }
}

static Plan plan_of(const Served *s, size_t budget, size_t running, size_t longest) {
    enum { MIXED = 200 };
    Plan p = {.s = s, .budget = budget, .running = running, .longest = longest};
    size_t most = smaller(running, budget);
    for (size_t texts = 1; texts < most; texts += texts < 4 ? 1 : texts < 16 ? 4 : texts / 2) add_writing(&p, texts, 1);
    add_writing(&p, most, 1), add_writing(&p, most, budget / most);
    for (size_t each = 2; each <= smaller(budget, 2 * FEW_TOKENS); each *= 2)
        for (size_t texts = 1; texts * each <= budget && texts <= most; texts *= 4) add_writing(&p, texts, each);
    for (size_t n = 2; n < budget; n += n < 16 ? 2 : n / 4) add_reading(&p, n);
    add_reading(&p, smaller(budget, longest));
    for (uint64_t i = 0; i < MIXED; i++) add_mixed(&p, i + 2);
    shuffle(&p);
    return p;
}

// ---- steps ---------------------------------------------------------------------------------------

typedef struct { int *text; uint32_t *block; } Memory;

static Memory memory_of(const Served *s, size_t longest) {
    Memory m = {xmalloc(longest * sizeof *m.text), xmalloc(s->blocks->count * sizeof *m.block)};
    Rng r = rng_stream(1, RNG_SAMPLE, 1);
    for (size_t i = 0; i < longest; i++) m.text[i] = (int)rng_below(&r, (uint32_t)s->spoken);
    for (size_t i = 0; i < s->blocks->count; i++) m.block[i] = (uint32_t)i;
    return m;
}

static Step make_step(const Served *s, Shape x, Memory m) {
    size_t size = s->blocks->size, next = 0;
    Step step = {.row = xmalloc((x.texts + x.prompts) * sizeof *step.row), .rows = x.texts + x.prompts,
                 .tokens = x.texts * x.each + x.prompts * x.n};
    for (size_t i = 0; i < step.rows; i++) {
        bool writes = i < x.texts;
        size_t past = writes ? context_of(x, i) : x.past, n = writes ? x.each : x.n;
        size_t from = writes ? 0 : x.ends ? n - 1 : n;
        step.row[i] = (StepRow){.tokens = m.text + past, .n = n, .past = past, .block = m.block + next,
                                .logits_from = from, .draw_from = from};
        next += (past + n + size - 1) / size;
    }
    return step;
}

// Memory that was never written is one page of zeros, which caches hold: so all blocks are read into first.
static void fill_blocks(const Backend *b, const Served *s, size_t budget, size_t longest, Memory m) {
    size_t size = s->blocks->size, each = smaller(longest / size, s->blocks->count);
    for (size_t from = 0; each && from < s->blocks->count; from += each) {
        size_t tokens = smaller(each, s->blocks->count - from) * size;
        for (size_t past = 0, n; past < tokens; past += n) {
            n = smaller(budget, tokens - past);
            StepRow row = {.tokens = m.text + past, .n = n, .past = past, .block = m.block + from, .logits_from = n,
                           .draw_from = n};
            b->step(b->self, &row, 1);
        }
    }
}

static double seconds_of(const Backend *b, const Step *step, int drawers) {
    Request nobody = {0};
    double start = seconds_now();
    b->step(b->self, step->row, step->rows);
#pragma omp parallel for schedule(static, 1) num_threads(drawers) if (drawers > 1)
    for (size_t i = 0; i < step->rows; i++)
        for (size_t k = step->row[i].draw_from; k < step->row[i].n; k++)
            b->sample(b->self, &step->row[i], i, k, &nobody, step->row[i].past + k + 1);
    return seconds_now() - start;
}

// A step of a server comes behind one that is nearly the same, and finds in caches what that has left there. Behind a
// step of another kind it would find that one's keys and values, which may be more than caches hold.
static double seconds_behind_its_like(const Backend *b, const Step *step, int drawers) {
    seconds_of(b, step, drawers);
    return seconds_of(b, step, drawers);
}

// ---- rounds --------------------------------------------------------------------------------------
// Machines that others share are slower by a half for seconds or minutes, and the median of a few rounds would be that
// of a good moment for some steps and of a bad one for others. So each round has an order of its own, and what a
// stretch of it took more or less than its steps take otherwise, in the median, is taken to be the machine's pace then.
enum { ROUNDS = CALIBRATE_ROUNDS, STRETCH = 8, STRETCHES = (MOST_POINTS + STRETCH - 1) / STRETCH };
typedef struct {
    size_t order[ROUNDS][MOST_POINTS], stretch[ROUNDS][MOST_POINTS];    // stretch: in which step i was made
    double pace[ROUNDS][STRETCHES];
    const double (*took)[MOST_POINTS];
} Rounds;

void calibrate_order(size_t round, size_t points, size_t order[]) {
    Rng rng = rng_stream(1, RNG_SAMPLE, round);
    for (size_t i = 0; i < points; i++) {
        size_t j = rng_below(&rng, (uint32_t)i + 1);
        order[i] = order[j], order[j] = i;
    }
}

static Rounds *rounds_of(const double (*took)[MOST_POINTS], size_t points) {
    Rounds *x = xmalloc(sizeof *x);
    x->took = took;
    for (size_t r = 0; r < ROUNDS; r++) {
        calibrate_order(r, points, x->order[r]);
        for (size_t k = 0; k < points; k++) x->stretch[r][x->order[r][k]] = k / STRETCH;
        for (size_t s = 0; s < STRETCHES; s++) x->pace[r][s] = 1;
    }
    return x;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n) {
    qsort(x, n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

// least: to begin with, for nearly every step has met the machine in a good moment, and medians are of either kind.
static double seconds_at_even_pace(const Rounds *x, size_t i, bool least) {
    double took[ROUNDS];
    for (size_t r = 0; r < ROUNDS; r++) took[r] = x->took[r][i] / x->pace[r][x->stretch[r][i]];
    double middle = median(took, ROUNDS);
    return least ? took[0] : middle;
}

// Of each stretch, what its steps took of what they take at an even pace; of all paces the median is 1.
static void find_paces(Rounds *x, const Measured *m) {
    double all[ROUNDS * STRETCHES];
    size_t count = 0;
    for (size_t r = 0; r < ROUNDS; r++)
        for (size_t from = 0; from < m->points; from += STRETCH) {
            double ratio[STRETCH];
            size_t n = smaller(STRETCH, m->points - from);
            for (size_t k = 0; k < n; k++) {
                size_t i = x->order[r][from + k];
                ratio[k] = x->took[r][i] / m->point[i].seconds;
            }
            all[count++] = x->pace[r][from / STRETCH] = median(ratio, n);
        }
    double usual = median(all, count);
    for (size_t r = 0; r < ROUNDS; r++)
        for (size_t k = 0; k < STRETCHES; k++) x->pace[r][k] /= usual;
}

// Paces from what steps take, and what they take from paces, in turns.
void calibrate_even_out(double (*took)[MOST_POINTS], Measured *m) {
    enum { TURNS = 20 };
    Rounds *x = rounds_of((const double (*)[MOST_POINTS])took, m->points);
    for (size_t turn = 0; turn <= TURNS && m->points; turn++) {
        for (size_t i = 0; i < m->points; i++) m->point[i].seconds = seconds_at_even_pace(x, i, turn == 0);
        if (turn < TURNS) find_paces(x, m);
    }
    free(x);
}

static Measured sizes_of(const Plan *p, Memory memory) {
    Measured m = {.points = p->count};
    for (size_t i = 0; i < p->count; i++) {
        Step step = make_step(p->s, p->shape[i], memory);
        m.point[i].size = step_size(&step);
        free(step.row);
    }
    return m;
}

Measured calibrate_sizes(const Served *s, size_t budget, size_t running, size_t longest) {
    Plan p = plan_of(s, budget, running, longest);
    Memory memory = memory_of(s, longest);
    Measured m = sizes_of(&p, memory);
    free(memory.text), free(memory.block);
    return m;
}

Measured calibrate(Served *s, size_t budget, size_t running, size_t longest, bool (*told)(size_t round, size_t of)) {
    Plan p = plan_of(s, budget, running, longest);
    Memory memory = memory_of(s, longest);
    Measured m = sizes_of(&p, memory);
    Backend b = served_backend(s);
    double (*took)[MOST_POINTS] = xmalloc(ROUNDS * sizeof *took);
    size_t order[MOST_POINTS];
    int drawers = (int)served_drawers(s, (size_t)omp_get_max_threads());
    bool whole = true;
    fill_blocks(&b, s, budget, longest, memory);
    for (size_t round = 0; round < ROUNDS && (whole = told(round, ROUNDS)); round++) {
        calibrate_order(round, p.count, order);
        for (size_t k = 0; k < p.count; k++) {
            Step step = make_step(s, p.shape[order[k]], memory);
            took[round][order[k]] = seconds_behind_its_like(&b, &step, drawers);
            free(step.row);
        }
    }
    if (whole) calibrate_even_out(took, &m);
    free(took), free(memory.text), free(memory.block);
    return m;
}

CostTable calibrate_fit(const Measured *m) {
    static const double knots[] = {4, 12, 24, 48, 96, 192};
    double most = 0;
    size_t kept = 0;
    for (size_t i = 0; i < m->points; i++) most = most > m->point[i].size.tokens ? most : m->point[i].size.tokens;
    while (kept < sizeof knots / sizeof *knots && 2 * knots[kept] < most) kept++;
    return cost_fit(m->point, m->points, knots, kept);
}

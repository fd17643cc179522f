// test_sched.c: the pool of blocks and the scheduler. A toy in place of the model reads everything it knows about a
// text through the block table, so that every fault of paging changes its tokens; the oracle is each request alone.
#include "tests/test.h"
#include "infer/engine.h"
#include "lib/rng.h"
#include <stdlib.h>

// ---- a model of a few lines ----------------------------------------------------------------------
// What is stored at a position is a hash of all that is stored before it, of its token and of its place.

enum { VOCAB = 5, LONGEST = 64 };

typedef struct { uint64_t *kv, *swap; size_t size; } Toy;

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

// root: what else decides, as the weights.
static uint64_t read_text(const Toy *t, uint64_t root, const uint32_t *block, size_t n) {
    uint64_t h = root;
    for (size_t i = 0; i < n; i++) h = mix(h, t->kv[block[i / t->size] * t->size + i % t->size]);
    return h;
}

static void toy_step(void *self, const StepRow *row, size_t rows) {
    Toy *t = self;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < row[i].n; k++) {
            size_t at = row[i].past + k;
            uint64_t past = read_text(t, row[i].request->root, row[i].block, at);
            t->kv[row[i].block[at / t->size] * t->size + at % t->size] = mix(mix(past, at), (uint64_t)row[i].tokens[k]);
        }
}

static int draw(uint64_t text, uint64_t seed, size_t position) {
    return (int)(mix(mix(text, seed), position) >> 20) % VOCAB;
}
static int toy_sample(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    (void)index;
    return abs(draw(read_text(self, r->root, row->block, row->past + i + 1), r->seed, position));
}

static void move(uint64_t *to, uint32_t j, const uint64_t *from, uint32_t i, size_t size) {
    memcpy(to + j * size, from + i * size, size * sizeof *to);
}
static void toy_copy(void *self, uint32_t from, uint32_t to) {
    Toy *t = self;
    move(t->kv, to, t->kv, from, t->size);
}
static void toy_save(void *self, uint32_t block, uint32_t place) {
    Toy *t = self;
    move(t->swap, place, t->kv, block, t->size);
}
static void toy_load(void *self, uint32_t place, uint32_t block) {
    Toy *t = self;
    move(t->kv, block, t->swap, place, t->size);
}

// A text of `most` tokens after the prompt that is in `token`: alone, in one long block.
static void alone(int *token, size_t n, size_t most, uint64_t root, uint64_t seed) {
    uint64_t kv[LONGEST];
    Toy t = {kv, NULL, LONGEST};
    uint32_t block = 0;
    Request r = {.root = root};
    StepRow row = {.request = &r, .block = &block};
    for (size_t i = 0; i + 1 < most; i++) {
        row.tokens = token + i, row.past = i, row.n = 1;
        toy_step(&t, &row, 1);
        if (i + 1 >= n) token[i + 1] = abs(draw(read_text(&t, root, &block, i + 1), seed, i + 1));
    }
}

// ---- random schedules ----------------------------------------------------------------------------

enum { REQUESTS = 10 };
typedef struct { Request *r; int expected[LONGEST]; size_t most, cancel_at; double at; } Asked;
typedef struct {
    Rng rng; Pool *pool; Engine engine; Toy toy; SchedOptions o;
    Asked asked[REQUESTS]; size_t count, submitted, steps, bound;
    bool drafts, forks, cancels;
} World;

static size_t below(World *w, size_t n) { return rng_below(&w->rng, (uint32_t)n); }
static bool chance(World *w, size_t of_ten) { return below(w, 10) < of_ten; }

static SchedOptions random_options(World *w, size_t blocks) {
    SchedOptions o = {.running = 1 + below(w, 6), .chunk = 1 + below(w, 12)};
    o.budget = o.running + below(w, 14);
    o.sched = chance(w, 7) ? SCHED_continuous : chance(w, 5) ? SCHED_static : SCHED_padded;
    o.admit = (int)below(w, 3), o.victim = (int)below(w, 2), o.preempt = (int)below(w, 2);
    o.watermark = chance(w, 5) ? 0 : 1.0 / (double)blocks;
    o.prefix_cache = chance(w, 7) && o.sched != SCHED_padded;
    o.shed = chance(w, 9) ? 0 : 15;
    o.ttl = o.prefix_cache && chance(w, 3) ? 1 + (double)below(w, 20) : 0;
    return o;
}

static void make_world(World *w, uint64_t seed) {
    *w = (World){.rng = rng_stream(seed, RNG_TEST, 77)};
    size_t size = 1 + below(w, 5), blocks = 4 + below(w, 14), places = chance(w, 3) ? 0 : below(w, 20);
    w->pool = pool_new(blocks, size, places, seed, chance(w, 5) ? 4 : 64);
    w->toy = (Toy){xmalloc(blocks * size * 8), xmalloc((places + 1) * size * 8), size};
    w->o = random_options(w, blocks);
    w->engine = (Engine){.sched = sched_new(w->o, w->pool), .backend = {&w->toy, toy_step, toy_copy, toy_save, toy_load,
                                                                       toy_sample, NULL}};
    w->drafts = chance(w, 4), w->forks = chance(w, 4) && w->o.sched != SCHED_padded, w->cancels = chance(w, 4);
    w->count = 1 + below(w, REQUESTS);
    for (size_t i = 0; i < w->count; i++) w->asked[i].at = (double)below(w, 30);
}

static void free_world(World *w) {
    sched_free(w->engine.sched), pool_free(w->pool), engine_free(&w->engine);
    free(w->toy.kv), free(w->toy.swap);
}

// Prompts that begin alike, so that there is something to find: repetitions of one of three tokens, then chance.
static void submit(World *w) {
    Asked *a = &w->asked[w->submitted], *before = w->submitted ? a - 1 : NULL;
    double now = (double)w->steps;
    a->cancel_at = w->cancels && chance(w, 5) ? w->steps + below(w, 30) : SIZE_MAX;
    uint64_t seed = below(w, 1000);
    if (w->forks && before && before->r->end != END_REFUSED && chance(w, 6)) {
        a->r = sched_fork(w->engine.sched, before->r, now);
        a->most = before->most;
        memcpy(a->expected, before->expected, sizeof a->expected);
    } else {
        size_t same = below(w, 20), n = 1 + same + below(w, 8);
        int base = (int)below(w, 2);
        for (size_t i = 0; i < n; i++) a->expected[i] = i < same ? base : (int)below(w, 2);
        a->most = n + 1 + below(w, 20);
        a->r = sched_submit(w->engine.sched, a->expected, n, a->most, below(w, 2), now);
    }
    a->r->seed = seed, a->r->fresh = chance(w, 1);
    w->bound += 2 * a->most + 4;
    if (a->r->end == END_NONE) alone(a->expected, a->r->prompt, a->most, a->r->root, seed);
    w->submitted++;
}

// What comes next, right or wrong from some place on.
static void propose(World *w, Asked *a) {
    int draft[4];
    size_t n = smaller(below(w, 5), a->most - a->r->length), wrong = below(w, 6);
    for (size_t i = 0; i < n; i++) draft[i] = (a->expected[a->r->length + i] + (i == wrong)) % VOCAB;
    if (a->r->state == STATE_RUNNING) sched_propose(a->r, draft, n);
}

static void check(const char *wrong, uint64_t seed) {
    CHECK(!wrong, "schedule %llu: %s", (unsigned long long)seed, wrong);
}

static bool world_step(World *w, uint64_t seed) {
    while (w->submitted < w->count && w->asked[w->submitted].at <= (double)w->steps) submit(w);
    for (size_t i = 0; i < w->submitted && w->drafts; i++) propose(w, &w->asked[i]);
    const Request *oldest = sched_oldest(w->engine.sched);
    Step *step = engine_schedule(&w->engine, (double)w->steps);
    check(oldest && !oldest->n && !oldest->padding ? "the oldest request makes no progress" : NULL, seed);
    check(sched_check_step(w->engine.sched, step), seed);
    for (size_t i = 0; i < w->submitted; i++)
        if (w->asked[i].cancel_at <= w->steps) sched_cancel(w->engine.sched, w->asked[i].r);
    engine_finish(&w->engine, step);
    check(sched_check(w->engine.sched), seed);
    w->steps++;
    return step->rows || w->submitted < w->count || sched_waiting(w->engine.sched);
}

static void check_tokens(const World *w, uint64_t seed) {
    for (size_t i = 0; i < w->submitted; i++) {
        const Asked *a = &w->asked[i];
        size_t n = a->r->end == END_REFUSED ? 0 : a->r->length;
        CHECK(a->r->state == STATE_ENDED && (a->r->end != END_LENGTH || n == a->most),
              "schedule %llu: request %zu has %zu of %zu tokens", (unsigned long long)seed, i, n, a->most);
        CHECK(n == 0 || !memcmp(a->r->token, a->expected, n * sizeof *a->expected),
              "schedule %llu: request %zu has other tokens than alone", (unsigned long long)seed, i);
    }
}

typedef struct { size_t preempted, saved, copied, hits, rehits, shared, rejected, padded, end[ENDS]; } Seen;
static void add_seen(Seen *s, const SchedCounters *c) {
    s->preempted += c->preempted, s->saved += c->saved, s->copied += c->copied, s->hits += c->hits;
    s->rehits += c->rehits, s->shared += c->shared, s->rejected += c->rejected, s->padded += c->padded;
    for (size_t i = 0; i < ENDS; i++) s->end[i] += c->ended[i];
}

static void fuzz(void) {
    Seen seen = {0};
    const char *schedules = getenv("SCHEDULES");
    size_t count = schedules ? strtoull(schedules, NULL, 10) : 10000;
    for (uint64_t seed = 0; seed < count; seed++) {
        World w;
        make_world(&w, seed);
        size_t last = 30;
        while (world_step(&w, seed) && w.steps < last + w.bound) {}
        CHECK(w.steps < last + w.bound, "schedule %llu does not end", (unsigned long long)seed);
        check_tokens(&w, seed);
        const SchedCounters *c = sched_counters(w.engine.sched);
        CHECK(w.o.admit != ADMIT_full || c->preempted == 0, "schedule %llu: preempted, with all room promised",
              (unsigned long long)seed);
        sched_step(w.engine.sched, 1e9);                // what is held for a time goes
        CHECK(pool_available(w.pool) == pool_blocks(w.pool), "schedule %llu leaks blocks", (unsigned long long)seed);
        add_seen(&seen, c);
        free_world(&w);
    }
    CHECK(count < 10000 || (seen.preempted && seen.saved && seen.copied && seen.hits && seen.rehits && seen.shared &&
          seen.rejected && seen.padded && seen.end[END_CANCELLED] && seen.end[END_SHED] && seen.end[END_REFUSED]),
          "preempted %zu, saved %zu, copied %zu, hits %zu, again %zu, shared %zu, rejected %zu, cancelled %zu, "
          "shed %zu, refused %zu", seen.preempted, seen.saved, seen.copied, seen.hits, seen.rehits, seen.shared,
          seen.rejected, seen.end[END_CANCELLED], seen.end[END_SHED], seen.end[END_REFUSED]);
}

static const Test tests[] = {
    {"sched/fuzz", "random schedules: each request's tokens are those it gets alone, and all invariants hold", fuzz},
};
REGISTER_TESTS(tests)

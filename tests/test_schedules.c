// test_schedules.c: random schedules of true models and drafts. Tiny pools, shared and found blocks, a hash of four
// bits, preemption, swaps, cancels before and within a step, guesses right and wrong, caches that let pairs go or round
// them, and in every fourth schedule prompts of whole tiles, whose keys are read once for all that begin in the same
// blocks: whatever happens, the tokens of a request are those that it gets alone. SCHEDULES=10000 build/tests
// schedules/ takes a minute.
#include "tests/config.h"
#include "tests/test.h"
#include "infer/served.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 23, ITEMS = 12, ANSWER = 16, REQUESTS = 8, TILE = 32 };
enum { SHORT, LONG, LENGTHS };
enum { PROMPT = 22, LONG_PROMPT = 3 * TILE + 12, MOST = LONG_PROMPT + ANSWER };
static size_t prompt_of(int length) { return length == LONG ? LONG_PROMPT : PROMPT; }
enum { KNOWN = 24 };            // positions of the draft that has learned ones

// What a request asks for, and what it gets alone. Two with one prompt stand side by side; beginnings are shared too.
typedef struct { int token[MOST]; size_t n; uint64_t seed; } Item;

static const SampleOptions drawn[] = {
    {.temperature = 1, .top_p = 1, .seed = 3, .tokens = ANSWER, .samples = 1},
    {.temperature = 0, .top_p = 1, .seed = 3, .tokens = ANSWER, .samples = 1},
    {.temperature = 0.7, .top_k = 6, .top_p = 0.9, .seed = 3, .tokens = ANSWER, .samples = 1},
};
#define TILED "--tile 32 "
static const char *const targets[] = {TILED "--head-dim 32", TILED "--attn mla --kv-rank 24 --rope-dim 8",
                                      TILED "--attn swa --window 9", TILED "--attn gqa --kv-heads 1 --pos alibi",
                                      TILED "--experts 4 --router bias", TILED "--attn gla+mha"};
static const char *const drafts[] = {TILED "--width 16 --layers 1", TILED "--attn mla --layers 1",
                                     TILED "--pos learned --context 24"};
enum { TARGETS = sizeof targets / sizeof *targets, DRAFTS = sizeof drafts / sizeof *drafts };
// What a cache keeps of the texts of the first two targets.
static const KeepOptions kept[] = {
    {.policy = KV_POLICY_window, .budget = 7, .bits = 32, .from = 1},
    {.policy = KV_POLICY_sink, .budget = 9, .bits = 32},
    {.policy = KV_POLICY_random, .budget = 6, .bits = 16, .seed = 5},
    {.policy = KV_POLICY_h2o, .budget = 8, .bits = 32},
    {.policy = KV_POLICY_snapkv, .budget = 10, .bits = 32},
    {.policy = KV_POLICY_full, .bits = 4, .group = 4, .residual = 3, .ahead = 6},
    {.policy = KV_POLICY_full, .bits = 8, .group = 3, .residual = 0, .ahead = 6},
    {.policy = KV_POLICY_full, .bits = 32, .quant = WEIGHTS_q4_0}, {.policy = KV_POLICY_full, .bits = 16},
    {.policy = KV_POLICY_full, .bits = 32, .quant = WEIGHTS_mxfp4},
    {.policy = KV_POLICY_h2o, .budget = 8, .bits = 32, .quant = WEIGHTS_q8_0},
};
enum { KEPT = sizeof kept / sizeof *kept, KEEPERS = 2 };
typedef enum { GUESS_NOTHING, GUESS_LOOKUP, GUESS_MODEL, GUESS_RATIO, GUESSES } Guess;

static Model *open_model(const char *flags) {
    Config c = config_of("--width 32 --heads 2 --layers 2 --context 128 --ffn-width 24 --init-scale 6", flags, VOCAB);
    return model_new(&c, false);
}

static void write_alone(Item *item, Model *m, SampleOptions o, Draft *draft, KeepOptions keep) {
    Tokenizer *numbers = tokenizer_numbers(VOCAB);
    Speculation ahead = {.draft = draft, .ratio = true, .most = 3};
    o.seed += item->seed;
    Sampler *s = sampler_new_kept(m, numbers, item->token, item->n, o, keep);
    if (draft) sampler_speculate(s, &ahead);
    for (size_t i = 0; i < ANSWER; i++) sampler_next(s);
    memcpy(item->token, s->text[0].token, (item->n + ANSWER) * sizeof *item->token);
    sampler_free(s), tokenizer_free(numbers);
}

// Of a target and, for ratio, of a draft. A text of ratio was written with three guesses a step.
static void make_items(Item *item, int length, Model *m, Model *draft, size_t known, SampleOptions o,
                       KeepOptions keep) {
    Rng r = rng_stream(2, RNG_TEST, 5), text = rng_stream(2, RNG_TEST, 6);
    int beginning[LONG_PROMPT];
    for (size_t t = 0; t < LONG_PROMPT; t++) beginning[t] = length == LONG ? (int)rng_below(&text, VOCAB) : 7;
    for (size_t i = 0; i < ITEMS; i++) {
        size_t same = rng_below(&r, 9);
        item[i] = (Item){.n = 1 + same + rng_below(&r, PROMPT - 9), .seed = i};
        if (length == LONG)
            same = 20 + 16 * (i / 2 % 6), item[i].n = same + 1 + rng_below(&r, LONG_PROMPT - (uint32_t)same);
        for (size_t t = 0; t < item[i].n; t++) item[i].token[t] = t < same ? beginning[t] : (int)rng_below(&r, 4);
        if (i % 2) item[i] = item[i - 1], item[i].seed = i;
    }
    for (size_t i = 0; i < ITEMS; i++) {            // only now: the second of two is a copy of a prompt
        SampleOptions mine = o;
        mine.seed += item[i].seed;
        Draft *d = draft ? draft_of_model(draft, VOCAB, mine, true, smaller(known, MOST)) : NULL;
        write_alone(&item[i], m, o, d, keep);
        draft_free(d);
    }
}

typedef struct {
    Model *target[TARGETS], *draft[DRAFTS];
    Item item[LENGTHS][TARGETS][DRAFTS + 1][ITEMS];     // the last of the drafts: exact
    Item less[LENGTHS][KEEPERS][KEPT][ITEMS];           // where the cache keeps less; LONG: and others may find it
    SampleOptions options[TARGETS];
} Zoo;
static size_t known_of(size_t draft) { return strstr(drafts[draft], "learned") ? KNOWN : SIZE_MAX; }

static void make_items_of(Zoo *z, size_t t, int length) {
    Model *m = z->target[t];
    SampleOptions o = z->options[t];
    bool forgets = !served_has_state(m);
    make_items(z->item[length][t][DRAFTS], length, m, NULL, 0, o, keep_everything());
    for (size_t k = 0; t < KEEPERS && k < KEPT; k++)
        if (length == SHORT || !keep_alters(&kept[k]))
            make_items(z->less[length][t][k], length, m, NULL, 0, o, kept[k]);
    for (size_t d = 0; d < DRAFTS && forgets; d++)
        make_items(z->item[length][t][d], length, m, z->draft[d], known_of(d), o, keep_everything());
}

static Zoo *open_zoo(void) {
    Zoo *z = xmalloc(sizeof *z);
    for (size_t d = 0; d < DRAFTS; d++) z->draft[d] = open_model(drafts[d]);
    for (size_t t = 0; t < TARGETS; t++) {
        z->target[t] = open_model(targets[t]), z->options[t] = drawn[t % 3];
        for (int length = 0; length < LENGTHS; length++) make_items_of(z, t, length);
    }
    return z;
}

// ---- a schedule ----------------------------------------------------------------------------------
typedef struct { Request *r; const Item *item; size_t cancel_at, most; double at; } Asked;
typedef struct {
    Rng rng;
    Pool *pool; Sched *sched; Served *served; Engine engine; SchedOptions o;
    const Item *item;
    Asked asked[REQUESTS]; size_t count, submitted, steps;
    int length;
    bool forks, cancels; Guess guess; size_t keeps;  // keeps: KEPT: everything
    KeepOptions keep;
    size_t together;                                // rows that were read with others
} World;

static size_t below(World *w, size_t n) { return rng_below(&w->rng, (uint32_t)n); }
static bool chance(World *w, size_t of_ten) { return below(w, 10) < of_ten; }

static void choose_guesses(World *w, const Zoo *z, size_t target) {
    size_t d = below(w, DRAFTS);
    w->guess = (Guess)below(w, GUESSES);
    w->item = z->item[w->length][target][DRAFTS];
    if (w->guess == GUESS_RATIO && served_has_state(z->target[target])) w->guess = GUESS_MODEL;
    if (w->guess == GUESS_LOOKUP) w->engine.draft = draft_lookup();
    if (w->guess < GUESS_MODEL) return;
    bool itself = w->guess == GUESS_MODEL && chance(w, 2) && !served_has_state(z->target[target]);
    size_t known = itself ? SIZE_MAX : known_of(d);
    w->engine.draft = draft_elsewhere(known);
    served_guess(w->served, itself ? z->target[target] : z->draft[d], w->guess == GUESS_RATIO, known, w->o.running,
                 pool_blocks(w->pool));
    if (w->guess == GUESS_RATIO) w->item = z->item[w->length][target][d];
}

static void make_world(World *w, const Zoo *z, uint64_t seed) {
    *w = (World){.rng = rng_stream(seed, RNG_TEST, 78), .length = seed % 4 == 3 ? LONG : SHORT};
    size_t prompt = prompt_of(w->length), target = seed / 4 % TARGETS;
    size_t size = 1 + below(w, w->length == LONG ? 16 : 6), blocks = (prompt + ANSWER) / size + 1 + below(w, 12);
    w->o = (SchedOptions){.running = 1 + below(w, 5), .chunk = 1 + below(w, 20), .prefix_cache = chance(w, 7),
                          .sched = chance(w, 8) ? SCHED_continuous : SCHED_static, .admit = (int)below(w, 3),
                          .victim = (int)below(w, 2), .preempt = (int)below(w, 2),
                          .watermark = chance(w, 5) ? 0 : 1.0 / (double)blocks, .shed = chance(w, 9) ? 0 : 12};
    w->o.budget = w->o.running + below(w, w->length == LONG ? 80 : 20);
    w->keeps = target < KEEPERS && chance(w, 4) ? below(w, KEPT) : KEPT;
    if (w->length == LONG) w->o.chunk *= 4;
    if (w->length == LONG && w->keeps < KEPT && keep_alters(&kept[w->keeps])) w->keeps = KEPT;
    w->keep = w->keeps < KEPT ? kept[w->keeps] : keep_everything();
    keep_fit(z->target[target], &w->keep);
    if (keep_alters(&w->keep)) w->o.prefix_cache = false, w->o.slots = served_slots, w->o.keep = &w->keep;
    w->pool = pool_new(blocks, size, blocks, seed, chance(w, 5) ? 4 : 64);
    w->sched = sched_new(w->o, w->pool);
    w->served = served_new_kept(z->target[target], blocks, size, w->o.running, blocks, z->options[target], VOCAB,
                                &w->keep);
    if (chance(w, 5)) served_keep_snapshots(w->served);
    w->engine = (Engine){.sched = w->sched, .backend = served_backend(w->served), .guesses = 1 + below(w, 6),
                         .guess = draft_guess};
    if (w->keeps == KEPT) choose_guesses(w, z, target);
    else w->item = z->less[w->length][target][w->keeps];
    if (w->keeps < KEPT && !keep_evicts(&w->keep) && chance(w, 5)) w->engine.draft = draft_lookup();
    w->forks = chance(w, 4), w->cancels = chance(w, 4);
    w->count = 1 + below(w, REQUESTS);
    for (size_t i = 0; i < w->count; i++) w->asked[i].at = (double)below(w, 20);
}

static void free_world(World *w) {
    draft_free(w->engine.draft), engine_free(&w->engine), served_free(w->served);
    sched_free(w->sched), pool_free(w->pool);
}

static void submit(World *w) {
    Asked *a = &w->asked[w->submitted], *before = w->submitted++ ? a - 1 : NULL;
    size_t i = below(w, ITEMS);
    bool fork = w->forks && before && before->r->end != END_REFUSED && before->item->seed % 2 == 0 && chance(w, 7);
    a->item = fork ? before->item + 1 : &w->item[i];
    a->most = fork ? before->most : a->item->n + 1 + below(w, ANSWER);
    a->r = fork ? sched_fork(w->sched, before->r, (double)w->steps)
                : sched_submit(w->sched, a->item->token, a->item->n, a->most, below(w, 2), (double)w->steps);
    a->r->seed = a->item->seed, a->r->fresh = chance(w, 3);
    a->cancel_at = w->cancels && chance(w, 5) ? w->steps + below(w, 30) : SIZE_MAX;
}

static void cancel(World *w) {
    for (size_t i = 0; i < w->submitted; i++)
        if (w->asked[i].cancel_at <= w->steps) sched_cancel(w->sched, w->asked[i].r);
}

static void check(const char *wrong, uint64_t seed) {
    CHECK(!wrong, "schedule %llu: %s", (unsigned long long)seed, wrong);
}

// Rows that begin in the same blocks with another one, for a tile at least.
static size_t rows_together(const Step *step, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < step->rows; i++)
        for (size_t j = 0, same = 0; j < step->rows && same * size < TILE; j++) {
            const StepRow *a = &step->row[i], *b = &step->row[j];
            same = 0;
            while (i != j && same * size < smaller(a->past, b->past) && a->block[same] == b->block[same]) same++;
            count += same * size >= TILE;
        }
    return count;
}

static bool world_step(World *w, uint64_t seed) {
    while (w->submitted < w->count && w->asked[w->submitted].at <= (double)w->steps) submit(w);
    bool within = chance(w, 5);
    if (!within) cancel(w);
    Step *step = engine_schedule(&w->engine, (double)w->steps);
    check(sched_check_step(w->sched, step), seed);
    w->together += rows_together(step, pool_block_size(w->pool));
    if (within) cancel(w);
    engine_finish(&w->engine, step);
    check(sched_check(w->sched), seed);
    w->steps++;
    return step->rows || w->submitted < w->count || sched_waiting(w->sched);
}

static void check_tokens(const World *w, uint64_t seed) {
    for (size_t i = 0; i < w->submitted; i++) {
        const Asked *a = &w->asked[i];
        size_t n = a->r->end == END_REFUSED ? 0 : a->r->length;
        CHECK(a->r->state == STATE_ENDED && (a->r->end != END_LENGTH || n == a->most),
              "schedule %llu: request %zu has %zu of %zu tokens", (unsigned long long)seed, i, n, a->most);
        CHECK(!memcmp(a->r->token, a->item->token, n * sizeof *a->item->token),
              "schedule %llu, %s, guesses %d, keeps %zu: request %zu has other tokens than alone",
              (unsigned long long)seed, targets[seed / 4 % TARGETS], w->guess, w->keeps, i);
    }
}

typedef struct { size_t preempted, saved, copied, found, kept[GUESSES], rejected[GUESSES], end[ENDS],
                        less[KEPT + 1], together; } Seen;
static void see(Seen *s, const World *w) {
    const SchedCounters *c = sched_counters(w->sched);
    s->preempted += c->preempted, s->saved += c->saved, s->copied += c->copied;
    s->less[w->keeps] += c->ended[END_LENGTH], s->together += w->together;
    s->found += c->hits + c->rehits + c->shared;
    s->kept[w->guess] += c->drafted - c->rejected, s->rejected[w->guess] += c->rejected;
    for (size_t i = 0; i < ENDS; i++) s->end[i] += c->ended[i];
}

static void fuzz(void) {
    Seen seen = {0};
    Zoo *z = open_zoo();
    const char *schedules = getenv("SCHEDULES");
    size_t count = schedules ? strtoull(schedules, NULL, 10) : 800;
    for (uint64_t seed = 0; seed < count; seed++) {
        World w;
        make_world(&w, z, seed);
        while (world_step(&w, seed) && w.steps < 3000) {}
        CHECK(w.steps < 3000, "schedule %llu does not end", (unsigned long long)seed);
        check_tokens(&w, seed);
        CHECK(pool_available(w.pool) == pool_blocks(w.pool), "schedule %llu leaks blocks", (unsigned long long)seed);
        see(&seen, &w);
        free_world(&w);
    }
    CHECK(count < 800 || (seen.preempted && seen.saved && seen.copied && seen.found && seen.end[END_CANCELLED] &&
          seen.end[END_SHED] && seen.together > 200),
          "preempted %zu, saved %zu, copied %zu, found %zu, cancelled %zu, shed %zu, together %zu", seen.preempted,
          seen.saved, seen.copied, seen.found, seen.end[END_CANCELLED], seen.end[END_SHED], seen.together);
    for (size_t k = 0; k < KEPT && count >= 800; k++) CHECK(seen.less[k] > 4, "keeps %zu: %zu ended", k, seen.less[k]);
    for (Guess g = GUESS_LOOKUP; g < GUESSES && count >= 800; g++)
        CHECK(seen.kept[g] > 20 && seen.rejected[g] > 20, "guesses %d: %zu kept, %zu rejected", g, seen.kept[g],
              seen.rejected[g]);
}

// Two texts that go on from one state in one step, as those that found the same blocks: the first may not take it away.
static void states(void) {
    enum { SIZE = 4, PAST = 8 };
    static const int past[PAST] = {1, 2, 3, 4, 5, 6, 7, 8}, next[2][3] = {{9, 10, 11}, {12, 13, 14}};
    static const uint32_t table[2][3] = {{0, 1, 2}, {0, 1, 3}};
    for (int snapshots = 0; snapshots < 2; snapshots++) {
        Model *m = open_model("--attn gla+gated-delta");
        Blocks *all = blocks_new(m, 4, SIZE);
        all->snapshots = snapshots;
        real both[2 * VOCAB], alone[VOCAB];
        Row first = {past, PAST, 0, table[0], PAST, 0};
        Row rows[2] = {{next[0], 3, PAST, table[0], 2, 0}, {next[1], 3, PAST, table[1], 2, 0}};
        model_step(m, all, &first, 1, NULL);
        model_step(m, all, rows, 2, both);
        for (int i = 0; i < 2; i++) {
            Cache *c = cache_new(m, 1, PAST + 3);
            model_infer(m, c, past, PAST, false, alone), model_infer(m, c, next[i], 3, false, alone);
            CHECK(!memcmp(alone, both + i * VOCAB, sizeof alone), "row %d of two after one state, snapshots %d", i,
                  snapshots);
            cache_free(c);
        }
        blocks_free(all), model_free(m);
    }
}

static const Test tests[] = {
    {"schedules/states", "two texts go on from one recurrent state in one step", states},
    {"schedules/served", "random schedules of models and drafts: each request's tokens are those it gets alone", fuzz},
};
REGISTER_TESTS(tests)

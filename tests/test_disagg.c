// test_disagg.c: readers, writers and the link between them, against closed formulas and by chance.
#include "infer/disagg.h"
#include "lib/rng.h"
#include "tests/program.h"
#include "tests/test.h"
#include <stdlib.h>

// ---- a fleet that computes nothing ---------------------------------------------------------------
static void no_step(void *self, const StepRow *row, size_t rows) { (void)self, (void)row, (void)rows; }
static void no_move(void *self, uint32_t from, uint32_t to) { (void)self, (void)from, (void)to; }
static int some_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    (void)self, (void)row, (void)index, (void)i;
    return (int)(r->seed * 1000 + position);
}

// Weights in A seconds, a token in B of them: whichever is longer, so that from A / B = 10 tokens on only these count.
#define A 1e-2
#define B 1e-3
static const CostTable cost = {.base = A, .knots = 1, .knot = {10}, .bend = {B}, .most = {1e5, 1e9, 1e9, 1e12, 1e5},
                               .cache_bytes = 1000, .layers = 4};

typedef struct { size_t prompt, answer; double at; } Asked;
typedef struct { Fleet *fleet; Record *record; const Asked *asked; size_t wrong; double now, gap; } Play;

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Play *p = owner;
    Record *record = &p->record[r->seed];
    for (size_t i = 0; i < count; i++)
        p->wrong += token[i] != (int)(r->seed * 1000 + p->asked[r->seed].prompt + record->answer++);
    if (record->first == 0) record->first = p->now;
    p->gap = fmax(p->gap, record->last > 0 ? p->now - record->last : 0);
    record->last = p->now;
}

static FleetOptions options_of(size_t readers, size_t writers) {
    SchedOptions s = {256, 64, 256, SCHED_continuous, ADMIT_prompt, VICTIM_last, PREEMPT_recompute, 0, 0, false, NULL,
                      NULL, 0};
    return (FleetOptions){.readers = readers, .writers = writers, .link = INFINITY, .layers = 4, .each = 1000,
                          .keep = keep_everything(), .sched = s, .blocks = 4000, .block = 16, .cost = &cost,
                          .backend = {NULL, no_step, no_move, no_move, no_move, some_token, NULL}, .emit = receive};
}

// Until all have ended; if checked, with a look at all promises whenever something has happened.
static Play play(FleetOptions o, const Asked *asked, size_t count, bool checked) {
    Play p = {.record = xmalloc(count * sizeof *p.record), .asked = asked};
    size_t submitted = 0;
    int token[512];
    o.owner = &p;
    p.fleet = fleet_new(&o, count);
    for (double next;; p.now = next) {
        const char *wrong = NULL;
        fleet_happen(p.fleet, p.now);
        for (; submitted < count && asked[submitted].at <= p.now; submitted++) {
            for (size_t i = 0; i < asked[submitted].prompt; i++) token[i] = (int)(submitted * 7 + i);
            fleet_submit(p.fleet, token, asked[submitted].prompt, asked[submitted].answer, asked[submitted].at);
        }
        fleet_start(p.fleet, p.now);
        if (checked && (wrong = fleet_check(p.fleet))) CHECK(!wrong, "at %g: %s", p.now, wrong);
        next = fleet_next(p.fleet, p.now);
        if (submitted < count) next = fmin(next, asked[submitted].at);
        if (isinf(next) || wrong) break;
    }
    fleet_tell(p.fleet, p.record);
    CHECK(!p.wrong, "%zu tokens that the request would not get alone", p.wrong);
    CHECK(fleet_flying(p.fleet) == 0, "%zu requests never end", fleet_flying(p.fleet));
    return p;
}

static void leave(Play *p) { fleet_free(p->fleet), free(p->record); }

static double seconds_of(FleetOptions o, size_t prompt, size_t answer, size_t count) {
    Asked *asked = xmalloc(count * sizeof *asked);
    for (size_t i = 0; i < count; i++) asked[i] = (Asked){prompt, answer, 0};
    Play p = play(o, asked, count, false);
    double seconds = p.now;
    leave(&p), free(asked);
    return seconds;
}

// ---- formulas ------------------------------------------------------------------------------------

// x: the share of reading in all tokens. The slower half decides, and of two equal workers one waits for the other.
static void throughput(void) {
    static const size_t prompt[] = {64, 128, 192, 240};
    for (size_t i = 0; i < 4; i++) {
        size_t answer = 256 - prompt[i] + 1;                     // the last token is never computed
        double x = (double)prompt[i] / 256, expected = 1 / (2 * fmax(x, 1 - x));
        double together = seconds_of(options_of(0, 2), prompt[i], answer, 2000);
        double apart = seconds_of(options_of(1, 1), prompt[i], answer, 2000), ratio = together / apart;
        CHECK(fabs(ratio / expected - 1) < 0.03, "x = %g: %g times as many requests, %g expected", x, ratio, expected);
    }
    double even = seconds_of(options_of(3, 1), 192, 65, 2000) * 4 / (seconds_of(options_of(0, 1), 192, 65, 2000));
    CHECK(fabs(even - 1) < 0.05, "3:1 for three times as much reading as writing: %g of the work of one", even);
}

// k bytes and b seconds for a token: below k / b bytes per second the link is what a request waits for, and fewer bits
// move that by their ratio.
static void link_bound(void) {
    static const size_t bits[] = {32, 16, 8};
    for (size_t i = 0; i < 3; i++) {
        FleetOptions o = options_of(1, 1);
        o.keep.bits = bits[i], o.keep.group = 32, o.keep.residual = 0;
        double k = 1000.0 * ((double)bits[i] + (bits[i] < 16 ? 1 : 0)) / 32;
        double free = seconds_of(o, 192, 65, 1000);
        for (double share = 0.25; share <= 4; share *= 2) {
            o.link = share * k / B;
            double seconds = seconds_of(o, 192, 65, 1000), expected = fmax(1, 1 / share);
            CHECK(fabs(seconds / free / expected - 1) < 0.03, "%zu bits, a link of %g k/b: %g times as long, not %g",
                  bits[i], share, seconds / free, expected);
        }
    }
}

// The second token of a request alone: its step, behind a prompt of p seconds and a transfer of s. Of these, layer by
// layer, (L - 1) / L of the shorter one is hidden.
static void overlapping(void) {
    double p = 200 * B, step = A;
    for (double s = p / 8; s <= 8 * p; s *= 4) {
        FleetOptions o = options_of(1, 1);
        o.link = 200 * 1000 / s;
        for (int overlap = 0; overlap < 2; overlap++) {
            o.overlap = overlap;
            Asked one = {200, 2, 0};
            Play played = play(o, &one, 1, true);
            double expected = p + s - (overlap ? 0.75 * fmin(p, s) : 0) + step;
            CHECK(fabs(played.record->last - expected) < 1e-9 && fabs(played.record->first - p) < 1e-9,
                  "p %g, s %g, overlap %d: %g, not %g", p, s, overlap, played.record->last, expected);
            LinkCounters link = fleet_link(played.fleet);
            CHECK(link.bytes == 200000 && link.prompts == 1 && fabs(link.seconds - s) < 1e-9, "%g bytes", link.bytes);
            leave(&played);
        }
    }
}

// A writer's step never holds a chunk, so the longest gap within an answer is that of a step of its texts, or of two
// for one that has just arrived; where a worker that does both makes them wait for the chunk, too.
static void gaps(void) {
    Asked asked[40];
    for (size_t i = 0; i < 40; i++) asked[i] = (Asked){256, 100, 0.26 * (double)i};
    Play together = play(options_of(0, 1), asked, 40, true), apart = play(options_of(1, 1), asked, 40, true);
    CHECK(apart.gap <= 2 * A + 1e-9, "%g s between tokens of a writer", apart.gap);
    CHECK(together.gap > 250 * B, "%g s between tokens beside a chunk of 256", together.gap);
    leave(&together), leave(&apart);
}

// ---- by chance -----------------------------------------------------------------------------------
static FleetOptions some_options(Rng *r) {
    FleetOptions o = options_of(rng_below(r, 4), 1 + rng_below(r, 3));
    o.block = 1 + rng_below(r, 16), o.blocks = 150 / o.block + 1 + rng_below(r, 60);
    o.sched.running = 1 + rng_below(r, 12), o.sched.budget = o.sched.running + rng_below(r, 40);
    o.sched.chunk = 1 + rng_below(r, 50), o.sched.admit = (int)rng_below(r, 3);
    o.sched.preempt = (int)rng_below(r, 2), o.sched.victim = (int)rng_below(r, 2);
    o.sched.watermark = rng_below(r, 2) * 0.1, o.sched.prefix_cache = rng_below(r, 2);
    o.link = rng_below(r, 2) ? INFINITY : 1e4 * (1 + rng_below(r, 100)), o.overlap = rng_below(r, 2);
    o.keep.bits = 4u << rng_below(r, 4), o.keep.group = 8, o.keep.residual = rng_below(r, 3) * 8;
    return o;
}

static void by_chance(void) {
    size_t preempted = 0, sent = 0, found = 0;
    for (uint64_t seed = 0; seed < 400; seed++) {
        Rng r = rng_stream(seed, RNG_DATA, 0);
        FleetOptions o = some_options(&r);
        Asked asked[30];
        double useful = 0, bytes = 0, now = 0;
        for (size_t i = 0; i < 30; i++) {
            asked[i] = (Asked){1 + rng_below(&r, 80), 1 + rng_below(&r, 60), now};
            if (rng_below(&r, 2)) now += 0.2 * rng_uniform(&r);
            useful += (double)(asked[i].prompt + asked[i].answer - 1);
            if (o.readers && asked[i].answer > 1) bytes += fleet_bytes(&o, asked[i].prompt, true), sent++;
        }
        Play p = play(o, asked, 30, true);
        SchedCounters c = fleet_counters(p.fleet);
        LinkCounters link = fleet_link(p.fleet);
        CHECK(c.ended[END_LENGTH] == 30 && c.received == 30, "seed %zu: %zu ended", (size_t)seed, c.ended[END_LENGTH]);
        CHECK((double)(c.useful + c.hits + c.rehits) >= useful && c.executed == c.useful + c.recomputed,
              "seed %zu: %zu useful tokens of %g", (size_t)seed, c.useful, useful);
        CHECK(o.sched.prefix_cache || (double)c.useful == useful, "seed %zu: %zu of %g", (size_t)seed, c.useful,
              useful);
        CHECK(fabs(link.bytes - bytes) < 1e-6, "seed %zu: %g bytes sent, not %g", (size_t)seed, link.bytes, bytes);
        for (size_t i = 0; i < 30; i++)
            CHECK(p.record[i].end == END_LENGTH && p.record[i].answer == asked[i].answer, "request %zu", i);
        preempted += c.preempted, found += c.hits;
        leave(&p);
    }
    CHECK(preempted > 300 && sent > 3000 && found == 0, "%zu preempted, %zu sent, %zu found", preempted, sent, found);
}

// ---- the command ---------------------------------------------------------------------------------
static Result serve(const char *flags) {
    const char *train = train_binary();
    return shell(xprintf("'%.*s/serve' --requests 60 --rate 20 --records r.jsonl %s",
                         (int)(strrchr(train, '/') - train), train, flags));
}
static const char *digest_of(Result r) {
    const char *at = strstr(r.out, "digest ");
    return at ? at : "none";
}

static void command(void) {
    static const char *const same[] = {"--disagg 0:1", "--disagg 0:3 --blocks 60", "--disagg 1:2",
                                       "--disagg 2:1 --link-gbps 1 --kv-bits 4 --overlap 0 --admit chunk --blocks 48"};
    static const struct { const char *flags, *word; } bad[] = {
        {"--disagg 1", "P:D was expected"}, {"--disagg 1:0", "at least one that writes"},
        {"--disagg 1:1:1", "P:D was expected"}, {"--disagg 0:2 --link-gbps 1", "nothing crosses a link"},
        {"--disagg 0:2 --kv-bits 8", "nothing crosses a link"},
        {"--link-gbps 1", "--disagg"}, {"--overlap 0", "--disagg"}, {"--disagg 1:1 --agent-turns 2", "sessions"},
        {"--disagg 1:1 --kv-policy window --kv-budget 8", "without --run"}, {"--kv-bits 8", "without --run"},
    };
    Result whole = serve("");
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result r = serve(same[i]);
        CHECK(!r.status && !strcmp(digest_of(r), digest_of(whole)), "%s: %s%s", same[i], r.out, r.error);
    }
    Result linked = serve("--disagg 1:1 --link-gbps 0.1 --receipt receipt.json");
    CHECK(strstr(linked.out, "\nlink      ") && strstr(linked.out, " of 60 prompts"), "%s", linked.out);
    CHECK(strstr(read_whole_file(test_path("receipt.json"), NULL), "\"sent\": 60"), "the receipt");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Result r = serve(bad[i].flags);
        CHECK(r.status == 2 && strstr(r.error, bad[i].word), "%s: %d, %s", bad[i].flags, r.status, r.error);
    }
}

static const Test tests[] = {
    {"disagg/throughput", "1:1 has 1 / (2 max(x, 1 - x)) of the requests of two workers that do both", throughput},
    {"disagg/link", "below k / b bytes per second the link decides, and bits move it by their ratio", link_bound},
    {"disagg/overlap", "layer by layer (L - 1) / L of the shorter of reading and sending is hidden", overlapping},
    {"disagg/gaps", "no token of a writer waits for a chunk of a prompt", gaps},
    {"disagg/chance", "random fleets: every token, counter and byte", by_chance},
    {"disagg/command", "./serve --disagg: the same tokens, and what it refuses", command},
};
REGISTER_TESTS(tests)

// disagg.c: one process that reads prompts and one that writes answers, on this machine's clock (infer/pipe.h), beside
// two that do both: what is left of the throughput, by the formula, by the event clock with a table that is measured
// here, and by a watch; what a slow link leaves of it, whole and in half as many bits; what sending layer by layer
// hides; and which bytes and tokens crossed. Section `split` has the throughput again, in a better design: with many
// requests under way and with few, of lengths that vary, over many rounds of clients. (In `disagg` all are of a length,
// so that they end in waves, and rates are of one wave: too little where both workers do both. Its record is kept.)
#include "bench/bench.h"
#include "infer/calibrate.h"
#include "infer/pipe.h"
#include "lib/rng.h"
#include "model/transfer.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16, MIXES = 3, MOST = 5, TRIES = 9 };
typedef struct {
    const char *flags; size_t vocab, clients, requests, budget, blocks;
    struct { size_t prompt, answer; } mix[MIXES], slow;
    bool varied;
} Setting;
static const Setting settings[] = {
    {"--layers 6 --width 256 --heads 4 --attn gqa --kv-heads 1 --context 1024", 2048, 64, 192, 256, 2048,
     {{64, 193}, {128, 129}, {208, 49}}, {192, 65}, false},
    {"--layers 2 --width 64 --heads 2 --context 512", 256, 4, 12, 32, 128,
     {{8, 25}, {16, 17}, {24, 9}}, {24, 9}, false},
};
// Twelve million weights and short texts: nearly all is products, not keys. 256 clients are 128 rows for each worker
// that does both, 16 are 8 and wait for the weights.
#define SPLIT "--layers 4 --width 512 --heads 8 --attn gqa --kv-heads 1 --context 128", 2048
#define TINY_SPLIT "--layers 2 --width 64 --heads 2 --context 128", 256
enum { LOADS = 2 };
static const Setting split[][LOADS] = {
    {{SPLIT, 256, 5 * 256, 256, 2048, {{16, 49}, {32, 33}, {52, 13}}, {0, 0}, true},
     {SPLIT, 16, 16 * 16, 256, 2048, {{16, 49}, {32, 33}, {52, 13}}, {0, 0}, true}},
    {{TINY_SPLIT, 8, 32, 32, 128, {{8, 25}, {16, 17}, {24, 9}}, {0, 0}, true},
     {TINY_SPLIT, 2, 16, 32, 128, {{8, 25}, {16, 17}, {24, 9}}, {0, 0}, true}},
};

// ---- requests in a closed loop -------------------------------------------------------------------
// varied: lengths are from half of these to three halves, and rates begin after two rounds of clients.
typedef struct { size_t prompt, answer, requests, clients; bool varied; } Load;
typedef struct { double *last, *second; size_t *got; uint64_t *digest; } Watch;       // of each request
typedef struct {
    double rate, reading, writing;      // requests per second while all clients have one; seconds of steps
    LinkCounters link;
    double second;                      // when the last request had two tokens
    uint64_t digest;
} Outcome;

static Watch watch_new(size_t requests) {
    return (Watch){xmalloc(requests * sizeof(double)), xmalloc(requests * sizeof(double)),
                   xmalloc(requests * sizeof(size_t)), xmalloc(requests * sizeof(uint64_t))};
}
static void watch_free(Watch *w) { free(w->last), free(w->second), free(w->got), free(w->digest); }

static void note(void *owner, size_t request, int token, double time) {
    Watch *w = owner;
    w->last[request] = time;
    if (w->got[request]++ == 1) w->second[request] = time;
    w->digest[request] = hash_bytes(w->got[request] == 1 ? HASH_START : w->digest[request], &token, sizeof token);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Between the end of the first round of clients and the beginning of the last, nobody waits for company.
static void conclude(Outcome *o, Watch *w, const Load *l) {
    o->digest = HASH_START, o->second = w->second[l->requests - 1];
    for (size_t i = 0; i < l->requests; i++) o->digest = hash_bytes(o->digest, &w->digest[i], sizeof *w->digest);
    qsort(w->last, l->requests, sizeof *w->last, by_size);
    size_t from = l->clients < l->requests ? l->clients - 1 : 0, to = l->requests - from - 1;
    if (l->varied) from = 2 * l->clients, to = l->requests - l->clients;
    if (to > from) o->rate = (double)(to - from) / (w->last[to] - w->last[from]);
}

static void make_prompt(int *token, size_t n, size_t request, size_t vocab) {
    Rng r = rng_stream(1, RNG_DATA, request);
    for (size_t i = 0; i < n; i++) token[i] = (int)rng_below(&r, (uint32_t)vocab);
}

static size_t length_of(const Load *l, size_t usual, size_t request, bool answer) {
    if (!l->varied) return usual;
    Rng r = rng_stream(answer ? 3 : 2, RNG_DATA, request);
    return usual / 2 + rng_below(&r, (uint32_t)usual + 1);
}

static Outcome by_pipe(const PipeOptions *options, const Load *l) {
    PipeOptions o = *options;
    Watch w = watch_new(l->requests);
    size_t submitted = 0, vocab = model_config(o.served->model)->vocab;
    int *token = xmalloc(2 * l->prompt * sizeof *token);
    const char *reason = NULL;
    double start = 0;
    o.emit = note, o.owner = &w, o.threads = 1;
    Pipe *p = pipe_new(&o, l->requests);
    reason = pipe_begin(p, &start);
    while (!reason && (submitted < l->requests || pipe_flying(p))) {
        for (; submitted < l->requests && pipe_flying(p) < l->clients; submitted++) {
            size_t n = length_of(l, l->prompt, submitted, false);
            make_prompt(token, n, submitted, vocab);
            pipe_submit(p, token, n, length_of(l, l->answer, submitted, true), seconds_now() - start);
        }
        reason = pipe_wait(p, INFINITY);
    }
    if (!reason) reason = pipe_end(p);
    if (reason) fail("%s", reason);
    Outcome found = {.reading = pipe_times(p, true).busy, .writing = pipe_times(p, false).busy, .link = pipe_link(p)};
    conclude(&found, &w, l);
    pipe_free(p), watch_free(&w), free(token);
    return found;
}

// ---- the same on the event clock -----------------------------------------------------------------
typedef struct { Watch watch; double now; } Simulated;
static void no_step(void *self, const StepRow *row, size_t rows) { (void)self, (void)row, (void)rows; }
static void no_move(void *self, uint32_t from, uint32_t to) { (void)self, (void)from, (void)to; }
static int no_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    (void)self, (void)row, (void)index, (void)i, (void)r, (void)position;
    return 0;
}
static void note_now(void *owner, Request *r, const int *token, size_t count) {
    Simulated *s = owner;
    for (size_t i = 0; i < count; i++) note(&s->watch, r->seed, token[i], s->now);
}

static Outcome by_events(const PipeOptions *p, const CostTable *cost, const Load *l) {
    Simulated s = {.watch = watch_new(l->requests)};
    const Config *c = model_config(p->served->model);
    FleetOptions o = {.readers = p->readers, .writers = p->writers, .link = p->link, .overlap = p->overlap,
                      .layers = c->layers, .each = (double)model_size(c).cache_bytes_per_token,
                      .keep = p->served->blocks->keep.o, .sched = p->sched, .blocks = p->blocks, .block = p->block,
                      .cost = cost, .backend = {NULL, no_step, no_move, no_move, no_move, no_token, NULL},
                      .emit = note_now, .owner = &s};
    Fleet *f = fleet_new(&o, l->requests);
    int *token = xmalloc(2 * l->prompt * sizeof *token);
    size_t submitted = 0;
    for (double next;; s.now = next) {
        fleet_happen(f, s.now);
        for (; submitted < l->requests && fleet_flying(f) < l->clients; submitted++)
            fleet_submit(f, token, length_of(l, l->prompt, submitted, false),
                         length_of(l, l->answer, submitted, true), s.now);
        fleet_start(f, s.now);
        next = fleet_next(f, s.now);
        if (isinf(next)) break;
    }
    Outcome found = {.reading = fleet_times(f, true).busy, .writing = fleet_times(f, false).busy};
    conclude(&found, &s.watch, l);
    fleet_free(f), watch_free(&s.watch), free(token);
    return found;
}

// ---- a model between two processes ---------------------------------------------------------------
static PipeOptions options_of(const Setting *s, Served *served, size_t readers, double link) {
    SchedOptions sched = {s->budget, s->clients, s->budget, SCHED_continuous, ADMIT_prompt, VICTIM_last,
                          PREEMPT_recompute, 0, 0, false, NULL, NULL, 0};
    return (PipeOptions){.readers = readers, .writers = readers ? 1 : 2, .link = link, .overlap = true, .sched = sched,
                         .blocks = s->blocks, .block = BLOCK, .served = served, .backend = served_backend(served)};
}

static Served *serve_model(const Setting *s, Model *m, KeepOptions keep) {
    return served_new_kept(m, s->blocks, BLOCK, s->clients, s->blocks, sample_defaults(1, 0), s->vocab, &keep);
}

static KeepOptions in_bits(size_t bits) {
    KeepOptions o = keep_everything();
    o.bits = bits, o.group = 32, o.residual = 0;
    return o;
}

// ---- throughput ----------------------------------------------------------------------------------
enum { APART, TOGETHER, WAYS };
typedef struct { double ratio[MOST], formula, over[MOST], rate[WAYS][MOST], said[WAYS]; } Mix;
typedef struct { Mix mix[MIXES]; } Mixes;

// What is left of two workers by 1 / (2 max(x, 1 - x)), with x the share of reading in the seconds of all work by the
// table: whole prompts as far as the budget goes, and steps of half of the clients' texts, each half written.
static double formula_of(const Setting *s, const CostTable *cost, const Load *l) {
    double prompt = (double)l->prompt, answer = (double)l->answer, rows = (double)l->clients / 2;
    double budget = (double)s->budget, keys = rows * (prompt + answer / 2);
    double read = prompt / budget * cost_of(cost, (StepSize){budget, 0, budget, budget * (prompt + 1) / 2,
                                                             budget / prompt});
    double write = (answer - 1) / rows * cost_of(cost, (StepSize){rows, keys, 0, keys, rows});
    double x = read / (read + write);
    return 1 / (2 * fmax(x, 1 - x));
}

static double median(const double *x, size_t n) { return summary(x, n).median; }

static void report_mix(Bench *b, const Setting *s, size_t i, const Mix *m, size_t rounds) {
    double ratio = median(m->ratio, rounds), formula = m->formula;
    double apart = median(m->rate[APART], rounds), together = median(m->rate[TOGETHER], rounds);
    double said = m->said[APART] / m->said[TOGETHER];
    char *mix = xprintf("%zu:%zu", s->mix[i].prompt, s->mix[i].answer);
    printf("%-8s %8.2f %9.2f %7.3f %9.3f %7.3f    %8.2f (%+.1f%%) %9.2f (%+.1f%%) %7.3f (%+.1f%%)\n", mix, apart,
           together, ratio, formula, median(m->over, rounds), m->said[APART], 100 * (m->said[APART] / apart - 1),
           m->said[TOGETHER], 100 * (m->said[TOGETHER] / together - 1), said, 100 * (said / ratio - 1));
    Summary over = summary(m->over, rounds);
    json_t *row = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "mix", mix,
                            "apart", apart, "together", together, "ratio", ratio, "formula", formula,
                            "over_formula", over.median, "over_low", over.low, "over_high", over.high,
                            "said_apart", m->said[APART] / apart, "said_together",
                            m->said[TOGETHER] / together, "said_ratio", said, "said_over", said / ratio);
    if (s->varied) json_object_set_new(row, "clients", json_integer((json_int_t)s->clients));
    add_result(b, "throughput", row);
    free(mix);
}

static void measure_mix(const Setting *s, Served *served, const CostTable *cost, size_t i, size_t r, Mix *m) {
    for (size_t way = 0; way < WAYS; way++) {
        Load load = {s->mix[i].prompt, s->mix[i].answer, s->requests, s->clients, s->varied};
        PipeOptions o = options_of(s, served, way == APART, INFINITY);
        m->rate[way][r] = by_pipe(&o, &load).rate, m->said[way] = by_events(&o, cost, &load).rate;
        m->formula = formula_of(s, cost, &load);
    }
    m->ratio[r] = m->rate[APART][r] / m->rate[TOGETHER][r];
    m->over[r] = m->ratio[r] / m->formula;
}

static void report_mixes(Bench *b, const Setting *s, const Mixes *x, size_t rounds) {
    printf("mix         apart  together   ratio   formula   of it    by the event clock: apart, together, ratio\n");
    for (size_t i = 0; i < MIXES; i++) report_mix(b, s, i, &x->mix[i], rounds);
}

static void throughput(Bench *b, const Setting *s, Served *served, const CostTable *cost, size_t rounds) {
    Mixes x;
    for (size_t r = 0; r < rounds; r++)
        for (size_t i = 0; i < MIXES; i++) measure_mix(s, served, cost, i, r, &x.mix[i]);
    report_mixes(b, s, &x, rounds);
}

// ---- the link ------------------------------------------------------------------------------------

// Half of what the reader makes in the seconds that it takes: k / b. In 16 bits half of that link does the same.
static void slow_link(Bench *b, const Setting *s, Model *m) {
    Load load = {s->slow.prompt, s->slow.answer, s->requests / 2, s->clients / 2, false};
    double free_rate = 0, rate32 = 0;
    for (size_t i = 0; i < 3; i++) {
        size_t bits = i == 2 ? 16 : 32;
        Served *served = serve_model(s, m, in_bits(bits));
        PipeOptions o = options_of(s, served, 1, INFINITY);
        double each = (double)pipe_bytes(&o, load.prompt);
        if (i) o.link = 0.5 * free_rate * each;
        Outcome found = by_pipe(&o, &load);
        if (!i) free_rate = found.rate;
        if (i == 1) rate32 = found.rate;
        if (!i) continue;
        printf("link     %zu bits, %.1f MB/s: %.2f requests per second, %.3f of those without a limit, %.3f of what it "
               "carries\n", bits, o.link / 1e6, found.rate, found.rate / free_rate, found.rate * each / o.link);
        add_result(b, "link", json_pack("{s:I, s:f, s:f, s:f, s:f}", "bits", (json_int_t)bits, "link", o.link,
                                        "of_free", found.rate / free_rate, "of_link", found.rate * each / o.link,
                                        "of_32", found.rate / rate32));
        served_free(served);
    }
}

// One prompt in one step, and a link that takes as long: when the second token comes, with overlap and without. Of the
// shorter of reading and sending (L - 1) / L should be hidden.
static void overlapping(Bench *b, const Setting *s, Served *served) {
    Load one = {s->budget, 2, 1, 1, false};
    double took[2][TRIES], read = 0;
    PipeOptions o = options_of(s, served, 1, INFINITY);
    double bytes = (double)pipe_bytes(&o, one.prompt), layers = (double)model_config(served->model)->layers;
    for (size_t i = 0; i < TRIES; i++) {
        double seconds = by_pipe(&o, &one).reading;
        read = i && read < seconds ? read : seconds;
    }
    o.link = bytes / read;
    for (size_t i = 0; i < TRIES; i++)
        for (size_t way = 0; way < 2; way++) o.overlap = way, took[way][i] = by_pipe(&o, &one).second;
    double hidden = (median(took[0], TRIES) - median(took[1], TRIES)) / read;
    printf("overlap  %.1f ms to read %zu tokens and to send them: second token after %.1f ms, layer by layer %.1f; "
           "%.3f hidden, (L - 1) / L = %.3f\n", 1e3 * read, one.prompt, 1e3 * median(took[0], TRIES),
           1e3 * median(took[1], TRIES), hidden, (layers - 1) / layers);
    add_result(b, "overlap", json_pack("{s:f, s:f, s:f, s:f}", "read", read, "after", median(took[0], TRIES), "layered",
                                       median(took[1], TRIES), "hidden_over", hidden / ((layers - 1) / layers)));
}

// ---- bytes and bits ------------------------------------------------------------------------------
static void hash_tokens(void *owner, Request *r, const int *token, size_t count) {
    for (size_t i = 0; i < count; i++) note(owner, r->seed, token[i], 0);
}

static uint64_t alone(const PipeOptions *o, const Load *l) {
    Pool *pool = pool_new(o->blocks, o->block, o->blocks, 1, 64);
    Sched *sched = sched_new(o->sched, pool);
    Watch w = watch_new(l->requests);
    Engine e = {.sched = sched, .backend = o->backend, .emit = hash_tokens, .owner = &w};
    int *token = xmalloc(l->prompt * sizeof *token);
    for (size_t i = 0; i < l->requests; i++) {
        make_prompt(token, l->prompt, i, model_config(o->served->model)->vocab);
        sched_submit(sched, token, l->prompt, l->prompt + l->answer, 0, 0)->seed = i;
    }
    while (engine_step(&e, 0)) {}
    Outcome found = {0};
    conclude(&found, &w, l);
    engine_free(&e), sched_free(sched), pool_free(pool), watch_free(&w), free(token);
    return found.digest;
}

#define SMALL " --layers 2 --width 64 --heads 2 --context 128"
typedef struct { const char *name, *flags; double bytes; } Mixer;       // of a token: layers, heads, numbers, 4
static const Mixer mixers[] = {
    {"mha", "--attn mha" SMALL, 2 * 2 * (32 + 32) * 4}, {"gqa", "--attn gqa --kv-heads 1" SMALL, 2 * 1 * (32 + 32) * 4},
    {"swa", "--attn swa --window 16" SMALL, 2 * 2 * (32 + 32) * 4},     // also those that have left the window
    {"mla", "--attn mla --kv-rank 32 --rope-dim 16" SMALL, 2 * (32 + 16) * 4}, {"gla", "--attn gla" SMALL, 0}};

// Bytes as they were counted on both sides, over k bytes for each token and the share that the bits have of them. A
// recurrent state goes once for each text.
static void exactly(Bench *b, const Mixer *x, size_t bits) {
    static const Setting s = {.vocab = 256, .clients = 8, .requests = 24, .budget = 48, .blocks = 128};
    Load load = {64, 20, s.requests, s.clients, false};
    Config c = config_of(x->flags, s.vocab);
    Model *m = model_new(&c, false);
    Served *served = serve_model(&s, m, in_bits(bits));
    PipeOptions o = options_of(&s, served, 1, 1e8);
    KeepOptions keep = in_bits(bits);
    o.sched.slots = keep_alters(&keep) ? served_slots : NULL, o.sched.keep = &keep;
    uint64_t one = alone(&o, &load);
    Outcome two = by_pipe(&o, &load);
    double share = ((double)bits + (bits < 16 ? 1 : 0)) / 32;
    double each = (double)load.prompt * x->bytes * share + (x->bytes > 0 ? 0 : (double)model_size(&c).state_bytes);
    double over = two.link.bytes / ((double)load.requests * each);
    printf("bytes    %s in %2zu bits: %8.0f, %.6g of the formula; answers %s\n", x->name, bits, two.link.bytes, over,
           two.digest == one ? "alike" : "DIFFER");
    add_result(b, "bytes", json_pack("{s:s, s:I, s:f, s:f, s:f}", "mixer", x->name, "bits", (json_int_t)bits, "bytes",
                                     two.link.bytes, "over_formula", over, "alike", two.digest == one ? 1.0 : 0.0));
    served_free(served), model_free(m);
}

static bool go_on(size_t round, size_t of) { return (void)round, (void)of, true; }

void bench_disagg(Bench *b) {
    const Setting *s = &settings[b->effort == TINY];
    size_t rounds = b->rounds < MOST ? b->rounds : MOST;
    omp_set_num_threads(1);                                     // each process has a core, and processes come first
    for (size_t i = 0; i < sizeof mixers / sizeof *mixers; i++) exactly(b, &mixers[i], 32);
    for (size_t bits = 16; bits >= 2; bits /= 2) exactly(b, &mixers[0], bits);
    Config c = config_of(s->flags, s->vocab);
    Model *m = model_new(&c, false);
    Served *served = serve_model(s, m, keep_everything());
    Measured steps = calibrate(served, s->budget, s->clients, c.context, go_on);
    CostTable cost = calibrate_fit(&steps);
    printf("table    %.1f%% off in the median of held-out steps, %.1f%% at most\n", 100 * cost.median,
           100 * cost.worst);
    add_result(b, "table", json_pack("{s:f, s:f, s:I}", "median", cost.median, "worst", cost.worst, "parameters",
                                     (json_int_t)model_size(&c).parameters));
    throughput(b, s, served, &cost, rounds);
    overlapping(b, s, served);
    served_free(served);
    slow_link(b, s, m);
    model_free(m);
    omp_set_num_threads(b->threads);
}

// ---- many requests under way, and few --------------------------------------------------------------
// Rounds in which others used more than a twentieth of the cores are counted.
void bench_split(Bench *b) {
    const Setting *s = split[b->effort == TINY];
    size_t rounds = b->rounds < MOST ? b->rounds : MOST, disturbed = 0;
    omp_set_num_threads(1);
    Config c = config_of(s->flags, s->vocab);
    Model *m = model_new(&c, false);
    Served *served = serve_model(s, m, keep_everything());
    Measured steps = calibrate(served, s->budget, s->clients, c.context, go_on);
    CostTable cost = calibrate_fit(&steps);
    Mixes found[LOADS];
    for (size_t r = 0; r < rounds; r++) {
        double others = seconds_of_others(NULL), start = seconds_now();
        for (size_t k = 0; k < LOADS; k++)
            for (size_t i = 0; i < MIXES; i++) measure_mix(&s[k], served, &cost, i, r, &found[k].mix[i]);
        double share = (seconds_of_others(NULL) - others) / (seconds_now() - start) / omp_get_num_procs();
        disturbed += share > 0.05;
    }
    printf("table    %.1f%% off in the median of held-out steps, %.1f%% at most; %zu rounds of %zu were disturbed\n",
           100 * cost.median, 100 * cost.worst, disturbed, rounds);
    add_result(b, "table", json_pack("{s:f, s:f, s:I, s:I}", "median", cost.median, "worst", cost.worst, "parameters",
                                     (json_int_t)model_size(&c).parameters, "disturbed", (json_int_t)disturbed));
    for (size_t k = 0; k < LOADS; k++) {
        printf("%zu clients\n", s[k].clients);
        report_mixes(b, &s[k], &found[k], rounds);
    }
    served_free(served), model_free(m);
    omp_set_num_threads(b->threads);
}

// answers.c: see answers.h.
#include "bench/answers.h"
#include "lib/rng.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Told *t = &((Told *)owner)[r->seed];
    memcpy(t->text + PROMPT + t->tokens, token, count * sizeof *token);
    t->tokens += count, t->steps++;
}

// The prompt is the number of the request, so a text says which one it is.
static size_t guess_known(Draft *d, const int *text, size_t count, size_t n, int *guess) {
    const Oracle *o = (const Oracle *)(const void *)d;
    size_t i = (size_t)text[0], room = o->length[i] + PROMPT - count;
    if (n > room) n = room;
    for (size_t k = 0; k < n; k++) {
        Rng r = rng_stream(i, RNG_TEST, count + k);
        int token = o->text[i][count + k];
        guess[k] = rng_uniform(&r) < o->right ? token : (int)(((size_t)token + 1) % o->vocab);
    }
    return n;
}

static void note_step(Answered *x, size_t rows, double seconds, double drawing, bool full, double tokens) {
    x->seconds += seconds, x->drawing += drawing, x->tokens += tokens;
    x->steps_of[rows]++, x->seconds_of[rows] += seconds, x->drawing_of[rows] += drawing;
    if (full) x->full_seconds += seconds, x->full_drawing += drawing, x->full_tokens += tokens;
}

static double tokens_of(const Answered *x) {
    double sum = 0;
    for (size_t i = 0; i < x->count; i++) sum += (double)x->told[i].tokens;
    return sum;
}

// An engine with its requests, between two steps.
typedef struct {
    Pool *pool; Sched *sched; Served *served; Draft *lookup; Engine engine;
    Answered x;
    bool done;
} Run;

static void run_step(Run *r) {
    double start = seconds_now(), before = r->x.tokens;
    const Step *step = engine_schedule(&r->engine, 0);
    if (!step->rows) {
        r->done = true;
        return;
    }
    bool full = sched_waiting(r->sched) > 0;
    size_t rows = step->rows;
    double computed = seconds_now();
    engine_finish(&r->engine, step);
    double end = seconds_now();
    note_step(&r->x, rows, end - start, end - computed, full, tokens_of(&r->x) - before);
}

static void submit(Sched *s, Answered *x, const Asking *ask) {
    x->told = xmalloc(ask->count * sizeof *x->told), x->count = ask->count;
    for (size_t i = 0; i < ask->count; i++) {
        size_t all = PROMPT + ask->answer[i];
        x->told[i] = (Told){.text = xmalloc(all * sizeof(int))};
        x->told[i].text[0] = (int)i;
        sched_submit(s, x->told[i].text, PROMPT, all, 0, 0)->seed = i;
    }
}

// Blocks for the longest answers of all that run at a time.
static size_t blocks_for(const Asking *ask) {
    size_t longest = 0;
    for (size_t i = 0; i < ask->count; i++) longest = ask->answer[i] > longest ? ask->answer[i] : longest;
    return ask->running * ((PROMPT + longest) / ROW_BLOCK + 1) + 1;
}

static void run_begin(Run *r, Model *m, const Asking *ask) {
    size_t blocks = blocks_for(ask), budget = ask->running * (PROMPT + ask->guesses), vocab = model_config(m)->vocab;
    SampleOptions sampling = sample_defaults(1, 0);
    sampling.temperature = (real)ask->temperature;
    *r = (Run){.pool = pool_new(blocks, ROW_BLOCK, 0, 1, 64), .x = {.digest = HASH_START}};
    r->sched = sched_new((SchedOptions){.budget = budget, .running = ask->running, .chunk = budget,
                                        .sched = ask->sched, .admit = ADMIT_full}, r->pool);
    r->served = served_new(m, blocks, ROW_BLOCK, ask->running, 0, sampling, vocab);
    submit(r->sched, &r->x, ask);
    r->lookup = ask->lookup ? draft_lookup() : NULL;
    r->engine = (Engine){.sched = r->sched, .backend = served_backend(r->served), .emit = receive, .owner = r->x.told,
                         .draft = r->lookup ? r->lookup : (Draft *)(void *)ask->oracle, .guesses = ask->guesses,
                         .guess = r->lookup ? draft_guess : guess_known,
                         .drawers = served_drawers(r->served, (size_t)omp_get_max_threads())};
}

static Answered run_end(Run *r) {
    Answered x = r->x;
    for (size_t i = 0; i < x.count; i++) {
        Told *t = &x.told[i];
        t->digest = hash_bytes(HASH_START, t->text, (PROMPT + t->tokens) * sizeof *t->text);
        x.digest = hash_bytes(x.digest, &t->digest, sizeof t->digest);
    }
    engine_free(&r->engine), served_free(r->served), sched_free(r->sched), pool_free(r->pool), draft_free(r->lookup);
    return x;
}

Answered answer_all(Model *m, const Asking *ask) {
    Run r;
    for (run_begin(&r, m, ask); !r.done;) run_step(&r);
    return run_end(&r);
}

void answer_in_turns(Model *m, const Asking *ask, size_t ways, Answered *x) {
    Run *run = xmalloc(ways * sizeof *run), *next;
    for (size_t i = 0; i < ways; i++) run_begin(&run[i], m, &ask[i]);
    do {
        next = NULL;
        for (size_t i = 0; i < ways; i++)
            if (!run[i].done && (!next || run[i].x.tokens < next->x.tokens)) next = &run[i];
        if (next) run_step(next);
    } while (next);
    for (size_t i = 0; i < ways; i++) x[i] = run_end(&run[i]);
    free(run);
}

void answered_free(Answered *x) {
    for (size_t i = 0; i < x->count; i++) free(x->told[i].text);
    free(x->told);
}

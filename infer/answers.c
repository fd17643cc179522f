// answers.c: see answers.h.
#include "infer/answers.h"
#include "infer/sessions.h"
#include "lib/process.h"
#include "lib/rng.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// ---- instead of a model --------------------------------------------------------------------------
static void no_step(void *self, const StepRow *row, size_t rows) { (void)self, (void)row, (void)rows; }
static void no_move(void *self, uint32_t from, uint32_t to) { (void)self, (void)from, (void)to; }
Backend answers_without_model(void *self) { return (Backend){self, no_step, no_move, no_move, no_move, NULL, NULL}; }

int answers_random_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    (void)row, (void)index, (void)i;
    uint32_t out[4];
    philox(out, *(const uint64_t *)self, RNG_SAMPLE | (r->seed + 1) << 32, position);
    return (int)(out[0] % RANDOM_VOCAB);
}

static const Tokenizer *endings;        // with --eos
void answers_end_by(const Tokenizer *t) { endings = t; }
bool answers_is_end(void *self, const Request *r, int token) {
    (void)self, (void)r;
    return tokenizer_is_end(endings, token);
}

// ---- requests ------------------------------------------------------------------------------------
void answers_receive(void *owner, Request *r, const int *token, size_t count) {
    Service *run = owner;
    Record *record = &run->record[r->seed];
    record->answer += count;
    // One by one: the hash of several is not that of their parts, and a digest must not tell how they came.
    for (size_t i = 0; i < count; i++) record->digest = hash_bytes(record->digest, &token[i], sizeof *token);
}

// A step's tokens are there when it ends, as by HTTP: all at once.
static void note_times(Service *run, const Step *step) {
    for (size_t i = 0; i < step->rows; i++) {
        Record *record = &run->record[step->row[i].request->seed];
        if (step->row[i].draw_from == step->row[i].n) continue;
        if (record->first == 0) record->first = run->now;
        record->last = run->now;
        sessions_expect(run, step->row[i].request);
    }
}

static void keep(Service *run, size_t i) {
    Request *r = run->request[i];
    Record *record = &run->record[i];
    record->end = r->end, record->preempted = r->preempted, record->hits = r->hits;
    sched_release(run->sched, r);
    run->request[i] = NULL;
}

static void submit(Service *run, size_t i) {
    const Asked *a = &run->trace.asked[i];
    double at = serve_is_closed(&run->o) ? run->now : run->record[i].arrival;
    int *token = xmalloc(size_mul(a->prompt, sizeof *token));
    size_t n = sessions_prompt(run, i, token);
    sessions_take(run, i);
    run->submitted++;
    Request *r = run->request[i] = sched_submit(run->sched, token, n, size_add(n, a->answer), 0, at);
    r->seed = i;
    run->record[i] = (Record){.arrival = at, .prompt = n, .digest = HASH_START};
    if (r->end) keep(run, i);
    free(token);
}

static void sleep_seconds(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    nanosleep(&t, NULL);
}

static bool has_arrived(const Service *run, size_t i) {
    if (i == run->trace.count) return false;
    if (!serve_is_closed(&run->o)) return run->record[i].arrival <= run->now;
    return sched_waiting(run->sched) + sched_running(run->sched) < run->o.clients;
}

// ---- steps ---------------------------------------------------------------------------------------
// What a model guessed is known to its own run alone: noted there, and put in again where that is replayed.
static void keep_guesses(const Service *run, const Step *step) {
    const Service *from = run->timed ? run->timed : run;
    for (size_t i = 0; from->guess && i < step->rows; i++) {
        Request *r = step->row[i].request;
        size_t first = step->row[i].past + step->row[i].n - r->drafted;
        int **kept = &from->guess[r->seed];
        if (!*kept) *kept = xmalloc(size_mul(r->most, sizeof **kept));
        for (size_t k = first; k < first + r->drafted; k++)
            if (run->timed) r->token[k] = (*kept)[k];
            else (*kept)[k] = r->token[k];
    }
}

static double price_of(const Service *run, const Step *step) {
    const ServeOptions *o = &run->o;
    double seconds = cost_of(&run->cost, step_size(step));
    return *o->draft_cost ? seconds + cost_of_draft(&run->draft_cost, step, o->accept == ACCEPT_ratio, run->knows)
                          : seconds;
}

// How fast the machine was in each stretch: memory that others share is not always as fast. By the quarter of a second,
// since the tail of waits is made while it is slow, which is often over in less than a second: by the second, a slow
// half of one would be spread over a good half.
static const double STRETCH = 0.25;
static void note_stretch(Service *run, double start, double took, double priced) {
    size_t i = (size_t)(start / STRETCH), had = run->stretches;
    if (i >= had) {
        run->stretch = xrealloc(run->stretch, size_mul(run->stretches = i + 1, sizeof *run->stretch));
        memset(run->stretch + had, 0, (run->stretches - had) * sizeof *run->stretch);
    }
    run->stretch[i].took += took, run->stretch[i].priced += priced;
}

// Of a stretch without steps, that of all.
static double pace_at(const Service *timed, double now) {
    size_t last = timed->stretches - 1, i = now / STRETCH < (double)last ? (size_t)(now / STRETCH) : last;
    return timed->stretch[i].priced > 0 ? timed->stretch[i].took / timed->stretch[i].priced
                                        : timed->busy / timed->priced;
}

// Room for the next power of two.
static void note_span(Service *run, Span span) {
    if ((run->spans & (run->spans - 1)) == 0)
        run->span = xrealloc(run->span, size_mul(run->spans ? 2 * run->spans : 1, sizeof *run->span));
    run->span[run->spans++] = span;
}

// A step, or the wait until there is one; false: all requests have ended.
bool answers_advance(Service *run) {
    if (run->real) run->now = seconds_now() - run->start;
    size_t next;
    while (has_arrived(run, next = sessions_next(run))) submit(run, next);
    Step *step = engine_schedule(&run->engine, run->now);
    if (step->rows == 0) {
        if (next == run->trace.count) return false;
        double until = run->record[next].arrival;
        if (run->real && until > run->now) sleep_seconds(until - run->now);
        else run->now = fmax(run->now, until);
        return true;
    }
    double seconds = 0, start = run->now;
    if (!run->real || run->o.clock == CLOCK_both) run->priced += seconds = price_of(run, step);
    keep_guesses(run, step);
    if (run->paced) seconds *= pace_at(run->timed, start);
    double held = (double)(pool_blocks(run->pool) - pool_available(run->pool));
    double rows = (double)step->rows, waiting = (double)sched_waiting(run->sched);
    engine_finish(&run->engine, step);
    run->now = run->real ? seconds_now() - run->start : run->now + seconds;
    run->busy += run->now - start;
    if (run->real && run->o.clock == CLOCK_both) note_stretch(run, start, run->now - start, seconds);
    run->held += (run->now - start) * held;
    if (*run->o.picture && !run->timed) note_span(run, (Span){start, run->now, {rows, held, waiting}});
    note_times(run, step);
    return true;
}

// ---- all of them ---------------------------------------------------------------------------------
void answers_begin(Service *run, Backend backend) {
    run->record = xmalloc(size_mul(run->trace.count, sizeof *run->record));
    run->request = xmalloc(size_mul(run->trace.count, sizeof *run->request));
    run->due = xmalloc(size_mul(run->trace.count, sizeof *run->due));
    run->engine = (Engine){.sched = run->sched, .backend = backend, .emit = answers_receive, .owner = run,
                           .draft = run->draft, .guesses = run->guesses, .guess = draft_guess,
                           .cost = run->automatic ? &run->cost : NULL,
                           .draft_cost = serve_has_model_draft(&run->o) ? &run->draft_cost : NULL,
                           .pays = cost_best_guesses,
                           .drawers = run->served ? served_drawers(run->served, (size_t)omp_get_max_threads()) : 0};
    if (serve_has_model_draft(&run->o) && run->o.clock == CLOCK_both && !run->timed)
        run->guess = xmalloc(size_mul(run->trace.count, sizeof *run->guess));
    run->start = seconds_now();
}

void answers_end_early(Service *run, const char *reason) {
    stats_write(run->record, run->trace.count, run->o.records);
    fail("%s; the others are cancelled in %s, and there is no receipt", reason, run->o.records);
}

// A request that has not arrived is as if it had been cancelled.
static void stop_early(Service *run) {
    size_t ended = 0;
    for (size_t i = 0; i < run->trace.count; i++) {
        Record *record = &run->record[i];
        const Request *r = run->request[i];
        if (r) record->end = r->state == STATE_ENDED ? r->end : END_CANCELLED;
        if (!record->end) record->end = END_CANCELLED;
        ended += record->end != END_CANCELLED;
    }
    answers_end_early(run, xprintf("stopped by a signal (%d); %zu of %zu requests had ended", (int)process_stopped,
                                   ended, run->submitted));
}

void answers_run(Service *run, Backend backend) {
    answers_begin(run, backend);
    process_catch_signals(true);
    // A replay takes a moment, and what it replays has answers that are not written yet: it is not stopped.
    while ((run->timed || !process_stopped) && answers_advance(run)) {}
    if (process_stopped && !run->timed) stop_early(run);
    process_catch_signals(false);
    run->took = seconds_now() - run->start;
}

Stats answers_stats(Service *run) {
    for (size_t i = 0; !*run->o.disagg && i < run->trace.count; i++)
        if (run->request[i]) keep(run, i);
    Stats s = stats_of(run->record, run->trace.count, run->o.slo_ttft, run->o.slo_tpot);
    if (run->trace.turns > 1) stats_of_sessions(&s, run->record, run->trace.count, run->trace.turns);
    return s;
}

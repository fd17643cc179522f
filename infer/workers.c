// workers.c: see workers.h.
#include "infer/workers.h"
#include "infer/answers.h"
#include "lib/process.h"
#include <math.h>
#include <stdlib.h>

void workers_open(Service *run) {
    const ServeOptions *o = &run->o;
    FleetOptions *f = &run->workers;
    char end;
    unsigned readers, writers;
    if (sscanf(o->disagg, "%u:%u%c", &readers, &writers, &end) != 2 || !writers || readers > 1000 || writers > 1000)
        usage_error("--disagg %s: P:D was expected, workers that read prompts and workers that write answers, at most "
                    "1000 of each, at least one that writes", o->disagg);
    if (!readers && (o->link_gbps > 0 || o->kv_bits != KV_BITS_32 || !o->overlap))
        usage_error("--disagg %s: with no worker that only reads nothing crosses a link; leave out --link-gbps, "
                    "--kv-bits and --overlap", o->disagg);
    if (readers && !run->cost.layers && !*o->run)
        usage_error("--disagg: %s does not say how large a token's keys and values are; measure it again (--calibrate)",
                    o->cost);
    if (*o->run && (readers > 1 || (readers && writers > 1)))
        usage_error("--disagg %s: on the real clock one process reads and one writes (1:1), or several do both (0:D); "
                    "the event clock has as many as you like, without --run", o->disagg);
    f->readers = readers, f->writers = writers, f->overlap = o->overlap;
    f->link = o->link_gbps > 0 ? o->link_gbps * 1e9 / 8 : INFINITY;
    f->layers = run->cost.layers, f->each = run->cost.cache_bytes, f->keep = *run->keep;
    f->blocks = o->blocks, f->block = o->block;
}

static void receive_now(void *owner, Request *r, const int *token, size_t count) {
    Service *run = owner;
    Record *record = &run->record[r->seed];
    answers_receive(run, r, token, count);
    if (record->first == 0) record->first = run->now;
    record->last = run->now;
}

static size_t flying(const Service *run) { return run->pipe ? pipe_flying(run->pipe) : fleet_flying(run->fleet); }

static void submit_to_workers(Service *run) {
    for (;; run->submitted++) {
        size_t i = run->submitted;
        if (i == run->trace.count) return;
        const Asked *a = &run->trace.asked[i];
        if (serve_is_closed(&run->o) ? flying(run) >= run->o.clients : a->at > run->now) return;
        int *token = xmalloc(size_mul(a->prompt, sizeof *token));
        double at = serve_is_closed(&run->o) ? run->now : a->at;
        prompts_write(&run->prompts, &run->trace, i, token);
        run->record[i] = (Record){.arrival = at, .prompt = a->prompt, .digest = HASH_START};
        if (run->pipe) pipe_submit(run->pipe, token, a->prompt, a->answer, at);
        else fleet_submit(run->fleet, token, a->prompt, a->answer, at);
        free(token);
    }
}

// On average over all workers.
static void note_workers(Service *run) {
    double readers = (double)run->workers.readers, writers = (double)run->workers.writers, all = readers + writers;
    run->busy = (run->reading.busy * readers + run->writing.busy * writers) / all;
    run->held = (run->reading.held * readers + run->writing.held * writers) / all * (double)run->o.blocks;
}

void workers_run(Service *run, Backend backend) {
    double start = seconds_now(), next;
    run->record = xmalloc(size_mul(run->trace.count, sizeof *run->record));
    run->workers.backend = backend, run->workers.emit = receive_now, run->workers.owner = run;
    run->workers.cost = &run->cost;
    run->fleet = fleet_new(&run->workers, run->trace.count);
    for (;; run->now = next) {
        fleet_happen(run->fleet, run->now);
        submit_to_workers(run);
        fleet_start(run->fleet, run->now);
        next = fleet_next(run->fleet, run->now);
        if (run->submitted < run->trace.count && !serve_is_closed(&run->o))
            next = fmin(next, run->trace.asked[run->submitted].at);
        if (isinf(next)) break;
    }
    run->took = seconds_now() - start, run->total = fleet_counters(run->fleet), run->link = fleet_link(run->fleet);
    run->reading = fleet_times(run->fleet, true), run->writing = fleet_times(run->fleet, false);
    note_workers(run);
    fleet_tell(run->fleet, run->record);
}

// ---- workers that are processes ------------------------------------------------------------------
static void receive_later(void *owner, size_t request, int token, double time) {
    Service *run = owner;
    Record *record = &run->record[request];
    if (!run->answer[request]) run->answer[request] = xmalloc(size_mul(run->trace.asked[request].answer, sizeof token));
    run->answer[request][record->answer] = token;
    run->now = time;
    receive_now(run, &(Request){.seed = request}, &token, 1);
}

static PipeOptions pipe_options(const Service *run, Backend backend) {
    const FleetOptions *f = &run->workers;
    return (PipeOptions){.readers = f->readers, .writers = f->writers, .link = f->link, .overlap = f->overlap,
                         .sched = f->sched, .blocks = f->blocks, .block = f->block, .served = run->served,
                         .backend = backend, .threads = run->o.threads,
                         .cost = run->o.clock == CLOCK_both ? &run->cost : NULL, .emit = receive_later};
}

static const char *answer_all_by_pipe(Service *run) {
    const char *reason = NULL;
    double now = 0;
    while (!reason) {
        double next = INFINITY;
        run->now = now = seconds_now() - run->start;
        submit_to_workers(run);
        if (run->submitted < run->trace.count && !serve_is_closed(&run->o)) next = run->trace.asked[run->submitted].at;
        if (isinf(next) && !flying(run)) break;
        reason = pipe_wait(run->pipe, next);
    }
    run->took = now;
    return reason ? reason : pipe_end(run->pipe);
}

// Where it cannot go on: who has ended has, and all others are cancelled.
static void end_early(Service *run, const char *reason) {
    for (size_t i = 0; i < run->trace.count; i++) run->record[i].end = END_CANCELLED;
    pipe_tell(run->pipe, run->record);
    answers_end_early(run, reason);
}

void workers_run_pipe(Service *run, Backend backend) {
    run->record = xmalloc(size_mul(run->trace.count, sizeof *run->record));
    run->answer = xmalloc(size_mul(run->trace.count, sizeof *run->answer));
    PipeOptions o = pipe_options(run, backend);
    o.owner = run;
    run->pipe = pipe_new(&o, run->trace.count);
    pipe_print(run->pipe, stderr);
    const char *reason = pipe_begin(run->pipe, &run->start);
    if (!reason) reason = answer_all_by_pipe(run);
    if (reason) end_early(run, reason);
    pipe_tell(run->pipe, run->record);
    run->total = pipe_counters(run->pipe), run->link = pipe_link(run->pipe), run->priced = pipe_priced(run->pipe);
    run->reading = pipe_times(run->pipe, true), run->writing = pipe_times(run->pipe, false);
    note_workers(run);
    run->now = 0;
    for (size_t i = 0; i < run->trace.count; i++) run->now = fmax(run->now, run->record[i].last);
    pipe_free(run->pipe);
}

// workers.c: see workers.h.
#include "infer/workers.h"
#include "infer/answers.h"
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
    if (readers && !run->cost.layers)
        usage_error("--disagg: %s does not say how large a token's keys and values are; measure it again (--calibrate)",
                    o->cost);
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

static void submit_to_workers(Service *run) {
    for (;; run->submitted++) {
        size_t i = run->submitted;
        if (i == run->trace.count) return;
        const Asked *a = &run->trace.asked[i];
        if (serve_is_closed(&run->o) ? fleet_flying(run->fleet) >= run->o.clients : a->at > run->now) return;
        int *token = xmalloc(size_mul(a->prompt, sizeof *token));
        double at = serve_is_closed(&run->o) ? run->now : a->at;
        trace_prompt(&run->trace, i, run->seed, run->vocab, token);
        run->record[i] = (Record){.arrival = at, .prompt = a->prompt, .digest = HASH_START};
        fleet_submit(run->fleet, token, a->prompt, a->answer, at);
        free(token);
    }
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
    WorkerTimes reads = fleet_times(run->fleet, true), writes = fleet_times(run->fleet, false);
    double readers = (double)run->workers.readers, writers = (double)run->workers.writers, all = readers + writers;
    run->took = seconds_now() - start, run->total = fleet_counters(run->fleet);
    run->busy = (reads.busy * readers + writes.busy * writers) / all;
    run->held = (reads.held * readers + writes.held * writers) / all * (double)run->o.blocks;
    fleet_tell(run->fleet, run->record);
}

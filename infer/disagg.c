// disagg.c: see disagg.h.
#include "infer/disagg.h"
#include "model/keep.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    Fleet *fleet;
    bool reads, writes;
    Pool *pool; Sched *sched; Engine engine;
    const Step *step; double from, until;        // the one that it computes, or NULL
    double free;                                 // when its port is
    size_t *landing, first, count, coming;       // whose prompts are on their way, in the order of their arrival
    WorkerTimes times;
} Worker;

// A request: where it is, to whom its prompt goes, how much of that has been sent, and when all is there. Preempted and
// hits: at the reader, once it has landed.
typedef struct { Request *request; Worker *at, *to; size_t most, preempted, hits; double sent, landed; } Job;

struct Fleet {
    FleetOptions o;
    Worker *worker; size_t workers;
    Job *job; size_t jobs, requests;
    LinkCounters link;
};

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Worker *w = owner;
    if (w->fleet->o.emit) w->fleet->o.emit(w->fleet->o.owner, r, token, count);
}

Fleet *fleet_new(const FleetOptions *o, size_t requests) {
    Fleet *f = xmalloc(sizeof *f);
    *f = (Fleet){.o = *o, .workers = o->readers + o->writers, .requests = requests};
    f->worker = xmalloc(size_mul(f->workers, sizeof *f->worker));
    f->job = xmalloc(size_mul(requests + 1, sizeof *f->job));
    for (size_t i = 0; i < f->workers; i++) {
        Worker *w = &f->worker[i];
        *w = (Worker){.fleet = f, .reads = i < o->readers || !o->readers, .writes = i >= o->readers};
        w->pool = pool_new(o->blocks, o->block, o->blocks, i, 64);
        w->sched = sched_new(o->sched, w->pool);
        w->engine = (Engine){.sched = w->sched, .backend = o->backend, .emit = receive, .owner = w};
        w->landing = xmalloc(size_mul(requests + 1, sizeof *w->landing));
    }
    return f;
}

void fleet_free(Fleet *f) {
    for (size_t i = 0; i < f->workers; i++) {
        Worker *w = &f->worker[i];
        pool_free(w->pool), sched_free(w->sched), engine_free(&w->engine), free(w->landing);
    }
    free(f->worker), free(f->job), free(f);
}

// ---- who gets it ---------------------------------------------------------------------------------
static size_t load(const Worker *w) { return sched_waiting(w->sched) + sched_running(w->sched) + w->coming; }

static Worker *least(const Fleet *f, bool reader) {
    Worker *best = NULL;
    for (size_t i = 0; i < f->workers; i++) {
        Worker *w = &f->worker[i];
        if ((reader ? w->reads : w->writes) && (!best || load(w) < load(best))) best = w;
    }
    return best;
}

void fleet_submit(Fleet *f, const int *prompt, size_t n, size_t answer, double now) {
    size_t i = f->jobs++, most = size_add(n, answer);
    bool fits = most <= f->o.blocks * f->o.block + 1;           // the last token needs no place
    Worker *w = least(f, true);
    Request *r = sched_submit(w->sched, prompt, fits ? n : 0, w->writes ? most : n + 1, 0, now);
    r->seed = i;
    f->job[i] = (Job){.request = r, .at = w, .most = most};
}

// ---- the link ------------------------------------------------------------------------------------

// Groups of g numbers of fewer than 16 bits have two half floats each; the last ones of a prompt stay whole.
double fleet_bytes(const FleetOptions *o, size_t n, bool ended) {
    const KeepOptions *k = &o->keep;
    if (k->bits >= 16) return (double)n * o->each * (double)k->bits / 32;
    size_t rounded = keep_rounded(k, n);                         // as the query behind them sees them
    double packed = (double)rounded * o->each * ((double)k->bits + 32.0 / (double)k->group) / 32;
    return packed + (ended ? (double)(n - rounded) * o->each : 0);
}

// What a step has added to a prompt. All layers of it are there when the step ends, the first one, where layers
// overlap, after its share of the step: so at the earliest the sending ends a layer's time after the step.
static void send(Fleet *f, Worker *w, const StepRow *row) {
    Request *r = row->request;
    Job *job = &f->job[r->seed];
    bool ended = r->state == STATE_ENDED;
    double bytes = fleet_bytes(&f->o, row->past + row->n, ended) - job->sent, layers = (double)f->o.layers;
    if (!ended && (!f->o.overlap || bytes <= 0)) return;
    if (!job->to) job->to = least(f, false), job->to->coming++;
    double seconds = bytes / f->o.link, ready = w->until;
    if (f->o.overlap) ready = w->from + (w->until - w->from) / layers;
    double start = fmax(ready, fmax(w->free, job->to->free));
    double end = fmax(start + seconds, w->until + seconds / layers);
    w->free = job->to->free = job->landed = end;
    job->sent += bytes, f->link.bytes += bytes, f->link.seconds += seconds;
}

static void hand_over(Fleet *f, const Request *r) {
    Job *job = &f->job[r->seed];
    if (r->state != STATE_ENDED || r->end != END_LENGTH || r->length == job->most) return;
    Worker *to = job->to;
    to->landing[to->count++] = r->seed;
    f->link.prompts++;
}

static void land(Fleet *f, Worker *w, double now) {
    while (w->first < w->count) {
        Job *job = &f->job[w->landing[w->first]];
        Request *r = job->request, *here;
        if (job->landed > now) return;
        here = sched_receive(w->sched, r->token, r->prompt, r->length, job->most, r->arrival);
        if (!here) return;
        here->seed = r->seed;
        job->preempted = r->preempted, job->hits = r->hits;
        sched_release(job->at->sched, r);
        job->request = here, job->at = w;
        w->first++, w->coming--;
    }
}

// ---- time ----------------------------------------------------------------------------------------
void fleet_start(Fleet *f, double now) {
    for (size_t i = 0; i < f->workers; i++) {
        Worker *w = &f->worker[i];
        if (w->step) continue;
        land(f, w, now);
        const Step *step = engine_schedule(&w->engine, now);
        double pace = f->o.pace[!w->writes] > 0 ? f->o.pace[!w->writes] : 1;
        if (step->rows) w->step = step, w->from = now, w->until = now + pace * cost_of(f->o.cost, step_size(step));
    }
}

double fleet_next(const Fleet *f, double now) {
    double next = INFINITY;
    for (size_t i = 0; i < f->workers; i++) {
        const Worker *w = &f->worker[i];
        if (w->step) next = fmin(next, w->until);
        if (w->first == w->count) continue;
        double landed = f->job[w->landing[w->first]].landed;
        if (landed > now) next = fmin(next, landed);             // else it waits for room, which a step makes
    }
    return next;
}

static void finish(Fleet *f, Worker *w) {
    const Step *step = w->step;
    double held = (double)(pool_blocks(w->pool) - pool_available(w->pool)) / (double)pool_blocks(w->pool);
    w->step = NULL;
    engine_finish(&w->engine, step);
    w->times.busy += w->until - w->from, w->times.held += held * (w->until - w->from);
    for (size_t i = 0; !w->writes && i < step->rows; i++) {
        const StepRow *row = &step->row[i];
        if (f->job[row->request->seed].most > row->request->most) send(f, w, row);
        hand_over(f, row->request);
    }
}

void fleet_happen(Fleet *f, double now) {
    for (size_t i = 0; i < f->workers; i++)
        if (f->worker[i].step && f->worker[i].until <= now) finish(f, &f->worker[i]);
    for (size_t i = 0; i < f->workers; i++) land(f, &f->worker[i], now);
}

// ---- what came of it -----------------------------------------------------------------------------

void counters_add(SchedCounters *all, const SchedCounters *c) {
    all->steps += c->steps, all->executed += c->executed, all->useful += c->useful, all->recomputed += c->recomputed;
    all->rejected += c->rejected, all->padded += c->padded, all->hits += c->hits, all->rehits += c->rehits;
    all->preempted += c->preempted, all->saved += c->saved, all->copied += c->copied;
    for (size_t e = 0; e < ENDS; e++) all->ended[e] += c->ended[e];
}

// A prompt that was sent ended at its reader, and began at its writer: neither is an end or a beginning.
SchedCounters fleet_counters(const Fleet *f) {
    SchedCounters all = {0};
    for (size_t i = 0; i < f->workers; i++) counters_add(&all, sched_counters(f->worker[i].sched));
    all.received = f->jobs, all.ended[END_LENGTH] -= f->link.prompts;
    return all;
}

size_t fleet_flying(const Fleet *f) {
    size_t ended = 0;
    for (size_t i = 0; i < f->workers; i++)
        for (size_t e = 0; e < ENDS; e++) ended += sched_counters(f->worker[i].sched)->ended[e];
    return f->jobs + f->link.prompts - ended;
}

LinkCounters fleet_link(const Fleet *f) { return f->link; }

WorkerTimes fleet_times(const Fleet *f, bool readers) {
    WorkerTimes sum = {0};
    size_t first = readers ? 0 : f->o.readers, end = readers ? f->o.readers : f->workers;
    for (size_t i = first; i < end; i++)
        sum.busy += f->worker[i].times.busy, sum.held += f->worker[i].times.held;
    double n = end > first ? (double)(end - first) : 1;
    return (WorkerTimes){.busy = sum.busy / n, .held = sum.held / n};
}

void fleet_tell(const Fleet *f, Record *record) {
    for (size_t i = 0; i < f->jobs; i++) {
        const Job *job = &f->job[i];
        record[i].end = job->request->end, record[i].preempted = job->preempted + job->request->preempted;
        record[i].hits = job->hits + job->request->hits;
    }
}

const char *fleet_check(const Fleet *f) {
    const char *wrong = NULL;
    for (size_t i = 0; i < f->workers && !wrong; i++) wrong = sched_check(f->worker[i].sched);
    return wrong;
}

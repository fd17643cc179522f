// serve.c: main(). Requests through the scheduler: answered by a model, in the time that it takes; or on an event
// clock, where a step takes as long as a table of measured costs says and tokens are drawn at random, so that no
// weights are needed and ten thousand requests take a second or two.
//
//     ./serve --run runs/NAME --requests 50 --rate 20
//     ./serve --requests 1000 --rate 2 --seed 1
//     ./serve --run runs/NAME --port 8000
//     ./serve --help
//
// The receipt goes to stdout, a line for each request to --records. With --port requests come by HTTP (infer/http.c)
// instead, until a signal ends it.
#include "config/config.h"
#include "config/serve.h"
#include "formats/hf.h"
#include "infer/calibrate.h"
#include "infer/clock.h"
#include "infer/disagg.h"
#include "infer/http.h"
#include "infer/pipe.h"
#include "infer/served.h"
#include "infer/stats.h"
#include "infer/trace.h"
#include "lib/process.h"
#include "lib/cpu.h"
#include "lib/machine.h"
#include "lib/rng.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include "run/receipt.h"
#include "run/report.h"
#include "run/run.h"
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RANDOM_VOCAB = 32768 };

// ---- instead of a model --------------------------------------------------------------------------
static void no_step(void *self, const StepRow *row, size_t rows) { (void)self, (void)row, (void)rows; }
static void no_move(void *self, uint32_t from, uint32_t to) { (void)self, (void)from, (void)to; }
static int random_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    (void)row, (void)index, (void)i;
    uint32_t out[4];
    philox(out, *(const uint64_t *)self, RNG_SAMPLE | (r->seed + 1) << 32, position);
    return (int)(out[0] % RANDOM_VOCAB);
}

static const Tokenizer *endings;        // with --eos
static bool is_end(void *self, const Request *r, int token) {
    (void)self, (void)r;
    return tokenizer_is_end(endings, token);
}

// ---- the run -------------------------------------------------------------------------------------
static bool has_model_draft(const ServeOptions *o) { return *o->draft && strcmp(o->draft, "lookup") != 0; }
static bool is_automatic(const ServeOptions *o) { return *o->draft && !strcmp(o->gamma, "auto"); }

typedef struct Service {
    ServeOptions o; uint64_t seed;
    Trace trace; CostTable cost, draft_cost;
    Pool *pool; Sched *sched; Engine engine;
    Model *model; size_t vocab;         // NULL: tokens are random
    Config config; Served *served;
    bool real; double start;            // whether time passes by itself, and since when
    double priced, took;                // seconds of the steps by the table; of the run by a watch
    double pace;                        // of a replay: what steps take, of what the table says; 0: as it says
    bool automatic;                     // --gamma auto
    Record *record; Request **request;
    size_t submitted, begun;            // requests; in the order of the trace, those that begin a session
    size_t *due, dues;                  // requests whose sessions have their answers
    double now, busy, held;             // seconds; held: blocks, as a sum over the time of steps
    Draft *draft; size_t guesses;
    Model *smaller; size_t knows;       // with --draft DIR: it, and how many positions it knows
    int **guess; const struct Service *timed;   // of each request what it guessed; of a replay: whose these are
    KeepOptions *keep;
    FleetOptions workers;               // with --disagg, and what came of them
    Fleet *fleet; Pipe *pipe; int **answer;             // on the event clock; on the real one, and all its tokens
    SchedCounters total; LinkCounters link; WorkerTimes reading, writing;
} Service;

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Service *run = owner;
    Record *record = &run->record[r->seed];
    record->answer += count;
    // One by one: the hash of several is not that of their parts, and a digest must not tell how they came.
    for (size_t i = 0; i < count; i++) record->digest = hash_bytes(record->digest, &token[i], sizeof *token);
}

// ---- sessions ------------------------------------------------------------------------------------
static void expect_next_turn(Service *run, const Request *r) {
    size_t next = r->seed + 1;
    if (r->state != STATE_ENDED || next % run->trace.turns == 0) return;
    run->record[next].arrival = run->now + run->o.tool_seconds;
    run->due[run->dues++] = next;
}

static bool comes_before(const Service *run, size_t a, size_t b) {
    double x = run->record[a].arrival, y = run->record[b].arrival;
    return x != y ? x < y : a < b;
}

// The request that comes next, with its time in its record; trace.count: none, as long as no step ends an answer.
static size_t next_request(const Service *run) {
    size_t next = run->begun;
    if (next < run->trace.count) run->record[next].arrival = run->trace.asked[next].at;
    for (size_t i = 0; i < run->dues; i++)
        if (next == run->trace.count || comes_before(run, run->due[i], next)) next = run->due[i];
    return next;
}

static void take_request(Service *run, size_t i) {
    if (i == run->begun) {
        run->begun += run->trace.turns;
        return;
    }
    size_t at = 0;
    while (run->due[at] != i) at++;
    run->due[at] = run->due[--run->dues];
}

// Its tokens, and how many: all that its session has said, and then what is new.
static size_t prompt_of(const Service *run, size_t i, int *token) {
    const Asked *a = &run->trace.asked[i];
    size_t n = a->prompt, mark = run->o.volatile_prefix;
    trace_prompt(&run->trace, i, run->seed, run->vocab, token);
    if (i % run->trace.turns == 0) return n;
    const Request *before = run->request[i - 1];
    size_t new = n - a[-1].prompt - a[-1].answer;
    int fresh = mark && mark <= before->length ? token[mark - 1] : 0;
    memmove(token + before->length, token + n - new, new * sizeof *token);
    memcpy(token, before->token, before->length * sizeof *token);
    if (mark && mark <= before->length)
        token[mark - 1] = fresh == token[mark - 1] ? (int)((size_t)(fresh + 1) % run->vocab) : fresh;
    return before->length + new;
}

static void refuse_sessions(const Service *run) {
    const ServeOptions *o = &run->o;
    size_t places = size_mul(o->blocks, o->block);
    if (o->agent_turns == 1) return;
    if (o->requests % o->agent_turns) usage_error("--requests %zu: whole sessions of --agent-turns %zu were expected",
                                                  o->requests, o->agent_turns);
    if (o->shed > 0 || o->backlog || o->sched == SCHED_padded)
        usage_error("--agent-turns: a session goes on when its answer has come; leave out %s",
                    o->shed > 0 ? "--shed" : o->backlog ? "--backlog" : "--sched padded");
    for (size_t i = o->agent_turns - 1; i < run->trace.count; i += o->agent_turns)
        if (run->trace.asked[i].prompt + run->trace.asked[i].answer - 1 > places)
            usage_error("--agent-turns %zu: request %zu has %zu tokens at its end, and the pool holds %zu; raise "
                        "--blocks", o->agent_turns, i, run->trace.asked[i].prompt + run->trace.asked[i].answer, places);
}

// A step's tokens are there when it ends, as by HTTP: all at once.
static void note_times(Service *run, const Step *step) {
    for (size_t i = 0; i < step->rows; i++) {
        Record *record = &run->record[step->row[i].request->seed];
        if (step->row[i].draw_from == step->row[i].n) continue;
        if (record->first == 0) record->first = run->now;
        record->last = run->now;
        expect_next_turn(run, step->row[i].request);
    }
}

static void keep(Service *run, size_t i) {
    Request *r = run->request[i];
    Record *record = &run->record[i];
    record->end = r->end, record->preempted = r->preempted, record->hits = r->hits;
    sched_release(run->sched, r);
    run->request[i] = NULL;
}

static bool is_closed(const ServeOptions *o) { return o->arrivals == ARRIVALS_closed && !*o->trace; }

static void submit(Service *run, size_t i) {
    const Asked *a = &run->trace.asked[i];
    double at = is_closed(&run->o) ? run->now : run->record[i].arrival;
    int *token = xmalloc(size_mul(a->prompt, sizeof *token));
    size_t n = prompt_of(run, i, token);
    take_request(run, i);
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
    if (!is_closed(&run->o)) return run->record[i].arrival <= run->now;
    return sched_waiting(run->sched) + sched_running(run->sched) < run->o.clients;
}

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

// A step, or the wait until there is one; false: all requests have ended.
static bool advance(Service *run) {
    if (run->real) run->now = seconds_now() - run->start;
    size_t next;
    while (has_arrived(run, next = next_request(run))) submit(run, next);
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
    if (run->pace > 0) seconds *= run->pace;
    double held = (double)(pool_blocks(run->pool) - pool_available(run->pool));
    engine_finish(&run->engine, step);
    run->now = run->real ? seconds_now() - run->start : run->now + seconds;
    run->busy += run->now - start;
    run->held += (run->now - start) * held;
    note_times(run, step);
    return true;
}

// ---- workers -------------------------------------------------------------------------------------
static void receive_now(void *owner, Request *r, const int *token, size_t count) {
    Service *run = owner;
    Record *record = &run->record[r->seed];
    receive(run, r, token, count);
    if (record->first == 0) record->first = run->now;
    record->last = run->now;
}

static size_t flying(const Service *run) { return run->pipe ? pipe_flying(run->pipe) : fleet_flying(run->fleet); }

static void submit_to_workers(Service *run) {
    for (;; run->submitted++) {
        size_t i = run->submitted;
        if (i == run->trace.count) return;
        const Asked *a = &run->trace.asked[i];
        if (is_closed(&run->o) ? flying(run) >= run->o.clients : a->at > run->now) return;
        int *token = xmalloc(size_mul(a->prompt, sizeof *token));
        double at = is_closed(&run->o) ? run->now : a->at;
        trace_prompt(&run->trace, i, run->seed, run->vocab, token);
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

static void answer_by_workers(Service *run, Backend backend) {
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
        if (run->submitted < run->trace.count && !is_closed(&run->o))
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
                         .backend = backend, .threads = run->o.threads, .start = run->start,
                         .cost = run->o.clock == CLOCK_both ? &run->cost : NULL, .emit = receive_later};
}

static const char *answer_all_by_pipe(Service *run) {
    const char *reason = NULL;
    double now = 0;
    while (!reason) {
        double next = INFINITY;
        run->now = now = seconds_now() - run->start;
        submit_to_workers(run);
        if (run->submitted < run->trace.count && !is_closed(&run->o)) next = run->trace.asked[run->submitted].at;
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
    stats_write(run->record, run->trace.count, run->o.records);
    fail("%s; the others are cancelled in %s, and there is no receipt", reason, run->o.records);
}

static void answer_by_pipe(Service *run, Backend backend) {
    run->record = xmalloc(size_mul(run->trace.count, sizeof *run->record));
    run->answer = xmalloc(size_mul(run->trace.count, sizeof *run->answer));
    run->start = seconds_now();
    PipeOptions o = pipe_options(run, backend);
    o.owner = run;
    run->pipe = pipe_new(&o, run->trace.count);
    pipe_print(run->pipe, stderr);
    const char *reason = answer_all_by_pipe(run);
    if (reason) end_early(run, reason);
    pipe_tell(run->pipe, run->record);
    run->total = pipe_counters(run->pipe), run->link = pipe_link(run->pipe), run->priced = pipe_priced(run->pipe);
    run->reading = pipe_times(run->pipe, true), run->writing = pipe_times(run->pipe, false);
    note_workers(run);
    run->now = 0;
    for (size_t i = 0; i < run->trace.count; i++) run->now = fmax(run->now, run->record[i].last);
    pipe_free(run->pipe);
}

// What arrives at a worker waits in its swap area.
static size_t places_of(const ServeOptions *o) {
    if (*o->disagg && *o->run) return o->blocks;
    return o->preempt != PREEMPT_swap ? 0 : o->swap_blocks ? o->swap_blocks : o->blocks;
}

// ---- the model -----------------------------------------------------------------------------------
// Positions that a text can have at all; 0: no end.
static size_t known_positions(const Config *c) {
    return c->pos == POS_learned ? c->context : c->rope_scaling == ROPE_SCALING_dynamic ? c->rope_trained : 0;
}

static void refuse_what_it_cannot(const Service *run) {
    const ServeOptions *o = &run->o;
    const char *dir = o->run;
    size_t most = known_positions(&run->config);
    for (size_t i = 0; most && i < run->trace.count; i++)
        if (run->trace.asked[i].prompt + run->trace.asked[i].answer > most)
            usage_error("%s knows %zu positions, but request %zu may need %zu; give shorter ones (--prompt-length, "
                        "--answer-length, --length-scale)", dir, most, i,
                        run->trace.asked[i].prompt + run->trace.asked[i].answer);
    report_writing(&run->config, stderr);
    report_rounding(&run->config, model_size(&run->config), stderr);
}

static size_t spoken_tokens(const char *dir, size_t vocab) {
    Tokenizer *t = tokenizer_open_dir(dir);
    size_t spoken = t ? tokenizer_spoken(t) : vocab;
    if (t) tokenizer_free(t);
    return smaller(spoken, vocab);      // a tokenizer that forbids none says so by the largest number
}

static SampleOptions sampling_of(const ServeOptions *o) {
    SampleOptions s = sample_defaults(o->seed, 0);
    s.temperature = o->temperature, s.top_k = o->sample_top_k, s.top_p = o->top_p;
    return s;
}

static Model *load_model(const ServeOptions *o, const char *dir, Config *c) {
    const char *advice = "--unverified uses it all the same";
    flags_defaults(&config_table, c);
    bool ours = hf_flags(c, dir);
    if (!ours) hf_config(c, dir);
    size_t trained = ours ? c->context : hf_trained_context(dir);
    config_resolve(c);
    if (!ours) c->context = trained;
    if (!o->unverified) run_check_files(dir, false, advice);
    if (dir == o->run) config_round(c, &serve_table, o);
    if (c->quant) hf_note_rounded(dir);
    Model *m = model_new(c, false);
    hf_load(m, dir);
    if (!o->unverified) report_check_weights(m, dir, advice);
    return m;
}

// Weights, and blocks and swap area of each worker, of the model and of its draft, if it has one.
static double bytes_of(const Service *run, const Config *c, size_t places) {
    const ServeOptions *o = &run->o;
    ModelSize size = model_size(c);
    double workers = *o->disagg ? (double)(run->workers.readers + run->workers.writers) : 1;
    double each = (double)size.cache_bytes_per_token * (double)o->block + (double)size.state_bytes;
    double weights = (double)(size.parameter_bytes + size.rounded_bytes) + (double)size.packed_bytes;
    return weights + workers * each * (double)(o->blocks + places);
}
static void check_memory(const Service *run, size_t places) {
    const ServeOptions *o = &run->o;
    double need = bytes_of(run, &run->config, places), memory = machine_memory();
    if (run->smaller) need += bytes_of(run, model_config(run->smaller), places);
    if (memory > 0 && need > memory)
        fail("weights%s and %zu blocks of %zu tokens need %.1f GiB of memory, this machine has %.1f; fewer --blocks",
             run->smaller ? ", also of --draft," : "", o->blocks, o->block, need / (1 << 30), memory / (1 << 30));
}

static void open_draft(Service *run) {
    const ServeOptions *o = &run->o;
    static Config c;
    Tokenizer *words = tokenizer_open_dir(o->run);
    if (!words) words = tokenizer_numbers(run->config.vocab);
    run->smaller = load_model(o, o->draft, &c);
    report_draft(o->draft, c.vocab, o->run, run->config.vocab, words);
    tokenizer_free(words);
    if (served_has_state(run->smaller))
        fail("--draft %s has a recurrent state, which cannot forget a guess that was wrong", o->draft);
    size_t known = known_positions(&c);
    if (known)
        print_line(stderr, "note     --draft %s knows %zu positions: beyond them nothing is guessed\n", o->draft,
                   known);
    run->knows = known ? known : SIZE_MAX, run->draft = draft_elsewhere(run->knows);
}

static void open_model(Service *run, size_t places) {
    const ServeOptions *o = &run->o;
    run->model = load_model(o, o->run, &run->config), run->vocab = spoken_tokens(o->run, run->config.vocab);
    refuse_what_it_cannot(run);
    if (has_model_draft(o)) open_draft(run);
    check_memory(run, places);
    run->served = served_new(run->model, o->blocks, o->block, o->running, places, sampling_of(o), run->vocab);
    if (o->prefix_cache) served_keep_snapshots(run->served);
    if (keep_is_on(run->keep)) served_keep(run->served, run->keep);
    if (*o->kv_tier) served_tier(run->served, o->kv_tier);
    if (!run->smaller) return;
    served_guess(run->served, run->smaller, o->accept == ACCEPT_ratio, run->knows, o->running, places);
}

static uint64_t random_key(void) {
    uint64_t key;
    FILE *f = fopen("/dev/urandom", "rb");
    if (!f || fread(&key, sizeof key, 1, f) != 1) fail("/dev/urandom: no random numbers: %s", strerror(errno));
    fclose(f);
    return key;
}

static size_t guesses_of(const ServeOptions *o) {
    char *end;
    unsigned long n = strtoul(o->gamma, &end, 10);
    if (is_automatic(o)) {
        if (has_model_draft(o) && !*o->draft_cost)
            usage_error("--gamma auto guesses as much as pays: what steps of --draft cost stands in no table; measure "
                        "one with --run %s --calibrate and give it with --draft-cost, or say a number", o->draft);
        if (!strcmp(o->cost, "built-in"))
            usage_error("--gamma auto guesses as much as pays by a table of what steps cost on this machine: measure "
                        "one with --calibrate and give it with --cost, or say a number");
        return 0;
    }
    if (o->accept == ACCEPT_ratio && !has_model_draft(o))
        usage_error("--accept ratio keeps no more guesses of lookup, which are certain, than exact does; leave it out");
    if (o->gamma[0] < '0' || o->gamma[0] > '9' || *end || n < 1 || n > MOST_GUESSES)
        usage_error("--gamma %s: a number from 1 to %d was expected; what pays is not measured here", o->gamma,
                    MOST_GUESSES);
    return n;
}

static void open_workers(Service *run) {
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

static Service open_run(const ServeOptions *o) {
    size_t places = places_of(o);
    Service run = {.o = *o, .seed = o->seed, .keep = xmalloc(sizeof *run.keep)};
    *run.keep = keep_options(&serve_table, o);
    SchedOptions s = {o->budget, o->running, o->chunk, o->sched, o->admit, o->victim, o->preempt, o->watermark, o->shed,
                      o->prefix_cache, keep_alters(run.keep) ? served_slots : NULL, run.keep, o->ttl};
    run.automatic = is_automatic(o);
    run.cost = strcmp(o->cost, "built-in") ? cost_read(o->cost) : cost_built_in();
    if (*o->draft_cost) run.draft_cost = cost_read(o->draft_cost);
    // The key is nobody's to know, for who knows it can make prompts collide; no result depends on it.
    run.pool = pool_new(o->blocks, o->block, places, random_key(), 64);
    run.sched = sched_new(s, run.pool);
    if (*o->disagg) open_workers(&run), run.workers.sched = s;
    if (*o->draft) run.guesses = guesses_of(o);
    if (*o->draft && !has_model_draft(o)) run.draft = draft_lookup();
    run.real = *o->run && o->clock != CLOCK_model, run.vocab = RANDOM_VOCAB;
    return run;
}

static void open_trace(Service *run) {
    const ServeOptions *o = &run->o;
    run->trace = *o->trace ? trace_read(o->trace, o) : trace_make(o);
    refuse_sessions(run);
}

static void begin_answers(Service *run, Backend backend) {
    run->record = xmalloc(size_mul(run->trace.count, sizeof *run->record));
    run->request = xmalloc(size_mul(run->trace.count, sizeof *run->request));
    run->due = xmalloc(size_mul(run->trace.count, sizeof *run->due));
    run->engine = (Engine){.sched = run->sched, .backend = backend, .emit = receive, .owner = run,
                           .draft = run->draft, .guesses = run->guesses, .guess = draft_guess,
                           .cost = run->automatic ? &run->cost : NULL,
                           .draft_cost = has_model_draft(&run->o) ? &run->draft_cost : NULL,
                           .pays = cost_best_guesses};
    if (has_model_draft(&run->o) && run->o.clock == CLOCK_both && !run->timed)
        run->guess = xmalloc(size_mul(run->trace.count, sizeof *run->guess));
    run->start = seconds_now();
}

static void answer_all(Service *run, Backend backend) {
    begin_answers(run, backend);
    while (advance(run)) {}
    run->took = seconds_now() - run->start;
}

static Stats stats_of_all(Service *run) {
    for (size_t i = 0; !*run->o.disagg && i < run->trace.count; i++)
        if (run->request[i]) keep(run, i);
    Stats s = stats_of(run->record, run->trace.count, run->o.slo_ttft, run->o.slo_tpot);
    if (run->trace.turns > 1) stats_of_sessions(&s, run->record, run->trace.count, run->trace.turns);
    return s;
}

// ---- both clocks ---------------------------------------------------------------------------------
// The tokens that the run on the real clock drew, so that what is found, guessed and ended is the same again.
static int same_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Service *timed = self;
    const Request *as = timed->request[r->seed];
    return as && position < as->length ? as->token[position] : random_token(&timed->seed, row, index, i, r, position);
}

static int same_answer(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Service *timed = self;
    size_t at = position - timed->record[r->seed].prompt;
    return at < timed->record[r->seed].answer ? timed->answer[r->seed][at]
                                              : random_token(&timed->seed, row, index, i, r, position);
}

typedef struct { Stats stats; double now, took; } Again;
// What the event clock says of the same workers, of this model's keys and values.
static Again replay_workers(Service *timed, double pace) {
    Service run = open_run(&timed->o);
    run.real = false, run.trace = timed->trace, run.vocab = timed->vocab, run.workers.pace = pace;
    run.workers.layers = timed->config.layers;
    run.workers.each = (double)model_size(&timed->config).cache_bytes_per_token;
    answer_by_workers(&run, (Backend){timed, no_step, no_move, no_move, no_move, same_answer,
                                      timed->o.eos ? is_end : NULL});
    Again again = {stats_of_all(&run), run.now, run.took};
    pool_free(run.pool), sched_free(run.sched), fleet_free(run.fleet);
    free(run.record);
    return again;
}

static Again replay(Service *timed, double pace) {
    Service run = open_run(&timed->o);
    run.real = false, run.trace = timed->trace, run.cost = timed->cost, run.vocab = timed->vocab, run.pace = pace;
    run.timed = timed, run.knows = timed->knows;
    if (has_model_draft(&run.o)) run.draft = draft_elsewhere(run.knows);
    answer_all(&run, (Backend){timed, no_step, no_move, no_move, no_move, same_token, timed->o.eos ? is_end : NULL});
    Again again = {stats_of_all(&run), run.now, run.took};
    pool_free(run.pool), sched_free(run.sched), draft_free(run.draft), engine_free(&run.engine);
    free(run.record), free(run.request), free(run.due);
    return again;
}

// What fewer than ten requests are beyond is chance: of two hundred, p99 is the second largest.
static void compare(double error[3], const char *what, Percentiles timed, Percentiles priced, Percentiles paced) {
    enum { BEYOND = 10 };
    static const size_t percent[] = {50, 90, 99};
    double r[] = {timed.p50, timed.p90, timed.p99}, p[] = {priced.p50, priced.p90, priced.p99};
    double q[] = {paced.p50, paced.p90, paced.p99};
    for (int i = 0; i < 3; i++) {
        bool known = timed.count * (100 - percent[i]) >= 100 * BEYOND;
        error[i] = known ? q[i] / r[i] - 1 : NAN;
        printf("  %-8sp%zu %10.4g s  %10.4g s  %+6.1f%%  %10.4g s  ", what, percent[i], r[i], p[i],
               100 * (p[i] / r[i] - 1), q[i]);
        if (known) printf("%+6.1f%%\n", 100 * error[i]);
        else printf("of too few\n");
    }
}

// Twice: by the table as it is, which is a prediction; and at the pace of the machine while it answered, which leaves
// what is the table's form and the event clock's.
static void print_replay(const Service *run, const Stats *timed, const Again again[2]) {
    Replay r = {.requests = run->trace.count, .pace = run->busy / run->priced};
    const Stats *priced = &again[0].stats, *paced = &again[1].stats;
    printf("replay      real clock    by the table   error   at its pace   error\n");
    compare(r.ttft, "ttft", timed->ttft, priced->ttft, paced->ttft);
    compare(r.tpot, "tpot", timed->tpot, priced->tpot, paced->tpot);
    compare(r.latency, "latency", timed->latency, priced->latency, paced->latency);
    printf("  time       %10.4g s  %10.4g s  %+6.1f%%  %10.4g s  %+6.1f%%\n", run->now, again[0].now,
           100 * (again[0].now / run->now - 1), again[1].now, 100 * (again[1].now / run->now - 1));
    printf("  steps      %10.4g s  %10.4g s  %+6.1f%% (those of the real clock, each priced): a pace of %.3f\n",
           run->busy, run->priced, 100 * (run->priced / run->busy - 1), r.pace);
    printf("  scheduler  %10.4g s: the replay itself, which computes nothing\n", again[0].took);
    for (int i = 0; i < 2; i++)
        if (run->o.shed == 0 && timed->digest != again[i].stats.digest)
            fail("the replay has other tokens than the run; please report this");
    if (strcmp(run->o.cost, "built-in") && !*run->o.disagg) cost_note_replay(run->o.cost, &r);
}

static double largest(const double error[3]) {
    return 100 * fmax(fabs(error[0]), fmax(fabs(error[1]), fabs(error[2])));
}

// What a simulated figure rests on.
static void print_table(const Service *run) {
    const CostTable *c = &run->cost;
    printf("table     %s: ", run->o.cost);
    if (isnan(c->median)) printf("nothing held out");
    else printf("%.1f%% off in the median of held-out steps, %.1f%% at most", 100 * c->median, 100 * c->worst);
    if (c->replay.requests)
        printf("; replaying %zu requests, at %.3f of its pace: ttft %.1f%%, tpot %.1f%%, latency %.1f%% at most off at "
               "p50, p90, p99\n", c->replay.requests, c->replay.pace, largest(c->replay.ttft),
               largest(c->replay.tpot), largest(c->replay.latency));
    else printf("; not replayed beside the real clock (--clock both)\n");
}

// ---- the receipt ---------------------------------------------------------------------------------
static void print_times(const char *what, Percentiles p) {
    printf("%-9s p50 %.4g s, p90 %.4g s, p99 %.4g s of %zu request%s\n", what, p.p50, p.p90, p.p99, p.count,
           plural(p.count));
}

// Of the pool, while steps run.
static double held_share(const Service *run) {
    return run->busy > 0 ? run->held / run->busy / (double)run->o.blocks : 0;
}

static ServedTimes times_of(const Service *run) {
    ServedTimes t = {.seconds = run->now, .busy = run->busy, .wall = run->took, .held = held_share(run)};
    if (!*run->o.disagg) return t;
    LinkCounters link = run->link;
    t.workers = true, t.link_bytes = link.bytes, t.link_seconds = link.seconds, t.sent = link.prompts;
    t.reading = run->reading.busy, t.writing = run->writing.busy;
    return t;
}

// Of all texts at their ends; the last token of each is never computed.
static void print_kept(const Service *run) {
    KeepOptions all = keep_everything();
    size_t pairs = 0, tokens = 0, bytes = 0, full = 0;
    for (size_t i = 0; i < run->trace.count; i++) {
        const Record *r = &run->record[i];
        if (!r->answer) continue;
        size_t length = r->prompt + r->answer - 1;
        pairs += keep_held(run->keep, r->prompt, length), tokens += length;
        bytes += keep_bytes(run->model, run->keep, r->prompt, length);
        full += keep_bytes(run->model, &all, r->prompt, length);
    }
    printf("kept      %zu of %zu pairs per head, %zu of %zu bytes where they are packed, at the ends of all texts\n",
           pairs, tokens, bytes, full);
}

static const SchedCounters *counters_of(const Service *run) {
    return *run->o.disagg ? &run->total : sched_counters(run->sched);
}

static void print_link(const Service *run) {
    LinkCounters link = run->link;
    printf("link      %.0f bytes of %zu prompt%s, %.4g s of sending; duty of reading %.3f, of writing %.3f\n",
           link.bytes, link.prompts, plural(link.prompts), link.seconds,
           run->reading.busy / run->now, run->writing.busy / run->now);
}

static void print_receipt(const Service *run, const Stats *s, const Again *again) {
    const SchedCounters *c = counters_of(run);
    const ServeOptions *o = &run->o;
    if (!c->steps) fail("no request could run: all %zu were refused; raise --blocks or shorten them", c->received);
    printf("requests  %zu received", c->received);
    for (int e = END_LENGTH; e < ENDS; e++)
        if (c->ended[e]) printf(", %zu %s", c->ended[e], e == END_LENGTH ? "finished" : end_name((RequestEnd)e));
    printf("\nsteps     %zu of %.1f tokens: %zu executed = %zu useful + %zu recomputed + %zu rejected", c->steps,
           c->steps ? (double)c->executed / (double)c->steps : 0, c->executed, c->useful, c->recomputed, c->rejected);
    if (c->padded) printf(" + %zu padded", c->padded);
    puts("");
    printf("blocks    %.3f of the pool on average; %zu preemption%s, %zu blocks swapped, %zu tokens found, %zu after "
           "preemption\n", held_share(run), c->preempted,
           plural(c->preempted), c->saved, c->hits, c->rehits);
    if (run->draft)
        printf("draft     %zu guess%s, %zu kept\n", c->drafted, c->drafted == 1 ? "" : "es", c->drafted - c->rejected);
    if (run->workers.readers) print_link(run);
    if (keep_is_on(run->keep) && !run->fleet) print_kept(run);
    const Tier *t = run->served ? run->served->tier : NULL;
    if (t)
        printf("tier      %zu bytes written in %.4g s, %zu read back from the disk in %.4g s\n", t->written, t->writing,
               t->read, t->reading);
    print_times("ttft", s->ttft), print_times("tpot", s->tpot), print_times("latency", s->latency);
    if (run->trace.turns > 1) print_times("session", s->session), print_times("begin", s->begin);
    printf("time      %.6g s, duty %.3f, %.4g tokens/s, %.4g requests/s\n", run->now, run->busy / run->now,
           (double)s->tokens / run->now, (double)s->finished / run->now);
    printf("goodput   %.4g requests/s: %zu with ttft within %g s and tpot within %g s\n", (double)s->good / run->now,
           s->good, o->slo_ttft, o->slo_tpot);
    if (again) print_replay(run, s, again);
    else if (!run->real && strcmp(o->cost, "built-in")) print_table(run);
    printf("receipt: digest %016llx\n", (unsigned long long)s->digest);
}

// ---- HTTP ----------------------------------------------------------------------------------------
// Tokens of a prompt and its answer: no more than the model knows and the pool holds (the last one needs no place).
static size_t longest_text(const Service *run) {
    const ServeOptions *o = &run->o;
    size_t known = known_positions(&run->config), pool = size_add(size_mul(o->blocks, o->block), 1);
    if (known && o->max_length > known)
        usage_error("--max-length %zu: %s knows %zu positions", o->max_length, o->run, known);
    if (o->max_length > pool)
        usage_error("--max-length %zu: a pool of %zu blocks of %zu holds a text of %zu tokens; raise --blocks",
                    o->max_length, o->blocks, o->block, pool);
    size_t most = o->max_length ? o->max_length : run->config.context;
    if (known && most > known) most = known;
    if (most > pool)
        fprintf(stderr, "note     texts have %zu tokens at most, which is what the pool holds; the model was trained "
                "on %zu (--blocks)\n", pool, most);
    return smaller(most, pool);
}

static LiveOptions live_options(const Service *run) {
    const ServeOptions *o = &run->o;
    ModelSize size = model_size(&run->config);
    int threads = omp_get_max_threads();
    ReadProbe probe = read_probe_new();
    double bandwidth = read_probe_bandwidth(&probe, threads, 2);
    read_probe_free(&probe);
    return (LiveOptions){.queue = o->queue, .running = o->running, .slo_ttft = o->slo_ttft, .slo_tpot = o->slo_tpot,
                         .flops_per_token = size.flops_per_token / 3, .weight_bytes = (double)size.parameter_bytes,
                         .cache_bytes = (double)size.cache_bytes_per_token, .grace = o->grace,
                         .draft = run->draft, .guesses = run->guesses, .cost = run->automatic ? &run->cost : NULL,
                         .draft_cost = has_model_draft(o) ? &run->draft_cost : NULL,
                         .peak_flops = 1e9 * simd_fma_peak(threads),
                         .peak_bytes = 1e9 * bandwidth};
}

static void print_served(Live *live) {
    LiveStats s = live_stats(live);
    printf("requests  %zu received", s.received);
    for (int why = WHY_LENGTH; why < WHYS; why++)
        if (s.ended[why]) printf(", %zu %s", s.ended[why], why_name((Why)why));
    printf("; %zu call%s turned away\nsteps     %zu, duty %.3f; %zu tokens read, %zu written, %zu found, %zu "
           "recomputed\n", s.turned_away, plural(s.turned_away), s.sched.steps, s.busy / s.now, s.prompt_tokens,
           s.tokens, s.sched.hits, s.sched.recomputed);
}

static const char *name_of_run(const char *dir) {
    size_t end = strlen(dir), start;
    while (end > 1 && dir[end - 1] == '/') end--;
    for (start = end; start && dir[start - 1] != '/';) start--;
    return xprintf("%.*s", (int)(end - start), dir + start);
}

static void serve_http(const ServeOptions *o) {
    Service run = open_run(o);
    open_model(&run, places_of(o));
    Tokenizer *words = tokenizer_open_dir(o->run);
    if (!words) {
        print_line(stderr, "note     %s has no tokenizer: texts are numbers with spaces between them\n", o->run);
        words = tokenizer_numbers(run.config.vocab);
    }
    LiveOptions told = live_options(&run);
    Speaker *speaker = speaker_new(name_of_run(o->run), words, run.config.vocab, longest_text(&run),
                                   size_add(o->running, o->queue), sampling_of(o), o->chat);
    Live *live = live_new(told, run.sched, run.pool, run.served, words);
    process_catch_signals(true);
    http_serve((HttpOptions){o->host, o->api_key, o->port, o->connections, o->timeout, o->idle, o->grace}, live, told,
               speaker, &process_stopped);
    process_catch_signals(false);
    print_served(live);
    live_free(live), speaker_free(speaker), tokenizer_free(words);
    flush_output("");
}

// ---- costs ---------------------------------------------------------------------------------------
static bool tell_round(size_t round, size_t of) {
    if (process_stopped) return false;
    fprintf(stderr, "measure  round %zu of %zu\n", round + 1, of);
    return true;
}

static void measure_costs(const ServeOptions *o) {
    if (*o->draft)
        usage_error("--draft has no effect with --calibrate, which measures steps of one model; --run %s measures "
                    "those of the draft, for --draft-cost", o->draft);
    Service run = open_run(o);
    open_model(&run, places_of(o));
    if (served_has_state(run.model))
        usage_error("--calibrate: %s remembers its texts in recurrent states, and steps after a past that nobody has "
                    "read cannot be made", o->run);
    size_t known = known_positions(&run.config), pool = size_mul(o->blocks, o->block);
    process_catch_signals(true);
    Measured m = calibrate(run.served, o->budget, o->running, known ? smaller(known, pool) : pool, tell_round);
    process_catch_signals(false);
    if (process_stopped) fail("stopped: no table of costs was written");
    CostTable c = calibrate_fit(&m);
    c.cache_bytes = (double)model_size(&run.config).cache_bytes_per_token, c.layers = run.config.layers;
    cost_write(&c, m.point, m.points, o->calibrate);
    printf("costs     %s: %.3g ms for a step of one token, %.3g ms of %.0f; %.3g us for a cached token\n", o->calibrate,
           1e3 * cost_of(&c, (StepSize){1, 1, 0, 1, 1}), 1e3 * cost_of(&c, (StepSize){.tokens = c.most.tokens}),
           c.most.tokens, 1e6 * (c.keys + c.pairs));
    printf("error     %.1f%% in the median of steps that were held out, %.1f%% at most, of %zu\n", 100 * c.median,
           100 * c.worst, m.points / 4);
    flush_output("the table is written");
}

// ---- flags ---------------------------------------------------------------------------------------
static bool is_given(const bool *given, const char *name) { return given[flags_find(&serve_table, name)]; }

static void refuse_beside_port(const ServeOptions *o, const bool *given) {
    static const char *const offline[] = {"requests", "arrivals", "rate", "burst", "clients", "prompt_length", "spread",
                                          "lengths", "cv", "answer_length", "trace", "time_scale", "length_scale",
                                          "clock", "eos", "records", "backlog", "agent_turns", "tool_tokens",
                                          "tool_seconds", "volatile_prefix", "receipt", "dry_run", "disagg"};
    static const char *const online[] = {"host", "api_key", "chat", "max_length", "queue", "timeout", "idle",
                                         "connections", "grace"};
    bool port = is_given(given, "port");
    const char *instead = port ? "--port, where requests come by HTTP"
                        : *o->calibrate ? "--calibrate, which makes steps of its own" : NULL;
    for (size_t i = 0; instead && i < sizeof offline / sizeof *offline; i++)
        if (is_given(given, offline[i]))
            usage_error("--%s has no effect with %s", flags_shown(offline[i], (char[64]){0}), instead);
    if (instead && is_given(given, "cost") && (!port || !is_automatic(o)))
        usage_error("--cost has no effect with %s", instead);
    for (size_t i = 0; !port && i < sizeof online / sizeof *online; i++)
        if (is_given(given, online[i]))
            usage_error("--%s has no effect without --port", flags_shown(online[i], (char[64]){0}));
    if (*o->calibrate && (port || !*o->run))
        usage_error("--calibrate measures steps of a model, without clients: name its directory with --run");
    if (port && !*o->run) usage_error("--port answers with a model: name its directory with --run");
    if (port && !http_is_there())
        usage_error("--port needs libmicrohttpd, which was not there when this was built: ./setup installs it (Debian: "
                    "libmicrohttpd-dev, brew: libmicrohttpd), then make serve");
}

// What has gone, or been rounded, since a guess or for another text does not come back.
static void refuse_kept(const ServeOptions *o) {
    bool once = o->kv_policy != KV_POLICY_full || o->kv_bits > KV_BITS_16;
    const char *flag = o->kv_policy != KV_POLICY_full ? "--kv-policy" : "--kv-bits";
    if (o->kv_policy == KV_POLICY_oracle)
        usage_error("--kv-policy oracle keeps what will be asked, which nobody knows of a text that is yet to be "
                    "written; ./generate --questions does");
    if (once && o->prefix_cache)
        usage_error("--prefix-cache: %s makes of each text's blocks what only that text can use; leave one out", flag);
    if (once && *o->draft)
        usage_error("--draft: a guess that was wrong has made pairs go, or be rounded, that do not come back; leave %s "
                    "out", flag);
    if (once && (!*o->disagg || *o->run) && (*o->calibrate || o->clock != CLOCK_real))
        usage_error("%s: a table of costs has a price for each cached token, whether it is kept or not; use --clock "
                    "real, without --calibrate", flag);
}

static void refuse_apart(const ServeOptions *o) {
    if (!*o->disagg) return;
    if (o->agent_turns > 1)
        usage_error("--disagg: workers do not know of sessions, which go on where their blocks are; leave out "
                    "--agent-turns");
    if (!*o->run) return;
    if (o->clock == CLOCK_model)
        usage_error("--disagg with --run is on the real clock; leave out --clock model, or --run, whose tokens no time "
                    "of the event clock depends on");
    if (o->kv_policy != KV_POLICY_full || *o->draft || *o->kv_tier || o->sched != SCHED_continuous)
        usage_error("--disagg with --run: %s; leave out %s",
                    *o->draft ? "a draft reads what the model reads, and would be of both workers"
                    : *o->kv_tier ? "the swap area is where prompts arrive"
                    : o->kv_policy != KV_POLICY_full ? "what goes over the link are all pairs of a prompt"
                    : "a batch ends as a whole in one worker, not in two",
                    *o->draft ? "--draft" : *o->kv_tier ? "--kv-tier" : o->kv_policy != KV_POLICY_full ? "--kv-policy"
                    : "--sched");
}

static void refuse(const ServeOptions *o, const bool *given) {
    static const char *const of_models[] = {"temperature", "sample_top_k", "top_p", "draft", "kv_policy", "kv_bits",
                                            "kv_tier"};
    static const char *const replaced[] = {"arrivals", "rate", "burst", "clients", "prompt_length", "answer_length",
                                           "spread", "lengths", "cv", "backlog", "agent_turns", "tool_tokens",
                                           "tool_seconds", "volatile_prefix"};
    static const char *const of_sessions[] = {"tool_tokens", "tool_seconds", "volatile_prefix"};
    for (size_t i = 0; i < serve_table.count; i++)
        if (given[i]) flags_refuse_unused(&serve_table, o, i);
    for (size_t i = 0; o->agent_turns == 1 && i < sizeof of_sessions / sizeof *of_sessions; i++)
        if (is_given(given, of_sessions[i]))
            usage_error("--%s has no effect without --agent-turns", flags_shown(of_sessions[i], (char[64]){0}));
    if (o->ttl > 0 && !o->prefix_cache)
        usage_error("--ttl holds blocks for those who would find them; add --prefix-cache");
    for (size_t i = 0; !*o->run && i < sizeof of_models / sizeof *of_models; i++)
        if (is_given(given, of_models[i]) && !(*o->disagg && !strcmp(of_models[i], "kv_bits")))
            usage_error("--%s has no effect without --run: tokens are random then",
                        flags_shown(of_models[i], (char[64]){0}));
    if (o->backlog > o->requests)
        usage_error("--backlog %zu: of --requests %zu; raise these", o->backlog, o->requests);
    if (*o->run && o->clock == CLOCK_real && is_given(given, "cost") && !is_automatic(o))
        usage_error("--cost has no effect on the real clock; add --clock model, or --draft with --gamma auto");
    if (has_model_draft(o) && o->clock != CLOCK_real && !*o->draft_cost)
        usage_error("--draft %s: its steps have a price in a table of their own: --run %s --calibrate FILE measures "
                    "it, --draft-cost FILE gives it", o->draft, o->draft);
    if (*o->draft_cost && !has_model_draft(o))
        usage_error("--draft-cost has no effect with --draft lookup, whose guesses cost nothing");
    if (*o->draft_cost && *o->run && o->clock == CLOCK_real && !is_automatic(o))
        usage_error("--draft-cost has no effect on the real clock; add --clock model, or leave --gamma at auto");
    refuse_apart(o);
    refuse_kept(o);
    if (o->sched == SCHED_padded && o->kv_policy != KV_POLICY_full)
        usage_error("--sched padded: a text that has ended keeps its row, and what --kv-policy lets go is not of it; "
                    "use --sched static");
    for (size_t i = 0; *o->trace && i < sizeof replaced / sizeof *replaced; i++)
        if (is_given(given, replaced[i]))
            usage_error("--%s has no effect with --trace, which has arrivals and lengths of its own",
                        flags_shown(replaced[i], (char[64]){0}));
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    threads_wait_briefly(argv);
    ServeOptions o;
    bool *given = xmalloc(serve_table.count * sizeof *given);
    flags_parse(&serve_table, &o, argc, argv, given);
    refuse(&o, given);
    refuse_beside_port(&o, given);
    cpu_switch(o.simd, run_commit(), argv);
    if (o.threads) omp_set_num_threads((int)o.threads);
    if (*o.disagg && *o.run) omp_set_num_threads(1);            // of a process with threads no other one can be made
    if (o.dry_run) {
        receipt_print_plan(&serve_table, &o);
        return 0;
    }
    if (is_given(given, "port") || *o.calibrate) {
        (*o.calibrate ? measure_costs : serve_http)(&o);
        return 0;
    }
    Service run = open_run(&o);
    open_trace(&run);
    Backend backend = {&run.seed, no_step, no_move, no_move, no_move, random_token, NULL};
    if (*o.run) {
        open_model(&run, places_of(&o));
        backend = served_backend(run.served);
        if (o.eos) endings = tokenizer_open_dir(o.run), backend.ends = is_end;
        if (o.eos && (!endings || tokenizer_end(endings) < 0))
            usage_error("--eos: %s has no tokenizer that says which token ends a text", o.run);
        if (!o.eos)
            fprintf(stderr, "note     answers are as long as was asked for: a token that ends a text does not end one "
                    "(--eos 1)\n");
    }
    if (!run.real)
        fprintf(stderr, "note     simulated: costs are %s, copies and swaps take no time%s\n",
                strcmp(o.cost, "built-in") ? "from --cost" : "built-in, not of this machine",
                *o.run ? "" : ", tokens are random");
    if (run.trace.left_out)
        fprintf(stderr, "note     %zu request%s of the trace without an answer left out\n", run.trace.left_out,
                plural(run.trace.left_out));
    (!*o.disagg ? answer_all : *o.run ? answer_by_pipe : answer_by_workers)(&run, backend);
    bool both = o.clock == CLOCK_both;
    Again again[2] = {{.took = 0}};
    for (int i = 0; both && i < 2; i++)
        again[i] = (*o.disagg ? replay_workers : replay)(&run, i ? run.busy / run.priced : 0);
    Stats s = stats_of_all(&run);
    print_receipt(&run, &s, both ? again : NULL);
    fprintf(stderr, "clock    %.3f s for %zu steps, %.3g steps/s\n", run.took, counters_of(&run)->steps,
            (double)counters_of(&run)->steps / run.took);
    stats_write(run.record, run.trace.count, o.records);
    if (*o.receipt) receipt_write_served(&o, counters_of(&run), &s, times_of(&run), o.receipt);
    flush_output("the records are written");
    return 0;
}

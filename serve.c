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
#include "formats/hf.h"
#include "infer/answers.h"
#include "infer/calibrate.h"
#include "infer/http.h"
#include "infer/service_receipt.h"
#include "infer/sessions.h"
#include "infer/workers.h"
#include "lib/cpu.h"
#include "lib/machine.h"
#include "lib/process.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include "run/receipt.h"
#include "run/report.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

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
    Model *m = model_new(c, false);
    hf_load(m, dir);
    if (!o->unverified) report_check_weights(m, dir, advice);
    return m;
}

// Weights, and blocks and swap area of each worker, of the model and of its draft, if it has one.
static double bytes_of(const Service *run, const Model *m, const KeepOptions *keep, size_t places) {
    const ServeOptions *o = &run->o;
    ModelSize size = model_size(model_config(m));
    double workers = *o->disagg ? (double)(run->workers.readers + run->workers.writers) : 1;
    double each = (double)keep_slot_bytes(m, keep) * (double)o->block + (double)size.state_bytes;
    double weights = (double)(size.parameter_bytes + size.rounded_bytes) + (double)size.packed_bytes;
    return weights + workers * each * (double)(o->blocks + places);
}
static void check_memory(const Service *run, size_t places) {
    const ServeOptions *o = &run->o;
    KeepOptions all = keep_everything();
    double need = bytes_of(run, run->model, run->keep, places), memory = machine_memory();
    if (run->smaller) need += bytes_of(run, run->smaller, &all, places);
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
    if (serve_has_model_draft(o)) open_draft(run);
    check_memory(run, places);
    keep_fit(run->model, run->keep);
    run->served = served_new_kept(run->model, o->blocks, o->block, o->running, places, sampling_of(o), run->vocab,
                                  run->keep);
    if (o->prefix_cache) served_keep_snapshots(run->served);
    if (keep_is_on(run->keep)) {
        size_t bytes = blocks_bytes(run->model, run->served->blocks);
        fprintf(stderr, "pool     %zu blocks of %zu bytes, %.4g MiB\n", o->blocks, bytes,
                (double)size_mul(o->blocks, bytes) / (1 << 20));
    }
    if (*o->kv_tier) served_tier(run->served, o->kv_tier);
    if (!run->smaller) return;
    served_guess(run->served, run->smaller, o->accept == ACCEPT_ratio, run->knows, o->running, places);
}

// ---- HTTP ----------------------------------------------------------------------------------------
// Tokens of a prompt and its answer: no more than the model knows and the pool holds (the last one needs no place).
static size_t longest_text(const Service *run) {
    const ServeOptions *o = &run->o;
    size_t known = known_positions(&run->config);
    size_t pool = size_add(keep_room(run->keep, size_mul(o->blocks, o->block)), 1);
    if (known && o->max_length > known)
        usage_error("--max-length %zu: %s knows %zu positions", o->max_length, o->run, known);
    if (o->max_length > pool)
        usage_error("--max-length %zu: a pool of %zu blocks of %zu holds a text of %zu tokens; raise --blocks",
                    o->max_length, o->blocks, o->block, pool);
    size_t most = o->max_length ? o->max_length : run->config.context;
    if (known && most > known) most = known;
    if (o->max_length > run->config.context)
        fprintf(stderr, "note     --max-length %zu is beyond the %zu tokens that the model was trained on\n",
                o->max_length, run->config.context);
    if (most > pool)
        fprintf(stderr, "note     texts have %zu tokens at most, which is what the pool holds; the model was trained "
                "on %zu (--blocks)\n", pool, most);
    return smaller(most, pool);
}

static LiveOptions live_options(const Service *run) {
    const ServeOptions *o = &run->o;
    ModelSize size = model_size(&run->config);
    int threads = omp_get_max_threads();
    enum { LONG = 4096 };                                        // what is packed is most of it
    bool packed = keep_is_on(run->keep) && !keep_evicts(run->keep);
    double pair = packed ? (double)keep_bytes(run->model, run->keep, LONG, LONG) / LONG
                         : (double)size.cache_bytes_per_token;
    ReadProbe probe = read_probe_new((size_t)64 << 20);            // it is to listen at once
    double bandwidth = read_probe_bandwidth(&probe, threads, 2);
    double weight_bytes = (double)(run->config.quant_act ? size.packed_bytes : size.parameter_bytes);
    read_probe_free(&probe);
    return (LiveOptions){.queue = o->queue, .running = o->running, .slo_ttft = o->slo_ttft, .slo_tpot = o->slo_tpot,
                         .flops_per_token = size.flops_per_token / 3, .weight_bytes = weight_bytes,
                         .cache_bytes = pair, .grace = o->grace,
                         .draft = run->draft, .guesses = run->guesses, .cost = run->automatic ? &run->cost : NULL,
                         .draft_cost = serve_has_model_draft(o) ? &run->draft_cost : NULL,
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
    Service run = service_open(o);
    open_model(&run, service_places(o));
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

// ---- what is written ------------------------------------------------------------------------------
// Before hours of work: a file that cannot be written, or would replace the model, or what the work is read from.
static void check_place(const ServeOptions *o, const char *flag, const char *path, const char *begins) {
    const char *const name[] = {"trace", "cost", "draft-cost"}, *const read[] = {o->trace, o->cost, o->draft_cost};
    check_output(flag, path, begins);
    run_refuse_replacing(flag, path, o->run), run_refuse_replacing(flag, path, o->draft);
    for (size_t i = 0; i < 3; i++)
        if (same_file(path, read[i])) fail("--%s %s would replace what --%s reads", flag, path, name[i]);
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
    check_place(o, "calibrate", o->calibrate, "{");
    Service run = service_open(o);
    open_model(&run, service_places(o));
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
    if (!cost_is_positive(&c))
        fail("--calibrate: by the times that were measured some steps take no time at all, so %s was left as it was; "
             "measure again, when less else runs here", o->calibrate);
    cost_write(&c, m.point, m.points, o->calibrate);
    printf("costs     %s: %.3g ms for a step of one token, %.3g ms of %.0f; %.3g us for a cached token\n", o->calibrate,
           1e3 * cost_of(&c, (StepSize){1, 1, 0, 1, 1}), 1e3 * cost_of(&c, (StepSize){.tokens = c.most.tokens}),
           c.most.tokens, 1e6 * (c.keys + c.pairs));
    printf("error     %.1f%% in the median of steps that were held out, %.1f%% at most, of %zu\n", 100 * c.median,
           100 * c.worst, m.points / 4);
    flush_output("; the table is written");
}

// ---- without a network ---------------------------------------------------------------------------
static ServedTimes times_of(const Service *run) {
    ServedTimes t = {.seconds = run->now, .busy = run->busy, .wall = run->took, .held = service_held_share(run)};
    if (!*run->o.disagg) return t;
    LinkCounters link = run->link;
    t.workers = true, t.link_bytes = link.bytes, t.link_seconds = link.seconds, t.sent = link.prompts;
    t.reading = run->reading.busy, t.writing = run->writing.busy;
    return t;
}

// What data_open says is of flags that another command had.
static void (*hook_before)(int status, const char *message);
static void name_the_flag(int status, const char *message) {
    fail_hook = hook_before;
    (status == 2 ? usage_error : fail)("--prompts data: %s", message);
}

// The very data that the run has read: with other tokens in it numbers would mean others.
static const Data *open_data(const Service *run) {
    const ServeOptions *o = &run->o;
    Config c;
    flags_defaults(&config_table, &c);
    if (!hf_flags(&c, o->run))
        usage_error("--prompts data: %s does not say which data it was trained on; name a text (--prompts FILE)",
                    o->run);
    config_resolve(&c);
    hook_before = fail_hook, fail_hook = name_the_flag;
    Data *d = data_open(&c);
    fail_hook = hook_before;
    json_t *record = json_load_file(xprintf("%s/run.json", o->run), 0, NULL), *found = run_hash(d->hash);
    if (!o->unverified && !json_equal(found, json_object_get(record, "data_hash")))
        fail("--prompts data: the data %s is not what %s has read; --unverified uses it all the same, --prompts FILE "
             "another text", c.data, o->run);
    json_decref(found), json_decref(record);
    return d;
}

static void open_prompts(Service *run) {
    const char *from = run->o.prompts;
    run->prompts = prompts_random(run->seed, run->vocab);
    if (!strcmp(from, "random")) return;
    if (!strcmp(from, "data")) run->prompts = prompts_of_data(run->seed, open_data(run));
    else {
        Tokenizer *words = tokenizer_open_dir(run->o.run);
        if (!words) words = tokenizer_numbers(run->config.vocab);
        run->prompts = prompts_of_file(run->seed, from, words, run->config.vocab);
        tokenizer_free(words);
    }
    prompts_fit(&run->prompts, &run->trace, from);
}

static void end_where_texts_end(const char *dir, Backend *backend) {
    Tokenizer *words = tokenizer_open_dir(dir);
    if (!words || tokenizer_end(words) < 0)
        usage_error("--eos: %s has no tokenizer that says which token ends a text", dir);
    answers_end_by(words), backend->ends = answers_is_end;
}

static Backend open_backend(Service *run) {
    const ServeOptions *o = &run->o;
    Backend backend = answers_without_model(&run->seed);
    backend.sample = answers_random_token;
    if (!*o->run) return backend;
    open_model(run, service_places(o)), open_prompts(run);
    backend = served_backend(run->served);
    if (o->eos) end_where_texts_end(o->run, &backend);
    else
        fprintf(stderr, "note     answers are as long as was asked for: a token that ends a text does not end one "
                "(--eos 1)\n");
    return backend;
}

static void print_notes(const Service *run) {
    const ServeOptions *o = &run->o;
    if (!run->real)
        fprintf(stderr, "note     simulated: costs are %s, copies and swaps take no time%s\n",
                strcmp(o->cost, "built-in") ? "from --cost" : "built-in, not of this machine",
                *o->run ? "" : ", tokens are random");
    if (run->trace.left_out)
        fprintf(stderr, "note     %zu request%s of the trace without an answer left out\n", run->trace.left_out,
                plural(run->trace.left_out));
}

// An hour's answers are not to end in a name that cannot be written, or in two files that are one.
static void check_outputs(const ServeOptions *o) {
    const char *const flag[] = {"records", "receipt", "picture"}, *const path[] = {o->records, o->receipt, o->picture};
    const char *const begins[] = {"{", "{", "\x89PNG"};
    size_t end = strlen(o->picture);
    if (end && (end < 5 || strcmp(o->picture + end - 4, ".png") != 0))
        usage_error("--picture %s: a name that ends in .png was expected", o->picture);
    for (size_t i = 0; i < 3; i++) {
        if (*path[i]) check_place(o, flag[i], path[i], begins[i]);
        for (size_t k = 0; k < i; k++)
            if (*path[i] && *path[k] && same_place(path[i], path[k]))
                usage_error("--%s and --%s are both %s; give each a file of its own", flag[k], flag[i], path[i]);
    }
}

static void serve_trace(const ServeOptions *o) {
    check_outputs(o);
    Service run = service_open(o);
    if (*o->disagg) workers_open(&run);
    sessions_open_trace(&run);
    Backend backend = open_backend(&run);
    print_notes(&run);
    (!*o->disagg ? answers_run : *o->run ? workers_run_pipe : workers_run)(&run, backend);
    bool both = o->clock == CLOCK_both;
    Again again[2] = {{.took = 0}};
    for (int i = 0; both && i < 2; i++)
        again[i] = *o->disagg ? replay_workers(&run, i == 1) : replay(&run, i == 1);
    Stats s = answers_stats(&run);
    const SchedCounters *count = service_counters(&run);
    service_receipt_print(&run, &s, both ? again : NULL);
    fprintf(stderr, "clock    %.3f s for %zu steps, %.3g steps/s\n", run.took, count->steps,
            (double)count->steps / run.took);
    stats_write(run.record, run.trace.count, o->records);
    if (*o->receipt) receipt_write_served(o, count, &s, times_of(&run), o->receipt);
    if (*o->picture) service_draw(&run);
    flush_output("; the records are written");
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    threads_wait_briefly(argv);
    ServeOptions o;
    bool *given = xmalloc(serve_table.count * sizeof *given);
    flags_parse(&serve_table, &o, argc, argv, given);
    serve_refuse(&o, given);
    bool port = given[flags_find(&serve_table, "port")];
    if (port && !http_is_there())
        usage_error("--port needs libmicrohttpd, which was not there when this was built: ./setup installs it (Debian: "
                    "libmicrohttpd-dev, brew: libmicrohttpd), then make serve");
    cpu_switch(o.simd, run_commit(), argv);
    if (o.threads) omp_set_num_threads((int)o.threads);
    if (*o.disagg && *o.run) omp_set_num_threads(1);            // of a process with threads no other one can be made
    if (o.dry_run) receipt_print_plan(&serve_table, &o);
    else if (*o.calibrate) measure_costs(&o);
    else if (port) {
        if (*o.run) hf_note_generation(o.run, &serve_table, &o, given);
        serve_http(&o);
    }
    else serve_trace(&o);
    return 0;
}

// requests.c: the command line of ./serve, up to the last step of a small run on the event clock; traces of others;
// tables of costs.
#include "infer/answers.h"
#include "infer/prompts.h"
#include "infer/sessions.h"
#include "infer/workers.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

static bool is_small(const ServeOptions *o) {
    return o->requests <= 16 && o->prompt_length <= 64 && o->answer_length <= 64 && o->spread <= 1 &&
           o->blocks <= 256 && o->block <= 16 && o->running <= 64 && o->swap_blocks <= 256 && !*o->trace &&
           !strcmp(o->cost, "built-in") && !*o->run;
}

void serve_command(const char *input, size_t bytes) {
    char *text = memcpy(xmalloc(bytes + 1), input, bytes), *argv[66] = {"program"};
    int argc = 1;
    for (char *at = text, *end; at < text + bytes && argc < 65; at = end ? end : text + bytes) {
        end = strchr(at, '\n');
        if (end) *end++ = '\0';
        argv[argc++] = at;
    }
    ServeOptions o;
    bool *given = xmalloc(serve_table.count * sizeof *given);
    flags_parse(&serve_table, &o, argc, argv, given);
    serve_refuse(&o, given);
    if (*o.draft) service_guesses(&o);
    if (!is_small(&o) || given[flags_find(&serve_table, "port")] || *o.calibrate) return;
    Service run = service_open(&o);
    Backend backend = answers_without_model(&run.seed);
    backend.sample = answers_random_token;
    if (*o.disagg) workers_open(&run);
    sessions_open_trace(&run);
    if (*o.disagg) {
        if (run.workers.readers + run.workers.writers > 8) return;
        workers_run(&run, backend);
        const char *wrong = fleet_check(run.fleet);
        if (wrong) fuzz_fault("%s", wrong);
        if (fleet_flying(run.fleet)) fuzz_fault("%zu requests never end", fleet_flying(run.fleet));
        return;
    }
    answers_begin(&run, backend);
    size_t steps = 0;
    while (answers_advance(&run)) {
        const char *wrong = sched_check(run.sched);
        if (wrong) fuzz_fault("%s", wrong);
        if (steps++ > 100000) fuzz_fault("it does not end");
    }
    const SchedCounters *c = sched_counters(run.sched);
    size_t ended = 0;
    for (int e = 0; e < ENDS; e++) ended += c->ended[e];
    if (ended != run.trace.count) fuzz_fault("%zu of %zu requests ended", ended, run.trace.count);
}

void read_trace(const char *input, size_t bytes) {
    ServeOptions o;
    flags_defaults(&serve_table, &o);
    o.requests = 1000, o.length_scale = bytes % 3 ? 1 : 0.25;
    fuzz_put("trace", input, bytes);
    Trace t = trace_read("trace", &o);
    Prompts p = prompts_random(1, 100);
    prompts_fit(&p, &t, "the trace");
    for (size_t i = 0; i < t.count; i++) {
        const Asked *a = &t.asked[i];
        if (!(a->at >= 0) || !a->prompt || !a->answer || (i && a->at < a[-1].at)) fuzz_fault("request %zu", i);
        if (a->prompt > 2000) continue;
        int *token = xmalloc(a->prompt * sizeof *token);
        prompts_write(&p, &t, i, token);
        for (size_t k = 0; k < a->prompt; k++) if (token[k] < 0 || token[k] >= 100) fuzz_fault("token %d", token[k]);
        free(token);
    }
    trace_free(&t);
}

void read_cost(const char *input, size_t bytes) {
    fuzz_put("cost", input, bytes);
    CostTable c = cost_read("cost");
    if (!(cost_of(&c, (StepSize){.tokens = 1, .keys = 1}) > 0)) fuzz_fault("a step that takes no time");
}

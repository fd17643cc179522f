// service.c: see service.h.
#include "infer/service.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// What arrives at a worker waits in its swap area.
size_t service_places(const ServeOptions *o) {
    if (*o->disagg && *o->run) return o->blocks;
    return o->preempt != PREEMPT_swap ? 0 : o->swap_blocks ? o->swap_blocks : o->blocks;
}

static uint64_t random_key(void) {
    uint64_t key;
    FILE *f = fopen("/dev/urandom", "rb");
    if (!f || fread(&key, sizeof key, 1, f) != 1) fail("/dev/urandom: no random numbers: %s", strerror(errno));
    fclose(f);
    return key;
}

size_t service_guesses(const ServeOptions *o) {
    char *end;
    unsigned long n = strtoul(o->gamma, &end, 10);
    if (serve_guesses_what_pays(o)) {
        if (serve_has_model_draft(o) && !*o->draft_cost)
            usage_error("--gamma auto guesses as much as pays: what steps of --draft cost stands in no table; measure "
                        "one with --run %s --calibrate and give it with --draft-cost, or say a number", o->draft);
        if (!strcmp(o->cost, "built-in"))
            usage_error("--gamma auto guesses as much as pays by a table of what steps cost on this machine: measure "
                        "one with --calibrate and give it with --cost, or say a number");
        return 0;
    }
    if (o->accept == ACCEPT_ratio && !serve_has_model_draft(o))
        usage_error("--accept ratio keeps no more guesses of lookup, which are certain, than exact does; leave it out");
    if (o->gamma[0] < '0' || o->gamma[0] > '9' || *end || n < 1 || n > MOST_GUESSES)
        usage_error("--gamma %s: a number from 1 to %d was expected; what pays is not measured here", o->gamma,
                    MOST_GUESSES);
    return n;
}

Service service_open(const ServeOptions *o) {
    size_t places = service_places(o);
    Service run = {.o = *o, .seed = o->seed, .keep = xmalloc(sizeof *run.keep)};
    *run.keep = keep_options(&serve_table, o);
    SchedOptions s = {o->budget, o->running, o->chunk, o->sched, o->admit, o->victim, o->preempt, o->watermark, o->shed,
                      o->prefix_cache, *o->run && keep_alters(run.keep) ? served_slots : NULL, run.keep, o->ttl};
    run.automatic = serve_guesses_what_pays(o);
    run.cost = strcmp(o->cost, "built-in") ? cost_read(o->cost) : cost_built_in();
    if (*o->draft_cost) run.draft_cost = cost_read(o->draft_cost);
    // The key is nobody's to know, for who knows it can make prompts collide; no result depends on it.
    run.pool = pool_new(o->blocks, o->block, places, random_key(), 64);
    run.sched = sched_new(s, run.pool);
    run.workers.sched = s;
    if (*o->draft) run.guesses = service_guesses(o), run.keep->ahead = MOST_GUESSES;
    if (*o->draft && !serve_has_model_draft(o)) run.draft = draft_lookup();
    run.real = *o->run && o->clock != CLOCK_model, run.vocab = RANDOM_VOCAB;
    run.prompts = prompts_random(o->seed, run.vocab);
    return run;
}

const SchedCounters *service_counters(const Service *run) {
    return *run->o.disagg ? &run->total : sched_counters(run->sched);
}

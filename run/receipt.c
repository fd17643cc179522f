// receipt.c: JSON receipts of ./serve and ./generate.
#include "run/receipt.h"
#include "run/run.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static void put(json_t *to, const char *name, double x) { json_object_set_new(to, name, run_number(x)); }
static void put_size(json_t *to, const char *name, size_t n) {
    json_object_set_new(to, name, json_integer((json_int_t)n));
}

static json_t *plan_of(const FlagTable *t, const void *flags) {
    json_t *all = json_object();
    json_object_set_new(all, "commit", json_string(run_commit()));
    json_object_set_new(all, "flags", run_flags(t, flags));
    json_object_set_new(all, "machine", run_machine(omp_get_max_threads()));
    return all;
}

void receipt_print_plan(const FlagTable *t, const void *flags) {
    json_t *plan = plan_of(t, flags);
    char *text = run_json_text(plan);
    puts(text);
    free(text), json_decref(plan);
    flush_output("");
}

// Takes both objects.
static void write_whole(json_t *all, json_t *final, uint64_t digest, double wall, const char *path) {
    char hex[17];
    json_object_set_new(all, "final", final);
    put(json_object_get(all, "machine"), "wall_seconds", wall);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)digest);
    json_object_set_new(all, "digest", json_string(hex));
    char *text = run_json_text(all), *line = xprintf("%s\n", text);
    AtomicFile f = atomic_open(path);
    atomic_write(&f, line, strlen(line));
    atomic_close(&f);
    free(text), free(line), json_decref(all);
}

void receipt_write(const FlagTable *t, const void *flags, const ReceiptNumber *number, size_t count, uint64_t digest,
                   double wall, const char *path) {
    json_t *final = json_object();
    for (size_t i = 0; i < count; i++) put(final, number[i].name, number[i].value);
    write_whole(plan_of(t, flags), final, digest, wall, path);
}

static void put_times(json_t *to, const char *name, Percentiles p) {
    const double value[] = {p.p50, p.p90, p.p99};
    static const char *const rank[] = {"p50", "p90", "p99"};
    for (size_t i = 0; i < 3; i++) {
        char *key = xprintf("%s_%s", name, rank[i]);
        put(to, key, value[i]);
        free(key);
    }
}

static void put_counters(json_t *to, const SchedCounters *c) {
    put_size(to, "received", c->received), put_size(to, "finished", c->ended[END_LENGTH] + c->ended[END_STOP]);
    put_size(to, "shed", c->ended[END_SHED]), put_size(to, "refused", c->ended[END_REFUSED]);
    put_size(to, "steps", c->steps), put_size(to, "executed", c->executed), put_size(to, "useful", c->useful);
    put_size(to, "recomputed", c->recomputed), put_size(to, "drafted", c->drafted);
    put_size(to, "rejected", c->rejected), put_size(to, "preempted", c->preempted), put_size(to, "swapped", c->saved);
    put_size(to, "hits", c->hits), put_size(to, "rehits", c->rehits);
    put(to, "recomputed_share", c->executed ? (double)c->recomputed / (double)c->executed : 0);
}

void receipt_write_served(const ServeOptions *o, const SchedCounters *c, const Stats *s, ServedTimes t,
                          const char *path) {
    json_t *final = json_object();
    put_counters(final, c);
    put(final, "seconds", t.seconds), put(final, "duty", t.busy / t.seconds), put(final, "pool_share", t.held);
    put(final, "answer_tokens_per_second", (double)s->tokens / t.seconds);
    put(final, "requests_per_second", (double)s->finished / t.seconds);
    put_size(final, "good", s->good), put(final, "goodput", (double)s->good / t.seconds);
    put(final, "good_late", s->good_late), put(final, "ttft_late", s->ttft_late);
    put_times(final, "ttft", s->ttft), put_times(final, "tpot", s->tpot), put_times(final, "latency", s->latency);
    if (t.workers) {
        put(final, "reading_duty", t.reading / t.seconds), put(final, "writing_duty", t.writing / t.seconds);
        put(final, "link_bytes", t.link_bytes), put(final, "link_seconds", t.link_seconds);
        put_size(final, "sent", t.sent);
    }
    if (o->agent_turns > 1) put_times(final, "session", s->session), put_times(final, "begin", s->begin);
    write_whole(plan_of(&serve_table, o), final, s->digest, t.wall, path);
}

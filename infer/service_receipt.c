// service_receipt.c: see service_receipt.h.
#include "infer/service_receipt.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_times(const char *what, Percentiles p) {
    printf("%-9s p50 %.4g s, p90 %.4g s, p99 %.4g s of %zu request%s\n", what, p.p50, p.p90, p.p99, p.count,
           plural(p.count));
}

// Of the pool, while steps run.
double service_held_share(const Service *run) {
    return run->busy > 0 ? run->held / run->busy / (double)run->o.blocks : 0;
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
    printf("kept      %zu of %zu pairs per head, %zu of %zu bytes, at the ends of all texts\n",
           pairs, tokens, bytes, full);
}

static void print_link(const Service *run) {
    LinkCounters link = run->link;
    printf("link      %.0f bytes of %zu prompt%s, %.4g s of sending; duty of reading %.3f, of writing %.3f\n",
           link.bytes, link.prompts, plural(link.prompts), link.seconds,
           run->reading.busy / run->now, run->writing.busy / run->now);
}

void service_receipt_print(const Service *run, const Stats *s, const Again *again) {
    const SchedCounters *c = service_counters(run);
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
           "preemption\n", service_held_share(run), c->preempted,
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
    if (again) replay_print(run, s, again);
    else if (!run->real && strcmp(o->cost, "built-in")) replay_print_table(run);
    printf("receipt: digest %016llx\n", (unsigned long long)s->digest);
}

void service_draw(const Service *run) {
    const ServeOptions *o = &run->o;
    char *flags = flags_summary(&serve_table, o, true), *title, *last, *pool;
    title = xprintf("What %zu requests had of the machine", run->submitted);
    pool = xprintf("blocks that are held, of %zu", o->blocks);
    last = xprintf("seconds, %s", run->real ? "as they passed" : "on the event clock");
    Timeline t = {.title = title, .subtitle = *flags ? flags : "every flag at its default", .x_label = last,
                  .label = {"texts in a step", pool, "requests that wait"},
                  .most = {0, (double)o->blocks, 0}, .span = run->span, .spans = run->spans};
    plot_timeline(o->picture, &t);
    fprintf(stderr, "picture  %s\n", o->picture);
    free(flags), free(title), free(last), free(pool);
}

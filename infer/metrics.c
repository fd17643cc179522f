// metrics.c: see metrics.h. The text format of Prometheus, version 0.0.4.
#include "infer/metrics.h"
#include <stdlib.h>
#include <string.h>

typedef struct { FILE *f; char *model; } Page;

// As a label's value must be: quotes, backslashes and line ends escaped.
static char *escaped(const char *text) {
    char *out = xmalloc(2 * strlen(text) + 1), *p = out;
    for (; *text; text++) {
        if (*text == '"' || *text == '\\' || *text == '\n') *p++ = '\\';
        *p++ = *text == '\n' ? 'n' : *text;
    }
    return out;
}

static void head(const Page *p, const char *name, const char *kind, const char *help) {
    fprintf(p->f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}
static void one(const Page *p, const char *name, const char *kind, double x, const char *help) {
    head(p, name, kind, help);
    fprintf(p->f, "%s{model_name=\"%s\"} %.17g\n", name, p->model, x);
}
static void gauge(const Page *p, const char *name, double x, const char *help) { one(p, name, "gauge", x, help); }
static void counter(const Page *p, const char *name, double x, const char *help) { one(p, name, "counter", x, help); }

static void spread(const Page *p, const char *name, const Histogram *h, const char *help) {
    size_t sum = 0;
    head(p, name, "histogram", help);
    for (int i = 0; i < BUCKETS; i++)
        fprintf(p->f, "%s_bucket{model_name=\"%s\",le=\"%g\"} %zu\n", name, p->model, h->bound[i], sum += h->count[i]);
    fprintf(p->f, "%s_bucket{model_name=\"%s\",le=\"+Inf\"} %zu\n%s_sum{model_name=\"%s\"} %.17g\n"
            "%s_count{model_name=\"%s\"} %zu\n", name, p->model, h->total, name, p->model, h->sum, name, p->model,
            h->total);
}

static void reasons(const Page *p, const char *name, const LiveStats *s, int most, const char *help) {
    head(p, name, "counter", help);
    for (int why = WHY_LENGTH; why <= most; why++)
        fprintf(p->f, "%s{model_name=\"%s\",finished_reason=\"%s\"} %zu\n", name, p->model, why_name((Why)why),
                s->ended[why]);
}

static void of_vllm(const Page *p, const LiveStats *s) {
    gauge(p, "vllm:num_requests_running", (double)s->running, "Requests that run.");
    gauge(p, "vllm:num_requests_waiting", (double)s->waiting, "Requests that wait.");
    gauge(p, "vllm:kv_cache_usage_perc", (double)s->held / (double)s->blocks, "Share of the blocks that are held.");
    counter(p, "vllm:prefix_cache_queries_total", (double)s->queries, "Tokens of prompts that were looked up.");
    counter(p, "vllm:prefix_cache_hits_total", (double)s->sched.hits, "Tokens of prompts that were found.");
    counter(p, "vllm:num_preemptions_total", (double)s->sched.preempted, "Requests that gave way, each time counted.");
    counter(p, "vllm:spec_decode_num_draft_tokens_total", (double)s->sched.drafted, "Guesses that were checked.");
    counter(p, "vllm:spec_decode_num_accepted_tokens_total", (double)(s->sched.drafted - s->sched.rejected),
            "Guesses that were right.");
    counter(p, "vllm:prompt_tokens_total", (double)s->prompt_tokens, "Tokens of prompts.");
    counter(p, "vllm:generation_tokens_total", (double)s->tokens, "Tokens of answers.");
    reasons(p, "vllm:request_success_total", s, WHY_STOP, "Requests that came to their end.");
    spread(p, "vllm:time_to_first_token_seconds", &s->ttft, "From arrival to the first token.");
    spread(p, "vllm:inter_token_latency_seconds", &s->gap, "Between a step of an answer and the next.");
    spread(p, "vllm:e2e_request_latency_seconds", &s->latency, "From arrival to the last token.");
    spread(p, "vllm:request_queue_time_seconds", &s->queued, "From arrival to the first step.");
    spread(p, "vllm:request_prompt_tokens", &s->prompt, "Tokens of a prompt.");
    spread(p, "vllm:request_generation_tokens", &s->answer, "Tokens of an answer.");
}

static void of_ours(const Page *p, const LiveStats *s, const LiveOptions *o) {
    counter(p, "receipts:requests_received_total", (double)s->received, "Requests that were let in.");
    reasons(p, "receipts:requests_ended_total", s, WHYS - 1, "Requests that ended, each once.");
    counter(p, "receipts:turned_away_total", (double)s->turned_away, "Calls that met a full queue (429) or a "
            "shutdown (503).");
    counter(p, "receipts:shed_total", (double)s->ended[WHY_SHED], "Requests given up after waiting for --shed.");
    counter(p, "receipts:good_requests_total", (double)s->good, "Requests within --slo-ttft and --slo-tpot.");
    counter(p, "receipts:steps_total", (double)s->sched.steps, "Steps of the engine.");
    counter(p, "receipts:executed_tokens_total", (double)s->sched.executed, "Tokens computed, all of them.");
    counter(p, "receipts:recomputed_tokens_total", (double)s->sched.recomputed, "Of these, computed before.");
    counter(p, "receipts:busy_seconds_total", s->busy, "Seconds inside of steps.");
    counter(p, "receipts:flops_total", s->flops, "Additions and multiplications, by the formula of --dry-run.");
    counter(p, "receipts:bytes_total", s->bytes, "Weights and keys and values that steps had to read.");
    gauge(p, "receipts:duty", s->busy / s->now, "Share of the time inside of steps, since the start.");
    gauge(p, "receipts:mfu", s->flops / s->now / o->peak_flops, "Share of the peak of this machine, since the start.");
    gauge(p, "receipts:mbu", s->bytes / s->now / o->peak_bytes, "Share of its bandwidth, since the start.");
}

char *metrics_text(const LiveStats *s, const LiveOptions *o, const char *model) {
    char *text = NULL;
    size_t bytes;
    Page p = {open_memstream(&text, &bytes), escaped(model)};
    if (!p.f) fail("out of memory for metrics");
    of_vllm(&p, s);
    of_ours(&p, s, o);
    fclose(p.f);
    free(p.model);
    return text;
}

// stats.h: what became of each request, and of all of them together.
#ifndef STATS_H
#define STATS_H
#include "infer/sched.h"

typedef struct {
    double arrival, first, last;            // seconds: of its arrival, its first token and its last
    size_t prompt, answer, preempted, hits; // tokens; how often; tokens of the prompt that were found
    RequestEnd end;
    uint64_t digest;                        // of its tokens
} Record;

typedef struct { double p50, p90, p99; size_t count; } Percentiles;
typedef struct {
    Percentiles ttft, tpot, latency;        // of requests that have such a time
    size_t finished, good, tokens;          // good: first token and pace within their limits
    double good_late, ttft_late;            // of the last tenth to arrive: the share that is good, and the median wait
    uint64_t digest;                        // of all records' digests, by number
    Percentiles session, begin;             // of sessions: from the first arrival to the last token; the first ttft
} Stats;

Percentiles percentiles_of(double *x, size_t n);    // sorts; the nearest rank: each is one of the values, NAN of none
Stats stats_of(const Record *record, size_t count, double slo_ttft, double slo_tpot);
// Of requests of which each `turns` are a session, in their order.
void stats_of_sessions(Stats *s, const Record *record, size_t count, size_t turns);
void stats_write(const Record *record, size_t count, const char *path);     // a line of JSON for each
const char *end_name(RequestEnd end);
#endif

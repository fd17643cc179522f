// stats.c: percentiles, goodput, digest, and a line per request.
#include "infer/stats.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *end_name(RequestEnd end) {
    static const char *const name[ENDS] = {"in flight", "length", "stop", "cancelled", "shed", "refused"};
    return name[end];
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double rank(const double *x, size_t n, size_t percent) {
    size_t at = (n * percent + 99) / 100;
    return n ? x[at ? at - 1 : 0] : NAN;
}

Percentiles percentiles_of(double *x, size_t n) {
    qsort(x, n, sizeof *x, by_size);
    return (Percentiles){rank(x, n, 50), rank(x, n, 90), rank(x, n, 99), n};
}

// One token has no pace.
static double pace_of(const Record *r) { return r->answer > 1 ? (r->last - r->first) / (double)(r->answer - 1) : 0; }
static bool is_finished(const Record *r) { return r->end == END_LENGTH || r->end == END_STOP; }

// A request of one token is judged by it alone, and is not among the paces.
static bool is_good(const Record *r, double slo_ttft, double slo_tpot) {
    return is_finished(r) && r->first - r->arrival <= slo_ttft && pace_of(r) <= slo_tpot;
}

// Records are in order of arrival. What the last to come met says in which state a server has ended up, where an
// average over all still remembers how it began. One that got nothing has waited for ever.
static void judge_late(Stats *s, const Record *record, size_t count, double slo_ttft, double slo_tpot, double *x) {
    size_t late = (count + 9) / 10, good = 0;
    for (size_t i = 0; i < late; i++) {
        const Record *r = &record[count - late + i];
        good += is_good(r, slo_ttft, slo_tpot);
        x[i] = is_finished(r) ? r->first - r->arrival : INFINITY;
    }
    s->good_late = (double)good / (double)late, s->ttft_late = percentiles_of(x, late).p50;
}

Stats stats_of(const Record *record, size_t count, double slo_ttft, double slo_tpot) {
    Stats s = {.digest = HASH_START};
    double *x = xmalloc((3 * count + 1) * sizeof *x), *ttft = x, *tpot = x + count, *latency = x + 2 * count;
    size_t paces = 0;
    for (size_t i = 0; i < count; i++) {
        const Record *r = &record[i];
        s.tokens += r->answer;
        s.digest = hash_bytes(s.digest, &r->digest, sizeof r->digest);
        if (!is_finished(r)) continue;
        if (r->answer > 1) tpot[paces++] = pace_of(r);
        ttft[s.finished] = r->first - r->arrival, latency[s.finished++] = r->last - r->arrival;
        s.good += is_good(r, slo_ttft, slo_tpot);
    }
    s.ttft = percentiles_of(ttft, s.finished), s.latency = percentiles_of(latency, s.finished);
    s.tpot = percentiles_of(tpot, paces);
    judge_late(&s, record, count, slo_ttft, slo_tpot, x);
    free(x);
    return s;
}

void stats_of_sessions(Stats *s, const Record *record, size_t count, size_t turns) {
    size_t n = count / turns, whole = 0;
    double *x = xmalloc((2 * n + 1) * sizeof *x), *begin = x + n;
    for (size_t i = 0; i < n; i++) {
        const Record *first = &record[i * turns], *last = first + turns - 1;
        if (!is_finished(last)) continue;
        x[whole] = last->last - first->arrival, begin[whole++] = first->first - first->arrival;
    }
    s->session = percentiles_of(x, whole), s->begin = percentiles_of(begin, whole);
    free(x);
}

// A time that there is not is null.
static const char *time_text(double x, bool known, char out[32]) {
    snprintf(out, 32, known ? "%.9g" : "null", x);
    return out;
}

void stats_write(const Record *record, size_t count, const char *path) {
    AtomicFile f = atomic_open(path);
    for (size_t i = 0; i < count; i++) {
        const Record *r = &record[i];
        char first[32], last[32];
        char *line = xprintf("{\"request\": %zu, \"end\": \"%s\", \"arrival\": %.9g, \"first\": %s, \"last\": %s, "
                             "\"prompt\": %zu, \"answer\": %zu, \"preempted\": %zu, \"hits\": %zu, \"digest\": "
                             "\"%016llx\"}\n", i, end_name(r->end), r->arrival, time_text(r->first, r->answer, first),
                             time_text(r->last, r->answer, last), r->prompt, r->answer, r->preempted, r->hits,
                             (unsigned long long)r->digest);
        atomic_write(&f, line, strlen(line));
        free(line);
    }
    atomic_close(&f);
}

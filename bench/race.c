// race.c: contestants in turns, the machine's limits beside them, medians over rounds.
#include "run/run.h"
#include "lib/simd.h"
#include "bench/bench.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

// ---- the limits ----------------------------------------------------------------------------------
typedef struct { int threads; double value, measured; } Limit;      // measured: when

static bool is_fresh(const Limit *l, int threads, double age) {
    return l->threads == threads && seconds_now() - l->measured < age;
}

double peak_now(Bench *b, int threads) {
    static Limit last;
    int n = threads ? threads : b->threads;
    if (!is_fresh(&last, n, 0.1)) last = (Limit){n, simd_fma_peak(n), seconds_now()};
    return last.value;
}

double bandwidth_now(Bench *b, int threads) {
    static Limit last;
    int n = threads ? threads : b->threads;
    if (!b->probe.data) b->probe = read_probe_new(0);
    if (!is_fresh(&last, n, 0.5)) last = (Limit){n, read_probe_bandwidth(&b->probe, n, 3), seconds_now()};
    return last.value;
}

// The least seconds that one repeat can take here and now: of what can go on at once, the larger of both limits.
static double part_seconds(Bench *b, const Contestant *c, double flops, double bytes) {
    double compute = flops > 0 ? flops / (1e9 * peak_now(b, c->threads)) : 0;
    double memory = bytes > 0 ? bytes / (1e9 * bandwidth_now(b, c->threads)) : 0;
    return compute > memory ? compute : memory;
}
static double least_seconds(Bench *b, const Contestant *c) {
    return part_seconds(b, c, c->flops, c->bytes) + part_seconds(b, c, c->then_flops, c->then_bytes);
}

// ---- the race ------------------------------------------------------------------------------------
static double run(Bench *b, Contestant *c, size_t repeats) {
    omp_set_num_threads(c->threads ? c->threads : b->threads);
    double seconds = c->run(c->work, repeats);
    omp_set_num_threads(b->threads);
    return seconds;
}

// The first run pays for memory and caches; after it, repeats double until they take long enough.
static void warm_up(Bench *b, Contestant *c) {
    c->seconds = xmalloc(b->rounds * sizeof(double)), c->share = xmalloc(b->rounds * sizeof(double));
    c->repeats = 1;
    run(b, c, 1);
    if (b->effort == TINY) return;
    for (double took; (took = run(b, c, c->repeats)) < 0.7 * b->least_seconds;) {
        double factor = b->least_seconds / (took > 0 ? took : 1e-9);
        c->repeats = (size_t)((double)c->repeats * (factor < 1.5 ? 1.5 : factor > 10 ? 10 : factor)) + 1;
    }
}

static double process_seconds(void) {
    struct timespec t;
    struct rusage r;                                    // of processes that it made and that have ended
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    getrusage(RUSAGE_CHILDREN, &r);
    return (double)(t.tv_sec + r.ru_utime.tv_sec + r.ru_stime.tv_sec) + 1e-9 * (double)t.tv_nsec +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void show_progress(const char *name, const char *what, size_t i, size_t n) {
    if (!isatty(2)) return;
    if (i < n) fprintf(stderr, "\r%s: %s %zu of %zu ", name, what, i + 1, n);
    else fprintf(stderr, "\r%*s\r", 60, "");
    fflush(stderr);
}

static void run_round(Bench *b, size_t round, Contestant *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!c[i].run) continue;
        double least = least_seconds(b, &c[i]);
        c[i].seconds[round] = run(b, &c[i], c[i].repeats) / (double)c[i].repeats;
        c[i].share[round] = least / c[i].seconds[round];
    }
}

double seconds_of_others(const Peer *peer) {
    double field[10] = {0}, tick = 1 / (double)sysconf(_SC_CLK_TCK), user = 0, system = 0;
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    int fields = fscanf(f, "cpu %lf %lf %lf %lf %lf %lf %lf", field, field + 1, field + 2, field + 3, field + 4,
                        field + 5, field + 6);
    fclose(f);
    char *path = xprintf("/proc/%d/stat", peer ? (int)peer->pid : 0);
    if (peer && (f = fopen(path, "r"))) {
        if (fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lf %lf", &user, &system) != 2)
            user = system = 0;
        fclose(f);
    }
    free(path);
    double all = field[0] + field[1] + field[2] + field[5] + field[6];
    return fields < 7 ? 0 : (all - user - system) * tick - process_seconds();
}

size_t race_quiet(Bench *b, const char *name, Contestant *c, size_t n, const Peer *peer, size_t again) {
    const double allowed = 0.02;               // of the cores
    size_t disturbed = 0;
    for (size_t i = 0; i < n; i++) {
        show_progress(name, "warming up", i, n);
        if (c[i].run) warm_up(b, &c[i]);
    }
    for (size_t r = 0; r < b->rounds; r++) {
        show_progress(name, "round", r, b->rounds);
        double others = peer ? seconds_of_others(peer) : 0, start = seconds_now();
        run_round(b, r, c, n);
        double all = (seconds_now() - start) * omp_get_num_procs();
        if (!peer || seconds_of_others(peer) - others < allowed * all) continue;
        if (again) again--, r--;
        else disturbed++;
    }
    show_progress(name, "", 1, 1);
    return disturbed;
}
void race(Bench *b, const char *name, Contestant *c, size_t n) { race_quiet(b, name, c, n, NULL, 0); }

void race_free(Contestant *c, size_t n) {
    for (size_t i = 0; i < n; i++) free(c[i].seconds), free(c[i].share);
}

// ---- summaries -----------------------------------------------------------------------------------
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q) {
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

Summary summary(const double *x, size_t n) {
    double *sorted = xmalloc(n * sizeof *sorted);
    memcpy(sorted, x, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    Summary s = {quantile(sorted, n, 0.5), quantile(sorted, n, 0.25), quantile(sorted, n, 0.75)};
    free(sorted);
    return s;
}

Summary seconds_of(const Bench *b, const Contestant *c) { return summary(c->seconds, b->rounds); }
Summary share_of(const Bench *b, const Contestant *c) { return summary(c->share, b->rounds); }
double spread_of(Summary s) { return (s.high - s.low) / 2 / s.median; }

Summary ratio_of(const Bench *b, const Contestant *fast, const Contestant *slow) {
    double *ratio = xmalloc(b->rounds * sizeof *ratio);
    for (size_t r = 0; r < b->rounds; r++) ratio[r] = slow->seconds[r] / fast->seconds[r];
    Summary s = summary(ratio, b->rounds);
    free(ratio);
    return s;
}

// ---- what is left --------------------------------------------------------------------------------
json_t *summary_json(Summary s) {
    return json_pack("{s:o, s:o, s:o}", "median", run_number(s.median), "low", run_number(s.low), "high",
                     run_number(s.high));
}

json_t *contestant_json(const Bench *b, const Contestant *c) {
    Summary s = seconds_of(b, c);
    json_t *o = json_pack("{s:o, s:o, s:I}", "seconds", summary_json(s), "share", summary_json(share_of(b, c)),
                          "repeats", (json_int_t)c->repeats);
    double flops = c->flops + c->then_flops, bytes = c->bytes + c->then_bytes;
    if (flops > 0) json_object_set_new(o, "gflops", run_number(1e-9 * flops / s.median));
    if (bytes > 0) json_object_set_new(o, "gbytes_per_second", run_number(1e-9 * bytes / s.median));
    return o;
}

void add_result(Bench *b, const char *section, json_t *result) {
    json_t *all = json_object_get(b->sections, section);
    if (!all) json_object_set_new(b->sections, section, all = json_array());
    json_array_append_new(all, result);
}

void add_point(Bench *b, int group, const char *label, double flops, double bytes, double seconds) {
    b->point = xrealloc(b->point, (b->points + 1) * sizeof *b->point);
    b->point[b->points++] = (RooflinePoint){xprintf("%s", label), flops / bytes, 1e-9 * flops / seconds, group};
}

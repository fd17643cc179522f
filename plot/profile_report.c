// profile_report.c: rows sorted by time, each against the roof that bounds it: what the units can compute, or
// what the memory can feed them at the operation's intensity (roofline.h).
#include "plot/profile_report.h"
#include "plot/roofline.h"
#include <stdlib.h>

static int by_seconds(const void *a, const void *b) {
    double x = ((const ProfileRow *)a)->seconds, y = ((const ProfileRow *)b)->seconds;
    return (x < y) - (x > y);
}

static size_t sorted_rows(ProfileRow *row, const Profile *p) {
    size_t n = 0;
    for (size_t k = 0; k < PROFILE_COUNT; k++)
        if (p->row[k].calls) row[n++] = p->row[k];
    qsort(row, n, sizeof *row, by_seconds);
    return n;
}

static bool is_compute_bound(const ProfileRow *row, Roofs r) { return row->flops / r.peak >= row->bytes / r.bandwidth; }
static double share_of_roof(const ProfileRow *row, Roofs r) {
    return 1e-9 * (is_compute_bound(row, r) ? row->flops / r.peak : row->bytes / r.bandwidth) / row->seconds;
}

static void print_row(FILE *out, const ProfileRow *row, double seconds, Roofs r) {
    if (row->bytes == 0) {                  // neither arithmetic nor memory is what it waits for: no roof
        fprintf(out, "%-28s %9zu %9s %8s %8.3g %6.1f%%\n", row->label, row->calls, "", "", row->seconds,
                100 * row->seconds / seconds);
        return;
    }
    fprintf(out, "%-28s %9zu %9.4g %8.3g %8.3g %6.1f%% %7.2f %8.1f  %4.0f%% of %s\n", row->label, row->calls,
            1e-9 * row->flops, 1e-9 * row->bytes, row->seconds, 100 * row->seconds / seconds, row->flops / row->bytes,
            1e-9 * row->flops / row->seconds, 100 * share_of_roof(row, r),
            is_compute_bound(row, r) ? "compute" : "memory");
}

void profile_print(FILE *out, const char *title, const Profile *p, Roofs r) {
    ProfileRow row[PROFILE_COUNT];
    size_t n = sorted_rows(row, p);
    double seconds = 0, flops = 0;
    bool cached = false;
    fprintf(out, "\nprofile  %s: %.3g s; the machine: %.0f GFLOP/s of fused multiply-adds, %.1f GB/s read\n", title,
            p->seconds, r.peak, r.bandwidth);
    fprintf(out, "%-28s %9s %9s %8s %8s %7s %7s %8s  %s\n", "operation", "calls", "GFLOP", "GB", "seconds", "share",
            "FLOP/B", "GFLOP/s", "its roof");
    for (size_t i = 0; i < n; i++) {
        print_row(out, &row[i], p->seconds, r);
        seconds += row[i].seconds, flops += row[i].flops;
        cached |= !is_compute_bound(&row[i], r) && share_of_roof(&row[i], r) > 1;
    }
    fprintf(out, "%-28s %9s %9s %8s %8.3g %6.1f%%\n", "everything else", "", "", "", p->seconds - seconds,
            100 * (1 - seconds / p->seconds));
    fprintf(out, "%-28s %9s %9.4g %8s %8.3g %6.1f%% %7s %8.1f  %4.0f%% of compute\n", "all", "", 1e-9 * flops, "",
            p->seconds, 100., "", 1e-9 * flops / p->seconds, 1e-7 * flops / p->seconds / r.peak);
    if (cached) fprintf(out, "More than 100%% of memory: the operands were still in a cache.\n");
    fflush(out);
}

void profile_draw(const char *path, const char *title, const Profile *p, const char *const *label, size_t n, Roofs r) {
    RooflinePoint *point = xmalloc(n * PROFILE_COUNT * sizeof *point);
    size_t points = 0;
    for (size_t g = 0; g < n; g++)
        for (size_t k = 0; k < PROFILE_COUNT; k++) {
            const ProfileRow *row = &p[g].row[k];
            if (row->seconds > 0.003 * p[g].seconds)        // what takes less would only hide the rest
                point[points++] = (RooflinePoint){row->label, row->flops / row->bytes,
                                                  1e-9 * row->flops / row->seconds, (int)g};
        }
    const char *what = "Operations that compute and took at least 0.3% of the time; above 100%: "
                       "the operands were still in a cache";
    Roofline picture = {.title = title, .subtitle = what, .peak = r.peak, .bandwidth = r.bandwidth, .point = point,
                        .points = points, .group_label = n > 1 ? label : NULL, .groups = n};
    roofline_draw(path, &picture);
    free(point);
}

json_t *profile_json(const Profile *p, Roofs r) {
    ProfileRow row[PROFILE_COUNT];
    size_t n = sorted_rows(row, p);
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(all, json_pack("{s:s, s:I, s:f, s:f, s:f}", "operation", row[i].label, "calls",
                                             (json_int_t)row[i].calls, "flops", row[i].flops, "bytes", row[i].bytes,
                                             "seconds", row[i].seconds));
    return json_pack("{s:f, s:f, s:f, s:o}", "seconds", p->seconds, "peak_gflops", r.peak, "read_gb_per_s", r.bandwidth,
                     "operations", all);
}

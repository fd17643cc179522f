// profile.c: adds up what profiled functions report. Only the thread that calls operations writes.
#include "lib/profile.h"
#include <omp.h>
#include <string.h>

#define LABEL(name, label) label,
static const char *const labels[PROFILE_COUNT] = {PROFILE_KINDS(LABEL)};

bool profile_on;
static Profile profile;
static double started;
static bool inside;

ProfileSpan profile_begin(ProfileKind kind, double flops, double numbers) {
    if (omp_in_parallel() || inside) return (ProfileSpan){.start = -1};
    inside = true;
    return (ProfileSpan){kind, flops, numbers, seconds_now()};
}

void profile_end(const ProfileSpan *span) {
    if (span->start < 0) return;
    ProfileRow *r = &profile.row[span->kind];
    r->calls++, r->flops += span->flops, r->bytes += span->numbers * sizeof(real);
    r->seconds += seconds_now() - span->start;
    inside = false;
}

void profile_start(void) {
    memset(&profile, 0, sizeof profile);
    for (size_t k = 0; k < PROFILE_COUNT; k++) profile.row[k].label = labels[k];
    inside = false, profile_on = true, started = seconds_now();
}

Profile profile_stop(void) {
    profile_on = false;
    profile.seconds = seconds_now() - started;
    return profile;
}

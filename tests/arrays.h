// arrays.h: what the tests of kernels share: arrays that end at a fence, random contents, comparisons.
#ifndef ARRAYS_H
#define ARRAYS_H
#include "tests/test.h"
#include "lib/rng.h"
#include <float.h>
#include <sys/mman.h>
#include <unistd.h>

#define EPSILON (sizeof(real) == sizeof(double) ? DBL_EPSILON : (double)FLT_EPSILON)  // one unit in the last place of 1

// Behind the last number of an array is a page that nobody may touch: a kernel that reads or writes one
// number too far crashes, and with it its test, in any build. Freed all at once by arrays_free().
enum { MOST_ARRAYS = 1024 };
static struct { char *base; size_t bytes; } arrays_made[MOST_ARRAYS];
static size_t arrays_count;

static inline void *array_bytes(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    char *base = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || arrays_count == MOST_ARRAYS || mprotect(base + room, page, PROT_NONE))
        fail("no memory for an array of %zu bytes: a test keeps too many", bytes);
    arrays_made[arrays_count].base = base;
    arrays_made[arrays_count++].bytes = room + page;
    return base + room - bytes;
}

static inline void arrays_free(void) {
    while (arrays_count) arrays_count--, munmap(arrays_made[arrays_count].base, arrays_made[arrays_count].bytes);
}

static inline real *array(size_t n) { return array_bytes(n * sizeof(real)); }          // zeros
static inline real *array_random(size_t n, Rng *r) {                                   // uniform in [-1, 1)
    real *x = array(n);
    for (size_t i = 0; i < n; i++) x[i] = (real)(2 * rng_uniform(r) - 1);
    return x;
}
static inline real *array_copy(const real *from, size_t n) {
    real *x = array(n);
    for (size_t i = 0; i < n; i++) x[i] = from[i];
    return x;
}

static inline bool same_bits(const real *a, const real *b, size_t n) {
    return n == 0 || memcmp(a, b, n * sizeof *a) == 0;
}

// The largest |found - expected| / max(1, |expected|); infinite where a NaN is found or only one is infinite.
static inline double largest_error(const real *found, const double *expected, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - expected[i]) / fmax(1, fabs(expected[i]));
        if (!(error <= most)) most = isnan(error) ? (double)INFINITY : error;
    }
    return most;
}
#endif

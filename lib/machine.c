// machine.c: asks the system for names, the size of the caches and the use of memory; the memory's speed is measured.
#include "lib/machine.h"
#include "lib/simd.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

// ---- names ---------------------------------------------------------------------------------------
char *machine_cpu(void) {
    char line[512] = "", *name = NULL;
#ifdef __APPLE__
    size_t size = sizeof line;
    if (sysctlbyname("machdep.cpu.brand_string", line, &size, NULL, 0) == 0) return xprintf("%s", line);
#endif
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !name && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = '\0';
        name = xprintf("%s", colon + 2);
    }
    if (f) fclose(f);
    struct utsname u;
    return name ? name : xprintf("%s", uname(&u) == 0 ? u.machine : "unknown");
}

char *machine_system(void) {
    struct utsname u;
    return uname(&u) == 0 ? xprintf("%s %s", u.sysname, u.machine) : xprintf("unknown");
}

const char *machine_compiler(void) {
#ifdef __clang__
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}

// ---- caches --------------------------------------------------------------------------------------
#ifdef __APPLE__
size_t machine_cache_bytes(void) {
    size_t bytes = 0, size = sizeof bytes;
    return sysctlbyname("hw.perflevel0.l2cachesize", &bytes, &size, NULL, 0) == 0 ? bytes : 0;
}
#else
// A line of /sys/devices/system/cpu/cpuN/cache/indexI/NAME.
static bool read_fact(int cpu, int index, const char *name, char line[64]) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, name);
    FILE *f = fopen(path, "r");
    bool found = f && fgets(line, 64, f);
    if (f) fclose(f);
    return found;
}

// The last cache before memory, of this core; 0 where a core with a lower number shares it and has counted it.
static size_t last_cache_of(int cpu) {
    char line[64];
    int last = -1, highest = 0;
    for (int i = 0; read_fact(cpu, i, "level", line); i++)
        if (atoi(line) > highest) highest = atoi(line), last = i;
    if (last < 0 || !read_fact(cpu, last, "shared_cpu_list", line) || atoi(line) != cpu) return 0;
    if (!read_fact(cpu, last, "size", line)) return 0;
    char *unit;
    size_t size = strtoull(line, &unit, 10);
    return *unit == 'K' ? size << 10 : *unit == 'M' ? size << 20 : size;
}

size_t machine_cache_bytes(void) {
    size_t all = 0;
    char line[64];
    for (int cpu = 0; read_fact(cpu, 0, "level", line); cpu++) all += last_cache_of(cpu);
    return all;
}
#endif

double machine_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (double)pages * (double)bytes : 0;
}

// ---- use -----------------------------------------------------------------------------------------
// ru_maxrss is in KiB on Linux, in bytes on macOS. On Linux it also remembers the process that this one was started
// from, up to its exec; VmHWM does not.
double machine_peak_memory(void) {
    struct rusage usage;
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lf kB", &kib) != 1) continue;
    if (f) fclose(f);
    if (kib > 0) return 1024 * kib;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return (double)usage.ru_maxrss;
#else
    return 1024 * (double)usage.ru_maxrss;
#endif
}

// ---- reading -------------------------------------------------------------------------------------
enum { STREAMS = 4, STEP = 2 * LANES, PAGE = 2 << 20 };

// Eight times the caches, so that not much of the last pass is still there for the next; a part of a large server sees
// the whole one's, of half a gigabyte, and passes over twice that leave nothing there either. Large pages: this is what
// the memory can do, whatever a program's own pages cost it.
ReadProbe read_probe_new(size_t most) {
    size_t caches = machine_cache_bytes(), least = (size_t)256 << 20, enough = (size_t)1 << 30, bytes = 8 * caches;
    if (bytes > enough) bytes = 2 * caches > enough ? 2 * caches : enough;
    double quarter = machine_memory() / 4;
    if (quarter > 0 && (double)bytes > quarter) bytes = (size_t)quarter;
    if (bytes < least) bytes = least;
    if (most && bytes > most) bytes = most;
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    ReadProbe p = {aligned_alloc(PAGE, bytes), 0};
    while (!p.data && bytes > PAGE)                 // as under ulimit -v: a gauge is no reason to end
        p.data = aligned_alloc(PAGE, bytes = (bytes / 2 + PAGE - 1) / PAGE * PAGE);
    p.count = bytes / sizeof(real);
    if (!p.data) fail("out of memory: measuring the memory's speed needs %zu bytes", bytes);
#ifdef MADV_HUGEPAGE
    madvise(p.data, bytes, MADV_HUGEPAGE);
#endif
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < p.count; i++) p.data[i] = (real)0.5;
    return p;
}

void read_probe_free(ReadProbe *p) {
    free(p->data);
    *p = (ReadProbe){NULL, 0};
}

// Several streams at once keep more of the hardware's prefetchers busy than one.
static real read_all(const real *x, size_t n) {
    size_t each = n / STREAMS / STEP * STEP;
    vec sum[STREAMS][2];
    for (int s = 0; s < STREAMS; s++) sum[s][0] = sum[s][1] = vec_zero();
    for (size_t i = 0; i < each; i += STEP)
        for (size_t s = 0; s < STREAMS; s++) {
            sum[s][0] = vec_add(sum[s][0], vec_load(x + s * each + i));
            sum[s][1] = vec_add(sum[s][1], vec_load(x + s * each + i + LANES));
        }
    for (int s = 0; s < STREAMS; s++) sum[0][0] = vec_add(sum[0][0], vec_add(sum[s][0], sum[s][1]));
    return vec_sum(sum[0][0]);
}

double read_probe_bandwidth(const ReadProbe *p, int threads, int tries) {
    double best = 0;
    volatile real cell = 0;      // keeps the sums alive
    for (int try = 0; try < tries; try++) {
        real sum = 0;
        double start = seconds_now();
#pragma omp parallel num_threads(threads) reduction(+ : sum)
        {
            size_t each = p->count / (size_t)omp_get_num_threads();
            sum += read_all(p->data + (size_t)omp_get_thread_num() * each, each);
        }
        cell = sum;
        double rate = (double)(p->count * sizeof(real)) / (seconds_now() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    (void)cell;
    return best;
}

double machine_read_bandwidth(int threads) {
    ReadProbe p = read_probe_new(0);
    double best = read_probe_bandwidth(&p, threads, 5);
    read_probe_free(&p);
    return best;
}

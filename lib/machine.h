// machine.h: what this program runs on, what the memory there can do, measured, and how much of it has been used. The
// other roof, fused multiply-adds per second, is simd_fma_peak() of simd.h.
#ifndef MACHINE_H
#define MACHINE_H
#include "lib/util.h"

// The processor's name, or its architecture where the system does not say; system and architecture ("Linux x86_64").
// Both malloc'd.
char *machine_cpu(void);
char *machine_system(void);
const char *machine_compiler(void);            // that made this program, and its version

// The last-level caches of all cores together, in bytes; 0 where the system does not say.
size_t machine_cache_bytes(void);

// That is built in, in bytes; 0 where the system does not say.
double machine_memory(void);
// The most resident memory that this process has had so far, in bytes.
double machine_peak_memory(void);

// Memory to read from, larger than these caches, and written once, so that every page is really there: eight times as
// large, but beyond a gigabyte only twice, and never more than `most` bytes (0: no bound) or a quarter of the memory.
typedef struct { real *data; size_t count; } ReadProbe;
ReadProbe read_probe_new(size_t most);
void read_probe_free(ReadProbe *p);
// GB/s of `threads` threads that read all of it from one end to the other: the best of `tries`.
double read_probe_bandwidth(const ReadProbe *p, int threads, int tries);
// All three: takes a quarter of a second.
double machine_read_bandwidth(int threads);
#endif

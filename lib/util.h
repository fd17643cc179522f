// util.h: what every room needs: the number type, errors, arenas, hashing, time.
#ifndef UTIL_H
#define UTIL_H
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE       // POSIX also with -std=c11
#endif
#include "lib/text.h"
#include <float.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// ---- what would silently give other bits -------------------------------------------------------
// fma.h has a test of the machine itself. 16: of _Float16 alone.
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "floats are computed with more bits than they have (FLT_EVAL_METHOD); on 32-bit x86: -msse2 -mfpmath=sse"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math: every compiler would give other bits"
#endif
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hashes and files are made of little-endian numbers");

// The model computes in `real`: float, or double when built with -DREAL_DOUBLE
// (the build in which gradients are checked against central differences).
#ifdef REAL_DOUBLE
typedef double real;
#else
typedef float real;
#endif

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline const char *plural(size_t n) { return n == 1 ? "" : "s"; }   // "1 layer", "2 layers"
static inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// ---- errors ------------------------------------------------------------------------------------
// Both print one line on stderr: what was wrong, what was expected, what was found, what to do.
// fail() exits with status 1 (the world is broken), usage_error() with 2 (the command line is).
// A test or a fuzzer sets fail_hook to get control instead (it must not return).
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
// A control character in it, or a byte that is not UTF-8, is shown as \n or \x1b.
_Noreturn void fail(const char *format, ...) PRINTF_LIKE(1, 2);
_Noreturn void usage_error(const char *format, ...) PRINTF_LIKE(1, 2);
extern void (*fail_hook)(int status, const char *message);
// As fprintf, but control characters do not get through (text_print): for lines that quote a file or a command.
void print_line(FILE *out, const char *format, ...) PRINTF_LIKE(2, 3);
void flush_output(const char *rest);          // fails if standard output could not be written; rest: what is not lost

// ---- memory ------------------------------------------------------------------------------------
void *xmalloc(size_t bytes);                  // zeroed, never NULL, fails with the size it wanted
void *xrealloc(void *p, size_t bytes);        // the new part is NOT zeroed
extern const char *memory_advice;             // what such a failure advises; a program may have better advice
char *xprintf(const char *format, ...) PRINTF_LIKE(1, 2);  // a malloc'd formatted string
size_t size_mul(size_t a, size_t b);          // a*b, fails on overflow
size_t size_add(size_t a, size_t b);          // a+b, likewise

// One arena per lifetime. It is walked twice by the same code: first with base == NULL, when
// arena_take only adds up sizes, then after arena_commit, when it hands out zeroed memory.
typedef struct {
    const char *name;
    char *base;         // NULL while measuring
    size_t used, size;  // bytes
} Arena;
void *arena_take(Arena *a, size_t bytes);     // 64-byte aligned; NULL while measuring
void arena_commit(Arena *a);                  // allocates what was measured, rewinds
// Gives the whole pages of a range back to the system. What was there is lost; the rest of the arena stays.
void arena_release(void *at, size_t bytes);
void arena_free(Arena *a);

// ---- files -------------------------------------------------------------------------------------
// A file that is written to NAME.tmp, flushed to disk and renamed over NAME by close, so that a
// reader sees the old content or the new, never half. Any failure (full disk, read-only
// directory) removes the temporary file, leaves NAME as it was, and calls fail(). A link that has the temporary name is
// removed, one that has NAME replaced: what they lead to is not written.
typedef struct { FILE *f; char *path, *temporary; } AtomicFile;
AtomicFile atomic_open(const char *path);
void atomic_write(AtomicFile *a, const void *data, size_t bytes);
void atomic_close(AtomicFile *a);
// Before the work, not after it: fails where the file that --flag names could not be written in the end, or where it is
// there and begins otherwise than what is written (NULL: any way), so that somebody would lose it.
void check_output(const char *flag, const char *path, const char *begins);
bool same_file(const char *a, const char *b);     // two paths of one file or directory, by whatever links
bool same_place(const char *a, const char *b);    // likewise of files that are still to be written
void write_whole_file(const char *path, const void *data, size_t bytes);  // all three at once
int sync_file(int descriptor);                // fsync(), also where that leaves the data in the drive
// malloc'd, NUL after the end; fails with the reason. Of a pipe or a device at most 64 MiB.
char *read_whole_file(const char *path, size_t *bytes);
// The same of a file in a directory of ours or of a model: a pipe, which could make us wait, or a device is refused.
char *read_regular_file(const char *path, size_t *bytes);
FILE *append_to_file(const char *path);       // made where there is none; a link or a pipe is refused
bool file_exists(const char *path);
void remove_file(const char *path);           // fails with the reason, but not where there is none
void make_directories(const char *path);      // mkdir -p
// From now on, for all of the above, PATH/NAME is the file NAME of the directory behind the descriptor, wherever that
// is moved and whatever stands at its path by then. A few at a time; closing the descriptor ends it too.
void hold_directory(const char *path, int descriptor);
void release_directory(int descriptor);

// ---- hashing, time -----------------------------------------------------------------------------
#define HASH_START 0xcbf29ce484222325ull
// As FNV-1a with 64 bits, over 8-byte words and then the remaining bytes, each followed by a fold: see util.c.
uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes);
uint64_t hash_text(uint64_t h, const char *text);
double seconds_now(void);                     // monotonic
#endif

// util.c: errors, memory, hashing, time. No knowledge of models. Files are in util_files.c.
#include "lib/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// ---- errors ------------------------------------------------------------------------------------
void (*fail_hook)(int status, const char *message);

// Messages quote what users typed and files hold: that must neither break the one line nor command a terminal.
static _Noreturn void stop(int status, const char *format, va_list arguments) {
    char raw[2048], message[2048];
    vsnprintf(raw, sizeof raw, format, arguments);
    text_escape(message, sizeof message, raw, strlen(raw));
    if (fail_hook) fail_hook(status, message);
    fflush(stdout);
    fprintf(stderr, "error: %s\n", message);
    exit(status);
}

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    stop(1, format, arguments);
}

_Noreturn void usage_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    stop(2, format, arguments);
}

void flush_output(const char *rest) {
    if (fflush(stdout) != 0 || ferror(stdout)) fail("cannot write to standard output%s", rest);
}

// ---- memory ------------------------------------------------------------------------------------
const char *memory_advice = "choose smaller sizes (--dry-run shows them)";

void *xmalloc(size_t bytes) {
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) fail("out of memory: %zu bytes were needed; %s", bytes, memory_advice);
    return p;
}

void *xrealloc(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) fail("out of memory: %zu bytes were needed; %s", bytes, memory_advice);
    return q;
}

// malloc'd; the arguments are used up.
static char *formatted(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *text = xmalloc((size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

char *xprintf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = formatted(format, arguments);
    va_end(arguments);
    return text;
}

// Newlines of the format end lines, and for that are marked; those of a name do not.
enum { MARK = 0x1e };
static size_t count_of(const char *text, char c) {
    size_t count = 0;
    for (; (text = strchr(text, c)); text++) count++;
    return count;
}
static void print_marked(FILE *out, const char *text, bool known) {
    static const char ends[] = {'\n', MARK, 0};
    for (const char *end; *text; text = end + 1) {
        end = text + strcspn(text, ends);
        text_print(out, text, (size_t)(end - text));
        if (!*end) return;
        fputs(*end == MARK && (known || !end[1]) ? "\n" : *end == MARK ? "\\x1e" : "\\n", out);
    }
}

void print_line(FILE *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *marked = xprintf("%s", format);
    for (char *at = marked; (at = strchr(at, '\n'));) *at = MARK;
    char *text = formatted(marked, arguments);
    va_end(arguments);
    print_marked(out, text, count_of(text, MARK) == count_of(marked, MARK));
    free(text), free(marked);
}

size_t size_mul(size_t a, size_t b) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        fail("%zu times %zu is larger than any memory; choose smaller sizes", a, b);
    return product;
}

size_t size_add(size_t a, size_t b) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        fail("%zu and %zu more are larger than any memory; choose smaller sizes", a, b);
    return sum;
}

enum {
    ARENA_ALIGNMENT = 64,       // a cache line, and one 16-lane float vector
    HUGE_PAGE = 2 << 20,        // of x86-64 and ARM64; asked for, because a walk through small ones is slower
};

void *arena_take(Arena *a, size_t bytes) {
    size_t rounded = (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT, end;
    if (rounded < bytes || __builtin_add_overflow(a->used, rounded, &end))
        fail("the arena of %s is larger than any memory; choose smaller sizes", a->name);
    if (a->base && end > a->size)
        fail("the arena of %s was measured as %zu bytes, but %zu were taken", a->name, a->size, end);
    void *p = a->base ? a->base + a->used : NULL;
    a->used = end;
    return p;
}

void arena_commit(Arena *a) {
    a->size = a->used;
    a->used = 0;
    size_t alignment = a->size < HUGE_PAGE ? ARENA_ALIGNMENT : HUGE_PAGE;
    size_t some = a->size ? a->size : 1, whole = (some + alignment - 1) / alignment * alignment;  // C wants a multiple
    a->base = whole < a->size ? NULL : aligned_alloc(alignment, whole);
    if (!a->base) fail("out of memory: %s need %zu bytes; %s", a->name, a->size, memory_advice);
#ifdef MADV_HUGEPAGE
    if (alignment == HUGE_PAGE) madvise(a->base, a->size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    memset(a->base, 0, a->size);
}

void arena_release(void *at, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = ((uintptr_t)at + bytes) / page * page;
    uintptr_t start = ((uintptr_t)at + page - 1) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_DONTNEED);
}

void arena_free(Arena *a) {
    free(a->base);
    a->base = NULL;
    a->used = a->size = 0;
}

// ---- hashing, time -----------------------------------------------------------------------------
// The fold after the product is not part of FNV: without it the top bit of a word (the sign of a
// float) would only ever reach the top bit of the hash, where two such changes cancel.
static uint64_t hash_word(uint64_t h, uint64_t word) {
    h = (h ^ word) * 0x100000001b3ull;
    return h ^ h >> 32;
}

uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = hash_word(h, word);
    }
    for (; bytes; bytes--, p++) h = hash_word(h, *p);
    return h;
}

// The end of a text counts, so that "ab","c" and "a","bc" differ.
uint64_t hash_text(uint64_t h, const char *text) { return hash_bytes(h, text, strlen(text) + 1); }

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

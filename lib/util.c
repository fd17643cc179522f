// util.c: errors, memory, files that are never half written, hashing, time. No knowledge of models.
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// ---- errors ------------------------------------------------------------------------------------
void (*fail_hook)(int status, const char *message);

// Messages quote what users typed and files hold: that must neither break the one line nor command a terminal.
static void escape(const char *text, char *out, size_t size) {
    char *end = out + size - 5;
    for (size_t n, left = strlen(text); left && out < end; text += n, left -= n) {
        n = utf8_length(text, left);
        unsigned char c = (unsigned char)text[0], next = (unsigned char)text[1];
        bool control = n == 0 || c < 32 || c == 127 || (c == 0xC2 && next < 0xA0);  // U+0080 to U+009F are obeyed too
        if (c == '\n') out += snprintf(out, 3, "\\n");
        else if (control) out += snprintf(out, 5, "\\x%02x", c);
        else memcpy(out, text, n), out += n;
        if (control) n = 1;
    }
    *out = '\0';
}

static _Noreturn void stop(int status, const char *format, va_list arguments) {
    char raw[2048], message[2048];
    vsnprintf(raw, sizeof raw, format, arguments);
    escape(raw, message, sizeof message);
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

char *xprintf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = xmalloc((size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
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

void arena_free(Arena *a) {
    free(a->base);
    a->base = NULL;
    a->used = a->size = 0;
}

// ---- files -------------------------------------------------------------------------------------
int sync_file(int descriptor) {
#ifdef F_FULLFSYNC      // of macOS, though not of each of its file systems
    if (fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
    return fsync(descriptor);
}

static _Noreturn void atomic_fail(AtomicFile *a, const char *doing, int error) {
    if (a->f) fclose(a->f);
    unlink(a->temporary);
    fail("cannot %s %s: %s; what was there before is unchanged", doing, a->path, strerror(error));
}

AtomicFile atomic_open(const char *path) {
    AtomicFile a = {NULL, xprintf("%s", path), xprintf("%s.tmp", path)};
    struct stat old;
    if (stat(path, &old) == 0 && !S_ISREG(old.st_mode))
        fail("cannot write %s: %s stands there", path, S_ISDIR(old.st_mode) ? "a directory" : "something not a file");
    a.f = fopen(a.temporary, "wb");
    if (!a.f) fail("cannot write %s: %s; check that the directory exists and is writable", path, strerror(errno));
    return a;
}

void atomic_write(AtomicFile *a, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, a->f) != bytes) atomic_fail(a, "write", errno);
}

// A rename survives a power cut only once the directory that holds the name is on the disk too.
static void flush_directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *directory = slash ? xprintf("%.*s", (int)(slash - path + 1), path) : xprintf(".");
    int d = open(directory, O_RDONLY);
    if (d >= 0) {
        sync_file(d);
        close(d);
    }
    free(directory);
}

void atomic_close(AtomicFile *a) {
    if (fflush(a->f) != 0 || sync_file(fileno(a->f)) != 0) atomic_fail(a, "write", errno);
    FILE *f = a->f;
    a->f = NULL;
    if (fclose(f) != 0) atomic_fail(a, "write", errno);
    if (rename(a->temporary, a->path) != 0) atomic_fail(a, "replace", errno);
    flush_directory_of(a->path);
    free(a->path);
    free(a->temporary);
}

void write_whole_file(const char *path, const void *data, size_t bytes) {
    AtomicFile a = atomic_open(path);
    atomic_write(&a, data, bytes);
    atomic_close(&a);
}

char *read_whole_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) fail("cannot read %s: %s", path, strerror(errno));
    size_t size = 0, capacity = 1 << 16;
    char *text = xmalloc(capacity);
    for (size_t got; (got = fread(text + size, 1, capacity - size - 1, f)) > 0;) {
        size += got;
        if (capacity - size < 2) text = xrealloc(text, capacity = size_mul(capacity, 2));
    }
    if (ferror(f)) {
        int error = errno;
        fclose(f);
        free(text);
        fail("cannot read %s: %s", path, strerror(error));
    }
    fclose(f);
    text[size] = '\0';
    if (bytes) *bytes = size;
    return text;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

void make_directories(const char *path) {
    char *partial = xprintf("%s", path);
    for (char *p = partial + 1; *partial; p++) {
        if (*p != '/' && *p != '\0') continue;
        char end = *p;
        *p = '\0';
        if (mkdir(partial, 0777) != 0 && errno != EEXIST)
            fail("cannot make the directory %s: %s", partial, strerror(errno));
        if (end == '\0') break;
        *p = end;
    }
    struct stat s;
    if (stat(path, &s) != 0 || !S_ISDIR(s.st_mode))
        fail("%s was expected to be a directory, but a file is there", path);
    free(partial);
}

// ---- UTF-8 -------------------------------------------------------------------------------------
size_t utf8_length(const char *text, size_t bytes) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] < 0xC2 || p[0] > 0xF4 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (n == 0 || n > bytes) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    bool overlong = (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xF0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xED && p[1] >= 0xA0, too_high = p[0] == 0xF4 && p[1] >= 0x90;
    return overlong || surrogate || too_high ? 0 : n;
}

size_t utf8_valid_length(const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t n; at < bytes && (n = utf8_length(text + at, bytes - at)) > 0;) at += n;
    return at;
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

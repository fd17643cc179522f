// util_files.c: files that are never half written, and directories that stay the same while their name moves.
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- directories that are held -----------------------------------------------------------------
// A descriptor that was closed without a release, and is that of something else by now, holds nothing.
typedef struct { char path[PATH_MAX]; int descriptor; dev_t device; ino_t inode; } Held;
enum { HELD = 8 };
static Held held[HELD];
static size_t holds;            // in all; the last HELD of them are remembered

static Held held_now(int descriptor) {
    struct stat s;
    Held h = {"", descriptor, 0, 0};
    if (fstat(descriptor, &s) != 0) return (Held){"", -1, 0, 0};
    h.device = s.st_dev, h.inode = s.st_ino;
    return h;
}

void hold_directory(const char *path, int descriptor) {
    Held h = held_now(descriptor);
    if (strlen(path) >= sizeof h.path) fail("the path %.80s... is longer than %zu bytes", path, sizeof h.path - 1);
    strcpy(h.path, path);
    held[holds++ % HELD] = h;
}

void release_directory(int descriptor) {
    for (size_t i = 0; i < HELD; i++)
        if (held[i].descriptor == descriptor) held[i] = (Held){"", -1, 0, 0};
}

// What the system's calls with a directory take: "DIR/NAME" of one that is held is NAME in it.
typedef struct { int directory; const char *name; } Place;

static bool is_in(const Held *h, const char *path) {
    size_t n = strlen(h->path);
    if (!n || strncmp(path, h->path, n) != 0 || path[n] != '/' || strchr(path + n + 1, '/')) return false;
    Held now = held_now(h->descriptor);
    return now.descriptor >= 0 && now.device == h->device && now.inode == h->inode;
}

static Place place_of(const char *path) {
    for (size_t back = 1; back <= HELD && back <= holds; back++) {
        const Held *h = &held[(holds - back) % HELD];
        if (is_in(h, path)) return (Place){h->descriptor, path + strlen(h->path) + 1};
    }
    return (Place){AT_FDCWD, path};
}

static int open_place(const char *path, int flags) {
    Place p = place_of(path);
    return openat(p.directory, p.name, flags | O_CLOEXEC, 0666);
}

bool file_exists(const char *path) {
    Place p = place_of(path);
    return faccessat(p.directory, p.name, F_OK, 0) == 0;
}

static bool remove_place(const char *path) {
    Place p = place_of(path);
    return unlinkat(p.directory, p.name, 0) == 0 || errno == ENOENT;
}

void remove_file(const char *path) {
    if (!remove_place(path)) fail("cannot remove %s: %s", path, strerror(errno));
}

// ---- writing -----------------------------------------------------------------------------------
int sync_file(int descriptor) {
#ifdef F_FULLFSYNC      // of macOS, though not of each of its file systems
    if (fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
    return fsync(descriptor);
}

static _Noreturn void atomic_fail(AtomicFile *a, const char *doing, int error) {
    if (a->f) fclose(a->f);
    remove_place(a->temporary);
    fail("cannot %s %s: %s; what was there before is unchanged", doing, a->path, strerror(error));
}

static const char *kind_of(const struct stat *s) {
    return S_ISDIR(s->st_mode) ? "a directory" : S_ISFIFO(s->st_mode) ? "a pipe" : "a device or a socket";
}

static void refuse_other_kinds(const char *path) {
    struct stat old;
    Place p = place_of(path);
    if (fstatat(p.directory, p.name, &old, 0) == 0 && !S_ISREG(old.st_mode))
        fail("cannot write %s: %s stands there, not a file; move it away", path, kind_of(&old));
}

// What has the temporary name already is left over from a process that was killed, or a link: it goes, and what a link
// leads to is not touched.
AtomicFile atomic_open(const char *path) {
    AtomicFile a = {NULL, xprintf("%s", path), xprintf("%s.tmp", path)};
    refuse_other_kinds(path);
    if (!remove_place(a.temporary)) refuse_other_kinds(a.temporary);
    int file = open_place(a.temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW);
    a.f = file < 0 ? NULL : fdopen(file, "wb");
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
    int held_here = place_of(path).directory, d = held_here == AT_FDCWD ? open(directory, O_RDONLY) : held_here;
    if (d >= 0) sync_file(d);
    if (d >= 0 && d != held_here) close(d);
    free(directory);
}

void atomic_close(AtomicFile *a) {
    if (fflush(a->f) != 0 || sync_file(fileno(a->f)) != 0) atomic_fail(a, "write", errno);
    FILE *f = a->f;
    a->f = NULL;
    if (fclose(f) != 0) atomic_fail(a, "write", errno);
    Place from = place_of(a->temporary), to = place_of(a->path);
    if (renameat(from.directory, from.name, to.directory, to.name) != 0) atomic_fail(a, "replace", errno);
    flush_directory_of(a->path);
    free(a->path);
    free(a->temporary);
}

bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static char *directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? xprintf("%.*s", (int)(slash - path + 1), path) : xprintf(".");
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool same_place(const char *a, const char *b) {
    char *x = directory_of(a), *y = directory_of(b);
    bool same = same_file(a, b) || (!strcmp(name_of(a), name_of(b)) && same_file(x, y));
    free(x), free(y);
    return same;
}

static bool begins_so(const char *path, const char *begins) {
    char found[16] = "";
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(found, 1, strlen(begins), f) : 0;
    if (f) fclose(f);
    return n == 0 || memcmp(found, begins, strlen(begins)) == 0;
}

void check_output(const char *flag, const char *path, const char *begins) {
    char *directory = directory_of(path);
    struct stat s;
    if (stat(path, &s) == 0 && S_ISDIR(s.st_mode)) fail("--%s %s is a directory; a file was expected", flag, path);
    refuse_other_kinds(path);
    if (access(directory, W_OK | X_OK) != 0) fail("--%s %s cannot be written: %s", flag, path, strerror(errno));
    if (begins && !begins_so(path, begins))
        fail("--%s %s is a file of another kind, which would be lost; remove it, or choose another name", flag, path);
    free(directory);
}

void write_whole_file(const char *path, const void *data, size_t bytes) {
    AtomicFile a = atomic_open(path);
    atomic_write(&a, data, bytes);
    atomic_close(&a);
}

// Opening a pipe waits for its other end, unless O_NONBLOCK, which files do not mind.
FILE *append_to_file(const char *path) {
    refuse_other_kinds(path);
    int file = open_place(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK);
    FILE *f = file < 0 ? NULL : fdopen(file, "ab");
    if (!f && errno == ELOOP) fail("%s is a link, and what it leads to is not written; remove it", path);
    if (!f) fail("cannot write %s: %s", path, strerror(errno));
    return f;
}

// ---- reading -----------------------------------------------------------------------------------
enum { LONGEST_STREAM = 64 << 20 };     // of a pipe or a device, which may never end

static bool may_never_end(FILE *f) {
    struct stat s;
    return fstat(fileno(f), &s) != 0 || !S_ISREG(s.st_mode);
}

static char *read_to_end(const char *path, FILE *f, size_t *bytes) {
    int error = 0;
    bool stream = may_never_end(f);
    size_t size = 0, capacity = 1 << 16;
    char *text = xmalloc(capacity);
    for (size_t got; !error && (got = fread(text + size, 1, capacity - size - 1, f)) > 0;) {
        size += got;
        if (stream && size > LONGEST_STREAM) error = EFBIG;
        else if (capacity - size < 2) text = xrealloc(text, capacity = size_mul(capacity, 2));
    }
    if (ferror(f)) error = errno;
    fclose(f);
    if (error) free(text);
    if (error == EFBIG) fail("%s is no file, and gives more than 64 MiB; give a file", path);
    if (error) fail("cannot read %s: %s", path, strerror(error));
    text[size] = '\0';
    if (bytes) *bytes = size;
    return text;
}

char *read_whole_file(const char *path, size_t *bytes) {
    int file = open_place(path, O_RDONLY);
    FILE *f = file < 0 ? NULL : fdopen(file, "rb");
    if (!f) fail("cannot read %s: %s", path, strerror(errno));
    return read_to_end(path, f, bytes);
}

char *read_regular_file(const char *path, size_t *bytes) {
    struct stat s = {0};
    int file = open_place(path, O_RDONLY | O_NONBLOCK);
    bool regular = file >= 0 && fstat(file, &s) == 0 && S_ISREG(s.st_mode);
    FILE *f = regular ? fdopen(file, "rb") : NULL;
    if (file >= 0 && !regular) fail("%s is %s, and a file was expected; move it away", path, kind_of(&s));
    if (!f) fail("cannot read %s: %s", path, strerror(errno));
    return read_to_end(path, f, bytes);
}

// ---- directories -------------------------------------------------------------------------------
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

// tier.c: see tier.h.
#include "infer/tier.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

static void refuse_memory(int file, const char *path) {
#ifdef __linux__
    enum { TMPFS = 0x01021994, RAMFS = 0x858458f6 - (1ll << 32) };       // statfs(2)
    struct statfs s;
    if (fstatfs(file, &s) == 0 && ((int)s.f_type == TMPFS || (int)s.f_type == RAMFS)) {
        unlink(path);
        fail("--kv-tier %s is on a file system in memory, where a tier costs nothing; name a file on a disk", path);
    }
#else
    (void)file, (void)path;
#endif
}

// A block is all that is wanted: what the system read ahead would be dropped before it is asked for.
static void read_no_further(int file) {
#ifdef __APPLE__
    fcntl(file, F_RDAHEAD, 0);
#else
    posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
#endif
}

// From now on a read of this part goes to the disk.
static void drop_pages(int file, size_t at, size_t bytes) {
#ifdef __APPLE__
    (void)at, (void)bytes;
    fcntl(file, F_NOCACHE, 1);
#else
    posix_fadvise(file, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
#endif
}

Tier *tier_open(const char *path, size_t places, size_t bytes) {
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) fail("--kv-tier %s cannot be made: %s; name a file that is not there yet", path, strerror(errno));
    refuse_memory(file, path);
    size_t step = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE));        // or a neighbour would keep a page
    int status = ftruncate(file, (off_t)size_mul(places, step)) ? errno : 0;
#ifdef __linux__
    if (!status) status = posix_fallocate(file, 0, (off_t)(places * step));
#endif
    unlink(path);
    if (status) fail("--kv-tier %s: no room for %zu blocks of %zu bytes: %s", path, places, bytes, strerror(status));
    read_no_further(file);
    Tier *t = xmalloc(sizeof *t);
    *t = (Tier){.file = file, .bytes = bytes, .step = step, .held = xmalloc(bytes)};
    return t;
}

void tier_close(Tier *t) {
    if (!t) return;
    close(t->file);
    free(t->held), free(t);
}

static void move(Tier *t, size_t place, bool writes) {
    for (size_t done = 0; done < t->bytes;) {
        off_t at = (off_t)(place * t->step + done);
        ssize_t n = writes ? pwrite(t->file, t->held + done, t->bytes - done, at)
                           : pread(t->file, t->held + done, t->bytes - done, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("--kv-tier: a block could not be %s: %s", writes ? "written" : "read back",
                         n ? strerror(errno) : "the file has been cut");
        done += (size_t)n;
    }
}

void tier_write(Tier *t, size_t place) {
    double start = seconds_now();
    move(t, place, true);
    if (sync_file(t->file)) fail("--kv-tier: a block could not be written: %s", strerror(errno));
    t->writing += seconds_now() - start, t->written += t->bytes;
    drop_pages(t->file, place * t->step, t->step);
}

void tier_read(Tier *t, size_t place) {
    drop_pages(t->file, place * t->step, t->step);
    double start = seconds_now();
    move(t, place, false);
    t->reading += seconds_now() - start, t->read += t->bytes;
}

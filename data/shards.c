// shards.c: tokens from .bin files.
//
//   llm.c     header of 256 little-endian 32-bit numbers: 20240520, 1, number of tokens; then 16-bit tokens,
//             or 20240801, 7, number of tokens; then 32-bit tokens (the Llama 3 variant)
//   nanoGPT   16-bit tokens without a header, known by the missing magic
#include "data/shards.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC_16 = 20240520, VERSION_16 = 1, MAGIC_32 = 20240801, VERSION_32 = 7, HEADER_BYTES = 1024 };
enum { PIECE = 1 << 20, MOST_TOKENS = 10000000 };

static uint32_t number_at(const unsigned char *p, size_t width) {
    uint32_t low = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    return width == 2 ? low : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// ---- reading -------------------------------------------------------------------------------------
static int open_shard(const char *path, struct stat *about) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, about) != 0) fail("cannot read %s: %s", path, strerror(errno));
    return file;
}

static void read_at(int file, const char *path, unsigned char *out, size_t bytes, size_t at) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(file, out + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("cannot read %s: %s", path, strerror(errno));
        if (n == 0) fail("%s became shorter while it was read", path);
        done += (size_t)n;
    }
}

// ---- opening -------------------------------------------------------------------------------------
// Other files of llm.c that end in .bin.
static void refuse_other_magic(const char *path, uint32_t magic) {
    static const struct { uint32_t magic; const char *what; } others[] = {
        {20240326, "a model"}, {20240328, "a tokenizer"}, {20240522, "an evaluation set"}, {20240527, "a state"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (magic == others[i].magic) fail("%s is %s of llm.c; a shard of tokens was expected", path, others[i].what);
}

static void check_headerless(Shard *s, const unsigned char *start, size_t bytes) {
    const char *about = files_foreign(s->path, start, bytes);
    if (about) fail("%s %s; a shard of tokens was expected", s->path, about);
    if (bytes >= 4) refuse_other_magic(s->path, number_at(start, 4));
    if (s->size % 2)
        fail("%s: 16-bit tokens take an even number of bytes, but the file has %zu; it is truncated or no shard",
             s->path, (size_t)s->size);
    s->header = 0, s->width = 2, s->count = s->size / 2;
}

static void check_header(Shard *s, const unsigned char *start) {
    if (s->size < HEADER_BYTES)
        fail("%s: a header of %d bytes was expected, but the file has %zu", s->path, HEADER_BYTES, (size_t)s->size);
    uint32_t magic = number_at(start, 4), version = number_at(start + 4, 4);
    uint32_t expected = magic == MAGIC_16 ? VERSION_16 : VERSION_32;
    if (version != expected)
        fail("%s: version %u was expected after the magic %u, found %u", s->path, expected, magic, version);
    s->header = HEADER_BYTES, s->width = magic == MAGIC_16 ? 2 : 4, s->count = number_at(start + 8, 4);
    size_t rest = s->size - HEADER_BYTES;
    if (rest / s->width != s->count || rest % s->width)
        fail("%s: its header announces %zu tokens of %zu bytes, but %zu bytes follow; it is truncated or damaged",
             s->path, s->count, s->width, rest);
}

// What a walk over all tokens finds: the largest, and those at even and odd places.
typedef struct { uint32_t largest[2]; } Walk;

static void walk_piece(Walk *w, const Shard *s, const unsigned char *piece, size_t from, size_t bytes) {
    size_t skip = from < s->header ? s->header - from : 0;
    for (size_t i = skip; i < bytes; i += s->width) {
        uint32_t token = number_at(piece + i, s->width), *largest = &w->largest[(from + i) / s->width % 2];
        if (token > *largest) *largest = token;
    }
}

// 32-bit tokens without a header, read as 16-bit ones: every second is the high half, 0 or hardly more.
static void refuse_wide(const Shard *s, const Walk *w) {
    bool zeros = w->largest[1] == 0 && w->largest[0] > 0, small = w->largest[1] < 16 && w->largest[0] > 4096;
    if (s->header || s->count < 16 || !(zeros || small)) return;
    fail("%s: every second of its 16-bit numbers is %s: it looks like tokens of 32 or 64 bits (NumPy's uint32, int64) "
         "without a header; write them as uint16, or with llm.c's header (docs/FORMATS.md)", s->path,
         zeros ? "0" : "below 16");
}

static void refuse_large(const Shard *s, uint32_t largest) {
    if (largest >= MOST_TOKENS)
        fail("%s: its largest token is %u; tokens below %d were expected, so it is damaged or no shard", s->path,
             largest, MOST_TOKENS);
}

// The hash of the pieces is that of the whole: all but the last have a multiple of 8 bytes.
static uint32_t walk(const Shard *s, int file, uint64_t *hash) {
    unsigned char *piece = xmalloc(smaller(PIECE, s->size));
    Walk w = {{0, 0}};
    for (size_t at = 0, n; at < s->size; at += n) {
        n = smaller(PIECE, s->size - at);
        read_at(file, s->path, piece, n, at);
        *hash = hash_bytes(*hash, piece, n);
        walk_piece(&w, s, piece, at, n);
    }
    free(piece);
    refuse_wide(s, &w);
    uint32_t largest = w.largest[0] > w.largest[1] ? w.largest[0] : w.largest[1];
    refuse_large(s, largest);
    return largest;
}

static uint32_t examine(Shard *s, uint64_t *hash) {
    struct stat about;
    unsigned char start[HEADER_BYTES];
    int file = open_shard(s->path, &about);
    s->size = (uint64_t)about.st_size, s->changed = (int64_t)about.st_mtime;
    if (!s->size) fail("%s is empty; tokens of 16 bits or an llm.c shard were expected", s->path);
    size_t n = smaller(sizeof start, s->size);
    read_at(file, s->path, start, n, 0);
    uint32_t magic = n >= 4 ? number_at(start, 4) : 0;
    if (magic == MAGIC_16 || magic == MAGIC_32) check_header(s, start);
    else check_headerless(s, start, n);
    uint32_t largest = walk(s, file, hash);
    close(file);
    return largest;
}

Shards shards_open(const Files *files, uint64_t *hash) {
    Shards all = {.shard = xmalloc(size_mul(files->count, sizeof *all.shard)), .shards = files->count};
    for (size_t i = 0; i < all.shards; i++) {
        Shard *s = &all.shard[i];
        *s = (Shard){.path = files->path[i], .first = all.count};
        uint32_t largest = examine(s, hash);
        if (s->width != all.shard[0].width)
            fail("%s has tokens of %zu bits, %s of %zu; they do not belong together", all.shard[0].path,
                 8 * all.shard[0].width, s->path, 8 * s->width);
        if (largest > all.largest) all.largest = largest;
        all.count += s->count;
    }
    return all;
}

void shards_free(Shards *s) {
    free(s->shard);
    *s = (Shards){0};
}

// ---- rows ----------------------------------------------------------------------------------------
// The file that holds token `at`.
static const Shard *shard_of(const Shards *s, size_t at) {
    size_t low = 0, high = s->shards;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->shard[middle].first <= at) low = middle;
        else high = middle;
    }
    return &s->shard[low];
}

static void read_tokens(const Shard *s, size_t at, size_t count, int *out) {
    struct stat now;
    int file = open_shard(s->path, &now);
    if ((uint64_t)now.st_size != s->size || (int64_t)now.st_mtime != s->changed)
        fail("%s has changed since this run began; start again with the file as it is to be", s->path);
    unsigned char *bytes = xmalloc(size_mul(count, s->width));
    read_at(file, s->path, bytes, count * s->width, s->header + (at - s->first) * s->width);
    for (size_t i = 0; i < count; i++) out[i] = (int)number_at(bytes + i * s->width, s->width);
    free(bytes);
    close(file);
}

void shards_read(const Shards *s, size_t at, size_t count, int *out) {
    while (count) {
        const Shard *here = shard_of(s, at);
        size_t n = smaller(count, here->first + here->count - at);
        read_tokens(here, at, n, out);
        at += n, out += n, count -= n;
    }
}

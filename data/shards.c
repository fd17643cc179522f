// shards.c: tokens from .bin files.
//
//   llm.c     header of 256 little-endian 32-bit numbers: 20240520, 1, number of tokens; then 16-bit tokens,
//             or 20240801, 7, number of tokens; then 32-bit tokens (the Llama 3 variant)
//   nanoGPT   16-bit tokens without a header, known by the missing magic
#include "data/shards.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
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

// What a walk over all tokens finds: the largest, and where there is no header to say what they are, signs of other
// types. [2]: at even and at odd places.
typedef struct {
    uint32_t largest[2], above[2];      // above: the largest but for 0xffff, the high half of a small negative number
    bool negative, floats, any_float;   // floats: all at odd places are 0 or the upper half of a plausible float32
    size_t byte[2][256];                // how often each byte is the first of a token, and the second
} Walk;

static void walk_types(Walk *w, const unsigned char *at, bool odd) {
    uint32_t token = number_at(at, 2), exponent = token & 0x7FFF;
    w->byte[0][at[0]]++, w->byte[1][at[1]]++;
    if (token != 0xFFFF && token > w->above[odd]) w->above[odd] = token;
    if (!odd) return;
    w->negative |= token == 0xFFFF;
    w->any_float |= exponent >= 0x2000 && exponent <= 0x4B00;
    w->floats &= token == 0 || (exponent >= 0x2000 && exponent <= 0x4B00);
}

static void walk_piece(Walk *w, const Shard *s, const unsigned char *piece, size_t from, size_t bytes) {
    size_t skip = from < s->header ? s->header - from : 0;
    for (size_t i = skip; i < bytes; i += s->width) {
        bool odd = (from + i) / s->width % 2;
        uint32_t token = number_at(piece + i, s->width);
        if (token > w->largest[odd]) w->largest[odd] = token;
        if (!s->header) walk_types(w, piece + i, odd);
    }
}

// ---- signs of other types --------------------------------------------------------------------------
// In 16-bit tokens of a text, even and odd places are alike, and a token's second byte is the more uniform the larger
// the vocabulary, but never more so than its first. What breaks that is read wrongly; a few tokens prove nothing.
enum { FEW = 16, SOME = 64, MANY = 1024 };

// 32-bit tokens: every second number is the high half, 0 or hardly more, or that of -1.
static const char *wide_sign(const Walk *w, size_t count) {
    bool aligned = count >= FEW && (count % 2 == 0);
    if (aligned && w->largest[1] == 0 && w->largest[0] > 0) return "every second of its 16-bit numbers is 0";
    if (aligned && w->largest[0] == 0 && w->largest[1] > 0) return "every second of its 16-bit numbers is 0";
    if (aligned && w->largest[1] < 16 && w->largest[0] > 4096) return "every second of its 16-bit numbers is below 16";
    if (count < SOME || count % 2) return NULL;
    uint32_t high = MOST_TOKENS >> 16;
    if (w->negative && w->above[1] <= high && (w->above[0] > 4096 || w->above[1] == 0) && w->above[0] > 0)
        return "every second of its 16-bit numbers is below 153 or the upper half of -1";
    return w->largest[1] <= high && w->largest[0] > 4096 ? "every second of its 16-bit numbers is below 153" : NULL;
}

typedef struct { double mean, repeats, difference; size_t largest; bool printable; } Bytes;   // of a place in a token

static Bytes bytes_at(const Walk *w, int place, size_t count) {
    Bytes b = {.printable = true};
    for (size_t v = 0; v < 256; v++) {
        double share = (double)w->byte[place][v] / (double)count, other = (double)w->byte[!place][v] / (double)count;
        b.mean += (double)v * share, b.repeats += share * share, b.difference += 0.5 * fabs(share - other);
        if (!w->byte[place][v]) continue;
        b.largest = v;
        b.printable &= (v >= ' ' && v < 0x7F) || v == '\n' || v == '\t' || v == '\r';
    }
    return b;
}

// Bytes as tokens: first and second ones are alike. So they are in 16-bit numbers that are all equally likely, whose
// bytes are spread evenly up to 0xff; no text's are.
static bool looks_like_bytes(const Bytes *one, const Bytes *two, size_t count) {
    if (count >= FEW && one->printable && two->printable) return true;
    return count >= 4 * MANY && one->difference < 0.1 && one->repeats > 0.006 && one->largest > 0;
}

static bool looks_swapped(const Bytes *one, const Bytes *two, size_t count) {
    if (count >= FEW && one->largest == 0 && two->largest > 0) return true;
    return count >= MANY && one->repeats > 2 * two->repeats && one->mean < 0.5 * two->mean;
}

static void refuse_other_type(const Shard *s, const Walk *w) {
    if (s->header || s->count < FEW) return;
    const char *sign = wide_sign(w, s->count), *type = "tokens of 32 or 64 bits (NumPy's uint32, int64)";
    Bytes one = bytes_at(w, 0, s->count), two = bytes_at(w, 1, s->count);
    bool floats = s->count >= SOME && s->count % 2 == 0 && w->floats && w->any_float;
    if (!sign && floats) sign = "every second of its 16-bit numbers is the upper half of a float", type = "float32";
    if (!sign && looks_like_bytes(&one, &two, s->count))
        sign = "the first and the second bytes of its 16-bit numbers are alike", type = "tokens of 8 bits (uint8)";
    if (!sign && looks_swapped(&one, &two, s->count))
        sign = "the first bytes of its 16-bit numbers are the high ones", type = "big-endian uint16";
    if (sign)
        fail("%s: %s: it looks like %s without a header; write them as little-endian uint16 (NumPy's '<u2'), or, if "
             "that is what they are, with llm.c's header (docs/FORMATS.md)", s->path, sign, type);
}

static void refuse_large(const Shard *s, uint32_t largest) {
    if (largest >= MOST_TOKENS)
        fail("%s: its largest token is %u; tokens below %d were expected, so it is damaged or no shard", s->path,
             largest, MOST_TOKENS);
}

// The hash of the pieces is that of the whole: all but the last have a multiple of 8 bytes.
static uint32_t walk(Shard *s, int file, uint64_t *hash) {
    unsigned char *piece = xmalloc(smaller(PIECE, s->size));
    Walk w = {.floats = true};
    for (size_t at = 0, n; at < s->size; at += n) {
        n = smaller(PIECE, s->size - at);
        read_at(file, s->path, piece, n, at);
        *hash = hash_bytes(*hash, piece, n);
        walk_piece(&w, s, piece, at, n);
    }
    free(piece);
    refuse_other_type(s, &w);
    uint32_t largest = w.largest[0] > w.largest[1] ? w.largest[0] : w.largest[1];
    refuse_large(s, largest);
    s->largest = largest;
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

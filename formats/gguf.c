// gguf.c: GGUF files. Not here: names of layers and what a key means (gguf_model.c).
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "kernels/codec.h"
#include "kernels/quant.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LEAST_KEY = 13, LEAST_TENSOR = 24, MAGIC_BYTES = 4, HEAD_BYTES = 24 };   // bytes of the shortest ones
static const char magic[MAGIC_BYTES + 1] = "GGUF";

// ---- types of tensors ----------------------------------------------------------------------------
// Data may lie at any address, so every number is copied out before it is looked at.
static void from_f32(real *out, const unsigned char *from, float scale, size_t n) {
    (void)scale;
    float x;
    for (size_t i = 0; i < n; i++) memcpy(&x, from + 4 * i, 4), out[i] = (real)x;
}
static void to_f32(unsigned char *to, const real *from, GgufRounding how, float scale, size_t n) {
    (void)how, (void)scale;
    float x;
    for (size_t i = 0; i < n; i++) x = (float)from[i], memcpy(to + 4 * i, &x, 4);
}
static void from_f64(real *out, const unsigned char *from, float scale, size_t n) {
    (void)scale;
    double x;
    for (size_t i = 0; i < n; i++) memcpy(&x, from + 8 * i, 8), out[i] = (real)x;
}
static void from_f16(real *out, const unsigned char *from, float scale, size_t n) {
    (void)scale;
    uint16_t x;
    for (size_t i = 0; i < n; i++) memcpy(&x, from + 2 * i, 2), out[i] = (real)codec_from_half(x);
}
static void to_f16(unsigned char *to, const real *from, GgufRounding how, float scale, size_t n) {
    (void)how, (void)scale;
    uint16_t x;
    for (size_t i = 0; i < n; i++) x = codec_half((double)from[i]), memcpy(to + 2 * i, &x, 2);
}
// bfloat16 is the upper half of a float.
static void from_bf16(real *out, const unsigned char *from, float scale, size_t n) {
    (void)scale;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[2 * i + 1] << 24 | (uint32_t)from[2 * i] << 16;
        float x;
        memcpy(&x, &bits, 4);
        out[i] = (real)x;
    }
}
static void to_bf16(unsigned char *to, const real *from, GgufRounding how, float scale, size_t n) {
    (void)how, (void)scale;
    uint16_t x;
    for (size_t i = 0; i < n; i++) x = safetensors_brain((double)from[i]), memcpy(to + 2 * i, &x, 2);
}

// The blocks of kernels/quant.h.
#define BLOCKS(blocks) \
    static void from_##blocks(real *out, const unsigned char *from, float scale, size_t n) { \
        quant_decode_rows(QUANT_##blocks, out, from, scale, 1, n); \
    } \
    static void to_##blocks(unsigned char *to, const real *from, GgufRounding how, float scale, size_t n) { \
        quant_encode_rows((Quant){QUANT_##blocks, (QuantMxScale)how.mx_scale, how.search}, to, scale, from, 1, n); \
    }
BLOCKS(q8_0)
BLOCKS(q4_0)
BLOCKS(int4)
BLOCKS(int4_full)
BLOCKS(mxfp4)
BLOCKS(nvfp4)

// Of two with one number the first is what a file is read as.
const GgufType gguf_types[] = {
    {0, "f32", 0, 1, 4, from_f32, to_f32, 0x1.fffffep127, false},
    {1, "f16", 1, 1, 2, from_f16, to_f16, 65504, false},
    {30, "bf16", 32, 1, 2, from_bf16, to_bf16, 0x1.fep127, false},
    {28, "f64", 0, 1, 8, from_f64, NULL, 0, false},
    {8, "q8_0", 7, 32, 34, from_q8_0, to_q8_0, 65504, false},
    {2, "q4_0", 2, 32, 18, from_q4_0, to_q4_0, 65504, false},
    {2, "int4", 2, 32, 18, from_int4, to_int4, 65504, false},
    {2, "int4_full", 2, 32, 18, from_int4_full, to_int4_full, 65504, false},
    {39, "mxfp4", 38, 32, 17, from_mxfp4, to_mxfp4, 0x1p127, false},
    {40, "nvfp4", 39, 64, 36, from_nvfp4, to_nvfp4, 0x1.fffffep127, true},
    {0, NULL, 0, 0, 0, NULL, NULL, 0, false},
};

// Names of types that are not read, for messages: number n of ggml's list.
static const char *const ggml_names[] = {
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32",
    "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8",
    "IQ4_NL_8_8", "MXFP4", "NVFP4",
};

const GgufType *gguf_type_named(const char *name) {
    for (const GgufType *t = gguf_types; t->name; t++)
        if (strcmp(t->name, name) == 0 && t->encode) return t;
    return NULL;
}

static const GgufType *type_numbered(uint32_t number) {
    for (const GgufType *t = gguf_types; t->name; t++)
        if (t->number == number) return t;
    return NULL;
}

// ---- reading -------------------------------------------------------------------------------------
static const size_t kind_bytes[GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct { Gguf *file; size_t at; const char *where; } Reading;   // where: the key or tensor that is read

// One line that names the file and the fault. What was read is given back first, as in safetensors.c.
static _Noreturn void damaged(Reading *r, const char *format, ...) PRINTF_LIKE(2, 3);
static _Noreturn void damaged(Reading *r, const char *format, ...) {
    char message[1024], path[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(path, sizeof path, "%s", r->file->path);
    gguf_close(r->file);
    fail("%s is not a sound GGUF file: %s; copy or download it again", path, message);
}

static size_t left(const Reading *r) { return r->file->size - r->at; }

static const unsigned char *take(Reading *r, size_t bytes) {
    if (bytes > left(r))
        damaged(r, "%s needs %zu byte%s at byte %zu, but the file ends at %zu", r->where, bytes, plural(bytes), r->at,
                r->file->size);
    r->at += bytes;
    return (const unsigned char *)r->file->bytes + r->at - bytes;
}

static uint32_t take_u32(Reading *r) {
    uint32_t x;
    memcpy(&x, take(r, sizeof x), sizeof x);
    return x;
}

// A size or a length, which no file can fill beyond SIZE_MAX.
static size_t take_size(Reading *r) {
    uint64_t x;
    memcpy(&x, take(r, sizeof x), sizeof x);
    return x > SIZE_MAX ? SIZE_MAX : (size_t)x;
}

static GgufText take_text(Reading *r) {
    size_t bytes = take_size(r);
    return (GgufText){(const char *)take(r, bytes), bytes};
}

static void read_value(Reading *r, GgufKey *k) {
    uint32_t kind = take_u32(r);
    k->kind = k->item = (GgufKind)kind, k->count = 1;
    if (kind == GGUF_ARRAY) kind = take_u32(r), k->item = (GgufKind)kind, k->count = take_size(r);
    if (kind >= GGUF_KINDS || kind == GGUF_ARRAY) damaged(r, "%s has the type %u, which is none", r->where, kind);
    if (kind != GGUF_STRING) {
        size_t bytes;
        if (__builtin_mul_overflow(k->count, kind_bytes[kind], &bytes)) bytes = SIZE_MAX;
        k->data = take(r, bytes);
        for (size_t i = 0; kind == GGUF_BOOL && i < k->count; i++)
            if (k->data[i] > 1) damaged(r, "%s is a truth value of %d", r->where, k->data[i]);
        return;
    }
    if (k->count > left(r) / 8) damaged(r, "%s claims %zu texts, more than the file has room for", r->where, k->count);
    k->text = xmalloc(size_mul(k->count + 1, sizeof *k->text));
    for (size_t i = 0; i < k->count; i++) k->text[i] = take_text(r);
}

static void read_key(Reading *r) {
    GgufKey *k = &r->file->key[r->file->keys++];
    r->where = "the name of a key";
    GgufText name = take_text(r);
    if (name.bytes == 0 || name.bytes > 200 || memchr(name.at, '\0', name.bytes))
        damaged(r, "a key's name has %zu bytes or a NUL among them", name.bytes);
    k->name = r->where = xprintf("%.*s", (int)name.bytes, name.at);
    read_value(r, k);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const GgufKey *)a)->name, ((const GgufKey *)b)->name);
}
static int by_name(const void *a, const void *b) {
    return strcmp(((const GgufTensor *)a)->name, ((const GgufTensor *)b)->name);
}

static void read_keys(Reading *r, size_t count) {
    Gguf *g = r->file;
    if (count > left(r) / LEAST_KEY) damaged(r, "its header claims %zu keys, more than the file has room for", count);
    g->key = xmalloc(size_mul(count + 1, sizeof *g->key));
    for (size_t i = 0; i < count; i++) read_key(r);
    qsort(g->key, g->keys, sizeof *g->key, by_key);
    for (size_t i = 1; i < g->keys; i++)
        if (by_key(&g->key[i - 1], &g->key[i]) == 0) damaged(r, "the key %s is there twice", g->key[i].name);
}

static void read_type(Reading *r, GgufTensor *t) {
    uint32_t number = take_u32(r);
    char *other = NULL;
    t->type = type_numbered(number);
    if (t->type) return;
    if (number < sizeof ggml_names / sizeof *ggml_names) other = xprintf("%s", ggml_names[number]);
    else other = xprintf("number %u", number);
    char known[256] = "";
    for (const GgufType *k = gguf_types; k->name; k++)
        if (type_numbered(k->number) == k)
            snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", k == gguf_types ? "" : ", ",
                     k->name);
    char *path = xprintf("%s", r->file->path), *name = xprintf("%s", t->name);
    gguf_close(r->file);
    fail("%s: tensor %s is of type %s; only %s are read", path, name, other, known);
}

// In bytes, or damaged.
static size_t read_shape(Reading *r, GgufTensor *t) {
    size_t rank = take_u32(r), bytes;
    if (rank == 0 || rank > GGUF_RANK) damaged(r, "tensor %s has %zu dimensions; 1 to 4 were expected", t->name, rank);
    t->rank = rank, t->elements = 1;
    for (size_t d = rank; d-- > 0;) {
        t->shape[d] = take_size(r);
        if (__builtin_mul_overflow(t->elements, t->shape[d], &t->elements))
            damaged(r, "the shape of tensor %s is larger than any memory", t->name);
    }
    read_type(r, t);
    if (t->shape[rank - 1] % t->type->block)
        damaged(r, "tensor %s: rows of %zu numbers are no whole blocks of %s, which have %zu", t->name,
                t->shape[rank - 1], t->type->name, t->type->block);
    if (__builtin_mul_overflow(t->elements / t->type->block, t->type->bytes, &bytes)) bytes = SIZE_MAX;
    return bytes;
}

// Tensors follow each other in the data as they do in the list, each at the next multiple of the alignment. Until all
// are read `data` is NULL: where the data begins is not known yet.
typedef struct { size_t begin, bytes; } Place;

static Place read_tensor(Reading *r, size_t begin) {
    GgufTensor *t = &r->file->tensor[r->file->tensors++];
    r->where = "the name of a tensor";
    GgufText name = take_text(r);
    if (name.bytes == 0 || name.bytes >= GGUF_NAME || memchr(name.at, '\0', name.bytes))
        damaged(r, "a tensor's name has %zu bytes; 1 to %d were expected, and no NUL", name.bytes, GGUF_NAME - 1);
    memcpy(t->name, name.at, name.bytes);
    r->where = "the entry of a tensor";
    size_t bytes = read_shape(r, t), offset = take_size(r);
    if (offset != begin)
        damaged(r, "tensor %s is at byte %zu of the data, where %zu was expected", t->name, offset, begin);
    return (Place){begin, bytes};
}

static void place_tensors(Reading *r, const Place *place, size_t alignment) {
    Gguf *g = r->file;
    size_t start = round_up(r->at, alignment), end = start;
    for (size_t i = 0; i < g->tensors; i++) {
        size_t at = start + place[i].begin;
        if (at > g->size || place[i].bytes > g->size - at)
            damaged(r, "tensor %s has %zu byte%s at byte %zu, but the file ends at %zu", g->tensor[i].name,
                    place[i].bytes, plural(place[i].bytes), at, g->size);
        g->tensor[i].data = (const unsigned char *)g->bytes + at;
        end = at + place[i].bytes;
    }
    if (g->tensors && g->size > end && g->size - end >= alignment)
        damaged(r, "%zu bytes follow the last tensor", g->size - end);
}

static size_t read_alignment(Reading *r) {
    const GgufKey *k = gguf_key(r->file, "general.alignment");
    if (!k) return GGUF_ALIGNMENT;
    double n = k->kind == GGUF_U32 ? gguf_number(k, 0) : 0;
    if (n < 1 || n > 1 << 20 || ((size_t)n & ((size_t)n - 1)))
        damaged(r, "general.alignment should be a power of two, up to 2^20, as u32");
    return (size_t)n;
}

static void read_tensors(Reading *r, size_t count) {
    Gguf *g = r->file;
    size_t alignment = read_alignment(r);
    if (count > left(r) / LEAST_TENSOR)
        damaged(r, "its header claims %zu tensors, more than the file has room for", count);
    g->tensor = xmalloc(size_mul(count + 1, sizeof *g->tensor));
    Place *place = xmalloc(size_mul(count + 1, sizeof *place));
    for (size_t i = 0, begin = 0; i < count; i++) {
        place[i] = read_tensor(r, begin);
        if (place[i].bytes > g->size || begin > g->size)
            damaged(r, "tensor %s needs %zu bytes, but the file has %zu", g->tensor[i].name, place[i].bytes, g->size);
        begin = round_up(begin + place[i].bytes, alignment);
    }
    place_tensors(r, place, alignment);
    free(place);
    qsort(g->tensor, g->tensors, sizeof *g->tensor, by_name);
    for (size_t i = 1; i < g->tensors; i++)
        if (by_name(&g->tensor[i - 1], &g->tensor[i]) == 0) damaged(r, "tensor %s is there twice", g->tensor[i].name);
}

bool gguf_is(const char *path) {
    char first[MAGIC_BYTES] = "";
    struct stat s;
    if (stat(path, &s) != 0 || !S_ISREG(s.st_mode)) return false;
    FILE *f = fopen(path, "rb");
    bool is = f && fread(first, 1, MAGIC_BYTES, f) == MAGIC_BYTES && memcmp(first, magic, MAGIC_BYTES) == 0;
    if (f) fclose(f);
    return is;
}

Gguf *gguf_open(const char *path) {
    Gguf *g = xmalloc(sizeof *g);
    Reading r = {.file = g, .where = "its header"};
    g->path = xprintf("%s", path);
    g->bytes = read_regular_file(path, &g->size);
    if (g->size < HEAD_BYTES || memcmp(g->bytes, magic, MAGIC_BYTES) != 0)
        damaged(&r, "it does not begin with GGUF and %d bytes more", HEAD_BYTES - MAGIC_BYTES);
    r.at = MAGIC_BYTES;
    uint32_t version = take_u32(&r);
    if (version != 2 && version != 3)
        damaged(&r, "its version is %u%s; 2 or 3 was expected", version,
                version && (version & 0xffff) == 0 ? ", big-endian" : "");
    size_t tensors = take_size(&r), keys = take_size(&r);
    read_keys(&r, keys);
    read_tensors(&r, tensors);
    return g;
}

void gguf_close(Gguf *g) {
    for (size_t i = 0; i < g->keys; i++) free((char *)g->key[i].name), free(g->key[i].text);
    free(g->key), free(g->tensor), free(g->bytes), free(g->path), free(g);
}

const GgufKey *gguf_key(const Gguf *g, const char *name) {
    return bsearch(&(GgufKey){.name = name}, g->key, g->keys, sizeof *g->key, by_key);
}

const GgufTensor *gguf_tensor(const Gguf *g, const char *name) {
    GgufTensor key;
    if (strlen(name) >= GGUF_NAME) return NULL;
    strcpy(key.name, name);
    return bsearch(&key, g->tensor, g->tensors, sizeof key, by_name);
}

#define AS(type) { type x; memcpy(&x, at, sizeof x); return (double)x; }
double gguf_number(const GgufKey *k, size_t i) {
    const unsigned char *at = k->data + i * kind_bytes[k->item];
    switch (k->item) {
    case GGUF_U8: case GGUF_BOOL: return *at;
    case GGUF_I8: AS(int8_t)
    case GGUF_U16: AS(uint16_t)
    case GGUF_I16: AS(int16_t)
    case GGUF_U32: AS(uint32_t)
    case GGUF_I32: AS(int32_t)
    case GGUF_U64: AS(uint64_t)
    case GGUF_I64: AS(int64_t)
    case GGUF_F32: AS(float)
    case GGUF_F64: AS(double)
    default: return 0;
    }
}

bool gguf_is_integer(const GgufKey *k) {
    static const unsigned integers = 1 << GGUF_U8 | 1 << GGUF_I8 | 1 << GGUF_U16 | 1 << GGUF_I16 | 1 << GGUF_U32 |
                                     1 << GGUF_I32 | 1 << GGUF_U64 | 1 << GGUF_I64;
    return integers >> k->item & 1;
}

bool gguf_is_count(const GgufKey *k) {
    bool good = gguf_is_integer(k);
    for (size_t i = 0; good && i < k->count; i++) good = gguf_number(k, i) >= 0;
    return good;
}

void gguf_copy(const GgufTensor *t, real *out, size_t first, size_t count, float scale) {
    t->type->decode(out, t->data + first / t->type->block * t->type->bytes, scale, count);
}

// ---- writing -------------------------------------------------------------------------------------
static void put(GgufHead *h, const void *data, size_t bytes) {
    if (h->used + bytes > h->room) h->bytes = xrealloc(h->bytes, h->room = 2 * (h->used + bytes) + 256);
    memcpy(h->bytes + h->used, data, bytes);
    h->used += bytes;
}

static void put_u32(GgufHead *h, uint32_t x) { put(h, &x, sizeof x); }
static void put_u64(GgufHead *h, uint64_t x) { put(h, &x, sizeof x); }

void gguf_add_text(GgufHead *h, const char *bytes, size_t length) {
    put_u64(h, length);
    put(h, bytes, length);
}

void gguf_add_int(GgufHead *h, int32_t value) { put(h, &value, sizeof value); }

static void begin(GgufHead *h, const char *name, GgufKind kind) {
    gguf_add_text(h, name, strlen(name));
    put_u32(h, kind);
    h->keys++;
}

void gguf_put_count(GgufHead *h, const char *name, size_t value) {
    if (value > UINT32_MAX) fail("%s is %zu, more than 32 bits can say", name, value);
    begin(h, name, GGUF_U32);
    put_u32(h, (uint32_t)value);
}

void gguf_put_real(GgufHead *h, const char *name, double value) {
    float x = (float)value;
    begin(h, name, GGUF_F32);
    put(h, &x, sizeof x);
}

void gguf_put_bool(GgufHead *h, const char *name, bool value) {
    begin(h, name, GGUF_BOOL);
    put(h, &(char){value}, 1);
}

void gguf_put_text(GgufHead *h, const char *name, const char *value) {
    begin(h, name, GGUF_STRING);
    gguf_add_text(h, value, strlen(value));
}

void gguf_begin_array(GgufHead *h, const char *name, GgufKind item, size_t count) {
    begin(h, name, GGUF_ARRAY);
    put_u32(h, item);
    put_u64(h, count);
}

static size_t elements_of(const GgufTensorOut *t) {
    size_t n = 1;
    for (size_t d = 0; d < t->rank; d++) n = size_mul(n, t->shape[d]);
    return n;
}

static size_t bytes_of(const GgufTensorOut *t) { return size_mul(elements_of(t) / t->type->block, t->type->bytes); }

static void pad(AtomicFile *file, size_t written) {
    static const char zeros[GGUF_ALIGNMENT];
    atomic_write(file, zeros, round_up(written, GGUF_ALIGNMENT) - written);
}

static void write_data(AtomicFile *file, const GgufTensorOut *t) {
    size_t columns = t->shape[t->rank - 1], row = columns / t->type->block * t->type->bytes, n = elements_of(t);
    size_t slice = t->rank > 2 ? n / t->shape[0] : n;
    unsigned char *bytes = xmalloc(row);
    for (size_t at = 0; at < n; at += columns) {
        t->type->encode(bytes, t->data + at, t->how, t->scale ? t->scale[at / slice] : 1, columns);
        atomic_write(file, bytes, row);
    }
    pad(file, bytes_of(t));
    free(bytes);
}

void gguf_write(const char *path, GgufHead *h, const GgufTensorOut *tensor, size_t count) {
    GgufHead all = {0};
    put(&all, magic, MAGIC_BYTES);
    put_u32(&all, 3);
    put_u64(&all, count), put_u64(&all, h->keys);
    put(&all, h->bytes, h->used);
    for (size_t i = 0, at = 0; i < count; i++) {
        const GgufTensorOut *t = &tensor[i];
        gguf_add_text(&all, t->name, strlen(t->name));
        put_u32(&all, (uint32_t)t->rank);
        for (size_t d = t->rank; d-- > 0;) put_u64(&all, t->shape[d]);
        put_u32(&all, t->type->number);
        put_u64(&all, at);
        at = round_up(size_add(at, bytes_of(t)), GGUF_ALIGNMENT);
    }
    AtomicFile file = atomic_open(path);
    atomic_write(&file, all.bytes, all.used);
    pad(&file, all.used);
    for (size_t i = 0; i < count; i++) write_data(&file, &tensor[i]);
    atomic_close(&file);
    free(all.bytes), free(h->bytes);
    *h = (GgufHead){0};
}

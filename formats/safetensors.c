// safetensors.c: safetensors files. A file is one JSON header that says where each tensor lies, then
// the tensors, one after the other. Not here: names of layers, Hugging Face's conventions (hf.c).
#include "formats/safetensors.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_LIMIT = 100 * 1000 * 1000, LENGTH_BYTES = 8, ALIGNMENT = 8 };

// ---- writing -----------------------------------------------------------------------------------
static size_t out_elements(const TensorOut *t) {
    size_t n = 1;
    for (size_t d = 0; d < t->rank; d++) n = size_mul(n, t->shape[d]);
    return n;
}

static size_t out_width(const TensorOut *t) {
    return t->brain ? sizeof(uint16_t) : t->wide ? sizeof *t->wide : sizeof *t->data;
}

static json_t *out_entry(const TensorOut *t, size_t begin, size_t end) {
    static const char *const dtype[] = {[2] = "BF16", [4] = "F32", [8] = "F64"};
    json_t *shape = json_array();
    for (size_t d = 0; d < t->rank; d++) json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype[out_width(t)], "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

static void set(const char *path, json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value) != 0)
        fail("%s: the name or the metadata %s is not UTF-8; nothing was written", path, key);
}

// The header as text, padded with spaces so that the data behind it is aligned. malloc'd.
static char *out_header(const char *path, const TensorOut *tensor, size_t count, const Metadata *meta, size_t metas) {
    json_t *header = json_object(), *about = json_object();
    set(path, about, "format", json_string("pt"));  // transformers refuses files without it
    for (size_t i = 0; i < metas; i++) set(path, about, meta[i].key, json_string(meta[i].value));
    set(path, header, "__metadata__", about);
    for (size_t i = 0, at = 0; i < count; i++) {
        size_t end = at + size_mul(out_elements(&tensor[i]), out_width(&tensor[i]));
        if (json_object_get(header, tensor[i].name))
            fail("%s: two tensors have the same name %s; nothing was written", path, tensor[i].name);
        set(path, header, tensor[i].name, out_entry(&tensor[i], at, end));
        at = end;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (!text) fail("%s: out of memory for its header", path);
    size_t length = strlen(text), padded = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    text = xrealloc(text, padded + 1);
    memset(text + length, ' ', padded - length);
    text[padded] = '\0';
    return text;
}

// bfloat16 is the upper half of a float. What is no float itself is first rounded to an odd one, which the second
// rounding then sees on the right side of every tie (Boldo and Melquiond 2008). A NaN stays one.
uint16_t safetensors_brain(double x) {
    float near = (float)x;
    uint32_t bits;
    memcpy(&bits, &near, sizeof bits);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    if ((double)near != x) bits = (bits - (fabs((double)near) > fabs(x))) | 1;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void write_brain(AtomicFile *file, const TensorOut *t) {
    enum { BLOCK = 4096 };
    uint16_t block[BLOCK];
    for (size_t at = 0, end = out_elements(t); at < end; at += BLOCK) {
        size_t n = smaller(end - at, BLOCK);
        for (size_t i = 0; i < n; i++)
            block[i] = safetensors_brain(t->wide ? t->wide[at + i] : (double)t->data[at + i]);
        atomic_write(file, block, n * sizeof *block);
    }
}

void safetensors_write(const char *path, const TensorOut *tensor, size_t count, const Metadata *meta, size_t metas) {
    char *header = out_header(path, tensor, count, meta, metas);
    uint64_t length = strlen(header);
    AtomicFile file = atomic_open(path);
    atomic_write(&file, &length, LENGTH_BYTES);
    atomic_write(&file, header, length);
    for (size_t i = 0; i < count; i++) {
        const TensorOut *t = &tensor[i];
        if (t->brain) write_brain(&file, t);
        else atomic_write(&file, t->wide ? (const void *)t->wide : t->data, out_elements(t) * out_width(t));
    }
    atomic_close(&file);
    free(header);
}

// ---- reading -----------------------------------------------------------------------------------
// Those of safetensors 0.8. A shape counts elements, of which two or more may share a byte.
static const struct { char name[12]; size_t bits; } dtypes[] = {
    {"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"U16", 16},    {"I16", 16},        {"U32", 32},
    {"I32", 32},    {"U64", 64},    {"I64", 64},    {"F16", 16},    {"BF16", 16},       {"F32", 32},
    {"F64", 64},    {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

static size_t dtype_bits(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return dtypes[i].bits;
    return 0;
}

typedef struct { SafeTensors *file; json_t *header; const char *advice; } Reading;

// One line that names the file and the fault. What was read is given back first: a fuzzer or a test
// survives the failure, and should not drown in it.
static _Noreturn void damaged(Reading *r, const char *format, ...) PRINTF_LIKE(2, 3);
static _Noreturn void damaged(Reading *r, const char *format, ...) {
    char message[1024], path[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(path, sizeof path, "%s", r->file->path);
    json_decref(r->header);
    safetensors_close(r->file);
    fail("%s is not a sound safetensors file: %s; %s", path, message, r->advice);
}

static size_t get_size(Reading *r, const char *name, const json_t *value, const char *what) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        damaged(r, "%s of tensor %.*s must be integers of at least 0", what, TENSOR_NAME, name);
    return (size_t)json_integer_value(value);
}

static void read_shape(Reading *r, TensorIn *t, const json_t *shape) {
    t->rank = json_array_size(shape);
    if (!json_is_array(shape)) damaged(r, "the shape of tensor %s must be an array of sizes", t->name);
    t->elements = 1;
    for (size_t d = 0; d < t->rank; d++) {
        size_t size = get_size(r, t->name, json_array_get(shape, d), "the shape");
        if (d < TENSOR_RANK) t->shape[d] = size;
        if (__builtin_mul_overflow(t->elements, size, &t->elements))
            damaged(r, "the shape of tensor %s is larger than any memory", t->name);
    }
}

static void read_offsets(Reading *r, TensorIn *t, const json_t *offsets, size_t data_start) {
    if (json_array_size(offsets) != 2) damaged(r, "data_offsets of tensor %s must be [begin, end]", t->name);
    size_t begin = get_size(r, t->name, json_array_get(offsets, 0), "data_offsets");
    size_t end = get_size(r, t->name, json_array_get(offsets, 1), "data_offsets");
    size_t available = r->file->size - data_start, bits;
    if (end < begin || end > available)
        damaged(r, "data_offsets of tensor %s are [%zu, %zu], but the data has %zu byte%s", t->name, begin, end,
                available, plural(available));
    bool huge = __builtin_mul_overflow(t->elements, dtype_bits(t->dtype), &bits);
    t->bytes = end - begin;
    if (huge || bits % 8 || bits / 8 != t->bytes)
        damaged(r, "tensor %s: dtype %s and %zu element%s do not fill its %zu byte%s", t->name, t->dtype, t->elements,
                plural(t->elements), t->bytes, plural(t->bytes));
    t->data = (const unsigned char *)r->file->bytes + data_start + begin;
}

static void read_tensor(Reading *r, const char *name, const json_t *entry, size_t data_start) {
    TensorIn *t = &r->file->tensor[r->file->count++];
    if (strlen(name) >= TENSOR_NAME)
        damaged(r, "a tensor's name has %zu bytes, more than %d", strlen(name), TENSOR_NAME - 1);
    strcpy(t->name, name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype || !dtype_bits(dtype))
        damaged(r, "tensor %s has dtype %.20s, which safetensors 0.8 does not know", name, dtype ? dtype : "(none)");
    strcpy(t->dtype, dtype);
    read_shape(r, t, json_object_get(entry, "shape"));
    read_offsets(r, t, json_object_get(entry, "data_offsets"), data_start);
}

static void read_metadata(Reading *r, json_t *about) {
    const char *key;
    json_t *value;
    SafeTensors *s = r->file;
    s->meta_key = xmalloc((json_object_size(about) + 1) * sizeof(char *));
    s->meta_value = xmalloc((json_object_size(about) + 1) * sizeof(char *));
    if (about && !json_is_object(about)) damaged(r, "__metadata__ must be an object of strings");
    json_object_foreach(about, key, value) {
        if (!json_is_string(value)) damaged(r, "__metadata__ must be an object of strings");
        s->meta_key[s->metas] = xprintf("%s", key);
        s->meta_value[s->metas++] = xprintf("%s", json_string_value(value));
    }
}

static int by_place(const void *a, const void *b) {
    const TensorIn *s = a, *t = b;
    if (s->data != t->data) return s->data < t->data ? -1 : 1;
    return (s->elements > 0) - (t->elements > 0);  // an empty tensor before the one that starts where it ends
}

static int by_name(const void *a, const void *b) {
    const TensorIn *s = a, *t = b;
    return strcmp(s->name, t->name);
}

// Every byte of the data belongs to exactly one tensor. Leaves the tensors sorted by name.
static void check_places(Reading *r, size_t data_start) {
    SafeTensors *s = r->file;
    qsort(s->tensor, s->count, sizeof *s->tensor, by_place);
    const unsigned char *start = (const unsigned char *)s->bytes + data_start, *at = start;
    for (size_t i = 0; i < s->count; i++) {
        const TensorIn *t = &s->tensor[i];
        if (t->data != at)
            damaged(r, "tensor %s starts at byte %zu of the data, where %zu was expected (a %s)", t->name,
                    (size_t)(t->data - start), (size_t)(at - start), t->data > at ? "hole" : "overlap");
        at += t->bytes;
    }
    const unsigned char *end = (const unsigned char *)s->bytes + s->size;
    if (at != end)
        damaged(r, "%zu byte%s after the last tensor", (size_t)(end - at), end - at == 1 ? " follows" : "s follow");
    qsort(s->tensor, s->count, sizeof *s->tensor, by_name);
}

static json_t *parse_header(Reading *r, size_t *data_start) {
    const SafeTensors *s = r->file;
    uint64_t length;
    if (s->size < LENGTH_BYTES) damaged(r, "it has %zu byte%s, too few for a header", s->size, plural(s->size));
    memcpy(&length, s->bytes, LENGTH_BYTES);
    if (length > HEADER_LIMIT || length > s->size - LENGTH_BYTES)
        damaged(r, "its header claims %llu bytes, but the file has %zu", (unsigned long long)length, s->size);
    const char *text = s->bytes + LENGTH_BYTES;
    if (length == 0 || text[0] != '{') damaged(r, "its header does not start with {");
    json_error_t error;
    json_t *header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!header) damaged(r, "its header: %s at byte %d", error.text, error.position);
    *data_start = LENGTH_BYTES + (size_t)length;
    return header;
}

SafeTensors *safetensors_open(const char *path) {
    return safetensors_open_advised(path, "copy or download it again");
}

SafeTensors *safetensors_open_advised(const char *path, const char *advice) {
    SafeTensors *s = xmalloc(sizeof *s);
    Reading r = {.file = s, .advice = advice};
    s->path = xprintf("%s", path);
    s->bytes = read_regular_file(path, &s->size);
    size_t data_start;
    r.header = parse_header(&r, &data_start);
    read_metadata(&r, json_object_get(r.header, "__metadata__"));
    s->tensor = xmalloc((json_object_size(r.header) + 1) * sizeof *s->tensor);
    const char *name;
    json_t *entry;
    json_object_foreach(r.header, name, entry)
        if (strcmp(name, "__metadata__") != 0) read_tensor(&r, name, entry, data_start);
    json_decref(r.header);
    r.header = NULL;
    check_places(&r, data_start);
    return s;
}

void safetensors_close(SafeTensors *s) {
    for (size_t i = 0; i < s->metas; i++) {
        free(s->meta_key[i]);
        free(s->meta_value[i]);
    }
    free(s->meta_key);
    free(s->meta_value);
    free(s->tensor);
    free(s->bytes);
    free(s->path);
    free(s);
}

const TensorIn *safetensors_find(const SafeTensors *s, const char *name) {
    TensorIn key;
    if (strlen(name) >= TENSOR_NAME) return NULL;
    strcpy(key.name, name);
    return bsearch(&key, s->tensor, s->count, sizeof key, by_name);
}

const char *safetensors_meta(const SafeTensors *s, const char *key) {
    for (size_t i = 0; i < s->metas; i++)
        if (strcmp(s->meta_key[i], key) == 0) return s->meta_value[i];
    return NULL;
}

// ---- conversion --------------------------------------------------------------------------------
// Data may lie at any address, so every element is copied out before it is looked at.
static double from_f64(const unsigned char *p) {
    double x;
    memcpy(&x, p, sizeof x);
    return x;
}

static double from_f32(const unsigned char *p) {
    float x;
    memcpy(&x, p, sizeof x);
    return x;
}

// bfloat16 is the upper half of a float.
static double from_bf16(const unsigned char *p) {
    uint32_t bits = (uint32_t)p[1] << 24 | (uint32_t)p[0] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// IEEE half: sign, 5 bits of exponent (bias 15), 10 of fraction. Exact in a float.
static double from_f16(const unsigned char *p) {
    unsigned bits = (unsigned)p[1] << 8 | p[0], exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x;
    if (exponent == 31) x = fraction ? NAN : INFINITY;
    else x = exponent ? ldexp(1024 + fraction, (int)exponent - 25) : ldexp(fraction, -24);
    return bits >> 15 ? -x : x;
}

typedef double Convert(const unsigned char *p);

static Convert *conversion_of(const SafeTensors *s, const TensorIn *t) {
    static const struct { const char *dtype; Convert *convert; } from[] = {
        {"F32", from_f32}, {"BF16", from_bf16}, {"F16", from_f16}, {"F64", from_f64},
    };
    size_t k = 0;
    while (k < 4 && strcmp(from[k].dtype, t->dtype) != 0) k++;
    if (k == 4)
        fail("%s: tensor %s has dtype %s; weights are read from F32, F16, BF16 or F64", s->path, t->name, t->dtype);
    return from[k].convert;
}

void safetensors_copy(const SafeTensors *s, const TensorIn *t, real *out) {
    Convert *convert = conversion_of(s, t);
    size_t bytes = dtype_bits(t->dtype) / 8;
    for (size_t i = 0; i < t->elements; i++) out[i] = (real)convert(t->data + i * bytes);
}

void safetensors_copy_wide(const SafeTensors *s, const TensorIn *t, double *out) {
    Convert *convert = conversion_of(s, t);
    size_t bytes = dtype_bits(t->dtype) / 8;
    for (size_t i = 0; i < t->elements; i++) out[i] = convert(t->data + i * bytes);
}

size_t safetensors_bytes(const TensorIn *t) { return t->elements * dtype_bits(t->dtype) / 8; }

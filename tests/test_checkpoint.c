// test_checkpoint.c: safetensors written and read back, every number format, and files damaged in every
// way we could think of. That the real safetensors package reads what we write is for tests/oracle.py.
#include "tests/test.h"
#include "formats/safetensors.h"
#include "lib/rng.h"
#include <stdlib.h>

static const char *const MAIN = sizeof(real) == 8 ? "F64" : "F32";

// A file with this header (as it stands, no padding) and `bytes` bytes of data, 0, 1, 2, ...
static const char *file_of(const char *header, size_t bytes) {
    const char *path = test_path("made.safetensors");
    uint64_t length = strlen(header);
    char *text = xmalloc(8 + length + bytes);
    memcpy(text, &length, 8);
    memcpy(text + 8, header, length);
    for (size_t i = 0; i < bytes; i++) text[8 + length + i] = (char)i;
    write_whole_file(path, text, 8 + length + bytes);
    free(text);
    return path;
}

// Not atomically: thousands of flushes to disk would take minutes.
static void write_quickly(const char *path, const char *text, size_t bytes) {
    remove(path);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(text, 1, bytes, f) == bytes && fclose(f) == 0, "cannot write %s", path);
}

static void open_and_close(void *path) { safetensors_close(safetensors_open(path)); }

// ---- round trip --------------------------------------------------------------------------------
static void test_round_trip(void) {
    real data[24], back[24];
    double wide[3] = {1.0 / 3, -1e-300, 7}, wide_back[24];
    for (int i = 0; i < 24; i++) data[i] = (real)(i * i) / 7;
    const TensorOut out[] = {
        {.name = "y.wide", .rank = 1, .shape = {3}, .wide = wide},
        {.name = "z.matrix", .rank = 2, .shape = {4, 6}, .data = data},
        {.name = "scalar", .rank = 0, .data = data + 5},
        {.name = "empty", .rank = 2, .shape = {0, 6}, .data = data},
        {.name = "four", .rank = 4, .shape = {2, 1, 3, 2}, .data = data},
        {.name = "a \"quoted\" name, \xc3\xa9", .rank = 1, .shape = {1}, .data = data + 7},
    };
    const Metadata meta[] = {{"digest", "0123"}, {"flags", "--attn \"mla\""}};
    const char *path = test_path("model.safetensors");
    safetensors_write(path, out, 6, meta, 2);
    SafeTensors *s = safetensors_open(path);
    CHECK(s->count == 6, "%zu tensors", s->count);
    CHECK(strcmp(safetensors_meta(s, "format"), "pt") == 0, "the format that transformers asks for");
    CHECK(strcmp(safetensors_meta(s, "flags"), "--attn \"mla\"") == 0, "%s", safetensors_meta(s, "flags"));
    CHECK(safetensors_meta(s, "absent") == NULL && safetensors_find(s, "absent") == NULL, "absent");
    for (int i = 0; i < 6; i++) {
        const TensorIn *t = safetensors_find(s, out[i].name);
        CHECK(t && t->rank == out[i].rank && strcmp(t->dtype, out[i].wide ? "F64" : MAIN) == 0, "%s", out[i].name);
        if (!t) continue;
        CHECK(memcmp(t->shape, out[i].shape, sizeof t->shape[0] * t->rank) == 0, "shape of %s", t->name);
        safetensors_copy(s, t, back);
        safetensors_copy_wide(s, t, wide_back);
        for (size_t e = 0; e < t->elements; e++) {
            double expected = out[i].wide ? wide[e] : (double)out[i].data[e];
            CHECK(wide_back[e] == expected && back[e] == (real)expected, "%s[%zu] is %g and %g, not %g", t->name, e,
                  wide_back[e], (double)back[e], expected);
        }
    }
    uint64_t length;
    memcpy(&length, s->bytes, 8);
    CHECK(length % 8 == 0 && s->bytes[8] == '{', "the data starts at a multiple of 8, not at %zu", 8 + (size_t)length);
    safetensors_close(s);
}

static void write_two_alike(void *path) {
    real x = 1;
    const TensorOut out[] = {{.name = "same", .data = &x}, {.name = "same", .data = &x}};
    safetensors_write(path, out, 2, NULL, 0);
}

static void write_to_nowhere(void *path) {
    (void)path;
    real x = 1;
    const TensorOut out = {.name = "x", .data = &x};
    safetensors_write("/nonexistent/x.safetensors", &out, 1, NULL, 0);
}

static void write_bad_text(void *path) {
    real x = 1;
    const TensorOut out = {.name = "x", .data = &x};
    safetensors_write(path, &out, 1, &(Metadata){"flags", "\xff\xfe"}, 1);
}

static void test_refused_writing(void) {
    char *path = (char *)test_path("refused.safetensors");
    CHECK(test_fails(1, "same name same", write_two_alike, path), "%s", test_message);
    CHECK(test_fails(1, "/nonexistent", write_to_nowhere, path), "%s", test_message);
    CHECK(test_fails(1, "flags is not UTF-8", write_bad_text, path), "%s", test_message);
    CHECK(!file_exists(path), "nothing was left behind");
}

// ---- number formats ----------------------------------------------------------------------------
// The data begins at an odd address on purpose.
static void test_formats(void) {
    static const char header[] =
        "{\"h\":{\"dtype\":\"F16\",\"shape\":[8],\"data_offsets\":[1,17]},\"b\":{\"dtype\":\"BF16\",\"shape\":[3],"
        "\"data_offsets\":[17,23]},\"f\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[23,27]},"
        "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[27,35]},\"u\":{\"dtype\":\"U8\",\"shape\":[1],"
        "\"data_offsets\":[0,1]}}";
    const uint16_t half[8] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x7c00, 0x7e00, 0x3555};
    const double half_is[8] = {1, -2, 65504, 0x1p-24, -1023 * 0x1p-24, INFINITY, NAN, 1365 * 0x1p-12};
    const uint16_t brain[3] = {0x3f80, 0xc040, 0x0001};
    const double brain_is[3] = {1, -3, 0x1p-133};
    float f = -1.5f;
    double d = 0.1;
    size_t bytes;
    char *text = read_whole_file(file_of(header, 35), &bytes);
    char *data = text + bytes - 35;
    memcpy(data + 1, half, 16), memcpy(data + 17, brain, 6), memcpy(data + 23, &f, 4), memcpy(data + 27, &d, 8);
    write_whole_file(test_path("formats.safetensors"), text, bytes);
    SafeTensors *s = safetensors_open(test_path("formats.safetensors"));
    real out[8];
    safetensors_copy(s, safetensors_find(s, "h"), out);
    for (int i = 0; i < 8; i++)
        CHECK((double)out[i] == half_is[i] || (isnan(out[i]) && isnan(half_is[i])), "half %04x is %g", half[i],
              (double)out[i]);
    safetensors_copy(s, safetensors_find(s, "b"), out);
    for (int i = 0; i < 3; i++) CHECK((double)out[i] == brain_is[i], "bfloat16 %04x is %g", brain[i], (double)out[i]);
    safetensors_copy(s, safetensors_find(s, "f"), out);
    safetensors_copy(s, safetensors_find(s, "d"), out + 1);
    CHECK(out[0] == (real)-1.5 && out[1] == (real)0.1, "float %g, double %g", (double)out[0], (double)out[1]);
    safetensors_close(s);
    free(text);
}

static void copy_integers(void *path) {
    SafeTensors *s = safetensors_open(path);
    real out[2];
    safetensors_copy(s, safetensors_find(s, "x"), out);
}

static void test_integers_are_no_weights(void) {
    const char *path = file_of("{\"x\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    CHECK(test_fails(1, "dtype I32", copy_integers, (void *)path), "%s", test_message);
}

// ---- damage ------------------------------------------------------------------------------------
#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_damaged_headers(void) {
    static const struct { const char *header; size_t data; const char *word; } bad[] = {
        {"", 0, "does not start with {"},
        {"[]", 0, "does not start with {"},
        {" {}", 0, "does not start with {"},
        {"{", 0, "at byte"},
        {"{} {}", 0, "at byte"},
        {"{\"x\":1e}", 0, "at byte"},
        {"{\"\xff\":1}", 0, "at byte"},
        {"{\"x\\u0000\":1}", 0, "at byte"},
        {"{\"x\":1}", 0, "dtype (none)"},
        {"{\"x\":{}}", 0, "dtype (none)"},
        {"{\"x\":{\"dtype\":7}}", 0, "dtype (none)"},
        {"{" TENSOR("x", "F33", "[1]", "[0,4]") "}", 4, "dtype F33"},
        {"{" TENSOR("x", "", "[1]", "[0,4]") "}", 4, "dtype"},
        {"{" TENSOR("x", "F32", "1", "[0,4]") "}", 4, "shape"},
        {"{" TENSOR("x", "F32", "[-1]", "[0,4]") "}", 4, "at least 0"},
        {"{" TENSOR("x", "F32", "[1.0]", "[0,4]") "}", 4, "integers"},
        {"{" TENSOR("x", "F32", "[\"1\"]", "[0,4]") "}", 4, "integers"},
        {"{" TENSOR("x", "F32", "[1,1,1,1,1,-1]", "[0,4]") "}", 4, "at least 0"},
        {"{" TENSOR("x", "F4", "[3]", "[0,1]") "}", 1, "do not fill"},
        {"{" TENSOR("x", "F4", "[3]", "[0,2]") "}", 2, "do not fill"},
        {"{" TENSOR("x", "F6_E2M3", "[2305843009213693952,3]", "[0,0]") "}", 0, "do not fill"},
        {"{" TENSOR("x", "F8_E4M3FNUZFNUZFNUZFNUZ", "[1]", "[0,1]") "}", 1, "dtype F8_E4M3FNUZFNUZFNUZF, which"},
        {"{" TENSOR("x", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "larger than any memory"},
        {"{" TENSOR("x", "F32", "[4611686018427387904]", "[0,0]") "}", 0, "do not fill"},
        {"{" TENSOR("x", "F32", "[99999999999999999999]", "[0,4]") "}", 4, "at byte"},
        {"{" TENSOR("x", "F32", "[1]", "[0]") "}", 4, "[begin, end]"},
        {"{" TENSOR("x", "F32", "[1]", "[0,4,8]") "}", 4, "[begin, end]"},
        {"{" TENSOR("x", "F32", "[1]", "[4,0]") "}", 4, "[4, 0]"},
        {"{" TENSOR("x", "F32", "[1]", "[-4,0]") "}", 4, "at least 0"},
        {"{" TENSOR("x", "F32", "[2]", "[0,8]") "}", 4, "data has 4 bytes"},
        {"{" TENSOR("x", "F32", "[1]", "[9223372036854775803,9223372036854775807]") "}", 4, "data has 4 bytes"},
        {"{" TENSOR("x", "F32", "[2]", "[0,4]") "}", 4, "do not fill"},
        {"{" TENSOR("x", "F16", "[1]", "[0,4]") "}", 4, "do not fill"},
        {"{" TENSOR("x", "F32", "[1]", "[4,8]") "}", 8, "hole"},
        {"{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("y", "F32", "[1]", "[8,12]") "}", 12, "hole"},
        {"{" TENSOR("x", "F32", "[2]", "[0,8]") "," TENSOR("y", "F32", "[2]", "[4,12]") "}", 12, "overlap"},
        {"{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("y", "F32", "[1]", "[0,4]") "}", 4, "overlap"},
        {"{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("x", "F32", "[1]", "[4,8]") "}", 8, "duplicate"},
        {"{" TENSOR("x", "F32", "[1]", "[0,4]") "}", 5, "1 byte follows"},
        {"{}", 3, "3 bytes follow"},
        {"{\"__metadata__\":[]}", 0, "object of strings"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "object of strings"},
        {"{\"a\\nb\":{\"dtype\":\"F33\"}}", 0, "a\\nb"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = file_of(bad[i].header, bad[i].data);
        CHECK(test_fails(1, bad[i].word, open_and_close, (void *)path), "%s: %s", bad[i].header, test_message);
        CHECK(strstr(test_message, "made.safetensors"), "the message names the file: %s", test_message);
    }
    open_and_close((void *)file_of("{}", 0));
    open_and_close(
        (void *)file_of("{" TENSOR("x", "F32", "[0,9]", "[4,4]") "," TENSOR("y", "F32", "[1]", "[0,4]") "}  ", 4));
}

static void test_long_names(void) {
    char header[512], name[256];
    for (size_t n = TENSOR_NAME - 1; n <= TENSOR_NAME; n++) {
        memset(name, 'n', n), name[n] = '\0';
        snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", name);
        void *path = (void *)file_of(header, 1);
        if (n < TENSOR_NAME) open_and_close(path);
        else CHECK(test_fails(1, "a tensor's name has 192 bytes", open_and_close, path), "%s", test_message);
    }
}

static const char *sound_file(size_t *bytes, char **text) {
    real data[12] = {0};
    const TensorOut out[] = {
        {.name = "layers.0.attn.q.weight", .rank = 2, .shape = {2, 3}, .data = data},
        {.name = "layers.0.attn.k.weight", .rank = 2, .shape = {3, 2}, .data = data},
    };
    const char *path = test_path("sound.safetensors");
    safetensors_write(path, out, 2, &(Metadata){"key", "value"}, 1);
    *text = read_whole_file(path, bytes);
    return path;
}

static void test_truncated(void) {
    size_t bytes;
    char *text;
    sound_file(&bytes, &text);
    void *path = (void *)test_path("cut.safetensors");
    for (size_t n = 0; n < bytes; n++) {
        write_quickly(path, text, n);
        CHECK(test_fails(1, "cut.safetensors", open_and_close, path), "the first %zu of %zu bytes: %s", n, bytes,
              test_message);
    }
    const uint64_t lengths[] = {bytes - 7, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (int i = 0; i < 5; i++) {
        memcpy(text, &lengths[i], 8);
        write_whole_file(path, text, bytes);
        CHECK(test_fails(1, "its header claims", open_and_close, path), "length %llu: %s",
              (unsigned long long)lengths[i], test_message);
    }
    CHECK(test_fails(1, "cannot read", open_and_close, (void *)test_path("absent")), "%s", test_message);
}

// Whatever a changed byte does, it is read or refused in one line, never a crash (see `make asan`).
static void test_flipped(void) {
    size_t bytes, refused = 0;
    char *text;
    sound_file(&bytes, &text);
    void *path = (void *)test_path("flipped.safetensors");
    Rng r = rng_stream(1, RNG_TEST, 1);
    for (int i = 0; i < 2000; i++) {
        char *changed = memcpy(xmalloc(bytes), text, bytes);
        for (uint32_t n = 1 + rng_below(&r, 3); n > 0; n--) changed[rng_below(&r, (uint32_t)bytes)] = (char)rng_u32(&r);
        write_quickly(path, changed, bytes);
        bool in_one_line = test_fails(1, "flipped.safetensors", open_and_close, path);
        bool read = strcmp(test_message, "(it did not fail)") == 0;
        CHECK(in_one_line || read, "%s", test_message);
        refused += !read;
        free(changed);
    }
    CHECK(refused > 1000, "only %zu of 2000 were refused, though most of the file is its header", refused);
}

// ---- what we do not compute with ---------------------------------------------------------------
static void copy_x(void *path) {
    SafeTensors *s = safetensors_open(path);
    static real out[64];
    safetensors_copy(s, safetensors_find(s, "x"), out);
}

// A tensor that nobody asks for may be of any kind; one that is asked for is named with it. As in safetensors 0.8.
static void test_dtypes(void) {
    static const struct { const char *name; size_t bits; bool weight; } all[] = {
        {"BOOL", 8, false},    {"F4", 4, false},       {"F6_E2M3", 6, false},     {"F6_E3M2", 6, false},
        {"U8", 8, false},      {"I8", 8, false},       {"F8_E5M2", 8, false},     {"F8_E4M3", 8, false},
        {"F8_E8M0", 8, false}, {"F8_E4M3FNUZ", 8, false}, {"F8_E5M2FNUZ", 8, false}, {"I16", 16, false},
        {"U16", 16, false},    {"F16", 16, true},      {"BF16", 16, true},        {"I32", 32, false},
        {"U32", 32, false},    {"F32", 32, true},      {"C64", 64, false},        {"F64", 64, true},
        {"I64", 64, false},    {"U64", 64, false}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t bytes = 12 * all[i].bits / 8;
        char *header = xprintf("{\"x\":{\"dtype\":\"%s\",\"shape\":[4,1,1,1,3,1],\"data_offsets\":[0,%zu]}}",
                               all[i].name, bytes), *says = xprintf("tensor x has dtype %s;", all[i].name);
        void *path = (void *)file_of(header, bytes);
        SafeTensors *s = safetensors_open(path);
        const TensorIn *x = safetensors_find(s, "x");
        CHECK(x && x->rank == 6 && x->elements == 12 && x->shape[0] == 4, "%s", header);
        safetensors_close(s);
        if (all[i].weight) copy_x(path);
        else CHECK(test_fails(1, says, copy_x, path), "%s: %s", header, test_message);
        free(header), free(says);
    }
}

// ---- rounding ----------------------------------------------------------------------------------
static double brain_value(unsigned bits) {
    uint32_t whole = bits << 16;
    float x;
    memcpy(&x, &whole, sizeof x);
    return (double)x;
}

// Between every two neighbours: both, their middle, and what lies closest to it on either side.
static void test_rounding(void) {
    for (unsigned b = 0; b < 0x7f80; b++) {
        double low = brain_value(b), high = b < 0x7f7f ? brain_value(b + 1) : 0x1p128, middle = (low + high) / 2;
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            double s = sign ? -1 : 1;
            unsigned at = safetensors_brain(s * low), below = safetensors_brain(s * nextafter(middle, 0)),
                     tie = safetensors_brain(s * middle), above = safetensors_brain(s * nextafter(middle, 0x1p200));
            CHECK(at == (sign | b) && below == (sign | b) && tie == (sign | (b + (b & 1))) && above == (sign | (b + 1)),
                  "%04x: %04x %04x %04x %04x", sign | b, at, below, tie, above);
        }
    }
    CHECK(safetensors_brain(INFINITY) == 0x7f80 && safetensors_brain(-1e300) == 0xff80, "infinities");
    CHECK(isnan(brain_value(safetensors_brain(NAN))) && isnan(brain_value(safetensors_brain(-NAN))), "not a number");
}

// Rounded tensors are half as long, whatever they are made from, and as many as a buffer holds or more.
static void test_written_rounded(void) {
    enum { N = 5001 };
    static real data[N], back[N];
    static double wide[3] = {1.0 / 3, -1e-300, 7};
    for (int i = 0; i < N; i++) data[i] = (real)(i - 77) / 7;
    const TensorOut out[] = {{.name = "wide", .rank = 1, .shape = {3}, .wide = wide, .brain = true},
                             {.name = "x", .rank = 2, .shape = {3, N / 3}, .data = data, .brain = true}};
    const char *path = test_path("rounded.safetensors");
    safetensors_write(path, out, 2, NULL, 0);
    SafeTensors *s = safetensors_open(path);
    for (int k = 0; k < 2; k++) {
        const TensorIn *t = safetensors_find(s, out[k].name);
        CHECK(t && !strcmp(t->dtype, "BF16") && t->bytes == 2 * t->elements, "%s", out[k].name);
        safetensors_copy(s, t, back);
        for (size_t i = 0; i < t->elements; i++) {
            double x = k ? (double)data[i] : wide[i];
            CHECK((double)back[i] == brain_value(safetensors_brain(x)), "%s[%zu] of %g", t->name, i, x);
        }
    }
    safetensors_close(s);
}

static const Test tests[] = {
    {"checkpoint/dtypes", "every dtype and rank of safetensors 0.8 is sound; what is no weight says so", test_dtypes},
    {"checkpoint/rounding", "bfloat16 is the nearest, ties to even: between all neighbours", test_rounding},
    {"checkpoint/rounded", "rounded tensors are written and read", test_written_rounded},
    {"checkpoint/round-trip", "what is written is read back: every rank, both widths, empty, metadata",
     test_round_trip},
    {"checkpoint/refused-writing", "duplicate names, bad text and a missing directory leave nothing behind",
     test_refused_writing},
    {"checkpoint/formats", "F16, BF16, F32 and F64 convert exactly, at any address", test_formats},
    {"checkpoint/integers", "integers are not weights", test_integers_are_no_weights},
    {"checkpoint/damaged-headers", "each kind of damage is one line that says what is wrong", test_damaged_headers},
    {"checkpoint/long-names", "a name is at most 191 bytes", test_long_names},
    {"checkpoint/truncated", "every prefix of a file, and every wrong length, is refused", test_truncated},
    {"checkpoint/flipped", "2000 files with changed bytes are read or refused, never a crash", test_flipped},
};
REGISTER_TESTS(tests)

// quant.c: see quant.h, whose table this file follows.
#include "kernels/quant.h"
#include "kernels/codec.h"
#include "lib/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 32, SUB_GROUP = 16, NV_BLOCK = 64, HALF = sizeof(uint16_t), E8M0_BIAS = 127 };
#define HALF_MOST 65504.f
#define FLOAT_MOST 0x1p127f               // with room for what is rounded up
#define E2M1_MOST 6.f
#define E4M3_MOST 448.f
#define E4M3_LEAST 0x1p-9f

// ---- names ---------------------------------------------------------------------------------------

#define NAME_OF(name) #name,
static const char *const names[] = {QUANT_FORMATS(NAME_OF)};
static const char *const mx_names[] = {QUANT_MX_SCALES(NAME_OF)};

const char *quant_name(QuantFormat format) { return names[format]; }
const char *quant_mx_name(QuantMxScale rule) { return mx_names[rule]; }

// Its place, or count.
static int find(const char *const *list, int count, const char *name) {
    int i = 0;
    while (i < count && strcmp(list[i], name) != 0) i++;
    return i;
}
bool quant_find(const char *name, QuantFormat *format) {
    int i = find(names, QUANT_FORMAT_COUNT, name);
    if (i < QUANT_FORMAT_COUNT) *format = (QuantFormat)i;
    return i < QUANT_FORMAT_COUNT;
}
bool quant_mx_find(const char *name, QuantMxScale *rule) {
    int i = find(mx_names, QUANT_MX_SCALE_COUNT, name);
    if (i < QUANT_MX_SCALE_COUNT) *rule = (QuantMxScale)i;
    return i < QUANT_MX_SCALE_COUNT;
}

// ---- sizes ---------------------------------------------------------------------------------------

static const struct { unsigned char numbers, bytes; } blocks[QUANT_FORMAT_COUNT] = {
    [QUANT_int8] = {1, 1},       [QUANT_q8_0] = {32, 34},      [QUANT_q4_0] = {32, 18},  [QUANT_int4] = {32, 18},
    [QUANT_int4_full] = {32, 18}, [QUANT_int4_asym] = {32, 18}, [QUANT_int3] = {32, 14}, [QUANT_int2] = {32, 10},
    [QUANT_ternary] = {32, 9},   [QUANT_mxfp4] = {32, 17},     [QUANT_nvfp4] = {64, 36}};

static size_t blocks_of(QuantFormat format, size_t columns) {
    return (columns + blocks[format].numbers - 1) / blocks[format].numbers;
}
size_t quant_block(QuantFormat format) { return blocks[format].numbers; }
size_t quant_row_bytes(QuantFormat format, size_t columns) {
    size_t count = blocks_of(format, columns);
    size_t more = format == QUANT_int8 ? sizeof(float) : format == QUANT_int4_asym ? (count + 1) / 2 : 0;
    return size_add(size_mul(count, blocks[format].bytes), more);
}
double quant_bits(QuantFormat format, size_t columns) {
    return 8 * (double)quant_row_bytes(format, columns) / (double)columns;
}

// ---- small floats --------------------------------------------------------------------------------

static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

// A number exactly between two codes goes to the even one: up to 0.25 is 0, from 0.75 on is 2, up to 2.5 is 4, ...
unsigned quant_e2m1(float x) {
    float size = fabsf(x);
    int code = (size > 0.25f) + (size >= 0.75f) + (size > 1.25f) + (size >= 1.75f) + (size > 2.5f) + (size >= 3.5f) +
               (size > 5);
    return (unsigned)code | (signbit(x) ? 8u : 0);
}
float quant_from_e2m1(unsigned code) { return code & 8 ? -e2m1[code & 7] : e2m1[code & 7]; }

// Four bits of exponent with a bias of 7, three of mantissa: a unit in the last place is 2^-9 below 2^-6.
unsigned quant_e4m3(float x) {
    int exponent;
    if (!(x < E4M3_MOST)) return 0x7e;
    if (x < 0x1p-6f) return (unsigned)rintf(x * 0x1p9f);                       // 8 is the smallest normal number
    double digits = rint(frexp((double)x, &exponent) * 16);                    // 8 .. 16
    return (unsigned)((exponent + 5) * 8 + (int)digits);                       // 16 carries into the exponent
}
float quant_from_e4m3(unsigned code) {
    unsigned exponent = code >> 3 & 15, digits = code & 7;
    return exponent ? ldexpf((float)(8 + digits), (int)exponent - 10) : (float)digits * E4M3_LEAST;
}

// Powers down to 2^-127, which is no normal number.
static float from_e8m0(unsigned e) { return ldexpf(1, (int)e - E8M0_BIAS); }

// From the bits: floor(log2(x)) is one too large just below most powers.
static unsigned e8m0_of(float amax, QuantMxScale rule) {
    uint32_t bits;
    float whole = rule == QUANT_MX_rceil ? amax / E2M1_MOST : amax;
    memcpy(&bits, &whole, sizeof bits);
    uint32_t digits = bits & 0x7fffff;
    int e = (int)(bits >> 23);
    if (rule == QUANT_MX_rceil) return (unsigned)e + (e ? digits > 0 : digits > 0x400000);   // 0x400000: 2^-127
    e -= 2;
    if (rule == QUANT_MX_even) e += digits >= 0x600000;
    return e < 0 ? 0 : (unsigned)e;
}

// ---- groups of 32 with a half in front -----------------------------------------------------------

// Codes are as in the table, but int4_asym's, which are q - z.
typedef struct { uint16_t half; int z; signed char q[GROUP]; } Group;

static float scale_of(const Group *g) { return (float)codec_from_half(g->half); }
static float meant(QuantFormat format, const Group *g, float d, size_t i) {
    return format == QUANT_int2 ? ((float)g->q[i] + 0.5f) * d : (float)g->q[i] * d;
}

static float amax_of(const float *x, size_t n) {
    float amax = 0;
    for (size_t i = 0; i < n; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    return amax;
}
static float largest_of(const float *x) {                  // with its sign
    float largest = x[0];
    for (size_t i = 1; i < GROUP; i++) largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    return largest;
}
static float mean_of(const float *x) {
    float sum = 0;
    for (size_t i = 0; i < GROUP; i++) sum += fabsf(x[i]);
    return sum / GROUP;
}
static float least_of(const float *x) {                    // 0 where none is negative
    float least = 0;
    for (size_t i = 0; i < GROUP; i++) least = x[i] < least ? x[i] : least;
    return least;
}
static float most_of(const float *x) {
    float most = 0;
    for (size_t i = 0; i < GROUP; i++) most = x[i] > most ? x[i] : most;
    return most;
}

static float rule_of(QuantFormat format, const float *x) {
    switch (format) {
    case QUANT_q8_0: return amax_of(x, GROUP) / 127;
    case QUANT_q4_0: return largest_of(x) / -8;
    case QUANT_int4: return amax_of(x, GROUP) / 7;
    case QUANT_int4_full: return amax_of(x, GROUP) / 7.5f;
    case QUANT_int4_asym: return (most_of(x) - least_of(x)) / 15;
    case QUANT_int3: return largest_of(x) / -4;
    case QUANT_int2: return amax_of(x, GROUP) / 1.5f;
    default: return mean_of(x);
    }
}

static int clamp(float x, int low, int high) { return x < (float)low ? low : x > (float)high ? high : (int)x; }

// d as stored; id is what ggml multiplies by.
static int code_of(QuantFormat format, float x, float d, float id, int z) {
    switch (format) {
    case QUANT_q8_0: return clamp(roundf(x * id), -127, 127);
    case QUANT_q4_0: return clamp(truncf(x * id + 8.5f), 0, 15) - 8;
    case QUANT_int4: return clamp(rintf(x / d), -7, 7);
    case QUANT_int4_full: return clamp(rintf(x / d), -8, 7);
    case QUANT_int4_asym: return clamp(rintf(x / d) + (float)z, 0, 15) - z;
    case QUANT_int3: return clamp(rintf(x / d), -4, 3);
    case QUANT_int2: return clamp(floorf(x / d), -2, 1);
    default: return clamp(rintf(x / d), -1, 1);
    }
}

// With the scale that is asked for; returns the squared error.
static double fit(Group *g, QuantFormat format, const float *x, float wanted) {
    bool raw = format == QUANT_q8_0 || format == QUANT_q4_0;
    g->half = codec_half((double)wanted);
    float d = scale_of(g), id = wanted < 0 || wanted > 0 ? 1 / wanted : 0;
    bool none = raw ? id == 0 || isinf(id) : d == 0;
    g->z = format == QUANT_int4_asym && !none ? clamp(rintf(-least_of(x) / d), 0, 15) : 0;
    double error = 0;
    for (size_t i = 0; i < GROUP; i++) {
        g->q[i] = (signed char)(none ? 0 : code_of(format, x[i], d, id, g->z));
        double off = (double)x[i] - (double)meant(format, g, d, i);
        error += off * off;
    }
    return error;
}

enum { SEARCH_FROM = 24, SEARCH_TO = 72, SEARCH_STEP = 2 };
static void fit_best(Group *g, QuantFormat format, const float *x) {
    float rule = rule_of(format, x), unit = rule / (format == QUANT_ternary ? 32 : 48);
    double least = fit(g, format, x, rule);
    for (int i = SEARCH_FROM; i <= SEARCH_TO; i += SEARCH_STEP) {
        Group other;
        float wanted = unit * (float)i;
        if (fabsf(wanted) > HALF_MOST) continue;
        double error = fit(&other, format, x, wanted);
        if (error < least) least = error, *g = other;
    }
}

// q plus an offset that makes it positive, `bits` bits each, numbers one after the other.
static void store_bits(unsigned char *to, const Group *g, size_t bits, int offset) {
    memset(to, 0, GROUP * bits / 8);
    for (size_t i = 0; i < GROUP; i++) {
        unsigned shifted = (unsigned)(g->q[i] + offset) << i * bits % 8;
        to[i * bits / 8] |= (unsigned char)shifted;
        if (shifted >> 8) to[i * bits / 8 + 1] |= (unsigned char)(shifted >> 8);
    }
}
static void load_bits(Group *g, const unsigned char *from, size_t bits, int offset) {
    for (size_t i = 0; i < GROUP; i++) {
        size_t byte = i * bits / 8, shift = i * bits % 8;
        unsigned two = from[byte] | (shift + bits > 8 ? (unsigned)from[byte + 1] << 8 : 0);
        g->q[i] = (signed char)((int)(two >> shift & ((1u << bits) - 1)) - offset);
    }
}

enum { TRITS = 5 };
static void store_trits(unsigned char *to, const Group *g) {
    for (size_t i = 0; i < GROUP; i += TRITS) {
        unsigned byte = 0;
        for (size_t k = smaller(TRITS, GROUP - i); k-- > 0;) byte = 3 * byte + (unsigned)(g->q[i + k] + 1);
        to[i / TRITS] = (unsigned char)byte;
    }
}
static void load_trits(Group *g, const unsigned char *from) {
    for (size_t i = 0; i < GROUP; i += TRITS) {
        unsigned byte = from[i / TRITS];
        for (size_t k = 0; k < smaller(TRITS, GROUP - i); k++, byte /= 3) g->q[i + k] = (signed char)(byte % 3 - 1);
    }
}

static void store_group(unsigned char *to, QuantFormat format, const Group *g) {
    memcpy(to, &g->half, HALF);
    to += HALF;
    if (format == QUANT_q8_0) memcpy(to, g->q, GROUP);
    else if (format == QUANT_int3) store_bits(to, g, 3, 4);
    else if (format == QUANT_int2) store_bits(to, g, 2, 2);
    else if (format == QUANT_ternary) store_trits(to, g);
    else
        for (size_t j = 0, offset = format == QUANT_int4_asym ? (size_t)g->z : 8; j < GROUP / 2; j++)
            to[j] = (unsigned char)((size_t)g->q[j] + offset + (((size_t)g->q[j + GROUP / 2] + offset) << 4));
}
static void load_group(Group *g, QuantFormat format, const unsigned char *from, int z) {
    memcpy(&g->half, from, HALF);
    from += HALF;
    if (format == QUANT_q8_0) memcpy(g->q, from, GROUP);
    else if (format == QUANT_int3) load_bits(g, from, 3, 4);
    else if (format == QUANT_int2) load_bits(g, from, 2, 2);
    else if (format == QUANT_ternary) load_trits(g, from);
    else
        for (int j = 0, offset = format == QUANT_int4_asym ? z : 8; j < GROUP / 2; j++) {
            g->q[j] = (signed char)((from[j] & 15) - offset);
            g->q[j + GROUP / 2] = (signed char)((from[j] >> 4) - offset);
        }
}

// ---- blocks of small floats ----------------------------------------------------------------------

// n codes, those of the first half low; returns the squared error. Multiplied by `by`; they mean `scale` each.
static double store_e2m1(unsigned char *to, const float *x, size_t n, float by, float scale) {
    double error = 0;
    memset(to, 0, n / 2);
    for (size_t i = 0; i < n; i++) {
        unsigned code = isfinite(by) ? quant_e2m1(x[i] * by) : signbit(x[i]) ? 8 : 0;
        to[i % (n / 2)] |= (unsigned char)(i < n / 2 ? code : code << 4);
        double off = (double)x[i] - (double)(quant_from_e2m1(code) * scale);
        error += off * off;
    }
    return error;
}
static void load_e2m1(float *x, const unsigned char *from, size_t n, float scale) {
    for (size_t i = 0; i < n; i++)
        x[i] = quant_from_e2m1((unsigned)(i < n / 2 ? from[i] & 15 : from[i - n / 2] >> 4)) * scale;
}

static double store_mx(unsigned char *to, const float *x, unsigned e) {
    to[0] = (unsigned char)e;
    return store_e2m1(to + 1, x, GROUP, ldexpf(1, E8M0_BIAS - (int)e), from_e8m0(e));
}
static void encode_mx(Quant q, unsigned char *to, const float *x) {
    float amax = amax_of(x, GROUP);
    if (!q.search) {
        store_mx(to, x, e8m0_of(amax, q.mx_scale));
        return;
    }
    unsigned char other[1 + GROUP / 2];
    unsigned e = e8m0_of(amax, QUANT_MX_floor);
    double least = store_mx(to, x, e);
    for (unsigned next = e ? e - 1 : 0; next <= e + 1; next++) {
        double error = store_mx(other, x, next);
        if (error < least) least = error, memcpy(to, other, sizeof other);
    }
}

// A sub-block: its scale and its codes lie apart.
static double store_nv(unsigned char *scale, unsigned char *codes, const float *x, float wanted, float tensor_scale) {
    *scale = (unsigned char)quant_e4m3(wanted < E4M3_LEAST ? E4M3_LEAST : wanted);
    float s = quant_from_e4m3(*scale);
    return store_e2m1(codes, x, SUB_GROUP, 1 / tensor_scale / s, s * tensor_scale);
}
static void encode_nv(Quant q, unsigned char *to, const float *x, float tensor_scale) {
    for (size_t b = 0; b < NV_BLOCK / SUB_GROUP; b++, x += SUB_GROUP) {
        unsigned char *codes = to + 4 + b * SUB_GROUP / 2, scale, other[SUB_GROUP / 2];
        float amax = amax_of(x, SUB_GROUP);
        double least = store_nv(to + b, codes, x, amax / E2M1_MOST / tensor_scale, tensor_scale);
        if (q.search && store_nv(&scale, other, x, amax / 4 / tensor_scale, tensor_scale) < least)
            to[b] = scale, memcpy(codes, other, sizeof other);
    }
}
static void decode_nv(float *x, const unsigned char *from, float tensor_scale) {
    for (size_t b = 0; b < NV_BLOCK / SUB_GROUP; b++)
        load_e2m1(x + b * SUB_GROUP, from + 4 + b * SUB_GROUP / 2, SUB_GROUP, quant_from_e4m3(from[b]) * tensor_scale);
}

// ---- rows ----------------------------------------------------------------------------------------

// A block of a row, its end filled up.
static void read_block(float *block, const real *x, size_t n, size_t from, size_t columns) {
    for (size_t i = 0; i < n; i++) block[i] = from + i < columns ? (float)x[from + i] : 0;
}
static void write_block(real *x, const float *block, size_t n, size_t from, size_t columns) {
    for (size_t i = 0; i < n && from + i < columns; i++) x[from + i] = (real)block[i];
}

static void encode_int8(unsigned char *to, const real *x, size_t columns) {
    float amax = 0;
    for (size_t k = 0; k < columns; k++) amax = fabsf((float)x[k]) > amax ? fabsf((float)x[k]) : amax;
    float d = amax / 127;
    memcpy(to, &d, sizeof d);
    for (size_t k = 0; k < columns; k++)
        to[sizeof d + k] = (unsigned char)(d > 0 ? clamp(rintf((float)x[k] / d), -127, 127) : 0);
}
static void decode_int8(real *x, const unsigned char *from, size_t columns) {
    float d;
    memcpy(&d, from, sizeof d);
    for (size_t k = 0; k < columns; k++) x[k] = (real)((float)(signed char)from[sizeof d + k] * d);
}

static void encode_row(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t columns) {
    size_t n = quant_block(q.format), count = blocks_of(q.format, columns);
    unsigned char *zeros = to + count * blocks[q.format].bytes;
    if (q.format == QUANT_int8) {
        encode_int8(to, x, columns);
        return;
    }
    if (q.format == QUANT_int4_asym) memset(zeros, 0, (count + 1) / 2);
    for (size_t b = 0; b < count; b++, to += blocks[q.format].bytes) {
        float block[NV_BLOCK];
        Group g;
        read_block(block, x, n, b * n, columns);
        if (q.format == QUANT_mxfp4) encode_mx(q, to, block);
        else if (q.format == QUANT_nvfp4) encode_nv(q, to, block, tensor_scale);
        else {
            if (q.search) fit_best(&g, q.format, block);
            else fit(&g, q.format, block, rule_of(q.format, block));
            store_group(to, q.format, &g);
            if (q.format == QUANT_int4_asym) zeros[b / 2] |= (unsigned char)(g.z << b % 2 * 4);
        }
    }
}

static void decode_row(QuantFormat format, real *x, const unsigned char *from, float tensor_scale, size_t columns) {
    size_t n = quant_block(format), count = blocks_of(format, columns);
    const unsigned char *zeros = from + count * blocks[format].bytes;
    if (format == QUANT_int8) {
        decode_int8(x, from, columns);
        return;
    }
    for (size_t b = 0; b < count; b++, from += blocks[format].bytes) {
        float block[NV_BLOCK];
        if (format == QUANT_mxfp4) load_e2m1(block, from + 1, GROUP, from_e8m0(from[0]));
        else if (format == QUANT_nvfp4) decode_nv(block, from, tensor_scale);
        else {
            Group g;
            load_group(&g, format, from, format == QUANT_int4_asym ? zeros[b / 2] >> b % 2 * 4 & 15 : 0);
            float d = scale_of(&g);
            for (size_t i = 0; i < GROUP; i++) block[i] = meant(format, &g, d, i);
        }
        write_block(x, block, n, b * n, columns);
    }
}

static bool has_half(QuantFormat f) { return f != QUANT_int8 && f != QUANT_mxfp4 && f != QUANT_nvfp4; }

// Alone in its thread, because fail() may not return.
static void check_numbers(QuantFormat format, float tensor_scale, const real *x, size_t rows, size_t columns) {
    float most = has_half(format) ? HALF_MOST : format == QUANT_nvfp4 ? E2M1_MOST * 464 * tensor_scale : FLOAT_MOST;
    if (!(tensor_scale > 0) || isinf(tensor_scale) || (format != QUANT_nvfp4 && tensor_scale > 1))
        fail("%s with a tensor scale of %g: only nvfp4 has one, above 0", quant_name(format), (double)tensor_scale);
    for (size_t i = 0; i < rows * columns; i++)
        if (!(fabsf((float)x[i]) <= most))
            fail("row %zu, column %zu is %g: %s holds finite numbers of at most %g", i / columns, i % columns,
                 (double)x[i], quant_name(format), (double)most);
}

float quant_tensor_scale(QuantFormat format, const real *x, size_t n) {
    float amax = 0;
    if (format != QUANT_nvfp4) return 1;
    for (size_t i = 0; i < n; i++) amax = fabsf((float)x[i]) > amax ? fabsf((float)x[i]) : amax;
    float scale = amax / (E4M3_MOST * E2M1_MOST);
    return scale > 0 && !isinf(scale) ? scale : 1;
}

void quant_encode_rows(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t rows, size_t columns) {
    size_t bytes = quant_row_bytes(q.format, columns);
    check_numbers(q.format, tensor_scale, x, rows, columns);
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) encode_row(q, to + r * bytes, tensor_scale, x + r * columns, columns);
}

void quant_decode_rows(QuantFormat format, real *x, const unsigned char *from, float tensor_scale, size_t rows,
                       size_t columns) {
    size_t bytes = quant_row_bytes(format, columns);
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) decode_row(format, x + r * columns, from + r * bytes, tensor_scale, columns);
}

void quant_round(Quant q, real *y, const real *x, size_t rows, size_t columns) {
    size_t bytes = quant_row_bytes(q.format, columns);
    float tensor_scale = quant_tensor_scale(q.format, x, rows * columns);
    check_numbers(q.format, tensor_scale, x, rows, columns);
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) {
        unsigned char few[4096], *held = bytes > sizeof few ? xmalloc(bytes) : few;
        encode_row(q, held, tensor_scale, x + r * columns, columns);
        decode_row(q.format, y + r * columns, held, tensor_scale, columns);
        if (held != few) free(held);
    }
}

// quant.c: see quant.h, whose table this file follows.
#include "kernels/quant.h"
#include "kernels/codec.h"
#include "lib/profile.h"
#include "lib/simd.h"
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

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A number exactly between two codes goes to the even one: up to 0.25 is 0, from 0.75 on is 2, up to 2.5 is 4, ...
INLINE unsigned e2m1_of(float x) {
    float size = fabsf(x);
    int code = (size > 0.25f) + (size >= 0.75f) + (size > 1.25f) + (size >= 1.75f) + (size > 2.5f) + (size >= 3.5f) +
               (size > 5);
    return (unsigned)code | (bits_of(x) >> 28 & 8);
}
// From the bits: two of exponent with a bias of 1, one of mantissa; without exponent it counts halves.
INLINE float from_e2m1(unsigned code) {
    uint32_t normal = ((code >> 1 & 3) + 126) << 23 | (code & 1) << 22, small = code & 1 ? 0x3f000000 : 0;
    return float_of((code & 6 ? normal : small) | (code & 8) << 28);
}
unsigned quant_e2m1(float x) { return e2m1_of(x); }
float quant_from_e2m1(unsigned code) { return from_e2m1(code); }

// Four bits of exponent with a bias of 7, three of mantissa: a unit in the last place is 2^-9 below 2^-6.
unsigned quant_e4m3(float x) {
    if (!(x < E4M3_MOST)) return 0x7e;
    if (x < 0x1p-6f) return (unsigned)rintf(x * 0x1p9f);                       // 8 is the smallest normal number
    uint32_t bits = bits_of(x);                                                // what is rounded up carries
    return ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (127 - 7) * 8;
}
float quant_from_e4m3(unsigned code) {
    unsigned exponent = code >> 3 & 15, digits = code & 7;
    return exponent ? float_of((exponent + 127 - 7) << 23 | digits << 20) : (float)digits * E4M3_LEAST;
}

// Powers down to 2^-127, which is no normal number.
static float from_e8m0(unsigned e) { return float_of(e ? e << 23 : 0x400000); }

// From the bits: floor(log2(x)) is one too large just below most powers.
static unsigned e8m0_of(float amax, QuantMxScale rule) {
    uint32_t bits = bits_of(rule == QUANT_MX_rceil ? amax / E2M1_MOST : amax);
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

typedef double Store(unsigned char *to, const float *x, size_t n, float by, float scale);
static double store_mx(unsigned char *to, const float *x, unsigned e, Store *store) {
    to[0] = (unsigned char)e;
    return store(to + 1, x, GROUP, from_e8m0(2 * E8M0_BIAS - e), from_e8m0(e));
}
static void encode_mx(Quant q, unsigned char *to, const float *x, Store *store) {
    float amax = amax_of(x, GROUP);
    if (!q.search) {
        store_mx(to, x, e8m0_of(amax, q.mx_scale), store);
        return;
    }
    unsigned char other[1 + GROUP / 2];
    unsigned e = e8m0_of(amax, QUANT_MX_floor);
    double least = store_mx(to, x, e, store);
    for (unsigned next = e ? e - 1 : 0; next <= e + 1; next++) {
        double error = store_mx(other, x, next, store);
        if (error < least) least = error, memcpy(to, other, sizeof other);
    }
}

// A sub-block: its scale and its codes lie apart.
static double store_nv(unsigned char *scale, unsigned char *codes, const float *x, float wanted, float tensor_scale,
                       Store *store) {
    *scale = (unsigned char)quant_e4m3(wanted < E4M3_LEAST ? E4M3_LEAST : wanted);
    float s = quant_from_e4m3(*scale);
    return store(codes, x, SUB_GROUP, 1 / tensor_scale / s, s * tensor_scale);
}
static void encode_nv(Quant q, unsigned char *to, const float *x, float tensor_scale, Store *store) {
    for (size_t b = 0; b < NV_BLOCK / SUB_GROUP; b++, x += SUB_GROUP) {
        unsigned char *codes = to + 4 + b * SUB_GROUP / 2, scale, other[SUB_GROUP / 2];
        float amax = amax_of(x, SUB_GROUP);
        double least = store_nv(to + b, codes, x, amax / E2M1_MOST / tensor_scale, tensor_scale, store);
        if (q.search && store_nv(&scale, other, x, amax / 4 / tensor_scale, tensor_scale, store) < least)
            to[b] = scale, memcpy(codes, other, sizeof other);
    }
}
static void decode_nv(float *x, const unsigned char *from, float tensor_scale) {
    for (size_t b = 0; b < NV_BLOCK / SUB_GROUP; b++)
        load_e2m1(x + b * SUB_GROUP, from + 4 + b * SUB_GROUP / 2, SUB_GROUP, quant_from_e4m3(from[b]) * tensor_scale);
}

// ---- the same, many numbers at a time ------------------------------------------------------------
// Loops over numbers, or over the scales of a search, that have no branch and no chain of additions, so that compilers
// make vectors of them. Their bits are those above, which tests/test_quant.c holds.

// Magnitudes are in the order of their bits.
INLINE uint32_t size_of(float x) { return bits_of(x) & 0x7fffffff; }
static uint32_t largest_size(const real *x, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) most = size_of((float)x[i]) > most ? size_of((float)x[i]) : most;
    return most;
}
static uint32_t largest_in(const float *x) {
    uint32_t most = 0;
    for (size_t i = 0; i < GROUP; i++) most = size_of(x[i]) > most ? size_of(x[i]) : most;
    return most;
}
static float signed_largest(const float *x) {
    uint32_t most = largest_in(x), first = GROUP - 1;
    for (uint32_t i = 0; i < GROUP; i++) {
        uint32_t at = size_of(x[i]) == most ? i : GROUP - 1;
        first = at < first ? at : first;
    }
    return x[first];
}
// So are numbers, when the digits of negative ones are turned round.
INLINE int32_t order_of(float x) { return (int32_t)bits_of(x) ^ (int32_t)((bits_of(x) >> 31) * 0x7fffffff); }
INLINE float from_order(int32_t order) {
    return float_of((uint32_t)order ^ ((uint32_t)order >> 31) * 0x7fffffff);
}
static void range_of(float range[2], const float *x) {
    int32_t least = 0, most = 0;
    for (size_t i = 0; i < GROUP; i++) {
        least = order_of(x[i]) < least ? order_of(x[i]) : least;
        most = order_of(x[i]) > most ? order_of(x[i]) : most;
    }
    range[0] = from_order(least), range[1] = from_order(most);
}

static float fast_rule(QuantFormat format, const float *x, const float range[2]) {
    switch (format) {
    case QUANT_q8_0: return float_of(largest_in(x)) / 127;
    case QUANT_q4_0: return signed_largest(x) / -8;
    case QUANT_int4: return float_of(largest_in(x)) / 7;
    case QUANT_int4_full: return float_of(largest_in(x)) / 7.5f;
    case QUANT_int4_asym: return (range[1] - range[0]) / 15;
    case QUANT_int3: return signed_largest(x) / -4;
    case QUANT_int2: return float_of(largest_in(x)) / 1.5f;
    default: return mean_of(x);
    }
}

// A half and back, of at most HALF_MOST. Below 2^-14 halves are steps of 2^-24, as floats from 0.5 to 1 are.
INLINE float through_half(float x) {
    uint32_t sign = bits_of(x) & 0x80000000, size = size_of(x);
    float small = (float_of(size) + 0.5f) - 0.5f;
    uint32_t large = (size + 0xfff + (size >> 13 & 1)) & ~(uint32_t)0x1fff;
    return float_of((size < 0x38800000 ? bits_of(small) : large) | sign);
}
INLINE float within(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
INLINE float floor_of(float x) {                           // by rint(), of which GCC makes vectors
    float whole = rintf(x);
    return whole - (whole > x ? 1.f : 0.f);
}
INLINE float half_away(float x) {
    float size = float_of(size_of(x)), whole = floor_of(size);
    whole += size - whole >= 0.5f ? 1.f : 0.f;
    return float_of(bits_of(whole) | (bits_of(x) & 0x80000000));
}

INLINE float fast_code(QuantFormat format, float x, float d, float id, float z) {
    switch (format) {
    case QUANT_q8_0: return within(half_away(x * id), -127, 127);
    case QUANT_q4_0: return floor_of(within(x * id + 8.5f, 0, 15.5f)) - 8;
    case QUANT_int4: return within(rintf(x / d), -7, 7);
    case QUANT_int4_full: return within(rintf(x / d), -8, 7);
    case QUANT_int4_asym: return within(rintf(x / d) + z, 0, 15) - z;
    case QUANT_int3: return within(rintf(x / d), -4, 3);
    case QUANT_int2: return floor_of(within(x / d, -2, 1.5f));
    default: return within(rintf(x / d), -1, 1);
    }
}
INLINE float fast_meant(QuantFormat format, float q, float d) { return (format == QUANT_int2 ? q + 0.5f : q) * d; }

// A scale: as stored, its reciprocal, the zero point; used: 0 where all codes are.
typedef struct { float d, id, z, used; } Scale;
INLINE Scale scale_for(QuantFormat format, float wanted, float least) {
    bool raw = format == QUANT_q8_0 || format == QUANT_q4_0;
    float d = through_half(wanted), id = 1 / (wanted == 0 ? 1 : wanted);
    bool none = raw ? wanted == 0 || size_of(id) == 0x7f800000 : d == 0;
    float by = d == 0 ? 1 : d, z = format == QUANT_int4_asym && !none ? within(rintf(-least / by), 0, 15) : 0;
    return (Scale){d, none ? 0 : id, z, none ? 0 : 1};
}

INLINE void take_scale(QuantFormat format, Group *g, const float *x, float wanted, float least) {
    Scale s = scale_for(format, wanted, least);
    float q[GROUP], by = s.d == 0 ? 1 : s.d;
    for (size_t i = 0; i < GROUP; i++) q[i] = fast_code(format, x[i], by, s.id, s.z) * s.used;
    for (size_t i = 0; i < GROUP; i++) g->q[i] = (signed char)(int)q[i];
    g->half = codec_half((double)wanted), g->z = (int)s.z;
}

// A candidate of the search in each lane. Number 0 is the rule's, the last ones repeat it.
enum { CANDIDATES = 32, STEPS = 1 + (SEARCH_TO - SEARCH_FROM) / SEARCH_STEP };
INLINE float best_of(QuantFormat format, const float *x, float rule, float least) {
    float wanted[CANDIDATES], d[CANDIDATES], by[CANDIDATES], id[CANDIDATES], z[CANDIDATES], used[CANDIDATES];
    float unit = rule / (format == QUANT_ternary ? 32 : 48);
    double error[CANDIDATES] = {0};
    size_t best = 0;
    for (int c = 0; c < CANDIDATES; c++)
        wanted[c] = c && c <= STEPS ? unit * (float)(SEARCH_FROM + (c - 1) * SEARCH_STEP) : rule;
    for (int c = 0; c < CANDIDATES; c++) wanted[c] = fabsf(wanted[c]) > HALF_MOST ? rule : wanted[c];
    for (size_t c = 0; c < CANDIDATES; c++) {
        Scale s = scale_for(format, wanted[c], least);
        d[c] = s.d, by[c] = s.d == 0 ? 1 : s.d, id[c] = s.id, z[c] = s.z, used[c] = s.used;
    }
    for (size_t i = 0; i < GROUP; i++)
        for (size_t c = 0; c < CANDIDATES; c++) {
            float q = fast_code(format, x[i], by[c], id[c], z[c]) * used[c];
            double off = (double)x[i] - (double)fast_meant(format, q, d[c]);
            error[c] += off * off;
        }
    for (size_t c = 1; c <= STEPS; c++) best = error[c] < error[best] ? c : best;
    return wanted[best];
}

#define FIT(name) \
    static void fit_##name(Group *g, bool search, const float *x) { \
        float range[2] = {0, 0}, wanted; \
        if (QUANT_##name == QUANT_int4_asym) range_of(range, x); \
        wanted = fast_rule(QUANT_##name, x, range); \
        if (search) wanted = best_of(QUANT_##name, x, wanted, range[0]); \
        take_scale(QUANT_##name, g, x, wanted, range[0]); \
    } \
    static void mean_##name(float *x, const Group *g) { \
        float d = scale_of(g); \
        for (size_t i = 0; i < GROUP; i++) x[i] = fast_meant(QUANT_##name, (float)g->q[i], d); \
    }
FIT(q8_0) FIT(q4_0) FIT(int4) FIT(int4_full) FIT(int4_asym) FIT(int3) FIT(int2) FIT(ternary)
static void (*const fits[QUANT_FORMAT_COUNT])(Group *g, bool search, const float *x) = {
    [QUANT_q8_0] = fit_q8_0, [QUANT_q4_0] = fit_q4_0, [QUANT_int4] = fit_int4, [QUANT_int4_full] = fit_int4_full,
    [QUANT_int4_asym] = fit_int4_asym, [QUANT_int3] = fit_int3, [QUANT_int2] = fit_int2, [QUANT_ternary] = fit_ternary};
static void (*const means[QUANT_FORMAT_COUNT])(float *x, const Group *g) = {
    [QUANT_q8_0] = mean_q8_0, [QUANT_q4_0] = mean_q4_0, [QUANT_int4] = mean_int4, [QUANT_int4_full] = mean_int4_full,
    [QUANT_int4_asym] = mean_int4_asym, [QUANT_int3] = mean_int3, [QUANT_int2] = mean_int2,
    [QUANT_ternary] = mean_ternary};

INLINE void e2m1_codes(unsigned char *code, const float *x, size_t n, float by) {
    bool finite = size_of(by) < 0x7f800000;
    for (size_t i = 0; i < n; i++) code[i] = (unsigned char)(finite ? e2m1_of(x[i] * by) : bits_of(x[i]) >> 28 & 8);
}
INLINE double fast_e2m1(unsigned char *to, const float *x, size_t n, float by, float scale) {
    unsigned char code[GROUP];
    double squared[GROUP], error = 0;
    e2m1_codes(code, x, n, by);
    for (size_t i = 0; i < n / 2; i++) to[i] = (unsigned char)(code[i] | code[n / 2 + i] << 4);
    for (size_t i = 0; i < n; i++) {
        double off = (double)x[i] - (double)(from_e2m1(code[i]) * scale);
        squared[i] = off * off;
    }
    for (size_t i = 0; i < n; i++) error += squared[i];
    return error;
}
static double store_fast(unsigned char *to, const float *x, size_t n, float by, float scale) {
    return n == GROUP ? fast_e2m1(to, x, GROUP, by, scale) : fast_e2m1(to, x, SUB_GROUP, by, scale);
}
// Without a search nobody asks for the error.
INLINE void just_e2m1(unsigned char *to, const float *x, size_t n, float by) {
    unsigned char code[GROUP];
    e2m1_codes(code, x, n, by);
    for (size_t i = 0; i < n / 2; i++) to[i] = (unsigned char)(code[i] | code[n / 2 + i] << 4);
}
static double store_plain(unsigned char *to, const float *x, size_t n, float by, float scale) {
    (void)scale;
    if (n == GROUP) just_e2m1(to, x, GROUP, by);
    else just_e2m1(to, x, SUB_GROUP, by);
    return 0;
}

// ---- rows ----------------------------------------------------------------------------------------

// A block of a row, its end filled up.
static void read_block(float *block, const real *x, size_t n, size_t from, size_t columns) {
    size_t there = smaller(n, columns - from);
    for (size_t i = 0; i < there; i++) block[i] = (float)x[from + i];
    for (size_t i = there; i < n; i++) block[i] = 0;
}
static void write_block(real *x, const float *block, size_t n, size_t from, size_t columns) {
    for (size_t i = 0, there = smaller(n, columns - from); i < there; i++) x[from + i] = (real)block[i];
}

static void encode_int8(unsigned char *to, const real *x, size_t columns) {
    float amax = 0;
    for (size_t k = 0; k < columns; k++) amax = fabsf((float)x[k]) > amax ? fabsf((float)x[k]) : amax;
    float d = amax / 127;
    memcpy(to, &d, sizeof d);
    for (size_t k = 0; k < columns; k++)
        to[sizeof d + k] = (unsigned char)(d > 0 ? clamp(rintf((float)x[k] / d), -127, 127) : 0);
}
INLINE float int8_code(real x, float by, float used) { return within(rintf((float)x / by), -127, 127) * used; }
static void fast_int8(unsigned char *to, const real *x, size_t columns) {
    float d = float_of(largest_size(x, columns)) / 127, by = d > 0 ? d : 1, used = d > 0 ? 1 : 0;
    memcpy(to, &d, sizeof d);
    for (size_t k = 0; k < columns; k++) to[sizeof d + k] = (unsigned char)(signed char)(int)int8_code(x[k], by, used);
}
static void decode_int8(real *x, const unsigned char *from, size_t columns) {
    float d;
    memcpy(&d, from, sizeof d);
    for (size_t k = 0; k < columns; k++) x[k] = (real)((float)(signed char)from[sizeof d + k] * d);
}

static void encode_row(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t columns, bool naive) {
    size_t n = quant_block(q.format), count = blocks_of(q.format, columns);
    unsigned char *zeros = to + count * blocks[q.format].bytes;
    Store *store = naive ? store_e2m1 : q.search ? store_fast : store_plain;
    if (q.format == QUANT_int8) {
        (naive ? encode_int8 : fast_int8)(to, x, columns);
        return;
    }
    if (q.format == QUANT_int4_asym) memset(zeros, 0, (count + 1) / 2);
    for (size_t b = 0; b < count; b++, to += blocks[q.format].bytes) {
        float block[NV_BLOCK];
        Group g;
        read_block(block, x, n, b * n, columns);
        if (q.format == QUANT_mxfp4) encode_mx(q, to, block, store);
        else if (q.format == QUANT_nvfp4) encode_nv(q, to, block, tensor_scale, store);
        else {
            if (!naive) fits[q.format](&g, q.search, block);
            else if (q.search) fit_best(&g, q.format, block);
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

// Of groups of 32: what comes back, without the bytes in between.
static void round_row(Quant q, real *y, const real *x, size_t columns) {
    for (size_t at = 0; at < columns; at += GROUP) {
        float block[GROUP];
        Group g;
        read_block(block, x, GROUP, at, columns);
        fits[q.format](&g, q.search, block);
        means[q.format](block, &g);
        write_block(y, block, GROUP, at, columns);
    }
}

// Twice what E2M1 codes mean is an integer, as twice q + 0.5 of int2 is.
static void integers_of_e2m1(signed char *q, const unsigned char *from, size_t n) {
    float x[GROUP];
    load_e2m1(x, from, n, 2);
    for (size_t i = 0; i < n; i++) q[i] = (signed char)x[i];
}
void quant_integers(signed char q[32], float unit[2], QuantFormat format, const unsigned char *row, size_t columns,
                    size_t g, float tensor_scale) {
    size_t bytes = blocks[format].bytes;
    if (format == QUANT_int8) {
        memcpy(unit, row, sizeof *unit);
        for (size_t i = 0; i < GROUP; i++)
            q[i] = g * GROUP + i < columns ? (signed char)row[sizeof *unit + g * GROUP + i] : 0;
        unit[1] = unit[0];
    } else if (format == QUANT_nvfp4) {
        const unsigned char *block = row + g / 2 * bytes;
        for (size_t b = 0; b < 2; b++) {
            size_t at = g % 2 * 2 + b;
            unit[b] = quant_from_e4m3(block[at]) * tensor_scale * 0.5f;
            integers_of_e2m1(q + b * SUB_GROUP, block + 4 + at * SUB_GROUP / 2, SUB_GROUP);
        }
    } else if (format == QUANT_mxfp4) {
        unit[0] = unit[1] = from_e8m0(row[g * bytes]) * 0.5f;
        integers_of_e2m1(q, row + g * bytes + 1, GROUP);
    } else {
        Group group;
        const unsigned char *zeros = row + blocks_of(format, columns) * bytes;
        load_group(&group, format, row + g * bytes, format == QUANT_int4_asym ? zeros[g / 2] >> g % 2 * 4 & 15 : 0);
        bool is_half = format == QUANT_int2;
        unit[0] = unit[1] = scale_of(&group) * (is_half ? 0.5f : 1);
        for (size_t i = 0; i < GROUP; i++) q[i] = (signed char)(is_half ? 2 * group.q[i] + 1 : group.q[i]);
    }
}

static bool has_half(QuantFormat f) { return f != QUANT_int8 && f != QUANT_mxfp4 && f != QUANT_nvfp4; }

static float limit_of(QuantFormat format, float tensor_scale) {
    return has_half(format) ? HALF_MOST : format == QUANT_nvfp4 ? E2M1_MOST * 464 * tensor_scale : FLOAT_MOST;
}

// Those of infinities and NaN are above all others. The scale of a tensor in nvfp4 is made for what it holds.
bool quant_holds(QuantFormat format, const real *x, size_t n, float times) {
    return largest_size(x, n) <= size_of((format == QUANT_nvfp4 ? FLOAT_MOST : limit_of(format, 1)) / times);
}

bool quant_fits(QuantFormat format, float tensor_scale, const real *x, size_t n) {
    return largest_size(x, n) <= size_of(limit_of(format, tensor_scale));     // infinities and NaN are above all others
}

// Alone in its thread, because fail() may not return.
static void check_numbers(QuantFormat format, float tensor_scale, const real *x, size_t rows, size_t columns) {
    float most = limit_of(format, tensor_scale);
    if (!(tensor_scale > 0) || isinf(tensor_scale) || (format != QUANT_nvfp4 && tensor_scale > 1))
        fail("%s with a tensor scale of %g: only nvfp4 has one, above 0", quant_name(format), (double)tensor_scale);
    if (quant_fits(format, tensor_scale, x, rows * columns)) return;
    for (size_t i = 0; i < rows * columns; i++)
        if (!(fabsf((float)x[i]) <= most))
            fail("row %zu, column %zu is %g: %s holds finite numbers of at most %g", i / columns, i % columns,
                 (double)x[i], quant_name(format), (double)most);
}

float quant_tensor_scale(QuantFormat format, const real *x, size_t n) {
    float amax = 0;
    if (format != QUANT_nvfp4) return 1;
    uint32_t most = largest_size(x, n);
    amax = most > 0x7f800000 ? 0 : float_of(most);
    float scale = amax / (E4M3_MOST * E2M1_MOST);
    return scale > 0 && !isinf(scale) ? scale : 1;
}

void quant_encode_rows(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t rows, size_t columns) {
    size_t bytes = quant_row_bytes(q.format, columns);
    check_numbers(q.format, tensor_scale, x, rows, columns);
    PROFILE(round, 0, rows * (columns + bytes / sizeof(real)));
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) encode_row(q, to + r * bytes, tensor_scale, x + r * columns, columns, false);
}
void quant_encode_rows_naive(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t rows,
                             size_t columns) {
    size_t bytes = quant_row_bytes(q.format, columns);
    check_numbers(q.format, tensor_scale, x, rows, columns);
    for (size_t r = 0; r < rows; r++) encode_row(q, to + r * bytes, tensor_scale, x + r * columns, columns, true);
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
    PROFILE(round, 0, 2 * rows * columns);
    PARALLEL_ROWS(rows, columns)
    for (size_t r = 0; r < rows; r++) {
        unsigned char few[4096], *held = bytes > sizeof few ? xmalloc(bytes) : few;
        if (fits[q.format]) round_row(q, y + r * columns, x + r * columns, columns);
        else {
            encode_row(q, held, tensor_scale, x + r * columns, columns, false);
            decode_row(q.format, y + r * columns, held, tensor_scale, columns);
        }
        if (held != few) free(held);
    }
}

// quant_matmul.c: see quant_matmul.h.
//
// A dot instruction multiplies unsigned by signed bytes, so weights are stored with a bias that makes them unsigned,
// and sums start at minus the bias times the sum of the activations: a subtraction per group and not one per weight.
#include "kernels/quant_matmul.h"
#include "lib/profile.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include <math.h>
#include <string.h>

enum {
    GROUP = 32,
    COLUMNS = LANES,                     // of a panel
    DEPTH = 4,                           // numbers of one column side by side
    SLICE = COLUMNS * DEPTH,             // bytes: one load
    BYTE_BIAS = 128, E2M1_BIAS = 12,     // what makes codes unsigned
    PREFETCH = 8192,                     // bytes ahead of a walk through memory: across pages, where hardware stops
    SMALL = 1 << 17,                     // multiply-adds below which waking the threads costs more than it gains
    WALK = 16,                           // rows up to which the walk through memory is what takes time, of whole bytes
    PAIR_ROWS = 5,                       // rows that go through two panels together
    UNPACKED = 4,                        // and of nibbles, which have to be unpacked
};

// ---- panels --------------------------------------------------------------------------------------

// What stands in a panel; the kernels are expanded once for each.
typedef enum { BYTES_ROW, BYTES_HALF, NIBBLES, NIBBLES_ZERO, NIBBLES_E8M0, NIBBLES_E4M3, KINDS } Kind;
static const struct { Kind kind; int bias; float unit; } packing[QUANT_FORMAT_COUNT] = {
    [QUANT_int8] = {BYTES_ROW, BYTE_BIAS, 1},   [QUANT_q8_0] = {BYTES_HALF, BYTE_BIAS, 1},
    [QUANT_q4_0] = {NIBBLES, 8, 1},             [QUANT_int4] = {NIBBLES, 8, 1},
    [QUANT_int4_full] = {NIBBLES, 8, 1},        [QUANT_int4_asym] = {NIBBLES_ZERO, 0, 1},
    [QUANT_int3] = {NIBBLES, 4, 1},             [QUANT_int2] = {NIBBLES, 3, 0.5f},
    [QUANT_ternary] = {NIBBLES, 1, 1},          [QUANT_mxfp4] = {NIBBLES_E8M0, E2M1_BIAS, 0.5f},
    [QUANT_nvfp4] = {NIBBLES_E4M3, E2M1_BIAS, 0.5f}};
// Bytes in front of a panel, of scales in front of a group, and of its codes.
static const struct { size_t row, scales, codes; } sizes[KINDS] = {
    {COLUMNS * sizeof(float), 0, GROUP * COLUMNS},                   {0, 2 * COLUMNS, GROUP * COLUMNS},
    {0, 2 * COLUMNS, GROUP * COLUMNS / 2},                           {0, 3 * COLUMNS, GROUP * COLUMNS / 2},
    {0, COLUMNS, GROUP * COLUMNS / 2},                               {0, 2 * COLUMNS, GROUP * COLUMNS / 2}};

static size_t groups_of(size_t K) { return (K + GROUP - 1) / GROUP; }
static size_t panels_of(size_t N) { return (N + COLUMNS - 1) / COLUMNS; }
static size_t panel_bytes(Kind kind, size_t K) {
    return sizes[kind].row + groups_of(K) * (sizes[kind].scales + sizes[kind].codes);
}
size_t quant_packed_bytes(QuantFormat format, size_t N, size_t K) {
    return size_mul(panels_of(N), panel_bytes(packing[format].kind, K));
}

static const signed char e2m1_twice[8] = {0, 1, 2, 3, 4, 6, 8, 12};
static unsigned char nibble_of(Kind kind, int q, int bias) {
    unsigned char code = 0;
    if (kind != NIBBLES_E8M0 && kind != NIBBLES_E4M3) return (unsigned char)(q + bias);
    while (e2m1_twice[code] != (q < 0 ? -q : q)) code++;
    return (unsigned char)(code | (q < 0 ? 8 : 0));
}

// Scales are copied from where quant.h says they stand, so that nothing is rounded again.
static int pack_scales(unsigned char *scales, QuantFormat format, const unsigned char *row, size_t K, size_t g,
                       size_t column) {
    size_t block = quant_block(format), bytes = quant_row_bytes(format, block);
    if (format == QUANT_nvfp4) {
        scales[column] = row[g / 2 * bytes + g % 2 * 2];
        scales[COLUMNS + column] = row[g / 2 * bytes + g % 2 * 2 + 1];
    } else if (format == QUANT_mxfp4) scales[column] = row[g * bytes];
    else if (format == QUANT_int4_asym) {
        enum { BLOCK = 18 };
        const unsigned char *zeros = row + groups_of(K) * BLOCK;
        memcpy(scales + 2 * column, row + g * BLOCK, 2);
        return scales[2 * COLUMNS + column] = zeros[g / 2] >> g % 2 * 4 & 15;
    } else if (format != QUANT_int8) memcpy(scales + 2 * column, row + g * bytes, 2);
    return 0;
}

static void pack_group(unsigned char *to, QuantFormat format, const unsigned char *row, size_t K, size_t g,
                       size_t column) {
    Kind kind = packing[format].kind;
    signed char q[GROUP];
    float unit[2];
    int bias = packing[format].bias + pack_scales(to, format, row, K, g, column);
    unsigned char *codes = to + sizes[kind].scales;
    quant_integers(q, unit, format, row, K, g, 1);
    for (size_t i = 0; i < GROUP; i++) {
        size_t slice = i / DEPTH, at = column * DEPTH + i % DEPTH;
        if (kind <= BYTES_HALF) codes[slice * SLICE + at] = (unsigned char)(q[i] + bias);
        else codes[slice / 2 * SLICE + at] |= (unsigned char)(nibble_of(kind, q[i], bias) << slice % 2 * 4);
    }
}

void quant_pack(unsigned char *packed, QuantFormat format, const unsigned char *rows, size_t N, size_t K) {
    Kind kind = packing[format].kind;
    size_t bytes = panel_bytes(kind, K), row_bytes = quant_row_bytes(format, K), group = sizes[kind].scales;
    group += sizes[kind].codes;
    PARALLEL_ROWS(panels_of(N), COLUMNS * K)
    for (size_t p = 0; p < panels_of(N); p++) {
        unsigned char *panel = packed + p * bytes;
        memset(panel, 0, bytes);                         // columns beyond N: scales of 0
        for (size_t j = 0; j < smaller(N - p * COLUMNS, COLUMNS); j++) {
            const unsigned char *row = rows + (p * COLUMNS + j) * row_bytes;
            if (kind == BYTES_ROW) memcpy(panel + j * sizeof(float), row, sizeof(float));
            for (size_t g = 0; g < groups_of(K); g++)
                pack_group(panel + sizes[kind].row + g * group, format, row, K, g, j);
        }
    }
}

// ---- activations ---------------------------------------------------------------------------------

size_t quant_rows_bytes(size_t M, size_t K) {
    return size_mul(M, size_mul(groups_of(K), GROUP + sizeof(float) + 2 * sizeof(int32_t)));
}

// Loops of a length that is known, without calls and jumps, so that compilers make vectors of them. Sizes are compared
// as integers, in the order of the numbers that they are the bits of; from INFINITE on they are of none.
INLINE void quantise_group(signed char *q, float *scale, int32_t sum[2], const real *x, size_t n, float limit) {
    enum { MAGNITUDE = 0x7fffffff, INFINITE = 0x7f800000 };
    float amax;
    uint32_t most = 0;
    real whole[GROUP], filled[GROUP] = {0};
    if (n < GROUP) x = memcpy(filled, x, n * sizeof *x);
    for (size_t i = 0; i < GROUP; i++) {
        float number = (float)x[i];
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        most = most > (bits & MAGNITUDE) ? most : bits & MAGNITUDE;
    }
    memcpy(&amax, &most, sizeof amax);
    float by = limit / amax;
    if (isinf(by)) by = amax = 0;                                     // smaller than 2^-121: no code can mean it
    *scale = amax / limit;
    if (most >= INFINITE) by = 0, *scale = NAN, x = memset(filled, 0, sizeof filled);
    for (size_t i = 0; i < GROUP; i++) whole[i] = (real)rintf((float)x[i] * by);
    for (size_t i = 0; i < GROUP; i++) q[i] = (signed char)(int32_t)whole[i];
    for (size_t half = 0; half < 2; half++) sum[half] = (int32_t)vec_sum(vec_load(whole + half * LANES));     // exact
}

QuantRows quant_rows_within(void *at, const real *x, size_t ldx, size_t M, size_t K, int most) {
    size_t groups = groups_of(K);
    PROFILE(quantise, 3 * M * K, M * K * 5 / 4);
    QuantRows r = {.M = M, .K = K, .groups = groups, .scale = at};
    r.sum = (int32_t *)(r.scale + M * groups), r.half = r.sum + M * groups;
    r.q = (signed char *)(r.half + M * groups);
    PARALLEL_ROWS(M, K)
    for (size_t m = 0; m < M; m++)
        for (size_t g = 0; g < groups; g++) {
            int32_t half[2];
            quantise_group(r.q + (m * groups + g) * GROUP, r.scale + g * M + m, half, x + m * ldx + g * GROUP,
                           smaller(K - g * GROUP, GROUP), (float)most);
            r.half[g * M + m] = half[0], r.sum[g * M + m] = half[0] + half[1];
        }
    return r;
}
QuantRows quant_rows(void *at, const real *x, size_t ldx, size_t M, size_t K) {
    return quant_rows_within(at, x, ldx, M, K, 127);
}

void quant_rows_meaning(real *y, size_t ldy, const QuantRows *r) {
    PARALLEL_ROWS(r->M, r->K)
    for (size_t m = 0; m < r->M; m++)
        for (size_t k = 0; k < r->K; k++) {
            size_t g = k / GROUP;
            y[m * ldy + k] = (real)r->q[(m * r->groups + g) * GROUP + k % GROUP] * (real)r->scale[g * r->M + m];
        }
}

// ---- 16 sums -------------------------------------------------------------------------------------
// Slice: 64 bytes, four of each column, as they are or as signed numbers for paths without a dot instruction.
// dot_bytes wants codes w + 128, dot_small codes of at most 24; both add to each column the products with four q.

#if !defined(SIMD_PLAIN) && defined(__AVX512VNNI__)
#define PATH "avx512 vnni"
#define DOT_INSTRUCTION
#define TILE_ROWS 8
#define PANELS 2
typedef __m512i Ints;
typedef __m512i Slice;
INLINE Ints ints_set(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vec ints_to_vec(Ints x) { return _mm512_cvtepi32_ps(x); }
INLINE Slice slice_load(const unsigned char *p) {
    Slice x = _mm512_loadu_si512(p);
    __asm__("" : "+v"(x));               // GCC 12 would load it again for each use
    return x;
}
INLINE Slice slice_low(Slice x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE Slice slice_high(Slice x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
INLINE Slice slice_look_up(Slice x, const unsigned char *table) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), x);
}
INLINE Ints four_of(const signed char *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}
INLINE Slice slice_signed(Slice x) { return x; }
INLINE int bytes_bias(int bias) { return bias; }
INLINE Ints dot_bytes(Ints sum, Slice w, const signed char *q) { return _mm512_dpbusd_epi32(sum, w, four_of(q)); }
INLINE Ints dot_small(Ints sum, Slice w, const signed char *q) { return _mm512_dpbusd_epi32(sum, w, four_of(q)); }

#elif !defined(SIMD_PLAIN) && defined(__AVX2__) && defined(__FMA__)
#define PATH "avx2"
#define TILE_ROWS 3
#define PANELS 1
typedef struct { __m256i a, b; } Ints;
typedef Ints Slice;
INLINE Ints ints_set(int32_t x) { return (Ints){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE vec ints_to_vec(Ints x) {
#ifdef __AVX512F__
    return _mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_castsi256_si512(x.a), x.b, 1));
#else
    return (vec){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
#endif
}
INLINE Slice slice_load(const unsigned char *p) {
    return (Slice){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE __m256i low_of(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE Slice slice_low(Slice x) { return (Slice){low_of(x.a), low_of(x.b)}; }
INLINE Slice slice_high(Slice x) {
    return (Slice){low_of(_mm256_srli_epi16(x.a, 4)), low_of(_mm256_srli_epi16(x.b, 4))};
}
INLINE Slice slice_look_up(Slice x, const unsigned char *table) {
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (Slice){_mm256_shuffle_epi8(t, x.a), _mm256_shuffle_epi8(t, x.b)};
}
INLINE __m256i four_of(const signed char *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}
// Unsigned by signed, two products in 16 bits, 2 * 24 * 127 at most; then two of those in 32.
INLINE __m256i dot8(__m256i sum, __m256i w, __m256i q) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, q), _mm256_set1_epi16(1)));
}
INLINE Ints dot_small(Ints sum, Slice w, const signed char *q) {
    __m256i four = four_of(q);
    return (Ints){dot8(sum.a, w.a, four), dot8(sum.b, w.b, four)};
}
// |w| by q with the sign of w: 2 * 128 * 127 < 2^15.
INLINE Slice slice_signed(Slice x) {
    __m256i bias = _mm256_set1_epi8((char)BYTE_BIAS);
    return (Slice){_mm256_xor_si256(x.a, bias), _mm256_xor_si256(x.b, bias)};
}
INLINE int bytes_bias(int bias) { return bias - BYTE_BIAS; }
INLINE Ints dot_bytes(Ints sum, Slice w, const signed char *q) {
    __m256i four = four_of(q);
    return (Ints){dot8(sum.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(four, w.a)),
                  dot8(sum.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(four, w.b))};
}

#elif !defined(SIMD_PLAIN) && defined(__aarch64__)
#ifdef __ARM_FEATURE_DOTPROD
#define PATH "neon dotprod"
#define DOT_INSTRUCTION
#else
#define PATH "neon"
#endif
#define TILE_ROWS 4
#define PANELS 1
typedef struct { int32x4_t v[4]; } Ints;
typedef struct { int8x16_t v[4]; } Slice;
#define EACH(type, expression) { type r; for (int i = 0; i < 4; i++) r.v[i] = expression; return r; }
INLINE Ints ints_set(int32_t x) EACH(Ints, vdupq_n_s32(x))
INLINE vec ints_to_vec(Ints x) {
    vec r;
    for (int i = 0; i < 4; i++) r.q[i] = vcvtq_f32_s32(x.v[i]);
    return r;
}
INLINE Slice slice_load(const unsigned char *p) EACH(Slice, vreinterpretq_s8_u8(vld1q_u8(p + 16 * i)))
INLINE Slice slice_low(Slice x) EACH(Slice, vandq_s8(x.v[i], vdupq_n_s8(15)))
INLINE Slice slice_high(Slice x)
    EACH(Slice, vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x.v[i]), 4)))
INLINE Slice slice_look_up(Slice x, const unsigned char *table)
    EACH(Slice, vqtbl1q_s8(vreinterpretq_s8_u8(vld1q_u8(table)), vreinterpretq_u8_s8(x.v[i])))
INLINE Slice slice_signed(Slice x) EACH(Slice, veorq_s8(x.v[i], vdupq_n_s8((int8_t)BYTE_BIAS)))
INLINE int bytes_bias(int bias) { return bias - BYTE_BIAS; }
INLINE int8x16_t four_of(const signed char *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
INLINE int32x4_t dot16(int32x4_t sum, int8x16_t w, int8x16_t q) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, w, q);
#else
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(q)));     // two of the four, of two columns
    int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(q)));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}
INLINE Ints dot_bytes(Ints sum, Slice w, const signed char *q) EACH(Ints, dot16(sum.v[i], w.v[i], four_of(q)))
INLINE Ints dot_small(Ints sum, Slice w, const signed char *q) { return dot_bytes(sum, w, q); }
#undef EACH

#else
#define PATH "plain"
#define TILE_ROWS 1
#define PANELS 1
typedef struct { int32_t lane[COLUMNS]; } Ints;
typedef struct { unsigned char byte[SLICE]; } Slice;
INLINE Ints ints_set(int32_t x) {
    Ints r;
    for (int i = 0; i < COLUMNS; i++) r.lane[i] = x;
    return r;
}
INLINE vec ints_to_vec(Ints x) {
    vec r;
    for (int i = 0; i < COLUMNS; i++) r.lane[i] = (real)x.lane[i];
    return r;
}
INLINE Slice slice_load(const unsigned char *p) {
    Slice r;
    memcpy(r.byte, p, SLICE);
    return r;
}
INLINE Slice slice_low(Slice x) {
    for (int i = 0; i < SLICE; i++) x.byte[i] &= 15;
    return x;
}
INLINE Slice slice_high(Slice x) {
    for (int i = 0; i < SLICE; i++) x.byte[i] >>= 4;
    return x;
}
INLINE Slice slice_look_up(Slice x, const unsigned char *table) {
    for (int i = 0; i < SLICE; i++) x.byte[i] = table[x.byte[i]];
    return x;
}
INLINE Slice slice_signed(Slice x) { return x; }
INLINE int bytes_bias(int bias) { return bias; }
INLINE Ints dot_small(Ints sum, Slice w, const signed char *q) {
    for (int i = 0; i < COLUMNS; i++)
        for (int k = 0; k < DEPTH; k++) sum.lane[i] += w.byte[i * DEPTH + k] * q[k];
    return sum;
}
INLINE Ints dot_bytes(Ints sum, Slice w, const signed char *q) { return dot_small(sum, w, q); }
#endif

const char *quant_product_path(void) { return PATH; }
int quant_dot_depth(void) {
#ifdef DOT_INSTRUCTION
    return DEPTH;
#else
    return 0;
#endif
}

// ---- scales --------------------------------------------------------------------------------------

// A half has the exponent and the digits of a float that is 2^112 times smaller, which may be a subnormal one.
INLINE vec load_halves(const unsigned char *p) {
#if !defined(SIMD_PLAIN) && defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif !defined(SIMD_PLAIN) && defined(__AVX2__) && defined(__F16C__)
    return (vec){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))};
#else
    uint16_t half[COLUMNS];
    real scale[COLUMNS];
    memcpy(half, p, sizeof half);
    for (int i = 0; i < COLUMNS; i++) {
        uint32_t bits = (uint32_t)(half[i] & 0x7fff) << 13;
        float size;
        memcpy(&size, &bits, sizeof size);
        size *= 0x1p112f;
        scale[i] = (real)(half[i] & 0x8000 ? -size : size);
    }
    return vec_load(scale);
#endif
}
INLINE vec load_floats(const unsigned char *p) {
    float from[COLUMNS];
    real scale[COLUMNS];
    memcpy(from, p, sizeof from);
    for (int i = 0; i < COLUMNS; i++) scale[i] = (real)from[i];
    return vec_load(scale);
}
INLINE vec load_bits(const uint32_t bits[COLUMNS]) {
    return load_floats((const unsigned char *)bits);
}
INLINE vec load_e8m0(const unsigned char *p) {             // halved, because codes are twice what they mean
    uint32_t bits[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
        uint32_t normal = (uint32_t)p[i] << 23;
        bits[i] = normal > 0x400000 ? normal : 0x400000;     // 2^-127
    }
    return vec_mul(load_bits(bits), vec_set((real)0.5));
}
INLINE vec load_e4m3(const unsigned char *p, float tensor_scale) {      // likewise
    uint32_t bits[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) bits[i] = (uint32_t)p[i] << 20;
    return vec_mul(vec_mul(vec_mul(load_bits(bits), vec_set((real)0x1p120f)), vec_set((real)tensor_scale)),
                   vec_set((real)0.5));
}
INLINE vec load_bytes(const unsigned char *p) {
    uint32_t whole[COLUMNS];
    real x[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) whole[i] = p[i];
    for (int i = 0; i < COLUMNS; i++) x[i] = (real)(int32_t)whole[i];
    return vec_load(x);
}

// ---- the micro-kernel ----------------------------------------------------------------------------

// Twice what E2M1 means, plus 12.
static const unsigned char e2m1_biased[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// Slices of a group, of panels that lie `next` bytes apart: `count` from `first`, two in a slice of nibbles.
INLINE void dot_slices(Ints sum[][TILE_ROWS], size_t rows, size_t panels, Kind kind, const unsigned char *codes,
                       size_t next, const signed char *q, size_t ldq, size_t first, size_t count) {
    Slice w[PANELS], high[PANELS];
    if (kind <= BYTES_HALF) {
#pragma GCC unroll 8
        for (size_t i = first; i < first + count; i++) {
            for (size_t p = 0; p < panels; p++) w[p] = slice_signed(slice_load(codes + p * next + i * SLICE));
            for (size_t r = 0; r < rows; r++)
                for (size_t p = 0; p < panels; p++) sum[p][r] = dot_bytes(sum[p][r], w[p], q + r * ldq + i * DEPTH);
        }
        return;
    }
#pragma GCC unroll 4
    for (size_t i = first; i < first + count; i += 2) {
        for (size_t p = 0; p < panels; p++) {
            Slice both = slice_load(codes + p * next + i / 2 * SLICE);
            w[p] = slice_low(both), high[p] = slice_high(both);
            if (kind < NIBBLES_E8M0) continue;
            w[p] = slice_look_up(w[p], e2m1_biased), high[p] = slice_look_up(high[p], e2m1_biased);
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t p = 0; p < panels; p++) sum[p][r] = dot_small(sum[p][r], w[p], q + r * ldq + i * DEPTH);
        for (size_t r = 0; r < rows; r++)
            for (size_t p = 0; p < panels; p++)
                sum[p][r] = dot_small(sum[p][r], high[p], q + r * ldq + (i + 1) * DEPTH);
    }
}

// Of a panel of which `left` bytes are left, or of the one that this tile reads after it, `skip` bytes further.
INLINE void prefetch(const unsigned char *at, size_t bytes, size_t left, size_t distance, size_t skip) {
    const unsigned char *soon = at + distance + (left <= distance ? skip : 0);
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(soon + i);
}

// A few rows of activations by one panel, or by two side by side, for which a number of activations is read once:
// y [rows, n]. `rows`, `panels` and `kind` are constants where this is expanded.
INLINE void micro_kernel(size_t rows, size_t panels, Kind kind, real *y, size_t ldy, size_t n, const QuantRows *x,
                         size_t m, const QuantWeight *w, const unsigned char *panel, const real *bias, bool ahead) {
    enum { SLICES = GROUP / DEPTH };
    size_t ldq = x->groups * GROUP, bytes = sizes[kind].scales + sizes[kind].codes, next = panel_bytes(kind, w->K);
    size_t parts = kind == NIBBLES_E4M3 ? 2 : 1;
    vec sum[PANELS][TILE_ROWS], unit[PANELS];
    int start = kind <= BYTES_HALF ? bytes_bias(packing[w->format].bias) : packing[w->format].bias;
    for (size_t p = 0; p < panels; p++) {
        unit[p] = kind == BYTES_ROW ? load_floats(panel + p * next) : vec_zero();
        for (size_t r = 0; r < rows; r++)
            sum[p][r] = bias ? vec_load_at(bias, p * COLUMNS, n) : vec_zero();
    }
    panel += sizes[kind].row;
    for (size_t g = 0; g < x->groups; g++, panel += bytes) {
        const signed char *q = x->q + m * ldq + g * GROUP;
        const int32_t *whole = x->sum + g * x->M + m, *half = x->half + g * x->M + m;
        const float *scale = x->scale + g * x->M + m;
        for (size_t p = 0; p < panels; p++) {
            const unsigned char *scales = panel + p * next;
            if (ahead) prefetch(scales, bytes, (x->groups - g) * bytes, PREFETCH / panels, (panels - 1) * next);
            if (kind == BYTES_HALF || kind == NIBBLES || kind == NIBBLES_ZERO) unit[p] = load_halves(scales);
            if (kind == NIBBLES) unit[p] = vec_mul(unit[p], vec_set((real)packing[w->format].unit));
            if (kind == NIBBLES_E8M0) unit[p] = load_e8m0(scales);
        }
        for (size_t part = 0; part < parts; part++) {
            Ints s[PANELS][TILE_ROWS];
            for (size_t p = 0; p < panels && kind == NIBBLES_E4M3; p++)
                unit[p] = load_e4m3(panel + p * next + part * COLUMNS, w->tensor_scale);
            for (size_t r = 0; r < rows; r++) {
                s[0][r] = ints_set(-start * (parts == 1 ? whole[r] : part ? whole[r] - half[r] : half[r]));
                for (size_t p = 1; p < panels; p++) s[p][r] = s[0][r];
            }
            dot_slices(s, rows, panels, kind, panel + sizes[kind].scales, next, q, ldq, part * SLICES / parts,
                       SLICES / parts);
            for (size_t r = 0; r < rows; r++) {
                vec d = vec_set((real)scale[r]);
                for (size_t p = 0; p < panels; p++) {
                    vec dot = ints_to_vec(s[p][r]);
                    if (kind == NIBBLES_ZERO)        // exact: all of it is below 2^24
                        dot = vec_fma(load_bytes(panel + p * next + 2 * COLUMNS), vec_set((real)-whole[r]), dot);
                    sum[p][r] = vec_fma(dot, vec_mul(unit[p], d), sum[p][r]);
                }
            }
        }
    }
    for (size_t p = 0; p < panels; p++)
        for (size_t r = 0; r < rows; r++) vec_store_at(y + r * ldy, p * COLUMNS, n, sum[p][r]);
}

typedef void Tile(real *y, size_t ldy, size_t n, const QuantRows *x, size_t m, const QuantWeight *w,
                  const unsigned char *panel, const real *bias, bool ahead);
#define TILE(rows, panels, kind)                                                                               \
    static void tile_##rows##_##panels##_##kind(real *y, size_t ldy, size_t n, const QuantRows *x, size_t m,   \
                                                const QuantWeight *w, const unsigned char *panel,              \
                                                const real *bias, bool ahead) {                                \
        micro_kernel(rows, panels, kind, y, ldy, n, x, m, w, panel, bias, ahead);                              \
    }
#define TILES(rows, panels)                                                                 \
    TILE(rows, panels, BYTES_ROW) TILE(rows, panels, BYTES_HALF) TILE(rows, panels, NIBBLES) \
    TILE(rows, panels, NIBBLES_ZERO) TILE(rows, panels, NIBBLES_E8M0) TILE(rows, panels, NIBBLES_E4M3)
#define TILE_LIST(rows, panels)                                                                                 \
    {tile_##rows##_##panels##_BYTES_ROW, tile_##rows##_##panels##_BYTES_HALF, tile_##rows##_##panels##_NIBBLES, \
     tile_##rows##_##panels##_NIBBLES_ZERO, tile_##rows##_##panels##_NIBBLES_E8M0,                              \
     tile_##rows##_##panels##_NIBBLES_E4M3}
#define ROWS_1(panels) TILES(1, panels)
#define ROWS_3(panels) ROWS_1(panels) TILES(2, panels) TILES(3, panels)
#define ROWS_4(panels) ROWS_3(panels) TILES(4, panels)
#define ROWS_5(panels) ROWS_4(panels) TILES(5, panels)
#define ROWS_8(panels) ROWS_5(panels) TILES(6, panels) TILES(7, panels) TILES(8, panels)
#define LISTS_1(panels) {0}, TILE_LIST(1, panels)
#define LISTS_3(panels) LISTS_1(panels), TILE_LIST(2, panels), TILE_LIST(3, panels)
#define LISTS_4(panels) LISTS_3(panels), TILE_LIST(4, panels)
#define LISTS_5(panels) LISTS_4(panels), TILE_LIST(5, panels)
#define LISTS_8(panels) LISTS_5(panels), TILE_LIST(6, panels), TILE_LIST(7, panels), TILE_LIST(8, panels)
#define JOIN(a, b) a##b
#define UP_TO(what, rows, panels) JOIN(what, rows)(panels)
UP_TO(ROWS_, TILE_ROWS, 1)
#if PANELS > 1
ROWS_5(2)
#endif
static Tile *const tiles[PANELS][TILE_ROWS + 1][KINDS] = {
    {UP_TO(LISTS_, TILE_ROWS, 1)},
#if PANELS > 1
    {LISTS_5(2)},
#endif
};

// The rows of activations go by while the panels are in the cache, in tiles of about the same size.
static void tile_panels(const QuantProduct *p, size_t panel, size_t panels) {
    const QuantWeight *w = p->w;
    Kind kind = packing[w->format].kind;
    size_t column = panel * COLUMNS, n = smaller(w->N - column, panels * COLUMNS);
    size_t most = panels == 1 ? TILE_ROWS : PAIR_ROWS, count = (p->M + most - 1) / most;
    for (size_t m = 0, rows; m < p->M; m += rows, count--) {
        rows = (p->M - m + count - 1) / count;
        tiles[panels - 1][rows][kind](p->y + m * p->ldy + column, p->ldy, n, p->x, p->first + m, w,
                                      w->packed + panel * panel_bytes(kind, w->K), p->bias ? p->bias + column : NULL,
                                      m == 0);
    }
}

// Two panels together, where there are two, and rows enough that reading activations and unpacking weights is what
// takes time, not the walk through memory.
static void panels_product(const QuantProduct *p, size_t first) {
    size_t count = smaller(panels_of(p->w->N) - first, PANELS);
    if (count == 2 && p->M >= (packing[p->w->format].kind <= BYTES_HALF ? WALK + 1 : UNPACKED))
        tile_panels(p, first, 2);
    else for (size_t i = 0; i < count; i++) tile_panels(p, first + i, 1);
}

// Threads own panels. The guided schedule hands out ever shorter ranges of them, so that they end together although the
// memory does not serve them alike.
void quant_products(const QuantProduct *p, size_t count) {
    size_t work = 0, rows = 0, outputs = 0, bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const QuantWeight *w = p[i].w;
        work += p[i].M * w->N * w->K, rows += p[i].M * w->K, outputs += p[i].M * w->N;
        bytes += p[i].M ? panels_of(w->N) * panel_bytes(packing[w->format].kind, w->K) : 0;
    }
    PROFILE(linear_forward, 2 * work, outputs + (rows + bytes) / sizeof(real));
#pragma omp parallel if (work > SMALL)
    for (size_t i = 0; i < count; i++) {
#pragma omp for schedule(guided) nowait
        for (size_t panel = 0; panel < panels_of(p[i].w->N); panel += PANELS) panels_product(&p[i], panel);
    }
}
void quant_product(real *y, size_t ldy, const QuantRows *x, const QuantWeight *w, const real *bias) {
    quant_products(&(QuantProduct){y, ldy, x, 0, x->M, w, bias}, 1);
}

// ---- the reference -------------------------------------------------------------------------------

static real chain(const real *x, const unsigned char *row, QuantFormat format, float tensor_scale, size_t K,
                  real start) {
    size_t sub = format == QUANT_nvfp4 ? GROUP / 2 : GROUP;
    for (size_t g = 0; g < groups_of(K); g++) {
        signed char w[GROUP], q[GROUP];
        int32_t sums[2];
        float unit[2], scale;
        quant_integers(w, unit, format, row, K, g, tensor_scale);
        quantise_group(q, &scale, sums, x + g * GROUP, smaller(K - g * GROUP, GROUP), 127);
        for (size_t from = 0; from < GROUP; from += sub) {
            int32_t s = 0;
            for (size_t i = from; i < from + sub; i++) s += w[i] * q[i];
            start = real_fma((real)s, (real)unit[from * 2 / GROUP] * (real)scale, start);
        }
    }
    return start;
}
void quant_product_naive(real *y, size_t ldy, const real *x, size_t ldx, size_t M, const unsigned char *rows,
                         QuantFormat format, float tensor_scale, size_t N, size_t K, const real *bias) {
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++)
            y[m * ldy + n] = chain(x + m * ldx, rows + n * quant_row_bytes(format, K), format, tensor_scale, K,
                                   bias ? bias[n] : 0);
}

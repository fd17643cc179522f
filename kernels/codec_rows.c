// codec_rows.c: tokens of a cache in few bits, written once and read at every step: see codec.h. Reading goes by
// vectors of 16 channels. It gives the bits of codec_decode: a code, a step and a least number have so few digits that
// their sum is exact in double precision, and a fused multiply-add rounds that exact sum once, too.
#include "kernels/codec.h"
#include "lib/simd.h"
#include <stdlib.h>

// ---- 16 codes ------------------------------------------------------------------------------------
// ints_bytes, ints_signed: of 16 bytes. ints_string: of 16 codes of 4 or 2 bits, the first one lowest. All that follows
// of them is small and exact, so that no path can differ. vec_e2m1: of codes 0 .. 15, in their low four bits.

static const real e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

#if !defined(SIMD_PLAIN) && defined(__AVX512F__)
typedef __m512i ints;
INLINE ints ints_bytes(const unsigned char *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE ints ints_signed(const unsigned char *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE ints ints_string(const unsigned char *p, size_t bits) {
    if (bits == 4) {
        const ints half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        const ints shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        ints word = _mm512_permutexvar_epi32(half, _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)p)));
        return _mm512_and_si512(_mm512_srlv_epi32(word, shift), _mm512_set1_epi32(15));
    }
    const ints shift = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(word), shift), _mm512_set1_epi32(3));
}
INLINE ints ints_low(ints a) { return _mm512_and_si512(a, _mm512_set1_epi32(15)); }
INLINE ints ints_high(ints a) { return _mm512_srli_epi32(a, 4); }
INLINE vec vec_ints(ints a) { return _mm512_cvtepi32_ps(a); }
INLINE vec vec_e2m1(ints a) { return _mm512_permutexvar_ps(a, _mm512_loadu_ps(e2m1)); }
INLINE vec vec_halves(const unsigned char *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vec vec_brains(const unsigned char *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

#elif !defined(SIMD_PLAIN) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
typedef struct { __m256i a, b; } ints;
INLINE ints ints_bytes(const unsigned char *p) {
    return (ints){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                  _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))};
}
INLINE ints ints_signed(const unsigned char *p) {
    return (ints){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                  _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))};
}
INLINE ints ints_string(const unsigned char *p, size_t bits) {
    int32_t part[2] = {0, 0};
    memcpy(part, p, 2 * bits);
    if (bits == 2) part[1] = (int32_t)((uint32_t)part[0] >> 16);
    int step = (int)bits;
    __m256i shift = _mm256_setr_epi32(0, step, 2 * step, 3 * step, 4 * step, 5 * step, 6 * step, 7 * step);
    __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
    return (ints){_mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(part[0]), shift), mask),
                  _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(part[1]), shift), mask)};
}
INLINE ints ints_low(ints x) {
    return (ints){_mm256_and_si256(x.a, _mm256_set1_epi32(15)), _mm256_and_si256(x.b, _mm256_set1_epi32(15))};
}
INLINE ints ints_high(ints x) { return (ints){_mm256_srli_epi32(x.a, 4), _mm256_srli_epi32(x.b, 4)}; }
INLINE vec vec_ints(ints x) { return (vec){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE __m256 e2m1_of(__m256i code) {                            // the sign is bit 3
    __m256 size = _mm256_permutevar8x32_ps(_mm256_loadu_ps(e2m1), code);
    __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(code, 3), 31);
    return _mm256_or_ps(size, _mm256_castsi256_ps(sign));
}
INLINE vec vec_e2m1(ints x) { return (vec){e2m1_of(x.a), e2m1_of(x.b)}; }
INLINE vec vec_halves(const unsigned char *p) {
    return (vec){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))};
}
INLINE __m256 brains_of(const unsigned char *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vec vec_brains(const unsigned char *p) { return (vec){brains_of(p), brains_of(p + 16)}; }

#else
typedef struct { int lane[LANES]; } ints;
#define EACH_LANE(expression) { ints r; for (size_t i = 0; i < LANES; i++) r.lane[i] = expression; return r; }
INLINE ints ints_bytes(const unsigned char *p) EACH_LANE(p[i])
INLINE ints ints_signed(const unsigned char *p) EACH_LANE((signed char)p[i])
INLINE ints ints_string(const unsigned char *p, size_t bits)
    EACH_LANE(p[i * bits / 8] >> i * bits % 8 & ((1 << bits) - 1))
INLINE ints ints_low(ints a) EACH_LANE(a.lane[i] & 15)
INLINE ints ints_high(ints a) EACH_LANE(a.lane[i] >> 4)
#undef EACH_LANE
#define EACH_NUMBER(expression) { real x[LANES]; for (size_t i = 0; i < LANES; i++) x[i] = (real)(expression); \
                                  return vec_load(x); }
INLINE uint32_t two_bytes(const unsigned char *p) { return p[0] | (uint32_t)p[1] << 8; }
INLINE float brain_at(const unsigned char *p) {
    uint32_t bits = two_bytes(p) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
INLINE vec vec_ints(ints a) EACH_NUMBER(a.lane[i])
INLINE vec vec_e2m1(ints a) EACH_NUMBER(e2m1[a.lane[i]])
INLINE vec vec_halves(const unsigned char *p) EACH_NUMBER(codec_from_half((uint16_t)two_bytes(p + 2 * i)))
INLINE vec vec_brains(const unsigned char *p) EACH_NUMBER(brain_at(p + 2 * i))
#undef EACH_NUMBER
#endif

INLINE vec vec_codes(const unsigned char *p, size_t bits) {
    return vec_ints(bits == 8 ? ints_bytes(p) : ints_string(p, bits));
}

static double half_at(const unsigned char *from, size_t i) {
    uint16_t half;
    memcpy(&half, from + i * sizeof half, sizeof half);
    return codec_from_half(half);
}

// ---- runs of tokens ------------------------------------------------------------------------------

// Groups of a run: for keys one of each channel, for values some of each token.
static size_t groups_of(CodecRun r) { return r.values ? r.group * ((r.width + r.group - 1) / r.group) : r.width; }
static size_t row_of(CodecRun r) { return (r.width * r.bits + 7) / 8; }
size_t codec_run_bytes(CodecRun r) { return groups_of(r) * 2 * sizeof(uint16_t) + r.group * row_of(r); }

// Where the codes of a token begin, and the group of one of its numbers.
static size_t codes_at(CodecRun r, size_t token) { return groups_of(r) * 2 * sizeof(uint16_t) + token * row_of(r); }
static size_t group_of(CodecRun r, size_t token, size_t d) {
    return r.values ? token * ((r.width + r.group - 1) / r.group) + d / r.group : d;
}

// A group as codec_encode has it, of whose bytes it is told apart again.
static void seal_group(unsigned char *to, const real *x, size_t stride, size_t n, CodecRun r, size_t token, size_t d) {
    size_t bytes = codec_bytes(n, r.bits), at = group_of(r, token, d);
    unsigned char few[512], *held = bytes > sizeof few ? xmalloc(bytes) : few;
    codec_encode(held, x, stride, n, r.bits);
    memcpy(to + at * sizeof(uint16_t), held, sizeof(uint16_t));
    memcpy(to + (groups_of(r) + at) * sizeof(uint16_t), held + sizeof(uint16_t), sizeof(uint16_t));
    for (size_t i = 0; i < n; i++) {
        unsigned code = held[2 * sizeof(uint16_t) + i * r.bits / 8] >> i * r.bits % 8 & ((1u << r.bits) - 1);
        size_t channel = r.values ? d + i : d, bit = channel * r.bits;
        to[codes_at(r, r.values ? token : i) + bit / 8] |= (unsigned char)(code << bit % 8);
    }
    if (held != few) free(held);
}

void codec_seal(unsigned char *to, const real *x, CodecRun r) {
    memset(to, 0, codec_run_bytes(r));
    for (size_t d = 0; !r.values && d < r.width; d++) seal_group(to, x + d, r.width, r.group, r, 0, d);
    for (size_t t = 0; r.values && t < r.group; t++)
        for (size_t d = 0; d < r.width; d += r.group)
            seal_group(to, x + t * r.width + d, 1, smaller(r.group, r.width - d), r, t, d);
}

// Channels from .. to-1 of one token, one by one.
static void unseal_some(real *x, const unsigned char *run, CodecRun r, size_t token, size_t from, size_t to) {
    const unsigned char *codes = run + codes_at(r, token);
    for (size_t d = from; d < to; d++) {
        unsigned code = codes[d * r.bits / 8] >> d * r.bits % 8 & ((1u << r.bits) - 1);
        size_t at = group_of(r, token, d);
        x[d] = (real)(half_at(run, at) + code * half_at(run, groups_of(r) + at));
    }
}

// 16 channels after the other, of all tokens; bits is a constant where this is expanded.
INLINE void unseal_keys(real *x, const unsigned char *run, CodecRun r, size_t bits, size_t first, size_t n) {
    size_t whole = r.width / LANES * LANES, row = row_of(r);
    for (size_t d = 0; d < whole; d += LANES) {
        const unsigned char *codes = run + codes_at(r, first) + d * bits / 8;
        vec least = vec_halves(run + d * sizeof(uint16_t)), step = vec_halves(run + (r.width + d) * sizeof(uint16_t));
        for (size_t t = 0; t < n; t++, codes += row)
            vec_store(x + t * r.width + d, vec_fma(vec_codes(codes, bits), step, least));
    }
    for (size_t t = 0; whole < r.width && t < n; t++) unseal_some(x + t * r.width, run, r, first + t, whole, r.width);
}

// A token after the other. Groups of channels begin at multiples of 16, or they go one by one.
INLINE void unseal_values(real *x, const unsigned char *run, CodecRun r, size_t bits, size_t first, size_t n) {
    size_t whole = r.group % LANES ? 0 : r.width / LANES * LANES, each = (r.width + r.group - 1) / r.group;
    size_t groups = groups_of(r), begin = first * each, have = begin;
    real least[LANES], step[LANES];                              // of groups begin .. have-1
    for (size_t t = first; whole && t < first + n; t++, x += r.width) {
        const unsigned char *codes = run + codes_at(r, t);
        for (size_t c = 0; c < each; c++) {
            size_t at = t * each + c, to = smaller((c + 1) * r.group, whole);
            if (at == have) {
                begin = smaller(have, groups - LANES), have = begin + LANES;
                vec_store(least, vec_halves(run + begin * sizeof(uint16_t)));
                vec_store(step, vec_halves(run + (groups + begin) * sizeof(uint16_t)));
            }
            vec from = vec_set(least[at - begin]), by = vec_set(step[at - begin]);
            for (size_t d = c * r.group; d < to; d += LANES)
                vec_store(x + d, vec_fma(vec_codes(codes + d * bits / 8, bits), by, from));
        }
        if (whole < r.width) unseal_some(x, run, r, t, whole, r.width);
    }
    for (size_t t = 0; !whole && t < n; t++) unseal_some(x + t * r.width, run, r, first + t, 0, r.width);
}

INLINE void unseal(real *x, const unsigned char *run, CodecRun r, size_t bits, size_t first, size_t n) {
    if (r.values) unseal_values(x, run, r, bits, first, n);
    else unseal_keys(x, run, r, bits, first, n);
}
void codec_unseal(real *x, const unsigned char *from, CodecRun r, size_t first, size_t n) {
    if (r.bits == 8) unseal(x, from, r, 8, first, n);
    else if (r.bits == 4) unseal(x, from, r, 4, first, n);
    else unseal(x, from, r, 2, first, n);
}

// ---- tokens by themselves ------------------------------------------------------------------------

size_t codec_row_bytes(CodecRow r, size_t width) {
    if (!width) return 0;
    return r.kind == CODEC_whole ? width * sizeof(real) : r.kind == CODEC_bfloat16 ? width * sizeof(uint16_t)
                                                                                   : quant_row_bytes(r.format, width);
}

bool codec_row_holds(CodecRow r, const real *x, size_t n) {
    return r.kind != CODEC_quant || quant_fits(r.format, 1, x, n);
}

void codec_pack_rows(unsigned char *to, const real *x, CodecRow r, size_t n, size_t width) {
    if (r.kind == CODEC_whole) memcpy(to, x, n * width * sizeof *x);
    else if (r.kind == CODEC_bfloat16) codec_encode(to, x, 1, n * width, 16);
    else quant_encode_rows((Quant){.format = r.format}, to, 1, x, n, width);
}

static void unpack_bfloat16(real *x, const unsigned char *from, size_t n) {
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) vec_store(x + i, vec_brains(from + 2 * i));
    codec_decode(x + whole, 1, from + 2 * whole, n - whole, 16);
}

// Of a scale, which is finite: the exponent moves from bias 15 to 127, or the product counts the digits.
INLINE float half_to_float(const unsigned char *from) {
    uint32_t half = from[0] | (uint32_t)from[1] << 8, bits = (half & 0x7fff) << 13;
    float f;
    memcpy(&f, &bits, sizeof f);
    return half & 0x8000 ? -(f * 0x1p112f) : f * 0x1p112f;
}

// The formats that are read by vectors, block by block, as kernels/quant.h has them: each number is one product of
// floats.
static void unpack_q8_0(real *x, const unsigned char *from, size_t blocks) {
    for (size_t b = 0; b < blocks; b++, from += 34, x += 2 * LANES) {
        vec d = vec_set(half_to_float(from));
        vec_store(x, vec_mul(vec_ints(ints_signed(from + 2)), d));
        vec_store(x + LANES, vec_mul(vec_ints(ints_signed(from + 2 + LANES)), d));
    }
}

// 16 bytes are numbers j in their low bits and j + 16 in their high ones.
INLINE void unpack_nibbles(real *x, const unsigned char *from, int zero, float scale) {
    ints byte = ints_bytes(from);
    vec d = vec_set(scale), minus = vec_set((real)zero);
    vec_store(x, vec_mul(vec_sub(vec_ints(ints_low(byte)), minus), d));
    vec_store(x + LANES, vec_mul(vec_sub(vec_ints(ints_high(byte)), minus), d));
}
static void unpack_q4_0(real *x, const unsigned char *from, size_t blocks) {
    for (size_t b = 0; b < blocks; b++, from += 18, x += 2 * LANES) unpack_nibbles(x, from + 2, 8, half_to_float(from));
}
static void unpack_int4_asym(real *x, const unsigned char *from, size_t blocks) {
    const unsigned char *zeros = from + 18 * blocks;
    for (size_t b = 0; b < blocks; b++, from += 18, x += 2 * LANES)
        unpack_nibbles(x, from + 2, zeros[b / 2] >> b % 2 * 4 & 15, half_to_float(from));
}
static void unpack_mxfp4(real *x, const unsigned char *from, size_t blocks) {
    for (size_t b = 0; b < blocks; b++, from += 17, x += 2 * LANES) {
        uint32_t bits = from[0] ? (uint32_t)from[0] << 23 : 0x400000;      // 2^(e - 127)
        float scale;
        memcpy(&scale, &bits, sizeof scale);
        ints byte = ints_bytes(from + 1);
        vec d = vec_set(scale);
        vec_store(x, vec_mul(vec_e2m1(ints_low(byte)), d)), vec_store(x + LANES, vec_mul(vec_e2m1(ints_high(byte)), d));
    }
}

typedef void Unpack(real *x, const unsigned char *from, size_t blocks);
static Unpack *unpack_of(QuantFormat format) {
    switch (format) {
    case QUANT_q8_0: return unpack_q8_0;
    case QUANT_q4_0: case QUANT_int4: case QUANT_int4_full: return unpack_q4_0;
    case QUANT_int4_asym: return unpack_int4_asym;
    case QUANT_mxfp4: return unpack_mxfp4;
    default: return NULL;
    }
}

static void unpack_quant(real *x, const unsigned char *from, QuantFormat format, size_t n, size_t width) {
    Unpack *unpack = width % (2 * LANES) || sizeof *x > sizeof(float) ? NULL : unpack_of(format);
    size_t bytes = quant_row_bytes(format, width);
    if (!unpack) quant_decode_rows(format, x, from, 1, n, width);
    for (size_t i = 0; unpack && i < n; i++) unpack(x + i * width, from + i * bytes, width / (2 * LANES));
}

void codec_unpack_rows(real *x, const unsigned char *from, CodecRow r, size_t n, size_t width) {
    if (r.kind == CODEC_whole) memcpy(x, from, n * width * sizeof *x);
    else if (r.kind == CODEC_bfloat16) unpack_bfloat16(x, from, n * width);
    else unpack_quant(x, from, r.format, n, width);
}

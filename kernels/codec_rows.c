// codec_rows.c: tokens of a cache in few bits, written once and read at every step: see codec.h. Reading goes by
// vectors of 16 channels. It gives the bits of codec_decode: a code, a step and a least number have so few digits that
// their sum is exact in double precision, and a fused multiply-add rounds that exact sum once, too.
#include "kernels/codec.h"
#include "lib/simd.h"
#include <stdlib.h>

// ---- 16 numbers ----------------------------------------------------------------------------------

#ifndef REAL_DOUBLE
typedef uint32_t Words __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef unsigned char Bytes __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(32)));

// x [16] = codes of 8, 4 or 2 bits.
INLINE void load_codes(real *x, const unsigned char *from, size_t bits) {
    Words word;
    uint32_t part[2];
    if (bits == 8) {
        Bytes bytes;
        memcpy(&bytes, from, sizeof bytes);
        word = __builtin_convertvector(bytes, Words);
    } else if (bits == 4) {
        const Words shift = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
        memcpy(part, from, sizeof part);
        uint32_t a = part[0], b = part[1];
        word = (Words){a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b} >> shift & 15;
    } else {
        const Words shift = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
        memcpy(part, from, sizeof *part);
        word = ((Words){0} + *part) >> shift & 3;
    }
    typedef int32_t Integers __attribute__((vector_size(64)));
    Floats y = __builtin_convertvector((Integers)word, Floats);          // small, so that signs do not matter
    memcpy(x, &y, sizeof y);
}

// x [16] of 16 half floats, whose exponent moves from bias 15 to 127; of subnormals the product counts the digits.
INLINE void load_halves(real *x, const unsigned char *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    Words half = __builtin_convertvector(halves, Words), size = half & 0x7fff;
    Words nan = (Words)(size >= 0x7c00) & 0x7f800000;
    Floats y = (Floats)(size << 13) * 0x1p112f;
    y = (Floats)((Words)y | nan | (half & 0x8000) << 16);
    memcpy(x, &y, sizeof y);
}
#else
INLINE void load_codes(real *x, const unsigned char *from, size_t bits) {
    for (size_t i = 0; i < LANES; i++) x[i] = from[i * bits / 8] >> i * bits % 8 & ((1u << bits) - 1);
}
INLINE void load_halves(real *x, const unsigned char *from) {
    for (size_t i = 0; i < LANES; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        x[i] = (real)codec_from_half(half);
    }
}
#endif

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
        real least[LANES], step[LANES], code[LANES];
        load_halves(least, run + d * sizeof(uint16_t));
        load_halves(step, run + (r.width + d) * sizeof(uint16_t));
        vec from = vec_load(least), by = vec_load(step);
        for (size_t t = 0; t < n; t++, codes += row) {
            load_codes(code, codes, bits);
            vec_store(x + t * r.width + d, vec_fma(vec_load(code), by, from));
        }
    }
    for (size_t t = 0; whole < r.width && t < n; t++) unseal_some(x + t * r.width, run, r, first + t, whole, r.width);
}

// A token after the other. Groups of channels begin at multiples of 16, or they go one by one.
INLINE void unseal_values(real *x, const unsigned char *run, CodecRun r, size_t bits, size_t first, size_t n) {
    size_t whole = r.group % LANES ? 0 : r.width / LANES * LANES, each = (r.width + r.group - 1) / r.group;
    size_t groups = groups_of(r), begin = first * each, have = begin;
    real least[LANES], step[LANES], code[LANES];                 // of groups begin .. have-1
    for (size_t t = first; whole && t < first + n; t++, x += r.width) {
        const unsigned char *codes = run + codes_at(r, t);
        for (size_t c = 0; c < each; c++) {
            size_t at = t * each + c, to = smaller((c + 1) * r.group, whole);
            if (at == have) {
                begin = smaller(have, groups - LANES), have = begin + LANES;
                load_halves(least, run + begin * sizeof(uint16_t));
                load_halves(step, run + (groups + begin) * sizeof(uint16_t));
            }
            vec from = vec_set(least[at - begin]), by = vec_set(step[at - begin]);
            for (size_t d = c * r.group; d < to; d += LANES) {
                load_codes(code, codes + d * bits / 8, bits);
                vec_store(x + d, vec_fma(vec_load(code), by, from));
            }
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

void codec_pack_rows(unsigned char *to, const real *x, CodecRow r, size_t n, size_t width) {
    if (r.kind == CODEC_whole) memcpy(to, x, n * width * sizeof *x);
    else if (r.kind == CODEC_bfloat16) codec_encode(to, x, 1, n * width, 16);
    else quant_encode_rows((Quant){.format = r.format}, to, 1, x, n, width);
}

void codec_unpack_rows(real *x, const unsigned char *from, CodecRow r, size_t n, size_t width) {
    if (r.kind == CODEC_whole) memcpy(x, from, n * width * sizeof *x);
    else if (r.kind == CODEC_bfloat16) codec_decode(x, 1, from, n * width, 16);
    else quant_decode_rows(r.format, x, from, 1, n, width);
}

// codec.c: see codec.h.
#include "kernels/codec.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 2 * sizeof(uint16_t) };

// ---- half floats ---------------------------------------------------------------------------------

uint16_t codec_half(double x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double size = fabs(x);
    int exponent;
    if (isnan(x)) return 0x7e00;
    if (size > 65504) size = 65504;
    if (size < 0x1p-14) return sign | (uint16_t)nearbyint(size * 0x1p24);      // of less than 11 digits
    double digits = nearbyint(frexp(size, &exponent) * 2048);                  // 1024 .. 2048
    return sign | (uint16_t)(((exponent + 13) << 10) + (int)digits);           // 2048 carries into the exponent
}

double codec_from_half(uint16_t half) {
    int exponent = half >> 10 & 31, digits = half & 1023;
    double size = exponent == 31 ? (digits ? NAN : INFINITY) : exponent ? ldexp(1024 + digits, exponent - 25)
                                                                        : ldexp(digits, -24);
    return half & 0x8000 ? -size : size;
}

// ---- bfloat16 ------------------------------------------------------------------------------------

static uint16_t brain_of(real x) {
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isnan(f)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static real from_brain(uint16_t brain) {
    uint32_t bits = (uint32_t)brain << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (real)f;
}

// ---- groups --------------------------------------------------------------------------------------

size_t codec_bytes(size_t n, size_t bits) {
    return bits == 32 ? n * sizeof(float) : bits == 16 ? n * sizeof(uint16_t) : HEADER + (n * bits + 7) / 8;
}

static unsigned code_of(double x, double least, double step, unsigned top) {
    double code = step > 0 ? nearbyint((x - least) / step) : 0;
    return !(code > 0) ? 0 : code > top ? top : (unsigned)code;
}

static void encode_group(unsigned char *to, const real *x, size_t stride, size_t n, size_t bits) {
    unsigned top = (1u << bits) - 1;
    double least = (double)x[0], most = least;
    for (size_t i = 1; i < n; i++) {
        double number = (double)x[i * stride];
        least = number < least ? number : least, most = number > most ? number : most;
    }
    uint16_t header[2] = {codec_half(least), codec_half((most - least) / top)};
    memcpy(to, header, HEADER);
    memset(to + HEADER, 0, codec_bytes(n, bits) - HEADER);
    for (size_t i = 0; i < n; i++) {
        unsigned code = code_of((double)x[i * stride], codec_from_half(header[0]), codec_from_half(header[1]), top);
        to[HEADER + i * bits / 8] |= (unsigned char)(code << i * bits % 8);
    }
}

static void decode_group(real *x, size_t stride, const unsigned char *from, size_t n, size_t bits) {
    uint16_t header[2];
    memcpy(header, from, HEADER);
    double least = codec_from_half(header[0]), step = codec_from_half(header[1]);
    for (size_t i = 0; i < n; i++) {
        unsigned code = from[HEADER + i * bits / 8] >> i * bits % 8 & ((1u << bits) - 1);
        x[i * stride] = (real)(least + code * step);
    }
}

void codec_encode(unsigned char *to, const real *x, size_t stride, size_t n, size_t bits) {
    if (bits < 16) {
        encode_group(to, x, stride, n, bits);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float whole = (float)x[i * stride];
        uint16_t brain = brain_of(x[i * stride]);
        if (bits == 32) memcpy(to + i * sizeof whole, &whole, sizeof whole);
        else memcpy(to + i * sizeof brain, &brain, sizeof brain);
    }
}

void codec_decode(real *x, size_t stride, const unsigned char *from, size_t n, size_t bits) {
    if (bits < 16) {
        decode_group(x, stride, from, n, bits);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float whole;
        uint16_t brain;
        if (bits == 32) memcpy(&whole, from + i * sizeof whole, sizeof whole);
        else memcpy(&brain, from + i * sizeof brain, sizeof brain);
        x[i * stride] = bits == 32 ? (real)whole : from_brain(brain);
    }
}

void codec_round(real *x, size_t stride, size_t n, size_t bits) {
    unsigned char few[512], *held = codec_bytes(n, bits) > sizeof few ? xmalloc(codec_bytes(n, bits)) : few;
    if (bits < 32) codec_encode(held, x, stride, n, bits), codec_decode(x, stride, held, n, bits);
    if (held != few) free(held);
}

// codec.h: numbers of a cache in few bits. 8, 4 and 2: asymmetric (Liu et al. 2024, "KIVI", section 3): a group of n
// numbers is its least one and the step between two codes, each a half float, and n codes from 0 to 2^bits - 1. 16:
// bfloat16, which has the range of a float, so that no key is too large for it.
#ifndef CODEC_H
#define CODEC_H
#include "lib/util.h"

size_t codec_bytes(size_t n, size_t bits);               // of a group of n numbers; 32: as they are
// x[i * stride], 0 <= i < n. Where all are equal the step is 0, and each becomes that number as a half float. Halves
// end at 65504: what is beyond comes back as that.
void codec_encode(unsigned char *to, const real *x, size_t stride, size_t n, size_t bits);
void codec_decode(real *x, size_t stride, const unsigned char *from, size_t n, size_t bits);
void codec_round(real *x, size_t stride, size_t n, size_t bits);          // what comes back of it, in place

uint16_t codec_half(double x);                           // IEEE 754 binary16, to the nearest, ties to even
double codec_from_half(uint16_t half);
#endif

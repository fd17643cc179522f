// codec.h: numbers of a cache in few bits. 8, 4 and 2: asymmetric (Liu et al. 2024, "KIVI", section 3): a group of n
// numbers is its least one and the step between two codes, each a half float, and n codes from 0 to 2^bits - 1. 16:
// bfloat16, which has the range of a float, so that no key is too large for it. Or a format of kernels/quant.h.
#ifndef CODEC_H
#define CODEC_H
#include "kernels/quant.h"

size_t codec_bytes(size_t n, size_t bits);               // of a group of n numbers; 32: as they are
// x[i * stride], 0 <= i < n. Where all are equal the step is 0, and each becomes that number as a half float. Halves
// end at 65504: what is beyond comes back as that.
void codec_encode(unsigned char *to, const real *x, size_t stride, size_t n, size_t bits);
void codec_decode(real *x, size_t stride, const unsigned char *from, size_t n, size_t bits);
void codec_round(real *x, size_t stride, size_t n, size_t bits);          // what comes back of it, in place

// ---- as a cache holds them (codec_rows.c) ----------------------------------------------------------

// `group` tokens of a head that are packed together, x [group, width]: keys in groups along the tokens for each
// channel, values in groups of that many channels for each token. Bytes, in order: the least numbers of all groups,
// their steps, then a token's codes after the other's, channel d at bit d * bits of a little-endian string. A token
// begins with a byte of its own. What comes back is what codec_round makes of each group, to the bit.
typedef struct { size_t bits, group, width; bool values; } CodecRun;
size_t codec_run_bytes(CodecRun r);
void codec_seal(unsigned char *to, const real *x, CodecRun r);
void codec_unseal(real *x, const unsigned char *from, CodecRun r, size_t first, size_t n);      // of its tokens

// A token by itself, n of them one after the other: as it is, in bfloat16, or in a format of kernels/quant.h with a
// tensor scale of 1, in which numbers that are too large for it fail() (quant_encode_rows).
typedef enum { CODEC_whole, CODEC_bfloat16, CODEC_quant } CodecKind;
typedef struct { CodecKind kind; QuantFormat format; } CodecRow;
size_t codec_row_bytes(CodecRow r, size_t width);
bool codec_row_holds(CodecRow r, const real *x, size_t n);            // whether none of these numbers is so large
void codec_pack_rows(unsigned char *to, const real *x, CodecRow r, size_t n, size_t width);
void codec_unpack_rows(real *x, const unsigned char *from, CodecRow r, size_t n, size_t width);

uint16_t codec_half(double x);                           // IEEE 754 binary16, to the nearest, ties to even
double codec_from_half(uint16_t half);
#endif

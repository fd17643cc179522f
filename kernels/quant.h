// quant.h: matrices in 8 to 1.6 bits a weight, to the bit. A matrix is rows of `columns` numbers; a row is a whole
// number of blocks, of which the last is filled up with zeros. Everything is computed in float with one rounding per
// operation, so the bytes are the same on every machine. "half" is IEEE binary16, rint() is to nearest even, and
// amax is the largest magnitude of the block.
//
//   format     block  bytes  scale                                  codes q, and the numbers that they mean
//   int8       a row  4 + n  float d = amax/127                     rint(x/d) in -127..127; q d
//   q8_0          32     34  half of d = amax/127                   x (1/d) rounded, halves away from 0; q d
//   q4_0          32     18  half of d = m/-8, m the signed number  trunc(x (1/d) + 8.5) - 8, at most 7; q d
//                            of largest magnitude, the first one
//   int4          32     18  half d of amax/7                       rint(x/d) in -7..7; q d
//   int4_full     32     18  half d of amax/7.5                     rint(x/d) in -8..7; q d
//   int4_asym     32   18.5  half d of (max - min)/15 and zero      rint(x/d) + z in 0..15; (q - z) d
//                            point z = rint(-min/d), 0 included
//   int3          32     14  half d of m/-4, m as in q4_0           rint(x/d) in -4..3; q d
//   int2          32     10  half d of amax/1.5                     floor(x/d) in -2..1; (q + 0.5) d
//   ternary       32      9  half d of the mean of |x|              rint(x/d) in -1..1; q d   (BitNet b1.58)
//   mxfp4         32     17  E8M0 2^(e-127), by --mx-scale          E2M1 of x/scale
//   nvfp4         64     36  4 UE4M3 of amax/6/t, of 16 numbers     E2M1 of x ((1/t)/scale); E2M1 (scale t)
//                            each; t the scale of the tensor
//
// Q8_0, Q4_0, MXFP4 and NVFP4 are ggml's (GGUF types 8, 2, 39, 40); int4 and int4_full are Q4_0 files that another
// encoder has written. Where a scale is rounded to half, q8_0 and q4_0 take their codes from d before that, as ggml
// does, and the others from what is stored. A scale of 0 means codes of 0.
//
// Bytes, in order:
//   q8_0: half, 32 signed bytes.
//   q4_0, int4, int4_full: half, 16 bytes; q + 8 of number j in the low four bits of byte j, of j + 16 in the high.
//   int4_asym: blocks as q4_0's with q itself; behind all of a row its zero points, block 2i low in byte i, 2i+1 high.
//   int3, int2: half, then the bits of q + 4 or q + 2, number j at bit 3j or 2j of a little-endian string.
//   ternary: half, then seven bytes sum (q + 1) 3^k, number 5i + k in byte i.
//   mxfp4: e, then 16 bytes as in q4_0 with E2M1 codes.
//   nvfp4: four scales, then per scale eight bytes, number j low and j + 8 high.
//   int8: a float, then signed bytes; a row has any number of columns.
//
// E2M1 is sign, two bits of exponent, one of mantissa: 0 .5 1 1.5 2 3 4 6, codes 8..15 the same negative; to nearest,
// ties to the even code, beyond 6 is 6, and the sign of a zero is kept. E4M3 likewise, at most 448 and, as a scale, at
// least 2^-9. E8M0 has powers of two alone.
#ifndef QUANT_H
#define QUANT_H
#include "lib/util.h"

#define QUANT_FORMATS(X) X(int8) X(q8_0) X(q4_0) X(int4) X(int4_full) X(int4_asym) X(int3) X(int2) X(ternary) \
                         X(mxfp4) X(nvfp4)
#define QUANT_MX_SCALES(X) X(floor) X(even) X(rceil)
#define QUANT_FORMAT_CONSTANT(name) QUANT_##name,
#define QUANT_MX_CONSTANT(name) QUANT_MX_##name,
typedef enum { QUANT_FORMATS(QUANT_FORMAT_CONSTANT) QUANT_FORMAT_COUNT } QuantFormat;
// With amax = 1.m 2^E the scale of mxfp4 is 2^(E-2): floor, OCP MX 1.0 section 6.3, and ggml; one power more where
// 1.m >= 1.75: even, vLLM; the power that is not below amax/6, rounded to a float, so that nothing is clipped: rceil,
// NVIDIA. None is below 2^-127.
typedef enum { QUANT_MX_SCALES(QUANT_MX_CONSTANT) QUANT_MX_SCALE_COUNT } QuantMxScale;

// How numbers become codes; reading them back needs the format alone.
typedef struct {
    QuantFormat format;
    QuantMxScale mx_scale;      // of mxfp4
    bool search;                // of each block the scale of least squared error, among that above and, times it,
                                // 24 to 72 in steps of 2 over 48 (ternary: over 32); of mxfp4 the powers around
                                // floor's; of nvfp4 amax/6 or amax/4 ("four over six"). Equal errors: the first one.
                                // int8 has none.
} Quant;

const char *quant_name(QuantFormat format);                        // as in the table: "q8_0"
bool quant_find(const char *name, QuantFormat *format);            // false where there is none of that name
const char *quant_mx_name(QuantMxScale rule);
bool quant_mx_find(const char *name, QuantMxScale *rule);

size_t quant_block(QuantFormat format);                            // numbers per block; 1 for int8
size_t quant_row_bytes(QuantFormat format, size_t columns);        // scales and padding counted
double quant_bits(QuantFormat format, size_t columns);             // per weight, the same in bits

// t of a tensor in nvfp4, its amax/(448*6), as torchao; 1 for zeros. 1 for all other formats.
float quant_tensor_scale(QuantFormat format, const real *x, size_t n);

// Whether all of x are finite and not too large for the format, also when multiplied by `times`.
bool quant_holds(QuantFormat format, const real *x, size_t n, float times);
// Whether quant_encode_rows takes them.
bool quant_fits(QuantFormat format, float tensor_scale, const real *x, size_t n);

// x [rows, columns] to bytes [rows, quant_row_bytes] and back. tensor_scale must be more than 0, and 1 where the format
// has none. fail()s, naming row and column, where a number is not finite or too large for its scale: above 65504 with a
// half, above 6*464 t with nvfp4, above 2^127 with the others. _naive: number by number, the reference of the test.
void quant_encode_rows(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t rows, size_t columns);
void quant_encode_rows_naive(Quant q, unsigned char *to, float tensor_scale, const real *x, size_t rows,
                             size_t columns);
void quant_decode_rows(QuantFormat format, real *x, const unsigned char *from, float tensor_scale, size_t rows,
                       size_t columns);
// What comes back of x, with the tensor scale of x [rows, columns] as a whole; y may be x.
void quant_round(Quant q, real *y, const real *x, size_t rows, size_t columns);

// Numbers 32 g .. 32 g + 31 of a row of bytes as integers, zeros beyond its end: number i is q[i] unit[i / 16], one
// product of floats.
void quant_integers(signed char q[32], float unit[2], QuantFormat format, const unsigned char *row, size_t columns,
                    size_t g, float tensor_scale);

// One number: codes of E2M1 (0..15) and E4M3 (0..0x7e, x not negative), and what they mean.
unsigned quant_e2m1(float x);
float quant_from_e2m1(unsigned code);
unsigned quant_e4m3(float x);
float quant_from_e4m3(unsigned code);
#endif

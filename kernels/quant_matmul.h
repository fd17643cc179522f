// quant_matmul.h: products of quantised weights and quantised activations, in integers. One definition, the same bits
// on every instruction set:
//
//   activations: of each row x and each 32 of its numbers, d = amax/127 and q = rint(x (127/amax)), in -127..127;
//   weights: integers w and units u of quant.h, a unit for 32 numbers (nvfp4: 16) of a row of w [N,K];
//   y[m][n] = the chain acc = fma(s, u d, acc) over groups in order, from the bias or 0, with s = sum w q in int32.
//
// s is exact, because |s| <= 32 * 128 * 127 < 2^24, also as a float; u d is rounded once. So a dot product may be
// summed in any order inside of a group, and groups are summed in one order alone.
//
// Packed weights are panels of 16 rows of w, that is columns of the output, one group of 32 after the other: the scales
// of the 16, then their codes, four of one column side by side, as dot instructions take them. 8-bit codes are w + 128,
// the others nibbles. So a product of few rows is one walk through memory, and 8-bit weights take 34 bytes per 32,
// 4-bit ones 18, as in a file; int3, int2 and ternary take 18 as well.
#ifndef QUANT_MATMUL_H
#define QUANT_MATMUL_H
#include "kernels/quant.h"

typedef struct {
    QuantFormat format;
    size_t N, K;
    float tensor_scale;
    const unsigned char *packed;
} QuantWeight;
size_t quant_packed_bytes(QuantFormat format, size_t N, size_t K);
// From the bytes of quant_encode_rows; packed should begin at a cache line. All threads.
void quant_pack(unsigned char *packed, QuantFormat format, const unsigned char *rows, size_t N, size_t K);

// Activations of M rows; `at` is their memory.
typedef struct {
    size_t M, K, groups;
    signed char *q;         // [M, 32 groups]
    float *scale;           // [groups, M]
    int32_t *sum, *half;    // [groups, M]: of 32 numbers q, and of the first 16 of them
} QuantRows;
size_t quant_rows_bytes(size_t M, size_t K);
// x [M,K], row stride ldx. A number that is not finite makes the scale of its group a NaN, and with it the products.
QuantRows quant_rows(void *at, const real *x, size_t ldx, size_t M, size_t K);
// The same with d = amax/most and codes in -most..most; of 4 bits: 7.
QuantRows quant_rows_within(void *at, const real *x, size_t ldx, size_t M, size_t K, int most);
void quant_rows_meaning(real *y, size_t ldy, const QuantRows *r);      // the numbers q d, [M,K], row stride ldy

// y [M,N], row stride ldy, of the rows of x from `first` on; bias [N], or NULL.
typedef struct {
    real *y; size_t ldy;
    const QuantRows *x; size_t first, M;
    const QuantWeight *w;
    const real *bias;
} QuantProduct;
void quant_products(const QuantProduct *p, size_t count);    // all of them, all threads; outputs must not overlap
void quant_product(real *y, size_t ldy, const QuantRows *x, const QuantWeight *w, const real *bias);   // of all rows
// The same from bytes of quant_encode_rows, as the definition has it: the reference of the test.
void quant_product_naive(real *y, size_t ldy, const real *x, size_t ldx, size_t M, const unsigned char *rows,
                         QuantFormat format, float tensor_scale, size_t N, size_t K, const real *bias);
const char *quant_product_path(void);    // by which instructions: "avx512 vnni"
// Products of a dot instruction for each lane of a fused multiply-add: 4; as many of both begin in a cycle. 0: this
// path has no such instruction, and its roof is not known.
int quant_dot_depth(void);
#endif

// matmul.h: matrix products. Every output element is one chain of fused multiply-adds over k in
// order, so the bits depend on nothing but the numbers: not on tiles, blocks, threads or SIMD path.
#ifndef MATMUL_H
#define MATMUL_H
#include "lib/util.h"

enum { PANEL = 32 };   // columns of a packed panel

// B [K,N] packed: ceil(N/32) panels, each [K][32] row by row, the last one padded with zeros.
// A product streams it once, whatever M: weights are packed once per step, and decoding (M = 1)
// reads memory in one sweep.
static inline size_t packed_size(size_t K, size_t N) { return K * ((N + PANEL - 1) / PANEL * PANEL); }
// Element (k,n) of B is b[k*b_row + n*b_col]; one of b_row, b_col is 1. One thread.
void pack(real *packed, const real *b, size_t b_row, size_t b_col, size_t K, size_t N);

// C [M,N] (row stride ldc) = A [M,K] B [K,N], or += with accumulate (the chain goes on from C's old
// value), or bias [N] + A B (the chain starts at the bias). Element (i,k) of A is a[i*a_row + k*a_col];
// one of a_row, a_col is 1. B is either packed, or given by b, b_row, b_col and packed on the way,
// piece by piece.
typedef struct {
    real *c; size_t ldc;
    const real *a; size_t a_row, a_col;
    const real *packed; size_t packed_rows; // rows per packed panel where it holds more than K (0: K)
    const real *b; size_t b_row, b_col;     // used when packed == NULL
    const real *bias;                       // NULL: none
    size_t M, N, K;
    bool accumulate;
} Product;

void products(const Product *p, size_t count);      // all of them, with all threads; outputs must not overlap
void product_serial(const Product *p);              // one, in this thread; p->packed must be given
void products_naive(const Product *p, size_t count);// three loops: the reference of the test

// The three products of a linear layer y [M,N] = x [M,K] w^T + bias, with w [N,K].
void linear_forward(real *y, const real *x, const real *w_packed, const real *bias, size_t M, size_t N, size_t K);
// dx [M,K] = dy [M,N] w, or += with accumulate.
void linear_backward_input(real *dx, const real *dy, const real *w, size_t M, size_t N, size_t K, bool accumulate);
// dw [N,K] += dy^T x, and dbias [N] += sum over rows of dy, rows in order (dbias NULL: none).
void linear_backward_bias(real *dbias, const real *dy, size_t M, size_t N);     // that alone
void linear_backward_weight(real *dw, real *dbias, const real *dy, const real *x, size_t M, size_t N, size_t K);
// Packs the weight w [N,K] of a linear layer for linear_forward, or a stack of them [count][N,K] (experts), with all
// threads; each takes packed_size(K, N) numbers.
void linear_pack(real *packed, const real *w, size_t count, size_t N, size_t K);

// Numbers of scratch memory that the backward of a linear layer, or of several at once, takes: where all threads pack
// pieces of w for one product and of x for the other.
size_t linear_workspace(size_t M, size_t N, size_t K);

// Scratch memory that grows to the largest size asked for and is then reused: no allocation inside a step.
typedef struct { real *at; size_t size; } Workspace;
real *workspace_take(Workspace *w, size_t size);    // at least `size` numbers, contents undefined
#endif

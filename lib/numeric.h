// numeric.h: scalar double-precision functions whose bits do not depend on the C library: for
// initialisation, RoPE tables, schedules and sampling. Each is a polynomial over a reduced
// argument, every fused multiply-add written as fma_double(). Relative error below 1e-14 on the ranges
// stated (tests/test_numeric.c). The vector versions for the hot path are in simd.h.
#ifndef NUMERIC_H
#define NUMERIC_H
double num_exp(double x);                     // |x| < 700
double num_log(double x);                     // x > 0, normal
void num_sincos(double x, double *sine, double *cosine);  // |x| < 1e6
double num_pow(double base, double exponent); // base > 0
double num_powi(double base, unsigned long n);// exact order of multiplications: square and multiply
#endif

// simd.h: a vector of 16 numbers, over AVX-512, two AVX2 registers, four NEON registers, or plain C.
// One build has one path, chosen by the compiler's -m flags (plain C with -DSIMD_PLAIN).
//
// Every path gives the same bits. That is why: a multiply-add is fused because it is written so
// (never because the compiler felt like it, -ffp-contract=off); sums over lanes follow one fixed
// tree; max and min are defined as a > b ? a : b also for NaN and signed zeros; and exp is our own
// polynomial, not the C library's. It is deliberately small: only what the kernels need.
#ifndef SIMD_H
#define SIMD_H
#include "lib/util.h"
#include "lib/fma.h"
#include <math.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))      // what it was made of is unknown to the compiler from here on
#if defined(REAL_DOUBLE) && !defined(SIMD_PLAIN)
#define SIMD_PLAIN
#endif
#ifdef REAL_DOUBLE
#define real_fma fma          // compared with tolerances, never bit by bit
#else
#define real_fma fma_float
#endif

// SIMD_ROWS x (SIMD_VECS * 16) is the register tile of a matrix product on this path.
#if !defined(SIMD_PLAIN) && defined(__AVX512F__)
// ---- AVX-512: 32 registers of 16 floats ----------------------------------------------------------
#include <immintrin.h>
#define SIMD_NAME "avx512"
#define SIMD_ROWS 12
#define SIMD_VECS 2
typedef __m512 vec;
INLINE vec vec_set(real x) { return _mm512_set1_ps(x); }
INLINE vec vec_load(const real *p) { return _mm512_loadu_ps(p); }
INLINE void vec_store(real *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec vec_load_n(const real *p, size_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void vec_store_n(real *p, vec v, size_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec vec_select_less(vec a, vec b, vec yes, vec no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
INLINE vec vec_scale_by_power_of_two(vec a, vec n) {  // a * 2^n for integral n in [-126, 127]
    __m512i e = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(a, _mm512_castsi512_ps(e));
}
INLINE void vec_transpose(vec r[LANES]) {   // 16 x 16: four rounds of interleaving halves
    vec t[LANES];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + 2 + j]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}
INLINE void vec_turn(vec x[4], const real *row, size_t stride) {       // 16 x 4: a load brings its four to their lanes
    const real *p[4] = {row, row + 4 * stride, row + 8 * stride, row + 12 * stride};
    for (int j = 1; j < 4; j++) OPAQUE(p[j]);                          // or the compiler keeps 16 addresses
    vec r[4], t[4];
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_broadcast_f32x4(_mm_loadu_ps(p[0] + (size_t)i * stride));
        for (int j = 1; j < 4; j++) {
            __m128 four = _mm_loadu_ps(p[j] + (size_t)i * stride);
            r[i] = _mm512_mask_broadcast_f32x4(r[i], (__mmask16)(15 << 4 * j), four);
        }
    }
    for (int i = 0; i < 4; i += 2) {
        t[i / 2] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i / 2 + 2] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 4; i += 2) {
        __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
        x[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        x[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
}
INLINE real vec_sum(vec v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0x4e)));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INLINE real vec_largest(vec v) {
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0x4e)));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

#elif !defined(SIMD_PLAIN) && defined(__AVX2__) && defined(__FMA__)
// ---- AVX2: 16 registers of 8 floats --------------------------------------------------------------
#include <immintrin.h>
#define SIMD_NAME "avx2"
#define SIMD_ROWS 6
#define SIMD_VECS 1
typedef struct { __m256 a, b; } vec;
#define EACH(call_a, call_b) ((vec){call_a, call_b})
INLINE vec vec_set(real x) { return EACH(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE vec vec_load(const real *p) { return EACH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE void vec_store(real *p, vec v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
INLINE vec vec_add(vec x, vec y) { return EACH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
INLINE vec vec_sub(vec x, vec y) { return EACH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
INLINE vec vec_mul(vec x, vec y) { return EACH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
INLINE vec vec_div(vec x, vec y) { return EACH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
INLINE vec vec_sqrt(vec x) { return EACH(_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)); }
INLINE vec vec_fma(vec x, vec y, vec z) { return EACH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
INLINE vec vec_max(vec x, vec y) { return EACH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
INLINE vec vec_min(vec x, vec y) { return EACH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
INLINE vec vec_select_less(vec x, vec y, vec yes, vec no) {
    return EACH(_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
INLINE __m256 power_of_two8(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
INLINE vec vec_scale_by_power_of_two(vec x, vec n) {
    return EACH(_mm256_mul_ps(x.a, power_of_two8(n.a)), _mm256_mul_ps(x.b, power_of_two8(n.b)));
}
INLINE void turn8(__m256 x[4], const real *row, size_t stride) {
    __m256 r[4], t[4];
    for (int i = 0; i < 4; i++, row += stride)
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(row + 4 * stride), 1);
    for (int i = 0; i < 4; i += 2) {
        t[i / 2] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i / 2 + 2] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 4; i += 2) {
        __m256d a = _mm256_castps_pd(t[i]), b = _mm256_castps_pd(t[i + 1]);
        x[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        x[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
}
INLINE void vec_turn(vec x[4], const real *row, size_t stride) {
    __m256 a[4], b[4];
    turn8(a, row, stride), turn8(b, row + 8 * stride, stride);
    for (int i = 0; i < 4; i++) x[i] = (vec){a[i], b[i]};
}
INLINE real vec_sum(vec v) {
    __m256 a = _mm256_add_ps(v.a, v.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INLINE real vec_largest(vec v) {
    __m256 a = _mm256_max_ps(v.a, v.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
#undef EACH

#elif !defined(SIMD_PLAIN) && defined(__aarch64__)
// ---- NEON: 32 registers of 4 floats --------------------------------------------------------------
#include <arm_neon.h>
#define SIMD_NAME "neon"
#define SIMD_ROWS 6
#define SIMD_VECS 1
typedef struct { float32x4_t q[4]; } vec;
#define EACH(expression) { vec r; for (int i = 0; i < 4; i++) r.q[i] = expression; return r; }
INLINE vec vec_set(real x) EACH(vdupq_n_f32(x))
INLINE vec vec_load(const real *p) EACH(vld1q_f32(p + 4 * i))
INLINE void vec_store(real *p, vec v) { for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, v.q[i]); }
INLINE vec vec_add(vec a, vec b) EACH(vaddq_f32(a.q[i], b.q[i]))
INLINE vec vec_sub(vec a, vec b) EACH(vsubq_f32(a.q[i], b.q[i]))
INLINE vec vec_mul(vec a, vec b) EACH(vmulq_f32(a.q[i], b.q[i]))
INLINE vec vec_div(vec a, vec b) EACH(vdivq_f32(a.q[i], b.q[i]))
INLINE vec vec_sqrt(vec a) EACH(vsqrtq_f32(a.q[i]))
INLINE vec vec_fma(vec a, vec b, vec c) EACH(vfmaq_f32(c.q[i], a.q[i], b.q[i]))
INLINE float32x4_t larger4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE vec vec_max(vec a, vec b) EACH(larger4(a.q[i], b.q[i]))
INLINE vec vec_min(vec a, vec b) EACH(vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]))
INLINE vec vec_select_less(vec a, vec b, vec yes, vec no) EACH(vbslq_f32(vcltq_f32(a.q[i], b.q[i]), yes.q[i], no.q[i]))
INLINE vec vec_scale_by_power_of_two(vec a, vec n)
    EACH(vmulq_f32(a.q[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.q[i]), vdupq_n_s32(127)), 23))))
INLINE real vec_sum(vec v) {
    float32x4_t s = vaddq_f32(vaddq_f32(v.q[0], v.q[2]), vaddq_f32(v.q[1], v.q[3]));
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
INLINE real vec_largest(vec v) {
    float32x4_t s = larger4(larger4(v.q[0], v.q[2]), larger4(v.q[1], v.q[3])), t = larger4(s, vextq_f32(s, s, 2));
    return vgetq_lane_f32(t, 0) > vgetq_lane_f32(t, 1) ? vgetq_lane_f32(t, 0) : vgetq_lane_f32(t, 1);
}
#undef EACH

#else
// ---- plain C, and the double build ---------------------------------------------------------------
#ifndef SIMD_PLAIN
#define SIMD_PLAIN
#endif
#define SIMD_NAME "plain"
#define SIMD_ROWS 4
#define SIMD_VECS 1
#ifdef REAL_DOUBLE
#define real_sqrt sqrt
#else
#define real_sqrt sqrtf
#endif
typedef struct { real lane[LANES]; } vec;
#define EACH(expression) { vec r; for (int i = 0; i < LANES; i++) r.lane[i] = expression; return r; }
INLINE vec vec_set(real x) EACH(x)
INLINE vec vec_load(const real *p) EACH(p[i])
INLINE void vec_store(real *p, vec v) { for (int i = 0; i < LANES; i++) p[i] = v.lane[i]; }
INLINE vec vec_add(vec a, vec b) EACH(a.lane[i] + b.lane[i])
INLINE vec vec_sub(vec a, vec b) EACH(a.lane[i] - b.lane[i])
INLINE vec vec_mul(vec a, vec b) EACH(a.lane[i] * b.lane[i])
INLINE vec vec_div(vec a, vec b) EACH(a.lane[i] / b.lane[i])
INLINE vec vec_sqrt(vec a) EACH(real_sqrt(a.lane[i]))
INLINE vec vec_fma(vec a, vec b, vec c) EACH(real_fma(a.lane[i], b.lane[i], c.lane[i]))
INLINE vec vec_max(vec a, vec b) EACH(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i])
INLINE vec vec_min(vec a, vec b) EACH(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i])
INLINE vec vec_select_less(vec a, vec b, vec yes, vec no) EACH(a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i])
#ifndef REAL_DOUBLE
INLINE float power_of_two(float n) {
    uint32_t bits = (uint32_t)((int32_t)(n == n ? n : 0) + 127) << 23;   // NaN: any finite factor will do
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
INLINE vec vec_scale_by_power_of_two(vec a, vec n) EACH(a.lane[i] * power_of_two(n.lane[i]))
#endif
INLINE real vec_sum(vec v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v.lane[i] += v.lane[i + half];
    return v.lane[0];
}
INLINE real vec_largest(vec v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v.lane[i] = v.lane[i] > v.lane[i + half] ? v.lane[i] : v.lane[i + half];
    return v.lane[0];
}
#undef EACH
#endif

// ---- the same on every path ----------------------------------------------------------------------
INLINE vec vec_zero(void) { return vec_set(0); }
#if defined(SIMD_PLAIN) || !defined(__AVX512F__)
INLINE vec vec_load_n(const real *p, size_t n) {           // n < 16 numbers, then zeros
    real t[LANES] = {0};
    memcpy(t, p, n * sizeof *p);
    return vec_load(t);
}
INLINE void vec_store_n(real *p, vec v, size_t n) {
    real t[LANES];
    vec_store(t, v);
    memcpy(p, t, n * sizeof *p);
}
INLINE void vec_transpose(vec r[LANES]) {
    real t[LANES][LANES], u[LANES];
    for (int i = 0; i < LANES; i++) vec_store(t[i], r[i]);
    for (int i = 0; i < LANES; i++) {
        for (int j = 0; j < LANES; j++) u[j] = t[j][i];
        r[i] = vec_load(u);
    }
}
#endif
#if defined(SIMD_PLAIN) || !defined(__AVX2__)
INLINE void vec_turn(vec x[4], const real *row, size_t stride) {
    real t[4][LANES];
    for (size_t j = 0; j < LANES; j++)
        for (size_t i = 0; i < 4; i++) t[i][j] = row[j * stride + i];
    for (int i = 0; i < 4; i++) x[i] = vec_load(t[i]);
}
#endif

// e^x. Argument reduction x = n ln2 + r with ln2 in two parts (Cody and Waite 1980), then the Taylor
// polynomial of degree 7 on |r| <= ln2/2, whose remainder is 5e-9. Exactly 0 below -87, so that a
// masked score of -inf weighs nothing; grows no further above 88. NaN stays NaN.
// The double build calls the C library instead: it is compared with tolerances, never bit by bit.
INLINE vec vec_exp(vec x) {
#ifdef REAL_DOUBLE
    for (int i = 0; i < LANES; i++) x.lane[i] = exp(x.lane[i]);
    return x;
#else
    vec top = vec_set(88), bottom = vec_set(-87);
    vec y = vec_select_less(top, x, top, x);
    y = vec_select_less(y, bottom, bottom, y);
    vec magic = vec_set(12582912);                          // 1.5 * 2^23: adding it rounds to an integer
    vec n = vec_sub(vec_fma(y, vec_set(1.44269504f), magic), magic);
    vec r = vec_fma(n, vec_set(-0.693359375f), y);
    r = vec_fma(n, vec_set(2.12194440e-4f), r);
    vec p = vec_set(1.f / 5040);
    p = vec_fma(p, r, vec_set(1.f / 720));
    p = vec_fma(p, r, vec_set(1.f / 120));
    p = vec_fma(p, r, vec_set(1.f / 24));
    p = vec_fma(p, r, vec_set(1.f / 6));
    p = vec_fma(p, r, vec_set(1.f / 2));
    p = vec_fma(p, r, vec_set(1));
    p = vec_fma(p, r, vec_set(1));
    return vec_select_less(x, bottom, vec_zero(), vec_scale_by_power_of_two(p, n));
#endif
}
INLINE vec vec_sigmoid(vec x) {                             // 1 / (1 + e^-x)
    vec one = vec_set(1);
    return vec_div(one, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
}
// tanh. Below 0.625 an odd polynomial, because there 1 - 2 / (e^2x + 1) would lose digits: fitted here to
// (tanh(x)/x - 1)/x^2 for the least largest relative error, 2e-10.
INLINE vec vec_tanh(vec x) {
#ifdef REAL_DOUBLE
    for (int i = 0; i < LANES; i++) x.lane[i] = tanh(x.lane[i]);
    return x;
#else
    vec square = vec_mul(x, x), p = vec_set(2.14753859e-3f), one = vec_set(1);
    p = vec_fma(p, square, vec_set(-8.18267558e-3f));
    p = vec_fma(p, square, vec_set(2.17029676e-2f));
    p = vec_fma(p, square, vec_set(-5.39472029e-2f));
    p = vec_fma(p, square, vec_set(1.33332103e-1f));
    p = vec_fma(p, square, vec_set(-3.33333313e-1f));
    vec small = vec_fma(vec_mul(x, square), p, x), minus = vec_sub(vec_zero(), x), size = vec_max(x, minus);
    vec large = vec_sub(one, vec_div(vec_set(2), vec_add(vec_exp(vec_add(size, size)), one)));
    large = vec_select_less(x, vec_zero(), vec_sub(vec_zero(), large), large);
    return vec_select_less(size, vec_set(0.625f), small, large);
#endif
}

// Element i.. of a row of n: the tail is padded with zeros, so that lane i%16 sees the same numbers
// whatever the path.
INLINE vec vec_load_at(const real *p, size_t i, size_t n) {
    return i + LANES <= n ? vec_load(p + i) : vec_load_n(p + i, n - i);
}
INLINE void vec_store_at(real *p, size_t i, size_t n, vec v) {
    if (i + LANES <= n) vec_store(p + i, v);
    else vec_store_n(p + i, v, n - i);
}

INLINE vec vec_lane_numbers(void) {
    static const real number[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vec_load(number);
}
// Lanes 0..n-1 of a, the others of b.
INLINE vec vec_first(size_t n, vec a, vec b) { return vec_select_less(vec_lane_numbers(), vec_set((real)n), a, b); }

INLINE real row_dot(const real *a, const real *b, size_t n) {
    vec sum = vec_zero();
    for (size_t i = 0; i < n; i += LANES) sum = vec_fma(vec_load_at(a, i, n), vec_load_at(b, i, n), sum);
    return vec_sum(sum);
}
INLINE void row_scale(real *y, const real *x, real by, size_t n) {     // y may be x
    for (size_t i = 0; i < n; i += LANES) vec_store_at(y, i, n, vec_mul(vec_load_at(x, i, n), vec_set(by)));
}

const char *simd_name(void);
// GFLOP/s of fused multiply-adds in registers on this path with this many threads: the roof.
double simd_fma_peak(int threads);
#endif

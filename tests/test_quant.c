// test_quant.c: matrices in few bits. The codecs against a plain reading of their table, by bytes written out by hand,
// at every edge; what must be refused. tests/quant.py compares them with implementations of others.
#include "kernels/quant.h"
#include "kernels/codec.h"
#include "kernels/quant_matmul.h"
#include "tests/arrays.h"
#include <stdlib.h>

static void random_weights(real *x, size_t n, uint64_t seed) {
    Rng r = rng_stream(seed, RNG_TEST, 20);
    for (size_t i = 0; i < n; i++) x[i] = (real)(float)(0.02 * rng_normal(&r));
}

// ---- small floats --------------------------------------------------------------------------------

// The code of the nearest number, of two equally near ones the even one.
static unsigned nearest(double x, float (*meaning)(unsigned), unsigned count) {
    unsigned best = 0;
    x = x > 1000 ? 1000 : x;                     // where distances still differ
    for (unsigned c = 1; c < count; c++) {
        double off = fabs((double)meaning(c) - x), least = fabs((double)meaning(best) - x);
        if (off < least || (off <= least && c % 2 == 0)) best = c;
    }
    return best;
}

// Every float whose lower half is 0, 1 or all ones: near every midpoint, on both of its sides.
static void small_floats(void) {
    static const uint32_t lower[] = {0, 1, 0xffff};
    for (uint32_t upper = 0; upper < 0x7f80; upper++)
        for (int i = 0; i < 3; i++) {
            uint32_t bits = upper << 16 | lower[i];
            float x;
            memcpy(&x, &bits, sizeof x);
            unsigned code = nearest((double)x, quant_from_e2m1, 8), scale = nearest((double)x, quant_from_e4m3, 127);
            CHECK(quant_e2m1(x) == code, "%.9g is E2M1 %u, not %u", (double)x, quant_e2m1(x), code);
            CHECK(quant_e2m1(-x) == code + 8, "%.9g is E2M1 %u, not %u", (double)-x, quant_e2m1(-x), code + 8);
            CHECK(quant_e4m3(x) == scale, "%.9g is E4M3 %u, not %u", (double)x, quant_e4m3(x), scale);
        }
    CHECK(quant_from_e4m3(0x7e) >= 448 && quant_from_e4m3(8) <= 0x1p-6f && quant_from_e4m3(1) <= 0x1p-9f, "E4M3");
}

// ---- blocks by hand ------------------------------------------------------------------------------

static void encode(Quant q, unsigned char *to, const float *x, size_t columns) {
    real row[80];
    for (size_t i = 0; i < columns; i++) row[i] = (real)x[i];
    quant_encode_rows(q, to, 1, row, 1, columns);
}
static void check_bytes(Quant q, const float *x, size_t columns, const char *expected) {
    unsigned char bytes[100];
    char hex[201];
    size_t n = quant_row_bytes(q.format, columns);
    encode(q, bytes, x, columns);
    for (size_t i = 0; i < n; i++) snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    CHECK(!strcmp(hex, expected), "%s, %s: %s, not %s", quant_name(q.format), quant_mx_name(q.mx_scale), hex, expected);
}

// A half of 1 is 3c00, of 0.5 3800, of 2 4000, of -1 bc00; a float of 1 is 3f800000.
static void bytes_by_hand(void) {
    static const float ramp[] = {7, -7, 3.5f, 2.5f, -0.4f, 0, 1};             // a scale of 1 in int4; ties to even
    check_bytes((Quant){.format = QUANT_int4}, ramp, 7, "003c8f818c8a88888988888888888888" "8888");   // q + 8
    static const float signed_most[] = {-8, 8, 0.5f, -0.5f, 1.5f};            // q4_0: d = 1, halves upwards, at most 7
    check_bytes((Quant){.format = QUANT_q4_0}, signed_most, 5, "003c808f89888a" "8888888888888888888888");
    static const float up[] = {127, -127, 0.5f, -0.5f, 2.5f};                 // q8_0: halves away from 0
    check_bytes((Quant){.format = QUANT_q8_0}, up, 5,
                "003c7f8101ff03" "000000000000000000000000000000000000000000000000000000");
    check_bytes((Quant){.format = QUANT_int8}, up, 5, "0000803f7f81000002");  // to even, and no padding
    static const float asym[] = {-5, 10, 0, 0.5f, 1.5f};                      // d = 1, z = 5
    check_bytes((Quant){.format = QUANT_int4_asym}, asym, 5, "003c505f55555755555555555555555555" "5505");
    static const float three[] = {-4, 3, 1, -1};                              // q + 4: 0 7 5 3, then 4s
    check_bytes((Quant){.format = QUANT_int3}, three, 4, "003c78479224499224499224" "4992");
    static const float two[] = {1.5f, -1.5f, 0.2f, -0.2f};                    // q + 2: 3 0 2 1, then 2s
    check_bytes((Quant){.format = QUANT_int2}, two, 4, "003c63" "aaaaaaaaaaaaaa");
    float trits[32] = {0};
    for (int i = 0; i < 32; i++) trits[i] = i % 2 ? -1 : 1;                   // 2 0 2 0 2 and 0 2 0 2 0 in turn, 0 2
    trits[31] = -1;
    check_bytes((Quant){.format = QUANT_ternary}, trits, 32, "003cb63cb63cb63c02");
    static const float four[] = {6, -6, 0.25f, 0.75f, 2.5f, -0.f};            // E = 2: a scale of 1
    check_bytes((Quant){.format = QUANT_mxfp4}, four, 6, "7f070f000204080000000000000000" "0000");
    static const float seven[] = {7, 3.5f};                                   // 1.75 2^2: even goes up, floor clips
    check_bytes((Quant){.format = QUANT_mxfp4}, seven, 2, "7f07060000000000000000000000000000");
    check_bytes((Quant){QUANT_mxfp4, QUANT_MX_even, false}, seven, 2, "8006040000000000000000000000000000");
    static const float over[] = {6.5f, 1};                                    // 1.625: rceil goes up, even does not
    check_bytes((Quant){QUANT_mxfp4, QUANT_MX_even, false}, over, 2, "7f07020000000000000000000000000000");
    check_bytes((Quant){QUANT_mxfp4, QUANT_MX_rceil, false}, over, 2, "8005010000000000000000000000000000");
}

// ---- against a plain reading ---------------------------------------------------------------------

// One group of integers, in double with the scale that was stored: every code is that of the nearest number, but for
// halves, and the number is q d.
static void check_group(QuantFormat f, const float *x, const real *y, const unsigned char *block) {
    uint16_t half;
    memcpy(&half, block, sizeof half);
    double d = codec_from_half(half), size = fabs(d);
    double low[] = {[QUANT_q8_0] = 127, [QUANT_q4_0] = 8, [QUANT_int4] = 7, [QUANT_int4_full] = 8, [QUANT_int3] = 4,
                    [QUANT_int2] = 1.5, [QUANT_ternary] = 1};
    double high[] = {[QUANT_q8_0] = 127, [QUANT_q4_0] = 7, [QUANT_int4] = 7, [QUANT_int4_full] = 7, [QUANT_int3] = 3,
                     [QUANT_int2] = 1.5, [QUANT_ternary] = 1};
    for (size_t i = 0; i < 32; i++) {
        double wanted = (double)x[i] / d, found = (double)y[i] / d;
        wanted = wanted < -low[f] ? -low[f] : wanted > high[f] ? high[f] : wanted;
        CHECK(fabs(found - wanted) <= (f == QUANT_q8_0 ? 0.57 : 0.505) && fabs((double)y[i]) <= (low[f] + 1e-6) * size,
              "%s: %.9g became %.9g with a scale of %.9g", quant_name(f), (double)x[i], (double)y[i], d);
        double codes = found - (f == QUANT_int2 ? 0.5 : 0);
        CHECK(fabs(codes - nearbyint(codes)) < 1e-5, "%s: %.9g is no multiple of %.9g", quant_name(f), (double)y[i], d);
    }
}

static void groups(void) {
    enum { COUNT = 3000 };
    for (int f = QUANT_q8_0; f <= QUANT_ternary; f++) {
        if (f == QUANT_int4_asym) continue;
        for (int search = 0; search < 2; search++) {
            real *x = array(32 * COUNT), *y = array(32 * COUNT);
            size_t bytes = quant_row_bytes((QuantFormat)f, 32);
            unsigned char *held = array_bytes(COUNT * bytes);
            random_weights(x, 32 * COUNT, 1);
            Quant q = {.format = (QuantFormat)f, .search = search};
            quant_encode_rows(q, held, 1, x, COUNT, 32);
            quant_decode_rows(q.format, y, held, 1, COUNT, 32);
            for (size_t g = 0; g < COUNT; g++) {
                float wide[32];
                for (size_t i = 0; i < 32; i++) wide[i] = (float)x[32 * g + i];
                check_group(q.format, wide, y + 32 * g, held + g * bytes);
            }
            quant_round(q, x, x, COUNT, 32);
            CHECK(same_bits(x, y, 32 * COUNT), "%s: rounding in place is another thing", quant_name(q.format));
            arrays_free();
        }
    }
}

// The relative squared error of normal numbers, which the literature and a few lines of algebra know: rounding to steps
// of d adds d^2/12. Search lowers it.
static void errors(void) {
    static const double most[] = {[QUANT_int8] = 8e-5, [QUANT_q8_0] = 3e-5, [QUANT_q4_0] = 0.0076,
                                  [QUANT_int4] = 0.0096, [QUANT_int4_full] = 0.0092, [QUANT_int4_asym] = 0.0067,
                                  [QUANT_int3] = 0.031, [QUANT_int2] = 0.21, [QUANT_ternary] = 0.26,
                                  [QUANT_mxfp4] = 0.0133, [QUANT_nvfp4] = 0.0092};
    enum { ROWS = 20, COLUMNS = 4096 };
    real *x = array(ROWS * COLUMNS), *y = array(ROWS * COLUMNS);
    random_weights(x, ROWS * COLUMNS, 2);
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++) {
        double error[2], all = 0;
        for (int search = 0; search < 2; search++) {
            quant_round((Quant){.format = (QuantFormat)f, .search = search}, y, x, ROWS, COLUMNS);
            error[search] = all = 0;
            for (size_t i = 0; i < ROWS * COLUMNS; i++) {
                double off = (double)x[i] - (double)y[i];
                error[search] += off * off, all += (double)x[i] * (double)x[i];
            }
        }
        CHECK(error[0] <= most[f] * all && error[0] > 0.9 * most[f] * all, "%s: a relative squared error of %.3g",
              quant_name((QuantFormat)f), error[0] / all);
        CHECK(f == QUANT_int8 || error[1] < error[0], "%s: searching does not help", quant_name((QuantFormat)f));
    }
    arrays_free();
}

// ---- edges ---------------------------------------------------------------------------------------

// Many numbers at a time are the bytes of one after the other.
static void naive(void) {
    enum { ROWS = 60 };
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (int how = 0; how < 6; how++)
            for (size_t columns = 32; columns <= 256; columns += columns < 100 ? 23 : 156) {
                Quant q = {(QuantFormat)f, (QuantMxScale)(how % 3), how / 3};
                size_t bytes = ROWS * quant_row_bytes(q.format, columns);
                real *x = array(ROWS * columns), *y = array(ROWS * columns), *z = array(ROWS * columns);
                unsigned char *fast = array_bytes(bytes), *slow = array_bytes(bytes);
                random_weights(x, ROWS * columns, columns + (size_t)how);
                for (size_t i = 0; i < ROWS * columns; i++) {
                    size_t row = i / columns;                        // ties, zeros, one outlier, tiny and huge numbers
                    if (row < 8) x[i] = (real)(rintf((float)x[i] * 80) / 4);
                    if (row >= 8 && row < 16) x[i] = i % 7 ? 0 : i % 3 ? x[i] : -x[i];
                    if (row == 16) x[i] = i % 2 ? (real)0 : (real)-0.f;
                    if (row > 16 && row < 24) x[i] *= i % 32 == 5 ? 1000 : 1;
                    if (row >= 24 && row < 36) x[i] *= (real)ldexpf(1, 4 - 12 * ((int)row - 24));
                    if (row == 36 && f != QUANT_nvfp4) x[i] = (real)((i % 5 ? 1.f : -1.f) * (i % 3 ? 65504.f : 1));
                }
                float scale = quant_tensor_scale(q.format, x, ROWS * columns);
                quant_encode_rows(q, fast, scale, x, ROWS, columns);
                quant_encode_rows_naive(q, slow, scale, x, ROWS, columns);
                CHECK(!memcmp(fast, slow, bytes), "%s, search %d: other bytes", quant_name(q.format), how / 3);
                quant_decode_rows(q.format, y, slow, scale, ROWS, columns);
                quant_round(q, z, x, ROWS, columns);
                for (size_t i = 0; i < ROWS * columns; i++)
                    CHECK(y[i] == z[i], "%s: %.9g, not %.9g", quant_name(q.format), (double)z[i], (double)y[i]);
                arrays_free();
            }
}

// A row whose end is no whole block is the row with zeros behind it; each row begins at its bytes; nothing is written
// beyond the last, or read.
static void ends(void) {
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (size_t columns = 1; columns < 140; columns += 23) {
            enum { ROWS = 3 };
            Quant q = {.format = (QuantFormat)f};
            size_t bytes = quant_row_bytes(q.format, columns), whole = round_up(columns, quant_block(q.format));
            real *x = array(ROWS * columns), *y = array(ROWS * columns), *padded = array(whole);
            unsigned char *held = array_bytes(ROWS * bytes), *other = array_bytes(quant_row_bytes(q.format, whole));
            random_weights(x, ROWS * columns, columns);
            quant_encode_rows(q, held, 1, x, ROWS, columns);
            quant_decode_rows(q.format, y, held, 1, ROWS, columns);
            CHECK(quant_row_bytes(q.format, whole) == bytes, "%s: %zu columns", quant_name(q.format), columns);
            for (size_t r = 0; r < ROWS; r++) {
                memcpy(padded, x + r * columns, columns * sizeof *x);
                quant_encode_rows(q, other, 1, padded, 1, whole);
                CHECK(!memcmp(other, held + r * bytes, bytes), "%s: row %zu of %zu columns", quant_name(q.format), r,
                      columns);
                quant_decode_rows(q.format, padded, other, 1, 1, whole);
                CHECK(same_bits(padded, y + r * columns, columns), "%s: row %zu came back", quant_name(q.format), r);
            }
            arrays_free();
        }
}

// Zeros come back as zeros; what is far too small for a scale as well, and nothing as a NaN. What has its place on the
// grid comes back as it was.
static void zeros_and_limits(void) {
    static const float sizes[] = {0, 0x1p-149f, 0x1.fp-140f, 0x1p-130f, 0x1p-127f, 0x1p-126f, 1e-30f, 1e-8f, 3e-6f, 1,
                                  65504, 1e30f, 0x1p127f};
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int search = 0; search < 2; search++) {
                real x[64] = {0}, y[64];
                bool has_range = f == QUANT_int8 || f == QUANT_mxfp4 || f == QUANT_nvfp4;
                if (sizes[s] > 65504 && !has_range) continue;
                x[3] = (real)sizes[s], x[40] = (real)-sizes[s], x[5] = (real)(sizes[s] / 3);
                quant_round((Quant){(QuantFormat)f, QUANT_MX_floor, search}, y, x, 1, 64);
                for (size_t i = 0; i < 64; i++)
                    CHECK(fabs((double)y[i] - (double)x[i]) <= fabs((double)sizes[s]),
                          "%s, search %d: %.9g became %.9g beside %.9g", quant_name((QuantFormat)f), search,
                          (double)x[i], (double)y[i], (double)sizes[s]);
                if (sizes[s] >= 1 && f != QUANT_int2 && f != QUANT_ternary)      // whose scales are of the many small
                    CHECK(fabs((double)y[3] / (double)x[3] - 1) < 0.34, "%s: %.9g became %.9g",
                          quant_name((QuantFormat)f), (double)x[3], (double)y[3]);
            }
}

typedef struct { Quant q; float number, tensor_scale; } Refusal;
static void encode_refused(void *argument) {
    Refusal *r = argument;
    static unsigned char held[200];
    real x[2 * 64] = {0};
    x[64 + 5] = (real)r->number;
    quant_encode_rows(r->q, held, r->tensor_scale, x, 2, 64);
}
static void round_refused(void *argument) {
    Refusal *r = argument;
    real x[2 * 64] = {0};
    x[64 + 5] = (real)r->number;
    quant_round(r->q, x, x, 2, 64);
}
static void refusals(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (int i = 0; i < 3; i++) {
            Refusal r = {{.format = (QuantFormat)f}, bad[i], 1};
            CHECK(test_fails(1, "row 1, column 5", encode_refused, &r), "%s, %g: %s", quant_name((QuantFormat)f),
                  (double)bad[i], test_message);
            CHECK(test_fails(1, "row 1, column 5", round_refused, &r), "%s, %g: %s", quant_name((QuantFormat)f),
                  (double)bad[i], test_message);
        }
    Refusal huge = {{.format = QUANT_int8}, FLT_MAX, 1};
    CHECK(test_fails(1, "at most 1.7", encode_refused, &huge), "%s", test_message);
    Refusal large = {{.format = QUANT_q8_0}, 65536, 1}, none = {{.format = QUANT_nvfp4}, 1, 0};
    Refusal clipped = {{.format = QUANT_nvfp4}, 2800, 1}, other = {{.format = QUANT_q4_0}, 1, 2};
    CHECK(test_fails(1, "at most 65504", encode_refused, &large), "%s", test_message);
    CHECK(test_fails(1, "at most 2784", encode_refused, &clipped), "%s", test_message);
    CHECK(test_fails(1, "tensor scale", encode_refused, &none), "%s", test_message);
    CHECK(test_fails(1, "tensor scale", encode_refused, &other), "%s", test_message);
}

static void names(void) {
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++) {
        QuantFormat found = QUANT_FORMAT_COUNT;
        CHECK(quant_find(quant_name((QuantFormat)f), &found) && (int)found == f, "%s", quant_name((QuantFormat)f));
    }
    QuantFormat f;
    QuantMxScale rule;
    CHECK(!quant_find("q8", &f) && !quant_find("", &f) && !quant_mx_find("ceil", &rule), "a name of nothing");
    CHECK(quant_mx_find("rceil", &rule) && rule == QUANT_MX_rceil && !strcmp(quant_mx_name(rule), "rceil"), "rceil");
}

// ---- products ------------------------------------------------------------------------------------

typedef struct { QuantFormat format; size_t M, N, K; real *x, *bias; unsigned char *rows, *packed; float scale; } Case;

static void case_pack(Case *c) {
    c->packed = array_bytes(quant_packed_bytes(c->format, c->N, c->K));
    quant_pack(c->packed, c->format, c->rows, c->N, c->K);
}
static Case case_new(QuantFormat f, size_t M, size_t N, size_t K) {
    Case c = {.format = f, .M = M, .N = N, .K = K, .x = array(M * K), .bias = array(N)};
    real *w = array(N * K);
    random_weights(w, N * K, M + N), random_weights(c.x, M * K, K), random_weights(c.bias, N, 3);
    c.rows = array_bytes(N * quant_row_bytes(f, K)), c.scale = quant_tensor_scale(f, w, N * K);
    quant_encode_rows((Quant){.format = f}, c.rows, c.scale, w, N, K);
    case_pack(&c);
    return c;
}
static real *case_run(const Case *c, bool biased) {
    QuantWeight w = {c->format, c->N, c->K, c->scale, c->packed};
    QuantRows rows = quant_rows(array_bytes(quant_rows_bytes(c->M, c->K)), c->x, c->K, c->M, c->K);
    real *y = array(c->M * c->N);
    quant_product(y, c->N, &rows, &w, biased ? c->bias : NULL);
    return y;
}
static real *case_naive(const Case *c, bool biased) {
    real *y = array(c->M * c->N);
    quant_product_naive(y, c->N, c->x, c->K, c->M, c->rows, c->format, c->scale, c->N, c->K, biased ? c->bias : NULL);
    return y;
}

static void twins(void) {
    static const size_t rows[] = {1, 2, 3, 5, 8, 17}, outputs[] = {1, 16, 40}, depths[] = {1, 32, 100, 256};
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (size_t i = 0; i < 6 * 3 * 4 * 2; i++) {
            bool biased = i % 2;
            Case c = case_new((QuantFormat)f, rows[i / 2 % 6], outputs[i / 12 % 3], depths[i / 36]);
            CHECK(same_bits(case_run(&c, biased), case_naive(&c, biased), c.M * c.N),
                  "%s, %zu rows by %zu outputs of %zu numbers, bias %d, by %s", quant_name(c.format), c.M, c.N, c.K,
                  biased, quant_product_path());
            arrays_free();
        }
}

// All codes that a file may hold, -128 among them, by the largest activations of either sign: no sum in 16 bits may
// overflow. Scales are left as they are, but for the least ones of E8M0, which are no normal floats.
static void extremes(void) {
    enum { M = 4, N = 48, K = 256 };
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (int kind = 0; kind < 4; kind++) {
            Case c = case_new((QuantFormat)f, M, N, K);
            size_t bytes = quant_row_bytes(c.format, K), block = quant_row_bytes(c.format, quant_block(c.format));
            size_t head = f == QUANT_int8 || f == QUANT_nvfp4 ? 4 : f == QUANT_mxfp4 ? 1 : 2;
            Rng r = rng_stream((uint64_t)kind, RNG_TEST, 22);
            block = f == QUANT_int8 ? bytes : f == QUANT_int4_asym ? 18 : block;
            for (size_t i = 0; i < N * bytes; i++) {
                bool is_scale = i % bytes % block < head && (f != QUANT_int4_asym || i % bytes < 18 * (K / 32));
                int byte = kind == 0 ? 0 : kind == 1 ? 0xff : kind == 2 ? 0x80 : (int)rng_below(&r, 256);
                if (f == QUANT_ternary) byte %= 243;                  // of five numbers
                if (!is_scale) c.rows[i] = (unsigned char)byte;
                else if (f == QUANT_mxfp4 && kind == 3) c.rows[i] = (unsigned char)(i / bytes % 3);   // the least ones
            }
            for (size_t i = 0; i < M * K; i++) c.x[i] = i / K % 2 ? -1 : i / K == 2 && i % 3 ? -1 : 1;
            case_pack(&c);
            CHECK(same_bits(case_run(&c, true), case_naive(&c, true), M * N), "%s, bytes of kind %d, by %s",
                  quant_name(c.format), kind, quant_product_path());
            arrays_free();
        }
}

// Against the product of what weights and activations mean, in double.
static void meaning(void) {
    enum { M = 3, N = 20, K = 200 };
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++) {
        Case c = case_new((QuantFormat)f, M, N, K);
        real *w = array(N * K), *y = case_run(&c, true);
        quant_decode_rows(c.format, w, c.rows, c.scale, N, K);
        QuantRows rows = quant_rows(array_bytes(quant_rows_bytes(M, K)), c.x, K, M, K);
        for (size_t i = 0; i < M * N; i++) {
            double sum = (double)c.bias[i % N], all = 0;
            for (size_t k = 0; k < K; k++) {
                size_t m = i / N;
                double x = rows.q[m * rows.groups * 32 + k] * (double)rows.scale[k / 32 * rows.M + m];
                CHECK(fabs(x - (double)c.x[m * K + k]) <= 0.501 * (double)rows.scale[k / 32 * rows.M + m],
                      "%.9g became %.9g", (double)c.x[m * K + k], x);
                sum += (double)w[i % N * K + k] * x, all += fabs((double)w[i % N * K + k] * x);
            }
            CHECK(fabs((double)y[i] - sum) <= 2e-6 * all + 1e-9, "%s: %.9g, not %.9g", quant_name(c.format),
                  (double)y[i], sum);
        }
        arrays_free();
    }
}

// A number that is none spoils the products of its row and no other; zeros and the smallest ones are zeros.
static void activations_at_the_edge(void) {
    enum { M = 3, N = 17, K = 70 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        Case c = case_new(QUANT_q8_0, M, N, K);
        c.x[K + 65] = (real)bad[i];
        real *y = case_run(&c, false);
        for (size_t j = 0; j < M * N; j++) CHECK((bool)isnan(y[j]) == (j / N == 1), "row %zu: %g", j / N, (double)y[j]);
        for (size_t k = 0; k < K; k++) c.x[k] = k % 2 ? (real)1e-40 : 0;
        y = case_run(&c, false);
        for (size_t j = 0; j < N; j++) CHECK(y[j] <= 0 && y[j] >= 0, "%g of zeros", (double)y[j]);
        arrays_free();
    }
}

// The digest of bytes and products of every format, on every machine, with any number of threads.
static void digest(void) {
    static const uint64_t expected[QUANT_FORMAT_COUNT] = {
        0x1c2e3a8020a19e66, 0xfb0df0da4247a008, 0xdcca2aa103464fbd, 0x8327620eedf20363, 0x1578eb085201be83,
        0x11ecbcae6cd68b4f, 0x86cdb17925d71d6d, 0x0712bab1534ea363, 0xc63356539c053cd2, 0x3e474ae8a5199e5a,
        0x98c0290f2fa3c379};
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++) {
        enum { M = 5, N = 77, K = 416 };
        Case c = case_new((QuantFormat)f, M, N, K);
        uint64_t h = hash_bytes(HASH_START, c.rows, N * quant_row_bytes(c.format, K));
        h = hash_bytes(h, c.packed, quant_packed_bytes(c.format, N, K));
        h = hash_bytes(h, case_run(&c, true), M * N * sizeof(real));
        CHECK(h == expected[f] || sizeof(real) == sizeof(double), "%s: %016llx", quant_name(c.format),
              (unsigned long long)h);
        arrays_free();
    }
}

static const Test tests[] = {
    {"quant/floats", "E2M1 and E4M3 are the nearest numbers, ties to even", small_floats},
    {"quant/bytes", "blocks are the bytes that the table says, written out by hand", bytes_by_hand},
    {"quant/groups", "every code is that of the nearest number under the scale that is stored", groups},
    {"quant/errors", "normal numbers have the error that each format is known for, and search lowers it", errors},
    {"quant/naive", "many numbers at a time become the bytes of the plain reading, and round to what they mean", naive},
    {"quant/ends", "the end of a row is filled up with zeros, and nothing is touched beyond it", ends},
    {"quant/limits", "zeros, subnormals and the largest numbers come back finite and near", zeros_and_limits},
    {"quant/refusals", "what no code can mean is refused with its place", refusals},
    {"quant/products", "products are those of the definition, bit for bit", twins},
    {"quant/extremes", "no sum overflows, whatever bytes a file holds", extremes},
    {"quant/meaning", "a product is that of what weights and activations mean", meaning},
    {"quant/activations", "what is no number spoils its own row alone; the smallest are zeros",
     activations_at_the_edge},
    {"quant/digest", "bytes and products have the recorded digest on every machine", digest},
    {"quant/names", "formats and rules are found by their names", names},
};
REGISTER_TESTS(tests)

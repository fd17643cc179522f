// test_keep.c: caches that keep a part of a text, or keep it in few bits. The twin of a policy is its definition: for
// each query a list of positions and plain loops over it in double precision. The twin of a codec is its formula. And
// no text may show how it was cut, what it shared a step with, or where its blocks stand.
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "config/generate.h"
#include "kernels/codec.h"
#include "infer/questions.h"
#include "lib/rng.h"
#include "model/keep_attention.h"
#include "model.h"
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

// ---- codecs --------------------------------------------------------------------------------------

static void test_halves(void) {
    for (unsigned h = 0; h < 0x10000; h++) {
        double x = codec_from_half((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00) continue;                    // infinities and NaN are never made of a number
        CHECK(codec_half(x) == h, "%04x is %.9g and comes back as %04x", h, x, codec_half(x));
    }
    static const struct { double x; unsigned half; } known[] = {   // IEEE 754-2019, table 3.5, and ties to even
        {1, 0x3c00}, {-2, 0xc000}, {65504, 0x7bff}, {1e9, 0x7bff}, {0x1p-24, 1}, {0x1p-25, 0}, {0x1.8p-24, 2},
        {1 + 0x1p-11, 0x3c00}, {1 + 0x3p-11, 0x3c02}, {0x1.ffcp0, 0x3fff}, {0x1.ffep0, 0x4000}, {0x1.ffep-15, 0x400}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        CHECK(codec_half(known[i].x) == known[i].half, "%a: %04x", known[i].x, codec_half(known[i].x));
}

// KIVI, equation 2: code = round((x - least) / step), and back; step = (most - least) / (2^bits - 1).
static double rounded_naive(const real *x, size_t n, size_t i, int bits) {
    double least = (double)x[0], most = (double)x[0];
    for (size_t j = 0; j < n; j++) least = fmin(least, (double)x[j]), most = fmax(most, (double)x[j]);
    double zero = codec_from_half(codec_half(least));
    double step = codec_from_half(codec_half((most - least) / (pow(2, bits) - 1)));
    if (step == 0) return zero;
    return zero + step * fmin(fmax(nearbyint(((double)x[i] - zero) / step), 0), pow(2, bits) - 1);
}

static void test_groups(void) {
    Rng r = rng_stream(1, RNG_TEST, 0);
    for (size_t trial = 0; trial < 300; trial++) {
        static const int all[] = {2, 4, 8};
        int bits = all[trial % 3];
        size_t n = 1 + rng_below(&r, 70), stride = 1 + rng_below(&r, 3);
        real x[210], group[70], most = 0;
        unsigned char held[80];
        for (size_t i = 0; i < n; i++) group[i] = x[i * stride] = (real)(rng_normal(&r) + 3 * rng_uniform(&r));
        CHECK(codec_bytes(n, (size_t)bits) == 4 + (n * (size_t)bits + 7) / 8, "%zu", codec_bytes(n, (size_t)bits));
        codec_encode(held, x, stride, n, (size_t)bits), codec_decode(x, stride, held, n, (size_t)bits);
        for (size_t i = 0; i < n; i++) {
            double expected = rounded_naive(group, n, i, bits);
            most = (real)fmax((double)most, fabs((double)(x[i * stride] - group[i])));
            CHECK((double)x[i * stride] == (double)(real)expected, "%d bits, %zu of %zu: %.9g, not %.9g", bits, i, n,
                  (double)x[i * stride], expected);
        }
        CHECK(bits < 8 || most < 0.03f, "8 bits are off by %g", (double)most);
    }
}

static void test_extremes(void) {
    real same[5] = {0.3f, 0.3f, 0.3f, 0.3f, 0.3f}, zero[3] = {0, 0, 0}, large[2] = {-1e30f, 1e30f};
    codec_round(same, 1, 5, 2), codec_round(zero, 1, 3, 4), codec_round(large, 1, 2, 8);
    for (size_t i = 0; i < 5; i++) CHECK((double)same[i] == codec_from_half(codec_half(0.3f)), "%g", (double)same[i]);
    CHECK(zero[0] == 0 && zero[2] == 0, "all zeros stay so");
    CHECK(isfinite((double)large[0]) && isfinite((double)large[1]), "%g %g", (double)large[0], (double)large[1]);
    static const struct { real x, brain; } known[] = {               // ties to even, at 8 digits
        {1, 1}, {1 + 0x1p-8f, 1}, {1 + 0x3p-8f, 1 + 0x1p-6f}, {1 + 0x1.1p-8f, 1 + 0x1p-7f}, {-0x1.8p100f, -0x1.8p100f}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        real x = known[i].x;
        codec_round(&x, 1, 1, 16);
        CHECK(x == known[i].brain, "bfloat16 of %a: %a", (double)known[i].x, (double)x);
    }
}

// What a sealed run gives back is codec_round of each group, whichever of its tokens are asked for.
static void check_run(CodecRun run, real least, real most, Rng *r) {
    size_t n = run.group * run.width;
    real *x = xmalloc(n * sizeof *x), *expected = xmalloc(n * sizeof *x), *found = xmalloc(n * sizeof *x);
    unsigned char *packed = xmalloc(codec_run_bytes(run));
    for (size_t i = 0; i < n; i++) x[i] = least + (most - least) * (real)rng_uniform(r);
    memcpy(expected, x, n * sizeof *x);
    for (size_t d = 0; !run.values && d < run.width; d++) codec_round(expected + d, run.width, run.group, run.bits);
    for (size_t t = 0; run.values && t < run.group; t++)
        for (size_t d = 0; d < run.width; d += run.group)
            codec_round(expected + t * run.width + d, 1, smaller(run.group, run.width - d), run.bits);
    codec_seal(packed, x, run);
    for (size_t trial = 0; trial < 6; trial++) {
        size_t first = trial ? rng_below(r, (uint32_t)run.group) : 0;
        size_t some = trial ? 1 + rng_below(r, (uint32_t)(run.group - first)) : run.group;
        codec_unseal(found, packed, run, first, some);
        CHECK(!memcmp(found, expected + first * run.width, some * run.width * sizeof *x),
              "%zu bits, %zu tokens of %zu %s: others from %zu on", run.bits, run.group, run.width,
              run.values ? "values" : "keys", first);
    }
    free(x), free(expected), free(found), free(packed);
}
static void test_runs(void) {
    static const size_t bits[] = {8, 4, 2}, groups[] = {2, 5, 16, 24, 32, 64}, widths[] = {1, 8, 16, 21, 32, 64, 80};
    static const real ranges[][2] = {{-1, 1}, {0, 0}, {3, 3}, {-0x1p-20f, 0x1p-21f}, {-9e4f, 1e6f}, {1e-30f, 2e-30f}};
    Rng r = rng_stream(12, RNG_TEST, 0);
    for (size_t b = 0; b < 3; b++)
        for (size_t g = 0; g < 6; g++)
            for (size_t w = 0; w < 7; w++)
                for (size_t i = 0; i < 12; i++)
                    check_run((CodecRun){bits[b], groups[g], widths[w], i % 2}, ranges[i / 2][0], ranges[i / 2][1], &r);
}

// ---- policies against their definition -----------------------------------------------------------

enum { H = 4, KV = 2, D = 8, LONG = 60, ROW = (H + 2 * KV) * D, VOCAB = 23 };
enum { WIDE = 64, ROW_WIDE = (H + 2 * KV) * WIDE };
static Model *open_model(const char *flags) {
    Config c = config_of("--width 32 --heads 4 --layers 2 --context 160 --ffn-width 40 --init-scale 10", flags, VOCAB);
    return model_new(&c, false);
}

static KeepOptions options(const char *flags) {
    GenerateOptions o;
    flags_parse_text(&generate_table, &o, flags, NULL);
    return keep_options(&generate_table, &o);
}

// What one head's query meets: positions, and how many of them a pair stands for.
typedef struct { size_t n, at[LONG], run[LONG]; double score[LONG], k[LONG][D], v[LONG][D]; } Kept;
typedef struct { const real *qkv; const KeepOptions *o; size_t prompt; const AttnShape *s; } Given;

static void rotate_naive(double *x, double position) {               // the pairs of d and d + D/2, base 10000
    for (size_t d = 0; d < D / 2; d++) {
        double angle = position * pow(10000, -2.0 * (double)d / D), a = x[d], b = x[d + D / 2];
        x[d] = a * cos(angle) - b * sin(angle), x[d + D / 2] = b * cos(angle) + a * sin(angle);
    }
}

static double draw(const KeepOptions *o, size_t position) {
    uint32_t out[4];
    philox(out, o->seed, RNG_KEEP, position);
    return out[0];
}

static void drop(Kept *c, size_t i) {
    for (c->n--; i < c->n; i++) {
        c->at[i] = c->at[i + 1], c->run[i] = c->run[i + 1], c->score[i] = c->score[i + 1];
        memcpy(c->k[i], c->k[i + 1], sizeof *c->k), memcpy(c->v[i], c->v[i + 1], sizeof *c->v);
    }
}

// The one that is worth least, by the words of keep.h.
static size_t least(const Kept *c, const Given *g) {
    size_t found = SIZE_MAX, watching = smaller(KEEP_WATCHED, (g->o->budget + 1) / 2);
    double lowest = INFINITY;
    size_t recent = g->o->budget / 2 - 1;
    for (size_t i = 0; i < c->n; i++) {
        double worth = (double)c->at[i];
        if (g->o->policy == KV_POLICY_sink && c->at[i] < 4) continue;
        if (g->o->policy == KV_POLICY_random) worth = draw(g->o, c->at[i]);
        if (g->o->policy == KV_POLICY_h2o && i + recent >= c->n) continue;
        if (g->o->policy == KV_POLICY_h2o) worth = c->score[i];
        if (g->o->policy == KV_POLICY_snapkv && c->at[i] + watching >= g->prompt) continue;
        if (g->o->policy == KV_POLICY_snapkv) worth = c->score[i];
        if (g->o->policy == KV_POLICY_oracle && g->o->wanted[c->at[i]]) continue;
        if (worth < lowest) lowest = worth, found = i;
    }
    return found;
}

// snapkv: the sums of five neighbours, before any pair goes.
static void smooth(Kept *c, size_t end) {
    double sum[LONG] = {0};
    for (size_t i = 0; i < end; i++)
        for (size_t j = 0; j < end; j++) sum[i] += (i > j ? i - j : j - i) <= 2 ? c->score[j] : 0;
    memcpy(c->score, sum, sizeof sum);
}

static void merge_naive(Kept *c, size_t run) {
    Kept merged = {0};
    for (size_t i = 0; i < c->n; i += run, merged.n++) {
        size_t end = smaller(i + run, c->n), many = end - i;
        merged.at[merged.n] = c->at[(i + end - 1) / 2], merged.run[merged.n] = many;
        for (size_t j = i; j < end; j++)
            for (size_t d = 0; d < D; d++)
                merged.k[merged.n][d] += c->k[j][d] / (double)many, merged.v[merged.n][d] += c->v[j][d] / (double)many;
    }
    *c = merged;
}

// The query of head h at position p; its weights count where the policy looks.
static void attend_naive(Kept *c, const Given *g, size_t p, size_t h, double *out) {
    double weight[LONG], total = 0;
    bool rotates = g->o->packed || g->o->policy == KV_POLICY_pool;
    for (size_t i = 0; i < c->n; i++) {
        double q[D], k[D], score = 0;
        for (size_t d = 0; d < D; d++) q[d] = (double)g->qkv[p * ROW + h * D + d], k[d] = c->k[i][d];
        if (rotates) rotate_naive(q, (double)(g->o->packed ? c->n - 1 : p));
        if (rotates) rotate_naive(k, (double)(g->o->packed ? i : c->at[i]));
        for (size_t d = 0; d < D; d++) score += q[d] * k[d];
        total += weight[i] = exp(score * g->s->scale) * (double)c->run[i];
    }
    for (size_t d = 0; d < D; d++) out[d] = 0;
    for (size_t i = 0; i < c->n; i++) {
        for (size_t d = 0; d < D; d++) out[d] += weight[i] / total * c->v[i][d];
        size_t watching = smaller(KEEP_WATCHED, (g->o->budget + 1) / 2);
        bool counts = g->o->policy == KV_POLICY_h2o ||
                      (g->o->policy == KV_POLICY_snapkv && p < g->prompt && p + watching >= g->prompt);
        if (counts) c->score[i] += weight[i] / total;
    }
}

// out [LONG, H*D]; held [LONG]: pairs that the query saw.
static void policy_naive(const Given *g, double *out, size_t *held) {
    size_t begin = g->o->from ? g->o->from : g->prompt, budget = g->o->budget;
    bool chosen_once = g->o->policy >= KV_POLICY_snapkv;
    for (size_t head = 0; head < KV; head++) {
        Kept c = {0};
        for (size_t p = 0; p < LONG; p++) {
            for (size_t d = 0; d < D; d++) {
                c.k[c.n][d] = (double)g->qkv[p * ROW + (H + head) * D + d];
                c.v[c.n][d] = (double)g->qkv[p * ROW + (H + KV + head) * D + d];
            }
            c.at[c.n] = p, c.run[c.n] = 1, c.score[c.n++] = 0;
            held[p] = c.n;
            for (size_t h = 2 * head; h < 2 * head + 2; h++) attend_naive(&c, g, p, h, out + (p * H + h) * D);
            if (p + 1 < begin || (chosen_once && p + 1 > begin)) continue;
            size_t stays = chosen_once ? budget : budget - 1;
            if (g->o->policy == KV_POLICY_pool && c.n > budget) merge_naive(&c, (c.n + budget - 1) / budget);
            if (g->o->policy == KV_POLICY_snapkv)
                smooth(&c, c.n - smaller(KEEP_WATCHED, (budget + 1) / 2));
            while (c.n > stays) drop(&c, least(&c, g));
        }
    }
}

static void check_policy(Model *m, const char *flags, size_t prompt) {
    Rng r = rng_stream(3, RNG_TEST, prompt);
    KeepOptions o = options(flags);
    bool wanted[LONG];
    real qkv[LONG * ROW], out[LONG * H * D];
    double expected[LONG * H * D], worst = 0;
    size_t held[LONG];
    AttnShape s = {.H = H, .KV = KV, .D = D, .Dv = D, .scale = 1 / sqrt(D), .kernel = ATTENTION_flash, .tile = 32};
    for (size_t i = 0; i < LONG; i++) wanted[i] = rng_below(&r, 9) == 0;
    for (size_t i = 0; i < LONG * ROW; i++) qkv[i] = (real)(1.5 * rng_normal(&r));
    o.wanted = wanted, o.wanted_count = LONG;
    policy_naive(&(Given){qkv, &o, prompt, &s}, expected, held);
    Cache *c = cache_new_kept(m, 1, LONG, &o, prompt);
    for (size_t done = 0, n; done < LONG; done += n) {
        n = smaller(LONG - done, 1 + rng_below(&r, 25));
        Row row = {.n = n, .past = done, .block = c->table, .prompt = prompt};
        Batch b = {.B = n, .T = 1, .M = n, .inference = true, .paged = {c->blocks, &row, 1}};
        const real *at = qkv + done * ROW;
        keep_attention(m, 0, (AttnOutput){.out = out + done * H * D, .out_stride = H * D},
                       (KeepInput){at, ROW, at + H * D, at + (H + KV) * D, ROW}, s, &b);
    }
    for (size_t i = 0; i < LONG * H * D; i++) worst = fmax(worst, fabs((double)out[i] - expected[i]));
    CHECK(worst < 2e-5, "%s, a prompt of %zu: off by %g", flags, prompt, worst);
    for (size_t p = 0; p < LONG; p++) {
        bool once = o.policy >= KV_POLICY_snapkv;
        size_t most = p < keep_begin(&o, prompt) ? p + 1 : keep_held(&o, prompt, p) + 1;
        CHECK(held[p] == most && (once || p < keep_begin(&o, prompt) || most <= o.budget),
              "%s: %zu pairs at %zu, not %zu", flags, most, p, held[p]);
    }
    cache_free(c);
}

static void test_policies(void) {
    Model *m = open_model("--attn gqa --kv-heads 2");
    static const char *const flags[] = {
        "--kv-policy window --kv-budget 11", "--kv-policy window --kv-budget 1 --kv-from 1",
        "--kv-policy sink --kv-budget 9", "--kv-policy sink --kv-budget 12 --kv-from 1 --kv-positions packed",
        "--kv-policy random --kv-budget 10 --kv-seed 4", "--kv-policy random --kv-budget 7 --kv-from 15",
        "--kv-policy window --kv-budget 8 --kv-positions packed",
        "--kv-policy h2o --kv-budget 12", "--kv-policy h2o --kv-budget 7 --kv-from 1",
        "--kv-policy h2o --kv-budget 9 --kv-positions packed", "--kv-policy snapkv --kv-budget 13",
        "--kv-policy snapkv --kv-budget 6 --kv-positions packed", "--kv-policy oracle --kv-budget 20",
        "--kv-policy pool --kv-budget 9", "--kv-policy pool --kv-budget 14 --kv-positions packed"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        for (size_t prompt = 24; prompt < 45; prompt += 9) check_policy(m, flags[i], prompt);
    model_free(m);
}

// ---- few bits against their definition ----------------------------------------------------------

// What the query at position p sees of n tokens x [n, ROW] from column `from` on.
static void seen_by(real *x, const KeepOptions *o, size_t from, size_t width, bool values, size_t p) {
    size_t row = ROW_WIDE, sealed = keep_rounded(o, p);
    for (size_t i = 0; i <= p && o->quant != WEIGHTS_none; i++) {
        unsigned char held[4 * WIDE];
        quant_encode_rows((Quant){.format = (QuantFormat)(o->quant - 1)}, held, 1, x + i * row + from, 1, width);
        quant_decode_rows((QuantFormat)(o->quant - 1), x + i * row + from, held, 1, 1, width);
    }
    for (size_t i = 0; i <= p && o->bits == 16; i++) codec_round(x + i * row + from, 1, width, 16);
    for (size_t i = 0; i < sealed && values; i++)
        for (size_t d = 0; d < width; d += o->group)
            codec_round(x + i * row + from + d, 1, smaller(o->group, width - d), o->bits);
    for (size_t i = 0; i < sealed && !values; i += o->group)
        for (size_t d = 0; d < width; d++) codec_round(x + i * row + from + d, row, o->group, o->bits);
}

// Each query alone over a cache without a codec, whose tokens have been rounded as it is to see them.
static void check_codec(Model *m, const char *flags) {
    Rng r = rng_stream(15, RNG_TEST, 0);
    KeepOptions o = options(flags), whole = options("--kv-policy window --kv-budget 1000");
    real *qkv = xmalloc(LONG * ROW_WIDE * sizeof *qkv), *seen = xmalloc(LONG * ROW_WIDE * sizeof *qkv);
    real *out = xmalloc(LONG * H * WIDE * sizeof *out), *expected = xmalloc(LONG * H * WIDE * sizeof *out);
    AttnShape s = {.H = H, .KV = KV, .D = WIDE, .Dv = WIDE, .scale = 1 / sqrt(WIDE), .kernel = ATTENTION_flash,
                   .tile = 32};
    for (size_t i = 0; i < LONG * ROW_WIDE; i++) qkv[i] = (real)(1.5 * rng_normal(&r));
    Cache *c = cache_new_kept(m, 1, LONG, &o, 20);
    for (size_t done = 0, n; done < LONG; done += n) {
        n = smaller(LONG - done, 1 + rng_below(&r, 25));
        Row row = {.n = n, .past = done, .block = c->table, .prompt = 20};
        Batch b = {.B = n, .T = 1, .M = n, .inference = true, .paged = {c->blocks, &row, 1}};
        const real *at = qkv + done * ROW_WIDE;
        keep_attention(m, 0, (AttnOutput){.out = out + done * H * WIDE, .out_stride = H * WIDE},
                       (KeepInput){at, ROW_WIDE, at + H * WIDE, at + (H + KV) * WIDE, ROW_WIDE}, s, &b);
    }
    for (size_t p = 0; p < LONG; p++) {
        memcpy(seen, qkv, (p + 1) * ROW_WIDE * sizeof *qkv);
        for (size_t g = 0; g < KV; g++) {
            seen_by(seen, &o, (H + g) * WIDE, WIDE, false, p);
            seen_by(seen, &o, (H + KV + g) * WIDE, WIDE, true, p);
        }
        Cache *other = cache_new_kept(m, 1, LONG, &whole, LONG);
        Row row = {.n = p + 1, .past = 0, .block = other->table, .prompt = LONG};
        Batch b = {.B = p + 1, .T = 1, .M = p + 1, .inference = true, .paged = {other->blocks, &row, 1}};
        keep_attention(m, 0, (AttnOutput){.out = expected, .out_stride = H * WIDE},
                       (KeepInput){seen, ROW_WIDE, seen + H * WIDE, seen + (H + KV) * WIDE, ROW_WIDE}, s, &b);
        CHECK(!memcmp(out + p * H * WIDE, expected + p * H * WIDE, H * WIDE * sizeof *out), "%s: the query at %zu",
              flags, p);
        cache_free(other);
    }
    cache_free(c);
    free(qkv), free(seen), free(out), free(expected);
}
static void test_codecs(void) {
    static const char *const flags[] = {
        "--kv-bits 16", "--kv-bits 8", "--kv-bits 4 --kv-group 16 --kv-residual 0", "--kv-bits 2 --kv-residual 7",
        "--kv-bits 4 --kv-group 5 --kv-residual 3", "--kv-quant int8", "--kv-quant q8_0", "--kv-quant q4_0",
        "--kv-quant int4", "--kv-quant int4_full", "--kv-quant int4_asym", "--kv-quant int3", "--kv-quant int2",
        "--kv-quant ternary", "--kv-quant mxfp4", "--kv-quant nvfp4"};
    Model *m = open_model("--attn gqa --kv-heads 2 --head-dim 64");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_codec(m, flags[i]);
    model_free(m);
}

// ---- the same bits, however a text is cut ---------------------------------------------------------

enum { TEXTS = 3, LONGEST = 80, BLOCKS = 900 };
typedef struct { int token[LONGEST]; size_t n, prompt, done; uint32_t block[2 * LONGEST]; real *expected; } Text;

static void read_alone(Model *m, const KeepOptions *o, const Text *t, size_t chunk, real *logits) {
    Cache *c = cache_new_kept(m, 1, t->n, o, t->prompt);
    for (size_t done = 0, n; done < t->n; done += n) {
        n = smaller(chunk, t->n - done);
        model_infer(m, c, t->token + done, n, true, logits + done * VOCAB);
    }
    cache_free(c);
}

static void check_same(const char *flags, const char *how, size_t size, const real *found, const real *expected,
                       size_t from, size_t n) {
    size_t i = 0;
    while (i < n * VOCAB && memcmp(&found[i], &expected[from * VOCAB + i], sizeof *found) == 0) i++;
    CHECK(i == n * VOCAB, "%s, %s %zu: token %zu has other logits", flags, how, size, from + i / VOCAB);
}

// Rows of several texts in each step, over blocks that are dealt at random.
static void check_blocks(const char *flags, Model *m, const KeepOptions *o, Text *text, size_t size, Rng *r) {
    Blocks *s = blocks_new_kept(m, BLOCKS, size, o);
    uint32_t next = rng_below(r, 50);
    for (size_t t = 0; t < TEXTS; t++) {
        text[t].done = 0;
        for (size_t i = 0; i * size < keep_most(o, text[t].prompt, 0, text[t].n); i++)
            text[t].block[i] = next, next += 1 + rng_below(r, 2);
    }
    real *logits = xmalloc(TEXTS * LONGEST * VOCAB * sizeof *logits), *at;
    char *held = xmalloc(blocks_bytes(m, s));
    for (size_t left = TEXTS; left;) {
        Row row[TEXTS];
        size_t owner[TEXTS], rows = 0;
        for (size_t i = 0; i < TEXTS; i++) {
            Text *t = &text[i];
            if (t->done == t->n || rng_below(r, 4) == 0) continue;
            size_t n = rng_below(r, 3) ? 1 : 1 + rng_below(r, (uint32_t)(t->n - t->done));
            if (t->done && next < BLOCKS && rng_below(r, 5) == 0) {                     // to another place, and back
                blocks_save(m, s, t->block[0], held), blocks_load(m, s, held, next), t->block[0] = next++;
            }
            owner[rows] = i, row[rows++] = (Row){t->token + t->done, n, t->done, t->block, 0, t->prompt};
        }
        if (rows) model_step(m, s, row, rows, logits);
        at = logits;
        for (size_t i = 0; i < rows; i++) {
            Text *t = &text[owner[i]];
            check_same(flags, "blocks of", size, at, t->expected, t->done, row[i].n);
            at += row[i].n * VOCAB, t->done += row[i].n, left -= t->done == t->n;
        }
    }
    free(logits), free(held);
    blocks_free(s);
}

static void check_cuts(const char *model, const char *flags) {
    static const size_t chunks[] = {1, 7}, sizes[] = {1, 7, 16};
    Model *m = open_model(model);
    KeepOptions o = options(flags);
    keep_fit(m, &o);
    Rng r = rng_stream(8, RNG_TEST, 0);
    Text text[TEXTS];
    bool wanted[LONGEST];
    for (size_t i = 0; i < LONGEST; i++) wanted[i] = i % 7 == 3;
    o.wanted = wanted, o.wanted_count = LONGEST;
    real *logits = xmalloc(LONGEST * VOCAB * sizeof *logits);
    char *name = xprintf("%s %s", model, flags);
    for (size_t t = 0; t < TEXTS; t++) {
        text[t] = (Text){.n = t ? 30 + rng_below(&r, LONGEST - 29) : LONGEST};
        text[t].prompt = 1 + rng_below(&r, (uint32_t)text[t].n);
        for (size_t i = 0; i < LONGEST; i++) text[t].token[i] = (int)rng_below(&r, VOCAB);
        text[t].expected = xmalloc(LONGEST * VOCAB * sizeof *logits);
        read_alone(m, &o, &text[t], LONGEST, text[t].expected);
        for (size_t i = 0; i < 2; i++) {
            read_alone(m, &o, &text[t], chunks[i], logits);
            check_same(name, "pieces of", chunks[i], logits, text[t].expected, 0, text[t].n);
        }
    }
    for (size_t i = 0; i < 3; i++) check_blocks(name, m, &o, text, sizes[i], &r);
    for (size_t t = 0; t < TEXTS; t++) free(text[t].expected);
    free(logits), free(name);
    model_free(m);
}

// Several texts that go on from one past, side by side, as --samples has it; and one that begins anew.
static void check_copies(const char *flags) {
    enum { COPIES = 3, BEFORE = 40, AFTER = 9 };
    Model *m = open_model("--attn gqa --kv-heads 2");
    KeepOptions o = options(flags);
    Rng r = rng_stream(10, RNG_TEST, 0);
    int text[BEFORE], next[AFTER][COPIES];
    real together[COPIES * VOCAB], alone[VOCAB], again[VOCAB];
    for (size_t i = 0; i < BEFORE; i++) text[i] = (int)rng_below(&r, VOCAB);
    for (size_t i = 0; i < AFTER * COPIES; i++) next[i / COPIES][i % COPIES] = (int)rng_below(&r, VOCAB);
    Cache *one = cache_new_kept(m, 1, BEFORE + AFTER, &o, BEFORE - 5);
    model_infer(m, one, text, BEFORE, false, alone);
    Cache *all = cache_repeat(m, one, COPIES);
    for (size_t i = 0; i < AFTER; i++) model_infer(m, all, next[i], 1, false, together);
    for (size_t copy = 0; copy < COPIES; copy++) {
        Cache *other = cache_new_kept(m, 1, BEFORE + AFTER, &o, BEFORE - 5);
        model_infer(m, other, text, BEFORE, false, alone);
        for (size_t i = 0; i < AFTER; i++) model_infer(m, other, &next[i][copy], 1, false, alone);
        check_same(flags, "copies, of them", copy, together + copy * VOCAB, alone, 0, 1);
        cache_free(other);
    }
    cache_rewind(all, 0);
    for (size_t i = 0; i < BEFORE; i++) {
        int same[COPIES] = {text[i], text[i], text[i]};
        model_infer(m, all, same, 1, false, together);
    }
    Cache *fresh = cache_new_kept(m, 1, BEFORE + AFTER, &o, BEFORE - 5);
    model_infer(m, fresh, text, BEFORE, false, again);
    check_same(flags, "copies that begin anew", COPIES, together + VOCAB, again, 0, 1);
    cache_rewind(one, 0), model_infer(m, one, text, BEFORE, false, alone);
    for (size_t i = 0; i < AFTER; i++) model_infer(m, one, &next[i][0], 1, false, alone);
    for (size_t i = 0; i < AFTER; i++) model_infer(m, fresh, &next[i][0], 1, false, again);
    check_same(flags, "a text alone, copies", 0, alone, again, 0, 1);
    cache_free(one), cache_free(all), cache_free(fresh);
    model_free(m);
}
// What a half float does not hold is refused where it will be rounded, and nowhere else.
typedef struct { Model *m; const KeepOptions *o; } Reader;
static void read_values(void *reader) {
    const Reader *r = reader;
    int text[12] = {1, 2, 3};
    real logits[VOCAB];
    Cache *c = cache_new_kept(r->m, 1, 12, r->o, 12);
    model_infer(r->m, c, text, 12, false, logits);
    cache_free(c);
}
static void test_large(void) {
    Model *m = open_model("");
    const Param *p = model_find(m, "layers.0.attn.v.weight");
    for (size_t i = 0; i < p->size; i++) model_values(m)[p->offset + i] *= 1e8f;
    model_changed(m);
    KeepOptions few = options("--kv-bits 8"), brain = options("--kv-bits 16");
    CHECK(test_fails(1, "and --kv-bits 8 has numbers of at most 65504", read_values, &(Reader){m, &few}), "%s",
          test_message);
    CHECK(strstr(test_message, "a value is"), "%s", test_message);
    read_values(&(Reader){m, &brain});
    model_free(m);
}

static void test_copies(void) {
    static const char *const flags[] = {
        "--kv-policy h2o --kv-budget 12", "--kv-policy random --kv-budget 9", "--kv-policy pool --kv-budget 8",
        "--kv-policy snapkv --kv-budget 12", "--kv-bits 4 --kv-group 6 --kv-residual 4", "--kv-bits 8 --kv-group 4",
        "--kv-quant int8", "--kv-bits 16"};
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);                              // so small that sharing them out takes longer
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_copies(flags[i]);
    omp_set_num_threads(threads);
}

static void test_cuts(void) {
    int threads = omp_get_max_threads();
    static const char *const model[] = {"--attn gqa --kv-heads 2 --tile 32", "--attn mla", "--pos learned"};
    static const char *const flags[] = {
        "--kv-policy window --kv-budget 21", "--kv-policy sink --kv-budget 18 --kv-from 1",
        "--kv-policy random --kv-budget 12", "--kv-policy h2o --kv-budget 17",
        "--kv-policy h2o --kv-budget 9 --kv-from 9",
        "--kv-policy snapkv --kv-budget 20", "--kv-policy oracle --kv-budget 15", "--kv-bits 16",
        "--kv-policy window --kv-budget 15 --kv-bits 16", "--kv-bits 8 --kv-group 5 --kv-residual 3",
        "--kv-bits 4 --kv-group 16 --kv-residual 0", "--kv-bits 2", "--kv-policy pool --kv-budget 14",
        "--kv-policy sink --kv-budget 16 --kv-positions packed"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool rotates = i >= 12;
        omp_set_num_threads(i % 5 ? 1 : 3);
        check_cuts(model[0], flags[i]);
        if (!rotates && i % 3 == 0) check_cuts(model[1], flags[i]), check_cuts(model[2], flags[i]);
    }
    static const char wide[] = "--attn gqa --kv-heads 2 --head-dim 32 --layers 1", latent[] =
        "--attn mla --kv-rank 48 --rope-dim 16 --layers 1";
    static const char *const formats[] = {
        "--kv-quant q8_0", "--kv-policy h2o --kv-budget 17 --kv-quant q4_0",
        "--kv-policy random --kv-budget 12 --kv-quant mxfp4",
        "--kv-policy sink --kv-budget 16 --kv-positions packed --kv-quant int4_asym", "--kv-bits 4",
        "--kv-bits 8 --kv-group 16 --kv-residual 5"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        omp_set_num_threads(1 + (int)i % 3);
        check_cuts(wide, formats[i]);
        if (i != 3) check_cuts(latent, formats[i]);
    }
    check_cuts(latent, "--kv-quant nvfp4");
    omp_set_num_threads(threads);
}

// A budget that is never used up changes no bit, nor does rounding that never begins.
static void test_nothing_goes(void) {
    static const char *const flags[] = {
        "--kv-policy window --kv-budget 81 --kv-from 1", "--kv-policy sink --kv-budget 81",
        "--kv-policy random --kv-budget 81", "--kv-policy h2o --kv-budget 81", "--kv-policy snapkv --kv-budget 80",
        "--kv-policy pool --kv-budget 80", "--kv-policy window --kv-budget 81 --kv-positions packed",
        "--kv-bits 2 --kv-residual 80"};
    Model *m = open_model("--attn gqa --kv-heads 2");
    Text t = {.n = LONGEST, .prompt = 50};
    Rng r = rng_stream(9, RNG_TEST, 0);
    for (size_t i = 0; i < LONGEST; i++) t.token[i] = (int)rng_below(&r, VOCAB);
    real *plain = xmalloc(LONGEST * VOCAB * sizeof *plain), *kept = xmalloc(LONGEST * VOCAB * sizeof *kept);
    model_infer(m, NULL, t.token, LONGEST, true, plain);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        KeepOptions o = options(flags[i]);
        read_alone(m, &o, &t, 13, kept);
        check_same(flags[i], "in pieces of", 13, kept, plain, 0, LONGEST);
    }
    free(plain), free(kept);
    model_free(m);
}

// ---- questions and bytes -------------------------------------------------------------------------

// Asked one by one without a cache: the twin of --questions where nothing goes.
static void test_questions(void) {
    Config c = config_of("--data recall --pairs 6 --keys 9 --context 40 --width 32 --heads 4 --layers 2",
                         "--attn gqa --kv-heads 2 --init-scale 10", 19);
    Model *m = model_new(&c, false);
    Data *d = data_open(&c);
    size_t right = 0, all = 0, T = c.context;
    for (size_t row = 0; row < 30; row++) {
        int token[40], target[40], text[13];
        bool is_answer[40];
        real logits[19];
        size_t asked = 0;
        d->row(d, SPLIT_VALIDATION, row, T, token, target, is_answer);
        memcpy(text, token, 12 * sizeof *text);
        for (size_t t = 12; t < T && asked < 4; t++) {
            if (!is_answer[t]) continue;
            size_t best = 0;
            text[12] = token[t], asked++, all++;
            model_infer(m, NULL, text, 13, false, logits);
            for (size_t i = 1; i < 19; i++) best = logits[i] > logits[best] ? i : best;
            right += (int)best == target[t];
        }
    }
    Questions full = questions_ask(m, d, (QuestionOptions){30, 4, .keep = keep_everything()});
    CHECK(full.answers == all && full.right == right && full.held == all && full.tokens == 12 && full.pairs == 12,
          "%zu of %zu, not %zu of %zu", full.right, full.answers, right, all);
    KeepOptions o = options("--kv-policy window --kv-budget 4");
    Questions few = questions_ask(m, d, (QuestionOptions){30, 4, .keep = o});
    CHECK(few.held > 0 && few.held < all / 2 && few.pairs == 3, "%zu held, %zu pairs", few.held, few.pairs);
    o = options("--kv-policy oracle --kv-budget 8");
    Questions told = questions_ask(m, d, (QuestionOptions){30, 4, .keep = o});
    CHECK(told.held == all && told.pairs == 8, "of %zu asked, %zu were kept", all, told.held);
    CHECK(fabs(few.ceiling - (double)few.held / (double)all - (1 - (double)few.held / (double)all) / 9) < 1e-12 &&
          full.ceiling == 1, "%g and %g", few.ceiling, full.ceiling);
    // Of six pairs three are read about, and asked for are the other three: the oracle has kept the wrong ones.
    o = options("--kv-policy oracle --kv-budget 12");
    Questions read = questions_ask(m, d, (QuestionOptions){30, 3, true, .keep = o});
    Questions other = questions_ask(m, d, (QuestionOptions){30, 3, true, true, o});
    CHECK(read.held == 90 && other.answers == 90 && other.held == 0, "%zu, %zu of %zu", read.held, other.held,
          other.answers);
    Questions again = questions_ask(m, d, (QuestionOptions){30, 3, true, true, o});
    CHECK(other.digest == again.digest && other.digest != read.digest, "digests");
    o = options("--kv-policy pool --kv-budget 5");
    CHECK(questions_ask(m, d, (QuestionOptions){30, 4, true, .keep = o}).held == all, "all pairs are in some mean");
    data_close(d);
    model_free(m);
}

// As many tokens as fit, and no more.
static void test_room(void) {
    Rng r = rng_stream(14, RNG_TEST, 0);
    for (size_t i = 0; i < 300; i++) {
        KeepOptions o = {.policy = KV_POLICY_full, .bits = i % 4 ? 4 : 32, .group = 2 + rng_below(&r, 40),
                         .residual = rng_below(&r, 50), .sealed = 1 + rng_below(&r, 9),
                         .ahead = rng_below(&r, 2) * rng_below(&r, 40)};
        size_t slots = rng_below(&r, 400), n = keep_room(&o, slots);
        CHECK(keep_most(&o, 1, 0, n) <= slots && keep_most(&o, 1, 0, n + 1) > slots,
              "%zu tokens in %zu slots, groups of %zu in %zu behind %zu", n, slots, o.group, o.sealed, o.residual);
    }
}

// What is told is what is there: slots of a text hold its bytes, but for the recent tokens that are not there yet and
// the rest of a slot behind each group.
static void test_memory(void) {
    enum { TOKENS = 3000 };
    Config c = config_of("--width 64 --heads 2 --layers 2 --context 160 --ffn-width 40", "", VOCAB);
    Model *m = model_new(&c, false);
    static const char *const flags[] = {"", "--kv-bits 16", "--kv-bits 8", "--kv-bits 4", "--kv-bits 2",
                                        "--kv-bits 4 --kv-residual 0 --kv-group 16", "--kv-quant q8_0",
                                        "--kv-quant mxfp4"};
    size_t whole = 0;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        KeepOptions o = options(flags[i]);
        Cache *cache = cache_new_kept(m, 1, TOKENS, &o, 100);
        size_t told = keep_bytes(m, &o, 100, TOKENS), there = cache->blocks->arena.size;
        size_t held = blocks_bytes(m, cache->blocks), pair = 2 * 2 * 64 * sizeof(float);
        size_t spare = keep_seals(&o) ? (o.group + 16) * pair : 16 * pair;
        if (!i) whole = told;
        CHECK(told <= held && held <= told + spare && there >= held && there < held + 4096,
              "%s: told are %zu bytes, a text has %zu, %zu are there", flags[i], told, held, there);
        CHECK(o.bits == 32 || held < whole * (o.bits + 3) / 32 + spare * 3, "%s: %zu bytes of %zu", flags[i], held,
              whole);
        cache_free(cache);
    }
    model_free(m);
}

// By hand: 2 layers, 2 heads of 8 channels.
static void test_bytes(void) {
    Model *m = open_model("--attn gqa --kv-heads 2");
    static const struct { const char *flags; size_t bytes; } of[] = {
        {"", 4 * 100 * 16 * 4}, {"--kv-bits 16", 4 * 100 * 16 * 2},
        {"--kv-policy window --kv-budget 11", 4 * 10 * (16 * 4 + 4)},
        {"--kv-policy h2o --kv-budget 11", 4 * 10 * (16 * 4 + 8)},
        {"--kv-policy snapkv --kv-budget 11", 4 * (11 + 40) * (16 * 4 + 8)},
        {"--kv-policy window --kv-budget 11 --kv-bits 16", 4 * 10 * (16 * 2 + 4)},
        // The query at 99 sees 64 rounded; of these two groups of 32 for each channel, and 8 numbers for each token.
        {"--kv-bits 4", 4 * (36 * 16 * 4 + 2 * 8 * (4 + 16) + 64 * (4 + 4))},
        {"--kv-bits 2 --kv-group 5 --kv-residual 0", 4 * (5 * 16 * 4 + 19 * (8 * 4 + 5 * 2) + 95 * (8 + 2))}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        KeepOptions o = options(of[i].flags);
        CHECK(keep_bytes(m, &o, 60, 100) == of[i].bytes, "%s: %zu bytes, not %zu", of[i].flags,
              keep_bytes(m, &o, 60, 100), of[i].bytes);
    }
    model_free(m);
}

static void read_flags(void *flags) { options(flags); }
static void open_kept(void *flags) {
    KeepOptions o = options("--kv-policy window --kv-budget 8");
    Model *m = open_model(flags);
    cache_new_kept(m, 1, 20, &o, 10);
}
static void open_packed(void *flags) {
    KeepOptions o = options(flags);
    cache_new_kept(open_model("--attn gqa --kv-heads 2"), 1, 20, &o, 10);
}
static void test_refusals(void) {
    CHECK(test_fails(2, "needs --kv-budget, 5 or more", read_flags, "--kv-policy sink --kv-budget 4"), "%s",
          test_message);
    CHECK(test_fails(2, "holes in the groups", read_flags, "--kv-policy h2o --kv-budget 4 --kv-bits 4"), "%s",
          test_message);
    CHECK(test_fails(2, "choose one", read_flags, "--kv-bits 4 --kv-quant q4_0"), "%s", test_message);
    CHECK(test_fails(2, "leave --kv-quant out", read_flags, "--kv-policy pool --kv-budget 4 --kv-quant int8"), "%s",
          test_message);
    CHECK(test_fails(2, "number of groups: of 32", open_packed, "--kv-quant q4_0"), "%s", test_message);
    CHECK(test_fails(2, "have a window already", open_kept, "--attn swa --window 9"), "%s", test_message);
    CHECK(test_fails(2, "keep a state", open_kept, "--attn gla+mha"), "%s", test_message);
    CHECK(test_fails(2, "ALiBi", open_kept, "--pos alibi"), "%s", test_message);
}

// ---- ./generate ----------------------------------------------------------------------------------

static Result generate(const char *flags) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/generate' %s", (int)(strrchr(beside, '/') - beside), beside, flags));
}

static void test_commands(void) {
    train("--data recall --pairs 4 --keys 9 --context 24 --layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 "
          "--sample-tokens 0 --out run");
    Result asked = generate("--run run --questions 3 --rows 7 --kv-policy window --kv-budget 5");
    CHECK(asked.status == 0 && count_lines(asked.out) == 1 &&
          strstr(asked.out, "\"answers\": 21, \"pairs_per_head\": 4, \"tokens\": 8, \"bytes\": 1056, "
                            "\"bytes_full\": 2304"), "%s%s", asked.out, asked.error);
    static const char asks[] = "--run run --questions 2 --rows 7 --receipt asked.json";
    static const char others[] = "--run run --questions 2 --rows 7 --receipt others.json --known --others";
    CHECK(generate(asks).status == 0 && generate(others).status == 0, "no receipts");
    json_t *one = json_load_file(test_path("asked.json"), 0, NULL);
    json_t *two = json_load_file(test_path("others.json"), 0, NULL);
    json_t *final = json_object_get(one, "final");
    CHECK(json_number_value(json_object_get(final, "answers")) == 14 &&
          json_number_value(json_object_get(final, "ceiling")) == 1 &&
          json_is_true(json_object_get(json_object_get(two, "flags"), "others")) &&
          strlen(json_string_value(json_object_get(one, "digest"))) == 16 &&
          !json_equal(json_object_get(one, "digest"), json_object_get(two, "digest")), "the receipts");
    json_decref(one), json_decref(two);
    Result plan = generate("--questions 2 --plan --run nowhere");
    CHECK(plan.status == 0 && strstr(plan.out, "\"questions\": 2") && strstr(plan.out, "\"commit\""), "%s%s",
          plan.out, plan.error);
    Result written = generate("--run run --prompt-tokens '1 2 3 4 5 6' --tokens 10 --kv-policy h2o --kv-budget 4");
    CHECK(written.status == 0 && strstr(written.error, "kept     3 of 15 pairs per head: 816 bytes"), "%s",
          written.error);
    Result several = generate("--run run --prompt-tokens '1 2 3 4 5 6' --tokens 10 --kv-policy h2o --kv-budget 4 "
                              "--samples 3");
    char *text = strchr(several.out, '\n');
    CHECK(text && !strncmp(text + 1, written.out, strlen(written.out)), "%s, not %s", several.out, written.out);
    static const char *const wrong[] = {
        "--questions 5", "--questions 2 --tokens 5", "--questions 3 --known --others", "--questions 2 --others",
        "--receipt x.json", "--plan", "--rows 3", "--known", "--kv-policy oracle --kv-budget 9",
        "--kv-policy window --kv-budget 9 --draft lookup", "--kv-group 8",
        "--kv-policy pool --kv-budget 3 --kv-bits 16"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Result r = generate(xprintf("--run run %s", wrong[i]));
        CHECK(r.status == 2 && count_lines(r.error) == 1, "%s: status %d: %s", wrong[i], r.status, r.error);
    }
}

static const Test tests[] = {
    {"keep/halves", "all 65,536 half floats, and how numbers become them", test_halves},
    {"keep/large", "numbers that a packed cache would clip are refused", test_large},
    {"keep/groups", "8, 4 and 2 bits are KIVI's formula", test_groups},
    {"keep/runs", "tokens that are packed together come back as each of their groups would", test_runs},
    {"keep/extremes", "groups without a range, beyond the range; bfloat16", test_extremes},
    {"keep/policies", "each query sees the pairs of its policy's definition, and nothing else", test_policies},
    {"keep/codecs", "each query sees tokens rounded as the codec's definition has it, to the bit", test_codecs},
    {"keep/cuts", "the same bits for every chunk, block size and batch", test_cuts},
    {"keep/questions", "what --questions counts, against asking without a cache", test_questions},
    {"keep/commands", "./generate with each of the flags, and what it refuses", test_commands},
    {"keep/room", "how many tokens find room in slots", test_room},
    {"keep/memory", "bytes that are told are the bytes that are there", test_memory},
    {"keep/bytes", "bytes of a cache, counted by hand", test_bytes},
    {"keep/refusals", "what cannot be, and why", test_refusals},
    {"keep/copies", "texts that go on from one past, or begin anew, get the bits of one alone", test_copies},
    {"keep/all", "a budget that is not used up changes no bit", test_nothing_goes},
};
REGISTER_TESTS(tests)

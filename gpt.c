// gpt.c: a GPT trainer in one file, written to be read from top to bottom in under an hour.
//
// What it is. The default path of this project once more, as plain loops over plain arrays: text becomes tokens, tokens
// go through a transformer, its mistakes become gradients, and AdamW moves the weights. It shares no line with ./train,
// which is several times as fast and many files long, and it gives the same bits: for every setting that it knows, the
// digest in its last line is that of ./train. So each proves the other (tests/onefile.sh), and this file is the
// specification of the bits.
//
// What it is not. Fast, complete or resumable: there is no run directory, no cache of keys and values, no attention,
// router, norm, schedule, tokenizer or synthetic language but those below. It refuses what it does not know.
//
//     cc -O3 -march=native -ffp-contract=off -fopenmp gpt.c -lm -o gpt
//     ./gpt --data input.txt --preset shakespeare          # a text in ASCII, character by character
//     ./gpt --data recall --attn mla --steps 300           # keys and values to hold in mind
//     ./gpt --help                                         # every flag: names and defaults are those of ./train
// (Where other programs run too, OMP_WAIT_POLICY=passive keeps waiting threads from using their cores.)
//
// Conventions. A matrix is an array of rows: x [M,C] has M rows of C numbers, and number i of row m is x[m * C + i]. Of
// the M = B T tokens of a batch, B rows of T tokens, each has a row in every such array. C is the width of the residual
// stream, H the heads, D their width, F the width of a feed-forward, E the experts, K of which take a token, V the size
// of the vocabulary. dx is the gradient of the loss by x. A backward stands directly below its forward; it sets the
// gradient of its input, and adds to those of its weights.
//
// Where each part lives in the fast version:
//    1 The same bits          lib/simd.h, kernels/                  7 Attention              attention.c, kernels/
//    2 Numbers from nowhere   lib/rng.c, lib/numeric.c              8 Feed-forward, experts  moe.c, router.c
//    3 Settings               config/                               9 The model              model.c
//    4 Data                   data/file.c, data/recall.c           10 The optimizer          kernels/optim.c
//    5 Parameters             model/params.c, model/table.c        11 A sample               infer/sample.c
//    6 Layers                 kernels/matmul.c, kernels/ops.c      12 Training               train.c, run/
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// PARALLEL(work) before a loop whose rounds do not depend on each other: threads share the rounds. They never share a
// sum, so their number changes no bit. With little work they would cost more than they gain.
#ifdef _OPENMP
#include <omp.h>
#define PRAGMA(text) _Pragma(#text)
#define PARALLEL(work) PRAGMA(omp parallel for if ((work) > 1 << 15))
#else
#define PARALLEL(work)
#endif
// One line on stderr, then the end. Status 2: the command line is wrong; 1: anything else is.
static _Noreturn void stop(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout), fputs("gpt: ", stderr), vfprintf(stderr, format, arguments), fputc('\n', stderr);
    exit(status);
}
static void *zeros(size_t rows, size_t columns, size_t size) {
    void *p = columns && rows > SIZE_MAX / columns ? NULL : calloc(rows * columns + 1, size);
    if (!p) stop(1, "out of memory: %zu x %zu numbers were needed; choose smaller sizes", rows, columns);
    return p;
}
static float *floats(size_t rows, size_t columns) { return zeros(rows, columns, sizeof(float)); }

// ---- 1. The same bits -----------------------------------------------------------------------------------------------
// Floating-point addition is not associative, so a sum has the same bits everywhere only if its order is written down.
// This is what it costs; the rest of the file keeps to it.
//
//   1. A multiply-add is fused, rounded once, where the code says fmaf, and nowhere else: compilers fuse or not as they
//      like, so -ffp-contract=off forbids it to them. + - * / sqrt and fma are exact to the last bit by IEEE 754.
//   2. A matrix product is, for each output, one chain: sum = fmaf(a[k], b[k], sum) for k = 0, 1, 2, ... The order is
//      that of the plainest loop, and it leaves a machine free in all that matters for speed: outputs may be computed
//      in any order, many at a time, by any thread, because they do not depend on each other.
//   3. A gradient of weights is such a chain over the tokens of the whole batch. Cutting the batch into pieces stops
//      the chain and goes on with it, which changes nothing.
//   4. A sum along a row has one output, so a chain would leave a vector unit idle. Sixteen sums, lanes, take numbers
//      i, i + 16, i + 32, ..., and then one tree adds the lanes: the widest vectors of today have 16 floats, and
//      narrower ones can do in two or four steps what they do in one.
//   5. exp is a polynomial of our own, because every C library has another. So are the functions in section 2.

static float tree(float lane[16]) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
static float sum(const float *x, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] += x[i];
    return tree(lane);
}
static float dot(const float *x, const float *y, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], y[i], lane[i % 16]);
    return tree(lane);
}
static float largest(const float *x, size_t n) {
    float most = x[0];
    for (size_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// e^x for the hot path. x = n ln 2 + r, with ln 2 in two parts so that r is exact (Cody and Waite 1980), then e^r by
// Taylor's polynomial of degree 7, whose error on |r| <= ln 2 / 2 is below that of a float. Adding 1.5 * 2^23 leaves no
// bits for a fraction, so it rounds to the integer n, which then stands in the lowest bits; there it becomes the
// exponent of 2^n. Below -87 the result is exactly 0, above 88 it grows no further, and NaN stays NaN.
static inline float exponential(float x) {
    float y = x > 88 ? 88 : x < -87 ? -87 : x, shifted = fmaf(y, 1.44269504f, 12582912), n = shifted - 12582912, power;
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, y)), p = 1.f / 5040;
    p = fmaf(p, r, 1.f / 720), p = fmaf(p, r, 1.f / 120), p = fmaf(p, r, 1.f / 24), p = fmaf(p, r, 1.f / 6);
    p = fmaf(p, r, 1.f / 2), p = fmaf(p, r, 1), p = fmaf(p, r, 1);
    uint32_t bits;
    memcpy(&bits, &shifted, 4), bits = (bits + 127) << 23, memcpy(&power, &bits, 4);
    return x < -87 ? 0 : p * power;
}
static inline float sigmoid(float x) { return 1 / (1 + exponential(0 - x)); }
// x becomes e^(x - most), where most is its largest number, so that nothing overflows; returns the sum.
static float exponentials(float *x, size_t n, float most) {
    for (size_t i = 0; i < n; i++) x[i] = exponential(x[i] - most);
    return sum(x, n);
}
static void softmax(float *x, size_t n) {
    float scale = 1 / exponentials(x, n, largest(x, n));
    for (size_t i = 0; i < n; i++) x[i] *= scale;
}

// The digest: FNV-1a (Fowler, Noll and Vo) over words of 8 bytes, then over the bytes that are left. The shift brings
// the highest bit, the sign of a float, to where the next product spreads it.
static const uint64_t HASH_START = 0xcbf29ce484222325;
static uint64_t hash(uint64_t h, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t n; bytes; p += n, bytes -= n) {
        uint64_t word = *p;
        n = bytes >= 8 ? 8 : 1;
        if (n == 8) memcpy(&word, p, 8);
        h = (h ^ word) * 0x100000001b3, h ^= h >> 32;
    }
    return h;
}

// ---- 2. Numbers from nowhere ----------------------------------------------------------------------------------------
// Random numbers by Philox4x32-10 (Salmon et al. 2011, section 3.3): four words that are a function of a seed, a
// purpose and an index, and of nothing else. There is no hidden state, so no order of calls can matter.
static void philox(uint32_t out[4], uint64_t seed, uint64_t purpose, uint64_t index) {
    uint32_t a = (uint32_t)index, b = (uint32_t)(index >> 32), c = (uint32_t)purpose, d = (uint32_t)(purpose >> 32);
    uint32_t key_a = (uint32_t)seed, key_c = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, key_a += 0x9E3779B9, key_c += 0xBB67AE85) {
        uint64_t from_a = (uint64_t)0xD2511F53 * a, from_c = (uint64_t)0xCD9E8D57 * c;
        a = (uint32_t)(from_c >> 32) ^ b ^ key_a, b = (uint32_t)from_c;
        c = (uint32_t)(from_a >> 32) ^ d ^ key_c, d = (uint32_t)from_a;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

// Successive numbers of one seed, purpose and index.
enum { FOR_INIT = 1, FOR_TRAINING, FOR_VALIDATION, FOR_SAMPLE };
typedef struct { uint64_t seed, purpose, index, block; uint32_t word[4]; int used; } Random;
static Random random_of(uint64_t seed, uint64_t purpose, uint64_t index) {
    return (Random){.seed = seed, .purpose = purpose, .index = index, .used = 4};
}
static uint32_t random_word(Random *r) {
    if (r->used == 4) philox(r->word, r->seed, r->purpose | r->block++ << 32, r->index), r->used = 0;
    return r->word[r->used++];
}
static uint32_t random_below(Random *r, uint32_t n) {                          // Lemire 2019: no value is favoured
    uint64_t p = (uint64_t)random_word(r) * n;
    for (uint32_t least = (0u - n) % n; (uint32_t)p < least;) p = (uint64_t)random_word(r) * n;
    return (uint32_t)(p >> 32);
}
static void shuffle(Random *r, size_t *x, size_t n) {                          // Fisher and Yates
    for (; n > 1; n--) {
        size_t j = random_below(r, (uint32_t)n), last = x[n - 1];
        x[n - 1] = x[j], x[j] = last;
    }
}

// log, sin, cos and powers in double precision, for initial weights, rotations, schedules and the loss: the argument is
// reduced, then Taylor's series is summed from its last term by Horner's rule. Constants that matter are in two parts,
// the nearest double and what is left.
static const double LN2 = 0x1.62e42fefa39efp-1, LN2_REST = 0x1.abc9e3b39803fp-56;
static const double HALF_PI = 0x1.921fb54442d18p+0, HALF_PI_REST = 0x1.1a62633145c07p-54;
static double inverse_factorial[19];                                           // 1 / n!, filled by main
static void fill_factorials(void) {
    double factorial = 1;
    for (int n = 0; n < 19; factorial *= ++n) inverse_factorial[n] = 1 / factorial;
}

// log x = n ln 2 + log m with m in [sqrt 1/2, sqrt 2), and log m = 2 (s + s^3/3 + s^5/5 + ...) with
// s = (m - 1) / (m + 1). The result is the sum of two doubles: its error would be multiplied by what a power has above.
static double logarithm(double x, double *rest) {
    int n;
    double m = 2 * frexp(x, &n), series = 0;
    if (m >= 1.4142135623730951) m /= 2, n++;
    n--;
    double above = m - 1, below = m + 1, below_rest = m - (below - 1), s = above / below;
    double s_rest = fma(-s, below_rest, fma(-s, below, above)) / below;
    for (int k = 23; k >= 3; k -= 2) series = fma(series, s * s, 2. / k);
    double tail = fma(s * s * s, series, 2 * s_rest);
    double whole = n * LN2, whole_rest = fma(n, LN2, -whole), both = whole + 2 * s;
    double both_rest = (2 * s - (both - whole)) + fma(n, LN2_REST, whole_rest + tail), result = both + both_rest;
    *rest = both_rest - (result - both);
    return result;
}
static double log_of(double x) {                                               // NaN where there is no logarithm
    double rest = 0, high = x > 0 ? logarithm(x, &rest) : (double)NAN;
    return high + rest;
}
static double power(double base, double exponent) {                            // e^(exponent log base)
    double rest, high = logarithm(base, &rest), y = exponent * high, series = 0;
    double y_rest = fma(exponent, rest, fma(exponent, high, -y)), n = floor(fma(y, 1.4426950408889634, 0.5));
    double r = fma(-n, LN2_REST, fma(-n, LN2, y));
    for (int k = 13; k >= 0; k--) series = fma(series, r, inverse_factorial[k]);
    double result = ldexp(series, (int)n);
    return fma(result, y_rest, result);
}
static double whole_power(double base, size_t n) {                             // by squaring
    double result = 1;
    for (; n; n /= 2, base *= base)
        if (n % 2) result *= base;
    return result;
}
static void sine_and_cosine(double x, double *sine, double *cosine) {          // x = n pi/2 + r
    double n = floor(fma(x, 0.6366197723675814, 0.5)), s = 0, c = 0;
    double r = fma(-n, HALF_PI_REST, fma(-n, HALF_PI, x));
    for (int k = 17; k >= 1; k -= 2) s = fma(s, r * r, k % 4 == 1 ? inverse_factorial[k] : -inverse_factorial[k]);
    for (int k = 18; k >= 0; k -= 2) c = fma(c, r * r, k % 4 == 0 ? inverse_factorial[k] : -inverse_factorial[k]);
    int quarter = (int)((long long)n & 3);
    s *= r;
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

// ---- 3. Settings ----------------------------------------------------------------------------------------------------
enum { MHA, GQA, MLA, ROPE = 0, LEARNED, QK_NONE = 0, QK_HEAD, QK_FULL };     // places in the lists of words below
enum { PRE, POST, RMS = 0, LAYER, SWIGLU = 0, GELU };
// N: a whole number, with its default and its range. X: any number. W: a word of a list. Where a default is 0 or -1,
// the value is often derived from others (derive_settings).
#define SETTINGS(N, X, W)                                                                                             \
    W(tokenizer, auto, "auto|char") N(vocab, 0, 0, 1e7) X(val_fraction, 0.1, 0.001, 0.9) N(data_seed, 1, 0, 0x1p53)   \
    N(pairs, 8, 1, 65536) N(keys, 64, 2, 1e6)                                                                         \
    N(layers, 4, 1, 1e5) N(width, 128, 1, 1e6) N(context, 128, 1, 1e8) W(attn, mha, "mha|gqa|mla")                    \
    N(heads, 4, 1, 65536) N(kv_heads, 0, 0, 65536) N(head_dim, 0, 0, 65536) N(kv_rank, 0, 0, 65536)                   \
    N(q_rank, 0, 0, 65536) N(rope_dim, 0, 0, 65536) N(nope_dim, 0, 0, 65536) N(v_dim, 0, 0, 65536)                    \
    W(attn_kernel, flash, "flash") W(qk_norm, none, "none|head|full") W(pos, rope, "rope|learned")                    \
    X(rope_theta, 10000, 1, 1e12) W(norm, pre, "pre|post") W(norm_kind, rms, "rms|layer") X(norm_eps, 1e-5, 0, 1)     \
    W(ffn, swiglu, "swiglu|gelu") N(ffn_width, 0, 0, 1e7) N(bias, 0, 0, 1) N(tie, 1, 0, 1) X(init_scale, 1, 0, 1000)  \
    N(experts, 0, 0, 65536) N(top_k, 2, 1, 65536) N(expert_width, 0, 0, 1e7) N(shared_experts, 0, 0, 65536)           \
    W(router, topk, "topk") W(gate, softmax, "softmax") N(norm_topk, 1, 0, 1) X(aux_loss, -1, -1, 1000)               \
    N(steps, 700, 0, 1e9) N(batch, 16, 1, 1e6) N(micro_batch, 0, 0, 1e6) X(lr, 3e-3, 0, 1000) X(min_lr, -1, -1, 1000) \
    N(warmup, 50, 0, 1e9) W(schedule, cosine, "cosine") X(beta1, 0.9, 0, 0.999999) X(beta2, 0.99, 0, 0.999999999)     \
    X(eps, 1e-8, 1e-30, 1) X(weight_decay, 0.1, 0, 1000) X(clip, 1, 0, 1e30) N(seed, 1, 0, 0x1p53)                    \
    N(eval_every, 0, 0, 1e9) N(eval_tokens, 16384, 1, 1e9) N(log_every, 10, 1, 1e9) N(sample_tokens, 200, 0, 1e6)     \
    N(digest, 0, 0, 1) N(threads, 0, 0, 4096)
#define SIZE_FIELD(name, ...) size_t name;
#define REAL_FIELD(name, ...) double name;
static struct { const char *data; SETTINGS(SIZE_FIELD, REAL_FIELD, SIZE_FIELD) } c;
#define N_FLAG(name, standard, low, high) {#name, #standard, "N", low, high, &c.name},
#define X_FLAG(name, standard, low, high) {#name, #standard, "X", low, high, &c.name},
#define W_FLAG(name, standard, words) {#name, #standard, words, 0, 0, &c.name},
static const struct Flag { const char *name, *text, *takes; double low, high; void *at; } flags[] = {
    {"data", "stories", "FILE", 0, 0, &c.data}, SETTINGS(N_FLAG, X_FLAG, W_FLAG)};
enum { FLAGS = sizeof flags / sizeof *flags };
static char *const shakespeare[] = {                       // the setting of nanoGPT for a small machine
    "--tokenizer=char", "--layers=4", "--heads=4", "--width=128", "--context=64", "--batch=12", "--pos=learned",
    "--norm-kind=layer", "--ffn=gelu", "--steps=2000", "--lr=2e-3", "--min-lr=2e-4", "--warmup=100", "--eval-every=250"
};
enum { PRESET = sizeof shakespeare / sizeof *shakespeare };

static void help(void) {
    puts("./gpt [--name value]...\n\n"
         "Trains a GPT as ./train does, from one file of plain loops: the same flags give the same losses and the\n"
         "same digest. Begin with --data FILE, a text whose characters are the tokens, or with --data recall, keys\n"
         "and values to hold in mind. ./train --help says what a flag is for; here is what each takes [default]:\n");
    for (size_t i = 0; i < FLAGS; i++) {
        char text[64], *bar = text;
        snprintf(text, sizeof text, "--%s %s [%s]", flags[i].name, flags[i].takes, flags[i].text);
        while ((bar = strchr(bar, '_'))) *bar = '-';
        printf("  %-36s%s", text, i % 3 == 2 || i + 1 == FLAGS ? "\n" : "");
    }
    printf("\n--preset shakespeare stands for\n ");
    for (size_t i = 0; i < PRESET; i++) printf(" %s%s", shakespeare[i], i + 1 == PRESET ? "\n" : "");
    exit(0);
}

// The place of a word in a list such as "mha|gqa|mla", or -1.
static int place_in(const char *words, const char *word) {
    for (int place = 0;; place++, words++) {
        size_t n = strcspn(words, "|");
        if (n == strlen(word) && !strncmp(words, word, n)) return place;
        if (!*(words += n)) return -1;
    }
}
static void set(const struct Flag *f, const char *text) {
    char *end;
    int place = place_in(f->takes, text);
    double x = strtod(text, &end);
    if (!strcmp(f->takes, "FILE")) *(const char **)f->at = text;
    else if (*f->takes >= 'a' && place < 0) stop(2, "--%s %s: gpt.c knows %s; see ./train", f->name, text, f->takes);
    else if (*f->takes >= 'a') *(size_t *)f->at = (size_t)place;
    else {
        bool whole = *f->takes == 'N', digits = strspn(text, "0123456789") == strlen(text);
        if (end == text || *end || *text <= ' ' || (whole && !digits) || !(x >= f->low && x <= f->high))
            stop(2, "--%s %s: a%s number from %.9g to %.9g", f->name, text, whole ? " whole" : "", f->low, f->high);
        if (whole) *(size_t *)f->at = (size_t)x;
        else *(double *)f->at = x;
    }
}

// One flag at word[0], perhaps with its value at word[1]; returns how many words it took. - and _ are alike.
static int parse(char *const *word, int words) {
    size_t n = strcspn(word[0], "="), f = 0;
    char name[32] = "";
    if (strncmp(word[0], "--", 2) || n < 3) stop(2, "'%s' is no flag: --name value was expected (--help)", word[0]);
    for (size_t i = 2; i < n && i < sizeof name + 1; i++) name[i - 2] = word[0][i] == '-' ? '_' : word[0][i];
    while (f < FLAGS && strcmp(flags[f].name, name)) f++;
    if (f == FLAGS) stop(2, "%.*s is not a flag of gpt.c (--help lists them); see ./train", (int)n, word[0]);
    bool equals = word[0][n], next = !equals && words > 1 && strncmp(word[1], "--", 2);
    bool bare = !equals && !next, is_switch = *flags[f].takes == 'N' && flags[f].high == 1;
    if (bare && !is_switch) stop(2, "%s needs a value: %s", word[0], flags[f].takes);
    set(&flags[f], equals ? word[0] + n + 1 : next ? word[1] : "1");
    return next ? 2 : 1;
}

static void read_settings(int argc, char **argv) {         // flags win over the preset, wherever it stands
    for (int i = 0; i < FLAGS; i++) set(&flags[i], flags[i].text);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) help();
        if (strncmp(argv[i], "--preset", 8)) continue;
        const char *name = argv[i][8] ? argv[i] + 9 : i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "shakespeare")) stop(2, "--preset %s: gpt.c knows shakespeare; see ./train", name);
        for (int p = 0; p < PRESET; p++) parse(&shakespeare[p], 1);
    }
    for (int i = 1; i < argc;) i += strncmp(argv[i], "--preset", 8) ? parse(argv + i, argc - i) : argv[i][8] ? 1 : 2;
}

static void need(bool fine, const char *what) { if (!fine) stop(2, "%s", what); }
static void derive(size_t *x, size_t value) { if (!*x) *x = value; }
// Refuses what cannot be or has no effect, and fills in what was left to be derived.
static void derive_settings(void) {
    need(strcmp(c.data, "stories"), "give --data FILE or --data recall; stories, the default, is for ./train alone");
    if (!strcmp(c.data, "recall")) need(c.val_fraction == 0.1, "--val-fraction belongs to --data FILE");
    else need(c.pairs == 8 && c.keys == 64 && c.data_seed == 1, "--pairs, --keys, --data-seed belong to --data recall");
    need(c.attn == MLA || !(c.kv_rank || c.q_rank || c.nope_dim || c.v_dim), "ranks, --nope-dim, --v-dim are for mla");
    need(c.attn == MLA ? !c.qk_norm : c.attn == GQA || !c.kv_heads, "--kv-heads is for gqa, --qk-norm not for mla");
    need(c.pos == ROPE || (!c.rope_dim && c.rope_theta == 10000), "--rope-dim and --rope-theta belong to --pos rope");
    need(c.experts || (c.top_k == 2 && !c.expert_width && !c.shared_experts && c.norm_topk && c.aux_loss == -1),
         "--top-k, --expert-width, --shared-experts, --norm-topk and --aux-loss belong to --experts");
    need(c.head_dim || c.width % c.heads == 0, "--heads has to divide --width, or give --head-dim");
    derive(&c.head_dim, c.width / c.heads), derive(&c.kv_heads, c.attn == GQA && c.heads > 1 ? c.heads / 2 : c.heads);
    need(c.heads % c.kv_heads == 0, "--kv-heads has to divide --heads");
    derive(&c.rope_dim, c.pos != ROPE ? 0 : c.attn == MLA ? (c.head_dim / 2 + 1) / 2 * 2 : c.head_dim);
    need(c.rope_dim % 2 == 0 && (c.attn == MLA || c.rope_dim <= c.head_dim), "--rope-dim: even, and within a head");
    derive(&c.kv_rank, 2 * c.head_dim), derive(&c.nope_dim, c.head_dim), derive(&c.v_dim, c.head_dim);
    if (c.attn == MLA) c.head_dim = c.nope_dim + c.rope_dim;                   // of queries and keys
    derive(&c.ffn_width, c.ffn == SWIGLU ? (8 * c.width / 3 + 31) / 32 * 32 : 4 * c.width);
    derive(&c.expert_width, c.ffn_width), derive(&c.micro_batch, c.batch);
    derive(&c.eval_every, c.steps >= 10 ? c.steps / 10 : 1);
    need(!c.experts || c.top_k <= c.experts, "--top-k is more than --experts");
    need(c.experts < 2 || c.top_k > 1 || !c.norm_topk, "--top-k 1 with --norm-topk 1 teaches the router nothing");
    need(c.aux_loss >= 0 || c.aux_loss == -1, "--aux-loss is negative");
    if (c.aux_loss < 0) c.aux_loss = 0.01;
    need(c.micro_batch <= c.batch, "--micro-batch is more than --batch");
    char tenth[32];                                        // as one writes it: 0.0003, not 0.00030000000000000003
    snprintf(tenth, sizeof tenth, "%.15g", c.lr / 10);
    if (c.min_lr == -1) c.min_lr = strtod(tenth, NULL);
    need(c.min_lr >= 0 && c.min_lr <= c.lr, "--min-lr has to be between 0 and --lr");
}

// ---- 4. Data --------------------------------------------------------------------------------------------------------
// Row n of the training or validation rows is a function of n and a seed. targets[t] is the token that follows
// tokens[t], or -1 where the answer is not scored.
typedef enum { TRAINING, VALIDATION } Split;
static struct { bool is_text; size_t vocab, training, count; int *token, newline; char letter[128]; } corpus;
static size_t validation_rows;
// The vocabulary is the characters of the text in the order of their codes. The end of the text is for validation.
static void open_text(const char *path) {
    need(!strstr(path, ".bin"), "a .bin file holds tokens, not a text; see ./train");
    FILE *f = fopen(path, "rb");
    long end = f && !fseek(f, 0, SEEK_END) ? ftell(f) : -1;
    int number[128] = {0};
    size_t n = end < 0 || (uint64_t)end >> 32 ? 0 : (size_t)end;      // also where a long has 32 bits
    unsigned char *text = zeros(n, 1, 1);
    if (!n || fseek(f, 0, SEEK_SET) || fread(text, 1, n, f) != n)
        stop(1, "cannot read %s%s%s; a text of up to 4 GB was expected", path, f ? "" : ": ", f ? "" : strerror(errno));
    for (size_t i = 0; i < n; number[text[i++]] = 1)
        if (text[i] > 127) stop(1, "%s: byte %zu is not ASCII, which is all that gpt.c knows; see ./train", path, i);
    for (int code = 0; code < 128; code++)
        if (number[code]) number[code] = (int)corpus.vocab, corpus.letter[corpus.vocab++] = (char)code;
    corpus.is_text = true, corpus.newline = number['\n'], corpus.token = zeros(n, 1, sizeof(int));
    corpus.count = n, corpus.training = (size_t)((1 - c.val_fraction) * (double)n);
    for (size_t i = 0; i < n; i++) corpus.token[i] = number[text[i]];
    if (corpus.training <= c.context || n - corpus.training <= c.context)
        stop(1, "%s: --context %zu is too much for its %zu characters, or for --val-fraction", path, c.context, n);
    free(text), fclose(f);
}

// A window of the text: at a random place, or, for validation, one of some that are evenly spaced.
static void text_row(Split split, size_t row, int *tokens, int *targets) {
    size_t T = c.context, first = split == TRAINING ? 0 : corpus.training;
    size_t places = (split == TRAINING ? corpus.training : corpus.count - corpus.training) - T;
    if (split == TRAINING) {                               // a share in 64 bits, times places
        Random r = random_of(c.seed, FOR_TRAINING, row);
        uint64_t high = random_word(&r), low = random_word(&r);
        first += (high * places + (low * places >> 32)) >> 32;
    } else if (validation_rows > 1) first += row * (places - 1) / (validation_rows - 1);
    memcpy(tokens, corpus.token + first, T * sizeof(int)), memcpy(targets, corpus.token + first + 1, T * sizeof(int));
}

// Multi-query associative recall (Arora et al. 2023, section 4): distinct keys, each followed by its value; then, at
// random places among blanks, every key once more, to be answered by its value. Only the answers are scored.
// Tokens: 0 the blank, then --keys keys, then as many values.
static void recall_row(Split split, size_t row, int *tokens, int *targets) {
    size_t N = c.pairs, T = c.context, left = T + 1 - 2 * N, places = left > 2 * N ? left / 2 : N, at = 0;
    bool training = split == TRAINING, *taken = zeros(c.keys, 1, sizeof *taken);
    Random r = random_of(training ? c.seed : c.data_seed, training ? FOR_TRAINING : FOR_VALIDATION, row);
    size_t *key = zeros(3 * N, 1, sizeof *key), *value = key + N, *asked = value + N;
    int *line = zeros(T + 2, 1, sizeof *line);
    for (size_t i = 0, last; i < N; i++) {                 // Floyd's sample (Bentley and Floyd 1987)
        last = c.keys - N + i, key[i] = random_below(&r, (uint32_t)last + 1);
        if (taken[key[i]]) key[i] = last;
        taken[key[i]] = true;
    }
    shuffle(&r, key, N);
    for (size_t i = 0; i < N; i++) {
        value[i] = random_below(&r, (uint32_t)c.keys), asked[i] = i;
        line[at++] = (int)(1 + key[i]), line[at++] = (int)(1 + c.keys + value[i]);
    }
    shuffle(&r, asked, N);
    for (size_t t = 0; t < T; t++) targets[t] = -1;
    for (size_t place = 0, question = 0; place < places; place++, at += 2) {
        if (random_below(&r, (uint32_t)(places - place)) >= N - question) continue;
        size_t pair = asked[question++];
        line[at] = (int)(1 + key[pair]), targets[at] = line[at + 1] = (int)(1 + c.keys + value[pair]);
    }
    memcpy(tokens, line, T * sizeof *tokens);
    free(taken), free(key), free(line);
}

static void open_data(void) {
    validation_rows = (c.eval_tokens + c.context - 1) / c.context;
    if (strcmp(c.data, "recall")) open_text(c.data);
    else need(c.pairs <= c.keys && c.context + 1 >= 4 * c.pairs, "--pairs takes as many --keys, and 4 times --context");
    derive(&corpus.vocab, 1 + 2 * c.keys), derive(&c.vocab, corpus.vocab);
    need(c.vocab >= corpus.vocab, "--vocab is less than the data have");
}

// ---- 5. Parameters --------------------------------------------------------------------------------------------------
// One table of all tensors, in the order in which they enter the digest. The optimizer goes through it, and the norm of
// the gradient; layers point to their tensors' numbers.
typedef struct { char name[64]; size_t size; bool decays; float *value, *gradient, *mean, *square; } Tensor;
static Tensor *tensor;
static size_t tensors;
static Tensor *add_tensor(int layer, const char *part, const char *name, size_t rows, size_t columns, bool decays) {
    if ((tensors & (tensors - 1)) == 0) tensor = realloc(tensor, (2 * tensors + 1) * sizeof *tensor);
    if (!tensor) stop(1, "no memory for the table of tensors");
    Tensor *t = &tensor[tensors++];
    *t = (Tensor){"", rows * columns, decays, floats(rows, columns), floats(rows, columns), floats(rows, columns),
                  floats(rows, columns)};
    if (layer < 0) snprintf(t->name, sizeof t->name, "%s.%s", part, name);
    else snprintf(t->name, sizeof t->name, "layers.%d.%s.%s", layer, part, name);
    return t;
}
static uint64_t hash_name(uint64_t h, const Tensor *t) { return hash(h, t->name, strlen(t->name) + 1); }
// y = x w^T + b, with w [N,K] and b [N] or none. It may also be some rows of a larger one.
typedef struct { float *w, *dw, *b, *db; size_t N, K; } Linear;
static Linear rows_of(Linear l, size_t from, size_t N) {
    l.w += from * l.K, l.dw += from * l.K, l.N = N;
    if (l.b) l.b += from, l.db += from;
    return l;
}

// Normal initial weights, two at a time (Box and Muller 1958). Number i is a function of the seed, the tensor's name
// and i, so models that share a tensor start it alike.
static Linear add_matrix(int layer, const char *part, const char *name, size_t N, size_t K, double deviation) {
    Tensor *t = add_tensor(layer, part, name, N, K, true);
    uint64_t purpose = hash_name(HASH_START ^ FOR_INIT, t);
    size_t size = N * K;
    float *x = t->value;
    PARALLEL(size)
    for (size_t i = 0; i < size; i += 2) {
        uint32_t r[4];
        double sine, cosine;
        philox(r, c.seed, purpose, i / 2);
        double u = ((double)((uint64_t)r[0] << 21 ^ r[1] >> 11) + 0.5) * 0x1p-53;      // inside (0, 1)
        double v = ((double)((uint64_t)r[2] << 21 ^ r[3] >> 11) + 0.5) * 0x1p-53;
        double radius = deviation * sqrt(-2 * log_of(u));
        sine_and_cosine(6.283185307179586 * v, &sine, &cosine);
        x[i] = (float)(radius * cosine);
        if (i + 1 < size) x[i + 1] = (float)(radius * sine);
    }
    return (Linear){.w = x, .dw = t->gradient, .N = N, .K = K};
}
static void add_bias(int layer, const char *part, const char *name, Linear *l) {
    if (!c.bias || !l->w) return;
    Tensor *t = add_tensor(layer, part, name, 1, l->N, false);
    l->b = t->value, l->db = t->gradient;
}

// RMSNorm, or LayerNorm where it is centered, of rows of C numbers.
typedef struct { float *w, *dw, *b, *db; size_t C; bool centered; double eps; } Norm;
static Norm add_norm(int layer, const char *part, size_t C, bool centered, double eps) {
    Tensor *t = add_tensor(layer, part, "weight", 1, C, false);
    Norm n = {.w = t->value, .dw = t->gradient, .C = C, .centered = centered, .eps = eps};
    for (size_t i = 0; i < C; i++) n.w[i] = 1;
    if (!centered || !c.bias) return n;
    t = add_tensor(layer, part, "bias", 1, C, false), n.b = t->value, n.db = t->gradient;
    return n;
}
typedef struct { Linear gate, up, down; } Ffn;             // of experts: the rows of all, one expert after the other
typedef struct {
    Norm norm[2], q_norm, k_norm, q_a_norm, kv_a_norm;     // norm: of the attention branch, of the feed-forward branch
    Linear q, k, v, o, q_a, kv_a, kv_b, router;
    Ffn ffn, shared;
} Layer;
static Layer *layers;
static Linear embedding, positions, head;
static Norm final_norm;
static void add_attention(int l, Layer *y, double s) {
    size_t C = c.width, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim, Rq = c.q_rank, R = c.kv_rank;
    if (c.attn == MLA) {                                   // 1e-6: as in DeepSeek's own code, for the norms of latents
        if (Rq) y->q_a = add_matrix(l, "attn", "q_a.weight", Rq, C, s), add_bias(l, "attn", "q_a.bias", &y->q_a);
        if (Rq) y->q_a_norm = add_norm(l, "attn.q_a_norm", Rq, false, 1e-6);
        y->q = add_matrix(l, "attn", Rq ? "q_b.weight" : "q.weight", q, Rq ? Rq : C, s);
        y->kv_a = add_matrix(l, "attn", "kv_a.weight", R + c.rope_dim, C, s);
        add_bias(l, "attn", "kv_a.bias", &y->kv_a);
        y->kv_a_norm = add_norm(l, "attn.kv_a_norm", R, false, 1e-6);
        y->kv_b = add_matrix(l, "attn", "kv_b.weight", c.heads * (c.nope_dim + c.v_dim), R, s);
        return;
    }
    y->q = add_matrix(l, "attn", "q.weight", q, C, s), y->k = add_matrix(l, "attn", "k.weight", kv, C, s);
    y->v = add_matrix(l, "attn", "v.weight", kv, C, s), add_bias(l, "attn", "q.bias", &y->q);
    add_bias(l, "attn", "k.bias", &y->k), add_bias(l, "attn", "v.bias", &y->v);
    if (c.qk_norm == QK_NONE) return;
    bool all = c.qk_norm == QK_FULL;                       // over all heads (OLMo 2, 2025), or each alone (Qwen3, 2025)
    y->q_norm = add_norm(l, "attn.q_norm", all ? q : c.head_dim, false, c.norm_eps);
    y->k_norm = add_norm(l, "attn.k_norm", all ? kv : c.head_dim, false, c.norm_eps);
}
static Ffn add_ffn(int l, const char *part, size_t count, size_t F, double s, double s_out) {
    Ffn f = {0};
    if (c.ffn == SWIGLU) f.gate = add_matrix(l, part, "gate.weight", count * F, c.width, s);
    f.up = add_matrix(l, part, "up.weight", count * F, c.width, s);
    if (!c.experts) add_bias(l, part, "gate.bias", &f.gate), add_bias(l, part, "up.bias", &f.up);
    f.down = add_matrix(l, part, "down.weight", count * c.width, F, s_out);
    if (!c.experts) add_bias(l, part, "down.bias", &f.down);
    return f;
}

// Deviations of initial weights: 0.02, and by 1 / sqrt(2 layers) less where a branch ends in the stream (Radford et al.
// 2019, section 2.3).
static void add_parameters(void) {
    double s = 0.02 * c.init_scale, s_out = s * (1 / sqrt(2 * (double)c.layers));
    size_t C = c.width;
    bool pre = c.norm == PRE, centered = c.norm_kind == LAYER;
    embedding = add_matrix(-1, "embed", "weight", c.vocab, C, s);
    if (c.pos == LEARNED) positions = add_matrix(-1, "pos", "weight", c.context, C, s);
    layers = zeros(c.layers, 1, sizeof *layers);
    for (int l = 0; l < (int)c.layers; l++) {
        Layer *y = &layers[l];
        y->norm[0] = add_norm(l, pre ? "attn_norm" : "attn_norm_out", C, centered, c.norm_eps);
        add_attention(l, y, s);
        y->o = add_matrix(l, "attn", "o.weight", C, c.heads * c.v_dim, s_out), add_bias(l, "attn", "o.bias", &y->o);
        y->norm[1] = add_norm(l, pre ? "ffn_norm" : "ffn_norm_out", C, centered, c.norm_eps);
        if (c.experts) y->router = add_matrix(l, "moe", "router.weight", c.experts, C, s);
        y->ffn = c.experts ? add_ffn(l, "moe", c.experts, c.expert_width, s, s_out)
                           : add_ffn(l, "ffn", 1, c.ffn_width, s, s_out);
        if (c.shared_experts) y->shared = add_ffn(l, "moe.shared", 1, c.shared_experts * c.expert_width, s, s_out);
    }
    if (pre) final_norm = add_norm(-1, "final_norm", C, centered, c.norm_eps);
    head = c.tie ? embedding : add_matrix(-1, "head", "weight", c.vocab, C, s);
}

// ---- 6. Layers ------------------------------------------------------------------------------------------------------
// x, N rows of K numbers that stand `row` apart, turned to [K,N]: then a loop over outputs goes along memory, and a
// compiler gives each output a lane of its vectors.
static void turn(float *to, const float *x, size_t row, size_t N, size_t K) {
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++) to[k * N + n] = x[n * row + k];
}
static void linear_forward(float *y, const Linear *l, const float *x, size_t M) {
    size_t N = l->N, K = l->K;
    float *turned = floats(N, K);
    turn(turned, l->w, K, N, K);
    PARALLEL(M * N * K)
    for (size_t m = 0; m < M; m++) {
        float *restrict to = y + m * N;
        for (size_t n = 0; n < N; n++) to[n] = l->b ? l->b[n] : 0;
        for (size_t k = 0; k < K; k++) {
            const float a = x[m * K + k], *restrict w = turned + k * N;
            for (size_t n = 0; n < N; n++) to[n] = fmaf(a, w[n], to[n]);
        }
    }
    free(turned);
}
// dx = dy w, dw += dy^T x, and db += the sum of dy's rows. With `more`, the chains of dx go on from what dx holds: of
// several layers that read the same x, each goes on where the one before it stopped.
static void linear_backward(float *dx, const float *dy, const Linear *l, const float *x, size_t M, bool more) {
    size_t N = l->N, K = l->K;
    PARALLEL(M * N * K)
    for (size_t n = 0; n < N; n++) {
        float *restrict dw = l->dw + n * K;
        for (size_t m = 0; m < M; m++) {
            const float a = dy[m * N + n], *restrict from = x + m * K;
            for (size_t k = 0; k < K; k++) dw[k] = fmaf(a, from[k], dw[k]);
        }
        for (size_t m = 0; m < M && l->db; m++) l->db[n] += dy[m * N + n];
    }
    PARALLEL(M * N * K)
    for (size_t m = 0; m < M; m++) {
        float *restrict to = dx + m * K;
        for (size_t k = 0; k < K && !more; k++) to[k] = 0;
        for (size_t n = 0; n < N; n++) {
            const float a = dy[m * N + n], *restrict w = l->w + n * K;
            for (size_t k = 0; k < K; k++) to[k] = fmaf(a, w[k], to[k]);
        }
    }
}

// LayerNorm (Ba et al. 2016, eq. 4): y = w (x - mean) / sqrt(variance + eps) + b. RMSNorm (Zhang and Sennrich 2019, eq.
// 4) has no mean and no b. stat [M,2] keeps the mean and the inverse root of each row.
static void norm_forward(float *y, float *stat, const Norm *n, const float *x, size_t M) {
    size_t C = n->C;
    PARALLEL(M * C)
    for (size_t m = 0; m < M; m++) {
        const float *from = x + m * C, mean = n->centered ? sum(from, C) / (float)C : 0;
        float *to = y + m * C;
        for (size_t i = 0; i < C; i++) to[i] = from[i] - mean;
        float root = 1 / sqrtf(dot(to, to, C) / (float)C + (float)n->eps);
        for (size_t i = 0; i < C; i++) to[i] = to[i] * root * n->w[i];
        for (size_t i = 0; i < C && n->b; i++) to[i] += n->b[i];
        stat[2 * m] = mean, stat[2 * m + 1] = root;
    }
}
// With u = (x - mean) root, which w multiplies, and du = dy w:  dx = root (du - mean(du) - u mean(du u)). RMSNorm has
// no mean(du). With `more`, dx is added to.
static void norm_backward(float *dx, const float *dy, const float *stat, const Norm *n, const float *x, size_t M,
                          bool more) {
    size_t C = n->C;
    for (size_t m = 0; m < M; m++) {
        const float *g = dy + m * C, *from = x + m * C, mean = stat[2 * m], root = stat[2 * m + 1];
        float *to = dx + m * C, lane[16] = {0}, lane_u[16] = {0};
        for (size_t i = 0; i < C; i++) {
            float u = (from[i] - mean) * root, du = g[i] * n->w[i];
            lane[i % 16] += du, lane_u[i % 16] = fmaf(du, u, lane_u[i % 16]);
            n->dw[i] = fmaf(g[i], u, n->dw[i]);
            if (n->db) n->db[i] += g[i];
        }
        float mean_du = n->centered ? tree(lane) / (float)C : 0, mean_duu = tree(lane_u) / (float)C;
        for (size_t i = 0; i < C; i++) {
            float slope = root * (g[i] * n->w[i] - mean_du - (from[i] - mean) * root * mean_duu);
            to[i] = more ? to[i] + slope : slope;
        }
    }
}

// Rotary positions (Su et al. 2021, eq. 34): numbers i and i + P/2 of a head are turned by the angle t theta^(-2i/P),
// which grows with the position t, so that a query meets a key at an angle that is a function of their distance.
static float *cosines, *sines;                                                 // [positions, P/2]
static void fill_rotations(size_t count) {
    size_t half = c.rope_dim / 2;
    cosines = floats(count, half), sines = floats(count, half);
    for (size_t i = 0; i < half; i++) {
        double sine, cosine, frequency = power(c.rope_theta, -2.0 * (double)i / (double)c.rope_dim);
        for (size_t t = 0; t < count; t++) {
            sine_and_cosine((double)t * frequency, &sine, &cosine);
            cosines[t * half + i] = (float)cosine, sines[t * half + i] = (float)sine;
        }
    }
}
// x: the first rotated number of M rows of `count` heads that are D wide. The backward turns back: direction -1.
static void rotate(float *x, size_t count, size_t D, size_t M, size_t T, float direction) {
    size_t half = c.rope_dim / 2;
    PARALLEL(M * count * D)
    for (size_t row = 0; row < M * count; row++)
        for (size_t i = 0, at = row / count % T * half; i < half; i++, at++) {
            float *a = x + row * D + i, *b = a + half, old = *a, sine = direction * sines[at];
            *a = fmaf(old, cosines[at], *b * (0 - sine)), *b = fmaf(*b, cosines[at], old * sine);
        }
}

// ---- 7. Attention ---------------------------------------------------------------------------------------------------
// What the forward keeps of M tokens in a layer, each with the numbers of a token: N of name X(name, N). A second set,
// d, has the gradients of all, under the same names; layers share it.
#define ACTS(X)                                                                                                   \
    X(h0, C) X(h1, C) X(stat0, 2) X(stat1, 2)                              /* of the two branches: see section 9 */ \
    X(q, H * D) X(k, KV * D) X(v, KV * Dv) X(out, H * Dv) X(lse, H)                                               \
    X(q_in, H * D) X(k_in, KV * D) X(q_stat, 2 * H) X(k_stat, 2 * KV)      /* before QK-norm */                   \
    X(q_a, Rq) X(q_c, Rq) X(q_a_stat, 2) X(kv_a, R) X(kv_c, R) X(kv_a_stat, 2) X(position, P) X(kv, H * (N + Dv)) \
    X(gate, K * F) X(up, K * F) X(act, K * F) X(shared_gate, S * F) X(shared_up, S * F) X(shared_act, S * F)      \
    X(score, E) X(weight, K) X(sorted, K * C) X(expert_out, K * C) X(shared_out, C)
typedef struct {
#define X(name, size) float *name;
    ACTS(X)
#undef X
    size_t *expert, *slot, *start;                                             // [M,K] [M,K] [E+1]
} Acts;
static Acts *acts, d;
static Acts new_acts(size_t M) {
    size_t C = c.width, H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim, E = c.experts, K = E ? c.top_k : 1;
    size_t Rq = c.q_rank, R = c.kv_rank, P = c.rope_dim, N = c.nope_dim, F = E ? c.expert_width : c.ffn_width;
    size_t S = c.shared_experts;
    Acts a;
#define X(name, size) a.name = floats(M, size);
    ACTS(X)
#undef X
    a.expert = zeros(M, K, sizeof(size_t)), a.slot = zeros(M, K, sizeof(size_t));
    return a.start = zeros(E + 1, 1, sizeof(size_t)), a;
}

// Attention (Vaswani et al. 2017, eq. 1), causal: out_i = sum over j <= i of p_ij v_j, p_i = softmax(q_i k_j / sqrt D).
// H/KV query heads share one head of keys and values (Ainslie et al. 2023). The softmax is online (Milakov and
// Gimelshein 2018): keys come in tiles of 64, and when a tile has a larger score than all before, what was summed so
// far fades. Flash attention (Dao et al. 2022, algorithm 1) does so to avoid a matrix of T x T scores; here the tiles
// are because they are part of the order. lse, log sum exp of a query's scores, is what the backward needs of them.
enum { TILE = 64 };
static void attention_forward(Acts *a, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim;
    const float scale = (float)(1 / sqrt((double)D));
    PARALLEL(M * T * H * D)
    for (size_t task = 0; task < M / T * H; task++) {                          // one head of one row of the batch
        size_t first = task / H * T, h = task % H, g = h / (H / KV);
        float *keys = floats(D, T);
        turn(keys, a->k + (first * KV + g) * D, KV * D, T, D);
        for (size_t i = 0; i < T; i++) {
            const float *q = a->q + ((first + i) * H + h) * D;
            float *o = a->out + ((first + i) * H + h) * Dv, most = -INFINITY, total = 0;
            for (size_t e = 0; e < Dv; e++) o[e] = 0;
            for (size_t j = 0; j <= i; j += TILE) {
                size_t count = i + 1 - j < TILE ? i + 1 - j : TILE;
                float p[TILE] = {0}, before = most, fade = 1;
                for (size_t e = 0; e < D; e++)
                    for (size_t n = 0; n < count; n++) p[n] = fmaf(q[e], keys[e * T + j + n], p[n]);
                for (size_t n = 0; n < count; n++) most = p[n] * scale > most ? p[n] * scale : most;
                for (size_t n = 0; n < count; n++) p[n] = exponential(fmaf(p[n], scale, -most));
                if (total > 0 && most > before) fade = exponential(before - most);
                for (size_t e = 0; e < Dv; e++) o[e] *= fade;
                total = total * fade + sum(p, count);
                for (size_t n = 0; n < count; n++) {
                    const float *v = a->v + ((first + j + n) * KV + g) * Dv;
                    for (size_t e = 0; e < Dv; e++) o[e] = fmaf(p[n], v[e], o[e]);
                }
            }
            const float share = 1 / total;
            for (size_t e = 0; e < Dv; e++) o[e] *= share;
            a->lse[(first + i) * H + h] = most + (float)log_of((double)total);
        }
        free(keys);
    }
}
// With P the probabilities:  dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)) scale, dQ = dS K, dK = dS^T Q (Dao et
// al. 2022, appendix B.2). A task is a head of keys with all queries that read it, whose gradients add up in order.
static void attention_backward(const Acts *a, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim;
    const float scale = (float)(1 / sqrt((double)D));
    memset(d.q, 0, M * H * D * sizeof(float)), memset(d.k, 0, M * KV * D * sizeof(float));
    memset(d.v, 0, M * KV * Dv * sizeof(float));
    PARALLEL(M * T * H * D)
    for (size_t task = 0; task < M / T * KV; task++) {
        size_t first = task / KV * T, g = task % KV;
        float *keys = floats(D, T), *values = floats(Dv, T), *p = floats(2, T), *ds = p + T;
        turn(keys, a->k + (first * KV + g) * D, KV * D, T, D);
        turn(values, a->v + (first * KV + g) * Dv, KV * Dv, T, Dv);
        for (size_t h = g * (H / KV); h < (g + 1) * (H / KV); h++)
            for (size_t i = 0; i < T; i++) {
                size_t row = (first + i) * H + h;
                const float *q = a->q + row * D, *grad = d.out + row * Dv, delta = dot(grad, a->out + row * Dv, Dv);
                for (size_t j = 0; j <= i; j++) p[j] = ds[j] = 0;
                for (size_t e = 0; e < D; e++)
                    for (size_t j = 0; j <= i; j++) p[j] = fmaf(q[e], keys[e * T + j], p[j]);
                for (size_t e = 0; e < Dv; e++)
                    for (size_t j = 0; j <= i; j++) ds[j] = fmaf(grad[e], values[e * T + j], ds[j]);
                for (size_t j = 0; j <= i; j++) {
                    p[j] = exponential(fmaf(p[j], scale, -a->lse[row]));
                    ds[j] = p[j] * (ds[j] - delta) * scale;
                }
                for (size_t j = 0; j <= i; j++) {
                    size_t at = (first + j) * KV + g;
                    for (size_t e = 0; e < D; e++) d.q[row * D + e] = fmaf(ds[j], a->k[at * D + e], d.q[row * D + e]);
                    for (size_t e = 0; e < D; e++) d.k[at * D + e] = fmaf(ds[j], q[e], d.k[at * D + e]);
                    for (size_t e = 0; e < Dv; e++) d.v[at * Dv + e] = fmaf(p[j], grad[e], d.v[at * Dv + e]);
                }
            }
        free(keys), free(values), free(p);
    }
}

// The attention branch: queries, keys and values; perhaps a norm of queries and keys (Henry et al. 2020); rotations;
// attention; the output matrix. In multi-head latent attention (DeepSeek-V2 2024, eq. 9-19) the keys and values of all
// heads come from one latent kv_c of R numbers, but for P numbers of a key that carry the position and are the same for
// all heads; queries may have a latent of their own. Head h of kv is N numbers of its key, then Dv of its value.
static void attend_forward(const Layer *w, Acts *a, float *y, const float *x, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, N = c.nope_dim, P = c.rope_dim, Dv = c.v_dim;
    if (c.attn == MLA) {
        Linear latent = rows_of(w->kv_a, 0, c.kv_rank), position = rows_of(w->kv_a, c.kv_rank, P);
        if (c.q_rank) linear_forward(a->q_a, &w->q_a, x, M), norm_forward(a->q_c, a->q_a_stat, &w->q_a_norm, a->q_a, M);
        linear_forward(a->q, &w->q, c.q_rank ? a->q_c : x, M);
        linear_forward(a->kv_a, &latent, x, M), linear_forward(a->position, &position, x, M);
        norm_forward(a->kv_c, a->kv_a_stat, &w->kv_a_norm, a->kv_a, M);
        linear_forward(a->kv, &w->kv_b, a->kv_c, M);
        rotate(a->q + N, H, D, M, T, 1), rotate(a->position, 1, P, M, T, 1);
        for (size_t i = 0; i < M * H; i++) {
            memcpy(a->k + i * D, a->kv + i * (N + Dv), N * sizeof(float));
            memcpy(a->k + i * D + N, a->position + i / H * P, P * sizeof(float));
            memcpy(a->v + i * Dv, a->kv + i * (N + Dv) + N, Dv * sizeof(float));
        }
    } else {
        linear_forward(c.qk_norm ? a->q_in : a->q, &w->q, x, M);
        linear_forward(c.qk_norm ? a->k_in : a->k, &w->k, x, M), linear_forward(a->v, &w->v, x, M);
        if (c.qk_norm) norm_forward(a->q, a->q_stat, &w->q_norm, a->q_in, M * H * D / w->q_norm.C);
        if (c.qk_norm) norm_forward(a->k, a->k_stat, &w->k_norm, a->k_in, M * KV * D / w->k_norm.C);
        rotate(a->q, H, D, M, T, 1), rotate(a->k, KV, D, M, T, 1);
    }
    attention_forward(a, M, T);
    linear_forward(y, &w->o, a->out, M);
}
static void attend_backward(const Layer *w, Acts *a, float *dx, const float *dy, const float *x, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, N = c.nope_dim, P = c.rope_dim, Dv = c.v_dim;
    linear_backward(d.out, dy, &w->o, a->out, M, false);
    attention_backward(a, M, T);
    if (c.attn == MLA) {
        Linear latent = rows_of(w->kv_a, 0, c.kv_rank), position = rows_of(w->kv_a, c.kv_rank, P);
        memset(d.position, 0, M * P * sizeof(float));
        for (size_t i = 0; i < M * H; i++) {
            memcpy(d.kv + i * (N + Dv), d.k + i * D, N * sizeof(float));
            memcpy(d.kv + i * (N + Dv) + N, d.v + i * Dv, Dv * sizeof(float));
            for (size_t e = 0; e < P; e++) d.position[i / H * P + e] += d.k[i * D + N + e];
        }
        rotate(d.q + N, H, D, M, T, -1), rotate(d.position, 1, P, M, T, -1);
        linear_backward(d.kv_c, d.kv, &w->kv_b, a->kv_c, M, false);
        norm_backward(d.kv_a, d.kv_c, a->kv_a_stat, &w->kv_a_norm, a->kv_a, M, false);
        linear_backward(dx, d.kv_a, &latent, x, M, false), linear_backward(dx, d.position, &position, x, M, true);
        linear_backward(c.q_rank ? d.q_c : dx, d.q, &w->q, c.q_rank ? a->q_c : x, M, !c.q_rank);
        if (c.q_rank) norm_backward(d.q_a, d.q_c, a->q_a_stat, &w->q_a_norm, a->q_a, M, false);
        if (c.q_rank) linear_backward(dx, d.q_a, &w->q_a, x, M, true);
        return;
    }
    rotate(d.q, H, D, M, T, -1), rotate(d.k, KV, D, M, T, -1);
    if (c.qk_norm) norm_backward(d.q_in, d.q, a->q_stat, &w->q_norm, a->q_in, M * H * D / w->q_norm.C, false);
    if (c.qk_norm) norm_backward(d.k_in, d.k, a->k_stat, &w->k_norm, a->k_in, M * KV * D / w->k_norm.C, false);
    linear_backward(dx, c.qk_norm ? d.q_in : d.q, &w->q, x, M, false);
    linear_backward(dx, c.qk_norm ? d.k_in : d.k, &w->k, x, M, true), linear_backward(dx, d.v, &w->v, x, M, true);
}

// ---- 8. Feed-forward, experts ---------------------------------------------------------------------------------------
// SwiGLU (Shazeer 2020, eq. 6): act = gate sigmoid(gate) up. GELU (Hendrycks and Gimpel 2016), in its tanh form: act =
// up sigmoid(2u) with u = sqrt(2/pi) (up + 0.044715 up^3).
static const float GELU_A = (float)1.5957691216057308, GELU_B = (float)(1.5957691216057308 * 0.044715);
typedef struct { float *gate, *up, *act; } FfnActs;
static void ffn_forward(float *y, const Ffn *f, FfnActs a, const float *x, size_t M) {
    size_t n = M * f->up.N;
    if (c.ffn == SWIGLU) linear_forward(a.gate, &f->gate, x, M);
    linear_forward(a.up, &f->up, x, M);
    PARALLEL(n * 8)
    for (size_t i = 0; i < n; i++) {
        float u = a.up[i], g = a.gate[i];
        a.act[i] = c.ffn == SWIGLU ? g * sigmoid(g) * u : u * sigmoid(u * fmaf(GELU_B, u * u, GELU_A));
    }
    linear_forward(y, &f->down, a.act, M);
}
static void ffn_backward(float *dx, const float *dy, const Ffn *f, FfnActs a, FfnActs da, const float *x, size_t M,
                         bool more) {
    size_t n = M * f->up.N;
    linear_backward(da.act, dy, &f->down, a.act, M, false);
    PARALLEL(n * 8)
    for (size_t i = 0; i < n; i++) {
        bool gated = c.ffn == SWIGLU;
        float u = a.up[i], g = a.gate[i], s = sigmoid(gated ? g : u * fmaf(GELU_B, u * u, GELU_A));
        float slope = gated ? fmaf(g * s, 1 - s, s) : fmaf(u * fmaf(3 * GELU_B, u * u, GELU_A) * s, 1 - s, s);
        da.gate[i] = da.act[i] * u * slope;
        da.up[i] = da.act[i] * (gated ? g * s : slope);
    }
    if (c.ffn == SWIGLU) linear_backward(dx, da.gate, &f->gate, x, M, more);
    linear_backward(dx, da.up, &f->up, x, M, more || c.ffn == SWIGLU);
}

// Mixture of experts (Shazeer et al. 2017): a router, a matrix and a softmax, gives a token a score for every expert.
// The K best experts take it, and their outputs are summed, weighted by the scores, which may be scaled to sum to 1.
// Shared experts (DeepSeekMoE 2024, eq. 9) take all tokens. Copies of tokens are sorted by expert: from slot start[e]
// to start[e+1] stand those of expert e, in the order of the tokens, and an expert is a dense layer over its slots.
static const float LEAST_SUM = 1e-20f;                     // so that no sum of scores is 0
static Ffn expert(const Ffn *all, size_t e) {
    size_t F = c.expert_width, C = c.width;
    Linear gate = c.ffn == SWIGLU ? rows_of(all->gate, e * F, F) : all->gate;
    return (Ffn){gate, rows_of(all->up, e * F, F), rows_of(all->down, e * C, C)};
}
static FfnActs acts_from(const Acts *a, size_t slot) {
    size_t at = slot * c.expert_width;
    return (FfnActs){a->gate + at, a->up + at, a->act + at};
}
static FfnActs shared_acts(const Acts *a) { return (FfnActs){a->shared_gate, a->shared_up, a->shared_act}; }
static void experts_forward(const Layer *w, Acts *a, float *y, const float *x, size_t M) {
    size_t E = c.experts, K = c.top_k, C = c.width, slots = 0;
    linear_forward(a->score, &w->router, x, M);
    for (size_t m = 0; m < M; m++) {
        float *score = a->score + m * E, total = LEAST_SUM;
        size_t *chosen = a->expert + m * K;
        softmax(score, E);
        for (size_t k = 0; k < K; total += score[chosen[k++]]) {
            chosen[k] = E;
            for (size_t e = 0, j; e < E; e++) {                                // of equal ones the first
                for (j = 0; j < k && chosen[j] != e;) j++;
                if (j == k && (chosen[k] == E || score[e] > score[chosen[k]])) chosen[k] = e;
            }
        }
        for (size_t k = 0; k < K; k++) a->weight[m * K + k] = score[chosen[k]] / (c.norm_topk ? total : 1);
    }
    for (size_t e = 0; e < E; e++) {
        size_t from = a->start[e] = slots;
        for (size_t i = 0; i < M * K; i++)
            if (a->expert[i] == e) memcpy(a->sorted + slots * C, x + i / K * C, C * sizeof *x), a->slot[i] = slots++;
        Ffn one = expert(&w->ffn, e);
        ffn_forward(a->expert_out + from * C, &one, acts_from(a, from), a->sorted + from * C, slots - from);
    }
    a->start[E] = slots;
    memset(y, 0, M * C * sizeof *y);
    for (size_t k = 0; k < M * K; k++)
        for (size_t i = 0; i < C; i++)
            y[k / K * C + i] = fmaf(a->weight[k], a->expert_out[a->slot[k] * C + i], y[k / K * C + i]);
    if (!c.shared_experts) return;
    ffn_forward(a->shared_out, &w->shared, shared_acts(a), x, M);
    for (size_t i = 0; i < M * C; i++) y[i] += a->shared_out[i];
}
// From the gradients of the weights of T tokens in a row to those of their logits. The balancing loss of a row (Fedus
// et al. 2021, eq. 4, and per row as in DeepSeek-V3 2024, eq. 17) is E sum_e f_e P_e: f_e is the share of its choices
// that fell on expert e, P_e the mean score. f is not differentiable, so the slope of a score is E f_e / T.
static void router_backward(const Acts *a, size_t first, size_t T) {
    size_t E = c.experts, K = c.top_k;
    const float aux = (float)(c.aux_loss * (1 / (double)c.batch));
    float *slope = floats(1, E);
    for (size_t i = first * K; i < (first + T) * K; i++) slope[a->expert[i]] += 1;
    for (size_t e = 0; e < E; e++) slope[e] *= (float)E / ((float)T * (float)K * (float)T);
    for (size_t m = first; m < first + T; m++) {
        const float *score = a->score + m * E;
        float *ds = d.score + m * E, chosen = LEAST_SUM, mean = 0, inner = 0;
        for (size_t e = 0; e < E; e++) ds[e] = 0;
        for (size_t k = m * K; k < (m + 1) * K; k++) chosen += score[a->expert[k]], mean += d.weight[k] * a->weight[k];
        for (size_t k = m * K; k < (m + 1) * K; k++)       // w_k = s_k / sum s: ds_k = (dw_k - sum_j dw_j w_j) / sum s
            ds[a->expert[k]] = c.norm_topk ? (d.weight[k] - mean) / chosen : d.weight[k];
        for (size_t e = 0; e < E && aux != 0; e++) ds[e] += aux * slope[e];
        for (size_t e = 0; e < E; e++) inner += ds[e] * score[e];
        for (size_t e = 0; e < E; e++) ds[e] = score[e] * (ds[e] - inner);     // through the softmax
    }
    free(slope);
}
static void experts_backward(const Layer *w, const Acts *a, float *dx, const float *dy, const float *x, size_t M,
                             size_t T) {
    size_t E = c.experts, K = c.top_k, C = c.width;
    for (size_t k = 0; k < M * K; k++) {
        const float *g = dy + k / K * C, *out = a->expert_out + a->slot[k] * C;
        d.weight[k] = dot(g, out, C);
        for (size_t i = 0; i < C; i++) d.expert_out[a->slot[k] * C + i] = a->weight[k] * g[i];
    }
    for (size_t e = 0; e < E; e++) {
        Ffn one = expert(&w->ffn, e);
        size_t from = a->start[e], count = a->start[e + 1] - from, at = from * C;
        FfnActs kept = acts_from(a, from), grads = acts_from(&d, from);
        ffn_backward(d.sorted + at, d.expert_out + at, &one, kept, grads, a->sorted + at, count, false);
    }
    for (size_t first = 0; first < M; first += T) router_backward(a, first, T);
    linear_backward(dx, d.score, &w->router, x, M, false);
    for (size_t k = 0; k < M * K; k++)
        for (size_t i = 0; i < C; i++) dx[k / K * C + i] += d.sorted[a->slot[k] * C + i];
    if (c.shared_experts) ffn_backward(dx, dy, &w->shared, shared_acts(a), shared_acts(&d), x, M, true);
}

// ---- 9. The model ---------------------------------------------------------------------------------------------------
// The stream x begins as the embeddings of the tokens, and then goes through branches F, attention and feed-forward:
//   pre   x + F(N(x))   Xiong et al. 2020; one more norm ends the stream
//   post  N(x + F(x))   Vaswani et al. 2017
// h keeps what the inner function gave, N(x) or x + F(x).
static float **stream, *branch, *hidden, *final_stat, *logits, *d_stream, *d_branch, *d_sum, *d_embedding;
static void make_room(size_t M) {
    size_t L = c.layers, C = c.width;
    stream = zeros(2 * L + 1, 1, sizeof *stream), acts = zeros(L, 1, sizeof *acts);
    for (size_t i = 0; i <= 2 * L; i++) stream[i] = floats(M, C);
    for (size_t l = 0; l < L; l++) acts[l] = new_acts(M);
    d = new_acts(M);
    branch = floats(M, C), hidden = floats(M, C), final_stat = floats(M, 2), logits = floats(M, c.vocab);
    d_stream = floats(M, C), d_branch = floats(M, C), d_sum = floats(M, C), d_embedding = floats(c.vocab, C);
}

// Returns what the head reads [M,C].
static float *forward(const int *tokens, size_t M, size_t T) {
    size_t C = c.width, L = c.layers;
    for (size_t i = 0; i < M * C; i++) {
        stream[0][i] = embedding.w[(size_t)tokens[i / C] * C + i % C];
        if (positions.w) stream[0][i] += positions.w[i % (T * C)];
    }
    for (size_t b = 0; b < 2 * L; b++) {
        const Layer *w = &layers[b / 2];
        Acts *a = &acts[b / 2];
        bool attends = b % 2 == 0, pre = c.norm == PRE;
        float *x = stream[b], *h = attends ? a->h0 : a->h1, *stat = attends ? a->stat0 : a->stat1, *in = pre ? h : x;
        if (pre) norm_forward(h, stat, &w->norm[b % 2], x, M);
        if (attends) attend_forward(w, a, branch, in, M, T);
        else if (c.experts) experts_forward(w, a, branch, in, M);
        else ffn_forward(branch, &w->ffn, acts_from(a, 0), in, M);
        float *to = pre ? stream[b + 1] : h;
        for (size_t i = 0; i < M * C; i++) to[i] = x[i] + branch[i];
        if (!pre) norm_forward(stream[b + 1], stat, &w->norm[b % 2], h, M);
    }
    if (c.norm == POST) return stream[2 * L];
    norm_forward(hidden, final_stat, &final_norm, stream[2 * L], M);
    return hidden;
}
// From the gradient of what the head reads, in d_branch. d_stream is that of a branch's output, and then of its input.
static void backward(const int *tokens, size_t M, size_t T) {
    size_t C = c.width, L = c.layers;
    if (c.norm == PRE) norm_backward(d_stream, d_branch, final_stat, &final_norm, stream[2 * L], M, false);
    else memcpy(d_stream, d_branch, M * C * sizeof(float));
    for (size_t b = 2 * L; b-- > 0;) {
        const Layer *w = &layers[b / 2];
        Acts *a = &acts[b / 2];
        bool attends = b % 2 == 0, pre = c.norm == PRE;
        float *x = stream[b], *h = attends ? a->h0 : a->h1, *stat = attends ? a->stat0 : a->stat1, *in = pre ? h : x;
        float *dy = pre ? d_stream : d_sum;
        if (!pre) norm_backward(d_sum, d_stream, stat, &w->norm[b % 2], h, M, false);
        if (attends) attend_backward(w, a, d_branch, dy, in, M, T);
        else if (c.experts) experts_backward(w, a, d_branch, dy, in, M, T);
        else ffn_backward(d_branch, dy, &w->ffn, acts_from(a, 0), acts_from(&d, 0), in, M, false);
        if (pre) norm_backward(d_stream, d_branch, stat, &w->norm[b % 2], x, M, true);
        else for (size_t i = 0; i < M * C; i++) d_stream[i] = d_sum[i] + d_branch[i];
    }
    for (size_t i = 0; i < M * C; i++) {
        d_embedding[(size_t)tokens[i / C] * C + i % C] += d_stream[i];
        if (positions.w) positions.dw[i % (T * C)] += d_stream[i];
    }
}

// Cross-entropy, log sum exp x - x[target]. Its gradient, softmax(x) less 1 at the target, times scale, replaces x.
static double cross_entropy(float *x, int target, float scale) {
    size_t V = c.vocab;
    if (target < 0) return memset(x, 0, V * sizeof *x), 0;
    float most = largest(x, V), of_target = x[target], total = exponentials(x, V, most), share = scale / total;
    for (size_t i = 0; i < V; i++) x[i] *= share;
    x[target] -= scale;
    return log_of((double)total) + (double)most - (double)of_target;
}

// ---- 10. The optimizer ----------------------------------------------------------------------------------------------
// The length of the gradient: squares of 4096 numbers by lanes, these in order in double, tensor by tensor.
static double gradient_norm(void) {
    double all = 0, squares;
    for (size_t t = 0; t < tensors; t++, all += squares) {
        const float *g = tensor[t].gradient, *end = g + tensor[t].size;
        for (squares = 0; g < end; g += 4096) squares += (double)dot(g, g, end - g < 4096 ? (size_t)(end - g) : 4096);
    }
    return sqrt(all);
}

// Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5) down to min_lr at the last step.
static double learning_rate(size_t step) {
    if (step < c.warmup) return c.lr * (double)(step + 1) / (double)c.warmup;
    size_t left = c.steps > c.warmup ? c.steps - c.warmup : 0;
    double sine, cosine, progress = left > 1 ? (double)(step - c.warmup) / (double)(left - 1) : 1;
    sine_and_cosine(3.141592653589793 * progress, &sine, &cosine);
    return c.min_lr + 0.5 * (1 + cosine) * (c.lr - c.min_lr);
}

// AdamW (Loshchilov and Hutter 2019, algorithm 2), with the bias corrections of Adam (Kingma and Ba 2015), n from 1 on:
//     mean = beta1 mean + (1 - beta1) g             square = beta2 square + (1 - beta2) g^2
//     w -= lr weight_decay w                        w -= lr / (1 - beta1^n) mean / (sqrt(square / (1 - beta2^n)) + eps)
// A gradient longer than clip is shortened to it (Pascanu et al. 2013, algorithm 1).
static void update(size_t n, double norm) {
    double lr = learning_rate(n - 1), part1 = 1 - whole_power(c.beta1, n), part2 = 1 - whole_power(c.beta2, n);
    const float beta1 = (float)c.beta1, rest1 = (float)(1 - c.beta1), move = (float)(-lr / part1), eps = (float)c.eps;
    const float beta2 = (float)c.beta2, rest2 = (float)(1 - c.beta2), root_scale = (float)(1 / sqrt(part2));
    const float decay = (float)(-lr * c.weight_decay), cut = (float)(c.clip > 0 && norm > c.clip ? c.clip / norm : 1);
    for (size_t i = 0; i < tensors; i++) {
        const Tensor t = tensor[i];
        bool decays = t.decays && c.weight_decay > 0;
        PARALLEL(t.size)
        for (size_t k = 0; k < t.size; k++) {
            float g = t.gradient[k] * cut, w = decays ? fmaf(decay, t.value[k], t.value[k]) : t.value[k];
            t.mean[k] = fmaf(beta1, t.mean[k], rest1 * g), t.square[k] = fmaf(beta2, t.square[k], rest2 * g * g);
            t.value[k] = fmaf(move, t.mean[k] / fmaf(sqrtf(t.square[k]), root_scale, eps), w);
        }
    }
}

// ---- 11. A sample ---------------------------------------------------------------------------------------------------
static void print_token(int token, bool first) {
    if (!corpus.is_text) printf("%s%d", first ? "" : " ", token);
    else putchar(corpus.letter[token] >= ' ' || corpus.letter[token] == '\n' ? corpus.letter[token] : '?');
}
// Draws number n of a text from softmax(x / 0.8): the token in whose share of the probability a random number falls.
static int draw(float *x, size_t n) {
    size_t V = corpus.vocab, last = 0;
    double total = 0, so_far = 0;
    float most = largest(x, V);
    Random r = random_of(c.seed, FOR_SAMPLE, n);
    for (size_t i = 0; i < V; i++) x[i] = (float)((double)(x[i] - most) / 0.8);
    softmax(x, V);
    for (size_t i = 0; i < V; i++) total += (double)x[i];
    uint64_t high = random_word(&r) >> 5, low = random_word(&r) >> 6;          // 53 random bits
    double share = (double)(high << 26 | low) * 0x1p-53 * total;
    for (size_t i = 0; i < V && (so_far == 0 || so_far <= share); i++)
        if (x[i] > 0) so_far += (double)x[last = i];
    return (int)last;
}

// A text begins with a newline, recall with what stands before the first answer. For every token the whole text is read
// again; a cache of keys and values would give the same numbers, but for mla, which ./train decodes in another order.
// When learned positions run out, the last half of the text becomes the beginning of a new one.
static void write_sample(void) {
    size_t T = c.context, n = 1, from = 0;
    int *text = zeros(T + c.sample_tokens, 1, sizeof *text), *targets = zeros(T, 1, sizeof *targets);
    text[0] = corpus.newline;
    if (!corpus.is_text) for (recall_row(VALIDATION, 0, text, targets); targets[n - 1] < 0;) n++;
    for (size_t i = 0; i < n; i++) print_token(text[i], i == 0);
    for (size_t end = n + c.sample_tokens; n < end; n++) {
        if (positions.w && n - from > T) from = n - (T > 1 ? T / 2 : 1);
        const float *h = forward(text + from, n - from, n - from);
        linear_forward(logits, &head, h + (n - from - 1) * c.width, 1);
        print_token(text[n] = draw(logits, n), false);
    }
    puts("\n");
    free(text), free(targets);
}

// ---- 12. Training ---------------------------------------------------------------------------------------------------
static int *tokens, *targets;                              // [B,T], for validation [validation_rows,T]
static double *loss;                                       // [M]
static uint64_t loss_hash;
// A loss enters the digest; it is printed as the shortest text that reads back as the same number.
static void log_loss(const char *name, double x) {
    char text[32] = "";
    for (int digits = 15; digits <= 17 && (!*text || strtod(text, NULL) != x); digits++)
        snprintf(text, sizeof text, "%.*g", digits, x);
    loss_hash = hash(loss_hash, &x, sizeof x);
    printf("  %s %s", name, text);
}

// The mean loss per scored token of `count` rows from row `first` on, and of training rows its gradient. Rows go by in
// pieces of micro_batch. A row's losses are summed in double, in order, and so are the rows.
static double mean_loss(Split split, size_t first, size_t count) {
    size_t T = c.context, V = c.vocab, scored = 0;
    for (size_t i = 0; i < count; i++)
        (corpus.is_text ? text_row : recall_row)(split, first + i, tokens + i * T, targets + i * T);
    for (size_t i = 0; i < count * T; i++) scored += targets[i] >= 0;
    double scale = 1 / (double)scored, all = 0, row = 0;
    for (size_t t = 0; t < tensors; t++) memset(tensor[t].gradient, 0, tensor[t].size * sizeof(float));
    memset(d_embedding, 0, V * c.width * sizeof(float));
    for (size_t from = 0, M; from < count * T; from += M) {
        M = (count - from / T < c.micro_batch ? count - from / T : c.micro_batch) * T;
        const float *h = forward(tokens + from, M, T);
        linear_forward(logits, &head, h, M);
        PARALLEL(M * V)
        for (size_t m = 0; m < M; m++) loss[m] = cross_entropy(logits + m * V, targets[from + m], (float)scale);
        for (size_t m = 0; m < M; m++) {
            row += loss[m];
            if (m % T == T - 1) all += row, row = 0;
        }
        if (split == VALIDATION) continue;
        linear_backward(d_branch, logits, &head, h, M, false);
        backward(tokens + from, M, T);
    }
    for (size_t i = 0; i < V * c.width; i++) embedding.dw[i] += d_embedding[i];        // after that of a tied head
    return split == TRAINING ? scale * all : all / (double)scored;             // which differ in the last bit
}

int main(int argc, char **argv) {
    double val = 0, start = (double)time(NULL);
    read_settings(argc, argv), derive_settings(), open_data(), fill_factorials(), add_parameters();
#ifdef _OPENMP
    if (c.threads) omp_set_num_threads((int)c.threads);
#endif
    size_t rows = c.micro_batch * c.context, longest = c.context + c.sample_tokens, numbers = 0;
    make_room(rows > longest ? rows : longest), fill_rotations(longest);
    tokens = zeros(c.batch + validation_rows, c.context, sizeof(int));
    targets = zeros(c.batch + validation_rows, c.context, sizeof(int));
    loss = zeros(rows, 1, sizeof(double)), loss_hash = HASH_START;
    for (size_t t = 0; t < tensors; t++) numbers += tensor[t].size;
    printf("data %s, a vocabulary of %zu; model of %zu parameters\n", c.data, c.vocab, numbers);
    for (size_t n = 0; n <= c.steps; n++) {                // n: steps done
        double train = 0, norm = 0;
        if (n) train = mean_loss(TRAINING, (n - 1) * c.batch, c.batch), norm = gradient_norm();
        if (n && isfinite(train) && isfinite(norm)) update(n, norm);
        bool validates = n % c.eval_every == 0 || n == c.steps;
        if (validates) val = mean_loss(VALIDATION, 0, validation_rows);
        if (!isfinite(train) || !isfinite(norm) || !isfinite(val))
            stop(1, "diverged at step %zu: losses %g and %g, gradient norm %g", n, fabs(train), fabs(val), fabs(norm));
        if (!validates && n % c.log_every) continue;
        printf("step %zu", n);
        if (n) log_loss("train_loss", train);
        if (validates) log_loss("val_loss", val);
        putchar('\n'), fflush(stdout);
    }
    // The digest: a hash of the losses that were logged, and of the name and the numbers of every tensor.
    unsigned long long digest = loss_hash;
    if (c.digest) printf("%016llx  the logged losses\n", digest);
    for (size_t t = 0; t < tensors; t++) {
        uint64_t h = hash(hash_name(HASH_START, &tensor[t]), tensor[t].value, tensor[t].size * sizeof(float));
        if (c.digest) printf("%016llx  %s\n", (unsigned long long)h, tensor[t].name);
        digest = hash(digest, &h, sizeof h);
    }
    if (c.sample_tokens) write_sample();
    printf("receipt: digest %016llx, loss %.4f, floor %s, tokens %zu, wall %.0f s,", digest, val,
           corpus.is_text ? "unknown" : "0.0000", c.steps * c.batch * c.context, (double)time(NULL) - start);
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    if (putchar('\n') == EOF || fflush(stdout) || ferror(stdout)) stop(1, "cannot write to standard output");
    return 0;
}

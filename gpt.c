// gpt.c: a GPT trainer in one file, written to be read from top to bottom in under an hour.
//
// What it is. The default path of this project once more, as plain loops over plain arrays: text becomes tokens, tokens
// go through a transformer, its mistake becomes gradients, and AdamW moves the weights. It shares no line with
// ./train, which does the same work many times as fast in many files, and it gives the same bits: for all settings
// that it knows, the digest in its last line is that of ./train. So this file is the specification of the fast one,
// which checks it in turn (tests/onefile.sh); a mistake in either shows as another digest.
//
// What it is not. Fast, complete, or resumable: it has no run directory, no key-value cache, no other attention,
// router, norm, schedule, tokenizer or synthetic language than those below. What it does not know it refuses, and
// ./train does it.
//
//     cc -O3 -march=native -ffp-contract=off -fopenmp gpt.c -lm -o gpt
//     ./gpt --data input.txt --preset shakespeare          # characters of a text
//     ./gpt --data recall --attn mla --steps 300           # keys and values to hold in mind
//     ./gpt --help                                         # every flag; names and defaults are those of ./train
//
// Conventions. A matrix is an array of rows: "x [M,C]" has M rows of C numbers, number c of row m is x[m * C + c]. All
// that a model says of M = B * T tokens stands in M rows, row by row of the batch. B rows of the batch, T tokens in a
// row, C the width of the residual stream, H heads of width D, F the width of a feed-forward, E experts of which a
// token takes K, V tokens in the vocabulary. "dx" is the gradient of the loss by x. A backward stands directly below
// its forward; it sets the gradient of its input and adds to the gradients of its weights.
//
// Where each part lives in the fast version:
//      1  The same bits            lib/simd.h, top of kernels/matmul.c, kernels/ops.c
//      2  Numbers from nowhere     lib/rng.c, lib/numeric.c
//      3  Settings                 config/, lib/flags.c
//      4  Data                     data/file.c, data/tokenizer.c, data/recall.c
//      5  Parameters               model/
//      6  Layers                   kernels/matmul.c, kernels/ops.c
//      7  Attention                kernels/, attention.c
//      8  Feed-forward, experts    moe.c, router.c
//      9  The model                model.c
//     10  The optimizer            kernels/optim.c
//     11  A sample                 sample.c
//     12  Training                 train.c, run/
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
    fflush(stdout);
    fputs("gpt: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(status);
}

static size_t product(size_t a, size_t b) {
    if (b && a > SIZE_MAX / b) stop(1, "%zu times %zu numbers are more than any memory; choose smaller sizes", a, b);
    return a * b;
}

static void *zeros(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p) stop(1, "out of memory: %zu times %zu bytes were needed; choose smaller sizes", count, size);
    return p;
}

static float *floats(size_t rows, size_t columns) { return zeros(product(rows, columns), sizeof(float)); }

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
//   5. exp is a polynomial of our own, because that of every C library is another one. So are the functions in
//      section 2.

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
    p = fmaf(p, r, 1.f / 720);
    p = fmaf(p, r, 1.f / 120);
    p = fmaf(p, r, 1.f / 24);
    p = fmaf(p, r, 1.f / 6);
    p = fmaf(p, r, 1.f / 2);
    p = fmaf(p, r, 1);
    p = fmaf(p, r, 1);
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, 4);
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
        h = (h ^ word) * 0x100000001b3;
        h ^= h >> 32;
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
static double random_share(Random *r) {                                        // in [0, 1), 53 bits
    uint64_t high = random_word(r) >> 5, low = random_word(r) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
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
    double rest, high = x > 0 ? logarithm(x, &rest) : (double)NAN;
    return x > 0 ? high + rest : high;
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
enum { MHA, GQA, MLA };
enum { ROPE, LEARNED };
enum { QK_NONE, QK_HEAD, QK_FULL };
enum { PRE, POST };
enum { RMS, LAYER };
enum { SWIGLU, GELU };

static struct {
    const char *data;
    size_t vocab, data_seed, pairs, keys, layers, width, context, heads, kv_heads, head_dim, kv_rank, q_rank, rope_dim;
    size_t nope_dim, v_dim, ffn_width, bias, tie, experts, top_k, expert_width, shared_experts, norm_topk, steps, batch;
    size_t micro_batch, warmup, seed, eval_every, eval_tokens, log_every, sample_tokens, digest, threads;
    size_t attn, qk_norm, pos, norm, norm_kind, ffn, only;      // one of the words above; only: there is no choice
    double val_fraction, rope_theta, norm_eps, init_scale, aux_loss, lr, min_lr, beta1, beta2, eps, weight_decay, clip;
} c;

// `words` is the list of a choice; WHOLE and REAL numbers have a range. `needs` says what a flag is of no use without.
typedef enum { TEXT, CHOICE, WHOLE, REAL } Kind;
typedef struct {
    const char *name; Kind kind; void *at; const char *text, *words; double low, high; const char *needs, *help;
    bool given;
} Flag;
static Flag flags[] = {
    {"data", TEXT, &c.data, "stories", "", 0, 0, "", "recall, or a text file; stories, the default, is for ./train", 0},
    {"tokenizer", CHOICE, &c.only, "auto", "auto|char", 0, 0, "data FILE", "tokens are the characters of a text", 0},
    {"vocab", WHOLE, &c.vocab, "0", "", 0, 1e7, "", "tokens, with some that never occur (0: as many as there are)", 0},
    {"data-seed", WHOLE, &c.data_seed, "1", "", 0, 0x1p53, "data recall", "of the validation rows", 0},
    {"pairs", WHOLE, &c.pairs, "8", "", 1, 65536, "data recall", "key-value pairs to hold in mind", 0},
    {"keys", WHOLE, &c.keys, "64", "", 2, 1e6, "data recall", "size of the key space, and of the value space", 0},
    {"val-fraction", REAL, &c.val_fraction, "0.1", "", 0.001, 0.9, "data FILE", "share at the end for validation", 0},
    {"layers", WHOLE, &c.layers, "4", "", 1, 1e5, "", "blocks", 0},
    {"width", WHOLE, &c.width, "128", "", 1, 1e6, "", "C, the residual stream", 0},
    {"context", WHOLE, &c.context, "128", "", 1, 1e8, "", "T, tokens of a row", 0},
    {"attn", CHOICE, &c.attn, "mha", "mha|gqa|mla", 0, 0, "", "all heads, grouped heads, or a latent for all", 0},
    {"heads", WHOLE, &c.heads, "4", "", 1, 65536, "", "H, query heads", 0},
    {"kv-heads", WHOLE, &c.kv_heads, "0", "", 0, 65536, "attn gqa", "heads with keys and values (0: heads/2)", 0},
    {"head-dim", WHOLE, &c.head_dim, "0", "", 0, 65536, "", "D, width of a head (0: width/heads)", 0},
    {"kv-rank", WHOLE, &c.kv_rank, "0", "", 0, 65536, "attn mla", "R, width of the latent (0: 2 head-dim)", 0},
    {"q-rank", WHOLE, &c.q_rank, "0", "", 0, 65536, "attn mla", "of the compressed query (0: not compressed)", 0},
    {"rope-dim", WHOLE, &c.rope_dim, "0", "", 0, 65536, "pos rope", "P, rotated (0: head-dim; mla: half of it)", 0},
    {"nope-dim", WHOLE, &c.nope_dim, "0", "", 0, 65536, "attn mla", "N, without position (0: head-dim)", 0},
    {"v-dim", WHOLE, &c.v_dim, "0", "", 0, 65536, "attn mla", "width of a value head (0: head-dim)", 0},
    {"attn-kernel", CHOICE, &c.only, "flash", "flash", 0, 0, "", "tiles of keys, scores computed twice", 0},
    {"qk-norm", CHOICE, &c.qk_norm, "none", "none|head|full", 0, 0, "attn mha|gqa", "RMSNorm of queries and keys", 0},
    {"pos", CHOICE, &c.pos, "rope", "rope|learned", 0, 0, "", "positions: rotations, or a table", 0},
    {"rope-theta", REAL, &c.rope_theta, "10000", "", 1, 1e12, "pos rope", "base of the wavelengths", 0},
    {"norm", CHOICE, &c.norm, "pre", "pre|post", 0, 0, "", "x + F(N(x)), or N(x + F(x))", 0},
    {"norm-kind", CHOICE, &c.norm_kind, "rms", "rms|layer", 0, 0, "", "RMSNorm or LayerNorm", 0},
    {"norm-eps", REAL, &c.norm_eps, "1e-5", "", 0, 1, "", "added to the variance", 0},
    {"ffn", CHOICE, &c.ffn, "swiglu", "swiglu|gelu", 0, 0, "", "feed-forward activation", 0},
    {"ffn-width", WHOLE, &c.ffn_width, "0", "", 0, 1e7, "", "F (0: 8/3 width in steps of 32; gelu: 4 width)", 0},
    {"bias", WHOLE, &c.bias, "0", "", 0, 1, "", "biases on attention, feed-forward and LayerNorm", 0},
    {"tie", WHOLE, &c.tie, "1", "", 0, 1, "", "the output head is the embedding", 0},
    {"init-scale", REAL, &c.init_scale, "1", "", 0, 1000, "", "times 0.02, the deviation of initial weights", 0},
    {"experts", WHOLE, &c.experts, "0", "", 0, 65536, "", "E, experts of a layer (0: dense)", 0},
    {"top-k", WHOLE, &c.top_k, "2", "", 1, 65536, "experts", "K, experts of a token", 0},
    {"expert-width", WHOLE, &c.expert_width, "0", "", 0, 1e7, "experts", "of one expert (0: ffn-width)", 0},
    {"shared-experts", WHOLE, &c.shared_experts, "0", "", 0, 65536, "experts", "experts for every token", 0},
    {"router", CHOICE, &c.only, "topk", "topk", 0, 0, "experts", "the K best experts of a token", 0},
    {"gate", CHOICE, &c.only, "softmax", "softmax", 0, 0, "experts", "what the scores of a router are", 0},
    {"norm-topk", WHOLE, &c.norm_topk, "1", "", 0, 1, "experts", "weights of a token's experts sum to 1", 0},
    {"aux-loss", REAL, &c.aux_loss, "-1", "", -1, 1000, "experts", "weight of the balancing loss (-1: 0.01)", 0},
    {"steps", WHOLE, &c.steps, "700", "", 0, 1e9, "", "optimizer steps", 0},
    {"batch", WHOLE, &c.batch, "16", "", 1, 1e6, "", "B, rows of a step", 0},
    {"micro-batch", WHOLE, &c.micro_batch, "0", "", 0, 1e6, "", "rows at a time (0: batch); changes no bit", 0},
    {"lr", REAL, &c.lr, "3e-3", "", 0, 1000, "", "peak learning rate", 0},
    {"min-lr", REAL, &c.min_lr, "-1", "", -1, 1000, "", "learning rate at the end (-1: lr/10)", 0},
    {"warmup", WHOLE, &c.warmup, "50", "", 0, 1e9, "", "steps of linear warm-up", 0},
    {"schedule", CHOICE, &c.only, "cosine", "cosine", 0, 0, "", "after the warm-up", 0},
    {"beta1", REAL, &c.beta1, "0.9", "", 0, 0.999999, "", "AdamW: mean of gradients", 0},
    {"beta2", REAL, &c.beta2, "0.99", "", 0, 0.999999999, "", "AdamW: mean of their squares", 0},
    {"eps", REAL, &c.eps, "1e-8", "", 1e-30, 1, "", "AdamW: added to the root", 0},
    {"weight-decay", REAL, &c.weight_decay, "0.1", "", 0, 1000, "", "AdamW: of matrices", 0},
    {"clip", REAL, &c.clip, "1", "", 0, 1e30, "", "largest gradient norm (0: any)", 0},
    {"seed", WHOLE, &c.seed, "1", "", 0, 0x1p53, "", "initial weights, training rows, sample", 0},
    {"eval-every", WHOLE, &c.eval_every, "0", "", 0, 1e9, "", "steps between validations (0: a tenth of all)", 0},
    {"eval-tokens", WHOLE, &c.eval_tokens, "16384", "", 1, 1e9, "", "tokens of a validation", 0},
    {"log-every", WHOLE, &c.log_every, "10", "", 1, 1e9, "", "steps between lines with losses", 0},
    {"sample-tokens", WHOLE, &c.sample_tokens, "200", "", 0, 1e6, "", "length of the sample at the end", 0},
    {"digest", WHOLE, &c.digest, "0", "", 0, 1, "", "print the hash of every tensor at the end", 0},
    {"threads", WHOLE, &c.threads, "0", "", 0, 4096, "", "threads (0: all); changes no bit", 0},
};
enum { FLAGS = sizeof flags / sizeof *flags };
static const char *const presets[][2] = {
    {"shakespeare", "--tokenizer char --layers 4 --heads 4 --width 128 --context 64 --batch 12 --pos learned "
     "--norm-kind layer --ffn gelu --steps 2000 --lr 2e-3 --min-lr 2e-4 --warmup 100 --beta2 0.99 --eval-every 250"},
    {"gpt2", "--pos learned --norm-kind layer --ffn gelu --bias 1"},
    {"llama", "--attn gqa --kv-heads 2 --tie 0"},
    {"mixtral", "--attn gqa --kv-heads 2 --tie 0 --experts 8 --top-k 2 --expert-width 128 --aux-loss 0.02"},
};
enum { PRESETS = sizeof presets / sizeof *presets };

static void help(void) {
    puts("./gpt [--name value]...\nA GPT trainer in one file, with the digest of ./train. It begins with --data FILE "
         "or --data recall.\nFlags, with their defaults (--name value or --name=value; the last one counts):\n");
    for (size_t i = 0; i < FLAGS; i++) {
        const Flag *f = &flags[i];
        int n = printf("  --%s %s", f->name, *f->words ? f->words : f->kind == TEXT ? "FILE" : "");
        printf("%*s%s [%s%s%s]\n", n < 34 ? 34 - n : 1, "", f->help, f->text, *f->needs ? "; with " : "", f->needs);
    }
    for (size_t i = 0; i < PRESETS; i++) printf("  --preset %-12s stands for %s\n", presets[i][0], presets[i][1]);
    exit(0);
}

static bool same_name(const char *a, const char *b, size_t n) {                // of which a has n letters; - is _
    for (size_t i = 0; i < n; i++)
        if ((a[i] == '_' ? '-' : a[i]) != b[i]) return false;
    return b[n] == '\0';
}

static Flag *find(const char *name, size_t n) {
    for (size_t i = 0; i < FLAGS; i++)
        if (same_name(name, flags[i].name, n)) return &flags[i];
    stop(2, "--%.*s is not among the flags of gpt.c (--help lists them); ./train may know it", (int)n, name);
}

// The place of a word in a list such as "mha|gqa|mla", or -1.
static int place_in(const char *words, const char *word) {
    for (int place = 0;; place++) {
        size_t n = strcspn(words, "|");
        if (n == strlen(word) && !strncmp(words, word, n)) return place;
        if (!words[n]) return -1;
        words += n + 1;
    }
}

static void set(Flag *f, const char *text) {
    char *end;
    f->text = text, errno = 0;
    if (f->kind == TEXT) *(const char **)f->at = text;
    if (f->kind == CHOICE) {
        int place = place_in(f->words, text);
        if (place < 0) stop(2, "--%s %s: gpt.c knows %s; ./train may know it", f->name, text, f->words);
        *(size_t *)f->at = (size_t)place;
    }
    if (f->kind < WHOLE) return;
    double x = strtod(text, &end);
    if (f->kind == WHOLE) *(size_t *)f->at = strtoull(text, &end, 10);
    else *(double *)f->at = x;
    bool starts = *text >= '0' && *text <= '9', number = starts || (f->kind == REAL && end != text && *text > ' ');
    if (!number || *end || errno || !(x >= f->low && x <= f->high))
        stop(2, "--%s takes a%s number from %.9g to %.9g, not '%s'", f->name, f->kind == WHOLE ? " whole" : "", f->low,
             f->high, text);
}

// One flag at word[0], perhaps with its value at word[1]; returns how many words it took.
static int parse(char **word, int words) {
    size_t n = strcspn(word[0], "=");
    if (strncmp(word[0], "--", 2) || n < 3) stop(2, "'%s' is no flag: --name value was expected (--help)", word[0]);
    bool equals = word[0][n] == '=', next = !equals && words > 1 && strncmp(word[1], "--", 2);
    Flag *f = find(word[0] + 2, n - 2);
    if (!equals && !next && f->high != 1) stop(2, "--%s needs a value (%s)", f->name, f->help);
    set(f, equals ? word[0] + n + 1 : next ? word[1] : "1");
    f->given = true;
    return next ? 2 : 1;
}

static void use_preset(const char *name) {
    for (size_t i = 0; i < PRESETS; i++) {
        if (!same_name(name, presets[i][0], strlen(name))) continue;
        char *text = strcpy(zeros(strlen(presets[i][1]) + 1, 1), presets[i][1]), *word[64];
        int words = 0;
        for (char *w = strtok(text, " "); w; w = strtok(NULL, " ")) word[words++] = w;
        for (int at = 0; at < words;) at += parse(word + at, words - at);
        return;
    }
    stop(2, "--preset %s is not one of gpt.c (--help lists them); ./train may know it", name);
}

// A flag without effect would mislead, so it is refused.
static bool is_useful(const Flag *f) {
    const char *space = strchr(f->needs, ' ');
    if (!*f->needs) return true;
    const Flag *other = find(f->needs, strcspn(f->needs, " "));
    if (!space) return *(const size_t *)other->at > 0;
    return strcmp(space, " FILE") ? place_in(space + 1, other->text) >= 0 : strcmp(other->text, "recall") != 0;
}

static void read_settings(int argc, char **argv) {
    const char *standard[FLAGS], *preset = NULL;
    for (int i = 0; i < FLAGS; i++) set(&flags[i], standard[i] = flags[i].text);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) help();
        bool here = !strncmp(argv[i], "--preset", 8) && (argv[i][8] == '=' || !argv[i][8]);
        if (here && preset) stop(2, "two presets: only one can be given");
        if (here) preset = argv[i][8] ? argv[i] + 9 : i + 1 < argc ? argv[i + 1] : "";
        if (here) use_preset(preset);
    }
    for (int i = 1; i < argc;)
        if (strncmp(argv[i], "--preset", 8)) i += parse(argv + i, argc - i);
        else i += argv[i][8] ? 1 : 2;
    for (int i = 0; i < FLAGS; i++)
        if (flags[i].given && strcmp(flags[i].text, standard[i]) && !is_useful(&flags[i]))
            stop(2, "--%s belongs to --%s and has no effect here; leave it out", flags[i].name, flags[i].needs);
    if (!strcmp(c.data, "stories"))
        stop(2, "give --data FILE or --data recall: the language stories, the default of ./train, is only in ./train");
}

// Fills in what 0 or -1 leaves to be derived, and refuses what cannot be.
static void derive_settings(void) {
    if (!c.head_dim && c.width % c.heads) stop(2, "--width %zu cannot be divided by --heads %zu", c.width, c.heads);
    if (!c.head_dim) c.head_dim = c.width / c.heads;
    if (c.attn != GQA) c.kv_heads = c.heads;
    if (!c.kv_heads) c.kv_heads = c.heads > 1 ? c.heads / 2 : 1;
    if (c.heads % c.kv_heads) stop(2, "--heads %zu cannot be divided by --kv-heads %zu", c.heads, c.kv_heads);
    if (!c.rope_dim) c.rope_dim = c.attn == MLA ? (c.head_dim / 2 + 1) / 2 * 2 : c.head_dim;
    if (c.pos != ROPE) c.rope_dim = 0;
    if (c.rope_dim % 2) stop(2, "rotations take pairs: give an even --rope-dim, not %zu", c.rope_dim);
    if (c.attn != MLA && c.rope_dim > c.head_dim) stop(2, "--rope-dim %zu is more than a head has", c.rope_dim);
    if (!c.kv_rank) c.kv_rank = 2 * c.head_dim;
    if (!c.nope_dim) c.nope_dim = c.head_dim;
    if (!c.v_dim || c.attn != MLA) c.v_dim = c.head_dim;
    if (c.attn == MLA) c.head_dim = c.nope_dim + c.rope_dim;                   // of a query and a key
    if (!c.ffn_width) c.ffn_width = c.ffn == SWIGLU ? (8 * c.width / 3 + 31) / 32 * 32 : 4 * c.width;
    if (!c.expert_width) c.expert_width = c.ffn_width;
    if (c.experts && c.top_k > c.experts) stop(2, "--top-k %zu is more than --experts %zu", c.top_k, c.experts);
    if (c.experts > 1 && c.top_k == 1 && c.norm_topk)
        stop(2, "--top-k 1 with --norm-topk 1 always gives the weight 1, so the router learns nothing; --norm-topk 0");
    if (c.aux_loss < 0 && c.aux_loss != -1) stop(2, "--aux-loss %g is negative", c.aux_loss);
    if (c.aux_loss < 0) c.aux_loss = 0.01;
    if (!c.micro_batch) c.micro_batch = c.batch;
    if (c.micro_batch > c.batch) stop(2, "--micro-batch %zu is more than --batch %zu", c.micro_batch, c.batch);
    char tenth[32];                                      // as one writes it: 0.0003, not 0.00030000000000000003
    snprintf(tenth, sizeof tenth, "%.15g", c.lr / 10);
    if (c.min_lr == -1) c.min_lr = strtod(tenth, NULL);
    if (c.min_lr < 0 || c.min_lr > c.lr) stop(2, "--min-lr %g should be between 0 and --lr %g", c.min_lr, c.lr);
    if (!c.eval_every) c.eval_every = c.steps >= 10 ? c.steps / 10 : 1;
}

// ---- 4. Data ---------------------------------------------------------------------------------------------------------
// Training row n and validation row n are functions of n and a seed. targets[t] is the token that follows tokens[t], or
// -1 where the answer is not to be learned.
typedef enum { TRAINING, VALIDATION } Split;
static struct { char *text; size_t *letter, *token[2], count[2]; } corpus;  // letter [V]: where it stands in the text
static size_t validation_rows;

// The bytes of the character at the start of a text, and its code (RFC 3629); 0: there is none.
static size_t character(const char *text, size_t bytes, uint32_t *code) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)text;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xC0 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF8 ? 4 : 0;
    if (n == 0 || n > bytes) return 0;
    *code = n == 1 ? p[0] : p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        *code = *code << 6 | (p[i] & 0x3Fu);
    }
    return *code < least[n] || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000) ? 0 : n;
}

static char *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    *bytes = 0;
    for (size_t n = 1, room = 0; f && n; *bytes += n) {
        if (*bytes == room) text = realloc(text, room = 2 * room + 65536);
        if (!text) stop(1, "no memory for %s", path);
        n = fread(text + *bytes, 1, room - *bytes, f);
    }
    if (!f || ferror(f)) stop(1, "cannot read %s: %s", path, strerror(errno));
    fclose(f);
    if (!*bytes || *bytes > UINT32_MAX) stop(1, "%s has %zu bytes; a text of 1 byte to 4 GB was expected", path, *bytes);
    return text;
}

// The vocabulary is the characters of the text in order of their codes; its last part is for validation.
static size_t open_text(const char *path) {
    size_t bytes, vocab = 0, n, ending = strlen(path);
    if (ending > 4 && !strcmp(path + ending - 4, ".bin")) stop(2, "%s holds tokens, not a text: for ./train", path);
    char *text = corpus.text = read_file(path, &bytes);
    size_t cut = (size_t)((1 - c.val_fraction) * (double)bytes), *number = zeros(0x110000, sizeof *number);
    size_t *first = zeros(0x110000, sizeof *first);
    uint32_t code;
    while (cut < bytes && ((unsigned char)text[cut] & 0xC0) == 0x80) cut++;
    for (size_t at = 0; at < bytes; at += n) {
        if (!(n = character(text + at, bytes - at, &code))) stop(1, "%s: byte %zu is not UTF-8: for ./train", path, at);
        if (!number[code]) number[code] = 1, first[code] = at, vocab++;
    }
    corpus.letter = zeros(vocab, sizeof(size_t)), vocab = 0;
    for (code = 0; code < 0x110000; code++)
        if (number[code]) number[code] = vocab, corpus.letter[vocab++] = first[code];
    for (int split = TRAINING; split <= VALIDATION; split++) corpus.token[split] = zeros(bytes, sizeof(size_t));
    for (size_t at = 0; at < bytes; at += n) {
        Split split = at < cut ? TRAINING : VALIDATION;
        n = character(text + at, bytes - at, &code);
        corpus.token[split][corpus.count[split]++] = number[code];
    }
    if (corpus.count[TRAINING] <= c.context || corpus.count[VALIDATION] <= c.context)
        stop(1, "%s: %zu and %zu characters for training and validation, but each needs more than --context %zu", path,
             corpus.count[TRAINING], corpus.count[VALIDATION], c.context);
    free(number), free(first);
    return vocab;
}

// A window of the text: at a random place, or, for validation, one of some that are evenly spaced.
static void text_row(Split split, size_t number, int *tokens, int *targets) {
    size_t places = corpus.count[split] - c.context, start;
    if (split == VALIDATION) start = validation_rows == 1 ? 0 : number * (places - 1) / (validation_rows - 1);
    else {
        Random r = random_of(c.seed, FOR_TRAINING, number);
        uint64_t high = random_word(&r), low = random_word(&r);
        start = (high * places + (low * places >> 32)) >> 32;                  // a share in 64 bits, times places
    }
    for (size_t t = 0; t < c.context; t++) {
        tokens[t] = (int)corpus.token[split][start + t];
        targets[t] = (int)corpus.token[split][start + t + 1];
    }
}

// Multi-query associative recall (Arora et al. 2023, section 4): distinct keys, each followed by its value; then, at
// random places among blanks, every key once more, to be answered by its value. Only the answers are scored.
// Tokens: 0 the blank, then --keys keys, then as many values.
static void recall_row(Split split, size_t number, int *tokens, int *targets) {
    size_t pairs = c.pairs, T = c.context, left = T + 1 - 2 * pairs, places = left > 2 * pairs ? left / 2 : pairs, at = 0;
    bool train = split == TRAINING, *taken = zeros(c.keys, sizeof *taken);
    Random r = random_of(train ? c.seed : c.data_seed, train ? FOR_TRAINING : FOR_VALIDATION, number);
    size_t *key = zeros(3 * pairs, sizeof *key), *value = key + pairs, *asked = value + pairs;
    int *line = zeros(T + 2, sizeof *line);
    for (size_t i = 0, last; i < pairs; i++) {                                 // Floyd's sample (Bentley 1987)
        last = c.keys - pairs + i, key[i] = random_below(&r, (uint32_t)last + 1);
        if (taken[key[i]]) key[i] = last;
        taken[key[i]] = true;
    }
    shuffle(&r, key, pairs);
    for (size_t t = 0; t < T; t++) targets[t] = -1;
    for (size_t i = 0; i < pairs; i++) {
        value[i] = random_below(&r, (uint32_t)c.keys), asked[i] = i;
        line[at++] = (int)(1 + key[i]), line[at++] = (int)(1 + c.keys + value[i]);
    }
    shuffle(&r, asked, pairs);
    for (size_t place = 0, question = 0; place < places; place++, at += 2) {
        if (random_below(&r, (uint32_t)(places - place)) >= pairs - question) continue;
        size_t pair = asked[question++];
        line[at] = (int)(1 + key[pair]), targets[at] = line[at + 1] = (int)(1 + c.keys + value[pair]);
    }
    memcpy(tokens, line, T * sizeof *tokens);
    free(taken), free(key), free(line);
}

static void open_data(void) {
    size_t vocab = 1 + 2 * c.keys;
    validation_rows = (c.eval_tokens + c.context - 1) / c.context;
    if (strcmp(c.data, "recall")) vocab = open_text(c.data);
    else if (c.pairs > c.keys) stop(2, "--pairs %zu needs as many --keys, not %zu", c.pairs, c.keys);
    else if (c.context < 4 * c.pairs - 1) stop(2, "--pairs %zu needs --context %zu", c.pairs, 4 * c.pairs - 1);
    if (c.vocab && c.vocab < vocab) stop(2, "--vocab %zu is less than the %zu tokens of the data", c.vocab, vocab);
    if (!c.vocab) c.vocab = vocab;
}

// Reads rows from number `first` on; returns how many of their tokens are scored.
static size_t load_rows(Split split, size_t first, size_t rows, int *tokens, int *targets) {
    size_t T = c.context, scored = 0;
    for (size_t i = 0; i < rows; i++)
        (corpus.text ? text_row : recall_row)(split, first + i, tokens + i * T, targets + i * T);
    for (size_t i = 0; i < rows * T; i++) scored += targets[i] >= 0;
    return scored;
}

// ---- 5. Parameters ---------------------------------------------------------------------------------------------------
// One table of all tensors, in the order in which they enter the digest. The optimizer goes through it, and the norm of
// the gradient; layers point to their tensors' numbers.
typedef struct { char name[64]; size_t size; bool decay; float *value, *gradient, *mean, *square; } Tensor;
static Tensor *tensor;
static size_t tensors;

static Tensor *add_tensor(int layer, const char *name, size_t rows, size_t columns, bool decay) {
    if ((tensors & (tensors - 1)) == 0) tensor = realloc(tensor, (2 * tensors + 1) * sizeof *tensor);
    if (!tensor) stop(1, "no memory for the table of tensors");
    Tensor *t = &tensor[tensors++];
    *t = (Tensor){.size = product(rows, columns), .decay = decay, .value = floats(rows, columns)};
    t->gradient = floats(rows, columns), t->mean = floats(rows, columns), t->square = floats(rows, columns);
    if (layer < 0) snprintf(t->name, sizeof t->name, "%s", name);
    else snprintf(t->name, sizeof t->name, "layers.%d.%s", layer, name);
    return t;
}

// y = x w^T + b, with w [N,K] and b [N] or none. The rows of several matrices may be one Linear or parts of one.
typedef struct { float *w, *dw, *b, *db; size_t N, K; } Linear;
static Linear rows_of(Linear l, size_t from, size_t N) {
    l.w += from * l.K, l.dw += from * l.K, l.N = N;
    if (l.b) l.b += from, l.db += from;
    return l;
}

static uint64_t hash_of_name(const Tensor *t, uint64_t start) { return hash(start, t->name, strlen(t->name) + 1); }

// Normal initial weights, two at a time (Box and Muller 1958). Number i is a function of the seed, the name and i: models
// that share a tensor start it alike.
static Linear add_matrix(int layer, const char *name, size_t N, size_t K, double deviation) {
    Tensor *t = add_tensor(layer, name, N, K, true);
    float *x = t->value;
    uint64_t purpose = hash_of_name(t, HASH_START ^ FOR_INIT);
    size_t size = t->size;
    PARALLEL(size)
    for (size_t i = 0; i < size; i += 2) {
        uint32_t r[4];
        double sine, cosine;
        philox(r, c.seed, purpose, i / 2);
        double u = ((double)(((uint64_t)r[0] << 21) ^ (r[1] >> 11)) + 0.5) * 0x1p-53;
        double v = ((double)(((uint64_t)r[2] << 21) ^ (r[3] >> 11)) + 0.5) * 0x1p-53;
        double radius = deviation * sqrt(-2 * log_of(u));
        sine_and_cosine(6.283185307179586 * v, &sine, &cosine);
        x[i] = (float)(radius * cosine);
        if (i + 1 < size) x[i + 1] = (float)(radius * sine);
    }
    return (Linear){.w = x, .dw = t->gradient, .N = N, .K = K};
}

static void add_bias(int layer, const char *name, Linear *l) {
    if (!c.bias) return;
    Tensor *t = add_tensor(layer, name, 1, l->N, false);
    l->b = t->value, l->db = t->gradient;
}

// RMSNorm, or LayerNorm if `centered`, over rows of C numbers.
typedef struct { float *w, *dw, *b, *db; size_t C; bool on, centered; double eps; } Norm;
static Norm add_norm(int layer, const char *name, size_t C, bool centered, double eps) {
    char full[48];
    snprintf(full, sizeof full, "%s.weight", name);
    Tensor *t = add_tensor(layer, full, 1, C, false);
    Norm n = {.w = t->value, .dw = t->gradient, .C = C, .on = true, .centered = centered, .eps = eps};
    for (size_t i = 0; i < C; i++) n.w[i] = 1;
    if (!centered || !c.bias) return n;
    snprintf(full, sizeof full, "%s.bias", name);
    t = add_tensor(layer, full, 1, C, false);
    n.b = t->value, n.db = t->gradient;
    return n;
}
static Norm add_stream_norm(int layer, const char *name) {
    return add_norm(layer, name, c.width, c.norm_kind == LAYER, c.norm_eps);
}

typedef struct { Linear gate, up, down; } Ffn;             // of experts: the rows of all, one expert after the other
typedef struct {
    Norm attn_norm, ffn_norm, q_norm, k_norm, q_a_norm, kv_a_norm;
    Linear q, k, v, o, q_a, kv_a, kv_b, router;
    Ffn ffn, shared;
} Layer;
static Layer *layers;
static Linear embedding, positions, head;
static Norm final_norm;

static void add_attention(int l, Layer *y, double s) {
    size_t C = c.width, H = c.heads, D = c.head_dim, KV = c.kv_heads;
    if (c.attn == MLA) {
        const double eps = 1e-6;                           // of the norms of latents in DeepSeek's own code
        if (c.q_rank) {
            y->q_a = add_matrix(l, "attn.q_a.weight", c.q_rank, C, s), add_bias(l, "attn.q_a.bias", &y->q_a);
            y->q_a_norm = add_norm(l, "attn.q_a_norm", c.q_rank, false, eps);
        }
        y->q = add_matrix(l, c.q_rank ? "attn.q_b.weight" : "attn.q.weight", H * D, c.q_rank ? c.q_rank : C, s);
        y->kv_a = add_matrix(l, "attn.kv_a.weight", c.kv_rank + c.rope_dim, C, s), add_bias(l, "attn.kv_a.bias", &y->kv_a);
        y->kv_a_norm = add_norm(l, "attn.kv_a_norm", c.kv_rank, false, eps);
        y->kv_b = add_matrix(l, "attn.kv_b.weight", H * (c.nope_dim + c.v_dim), c.kv_rank, s);
        return;
    }
    y->q = add_matrix(l, "attn.q.weight", H * D, C, s), y->k = add_matrix(l, "attn.k.weight", KV * D, C, s);
    y->v = add_matrix(l, "attn.v.weight", KV * D, C, s);
    add_bias(l, "attn.q.bias", &y->q), add_bias(l, "attn.k.bias", &y->k), add_bias(l, "attn.v.bias", &y->v);
    if (c.qk_norm == QK_NONE) return;
    bool all = c.qk_norm == QK_FULL;                       // over all heads (OLMo 2, 2025), or each alone (Qwen3, 2025)
    y->q_norm = add_norm(l, "attn.q_norm", all ? H * D : D, false, c.norm_eps);
    y->k_norm = add_norm(l, "attn.k_norm", all ? KV * D : D, false, c.norm_eps);
}

static Ffn add_ffn(int l, const char *name, size_t count, size_t F, bool bias, double s, double s_out) {
    char full[6][48];
    static const char *const of[] = {"gate.weight", "up.weight", "down.weight", "gate.bias", "up.bias", "down.bias"};
    for (int i = 0; i < 6; i++) snprintf(full[i], sizeof full[i], "%s.%s", name, of[i]);
    Ffn f = {0};
    if (c.ffn == SWIGLU) f.gate = add_matrix(l, full[0], product(count, F), c.width, s);
    f.up = add_matrix(l, full[1], product(count, F), c.width, s);
    if (bias && c.ffn == SWIGLU) add_bias(l, full[3], &f.gate);
    if (bias) add_bias(l, full[4], &f.up);
    f.down = add_matrix(l, full[2], product(count, c.width), F, s_out);
    if (bias) add_bias(l, full[5], &f.down);
    return f;
}

// Deviations of initial weights: 0.02, and by 1/sqrt(2 layers) less where a branch ends in the stream (Radford et al.
// 2019, section 2.3).
static void add_parameters(void) {
    double s = 0.02 * c.init_scale, s_out = s * (1 / sqrt(2 * (double)c.layers));
    bool post = c.norm == POST;
    embedding = add_matrix(-1, "embed.weight", c.vocab, c.width, s);
    if (c.pos == LEARNED) positions = add_matrix(-1, "pos.weight", c.context, c.width, s);
    layers = zeros(c.layers, sizeof *layers);
    for (int l = 0; l < (int)c.layers; l++) {
        Layer *y = &layers[l];
        y->attn_norm = add_stream_norm(l, post ? "attn_norm_out" : "attn_norm");
        add_attention(l, y, s);
        y->o = add_matrix(l, "attn.o.weight", c.width, c.heads * c.v_dim, s_out), add_bias(l, "attn.o.bias", &y->o);
        y->ffn_norm = add_stream_norm(l, post ? "ffn_norm_out" : "ffn_norm");
        if (!c.experts) {
            y->ffn = add_ffn(l, "ffn", 1, c.ffn_width, true, s, s_out);
            continue;
        }
        y->router = add_matrix(l, "moe.router.weight", c.experts, c.width, s);
        y->ffn = add_ffn(l, "moe", c.experts, c.expert_width, false, s, s_out);
        y->ffn.down.N = c.width, y->ffn.up.N = y->ffn.gate.N = c.expert_width;
        if (c.shared_experts)
            y->shared = add_ffn(l, "moe.shared", 1, c.shared_experts * c.expert_width, false, s, s_out);
    }
    if (!post) final_norm = add_stream_norm(-1, "final_norm");
    head = c.tie ? embedding : add_matrix(-1, "head.weight", c.vocab, c.width, s);
}

// ---- 6. Layers -------------------------------------------------------------------------------------------------------
// x [N,K] turned to [K,N], so that a loop over outputs goes along memory and a compiler can give each a vector lane.
static void turn(float *to, const float *x, size_t row, size_t N, size_t K) {
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++) to[k * N + n] = x[n * row + k];
}

static void linear_forward(float *y, const Linear *l, const float *x, size_t M) {
    static float *turned;
    static size_t room;
    size_t N = l->N, K = l->K;
    if (N * K > room) free(turned), turned = floats(N, K), room = N * K;
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
}

// dx = dy w, and dw += dy^T x, db += the sum of dy's rows. With `more`, chains of dx go on from what dx holds: of layers
// that read the same x, each goes on where the one before it stopped.
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
// 4) leaves out mean and b. stat [M,2] keeps the mean and the inverse root of each row.
static void norm_forward(float *y, float *stat, const Norm *n, const float *x, size_t M) {
    size_t C = n->C;
    PARALLEL(M * C)
    for (size_t m = 0; m < M; m++) {
        const float *from = x + m * C;
        float *to = y + m * C, mean = n->centered ? sum(from, C) / (float)C : 0;
        for (size_t i = 0; i < C; i++) to[i] = from[i] - mean;
        float root = 1 / sqrtf(dot(to, to, C) / (float)C + (float)n->eps);
        for (size_t i = 0; i < C; i++) to[i] = to[i] * root * n->w[i];
        for (size_t i = 0; i < C && n->b; i++) to[i] += n->b[i];
        stat[2 * m] = mean, stat[2 * m + 1] = root;
    }
}

// With u = (x - mean) root, what w multiplies, and du = dy w:  dx = root (du - mean(du) - u mean(du u)), where RMSNorm
// has no mean(du). With `more`, dx is added to.
static void norm_backward(float *dx, const float *dy, const float *stat, const Norm *n, const float *x, size_t M,
                          bool more) {
    size_t C = n->C;
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i++) {
            float d = dy[m * C + i];
            n->dw[i] = fmaf(d, (x[m * C + i] - stat[2 * m]) * stat[2 * m + 1], n->dw[i]);
            if (n->db) n->db[i] += d;
        }
    PARALLEL(M * C)
    for (size_t m = 0; m < M; m++) {
        const float *d = dy + m * C, *from = x + m * C;
        float *to = dx + m * C, mean = stat[2 * m], root = stat[2 * m + 1], lane[16] = {0}, lane_u[16] = {0};
        for (size_t i = 0; i < C; i++) {
            float du = d[i] * n->w[i];
            lane[i % 16] += du, lane_u[i % 16] = fmaf(du, (from[i] - mean) * root, lane_u[i % 16]);
        }
        float mean_du = n->centered ? tree(lane) / (float)C : 0, mean_duu = tree(lane_u) / (float)C;
        for (size_t i = 0; i < C; i++) {
            float g = root * (d[i] * n->w[i] - mean_du - (from[i] - mean) * root * mean_duu);
            to[i] = more ? to[i] + g : g;
        }
    }
}

// Rotary positions (Su et al. 2021, eq. 34): pairs of numbers i and i + P/2 of a head turn by an angle that grows with
// the position t, t theta^(-2i/P). So a query and a key meet at an angle that is a function of their distance.
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

// x: the first rotated number of M rows of `count` heads, each D wide. The backward turns back: direction -1.
static void rotate(float *x, size_t count, size_t D, size_t M, size_t T, float direction) {
    size_t half = c.rope_dim / 2;
    PARALLEL(M * count * D)
    for (size_t row = 0; row < M * count; row++)
        for (size_t i = 0; i < half; i++) {
            float *a = x + row * D + i, *b = a + half, first = *a;
            float cosine = cosines[row / count % T * half + i], sine = direction * sines[row / count % T * half + i];
            *a = fmaf(first, cosine, *b * (0 - sine));
            *b = fmaf(*b, cosine, first * sine);
        }
}

// ---- 7. Attention ----------------------------------------------------------------------------------------------------
// What the forward keeps of a layer for its backward. A second set, d, holds the gradient of each under the same name.
typedef struct { float *gate, *up, *hidden; } FfnActs;
typedef struct {
    float *attn_h, *attn_stat, *ffn_h, *ffn_stat;          // the norms around a branch: see section 9
    float *q_in, *k_in, *q_stat, *k_stat;                  // before QK-norm
    float *q, *k, *v, *out, *lse;                          // [M,H*D] [M,KV*D] [M,KV*Dv] [M,H*Dv] [M,H]
    float *q_a, *q_c, *q_a_stat, *kv_a, *kv_c, *kv_a_stat, *position, *kv;     // mla
    float *score, *weight, *sorted, *expert_out, *shared_out;                  // experts: [M,E] [M,K] [M*K,C] twice
    size_t *expert, *slot, *start;                                             // [M,K] [M,K] [E+1]
    FfnActs ffn, shared;
} Acts;
static Acts *acts, d;

// Attention (Vaswani et al. 2017, eq. 1), causal: out_i = sum over j <= i of p_ij v_j with p_i = softmax(q_i . k_j /
// sqrt D). H/KV query heads share a head of keys and values (Ainslie et al. 2023). The softmax is online (Milakov and
// Gimelshein 2018): keys come in tiles of 64, and when a tile has a larger score than those before, what was summed so
// far fades. That is how flash attention (Dao et al. 2022, algorithm 1) avoids a matrix of T x T scores; the tiles are
// here because they are part of the order. lse = log sum exp of a query's scores is all that the backward needs.
enum { TILE = 64 };
static void attention_forward(float *out, float *lse, const float *q, const float *k, const float *v, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim;
    const float scale = (float)(1 / sqrt((double)D));
    PARALLEL(M * T * H * D)
    for (size_t task = 0; task < M / T * H; task++) {                          // one head of one row of the batch
        size_t first = task / H * T, h = task % H, g = h / (H / KV);
        float *turned = floats(D, T);
        turn(turned, k + first * KV * D + g * D, KV * D, T, D);
        for (size_t i = 0; i < T; i++) {
            const float *query = q + (first + i) * H * D + h * D;
            float *o = out + (first + i) * H * Dv + h * Dv, most = -INFINITY, total = 0;
            for (size_t e = 0; e < Dv; e++) o[e] = 0;
            for (size_t j = 0; j <= i; j += TILE) {
                size_t keys = i + 1 - j < TILE ? i + 1 - j : TILE;
                float p[TILE] = {0}, before = most;
                for (size_t e = 0; e < D; e++)
                    for (size_t n = 0; n < keys; n++) p[n] = fmaf(query[e], turned[e * T + j + n], p[n]);
                for (size_t n = 0; n < keys; n++) most = p[n] * scale > most ? p[n] * scale : most;
                for (size_t n = 0; n < keys; n++) p[n] = exponential(fmaf(p[n], scale, -most));
                if (total > 0 && most > before) {
                    float fade = exponential(before - most);
                    total *= fade;
                    for (size_t e = 0; e < Dv; e++) o[e] *= fade;
                }
                total += sum(p, keys);
                for (size_t n = 0; n < keys; n++) {
                    const float *value = v + (first + j + n) * KV * Dv + g * Dv;
                    for (size_t e = 0; e < Dv; e++) o[e] = fmaf(p[n], value[e], o[e]);
                }
            }
            float share = 1 / total;
            for (size_t e = 0; e < Dv; e++) o[e] *= share;
            lse[(first + i) * H + h] = most + (float)log_of((double)total);
        }
        free(turned);
    }
}

// With P the probabilities:  dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)) scale, dQ = dS K, dK = dS^T Q (Dao et
// al. 2022, appendix B.2). A task is a head of keys with all queries that read it: their gradients add up in order.
static void attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                               const float *q, const float *k, const float *v, size_t M, size_t T) {
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim;
    const float scale = (float)(1 / sqrt((double)D));
    memset(dk, 0, M * KV * D * sizeof *dk), memset(dv, 0, M * KV * Dv * sizeof *dv);
    memset(dq, 0, M * H * D * sizeof *dq);
    PARALLEL(M * T * H * D)
    for (size_t task = 0; task < M / T * KV; task++) {
        size_t first = task / KV * T, g = task % KV;
        float *keys = floats(D, T), *values = floats(Dv, T), *p = floats(2, T), *ds = p + T;
        turn(keys, k + first * KV * D + g * D, KV * D, T, D);
        turn(values, v + first * KV * Dv + g * Dv, KV * Dv, T, Dv);
        for (size_t h = g * (H / KV); h < (g + 1) * (H / KV); h++)
            for (size_t i = 0; i < T; i++) {
                size_t row = first + i, n = i + 1;
                const float *query = q + row * H * D + h * D, *o = out + row * H * Dv + h * Dv;
                const float *grad = dout + row * H * Dv + h * Dv, delta = dot(grad, o, Dv);
                for (size_t j = 0; j < n; j++) p[j] = ds[j] = 0;
                for (size_t e = 0; e < D; e++)
                    for (size_t j = 0; j < n; j++) p[j] = fmaf(query[e], keys[e * T + j], p[j]);
                for (size_t e = 0; e < Dv; e++)
                    for (size_t j = 0; j < n; j++) ds[j] = fmaf(grad[e], values[e * T + j], ds[j]);
                for (size_t j = 0; j < n; j++) {
                    p[j] = exponential(fmaf(p[j], scale, -lse[row * H + h]));
                    ds[j] = p[j] * (ds[j] - delta) * scale;
                }
                for (size_t j = 0; j < n; j++) {
                    size_t at = (first + j) * KV + g;
                    const float *key = k + at * D;
                    float *to_q = dq + row * H * D + h * D, *to_k = dk + at * D, *to_v = dv + at * Dv;
                    for (size_t e = 0; e < D; e++) to_q[e] = fmaf(ds[j], key[e], to_q[e]);
                    for (size_t e = 0; e < D; e++) to_k[e] = fmaf(ds[j], query[e], to_k[e]);
                    for (size_t e = 0; e < Dv; e++) to_v[e] = fmaf(p[j], grad[e], to_v[e]);
                }
            }
        free(keys), free(values), free(p);
    }
}

// Multi-head latent attention (DeepSeek-V2 2024, eq. 9-19): keys and values of all heads are expanded from one latent
// kv_c of R numbers; a part of each key that carries the position, P numbers, is shared by all heads. A query may
// come from a latent of its own. Head h of kv: N numbers of its key, then Dv numbers of its value.
static void mla_forward(size_t l, const float *x, size_t M, size_t T) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t H = c.heads, N = c.nope_dim, P = c.rope_dim, R = c.kv_rank, D = N + P, Dv = c.v_dim;
    Linear latent = rows_of(w->kv_a, 0, R), position = rows_of(w->kv_a, R, P);
    if (c.q_rank) linear_forward(a->q_a, &w->q_a, x, M), norm_forward(a->q_c, a->q_a_stat, &w->q_a_norm, a->q_a, M);
    linear_forward(a->q, &w->q, c.q_rank ? a->q_c : x, M);
    linear_forward(a->kv_a, &latent, x, M), linear_forward(a->position, &position, x, M);
    norm_forward(a->kv_c, a->kv_a_stat, &w->kv_a_norm, a->kv_a, M);
    rotate(a->q + N, H, D, M, T, 1), rotate(a->position, 1, P, M, T, 1);
    linear_forward(a->kv, &w->kv_b, a->kv_c, M);
    for (size_t i = 0; i < M * H; i++) {
        memcpy(a->k + i * D, a->kv + i * (N + Dv), N * sizeof(float));
        memcpy(a->k + i * D + N, a->position + i / H * P, P * sizeof(float));
        memcpy(a->v + i * Dv, a->kv + i * (N + Dv) + N, Dv * sizeof(float));
    }
}
static void mla_backward(size_t l, float *dx, const float *x, size_t M, size_t T) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t H = c.heads, N = c.nope_dim, P = c.rope_dim, R = c.kv_rank, D = N + P, Dv = c.v_dim;
    Linear latent = rows_of(w->kv_a, 0, R), position = rows_of(w->kv_a, R, P);
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
    if (!c.q_rank) {
        linear_backward(dx, d.q, &w->q, x, M, true);
        return;
    }
    linear_backward(d.q_c, d.q, &w->q, a->q_c, M, false);
    norm_backward(d.q_a, d.q_c, a->q_a_stat, &w->q_a_norm, a->q_a, M, false);
    linear_backward(dx, d.q_a, &w->q_a, x, M, true);
}

// The attention branch: queries, keys and values; perhaps a norm of queries and keys (Henry et al. 2020); rotations;
// attention; the output matrix.
static void attend_forward(size_t l, float *y, const float *x, size_t M, size_t T) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim;
    if (c.attn == MLA) mla_forward(l, x, M, T);
    else {
        bool norm = w->q_norm.on;
        linear_forward(norm ? a->q_in : a->q, &w->q, x, M), linear_forward(norm ? a->k_in : a->k, &w->k, x, M);
        linear_forward(a->v, &w->v, x, M);
        if (norm) norm_forward(a->q, a->q_stat, &w->q_norm, a->q_in, M * H * D / w->q_norm.C);
        if (norm) norm_forward(a->k, a->k_stat, &w->k_norm, a->k_in, M * KV * D / w->k_norm.C);
        rotate(a->q, H, D, M, T, 1), rotate(a->k, KV, D, M, T, 1);
    }
    attention_forward(a->out, a->lse, a->q, a->k, a->v, M, T);
    linear_forward(y, &w->o, a->out, M);
}
static void attend_backward(size_t l, float *dx, const float *dy, const float *x, size_t M, size_t T) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t H = c.heads, KV = c.kv_heads, D = c.head_dim;
    linear_backward(d.out, dy, &w->o, a->out, M, false);
    attention_backward(d.q, d.k, d.v, d.out, a->out, a->lse, a->q, a->k, a->v, M, T);
    if (c.attn == MLA) {
        mla_backward(l, dx, x, M, T);
        return;
    }
    bool norm = w->q_norm.on;
    rotate(d.q, H, D, M, T, -1), rotate(d.k, KV, D, M, T, -1);
    if (norm) norm_backward(d.q_in, d.q, a->q_stat, &w->q_norm, a->q_in, M * H * D / w->q_norm.C, false);
    if (norm) norm_backward(d.k_in, d.k, a->k_stat, &w->k_norm, a->k_in, M * KV * D / w->k_norm.C, false);
    linear_backward(dx, norm ? d.q_in : d.q, &w->q, x, M, false);
    linear_backward(dx, norm ? d.k_in : d.k, &w->k, x, M, true), linear_backward(dx, d.v, &w->v, x, M, true);
}

// ---- 8. Feed-forward, experts ----------------------------------------------------------------------------------------
// SwiGLU (Shazeer 2020, eq. 6): hidden = gate sigmoid(gate) up. GELU (Hendrycks and Gimpel 2016) as x sigmoid(2u) with
// u = sqrt(2/pi) (x + 0.044715 x^3), which is their tanh form.
static const float GELU_A = (float)1.5957691216057308, GELU_B = (float)(1.5957691216057308 * 0.044715);
static void ffn_forward(float *y, const Ffn *f, const FfnActs *a, const float *x, size_t M) {
    size_t n = M * f->up.N;
    if (c.ffn == SWIGLU) linear_forward(a->gate, &f->gate, x, M);
    linear_forward(a->up, &f->up, x, M);
    PARALLEL(n * 8)
    for (size_t i = 0; i < n; i++) {
        float u = a->up[i];
        if (c.ffn == SWIGLU) a->hidden[i] = a->gate[i] * sigmoid(a->gate[i]) * u;
        else a->hidden[i] = u * sigmoid(u * fmaf(GELU_B, u * u, GELU_A));
    }
    linear_forward(y, &f->down, a->hidden, M);
}
static void ffn_backward(float *dx, const float *dy, const Ffn *f, const FfnActs *a, const FfnActs *da, const float *x,
                         size_t M, bool more) {
    size_t n = M * f->up.N;
    linear_backward(da->hidden, dy, &f->down, a->hidden, M, false);
    PARALLEL(n * 8)
    for (size_t i = 0; i < n; i++) {
        float u = a->up[i], dh = da->hidden[i];
        if (c.ffn == SWIGLU) {
            float g = a->gate[i], s = sigmoid(g), silu = g * s;
            da->gate[i] = dh * u * fmaf(silu, 1 - s, s);
            da->up[i] = dh * silu;
        } else {
            float s = sigmoid(u * fmaf(GELU_B, u * u, GELU_A)), slope = fmaf(3 * GELU_B, u * u, GELU_A);
            da->up[i] = dh * fmaf(u * slope * s, 1 - s, s);
        }
    }
    if (c.ffn == SWIGLU) linear_backward(dx, da->gate, &f->gate, x, M, more);
    linear_backward(dx, da->up, &f->up, x, M, more || c.ffn == SWIGLU);
}

// Mixture of experts (Shazeer et al. 2017): a router gives every token a score for each expert, softmax of a matrix
// product; the K best take it, and their outputs are summed with the scores as weights, which may be made to sum to 1.
// Shared experts (DeepSeekMoE 2024, eq. 9) take every token. Copies of tokens are sorted by expert: slots start[e] to
// start[e+1] are those of expert e, in the order of the tokens, and each expert is a dense layer for its slots.
static const float LEAST_SUM = 1e-20f;
static Ffn expert(const Ffn *all, size_t e) {
    size_t F = c.expert_width, C = c.width;
    Ffn one = {.up = rows_of(all->up, e * F, F), .down = rows_of(all->down, e * C, C)};
    if (c.ffn == SWIGLU) one.gate = rows_of(all->gate, e * F, F);
    return one;
}
static FfnActs from_slot(FfnActs a, size_t slot) {
    size_t at = slot * c.expert_width;
    return (FfnActs){c.ffn == SWIGLU ? a.gate + at : NULL, a.up + at, a.hidden + at};
}

static void experts_forward(size_t l, float *y, const float *x, size_t M) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t E = c.experts, K = c.top_k, C = c.width, slots = 0;
    linear_forward(a->score, &w->router, x, M);
    for (size_t m = 0; m < M; m++) {
        float *score = a->score + m * E, total = LEAST_SUM;
        size_t *chosen = a->expert + m * K;
        softmax(score, E);
        for (size_t k = 0; k < K; k++) {                                       // of equal ones the first
            chosen[k] = E;
            for (size_t e = 0; e < E; e++) {
                bool taken = false;
                for (size_t j = 0; j < k; j++) taken |= chosen[j] == e;
                if (!taken && (chosen[k] == E || score[e] > score[chosen[k]])) chosen[k] = e;
            }
            total += score[chosen[k]];
        }
        for (size_t k = 0; k < K; k++) a->weight[m * K + k] = score[chosen[k]] / (c.norm_topk ? total : 1);
    }
    for (size_t e = 0; e < E; e++) {
        a->start[e] = slots;
        for (size_t i = 0; i < M * K; i++)
            if (a->expert[i] == e) memcpy(a->sorted + slots * C, x + i / K * C, C * sizeof *x), a->slot[i] = slots++;
        Ffn one = expert(&w->ffn, e);
        FfnActs acts_of_one = from_slot(a->ffn, a->start[e]);
        ffn_forward(a->expert_out + a->start[e] * C, &one, &acts_of_one, a->sorted + a->start[e] * C, slots - a->start[e]);
    }
    a->start[E] = slots;
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i++) {
            y[m * C + i] = 0;
            for (size_t k = m * K; k < m * K + K; k++)
                y[m * C + i] = fmaf(a->weight[k], a->expert_out[a->slot[k] * C + i], y[m * C + i]);
        }
    if (!c.shared_experts) return;
    ffn_forward(a->shared_out, &w->shared, &a->shared, x, M);
    for (size_t i = 0; i < M * C; i++) y[i] += a->shared_out[i];
}

// The balancing loss (Fedus et al. 2021, eq. 4; per sequence as in DeepSeek-V3 2024, eq. 17): E sum_e f_e P_e, where f_e
// is the share of a row's choices that expert e has, and P_e its mean score. f is not differentiable, so the gradient
// comes through P: E f_e / T for every token of the row.
static void router_backward(size_t l, size_t first, size_t T) {
    const Acts *a = &acts[l];
    size_t E = c.experts, K = c.top_k;
    const float aux = (float)(c.aux_loss * (1 / (double)c.batch));
    float *slope = floats(1, E);
    for (size_t i = first * K; i < (first + T) * K; i++) slope[a->expert[i]] += 1;
    for (size_t e = 0; e < E; e++) slope[e] *= (float)E / ((float)T * (float)K * (float)T);
    for (size_t m = first; m < first + T; m++) {
        const float *score = a->score + m * E;
        float *ds = d.score + m * E, chosen = LEAST_SUM, mean = 0, dot_ds = 0;
        for (size_t e = 0; e < E; e++) ds[e] = 0;
        // w_k = s_k / sum s, so ds_k = (dw_k - sum_j dw_j w_j) / sum s
        for (size_t k = m * K; k < m * K + K; k++)
            chosen += score[a->expert[k]], mean += d.weight[k] * a->weight[k];
        for (size_t k = m * K; k < m * K + K; k++)
            ds[a->expert[k]] = c.norm_topk ? (d.weight[k] - mean) / chosen : d.weight[k];
        for (size_t e = 0; e < E && aux != 0; e++) ds[e] += aux * slope[e];
        for (size_t e = 0; e < E; e++) dot_ds += ds[e] * score[e];
        for (size_t e = 0; e < E; e++) ds[e] = score[e] * (ds[e] - dot_ds);    // through the softmax
    }
    free(slope);
}
static void experts_backward(size_t l, float *dx, const float *dy, const float *x, size_t M, size_t T) {
    const Layer *w = &layers[l];
    Acts *a = &acts[l];
    size_t E = c.experts, K = c.top_k, C = c.width;
    for (size_t k = 0; k < M * K; k++) {
        const float *grad = dy + k / K * C;
        d.weight[k] = dot(grad, a->expert_out + a->slot[k] * C, C);
        for (size_t i = 0; i < C; i++) d.expert_out[a->slot[k] * C + i] = a->weight[k] * grad[i];
    }
    for (size_t e = 0; e < E; e++) {
        Ffn one = expert(&w->ffn, e);
        size_t from = a->start[e];
        FfnActs acts_of_one = from_slot(a->ffn, from), d_of_one = from_slot(d.ffn, from);
        ffn_backward(d.sorted + from * C, d.expert_out + from * C, &one, &acts_of_one, &d_of_one, a->sorted + from * C,
                     a->start[e + 1] - from, false);
    }
    for (size_t first = 0; first < M; first += T) router_backward(l, first, T);
    linear_backward(dx, d.score, &w->router, x, M, false);
    for (size_t k = 0; k < M * K; k++)
        for (size_t i = 0; i < C; i++) dx[k / K * C + i] += d.sorted[a->slot[k] * C + i];
    if (c.shared_experts) ffn_backward(dx, dy, &w->shared, &a->shared, &d.shared, x, M, true);
}

// ---- 9. The model ----------------------------------------------------------------------------------------------------
// stream[0] is the embedding of the tokens, and 2 layers branches F follow, attention and feed-forward in turns:
//   pre   x + F(N(x))   Xiong et al. 2020; one more norm ends the stream
//   post  N(x + F(x))   Vaswani et al. 2017
// h keeps what the inner function read: N(x), or x + F(x).
static float **stream, *branch, *hidden, *final_stat, *logits;                 // logits: the backward turns them into theirs
static float *d_stream, *d_hidden, *d_branch, *d_sum, *d_embedding;

static FfnActs new_ffn_acts(size_t M, size_t F) {
    return (FfnActs){c.ffn == SWIGLU ? floats(M, F) : NULL, floats(M, F), floats(M, F)};
}
static Acts new_acts(size_t M) {
    size_t C = c.width, H = c.heads, KV = c.kv_heads, D = c.head_dim, Dv = c.v_dim, E = c.experts, K = c.top_k;
    Acts a = {.attn_h = floats(M, C), .attn_stat = floats(M, 2), .ffn_h = floats(M, C), .ffn_stat = floats(M, 2),
              .q = floats(M, H * D), .k = floats(M, KV * D), .v = floats(M, KV * Dv), .out = floats(M, H * Dv),
              .lse = floats(M, H)};
    if (c.qk_norm) a.q_in = floats(M, H * D), a.k_in = floats(M, KV * D);
    if (c.qk_norm) a.q_stat = floats(M, 2 * H), a.k_stat = floats(M, 2 * KV);
    if (c.attn == MLA) {
        a.q_a = floats(M, c.q_rank), a.q_c = floats(M, c.q_rank), a.q_a_stat = floats(M, 2);
        a.kv_a = floats(M, c.kv_rank), a.kv_c = floats(M, c.kv_rank), a.kv_a_stat = floats(M, 2);
        a.position = floats(M, c.rope_dim), a.kv = floats(M, H * (c.nope_dim + Dv));
    }
    size_t rows = E ? product(M, K) : M;
    a.ffn = new_ffn_acts(rows, E ? c.expert_width : c.ffn_width);
    if (!E) return a;
    a.score = floats(M, E), a.weight = floats(M, K), a.sorted = floats(rows, C), a.expert_out = floats(rows, C);
    a.expert = zeros(rows, sizeof(size_t)), a.slot = zeros(rows, sizeof(size_t)), a.start = zeros(E + 1, sizeof(size_t));
    if (c.shared_experts) a.shared = new_ffn_acts(M, c.shared_experts * c.expert_width), a.shared_out = floats(M, C);
    return a;
}
static void make_room(size_t M) {
    size_t L = c.layers, C = c.width;
    stream = zeros(2 * L + 1, sizeof *stream), acts = zeros(L, sizeof *acts);
    for (size_t i = 0; i <= 2 * L; i++) stream[i] = floats(M, C);
    for (size_t l = 0; l < L; l++) acts[l] = new_acts(M);
    d = new_acts(M);
    branch = floats(M, C), hidden = floats(M, C), final_stat = floats(M, 2), logits = floats(M, c.vocab);
    d_stream = floats(M, C), d_hidden = floats(M, C), d_branch = floats(M, C), d_sum = floats(M, C);
    d_embedding = floats(c.vocab, C);
}

static void feed_forward(size_t l, float *y, const float *x, size_t M) {
    if (c.experts) experts_forward(l, y, x, M);
    else ffn_forward(y, &layers[l].ffn, &acts[l].ffn, x, M);
}
static void feed_backward(size_t l, float *dx, const float *dy, const float *x, size_t M, size_t T) {
    if (c.experts) experts_backward(l, dx, dy, x, M, T);
    else ffn_backward(dx, dy, &layers[l].ffn, &acts[l].ffn, &d.ffn, x, M, false);
}

// Branch i of the stream, forward and backward; d_stream holds the gradient of its output, then of its input.
static void branch_forward(size_t i, size_t M, size_t T) {
    size_t l = i / 2;
    bool attends = i % 2 == 0, pre = c.norm == PRE;
    const Norm *n = attends ? &layers[l].attn_norm : &layers[l].ffn_norm;
    float *x = stream[i], *y = stream[i + 1], *h = attends ? acts[l].attn_h : acts[l].ffn_h, *to = pre ? y : h;
    float *stat = attends ? acts[l].attn_stat : acts[l].ffn_stat, *in = pre ? h : x;
    if (pre) norm_forward(h, stat, n, x, M);
    if (attends) attend_forward(l, branch, in, M, T);
    else feed_forward(l, branch, in, M);
    for (size_t k = 0; k < M * c.width; k++) to[k] = x[k] + branch[k];
    if (!pre) norm_forward(y, stat, n, h, M);
}
static void branch_backward(size_t i, size_t M, size_t T) {
    size_t l = i / 2;
    bool attends = i % 2 == 0, pre = c.norm == PRE;
    const Norm *n = attends ? &layers[l].attn_norm : &layers[l].ffn_norm;
    float *h = attends ? acts[l].attn_h : acts[l].ffn_h, *stat = attends ? acts[l].attn_stat : acts[l].ffn_stat;
    float *x = stream[i], *dy = pre ? d_stream : d_sum, *in = pre ? h : x;
    if (!pre) norm_backward(d_sum, d_stream, stat, n, h, M, false);
    if (attends) attend_backward(l, d_branch, dy, in, M, T);
    else feed_backward(l, d_branch, dy, in, M, T);
    if (pre) norm_backward(d_stream, d_branch, stat, n, x, M, true);
    else for (size_t k = 0; k < M * c.width; k++) d_stream[k] = d_sum[k] + d_branch[k];
}

// Returns what the head reads [M,C].
static float *forward(const int *tokens, size_t M, size_t T) {
    size_t C = c.width, L = c.layers;
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i++) {
            stream[0][m * C + i] = embedding.w[(size_t)tokens[m] * C + i];
            if (positions.w) stream[0][m * C + i] += positions.w[m % T * C + i];
        }
    for (size_t i = 0; i < 2 * L; i++) branch_forward(i, M, T);
    if (!final_norm.on) return stream[2 * L];
    norm_forward(hidden, final_stat, &final_norm, stream[2 * L], M);
    return hidden;
}

// Cross-entropy: loss = log sum exp x - x[target]; its gradient, softmax(x) - 1 at the target, times scale, replaces x.
static double cross_entropy(float *x, int target, float scale, bool *right) {
    size_t V = c.vocab, best = 0;
    if (target < 0) {
        memset(x, 0, V * sizeof *x);
        return 0;
    }
    float most = largest(x, V), x_target = x[target];
    while (best < V && x[best] != most) best++;
    *right = best == (size_t)target;
    float total = exponentials(x, V, most), share = scale / total;
    for (size_t i = 0; i < V; i++) x[i] *= share;
    x[target] -= scale;
    return log_of((double)total) + (double)most - (double)x_target;
}

// The loss of B rows, each row's tokens and then the rows in order, in double; adds to *right the targets that were the
// most probable token. With scale, gradients are added of the sum of the losses times scale.
static double losses(const int *tokens, const int *targets, size_t B, double scale, double *row_loss, size_t *right) {
    size_t T = c.context, M = B * T, C = c.width, V = c.vocab;
    float *h = forward(tokens, M, T);
    double *loss = zeros(M, sizeof *loss);
    bool *hit = zeros(M, sizeof *hit);
    linear_forward(logits, &head, h, M);
    PARALLEL(M * V)
    for (size_t m = 0; m < M; m++) loss[m] = cross_entropy(logits + m * V, targets[m], (float)scale, &hit[m]);
    double all = 0;
    for (size_t b = 0; b < B; b++) {
        row_loss[b] = 0;
        for (size_t m = b * T; m < (b + 1) * T; m++) row_loss[b] += loss[m], *right += hit[m];
        all += row_loss[b];
    }
    free(loss), free(hit);
    if (scale == 0) return all;
    linear_backward(d_hidden, logits, &head, h, M, false);
    if (final_norm.on) norm_backward(d_stream, d_hidden, final_stat, &final_norm, stream[2 * c.layers], M, false);
    else memcpy(d_stream, d_hidden, M * C * sizeof(float));
    for (size_t i = 2 * c.layers; i-- > 0;) branch_backward(i, M, T);
    for (size_t m = 0; m < M; m++)
        for (size_t i = 0; i < C; i++) {
            d_embedding[(size_t)tokens[m] * C + i] += d_stream[m * C + i];
            if (positions.w) positions.dw[m % T * C + i] += d_stream[m * C + i];
        }
    return all;
}

// ---- 10. The optimizer -----------------------------------------------------------------------------------------------
// The Euclidean norm of the gradient. Sums of squares of 4096 numbers by lanes, then in double, in order.
static double gradient_norm(void) {
    double all = 0;
    for (size_t t = 0; t < tensors; t++) {
        double of_tensor = 0;
        for (size_t at = 0, n; at < tensor[t].size; at += n) {
            const float *g = tensor[t].gradient + at;
            n = tensor[t].size - at < 4096 ? tensor[t].size - at : 4096;
            of_tensor += (double)dot(g, g, n);
        }
        all += of_tensor;
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

// AdamW (Loshchilov and Hutter 2019, algorithm 2) with the bias corrections of Adam (Kingma and Ba 2015):
//     mean = beta1 mean + (1 - beta1) g             square = beta2 square + (1 - beta2) g^2
//     w -= lr weight_decay w                        w -= lr / (1 - beta1^n) mean / (sqrt(square / (1 - beta2^n)) + eps)
// A gradient longer than clip is shortened to it (Pascanu et al. 2013, algorithm 1).
static void update(size_t step, double norm) {
    double lr = learning_rate(step), correction = 1 / sqrt(1 - whole_power(c.beta2, step + 1));
    const float shorten = (float)(c.clip > 0 && norm > c.clip ? c.clip / norm : 1);
    const float beta1 = (float)c.beta1, rest1 = (float)(1 - c.beta1), beta2 = (float)c.beta2, eps = (float)c.eps;
    const float rest2 = (float)(1 - c.beta2), root_scale = (float)correction;
    const float move = (float)(-lr / (1 - whole_power(c.beta1, step + 1))), decay = (float)(-lr * c.weight_decay);
    for (size_t i = 0; i < tensors; i++) {
        const Tensor t = tensor[i];
        bool decays = t.decay && c.weight_decay > 0;
        PARALLEL(t.size)
        for (size_t k = 0; k < t.size; k++) {
            float g = t.gradient[k] * shorten, w = t.value[k];
            float mean = fmaf(beta1, t.mean[k], rest1 * g), square = fmaf(beta2, t.square[k], rest2 * g * g);
            if (decays) w = fmaf(decay, w, w);
            t.value[k] = fmaf(move, mean / fmaf(sqrtf(square), root_scale, eps), w);
            t.mean[k] = mean, t.square[k] = square;
        }
    }
}

// ---- 11. A sample ----------------------------------------------------------------------------------------------------
static void print_token(size_t token, bool first) {
    uint32_t code;
    if (!corpus.text) {
        printf("%s%zu", first ? "" : " ", token);
        return;
    }
    const char *at = corpus.text + corpus.letter[token];
    if ((unsigned char)*at < ' ' || *at == 127) putchar(*at == '\n' ? '\n' : '?');
    else fwrite(at, 1, character(at, 4, &code), stdout);
}

// Draws a token from softmax(x / 0.8) of the last token's logits [V]: the one in whose share a random number falls.
static size_t draw(float *x, size_t V, size_t number) {
    float most = largest(x, V);
    double total = 0, sum_so_far = 0;
    size_t last = 0;
    Random r = random_of(c.seed, FOR_SAMPLE, number);
    for (size_t i = 0; i < V; i++) x[i] = (float)((double)(x[i] - most) / 0.8);
    softmax(x, V);
    for (size_t i = 0; i < V; i++) total += (double)x[i];
    double share = random_share(&r) * total;
    for (size_t i = 0; i < V && (sum_so_far == 0 || sum_so_far <= share); i++)
        if (x[i] > 0) sum_so_far += (double)x[last = i];
    return last;
}

// A text begins with a newline, recall with what stands before the first answer. For each token the whole text is read
// again; a cache of keys and values would give the same numbers (but for mla, which ./train decodes in another order).
// Where learned positions end, the last half of the text becomes the beginning of a new one.
static void write_sample(void) {
    size_t V = c.vocab, T = c.context, n = 1, from = 0, spoken = V;
    int *text = zeros(T + c.sample_tokens + 1, sizeof *text), *targets = zeros(T, sizeof *targets);
    if (corpus.text) {
        for (spoken = 0; spoken < V && (!spoken || corpus.letter[spoken]); spoken++)
            if (corpus.text[corpus.letter[spoken]] == '\n') text[0] = (int)spoken;
    } else {
        recall_row(VALIDATION, 0, text, targets);
        while (targets[n - 1] < 0) n++;
    }
    for (size_t i = 0; i < n; i++) print_token((size_t)text[i], i == 0);
    for (size_t end = n + c.sample_tokens; n < end; n++) {
        if (positions.w && n - from > T) from = n - (T > 1 ? T / 2 : 1);
        const float *h = forward(text + from, n - from, n - from);
        linear_forward(logits, &head, h + (n - from - 1) * c.width, 1);
        text[n] = (int)draw(logits, spoken, n);
        print_token((size_t)text[n], false);
    }
    puts("\n");
    free(text), free(targets);
}

// ---- 12. Training ----------------------------------------------------------------------------------------------------
static int *tokens, *targets;
static double *row_loss;
static uint64_t loss_hash = HASH_START;

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A loss enters the digest; it is printed as the shortest text that reads back as the same number.
static void print_loss(const char *name, double x) {
    char text[32];
    loss_hash = hash(loss_hash, &x, sizeof x);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    printf("  %s %s", name, text);
}

// The mean loss over the validation rows, which are the same each time; *accuracy: how often the target came first.
static double validate(double *accuracy) {
    double loss = 0;
    size_t scored = 0, right = 0;
    for (size_t first = 0, B; first < validation_rows; first += B) {
        B = validation_rows - first < c.micro_batch ? validation_rows - first : c.micro_batch;
        scored += load_rows(VALIDATION, first, B, tokens, targets);
        losses(tokens, targets, B, 0, row_loss, &right);
        for (size_t b = 0; b < B; b++) loss += row_loss[b];
    }
    *accuracy = (double)right / (double)(scored ? scored : 1);
    return loss / (double)(scored ? scored : 1);
}

// One step: the gradient of the mean loss per scored token over the whole batch, in pieces, then the update.
static double train_step(size_t step) {
    size_t B = c.batch, T = c.context, right = 0, scored = load_rows(TRAINING, step * B, B, tokens, targets), V = c.vocab;
    double scale = 1 / (double)(scored ? scored : 1), loss = 0;
    for (size_t t = 0; t < tensors; t++) memset(tensor[t].gradient, 0, tensor[t].size * sizeof(float));
    memset(d_embedding, 0, V * c.width * sizeof(float));
    for (size_t first = 0, rows; first < B; first += rows) {
        rows = B - first < c.micro_batch ? B - first : c.micro_batch;
        losses(tokens + first * T, targets + first * T, rows, scale, row_loss + first, &right);
    }
    for (size_t i = 0; i < V * c.width; i++) embedding.dw[i] += d_embedding[i];
    for (size_t b = 0; b < B; b++) loss += row_loss[b];
    double norm = gradient_norm();
    if (!isfinite(scale * loss) || !isfinite(norm))
        stop(1, "diverged after step %zu: training loss %g, gradient norm %g; try a lower --lr", step, scale * loss, norm);
    update(step, norm);
    return scale * loss;
}

// The digest: a hash of the names and values of all tensors, and of the losses that were printed.
static uint64_t digest(void) {
    uint64_t all = loss_hash;
    if (c.digest) printf("%016llx  the logged losses\n", (unsigned long long)loss_hash);
    for (size_t t = 0; t < tensors; t++) {
        uint64_t h = hash(hash_of_name(&tensor[t], HASH_START), tensor[t].value, tensor[t].size * sizeof(float));
        if (c.digest) printf("%016llx  %s\n", (unsigned long long)h, tensor[t].name);
        all = hash(all, &h, sizeof h);
    }
    return all;
}

int main(int argc, char **argv) {
    double start = seconds(), accuracy = 0, validation = 0;
    read_settings(argc, argv);
    open_data();
    derive_settings();
#ifdef _OPENMP
    if (c.threads) omp_set_num_threads((int)c.threads);
#endif
    fill_factorials();
    add_parameters();
    size_t rows = product(c.micro_batch, c.context), longest = c.context + c.sample_tokens, parameters = 0;
    make_room(rows > longest ? rows : longest);
    fill_rotations(longest);
    tokens = zeros(product(c.batch, c.context), sizeof(int)), targets = zeros(product(c.batch, c.context), sizeof(int));
    row_loss = zeros(c.batch, sizeof *row_loss);
    for (size_t t = 0; t < tensors; t++) parameters += tensor[t].size;
    printf("data %s, %zu tokens; model of %zu parameters\n", c.data, c.vocab, parameters);
    for (size_t step = 0; step <= c.steps; step++) {
        double loss = step ? train_step(step - 1) : 0;
        bool validates = step % c.eval_every == 0 || step == c.steps;
        if (validates) validation = validate(&accuracy);
        if (validates && !isfinite(validation)) stop(1, "diverged after step %zu: the validation loss is no number", step);
        if (!validates && step % c.log_every) continue;
        printf("step %zu", step);
        if (step) print_loss("train_loss", loss);
        if (validates) print_loss("val_loss", validation);
        if (validates && !corpus.text) printf("  accuracy %.1f%%", 100 * accuracy);
        putchar('\n');
        fflush(stdout);
    }
    uint64_t result = digest();
    double wall = seconds() - start;
    if (c.sample_tokens) write_sample();
    printf("receipt: digest %016llx, loss %.4f, floor %s, tokens %zu, wall %.1f s,", (unsigned long long)result,
           validation, corpus.text ? "unknown" : "0.0000", c.steps * c.batch * c.context, wall);
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    putchar('\n');
    if (fflush(stdout) || ferror(stdout)) stop(1, "cannot write to standard output");
    return 0;
}

// tier.c: a text comes back: its keys and values are fetched from a disk, where they had been put (infer/tier.h), or
// computed again from its tokens. Three constants of computing are measured apart, and one of the disk:
//
//     again(n) = max(W, n b + c n (n + 1) / 2)     W a step of one token, b a token, c a token that sees another
//     fetch(n) = n k / BW                          k bytes of a token, BW until they stand in their blocks
//
// Only computing bends. So a disk that brings a token before it is computed, k/BW < b,
// wins at every length, and a slower one from n* = 2 (k/BW - b) / c on. The disk at hand, and the same one held back to
// shares of k/b, so that there is a length to be found.
#include "bench/bench.h"
#include "infer/tier.h"
#include "run/run.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TIERS = 3, SHORTS = 2, MOST_PIECES = 32, ROUNDS = 7, APART = 64 };
typedef struct { const char *flags; size_t vocab, piece, most, far; } Setting;       // a piece: tokens of a step
static const Setting settings[] = {
    {"--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 16384", 32000, 256, 8192, 4096},
    {"--layers 2 --width 64 --heads 2 --context 512", 256, 32, 128, 96},
};
static const size_t shorts[SHORTS] = {16, 64};       // texts shorter than a piece
static const struct { const char *name; double share; } tiers[TIERS] = {{"disk", 0}, {"slow", 0.65}, {"slower", 0.5}};

typedef struct {
    const Setting *s; Model *model; Blocks *blocks; Tier *tier;
    uint32_t *table; int *tokens; real *logits;
} Bed;
typedef struct { double weights, token, pair, byte, k; } Constants;     // seconds; k: bytes of a token
typedef struct { double again[MOST_PIECES + SHORTS], fetch[TIERS][MOST_PIECES + SHORTS]; } Round;

static size_t pieces_of(const Setting *s) { return s->most / s->piece; }
static size_t length_of(const Setting *s, size_t i) { return i < SHORTS ? shorts[i] : (i - SHORTS + 1) * s->piece; }

// ---- the two ways ----------------------------------------------------------------------------------
static void read_on(const Bed *x, size_t past, size_t n, bool speak) {
    Row row = {.tokens = x->tokens + past, .n = n, .past = past, .block = x->table, .logits_from = speak ? n - 1 : n};
    model_step(x->model, x->blocks, &row, 1, x->logits);
}

// Seconds after each piece, and of short texts alone.
static void compute_again(const Bed *x, double took[]) {
    for (size_t i = 0; i < SHORTS; i++) {
        double start = seconds_now();
        read_on(x, 0, shorts[i], false);
        took[i] = seconds_now() - start;
    }
    double start = seconds_now();
    for (size_t i = 0; i < pieces_of(x->s); i++)
        read_on(x, i * x->s->piece, x->s->piece, false), took[SHORTS + i] = seconds_now() - start;
}

static void wait_until(double then) {
    for (double left; (left = then - seconds_now()) > 0;) {
        struct timespec t = {(time_t)left, (long)((left - floor(left)) * 1e9)};
        nanosleep(&t, NULL);
    }
}

// rate: bytes per second that come through, at most; INFINITY: as many as the disk has.
static void fetch_blocks(const Bed *x, size_t from, size_t to, double rate, double start) {
    for (size_t i = from; i < to; i++) {
        tier_read(x->tier, i);
        blocks_load(x->model, x->blocks, x->tier->held, x->table[i]);
        wait_until(start + (double)((i + 1) * x->tier->bytes) / rate);
    }
}

static void fetch(const Bed *x, double rate, double took[]) {
    for (size_t i = 0; i < SHORTS; i++) {
        double start = seconds_now();
        fetch_blocks(x, 0, shorts[i] / ROW_BLOCK, rate, start);
        took[i] = seconds_now() - start;
    }
    double start = seconds_now();
    for (size_t i = 0, each = x->s->piece / ROW_BLOCK; i < pieces_of(x->s); i++)
        fetch_blocks(x, i * each, (i + 1) * each, rate, start), took[SHORTS + i] = seconds_now() - start;
}

// ---- the bed ---------------------------------------------------------------------------------------
// Places of the text, and some more by which the disk is measured.
static Bed bed_new(const Setting *s, Model *m) {
    size_t places = s->most / ROW_BLOCK, vocab = model_config(m)->vocab;
    Bed x = {.s = s, .model = m, .blocks = blocks_new(m, places + s->piece / ROW_BLOCK + 1, ROW_BLOCK)};
    char *path = xprintf("kv-tier.%d", (int)getpid());
    x.tier = tier_open(path, places + APART, blocks_bytes(m, x.blocks));
    x.table = xmalloc((places + s->piece / ROW_BLOCK + 1) * sizeof *x.table);
    x.tokens = xmalloc((s->most + s->piece) * sizeof *x.tokens), x.logits = xmalloc(vocab * sizeof *x.logits);
    for (size_t i = 0; i <= places + s->piece / ROW_BLOCK; i++) x.table[i] = (uint32_t)i;
    for (size_t i = 0; i < s->most + s->piece; i++) x.tokens[i] = (int)(i * 7919 % vocab);
    free(path);
    return x;
}
static void bed_free(Bed *x) {
    tier_close(x->tier), blocks_free(x->blocks);
    free(x->table), free(x->tokens), free(x->logits);
}

// The text is read once and put on the disk. What comes next must be the same after either way.
static bool put_away(const Bed *x, double ignored[]) {
    size_t places = x->s->most / ROW_BLOCK, bytes = model_config(x->model)->vocab * sizeof *x->logits;
    compute_again(x, ignored);
    for (size_t i = 0; i < places + APART; i++) {
        blocks_save(x->model, x->blocks, x->table[i % places], x->tier->held);
        tier_write(x->tier, i);
    }
    read_on(x, x->s->most, 1, true);
    real *first = memcpy(xmalloc(bytes), x->logits, bytes);
    memset(x->tier->held, 0, x->tier->bytes);
    for (size_t i = 0; i < places; i++) blocks_load(x->model, x->blocks, x->tier->held, x->table[i]);
    fetch(x, INFINITY, ignored);
    read_on(x, x->s->most, 1, true);
    bool same = memcmp(first, x->logits, bytes) == 0;
    free(first);
    return same;
}

// ---- the constants ---------------------------------------------------------------------------------
typedef struct { const Bed *bed; size_t past, n; } Piece;
static double run_piece(void *work, size_t repeats) {
    const Piece *p = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) read_on(p->bed, p->past, p->n, false);
    return seconds_now() - start;
}
static double run_reads(void *work, size_t repeats) {
    const Bed *x = work;
    size_t places = x->s->most / ROW_BLOCK;
    double start = seconds_now();
    for (size_t i = 0; i < repeats * APART; i++) {
        tier_read(x->tier, places + i % APART);
        blocks_load(x->model, x->blocks, x->tier->held, x->table[i % places]);
    }
    return seconds_now() - start;
}

static Constants measure_constants(Bench *b, const Bed *x) {
    enum { ONE, NEAR, FAR, READS, ALL };
    size_t n = x->s->piece, far = x->s->far;
    Piece piece[READS] = {{x, n, 1}, {x, 0, n}, {x, far, n}};
    Contestant c[ALL] = {{0}};
    for (size_t i = 0; i < READS; i++) c[i] = (Contestant){.run = run_piece, .work = &piece[i]};
    c[READS] = (Contestant){.run = run_reads, .work = (void *)x};
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "tier", c, ALL);
    b->least_seconds = least;
    Constants k = {.weights = seconds_of(b, &c[ONE]).median, .k = (double)x->tier->bytes / ROW_BLOCK};
    double near = seconds_of(b, &c[NEAR]).median, size = (double)n;
    k.pair = fmax(0, (seconds_of(b, &c[FAR]).median - near) / (size * (double)far));      // noise may be larger
    k.token = near / size - k.pair * (size + 1) / 2;
    Summary reads = seconds_of(b, &c[READS]);
    k.byte = reads.median / (APART * (double)x->tier->bytes);
    race_free(c, ALL);
    printf("a step of one token %.2f ms; a token %.3f ms, one that sees another %.4f us; k = %.0f bytes, k/b = %.0f "
           "MB/s; the disk brings %.0f MB/s (±%.0f%%)\n", 1e3 * k.weights, 1e3 * k.token, 1e6 * k.pair, k.k,
           1e-6 * k.k / k.token, 1e-6 / k.byte, 100 * spread_of(reads));
    add_result(b, "tier_constants",
               json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "weights_ms", 1e3 * k.weights, "token_ms", 1e3 * k.token,
                         "pair_us", 1e6 * k.pair, "bytes", k.k, "needed_mb", 1e-6 * k.k / k.token, "disk_mb",
                         1e-6 / k.byte));
    return k;
}

static double again_of(const Constants *k, size_t n) {
    double x = (double)n;
    return fmax(k->weights, x * k->token + k->pair * x * (x + 1) / 2);
}
static double rate_of(const Constants *k, size_t tier) {        // bytes per second
    return tier ? tiers[tier].share * k->k / k->token : 1 / k->byte;
}
static double fetch_of(const Constants *k, size_t tier, size_t n) { return (double)n * k->k / rate_of(k, tier); }

// ---- what is reported ------------------------------------------------------------------------------
// From which length on fetching wins: behind the last one at which it lost, on a straight line between the two.
static double crossing_of(const Setting *s, const Round *r, size_t tier) {
    double found = 0;
    for (size_t i = SHORTS; i < SHORTS + pieces_of(s); i++) {
        double lead = r->fetch[tier][i] - r->again[i];
        if (lead <= 0) continue;
        if (i + 1 == SHORTS + pieces_of(s)) return NAN;
        double next = r->fetch[tier][i + 1] - r->again[i + 1];
        found = (double)length_of(s, i) + (double)s->piece * lead / (lead - fmin(next, 0));
    }
    return found;
}

static void report_lengths(Bench *b, const Setting *s, const Constants *k, const Round *r, size_t rounds, size_t tier) {
    double worst = 0, least = INFINITY, times[ROUNDS], again[ROUNDS], from[ROUNDS];
    for (size_t i = 0; i < SHORTS + pieces_of(s); i++) {
        size_t n = length_of(s, i);
        if (n & (n - 1)) continue;                       // powers of two are told
        for (size_t j = 0; j < rounds; j++) {
            again[j] = r[j].again[i], from[j] = r[j].fetch[tier][i], times[j] = again[j] / from[j];
        }
        double told = again_of(k, n) / fetch_of(k, tier, n), found = summary(times, rounds).median;
        if (n >= s->piece) worst = fmax(worst, fabs(told / found - 1));
        least = fmin(least, found);
        printf("%-7s %6zu %12.2f %12.2f %9.2f %9.2f\n", tiers[tier].name, n, 1e3 * summary(again, rounds).median,
               1e3 * summary(from, rounds).median, found, told);
        add_result(b, "fetched", json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "tier", tiers[tier].name,
                                           "tokens", (json_int_t)n, "again_ms", 1e3 * summary(again, rounds).median,
                                           "fetch_ms", 1e3 * summary(from, rounds).median, "told_again_ms",
                                           1e3 * again_of(k, n), "told_fetch_ms", 1e3 * fetch_of(k, tier, n), "times",
                                           found, "told", told));
    }
    add_result(b, "tiers", json_pack("{s:s, s:f, s:f, s:f}", "tier", tiers[tier].name, "mb", 1e-6 * rate_of(k, tier),
                                     "worst", worst, "least", least));
}

static void report_crossing(Bench *b, const Setting *s, const Constants *k, const Round *r, size_t rounds,
                            size_t tier) {
    double found[ROUNDS], told = fmax(2 * (k->k / rate_of(k, tier) - k->token) / k->pair, 0);
    for (size_t j = 0; j < rounds; j++) found[j] = crossing_of(s, &r[j], tier);
    Summary x = summary(found, rounds);
    printf("%-7s at %.0f MB/s fetching wins from %.0f tokens on (%.0f to %.0f), by the formula from %.0f\n",
           tiers[tier].name, 1e-6 * rate_of(k, tier), x.median, x.low, x.high, told);
    double over = x.median / told;
    add_result(b, "crossing", json_pack("{s:s, s:o, s:f, s:o}", "tier", tiers[tier].name, "measured",
                                        run_number(isnan(x.median) ? 0 : x.median), "predicted", told, "over_formula",
                                        run_number(isnan(over) ? 0 : fmax(over, 0))));
}

void bench_tier(Bench *b) {
    const Setting *s = &settings[b->effort == TINY];
    size_t rounds = b->rounds < ROUNDS ? b->rounds : ROUNDS;
    Config config = config_of(s->flags, s->vocab);
    Model *m = model_new(&config, false);
    Bed x = bed_new(s, m);
    Round r[ROUNDS];
    bool same = put_away(&x, r[0].again);
    Constants k = measure_constants(b, &x);
    for (size_t j = 0; j < rounds; j++) {
        compute_again(&x, r[j].again);
        for (size_t t = 0; t < TIERS; t++) fetch(&x, t ? rate_of(&k, t) : INFINITY, r[j].fetch[t]);
    }
    printf("what comes after a text of %zu tokens is %s\ntier    tokens     again ms     fetch ms     times "
           "predicted\n", s->most, same ? "the same" : "NOT the same");
    for (size_t t = 0; t < TIERS; t++) report_lengths(b, s, &k, r, rounds, t);
    for (size_t t = 1; t < TIERS; t++) report_crossing(b, s, &k, r, rounds, t);
    add_result(b, "tier", json_pack("{s:f, s:I}", "same", same ? 1.0 : 0.0, "parameters",
                                    (json_int_t)model_size(&config).parameters));
    bed_free(&x), model_free(m);
}

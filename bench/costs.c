// costs.c: what a step of a server costs, from three constants that are measured apart: the weights' bandwidth, of one
// text; arithmetic, of a prompt of 256 tokens; and a cached token, of one long text and a short one. Then steps that
// were not among these, many texts with long pasts, beside what the constants say of them:
//
//     t = max(W / BW, M f) + k S      of M tokens that see S cached ones: costs add
//     t = max(FLOPs / F, bytes / BW)  with the same F and BW: the usual roofline
//
// And two numbers of a machine: its ridge, the rows from which arithmetic is the limit, and how many tokens of a prompt
// a step must have to read it as fast as ever, beside texts that write.
#include "run/run.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>

static const struct { const char *flags; size_t vocab, keys; } settings[] = {
    {"--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 16384", 32000, 65536},
    {"--layers 2 --width 64 --heads 2 --context 512", 256, 1024},
};
enum { MANY = 256, SHORT = 128, LONG = 4096, WRITERS = 4, COUNTS = 9, PASTS = 4, CHUNKS = 11 };
static const size_t counts[COUNTS] = {1, 2, 4, 8, 12, 16, 24, 32, 64};
static const size_t pasts[PASTS] = {128, 512, 2048, 8192};
static const size_t chunks[CHUNKS] = {1, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256};

// ---- steps ---------------------------------------------------------------------------------------
// Tables go on where the text before has ended, so that no two read the same keys.
static uint32_t *table_new(const Server *s, const size_t *past, const size_t *n) {
    size_t all = 0;
    for (size_t i = 0; i < s->rows; i++) all += (past[i] + n[i]) / ROW_BLOCK + 1;
    uint32_t *table = xmalloc(all * sizeof *table);
    for (size_t i = 0; i < all; i++) table[i] = (uint32_t)i;
    return table;
}

// logits: of every token, or of prompts (n > 1 where `whole` is false) the last one's alone.
static Server *step_of(Model *m, Blocks *blocks, size_t rows, const size_t *past, const size_t *n, bool whole) {
    static const int tokens[MANY] = {1};
    Server *s = xmalloc(sizeof *s);
    size_t wanted = 0;
    *s = (Server){.model = m, .blocks = blocks, .rows = rows};
    uint32_t *block = table_new(s, past, n);
    for (size_t i = 0; i < rows; block += (past[i] + n[i]) / ROW_BLOCK + 1, i++) {
        s->row[i] = (Row){.tokens = tokens, .n = n[i], .past = past[i], .block = block,
                          .logits_from = whole ? 0 : n[i] - 1};
        wanted += n[i] - s->row[i].logits_from;
    }
    s->logits = xmalloc(size_mul(size_mul(wanted, model_config(m)->vocab), sizeof *s->logits));
    return s;
}

Server *step_new(Model *m, Blocks *blocks, size_t rows, size_t n, size_t past) {
    size_t pasts_of[MOST_ROWS], n_of[MOST_ROWS];
    for (size_t i = 0; i < rows; i++) pasts_of[i] = past, n_of[i] = n;
    return step_of(m, blocks, rows, pasts_of, n_of, true);
}

// Texts that write, and a prompt's chunk.
static Server *mixed_new(Model *m, Blocks *blocks, size_t chunk) {
    size_t past[WRITERS + 1], n[WRITERS + 1];
    for (size_t i = 0; i <= WRITERS; i++) past[i] = SHORT, n[i] = i < WRITERS ? 1 : chunk;
    return step_of(m, blocks, WRITERS + (chunk > 0), past, n, false);
}

// ---- the constants -------------------------------------------------------------------------------
typedef struct {
    double weights, token, key;                 // seconds: of a pass of the weights, of a token's arithmetic, of a key
    double flops, bytes, key_flops, key_bytes;  // of a token and of the weights; of a key that a token sees
} Constants;

// t(1, long) - t(1, short) is that of the keys between. What 256 tokens see of each other counts as arithmetic, too.
static Constants constants_of(const Bench *b, const Model *m, const Contestant *one, const Contestant *many,
                              const Contestant *far, size_t reach) {
    ModelSize size = model_size(model_config(m));
    const Config *c = model_config(m);
    Constants k = {.bytes = (double)size.packed_bytes, .key_bytes = (double)size.cache_bytes_per_token};
    k.key_flops = 4.0 * (double)(c->layers * c->heads * c->head_dim);
    k.flops = size.flops_per_token / 3 - k.key_flops * (double)c->context / 2;
    double pairs = MANY * (MANY + 1) / 2.0, t = seconds_of(b, one).median;
    k.key = (seconds_of(b, far).median - t) / (double)(reach - SHORT);
    k.weights = t - k.key * (SHORT + 1);
    k.token = seconds_of(b, many).median * k.flops / (MANY * k.flops + pairs * k.key_flops);
    return k;
}

static double by_sum(const Constants *k, double tokens, double keys) {
    return fmax(k->weights, tokens * k->token) + k->key * keys;
}
static double by_roofline(const Constants *k, double tokens, double keys) {
    double flops = tokens * k->flops + keys * k->key_flops, bytes = k->bytes + keys * k->key_bytes;
    return fmax(flops * k->token / k->flops, bytes * k->weights / k->bytes);
}

// ---- what is reported ----------------------------------------------------------------------------
typedef struct { double worst, beyond, error[COUNTS * PASTS]; size_t cells; } Errors;

static void add_error(Errors *e, double predicted, double measured) {
    double off = fabs(predicted / measured - 1);
    e->worst = fmax(e->worst, off), e->beyond += off > 0.2, e->error[e->cells++] = off;
}
static void report_errors(Bench *b, const char *name, const Errors *e) {
    printf("%-9s error in the median %.1f%%, at most %.1f%%; beyond 20%%: %.0f of %zu\n", name,
           100 * summary(e->error, e->cells).median, 100 * e->worst, e->beyond, e->cells);
    add_result(b, "errors", json_pack("{s:s, s:f, s:f, s:f, s:I}", "model", name, "median",
                                      summary(e->error, e->cells).median, "worst", e->worst, "beyond",
                                      e->beyond / (double)e->cells, "cells", (json_int_t)e->cells));
}

static void report_constants(Bench *b, const Constants *k) {
    double rate = k->bytes / k->weights, arithmetic = k->flops / k->token, keys = k->key_bytes / k->key;
    printf("weights %.2f ms, %.1f GB/s; a token %.3f ms, %.0f GFLOP/s; a cached token %.2f us, %.1f GB/s: ridge %.1f "
           "tokens\n", 1e3 * k->weights, 1e-9 * rate, 1e3 * k->token, 1e-9 * arithmetic, 1e6 * k->key, 1e-9 * keys,
           k->weights / k->token);
    add_result(b, "constants", json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "weights_ms", 1e3 * k->weights,
                                         "token_ms", 1e3 * k->token, "key_us", 1e6 * k->key, "weights_gbytes",
                                         1e-9 * rate, "gflops", 1e-9 * arithmetic, "keys_gbytes", 1e-9 * keys,
                                         "weight_bytes", k->bytes, "key_bytes", k->key_bytes));
}

static double grid_time(const Bench *b, Contestant grid[PASTS][COUNTS], size_t past, size_t count) {
    return grid[past][count].run ? seconds_of(b, &grid[past][count]).median : NAN;
}

static void report_grid(Bench *b, const Constants *k, Contestant grid[PASTS][COUNTS]) {
    Errors sum = {0}, roofline = {0};
    printf("rows    past    ms/step   by sum  by roofline\n");
    for (size_t p = 0; p < PASTS; p++)
        for (size_t i = 0; i < COUNTS; i++) {
            if (!grid[p][i].run || (p == 0 && i == 0)) continue;        // that one is a constant
            double rows = (double)counts[i], keys = rows * (double)(pasts[p] + 1), t = grid_time(b, grid, p, i);
            double a = by_sum(k, rows, keys), r = by_roofline(k, rows, keys);
            printf("%4zu %7zu %10.2f %8.2f %12.2f\n", counts[i], pasts[p], 1e3 * t, 1e3 * a, 1e3 * r);
            add_error(&sum, a, t), add_error(&roofline, r, t);
            add_result(b, "grid", json_pack("{s:I, s:I, s:o, s:f, s:f}", "rows", (json_int_t)counts[i], "past",
                                            (json_int_t)pasts[p], "step", contestant_json(b, &grid[p][i]),
                                            "sum_ms", 1e3 * a, "roofline_ms", 1e3 * r));
        }
    report_errors(b, "sum", &sum), report_errors(b, "roofline", &roofline);
}

// Where a flat line through one row meets the line from 32 rows to 64, less their keys: seen in the steps themselves.
static void report_knee(Bench *b, const Constants *k, Contestant grid[PASTS][COUNTS]) {
    double few = grid_time(b, grid, 0, COUNTS - 2), many = grid_time(b, grid, 0, COUNTS - 1), keys = SHORT + 1;
    double slope = (many - few) / 32 - k->key * keys, start = many - 64 * (slope + k->key * keys);
    double flat = grid_time(b, grid, 0, 0) - k->key * keys, knee = slope > 0 ? (flat - start) / slope : NAN;
    printf("knee      %.1f rows by steps, %.1f by the constants\n", knee, k->weights / k->token);
    add_result(b, "knee", json_pack("{s:o, s:f}", "measured", run_number(fmax(knee, 0)), "predicted",
                                    k->weights / k->token));
}

// The smallest step, texts that write and a chunk, that computes tokens at 95% of the best rate of all.
static void report_chunks(Bench *b, const Contestant c[CHUNKS + 1]) {
    double best = 0, alone = seconds_of(b, &c[CHUNKS]).median, least = NAN, free_chunk = 0;
    for (size_t i = 0; i < CHUNKS; i++) 
        best = fmax(best, (double)(chunks[i] + WRITERS) / seconds_of(b, &c[i]).median);
    printf("chunk beside %d texts   ms/step   share of the best rate   times the step without\n", WRITERS);
    for (size_t i = 0; i < CHUNKS; i++) {
        double t = seconds_of(b, &c[i]).median, share = (double)(chunks[i] + WRITERS) / t / best;
        printf("%5zu %25.2f %16.0f%% %20.2f\n", chunks[i], 1e3 * t, 100 * share, t / alone);
        if (isnan(least) && share >= 0.95) least = (double)chunks[i];
        if (t <= 1.1 * alone) free_chunk = (double)chunks[i];
        add_result(b, "chunks", json_pack("{s:I, s:o, s:f, s:f}", "chunk", (json_int_t)chunks[i], "step",
                                          contestant_json(b, &c[i]), "share", share, "times", t / alone));
    }
    printf("chunk     %.0f tokens for 95%% of the best rate; %.0f cost a tenth or less\n", least, free_chunk);
    add_result(b, "chunk", json_pack("{s:o, s:f}", "least", run_number(isnan(least) ? 0 : least), "free", free_chunk));
}

// ---- the section ---------------------------------------------------------------------------------
static Contestant step_contestant(Server *s) { return (Contestant){.run = server_run, .work = s}; }

void bench_costs(Bench *b) {
    enum { ONE, TOGETHER, FAR, CONSTANTS };
    size_t tiny = b->effort == TINY, keys = settings[tiny].keys, reach = tiny ? 2 * SHORT : LONG;
    Config config = config_of(settings[tiny].flags, settings[tiny].vocab);
    Model *m = model_new(&config, false);
    Blocks *blocks = blocks_new(m, keys / ROW_BLOCK + 2 * MOST_ROWS * (SHORT / ROW_BLOCK), ROW_BLOCK);
    struct { Contestant constant[CONSTANTS], grid[PASTS][COUNTS], chunk[CHUNKS + 1]; } c = {0};
    c.constant[ONE] = step_contestant(step_new(m, blocks, 1, 1, SHORT));
    c.constant[TOGETHER] = step_contestant(step_new(m, blocks, 1, MANY, 0));
    c.constant[FAR] = step_contestant(step_new(m, blocks, 1, 1, reach));
    for (size_t p = 0; p < PASTS; p++)
        for (size_t i = 0; i < COUNTS; i++)
            if ((p == 0 || counts[i] * pasts[p] <= keys) && (!tiny || p == 0))
                c.grid[p][i] = step_contestant(step_new(m, blocks, counts[i], 1, pasts[p]));
    for (size_t i = 0; i <= CHUNKS; i++) c.chunk[i] = step_contestant(mixed_new(m, blocks, i < CHUNKS ? chunks[i] : 0));
    double least = b->least_seconds;
    b->least_seconds = 4 * least;
    Contestant *all = (Contestant *)&c;
    race(b, "costs", all, sizeof c / sizeof *all);
    b->least_seconds = least;
    Constants k = constants_of(b, m, &c.constant[ONE], &c.constant[TOGETHER], &c.constant[FAR], reach);
    report_constants(b, &k), report_grid(b, &k, c.grid), report_knee(b, &k, c.grid), report_chunks(b, c.chunk);
    for (size_t i = 0; i < sizeof c / sizeof *all; i++) if (all[i].run) server_free(all[i].work);
    race_free(all, sizeof c / sizeof *all);
    blocks_free(blocks), model_free(m);
}

// rows.c: one step of a server that writes 1 to 64 texts, each a token further over blocks of its own. Of few rows
// reading the weights is the limit, of many arithmetic: the larger of both counts, and every number of rows should come
// as near to it as its neighbours.
#include "bench/bench.h"
#include <stdlib.h>

static const struct { const char *name, *flags; size_t vocab, past; Effort from; } settings[] = {
    {"llama 54M", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 256", 32000, 128, QUICK},
    {"tiny", "--layers 2 --width 64 --heads 2 --context 64", 256, 32, TINY},
};
static const size_t counts[] = {1, 2, 4, 8, 12, 13, 16, 24, 32, 64};
enum { COUNTS = sizeof counts / sizeof counts[0] };

double server_run(void *server, size_t steps) {
    Server *s = server;
    double start = seconds_now();
    for (size_t i = 0; i < steps; i++) model_step(s->model, s->blocks, s->row, s->rows, s->logits);
    return seconds_now() - start;
}
double server_flops(const ModelSize *size, size_t rows) { return (double)rows * size->flops_per_token / 3; }
double server_bytes(const ModelSize *size, size_t rows, size_t past) {
    return (double)size->packed_bytes + (double)rows * (double)(past * size->cache_bytes_per_token);
}

// Keys are zeros, which takes as long as others. Blocks stand backwards.
Server *server_new(Model *m, Blocks *blocks, size_t rows, size_t past) {
    static const int token[1] = {1};
    Server *s = xmalloc(sizeof *s);
    size_t each = past / ROW_BLOCK + 1;
    *s = (Server){.model = m, .blocks = blocks, .rows = rows,
                  .logits = xmalloc(size_mul(size_mul(rows, model_config(m)->vocab), sizeof *s->logits))};
    uint32_t *table = xmalloc(rows * each * sizeof *table);
    for (size_t i = 0; i < rows * each; i++) table[i] = (uint32_t)(rows * each - 1 - i);
    for (size_t i = 0; i < rows; i++)
        s->row[i] = (Row){.tokens = token, .n = 1, .past = past, .block = table + i * each};
    return s;
}

void server_free(Server *s) {
    free((void *)s->row[0].block), free(s->logits), free(s);
}

static void report(Bench *b, const char *name, const Server *s, const Contestant *c, const Contestant *one) {
    Summary seconds = seconds_of(b, c), share = share_of(b, c);
    double rate = (double)s->rows / seconds.median;
    printf("%-11s %4zu %10.2f %12.0f %8.1f %8.1f %7.0f%% ±%.0f %10.2f\n", name, s->rows, 1e3 * seconds.median, rate,
           1e-9 * c->bytes / seconds.median, 1e-9 * c->flops / seconds.median, 100 * share.median,
           100 * spread_of(share), ratio_of(b, c, one).median * (double)s->rows);
    add_result(b, "rows", json_pack("{s:s, s:I, s:I, s:f, s:o}", "model", name, "rows", (json_int_t)s->rows, "past",
                                    (json_int_t)s->row[0].past, "tokens_per_second", rate, "step",
                                    contestant_json(b, c)));
}

void bench_rows(Bench *b) {
    size_t i = b->effort == TINY;
    Config config = config_of(settings[i].flags, settings[i].vocab);
    size_t past = settings[i].past;
    ModelSize size = model_size(&config);                // whose context is twice as long: a token sees half of it
    Model *m = model_new(&config, false);
    Blocks *blocks = blocks_new(m, MOST_ROWS * (past / ROW_BLOCK + 1), ROW_BLOCK);
    Server *s[COUNTS];
    Contestant c[COUNTS] = {{0}};
    for (size_t k = 0; k < COUNTS; k++) {
        s[k] = server_new(m, blocks, counts[k], past);
        c[k] = (Contestant){.run = server_run, .work = s[k], .flops = server_flops(&size, counts[k]),
                            .bytes = server_bytes(&size, counts[k], past)};
    }
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "rows", c, COUNTS);
    b->least_seconds = least;
    printf("model       rows    ms/step        tok/s     GB/s  GFLOP/s  share of the limit   times one row's rate\n");
    for (size_t k = 0; k < COUNTS; k++) report(b, settings[i].name, s[k], &c[k], &c[0]);
    race_free(c, COUNTS);
    for (size_t k = 0; k < COUNTS; k++) server_free(s[k]);
    blocks_free(blocks), model_free(m);
}

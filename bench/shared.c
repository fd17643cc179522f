// shared.c: a step of many texts that begin alike, as after a prefix hit or in samples of one prompt: their first
// tokens stand in blocks that all of them have, or each has a copy of its own. What is computed is the same, to the
// bit. Of the shared part memory is read once, whatever the number of texts; its arithmetic is that of all of them.
#include "bench/bench.h"
#include <stdlib.h>
#include <string.h>

static const struct { const char *name, *flags; size_t vocab, rows[2], prefix[2]; Effort from; } settings[] = {
    {"gqa", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 2048", 32000, {8, 32}, {256, 1024},
     QUICK},
    {"mla", "--layers 12 --width 512 --heads 8 --attn mla --kv-rank 192 --rope-dim 64 --nope-dim 64 --v-dim 64 "
     "--context 2048", 32000, {8, 32}, {256, 1024}, QUICK},
    {"tiny", "--layers 2 --width 64 --heads 2 --context 128", 256, {2, 4}, {32, 64}, TINY},
};
enum { SETTINGS = sizeof settings / sizeof settings[0], OWN = 16, POINTS = 4 };      // OWN: tokens after the prefix

static Server *server_of_copies(Model *m, Blocks *blocks, size_t rows, size_t prefix, bool shared) {
    Server *s = server_new(m, blocks, rows, prefix + OWN);
    size_t each = (prefix + OWN) / ROW_BLOCK + 1;
    uint32_t *table = (uint32_t *)s->row[0].block;
    for (size_t i = 1; i < rows && shared; i++)
        for (size_t k = 0; k < prefix / ROW_BLOCK; k++) table[i * each + k] = table[k];
    return s;
}

// One text reads the prefix, the others get copies of its blocks.
static void check_bits(const Server *own, const Server *shared, size_t prefix) {
    int *tokens = xmalloc(prefix * sizeof *tokens);
    size_t vocab = model_config(own->model)->vocab, bytes = own->rows * vocab * sizeof *own->logits;
    for (size_t i = 0; i < prefix; i++) tokens[i] = (int)(i * 7919 % vocab);
    Row first = {.tokens = tokens, .n = prefix, .block = own->row[0].block, .logits_from = prefix};
    model_step(own->model, own->blocks, &first, 1, own->logits);
    for (size_t i = 1; i < own->rows; i++)
        for (size_t k = 0; k < prefix / ROW_BLOCK; k++)
            blocks_copy(own->model, own->blocks, first.block[k], own->row[i].block[k]);
    server_run((void *)own, 1), server_run((void *)shared, 1);
    if (memcmp(own->logits, shared->logits, bytes) != 0) fail("logits differ where texts share their blocks");
    free(tokens);
}

static void measure(Bench *b, size_t setting) {
    Config config = config_of(settings[setting].flags, settings[setting].vocab);
    const size_t *rows = settings[setting].rows, *prefix = settings[setting].prefix;
    ModelSize size = model_size(&config);
    Model *m = model_new(&config, false);
    Blocks *blocks = blocks_new(m, rows[1] * ((prefix[1] + OWN) / ROW_BLOCK + 1), ROW_BLOCK);
    Server *s[POINTS][2];
    Contestant c[POINTS][2] = {{{0}}};
    for (size_t i = 0; i < POINTS; i++)
        for (size_t shared = 0; shared < 2; shared++) {
            size_t n = rows[i / 2], p = prefix[i % 2], read = shared ? p + n * OWN : n * (p + OWN);
            s[i][shared] = server_of_copies(m, blocks, n, p, shared);
            c[i][shared] = (Contestant){.run = server_run, .work = s[i][shared],
                                        .bytes = server_bytes(&size, 1, read)};
        }
    for (size_t i = 0; i < POINTS; i++) check_bits(s[i][0], s[i][1], prefix[i % 2]);
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, "shared", &c[0][0], 2 * POINTS);
    b->least_seconds = least;
    for (size_t i = 0; i < POINTS; i++) {
        Summary times = ratio_of(b, &c[i][1], &c[i][0]);
        printf("%-5s %4zu %7zu %14.2f %12.2f %10.2f ±%.0f%%\n", settings[setting].name, rows[i / 2], prefix[i % 2],
               1e3 * seconds_of(b, &c[i][0]).median, 1e3 * seconds_of(b, &c[i][1]).median, times.median,
               100 * spread_of(times));
        add_result(b, "shared", json_pack("{s:s, s:I, s:I, s:o, s:o, s:o}", "model", settings[setting].name, "rows",
                                          (json_int_t)rows[i / 2], "prefix", (json_int_t)prefix[i % 2], "own",
                                          contestant_json(b, &c[i][0]), "shared", contestant_json(b, &c[i][1]),
                                          "times", summary_json(times)));
    }
    race_free(&c[0][0], 2 * POINTS);
    for (size_t i = 0; i < POINTS; i++) server_free(s[i][0]), server_free(s[i][1]);
    blocks_free(blocks), model_free(m);
}

void bench_shared(Bench *b) {
    printf("model rows  prefix  ms/step, copies       shared      times\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if ((settings[i].from == TINY) == (b->effort == TINY)) measure(b, i);
}

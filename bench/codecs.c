// codecs.c: writing a token after a long text whose keys and values are packed: fewer bytes to read, and each to be
// unpacked. Beside it the same step after a short text, which is what the weights cost: the rest is the cache.
#include "bench/bench.h"
#include "config/generate.h"
#include <stdlib.h>
#include <string.h>

static const struct { const char *name, *flags; size_t vocab, past; Effort from; } settings[] = {
    {"gqa", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 8256", 32000, 8192, QUICK},
    {"mha", "--layers 12 --width 512 --heads 8 --context 8256", 32000, 8192, FULL},
    {"mla", "--layers 12 --width 512 --heads 8 --attn mla --kv-rank 192 --rope-dim 64 --nope-dim 64 --v-dim 64 "
            "--context 8256", 32000, 8192, FULL},
    {"tiny", "--layers 2 --width 128 --heads 2 --context 320", 256, 256, TINY},
};
static const char *const codecs[] = {"", "--kv-bits 16", "--kv-bits 8", "--kv-bits 4", "--kv-bits 2", "--kv-quant q8_0",
                                     "--kv-quant q4_0", "--kv-quant mxfp4"};
enum { CODECS = sizeof codecs / sizeof codecs[0], SETTINGS = sizeof settings / sizeof settings[0], SHORT = 64 };

static KeepOptions options_of(const char *flags) {
    GenerateOptions o;
    flags_parse_text(&generate_table, &o, flags, NULL);
    return keep_options(&generate_table, &o);
}

static void report(Bench *b, const char *name, const char *codec, size_t past, double bytes, const Contestant *c,
                   const Contestant *whole, const Contestant *none) {
    Summary seconds = seconds_of(b, c), times = ratio_of(b, c, whole);
    double cache = seconds.median - seconds_of(b, none).median;
    const char *shown = *codec ? codec : "as they are";
    printf("%-5s %-16s %9.1f %9.2f %9.2f %9.1f %8.2f ±%.0f%%\n", name, shown, 1e-6 * bytes, 1e3 * seconds.median,
           1e3 * cache, 1e-9 * bytes / cache, times.median, 100 * spread_of(times));
    add_result(b, "codecs",
               json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "attention", name, "codec", shown, "past",
                         (json_int_t)past, "cache_bytes", bytes, "step_ms", 1e3 * seconds.median, "cache_ms",
                         1e3 * cache, "tokens_per_second", 1 / seconds.median, "faster", summary_json(times), "step",
                         contestant_json(b, c)));
}

static void race_setting(Bench *b, size_t i) {
    Config config = config_of(settings[i].flags, settings[i].vocab);
    Model *m = model_new(&config, false);
    size_t past = settings[i].past, packed = model_size(&config).packed_bytes;
    Blocks *blocks[CODECS];
    Server *s[CODECS + 1];
    Contestant c[CODECS + 1] = {{0}};
    double bytes[CODECS];
    for (size_t k = 0; k < CODECS; k++) {
        KeepOptions o = options_of(codecs[k]);
        blocks[k] = blocks_new_kept(m, past / ROW_BLOCK + 1, ROW_BLOCK, &o);
        s[k] = server_new(m, blocks[k], 1, past);
        bytes[k] = (double)keep_bytes(m, &o, past, past);
        c[k] = (Contestant){.run = server_run, .work = s[k], .bytes = (double)packed + bytes[k]};
    }
    s[CODECS] = server_new(m, blocks[0], 1, SHORT);
    c[CODECS] = (Contestant){.run = server_run, .work = s[CODECS], .bytes = (double)packed};
    double least = b->least_seconds;
    b->least_seconds = 5 * least;
    race(b, settings[i].name, c, CODECS + 1);
    b->least_seconds = least;
    for (size_t k = 0; k < CODECS; k++)
        report(b, settings[i].name, codecs[k], past, bytes[k], &c[k], &c[0], &c[CODECS]);
    race_free(c, CODECS + 1);
    for (size_t k = 0; k <= CODECS; k++) server_free(s[k]);
    for (size_t k = 0; k < CODECS; k++) blocks_free(blocks[k]);
    model_free(m);
}

void bench_codecs(Bench *b) {
    printf("      cache             MB       ms/step  of cache  GB/s of it  times as fast as whole\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if (settings[i].from <= b->effort && (settings[i].from == TINY) == (b->effort == TINY)) race_setting(b, i);
}

// decode.c: a model with random weights reads a prompt (prefill: many tokens at once, bound by arithmetic) and writes
// (decode: one token at a time, bound by the weights and the cache that each one must read).
#include "bench.h"
#include <stdlib.h>

static const struct { const char *name, *flags; size_t vocab, prompt; Effort from;
} settings[] = {
    {"llama 54M", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 1024", 32000, 512, QUICK},
    {"gpt-2 124M",
     "--layers 12 --width 768 --heads 12 --context 1024 --pos learned --norm-kind layer --ffn gelu --bias", 50257, 512,
     FULL},
    {"tiny", "--layers 2 --width 64 --heads 2 --context 64", 256, 16, TINY},
};
enum { SETTINGS = sizeof settings / sizeof settings[0], AFTER = 32 };

typedef struct { Model *model; Cache *cache; ModelSize size; size_t prompt; int *tokens; real *logits; } Reader;

static double run_prefill(void *work, size_t repeats) {
    Reader *r = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) {
        cache_rewind(r->cache, 0);
        model_infer(r->model, r->cache, r->tokens, r->prompt, false, r->logits);
    }
    return seconds_now() - start;
}

// Up to AFTER tokens after the prompt; then from its end anew.
static double run_decode(void *work, size_t repeats) {
    Reader *r = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) {
        if (cache_length(r->cache) >= r->prompt + AFTER) cache_rewind(r->cache, r->prompt);
        model_infer(r->model, r->cache, r->tokens + i % r->prompt, 1, false, r->logits);
    }
    return seconds_now() - start;
}

// The forward is a third of a step; the head is computed for the last token alone.
static double prefill_flops(const Reader *r, const char *flags, size_t vocab) {
    Config c = config_of(flags, vocab);
    c.context = r->prompt;
    double n = (double)r->prompt, head = 2.0 * (double)(c.vocab * c.width);
    return n * model_size(&c).flops_per_token / 3 - (n - 1) * head;
}

// All weights as they are packed, and the cache, which holds the prompt and half of what comes after.
static double decode_bytes(const Reader *r) {
    return (double)r->size.packed_bytes + ((double)r->prompt + AFTER / 2.0) * (double)r->size.cache_bytes_per_token;
}

// All weights, the cache, and the residual stream in and out of every branch.
static double prefill_bytes(const Reader *r) {
    const Config *c = model_config(r->model);
    double stream = 4.0 * (double)(c->layers * r->prompt * c->width * sizeof(real));
    return (double)r->size.packed_bytes + (double)(r->prompt * r->size.cache_bytes_per_token) + stream;
}

static double decode_flops(const Reader *r) { return r->size.flops_per_token / 3; }

static Reader *reader_new(const char *flags, size_t vocab, size_t prompt) {
    Reader *r = xmalloc(sizeof *r);
    Config c = config_of(flags, vocab);
    r->model = model_new(&c, false), r->size = model_size(&c), r->prompt = prompt;
    r->cache = cache_new(r->model, 1, prompt + AFTER);
    r->tokens = xmalloc(prompt * sizeof(int)), r->logits = xmalloc(size_mul(vocab, sizeof(real)));
    for (size_t i = 0; i < prompt; i++) r->tokens[i] = (int)(i * 7919 % vocab);
    return r;
}

static void reader_free(Reader *r) {
    cache_free(r->cache);
    model_free(r->model);
    free(r->tokens), free(r->logits), free(r);
}

static void report(Bench *b, const char *name, const Reader *r, const Contestant *prefill, const Contestant *decode) {
    Summary read = seconds_of(b, prefill), write = seconds_of(b, decode), share = share_of(b, prefill),
            bandwidth = share_of(b, decode);
    double rate = (double)r->prompt / read.median;
    printf("%-11s %10zu   %8.0f tok/s %7.1f GFLOP/s %4.0f%% ±%.0f   %8.1f tok/s %6.1f GB/s %4.0f%% ±%.0f\n", name,
           r->size.parameters, rate, 1e-9 * prefill->flops / read.median, 100 * share.median, 100 * spread_of(share),
           1 / write.median, 1e-9 * decode->bytes / write.median, 100 * bandwidth.median, 100 * spread_of(bandwidth));
    add_result(b, "decode",
               json_pack("{s:s, s:I, s:I, s:f, s:o, s:f, s:o}", "model", name, "parameters",
                         (json_int_t)r->size.parameters, "prompt", (json_int_t)r->prompt, "prefill_tokens_per_second",
                         rate, "prefill", contestant_json(b, prefill), "decode_tokens_per_second", 1 / write.median,
                         "decode", contestant_json(b, decode)));
    char *first = xprintf("prefill %s", name), *second = xprintf("decode %s", name);
    add_point(b, GROUP_INFERENCE, first, prefill->flops, prefill_bytes(r), read.median);
    add_point(b, GROUP_INFERENCE, second, decode_flops(r), decode->bytes, write.median);
    free(first);
    free(second);
}

void bench_decode(Bench *b) {
    Reader *r[SETTINGS] = {NULL};
    Contestant c[SETTINGS][2] = {{{0}}};
    for (size_t i = 0; i < SETTINGS; i++) {
        bool tiny = settings[i].from == TINY;
        if (settings[i].from > b->effort || tiny != (b->effort == TINY)) continue;
        r[i] = reader_new(settings[i].flags, settings[i].vocab, settings[i].prompt);
        c[i][0] = (Contestant){
            .run = run_prefill, .work = r[i], .flops = prefill_flops(r[i], settings[i].flags, settings[i].vocab)};
        c[i][1] = (Contestant){.run = run_decode, .work = r[i], .bytes = decode_bytes(r[i])};
    }
    double least = b->least_seconds;
    b->least_seconds = 10 * least;
    race(b, "decode", &c[0][0], 2 * SETTINGS);
    b->least_seconds = least;
    printf(
        "model       parameters   prefill, share of the FMA peak (goal 75%%)      decode, share of the read bandwidth "
        "(goal 85%%)\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if (r[i]) report(b, settings[i].name, r[i], &c[i][0], &c[i][1]);
    race_free(&c[0][0], 2 * SETTINGS);
    for (size_t i = 0; i < SETTINGS; i++)
        if (r[i]) reader_free(r[i]);
}

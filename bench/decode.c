// decode.c: a model with random weights reads a prompt (prefill: many tokens at once, bound by arithmetic) and writes
// (decode: one token at a time, bound by the weights and the cache that each one must read). Then, for kinds of
// attention whose caches differ, how writing slows down as the text that it looks back at grows.
#include "bench/bench.h"
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

static Model *model_of(const char *flags, size_t vocab) {
    Config c = config_of(flags, vocab);
    return model_new(&c, false);
}

static Reader *reader_new(Model *model, size_t prompt) {
    Reader *r = xmalloc(sizeof *r);
    size_t vocab = model_config(model)->vocab;
    *r = (Reader){.model = model, .size = model_size(model_config(model)), .prompt = prompt,
                  .cache = cache_new(model, 1, prompt + AFTER), .tokens = xmalloc(prompt * sizeof(int)),
                  .logits = xmalloc(size_mul(vocab, sizeof(real)))};
    for (size_t i = 0; i < prompt; i++) r->tokens[i] = (int)(i * 7919 % vocab);
    return r;
}

static void reader_free(Reader *r) {
    cache_free(r->cache);
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
        r[i] = reader_new(model_of(settings[i].flags, settings[i].vocab), settings[i].prompt);
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
        if (r[i]) model_free(r[i]->model), reader_free(r[i]);
}

// ---- writing, by the length of the text ------------------------------------------------------------
// One model, but for its attention. Those after mha have caches of equal size: an ordinary one with a quarter of the
// key and value heads, a single head that spends it on width, and a latent.
static const struct { const char *name, *flags; } kinds[] = {
    {"mha", "--attn mha"},
    {"gqa", "--attn gqa --kv-heads 2"},
    {"wide", "--attn gqa --kv-heads 1 --head-dim 128 --rope-dim 64"},
    {"mla", "--attn mla --kv-rank 192 --rope-dim 64 --nope-dim 64 --v-dim 64"},
};
static const size_t lengths[] = {256, 1024, 4096, 8192};
enum { KINDS = sizeof kinds / sizeof kinds[0], LENGTHS = sizeof lengths / sizeof lengths[0] };

static Model *model_of_kind(const Bench *b, size_t kind) {
    char *flags = xprintf("--layers %d --width 512 --heads 8 --context 8192 %s", b->effort == TINY ? 1 : 12,
                          kinds[kind].flags);
    Model *model = model_of(flags, 32000);
    free(flags);
    return model;
}

// A token waits in every layer for its query, and what follows for attention: so weights and text are two parts, of
// which each has the larger of its limits. A latent is read once and multiplied by all heads, twice: from some
// bandwidth on that is the limit of its part.
static Contestant writing_after(Reader *r) {
    const Config *c = model_config(r->model);
    Config alone = *c;
    alone.context = 1;                                  // of the products of one token, and of itself as its text
    bool latent = pattern_at(&c->attn, 0) == ATTN_mla;
    double seen = (double)r->prompt + AFTER / 2.0, heads = (double)(c->layers * c->heads);
    double wide = (double)(latent ? 2 * c->kv_rank + c->rope_dim : 2 * c->head_dim);
    return (Contestant){.run = run_decode, .work = r, .flops = model_size(&alone).flops_per_token / 3,
                        .bytes = (double)r->size.packed_bytes, .then_flops = 2 * seen * wide * heads,
                        .then_bytes = seen * (double)r->size.cache_bytes_per_token};
}

static void report_length(Bench *b, const char *name, const Reader *r, const Contestant *decode) {
    Summary write = seconds_of(b, decode), share = share_of(b, decode);
    double bytes = decode->bytes + decode->then_bytes;
    printf("%-5s %8zu %14zu %12.1f MB %10.1f tok/s %7.1f GB/s %6.1f GFLOP/s %4.0f%% ±%.0f\n", name, r->prompt,
           r->size.cache_bytes_per_token, 1e-6 * bytes, 1 / write.median, 1e-9 * bytes / write.median,
           1e-9 * (decode->flops + decode->then_flops) / write.median, 100 * share.median, 100 * spread_of(share));
    add_result(b, "context",
               json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:o}", "attention", name, "context",
                         (json_int_t)r->prompt, "parameters", (json_int_t)r->size.parameters, "cache_bytes_per_token",
                         (json_int_t)r->size.cache_bytes_per_token, "bytes_per_token", bytes, "text_flops_per_token",
                         decode->then_flops, "tokens_per_second", 1 / write.median, "decode",
                         contestant_json(b, decode)));
}

void bench_context(Bench *b) {
    Model *model[KINDS];
    Reader *r[KINDS][LENGTHS] = {{NULL}};
    Contestant c[KINDS][LENGTHS] = {{{0}}};
    size_t longest = b->effort == FULL ? LENGTHS : b->effort == QUICK ? LENGTHS - 1 : 1;
    for (size_t i = 0; i < KINDS; i++) {
        model[i] = model_of_kind(b, i);
        for (size_t j = 0; j < longest; j++) {
            r[i][j] = reader_new(model[i], lengths[j]);
            run_prefill(r[i][j], 1);
            c[i][j] = writing_after(r[i][j]);
        }
    }
    double least = b->least_seconds;
    b->least_seconds = 10 * least;
    race(b, "writing after a text", &c[0][0], KINDS * LENGTHS);
    b->least_seconds = least;
    printf("kind   context  cache bytes/token  read per token      decode, share of the limits of weights and text\n");
    for (size_t i = 0; i < KINDS; i++)
        for (size_t j = 0; j < longest; j++) report_length(b, kinds[i].name, r[i][j], &c[i][j]);
    race_free(&c[0][0], KINDS * LENGTHS);
    for (size_t i = 0; i < KINDS; i++) {
        for (size_t j = 0; j < longest; j++) reader_free(r[i][j]);
        model_free(model[i]);
    }
}

// digest.c: main(). Trains small models of every kind for a few steps and prints a hash of each: of its
// parameters, moments, losses, and of the logits it then decodes. tests/digest.sh builds it for every
// compiler and machine at hand and compares. "quant" is the products of quantised weights. It needs no library but
// libm, no files and no flags:
//     build/digest [STEPS [MICRO-BATCH [RESUME-AT [KIND...]]]]      threads: OMP_NUM_THREADS
#include "kernels/distill.h"
#include "kernels/quant_matmul.h"
#include "lib/rng.h"
#include "lib/simd.h"
#include "model.h"
#include "model/optimizer.h"
#include "moe.h"
#include "tests/config.h"
#include <omp.h>
#include <stdlib.h>

enum { BATCH = 6, CONTEXT = 50, VOCAB = 61, DECODED = 5 };

// Every mixer, kernel, position, norm, placement, activation, router, gate, balance and number format. Pools over the
// batch are left out: they are refused with micro-batches (tests/test_moe.c has them, over threads).
static const struct { const char *name, *flags; } kinds[] = {
    {"mha", "--attn mha"},
    {"gqa",
     "--attn gqa --kv-heads 1 --attn-kernel naive --norm post --norm-kind layer --bias --ffn gelu --pos learned "
     "--schedule linear"},
    {"qk-norm", "--attn gqa --kv-heads 2 --qk-norm head --norm out --ffn relu2 --tie 0 --rope-dim 4 --schedule wsd"},
    {"mla", "--attn mla --kv-rank 20 --rope-dim 4 --nope-dim 7 --v-dim 5 --norm peri --tile 32"},
    {"deepnorm", "--attn mla --q-rank 17 --attn-kernel band --norm deepnorm --bias --norm-kind layer"},
    {"mixed", "--attn mha+mla --qk-norm full --pos none --ffn gelu --norm none --schedule constant"},
    {"experts", "--attn mha --experts 5 --top-k 2 --expert-width 11 --aux-loss 0.1 --z-loss 0.01"},
    {"bias",
     "--attn mla --experts 6 --top-k 3 --expert-width 13 --gate sigmoid --router bias --bias-rate 0.01 "
     "--shared-experts 1 --first-dense 1 --tie 0"},
    {"alibi", "--attn gqa+mla --heads 6 --head-dim 8 --kv-heads 3 --pos alibi"},
    {"attn-gate", "--attn gqa+mla --kv-heads 2 --v-dim 5 --attn-gate"},
    {"swa", "--attn swa+gqa --window 13 --tile 32 --kv-heads 2"},
    {"keel", "--attn mha --norm keel --norm-kind dyt --pos none"},
    {"switch", "--attn gqa --experts 4 --top-k 1 --norm-topk 0 --ffn relu2 --moe-layers dense+moe --norm peri"},
    {"linear", "--attn linear --state-dim 7 --short-conv 0"},
    {"unit-keys", "--attn linear+mha --state-dim 5 --feature-map unit"},
    {"gla", "--attn gla --bias --norm peri --experts 4 --expert-width 11"},
    {"delta", "--attn delta+mha --state-dim 24 --norm out --rope-dim 4"},
    {"gated-delta", "--attn gated-delta+gqa --kv-heads 2 --tie 0 --pos none"},
    {"mamba2", "--attn mamba2+mla --state-dim 9 --norm peri --bias"},
    {"capacity", "--attn mha --experts 5 --capacity 0.7"},
    {"choice", "--attn mha --experts 4 --router expert-choice --pool time:12 --shared-experts 1"},
    {"threshold", "--attn gqa --experts 5 --router threshold --gate sigmoid --aux-loss 0.1 --capacity 1.2"},
    {"relu", "--attn mha --experts 6 --top-k 2 --router relu --ffn relu2"},
    {"hash", "--attn mla --experts 6 --top-k 3 --router hash --first-dense 1"},
    {"soft", "--attn mha --experts 4 --router soft --pool time:8"},
    {"dense-moe", "--attn mha --experts 3 --expert-width 11 --router dense --z-loss 0.01"},
    {"yarn",
     "--attn gqa+mla --kv-heads 2 --rope-scaling yarn --rope-factor 4 --rope-trained 20 --rope-mscale 0.7 "
     "--rope-mscale-all-dim 1.3 --attn-bias qkv"},
    {"llama3",
     "--attn swa+gqa --kv-heads 2 --window 13 --rope-layers rope+none --rope-scaling llama3 --rope-factor 8 "
     "--rope-trained 30 --attn-bias all --ffn-bias all"},
    {"dynamic", "--attn mha --rope-scaling dynamic --rope-trained 50 --bias --attn-bias none"},
    {"slower", "--attn mha --rope-scaling linear --bias --ffn-bias none"},
    {"ntk", "--attn gqa --kv-heads 2 --rope-scaling ntk --rope-factor 3"},
    {"groups",
     "--attn mla --experts 6 --top-k 2 --expert-width 13 --gate sigmoid --router bias --route-groups 3 "
     "--route-top-groups 2"},
    {"groups-max", "--attn mha --experts 8 --top-k 3 --route-groups 4 --route-top-groups 2 --route-group-score max"},
    {"int8", "--layers 1 --quant int8"},
    {"q8_0", "--layers 1 --quant q8_0 --bias"},
    {"q4_0", "--layers 1 --quant q4_0 --quant-embed"},
    {"int4", "--layers 1 --quant int4 --quant-search"},
    {"int4-full", "--layers 1 --quant int4-full"},
    {"int4-asym", "--layers 1 --attn mla --quant int4-asym"},
    {"int3", "--layers 1 --quant int3 --tie 0 --quant-embed"},
    {"int2", "--layers 1 --quant int2 --quant-search --qat-start 0.1"},
    {"ternary", "--layers 1 --quant ternary"},
    {"mxfp4", "--layers 1 --quant mxfp4"},
    {"mx-even", "--layers 1 --quant mxfp4 --mx-scale even"},
    {"mx-rceil", "--layers 1 --quant mxfp4 --mx-scale rceil --quant-search"},
    {"nvfp4", "--layers 1 --quant nvfp4 --quant-embed --experts 4 --expert-width 11"},
    {"act-int8", "--layers 1 --bias --quant q4_0 --quant-act int8 --quant-embed --qat-start 0.1"},
    {"act-int4",
     "--attn mla+gated-delta --attn-bias qkv --experts 4 --expert-width 11 --quant nvfp4 --quant-act int4 --hadamard"},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

typedef struct {
    Config c;
    Model *m;
    size_t numbers;
    Optimizer o;
    uint64_t hash;                   // of the losses so far
    double loss;
} Training;

static Config configure(const char *flags) {
    static const char base[] = "--width 40 --heads 4 --layers 2 --context 50 --ffn-width 56 --init-scale 4 --lr 0.01 "
                               "--warmup 2 --steps 30 --batch 6";
    return config_of(base, flags, VOCAB);
}

static bool is_trained(size_t flag, const char *value) {
    bool found = false;
    char *word = xprintf("+%s+", value);
    for (size_t k = 0; k < KINDS; k++) {
        Config c = configure(kinds[k].flags);
        char *text = flags_get(&config_table, &c, flag), *pattern = xprintf("+%s+", text);
        found |= strstr(pattern, word) != NULL;
        free(text), free(pattern);
    }
    free(word);
    return found;
}

// A value of a flag that no kind has would be a promise that nobody checks.
static void check_coverage(void) {
    char value[64];
    for (size_t i = 0; i < config_table.count; i++) {
        const Flag *f = &config_table.flag[i];
        if ((f->kind != FLAG_ENUM && f->kind != FLAG_PATTERN) || f->same_numbers) continue;
        if (!strcmp(f->name, "draft_loss")) continue;             // the teacher is a run: hash_of_distilling
        if (!strcmp(f->name, "weight_bits") || !strcmp(f->name, "group")) continue;     // other names of --quant's
        int values = 1;
        for (const char *bar = f->values; *bar; bar++) values += *bar == '|';
        for (int v = 0; v < values; v++)
            if (!is_trained(i, flags_value_name(f, v, value)))
                fail("tests/digest.c trains no model with --%s %s; add one", f->name, value);
    }
}

static void begin(Training *t) {
    t->m = model_new(&t->c, true);
    t->o = optimizer_new(t->m);
    t->numbers = model_numbers(t->m);
}

static void end(Training *t) { model_free(t->m), optimizer_free(&t->o); }

// A process that dies keeps nothing but what it wrote: values, moments, losses.
static void die_and_resume(Training *t, size_t step) {
    Training old = *t;
    begin(t);
    memcpy(model_values(t->m), model_values(old.m), t->numbers * sizeof(real));
    memcpy(t->o.mean, old.o.mean, 2 * t->numbers * sizeof(real));      // and the squares behind them
    model_changed_after(t->m, step);                   // before --qat-start it goes on with exact weights
    end(&old);
}

// Tokens that follow one another by a rule, with noise: something to learn.
static void make_rows(size_t step, int *token, int *target) {
    for (size_t b = 0; b < BATCH; b++) {
        Rng r = rng_stream(1, RNG_TEST, step * BATCH + b);
        int now = (int)rng_below(&r, VOCAB);
        for (size_t i = 0; i < CONTEXT; i++) {
            int next = rng_below(&r, 4) ? (now * 7 + 3) % VOCAB : (int)rng_below(&r, VOCAB);
            token[b * CONTEXT + i] = now, target[b * CONTEXT + i] = i % 9 == 8 ? -1 : next;
            now = next;
        }
    }
}

static void train_step(Training *t, size_t step, size_t micro) {
    int token[BATCH * CONTEXT], target[BATCH * CONTEXT];
    double row_loss[BATCH], scored = 0;
    make_rows(step, token, target);
    for (size_t i = 0; i < BATCH * CONTEXT; i++) scored += target[i] >= 0;
    model_zero_gradients(t->m);
    for (size_t b = 0; b < BATCH; b += micro)
        model_forward_backward(t->m, token + b * CONTEXT, target + b * CONTEXT, BATCH - b < micro ? BATCH - b : micro,
                               CONTEXT, 1 / scored, 1.0 / BATCH, row_loss + b);
    model_finish_gradients(t->m);
    double norm = optimizer_norm(&t->o, t->m);
    optimizer_step(&t->o, t->m, norm, step);
    model_update_routers(t->m);
    model_changed_after(t->m, step + 1);
    t->loss = 0;
    for (size_t b = 0; b < BATCH; b++) t->loss += row_loss[b] / scored;
    t->hash = hash_bytes(hash_bytes(t->hash, row_loss, sizeof row_loss), &norm, sizeof norm);
}

// Reads a prompt into a cache, then decodes token by token.
static uint64_t hash_of_decoding(Model *m, uint64_t h) {
    int token[CONTEXT], target[CONTEXT * BATCH], all[CONTEXT * BATCH];
    real logits[VOCAB];
    make_rows(1000, all, target);
    memcpy(token, all, sizeof token);
    Cache *cache = cache_new(m, 1, CONTEXT);
    model_infer(m, cache, token, CONTEXT - DECODED, false, logits);
    h = hash_bytes(h, logits, sizeof logits);
    for (size_t i = CONTEXT - DECODED; i < CONTEXT; i++) {
        model_infer(m, cache, token + i, 1, false, logits);
        h = hash_bytes(h, logits, sizeof logits);
    }
    cache_free(cache);
    return h;
}

// Both losses of a draft and their gradients, over random logits.
static uint64_t hash_of_distilling(DistillLoss kind, size_t steps) {
    enum { M = 3, V = 1001 };
    static real q[M * V], p[M * V];
    static const int target[M] = {1, -1, 5};
    double loss[M], agreement[M];
    Rng r = rng_stream(1, RNG_TEST, steps);      // as the others, another hash after a step less
    for (size_t i = 0; i < M * V; i++) q[i] = (real)(8 * rng_uniform(&r)), p[i] = (real)(8 * rng_uniform(&r));
    distill_forward(loss, agreement, q, p, target, kind, M, V);
    distill_backward(q, p, target, 0.5, kind, M, V);
    uint64_t h = hash_bytes(hash_bytes(HASH_START, loss, sizeof loss), agreement, sizeof agreement);
    return hash_bytes(h, q, sizeof q);
}

// Bytes of weights in a format and their products with quantised activations.
static uint64_t hash_of_quantised(QuantFormat format, size_t steps) {
    enum { M = 5, N = 77, K = 416 };
    static real w[N * K], x[M * K], y[M * N];
    Rng r = rng_stream(2, RNG_TEST, steps);
    for (size_t i = 0; i < N * K; i++) w[i] = i < N * K / 2 ? (real)rng_normal(&r) : i % 3 ? 1 : -1;   // largest codes
    for (size_t i = 0; i < M * K; i++) x[i] = i < M * K / 2 ? (real)rng_normal(&r) : i % 5 ? 1 : -1;
    size_t bytes = N * quant_row_bytes(format, K), held = quant_packed_bytes(format, N, K);
    unsigned char *rows = xmalloc(bytes), *packed = xmalloc(held), *at = xmalloc(quant_rows_bytes(M, K));
    float scale = quant_tensor_scale(format, w, N * K);
    quant_encode_rows((Quant){.format = format}, rows, scale, w, N, K);
    quant_pack(packed, format, rows, N, K);
    QuantRows activations = quant_rows(at, x, K, M, K);
    quant_product(y, N, &activations, &(QuantWeight){format, N, K, scale, packed}, NULL);
    uint64_t h = hash_bytes(hash_bytes(hash_bytes(HASH_START, rows, bytes), packed, held), y, sizeof y);
    free(rows), free(packed), free(at);
    return h;
}

// Models that compute in integers, of every format and with mixers of every kind.
static uint64_t hash_of_packed(QuantFormat format, size_t steps) {
    static const char *const models[] = {"--attn mha --bias --quant-embed",
                                         "--attn mla+gated-delta --experts 4 --expert-width 11 --quant-embed --tie 0"};
    uint64_t number = steps, h = hash_bytes(HASH_START, &number, sizeof number);     // of a step less another one
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char *flags = xprintf("%s --quant %s --quant-act int8", models[i], quant_name(format));
        Config c = configure(flags);
        Model *m = model_new(&c, false);
        h = hash_of_decoding(m, h);
        model_free(m), free(flags);
    }
    return h;
}

// Without names, all kinds.
static bool is_wanted(const char *kind, char **names, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], kind) == 0) return true;
    return count <= 0;
}

int main(int argc, char **argv) {
    size_t steps = argc > 1 ? strtoul(argv[1], NULL, 10) : 20, micro = argc > 2 ? strtoul(argv[2], NULL, 10) : BATCH;
    size_t resume_at = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (!steps || !micro || micro > BATCH)
        usage_error("digest [STEPS [MICRO-BATCH [RESUME-AT]]] wants at least 1 step and a micro-batch of 1 to %d",
                    BATCH);
    check_coverage();
    if (fma_fault()) fail("%s", fma_fault());
    fprintf(stderr, "%s, %d threads, %zu steps, micro-batches of %zu\n", simd_name(), omp_get_max_threads(), steps,
            micro);
    for (size_t k = 0; k < KINDS; k++) {
        if (!is_wanted(kinds[k].name, argv + 4, argc - 4)) continue;
        Training t = {.c = configure(kinds[k].flags), .hash = HASH_START};
        begin(&t);
        for (size_t step = 0; step < steps; step++) {
            if (step && step == resume_at) die_and_resume(&t, step);
            train_step(&t, step, micro);
        }
        uint64_t h = hash_bytes(t.hash, model_values(t.m), t.numbers * sizeof(real));
        h = hash_bytes(hash_bytes(h, t.o.mean, t.numbers * sizeof(real)), t.o.square, t.numbers * sizeof(real));
        h = hash_of_decoding(t.m, h);
        printf("%-10s %016llx loss %.6f\n", kinds[k].name, (unsigned long long)h, t.loss);
        end(&t);
    }
    if (argc <= 4)
        printf("%-10s %016llx %016llx\n", "distill", (unsigned long long)hash_of_distilling(DISTILL_KL, steps),
               (unsigned long long)hash_of_distilling(DISTILL_TV, steps));
    for (int f = 0; f < QUANT_FORMAT_COUNT && is_wanted("quant", argv + 4, argc - 4); f++)
        printf("%-10s %016llx %016llx\n", quant_name((QuantFormat)f),
               (unsigned long long)hash_of_quantised((QuantFormat)f, steps),
               (unsigned long long)hash_of_packed((QuantFormat)f, steps));
    return 0;
}

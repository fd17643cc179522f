// test_step.c: a step over rows of any lengths, whose keys and values lie in blocks. The twin is the same text alone:
// its logits must be the same bits however it was cut, whoever shared its steps, and wherever its blocks stand.
#include "tests/config.h"
#include "tests/test.h"
#include "lib/rng.h"
#include "model.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 23, TEXTS = 4, LONGEST = 150, BLOCKS = 700 };

typedef struct { int token[LONGEST]; size_t n, done; uint32_t block[LONGEST]; real *expected; } Text;

static Model *open_model(const char *flags) {
    Config c = config_of("--width 32 --heads 4 --layers 2 --context 160 --ffn-width 40 --init-scale 10", flags, VOCAB);
    return model_new(&c, false);
}

static void random_text(Text *t, Rng *r) {
    t->n = 1 + rng_below(r, LONGEST), t->done = 0;
    for (size_t i = 0; i < t->n; i++) t->token[i] = (int)rng_below(r, VOCAB);
    t->expected = xmalloc(t->n * VOCAB * sizeof(real));
}

// Every block has one owner, in an order of its own.
static void deal_blocks(Text *text, size_t size, Rng *r) {
    uint32_t all[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) all[i] = i;
    for (size_t i = BLOCKS; i-- > 1;) {
        size_t other = rng_below(r, i + 1);
        uint32_t held = all[i];
        all[i] = all[other], all[other] = held;
    }
    size_t next = 0;
    for (size_t t = 0; t < TEXTS; t++)
        for (size_t i = 0; i * size < text[t].n; i++) text[t].block[i] = all[next++];
}

static Row row_of(const Text *t, size_t n, size_t from) {
    return (Row){.tokens = t->token + t->done, .n = n, .past = t->done, .block = t->block, .logits_from = from};
}

static void check_logits(const char *flags, const Text *t, size_t from, size_t n, const real *found) {
    const real *expected = t->expected + from * VOCAB;
    size_t i = 0;
    while (i < n * VOCAB && memcmp(&found[i], &expected[i], sizeof *found) == 0) i++;
    CHECK(i == n * VOCAB, "%s: token %zu of %zu: %.9g in a step with others, %.9g alone", flags, from + i / VOCAB, t->n,
          (double)found[i < n * VOCAB ? i : 0], (double)expected[i < n * VOCAB ? i : 0]);
}

// A block that is copied, or saved and loaded, goes on at its new place; the old one is spoilt.
static void move_a_block(Model *m, Blocks *s, Text *t, uint32_t spare, bool through_memory, size_t size) {
    if (!t->done) return;
    size_t i = (t->done - 1) / size;
    void *held = xmalloc(blocks_bytes(m, s) + 1), *junk = xmalloc(blocks_bytes(m, s) + 1);
    memset(junk, 0x7f, blocks_bytes(m, s));
    if (through_memory) blocks_save(m, s, t->block[i], held), blocks_load(m, s, held, spare);
    else blocks_copy(m, s, t->block[i], spare);
    blocks_load(m, s, junk, t->block[i]);
    t->block[i] = spare;
    free(held), free(junk);
}

// One random schedule: in every step some of the texts go on by a random number of tokens.
static void check_schedule(const char *flags, Model *m, Text *text, size_t size, bool snapshots, Rng *r) {
    Blocks *s = blocks_new(m, BLOCKS + 64, size);
    s->snapshots = snapshots;
    uint32_t spare = BLOCKS;
    deal_blocks(text, size, r);
    for (size_t left = TEXTS; left;) {
        Row row[TEXTS];
        size_t owner[TEXTS], rows = 0;
        real logits[TEXTS * LONGEST * VOCAB], *at = logits;
        for (size_t t = 0; t < TEXTS; t++) {
            if (text[t].done == text[t].n || rng_below(r, 3) == 0) continue;
            size_t most = text[t].n - text[t].done, few = most < 9 ? most : 9, n = 1;
            if (rng_below(r, 2)) n = 1 + rng_below(r, rng_below(r, 2) ? few : most);
            if (spare < BLOCKS + 64 && rng_below(r, 4) == 0)
                move_a_block(m, s, &text[t], spare++, rng_below(r, 2), size);
            owner[rows] = t, row[rows++] = row_of(&text[t], n, rng_below(r, n));
        }
        if (!rows) continue;
        model_step(m, s, row, rows, logits);
        for (size_t i = 0; i < rows; i++) {
            size_t wanted = row[i].n - row[i].logits_from;
            check_logits(flags, &text[owner[i]], row[i].past + row[i].logits_from, wanted, at);
            at += wanted * VOCAB, text[owner[i]].done += row[i].n;
            left -= text[owner[i]].done == text[owner[i]].n;
        }
    }
    blocks_free(s);
}

// Alone: the forward without a cache; of mla, which that expands, the forward with one, as ./generate has it.
static void alone(Model *m, Text *t, bool absorbed) {
    Cache *cache = absorbed ? cache_new(m, 1, t->n) : NULL;
    model_infer(m, cache, t->token, t->n, true, t->expected);
    cache_free(cache);
}

static void check_steps(const char *flags, bool absorbed) {
    static const size_t sizes[] = {1, 7, 16, 24, 64};
    static size_t turn = 0;
    Model *m = open_model(flags);
    Rng r = rng_stream(5, RNG_TEST, turn);
    Text text[TEXTS];
    for (size_t t = 0; t < TEXTS; t++) random_text(&text[t], &r), alone(m, &text[t], absorbed);
    int threads = omp_get_max_threads();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        omp_set_num_threads(1 + (int)turn++ % 3);
        for (size_t t = 0; t < TEXTS; t++) text[t].done = 0;
        check_schedule(flags, m, text, sizes[i], turn % 2, &r);
    }
    omp_set_num_threads(threads);
    for (size_t t = 0; t < TEXTS; t++) free(text[t].expected);
    model_free(m);
}

static void test_softmax(void) {
    static const char *const flags[] = {
        "", "--attn gqa --kv-heads 2 --tile 32", "--attn gqa --kv-heads 1 --qk-norm head", "--attn swa --window 9",
        "--attn swa+mha --window 20", "--pos learned", "--pos alibi", "--rope-dim 4", "--attn-gate 1",
        "--rope-layers rope+none",
        "--attn-kernel naive", "--norm post", "--norm-kind layer --bias 1", "--tie 1 --ffn gelu"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_steps(flags[i], false);
}
static void test_mla(void) {
    check_steps("--attn mla", true), check_steps("--attn mla --q-rank 12 --kv-rank 20 --rope-dim 4", true);
}
static void test_linear(void) {
    static const char *const flags[] = {"--attn linear", "--attn gla", "--attn delta", "--attn gated-delta",
                                        "--attn mamba2", "--attn gla+mha", "--attn delta --short-conv 0"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_steps(flags[i], false);
}
static void test_experts(void) {
    static const char *const flags[] = {
        "--experts 4", "--experts 4 --router bias --gate sigmoid", "--experts 4 --router hash --shared-experts 1",
        "--experts 4 --router threshold", "--experts 4 --router relu",
        "--attn gqa+gla --experts 4 --moe-layers dense+moe"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_steps(flags[i], false);
}

// Integer products: rows of numbers are rounded one by one, so that again nothing depends on the others.
static void test_integers(void) {
    static const char *const flags[] = {
        "--quant q8_0", "--quant q4_0 --quant-embed --pos learned --bias", "--quant int8 --attn swa --window 9",
        "--quant int4-asym --attn gqa --kv-heads 2 --attn-gate 1", "--quant nvfp4 --attn gated-delta",
        "--quant mxfp4 --attn gla+mha --quant-embed --tie 0", "--quant int2 --attn linear", "--quant ternary",
        "--quant int3 --experts 4 --router bias --gate sigmoid --shared-experts 1", "--quant nvfp4 --experts 4"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        check_steps(xprintf("%s --quant-act int8", flags[i]), false);
    check_steps("--attn mla --quant q4_0 --quant-act int8", true);
    check_steps("--attn mla+mha --q-rank 12 --kv-rank 20 --rope-dim 4 --quant nvfp4 --quant-act int8", true);
}

static const Test tests[] = {
    {"step/integers", "the same with packed weights and numbers rounded to int8", test_integers},
    {"step/softmax", "rows of any length over blocks get the bits of each text alone", test_softmax},
    {"step/mla", "the same through the latent, which is read in every step", test_mla},
    {"step/linear", "the same with recurrent states", test_linear},
    {"step/experts", "the same with experts", test_experts},
};
REGISTER_TESTS(tests)

// test_packed.c: a model that computes in integers: every product of it against the plain definition, by the names of
// its tensors; what it holds; and the programs.
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "lib/rng.h"
#include "model.h"
#include "model/packed.h"
#include "model/pieces.h"
#include "model/rounding.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 23, ROWS = 5 };

static Model *open_model(const char *flags) {
    Config c = config_of("--width 48 --heads 4 --layers 2 --context 64 --ffn-width 72 --init-scale 10", flags, VOCAB);
    return model_new(&c, false);
}
static void step(Model *m) {
    real *logits = xmalloc(m->c.vocab * sizeof *logits);
    Cache *cache = cache_new(m, 1, 1);
    model_infer(m, cache, &(int){1}, 1, false, logits);
    cache_free(cache), free(logits);
}
static void random_numbers(real *x, size_t n) {
    Rng r = rng_stream(3, RNG_TEST, 9);
    for (size_t i = 0; i < n; i++) x[i] = (real)rng_normal(&r);
}

// ---- products ------------------------------------------------------------------------------------
static bool is_exact(const char *name) {
    static const char *const exact[] = {".router.", ".beta.", ".decay", ".kv_b."};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (strstr(name, exact[i])) return true;
    return false;
}

// Rows of one tensor, or of one expert's: y [M, N], row stride ldy.
static void expect(real *y, size_t ldy, const Model *m, const Param *p, const real *w, const real *x, size_t M,
                   const real *bias, bool in_integers) {
    size_t N = p->shape[p->rank - 2], K = p->shape[p->rank - 1];
    Quant format = rounding_format(&m->c);
    if (!in_integers) {
        real *rounded = xmalloc(N * K * sizeof *rounded);
        memcpy(rounded, w, N * K * sizeof *w);
        if (strstr(p->name, ".kv_b.")) quant_round(format, rounded, rounded, N, K);
        products_naive(&(Product){.c = y, .ldc = ldy, .a = x, .a_row = K, .a_col = 1, .b = rounded, .b_row = 1,
                                  .b_col = K, .bias = bias, .M = M, .N = N, .K = K}, 1);
        free(rounded);
        return;
    }
    unsigned char *rows = xmalloc(N * quant_row_bytes(format.format, K));
    float scale = quant_tensor_scale(format.format, w, N * K);
    quant_encode_rows(format, rows, scale, w, N, K);
    quant_product_naive(y, ldy, x, K, M, rows, format.format, scale, N, K, bias);
    free(rows);
}

// All tensors of the matrix l, as they stood before the floats went.
static size_t check_linear(const char *flags, const Model *m, const real *values, const Linear *l) {
    size_t integers = 0, rows = ROWS * l->count, at = 0;
    real *x = xmalloc(rows * l->K * sizeof *x), *y = xmalloc(rows * l->N * sizeof *y);
    real *e = xmalloc(rows * l->N * sizeof *e);
    const real *bias = l->bias == NOWHERE ? NULL : m->values + l->bias;
    random_numbers(x, rows * l->K);
    size_t start[FEW_EXPERTS + 1];
    for (size_t i = 0; i <= l->count; i++) start[i] = i * ROWS + (i == 1 && l->count > 1);      // uneven
    Routing r = {.start = start, .copies = rows};
    if (l->count == 1) apply(m, y, l, x, rows);
    else apply_experts(m, y, l->N, l, x, l->K, &r);
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        if (p->rank < 2 || p->offset < l->weight || p->offset >= l->weight + l->count * l->N * l->K) continue;
        bool whole = p->layer >= 0 || m->c.quant_embed, in_integers = whole && !is_exact(p->name);
        for (size_t k = 0; k < l->count; k++)
            expect(e + start[k] * l->N + at, l->N, m, p, values + p->offset + k * l->N * l->K,
                   x + start[k] * l->K, start[k + 1] - start[k], bias ? bias + at : NULL, in_integers);
        at += p->shape[p->rank - 2], integers += in_integers;
    }
    size_t same = 0;
    while (same < rows * l->N && !memcmp(&y[same], &e[same], sizeof *y)) same++;
    CHECK(at == l->N && same == rows * l->N, "%s: matrix at %zu [%zu,%zu]: number %zu of a row is %.9g, not %.9g",
          flags, l->weight, l->N, l->K, same % l->N, (double)y[same < rows * l->N ? same : 0],
          (double)e[same < rows * l->N ? same : 0]);
    free(x), free(y), free(e);
    return integers;
}

static void test_products(void) {
    static const char *const models[] = {
        "--attn mha --bias --quant-embed", "--attn mla --q-rank 24 --kv-rank 32 --tie 0 --quant-embed",
        "--attn gated-delta+gla --attn-bias qkv --quant-search", "--attn mamba2+delta --quant-embed",
        "--attn gqa --kv-heads 2 --experts 4 --top-k 2 --expert-width 40 --shared-experts 1 --attn-gate 1"};
    for (int f = 0; f < QUANT_FORMAT_COUNT; f++)
        for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
            bool search = strstr(models[i], "-search") && f != QUANT_int8;
            char *flags = xprintf("%s --quant %s --quant-act int8", search || !strstr(models[i], "-search")
                                  ? models[i] : "--attn gated-delta+gla", quant_name((QuantFormat)f));
            Model *m = open_model(flags);
            real *values = xmalloc(model_numbers(m) * sizeof *values);
            random_numbers(m->master, 100);                      // not all of one size
            memcpy(values, model_values(m), model_numbers(m) * sizeof *values);
            step(m);
            size_t integers = 0;
            for (size_t k = 0; k < m->pack_count; k++) integers += check_linear(flags, m, values, &m->packs[k]);
            CHECK(integers > 6, "%s: %zu tensors in integers", flags, integers);
            free(values), model_free(m);
        }
}

// ---- what is held --------------------------------------------------------------------------------
static void ask_for_values(void *m) { model_values(m); }

static void test_memory(void) {
    Config c = config_of("--width 256 --heads 4 --layers 2 --context 32", "--quant q4_0 --quant-act int8 --quant-embed",
                         300);
    Model *m = model_new(&c, false);
    ModelSize size = model_size(&c);
    step(m);
    size_t kept = 0, gone = 0;
    for (size_t i = 0; i < m->count; i++)
        for (size_t k = 0; k < m->params[i].size; k++) {
            bool zero = m->master[m->params[i].offset + k] == 0;
            if (m->params[i].rank > 1) gone += zero;
            else kept += !zero;
        }
    CHECK(gone > size.rounded * 9 / 10, "%zu of %zu floats have been given back", gone, size.rounded);
    CHECK(kept == size.parameters - size.rounded, "%zu of %zu others are left", kept, size.parameters - size.rounded);
    CHECK(test_fails(1, "held in few bits", ask_for_values, m), "%s", test_message);
    CHECK(m->integers.arena.size < size.integer_bytes + 64 && size.integer_bytes < size.rounded * 2 / 3 &&
              size.packed_bytes < size.integer_bytes && !m->rounded_arena.size && !m->packed_arena.size,
          "%zu bytes, %zu in the table", m->integers.arena.size, size.integer_bytes);
    model_free(m);
}

// ---- programs ------------------------------------------------------------------------------------
#define RUN "--data stories --layers 1 --width 32 --heads 2 --context 32 --batch 4 --warmup 1 --steps 30 --lr 1e-2 " \
            "--eval-tokens 96 --sample-tokens 0 --out run "
static Result generate(const char *arguments) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/generate' --run run --tokens 40 %s", (int)(strrchr(beside, '/') - beside), beside,
                         arguments));
}

static void test_command(void) {
    CHECK(train(RUN).status == 0, "no run");
    Result integers = generate("--quant q8_0 --quant-act int8 --quant-embed"), floats = generate("--quant q8_0");
    CHECK(integers.status == 0 && floats.status == 0, "%s%s", integers.error, floats.error);
    CHECK(strstr(integers.error, "rounded to int8") && !strstr(floats.error, "int8"), "%s%s", integers.error,
          floats.error);
    Result again = generate("--quant q8_0 --quant-act int8 --quant-embed --threads 1 --draft lookup");
    Result side = generate("--quant q8_0 --quant-act int8 --quant-embed --samples 3");
    CHECK(!strcmp(again.out, integers.out), "with guesses: %s, without: %s", again.out, integers.out);
    CHECK(strstr(side.out, xprintf("%.*s", (int)strlen(integers.out) - 1, integers.out)), "%s is not in %s",
          integers.out, side.out);
    Result other = generate("--quant ternary --quant-act int8 --tokens 900");
    Result rounded = generate("--quant ternary --tokens 900");
    CHECK(other.status == 0 && strcmp(other.out, rounded.out), "nothing is rounded: %s", other.out);
    Result drawn = generate("--quant int4 --quant-act int8 --picture map.png");
    CHECK(drawn.status == 0, "%s", drawn.error);
    Result refused = generate("--quant-act int8");
    CHECK(refused.status == 2 && strstr(refused.error, "--quant"), "%d: %s", refused.status, refused.error);
}

static const Test tests[] = {
    {"packed/products", "every product of a model in integers is the plain definition's, bit for bit", test_products},
    {"packed/memory", "what is packed is held once, in its few bits, and the floats are given back", test_memory},
    {"packed/command", "./generate --quant-act: the same text with guesses and beside others; what is refused",
     test_command},
};
REGISTER_TESTS(tests)

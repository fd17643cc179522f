// test_rounding.c: weights rounded to a number format: a model with --quant computes what one of the rounded weights
// does, bit for bit, backward too; a run saves what it computed with; ./train and ./generate take the flags.
#include "tests/config.h"
#include "tests/program.h"
#include "formats/safetensors.h"
#include "lib/rng.h"
#include "model.h"
#include "model/optimizer.h"
#include "model/rounding.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V = 50, B = 2, T = 12 };

static const char *const formats[] = {
    "--quant int8", "--quant q8_0", "--quant q4_0", "--quant int4 --quant-search", "--quant int4-full",
    "--quant int4-asym", "--quant int3", "--quant int2 --quant-search", "--quant ternary --quant-embed",
    "--quant mxfp4", "--quant mxfp4 --mx-scale even", "--quant mxfp4 --mx-scale rceil --quant-embed --tie 0",
    "--quant nvfp4 --quant-embed",
};
enum { FORMATS = sizeof formats / sizeof *formats };

static double pass(Model *m) {
    int tokens[B * T], targets[B * T];
    double row[B];
    Rng r = rng_stream(2, RNG_TEST, 4);
    for (int i = 0; i < B * T; i++) tokens[i] = (int)rng_below(&r, V), targets[i] = (int)rng_below(&r, V);
    model_zero_gradients(m);
    model_forward_backward(m, tokens, targets, B, T, 1.0 / (B * T), 1.0 / B, row);
    model_finish_gradients(m);
    return row[0] + row[1];
}

static bool same_numbers(const real *a, const real *b, size_t n) { return !memcmp(a, b, n * sizeof *a); }

// The twin: a model without --quant whose weights are what quant_round makes of each matrix by name.
static void twin(void) {
    static const char *const models[] = {
        "--attn mha --bias 1 --pos learned", "--attn mla --experts 4 --top-k 2 --expert-width 24 --shared-experts 1",
        "--attn gla+gated-delta --router bias --experts 4 --top-k 2 --expert-width 40",
    };
    for (size_t i = 0; i < FORMATS; i++) {
        const char *base = "--width 40 --heads 4 --layers 2 --context 16 --ffn-width 56 --init-scale 4 --batch 2";
        const char *model = models[i % 3];
        Config c = config_of(base, xprintf("%s %s", model, formats[i]), V);
        Config plain = config_of(base, xprintf("%s %s", model, strstr(formats[i], "--tie 0") ? "--tie 0" : ""), V);
        Model *m = model_new(&c, true), *t = model_new(&plain, true);
        const Param *p;
        size_t rounded = 0, params = model_params(m, &p);
        for (size_t k = 0; k < params; k++) {
            const char *name = p[k].name;
            bool gate = strstr(name, ".router.") || strstr(name, "conv") || strstr(name, "decay") ||
                        strstr(name, "beta") || !strcmp(name, "pos.weight");
            bool ends = !strcmp(name, "embed.weight") || !strcmp(name, "head.weight");
            if (p[k].rank < 2 || gate || (ends && !c.quant_embed)) continue;
            size_t columns = p[k].shape[p[k].rank - 1], matrices = p[k].rank == 3 ? p[k].shape[0] : 1;
            for (size_t e = 0; e < matrices; e++) {
                real *x = model_values(t) + p[k].offset + e * p[k].size / matrices;
                quant_round(rounding_format(&c), x, x, p[k].size / matrices / columns, columns);
            }
            rounded += p[k].size;
        }
        model_changed(t);
        double loss = pass(m), expected = pass(t);
        CHECK(loss == expected, "%s: loss %.17g, of rounded weights %.17g", formats[i], loss, expected);
        CHECK(same_numbers(model_gradients(m), model_gradients(t), model_numbers(m)), "%s: other gradients",
              formats[i]);
        CHECK(same_numbers(model_rounded_values(m), model_values(t), model_numbers(m)), "%s: other weights",
              formats[i]);
        CHECK(!same_numbers(model_values(m), model_values(t), model_numbers(m)), "%s: nothing was rounded", formats[i]);
        ModelSize size = model_size(&c);
        CHECK(size.rounded == rounded && size.rounded_bytes == model_numbers(m) * sizeof(real), "%s: %zu, not %zu",
              formats[i], size.rounded, rounded);
        model_free(m), model_free(t);
    }
}

// The optimizer moves the exact weights by the gradients of the rounded ones; before --qat-start they are the same.
static void master(void) {
    const char *base = "--width 32 --heads 2 --layers 1 --context 16 --steps 8 --batch 2 --warmup 0 --lr 0.01";
    Config c = config_of(base, "--quant int2 --qat-start 0.5", V), plain = config_of(base, "", V);
    Model *m = model_new(&c, true), *t = model_new(&plain, true);
    Optimizer a = optimizer_new(m), b = optimizer_new(t);
    for (size_t step = 0; step < 8; step++) {
        model_changed_after(m, step), model_changed_after(t, step);
        double loss = pass(m), exact = pass(t);
        CHECK((loss == exact) == (step < 4), "step %zu: %.17g, exact %.17g", step, loss, exact);
        optimizer_step(&a, m, optimizer_norm(&a, m), step), optimizer_step(&b, t, optimizer_norm(&b, t), step);
        if (step < 3)
            CHECK(same_numbers(model_values(m), model_values(t), model_numbers(m)), "step %zu: other weights", step);
    }
    real *kept = xmalloc(model_numbers(m) * sizeof *kept);
    memcpy(kept, model_values(m), model_numbers(m) * sizeof *kept);
    model_changed_after(m, 8);
    CHECK(!same_numbers(model_rounded_values(m), kept, model_numbers(m)), "not rounded at the end");
    CHECK(same_numbers(model_values(m), kept, model_numbers(m)), "rounding moved the exact weights");
    free(kept);
    model_free(m), model_free(t), optimizer_free(&a), optimizer_free(&b);
}

// ---- programs ------------------------------------------------------------------------------------
#define TINY "--data stories --layers 1 --width 32 --heads 2 --context 32 --batch 4 --warmup 1 --schedule constant " \
             "--lr 1e-2 --eval-every 2 --eval-tokens 96 --sample-tokens 0 "

static const char *digest_of(Result r) {
    const char *at = strstr(r.out, "receipt: digest ");
    CHECK(r.status == 0 && at, "%d: %s%s", r.status, r.out, r.error);
    return at ? xprintf("%.16s", at + 16) : "none";
}
static const char *loss_of(Result r) {
    const char *at = strstr(r.out, ", loss ");
    return at ? xprintf("%.6s", at + 7) : "none";
}
// Behind the last such name in a file.
static double number_in(const char *file, const char *name) {
    const char *text = read_whole_file(test_path(file), NULL), *at = NULL;
    for (const char *next = text; (next = strstr(next, name)) != NULL;) at = next += strlen(name);
    return at ? strtod(at, NULL) : NAN;
}
static void refused(const char *flags, const char *word) {
    Result r = train(flags);
    CHECK(r.status == 2 && strstr(r.error, word) && count_lines(r.error) == 1, "%s: %d: %s", flags, r.status, r.error);
}
static Result generate(const char *arguments) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/generate' %s", (int)(strrchr(beside, '/') - beside), beside, arguments));
}

// Every tensor of a file against another one: rounded by its format, or as it is.
static void compare_files(const char *exact, const char *saved) {
    SafeTensors *state = safetensors_open(test_path(exact)), *model = safetensors_open(test_path(saved));
    size_t found = 0, differ = 0;
    for (size_t i = 0; i < model->count; i++)
        for (size_t j = 0; j < state->count; j++) {
            const TensorIn *a = &model->tensor[i], *b = &state->tensor[j];
            if (!strstr(b->name, "layers.0.ffn.down.weight") || !strstr(a->name, "mlp.down_proj.weight") ||
                b->name[0] != 'l')
                continue;
            size_t columns = a->shape[1], n = a->shape[0] * columns;
            real *x = xmalloc(n * sizeof *x), *y = xmalloc(n * sizeof *y);
            safetensors_copy(state, b, x), safetensors_copy(model, a, y);
            quant_round((Quant){.format = QUANT_nvfp4}, x, x, a->shape[0], columns);
            for (size_t k = 0; k < n; k++) differ += x[k] != y[k];
            found++;
            free(x), free(y);
        }
    CHECK(found == 1 && !differ, "%zu tensors, %zu numbers differ", found, differ);
    safetensors_close(state), safetensors_close(model);
}

static void command(void) {
    const char *none = digest_of(train(TINY "--steps 8 --out none"));
    for (int i = 0; i < 2; i++) {
        const char *flags = i ? "--quant nvfp4" : "--quant int2 --qat-start 0.5 --quant-search --quant-embed";
        const char *once = digest_of(train(xprintf(TINY "--steps 8 --out once-%d %s", i, flags)));
        const char *pieces = digest_of(train(xprintf(TINY "--steps 8 --out pieces-%d --micro-batch 3 --threads 3 %s",
                                                     i, flags)));
        CHECK(strcmp(once, none) && !strcmp(once, pieces), "%s: %s, in pieces %s", flags, once, pieces);
        Result verified = train(xprintf("--verify once-%d", i));
        CHECK(verified.status == 0, "%s: %s%s", flags, verified.out, verified.error);
    }
    Result further = train(TINY "--steps 16 --out once-0 --quant int2 --qat-start 0.5 --quant-search --quant-embed");
    CHECK(further.status == 1 && count_lines(further.error) == 1, "it would have begun to round later: %d: %s",
          further.status, further.error);
    const char *longer = digest_of(train(TINY "--steps 12 --out once-1 --quant nvfp4"));
    CHECK(!strcmp(longer, digest_of(train(TINY "--steps 12 --out afresh --quant nvfp4"))), "gone on: %s", longer);
    compare_files("once-1/state.safetensors", "once-1/model.safetensors");
    // Rounded after training: the same steps, and only the last loss is another; it is what ./generate computes with.
    Result after = train(TINY "--steps 8 --out after --quant int2 --qat-start 1");
    CHECK(strcmp(digest_of(after), none) && strcmp(loss_of(after), "none"), "%s", after.out);
    // What rounding costs is the difference of two losses of the same weights.
    double exact = number_in("none/log.jsonl", "\"val_loss\":");
    double rounded = number_in("after/log.jsonl", "\"val_loss\":");
    double said = number_in("after/log.jsonl", "\"val_loss_exact\":");
    CHECK(said == exact && rounded != exact, "%.17g exact, %.17g of a run without; rounded %.17g", said, exact,
          rounded);
    Result one = generate("--run after --tokens 30"), two = generate("--run none --tokens 30 --quant int2");
    Result plain = generate("--run none --tokens 30");
    CHECK(one.status == 0 && !strcmp(one.out, two.out), "%s%s, not %s%s", one.out, one.error, two.out, two.error);
    CHECK(strcmp(two.out, plain.out) && strstr(two.error, "are rounded to int2") && !strstr(plain.error, "rounded"),
          "%s, %s", two.out, two.error);
    static const char again[] = "trained with --quant nvfp4: its weights are rounded";
    Result twice = generate("--run once-1 --tokens 3 --quant ternary"), as_it_is = generate("--run once-1 --tokens 3");
    CHECK(strstr(twice.error, again) && !strstr(as_it_is.error, again) && !strstr(two.error, "again"), "%s%s",
          twice.error, as_it_is.error);
    Result loaded = train(TINY "--steps 1 --out loaded --load once-1 --quant int2");
    CHECK(loaded.status == 0 && strstr(loaded.error, again), "%s%s", loaded.out, loaded.error);
    refused(TINY "--mx-scale even --out x", "--quant"), refused(TINY "--qat-start 0.5 --out x", "--quant");
    refused(TINY "--quant q4 --out x", "q4"), refused(TINY "--quant int2 --mx-scale even --out x", "mxfp4");
}

static const Test tests[] = {
    {"rounding/twin", "with --quant a model is one of rounded weights, bit for bit, backward too", twin},
    {"rounding/master", "the optimizer moves exact weights; from --qat-start on the model sees rounded ones", master},
    {"rounding/command", "./train --quant: in pieces, verified, saved as computed; ./generate --quant", command},
};
REGISTER_TESTS(tests)

// test_rounding.c: weights rounded to a number format: a model with --quant computes what one of the rounded weights
// does, bit for bit, backward too; a run saves what it computed with; ./train and ./generate take the flags.
#include "tests/config.h"
#include "tests/program.h"
#include "formats/gguf_model.h"
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
    Result alike = generate("--run once-1 --tokens 3 --quant nvfp4");
    CHECK(strstr(twice.error, again) && !strstr(as_it_is.error, again) && !strstr(two.error, "again") &&
          !strstr(alike.error, again) && !strcmp(alike.out, as_it_is.out), "%s%s%s", twice.error, as_it_is.error,
          alike.error);
    Result loaded = train(TINY "--steps 1 --out loaded --load once-1 --quant int2");
    CHECK(loaded.status == 0 && strstr(loaded.error, again), "%s%s", loaded.out, loaded.error);
    // A weight that the format does not hold is a divergence, as an infinite loss is, and no fault of a file.
    Result wild = train(TINY "--steps 30 --lr 1000 --warmup 0 --norm peri --qk-norm head --quant q4_0 --out wild");
    CHECK(wild.status == 1 && strstr(wild.error, "diverged after step"), "%d: %s", wild.status, wild.error);
    refused(TINY "--mx-scale even --out x", "--quant"), refused(TINY "--qat-start 0.5 --out x", "--quant");
    refused(TINY "--quant q4 --out x", "q4"), refused(TINY "--quant int2 --mx-scale even --out x", "mxfp4");
}

// ---- what is trained is what ships ---------------------------------------------------------------

// As a run leaves it: rounded weights under their names, exact ones under ours.
static void save_run(Model *m, const char *dir) {
    const Param *p;
    size_t params = model_params(m, &p);
    TensorOut *out = xmalloc(params * sizeof *out);
    for (size_t i = 0; i < params; i++) {
        out[i] = (TensorOut){.rank = p[i].rank, .data = model_values(m) + p[i].offset};
        strcpy(out[i].name, p[i].name), memcpy(out[i].shape, p[i].shape, sizeof p[i].shape);
    }
    make_directories(test_path(dir));
    hf_save(m, test_path(dir));
    safetensors_write(test_path(xprintf("%s/state.safetensors", dir)), out, params, NULL, 0);
    free(out);
}

static Model *loaded(const char *dir, const char *base, const char *flags) {
    Config c = config_of(base, flags, V);
    Model *m = model_new(&c, false);
    hf_load(m, test_path(dir));
    return m;
}

// Matrices of a GGUF, of which llama.cpp has each under its name: what their blocks mean is what was computed with.
static void compare_packed(Model *m, QuantFormat format, const char *path) {
    const char *const ours[] = {"layers.0.ffn.down.weight", "layers.1.attn.v.weight", "layers.1.ffn.up.weight",
                                "embed.weight"};
    const char *const theirs[] = {"blk.0.ffn_down.weight", "blk.1.attn_v.weight", "blk.1.ffn_up.weight",
                                  "token_embd.weight"};
    Gguf *g = gguf_open(test_path(path));
    for (size_t i = 0; i < 4; i++) {
        const Param *p = model_find(m, ours[i]);
        const GgufTensor *t = gguf_tensor(g, theirs[i]);
        const GgufTensor *scale = gguf_tensor(g, xprintf("%.*sscale", (int)strlen(theirs[i]) - 6, theirs[i]));
        bool packed = t->type->block > 1, expected = i < 3 || (model_config(m)->quant_embed && format != QUANT_nvfp4);
        real by = 1, *x = xmalloc(p->size * sizeof *x);
        if (scale) gguf_copy(scale, &by, 0, 1, 1);
        gguf_copy(t, x, 0, p->size, (float)by);
        CHECK(packed == expected, "%s in %s", theirs[i], t->type->name);
        CHECK(same_numbers(x, model_rounded_values(m) + p->offset, p->size), "%s of %s", theirs[i], path);
        free(x);
    }
    gguf_close(g);
}

static void ships(void) {
    const char *base = "--width 64 --heads 4 --layers 2 --context 16 --ffn-width 128 --init-scale 4 --batch 2";
    for (size_t i = 0; i < FORMATS; i++) {
        const char *dir = xprintf("run-%zu", i), *flags = strstr(formats[i], "nvfp4") ? formats[i] :
            xprintf("%s %s", formats[i], i % 3 == 1 ? "--save-dtype bf16 --quant-search" : "");
        if (strstr(flags, "int8 --save")) flags = formats[i];
        Config c = config_of(base, flags, V);
        Model *m = model_new(&c, false), *same = (save_run(m, dir), loaded(dir, base, flags));
        CHECK(same_numbers(model_rounded_values(same), model_rounded_values(m), model_numbers(m)),
              "%s: other numbers than in training", flags);
        CHECK(same_numbers(model_values(same), model_values(m), model_numbers(m)), "%s: other exact weights", flags);
        Model *plain = loaded(dir, base, strstr(flags, "--tie 0") ? "--tie 0" : "");
        if (c.save_dtype != SAVE_DTYPE_bf16)
            CHECK(same_numbers(model_values(plain), model_rounded_values(m), model_numbers(m)), "%s: saved", flags);
        const GgufType *type = gguf_type_named(quant_name(rounding_format(&c).format));
        if (type && !gguf_type_obstacle(&c, type)) {
            const char *path = xprintf("%s.gguf", dir);
            GgufHead head = {0};
            gguf_put_text(&head, "tokenizer.ggml.model", "none");
            gguf_save(same, &head, type, (GgufPlan){{c.mx_scale, c.quant_search}, c.quant_embed}, test_path(path));
            compare_packed(same, rounding_format(&c).format, path);
        }
        model_values(m)[0] += 1, model_values(m)[model_numbers(m) / 2] += 1;     // exact weights of another step
        Model *old = loaded(dir, base, flags);
        CHECK(same_numbers(model_rounded_values(old), model_rounded_values(same), model_numbers(m)), "%s: twice",
              flags);
        model_free(old), model_free(plain), model_free(same), model_free(m);
    }
}

// Where the exact weights are missing, of another step, or for another format, what is saved is rounded, and that is
// said; ./quantize takes its flags from the run.
static Result quantize(const char *arguments) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/quantize' %s", (int)(strrchr(beside, '/') - beside), beside, arguments));
}
static void ships_command(void) {
    const char *flags = TINY "--steps 4 --attn gqa --kv-heads 1 --quant int4-full --quant-search --quant-embed ";
    Result r = train(xprintf("%s --out run", flags));
    CHECK(r.status == 0, "%s", r.error);
    Result made = quantize("run int4_full -o a.gguf"), other = quantize("run q4_0 -o b.gguf");
    CHECK(made.status == 0 && !strstr(made.error, "again"), "%s", made.error);
    CHECK(other.status == 0 && strstr(other.error, "again may change them; the exact ones are for its own"), "%s",
          other.error);
    Result text = generate("--run run --tokens 40 --prompt go");
    Result packed = generate("--run a.gguf --tokens 40 --prompt go");
    Result twice = generate("--run a.gguf --tokens 4 --prompt go --quant int4-full");
    Result same = generate("--run a.gguf --tokens 4 --prompt go --quant q4_0");
    CHECK(strstr(twice.error, "a.gguf has matrices in q4_0; --quant int4_full rounds them again"), "%s", twice.error);
    CHECK(same.status == 0 && !strstr(same.error, "again"), "%s", same.error);
    CHECK(text.status == 0 && packed.status == 0 && !strcmp(text.out, packed.out), "'%s', packed '%s' %s", text.out,
          packed.out, packed.error);
    Result unsearched = quantize("run int4_full --quant-search 0 -o c.gguf");
    CHECK(strstr(unsearched.error, "with its flags"), "%s", unsearched.error);
    Result refusal = quantize("run int4_full --mx-scale even -o d.gguf");
    CHECK(refusal.status == 2 && strstr(refusal.error, "mxfp4"), "%s", refusal.error);
    r = train(TINY "--steps 6 --out other --quant int4-full --quant-search --quant-embed --attn gqa --kv-heads 1");
    shell("cp -r run wrong; cp other/state.safetensors wrong; cp -r run none; rm none/state.safetensors");
    shell("rm wrong/run.json none/run.json");
    Result wrong = quantize("wrong int4_full -o e.gguf"), none = quantize("none int4_full -o f.gguf");
    CHECK(wrong.status == 0 && strstr(wrong.error, "another step or run"), "%s", wrong.error);
    CHECK(none.status == 0 && strstr(none.error, "are missing (state.safetensors)"), "%s", none.error);
    Result exact = train(TINY "--steps 1 --out on --load run --quant int4-full --quant-search --quant-embed");
    CHECK(exact.status == 0 && !strstr(exact.error, "again"), "%s", exact.error);
}

static const Test tests[] = {
    {"rounding/twin", "with --quant a model is one of rounded weights, bit for bit, backward too", twin},
    {"rounding/master", "the optimizer moves exact weights; from --qat-start on the model sees rounded ones", master},
    {"rounding/command", "./train --quant: in pieces, verified, saved as computed; ./generate --quant", command},
    {"rounding/ships", "exact weights come back from state.safetensors, and packed they are what was trained", ships},
    {"rounding/ships-command", "./quantize: codes of what was trained; what cannot be is said", ships_command},
};
REGISTER_TESTS(tests)

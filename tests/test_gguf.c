// test_gguf.c: GGUF files: the container, models in it, tokenizers in it. tests/gguf_oracle.py has llama.cpp read them.
#include "data/bytelevel.h"
#include "data/tokenizer.h"
#include "formats/gguf_model.h"
#include "lib/rng.h"
#include "tests/config.h"
#include "tests/test.h"
#include <stdlib.h>

#define SMALL "--layers 2 --width 32 --heads 4 --ffn-width 64 --context 16 "
#define MOE "--experts 4 --top-k 2 --expert-width 32 "
#define MLA "--attn mla --kv-rank 32 --rope-dim 4 --norm-eps 1e-6 "
#define SHARED MLA MOE "--shared-experts 1 --first-dense 1 "
#define GPT2_FLAGS "--pos learned --norm-kind layer --ffn gelu --bias "

static Config resolved(const char *flags) {
    char *all = xprintf(SMALL "%s", flags);
    Config c = config_of(all, "", 11);
    free(all);
    return c;
}

static Model *random_model(const Config *c) {
    Model *m = model_new(c, false);
    const Param *p;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        Rng r = rng_stream(c->seed, RNG_TEST, i);
        for (size_t e = 0; e < p[i].size; e++) model_values(m)[p[i].offset + e] = (real)(float)rng_normal(&r);
    }
    model_changed(m);
    return m;
}

static size_t save(Model *m, const char *type, const char *path) {
    GgufHead head = {0};
    gguf_put_text(&head, "tokenizer.ggml.model", "none");
    return gguf_save(m, &head, gguf_type_named(type), (GgufPlan){.embed = true}, path).odd;
}

static Model *loaded_from(const char *path) {
    Config c;
    flags_defaults(&config_table, &c);
    hf_config(&c, path);
    config_resolve(&c);
    Model *m = model_new(&c, false);
    hf_load(m, path);
    return m;
}

static size_t largest_difference(Model *a, Model *b, const char *what, double *worst) {
    const Param *p, *q;
    size_t n = model_params(a, &p), k = model_params(b, &q), other = 0;
    CHECK(n == k, "%s: %zu tensors, then %zu", what, n, k);
    *worst = 0;
    for (size_t i = 0; i < n && i < k; i++) {
        const real *x = model_values(a) + p[i].offset, *y = model_values(b) + q[i].offset;
        CHECK(strcmp(p[i].name, q[i].name) == 0 && p[i].size == q[i].size, "%s: %s, then %s", what, p[i].name,
              q[i].name);
        for (size_t e = 0; e < p[i].size; e++) {
            other += x[e] != y[e];
            *worst = fmax(*worst, fabs((double)(x[e] - y[e])));
        }
    }
    return other;
}

// ---- models ------------------------------------------------------------------------------------
static const char *const models[] = {
    "", "--attn gqa --kv-heads 2 --tie 0 --rope-theta 123.5 --norm-eps 3e-4", "--bias", "--head-dim 6",
    "--rope-scaling linear --rope-factor 3", "--rope-scaling llama3 --rope-factor 8 --rope-trained 8192",
    "--rope-scaling yarn --rope-factor 4 --rope-trained 5", "--attn-bias qkv --attn gqa --kv-heads 1",
    "--qk-norm head --head-dim 6", MOE, MOE "--qk-norm head --attn gqa --kv-heads 2 --tie 0", GPT2_FLAGS,
    GPT2_FLAGS "--tie 0", MLA, MLA "--q-rank 6 --tie 0", SHARED "--router bias --gate sigmoid --route-scale 2.5",
    SHARED "--router bias --gate sigmoid --route-groups 2 --norm-topk 0", SHARED "--norm-topk 0 --v-dim 12",
    MLA "--rope-scaling yarn --rope-factor 4 --rope-trained 5 --rope-mscale 0.7 --rope-mscale-all-dim 0.7",
};

static void test_models(void) {
    const char *path = test_path("m.gguf");
    double worst;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        Config c = resolved(models[i]), again;
        CHECK(!gguf_obstacle(&c), "%s: %s", models[i], gguf_obstacle(&c));
        Model *m = random_model(&c);
        CHECK(save(m, "f32", path) == 0, "%s: f32 has no blocks", models[i]);
        flags_defaults(&config_table, &again);
        CHECK(!hf_flags(&again, path), "%s: a GGUF is taken for a run", models[i]);
        Model *back = loaded_from(path);
        CHECK(largest_difference(m, back, models[i], &worst) == 0, "%s: off by %g", models[i], worst);
        static const char *const same[] = {"rope_theta", "norm_eps", "rope_factor", "kv_heads", "route_scale", "gate",
                                           "tie", "rope_mscale", "qk_norm", "route_groups", "norm_topk", "top_k"};
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            size_t flag = flags_find(&config_table, same[k]);
            char *was = flags_get(&config_table, model_config(m), flag);
            char *is = flags_get(&config_table, model_config(back), flag);
            CHECK(strcmp(was, is) == 0, "%s: --%s %s, then %s", models[i], same[k], was, is);
        }
        CHECK(hf_trained_context(path) == 16, "%s: a context of %zu", models[i], hf_trained_context(path));
        model_free(m), model_free(back);
    }
}

typedef struct { Model *m; const char *type; } Saving;
static void save_it(void *saving) {
    const Saving *s = saving;
    save(s->m, s->type, test_path("large.gguf"));
}

// What a type does not hold is refused by its tensor's name, and no file is left.
static void test_large(void) {
    static const struct { real x; const char *type; bool fits; } cases[] = {
        {65504, "f16", true}, {65520, "f16", false}, {65520, "bf16", true}, {INFINITY, "bf16", false},
        {NAN, "f32", false}, {1e6f, "q8_0", false}, {1e6f, "mxfp4", true}, {NAN, "nvfp4", false},
    };
    Config c = resolved("");
    Model *m = random_model(&c);
    const Param *p = model_find(m, "layers.0.attn.q.weight");
    CHECK(p, "the tensor has another name");
    for (size_t i = 0; p && i < sizeof cases / sizeof *cases; i++) {
        Saving s = {m, cases[i].type};
        model_values(m)[p->offset + 3] = cases[i].x;
        if (cases[i].fits) save_it(&s);
        else CHECK(test_fails(1, "blk.0.attn_q.weight is", save_it, &s), "%s: %s", s.type, test_message);
        CHECK(file_exists(test_path("large.gguf")) == cases[i].fits, "%g in %s", (double)cases[i].x, s.type);
        remove_file(test_path("large.gguf"));
    }
    model_free(m);
}

// Half floats and blocks round once: within the steps that they have for numbers up to about 5.
static void test_types(void) {
    static const struct { const char *type; double within; size_t odd; } cases[] = {
        {"f16", 0x1p-9, 0}, {"bf16", 0x1p-6, 0}, {"q8_0", 0.03, 0}, {"q4_0", 0.5, 0}, {"int4", 0.5, 0},
        {"int4_full", 0.5, 0}, {"mxfp4", 1.3, 0}, {"nvfp4", 0.7, 13},
    };
    const char *path = test_path("t.gguf");
    Config c = resolved("");
    Model *m = random_model(&c);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double worst;
        size_t odd = save(m, cases[i].type, path);
        Model *back = loaded_from(path);
        CHECK(largest_difference(m, back, cases[i].type, &worst) > 0, "%s: nothing was rounded", cases[i].type);
        CHECK(worst < cases[i].within, "%s: off by %g", cases[i].type, worst);
        CHECK(odd == cases[i].odd, "%s: %zu matrices do not fit", cases[i].type, odd);
        model_free(back);
    }
    model_free(m);
}

static void test_obstacles(void) {
    static const struct { const char *flags, *word; } cases[] = {
        {"--norm post", "--norm pre"}, {"--attn gla", "needs"}, {"--attn swa --window 3", "MistralForCausalLM"},
        {"--attn swa+mha --window 3 --qk-norm head", "without windows"}, {"--norm out --qk-norm full", "not written"},
        {"--rope-scaling dynamic --rope-trained 20", "--rope-scaling"}, {"--rope-scaling ntk", "--rope-scaling"},
        {"--rope-scaling yarn --rope-trained 5 --rope-beta-fast 3", "beta 32"},
        {"--rope-scaling llama3 --rope-trained 8192 --qk-norm head", "--rope-scaling"},
        {"--attn-bias qkv --head-dim 6", "--head-dim"}, {"--qk-norm head --attn-bias all", "--attn-bias none"},
        {"--attn mla --kv-rank 32 --rope-dim 4", "--norm-eps 1e-6"}, {MLA "--layers 27 --q-rank 6", "--q-rank 0"},
        {SHARED "--norm-topk 0 --route-groups 2 --route-group-score max", "--route-groups 0"},
        {MOE "--qk-norm head --norm-topk 0", "--norm-topk 1"},
        {MLA "--rope-scaling yarn --rope-trained 5", "--rope-mscale"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config c = resolved(cases[i].flags);
        const char *obstacle = gguf_obstacle(&c);
        CHECK(obstacle && strstr(obstacle, cases[i].word), "%s: %s", cases[i].flags, obstacle ? obstacle : "none");
    }
    Config c = resolved(GPT2_FLAGS);
    CHECK(gguf_type_obstacle(&c, gguf_type_named("nvfp4")), "gpt2 with scales");
    CHECK(!gguf_type_obstacle(&c, gguf_type_named("mxfp4")), "gpt2 without");
}

// ---- keys ----------------------------------------------------------------------------------------
static void load_it(void *path) { model_free(loaded_from(path)); }

// The bytes of a sound file with one word in the place of another of the same length.
static void *changed_bytes(const char *from, const char *to, size_t n) {
    size_t bytes, found = 0;
    char *text = read_whole_file(test_path("sound.gguf"), &bytes), *path = (char *)test_path("changed.gguf");
    for (size_t i = 0; i + n <= bytes; i++)
        if (memcmp(text + i, from, n) == 0) memcpy(text + i, to, n), found++;
    CHECK(found > 0, "%s is not in the file", from);
    write_whole_file(path, text, bytes);
    free(text);
    return path;
}

static void *changed(const char *from, const char *to) {
    CHECK(strlen(from) == strlen(to), "%s and %s differ in length", from, to);
    return changed_bytes(from, to, strlen(from));
}

static void test_keys(void) {
    static const struct { const char *from, *to, *word; } cases[] = {
        {"general.architecture", "general.architectura", "general.architecture"},
        {"general.type", "general.typf", NULL},
        {"llama.context_length", "llama.context_lengtx", "llama.context_lengtx is not read"},
        {"llama.vocab_size", "llama.vocab_sizf", "llama.vocab_sizf is not read"},
        {"llama.block_count", "qlama.block_count", "qlama.block_count is not read"},
        {"llama.rope.freq_base", "llama.rope.freq_bass", "is not read"},
        {"attention.value_length", "attention.value_lengtx", "is not read"},
        {"token_embd.weight", "tokem_embd.weight", "token_embd.weight"},
        {"blk.1.ffn_up.weight", "blk.1.ffn_ap.weight", "left over"},
        {"llama.embedding_length", "llama.attention.causal", "true or false"},
        {"llama.attention.value_length", "llama.attention.layer_indice", "layer_indice is not read"},
        {"output_norm.weight", "output_norn.weight", "left over"},
    };
    Config c = resolved("");
    Model *m = random_model(&c);
    save(m, "f32", test_path("sound.gguf"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        void *path = changed(cases[i].from, cases[i].to);
        if (!cases[i].word) load_it(path);
        else CHECK(test_fails(1, cases[i].word, load_it, path), "%s: %s", cases[i].to, test_message);
    }
    static const char two[] = "llama.block_count\x04\0\0\0\x02", many[] = "llama.block_count\x04\0\0\0\xff";
    void *path = changed_bytes(two, many, sizeof two - 1);
    CHECK(test_fails(1, "255 layers are claimed", load_it, path), "%s", test_message);
    char rows[] = "llama.vocab_size\x04\0\0\0....", more[sizeof rows];
    uint32_t count = (uint32_t)c.vocab, other = count + 1;
    memcpy(rows + sizeof rows - 5, &count, 4), memcpy(more, rows, sizeof rows);
    memcpy(more + sizeof rows - 5, &other, 4);
    path = changed_bytes(rows, more, sizeof rows - 1);
    char *said = xprintf("llama.vocab_size is %u, but tensor token_embd.weight has %u rows", other, count);
    CHECK(test_fails(1, said, load_it, path), "%s", test_message);
    char eps[] = "layer_norm_rms_epsilon\x06\0\0\0....", none[sizeof eps];
    float x = (float)c.norm_eps, nan = NAN;
    memcpy(eps + sizeof eps - 5, &x, 4), memcpy(none, eps, sizeof eps), memcpy(none + sizeof eps - 5, &nan, 4);
    path = changed_bytes(eps, none, sizeof eps - 1);
    CHECK(test_fails(1, "a finite number", load_it, path), "%s", test_message);
    model_free(m);
}

// ---- the container -------------------------------------------------------------------------------
static void open_it(void *path) { gguf_close(gguf_open(path)); }

static char *sound_file(size_t *bytes) {
    static const real data[64] = {1, 2, 3};
    GgufHead h = {0};
    gguf_put_text(&h, "general.architecture", "llama");
    gguf_put_count(&h, "a.count", 7);
    gguf_put_real(&h, "a.real", 0.5);
    gguf_put_bool(&h, "a.bool", true);
    gguf_begin_array(&h, "a.texts", GGUF_STRING, 2);
    gguf_add_text(&h, "one", 3), gguf_add_text(&h, "", 0);
    gguf_begin_array(&h, "a.ints", GGUF_I32, 3);
    for (int i = 0; i < 3; i++) gguf_add_int(&h, i - 1);
    const GgufTensorOut out[] = {
        {.name = "x", .type = gguf_type_named("f32"), .rank = 1, .shape = {3}, .data = data},
        {.name = "y", .type = gguf_type_named("q8_0"), .rank = 2, .shape = {2, 32}, .data = data},
    };
    gguf_write(test_path("sound.gguf"), &h, out, 2);
    return read_whole_file(test_path("sound.gguf"), bytes);
}

static void test_container(void) {
    size_t bytes;
    real back[64];
    free(sound_file(&bytes));
    CHECK(gguf_is(test_path("sound.gguf")), "a GGUF");
    CHECK(!gguf_is(test_directory()) && !gguf_is(test_path("absent")), "no GGUF");
    Gguf *g = gguf_open(test_path("sound.gguf"));
    const GgufKey *texts = gguf_key(g, "a.texts"), *ints = gguf_key(g, "a.ints");
    CHECK(gguf_number(gguf_key(g, "a.count"), 0) == 7 && gguf_number(gguf_key(g, "a.real"), 0) == 0.5, "numbers");
    CHECK(gguf_number(gguf_key(g, "a.bool"), 0) == 1 && !gguf_key(g, "a"), "a truth value, and an absent key");
    CHECK(texts->count == 2 && texts->text[0].bytes == 3 && !memcmp(texts->text[0].at, "one", 3), "texts");
    CHECK(ints->count == 3 && gguf_number(ints, 0) == -1 && !gguf_is_count(ints), "numbers of an array");
    const GgufTensor *x = gguf_tensor(g, "x"), *y = gguf_tensor(g, "y");
    CHECK(x->rank == 1 && y->rank == 2 && y->shape[0] == 2 && y->shape[1] == 32 && !gguf_tensor(g, "z"), "tensors");
    gguf_copy(x, back, 0, 3, 1);
    CHECK(back[0] == 1 && back[2] == 3, "%g %g", (double)back[0], (double)back[2]);
    gguf_copy(y, back, 32, 32, 1);
    CHECK(back[0] == 0, "the second row is %g", (double)back[0]);
    gguf_close(g);
}

static void test_damage(void) {
    size_t bytes;
    char *text = sound_file(&bytes), *path = (char *)test_path("damaged.gguf");
    for (size_t n = 0; n < bytes; n++) {
        write_whole_file(path, text, n);
        bool refused = test_fails(1, "damaged.gguf", open_it, path);
        CHECK(refused || n + 32 > bytes, "the first %zu of %zu bytes: %s", n, bytes, test_message);   // the padding
    }
    char *more = memcpy(xmalloc(bytes + 40), text, bytes);
    write_whole_file(path, more, bytes + 40);
    CHECK(test_fails(1, "follow the last tensor", open_it, path), "%s", test_message);
    static const struct { size_t at; unsigned char byte; const char *word; } cases[] = {
        {0, 'X', "does not begin with GGUF"}, {4, 4, "its version is 4"}, {7, 3, "its version"},
        {8, 3, "sound"}, {15, 1, "tensors, more than"}, {16, 200, "sound"}, {23, 1, "keys, more than"},
        {24, 0, "a key's name has 0 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(more, text, bytes);
        more[cases[i].at] = (char)cases[i].byte;
        write_whole_file(path, more, bytes);
        CHECK(test_fails(1, cases[i].word, open_it, path), "byte %zu: %s", cases[i].at, test_message);
    }
    Rng r = rng_stream(1, RNG_TEST, 1);
    size_t refused = 0;
    for (int i = 0; i < 2000; i++) {
        memcpy(more, text, bytes);
        for (uint32_t n = 1 + rng_below(&r, 3); n > 0; n--) more[rng_below(&r, (uint32_t)bytes)] = (char)rng_u32(&r);
        write_whole_file(path, more, bytes);
        bool in_one_line = test_fails(1, "damaged.gguf", open_it, path);
        CHECK(in_one_line || strcmp(test_message, "(it did not fail)") == 0, "%s", test_message);
        refused += in_one_line;
    }
    CHECK(refused > 300, "only %zu of 2000 refused", refused);
    free(text), free(more);
}

// ---- tokenizers ------------------------------------------------------------------------------------
static const char *put_tokens(const Tokenizer *t, size_t vocab, const char *path) {
    GgufHead h = {0};
    const char *missing = tokenizer_put_gguf(t, &h, vocab);
    gguf_put_text(&h, "general.architecture", "llama");
    gguf_write(path, &h, NULL, 0);
    return missing;
}

static void check_same_tokens(const Tokenizer *a, const Tokenizer *b, const char *text, const char *what) {
    int *x, *y;
    size_t n = tokenizer_prompt(a, text, &x), m = tokenizer_prompt(b, text, &y);
    CHECK(n == m && memcmp(x, y, n * sizeof *x) == 0, "%s: other tokens", what);
    CHECK(tokenizer_end(a) == tokenizer_end(b), "%s: ends at %d, then %d", what, tokenizer_end(a), tokenizer_end(b));
    free(x), free(y);
}

static void test_own_tokens(void) {
    static const char text[] = "it is 12 o'clock\nand the cat sat";
    static const char *const words[] = {"the", "cat", "."};
    const struct { const char *what; Tokenizer *t; const char *text, *model, *missing; } cases[] = {
        {"byte", tokenizer_byte(), text, "rwkv", NULL},
        {"char", tokenizer_char(text, strlen(text)), text, "rwkv", NULL},
        {"char without a newline", tokenizer_char("abc", 3), "cab", "none", "pre-tokenizer"},
        {"char beyond ASCII", tokenizer_char("a\xc3\xa4\n", 4), "\xc3\xa4", "none", "pre-tokenizer"},
        {"bpe", tokenizer_bpe(text, strlen(text), 257), text, "none", "pre-tokenizer"},
        {"words", tokenizer_words(words, 3), "the cat.", "none", "no such tokenizer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = test_path("w.gguf"), *missing = put_tokens(cases[i].t, 300, path);
        CHECK(!missing == !cases[i].missing && (!missing || strstr(missing, cases[i].missing)), "%s: %s", cases[i].what,
              missing ? missing : "nothing is missing");
        Tokenizer *again = tokenizer_open_dir(path);
        CHECK(tokenizer_in_dir(path) && again && tokenizer_equal(cases[i].t, again), "%s: another", cases[i].what);
        check_same_tokens(cases[i].t, again, cases[i].text, cases[i].what);
        Gguf *g = gguf_open(path);
        const GgufKey *model = gguf_key(g, "tokenizer.ggml.model");
        bool as_expected = model->text[0].bytes == 4 && !memcmp(model->text[0].at, cases[i].model, 4);
        CHECK(as_expected, "%s: %.*s", cases[i].what, (int)model->text[0].bytes, model->text[0].at);
        gguf_close(g);
        tokenizer_free(again);
    }
}

// A byte-level BPE as others have it: the letters of bytes, a merge, a mark that begins a text and one that ends it.
#define MARK(id, text) "{\"id\": " id ", \"content\": \"" text "\", \"special\": true, \"normalized\": false}"
static char *their_json(const char *pre_tokenizer, const char *normalizer, const char *ignore_merges) {
    char *vocab = xprintf("%s", "");
    for (int c = 0; c < 256; c++) {
        char letter[8] = "", *before = vocab;
        bytelevel_spell(letter, &(char){(char)c}, 1);
        bool quoted = c == '"' || c == '\\';
        vocab = xprintf("%s\"%s%s\": %d, ", before, quoted ? "\\" : "", letter, c);
        free(before);
    }
    return xprintf("{\"added_tokens\": [" MARK("257", "<s>") ", " MARK("258", "</s>") "], \"normalizer\": %s, "
                   "\"pre_tokenizer\": %s, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                   "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": "
                   "{\"<s>\": {\"id\": \"<s>\", \"ids\": [257]}}}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                   "\"model\": {\"type\": \"BPE\", \"ignore_merges\": %s, \"vocab\": {%s\"th\": 256}, "
                   "\"merges\": [\"t h\"]}}", normalizer, pre_tokenizer, ignore_merges, vocab);
}

static void open_tokens(void *path) { tokenizer_free(tokenizer_open_dir(path)); }

#define SPLIT(pattern) "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" pattern "\"}, \"behavior\": \"Isolated\", " \
    "\"invert\": false}"
#define BYTES "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": "
#define CUT(parts) "{\"type\": \"Sequence\", \"pretokenizers\": [" parts ", " BYTES "false}]}"
#define ENGLISH "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define LLAMA3(digits) CUT(SPLIT(ENGLISH "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"))

static void test_their_tokens(void) {
    static const struct { const char *pre, *normalizer, *ignore, *name, *missing; } cases[] = {
        {BYTES "true}", "null", "false", "gpt-2", NULL},
        {LLAMA3("{1,3}"), "null", "true", "llama-bpe", NULL},
        {LLAMA3(""), "{\"type\": \"NFC\"}", "false", "qwen2", NULL},
        {LLAMA3("{1,3}"), "null", "false", NULL, "ignore_merges"},
        {LLAMA3("{1,2}"), "null", "true", NULL, "pre-tokenizer"},
        {BYTES "true}", "{\"type\": \"NFC\"}", "false", NULL, "NFC"},
    };
    static const char text[] = "The 1234 th's  cats\n\n  sat <s>, o\xcc\x88";
    const char *dir = test_path("theirs"), *path = test_path("t.gguf");
    make_directories(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = their_json(cases[i].pre, cases[i].normalizer, cases[i].ignore);
        char *config = "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";
        write_whole_file(xprintf("%s/tokenizer.json", dir), json, strlen(json));
        write_whole_file(xprintf("%s/tokenizer_config.json", dir), config, strlen(config));
        Tokenizer *t = tokenizer_open_dir(dir), *again;
        const char *missing = put_tokens(t, 262, path);
        CHECK(!missing == !cases[i].missing && (!missing || strstr(missing, cases[i].missing)), "%zu: %s", i,
              missing ? missing : "nothing is missing");
        again = tokenizer_open_dir(path);
        check_same_tokens(t, again, text, "whole");
        tokenizer_free(again);
        if (missing) continue;
        rename(path, test_path("sound.gguf"));       // as others write it, without the whole of the file
        again = tokenizer_open_dir(changed("huggingface.json", "huggingface.jsox"));
        check_same_tokens(t, again, text, cases[i].name);
        tokenizer_free(again), tokenizer_free(t), free(json);
        rename(test_path("changed.gguf"), test_path("sound.gguf"));
        static const char adds[] = "add_bos_token\x07\0\0", one[] = "add_bos_token\0\0\0";
        static const char begin[] = "bos_token_id\x04\0\0", broken[] = "bos_token_id\x06\0\0";
        void *other = changed_bytes(adds, one, sizeof adds - 1);
        CHECK(test_fails(1, "add_bos_token is not as expected: true or false", open_tokens, other), "%s", test_message);
        other = changed_bytes(begin, broken, sizeof begin - 1);
        CHECK(test_fails(1, "bos_token_id is not as expected: one whole", open_tokens, other), "%s", test_message);
        other = changed("ggml.pre", "ggml.prf");
        CHECK(test_fails(1, "its pre-tokenizer is absent", open_tokens, other), "%s", test_message);
        other = changed("gpt2", "bert");
        CHECK(test_fails(1, "its tokenizer is bert", open_tokens, other), "%s", test_message);
    }
}

static const Test tests[] = {
    {"gguf/container", "keys and tensors come back as they were written", test_container},
    {"gguf/damage", "what is cut off or changed is refused in one line, or read", test_damage},
    {"gguf/models", "every architecture is written and read back bit for bit", test_models},
    {"gguf/types", "every type rounds within its steps", test_types},
    {"gguf/large", "numbers that a type does not hold are refused by name", test_large},
    {"gguf/obstacles", "what llama.cpp would compute otherwise is not written", test_obstacles},
    {"gguf/keys", "keys and tensors that are missing, left over or unknown are refused by name", test_keys},
    {"gguf/own-tokens", "our tokenizers come back, and llama.cpp gets those that it can have", test_own_tokens},
    {"gguf/their-tokens", "a byte-level BPE comes back, also from llama.cpp's keys alone", test_their_tokens},
};
REGISTER_TESTS(tests)

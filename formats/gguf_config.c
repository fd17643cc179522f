// gguf_config.c: the keys of a GGUF as those of a config.json, both ways. Facts are from the sources of llama.cpp b9500
// (src/models, conversion/); tests/gguf_oracle.py holds them against it.
#include "formats/gguf_config.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOE = MIXTRAL | QWEN3_MOE | LATENT, PLAIN_HEADS = (ROTARY & ~LATENT) | GPT2 };

// ---- architectures -----------------------------------------------------------------------------
static const struct { unsigned family; const char *arch, *model_type; } architectures[] = {
    {LLAMA, "llama", "llama"},           {MIXTRAL, "llama", "mixtral"},         {QWEN2, "qwen2", "qwen2"},
    {QWEN3, "qwen3", "qwen3"},           {QWEN3_MOE, "qwen3moe", "qwen3_moe"},  {GPT2, "gpt2", "gpt2"},
    {DEEPSEEK, "deepseek2", "deepseek_v3"}, {DEEPSEEK2, "deepseek2", "deepseek_v2"},
};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

static size_t row_of(unsigned family) {
    size_t i = 0;
    while (i < ARCHITECTURES && architectures[i].family != family) i++;
    return i;
}

const char *gguf_architecture(unsigned family) {
    size_t i = row_of(family);
    return i < ARCHITECTURES ? architectures[i].arch : NULL;
}

// ---- keys ----------------------------------------------------------------------------------------
// What both call by one name each; `absent`: what llama.cpp takes it for, as JSON; NULL: then the file is refused.
typedef enum { COUNT, REAL, SWITCH } Kind;
static const struct { unsigned families; const char *gguf, *hf, *absent; Kind kind; } keys[] = {
    {ROTARY, "embedding_length", "hidden_size", NULL, COUNT},
    {ROTARY, "block_count", "num_hidden_layers", NULL, COUNT},
    {ROTARY, "attention.head_count", "num_attention_heads", NULL, COUNT},
    {ROTARY, "feed_forward_length", "intermediate_size", NULL, COUNT},
    {ROTARY, "context_length", "max_position_embeddings", NULL, COUNT},
    {ROTARY, "attention.layer_norm_rms_epsilon", "rms_norm_eps", NULL, REAL},
    {GPT2, "embedding_length", "n_embd", NULL, COUNT},
    {GPT2, "block_count", "n_layer", NULL, COUNT},
    {GPT2, "attention.head_count", "n_head", NULL, COUNT},
    {GPT2, "feed_forward_length", "n_inner", NULL, COUNT},
    {GPT2, "context_length", "n_positions", NULL, COUNT},
    {GPT2, "attention.layer_norm_epsilon", "layer_norm_epsilon", NULL, REAL},
    {MIXTRAL, "expert_count", "num_local_experts", NULL, COUNT},
    {QWEN3_MOE, "expert_count", "num_experts", NULL, COUNT},
    {LATENT, "expert_count", "n_routed_experts", "0", COUNT},
    {MIXTRAL | QWEN3_MOE, "expert_used_count", "num_experts_per_tok", NULL, COUNT},
    {LATENT, "expert_used_count", "num_experts_per_tok", "0", COUNT},
    {QWEN3_MOE | LATENT, "expert_feed_forward_length", "moe_intermediate_size", NULL, COUNT},
    {LATENT, "expert_shared_count", "n_shared_experts", NULL, COUNT},
    {LATENT, "expert_weights_scale", "routed_scaling_factor", "1.0", REAL},
    {LATENT, "expert_weights_norm", "norm_topk_prob", "false", SWITCH},
    {LATENT, "leading_dense_block_count", "first_k_dense_replace", "0", COUNT},
    {LATENT, "attention.q_lora_rank", "q_lora_rank", "null", COUNT},
    {LATENT, "attention.kv_lora_rank", "kv_lora_rank", NULL, COUNT},
    {LATENT, "rope.dimension_count", "qk_rope_head_dim", NULL, COUNT},
    {LATENT, "expert_group_count", "n_group", "1", COUNT},
    {LATENT, "expert_group_used_count", "topk_group", "1", COUNT},
};
enum { KEYS = sizeof keys / sizeof *keys };

// Read below one by one, or of no importance; blanks at both ends.
static const char other_keys[] =
    " vocab_size attention.head_count_kv attention.key_length attention.value_length attention.key_length_mla"
    " attention.value_length_mla attention.causal rope.dimension_count rope.freq_base rope.scale_linear"
    " rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scaling.attn_factor"
    " rope.scaling.yarn_log_multiplier rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow rope.scaling.finetuned"
    " expert_count expert_used_count expert_gating_func expert_weights_norm expert_weights_scale nextn_predict_layers"
    " tensor_data_layout ";

static _Noreturn void refuse(const Gguf *g, const char *key, const char *expected) {
    fail("%s: the key %s is not as expected: %s", g->path, key, expected);
}

// The key of the architecture, or NULL.
static const GgufKey *find(const Gguf *g, const char *name) {
    const GgufKey *arch = gguf_key(g, "general.architecture");
    char *full = xprintf("%.*s.%s", (int)arch->text[0].bytes, arch->text[0].at, name);
    const GgufKey *k = gguf_key(g, full);
    free(full);
    return k;
}

static double number_of(const Gguf *g, const GgufKey *k, Kind kind) {
    bool single = k->kind != GGUF_ARRAY && k->kind != GGUF_STRING;
    if (!single || (k->item == GGUF_BOOL) != (kind == SWITCH) || (kind == COUNT && !gguf_is_count(k)))
        refuse(g, k->name, kind == COUNT ? "one whole number, 0 or more, for all layers"
                           : kind == REAL ? "one number" : "true or false");
    double x = gguf_number(k, 0);
    if (!isfinite(x)) refuse(g, k->name, "a finite number");
    return x;
}

static size_t count_of(const Gguf *g, const char *name, size_t absent) {
    const GgufKey *k = find(g, name);
    double n = k ? number_of(g, k, COUNT) : 0;
    if (n > UINT32_MAX) refuse(g, k->name, "less than 2^32");
    return k ? (size_t)n : absent;
}

static double real_of(const Gguf *g, const char *name, double absent) {
    const GgufKey *k = find(g, name);
    return k ? number_of(g, k, REAL) : absent;
}

static bool is_text(const GgufKey *k, const char *text) {
    return k && k->kind == GGUF_STRING && k->text[0].bytes == strlen(text) &&
           memcmp(k->text[0].at, text, k->text[0].bytes) == 0;
}

unsigned gguf_family(const Gguf *g) {
    const GgufKey *k = gguf_key(g, "general.architecture");
    char known[128] = "";
    if (!k || k->kind != GGUF_STRING) fail("%s: the key general.architecture, a text, is missing", g->path);
    for (size_t i = 0; i < ARCHITECTURES; i++) {
        const char *arch = architectures[i].arch;
        size_t experts = is_text(k, arch) ? count_of(g, "expert_count", 0) : 0;
        bool sigmoid = is_text(k, arch) && count_of(g, "expert_gating_func", 1) == 2;
        unsigned family = architectures[i].family;
        if (family == LLAMA && experts) continue;
        if (family == DEEPSEEK && experts && !sigmoid) continue;
        if (is_text(k, arch)) return family;
        if (!strstr(known, arch))
            snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", arch);
    }
    fail("%s: general.architecture is %.*s; %s are read", g->path, (int)smaller(k->text[0].bytes, 60), k->text[0].at,
         known);
}

// ---- read ------------------------------------------------------------------------------------------
static void put(json_t *object, const char *key, json_t *value) { json_object_set_new(object, key, value); }
static json_t *size_as_json(size_t n) { return json_integer((json_int_t)n); }

// The number with the fewest digits that is x times `unit` as a float: a file with 9.99999975e-06 meant 1e-05.
static json_t *real_as_json_in(double x, double unit) {
    char text[32];
    for (int digits = 5; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x * unit);
        if ((float)(strtod(text, NULL) / unit) == (float)x) break;
    }
    return json_real((double)(float)x == x ? strtod(text, NULL) : x * unit);
}
static json_t *real_as_json(double x) { return real_as_json_in(x, 1); }

static void read_keys(json_t *config, const Gguf *g, unsigned family) {
    for (size_t i = 0; i < KEYS; i++) {
        if (!(keys[i].families & family)) continue;
        const GgufKey *k = find(g, keys[i].gguf);
        if (!k && !keys[i].absent) fail("%s: the key %s.%s is missing", g->path, gguf_architecture(family),
                                        keys[i].gguf);
        if (!k) put(config, keys[i].hf, json_loads(keys[i].absent, JSON_DECODE_ANY, NULL));
        else {
            double x = number_of(g, k, keys[i].kind);
            if (keys[i].kind == COUNT) put(config, keys[i].hf, size_as_json(count_of(g, keys[i].gguf, 0)));
            else put(config, keys[i].hf, keys[i].kind == REAL ? real_as_json(x) : json_boolean(x != 0));
        }
    }
}

static bool lists(const char *words, const char *word) {
    char *padded = xprintf(" %s ", word);
    bool has = strstr(words, padded) != NULL;
    free(padded);
    return has;
}

// A key that llama.cpp might compute with and we would not.
static void check_keys(const Gguf *g, unsigned family) {
    static const char *const elsewhere[] = {"general.", "tokenizer.", "quantize.", "split."};
    const char *arch = gguf_architecture(family);
    size_t n = strlen(arch);
    for (size_t i = 0; i < g->keys; i++) {
        const char *name = g->key[i].name;
        bool known = false;
        for (size_t j = 0; j < 4; j++) known |= strncmp(name, elsewhere[j], strlen(elsewhere[j])) == 0;
        if (!known && strncmp(name, arch, n) == 0 && name[n] == '.') {
            known = lists(other_keys, name + n + 1);
            for (size_t j = 0; j < KEYS; j++)
                known |= keys[j].families & family && strcmp(keys[j].gguf, name + n + 1) == 0;
        }
        if (!known) fail("%s: the key %s is not read, so what it asks for cannot be computed here", g->path, name);
    }
    const GgufKey *shards = gguf_key(g, "split.count"), *type = gguf_key(g, "general.type");
    if (shards && number_of(g, shards, COUNT) > 1)
        refuse(g, shards->name, "a model in one file; llama-gguf-split --merge makes one of several");
    if (type && !is_text(type, "model")) refuse(g, type->name, "\"model\"");
    const GgufKey *causal = find(g, "attention.causal");
    if (causal && !number_of(g, causal, SWITCH)) refuse(g, causal->name, "true");
    if (count_of(g, "nextn_predict_layers", 0))
        refuse(g, find(g, "nextn_predict_layers")->name, "0: layers that predict further tokens are not read");
}

static void read_heads(json_t *config, const Gguf *g, unsigned family) {
    size_t heads = count_of(g, "attention.head_count", 0), width = count_of(g, "embedding_length", 0);
    if (heads == 0) refuse(g, find(g, "attention.head_count")->name, "1 or more");
    size_t each = count_of(g, "attention.key_length", width / heads);
    if (count_of(g, "attention.value_length", width / heads) != each)
        fail("%s: keys of %zu numbers and values of %zu; both should have as many", g->path, each,
             count_of(g, "attention.value_length", width / heads));
    if (family & GPT2) {
        if (each * heads != width || count_of(g, "attention.head_count_kv", heads) != heads)
            fail("%s: GPT-2's %zu heads should share the width %zu, keys as queries", g->path, heads, width);
        return;
    }
    if (count_of(g, "rope.dimension_count", each) != each)
        refuse(g, find(g, "rope.dimension_count")->name, "rotations of all dimensions of a head");
    put(config, "num_key_value_heads", size_as_json(count_of(g, "attention.head_count_kv", heads)));
    put(config, "head_dim", size_as_json(each));
}

// llama.cpp has MLA in two forms: with kv_b in halves, where it works in the latent (MQA), and as a whole (MHA).
static void read_latent_heads(json_t *config, const Gguf *g) {
    bool halves = find(g, "attention.key_length_mla");
    size_t key = count_of(g, halves ? "attention.key_length_mla" : "attention.key_length", 0);
    size_t value = count_of(g, halves ? "attention.value_length_mla" : "attention.value_length", 0);
    size_t rotated = count_of(g, "rope.dimension_count", 0);
    if (key <= rotated || value == 0)
        fail("%s: keys of %zu numbers, of which %zu rotate, and values of %zu: more keys and some values were expected",
             g->path, key, rotated, value);
    put(config, "qk_nope_head_dim", size_as_json(key - rotated));
    put(config, "v_head_dim", size_as_json(value));
    if (count_of(g, "attention.q_lora_rank", 0) == 0) put(config, "q_lora_rank", json_null());
    if (fabs(real_of(g, "attention.layer_norm_rms_epsilon", 0) - 1e-6) > 1e-12)
        refuse(g, find(g, "attention.layer_norm_rms_epsilon")->name, "1e-6, which the norms of latents have here");
}

static void read_experts(json_t *config, const Gguf *g, unsigned family) {
    size_t gating = count_of(g, "expert_gating_func", 0), expected = family == DEEPSEEK ? 2 : 1;
    size_t experts = count_of(g, "expert_count", 0);
    if (experts && gating && gating != expected)
        refuse(g, find(g, "expert_gating_func")->name, expected == 2 ? "2 (sigmoid)" : "1 (softmax)");
    if (family & LATENT && !experts)
        put(config, "first_k_dense_replace", size_as_json(count_of(g, "block_count", 0))),
            put(config, "num_experts_per_tok", size_as_json(1));
    if (family & (MIXTRAL | QWEN3_MOE) && real_of(g, "expert_weights_scale", 1) != 1)
        refuse(g, find(g, "expert_weights_scale")->name, "1");
    const GgufKey *norm = find(g, "expert_weights_norm");
    if (family != DEEPSEEK && experts && norm && (number_of(g, norm, SWITCH) != 0) != !(family & LATENT))
        refuse(g, norm->name, family & LATENT ? "false beside softmax" : "true");
    if (family == QWEN3_MOE) put(config, "norm_topk_prob", json_true());
    if (family == DEEPSEEK2 && count_of(g, "expert_group_count", 1) > 1)
        refuse(g, find(g, "expert_group_count")->name, "1: groups by their two best are known beside sigmoid alone");
    if (real_of(g, "expert_weights_scale", 1) == 0) put(config, "routed_scaling_factor", json_real(1));  // none
}

// Llama 3's ramp has no keys: the factors of all pairs are a tensor. It is known by the numbers that models have.
static bool is_ramp(const GgufTensor *t, double theta, double factor, double trained) {
    real *found = xmalloc(size_mul(t->elements, sizeof *found));
    gguf_copy(t, found, 0, t->elements, 1);
    bool same = true;
    for (size_t i = 0; i < t->elements; i++) {
        double turns = trained * pow(theta, -(double)i / (double)t->elements) / (2 * 3.14159265358979323846);
        double share = turns < 1 ? 0 : turns > 4 ? 1 : (turns - 1) / 3, expected = 1 / ((1 - share) / factor + share);
        same &= fabs((double)found[i] - expected) < 1e-4 * expected;
    }
    free(found);
    return same;
}

static void read_ramp(json_t *rope, const Gguf *g, const GgufTensor *t, size_t rotated) {
    static const double factors[] = {8, 32, 4, 2, 16, 64};
    double theta = real_of(g, "rope.freq_base", 10000), trained = 8192;
    size_t i = 0;
    if (t->elements != rotated / 2) refuse(g, t->name, "a factor for each pair of dimensions");
    while (i < 6 && !is_ramp(t, theta, factors[i], trained)) i++;
    if (i == 6)
        fail("%s: the rotations by %s are none that is known here: Llama 3.1's ramp over 8192 tokens, by a factor of "
             "2, 4, 8, 16, 32 or 64", g->path, t->name);
    put(rope, "rope_type", json_string("llama3")), put(rope, "factor", json_real(factors[i]));
    put(rope, "low_freq_factor", json_real(1)), put(rope, "high_freq_factor", json_real(4));
    put(rope, "original_max_position_embeddings", size_as_json((size_t)trained));
}

static void read_yarn(json_t *rope, const Gguf *g, unsigned family, double factor) {
    double by = real_of(g, "rope.scaling.attn_factor", 1);
    double tenth = real_of(g, "rope.scaling.yarn_log_multiplier", 0), mscale = tenth * 10;
    put(rope, "rope_type", json_string("yarn")), put(rope, "factor", real_as_json(factor));
    put(rope, "original_max_position_embeddings", size_as_json(count_of(g, "rope.scaling.original_context_length",
                                                                        count_of(g, "context_length", 0))));
    if (real_of(g, "rope.scaling.yarn_beta_fast", 32) != 32 || real_of(g, "rope.scaling.yarn_beta_slow", 1) != 1)
        fail("%s: llama.cpp does not obey rope.scaling.yarn_beta_fast and yarn_beta_slow other than 32 and 1; what is "
             "meant cannot be told", g->path);
    bool latent = family & LATENT;
    if (latent ? mscale <= 0 || by != 1 : mscale != 0)
        fail("%s: yarn with %s rope.scaling.yarn_log_multiplier%s cannot be computed here", g->path,
             latent ? "no" : "a", latent ? ", or with an attn_factor, in deepseek2" : "");
    if (latent) {
        put(rope, "mscale", real_as_json_in(tenth, 10));
        put(rope, "mscale_all_dim", real_as_json_in(tenth, 10));
    } else if (by != 1) put(rope, "attention_factor", real_as_json_in(by, 0.1 * log(factor) + 1));
}

static void read_rope(json_t *config, const Gguf *g, unsigned family) {
    const GgufKey *type = find(g, "rope.scaling.type");
    const GgufTensor *ramp = gguf_tensor(g, "rope_freqs.weight");
    double factor = real_of(g, "rope.scaling.factor", real_of(g, "rope.scale_linear", 0));
    bool none = is_text(type, "none") || factor == 0, linear = !type || is_text(type, "linear");
    json_t *rope = json_pack("{s:o}", "rope_theta", real_as_json(real_of(g, "rope.freq_base", 10000)));
    const GgufKey *by = find(g, "rope.scaling.attn_factor");
    if (by && !is_text(type, "yarn") && number_of(g, by, REAL) != 1)
        refuse(g, by->name, "1, or absent, where rope.scaling.type is not yarn");
    if (none && ramp) read_ramp(rope, g, ramp, (size_t)json_integer_value(json_object_get(config, "head_dim")));
    else if (ramp) fail("%s: rope_freqs.weight beside rope.scaling.factor is not read", g->path);
    else if (none || (linear && factor == 1)) put(rope, "rope_type", json_string("default"));
    else if (linear) put(rope, "rope_type", json_string("linear")), put(rope, "factor", real_as_json(factor));
    else if (is_text(type, "yarn")) read_yarn(rope, g, family, factor);
    else refuse(g, type->name, "none, linear or yarn");
    put(config, "rope_parameters", rope);
}

// A layer has more tensors than six, so a file that claims many layers needs no memory for them.
static void check_layers(const Gguf *g) {
    size_t layers = count_of(g, "block_count", 0);
    if (layers > g->tensors / 6)
        fail("%s: %zu layers are claimed, but the file has %zu tensors in all; copy or download it again", g->path,
             layers, g->tensors);
}

static void read_tensors(json_t *config, const Gguf *g, unsigned family) {
    const GgufTensor *embed = gguf_tensor(g, "token_embd.weight");
    if (!embed || embed->rank != 2) fail("%s: tensor token_embd.weight, a matrix, is missing", g->path);
    if (count_of(g, "vocab_size", embed->shape[0]) != embed->shape[0])
        fail("%s: %s is %zu, but tensor token_embd.weight has %zu rows; both should be as many as there are tokens",
             g->path, find(g, "vocab_size")->name, count_of(g, "vocab_size", 0), embed->shape[0]);
    put(config, "vocab_size", size_as_json(embed->shape[0]));
    put(config, "tie_word_embeddings", json_boolean(!gguf_tensor(g, "output.weight")));
    bool attention = gguf_tensor(g, "blk.0.attn_q.bias"), feed_forward = gguf_tensor(g, "blk.0.ffn_up.bias");
    if (family & BIASABLE) put(config, "attention_bias", json_boolean(attention));
    if (family & BIASED) put(config, "mlp_bias", json_boolean(feed_forward));
}

json_t *gguf_config(const Gguf *g) {
    unsigned family = gguf_family(g);
    json_t *config = json_object();
    put(config, "model_type", json_string(architectures[row_of(family)].model_type));
    check_keys(g, family);
    read_keys(config, g, family);
    check_layers(g);
    if (family & LATENT) read_latent_heads(config, g);
    else read_heads(config, g, family);
    if (family & MOE) read_experts(config, g, family);
    if (family & ROTARY) read_rope(config, g, family);
    read_tensors(config, g, family);
    put(config, family & GPT2 ? "activation_function" : "hidden_act", json_string(family & GPT2 ? "gelu_new" : "silu"));
    if (family & WINDOWED) put(config, "sliding_window", json_null());
    if (family == DEEPSEEK2) put(config, "topk_method", json_string("greedy"));
    return config;
}

JsonFile gguf_read_config(const char *path) {
    Gguf *g = gguf_open(path);
    JsonFile j = {xprintf("%s, as a config.json", path), gguf_config(g)};
    gguf_close(g);
    return j;
}

// ---- written ---------------------------------------------------------------------------------------
static size_t size_in(const json_t *config, const char *key) {
    return (size_t)json_integer_value(json_object_get(config, key));
}

static void put_size(GgufHead *h, const char *arch, const char *key, size_t value) {
    char *name = xprintf("%s.%s", arch, key);
    gguf_put_count(h, name, value);
    free(name);
}

static void put_real(GgufHead *h, const char *arch, const char *key, double value) {
    char *name = xprintf("%s.%s", arch, key);
    gguf_put_real(h, name, value);
    free(name);
}

static void put_text(GgufHead *h, const char *arch, const char *key, const char *value) {
    char *name = xprintf("%s.%s", arch, key);
    gguf_put_text(h, name, value);
    free(name);
}

static void put_switch(GgufHead *h, const char *arch, const char *key, bool value) {
    char *name = xprintf("%s.%s", arch, key);
    gguf_put_bool(h, name, value);
    free(name);
}

static void put_keys(GgufHead *h, const json_t *config, unsigned family, const char *arch) {
    for (size_t i = 0; i < KEYS; i++) {
        const json_t *value = json_object_get(config, keys[i].hf);
        if (!(keys[i].families & family) || !value) continue;
        if (keys[i].kind == COUNT) put_size(h, arch, keys[i].gguf, (size_t)json_integer_value(value));
        else if (keys[i].kind == REAL) put_real(h, arch, keys[i].gguf, json_number_value(value));
        else put_switch(h, arch, keys[i].gguf, json_is_true(value));
    }
}

static void put_rope(GgufHead *h, const json_t *config, const char *arch) {
    const json_t *rope = json_object_get(config, "rope_parameters");
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    double factor = json_number_value(json_object_get(rope, "factor"));
    const json_t *by = json_object_get(rope, "attention_factor"), *all = json_object_get(rope, "mscale_all_dim");
    put_real(h, arch, "rope.freq_base", json_number_value(json_object_get(rope, "rope_theta")));
    bool linear = strcmp(type, "linear") == 0, yarn = strcmp(type, "yarn") == 0;
    if (!linear && !yarn) return;               // llama3: a tensor
    put_text(h, arch, "rope.scaling.type", type);
    put_real(h, arch, "rope.scaling.factor", factor);
    if (linear) return;
    put_size(h, arch, "rope.scaling.original_context_length", size_in(rope, "original_max_position_embeddings"));
    if (by) put_real(h, arch, "rope.scaling.attn_factor", json_number_value(by) / (0.1 * log(factor) + 1));
    if (all) put_real(h, arch, "rope.scaling.yarn_log_multiplier", json_number_value(all) / 10);
}

// kv_b goes into the file in halves, for which llama.cpp sees one key head as wide as the latent.
static void put_latent_heads(GgufHead *h, const json_t *config, const char *arch) {
    size_t latent = size_in(config, "kv_lora_rank"), rotated = size_in(config, "qk_rope_head_dim");
    put_size(h, arch, "attention.head_count_kv", 1);
    put_size(h, arch, "attention.key_length", latent + rotated);
    put_size(h, arch, "attention.value_length", latent);
    put_size(h, arch, "attention.key_length_mla", size_in(config, "qk_nope_head_dim") + rotated);
    put_size(h, arch, "attention.value_length_mla", size_in(config, "v_head_dim"));
}

static void put_heads(GgufHead *h, const json_t *config, const char *arch) {
    size_t each = size_in(config, "head_dim");
    put_size(h, arch, "attention.head_count_kv", size_in(config, "num_key_value_heads"));
    put_size(h, arch, "attention.key_length", each);
    put_size(h, arch, "attention.value_length", each);
    put_size(h, arch, "rope.dimension_count", each);
}

void gguf_put_config(GgufHead *h, const json_t *config, unsigned family, const GgufType *type) {
    const char *arch = gguf_architecture(family);
    gguf_put_text(h, "general.architecture", arch);
    gguf_put_text(h, "general.type", "model");
    gguf_put_count(h, "general.file_type", type->file);
    if (type->block > 1) gguf_put_count(h, "general.quantization_version", 2);
    put_size(h, arch, "vocab_size", size_in(config, "vocab_size"));
    put_keys(h, config, family, arch);
    if (family & ROTARY) put_rope(h, config, arch);
    if (family & LATENT) put_latent_heads(h, config, arch);
    else if (family & ROTARY) put_heads(h, config, arch);
    if (family & MOE) put_size(h, arch, "expert_gating_func", family == DEEPSEEK ? 2 : 1);
}

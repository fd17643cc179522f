// hf_config.c: which architecture of transformers a set of flags is, and its config.json, written and
// read. `conditions` says what an architecture can be, `keys` which key is which flag, `fixed` which keys
// have only one value that we can compute. Facts are from the modeling and configuration files of
// transformers 5.23; tests/oracle.py holds them against it.
#include "formats/hf_config.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- architectures -----------------------------------------------------------------------------
static const Family families[] = {
    {LLAMA, "llama", "LlamaForCausalLM", "model.layers."},
    {MISTRAL, "mistral", "MistralForCausalLM", "model.layers."},
    {MINISTRAL, "ministral", "MinistralForCausalLM", "model.layers."},
    {QWEN3, "qwen3", "Qwen3ForCausalLM", "model.layers."},
    {QWEN3_NEXT, "qwen3_next", "Qwen3NextForCausalLM", "model.layers."},
    {OLMO2, "olmo2", "Olmo2ForCausalLM", "model.layers."},
    {OLMO3, "olmo3", "Olmo3ForCausalLM", "model.layers."},
    {MIXTRAL, "mixtral", "MixtralForCausalLM", "model.layers."},
    {DEEPSEEK, "deepseek_v3", "DeepseekV3ForCausalLM", "model.layers."},
    {GPT2, "gpt2", "GPT2LMHeadModel", "transformer.h."},
    {OURS, "receipts", "receipts", "layers."},
};
enum { FAMILIES = sizeof families / sizeof *families };

static const Family *family_of(unsigned bit) {
    const Family *f = families;
    while (f->bit != bit) f++;
    return f;
}

static bool attention_is(const Config *c, int attn) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (c->attn.at[i] != attn) return false;
    return true;
}

static bool has_attention(const Config *c, int attn) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (c->attn.at[i] == attn) return true;
    return false;
}

// The softmax attention of a model that has only one kind of it; where it has none, the linear kind that all are.
static int softmax_of(const Config *c) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (!config_is_linear(c->attn.at[i])) return c->attn.at[i];
    return c->attn.at[0];
}

// Nothing but this kind of mixer and mha, or this kind and gqa; softmax attention with as many key heads everywhere.
static bool is_hybrid(const Config *c, int kind) {
    bool mha = has_attention(c, ATTN_mha), gqa = has_attention(c, ATTN_gqa);
    for (size_t i = 0; i < c->attn.count; i++) {
        int attn = c->attn.at[i];
        if (attn != kind && attn != ATTN_mha && attn != ATTN_gqa) return false;
        if (!config_is_linear(attn) && config_kv_heads(c, attn) != config_kv_heads(c, softmax_of(c))) return false;
    }
    return !(mha && gqa);
}

// Every layer from `first` on has experts, none before.
static bool experts_from(const Config *c, size_t first) {
    for (size_t l = 0; l < c->layers; l++)
        if (config_layer_has_experts(c, l) != (l >= first)) return false;
    return true;
}

static size_t dense_layers(const Config *c) {
    size_t n = 0;
    for (size_t l = 0; l < c->layers; l++) n += !config_layer_has_experts(c, l);
    return n;
}

// The closest relative: the one whose mark the config bears.
static unsigned nearest_family(const Config *c) {
    if (attention_is(c, ATTN_mla)) return DEEPSEEK;
    if (has_attention(c, ATTN_gated_delta)) return QWEN3_NEXT;
    if (c->pos == POS_learned) return GPT2;
    if (c->experts) return MIXTRAL;
    bool windows = has_attention(c, ATTN_swa);
    if (c->norm == NORM_out || c->qk_norm == QK_full) return windows ? OLMO3 : OLMO2;
    if (c->qk_norm == QK_head) return QWEN3;
    return attention_is(c, ATTN_swa) ? MISTRAL : windows ? MINISTRAL : LLAMA;
}

// The first thing that a family has only one way of, and this config another; NULL if there is none.
static const char *missing_in(unsigned family, const Config *c) {
    bool mha = attention_is(c, ATTN_mha), gqa = attention_is(c, ATTN_gqa), moe = c->experts > 0;
    bool no_softmax = attention_is(c, ATTN_gated_delta);
    const struct { unsigned families; bool holds; const char *needs; } conditions[] = {
        {ROTARY & ~OLMO, c->norm == NORM_pre, "--norm pre"},
        {GPT2, c->norm == NORM_pre, "--norm pre"},
        {OLMO, c->norm == NORM_out, "--norm out"},
        {ROTARY, c->norm_kind == NORM_KIND_rms, "--norm-kind rms"},
        {GPT2, c->norm_kind == NORM_KIND_layer, "--norm-kind layer"},
        {ROTARY, c->ffn == FFN_swiglu, "--ffn swiglu"},
        {GPT2, c->ffn == FFN_gelu, "--ffn gelu"},
        {ROTARY & ~QWEN3_NEXT, c->pos == POS_rope, "--pos rope"},
        {QWEN3_NEXT, is_hybrid(c, ATTN_gated_delta), "--attn gated-delta, with mha or with gqa in between"},
        {QWEN3_NEXT, c->pos == (no_softmax ? POS_none : POS_rope), no_softmax ? "--pos none" : "--pos rope"},
        {QWEN3_NEXT, no_softmax || c->qk_norm == QK_head, "--qk-norm head"},
        {QWEN3_NEXT, no_softmax || c->attn_gate, "--attn-gate 1"},
        {QWEN3_NEXT, c->short_conv >= 1, "--short-conv of at least 1"},
        {LLAMA | OLMO2, mha || gqa, "--attn mha or gqa on all layers"},
        {MIXTRAL, mha || gqa || attention_is(c, ATTN_swa), "--attn mha, gqa or swa on all layers"},
        {HYBRID, is_hybrid(c, ATTN_swa), "--attn swa, with mha or with gqa in between, and as many key heads in both"},
        {GPT2, mha, "--attn mha"},
        {LLAMA | MISTRAL | MINISTRAL | MIXTRAL | GPT2, c->qk_norm == QK_none, "--qk-norm none"},
        {QWEN3, c->qk_norm == QK_head, "--qk-norm head"},
        {OLMO, c->qk_norm == QK_full, "--qk-norm full"},
        {ROTARY & ~(DEEPSEEK | QWEN3_NEXT), config_rope_dim(c, ATTN_mha) == c->head_dim,
         "--rope-dim as wide as --head-dim"},
        {(ROTARY & ~QWEN3_NEXT) | GPT2, !c->attn_gate, "--attn-gate 0"},
        {GPT2, c->heads * c->head_dim == c->width, "--head-dim of width/heads"},
        {LLAMA, c->width % c->heads == 0, "--width to be a multiple of --heads"},
        {GPT2, c->bias, "--bias 1"},
        {ROTARY & ~(LLAMA | DEEPSEEK), !c->bias, "--bias 0"},
        {DEEPSEEK, !c->bias || dense_layers(c) == 0, "--bias 0, or experts in all layers"},
        {(ROTARY & ~(MIXTRAL | DEEPSEEK)) | GPT2, !moe, "--experts 0"},
        {MIXTRAL, experts_from(c, 0), "experts in all layers"},
        {MIXTRAL, c->gate == GATE_softmax, "--gate softmax"},
        {MIXTRAL, c->router == ROUTER_topk, "--router topk"},
        {MIXTRAL | DEEPSEEK, c->capacity == 0, "--capacity 0"},
        {MIXTRAL, c->norm_topk, "--norm-topk 1"},
        {MIXTRAL, c->route_scale == 1, "--route-scale 1"},
        {MIXTRAL, c->shared_experts == 0, "--shared-experts 0"},
        {DEEPSEEK, !moe || experts_from(c, c->first_dense), "--moe-layers moe after the first dense ones"},
        {DEEPSEEK, !moe || c->gate == GATE_sigmoid, "--gate sigmoid"},
        {DEEPSEEK, !moe || c->router == ROUTER_bias, "--router bias"},
        {DEEPSEEK, !moe || c->experts >= 2, "--experts of at least 2"},
        {DEEPSEEK, !moe || c->shared_experts >= 1, "--shared-experts of at least 1"},
    };
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++)
        if (conditions[i].families & family && !conditions[i].holds) return conditions[i].needs;
    return NULL;
}

const char *hf_architecture(const Config *c) {
    unsigned family = nearest_family(c);
    return missing_in(family, c) ? NULL : family_of(family)->architecture;
}

const char *hf_obstacle(const Config *c) {
    static char text[128];
    unsigned family = nearest_family(c);
    const char *needs = missing_in(family, c);
    snprintf(text, sizeof text, "%s needs %s", family_of(family)->architecture, needs ? needs : "");
    return needs ? text : NULL;
}

const Family *hf_family(const Config *c) { return family_of(hf_architecture(c) ? nearest_family(c) : OURS); }

// ---- config.json: the tables -------------------------------------------------------------------
// A key and the flag it sets. fallback: its value where it is absent, as text; NULL: it must be there.
static const struct { unsigned families; const char *key, *flag, *fallback; } keys[] = {
    {ROTARY | GPT2, "vocab_size", "vocab", NULL},
    {ROTARY, "hidden_size", "width", NULL},
    {ROTARY, "num_hidden_layers", "layers", NULL},
    {ROTARY, "num_attention_heads", "heads", NULL},
    {QWEN3_NEXT, "num_key_value_heads", "kv_heads", "2"},
    {ROTARY & ~(DEEPSEEK | QWEN3_NEXT), "num_key_value_heads", "kv_heads", "0"},
    {ROTARY & ~(DEEPSEEK | QWEN3 | QWEN3_NEXT), "head_dim", "head_dim", "0"},
    {QWEN3, "head_dim", "head_dim", "128"},
    {ROTARY & ~MIXTRAL, "intermediate_size", "ffn_width", NULL},
    {MIXTRAL, "intermediate_size", "expert_width", NULL},
    {QWEN3_NEXT, "head_dim", "head_dim", "256"},
    {QWEN3_NEXT, "linear_conv_kernel_dim", "short_conv", "4"},
    {QWEN3_NEXT, "linear_key_head_dim", "state_dim", "128"},
    {ROTARY & ~(MIXTRAL | OLMO), "rms_norm_eps", "norm_eps", "1e-6"},
    {MIXTRAL | OLMO, "rms_norm_eps", "norm_eps", "1e-5"},
    {ROTARY, "tie_word_embeddings", "tie", "0"},
    {WINDOWED & ~MIXTRAL, "sliding_window", "window", "4096"},
    {MIXTRAL, "sliding_window", "window", "0"},
    {MIXTRAL, "num_local_experts", "experts", "8"},
    {MIXTRAL, "num_experts_per_tok", "top_k", "2"},
    {DEEPSEEK, "q_lora_rank", "q_rank", "1536"},
    {DEEPSEEK, "kv_lora_rank", "kv_rank", NULL},
    {DEEPSEEK, "qk_nope_head_dim", "nope_dim", NULL},
    {DEEPSEEK, "qk_rope_head_dim", "rope_dim", NULL},
    {DEEPSEEK, "v_head_dim", "v_dim", NULL},
    {DEEPSEEK, "first_k_dense_replace", "first_dense", "3"},
    {DEEPSEEK, "n_routed_experts", "experts", NULL},
    {DEEPSEEK, "num_experts_per_tok", "top_k", NULL},
    {DEEPSEEK, "n_shared_experts", "shared_experts", "1"},
    {DEEPSEEK, "moe_intermediate_size", "expert_width", NULL},
    {DEEPSEEK, "norm_topk_prob", "norm_topk", "1"},
    {DEEPSEEK, "routed_scaling_factor", "route_scale", "2.5"},
    {GPT2, "n_embd", "width", NULL},
    {GPT2, "n_layer", "layers", NULL},
    {GPT2, "n_head", "heads", NULL},
    {GPT2, "n_positions", "context", NULL},
    {GPT2, "n_inner", "ffn_width", "0"},
    {GPT2, "layer_norm_epsilon", "norm_eps", "1e-5"},
    {GPT2, "tie_word_embeddings", "tie", "1"},
};
enum { KEYS = sizeof keys / sizeof *keys };

// Keys whose other values we cannot compute, as JSON. required: an absent key would mean another value.
static const struct { unsigned families; const char *key, *value; bool required; } fixed[] = {
    {ROTARY, "hidden_act", "\"silu\"", false},
    {GPT2, "activation_function", "\"gelu_new\"", false},
    {QWEN3 | OLMO | QWEN3_NEXT, "attention_bias", "false", false},
    {DEEPSEEK, "n_group", "1", true},
    {DEEPSEEK, "topk_group", "1", true},
    {GPT2, "scale_attn_weights", "true", false},
    {GPT2, "scale_attn_by_inverse_layer_idx", "false", false},
    {GPT2, "add_cross_attention", "false", false},
};
enum { FIXED = sizeof fixed / sizeof *fixed };

// The flags that decide which function the model computes; the others are about training it. The context
// is one of them only where positions are learned: RoPE goes on beyond it.
static const char *const architecture_flags[] = {
    "vocab", "layers", "width", "attn", "heads", "kv_heads", "head_dim", "kv_rank", "q_rank", "rope_dim",
    "nope_dim", "v_dim", "qk_norm", "pos", "rope_theta", "norm", "norm_kind", "norm_eps", "ffn", "ffn_width", "bias",
    "window", "attn_gate", "state_dim", "short_conv", "tie", "experts", "top_k", "expert_width", "shared_experts",
    "first_dense", "moe_layers", "gate", "router", "norm_topk", "route_scale", "capacity", "pool",
};
enum { ARCHITECTURE_FLAGS = sizeof architecture_flags / sizeof *architecture_flags };

// ---- config.json: writing ----------------------------------------------------------------------
static void put(json_t *object, const char *key, json_t *value) { json_object_set_new(object, key, value); }

static json_t *flag_as_json(const Config *c, const char *name) {
    size_t i = flags_find(&config_table, name);
    char *text = flags_get(&config_table, c, i);
    double number = strtod(text, NULL);
    free(text);
    switch (config_table.flag[i].kind) {
    case FLAG_BOOL: return json_boolean(number != 0);
    case FLAG_REAL: return json_real(number);  // transformers insists on the difference between 1 and 1.0
    default: return json_integer((json_int_t)number);
    }
}

static json_t *all_flags(const Config *c) {
    json_t *object = json_object();
    for (size_t i = 0; i < config_table.count; i++) {
        if (config_table.flag[i].kind == FLAG_GROUP) continue;
        char *text = flags_get(&config_table, c, i);
        put(object, config_table.flag[i].name, json_string(text));
        free(text);
    }
    return object;
}

static json_t *size_as_json(size_t n) { return json_integer((json_int_t)n); }

// Of the dimensions of a head, those that rotate. transformers cuts head_dim times this down to a whole number.
static double rotated_share(const Config *c) {
    double rotated = (double)config_rope_dim(c, ATTN_mha), all = (double)c->head_dim;
    if (c->pos != POS_rope) return 0.5;      // of no importance, but they refuse an odd number that is all
    char text[32];
    snprintf(text, sizeof text, "%.12g", rotated / all);
    double share = strtod(text, NULL);
    return floor(all * share) == rotated ? share : (rotated + 0.5) / all;
}

static json_t *rope_as_json(const Config *c) {
    json_t *rope = json_object();
    put(rope, "rope_type", json_string("default"));
    put(rope, "rope_theta", flag_as_json(c, "rope_theta"));
    return rope;
}

static void put_rotary(json_t *object, const Config *c) {
    unsigned family = hf_family(c)->bit;
    put(object, "num_key_value_heads", size_as_json(config_kv_heads(c, softmax_of(c))));
    put(object, "max_position_embeddings", flag_as_json(c, "context"));
    put(object, "rope_theta", flag_as_json(c, "rope_theta"));  // where transformers before 5 look
    json_t *rope = family == OLMO3 ? json_object() : rope_as_json(c);
    put(object, "rope_parameters", rope);
    for (int i = 0; i < 2 && family == OLMO3; i++)
        put(rope, i ? "full_attention" : "sliding_attention", rope_as_json(c));
    if (family != QWEN3_NEXT) return;
    put(rope, "partial_rotary_factor", json_real(rotated_share(c)));
    put(object, "partial_rotary_factor", json_real(rotated_share(c)));
}

static const char *type_of_mixer(int attn) {
    return config_is_linear(attn) ? "linear_attention" : attn == ATTN_swa ? "sliding_attention" : "full_attention";
}

static void put_layer_types(json_t *object, const Config *c) {
    json_t *types = json_array();
    for (size_t l = 0; l < c->layers; l++)
        json_array_append_new(types, json_string(type_of_mixer(pattern_at(&c->attn, l))));
    put(object, "layer_types", types);
}

static void put_windows(json_t *object, const Config *c) {
    unsigned family = hf_family(c)->bit;
    if (!c->window) put(object, "sliding_window", json_null());
    if (family == QWEN3) put(object, "use_sliding_window", json_boolean(c->window));
    if (family & HYBRID) put_layer_types(object, c);
}

static void put_qwen3_next(json_t *object, const Config *c) {
    put_layer_types(object, c);
    put(object, "linear_value_head_dim", size_as_json(c->head_dim));
    put(object, "linear_num_key_heads", size_as_json(c->heads));
    put(object, "linear_num_value_heads", size_as_json(c->heads));
    put(object, "num_experts", size_as_json(0));
}

static void put_deepseek(json_t *object, const Config *c) {
    put(object, "rope_interleave", json_false());
    put(object, "num_nextn_predict_layers", size_as_json(0));
    if (c->q_rank == 0) put(object, "q_lora_rank", json_null());
    if (c->experts == 0) put(object, "first_k_dense_replace", flag_as_json(c, "layers"));
}

// transformers takes the choices and the scores of all layers together, and its choices per token sum to K; ours is
// a sum over layers, with choices that sum to 1 (router.h). With layers that are loaded alike it is this much larger.
static double aux_loss_factor(const Config *c) { return (double)c->layers / (double)c->top_k; }

static json_t *config_as_json(const Config *c) {
    unsigned family = hf_family(c)->bit;
    json_t *object = json_object();
    put(object, "architectures", json_pack("[s]", hf_family(c)->architecture));
    put(object, "model_type", json_string(hf_family(c)->model_type));
    put(object, "dtype", json_string(sizeof(real) == 8 ? "float64" : "float32"));
    for (size_t i = 0; i < FIXED; i++)
        if (fixed[i].families & family) put(object, fixed[i].key, json_loads(fixed[i].value, JSON_DECODE_ANY, NULL));
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].families & family) put(object, keys[i].key, flag_as_json(c, keys[i].flag));
    if (family & ROTARY) put_rotary(object, c);
    if (family & LLAMA) put(object, "mlp_bias", flag_as_json(c, "bias"));
    if (family & (LLAMA | DEEPSEEK)) put(object, "attention_bias", flag_as_json(c, "bias"));
    if (family & MIXTRAL) put(object, "router_aux_loss_coef", json_real(c->aux_loss * aux_loss_factor(c)));
    if (family & DEEPSEEK) put_deepseek(object, c);
    if (family & QWEN3_NEXT) put_qwen3_next(object, c);
    if (family & WINDOWED) put_windows(object, c);
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (int i = 0; i < 3 && family != OURS; i++)
        put(object, ids[i], json_null());  // those that transformers assumes may lie outside our vocabulary
    put(object, "receipts", all_flags(c));
    return object;
}

void hf_write_config(const Config *c, const char *path) {
    json_t *object = config_as_json(c);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text) fail("%s: out of memory for its text", path);
    write_whole_file(path, text, strlen(text));
    json_decref(object);
    free(text);
}

// ---- config.json: reading ----------------------------------------------------------------------
JsonFile hf_read_json(const char *dir, const char *file) {
    JsonFile j = {xprintf("%s/%s", dir, file), NULL};
    size_t bytes;
    json_error_t error;
    char *text = read_whole_file(j.path, &bytes);
    j.json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!j.json) fail("%s is not JSON: line %d: %.200s", j.path, error.line, error.text);
    if (!json_is_object(j.json)) fail("%s: a JSON object was expected", j.path);
    return j;
}

void hf_close_json(JsonFile *j) {
    json_decref(j->json);
    free(j->path);
}

const Family *hf_family_in(const JsonFile *j) {
    const char *type = json_string_value(json_object_get(j->json, "model_type"));
    for (size_t i = 0; type && i < FAMILIES; i++)
        if (strcmp(families[i].model_type, type) == 0) return &families[i];
    fail("%s: model_type %.60s is none of llama, mistral, ministral, qwen3, qwen3_next, olmo2, olmo3, mixtral, "
         "deepseek_v3, gpt2, receipts", j->path, type ? type : "(none)");
}

// A bad value is the file's fault, not the command line's: the message and the exit status say so.
static char blamed[512];
static void (*outer_hook)(int status, const char *message);
static void blame_file(int status, const char *message) {
    (void)status;
    fail_hook = outer_hook;
    fail("%s: %s", blamed, message);
}

static void set_flag(Config *c, const JsonFile *j, const char *key, const char *flag, const char *text) {
    snprintf(blamed, sizeof blamed, "%.400s: %.60s", j->path, key);
    outer_hook = fail_hook;
    fail_hook = blame_file;
    flags_set(&config_table, c, flag, text);
    fail_hook = outer_hook;
}

static void set_from_json(Config *c, const JsonFile *j, const char *key, const char *flag, const json_t *value) {
    bool is_switch = config_table.flag[flags_find(&config_table, flag)].kind == FLAG_BOOL && json_is_boolean(value);
    char *text = is_switch ? xprintf("%d", json_is_true(value)) : json_dumps(value, JSON_ENCODE_ANY);
    set_flag(c, j, key, flag, text);
    free(text);
}

static _Noreturn void refuse(const JsonFile *j, const char *key, const char *expected) {
    char *found = json_dumps(json_object_get(j->json, key), JSON_ENCODE_ANY | JSON_COMPACT);
    fail("%s: %s is %.200s, but only %s can be computed here", j->path, key, found ? found : "absent", expected);
}

static void check_fixed(const JsonFile *j, unsigned family) {
    for (size_t i = 0; i < FIXED; i++) {
        if (!(fixed[i].families & family)) continue;
        json_t *value = json_object_get(j->json, fixed[i].key);
        json_t *expected = json_loads(fixed[i].value, JSON_DECODE_ANY, NULL);
        if (value ? !json_equal(value, expected) : fixed[i].required) refuse(j, fixed[i].key, fixed[i].value);
        json_decref(expected);
    }
    json_t *quantized = json_object_get(j->json, "quantization_config");
    if (quantized && !json_is_null(quantized)) refuse(j, "quantization_config", "null");
}

static void read_keys(Config *c, const JsonFile *j, unsigned family) {
    for (size_t i = 0; i < KEYS; i++) {
        if (!(keys[i].families & family)) continue;
        const json_t *value = json_object_get(j->json, keys[i].key);
        if (value && !json_is_null(value)) set_from_json(c, j, keys[i].key, keys[i].flag, value);
        else if (value && strcmp(keys[i].flag, "q_rank") == 0) c->q_rank = 0;  // null: not compressed
        else if (value && strcmp(keys[i].flag, "window") == 0) c->window = 0;  // null: all that came before
        else if (keys[i].fallback) set_flag(c, j, keys[i].key, keys[i].flag, keys[i].fallback);
        else fail("%s: the key %s is missing", j->path, keys[i].key);
    }
}

// The base of the rotations that an object speaks of; NULL where it has none. Other kinds of them are refused.
static const json_t *theta_in(const JsonFile *j, const char *key, const json_t *about, unsigned family) {
    const json_t *type = json_object_get(about, "rope_type"), *part = json_object_get(about, "partial_rotary_factor");
    if (!type) type = json_object_get(about, "type");
    bool is_default = !type || (json_is_string(type) && strcmp(json_string_value(type), "default") == 0);
    bool in_part = part && json_number_value(part) != 1 && family != QWEN3_NEXT;
    if (!is_default || in_part) refuse(j, key, "rope_type \"default\" over all dimensions");
    return json_object_get(about, "rope_theta");
}

// Newer files keep everything about RoPE in rope_parameters (OLMo-3: apart for its two types of layers), older ones in
// rope_theta and rope_scaling.
static void read_rope(Config *c, const JsonFile *j, unsigned family) {
    const json_t *about = json_object_get(j->json, "rope_parameters"), *theta = json_object_get(j->json, "rope_theta");
    const json_t *said[] = {theta_in(j, "rope_scaling", json_object_get(j->json, "rope_scaling"), family),
                            theta_in(j, "rope_parameters", about, family),
                            theta_in(j, "rope_parameters", json_object_get(about, "sliding_attention"), family),
                            theta_in(j, "rope_parameters", json_object_get(about, "full_attention"), family)};
    if (said[2] && said[3] && json_number_value(said[2]) != json_number_value(said[3]))
        refuse(j, "rope_parameters", "one rope_theta for all layers");
    for (int i = 0; i < 4; i++)
        if (said[i]) theta = said[i];
    if (family & (MIXTRAL | OLMO3)) c->rope_theta = family == MIXTRAL ? 1e6 : 5e5;
    if (theta && !json_is_null(theta)) set_from_json(c, j, "rope_theta", "rope_theta", theta);
}

// Unless --aux-loss was given. Where the key is absent transformers takes 0.001.
static void read_aux_loss(Config *c, const JsonFile *j) {
    static const char key[] = "router_aux_loss_coef";
    const json_t *value = json_object_get(j->json, key);
    if (value && !(json_is_number(value) && json_number_value(value) >= 0)) refuse(j, key, "a number, 0 or more,");
    if (c->aux_loss != -1) return;
    char text[32];
    snprintf(text, sizeof text, "%.12g", (value ? json_number_value(value) : 0.001) / aux_loss_factor(c));
    set_flag(c, j, key, "aux_loss", text);
}

static bool is_true(const JsonFile *j, const char *key) { return json_is_true(json_object_get(j->json, key)); }

// What a family is, apart from its sizes.
static void set_family(Config *c, const JsonFile *j, unsigned family) {
    if (family & OLMO) c->norm = NORM_out;
    if (family & (QWEN3 | OLMO)) c->qk_norm = family == QWEN3 ? QK_head : QK_full;
    if (family & GPT2) c->pos = POS_learned, c->norm_kind = NORM_KIND_layer, c->ffn = FFN_gelu, c->bias = true;
    if (family & DEEPSEEK) c->gate = GATE_sigmoid, c->router = ROUTER_bias;
    if (family & (LLAMA | DEEPSEEK)) c->bias = is_true(j, "attention_bias");
    if (family & LLAMA && is_true(j, "mlp_bias") != c->bias) refuse(j, "mlp_bias", "the value of attention_bias");
}

static void set_default(Config *c, const char *flag) {
    flags_set(&config_table, c, flag, config_table.flag[flags_find(&config_table, flag)].default_text);
}

// What transformers makes of layer l where layer_types is not there.
static const char *default_type(const Config *c, const JsonFile *j, unsigned family, size_t l) {
    const json_t *key = json_object_get(j->json, "max_window_layers");
    double first = key ? json_number_value(key) : 28;
    bool last_of_four = (l + 1) % 4 == 0;
    if (family == QWEN3_NEXT && !last_of_four) return "linear_attention";
    if (family == OLMO3 && !last_of_four) return "sliding_attention";
    if (family == MINISTRAL && c->window) return "sliding_attention";
    if (family == QWEN3 && c->window && (double)l >= first) return "sliding_attention";
    return "full_attention";
}

// The mixer that layer l of the file has.
static int mixer_of_layer(const Config *c, const JsonFile *j, unsigned family, size_t l) {
    bool grouped = c->kv_heads && c->kv_heads != c->heads;
    const json_t *types = json_object_get(j->json, "layer_types");
    const char *type = json_string_value(json_array_get(types, l));
    if (!types || json_is_null(types)) type = default_type(c, j, family, l);
    bool full = type && strcmp(type, "full_attention") == 0, sliding = type && strcmp(type, "sliding_attention") == 0;
    if (sliding && family & HYBRID && !c->window) refuse(j, "sliding_window", "a number of tokens");
    if ((full && family & WINDOWED & ~HYBRID && c->window) || (sliding && family & HYBRID)) return ATTN_swa;
    if (full) return grouped ? ATTN_gqa : ATTN_mha;
    if (type && strcmp(type, "linear_attention") == 0 && family == QWEN3_NEXT) return ATTN_gated_delta;
    refuse(j, "layer_types", family == QWEN3_NEXT ? "linear_attention and full_attention, one for each layer"
                             : family & HYBRID    ? "sliding_attention and full_attention, one for each layer"
                                                  : "full_attention for each layer");
}

static bool repeats(const unsigned char *mixer, size_t layers, size_t period) {
    for (size_t l = period; l < layers; l++)
        if (mixer[l] != mixer[l - period]) return false;
    return true;
}

// The mixers of all layers, as the shortest pattern that gives them.
static void read_mixers(Config *c, const JsonFile *j, unsigned family) {
    unsigned char *mixer = xmalloc(c->layers);
    size_t period = 1;
    for (size_t l = 0; l < c->layers; l++) mixer[l] = (unsigned char)mixer_of_layer(c, j, family, l);
    while (period <= PATTERN_SIZE && !repeats(mixer, c->layers, period)) period++;
    if (period > PATTERN_SIZE) refuse(j, "layer_types", "a pattern that repeats after at most 64 layers");
    c->attn.count = (unsigned char)period;
    memcpy(c->attn.at, mixer, period);
    if (!has_attention(c, ATTN_swa)) c->window = 0;
    free(mixer);
}

// DeepSeek-V3: its attention is another kind, and it may turn out to have no experts at all.
static void finish_deepseek(Config *c, const JsonFile *j) {
    read_mixers(c, j, DEEPSEEK);     // refuses other types of layers; it has one of its own
    c->attn = (Pattern){1, {ATTN_mla}};
    c->head_dim = c->nope_dim;
    if (c->first_dense < c->layers) {
        if (c->shared_experts == 0) refuse(j, "n_shared_experts", "1 or more");
        if (c->bias && c->first_dense > 0) refuse(j, "attention_bias", "false (or experts in all layers)");
        return;
    }
    static const char *const unused[] = {"experts", "top_k", "expert_width", "shared_experts", "first_dense",
                                         "gate", "router", "norm_topk", "route_scale"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) set_default(c, unused[i]);
    if (c->bias) refuse(j, "attention_bias", "false (or experts in all layers)");
}

static void finish_heads(Config *c, const JsonFile *j, unsigned family) {
    if (c->kv_heads && c->heads % c->kv_heads != 0)
        refuse(j, "num_key_value_heads", "a divisor of num_attention_heads");
    read_mixers(c, j, family);
    if (c->kv_heads == c->heads) c->kv_heads = 0;
    if (!c->head_dim && c->width % c->heads != 0)
        refuse(j, family & GPT2 ? "n_head" : "num_attention_heads", "a divisor of the width");
    if (!c->head_dim) c->head_dim = c->width / c->heads;
}

// A size that no flag of ours stands for alone.
static size_t read_count(const JsonFile *j, const char *key, const char *fallback) {
    Config c;
    const json_t *value = json_object_get(j->json, key);
    flags_defaults(&config_table, &c);
    if (value) set_from_json(&c, j, key, "experts", value);
    else set_flag(&c, j, key, "experts", fallback);
    return c.experts;
}

static bool is_listed(const json_t *list, size_t n) {
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
        if (json_is_integer(entry) && json_integer_value(entry) == (json_int_t)n) return true;
    return false;
}

// Whether transformers gives no layer of Qwen3-Next experts.
static bool is_dense(const Config *c, const JsonFile *j) {
    size_t experts = read_count(j, "num_experts", "512"), step = read_count(j, "decoder_sparse_step", "1");
    if (step == 0) refuse(j, "decoder_sparse_step", "1 or more");
    for (size_t l = step - 1; l < c->layers && experts; l += step)
        if (!is_listed(json_object_get(j->json, "mlp_only_layers"), l)) return false;
    return true;
}

static size_t read_rotated(const Config *c, const JsonFile *j) {
    const json_t *share = json_object_get(json_object_get(j->json, "rope_parameters"), "partial_rotary_factor");
    if (!share) share = json_object_get(j->json, "partial_rotary_factor");
    double rotated = (double)c->head_dim * (share ? json_number_value(share) : 0.25);
    if (!(rotated >= 2 && rotated <= (double)c->head_dim))
        refuse(j, "partial_rotary_factor", "a share of 2 dimensions or more");
    return (size_t)rotated;
}

// Qwen3-Next: its gated delta nets have heads of their own, and its experts a gate that we have not.
static void finish_qwen3_next(Config *c, const JsonFile *j) {
    size_t heads = read_count(j, "linear_num_value_heads", "32"), width = read_count(j, "linear_value_head_dim", "128");
    if (heads == 0 || read_count(j, "linear_num_key_heads", "16") != heads)
        refuse(j, "linear_num_key_heads", "the value of linear_num_value_heads");
    if (!is_dense(c, j)) refuse(j, "num_experts", "0 (or mlp_only_layers for all layers)");
    if (attention_is(c, ATTN_gated_delta)) {
        c->heads = heads, c->head_dim = width, c->kv_heads = 0;
        set_default(c, "rope_theta");
        return;
    }
    if (heads != c->heads) refuse(j, "linear_num_value_heads", "the value of num_attention_heads");
    if (width != c->head_dim) refuse(j, "linear_value_head_dim", "the value of head_dim");
    if (!has_attention(c, ATTN_gated_delta)) refuse(j, "layer_types", "linear_attention in some layers");
    c->qk_norm = QK_head, c->attn_gate = true, c->rope_dim = read_rotated(c, j);
}

static bool read_flag(Config *c, const JsonFile *j, const json_t *flags, const char *name) {
    const json_t *value = json_object_get(flags, name);
    if (!value) return false;
    if (!json_is_string(value)) fail("%s: receipts.%s must be text", j->path, name);
    set_flag(c, j, name, name, json_string_value(value));
    return true;
}

// Flags take 0 for "as many as the data has"; a model that exists has some.
static void need_vocab(const Config *c, const JsonFile *j) {
    if (c->vocab == 0) fail("%s: a vocabulary of 0 tokens; the model's own, 1 or more, was expected", j->path);
}

void hf_config(Config *c, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    unsigned family = hf_family_in(&j)->bit;
    const json_t *flags = json_object_get(j.json, "receipts");
    if (family == OURS && !json_is_object(flags)) fail("%s: the object receipts, with the flags, is missing", j.path);
    for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++)
        if (!read_flag(c, &j, flags, architecture_flags[i])) set_default(c, architecture_flags[i]);
    if (c->pos == POS_learned) read_flag(c, &j, flags, "context");
    if (!json_is_object(flags)) {
        check_fixed(&j, family);
        set_family(c, &j, family);
        read_keys(c, &j, family);
        if (family & QWEN3 && !is_true(&j, "use_sliding_window")) c->window = 0;
        if (family & ROTARY) read_rope(c, &j, family);
        if (family & MIXTRAL) read_aux_loss(c, &j);
        if (family & DEEPSEEK) finish_deepseek(c, &j);
        else finish_heads(c, &j, family);
        if (family & QWEN3_NEXT) finish_qwen3_next(c, &j);
    }
    need_vocab(c, &j);
    hf_close_json(&j);
}

bool hf_flags(Config *c, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    const json_t *flags = json_object_get(j.json, "receipts");
    for (size_t i = 0; i < config_table.count; i++)
        if (config_table.flag[i].kind != FLAG_GROUP) read_flag(c, &j, flags, config_table.flag[i].name);
    bool ours = json_is_object(flags);
    if (ours) need_vocab(c, &j);
    hf_close_json(&j);
    return ours;
}

// hf_config.c: which architecture of transformers a set of flags is, and its config.json, written. `conditions` says
// what an architecture can be; the keys are in hf_config_keys.c. Facts are from the modeling and configuration files
// of transformers 5.23; tests/oracle.py holds them against it.
#include "formats/hf_config.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- architectures -----------------------------------------------------------------------------
const Family hf_families[] = {
    {LLAMA, "llama", "LlamaForCausalLM", "model.layers."},
    {MISTRAL, "mistral", "MistralForCausalLM", "model.layers."},
    {MINISTRAL, "ministral", "MinistralForCausalLM", "model.layers."},
    {QWEN2, "qwen2", "Qwen2ForCausalLM", "model.layers."},
    {SMOLLM3, "smollm3", "SmolLM3ForCausalLM", "model.layers."},
    {QWEN3, "qwen3", "Qwen3ForCausalLM", "model.layers."},
    {QWEN3_NEXT, "qwen3_next", "Qwen3NextForCausalLM", "model.layers."},
    {OLMO2, "olmo2", "Olmo2ForCausalLM", "model.layers."},
    {OLMO3, "olmo3", "Olmo3ForCausalLM", "model.layers."},
    {MIXTRAL, "mixtral", "MixtralForCausalLM", "model.layers."},
    {QWEN3_MOE, "qwen3_moe", "Qwen3MoeForCausalLM", "model.layers."},
    {OLMOE, "olmoe", "OlmoeForCausalLM", "model.layers."},
    {DEEPSEEK2, "deepseek_v2", "DeepseekV2ForCausalLM", "model.layers."},
    {DEEPSEEK, "deepseek_v3", "DeepseekV3ForCausalLM", "model.layers."},
    {GPT2, "gpt2", "GPT2LMHeadModel", "transformer.h."},
    {OURS, "receipts", "receipts", "layers."},
};
static const Family *family_of(unsigned bit) {
    const Family *f = hf_families;
    while (f->bit != bit) f++;
    return f;
}

bool hf_attention_is(const Config *c, int attn) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (c->attn.at[i] != attn) return false;
    return true;
}

bool hf_has_attention(const Config *c, int attn) {
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
    bool mha = hf_has_attention(c, ATTN_mha), gqa = hf_has_attention(c, ATTN_gqa);
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

// As transformers has them: on what makes q, k and v and on the output matrix, or on neither.
static bool attention_biases_agree(const Config *c) { return config_qkv_bias(c) == config_o_bias(c); }

static bool rotates_everywhere(const Config *c) {
    for (size_t l = 0; l < c->layers; l++)
        if (pattern_at(&c->rope_layers, l) != ROPE_LAYER_rope) return false;
    return true;
}

// The closest relative: the one whose mark the config bears.
static unsigned nearest_family(const Config *c) {
    bool softmax = c->experts && c->gate == GATE_softmax && c->router == ROUTER_topk;
    if (hf_attention_is(c, ATTN_mla)) return softmax && !c->norm_topk ? DEEPSEEK2 : DEEPSEEK;
    if (hf_has_attention(c, ATTN_gated_delta)) return QWEN3_NEXT;
    if (c->pos == POS_learned) return GPT2;
    if (c->experts && c->qk_norm == QK_head) return QWEN3_MOE;
    if (c->experts) return c->qk_norm == QK_full && c->norm == NORM_pre ? OLMOE : MIXTRAL;
    bool windows = hf_has_attention(c, ATTN_swa);
    if (c->norm == NORM_out || c->qk_norm == QK_full) return windows ? OLMO3 : OLMO2;
    if (c->qk_norm == QK_head) return QWEN3;
    if (!rotates_everywhere(c)) return SMOLLM3;
    if (config_qkv_bias(c) && !config_o_bias(c)) return QWEN2;
    return hf_attention_is(c, ATTN_swa) ? MISTRAL : windows ? MINISTRAL : LLAMA;
}

// The first thing that a family has only one way of, and this config another; NULL if there is none.
static const char *missing_in(unsigned family, const Config *c) {
    bool mha = hf_attention_is(c, ATTN_mha), gqa = hf_attention_is(c, ATTN_gqa), moe = c->experts > 0;
    bool no_softmax = hf_attention_is(c, ATTN_gated_delta);
    const struct { unsigned families; bool holds; const char *needs; } conditions[] = {
        {ROTARY & ~OLMO, c->norm == NORM_pre, "--norm pre"},
        {GPT2, c->norm == NORM_pre, "--norm pre"},
        {OLMO, c->norm == NORM_out, "--norm out"},
        {ROTARY, c->norm_kind == NORM_KIND_rms, "--norm-kind rms"},
        {GPT2, c->norm_kind == NORM_KIND_layer, "--norm-kind layer"},
        {ROTARY, c->ffn == FFN_swiglu, "--ffn swiglu"},
        {GPT2, c->ffn == FFN_gelu, "--ffn gelu"},
        {ROTARY & ~QWEN3_NEXT, c->pos == POS_rope, "--pos rope"},
        {ROTARY, c->rope_scaling != ROPE_SCALING_ntk, "--rope-scaling of another kind than ntk"},
        {ROTARY & ~SMOLLM3, rotates_everywhere(c), "--rope-layers rope"},
        {CHOOSING, c->route_groups == 0, "--route-groups 0"},
        {DEEPSEEK, !c->route_groups || c->route_group_score == GROUP_SCORE_top2, "--route-group-score top2"},
        {DEEPSEEK2, !c->route_groups || c->route_group_score == GROUP_SCORE_max, "--route-group-score max"},
        {QWEN3_NEXT, is_hybrid(c, ATTN_gated_delta), "--attn gated-delta, with mha or with gqa in between"},
        {QWEN3_NEXT, c->pos == (no_softmax ? POS_none : POS_rope), no_softmax ? "--pos none" : "--pos rope"},
        {QWEN3_NEXT, no_softmax || c->qk_norm == QK_head, "--qk-norm head"},
        {QWEN3_NEXT, no_softmax || c->attn_gate, "--attn-gate 1"},
        {QWEN3_NEXT, c->short_conv >= 1, "--short-conv of at least 1"},
        {LLAMA | OLMO2 | OLMOE, mha || gqa, "--attn mha or gqa on all layers"},
        {MIXTRAL | QWEN3_MOE, mha || gqa || hf_attention_is(c, ATTN_swa), "--attn mha, gqa or swa on all layers"},
        {HYBRID, is_hybrid(c, ATTN_swa), "--attn swa, with mha or with gqa in between, and as many key heads in both"},
        {GPT2, mha, "--attn mha"},
        {BIASED | QWEN2 | MISTRAL | MINISTRAL | MIXTRAL | GPT2, c->qk_norm == QK_none, "--qk-norm none"},
        {QWEN3, c->qk_norm == QK_head, "--qk-norm head"},
        {OLMO, c->qk_norm == QK_full, "--qk-norm full"},
        {ROTARY & ~(LATENT | QWEN3_NEXT), config_rope_dim(c, ATTN_mha) == c->head_dim,
         "--rope-dim as wide as --head-dim"},
        {(ROTARY & ~QWEN3_NEXT) | GPT2, !c->attn_gate, "--attn-gate 0"},
        {OLMOE | GPT2, c->heads * c->head_dim == c->width, "--head-dim of width/heads"},
        {LLAMA | DEEPSEEK2, c->width % c->heads == 0, "--width to be a multiple of --heads"},
        {GPT2, c->bias && config_qkv_bias(c) && config_o_bias(c) && config_ffn_bias(c), "--bias 1"},
        {QWEN2, config_qkv_bias(c) && !config_o_bias(c), "--attn-bias qkv"},
        {BIASABLE, attention_biases_agree(c), "--attn-bias none or all"},
        {ROTARY & ~(BIASABLE | QWEN2), !config_qkv_bias(c) && !config_o_bias(c), "--bias 0"},
        {ROTARY & ~(BIASED | LATENT), !config_ffn_bias(c) || dense_layers(c) == 0, "--bias 0 (or --attn-bias alone)"},
        {LATENT, !config_ffn_bias(c) || dense_layers(c) == 0, "--bias 0, or experts in all layers"},
        {(ROTARY & ~(CHOOSING | LATENT)) | GPT2, !moe, "--experts 0"},
        {MIXTRAL | OLMOE, experts_from(c, 0), "experts in all layers"},
        {CHOOSING, c->gate == GATE_softmax, "--gate softmax"},
        {CHOOSING, c->router == ROUTER_topk, "--router topk"},
        {CHOOSING | LATENT, c->capacity == 0, "--capacity 0"},
        {MIXTRAL, c->norm_topk, "--norm-topk 1"},
        {CHOOSING, c->route_scale == 1, "--route-scale 1"},
        {CHOOSING, c->shared_experts == 0, "--shared-experts 0"},
        {LATENT, !moe || experts_from(c, c->first_dense), "--moe-layers moe after the first dense ones"},
        {DEEPSEEK, !moe || c->gate == GATE_sigmoid, "--gate sigmoid"},
        {DEEPSEEK, !moe || c->router == ROUTER_bias, "--router bias"},
        {DEEPSEEK, !moe || c->experts >= 2, "--experts of at least 2"},
        {LATENT, !moe || c->shared_experts >= 1, "--shared-experts of at least 1"},
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

// ---- config.json ---------------------------------------------------------------------------------
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

// How rotations are slowed down, in rope_parameters: what a flag is called there, and for which kinds.
const HfRope hf_rope[] = {
    {1 << ROPE_SCALING_linear | 1 << ROPE_SCALING_dynamic, "factor", "rope_factor", false},
    {1 << ROPE_SCALING_yarn | 1 << ROPE_SCALING_llama3, "factor", "rope_factor", false},
    {1 << ROPE_SCALING_yarn | 1 << ROPE_SCALING_llama3, "original_max_position_embeddings", "rope_trained", false},
    {1 << ROPE_SCALING_yarn, "beta_fast", "rope_beta_fast", true},
    {1 << ROPE_SCALING_yarn, "beta_slow", "rope_beta_slow", true},
    {1 << ROPE_SCALING_yarn, "attention_factor", "rope_attention_factor", true},
    {1 << ROPE_SCALING_yarn, "mscale", "rope_mscale", true},
    {1 << ROPE_SCALING_yarn, "mscale_all_dim", "rope_mscale_all_dim", true},
    {1 << ROPE_SCALING_llama3, "low_freq_factor", "rope_low_freq", false},
    {1 << ROPE_SCALING_llama3, "high_freq_factor", "rope_high_freq", false},
    {0, NULL, NULL, false},
};

static json_t *rope_as_json(const Config *c) {
    char *kind = flags_get(&config_table, c, flags_find(&config_table, "rope_scaling"));
    json_t *rope = json_object();
    put(rope, "rope_type", json_string(c->rope_scaling == ROPE_SCALING_none ? "default" : kind));
    put(rope, "rope_theta", flag_as_json(c, "rope_theta"));
    for (const HfRope *r = hf_rope; r->kinds; r++)
        if (r->kinds >> c->rope_scaling & 1 &&
            !(r->optional && flags_is_default(&config_table, c, flags_find(&config_table, r->flag))))
            put(rope, r->key, flag_as_json(c, r->flag));
    if (!c->rope_truncate) put(rope, "truncate", json_false());
    free(kind);
    return rope;
}

// rope_scaling is where transformers before 5 look for what is not plain; with it they are right or refuse, without it
// they would be wrong. OLMo-3 of theirs scales one type of layers only.
static void put_rotary(json_t *object, const Config *c, unsigned family) {
    bool plain = c->rope_scaling == ROPE_SCALING_none;
    put(object, "num_key_value_heads", size_as_json(config_kv_heads(c, softmax_of(c))));
    put(object, "rope_theta", flag_as_json(c, "rope_theta"));  // where transformers before 5 look
    json_t *rope = family == OLMO3 ? json_object() : rope_as_json(c);
    put(object, "rope_parameters", rope);
    for (int i = 0; i < 2 && family == OLMO3; i++)
        put(rope, i ? "full_attention" : "sliding_attention", rope_as_json(c));
    if (family == OLMO3 && !c->rope_truncate) put(rope, "truncate", json_false());  // they look for it here
    if (family == QWEN3_NEXT) put(rope, "partial_rotary_factor", json_real(rotated_share(c)));
    if (family == QWEN3_NEXT) put(object, "partial_rotary_factor", json_real(rotated_share(c)));
    if (!plain && family != OLMO3) put(object, "rope_scaling", json_deep_copy(rope));
    if (c->rope_scaling != ROPE_SCALING_dynamic) return;
    put(object, "max_position_embeddings", flag_as_json(c, "rope_trained"));   // where they would begin to change
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

static void put_windows(json_t *object, const Config *c, unsigned family) {
    if (!c->window) put(object, "sliding_window", json_null());
    if (family & SWITCHED) put(object, "use_sliding_window", json_boolean(c->window));
    if (family & HYBRID) put_layer_types(object, c);
}

static void put_qwen3_next(json_t *object, const Config *c) {
    put_layer_types(object, c);
    put(object, "linear_value_head_dim", size_as_json(c->head_dim));
    put(object, "linear_num_key_heads", size_as_json(c->heads));
    put(object, "linear_num_value_heads", size_as_json(c->heads));
    put(object, "num_experts", size_as_json(0));
}

// The layers without experts.
static void put_dense_layers(json_t *object, const Config *c) {
    json_t *dense = json_array();
    for (size_t l = 0; l < c->layers; l++)
        if (!config_layer_has_experts(c, l)) json_array_append_new(dense, size_as_json(l));
    put(object, "mlp_only_layers", dense);
    put(object, "decoder_sparse_step", size_as_json(1));
}

static void put_latent(json_t *object, const Config *c, unsigned family) {
    size_t groups = c->route_groups ? c->route_groups : 1;
    if (family == DEEPSEEK) put(object, "rope_interleave", json_false());
    if (family == DEEPSEEK) put(object, "num_nextn_predict_layers", size_as_json(0));
    if (family == DEEPSEEK2) put(object, "topk_method", json_string(groups > 1 ? "group_limited_greedy" : "greedy"));
    put(object, "n_group", size_as_json(groups));
    put(object, "topk_group", size_as_json(groups > 1 ? c->route_top_groups : 1));
    if (c->q_rank == 0) put(object, "q_lora_rank", json_null());
    if (c->experts == 0) put(object, "first_k_dense_replace", flag_as_json(c, "layers"));
}

static void put_rotating_layers(json_t *object, const Config *c) {
    json_t *rotates = json_array();
    for (size_t l = 0; l < c->layers; l++)
        json_array_append_new(rotates, size_as_json(pattern_at(&c->rope_layers, l) == ROPE_LAYER_rope));
    put(object, "no_rope_layers", rotates);         // by its values, layers with RoPE
}

// transformers takes the choices and the scores of all layers together, and its choices per token sum to K; ours is
// a sum over layers, with choices that sum to 1 (router.h). With layers that are loaded alike it is this much larger.
double hf_aux_loss_factor(const Config *c) { return (double)c->layers / (double)c->top_k; }

static void put_family(json_t *object, const Config *c, unsigned family) {
    if (family & ROTARY) put_rotary(object, c, family);
    if (family & BIASED) put(object, "mlp_bias", json_boolean(config_ffn_bias(c)));
    if (family & BIASABLE) put(object, "attention_bias", json_boolean(config_o_bias(c)));
    if (family & SMOLLM3) put_rotating_layers(object, c);
    if (family & CHOOSING) put(object, "router_aux_loss_coef", json_real(c->aux_loss * hf_aux_loss_factor(c)));
    if (family & QWEN3_MOE) put_dense_layers(object, c);
    if (family & LATENT) put_latent(object, c, family);
    if (family & QWEN3_NEXT) put_qwen3_next(object, c);
    if (family & WINDOWED) put_windows(object, c, family);
}

json_t *hf_config_as_json(const Config *c, const Family *family) {
    json_t *object = json_object();
    put(object, "architectures", json_pack("[s]", family->architecture));
    put(object, "model_type", json_string(family->model_type));
    put(object, "dtype", json_string(c->save_dtype == SAVE_DTYPE_bf16 ? "bfloat16"
                                     : sizeof(real) == 8              ? "float64" : "float32"));
    for (const HfFixed *f = hf_fixed; f->families; f++) {
        if (f->use == HF_ALLOWED || !(f->families & family->bit)) continue;
        json_t *values = json_loads(f->values, 0, NULL);
        put(object, f->key, json_incref(json_array_get(values, 0)));
        json_decref(values);
    }
    for (const HfKey *k = hf_keys; k->families; k++)
        if (k->families & family->bit) put(object, k->key, flag_as_json(c, k->flag));
    put_family(object, c, family->bit);
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (int i = 0; i < 3 && family->bit != OURS; i++)
        put(object, ids[i], json_null());  // those that transformers assumes may lie outside our vocabulary
    put(object, "receipts", all_flags(c));
    return object;
}

void hf_write_config(const Config *c, const char *path) {
    json_t *object = hf_config_as_json(c, hf_family(c));
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text) fail("%s: out of memory for its text", path);
    write_whole_file(path, text, strlen(text));
    json_decref(object);
    free(text);
}

// hf.c: what Hugging Face calls our tensors and flags. Three tables say it all, each read in both
// directions (save and load): `names` for tensors, `keys` for sizes in config.json, `fixed` for keys
// that have only one value we can compute. Facts are from the modeling and configuration files of
// transformers 5.23; tests/oracle.py holds this file against them.
#include "hf.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

// ---- architectures -----------------------------------------------------------------------------
enum {
    LLAMA = 1, QWEN3 = 2, OLMO2 = 4, MIXTRAL = 8, DEEPSEEK = 16, GPT2 = 32, OURS = 64,
    ROTARY = LLAMA | QWEN3 | OLMO2 | MIXTRAL | DEEPSEEK,  // RMSNorm, RoPE and SwiGLU in all of them
};
typedef struct { unsigned family; const char *model_type, *architecture, *layer; } Family;

static const Family families[] = {
    {LLAMA, "llama", "LlamaForCausalLM", "model.layers."},
    {QWEN3, "qwen3", "Qwen3ForCausalLM", "model.layers."},
    {OLMO2, "olmo2", "Olmo2ForCausalLM", "model.layers."},
    {MIXTRAL, "mixtral", "MixtralForCausalLM", "model.layers."},
    {DEEPSEEK, "deepseek_v3", "DeepseekV3ForCausalLM", "model.layers."},
    {GPT2, "gpt2", "GPT2LMHeadModel", "transformer.h."},
    {OURS, "receipts", "receipts", "layers."},
};
enum { FAMILIES = sizeof families / sizeof *families };

static const Family *family_of(unsigned bit) {
    const Family *f = families;
    while (f->family != bit) f++;
    return f;
}

static bool attention_is(const Config *c, int attn) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (c->attn.at[i] != attn) return false;
    return true;
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
    if (c->pos == POS_learned) return GPT2;
    if (c->experts) return MIXTRAL;
    if (c->norm == NORM_out || c->qk_norm == QK_full) return OLMO2;
    return c->qk_norm == QK_head ? QWEN3 : LLAMA;
}

// The first thing that a family has only one way of, and this config another; NULL if there is none.
static const char *missing_in(unsigned family, const Config *c) {
    bool mha = attention_is(c, ATTN_mha), gqa = attention_is(c, ATTN_gqa), moe = c->experts > 0;
    const struct { unsigned families; bool holds; const char *needs; } conditions[] = {
        {ROTARY & ~OLMO2, c->norm == NORM_pre, "--norm pre"},
        {GPT2, c->norm == NORM_pre, "--norm pre"},
        {OLMO2, c->norm == NORM_out, "--norm out"},
        {ROTARY, c->norm_kind == NORM_KIND_rms, "--norm-kind rms"},
        {GPT2, c->norm_kind == NORM_KIND_layer, "--norm-kind layer"},
        {ROTARY, c->ffn == FFN_swiglu, "--ffn swiglu"},
        {GPT2, c->ffn == FFN_gelu, "--ffn gelu"},
        {ROTARY, c->pos == POS_rope, "--pos rope"},
        {ROTARY & ~DEEPSEEK, mha || gqa, "--attn mha or gqa on all layers"},
        {GPT2, mha, "--attn mha"},
        {LLAMA | MIXTRAL | GPT2, c->qk_norm == QK_none, "--qk-norm none"},
        {QWEN3, c->qk_norm == QK_head, "--qk-norm head"},
        {OLMO2, c->qk_norm == QK_full, "--qk-norm full"},
        {ROTARY & ~DEEPSEEK, config_rope_dim(c, ATTN_mha) == c->head_dim, "--rope-dim as wide as --head-dim"},
        {GPT2, c->heads * c->head_dim == c->width, "--head-dim of width/heads"},
        {LLAMA, c->width % c->heads == 0, "--width to be a multiple of --heads"},
        {GPT2, c->bias, "--bias 1"},
        {QWEN3 | OLMO2 | MIXTRAL, !c->bias, "--bias 0"},
        {DEEPSEEK, !c->bias || dense_layers(c) == 0, "--bias 0, or experts in all layers"},
        {LLAMA | QWEN3 | OLMO2 | GPT2, !moe, "--experts 0"},
        {MIXTRAL, experts_from(c, 0), "experts in all layers"},
        {MIXTRAL, c->gate == GATE_softmax, "--gate softmax"},
        {MIXTRAL, c->router == ROUTER_topk, "--router topk"},
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

static unsigned saved_family(const Config *c) { return hf_architecture(c) ? nearest_family(c) : OURS; }

// ---- tensors -----------------------------------------------------------------------------------
// TURNED: GPT-2's Conv1D stores [in, out]. JOINED: TURNED, and one tensor with the row of the same name
// above it (q, k and v lie side by side in memory). A * counts the experts, which we keep as one tensor.
typedef enum { PLAIN, TURNED, JOINED } Layout;
static const struct { unsigned families; const char *ours, *theirs; Layout layout; } names[] = {
    {ROTARY, "embed", "model.embed_tokens", PLAIN},
    {ROTARY, "final_norm", "model.norm", PLAIN},
    {ROTARY | GPT2, "head", "lm_head", PLAIN},
    {ROTARY & ~OLMO2, "attn_norm", "input_layernorm", PLAIN},
    {ROTARY & ~OLMO2, "ffn_norm", "post_attention_layernorm", PLAIN},
    {OLMO2, "attn_norm_out", "post_attention_layernorm", PLAIN},
    {OLMO2, "ffn_norm_out", "post_feedforward_layernorm", PLAIN},
    {ROTARY, "attn.q", "self_attn.q_proj", PLAIN},
    {ROTARY & ~DEEPSEEK, "attn.k", "self_attn.k_proj", PLAIN},
    {ROTARY & ~DEEPSEEK, "attn.v", "self_attn.v_proj", PLAIN},
    {ROTARY, "attn.o", "self_attn.o_proj", PLAIN},
    {QWEN3 | OLMO2, "attn.q_norm", "self_attn.q_norm", PLAIN},
    {QWEN3 | OLMO2, "attn.k_norm", "self_attn.k_norm", PLAIN},
    {DEEPSEEK, "attn.q_a", "self_attn.q_a_proj", PLAIN},
    {DEEPSEEK, "attn.q_a_norm", "self_attn.q_a_layernorm", PLAIN},
    {DEEPSEEK, "attn.q_b", "self_attn.q_b_proj", PLAIN},
    {DEEPSEEK, "attn.kv_a", "self_attn.kv_a_proj_with_mqa", PLAIN},
    {DEEPSEEK, "attn.kv_a_norm", "self_attn.kv_a_layernorm", PLAIN},
    {DEEPSEEK, "attn.kv_b", "self_attn.kv_b_proj", PLAIN},
    {ROTARY, "ffn.gate", "mlp.gate_proj", PLAIN},
    {ROTARY, "ffn.up", "mlp.up_proj", PLAIN},
    {ROTARY, "ffn.down", "mlp.down_proj", PLAIN},
    {MIXTRAL, "moe.router", "block_sparse_moe.gate", PLAIN},
    {MIXTRAL, "moe.gate", "block_sparse_moe.experts.*.w1", PLAIN},
    {MIXTRAL, "moe.up", "block_sparse_moe.experts.*.w3", PLAIN},
    {MIXTRAL, "moe.down", "block_sparse_moe.experts.*.w2", PLAIN},
    {DEEPSEEK, "moe.router.bias", "mlp.gate.e_score_correction_bias", PLAIN},
    {DEEPSEEK, "moe.router", "mlp.gate", PLAIN},
    {DEEPSEEK, "moe.gate", "mlp.experts.*.gate_proj", PLAIN},
    {DEEPSEEK, "moe.up", "mlp.experts.*.up_proj", PLAIN},
    {DEEPSEEK, "moe.down", "mlp.experts.*.down_proj", PLAIN},
    {DEEPSEEK, "moe.shared.gate", "mlp.shared_experts.gate_proj", PLAIN},
    {DEEPSEEK, "moe.shared.up", "mlp.shared_experts.up_proj", PLAIN},
    {DEEPSEEK, "moe.shared.down", "mlp.shared_experts.down_proj", PLAIN},
    {GPT2, "embed", "transformer.wte", PLAIN},
    {GPT2, "pos", "transformer.wpe", PLAIN},
    {GPT2, "final_norm", "transformer.ln_f", PLAIN},
    {GPT2, "attn_norm", "ln_1", PLAIN},
    {GPT2, "ffn_norm", "ln_2", PLAIN},
    {GPT2, "attn.q", "attn.c_attn", TURNED},
    {GPT2, "attn.k", "attn.c_attn", JOINED},
    {GPT2, "attn.v", "attn.c_attn", JOINED},
    {GPT2, "attn.o", "attn.c_proj", TURNED},
    {GPT2, "ffn.up", "mlp.c_fc", TURNED},
    {GPT2, "ffn.down", "mlp.c_proj", TURNED},
};
enum { NAMES = sizeof names / sizeof *names };

// A tensor of a file, and where it lies in the arenas of the model.
typedef struct {
    char name[TENSOR_NAME];
    size_t rank, shape[3], size, at;  // shape as in the model: [out, in]
    bool turned, found;               // turned: [in, out] in the file
} Link;
typedef struct { Link *link; size_t count; } Links;

// Splits "layers.3.attn.q.weight" into "attn.q" and ".weight" when row r is about it. A row may also
// name a tensor in full (then there is no suffix).
static bool row_matches(size_t r, unsigned family, const char *tensor, const char **suffix) {
    size_t n = strlen(names[r].ours);
    *suffix = tensor + n;
    return names[r].families & family && strncmp(tensor, names[r].ours, n) == 0 &&
           (tensor[n] == '\0' || (tensor[n] == '.' && !strchr(tensor + n + 1, '.')));
}

static const char *without_layer(const Param *p) {
    return p->layer < 0 ? p->name : strchr(strchr(p->name, '.') + 1, '.') + 1;
}

static void write_name(Link *k, unsigned family, const Param *p, size_t r, const char *suffix, size_t expert) {
    char layer[64] = "", number[32];
    const char *theirs = names[r].theirs, *star = strchr(theirs, '*');
    if (p->layer >= 0) snprintf(layer, sizeof layer, "%s%d.", family_of(family)->layer, p->layer);
    snprintf(number, sizeof number, "%zu", expert);
    snprintf(k->name, sizeof k->name, "%s%.*s%s%s%s", layer, (int)strcspn(theirs, "*"), theirs, star ? number : "",
             star ? star + 1 : "", suffix);
}

static Link *add_link(Links *all, const Param *p, size_t at, size_t first_dimension) {
    all->link = xrealloc(all->link, (all->count + 1) * sizeof *all->link);
    Link *k = &all->link[all->count++];
    *k = (Link){.rank = p->rank - first_dimension, .size = 1, .at = at};
    for (size_t d = 0; d < k->rank; d++) k->size *= k->shape[d] = p->shape[first_dimension + d];
    return k;
}

// Makes a link longer by a tensor that lies directly behind it.
static void join(Links *all, const char *name, const Param *p) {
    for (size_t i = 0; i < all->count; i++) {
        Link *k = &all->link[i];
        if (strcmp(k->name, name) != 0 || k->at + k->size != p->at) continue;
        k->shape[0] += p->shape[0];
        k->size += p->size;
        return;
    }
    fail("%s is stored as a part of %s, but does not lie directly behind it in memory", p->name, name);
}

static void link_ours(Links *all, const Param *p) {
    Link *k = add_link(all, p, p->at, 0);
    snprintf(k->name, sizeof k->name, "%s", p->name);
}

static void link_theirs(Links *all, unsigned family, const Param *p) {
    const char *suffix;
    size_t r = 0;
    while (r < NAMES && !row_matches(r, family, without_layer(p), &suffix)) r++;
    if (r == NAMES) fail("%s has no tensor for %s; the flags of this model are not its own", family_of(family)->architecture, p->name);
    bool experts = strchr(names[r].theirs, '*') != NULL;
    size_t pieces = experts ? p->shape[0] : 1;
    for (size_t e = 0; e < pieces; e++) {
        Link joined, *k = names[r].layout == JOINED ? &joined : add_link(all, p, p->at + e * (p->size / pieces), experts);
        write_name(k, family, p, r, suffix, e);
        if (k == &joined) join(all, k->name, p);
        else k->turned = names[r].layout == TURNED && p->rank == 2;
    }
}

static Links links_of(const Model *m, unsigned family) {
    const Param *p;
    Links all = {0};
    for (size_t i = 0, n = model_params(m, &p); i < n; i++)
        if (family == OURS) link_ours(&all, &p[i]);
        else link_theirs(&all, family, &p[i]);
    return all;
}

static void shape_in_file(const Link *k, size_t shape[3]) {
    for (size_t d = 0; d < k->rank; d++) shape[d] = k->shape[k->turned ? k->rank - 1 - d : d];
}

void hf_write_tensors(const Model *m, const real *arena, const char *path) {
    Links all = links_of(m, saved_family(model_config(m)));
    TensorOut *out = xmalloc(all.count * sizeof *out);
    for (size_t i = 0; i < all.count; i++) {
        const Link *k = &all.link[i];
        out[i] = (TensorOut){.rank = k->rank, .data = arena + k->at, .transposed = k->turned};
        strcpy(out[i].name, k->name);
        shape_in_file(k, out[i].shape);
    }
    safetensors_write(path, out, all.count, NULL, 0);
    free(out);
    free(all.link);
}

// ---- config.json: the tables -------------------------------------------------------------------
// A key and the flag it sets. standard: its value where it is absent, as text; NULL: it must be there.
static const struct { unsigned families; const char *key, *flag, *standard; } keys[] = {
    {ROTARY | GPT2, "vocab_size", "vocab", NULL},
    {ROTARY, "hidden_size", "width", NULL},
    {ROTARY, "num_hidden_layers", "layers", NULL},
    {ROTARY, "num_attention_heads", "heads", NULL},
    {ROTARY & ~DEEPSEEK, "num_key_value_heads", "kv_heads", "0"},
    {ROTARY & ~(DEEPSEEK | QWEN3), "head_dim", "head_dim", "0"},
    {QWEN3, "head_dim", "head_dim", "128"},
    {ROTARY & ~MIXTRAL, "intermediate_size", "ffn_width", NULL},
    {MIXTRAL, "intermediate_size", "expert_width", NULL},
    {LLAMA | QWEN3 | DEEPSEEK, "rms_norm_eps", "norm_eps", "1e-6"},
    {MIXTRAL | OLMO2, "rms_norm_eps", "norm_eps", "1e-5"},
    {ROTARY, "tie_word_embeddings", "tie", "0"},
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
    {MIXTRAL, "sliding_window", "null", false},
    {QWEN3, "use_sliding_window", "false", false},
    {QWEN3 | OLMO2, "attention_bias", "false", false},
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
    "nope_dim", "v_dim", "qk_norm", "pos", "rope_theta", "norm", "norm_kind", "norm_eps", "ffn", "ffn_width", "bias", "tie",
    "experts", "top_k", "expert_width", "shared_experts", "first_dense", "moe_layers", "gate", "router", "norm_topk",
    "route_scale",
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

static void put_positions(json_t *object, const Config *c) {
    put(object, "max_position_embeddings", flag_as_json(c, "context"));
    put(object, "rope_theta", flag_as_json(c, "rope_theta"));  // where transformers before 5 look
    put(object, "rope_parameters", json_pack("{s:s, s:o}", "rope_type", "default", "rope_theta", flag_as_json(c, "rope_theta")));
}

static void put_deepseek(json_t *object, const Config *c) {
    put(object, "num_key_value_heads", flag_as_json(c, "heads"));
    put(object, "rope_interleave", json_false());
    put(object, "num_nextn_predict_layers", json_integer(0));
    put(object, "attention_bias", flag_as_json(c, "bias"));
    if (c->q_rank == 0) put(object, "q_lora_rank", json_null());
    if (c->experts == 0) put(object, "first_k_dense_replace", flag_as_json(c, "layers"));
}

static json_t *config_as_json(const Config *c) {
    unsigned family = saved_family(c);
    json_t *object = json_object();
    put(object, "architectures", json_pack("[s]", family_of(family)->architecture));
    put(object, "model_type", json_string(family_of(family)->model_type));
    put(object, "dtype", json_string(sizeof(real) == 8 ? "float64" : "float32"));
    for (size_t i = 0; i < FIXED; i++)
        if (fixed[i].families & family) put(object, fixed[i].key, json_loads(fixed[i].value, JSON_DECODE_ANY, NULL));
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].families & family) put(object, keys[i].key, flag_as_json(c, keys[i].flag));
    if (family & ROTARY) put_positions(object, c);
    if (family & ROTARY & ~DEEPSEEK) put(object, "num_key_value_heads", json_integer((json_int_t)config_kv_heads(c, c->attn.at[0])));
    if (family & LLAMA) put(object, "attention_bias", flag_as_json(c, "bias")), put(object, "mlp_bias", flag_as_json(c, "bias"));
    if (family & MIXTRAL) put(object, "router_aux_loss_coef", flag_as_json(c, "aux_loss"));
    if (family & DEEPSEEK) put_deepseek(object, c);
    if (family != OURS)  // ids that the library assumes otherwise may lie outside our vocabulary
        for (int i = 0; i < 3; i++) put(object, (const char *[]){"bos_token_id", "eos_token_id", "pad_token_id"}[i], json_null());
    put(object, "receipts", all_flags(c));
    return object;
}

void hf_save(const Model *m, const char *dir) {
    json_t *object = config_as_json(model_config(m));
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    char *config = xprintf("%s/config.json", dir), *weights = xprintf("%s/model.safetensors", dir);
    if (!text) fail("%s: out of memory for its text", config);
    hf_write_tensors(m, model_values((Model *)m), weights);  // only read, but the accessor is for writers too
    write_whole_file(config, text, strlen(text));
    json_decref(object);
    free(text), free(config), free(weights);
}

// ---- config.json: reading ----------------------------------------------------------------------
typedef struct { char *path; json_t *json; } JsonFile;

static JsonFile read_json(const char *dir, const char *file) {
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

static void close_json(JsonFile *j) {
    json_decref(j->json);
    free(j->path);
}

static const Family *family_in(const JsonFile *j) {
    const char *type = json_string_value(json_object_get(j->json, "model_type"));
    for (size_t i = 0; type && i < FAMILIES; i++)
        if (strcmp(families[i].model_type, type) == 0) return &families[i];
    fail("%s: model_type %.60s is none of llama, qwen3, olmo2, mixtral, deepseek_v3, gpt2, receipts", j->path, type ? type : "(none)");
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
        json_t *value = json_object_get(j->json, fixed[i].key), *expected = json_loads(fixed[i].value, JSON_DECODE_ANY, NULL);
        if (value ? !json_equal(value, expected) : fixed[i].required) refuse(j, fixed[i].key, fixed[i].value);
        json_decref(expected);
    }
    json_t *quantized = json_object_get(j->json, "quantization_config");
    if (quantized && !json_is_null(quantized)) refuse(j, "quantization_config", "null");
    size_t i;
    json_t *type;
    json_array_foreach(json_object_get(j->json, "layer_types"), i, type)
        if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention") != 0)
            refuse(j, "layer_types", "full_attention");
}

static void read_keys(Config *c, const JsonFile *j, unsigned family) {
    for (size_t i = 0; i < KEYS; i++) {
        if (!(keys[i].families & family)) continue;
        const json_t *value = json_object_get(j->json, keys[i].key);
        if (value && !json_is_null(value)) set_from_json(c, j, keys[i].key, keys[i].flag, value);
        else if (value && strcmp(keys[i].flag, "q_rank") == 0) c->q_rank = 0;  // null: not compressed
        else if (keys[i].standard) set_flag(c, j, keys[i].key, keys[i].flag, keys[i].standard);
        else fail("%s: the key %s is missing", j->path, keys[i].key);
    }
}

// Newer files keep everything about RoPE in rope_parameters, older ones in rope_theta and rope_scaling.
static void read_rope(Config *c, const JsonFile *j, unsigned family) {
    const json_t *theta = json_object_get(j->json, "rope_theta");
    if (family == MIXTRAL) c->rope_theta = 1e6;
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "rope_parameters" : "rope_scaling";
        const json_t *about = json_object_get(j->json, key), *type = json_object_get(about, "rope_type");
        if (!type) type = json_object_get(about, "type");
        const char *name = json_is_string(type) ? json_string_value(type) : "default";
        const json_t *part = json_object_get(about, "partial_rotary_factor");
        if ((type && !json_is_string(type)) || strcmp(name, "default") != 0 || (part && json_number_value(part) != 1))
            refuse(j, key, "rope_type \"default\" over all dimensions");
        if (json_object_get(about, "rope_theta")) theta = json_object_get(about, "rope_theta");
    }
    if (theta && !json_is_null(theta)) set_from_json(c, j, "rope_theta", "rope_theta", theta);
}

static bool is_true(const JsonFile *j, const char *key) { return json_is_true(json_object_get(j->json, key)); }

// What a family is, apart from its sizes.
static void set_family(Config *c, const JsonFile *j, unsigned family) {
    if (family & OLMO2) c->norm = NORM_out;
    if (family & (QWEN3 | OLMO2)) c->qk_norm = family == QWEN3 ? QK_head : QK_full;
    if (family & GPT2) c->pos = POS_learned, c->norm_kind = NORM_KIND_layer, c->ffn = FFN_gelu, c->bias = true;
    if (family & DEEPSEEK) c->gate = GATE_sigmoid, c->router = ROUTER_bias;
    if (family & (LLAMA | DEEPSEEK)) c->bias = is_true(j, "attention_bias");
    if (family & LLAMA && is_true(j, "mlp_bias") != c->bias) refuse(j, "mlp_bias", "the value of attention_bias");
}

static void set_standard(Config *c, const char *flag) {
    flags_set(&config_table, c, flag, config_table.flag[flags_find(&config_table, flag)].standard);
}

// DeepSeek-V3: its attention is another kind, and it may turn out to have no experts at all.
static void finish_deepseek(Config *c, const JsonFile *j) {
    flags_set(&config_table, c, "attn", "mla");
    c->head_dim = c->nope_dim;
    if (c->first_dense < c->layers) {
        if (c->shared_experts == 0) refuse(j, "n_shared_experts", "1 or more");
        if (c->bias && c->first_dense > 0) refuse(j, "attention_bias", "false (or experts in all layers)");
        return;
    }
    static const char *const unused[] = {"experts", "top_k", "expert_width", "shared_experts", "first_dense", "gate", "router",
                                         "norm_topk", "route_scale"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) set_standard(c, unused[i]);
    if (c->bias) refuse(j, "attention_bias", "false (or experts in all layers)");
}

static void finish_heads(Config *c, const JsonFile *j) {
    if (c->kv_heads && c->heads % c->kv_heads != 0) refuse(j, "num_key_value_heads", "a divisor of num_attention_heads");
    bool grouped = c->kv_heads && c->kv_heads != c->heads;
    flags_set(&config_table, c, "attn", grouped ? "gqa" : "mha");
    if (!grouped) c->kv_heads = 0;
    if (!c->head_dim && c->width % c->heads != 0) refuse(j, "num_attention_heads", "a divisor of hidden_size");
    if (!c->head_dim) c->head_dim = c->width / c->heads;
}

static bool read_flag(Config *c, const JsonFile *j, const json_t *flags, const char *name) {
    const json_t *value = json_object_get(flags, name);
    if (!value) return false;
    if (!json_is_string(value)) fail("%s: receipts.%s must be text", j->path, name);
    set_flag(c, j, name, name, json_string_value(value));
    return true;
}

void hf_config(Config *c, const char *dir) {
    JsonFile j = read_json(dir, "config.json");
    unsigned family = family_in(&j)->family;
    const json_t *flags = json_object_get(j.json, "receipts");
    if (family == OURS && !json_is_object(flags)) fail("%s: the object receipts, with the flags, is missing", j.path);
    for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++)
        if (!read_flag(c, &j, flags, architecture_flags[i])) set_standard(c, architecture_flags[i]);
    if (c->pos == POS_learned) read_flag(c, &j, flags, "context");
    if (!json_is_object(flags)) {
        check_fixed(&j, family);
        set_family(c, &j, family);
        read_keys(c, &j, family);
        if (family & ROTARY) read_rope(c, &j, family);
        if (family & DEEPSEEK) finish_deepseek(c, &j);
        else finish_heads(c, &j);
    }
    close_json(&j);
}

bool hf_flags(Config *c, const char *dir) {
    JsonFile j = read_json(dir, "config.json");
    const json_t *flags = json_object_get(j.json, "receipts");
    for (size_t i = 0; i < config_table.count; i++)
        if (config_table.flag[i].kind != FLAG_GROUP) read_flag(c, &j, flags, config_table.flag[i].name);
    bool ours = json_is_object(flags);
    close_json(&j);
    return ours;
}

// ---- weights: reading --------------------------------------------------------------------------
typedef struct { char **path; size_t count; } Paths;

static void add_shard(Paths *p, const char *dir, const char *index, const char *file) {
    if (!file || strchr(file, '/')) fail("%s: the names of the shards must be files beside it", index);
    char *path = xprintf("%s/%s", dir, file);
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->path[i], path) == 0) {
            free(path);
            return;
        }
    p->path = xrealloc(p->path, (p->count + 1) * sizeof *p->path);
    p->path[p->count++] = path;
}

static Paths weight_files(const char *dir) {
    Paths p = {0};
    char *whole = xprintf("%s/model.safetensors", dir), *index = xprintf("%s.index.json", whole);
    if (file_exists(whole)) add_shard(&p, dir, "", "model.safetensors");
    else if (!file_exists(index)) fail("%s has neither model.safetensors nor model.safetensors.index.json", dir);
    else {
        JsonFile j = read_json(dir, "model.safetensors.index.json");
        const char *name;
        json_t *file;
        json_object_foreach(json_object_get(j.json, "weight_map"), name, file) add_shard(&p, dir, index, json_string_value(file));
        if (p.count == 0) fail("%s: weight_map, which names the shards, is missing or empty", index);
        close_json(&j);
    }
    free(whole), free(index);
    return p;
}

static const char *shape_text(size_t rank, const size_t *shape, char out[96]) {
    int n = snprintf(out, 96, "[");
    for (size_t d = 0; d < rank; d++) n += snprintf(out + n, (size_t)(96 - n), d ? ", %zu" : "%zu", shape[d]);
    snprintf(out + n, (size_t)(96 - n), "]");
    return out;
}

static void copy_tensor(const SafeTensors *file, const TensorIn *t, const Link *k, real *values) {
    size_t shape[3];
    char expected[96], found[96];
    shape_in_file(k, shape);
    if (t->rank != k->rank || memcmp(t->shape, shape, k->rank * sizeof *shape) != 0)
        fail("%s: tensor %s: expected %s, found %s", file->path, t->name, shape_text(k->rank, shape, expected),
             shape_text(t->rank, t->shape, found));
    if (!k->turned) {
        safetensors_copy(file, t, values + k->at);
        return;
    }
    real *turned = xmalloc(k->size * sizeof *turned);
    safetensors_copy(file, t, turned);
    for (size_t i = 0; i < shape[0]; i++)
        for (size_t o = 0; o < shape[1]; o++) values[k->at + o * shape[0] + i] = turned[i * shape[1] + o];
    free(turned);
}

// What a file may hold beside the parameters: constants of old versions, and the head where it is tied.
static bool is_harmless(const char *name, const Config *c) {
    static const char *const endings[] = {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"};
    size_t n = strlen(name);
    for (int i = 0; i < 3; i++) {
        size_t e = strlen(endings[i]);
        if (n >= e && strcmp(name + n - e, endings[i]) == 0) return true;
    }
    return c->tie && strcmp(name, "lm_head.weight") == 0;
}

static int by_name(const void *a, const void *b) { return strcmp(((const Link *)a)->name, ((const Link *)b)->name); }

// Models saved without their head have no leading "model." or "transformer.".
static Link *find_link(const Links *all, const char *prefix, const char *name) {
    Link key, *k;
    size_t head = strcspn(prefix, ".") + 1;
    strcpy(key.name, name);
    if ((k = bsearch(&key, all->link, all->count, sizeof key, by_name)) || head + strlen(name) >= sizeof key.name) return k;
    memcpy(key.name, prefix, head);
    strcpy(key.name + head, name);
    return bsearch(&key, all->link, all->count, sizeof key, by_name);
}

static void load_file(const Model *m, const char *path, const Links *all, const char *prefix, real *values) {
    SafeTensors *file = safetensors_open(path);
    char shape[96];
    for (size_t i = 0; i < file->count; i++) {
        const TensorIn *t = &file->tensor[i];
        Link *k = find_link(all, prefix, t->name);
        if (!k && !is_harmless(t->name, model_config(m)))
            fail("%s: tensor %s %s is left over: this model has no place for it", path, t->name, shape_text(t->rank, t->shape, shape));
        if (k && k->found) fail("%s: tensor %s is there twice", path, t->name);
        if (!k) continue;
        copy_tensor(file, t, k, values);
        k->found = true;
    }
    safetensors_close(file);
}

// Rows of rotated pairs (0 1)(2 3)... brought into our order, halves that pair: 0 2 ... 1 3 ...
static void deinterleave(real *row, size_t rows, size_t columns) {
    size_t bytes = rows * columns * sizeof *row;
    real *pairs = memcpy(xmalloc(bytes), row, bytes);
    for (size_t i = 0; i < rows; i++)
        memcpy(row + i * columns, pairs + (i < rows / 2 ? 2 * i : 2 * i - rows + 1) * columns, columns * sizeof *row);
    free(pairs);
}

// DeepSeek's own checkpoints (rope_interleave) rotate neighbours; in ours dimension d pairs with d + P/2.
static void deinterleave_model(const Model *m, real *values) {
    const Config *c = model_config(m);
    const Param *p;
    size_t head = c->nope_dim + c->rope_dim;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        if (p[i].layer < 0) continue;
        const char *name = without_layer(&p[i]);
        size_t columns = p[i].rank == 2 ? p[i].shape[1] : 1;
        if (strcmp(name, "attn.q.weight") == 0 || strcmp(name, "attn.q_b.weight") == 0)
            for (size_t h = 0; h < c->heads; h++)
                deinterleave(values + p[i].at + (h * head + c->nope_dim) * columns, c->rope_dim, columns);
        if (strcmp(name, "attn.kv_a.weight") == 0 || strcmp(name, "attn.kv_a.bias") == 0)
            deinterleave(values + p[i].at + c->kv_rank * columns, c->rope_dim, columns);
    }
}

void hf_load(Model *m, const char *dir) {
    JsonFile j = read_json(dir, "config.json");
    const Family *family = family_in(&j);
    const json_t *interleaved = json_object_get(j.json, "rope_interleave");
    Links all = links_of(m, family->family);
    Paths files = weight_files(dir);
    char shape[96];
    qsort(all.link, all.count, sizeof *all.link, by_name);
    for (size_t i = 0; i < files.count; i++) load_file(m, files.path[i], &all, family->layer, model_values(m));
    for (size_t i = 0; i < all.count; i++) {
        const Link *k = &all.link[i];
        size_t in_file[3];
        shape_in_file(k, in_file);
        if (!k->found) fail("%s: tensor %s %s is missing", dir, k->name, shape_text(k->rank, in_file, shape));
    }
    if (family->family == DEEPSEEK && (!interleaved || json_is_true(interleaved))) deinterleave_model(m, model_values(m));
    model_changed(m);
    for (size_t i = 0; i < files.count; i++) free(files.path[i]);
    free(files.path), free(all.link);
    close_json(&j);
}

// test_hf.c: our models saved under Hugging Face's names and read back; configurations and weights that
// must be refused, and what must be tolerated. That transformers computes the same is for tests/oracle.py.
#include "tests/config.h"
#include "tests/test.h"
#include "formats/hf.h"
#include "formats/hf_config.h"
#include "lib/rng.h"
#include <jansson.h>
#include <stdlib.h>

static Config resolved(const char *flags) {
    return config_of("--vocab 11 --layers 2 --width 16 --heads 2 --context 8 --ffn-width 24", flags, 0);
}

#define MLA "--attn mla --kv-rank 6 --rope-dim 4 --nope-dim 6 --v-dim 10 "
#define MOE "--experts 4 --top-k 2 --expert-width 12 "
#define DEEPSEEK MLA MOE "--gate sigmoid --router bias --shared-experts 1 "
#define NEXT "--attn gated-delta+gqa --attn-gate --qk-norm head --state-dim 6 --head-dim 10 "
#define GPT2 "--pos learned --norm-kind layer --ffn gelu --bias "

// ---- which architecture ------------------------------------------------------------------------
static void test_architectures(void) {
    static const struct { const char *flags, *architecture, *obstacle; } cases[] = {
        {"", "LlamaForCausalLM", NULL},
        {"--attn gqa --kv-heads 1 --bias --tie 0", "LlamaForCausalLM", NULL},
        {"--attn gqa+gqa --kv-heads 1", "LlamaForCausalLM", NULL},
        {"--qk-norm head", "Qwen3ForCausalLM", NULL},
        {"--norm out --qk-norm full", "Olmo2ForCausalLM", NULL},
        {MOE, "MixtralForCausalLM", NULL},
        {"--attn swa --window 3", "MistralForCausalLM", NULL},
        {"--attn swa+mha --window 3", "MinistralForCausalLM", NULL},
        {"--attn swa+gqa --window 3", "MinistralForCausalLM", NULL},
        {"--attn swa --window 3 --qk-norm head", "Qwen3ForCausalLM", NULL},
        {"--attn mha+swa --qk-norm head", "Qwen3ForCausalLM", NULL},
        {"--attn swa+gqa --norm out --qk-norm full", "Olmo3ForCausalLM", NULL},
        {MOE "--attn swa --kv-heads 1", "MixtralForCausalLM", NULL},
        {"--attn-bias qkv --attn gqa", "Qwen2ForCausalLM", NULL},
        {"--attn-bias all", "LlamaForCausalLM", NULL},
        {"--ffn-bias all", "LlamaForCausalLM", NULL},
        {"--qk-norm head --attn-bias all", "Qwen3ForCausalLM", NULL},
        {"--rope-layers rope+none --bias", "SmolLM3ForCausalLM", NULL},
        {"--rope-scaling llama3 --rope-trained 4", "LlamaForCausalLM", NULL},
        {"--rope-scaling ntk", NULL, "--rope-scaling of another kind"},
        {"--qk-norm head --rope-layers rope+none", NULL, "Qwen3ForCausalLM needs --rope-layers rope"},
        {"--qk-norm head --attn-bias qkv", NULL, "Qwen3ForCausalLM needs --attn-bias none or all"},
        {"--attn-bias qkv --ffn-bias all", NULL, "Qwen2ForCausalLM needs --bias 0"},
        {MOE "--router topk --route-groups 2", NULL, "MixtralForCausalLM needs --route-groups 0"},
        {DEEPSEEK "--route-groups 2", "DeepseekV3ForCausalLM", NULL},
        {DEEPSEEK "--route-groups 2 --route-group-score max", NULL, "--route-group-score top2"},
        {MOE "--qk-norm head --norm-topk 0", "Qwen3MoeForCausalLM", NULL},
        {MOE "--qk-norm head --attn swa --moe-layers dense+moe", "Qwen3MoeForCausalLM", NULL},
        {MOE "--qk-norm full --attn gqa", "OlmoeForCausalLM", NULL},
        {MLA MOE "--norm-topk 0 --shared-experts 1 --first-dense 1", "DeepseekV2ForCausalLM", NULL},
        {MLA, "DeepseekV3ForCausalLM", NULL},
        {DEEPSEEK "--q-rank 6 --first-dense 1", "DeepseekV3ForCausalLM", NULL},
        {DEEPSEEK "--bias", "DeepseekV3ForCausalLM", NULL},
        {NEXT, "Qwen3NextForCausalLM", NULL},
        {"--attn gated-delta+mha+gated-delta --layers 3 --attn-gate --qk-norm head", "Qwen3NextForCausalLM", NULL},
        {"--attn gated-delta", "Qwen3NextForCausalLM", NULL},
        {GPT2, "GPT2LMHeadModel", NULL},
        {"--norm peri", NULL, "LlamaForCausalLM needs --norm pre"},
        {"--norm-kind layer", NULL, "--norm-kind rms"},
        {"--ffn relu2", NULL, "--ffn swiglu"},
        {"--pos none", NULL, "--pos rope"},
        {"--rope-dim 4", NULL, "--rope-dim as wide"},
        {"--heads 3 --head-dim 6", NULL, "--width to be a multiple"},
        {"--attn gqa+mha", NULL, "on all layers"},
        {"--attn mla+gqa", NULL, "--attn mha or gqa"},
        {"--attn swa+mha --kv-heads 1", NULL, "MinistralForCausalLM needs --attn swa, with mha or"},
        {"--attn swa+mha+gqa --layers 3 --qk-norm head", NULL, "Qwen3ForCausalLM needs --attn swa, with mha or"},
        {MOE "--attn swa+mha", NULL, "MixtralForCausalLM needs --attn mha, gqa or swa on all layers"},
        {"--qk-norm head --bias", NULL, "Qwen3ForCausalLM needs --bias 0"},
        {"--attn gated-delta+mha --qk-norm head", NULL, "Qwen3NextForCausalLM needs --attn-gate 1"},
        {"--attn gated-delta+gqa --attn-gate", NULL, "--qk-norm head"},
        {"--attn gated-delta+gla", NULL, "--attn gated-delta, with mha or"},
        {"--attn gated-delta+mla --attn-gate", NULL, "--attn gated-delta, with mha or"},
        {"--attn gated-delta --pos learned", NULL, "--pos none"},
        {NEXT "--pos none", NULL, "--pos rope"},
        {NEXT "--short-conv 0", NULL, "--short-conv of at least 1"},
        {NEXT "--bias", NULL, "--bias 0"},
        {NEXT MOE, NULL, "--experts 0"},
        {"--norm out", NULL, "Olmo2ForCausalLM needs --qk-norm full"},
        {"--attn-gate", NULL, "LlamaForCausalLM needs --attn-gate 0"},
        {"--qk-norm full", NULL, "Olmo2ForCausalLM needs --norm out"},
        {MOE "--first-dense 1", NULL, "MixtralForCausalLM needs experts in all layers"},
        {MOE "--gate sigmoid", NULL, "--gate softmax"},
        {MOE "--router bias", NULL, "--router topk"},
        {MOE "--norm-topk 0", NULL, "--norm-topk 1"},
        {MOE "--route-scale 2", NULL, "--route-scale 1"},
        {MOE "--shared-experts 1", NULL, "--shared-experts 0"},
        {MOE "--qk-norm head --attn swa+mha", NULL, "Qwen3MoeForCausalLM needs --attn mha, gqa or swa"},
        {MOE "--qk-norm full --head-dim 6", NULL, "OlmoeForCausalLM needs --head-dim of width/heads"},
        {MOE "--qk-norm full --attn swa", NULL, "OlmoeForCausalLM needs --attn mha or gqa"},
        {MLA MOE "--norm-topk 0", NULL, "DeepseekV2ForCausalLM needs --shared-experts of at least 1"},
        {MLA MOE, NULL, "DeepseekV3ForCausalLM needs --gate sigmoid"},
        {MLA MOE "--gate sigmoid", NULL, "--router bias"},
        {MLA MOE "--gate sigmoid --router bias", NULL, "--shared-experts of at least 1"},
        {DEEPSEEK "--moe-layers moe+dense", NULL, "--moe-layers"},
        {DEEPSEEK "--first-dense 1 --bias", NULL, "--bias 0, or experts"},
        {GPT2 "--bias 0", NULL, "GPT2LMHeadModel needs --bias 1"},
        {GPT2 "--heads 3 --head-dim 4", NULL, "--head-dim of width/heads"},
        {GPT2 "--attn gqa", NULL, "--attn mha"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config c = resolved(cases[i].flags);
        const char *found = hf_architecture(&c), *obstacle = hf_obstacle(&c);
        CHECK(!found == !cases[i].architecture && (!found || strcmp(found, cases[i].architecture) == 0), "%s: %s (%s)",
              cases[i].flags, found ? found : "none", obstacle ? obstacle : "");
        CHECK(!obstacle == !cases[i].obstacle && (!obstacle || strstr(obstacle, cases[i].obstacle)), "%s: %s",
              cases[i].flags, obstacle ? obstacle : "no obstacle");
    }
}

// ---- saved and read back -----------------------------------------------------------------------
// A model without a zero or a one in it, so that a tensor that was not read is seen. Its values are floats, in the
// double build too: some norms are saved as the distance from one, which keeps no more bits of a number far from it.
static Model *random_model(const Config *c) {
    Model *m = model_new(c, false);
    const Param *p;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        Rng r = rng_stream(c->seed, RNG_TEST, i);
        real *value = model_values(m) + p[i].offset;
        for (size_t e = 0; e < p[i].size; e++) value[e] = (real)(float)rng_normal(&r);
    }
    model_changed(m);
    return m;
}

static Model *loaded_from(const char *dir) {
    Config c;
    flags_defaults(&config_table, &c);
    hf_config(&c, dir);
    config_resolve(&c);
    Model *m = model_new(&c, false);
    hf_load(m, dir);
    return m;
}

static void check_same_values(Model *a, Model *b, const char *what) {
    const Param *p, *q;
    size_t n = model_params(a, &p), k = model_params(b, &q);
    CHECK(n == k, "%s: %zu tensors, then %zu", what, n, k);
    for (size_t i = 0; i < n && i < k; i++) {
        const real *x = model_values(a) + p[i].offset, *y = model_values(b) + q[i].offset;
        bool same = strcmp(p[i].name, q[i].name) == 0 && p[i].size == q[i].size;
        CHECK(same && memcmp(x, y, p[i].size * sizeof *x) == 0, "%s: %s differs after loading", what, p[i].name);
    }
}

static json_t *read_config(const char *dir) {
    json_t *j = json_load_file(xprintf("%s/config.json", dir), 0, NULL);
    CHECK(j != NULL, "no config.json in %s", dir);
    return j;
}

static void write_config(const char *dir, json_t *j) {
    CHECK(json_dump_file(j, xprintf("%s/config.json", dir), 0) == 0, "cannot write config.json in %s", dir);
}

static void test_round_trip(void) {
    static const char *const cases[] = {
        "",
        "--attn gqa --kv-heads 1 --bias --tie 0 --rope-theta 123.5 --norm-eps 3e-4",
        "--qk-norm head --head-dim 6",
        "--norm out --qk-norm full --attn gqa",
        "--norm out --qk-norm full --attn swa+swa+gqa --layers 4 --window 3",
        "--attn swa --window 5 --kv-heads 1 --tie 0",
        "--attn mha+swa --window 2",
        "--attn swa+gqa --window 3 --qk-norm head --head-dim 6",
        MOE "--attn swa --window 3",
        MOE "--attn gqa --tie 0",
        MOE "--qk-norm head --moe-layers dense+moe+moe --layers 4 --norm-topk 0 --head-dim 6",
        MOE "--qk-norm head --attn swa --window 3 --tie 0 --top-k 3",
        MOE "--qk-norm full --attn gqa --norm-topk 0",
        MLA MOE "--norm-topk 0 --shared-experts 2 --first-dense 1 --route-scale 1.5",
        MLA MOE "--norm-topk 0 --shared-experts 1 --q-rank 6 --bias",
        "--attn gqa --attn-bias qkv", "--attn-bias all", "--ffn-bias all", "--attn-bias qkv --attn swa+mha --window 3",
        "--rope-layers rope+none --attn-bias all --tie 0", "--rope-layers none+rope --attn mha+swa --window 3",
        "--rope-scaling linear --rope-factor 3", "--rope-scaling llama3 --rope-trained 5 --rope-low-freq 0.5",
        "--rope-scaling dynamic --rope-trained 13 --attn gqa",
        "--rope-scaling yarn --rope-trained 5 --rope-beta-fast 3 --rope-truncate 0 --qk-norm head",
        "--rope-scaling yarn --rope-trained 5 --rope-truncate 0 --norm out --qk-norm full --attn swa+mha --window 3",
        DEEPSEEK "--route-groups 2 --rope-scaling yarn --rope-trained 5 --rope-mscale-all-dim 1.5",
        MLA MOE "--norm-topk 0 --shared-experts 1 --route-groups 2 --route-group-score max",
        MLA,
        DEEPSEEK "--q-rank 6 --first-dense 1 --route-scale 2.5",
        DEEPSEEK "--bias --norm-topk 0",
        GPT2,
        GPT2 "--tie 0",
        NEXT "--rope-dim 6 --short-conv 2",
        NEXT "--tie 0 --heads 7 --kv-heads 1 --head-dim 14 --rope-dim 2",
        "--attn gated-delta --head-dim 7 --state-dim 5 --norm-eps 1e-3",
        MLA MOE "--norm peri --ffn relu2 --attn mla+gqa --moe-layers dense+moe --bias",
        "--attn gqa+mla --attn-gate",
        "--attn gated-delta+gla --state-dim 5 --short-conv 2 --bias", "--attn mamba2",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config c = resolved(cases[i]), again;
        Model *m = random_model(&c);
        const char *dir = xprintf("%s/%zu", test_directory(), i);
        make_directories(dir);
        hf_save(m, dir);
        check_same_values(m, loaded_from(dir), cases[i]);
        flags_defaults(&config_table, &again);
        CHECK(hf_flags(&again, dir), "%s: ours is not known as ours", cases[i]);
        char *was = flags_summary(&config_table, &c, false), *is = flags_summary(&config_table, &again, false);
        CHECK(strcmp(was, is) == 0, "%s, then %s", was, is);
        if (!hf_architecture(&c)) continue;
        json_t *j = read_config(dir);  // now as if somebody else had written it
        json_object_del(j, "receipts");
        write_config(dir, j);
        check_same_values(m, loaded_from(dir), cases[i]);
        CHECK(!hf_flags(&again, dir), "%s: taken for ours", cases[i]);
    }
}

// ---- configurations of others ------------------------------------------------------------------
// In these, ' stands for ".
static const char *const llama =
    "{'model_type':'llama', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24, 'max_position_embeddings':8, 'hidden_act':'silu'}";
static const char *const qwen3 =
    "{'model_type':'qwen3', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'head_dim':6, 'intermediate_size':24, 'max_position_embeddings':8}";
static const char *const smollm3 =
    "{'model_type':'smollm3', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':4, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24}";
static const char *const qwen2 =
    "{'model_type':'qwen2', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24}";
static const char *const qwen3_sliding =
    "{'model_type':'qwen3', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24, 'use_sliding_window':true, 'sliding_window':5,"
    " 'max_window_layers':1}";
static const char *const olmo3 =
    "{'model_type':'olmo3', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':4, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24}";
static const char *const qwen3_next =
    "{'model_type':'qwen3_next', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':4, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'head_dim':8, 'intermediate_size':24, 'linear_num_key_heads':4,"
    " 'linear_num_value_heads':4, 'linear_key_head_dim':6, 'linear_value_head_dim':8, 'num_experts':0}";
#define DELTA "'linear_attention'"
static const char *const mixtral =
    "{'model_type':'mixtral', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24, 'num_local_experts':4, 'num_experts_per_tok':2}";
static const char *const deepseek =
    "{'model_type':'deepseek_v3', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':3,"
    " 'intermediate_size':24, 'kv_lora_rank':6, 'q_lora_rank':null, 'qk_nope_head_dim':6, 'qk_rope_head_dim':4,"
    " 'v_head_dim':10, 'n_routed_experts':4, 'num_experts_per_tok':2, 'moe_intermediate_size':12,"
    " 'first_k_dense_replace':1, 'n_group':1, 'topk_group':1}";
static const char *const deepseek2 =
    "{'model_type':'deepseek_v2', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'intermediate_size':24, 'kv_lora_rank':6, 'q_lora_rank':null, 'qk_nope_head_dim':6, 'qk_rope_head_dim':4,"
    " 'v_head_dim':10, 'n_routed_experts':4, 'num_experts_per_tok':2, 'moe_intermediate_size':12}";
static const char *const mistral =
    "{'model_type':'mistral', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':8,"
    " 'num_key_value_heads':2, 'intermediate_size':24}";
static const char *const qwen3_moe =
    "{'model_type':'qwen3_moe', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':3, 'num_attention_heads':4,"
    " 'num_key_value_heads':2, 'intermediate_size':24, 'num_experts':4, 'num_experts_per_tok':2,"
    " 'moe_intermediate_size':12}";
static const char *const olmoe =
    "{'model_type':'olmoe', 'vocab_size':11, 'hidden_size':16, 'num_hidden_layers':2, 'num_attention_heads':4,"
    " 'intermediate_size':24, 'num_experts':4, 'num_experts_per_tok':2}";
static const char *const gpt2 =
    "{'model_type':'gpt2', 'vocab_size':11, 'n_embd':16, 'n_layer':2, 'n_head':2, 'n_positions':8, 'n_inner':null}";

static json_t *json_of(const char *text) {
    char *copy = xprintf("%s", text);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    json_t *j = json_loads(copy, JSON_DECODE_ANY, NULL);
    CHECK(j != NULL, "not JSON: %s", text);
    free(copy);
    return j;
}

// The base with one key set, or removed where value is NULL.
static void write_edited(const char *base, const char *key, const char *value) {
    json_t *j = json_of(base);
    if (key && value) json_object_set_new(j, key, json_of(value));
    else if (key) json_object_del(j, key);
    write_config(test_directory(), j);
    json_decref(j);
}

static void load_config(void *out) {
    flags_defaults(&config_table, out);
    hf_config(out, test_directory());
    config_resolve(out);
}

static void load_flags(void *out) { CHECK(hf_flags(out, test_directory()), "a run of ours is not known as one"); }

// What others change in a run of ours is not overruled by the flags that it was trained with.
static void test_two_truths(void) {
    static const struct { const char *flags, *key, *value, *word; } cases[] = {
        {"", "rms_norm_eps", "0.1", "rms_norm_eps is 0.1, but the flags of the run in the object receipts say 1e-"},
        {"", "tie_word_embeddings", "false", "tie_word_embeddings is false, but"},
        {"", "attention_bias", "true", "attention_bias is true, but"},
        {"", "max_position_embeddings", "16", "max_position_embeddings is 16, but"},
        {"", "rope_parameters", "{'rope_type':'default','rope_theta':9.0}", "but rope_parameters.rope_theta is 9.0"},
        {"", "num_key_value_heads", "1", "num_key_value_heads is 1, but"},
        {"", "model_type", "'mistral'", "model_type is \"mistral\", but"},
        {"--attn swa+gqa --window 3", "layer_types", "['sliding_attention','sliding_attention']", "layer_types is"},
        {MOE, "num_experts_per_tok", "3", "num_experts_per_tok is 3, but"},
        {MOE "--qk-norm head", "norm_topk_prob", "false", "norm_topk_prob is false, but"},
        {GPT2, "n_positions", "7", "n_positions is 7, but"},
        {"", "use_cache", "false", NULL},
        {MOE, "router_aux_loss_coef", "0.5", NULL},
        {"--attn gqa --kv-heads 2", "attention_dropout", "0.5", NULL},
        {"--attn gqa+gqa --norm-eps 1.0000000000000002e-5", "use_cache", "false", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config c = resolved(cases[i].flags), out;
        hf_save(random_model(&c), test_directory());
        json_t *j = read_config(test_directory());
        json_object_set_new(j, cases[i].key, json_of(cases[i].value));
        write_config(test_directory(), j);
        for (int all = 0; all < 2; all++) {
            void (*load)(void *) = all ? load_flags : load_config;
            flags_defaults(&config_table, &out);
            if (cases[i].word) {
                CHECK(test_fails(1, cases[i].word, load, &out), "%s: %s", cases[i].key, test_message);
                continue;
            }
            load(&out);
            CHECK(out.norm_eps == c.norm_eps && out.attn.count == c.attn.count, "%s: other flags", cases[i].key);
        }
    }
}

static void test_refused_configs(void) {
    static const struct { const char *const *base, *key, *value, *word; } bad[] = {
        {&llama, "model_type", "'mamba'", "model_type mamba"},
        {&llama, "model_type", NULL, "model_type (none)"},
        {&llama, "hidden_size", NULL, "hidden_size is missing"},
        {&llama, "hidden_size", "'16'", "hidden_size takes"},
        {&llama, "hidden_size", "16.5", "hidden_size takes"},
        {&llama, "hidden_size", "-16", "hidden_size takes"},
        {&llama, "hidden_size", "[16]", "hidden_size takes"},
        {&llama, "num_hidden_layers", "0", "num_hidden_layers"},
        {&llama, "num_attention_heads", "3", "num_key_value_heads is 2"},
        {&llama, "num_key_value_heads", "3", "num_key_value_heads is 3"},
        {&llama, "hidden_size", "18", "num_attention_heads is 4"},
        {&llama, "hidden_act", "'relu'", "hidden_act is \"relu\", but only \"silu\""},
        {&llama, "rope_scaling", "{'rope_type':'llama3','factor':8.0}", "rope_scaling"},
        {&llama, "rope_scaling", "{'type':'longrope','factor':2.0}", "rope_scaling"},
        {&llama, "rope_scaling", "{'type':'linear'}", "rope_scaling.factor is missing"},
        {&llama, "rope_scaling", "{'type':'linear','factor':0.5}", "rope_scaling.factor takes"},
        {&llama, "rope_scaling", "{'type':'yarn','factor':2.0,'attention_factor':0}", "an attention_factor above 0"},
        {&llama, "rope_scaling", "{'type':'linear','factor':2.0,'partial_rotary_factor':0.5}", "all dimensions"},
        {&deepseek, "rope_scaling", "{'type':'linear','factor':2.0,'mscale_all_dim':1.0}", "mscale_all_dim with"},
        {&olmo3, "rope_scaling", "{'type':'linear','factor':2.0}", "one scaling for all layers"},
        {&smollm3, "no_rope_layers", "[1]", "one for each layer"},
        {&smollm3, "no_rope_layers", "[0,0,0,0]", "a layer that rotates"},
        {&smollm3, "no_rope_layer_interval", "0", "no_rope_layer_interval is 0"},
        {&llama, "rope_parameters", "{'rope_type':'yarn'}", "rope_parameters"},
        {&llama, "rope_parameters", "{'rope_type':7}", "rope_parameters"},
        {&llama, "rope_parameters", "{'rope_type':'default','partial_rotary_factor':0.5}", "rope_parameters"},
        {&llama, "rope_theta", "true", "rope_theta takes"},
        {&llama, "rms_norm_eps", "{}", "rms_norm_eps"},
        {&llama, "mlp_bias", "'yes'", "mlp_bias is \"yes\""},
        {&llama, "tie_word_embeddings", "'yes'", "tie_word_embeddings"},
        {&llama, "quantization_config", "{'bits':4}", "quantization_config"},
        {&llama, "receipts", "{'layers':'-1'}", "receipts.layers: --layers takes"},
        {&llama, "receipts", "{'layers':4}", "must be text"},
        {&llama, "is_causal", "false", "is_causal is false"},
        {&llama, "is_causal", "null", "is_causal is null"},
        {&llama, "per_layer_config", "{'0':{'head_dim':2}}", "per_layer_config"},
        {&llama, "head_dim", "5", "head_dim is 5"},
        {&llama, "head_dim", "0", "head_dim is 0, but only 1 or more"},
        {&llama, "partial_rotary_factor", "0.5", "partial_rotary_factor is 0.5"},
        {&llama, "rope_parameters", "{'full_attention':{'rope_theta':5}}", "one object for all layers"},
        {&llama, "max_position_embeddings", "null", "max_position_embeddings is null"},
        {&mistral, "sliding_window", "0", "sliding_window is 0"},
        {&mixtral, "num_experts_per_tok", "9", "num_experts_per_tok is 9"},
        {&mixtral, "num_experts_per_tok", "1", "num_experts_per_tok is 1"},
        {&mixtral, "num_experts", "1", "num_experts_per_tok is 2"},
        {&olmoe, "clip_qkv", "8.0", "clip_qkv is 8.0, but only null"},
        {&qwen3_moe, "decoder_sparse_step", "0", "decoder_sparse_step"},
        {&qwen3_moe, "mlp_only_layers", "3", "mlp_only_layers"},
        {&deepseek2, "topk_method", "'group_limited_greedy'", "n_group is absent"},
        {&deepseek2, "topk_method", "'noaux_tc'", "topk_method"},
        {&deepseek2, "mlp_bias", "true", "mlp_bias"},
        {&deepseek, "scoring_func", "'softmax'", "scoring_func"},
        {&deepseek, "head_dim", "6", "head_dim is 6"},
        {&qwen3_next, "full_attention_interval", "0", "full_attention_interval"},
        {&olmo3, "rope_theta", "7.0", "rope_parameters"},
        {&olmo3, "rope_parameters", "{'rope_theta':7.0}", "an object for full_attention"},
        {&qwen3_next, "attention_bias", "true", "attention_bias is true"},
        {&qwen3, "layer_types", "['full_attention','sliding_attention']", "sliding_window is absent"},
        {&qwen3, "layer_types", "['full_attention']", "sliding_attention and full_attention, one for each"},
        {&qwen3, "layer_types", "['full_attention','linear_attention']", "layer_types"},
        {&llama, "layer_types", "['sliding_attention','full_attention']", "layer_types"},
        {&olmo3, "sliding_window", "null", "sliding_window is null"},
        {&olmo3, "rope_parameters", "{'full_attention':{'rope_type':'yarn'}}", "rope_parameters"},
        {&olmo3, "rope_parameters", "{'full_attention':{'rope_theta':5},'sliding_attention':{'rope_theta':6}}",
         "one rope_theta"},
        {&qwen3_next, "num_experts", NULL, "num_experts is absent, but only 0"},
        {&qwen3_next, "decoder_sparse_step", "0", "decoder_sparse_step is 0"},
        {&qwen3_next, "linear_num_key_heads", "2", "linear_num_key_heads is 2"},
        {&qwen3_next, "linear_num_value_heads", "0", "linear_num_key_heads is 4"},
        {&qwen3_next, "linear_num_value_heads", "'4'", "linear_num_value_heads takes"},
        {&qwen3_next, "num_attention_heads", "8", "linear_num_value_heads is 4"},
        {&qwen3_next, "head_dim", NULL, "linear_value_head_dim is 8"},
        {&qwen3_next, "layer_types", "[]", "layer_types is []"},
        {&qwen3_next, "layer_types", "[" DELTA ",'full_attention'," DELTA ",'mamba']", "layer_types"},
        {&qwen3_next, "layer_types", "['full_attention','full_attention','full_attention','full_attention']",
         "linear_attention in some layers"},
        {&qwen3_next, "partial_rotary_factor", "0.1", "partial_rotary_factor is 0.1"},
        {&qwen3_next, "partial_rotary_factor", "'all'", "partial_rotary_factor"},
        {&qwen3_next, "partial_rotary_factor", "1.5", "partial_rotary_factor"},
        {&mixtral, "sliding_window", "'wide'", "sliding_window takes"},
        {&mixtral, "num_experts_per_tok", "0", "num_experts_per_tok"},
        {&mixtral, "router_aux_loss_coef", "'much'", "router_aux_loss_coef is \"much\""},
        {&mixtral, "router_aux_loss_coef", "-1", "router_aux_loss_coef is -1"},
        {&deepseek, "n_group", "3", "n_group is 3"},
        {&deepseek, "n_group", "null", "n_group takes"},
        {&deepseek, "n_group", NULL, "n_group is absent"},
        {&deepseek, "topk_group", "4", "topk_group"},
        {&deepseek, "kv_lora_rank", "null", "kv_lora_rank"},
        {&deepseek, "n_shared_experts", "0", "n_shared_experts is 0"},
        {&deepseek, "attention_bias", "1", "attention_bias"},
        {&gpt2, "activation_function", "'gelu'", "activation_function"},
        {&gpt2, "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx"},
        {&gpt2, "n_head", "3", "n_head is 3"},
        {&gpt2, "vocab_size", "0", "a vocabulary of 0"},
    };
    Config c;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_edited(*bad[i].base, bad[i].key, bad[i].value);
        CHECK(test_fails(1, bad[i].word, load_config, &c), "%s = %s: %s", bad[i].key,
              bad[i].value ? bad[i].value : "(absent)", test_message);
        CHECK(strstr(test_message, "config.json"), "the message names the file: %s", test_message);
    }
    static const char *const broken[] = {"", "{", "[]", "null", "{\"model_type\":}", "{\"a\":1,\"a\":2}"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        write_whole_file(test_path("config.json"), broken[i], strlen(broken[i]));
        CHECK(test_fails(1, "config.json", load_config, &c), "'%s': %s", broken[i], test_message);
    }
    CHECK(remove(test_path("config.json")) == 0 && test_fails(1, "cannot read", load_config, &c), "%s", test_message);
}

// Each is "flag=value flag=value".
static void check_flags(const Config *c, const char *expected) {
    char *words = xprintf("%s", expected);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        char name[32], *equals = strchr(word, '=');
        snprintf(name, sizeof name, "%.*s", (int)(equals - word), word);
        char *found = flags_get(&config_table, c, flags_find(&config_table, name));
        CHECK(strcmp(found, equals + 1) == 0, "%s was expected, %s found", word, found);
        free(found);
    }
    free(words);
}

static void test_accepted_configs(void) {
    static const struct { const char *const *base, *key, *value, *flags; } good[] = {
        {&llama, NULL, NULL, "layers=2 width=16 attn=gqa kv-heads=2 tie=0 bias=0 norm-eps=1e-06 rope-theta=10000"},
        {&llama, "num_key_value_heads", "null", "attn=mha"},
        {&llama, "num_key_value_heads", "4", "attn=mha"},
        {&llama, "head_dim", "null", "head-dim=4"},
        {&llama, "head_dim", "6", "head-dim=6"},
        {&llama, "rope_theta", "500000.0", "rope-theta=500000"},
        {&llama, "rope_scaling", "null", "rope-theta=10000"},
        {&llama, "rope_scaling", "{'type':'default'}", "rope-theta=10000"},
        {&llama, "rope_parameters", "{'rope_type':'default', 'rope_theta':777}", "rope-theta=777"},
        {&llama, "tie_word_embeddings", "true", "tie=1"},
        {&llama, "unknown_key", "[1, 2]", "layers=2"},
        {&qwen3, NULL, NULL, "qk-norm=head head-dim=6"},
        {&qwen3, "head_dim", NULL, "head-dim=128"},
        {&qwen3, "use_sliding_window", "true", "attn=gqa window=0"},
        {&qwen3, "max_window_layers", "1", "attn=gqa window=0"},
        {&qwen3_sliding, NULL, NULL, "attn=gqa+swa window=5 kv-heads=2"},
        {&qwen3_sliding, "num_key_value_heads", "4", "attn=mha+swa kv-heads=0"},
        {&qwen3_sliding, "use_sliding_window", "false", "attn=gqa window=0"},
        {&qwen3_sliding, "layer_types", "['sliding_attention','sliding_attention']", "attn=swa window=5 kv-heads=2"},
        {&olmo3, NULL, NULL, "attn=swa+swa+swa+gqa window=4096 norm=out qk-norm=full rope-theta=500000"},
        {&olmo3, "rope_parameters", "{'full_attention':{'rope_theta':5},'sliding_attention':{'rope_theta':5}}",
         "rope-theta=5"},
        {&mixtral, "sliding_window", "7", "attn=swa window=7 kv-heads=2"},
        {&qwen3_next, NULL, NULL, "attn=gated-delta+gated-delta+gated-delta+gqa qk-norm=head attn-gate=1 rope-dim=2"},
        {&qwen3_next, NULL, NULL, "heads=4 kv-heads=2 head-dim=8 state-dim=6 short-conv=4 norm-eps=1e-06 experts=0"},
        {&qwen3_next, "layer_types", "[" DELTA "," DELTA "," DELTA "," DELTA "]",
         "attn=gated-delta qk-norm=none attn-gate=0 pos=none head-dim=8 kv-heads=0"},
        {&qwen3_next, "layer_types", "['full_attention'," DELTA ",'full_attention'," DELTA "]", "attn=gqa+gated-delta"},
        {&qwen3_next, "rope_parameters", "{'rope_theta':9,'partial_rotary_factor':0.75}", "rope-dim=6 rope-theta=9"},
        {&qwen3_next, "num_key_value_heads", "4", "attn=gated-delta+gated-delta+gated-delta+mha kv-heads=0"},
        {&mixtral, NULL, NULL, "experts=4 top-k=2 expert-width=24 rope-theta=1000000 norm-eps=1e-05"},
        {&deepseek, NULL, NULL, "attn=mla q-rank=0 gate=sigmoid router=bias first-dense=1 shared-experts=1"},
        {&deepseek, NULL, NULL, "experts=4 top-k=2 expert-width=12 norm-topk=1 route-scale=2.5"},
        {&deepseek, "first_k_dense_replace", "2", "experts=0 gate=softmax router=topk"},
        {&deepseek, "q_lora_rank", "9", "q-rank=9"},
        {&gpt2, NULL, NULL, "pos=learned context=8 norm-kind=layer ffn=gelu bias=1 tie=1 ffn-width=64 head-dim=8"},
        {&gpt2, "n_inner", "40", "ffn-width=40"},
        {&llama, "attention_bias", "true", "bias=0 attn-bias=all ffn-bias=auto"},
        {&llama, "mlp_bias", "true", "bias=0 attn-bias=auto ffn-bias=all"},
        {&qwen3, "attention_bias", "true", "attn-bias=all"},
        {&deepseek, "attention_bias", "true", "attn-bias=all"},
        {&deepseek, "n_group", "2", "route-groups=2 route-top-groups=1 route-group-score=top2"},
        {&llama, "rope_scaling", "{'type':'linear','factor':2.0}", "rope-scaling=linear rope-factor=2 rope-trained=0"},
        {&llama, "rope_scaling", "{'type':'dynamic','factor':2.0}", "rope-scaling=dynamic rope-trained=8 context=8"},
        {&llama, "rope_scaling", "{'type':'yarn','factor':4.0,'mscale':0.5}",
         "rope-scaling=yarn rope-trained=8 rope-mscale=0 rope-beta-fast=32"},
        {&llama, "rope_scaling", "{'type':'yarn','factor':null,'original_max_position_embeddings':2,'truncate':null}",
         "rope-factor=4 rope-trained=2 rope-truncate=0"},
        {&llama, "rope_parameters", "{'rope_type':'llama3','factor':8,'low_freq_factor':1,'high_freq_factor':5}",
         "rope-scaling=llama3 rope-factor=8 rope-trained=8 rope-high-freq=5"},
        {&deepseek, "rope_scaling", "{'type':'yarn','factor':4.0,'mscale_all_dim':1.0}", "rope-mscale-all-dim=1"},
        {&smollm3, NULL, NULL, "rope-layers=rope+rope+rope+none rope-theta=2000000 tie=1 attn=gqa"},
        {&smollm3, "no_rope_layers", "[1,0,1,0]", "rope-layers=rope+none"},
        {&qwen2, NULL, NULL, "attn-bias=qkv bias=0 qk-norm=none head-dim=4 attn=gqa"},
        {&gpt2, "num_hidden_layers", "3", "layers=3"},
        {&gpt2, "max_position_embeddings", "6", "context=6"},
        {&gpt2, "n_ctx", "5", "context=8"},
        {&mixtral, "num_experts", "3", "experts=3"},
        {&mistral, NULL, NULL, "attn=swa window=4096 kv-heads=2"},
        {&mistral, "num_key_value_heads", NULL, "heads=8 attn=swa kv-heads=0"},
        {&mistral, "layer_types", "['full_attention','sliding_attention']", "attn=gqa+swa window=4096"},
        {&mistral, "layer_types", "null", "attn=swa window=4096"},
        {&olmoe, NULL, NULL, "experts=4 top-k=2 expert-width=24 qk-norm=full norm=pre norm-topk=0 attn=mha"},
        {&qwen3_moe, NULL, NULL, "experts=4 expert-width=12 qk-norm=head norm-topk=0 moe-layers=moe ffn-width=24"},
        {&qwen3_moe, "decoder_sparse_step", "2", "moe-layers=dense+moe"},
        {&qwen3_moe, "mlp_only_layers", "[1, 2]", "moe-layers=moe+dense+dense"},
        {&qwen3_moe, "mlp_only_layers", "[0, 1, 2]", "experts=0 ffn-width=24"},
        {&deepseek2, NULL, NULL, "attn=mla gate=softmax router=topk norm-topk=0 route-scale=1 shared-experts=2"},
        {&deepseek2, "norm_topk_prob", "true", "norm-topk=0"},
        {&deepseek, "norm_topk_prob", "null", "norm-topk=0"},
        {&qwen3_next, "full_attention_interval", "2", "attn=gated-delta+gqa"},
        {&olmo3, "rope_theta", "500000.0", "rope-theta=500000"},
        {&llama, "rope_scaling", "{}", "rope-theta=10000"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        Config c;
        write_edited(*good[i].base, good[i].key, good[i].value);
        load_config(&c);
        check_flags(&c, good[i].flags);
    }
}

static double aux_loss_in_file(double given) {
    Config c;
    flags_defaults(&config_table, &c);
    c.aux_loss = given;
    hf_config(&c, test_directory());
    return c.aux_loss;
}

// Eight layers and two experts per token: the coefficient of transformers is four times ours.
static void test_aux_loss(void) {
    Config c = resolved(MOE "--layers 8 --top-k 2 --aux-loss 0.005");
    hf_write_config(&c, test_path("config.json"));
    json_t *j = read_config(test_directory());
    double written = json_real_value(json_object_get(j, "router_aux_loss_coef"));
    CHECK(written == 0.02, "router_aux_loss_coef is %.17g", written);
    CHECK(aux_loss_in_file(-1) == -1, "a model of ours does not say how it is to be trained");
    json_object_del(j, "receipts");
    write_config(test_directory(), j);
    CHECK(aux_loss_in_file(-1) == 0.005 && aux_loss_in_file(0.3) == 0.3, "read as %g", aux_loss_in_file(-1));
    json_object_del(j, "router_aux_loss_coef");
    write_config(test_directory(), j);
    CHECK(aux_loss_in_file(-1) == 0.00025, "absent, it is 0.001: %g", aux_loss_in_file(-1));
    json_decref(j);
}

// Flags that are not about the architecture survive, and so does the context where RoPE can go on.
static void test_training_flags_stay(void) {
    Config c;
    write_edited(llama, NULL, NULL);
    flags_defaults(&config_table, &c);
    c.lr = 0.5, c.context = 99, c.steps = 3, c.norm = NORM_peri;
    hf_config(&c, test_directory());
    CHECK(c.lr == 0.5 && c.steps == 3 && c.context == 99, "lr %g, steps %zu, context %zu", c.lr, c.steps, c.context);
    CHECK(c.norm == NORM_pre, "the norm is the file's");
}

// ---- weights -----------------------------------------------------------------------------------
static Model *victim;
static void load_victim(void *unused) {
    (void)unused;
    hf_load(victim, test_directory());
}

// Writes the tensors of the victim, by name from number `from` up to `to`, and one more of this name and size.
static void write_weights(const char *file, size_t from, size_t to, const char *extra, size_t extra_size) {
    Model *m = victim;
    const char *whole = test_path("whole.safetensors");
    hf_write_tensors(m, model_values(m), whole);
    SafeTensors *s = safetensors_open(whole);
    TensorOut *out = xmalloc((s->count + 1) * sizeof *out);
    size_t n = 0;
    for (size_t i = from; i < to && i < s->count; i++, n++) {
        real *data = xmalloc(s->tensor[i].elements * sizeof *data);
        safetensors_copy(s, &s->tensor[i], data);
        out[n] = (TensorOut){.rank = s->tensor[i].rank, .data = data};
        memcpy(out[n].shape, s->tensor[i].shape, sizeof out[n].shape);
        strcpy(out[n].name, s->tensor[i].name);
    }
    if (extra) {
        out[n] = (TensorOut){.rank = 1, .shape = {extra_size}, .data = xmalloc(extra_size * sizeof(real))};
        strcpy(out[n++].name, extra);
    }
    safetensors_write(test_path(file), out, n, NULL, 0);
    safetensors_close(s);
    free(out);
}

// The tensors of the victim (without the embedding, unless it is asked for), and a head of these values.
static void write_head(const real *values, bool embedding) {
    const Param *p;
    TensorOut head = {.name = "lm_head.weight", .rank = 2, .data = values};
    model_params(victim, &p);
    memcpy(head.shape, p[0].shape, sizeof p[0].shape);
    write_weights("model-1.safetensors", !embedding, 99, NULL, 0);
    safetensors_write(test_path("model-2.safetensors"), &head, 1, NULL, 0);
    static const char index[] = "{\"weight_map\":{\"a\":\"model-2.safetensors\",\"b\":\"model-1.safetensors\"}}";
    write_whole_file(test_path("model.safetensors.index.json"), index, strlen(index));
}

// A head beside a tied embedding is the same one, or the file is two models.
static void test_tied_head(void) {
    Config c = resolved("");
    victim = random_model(&c);
    hf_save(victim, test_directory());
    CHECK(remove(test_path("model.safetensors")) == 0, "model.safetensors was saved");
    const Param *p;
    model_params(victim, &p);
    CHECK(strcmp(p[0].name, "embed.weight") == 0, "%s", p[0].name);
    size_t bytes = p[0].size * sizeof(real);
    real *head = memcpy(xmalloc(bytes), model_values(victim) + p[0].offset, bytes);
    for (int embedding = 0; embedding < 2; embedding++) {
        write_head(head, embedding);
        check_same_values(victim, loaded_from(test_directory()), "a head that is the embedding");
    }
    head[7] += (real)0.001;
    write_head(head, true);
    CHECK(test_fails(1, "lm_head.weight differs from the embedding", load_victim, NULL), "%s", test_message);
}

static void test_weights(void) {
    Config c = resolved("");
    victim = random_model(&c);
    hf_save(victim, test_directory());
    write_weights("model.safetensors", 0, 99, "lm_head.weight", 5);
    CHECK(test_fails(1, "lm_head.weight: expected [11, 16], found [5]", load_victim, NULL), "%s", test_message);
    write_weights("model.safetensors", 0, 99, "model.layers.0.self_attn.rotary_emb.inv_freq", 4);
    load_victim(NULL);
    write_weights("model.safetensors", 0, 99, "model.layers.2.mlp.up_proj.weight", 4);
    CHECK(test_fails(1, "model.layers.2.mlp.up_proj.weight [4] is left over", load_victim, NULL), "%s", test_message);
    write_weights("model.safetensors", 1, 99, NULL, 0);
    CHECK(test_fails(1, "model.embed_tokens.weight [11, 16] is missing", load_victim, NULL), "%s", test_message);
    write_weights("model.safetensors", 1, 99, "model.embed_tokens.weight", 176);
    CHECK(test_fails(1, "model.embed_tokens.weight: expected [11, 16], found [176]", load_victim, NULL), "%s",
          test_message);
    CHECK(remove(test_path("model.safetensors")) == 0 && test_fails(1, "neither", load_victim, NULL), "%s",
          test_message);
}

static void test_predicting_layers(void) {
    static const struct { const char *tensor; int layers; bool refused; } cases[] = {
        {"model.layers.2.eh_proj.weight", 1, false}, {"model.layers.3.mlp.up_proj.weight", 2, false},
        {"model.layers.2.eh_proj.weight", 0, true},  {"model.layers.3.eh_proj.weight", 1, true},
        {"model.layers.1.eh_proj.weight", 1, true},
    };
    Config c = resolved(DEEPSEEK);
    victim = random_model(&c);
    hf_save(victim, test_directory());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *j = read_config(test_directory());
        json_object_del(j, "receipts");
        json_object_set_new(j, "num_nextn_predict_layers", json_integer(cases[i].layers));
        write_config(test_directory(), j);
        write_weights("model.safetensors", 0, 99, cases[i].tensor, 5);
        if (cases[i].refused) CHECK(test_fails(1, "is left over", load_victim, NULL), "%s", test_message);
        else check_same_values(victim, loaded_from(test_directory()), cases[i].tensor);
    }
}

static void test_shards(void) {
    static const struct { const char *index, *word; } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{\"weight_map\":{\"a\":7}}", "files beside it"},
        {"{\"weight_map\":{\"a\":\"../b.safetensors\"}}", "files beside it"},
        {"{\"weight_map\":{\"a\":\"absent\"}}", "cannot read"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\"}}", "is missing"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"again.safetensors\"}}",
         "is there twice"},
    };
    static const char good[] =
        "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"1.safetensors\"}}";
    Config c = resolved("--tie 0");
    victim = random_model(&c);
    hf_save(victim, test_directory());
    CHECK(remove(test_path("model.safetensors")) == 0, "model.safetensors was saved");
    write_weights("1.safetensors", 0, 7, NULL, 0);
    write_weights("2.safetensors", 7, 99, NULL, 0);
    write_weights("again.safetensors", 3, 4, NULL, 0);
    write_whole_file(test_path("model.safetensors.index.json"), good, strlen(good));
    check_same_values(victim, loaded_from(test_directory()), "shards");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_whole_file(test_path("model.safetensors.index.json"), bad[i].index, strlen(bad[i].index));
        CHECK(test_fails(1, bad[i].word, load_victim, NULL), "%s: %s", bad[i].index, test_message);
    }
}

// Old GPT-2 files hold their causal masks, and names without "transformer.".
static void test_old_gpt2(void) {
    Config c = resolved(GPT2);
    victim = random_model(&c);
    hf_save(victim, test_directory());
    write_weights("model.safetensors", 0, 99, "h.0.attn.bias", 64);
    check_same_values(victim, loaded_from(test_directory()), "with a mask");
    write_weights("model.safetensors", 0, 99, "h.0.attn.c_attn.bias", 48);
    CHECK(test_fails(1, "h.0.attn.c_attn.bias is there twice", load_victim, NULL), "%s", test_message);
}

// A checkpoint of one architecture in a model of another.
static void test_wrong_model(void) {
    Config c = resolved(""), peri = resolved("--norm peri");
    hf_save(random_model(&c), test_directory());
    victim = model_new(&peri, false);
    CHECK(test_fails(1, "LlamaForCausalLM has no tensor for layers.0.attn_norm_out.weight", load_victim, NULL), "%s",
          test_message);
}

// Whatever a changed byte does to config.json, it is read or refused in one line.
static void test_flipped_config(void) {
    Config c = resolved(DEEPSEEK), out;
    hf_save(random_model(&c), test_directory());
    size_t bytes, refused = 0;
    char *text = read_whole_file(test_path("config.json"), &bytes);
    Rng r = rng_stream(2, RNG_TEST, 1);
    for (int i = 0; i < 1000; i++) {
        char *changed = memcpy(xmalloc(bytes), text, bytes);
        for (uint32_t n = 1 + rng_below(&r, 3); n > 0; n--)
            changed[rng_below(&r, (uint32_t)bytes)] = (char)(' ' + rng_below(&r, 95));
        remove(test_path("config.json"));
        FILE *f = fopen(test_path("config.json"), "wb");  // not atomically: so many flushes to disk would take minutes
        CHECK(f && fwrite(changed, 1, bytes, f) == bytes && fclose(f) == 0, "cannot write config.json");
        flags_defaults(&config_table, &out);
        bool in_one_line = test_fails(1, "config.json", load_config, &out);
        bool read = strcmp(test_message, "(it did not fail)") == 0;
        // what is left are flags that contradict each other, which config_resolve refuses
        bool impossible = !in_one_line && !read && test_fails(2, "--", load_config, &out);
        CHECK(in_one_line || impossible || read, "%s", test_message);
        refused += !read;
        free(changed);
    }
    CHECK(refused > 250, "only %zu of 1000 were refused", refused);
}

static const Test tests[] = {
    {"hf/architectures", "flags find their architecture in transformers, or the reason why there is none",
     test_architectures},
    {"hf/round-trip", "every architecture is saved and read back bit for bit, with and without our own flags",
     test_round_trip},
    {"hf/refused-configs", "what our flags cannot express is refused, naming file and key", test_refused_configs},
    {"hf/accepted-configs", "old and new spellings and absent keys become the right flags", test_accepted_configs},
    {"hf/aux-loss", "the weight of the balancing loss is converted: ours is a sum over layers, transformers' a mean",
     test_aux_loss},
    {"hf/training-flags", "loading an architecture leaves the flags of training alone", test_training_flags_stay},
    {"hf/weights", "missing, left over and misshapen tensors are refused, harmless ones tolerated", test_weights},
    {"hf/tied-head", "a head beside a tied embedding is equal to it, or refused", test_tied_head},
    {"hf/two-truths", "keys that say another model than the object receipts are refused, and no others",
     test_two_truths},
    {"hf/predicting-layers", "layers that predict further tokens are passed over, others not", test_predicting_layers},
    {"hf/shards", "an index of shards is followed; a wrong one is refused", test_shards},
    {"hf/old-gpt2", "masks are tolerated, names without a prefix understood", test_old_gpt2},
    {"hf/wrong-model", "a checkpoint is not read into a model of another kind", test_wrong_model},
    {"hf/flipped-config", "1000 configs with changed bytes are read or refused, never a crash", test_flipped_config},
};
REGISTER_TESTS(tests)

// hf_config_read.c: config.json, read. What a model is comes from the keys that everybody reads (hf_config_keys.c); the
// object receipts of a run of ours supplies the flags of its training, and all flags where the model_type is our own.
// Where both speak of the model and differ, the file is refused: somebody changed one of them.
#include "formats/gguf_config.h"
#include "formats/hf_config.h"
#include <stdlib.h>
#include <string.h>

// The flags that decide which function the model computes; the others are about training it. The context
// is one of them only where positions are learned: RoPE goes on beyond it.
static const char *const architecture_flags[] = {
    "vocab", "layers", "width", "attn", "heads", "kv_heads", "head_dim", "kv_rank", "q_rank", "rope_dim",
    "nope_dim", "v_dim", "qk_norm", "pos", "rope_theta", "rope_layers", "rope_scaling", "rope_factor", "rope_trained",
    "rope_beta_fast", "rope_beta_slow", "rope_truncate", "rope_attention_factor", "rope_mscale", "rope_mscale_all_dim",
    "rope_low_freq", "rope_high_freq", "norm", "norm_kind", "norm_eps", "ffn", "ffn_width", "bias", "attn_bias",
    "ffn_bias", "route_groups", "route_top_groups", "route_group_score", "window",
    "attn_gate", "state_dim", "short_conv", "tie", "experts", "top_k", "expert_width", "shared_experts", "first_dense",
    "moe_layers", "gate", "router", "norm_topk", "route_scale", "capacity", "pool",
};
enum { ARCHITECTURE_FLAGS = sizeof architecture_flags / sizeof *architecture_flags };

// ---- the file ----------------------------------------------------------------------------------
JsonFile hf_read_json(const char *dir, const char *file) {
    if (gguf_is(dir)) return gguf_read_config(dir);
    JsonFile j = {xprintf("%s/%s", dir, file), NULL};
    size_t bytes;
    json_error_t error;
    char *text = read_regular_file(j.path, &bytes);
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
    // as AutoConfig of transformers takes it
    if (type && strcmp(type, "mistral") == 0 && json_object_get(j->json, "layer_types")) type = "ministral";
    char known[512] = "";
    const Family *f = hf_families;
    for (;; f++) {
        if (type && strcmp(f->model_type, type) == 0) return f;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", f == hf_families ? "" : ", ",
                 f->model_type);
        if (f->bit == OURS) fail("%s: model_type %.60s is none of %s", j->path, type ? type : "(none)", known);
    }
}

static json_t *get(const JsonFile *j, const char *key) { return json_object_get(j->json, key); }
static bool is_there(const JsonFile *j, const char *key) { return get(j, key) && !json_is_null(get(j, key)); }
static bool is_true(const JsonFile *j, const char *key) { return json_is_true(get(j, key)); }

static char *text_of(const json_t *value) {
    return value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : xprintf("absent");
}

static _Noreturn void refuse(const JsonFile *j, const char *key, const char *expected) {
    fail("%s: %s is %.200s, but only %s can be computed here", j->path, key, text_of(get(j, key)), expected);
}

static void expect_flag(const JsonFile *j, const char *key) {
    if (get(j, key) && !json_is_boolean(get(j, key))) refuse(j, key, "true or false");
}

// ---- whose fault it is -------------------------------------------------------------------------
// A bad value is the file's fault, not the command line's: the message and the exit status say so, and speak of the
// file's keys where they would of flags.
static struct { char where[600]; const char *flag, *key; unsigned family; } blamed;
static void (*outer_hook)(int status, const char *message);

static const char *key_of_flag(const char *flag) {
    if (blamed.flag && strcmp(flag, blamed.flag) == 0) return blamed.key;
    for (const HfKey *k = hf_keys; k->families; k++)
        if (k->families & blamed.family && strcmp(k->flag, flag) == 0) return k->key;
    return NULL;
}

// The message, with "--top-k 9" as "num_experts_per_tok 9".
static void in_their_words(char *out, size_t size, const char *message) {
    size_t n = 0;
    while (*message && n + 1 < size) {
        char flag[64];
        size_t length = strncmp(message, "--", 2) ? 0 : strspn(message + 2, "abcdefghijklmnopqrstuvwxyz-");
        snprintf(flag, sizeof flag, "%.*s", (int)length, message + 2);
        for (char *c = flag; *c; c++) *c = *c == '-' ? '_' : *c;
        const char *key = length ? key_of_flag(flag) : NULL;
        if (!key) out[n++] = *message++;
        else n += (size_t)snprintf(out + n, size - n, "%s", key), message += 2 + length;
    }
    out[n < size ? n : size - 1] = '\0';
}

static void blame_file(int status, const char *message) {
    char text[1024];
    (void)status;
    fail_hook = outer_hook;
    in_their_words(text, sizeof text, message);
    fail("%s: %s", blamed.where, text);
}

// Until blame_nobody, what is wrong with a flag is the fault of this key of the file (NULL: of several).
static void blame(const JsonFile *j, unsigned family, const char *flag, const char *key) {
    bool ours = key && family == OURS;      // a flag by its own name
    snprintf(blamed.where, sizeof blamed.where, ours ? "%.400s: receipts.%.60s" : "%.400s", j->path, key);
    blamed.flag = flag, blamed.key = key, blamed.family = ours ? 0 : family;
    if (ours) blamed.flag = NULL;
    outer_hook = fail_hook;
    fail_hook = blame_file;
}

static void blame_nobody(void) { fail_hook = outer_hook; }

// ---- one key, one flag -------------------------------------------------------------------------
static void set_flag(Config *c, const JsonFile *j, const char *key, const char *flag, const char *text) {
    blame(j, EVERYONE, flag, key);
    flags_set(&config_table, c, flag, text);
    blame_nobody();
}

static void set_from_json(Config *c, const JsonFile *j, const char *key, const char *flag, const json_t *value) {
    bool is_switch = config_table.flag[flags_find(&config_table, flag)].kind == FLAG_BOOL && json_is_boolean(value);
    char *text = is_switch ? xprintf("%d", json_is_true(value)) : json_dumps(value, JSON_ENCODE_ANY);
    set_flag(c, j, key, flag, text);
    free(text);
}

static void set_default(Config *c, const char *flag) {
    flags_set(&config_table, c, flag, config_table.flag[flags_find(&config_table, flag)].default_text);
}

// Where a flag takes 0 for "derive it", a 0 in the file would become another number. These count, and 0 is none of
// them; a model of DeepSeek's may turn out to have no experts.
static void refuse_zero(const JsonFile *j, const HfKey *k, unsigned family) {
    static const struct { unsigned families; const char *flag; } counts[] = {
        {EVERYONE, "vocab"}, {EVERYONE, "first_dense"}, {EVERYONE, "shared_experts"}, {QWEN3_MOE | LATENT, "experts"},
        {LATENT, "expert_width"},
    };
    bool is_size = config_table.flag[flags_find(&config_table, k->flag)].kind == FLAG_SIZE;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        is_size &= !(counts[i].families & family) || strcmp(counts[i].flag, k->flag) != 0;
    const json_t *value = get(j, k->key);
    if (is_size && json_is_number(value) && json_number_value(value) == 0) refuse(j, k->key, "1 or more");
}

static void read_keys(Config *c, const JsonFile *j, unsigned family) {
    for (const HfKey *k = hf_keys; k->families; k++) {
        if (!(k->families & family)) continue;
        refuse_zero(j, k, family);
        const char *text = get(j, k->key) ? k->null : k->absent;
        if (is_there(j, k->key)) set_from_json(c, j, k->key, k->flag, get(j, k->key));
        else if (text) set_flag(c, j, k->key, k->flag, text);
        else fail("%s: the key %s is %s", j->path, k->key, get(j, k->key) ? "null" : "missing");
    }
}

// A size that no flag of ours stands for alone.
static size_t read_count(const JsonFile *j, const char *key, const char *absent) {
    Config c;
    flags_defaults(&config_table, &c);
    if (get(j, key)) set_from_json(&c, j, key, "experts", get(j, key));
    else set_flag(&c, j, key, "experts", absent);
    return c.experts;
}

// ---- every key -----------------------------------------------------------------------------------
// An alias sets the key that it stands for, also where that is there too: transformers assigns it later.
static void resolve_aliases(JsonFile *j, unsigned family) {
    for (const HfAlias *a = hf_aliases; a->families; a++) {
        if (!(a->families & family) || !get(j, a->alias)) continue;
        json_object_set(j->json, a->key, get(j, a->alias));
        json_object_del(j->json, a->alias);
    }
}

// [1] is 1; [1, 2, 3] is 1, 2 or 3.
static _Noreturn void refuse_all_but(const JsonFile *j, const char *key, const json_t *values) {
    char text[256] = "";
    size_t i, n = json_array_size(values);
    json_t *value;
    json_array_foreach(values, i, value)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " or ",
                 text_of(value));
    refuse(j, key, text);
}

static void check_fixed(const JsonFile *j, unsigned family) {
    for (const HfFixed *f = hf_fixed; f->families; f++) {
        if (!(f->families & family)) continue;
        json_t *values = json_loads(f->values, 0, NULL), *value = get(j, f->key), *one;
        bool holds = !value && f->use != HF_REQUIRED;
        size_t i;
        json_array_foreach(values, i, one) holds |= value && json_equal(one, value);
        if (!holds) refuse_all_but(j, f->key, values);
        json_decref(values);
    }
}

static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += n)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
    return false;
}

static bool is_known(const char *key, unsigned family) {
    for (const HfKey *k = hf_keys; k->families; k++)
        if (k->families & family && strcmp(k->key, key) == 0) return true;
    for (const HfFixed *f = hf_fixed; f->families; f++)
        if (f->families & family && strcmp(f->key, key) == 0) return true;
    for (const HfHarmless *h = hf_harmless; h->families; h++)
        if (h->families & family && has_word(h->names, key)) return true;
    return false;
}

// A key that transformers' class does not know is an attribute that nobody reads. It may be another program's, or a
// slip of the pen; to refuse it would be to refuse most checkpoints of some age.
static void note_unknown(const JsonFile *j, unsigned family) {
    char names[160] = "";
    const char *key;
    json_t *value;
    json_object_foreach(j->json, key, value) {
        size_t n = strlen(names);
        if (!is_known(key, family) && n + strlen(key) + 3 < sizeof names)
            snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", key);
    }
    if (*names)
        fprintf(stderr, "note     %s: nobody who computes a %s reads %s; passed over, as by transformers\n", j->path,
                json_string_value(get(j, "model_type")), names);
}

// ---- rotations -----------------------------------------------------------------------------------
// One object about rotations, and what it is called in messages.
typedef struct { const JsonFile *j; const char *name; const json_t *about; unsigned family; } Rope;

static bool says(const Rope *r, const char *key) { return json_number_value(json_object_get(r->about, key)) != 0; }

static _Noreturn void refuse_rope(const Rope *r, const char *expected) {
    fail("%s: %s is %.200s, but only %s can be computed here", r->j->path, r->name, text_of(r->about), expected);
}

// One of the words of --rope-scaling, by what it is called there.
static const char *kind_of_rope(const Rope *r) {
    static const char *const kinds[] = {"linear", "dynamic", "yarn", "llama3"};
    const json_t *type = json_object_get(r->about, "rope_type");
    const json_t *part = json_object_get(r->about, "partial_rotary_factor");
    if (r->about && !json_is_null(r->about) && !json_is_object(r->about)) refuse_rope(r, "an object");
    if (part && json_number_value(part) != 1 && r->family != QWEN3_NEXT) refuse_rope(r, "a rotation of all dimensions");
    if (!type) type = json_object_get(r->about, "type");
    if (!type || (json_is_string(type) && strcmp(json_string_value(type), "default") == 0)) return "none";
    for (int i = 0; i < 4 && json_is_string(type); i++)
        if (strcmp(json_string_value(type), kinds[i]) == 0) return kinds[i];
    refuse_rope(r, "rope_type \"default\", \"linear\", \"dynamic\", \"yarn\" or \"llama3\"");
}

// transformers has yarn's attention factor from attention_factor, or from both mscale and mscale_all_dim, and ignores
// one of the two alone, except DeepSeek, whose scores grow by mscale_all_dim.
static bool has_no_effect(const Rope *r, const char *key) {
    bool given = says(r, "attention_factor"), both = says(r, "mscale") && says(r, "mscale_all_dim") && !given;
    if (strcmp(key, "mscale") == 0) return !both;
    return strcmp(key, "mscale_all_dim") == 0 && !both && !(r->family & LATENT);
}

static void set_rope(Config *c, const Rope *r, const HfRope *row, size_t trained) {
    const json_t *value = json_object_get(r->about, row->key);
    char *name = xprintf("%s.%s", r->name, row->key), text[64];
    bool is_trained = strcmp(row->flag, "rope_trained") == 0, is_factor = strcmp(row->flag, "rope_factor") == 0;
    bool zero = json_is_number(value) && json_number_value(value) == 0;
    if (is_trained && get(r->j, row->key) && !(r->family & OLMO3)) value = get(r->j, row->key);
    if (zero && strcmp(row->key, "attention_factor") == 0) refuse_rope(r, "an attention_factor above 0");
    snprintf(text, sizeof text, "%zu", trained);
    bool implied = is_factor && json_is_null(value) && c->rope_scaling == ROPE_SCALING_yarn;
    if (implied && !says(r, "mscale_all_dim")) {
        double from = json_number_value(json_object_get(r->about, "original_max_position_embeddings"));
        snprintf(text, sizeof text, "%.17g", (double)trained / (from > 0 ? from : (double)trained));
        set_flag(c, r->j, name, row->flag, text);
    } else if (is_trained && !value) set_flag(c, r->j, name, row->flag, text);
    else if (!row->optional && !value) fail("%s: the key %s is missing", r->j->path, name);
    else if (value && !(row->optional && (json_is_null(value) || zero || has_no_effect(r, row->key))))
        set_from_json(c, r->j, name, row->flag, value);
    free(name);
}

// The flags of the section rope.def, and rope_theta; theta: where the object has none. c->context: of the file.
static void read_rotations(Config *c, const Rope *r, const json_t *theta, const char *absent, const json_t *truncate) {
    const json_t *own = json_object_get(r->about, "rope_theta");
    const char *kind = kind_of_rope(r);
    flags_set(&config_table, c, "rope_scaling", kind);
    for (const HfRope *row = hf_rope; row->kinds; row++)
        if (row->kinds >> c->rope_scaling & 1) set_rope(c, r, row, c->context);
    if (c->rope_scaling == ROPE_SCALING_dynamic) c->rope_trained = c->context;
    if (c->rope_scaling == ROPE_SCALING_yarn && truncate) c->rope_truncate = json_is_true(truncate);
    if (r->family & LATENT && strcmp(kind, "none") && strcmp(kind, "yarn") && says(r, "mscale_all_dim"))
        refuse_rope(r, "mscale_all_dim with rope_type \"yarn\"");
    if (json_is_number(own) && json_is_number(theta) && json_number_value(own) != json_number_value(theta))
        fail("%s: rope_theta is %.40s, but %s.rope_theta is %.40s: versions of transformers differ in which one they "
             "take; remove the one that the model was not trained with", r->j->path, text_of(theta), r->name,
             text_of(own));
    if (own || theta) set_from_json(c, r->j, "rope_theta", "rope_theta", own ? own : theta);
    else set_flag(c, r->j, "rope_theta", "rope_theta", absent);
}

// transformers takes rope_scaling, the older name, if it says anything, else rope_parameters.
static const char *rope_key(const JsonFile *j) {
    bool old = is_there(j, "rope_scaling") && json_object_size(get(j, "rope_scaling")) > 0;
    return old || !is_there(j, "rope_parameters") ? "rope_scaling" : "rope_parameters";
}

static void refuse_types_of_layers(const Rope *r) {
    static const char *const types[] = {"full_attention", "sliding_attention", "linear_attention"};
    for (int i = 0; i < 3; i++)
        if (json_object_get(r->about, types[i])) refuse_rope(r, "one object for all layers");
}

// rope_theta beside the object counts where there is none in it.
static void read_rope(Config *c, const JsonFile *j, unsigned family) {
    Rope r = {j, rope_key(j), get(j, rope_key(j)), family};
    refuse_types_of_layers(&r);
    kind_of_rope(&(Rope){j, "rope_parameters", get(j, "rope_parameters"), family});   // or refuse what is not sound
    if (is_there(j, "partial_rotary_factor") && json_number_value(get(j, "partial_rotary_factor")) != 1 &&
        family != QWEN3_NEXT)
        refuse(j, "partial_rotary_factor", "1");
    const char *absent = family == MIXTRAL ? "1e6" : family == SMOLLM3 ? "2e6" : "1e4";
    read_rotations(c, &r, get(j, "rope_theta"), absent, json_object_get(r.about, "truncate"));
}

static bool same_rotations(const Config *a, const Config *b) {
    bool same = true;
    for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++) {
        size_t flag = flags_find(&config_table, architecture_flags[i]);
        char *one = flags_get(&config_table, a, flag), *other = flags_get(&config_table, b, flag);
        same &= strcmp(one, other) == 0;
        free(one), free(other);
    }
    return same;
}

// OLMo-3 has an object for each type of layers. In it, rope_scaling and the rope_theta outside are about the layers
// with full attention alone, and truncate is looked for outside of both.
static void read_rope_of_types(Config *c, const JsonFile *j) {
    const json_t *both = get(j, "rope_parameters"), *truncate = json_object_get(both, "truncate");
    json_t *full = json_deep_copy(json_object_get(both, "full_attention"));
    Rope outside = {j, "rope_parameters", both, OLMO3}, old = {j, "rope_scaling", get(j, "rope_scaling"), OLMO3};
    if (json_object_get(both, "rope_theta") || strcmp(kind_of_rope(&outside), "none") ||
        json_object_get(both, "rope_type") || json_object_get(both, "type"))
        refuse(j, "rope_parameters", "an object for full_attention and one for sliding_attention");
    kind_of_rope(&old);
    if (!json_is_object(full)) json_decref(full), full = json_object();
    if (json_is_object(old.about)) json_object_update(full, (json_t *)old.about);
    Config all = *c, windowed = *c;
    Rope far = {j, is_there(j, "rope_scaling") ? "rope_scaling" : "rope_parameters", full, OLMO3};
    Rope near = {j, "rope_parameters", json_object_get(both, "sliding_attention"), OLMO3};
    read_rotations(&all, &far, get(j, "rope_theta"), "5e5", truncate);
    read_rotations(&windowed, &near, NULL, "5e5", truncate);
    bool some = hf_has_attention(c, ATTN_swa), only = hf_attention_is(c, ATTN_swa);
    if (some && !only && !same_rotations(&all, &windowed))
        refuse(j, far.name, "one rope_theta and one scaling for all layers");
    *c = some ? windowed : all;
    json_decref(full);
}

// ---- layers --------------------------------------------------------------------------------------
// What transformers makes of layer l where layer_types is not there.
static const char *default_type(const Config *c, const JsonFile *j, unsigned family, size_t l) {
    size_t first = family & (QWEN2 | QWEN3) ? read_count(j, "max_window_layers", "28") : 0;
    size_t interval = family == QWEN3_NEXT ? read_count(j, "full_attention_interval", "4") : 4;
    if (interval == 0) refuse(j, "full_attention_interval", "1 or more");
    bool last_of_some = (l + 1) % interval == 0;
    if (family == QWEN3_NEXT && !last_of_some) return "linear_attention";
    if (family == OLMO3 && !last_of_some) return "sliding_attention";
    if (family == MINISTRAL && c->window) return "sliding_attention";
    bool unrotated = pattern_at(&c->rope_layers, l) != ROPE_LAYER_rope;
    if (family == SMOLLM3 && c->window && unrotated && is_true(j, "use_sliding_window")) return "sliding_attention";
    if (family & (QWEN2 | QWEN3) && c->window && l >= first) return "sliding_attention";
    return "full_attention";
}

// The mixer that layer l of the file has.
static int mixer_of_layer(const Config *c, const JsonFile *j, unsigned family, size_t l) {
    bool grouped = c->kv_heads && c->kv_heads != c->heads;
    const char *type = json_string_value(json_array_get(get(j, "layer_types"), l));
    if (!is_there(j, "layer_types")) type = default_type(c, j, family, l);
    bool full = type && strcmp(type, "full_attention") == 0, sliding = type && strcmp(type, "sliding_attention") == 0;
    if (sliding && family & HYBRID && !c->window) refuse(j, "sliding_window", "a number of tokens");
    if ((full && family & WINDOWED & ~HYBRID && c->window) || (sliding && family & HYBRID)) return ATTN_swa;
    if (full) return grouped ? ATTN_gqa : ATTN_mha;
    if (type && strcmp(type, "linear_attention") == 0 && family == QWEN3_NEXT) return ATTN_gated_delta;
    refuse(j, "layer_types", family == QWEN3_NEXT ? "linear_attention and full_attention, one for each layer"
                             : family & HYBRID    ? "sliding_attention and full_attention, one for each layer"
                                                  : "full_attention for each layer");
}

static bool repeats(const unsigned char *value, size_t layers, size_t period) {
    for (size_t l = period; l < layers; l++)
        if (value[l] != value[l - period]) return false;
    return true;
}

// The values of all layers, as the shortest pattern that gives them.
static Pattern shortest_pattern(const JsonFile *j, const char *key, const unsigned char *value, size_t layers) {
    Pattern p = {0};
    size_t period = 1;
    while (period <= PATTERN_SIZE && !repeats(value, layers, period)) period++;
    if (period > PATTERN_SIZE) refuse(j, key, "a pattern that repeats after at most 64 layers");
    p.count = (unsigned char)period;
    memcpy(p.at, value, period < layers ? period : layers);
    return p;
}

// SmolLM3: no_rope_layers has a 1 where a layer rotates.
static void read_rotating_layers(Config *c, const JsonFile *j) {
    const json_t *list = get(j, "no_rope_layers");
    size_t every = read_count(j, "no_rope_layer_interval", "4");
    if (every == 0) refuse(j, "no_rope_layer_interval", "1 or more");
    if (is_there(j, "no_rope_layers") && json_array_size(list) < c->layers)
        refuse(j, "no_rope_layers", "a list of 1 (the layer rotates) and 0, one for each layer");
    unsigned char *kind = xmalloc(c->layers);
    bool some = false;
    for (size_t l = 0; l < c->layers; l++) {
        const json_t *entry = json_array_get(list, l);
        bool rotates = entry ? json_is_true(entry) || json_integer_value(entry) != 0 : (l + 1) % every != 0;
        kind[l] = rotates ? ROPE_LAYER_rope : ROPE_LAYER_none;
        some |= rotates;
    }
    if (!some) refuse(j, list ? "no_rope_layers" : "no_rope_layer_interval", "a layer that rotates");
    c->rope_layers = shortest_pattern(j, "no_rope_layers", kind, c->layers);
    free(kind);
}

static void read_mixers(Config *c, const JsonFile *j, unsigned family) {
    unsigned char *mixer = xmalloc(c->layers);
    for (size_t l = 0; l < c->layers; l++) mixer[l] = (unsigned char)mixer_of_layer(c, j, family, l);
    if (is_there(j, "layer_types") && json_array_size(get(j, "layer_types")) != c->layers)
        refuse(j, "layer_types", "one type for each layer");
    c->attn = shortest_pattern(j, "layer_types", mixer, c->layers);
    if (!hf_has_attention(c, ATTN_swa)) c->window = 0;
    free(mixer);
}

static void finish_heads(Config *c, const JsonFile *j, unsigned family) {
    const char *heads = family & GPT2 ? "n_head" : "num_attention_heads";
    if (c->kv_heads && c->heads % c->kv_heads != 0)
        refuse(j, "num_key_value_heads", "a divisor of num_attention_heads");
    read_mixers(c, j, family);
    if (c->kv_heads == c->heads) c->kv_heads = 0;
    if (!c->head_dim && c->width % c->heads != 0) refuse(j, heads, "a divisor of the width");
    if (!c->head_dim) c->head_dim = c->width / c->heads;
    if (c->head_dim % 2 && family & ROTARY & ~QWEN3_NEXT)
        refuse(j, is_there(j, "head_dim") ? "head_dim" : heads, "heads of an even width, whose halves rotate,");
}

// ---- experts -------------------------------------------------------------------------------------
static void drop_experts(Config *c) {
    static const char *const unused[] = {"experts", "top_k", "expert_width", "shared_experts", "first_dense",
                                         "moe_layers", "gate", "router", "norm_topk", "route_scale"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) set_default(c, unused[i]);
}

static void check_choice(const Config *c, const JsonFile *j) {
    if (c->experts && c->top_k > c->experts) refuse(j, "num_experts_per_tok", "a number up to that of the experts");
    if (c->top_k == 1 && c->experts > 1 && c->norm_topk)
        refuse(j, "num_experts_per_tok", "2 or more (the weight of a single expert is always 1, and its router idle)");
}

static bool is_listed(const json_t *list, size_t n) {
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
        if (json_is_integer(entry) && json_integer_value(entry) == (json_int_t)n) return true;
    return false;
}

// Whether layer l of a Qwen has experts, if there are any.
static bool is_sparse(const JsonFile *j, size_t l) {
    size_t step = read_count(j, "decoder_sparse_step", "1");
    if (step == 0) refuse(j, "decoder_sparse_step", "1 or more");
    if (is_there(j, "mlp_only_layers") && !json_is_array(get(j, "mlp_only_layers")))
        refuse(j, "mlp_only_layers", "a list of layers");
    return (l + 1) % step == 0 && !is_listed(get(j, "mlp_only_layers"), l);
}

static void finish_qwen3_moe(Config *c, const JsonFile *j) {
    unsigned char *kind = xmalloc(c->layers);
    bool sparse = false;
    for (size_t l = 0; l < c->layers; l++) {
        kind[l] = c->experts && is_sparse(j, l) ? MOE_LAYER_moe : MOE_LAYER_dense;
        sparse |= kind[l] == MOE_LAYER_moe;
    }
    c->moe_layers = shortest_pattern(j, "mlp_only_layers", kind, c->layers);
    if (!sparse) drop_experts(c);
    free(kind);
}

// No groups, or all of them, leave nothing out.
static void read_groups(Config *c, const JsonFile *j, unsigned family) {
    const char *method = json_string_value(get(j, "topk_method"));
    if (family == DEEPSEEK2 && (!method || strcmp(method, "greedy") == 0)) return;
    c->route_groups = read_count(j, "n_group", family == DEEPSEEK ? "8" : "0");
    c->route_top_groups = read_count(j, "topk_group", family == DEEPSEEK ? "4" : "0");
    c->route_group_score = family == DEEPSEEK ? GROUP_SCORE_top2 : GROUP_SCORE_max;
    if (c->route_groups == 0 || c->experts % c->route_groups != 0)
        refuse(j, "n_group", "a divisor of n_routed_experts");
    if (c->route_top_groups == 0 || c->route_top_groups > c->route_groups)
        refuse(j, "topk_group", "a number from 1 to n_group");
    if (c->route_top_groups == c->route_groups)
        c->route_groups = 0, c->route_top_groups = 1, c->route_group_score = GROUP_SCORE_top2;
}

// DeepSeek: its attention is another kind, and it may turn out to have no experts at all.
static void finish_deepseek(Config *c, const JsonFile *j, unsigned family) {
    read_mixers(c, j, family);       // refuses other types of layers; it has one of its own
    c->attn = (Pattern){1, {ATTN_mla}};
    c->head_dim = c->nope_dim;
    if (c->rope_dim % 2) refuse(j, "qk_rope_head_dim", "an even number");
    if (get(j, "head_dim") && json_integer_value(get(j, "head_dim")) != (json_int_t)c->rope_dim)
        refuse(j, "head_dim", "the value of qk_rope_head_dim");
    if (c->first_dense >= c->layers) drop_experts(c);
    else if (c->shared_experts == 0) refuse(j, "n_shared_experts", "1 or more");
    else if (c->experts == 0) refuse(j, "n_routed_experts", "1 or more");
    else if (c->expert_width == 0) refuse(j, "moe_intermediate_size", "1 or more");
    if (c->experts) read_groups(c, j, family);
}

// ---- Qwen3-Next: its gated delta nets have heads of their own, and its experts a gate that we have not.
// Whether transformers gives no layer experts.
static bool is_dense(const Config *c, const JsonFile *j) {
    size_t experts = read_count(j, "num_experts", "512");
    for (size_t l = 0; l < c->layers; l++)
        if (is_sparse(j, l) && experts) return false;
    return true;
}

// null outside of the object is not the default, but nothing: then all of a head rotates.
static size_t read_rotated(const Config *c, const JsonFile *j) {
    const json_t *share = json_object_get(get(j, rope_key(j)), "partial_rotary_factor");
    if (!share) share = get(j, "partial_rotary_factor");
    double rotated = (double)c->head_dim * (json_is_null(share) ? 1 : share ? json_number_value(share) : 0.25);
    if (!(rotated >= 2 && rotated <= (double)c->head_dim))
        refuse(j, "partial_rotary_factor", "a share of 2 dimensions or more");
    return (size_t)rotated;
}

static void finish_qwen3_next(Config *c, const JsonFile *j) {
    size_t heads = read_count(j, "linear_num_value_heads", "32"), width = read_count(j, "linear_value_head_dim", "128");
    if (heads == 0 || read_count(j, "linear_num_key_heads", "16") != heads)
        refuse(j, "linear_num_key_heads", "the value of linear_num_value_heads");
    if (!is_dense(c, j)) refuse(j, "num_experts", "0 (or mlp_only_layers for all layers)");
    if (hf_attention_is(c, ATTN_gated_delta)) {
        c->heads = heads, c->head_dim = width, c->kv_heads = 0;
        for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++)
            if (strncmp(architecture_flags[i], "rope_", 5) == 0) set_default(c, architecture_flags[i]);
        return;
    }
    if (heads != c->heads) refuse(j, "linear_num_value_heads", "the value of num_attention_heads");
    if (width != c->head_dim) refuse(j, "linear_value_head_dim", "the value of head_dim");
    if (!hf_has_attention(c, ATTN_gated_delta)) refuse(j, "layer_types", "linear_attention in some layers");
    c->qk_norm = QK_head, c->attn_gate = true, c->rope_dim = read_rotated(c, j);
}

// ---- a model -------------------------------------------------------------------------------------
// What a family is, apart from its sizes.
static void set_family(Config *c, const JsonFile *j, unsigned family) {
    if (family & OLMO) c->norm = NORM_out;
    if (family & (QWEN3 | QWEN3_MOE)) c->qk_norm = QK_head;
    if (family & (OLMO | OLMOE)) c->qk_norm = QK_full;
    if (family & GPT2) c->pos = POS_learned, c->norm_kind = NORM_KIND_layer, c->ffn = FFN_gelu, c->bias = true;
    if (family & DEEPSEEK) c->gate = GATE_sigmoid, c->router = ROUTER_bias;
    if (family & DEEPSEEK2) c->norm_topk = false;    // it has the key norm_topk_prob, which nothing reads
    if (family & QWEN2) c->attn_bias = ATTN_BIAS_qkv;
    if (!(family & BIASABLE)) return;
    expect_flag(j, "attention_bias");
    if (family & BIASED) expect_flag(j, "mlp_bias");
    bool attention = is_true(j, "attention_bias"), feed_forward = family & BIASED && is_true(j, "mlp_bias");
    c->bias = attention && feed_forward;
    if (attention && !feed_forward) c->attn_bias = ATTN_BIAS_all;
    if (feed_forward && !attention) c->ffn_bias = FFN_BIAS_all;
}

static void read_family(Config *c, const JsonFile *j, unsigned family) {
    check_fixed(j, family);
    set_family(c, j, family);
    read_keys(c, j, family);
    expect_flag(j, "use_sliding_window");
    if (family & SWITCHED & ~SMOLLM3 && !is_true(j, "use_sliding_window")) c->window = 0;
    if (family & SMOLLM3) read_rotating_layers(c, j);
    if (family & ROTARY & ~OLMO3) read_rope(c, j, family);
    if (family & LATENT) finish_deepseek(c, j, family);
    else finish_heads(c, j, family);
    if (family & OLMO3) read_rope_of_types(c, j);
    if (family & QWEN3_MOE) finish_qwen3_moe(c, j);
    if (family & QWEN3_NEXT) finish_qwen3_next(c, j);
    check_choice(c, j);
}

// Flags take 0 for "as many as the data has"; a model that exists has some.
static void need_vocab(const Config *c, const JsonFile *j) {
    if (c->vocab == 0) fail("%s: a vocabulary of 0 tokens; the model's own, 1 or more, was expected", j->path);
}

// With what is derived. Values that contradict each other are the file's fault.
static Config resolved(const Config *c, const JsonFile *j, unsigned family) {
    Config out = *c;
    blame(j, family, NULL, NULL);
    config_resolve(&out);
    blame_nobody();
    return out;
}

static void read_flag(Config *c, const JsonFile *j, const char *name) {
    const json_t *value = json_object_get(get(j, "receipts"), name);
    if (!value) return;
    if (!json_is_string(value)) fail("%s: receipts.%s must be text", j->path, name);
    blame(j, OURS, name, name);
    flags_set(&config_table, c, name, json_string_value(value));
    blame_nobody();
}

static void read_flags(Config *c, const JsonFile *j) {
    for (size_t i = 0; i < config_table.count; i++)
        if (config_table.flag[i].kind != FLAG_GROUP) read_flag(c, j, config_table.flag[i].name);
    config_forget_rounding(c);
}

// Both as config.json would say them, so that two flags for one thing do not differ. 15 digits: as we write numbers.
static void refuse_difference(const JsonFile *j, const json_t *keys, const json_t *run) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)run, key, value) {
        const json_t *other = json_object_get(keys, key);
        char *said = text_of(other), *was = text_of(value);
        if (strcmp(key, "receipts") != 0 && strcmp(said, was) != 0)
            fail("%s: %s is %.200s, but the flags of the run in the object receipts say %.200s; if the file was "
                 "changed on purpose, remove that object", j->path, key, said, was);
        free(said), free(was);
    }
}

// The file's model, and where a run of ours wrote it, the flags of its training. The context is the trained one.
static Config model_in(JsonFile *j) {
    const Family *family = hf_family_in(j);
    bool run = json_is_object(get(j, "receipts"));
    Config c, keys;
    flags_defaults(&config_table, &c);
    if (family->bit == OURS && !run) fail("%s: the object receipts, with the flags, is missing", j->path);
    if (run) read_flags(&c, j);
    keys = c;
    if (family->bit != OURS) {
        for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++) set_default(&keys, architecture_flags[i]);
        resolve_aliases(j, family->bit);
        if (!run) note_unknown(j, family->bit);
        read_family(&keys, j, family->bit);
    }
    if (!run) c = keys;
    need_vocab(&keys, j);
    need_vocab(&c, j);
    Config whole = resolved(&c, j, run ? OURS : family->bit), said = resolved(&keys, j, family->bit);
    if (family->bit == OURS || !run) return c;
    const Family *was = hf_family(&whole);
    if (was != family)
        fail("%s: model_type is \"%s\", but the flags of the run in the object receipts are a \"%s\"; if the file was "
             "changed on purpose, remove that object", j->path, family->model_type, was->model_type);
    json_t *now = hf_config_as_json(&said, family), *then = hf_config_as_json(&whole, family);
    refuse_difference(j, now, then);
    json_decref(now), json_decref(then);
    return c;
}

// ---- for others ----------------------------------------------------------------------------------
static void copy_flag(Config *c, const Config *from, const char *name) {
    char *text = flags_get(&config_table, from, flags_find(&config_table, name));
    flags_set(&config_table, c, name, text);
    free(text);
}

// Of a checkpoint of others, unless --aux-loss was given. Where the key is absent transformers takes its own.
static void read_aux_loss(Config *c, const JsonFile *j, unsigned family) {
    static const char key[] = "router_aux_loss_coef";
    const json_t *value = get(j, key);
    if (value && !(json_is_number(value) && json_number_value(value) >= 0)) refuse(j, key, "a number, 0 or more,");
    if (c->aux_loss != -1) return;
    char text[32];
    double coefficient = value ? json_number_value(value) : family & OLMOE ? 0.01 : 0.001;
    snprintf(text, sizeof text, "%.12g", coefficient / hf_aux_loss_factor(c));
    set_flag(c, j, key, "aux_loss", text);
}

void hf_config(Config *c, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    Config model = model_in(&j);
    for (size_t i = 0; i < ARCHITECTURE_FLAGS; i++) copy_flag(c, &model, architecture_flags[i]);
    if (c->pos == POS_learned) c->context = model.context;
    unsigned family = hf_family_in(&j)->bit;
    if (family & CHOOSING && !get(&j, "receipts") && c->experts) read_aux_loss(c, &j, family);
    bool dynamic = c->rope_scaling == ROPE_SCALING_dynamic;     // known only so far
    if (dynamic && c->context > c->rope_trained) c->context = c->rope_trained;
    hf_close_json(&j);
}

bool hf_flags(Config *c, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    bool ours = json_is_object(get(&j, "receipts"));
    if (ours) {
        model_in(&j);
        read_flags(c, &j);
    }
    hf_close_json(&j);
    return ours;
}

bool hf_rounding(Config *c, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    const char *format = json_string_value(json_object_get(get(&j, "receipts"), "quant"));
    bool rounded = format && strcmp(format, "none") != 0;
    for (const char *const *name = config_rounding; rounded && *name; name++) read_flag(c, &j, *name);
    hf_close_json(&j);
    return rounded;
}

size_t hf_trained_context(const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    const Family *family = hf_family_in(&j);
    Config c;
    flags_defaults(&config_table, &c);
    if (family->bit == OURS) read_flags(&c, &j);
    resolve_aliases(&j, family->bit);
    for (const HfKey *k = hf_keys; k->families; k++) {
        if (!(k->families & family->bit) || strcmp(k->flag, "context") != 0) continue;
        if (is_there(&j, k->key)) set_from_json(&c, &j, k->key, k->flag, get(&j, k->key));
        else if (k->absent) set_flag(&c, &j, k->key, k->flag, k->absent);
    }
    hf_close_json(&j);
    return c.context;
}

bool hf_interleaved(const JsonFile *j, unsigned family) {
    return family == DEEPSEEK2 || (family == DEEPSEEK && (!get(j, "rope_interleave") || is_true(j, "rope_interleave")));
}

size_t hf_prediction_layers(const JsonFile *j, unsigned family) {
    if (family != DEEPSEEK) return 0;
    return read_count(j, get(j, "num_mtp_layers") ? "num_mtp_layers" : "num_nextn_predict_layers", "1");
}

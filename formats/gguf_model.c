// gguf_model.c: what llama.cpp calls our tensors, and which models it computes as we do. `names` is read in both
// directions (links.h); the keys are in gguf_config.c.
#include "formats/gguf_model.h"
#include "formats/links.h"
#include "kernels/quant.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- names -------------------------------------------------------------------------------------
enum { WHOLE_KV_B = 1 << 30 };      // of older files: kv_b as it is
static const TensorName names[] = {
    {EVERYONE, "embed", "token_embd", PLAIN},
    {GPT2, "pos", "position_embd", PLAIN},
    {EVERYONE, "final_norm", "output_norm", PLAIN},
    {EVERYONE, "head", "output", PLAIN},
    {EVERYONE, "attn_norm", "attn_norm", PLAIN},
    {EVERYONE, "ffn_norm", "ffn_norm", PLAIN},
    {GPT2, "attn.q", "attn_qkv", PLAIN},
    {GPT2, "attn.k", "attn_qkv", PLAIN},
    {GPT2, "attn.v", "attn_qkv", PLAIN},
    {ROTARY, "attn.q", "attn_q", PLAIN},
    {ROTARY, "attn.k", "attn_k", PLAIN},
    {ROTARY, "attn.v", "attn_v", PLAIN},
    {EVERYONE, "attn.o", "attn_output", PLAIN},
    {ROTARY, "attn.q_norm", "attn_q_norm", PLAIN},
    {ROTARY, "attn.k_norm", "attn_k_norm", PLAIN},
    {LATENT, "attn.q_a", "attn_q_a", PLAIN},
    {LATENT, "attn.q_a_norm", "attn_q_a_norm", PLAIN},
    {LATENT, "attn.q_b", "attn_q_b", PLAIN},
    {LATENT, "attn.kv_a", "attn_kv_a_mqa", PLAIN},
    {LATENT, "attn.kv_a_norm", "attn_kv_a_norm", PLAIN},
    {WHOLE_KV_B, "attn.kv_b", "attn_kv_b", PLAIN},
    {LATENT, "attn.kv_b", "attn_k_b", KEYS_OF},
    {LATENT, "attn.kv_b", "attn_v_b", VALUES_OF},
    {ROTARY, "ffn.gate", "ffn_gate", PLAIN},
    {EVERYONE, "ffn.up", "ffn_up", PLAIN},
    {EVERYONE, "ffn.down", "ffn_down", PLAIN},
    {DEEPSEEK, "moe.router.bias", "exp_probs_b.bias", PLAIN},
    {ROTARY, "moe.router", "ffn_gate_inp", PLAIN},
    {ROTARY, "moe.gate", "ffn_gate_exps", PLAIN},
    {ROTARY, "moe.up", "ffn_up_exps", PLAIN},
    {ROTARY, "moe.down", "ffn_down_exps", PLAIN},
    {LATENT, "moe.shared.gate", "ffn_gate_shexp", PLAIN},
    {LATENT, "moe.shared.up", "ffn_up_shexp", PLAIN},
    {LATENT, "moe.shared.down", "ffn_down_shexp", PLAIN},
    {0, NULL, NULL, PLAIN},
};

// ggml's plain rotation is of neighbours (0 1)(2 3)..., and so are the rows of llama and deepseek2; all others have our
// halves (its "neox").
static void pairs(Link *k, const char *ours, const Config *c) {
    bool query = strncmp(ours, "attn.q.", 7) == 0, key = strncmp(ours, "attn.k.", 7) == 0;
    if (query || key) k->head = k->rotated = c->head_dim;
}

static void latent_pairs(Link *k, const char *ours, const Config *c) {
    bool query = strncmp(ours, "attn.q.", 7) == 0 || strncmp(ours, "attn.q_b.", 9) == 0;
    bool key = strncmp(ours, "attn.kv_a.", 10) == 0;
    if (query) k->head = c->nope_dim + c->rope_dim;
    if (key) k->head = c->kv_rank + c->rope_dim;
    if (query || key) k->rotated = c->rope_dim;
}

static Links links_of(const Model *m, unsigned family, unsigned whole) {
    Naming naming = {names, gguf_architecture(family), "blk.", family | whole, 0};
    return links_named(m, &naming, family & (LLAMA | MIXTRAL) ? pairs : family & LATENT ? latent_pairs : NULL);
}

// ---- which models --------------------------------------------------------------------------------
static bool rotates_as_llama_cpp(const Config *c, unsigned family) {
    bool latent = family & LATENT;
    switch (c->rope_scaling) {
    case ROPE_SCALING_none: case ROPE_SCALING_linear: return true;
    case ROPE_SCALING_llama3: return family & (LLAMA | MIXTRAL);
    case ROPE_SCALING_yarn:
        if (c->rope_beta_fast != 32 || c->rope_beta_slow != 1 || !c->rope_truncate) return false;
        if (latent) return c->rope_mscale > 0 && c->rope_mscale == c->rope_mscale_all_dim;
        return c->rope_mscale == 0 && c->rope_mscale_all_dim == 0;
    default: return false;
    }
}

static bool has_experts_everywhere(const Config *c) {
    for (size_t l = 0; l < c->layers; l++)
        if (!config_layer_has_experts(c, l)) return false;
    return true;
}

// llama.cpp tells the small DeepSeeks, whose queries have no rank, by how many layers they have.
static bool is_lite(const Config *c) {
    return c->layers == 26 || c->layers == 27 || (c->layers == 48 && c->vocab == 128256);
}

const char *gguf_obstacle(const Config *c) {
    static char text[200];
    unsigned family = hf_family(c)->bit;
    const char *arch = gguf_architecture(family);
    if (family == OURS) return hf_obstacle(c);
    if (!arch) {
        snprintf(text, sizeof text, "a %s is not written as GGUF", hf_family(c)->architecture);
        return text;
    }
    const struct { unsigned families; bool holds; const char *needs; } conditions[] = {
        {ROTARY, !hf_has_attention(c, ATTN_swa), "--attn without windows (swa)"},
        {ROTARY, rotates_as_llama_cpp(c, family), "another --rope-scaling, or other flags with it: its yarn has beta "
         "32 and 1, whole pairs, and in deepseek2 --rope-mscale equal to --rope-mscale-all-dim"},
        {QWEN2, c->heads * c->head_dim == c->width, "--head-dim of width/heads"},
        {QWEN3 | QWEN3_MOE | LATENT, !config_qkv_bias(c), "--attn-bias none"},
        {QWEN3_MOE, has_experts_everywhere(c), "experts in all layers"},
        {QWEN3_MOE, c->norm_topk, "--norm-topk 1"},
        {LATENT, fabs(c->norm_eps - 1e-6) < 1e-12, "--norm-eps 1e-6, as the norms of latents have"},
        {LATENT, !is_lite(c) || c->q_rank == 0, "--q-rank 0 with 26 or 27 layers, by which it knows the small ones"},
        {DEEPSEEK2, c->route_groups == 0, "--route-groups 0"},
    };
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++)
        if (conditions[i].families & family && !conditions[i].holds) {
            snprintf(text, sizeof text, "%s of llama.cpp needs %s", arch, conditions[i].needs);
            return text;
        }
    return NULL;
}

// ---- scales -------------------------------------------------------------------------------------
// "blk.0.attn_q.scale" of "blk.0.attn_q.weight"; false for a tensor that is no weight.
static bool name_of_scale(char out[GGUF_NAME], const char *name) {
    size_t n = strlen(name), end = strlen(".weight");
    if (n <= end || strcmp(name + n - end, ".weight") != 0) return false;
    snprintf(out, GGUF_NAME, "%.*s.scale", (int)(n - end), name);
    return true;
}

// ---- writing -------------------------------------------------------------------------------------
// Llama 3's ramp as a factor for each pair of dimensions, by which its frequency is divided; malloc'd.
static const real *ramp_of(const Config *c, size_t pairs_of_head) {
    real *by = xmalloc(pairs_of_head * sizeof *by);
    for (size_t i = 0; i < pairs_of_head; i++) {
        double turns = (double)c->rope_trained * pow(c->rope_theta, -(double)i / (double)pairs_of_head) /
                       (2 * 3.14159265358979323846);
        double share = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
        share = share < 0 ? 0 : share > 1 ? 1 : share;
        by[i] = (real)(1 / ((1 - share) / c->rope_factor + share));
    }
    return by;
}

// llama.cpp has a place for the scale of every matrix but the embedding.
static bool has_scale(const char *name) {
    return strcmp(name, "token_embd.weight") != 0;
}

typedef struct { Model *m; const GgufType *type; GgufPlan plan; GgufKept kept; } Writing;

static bool is_embedding(const char *name) {
    return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0;
}

// Matrices are in the type of the file. Their own files have vectors, routers and positions as float.
static const GgufType *type_of(Writing *w, const Link *k) {
    const GgufType *type = w->type;
    bool exact = k->rank == 1 || strstr(k->name, "ffn_gate_inp") || strcmp(k->name, "position_embd.weight") == 0;
    bool trained = model_config(w->m)->quant;          // in these groups of numbers, and in no others
    if (exact) return gguf_type_named("f32");
    if (type->block > 1 && !w->plan.embed && is_embedding(k->name)) return w->kept.exact++, gguf_type_named("f32");
    bool whole = k->shape[k->rank - 1] % type->block == 0 && !(trained && k->transposed);
    if (whole && (!type->scaled || has_scale(k->name))) return type;
    if (whole) w->kept.unscaled++;
    else w->kept.odd++;
    return gguf_type_named(trained ? "f32" : "f16");
}

// The scales of a tensor, as a tensor; malloc'd. The codecs take floats, the tensor reals.
static GgufTensorOut scales_of(GgufTensorOut *t) {
    size_t slices = t->rank > 2 ? t->shape[0] : 1, each = 1;
    for (size_t d = t->rank > 2; d < t->rank; d++) each *= t->shape[d];
    float *scale = xmalloc(slices * sizeof *scale);
    real *same = xmalloc(slices * sizeof *same);
    for (size_t i = 0; i < slices; i++)
        same[i] = (real)(scale[i] = quant_tensor_scale(QUANT_nvfp4, t->data + i * each, each));
    t->scale = scale;
    GgufTensorOut out = {.rank = 1, .shape = {slices}, .type = gguf_type_named("f32"), .data = same};
    name_of_scale(out.name, t->name);
    return out;
}

// Nothing becomes infinite, or the largest number there is, or something else than NAN, without a word.
static void check_numbers(const GgufTensorOut *t, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)t->data[i]) <= t->type->most))
            fail("number %zu of tensor %s is %g: %s holds finite numbers of at most %g", i, t->name,
                 (double)t->data[i], t->type->name, t->type->most);
}

static GgufTensorOut tensor_out(Writing *w, const Link *k) {
    GgufTensorOut out = {.rank = k->rank, .type = type_of(w, k), .how = w->plan.how};
    const real *values = out.type == w->type ? model_values(w->m) : model_rounded_values(w->m);
    if (strlen(k->name) >= GGUF_NAME) fail("the name of tensor %s is longer than %d bytes", k->name, GGUF_NAME - 1);
    strcpy(out.name, k->name);
    memcpy(out.shape, k->shape, sizeof k->shape);
    out.data = link_is_plain(k) ? values + k->part[0].offset : link_gathered(k, values);
    check_numbers(&out, k->size);
    return out;
}

// Where a model has no experts, llama.cpp wants to hear of none.
static json_t *config_to_write(const Config *c, const Family *family) {
    json_t *config = hf_config_as_json(c, family);
    if (family->bit & LATENT && c->experts == 0) {
        json_object_set_new(config, "n_routed_experts", json_integer(0));
        json_object_set_new(config, "num_experts_per_tok", json_integer(0));
    }
    if (family->bit & LATENT && json_integer_value(json_object_get(config, "n_group")) < 2)
        json_object_del(config, "n_group"), json_object_del(config, "topk_group");
    return config;
}

typedef struct { GgufTensorOut *tensor; size_t count; bool *made; } Outs;    // made: its data is malloc'd

static void add_out(Outs *o, GgufTensorOut t, bool made) {
    o->made[o->count] = made;
    o->tensor[o->count++] = t;
}

static Outs outs_of(Writing *w, const Links *all) {
    const Config *c = model_config(w->m);
    size_t most = 2 * all->count + 1;
    Outs o = {.tensor = xmalloc(most * sizeof *o.tensor), .made = xmalloc(most)};
    for (size_t i = 0; i < all->count; i++) {
        GgufTensorOut t = tensor_out(w, &all->link[i]), scales = {.rank = 0};
        if (t.type->scaled) scales = scales_of(&t);
        add_out(&o, t, !link_is_plain(&all->link[i]));
        if (scales.rank) add_out(&o, scales, true);
    }
    if (c->rope_scaling == ROPE_SCALING_llama3)
        add_out(&o, (GgufTensorOut){.name = "rope_freqs.weight", .type = gguf_type_named("f32"), .rank = 1,
                                    .shape = {c->head_dim / 2}, .data = ramp_of(c, c->head_dim / 2)}, true);
    return o;
}

const char *gguf_type_obstacle(const Config *c, const GgufType *type) {
    bool obeyed = hf_family(c)->bit & (LLAMA | MIXTRAL | QWEN3 | QWEN3_MOE);
    return type->scaled && !obeyed ? "llama.cpp multiplies by the scales of tensors in llama, qwen3 and qwen3moe alone"
                                   : NULL;
}

GgufKept gguf_save(Model *m, GgufHead *head, const GgufType *type, GgufPlan plan, const char *path) {
    const Config *c = model_config(m);
    const Family *family = hf_family(c);
    Links all = links_of(m, family->bit, 0);
    Writing w = {m, type, plan, {0, 0, 0}};
    Outs out = outs_of(&w, &all);
    json_t *config = config_to_write(c, family);
    gguf_put_config(head, config, family->bit, type);
    gguf_write(path, head, out.tensor, out.count);
    for (size_t i = 0; i < out.count; i++) {
        if (out.made[i]) free((void *)out.tensor[i].data);
        free((void *)out.tensor[i].scale);
    }
    json_decref(config);
    free(out.tensor), free(out.made), free(all.link);
    return w.kept;
}

// ---- reading -------------------------------------------------------------------------------------
// Of a tensor with scales: one, or one for each expert.
static void copy_numbers(const Gguf *g, const GgufTensor *t, real *out) {
    char name[GGUF_NAME];
    const GgufTensor *scale = name_of_scale(name, t->name) ? gguf_tensor(g, name) : NULL;
    size_t slices = scale ? scale->elements : 1;
    if (scale && (!t->type->scaled || (slices != 1 && (t->rank != 3 || slices != t->shape[0]))))
        fail("%s: tensor %s has %zu numbers for %s of type %s; only nvfp4 has scales, one for each expert", g->path,
             name, slices, t->name, t->type->name);
    real *by = xmalloc((slices + 1) * sizeof *by);
    if (scale) gguf_copy(scale, by, 0, slices, 1);
    for (size_t i = 0, each = slices ? t->elements / slices : 0; i < slices; i++) {
        if (scale && !(by[i] > 0)) fail("%s: tensor %s should have numbers above 0", g->path, name);
        gguf_copy(t, out + i * each, i * each, each, scale ? (float)by[i] : 1);
    }
    free(by);
}

static bool is_scale(const Gguf *g, const char *name) {
    size_t n = strlen(name), end = strlen(".scale");
    char weight[GGUF_NAME + 8];
    if (n <= end || strcmp(name + n - end, ".scale") != 0) return false;
    snprintf(weight, sizeof weight, "%.*s.weight", (int)(n - end), name);
    return gguf_tensor(g, weight) != NULL;
}

static void copy_tensor(const Gguf *g, const GgufTensor *t, const Link *k, real *values) {
    char expected[96], found[96];
    if (t->rank != k->rank || memcmp(t->shape, k->shape, k->rank * sizeof *k->shape) != 0)
        fail("%s: tensor %s: expected %s, found %s", g->path, t->name, link_shape(k->rank, k->shape, expected),
             link_shape(t->rank, t->shape, found));
    if (link_is_plain(k)) {
        copy_numbers(g, t, values + k->part[0].offset);
        return;
    }
    real *number = xmalloc(k->size * sizeof *number);
    copy_numbers(g, t, number);
    for (size_t i = 0; i < k->size; i++) values[link_place(k, i)] = number[i];
    free(number);
}

static int by_name(const void *a, const void *b) { return strcmp(((const Link *)a)->name, ((const Link *)b)->name); }

// Matrices in blocks were rounded once; in the format and by the rule that --quant names they stay as they are.
static void note_rounded_again(const Gguf *g, const Config *c, const char *path) {
    char *format = flags_get(&config_table, c, flags_find(&config_table, "quant"));
    const GgufType *other = NULL;
    for (char *at = format; *at; at++)
        if (*at == '-') *at = '_';              // as types are written
    for (size_t i = 0; c->quant && i < g->tensors && !other; i++) {
        const GgufType *type = g->tensor[i].type;
        if (type->block > 1 && (c->quant_search || strcmp(type->name, format) != 0)) other = type;
    }
    if (other)
        fprintf(stderr, "note     %s has matrices in %s; --quant %s rounds them again, which may change them\n", path,
                other->name, format);
    free(format);
}

void gguf_load(Model *m, const char *path) {
    Gguf *g = gguf_open(path);
    char shape[96];
    bool rotary = gguf_family(g) & ROTARY;
    Links all = links_of(m, gguf_family(g), gguf_tensor(g, "blk.0.attn_kv_b.weight") ? WHOLE_KV_B : 0);
    qsort(all.link, all.count, sizeof *all.link, by_name);
    for (size_t i = 0; i < g->tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        Link key;
        strcpy(key.name, t->name);
        Link *k = bsearch(&key, all.link, all.count, sizeof key, by_name);
        bool elsewhere = is_scale(g, t->name) || (rotary && !strcmp(t->name, "rope_freqs.weight"));
        if (!k && elsewhere) continue;
        if (!k)
            fail("%s: tensor %s %s is left over: this model has no place for it", path, t->name,
                 link_shape(t->rank, t->shape, shape));
        copy_tensor(g, t, k, model_values(m));
        k->found = true;
    }
    for (size_t i = 0; i < all.count; i++) {
        const Link *k = &all.link[i];
        if (!k->found)
            fail("%s: tensor %s %s is missing", path, k->name, link_shape(k->rank, k->shape, shape));
    }
    model_changed(m);
    note_rounded_again(g, model_config(m), path);
    free(all.link);
    gguf_close(g);
}

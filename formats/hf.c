// hf.c: what Hugging Face calls our tensors. One table, `names`, is read in both directions (links.h). Which
// architecture it is, and config.json, is the matter of hf_config.c.
#include "formats/gguf_model.h"
#include "formats/hf_config.h"
#include "formats/links.h"
#include <stdlib.h>
#include <string.h>

// ---- names -------------------------------------------------------------------------------------
static const TensorName names[] = {
    {DELTA_NET, "attn.q", "linear_attn.in_proj_qkvz", BY_HEAD},
    {DELTA_NET, "attn.k", "linear_attn.in_proj_qkvz", BY_HEAD},
    {DELTA_NET, "attn.v", "linear_attn.in_proj_qkvz", BY_HEAD},
    {DELTA_NET, "attn.gate", "linear_attn.in_proj_qkvz", BY_HEAD},
    {DELTA_NET, "attn.beta", "linear_attn.in_proj_ba", BY_HEAD},
    {DELTA_NET, "attn.decay", "linear_attn.in_proj_ba", BY_HEAD},
    {DELTA_NET, "attn.conv", "linear_attn.conv1d", TAPS},
    {DELTA_NET, "attn.decay_rate", "linear_attn.A_log", PLAIN},
    {DELTA_NET, "attn.decay_shift", "linear_attn.dt_bias", PLAIN},
    {DELTA_NET, "attn.o_norm", "linear_attn.norm", PLAIN},
    {DELTA_NET, "attn.o", "linear_attn.out_proj", PLAIN},
    {QWEN3_NEXT, "attn.q", "self_attn.q_proj", BY_HEAD},
    {QWEN3_NEXT, "attn.gate", "self_attn.q_proj", BY_HEAD},
    {QWEN3_NEXT, "attn.q_norm", "self_attn.q_norm", FROM_ONE},
    {QWEN3_NEXT, "attn.k_norm", "self_attn.k_norm", FROM_ONE},
    {QWEN3_NEXT, "attn_norm", "input_layernorm", FROM_ONE},
    {QWEN3_NEXT, "ffn_norm", "post_attention_layernorm", FROM_ONE},
    {QWEN3_NEXT, "final_norm", "model.norm", FROM_ONE},
    {ROTARY, "embed", "model.embed_tokens", PLAIN},
    {ROTARY, "final_norm", "model.norm", PLAIN},
    {ROTARY | GPT2, "head", "lm_head", PLAIN},
    {ROTARY & ~OLMO, "attn_norm", "input_layernorm", PLAIN},
    {ROTARY & ~OLMO, "ffn_norm", "post_attention_layernorm", PLAIN},
    {OLMO, "attn_norm_out", "post_attention_layernorm", PLAIN},
    {OLMO, "ffn_norm_out", "post_feedforward_layernorm", PLAIN},
    {ROTARY, "attn.q", "self_attn.q_proj", PLAIN},
    {ROTARY & ~LATENT, "attn.k", "self_attn.k_proj", PLAIN},
    {ROTARY & ~LATENT, "attn.v", "self_attn.v_proj", PLAIN},
    {ROTARY, "attn.o", "self_attn.o_proj", PLAIN},
    {QWEN3 | QWEN3_MOE | OLMO | OLMOE, "attn.q_norm", "self_attn.q_norm", PLAIN},
    {QWEN3 | QWEN3_MOE | OLMO | OLMOE, "attn.k_norm", "self_attn.k_norm", PLAIN},
    {LATENT, "attn.q_a", "self_attn.q_a_proj", PLAIN},
    {LATENT, "attn.q_a_norm", "self_attn.q_a_layernorm", PLAIN},
    {LATENT, "attn.q_b", "self_attn.q_b_proj", PLAIN},
    {LATENT, "attn.kv_a", "self_attn.kv_a_proj_with_mqa", PLAIN},
    {LATENT, "attn.kv_a_norm", "self_attn.kv_a_layernorm", PLAIN},
    {LATENT, "attn.kv_b", "self_attn.kv_b_proj", PLAIN},
    {ROTARY, "ffn.gate", "mlp.gate_proj", PLAIN},
    {ROTARY, "ffn.up", "mlp.up_proj", PLAIN},
    {ROTARY, "ffn.down", "mlp.down_proj", PLAIN},
    {MIXTRAL, "moe.router", "block_sparse_moe.gate", PLAIN},
    {MIXTRAL, "moe.gate", "block_sparse_moe.experts.*.w1", PLAIN},
    {MIXTRAL, "moe.up", "block_sparse_moe.experts.*.w3", PLAIN},
    {MIXTRAL, "moe.down", "block_sparse_moe.experts.*.w2", PLAIN},
    {DEEPSEEK, "moe.router.bias", "mlp.gate.e_score_correction_bias", PLAIN},
    {LATENT | QWEN3_MOE | OLMOE, "moe.router", "mlp.gate", PLAIN},
    {LATENT | QWEN3_MOE | OLMOE, "moe.gate", "mlp.experts.*.gate_proj", PLAIN},
    {LATENT | QWEN3_MOE | OLMOE, "moe.up", "mlp.experts.*.up_proj", PLAIN},
    {LATENT | QWEN3_MOE | OLMOE, "moe.down", "mlp.experts.*.down_proj", PLAIN},
    {LATENT, "moe.shared.gate", "mlp.shared_experts.gate_proj", PLAIN},
    {LATENT, "moe.shared.up", "mlp.shared_experts.up_proj", PLAIN},
    {LATENT, "moe.shared.down", "mlp.shared_experts.down_proj", PLAIN},
    {GPT2, "embed", "transformer.wte", PLAIN},
    {GPT2, "pos", "transformer.wpe", PLAIN},
    {GPT2, "final_norm", "transformer.ln_f", PLAIN},
    {GPT2, "attn_norm", "ln_1", PLAIN},
    {GPT2, "ffn_norm", "ln_2", PLAIN},
    {GPT2, "attn.q", "attn.c_attn", TRANSPOSED},
    {GPT2, "attn.k", "attn.c_attn", TRANSPOSED},
    {GPT2, "attn.v", "attn.c_attn", TRANSPOSED},
    {GPT2, "attn.o", "attn.c_proj", TRANSPOSED},
    {GPT2, "ffn.up", "mlp.c_fc", TRANSPOSED},
    {GPT2, "ffn.down", "mlp.c_proj", TRANSPOSED},
    {0, NULL, NULL, PLAIN},
};

// DeepSeek rotates neighbours (0 1)(2 3)..., at the end of each query head and of the latent's key. In ours, dimension
// d pairs with d + P/2.
static void interleave(Link *k, const char *ours, const Config *c) {
    bool query = strncmp(ours, "attn.q.", 7) == 0 || strncmp(ours, "attn.q_b.", 9) == 0;
    bool key = strncmp(ours, "attn.kv_a.", 10) == 0;
    if (query) k->head = c->nope_dim + c->rope_dim;
    if (key) k->head = c->kv_rank + c->rope_dim;
    if (query || key) k->rotated = c->rope_dim;
}

static Naming naming_of(const Family *family) {
    return (Naming){names, family->architecture, family->layer, family->bit, DELTA_NET};
}

static Links links_of(const Model *m, const Family *family, bool interleaved) {
    if (family->bit == OURS) return links_ours(m);
    Naming naming = naming_of(family);
    return links_named(m, &naming, interleaved ? interleave : NULL);
}

// Exact for a float of more than 2^-29. In the double build a weight with more bits than a float loses some of them.
static const double *distance_from_one(const Link *k, const real *arena) {
    double *file = xmalloc(k->size * sizeof *file);
    for (size_t i = 0; i < k->size; i++) file[i] = (double)arena[link_place(k, i)] - 1;
    return file;
}

// ---- writing -----------------------------------------------------------------------------------
static TensorOut tensor_out(const Link *k, const real *arena, bool values) {
    TensorOut out = {.rank = k->rank};
    strcpy(out.name, k->name);
    memcpy(out.shape, k->shape, sizeof k->shape);
    if (values && k->from_one) out.wide = distance_from_one(k, arena);
    else out.data = link_is_plain(k) ? arena + k->part[0].offset : link_gathered(k, arena);
    return out;
}

// Those that are written in double precision before the others, as TensorOut wants them.
static void put_wide_first(Links *all) {
    Link *sorted = xmalloc((all->count + 1) * sizeof *sorted);
    size_t n = 0;
    for (int wide = 1; wide >= 0; wide--)
        for (size_t i = 0; i < all->count; i++)
            if (all->link[i].from_one == wide) sorted[n++] = all->link[i];
    free(all->link);
    all->link = sorted;
}

// values: weights, of which some architectures store the distance from 1; a gradient is the same for either.
static void write_tensors(const Model *m, const real *arena, const char *path, bool values) {
    const Family *family = hf_family(model_config(m));
    Links all = links_of(m, family, family->bit == DEEPSEEK2);
    put_wide_first(&all);
    TensorOut *out = xmalloc((all.count + 1) * sizeof *out);
    for (size_t i = 0; i < all.count; i++) {
        out[i] = tensor_out(&all.link[i], arena, values);
        out[i].brain = values && model_config(m)->save_dtype == SAVE_DTYPE_bf16;
    }
    safetensors_write(path, out, all.count, NULL, 0);
    for (size_t i = 0; i < all.count; i++) {
        if (!link_is_plain(&all.link[i])) free((void *)out[i].data);
        free((void *)out[i].wide);
    }
    free(out);
    free(all.link);
}

void hf_write_tensors(const Model *m, const real *arena, const char *path) { write_tensors(m, arena, path, false); }

void hf_save(const Model *m, const char *dir) {
    char *config = xprintf("%s/config.json", dir), *weights = xprintf("%s/model.safetensors", dir);
    write_tensors(m, model_rounded_values((Model *)m), weights, true);
    hf_write_config(model_config(m), config);
    free(config), free(weights);
}

// ---- reading -----------------------------------------------------------------------------------
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

// transformers loads an adapter that lies beside a model, if it has the package for it; here the model is as it stands.
static void note_adapter(const char *dir) {
    char *path = xprintf("%s/adapter_config.json", dir);
    if (file_exists(path))
        print_line(stderr, "note     %s is passed over, and the model is taken without its adapter; merge_and_unload() "
                   "of peft makes one model of both\n", path);
    free(path);
}

// Whole weights count before shards, and an index beside them is not read, as in transformers.
static Paths weight_files(const char *dir) {
    Paths p = {0};
    char *whole = xprintf("%s/model.safetensors", dir), *index = xprintf("%s.index.json", whole);
    if (file_exists(whole)) add_shard(&p, dir, "", "model.safetensors");
    else if (!file_exists(index)) fail("%s has neither model.safetensors nor model.safetensors.index.json", dir);
    else {
        JsonFile j = hf_read_json(dir, "model.safetensors.index.json");
        const char *name;
        json_t *file;
        json_object_foreach(json_object_get(j.json, "weight_map"), name, file)
            add_shard(&p, dir, index, json_string_value(file));
        if (p.count == 0) fail("%s: weight_map, which names the shards, is missing or empty", index);
        hf_close_json(&j);
    }
    free(whole), free(index);
    return p;
}

static void copy_tensor(const SafeTensors *file, const TensorIn *t, const Link *k, real *values) {
    char expected[96], found[96];
    if (t->rank != k->rank || memcmp(t->shape, k->shape, k->rank * sizeof *k->shape) != 0)
        fail("%s: tensor %s: expected %s, found %s", file->path, t->name, link_shape(k->rank, k->shape, expected),
             link_shape(t->rank, t->shape, found));
    if (link_is_plain(k) && !k->from_one) {
        safetensors_copy(file, t, values + k->part[0].offset);
        return;
    }
    double *number = xmalloc(k->size * sizeof *number);
    safetensors_copy_wide(file, t, number);
    for (size_t i = 0; i < k->size; i++) values[link_place(k, i)] = (real)(k->from_one ? 1 + number[i] : number[i]);
    free(number);
}

// What a file may hold beside the parameters: constants of old versions.
static bool is_harmless(const char *name) {
    static const char *const endings[] = {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"};
    size_t n = strlen(name);
    for (int i = 0; i < 3; i++) {
        size_t e = strlen(endings[i]);
        if (n >= e && strcmp(name + n - e, endings[i]) == 0) return true;
    }
    return false;
}

static int by_name(const void *a, const void *b) { return strcmp(((const Link *)a)->name, ((const Link *)b)->name); }

// Models saved without their head have no leading "model." or "transformer.".
static Link *find_link(const Links *all, const char *prefix, const char *name) {
    Link key, *k;
    size_t head = strcspn(prefix, ".") + 1;
    strcpy(key.name, name);
    k = bsearch(&key, all->link, all->count, sizeof key, by_name);
    if (k || head + strlen(name) >= sizeof key.name) return k;
    memcpy(key.name, prefix, head);
    strcpy(key.name + head, name);
    return bsearch(&key, all->link, all->count, sizeof key, by_name);
}

typedef struct {
    const Model *m;
    const Family *family;
    Links all;
    size_t further;     // layers behind the last one, which predict further tokens
    bool noted;
    real *head;         // of a file whose model ties it to the embedding
} Loading;

static const Param *embedding_of(const Model *m) {
    const Param *p;
    model_params(m, &p);
    while (strcmp(p->name, "embed.weight") != 0) p++;
    return p;
}

static void keep_head(Loading *l, const SafeTensors *file, const TensorIn *t) {
    const Param *embed = embedding_of(l->m);
    Link like = {.rank = 2, .shape = {embed->shape[0], embed->shape[1]}, .size = embed->size, .parts = 1};
    if (l->head) fail("%s: tensor %s is there twice", file->path, t->name);
    l->head = xmalloc(embed->size * sizeof *l->head);
    copy_tensor(file, t, &like, l->head);
}

// Some readers take the embedding and some the head, so a model with both is one model or another. One with the head
// alone has it in both places.
static void compare_head(Loading *l, const char *dir) {
    const Param *embed = embedding_of(l->m);
    real *values = model_values((Model *)l->m) + embed->offset;
    Link *link = l->all.link;
    while (l->head && link->part[0].offset != embed->offset) link++;
    if (l->head && !link->found) memcpy(values, l->head, embed->size * sizeof *values), link->found = true;
    if (l->head && memcmp(l->head, values, embed->size * sizeof *values) != 0)
        fail("%s: config.json says tie_word_embeddings, but lm_head.weight differs from the embedding; set it to "
             "false, or remove the tensor", dir);
}

static bool predicts_further(const Loading *l, const char *name) {
    size_t n = strlen(l->family->layer), first = model_config(l->m)->layers;
    if (!l->further || strncmp(name, l->family->layer, n) != 0) return false;
    size_t layer = strtoul(name + n, NULL, 10);
    return layer >= first && layer < first + l->further;
}

// True for a tensor that is no parameter of this model, and need not be.
static bool pass_over(Loading *l, const SafeTensors *file, const TensorIn *t) {
    if (model_config(l->m)->tie && strcmp(t->name, "lm_head.weight") == 0) return keep_head(l, file, t), true;
    if (!predicts_further(l, t->name)) return is_harmless(t->name);
    if (!l->noted)
        fprintf(stderr, "note     %s: layers from number %zu on predict further tokens; they are passed over\n",
                file->path, model_config(l->m)->layers);
    return l->noted = true;
}

static void load_file(Loading *l, const char *path) {
    SafeTensors *file = safetensors_open(path);
    char shape[96];
    for (size_t i = 0; i < file->count; i++) {
        const TensorIn *t = &file->tensor[i];
        Link *k = find_link(&l->all, l->family->layer, t->name);
        if (!k && !pass_over(l, file, t))
            fail("%s: tensor %s %s is left over: this model has no place for it", path, t->name,
                 link_shape(t->rank, t->shape, shape));
        if (k && k->found) fail("%s: tensor %s is there twice", path, t->name);
        if (!k) continue;
        copy_tensor(file, t, k, model_values((Model *)l->m));
        k->found = true;
    }
    safetensors_close(file);
}

void hf_load(Model *m, const char *dir) {
    if (gguf_is(dir)) {
        gguf_load(m, dir);
        return;
    }
    JsonFile j = hf_read_json(dir, "config.json");
    const Family *family = hf_family_in(&j);
    Loading l = {m, family, links_of(m, family, hf_interleaved(&j, family->bit)),
                 hf_prediction_layers(&j, family->bit), false, NULL};
    Paths files = weight_files(dir);
    note_adapter(dir);
    char shape[96];
    qsort(l.all.link, l.all.count, sizeof *l.all.link, by_name);
    for (size_t i = 0; i < files.count; i++) load_file(&l, files.path[i]);
    compare_head(&l, dir);
    for (size_t i = 0; i < l.all.count; i++) {
        const Link *k = &l.all.link[i];
        if (!k->found) fail("%s: tensor %s %s is missing", dir, k->name, link_shape(k->rank, k->shape, shape));
    }
    model_changed(m);
    for (size_t i = 0; i < files.count; i++) free(files.path[i]);
    free(files.path), free(l.all.link), free(l.head);
    hf_close_json(&j);
    hf_load_exact(m, dir);
}

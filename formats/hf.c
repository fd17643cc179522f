// hf.c: what Hugging Face calls our tensors. One table, `names`, is read in both directions: to save the
// parameters and to load them. Which architecture it is, and config.json, is the matter of hf_config.c.
#include "formats/hf_config.h"
#include <stdlib.h>
#include <string.h>

// ---- names -------------------------------------------------------------------------------------
// How they lay out what we have as [out, in]. Rows with the same name of theirs are parts of one tensor, one below the
// other. A * counts the experts, which we keep as one tensor.
typedef enum {
    PLAIN,
    TRANSPOSED,  // [in, out]: GPT-2's Conv1D
    BY_HEAD,     // the rows of a head of every part, then those of the next head
    TAPS,        // [channels, 1, taps]: PyTorch's depthwise convolution
    FROM_ONE,    // the distance from 1, in double precision, so that adding 1 again gives the same bits
} Layout;
// A family's own rows stand before those that it shares with others.
static const struct { unsigned families; const char *ours, *theirs; Layout layout; } names[] = {
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
};
enum { NAMES = sizeof names / sizeof *names };

// A tensor of a file, made of parts: where they lie in the arenas of the model, and their rows (in each of the groups).
typedef struct { size_t offset, rows; } Part;
typedef struct {
    char name[TENSOR_NAME];
    int layer;
    size_t rank, shape[3], size;      // as in the file
    Part part[4];
    size_t parts, groups, columns;    // groups: heads that are laid out one after the other, or 1
    size_t head, rotated;             // the last `rotated` of every `head` rows rotate as neighbours; 0: none does
    bool transposed, from_one, found; // transposed: [in, out] in the file
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

static void write_name(char out[TENSOR_NAME], const Family *family, const Param *p, size_t r, const char *suffix,
                       size_t expert) {
    char layer[64] = "", number[32];
    const char *theirs = names[r].theirs, *star = strchr(theirs, '*');
    if (p->layer >= 0) snprintf(layer, sizeof layer, "%s%d.", family->layer, p->layer);
    snprintf(number, sizeof number, "%zu", expert);
    snprintf(out, TENSOR_NAME, "%s%.*s%s%s%s", layer, (int)strcspn(theirs, "*"), theirs, star ? number : "",
             star ? star + 1 : "", suffix);
}

static Link *add_link(Links *all, const Param *p, size_t offset, size_t first_dimension) {
    all->link = xrealloc(all->link, (all->count + 1) * sizeof *all->link);
    Link *k = &all->link[all->count++];
    *k = (Link){.layer = p->layer, .rank = p->rank - first_dimension, .size = 1, .parts = 1, .groups = 1};
    for (size_t d = 0; d < k->rank; d++) k->size *= k->shape[d] = p->shape[first_dimension + d];
    k->columns = k->rank > 1 ? k->shape[1] : 1;
    k->part[0] = (Part){offset, k->size / k->columns};
    return k;
}

// Makes the tensor of this name, which has been begun, longer by p. False where there is none.
static bool join(Links *all, const char *name, const Param *p) {
    for (size_t i = all->count; i-- > 0 && all->link[i].layer == p->layer;) {
        Link *k = &all->link[i];
        if (strcmp(k->name, name) != 0) continue;
        k->part[k->parts++] = (Part){p->offset, p->shape[0] / k->groups};
        k->shape[k->transposed && k->rank > 1] += p->shape[0];
        k->size += p->size;
        return true;
    }
    return false;
}

static void lay_out(Link *k, Layout layout, size_t heads) {
    size_t rows = k->shape[0];
    k->from_one = layout == FROM_ONE;
    k->transposed = (layout == TRANSPOSED && k->rank == 2) || layout == TAPS;
    if (layout == BY_HEAD) k->groups = heads, k->part[0].rows /= heads;
    if (k->transposed) k->shape[0] = k->columns, k->shape[1] = rows;
    if (layout == TAPS) k->shape[2] = rows, k->shape[1] = 1, k->rank = 3;
}

static void link_ours(Links *all, const Param *p) {
    Link *k = add_link(all, p, p->offset, 0);
    snprintf(k->name, sizeof k->name, "%s", p->name);
}

// DeepSeek rotates neighbours (0 1)(2 3)..., at the end of each query head and of the latent's key. In ours, dimension
// d pairs with d + P/2.
static void interleave(Link *k, const char *ours, const Config *c) {
    bool query = strncmp(ours, "attn.q.", 7) == 0 || strncmp(ours, "attn.q_b.", 9) == 0;
    bool key = strncmp(ours, "attn.kv_a.", 10) == 0;
    if (query) k->head = c->nope_dim + c->rope_dim;
    if (key) k->head = c->kv_rank + c->rope_dim;
    if (query || key) k->rotated = c->rope_dim;
}

static void link_theirs(Links *all, const Family *family, const Param *p, const Config *c, bool interleaved) {
    const char *suffix;
    char name[TENSOR_NAME];
    bool delta = p->layer >= 0 && pattern_at(&c->attn, (size_t)p->layer) == ATTN_gated_delta;
    unsigned bits = family->bit | (delta ? DELTA_NET : 0);
    size_t r = 0;
    while (r < NAMES && !row_matches(r, bits, without_layer(p), &suffix)) r++;
    if (r == NAMES)
        fail("%s has no tensor for %s; the flags of this model are not its own", family->architecture, p->name);
    bool experts = strchr(names[r].theirs, '*') != NULL;
    size_t pieces = experts ? p->shape[0] : 1;
    for (size_t e = 0; e < pieces; e++) {
        write_name(name, family, p, r, suffix, e);
        if (!experts && join(all, name, p)) continue;
        Link *k = add_link(all, p, p->offset + e * (p->size / pieces), experts);
        strcpy(k->name, name);
        lay_out(k, names[r].layout, c->heads);
        if (interleaved) interleave(k, without_layer(p), c);
    }
}

static Links links_of(const Model *m, const Family *family, bool interleaved) {
    const Param *p;
    Links all = {0};
    for (size_t i = 0, n = model_params(m, &p); i < n; i++)
        if (family->bit == OURS) link_ours(&all, &p[i]);
        else link_theirs(&all, family, &p[i], model_config(m), interleaved);
    return all;
}

// ---- layouts -----------------------------------------------------------------------------------
static bool is_plain(const Link *k) { return k->parts == 1 && !k->transposed && !k->rotated; }

// Row r of a tensor whose rotated rows are neighbours, in ours.
static size_t paired_by_halves(const Link *k, size_t r) {
    size_t first = k->head - k->rotated, at = r % k->head;
    if (at < first) return r;
    size_t i = at - first;
    return r - at + first + (i % 2 ? k->rotated / 2 + i / 2 : i / 2);
}

// Where number i of the tensor in the file lies in the arenas.
static size_t place_of(const Link *k, size_t i) {
    size_t rows = k->size / k->columns;
    size_t row = k->transposed ? i % rows : i / k->columns, column = k->transposed ? i / rows : i % k->columns;
    if (k->rotated) row = paired_by_halves(k, row);
    size_t group = row / (rows / k->groups), within = row % (rows / k->groups);
    const Part *part = k->part;
    while (within >= part->rows) within -= part++->rows;
    return part->offset + (group * part->rows + within) * k->columns + column;
}

static const real *gathered(const Link *k, const real *arena) {
    real *file = xmalloc(k->size * sizeof *file);
    for (size_t i = 0; i < k->size; i++) file[i] = arena[place_of(k, i)];
    return file;
}

// Exact for a float of more than 2^-29. In the double build a weight with more bits than a float loses some of them.
static const double *distance_from_one(const Link *k, const real *arena) {
    double *file = xmalloc(k->size * sizeof *file);
    for (size_t i = 0; i < k->size; i++) file[i] = (double)arena[place_of(k, i)] - 1;
    return file;
}

// ---- writing -----------------------------------------------------------------------------------
static TensorOut tensor_out(const Link *k, const real *arena, bool values) {
    TensorOut out = {.rank = k->rank};
    strcpy(out.name, k->name);
    memcpy(out.shape, k->shape, sizeof k->shape);
    if (values && k->from_one) out.wide = distance_from_one(k, arena);
    else out.data = is_plain(k) ? arena + k->part[0].offset : gathered(k, arena);
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
        if (!is_plain(&all.link[i])) free((void *)out[i].data);
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

static const char *shape_text(size_t rank, const size_t *shape, char out[96]) {
    int n = snprintf(out, 96, "[");
    for (size_t d = 0; d < smaller(rank, TENSOR_RANK); d++)
        n += snprintf(out + n, (size_t)(96 - n), d ? ", %zu" : "%zu", shape[d]);
    snprintf(out + n, (size_t)(96 - n), rank > TENSOR_RANK ? ", ...]" : "]");
    return out;
}

static void copy_tensor(const SafeTensors *file, const TensorIn *t, const Link *k, real *values) {
    char expected[96], found[96];
    if (t->rank != k->rank || memcmp(t->shape, k->shape, k->rank * sizeof *k->shape) != 0)
        fail("%s: tensor %s: expected %s, found %s", file->path, t->name, shape_text(k->rank, k->shape, expected),
             shape_text(t->rank, t->shape, found));
    if (is_plain(k) && !k->from_one) {
        safetensors_copy(file, t, values + k->part[0].offset);
        return;
    }
    double *number = xmalloc(k->size * sizeof *number);
    safetensors_copy_wide(file, t, number);
    for (size_t i = 0; i < k->size; i++) values[place_of(k, i)] = (real)(k->from_one ? 1 + number[i] : number[i]);
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
                 shape_text(t->rank, t->shape, shape));
        if (k && k->found) fail("%s: tensor %s is there twice", path, t->name);
        if (!k) continue;
        copy_tensor(file, t, k, model_values((Model *)l->m));
        k->found = true;
    }
    safetensors_close(file);
}

void hf_load(Model *m, const char *dir) {
    JsonFile j = hf_read_json(dir, "config.json");
    const Family *family = hf_family_in(&j);
    Loading l = {m, family, links_of(m, family, hf_interleaved(&j, family->bit)),
                 hf_prediction_layers(&j, family->bit), false, NULL};
    Paths files = weight_files(dir);
    char shape[96];
    qsort(l.all.link, l.all.count, sizeof *l.all.link, by_name);
    for (size_t i = 0; i < files.count; i++) load_file(&l, files.path[i]);
    compare_head(&l, dir);
    for (size_t i = 0; i < l.all.count; i++) {
        const Link *k = &l.all.link[i];
        if (!k->found) fail("%s: tensor %s %s is missing", dir, k->name, shape_text(k->rank, k->shape, shape));
    }
    model_changed(m);
    for (size_t i = 0; i < files.count; i++) free(files.path[i]);
    free(files.path), free(l.all.link), free(l.head);
    hf_close_json(&j);
}

// config.c: the table of flags that config.def expands to, the presets, what 0 is derived to, and the
// combinations that are refused, each with its reason. Nothing here knows how a model computes.
#include "config/config.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the table ---------------------------------------------------------------------------------
#define BAR_WORD(prefix, word) "|" #word
#define WORDS(VALUES) &(VALUES(BAR_WORD))[1]  // "|a|b" without its first bar
#define SOURCE_WORD(name) #name "|"
#define ROW(kind, name, standard, values, bare, low, high, post, needs, help, identity) \
    {kind, #name, offsetof(Config, name), standard, values, bare, low, high, post, needs, help, identity},
#define GROUP(help) {FLAG_GROUP, "", 0, "", NULL, NULL, 0, 0, "", "", help, false},
#define SIZE(name, standard, low, high, identity, post, needs, help) \
    ROW(FLAG_SIZE, name, #standard, NULL, NULL, low, high, post, needs, help, identity)
#define REAL(name, standard, low, high, identity, post, needs, help) \
    ROW(FLAG_REAL, name, #standard, NULL, NULL, low, high, post, needs, help, identity)
#define BOOL(name, standard, identity, post, needs, help) \
    ROW(FLAG_BOOL, name, #standard, NULL, "1", 0, 1, post, needs, help, identity)
#define ENUM(name, VALUES, standard, bare, identity, post, needs, help) \
    ROW(FLAG_ENUM, name, standard, WORDS(VALUES), bare, 0, 0, post, needs, help, identity)
#define PATTERN(name, VALUES, standard, identity, post, needs, help) \
    ROW(FLAG_PATTERN, name, standard, WORDS(VALUES), NULL, 0, 0, post, needs, help, identity)
#define TEXT(name, standard, what, identity, post, needs, help) \
    ROW(FLAG_TEXT, name, standard, what, NULL, 0, 0, post, needs, help, identity)
static const Flag flags[] = {
#include "config/config.def"
};

static const Preset presets[] = {
    {"shakespeare",
     "--tokenizer char --layers 4 --heads 4 --width 128 --context 64 --batch 12 --pos learned --norm-kind layer "
     "--ffn gelu --steps 2000 --lr 2e-3 --min-lr 2e-4 --warmup 100 --beta2 0.99 --eval-every 250",
     "nanoGPT's small CPU setting for tiny Shakespeare, at twice its learning rate; give the text with --data FILE"},
    {"gpt2", "--pos learned --norm-kind layer --ffn gelu --bias 1", "a small GPT-2 (Radford et al. 2019)"},
    {"llama", "--attn gqa --kv-heads 2 --tie 0",
     "a small Llama (Touvron et al. 2023), with grouped queries as in Llama 2 70B and Llama 3"},
    {"olmo2", "--norm out --qk-norm full --tie 0", "a small OLMo 2 (OLMo 2, 2025): norms on the branch outputs"},
    {"mixtral", "--attn gqa --kv-heads 2 --tie 0 --experts 8 --top-k 2 --expert-width 128 --aux-loss 0.02",
     "a small Mixtral (Jiang et al. 2024): eight experts, two per token"},
    {"deepseek",
     "--attn mla --kv-rank 64 --rope-dim 16 --nope-dim 32 --v-dim 32 --tie 0 --experts 16 --top-k 4 --shared-experts 1 "
     "--expert-width 64 --first-dense 1 --gate sigmoid --router bias --aux-loss 0.0001",
     "a small DeepSeek-V3 (2024): latent attention, fine experts, balance by bias"},
};

const FlagTable config_table = {
    .flag = flags,
    .count = sizeof flags / sizeof flags[0],
    .preset = presets,
    .presets = sizeof presets / sizeof presets[0],
    .program = "./train [--name value]...",
    .about =
        "Trains a GPT whose whole architecture is flags, and leaves a directory that proves what happened.\n"
        "With no flags: a small model learns the language of `stories`, whose best possible loss is known.\n"
        "The same commit, flags and seed give the same digest on every machine. Ctrl-C saves; the same\n"
        "command resumes.",
    .examples = "  ./train                                          the default model, about a minute on two cores\n"
                "  ./train --attn mla --kv-rank 32                  latent attention instead of full heads\n"
                "  ./train --preset mixtral --steps 300             an architecture by name, one flag changed\n"
                "  ./train --data input.txt --preset shakespeare    your own text\n"
                "  ./train --layers 24 --norm post --dry-run        how large would that be?\n"
                "  ./train --verify runs/NAME                       does it give the same bits here and now?\n",
};

// ---- what 0 is derived to ----------------------------------------------------------------------
static bool pattern_has(const Pattern *p, int value) { return memchr(p->at, value, p->count) != NULL; }
static bool has_attn(const Config *c, int attn) { return pattern_has(&c->attn, attn); }

bool config_layer_has_experts(const Config *c, size_t l) {
    return c->experts > 0 && l >= c->first_dense && pattern_at(&c->moe_layers, l) == MOE_LAYER_moe;
}

bool config_is_linear(int attn) { return attn >= ATTN_linear && attn <= ATTN_mamba2; }

size_t config_kv_heads(const Config *c, int attn) {
    if (attn == ATTN_swa && c->kv_heads) return c->kv_heads;
    if (attn != ATTN_gqa) return c->heads;
    return c->kv_heads ? c->kv_heads : c->heads > 1 ? c->heads / 2 : 1;
}

size_t config_rope_dim(const Config *c, int attn) {
    if (c->pos != POS_rope || config_is_linear(attn)) return 0;
    if (c->rope_dim) return c->rope_dim;
    return attn == ATTN_mla ? (c->head_dim / 2 + 1) / 2 * 2 : c->head_dim;
}

static bool router_is(const Config *c, unsigned routers) { return c->experts && routers >> c->router & 1; }
enum {  // sets of routers, as bits
    POOLED = 1 << ROUTER_expert_choice | 1 << ROUTER_soft,
    COUNTED = 1 << ROUTER_topk | 1 << ROUTER_bias | 1 << ROUTER_hash,    // a token has K experts, no more and no less
    NORMALISED = 1 << ROUTER_topk | 1 << ROUTER_bias | 1 << ROUTER_dense,
    TOKENS_CHOOSE = COUNTED | 1 << ROUTER_threshold | 1 << ROUTER_relu,
    BALANCED = 1 << ROUTER_topk | 1 << ROUTER_bias | 1 << ROUTER_threshold,  // may have a balancing loss
    UNGATED = 1 << ROUTER_relu | 1 << ROUTER_hash | 1 << ROUTER_soft,        // neither softmax nor sigmoid
};

ConfigPool config_pool(const Config *c) {
    char *end;
    if (!strcmp(c->pool, "batch")) return (ConfigPool){false, true, c->batch};
    if (!strcmp(c->pool, "all")) return (ConfigPool){true, true, size_mul(c->batch, c->context)};
    unsigned long long tokens = strncmp(c->pool, "time:", 5) ? 0 : strtoull(c->pool + 5, &end, 10);
    if (!tokens || *end || c->pool[5] < '0' || c->pool[5] > '9')
        usage_error("--pool is time:N (1 to --context neighbours), batch or all, but '%s' was given", c->pool);
    return (ConfigPool){tokens > 1, false, tokens};
}

size_t config_pool_share(const Config *c) {
    size_t tokens = config_pool(c).tokens, share = (size_mul(tokens, c->top_k) + c->experts / 2) / c->experts;
    return share ? share : 1;
}

double config_experts_per_token(const Config *c) {
    if (!router_is(c, POOLED)) return (double)c->top_k;
    return (double)(config_pool_share(c) * c->experts) / (double)config_pool(c).tokens;
}

size_t config_capacity(const Config *c, size_t T) {
    return (size_t)ceil(c->capacity * (double)(T * c->top_k) / (double)c->experts);
}

bool config_router_pools(const Config *c) { return router_is(c, POOLED); }
bool config_router_looks_ahead(const Config *c) { return router_is(c, POOLED) && config_pool(c).time; }

static void derive_attention(Config *c) {
    bool latent = has_attn(c, ATTN_mla), linear = false;
    bool plain = has_attn(c, ATTN_mha) || has_attn(c, ATTN_gqa) || has_attn(c, ATTN_swa);
    for (int attn = ATTN_linear; attn <= ATTN_mamba2; attn++) linear |= has_attn(c, attn);
    if (!c->head_dim) c->head_dim = c->width / c->heads;
    if (has_attn(c, ATTN_gqa)) c->kv_heads = config_kv_heads(c, ATTN_gqa);
    if (has_attn(c, ATTN_swa) && !c->window) c->window = (c->context + 1) / 2;
    if (plain != latent) c->rope_dim = config_rope_dim(c, latent ? ATTN_mla : ATTN_mha);  // mixed: differs by layer
    if (linear && !c->state_dim) c->state_dim = c->head_dim;
    if (!latent) return;
    if (!c->kv_rank) c->kv_rank = 2 * c->head_dim;
    if (!c->nope_dim) c->nope_dim = c->head_dim;
    if (!c->v_dim) c->v_dim = c->head_dim;
}

// As one would write it: 3e-3 gives 0.0003, where a division gives 0.00030000000000000003.
static double tenth(double x) {
    char text[32];
    snprintf(text, sizeof text, "%.15g", x / 10);
    return strtod(text, NULL);
}

static void derive_router(Config *c) {
    if (c->aux_loss == -1) c->aux_loss = c->router == ROUTER_topk ? 0.01 : 0;
    if (router_is(c, POOLED) && !*c->pool) snprintf(c->pool, sizeof c->pool, "time:%zu", c->context);
    if (!router_is(c, NORMALISED)) c->norm_topk = false;
    if (c->router == ROUTER_dense && c->top_k == 2) c->top_k = c->experts;
}

static void derive_rest(Config *c) {
    if (!c->ffn_width) c->ffn_width = c->ffn == FFN_swiglu ? (8 * c->width / 3 + 31) / 32 * 32 : 4 * c->width;
    if (c->experts && !c->expert_width) c->expert_width = c->ffn_width;
    if (!c->micro_batch) c->micro_batch = c->batch;
    if (c->experts) derive_router(c);
    if (c->min_lr == -1) c->min_lr = tenth(c->lr);
    if (!c->eval_every) c->eval_every = c->steps >= 10 ? c->steps / 10 : 1;
    if (!c->save_every) c->save_every = c->eval_every;
}

// ---- what is refused ---------------------------------------------------------------------------
// Of the flags that belong to another --data, even one that stands at its default is a mistake. The others may stand
// there, so that `--experts 0 --top-k 2` can be an arm of a sweep beside `--experts 4 --top-k 2`.
void config_refuse_unused(const Config *c, const bool *given) {
    for (size_t i = 0; i < config_table.count; i++) {
        bool of_data = strncmp(config_table.flag[i].needs, "data ", 5) == 0;
        bool is_set = (given && given[i] && of_data) || !flags_is_default(&config_table, c, i);
        if (is_set) flags_refuse_unused(&config_table, c, i);
    }
}

// A pattern repeats over the layers; what is beyond them would never be built.
static void refuse_long_pattern(const Config *c, const char *flag, const Pattern *p) {
    if (p->count > c->layers)
        usage_error("--%s has %d entries, but there are only --layers %zu; shorten it, or give more layers", flag,
                    p->count, c->layers);
}

static void refuse_heads(const Config *c) {
    if (!c->head_dim && c->width % c->heads != 0)
        usage_error("--width %zu cannot be divided among --heads %zu; choose a multiple, or give --head-dim", c->width,
                    c->heads);
    size_t shared = config_kv_heads(c, has_attn(c, ATTN_gqa) ? ATTN_gqa : has_attn(c, ATTN_swa) ? ATTN_swa : ATTN_mha);
    if (c->heads % shared != 0)
        usage_error("--heads %zu cannot share --kv-heads %zu evenly; kv-heads must divide heads", c->heads, shared);
    if (c->tile % 32 != 0) usage_error("--tile %zu is not a multiple of 32", c->tile);
}

static void refuse_rotation(const Config *c) {
    for (int attn = ATTN_mha; attn <= ATTN_swa; attn++) {
        size_t rotated = config_rope_dim(c, attn);
        if (!has_attn(c, attn) || c->pos != POS_rope) continue;
        if (rotated % 2 != 0)
            usage_error("RoPE rotates pairs, but %zu dimensions would be; give an even --rope-dim or --head-dim",
                        rotated);
        if (attn != ATTN_mla && rotated > c->head_dim)
            usage_error("--rope-dim %zu is more than the %zu dimensions of a head (--head-dim)", rotated, c->head_dim);
    }
}

// What a router has no use for would be ignored silently.
static void refuse_router_flags(const Config *c) {
    char *router = flags_get(&config_table, c, flags_find(&config_table, "router"));
    if (c->gate == GATE_sigmoid && router_is(c, UNGATED))
        usage_error("--gate sigmoid has no effect with --router %s, whose weights are its own; leave it out", router);
    if (c->aux_loss > 0 && !router_is(c, BALANCED))
        usage_error("--aux-loss %g has no effect with --router %s, whose load no such loss can balance; leave it out",
                    c->aux_loss, router);
    if (c->z_loss > 0 && (c->gate == GATE_sigmoid || router_is(c, UNGATED)))
        usage_error("--z-loss %g holds down the softmax's partition function; --%s %s has none", c->z_loss,
                    c->gate == GATE_sigmoid ? "gate" : "router", c->gate == GATE_sigmoid ? "sigmoid" : router);
    if (c->capacity > 0 && !router_is(c, TOKENS_CHOOSE))
        usage_error("--capacity %g limits what tokens choose, but with --router %s they do not; leave it out",
                    c->capacity, router);
    if (c->route_scale != 1 && c->router == ROUTER_soft)
        usage_error("--route-scale %g has no effect with --router soft, whose weights are means; leave it out",
                    c->route_scale);
    if (c->router == ROUTER_dense && c->top_k != c->experts)
        usage_error("--top-k %zu contradicts --router dense, where every token passes all %zu experts; leave it out",
                    c->top_k, c->experts);
    free(router);
}

static void refuse_pool(const Config *c) {
    ConfigPool pool = config_pool(c);
    size_t rows = (c->eval_tokens + c->context - 1) / c->context;
    if (!pool.batch && pool.tokens > c->context)
        usage_error("--pool %s is longer than the --context %zu of a row", c->pool, c->context);
    if (pool.batch && c->micro_batch != c->batch)
        usage_error("--pool %s routes the tokens of all --batch %zu rows together, which --micro-batch %zu cuts apart",
                    c->pool, c->batch, c->micro_batch);
    if (pool.batch && rows % c->batch)
        usage_error("--pool %s needs full batches, but a validation has %zu rows (--eval-tokens / --context), no "
                    "multiple of --batch %zu", c->pool, rows, c->batch);
    if (pool.tokens * c->top_k < c->experts)
        usage_error("--pool %s has %zu tokens, which --experts %zu cannot share at --top-k %zu: less than one each; "
                    "give larger pools or fewer experts", c->pool, pool.tokens, c->experts, c->top_k);
}

static void refuse_experts(const Config *c) {
    if (!c->experts) return;
    if (c->top_k > c->experts)
        usage_error("--top-k %zu experts per token cannot be chosen from --experts %zu", c->top_k, c->experts);
    refuse_router_flags(c);
    if (router_is(c, POOLED)) refuse_pool(c);
    if (c->top_k == 1 && c->experts > 1 && c->norm_topk)
        usage_error("--top-k 1 with --norm-topk 1 gives every chosen expert the weight 1, so the router learns nothing "
                    "from the loss; add --norm-topk 0");
    size_t copies = router_is(c, COUNTED) ? c->top_k : c->experts;
    if (c->micro_batch > INT32_MAX / c->context / copies)
        usage_error("--micro-batch %zu rows of --context %zu tokens with up to %zu copies are more than the 2^31 that "
                    "a router can sort; give a smaller --micro-batch", c->micro_batch, c->context, copies);
    if (c->aux_loss < 0) usage_error("--aux-loss %g is negative; give 0 or more, or -1 for the default", c->aux_loss);
    for (size_t l = 0; l < c->layers; l++)
        if (config_layer_has_experts(c, l)) return;
    usage_error("--experts %zu, but no layer has experts: --first-dense %zu and --moe-layers leave none of %zu layers",
                c->experts, c->first_dense, c->layers);
}

static void refuse_training(const Config *c) {
    if (c->micro_batch > c->batch)
        usage_error("--micro-batch %zu is more than the --batch %zu it is a part of", c->micro_batch, c->batch);
    if (c->min_lr < 0) usage_error("--min-lr %g is negative; give 0 or more, or -1 for a tenth of --lr", c->min_lr);
    if (c->min_lr > c->lr) usage_error("--min-lr %g is above --lr %g; the schedule only goes down", c->min_lr, c->lr);
}

// Linear mixers see the order of the tokens through their state. Where all layers are such, nothing is left to rotate.
static void drop_unused_rotation(Config *c) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (!config_is_linear(c->attn.at[i])) return;
    if (c->pos == POS_rope) c->pos = POS_none;
    if (c->pos == POS_alibi)
        usage_error("--pos alibi is added to the scores of softmax attention, and no layer has such; give --pos none");
}

void config_resolve(Config *c) {
    drop_unused_rotation(c);
    config_refuse_unused(c, NULL);
    refuse_long_pattern(c, "attn", &c->attn);
    refuse_long_pattern(c, "moe-layers", &c->moe_layers);
    refuse_heads(c);
    derive_attention(c);
    derive_rest(c);
    refuse_rotation(c);
    refuse_experts(c);
    refuse_training(c);
}

// moe.c: what the section moe.def derives and refuses: which layers have experts, pools, capacity, and what each router
// has no use for.
#include "config/config.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool config_layer_has_experts(const Config *c, size_t l) {
    return c->experts > 0 && l >= c->first_dense && pattern_at(&c->moe_layers, l) == MOE_LAYER_moe;
}

static bool router_is(const Config *c, unsigned routers) { return c->experts && routers >> c->router & 1; }
enum {  // sets of routers, as bits
    POOLED = 1 << ROUTER_expert_choice | 1 << ROUTER_soft,
    COUNTED = 1 << ROUTER_topk | 1 << ROUTER_bias | 1 << ROUTER_hash,    // a token has K experts, no more and no less
    LIMITED = 1 << ROUTER_topk | 1 << ROUTER_bias,      // a token's experts may have to come from a few groups
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

// ---- derived -------------------------------------------------------------------------------------
static void derive_router(Config *c) {
    if (c->aux_loss == -1) c->aux_loss = c->router == ROUTER_topk ? 0.01 : 0;
    if (router_is(c, POOLED) && !*c->pool) snprintf(c->pool, sizeof c->pool, "time:%zu", c->context);
    if (!router_is(c, NORMALISED)) c->norm_topk = false;
    if (c->router == ROUTER_dense && c->top_k == 2) c->top_k = c->experts;
}

// ---- refused -------------------------------------------------------------------------------------
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
        usage_error("--top-k %zu contradicts --router dense, where every token passes all --experts %zu; leave it out",
                    c->top_k, c->experts);
    free(router);
}

static void refuse_groups(const Config *c) {
    size_t size = c->experts / c->route_groups;
    if (!router_is(c, LIMITED))
        usage_error("--route-groups %zu limits what --router topk and bias choose; leave it out", c->route_groups);
    if (c->experts % c->route_groups)
        usage_error("--experts %zu cannot be divided into --route-groups %zu of equal size", c->experts,
                    c->route_groups);
    if (c->route_top_groups >= c->route_groups)
        usage_error("--route-top-groups %zu of --route-groups %zu leave nothing out; give fewer, or neither flag",
                    c->route_top_groups, c->route_groups);
    if (c->top_k > c->route_top_groups * size)
        usage_error("--top-k %zu experts cannot be chosen from --route-top-groups %zu of %zu expert%s each", c->top_k,
                    c->route_top_groups, size, plural(size));
    if (c->route_group_score == GROUP_SCORE_top2 && size < 2)
        usage_error("--route-group-score top2 sums two experts of a group, but --route-groups %zu leave one each; give "
                    "max", c->route_groups);
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
        usage_error("--pool %s needs full batches, but a validation has %zu row%s (--eval-tokens / --context), no "
                    "multiple of --batch %zu", c->pool, rows, plural(rows), c->batch);
    if (pool.tokens * c->top_k < c->experts)
        usage_error("--pool %s has %zu token%s, which --experts %zu cannot share at --top-k %zu: less than one each; "
                    "give larger pools or fewer experts", c->pool, pool.tokens, plural(pool.tokens), c->experts,
                    c->top_k);
}

static void refuse_experts(const Config *c) {
    if (c->top_k > c->experts)
        usage_error("--top-k %zu experts per token cannot be chosen from --experts %zu", c->top_k, c->experts);
    refuse_router_flags(c);
    if (router_is(c, POOLED)) refuse_pool(c);
    if (c->route_groups) refuse_groups(c);
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
    usage_error("--experts %zu, but no layer has experts: --first-dense %zu and --moe-layers leave none of %zu layer%s",
                c->experts, c->first_dense, c->layers, plural(c->layers));
}

void config_resolve_moe(Config *c) {
    config_refuse_long_pattern(c, "moe-layers", &c->moe_layers);
    if (!c->experts) return;
    if (!c->expert_width) c->expert_width = c->ffn_width;
    derive_router(c);
    refuse_experts(c);
}

// model.c: what the section model.def derives and refuses: attention, positions, feed-forward.
#include "config/config.h"

// ---- what depends on the kind of attention -------------------------------------------------------
static bool has_attn(const Config *c, int attn) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (c->attn.at[i] == attn) return true;
    return false;
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

size_t config_layer_rope_dim(const Config *c, size_t l) {
    return pattern_at(&c->rope_layers, l) == ROPE_LAYER_rope ? config_rope_dim(c, pattern_at(&c->attn, l)) : 0;
}

// ---- biases --------------------------------------------------------------------------------------
bool config_qkv_bias(const Config *c) {
    return c->attn_bias == ATTN_BIAS_auto ? c->bias : c->attn_bias != ATTN_BIAS_none;
}
bool config_o_bias(const Config *c) {
    return c->attn_bias == ATTN_BIAS_auto ? c->bias : c->attn_bias == ATTN_BIAS_all;
}
bool config_ffn_bias(const Config *c) {
    return c->ffn_bias == FFN_BIAS_auto ? c->bias : c->ffn_bias == FFN_BIAS_all;
}

void config_name_biases(Config *c) {
    c->attn_bias = !config_qkv_bias(c) ? ATTN_BIAS_none : config_o_bias(c) ? ATTN_BIAS_all : ATTN_BIAS_qkv;
    c->ffn_bias = config_ffn_bias(c) ? FFN_BIAS_all : FFN_BIAS_none;
}

// ---- derived -------------------------------------------------------------------------------------
// Linear mixers see the order of the tokens through their state. Where all layers are such, nothing is left to rotate.
void config_drop_unused_rotation(Config *c) {
    for (size_t i = 0; i < c->attn.count; i++)
        if (!config_is_linear(c->attn.at[i])) return;
    if (c->pos == POS_rope) c->pos = POS_none;
    if (c->pos == POS_alibi)
        usage_error("--pos alibi is added to the scores of softmax attention, and no layer has such; give --pos none");
}

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

// ---- refused -------------------------------------------------------------------------------------
static void refuse_heads(const Config *c) {
    if (!c->head_dim && c->width % c->heads != 0)
        usage_error("--width %zu cannot be divided among --heads %zu; choose a multiple, or give --head-dim", c->width,
                    c->heads);
    size_t shared = config_kv_heads(c, has_attn(c, ATTN_gqa) ? ATTN_gqa : has_attn(c, ATTN_swa) ? ATTN_swa : ATTN_mha);
    if (c->heads % shared != 0)
        usage_error("--heads %zu cannot share --kv-heads %zu evenly; kv-heads must divide heads", c->heads, shared);
    if (c->tile % 32 != 0) usage_error("--tile %zu is not a multiple of 32", c->tile);
}

static void refuse_unrotated(const Config *c) {
    for (size_t l = 0; l < c->layers; l++)
        if (c->pos != POS_rope || config_layer_rope_dim(c, l)) return;
    usage_error("--rope-layers leaves no layer that rotates; give --pos none");
}

static void refuse_rotation(const Config *c) {
    for (int attn = ATTN_mha; attn <= ATTN_swa; attn++) {
        size_t rotated = config_rope_dim(c, attn);
        if (!has_attn(c, attn) || c->pos != POS_rope) continue;
        if (rotated % 2 != 0)
            usage_error("RoPE rotates pairs, but %zu dimension%s would be; give an even --rope-dim or --head-dim",
                        rotated, plural(rotated));
        if (attn != ATTN_mla && rotated > c->head_dim)
            usage_error("--rope-dim %zu is more than the %zu dimension%s of a head (--head-dim)", rotated, c->head_dim,
                        plural(c->head_dim));
    }
}

void config_resolve_model(Config *c) {
    config_refuse_long_pattern(c, "attn", &c->attn);
    config_refuse_long_pattern(c, "rope-layers", &c->rope_layers);
    refuse_heads(c);
    derive_attention(c);
    if (!c->ffn_width) c->ffn_width = c->ffn == FFN_swiglu ? (8 * c->width / 3 + 31) / 32 * 32 : 4 * c->width;
    refuse_rotation(c);
    refuse_unrotated(c);
}

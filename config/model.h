// model.h: what follows from the section model.def.
#ifndef CONFIG_MODEL_H
#define CONFIG_MODEL_H
#include "config/config.h"

// True for the mixers with a recurrent state: linear, gla, delta, gated-delta, mamba2.
bool config_is_linear(int attn);
// What depends on the kind of attention (ATTN_mha, ...), because layers need not be alike:
size_t config_kv_heads(const Config *c, int attn);  // heads with keys and values
size_t config_rope_dim(const Config *c, int attn);  // rotated dimensions of a head; linear mixers, or not rope: 0
size_t config_layer_rope_dim(const Config *c, size_t l);    // the same of layer l: 0 where --rope-layers leaves it out
// Which products add a bias: what makes q, k and v of attention and its kin (mla: q_a and kv_a, its only ones), the
// output matrix of attention, the dense feed-forward. LayerNorm goes by --bias alone.
bool config_qkv_bias(const Config *c);
bool config_o_bias(const Config *c);
bool config_ffn_bias(const Config *c);
void config_name_biases(Config *c);    // none, qkv or all in place of auto, with the same biases

// For config_resolve.
void config_drop_unused_rotation(Config *c);        // --pos rope, where no layer has anything to rotate
void config_resolve_model(Config *c);
#endif

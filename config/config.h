// config.h: the configuration of a training run, as plain data: the sections of train.def, flat, so that code says
// c->layers. A section that derives values or refuses combinations does so in the .c beside its .def.
#ifndef CONFIG_H
#define CONFIG_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
#define SECTIONS "config/train.def"
#include "config/fields.h"
} Config;

extern const FlagTable config_table;

// Refuses a flag that has no effect beside the others (usage_error): silently ignored, it would mislead. given:
// as from flags_parse, or NULL.
void config_refuse_unused(const Config *c, const bool *given);
// Fills in every value that 0 leaves to be derived, then refuses impossible combinations with the
// reason (usage_error). Call it once, after flags_parse and after config.vocab is known from the data.
void config_resolve(Config *c);
// True where layer l has experts.
bool config_layer_has_experts(const Config *c, size_t l);
// True for the mixers with a recurrent state: linear, gla, delta, gated-delta, mamba2.
bool config_is_linear(int attn);
// --pool: which tokens a router sees together.
typedef struct { bool time, batch; size_t tokens; } ConfigPool;  // of one sequence, of several; tokens in a full one
ConfigPool config_pool(const Config *c);
// Tokens of a pool that one expert takes, or slots that it has for them: --top-k / --experts of them.
size_t config_pool_share(const Config *c);
double config_experts_per_token(const Config *c);   // expected: --top-k, but for the rounding of the pool's share
size_t config_capacity(const Config *c, size_t T);  // most of a sequence's T tokens that an expert takes; 0: all
// True where the experts of a token depend on later tokens, so that its loss is not that of a language model.
bool config_router_looks_ahead(const Config *c);
bool config_router_pools(const Config *c);          // True where they depend on other tokens at all, beyond attention
// What depends on the kind of attention (ATTN_mha, ...), because layers need not be alike:
size_t config_kv_heads(const Config *c, int attn);  // heads with keys and values
size_t config_rope_dim(const Config *c, int attn);  // rotated dimensions of a head; linear mixers, or not rope: 0
#endif

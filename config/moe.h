// moe.h: what follows from the section moe.def.
#ifndef CONFIG_MOE_H
#define CONFIG_MOE_H
#include "config/config.h"

// True where layer l has experts.
bool config_layer_has_experts(const Config *c, size_t l);
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

void config_resolve_moe(Config *c);                 // for config_resolve
#endif

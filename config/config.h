// config.h: the configuration of a training run, as plain data. config.def has the rows.
#ifndef CONFIG_H
#define CONFIG_H
#include "config/flags.h"

// The synthetic languages of data/; --data takes one of them, or a file.
#define DATA_SOURCES(X) X(stories) X(markov) X(iid) X(recall) X(induction) X(copy) X(facts) X(khop)

// Each list is declared once: the constants below and the words on the command line come from it.
#define ATTN_VALUES(X)        X(ATTN, mha) X(ATTN, gqa) X(ATTN, mla) X(ATTN, swa) X(ATTN, linear) X(ATTN, gla) \
                              X(ATTN, delta) X(ATTN, gated_delta) X(ATTN, mamba2)
#define ATTN_KERNEL_VALUES(X) X(KERNEL, naive) X(KERNEL, band) X(KERNEL, flash)
#define QK_NORM_VALUES(X)     X(QK, none) X(QK, head) X(QK, full)
#define POS_VALUES(X)         X(POS, rope) X(POS, learned) X(POS, none) X(POS, alibi)
#define NORM_VALUES(X)        X(NORM, pre) X(NORM, post) X(NORM, out) X(NORM, peri) X(NORM, deepnorm) \
                              X(NORM, keel) X(NORM, none)
#define NORM_KIND_VALUES(X)   X(NORM_KIND, rms) X(NORM_KIND, layer) X(NORM_KIND, dyt)
#define FFN_VALUES(X)         X(FFN, swiglu) X(FFN, gelu) X(FFN, relu2)
#define MOE_LAYER_VALUES(X)   X(MOE_LAYER, dense) X(MOE_LAYER, moe)
#define GATE_VALUES(X)        X(GATE, softmax) X(GATE, sigmoid)
#define ROUTER_VALUES(X)      X(ROUTER, topk) X(ROUTER, bias) X(ROUTER, expert_choice) X(ROUTER, threshold) \
                              X(ROUTER, relu) X(ROUTER, hash) X(ROUTER, soft) X(ROUTER, dense)
#define SCHEDULE_VALUES(X)    X(SCHEDULE, cosine) X(SCHEDULE, linear) X(SCHEDULE, wsd) X(SCHEDULE, constant)
#define DRY_RUN_VALUES(X)     X(DRY_RUN, no) X(DRY_RUN, text) X(DRY_RUN, json)

// ATTN_mha, ATTN_gqa, ..., NORM_pre, ...: prefix_word.
#define CONFIG_CONSTANT(prefix, word) prefix##_##word,
enum { ATTN_VALUES(CONFIG_CONSTANT) };
enum { ATTN_KERNEL_VALUES(CONFIG_CONSTANT) };
enum { QK_NORM_VALUES(CONFIG_CONSTANT) };
enum { POS_VALUES(CONFIG_CONSTANT) };
enum { NORM_VALUES(CONFIG_CONSTANT) };
enum { NORM_KIND_VALUES(CONFIG_CONSTANT) };
enum { FFN_VALUES(CONFIG_CONSTANT) };
enum { MOE_LAYER_VALUES(CONFIG_CONSTANT) };
enum { GATE_VALUES(CONFIG_CONSTANT) };
enum { ROUTER_VALUES(CONFIG_CONSTANT) };
enum { SCHEDULE_VALUES(CONFIG_CONSTANT) };
enum { DRY_RUN_VALUES(CONFIG_CONSTANT) };

typedef struct {
#define GROUP(...)
#define SIZE(name, ...) size_t name;
#define REAL(name, ...) double name;
#define BOOL(name, ...) bool name;
#define ENUM(name, ...) int name;
#define PATTERN(name, ...) Pattern name;
#define TEXT(name, ...) char name[FLAG_TEXT_SIZE];
#include "config/config.def"
#undef GROUP
#undef SIZE
#undef REAL
#undef BOOL
#undef ENUM
#undef PATTERN
#undef TEXT
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

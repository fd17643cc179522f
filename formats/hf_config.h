// hf_config.h: what hf_config.c (architectures, config.json written), hf_config_read.c (config.json read) and
// hf_config_keys.c (its keys, as tables) do for each other and for hf.c (tensors). Their other functions are in hf.h.
#ifndef HF_CONFIG_H
#define HF_CONFIG_H
#include "formats/hf.h"
#include <jansson.h>

// The architectures, as bits, so that a row of a table can speak of several.
enum {
    LLAMA = 1, QWEN3 = 2, OLMO2 = 4, MIXTRAL = 8, DEEPSEEK = 16, GPT2 = 32, OURS = 64, MISTRAL = 128,
    QWEN3_NEXT = 256, MINISTRAL = 512, OLMO3 = 1024, QWEN3_MOE = 4096, OLMOE = 8192, DEEPSEEK2 = 16384,
    QWEN2 = 32768, SMOLLM3 = 65536,
    OLMO = OLMO2 | OLMO3,
    LATENT = DEEPSEEK | DEEPSEEK2,                // multi-head latent attention
    CHOOSING = MIXTRAL | QWEN3_MOE | OLMOE,       // experts that softmax weighs, and nothing beside them
    BIASED = LLAMA | SMOLLM3,                     // biases of attention, of the feed-forward, or of both
    BIASABLE = BIASED | QWEN3 | QWEN3_MOE | OLMO | OLMOE | LATENT,  // of attention
    ROTARY = BIASABLE | QWEN2 | MIXTRAL | MISTRAL | MINISTRAL | QWEN3_NEXT,  // RMSNorm, RoPE, SwiGLU
    EVERYONE = ROTARY | GPT2,
    HYBRID = QWEN2 | QWEN3 | MINISTRAL | OLMO3 | SMOLLM3,  // layers with a window, and layers without
    WINDOWED = HYBRID | MISTRAL | MIXTRAL | QWEN3_MOE,
    SWITCHED = QWEN2 | QWEN3 | QWEN3_MOE | SMOLLM3,  // windows, if use_sliding_window says so
    DELTA_NET = 2048,  // no architecture, but the layers of one that are a gated delta net
};
typedef struct { unsigned bit; const char *model_type, *architecture, *layer; } Family;  // layer: starts its tensors
extern const Family hf_families[];                  // ours is the last one

const Family *hf_family(const Config *c);           // under whose names a model is saved; OURS where no other fits
json_t *hf_config_as_json(const Config *c, const Family *family);  // of a resolved config that is of this family
double hf_aux_loss_factor(const Config *c);          // of transformers' router_aux_loss_coef over our --aux-loss
void hf_write_config(const Config *c, const char *path);
bool hf_attention_is(const Config *c, int attn);    // on all layers
bool hf_has_attention(const Config *c, int attn);   // on one of them

// The tables of hf_config_keys.c; a row without families ends each.
// A key and the flag that it is. absent, null: what it means if it is not there, and if it is null, as the text of the
// flag (0 where the flag is derived); NULL: then the file is refused.
typedef struct { unsigned families; const char *key, *flag, *absent, *null; } HfKey;
// A key of which we can compute some values, as a JSON array. We may write the first of them; we must find one of them
// where its absence would mean another value.
typedef enum { HF_ALLOWED, HF_WRITTEN, HF_REQUIRED } HfUse;
typedef struct { unsigned families; const char *key, *values; HfUse use; } HfFixed;
typedef struct { unsigned families; const char *alias, *key; } HfAlias;
typedef struct { unsigned families; const char *names; } HfHarmless;    // names: with blanks between them
typedef struct { unsigned kinds; const char *key, *flag; bool optional; } HfRope;  // kinds: bits of ROPE_SCALING_...
extern const HfRope hf_rope[];                      // in hf_config.c
extern const HfKey hf_keys[];
extern const HfFixed hf_fixed[];
extern const HfAlias hf_aliases[];
extern const HfHarmless hf_harmless[];

typedef struct { char *path; json_t *json; } JsonFile;
JsonFile hf_read_json(const char *dir, const char *file);  // an object; fails with path, line and fault
void hf_close_json(JsonFile *j);
const Family *hf_family_in(const JsonFile *j);      // by its model_type; fails where it is none of ours
// DeepSeek's rotations of neighbours (0 1)(2 3)...; ours are of halves.
bool hf_interleaved(const JsonFile *j, unsigned family);
// Layers behind the last one that predict further tokens (DeepSeek-V3): their tensors are nothing that we have.
size_t hf_prediction_layers(const JsonFile *j, unsigned family);
#endif

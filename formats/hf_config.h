// hf_config.h: what hf_config.c (config.json) does for hf.c (tensors) alone. Its other functions are in hf.h.
#ifndef HF_CONFIG_H
#define HF_CONFIG_H
#include "formats/hf.h"
#include <jansson.h>

// The architectures, as bits, so that a row of a table can speak of several.
enum {
    LLAMA = 1, QWEN3 = 2, OLMO2 = 4, MIXTRAL = 8, DEEPSEEK = 16, GPT2 = 32, OURS = 64, MISTRAL = 128,
    QWEN3_NEXT = 256, MINISTRAL = 512, OLMO3 = 1024,
    OLMO = OLMO2 | OLMO3,
    ROTARY = LLAMA | QWEN3 | OLMO | MIXTRAL | DEEPSEEK | MISTRAL | MINISTRAL | QWEN3_NEXT,  // RMSNorm, RoPE, SwiGLU
    HYBRID = QWEN3 | MINISTRAL | OLMO3,  // layers with a window, and layers without
    WINDOWED = HYBRID | MISTRAL | MIXTRAL,
    DELTA_NET = 2048,  // no architecture, but the layers of one that are a gated delta net
};
typedef struct { unsigned bit; const char *model_type, *architecture, *layer; } Family;  // layer: starts its tensors

const Family *hf_family(const Config *c);           // under whose names a model is saved; OURS where no other fits
void hf_write_config(const Config *c, const char *path);

typedef struct { char *path; json_t *json; } JsonFile;
JsonFile hf_read_json(const char *dir, const char *file);  // an object; fails with path, line and fault
void hf_close_json(JsonFile *j);
const Family *hf_family_in(const JsonFile *j);      // by its model_type; fails where it is none of ours
#endif

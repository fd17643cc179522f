// gguf_model.h: our models as llama.cpp has them in GGUF files: llama, llama with experts (Mixtral), qwen2, qwen3,
// qwen3moe, gpt2 and deepseek2. Their keys are the matter of gguf_config.h.
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H
#include "formats/gguf_config.h"

// NULL where a resolved config can be written; else what would have to differ, "llama needs --norm pre".
const char *gguf_obstacle(const Config *c);
const char *gguf_type_obstacle(const Config *c, const GgufType *type);     // the same of a type; half a sentence
// Which matrices are in the type, and how they are rounded to it.
typedef struct { GgufRounding how; bool embed; } GgufPlan;     // embed: the embedding and the head, too
// Matrices that are not in the type: `odd`, because their rows are no whole blocks, or because llama.cpp has them
// turned round; `exact`, because the model does not round them; `unscaled`, because llama.cpp keeps no scale for them.
typedef struct { size_t odd, exact, unscaled; } GgufKept;
// Writes the model, with `head` for the tokenizer's keys, which it frees. Vectors and routers stay f32, as in
// llama.cpp's own files; odd matrices are in f16. A model that rounds its weights (--quant) has the type of that
// format: its exact weights become codes of what it computes with, and all others are in f32, as it computes with them.
GgufKept gguf_save(Model *m, GgufHead *head, const GgufType *type, GgufPlan plan, const char *path);
// Fills the parameters; every shape is checked, nothing may be missing or left over.
void gguf_load(Model *m, const char *path);
#endif

// gguf_model.h: our models as llama.cpp has them in GGUF files: llama, llama with experts (Mixtral), qwen2, qwen3,
// qwen3moe, gpt2 and deepseek2. Their keys are the matter of gguf_config.h.
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H
#include "formats/gguf_config.h"

// NULL where a resolved config can be written; else what would have to differ, "llama needs --norm pre".
const char *gguf_obstacle(const Config *c);
const char *gguf_type_obstacle(const Config *c, const GgufType *type);     // the same of a type; half a sentence
// Writes the model, with `head` for the tokenizer's keys, which it frees. Vectors and routers stay f32, as in
// llama.cpp's own files, and so do matrices whose rows are no whole blocks of the type; how many of these is returned.
size_t gguf_save(const Model *m, GgufHead *head, const GgufType *type, const char *path);
// Fills the parameters; every shape is checked, nothing may be missing or left over.
void gguf_load(Model *m, const char *path);
#endif

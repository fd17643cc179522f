// gguf_model.h: our models as llama.cpp has them in GGUF files: llama, llama with experts (Mixtral), qwen2, qwen3,
// qwen3moe, gpt2 and deepseek2. What a file says of its model is read as the config.json of the checkpoint of
// transformers that it could be made of, so that hf.h's readers take a GGUF wherever they take a directory.
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H
#include "formats/gguf.h"
#include "formats/hf_config.h"

// ---- configurations (gguf_config.c) --------------------------------------------------------------
// The architecture of an open file, as one of hf_config.h's bits; fails where it is none of ours.
unsigned gguf_family(const Gguf *g);
// What the file says, as an object of config.json; fails where no such model is ours, or a key is not read.
json_t *gguf_config(const Gguf *g);
JsonFile gguf_read_config(const char *path);
// The keys of general.* and of the architecture, of a config.json that describes a model.
void gguf_put_config(GgufHead *h, const json_t *config, unsigned family, const GgufType *type);
const char *gguf_architecture(unsigned family);    // "qwen2"; NULL: llama.cpp has none such, or it is not written

// ---- models (gguf_model.c) -------------------------------------------------------------------------
// NULL where a resolved config can be written; else what would have to differ, "llama needs --norm pre".
const char *gguf_obstacle(const Config *c);
const char *gguf_type_obstacle(const Config *c, const GgufType *type);     // the same of a type; half a sentence
// Writes the model, with `head` for the tokenizer's keys, which it frees. Vectors and routers stay f32, as in
// llama.cpp's own files, and so do matrices whose rows are no whole blocks of the type; how many of these is returned.
size_t gguf_save(const Model *m, GgufHead *head, const GgufType *type, const char *path);
// Fills the parameters; every shape is checked, nothing may be missing or left over.
void gguf_load(Model *m, const char *path);
#endif

// gguf_config.h: what a GGUF says of its model, as the config.json of the checkpoint of transformers that it could be
// made of, and back; so hf.h's readers take a GGUF wherever they take a directory.
#ifndef GGUF_CONFIG_H
#define GGUF_CONFIG_H
#include "formats/gguf.h"
#include "formats/hf_config.h"

// The architecture of an open file, as one of hf_config.h's bits; fails where it is none of ours.
unsigned gguf_family(const Gguf *g);
// What the file says, as an object of config.json; fails where no such model is ours, or a key is not read.
json_t *gguf_config(const Gguf *g);
JsonFile gguf_read_config(const char *path);
// The keys of general.* and of the architecture, of a config.json that describes a model.
void gguf_put_config(GgufHead *h, const json_t *config, unsigned family, const GgufType *type);
const char *gguf_architecture(unsigned family);    // "qwen2"; NULL: llama.cpp has none such, or it is not written
#endif

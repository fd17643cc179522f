// gguf_tokens.h: the tokenizer inside a GGUF, between its keys and the object of a tokenizer.json. Knows no Tokenizer.
//
// Three keys may say what it is. tokenizer.receipts.json is one of our own kinds, as data/tokenizer_file.c has it;
// tokenizer.huggingface.json is all of a tokenizer.json; one of them we write, so that nothing is lost on the way back.
// tokenizer.ggml.* is what llama.cpp reads: byte-level BPE ("gpt2") with the name of a way to cut texts. Where it has
// none that cuts as ours does, the model there is "none", and texts are numbers to it.
#ifndef GGUF_TOKENS_H
#define GGUF_TOKENS_H
#include "formats/gguf.h"
#include <jansson.h>

enum { GGUF_ENDS = 2 };
typedef struct {
    char *json;                        // of a tokenizer.json or a tokenizer.receipts.json, malloc'd; NULL: none
    int begin, end[GGUF_ENDS];         // tokens, or -1
} GgufTokens;
// Fails where the file has a tokenizer that is not read, and says which.
GgufTokens gguf_tokens_read(const char *path);
bool gguf_tokens_in(const char *path);     // whether it has one, which may be one that is not read

typedef struct {
    const json_t *root;                // a tokenizer.json with all of its added tokens, or NULL
    const json_t *own;                 // a tokenizer.receipts.json, or NULL
    size_t vocab;                      // of the model: tokens without a text are filled in
    int begin, end[GGUF_ENDS];
    bool adds_begin, adds_end;         // around a prompt: begin, and end[0]
    bool one_around;                   // no more than that
} GgufTokensOut;
// Writes the keys. Returns NULL, or what llama.cpp is missing, as half a sentence: then it gets no tokenizer.
const char *gguf_tokens_write(GgufHead *h, const GgufTokensOut *t);
#endif

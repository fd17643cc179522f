// bytelevel.h: the byte-level BPE of others, as Hugging Face's tokenizer.json describes it: GPT-2, Llama 3, Qwen,
// DeepSeek and their kin. Tokens are those of the library of tokenizers, to the last one; what it would take to be so
// and is not here is refused by its name in the file.
//
// A text goes through: marks as <|endoftext|> (added_tokens) are found in it; the rest is normalised (NFC or nothing),
// cut by patterns one after the other (pre_tokenizer), and each piece's bytes are merged (model). Radford et al. 2019
// write a byte as a letter, so that merges are readable: see bytelevel_letter.
#ifndef BYTELEVEL_H
#define BYTELEVEL_H
#include "data/strings.h"
#include <jansson.h>

typedef struct ByteLevel ByteLevel;

// Fails with one line on anything that it cannot do exactly. Adds the bytes of every token 0, 1, ... to `tokens`.
ByteLevel *bytelevel_read(const json_t *root, const char *path);
// What tokenizer_config.json adds: special tokens by name, and whether they go before and after a text.
void bytelevel_configure(ByteLevel *b, const json_t *config, const char *path);
void bytelevel_texts(const ByteLevel *b, Strings *tokens);      // adds the bytes of every token 0, 1, ...
size_t bytelevel_vocab(const ByteLevel *b);                     // the largest token, and 1
int bytelevel_find(const ByteLevel *b, const char *content);    // the token written so in the file, or -1
bool bytelevel_is_special(const ByteLevel *b, int token);
// What goes before (0) or after (1) a text, by the template: returns how many.
size_t bytelevel_around(const ByteLevel *b, int side, const int **tokens);
size_t bytelevel_encode(ByteLevel *b, const char *text, size_t bytes, int **tokens);  // fails where it is not UTF-8
void bytelevel_free(ByteLevel *b);

uint32_t bytelevel_letter(unsigned char byte);                  // the character that stands for it
size_t bytelevel_spell(char *out, const char *bytes, size_t n); // as letters into out[2*n]; how many bytes these are
// The bytes of letters into out[n]; SIZE_MAX: one of them is no such letter.
size_t bytelevel_bytes(char *out, const char *letters, size_t n);
#endif

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

// The objects of tokenizer_config.json, config.json, special_tokens_map.json, added_tokens.json; NULL: there is none.
typedef struct { const json_t *config, *model, *special, *added; } BesideTokens;
// What the files beside a tokenizer.json say about it, as transformers' AutoTokenizer takes them: changes the object of
// tokenizer.json where the tokenizer's class builds it anew, and returns the settings for bytelevel_configure.
// *changed: tokenizer.json and tokenizer_config.json alone would say something else, or in other company.
json_t *bytelevel_settings(json_t *root, const BesideTokens *beside, const char *dir, bool *changed);

// config: a tokenizer_config.json by which tokenizer.json counts as it is written, whatever the model beside it is.
json_t *bytelevel_as_written(json_t *config);

// Fails with one line on anything that it cannot do exactly.
ByteLevel *bytelevel_read(const json_t *root, const char *path);
// Special tokens by name and by list, and whether they go before and after a text.
void bytelevel_configure(ByteLevel *b, const json_t *settings, const char *path);
void bytelevel_finish(ByteLevel *b, Strings *tokens);  // all is read: adds the bytes of every token 0, 1, ...
size_t bytelevel_vocab(const ByteLevel *b);                     // the largest token, and 1
int bytelevel_find(const ByteLevel *b, const char *content);    // the token written so in the file, or -1
bool bytelevel_is_special(const ByteLevel *b, int token);
// What goes before (0) or after (1) a text, by the template: returns how many.
size_t bytelevel_around(const ByteLevel *b, int side, const int **tokens);
size_t bytelevel_encode(ByteLevel *b, const char *text, size_t bytes, int **tokens);  // fails where it is not UTF-8
// How many special tokens the text that was encoded last spelled out; the first one, and its byte there (where what
// stands before it was normalised: the byte where that begins).
size_t bytelevel_spelled_out(const ByteLevel *b, size_t *at, int *token);
void bytelevel_free(ByteLevel *b);

json_t *bytelevel_marks(const ByteLevel *b);                    // its added tokens as tokenizer.json lists them

uint32_t bytelevel_letter(unsigned char byte);                  // the character that stands for it
size_t bytelevel_spell(char *out, const char *bytes, size_t n); // as letters into out[2*n]; how many bytes these are
// The bytes of letters into out[n]; SIZE_MAX: one of them is no such letter.
size_t bytelevel_bytes(char *out, const char *letters, size_t n);
#endif

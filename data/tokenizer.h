// tokenizer.h: text to token numbers and back: bytes, characters, byte-level BPE (trained here),
// words (the synthetic stories), or decode-only tables. Saved in the run directory as
// tokenizer.json (our own simple form, documented in tokenizer.c); any byte sequence survives
// encode and decode with byte and bpe; char refuses characters it has not seen, naming them.
#ifndef TOKENIZER_H
#define TOKENIZER_H
#include "../lib/util.h"

typedef struct Tokenizer Tokenizer;
Tokenizer *tokenizer_byte(void);                                         // 256 tokens
Tokenizer *tokenizer_char(const char *text, size_t bytes);               // the distinct UTF-8 characters, sorted
Tokenizer *tokenizer_bpe(const char *text, size_t bytes, size_t vocab);  // 256 bytes, then merges by count (ties: lowest pair)
Tokenizer *tokenizer_words(const char *const *words, size_t count);      // joined by spaces, none before . , ! ? ' etc.
Tokenizer *tokenizer_load(const char *path);                             // tokenizer.json, or llm.c's tokenizer.bin (decode only)
void tokenizer_save(const Tokenizer *t, const char *path);
void tokenizer_free(Tokenizer *t);
const char *tokenizer_kind(const Tokenizer *t);                          // "byte", "char", "bpe", "words", "table"
size_t tokenizer_vocab(const Tokenizer *t);
// Encodes; returns the number of tokens and stores a malloc'd array in *tokens. Fails on text it cannot represent.
size_t tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, int **tokens);
// The bytes that one token adds after the token `previous` (-1: at the start), so that text can be
// streamed; returns their number and stores a pointer valid until the next call on this tokenizer.
size_t tokenizer_decode(const Tokenizer *t, int previous, int token, const char **bytes);
#endif

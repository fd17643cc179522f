// tokenizer.h: text to token numbers and back: bytes, characters, byte-level BPE (trained here),
// words (the synthetic languages), plain numbers (sources without a text), or decode-only tables.
// Saved in the run directory as tokenizer.json (our own simple form, documented in tokenizer.c).
// Any byte sequence survives encode and decode with byte and bpe; char and words refuse what they
// have not seen, naming it.
#ifndef TOKENIZER_H
#define TOKENIZER_H
#include "lib/util.h"

typedef struct Tokenizer Tokenizer;
Tokenizer *tokenizer_byte(void);                                         // 256 tokens
Tokenizer *tokenizer_char(const char *text, size_t bytes);               // the distinct UTF-8 characters, sorted
Tokenizer *tokenizer_bpe(const char *text, size_t bytes, size_t vocab);  // 256 bytes, then merges by count
Tokenizer *tokenizer_words(const char *const *words, size_t count);      // joined by spaces, none before . , ! 's
Tokenizer *tokenizer_numbers(size_t vocab);                              // "3 17 5"
Tokenizer *tokenizer_load(const char *path);     // tokenizer.json, or llm.c's tokenizer.bin (decode only)
void tokenizer_save(const Tokenizer *t, const char *path);
void tokenizer_free(Tokenizer *t);
const char *tokenizer_kind(const Tokenizer *t);  // "byte", "char", "bpe", "words", "numbers", "table"
size_t tokenizer_vocab(const Tokenizer *t);
bool tokenizer_equal(const Tokenizer *a, const Tokenizer *b);            // every token has the same text

// The token after which every document starts, and with which a sample has to start; -1: there is none.
int tokenizer_start(const Tokenizer *t);
void tokenizer_set_start(Tokenizer *t, int token);

// Encodes; returns the number of tokens and stores a malloc'd array in *tokens. Fails on text it cannot represent.
size_t tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, int **tokens);
// Encodes what a sample starts from: the start token (if there is one and the text does not begin
// with it), then the text. Never empty: "" without a start token gives a newline, or else token 0.
size_t tokenizer_prompt(const Tokenizer *t, const char *text, int **tokens);
// The bytes that one token adds after the token `previous` (-1: at the start, where the start token adds
// none), so that text can be streamed; returns their number and stores a pointer valid until the next call on
// this tokenizer. The bytes of a token may end inside a UTF-8 character, which the next token then completes.
size_t tokenizer_decode(const Tokenizer *t, int previous, int token, const char **bytes);
#endif

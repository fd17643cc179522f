// tokenizer.h: text to token numbers and back: bytes, characters, byte-level BPE (trained here),
// words (the synthetic languages), plain numbers (sources without a text), decode-only tables, and the
// byte-level BPE of others from Hugging Face's tokenizer.json ("hf").
// Any byte sequence survives encode and decode with byte and bpe; char and words refuse what they
// have not seen, naming it; hf takes UTF-8 alone, as the library of tokenizers does.
#ifndef TOKENIZER_H
#define TOKENIZER_H
#include "formats/gguf.h"
#include "lib/util.h"

typedef struct Tokenizer Tokenizer;
Tokenizer *tokenizer_byte(void);                                         // 256 tokens
Tokenizer *tokenizer_char(const char *text, size_t bytes);               // the distinct UTF-8 characters, sorted
Tokenizer *tokenizer_bpe(const char *text, size_t bytes, size_t vocab);  // 256 bytes, then merges by count
Tokenizer *tokenizer_words(const char *const *words, size_t count);      // joined by spaces, none before . , ! 's
Tokenizer *tokenizer_numbers(size_t vocab);                              // "3 17 5"
void tokenizer_free(Tokenizer *t);
const char *tokenizer_kind(const Tokenizer *t);  // "byte", "char", "bpe", "words", "numbers", "table", "hf"
size_t tokenizer_vocab(const Tokenizer *t);      // the largest token, and 1
// Tokens from this one on have no text, and should not be written; SIZE_MAX: those of hf may be, as in transformers.
size_t tokenizer_spoken(const Tokenizer *t);
bool tokenizer_equal(const Tokenizer *a, const Tokenizer *b);            // every token has the same text
uint64_t tokenizer_hash(const Tokenizer *t);     // of everything that decides how text becomes tokens, and back

// ---- files (tokenizer_file.c) --------------------------------------------------------------------
// tokenizer.json in Hugging Face's form or in ours, or llm.c's tokenizer.bin (decode only).
Tokenizer *tokenizer_load(const char *path);
void tokenizer_save(const Tokenizer *t, const char *path);               // in our form; not for hf
// A run of ours or a checkpoint of others: tokenizer.receipts.json, tokenizer.json or tokenizer.bin, with what
// tokenizer_config.json, generation_config.json and config.json say about its first and last tokens: a file that is
// there is sound, and an eos_token_id is a token, or the directory is refused. NULL: none.
Tokenizer *tokenizer_open_dir(const char *dir);
// byte, char, bpe: tokenizer.json and tokenizer_config.json in Hugging Face's form; hf: as they were read; the others
// have no such form: tokenizer.receipts.json. Never both.
void tokenizer_save_dir(const Tokenizer *t, const char *dir);
// The same beside a model with an architecture of transformers, which decides how AutoTokenizer reads it; or NULL.
void tokenizer_save_beside(const Tokenizer *t, const char *dir, const char *architecture);
// Both also take a GGUF in the place of a directory.
bool tokenizer_in_dir(const char *dir);          // whether there is a file that tokenizer_open_dir reads
// The keys of a GGUF whose model has `vocab` tokens. Returns NULL, or what llama.cpp is missing to cut texts as this
// tokenizer does, as half a sentence: then texts are numbers to it, and only we read the tokenizer back.
const char *tokenizer_put_gguf(const Tokenizer *t, GgufHead *head, size_t vocab);

// ---- tokens with a meaning -----------------------------------------------------------------------
// The token after which every document starts, and with which a sample has to start; -1: there is none.
int tokenizer_start(const Tokenizer *t);
void tokenizer_set_start(Tokenizer *t, int token);
int tokenizer_end(const Tokenizer *t);                        // the token that ends a document; -1: there is none
bool tokenizer_is_end(const Tokenizer *t, int token);         // that one or another (a checkpoint may name several)
bool tokenizer_is_special(const Tokenizer *t, int token);     // a mark, no text: tokenizer_decode gives nothing for it,
void tokenizer_show_special(Tokenizer *t, bool show);         // unless it is to be shown

// ---- text ------------------------------------------------------------------------------------------
// Encodes; returns the number of tokens and stores a malloc'd array in *tokens. Fails on text it cannot represent.
size_t tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, int **tokens);
// How many special tokens the text that was encoded last spelled out, as "<|endoftext|>"; the first one, and its byte.
size_t tokenizer_spelled_out(const Tokenizer *t, size_t *at, int *token);
// Encodes what a sample starts from: the start token (if there is one and the text does not begin
// with it), then the text; hf: what its template puts before and after a text. Never empty: "" without a start token
// gives the token for the begin or the end of a text where one is named, a newline, or else token 0.
size_t tokenizer_prompt(const Tokenizer *t, const char *text, int **tokens);
// The bytes that one token adds after the token `previous` (-1: at the start, where the start token adds
// none), so that text can be streamed; returns their number and stores a pointer valid until the next call on
// this tokenizer. The bytes of a token may end inside a UTF-8 character, which the next token then completes.
size_t tokenizer_decode(const Tokenizer *t, int previous, int token, const char **bytes);
#endif

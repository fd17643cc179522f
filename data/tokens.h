// tokens.h: documents as tokens, in memory. Included inside data/ only.
#ifndef TOKENS_H
#define TOKENS_H
#include "data/texts.h"
#include "data/tokenizer.h"

// Numbers of 1, 2 or 4 bytes each, little-endian: as few as the vocabulary needs.
typedef struct { unsigned char *bytes; size_t count, room, width; } Tokens;

// The documents in the bytes from..to-1 of the text, one after the other. Where the tokenizer has an end-of-text token,
// every document begins with what a sample from nothing does: the token for the begin of a text if there is one, and
// then the document ends with end-of-text; else end-of-text. Without such a token SEPARATOR stands between documents.
// One that `from` goes through has no second beginning. loaded: the tokenizer was not made from this text, and may
// refuse it; then fails, naming the file.
Tokens tokens_of(const Texts *texts, const Tokenizer *t, size_t from, size_t to, bool loaded);
int tokens_at(const Tokens *s, size_t i);
#endif

// tokenizer_parts.h: the insides of a tokenizer, for tokenizer.c and bpe.c; byte strings, for stories.c too.
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H
#include "data/tokenizer.h"

// A chunk of text is at most this long, and no merge crosses a chunk: it bounds the length of a
// token and the work of encoding a run without spaces.
enum { CHUNK_BYTES = 64 };

// Byte strings, numbered in the order in which they were added. Where two are equal the first is found.
typedef struct {
    char *bytes; size_t used, room;        // all strings, one after the other
    size_t *at, count, at_room;            // string i is bytes[at[i] .. at[i+1]-1]
    uint32_t *slot; size_t slots;          // open addressing: index + 1, or 0; slots is a power of two
} Strings;
size_t strings_find(const Strings *s, const char *bytes, size_t length);  // its number, or SIZE_MAX
size_t strings_add(Strings *s, const char *bytes, size_t length);         // its number
const char *strings_get(const Strings *s, size_t number, size_t *length);  // valid until the next strings_add
void strings_free(Strings *s);

typedef struct { int left, right; } Merge;  // makes token 256 + its number

struct Tokenizer {
    const char *kind;
    size_t vocab;
    int start;
    Strings token;             // the bytes of every token (numbers: empty)
    Merge *merge;              // bpe
    uint64_t *pair; int *made; size_t pairs;   // bpe: hash table from pair + 1 to the token made
    size_t longest;            // words: bytes of the longest
    char *spoken;              // what tokenizer_decode returned last
};

// bpe.c
void bpe_train(Tokenizer *t, const char *text, size_t bytes);  // fills merge[0 .. vocab-257]
bool bpe_prepare(Tokenizer *t);  // bytes of the tokens and the table, from the merges; false: one is too long
size_t bpe_encode(const Tokenizer *t, const char *text, size_t bytes, int *tokens);  // room for `bytes` tokens
#endif

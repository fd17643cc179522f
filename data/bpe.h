// bpe.h: byte-pair encoding over bytes. Tokens 0 to 255 are the bytes; merge i makes token 256 + i.
#ifndef BPE_H
#define BPE_H
#include "data/strings.h"

// A chunk of text is at most this long, and no merge crosses a chunk: it bounds the length of a
// token and the work of encoding a run without spaces.
enum { CHUNK_BYTES = 64 };

typedef struct { int left, right; } Merge;
typedef struct {
    Merge *merge; size_t merges;
    uint64_t *pair; int *made; size_t pairs;  // hash table from pair_key to the token made; pairs is a power of two
} Bpe;                                        // {0} is empty

void bpe_train(Bpe *b, size_t merges, const char *text, size_t bytes);  // learns the merges
bool bpe_prepare(Bpe *b, Strings *tokens);  // the table, and adds the bytes of every token; false: one is too long
size_t bpe_encode(const Bpe *b, const char *text, size_t bytes, int *tokens);  // into tokens[bytes]; how many
void bpe_free(Bpe *b);
#endif

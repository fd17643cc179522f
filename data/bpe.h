// bpe.h: byte-pair encoding over bytes. Ours: tokens 0 to 255 are the bytes; merge i makes token 256 + i. Those of
// others number their tokens as they like.
#ifndef BPE_H
#define BPE_H
#include "data/strings.h"

// A chunk of our text is at most this long, and no merge crosses a chunk: it bounds the length of a
// token and the work of encoding a run without spaces.
enum { CHUNK_BYTES = 64 };

typedef struct { int left, right, made; } Merge;
typedef struct {
    Merge *merge; size_t merges;              // in the order in which they are tried
    int byte[256];                            // the token of a byte; -1: it has none
    const Strings *whole; const int *whole_token;  // NULL, or chunks that are one token whatever the merges say
    uint64_t *pair; int *rank; size_t pairs;  // hash table from pair_key to the merge; pairs is a power of two
    Strings seen; size_t *first; int *tokens; size_t used, capacity;  // chunks that were encoded before: seen i gave
} Bpe;                                        // tokens[first[i] .. first[i+1]-1]; {0} is empty

void bpe_train(Bpe *b, size_t merges, const char *text, size_t bytes);  // learns the merges
bool bpe_prepare(Bpe *b, Strings *tokens);  // the table, and adds the bytes of every token; false: one is too long
void bpe_index(Bpe *b);                     // the table alone: of two merges of one pair the later one counts
size_t bpe_encode(Bpe *b, const char *text, size_t bytes, int *tokens);  // our text into tokens[bytes]; how many
// One chunk, 0 < bytes < 2^31, into tokens[bytes]; SIZE_MAX: a byte has no token.
size_t bpe_encode_chunk(Bpe *b, const char *chunk, size_t bytes, int *tokens);
// Length of the chunk of ours at the start of the text; bytes > 0.
size_t bpe_chunk_length(const char *text, size_t bytes);
void bpe_free(Bpe *b);
#endif

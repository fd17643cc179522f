// transfer.h: keys and values of a text on their way from one paged cache into another, whose blocks are of the same
// size and keep the same: layer by layer, as many tokens at a time as there are. Of a cache in fewer bits (--kv-bits,
// --kv-quant) the packed form goes, as it stands in memory: each token's, or groups of tokens once they are packed, and
// with the end of the text the last tokens, which are whole. What arrives is what was there, bit for bit.
#ifndef TRANSFER_H
#define TRANSFER_H
#include "model/blocks.h"

// Tokens from .. to-1 of layer l, those before having gone. ended: none follow, and a recurrent state goes with them.
typedef struct { size_t l, from, to; bool ended; } Transfer;

// NULL, or why what this cache keeps cannot be sent.
const char *transfer_refusal(const KeepOptions *o);
size_t transfer_bytes(const Model *m, const Blocks *s, Transfer t);
size_t transfer_bytes_of_text(const Model *m, const Blocks *s, size_t n);        // of n tokens, in all layers
size_t transfer_places(const Blocks *s, size_t n);       // blocks that n tokens fill
// From the blocks of a text, whose table this is, into transfer_bytes.
void transfer_pack(const Model *m, const Blocks *s, Transfer t, const uint32_t *block, unsigned char *out);
// The other way: place[i] is what blocks_load() takes for block i of the text, zeroed before the first transfer.
void transfer_unpack(const Model *m, const Blocks *s, Transfer t, const unsigned char *in,
                     unsigned char *const *place);
#endif

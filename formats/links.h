// links.h: how tensors of a file are made of ours, whatever they are called there: a table of names is read in both
// directions, to save the parameters and to load them. Used by hf.c and gguf_model.c.
#ifndef LINKS_H
#define LINKS_H
#include "model.h"
#include "formats/safetensors.h"

// How they lay out what we have as [out, in]. Rows with the same name of theirs are parts of one tensor, one below the
// other. A * counts the experts, which we keep as one tensor.
typedef enum {
    PLAIN,
    TRANSPOSED,  // [in, out]: GPT-2's Conv1D
    BY_HEAD,     // the rows of a head of every part, then those of the next head
    TAPS,        // [channels, 1, taps]: PyTorch's depthwise convolution
    FROM_ONE,    // the distance from 1, in double precision, so that adding 1 again gives the same bits
    KEYS_OF,     // of MLA's kv_b, [heads, latent, key]: the rows of each head that make keys, turned
    VALUES_OF,   // and [heads, value, latent]: those that make values; the row behind KEYS_OF's
} Layout;
// A family's own rows stand before those that it shares with others; the last one has no families.
typedef struct { unsigned families; const char *ours, *theirs; Layout layout; } TensorName;
// layer: starts the names of a layer's tensors, before its number. delta: also its family where a layer is a delta net.
typedef struct { const TensorName *names; const char *owner, *layer; unsigned family, delta; } Naming;

// A tensor of a file, made of parts: where they lie in the arenas of the model, and their rows (in each of the groups).
typedef struct { size_t offset, rows; } Part;
typedef struct {
    char name[TENSOR_NAME];
    int layer;
    size_t rank, shape[3], size;      // as in the file
    Part part[4];
    size_t parts, groups, columns;    // groups: heads that are laid out one after the other, or 1
    size_t head, rotated;             // the last `rotated` of every `head` rows rotate as neighbours; 0: none does
    size_t first, stride;             // KEYS_OF, VALUES_OF: the first row of a head, and the rows of a head in all
    bool transposed, from_one, found; // transposed: [in, out] in the file, or within each head of it
} Link;
typedef struct { Link *link; size_t count; } Links;

// Which of our rows rotate as neighbours (0 1)(2 3)... in the file; in ours, dimension d pairs with d + P/2. Sets
// k->head and k->rotated. `ours`: "attn.q.weight".
typedef void Pairs(Link *k, const char *ours, const Config *c);
// Every tensor of the model under the names of the file; fails where one has none. pairs: NULL if none are neighbours.
Links links_named(const Model *m, const Naming *naming, Pairs *pairs);
Links links_ours(const Model *m);                                 // under our own names

bool link_is_plain(const Link *k);                                // the file has what lies at part[0]
size_t link_place(const Link *k, size_t i);                       // of number i of the file's tensor, in an arena
const real *link_gathered(const Link *k, const real *arena);      // the file's tensor, malloc'd
const char *link_shape(size_t rank, const size_t *shape, char out[96]);    // "[3, 4]"
#endif

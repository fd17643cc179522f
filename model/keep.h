// keep.h: which pairs of a key and a value a cache keeps of a text, as rules about positions. Nothing here knows of
// steps: after `length` tokens of a text with this prompt the same pairs are held however it came in, alone or beside
// others, in one piece or many. Attention does not know of it either: it reads the slots of a head, in the order of
// their positions (model/keep_attention.h).
//
// With begin = --kv-from, or the length of the prompt: queries at positions before `begin` see all that is before them.
// After it
//   window, sink, random, h2o   each query sees `budget` pairs, itself among them; after it one goes
//   snapkv, pool, oracle        of the first `begin` tokens `budget` pairs stay, once; all later ones stay
#ifndef KEEP_H
#define KEEP_H
#include "config/keep.h"
#include "kernels/codec.h"
#include "model/params.h"

enum { KEEP_SINKS = 4, KEEP_WATCHED = 32, KEEP_SMOOTH = 5 };   // of sink; of snapkv: queries, width of its mean

// at, score: of each slot of layer l, where the cache evicts: its position, and with h2o, snapkv and pool a number.
typedef struct { KeepOptions o; uint32_t **at; real **score; } Keep;

bool keep_evicts(const KeepOptions *o);
bool keep_is_on(const KeepOptions *o);                   // evicts or rounds
bool keep_seals(const KeepOptions *o);                   // rounds groups of tokens, behind those that are whole
CodecRow keep_row(const KeepOptions *o);                 // how a slot holds a token
// Where groups of tokens are packed. The last tokens, up to `group` + `residual` of them, stand in as many slots, that
// of position p in slot p modulo their number; with `ahead` slots more a text that has gone so far can come back: what
// was rounded meanwhile still stands there whole, and is rounded again. Behind these each group takes `sealed` slots,
// as bytes. keep_fit counts them for a model; without it there is room for more.
void keep_fit(const Model *m, KeepOptions *o);
static inline size_t keep_recent(const KeepOptions *o) { return o->group + o->residual + o->ahead; }
static inline size_t keep_sealed(const KeepOptions *o) { return o->sealed ? o->sealed : o->group; }
bool keep_alters(const KeepOptions *o);                  // what is written changes later: no other text can use it
bool keep_looks(const KeepOptions *o);                   // asks how much queries look at keys
size_t keep_begin(const KeepOptions *o, size_t prompt);
// Pairs of a head after `length` tokens; and the most slots while tokens from .. to-1 come, which is what memory must
// be there for.
size_t keep_held(const KeepOptions *o, size_t prompt, size_t length);
size_t keep_most(const KeepOptions *o, size_t prompt, size_t from, size_t to);
// How many tokens of a text find room in so many slots, if none of them go.
size_t keep_room(const KeepOptions *o, size_t slots);
// Whether what the query at this position looks at counts: of h2o always, of snapkv the last ones of the prompt do.
bool keep_watches(const KeepOptions *o, size_t prompt, size_t position);
// snapkv: how many of the last tokens of the prompt watch, and stay.
size_t keep_watching(const KeepOptions *o, size_t prompt);

// Of the n slots of a head, at[] their positions in ascending order and score[] what queries have given them, `stays`
// of them stay: which, ascending. They are after the last of at[]; of pool nothing goes.
void keep_choose(const KeepOptions *o, size_t prompt, const uint32_t *at, const real *score, size_t n, size_t stays,
                 size_t *which);
// pool: how many positions of the prompt become one.
size_t keep_run(const KeepOptions *o, size_t prompt);

// Of the tokens before `position`, those that the query there sees rounded: whole groups that ended `residual` or more
// before it.
size_t keep_rounded(const KeepOptions *o, size_t position);

// Bytes of keys and values after `length` tokens, in all layers, as they are packed: with scales, with the numbers
// that are not rounded, with positions (4 bytes) and scores (4 bytes) of each slot where a policy needs them.
size_t keep_bytes(const Model *m, const KeepOptions *o, size_t prompt, size_t length);
// Of a slot in all layers and heads, as it is in memory.
size_t keep_slot_bytes(const Model *m, const KeepOptions *o);
// NULL, or why this model's cache cannot do it.
const char *keep_refusal(const Model *m, const KeepOptions *o);
#endif

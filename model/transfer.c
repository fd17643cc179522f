// transfer.c: see transfer.h.
#include "model/transfer.h"
#include "kernels/codec.h"
#include "model/layer.h"
#include <stdlib.h>
#include <string.h>

static CacheNeed need_of(const Model *m, size_t l) { return m->layers[l].mixer->cache(&m->layers[l]); }

const char *transfer_refusal(const KeepOptions *o) {
    return keep_evicts(o) ? "what a policy lets go leaves other places than those of positions" : NULL;
}

// ---- sizes ---------------------------------------------------------------------------------------

// Which of its tokens go in groups, and which as they are.
typedef struct { size_t packed_from, packed_to, from, to; } Split;
static Split split_of(const KeepOptions *o, Transfer t) {
    if (o->bits >= 16) return (Split){0, 0, t.from, t.to};
    size_t rounded = keep_rounded(o, t.to);
    return (Split){keep_rounded(o, t.from), rounded, rounded, t.ended ? t.to : rounded};
}

static size_t number_bytes(const KeepOptions *o) { return o->bits == 16 ? sizeof(uint16_t) : sizeof(real); }
static size_t group_bytes(const KeepOptions *o, CacheNeed need) {
    return o->bits < 16 ? keep_group_bytes(o, need.k, need.v) : 0;
}
static size_t groups_of(const KeepOptions *o, size_t tokens) { return o->bits < 16 ? tokens / o->group : 0; }

size_t transfer_bytes(const Model *m, const Blocks *s, Transfer t) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, t.l);
    Split part = split_of(o, t);
    size_t groups = groups_of(o, part.packed_to - part.packed_from) * group_bytes(o, need);
    size_t whole = (part.to - part.from) * (need.k + need.v) * number_bytes(o);
    return need.heads * (groups + whole) + (t.ended ? need.state * sizeof(real) : 0);
}

size_t transfer_bytes_of_text(const Model *m, const Blocks *s, size_t n) {
    size_t bytes = 0;
    for (size_t l = 0; l < s->layers; l++) bytes += transfer_bytes(m, s, (Transfer){l, 0, n, true});
    return bytes;
}

size_t transfer_group_at(const Model *m, const Blocks *s, size_t l, size_t head, size_t end) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, l);
    return ((end / o->group - 1) * need.heads + head) * group_bytes(o, need);
}
size_t transfer_group_room(const Model *m, const Blocks *s, size_t l, size_t n) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, l);
    return groups_of(o, keep_rounded(o, n)) * need.heads * group_bytes(o, need);
}

// ---- here and there ------------------------------------------------------------------------------

// Where layer l begins in what blocks_save writes, and where the state, behind its length.
static size_t place_of(const Model *m, const Blocks *s, size_t l) {
    size_t numbers = 0;
    for (size_t i = 0; i < l; i++) {
        CacheNeed need = need_of(m, i);
        numbers += need.heads * s->slots[i] * (need.k + need.v);
    }
    return numbers * sizeof(real);
}

typedef struct { real *k, *v; } Pair;
static Pair in_block(const Blocks *s, Transfer t, CacheNeed need, uint32_t block, size_t head, size_t position) {
    size_t slot = (block * need.heads + head) * s->slots[t.l] + position % s->size;
    return (Pair){need.k ? s->k[t.l] + slot * need.k : NULL, need.v ? s->v[t.l] + slot * need.v : NULL};
}
// at: of layer t.l
static Pair in_place(const Blocks *s, Transfer t, CacheNeed need, unsigned char *at, size_t head, size_t position) {
    size_t slot = head * s->slots[t.l] + position % s->size, keys = need.heads * s->slots[t.l] * need.k;
    real *k = (real *)at;
    return (Pair){k + slot * need.k, k + keys + slot * need.v};
}

static void pack_numbers(const KeepOptions *o, const real *x, size_t n, unsigned char **out) {
    if (!n) return;
    if (o->bits == 16) codec_encode(*out, x, 1, n, 16);
    else memcpy(*out, x, n * sizeof *x);
    *out += n * number_bytes(o);
}
static void unpack_numbers(const KeepOptions *o, real *x, size_t n, const unsigned char **in) {
    if (!n) return;
    if (o->bits == 16) codec_decode(x, 1, *in, n, 16);
    else memcpy(x, *in, n * sizeof *x);
    *in += n * number_bytes(o);
}

void transfer_pack(const Model *m, const Blocks *s, Transfer t, const uint32_t *block, const unsigned char *groups,
                   unsigned char *out) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, t.l);
    Split part = split_of(o, t);
    size_t first = groups_of(o, part.packed_from), end = groups_of(o, part.packed_to);
    size_t each = need.heads * group_bytes(o, need);
    if (end > first) memcpy(out, groups + first * each, (end - first) * each), out += (end - first) * each;
    for (size_t i = part.from; i < part.to; i++)
        for (size_t g = 0; g < need.heads; g++) {
            Pair pair = in_block(s, t, need, block[i / s->size], g, i);
            pack_numbers(o, pair.k, need.k, &out), pack_numbers(o, pair.v, need.v, &out);
        }
    if (!t.ended || !need.state) return;
    const State *state = &s->state[block[(t.to - 1) / s->size]];
    if (state->length != t.to) fail("the state of %zu tokens is not there to be sent; please report this", t.to);
    memcpy(out, state->numbers + s->state_at[t.l], need.state * sizeof(real));
}

// A group of tokens up to `end` of one head.
static void unpack_group(const Blocks *s, Transfer t, CacheNeed need, size_t end, size_t g, size_t layer,
                         const unsigned char *in, unsigned char *const *place) {
    const KeepOptions *o = &s->keep.o;
    size_t begin = end - o->group;
    real *channel = xmalloc(o->group * sizeof *channel);
    for (size_t d = 0; d < need.k; d++, in += codec_bytes(o->group, o->bits)) {
        codec_decode(channel, 1, in, o->group, o->bits);
        for (size_t i = 0; i < o->group; i++)
            in_place(s, t, need, place[(begin + i) / s->size] + layer, g, begin + i).k[d] = channel[i];
    }
    for (size_t i = begin; i < end; i++)
        for (size_t d = 0; d < need.v; d += o->group) {
            size_t n = smaller(o->group, need.v - d);
            codec_decode(in_place(s, t, need, place[i / s->size] + layer, g, i).v + d, 1, in, n, o->bits);
            in += codec_bytes(n, o->bits);
        }
    free(channel);
}

void transfer_unpack(const Model *m, const Blocks *s, Transfer t, const unsigned char *in,
                     unsigned char *const *place) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, t.l);
    Split part = split_of(o, t);
    size_t layer = place_of(m, s, t.l);
    for (size_t end = part.packed_from + o->group; o->bits < 16 && end <= part.packed_to; end += o->group)
        for (size_t g = 0; g < need.heads; g++, in += group_bytes(o, need))
            unpack_group(s, t, need, end, g, layer, in, place);
    for (size_t i = part.from; i < part.to; i++)
        for (size_t g = 0; g < need.heads; g++) {
            Pair pair = in_place(s, t, need, place[i / s->size] + layer, g, i);
            unpack_numbers(o, pair.k, need.k, &in), unpack_numbers(o, pair.v, need.v, &in);
        }
    if (!t.ended || !need.state) return;
    unsigned char *state = place[(t.to - 1) / s->size] + place_of(m, s, s->layers);
    memcpy(state, &t.to, sizeof t.to);
    memcpy(state + sizeof t.to + s->state_at[t.l] * sizeof(real), in, need.state * sizeof(real));
}

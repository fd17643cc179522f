// transfer.c: see transfer.h.
#include "model/transfer.h"
#include "model/layer.h"
#include <stdlib.h>
#include <string.h>

static CacheNeed need_of(const Model *m, size_t l) { return m->layers[l].mixer->cache(&m->layers[l]); }

const char *transfer_refusal(const KeepOptions *o) {
    return keep_evicts(o) ? "what a policy lets go leaves other places than those of positions" : NULL;
}

// ---- sizes ---------------------------------------------------------------------------------------

// Groups first .. last-1, and tokens from .. to-1 by themselves.
typedef struct { size_t first, last, from, to; } Split;
static Split split_of(const KeepOptions *o, Transfer t) {
    if (!keep_seals(o)) return (Split){0, 0, t.from, t.to};
    size_t rounded = keep_rounded(o, t.to);
    return (Split){keep_rounded(o, t.from) / o->group, rounded / o->group, rounded, t.ended ? t.to : rounded};
}

static size_t run_bytes(const KeepOptions *o, CacheNeed need, bool values) {
    size_t width = values ? need.v : need.k;
    return keep_seals(o) && width ? codec_run_bytes((CodecRun){o->bits, o->group, width, values}) : 0;
}

size_t transfer_bytes(const Model *m, const Blocks *s, Transfer t) {
    const KeepOptions *o = &s->keep.o;
    CacheNeed need = need_of(m, t.l);
    Split part = split_of(o, t);
    size_t groups = (part.last - part.first) * (run_bytes(o, need, false) + run_bytes(o, need, true));
    size_t alone = (part.to - part.from) * (s->k_bytes[t.l] + s->v_bytes[t.l]);
    return need.heads * (groups + alone) + (t.ended ? need.state * sizeof(real) : 0);
}

size_t transfer_bytes_of_text(const Model *m, const Blocks *s, size_t n) {
    size_t bytes = 0;
    for (size_t l = 0; l < s->layers; l++) bytes += transfer_bytes(m, s, (Transfer){l, 0, n, true});
    return bytes;
}

size_t transfer_places(const Blocks *s, size_t n) {
    return (keep_most(&s->keep.o, n, n, n) + s->size - 1) / s->size;
}

// ---- here and there ------------------------------------------------------------------------------

// A layer of a text in its blocks, or in what blocks_load() takes of them (place), `before` bytes behind its beginning.
typedef struct {
    const Blocks *s; size_t l; CacheNeed need;
    const uint32_t *block; unsigned char *const *place; size_t before;
} Where;

// Where layer l begins in what blocks_save() writes, and where the state, behind its length.
static size_t bytes_before(const Model *m, const Blocks *s, size_t l) {
    size_t bytes = 0;
    for (size_t i = 0; i < l; i++) bytes += need_of(m, i).heads * s->slots[i] * (s->k_bytes[i] + s->v_bytes[i]);
    return bytes;
}

static unsigned char *slot_at(const Where *w, bool values, size_t head, size_t slot) {
    const Blocks *s = w->s;
    size_t each = values ? s->v_bytes[w->l] : s->k_bytes[w->l], slots = s->slots[w->l];
    size_t at = (head * slots + slot % s->size) * each, keys = w->need.heads * slots * s->k_bytes[w->l];
    if (w->place) return w->place[slot / s->size] + w->before + (values ? keys : 0) + at;
    unsigned char *all = (unsigned char *)(values ? s->v[w->l] : s->k[w->l]);
    return all + w->block[slot / s->size] * w->need.heads * slots * each + at;
}

typedef void Move(unsigned char *here, unsigned char **packed, size_t bytes);
static void move_out(unsigned char *here, unsigned char **packed, size_t bytes) {
    memcpy(*packed, here, bytes), *packed += bytes;
}
static void move_in(unsigned char *here, unsigned char **packed, size_t bytes) {
    memcpy(here, *packed, bytes), *packed += bytes;
}

// So many bytes from a slot on, which go on in the slots after it.
static void move_slots(const Where *w, Move *move, bool values, size_t head, size_t slot, size_t bytes,
                       unsigned char **packed) {
    size_t each = values ? w->s->v_bytes[w->l] : w->s->k_bytes[w->l];
    for (size_t some; bytes; slot++, bytes -= some) {
        some = smaller(bytes, each);
        move(slot_at(w, values, head, slot), packed, some);
    }
}

static void move_all(const Where *w, Transfer t, Move *move, unsigned char *packed) {
    const KeepOptions *o = &w->s->keep.o;
    Split part = split_of(o, t);
    for (size_t group = part.first; group < part.last; group++)
        for (size_t g = 0; g < w->need.heads; g++)
            for (int values = 0; values < 2; values++)
                move_slots(w, move, values, g, keep_recent(o) + group * keep_sealed(o), run_bytes(o, w->need, values),
                           &packed);
    for (size_t i = part.from; i < part.to; i++)
        for (size_t g = 0; g < w->need.heads; g++)
            for (int values = 0; values < 2; values++)
                move_slots(w, move, values, g, keep_seals(o) ? i % keep_recent(o) : i,
                           values ? w->s->v_bytes[t.l] : w->s->k_bytes[t.l], &packed);
}

void transfer_pack(const Model *m, const Blocks *s, Transfer t, const uint32_t *block, unsigned char *out) {
    Where w = {.s = s, .l = t.l, .need = need_of(m, t.l), .block = block};
    move_all(&w, t, move_out, out);
    if (!t.ended || !w.need.state) return;
    const State *state = &s->state[block[(t.to - 1) / s->size]];
    if (state->length != t.to) fail("the state of %zu tokens is not there to be sent; please report this", t.to);
    size_t bytes = w.need.state * sizeof(real);
    memcpy(out + transfer_bytes(m, s, t) - bytes, state->numbers + s->state_at[t.l], bytes);
}

void transfer_unpack(const Model *m, const Blocks *s, Transfer t, const unsigned char *in,
                     unsigned char *const *place) {
    Where w = {.s = s, .l = t.l, .need = need_of(m, t.l), .place = place, .before = bytes_before(m, s, t.l)};
    move_all(&w, t, move_in, (unsigned char *)in);
    if (!t.ended || !w.need.state) return;
    unsigned char *state = place[(t.to - 1) / s->size] + bytes_before(m, s, s->layers);
    size_t bytes = w.need.state * sizeof(real);
    memcpy(state, &t.to, sizeof t.to);
    memcpy(state + sizeof t.to + s->state_at[t.l] * sizeof(real), in + transfer_bytes(m, s, t) - bytes, bytes);
}

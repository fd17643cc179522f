// blocks.c: memory of the paged cache, copied and saved.
#include "model/blocks.h"
#include "lib/profile.h"
#include "model/layer.h"
#include <stdlib.h>
#include <string.h>

static CacheNeed need_of(const Model *m, size_t l) { return m->layers[l].mixer->cache(&m->layers[l]); }

static void layout_blocks(const Model *m, Blocks *s) {
    CodecRow row = keep_row(&s->keep.o);
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        size_t places = size_mul(size_mul(s->count, s->slots[l]), need.heads);
        s->k_bytes[l] = codec_row_bytes(row, need.k), s->v_bytes[l] = codec_row_bytes(row, need.v);
        s->k[l] = need.k ? arena_take(&s->arena, size_mul(places, s->k_bytes[l])) : NULL;
        s->v[l] = need.v ? arena_take(&s->arena, size_mul(places, s->v_bytes[l])) : NULL;
        s->state_at[l + 1] = s->state_at[l] + need.state;
    }
}

static void take_slots(const Model *m, Blocks *s) {
    s->keep.at = xmalloc(s->layers * sizeof *s->keep.at), s->keep.score = xmalloc(s->layers * sizeof *s->keep.score);
    for (size_t l = 0; l < s->layers; l++) {
        size_t places = size_mul(size_mul(s->count, s->size), need_of(m, l).heads);
        s->keep.at[l] = xmalloc(size_mul(places, sizeof **s->keep.at));
        s->keep.score[l] = xmalloc(size_mul(places, sizeof **s->keep.score));
    }
}

static Blocks *make_blocks(const Model *m, size_t count, size_t block_size, bool slide, const KeepOptions *o) {
    const char *refusal = keep_refusal(m, o);
    if (refusal)
        usage_error("this model's cache keeps all of a text, exactly (--kv-policy full, --kv-bits 32, --kv-quant "
                    "none): %s", refusal);
    Blocks *s = xmalloc(sizeof *s);
    *s = (Blocks){.count = count, .size = block_size, .layers = m->c.layers, .keep.o = *o, .arena = {.name = "cache"}};
    keep_fit(m, &s->keep.o);
    s->slots = xmalloc(s->layers * sizeof *s->slots), s->first = xmalloc(s->layers * sizeof *s->first);
    s->window = xmalloc(s->layers * sizeof *s->window);
    for (size_t l = 0; l < s->layers; l++) {
        size_t least = m->layers[l].mha.cache_slots;
        s->slots[l] = slide && least ? smaller(least, block_size) : block_size;
        s->window[l] = m->layers[l].mha.window;
    }
    s->k = xmalloc(s->layers * sizeof *s->k), s->v = xmalloc(s->layers * sizeof *s->v);
    s->k_bytes = xmalloc(s->layers * sizeof *s->k_bytes), s->v_bytes = xmalloc(s->layers * sizeof *s->v_bytes);
    s->state_at = xmalloc((s->layers + 1) * sizeof *s->state_at);
    s->state = xmalloc(size_mul(count, sizeof *s->state)), s->spare = xmalloc(size_mul(count, sizeof *s->spare));
    layout_blocks(m, s);
    arena_commit(&s->arena);
    layout_blocks(m, s);
    if (keep_evicts(o)) take_slots(m, s);
    return s;
}
Blocks *blocks_new_kept(const Model *m, size_t count, size_t block_size, const KeepOptions *o) {
    return make_blocks(m, count, block_size, false, o);
}
Blocks *blocks_new_long(const Model *m, size_t count, size_t capacity, const KeepOptions *o) {
    return make_blocks(m, count, capacity, true, o);
}
Blocks *blocks_new(const Model *m, size_t count, size_t block_size) {
    KeepOptions all = keep_everything();
    return blocks_new_kept(m, count, block_size, &all);
}

void blocks_free(Blocks *s) {
    if (!s) return;
    for (size_t l = 0; s->keep.at && l < s->layers; l++) free(s->keep.at[l]), free(s->keep.score[l]);
    free(s->keep.at), free(s->keep.score);
    arena_free(&s->arena);
    for (size_t i = 0; i < s->count; i++) free(s->state[i].numbers);
    while (s->spares) free(s->spare[--s->spares]);
    free(s->slots), free(s->first), free(s->window), free(s->k_bytes), free(s->v_bytes);
    free(s->k), free(s->v), free(s->state_at), free(s->state), free(s->spare), free(s);
}

// ---- states --------------------------------------------------------------------------------------

static size_t state_size(const Blocks *s) { return s->state_at[s->layers]; }

static void drop_state(Blocks *s, uint32_t block) {
    State *state = &s->state[block];
    if (state->numbers) s->spare[s->spares++] = state->numbers;
    *state = (State){NULL, 0};
}
static State *take_state(Blocks *s, uint32_t block, size_t length) {
    State *state = &s->state[block];
    if (!state->numbers)
        state->numbers = s->spares ? s->spare[--s->spares] : xmalloc(size_mul(state_size(s), sizeof(real)));
    state->length = length;
    return state;
}

size_t blocks_resume(const Blocks *s, const uint32_t *block, size_t past) {
    if (!state_size(s) || !past || s->state[block[(past - 1) / s->size]].length == past) return past;
    size_t full = past / s->size;
    while (full && s->state[block[full - 1]].length != full * s->size) full--;
    return full * s->size;
}

// The block with the state that a row begins with; NO_STATE: at the start of a text.
#define NO_STATE UINT32_MAX
static uint32_t begins_after(const Blocks *s, const Row *r) {
    return r->past ? r->block[(r->past - 1) / s->size] : NO_STATE;
}

// A row takes the state before it along, unless another one of this step begins with it too.
static void take_states(Blocks *s, const Row *r, bool leave) {
    size_t end = r->past + r->n, last = (end - 1) / s->size, begun = (r->past + s->size - 1) / s->size;
    for (size_t i = begun; i <= last; i++) drop_state(s, r->block[i]);           // of a text that had this block before
    if (!s->snapshots && r->past) {
        State *from = &s->state[begins_after(s, r)], *to = &s->state[r->block[last]], moved = *from;
        if (leave) memcpy(take_state(s, r->block[last], end)->numbers, moved.numbers, state_size(s) * sizeof(real));
        else *from = (State){NULL, 0}, *to = moved;
    }
    for (size_t i = s->snapshots ? r->past / s->size : last; i <= last; i++)
        take_state(s, r->block[i], smaller(end, (i + 1) * s->size));
}

void blocks_take_states(Blocks *s, const Row *rows, size_t count) {
    for (size_t i = 0; i < count && state_size(s); i++) {
        bool leave = false;
        for (size_t j = i + 1; j < count && rows[i].past; j++)
            leave |= begins_after(s, &rows[j]) == begins_after(s, &rows[i]);
        take_states(s, &rows[i], leave);
    }
}

Stretch blocks_stretch(const Blocks *s, const Row *r, size_t done, size_t layer) {
    size_t past = r->past + done, left = r->n - done, n = s->snapshots ? smaller(left, s->size - past % s->size) : left;
    if (!n) return (Stretch){0, NULL, NULL};
    real *to = s->state[r->block[(past + n - 1) / s->size]].numbers + s->state_at[layer];
    if (!past || !s->snapshots) return (Stretch){n, past ? to : NULL, to};
    return (Stretch){n, s->state[r->block[(past - 1) / s->size]].numbers + s->state_at[layer], to};
}

// ---- long blocks ---------------------------------------------------------------------------------

size_t blocks_slide(const Model *m, Blocks *s, size_t l, size_t length, size_t n) {
    size_t end = s->first[l] + s->slots[l], tile = m->c.tile;
    if (s->slots[l] == s->size || length + n <= end) return n;
    if (length + 1 > s->window[l] + tile) {
        CacheNeed need = need_of(m, l);
        size_t first = (length + 1 - s->window[l] - tile) / tile * tile;
        if (first < s->first[l]) first = s->first[l];             // after a rewind: what is gone is gone
        size_t heads = s->count * need.heads, away = first - s->first[l], kept = (length - first) * sizeof(real);
        PROFILE(cache, 0, 2 * heads * (length - first) * (need.k + need.v));
        for (size_t h = 0; h < heads; h++) {
            real *k = s->k[l] + h * s->slots[l] * need.k, *v = s->v[l] + h * s->slots[l] * need.v;
            memmove(k, k + away * need.k, kept * need.k);
            memmove(v, v + away * need.v, kept * need.v);
        }
        s->first[l] = first, end = first + s->slots[l];
    }
    return length + n <= end ? n : end - length;
}

void blocks_rewind(Blocks *s, size_t length, size_t to) {
    const KeepOptions *o = &s->keep.o;
    if (to && (keep_evicts(o) || (keep_seals(o) && length - to > o->ahead)))
        fail("a cache of %zu tokens cannot go back to %zu: what has gone or been rounded since then does not come back",
             length, to);
    for (size_t l = 0; l < s->layers; l++) {
        if (to && s->first[l] && s->first[l] + s->window[l] > to + 1)
            fail("a window of %zu tokens has moved on: a cache of %zu cannot go back to %zu", s->window[l], length, to);
        if (!to) s->first[l] = 0;
    }
    if (state_size(s) && to) fail("a recurrent state of %zu tokens cannot go back to %zu, only to 0", length, to);
}

// ---- whole blocks --------------------------------------------------------------------------------
// Calls a function on what a block holds in each layer, one piece of memory after the other.
typedef void Visit(void *piece, size_t bytes, void *to);
static void visit(const Model *m, const Blocks *s, uint32_t block, Visit *call, char *to) {
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        size_t k = need.heads * s->slots[l] * s->k_bytes[l], v = need.heads * s->slots[l] * s->v_bytes[l];
        if (k) call((char *)s->k[l] + block * k, k, to), to += k;
        if (v) call((char *)s->v[l] + block * v, v, to), to += v;
        if (!s->keep.at) continue;
        size_t slots = need.heads * s->slots[l], at = slots * sizeof(uint32_t), score = slots * sizeof(real);
        call(s->keep.at[l] + block * slots, at, to), to += at;
        call(s->keep.score[l] + block * slots, score, to), to += score;
    }
}
static void save_piece(void *piece, size_t bytes, void *to) { memcpy(to, piece, bytes); }
static void load_piece(void *piece, size_t bytes, void *to) { memcpy(piece, to, bytes); }

static size_t bytes_of_keys(const Model *m, const Blocks *s) {
    size_t bytes = 0, slots = 0;
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        bytes += need.heads * s->slots[l] * (s->k_bytes[l] + s->v_bytes[l]);
        if (s->keep.at) slots += need.heads * s->slots[l];
    }
    return bytes + slots * (sizeof(uint32_t) + sizeof(real));
}
// Behind keys and values: the length of the state, and its numbers if there are any.
size_t blocks_bytes(const Model *m, const Blocks *s) {
    return bytes_of_keys(m, s) + (state_size(s) ? sizeof(size_t) + state_size(s) * sizeof(real) : 0);
}
void blocks_save(const Model *m, const Blocks *s, uint32_t block, void *to) {
    visit(m, s, block, save_piece, to);
    if (!state_size(s)) return;
    const State *state = &s->state[block];
    char *at = (char *)to + bytes_of_keys(m, s);
    memcpy(at, &state->length, sizeof state->length);
    if (state->length) memcpy(at + sizeof state->length, state->numbers, state_size(s) * sizeof(real));
}
void blocks_load(const Model *m, Blocks *s, const void *from, uint32_t block) {
    visit(m, s, block, load_piece, (char *)from);
    if (!state_size(s)) return;
    size_t length;
    const char *at = (const char *)from + bytes_of_keys(m, s);
    memcpy(&length, at, sizeof length);
    if (!length) drop_state(s, block);
    else memcpy(take_state(s, block, length)->numbers, at + sizeof length, state_size(s) * sizeof(real));
}
void blocks_copy_to(const Model *m, Blocks *s, uint32_t to, const Blocks *others, uint32_t from, size_t length) {
    for (size_t l = 0; l < s->layers; l++) {
        CacheNeed need = need_of(m, l);
        size_t slots = s->slots[l], held = length - others->first[l];
        size_t k = s->k_bytes[l], v = s->v_bytes[l];
        s->first[l] = others->first[l];
        for (size_t h = 0; h < need.heads; h++) {
            size_t there = (to * need.heads + h) * slots, here = (from * need.heads + h) * slots;
            if (k) memcpy((char *)s->k[l] + there * k, (char *)others->k[l] + here * k, held * k);
            if (v) memcpy((char *)s->v[l] + there * v, (char *)others->v[l] + here * v, held * v);
            if (!s->keep.at) continue;
            memcpy(s->keep.at[l] + there, others->keep.at[l] + here, length * sizeof **s->keep.at);
            memcpy(s->keep.score[l] + there, others->keep.score[l] + here, length * sizeof **s->keep.score);
        }
    }
    if (!state_size(s)) return;
    const State *state = &others->state[from];
    if (!state->length) drop_state(s, to);
    else memcpy(take_state(s, to, state->length)->numbers, state->numbers, state_size(s) * sizeof(real));
}
void blocks_copy(const Model *m, Blocks *s, uint32_t from, uint32_t to) {
    blocks_copy_to(m, s, to, s, from, s->size);
}

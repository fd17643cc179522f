// keep_attention.c: see keep_attention.h. A text's tokens come in stretches within which its queries see one and the
// same past: all of a prompt at once, then token by token; or up to where the next group of tokens is rounded. So what
// a token meets is decided by its position, and no text shows in which pieces it came.
#include "model/keep_attention.h"
#include "kernels/weights.h"
#include "lib/numeric.h"
#include "lib/profile.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- slots ---------------------------------------------------------------------------------------
typedef struct {
    const KeepOptions *o; CodecRow row;
    unsigned char *k, *v; uint32_t *at; real *score;           // v NULL: the beginning of k
    size_t size, KV, D, Dv, k_bytes, v_bytes;                  // slots in a block; bytes of a slot
    bool *unheld;
} Store;
static Store store_of(const Batch *b, size_t l, const AttnShape *s) {
    const Blocks *blocks = b->paged.blocks;
    const Keep *keep = &blocks->keep;
    return (Store){&keep->o, keep_row(&keep->o), (unsigned char *)blocks->k[l], (unsigned char *)blocks->v[l],
                   keep->at ? keep->at[l] : NULL, keep->score ? keep->score[l] : NULL, blocks->size, s->KV, s->D, s->Dv,
                   blocks->k_bytes[l], blocks->v_bytes[l], blocks->unheld};
}
static bool is_packed(const Store *s) { return keep_seals(s->o) || s->row.kind != CODEC_whole; }

typedef struct { size_t token, n, past, prompt, done; const uint32_t *block; size_t row; } Text;
static size_t texts_of(const Batch *b, Text **text, uint32_t **row) {
    size_t count = b->paged.rows;
    *text = xmalloc(count * sizeof **text), *row = xmalloc(count * sizeof **row);
    for EACH_PART(p, b) {
        const Row *r = &b->paged.row[p.i];
        (*row)[p.i] = (uint32_t)p.i, (*text)[p.i] = (Text){p.at, r->n, r->past, r->prompt, 0, r->block, p.i};
    }
    return count;
}

static size_t slot_of(const Store *s, const Text *t, size_t g, size_t i) {
    return (t->block[i / s->size] * s->KV + g) * s->size + i % s->size;
}
static unsigned char *memory_of(const Store *s, bool values, size_t slot) {
    return values ? s->v + slot * s->v_bytes : s->k + slot * s->k_bytes;
}

// Cache lines that will be wanted next: asked for a few at a time, between what is unpacked meanwhile, for a processor
// waits where it has asked for too many at once.
enum { LINE = 64, LINES = 160, AT_ONCE = 4 };            // AT_ONCE: tokens
typedef struct { size_t n, asked, each; const unsigned char *line[LINES]; } Ahead;
// Those of n slots from i on, or the first of them, in `parts` parts.
static void look_ahead(Ahead *a, const Store *s, const Text *t, bool values, size_t g, size_t i, size_t n,
                       size_t parts) {
    size_t bytes = values ? s->v_bytes : s->k_bytes;
    a->n = a->asked = 0;
    for (size_t some; n; i += some, n -= some) {
        some = smaller(n, s->size - i % s->size);
        const unsigned char *at = memory_of(s, values, slot_of(s, t, g, i));
        for (size_t byte = 0; byte < some * bytes && a->n < LINES; byte += LINE) a->line[a->n++] = at + byte;
    }
    a->each = (a->n + parts - 1) / parts;
}
static void ask(Ahead *a) {
    for (size_t end = smaller(a->n, a->asked + a->each); a->asked < end;) __builtin_prefetch(a->line[a->asked++], 0, 2);
}

// n tokens from slot i on of a head of a text. ahead: or NULL.
static void unpack_slots(const Store *s, const Text *t, real *x, bool values, size_t g, size_t i, size_t n,
                         Ahead *ahead) {
    size_t width = values ? s->Dv : s->D, bytes = values ? s->v_bytes : s->k_bytes;
    for (size_t some; n; i += some, n -= some) {
        some = smaller(n, s->size - i % s->size);
        const unsigned char *from = memory_of(s, values, slot_of(s, t, g, i));
        for (size_t k = 0, now; k < some; k += now, x += now * width, from += now * bytes) {
            now = ahead ? smaller(AT_ONCE, some - k) : some;
            if (ahead) ask(ahead);
            codec_unpack_rows(x, from, s->row, now, width);
        }
    }
}

// ---- groups of tokens that are packed together ---------------------------------------------------

static CodecRun run_of(const Store *s, bool values) {
    return (CodecRun){s->o->bits, s->o->group, values ? s->Dv : s->D, values};
}

// The memory of a group: its slots where these follow one another, else a copy of them.
typedef struct { unsigned char few[8192], *many; } Copy;
static size_t slot_of_run(const Store *s, size_t group) { return keep_recent(s->o) + group * keep_sealed(s->o); }
static const unsigned char *open_run(const Store *s, const Text *t, bool values, size_t g, size_t group, Copy *copy) {
    size_t n = keep_sealed(s->o), i = slot_of_run(s, group), bytes = values ? s->v_bytes : s->k_bytes;
    if (i % s->size + n <= s->size) return memory_of(s, values, slot_of(s, t, g, i));
    unsigned char *to = copy->few;
    if (n * bytes > sizeof copy->few) to = copy->many = copy->many ? copy->many : xmalloc(size_mul(n, bytes));
    for (size_t k = 0, some; k < n; k += some) {
        some = smaller(n - k, s->size - (i + k) % s->size);
        memcpy(to + k * bytes, memory_of(s, values, slot_of(s, t, g, i + k)), some * bytes);
    }
    return to;
}

static void unpack_runs(const Store *s, const Text *t, real *x, bool values, size_t g, size_t from, size_t n) {
    CodecRun run = run_of(s, values);
    size_t sealed = keep_rounded(s->o, t->past + t->done);
    enum { PART = 8 };                                           // tokens
    Ahead ahead;
    Copy copy;
    copy.many = NULL;
    for (size_t some; n; from += some, n -= some, x += some * run.width) {
        if (from < sealed) {
            size_t group = from / run.group, first = from % run.group;
            const unsigned char *packed = open_run(s, t, values, g, group, &copy);
            bool last = (group + 2) * run.group > sealed;
            some = smaller(n, run.group - first);
            if (!last) look_ahead(&ahead, s, t, values, g, slot_of_run(s, group + 1), keep_sealed(s->o),
                                  (some + PART - 1) / PART);
            for (size_t k = 0; k < some; k += PART) {
                if (!last) ask(&ahead);
                codec_unseal(x + k * run.width, packed, run, first + k, smaller(PART, some - k));
            }
        } else {
            size_t slot = from % keep_recent(s->o);
            some = smaller(n, keep_recent(s->o) - slot);
            unpack_slots(s, t, x, values, g, slot, some, NULL);
        }
    }
    free(copy.many);
}

// The group of tokens that has become old enough with the last one of a stretch, if one has.
static void seal(const Store *s, const Text *t, size_t n, size_t g) {
    const KeepOptions *o = s->o;
    size_t end = keep_rounded(o, t->past + t->done + n), size = keep_sealed(o);
    if (!keep_seals(o) || end == keep_rounded(o, t->past + t->done)) return;
    for (size_t values = 0; values < 1 + (s->v != NULL); values++) {
        CodecRun run = run_of(s, values);
        size_t bytes = values ? s->v_bytes : s->k_bytes, first = slot_of_run(s, end / o->group - 1);
        real *x = xmalloc(size_mul(o->group * run.width, sizeof *x));
        unsigned char *packed = xmalloc(size_mul(size, bytes));
        for (size_t i = 0; i < o->group; i++)
            unpack_slots(s, t, x + i * run.width, values, g, (end - o->group + i) % keep_recent(o), 1,
                         NULL);
        codec_seal(packed, x, run);
        for (size_t i = 0; i < size; i++)
            memcpy(memory_of(s, values, slot_of(s, t, g, first + i)), packed + i * bytes, bytes);
        free(x), free(packed);
    }
}

// ---- a stretch -----------------------------------------------------------------------------------

static size_t held_of(const Store *s, const Text *t) {
    return keep_held(s->o, t->prompt, t->past + t->done);
}

static size_t stretch_of(const Store *s, const Text *t) {
    const KeepOptions *o = s->o;
    size_t position = t->past + t->done, left = t->n - t->done, begin = keep_begin(o, t->prompt);
    if (keep_evicts(o)) return position < begin ? smaller(left, begin - position) : 1;
    if (!keep_seals(o)) return left;
    size_t next = keep_rounded(o, position) + o->group + o->residual;
    return smaller(left, next - position);
}

// Groups have headers of half floats (codec.h).
static const double HALF_MOST = 65504;
static bool can_hold(const Store *s, const real *x, size_t n) {
    for (size_t i = 0; keep_seals(s->o) && i < n; i++)
        if (!(fabs((double)x[i]) <= HALF_MOST)) return false;
    return codec_row_holds(s->row, x, n);
}
static void refuse_large(const Store *s, const real *x, size_t n, const char *what) {
    for (size_t i = 0; keep_seals(s->o) && i < n; i++)
        if (!(fabs((double)x[i]) <= HALF_MOST))
            fail("a %s is %g, and --kv-bits %zu has numbers of at most %g; --kv-bits 16 has larger ones", what,
                 (double)x[i], s->o->bits, HALF_MOST);
}

// Where that is not the end of all rows, one with numbers that cannot be held has zeros instead, and is marked.
static void hold(const Store *s, const Text *t, bool values, size_t slot, const real *x) {
    size_t n = values ? s->Dv : s->D;
    unsigned char *to = memory_of(s, values, slot);
    if (s->unheld && !can_hold(s, x, n)) {
        s->unheld[t->row] = true;
        memset(to, 0, values ? s->v_bytes : s->k_bytes);
        return;
    }
    refuse_large(s, x, n, values ? "value" : "key");
    codec_pack_rows(to, x, s->row, 1, n);
}

static void append(const Store *s, const KeepInput *in, const Text *t, size_t n) {
    size_t held = held_of(s, t);
    PROFILE(cache, 0, 2 * n * s->KV * (s->D + (s->v ? s->Dv : 0)));
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < s->KV; g++) {
            size_t i_held = keep_seals(s->o) ? (held + i) % keep_recent(s->o) : held + i;
            size_t slot = slot_of(s, t, g, i_held), token = (t->token + t->done + i) * in->kv_stride;
            hold(s, t, false, slot, in->k + token + g * s->D);
            if (s->v) hold(s, t, true, slot, in->v + token + g * s->Dv);
            if (s->at) s->at[slot] = (uint32_t)(t->past + t->done + i);
            if (s->score) s->score[slot] = s->o->policy == KV_POLICY_pool;            // of pool: how many it stands for
        }
}

// ---- keys that are rotated when they are read ----------------------------------------------------
// Side by side in memory of their own, with a number more for each where a slot stands for several positions: a key
// that stands for p of them is worth p in the softmax, exp(s + log p), and 1/scale times log p is what that adds to
// the product of query and key.

typedef struct { real *q, *k, *v; size_t D, size; } Rotated;

static void rotate_one(const Model *m, const Layer *layer, real *x, size_t heads, size_t stride, size_t position) {
    if (layer->P)
        rope(x, 0, heads, stride, layer->P, m->cosine[0], m->sine[0], 1, 1, position, false);
}

static void rotate_text(const Model *m, const Layer *layer, const Store *s, const KeepInput *in, const AttnShape *shape,
                        const Text *t, size_t n, Rotated *to, size_t text) {
    size_t held = held_of(s, t), all = held + n, D = s->D;
    bool packed = s->o->packed;
    for (size_t g = 0; g < s->KV; g++)
        for (size_t i = 0; i < all; i++) {
            size_t slot = slot_of(s, t, g, i), place = (text * s->KV + g) * to->size + i;
            real *key = to->k + place * to->D;
            unpack_slots(s, t, key, false, g, i, 1, NULL);
            rotate_one(m, layer, key, 1, 0, packed ? i : s->at[slot]);
            if (to->D > D) key[D] = (real)num_log((double)s->score[slot]);
            unpack_slots(s, t, to->v + place * s->Dv, true, g, i, 1, NULL);
        }
    for (size_t i = 0; i < n; i++) {
        size_t token = t->token + t->done + i;
        real *q = to->q + token * shape->H * to->D;
        for (size_t h = 0; h < shape->H; h++) {
            memcpy(q + h * to->D, in->q + token * in->q_stride + h * D, D * sizeof *q);
            if (to->D > D) q[h * to->D + D] = (real)(1 / shape->scale);
        }
        rotate_one(m, layer, q, shape->H, to->D, packed ? held + i : t->past + t->done + i);
    }
}

// ---- what goes -----------------------------------------------------------------------------------

// What the n queries of a stretch look at counts for the slots, a query and a head after the other.
static void look(const Store *s, const KeepInput *in, const AttnShape *shape, const Rotated *r, const Text *t, size_t n,
                 size_t text, size_t g) {
    size_t held = held_of(s, t), group = shape->H / shape->KV, all = held + n;
    const real **key = xmalloc(all * sizeof *key);
    real *w = xmalloc(all * sizeof *w), *unpacked = NULL;
    if (!r && is_packed(s)) {
        unpacked = xmalloc(size_mul(all * s->D, sizeof *unpacked));
        unpack_slots(s, t, unpacked, false, g, 0, all, NULL);
    }
    for (size_t i = 0; i < all; i++)
        key[i] = r ? r->k + ((text * s->KV + g) * r->size + i) * r->D : unpacked ? unpacked + i * s->D
               : (const real *)memory_of(s, false, slot_of(s, t, g, i));
    for (size_t i = 0; i < n; i++) {
        if (!keep_watches(s->o, t->prompt, t->past + t->done + i)) continue;
        size_t token = t->token + t->done + i;
        for (size_t h = g * group; h < (g + 1) * group; h++) {
            const real *q = r ? r->q + token * shape->H * r->D + h * r->D : in->q + token * in->q_stride + h * s->D;
            attention_weights(w, q, key, held + i + 1, s->D, shape->scale);
            for (size_t j = 0; j < held + i + 1; j++) s->score[slot_of(s, t, g, j)] += w[j];
        }
    }
    free(key), free(w), free(unpacked);
}

static void move(const Store *s, const Text *t, size_t g, size_t from, size_t to) {
    size_t a = slot_of(s, t, g, from), b = slot_of(s, t, g, to);
    if (a == b) return;
    memcpy(s->k + b * s->k_bytes, s->k + a * s->k_bytes, s->k_bytes);
    if (s->v) memcpy(s->v + b * s->v_bytes, s->v + a * s->v_bytes, s->v_bytes);
    s->at[b] = s->at[a];
    if (s->score) s->score[b] = s->score[a];
}

static void evict(const Store *s, const Text *t, size_t g, size_t n, size_t stays) {
    uint32_t *at = xmalloc(n * sizeof *at);
    real *score = xmalloc(n * sizeof *score);
    size_t *which = xmalloc(n * sizeof *which);
    for (size_t i = 0; i < n; i++) {
        size_t slot = slot_of(s, t, g, i);
        at[i] = s->at[slot], score[i] = s->score ? s->score[slot] : 0;
    }
    keep_choose(s->o, t->prompt, at, score, n, stays, which);
    for (size_t i = 0; i < stays; i++) move(s, t, g, which[i], i);
    free(at), free(score), free(which);
}

// Slots from .. to-1 become one: means, at the position in the middle.
static void merge(const Store *s, const Text *t, size_t g, size_t from, size_t to, size_t into) {
    size_t slot = slot_of(s, t, g, into);
    for (size_t v = 0; v < 2; v++) {
        size_t width = v ? s->Dv : s->D;
        real *numbers = (real *)(v ? s->v : s->k);
        for (size_t d = 0; d < width; d++) {
            double sum = 0;
            for (size_t i = from; i < to; i++) sum += (double)numbers[slot_of(s, t, g, i) * width + d];
            numbers[slot * width + d] = (real)(sum / (double)(to - from));
        }
    }
    s->at[slot] = s->at[slot_of(s, t, g, (from + to - 1) / 2)], s->score[slot] = (real)(to - from);
}

static void pool(const Store *s, const Text *t, size_t g, size_t n) {
    size_t run = keep_run(s->o, t->prompt);
    for (size_t i = 0; run > 1 && i * run < n; i++) merge(s, t, g, i * run, smaller((i + 1) * run, n), i);
}

static void clear_up(const Store *s, const Text *t, size_t n, size_t g) {
    const KeepOptions *o = s->o;
    size_t all = held_of(s, t) + n, end = t->past + t->done + n, stays = keep_held(o, t->prompt, end);
    if (!keep_evicts(o) || end < keep_begin(o, t->prompt)) return;
    if (o->policy != KV_POLICY_pool && stays < all) evict(s, t, g, all, stays);
    if (o->policy == KV_POLICY_pool && end == keep_begin(o, t->prompt)) pool(s, t, g, all);
}

// ---- all texts -----------------------------------------------------------------------------------

bool keep_batch(const Batch *b) {
    return b->paged.rows && keep_is_on(&b->paged.blocks->keep.o);
}
bool keep_rotates(const Batch *b) {
    if (!keep_batch(b)) return false;
    const KeepOptions *o = &b->paged.blocks->keep.o;
    return o->packed || o->policy == KV_POLICY_pool;
}

// The next stretch of every text that is not through.
typedef struct { Text **text; size_t *n, count, tokens, longest; } Round;
static Round round_of(const Store *s, Text *text, size_t count) {
    Round r = {.text = xmalloc(count * sizeof *r.text), .n = xmalloc(count * sizeof *r.n)};
    for (size_t i = 0; i < count; i++) {
        Text *t = &text[i];
        if (t->done == t->n) continue;
        size_t n = stretch_of(s, t), all = held_of(s, t) + n;
        r.text[r.count] = t, r.n[r.count++] = n;
        r.longest = all > r.longest ? all : r.longest;
    }
    return r;
}

// For kernels/attention.c: keys or values of text b of a round.
typedef struct { const Store *s; const Round *r; } Packed;
static void unpack(const void *cache, real *x, bool values, size_t b, size_t g, size_t from, size_t n) {
    const Store *s = ((const Packed *)cache)->s;
    const Text *t = ((const Packed *)cache)->r->text[b];
    if (values && !s->v) {                                       // the beginning of a latent
        real *key = xmalloc(size_mul(n * s->D, sizeof *key));
        unpack(cache, key, false, b, g, from, n);
        for (size_t i = 0; i < n; i++) memcpy(x + i * s->Dv, key + i * s->D, s->Dv * sizeof *x);
        free(key);
    } else if (keep_seals(s->o)) {
        unpack_runs(s, t, x, values, g, from, n);
    } else {
        size_t end = held_of(s, t) + ((const Packed *)cache)->r->n[b], next = from + n;
        Ahead ahead;
        if (next < end) look_ahead(&ahead, s, t, values, g, next, smaller(n, end - next), (n + AT_ONCE - 1) / AT_ONCE);
        unpack_slots(s, t, x, values, g, from, n, next < end ? &ahead : NULL);
    }
}

// The bytes that a key and its value take, as numbers: of most tokens, where groups are packed.
static double numbers_of_pair(const Store *s) {
    double bytes = (double)(s->k_bytes + (s->v ? s->v_bytes : 0)) / sizeof(real);
    return keep_seals(s->o) ? bytes * (double)keep_sealed(s->o) / (double)s->o->group : bytes;
}

static void attend(const Store *s, const KeepInput *in, AttnOutput o, AttnShape shape, const Rotated *rotated,
                   const Round *r, const uint32_t *place) {
    size_t D = rotated ? rotated->D : s->D, size = rotated ? rotated->size : s->size;
    size_t Dv = s->v ? s->Dv : D;                        // from one value to the next
    const real *k = rotated ? rotated->k : (real *)s->k, *v = rotated ? rotated->v : s->v ? (real *)s->v : k;
    Packed packed = {s, r};
    KvView view = {.k = k, .v = v, .k_step = s->KV * size * D, .k_stride = D, .k_head = size * D,
                   .v_step = s->KV * size * Dv, .v_stride = Dv, .v_head = size * Dv, .block_size = size};
    if (!rotated && is_packed(s))
        view = (KvView){.k = k, .v = v, .block_size = size, .packed = {unpack, &packed, numbers_of_pair(s)}};
    AttnRow *row = xmalloc(r->count * sizeof *row);
    for (size_t i = 0; i < r->count; i++) {
        const Text *t = r->text[i];
        row[i] = (AttnRow){t->token + t->done, r->n[i], held_of(s, t) + r->n[i], rotated ? place + i : t->block};
    }
    shape.D = D;
    attention_forward(o, (AttnInput){.q = rotated ? rotated->q : in->q,
                                     .q_stride = rotated ? shape.H * D : in->q_stride, .view = view, .B = r->count,
                                     .row = row}, shape);
    free(row);
}

static void attend_round(Model *m, size_t l, const Store *s, const KeepInput *in, AttnOutput o, AttnShape shape,
                         const Round *r, const uint32_t *place, const Batch *b) {
    bool rotates = keep_rotates(b), looks = keep_looks(s->o);
    Rotated rotated = {.D = s->D + (s->o->policy == KV_POLICY_pool), .size = round_up(r->longest, 16)};
    size_t tasks = r->count * s->KV;
    for (size_t i = 0; i < r->count; i++) append(s, in, r->text[i], r->n[i]);
    if (rotates) {
        rotated.q = xmalloc(size_mul(b->M * shape.H, rotated.D * sizeof(real)));
        rotated.k = xmalloc(size_mul(tasks * rotated.size, rotated.D * sizeof(real)));
        rotated.v = xmalloc(size_mul(tasks * rotated.size, s->Dv * sizeof(real)));
        for (size_t i = 0; i < r->count; i++)
            rotate_text(m, &m->layers[l], s, in, &shape, r->text[i], r->n[i], &rotated, i);
    }
    attend(s, in, o, shape, rotates ? &rotated : NULL, r, place);
#pragma omp parallel for schedule(dynamic, 1) if (tasks * r->longest > 4096)
    for (size_t i = 0; i < tasks; i++) {
        size_t text = i / s->KV, g = i % s->KV;
        if (looks) look(s, in, &shape, rotates ? &rotated : NULL, r->text[text], r->n[text], text, g);
        clear_up(s, r->text[text], r->n[text], g);
        seal(s, r->text[text], r->n[text], g);
    }
    free(rotated.q), free(rotated.k), free(rotated.v);
}

void keep_attention(Model *m, size_t l, AttnOutput o, KeepInput in, AttnShape s, const Batch *b) {
    Text *text;
    uint32_t *place;
    Store store = store_of(b, l, &s);
    size_t count = texts_of(b, &text, &place);
    for (;;) {
        Round r = round_of(&store, text, count);
        if (r.count) attend_round(m, l, &store, &in, o, s, &r, place, b);
        for (size_t i = 0; i < r.count; i++) r.text[i]->done += r.n[i];
        free(r.text), free(r.n);
        if (!r.count) break;
    }
    free(text), free(place);
}

// keep.c: see keep.h.
#include "model/keep.h"
#include "kernels/codec.h"
#include "lib/rng.h"
#include "model/layer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool keep_evicts(const KeepOptions *o) { return o->policy != KV_POLICY_full; }
bool keep_seals(const KeepOptions *o) { return o->bits < 16; }
bool keep_is_on(const KeepOptions *o) { return keep_evicts(o) || o->bits < 32 || o->quant != WEIGHTS_none; }
bool keep_alters(const KeepOptions *o) { return keep_evicts(o) || keep_seals(o); }
bool keep_looks(const KeepOptions *o) { return o->policy == KV_POLICY_h2o || o->policy == KV_POLICY_snapkv; }

// ---- how many ------------------------------------------------------------------------------------

static bool once(const KeepOptions *o) {
    return o->policy == KV_POLICY_snapkv || o->policy == KV_POLICY_pool || o->policy == KV_POLICY_oracle;
}

size_t keep_begin(const KeepOptions *o, size_t prompt) {
    size_t begin = o->from ? o->from : prompt;
    return begin ? begin : 1;
}

size_t keep_run(const KeepOptions *o, size_t prompt) {
    return (keep_begin(o, prompt) + o->budget - 1) / o->budget;
}

static size_t of_prompt(const KeepOptions *o, size_t prompt) {
    size_t begin = keep_begin(o, prompt), run = o->policy == KV_POLICY_pool ? keep_run(o, prompt) : 1;
    return smaller((begin + run - 1) / run, o->budget);
}

size_t keep_held(const KeepOptions *o, size_t prompt, size_t length) {
    size_t begin = keep_begin(o, prompt);
    if (!keep_evicts(o) || length < begin) return length;
    return once(o) ? of_prompt(o, prompt) + length - begin : smaller(length, o->budget - 1);
}

size_t keep_most(const KeepOptions *o, size_t prompt, size_t from, size_t to) {
    size_t begin = keep_begin(o, prompt), most = keep_held(o, prompt, from);
    size_t groups = keep_seals(o) ? keep_rounded(o, to) / o->group : 0;      // they stand behind the last of the others
    if (keep_seals(o)) return groups ? keep_recent(o) + groups * keep_sealed(o) : smaller(to, keep_recent(o));
    if (!keep_evicts(o)) return to;
    if (from < begin && smaller(begin, to) > most) most = smaller(begin, to);
    if (to > begin && to > from) {
        size_t last = keep_held(o, prompt, to - 1) + 1;
        most = last > most ? last : most;
    }
    return most;
}

size_t keep_room(const KeepOptions *o, size_t slots) {
    if (!keep_seals(o)) return slots;
    if (slots < keep_recent(o)) return smaller(slots, o->group + o->residual - 1);
    return ((slots - keep_recent(o)) / keep_sealed(o) + 1) * o->group + o->residual - 1;
}

size_t keep_watching(const KeepOptions *o, size_t prompt) {
    return smaller(smaller(KEEP_WATCHED, (o->budget + 1) / 2), keep_begin(o, prompt));
}

bool keep_watches(const KeepOptions *o, size_t prompt, size_t position) {
    size_t begin = keep_begin(o, prompt);
    if (o->policy == KV_POLICY_snapkv)
        return position < begin && position + keep_watching(o, prompt) >= begin && begin > o->budget;
    return o->policy == KV_POLICY_h2o;
}

size_t keep_rounded(const KeepOptions *o, size_t position) {
    if (o->bits >= 16 || position < o->residual) return 0;
    return (position - o->residual) / o->group * o->group;
}

// ---- which ---------------------------------------------------------------------------------------
// Each slot is worth a number, and those that are worth most stay; of equal ones the last.

typedef struct { double worth; size_t slot; } Worth;

static double chance(uint64_t seed, uint32_t position) {
    uint32_t out[4];
    philox(out, seed, RNG_KEEP, position);
    return (double)out[0];
}

// The sum over what stands beside a position, none of the queries that watch (SnapKV, section 4: pooling).
static double smoothed(const real *score, size_t i, size_t end) {
    double sum = 0;
    size_t reach = KEEP_SMOOTH / 2;
    for (size_t j = i > reach ? i - reach : 0; j <= i + reach && j < end; j++) sum += (double)score[j];
    return sum;
}

static double worth_of(const KeepOptions *o, size_t prompt, const uint32_t *at, const real *score, size_t n, size_t i) {
    size_t watching = keep_watching(o, prompt), recent = o->budget / 2 ? o->budget / 2 - 1 : 0;
    switch (o->policy) {
    case KV_POLICY_sink: return at[i] < KEEP_SINKS ? INFINITY : at[i];
    case KV_POLICY_random: return chance(o->seed, at[i]);
    case KV_POLICY_h2o: return i + recent >= n ? INFINITY : (double)score[i];
    case KV_POLICY_snapkv: return i + watching >= n ? INFINITY : smoothed(score, i, n - watching);
    case KV_POLICY_oracle: return at[i] < o->wanted_count && o->wanted[at[i]] ? INFINITY : at[i];
    default: return at[i];
    }
}

static int by_worth(const void *a, const void *b) {
    const Worth *x = a, *y = b;
    if (x->worth != y->worth) return x->worth < y->worth ? 1 : -1;
    return x->slot < y->slot ? 1 : -1;
}
static int by_slot(const void *a, const void *b) {
    const size_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void keep_choose(const KeepOptions *o, size_t prompt, const uint32_t *at, const real *score, size_t n, size_t stays,
                 size_t *which) {
    Worth *all = xmalloc(size_mul(n, sizeof *all));
    for (size_t i = 0; i < n; i++) all[i] = (Worth){worth_of(o, prompt, at, score, n, i), i};
    if (stays + 1 == n) {                                        // after each token that is written: without sorting
        size_t least = 0;
        for (size_t i = 1; i < n; i++) least = by_worth(&all[i], &all[least]) > 0 ? i : least;
        for (size_t i = 0; i < stays; i++) which[i] = i + (i >= least);
    } else {
        qsort(all, n, sizeof *all, by_worth);
        for (size_t i = 0; i < stays; i++) which[i] = all[i].slot;
        qsort(which, stays, sizeof *which, by_slot);
    }
    free(all);
}

// ---- bytes ---------------------------------------------------------------------------------------

CodecRow keep_row(const KeepOptions *o) {
    if (o->quant != WEIGHTS_none) return (CodecRow){CODEC_quant, (QuantFormat)(o->quant - 1)};
    return (CodecRow){o->bits == 16 ? CODEC_bfloat16 : CODEC_whole, 0};
}

// Of a head: a group of tokens, keys along tokens and values along channels.
static size_t bytes_of_keys(const KeepOptions *o, CacheNeed need) {
    return codec_run_bytes((CodecRun){o->bits, o->group, need.k, false});
}
static size_t bytes_of_values(const KeepOptions *o, CacheNeed need) {
    return need.v ? codec_run_bytes((CodecRun){o->bits, o->group, need.v, true}) : 0;
}

void keep_fit(const Model *m, KeepOptions *o) {
    if (!keep_seals(o)) return;
    o->sealed = 0;
    for (size_t l = 0; l < m->c.layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        size_t k = need.k * sizeof(real), v = need.v * sizeof(real);
        size_t keys = k ? (bytes_of_keys(o, need) + k - 1) / k : 0, values = v ? (bytes_of_values(o, need) + v - 1) / v
                                                                              : 0;
        o->sealed = keys > o->sealed ? keys : o->sealed, o->sealed = values > o->sealed ? values : o->sealed;
    }
}

size_t keep_bytes(const Model *m, const KeepOptions *o, size_t prompt, size_t length) {
    size_t bytes = 0, held = keep_held(o, prompt, length), rounded = length ? keep_rounded(o, length - 1) : 0;
    CodecRow row = keep_row(o);
    size_t known = !keep_evicts(o) ? 0 : sizeof(uint32_t) + (keep_looks(o) || o->policy == KV_POLICY_pool ? 4 : 0);
    for (size_t l = 0; l < m->c.layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        size_t pair = row.kind == CODEC_whole ? (need.k + need.v) * sizeof(float)
                                              : codec_row_bytes(row, need.k) + codec_row_bytes(row, need.v);
        size_t runs = rounded ? rounded / o->group * (bytes_of_keys(o, need) + bytes_of_values(o, need)) : 0;
        bytes += need.heads * ((held - rounded) * (pair + known) + runs) + need.state * sizeof(float);
    }
    return bytes;
}

size_t keep_slot_bytes(const Model *m, const KeepOptions *o) {
    size_t bytes = 0, known = keep_evicts(o) ? sizeof(uint32_t) + sizeof(real) : 0;
    for (size_t l = 0; l < m->c.layers; l++) {
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        bytes += need.heads * (codec_row_bytes(keep_row(o), need.k) + codec_row_bytes(keep_row(o), need.v) + known);
    }
    return bytes;
}

// ---- what cannot be ------------------------------------------------------------------------------

const char *keep_refusal(const Model *m, const KeepOptions *o) {
    bool unrotated = o->packed || o->policy == KV_POLICY_pool;
    if (!keep_is_on(o)) return NULL;
    for (size_t l = 0; l < m->c.layers; l++) {
        int attn = m->layers[l].attn;
        if (attn == ATTN_swa) return "layers of --attn swa have a window already, and keep nothing else";
        if (attn != ATTN_mha && attn != ATTN_gqa && attn != ATTN_mla)
            return "recurrent layers keep a state instead of pairs: there is nothing to choose from or to round";
        CacheNeed need = m->layers[l].mixer->cache(&m->layers[l]);
        size_t block = o->quant == WEIGHTS_none ? 1 : quant_block(keep_row(o).format);
        if (need.k % block || need.v % block)
            return "--kv-quant packs each head by itself, whose width must be a number of groups: of 32 numbers, "
                   "with nvfp4 of 64 (with int8 any)";
        if (attn == ATTN_mla && unrotated)
            return "the rotated part of a latent is stored rotated: no means of it, and no rotation by place";
    }
    if (keep_evicts(o) && m->c.pos == POS_alibi)
        return "ALiBi's distances are counted in slots, and where pairs have gone they would be too short";
    if (o->packed && m->c.pos != POS_rope) return "rotations by place (--kv-positions packed) need --pos rope";
    return NULL;
}

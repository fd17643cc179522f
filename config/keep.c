// keep.c: what the section keep.def refuses.
#include "config/keep.h"
#include <stdlib.h>

typedef struct {
#define SECTIONS "config/keep.def"
#include "config/fields.h"
} KeepFlags;
#define SECTIONS "config/keep.def"
#define FLAGS_TARGET KeepFlags
#include "config/rows.h"
static const FlagTable keep_table = {FLAGS_OF_SECTIONS, .program = "", .about = "", .examples = ""};

static size_t least_budget(int policy) {
    return policy == KV_POLICY_full ? 0 : policy == KV_POLICY_sink ? 5 : policy == KV_POLICY_h2o ? 2 : 1;
}

static void refuse(const KeepFlags *f) {
    char name[64];
    const char *policy = flags_value_name(&keep_table.flag[flags_find(&keep_table, "kv_policy")], f->kv_policy, name);
    if (f->kv_budget < least_budget(f->kv_policy))
        usage_error("--kv-policy %s needs --kv-budget, %zu or more pairs for each head; %zu was given", policy,
                    least_budget(f->kv_policy), f->kv_budget);
    if (f->kv_policy != KV_POLICY_full && f->kv_bits > KV_BITS_16)
        usage_error("--kv-policy %s leaves holes in the groups of tokens that --kv-bits 8, 4 and 2 round together; "
                    "choose one of the two, or --kv-bits 16", policy);
    if (f->kv_policy == KV_POLICY_pool && f->kv_bits != KV_BITS_32)
        usage_error("--kv-policy pool makes means of keys and values; leave --kv-bits at 32");
    if (f->kv_policy == KV_POLICY_pool && f->kv_quant != WEIGHTS_none)
        usage_error("--kv-policy pool makes means of keys and values; leave --kv-quant out");
    if (f->kv_quant != WEIGHTS_none && f->kv_bits != KV_BITS_32)
        usage_error("--kv-quant and --kv-bits are two ways to keep a number in few bits; choose one");
}

KeepOptions keep_options(const FlagTable *t, const void *options) {
    static const size_t bits[] = {32, 16, 8, 4, 2};
    KeepFlags f;
    flags_defaults(&keep_table, &f);
    for (size_t i = 0; i < keep_table.count; i++) {
        if (keep_table.flag[i].kind == FLAG_GROUP) continue;
        char *value = flags_get(t, options, flags_find(t, keep_table.flag[i].name));
        flags_set(&keep_table, &f, keep_table.flag[i].name, value);
        free(value);
    }
    refuse(&f);
    return (KeepOptions){.policy = f.kv_policy, .budget = f.kv_budget, .from = f.kv_from,
                         .packed = f.kv_positions == KV_POSITIONS_packed, .seed = f.kv_seed, .bits = bits[f.kv_bits],
                         .group = f.kv_group, .residual = f.kv_residual, .quant = f.kv_quant};
}

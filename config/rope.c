// rope.c: what the section rope.def refuses, and how it overrides that of a model read from a file.
#include "config/config.h"
#include <stdlib.h>
#include <string.h>

#define GROUP(help)
#define SIZE(name, ...) #name,
#define REAL(name, ...) #name,
#define BOOL(name, ...) #name,
#define ENUM(name, ...) #name,
static const char *const section[] = {
#include "config/rope.def"
};

void config_stretch(Config *c, const FlagTable *of, const void *from, size_t trained) {
    if (c->rope_trained) trained = c->rope_trained;      // stretched before: what counts is where that began
    for (size_t i = 0; i < sizeof section / sizeof *section; i++) {
        char *value = flags_get(of, from, flags_find(of, section[i]));
        flags_set(&config_table, c, section[i], value);
        free(value);
    }
    bool counts = c->rope_scaling == ROPE_SCALING_yarn || c->rope_scaling == ROPE_SCALING_llama3 ||
                  c->rope_scaling == ROPE_SCALING_dynamic;
    if (counts && !c->rope_trained) c->rope_trained = trained;
}

void config_note_stretch(const Config *c, const Config *theirs) {
    for (size_t i = 0; i < sizeof section / sizeof *section; i++) {
        size_t flag = flags_find(&config_table, section[i]);
        char *now = flags_get(&config_table, c, flag), *then = flags_get(&config_table, theirs, flag), shown[64];
        if (strcmp(now, then))
            fprintf(stderr, "note     --%s %s takes the place of the %s of the model in %s\n",
                    flags_shown(section[i], shown), now, then, c->load);
        free(now), free(then);
    }
}

static void refuse_yarn(const Config *c) {
    if (c->rope_beta_fast < c->rope_beta_slow)
        usage_error("--rope-beta-fast %g turns are fewer than --rope-beta-slow %g", c->rope_beta_fast,
                    c->rope_beta_slow);
    if (c->rope_theta == 1)
        usage_error("--rope-theta 1 lets all pairs turn alike, so that --rope-scaling yarn cannot tell fast from slow");
    if (c->rope_mscale > 0 && c->rope_mscale_all_dim == 0)
        usage_error("--rope-mscale has no effect without --rope-mscale-all-dim; give that, or leave it out");
    if (c->rope_mscale > 0 && c->rope_attention_factor > 0)
        usage_error("--rope-mscale has no effect beside --rope-attention-factor, which it stands for; leave one out");
    for (size_t l = 0; l < c->layers && c->rope_mscale == 0 && c->rope_mscale_all_dim > 0; l++) {
        if (pattern_at(&c->attn, l) == ATTN_mla) break;
        if (l + 1 == c->layers)
            usage_error("--rope-mscale-all-dim has no effect without --rope-mscale or a layer of --attn mla");
    }
}

void config_resolve_rope(const Config *c) {
    if (c->rope_scaling == ROPE_SCALING_none) return;
    char *kind = flags_get(&config_table, c, flags_find(&config_table, "rope_scaling"));
    bool linear_or_ntk = c->rope_scaling == ROPE_SCALING_linear || c->rope_scaling == ROPE_SCALING_ntk;
    if (c->pos != POS_rope)
        usage_error("--rope-scaling %s slows down the rotations of --pos rope, and there are none; leave it out", kind);
    if (!linear_or_ntk && !c->rope_trained)
        usage_error("--rope-scaling %s needs --rope-trained, the tokens of a row before rotations were slowed down",
                    kind);
    if (c->rope_scaling == ROPE_SCALING_yarn) refuse_yarn(c);
    if (c->rope_scaling == ROPE_SCALING_llama3 && c->rope_high_freq <= c->rope_low_freq)
        usage_error("--rope-high-freq %g is not above --rope-low-freq %g; between them is a ramp", c->rope_high_freq,
                    c->rope_low_freq);
    // Beyond them, the frequencies of Hugging Face's "dynamic" follow from the longest text that was seen so far: the
    // numbers of a token would depend on how a text was cut into forward passes. Up to them it is plain RoPE.
    if (c->rope_scaling == ROPE_SCALING_dynamic && c->context > c->rope_trained)
        usage_error("--context %zu is beyond the --rope-trained %zu of --rope-scaling dynamic, whose rotations there "
                    "depend on how a text is cut; give --rope-scaling ntk or yarn", c->context, c->rope_trained);
    free(kind);
}

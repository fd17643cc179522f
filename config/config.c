// config.c: the table of flags that train.def expands to, the presets, and what is refused whatever section it is of.
// Nothing here knows how a model computes.
#include "config/config.h"
#include "config/widths.h"
#include <string.h>

#define SECTIONS "config/train.def"
#define FLAGS_TARGET Config
#include "config/rows.h"

static const Preset presets[] = {
    {"shakespeare",
     "--tokenizer char --layers 4 --heads 4 --width 128 --context 64 --batch 12 --pos learned --norm-kind layer "
     "--ffn gelu --steps 2000 --lr 2e-3 --min-lr 2e-4 --warmup 100 --beta2 0.99 --eval-every 250",
     "nanoGPT's small CPU setting for tiny Shakespeare, at twice its learning rate; give the text with --data FILE"},
    {"gpt2", "--pos learned --norm-kind layer --ffn gelu --bias 1", "a small GPT-2 (Radford et al. 2019)"},
    {"llama", "--attn gqa --kv-heads 2 --tie 0",
     "a small Llama (Touvron et al. 2023), with grouped queries as in Llama 2 70B and Llama 3"},
    {"olmo2", "--norm out --qk-norm full --tie 0", "a small OLMo 2 (OLMo 2, 2025): norms on the branch outputs"},
    {"mixtral", "--attn gqa --kv-heads 2 --tie 0 --experts 8 --top-k 2 --expert-width 128 --aux-loss 0.02",
     "a small Mixtral (Jiang et al. 2024): eight experts, two per token"},
    {"deepseek",
     "--attn mla --kv-rank 64 --rope-dim 16 --nope-dim 32 --v-dim 32 --tie 0 --experts 16 --top-k 4 --shared-experts 1 "
     "--expert-width 64 --first-dense 1 --gate sigmoid --router bias --aux-loss 0.0001",
     "a small DeepSeek-V3 (2024): latent attention, fine experts, balance by bias"},
};

const FlagTable config_table = {
    FLAGS_OF_SECTIONS,
    .translate = widths_translate,
    .preset = presets,
    .presets = sizeof presets / sizeof presets[0],
    .program = "./train [--name value]...",
    .about =
        "Trains a GPT whose whole architecture is flags, and leaves a directory that proves what happened.\n"
        "With no flags: a small model learns the language of `stories`, whose best possible loss is known.\n"
        "The same commit, flags and seed give the same digest on every machine. Ctrl-C saves; the same\n"
        "command resumes.",
    .examples = "  ./train                                          the default model, about a minute on two cores\n"
                "  ./train --attn mla --kv-rank 32                  latent attention instead of full heads\n"
                "  ./train --preset mixtral --steps 300             an architecture by name, one flag changed\n"
                "  ./train --data input.txt --preset shakespeare    your own text\n"
                "  ./train --layers 24 --norm post --dry-run        how large would that be?\n"
                "  ./train --verify runs/NAME                       does it give the same bits here and now?\n",
};

// ---- what is refused -----------------------------------------------------------------------------
// Of the flags that belong to another --data, even one that stands at its default is a mistake. The others may stand
// there, so that `--experts 0 --top-k 2` can be an arm of a sweep beside `--experts 4 --top-k 2`.
void config_refuse_unused(const Config *c, const bool *given) {
    for (size_t i = 0; i < config_table.count; i++) {
        const char *needs = config_table.flag[i].needs;
        bool of_data = needs && strncmp(needs, "data ", 5) == 0;
        bool is_set = (given && given[i] && of_data) || !flags_is_default(&config_table, c, i);
        if (is_set) flags_refuse_unused(&config_table, c, i);
    }
}

// A pattern repeats over the layers; what is beyond them would never be built.
void config_refuse_long_pattern(const Config *c, const char *flag, const Pattern *p) {
    if (p->count > c->layers)
        usage_error("--%s has %d entries, but there are only --layers %zu; shorten it, or give more layers", flag,
                    p->count, c->layers);
}

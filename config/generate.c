// generate.c: the table of flags that generate.def expands to.
#include "config/generate.h"
#include "config/widths.h"

#define SECTIONS "config/generate.def"
#define FLAGS_TARGET GenerateOptions
#include "config/rows.h"

const FlagTable generate_table = {
    FLAGS_OF_SECTIONS,
    .translate = widths_translate,
    .program = "./generate [--name value]...",
    .about = "Continues a text with the model of a run, token by token from a cache of keys and values.\n"
             "Text goes to stdout as it comes, the speed of reading (prefill) and writing (decode) to stderr.\n"
             "The same run, prompt, seed and flags give the same text on every machine. Ctrl-C ends it early.",
    .examples = "  ./generate                                          the newest run, from where its data starts\n"
                "  ./generate --run runs/NAME --prompt \"ROMEO:\"        your own beginning\n"
                "  ./generate --temperature 0 --tokens 50              no chance: the most probable token each time\n"
                "  ./generate --prompt \"The cat\" --samples 4           four texts, side by side\n"
                "  ./generate --sample-top-k 40 --top-p 0.9 --seed 7   leave the tail of the distribution out\n"
                "  ./generate --draft lookup                           the same text, in fewer steps\n"
                "  ./generate --kv-policy sink --kv-budget 64          of the past, the first 4 and the last tokens\n"
                "  ./generate --tokens 500 --rope-scaling yarn          beyond the trained context\n"
                "  ./generate --prompt \"The cat\" --picture maps.png    which token looks at which\n",
};

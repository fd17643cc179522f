// quantize.c: the table of flags that quantize.def expands to.
#include "config/quantize.h"

#define SECTIONS "config/quantize.def"
#define FLAGS_TARGET QuantizeOptions
#include "config/rows.h"

const FlagTable quantize_table = {
    FLAGS_OF_SECTIONS,
    .program = "./quantize RUN FORMAT -o FILE",
    .about = "Writes a run or a checkpoint as GGUF, which llama.cpp and its kin open: weights, sizes and tokenizer in\n"
             "one file. ./generate, ./serve and ./train --load read it back as they read a directory. Architectures\n"
             "that llama.cpp computes as we do are written, and others refused, with what would have to differ.",
    .examples = "  ./quantize runs/NAME f16 -o model.gguf              half of the bytes\n"
                "  ./quantize CHECKPOINT f32 -o model.gguf             no bit of it lost\n"
                "  ./generate --run model.gguf --prompt \"The cat\"      and back\n"
                "  llama-cli -m model.gguf -p \"The cat\" -n 50          the same elsewhere\n",
};

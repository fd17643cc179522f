// serve.c: the table of flags that serve.def expands to.
#include "config/serve.h"
#include "config/widths.h"

#define SECTIONS "config/serve.def"
#define FLAGS_TARGET ServeOptions
#include "config/rows.h"

const FlagTable serve_table = {
    FLAGS_OF_SECTIONS,
    .translate = widths_translate,
    .program = "./serve [--name value]...",
    .about = "Requests through the scheduler and the pool of blocks: by a model, in the time that it takes (--run),\n"
             "or on an event clock, where steps take what a table of measured costs says and no weights are needed;\n"
             "or by HTTP, as OpenAI's interface has it (--port), with a page that shows the engine at work.\n"
             "Prints a receipt, and writes a line per request. What a request gets depends on weights, prompt,\n"
             "sampling and seed alone: not on the others, on blocks, budget, preemption, or threads.",
    .examples = "  ./serve --run runs/NAME --port 8000                 a server: curl, openai, lm-eval, vllm bench\n"
                "  ./serve --run runs/NAME --requests 50 --rate 20     answers of a model, as fast as they come\n"
                "  ./serve --requests 1000 --rate 2                     Poisson arrivals\n"
                "  ./serve --arrivals closed --clients 32              the next request when one has ended\n"
                "  ./serve --trace conv.csv --time-scale 10            arrivals and lengths of a public trace\n"
                "  ./serve --admit chunk --watermark 0 --blocks 512    preempting more than working\n",
};

// serve.c: the table of flags that serve.def expands to.
#include "config/serve.h"

#define SECTIONS "config/serve.def"
#define FLAGS_TARGET ServeOptions
#include "config/rows.h"

const FlagTable serve_table = {
    FLAGS_OF_SECTIONS,
    .program = "./serve [--name value]...",
    .about = "Requests through the scheduler and the pool of blocks, on an event clock: steps take the time that a\n"
             "table of measured costs says, no weights are needed. Prints a receipt, and writes a line per request.",
    .examples = "  ./serve --requests 1000 --rate 2                     Poisson arrivals\n"
                "  ./serve --arrivals closed --clients 32              the next request when one has ended\n"
                "  ./serve --trace conv.csv --time-scale 10            arrivals and lengths of a public trace\n"
                "  ./serve --admit chunk --watermark 0 --blocks 512    preempting more than working\n",
};

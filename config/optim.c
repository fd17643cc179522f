// optim.c: what the section optim.def derives and refuses.
#include "config/config.h"
#include <stdlib.h>

// As one would write it: 3e-3 gives 0.0003, where a division gives 0.00030000000000000003.
static double tenth(double x) {
    char text[32];
    snprintf(text, sizeof text, "%.15g", x / 10);
    return strtod(text, NULL);
}

void config_resolve_optim(Config *c) {
    if (!c->micro_batch) c->micro_batch = c->batch;
    if (c->min_lr == -1) c->min_lr = tenth(c->lr);
    if (c->micro_batch > c->batch)
        usage_error("--micro-batch %zu is more than the --batch %zu it is a part of", c->micro_batch, c->batch);
    if (c->min_lr < 0) usage_error("--min-lr %g is negative; give 0 or more, or -1 for a tenth of --lr", c->min_lr);
    if (c->min_lr > c->lr) usage_error("--min-lr %g is above --lr %g; the schedule only goes down", c->min_lr, c->lr);
}

// Not among what config_resolve refuses, which is called for models too that have been trained so.
void config_refuse_jump(const Config *c) {
    double start = (double)c->steps - c->decay * (double)c->steps;
    bool decays = c->schedule == SCHEDULE_wsd && c->warmup < c->steps && c->min_lr < c->lr;
    if (decays && (double)c->warmup > start + 1)
        usage_error("--warmup %zu reaches into the decay of --schedule wsd, which begins after step %.0f (--decay %g "
                    "of --steps %zu): the learning rate would jump down; shorten one of them", c->warmup, start,
                    c->decay, c->steps);
}

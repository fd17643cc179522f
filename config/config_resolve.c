// config_resolve.c: the order in which the sections fill in what 0 leaves to be derived, and refuse combinations, each
// with its reason.
#include "config/config.h"

static void resolve_run(Config *c) {
    if (!c->eval_every) c->eval_every = c->steps >= 10 ? c->steps / 10 : 1;
    if (!c->save_every) c->save_every = c->eval_every;
}

void config_resolve(Config *c) {
    config_drop_unused_rotation(c);     // first: what --pos is decides what has an effect
    config_refuse_unused(c, NULL);
    config_resolve_model(c);
    config_resolve_rope(c);
    config_resolve_optim(c);
    config_resolve_moe(c);              // after them: pools need the rows of a micro-batch
    resolve_run(c);
}

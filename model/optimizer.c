// optimizer.c: see optimizer.h.
#include "model/optimizer.h"
#include "model/layer.h"
#include <stdlib.h>

Optimizer optimizer_new(const Model *m) {
    Optimizer o = {.row = xmalloc(m->count * sizeof *o.row)};
    for (size_t i = 0; i < m->count; i++) {
        const Param *p = &m->params[i];
        if (p->trained) o.row[o.rows++] = (OptimRow){p->offset, p->size, p->decay};
    }
    o.mean = xmalloc(size_mul(m->total, 2 * sizeof(real))), o.square = o.mean + m->total;
    return o;
}
void optimizer_free(Optimizer *o) { free(o->row), free(o->mean); }

double optimizer_norm(const Optimizer *o, Model *m) { return optim_norm(o->row, o->rows, m->gradients); }

_Static_assert((int)SCHEDULE_cosine == LR_COSINE && (int)SCHEDULE_linear == LR_LINEAR &&
                   (int)SCHEDULE_wsd == LR_WSD && (int)SCHEDULE_constant == LR_CONSTANT,
               "the flag's values are those of kernels/optim.h");
static Schedule schedule_of(const Config *c, size_t steps) {
    return (Schedule){(ScheduleKind)c->schedule, c->lr, c->min_lr, c->decay, c->warmup, steps};
}

// Whether weights are still exact after `done` of so many steps.
static bool is_exact(const Config *c, size_t steps, size_t done) { return (double)done < c->qat_start * (double)steps; }

size_t optimizer_same_rates(const void *config, size_t steps, size_t others, size_t upto) {
    const Schedule one = schedule_of(config, steps), other = schedule_of(config, others);
    size_t step = 0;
    const Config *c = config;
    while (step < upto && optim_lr(&one, step) == optim_lr(&other, step) &&
           is_exact(c, steps, step + 1) == is_exact(c, others, step + 1))
        step++;
    return step;
}

double optimizer_step(Optimizer *o, Model *m, double norm, size_t step) {
    const Config *c = &m->c;
    const Schedule schedule = schedule_of(c, c->steps);
    const AdamW adamw = {optim_lr(&schedule, step), c->beta1, c->beta2, c->eps, c->weight_decay};
    optim_adamw(o->row, o->rows, m->master, m->gradients, o->mean, o->square, optim_clip_scale(norm, c->clip), adamw,
                step + 1);
    return adamw.lr;
}

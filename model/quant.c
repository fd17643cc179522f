// quant.c: see quant.h.
#include "model/quant.h"
#include <string.h>

bool model_is_quantised(const Param *p, bool embed) {
    bool is_table = !strcmp(p->name, "embed.weight") || !strcmp(p->name, "head.weight");
    if (p->layer < 0) return embed && is_table;
    return p->rank >= 2 && p->trained && !strstr(p->name, ".router.") && !strstr(p->name, ".conv.");
}

Quantised model_quantise(Model *m, Quant q, bool embed) {
    Quantised done = {0};
    const Param *p;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        real *w = model_values(m) + p[i].offset;
        size_t columns = p[i].shape[p[i].rank - 1], rows = p[i].size / (columns ? columns : 1);
        if (!model_is_quantised(&p[i], embed)) {
            done.others += p[i].size;
            continue;
        }
        quant_round(q, w, w, rows, columns);
        done.tensors++, done.weights += p[i].size, done.bytes += rows * quant_row_bytes(q.format, columns);
    }
    model_changed(m);
    return done;
}

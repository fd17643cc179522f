// quant.c: the section quant.def of a model that is read from a file.
#include "config/config.h"
#include <stdlib.h>

#define GROUP(help)
#define BOOL(name, ...) #name,
#define ENUM(name, ...) #name,
const char *const config_rounding[] = {
#include "config/quant.def"
    NULL,
};

void config_round(Config *c, const FlagTable *of, const void *from) {
    for (const char *const *name = config_rounding; *name; name++) {
        char *value = flags_get(of, from, flags_find(of, *name));
        flags_set(&config_table, c, *name, value);
        free(value);
    }
}

bool config_rounds_alike(const Config *a, const Config *b) {
    return a->quant == b->quant && a->mx_scale == b->mx_scale && a->quant_search == b->quant_search &&
           a->hadamard == b->hadamard;
}

void config_forget_rounding(Config *c) {
    for (const char *const *name = config_rounding; *name; name++)
        flags_set(&config_table, c, *name, config_table.flag[flags_find(&config_table, *name)].default_text);
    flags_set(&config_table, c, "qat_start", "0");
}

// quant.c: the section quant.def of a model that is read from a file.
#include "config/config.h"
#include <stdlib.h>

#define GROUP(help)
#define BOOL(name, ...) #name,
#define ENUM(name, ...) #name,
static const char *const section[] = {
#include "config/quant.def"
};

static void set(Config *c, size_t i, const char *value) { flags_set(&config_table, c, section[i], value); }

void config_round(Config *c, const FlagTable *of, const void *from) {
    for (size_t i = 0; i < sizeof section / sizeof *section; i++) {
        char *value = flags_get(of, from, flags_find(of, section[i]));
        set(c, i, value);
        free(value);
    }
}

void config_forget_rounding(Config *c) {
    for (size_t i = 0; i < sizeof section / sizeof *section; i++)
        set(c, i, config_table.flag[flags_find(&config_table, section[i])].default_text);
    flags_set(&config_table, c, "qat_start", "0");
}

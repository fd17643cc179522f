// config.h: a Config from flags in one string, as tests write them.
#ifndef TEST_CONFIG_H
#define TEST_CONFIG_H
#include "config/config.h"
#include <stdlib.h>

// Parsed and resolved. Flags of `flags` win over those of `base`, which come first. vocab: 0 for what --vocab says.
static inline Config config_of(const char *base, const char *flags, size_t vocab) {
    Config c;
    char *text = xprintf("%s %s", base, flags);
    flags_parse_text(&config_table, &c, text, NULL);
    if (vocab) c.vocab = vocab;
    config_resolve(&c);
    free(text);
    return c;
}
#endif

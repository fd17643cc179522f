// config.h: a Config from flags in one string, as tests write them.
#ifndef TEST_CONFIG_H
#define TEST_CONFIG_H
#include "config/config.h"
#include "tests/test.h"

// Flags of `flags` win over those of `base`, which come first.
static inline Config config_of(const char *base, const char *flags, size_t vocab) {
    Config c;
    char copy[2048], *argv[256] = {"test"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s %s", base, flags);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    flags_defaults(&config_table, &c);
    flags_parse(&config_table, &c, argc, argv, NULL);
    c.vocab = vocab;
    config_resolve(&c);
    return c;
}
#endif

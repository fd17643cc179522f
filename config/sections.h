// sections.h: what the sections of a Config do when it is resolved, each in the .c of its name. Only for config/.
#ifndef SECTIONS_H
#define SECTIONS_H
#include "config/config.h"

// Each fills in what 0 leaves to be derived, then refuses what cannot be (usage_error).
void config_resolve_model(Config *c);
void config_resolve_moe(Config *c);
void config_resolve_optim(Config *c);

void config_drop_unused_rotation(Config *c);    // model.c: --pos rope, where no layer has anything to rotate
void config_refuse_long_pattern(const Config *c, const char *flag, const Pattern *p);   // config.c
#endif

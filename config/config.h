// config.h: the configuration of a training run, as plain data: the sections of train.def, flat, so that code says
// c->layers. A section that derives values or refuses combinations has a .h and a .c beside its .def.
#ifndef CONFIG_H
#define CONFIG_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
#define SECTIONS "config/train.def"
#include "config/fields.h"
} Config;

extern const FlagTable config_table;

// Refuses a flag that has no effect beside the others (usage_error): silently ignored, it would mislead. given:
// as from flags_parse, or NULL.
void config_refuse_unused(const Config *c, const bool *given);
// Fills in every value that 0 leaves to be derived, then refuses impossible combinations with the
// reason (usage_error). Call it once, after flags_parse and after config.vocab is known from the data.
void config_resolve(Config *c);
void config_refuse_long_pattern(const Config *c, const char *flag, const Pattern *p);   // beyond the last layer

#include "config/model.h"
#include "config/moe.h"
#include "config/optim.h"
#include "config/quant.h"
#include "config/rope.h"
#endif

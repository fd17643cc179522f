// quant.h: what follows from the section quant.def.
#ifndef CONFIG_QUANT_H
#define CONFIG_QUANT_H
#include "config/config.h"

// The section of another table takes the place of c's: a model that was read from a file is to be rounded.
void config_round(Config *c, const FlagTable *of, const void *from);
// Of a run that is read from its files: their numbers have been rounded already.
void config_forget_rounding(Config *c);
#endif

// quant.h: what follows from the section quant.def.
#ifndef CONFIG_QUANT_H
#define CONFIG_QUANT_H
#include "config/config.h"

extern const char *const config_rounding[];    // the names of the section; NULL ends them
// The section of another table takes the place of c's: a model that was read from a file is to be rounded.
void config_round(Config *c, const FlagTable *of, const void *from);
// Whether both make the same numbers of a matrix that both round.
bool config_rounds_alike(const Config *a, const Config *b);
// Of a run that is read from its files: their numbers have been rounded already.
void config_forget_rounding(Config *c);
#endif

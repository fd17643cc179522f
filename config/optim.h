// optim.h: what follows from the section optim.def.
#ifndef CONFIG_OPTIM_H
#define CONFIG_OPTIM_H
#include "config/config.h"

void config_resolve_optim(Config *c);               // for config_resolve
#endif

// optim.h: what follows from the section optim.def.
#ifndef CONFIG_OPTIM_H
#define CONFIG_OPTIM_H
#include "config/config.h"

void config_resolve_optim(Config *c);               // for config_resolve
void config_refuse_jump(const Config *c);           // of a training that begins: a warm-up that reaches into the decay
#endif

// generate.h: the flags of ./generate, as plain data: the sections of generate.def.
#ifndef GENERATE_H
#define GENERATE_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
#define SECTIONS "config/generate.def"
#include "config/fields.h"
} GenerateOptions;

extern const FlagTable generate_table;
#endif

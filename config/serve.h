// serve.h: the flags of ./serve, as plain data: the sections of serve.def.
#ifndef SERVE_H
#define SERVE_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
#define SECTIONS "config/serve.def"
#include "config/fields.h"
} ServeOptions;

extern const FlagTable serve_table;
#endif

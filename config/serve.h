// serve.h: the flags of ./serve, as plain data: the sections of serve.def.
#ifndef SERVE_H
#define SERVE_H
#include "config/flags.h"
#include "config/values.h"
#include <string.h>

typedef struct {
#define SECTIONS "config/serve.def"
#include "config/fields.h"
} ServeOptions;

extern const FlagTable serve_table;
void serve_refuse(const ServeOptions *o, const bool *given);       // flags that would have no effect beside others

static inline bool serve_has_model_draft(const ServeOptions *o) { return *o->draft && strcmp(o->draft, "lookup") != 0; }
static inline bool serve_guesses_what_pays(const ServeOptions *o) { return *o->draft && !strcmp(o->gamma, "auto"); }
static inline bool serve_is_closed(const ServeOptions *o) { return o->arrivals == ARRIVALS_closed && !*o->trace; }
#endif

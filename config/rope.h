// rope.h: what follows from the section rope.def.
#ifndef CONFIG_ROPE_H
#define CONFIG_ROPE_H
#include "config/config.h"

// Replaces the section by that of another struct, whose table is `of`: what --rope-scaling on the command line does to
// a model that is read from a file. trained: the context of that model, for where neither says --rope-trained; 0: not
// known.
void config_stretch(Config *c, const FlagTable *of, const void *from, size_t trained);
// Notes on stderr, a line per flag, what it made of those of the model in c->load.
void config_note_stretch(const Config *c, const Config *theirs);

void config_resolve_rope(const Config *c);          // for config_resolve
#endif

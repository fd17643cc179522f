// widths.h: --weight-bits and --group, which are other words for some of --quant's formats.
#ifndef WIDTHS_H
#define WIDTHS_H
#include "config/flags.h"

// Both become the --quant that they name, in any table that has the section quant.def: a FlagTable.translate.
// usage_error() where --quant is given, too, or no format has such groups.
void widths_translate(const FlagTable *t, void *target, bool *given);
#endif

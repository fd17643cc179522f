// quantize.h: the flags of ./quantize, as plain data.
#ifndef QUANTIZE_H
#define QUANTIZE_H
#include "config/flags.h"
#include "config/values.h"

typedef struct {
#define SECTIONS "config/quantize.def"
#include "config/fields.h"
} QuantizeOptions;

extern const FlagTable quantize_table;
#endif

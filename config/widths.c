// widths.c: see widths.h.
#include "config/widths.h"
#include <stdlib.h>
#include <string.h>

// Of a width the format whose scale follows from the largest number of a group: GGUF's where it has one.
static const char *format_of(const char *bits, bool rows) {
    if (!strcmp(bits, "8")) return rows ? "int8" : "q8_0";
    if (rows)
        usage_error("--group row: only --weight-bits 8 has one scale for a row; with %s bits 32 weights share one "
                    "(--group 32)", bits);
    return !strcmp(bits, "4") ? "q4_0" : !strcmp(bits, "3") ? "int3" : "int2";
}

void widths_translate(const FlagTable *t, void *target, bool *given) {
    size_t bits = flags_find(t, "weight_bits"), group = flags_find(t, "group"), quant = flags_find(t, "quant");
    if (!flags_is_default(t, target, group)) flags_refuse_unused(t, target, group);
    if (flags_is_default(t, target, bits)) return;
    char *width = flags_get(t, target, bits);
    const char *format = format_of(width, !flags_is_default(t, target, group));
    if (!flags_is_default(t, target, quant))
        usage_error("--weight-bits %s is another way to say --quant %s: give one of them", width, format);
    flags_set(t, target, "quant", format);
    flags_set(t, target, "weight_bits", t->flag[bits].default_text);
    flags_set(t, target, "group", t->flag[group].default_text);
    if (given) given[quant] = true, given[bits] = given[group] = false;
    free(width);
}

// strings.h: byte strings, numbered in the order in which they were added, and found again by a hash table.
#ifndef STRINGS_H
#define STRINGS_H
#include "lib/util.h"

typedef struct {
    char *bytes; size_t used, capacity;               // all strings, one after the other
    size_t *offset, count, offset_capacity;           // string i is bytes[offset[i] .. offset[i+1]-1]
    uint32_t *slot; size_t slots;                     // open addressing: number + 1, or 0; slots is a power of two
} Strings;                                            // {0} is empty

size_t strings_find(const Strings *s, const char *bytes, size_t length);   // the first equal one, or SIZE_MAX
size_t strings_add(Strings *s, const char *bytes, size_t length);          // its number; an equal one stays the first
const char *strings_get(const Strings *s, size_t number, size_t *length);  // valid until the next strings_add
void strings_free(Strings *s);
#endif

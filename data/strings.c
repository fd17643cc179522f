// strings.c: one block of bytes, the offsets into it, and a hash table with linear probing.
#include "data/strings.h"
#include <stdlib.h>
#include <string.h>

const char *strings_get(const Strings *s, size_t number, size_t *length) {
    *length = s->offset[number + 1] - s->offset[number];
    return s->bytes + s->offset[number];
}

// The slot of a string, or the empty one where it belongs.
static size_t find_slot(const Strings *s, const char *bytes, size_t length) {
    size_t i = (size_t)hash_bytes(HASH_START, bytes, length) & (s->slots - 1);
    for (; s->slot[i]; i = (i + 1) & (s->slots - 1)) {
        size_t other;
        const char *found = strings_get(s, s->slot[i] - 1, &other);
        if (other == length && memcmp(found, bytes, length) == 0) break;
    }
    return i;
}

size_t strings_find(const Strings *s, const char *bytes, size_t length) {
    if (!s->slots) return SIZE_MAX;
    size_t i = find_slot(s, bytes, length);
    return s->slot[i] ? s->slot[i] - 1 : SIZE_MAX;
}

static void grow(Strings *s) {
    s->offset_capacity = s->offset_capacity ? size_mul(s->offset_capacity, 2) : 256;
    s->offset = xrealloc(s->offset, size_mul(s->offset_capacity + 1, sizeof *s->offset));
    if (s->count == 0) s->offset[0] = 0;
    free(s->slot);
    s->slots = 2 * s->offset_capacity;
    s->slot = xmalloc(size_mul(s->slots, sizeof *s->slot));
    for (size_t number = s->count; number-- > 0;) {  // backwards: the first of two equal ones is kept
        size_t length;
        const char *bytes = strings_get(s, number, &length);
        s->slot[find_slot(s, bytes, length)] = (uint32_t)number + 1;
    }
}

size_t strings_add(Strings *s, const char *bytes, size_t length) {
    if (s->count == UINT32_MAX) fail("more than %u byte strings", UINT32_MAX);
    if (s->count == s->offset_capacity) grow(s);
    if (s->used + length >= s->capacity) s->bytes = xrealloc(s->bytes, s->capacity = 2 * (s->capacity + length) + 1024);
    memcpy(s->bytes + s->used, bytes, length);
    s->used += length;
    s->offset[s->count + 1] = s->used;
    size_t slot = find_slot(s, bytes, length);
    if (!s->slot[slot]) s->slot[slot] = (uint32_t)s->count + 1;
    return s->count++;
}

void strings_free(Strings *s) {
    free(s->bytes), free(s->offset), free(s->slot);
    *s = (Strings){0};
}

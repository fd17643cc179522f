// unicode.h: what Unicode says about a character: its general category, whether it is white space, and the composed
// form NFC. Tables from unicode.def, which unicode.py writes.
#ifndef UNICODE_H
#define UNICODE_H
#include "lib/util.h"

// The general categories (Unicode Standard Annex 44, table 12), those of one group together: L, M, N, P, S, Z, C.
#define UNICODE_CATEGORIES(X)                                                                                   \
    X(Lu) X(Ll) X(Lt) X(Lm) X(Lo) X(Mn) X(Mc) X(Me) X(Nd) X(Nl) X(No) X(Pc) X(Pd) X(Ps) X(Pe) X(Pi) X(Pf) X(Po) \
    X(Sm) X(Sc) X(Sk) X(So) X(Zs) X(Zl) X(Zp) X(Cc) X(Cf) X(Cs) X(Co) X(Cn)
enum {
#define X(name) UNICODE_##name,
    UNICODE_CATEGORIES(X)
#undef X
    UNICODE_SPACE                                       // not a category: the property White_Space
};

// 1 << UNICODE_x of the category of a character (below 0x110000), and 1 << UNICODE_SPACE if it is white space.
uint32_t unicode_classes(uint32_t code);
// The classes of a name as in \p{L} or \p{Lu}; 0: none that we know.
uint32_t unicode_class_named(const char *name, size_t length);

uint32_t utf8_code(const char *text, size_t length);    // of the character that takes these bytes
size_t utf8_put(char out[4], uint32_t code);            // its bytes; how many
// The composed form of valid UTF-8 (Unicode Standard Annex 15), malloc'd; NULL: the text has it already.
char *unicode_nfc(const char *text, size_t bytes, size_t *length);
#endif

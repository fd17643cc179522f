// text.h: UTF-8, and what may be shown of a text that we did not write: what a model says, names in files.
#ifndef TEXT_H
#define TEXT_H
#include <stddef.h>
#include <stdio.h>

// Length of the character at the start of the text, 0 where there is none (RFC 3629, section 4).
size_t utf8_length(const char *text, size_t bytes);
// The position of the first byte that is not UTF-8 (overlong forms and surrogates are not), or `bytes`.
size_t utf8_valid_length(const char *text, size_t bytes);
size_t utf8_next(const char *text, size_t at, size_t bytes);     // the first place from `at` on that starts a character

// Length of what stands at the start of the text (bytes > 0) and is not to be shown: a control character, which a
// terminal obeys (C0, DELETE, and C1: U+0080 to U+009F), or a byte that is not UTF-8 (0x9b alone is obeyed too).
// 0: a character that is shown as it is.
size_t text_control(const char *text, size_t bytes);
// Writes a text with U+FFFD for everything that is not to be shown, but for tabs and newlines.
void text_print(FILE *out, const char *text, size_t bytes);
// A text on one line: \n for a newline, \x1b for a byte that is not to be shown. Cut to what `size`, 8 or more, holds.
void text_escape(char *out, size_t size, const char *text, size_t bytes);
#endif

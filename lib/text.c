// text.c: UTF-8, and what a terminal is shown of texts that others wrote.
#include "lib/text.h"
#include <stdbool.h>
#include <string.h>

// ---- UTF-8 -------------------------------------------------------------------------------------
size_t utf8_length(const char *text, size_t bytes) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] < 0xC2 || p[0] > 0xF4 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (n == 0 || n > bytes) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    bool overlong = (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xF0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xED && p[1] >= 0xA0, too_high = p[0] == 0xF4 && p[1] >= 0x90;
    return overlong || surrogate || too_high ? 0 : n;
}

size_t utf8_valid_length(const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t n; at < bytes && (n = utf8_length(text + at, bytes - at)) > 0;) at += n;
    return at;
}

size_t utf8_next(const char *text, size_t at, size_t bytes) {
    while (at < bytes && ((unsigned char)text[at] & 0xC0) == 0x80) at++;
    return at;
}

// ---- showing -----------------------------------------------------------------------------------
size_t text_control(const char *text, size_t bytes) {
    size_t n = utf8_length(text, bytes);
    unsigned char c = (unsigned char)text[0];
    bool c1 = n == 2 && c == 0xC2 && (unsigned char)text[1] < 0xA0;
    return n == 0 ? 1 : c < 32 || c == 127 || c1 ? n : 0;
}

void text_print(FILE *out, const char *text, size_t bytes) {
    for (size_t n; bytes; text += n, bytes -= n) {
        n = text_control(text, bytes);
        if (n && *text != '\n' && *text != '\t') fputs("\xEF\xBF\xBD", out);
        else fwrite(text, 1, n = utf8_length(text, bytes), out);
    }
}

void text_escape(char *out, size_t size, const char *text, size_t bytes) {
    char *end = out + size - 5;                 // room for one character more, of at most 4 bytes, and the end
    for (size_t n; bytes && out < end; text += n, bytes -= n) {
        n = 1;
        if (*text == '\n') out += snprintf(out, 3, "\\n");
        else if (text_control(text, bytes)) out += snprintf(out, 5, "\\x%02x", (unsigned char)*text);
        else n = utf8_length(text, bytes), memcpy(out, text, n), out += n;
    }
    *out = '\0';
}

// tokenizer.c: the kinds of tokenizer. Byte-pair merges are in bpe.c, those of others in bytelevel.c, files in
// tokenizer_file.c.
#include "data/tokenizer_inside.h"
#include "data/unicode.h"
#include <inttypes.h>
#include <stdlib.h>

// ---- making them -------------------------------------------------------------------------------
Tokenizer *tokenizer_byte(void) {
    Tokenizer *t = tokenizer_make("byte", 256);
    for (int c = 0; c < 256; c++) strings_add(&t->token, &(char){(char)c}, 1);
    return t;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// UTF-8 sorts by bytes as by code. A NUL sorts first either way, being the shortest text.
Tokenizer *tokenizer_char(const char *text, size_t bytes) {
    Strings seen = {0};
    for (size_t at = 0, n; at < bytes; at += n) {
        n = utf8_length(text + at, bytes - at);
        if (n == 0)
            fail("byte %zu of the text (0x%02x) is not UTF-8, so it has no characters; use --tokenizer byte or bpe:N",
                 at, (unsigned char)text[at]);
        if (strings_find(&seen, text + at, n) == SIZE_MAX) strings_add(&seen, text + at, n);
    }
    char **sorted = xmalloc(size_mul(seen.count, sizeof *sorted));
    Tokenizer *t = tokenizer_make("char", seen.count);
    for (size_t i = 0; i < seen.count; i++) {
        size_t n;
        const char *character = strings_get(&seen, i, &n);
        sorted[i] = xprintf("%.*s", (int)n, character);
    }
    qsort(sorted, seen.count, sizeof *sorted, by_bytes);
    for (size_t i = 0; i < seen.count; i++) {
        strings_add(&t->token, sorted[i], sorted[i][0] ? strlen(sorted[i]) : 1);
        free(sorted[i]);
    }
    free(sorted);
    strings_free(&seen);
    return t;
}

Tokenizer *tokenizer_bpe(const char *text, size_t bytes, size_t vocab) {
    enum { MOST = 1 << 20 };
    if (vocab < 256 || vocab > MOST)
        usage_error("bpe:%zu: from 256 (the bytes) to %d tokens were expected", vocab, MOST);
    Tokenizer *t = tokenizer_make("bpe", vocab);
    bpe_train(&t->bpe, vocab - 256, text, bytes);
    bpe_prepare(&t->bpe, &t->token);
    return t;
}

Tokenizer *tokenizer_words(const char *const *words, size_t count) {
    Tokenizer *t = tokenizer_make("words", count);
    for (size_t i = 0; i < count; i++) strings_add(&t->token, words[i], strlen(words[i]));
    tokenizer_note_longest(t);
    return t;
}

Tokenizer *tokenizer_numbers(size_t vocab) { return tokenizer_make("numbers", vocab); }

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    strings_free(&t->token);
    bpe_free(&t->bpe);
    bytelevel_free(t->others);
    for (size_t i = 0; i < TOKENIZER_FILES; i++) free(t->file[i].text);
    free(t->end), free(t->spoken);
    free(t);
}

const char *tokenizer_kind(const Tokenizer *t) { return t->kind; }
size_t tokenizer_vocab(const Tokenizer *t) { return t->vocab; }
int tokenizer_start(const Tokenizer *t) { return t->start; }
void tokenizer_set_start(Tokenizer *t, int token) { t->start = token; }

size_t tokenizer_spoken(const Tokenizer *t) { return t->others ? SIZE_MAX : t->vocab; }

int tokenizer_end(const Tokenizer *t) {
    for (size_t i = 0; i < t->ends; i++)
        if ((size_t)t->end[i] < t->vocab) return t->end[i];
    return -1;
}

bool tokenizer_is_end(const Tokenizer *t, int token) {
    for (size_t i = 0; i < t->ends; i++)
        if (t->end[i] == token) return true;
    return false;
}

bool tokenizer_is_special(const Tokenizer *t, int token) { return t->others && bytelevel_is_special(t->others, token); }
void tokenizer_show_special(Tokenizer *t, bool show) { t->show_special = show; }

// ---- encoding ----------------------------------------------------------------------------------
static size_t encode_characters(const Tokenizer *t, const char *text, size_t bytes, int *tokens) {
    size_t count = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = utf8_length(text + at, bytes - at);
        if (n == 0)
            fail("byte %zu of the text (0x%02x) is not UTF-8, so it has no character tokens",
                 at, (unsigned char)text[at]);
        size_t token = strings_find(&t->token, text + at, n);
        if (token == SIZE_MAX)
            fail("the character \"%.*s\" (U+%04X, byte %zu of the text) is not among the %zu of this tokenizer", (int)n,
                 text + at, utf8_code(text + at, n), at, t->vocab);
        tokens[count++] = (int)token;
    }
    return count;
}

static bool is_word_byte(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }
static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

// Length of the longest token that the text starts with and that does not end inside a word.
static size_t longest_word(const Tokenizer *t, const char *text, size_t bytes, int *token) {
    for (size_t n = bytes < t->longest ? bytes : t->longest; n > 0; n--) {
        if (n < bytes && is_word_byte(text[n - 1]) && is_word_byte(text[n])) continue;
        size_t found = strings_find(&t->token, text, n);
        if (found == SIZE_MAX) continue;
        *token = (int)found;
        return n;
    }
    return 0;
}

// Line ends in any number are one document boundary, the token "\n\n". A typewriter's quote opens and closes in turn.
static size_t encode_words(const Tokenizer *t, const char *text, size_t bytes, int *tokens) {
    size_t count = 0, quotes = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        if (is_blank(text[at])) { n = 1; continue; }
        int token = -1;
        if (text[at] == '\n') {
            for (n = 1; at + n < bytes && (text[at + n] == '\n' || is_blank(text[at + n]));) n++;
            longest_word(t, "\n\n", 2, &token);
        } else if (text[at] == '"' && strings_find(&t->token, "\"", 1) == SIZE_MAX) {
            n = 1;
            longest_word(t, quotes++ % 2 ? "”" : "“", 3, &token);
        } else {
            n = longest_word(t, text + at, bytes - at, &token);
        }
        if (token < 0) {
            n = utf8_length(text + at, bytes - at) > 1 ? utf8_length(text + at, bytes - at) : 1;
            while (at + n < bytes && n < 40 && is_word_byte(text[at + n])) n++;
            fail("\"%.*s\" (byte %zu of the text) is not among the %zu words of this tokenizer", (int)n, text + at, at,
                 t->vocab);
        }
        tokens[count++] = token;
    }
    return count;
}

static size_t encode_numbers(const Tokenizer *t, const char *text, size_t bytes, int *tokens) {
    size_t count = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        if (is_blank(text[at]) || text[at] == '\n') { n = 1; continue; }
        uint64_t value = 0;
        for (n = 0; at + n < bytes && text[at + n] >= '0' && text[at + n] <= '9' && value < t->vocab; n++)
            value = 10 * value + (uint64_t)(text[at + n] - '0');
        bool ends = at + n == bytes || is_blank(text[at + n]) || text[at + n] == '\n';
        if (n == 0 || !ends || value >= t->vocab)
            fail("byte %zu of the text: numbers from 0 to %zu were expected, with spaces between them",
                 at, t->vocab - 1);
        tokens[count++] = (int)value;
    }
    return count;
}

size_t tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, int **tokens) {
    if (t->others) return bytelevel_encode(t->others, text, bytes, tokens);
    *tokens = xmalloc(size_mul(bytes, sizeof **tokens));
    if (is_kind(t, "char")) return encode_characters(t, text, bytes, *tokens);
    if (is_kind(t, "bpe")) return bpe_encode((Bpe *)&t->bpe, text, bytes, *tokens);  // it remembers chunks
    if (is_kind(t, "words")) return encode_words(t, text, bytes, *tokens);
    if (is_kind(t, "numbers")) return encode_numbers(t, text, bytes, *tokens);
    if (is_kind(t, "table") && bytes)
        fail("this tokenizer is a table that decodes only, so it cannot encode a text; leave the text out");
    for (size_t i = 0; i < bytes; i++) (*tokens)[i] = (unsigned char)text[i];
    return bytes;
}

size_t tokenizer_spelled_out(const Tokenizer *t, size_t *at, int *token) {
    return t->others ? bytelevel_spelled_out(t->others, at, token) : 0;
}

// What an empty text becomes: the mark of a begin, or of an end where there is none; -1: neither.
static int mark_of(const Tokenizer *t) { return t->begin >= 0 ? t->begin : tokenizer_end(t); }

// What the template of a checkpoint puts around a text; "" gets the mark of a begin or an end where there is none.
static size_t prompt_of_others(const Tokenizer *t, const char *text, int **tokens) {
    const int *before, *after;
    int *encoded;
    size_t count = tokenizer_encode(t, text, strlen(text), &encoded);
    size_t m = bytelevel_around(t->others, 0, &before), n = bytelevel_around(t->others, 1, &after);
    int alone = mark_of(t) >= 0 ? mark_of(t) : 0;
    *tokens = xmalloc(size_mul(m + count + n + 1, sizeof **tokens));
    memcpy(*tokens, before, m * sizeof **tokens);
    memcpy(*tokens + m, encoded, count * sizeof **tokens);
    memcpy(*tokens + m + count, after, n * sizeof **tokens);
    free(encoded);
    count += m + n;
    if (count == 0) (*tokens)[count++] = alone;
    return count;
}

size_t tokenizer_prompt(const Tokenizer *t, const char *text, int **tokens) {
    if (t->others) return prompt_of_others(t, text, tokens);
    int *encoded;
    size_t count = tokenizer_encode(t, text, strlen(text), &encoded);
    bool starts = t->start < 0 || (count > 0 && encoded[0] == t->start);
    if (starts && count > 0) {
        *tokens = encoded;
        return count;
    }
    size_t newline = strings_find(&t->token, "\n", 1);
    int first = t->start >= 0 ? t->start : mark_of(t);
    *tokens = xmalloc(size_mul(count + 1, sizeof **tokens));
    (*tokens)[0] = first >= 0 ? first : newline == SIZE_MAX ? 0 : (int)newline;
    memcpy(*tokens + 1, encoded, count * sizeof **tokens);
    free(encoded);
    return count + 1;
}

// ---- decoding ----------------------------------------------------------------------------------
static bool starts_with(const char *word, size_t n, const char *sign) {
    size_t length = strlen(sign);
    return n >= length && memcmp(word, sign, length) == 0;
}

// No space goes before these words, nor after those.
static bool joins_left(const char *word, size_t n) {
    static const char *const signs[] = {".", ",", "!", "?", ";", ":", "'", "’", "”", ")", "\n"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (starts_with(word, n, signs[i])) return true;
    return false;
}
static bool joins_right(const char *word, size_t n) {
    return starts_with(word, n, "“") || starts_with(word, n, "(") || word[n - 1] == '\n';
}

static size_t decode_word(Tokenizer *t, int previous, int token) {
    size_t n, before_length;
    const char *word = strings_get(&t->token, (size_t)token, &n);
    bool space = previous >= 0 && !joins_left(word, n);
    if (space) {
        const char *before = strings_get(&t->token, (size_t)previous, &before_length);
        space = before_length && !joins_right(before, before_length);
    }
    t->spoken = xrealloc(t->spoken, n + 2);
    t->spoken[0] = ' ';
    memcpy(t->spoken + space, word, n);
    return n + space;
}

size_t tokenizer_decode(const Tokenizer *t, int previous, int token, const char **bytes) {
    if (t->others && token >= 0 && (size_t)token >= t->vocab) {
        *bytes = "";
        return 0;
    }
    if (token < 0 || (size_t)token >= t->vocab || (previous >= (int)t->vocab && !t->others))
        fail("token %d after %d cannot be decoded: this tokenizer has %zu tokens", token, previous, t->vocab);
    Tokenizer *speaker = (Tokenizer *)t;  // only its buffer changes
    size_t n;
    if (previous < 0 && token == t->start && !t->others) {
        *bytes = "";
        return 0;
    }
    if (!t->show_special && tokenizer_is_special(t, token)) {
        *bytes = "";
        return 0;
    }
    if (is_kind(t, "words")) {
        n = decode_word(speaker, previous, token);
    } else if (is_kind(t, "numbers")) {
        speaker->spoken = xrealloc(speaker->spoken, 16);
        n = (size_t)snprintf(speaker->spoken, 16, "%s%d", previous < 0 ? "" : " ", token);
    } else {
        *bytes = strings_get(&t->token, (size_t)token, &n);
        return n;
    }
    *bytes = t->spoken;
    return n;
}


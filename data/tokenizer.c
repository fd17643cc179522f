// tokenizer.c: the kinds of tokenizer, and their file. Byte-pair merges are in bpe.c.
//
// tokenizer.json is one object:
//   "kind"    "byte", "char", "bpe", "words", "numbers" or "table"
//   "vocab"   number of tokens
//   "start"   the token that every document starts after, or -1
//   "tokens"  char, words, table: the text of token 0, 1, ...; {"hex": "ff41"} where it is not UTF-8
//   "merges"  bpe: [left, right] of token 256, 257, ...; tokens 0 to 255 are the bytes
//
// llm.c's tokenizer.bin (https://github.com/karpathy/llm.c, tokenizer.h): 256 little-endian u32, of
// which 20240328, version (1 or 2), tokens, end-of-text token (version 2); then {u8 length, bytes} per
// token. It has no merges, so it decodes only.
#include "data/tokenizer.h"
#include "data/bpe.h"
#include "data/strings.h"
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct Tokenizer {
    const char *kind;
    size_t vocab;
    int start;
    Strings token;             // the bytes of every token (numbers: empty)
    Bpe bpe;
    size_t longest;            // words: bytes of the longest
    char *spoken;              // what tokenizer_decode returned last
};

// ---- UTF-8 -------------------------------------------------------------------------------------
static unsigned utf8_code(const char *text, size_t length) {
    const unsigned char *p = (const unsigned char *)text;
    unsigned code = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) code = code << 6 | (p[i] & 0x3Fu);
    return code;
}

// ---- making them -------------------------------------------------------------------------------
static Tokenizer *make(const char *kind, size_t vocab) {
    if (vocab == 0 || vocab > INT_MAX)
        fail("a tokenizer of %zu tokens; between 1 and %d were expected", vocab, INT_MAX);
    Tokenizer *t = xmalloc(sizeof *t);
    t->kind = kind, t->vocab = vocab, t->start = -1;
    return t;
}

Tokenizer *tokenizer_byte(void) {
    Tokenizer *t = make("byte", 256);
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
    Tokenizer *t = make("char", seen.count);
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
    Tokenizer *t = make("bpe", vocab);
    bpe_train(&t->bpe, vocab - 256, text, bytes);
    bpe_prepare(&t->bpe, &t->token);
    return t;
}

static void note_longest(Tokenizer *t) {
    for (size_t i = 0, n; i < t->vocab; i++) {
        strings_get(&t->token, i, &n);
        if (n > t->longest) t->longest = n;
    }
}

Tokenizer *tokenizer_words(const char *const *words, size_t count) {
    Tokenizer *t = make("words", count);
    for (size_t i = 0; i < count; i++) strings_add(&t->token, words[i], strlen(words[i]));
    note_longest(t);
    return t;
}

Tokenizer *tokenizer_numbers(size_t vocab) { return make("numbers", vocab); }

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    strings_free(&t->token);
    bpe_free(&t->bpe);
    free(t->spoken);
    free(t);
}

const char *tokenizer_kind(const Tokenizer *t) { return t->kind; }
size_t tokenizer_vocab(const Tokenizer *t) { return t->vocab; }
int tokenizer_start(const Tokenizer *t) { return t->start; }
void tokenizer_set_start(Tokenizer *t, int token) { t->start = token; }
static bool is_kind(const Tokenizer *t, const char *kind) { return strcmp(t->kind, kind) == 0; }

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
    *tokens = xmalloc(size_mul(bytes, sizeof **tokens));
    if (is_kind(t, "char")) return encode_characters(t, text, bytes, *tokens);
    if (is_kind(t, "bpe")) return bpe_encode(&t->bpe, text, bytes, *tokens);
    if (is_kind(t, "words")) return encode_words(t, text, bytes, *tokens);
    if (is_kind(t, "numbers")) return encode_numbers(t, text, bytes, *tokens);
    if (is_kind(t, "table") && bytes)
        fail("this tokenizer is a table that decodes only, so it cannot encode a text; leave the text out");
    for (size_t i = 0; i < bytes; i++) (*tokens)[i] = (unsigned char)text[i];
    return bytes;
}

size_t tokenizer_prompt(const Tokenizer *t, const char *text, int **tokens) {
    int *encoded;
    size_t count = tokenizer_encode(t, text, strlen(text), &encoded);
    bool starts = t->start < 0 || (count > 0 && encoded[0] == t->start);
    if (starts && count > 0) {
        *tokens = encoded;
        return count;
    }
    size_t newline = strings_find(&t->token, "\n", 1);
    *tokens = xmalloc(size_mul(count + 1, sizeof **tokens));
    (*tokens)[0] = t->start >= 0 ? t->start : newline == SIZE_MAX ? 0 : (int)newline;
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
    if (token < 0 || (size_t)token >= t->vocab || previous >= (int)t->vocab)
        fail("token %d after %d cannot be decoded: this tokenizer has %zu tokens", token, previous, t->vocab);
    Tokenizer *speaker = (Tokenizer *)t;  // only its buffer changes
    size_t n;
    if (previous < 0 && token == t->start) {
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

// ---- saving ------------------------------------------------------------------------------------
static json_t *bytes_to_json(const char *bytes, size_t length) {
    if (utf8_valid_length(bytes, length) == length) return json_stringn(bytes, length);
    char *hex = xmalloc(2 * length + 1);
    for (size_t i = 0; i < length; i++) snprintf(hex + 2 * i, 3, "%02x", (unsigned char)bytes[i]);
    json_t *object = json_pack("{s:s}", "hex", hex);
    free(hex);
    return object;
}

static bool has_tokens(const Tokenizer *t) { return is_kind(t, "char") || is_kind(t, "words") || is_kind(t, "table"); }

static json_t *tokenizer_json(const Tokenizer *t) {
    json_t *root = json_pack("{s:s, s:I, s:i}", "kind", t->kind, "vocab", (json_int_t)t->vocab, "start", t->start);
    if (has_tokens(t)) {
        json_t *tokens = json_array();
        for (size_t i = 0, n; i < t->vocab; i++) {
            const char *bytes = strings_get(&t->token, i, &n);
            json_array_append_new(tokens, bytes_to_json(bytes, n));
        }
        json_object_set_new(root, "tokens", tokens);
    }
    if (is_kind(t, "bpe")) {
        json_t *merges = json_array();
        for (size_t i = 0; i < t->bpe.merges; i++)
            json_array_append_new(merges, json_pack("[ii]", t->bpe.merge[i].left, t->bpe.merge[i].right));
        json_object_set_new(root, "merges", merges);
    }
    return root;
}

bool tokenizer_equal(const Tokenizer *a, const Tokenizer *b) {
    json_t *one = tokenizer_json(a), *other = tokenizer_json(b);
    bool equal = json_equal(one, other);
    json_decref(one), json_decref(other);
    return equal;
}

void tokenizer_save(const Tokenizer *t, const char *path) {
    json_t *root = tokenizer_json(t);
    char *text = json_dumps(root, JSON_COMPACT);
    if (!text) fail("out of memory while writing %s", path);
    write_whole_file(path, text, strlen(text));
    free(text);
    json_decref(root);
}

// ---- loading -----------------------------------------------------------------------------------
static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

// The bytes of one entry of "tokens"; false where it is neither a text nor {"hex": ...}.
static bool add_json_token(Strings *s, const json_t *entry) {
    if (json_is_string(entry)) {
        strings_add(s, json_string_value(entry), json_string_length(entry));
        return true;
    }
    const char *hex = json_string_value(json_object_get(entry, "hex"));
    size_t digits = hex ? strlen(hex) : 1;
    if (digits % 2) return false;
    char *bytes = xmalloc(digits / 2);
    bool good = true;
    for (size_t i = 0; i < digits / 2; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        good = good && high >= 0 && low >= 0;
        bytes[i] = (char)(16 * high + low);
    }
    if (good) strings_add(s, bytes, digits / 2);
    free(bytes);
    return good;
}

static void load_tokens(Tokenizer *t, const json_t *root, const char *path) {
    const json_t *tokens = json_object_get(root, "tokens");
    if (json_array_size(tokens) != t->vocab)
        fail("%s: \"tokens\" has %zu entries, but \"vocab\" is %zu", path, json_array_size(tokens), t->vocab);
    bool unique = !is_kind(t, "table");
    for (size_t i = 0, n; i < t->vocab; i++) {
        if (!add_json_token(&t->token, json_array_get(tokens, i)))
            fail("%s: entry %zu of \"tokens\" is neither a text nor {\"hex\": an even number of digits}", path, i);
        const char *bytes = strings_get(&t->token, i, &n);
        if (unique && (n == 0 || strings_find(&t->token, bytes, n) != i))
            fail("%s: token %zu is empty or occurs twice", path, i);
        if (is_kind(t, "char") && utf8_length(bytes, n) != n) fail("%s: token %zu is not one UTF-8 character", path, i);
    }
    note_longest(t);
}

static void load_merges(Tokenizer *t, const json_t *root, const char *path) {
    const json_t *merges = json_object_get(root, "merges");
    if (t->vocab < 256 || json_array_size(merges) != t->vocab - 256)
        fail("%s: \"merges\" has %zu entries, but \"vocab\" is %zu, which is 256 and the merges",
             path, json_array_size(merges), t->vocab);
    t->bpe.merges = t->vocab - 256;
    t->bpe.merge = xmalloc(size_mul(t->bpe.merges, sizeof *t->bpe.merge));
    for (size_t i = 0; i < t->bpe.merges; i++) {
        const json_t *pair = json_array_get(merges, i);
        const json_t *left = json_array_get(pair, 0), *right = json_array_get(pair, 1);
        json_int_t made = (json_int_t)(256 + i);
        bool good = json_array_size(pair) == 2 && json_is_integer(left) && json_is_integer(right);
        json_int_t l = json_integer_value(left), r = json_integer_value(right);
        if (!good || l < 0 || l >= made || r < 0 || r >= made)
            fail("%s: merge %zu is not a pair of tokens below %" PRId64, path, i, (int64_t)made);
        t->bpe.merge[i] = (Merge){(int)l, (int)r};
    }
    if (!bpe_prepare(&t->bpe, &t->token)) fail("%s: \"merges\" make a token of more than %d bytes", path, CHUNK_BYTES);
}

static Tokenizer *load_json(const char *path, const char *text, size_t bytes) {
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(root))
        fail("%s is not a tokenizer: a JSON object was expected, and line %d, column %d does not fit",
             path, error.line, error.column);
    static const char *const kinds[] = {"byte", "char", "bpe", "words", "numbers", "table"};
    const char *kind = json_string_value(json_object_get(root, "kind")), *known = NULL;
    for (size_t i = 0; kind && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kind, kinds[i]) == 0) known = kinds[i];
    if (!known) fail("%s: \"kind\" should be one of byte, char, bpe, words, numbers, table", path);
    const json_t *size = json_object_get(root, "vocab"), *start = json_object_get(root, "start");
    json_int_t vocab = json_integer_value(size), first = start ? json_integer_value(start) : -1;
    if (vocab < 1 || vocab > INT_MAX) fail("%s: \"vocab\" should be a number from 1 to %d", path, INT_MAX);
    if ((start && !json_is_integer(start)) || first < -1 || first >= vocab)
        fail("%s: \"start\" should be -1 or a token below %" PRId64, path, (int64_t)vocab);
    if (strcmp(known, "byte") == 0 && vocab != 256)
        fail("%s: the vocab of bytes is 256, not %" PRId64, path, (int64_t)vocab);
    Tokenizer *t = strcmp(known, "byte") == 0 ? tokenizer_byte() : make(known, (size_t)vocab);
    t->start = (int)first;
    if (has_tokens(t)) load_tokens(t, root, path);
    if (is_kind(t, "bpe")) load_merges(t, root, path);
    json_decref(root);
    return t;
}

enum { TABLE_MAGIC = 20240328, TABLE_HEADER = 1024, TABLE_START = 50256 };

static uint32_t read_u32(const char *bytes, size_t number) {
    const unsigned char *p = (const unsigned char *)bytes + 4 * number;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static Tokenizer *load_table(const char *path, const char *text, size_t bytes) {
    if (bytes < TABLE_HEADER)
        fail("%s: a header of %d bytes was expected, but the file has %zu", path, TABLE_HEADER, bytes);
    uint32_t version = read_u32(text, 1), vocab = read_u32(text, 2);
    uint32_t start = version == 1 ? TABLE_START : read_u32(text, 3);
    if (version != 1 && version != 2)
        fail("%s: version %u of llm.c's tokenizer is not known; 1 and 2 are", path, version);
    if (vocab == 0 || vocab > bytes) fail("%s: %u tokens do not fit into its %zu bytes", path, vocab, bytes);
    if (start >= vocab) fail("%s: its end-of-text token is %u, but it has %u tokens", path, start, vocab);
    Tokenizer *t = make("table", vocab);
    t->start = (int)start;
    size_t at = TABLE_HEADER;
    for (uint32_t i = 0; i < vocab; i++) {
        size_t n = at < bytes ? (unsigned char)text[at] : 1;
        if (at + 1 + n > bytes) fail("%s: the file ends inside token %u of %u", path, i, vocab);
        strings_add(&t->token, text + at + 1, n);
        at += 1 + n;
    }
    if (at != bytes) fail("%s: %zu bytes were expected, but the file has %zu", path, at, bytes);
    return t;
}

Tokenizer *tokenizer_load(const char *path) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    bool table = bytes >= 4 && read_u32(text, 0) == TABLE_MAGIC;
    Tokenizer *t = table ? load_table(path, text, bytes) : load_json(path, text, bytes);
    free(text);
    return t;
}

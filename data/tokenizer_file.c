// tokenizer_file.c: tokenizers and their files.
//
// Ours is one object (tokenizer.receipts.json; tokenizer.json in older runs):
//   "kind"    "byte", "char", "bpe", "words", "numbers" or "table"
//   "vocab"   number of tokens
//   "start"   the token that every document starts after, or -1
//   "tokens"  char, words, table: the text of token 0, 1, ...; {"hex": "ff41"} where it is not UTF-8
//   "merges"  bpe: [left, right] of token 256, 257, ...; tokens 0 to 255 are the bytes
//
// Hugging Face's tokenizer.json, https://huggingface.co/docs/tokenizers, is written for byte, char and bpe such that
// their library gives our tokens, and read back from the same file: it is ours if it is what we would write. Any other
// is read by bytelevel.c.
//
// llm.c's tokenizer.bin (https://github.com/karpathy/llm.c, tokenizer.h): 256 little-endian u32, of
// which 20240328, version (1 or 2), tokens, end-of-text token (version 2); then {u8 length, bytes} per
// token. It has no merges, so it decodes only.
#include "data/gguf_tokens.h"
#include "data/tokenizer_inside.h"
#include "data/unicode.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

// ---- our form, written -----------------------------------------------------------------------
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

// ---- our form, read ---------------------------------------------------------------------------
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
    tokenizer_note_longest(t);
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
        t->bpe.merge[i] = (Merge){(int)l, (int)r, (int)made};
    }
    if (!bpe_prepare(&t->bpe, &t->token)) fail("%s: \"merges\" make a token of more than %d bytes", path, CHUNK_BYTES);
}

static Tokenizer *load_ours(const char *path, const json_t *root) {
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
    Tokenizer *t = strcmp(known, "byte") == 0 ? tokenizer_byte() : tokenizer_make(known, (size_t)vocab);
    t->start = (int)first;
    if (has_tokens(t)) load_tokens(t, root, path);
    if (is_kind(t, "bpe")) load_merges(t, root, path);
    return t;
}

// ---- llm.c's table -----------------------------------------------------------------------------------
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
    Tokenizer *t = tokenizer_make("table", vocab);
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

// ---- Hugging Face's form, written ----------------------------------------------------------------
// A byte as its letter; ours are 256 and more by the bytes of their tokens.
static json_t *spelled(const Tokenizer *t, size_t token) {
    char letters[2 * CHUNK_BYTES];
    size_t n;
    const char *bytes = strings_get(&t->token, token, &n);
    return json_stringn(letters, bytelevel_spell(letters, bytes, n));
}

static json_t *vocab_json(const Tokenizer *t, bool letters) {
    json_t *vocab = json_object();
    for (size_t i = 0, n; i < t->vocab; i++) {
        json_t *key = letters ? spelled(t, i) : NULL;
        const char *text = letters ? json_string_value(key) : strings_get(&t->token, i, &n);
        if (letters) n = json_string_length(key);
        json_object_setn_new(vocab, text, n, json_integer((json_int_t)i));
        json_decref(key);
    }
    return vocab;
}

// The model: a table of characters, where one that is not in it is an error as long as "<unk>" is none of them; or the
// bytes and their merges.
static json_t *model_json(const Tokenizer *t) {
    if (is_kind(t, "char"))
        return json_pack("{s:s, s:o, s:s}", "type", "WordLevel", "vocab", vocab_json(t, false), "unk_token", "<unk>");
    json_t *merges = json_array();
    for (size_t i = 0; i < t->bpe.merges; i++)
        json_array_append_new(merges, json_pack("[oo]", spelled(t, (size_t)t->bpe.merge[i].left),
                                                spelled(t, (size_t)t->bpe.merge[i].right)));
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", 0, "vocab", vocab_json(t, true), "merges", merges);
}

static json_t *split_json(const char *pattern) {
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior", "Isolated",
                     "invert", 0);
}

static json_t *bytes_json(bool prefix_space, bool trim_offsets, bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets",
                     trim_offsets, "use_regex", use_regex);
}

// How bpe.c cuts, as a pattern over the letters of bytes; a chunk is at most CHUNK_BYTES = 64 long. S are the white
// spaces, and G is the space; L the letters and all bytes from 128 on, D the digits, X the other signs.
#define G "\u0120"
#define IN_S "\u0109-\u010D\u0120"
#define L "[A-Za-z\u00A1-\u00AC\u00AE-\u00FF\u0122-\u0143]"
#define D "[0-9]"
#define X "[!-/:-@\\[-`{-~\u0100-\u0108\u010E-\u011F\u0121]"
#define RUN(class) G class "{1,63}|" class "{1,64}|"
static const char chunk_pattern[] = RUN(L) RUN(D) RUN(X)
    "[" IN_S "]{64}|[" IN_S "]{1,62}(?=" G "[^" IN_S "])|[" IN_S "]{1,63}";
_Static_assert(CHUNK_BYTES == 64, "the counts of the pattern");

static json_t *pre_tokenizer_json(const Tokenizer *t) {
    if (is_kind(t, "char")) return split_json("[\\s\\S]");
    json_t *bytes = bytes_json(false, false, false);
    if (is_kind(t, "byte")) return bytes;
    return json_pack("{s:s, s:[oo]}", "type", "Sequence", "pretokenizers", bytes, split_json(chunk_pattern));
}

static json_t *hf_json(const Tokenizer *t) {
    return json_pack("{s:s, s:n, s:n, s:[], s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", "normalizer", "pre_tokenizer", pre_tokenizer_json(t), "post_processor", "decoder",
                     is_kind(t, "char") ? json_pack("{s:s}", "type", "Fuse") : bytes_json(true, true, true), "model",
                     model_json(t));
}

// Their vocabulary is an object, so its tokens differ in their texts, and jansson's keys have no NUL.
static bool has_hf_form(const Tokenizer *t) {
    bool ours = is_kind(t, "byte") || is_kind(t, "char") || is_kind(t, "bpe");
    if (!ours || t->start >= 0) return false;
    for (size_t i = 0, n; i < t->vocab; i++) {
        const char *text = strings_get(&t->token, i, &n);
        if (strings_find(&t->token, text, n) != i || (is_kind(t, "char") && memchr(text, '\0', n))) return false;
    }
    return true;
}

// ---- Hugging Face's form, read -------------------------------------------------------------------
static bool same_part(const json_t *a, const json_t *b, const char *key) {
    return json_equal(json_object_get(a, key), json_object_get(b, key));
}

// transformers puts a template of the text alone where there was none.
static bool adds_nothing(const json_t *post_processor) {
    const json_t *single = json_object_get(post_processor, "single");
    bool text = json_array_size(single) == 1 && json_object_get(json_array_get(single, 0), "Sequence");
    return !post_processor || json_is_null(post_processor) || text;
}

// Whether t is what the file says: where we would write it so.
static bool is_written_so(const Tokenizer *t, const json_t *root) {
    static const char *const parts[] = {"added_tokens", "normalizer", "pre_tokenizer", "decoder", "model"};
    if (!has_hf_form(t)) return false;
    json_t *ours = hf_json(t);
    bool same = adds_nothing(json_object_get(root, "post_processor"));
    for (size_t i = 0; i < sizeof parts / sizeof *parts && same; i++) same = same_part(ours, root, parts[i]);
    json_decref(ours);
    return same;
}

static int token_of(const json_t *vocab, const json_t *written) {
    const json_t *token = json_is_string(written) ? json_object_getn(vocab, json_string_value(written),
                                                                     json_string_length(written)) : NULL;
    return json_is_integer(token) && json_integer_value(token) < INT_MAX ? (int)json_integer_value(token) : -1;
}

// Characters in the order of their numbers, each once; NULL: it is something else.
static Tokenizer *read_characters(const json_t *vocab) {
    size_t count = json_object_size(vocab), n;
    const char **text = xmalloc(size_mul(count, sizeof *text)), *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        json_int_t token = json_is_integer(value) ? json_integer_value(value) : -1;
        if (token >= 0 && (size_t)token < count) text[token] = key;
    }
    Tokenizer *t = count && count < INT_MAX ? tokenizer_make("char", count) : NULL;
    for (size_t i = 0; t && i < count; i++) {
        if (!text[i] || (n = utf8_length(text[i], strlen(text[i]))) != strlen(text[i]) || n == 0) {
            tokenizer_free(t);
            t = NULL;
        } else strings_add(&t->token, text[i], n);
    }
    free(text);
    return t;
}

static Tokenizer *read_our_bpe(const json_t *vocab, const json_t *merges) {
    size_t count = json_array_size(merges);
    if (count == 0) return tokenizer_byte();
    if (count > 1 << 20) return NULL;
    Tokenizer *t = tokenizer_make("bpe", 256 + count);
    t->bpe.merges = count;
    t->bpe.merge = xmalloc(size_mul(count, sizeof *t->bpe.merge));
    bool good = true;
    for (size_t i = 0; i < count && good; i++) {
        const json_t *pair = json_array_get(merges, i);
        Merge m = {token_of(vocab, json_array_get(pair, 0)), token_of(vocab, json_array_get(pair, 1)), (int)(256 + i)};
        good = m.left >= 0 && m.left < m.made && m.right >= 0 && m.right < m.made;
        t->bpe.merge[i] = m;
    }
    if (good && bpe_prepare(&t->bpe, &t->token)) return t;
    tokenizer_free(t);
    return NULL;
}

// What we have written ourselves, or NULL.
static Tokenizer *read_own_hf(const json_t *root) {
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const char *type = json_string_value(json_object_get(model, "type"));
    Tokenizer *t = NULL;
    if (type && strcmp(type, "WordLevel") == 0) t = read_characters(vocab);
    else if (type && strcmp(type, "BPE") == 0) {
        Tokenizer probe = {.kind = json_array_size(json_object_get(model, "merges")) ? "bpe" : "byte"};
        json_t *cut = pre_tokenizer_json(&probe);
        if (json_equal(cut, json_object_get(root, "pre_tokenizer")))
            t = read_our_bpe(vocab, json_object_get(model, "merges"));
        json_decref(cut);
    }
    if (!t || is_written_so(t, root)) return t;
    tokenizer_free(t);
    return NULL;
}

static Tokenizer *load_hf(const char *path, const json_t *root) {
    ByteLevel *others = bytelevel_read(root, path);
    Tokenizer *t = tokenizer_make("hf", bytelevel_vocab(others));
    t->others = others;
    return t;
}

// ---- any form --------------------------------------------------------------------------------------
static json_t *parse(const char *path, const char *what, const char *text, size_t bytes, size_t flags) {
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | flags, &error);
    if (root && !json_is_object(root))
        fail("%s is not a %s: a JSON object was expected, but what it holds is a list", path, what);
    if (!root)
        fail("%s is not a %s: a JSON object was expected, and line %d, column %d does not fit",
             path, what, error.line, error.column);
    return root;
}

// What a checkpoint of others says about its tokens, all of it read: texts, and what goes around one by its template.
static void finish_others(Tokenizer *t) {
    const int *before;
    t->vocab = bytelevel_vocab(t->others);
    bytelevel_finish(t->others, &t->token);
    t->start = bytelevel_around(t->others, 0, &before) ? before[0] : -1;
    if (t->begin < 0) t->begin = t->start;
}

// A table, or one of ours in either form; NULL: others wrote it, and *root is what it says.
static Tokenizer *load_own(const char *path, char *text, size_t bytes, json_t **root) {
    bool table = bytes >= 4 && read_u32(text, 0) == TABLE_MAGIC;
    *root = table ? NULL : parse(path, "tokenizer", text, bytes, 0);
    if (table) return load_table(path, text, bytes);
    return json_is_object(json_object_get(*root, "model")) ? read_own_hf(*root) : load_ours(path, *root);
}

Tokenizer *tokenizer_load(const char *path) {
    size_t bytes;
    json_t *root;
    char *text = read_whole_file(path, &bytes);
    Tokenizer *t = load_own(path, text, bytes, &root);
    if (t) free(text);
    else {
        t = load_hf(path, root);
        t->file[0].text = text, t->file[0].bytes = bytes;
        finish_others(t);
    }
    json_decref(root);
    return t;
}

static json_t *tokenizer_description(const Tokenizer *t) {
    if (!t->others) return tokenizer_json(t);
    return json_pack("{s:s, s:s%}", "kind", t->kind, "file", t->file[0].text, t->file[0].bytes);
}

bool tokenizer_equal(const Tokenizer *a, const Tokenizer *b) {
    json_t *one = tokenizer_description(a), *other = tokenizer_description(b);
    bool equal = json_equal(one, other);
    json_decref(one), json_decref(other);
    return equal;
}

uint64_t tokenizer_hash(const Tokenizer *t) {
    if (t->others) {
        uint64_t h = hash_bytes(hash_text(HASH_START, t->kind), t->file[0].text, t->file[0].bytes);
        if (t->file[1].text) h = hash_bytes(h, t->file[1].text, t->file[1].bytes);
        return hash_bytes(h, t->end, t->ends * sizeof *t->end);
    }
    json_t *root = tokenizer_json(t);
    char *text = json_dumps(root, JSON_COMPACT);
    uint64_t h = hash_text(HASH_START, text);
    free(text);
    json_decref(root);
    return t->ends ? hash_bytes(h, t->end, t->ends * sizeof *t->end) : h;
}

// ---- directories -------------------------------------------------------------------------------------
static void write_json(const char *path, json_t *root, size_t flags) {
    char *text = json_dumps(root, flags);
    if (!text) fail("out of memory while writing %s", path);
    write_whole_file(path, text, strlen(text));
    free(text);
    json_decref(root);
}

void tokenizer_save(const Tokenizer *t, const char *path) {
    if (t->others) write_whole_file(path, t->file[0].text, t->file[0].bytes);
    else write_json(path, tokenizer_json(t), JSON_COMPACT);
}

static const char *const names[] = {"tokenizer.receipts.json", "tokenizer.json", "tokenizer.bin"};

static char *inside(const char *dir, const char *name) { return xprintf("%s/%s", *dir ? dir : ".", name); }

static bool has_file(const char *dir, const char *name) {
    char *path = inside(dir, name);
    bool exists = file_exists(path);
    free(path);
    return exists;
}

bool tokenizer_in_dir(const char *dir) {
    if (gguf_is(dir)) return gguf_tokens_in(dir);
    for (size_t i = 0; i < 3; i++)
        if (has_file(dir, names[i])) return true;
    return false;
}

// An object of a file that may not be there: NULL. Those of tokenizers say 10^30 where a length has no limit.
static json_t *read_beside(const char *dir, const char *name, char **text, size_t *bytes) {
    char *path = inside(dir, name), *own = NULL;
    size_t own_bytes;
    if (!text) text = &own, bytes = &own_bytes;
    json_t *root = NULL;
    if (file_exists(path)) {
        *text = read_regular_file(path, bytes);
        root = parse(path, "configuration", *text, *bytes, text == &own ? 0 : JSON_DECODE_INT_AS_REAL);
    }
    free(own), free(path);
    return root;
}

static void add_end(Tokenizer *t, int token) {
    if (token < 0 || (size_t)token >= t->vocab || tokenizer_is_end(t, token)) return;
    t->end = xrealloc(t->end, size_mul(t->ends + 1, sizeof *t->end));
    t->end[t->ends++] = token;
}

static int token_in(const json_t *value) {
    json_int_t token = json_is_integer(value) ? json_integer_value(value) : -1;
    return token >= 0 && token < INT_MAX ? (int)token : -1;
}

static void read_begin(Tokenizer *t, const json_t *config) {
    if (t->begin < 0) t->begin = token_in(json_object_get(config, "bos_token_id"));
    if (t->begin >= 0 && (size_t)t->begin >= t->vocab) t->begin = -1;
}

// Who writes an end that cannot be one gets answers without an end, so it is refused. A model may have tokens of which
// its tokenizer has no text, and texts can end with them.
typedef struct { const char *dir, *file; size_t vocab; } Ends;
static void read_end(Tokenizer *t, const Ends *e, const json_t *value) {
    json_int_t token = json_integer_value(value);
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!json_is_integer(value))
        fail("%s/%s: eos_token_id is or holds %.60s; a token's number, a list of them or null was expected", e->dir,
             e->file, text);
    if (token < 0 || (uint64_t)token >= e->vocab)
        fail("%s/%s: eos_token_id is or holds %s, but tokens are 0 to %zu, so no text would end there", e->dir,
             e->file, text, e->vocab - 1);
    if (!tokenizer_is_end(t, (int)token)) {
        t->end = xrealloc(t->end, size_mul(t->ends + 1, sizeof *t->end));
        t->end[t->ends++] = (int)token;
    }
    free(text);
}

static void read_ends(Tokenizer *t, const Ends *e, const json_t *config) {
    const json_t *ends = json_object_get(config, "eos_token_id");
    if (ends && !json_is_null(ends) && !json_is_array(ends)) read_end(t, e, ends);
    for (size_t i = 0; i < json_array_size(ends); i++) read_end(t, e, json_array_get(ends, i));
    read_begin(t, config);
}

static int named_token(const Tokenizer *t, const json_t *config, const char *name, const char *dir) {
    const json_t *value = json_object_get(config, name), *content = json_object_get(value, "content");
    const char *text = json_string_value(content ? content : value);
    if (!text && value && !json_is_null(value))
        fail("%s/tokenizer_config.json: %s should be a text, or an object with one as its content", dir, name);
    if (!text || t->others) return text ? bytelevel_find(t->others, text) : -1;
    size_t token = strings_find(&t->token, text, strlen(text));
    return token < t->vocab ? (int)token : -1;
}

// Where there is a generation_config.json it alone says where texts end, as in transformers, which goes on for ever
// where nothing does; here they end at the tokenizer's end, and a note says so. It comes first among several.
static void read_ends_of(Tokenizer *t, const json_t *settings, const json_t *model, const char *dir) {
    t->begin = named_token(t, settings, "bos_token", dir);
    int end = named_token(t, settings, "eos_token", dir);
    json_t *generation = read_beside(dir, "generation_config.json", NULL, NULL);
    json_int_t all = json_integer_value(json_object_get(model, "vocab_size"));
    Ends e = {*dir ? dir : ".", generation ? "generation_config.json" : "config.json", t->vocab};
    if (all > 0 && all <= INT_MAX && (size_t)all > e.vocab) e.vocab = (size_t)all;
    read_ends(t, &e, generation ? generation : model);
    if (generation) read_begin(t, model);
    for (size_t i = 0; i < t->ends; i++)
        if (t->end[i] == end) t->end[i] = t->end[0], t->end[0] = end;
    if (t->ends == 0 && end >= 0 && (model || generation))
        print_line(stderr, "note     %s: its %s names no eos_token_id, so transformers would not stop; here a text "
                   "ends with the eos_token of its tokenizer, %d\n", dir,
                   generation ? "generation_config.json" : "config.json", end);
    if (t->ends == 0) add_end(t, end);
    json_decref(generation);
}

static void keep(Tokenizer *t, size_t i, char *text, size_t bytes) {
    free(t->file[i].text);
    t->file[i].text = text, t->file[i].bytes = bytes;
}

// A tokenizer that is what it is by the files beside it is kept as they make it, so that a run that has other files
// reads the same.
static void keep_as_read(Tokenizer *t, json_t *root, json_t *settings) {
    json_t *config = json_copy(settings);
    json_object_set_new(root, "added_tokens", bytelevel_marks(t->others));
    json_object_del(config, "readds_special_tokens"), json_object_del(config, "added_tokens_decoder");
    json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    char *text = json_dumps(root, JSON_COMPACT), *beside = json_dumps(config, JSON_INDENT(2));
    keep(t, 0, text, strlen(text)), keep(t, 1, beside, strlen(beside));
    json_decref(config);
}

// The files beside a tokenizer.json, each of which may be missing; those that are there are sound.
typedef struct { json_t *config, *model, *special, *added; char *text; size_t bytes; } Beside;

static Beside read_all_beside(const char *dir) {
    Beside b = {0};
    b.config = read_beside(dir, "tokenizer_config.json", &b.text, &b.bytes);
    b.model = read_beside(dir, "config.json", NULL, NULL);
    b.special = read_beside(dir, "special_tokens_map.json", NULL, NULL);
    b.added = read_beside(dir, "added_tokens.json", NULL, NULL);
    return b;
}

static void close_beside(const Beside *b) {
    json_decref(b->config), json_decref(b->model), json_decref(b->special), json_decref(b->added);
}

static Tokenizer *open_others(const char *dir, const char *path, json_t *root, char *text, size_t bytes) {
    char *config_path = inside(dir, "tokenizer_config.json");
    Beside b = read_all_beside(dir);
    bool changed;
    json_t *settings = bytelevel_settings(root, &(BesideTokens){b.config, b.model, b.special, b.added}, dir, &changed);
    Tokenizer *t = load_hf(path, root);
    bytelevel_configure(t->others, settings, b.config ? config_path : path);
    t->vocab = bytelevel_vocab(t->others);
    keep(t, 0, text, bytes), keep(t, 1, b.text, b.bytes);
    if (changed) keep_as_read(t, root, settings);
    read_ends_of(t, settings, b.model, dir);
    finish_others(t);
    json_decref(settings);
    close_beside(&b);
    free(config_path);
    return t;
}

// One of ours has its tokens from its own file alone. Where texts end is said beside it: not by a run of ours, but by
// others who have the model from one.
static void read_beside_own(Tokenizer *t, const char *dir) {
    Beside b = read_all_beside(dir);
    read_ends_of(t, b.config, b.model, dir);
    close_beside(&b);
    free(b.text);
}

// ---- inside a GGUF -----------------------------------------------------------------------------------
static Tokenizer *open_gguf(const char *path) {
    GgufTokens g = gguf_tokens_read(path);
    json_t *root;
    if (!g.json) return NULL;
    Tokenizer *t = load_own(path, g.json, strlen(g.json), &root);
    bool others = !t;
    if (others) {
        t = load_hf(path, root);
        keep(t, 0, g.json, strlen(g.json));
        t->begin = g.begin >= 0 && (size_t)g.begin < t->vocab ? g.begin : -1;
    } else free(g.json);
    for (size_t i = 0; i < GGUF_ENDS; i++) add_end(t, g.end[i]);
    if (others) finish_others(t);
    json_decref(root);
    return t;
}

// What goes around a prompt: nothing, or one token, which *token then is; false: more.
static bool around(const Tokenizer *t, int side, int *token, bool *adds) {
    const int *all;
    size_t n = bytelevel_around(t->others, side, &all);
    *adds = n == 1;
    if (n == 1) *token = all[0];
    return n < 2;
}

const char *tokenizer_put_gguf(const Tokenizer *t, GgufHead *head, size_t vocab) {
    GgufTokensOut out = {.vocab = vocab, .begin = t->others ? t->begin : -1, .end = {-1, -1}};
    for (size_t i = 0; i < GGUF_ENDS && i < t->ends; i++) out.end[i] = t->end[i];
    if (t->ends > GGUF_ENDS)
        print_line(stderr, "note     of %zu tokens that end a text, a GGUF names the first %d\n", t->ends, GGUF_ENDS);
    bool before = !t->others || around(t, 0, &out.begin, &out.adds_begin);
    bool behind = !t->others || around(t, 1, &out.end[0], &out.adds_end);
    json_t *root = t->others ? parse("tokenizer.json", "tokenizer", t->file[0].text, t->file[0].bytes, 0)
                   : has_hf_form(t) ? hf_json(t) : NULL;
    json_t *own = root ? NULL : tokenizer_json(t);
    if (t->others) json_object_set_new(root, "added_tokens", bytelevel_marks(t->others));
    out.root = root, out.own = own, out.one_around = before && behind;
    const char *missing = gguf_tokens_write(head, &out);
    json_decref(root), json_decref(own);
    return missing;
}

Tokenizer *tokenizer_open_dir(const char *dir) {
    if (gguf_is(dir)) return open_gguf(dir);
    for (size_t i = 0; i < 3; i++) {
        if (!has_file(dir, names[i])) continue;
        size_t bytes;
        json_t *root;
        char *path = inside(dir, names[i]), *text = read_regular_file(path, &bytes);
        Tokenizer *t = load_own(path, text, bytes, &root);
        if (t) free(text);
        else t = open_others(dir, path, root, text, bytes);
        if (!t->others && !is_kind(t, "table")) read_beside_own(t, dir);
        json_decref(root);
        free(path);
        return t;
    }
    return NULL;
}

static void write_in(const char *dir, const char *name, json_t *root, size_t flags) {
    char *path = inside(dir, name);
    write_json(path, root, flags);
    free(path);
}

static void copy_in(const char *dir, const char *name, const char *text, size_t bytes) {
    char *path = inside(dir, name);
    write_whole_file(path, text, bytes);
    free(path);
}

static json_t *config_json(void) {
    return json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
}

static void save_others(const Tokenizer *t, const char *dir, bool qwen2) {
    copy_in(dir, "tokenizer.json", t->file[0].text, t->file[0].bytes);
    json_t *config = qwen2 && t->file[1].text ? parse("tokenizer_config.json", "configuration", t->file[1].text,
                                                      t->file[1].bytes, JSON_DECODE_INT_AS_REAL) : NULL;
    if (qwen2) write_in(dir, "tokenizer_config.json", bytelevel_as_written(config ? config : config_json()),
                        JSON_INDENT(2));
    else if (t->file[1].text) copy_in(dir, "tokenizer_config.json", t->file[1].text, t->file[1].bytes);
    else write_in(dir, "tokenizer_config.json", config_json(), JSON_INDENT(2));
}

// Ends that have no text go with the model that has them: another may have fewer tokens.
static void save_ends(const Tokenizer *t, const char *dir) {
    json_t *ends = json_array(), *generation = json_object();
    for (size_t i = 0; i < t->ends; i++)
        if ((size_t)t->end[i] < t->vocab) json_array_append_new(ends, json_integer(t->end[i]));
    json_object_set_new(generation, "eos_token_id", ends);
    if (t->begin >= 0) json_object_set_new(generation, "bos_token_id", json_integer(t->begin));
    if (t->ends || t->begin >= 0) write_in(dir, "generation_config.json", generation, JSON_INDENT(2));
    else json_decref(generation);
}

void tokenizer_save_dir(const Tokenizer *t, const char *dir) { tokenizer_save_beside(t, dir, NULL); }

void tokenizer_save_beside(const Tokenizer *t, const char *dir, const char *architecture) {
    bool hf = t->others || has_hf_form(t), qwen2 = architecture && strcmp(architecture, "Qwen2ForCausalLM") == 0;
    if (t->others) save_others(t, dir, qwen2);
    else if (hf) {
        write_in(dir, "tokenizer.json", hf_json(t), JSON_COMPACT);
        json_t *config = config_json();
        write_in(dir, "tokenizer_config.json", qwen2 ? bytelevel_as_written(config) : config, JSON_INDENT(2));
    } else write_in(dir, "tokenizer.receipts.json", tokenizer_json(t), JSON_COMPACT);
    save_ends(t, dir);
    char *other = inside(dir, names[hf ? 0 : 1]);               // of an older run: one file speaks
    remove_file(other);
    free(other);
}

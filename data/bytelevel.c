// bytelevel.c: reading Hugging Face's tokenizer.json, and encoding as its owner does.
#include "data/bytelevel.h"
#include "data/bpe.h"
#include "data/pattern.h"
#include "data/unicode.h"
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { STAGES = 16, LENGTHS = 64, AROUND = 16 };

typedef struct { bool strip_left, strip_right, special, normalized; int token; } Mark;
// Marks that are looked for at once: those of the text as it is, or those of the normalised text.
typedef struct { Strings content; size_t *mark, length[LENGTHS], lengths; bool starts[256]; } Finder;

struct ByteLevel {
    const char *path;
    Strings key; int *key_token;           // model.vocab: how a token is written, and its number
    size_t vocab, marked;                  // the largest token, and 1; the same of added tokens
    Bpe bpe;
    Strings whole; int *whole_token;       // ignore_merges: tokens by their bytes
    bool nfc, prefix_space;
    struct { Pattern *pattern; bool drops_rest; } stage[STAGES];
    size_t stages, spaced;                 // the space is set before stage number `spaced`
    Mark *mark; Strings mark_content;      // added tokens; of which so many are listed, not only named
    size_t listed;
    Finder finder[2];
    int around[2][AROUND]; size_t arounds[2];
    const char *text; size_t at, spelled_out, first_at; int first;     // the text that is encoded: its special tokens
};

// ---- letters -----------------------------------------------------------------------------------------
// GPT-2's bytes_to_unicode: a byte that Latin-1 prints is its own letter, the others are U+0100 and on.
static bool is_printed(unsigned c) { return (c > 32 && c < 127) || (c > 160 && c != 173); }

uint32_t bytelevel_letter(unsigned char byte) {
    uint32_t others = 0;
    if (is_printed(byte)) return byte;
    for (unsigned c = 0; c < byte; c++) others += !is_printed(c);
    return 256 + others;
}

static int byte_of_letter(uint32_t code) {
    static short table[256 + 68];
    static bool ready;
    if (!ready) {
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) table[i] = -1;
        for (int c = 0; c < 256; c++) table[bytelevel_letter((unsigned char)c)] = (short)c;
        ready = true;
    }
    return code < sizeof table / sizeof *table ? table[code] : -1;
}

size_t bytelevel_spell(char *out, const char *bytes, size_t n) {
    size_t length = 0;
    for (size_t i = 0; i < n; i++) length += utf8_put(out + length, bytelevel_letter((unsigned char)bytes[i]));
    return length;
}

size_t bytelevel_bytes(char *out, const char *letters, size_t n) {
    size_t count = 0;
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_length(letters + i, n - i);
        int byte = length ? byte_of_letter(utf8_code(letters + i, length)) : -1;
        if (byte < 0) return SIZE_MAX;
        out[count++] = (char)byte;
    }
    return count;
}

// ---- reading JSON ------------------------------------------------------------------------------------
static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}
static bool is_type(const json_t *object, const char *type) { return strcmp(text_of(object, "type"), type) == 0; }
static bool is_true(const json_t *object, const char *key) { return json_is_true(json_object_get(object, key)); }
// Absent, null, false, 0, or an empty text.
static bool is_nothing(const json_t *value) {
    bool empty = json_is_string(value) && json_string_length(value) == 0;
    return !value || json_is_null(value) || json_is_false(value) || empty;
}

// ---- model -------------------------------------------------------------------------------------------
static void refuse_other_models(const ByteLevel *b, const json_t *model) {
    static const char *const absent[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = text_of(model, "type");
    if (is_true(model, "byte_fallback"))
        fail("%s: a BPE over characters with byte_fallback, as SentencePiece makes for Llama 2, Mistral and Gemma; "
             "only byte-level BPE is read; give tokens as numbers instead", b->path);
    if (*type && strcmp(type, "BPE") != 0)
        fail("%s: its model is %s; only byte-level BPE is read; give tokens as numbers instead", b->path, type);
    for (size_t i = 0; i < 3; i++)
        if (!is_nothing(json_object_get(model, absent[i])) && json_number_value(json_object_get(model, absent[i])) != 0)
            fail("%s: \"%s\" of its model is set, which is not read", b->path, absent[i]);
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        fail("%s: its model should have an object \"vocab\" and an array \"merges\"", b->path);
}

static void read_vocab(ByteLevel *b, const json_t *vocab) {
    const char *key;
    size_t length;
    json_t *value;
    size_t count = json_object_size(vocab), most = 16 * count + (1 << 20), used = 0;
    b->key_token = xmalloc(size_mul(count, sizeof *b->key_token));
    json_object_keylen_foreach((json_t *)vocab, key, length, value) {
        json_int_t token = json_integer_value(value);
        if (!json_is_integer(value) || token < 0 || (size_t)token >= most)
            fail("%s: the token of \"%s\" in \"vocab\" is no number from 0 to %zu", b->path, key, most - 1);
        b->key_token[strings_add(&b->key, key, length)] = (int)token;
        if ((size_t)token >= b->vocab) b->vocab = (size_t)token + 1;
    }
    bool *taken = xmalloc(b->vocab);
    for (size_t i = 0; i < count; i++) {
        if (taken[b->key_token[i]]) fail("%s: token %d occurs twice in \"vocab\"", b->path, b->key_token[i]);
        taken[b->key_token[i]] = true, used++;
    }
    free(taken);
}

static int key_find(const ByteLevel *b, const char *key, size_t length) {
    size_t number = strings_find(&b->key, key, length);
    return number == SIZE_MAX ? -1 : b->key_token[number];
}

static void read_merge(ByteLevel *b, size_t i, const json_t *entry, char **both, size_t *room) {
    const char *left = json_string_value(entry), *right = left ? strchr(left, ' ') : NULL;
    size_t n = right ? (size_t)(right - left) : 0, m = right ? json_string_length(entry) - n - 1 : 0;
    if (right) right++;
    if (json_array_size(entry) == 2) {
        const json_t *l = json_array_get(entry, 0), *r = json_array_get(entry, 1);
        left = json_string_value(l), right = json_string_value(r);
        n = json_string_length(l), m = json_string_length(r);
    }
    if (!left || !right) fail("%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", b->path, i);
    if (n + m > *room) *both = xrealloc(*both, *room = 2 * (n + m) + 64);
    memcpy(*both, left, n), memcpy(*both + n, right, m);
    Merge merge = {key_find(b, left, n), key_find(b, right, m), key_find(b, *both, n + m)};
    if (merge.left < 0 || merge.right < 0 || merge.made < 0)
        fail("%s: merge %zu, \"%.*s\" and \"%.*s\", names or makes a token that \"vocab\" lacks", b->path, i, (int)n,
             left, (int)m, right);
    b->bpe.merge[i] = merge;
}

static void read_merges(ByteLevel *b, const json_t *merges) {
    char *both = NULL;
    size_t room = 0;
    b->bpe.merges = json_array_size(merges);
    b->bpe.merge = xmalloc(size_mul(b->bpe.merges, sizeof *b->bpe.merge));
    for (size_t i = 0; i < b->bpe.merges; i++) read_merge(b, i, json_array_get(merges, i), &both, &room);
    free(both);
    for (int c = 0; c < 256; c++) {
        char letter[4];
        b->bpe.byte[c] = key_find(b, letter, utf8_put(letter, bytelevel_letter((unsigned char)c)));
    }
    bpe_index(&b->bpe);
}

// A piece that is a token as a whole needs no merges (Llama 3).
static void read_whole(ByteLevel *b) {
    b->whole_token = xmalloc(size_mul(b->key.count, sizeof *b->whole_token));
    for (size_t i = 0; i < b->key.count; i++) {
        size_t n;
        const char *key = strings_get(&b->key, i, &n);
        char *bytes = xmalloc(n);
        size_t count = bytelevel_bytes(bytes, key, n);
        if (count != SIZE_MAX) b->whole_token[strings_add(&b->whole, bytes, count)] = b->key_token[i];
        free(bytes);
    }
    b->bpe.whole = &b->whole, b->bpe.whole_token = b->whole_token;
}

static void read_model(ByteLevel *b, const json_t *model) {
    refuse_other_models(b, model);
    read_vocab(b, json_object_get(model, "vocab"));
    read_merges(b, json_object_get(model, "merges"));
    if (is_true(model, "ignore_merges")) read_whole(b);
}

// ---- normalizer, pre-tokenizer, decoder ------------------------------------------------------------------
static void read_normalizer(ByteLevel *b, const json_t *n) {
    if (is_nothing(n)) return;
    const json_t *parts = json_object_get(n, "normalizers");
    if (is_type(n, "Sequence")) {
        for (size_t i = 0; i < json_array_size(parts); i++) read_normalizer(b, json_array_get(parts, i));
        return;
    }
    if (!is_type(n, "NFC"))
        fail("%s: its normalizer is %s; only NFC is read%s", b->path, text_of(n, "type"),
             is_type(n, "Prepend") || is_type(n, "Replace") ? " (SentencePiece, not byte-level BPE)" : "");
    b->nfc = true;
}

static void add_stage(ByteLevel *b, const char *pattern, size_t bytes, bool drops_rest) {
    const char *problem = "";
    if (b->stages == STAGES) fail("%s: its pre_tokenizer has more than %d steps", b->path, STAGES);
    Pattern *p = pattern_compile(pattern, bytes, &problem);
    if (!p) fail("%s: the pattern %.*s of its pre_tokenizer is not read: %s", b->path, (int)bytes, pattern, problem);
    b->stage[b->stages].pattern = p;
    b->stage[b->stages++].drops_rest = drops_rest;
}

static void read_split(ByteLevel *b, const json_t *split) {
    const json_t *pattern = json_object_get(json_object_get(split, "pattern"), "Regex");
    const char *behavior = text_of(split, "behavior");
    bool invert = is_true(split, "invert"), isolated = strcmp(behavior, "Isolated") == 0;
    if (!json_is_string(pattern)) fail("%s: a Split of its pre_tokenizer has no pattern \"Regex\"", b->path);
    if (!isolated && !(invert && strcmp(behavior, "Removed") == 0))
        fail("%s: a Split of its pre_tokenizer has the behavior %s%s; Isolated, or Removed with invert, is read",
             b->path, behavior, invert ? " with invert" : "");
    add_stage(b, json_string_value(pattern), json_string_length(pattern), !isolated);
}

// The one of GPT-2, which the library has built in.
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static void read_pre_tokenizer(ByteLevel *b, const json_t *p, bool *done) {
    const json_t *parts = json_object_get(p, "pretokenizers");
    if (is_type(p, "Sequence")) {
        for (size_t i = 0; i < json_array_size(parts); i++) read_pre_tokenizer(b, json_array_get(parts, i), done);
        return;
    }
    if (*done) fail("%s: its pre_tokenizer goes on behind ByteLevel, which is not read", b->path);
    if (is_type(p, "Split")) read_split(b, p);
    else if (is_type(p, "Digits"))
        is_true(p, "individual_digits") ? add_stage(b, "\\p{N}", 5, false) : add_stage(b, "\\p{N}+", 6, false);
    else if (is_type(p, "ByteLevel")) {
        const json_t *regex = json_object_get(p, "use_regex");
        b->prefix_space = is_true(p, "add_prefix_space"), b->spaced = b->stages;
        if (!regex || json_is_true(regex)) add_stage(b, byte_level_pattern, sizeof byte_level_pattern - 1, false);
        *done = true;
    } else
        fail("%s: its pre_tokenizer has %s%s; Split, Digits and ByteLevel are read%s", b->path,
             *text_of(p, "type") ? "a step " : "no step", text_of(p, "type"),
             is_type(p, "Metaspace") ? " (this is SentencePiece, not byte-level BPE)" : "");
}

static void read_cutting(ByteLevel *b, const json_t *root) {
    bool done = false;
    read_normalizer(b, json_object_get(root, "normalizer"));
    read_pre_tokenizer(b, json_object_get(root, "pre_tokenizer"), &done);
    if (!done) fail("%s: its pre_tokenizer has no ByteLevel; only byte-level BPE is read", b->path);
    const json_t *decoder = json_object_get(root, "decoder"), *parts = json_object_get(decoder, "decoders");
    if (is_type(decoder, "Sequence") && json_array_size(parts) == 1) decoder = json_array_get(parts, 0);
    const char *type = text_of(decoder, "type");
    if (!is_type(decoder, "ByteLevel"))
        fail("%s: its decoder is %s; ByteLevel was expected", b->path, *type ? type : "missing");
}

// ---- added tokens --------------------------------------------------------------------------------------
static void add_to_finder(const ByteLevel *b, Finder *f, const char *content, size_t length, size_t mark) {
    size_t number = strings_add(&f->content, content, length), i = 0;
    f->mark = xrealloc(f->mark, size_mul(number + 1, sizeof *f->mark));
    f->mark[number] = mark;
    f->starts[(unsigned char)content[0]] = true;
    while (i < f->lengths && f->length[i] > length) i++;
    if (i < f->lengths && f->length[i] == length) return;
    if (f->lengths == LENGTHS) fail("%s: its added tokens have more than %d lengths", b->path, LENGTHS);
    memmove(f->length + i + 1, f->length + i, (f->lengths - i) * sizeof *f->length);
    f->length[i] = length, f->lengths++;
}

static void prepare_finders(ByteLevel *b) {
    for (size_t i = 0, n; i < b->mark_content.count; i++) {
        const char *content = strings_get(&b->mark_content, i, &n);
        bool normalized = b->mark[i].normalized;
        char *composed = normalized && b->nfc ? unicode_nfc(content, n, &n) : NULL;
        add_to_finder(b, &b->finder[normalized], composed ? composed : content, n, i);
        free(composed);
    }
}

// The library counts the entries of its vocabulary, where the numbers have a gap too.
static int next_number(const ByteLevel *b) {
    size_t next = b->key.count;
    return (int)(b->marked > next ? b->marked : next);
}

// A token with the number that the file says (`token` >= 0), or comes to (-1). One that is there is what is said now.
static void add_mark(ByteLevel *b, const char *content, size_t length, Mark m) {
    int known = key_find(b, content, length);
    size_t before = strings_find(&b->mark_content, content, length);
    int next = known >= 0 ? known : before != SIZE_MAX ? b->mark[before].token : next_number(b);
    if (!length) return;
    if (m.token >= 0 && m.token != next)
        fail("%s: the added token \"%s\" has the number %d, but comes to %d", b->path, content, m.token, next);
    m.token = next;
    if ((size_t)next >= b->vocab) b->vocab = (size_t)next + 1;
    if ((size_t)next >= b->marked) b->marked = (size_t)next + 1;
    if (before != SIZE_MAX) {
        m.special |= b->mark[before].special;
        b->mark[before] = m;
        return;
    }
    size_t number = strings_add(&b->mark_content, content, length);
    b->mark = xrealloc(b->mark, size_mul(number + 1, sizeof *b->mark));
    b->mark[number] = m;
}

static void read_mark(ByteLevel *b, const json_t *entry, int token, bool named) {
    const json_t *content = json_object_get(entry, "content"), *normalized = json_object_get(entry, "normalized");
    if (!json_is_string(content)) fail("%s: an added token has no \"content\"", b->path);
    if (is_true(entry, "single_word"))
        fail("%s: the added token \"%s\" is a single_word, which is not read", b->path, json_string_value(content));
    bool special = is_true(entry, "special");
    Mark m = {is_true(entry, "lstrip"), is_true(entry, "rstrip"), special || named,
              normalized ? json_is_true(normalized) : !special, token};
    add_mark(b, json_string_value(content), json_string_length(content), m);
}

static void read_marks(ByteLevel *b, const json_t *marks) {
    for (size_t i = 0; i < json_array_size(marks); i++) {
        const json_t *entry = json_array_get(marks, i), *id = json_object_get(entry, "id");
        json_int_t token = json_integer_value(id);
        if (!json_is_integer(id) || token < 0 || token > INT_MAX / 2)
            fail("%s: added token %zu has no \"id\"", b->path, i);
        read_mark(b, entry, (int)token, false);
    }
}

// ---- what goes around a text -----------------------------------------------------------------------------
static void add_around(ByteLevel *b, int side, int token) {
    if (b->arounds[side] == AROUND) fail("%s: its template has more than %d tokens", b->path, AROUND);
    b->around[side][b->arounds[side]++] = token;
}

static void read_template(ByteLevel *b, const json_t *p) {
    const json_t *single = json_object_get(p, "single"), *known = json_object_get(p, "special_tokens");
    int side = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
        if (!special) {
            side = 1;
            continue;
        }
        const json_t *ids = json_object_get(json_object_get(known, text_of(special, "id")), "ids");
        if (!json_array_size(ids))
            fail("%s: its template names \"%s\", which has no \"ids\"", b->path, text_of(special, "id"));
        for (size_t j = 0; j < json_array_size(ids); j++) {
            const json_t *id = json_array_get(ids, j);
            bool number = json_is_integer(id) && json_integer_value(id) <= INT_MAX;
            add_around(b, side, number ? (int)json_integer_value(id) : -1);
        }
    }
}

static void read_post_processor(ByteLevel *b, const json_t *p) {
    if (is_nothing(p) || is_type(p, "ByteLevel")) return;      // which moves offsets alone
    const json_t *parts = json_object_get(p, "processors");
    if (is_type(p, "Sequence"))
        for (size_t i = 0; i < json_array_size(parts); i++) read_post_processor(b, json_array_get(parts, i));
    else if (is_type(p, "TemplateProcessing")) read_template(b, p);
    else
        fail("%s: its post_processor is %s; TemplateProcessing and ByteLevel are read", b->path, text_of(p, "type"));
}

// ---- the whole -------------------------------------------------------------------------------------------
ByteLevel *bytelevel_read(const json_t *root, const char *path) {
    ByteLevel *b = xmalloc(sizeof *b);
    b->path = xprintf("%s", path);
    read_model(b, json_object_get(root, "model"));
    read_cutting(b, root);
    read_marks(b, json_object_get(root, "added_tokens"));
    read_post_processor(b, json_object_get(root, "post_processor"));
    if (b->vocab == 0) fail("%s: it has no tokens", path);
    return b;
}

static int by_number(const void *a, const void *b) {
    long x = atol(*(const char *const *)a), y = atol(*(const char *const *)b);
    return (x > y) - (x < y);
}

static const char *content_of(const json_t *token) {
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

// A special token is its text, or an object with it. One that is listed stays as it is; of those that are only named,
// the last word counts.
static int read_named(ByteLevel *b, const json_t *value, bool named) {
    const char *text = content_of(value);
    if (is_nothing(value) || !text) return -1;
    size_t known = strings_find(&b->mark_content, text, strlen(text));
    if (known == SIZE_MAX || known >= b->listed) {
        if (json_is_object(value)) read_mark(b, value, -1, named);
        else add_mark(b, text, strlen(text), (Mark){.special = true, .token = -1});
    }
    return bytelevel_find(b, text);
}

static bool ends_with(const char *key, const char *end) {
    size_t n = strlen(key), m = strlen(end);
    return n > m && strcmp(key + n - m, end) == 0;
}

static bool is_named(const json_t *settings, const char *text) {
    const json_t *objects[] = {settings, json_object_get(settings, "model_specific_special_tokens")};
    const char *key;
    json_t *value;
    for (size_t i = 0; i < 2; i++)
        json_object_foreach((json_t *)objects[i], key, value) {
            const char *content = i || ends_with(key, "_token") ? content_of(value) : NULL;
            if (content && strcmp(content, text) == 0) return true;
        }
    return false;
}

static void read_listed(ByteLevel *b, const json_t *settings) {
    const json_t *list = json_object_get(settings, "added_tokens_decoder");
    size_t count = 0;
    const char **id = xmalloc(size_mul(json_object_size(list) + 1, sizeof *id)), *key;
    json_t *entry;
    json_object_foreach((json_t *)list, key, entry) id[count++] = key;
    qsort(id, count, sizeof *id, by_number);
    for (size_t i = 0; i < count; i++) {
        long token = atol(id[i]);
        if (token < 0 || token > INT_MAX / 2) fail("%s: added token %s has no number", b->path, id[i]);
        entry = json_object_get(list, id[i]);
        read_mark(b, entry, (int)token, is_named(settings, text_of(entry, "content")));
    }
    free(id);
}

static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
                                    "mask_token"};
enum { NAMES = sizeof names / sizeof *names };

static bool is_name(const char *key) {
    for (size_t i = 0; i < NAMES; i++)
        if (strcmp(names[i], key) == 0) return true;
    return false;
}

// Any key NAME_token that is none of those seven: a token of that model; and those of an object.
static void read_models_own(ByteLevel *b, const json_t *settings) {
    const char *key;
    json_t *value;
    for (int texts = 0; texts < 2; texts++)                     // objects come first
        json_object_foreach((json_t *)settings, key, value) {
            bool token = ends_with(key, "_token") && !is_name(key);
            if (token && json_is_string(value) == texts) read_named(b, value, true);
        }
    json_object_foreach(json_object_get(settings, "model_specific_special_tokens"), key, value)
        read_named(b, value, true);
}

static void add_plain(ByteLevel *b, const char *text) {
    if (text) add_mark(b, text, strlen(text), (Mark){.special = true, .token = -1});
}

// Qwen2Tokenizer adds all that are named once more, as marks that take no white space.
static void add_again(ByteLevel *b, const json_t *settings) {
    const json_t *list = json_object_get(settings, "extra_special_tokens");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)settings, key, value)
        if (ends_with(key, "_token")) add_plain(b, content_of(value));
    json_object_foreach(json_object_get(settings, "model_specific_special_tokens"), key, value)
        add_plain(b, content_of(value));
    for (size_t i = 0; i < json_array_size(list); i++) add_plain(b, content_of(json_array_get(list, i)));
}

// transformers' TokenizersBackend: tokens that are named and not in tokenizer.json yet are added. What stands around a
// prompt comes from tokenizer.json's template alone: add_bos_token and add_eos_token are not obeyed beside it.
void bytelevel_configure(ByteLevel *b, const json_t *settings, const char *path) {
    int named[NAMES];
    free((char *)b->path), b->path = xprintf("%s", path);
    if (is_true(settings, "split_special_tokens")) fail("%s: split_special_tokens is not read", path);
    read_listed(b, settings);
    b->listed = b->mark_content.count;
    for (size_t i = 0; i < NAMES; i++) named[i] = read_named(b, json_object_get(settings, names[i]), true);
    read_models_own(b, settings);
    const json_t *list = json_object_get(settings, "extra_special_tokens");
    for (size_t j = 0; j < json_array_size(list); j++) read_named(b, json_array_get(list, j), false);
    if (is_true(settings, "readds_special_tokens")) add_again(b, settings);
    static const char *const adds[] = {"add_bos_token", "add_eos_token"};
    for (int i = 0; i < 2; i++)
        if (is_true(settings, adds[i]) && named[i] >= 0 && !b->arounds[i])
            print_line(stderr, "note     %s: %s is true, but the template of tokenizer.json has no such token, and "
                       "transformers 5 obeys that\n", path, adds[i]);
}

// Where tokens are: 2 * number + which of the two lists, and 1; 0: nowhere.
static size_t *find_places(const ByteLevel *b) {
    const Strings *from[2] = {&b->key, &b->mark_content};
    size_t *place = xmalloc(size_mul(b->vocab, sizeof *place)), n, m = 0;
    for (size_t w = 0; w < 2; w++)
        for (size_t i = 0; i < from[w]->count; i++) {
            size_t *p = &place[w ? b->mark[i].token : b->key_token[i]];
            const char *text = strings_get(from[w], i, &n);
            const char *before = *p ? strings_get(from[(*p - 1) % 2], (*p - 1) / 2, &m) : NULL;
            if (before && (n != m || memcmp(text, before, n) != 0))
                fail("%s: the added token \"%.*s\" comes to the number %d (its vocabulary has %zu entries, and gaps in "
                     "their numbers), which is that of \"%.*s\"; give it a number of its own in the vocabulary of "
                     "tokenizer.json", b->path, (int)n, text, b->mark[i].token, b->key.count, (int)m, before);
            *p = 2 * i + w + 1;
        }
    return place;
}

void bytelevel_finish(ByteLevel *b, Strings *tokens) {
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < b->arounds[side]; i++)
            if (b->around[side][i] < 0 || (size_t)b->around[side][i] >= b->vocab)
                fail("%s: its template has a token that it does not have", b->path);
    const Strings *from[2] = {&b->key, &b->mark_content};
    size_t *place = find_places(b);
    for (size_t t = 0, n; t < b->vocab; t++) {
        size_t which = place[t] ? (place[t] - 1) % 2 : 0, number = place[t] ? (place[t] - 1) / 2 : 0;
        const char *written = place[t] ? strings_get(from[which], number, &n) : (n = 0, "");
        char *composed = which && b->nfc && b->mark[number].normalized ? unicode_nfc(written, n, &n) : NULL;
        if (composed) written = composed;
        char *bytes = xmalloc(n);
        size_t count = bytelevel_bytes(bytes, written, n);
        if (count == SIZE_MAX) strings_add(tokens, written, n);
        else strings_add(tokens, bytes, count);
        free(bytes), free(composed);
    }
    free(place);
    prepare_finders(b);
}

static int by_token(const void *a, const void *b) {
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));
    return (x > y) - (x < y);
}

json_t *bytelevel_marks(const ByteLevel *b) {
    size_t count = b->mark_content.count, n;
    json_t **mark = xmalloc(size_mul(count + 1, sizeof(json_t *))), *all = json_array();
    for (size_t i = 0; i < count; i++) {
        const char *content = strings_get(&b->mark_content, i, &n);
        const Mark *m = &b->mark[i];
        mark[i] = json_pack("{s:i, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", m->token, "content", content, n,
                            "single_word", 0, "lstrip", m->strip_left, "rstrip", m->strip_right, "normalized",
                            m->normalized, "special", m->special);
    }
    qsort(mark, count, sizeof *mark, by_token);
    for (size_t i = 0; i < count; i++) json_array_append_new(all, mark[i]);
    free(mark);
    return all;
}

size_t bytelevel_vocab(const ByteLevel *b) { return b->vocab; }

int bytelevel_find(const ByteLevel *b, const char *content) {
    size_t mark = strings_find(&b->mark_content, content, strlen(content));
    return mark != SIZE_MAX ? b->mark[mark].token : key_find(b, content, strlen(content));
}

bool bytelevel_is_special(const ByteLevel *b, int token) {
    for (size_t i = 0; i < b->mark_content.count; i++)
        if (b->mark[i].token == token) return b->mark[i].special;
    return false;
}

size_t bytelevel_around(const ByteLevel *b, int side, const int **tokens) {
    *tokens = b->around[side];
    return b->arounds[side];
}

void bytelevel_free(ByteLevel *b) {
    if (!b) return;
    for (size_t i = 0; i < b->stages; i++) pattern_free(b->stage[i].pattern);
    for (size_t i = 0; i < 2; i++) strings_free(&b->finder[i].content), free(b->finder[i].mark);
    strings_free(&b->key), strings_free(&b->whole), strings_free(&b->mark_content);
    bpe_free(&b->bpe);
    free(b->key_token), free(b->whole_token), free(b->mark), free((char *)b->path);
    free(b);
}

// ---- encoding --------------------------------------------------------------------------------------------
typedef struct { int *token; size_t count, capacity; const char *path; } Out;

static int *room_for(Out *o, size_t more) {
    if (o->count + more > o->capacity) {
        o->capacity = o->capacity + o->capacity / 2 + more + 64;
        o->token = xrealloc(o->token, size_mul(o->capacity, sizeof *o->token));
    }
    return o->token + o->count;
}

static void encode_chunk(ByteLevel *b, const char *chunk, size_t bytes, Out *o) {
    size_t count = bpe_encode_chunk(&b->bpe, chunk, bytes, room_for(o, bytes));
    if (count == SIZE_MAX)
        fail("%s: its vocabulary has no token for a byte of \"%.*s\"", o->path,
             (int)utf8_valid_length(chunk, smaller(bytes, 40)), chunk);
    o->count += count;
}

static void cut(ByteLevel *b, size_t stage, const char *text, size_t bytes, Out *o);

static void cut_by_pattern(ByteLevel *b, size_t stage, const char *text, size_t bytes, Out *o) {
    size_t rest = 0;                        // begin of what no match has taken
    for (size_t at = 0, n; at < bytes; at += n) {
        n = pattern_match(b->stage[stage].pattern, text + at, bytes - at);
        if (n == SIZE_MAX)
            fail("%s: step %zu of its pre_tokenizer is a pattern that goes back too often to cut \"%.*s\"...", b->path,
                 stage + 1, (int)utf8_valid_length(text + at, smaller(bytes - at, 40)), text + at);
        if (!n) {
            n = utf8_length(text + at, bytes - at);
            if (at + n < bytes) continue;
            at += n, n = 0;
        }
        if (at > rest && !b->stage[stage].drops_rest) cut(b, stage + 1, text + rest, at - rest, o);
        if (n) cut(b, stage + 1, text + at, n, o);
        rest = at + n;
    }
}

// A piece of the text through this step and those behind it.
static void cut(ByteLevel *b, size_t stage, const char *text, size_t bytes, Out *o) {
    char *spaced = NULL;
    if (b->prefix_space && stage == b->spaced && text[0] != ' ') {
        spaced = xmalloc(bytes + 1);
        spaced[0] = ' ';
        memcpy(spaced + 1, text, bytes);
        text = spaced, bytes++;
    }
    if (stage == b->stages) encode_chunk(b, text, bytes, o);
    else cut_by_pattern(b, stage, text, bytes, o);
    free(spaced);
}

static size_t spaces_before(const char *text, size_t from, size_t at) {
    while (at > from) {
        size_t n = 1;
        while (n < at - from && ((unsigned char)text[at - n] & 0xC0) == 0x80) n++;
        if (!(unicode_classes(utf8_code(text + at - n, n)) >> UNICODE_SPACE & 1)) break;
        at -= n;
    }
    return at;
}

static size_t spaces_behind(const char *text, size_t at, size_t bytes) {
    for (size_t n; at < bytes; at += n) {
        n = utf8_length(text + at, bytes - at);
        if (!(unicode_classes(utf8_code(text + at, n)) >> UNICODE_SPACE & 1)) break;
    }
    return at;
}

// The longest mark that starts here, or SIZE_MAX.
static size_t mark_here(const Finder *f, const char *text, size_t bytes) {
    for (size_t i = 0; i < f->lengths && f->starts[(unsigned char)text[0]]; i++) {
        size_t found = f->length[i] <= bytes ? strings_find(&f->content, text, f->length[i]) : SIZE_MAX;
        if (found != SIZE_MAX) return found;
    }
    return SIZE_MAX;
}

static void find_marks(ByteLevel *b, int which, const char *text, size_t bytes, Out *o);

// What no mark of this kind has taken.
static void encode_rest(ByteLevel *b, int which, const char *text, size_t bytes, Out *o) {
    if (which == 1) {
        if (bytes) cut(b, 0, text, bytes, o);
        return;
    }
    b->at = (size_t)(text - b->text);
    size_t length;
    char *composed = b->nfc ? unicode_nfc(text, bytes, &length) : NULL;
    find_marks(b, 1, composed ? composed : text, composed ? length : bytes, o);
    free(composed);
}

// AddedVocabulary::find_matches of the library: marks from the left, the longest one first, taking the white space at
// their sides where they say so.
static void find_marks(ByteLevel *b, int which, const char *text, size_t bytes, Out *o) {
    const Finder *f = &b->finder[which];
    size_t done = 0;
    for (size_t at = 0; at < bytes;) {
        size_t found = mark_here(f, text + at, bytes - at);
        if (found == SIZE_MAX) {
            at++;
            continue;
        }
        size_t length;
        strings_get(&f->content, found, &length);
        const Mark *m = &b->mark[f->mark[found]];
        size_t start = m->strip_left ? spaces_before(text, done < at ? done : at, at) : at;
        size_t end = m->strip_right ? spaces_behind(text, at + length, bytes) : at + length;
        if (start > done) encode_rest(b, which, text + done, start - done, o);
        if (which == 0) b->at = (size_t)(text - b->text) + at;
        if (m->special && b->spelled_out++ == 0) b->first_at = b->at, b->first = m->token;
        *room_for(o, 1) = m->token, o->count++;
        done = end, at += length;
    }
    if (bytes > done) encode_rest(b, which, text + done, bytes - done, o);
}

size_t bytelevel_encode(ByteLevel *b, const char *text, size_t bytes, int **tokens) {
    size_t valid = utf8_valid_length(text, bytes);
    if (valid < bytes)
        fail("byte %zu of the text (0x%02x) is not UTF-8, which this tokenizer cannot take", valid,
             (unsigned char)text[valid]);
    Out o = {.path = b->path};
    b->text = text, b->spelled_out = 0;
    room_for(&o, 1);
    find_marks(b, 0, text, bytes, &o);
    *tokens = o.token;
    return o.count;
}

size_t bytelevel_spelled_out(const ByteLevel *b, size_t *at, int *token) {
    *at = b->first_at, *token = b->first;
    return b->spelled_out;
}

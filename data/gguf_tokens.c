// gguf_tokens.c: see gguf_tokens.h.
#include "data/gguf_tokens.h"
#include "data/bytelevel.h"
#include "data/strings.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

// ---- ways to cut a text ----------------------------------------------------------------------------
// llama.cpp's names (src/llama-vocab.cpp) and the patterns that they are, one after the other, as the tokenizer.json
// have them that it was made for. composed: those ask for NFC, which llama.cpp does not do. whole: a piece that is a
// token needs no merges. begins: a prompt gets the token for a begin unless the file says otherwise.
#define ENGLISH "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define REST "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2_CUT "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK_CUT "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+" REST
enum { MOST_STEPS = 4 };
typedef struct { const char *name; bool composed, whole, begins; const char *step[MOST_STEPS]; } Cut;
static const Cut cuts[] = {
    {"gpt-2", false, false, false, {GPT2_CUT}},
    {"llama-bpe", false, true, true, {ENGLISH "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+" REST}},
    {"qwen2", true, false, false, {ENGLISH "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+" REST}},
    {"deepseek-v3", false, false, false, {DEEPSEEK_CUT}},
    {"smollm", false, false, false, {"\\p{N}", GPT2_CUT}},
};
enum { CUTS = sizeof cuts / sizeof *cuts };
// Other names of the same, in files that others wrote.
static const struct { const char *other, *name; } same_cuts[] = {
    {"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"deepseek-r1-qwen", "qwen2"}, {"megrez", "qwen2"},
    {"phi-2", "gpt-2"}, {"gpt2", "gpt-2"},
};

typedef struct { char *step[MOST_STEPS]; size_t steps; bool known, prefix; } Steps;

static const char *text_in(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

// The pattern with \r and \n for those characters themselves.
static void add_step(Steps *s, const char *pattern) {
    if (s->steps == MOST_STEPS) {
        s->known = false;
        return;
    }
    char *out = s->step[s->steps++] = xmalloc(2 * strlen(pattern) + 1);
    for (; *pattern; pattern++)
        if (*pattern == '\r' || *pattern == '\n') *out++ = '\\', *out++ = *pattern == '\r' ? 'r' : 'n';
        else *out++ = *pattern;
}

static void read_steps(Steps *s, const json_t *p) {
    const char *type = text_in(p, "type");
    const json_t *parts = json_object_get(p, "pretokenizers"), *regex = json_object_get(p, "use_regex");
    const json_t *pattern = json_object_get(json_object_get(p, "pattern"), "Regex");
    if (strcmp(type, "Sequence") == 0)
        for (size_t i = 0; i < json_array_size(parts); i++) read_steps(s, json_array_get(parts, i));
    else if (strcmp(type, "Split") == 0 && json_is_string(pattern) && !json_is_true(json_object_get(p, "invert")))
        add_step(s, json_string_value(pattern));
    else if (strcmp(type, "Digits") == 0 && json_is_true(json_object_get(p, "individual_digits")))
        add_step(s, "\\p{N}");
    else if (strcmp(type, "ByteLevel") == 0) {
        s->prefix |= json_is_true(json_object_get(p, "add_prefix_space"));
        if (!regex || json_is_true(regex)) add_step(s, GPT2_CUT);
    } else s->known = false;
}

static bool same_steps(const Steps *s, const Cut *c) {
    for (size_t i = 0; i < MOST_STEPS; i++)
        if (!c->step[i] || i >= s->steps) return !c->step[i] && i == s->steps;
        else if (strcmp(c->step[i], s->step[i]) != 0) return false;
    return s->steps == MOST_STEPS;
}

// ---- written -----------------------------------------------------------------------------------------
typedef enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 } TokenType;       // llama.cpp's
typedef struct { const char **text; TokenType *type; size_t count; } Table;

static const char *cut_of(const json_t *root, const Cut **found) {
    const json_t *model = json_object_get(root, "model"), *normalizer = json_object_get(root, "normalizer");
    Steps s = {.known = true};
    read_steps(&s, json_object_get(root, "pre_tokenizer"));
    for (size_t i = 0; s.known && i < CUTS && !*found; i++)
        if (same_steps(&s, &cuts[i])) *found = &cuts[i];
    for (size_t i = 0; i < s.steps; i++) free(s.step[i]);
    if (!*found) return "llama.cpp knows no pre-tokenizer that cuts texts as this one does";
    if (s.prefix) return "llama.cpp puts no space before a text (add_prefix_space)";
    bool composed = strcmp(text_in(normalizer, "type"), "NFC") == 0;
    if (normalizer && !json_is_null(normalizer) && !composed) return "llama.cpp has no such normalizer";
    bool whole = json_is_true(json_object_get(model, "ignore_merges"));
    if (whole != (*found)->whole) return "llama.cpp takes ignore_merges from the pre-tokenizer, and otherwise";
    if (composed != (*found)->composed && composed) return "llama.cpp does not compose characters (NFC)";
    return NULL;
}

// Every token once, by its number; false where one is there twice, or two have one text.
static bool fill(Table *t, const json_t *root) {
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    const json_t *marks = json_object_get(root, "added_tokens");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        size_t token = (size_t)json_integer_value(value);
        if (token >= t->count || t->text[token]) return false;
        t->text[token] = key, t->type[token] = NORMAL;
    }
    for (size_t i = 0; i < json_array_size(marks); i++) {
        const json_t *mark = json_array_get(marks, i);
        size_t token = (size_t)json_integer_value(json_object_get(mark, "id"));
        if (token >= t->count) return false;
        t->text[token] = text_in(mark, "content");
        t->type[token] = json_is_true(json_object_get(mark, "special")) ? CONTROL : USER_DEFINED;
    }
    return true;
}

static void write_tokens(GgufHead *h, const Table *t) {
    gguf_begin_array(h, "tokenizer.ggml.tokens", GGUF_STRING, t->count);
    for (size_t i = 0; i < t->count; i++) {
        char pad[32];
        snprintf(pad, sizeof pad, "[PAD%zu]", i);
        const char *text = t->text[i] ? t->text[i] : pad;
        gguf_add_text(h, text, strlen(text));
    }
    gguf_begin_array(h, "tokenizer.ggml.token_type", GGUF_I32, t->count);
    for (size_t i = 0; i < t->count; i++) gguf_add_int(h, t->text[i] ? (int32_t)t->type[i] : UNUSED);
}

static bool differ(const Table *t) {
    Strings all = {0};
    bool good = true;
    for (size_t i = 0; i < t->count && good; i++) {
        const char *text = t->text[i];
        if (!text) continue;
        good = *text && strncmp(text, "[PAD", 4) != 0 && strings_find(&all, text, strlen(text)) == SIZE_MAX;
        strings_add(&all, text, strlen(text));
    }
    strings_free(&all);
    return good;
}

static void write_merges(GgufHead *h, const json_t *merges) {
    gguf_begin_array(h, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        const char *pair = json_string_value(m), *left = json_string_value(json_array_get(m, 0));
        char *joined = pair ? xprintf("%s", pair) : xprintf("%s %s", left, json_string_value(json_array_get(m, 1)));
        gguf_add_text(h, joined, strlen(joined));
        free(joined);
    }
}

// ---- tokens that are bytes -----------------------------------------------------------------------------
// The byte that a token of `byte` or `char` is: in a BPE without merges a letter, in a table of characters one of ASCII
// (llama.cpp goes round in circles where another character begins like one that it has). -1: it is no single byte.
static int byte_of(const char *text, bool letters) {
    char byte[8];
    if (!letters) return text[0] && !text[1] && (unsigned char)text[0] < 128 ? (unsigned char)text[0] : -1;
    return strlen(text) < 4 && bytelevel_bytes(byte, text, strlen(text)) == 1 ? (unsigned char)byte[0] : -1;
}

static bool bytes_of(int *byte, size_t count, const json_t *root) {
    const json_t *model = json_object_get(root, "model");
    bool letters = strcmp(text_in(model, "type"), "BPE") == 0, newline = false;
    const char *key;
    json_t *value;
    if (json_array_size(json_object_get(model, "merges")) || json_array_size(json_object_get(root, "added_tokens")))
        return false;
    for (size_t i = 0; i < count; i++) byte[i] = -1;
    json_object_foreach(json_object_get(model, "vocab"), key, value) {
        size_t token = (size_t)json_integer_value(value);
        if (token >= count || (byte[token] = byte_of(key, letters)) < 0) return false;
        newline |= byte[token] == '\n';
    }
    return newline;         // llama.cpp asks for it
}

// As "rwkv", the longest token first, which for bytes is any order; and it has no token for an end unless there is one:
// of gpt2 llama.cpp takes number 11 for it. Its texts are escaped; what fills up is no UTF-8.
static void write_bytes(GgufHead *h, const int *byte, size_t count) {
    gguf_put_text(h, "tokenizer.ggml.model", "rwkv");
    gguf_begin_array(h, "tokenizer.ggml.tokens", GGUF_STRING, count);
    for (size_t i = 0; i < count; i++) {
        char text[40];
        bool plain = byte[i] > 32 && byte[i] < 127 && byte[i] != '\\';
        if (byte[i] < 0) snprintf(text, sizeof text, "\\xff\\xfe%zu", i);
        else snprintf(text, sizeof text, plain ? "%c" : "\\x%02x", byte[i]);
        gguf_add_text(h, text, strlen(text));
    }
    gguf_begin_array(h, "tokenizer.ggml.token_type", GGUF_I32, count);
    for (size_t i = 0; i < count; i++) gguf_add_int(h, byte[i] < 0 ? UNUSED : NORMAL);
}

static void write_ids(GgufHead *h, const GgufTokensOut *t) {
    if (t->begin >= 0) gguf_put_count(h, "tokenizer.ggml.bos_token_id", (size_t)t->begin);
    if (t->end[0] >= 0) gguf_put_count(h, "tokenizer.ggml.eos_token_id", (size_t)t->end[0]);
    if (t->end[1] >= 0) gguf_put_count(h, "tokenizer.ggml.eot_token_id", (size_t)t->end[1]);
    gguf_put_bool(h, "tokenizer.ggml.add_bos_token", t->adds_begin);
    gguf_put_bool(h, "tokenizer.ggml.add_eos_token", t->adds_end);
}

static const char *write_known(GgufHead *h, const GgufTokensOut *t) {
    const Cut *cut = NULL;
    const json_t *root = t->root;
    if (!root) return "llama.cpp has no such tokenizer";
    int *byte = xmalloc((t->vocab + 1) * sizeof *byte);
    bool bytes = bytes_of(byte, t->vocab, root);
    if (bytes) write_bytes(h, byte, t->vocab);
    free(byte);
    if (bytes) return NULL;
    const char *missing = t->one_around ? cut_of(root, &cut) : "llama.cpp puts one token before and behind a prompt";
    Table all = {xmalloc((t->vocab + 1) * sizeof *all.text), xmalloc((t->vocab + 1) * sizeof *all.type), t->vocab};
    if (!missing && t->end[0] < 0) missing = "llama.cpp takes token 11 for the end of a text where none is named";
    if (!missing && (!fill(&all, root) || !differ(&all)))
        missing = "llama.cpp needs tokens with texts that differ, and no more of them than the model has";
    if (!missing) {
        gguf_put_text(h, "tokenizer.ggml.model", "gpt2");
        gguf_put_text(h, "tokenizer.ggml.pre", cut->name);
        write_tokens(h, &all);
        write_merges(h, json_object_get(json_object_get(root, "model"), "merges"));
    }
    free(all.text), free(all.type);
    return missing;
}

static void write_json(GgufHead *h, const char *key, const json_t *root) {
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    if (text) gguf_put_text(h, key, text);
    free(text);
}

const char *gguf_tokens_write(GgufHead *h, const GgufTokensOut *t) {
    write_json(h, "tokenizer.huggingface.json", t->root);
    write_json(h, "tokenizer.receipts.json", t->own);
    const char *missing = write_known(h, t);
    if (missing) gguf_put_text(h, "tokenizer.ggml.model", "none");
    write_ids(h, t);
    return missing;
}

// ---- read ----------------------------------------------------------------------------------------------
static bool is_text(const GgufKey *k, const char *text) {
    return k && k->kind == GGUF_STRING && k->text[0].bytes == strlen(text) &&
           memcmp(k->text[0].at, text, k->text[0].bytes) == 0;
}

static void refuse(const Gguf *g, const char *key, const char *expected) {
    fail("%s: the key %s is not as expected: %s", g->path, key, expected);
}

// Some files have -1 or 2^32 - 1 for a token that is not there.
static int token_in(const Gguf *g, const char *key) {
    const GgufKey *k = gguf_key(g, key);
    if (!k) return -1;
    if (k->kind == GGUF_ARRAY || !gguf_is_integer(k)) refuse(g, key, "one whole number");
    double n = gguf_number(k, 0);
    return n >= 0 && n < INT_MAX ? (int)n : -1;
}

static const Cut *cut_named(const Gguf *g) {
    const GgufKey *pre = gguf_key(g, "tokenizer.ggml.pre");
    char known[256] = "";
    for (size_t i = 0; i < CUTS; i++) {
        if (is_text(pre, cuts[i].name)) return &cuts[i];
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", cuts[i].name);
        for (size_t j = 0; j < sizeof same_cuts / sizeof *same_cuts; j++)
            if (strcmp(same_cuts[j].name, cuts[i].name) == 0 && is_text(pre, same_cuts[j].other)) return &cuts[i];
    }
    bool text = pre && pre->kind == GGUF_STRING;
    fail("%s: its pre-tokenizer is %.*s; %s are read; give tokens as numbers instead", g->path,
         text ? (int)smaller(pre->text[0].bytes, 60) : 6, text ? pre->text[0].at : "absent", known);
}

static json_t *pre_tokenizer_of(const Cut *c) {
    json_t *steps = json_array();
    for (size_t i = 0; i < MOST_STEPS && c->step[i]; i++)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                               c->step[i], "behavior", "Isolated", "invert", 0));
    json_array_append_new(steps, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                           "trim_offsets", 0, "use_regex", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

static const GgufKey *texts_in(const Gguf *g, const char *key) {
    const GgufKey *k = gguf_key(g, key);
    if (!k || k->kind != GGUF_ARRAY || k->item != GGUF_STRING) fail("%s: the key %s, texts, is missing", g->path, key);
    return k;
}

static json_t *text_as_json(const Gguf *g, const GgufKey *k, size_t i) {
    json_t *text = json_stringn(k->text[i].at, k->text[i].bytes);
    if (!text || memchr(k->text[i].at, '\0', k->text[i].bytes))
        fail("%s: number %zu of %s is not UTF-8, or has a NUL", g->path, i, k->name);
    return text;
}

// A token that is a mark is one also by its entry among the others.
static void read_tokens(const Gguf *g, json_t *vocab, json_t *marks) {
    const GgufKey *tokens = texts_in(g, "tokenizer.ggml.tokens"), *types = gguf_key(g, "tokenizer.ggml.token_type");
    bool typed = types && types->item == GGUF_I32 && types->count == tokens->count;
    if (types && !typed) fail("%s: tokenizer.ggml.token_type should have a number for each token", g->path);
    for (size_t i = 0; i < tokens->count; i++) {
        TokenType type = typed ? (TokenType)(int)gguf_number(types, i) : NORMAL;
        if (type == UNUSED) continue;
        json_t *text = text_as_json(g, tokens, i);
        if (json_object_get(vocab, json_string_value(text)))
            fail("%s: token %zu has the text of another", g->path, i);
        json_object_set_new(vocab, json_string_value(text), json_integer((json_int_t)i));
        if (type == CONTROL || type == USER_DEFINED)
            json_array_append_new(marks, json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i,
                                                   "content", text, "single_word", 0, "lstrip", 0, "rstrip", 0,
                                                   "normalized", 0, "special", type == CONTROL));
        json_decref(text);
    }
}

static bool adds(const Gguf *g, const char *key, bool absent) {
    const GgufKey *k = gguf_key(g, key);
    if (k && k->kind != GGUF_BOOL) refuse(g, key, "true or false, as llama.cpp asks for it");
    return k ? gguf_number(k, 0) != 0 : absent;
}

static void add_to_template(json_t *single, json_t *special, int token) {
    char name[16];
    snprintf(name, sizeof name, "%d", token);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name, "type_id", 0));
    json_object_set_new(special, name, json_pack("{s:s, s:[i]}", "id", name, "ids", token));
}

static json_t *template_of(const Gguf *g, const Cut *c, const GgufTokens *t) {
    json_t *single = json_array(), *special = json_object();
    bool before = t->begin >= 0 && adds(g, "tokenizer.ggml.add_bos_token", c->begins);
    bool after = t->end[0] >= 0 && adds(g, "tokenizer.ggml.add_eos_token", false);
    if (before) add_to_template(single, special, t->begin);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (after) add_to_template(single, special, t->end[0]);
    return json_pack("{s:s, s:o, s:o}", "type", "TemplateProcessing", "single", single, "special_tokens", special);
}

static json_t *read_bpe(const Gguf *g, const GgufTokens *t) {
    const Cut *c = cut_named(g);
    const GgufKey *pairs = texts_in(g, "tokenizer.ggml.merges");
    json_t *vocab = json_object(), *marks = json_array(), *merges = json_array();
    if (adds(g, "tokenizer.ggml.add_space_prefix", false))
        fail("%s: tokenizer.ggml.add_space_prefix beside byte-level BPE is not read", g->path);
    read_tokens(g, vocab, marks);
    for (size_t i = 0; i < pairs->count; i++) json_array_append_new(merges, text_as_json(g, pairs, i));
    return json_pack("{s:o, s:o, s:o, s:o, s:{s:s}, s:{s:s, s:o, s:o, s:b}}", "added_tokens", marks, "normalizer",
                     c->composed ? json_pack("{s:s}", "type", "NFC") : json_null(), "pre_tokenizer",
                     pre_tokenizer_of(c), "post_processor", template_of(g, c, t), "decoder", "type", "ByteLevel",
                     "model", "type", "BPE", "vocab", vocab, "merges", merges, "ignore_merges", c->whole);
}

static bool is_none(const GgufKey *model) { return !model || is_text(model, "none") || is_text(model, "no_vocab"); }

static const GgufKey *whole_in(const Gguf *g) {
    const GgufKey *own = gguf_key(g, "tokenizer.receipts.json"), *theirs = gguf_key(g, "tokenizer.huggingface.json");
    return own && own->kind == GGUF_STRING ? own : theirs && theirs->kind == GGUF_STRING ? theirs : NULL;
}

bool gguf_tokens_in(const char *path) {
    Gguf *g = gguf_open(path);
    bool there = whole_in(g) || !is_none(gguf_key(g, "tokenizer.ggml.model"));
    gguf_close(g);
    return there;
}

GgufTokens gguf_tokens_read(const char *path) {
    Gguf *g = gguf_open(path);
    GgufTokens t = {.begin = token_in(g, "tokenizer.ggml.bos_token_id"),
                    .end = {token_in(g, "tokenizer.ggml.eos_token_id"), token_in(g, "tokenizer.ggml.eot_token_id")}};
    const GgufKey *model = gguf_key(g, "tokenizer.ggml.model"), *whole = whole_in(g);
    if (whole)
        t.json = xprintf("%.*s", (int)smaller(whole->text[0].bytes, INT_MAX), whole->text[0].at);
    else if (is_text(model, "gpt2")) {
        json_t *root = read_bpe(g, &t);
        t.json = json_dumps(root, JSON_COMPACT);
        json_decref(root);
    } else if (!is_none(model)) {
        bool text = model->kind == GGUF_STRING;
        fail("%s: its tokenizer is %.*s%s; only gpt2, byte-level BPE, is read; give tokens as numbers instead", path,
             text ? (int)smaller(model->text[0].bytes, 40) : 1, text ? model->text[0].at : "?",
             is_text(model, "llama") ? " (SentencePiece)" : "");
    }
    gguf_close(g);
    return t;
}

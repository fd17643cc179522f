// speaker.c: see speaker.h.
#include "infer/speaker.h"
#include "config/values.h"
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// ---- refusals --------------------------------------------------------------------------------------
void refusal_set(Refusal *r, int status, const char *field, const char *format, ...) {
    va_list arguments;
    char text[1024];
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    refusal_free(r);
    text[utf8_valid_length(text, strlen(text))] = 0;      // it may have been cut
    *r = (Refusal){status, xprintf("%s", text), field ? xprintf("%s", field) : NULL};
}

void refusal_free(Refusal *r) {
    free(r->message), free(r->field);
    *r = (Refusal){0};
}

char *json_line(json_t *j) {
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(j);
    if (!text) fail("out of memory for a line of JSON");
    return text;
}

// As jansson writes it: quotes, backslashes and what is below a blank are escaped.
char *json_text(const char *text, size_t bytes) {
    static const char *const letter = "btn\1fr";
    char *out = xmalloc(6 * bytes + 3), *to = out;
    *to++ = '"';
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') *to++ = '\\', *to++ = (char)c;
        else if (c >= ' ') *to++ = (char)c;
        else if (c >= '\b' && c <= '\r' && c != '\v') *to++ = '\\', *to++ = letter[c - '\b'];
        else to += snprintf(to, 7, "\\u%04X", c);
    }
    *to++ = '"', *to = 0;
    return out;
}

char *refusal_text(const Refusal *r) {
    const char *type = r->status == 401 ? "AuthenticationError" : r->status == 404 ? "NotFoundError"
                     : r->status == 429 ? "RateLimitError" : r->status < 500 ? "BadRequestError"
                     : r->status == 500 ? "InternalServerError" : "ServiceUnavailable";
    return json_line(json_pack("{s:{s:s, s:s, s:s?, s:i}}", "error", "message", r->message, "type", type, "param",
                               r->field, "code", r->status));
}

json_t *body_of(const char *body, size_t bytes, Refusal *why) {
    json_error_t error;
    json_t *root = json_loadb(body ? body : "", bytes, JSON_REJECT_DUPLICATES, &error);
    if (root && json_is_object(root)) return root;
    if (root) refusal_set(why, 400, NULL, "a JSON object was expected");
    else refusal_set(why, 400, NULL, "the body is not JSON: line %d, column %d: %s", error.line, error.column,
                     error.text);
    json_decref(root);
    return NULL;
}

// ---- text to tokens --------------------------------------------------------------------------------
// What a tokenizer cannot represent ends in fail(): here that comes back as a refusal, in the thread that asked.
typedef struct { jmp_buf back; char message[400]; } Catch;
static _Thread_local Catch *caught;
static void (*other_hook)(int status, const char *message);

static void on_failure(int status, const char *message) {
    if (!caught) {
        if (other_hook) other_hook(status, message);
        return;
    }
    snprintf(caught->message, sizeof caught->message, "%s", message);
    longjmp(caught->back, 1);
}

static bool can_fail(const Speaker *s) {
    const char *kind = tokenizer_kind(s->words);
    return strcmp(kind, "byte") && strcmp(kind, "bpe");
}

// Under the lock. Whole: with what a text begins with. *tokens outlives a failure, so that nothing is lost by one.
static size_t encode(Speaker *s, const char *text, bool whole, int **tokens) {
    if (!whole || can_fail(s)) {
        size_t n = tokenizer_encode(s->words, text, strlen(text), tokens);
        if (!whole) return n;
        free(*tokens), *tokens = NULL;
    }
    return tokenizer_whole(s->words, text, tokens);
}

bool speaker_encode(Speaker *s, const char *text, bool whole, int **tokens, size_t *n, size_t *spelled, Refusal *why) {
    Catch here = {.message = ""};
    *tokens = NULL;
    pthread_mutex_lock(&s->lock);
    caught = &here;
    if (setjmp(here.back) == 0) {
        *n = encode(s, text, whole, tokens);
        *spelled = tokenizer_spelled_out(s->words, &(size_t){0}, &(int){0});
    }
    caught = NULL;
    pthread_mutex_unlock(&s->lock);
    if (!*here.message) return true;
    free(*tokens), *tokens = NULL;
    refusal_set(why, 400, "prompt", "%s", here.message);
    return false;
}

// ---- tokens to text --------------------------------------------------------------------------------
// A copy, since the tokenizer will speak for other threads.
char *speaker_decode(Speaker *s, int previous, int token, size_t *bytes) {
    const char *spoken;
    pthread_mutex_lock(&s->lock);
    bool known = token >= 0 && (size_t)token < tokenizer_vocab(s->words);
    if (previous >= 0 && (size_t)previous >= tokenizer_vocab(s->words)) previous = -1;
    *bytes = known ? tokenizer_decode(s->words, previous, token, &spoken) : 0;
    char *copy = xmalloc(*bytes + 1);
    if (*bytes) memcpy(copy, spoken, *bytes);
    pthread_mutex_unlock(&s->lock);
    return copy;
}

// The bytes of a token that are no text by themselves are shown as OpenAI does it, so that none is like another.
char *speaker_shown(const char *text, size_t bytes) {
    if (utf8_valid_length(text, bytes) == bytes && strlen(text) == bytes) return xprintf("%s", text);
    size_t room = 6 + 4 * bytes + 1;
    char *out = xmalloc(room), *p = out + snprintf(out, room, "bytes:");
    for (size_t i = 0; i < bytes; i++) p += snprintf(p, 5, "\\x%02x", (unsigned char)text[i]);
    return out;
}

static void append(Spelling *t, const char *text, size_t bytes) {
    if (t->bytes + bytes + 1 > t->room) t->text = xrealloc(t->text, t->room = 2 * (t->bytes + bytes) + 64);
    if (bytes) memcpy(t->text + t->bytes, text, bytes);
    t->text[t->bytes += bytes] = 0;
}

// How many bytes a character has that begins with this one (RFC 3629, section 3); 0: none does, nor does a NUL, which
// would end a text here.
static size_t announced(unsigned char c) {
    return c == 0 ? 0 : c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
}

// Whole characters go on, what may still become one waits, and what cannot becomes U+FFFD.
void spelling_add(Spelling *t, const char *text, size_t bytes) {
    static const char unknown[] = "\xEF\xBF\xBD";
    for (size_t i = 0; i < bytes; i++) {
        bool goes_on = (text[i] & 0xC0) == 0x80;
        if (t->parts && !goes_on) append(t, unknown, 3), t->parts = 0;
        t->part[t->parts++] = text[i];
        size_t need = announced((unsigned char)t->part[0]);
        if (need > t->parts) continue;
        if (need && utf8_length(t->part, t->parts) == need) append(t, t->part, need);
        else append(t, unknown, 3);
        t->parts = 0;
    }
}

void spelling_end(Spelling *t) {
    if (t->parts) append(t, "\xEF\xBF\xBD", 3);
    if (!t->text) append(t, "", 0);
    t->parts = 0;
}

// ---- a speaker -------------------------------------------------------------------------------------
static bool known_mark(Speaker *s, const char *mark) {
    int *tokens;
    size_t n, spelled;
    Refusal why = {0};
    bool found = speaker_encode(s, mark, false, &tokens, &n, &spelled, &why) && spelled == 1 && n == 1;
    free(tokens);
    refusal_free(&why);
    return found;
}

static char *name_of_token(Speaker *s, int token) {
    size_t bytes;
    if (token < 0) return NULL;
    char *text = speaker_decode(s, -1, token, &bytes), *name = bytes ? speaker_shown(text, bytes) : NULL;
    free(text);
    return name;
}

Speaker *speaker_new(const char *model, Tokenizer *words, size_t vocab, size_t context, size_t answers,
                     SampleOptions defaults, int chat) {
    Speaker *s = xmalloc(sizeof *s);
    *s = (Speaker){.model = model, .words = words, .vocab = vocab, .context = context, .answers = answers,
                   .defaults = defaults, .chat = chat, .created = (double)time(NULL)};
    pthread_mutex_init(&s->lock, NULL);
    if (fail_hook != on_failure) other_hook = fail_hook, fail_hook = on_failure;
    tokenizer_show_special(words, true);
    s->start = name_of_token(s, tokenizer_start(words)), s->end = name_of_token(s, tokenizer_end(words));
    tokenizer_show_special(words, false);
    bool chatml = known_mark(s, "<|im_start|>"), llama3 = known_mark(s, "<|start_header_id|>");
    if (chat == CHAT_auto) s->chat = chatml ? CHAT_chatml : llama3 ? CHAT_llama3 : CHAT_plain;
    if ((chat == CHAT_chatml && !chatml) || (chat == CHAT_llama3 && !llama3))
        usage_error("--chat %s: the tokenizer of this model has no such marks; --chat plain needs none",
                    chat == CHAT_chatml ? "chatml" : "llama3");
    return s;
}

void speaker_free(Speaker *s) {
    if (fail_hook == on_failure) fail_hook = other_hook;
    pthread_mutex_destroy(&s->lock);
    free(s->start), free(s->end), free(s);
}

// ---- JSON ----------------------------------------------------------------------------------
static json_t *model_of(const Speaker *s) {
    return json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", s->model, "object", "model", "created", (json_int_t)s->created,
                     "owned_by", "receipts", "max_model_len", (json_int_t)s->context);
}

char *speaker_models(const Speaker *s) {
    return json_line(json_pack("{s:s, s:[o]}", "object", "list", "data", model_of(s)));
}

char *speaker_model(const Speaker *s, const char *name, Refusal *why) {
    if (strcmp(name, s->model)) {
        refusal_set(why, 404, "model", "The model `%.200s` does not exist; this is `%.200s`", name, s->model);
        return NULL;
    }
    return json_line(model_of(s));
}

char *speaker_info(const Speaker *s) {
    return json_line(json_pack("{s:s, s:s?, s:s?, s:n, s:n, s:I, s:I}", "tokenizer_class", tokenizer_kind(s->words),
                               "bos_token", s->start, "eos_token", s->end, "pad_token", "chat_template",
                               "model_max_length", (json_int_t)s->context, "vocab_size", (json_int_t)s->vocab));
}

bool speaker_knows_fields(const json_t *object, const char *where, const char *const *known, Refusal *why) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], name)) i++;
        bool nothing = json_is_null(value) || json_is_false(value) || (json_is_array(value) && !json_array_size(value));
        if (known[i] || nothing) continue;
        refusal_set(why, 400, name, "%.80s is not supported in %s, and ignoring it could change the answer; leave it "
                    "out", name, where);
        return false;
    }
    return true;
}

static bool is_asked(const Speaker *s, const json_t *root, const char *const *known, Refusal *why) {
    const json_t *model = json_object_get(root, "model");
    if (!speaker_knows_fields(root, "this call", known, why)) return false;
    if (!json_is_string(model) || !strcmp(json_string_value(model), s->model)) return true;
    refusal_set(why, 404, "model", "The model `%.200s` does not exist; this is `%.200s`", json_string_value(model),
                s->model);
    return false;
}

char *speaker_tokenize(Speaker *s, const char *body, size_t bytes, Refusal *why) {
    json_t *root = body_of(body, bytes, why);
    if (!root) return NULL;
    const json_t *prompt = json_object_get(root, "prompt"), *whole = json_object_get(root, "add_special_tokens");
    int *token = NULL;
    size_t n = 0, spelled;
    char *text = NULL;
    static const char *const known[] = {"model", "prompt", "add_special_tokens", NULL};
    if (!is_asked(s, root, known, why)) return json_decref(root), NULL;
    if (!json_is_string(prompt)) {
        refusal_set(why, 400, "prompt", "\"prompt\": a text was expected");
    } else if (speaker_encode(s, json_string_value(prompt), !json_is_false(whole), &token, &n, &spelled, why)) {
        json_t *list = json_array();
        for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(token[i]));
        text = json_line(json_pack("{s:I, s:I, s:o}", "count", (json_int_t)n, "max_model_len", (json_int_t)s->context,
                                   "tokens", list));
    }
    free(token);
    json_decref(root);
    return text;
}

char *speaker_detokenize(Speaker *s, const char *body, size_t bytes, Refusal *why) {
    json_t *root = body_of(body, bytes, why);
    if (!root) return NULL;
    static const char *const known[] = {"model", "tokens", NULL};
    if (!is_asked(s, root, known, why)) return json_decref(root), NULL;
    const json_t *list = json_object_get(root, "tokens");
    Spelling t = {0};
    bool fine = json_is_array(list);
    json_int_t previous = -1;
    for (size_t i = 0; fine && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        fine = json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < (json_int_t)s->vocab;
        if (!fine) break;
        size_t n;
        char *text = speaker_decode(s, (int)previous, (int)json_integer_value(v), &n);
        spelling_add(&t, text, n);
        free(text);
        bool starts = i == 0 && json_integer_value(v) == tokenizer_start(s->words);
        previous = starts ? -1 : json_integer_value(v);
    }
    spelling_end(&t);
    if (!fine) refusal_set(why, 400, "tokens", "\"tokens\": numbers from 0 to %zu were expected", s->vocab - 1);
    char *text = fine ? json_line(json_pack("{s:s}", "prompt", t.text)) : NULL;
    free(t.text);
    json_decref(root);
    return text;
}

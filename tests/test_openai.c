// test_openai.c: what stands between tokens and JSON, without a server.
#include "tests/test.h"
#include "infer/openai.h"
#include <stdlib.h>

static char *spelled(const char *text, size_t bytes, size_t step) {
    Spelling s = {0};
    for (size_t at = 0; at < bytes; at += step) spelling_add(&s, text + at, smaller(step, bytes - at));
    spelling_end(&s);
    return s.text;
}

// In pieces of any length the same text comes out, and it is UTF-8.
static void spelling(void) {
    static const struct { const char *text; size_t bytes; const char *expected; } cases[] = {
        {"", 0, ""}, {"a\xC3\xA9z", 4, "a\xC3\xA9z"}, {"\xF0\x9F\x90\xB1!", 5, "\xF0\x9F\x90\xB1!"},
        {"\xE2\x82", 2, "\xEF\xBF\xBD"}, {"\xE2\x82x", 3, "\xEF\xBF\xBDx"}, {"\xFFx", 2, "\xEF\xBF\xBDx"},
        {"\x80", 1, "\xEF\xBF\xBD"}, {"\xED\xA0\x80", 3, "\xEF\xBF\xBD"}, {"\xC3\xC3\xA9", 3, "\xEF\xBF\xBD\xC3\xA9"},
        {"a\0b", 3, "a\xEF\xBF\xBD" "b"}, {"\xF0\x9F\x90", 3, "\xEF\xBF\xBD"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t step = 1; step < 5; step++) {
            char *text = spelled(cases[i].text, cases[i].bytes, step);
            CHECK(!strcmp(text, cases[i].expected) && utf8_valid_length(text, strlen(text)) == strlen(text),
                  "case %zu by %zu: %s", i, step, text);
            free(text);
        }
}

static void names(void) {
    CHECK(!strcmp(speaker_shown(" the", 4), " the") && !strcmp(speaker_shown("", 0), ""), "texts");
    CHECK(!strcmp(speaker_shown("\xC3", 1), "bytes:\\xc3") && !strcmp(speaker_shown("\0", 1), "bytes:\\x00"), "bytes");
}

// A tokenizer that cannot represent a text refuses it, leaves the program alone, and works on.
static void refusal(void) {
    static const char *const known[] = {"the", "cat", "."};
    Tokenizer *words = tokenizer_words(known, 3);
    Speaker *s = speaker_new("run", words, 3, 20, 4, sample_defaults(5, 0), CHAT_auto);
    for (int i = 0; i < 3; i++) {
        Refusal why = {0};
        Reply *r = reply_read(s, false, "{\"prompt\": \"the dog\"}", 21, &why);
        CHECK(!r && why.status == 400 && strstr(why.message, "\"dog\""), "%s", why.message);
        refusal_free(&why);
        r = reply_read(s, false, "{\"prompt\": \"the cat\", \"max_tokens\": 3}", 38, &why);
        CHECK(r && r->call->length[0] == 2 && r->call->options.seed == 5 + (uint64_t)i, "%s", why.message);
        if (!r) return;
        Call *c = r->call;
        reply_free(r), call_free(c);
    }
    CHECK(s->chat == CHAT_plain, "words have no marks");
    speaker_free(s);
    tokenizer_free(words);
}

// A field under two names is one field: two numbers for it are refused, one said twice is not.
static void twice(void) {
    static const struct { const char *fields; size_t tokens; } cases[] = {
        {"\"max_tokens\": 3, \"max_completion_tokens\": 3", 3}, {"\"max_completion_tokens\": 5", 5},
        {"\"max_tokens\": null, \"max_completion_tokens\": 4", 4},
        {"\"max_tokens\": 3, \"max_completion_tokens\": 4", 0},
        {"\"max_completion_tokens\": 4, \"max_tokens\": 3", 0}, {"\"max_tokens\": 0, \"max_completion_tokens\": 3", 0},
    };
    Tokenizer *words = tokenizer_words((const char *const[]){"the"}, 1);
    Speaker *s = speaker_new("run", words, 1, 20, 4, sample_defaults(5, 0), CHAT_plain);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *body = xprintf("{\"prompt\": \"the\", %s}", cases[i].fields);
        Refusal why = {0};
        Reply *r = reply_read(s, false, body, strlen(body), &why);
        if (!cases[i].tokens)
            CHECK(!r && why.status == 400 && strstr(why.message, "the other of max_tokens and max_completion_tokens"),
                  "%s: %s", body, why.message);
        else CHECK(r && r->call->options.tokens == cases[i].tokens, "%s: %s", body, why.message);
        Call *c = r ? r->call : NULL;
        if (r) reply_free(r), call_free(c);
        refusal_free(&why), free(body);
    }
    speaker_free(s), tokenizer_free(words);
}

// Every byte of a text but 0, which Spelling never lets through, as jansson writes it.
static void quotes(void) {
    char text[200];
    size_t n = 0;
    for (char c = 1; c < 127; c++) text[n++] = c;
    n += (size_t)snprintf(text + n, sizeof text - n, "\x7F\xC3\xA9\xE2\x82\xAC\xF0\x9F\x90\xB1");
    json_t *j = json_stringn(text, n);
    char *ours = json_text(text, n), *theirs = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    CHECK(theirs && !strcmp(ours, theirs), "%s\n%s", ours, theirs);
    CHECK(!strcmp(json_text("", 0), "\"\""), "nothing");
    free(ours), free(theirs), json_decref(j);
}

// Chunks are written around their text: read as JSON and written again they are the same bytes.
static size_t check_chunks(char *events, const char *text, bool chat, bool usage) {
    char *said = xprintf("%s", "");
    size_t count = 0;
    for (char *at = events, *end; strncmp(at, "data: [DONE]", 12); at = end + 2, count++) {
        if (!(end = strstr(at, "\n\n"))) break;
        *end = '\0';
        json_t *j = json_loads(at + strlen("data: "), 0, NULL);
        json_t *choice = json_array_get(json_object_get(j, "choices"), 0);
        char *again = json_dumps(j, JSON_COMPACT);
        const char *part = json_string_value(json_object_get(chat ? json_object_get(choice, "delta") : choice,
                                                             chat ? "content" : "text"));
        CHECK(again && !strcmp(at + strlen("data: "), again), "%s\n%s", at, again);
        CHECK(!choice || json_object_size(choice) == 4, "%s", at);
        CHECK((json_object_get(j, "usage") != NULL) == usage && json_object_size(j) == 6 + (size_t)usage, "%s", at);
        const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
        bool last = !strncmp(end + 2, "data: [DONE]", 12);
        CHECK(usage || (last ? reason && !strcmp(reason, "length") : !reason), "%s", at);
        said = xprintf("%s%s", said, part ? part : "");
        free(again), json_decref(j);
    }
    CHECK(!strcmp(said, text), "%s instead of %s", said, text);
    return count;
}

static void chunks(void) {
    static const char *const known[] = {"the", "c\"a\\t", "\xC3\xA9\x01"};
    static const int answer[] = {1, 0, 2};
    Tokenizer *words = tokenizer_words(known, 3);
    Speaker *s = speaker_new("a \"run\"", words, 3, 20, 4, sample_defaults(5, 0), CHAT_plain);
    for (int kind = 0; kind < 4; kind++) {
        bool chat = kind % 2, usage = kind / 2;
        char *body = xprintf("{%s, \"max_tokens\": 3, \"stream\": true%s}",
                             chat ? "\"messages\": [{\"role\": \"user\", \"content\": \"the\"}]"
                                  : "\"prompt\": \"the\"",
                             usage ? ", \"stream_options\": {\"include_usage\": true}" : "");
        Refusal why = {0};
        Reply *r = reply_read(s, chat, body, strlen(body), &why);
        CHECK(r, "%s", why.message);
        if (!r) return;
        Answer *a = r->call->answer;
        for (size_t i = 0; i < 3; i++) a->token[i] = answer[i], a->step[i] = (uint32_t)i;
        a->progress = (Progress){2, WHY_NONE};
        char *first = reply_events(r), *none = reply_events(r);
        a->progress = (Progress){3, WHY_LENGTH};
        char *rest = reply_events(r), *all = xprintf("%s%s", first, rest);
        CHECK(!none && strstr(rest, "data: [DONE]\n\n"), "nothing new, then the end: %s", rest);
        size_t count = check_chunks(all, " c\"a\\t the \xC3\xA9\x01", chat, usage);
        CHECK(count == 3 + (size_t)usage, "%zu chunks", count);
        Call *c = r->call;
        free(first), free(rest), free(all), free(body), reply_free(r), call_free(c);
    }
    speaker_free(s), tokenizer_free(words);
}

static const Test tests[] = {
    {"openai/quotes", "a text in quotes, as jansson writes it", quotes},
    {"openai/chunks", "chunks that are written around their text are the JSON that they would be", chunks},
    {"openai/spelling", "bytes in pieces become the same UTF-8", spelling},
    {"openai/names", "tokens without a text are told apart", names},
    {"openai/twice", "a length that is said twice is said once, or refused", twice},
    {"openai/refusal", "what a tokenizer cannot say is refused, and the next one is not", refusal},
};
REGISTER_TESTS(tests)

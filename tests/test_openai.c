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

static const Test tests[] = {
    {"openai/spelling", "bytes in pieces become the same UTF-8", spelling},
    {"openai/names", "tokens without a text are told apart", names},
    {"openai/refusal", "what a tokenizer cannot say is refused, and the next one is not", refusal},
};
REGISTER_TESTS(tests)

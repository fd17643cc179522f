// test_tokenizer.c: text to tokens and back, the file, and what is refused.
#include "tests/test.h"
#include "data/bpe.h"
#include "data/bytelevel.h"
#include "data/pattern.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <unistd.h>

// ---- helpers -----------------------------------------------------------------------------------
// The text of tokens, one at a time as a stream would print them.
static char *spoken(const Tokenizer *t, const int *tokens, size_t count, size_t *length) {
    char *text = xmalloc(1);
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        const char *bytes;
        size_t n = tokenizer_decode(t, i ? tokens[i - 1] : -1, tokens[i], &bytes);
        text = xrealloc(text, *length + n + 1);
        memcpy(text + *length, bytes, n);
        *length += n;
    }
    text[*length] = '\0';
    return text;
}

static bool survives(const Tokenizer *t, const char *text, size_t bytes) {
    int *tokens;
    size_t count = tokenizer_encode(t, text, bytes, &tokens), length;
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= tokenizer_vocab(t)) return false;
    char *back = spoken(t, tokens, count, &length);
    bool same = length == bytes && memcmp(back, text, bytes) == 0;
    free(tokens), free(back);
    return same;
}

static bool says(const Tokenizer *t, int previous, int token, const char *expected) {
    const char *bytes;
    size_t n = tokenizer_decode(t, previous, token, &bytes);
    return n == strlen(expected) && memcmp(bytes, expected, n) == 0;
}

// Bytes of all kinds: any, letters and spaces, runs.
static size_t random_text(Rng *r, char *out, size_t room) {
    size_t n = rng_below(r, (uint32_t)room + 1), kind = rng_below(r, 3);
    for (size_t i = 0; i < n; i++) {
        char any = (char)rng_below(r, 256), letter = "abcde  \n.é1"[rng_below(r, 12)];
        out[i] = kind == 0 ? any : kind == 1 ? letter : i && rng_below(r, 9) ? out[i - 1] : letter;
    }
    return n;
}

static const char story[] = "Once upon a time there was a cat. The cat sat on the mat, and the cat was happy.\n"
                            "  “Naïve café!” said the cat; 1234 cats\t(12 34)...\n\n\nThe end of the cat.   ";

// ---- bytes and byte pairs ----------------------------------------------------------------------
static void test_round_trip(void) {
    Rng r = rng_stream(1, RNG_TEST, 0);
    char *text = xmalloc(4096);
    Tokenizer *byte = tokenizer_byte(), *bpe = tokenizer_bpe(story, sizeof story - 1, 270);
    CHECK(tokenizer_vocab(byte) == 256 && tokenizer_vocab(bpe) == 270, "%zu %zu", tokenizer_vocab(byte),
          tokenizer_vocab(bpe));
    for (int i = 0; i < 300; i++) {
        size_t n = random_text(&r, text, 2000);
        CHECK(survives(byte, text, n), "bytes, text %d", i);
        CHECK(survives(bpe, text, n), "bpe of another text, text %d", i);
    }
    for (int i = 0; i < 30; i++) {
        size_t n = 400 + random_text(&r, text, 3000);  // the first 400 bytes are those of the text before
        Tokenizer *own = tokenizer_bpe(text, n, 256 + rng_below(&r, 4));
        CHECK(survives(own, text, n), "bpe of its own text %d", i);
        tokenizer_free(own);
    }
    CHECK(survives(bpe, story, sizeof story - 1), "the text it was trained on");
    tokenizer_free(byte), tokenizer_free(bpe);
    free(text);
}

static void test_bpe_by_hand(void) {
    // Pairs of aaabdaaabac: aa 4; then (aa)a and ab 2 each, of which ab has the lower first number; then (aa)(ab).
    Tokenizer *t = tokenizer_bpe("aaabdaaabac", 11, 259);
    CHECK(says(t, -1, 256, "aa") && says(t, -1, 257, "ab") && says(t, -1, 258, "aaab"),
          "the merges of the classic example");
    int *tokens;
    size_t n = tokenizer_encode(t, "aaabdaaabac", 11, &tokens);
    static const int expected[] = {258, 'd', 258, 'a', 'c'};
    CHECK(n == 5 && memcmp(tokens, expected, sizeof expected) == 0, "%zu tokens", n);
    tokenizer_free(t);
    // No merge crosses from one word to the next: the space belongs to the word behind it.
    t = tokenizer_bpe("ab ab ab ab 12 12 12 ab", 23, 260);
    for (int i = 256; i < 260; i++) {
        const char *bytes;
        size_t length = tokenizer_decode(t, -1, i, &bytes);
        CHECK(!memchr(bytes + 1, ' ', length - 1), "token %d: %.*s", i, (int)length, bytes);
    }
    CHECK(says(t, -1, 256, "ab") && says(t, -1, 257, " ab"), "ab 5 times, then its 4 with a space");
    tokenizer_free(t);
}

// The same merges, counted anew for each from the definition, for one chunk of letters.
static void naive_merges(const char *text, size_t n, int merges, char out[][65]) {
    char part[64][65];
    for (size_t i = 0; i < n; i++) snprintf(part[i], 65, "%c", text[i]);
    int number[64], next = 256;
    for (size_t i = 0; i < n; i++) number[i] = (unsigned char)text[i];
    for (int m = 0; m < merges; m++, next++) {
        int best = 1, left = -1, right = -1;
        for (size_t i = 0; i + 1 < n; i++) {
            int count = 0;
            for (size_t j = 0; j + 1 < n; j++) count += number[j] == number[i] && number[j + 1] == number[i + 1];
            bool lower = number[i] < left || (number[i] == left && number[i + 1] < right);
            if (count > best || (count == best && left >= 0 && lower))
                best = count, left = number[i], right = number[i + 1];
        }
        if (left < 0) {
            out[m][0] = '\0';
            continue;
        }
        size_t kept = 0;
        for (size_t i = 0; i < n; i++, kept++) {
            bool pair = i + 1 < n && number[i] == left && number[i + 1] == right;
            char joined[130];
            snprintf(joined, sizeof joined, "%s%s", part[i], pair ? part[i + 1] : "");
            number[kept] = pair ? next : number[i];
            snprintf(part[kept], 65, "%.64s", joined);
            if (pair) snprintf(out[m], 65, "%.64s", joined);
            i += pair;
        }
        n = kept;
    }
}

static void test_bpe_naive(void) {
    Rng r = rng_stream(2, RNG_TEST, 0);
    for (int trial = 0; trial < 200; trial++) {
        char text[60], expected[8][65] = {{0}};
        for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + rng_below(&r, 2 + (uint32_t)trial % 4));
        naive_merges(text, sizeof text, 8, expected);
        if (!expected[7][0]) continue;
        Tokenizer *t = tokenizer_bpe(text, sizeof text, 264);
        for (int m = 0; m < 8; m++)
            CHECK(says(t, -1, 256 + m, expected[m]), "trial %d, merge %d: %s", trial, m, expected[m]);
        tokenizer_free(t);
    }
}

static void test_bpe_speed(void) {
    enum { BYTES = 1 << 20 };
    Rng r = rng_stream(3, RNG_TEST, 0);
    char *text = xmalloc(BYTES);
    for (size_t i = 0; i < BYTES; i++) {  // words of 2 to 9 letters from a lexicon of a few thousand
        Rng word = rng_stream(4, RNG_TEST, rng_below(&r, 60) * rng_below(&r, 60));
        for (size_t n = 2 + rng_below(&word, 8); n && i < BYTES - 1; n--)
            text[i++] = (char)('a' + rng_below(&word, 26));
        text[i] = ' ';
    }
    double start = seconds_now();
    Tokenizer *t = tokenizer_bpe(text, BYTES, 1024);
    int *tokens;
    size_t n = tokenizer_encode(t, text, BYTES, &tokens);
    double seconds = seconds_now() - start;
    CHECK(n < BYTES / 2, "%zu tokens for %d bytes", n, BYTES);
    CHECK(seconds < 20, "%.1f s", seconds);  // 0.4 s where this was written; a quadratic slip takes minutes
    char *run = memset(xmalloc(BYTES), 'x', BYTES);
    start = seconds_now();
    free(tokens);
    n = tokenizer_encode(t, run, BYTES, &tokens);
    CHECK(seconds_now() - start < 20, "a megabyte without a space took %.1f s", seconds_now() - start);
    tokenizer_free(t);
    free(tokens), free(text), free(run);
}

// ---- characters, words, numbers ----------------------------------------------------------------
static void encode_foreign(void *t) {
    int *tokens;
    tokenizer_encode(t, "cat?", 4, &tokens);
}
static void encode_accent(void *t) {
    int *tokens;
    tokenizer_encode(t, "cäfé", strlen("cäfé"), &tokens);
}
static void encode_broken(void *t) {
    int *tokens;
    tokenizer_encode(t, "c\xff", 2, &tokens);
}
static void char_of_latin1(void *unused) {
    (void)unused;
    tokenizer_char("caf\xe9 au lait", 12);
}
static void decode_beyond(void *t) {
    const char *bytes;
    tokenizer_decode(t, -1, (int)tokenizer_vocab(t), &bytes);
}

static void test_characters(void) {
    static const char text[] = "zé€𝄞a\0b";
    Tokenizer *t = tokenizer_char(text, sizeof text - 1);
    static const char *const sorted[] = {"a", "b", "z", "é", "€", "𝄞"};
    CHECK(tokenizer_vocab(t) == 7, "%zu", tokenizer_vocab(t));
    for (int i = 0; i < 6; i++) CHECK(says(t, 3, i + 1, sorted[i]), "character %d", i);
    CHECK(survives(t, text, sizeof text - 1), "its own text, with a NUL");
    tokenizer_free(t);
    t = tokenizer_char("cat café", strlen("cat café"));
    CHECK(test_fails(1, "\"?\" (U+003F, byte 3 of the text) is not among the 6", encode_foreign, t), "%s",
          test_message);
    CHECK(test_fails(1, "\"ä\" (U+00E4, byte 1", encode_accent, t), "%s", test_message);
    CHECK(test_fails(1, "byte 1 of the text (0xff) is not UTF-8", encode_broken, t), "%s", test_message);
    CHECK(test_fails(1, "byte 3 of the text (0xe9) is not UTF-8", char_of_latin1, NULL), "%s", test_message);
    CHECK(test_fails(1, "token 6 after -1 cannot be decoded", decode_beyond, t), "%s", test_message);
    tokenizer_free(t);
}

static void test_utf8(void) {
    static const struct { const char *text; size_t bytes, valid; } cases[] = {
        {"a\xc3\xa9", 3, 3}, {"a\xc3", 2, 1}, {"\xc0\x80", 2, 0}, {"\xe0\x9f\xbf", 3, 0}, {"\xe0\xa0\x80", 3, 3},
        {"\xed\x9f\xbf", 3, 3}, {"\xed\xa0\x80", 3, 0}, {"\xf0\x8f\xbf\xbf", 4, 0}, {"\xf0\x90\x80\x80", 4, 4},
        {"\xf4\x8f\xbf\xbf", 4, 4}, {"\xf4\x90\x80\x80", 4, 0}, {"\xf5\x80\x80\x80", 4, 0}, {"\x80", 1, 0}, {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(utf8_valid_length(cases[i].text, cases[i].bytes) == cases[i].valid, "case %zu", i);
}

static Tokenizer *small_words(void) {
    static const char *const words[] = {"\n\n", "Anna", "'s", "cat", "cats", "said", ",", ".", "“", "”", "Woof", "!"};
    Tokenizer *t = tokenizer_words(words, sizeof words / sizeof *words);
    tokenizer_set_start(t, 0);
    return t;
}

static void encode_dogs(void *t) {
    int *tokens;
    tokenizer_encode(t, "Anna said dogs.", 15, &tokens);
}
static void encode_catsup(void *t) {
    int *tokens;
    tokenizer_encode(t, "catsup", 6, &tokens);
}

static void test_words(void) {
    Tokenizer *t = small_words();
    static const char text[] = "“Woof, Woof!” said Anna's cat. Anna said, “cats.”\n\nAnna's cats.";
    CHECK(survives(t, text, sizeof text - 1), "a text in the tokenizer's own spacing");
    int *tokens, *other;
    size_t n = tokenizer_encode(t, "\"Woof!\"   said\tAnna . \n \nAnna", 29, &tokens), m;
    size_t k = tokenizer_encode(t, "“Woof!” said Anna.\n\nAnna", strlen("“Woof!” said Anna.\n\nAnna"), &other);
    CHECK(n == k && memcmp(tokens, other, n * sizeof *tokens) == 0, "typewriter quotes, loose spacing: %zu, %zu", n, k);
    CHECK(test_fails(1, "\"dogs\" (byte 10 of the text) is not among the 12 words", encode_dogs, t), "%s",
          test_message);
    CHECK(test_fails(1, "\"catsup\"", encode_catsup, t), "%s", test_message);
    CHECK(tokenizer_prompt(t, "", &tokens) == 1 && tokens[0] == 0, "nothing: the start of a story");
    CHECK(tokenizer_prompt(t, "Anna said", &tokens) == 3 && tokens[0] == 0 && tokens[1] == 1, "the start comes first");
    CHECK(tokenizer_prompt(t, "\n\nAnna", &tokens) == 2 && tokens[0] == 0, "but once");
    char *said = spoken(t, tokens, 2, &m);
    CHECK(strcmp(said, "Anna") == 0, "a start at the start is silent: %s", said);
    tokenizer_free(t);
}

static void encode_17(void *t) {
    int *tokens;
    tokenizer_encode(t, "3 17", 4, &tokens);
}
static void encode_words_as_numbers(void *t) {
    int *tokens;
    tokenizer_encode(t, "3 4x", 4, &tokens);
}

static void test_numbers(void) {
    Tokenizer *t = tokenizer_numbers(17);
    CHECK(survives(t, "3 0 16 7", 8), "numbers");
    CHECK(test_fails(1, "numbers from 0 to 16 were expected", encode_17, t), "%s", test_message);
    CHECK(test_fails(1, "byte 2", encode_words_as_numbers, t), "%s", test_message);
    int *tokens;
    CHECK(tokenizer_prompt(t, "", &tokens) == 1 && tokens[0] == 0, "never empty");
    tokenizer_free(t);
}

// ---- the file ----------------------------------------------------------------------------------
static bool same(const Tokenizer *a, const Tokenizer *b) {
    if (strcmp(tokenizer_kind(a), tokenizer_kind(b)) || tokenizer_vocab(a) != tokenizer_vocab(b)) return false;
    if (tokenizer_start(a) != tokenizer_start(b)) return false;
    for (int i = 0; i < (int)tokenizer_vocab(a); i++)
        for (int previous = -1; previous < 3; previous++) {
            const char *x, *y;
            size_t n = tokenizer_decode(a, previous, i, &x), m = tokenizer_decode(b, previous, i, &y);
            if (n != m || memcmp(x, y, n)) return false;
        }
    return true;
}

static Tokenizer *reloaded(const Tokenizer *t, const char *name) {
    const char *path = test_path(name);
    tokenizer_save(t, path);
    return tokenizer_load(path);
}

static void put_u32(char *out, uint32_t x) {
    for (int i = 0; i < 4; i++) out[i] = (char)(x >> 8 * i);
}

// An llm.c table of four tokens, of which one is no UTF-8 and one is empty; returns its size.
static size_t llmc_table(char *out, uint32_t version) {
    static const char tokens[] = "\x03the" "\x02\xff\x41" "\x00" "\x05<end>";
    memset(out, 0, 1024);
    put_u32(out, 20240328), put_u32(out + 4, version), put_u32(out + 8, 4), put_u32(out + 12, 3);
    memcpy(out + 1024, tokens, sizeof tokens - 1);
    return 1024 + sizeof tokens - 1;
}

static void test_save_load(void) {
    char table[2048];
    write_whole_file(test_path("tokenizer.bin"), table, llmc_table(table, 2));
    Tokenizer *all[] = {tokenizer_byte(), tokenizer_char("añ\0\n\"\\", 7),
                        tokenizer_bpe(story, sizeof story - 1, 270), small_words(), tokenizer_numbers(100),
                        tokenizer_load(test_path("tokenizer.bin"))};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        Tokenizer *back = reloaded(all[i], "tokenizer.json");
        CHECK(same(all[i], back), "%s", tokenizer_kind(all[i]));
        tokenizer_free(back);
    }
    Tokenizer *bpe = reloaded(all[2], "bpe.json");
    CHECK(survives(bpe, story, sizeof story - 1), "a loaded bpe encodes");
    int *before, *after;
    size_t n = tokenizer_encode(all[2], story, sizeof story - 1, &before);
    size_t m = tokenizer_encode(bpe, story, sizeof story - 1, &after);
    CHECK(n == m && memcmp(before, after, n * sizeof *before) == 0, "and gives the same tokens");
    CHECK(says(all[5], 0, 1, "\xff\x41") && says(all[5], -1, 2, "") && tokenizer_start(all[5]) == 3, "the llm.c table");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tokenizer_free(all[i]);
}

static void load(void *path) { tokenizer_load(path); }
static void encode_with_table(void *t) {
    int *tokens;
    tokenizer_encode(t, "the", 3, &tokens);
}

static void test_damaged(void) {
    static const struct { const char *text, *message; } cases[] = {
        {"", "not a tokenizer"}, {"[1, 2]", "not a tokenizer"}, {"{\"kind\": \"byte\", \"vocab\": 256", "line 1"},
        {"{\"kind\": \"morse\", \"vocab\": 2}", "\"kind\" should be one of"},
        {"{\"vocab\": 2}", "\"kind\" should be one of"},
        {"{\"kind\": \"byte\", \"vocab\": 255}", "the vocab of bytes is 256"},
        {"{\"kind\": \"char\"}", "\"vocab\" should be"},
        {"{\"kind\": \"numbers\", \"vocab\": -4}", "\"vocab\" should be"},
        {"{\"kind\": \"numbers\", \"vocab\": 4, \"start\": 4}", "\"start\" should be"},
        {"{\"kind\": \"char\", \"vocab\": 2, \"tokens\": [\"a\"]}", "\"tokens\" has 1 entries"},
        {"{\"kind\": \"char\", \"vocab\": 2}", "\"tokens\" has 0 entries"},
        {"{\"kind\": \"char\", \"vocab\": 2, \"tokens\": [\"a\", \"a\"]}", "token 1 is empty or occurs twice"},
        {"{\"kind\": \"char\", \"vocab\": 2, \"tokens\": [\"a\", \"bc\"]}", "token 1 is not one UTF-8 character"},
        {"{\"kind\": \"words\", \"vocab\": 1, \"tokens\": [\"\"]}", "token 0 is empty"},
        {"{\"kind\": \"table\", \"vocab\": 1, \"tokens\": [{\"hex\": \"f\"}]}", "entry 0"},
        {"{\"kind\": \"table\", \"vocab\": 1, \"tokens\": [{\"hex\": \"zz\"}]}", "entry 0"},
        {"{\"kind\": \"table\", \"vocab\": 1, \"tokens\": [7]}", "entry 0"},
        {"{\"kind\": \"bpe\", \"vocab\": 200, \"merges\": []}", "\"merges\" has 0 entries"},
        {"{\"kind\": \"bpe\", \"vocab\": 258, \"merges\": [[97, 98]]}", "\"merges\" has 1 entries"},
        {"{\"kind\": \"bpe\", \"vocab\": 257, \"merges\": [[97, 256]]}", "merge 0 is not a pair"},
        {"{\"kind\": \"bpe\", \"vocab\": 257, \"merges\": [[97]]}", "merge 0 is not a pair"},
        {"{\"kind\": \"bpe\", \"vocab\": 257, \"merges\": [[-1, 5]]}", "merge 0 is not a pair"},
        {"{\"kind\": \"bpe\", \"vocab\": 263, \"merges\": "
         "[[97,97],[256,256],[257,257],[258,258],[259,259],[260,260],[261,261]]}",
         "token of more than 64 bytes"},
    };
    const char *path = test_path("damaged.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_whole_file(path, cases[i].text, strlen(cases[i].text));
        CHECK(test_fails(1, cases[i].message, load, (void *)path), "case %zu: %s", i, test_message);
        CHECK(strstr(test_message, "damaged.json"), "case %zu: %s", i, test_message);
    }
    // The beginning of a good file is refused.
    tokenizer_save(small_words(), path);
    size_t size;
    char *text = read_whole_file(path, &size);
    for (size_t n = 0; n < size; n += 3) {
        write_whole_file(path, text, n);
        CHECK(test_fails(1, "not a tokenizer", load, (void *)path), "%zu bytes: %s", n, test_message);
    }
    CHECK(test_fails(1, "No such file", load, (void *)test_path("absent.json")), "%s", test_message);
}

static void test_damaged_table(void) {
    char table[2048];
    const char *path = test_path("table.bin");
    size_t size = llmc_table(table, 2);
    write_whole_file(path, table, size);
    CHECK(test_fails(1, "decodes only", encode_with_table, tokenizer_load(path)), "%s", test_message);
    write_whole_file(path, table, 1000);
    CHECK(test_fails(1, "header of 1024 bytes", load, (void *)path), "%s", test_message);
    write_whole_file(path, table, size - 1);
    CHECK(test_fails(1, "ends inside token 3 of 4", load, (void *)path), "%s", test_message);
    write_whole_file(path, table, size + 1);
    CHECK(test_fails(1, "bytes were expected", load, (void *)path), "%s", test_message);
    write_whole_file(path, table, llmc_table(table, 3));
    CHECK(test_fails(1, "version 3", load, (void *)path), "%s", test_message);
    write_whole_file(path, table, llmc_table(table, 1));  // version 1 is GPT-2's, whose end token is 50256
    CHECK(test_fails(1, "end-of-text token is 50256", load, (void *)path), "%s", test_message);
    put_u32(table + 4, 2), put_u32(table + 8, 4000000000u);
    write_whole_file(path, table, size);
    CHECK(test_fails(1, "4000000000 tokens do not fit", load, (void *)path), "%s", test_message);
}

// ---- Hugging Face's form -------------------------------------------------------------------------
static char *in_dir(const char *dir, const char *name) { return xprintf("%s/%s", test_path(dir), name); }

static void test_save_dir(void) {
    Tokenizer *hf[] = {tokenizer_byte(), tokenizer_char("añ\n\"\\ 漢", 10),
                       tokenizer_bpe(story, sizeof story - 1, 270)};
    Tokenizer *ours[] = {small_words(), tokenizer_numbers(100), tokenizer_char("a\0b", 3)};   // NUL is no key
    for (size_t i = 0; i < 6; i++) {
        const Tokenizer *t = i < 3 ? hf[i] : ours[i - 3];
        char *dir = xprintf("dir%zu", i), *first = in_dir(dir, "tokenizer.json");
        char *own = in_dir(dir, "tokenizer.receipts.json");
        make_directories(test_path(dir));
        tokenizer_save(t, i < 3 ? own : first);                 // of an older run: it must not speak any more
        tokenizer_save_dir(t, test_path(dir));
        CHECK(file_exists(first) == (i < 3) && file_exists(own) == (i >= 3), "%s: one file", tokenizer_kind(t));
        Tokenizer *back = tokenizer_open_dir(test_path(dir));
        CHECK(back && same(t, back) && tokenizer_equal(t, back) && tokenizer_hash(t) == tokenizer_hash(back),
              "%s", tokenizer_kind(t));
        tokenizer_free(back);
    }
    CHECK(!tokenizer_open_dir(test_path("nowhere")) && !tokenizer_in_dir(test_path("nowhere")), "no tokenizer");
    Tokenizer *bpe = tokenizer_open_dir(test_path("dir2"));
    CHECK(survives(bpe, story, sizeof story - 1), "a bpe read back");
    CHECK(tokenizer_hash(hf[0]) != tokenizer_hash(hf[2]), "two tokenizers, two hashes");
    make_directories(test_path("old"));
    tokenizer_save(hf[2], in_dir("old", "tokenizer.json"));     // as runs were written before
    CHECK(tokenizer_equal(tokenizer_open_dir(test_path("old")), hf[2]), "an old run");
}

// The pattern in the file cuts as bpe.c does: bytes of all kinds, spelled as letters.
static void test_chunk_pattern(void) {
    Rng r = rng_stream(1, RNG_TEST, 5);
    size_t bytes;
    make_directories(test_path("cut"));
    tokenizer_save_dir(tokenizer_bpe(story, sizeof story - 1, 260), test_path("cut"));
    json_error_t error;
    json_t *root = json_loads(read_whole_file(in_dir("cut", "tokenizer.json"), &bytes), 0, &error);
    json_t *split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 1);
    const char *regex = json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex")), *problem = "";
    Pattern *p = regex ? pattern_compile(regex, strlen(regex), &problem) : NULL;
    CHECK(p, "%s: %s", regex ? regex : "no pattern", problem);
    char *text = xmalloc(2000), *letters = xmalloc(4000);
    for (int i = 0; p && i < 2000; i++) {
        size_t n = random_text(&r, text, 300);
        for (size_t j = 0; j + 1 < n && i % 2; j++)                              // long runs of spaces
            if (rng_below(&r, 3)) text[j + 1] = rng_below(&r, 6) ? text[j] : ' ';
        for (size_t at = 0, length; at < n; at += length) {
            length = bpe_chunk_length(text + at, n - at);
            size_t spelled = bytelevel_spell(letters, text + at, n - at), cut = pattern_match(p, letters, spelled);
            char back[64 * 2];
            size_t taken = cut <= sizeof back ? bytelevel_bytes(back, letters, cut) : 0;
            CHECK(taken == length, "text %d, byte %zu: %zu bytes, not %zu", i, at, taken, length);
            if (taken != length) return;
        }
    }
}

static size_t matches(const char *pattern, const char *text) {
    const char *problem = "";
    Pattern *p = pattern_compile(pattern, strlen(pattern), &problem);
    CHECK(p, "%s: %s", pattern, problem);
    size_t n = p ? pattern_match(p, text, strlen(text)) : 0;
    pattern_free(p);
    return n;
}

static void test_patterns(void) {
    CHECK(matches("\\s+(?!\\S)|\\s+", "   a") == 2 && matches("\\s+(?!\\S)|\\s+", "  ") == 2,
          "white space but the last");
    CHECK(matches("\\s+(?!\\S)|\\s+", " a") == 1 && matches("\\s*[\\r\\n]+", " \n  \n\n x") == 6, "going back");
    CHECK(matches("\\p{N}{1,3}", "1234") == 3 && matches("\\p{N}{2,}", "1") == 0, "counts");
    CHECK(matches("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'LL") == 3 && matches("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'ſ") == 3,
          "the long s is an s");
    CHECK(matches("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "¡olé!") == 6 && matches("a|ab", "ab") == 1,
          "the first alternative");
    CHECK(matches("a++b|ac", "aab") == 3 && matches("a*+ab|c", "aab") == 0 && matches("a(?:b)?c", "ac") == 2,
          "groups");
    static const char *const unknown[] = {"", "a|", "(a", "a)", "[a", "[]", "a**", "(?:a)+", "\\w", ".", "^a", "a$",
                                          "a*", "(?<=a)b", "[[:alpha:]]", "[a&&b]", "\\p{Han}", "a{2", "a{3,2}",
                                          "(?i:abc)",
                                          "[z-a]", "\\", "a{0}", "(?!a)", "x{99999999}"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const char *problem = NULL;
        Pattern *p = pattern_compile(unknown[i], strlen(unknown[i]), &problem);
        CHECK(!p && problem, "%s was read", unknown[i]);
    }
}

// Searches that would take 2^40 steps without notes of what failed; and one that cannot be short.
static void test_long_searches(void) {
    char maybe[40 * 2 + 40 + 2] = "", text[20001];
    for (int i = 0; i < 40; i++) memcpy(maybe + 2 * i, "a?", 2);
    memset(maybe + 80, 'a', 40), maybe[120] = 'b';
    memset(text, 'a', 20000), text[20000] = 0;
    CHECK(matches(maybe, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == 0, "no b");
    maybe[120] = 0;
    CHECK(matches(maybe, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == 41, "41 of 40 to 80");
    CHECK(matches("a+|b", text) == 20000 && matches("a*b|a", text) == 1, "long runs");
    CHECK(matches("a*a*a*a*a*a*b", text) == SIZE_MAX, "too many steps are said to be so");
}

// A run of a million marks, in the worst order: by class from the last to the first.
static void test_long_run_of_marks(void) {
    enum { MARKS = 1000000 };
    char *text = xmalloc(2 * MARKS + 1);
    text[0] = 'q';
    for (size_t i = 0; i < MARKS; i++) memcpy(text + 1 + 2 * i, i < MARKS / 2 ? "\u0301" : "\u0323", 2);
    size_t n, low = 0;
    char *out = unicode_nfc(text, 2 * MARKS + 1, &n);
    CHECK(out && n == 2 * MARKS + 1, "%zu bytes", n);
    while (out && low < MARKS && memcmp(out + 1 + 2 * low, "\u0323", 2) == 0) low++;
    CHECK(low == MARKS / 2, "marks below come first: %zu", low);
    free(text), free(out);
}

static void test_nfc(void) {
    static const struct { const char *text, *composed; } cases[] = {
        {"e\u0301", "é"}, {"\u212B", "\u00C5"}, {"a\u0323\u0302", "\u1EAD"}, {"a\u0302\u0323", "\u1EAD"},
        {"\u1112\u1161\u11AB", "한"}, {"\u0958", "\u0915\u093C"}, {"q\u0307\u0323", "q\u0323\u0307"},
        {"\u30AB\u3099", "\u30AC"}, {"x\u0301 é 漢 한", NULL}, {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        char *out = unicode_nfc(cases[i].text, strlen(cases[i].text), &n);
        const char *expected = cases[i].composed ? cases[i].composed : cases[i].text;
        bool good = out ? n == strlen(expected) && !memcmp(out, expected, n) : !strcmp(cases[i].text, expected);
        CHECK(good, "%s is %.*s", cases[i].text, (int)n, out ? out : "");
        free(out);
    }
}

// A byte-level BPE by hand: 256 letters, "ab", "abc", a mark, and a template that begins with it.
static char *theirs_by_hand(const char *more) {
    json_t *vocab = json_object();
    for (int c = 0; c < 256; c++) {
        char letter[3], byte = (char)c;
        size_t n = bytelevel_spell(letter, &byte, 1);
        json_object_setn_new(vocab, letter, n, json_integer(255 - c));
    }
    json_object_set_new(vocab, "ab", json_integer(300));
    json_object_set_new(vocab, "abc", json_integer(299));
    json_object_set_new(vocab, "<s>", json_integer(301));
    char *text = json_dumps(vocab, 0), *all = xprintf(
        "{\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\",[\"ab\",\"c\"]],\"vocab\":%s},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"added_tokens\":[{\"id\":301,\"content\":\"<s>\",\"special\":true}]%s}", text, more);
    free(text);
    return all;
}

static void encode_half_a_character(void *t) {
    int *tokens;
    tokenizer_encode(t, "ab\xC3", 3, &tokens);
}

// What opening a directory says on stderr.
static const char *said_of(const char *dir) {
    int kept = dup(2);
    FILE *f = freopen(test_path("said"), "w", stderr);
    CHECK(f, "stderr is not a file");
    tokenizer_free(tokenizer_open_dir(dir));
    fflush(stderr);
    dup2(kept, 2), close(kept);
    return read_whole_file(test_path("said"), NULL);
}

// transformers obeys the template alone, and a flag that says otherwise is not passed over without a word.
static void test_bos_beside_template(void) {
    static const char config[] = "{\"bos_token\": \"<s>\", \"add_bos_token\": true}";
    make_directories(test_path("bos"));
    char *text = theirs_by_hand("");
    write_whole_file(in_dir("bos", "tokenizer.json"), text, strlen(text));
    write_whole_file(in_dir("bos", "tokenizer_config.json"), config, strlen(config));
    const char *said = said_of(test_path("bos"));
    CHECK(strstr(said, "add_bos_token is true, but the template"), "%s", said);
    int *tokens;
    CHECK(tokenizer_prompt(tokenizer_open_dir(test_path("bos")), "ab", &tokens) == 1 && tokens[0] == 300, "no mark");
}

// Texts end at the tokenizer's end where no list says so, and that transformers would go on is said.
static void test_end_without_a_list(void) {
    static const char config[] = "{\"eos_token\": \"<s>\"}", model[] = "{\"eos_token_id\": 7}";
    make_directories(test_path("goes-on"));
    char *text = theirs_by_hand("");
    write_whole_file(in_dir("goes-on", "tokenizer.json"), text, strlen(text));
    write_whole_file(in_dir("goes-on", "tokenizer_config.json"), config, strlen(config));
    write_whole_file(in_dir("goes-on", "config.json"), model, strlen(model));
    CHECK(!*said_of(test_path("goes-on")) && tokenizer_end(tokenizer_open_dir(test_path("goes-on"))) == 7, "a list");
    write_whole_file(in_dir("goes-on", "generation_config.json"), "{}", 2);
    const char *said = said_of(test_path("goes-on"));
    CHECK(strstr(said, "its generation_config.json names no eos_token_id, so transformers would not stop"), "%s", said);
    CHECK(tokenizer_end(tokenizer_open_dir(test_path("goes-on"))) == 301, "the tokenizer's");
}

// An end that is none, and a file that is damaged, beside a tokenizer of ours as beside one of others.
static void open_ending(void *dir) { tokenizer_free(tokenizer_open_dir(dir)); }

static void test_bad_ends(void) {
    static const struct { const char *file, *content, *says; } bad[] = {
        {"generation_config.json", "{\"eos_token_id\": \"32\"}", "config.json: eos_token_id is or holds \"32\""},
        {"generation_config.json", "{\"eos_token_id\": 32.0}", "eos_token_id is or holds 32.0"},
        {"generation_config.json", "{\"eos_token_id\": true}", "eos_token_id is or holds true"},
        {"generation_config.json", "{\"eos_token_id\": -1}", "so no text would end there"},
        {"generation_config.json", "{\"eos_token_id\": [32, 99999]}", "eos_token_id is or holds 99999, but"},
        {"generation_config.json", "{\"eos_token_id\": {}}", "eos_token_id is or holds {}"},
        {"config.json", "{\"eos_token_id\": 5000}", "config.json: eos_token_id is or holds 5000"},
        {"config.json", "{\"eos_token_id\": [null]}", "eos_token_id is or holds null"},
        {"tokenizer_config.json", "{\"eos_token\": 7}", "tokenizer_config.json: eos_token should be a text"},
        {"tokenizer_config.json", "[]", "a JSON object was expected, but what it holds is a list"},
        {"tokenizer_config.json", "", "is not a configuration"}, {"generation_config.json", "{", "is not a config"},
        {"special_tokens_map.json", "junk", "is not a config"}, {"added_tokens.json", "{\"a\":", "is not a config"},
    };
    char *theirs = theirs_by_hand("");
    for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
        char *dir = xprintf("ending%zu", i), *file = in_dir(dir, bad[i / 2].file);
        make_directories(test_path(dir));
        if (i % 2) write_whole_file(in_dir(dir, "tokenizer.json"), theirs, strlen(theirs));
        else tokenizer_save_dir(tokenizer_byte(), test_path(dir));
        write_whole_file(file, bad[i / 2].content, strlen(bad[i / 2].content));
        CHECK(test_fails(1, bad[i / 2].says, open_ending, (void *)test_path(dir)), "%s: %s", bad[i / 2].content,
              test_message);
    }
}

// Where a tokenizer of ours is beside a model that somebody else has saved, its texts end where that says.
static void test_ends_of_ours(void) {
    static const char *const files[] = {"config.json", "generation_config.json"};
    const char *dir = test_path("ours-ends");
    make_directories(dir);
    tokenizer_save_dir(tokenizer_byte(), dir);
    uint64_t without = tokenizer_hash(tokenizer_open_dir(dir));
    CHECK(tokenizer_end(tokenizer_open_dir(dir)) == -1, "none is named");
    for (int i = 0; i < 2; i++) {
        char *text = xprintf("{\"eos_token_id\": %s, \"vocab_size\": 300}", i ? "[290, 10, 32]" : "32");
        write_whole_file(in_dir("ours-ends", files[i]), text, strlen(text));
        if (i) write_whole_file(in_dir("ours-ends", files[0]), "{\"vocab_size\": 300}", 19);
        Tokenizer *t = tokenizer_open_dir(dir);
        CHECK(tokenizer_end(t) == (i ? 10 : 32) && tokenizer_is_end(t, 32), "%s", files[i]);
        CHECK(tokenizer_is_end(t, 290) == (i == 1), "one without a text");
        CHECK(tokenizer_hash(t) != without, "it decides how documents become tokens");
        make_directories(test_path("again"));
        tokenizer_save_dir(t, test_path("again"));
        CHECK(tokenizer_end(tokenizer_open_dir(test_path("again"))) == (i ? 10 : 32), "and goes with a run");
    }
}

// A class that builds the cutting anew counts, however it is named; one that is not read is refused.
static void open_classed(void *config) {
    const char *dir = test_path("classed");
    char *text = theirs_by_hand("");
    make_directories(dir);
    write_whole_file(in_dir("classed", "tokenizer.json"), text, strlen(text));
    write_whole_file(in_dir("classed", "tokenizer_config.json"), config, strlen(config));
    tokenizer_free(tokenizer_open_dir(dir));
}

static void test_classes(void) {
    int *tokens;
    open_classed("{\"tokenizer_class\": \"GPT2TokenizerFast\", \"add_prefix_space\": true}");
    Tokenizer *t = tokenizer_open_dir(test_path("classed"));
    CHECK(tokenizer_encode(t, "ab", 2, &tokens) == 2 && tokens[0] == 255 - ' ' && tokens[1] == 300, "a space before");
    CHECK(tokenizer_encode(t, "<|endoftext|>", 13, &tokens) == 1 && tokens[0] == 302, "a token that the class adds");
    size_t at;
    int which;
    tokenizer_encode(t, "ab <|endoftext|> a <s>", 22, &tokens);
    CHECK(tokenizer_spelled_out(t, &at, &which) == 2 && at == 3 && which == 302, "spelled out: %d at %zu", which, at);
    tokenizer_encode(t, "ab", 2, &tokens);
    CHECK(tokenizer_spelled_out(t, &at, &which) == 0, "none");
    open_classed("{\"tokenizer_class\": \"Qwen2Tokenizer\"}");
    t = tokenizer_open_dir(test_path("classed"));
    CHECK(tokenizer_encode(t, "a\u0301", 3, &tokens) == 2, "composed");
    CHECK(test_fails(1, "its tokenizer is a RobertaTokenizer, which transformers builds", open_classed,
                     "{\"tokenizer_class\": \"RobertaTokenizerFast\"}"), "%s", test_message);
}

static void test_theirs(void) {
    const char *path = test_path("theirs.json");
    char *text = theirs_by_hand(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                                "{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":"
                                "{\"ids\":[301]}}}");
    write_whole_file(path, text, strlen(text));
    Tokenizer *t = tokenizer_load(path);
    int *tokens;
    size_t n = tokenizer_encode(t, "abcab<s>b", 9, &tokens);
    CHECK(n == 4 && tokens[0] == 299 && tokens[1] == 300 && tokens[2] == 301 && tokens[3] == 255 - 'b',
          "%zu tokens", n);
    n = tokenizer_prompt(t, "ab", &tokens);
    CHECK(n == 2 && tokens[0] == 301 && tokens[1] == 300 && tokenizer_start(t) == 301, "the template");
    CHECK(tokenizer_prompt(t, "", &tokens) == 1 && tokens[0] == 301, "an empty prompt");
    CHECK(says(t, -1, 299, "abc") && says(t, 299, 301, "") && says(t, -1, 280, ""),
          "marks and numbers without a token");
    tokenizer_show_special(t, true);
    CHECK(says(t, -1, 301, "<s>") && tokenizer_vocab(t) == 302 && tokenizer_end(t) == -1,
          "a mark that is shown");
    CHECK(test_fails(1, "byte 2 of the text (0xc3) is not UTF-8", encode_half_a_character, t), "%s", test_message);
    make_directories(test_path("kept"));
    tokenizer_save_dir(t, test_path("kept"));
    write_whole_file(in_dir("kept", "config.json"), "{\"eos_token_id\": [7, 301]}", 26);
    CHECK(tokenizer_end(tokenizer_open_dir(test_path("kept"))) == -1, "generation_config.json decides alone");
    unlink(in_dir("kept", "generation_config.json"));
    Tokenizer *kept = tokenizer_open_dir(test_path("kept"));
    CHECK(tokenizer_end(kept) == 7 && tokenizer_is_end(kept, 301) && !tokenizer_is_end(kept, 8), "two ends");
    size_t bytes = strlen(text);
    for (size_t i = 0; i < bytes; i += i < 3000 ? 41 : 7) {                        // the beginning of a good file
        write_whole_file(path, text, i);
        CHECK(test_fails(1, "theirs.json", load, (void *)path), "%zu bytes: %s", i, test_message);
    }
    text = theirs_by_hand(",\"normalizer\":{\"type\":\"Lowercase\"}");
    write_whole_file(path, text, strlen(text));
    CHECK(test_fails(1, "its normalizer is Lowercase", load, (void *)path), "%s", test_message);
}

// Three million bytes without a space are one chunk of GPT-2's.
static void test_long_chunk(void) {
    const char *path = test_path("long.json");
    char *json = theirs_by_hand("");
    write_whole_file(path, json, strlen(json));
    Tokenizer *t = tokenizer_load(path);
    size_t n = 3000000;
    char *text = xmalloc(n);
    for (size_t i = 0; i < n; i++) text[i] = "abc"[i % 3];
    int *tokens;
    CHECK(tokenizer_encode(t, text, n, &tokens) == n / 3 && tokens[0] == 299 && tokens[n / 3 - 1] == 299,
          "a long word");
}

static const Test tests[] = {
    {"tokenizer/round-trip", "any bytes survive byte and bpe tokens, streamed one by one", test_round_trip},
    {"tokenizer/bpe-by-hand", "byte pairs merge as on paper and never across words", test_bpe_by_hand},
    {"tokenizer/bpe-naive", "the merges are those counted anew from the definition", test_bpe_naive},
    {"tokenizer/bpe-speed", "a megabyte is learnt and encoded in a moment", test_bpe_speed},
    {"tokenizer/characters", "characters are UTF-8, sorted; unknown and broken ones are refused", test_characters},
    {"tokenizer/utf8", "UTF-8 is what RFC 3629 says", test_utf8},
    {"tokenizer/words", "words are joined and taken apart as a reader would", test_words},
    {"tokenizer/numbers", "numbers are read and written", test_numbers},
    {"tokenizer/save-load", "a saved tokenizer is the same tokenizer", test_save_load},
    {"tokenizer/damaged", "a damaged tokenizer.json is refused with the reason", test_damaged},
    {"tokenizer/directories", "a run has one file for its tokenizer, in their form or in ours", test_save_dir},
    {"tokenizer/chunk-pattern", "the pattern that others read cuts a text as our byte pairs do", test_chunk_pattern},
    {"tokenizer/patterns", "patterns match as Oniguruma's do; others are refused", test_patterns},
    {"tokenizer/nfc", "composed forms are those of Unicode", test_nfc},
    {"tokenizer/ends", "an end that no list names is noted", test_end_without_a_list},
    {"tokenizer/bad-ends", "an end that is no token, and a damaged file beside, are refused", test_bad_ends},
    {"tokenizer/ends-of-ours", "a tokenizer of ours ends texts where the files beside it say", test_ends_of_ours},
    {"tokenizer/classes", "a tokenizer's class decides how it cuts, and which tokens it adds", test_classes},
    {"tokenizer/long-searches", "a pattern's search is bounded, and said to be too long", test_long_searches},
    {"tokenizer/long-runs", "a million marks are put in order in no time", test_long_run_of_marks},
    {"tokenizer/bos", "add_bos_token without a place in the template is noted and not obeyed",
     test_bos_beside_template},
    {"tokenizer/theirs", "a byte-level BPE of others: merges, marks, template, ends, damage", test_theirs},
    {"tokenizer/long-chunk", "a word of three million letters is merged in a moment", test_long_chunk},
    {"tokenizer/damaged-table", "a damaged tokenizer.bin is refused with the reason", test_damaged_table},
};
REGISTER_TESTS(tests)

// test_util.c: errors, memory, atomic files, hashing, and the random numbers of lib/rng.c.
#include "tests/test.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <unistd.h>
#include <sys/resource.h>
#include <signal.h>

static void overflowing_product(void *unused) {
    (void)unused;
    size_mul(SIZE_MAX / 2, 3);
}

static void take_too_much(void *unused) {
    (void)unused;
    Arena a = {.name = "tests"};
    arena_take(&a, 100);
    arena_commit(&a);
    arena_take(&a, 100);
    arena_take(&a, 100);
}

static void test_memory(void) {
    CHECK(size_mul(1u << 15, 1u << 15) == 1u << 30, "product of sizes");
    CHECK(test_fails(1, "larger than any memory", overflowing_product, NULL), "%s", test_message);
    CHECK(test_fails(1, "measured as 128 bytes", take_too_much, NULL), "%s", test_message);
    Arena a = {.name = "tests"};
    char *p = NULL, *q = NULL;
    for (int pass = 0; pass < 2; pass++) {
        p = arena_take(&a, 1), q = arena_take(&a, 65);
        if (pass == 0) {
            CHECK(!p && !q && a.used == 64 + 128, "measured %zu", a.used);
            arena_commit(&a);
        }
    }
    CHECK((uintptr_t)p % 64 == 0 && q - p == 64 && a.used == a.size, "aligned, adjacent, all taken");
    for (int i = 0; i < 65; i++) CHECK(q[i] == 0, "zeroed");
    arena_free(&a);
    char *text = xprintf("%d %s", 7, "x");
    CHECK(strcmp(text, "7 x") == 0, "%s", text);
    free(text);
}

static void write_to(void *path) { write_whole_file(path, "new", 3); }
static void read_from(void *path) { free(read_whole_file(path, NULL)); }
static void make_directory(void *path) { make_directories(path); }

static void test_files(void) {
    const char *path = test_path("a/b/file");
    make_directories(test_path("a/b"));
    make_directories(test_path("a/b"));
    char big[100000];
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 7);
    write_whole_file(path, big, sizeof big);
    size_t bytes;
    char *back = read_whole_file(path, &bytes);
    CHECK(bytes == sizeof big && memcmp(back, big, bytes) == 0 && back[bytes] == '\0', "%zu bytes", bytes);
    free(back);
    CHECK(!file_exists(test_path("a/b/file.tmp")), "no temporary file is left");
    CHECK(test_fails(1, "No such file", read_from, (void *)test_path("none")), "%s", test_message);
    CHECK(test_fails(1, "directory", read_from, (void *)test_path("a")), "%s", test_message);
    CHECK(test_fails(1, "cannot write", write_to, (void *)test_path("none/file")), "%s", test_message);
    CHECK(test_fails(1, "director", make_directory, (void *)path), "%s", test_message);
}

static void write_big(void *path) {
    char *block = xmalloc(1 << 20);
    write_whole_file(path, block, 1 << 20);
}

static void test_full_disk(void) {
    const char *path = test_path("file");
    write_whole_file(path, "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(test_fails(1, "unchanged", write_big, (void *)path), "%s", test_message);
    CHECK(!file_exists(test_path("file.tmp")), "no temporary file is left");
    char *old = read_whole_file(path, NULL);
    CHECK(strcmp(old, "old") == 0, "%s", old);
    free(old);
}

static void test_hash(void) {
    float a[16] = {0}, b[16] = {0};
    b[1] = b[3] = -0.0f;
    CHECK(hash_bytes(HASH_START, a, sizeof a) != hash_bytes(HASH_START, b, sizeof b),
          "two flipped signs must not cancel");
    CHECK(hash_text(hash_text(HASH_START, "ab"), "c") != hash_text(hash_text(HASH_START, "a"), "bc"), "ends count");
    CHECK(hash_bytes(HASH_START, "a", 1) == 0xaf63dc4c296230c0ull, "%llx",
          (unsigned long long)hash_bytes(HASH_START, "a", 1));  // FNV-1a's af63dc4c8601ec8c, folded
}

// The known answers that the authors of Philox publish with Random123 (kat_vectors).
static void test_philox(void) {
    static const struct { uint64_t seed, purpose, index; uint32_t expected[4]; } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        philox(out, known[i].seed, known[i].purpose, known[i].index);
        CHECK(memcmp(out, known[i].expected, sizeof out) == 0, "vector %zu: %08x %08x", i, out[0], out[1]);
    }
}

static void test_distributions(void) {
    enum { N = 200000 };
    Rng r = rng_stream(1, RNG_TEST, 0);
    double mean = 0, square = 0, fourth = 0, uniform = 0;
    size_t below[7] = {0};
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&r);
        mean += x / N, square += x * x / N, fourth += x * x * x * x / N;
        double u = rng_uniform(&r);
        CHECK(u >= 0 && u < 1, "%g", u);
        uniform += u / N;
        below[rng_below(&r, 7)]++;
    }
    // Five standard errors: 1/sqrt(N) = 0.0022 for the mean, sqrt(2), sqrt(96) times it for the moments.
    CHECK(fabs(mean) < 0.011, "mean %g", mean);
    CHECK(fabs(square - 1) < 0.016, "variance %g", square);
    CHECK(fabs(fourth - 3) < 0.11, "fourth moment %g", fourth);
    CHECK(fabs(uniform - 0.5) < 0.0033, "uniform mean %g", uniform);
    for (int i = 0; i < 7; i++) CHECK(fabs((double)below[i] - N / 7.) < 5 * sqrt(N / 7.), "%d: %zu", i, below[i]);
}

static void test_streams(void) {
    Rng a = rng_stream(3, RNG_DATA, 5), b = rng_stream(3, RNG_DATA, 5), c = rng_stream(3, RNG_DATA, 6);
    size_t same = 0, other = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t x = rng_u32(&a);
        same += x == rng_u32(&b), other += x == rng_u32(&c);
    }
    CHECK(same == 1000 && other < 3, "%zu %zu", same, other);
}

// ---- what a terminal is shown ------------------------------------------------------------------
// Every code point, as UTF-8 has it, and every byte alone.
static void test_controls(void) {
    for (unsigned code = 0; code < 0x3000; code++) {
        char text[4] = {(char)code};
        size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
        if (n == 2) text[0] = (char)(0xC0 | code >> 6), text[1] = (char)(0x80 | (code & 63));
        if (n == 3) text[0] = (char)(0xE0 | code >> 12), text[1] = (char)(0x80 | (code >> 6 & 63)),
                    text[2] = (char)(0x80 | (code & 63));
        bool control = code < 32 || (code >= 0x7F && code < 0xA0);
        CHECK(text_control(text, n) == (control ? n : 0), "U+%04X", code);
    }
    for (int byte = 0x80; byte < 0x100; byte++)
        CHECK(text_control(&(char){(char)byte}, 1) == 1, "the byte %02x alone", byte);
}

static void test_shown(void) {
    static const struct { const char *text; size_t bytes; const char *printed, *escaped; } cases[] = {
        {"a\tb\n", 4, "a\tb\n", "a\\x09b\\n"},
        {"\033[31mred", 8, "\xEF\xBF\xBD[31mred", "\\x1b[31mred"},
        {"\xC2\x9B" "31m", 5, "\xEF\xBF\xBD" "31m", "\\xc2\\x9b31m"},
        {"\x9B" "31m", 4, "\xEF\xBF\xBD" "31m", "\\x9b31m"},
        {"a\0b", 3, "a\xEF\xBF\xBD" "b", "a\\x00b"},
        {"\xC3\xA9\xE2\x82\xAC\xC2\xA0", 7, "\xC3\xA9\xE2\x82\xAC\xC2\xA0", "\xC3\xA9\xE2\x82\xAC\xC2\xA0"},
        {"\xE2\x82", 2, "\xEF\xBF\xBD\xEF\xBF\xBD", "\\xe2\\x82"},
        {"", 0, "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *printed, escaped[64];
        size_t bytes;
        FILE *f = open_memstream(&printed, &bytes);
        text_print(f, cases[i].text, cases[i].bytes);
        fclose(f);
        text_escape(escaped, sizeof escaped, cases[i].text, cases[i].bytes);
        CHECK(!strcmp(printed, cases[i].printed), "%zu: %s", i, printed);
        CHECK(!strcmp(escaped, cases[i].escaped), "%zu: %s", i, escaped);
        free(printed);
    }
    char cut[12];
    text_escape(cut, sizeof cut, "0123456\x9b\x9b\x9b", 10);
    CHECK(!strncmp(cut, "0123456", 7) && strlen(cut) < sizeof cut, "cut to its size: %s", cut);
}

// A name cannot make a line of its own.
static void lines(void) {
    static const struct { const char *name, *shown; } names[] = {
        {"plain", "note     plain\nand plain\n"}, {"a\nerror: b", "note     a\\nerror: b\nand a\\nerror: b\n"},
        {"a\x1e" "b\n", "note     a\\x1eb\\n\\x1eand a\\x1eb\\n\n"}, {"", "note     \nand \n"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *printed;
        size_t bytes;
        FILE *f = open_memstream(&printed, &bytes);
        print_line(f, "note     %s\nand %s\n", names[i].name, names[i].name);
        fclose(f);
        CHECK(!strcmp(printed, names[i].shown), "%zu: \"%s\"", i, printed);
        free(printed);
    }
}

static const Test tests[] = {
    {"util/lines", "a line of output stays a line, whatever names are in it", lines},
    {"util/controls", "controls, C1 ones too, and bytes that are not UTF-8 are told from characters", test_controls},
    {"util/shown", "what is printed or quoted commands no terminal, and keeps its tabs and lines", test_shown},
    {"util/memory", "sizes are checked; an arena hands out what it measured, aligned and zeroed", test_memory},
    {"util/files", "files are read, written and refused with the reason", test_files},
    {"util/full-disk", "a disk that fills up leaves the old file and no debris", test_full_disk},
    {"util/hash", "the hash notices what digests must notice", test_hash},
    {"util/philox", "Philox4x32-10 gives its published known answers", test_philox},
    {"util/distributions", "uniform, integer and normal draws have the right moments", test_distributions},
    {"util/streams", "a stream depends on its key and on nothing else", test_streams},
};
REGISTER_TESTS(tests)

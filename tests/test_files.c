// test_files.c: --data, --val, --field and --tokenizer with files: which are read, in which order, as which tokens; and
// that nothing is silently taken for what it is not.
#include "tests/program.h"
#include "data/data.h"
#include "data/files.h"
#include "lib/numeric.h"
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

// ---- helpers -----------------------------------------------------------------------------------
static void put(const char *name, const char *text) { write_whole_file(test_path(name), text, strlen(text)); }
static char *many(const char *text, size_t times) {
    char *all = xmalloc(strlen(text) * times + 1);
    for (size_t i = 0; i < times; i++) strcat(all, text);
    return all;
}

// Flags in which # stands for the directory of the test.
static char *placed(const char *flags) {
    char *all = xprintf("%s", "");
    for (; *flags; flags++)
        all = *flags == '#' ? xprintf("%s%s", all, test_directory()) : xprintf("%s%c", all, *flags);
    return all;
}

static Data *open_flags(const char *flags) {
    Config c;
    flags_parse_text(&config_table, &c, placed(flags), NULL);
    return data_open(&c);
}
static void open_these(void *flags) { open_flags(flags); }
static uint64_t hash_of(const char *flags) {
    Data *d = open_flags(flags);
    uint64_t hash = d->hash;
    data_close(d);
    return hash;
}

// All tokens of the validation split: with windows of one token, as many as there are places for them.
static void check_validation(const char *flags, const int *expected, size_t count) {
    Data *d = open_flags(xprintf("%s --context 1 --eval-tokens %zu", flags, count - 1));
    size_t differ = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        int token, target;
        d->row(d, SPLIT_VALIDATION, i, 1, &token, &target, NULL);
        differ += token != expected[i] || target != expected[i + 1];
        if (differ == 1) CHECK(false, "%s: tokens %zu: %d %d, not %d %d (%s)", flags, i, token, target, expected[i],
                               expected[i + 1], d->splits);
    }
    CHECK(strstr(d->splits, xprintf("%zu ", count)), "%s: %zu tokens were expected: %s", flags, count, d->splits);
    data_close(d);
}
static void check_validation_text(const char *flags, const char *text) {
    size_t n = strlen(text);
    int *expected = xmalloc(n * sizeof *expected);
    for (size_t i = 0; i < n; i++) expected[i] = (unsigned char)text[i];
    check_validation(flags, expected, n);
    free(expected);
}

static void refused(int status, const char *flags, const char *message) {
    CHECK(test_fails(status, message, open_these, (void *)flags), "%s: %s", flags, test_message);
}

// ---- which files, in which order -----------------------------------------------------------------
static void test_order(void) {
    mkdir(test_path("d"), 0700), mkdir(test_path("d/inner.txt.d"), 0700);
    put("d/b.txt", "bee\n"), put("d/a.txt", "ant"), put("d/B.txt", "Bat\xff"), put("d/.hidden.txt", "no");
    put("d/notes.md", "no"), put("d/tokenizer.bin", "no"), put("t.txt", "a text to train on");
    static const char *const same[] = {"#/d", "#/d/", "#/d/*.txt", "#/d/[abB].txt"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        check_validation_text(xprintf("--data #/t.txt --tokenizer byte --val %s", same[i]), "Bat\xff\n\nant\n\nbee\n");
#define D "--data #/d --tokenizer byte --context 1 --val-fraction 0.5"
    uint64_t hash = hash_of(D);
    CHECK(hash == hash_of("--data #/d/*.txt --tokenizer byte --context 1 --val-fraction 0.5"), "the same files");
    rename(test_path("d/b.txt"), test_path("d/z.txt"));
    CHECK(hash == hash_of(D), "names decide nothing but the order");
    put("d/z.txt", "bea\n");
    CHECK(hash != hash_of(D), "another text");
    put("d/a.txt", "ant\n\nbee"), put("d/z.txt", "\n");
    uint64_t first = hash_of(D);
    put("d/a.txt", "ant"), put("d/z.txt", "bee\n\n\n");
    CHECK(first != hash_of(D), "documents that begin elsewhere");
    put("d/a.txt", "ants"), put("d/b.txt", "bee"), unlink(test_path("d/z.txt"));
    check_validation_text("--data #/t.txt --tokenizer byte --val #/d/a.txt", "ants");
    CHECK(hash_of("--data #/d/a* --context 1 --val-fraction 0.5") == hash_of("--data #/d/a.txt --context 1 "
          "--val-fraction 0.5"), "a glob of one file is that file");
}

static void test_refused_sets(void) {
    mkdir(test_path("empty"), 0700), mkdir(test_path("d"), 0700), mkdir(test_path("d/sub.txt"), 0700);
    put("d/a.txt", many("a text ", 20)), put("x.txt", "x"), put("x.jsonl", "{}"), put("long.txt", many("long", 30));
    symlink("loop", test_path("loop")), symlink("long.txt", test_path("link.txt"));
    mkfifo(test_path("pipe.txt"), 0600);
    static const struct { int status; const char *flags, *message; } cases[] = {
        {1, "--data #/empty", "is a directory without .txt"}, {1, "--data #/no*", "nor a pattern that files match"},
        {1, "--data #/d", "sub.txt is a directory; files were expected"},
        {1, "--data #/x*", "x.jsonl and "}, {1, "--data #/x*", "x.txt are of different kinds"},
        {1, "--data #/loop", "cannot read"}, {1, "--data #/l*.txt", "are one file, which would be read twice"},
        {1, "--data #/pipe.txt", "is not a regular file"}, {1, "--data #/p*", "is not a regular file"},
        {1, "--data #/long.txt --val #/gone.txt", "--val: cannot read"},
        {1, "--data #/long.txt --val #/long.txt", "nothing would be left to train on"},
        {1, "--data #/long.txt --val #/link.txt", "nothing would be left to train on"},
        {1, "--data #/lon* --val #/long.txt", "--val names all files of --data"},
        {1, "--data #/long.txt --val #/x.jsonl", "are of different kinds"},
        {2, "--data #/long.txt --val #/x.txt --val-fraction 0.2", "--val-fraction has no effect beside --val"},
        {1, "--data #/long.txt --val #/x.txt --context 8", "x.txt: its validation split has 1 tokens"},
        {2, "--data #/long.txt --tokenizer #/none.json", "or a tokenizer.json or a directory"},
        {1, "--data #/long.txt --tokenizer #/empty", "the directory has no tokenizer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].status, cases[i].flags, cases[i].message);
}

// ---- which are for validation --------------------------------------------------------------------
static void test_names(void) {
    mkdir(test_path("d"), 0700);
    put("d/train.txt", "for training"), put("d/valid.txt", "for validation");
    static const char *const same[] = {"#/d", "#/d/*", "#/d/train.txt", "#/d/t*", "#/d --val #/d/valid.txt",
                                       "#/d/train.txt --val #/d/v*"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        check_validation_text(xprintf("--tokenizer byte --data %s", same[i]), "for validation");
    put("d/test.txt", "for neither");
    refused(1, "--data #/d", "test.txt: is it for training or for validation?");
    unlink(test_path("d/test.txt"));
    mkdir(test_path("t"), 0700), put("t/train.txt", "for training"), put("t/test.txt", "kept apart");
    refused(1, "--data #/t", "t/test.txt would be trained on, but by its name it is kept apart");
    refused(1, "--data #/t/*.txt --val #/d/valid.txt", "t/test.txt would be trained on");
    check_validation_text("--tokenizer byte --data #/t --val #/t/test.txt", "kept apart");
    data_close(open_flags("--data #/t/train.txt --context 1"));
    put("d/interval.txt", "val within a word is no word");
    refused(1, "--data #/d", "interval.txt: is it for training or for validation?");
    unlink(test_path("d/interval.txt"));
    put("other.txt", "other text");
    refused(1, "--data #/d --val #/other.txt", "valid.txt is for validation by its name");
    refused(2, "--data #/d --val-fraction 0.2", "valid.txt beside it is the validation split");
    check_validation_text("--data #/d/train.txt --tokenizer byte --val #/other.txt", "other text");
    put("d/trains.txt", "no validation beside it");
    check_validation_text("--data #/d/trains.txt --tokenizer byte --context 1 --val-fraction 0.25", "ide it");
    // Only where others say train is val a word that decides.
    mkdir(test_path("e"), 0700);
    put("e/val-1.txt", "one"), put("e/val-2.txt", "two");
    check_validation_text("--data #/other.txt --tokenizer byte --val #/e", "one\n\ntwo");
    Data *d = open_flags("--data #/e --context 1 --val-fraction 0.5");
    CHECK(strstr(d->splits, "for training, the ") && !strstr(d->splits, "validation, "), "%s", d->splits);
    data_close(d);
    // Within words they decide where one stands beside the other, and what validates is not trained on.
    mkdir(test_path("w"), 0700);
    put("w/atrain1.txt", "some text"), put("w/atrain2.txt", "and more");
    put("w/aval1.txt", "one"), put("w/aval2.txt", "two");
    check_validation_text("--data #/w --tokenizer byte", "one\n\ntwo");
    d = open_flags("--data #/w --context 1");
    CHECK(strstr(d->splits, "of 2 files, ") && strstr(d->splits, "atrain2.txt, for training"), "%s", d->splits);
    data_close(d);
}

// ---- texts ---------------------------------------------------------------------------------------
// Between documents stand two newlines. The share for validation begins with a document.
static void test_json_lines(void) {
    put("a.jsonl", "\xEF\xBB\xBF{\"id\": 123456789012345678901234567890, \"text\": \"caf\\u00e9 \\ud83d\\ude00\"}\r\n"
                   "\n   \r\n{\"text\": \"a\\n\\tb\", \"text2\": null}\n{\"text\": \"\"}\n{\"text\": \"no newline\"}");
    put("t.jsonl", many("{\"text\": \"abcdefgh\"}\n", 10));
    check_validation_text("--data #/t.jsonl --val #/a.jsonl --field text --tokenizer byte",
                          "caf\xC3\xA9 \xF0\x9F\x98\x80\n\na\n\tb\n\n\n\nno newline");
    // 10 documents of 8 bytes, 2 between them: half of 98 is within the fifth, so validation begins with the sixth.
    check_validation_text("--data #/t.jsonl --field text --val-fraction 0.5 --tokenizer byte",
                          "abcdefgh\n\nabcdefgh\n\nabcdefgh\n\nabcdefgh\n\nabcdefgh");
    check_validation_text("--data #/t.jsonl --field text --val-fraction 0.001 --tokenizer byte", "abcdefgh");
    put("lines.txt", many("{\"content\": \"x y z\"}\n", 20));   // the name says nothing, the flag does
    put("two.txt", "{\"content\": \"one\"}\n{\"content\": \"two\"}\n");
    check_validation_text("--data #/lines.txt --val #/two.txt --field content --tokenizer byte", "one\n\ntwo");
    Data *d = open_flags("--data #/t.jsonl --field text --context 1");
    CHECK(d->vocab == 9, "abcdefgh and the newline: %zu", d->vocab);
    data_close(d);
}

static void test_refused_lines(void) {
    static const struct { const char *text, *message; } cases[] = {
        {"{\"text\":\"a\"}\n{\"text\":3}\n", "x.jsonl, line 2: the field \"text\" is a number; a text was expected"},
        {"{\"text\":null}\n", "line 1: the field \"text\" is null"},
        {"{\"text\":\"a\"}\n\n{\"url\":3, \"body\":1}\n", "line 3 has no field \"text\"; it has url, body"},
        {"{\"text\":\"a\"}\n{\"text\":\"b\"\n", "x.jsonl, line 2, byte "},
        {"{\"text\":\"a\"} {\"text\":\"b\"}\n", "line 1, byte "},
        {"[{\"text\":\"a\"}]\n", "line 1 is an array; an object was expected"},
        {"\"text\"\n", "line 1 is a text; an object was expected"},
        {"{\"text\":\"a\\u0000b\"}\n", "line 1: the field \"text\" holds NUL"},
        {"{\"text\":\"a\xff\"}\n", "line 1, byte "}, {"{\"text\":\"\\ud800\"}\n", "line 1, byte "},
        {"{\"text\":\"a\",\"text\":\"b\"}\n", "line 1, byte "}, {"\n\n", "is empty; lines of JSON were expected"},
        {"", "is empty; lines of JSON were expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("x.jsonl", cases[i].text);
        refused(1, "--data #/x.jsonl --field text", cases[i].message);
        CHECK(strstr(test_message, "x.jsonl"), "the file is named: %s", test_message);
    }
    put("x.jsonl", many("{\"id\": 1, \"body\": \"some text\"}\n", 20));
    refused(1, "--data #/x.jsonl", "give --field NAME for the field that is the text (its first line has id, body)");
    rename(test_path("x.jsonl"), test_path("x.txt"));
    refused(1, "--data #/x.txt", "holds lines of JSON");
    data_close(open_flags("--data #/x.txt --tokenizer byte --context 8"));
    put("one.txt", xprintf("{\"a json\": \"file\"}\n%s", many("and then text ", 20)));   // one line is no JSONL
    data_close(open_flags("--data #/one.txt --context 8"));
    put("x.bin", many("0123456789", 10));
    refused(2, "--data #/x.bin --field text", "--field text is for JSONL, but");
}

// Data that is no text: refused where it is JSON as a whole, noted where it looks like a table.
static void test_refused_json(void) {
    static const struct { const char *text, *message; } cases[] = {
        {"[{\"text\": \"a\"}, {\"text\": \"b\"}]\n", "is one array of JSON; write a line for each"},
        {"\xEF\xBB\xBF \n[\n  \"a\",\n  \"b\"\n]", "jq -c '.[] | {text: .}'"},
        {"{\n  \"data\": [\"a\", \"b\"]\n}\n", "is one object of JSON over several lines"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("x.txt", cases[i].text), refused(1, "--data #/x.txt --context 1", cases[i].message);
        data_close(open_flags("--data #/x.txt --tokenizer byte --context 1 --val-fraction 0.5"));
    }
    put("x.jsonl", "{\n  \"text\": \"a\"\n}\n"), refused(1, "--data #/x.jsonl --field text", "jq -c '.[]'");
    put("x.jsonl", "[\n  {\"text\": \"a\"}\n]\n"), refused(1, "--data #/x.jsonl --field text", "jq -c '.[]'");
    put("c.txt", "{ int x = 1;\n return x; }"), data_close(open_flags("--data #/c.txt --context 1"));
    put("l.txt", "[Applause] and then [a pause]"), data_close(open_flags("--data #/l.txt --context 1"));
}

// What cannot be a text, by the beginnings that the formats' writers make.
#define NUL(at) "byte " #at " is NUL, which no text has"
static void test_foreign(void) {
    static const struct { const char *start; size_t bytes; const char *message; } cases[] = {
        {"\xFF\xFE" "a\0b\0", 6, "is UTF-16"}, {"\xFE\xFF\0a", 4, "is UTF-16"}, {"\xFF\xFE\0\0", 4, "is UTF-32"},
        {"\0\0\xFE\xFF", 4, "is UTF-32"}, {"\x1F\x8B\x08\0", 4, "gzip"}, {"\x28\xB5\x2F\xFD", 4, "zstd"},
        {"\xFD" "7zXZ", 6, "xz"}, {"BZh91AY&SY", 10, "bzip2"}, {"PK\3\4", 4, "zip"}, {"\x04\x22\x4D\x18", 4, "lz4"},
        {"\x93NUMPY\1\0", 8, "NumPy"}, {"PAR1", 4, "Parquet"}, {"ARROW1\0\0", 8, "Arrow"},
        {"\xFF\xFF\xFF\xFF\x10", 5, "Arrow"}, {"\x10\0\0\0\0\0\0\0{\"a\"", 12, "safetensors"}, {"GGUF", 4, "GGUF"},
        {"%PDF-1.7", 8, "PDF"}, {"\x80\4\x95\x10\0\0\0\0\0\0\0", 11, "pickle"}, {"\x89HDF\r\n\x1A\n", 8, "HDF5"},
        {"SQLite format 3", 16, "SQLite"}, {"version https://git-lfs.github.com/spec/v1\n", 43, "Git LFS"},
        {"a\0b\0c\0d\0", 8, NUL(1) "; it looks like UTF-16: convert it (iconv -f UTF-16LE"},
        {"\0a\0b", 4, NUL(0) "; it looks like UTF-16: convert it (iconv -f UTF-16BE"},
        {"a\0\0\0b\0\0\0", 8, NUL(1) "; it looks like UTF-32: convert it (iconv -f UTF-32LE"},
        {"text and more text with a\0byte", 30, NUL(25) "; to train on any bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool nul = strstr(cases[i].message, "NUL") != NULL;
        char file[80] = {0};
        memset(file + cases[i].bytes, nul ? 0 : 'x', nul ? 0 : sizeof file - cases[i].bytes);
        memcpy(file, cases[i].start, cases[i].bytes);
        size_t bytes = nul ? cases[i].bytes : sizeof file;
        write_whole_file(test_path("f.txt"), file, bytes);
        refused(1, "--data #/f.txt", cases[i].message);
        CHECK(strstr(test_message, "f.txt") && strstr(test_message, "--tokenizer byte"), "%s", test_message);
        refused(1, "--data #/f.txt --tokenizer char", cases[i].message);
        data_close(open_flags("--data #/f.txt --tokenizer byte --context 1 --val-fraction 0.5"));
        if (nul || strstr(cases[i].message, "UTF-16")) continue;
        write_whole_file(test_path("f.bin"), file, bytes);
        refused(1, "--data #/f.bin", cases[i].message);
    }
    char tar[600] = {0};
    memcpy(tar + 257, "ustar", 5);
    write_whole_file(test_path("f.txt"), tar, sizeof tar);
    refused(1, "--data #/f.txt", "is a tar archive");
}

// ---- shards --------------------------------------------------------------------------------------
static void put_numbers(const char *name, const void *numbers, size_t bytes, uint32_t magic, size_t count) {
    char *file = xmalloc(1024 + bytes);
    uint32_t header[] = {magic, magic == 20240801 ? 7 : 1, (uint32_t)count};
    size_t skip = magic ? 1024 : 0;
    if (magic) memcpy(file, header, sizeof header);
    memcpy(file + skip, numbers, bytes);
    write_whole_file(test_path(name), file, skip + bytes);
    free(file);
}
// 16-bit tokens from, from+1, ...
static void put_shard(const char *name, size_t from, size_t count, uint32_t magic) {
    uint16_t *numbers = xmalloc(count * sizeof *numbers);
    for (size_t i = 0; i < count; i++) numbers[i] = (uint16_t)(from + i);
    put_numbers(name, numbers, count * sizeof *numbers, magic, count);
    free(numbers);
}

static void test_shards(void) {
    mkdir(test_path("d"), 0700);
    put_shard("d/f_train_000001.bin", 100, 70, 20240520), put_shard("d/f_train_000002.bin", 170, 1, 20240520);
    put_shard("d/f_train_000003.bin", 171, 0, 20240520), put_shard("d/f_train_000010.bin", 171, 30, 0);
    put_shard("d/f_val_000000.bin", 10, 40, 20240520), put_shard("other.bin", 1, 50, 0);
    int train[101], val[40];
    for (int i = 0; i < 101; i++) train[i] = 100 + i;
    for (int i = 0; i < 40; i++) val[i] = 10 + i;
    check_validation("--data #/other.bin --val #/d/f_train_*", train, 101);
    static const char *const same[] = {"#/d", "#/d/*.bin", "#/d/f_train_*.bin", "#/d/f_train_000001.bin"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) check_validation(xprintf("--data %s", same[i]), val, 40);
    CHECK(hash_of("--data #/d --context 4") == hash_of("--data #/d/f_train_* --context 4"), "the same tokens");
    // A row across files is the one that a single file of all tokens would give, and so is the share at the end.
    put_shard("all.bin", 100, 101, 0);
    mkdir(test_path("e"), 0700);
    put_shard("e/1.bin", 100, 33, 0), put_shard("e/2.bin", 133, 68, 20240520);
    Data *parts = open_flags("--data #/e --context 20 --val-fraction 0.3");
    Data *whole = open_flags("--data #/all.bin --context 20 --val-fraction 0.3");
    int tokens[2][20], targets[2][20];
    for (uint64_t i = 0; i < 60; i++)
        for (int split = 0; split < 2; split++) {
            parts->row(parts, split, i, 20, tokens[0], targets[0], NULL);
            whole->row(whole, split, i, 20, tokens[1], targets[1], NULL);
            CHECK(!memcmp(tokens[0], tokens[1], sizeof *tokens) && !memcmp(targets[0], targets[1], sizeof *targets),
                  "row %d of split %d", (int)i, split);
        }
    data_close(parts), data_close(whole);
}

static void read_row(void *data) {
    Data *d = data;
    int tokens[4], targets[4];
    d->row(d, SPLIT_TRAIN, 0, 4, tokens, targets, NULL);
}

static void test_shard_refused(void) {
    uint32_t wide[100], high[100], small[100];
    uint64_t longs[100];
    uint16_t zeros[100];
    for (uint32_t i = 0; i < 100; i++) {
        wide[i] = i * 7 % 60000, high[i] = i * 1301 % 128256, small[i] = i % 65;
        longs[i] = i % 65, zeros[i] = (uint16_t)(i % 2 ? i % 3 : i % 5);
    }
    static const char advice[] = "x.bin: every second of its 16-bit numbers is";
    put_numbers("x.bin", wide, sizeof wide, 0, 0), refused(1, "--data #/x.bin --context 4", advice);
    put_numbers("x.bin", high, sizeof high, 0, 0), refused(1, "--data #/x.bin --context 4", advice);
    put_numbers("x.bin", small, sizeof small, 0, 0), refused(1, "--data #/x.bin --context 4", advice);
    put_numbers("x.bin", longs, sizeof longs, 0, 0), refused(1, "--data #/x.bin --context 4", advice);
    put_numbers("x.bin", zeros, sizeof zeros, 0, 0), data_close(open_flags("--data #/x.bin --context 4"));
    put_numbers("x.bin", wide, sizeof wide, 20240801, 100), data_close(open_flags("--data #/x.bin --context 4"));
    put_shard("y.bin", 1, 100, 0);
    refused(1, "--data #/[xy].bin", "x.bin has tokens of 32 bits, ");
    refused(1, "--data #/x.bin --val #/y.bin", "y.bin of 16; they do not belong together");
    put_shard("z.bin", 1, 100, 20240328), refused(1, "--data #/z.bin", "z.bin is a tokenizer of llm.c");
    put_shard("z.bin", 1, 100, 20240326), refused(1, "--data #/z.bin", "z.bin is a model of llm.c");
    // What the run has hashed is not what it would read.
    Data *d = open_flags("--data #/y.bin --context 4");
    read_row(d);
    struct utimbuf later = {1000, 1000};
    utime(test_path("y.bin"), &later);
    CHECK(test_fails(1, "y.bin has changed since this run began", read_row, d), "%s", test_message);
    put_shard("y.bin", 1, 7, 0);
    CHECK(test_fails(1, "y.bin has changed since this run began", read_row, d), "%s", test_message);
    unlink(test_path("y.bin"));
    CHECK(test_fails(1, "cannot read", read_row, d), "%s", test_message);
}

// ---- types that the file does not say ------------------------------------------------------------
// Ids as a text has them: common ones are small (Zipf), now and then a large one.
static uint32_t id_below(uint32_t i, uint32_t vocab) {
    double u = (double)(i * 2654435761u % 1000003) / 1000003;
    return (uint32_t)(num_exp(u * num_log(vocab))) - 1;
}

typedef enum { LE16, BE16, U8, I32, U32, F32, F64, BE32, WEIGHTS, TYPES } Type;
static size_t put_id(unsigned char *to, Type type, uint32_t id, uint32_t i) {
    uint16_t half = (uint16_t)id;
    int32_t whole = i % 50 == 49 ? -1 : (int32_t)id;
    float single = type == WEIGHTS ? (float)(id % 1000) * 1e-4f - 0.05f : (float)id;
    double twice = id;
    unsigned char big[4] = {(unsigned char)(id >> 24), (unsigned char)(id >> 16), (unsigned char)(id >> 8),
                            (unsigned char)id};
    const void *from[TYPES] = {&half, big + 2, big + 3, &whole, &id, &single, &twice, big, &single};
    static const size_t bytes[TYPES] = {2, 2, 1, 4, 4, 4, 8, 4, 4};
    memcpy(to, from[type], bytes[type]);
    return bytes[type];
}

static void put_ids(const char *name, Type type, size_t count, uint32_t vocab) {
    unsigned char *all = xmalloc(8 * count);
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += put_id(all + bytes, type, id_below(i, vocab), i);
    write_whole_file(test_path(name), all, bytes);
    free(all);
}

static void test_types(void) {
    static const struct { Type type; size_t count; uint32_t vocab; const char *message; } others[] = {
        {BE16, 40, 256, "big-endian uint16"}, {BE16, 4000, 50257, "big-endian uint16"},
        {BE16, 4000, 8000, "big-endian"},
        {U8, 20000, 65, "8 bits"}, {U8, 20000, 256, "8 bits"}, {I32, 200, 65, "32 or 64 bits"},
        {I32, 200, 50257, "32 or 64 bits"}, {U32, 400, 5000000, "32 or 64 bits"}, {U32, 40, 151936, "32 or 64 bits"},
        {BE32, 40, 50257, "32 or 64 bits"}, {F32, 200, 50257, "float32"}, {F64, 200, 50257, "float"},
        {WEIGHTS, 200, 50257, "float32"},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        put_ids("x.bin", others[i].type, others[i].count, others[i].vocab);
        refused(1, "--data #/x.bin --context 4", others[i].message);
        CHECK(strstr(test_message, "x.bin") && strstr(test_message, "llm.c's header"), "%zu: %s", i, test_message);
    }
    put("x.bin", many("All of this is a text.\n", 10)), refused(1, "--data #/x.bin --context 4", "8 bits");
    static const uint32_t vocabs[] = {2, 65, 256, 300, 512, 8000, 32000, 50257, 65536};
    static const size_t counts[] = {10, 16, 17, 40, 200, 2000, 50000};
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            put_ids("x.bin", LE16, counts[n], vocabs[v]);
            data_close(open_flags("--data #/x.bin --context 1 --val-fraction 0.5"));
        }
}

// ---- tokenizers ----------------------------------------------------------------------------------
// Hugging Face's form of a tokenizer of bytes, with tokens for the end and, if asked, the begin of a text.
static void put_tokenizer(const char *dir, bool begin) {
    const char *at = test_path(dir);
    mkdir(at, 0700);
    Tokenizer *t = tokenizer_byte();
    tokenizer_save_dir(t, at);
    tokenizer_free(t);
    json_t *root = json_load_file(xprintf("%s/tokenizer.json", at), 0, NULL), *added = json_array();
    static const char *const names[] = {"<|end|>", "<|begin|>"};
    for (int i = 0; i < 1 + begin; i++)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 256 + i, "content",
                                               names[i], "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                               "special", 1));
    json_object_set_new(root, "added_tokens", added);
    json_dump_file(root, xprintf("%s/tokenizer.json", at), 0);
    json_t *config = json_pack("{s:s, s:s}", "tokenizer_class", "PreTrainedTokenizerFast", "eos_token", names[0]);
    if (begin) json_object_set_new(config, "bos_token", json_string(names[1]));
    json_dump_file(config, xprintf("%s/tokenizer_config.json", at), 0);
    json_decref(root), json_decref(config);
}

// Where each document begins and ends, as tokens. The letters' numbers are those of the file, whichever they are.
static void test_documents(void) {
    put_tokenizer("end", false), put_tokenizer("both", true);
    put("t.txt", many("abab", 20)), put("v.jsonl", "{\"t\":\"ab\"}\n{\"t\":\"\"}\n{\"t\":\"b\"}\n");
    put("t.jsonl", many("{\"t\":\"aaaa\"}\n", 9));
    Tokenizer *t = tokenizer_open_dir(test_path("end"));
    int *ab, end = tokenizer_end(t);
    CHECK(end == 256 && tokenizer_encode(t, "ab", 2, &ab) == 2, "end %d", end);
    static const char *const same[] = {"#/end", "#/end/tokenizer.json"};
    for (size_t i = 0; i < 2; i++)
        check_validation(xprintf("--data #/t.jsonl --val #/v.jsonl --field t --tokenizer %s", same[i]),
                         (int[]){256, ab[0], ab[1], 256, 256, ab[1]}, 6);
    check_validation("--data #/t.jsonl --val #/v.jsonl --field t --tokenizer #/both",
                     (int[]){257, ab[0], ab[1], 256, 257, 256, 257, ab[1], 256}, 9);
    // One text is one document: what the cut goes through has one beginning and one end.
    check_validation("--data #/t.txt --val-fraction 0.05 --tokenizer #/both", (int[]){ab[0], ab[1], ab[0], ab[1], 256},
                     5);
    Data *d = open_flags("--data #/t.jsonl --field t --tokenizer #/both --context 1");
    int *prompt;
    CHECK(tokenizer_prompt(d->tokenizer, d->default_prompt, &prompt) == 1 && prompt[0] == 257, "a document's begin");
    CHECK(d->vocab == 258, "%zu", d->vocab);
    data_close(d);
    CHECK(hash_of("--data #/t.txt --tokenizer #/both --context 1") !=
          hash_of("--data #/t.txt --tokenizer #/end --context 1"), "the tokenizer belongs to the data");
    put("u.txt", many("abab\xff", 20));
    refused(1, "--data #/u.txt --tokenizer #/end --context 1", "u.txt");
}

// A tokenizer of characters, loaded: a text that it does not know is refused by file, document and byte.
static void test_loaded(void) {
    Tokenizer *t = tokenizer_char("abc\n", 4);
    mkdir(test_path("chars"), 0700);
    tokenizer_save_dir(t, test_path("chars"));
    put("good.txt", many("cab\n", 20)), put("bad.txt", many("abd", 20));
    put("d.jsonl", "{\"t\":\"a\"}\n{\"t\":\"bad\"}\n");
    put("late.txt", xprintf("%sd", many("cab\n", 20))), put("latin.txt", xprintf("%s\xe9", many("cab\n", 20)));
    Data *d = open_flags("--data #/good.txt --tokenizer #/chars --context 4 --vocab 9");
    CHECK(d->vocab == 9 && tokenizer_vocab(d->tokenizer) == 4, "the model may have more: %zu", d->vocab);
    data_close(d);
    refused(1, "--data #/bad.txt --tokenizer #/chars", "bad.txt: the character \"d\" (U+0064, byte 2 of the text)");
    refused(1, "--data #/d.jsonl --field t --tokenizer #/chars", "d.jsonl, document 2: the character \"d\"");
    refused(1, "--data #/late.txt --tokenizer #/chars", "late.txt: the character \"d\" (U+0064, byte 80 of");
    refused(1, "--data #/latin.txt --tokenizer #/chars", "latin.txt: byte 80 of the text (0xe9) is not UTF-8");
    CHECK(strstr(test_message, "; --tokenizer byte or bpe:N") && !strstr(test_message, "char,"), "%s", test_message);
    tokenizer_save_dir(tokenizer_char("abd", 3), test_path("chars"));
    refused(1, "--data #/d.jsonl --field t --tokenizer #/chars", "two newlines stand between documents");
}

// What lies beside a shard, or is named, gives the text of its tokens and belongs to the data.
static void test_beside_shards(void) {
    mkdir(test_path("d"), 0700);
    put_shard("d/x.bin", 1, 100, 20240520);
    uint64_t bare = hash_of("--data #/d/x.bin --context 4");
    put_tokenizer("d", false);
    Data *d = open_flags("--data #/d/x.bin --context 4");
    CHECK(d->vocab == 257 && strcmp(tokenizer_kind(d->tokenizer), "hf") == 0, "%zu", d->vocab);
    CHECK(d->hash != bare, "the hash has the tokenizer");
    data_close(d);
    put_shard("y.bin", 1, 100, 20240520);
    d = open_flags("--data #/y.bin --context 4 --tokenizer #/d");
    CHECK(d->vocab == 257, "%zu", d->vocab);
    data_close(d);
    refused(2, "--data #/y.bin --tokenizer byte", "holds tokens already");
    put_shard("d/x.bin", 200, 100, 20240520);
    refused(1, "--data #/d/x.bin --context 4", "the tokenizer beside it has 257 tokens");
}

// ---- what is said --------------------------------------------------------------------------------
#define SMALL "--layers 1 --width 16 --heads 2 --context 8 --batch 2 --steps 1 --eval-tokens 16 --sample-tokens 0 "

static void check_said(const char *arguments, int status, const char *error, const char *out) {
    Result r = train(xprintf(SMALL "%s", arguments));
    CHECK(r.status == status && count_lines(r.error) == (*error != '\0') && strstr(r.error, error),
          "%s: status %d: %s", arguments, r.status, r.error);
    CHECK(strstr(r.out, out), "%s: %s", arguments, r.out);
}

static void test_said(void) {
    char *text = many("some words\n", 30);
    put("t.txt", text), put("train.txt", text), put("val.txt", many("words some\n", 30));
    put("bad.txt", xprintf("%scaf\xe9\n", text)), put("marked.txt", xprintf("\xEF\xBB\xBF%s", text));
    check_said("--data t.txt --out a", 0, "", "; 297 tokens of t.txt for training, the 33 after them for validation\n");
    check_said("--data bad.txt --out b", 0, "note     bad.txt: byte 333 (0xe9) is not UTF-8, so tokens are ", "256");
    check_said("--data bad.txt --tokenizer byte --out c", 0, "", "");
    check_said("--data marked.txt --out d", 0, "note     marked.txt begins with a byte order mark", "");
    put_tokenizer("end", false);
    put("marked_end.txt", xprintf("ab<|end|>cd<|end|>%s<|end|>", text));
    check_said("--data marked_end.txt --tokenizer end --val t.txt --out g", 0, "note     marked_end.txt, document 1, "
               "byte 2: \"<|end|>\" is a special token of this tokenizer and becomes it, as 3 in these texts do", "");
    check_said("--data train.txt --out e", 0, "", "330 tokens of val.txt for validation\n");
    json_t *root = json_load_file(test_path("e/run.json"), 0, NULL), *data = json_object_get(root, "data");
    const char *splits = json_string_value(json_object_get(data, "splits"));
    CHECK(splits && strstr(splits, "330 tokens of val.txt for validation"), "run.json: %s", splits);
    put_shard("x.bin", 1, 100, 20240520);
    put_shard("y.bin", 1, 100, 0);
    check_said("--data y.bin --out bare", 0, "note     y.bin has no header and is read as uint16, little-endian: 100 "
               "tokens, largest id 100, vocabulary 101\n", "a vocabulary of 101;");
    put("t.csv", many("a,b\n", 30)), put("table.txt", many("one,\"two, three\",4\n", 30));
    put("tabs.txt", many("one\ttwo\n", 30));
    put("prose.txt", many("Well, yes, he said.\nNo, no.\nHm, so, and, so.\n", 9));
    put("verse.txt", many("Tyger Tyger, burning bright,\nIn the forests of the night;\n", 9));
    check_said("--data t.csv --out h", 0, "note     t.csv looks like a table (CSV)", "");
    check_said("--data table.txt --out i", 0, "note     table.txt looks like a table (CSV)", "");
    check_said("--data tabs.txt --out j", 0, "note     tabs.txt looks like a table (TSV)", "");
    check_said("--data prose.txt --out k", 0, "", ""), check_said("--data verse.txt --out l", 0, "", "");
    put("crlf.txt", many("two words\r\n", 30)), put("copy.txt", text), symlink("nowhere", test_path("dangling"));
    check_said("--data crlf.txt --out o", 0, "note     crlf.txt has 30 carriage returns", "");
    check_said("--data t.txt --val copy.txt --out p", 0, "note     copy.txt for validation is the same text that", "");
    check_said("--data dangling", 1, "dangling: a symbolic link to a file that does not exist", "");
    check_said("--data t.txt --field text", 1, "; a plain text needs no --field", "");
    mkdir(test_path("z"), 0700), put("z/A.TXT", text), put("z/b.jsonl.gz", "x"), put("z/c.json.gz", "x");
    check_said("--data z --out q", 0, "passes over z/b.jsonl.gz and 1 like it\n", "297 tokens of z/A.TXT for training");
    mkdir(test_path("m"), 0700), put("m/notes.txt", text), put("m/unit-test.txt", text);
    check_said("--data m --out n", 0, "note     m/unit-test.txt is trained on, as all 2 files are", "");
    put("tokenizer.json", "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}");
    check_said("--data x.bin --out f", 0, "; tokens are shown as numbers", "a vocabulary of 101;");
}

// A model goes on with its own tokenizer; where it has none, what its numbers mean has to be said.
static void test_said_of_models(void) {
    put("one.txt", many("abcdefg\n", 40)), put("other.txt", many("gfedcba\n", 40));
    put("more.txt", many("abcxyz\n", 40));
    check_said("--data one.txt --out first", 0, "", "");
    check_said("--data other.txt --load first --out second", 0, "", "a vocabulary of 8;");
    check_said("--data more.txt --load first", 1, "more.txt: the character \"x\"", "");
    CHECK(strstr(train(SMALL "--data more.txt --load first").error, "--tokenizer char, byte or bpe:N"), "advice");
    mkdir(test_path("larger"), 0700), tokenizer_save_dir(tokenizer_char("abcdefghij\n", 11), test_path("larger"));
    check_said("--data one.txt --load first --tokenizer larger", 1,
               "larger: its tokenizer has 11 tokens, but the model in first knows 8", "");
    put_shard("large.bin", 1, 100, 20240520);
    check_said("--data large.bin --load first", 1,
               "large.bin: its largest token is 100, but the model in first knows 8", "");
    shell("cp -r first grown && cp larger/* grown && rm grown/run.json");
    check_said("--data one.txt --load grown", 1, "grown: its tokenizer has 11 tokens, but the model", "");
    unlink(test_path("first/tokenizer.json")), unlink(test_path("first/tokenizer_config.json"));
    check_said("--data one.txt --load first", 1, "first: the model has no tokenizer beside it", "");
    check_said("--data one.txt --load first --tokenizer char --out third", 0, "", "a vocabulary of 8;");
}

static const Test tests[] = {
    {"files/order", "a directory or a glob is its files in the order of their bytes", test_order},
    {"files/refused-sets", "missing, empty, mixed and doubled files are refused by name", test_refused_sets},
    {"files/names", "names say which files are for validation", test_names},
    {"files/json-lines", "a field of each line is a document", test_json_lines},
    {"files/refused-lines", "a line without the text is refused by number", test_refused_lines},
    {"files/refused-json", "a file that is JSON as a whole is refused", test_refused_json},
    {"files/types", "numbers that are no 16-bit tokens are refused, and tokens never", test_types},
    {"files/foreign", "what is no text is refused, with what to do", test_foreign},
    {"files/shards", "several shards are one row of tokens", test_shards},
    {"files/refused-shards", "wide, mixed and changing shards are refused", test_shard_refused},
    {"files/documents", "a document begins and ends with the tokenizer's marks", test_documents},
    {"files/loaded", "a text that a loaded tokenizer does not know is refused", test_loaded},
    {"files/beside-shards", "a tokenizer beside a shard belongs to its data", test_beside_shards},
    {"files/said", "what is doubtful is noted in one line", test_said},
    {"files/said-of-models", "a model goes on with its own tokenizer", test_said_of_models},
};
REGISTER_TESTS(tests)

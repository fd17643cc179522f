// test_house.c: the shape of the source tree, read from the repository's root: which room may include
// which, and how long train.c may be.
#include "test.h"
#include <glob.h>
#include <stdlib.h>

// What the files that match `room` must not include, by the beginning of the path in the quotes.
static const struct { const char *room, *never[4]; } walls[] = {
    {"lib/*.[ch]", {"../"}},
    {"data/*.[ch]", {"../model", "../train", "../infer", "../attention"}},
    {"attention.[ch]", {"model", "data/", "train", "moe"}},
    {"moe.[ch]", {"model", "data/", "train", "attention"}},
    {"block.[ch]", {"data/", "train", "infer/", "hf"}},
    {"model.[ch]", {"data/", "train", "infer/", "hf"}},
};

static void visit(const char *pattern, void (*look)(const char *path, const char *text, const void *argument),
                  const void *argument) {
    glob_t found;
    CHECK(glob(pattern, 0, NULL, &found) == 0, "%s: run the tests from the root of the repository", pattern);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *text = read_whole_file(found.gl_pathv[i], NULL);
        look(found.gl_pathv[i], text, argument);
        free(text);
    }
    globfree(&found);
}

static void check_includes(const char *path, const char *text, const void *never) {
    for (const char *at = text; (at = strstr(at, "#include \"")); at++)
        for (int i = 0; i < 4 && ((const char *const *)never)[i]; i++) {
            const char *wall = ((const char *const *)never)[i];
            CHECK(strncmp(at + strlen("#include \""), wall, strlen(wall)) != 0, "%s includes %.40s", path, at + 10);
        }
}

static void test_arrows(void) {
    for (size_t i = 0; i < sizeof walls / sizeof walls[0]; i++) visit(walls[i].room, check_includes, walls[i].never);
}

static void test_sizes(void) {
    size_t lines = 0;
    char *text = read_whole_file("train.c", NULL);
    for (const char *c = text; *c; c++) lines += *c == '\n';
    CHECK(lines <= 400, "train.c has %zu lines", lines);
    free(text);
}

static const Test tests[] = {
    {"house/arrows", "rooms include only what is below them", test_arrows},
    {"house/sizes", "train.c has at most 400 lines", test_sizes},
};
REGISTER_TESTS(tests)

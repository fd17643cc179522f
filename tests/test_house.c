// test_house.c: the shape of the source tree, read from the repository's root: which room may include
// which, how long train.c and lines may be, and what would make the numbers depend on the machine.
#include "test.h"
#include <ctype.h>
#include <glob.h>
#include <stdlib.h>

// Arrows point one way: lib <- data, lib <- quant <- {attention, linear, moe} <- block, model <- the mains.
// What the files of a room may include, as beginnings of paths from the root; "" is everything.
static const struct { const char *files, *may[8]; } rooms[] = {
    {"lib/*.[ch]", {"lib/"}},
    {"data/*.[ch]", {"data/", "lib/"}},
    {"quant.[ch]", {"quant.h", "lib/"}},
    {"attention.[ch]", {"attention.h", "quant.h", "lib/"}},
    {"linear.[ch]", {"linear.h", "quant.h", "lib/"}},
    {"moe*.[ch]", {"moe.h", "quant.h", "lib/"}},
    {"block*.[ch]", {"block.h", "model.h", "attention.h", "linear.h", "moe.h", "quant.h", "lib/"}},
    {"model.[ch]", {"block.h", "model.h", "attention.h", "linear.h", "moe.h", "quant.h", "lib/"}},
    {"hf*.[ch]", {"hf", "model.h", "lib/"}},
    {"sample.[ch]", {"sample.h", "model.h", "data/", "lib/"}},
    {"infer/*.[ch]", {"infer/", "model.h", "attention.h", "quant.h", "data/", "lib/"}},
    {"report.[ch]", {""}},
    {"train.c", {""}},
    {"generate.c", {""}},
    {"serve.c", {""}},
    {"gpt.c", {NULL}},
    {"bench/*.[ch]", {"bench/", "model.h", "attention.h", "lib/"}},
};
enum { ROOMS = sizeof rooms / sizeof rooms[0] };

// Kernels take integers and pointers: the Config does not reach them, not even through another header.
static const char *const kernels[] = {"attention.c",  "moe.c",     "moe_router.c", "moe_soft.c",
                                      "lib/matmul.c", "lib/ops.c", "lib/simd.c",   "lib/numeric.c"};

// ---- reading -------------------------------------------------------------------------------------

static glob_t files_like(const char *pattern) {
    glob_t found = {0};
    glob(pattern, 0, NULL, &found);
    return found;
}

// "../lib/util.h" in data/x.c is lib/util.h.
static const char *from_root(const char *file, const char *include, char path[256]) {
    const char *slash = strchr(file, '/');
    if (slash && !strncmp(include, "../", 3)) return snprintf(path, 256, "%s", include + 3), path;
    snprintf(path, 256, "%.*s%s", slash ? (int)(slash + 1 - file) : 0, file, include);
    return path;
}

// Calls look for every file that `file` includes in quotes.
typedef void Look(const char *file, const char *included, const void *argument);
static void each_include(const char *file, Look *look, const void *argument) {
    static const char word[] = "#include \"";
    char path[256], name[200], *text = read_whole_file(file, NULL);
    for (const char *at = strstr(text, word); at; at = strstr(at, word)) {
        at += strlen(word);
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "\"\n"), at);
        look(file, from_root(file, name, path), argument);
    }
    free(text);
}

// ---- who includes whom ---------------------------------------------------------------------------

static void check_may(const char *file, const char *included, const void *may) {
    for (int i = 0; i < 8 && ((const char *const *)may)[i]; i++) {
        const char *begin = ((const char *const *)may)[i];
        if (!strncmp(included, begin, strlen(begin))) return;
    }
    CHECK(false, "%s includes %s, which is not below it", file, included);
}

static void arrows(void) {
    size_t checked = 0;
    for (size_t i = 0; i < ROOMS; i++) {
        glob_t g = files_like(rooms[i].files);
        for (size_t f = 0; f < g.gl_pathc; f++, checked++) each_include(g.gl_pathv[f], check_may, rooms[i].may);
        globfree(&g);
    }
    CHECK(checked > 20, "only %zu files found: run the tests from the root of the repository", checked);
}

// A file in the root that no row knows would not be held to anything.
static void every_file_has_a_room(void) {
    glob_t all = files_like("*.[ch]");
    CHECK(all.gl_pathc > 5, "only %zu files found: run the tests from the root of the repository", all.gl_pathc);
    for (size_t f = 0; f < all.gl_pathc; f++) {
        bool known = false;
        for (size_t i = 0; i < ROOMS; i++) {
            glob_t g = files_like(rooms[i].files);
            for (size_t j = 0; j < g.gl_pathc; j++) known |= !strcmp(g.gl_pathv[j], all.gl_pathv[f]);
            globfree(&g);
        }
        CHECK(known, "%s: no row of tests/test_house.c says what it may include", all.gl_pathv[f]);
    }
    globfree(&all);
}

static void check_no_config(const char *file, const char *included, const void *kernel) {
    CHECK(strcmp(included, "lib/config.h") && strcmp(included, "lib/flags.h"), "%s sees %s, through %s",
          (const char *)kernel, included, file);
    each_include(included, check_no_config, kernel);
}

static void kernels_see_no_config(void) {
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
        each_include(kernels[i], check_no_config, kernels[i]);
}

// ---- sizes ---------------------------------------------------------------------------------------

static void check_size(const char *file, size_t most) {
    size_t lines = 0;
    char *text = read_whole_file(file, NULL);
    for (const char *c = text; *c; c++) lines += *c == '\n';
    CHECK(lines <= most, "%s has %zu lines", file, lines);
    free(text);
}
static void sizes(void) {
    check_size("train.c", 400);
    check_size("gpt.c", 1200);
}

// Of characters: in UTF-8 all but the first byte of one begin with the bits 10. Tables of data are left out.
enum { LONGEST_LINE = 120 };
static const char *const written[] = {"*.[ch]", "*/*.[ch]", "tests/fuzz/*.c", "*.def", "*/*.def", "*/*.py",
                                      "claims/lab/*.py", "*/*.sh", "Makefile", "setup", ".ci/run"};

static void check_lines(const char *file) {
    char *text = read_whole_file(file, NULL);
    size_t line = 1, length = 0;
    for (const char *c = text; *c; c++) {
        if ((*c & 0xc0) == 0x80) continue;
        length = *c == '\n' ? 0 : length + 1, line += *c == '\n';
        CHECK(length != LONGEST_LINE + 1, "%s:%zu is longer than %d characters", file, line, LONGEST_LINE);
    }
    free(text);
}

static void line_lengths(void) {
    size_t checked = 0;
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
        glob_t g = files_like(written[i]);
        for (size_t f = 0; f < g.gl_pathc; f++, checked++) check_lines(g.gl_pathv[f]);
        globfree(&g);
    }
    CHECK(checked > 100, "only %zu files found: run the tests from the root of the repository", checked);
}

// ---- what would make the numbers depend on the machine --------------------------------------------

static void compiler_flags(void) {
    char *text = read_whole_file("Makefile", NULL);
    static const char *const never[] = {"-ffast-math", "-Ofast", "-funsafe-math", "-fassociative-math",
                                        "-freciprocal-math", "-ffp-contract=fast"};
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
        CHECK(!strstr(text, never[i]), "the Makefile has %s", never[i]);
    CHECK(strstr(text, "-ffp-contract=off"), "the Makefile does not have -ffp-contract=off");
    free(text);
}

// The C library's exp and its kin differ between libraries; sums that OpenMP reduces differ between runs.
// Pictures may use them. attention.c has a reference that no training calls, and simd.h the double build's exp.
static const char *const numeric_files[] = {
    "gpt.c", "block*.c", "model.c", "moe.c", "sample.c", "train.c", "report.c", "lib/matmul.[ch]", "lib/ops.[ch]",
    "lib/numeric.[ch]", "lib/optim.[ch]", "lib/rng.[ch]", "lib/config.c", "data/*.[ch]"};
static const char *const machine_dependent[] = {
    "exp(", "expf(", "exp2(", "log(", "logf(", "log2(", "log10(", "pow(", "powf(", "sin(", "sinf(", "cos(", "cosf(",
    "tan(", "tanh(", "tanhf(", "erf(", "erff(", "cbrt(", "hypot(", "rand(", "reduction("};

static void check_numbers(const char *file) {
    char *text = read_whole_file(file, NULL);
    for (size_t i = 0; i < sizeof machine_dependent / sizeof machine_dependent[0]; i++)
        for (const char *at = text; (at = strstr(at, machine_dependent[i])); at++) {
            if (at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '_')) continue;    // num_exp(, vec_exp(, ...
            const char *line = at;
            while (line > text && line[-1] != '\n') line--;
            const char *comment = strstr(line, "//");
            CHECK(comment && comment < at,
                  "%s calls %s): its bits differ between machines; use lib/numeric.h or lib/simd.h", file,
                  machine_dependent[i]);
        }
    free(text);
}

static void numbers(void) {
    size_t checked = 0;
    for (size_t i = 0; i < sizeof numeric_files / sizeof numeric_files[0]; i++) {
        glob_t g = files_like(numeric_files[i]);
        for (size_t f = 0; f < g.gl_pathc; f++, checked++) check_numbers(g.gl_pathv[f]);
        globfree(&g);
    }
    CHECK(checked > 20, "only %zu files found: run the tests from the root of the repository", checked);
}

static const Test tests[] = {
    {"house/arrows", "rooms include only what is below them", arrows},
    {"house/rooms", "every file in the root has its place", every_file_has_a_room},
    {"house/kernels", "kernels never see the Config, not even through another header", kernels_see_no_config},
    {"house/sizes", "train.c has at most 400 lines, gpt.c at most 1,200", sizes},
    {"house/lines", "no line of code is longer than 120 characters", line_lengths},
    {"house/compiler", "no compiler flag that changes what a formula computes", compiler_flags},
    {"house/numbers", "nothing that reaches a digest calls the C library's exp, log, pow, sin or a parallel reduction",
     numbers},
};
REGISTER_TESTS(tests)

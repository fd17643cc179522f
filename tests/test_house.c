// test_house.c: the shape of the source tree, read from the repository's root: which room may include
// which, how long train.c and lines may be, and what would make the numbers depend on the machine.
#define _POSIX_C_SOURCE 200809L  // popen
#include "tests/test.h"
#include <ctype.h>
#include <glob.h>
#include <stdlib.h>

// Arrows point one way (docs/DESIGN.md). What the files of a room may include and call, as beginnings of paths from the
// root; "" is everything.
#define MODEL "model.", "model/params.", "model/cache.", "model/keep.", "model/blocks.", \
    "model/memory.", "model/transfer."  // the model for its users
static const struct { const char *files, *may[16]; } rooms[] = {
    {"lib/*.[ch]", {"lib/"}},
    {"kernels/*.[ch]", {"kernels/", "lib/"}},
    {"config/*.[ch]", {"config/", "lib/"}},
    {"config/*.def", {"config/"}},
    {"plot/*.[ch]", {"plot/", "lib/"}},
    {"data/*.[ch]", {"data/", "formats/gguf.", "config/", "lib/"}},
    {"model/*.[ch]", {"model/", "kernels/", "config/", "lib/"}},
    {"attention.[ch]", {"attention.", "model/", "kernels/", "config/", "lib/"}},
    {"linear.[ch]", {"linear.", "model/", "kernels/", "config/", "lib/"}},
    {"router.[ch]", {"router.", "kernels/", "lib/"}},
    {"moe.[ch]", {"moe.", "router.", "model/", "kernels/", "config/", "lib/"}},
    {"model.[ch]", {"model.", "attention.", "linear.", "moe.", "model/", "kernels/", "config/", "lib/"}},
    {"formats/safetensors.[ch]", {"formats/safetensors.", "lib/"}},
    {"formats/tensorboard.[ch]", {"formats/tensorboard.", "lib/"}},
    {"formats/gguf.[ch]", {"formats/gguf.", "formats/safetensors.", "kernels/codec.", "kernels/quant.",
                              "lib/"}},
    {"formats/gguf_*.[ch]", {"formats/", MODEL, "kernels/quant.", "config/", "lib/"}},
    {"formats/hf*.[ch]", {"formats/", MODEL, "config/", "lib/"}},
    {"formats/links.[ch]", {"formats/links.", "formats/safetensors.", MODEL, "config/", "lib/"}},
    {"infer/*.[ch]", {"infer/", MODEL, "data/", "plot/", "kernels/", "config/", "lib/"}},
    {"run/events.[ch]", {"run/events.", "run/run.", "formats/tensorboard.", "config/", "lib/"}},
    {"run/[cpv]*.[ch]", {"run/", "plot/", "formats/safetensors.", "config/", "lib/"}},
    {"run/run*.[ch]", {"run/run.", "run/run_", "formats/safetensors.", "config/", "lib/"}},
    {"run/loaded.[ch]", {"run/loaded.", "run/run", "formats/hf", MODEL, "data/", "config/", "lib/"}},
    {"run/report.[ch]", {"run/", "plot/", "formats/", MODEL, "moe.", "data/", "config/", "kernels/", "lib/"}},
    {"run/receipt.[ch]", {"run/receipt.", "run/run.", "infer/stats.", "config/", "lib/"}},
    {"bench/*.[ch]", {"bench/", MODEL, "model/optimizer.", "moe.", "run/run.", "plot/", "infer/", "config/", "kernels/",
                      "lib/"}},
    {"train.c", {""}},
    {"generate.c", {""}},
    {"serve.c", {""}},
    {"quantize.c", {""}},
    {"gpt.c", {NULL}},                      // nothing: it shares no line with the others
};
enum { ROOMS = sizeof rooms / sizeof rooms[0] };

// Kernels take integers and pointers: the Config does not reach them, not even through another header.
static const char *const kernels[] = {"kernels/*.c", "router.c", "lib/*.c"};

// ---- reading -------------------------------------------------------------------------------------

static glob_t files_like(const char *pattern) {
    glob_t found = {0};
    glob(pattern, 0, NULL, &found);
    return found;
}

// Calls look for every file that `file` includes in quotes.
typedef void Look(const char *file, const char *included, const void *argument);
static void each_include(const char *file, Look *look, const void *argument) {
    static const char word[] = "#include \"";
    char name[200], *text = read_whole_file(file, NULL);
    for (const char *at = strstr(text, word); at; at = strstr(at, word)) {
        at += strlen(word);
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "\"\n"), at);
        look(file, name, argument);
    }
    free(text);
}

// ---- who includes whom ---------------------------------------------------------------------------

static bool is_allowed(const char *path, const char *const *may) {
    for (size_t i = 0; i < 16 && may[i]; i++)
        if (!strncmp(path, may[i], strlen(may[i]))) return true;
    return false;
}
static void check_may(const char *file, const char *included, const void *may) {
    if (strchr(included, '/') == NULL && !file_exists(included)) return;      // a system's header
    CHECK(is_allowed(included, may), "%s includes %s, which is not below it", file, included);
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

static bool is_of_room(const char *file, size_t room) {
    glob_t g = files_like(rooms[room].files);
    bool found = false;
    for (size_t j = 0; j < g.gl_pathc; j++) found |= !strcmp(g.gl_pathv[j], file);
    globfree(&g);
    return found;
}

// A file that no row knows would not be held to anything.
static void every_file_has_a_room(void) {
    static const char *const everywhere[] = {"*.[ch]", "[!tn]*/*.[ch]"};      // but tests/ and notebooks/
    size_t checked = 0;
    for (size_t i = 0; i < 2; i++) {
        glob_t all = files_like(everywhere[i]);
        for (size_t f = 0; f < all.gl_pathc; f++, checked++) {
            const char *file = all.gl_pathv[f];
            bool known = !strncmp(file, "build/", 6);
            for (size_t room = 0; room < ROOMS && !known; room++) known = is_of_room(file, room);
            CHECK(known, "%s: no row of tests/test_house.c says what it may include", file);
        }
        globfree(&all);
    }
    CHECK(checked > 90, "only %zu files found: run the tests from the root of the repository", checked);
}

// ---- who calls whom --------------------------------------------------------------------------------
// An include says who may know a name; that nobody calls up through a borrowed header, only the objects tell.

enum { SYMBOLS = 8192, SOURCES = 256 };
typedef struct { char name[96]; int file; bool defined; } Symbol;
static struct {
    char source[SOURCES][128]; int sources;
    Symbol symbol[SYMBOLS]; size_t symbols;
    bool uses[SOURCES][SOURCES];           // source i uses what source j defines
    const Symbol *by[SOURCES][SOURCES];    // such a symbol
} objects;

// "build/objects/run/run.o:" is run/run.c; tests and bench are left out, and objects whose source is gone.
static int source_of(const char *line) {
    const char *path = line + strlen(OBJECTS) + 1;
    if (!strncmp(path, "tests/", 6) || !strncmp(path, "bench/", 6)) return -1;
    CHECK(objects.sources < SOURCES, "more than %d objects", SOURCES);
    snprintf(objects.source[objects.sources], sizeof *objects.source, "%.*s.c", (int)strcspn(path, ".\n:"), path);
    return file_exists(objects.source[objects.sources]) ? objects.sources++ : -1;
}

static void read_symbols(void) {
    char line[512], name[96], kind;
    FILE *nm = popen("nm -P -g " OBJECTS "/*.o " OBJECTS "/[a-z]*/*.o 2> /dev/null", "r");
    int file = -1;
    while (nm && fgets(line, sizeof line, nm)) {
        if (!strncmp(line, OBJECTS "/", strlen(OBJECTS) + 1)) file = source_of(line);
        else if (file >= 0 && sscanf(line, "%95s %c", name, &kind) == 2 && objects.symbols < SYMBOLS) {
            Symbol *s = &objects.symbol[objects.symbols++];
            snprintf(s->name, sizeof s->name, "%s", name);
            s->file = file, s->defined = kind != 'U' && kind != 'w';
        }
    }
    if (nm) pclose(nm);
    CHECK(objects.sources > 40 && objects.symbols > 500 && objects.symbols < SYMBOLS,
          "%d objects and %zu symbols: is nm here?", objects.sources, objects.symbols);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Symbol *)a)->name, ((const Symbol *)b)->name);
}

static void link_symbols(void) {
    read_symbols();
    qsort(objects.symbol, objects.symbols, sizeof *objects.symbol, by_name);
    for (size_t i = 0, end; i < objects.symbols; i = end) {
        const Symbol *definition = NULL;
        const char *name = objects.symbol[i].name;
        for (end = i; end < objects.symbols && !strcmp(objects.symbol[end].name, name); end++)
            if (objects.symbol[end].defined && strcmp(name, "main")) definition = &objects.symbol[end];
        for (size_t j = i; j < end && definition; j++)
            if (!objects.symbol[j].defined) {
                objects.uses[objects.symbol[j].file][definition->file] = true;
                objects.by[objects.symbol[j].file][definition->file] = definition;
            }
    }
}

static void calls(void) {
    link_symbols();
    for (int i = 0; i < objects.sources; i++)
        for (size_t room = 0; room < ROOMS; room++) {
            if (!is_of_room(objects.source[i], room)) continue;
            for (int j = 0; j < objects.sources; j++)
                if (objects.uses[i][j] && !is_allowed(objects.source[j], rooms[room].may))
                    CHECK(false, "%s uses %s of %s, which is not below it", objects.source[i], objects.by[i][j]->name,
                          objects.source[j]);
        }
}

// Depth first; a file that is met again while what it uses is still being followed closes a circle.
static void follow(int i, char state[SOURCES]) {
    state[i] = 1;
    for (int j = 0; j < objects.sources; j++) {
        if (!objects.uses[i][j] || i == j) continue;
        CHECK(state[j] != 1, "%s uses %s of %s, which uses it in turn", objects.source[i], objects.by[i][j]->name,
              objects.source[j]);
        if (!state[j]) follow(j, state);
    }
    state[i] = 2;
}
static void circles(void) {
    char state[SOURCES] = {0};
    link_symbols();
    for (int i = 0; i < objects.sources; i++)
        if (!state[i]) follow(i, state);
}

// plot/plot.h declares what plot/plot.c and plot/plot_maps.c define, and nobody else.
static bool is_family(const char *header, const char *source) {
    size_t stem = strlen(header) - 2;
    return !strncmp(header, source, stem) && (source[stem] == '.' || source[stem] == '_');
}

// Names that stand outside of braces, comments and the preprocessor's lines.
static void check_declarations(const char *header) {
    char *text = read_whole_file(header, NULL);
    int depth = 0;
    for (char *c = text; *c; c++) {
        if (!strncmp(c, "//", 2) || (*c == '#' && (c == text || c[-1] == '\n'))) {
            while (c[1] && !(c[1] == '\n' && c[0] != '\\')) c++;
            continue;
        }
        depth += (*c == '{') - (*c == '}');
        if (depth || !(isalpha((unsigned char)*c) || *c == '_')) continue;
        size_t length = strspn(c, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
        char name[96];
        snprintf(name, sizeof name, "%.*s", (int)length, c);
        c += length - 1;
        for (size_t i = 0; i < objects.symbols; i++)
            if (objects.symbol[i].defined && !strcmp(objects.symbol[i].name, name))
                CHECK(is_family(header, objects.source[objects.symbol[i].file]), "%s declares %s, which %s defines",
                      header, name, objects.source[objects.symbol[i].file]);
    }
    free(text);
}
static void declarations(void) {
    static const char *const headers[] = {"*.h", "[!bt]*/*.h"};      // but bench/ and tests/
    size_t checked = 0;
    link_symbols();
    for (size_t i = 0; i < 2; i++) {
        glob_t g = files_like(headers[i]);
        for (size_t f = 0; f < g.gl_pathc; f++, checked++) check_declarations(g.gl_pathv[f]);
        globfree(&g);
    }
    CHECK(checked > 40, "only %zu headers found: run the tests from the root of the repository", checked);
}

static void check_no_config(const char *file, const char *included, const void *kernel) {
    CHECK(strncmp(included, "config/", 7), "%s sees %s, through %s", (const char *)kernel, included, file);
    each_include(included, check_no_config, kernel);
}

static void kernels_see_no_config(void) {
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        glob_t g = files_like(kernels[i]);
        for (size_t f = 0; f < g.gl_pathc; f++) each_include(g.gl_pathv[f], check_no_config, g.gl_pathv[f]);
        globfree(&g);
    }
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
    glob_t root = files_like("*.c");
    CHECK(root.gl_pathc <= 12, "%zu C files at the root, which is for chapters and programs", root.gl_pathc);
    globfree(&root);
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
// Pictures may use them. kernels/attention.c has a reference that no training calls, and simd.h the double build's exp.
static const char *const numeric_files[] = {
    "*.c", "model/*.[ch]", "kernels/[!a]*.[ch]", "infer/sample.c", "run/report.c", "lib/numeric.[ch]", "lib/rng.[ch]",
    "config/*.[ch]", "data/*.[ch]"};
static const char *const machine_dependent[] = {
    "exp(", "expf(", "exp2(", "log(", "logf(", "log2(", "log10(", "pow(", "powf(", "sin(", "sinf(", "cos(", "cosf(",
    "tan(", "tanh(", "tanhf(", "erf(", "erff(", "cbrt(", "hypot(", "rand(", "reduction(",
    "fma(", "fmaf("};

static void check_numbers(const char *file) {
    char *text = read_whole_file(file, NULL);
    size_t count = sizeof machine_dependent / sizeof machine_dependent[0];
    if (!strcmp(file, "gpt.c")) count -= 2;            // it shares no line with lib/fma.h
    for (size_t i = 0; i < count; i++)
        for (const char *at = text; (at = strstr(at, machine_dependent[i])); at++) {
            if (at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '_')) continue;    // num_exp(, vec_exp(, ...
            const char *line = at;
            while (line > text && line[-1] != '\n') line--;
            const char *comment = strstr(line, "//");
            CHECK(comment && comment < at,
                  "%s calls %s): its bits differ between machines; use lib/numeric.h, lib/simd.h or lib/fma.h", file,
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
    {"house/rooms", "every file has its place", every_file_has_a_room},
    {"house/calls", "rooms call only what is below them, whatever header declares it", calls},
    {"house/circles", "no two files call into each other, on whatever way", circles},
    {"house/declarations", "what a header declares is defined in its own family", declarations},
    {"house/kernels", "kernels never see the Config, not even through another header", kernels_see_no_config},
    {"house/sizes", "train.c has at most 400 lines, gpt.c 1,200, the root 12 C files", sizes},
    {"house/lines", "no line of code is longer than 120 characters", line_lengths},
    {"house/compiler", "no compiler flag that changes what a formula computes", compiler_flags},
    {"house/numbers", "nothing that reaches a digest calls the C library's exp, log, pow, sin or a parallel reduction",
     numbers},
};
REGISTER_TESTS(tests)

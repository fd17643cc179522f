// rows.h: the sections in SECTIONS as the rows of a table whose values go to a FLAGS_TARGET. Included once per program,
// at file level; FLAGS_OF_SECTIONS is then the beginning of its FlagTable:
//     #define SECTIONS "config/generate.def"
//     #define FLAGS_TARGET GenerateOptions
//     #include "config/rows.h"
//     const FlagTable generate_table = {FLAGS_OF_SECTIONS, .program = "./generate", ...};
#include "config/values.h"

#define BAR_WORD(prefix, word) "|" #word
#define WORDS(VALUES) &(VALUES(BAR_WORD))[1]  // "|a|b" without its first bar
#define ROW(kind_, field, text, ...) \
    {.kind = FLAG_##kind_, .name = #field, .offset = offsetof(FLAGS_TARGET, field), .default_text = text, __VA_ARGS__},
#define GROUP(help_) {.kind = FLAG_GROUP, .name = "", .default_text = "", .help = help_},
#define SIZE(name, default, ...) ROW(SIZE, name, #default, __VA_ARGS__)
#define REAL(name, default, ...) ROW(REAL, name, #default, __VA_ARGS__)
#define BOOL(name, default, ...) ROW(BOOL, name, #default, .bare = "1", __VA_ARGS__)
#define ENUM(name, VALUES, default, ...) ROW(ENUM, name, default, .values = WORDS(VALUES), __VA_ARGS__)
#define PATTERN(name, VALUES, default, ...) ROW(PATTERN, name, default, .values = WORDS(VALUES), __VA_ARGS__)
#define TEXT(name, default, what, ...) ROW(TEXT, name, default, .values = what, __VA_ARGS__)
#define ALIAS(old, name)
static const Flag section_flags[] = {
#include SECTIONS
};
#undef GROUP
#undef ALIAS
#undef SIZE
#undef REAL
#undef BOOL
#undef ENUM
#undef PATTERN
#undef TEXT

#define GROUP(help)
#define SIZE(...)
#define REAL(...)
#define BOOL(...)
#define ENUM(...)
#define PATTERN(...)
#define TEXT(...)
#define ALIAS(old, name) {#old, #name},
static const FlagAlias section_aliases[] = {
#include SECTIONS
    {NULL, NULL}};
#undef GROUP
#undef ALIAS
#undef SIZE
#undef REAL
#undef BOOL
#undef ENUM
#undef PATTERN
#undef TEXT
#undef SECTIONS
#define FLAGS_OF_SECTIONS \
    .flag = section_flags, .count = sizeof section_flags / sizeof section_flags[0], .alias = section_aliases

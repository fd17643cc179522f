// flags.h: a table of flags, one row each, drives parsing, --help, validation, the printed configuration, the JSON of
// a run and the columns of a sweep. This file knows nothing about models.
//
// Rows live in sections, files config/NAME.def; a program is a list of sections (train.def, generate.def,
// bench/bench.def), so that a flag that several programs have is one row. To add a flag, write one row in the section
// where a reader would look for it; it becomes a field of every struct that has the section (Config,
// GenerateOptions), and nothing else has to be written:
//
//     SIZE(name, default, ...)             size_t      .high and, unless it is 0, .low
//     REAL(name, default, ...)             double      likewise
//     BOOL(name, default, ...)             bool        bare --name means 1
//     ENUM(name, VALUES, "default", ...)   int         one of the constants of a list in values.h
//     PATTERN(name, VALUES, "default", ..) Pattern     values joined by +, repeated over the layers
//     TEXT(name, "default", what, ...)     char[]      what --help shows as the value: "DIR", "auto|byte|FILE"
//     GROUP(help)                                      a heading of --help
//     ALIAS(old, name)                                 an older spelling: it works, with a note
//
//     SIZE(kv_heads, 0, .high = 65536, .posts = "1", .needs = "attn gqa|swa", .help = "key and value heads")
//
// ... are fields of Flag below: .help always, the others where they apply. Where 0 or -1 stands for "derived from the
// others", .help says so, and the .c beside the section fills it in; there too stand the combinations that are refused,
// with their reason. A flag that changes no number says .same_numbers = true. The others are part of a run's name
// wherever they are not at their default, so a new one needs a default that leaves all older runs as they were.
// A new section is a .def, a line in the list of each program that has it, and a .h and .c where it derives or refuses.
// One word means one thing in every program: tests/test_flags.c compares them.
#ifndef FLAGS_H
#define FLAGS_H
#include "lib/util.h"

enum { FLAG_TEXT_SIZE = 1024, PATTERN_SIZE = 64 };
typedef struct { unsigned char count, at[PATTERN_SIZE]; } Pattern;  // "gla+gla+mha": values repeated over layers
static inline int pattern_at(const Pattern *p, size_t layer) { return p->at[layer % p->count]; }

typedef enum { FLAG_SIZE, FLAG_REAL, FLAG_BOOL, FLAG_ENUM, FLAG_PATTERN, FLAG_TEXT, FLAG_GROUP } FlagKind;
// Fields of the target struct, by kind: size_t, double, bool, int, Pattern, char[FLAG_TEXT_SIZE].
// FLAG_GROUP is a heading of --help (only name and help are used).
typedef struct {
    FlagKind kind;
    const char *name;       // as in C: "kv_heads"; shown and typed as --kv-heads (- and _ are alike)
    size_t offset;          // of the field in the target struct
    const char *default_text;
    const char *values;     // ENUM, PATTERN: "rms|layer" (a value with _ is shown and typed with -); TEXT: what
                            // --help shows, "DIR" or "stories|copy|FILE" (capitals: any other text); else NULL
    const char *bare;       // the value that a bare --name takes, or NULL when a value is required (BOOL: "1")
    double low, high;       // SIZE, REAL: allowed range, inclusive
    const char *posts;      // the posts a flag belongs to, e.g. "1,3", or NULL
    const char *needs;      // "attn gqa|mla": no effect unless --attn has one of these values; "data !FILE": if it has
                            // this one; "experts": unless --experts is neither 0 nor empty; NULL: it always has one
    const char *longer;     // TEXT: the flag that takes a longer one, as a file, or NULL
    const char *help;       // one line
    bool filled;            // TEXT: to give an empty one is a mistake, as of a variable that is not set
    bool same_numbers;      // changes no number (threads, out, profile, ...): left out of the run's name
} Flag;
// An older spelling of a flag. Where it is also the name of a BOOL, it stands for the values that the BOOL cannot take:
// --profile FILE beside --profile.
typedef struct { const char *old, *name; } FlagAlias;
typedef struct { const char *name, *flags, *help; } Preset;  // "shakespeare", "--layers 4 --heads 4 ..."

typedef struct FlagTable FlagTable;
struct FlagTable {
    const Flag *flag; size_t count;
    const FlagAlias *alias;        // ends with {NULL, NULL}
    const Preset *preset; size_t presets;
    const char *program, *about;   // for --help: name, and two or three lines that teach
    const char *examples;          // for --help: shown at the end
    void (*translate)(const FlagTable *t, void *target, bool *given);   // after parsing: flags that are other words for
                                   // others set those and go back to their defaults; NULL where there are none
};

void flags_defaults(const FlagTable *t, void *target);
// Parses argv[1..]. --name value, --name=value, --help or -h, one --preset NAME (applied before all other flags
// wherever it stands). Later wins. given[i], if not NULL, tells whether flag i was set by the user.
// Errors are usage_error()s that name the flag, what was expected, what was found; an unknown flag
// names the nearest known one, if any resembles it. --help prints and exits 0.
void flags_parse(const FlagTable *t, void *target, int argc, char **argv, bool *given);
// The same for flags in one string, "--layers 2 --width 8", with blanks between words and none inside of them.
void flags_parse_text(const FlagTable *t, void *target, const char *text, bool *given);
const char *flags_shown(const char *name, char out[64]);    // kv_heads as kv-heads, as it is typed
// The row of a flag; an unknown one is a usage_error.
size_t flags_find(const FlagTable *t, const char *name);
// One flag from text; used by parsing and by readers of run.json. Errors as above.
void flags_set(const FlagTable *t, void *target, const char *name, const char *value);
// The value as the text that would set it again; the result is malloc'd. REALs round-trip (shortest
// of %.15g, %.16g, %.17g that reads back equal).
char *flags_get(const FlagTable *t, const void *target, size_t i);
bool flags_is_default(const FlagTable *t, const void *target, size_t i);
// Refuses flag i (usage_error) if it has no effect beside the others, saying where it belongs.
void flags_refuse_unused(const FlagTable *t, const void *target, size_t i);
// Which of the words of "a|b|c" is nearest to what was typed; false if none resembles it.
bool flags_nearest(const char *words, const char *typed, char nearest[64]);
// "--layers 6 --attn gqa+mla": the flags that differ from their defaults, in table order, malloc'd.
// With identity_only, those that do not change the numbers are left out.
char *flags_summary(const FlagTable *t, const void *target, bool identity_only);
char *flags_quote(const char *value);         // as a shell needs it, malloc'd
char *flags_real_text(double x);              // as flags_get prints a REAL, malloc'd
void flags_help(const FlagTable *t, FILE *out);
const char *flags_value_name(const Flag *f, int value, char out[64]);  // the n-th of f->values
#endif

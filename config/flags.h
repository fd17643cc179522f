// flags.h: a table of flags, one row each, drives parsing, --help, validation, the printed
// configuration, the JSON of a run and the columns of a sweep. config.def (training) and
// generate.def (sampling) are such tables; this file knows nothing about models.
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
    const char *standard;   // default, as text
    const char *values;     // ENUM, PATTERN: "rms|layer" (a value with _ is shown and typed with -); TEXT: what
                            // --help shows, "DIR" or "stories|copy|FILE" (capitals: any other text); else NULL
    const char *bare;       // the value that a bare --name takes, or NULL when a value is required (BOOL: "1")
    double low, high;       // SIZE, REAL: allowed range, inclusive
    const char *post;       // the posts a flag belongs to, e.g. "1,3", or ""
    const char *needs;      // "attn gqa|mla": no effect unless --attn has one of these values; "data !FILE": if it has
                            // this one; "experts": unless --experts is neither 0 nor empty; "": it always has one
    const char *help;       // one line
    bool is_identity;  // false: does not change the numbers (threads, out, log-every...): left out of the run's name
} Flag;
typedef struct { const char *name, *flags, *help; } Preset;  // "shakespeare", "--layers 4 --heads 4 ..."

typedef struct {
    const Flag *flag; size_t count;
    const Preset *preset; size_t presets;
    const char *program, *about;   // for --help: name, and two or three lines that teach
    const char *examples;          // for --help: shown at the end
} FlagTable;

void flags_defaults(const FlagTable *t, void *target);
// Parses argv[1..]. --name value, --name=value, --help, one --preset NAME (applied before all other flags
// wherever it stands). Later wins. given[i], if not NULL, tells whether flag i was set by the user.
// Errors are usage_error()s that name the flag, what was expected, what was found; an unknown flag
// names the nearest known one. --help prints and exits 0.
void flags_parse(const FlagTable *t, void *target, int argc, char **argv, bool *given);
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
// Which of the words of "a|b|c" is nearest to what was typed; returns how many letters would have to change.
size_t flags_nearest(const char *words, const char *typed, char nearest[64]);
// "--layers 6 --attn gqa+mla": the flags that differ from their defaults, in table order, malloc'd.
// With identity_only, those that do not change the numbers are left out.
char *flags_summary(const FlagTable *t, const void *target, bool identity_only);
char *flags_quote(const char *value);         // as a shell needs it, malloc'd
char *flags_real_text(double x);              // as flags_get prints a REAL, malloc'd
void flags_help(const FlagTable *t, FILE *out);
const char *flags_value_name(const Flag *f, int value, char out[64]);  // the n-th of f->values
#endif

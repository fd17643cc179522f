// flags.c: one table of flags drives parsing, validation, --help and printing. No flag is named here.
#include "flags.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- names -------------------------------------------------------------------------------------
static bool same_name(const char *a, const char *b) {  // - and _ are alike
    for (; *a || *b; a++, b++)
        if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return false;
    return true;
}

static const char *shown(const char *name, char out[64]) {  // kv_heads as kv-heads
    size_t i = 0;
    for (; name[i] && i < 63; i++) out[i] = name[i] == '_' ? '-' : name[i];
    out[i] = '\0';
    return out;
}

// Levenshtein's distance, one row of the table at a time.
static size_t edit_distance(const char *a, const char *b) {
    size_t row[65], n = strlen(b) < 64 ? strlen(b) : 64;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t change = diagonal + (a[i] != b[j]), shorter = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = change < shorter ? change : shorter;
        }
    }
    return row[n];
}

typedef struct { const char *word; char best[64]; size_t distance; } Nearest;

static void consider(Nearest *n, const char *candidate) {
    char name[64], typed[64];
    size_t d = edit_distance(shown(n->word, typed), shown(candidate, name));
    if (d < n->distance) {
        n->distance = d;
        strcpy(n->best, name);
    }
}

size_t flags_find(const FlagTable *t, const char *name) {
    for (size_t i = 0; i < t->count; i++)
        if (t->flag[i].kind != FLAG_GROUP && same_name(t->flag[i].name, name)) return i;
    Nearest nearest = {name, "", SIZE_MAX};
    for (size_t i = 0; i < t->count; i++)
        if (t->flag[i].kind != FLAG_GROUP) consider(&nearest, t->flag[i].name);
    consider(&nearest, "help");
    if (t->presets) consider(&nearest, "preset");
    usage_error("unknown flag --%s; the nearest known one is --%s (--help lists all)", name, nearest.best);
}

// ---- values from text --------------------------------------------------------------------------
const char *flags_value_name(const Flag *f, int value, char out[64]) {
    const char *word = f->values;
    for (; value > 0 && word; value--) word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL;
    if (!word) fail("--%s has no value number %d", f->name, value);
    snprintf(out, 64, "%.*s", (int)strcspn(word, "|"), word);
    return shown(out, out);
}

static int value_count(const Flag *f) {
    int count = 1;
    for (const char *p = f->values; *p; p++) count += *p == '|';
    return count;
}

static int value_of(const Flag *f, const char *word) {
    char name[64], candidate[64];
    Nearest nearest = {word, "", SIZE_MAX};
    for (int v = 0; v < value_count(f); v++) {
        if (same_name(flags_value_name(f, v, candidate), word)) return v;
        consider(&nearest, candidate);
    }
    usage_error("--%s is one of %s%s, but '%s' was given; the nearest is %s", shown(f->name, name), f->values,
                f->kind == FLAG_PATTERN ? ", or several joined by +" : "", word, nearest.best);
}

static _Noreturn void bad_number(const Flag *f, const char *expected, const char *text) {
    char name[64];
    usage_error("--%s takes %s from %.15g to %.15g, but '%s' was given%s", shown(f->name, name), expected, f->low,
                f->high, text, strchr(text, ',') ? "; lists are for sweeps, a run takes one value" : "");
}

static size_t size_from(const Flag *f, const char *text) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    bool is_number = isdigit((unsigned char)*text) && *end == '\0' && errno == 0;
    if (!is_number || (double)n < f->low || (double)n > f->high) bad_number(f, "a whole number", text);
    return (size_t)n;
}

static double real_from(const Flag *f, const char *text) {
    char *end;
    double x = strtod(text, &end);
    bool is_number = end != text && *end == '\0' && !isspace((unsigned char)*text);
    if (!is_number || !(x >= f->low && x <= f->high)) bad_number(f, "a number", text);  // also refuses nan
    return x;
}

static bool bool_from(const Flag *f, const char *text) {
    char name[64];
    if (strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
        usage_error("--%s is 0 or 1 (alone it means 1), but '%s' was given", shown(f->name, name), text);
    return *text == '1';
}

static Pattern pattern_from(const Flag *f, const char *text) {
    Pattern p = {0};
    char name[64];
    for (const char *word = text;; word++) {
        char one[64];
        size_t length = strcspn(word, "+");
        snprintf(one, sizeof one, "%.*s", (int)length, word);
        if (p.count == PATTERN_SIZE)
            usage_error("--%s takes at most %d values joined by +", shown(f->name, name), PATTERN_SIZE);
        p.at[p.count++] = (unsigned char)value_of(f, one);
        word += length;
        if (*word == '\0') return p;
    }
}

static void value_from_text(const Flag *f, const char *text, void *field) {
    char name[64];
    switch (f->kind) {
    case FLAG_SIZE: *(size_t *)field = size_from(f, text); break;
    case FLAG_REAL: *(double *)field = real_from(f, text); break;
    case FLAG_BOOL: *(bool *)field = bool_from(f, text); break;
    case FLAG_ENUM: *(int *)field = value_of(f, text); break;
    case FLAG_PATTERN: *(Pattern *)field = pattern_from(f, text); break;
    case FLAG_TEXT:
        if (strlen(text) >= FLAG_TEXT_SIZE)
            usage_error("--%s takes at most %d characters, but %zu were given", shown(f->name, name),
                        FLAG_TEXT_SIZE - 1, strlen(text));
        snprintf(field, FLAG_TEXT_SIZE, "%s", text);
        break;
    case FLAG_GROUP: break;
    }
}

void flags_set(const FlagTable *t, void *target, const char *name, const char *value) {
    const Flag *f = &t->flag[flags_find(t, name)];
    value_from_text(f, value, (char *)target + f->offset);
}

void flags_defaults(const FlagTable *t, void *target) {
    for (size_t i = 0; i < t->count; i++)
        value_from_text(&t->flag[i], t->flag[i].standard, (char *)target + t->flag[i].offset);
}

// ---- the command line --------------------------------------------------------------------------
typedef struct { const FlagTable *table; void *target; bool *given; } Parser;

// One flag at argv[i]; returns how many arguments it used.
static int parse_one(const Parser *p, int argc, char **argv, int i) {
    char name[64];
    const char *argument = argv[i], *equals = strchr(argument, '=');
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
        usage_error("'%s' was not expected here: flags are written --name value or --name=value (--help lists them)",
                    argument);
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - argument - 2) : 63, argument + 2);
    const Flag *f = &p->table->flag[flags_find(p->table, name)];
    bool has_next = i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0;
    const char *value = equals ? equals + 1 : has_next ? argv[i + 1] : f->bare;
    if (!value) usage_error("--%s needs a value (%s)", shown(f->name, name), f->help);
    value_from_text(f, value, (char *)p->target + f->offset);
    if (p->given) p->given[f - p->table->flag] = true;
    return equals || !has_next ? 1 : 2;
}

static void apply_preset(const Parser *p, const char *name) {
    const FlagTable *t = p->table;
    Nearest nearest = {name, "", SIZE_MAX};
    for (size_t i = 0; i < t->presets; i++) {
        consider(&nearest, t->preset[i].name);
        if (!same_name(t->preset[i].name, name)) continue;
        char *words = xprintf("%s", t->preset[i].flags), *argv[128];
        int argc = 0;
        for (char *w = strtok(words, " "); w && argc < 128; w = strtok(NULL, " ")) argv[argc++] = w;
        for (int k = 0; k < argc;) k += parse_one(p, argc, argv, k);
        free(words);
        return;
    }
    usage_error("there is no preset '%s'; the nearest is %s (--help lists them)", name, nearest.best);
}

// The length of "--preset NAME" or "--preset=NAME" at argv[i], with its name; 0 if something else is there.
static int preset_at(const FlagTable *t, int argc, char **argv, int i, const char **name) {
    if (!t->presets || strncmp(argv[i], "--preset", 8) != 0) return 0;
    *name = argv[i][8] == '=' ? argv[i] + 9 : argv[i][8] == '\0' && i + 1 < argc ? argv[i + 1] : NULL;
    if (argv[i][8] == '\0' && !*name) usage_error("--preset needs a name (--help lists them)");
    return !*name ? 0 : argv[i][8] == '=' ? 1 : 2;
}

void flags_parse(const FlagTable *t, void *target, int argc, char **argv, bool *given) {
    Parser p = {t, target, given};
    const char *preset;
    flags_defaults(t, target);
    for (size_t i = 0; given && i < t->count; i++) given[i] = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            flags_help(t, stdout);
            exit(0);
        }
        if (preset_at(t, argc, argv, i, &preset)) apply_preset(&p, preset);
    }
    for (int i = 1; i < argc;) {
        int used = preset_at(t, argc, argv, i, &preset);
        i += used ? used : parse_one(&p, argc, argv, i);
    }
}

// ---- values to text ----------------------------------------------------------------------------
char *flags_real_text(double x) {
    char *text = NULL;
    for (int digits = 15; digits <= 17; digits++) {
        free(text);
        text = xprintf("%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    return text;
}

static char *pattern_to_text(const Flag *f, const Pattern *p) {
    char *text = xmalloc(64 * (size_t)PATTERN_SIZE), name[64];
    for (size_t i = 0; i < p->count; i++) {
        if (i) strcat(text, "+");
        strcat(text, flags_value_name(f, p->at[i], name));
    }
    return text;
}

static char *value_to_text(const Flag *f, const void *field) {
    char name[64];
    switch (f->kind) {
    case FLAG_SIZE: return xprintf("%zu", *(const size_t *)field);
    case FLAG_REAL: return flags_real_text(*(const double *)field);
    case FLAG_BOOL: return xprintf("%d", *(const bool *)field);
    case FLAG_ENUM: return xprintf("%s", flags_value_name(f, *(const int *)field, name));
    case FLAG_PATTERN: return pattern_to_text(f, field);
    case FLAG_TEXT: return xprintf("%s", (const char *)field);
    case FLAG_GROUP: break;
    }
    return xprintf("%s", "");
}

char *flags_get(const FlagTable *t, const void *target, size_t i) {
    return value_to_text(&t->flag[i], (const char *)target + t->flag[i].offset);
}

bool flags_is_default(const FlagTable *t, const void *target, size_t i) {
    const Flag *f = &t->flag[i];
    _Alignas(max_align_t) char standard[FLAG_TEXT_SIZE];
    if (f->kind == FLAG_GROUP) return true;
    value_from_text(f, f->standard, standard);
    char *a = value_to_text(f, standard), *b = flags_get(t, target, i);
    bool same = strcmp(a, b) == 0;
    free(a);
    free(b);
    return same;
}

// A value as a shell would need it: in quotes where it holds anything unusual.
char *flags_quote(const char *value) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:,=@%";
    if (*value && strspn(value, plain) == strlen(value)) return xprintf("%s", value);
    char *out = xmalloc(4 * strlen(value) + 3), *p = out;
    *p++ = '\'';
    for (; *value; value++) {
        if (*value == '\'') p += sprintf(p, "'\\''");
        else *p++ = *value;
    }
    *p = '\'';
    return out;
}

char *flags_summary(const FlagTable *t, const void *target, bool identity_only) {
    char *all = xprintf("%s", ""), name[64];
    for (size_t i = 0; i < t->count; i++) {
        if (flags_is_default(t, target, i) || (identity_only && !t->flag[i].is_identity)) continue;
        char *raw = flags_get(t, target, i), *value = flags_quote(raw);
        char *longer = xprintf("%s%s--%s %s", all, *all ? " " : "", shown(t->flag[i].name, name), value);
        free(raw);
        free(value);
        free(all);
        all = longer;
    }
    return all;
}

// ---- help --------------------------------------------------------------------------------------
typedef struct { const char *bold, *flag, *dim, *plain; } Colours;

static void help_flag(const Flag *f, FILE *out, Colours c) {
    static const char *const kinds[] = {"N", "X", "0|1", "", "", "TEXT", ""};
    char name[64], left[256];
    shown(f->name, name);
    snprintf(left, sizeof left, "%s%s", f->values ? f->values : kinds[f->kind],
             f->kind == FLAG_PATTERN ? "[+...]" : "");
    for (char *p = left; *p; p++) *p = *p == '_' ? '-' : *p;
    int padding = 38 - (int)(strlen(name) + strlen(left));
    fprintf(out, "  %s--%s%s %s%*s %s", c.flag, name, c.plain, left, padding > 0 ? padding : 0, "", f->help);
    fprintf(out, "  %s[%s", c.dim, *f->standard ? f->standard : "none");
    if ((f->kind == FLAG_SIZE || f->kind == FLAG_REAL) && f->high < 1e5)
        fprintf(out, "; %.10g to %.10g", f->low, f->high);
    else if (f->kind == FLAG_SIZE || f->kind == FLAG_REAL) fprintf(out, "; %.10g or more", f->low);
    if (f->bare && f->kind != FLAG_BOOL) fprintf(out, "; alone: %s", f->bare);
    if (*f->post) fprintf(out, "; post%s %s", strchr(f->post, ',') ? "s" : "", f->post);
    fprintf(out, "]%s\n", c.plain);
}

void flags_help(const FlagTable *t, FILE *out) {
    bool colour = isatty(fileno(out)) && !getenv("NO_COLOR");
    Colours c = colour ? (Colours){"\033[1m", "\033[36m", "\033[2m", "\033[0m"} : (Colours){"", "", "", ""};
    fprintf(out, "%s%s%s\n%s\n", c.bold, t->program, c.plain, t->about);
    for (size_t i = 0; i < t->count; i++) {
        if (t->flag[i].kind == FLAG_GROUP) fprintf(out, "\n%s%s%s\n", c.bold, t->flag[i].help, c.plain);
        else help_flag(&t->flag[i], out, c);
    }
    if (t->presets)
        fprintf(out, "\n%sPresets: --preset NAME stands for several flags; others given beside it win%s\n", c.bold,
                c.plain);
    for (size_t i = 0; i < t->presets; i++)
        fprintf(out, "  %s%-14s%s %s%s\n  %14s   %s%s\n", c.flag, t->preset[i].name, c.plain, t->preset[i].help, c.dim,
                "", t->preset[i].flags, c.plain);
    if (t->examples) fprintf(out, "\n%sExamples%s\n%s", c.bold, c.plain, t->examples);
}

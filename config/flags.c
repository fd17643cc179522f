// flags.c: one table of flags drives parsing, validation, --help and printing. No flag is named here.
#include "config/flags.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// ---- names -------------------------------------------------------------------------------------
static bool same_name(const char *a, const char *b) {  // - and _ are alike
    for (; *a || *b; a++, b++)
        if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return false;
    return true;
}

const char *flags_shown(const char *name, char out[64]) {
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
    size_t d = edit_distance(flags_shown(n->word, typed), flags_shown(candidate, name));
    if (strlen(typed) > 1 && strncmp(name, typed, strlen(typed)) == 0) d = 1;  // a beginning: --temp
    if (d < n->distance) {
        n->distance = d;
        strcpy(n->best, name);
    }
}

// A suggestion for what resembles nothing would only mislead: more than half of its letters would have to change.
static bool resembles(const Nearest *n) { return *n->best && 2 * n->distance <= strlen(n->word) + 1; }

// "; the nearest is --layers", or nothing; malloc'd.
static char *suggestion(const Nearest *n, const char *words) {
    return resembles(n) ? xprintf("; the nearest %s%s", words, n->best) : xprintf("%s", "");
}

// The length of the word that starts here in "a|b|c"; what follows it is after a bar.
static size_t word_length(const char *words) { return strcspn(words, "|"); }
static const char *next_word(const char *words) {
    words += word_length(words);
    return *words ? words + 1 : words;
}

static Nearest nearest_word(const char *words, const char *typed) {
    Nearest n = {typed, "", SIZE_MAX};
    for (; *words; words = next_word(words)) {
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)word_length(words), words);
        consider(&n, word);
    }
    return n;
}

bool flags_nearest(const char *words, const char *typed, char nearest[64]) {
    Nearest n = nearest_word(words, typed);
    strcpy(nearest, n.best);
    return resembles(&n);
}

static bool is_flag(const Flag *f, const char *name) { return f->kind != FLAG_GROUP && same_name(f->name, name); }

size_t flags_find(const FlagTable *t, const char *name) {
    for (size_t i = 0; i < t->count; i++)
        if (is_flag(&t->flag[i], name)) return i;
    Nearest nearest = {name, "", SIZE_MAX};
    for (size_t i = 0; i < t->count; i++)
        if (t->flag[i].kind != FLAG_GROUP) consider(&nearest, t->flag[i].name);
    consider(&nearest, "help");
    if (t->presets) consider(&nearest, "preset");
    usage_error("unknown flag --%s%s (--help lists all)", name, suggestion(&nearest, "known one is --"));
}

// ---- numbers as text ---------------------------------------------------------------------------
// The shortest text that reads back as the same number; "nan" without a sign.
char *flags_real_text(double x) {
    char *text = NULL;
    if (isnan(x)) return xprintf("nan");
    for (int digits = 15; digits <= 17; digits++) {
        free(text);
        text = xprintf("%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    return text;
}

// A limit that one can read: 65536, 10^9, 2^53.
static char *limit_text(double x) {
    char power[32];
    snprintf(power, sizeof power, "%.0e", x);
    bool is_power = strncmp(power, "1e+", 3) == 0 && atoi(power + 3) >= 6 && strtod(power, NULL) == x;
    return x == 0x1p53 ? xprintf("2^53") : is_power ? xprintf("10^%d", atoi(power + 3)) : flags_real_text(x);
}

// ---- values from text --------------------------------------------------------------------------
const char *flags_value_name(const Flag *f, int value, char out[64]) {
    const char *word = f->values;
    for (; value > 0 && word; value--) word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL;
    if (!word) fail("--%s has no value number %d", f->name, value);
    snprintf(out, 64, "%.*s", (int)strcspn(word, "|"), word);
    return flags_shown(out, out);
}

// All of them, as a user types them.
static char *value_names(const Flag *f) {
    char *names = xprintf("%s", f->values);
    for (char *c = names; *c; c++) if (*c == '_') *c = '-';
    return names;
}

static int value_of(const Flag *f, const char *typed) {
    char name[64];
    int value = 0;
    for (const char *word = f->values; *word; word = next_word(word), value++)
        if (same_name(flags_value_name(f, value, name), typed)) return value;
    Nearest nearest = nearest_word(f->values, typed);
    usage_error("--%s is one of %s%s, but '%s' was given%s", flags_shown(f->name, name), value_names(f),
                f->kind == FLAG_PATTERN ? ", or several joined by +" : "", typed, suggestion(&nearest, "is "));
}

static _Noreturn void bad_number(const Flag *f, const char *expected, const char *text) {
    char name[64];
    usage_error("--%s takes %s from %s to %s, but '%s' was given%s", flags_shown(f->name, name), expected,
                limit_text(f->low), limit_text(f->high), text,
                strchr(text, ',') ? "; lists are for sweeps, a run takes one value" : "");
}

static size_t size_from(const Flag *f, const char *text) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    bool is_number = isdigit((unsigned char)*text) && *end == '\0' && errno == 0;
    bool is_allowed = n >= (unsigned long long)f->low && n <= (unsigned long long)f->high;
    if (!is_number || !is_allowed) bad_number(f, "a whole number", text);
    return (size_t)n;
}

static double real_from(const Flag *f, const char *text) {
    char *end;
    double x = strtod(text, &end);
    bool is_number = end != text && *end == '\0' && !isspace((unsigned char)*text);
    if (!is_number || !(x >= f->low && x <= f->high)) bad_number(f, "a number", text);  // also refuses nan
    return x;
}

static bool is_bool_text(const char *text) { return strcmp(text, "0") == 0 || strcmp(text, "1") == 0; }

static bool bool_from(const Flag *f, const char *text) {
    char name[64];
    if (!is_bool_text(text))
        usage_error("--%s is 0 or 1 (alone it means 1), but '%s' was given", flags_shown(f->name, name), text);
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
            usage_error("--%s takes at most %d values joined by +", flags_shown(f->name, name), PATTERN_SIZE);
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
            usage_error("--%s takes at most %d bytes, but %zu were given%s%s", flags_shown(f->name, name),
                        FLAG_TEXT_SIZE - 1, strlen(text), f->longer ? "; a file may hold more: --" : "",
                        f->longer ? flags_shown(f->longer, (char[64]){0}) : "");
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
        value_from_text(&t->flag[i], t->flag[i].default_text, (char *)target + t->flag[i].offset);
}

// ---- the command line --------------------------------------------------------------------------
typedef struct { const FlagTable *table; void *target; bool *given; } Parser;

// The name that an older spelling stands for, said on stderr; or the name itself.
static const char *spelled(const FlagTable *t, const char *name, const char *value) {
    char old[64], now[64];
    for (const FlagAlias *a = t->alias; a && a->old; a++) {
        if (!same_name(a->old, name)) continue;
        bool is_bool = false;
        for (size_t i = 0; i < t->count; i++) is_bool |= is_flag(&t->flag[i], name);
        if (is_bool && (!value || is_bool_text(value))) continue;
        char *quoted = value ? flags_quote(value) : NULL;
        fprintf(stderr, "note     --%s%s%s is now written --%s%s%s\n", flags_shown(a->old, old), value ? " " : "",
                value ? quoted : "", flags_shown(a->name, now), value ? " " : "", value ? quoted : "");
        free(quoted);
        return a->name;
    }
    return name;
}

// One flag at argv[i]; returns how many arguments it used.
static int parse_one(const Parser *p, int argc, char **argv, int i) {
    char name[64];
    const char *argument = argv[i], *equals = strchr(argument, '=');
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
        usage_error("'%s' was not expected here: flags are written --name value or --name=value (--help lists them)",
                    argument);
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - argument - 2) : 63, argument + 2);
    bool has_next = i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0;
    const char *value = equals ? equals + 1 : has_next ? argv[i + 1] : NULL;
    const Flag *f = &p->table->flag[flags_find(p->table, spelled(p->table, name, value))];
    if (!value) value = f->bare;
    if (!value)
        usage_error("--%s needs a value (%s)%s", flags_shown(f->name, name), f->help,
                    i + 1 < argc && f->kind == FLAG_TEXT ? "; one that starts with -- is written with =" : "");
    if (f->filled && !*value)
        usage_error("--%s is given, but empty, as from a variable that is not set; fill it, or leave the flag out",
                    flags_shown(f->name, name));
    value_from_text(f, value, (char *)p->target + f->offset);
    if (p->given) p->given[f - p->table->flag] = true;
    return equals || !has_next ? 1 : 2;
}

// argv[0] is "", as if it were a program.
typedef struct { char *text, **argv; int argc; } Words;
static Words words_of(const char *text) {
    Words w = {xprintf("%s", text), xmalloc((strlen(text) / 2 + 3) * sizeof(char *)), 1};
    w.argv[0] = "";
    for (char *rest = w.text, *word; (word = strtok_r(rest, " ", &rest));) w.argv[w.argc++] = word;
    return w;
}

static void apply_preset(const Parser *p, const char *name) {
    const FlagTable *t = p->table;
    Nearest nearest = {name, "", SIZE_MAX};
    for (size_t i = 0; i < t->presets; i++) {
        consider(&nearest, t->preset[i].name);
        if (!same_name(t->preset[i].name, name)) continue;
        Words w = words_of(t->preset[i].flags);
        for (int k = 1; k < w.argc;) k += parse_one(p, w.argc, w.argv, k);
        free(w.text), free(w.argv);
        return;
    }
    usage_error("there is no preset '%s'%s (--help lists them)", name, suggestion(&nearest, "is "));
}

// The length of "--preset NAME" or "--preset=NAME" at argv[i], with its name; 0 if something else is there.
static int preset_at(const FlagTable *t, int argc, char **argv, int i, const char **name) {
    if (!t->presets || strncmp(argv[i], "--preset", 8) != 0) return 0;
    *name = argv[i][8] == '=' ? argv[i] + 9 : argv[i][8] == '\0' && i + 1 < argc ? argv[i + 1] : NULL;
    if (argv[i][8] == '\0' && !*name) usage_error("--preset needs a name (--help lists them)");
    if (argv[i][8] == '\0' && strncmp(*name, "--", 2) == 0)
        usage_error("--preset needs a name, but the flag %s follows it (--help lists the presets)", *name);
    return !*name ? 0 : argv[i][8] == '=' ? 1 : 2;
}

// --help, or -h where no text is expected: --prompt -h continues "-h".
static bool asks_for_help(const FlagTable *t, char **argv, int i) {
    if (strcmp(argv[i], "--help") == 0) return true;
    if (strcmp(argv[i], "-h") != 0) return false;
    for (size_t k = 0; k < t->count; k++)
        if (t->flag[k].kind == FLAG_TEXT && strncmp(argv[i - 1], "--", 2) == 0 && is_flag(&t->flag[k], argv[i - 1] + 2))
            return false;
    return true;
}

void flags_parse(const FlagTable *t, void *target, int argc, char **argv, bool *given) {
    Parser p = {t, target, given};
    const char *preset, *first = NULL;
    flags_defaults(t, target);
    for (size_t i = 0; given && i < t->count; i++) given[i] = false;
    for (int i = 1; i < argc; i++) {
        if (asks_for_help(t, argv, i)) {
            flags_help(t, stdout);
            flush_output("");
            exit(0);
        }
        int used = preset_at(t, argc, argv, i, &preset);
        if (used && first)
            usage_error("--preset %s and --preset %s: only one can be given; write out the flags of the other (--help "
                        "shows them)", first, preset);
        if (used) apply_preset(&p, first = preset), i += used - 1;
    }
    for (int i = 1; i < argc;) {
        int used = preset_at(t, argc, argv, i, &preset);
        i += used ? used : parse_one(&p, argc, argv, i);
    }
    if (t->translate) t->translate(t, target, given);
}

void flags_parse_text(const FlagTable *t, void *target, const char *text, bool *given) {
    Words w = words_of(text);
    flags_parse(t, target, w.argc, w.argv, given);
    free(w.text), free(w.argv);
}

// ---- values to text ----------------------------------------------------------------------------
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
    _Alignas(max_align_t) char value[FLAG_TEXT_SIZE];
    if (f->kind == FLAG_GROUP) return true;
    value_from_text(f, f->default_text, value);
    char *a = value_to_text(f, value), *b = flags_get(t, target, i);
    bool same = strcmp(a, b) == 0;
    free(a);
    free(b);
    return same;
}

// ---- flags without effect ----------------------------------------------------------------------
static bool has_word(const char *words, const char *word) {
    for (; *words; words = next_word(words))
        if (word_length(words) == strlen(word) && strncmp(words, word, strlen(word)) == 0) return true;
    return false;
}

// Whether a flag's value, or one value of its pattern, is among the words. FILE: any text that the flag does not list.
static bool has_value(const Flag *f, const void *field, const char *words) {
    char name[64];
    if (f->kind == FLAG_TEXT) return has_word(words, has_word(f->values, field) ? field : "FILE");
    if (f->kind == FLAG_ENUM) return has_word(words, flags_value_name(f, *(const int *)field, name));
    const Pattern *p = field;
    for (size_t i = 0; i < p->count; i++)
        if (has_word(words, flags_value_name(f, p->at[i], name))) return true;
    return false;
}

// Refuses flag `name` where flag f, which is that or what it needs, has no effect.
static void refuse_unused(const FlagTable *t, const void *target, const Flag *f, const char *name) {
    char needed[64];
    if (!f->needs) return;
    size_t length = strcspn(f->needs, " ");
    snprintf(needed, sizeof needed, "%.*s", (int)length, f->needs);
    const char *words = f->needs + length + (f->needs[length] == ' ');
    size_t at = flags_find(t, needed);
    char *value = flags_get(t, target, at);
    const void *field = (const char *)target + t->flag[at].offset;
    bool used = !*words         ? *value && strcmp(value, "0") != 0
                : *words == '!' ? !has_value(&t->flag[at], field, words + 1)
                                : has_value(&t->flag[at], field, words);
    if (!used) {
        char *with = *value ? xprintf("with --%s %s", flags_shown(needed, needed), value) : xprintf("without it");
        if (*words == '!') usage_error("--%s has no effect %s; leave it out", name, with);
        usage_error("--%s belongs to --%s%s%s and has no effect %s; give that, or leave it out", name,
                    flags_shown(needed, needed), *words ? " " : "", words, with);
    }
    free(value);
    refuse_unused(t, target, &t->flag[at], name);
}

void flags_refuse_unused(const FlagTable *t, const void *target, size_t i) {
    char name[64];
    refuse_unused(t, target, &t->flag[i], flags_shown(t->flag[i].name, name));
}

// $'...', which bash and zsh read: a control character could end the line, or be obeyed by a terminal.
static char *quote_controls(const char *value) {
    char *out = xmalloc(4 * strlen(value) + 4), *p = out;
    *p++ = '$', *p++ = '\'';
    for (size_t left = strlen(value), n; left; value += n, left -= n) {
        bool control = text_control(value, left);
        n = control ? 1 : utf8_length(value, left);
        if (control) {
            p += snprintf(p, 5, "\\x%02x", (unsigned char)*value);
            continue;
        }
        if (*value == '\'' || *value == '\\') *p++ = '\\';
        memcpy(p, value, n), p += n;
    }
    *p = '\'';
    return out;
}

// A value as a shell would need it: in quotes where it holds anything unusual.
char *flags_quote(const char *value) {
    for (size_t at = 0, n, bytes = strlen(value); at < bytes; at += n) {
        if (text_control(value + at, bytes - at)) return quote_controls(value);
        n = utf8_length(value + at, bytes - at);
    }
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:,=@%";
    if (*value && strspn(value, plain) == strlen(value)) return xprintf("%s", value);
    char *out = xmalloc(4 * strlen(value) + 3), *p = out;
    *p++ = '\'';
    for (; *value; value++) {
        if (*value == '\'') p += snprintf(p, 5, "'\\''");
        else *p++ = *value;
    }
    *p = '\'';
    return out;
}

char *flags_summary(const FlagTable *t, const void *target, bool identity_only) {
    char *all = xprintf("%s", ""), name[64];
    for (size_t i = 0; i < t->count; i++) {
        if (flags_is_default(t, target, i) || (identity_only && t->flag[i].same_numbers)) continue;
        char *raw = flags_get(t, target, i), *value = flags_quote(raw);
        char *longer = xprintf("%s%s--%s %s", all, *all ? " " : "", flags_shown(t->flag[i].name, name), value);
        free(raw);
        free(value);
        free(all);
        all = longer;
    }
    return all;
}

// ---- help --------------------------------------------------------------------------------------
enum { HELP_WIDTH = 100, HELP_LEFT = 30 };
typedef struct { const char *bold, *flag, *dim, *plain; } Colours;
typedef struct { FILE *out; size_t width, indent, column; } Page;

static Page page_on(FILE *out, size_t indent) {
    struct winsize w;
    bool narrow = ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 60 && w.ws_col < HELP_WIDTH;
    return (Page){out, narrow ? w.ws_col : HELP_WIDTH, indent, 0};
}

static void go_to(Page *p, size_t column) {
    if (p->column > column) fputc('\n', p->out), p->column = 0;
    fprintf(p->out, "%*s", (int)(column - p->column), "");
    p->column = column;
}

// A word, on the next line where this one has no room for it.
static void put_word(Page *p, const char *word, size_t length) {
    bool fits = p->column + 1 + length <= p->width;
    if (!fits) p->column++, go_to(p, p->indent);
    else if (p->column > p->indent) fputc(' ', p->out), p->column++;
    fprintf(p->out, "%.*s", (int)length, word);
    p->column += length;
}

static void put_words(Page *p, const char *text) {
    for (size_t n; *(text += strspn(text, " ")); text += n) put_word(p, text, n = strcspn(text, " "));
}

// "with --data recall|khop", "not with --data FILE"
static char *needs_text(const Flag *f) {
    char name[64];
    const char *words = strchr(f->needs, ' ');
    bool not = words && words[1] == '!';
    snprintf(name, sizeof name, "%.*s", (int)strcspn(f->needs, " "), f->needs);
    return xprintf("%swith --%s%s%s", not ? "not " : "", flags_shown(name, name), words ? " " : "",
                   words ? words + 1 + not : "");
}

// "; formerly --top-k", "; formerly --profile FILE.png", or nothing; malloc'd.
static char *alias_text(const FlagTable *t, const Flag *f) {
    char old[64];
    for (const FlagAlias *a = t->alias; a && a->old; a++)
        if (same_name(a->name, f->name))
            return xprintf("; formerly --%s%s%s", flags_shown(a->old, old), f->kind == FLAG_TEXT ? " " : "",
                           f->kind == FLAG_TEXT ? f->values : "");
    return xprintf("%s", "");
}

// "[64; 2 to 10^6; with --data recall|khop; posts 1,6]", in one piece where a line has room for it.
static void put_facts(Page *p, const FlagTable *t, const Flag *f) {
    bool number = f->kind == FLAG_SIZE || f->kind == FLAG_REAL, alone = f->bare && f->kind != FLAG_BOOL;
    char *low = limit_text(f->low), *high = limit_text(f->high), *needs = f->needs ? needs_text(f) : xprintf("%s", "");
    char *range = number ? xprintf("%s to %s", low, high) : alone ? xprintf("alone: %s", f->bare) : xprintf("%s", "");
    char *alias = alias_text(t, f);
    char *facts = xprintf("[%s%s%s%s%s%s%s%s]", *f->default_text ? f->default_text : "none", *range ? "; " : "", range,
                          *needs ? "; " : "", needs, !f->posts ? "" : strchr(f->posts, ',') ? "; posts " : "; post ",
                          f->posts ? f->posts : "", alias);
    if (p->indent + strlen(facts) <= p->width) put_word(p, facts, strlen(facts));
    else put_words(p, facts);
    free(low), free(high), free(range), free(needs), free(alias), free(facts);
}

static void help_flag(const FlagTable *t, const Flag *f, Page *p, Colours c) {
    static const char *const kinds[] = {"N", "X", "0|1", "", "", "", ""};
    char *value = f->values ? value_names(f) : xprintf("%s", kinds[f->kind]);
    char name[64], *left = xprintf("%s%s", value, f->kind == FLAG_PATTERN ? "[+...]" : "");
    fprintf(p->out, "  %s--%s%s %s", c.flag, flags_shown(f->name, name), c.plain, left);
    p->column = 5 + strlen(name) + strlen(left);
    if (p->column >= p->indent) fputc('\n', p->out), p->column = 0;
    go_to(p, p->indent);
    put_words(p, f->help);
    fputs(c.dim, p->out);
    put_facts(p, t, f);
    fprintf(p->out, "%s\n", c.plain);
    free(value), free(left);
}

static void help_preset(const Preset *preset, Page *p, Colours c) {
    fprintf(p->out, "  %s%s%s", c.flag, preset->name, c.plain);
    p->column = 2 + strlen(preset->name);
    go_to(p, p->indent);
    put_words(p, preset->help);
    fprintf(p->out, "\n%s", c.dim);
    p->column = 0;
    go_to(p, p->indent);
    for (const char *flag = preset->flags, *next; *flag; flag = next + (*next == ' ')) {  // a flag stays with its value
        next = strstr(flag, " --") ? strstr(flag, " --") : flag + strlen(flag);
        put_word(p, flag, (size_t)(next - flag));
    }
    fprintf(p->out, "%s\n", c.plain);
}

void flags_help(const FlagTable *t, FILE *out) {
    bool colour = isatty(fileno(out)) && !getenv("NO_COLOR");
    Colours c = colour ? (Colours){"\033[1m", "\033[36m", "\033[2m", "\033[0m"} : (Colours){"", "", "", ""};
    Page page = page_on(out, HELP_LEFT), narrow = page_on(out, 15);
    fprintf(out, "%s%s%s\n%s\n\n", c.bold, t->program, c.plain, t->about);
    fputs("Flags are written --name value or --name=value; of one that is given twice, the last counts.\n"
          "In brackets: the default, the range, where the flag has an effect, the posts it belongs to.\n", out);
    for (size_t i = 0; i < t->count; i++) {
        if (t->flag[i].kind == FLAG_GROUP) fprintf(out, "\n%s%s%s\n", c.bold, t->flag[i].help, c.plain);
        else help_flag(t, &t->flag[i], &page, c);
    }
    if (t->presets)
        fprintf(out, "\n%sPresets: one --preset NAME stands for several flags; others given beside it win%s\n", c.bold,
                c.plain);
    for (size_t i = 0; i < t->presets; i++) help_preset(&t->preset[i], &narrow, c);
    if (t->examples) fprintf(out, "\n%sExamples%s\n%s", c.bold, c.plain, t->examples);
}

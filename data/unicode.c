// unicode.c: the tables, spread out into one byte a character when they are first needed, and NFC.
#include "data/unicode.h"
#include <stdlib.h>
#include <string.h>

enum { CODES = 0x110000, CATEGORY = 31, MAY_CHANGE = 32, SPACE = 64 };   // bits of a character's byte

typedef struct { uint32_t first; uint8_t value; } Run;
static const Run categories[] = {
#define R(first, category) {0x##first, UNICODE_##category},
#include "data/unicode.def"
#undef R
};
static const Run combining[] = {
#define C(first, kind) {0x##first, kind},
#include "data/unicode.def"
#undef C
};
typedef struct { uint32_t code, first, second; bool composes; } Decomposition;
static const Decomposition decompositions[] = {
#define P(code, first, second, composes) {0x##code, 0x##first, 0x##second, composes},
#include "data/unicode.def"
#undef P
};
#define COUNT(table) (sizeof (table) / sizeof *(table))

// ---- characters and bytes --------------------------------------------------------------------------
uint32_t utf8_code(const char *text, size_t length) {
    const unsigned char *p = (const unsigned char *)text;
    uint32_t code = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) code = code << 6 | (p[i] & 0x3Fu);
    return code;
}

size_t utf8_put(char out[4], uint32_t code) {
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(n == 1 ? code : (0xF00u >> n & 0xF0u) | code);
    return n;
}

// ---- classes -----------------------------------------------------------------------------------------
static uint8_t of_code[CODES];             // category | MAY_CHANGE | SPACE
static uint8_t combining_class[CODES];

static void spread(uint8_t *out, const Run *run, size_t runs) {
    for (size_t i = 0; i < runs; i++) {
        uint32_t end = i + 1 < runs ? run[i + 1].first : CODES;
        memset(out + run[i].first, run[i].value, end - run[i].first);
    }
}

static void mark(uint32_t first, uint32_t last, uint8_t bit) {
    for (uint32_t code = first; code <= last; code++) of_code[code] |= bit;
}

// The letters of Hangul are computed (The Unicode Standard, section 3.12): leads, vowels and trails.
enum { LEAD = 0x1100, VOWEL = 0x1161, TRAIL = 0x11A7, SYLLABLE = 0xAC00, LEADS = 19, VOWELS = 21, TRAILS = 28,
       SYLLABLES = LEADS * VOWELS * TRAILS };

// A text without a character that may change under NFC has that form already: neither is it decomposed for good, nor
// does it combine with one before it.
static void mark_changes(void) {
    for (uint32_t code = 0; code < CODES; code++)
        if (combining_class[code]) mark(code, code, MAY_CHANGE);
    for (size_t i = 0; i < COUNT(decompositions); i++) {
        const Decomposition *d = &decompositions[i];
        uint32_t changes = d->composes ? d->second : d->code;
        mark(changes, changes, MAY_CHANGE);
    }
    mark(VOWEL, VOWEL + VOWELS - 1, MAY_CHANGE);
    mark(TRAIL + 1, TRAIL + TRAILS - 1, MAY_CHANGE);
}

static void prepare(void) {
    static const uint32_t spaces[][2] = {{9, 13}, {0x20, 0x20}, {0x85, 0x85}, {0xA0, 0xA0}, {0x1680, 0x1680},
                                         {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                         {0x3000, 0x3000}};      // PropList.txt: White_Space
    static bool ready;
    if (ready) return;
    spread(of_code, categories, COUNT(categories));
    spread(combining_class, combining, COUNT(combining));
    for (size_t i = 0; i < COUNT(spaces); i++) mark(spaces[i][0], spaces[i][1], SPACE);
    mark_changes();
    ready = true;
}

uint32_t unicode_classes(uint32_t code) {
    prepare();
    uint8_t c = of_code[code];
    return 1u << (c & CATEGORY) | (c & SPACE ? 1u << UNICODE_SPACE : 0);
}

uint32_t unicode_class_named(const char *name, size_t length) {
    static const char names[][3] = {
#define X(name) #name,
        UNICODE_CATEGORIES(X)
#undef X
    };
    uint32_t classes = 0;
    for (size_t i = 0; i < COUNT(names); i++)
        if (length <= 2 && length >= 1 && strncmp(name, names[i], length) == 0) classes |= 1u << i;
    return classes;
}

// ---- NFC ---------------------------------------------------------------------------------------------
typedef struct { uint32_t *code; size_t count, capacity; } Codes;

static void add_code(Codes *c, uint32_t code) {
    if (c->count == c->capacity) {
        c->capacity = 2 * c->capacity + 64;
        c->code = xrealloc(c->code, size_mul(c->capacity, sizeof *c->code));
    }
    c->code[c->count++] = code;
}

static const Decomposition *find_decomposition(uint32_t code) {
    size_t low = 0, high = COUNT(decompositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (decompositions[middle].code < code) low = middle + 1;
        else high = middle;
    }
    return low < COUNT(decompositions) && decompositions[low].code == code ? &decompositions[low] : NULL;
}

static void decompose(Codes *c, uint32_t code) {
    if (code - SYLLABLE < SYLLABLES) {
        uint32_t s = code - SYLLABLE;
        add_code(c, LEAD + s / (VOWELS * TRAILS));
        add_code(c, VOWEL + s / TRAILS % VOWELS);
        if (s % TRAILS) add_code(c, TRAIL + s % TRAILS);
        return;
    }
    const Decomposition *d = find_decomposition(code);
    if (!d) {
        add_code(c, code);
        return;
    }
    decompose(c, d->first);
    if (d->second) decompose(c, d->second);
}

// A run of marks by class, equal classes in the order that they have: by counting, so that a long run takes no longer
// than its length.
static void order_run(uint32_t *run, size_t n, uint32_t *spare) {
    size_t from[256] = {0}, at = 0;
    for (size_t i = 0; i < n; i++) from[combining_class[run[i]]]++;
    for (size_t class = 0; class < 256; class++) {
        size_t count = from[class];
        from[class] = at, at += count;
    }
    for (size_t i = 0; i < n; i++) spare[from[combining_class[run[i]]]++] = run[i];
    memcpy(run, spare, n * sizeof *run);
}

static void order_marks(Codes *c) {
    uint32_t *spare = xmalloc(size_mul(c->count + 1, sizeof *spare));
    for (size_t i = 0, n; i < c->count; i += n + 1) {
        for (n = 0; i + n < c->count && combining_class[c->code[i + n]]; n++) {}
        if (n > 1) order_run(c->code + i, n, spare);
    }
    free(spare);
}

static int by_pair(const void *a, const void *b) {
    const Decomposition *x = *(const Decomposition *const *)a, *y = *(const Decomposition *const *)b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return (x->second > y->second) - (x->second < y->second);
}

// The character that two compose into, or 0.
static uint32_t composed(uint32_t first, uint32_t second) {
    static const Decomposition *sorted[COUNT(decompositions)];
    static size_t count;
    if (first - LEAD < LEADS && second - VOWEL < VOWELS)
        return SYLLABLE + ((first - LEAD) * VOWELS + (second - VOWEL)) * TRAILS;
    if (first - SYLLABLE < SYLLABLES && (first - SYLLABLE) % TRAILS == 0 && second - TRAIL - 1 < TRAILS - 1)
        return first + (second - TRAIL);
    if (!count) {
        for (size_t i = 0; i < COUNT(decompositions); i++)
            if (decompositions[i].composes) sorted[count++] = &decompositions[i];
        qsort(sorted, count, sizeof *sorted, by_pair);
    }
    const Decomposition *wanted = &(Decomposition){.first = first, .second = second};
    const Decomposition **found = bsearch(&wanted, sorted, count, sizeof *sorted, by_pair);
    return found ? (*found)->code : 0;
}

// Each mark is composed with the starter before it, unless another mark of its class or above stands between.
static void compose(Codes *c) {
    size_t starter = SIZE_MAX, count = 0;
    uint8_t last = 0;                         // class of the character before
    for (size_t i = 0; i < c->count; i++) {
        uint32_t code = c->code[i];
        uint8_t class = combining_class[code];
        bool blocked = starter == SIZE_MAX || (count > starter + 1 && last >= class);
        uint32_t both = blocked ? 0 : composed(c->code[starter], code);
        if (both) {
            c->code[starter] = both;
            continue;
        }
        if (class == 0) starter = count;
        last = class;
        c->code[count++] = code;
    }
    c->count = count;
}

static bool may_change(const char *text, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n) {
        n = (unsigned char)text[i] < 0x80 ? 1 : utf8_length(text + i, bytes - i);
        if (n > 1 && of_code[utf8_code(text + i, n)] & MAY_CHANGE) return true;
    }
    return false;
}

char *unicode_nfc(const char *text, size_t bytes, size_t *length) {
    prepare();
    if (!may_change(text, bytes)) return NULL;
    Codes c = {0};
    for (size_t i = 0, n; i < bytes; i += n) {
        n = utf8_length(text + i, bytes - i);
        decompose(&c, utf8_code(text + i, n));
    }
    order_marks(&c);
    compose(&c);
    char *out = xmalloc(size_mul(4, c.count));
    *length = 0;
    for (size_t i = 0; i < c.count; i++) *length += utf8_put(out + *length, c.code[i]);
    free(c.code);
    return out;
}

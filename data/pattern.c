// pattern.c: a pattern becomes a graph of nodes, each with what follows it (Thompson 1968, "Regular expression search
// algorithm"), which is tried by going back. Only sets repeat, so the depth of the search is that of the pattern,
// however long the text.
#include "data/pattern.h"
#include "data/unicode.h"
#include <stdlib.h>
#include <string.h>

enum { NONE = -1, MOST = 1 << 30, DEPTH = 16, NODES = 4096 };
typedef enum { ACCEPT, EMPTY, CHOICE, AHEAD, SET } Kind;

typedef struct { uint32_t first, last, classes; bool other; } Item;  // a range, or classes; other: those that are not
typedef struct { Item *item; size_t items; bool negated; bool ascii[128]; } Set;
typedef struct {
    Kind kind;
    int next;                           // CHOICE: what is tried first
    int other;                          // CHOICE: what is tried then; AHEAD: what is looked for
    bool negated, possessive;           // AHEAD: (?!; SET: without going back
    size_t least, most;                 // SET: how many characters
    Set set;
} Node;

struct Pattern { Node *node; int nodes, start; };

typedef struct {
    const char *at, *end, *problem;
    Pattern *p;
    bool fold;                          // inside (?i:
    int depth;
} Reader;

static int refuse(Reader *r, const char *why) {
    if (!r->problem) r->problem = why;
    r->at = r->end;
    return 0;
}

// ---- sets ------------------------------------------------------------------------------------------
static bool has_item(const Set *s, uint32_t code) {
    uint32_t classes = 0;
    for (size_t i = 0; i < s->items; i++) {
        const Item *item = &s->item[i];
        if (item->classes && !classes) classes = unicode_classes(code);
        bool in = item->classes ? (item->classes & classes) != 0 : code >= item->first && code <= item->last;
        if (in != item->other) return true;
    }
    return false;
}

static bool in_set(const Set *s, const char *text, size_t n) {
    if (n == 1) return s->ascii[(unsigned char)text[0]];
    return has_item(s, utf8_code(text, n)) != s->negated;
}

static void add_item(Set *s, Item item) {
    s->item = xrealloc(s->item, size_mul(s->items + 1, sizeof *s->item));
    s->item[s->items++] = item;
}

static void add_character(Reader *r, Set *s, uint32_t code) {
    bool letter = r->fold && code < 128 && ((code | 32) >= 'a' && (code | 32) <= 'z');
    add_item(s, (Item){.first = code, .last = code});
    if (letter) add_item(s, (Item){.first = code ^ 32, .last = code ^ 32});
    if (letter && (code | 32) == 's') add_item(s, (Item){.first = 0x17F, .last = 0x17F});  // the long s folds to it
}

static void finish_set(Set *s) {
    for (uint32_t c = 0; c < 128; c++) s->ascii[c] = has_item(s, c) != s->negated;
}

// ---- reading -----------------------------------------------------------------------------------------
static size_t here(const Reader *r) { return r->at < r->end ? utf8_length(r->at, (size_t)(r->end - r->at)) : 0; }
static bool sees(Reader *r, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

static uint32_t take(Reader *r) {
    size_t n = here(r);
    if (!n) return (uint32_t)refuse(r, "it is not UTF-8");
    uint32_t code = utf8_code(r->at, n);
    r->at += n;
    return code;
}

// \p{Lu}, behind the letter.
static Item read_property(Reader *r, bool other) {
    const char *close = sees(r, "{") ? memchr(r->at, '}', (size_t)(r->end - r->at)) : NULL;
    uint32_t classes = close ? unicode_class_named(r->at, (size_t)(close - r->at)) : 0;
    if (!classes) refuse(r, "a class that is no general category of Unicode");
    else r->at = close + 1;
    return (Item){.classes = classes, .other = other};
}

// Behind a backslash: classes, or one character.
static Item read_escape(Reader *r) {
    static const char letters[] = "rnt", meant[] = "\r\n\t";
    if (sees(r, "p")) return read_property(r, false);
    if (sees(r, "P")) return read_property(r, true);
    if (sees(r, "s")) return (Item){.classes = 1u << UNICODE_SPACE};
    if (sees(r, "S")) return (Item){.classes = 1u << UNICODE_SPACE, .other = true};
    if (sees(r, "d")) return (Item){.classes = 1u << UNICODE_Nd};
    if (sees(r, "D")) return (Item){.classes = 1u << UNICODE_Nd, .other = true};
    uint32_t code = take(r);
    const char *known = code && code < 128 ? strchr(letters, (int)code) : NULL;
    bool word = (code >= '0' && code <= '9') || ((code | 32) >= 'a' && (code | 32) <= 'z');
    if (known) code = (uint32_t)meant[known - letters];
    else if (word || code >= 128) refuse(r, "an escape other than \\p \\P \\s \\S \\d \\D \\r \\n \\t and signs");
    return (Item){.first = code, .last = code};
}

// Behind [.
static void read_set(Reader *r, Set *s) {
    s->negated = sees(r, "^");
    bool empty = true;
    for (; r->at < r->end && *r->at != ']'; empty = false) {
        if (*r->at == '[' || (r->end - r->at > 1 && memcmp(r->at, "&&", 2) == 0)) {
            refuse(r, "a set inside a set");
            return;
        }
        Item item = {0};
        if (sees(r, "\\")) item = read_escape(r);
        else item.first = item.last = take(r);
        bool range = !item.classes && r->end - r->at > 1 && r->at[0] == '-' && r->at[1] != ']';
        if (range) {
            r->at++;
            Item last = {0};
            if (sees(r, "\\")) last = read_escape(r);
            else last.first = take(r);
            if (last.classes || last.first < item.first || r->fold) refuse(r, "a range that it cannot be");
            item.last = last.first;
        }
        if (item.classes || range) add_item(s, item);
        else add_character(r, s, item.first);
        if (r->fold && (item.classes || s->negated)) refuse(r, "a class inside (?i:)");
    }
    if (empty || !sees(r, "]")) refuse(r, "a set without an end, or an empty one");
}

static int add_node(Reader *r, Node node) {
    Pattern *p = r->p;
    if (p->nodes == NODES) return refuse(r, "it is too long");
    p->node = xrealloc(p->node, size_mul((size_t)p->nodes + 1, sizeof *p->node));
    p->node[p->nodes] = node;
    return p->nodes++;
}

static size_t read_number(Reader *r) {
    size_t n = 0, digits = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9' && digits < 7; r->at++, digits++)
        n = 10 * n + (size_t)(*r->at - '0');
    if (!digits) refuse(r, "a count without a number");
    return n;
}

// Behind a set: how many characters of it.
static void read_count(Reader *r, Node *n) {
    n->least = n->most = 1;
    bool sign = true;
    if (sees(r, "?")) n->least = 0;
    else if (sees(r, "*")) n->least = 0, n->most = MOST;
    else if (sees(r, "+")) n->most = MOST;
    else if ((sign = false), sees(r, "{")) {
        n->least = n->most = read_number(r);
        if (sees(r, ",")) n->most = r->at < r->end && *r->at != '}' ? read_number(r) : MOST;
        if (!sees(r, "}") || n->most < n->least || n->most == 0) refuse(r, "a count that it cannot have");
    } else return;
    if (sign && sees(r, "+")) n->possessive = true;
    if (r->at < r->end && strchr("?*+{", *r->at)) refuse(r, "a count behind a count");
}

static int read_choice(Reader *r, int last);

// Behind (: what is inside, before the node that follows the group. Patterns are read forwards and linked by an empty
// node where a group ends.
static int read_group(Reader *r, int *last) {
    static const char *const contractions[] = {"'s|'t|'re|'ve|'m|'ll|'d", "[sdmt]|ll|ve|re"};
    bool outer = r->fold;
    int end = *last = add_node(r, (Node){.kind = EMPTY, .next = NONE}), start;
    if (++r->depth > DEPTH) return refuse(r, "groups inside of groups");
    bool no = sees(r, "?!"), ahead = no || sees(r, "?=");
    if (ahead) {
        int found = add_node(r, (Node){.kind = ACCEPT}), inside = read_choice(r, found);
        start = add_node(r, (Node){.kind = AHEAD, .next = end, .other = inside, .negated = no});
    } else {
        if (sees(r, "?i:")) {
            for (size_t i = 0; i < 2; i++) {
                size_t n = strlen(contractions[i]);
                r->fold |= (size_t)(r->end - r->at) > n && !memcmp(r->at, contractions[i], n) && r->at[n] == ')';
            }
            if (!r->fold) refuse(r, "(?i:) with something else than the English contractions");
        } else if (!sees(r, "?:") && r->at < r->end && *r->at == '?') refuse(r, "a kind of group");
        start = read_choice(r, end);
    }
    if (!sees(r, ")")) refuse(r, "a group without an end");
    r->fold = outer, r->depth--;
    bool maybe = !ahead && sees(r, "?");
    if (maybe) start = add_node(r, (Node){.kind = CHOICE, .next = start, .other = end});
    if (r->at < r->end && strchr("?*+{", *r->at)) refuse(r, "a group that repeats");
    return start;
}

// A set, a character or a group, and the node after which the next one comes.
static int read_piece(Reader *r, int *last) {
    if (sees(r, "(")) return read_group(r, last);
    Node n = {.kind = SET, .next = NONE};
    if (sees(r, "[")) read_set(r, &n.set);
    else if (sees(r, "\\")) {
        Item item = read_escape(r);
        if (item.classes) add_item(&n.set, item);
        else add_character(r, &n.set, item.first);
    } else if (strchr(".^$)]}*+?{", *r->at)) refuse(r, "one of . ^ $ or a sign without its partner");
    else add_character(r, &n.set, take(r));
    finish_set(&n.set);
    read_count(r, &n);
    return *last = add_node(r, n);
}

static int read_sequence(Reader *r, int last) {
    int start = NONE, before = NONE;
    while (r->at < r->end && *r->at != '|' && *r->at != ')') {
        int exit, piece = read_piece(r, &exit);
        if (r->problem) return 0;
        if (before == NONE) start = piece;
        else r->p->node[before].next = piece;
        before = exit;
    }
    if (before == NONE) return refuse(r, "an alternative that is empty");
    r->p->node[before].next = last;
    return start;
}

// Alternatives, each followed by `last`.
static int read_choice(Reader *r, int last) {
    int start = read_sequence(r, last);
    if (!sees(r, "|")) return start;
    int others = read_choice(r, last);
    return add_node(r, (Node){.kind = CHOICE, .next = start, .other = others});
}

// Whether it can fit without taking a character; known: 0 not looked at, 1 no, 2 yes.
static bool fits_nothing(const Pattern *p, int at, char *known) {
    const Node *n = &p->node[at];
    if (known[at]) return known[at] == 2;
    bool fits = n->kind == ACCEPT || (n->kind == CHOICE && fits_nothing(p, n->other, known)) ||
                (!(n->kind == SET && n->least > 0) && fits_nothing(p, n->next, known));
    known[at] = fits ? 2 : 1;
    return fits;
}

Pattern *pattern_compile(const char *pattern, size_t bytes, const char **problem) {
    Reader r = {.at = pattern, .end = pattern + bytes, .p = xmalloc(sizeof *r.p)};
    int accept = add_node(&r, (Node){.kind = ACCEPT});
    r.p->start = read_choice(&r, accept);
    if (r.at < r.end) refuse(&r, "a ) without its partner");
    char known[NODES] = {0};
    if (!r.problem && fits_nothing(r.p, r.p->start, known)) r.problem = "it fits where nothing is";
    if (!r.problem) return r.p;
    *problem = r.problem;
    pattern_free(r.p);
    return NULL;
}

void pattern_free(Pattern *p) {
    for (int i = 0; p && i < p->nodes; i++) free(p->node[i].set.item);
    if (p) free(p->node);
    free(p);
}

// ---- matching ----------------------------------------------------------------------------------------
// One search. Whether a node and what follows it fit at a byte does not depend on the way there, so what failed is
// noted as soon as a search is long: a?a?a?...b takes nodes times bytes then, not 2 to the number of nodes.
typedef struct {
    const Pattern *p;
    const char *text;
    size_t bytes, steps, most;          // tries of a node; where there are too many, everything fails
    uint64_t *failed;                   // a hash table of 1 + node + nodes * byte; 0: a free place
    size_t count, places;
} Search;

enum { SHORT = 4096, LONGEST = 1 << 24 };

static uint64_t *place_of(uint64_t *table, size_t places, uint64_t key) {
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & (places - 1);
    while (table[i] && table[i] != key) i = (i + 1) & (places - 1);
    return &table[i];
}

static void note_failed(Search *s, uint64_t key) {
    if (2 * s->count >= s->places) {
        size_t places = s->places ? 2 * s->places : 1024;
        uint64_t *table = xmalloc(size_mul(places, sizeof *table));
        for (size_t i = 0; i < s->places; i++)
            if (s->failed[i]) *place_of(table, places, s->failed[i]) = s->failed[i];
        free(s->failed);
        s->failed = table, s->places = places;
    }
    *place_of(s->failed, s->places, key) = key, s->count++;
}

static size_t match(Search *s, int at, size_t from);

// As many characters as there are; then one fewer at a time, as long as what follows does not fit.
static size_t match_set(Search *s, const Node *n, size_t from) {
    const char *text = s->text;
    size_t count = 0, to = from;
    for (size_t length; count < n->most && to < s->bytes; count++, to += length) {
        length = (unsigned char)text[to] < 0x80 ? 1 : utf8_length(text + to, s->bytes - to);
        if (!length || !in_set(&n->set, text + to, length)) break;
    }
    if (count < n->least) return SIZE_MAX;
    for (;; count--) {
        size_t end = match(s, n->next, to);
        if (end != SIZE_MAX || count == n->least || n->possessive || s->steps > s->most) return end;
        do to--; while (((unsigned char)text[to] & 0xC0) == 0x80);
    }
}

static size_t match_node(Search *s, int at, size_t from) {
    for (;;) {
        const Node *n = &s->p->node[at];
        if (n->kind == ACCEPT) return from;
        if (n->kind == SET) return match_set(s, n, from);
        if (n->kind == CHOICE) {
            size_t end = match(s, n->next, from);
            if (end != SIZE_MAX) return end;
            at = n->other;
            continue;
        }
        if (n->kind == AHEAD && (match(s, n->other, from) != SIZE_MAX) == n->negated) return SIZE_MAX;
        at = n->next;
    }
}

// Where the match of node `at` and what follows it ends, if it starts at byte `from`; SIZE_MAX: nowhere.
static size_t match(Search *s, int at, size_t from) {
    uint64_t key = 1 + (uint64_t)at + (uint64_t)s->p->nodes * from;
    if (++s->steps > s->most || (s->places && *place_of(s->failed, s->places, key))) return SIZE_MAX;
    size_t end = match_node(s, at, from);
    if (end == SIZE_MAX && s->steps > SHORT) note_failed(s, key);
    return end;
}

size_t pattern_match(const Pattern *p, const char *text, size_t bytes) {
    Search s = {.p = p, .text = text, .bytes = bytes, .most = LONGEST + 16 * bytes};
    size_t end = match(&s, p->start, 0);
    free(s.failed);
    return s.steps > s.most ? SIZE_MAX : end == SIZE_MAX ? 0 : end;
}

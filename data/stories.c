// stories.c: the default source: small English stories from a probabilistic grammar (stories.def).
//
// A story is a walk through a plot. Each word of it is fixed, copied from memory (who has the thing, where
// they are, what was lost there, how many plums are left), or drawn from a list, which may depend on a word
// in memory (a kite is flown, a boat is sailed; an otter lives by the river). So there is something to learn
// for models of every size: frequent words, word order, pronouns, the tables of words that go together,
// rare names, who holds what after it passed through several hands.
//
// A row starts with the end token (a blank line), so at the start of a story; stories follow each other
// until the row is full. Every word is scored.
//
// Why the floor is exact. The lines of a node are kept as a prefix tree: lines that begin alike share the
// way until the word where they differ, and at every branch the words of the branches differ. So the
// words tell the path: given the past, position and memory are known for certain (the generator is unifilar),
// and the true probability of each next word is known: that of the branch times that of the word in its list.
// Branches do not look at the memory, and a list has the same probabilities, in another order, whatever its
// key. So the entropy of the next word depends on the position in the tree alone, and the positions
// are a Markov chain. Its distribution after t words follows exactly from that after t-1.
#include "data/source.h"
#include "data/strings.h"

// ---- the grammar as written --------------------------------------------------------------------
typedef struct { const char *name, *weights, *words; } ListRow;
typedef struct { const char *name, *list, *key; } SlotRow;
typedef struct { const char *node; unsigned weight; const char *text; } LineRow;
#define LIST(name, weights, words)
#define SLOT(name, list, key)
#define LINE(node, weight, text)
#undef LIST
#define LIST(name, weights, words) {#name, weights, words},
static const ListRow list_rows[] = {
#include "data/stories.def"
};
#undef LIST
#define LIST(name, weights, words)
#undef SLOT
#define SLOT(name, list, key) {#name, #list, #key},
static const SlotRow slot_rows[] = {
#include "data/stories.def"
};
#undef SLOT
#define SLOT(name, list, key)
#undef LINE
#define LINE(node, weight, text) {#node, weight, text},
static const LineRow line_rows[] = {
#include "data/stories.def"
};
enum {
    LISTS = sizeof list_rows / sizeof *list_rows, SLOTS = sizeof slot_rows / sizeof *slot_rows,
    LINES = sizeof line_rows / sizeof *line_rows,
};

// ---- the grammar as used -----------------------------------------------------------------------
enum { END = 0, NONE = -1, MOST_WORDS = 64 };
typedef struct {
    int size;                              // words per key
    uint32_t weight[MOST_WORDS], total;
    double entropy;
    int *word, keys;                       // [keys, size]; one key where the list has none
    int *key;                              // the word that each key is, or NULL
} List;
typedef struct { int list, key; bool derived; } Slot;          // derived: one word per key, so nothing to remember
typedef enum { FIXED, COPIED, DRAWN } StepKind;
typedef enum { ASSIGN, SWAP } ChangeKind;
typedef struct { ChangeKind kind; int to, from; } Change;      // of memory, in slots
typedef struct {
    StepKind kind; int id;                 // the word, or the slot
    uint32_t weight, total;                // of the way through this step; sum over the ways that go on from it
    int child, sibling;                    // first way that goes on from here; next alternative to this step
    int next, change, changes;             // at the end of a line: the position that follows, changes of memory
} Step;
typedef struct {
    RowSeeds seeds;
    Strings words;
    List list[LISTS];
    Slot slot[SLOTS];
    Step *step; int steps, start;          // a position is a step whose word was just said; start: before a story
    int root[LINES];                       // position before the lines of the node of line i
    Change *change; int changes;
} Grammar;
typedef struct { int position, memory[SLOTS]; } Teller;

// ---- reading it --------------------------------------------------------------------------------
// The next space-separated item of *text, or false at its end.
static bool next_item(const char **text, char item[64]) {
    const char *p = *text + strspn(*text, " ");
    size_t n = strcspn(p, " ");
    if (n == 0) return false;
    if (n >= 64) fail("stories.def: \"%.20s...\" is too long", p);
    memcpy(item, p, n);
    item[n] = '\0';
    *text = p + n;
    return true;
}

static int word_number(Grammar *g, const char *word) {
    if (strcmp(word, "END") == 0) return END;
    size_t found = strings_find(&g->words, word, strlen(word));
    return (int)(found == SIZE_MAX ? strings_add(&g->words, word, strlen(word)) : found);
}

// A word's text, malloc'd.
static char *word_text(const Grammar *g, int word) {
    size_t n;
    const char *bytes = strings_get(&g->words, (size_t)word, &n);
    return xprintf("%.*s", (int)n, bytes);
}

static int list_number(const char *name) {
    for (int i = 0; i < LISTS; i++)
        if (strcmp(list_rows[i].name, name) == 0) return i;
    fail("stories.def: there is no LIST(%s)", name);
}

static int slot_number(const char *name) {
    for (int i = 0; i < SLOTS; i++)
        if (strcmp(slot_rows[i].name, name) == 0) return i;
    fail("stories.def: there is no SLOT(%s)", name);
}

static void read_words(Grammar *g, List *l, const ListRow *row) {
    const char *text = row->words;
    int words = 0;
    for (char item[64]; next_item(&text, item);) {
        size_t n = strlen(item);
        if (item[n - 1] == ':') {
            item[n - 1] = '\0';
            l->key = xrealloc(l->key, ((size_t)l->keys + 1) * sizeof *l->key);
            l->key[l->keys++] = word_number(g, item);
            continue;
        }
        l->word = xrealloc(l->word, ((size_t)words + 1) * sizeof *l->word);
        l->word[words++] = word_number(g, item);
    }
    if (!l->key) l->keys = 1;
    l->size = words / l->keys;
    if (l->size * l->keys != words || l->size > MOST_WORDS)
        fail("stories.def: LIST(%s) has %d words for %d keys; every key needs as many, at most %d",
             row->name, words, l->keys, MOST_WORDS);
    for (int i = 0; i < words; i++)
        for (int j = i - i % l->size; j < i; j++)
            if (l->word[i] == l->word[j])
                fail("stories.def: LIST(%s) has a word twice under key %d", row->name, i / l->size);
}

static void read_weights(List *l, const ListRow *row) {
    enum { FIRST_OF_ZIPF = 27720 };
    bool zipf = strcmp(row->weights, "zipf") == 0, given = *row->weights && !zipf;
    const char *text = row->weights;
    char item[64];
    for (int i = 0; i < l->size; i++) {
        if (given && !next_item(&text, item)) fail("stories.def: LIST(%s) needs %d weights", row->name, l->size);
        l->weight[i] = given ? (uint32_t)atoi(item) : zipf ? FIRST_OF_ZIPF / (uint32_t)(i + 1) : 1;
        l->total += l->weight[i];
    }
    if (given && next_item(&text, item)) fail("stories.def: LIST(%s) needs %d weights", row->name, l->size);
    for (int i = 0; i < l->size; i++) {
        double p = (double)l->weight[i] / l->total;
        l->entropy -= p * num_log(p);
    }
}

static void read_slot(Grammar *g, int i) {
    Slot *s = &g->slot[i];
    s->list = list_number(slot_rows[i].list);
    s->key = *slot_rows[i].key ? slot_number(slot_rows[i].key) : NONE;
    const List *l = &g->list[s->list];
    if (!l->key != (s->key == NONE))
        fail("stories.def: SLOT(%s) and LIST(%s) do not agree on having a key", slot_rows[i].name, slot_rows[i].list);
    s->derived = l->key && l->size == 1;
}

// ---- the prefix tree ---------------------------------------------------------------------------
static int add_step(Grammar *g, StepKind kind, int id) {
    if ((g->steps & (g->steps - 1)) == 0)
        g->step = xrealloc(g->step, (size_t)(g->steps ? 2 * g->steps : 1) * sizeof *g->step);
    g->step[g->steps] = (Step){kind, id, 0, 0, NONE, NONE, NONE, 0, 0};
    return g->steps++;
}

// The step of this kind that goes on from `at`, made if need be; its weight grows.
static int go_on(Grammar *g, int at, StepKind kind, int id, uint32_t weight) {
    int last = NONE, s = g->step[at].child;
    for (; s != NONE && !(g->step[s].kind == kind && g->step[s].id == id); s = g->step[s].sibling) last = s;
    if (s == NONE) {
        s = add_step(g, kind, id);
        *(last == NONE ? &g->step[at].child : &g->step[last].sibling) = s;
    }
    g->step[s].weight += weight;
    g->step[at].total += weight;
    return s;
}

static int node_root(const Grammar *g, const char *node) {
    for (int i = 0; i < LINES; i++)
        if (strcmp(line_rows[i].node, node) == 0) return g->root[i];
    fail("stories.def: there is no LINE(%s, ...)", node);
}

static void read_change(Grammar *g, const char *item) {
    char to[32], from[32];
    ChangeKind kind = strstr(item, "<>") ? SWAP : ASSIGN;
    if (sscanf(item, kind == SWAP ? "[%31[^<]<>%31[^]]]" : "[%31[^=]=%31[^]]]", to, from) != 2)
        fail("stories.def: cannot read %s", item);
    g->change = xrealloc(g->change, ((size_t)g->changes + 1) * sizeof *g->change);
    g->change[g->changes++] = (Change){kind, slot_number(to), slot_number(from)};
}

static uint32_t node_weight(const char *node) {
    uint32_t sum = 0;
    for (int i = 0; i < LINES; i++) sum += strcmp(line_rows[i].node, node) == 0 ? line_rows[i].weight : 0;
    return sum;
}

static void add_line(Grammar *g, int root, const LineRow *line, uint32_t weight) {
    const char *text = line->text;
    int at = root, first_change = g->changes;
    for (char item[64]; next_item(&text, item);) {
        char c = item[0];
        int old = g->steps;
        if (c == '>') {
            bool shared = g->step[at].child != NONE || g->step[at].next != NONE;
            if (shared || at == root)
                fail("stories.def: a line of %s begins another or is empty: %s", line->node, line->text);
            g->step[at].next = node_root(g, item + 1);
            g->step[at].change = first_change, g->step[at].changes = g->changes - first_change;
            return;
        }
        if (c == '[') {
            read_change(g, item);
        } else {
            StepKind kind = c == '+' ? DRAWN : c == '$' ? COPIED : FIXED;
            at = go_on(g, at, kind, kind == FIXED ? word_number(g, item) : slot_number(item + 1), weight);
            if (old == g->steps && g->step[at].next != NONE)
                fail("stories.def: a line of %s begins with another: %s", line->node, line->text);
        }
    }
    fail("stories.def: a line of %s does not say where to go next: %s", line->node, line->text);
}

// Adds the lines of a node at a position, with weights that sum to `share`; those of an inner @node share the
// weight of its line. Weights are integers, and their quotients are the probabilities, in telling and in the floor.
static void add_node(Grammar *g, int root, const char *node, uint32_t share) {
    uint32_t sum = node_weight(node);
    if (sum == 0) fail("stories.def: there is no LINE(%s, ...)", node);
    for (int i = 0; i < LINES; i++) {
        const LineRow *line = &line_rows[i];
        if (strcmp(line->node, node)) continue;
        uint32_t weight = (uint32_t)((uint64_t)share * line->weight / sum);
        if (line->text[0] == '@') add_node(g, root, line->text + 1, weight);
        else add_line(g, root, line, weight);
    }
}

static void read_grammar(Grammar *g) {
    enum { SHARE = 1 << 24 };
    strings_add(&g->words, "\n\n", 2);
    for (int i = 0; i < LISTS; i++) {
        read_words(g, &g->list[i], &list_rows[i]);
        read_weights(&g->list[i], &list_rows[i]);
    }
    for (int i = 0; i < SLOTS; i++) read_slot(g, i);
    for (int i = 0; i < LINES; i++) {
        bool known = i > 0 && strcmp(line_rows[i - 1].node, line_rows[i].node) == 0;
        g->root[i] = known ? g->root[i - 1] : add_step(g, FIXED, END);
    }
    for (int i = 0; i < LINES; i++)
        if (i == 0 || g->root[i] != g->root[i - 1]) add_node(g, g->root[i], line_rows[i].node, SHARE);
    g->start = node_root(g, "start");
}

// ---- telling -----------------------------------------------------------------------------------
static int recall_word(const Grammar *g, const int *memory, int slot);

// The words that a slot can be drawn from now.
static const int *choices(const Grammar *g, const int *memory, const Slot *s) {
    const List *l = &g->list[s->list];
    if (s->key == NONE) return l->word;
    int word = recall_word(g, memory, s->key);
    for (int k = 0; k < l->keys; k++)
        if (l->key[k] == word) return l->word + (size_t)k * (size_t)l->size;
    fail("stories.def: LIST(%s) has no key %s", list_rows[s->list].name, word_text(g, word));
}

static int recall_word(const Grammar *g, const int *memory, int slot) {
    const Slot *s = &g->slot[slot];
    return s->derived ? choices(g, memory, s)[0] : memory[slot];
}

// Moves on over step s, whose word was said.
static void advance(const Grammar *g, Teller *t, int s, int word) {
    const Step *step = &g->step[s];
    if (step->kind == DRAWN) t->memory[step->id] = word;
    t->position = step->next == NONE ? s : step->next;
    for (int i = 0; i < step->changes; i++) {
        const Change *c = &g->change[step->change + i];
        int *to = &t->memory[c->to], *from = &t->memory[c->from], old = *to;
        *to = recall_word(g, t->memory, c->from);
        if (c->kind == SWAP) *from = old;
    }
}

static int pick(Rng *r, const uint32_t *weight, uint32_t total) {
    uint32_t left = rng_below(r, total);
    int i = 0;
    for (; left >= weight[i]; i++) left -= weight[i];
    return i;
}

static int tell_word(const Grammar *g, Teller *t, Rng *r) {
    const Step *here = &g->step[t->position];
    int s = here->child;
    if (g->step[s].sibling != NONE)
        for (uint32_t left = rng_below(r, here->total); left >= g->step[s].weight; s = g->step[s].sibling)
            left -= g->step[s].weight;
    const Step *step = &g->step[s];
    int word = step->id;
    if (step->kind == COPIED) word = recall_word(g, t->memory, step->id);
    if (step->kind == DRAWN) {
        const List *l = &g->list[g->slot[step->id].list];
        word = choices(g, t->memory, &g->slot[step->id])[pick(r, l->weight, l->total)];
    }
    advance(g, t, s, word);
    return word;
}

static void stories_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets,
                        bool *is_answer) {
    const Grammar *g = d->state;
    Rng r = row_rng(g->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    Teller teller = {.position = g->start};
    row_put(&out, END, PLAIN);
    while (!row_full(&out)) row_put(&out, tell_word(g, &teller, &r), SCORED);
}

// ---- listening: the true probability of a word ------------------------------------------------
// Probability that step s, once taken, says this word.
static double says(const Grammar *g, const Teller *t, int s, int word) {
    const Step *step = &g->step[s];
    if (step->kind == FIXED) return step->id == word;
    if (step->kind == COPIED) return recall_word(g, t->memory, step->id) == word;
    const List *l = &g->list[g->slot[step->id].list];
    const int *choice = choices(g, t->memory, &g->slot[step->id]);
    for (int i = 0; i < l->size; i++)
        if (choice[i] == word) return (double)l->weight[i] / l->total;
    return 0;
}

// The probability of a word here, and the move over it. 0: the language does not allow it.
static double hear_word(const Grammar *g, Teller *t, int word) {
    int taken = NONE;
    double probability = 0;
    for (int s = g->step[t->position].child; s != NONE; s = g->step[s].sibling) {
        double p = says(g, t, s, word);
        if (p == 0) continue;
        if (taken != NONE) fail("stories.def: two ways to say %s at one place", word_text(g, word));
        taken = s;
        probability = p * g->step[s].weight / g->step[t->position].total;
    }
    if (taken != NONE) advance(g, t, taken, word);
    return probability;
}

static void stories_truth(const Data *d, size_t T, const int *tokens, const int *targets, double *log_probability) {
    const Grammar *g = d->state;
    Teller teller = {.position = g->start};
    bool possible = tokens[0] == END;
    for (size_t t = 0; t < T; t++) {
        int word = targets[t] >= 0 || t + 1 == T ? targets[t] : tokens[t + 1];
        double p = possible ? hear_word(g, &teller, word) : 0;
        possible = p > 0;
        log_probability[t] = possible ? num_log(p) : -INFINITY;
    }
}

// ---- the floor ---------------------------------------------------------------------------------
static double position_entropy(const Grammar *g, int position) {
    double h = 0;
    for (int s = g->step[position].child; s != NONE; s = g->step[s].sibling) {
        const Step *step = &g->step[s];
        double p = (double)step->weight / g->step[position].total;
        h -= p * num_log(p);
        if (step->kind == DRAWN) h += p * g->list[g->slot[step->id].list].entropy;
    }
    return h;
}

// Moves the distribution of the position by one word; returns how much it changed (the sum of |differences|).
static double step_distribution(const Grammar *g, double *now, double *next) {
    memset(next, 0, (size_t)g->steps * sizeof *next);
    for (int i = 0; i < g->steps; i++) {
        if (now[i] == 0) continue;
        double share = now[i] / g->step[i].total;
        for (int s = g->step[i].child; s != NONE; s = g->step[s].sibling)
            next[g->step[s].next == NONE ? s : g->step[s].next] += share * g->step[s].weight;
    }
    double change = 0;
    for (int i = 0; i < g->steps; i++) change += fabs(next[i] - now[i]), now[i] = next[i];
    return change;
}

static double stories_floor(const Grammar *g, size_t T) {
    size_t bytes = size_mul((size_t)g->steps, sizeof(double));
    double *entropy = xmalloc(bytes), *now = xmalloc(bytes), *next = xmalloc(bytes);
    for (int i = 0; i < g->steps; i++) entropy[i] = position_entropy(g, i);
    now[g->start] = 1;
    double sum = 0, change = 1;
    size_t t = 0;
    for (; t < T && !has_mixed(t, change); t++) {
        for (int i = 0; i < g->steps; i++) sum += now[i] * entropy[i];
        change = step_distribution(g, now, next);
    }
    double expected = 0;
    for (int i = 0; i < g->steps; i++) expected += now[i] * entropy[i];
    sum += (double)(T - t) * expected;
    free(entropy), free(now), free(next);
    return sum / (double)T;
}

// ---- the source --------------------------------------------------------------------------------
static Tokenizer *stories_tokenizer(const Grammar *g) {
    const char **words = xmalloc(g->words.count * sizeof *words);
    for (size_t i = 0; i < g->words.count; i++) words[i] = word_text(g, (int)i);
    Tokenizer *t = tokenizer_words(words, g->words.count);
    tokenizer_set_start(t, END);
    for (size_t i = 0; i < g->words.count; i++) free((char *)words[i]);
    free(words);
    return t;
}

static void stories_close(Data *d) {
    Grammar *g = d->state;
    for (int i = 0; i < LISTS; i++) free(g->list[i].word), free(g->list[i].key);
    strings_free(&g->words);
    free(g->step), free(g->change);
    free(g);
}

void stories_open(Data *d, const Config *config) {
    Grammar *g = d->state = xmalloc(sizeof *g);
    d->row = stories_row, d->truth = stories_truth, d->close = stories_close;
    g->seeds = row_seeds(config);
    read_grammar(g);
    set_vocab(d, config, g->words.count);
    d->tokenizer = stories_tokenizer(g);
    d->default_prompt = xprintf("%s", "");
    d->floor = stories_floor(g, config->context);
    d->floor_about =
        xprintf("exact: the %d positions of the grammar are a Markov chain, followed word by word over a row",
                g->steps);
    d->hash = hash_text(d->hash, "stories");
    for (int i = 0; i < LISTS; i++) d->hash = hash_text(hash_text(d->hash, list_rows[i].weights), list_rows[i].words);
    for (int i = 0; i < SLOTS; i++) d->hash = hash_text(hash_text(d->hash, slot_rows[i].list), slot_rows[i].key);
    for (int i = 0; i < LINES; i++)
        d->hash = hash_text(hash_bytes(d->hash, &line_rows[i].weight, sizeof(unsigned)), line_rows[i].text);
}

// test_data.c: the sources. A stated floor is compared with what enumeration or a long sample says, a row with
// the rules of its task, and every refusal with the line it should print.
#include "tests/test.h"
#include "data/data.h"
#include "data/elimination.h"
#include "lib/rng.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// ---- helpers -----------------------------------------------------------------------------------
// A configuration from "--data markov --order 2 ..." (a value has no spaces).
static Config config_of(const char *flags) {
    Config c;
    flags_parse_text(&config_table, &c, flags, NULL);
    return c;
}
static Data *open_flags(const char *flags) {
    Config c = config_of(flags);
    return data_open(&c);
}

typedef struct { size_t T; int *tokens, *targets; bool *is_answer; double *truth; } Rows;
static Rows rows_new(size_t T) {
    return (Rows){T, xmalloc(T * sizeof(int)), xmalloc(T * sizeof(int)), xmalloc(T), xmalloc(T * sizeof(double))};
}
static void rows_free(Rows *r) { free(r->tokens), free(r->targets), free(r->is_answer), free(r->truth); }
static void get(const Data *d, Split split, uint64_t row, Rows *r) {
    d->row(d, split, row, r->T, r->tokens, r->targets, r->is_answer);
}
static bool equal(const Rows *a, const Rows *b) {  // over the shorter one
    size_t n = a->T < b->T ? a->T : b->T;
    return !memcmp(a->tokens, b->tokens, n * sizeof(int)) && !memcmp(a->targets, b->targets, n * sizeof(int)) &&
           !memcmp(a->is_answer, b->is_answer, n);
}

static const char *const synthetic[] = {
    "--data stories", "--data markov", "--data markov --order 3", "--data iid", "--data recall", "--data induction",
    "--data copy", "--data facts", "--data khop", "--data khop --hops 5 --pairs 12",
    "--data recall --repeat-questions", "--data recall --rebind", "--data khop --repeat-questions",
};
enum { SYNTHETIC = sizeof synthetic / sizeof *synthetic };

// ---- rows --------------------------------------------------------------------------------------
static void check_row(const Data *d, const Rows *r, const char *flags) {
    size_t scored = 0, answers = 0;
    for (size_t t = 0; t < r->T; t++) {
        CHECK(r->tokens[t] >= 0 && (size_t)r->tokens[t] < d->vocab, "%s: token %d", flags, r->tokens[t]);
        CHECK(r->targets[t] >= -1 && r->targets[t] < (int)d->vocab, "%s: target %d", flags, r->targets[t]);
        if (t + 1 < r->T && r->targets[t] >= 0) CHECK(r->targets[t] == r->tokens[t + 1], "%s: target at %zu", flags, t);
        CHECK(!r->is_answer[t] || r->targets[t] >= 0, "%s: an answer that is not scored at %zu", flags, t);
        scored += r->targets[t] >= 0, answers += r->is_answer[t];
    }
    CHECK(scored > 0, "%s: nothing is scored", flags);
    CHECK((answers > 0) == d->has_accuracy, "%s: %zu answers", flags, answers);
}

static void test_rows(void) {
    Rows a = rows_new(96), b = rows_new(96);
    for (size_t s = 0; s < SYNTHETIC; s++) {
        Data *d = open_flags(synthetic[s]), *other = open_flags(xprintf("%s --seed 2", synthetic[s]));
        Data *world = open_flags(xprintf("%s --data-seed 2", synthetic[s]));
        size_t differ = 0;
        for (uint64_t i = 0; i < 20; i++) {
            get(d, SPLIT_TRAIN, i, &a);
            check_row(d, &a, synthetic[s]);
            get(d, SPLIT_VALIDATION, 7, &b), get(d, SPLIT_TRAIN, 19 - i, &b), get(d, SPLIT_TRAIN, i, &b);
            CHECK(equal(&a, &b), "%s: row %d read twice, others between", synthetic[s], (int)i);
            get(other, SPLIT_TRAIN, i, &b);
            differ += !equal(&a, &b);
            get(d, SPLIT_VALIDATION, i, &b);
            differ += !equal(&a, &b);
            get(other, SPLIT_VALIDATION, i, &a);
            CHECK(equal(&a, &b), "%s: validation row %d depends on --seed", synthetic[s], (int)i);
            get(world, SPLIT_VALIDATION, i, &a);
            differ += !equal(&a, &b);
        }
        CHECK(differ == 60, "%s: %zu of 60 pairs of rows differ", synthetic[s], differ);
        CHECK(d->hash != other->hash && d->hash != world->hash, "%s: the hash", synthetic[s]);
        CHECK(d->floor_about && d->default_prompt && d->validation_rows == 128, "%s: the other fields", synthetic[s]);
        int *prompt;
        size_t n = tokenizer_prompt(d->tokenizer, d->default_prompt, &prompt);
        get(d, SPLIT_VALIDATION, 0, &a);
        bool begins = n > 0 && memcmp(prompt, a.tokens, n * sizeof *prompt) == 0;
        CHECK(begins, "%s: the prompt is no beginning", synthetic[s]);
        CHECK(a.targets[n - 1] >= 0, "%s: the prompt ends where nothing is asked", synthetic[s]);
        data_close(d), data_close(other), data_close(world);
    }
    rows_free(&a), rows_free(&b);
}

static void test_prefix(void) {
    static const char *const streams[] = {"--data stories", "--data markov --order 2", "--data iid", "--data induction",
                                          "--data copy", "--data facts"};
    Rows a = rows_new(40), b = rows_new(173);
    for (size_t s = 0; s < sizeof streams / sizeof *streams; s++) {
        Data *d = open_flags(streams[s]);
        for (uint64_t i = 0; i < 20; i++) {
            get(d, SPLIT_TRAIN, i, &a), get(d, SPLIT_TRAIN, i, &b);
            CHECK(equal(&a, &b), "%s: the first 40 tokens of a longer row %d", streams[s], (int)i);
        }
        data_close(d);
    }
    rows_free(&a), rows_free(&b);
}

static void test_speed(void) {
#ifndef __SANITIZE_ADDRESS__
    Rows r = rows_new(128);
    for (size_t s = 0; s < SYNTHETIC; s++) {
        Data *d = open_flags(synthetic[s]);
        double best = 1;
        for (int trial = 0; trial < 20; trial++) {
            double start = seconds_now();
            for (uint64_t i = 0; i < 16; i++) get(d, SPLIT_TRAIN, i, &r);
            double seconds = seconds_now() - start;
            if (seconds < best) best = seconds;
        }
        CHECK(best < 1e-3, "%s: a batch of 16 x 128 took %.2f ms", synthetic[s], 1e3 * best);
        data_close(d);
    }
    rows_free(&r);
#endif
}

// ---- floors: by enumeration --------------------------------------------------------------------
// Every sequence that the source can make, with its probability; the leaves are kept to compare with samples.
typedef struct { uint64_t hash; double p; size_t count; } Leaf;
typedef struct { Leaf *leaf; size_t leaves, room; double entropy, total; } Enumeration;

static uint64_t row_hash(const Rows *r) {
    return hash_bytes(hash_bytes(HASH_START, r->tokens, sizeof(int)), r->targets, r->T * sizeof(int));
}

static void enumerate(const Data *d, Rows *r, size_t t, double log_p, Enumeration *e) {
    if (t == r->T) {
        double p = exp(log_p);
        e->entropy -= p * log_p, e->total += p;
        if (e->leaves == e->room) e->room = 2 * e->room + 1024, e->leaf = xrealloc(e->leaf, e->room * sizeof *e->leaf);
        e->leaf[e->leaves++] = (Leaf){row_hash(r), p, 0};
        return;
    }
    for (int v = 0; v < (int)d->vocab; v++) {
        r->targets[t] = v;
        d->truth(d, t + 1, r->tokens, r->targets, r->truth);
        double log_v = r->truth[t];
        if (log_v == -INFINITY) continue;
        if (t + 1 < r->T) r->tokens[t + 1] = v;
        enumerate(d, r, t + 1, log_p + log_v, e);
    }
}

static int by_hash(const void *a, const void *b) {
    uint64_t x = ((const Leaf *)a)->hash, y = ((const Leaf *)b)->hash;
    return x < y ? -1 : x > y;
}

// Pearson's statistic of sampled rows against the enumerated probabilities, cells below 5 expected pooled.
static void check_samples(const Data *d, Rows *r, Enumeration *e, size_t rows, const char *flags) {
    qsort(e->leaf, e->leaves, sizeof *e->leaf, by_hash);
    for (uint64_t i = 0; i < rows; i++) {
        get(d, SPLIT_TRAIN, i, r);
        Leaf key = {row_hash(r), 0, 0};
        Leaf *leaf = bsearch(&key, e->leaf, e->leaves, sizeof *e->leaf, by_hash);
        CHECK(leaf, "%s: row %d is not among the possible ones", flags, (int)i);
        if (leaf) leaf->count++;
    }
    double statistic = 0, cells = 0, rare = 0, rare_expected = 0;
    for (size_t i = 0; i < e->leaves; i++) {
        double expected = e->leaf[i].p * (double)rows, count = (double)e->leaf[i].count;
        if (expected < 5) rare += count, rare_expected += expected;
        else statistic += (count - expected) * (count - expected) / expected, cells++;
    }
    if (rare_expected >= 5) statistic += (rare - rare_expected) * (rare - rare_expected) / rare_expected, cells++;
    double freedom = cells - 1, limit = freedom + 5 * sqrt(2 * freedom);  // mean and deviation of chi-square; 5 sigma
    CHECK(cells > 2 && statistic < limit, "%s: chi-square %.1f for %.0f degrees of freedom", flags, statistic, freedom);
}

static void test_floors_enumerated(void) {
    static const struct { const char *flags; size_t T, sampled; bool first_is_free; } cases[] = {
        {"--data markov --vocab 3 --order 1", 6, 40000, false}, {"--data markov --vocab 3 --order 2", 6, 40000, false},
        {"--data markov --vocab 2 --order 4", 9, 40000, false}, {"--data iid --vocab 4", 4, 40000, true},
        {"--data induction --vocab 4", 5, 100000, true}, {"--data induction --vocab 9", 4, 0, true},
        {"--data stories", 9, 40000, false}, {"--data stories", 1, 40000, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t T = cases[i].T, starts = 1;
        Data *d = open_flags(xprintf("%s --context %zu", cases[i].flags, T));
        Rows r = rows_new(T);
        Enumeration e = {0};
        if (cases[i].first_is_free) starts = d->vocab;
        for (size_t first = 0; first < starts; first++) {
            r.tokens[0] = (int)first;
            enumerate(d, &r, 0, -log((double)starts), &e);
        }
        double entropy = (e.entropy - log((double)starts)) / (double)T;  // the first token is given, not scored
        // Sums of at most a hundred thousand doubles near 1: rounding stays below 1e-11.
        CHECK(fabs(e.total - 1) < 1e-11, "%s: the probabilities sum to 1 + %g", cases[i].flags, e.total - 1);
        CHECK(fabs(entropy - d->floor) < 1e-11, "%s at T=%zu: %.15f enumerated, %.15f stated", cases[i].flags, T,
              entropy, d->floor);
        if (cases[i].sampled) check_samples(d, &r, &e, cases[i].sampled, cases[i].flags);
        free(e.leaf);
        rows_free(&r);
        data_close(d);
    }
}

// A row that is longer than anybody follows word by word: what its further words add is what words add after a while.
static void test_floors_long(void) {
    static const char *const flags[] = {"--data stories", "--data markov", "--data markov --order 3 --vocab 6",
                                        "--data induction", "--data induction --vocab 500"};
    static const size_t T[] = {60000, 65000, 100000000};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        double sum[3];
        for (int k = 0; k < 3; k++) {
            Data *d = open_flags(xprintf("%s --context %zu", flags[i], T[k]));
            sum[k] = d->floor * (double)T[k];
            data_close(d);
        }
        double each = (sum[1] - sum[0]) / (double)(T[1] - T[0]), further = (sum[2] - sum[1]) / (double)(T[2] - T[1]);
        CHECK(fabs(each - further) < 1e-8, "%s: %.12f nats for a word, then %.12f", flags[i], each, further);
    }
}

// ---- floors: by sampling -----------------------------------------------------------------------
static double row_mean(const Data *d, Rows *r) {
    double sum = 0, scored = 0;
    d->truth(d, r->T, r->tokens, r->targets, r->truth);
    for (size_t t = 0; t < r->T; t++)
        if (r->targets[t] >= 0) sum -= r->truth[t], scored++;
    return sum / scored;
}

static void test_floors_sampled(void) {
    static const struct { const char *flags; size_t T; } cases[] = {
        {"--data stories", 17}, {"--data stories", 128}, {"--data stories", 700}, {"--data markov", 128},
        {"--data markov --order 2", 50}, {"--data markov --order 4 --vocab 5 --data-seed 9", 300},
        {"--data markov --vocab 500", 64},
        {"--data induction", 128}, {"--data induction --vocab 10", 300}, {"--data induction --vocab 200", 33},
    };
    enum { ROWS = 4000 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Data *d = open_flags(xprintf("%s --context %zu", cases[i].flags, cases[i].T));
        Rows r = rows_new(cases[i].T);
        double sum = 0, squares = 0;
        for (uint64_t row = 0; row < ROWS; row++) {
            get(d, SPLIT_TRAIN, row, &r);
            double loss = row_mean(d, &r);
            sum += loss, squares += loss * loss;
        }
        double mean = sum / ROWS, error = sqrt((squares / ROWS - mean * mean) / ROWS);
        CHECK(fabs(mean - d->floor) < 4 * error, "%s at T=%zu: floor %.6f, sampled %.6f +- %.6f", cases[i].flags, r.T,
              d->floor, mean, error);
        CHECK(error < 0.01 * d->floor, "%s at T=%zu: +- %.6f is too coarse to tell", cases[i].flags, r.T, error);
        rows_free(&r);
        data_close(d);
    }
}

// What a step of a story says is a distribution over words: at random places, the true probabilities sum to 1.
static void test_stories_normalised(void) {
    Data *d = open_flags("--data stories");
    Rows r = rows_new(400);
    Rng random = rng_stream(1, RNG_TEST, 0);
    for (uint64_t i = 0; i < 60; i++) {
        get(d, SPLIT_TRAIN, i, &r);
        size_t t = rng_below(&random, (uint32_t)r.T);
        int said = r.targets[t];
        double sum = 0;
        for (int v = 0; v < (int)d->vocab; v++) {
            r.targets[t] = v;
            d->truth(d, t + 1, r.tokens, r.targets, r.truth);
            sum += exp(r.truth[t]);
        }
        CHECK(fabs(sum - 1) < 1e-12, "row %d, word %zu: %.15f", (int)i, t, sum);
        r.targets[t] = said == 5 ? 6 : 5;  // "girl" and "boy" and such: hardly ever possible
        d->truth(d, r.T, r.tokens, r.targets, r.truth);
        bool impossible = r.truth[t] == -INFINITY;
        CHECK(!impossible || r.truth[r.T - 1] == -INFINITY, "row %d: something is possible after the impossible",
              (int)i);
    }
    rows_free(&r);
    data_close(d);
}

// ---- stories: an independent reader ------------------------------------------------------------
enum { WORD = 16 };
typedef struct { char (*word)[WORD]; size_t n; } Text;

static void read_words(const Data *d, const Rows *r, Text *x) {
    for (x->n = 0; x->n < r->T; x->n++) {
        const char *bytes;
        // the start token says nothing here
        size_t length = tokenizer_decode(d->tokenizer, -1, r->tokens[x->n], &bytes);
        CHECK(length < WORD, "a word of %zu letters", length);
        snprintf(x->word[x->n], WORD, "%.*s", length ? (int)length : 3, length ? bytes : "END");
    }
}
// True where the words from i on are those of the pattern; * takes any word and keeps it in got[].
static char got[8][WORD];
static bool reads(const Text *x, size_t i, const char *pattern) {
    size_t kept = 0;
    for (const char *p = pattern; *p; i++) {
        size_t n = strcspn(p, " ");
        const char *w = i < x->n ? x->word[i] : "END";
        if (strcmp(w, "END") == 0) return false;
        if (n == 1 && *p == '*') snprintf(got[kept++], sizeof got[0], "%s", w);
        else if (strlen(w) != n || memcmp(w, p, n)) return false;
        p += n + (p[n] == ' ');
    }
    return true;
}
static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

typedef struct { char name[WORD]; bool boy; } Person;
typedef struct {
    Person holder, other, owner;
    char look[WORD], thing[WORD], home[WORD], lost[WORD], elder[WORD];
    int had, gave;
    size_t people, checks[8];
} Reader;
enum { HOLDS, OWNS, LOST, HOME, COUNTS, PRONOUNS, ELDER, THING };

static void meet(Reader *m, const char *name, bool boy) {
    Person *p = m->people++ == 0 ? &m->holder : &m->other;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->boy = boy;
    if (m->people == 1) m->owner = m->holder;
}
static void pass_on(Reader *m) {
    Person p = m->holder;
    m->holder = m->other, m->other = p;
}
static const Person *person(const Reader *m, const char *name) {
    return is(name, m->holder.name) ? &m->holder : is(name, m->other.name) ? &m->other : NULL;
}
static int number(const char *w) {
    static const char *const names[] = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
    for (int i = 0; i < 10; i++)
        if (is(w, names[i])) return i;
    return -1;
}
static void expect(Reader *m, int kind, const char *found, const char *expected) {
    m->checks[kind]++;
    CHECK(is(found, expected), "kind %d: %s, but it was %s", kind, found, expected);
}
static void expect_pronoun(Reader *m, const char *name, const char *pronoun, const char *his, const char *her) {
    const Person *p = person(m, name);
    m->checks[PRONOUNS]++;
    CHECK(p, "%s is not in the story", name);
    if (p) CHECK(is(pronoun, p->boy ? his : her), "%s of %s, a %s", pronoun, name, p->boy ? "boy" : "girl");
}

static void read_beginning(Reader *m, const Text *x, size_t i) {
    if (reads(x, i, "girl named *") || reads(x, i, "girl called *")) meet(m, got[0], false);
    if (reads(x, i, "boy named *") || reads(x, i, "boy called *")) meet(m, got[0], true);
    if (reads(x, i, "friend * , a * * ,")) meet(m, got[0], is(got[2], "boy"));
    if (reads(x, i, "lived near the *") || reads(x, i, "Near the * there") || reads(x, i, "lived by the *"))
        snprintf(m->home, sizeof m->home, "%s", got[0]);
    if (reads(x, i, "* gave * a * * .") || reads(x, i, "* made * a * * .")) {
        snprintf(m->elder, sizeof m->elder, "%s", got[0]);
        snprintf(m->look, sizeof m->look, "%s", got[2]), snprintf(m->thing, sizeof m->thing, "%s", got[3]);
        expect_pronoun(m, m->owner.name, got[1], "him", "her");
    }
    if (reads(x, i, "had a * * from * * .")) {
        snprintf(m->look, sizeof m->look, "%s", got[0]), snprintf(m->thing, sizeof m->thing, "%s", got[1]);
        snprintf(m->elder, sizeof m->elder, "%s", got[3]);
        expect_pronoun(m, m->owner.name, got[2], "his", "her");
    }
    if (reads(x, i, "There * met a")) expect_pronoun(m, m->holder.name, got[0], "he", "she");
}

static void read_holding(Reader *m, const Text *x, size_t i) {
    static const char *const gives[] = {"“ Yes , but be careful", "“ Of course ,", "handed the * * to",
                                        "felt sorry and gave the",
                                        "found it first and kept it", "was faster and took the"};
    if (reads(x, i, "* has it ,") || reads(x, i, "beside the bed of *") || reads(x, i, "* ran after it and"))
        expect(m, HOLDS, got[0], m->holder.name);
    if (reads(x, i, "* put the * down")) expect(m, HOLDS, got[0], m->holder.name), expect(m, THING, got[1], m->thing);
    if (reads(x, i, "Somewhere * the * * dropped")) expect(m, HOLDS, got[2], m->holder.name);
    if (reads(x, i, "Now * had the * * .") || reads(x, i, "* took the * * home")) {
        expect(m, HOLDS, got[0], m->holder.name);
        expect(m, THING, got[1], m->look), expect(m, THING, got[2], m->thing);
    }
    if (reads(x, i, "I hold the * ?")) expect(m, THING, got[0], m->thing);
    if (reads(x, i, "“ It is mine , ” said *")) expect(m, OWNS, got[0], m->owner.name);
    if (reads(x, i, "“ My * gave me the * , ” said *"))
        expect(m, ELDER, got[0], m->elder), expect(m, OWNS, got[2], m->owner.name);
    if (reads(x, i, "* 's * was waiting at"))
        expect(m, OWNS, got[0], m->owner.name), expect(m, ELDER, got[1], m->elder);
    for (size_t k = 0; k < sizeof gives / sizeof *gives; k++)
        if (reads(x, i, gives[k])) pass_on(m);
}

static void read_places(Reader *m, const Text *x, size_t i) {
    if (reads(x, i, "down * the * and forgot") || reads(x, i, "Somewhere * the *"))
        snprintf(m->lost, sizeof m->lost, "%s", got[1]);
    if (reads(x, i, "You left it * the *") || reads(x, i, "It must be * the *")) expect(m, LOST, got[1], m->lost);
    if (reads(x, i, "went back to the *") || reads(x, i, "hurried back to the *")) expect(m, LOST, got[0], m->lost);
    if (reads(x, i, "walked back to the *") || reads(x, i, "I live near the *")) expect(m, HOME, got[0], m->home);
}

static void read_counts(Reader *m, const Text *x, size_t i) {
    bool has = reads(x, i, "had * * in") || reads(x, i, "found * * .") || reads(x, i, "had * * .");
    if (has && number(got[0]) > 0) m->had = number(got[0]);
    if (reads(x, i, "gave * * to *") && number(got[0]) > 0) {
        m->gave = number(got[0]);
        bool plural = got[1][strlen(got[1]) - 1] == 's';
        m->checks[COUNTS]++;
        CHECK(plural == (m->gave > 1), "gave %s %s", got[0], got[1]);
    }
    if (reads(x, i, "Now * had * * left") || reads(x, i, "So * had * and * had *")) {
        bool so = is(x->word[i], "So");
        int left = number(got[so ? 3 : 1]);
        m->checks[COUNTS]++;
        CHECK(left == m->had - m->gave, "%d - %d is not %d", m->had, m->gave, left);
        CHECK(!so || number(got[1]) == m->gave, "%d were given, not %s", m->gave, got[1]);
    }
}

static void read_grammar(Reader *m, const Text *x, size_t i) {
    if (reads(x, i, "* held * hand")) {
        const Person *p = person(m, got[0]);
        expect_pronoun(m, p == &m->holder ? m->other.name : m->holder.name, got[1], "his", "her");
    }
    if (reads(x, i, "* had * * in * bag")) expect_pronoun(m, got[0], got[3], "his", "her");
    if (reads(x, i, "* counted to * . Then * looked")) expect_pronoun(m, got[0], got[2], "he", "she");
    if (reads(x, i, "gave the * to *") && person(m, got[1]) == NULL && !is(got[1], "him") && !is(got[1], "her"))
        CHECK(false, "gave to %s", got[1]);
    if (reads(x, i, "” said *") && !is(got[0], "the"))
        CHECK(person(m, got[0]), "said %s, who is not in the story", got[0]);
    if (reads(x, i, "a *")) CHECK(!strchr("aeiou", got[0][0]), "a %s", got[0]);
}

static void test_stories_consistent(void) {
    Data *d = open_flags("--data stories");
    Rows r = rows_new(2000);
    Reader m = {0};
    Text x = {xmalloc(r.T * sizeof *x.word), 0};
    for (uint64_t i = 0; i < 100; i++) {
        get(d, SPLIT_TRAIN, i, &r);
        CHECK(r.tokens[0] == tokenizer_start(d->tokenizer), "row %d does not start with a story", (int)i);
        read_words(d, &r, &x);
        for (size_t t = 0; t < r.T; t++) {
            if (is(x.word[t], "END")) m.people = 0;
            read_beginning(&m, &x, t);
            read_holding(&m, &x, t);
            read_places(&m, &x, t);
            read_counts(&m, &x, t);
            read_grammar(&m, &x, t);
            CHECK(m.people <= 2, "more than two people");
        }
    }
    static const char *const names[] = {"holds", "owns", "lost", "home", "counts", "pronouns", "elder", "thing"};
    for (int i = 0; i < 8; i++) CHECK(m.checks[i] > 100, "only %zu checks of what one %s", m.checks[i], names[i]);
    rows_free(&r);
    data_close(d);
}

// ---- tasks with an answer ----------------------------------------------------------------------
static void test_recall(void) {
    static const struct { const char *flags; int pairs, keys; size_t T; } cases[] = {
        {"--data recall", 8, 64, 128}, {"--data recall --pairs 5 --keys 5", 5, 5, 19},
        {"--data recall --pairs 40 --keys 300", 40, 300, 1001},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Data *d = open_flags(xprintf("%s --context %zu", cases[c].flags, cases[c].T));
        Rows r = rows_new(cases[c].T);
        int pairs = cases[c].pairs, keys = cases[c].keys, *value = xmalloc((size_t)keys * sizeof *value);
        CHECK(d->vocab == (size_t)(2 * keys + 1) && d->floor == 0, "vocab %zu", d->vocab);
        double answers_late = 0;
        for (uint64_t row = 0; row < 200; row++) {
            get(d, SPLIT_TRAIN, row, &r);
            memset(value, 0, (size_t)keys * sizeof *value);
            for (int i = 0; i < 2 * pairs; i += 2) {
                CHECK(r.tokens[i] >= 1 && r.tokens[i] <= keys && !value[r.tokens[i] - 1], "key %d", r.tokens[i]);
                value[r.tokens[i] - 1] = r.tokens[i + 1];
                CHECK(r.tokens[i + 1] > keys, "value %d", r.tokens[i + 1]);
            }
            int answers = 0;
            for (size_t t = 0; t < r.T; t++) {
                bool asked = t >= (size_t)(2 * pairs) && r.tokens[t] >= 1 && r.tokens[t] <= keys;
                CHECK(asked == (r.targets[t] >= 0) && asked == r.is_answer[t], "scored at %zu", t);
                if (!asked) continue;
                CHECK(r.targets[t] == value[r.tokens[t] - 1], "the answer at %zu", t);
                value[r.tokens[t] - 1] = -1;  // a second question would not match
                answers++;
                answers_late += t > (r.T + 2 * (size_t)pairs) / 2;
            }
            CHECK(answers == pairs, "%d answers", answers);
        }
        // Questions stand anywhere with equal chance, so half of them in the second half: 5 sigma of a fair coin.
        double n = 200.0 * pairs, sigma = sqrt(n) / 2, edge = 2.0 * n / (double)(r.T - 2 * (size_t)pairs);
        CHECK(fabs(answers_late - n / 2) < 5 * sigma + edge, "%.0f of %.0f answers come late", answers_late, n);
        free(value);
        rows_free(&r);
        data_close(d);
    }
}

static void test_induction(void) {
    Data *d = open_flags("--data induction --vocab 40");
    Rows r = rows_new(300);
    size_t answers = 0, firsts = 0;
    for (uint64_t row = 0; row < 100; row++) {
        get(d, SPLIT_TRAIN, row, &r);
        int follower[40];
        memset(follower, -1, sizeof follower);
        for (size_t t = 0; t < r.T; t++) {
            int *f = &follower[r.tokens[t]];
            bool trigger = r.tokens[t] < 10, again = trigger && *f >= 0;
            CHECK(r.is_answer[t] == again, "answer at %zu", t);
            if (again) CHECK(r.targets[t] == *f, "the follower at %zu", t);
            if (trigger && !again) CHECK(r.targets[t] >= 10, "a trigger follows a trigger at %zu", t);
            if (trigger) *f = r.targets[t];
            answers += again, firsts += trigger && !again;
        }
    }
    CHECK(answers > 2000 && firsts > 900, "%zu answers, %zu first times", answers, firsts);
    rows_free(&r);
    data_close(d);
}

static void test_copy(void) {
    Data *d = open_flags("--data copy --copy-length 7 --vocab 12 --context 15");
    Rows r = rows_new(100);
    for (uint64_t row = 0; row < 100; row++) {
        get(d, SPLIT_TRAIN, row, &r);
        for (size_t t = 0; t < r.T; t++) {
            size_t at = t % 16;  // < 7 symbols > 7 symbols
            CHECK((r.tokens[t] == 10) == (at == 0) && (r.tokens[t] == 11) == (at == 8), "marks at %zu", t);
            bool scored = at >= 8 && at < 15;
            CHECK((r.targets[t] >= 0) == scored && r.is_answer[t] == scored, "scored at %zu", t);
            if (scored) CHECK(r.targets[t] == r.tokens[t - 7], "the copy at %zu", t);
        }
    }
    rows_free(&r);
    data_close(d);
}

static void test_facts(void) {
    enum { FACTS = 900, NAMES = 64 * 64 };
    Data *d = open_flags(xprintf("--data facts --facts %d", FACTS));
    Data *other = open_flags(xprintf("--data facts --facts %d --data-seed 2", FACTS));
    Rows r = rows_new(60);
    int *number_of = xmalloc(NAMES * sizeof(int)), digit[10] = {0};
    size_t known = 0, changed = 0;
    for (uint64_t row = 0; row < 4000; row++) {
        get(row < 3000 ? d : other, row % 3 ? SPLIT_TRAIN : SPLIT_VALIDATION, row, &r);
        for (size_t t = 0; t + 6 <= r.T; t += 6) {  // two syllables, four digits
            int name = (r.tokens[t] - 10) * 64 + r.tokens[t + 1] - 10, found = 0;
            CHECK(r.tokens[t] >= 10 && r.tokens[t + 1] >= 10 && r.targets[t] < 0, "a name at %zu", t);
            for (size_t i = t + 1; i < t + 5; i++) {
                CHECK(r.is_answer[i] && r.targets[i] >= 0 && r.targets[i] < 10, "a digit at %zu", i);
                found = 10 * found + r.targets[i];
            }
            int *slot = &number_of[name];
            if (row >= 3000) changed += *slot != found + 1;
            else if (*slot) CHECK(*slot == found + 1, "%d was %d and is %d", name, *slot - 1, found);
            else {
                *slot = found + 1, known++;
                for (int i = 0; i < 4; i++, found /= 10) digit[found % 10]++;
            }
        }
    }
    // 30000 draws out of 900: each is seen but for a chance of 900 exp(-33).
    CHECK(known == FACTS, "%zu names are in the book", known);
    CHECK(changed > 9000, "another --data-seed changed %zu of 10000 numbers", changed);
    for (int i = 0; i < 10; i++)  // 3600 digits: 360 of each, 5 sigma is 90
        CHECK(abs(digit[i] - 360) < 90, "the digit %d occurs %d times", i, digit[i]);
    Data *many = open_flags("--data facts --facts 1000000");
    int *prompt;
    CHECK(tokenizer_prompt(many->tokenizer, many->default_prompt, &prompt) == 4, "a million names take four syllables");
    rows_free(&r);
    data_close(d), data_close(other), data_close(many);
}

static void check_hops(const Data *d, Rows *r, int pairs, int hops, size_t questions) {
    int to[1002];
    memset(to, 0, sizeof to);
    for (int i = 0; i < 2 * pairs; i += 2) {
        CHECK(r->tokens[i] >= 2 && (size_t)r->tokens[i] < d->vocab && !to[r->tokens[i]], "node %d", r->tokens[i]);
        to[r->tokens[i]] = r->tokens[i + 1];
    }
    int node = r->tokens[0], length = 0;
    do node = to[node], length++; while (node != r->tokens[0] && node && length <= pairs);
    CHECK(length == pairs, "a cycle of %d, not %d", length, pairs);
    bool asked[1002] = {false};
    size_t answers = 0;
    for (size_t t = 0; t < r->T; t++) {
        bool scored = t > 0 && r->tokens[t - 1] == 1;
        CHECK((r->targets[t] >= 0) == scored && r->is_answer[t] == scored, "scored at %zu", t);
        if (!scored) continue;
        node = r->tokens[t];
        CHECK(!asked[node], "asked twice");
        asked[node] = true;
        for (int h = 0; h < hops; h++) node = to[node];
        CHECK(r->targets[t] == node, "the answer at %zu", t);
        answers++;
    }
    CHECK(answers == questions, "%zu answers, not %zu", answers, questions);
}

static void test_khop(void) {
    static const struct { int pairs, keys, hops; size_t T, questions; } cases[] = {
        {8, 64, 2, 128, 8}, {8, 64, 2, 18, 1}, {8, 8, 7, 20, 1}, {8, 64, 3, 21, 2}, {100, 1000, 16, 400, 67},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Data *d = open_flags(xprintf("--data khop --pairs %d --keys %d --hops %d --context %zu", cases[c].pairs,
                                     cases[c].keys, cases[c].hops, cases[c].T));
        Rows r = rows_new(cases[c].T);
        for (uint64_t row = 0; row < 100; row++) {
            get(d, SPLIT_TRAIN, row, &r);
            check_hops(d, &r, cases[c].pairs, cases[c].hops, cases[c].questions);
        }
        rows_free(&r);
        data_close(d);
    }
}

// ---- without binding ---------------------------------------------------------------------------
// Every choice of values and every order of questions is as likely as another. In each, before every question, what is
// left is counted by looking.
typedef struct { size_t pairs, values, used; int value[4]; double loss, right, questions; } Looking;

static void look_on(Looking *l, const bool *asked, double weight) {
    size_t left = l->pairs - l->used, most = 0;
    if (!left) return;
    for (size_t answer = 0; answer < l->pairs; answer++) {
        size_t same = 0;
        for (size_t i = 0; i < l->pairs; i++) same += !asked[i] && l->value[i] == l->value[answer];
        if (!asked[answer] && same > most) most = same;
    }
    l->right += weight * (double)most / (double)left;
    l->questions += weight;
    for (size_t answer = 0; answer < l->pairs; answer++) {
        if (asked[answer]) continue;
        size_t same = 0;
        for (size_t i = 0; i < l->pairs; i++) same += !asked[i] && l->value[i] == l->value[answer];
        l->loss += weight / (double)left * log((double)left / (double)same);
        bool next[4];
        memcpy(next, asked, sizeof next);
        next[answer] = true;
        l->used++;
        look_on(l, next, weight / (double)left);
        l->used--;
    }
}

static void test_elimination_enumerated(void) {
    static const size_t sizes[][2] = {{1, 2}, {2, 2}, {2, 5}, {3, 3}, {3, 4}, {4, 4}, {4, 6}};
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        Looking l = {.pairs = sizes[c][0], .values = sizes[c][1]};
        size_t all = 1;
        for (size_t i = 0; i < l.pairs; i++) all *= l.values;
        for (size_t which = 0; which < all; which++) {
            for (size_t i = 0, rest = which; i < l.pairs; i++, rest /= l.values) l.value[i] = (int)(rest % l.values);
            look_on(&l, (bool[4]){false}, 1);
        }
        Elimination e = elimination_recall(l.pairs, l.values, false);
        CHECK(fabs(e.loss - l.loss / l.questions) < 1e-11 && fabs(e.accuracy - l.right / l.questions) < 1e-11,
              "%zu of %zu: %.15f %.15f, by looking %.15f %.15f", l.pairs, l.values, e.loss, e.accuracy,
              l.loss / l.questions, l.right / l.questions);
    }
}

// One who plays so on the rows themselves: values are counted, answers struck out, nothing is bound. The means of what
// each answer costs, and of how likely the best guess is right.
static void eliminate(const char *data, const Rows *r, size_t pairs, bool repeats, double *loss, double *right) {
    bool hops = strstr(data, "khop") != NULL;
    int count[200] = {0};
    size_t answers = 0;
    *loss = *right = 0;
    for (size_t i = 0; i < pairs; i++) count[r->tokens[2 * i + !hops]]++;
    for (size_t t = 0; t < r->T; t++) {
        if (r->targets[t] < 0) continue;
        int self = hops ? count[r->tokens[t]] : 0, left = -self, most = 0;   // no node is its own answer
        for (int v = 0; v < 200; v++) left += count[v], most = count[v] > most ? count[v] : most;
        *loss += log((double)left / count[r->targets[t]]);
        *right += (double)most / left;
        if (!repeats) count[r->targets[t]]--;
        answers++;
    }
    *loss /= (double)answers, *right /= (double)answers;
}

static void test_elimination_played(void) {
    static const struct { const char *flags; size_t pairs; bool repeats; double loss, accuracy; } cases[] = {
        {"--data recall --pairs 8 --keys 64 --context 64", 8, false, 1.288, 0.365},
        {"--data recall --pairs 8 --keys 24 --context 32", 8, false, 1.228, 0.400},
        {"--data recall --pairs 8 --keys 24 --context 32 --repeat-questions", 8, true, 1.887, 0.227},
        {"--data khop --pairs 8 --context 64", 8, false, 1.218, 0.370},
        {"--data khop --pairs 8 --context 64 --repeat-questions", 8, true, 1.946, 0.143},
        {"--data khop --pairs 8 --context 30 --hops 3", 8, false, 1.633, 0.202},
    };
    enum { ROWS = 20000 };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Data *d = open_flags(cases[c].flags);
        bool hops = strstr(cases[c].flags, "khop") != NULL;
        size_t T = (size_t)strtoul(strstr(cases[c].flags, "--context ") + 10, NULL, 10);
        Rows r = rows_new(T);
        double loss, right, sum = 0, squares = 0, rights = 0, right_squares = 0;
        for (uint64_t row = 0; row < ROWS; row++) {
            get(d, SPLIT_TRAIN, row, &r);
            eliminate(cases[c].flags, &r, cases[c].pairs, cases[c].repeats, &loss, &right);
            sum += loss, squares += loss * loss, rights += right, right_squares += right * right;
        }
        size_t keys = strstr(cases[c].flags, "--keys 24") ? 24 : 64, room = (T + 1 - 2 * 8) / 3;
        Elimination e = hops ? elimination_khop(8, room < 8 ? room : 8, cases[c].repeats)
                             : elimination_recall(8, keys, cases[c].repeats);
        double mean = sum / ROWS, share = rights / ROWS;
        double error = sqrt(fmax(0, squares / ROWS - mean * mean) / ROWS) + 1e-7;
        double spread = sqrt(fmax(0, right_squares / ROWS - share * share) / ROWS) + 1e-7;
        CHECK(fabs(e.loss - mean) < 4 * error && fabs(e.accuracy - share) < 4 * spread,
              "%s: %.5f %.5f, played %.5f %.5f", cases[c].flags, e.loss, e.accuracy, mean, share);
        CHECK(fabs(e.loss - cases[c].loss) < 0.0006 && fabs(e.accuracy - cases[c].accuracy) < 0.0006,
              "%s: %.5f %.5f", cases[c].flags, e.loss, e.accuracy);
        CHECK(strstr(d->floor_about, xprintf("elimination %.3f and %.1f%% right", e.loss, 100 * e.accuracy)) != NULL,
              "%s: %s", cases[c].flags, d->floor_about);
        rows_free(&r);
        data_close(d);
    }
}

// Bound anew: the values are the same ones in another order, the answers are those of the plain row, and what the true
// distribution pays for them is what elimination pays. Training rows are untouched.
static void test_rebind(void) {
    Data *plain = open_flags("--data recall --context 64"), *d = open_flags("--data recall --context 64 --rebind");
    Rows a = rows_new(64), b = rows_new(64);
    double sum = 0, squares = 0, kept = 0;
    enum { ROWS = 20000 };
    for (uint64_t row = 0; row < ROWS; row++) {
        if (row < 20) {
            get(plain, SPLIT_TRAIN, row, &a), get(d, SPLIT_TRAIN, row, &b);
            CHECK(equal(&a, &b), "training row %d", (int)row);
        }
        get(plain, SPLIT_VALIDATION, row, &a), get(d, SPLIT_VALIDATION, row, &b);
        int count[129] = {0};
        for (size_t i = 0; i < 16; i++) {
            if (i % 2) count[a.tokens[i]]++, count[b.tokens[i]]--, kept += a.tokens[i] == b.tokens[i];
            else CHECK(a.tokens[i] == b.tokens[i], "a key of row %d", (int)row);
        }
        for (size_t v = 0; v < 129; v++) CHECK(count[v] == 0, "the values of row %d", (int)row);
        CHECK(memcmp(a.targets, b.targets, 64 * sizeof *a.targets) == 0, "the answers of row %d", (int)row);
        double loss = row_mean(d, &b);
        sum += loss, squares += loss * loss;
    }
    double mean = sum / ROWS, error = sqrt((squares / ROWS - mean * mean) / ROWS);
    CHECK(fabs(mean - d->floor) < 4 * error && fabs(d->floor - 1.29) < 0.005, "floor %.5f, paid %.5f", d->floor, mean);
    double expected = 1.0 / 8 + 7.0 / 8 / 64, share = kept / (8.0 * ROWS);   // in its place, or an equal one
    CHECK(fabs(share - expected) < 0.005, "%.4f of the pairs are bound as before, not %.4f", share, expected);
    rows_free(&a), rows_free(&b);
    data_close(plain), data_close(d);
}

// ---- files -------------------------------------------------------------------------------------
// A text in which every place can be told from its neighbourhood: "<0><1><2>...".
static size_t write_numbers(const char *path, int count) {
    char *text = xmalloc((size_t)count * 8 + 1);
    size_t n = 0;
    for (int i = 0; i < count; i++) n += (size_t)snprintf(text + n, 14, "<%d>", i);
    write_whole_file(path, text, n);
    free(text);
    return n;
}

static size_t find_row(const char *text, size_t size, const Rows *r) {
    for (size_t at = 0; at + r->T < size; at++) {
        const unsigned char *here = (const unsigned char *)text + at;
        size_t t = 0;
        while (t < r->T && here[t] == r->tokens[t] && here[t + 1] == r->targets[t]) t++;
        if (t == r->T) return at;
    }
    return SIZE_MAX;
}

static void test_text(void) {
    const char *path = test_path("numbers.txt");
    size_t size = write_numbers(path, 3000), train = (size_t)((1 - 0.1) * (double)size);
    char *text = read_whole_file(path, &size);
    Data *d = open_flags(xprintf("--data %s --tokenizer byte --context 32 --eval-tokens 330", path));
    CHECK(d->vocab == 256 && isnan(d->floor) && d->truth == NULL && !d->has_accuracy, "vocab %zu", d->vocab);
    CHECK(d->validation_rows == 11, "%zu rows", d->validation_rows);
    Rows r = rows_new(32);
    size_t in_last_tenth = 0, previous = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        get(d, SPLIT_TRAIN, i, &r);
        size_t at = find_row(text, size, &r);
        CHECK(at != SIZE_MAX && at + 32 < train, "training row %d at %zu", (int)i, at);
        in_last_tenth += at > train * 9 / 10;
    }
    // A tenth of 1000 rows, give or take 5 sigma.
    CHECK(in_last_tenth > 50 && in_last_tenth < 150, "%zu of 1000 rows in the last tenth", in_last_tenth);
    for (uint64_t i = 0; i < 11; i++) {
        get(d, SPLIT_VALIDATION, i, &r);
        size_t at = find_row(text, size, &r), expected = train + (size_t)i * (size - train - 33) / 10;
        CHECK(at == expected, "validation row %d at %zu, not %zu", (int)i, at, expected);
        CHECK(i == 0 || at >= previous + 32, "validation rows overlap");
        previous = at;
    }
    CHECK(previous + 33 == size, "the last validation row ends with the text");
    rows_free(&r);
    data_close(d);
    free(text);
}

static void test_text_tokenizers(void) {
    const char *path = test_path("text.txt"), *latin = test_path("latin.txt");
    write_numbers(path, 2000);
    write_whole_file(latin, "caf\xe9 caf\xe9 caf\xe9 caf\xe9 caf\xe9", 24);
    static const struct { const char *flags, *kind; size_t vocab; } cases[] = {
        {"auto", "char", 12}, {"char", "char", 12}, {"byte", "byte", 256}, {"bpe:300", "bpe", 300},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Data *d = open_flags(xprintf("--data %s --tokenizer %s --vocab %zu", path, cases[i].flags, cases[i].vocab));
        const char *kind = tokenizer_kind(d->tokenizer);
        CHECK(d->vocab == cases[i].vocab && is(kind, cases[i].kind), "%s: %s, %zu", cases[i].flags, kind, d->vocab);
        data_close(d);
    }
    Data *d = open_flags(xprintf("--data %s --context 2 --val-fraction 0.3", latin));
    CHECK(is(tokenizer_kind(d->tokenizer), "byte"), "not UTF-8, so bytes, not %s", tokenizer_kind(d->tokenizer));
    data_close(d);
    // The cut between the splits never falls inside a character.
    write_whole_file(path, "ééééééééééé", strlen("ééééééééééé"));
    for (double f = 0.2; f < 0.8; f += 0.03) {
        d = open_flags(xprintf("--data %s --context 1 --val-fraction %.2f", path, f));
        CHECK(d->vocab == 1, "%zu characters", d->vocab);
        data_close(d);
    }
}

static uint16_t square(size_t i) { return (uint16_t)(i * i % 500); }

// A shard of `count` tokens square(i), in the given format: 0 nanoGPT, else the magic of llm.c. (Tests run on
// little-endian machines.)
static void write_shard(const char *path, uint32_t magic, size_t count, size_t announced) {
    size_t width = magic == 20240801 ? 4 : 2, header = magic ? 1024 : 0;
    unsigned char *out = xmalloc(header + count * width);
    uint32_t field[] = {magic, magic == 20240801 ? 7 : 1, (uint32_t)announced};
    if (magic) memcpy(out, field, sizeof field);
    for (size_t i = 0; i < count; i++) memcpy(out + header + i * width, &(uint16_t){square(i)}, 2);
    write_whole_file(path, out, header + count * width);
    free(out);
}

static void check_shard_rows(const Data *d, size_t first, size_t last) {
    Rows r = rows_new(16);
    for (uint64_t i = 0; i < 50; i++) {
        get(d, SPLIT_TRAIN, i, &r);
        bool found = false;
        for (size_t at = first; at + 16 < last && !found; at++) {
            found = true;
            for (size_t t = 0; t < 16 && found; t++)
                found = r.tokens[t] == square(at + t) && r.targets[t] == square(at + t + 1);
        }
        CHECK(found, "row %d of %s", (int)i, d->name);
    }
    rows_free(&r);
}

static void test_shards(void) {
    static const uint32_t magic[] = {0, 20240520, 20240801};
    for (int i = 0; i < 3; i++) {
        const char *path = test_path("tokens.bin");
        write_shard(path, magic[i], 1000, 1000);
        Data *d = open_flags(xprintf("--data %s --context 16", path));
        CHECK(d->vocab == 497, "%zu, but 496 is the largest square modulo 500", d->vocab);
        CHECK(is(tokenizer_kind(d->tokenizer), "numbers"), "%s", tokenizer_kind(d->tokenizer));
        check_shard_rows(d, 0, 900);
        data_close(d);
        d = open_flags(xprintf("--data %s --context 16 --vocab 50304", path));
        CHECK(d->vocab == 50304, "a larger --vocab is padding");
        data_close(d);
    }
    // val beside train: all of train is for training, and validation comes from the other file.
    write_shard(test_path("x_train.bin"), 20240520, 400, 400);
    write_shard(test_path("x_val.bin"), 20240520, 17, 17);
    Data *d = open_flags(xprintf("--data %s --context 16", test_path("x_train.bin")));
    Rows r = rows_new(16);
    get(d, SPLIT_VALIDATION, 3, &r);
    for (size_t t = 0; t < 16; t++) CHECK(r.tokens[t] == square(t), "the only window of 17 tokens");
    check_shard_rows(d, 0, 400);
    data_close(d);
    // A tokenizer beside the shard speaks for it.
    Tokenizer *t = tokenizer_numbers(512);
    tokenizer_set_start(t, 511);
    tokenizer_save(t, test_path("tokenizer.json"));
    d = open_flags(xprintf("--data %s --context 16", test_path("x_train.bin")));
    CHECK(d->vocab == 512 && tokenizer_start(d->tokenizer) == 511, "vocab %zu", d->vocab);
    rows_free(&r);
    data_close(d);
}

// ---- get.sh ------------------------------------------------------------------------------------
// What can be tried without a network: the tests run where data/ is.
static void test_get(void) {
    write_whole_file(test_path("shakespeare.txt"), "To be, or not", 13);
    static const struct { const char *arguments; int status; } cases[] = {{"", 2}, {"hamlet", 2}, {"shakespeare", 1}};
    for (size_t i = 0; i < 3; i++) {
        const char *to = i ? test_directory() : "";
        int status = system(xprintf("sh data/get.sh %s %s >/dev/null 2>&1", cases[i].arguments, to));
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == cases[i].status, "get.sh %s: %d", cases[i].arguments, status);
    }
    size_t bytes;
    char *text = read_whole_file(test_path("shakespeare.txt"), &bytes);
    CHECK(bytes == 13 && memcmp(text, "To be, or not", 13) == 0, "a file that does not match was touched");
    free(text);
}

// ---- refusals ----------------------------------------------------------------------------------
static void open_these(void *flags) { open_flags(flags); }

static void test_refused_flags(void) {
    static const struct { const char *flags, *message; } usage[] = {
        {"--data markov --vocab 1", "takes 2 to"}, {"--data markov --vocab 64 --order 8", "64^9 probabilities"},
        {"--data stories --vocab 77", "leave --vocab out"}, {"--data recall --context 30", "need --context 31 or more"},
        {"--data recall --pairs 65", "choose --keys 65 or more"}, {"--data recall --vocab 100", "which has 129 tokens"},
        {"--data copy --context 32", "need --context 33 or more"}, {"--data copy --vocab 3", "takes 4 to"},
        {"--data facts --context 4", "need --context 5 or more"}, {"--data facts --vocab 9", "which has 74 tokens"},
        {"--data khop --context 17", "need --context 18 or more"}, {"--data khop --hops 8", "choose --pairs 9 or more"},
        {"--data khop --pairs 90", "choose --keys 90 or more"}, {"--data induction --vocab 3", "takes 4 to"},
        {"--data iid --vocab 1", "takes 2 to"},
    };
    for (size_t i = 0; i < sizeof usage / sizeof *usage; i++)
        CHECK(test_fails(2, usage[i].message, open_these, (void *)usage[i].flags), "%s: %s", usage[i].flags,
              test_message);
    static const char *const fitting[] = {"--data recall --context 31", "--data copy --context 33",
                                          "--data facts --context 5",   "--data khop --context 18",
                                          "--data markov --context 1",  "--data stories --context 1"};
    for (size_t i = 0; i < sizeof fitting / sizeof *fitting; i++) {
        Data *d = open_flags(fitting[i]), *again = open_flags(xprintf("%s --vocab %zu", fitting[i], d->vocab));
        CHECK(again->vocab == d->vocab && again->hash == d->hash, "%s: opened again with its own --vocab", fitting[i]);
        data_close(d), data_close(again);
    }
    Data *d = open_flags("--data stories --vocab 1024");
    CHECK(d->vocab == 1024 && tokenizer_vocab(d->tokenizer) < 1024, "a larger --vocab is padding");
    data_close(d);
}

static void check_refused_file(const char *name, const void *content, size_t bytes, const char *flags, int status,
                               const char *message) {
    const char *path = test_path(name);
    write_whole_file(path, content, bytes);
    char *all = xprintf("--data %s --context 8 %s", path, flags);
    CHECK(test_fails(status, message, open_these, all), "%s: %s", all, test_message);
    CHECK(strstr(flags, "--tokenizer") || strstr(test_message, name), "the file is not named: %s", test_message);
}

static void test_refused_files(void) {
    CHECK(test_fails(1, "neither a file nor one of the sources stories", open_these, "--data storys"), "%s",
          test_message);
    CHECK(strstr(test_message, "the nearest is stories"), "%s", test_message);
    CHECK(test_fails(1, "induction|copy|facts|khop", open_these, "--data corpus.txt"), "%s", test_message);
    CHECK(!strstr(test_message, "nearest"), "the name of a file is no slip: %s", test_message);
    CHECK(test_fails(1, "is a directory without .txt", open_these, xprintf("--data %s", test_directory())), "%s",
          test_message);
    if (geteuid() != 0) {  // root may read anything
        write_whole_file(test_path("secret.txt"), "secret", 6);
        unlink(test_path("link.txt"));
        CHECK(symlink("/proc/1/mem", test_path("link.txt")) == 0, "a link to what only root may read");
        CHECK(test_fails(1, "cannot read", open_these, xprintf("--data %s", test_path("link.txt"))), "%s",
              test_message);
    }
    static const unsigned char few[40] = {1, 0, 2, 0, 100, 0, 50, 0, 7};
    static const char short_text[] = "0123456789012345678901234567890123456789";
    check_refused_file("empty.txt", "", 0, "", 1, "is empty");
    check_refused_file("short.txt", short_text, 40, "", 1, "split has 4 tokens, but --context 8 needs 9 or more");
    check_refused_file("short.txt", short_text, 40, "--val-fraction 0.9", 1, "its training split has 3 tokens");
    check_refused_file("latin.txt", "caf\xe9 au lait, caf\xe9 noir", 22, "--tokenizer char", 1, "byte 3 (0xe9)");
    check_refused_file("t.txt", short_text, 40, "--tokenizer words", 2, "auto, byte, char or bpe:N was expected");
    check_refused_file("t.txt", short_text, 40, "--tokenizer bpe:", 2, "auto, byte, char or bpe:N was expected");
    check_refused_file("t.txt", short_text, 40, "--tokenizer bpe:300x", 2, "auto, byte, char or bpe:N was expected");
    check_refused_file("t.txt", short_text, 40, "--tokenizer bpe:255", 2, "from 256 (the bytes)");
    check_refused_file("t.txt", short_text, 40, "--tokenizer bpe:9000", 1, "repeated pairs for");
    check_refused_file("t.txt", short_text, 40, "--vocab 9", 2, "which has 10 tokens");
    check_refused_file("empty.bin", "", 0, "", 1, "is empty");
    check_refused_file("odd.bin", short_text, 39, "", 1, "an even number of bytes, but the file has 39");
    check_refused_file("few.bin", few, 40, "", 1, "its validation split has 2 tokens");
    check_refused_file("small.bin", few, 40, "--vocab 10 --val-fraction 0.5", 2, "which has 101 tokens");
}

static void test_refused_shards(void) {
    const char *path = test_path("shard.bin");
    char *flags = xprintf("--data %s --context 8", path);
    write_shard(path, 20240520, 100, 101);
    CHECK(test_fails(1, "announces 101 tokens of 2 bytes, but 200 bytes follow", open_these, flags), "%s",
          test_message);
    write_shard(path, 20240801, 100, 99);
    CHECK(test_fails(1, "announces 99 tokens of 4 bytes, but 400 bytes follow", open_these, flags), "%s", test_message);
    write_shard(path, 20240520, 100, 100);
    size_t size;
    char *shard = read_whole_file(path, &size);
    for (size_t n = 0; n < size; n += n < 4 || n > size - 4 ? 1 : 97) {  // a shard cut anywhere
        write_whole_file(path, shard, n);
        CHECK(test_fails(1, "shard.bin", open_these, flags), "cut at %zu: %s", n, test_message);
    }
    shard[4] = 2;
    write_whole_file(path, shard, size);
    CHECK(test_fails(1, "version 1 was expected after the magic 20240520, found 2", open_these, flags), "%s",
          test_message);
    write_shard(path, 20240801, 100, 100);
    shard = read_whole_file(path, &size);
    shard[1024 + 4 * 50 + 3] = (char)0x80;
    write_whole_file(path, shard, size);
    CHECK(test_fails(1, "tokens below 10000000 were expected", open_these, flags), "%s", test_message);
    write_shard(path, 20240520, 100, 100);
    char *text_flag = xprintf("%s --tokenizer byte", flags);
    CHECK(test_fails(2, "holds tokens already", open_these, text_flag), "%s", test_message);
    write_shard(test_path("x_train.bin"), 20240520, 100, 100);
    write_shard(test_path("x_val.bin"), 20240520, 100, 100);
    text_flag = xprintf("--data %s --context 8 --val-fraction 0.2", test_path("x_train.bin"));
    CHECK(test_fails(2, "x_val.bin beside it is the validation split", open_these, text_flag), "%s", test_message);
    Tokenizer *t = tokenizer_numbers(77);
    tokenizer_save(t, test_path("tokenizer.json"));
    CHECK(test_fails(1, "the tokenizer beside it has 77 tokens", open_these, flags), "%s", test_message);
}

static const Test tests[] = {
    {"data/rows", "a row is a pure function of seed, split and number", test_rows},
    {"data/prefix", "a longer row begins as the shorter one", test_prefix},
    {"data/speed", "a batch costs far less than a training step", test_speed},
    {"data/floors-enumerated", "floors and samples agree with all possible sequences", test_floors_enumerated},
    {"data/floors-long", "a floor takes no longer for a row of a hundred million words", test_floors_long},
    {"data/floors-sampled", "floors agree with long samples", test_floors_sampled},
    {"data/stories-normalised", "the true probabilities of the next word sum to 1", test_stories_normalised},
    {"data/stories-consistent", "stories remember who, what, where and how many", test_stories_consistent},
    {"data/recall", "the answers are the values of the keys", test_recall},
    {"data/induction", "a trigger keeps its follower through the row", test_induction},
    {"data/copy", "the second half is the first", test_copy},
    {"data/facts", "a name has one number, in every row", test_facts},
    {"data/khop", "the answer lies so many steps on", test_khop},
    {"data/elimination/enumerated", "recall without binding: the mean over all rows", test_elimination_enumerated},
    {"data/elimination/played", "recall and khop without binding: played on their own rows", test_elimination_played},
    {"data/rebind", "validation rows of recall with other pairs and the same answers", test_rebind},
    {"data/text", "training windows are anywhere, validation windows evenly spaced", test_text},
    {"data/text-tokenizers", "a text gets the tokenizer that was asked for", test_text_tokenizers},
    {"data/shards", "llm.c and nanoGPT shards are read", test_shards},
    {"data/get", "a download that is not the expected text is refused", test_get},
    {"data/refused-flags", "what a source cannot have is refused with the number that would do", test_refused_flags},
    {"data/refused-files", "bad files are refused by name", test_refused_files},
    {"data/refused-shards", "damaged shards are refused by name", test_refused_shards},
};
REGISTER_TESTS(tests)

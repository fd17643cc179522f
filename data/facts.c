// facts.c: a telephone book to memorise. Nothing can be inferred, so what a model answers right is what
// its parameters store.
//
//     ba ko mi 4 7 1 1  ze ni do 0 3 5 2 ...
//
// --facts names, each of two or more syllables out of 64, each with a number of four digits, drawn
// from --data-seed and the same in every row and split. A row is facts drawn at random, with
// repetition, until it is full. Only the digits are scored. A model that knows the book has a loss of 0,
// the floor; one that knows nothing has log 10 per digit. So (log 10 - loss) x 4 x facts, in nats, is
// what it stores of the book's facts x log 10000.
// Names fill at most a quarter of the possible ones, so a name cannot be guessed from its syllables.
// Tokens: 0 to 9 the digits, 10 to 73 the syllables.
#include "data/source.h"

enum { DIGITS = 4, NUMBERS = 10000, SYLLABLES = 64, SYLLABLE_BITS = 6 };
typedef struct { RowSeeds seeds; uint64_t world; size_t facts, syllables; } Facts;

// The number of a fact, and its name as a number of `syllables` digits to the base 64. Multiplying by
// an odd number, adding, and folding the upper half into the lower can each be undone, so that no
// two facts share a name.
static uint64_t fact_name(const Facts *s, uint64_t fact) {
    unsigned bits = SYLLABLE_BITS * (unsigned)s->syllables;
    uint64_t mask = ((uint64_t)1 << bits) - 1, name = fact;
    for (uint64_t round = 0; round < 4; round++) {
        uint32_t random[4];
        philox(random, s->world, RNG_WORLD, UINT64_MAX - round);
        name = (name * (((uint64_t)random[0] << 32 | random[1]) | 1) + random[2]) & mask;
        name ^= name >> bits / 2;
    }
    return name;
}

static unsigned fact_number(const Facts *s, uint64_t fact) {
    uint32_t random[4];
    philox(random, s->world, RNG_WORLD, fact);
    return (unsigned)((uint64_t)random[0] * NUMBERS >> 32);
}

static void facts_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Facts *s = d->state;
    Rng r = row_rng(s->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    while (!row_full(&out)) {
        uint64_t fact = rng_below(&r, (uint32_t)s->facts), name = fact_name(s, fact);
        unsigned number = fact_number(s, fact);
        for (size_t i = 0; i < s->syllables; i++, name /= SYLLABLES) row_put(&out, (int)(10 + name % SYLLABLES), PLAIN);
        for (unsigned unit = NUMBERS / 10; unit; unit /= 10) row_put(&out, (int)(number / unit % 10), ANSWER);
    }
}

static Tokenizer *facts_tokenizer(void) {
    static char text[10 + SYLLABLES][3];
    const char *words[10 + SYLLABLES];
    for (int i = 0; i < 10 + SYLLABLES; i++) {
        int syllable = i - 10;
        if (i < 10) snprintf(text[i], sizeof text[i], "%c", '0' + i);
        else snprintf(text[i], sizeof text[i], "%c%c", "bdfghjklmnprstvz"[syllable / 4], "aeio"[syllable % 4]);
        words[i] = text[i];
    }
    return tokenizer_words(words, 10 + SYLLABLES);
}

static void facts_close(Data *d) { free(d->state); }

void facts_open(Data *d, const Config *config) {
    Facts *s = d->state = xmalloc(sizeof *s);
    *s = (Facts){row_seeds(config), config->data_seed, config->facts, 2};
    d->row = facts_row, d->truth = truth_certain, d->close = facts_close;
    for (uint64_t names = SYLLABLES * SYLLABLES; names < 4 * (uint64_t)s->facts; names *= SYLLABLES) s->syllables++;
    set_vocab(d, config, 10 + SYLLABLES);
    context_at_least(config, s->syllables + DIGITS - 1, "the syllables and digits of a fact");
    d->tokenizer = facts_tokenizer();
    d->has_accuracy = true;
    d->floor = 0;
    double nats = (double)s->facts * num_log(NUMBERS);
    d->floor_about = xprintf("exact: 0, a number follows from its name; the book holds %.0f nats, %.0f bits", nats,
                             nats / num_log(2));
    uint64_t about[] = {s->facts};
    d->hash = hash_bytes(hash_text(d->hash, "facts"), about, sizeof about);
}

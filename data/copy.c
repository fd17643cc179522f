// copy.c: repeat what was said.
//
//     < a b c d > a b c d < e f g h > e f g h ...
//
// A document is a sequence of --copy-length uniform symbols between two marks, then the same again. A row
// is documents until it is full. Only the repetition is scored and it stands in the row, so the floor
// is 0. Tokens: of --vocab V the last two are the marks, the others symbols.
#include "data/source.h"

typedef struct { RowSeeds seeds; size_t symbols, length; } Copy;

static void copy_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Copy *s = d->state;
    Rng r = row_rng(s->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    int *said = xmalloc(size_mul(s->length, sizeof *said)), begin = (int)s->symbols, again = begin + 1;
    while (!row_full(&out)) {
        row_put(&out, begin, PLAIN);
        for (size_t i = 0; i < s->length; i++) row_put(&out, said[i] = (int)rng_below(&r, (uint32_t)s->symbols), PLAIN);
        row_put(&out, again, PLAIN);
        for (size_t i = 0; i < s->length; i++) row_put(&out, said[i], ANSWER);
    }
    free(said);
}

static void copy_close(Data *d) { free(d->state); }

void copy_open(Data *d, const Config *config) {
    Copy *s = d->state = xmalloc(sizeof *s);
    d->row = copy_row, d->truth = truth_certain, d->close = copy_close;
    d->vocab = vocab_or(config, 64, 4, 10000000);
    *s = (Copy){row_seeds(config), d->vocab - 2, config->copy_length};
    context_at_least(config, 2 * s->length + 1, "the marks, the symbols and their repetition");
    d->has_accuracy = true;
    d->floor = 0;
    d->floor_about = xprintf("exact: 0, only the repetition is scored (guessing: log %zu = %.3f)", s->symbols,
                             num_log((double)s->symbols));
    uint64_t about[] = {s->length};
    d->hash = hash_bytes(hash_text(d->hash, "copy"), about, sizeof about);
}

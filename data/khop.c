// khop.c: follow pointers. Composition, not memory: each step needs the result of the one before.
//
//     a b  d a  b c  c d   ? a c   ? d b  ...        (two hops on the cycle a b c d)
//
// A row is one document: --pairs nodes of --keys, on a random cycle, each once with its successor, in
// random order; then, for as many nodes as fit and at most once each, in random order: the mark, a node,
// and the node that lies --hops steps on. Only those answers are scored and they follow from the row,
// so the floor is 0. What is left of the row is blank. With --repeat-questions each question is drawn anew, and answers
// use nothing up (elimination.c).
// Tokens: 0 the blank, 1 the mark, 2 .. K+1 the nodes.
#include "data/elimination.h"
#include "data/source.h"

typedef struct { RowSeeds seeds; size_t nodes, names, hops; bool repeats; } Hop;
enum { EMPTY, MARK, NODES };

static void khop_row(const Data *d, Split split, uint64_t row, size_t T, int *tokens, int *targets, bool *is_answer) {
    const Hop *s = d->state;
    Rng r = row_rng(s->seeds, split, row);
    Row out = {tokens, targets, is_answer, T, 0};
    size_t n = s->nodes;
    // node[i] points to node[i+1]: in random order, so a random cycle
    int *node = xmalloc(2 * n * sizeof *node), *order = node + n;
    draw_distinct(&r, node, n, s->names);
    for (size_t i = 0; i < n; i++) order[i] = (int)i;
    shuffle(&r, order, n);
    for (size_t i = 0; i < n; i++) {
        row_put(&out, NODES + node[order[i]], PLAIN);
        row_put(&out, NODES + node[((size_t)order[i] + 1) % n], PLAIN);
    }
    for (size_t i = 0; s->repeats && i < n; i++) order[i] = (int)rng_below(&r, (uint32_t)n);
    if (!s->repeats) shuffle(&r, order, n);
    for (size_t i = 0; i < n && out.at + 3 <= T + 1; i++) {
        row_put(&out, MARK, PLAIN);
        row_put(&out, NODES + node[order[i]], PLAIN);
        row_put(&out, NODES + node[((size_t)order[i] + s->hops) % n], ANSWER);
    }
    while (!row_full(&out)) row_put(&out, EMPTY, PLAIN);
    free(node);
}

static void khop_close(Data *d) { free(d->state); }

void khop_open(Data *d, const Config *config) {
    Hop *s = d->state = xmalloc(sizeof *s);
    *s = (Hop){row_seeds(config), config->pairs, config->keys, config->hops, config->repeat_questions};
    d->row = khop_row, d->truth = truth_certain, d->close = khop_close;
    if (s->nodes > s->names)
        usage_error("--pairs %zu needs as many distinct nodes, but --keys is %zu; choose --keys %zu or more",
                    s->nodes, s->names, s->nodes);
    if (s->hops >= s->nodes)
        usage_error("--hops %zu goes once round the cycle of --pairs %zu; choose --pairs %zu or more",
                    s->hops, s->nodes, s->hops + 1);
    set_vocab(d, config, NODES + s->names);
    context_at_least(config, 2 * s->nodes + 2, "the pointers and one question");
    d->has_accuracy = true;
    d->floor = 0;
    size_t room = (config->context + 1 - 2 * s->nodes) / 3, questions = room < s->nodes ? room : s->nodes;
    char *without = elimination_about(elimination_khop(s->nodes, questions, s->repeats), s->nodes - 1);
    d->floor_about = xprintf("exact: 0, only answers are scored and each follows from the row%s", without);
    free(without);
    uint64_t about[] = {s->nodes, s->names, s->hops};
    d->hash = hash_bytes(hash_text(d->hash, "khop"), about, sizeof about);
    if (s->repeats) d->hash = hash_text(d->hash, "repeat-questions");
}

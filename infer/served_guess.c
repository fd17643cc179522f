// served_guess.c: a smaller model that guesses for all texts of a step (served.h). First it reads what the model will
// read, then it goes ahead token by token, all texts together, each as far as the scheduler has left places.
#include "infer/served.h"
#include <stdlib.h>
#include <string.h>

void served_guess(Served *s, Model *draft, bool ratio, size_t known, size_t running, size_t places) {
    Guesser *g = s->guesser = xmalloc(sizeof *g);
    *g = (Guesser){.model = draft, .blocks = blocks_new(draft, s->blocks->count, s->blocks->size), .ratio = ratio,
                   .known = known, .row = xmalloc(size_mul(running, sizeof *g->row)),
                   .who = xmalloc(size_mul(running, sizeof *g->who)),
                   .logits = xmalloc(size_mul(size_mul(running, model_config(draft)->vocab), sizeof(real)))};
    if (places) g->swap = xmalloc(size_mul(places, blocks_bytes(draft, g->blocks)));
}

void guesser_free(Guesser *g) {
    if (!g) return;
    blocks_free(g->blocks);
    free(g->swap), free(g->row), free(g->who), free(g->logits), free(g->guess), free(g->weights), free(g);
}

static size_t known_tokens(const StepRow *r) { return r->n - r->request->drafted; }      // the others are to be guessed

// The rows of a round: of the first one what the texts have got, then the last guess of each. Also the last guess is
// read, which the model may accept: then its keys are there.
static size_t make_rows(Guesser *g, const StepRow *row, size_t rows, size_t round) {
    size_t count = 0;
    for (size_t i = 0; i < rows; i++) {
        StepRow r = draft_row(&row[i], round, g->ratio, g->known);
        if (!r.n) continue;
        g->row[count] = (Row){r.tokens, r.n, r.past, r.block, r.logits_from, 0};
        g->who[count++] = i;
    }
    return count;
}

static void keep_guess(const Served *s, const StepRow *r, size_t index, size_t round, real *logits) {
    Guesser *g = s->guesser;
    Request *q = r->request;
    size_t V = model_config(g->model)->vocab, at = s->first[index] + r->draw_from - r->logits_from + round;
    size_t position = r->past + known_tokens(r) + round;
    Drawing d = served_drawing(s, q);
    int guess = draft_draw(logits, s->spoken, &d.options, g->ratio, d.first + position);
    if (guess < 0 && s->wrong)
        s->wrong[index] = "the logits of --draft are not numbers; its weights are damaged, or its training diverged";
    g->guess[at] = s->wrong && guess < 0 ? 0 : draw_sure(guess);
    if (g->ratio) memcpy(g->weights + at * V, logits, V * sizeof *logits);
    if (round < q->drafted) q->token[position] = g->guess[at];
}

void guesser_step(Served *s, const StepRow *row, size_t rows, size_t wanted) {
    Guesser *g = s->guesser;
    size_t V = model_config(g->model)->vocab, count;
    if (wanted > g->room) {
        g->room = 2 * wanted;
        g->guess = xrealloc(g->guess, size_mul(g->room, sizeof *g->guess));
        if (g->ratio) g->weights = xrealloc(g->weights, size_mul(g->room, V * sizeof *g->weights));
    }
    for (size_t i = 0; i < wanted; i++) g->guess[i] = -1;
    for (size_t round = 0; (count = make_rows(g, row, rows, round)); round++) {
        real *logits = g->logits;
        model_step(g->model, g->blocks, g->row, count, logits);
        for (size_t i = 0; i < count; i++) {
            if (g->row[i].logits_from == g->row[i].n) continue;
            keep_guess(s, &row[g->who[i]], g->who[i], round, logits);
            logits += V;
        }
    }
}

int guesser_token(const Served *s, real *logits, size_t at, const Drawing *d, size_t position) {
    const Guesser *g = s->guesser;
    uint64_t draw = d->first + position;
    if (!g->ratio || g->guess[at] < 0) return sample_token(logits, s->spoken, &d->options, draw);
    return speculate_token(logits, s->spoken, &d->options, draw, g->guess[at],
                           g->weights + at * model_config(g->model)->vocab);
}

// served.c: see served.h.
#include "infer/served.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

bool served_has_state(const Model *m) {
    Blocks *s = blocks_new(m, 1, 1);
    bool found = s->state_at[s->layers] > 0;
    blocks_free(s);
    return found;
}

Served *served_new_kept(Model *m, size_t blocks, size_t block_size, size_t running, size_t places, SampleOptions o,
                        size_t spoken, const KeepOptions *keep) {
    size_t V = model_config(m)->vocab;
    Served *s = xmalloc(sizeof *s);
    *s = (Served){.model = m, .blocks = blocks_new_kept(m, blocks, block_size, keep), .options = o,
                  .spoken = spoken < V ? spoken : V, .row = xmalloc(size_mul(running, sizeof *s->row)),
                  .first = xmalloc(size_mul(running, sizeof *s->first))};
    s->places = places;
    served_drawers(s, 1);
    if (places) s->swap = xmalloc(size_mul(places, blocks_bytes(m, s->blocks)));
    return s;
}

Served *served_new(Model *m, size_t blocks, size_t block_size, size_t running, size_t places, SampleOptions o,
                   size_t spoken) {
    KeepOptions all = keep_everything();
    return served_new_kept(m, blocks, block_size, running, places, o, spoken, &all);
}

void served_free(Served *s) {
    guesser_free(s->guesser), tier_close(s->tier);
    free(s->swap), free(s->row), free(s->logits), free(s->draw), free(s->first);
    free(s->wrong), free(s->blocks->unheld), blocks_free(s->blocks), free(s);
}

void served_survive(Served *s, size_t running) {
    s->wrong = xmalloc(size_mul(running, sizeof *s->wrong));
    s->blocks->unheld = xmalloc(size_mul(running, sizeof *s->blocks->unheld));
}

// A draw from few tokens takes no longer than threads need to come together.
enum { FEW_TO_DRAW_FROM = 2048 };
size_t served_drawers(Served *s, size_t threads) {
    size_t V = model_config(s->model)->vocab;
    if (threads > s->drawers)
        s->draw = xrealloc(s->draw, size_mul(size_mul(threads, V), sizeof *s->draw)), s->drawers = threads;
    return V < FEW_TO_DRAW_FROM ? 1 : threads;
}

// Where a recurrent state is not there any more, as after the prompt of a leader that has gone on or before a draft
// that was rejected, the row begins at the last one that is, and computes its tokens again: the same bits.
static void step(void *self, const StepRow *row, size_t rows) {
    Served *s = self;
    size_t wanted = 0;
    for (size_t i = 0; i < rows; i++) s->first[i] = wanted, wanted += row[i].n - row[i].logits_from;
    for (size_t i = 0; s->wrong && i < rows; i++) s->wrong[i] = NULL, s->blocks->unheld[i] = false;
    if (s->guesser) guesser_step(s, row, rows, wanted);
    for (size_t i = 0; i < rows; i++) {
        const StepRow *r = &row[i];
        size_t from = blocks_resume(s->blocks, r->block, r->past), again = r->past - from;
        s->row[i] = (Row){r->tokens - again, r->n + again, from, r->block, r->logits_from + again,
                          r->request ? r->request->prompt : 0};
        s->again += again;
    }
    if (wanted > s->wanted) {
        s->wanted = 2 * wanted;
        s->logits = xrealloc(s->logits, size_mul(s->wanted, model_config(s->model)->vocab * sizeof *s->logits));
    }
    model_step(s->model, s->blocks, s->row, rows, s->logits);
    for (size_t i = 0; s->wrong && i < rows; i++)
        if (s->blocks->unheld[i])
            s->wrong[i] = "the keys or values of this text are not numbers, or too large for --kv-quant or --kv-bits";
}

size_t served_slots(const void *keep, size_t prompt, size_t from, size_t to) {
    return keep_most(keep, prompt, from, to);
}

void served_keep_snapshots(Served *s) { s->blocks->snapshots = true; }

static char *place_of(const Model *m, const Blocks *b, char *swap, uint32_t place) {
    return swap + place * blocks_bytes(m, b);
}
static void copy(void *self, uint32_t from, uint32_t to) {
    Served *s = self;
    Guesser *g = s->guesser;
    blocks_copy(s->model, s->blocks, from, to);
    if (g) blocks_copy(g->model, g->blocks, from, to);
}
static void save(void *self, uint32_t block, uint32_t place) {
    Served *s = self;
    Guesser *g = s->guesser;
    blocks_save(s->model, s->blocks, block, s->tier ? s->tier->held : place_of(s->model, s->blocks, s->swap, place));
    if (s->tier) tier_write(s->tier, place);
    if (g) blocks_save(g->model, g->blocks, block, place_of(g->model, g->blocks, g->swap, place));
}
static void load(void *self, uint32_t place, uint32_t block) {
    Served *s = self;
    Guesser *g = s->guesser;
    if (s->tier) tier_read(s->tier, place);
    blocks_load(s->model, s->blocks, s->tier ? s->tier->held : place_of(s->model, s->blocks, s->swap, place), block);
    if (g) blocks_load(g->model, g->blocks, place_of(g->model, g->blocks, g->swap, place), block);
}
void served_tier(Served *s, const char *path) {
    free(s->swap), s->swap = NULL;
    s->tier = tier_open(path, s->places, blocks_bytes(s->model, s->blocks));
}

static void own(char *at, size_t bytes) {
    enum { PAGE = 4096 };                                        // the smallest of any system
    for (size_t i = 0; i < bytes; i += PAGE) ((volatile char *)at)[i] = ((volatile char *)at)[i];
}
void served_own(Served *s, bool swap) {
    own(s->blocks->arena.base, s->blocks->arena.size);
    if (swap && s->swap) own(s->swap, size_mul(s->places, blocks_bytes(s->model, s->blocks)));
}

// Drawing overwrites logits, and those of a draft may be looked at again.
static int sample(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Served *s = self;
    size_t V = model_config(s->model)->vocab, at = s->first[index] + i - row->logits_from;
    real *draw = s->draw + (size_t)omp_get_thread_num() * V;
    if (s->wrong && s->wrong[index]) return -1;
    memcpy(draw, s->logits + at * V, V * sizeof *draw);
    Drawing d = served_drawing(s, r);
    int token = s->guesser ? guesser_token(s, draw, at, &d, position)
                           : sample_token(draw, s->spoken, &d.options, d.first + position);
    if (token < 0 && s->wrong) s->wrong[index] = draw_no_numbers;
    return s->wrong ? token : draw_sure(token);
}

Backend served_backend(Served *s) { return (Backend){s, step, copy, save, load, sample, NULL}; }

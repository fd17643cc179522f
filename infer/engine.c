// engine.c: one step: schedule, move blocks, compute, sample, tell the scheduler.
#include "infer/engine.h"
#include <stdlib.h>

static void apply(const Backend *b, const Op *op) {
    if (op->kind == OP_COPY) b->copy(b->self, op->from, op->to);
    else if (op->kind == OP_SAVE) b->save(b->self, op->from, op->to);
    else b->load(b->self, op->from, op->to);
}

Step *engine_schedule(Engine *e, double now) {
    Step *step = sched_step(e->sched, now);
    for (size_t i = 0; i < step->ops; i++) apply(&e->backend, &step->op[i]);
    if (step->rows) e->backend.step(e->backend.self, step->row, step->rows);
    return step;
}

// The token after each of the row's last ones, as long as the next draft is the token that is drawn there anyway: the
// text is the same as without drafts.
static void sample_row(const Engine *e, const StepRow *row, size_t index, Drawn *d) {
    const Backend *b = &e->backend;
    const Request *r = row->request;
    for (size_t i = row->draw_from; i < row->n; i++) {
        size_t position = row->past + i + 1;
        int token = b->sample(b->self, row, index, i, r, position);
        if (token < 0) return;
        d->token[d->count++] = token;
        d->stop = b->ends && b->ends(b->self, r, token);
        if (d->stop || (i + 1 < row->n && r->token[position] != token)) return;
    }
}

static void learn_of_guesses(Engine *e, const StepRow *row, const Drawn *d) {
    for (size_t k = 0, i; k < d->count && (i = row->draw_from + k + 1) < row->n; k++) {
        bool right = row->request->token[row->past + i] == d->token[k];
        e->kept = 0.995 * e->kept + right, e->tried = 0.995 * e->tried + 1;
    }
}

// A guess is kept only where it is the token that is drawn there anyway, so no text shows that there was one.
static void guess_ahead(Engine *e, Request *r) {
    int guess[MOST_GUESSES];
    if (e->draft && r->state == STATE_RUNNING && !r->padding)
        sched_propose(r, guess, e->guess(e->draft, r->token, r->length, e->guesses, guess));
}

// Now and then one guess where none would pay: texts change, and with them what can be guessed.
enum { STEPS_TO_A_TRY = 16 };
static void choose_guesses(Engine *e, const Step *step) {
    e->guesses = e->pays(e->cost, e->draft_cost, step, (e->kept + 1) / (e->tried + 2));
    if (!e->guesses && e->steps++ % STEPS_TO_A_TRY == 0) e->guesses = 1;
}

static void take_room(Engine *e, const Step *step) {
    size_t tokens = 0;
    for (size_t i = 0; i < step->rows; i++) tokens += step->row[i].n - step->row[i].draw_from;
    if (tokens >= e->tokens) e->token = xrealloc(e->token, (e->tokens = 2 * tokens + 1) * sizeof *e->token);
    if (step->rows > e->rows) e->drawn = xrealloc(e->drawn, (e->rows = 2 * step->rows) * sizeof *e->drawn);
    int *next = e->token;
    for (size_t i = 0; i < step->rows; next += step->row[i].n - step->row[i].draw_from, i++)
        e->drawn[i] = (Drawn){.token = next};
}

static void settle_row(Engine *e, const Step *step, size_t i) {
    StepRow row = step->row[i];
    const Drawn *d = &e->drawn[i];
    learn_of_guesses(e, &row, d);
    sched_commit(e->sched, &step->row[i], d->token, d->count, d->stop);
    if (d->count) guess_ahead(e, row.request);
    if (d->count && e->emit) e->emit(e->owner, row.request, d->token, d->count);
}

// A few rows at a time, so that the first tokens are out while the others are drawn.
void engine_finish(Engine *e, const Step *step) {
    if (e->draft && e->cost) choose_guesses(e, step);
    take_room(e, step);
    int drawers = e->drawers > 1 ? (int)e->drawers : 1;
    bool spare = e->spare;
    for (size_t from = 0, to; from < step->rows; from = to) {
        if (spare && from >= e->spared) drawers -= drawers > 1, spare = false, e->spare(e->owner);
        to = smaller(from + (size_t)drawers, step->rows);
        double start = e->timed ? seconds_now() : 0;
#pragma omp parallel for schedule(static, 1) num_threads(drawers) if (drawers > 1)
        for (size_t i = from; i < to; i++) sample_row(e, &step->row[i], i, &e->drawn[i]);
        if (e->timed) e->drawing += seconds_now() - start;
        for (size_t i = from; i < to; i++) settle_row(e, step, i);
    }
}

bool engine_step(Engine *e, double now) {
    Step *step = engine_schedule(e, now);
    engine_finish(e, step);
    return step->rows > 0;
}

void engine_free(Engine *e) { free(e->token), free(e->drawn); }

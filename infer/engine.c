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
static size_t sample_row(Engine *e, const StepRow *row, size_t index, bool *stop) {
    const Backend *b = &e->backend;
    Request *r = row->request;
    size_t count = 0;
    for (size_t i = row->draw_from; i < row->n; i++) {
        size_t position = row->past + i + 1;
        int token = e->token[count++] = b->sample(b->self, row, index, i, r, position);
        *stop = b->ends && b->ends(b->self, r, token);
        bool guessed = i + 1 < row->n, wrong = guessed && r->token[position] != token;
        if (guessed) e->kept = 0.995 * e->kept + !wrong, e->tried = 0.995 * e->tried + 1;
        if (*stop || wrong) break;
    }
    return count;
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

void engine_finish(Engine *e, const Step *step) {
    if (e->draft && e->cost) choose_guesses(e, step);
    for (size_t i = 0; i < step->rows; i++) {
        StepRow row = step->row[i];
        bool stop = false;
        if (row.n > e->room) e->token = xrealloc(e->token, (e->room = 2 * row.n) * sizeof *e->token);
        size_t count = sample_row(e, &row, i, &stop);
        sched_commit(e->sched, &step->row[i], e->token, count, stop);
        if (count) guess_ahead(e, row.request);
        if (count && e->emit) e->emit(e->owner, row.request, e->token, count);
    }
}

bool engine_step(Engine *e, double now) {
    Step *step = engine_schedule(e, now);
    engine_finish(e, step);
    return step->rows > 0;
}

void engine_free(Engine *e) { free(e->token); }

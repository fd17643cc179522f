// progress.h: what a run says while it trains. On a terminal: one line that is redrawn at most ten
// times a second, and a line that stays at each validation. Elsewhere, or with NO_COLOR: only the lines
// that stay, without any control character.
#ifndef PROGRESS_H
#define PROGRESS_H
#include "lib/util.h"

typedef struct {
    FILE *out;
    bool live;
    size_t steps, first;            // of the run, and the step at which this process began
    double floor;                   // nats per token, or NAN
    double started, drawn;          // seconds_now()
} Progress;

typedef struct {
    size_t step;
    double train_loss, val_loss, accuracy;      // NAN where not known
    double tokens_per_second, mfu;
} Standing;

Progress progress_begin(FILE *out, size_t first, size_t steps, double floor);
void progress_draw(Progress *p, const Standing *s);   // the live line, when it is time
void progress_line(Progress *p, const Standing *s);   // a line that stays
void progress_clear(Progress *p);                     // before anything else is printed
#endif

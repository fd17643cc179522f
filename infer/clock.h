// clock.h: what a step costs, as a table fitted to measured steps, for the event clock on which the scheduler runs
// without a model. Time is piecewise linear in the tokens of a step, for weights are read once and then arithmetic is
// the bound; so it is, for the matrix that makes logits, in the tokens that draw. It is linear in the keys that rows
// read, and in the pairs of a query and a key.
#ifndef CLOCK_H
#define CLOCK_H
#include "infer/sched.h"

enum { KNOTS = 8, FEW_TOKENS = 8 };     // a row of at most so many reads its keys as one that writes does
// keys: that such rows see, each once; packed: that longer rows see; pairs: queries times keys, of all rows; draws:
// tokens whose logits are wanted.
typedef struct { double tokens, keys, packed, pairs, draws; } StepSize;
typedef struct { StepSize size; double seconds; } CostPoint;
// What a replay of requests in both clocks found. pace: what its steps took, of what the table says: the machine of
// that minute. At that pace p50, p90 and p99 are off by these shares; NAN: of too few requests. requests 0: no replay.
typedef struct { size_t requests; double pace, ttft[3], tpot[3], latency[3]; } Replay;
typedef struct {
    double base, slope, bend[KNOTS], knot[KNOTS]; size_t knots;  // base + slope M + sum of bend max(0, M - knot)
    double head, draw, crowd;           // of D > 0 draws: head + draw D + crowd max(0, D - CROWD)
    double keys, packed, pairs;         // seconds per unit
    double cache_bytes; size_t layers;  // of the model: keys and values of a token, as floats; 0: not noted
    StepSize most;                      // largest that were measured: beyond it nothing is known
    double median, worst;               // relative errors of the points that were held out; NAN: unknown
    Replay replay;
} CostTable;

StepSize step_size(const Step *step);
double cost_of(const CostTable *c, StepSize size);      // fails beyond what was measured
bool cost_is_known(const CostTable *c, StepSize size);  // it does not
bool cost_is_positive(const CostTable *c);              // whether every step that is known takes time
// What a draft that is a model reads of a row in a round of its own: first all that is known, then guess after guess,
// the last one too (n 0: nothing). By ratio it also draws the token behind its last guess. Nothing beyond `known`
// positions.
StepRow draft_row(const StepRow *r, size_t round, bool ratio, size_t known);
// The seconds of these rounds, by the table of the draft's own steps.
double cost_of_draft(const CostTable *draft, const Step *step, bool ratio, size_t known);
// Guesses for each text that writes, for the step after this one: those of most tokens per second if a guess stays with
// chance a, and costs nothing to make or, with a draft's own table, a token for each text. Not beyond what was
// measured.
size_t cost_best_guesses(const CostTable *c, const CostTable *draft, const Step *step, double a);
// Least squares of the relative error over three of every four points; the error of the fourth ones is stored.
// Where a step would then take less than nothing, without negative terms.
CostTable cost_fit(const CostPoint *point, size_t points, const double *knot, size_t knots);
CostTable cost_built_in(void);
CostTable cost_read(const char *path);
void cost_write(const CostTable *c, const CostPoint *point, size_t points, const char *path);
void cost_note_replay(const char *path, const Replay *r);       // in a table that was written
#endif

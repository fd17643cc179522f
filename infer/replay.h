// replay.h: the requests that a model has answered once more on the event clock, with the tokens that it drew: how far
// off is a table of costs, and with it every figure that was simulated by it?
#ifndef REPLAY_H
#define REPLAY_H
#include "infer/service.h"

typedef struct { Stats stats; double now, took; } Again;
// paced: steps take what the table says times what those of the same second took of it; else what it says. Before
// answers_stats lets go of the requests.
Again replay(Service *timed, bool paced);
// Of processes (--disagg). paced: steps take what those of the same kind of worker took, of what the table says.
Again replay_workers(Service *timed, bool paced);
// again: by the table, and at the pace of the machine while it answered. Notes the errors in the table's file.
void replay_print(const Service *run, const Stats *timed, const Again again[2]);
void replay_print_table(const Service *run);                // what a simulated figure rests on
#endif

// replay.h: the requests that a model has answered once more on the event clock, with the tokens that it drew: how far
// off is a table of costs, and with it every figure that was simulated by it?
#ifndef REPLAY_H
#define REPLAY_H
#include "infer/service.h"

typedef struct { Stats stats; double now, took; } Again;
// pace: what steps take, of what the table says; 0: as it says. Before answers_stats lets go of the requests.
Again replay(Service *timed, double pace);
Again replay_workers(Service *timed, double pace);          // of processes (--disagg): of this model's keys and values
// again: by the table, and at the pace of the machine while it answered. Notes the errors in the table's file.
void replay_print(const Service *run, const Stats *timed, const Again again[2]);
void replay_print_table(const Service *run);                // what a simulated figure rests on
#endif

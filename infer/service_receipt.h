// service_receipt.h: what a run of ./serve prints at its end.
#ifndef SERVICE_RECEIPT_H
#define SERVICE_RECEIPT_H
#include "infer/replay.h"

void service_receipt_print(const Service *run, const Stats *s, const Again *again);    // again: two, or NULL
void service_draw(const Service *run);                      // --picture: what note of each step was taken
double service_held_share(const Service *run);              // of the pool, while steps run
#endif

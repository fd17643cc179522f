// workers.h: a trace's requests answered by many workers on the event clock (infer/disagg.h): --disagg.
#ifndef WORKERS_H
#define WORKERS_H
#include "infer/service.h"

void workers_open(Service *run);                            // how many, and the link between them
void workers_run(Service *run, Backend backend);            // until all requests have ended
#endif

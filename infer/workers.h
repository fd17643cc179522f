// workers.h: a trace's requests answered by many workers: on the event clock (infer/disagg.h), or by processes
// (infer/pipe.h): --disagg.
#ifndef WORKERS_H
#define WORKERS_H
#include "infer/service.h"

void workers_open(Service *run);                            // how many, and the link between them
void workers_run(Service *run, Backend backend);            // until all requests have ended: on the event clock,
void workers_run_pipe(Service *run, Backend backend);       // and on the real one
#endif

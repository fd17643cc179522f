// events.h: the numbers of log.jsonl for TensorBoard, in a file beside it. The log stays what counts: the file is made
// of its lines, and made anew where a run goes on and the log was cut back, so no step is in it twice or lost.
#ifndef EVENTS_H
#define EVENTS_H
#include "run/run.h"

typedef struct Events Events;
// seconds: those that the run has taken so far. The log is there, cut back to the step at which the run goes on.
Events *events_open(const char *dir, double seconds);
// Whether `dir` has such a file, from when the run began: it goes on with it, lest it become stale.
bool events_begun(const char *dir);
// A line that enters the log, on disk as soon as it returns; nothing where `e` is NULL.
void events_add(Events *e, const json_t *line);
#endif

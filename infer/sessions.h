// sessions.h: which request comes next. Those of a trace have their times; a later turn of a session comes when the
// answer before it has come, and its prompt is all that was said until then.
#ifndef SESSIONS_H
#define SESSIONS_H
#include "infer/service.h"

void sessions_open_trace(Service *run);                     // from the flags; refuses sessions that cannot be
// The request that comes next, with its time in its record; trace.count: none, as long as no step ends an answer.
size_t sessions_next(const Service *run);
void sessions_take(Service *run, size_t i);                 // request i, which came next, is submitted now
size_t sessions_prompt(const Service *run, size_t i, int *token);       // its tokens, and how many
void sessions_expect(Service *run, const Request *r);       // has r ended? then its session goes on
#endif

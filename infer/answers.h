// answers.h: the requests of a trace, one step after another: in the time that steps take, or on an event clock, where
// they take what a table of costs says.
#ifndef ANSWERS_H
#define ANSWERS_H
#include "infer/service.h"

void answers_run(Service *run, Backend backend);            // until all requests have ended: these two
void answers_begin(Service *run, Backend backend);
bool answers_advance(Service *run);                         // a step, or the wait for one; false: all have ended
_Noreturn void answers_end_early(Service *run, const char *reason);    // writes the records, which have their ends
Stats answers_stats(Service *run);                          // lets go of the requests; records stay
// Tokens of a request, into its record (an emit function; owner: the Service).
void answers_receive(void *owner, Request *r, const int *token, size_t count);

// ---- what answers without a model ------------------------------------------------------------------
Backend answers_without_model(void *self);                  // computes nothing; .sample is the caller's
// By the seed that `self` points to, a function of request and position.
int answers_random_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position);
void answers_end_by(const Tokenizer *t);                    // whose token of the end ends an answer: --eos
bool answers_is_end(void *self, const Request *r, int token);
#endif

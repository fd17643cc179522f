// trace.h: who asks for how much, and when: from flags or from the files of others.
#ifndef TRACE_H
#define TRACE_H
#include "config/serve.h"

// hash[i]: the number of the i-th `hash_size` tokens of the prompt; equal numbers are equal tokens.
typedef struct { double at; size_t prompt, answer; uint64_t *hash; size_t hashes, line; } Asked;
// turns: of a session, one after another among the requests. Later ones have no time: it comes with an answer.
typedef struct { const char *format; Asked *asked; size_t count, hash_size, left_out, turns; } Trace;

Trace trace_make(const ServeOptions *o);                    // closed: all at 0
Trace trace_read(const char *path, const ServeOptions *o);  // in order of time, the first at 0
void trace_free(Trace *t);
#endif

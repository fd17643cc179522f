// metrics.h: what Prometheus reads: under the names of vLLM, so that its dashboards and its benchmark find them, and
// what only we count under ours.
#ifndef METRICS_H
#define METRICS_H
#include "infer/live.h"

// http: CPU seconds of the threads that speak with clients. malloc'd.
char *metrics_text(const LiveStats *s, const LiveOptions *o, double http, const char *model);
#endif

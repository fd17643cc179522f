// metrics.h: what Prometheus reads: under the names of vLLM, so that its dashboards and its benchmark find them, and
// what only we count under ours.
#ifndef METRICS_H
#define METRICS_H
#include "infer/live.h"

char *metrics_text(const LiveStats *s, const LiveOptions *o, const char *model);     // malloc'd
#endif

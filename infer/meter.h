// meter.h: what a group of threads has cost: CPU seconds of all that take part, and of those that have ended.
#ifndef METER_H
#define METER_H

typedef struct Meter Meter;
Meter *meter_new(void);
void meter_note(Meter *m);           // all that the calling thread has taken so far; once it has, also what it takes
                                     // until it ends
double meter_seconds(Meter *m);      // of all, up to their latest notes
void meter_free(Meter *m);           // after its threads
#endif

// meter.c: see meter.h. Each thread adds what its own clock says, so nobody asks for the clock of a thread that may be
// gone, which not every system has.
#include "infer/meter.h"
#include "lib/util.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct Meter { pthread_key_t key; pthread_mutex_t lock; double seconds; };
typedef struct { Meter *meter; double noted; } Noted;

static void note(Noted *n) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    double taken = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    pthread_mutex_lock(&n->meter->lock);
    n->meter->seconds += taken - n->noted;
    pthread_mutex_unlock(&n->meter->lock);
    n->noted = taken;
}

static void end_thread(void *noted) {
    note(noted);
    free(noted);
}

Meter *meter_new(void) {
    Meter *m = xmalloc(sizeof *m);
    m->seconds = 0;
    pthread_mutex_init(&m->lock, NULL);
    int error = pthread_key_create(&m->key, end_thread);
    if (error) fail("no key for the clocks of threads: %s", strerror(error));
    return m;
}

void meter_note(Meter *m) {
    Noted *n = pthread_getspecific(m->key);
    if (!n) {
        n = xmalloc(sizeof *n);
        *n = (Noted){m, 0};
        pthread_setspecific(m->key, n);
    }
    note(n);
}

double meter_seconds(Meter *m) {
    pthread_mutex_lock(&m->lock);
    double seconds = m->seconds;
    pthread_mutex_unlock(&m->lock);
    return seconds;
}

// A thread that goes on keeps what it had set: here that of the one that calls this is let go.
void meter_free(Meter *m) {
    free(pthread_getspecific(m->key));
    pthread_key_delete(m->key);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

// threads.h: when a loop is shared out to threads, and how long an idle thread waits before it sleeps.
#ifndef THREADS_H
#define THREADS_H

// Starting a parallel region and the barrier at its end take microseconds, in which one core passes over some ten
// thousand numbers: a loop over fewer stays in the thread that is there. Which thread does a row changes no bit.
enum { PARALLEL_FROM = 1 << 14 };
#define PARALLEL_PRAGMA(text) _Pragma(#text)
// Before a loop over `count` rows of about `size` numbers, whose iterations are independent.
#define PARALLEL_ROWS(count, size) PARALLEL_PRAGMA(omp parallel for if ((count) * (size) > PARALLEL_FROM))

// A training step passes hundreds of barriers. OpenMP's runtimes let a thread that waits at one spin for
// milliseconds, which is right on an idle machine, and ruinous on one that does something else too: the
// spinning thread keeps the core that the late one needs. This asks for a short spin instead. Runtimes read
// their settings before main(), so the program starts itself again with them, once; what the user has set
// in the environment (OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME) is left as it is. Call it first.
void threads_wait_briefly(char **argv);
#endif

// threads.h: how long an idle thread waits before it sleeps.
#ifndef THREADS_H
#define THREADS_H

// A training step passes hundreds of barriers. OpenMP's runtimes let a thread that waits at one spin for
// milliseconds, which is right on an idle machine, and ruinous on one that does something else too: the
// spinning thread keeps the core that the late one needs. This asks for a short spin instead. Runtimes read
// their settings before main(), so the program starts itself again with them, once; what the user has set
// in the environment (OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME) is left as it is. Call it first.
void threads_wait_briefly(char **argv);
#endif

// threads.c: sets the patience of OpenMP's waiting threads.
#include "lib/threads.h"
#include "lib/util.h"
#include <stdlib.h>
#include <unistd.h>

void threads_wait_briefly(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);    // libgomp: rounds, about 20 microseconds; its own choice is 300,000
    setenv("KMP_BLOCKTIME", "0", 1);        // libomp: milliseconds; its own choice is 200
    execv("/proc/self/exe", argv);          // returns only where that is not possible: then nothing is lost
}

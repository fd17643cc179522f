// process.c: see process.h. Nothing here computes.
#include "lib/util.h"       // first: it asks for POSIX
#include "lib/process.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void open_standard_descriptors(void) {
    for (int i = 0; i <= 2; i++)     // the lowest free number is the one that is missing
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            fail("descriptor %d is closed, and /dev/null cannot be opened: %s", i, strerror(errno));
}

// ---- stacks --------------------------------------------------------------------------------------
// Twice what the deepest calls take: panels of a product, tables of a picture.
enum { LEAST_STACK = 512 << 10 };

static void refuse_small_stack(void) {
    struct rlimit limit;
    bool limited = getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    if (!limited || limit.rlim_cur >= LEAST_STACK) return;
    fail("the stack is limited to %llu KiB, and %d are needed; raise the limit: ulimit -s 8192",
         (unsigned long long)limit.rlim_cur >> 10, LEAST_STACK >> 10);
}

// As OpenMP writes a size: a number and B, K, M or G; K where there is no letter (OpenMP 5.2, section 21.2.2).
static double bytes_of(const char *text) {
    char *unit;
    double number = strtod(text, &unit);
    unit += strspn(unit, " \t");
    size_t power = *unit ? strcspn("bkmg", (char[]){(char)(*unit | 32), 0}) : 1;
    return number * (double)((uint64_t)1 << 10 * (power < 4 ? power : 1));
}

static void refuse_small_thread_stacks(void) {
    static const char *const names[] = {"OMP_STACKSIZE", "GOMP_STACKSIZE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        double bytes = text ? bytes_of(text) : 0;       // 0: not a size, which OpenMP says itself
        if (bytes > 0 && bytes < LEAST_STACK)
            fail("%s is %s, and the stack of a thread needs %d KiB; unset it, or set it to 8M", names[i], text,
                 LEAST_STACK >> 10);
    }
}

void process_begin(void) {
    open_standard_descriptors();
    signal(SIGXFSZ, SIG_IGN);
    refuse_small_stack();
    refuse_small_thread_stacks();
}

// ---- signals -------------------------------------------------------------------------------------
volatile sig_atomic_t process_stopped;
void (*process_last_words)(void);
void (*process_clean_up)(void);
static volatile sig_atomic_t may_wait;      // for the first one

static void on_signal(int number) {
    if (process_stopped || !may_wait) {
        if (process_last_words) process_last_words();
        if (process_clean_up) process_clean_up();
        signal(number, SIG_DFL);
        raise(number);                  // it comes when this handler returns
    }
    process_stopped = number;
    if (number == SIGPIPE) signal(SIGPIPE, SIG_IGN);      // whatever is said from now on, nobody hears it
}

void process_catch_closed_pipe(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(SIGPIPE, &action, NULL);
}

void process_catch_signals(bool caught) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    may_wait = caught;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction closed;            // a terminal that goes away; nohup has it ignored
    if (sigaction(SIGHUP, NULL, &closed) == 0 && closed.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
}

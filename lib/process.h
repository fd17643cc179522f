// process.h: what every program does before anything else, so that a process that was started badly does no harm:
// closed descriptors, a limit on the size of files, stacks that are too small. And signals, caught and counted.
#ifndef PROCESS_H
#define PROCESS_H
#include <signal.h>
#include <stdbool.h>

// Descriptors 0 to 2 that are closed become /dev/null: the next file that is opened would get their number, and what
// the program prints. A file that may not grow becomes an error of write(), which has a message, instead of a signal.
// Fails where a stack is too small to compute on, saying which and how to raise it.
void process_begin(void);

// The number of the SIGINT, SIGTERM, SIGHUP or SIGPIPE that has come while they were caught; 0: none. Whoever works for
// long looks.
extern volatile sig_atomic_t process_stopped;
// What is called before a signal ends the process at once, in this order: of the functions that a handler may call
// (POSIX, async-signal-safe) alone. NULL: nothing.
extern void (*process_last_words)(void);
extern void (*process_clean_up)(void);
// Caught: the first one is counted, and a second one ends the process at once; calls that wait go on (SA_RESTART), as
// a full pipe is no error of writing. Not caught: the first one does, which is for the time before work can be saved.
void process_catch_signals(bool caught);
// Likewise from now on SIGPIPE, which comes when whoever read the output has gone, as head does; more of it is ignored.
// For work that can be saved: else a process just ends.
void process_catch_closed_pipe(void);
#endif

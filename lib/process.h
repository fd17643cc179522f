// process.h: what every program does before anything else, so that a process that was started badly does no harm: closed
// descriptors, a limit on the size of files, stacks that are too small.
#ifndef PROCESS_H
#define PROCESS_H

// Descriptors 0 to 2 that are closed become /dev/null: the next file that is opened would get their number, and what the
// program prints. A file that may not grow becomes an error of write(), which has a message, instead of a signal.
// Fails where a stack is too small to compute on, saying which and how to raise it.
void process_begin(void);
#endif

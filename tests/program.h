// program.h: programs run from outside, as a reader or a script does, in the directory of the test.
#ifndef PROGRAM_H
#define PROGRAM_H
#include "tests/test.h"
#include <sys/types.h>

typedef struct { int status; char *out, *error; } Result;  // status as a shell shows it: 128 + signal

const char *train_binary(void);               // where the ./train of this build lies
pid_t shell_start(const char *command);       // with nothing from stdin
bool shell_ended(pid_t child);              // so that shell_finish does not wait
Result shell_finish(pid_t child);
Result shell(const char *command);            // both
pid_t train_start(const char *arguments);
Result train(const char *arguments);
size_t count_lines(const char *text);
#endif

// program.c: starts shells, waits for them, reads what they printed.
#include "tests/program.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TRAIN
#define TRAIN "./train"
#endif

const char *train_binary(void) {
    const char *binary = realpath(TRAIN, NULL);
    if (!binary) fail("%s is not built", TRAIN);
    return binary;
}

pid_t shell_start(const char *command) {
    char *line = xprintf("cd '%s' && { %s; } > out 2> error < /dev/null", test_directory(), command);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    free(line);
    return child;
}

static struct { pid_t child; int status; } last;     // that was found to have ended

bool shell_ended(pid_t child) {
    if (last.child != child && waitpid(child, &last.status, WNOHANG) == child) last.child = child;
    return last.child == child;
}

Result shell_finish(pid_t child) {
    if (last.child != child) waitpid(child, &last.status, 0);
    int status = last.status;
    last.child = 0;
    int shown = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return (Result){shown, read_whole_file(test_path("out"), NULL), read_whole_file(test_path("error"), NULL)};
}

Result shell(const char *command) { return shell_finish(shell_start(command)); }

// exec: the process that the caller may signal is the program itself.
pid_t train_start(const char *arguments) { return shell_start(xprintf("exec '%s' %s", train_binary(), arguments)); }
Result train(const char *arguments) { return shell_finish(train_start(arguments)); }

size_t count_lines(const char *text) {
    size_t lines = 0;
    for (; *text; text++) lines += *text == '\n';
    return lines;
}

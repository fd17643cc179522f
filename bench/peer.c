// peer.c: somebody else's program, in a process of its own, which a Python script of ours runs. It sleeps while it is
// not asked. Questions and answers are lines; the first answer is its version.
#include "bench/bench.h"
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool read_answer(Peer *p, char line[256]) {
    if (!fgets(line, 256, p->answers)) {
        snprintf(p->error, sizeof p->error, "it ended unexpectedly");
        return false;
    }
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "error", 5)) return true;
    snprintf(p->error, sizeof p->error, "%.250s", line);
    return false;
}

static void become(const char *python, const char *script, const char *arguments, int in, int out) {
    unsetenv("GOMP_SPINCOUNT"), unsetenv("KMP_BLOCKTIME");         // ours (lib/threads.h); others wait as they like
    dup2(in, 0), dup2(out, 1);
    if (!freopen("/dev/null", "w", stderr)) _exit(127);
    execl(python, python, script, arguments, (char *)NULL);
    _exit(127);
}

bool peer_start(Peer *p, const char *python, const char *script, const char *arguments) {
    int ask[2], answer[2];
    char line[256];
    *p = (Peer){0};
    if (pipe(ask) || pipe(answer)) fail("no pipe to %s can be made", script);
    signal(SIGPIPE, SIG_IGN);          // if it ends, that is noticed when its answer is missing
    fflush(stdout);
    p->pid = fork();
    if (p->pid == 0) {
        close(ask[1]), close(answer[0]);
        become(python, script, arguments, ask[0], answer[1]);
    }
    close(ask[0]), close(answer[1]);
    p->ask = fdopen(ask[1], "w"), p->answers = fdopen(answer[0], "r");
    if (!read_answer(p, line)) return false;
    snprintf(p->version, sizeof p->version, "%.120s", line);
    return true;
}

bool peer_seconds(Peer *p, double *seconds, const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vfprintf(p->ask, format, arguments);
    va_end(arguments);
    fflush(p->ask);
    if (!read_answer(p, line)) return false;
    *seconds = strtod(line, NULL);
    return true;
}

void peer_stop(Peer *p) {
    fclose(p->ask);
    fclose(p->answers);
    waitpid(p->pid, NULL, 0);
}

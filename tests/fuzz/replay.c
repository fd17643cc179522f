// replay.c: main() without libFuzzer. `replay CORPUS` reads every file of every folder CORPUS/TARGET as make fuzz
// does. A process reads one folder; if an input kills it, that input has failed, and another one goes on behind it.
#include "tests/fuzz/fuzz.h"
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct { size_t passed, failed; } Count;

static _Noreturn void read_files(const char *name, char **path, size_t first, size_t count, volatile size_t *at) {
    char **input = xmalloc(count * sizeof *input);
    size_t *bytes = xmalloc(count * sizeof *bytes);
    for (size_t i = first; i < count; i++) input[i] = read_whole_file(path[i], &bytes[i]);
    fuzz_begin(name);
    for (*at = first; *at < count; ++*at) {
        alarm(20);
        char *exact = memcpy(xmalloc(bytes[*at]), input[*at], bytes[*at]);    // no byte after its end may be read
        fuzz_one(exact, bytes[*at]);
        free(exact);
    }
    exit(0);
}

static Count replay(const char *name, char **path, size_t count) {
    Count c = {0};
    volatile size_t *at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t first = 0; first < count; first = *at + 1) {
        *at = first;
        pid_t child = fork();
        if (child == 0) read_files(name, path, first, count, at);
        int status = 0;
        waitpid(child, &status, 0);
        if (*at >= count) break;
        printf("FAILED %s (%s)\n", path[*at], WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "the fault is above");
        c.failed++;
    }
    c.passed = count - c.failed;
    printf("%-12s %zu of %zu inputs\n", name, c.passed, count);
    return c;
}

int main(int argc, char **argv) {
    Count all = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (const Target *t = fuzz_targets; t->name; t++) {
        glob_t files = {0};
        char *pattern = xprintf("%s/%s/*", argc > 1 ? argv[1] : "tests/fuzz/corpus", t->name);
        glob(pattern, 0, NULL, &files);
        Count c = replay(t->name, files.gl_pathv, files.gl_pathc);
        if (!files.gl_pathc) printf("FAILED %s: there are no such files\n", pattern), c.failed++;
        all.passed += c.passed, all.failed += c.failed;
        globfree(&files);
        free(pattern);
    }
    printf("%zu passed, %zu failed\n", all.passed, all.failed);
    return all.failed ? 1 : 0;
}

// main.c of the tests: runs the tables that the tests/test_ROOM.c files registered. Every test runs in
// a process of its own, so a crash, an exit or a hang is one failed test and the others still run.
//     build/tests            all          build/tests --list     names and what they hold
//     build/tests NAME...    those whose name starts so
#define _GNU_SOURCE  // nftw
#include "tests/test.h"
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TABLES = 64, SECONDS_PER_TEST = 240 };
static struct { const Test *tests; size_t count; } table[TABLES];
static size_t tables;

void tests_register(const Test *tests, size_t count) {
    if (tables == TABLES) {
        fprintf(stderr, "more than %d tables of tests: raise TABLES in tests/main.c\n", TABLES);
        exit(1);
    }
    table[tables].tests = tests;
    table[tables++].count = count;
}

// ---- inside a test -----------------------------------------------------------------------------
static size_t failures;
static char directory[256];

void test_failed(const char *file, int line, const char *condition, const char *format, ...) {
    if (failures++ >= 20) return;  // one broken loop must not fill the screen
    printf("    %s:%d: %s: ", file, line, condition);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

char test_message[2048];
static int test_status;
static jmp_buf after_failure;

static void catch_failure(int status, const char *message) {
    test_status = status;
    snprintf(test_message, sizeof test_message, "%s", message);
    longjmp(after_failure, 1);
}

bool test_fails(int status, const char *word, void (*body)(void *), void *argument) {
    test_status = 0;
    snprintf(test_message, sizeof test_message, "(it did not fail)");
    fail_hook = catch_failure;
    if (setjmp(after_failure) == 0) body(argument);
    fail_hook = NULL;
    return test_status == status && strstr(test_message, word) && !strchr(test_message, '\n');
}

const char *test_directory(void) {
    if (!file_exists(directory)) make_directories(directory);
    return directory;
}

const char *test_path(const char *name) { return xprintf("%s/%s", test_directory(), name); }

// ---- the runner --------------------------------------------------------------------------------
static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *where) {
    (void)s, (void)kind, (void)where;
    return remove(path);
}

// As many tests at a time as there are cores: most need one. Each has a process, a directory and a place for its
// output, which is shown when it ends.
typedef struct { const Test *test; pid_t process; FILE *output; char directory[200]; double start; } Running;
static Running running[16];
static size_t slots;

static void start_test(Running *r, const Test *t) {
    const char *temporary = getenv("TMPDIR");
    *r = (Running){.test = t, .output = tmpfile(), .start = seconds_now()};
    snprintf(r->directory, sizeof r->directory, "%.150s/receipts-test-%ld-%zu", temporary ? temporary : "/tmp",
             (long)getpid(), (size_t)(r - running));
    fflush(stdout);
    r->process = fork();
    if (r->process < 0 || !r->output) fail("cannot start a process for the test %s", t->name);
    if (r->process) return;
    alarm(SECONDS_PER_TEST);
    dup2(fileno(r->output), 1);
    snprintf(directory, sizeof directory, "%s", r->directory);
    t->run();
    exit(failures ? 1 : 0);
}

static bool end_test(Running *r, int status) {
    char line[4096];
    nftw(r->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    rewind(r->output);
    while (fgets(line, sizeof line, r->output)) fputs(line, stdout);
    fclose(r->output);
    if (WIFSIGNALED(status))
        printf("    %s\n", WTERMSIG(status) == SIGALRM ? "it hung" : strsignal(WTERMSIG(status)));
    printf("%s %-32s %s (%.2f s)\n", passed ? "ok    " : "FAILED", r->test->name, r->test->what,
           seconds_now() - r->start);
    r->test = NULL;
    return passed;
}

// Waits until one test has ended, and says which place is free now.
static Running *wait_for_one(size_t *passed, size_t *failed) {
    int status;
    pid_t process = wait(&status);
    for (size_t i = 0; i < slots; i++)
        if (running[i].test && running[i].process == process) {
            *(end_test(&running[i], status) ? passed : failed) += 1;
            return &running[i];
        }
    fail("a process that was not started has ended");
}

static bool is_wanted(const Test *t, int argc, char **argv) {
    if (argc < 2) return true;
    for (int i = 1; i < argc; i++)
        if (strncmp(t->name, argv[i], strlen(argv[i])) == 0) return true;
    return false;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const Test *const *)a)->name, (*(const Test *const *)b)->name);
}

int main(int argc, char **argv) {
    size_t count = 0, passed = 0, failed = 0;
    const Test *all[4096];
    for (size_t i = 0; i < tables; i++)
        for (size_t j = 0; j < table[i].count && count < 4096; j++) all[count++] = &table[i].tests[j];
    qsort(all, count, sizeof all[0], by_name);
    // A shell starts jobs in the background with SIGINT ignored, Python its children with SIGPIPE; tests need both.
    signal(SIGINT, SIG_DFL), signal(SIGPIPE, SIG_DFL);
    bool list = argc == 2 && strcmp(argv[1], "--list") == 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    slots = cores < 1 ? 1 : cores > 16 ? 16 : (size_t)cores;
    size_t started = 0;
    for (size_t i = 0; i < count; i++) {
        if (list) printf("%-34s %s\n", all[i]->name, all[i]->what);
        else if (is_wanted(all[i], argc, argv)) {
            Running *free_slot = started < slots ? &running[started] : wait_for_one(&passed, &failed);
            start_test(free_slot, all[i]);
            started++;
        }
    }
    while (passed + failed < started) wait_for_one(&passed, &failed);
    if (list) return 0;
    if (passed + failed == 0) {
        fprintf(stderr, "error: no test has such a name; build/tests --list shows them\n");
        return 2;
    }
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed ? 1 : 0;
}

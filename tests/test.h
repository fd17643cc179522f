// test.h: the harness. A tests/test_ROOM.c file states its tests as a table and registers it:
//     static const Test tests[] = {{"room/name", "what must hold", function}, ...};
//     REGISTER_TESTS(tests)
// build/tests runs all of them, build/tests NAME... those whose name starts so, --list lists them.
#ifndef TEST_H
#define TEST_H
#include "lib/util.h"
#include <math.h>
#include <string.h>

typedef struct { const char *name, *what; void (*run)(void); } Test;
void tests_register(const Test *tests, size_t count);
#define REGISTER_TESTS(table)                                     \
    __attribute__((constructor)) static void register_them(void) { \
        tests_register(table, sizeof table / sizeof *table);       \
    }

// A failed CHECK prints file, line and the message, marks the test as failed and goes on.
#define CHECK(condition, ...) ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))
void test_failed(const char *file, int line, const char *condition, const char *format, ...) PRINTF_LIKE(4, 5);

// True when body ends in fail() (status 1) or usage_error() (status 2) with a one-line message that
// contains `word`; the message is left in test_message.
bool test_fails(int status, const char *word, void (*body)(void *), void *argument);
extern char test_message[2048];

const char *test_directory(void);   // a fresh temporary directory, removed at the end of the test
const char *test_path(const char *name);  // a path inside it (valid until the end of the test)
#endif

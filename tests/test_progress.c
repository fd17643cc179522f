// test_progress.c: what a run prints, on a terminal (a pseudo-terminal here) and elsewhere.
#define _GNU_SOURCE  // posix_openpt
#include "test.h"
#include "../lib/progress.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const Standing standing = {150, 1.23456, 1.5, 0.25, 41234, 0.6321};

static void test_plain(void) {
    const char *path = test_path("out");
    FILE *f = fopen(path, "w");
    Progress p = progress_begin(f, 100, 200, 1.25);
    p.started -= 50;  // 50 steps took 50 seconds
    progress_draw(&p, &standing);
    progress_line(&p, &standing);
    fclose(f);
    char *text = read_whole_file(path, NULL);
    CHECK(strcmp(text, "step 150/200  train 1.2346  val 1.5000 (floor +0.2500)  accuracy 25.0%  41.2k tok/s  MFU 63%  "
                       "ETA 0:50\n") == 0, "%s", text);
    free(text);
}

// Opens both ends of a pseudo-terminal of a width; what is written to *slave is read from the result.
static int open_terminal(unsigned short columns, FILE **slave) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) fail("no pseudo-terminal");
    struct winsize size = {.ws_row = 25, .ws_col = columns};
    *slave = fopen(ptsname(master), "w");
    ioctl(master, TIOCSWINSZ, &size);
    return master;
}

static size_t draw(unsigned short columns, char *text, size_t room) {
    FILE *terminal;
    int master = open_terminal(columns, &terminal);
    Progress p = progress_begin(terminal, 100, 200, 1.25);
    p.started -= 50;
    progress_draw(&p, &standing);
    progress_draw(&p, &standing);  // too soon to be drawn again
    fprintf(terminal, ".");        // so that there is something to read
    fflush(terminal);
    ssize_t got = read(master, text, room - 1);
    text[got < 0 ? 0 : got] = '\0';
    fclose(terminal);
    close(master);
    return strlen(text);
}

static void test_terminal(void) {
    char text[1024];
    draw(80, text, sizeof text);
    CHECK(
        strstr(text, "\r\033[K\033[36m[====--]\033[0m 150/200 train 1.23 val 1.50 (+0.25) acc 25% 41.2k tok/s MFU 63%"),
        "%s", text);
    CHECK(strchr(text, '[') && strstr(text, "150/200") && !strstr(strstr(text, "150/200") + 1, "150/200"),
          "drawn once");
    draw(140, text, sizeof text);
    CHECK(strstr(text, "train 1.2346") && strstr(text, "(floor +0.2500)"), "all decimals where there is room: %s",
          text);
    for (unsigned short columns = 20; columns < 200; columns += 9) {
        size_t length = draw(columns, text, sizeof text), codes = strlen("\r\033[K\033[36m\033[0m.");
        CHECK(length - codes < columns, "%d columns hold %zu characters", columns, length - codes);
    }
}

static void test_no_color(void) {
    char text[1024];
    setenv("NO_COLOR", "1", 1);
    draw(80, text, sizeof text);
    CHECK(strcmp(text, ".") == 0, "no live line with NO_COLOR: %s", text);
}

static const Test tests[] = {
    {"progress/plain", "a line that stays has everything and no control character", test_plain},
    {"progress/terminal", "the live line fits the terminal, whatever its width", test_terminal},
    {"progress/no-color", "NO_COLOR switches the live line off", test_no_color},
};
REGISTER_TESTS(tests)

// test_progress.c: what a run prints, on a terminal (a pseudo-terminal here) and elsewhere.
#define _GNU_SOURCE  // posix_openpt
#include "tests/test.h"
#include "run/progress.h"
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
    CHECK(strcmp(text, "step 150/200  train 1.2346  val 1.5000 (floor +0.2500)  accuracy 25.0%  ETA 0:50  "
                       "41.2k tok/s  MFU 63%\n") == 0, "%s", text);
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

// A terminal hands over what it has at the moment, which may be a part: reads until the mark that ends the text.
#define END_OF_TEXT "#"
static void read_to_end(int master, char *text, size_t room) {
    size_t length = 0, mark = strlen(END_OF_TEXT);
    while (length < mark || strcmp(text + length - mark, END_OF_TEXT) != 0) {
        ssize_t got = read(master, text + length, room - 1 - length);
        if (got <= 0) fail("the pseudo-terminal ended after '%s'", text);
        length += (size_t)got;
        text[length] = '\0';
    }
}

static size_t draw(unsigned short columns, bool stays, char *text, size_t room) {
    FILE *terminal;
    int master = open_terminal(columns, &terminal);
    Progress p = progress_begin(terminal, 100, 200, 1.25);
    p.started -= 50;
    if (stays) progress_line(&p, &standing);
    progress_draw(&p, &standing);
    progress_draw(&p, &standing);  // too soon to be drawn again
    fprintf(terminal, END_OF_TEXT);
    fflush(terminal);
    read_to_end(master, text, room);
    fclose(terminal);
    close(master);
    return strlen(text);
}

// Every word is one of these, so that no number was cut.
#define SHORT_WORDS "150/200 train 1.23 val 1.50 (+0.25) acc 25% 41.2k tok/s MFU 63% ETA 0:50"
#define LONG_WORDS "150/200 train 1.2346 val 1.5000 (floor +0.2500) accuracy 25.0% 41.2k tok/s MFU 63% ETA 0:50"
static void check_words(const char *line, const char *words, int columns) {
    char *padded = xprintf(" %s ", words), *copy = xprintf("%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        CHECK(strstr(padded, xprintf(" %s ", word)), "'%s' in %d columns: %s", word, columns, line);
    free(padded), free(copy);
}

static void test_terminal(void) {
    char text[1024];
    draw(80, false, text, sizeof text);
    static const char line[] =
        "\r\033[K\033[36m[====--]\033[0m 150/200 train 1.23 val 1.50 (+0.25) acc 25% ETA 0:50 41.2k tok/s";
    CHECK(strstr(text, line), "%s", text);
    CHECK(strchr(text, '[') && strstr(text, "150/200") && !strstr(strstr(text, "150/200") + 1, "150/200"),
          "drawn once");
    draw(140, false, text, sizeof text);
    CHECK(strstr(text, "train 1.2346") && strstr(text, "(floor +0.2500)"), "all decimals where there is room: %s",
          text);
    for (unsigned short columns = 20; columns < 200; columns += 9) {
        size_t length = draw(columns, false, text, sizeof text), codes = strlen("\r\033[K\033[36m\033[0m" END_OF_TEXT);
        CHECK(length - codes < columns, "%d columns hold %zu characters", columns, length - codes);
        text[length - 1] = '\0';
        check_words(strstr(text, "\033[0m") + 4, columns < 110 ? SHORT_WORDS : LONG_WORDS, columns);
    }
}

// A line that stays would be ugly if it were wrapped, and wrong if it were cut inside a number.
static void test_terminal_stays(void) {
    char text[1024];
    draw(80, true, text, sizeof text);
    CHECK(strstr(text, "step 150/200  train 1.2346  val 1.5000 (floor +0.2500)  accuracy 25.0%  ETA 0:50\r\n"), "%s",
          text);
    for (unsigned short columns = 20; columns < 140; columns += 3) {
        draw(columns, true, text, sizeof text);
        const char *line = strstr(text, "step "), *end = line ? strchr(line, '\r') : NULL;
        CHECK(end && end - line <= columns, "%d columns: %s", columns, text);
        if (end) check_words(xprintf("%.*s", (int)(end - line), line), "step " LONG_WORDS, columns);
    }
}

static void test_no_color(void) {
    char text[1024];
    setenv("NO_COLOR", "1", 1);
    draw(80, false, text, sizeof text);
    CHECK(strcmp(text, END_OF_TEXT) == 0, "no live line with NO_COLOR: %s", text);
}

static const Test tests[] = {
    {"progress/plain", "a line that stays has everything and no control character", test_plain},
    {"progress/terminal", "the live line fits the terminal, whatever its width", test_terminal},
    {"progress/terminal-stays", "the lines that stay fit it too", test_terminal_stays},
    {"progress/no-color", "NO_COLOR switches the live line off", test_no_color},
};
REGISTER_TESTS(tests)

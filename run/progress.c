// progress.c: the bar and the lines of a run. Formatting only.
#include "run/progress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LINE = 256, NARROW = 110, LONG_BAR = 20, SHORT_BAR = 6 };

Progress progress_begin(FILE *out, size_t first, size_t steps, double floor) {
    bool live = isatty(fileno(out)) && !getenv("NO_COLOR");
    return (Progress){out, live, steps, first, floor, seconds_now(), 0};
}

// A line takes whole fields, as far as there is room: a number that is cut would be another number.
typedef struct { char text[LINE]; size_t limit; } Line;

static void append(Line *line, const char *format, ...) PRINTF_LIKE(2, 3);
static void append(Line *line, const char *format, ...) {
    char field[LINE];
    size_t used = strlen(line->text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(field, sizeof field, format, arguments);
    va_end(arguments);
    if (used + strlen(field) <= line->limit) strcpy(line->text + used, field);
}

static void append_rate(Line *line, const char *gap, double tokens_per_second) {
    const char *unit = tokens_per_second >= 1e6 ? "M" : tokens_per_second >= 1e3 ? "k" : "";
    double shown = tokens_per_second / (*unit == 'M' ? 1e6 : *unit == 'k' ? 1e3 : 1);
    append(line, "%s%.*f%s tok/s", gap, shown < 100 && *unit ? 1 : 0, shown, unit);
}

static void append_time_left(const Progress *p, size_t step, const char *gap, Line *line) {
    if (step <= p->first || step >= p->steps) return;
    double each = (seconds_now() - p->started) / (double)(step - p->first);
    size_t left = (size_t)(each * (double)(p->steps - step) + 0.5);
    if (left >= 3600) append(line, "%sETA %zu:%02zu:%02zu", gap, left / 3600, left / 60 % 60, left % 60);
    else append(line, "%sETA %zu:%02zu", gap, left / 60, left % 60);
}

static Line describe(const Progress *p, const Standing *s, bool narrow, size_t limit) {
    Line line = {"", limit < LINE ? limit : LINE - 1};
    int digits = snprintf(NULL, 0, "%zu", p->steps), decimals = narrow ? 2 : 4;
    const char *gap = narrow ? " " : "  ", *floor = narrow ? "" : "floor ";
    append(&line, "%*zu/%zu", digits, s->step, p->steps);
    if (isfinite(s->train_loss)) append(&line, "%strain %.*f", gap, decimals, s->train_loss);
    if (isfinite(s->val_loss)) append(&line, "%sval %.*f", gap, decimals, s->val_loss);
    if (isfinite(s->val_loss) && isfinite(p->floor))
        append(&line, " (%s%+.*f)", floor, decimals, s->val_loss - p->floor);
    if (isfinite(s->accuracy)) append(&line, narrow ? " acc %.0f%%" : "  accuracy %.1f%%", 100 * s->accuracy);
    append_time_left(p, s->step, gap, &line);
    if (s->tokens_per_second > 0) {
        append_rate(&line, gap, s->tokens_per_second);
        append(&line, "%sMFU %.0f%%", gap, 100 * s->mfu);
    }
    return line;
}

static size_t terminal_width(FILE *out) {
    struct winsize w;
    return ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 10 ? w.ws_col : 80;
}

void progress_draw(Progress *p, const Standing *s) {
    double now = seconds_now();
    if (!p->live || now - p->drawn < 0.1) return;
    p->drawn = now;
    size_t width = terminal_width(p->out), length = width < NARROW ? SHORT_BAR : LONG_BAR;
    size_t done = p->steps ? length * s->step / p->steps : length;
    char bar[LONG_BAR + 1] = "";
    for (size_t i = 0; i < length; i++) bar[i] = i < done ? '=' : '-';
    size_t limit = width > length + 4 ? width - length - 4 : 0;      // a wrapped line could not be redrawn
    Line line = describe(p, s, width < NARROW, limit);
    fprintf(p->out, "\r\033[K\033[36m[%s]\033[0m %s", bar, line.text);
    fflush(p->out);
}

void progress_clear(Progress *p) {
    if (p->live) fprintf(p->out, "\r\033[K");
}

void progress_line(Progress *p, const Standing *s) {
    size_t before = strlen("step ");
    Line line = describe(p, s, false, p->live ? terminal_width(p->out) - before : LINE - 1);
    progress_clear(p);
    fprintf(p->out, "step %s\n", line.text);
    fflush(p->out);
}

// figure.c: where things go on a page and how numbers are written on its axes.
#include "plot/figure.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_SUBTITLE_LINES = 6 };
static const TextStyle title_style = {.size = 34, .bold = true, .colour = {34, 34, 34}};
static const TextStyle subtitle_style = {.size = 22, .colour = {95, 95, 95}};

const Colour series_colour[COLOURS] = {{0, 114, 178}, {213, 94, 0}, {0, 158, 115}, {204, 121, 167},
                                       {230, 159, 0}, {86, 180, 233}, {40, 40, 40}};

// ---- text that fits ----------------------------------------------------------------------------
void draw_fitting(Canvas *c, TextStyle style, double x, double y, double width, const char *text) {
    size_t all = text_fit(style, text, width);
    if (!text[all]) {
        canvas_text(c, style, x, y, text);
        return;
    }
    size_t part = text_fit(style, text, width - text_width(style, "…"));
    while (part && text[part - 1] == ' ') part--;
    char *cut = xprintf("%.*s…", (int)part, text);
    canvas_text(c, style, x, y, cut);
    free(cut);
}

// Where the first line of `text` ends: best before a flag, else at the last space, else where it is full.
static size_t line_end(TextStyle style, const char *text, double width) {
    size_t fits = text_fit(style, text, width);
    if (!text[fits]) return fits;
    size_t space = 0, flag = 0;
    for (size_t i = 1; i <= fits; i++)
        if (text[i] == ' ') {
            space = i;
            if (text[i + 1] == '-') flag = i;
        }
    return flag ? flag : space ? space : fits ? fits : 1;
}

// Draws the lines of a wrapped text, or with c == NULL only counts them.
static size_t draw_wrapped(Canvas *c, TextStyle style, double x, double y, double width, const char *text) {
    size_t lines = 0;
    for (; *text && lines < MOST_SUBTITLE_LINES; lines++) {
        size_t end = line_end(style, text, width);
        char *line = xprintf("%.*s", (int)end, text);
        bool last = lines + 1 == MOST_SUBTITLE_LINES;
        if (c) draw_fitting(c, style, x, y + 1.4 * style.size * (double)lines, width, last ? text : line);
        free(line);
        text += end;
        while (*text == ' ') text++;
    }
    return lines;
}

double draw_heading(Canvas *c, double page_width, const char *title, const char *subtitle) {
    double width = page_width - 2 * MARGIN, y = MARGIN;
    if (title && *title) {
        if (c) draw_fitting(c, title_style, MARGIN, y + 14, width, title);
        y += 54;
    }
    if (subtitle && *subtitle) {
        size_t lines = draw_wrapped(c, subtitle_style, MARGIN, y + 8, width, subtitle);
        y += 1.4 * subtitle_style.size * (double)lines + 10;
    }
    return y;
}

// ---- axes --------------------------------------------------------------------------------------
bool on_axis(const Axis *a, double v) { return usable(v) && (!a->logarithmic || v >= 1e-300); }

static double position(const Axis *a, double v) {              // 0 at low, 1 at high
    if (a->logarithmic) return (log(v) - log(a->low)) / (log(a->high) - log(a->low));
    return (v - a->low) / (a->high - a->low);
}

void axis_include(Axis *a, double v) {
    if (!on_axis(a, v)) return;
    a->low = fmin(a->low, v), a->high = fmax(a->high, v);
}

void axis_widen(Axis *a) {
    if (a->low > a->high) a->low = a->logarithmic ? 1 : 0, a->high = a->logarithmic ? 10 : 1;
    double size = fmax(fabs(a->low), fabs(a->high));
    if (a->high - a->low > 1e-9 * size && (size > 1e-290 || a->logarithmic)) return;
    if (a->logarithmic) a->low /= 1.2, a->high *= 1.2;
    else if (size > 1e-290) a->low -= 0.1 * size, a->high += 0.1 * size;
    else a->low = -1, a->high = 1;
}

void axis_pad(Axis *a, double share) {
    axis_widen(a);
    if (a->logarithmic) {
        double factor = exp(share * (log(a->high) - log(a->low)));
        a->low = fmax(a->low / factor, 1e-307), a->high = fmin(a->high * factor, 1e307);
    } else {
        double pad = share * (a->high - a->low);
        a->low -= pad, a->high += pad;
    }
}

// The smallest of 1, 2, 5 times a power of ten that cuts `range` into at most `most` parts.
double nice_step(double range, double most) {
    double raw = range / most, power = pow(10, floor(log10(raw))), mantissa = raw / power;
    return power * (mantissa <= 1 ? 1 : mantissa <= 2 ? 2 : mantissa <= 5 ? 5 : 10);
}

// 1.50e-05 becomes 1.5e-5, and 1.00e+20 becomes 1e20.
static void shorten_exponent(char *text) {
    char *e = strchr(text, 'e'), *mantissa = e;
    if (strchr(text, '.'))
        while (mantissa[-1] == '0') mantissa--;
    if (mantissa[-1] == '.') mantissa--;
    int exponent = atoi(e + 1);
    snprintf(mantissa, 8, "e%d", exponent);
}

void write_number(char text[32], double v, double step, double largest) {
    int order = (int)floor(log10(step) + 1e-9), digits = (int)clamp(ceil(log10(largest / step) + 1e-9), 0, 15);
    if (fabs(v) < 1e-9 * step) snprintf(text, 32, "0");
    else if (largest >= 1e15 || largest < 1e-3) {
        snprintf(text, 32, "%.*e", digits, v);
        shorten_exponent(text);
    } else if (largest >= 1e4 && order >= 0) {
        int thousands = (int)(log10(largest) / 3), decimals = 3 * thousands - order;
        snprintf(text, 32, "%.*f%c", decimals > 0 ? decimals : 0, v / pow(1000, thousands), " kMGT"[thousands]);
    } else snprintf(text, 32, "%.*f", order < 0 ? -order : 0, v);
}

size_t linear_ticks(const Axis *a, double most, Tick *tick) {
    double step = nice_step(a->high - a->low, fmax(most, 5));  // fewer parts than five could leave a single tick
    double largest = fmax(fabs(a->low), fabs(a->high));
    if (a->whole) step = fmax(step, 1);
    size_t n = 0;
    for (double i = ceil(a->low / step - 1e-9); i * step <= a->high + 1e-9 * step && n < MOST_TICKS; i++, n++) {
        tick[n].value = i * step;
        write_number(tick[n].label, tick[n].value, step, largest);
    }
    return n;
}

// Labels at 1 to 9 of each decade where they fit, else at 1, 2, 5, else at 1, else at every second, third, ... decade;
// what lies between them gets a grid line without a label as long as the lines are not too many.
static size_t log_ticks(const Axis *a, double most, Tick *tick) {
    double decades = log10(a->high) - log10(a->low);
    int every = (int)fmax(1, nice_step(decades, fmax(most, 5)));  // from two decades on: two labels or more
    bool all = 9 * decades <= most, some = 3 * decades <= most, between = decades <= 6;
    size_t n = 0, labelled = 0;
    for (int d = (int)floor(log10(a->low)); d <= log10(a->high); d++)
        for (int m = 1; m <= 9; m++) {
            bool label = m == 1 ? d % every == 0 : all || (some && (m == 2 || m == 5));
            double v = m * pow(10, d);
            if (v < a->low || v > a->high || !(label || (between && every == 1)) || n == MOST_TICKS) continue;
            tick[n] = (Tick){.value = v};
            if (label) write_number(tick[n].label, v, v, v), labelled++;
            n++;
        }
    return labelled >= 2 ? n : linear_ticks(a, most, tick);
}

size_t make_ticks(const Axis *a, double most, Tick *tick) {
    return a->logarithmic ? log_ticks(a, most, tick) : linear_ticks(a, most, tick);
}

double widest_label(const Tick *tick, size_t n) {
    double widest = 0;
    for (size_t i = 0; i < n; i++) widest = fmax(widest, text_width(tick_style, tick[i].label));
    return widest;
}

size_t make_x_ticks(const Axis *a, double width, Tick *tick) {
    for (double most = 12;; most--) {
        size_t n = make_ticks(a, most, tick);
        double room = widest_label(tick, n) + 24, last = -INFINITY;
        bool fits = true;
        for (size_t i = 0; i < n; i++) {
            if (!tick[i].label[0]) continue;
            double x = width * position(a, tick[i].value);
            if (x - last < room) fits = false;
            last = x;
        }
        if (fits || most <= 5) return n;
    }
}

// ---- the frame: where data is drawn ------------------------------------------------------------
double x_pixel(const Frame *f, double v) { return f->left + (f->right - f->left) * position(&f->x, v); }
double y_pixel(const Frame *f, double v) { return f->bottom - (f->bottom - f->top) * position(&f->y, v); }

void draw_x_labels(Canvas *c, const Frame *f, const Tick *tick, size_t n, const char *label) {
    for (size_t i = 0; i < n; i++)
        canvas_text(c, aligned(tick_style, 0.5), x_pixel(f, tick[i].value), f->bottom + 30, tick[i].label);
    double middle = (f->left + f->right) / 2, width = f->right - f->left;
    if (label) draw_fitting(c, aligned(label_style, 0.5), middle, f->bottom + 74, width, label);
}

// The label of the y axis lies above it, where it reads without a turn of the head.
void draw_y_labels(Canvas *c, const Frame *f, const Tick *tick, size_t n, const char *label) {
    for (size_t i = 0; i < n; i++)
        canvas_text(c, aligned(tick_style, 1), f->left - 14, y_pixel(f, tick[i].value), tick[i].label);
    if (label) draw_fitting(c, label_style, MARGIN, f->top - 30, f->right - MARGIN, label);
}

void draw_grid(Canvas *c, const Frame *f, const Tick *x, size_t nx, const Tick *y, size_t ny) {
    for (size_t i = 0; i < nx; i++) {
        double at = round(x_pixel(f, x[i].value));
        canvas_box(c, at - 1, f->top, at + 1, f->bottom, faint, x[i].label[0] ? 1 : 0.5);
    }
    for (size_t i = 0; i < ny; i++) {
        double at = round(y_pixel(f, y[i].value));
        canvas_box(c, f->left, at - 1, f->right, at + 1, faint, y[i].label[0] ? 1 : 0.5);
    }
    canvas_box(c, f->left, f->bottom - 1, f->right, f->bottom + 1, grey, 1);
}

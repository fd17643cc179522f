// plot_timeline.c: several quantities over one time, each in a panel. What all pictures share is in figure.c.
#include "plot/figure.h"
#include "plot/plot.h"
#include <stdlib.h>
#include <string.h>

enum { PANEL_GAP = 96 };

static void draw_message(Canvas *c, const Frame *f) {
    canvas_text(c, aligned(label_style, 0.5), (f->left + f->right) / 2, (f->top + f->bottom) / 2, "nothing to draw");
}

// Of each column of pixels the mean over its time, filled, and the largest value, as a line: nothing that lasts for
// less than a pixel is lost, and what lasts does not look like a peak.
typedef struct { double *mean, *most; size_t columns; } Columns;

static void add_span(Columns *at, double from, double to, double value) {
    double last = (double)at->columns;
    from = clamp(from, 0, last), to = clamp(to, 0, last);
    for (size_t i = (size_t)fmin(from, last - 1); i < at->columns && (double)i <= to; i++) {
        at->mean[i] += value * fmax(0, fmin(to, (double)i + 1) - fmax(from, (double)i));
        at->most[i] = fmax(at->most[i], value);
    }
}

static void draw_panel(Canvas *c, const Frame *f, const Timeline *t, size_t panel) {
    Columns at = {.columns = (size_t)(f->right - f->left)};
    at.mean = xmalloc(at.columns * sizeof *at.mean), at.most = xmalloc(at.columns * sizeof *at.most);
    Point *line = xmalloc(at.columns * sizeof *line);
    Colour colour = series_colour[panel % COLOURS];
    for (size_t i = 0; i < t->spans; i++)
        add_span(&at, x_pixel(f, t->span[i].from) - f->left, x_pixel(f, t->span[i].to) - f->left,
                 t->span[i].value[panel]);
    for (size_t i = 0; i < at.columns; i++) {
        double left = f->left + (double)i;
        canvas_box(c, left, y_pixel(f, at.mean[i]), left + 1, f->bottom, colour, 0.45);
        line[i] = (Point){left + 0.5, y_pixel(f, at.most[i])};
    }
    canvas_stroke(c, line, at.columns, 2, colour, 1);
    free(at.mean), free(at.most), free(line);
}

static Axis panel_axis(const Timeline *t, size_t panel) {
    Axis y = {.high = t->most[panel], .whole = true};
    for (size_t i = 0; i < t->spans; i++) axis_include(&y, t->span[i].value[panel]);
    y.high *= 1.04;
    axis_widen(&y);
    return y;
}

void plot_timeline(const char *path, const Timeline *t) {
    Canvas c = canvas_new(PAGE_WIDTH, PAGE_HEIGHT);
    Tick x[MOST_TICKS], y[TIMELINE_PANELS][MOST_TICKS];
    size_t ny[TIMELINE_PANELS];
    Frame f[TIMELINE_PANELS];
    double top = draw_heading(&c, PAGE_WIDTH, t->title, t->subtitle) + 52, left = 0, bottom = PAGE_HEIGHT - 112;
    double height = (bottom - top - PANEL_GAP * (TIMELINE_PANELS - 1)) / TIMELINE_PANELS;
    for (size_t k = 0; k < TIMELINE_PANELS; k++) {
        f[k] = (Frame){.top = round(top + (double)k * (height + PANEL_GAP)), .y = panel_axis(t, k)};
        f[k].bottom = round(f[k].top + height);
        f[k].x = (Axis){0, t->spans ? t->span[t->spans - 1].to : 1, false, false};
        axis_widen(&f[k].x);
        ny[k] = make_ticks(&f[k].y, 4, y[k]);
        left = fmax(left, ceil(MARGIN + 14 + widest_label(y[k], ny[k])));
    }
    for (size_t k = 0; k < TIMELINE_PANELS; k++) {
        f[k].left = left, f[k].right = PAGE_WIDTH - MARGIN - 2;
        size_t nx = make_x_ticks(&f[k].x, f[k].right - f[k].left, x);
        draw_grid(&c, &f[k], x, nx, y[k], ny[k]);
        draw_y_labels(&c, &f[k], y[k], ny[k], t->label[k]);
        if (t->spans) draw_panel(&c, &f[k], t, k);
        else draw_message(&c, &f[k]);
        if (k + 1 == TIMELINE_PANELS) draw_x_labels(&c, &f[k], x, nx, t->x_label);
    }
    canvas_write(&c, path);
    canvas_free(&c);
}

// plot.c: the line chart. The maps of colours are in plot_maps.c, what both share in figure.c.
#include "plot/plot.h"
#include "plot/figure.h"
#include <stdlib.h>

static Point to_pixel(const Frame *f, double x, double y) {
    if (!on_axis(&f->x, x) || !on_axis(&f->y, y)) return (Point){NAN, NAN};
    return (Point){x_pixel(f, x), y_pixel(f, y)};
}

// A label stands beside the end of its line: a legend that covers nothing.
typedef struct { const char *text; double line_y, y, weight; size_t series; } EndLabel;   // series: LEVEL for a level
static const size_t LEVEL = SIZE_MAX;
enum { LABEL_HEIGHT = 34, LABEL_INDENT = 62, MARKER_SPACING = 14 };

static Frame chart_frame(const Chart *chart) {
    Frame f = {.x = {INFINITY, -INFINITY, chart->log_x, true}, .y = {INFINITY, -INFINITY, chart->log_y, false}};
    for (size_t s = 0; s < chart->count; s++)
        for (size_t i = 0; i < chart->series[s].n; i++) {
            double x = chart->series[s].x[i], y = chart->series[s].y[i];
            if (!on_axis(&f.x, x) || !on_axis(&f.y, y)) continue;
            axis_include(&f.x, x), axis_include(&f.y, y);
            f.x.whole = f.x.whole && x == floor(x);
        }
    for (size_t i = 0; i < chart->levels; i++) axis_include(&f.y, chart->level[i]);
    axis_pad(&f.x, 0.015);
    axis_pad(&f.y, 0.04);
    return f;
}

typedef struct { Colour colour; double width, opacity; bool markers; int shape; size_t points; } LineStyle;

static void choose_styles(const Chart *chart, const Frame *f, LineStyle *style) {
    bool any_markers = false;
    size_t fewest = SIZE_MAX;
    for (size_t s = 0; s < chart->count; s++) {
        const Series *series = &chart->series[s];
        style[s] = (LineStyle){series_colour[s % COLOURS], 2.5, 1, .shape = (int)(s % MARKER_SHAPES)};
        for (size_t i = 0; i < series->n; i++)
            style[s].points += on_axis(&f->x, series->x[i]) && on_axis(&f->y, series->y[i]);
        if (style[s].points && style[s].points < fewest) fewest = style[s].points;
    }
    for (size_t s = 0; s < chart->count; s++) {
        bool far_apart = (double)style[s].points * MARKER_SPACING <= f->right - f->left;
        style[s].markers = style[s].points && far_apart && style[s].points <= 3 * fewest;
        if (style[s].markers) style[s].width = 4, any_markers = true;
    }
    for (size_t s = 0; any_markers && s < chart->count; s++)
        if (!style[s].markers) style[s].width = 2, style[s].opacity = 0.5;
}

// Of the points that fall into one column of pixels the first, the lowest, the highest and the last draw the line that
// all of them would draw (U. Jugel et al., M4, 2014), so a million points cost no more than the picture is wide.
static size_t thin_out(Point *p, size_t n) {
    size_t kept = 0;
    for (size_t i = 0, end; i < n; i = end) {
        size_t low = i, high = i;
        for (end = i + 1; end < n && floor(p[end].x) == floor(p[i].x); end++) {
            if (p[end].y < p[low].y) low = end;
            if (p[end].y > p[high].y) high = end;
        }
        size_t pick[4] = {i, low < high ? low : high, low < high ? high : low, end - 1};
        for (size_t k = 0; k < 4; k++)
            if (k == 0 || pick[k] != pick[k - 1]) p[kept++] = p[pick[k]];
    }
    return kept;
}

static void draw_series(Canvas *c, const Frame *f, const Series *s, const LineStyle *style) {
    Point *point = xmalloc(size_mul(s->n, sizeof *point));
    for (size_t i = 0; i < s->n; i++) point[i] = to_pixel(f, s->x[i], s->y[i]);
    size_t n = thin_out(point, s->n);
    canvas_stroke(c, point, n, style->width, style->colour, style->opacity);
    for (size_t i = 0; style->markers && i < n; i++) canvas_marker(c, style->shape, point[i], 8, style->colour);
    free(point);
}

static void draw_dashes(Canvas *c, Point from, Point to) {
    double dash = 14, gap = 9, length = to.x - from.x, slope = (to.y - from.y) / length;
    for (double at = 0; at < length; at += dash + gap) {
        double end = fmin(at + dash, length);
        Point line[2] = {{from.x + at, from.y + slope * at}, {from.x + end, from.y + slope * end}};
        canvas_stroke(c, line, 2, 3, ink, 1);
    }
}

// Moves labels apart so that they are LABEL_HEIGHT apart in the order of their lines, with the least sum of
// weight * distance^2: after taking k * LABEL_HEIGHT from the k-th that is isotonic regression, solved by pooling
// neighbours that are out of order into their mean (Ayer et al., 1955).
static void spread_labels(EndLabel *label, size_t n, double top, double bottom) {
    typedef struct { double mean, weight; size_t size; } Pool;
    Pool *pool = xmalloc(size_mul(n, sizeof *pool));
    size_t pools = 0;
    for (size_t k = 0; k < n; k++) {
        pool[pools++] = (Pool){label[k].line_y - (double)k * LABEL_HEIGHT, label[k].weight, 1};
        for (; pools > 1 && pool[pools - 2].mean > pool[pools - 1].mean; pools--) {
            Pool *a = &pool[pools - 2], b = pool[pools - 1];
            a->mean = (a->mean * a->weight + b.mean * b.weight) / (a->weight + b.weight);
            a->weight += b.weight, a->size += b.size;
        }
    }
    double highest = bottom - (double)(n - 1) * LABEL_HEIGHT;
    for (size_t i = 0, k = 0; i < pools; i++)
        for (size_t end = k + pool[i].size; k < end; k++)
            label[k].y = clamp(pool[i].mean, top, highest) + (double)k * LABEL_HEIGHT;
    free(pool);
}

static int by_line(const void *a, const void *b) {
    const EndLabel *p = a, *q = b;
    return p->line_y != q->line_y ? (p->line_y > q->line_y) - (p->line_y < q->line_y)
                                  : (p->series > q->series) - (p->series < q->series);
}

// Levels come first and are heavy: they stay beside their line, and stay at all where there are too many labels.
static size_t end_labels(const Chart *chart, const Frame *f, EndLabel *label) {
    size_t n = 0, most = (size_t)((PAGE_HEIGHT - MARGIN - f->top) / LABEL_HEIGHT);
    for (size_t i = 0; i < chart->levels && n < most; i++)
        if (chart->level_label && chart->level_label[i] && on_axis(&f->y, chart->level[i]))
            label[n++] = (EndLabel){chart->level_label[i], y_pixel(f, chart->level[i]), 0, 100, LEVEL};
    for (size_t s = 0; s < chart->count && n < most; s++) {
        const Series *series = &chart->series[s];
        Point end = {NAN, NAN};
        for (size_t i = 0; i < series->n; i++) {
            Point p = to_pixel(f, series->x[i], series->y[i]);
            if (isfinite(p.y)) end = p;
        }
        if (series->label && isfinite(end.y)) label[n++] = (EndLabel){series->label, end.y, 0, 1, s};
    }
    qsort(label, n, sizeof *label, by_line);
    spread_labels(label, n, f->top, PAGE_HEIGHT - MARGIN);  // beside the frame and below it nothing else is drawn
    return n;
}

static void draw_sample(Canvas *c, const LineStyle *style, double x, double y) {
    canvas_stroke(c, (Point[]){{x, y}, {x + 36, y}}, 2, style->width, style->colour, style->opacity);
    if (style->markers) canvas_marker(c, style->shape, (Point){x + 18, y}, 8, style->colour);
}

static void draw_end_label(Canvas *c, const Frame *f, const EndLabel *l, const LineStyle *style) {
    double x = f->right + 14;
    if (l->series == LEVEL) draw_dashes(c, (Point){f->right, l->line_y}, (Point){x + 36, l->y});
    else draw_sample(c, &style[l->series], x, l->y);
    draw_fitting(c, label_style, f->right + LABEL_INDENT, l->y, c->width - MARGIN - f->right - LABEL_INDENT, l->text);
}

// Dense lines, then levels, then the lines with markers on top.
static void draw_lines(Canvas *c, const Chart *chart, const Frame *f, const LineStyle *style) {
    for (size_t s = 0; s < chart->count; s++)
        if (!style[s].markers) draw_series(c, f, &chart->series[s], &style[s]);
    for (size_t i = 0; i < chart->levels; i++) {
        double y = y_pixel(f, chart->level[i]);
        if (on_axis(&f->y, chart->level[i])) draw_dashes(c, (Point){f->left, y}, (Point){f->right, y});
    }
    size_t points = 0;
    for (size_t s = 0; s < chart->count; s++) {
        if (style[s].markers) draw_series(c, f, &chart->series[s], &style[s]);
        points += style[s].points;
    }
    if (!points) canvas_text(c, aligned(label_style, 0.5), (f->left + f->right) / 2, (f->top + f->bottom) / 2,
                             "no finite values to draw");
}

static void draw_curves(Canvas *c, const Chart *chart, const Frame *f) {
    LineStyle *style = xmalloc(size_mul(chart->count, sizeof *style));
    choose_styles(chart, f, style);
    draw_lines(c, chart, f, style);
    EndLabel *label = xmalloc(size_mul(chart->count + chart->levels, sizeof *label));
    size_t labels = end_labels(chart, f, label);
    for (size_t i = 0; i < labels; i++) draw_end_label(c, f, &label[i], style);
    free(label);
    free(style);
}

static double label_column_width(const Chart *chart) {
    double widest = 0;
    for (size_t s = 0; s < chart->count; s++)
        if (chart->series[s].label) widest = fmax(widest, text_width(label_style, chart->series[s].label));
    for (size_t i = 0; i < chart->levels; i++)
        if (chart->level_label && chart->level_label[i])
            widest = fmax(widest, text_width(label_style, chart->level_label[i]));
    return widest > 0 ? fmin(widest + 2, 420) + LABEL_INDENT : 0;
}

void plot_chart(const char *path, const Chart *chart) {
    Canvas c = canvas_new(PAGE_WIDTH, PAGE_HEIGHT);
    Tick x[MOST_TICKS], y[MOST_TICKS];
    Frame f = chart_frame(chart);
    f.top = draw_heading(&c, PAGE_WIDTH, chart->title, chart->subtitle) + (chart->y_label ? 52 : 20);
    f.bottom = PAGE_HEIGHT - (chart->x_label ? 112 : 70);
    size_t ny = make_ticks(&f.y, floor((f.bottom - f.top) / 68), y);
    f.left = ceil(MARGIN + 14 + widest_label(y, ny));
    f.right = floor(PAGE_WIDTH - MARGIN - label_column_width(chart));
    size_t nx = make_x_ticks(&f.x, f.right - f.left, x);
    draw_grid(&c, &f, x, nx, y, ny);
    draw_x_labels(&c, &f, x, nx, chart->x_label);
    draw_y_labels(&c, &f, y, ny, chart->y_label);
    draw_curves(&c, chart, &f);
    canvas_write(&c, path);
    canvas_free(&c);
}

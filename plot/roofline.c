// roofline.c: draws roofs, points under them, and labels that do not cover one another.
#include "plot/roofline.h"
#include "plot/figure.h"
#include <stdlib.h>
#include <string.h>

static const Colour shade = {236, 242, 247}, roof_colour = {70, 70, 70};
static const TextStyle point_style = {.size = 20, .colour = {34, 34, 34}};
static const TextStyle roof_style = {.size = 22, .bold = true, .colour = {70, 70, 70}};
enum { MARKER = 9, BESIDE = MARKER + 8, LINE = 28 };   // radius of a marker, a label close to it, height of a label

typedef struct { double left, top, right, bottom; } Box;
// A point's label: where it stands, and the end of the line that leads to it.
typedef struct {
    const RooflinePoint *point;
    Point at, touch;
    char *text;
    double wide, distance;
    Box box;
    bool placed;
} Label;
typedef struct { Canvas *canvas; const Roofline *r; Frame f; Box roof[2]; Label *label; size_t labels; } Drawing;

static bool drawable(const RooflinePoint *p) {
    return usable(p->intensity) && usable(p->gflops) && p->intensity > 0 && p->gflops > 0;
}

// ---- the roofs -----------------------------------------------------------------------------------
// Both roofs and where they meet are always in the picture, with at least two decades of intensity.
static void choose_axes(Frame *f, const Roofline *r) {
    double ridge = r->peak / r->bandwidth;
    f->x = (Axis){ridge / 10, ridge * 10, true, false};
    f->y = (Axis){r->peak / 10, r->peak, true, false};
    for (size_t i = 0; i < r->points; i++)
        if (drawable(&r->point[i])) axis_include(&f->x, r->point[i].intensity), axis_include(&f->y, r->point[i].gflops);
    axis_pad(&f->x, 0.06);
    axis_pad(&f->y, 0.08);
}

static double intensity_at(const Frame *f, double pixel) {
    return f->x.low * pow(f->x.high / f->x.low, (pixel - f->left) / (f->right - f->left));
}

static double roof_pixel(const Drawing *d, double pixel) {
    return clamp(y_pixel(&d->f, roofline_at(d->r, intensity_at(&d->f, pixel))), d->f.top, d->f.bottom);
}

static void draw_shade(Drawing *d) {
    for (double x = d->f.left; x < d->f.right; x++)
        canvas_box(d->canvas, x, roof_pixel(d, x + 0.5), fmin(x + 1, d->f.right), d->f.bottom, shade, 1);
}

// The slope begins where it enters the frame, on its left side or from below.
static void draw_roofs(Drawing *d) {
    const Roofline *r = d->r;
    const Frame *f = &d->f;
    double start = fmax(f->x.low, f->y.low / r->bandwidth), ridge = r->peak / r->bandwidth;
    const Point line[3] = {{x_pixel(f, start), y_pixel(f, start * r->bandwidth)},
                           {x_pixel(f, ridge), y_pixel(f, r->peak)}, {f->right, y_pixel(f, r->peak)}};
    canvas_stroke(d->canvas, line, 3, 4, roof_colour, 1);
    char *peak = xprintf("fused multiply-adds %.4g GFLOP/s", r->peak),
         *read = xprintf("memory read %.3g GB/s", r->bandwidth);
    double x = (line[0].x + 2 * line[1].x) / 3, y = (line[0].y + 2 * line[1].y) / 3,
           wide = text_width(roof_style, read);
    canvas_text(d->canvas, aligned(roof_style, 1), f->right - 8, line[1].y - 26, peak);
    d->roof[0] = (Box){f->right - 8 - text_width(roof_style, peak), line[1].y - 42, f->right, line[1].y - 8};
    x = x - 24 - wide > f->left ? x - 24 - wide : x + 24;      // outside, or inside where there is no room
    canvas_text(d->canvas, roof_style, x, y, read);
    d->roof[1] = (Box){x, y - 16, x + wide, y + 16};
    free(peak);
    free(read);
}

// ---- the labels ----------------------------------------------------------------------------------
static bool overlap(Box a, Box b) {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
static Box around(Point p, double radius) { return (Box){p.x - radius, p.y - radius, p.x + radius, p.y + radius}; }
static Box marker_box(const Label *l) { return around(l->at, MARKER + 2); }
static bool has_line(const Label *l) { return l->placed && l->distance > BESIDE; }

enum { LINE_STEPS = 40 };
static Point on_line(Point from, Point to, int step) {
    double t = (double)step / LINE_STEPS;
    return (Point){from.x + t * (to.x - from.x), from.y + t * (to.y - from.y)};
}

static bool line_crosses(const Label *l, Box b) {
    for (int step = 0; step <= LINE_STEPS; step++)
        if (overlap(around(on_line(l->at, l->touch, step), 1), b)) return true;
    return false;
}

// The roof falls from right to left, so over a box it lies between its values at the box's sides.
static bool is_free(const Drawing *d, Box b) {
    if (b.left < d->f.left + 4 || b.right > d->f.right - 4 || b.top < d->f.top || b.bottom > d->f.bottom - 4)
        return false;
    if (roof_pixel(d, b.right) < b.bottom + 3 && roof_pixel(d, b.left) > b.top - 3) return false;
    if (overlap(b, d->roof[0]) || overlap(b, d->roof[1])) return false;
    for (const Label *l = d->label; l < d->label + d->labels; l++)
        if (overlap(b, marker_box(l)) || (l->placed && overlap(b, l->box)) || (has_line(l) && line_crosses(l, b)))
            return false;
    return true;
}

// Whether the line to a label runs through no roof, no other label, and no marker other than those that touch its own.
static bool is_clear(const Drawing *d, const Label *mine) {
    bool above = mine->at.y < roof_pixel(d, mine->at.x);
    for (int step = 0; step <= LINE_STEPS; step++) {
        Point p = on_line(mine->at, mine->touch, step);
        if ((p.y < roof_pixel(d, p.x)) != above) return false;
    }
    for (const Label *l = d->label; l < d->label + d->labels; l++)
        if ((!overlap(marker_box(mine), marker_box(l)) && line_crosses(mine, marker_box(l))) ||
            (l->placed && line_crosses(mine, l->box))) return false;
    return true;
}

// Puts the label's box at a distance and direction from its marker: beside it, or centred above or below it.
static void put(Label *l, double distance, double angle) {
    double c = cos(angle), s = sin(angle);
    l->distance = distance;
    l->touch = (Point){l->at.x + distance * c, l->at.y + distance * s};
    double left = c > 0.5 ? l->touch.x : c < -0.5 ? l->touch.x - l->wide : l->touch.x - l->wide / 2;
    double top = fabs(s) < 0.5 ? l->touch.y - LINE / 2.0 : s > 0 ? l->touch.y : l->touch.y - LINE;
    l->box = (Box){left, top, left + l->wide, top + LINE};
}

// The nearest free place, right of the marker before left of it.
static void find_place(const Drawing *d, Label *l) {
    enum { DIRECTIONS = 24 };
    static const double distances[] = {BESIDE, 34, 54, 80, 110, 145, 185, 230, 280, 340, 400};
    for (size_t i = 0; i < sizeof distances / sizeof distances[0]; i++)
        for (int k = 0; k < DIRECTIONS; k++) {
            int turn = (k + 1) / 2 * (k % 2 ? 1 : -1);             // right, then ever further to both sides
            put(l, distances[i], turn * 6.283185307179586 / DIRECTIONS);
            if ((l->placed = is_free(d, l->box) && is_clear(d, l))) return;
        }
}

// Places the labels one after the other in a given order; returns how far they are from their markers in all.
static double arrange(Drawing *d, const size_t *order) {
    const double lost = 2000;
    double cost = 0;
    for (size_t i = 0; i < d->labels; i++) d->label[i].placed = false;
    for (size_t i = 0; i < d->labels; i++) {
        Label *l = &d->label[order[i]];
        find_place(d, l);
        cost += l->placed ? l->distance : lost;
    }
    return cost;
}

// Where markers crowd, the order decides who finds a place: many orders are tried, and the best is taken.
static void arrange_well(Drawing *d) {
    enum { ORDERS = 40 };
    size_t n = d->labels, *order = xmalloc(size_mul(n, sizeof *order)), *best = xmalloc(size_mul(n, sizeof *best));
    uint32_t random = 1;
    double least = INFINITY;
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (int tried = 0; tried < ORDERS; tried++) {
        double cost = arrange(d, order);
        if (cost < least) least = cost, memcpy(best, order, n * sizeof *best);
        for (size_t i = n; i > 1; i--) { // a shuffle (Fisher and Yates), the same in every run
            random = random * 1664525u + 1013904223u;
            size_t j = (random >> 8) % i, other = order[i - 1];
            order[i - 1] = order[j], order[j] = other;
        }
    }
    arrange(d, best);
    free(order);
    free(best);
}

static void make_labels(Drawing *d) {
    d->label = xmalloc(size_mul(d->r->points, sizeof *d->label));
    for (const RooflinePoint *p = d->r->point; p < d->r->point + d->r->points; p++) {
        if (!drawable(p)) continue;
        char *text = xprintf("%s %.0f%%", p->label, 100 * p->gflops / roofline_at(d->r, p->intensity));
        d->label[d->labels++] = (Label){.point = p, .at = {x_pixel(&d->f, p->intensity), y_pixel(&d->f, p->gflops)},
                                        .text = text, .wide = text_width(point_style, text) + 4};
    }
    arrange_well(d);
}

// Markers come last: they lie on top of the lines to their labels.
static void draw_points(Drawing *d) {
    for (const Label *l = d->label; l < d->label + d->labels; l++) {
        if (has_line(l)) canvas_stroke(d->canvas, (Point[]){l->at, l->touch}, 2, 1.5, grey, 0.8);
        if (l->placed) canvas_text(d->canvas, point_style, l->box.left + 2, (l->box.top + l->box.bottom) / 2, l->text);
    }
    for (const Label *l = d->label; l < d->label + d->labels; l++) {
        int group = l->point->group;
        canvas_marker(d->canvas, group % MARKER_SHAPES, l->at, MARKER, series_colour[group % COLOURS]);
    }
}

// Under the picture: the points whose labels found no place, as many as two lines hold.
static void draw_left_out(Canvas *c, const Label *label, size_t labels, double y) {
    enum { LINES = 2 };
    size_t lost = 0, drawn = 0;
    for (size_t i = 0; i < labels; i++) lost += !label[i].placed;
    char *line = xprintf("%zu label%s left out:", lost, lost == 1 ? "" : "s");
    for (size_t i = 0, named = 0; i < labels && drawn < LINES; i++) {
        if (label[i].placed) continue;
        char *longer = xprintf("%s %s%s", line, label[i].text, ++named < lost ? ";" : "");
        bool fits = text_width(point_style, longer) < PAGE_WIDTH - 2 * MARGIN;
        if (!fits) canvas_text(c, point_style, MARGIN, y + LINE * (double)drawn++, line);
        free(line);
        line = fits ? longer : xprintf("%s%s", label[i].text, named < lost ? ";" : "");
        if (!fits) free(longer);
    }
    if (lost && drawn < LINES) canvas_text(c, point_style, MARGIN, y + LINE * (double)drawn, line);
    free(line);
}

static void draw_legend(Canvas *c, const Roofline *r, double right, double y) {
    for (size_t i = r->group_label ? r->groups : 0; i-- > 0;) {
        right -= text_width(label_style, r->group_label[i]);
        canvas_text(c, label_style, right, y, r->group_label[i]);
        canvas_marker(c, (int)(i % MARKER_SHAPES), (Point){right - 18, y}, MARKER, series_colour[i % COLOURS]);
        right -= 56;
    }
}

// ---- the page ------------------------------------------------------------------------------------
void roofline_draw(const char *path, const Roofline *r) {
    Canvas c = canvas_new(PAGE_WIDTH, PAGE_HEIGHT);
    Tick x[MOST_TICKS], y[MOST_TICKS];
    Drawing d = {.canvas = &c, .r = r};
    Frame *f = &d.f;
    choose_axes(f, r);
    f->top = draw_heading(&c, PAGE_WIDTH, r->title, r->subtitle) + 52;
    f->bottom = PAGE_HEIGHT - 160;
    size_t ny = make_ticks(&f->y, floor((f->bottom - f->top) / 68), y);
    f->left = ceil(MARGIN + 14 + widest_label(y, ny));
    f->right = PAGE_WIDTH - MARGIN;
    size_t nx = make_x_ticks(&f->x, f->right - f->left, x);
    draw_shade(&d);
    draw_grid(&c, f, x, nx, y, ny);
    draw_x_labels(&c, f, x, nx, "intensity: FLOP per byte that must pass between memory and core");
    draw_y_labels(&c, f, y, ny, "GFLOP/s");
    draw_legend(&c, r, f->right, f->top - 30);
    draw_roofs(&d);
    make_labels(&d);
    draw_points(&d);
    draw_left_out(&c, d.label, d.labels, f->bottom + 112);
    for (size_t i = 0; i < d.labels; i++) free(d.label[i].text);
    free(d.label);
    canvas_write(&c, path);
    canvas_free(&c);
}

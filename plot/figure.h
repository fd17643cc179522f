// figure.h: what all pictures share: the page, its heading, axes with readable ticks, and a frame that they span.
// Sizes are pixels at twice the usual density. plot.h is the door to the pictures, this is their workshop.
#ifndef FIGURE_H
#define FIGURE_H
#include "plot/canvas.h"
#include <math.h>

enum { PAGE_WIDTH = 1600, PAGE_HEIGHT = 1000, MARGIN = 48, MOST_TICKS = 64 };

static const Colour ink = {34, 34, 34}, grey = {95, 95, 95}, faint = {228, 228, 228};
static const TextStyle label_style = {.size = 24, .colour = {34, 34, 34}};
static const TextStyle tick_style = {.size = 22, .colour = {75, 75, 75}};

// The colours of M. Okabe and K. Ito (2008, https://jfly.uni-koeln.de/color), which colour-blind readers tell apart;
// their yellow is too pale for lines. Where colour is lost, markers and labels tell.
enum { COLOURS = 7 };
extern const Colour series_colour[COLOURS];

static inline TextStyle aligned(TextStyle style, double align) {
    style.align = align;
    return style;
}

// Draws as much of the text as fits into `width`, ending in "…" where it was cut.
void draw_fitting(Canvas *c, TextStyle style, double x, double y, double width, const char *text);
// Title and subtitle; returns the y below them. With c == NULL nothing is drawn.
double draw_heading(Canvas *c, double page_width, const char *title, const char *subtitle);

// ---- axes --------------------------------------------------------------------------------------
typedef struct { double low, high; bool logarithmic, whole; } Axis;  // logarithmic: low, high > 0; whole: no 1.5 on it
typedef struct { double value; char label[32]; } Tick;               // an empty label: a grid line alone

static inline bool usable(double v) { return fabs(v) <= 1e300; }     // false for NAN, too
bool on_axis(const Axis *a, double v);                               // whether v can be drawn at all
void axis_include(Axis *a, double v);                                // start from {INFINITY, -INFINITY}
void axis_widen(Axis *a);             // an empty range, or one too narrow to divide, becomes one around its value
void axis_pad(Axis *a, double share); // the same, and room on both sides

// All write at most MOST_TICKS and return how many: about `most` labels, but at least two.
size_t linear_ticks(const Axis *a, double most, Tick *tick);         // steps of 1, 2, 5 times a power of ten
size_t make_ticks(const Axis *a, double most, Tick *tick);           // linear or logarithmic
size_t make_x_ticks(const Axis *a, double width, Tick *tick);        // as many as fit side by side
double nice_step(double range, double most);
double widest_label(const Tick *tick, size_t n);
// v as one of several numbers up to `largest` that lie `step` apart: with the digits that tell them apart.
void write_number(char text[32], double v, double step, double largest);

// ---- the frame: where data is drawn ------------------------------------------------------------
typedef struct { double left, top, right, bottom; Axis x, y; } Frame;
double x_pixel(const Frame *f, double v);
double y_pixel(const Frame *f, double v);
void draw_grid(Canvas *c, const Frame *f, const Tick *x, size_t nx, const Tick *y, size_t ny);
void draw_x_labels(Canvas *c, const Frame *f, const Tick *tick, size_t n, const char *label);
void draw_y_labels(Canvas *c, const Frame *f, const Tick *tick, size_t n, const char *label);
#endif

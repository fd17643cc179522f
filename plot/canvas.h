// canvas.h: a white RGB image, anti-aliased strokes, boxes, markers and text on it, and its PNG.
// Coordinates are pixels from the top left corner, the centre of the first pixel is (0.5, 0.5).
// It knows nothing of axes and data: that is plot.h.
#ifndef CANVAS_H
#define CANVAS_H
#include "lib/util.h"

static inline double clamp(double v, double low, double high) { return v < low ? low : v > high ? high : v; }

typedef struct { uint8_t r, g, b; } Colour;
typedef struct { double x, y; } Point;
typedef struct { uint8_t *pixel; int width, height; } Canvas;  // pixel[(y * width + x) * 3 + channel]

Canvas canvas_new(double width, double height);         // rounded to whole pixels; fails over 64 million of them
void canvas_free(Canvas *c);
void canvas_write(const Canvas *c, const char *path);   // a PNG, through an atomic file: fails if it cannot

// What lies outside of the image is clipped. Opacity is 0 to 1.
void canvas_box(Canvas *c, double left, double top, double right, double bottom, Colour colour, double opacity);
// A line through the points with round joins and ends, each pixel painted once however often the
// line crosses it. A point with a NAN breaks the line; a single point draws a dot.
void canvas_stroke(Canvas *c, const Point *point, size_t n, double width, Colour colour, double opacity);
enum { MARKER_SHAPES = 4 };                             // circle, square, triangle, diamond
void canvas_marker(Canvas *c, int shape, Point at, double radius, Colour colour);

// Text is UTF-8 in one line; a broken sequence shows as U+FFFD and control characters as spaces.
typedef struct {
    double size;        // of an em, in pixels
    double align;       // 0: starts at x, 0.5: centred on x, 1: ends at x
    bool bold, upward;  // upward: reads from bottom to top, and align goes along y
    Colour colour;
} TextStyle;
// y is the middle of a capital letter (upward: x is).
void canvas_text(Canvas *c, TextStyle style, double x, double y, const char *text);
double text_width(TextStyle style, const char *text);
size_t text_fit(TextStyle style, const char *text, double width);  // bytes of the longest beginning that fits
size_t utf8_decode(const char *text, uint32_t *code);   // bytes of the first character (1 if broken: U+FFFD)

// A colour map, t from 0 (pale) to 1 (dark): lightness falls evenly, so it reads the same in grey.
Colour colour_ramp(double t);
#endif

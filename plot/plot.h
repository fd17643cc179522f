// plot.h: pictures of a run, drawn here and written as PNG with stb_image_write. Anti-aliased, with
// readable ticks and labels (stb_truetype over a system font, or over the file that the environment variable
// RECEIPTS_FONT names; stb_easy_font where there is none). NULL is an empty text. A title or label that is too long
// is cut, a subtitle is wrapped first. Values that are not finite (or beyond 1e300) are never drawn.
#ifndef PLOT_H
#define PLOT_H
#include "lib/util.h"

// A NAN in y breaks the line. A series whose points lie far enough apart gets markers; a dense one, or one with over
// three times the points of another, is a thin line, and a pale one where others have markers: so a noisy training
// loss stays behind its validation loss.
typedef struct { const char *label; const double *x, *y; size_t n; } Series;
typedef struct {
    const char *title, *subtitle;      // subtitle: the flags that differ from the defaults; long ones are wrapped
    const char *x_label, *y_label;
    bool log_x, log_y;                 // what is not positive is then left out
    const Series *series; size_t count;
    // Horizontal dashed lines, e.g. the entropy floor. A label is drawn as it is ("entropy floor 1.234"), at the right.
    const double *level; const char *const *level_label; size_t levels;
} Chart;
void plot_chart(const char *path, const Chart *chart);

// Quantities over one time, each in a panel: what they were from .from to .to, in the order of time; in between 0.
// most: up to where the axis goes at least. Means over the time of a pixel are filled, largest values are the line.
enum { TIMELINE_PANELS = 3 };
typedef struct { double from, to, value[TIMELINE_PANELS]; } Span;
typedef struct {
    const char *title, *subtitle, *x_label, *label[TIMELINE_PANELS];
    double most[TIMELINE_PANELS];
    const Span *span; size_t spans;
} Timeline;
void plot_timeline(const char *path, const Timeline *timeline);

// A grid of rows x columns values as colours, with a colour bar. NAN cells are blank; where there are more
// cells than pixels, a pixel shows the mean of its cells.
typedef struct {
    const char *title, *subtitle, *x_label, *y_label, *value_label;
    const double *value; size_t rows, columns;   // value[row * columns + column]; row 0 is drawn at the top
    double x_low, x_high;                        // what the first and last column stand for (ticks); equal: numbers
    double low, high;                            // colour range; low == high: from the data
    const char *const *row_label;                // NULL: numbers
    size_t group; const char *const *group_label;// rows per group (0: all), with a gap and a name between groups
} HeatMap;
void plot_heat_map(const char *path, const HeatMap *map);

// Small multiples: `count` square maps of n x n in a grid of `columns` (0: about as many as rows), each with its own
// label, for attention maps per layer and head. tick: one label per row and column (tokens), or NULL; where cells are
// too small for all of them the subtitle says how many are drawn.
// All share one colour scale, from the smallest value (at most 0) to the largest, along the square root, so that
// small weights show. Where everything above the diagonals is 0 or NAN (a causal mask), that is left blank.
typedef struct {
    const char *title, *subtitle;
    const double *const *value; const char *const *label; size_t count, columns, n;
    const char *const *tick;
} MapGrid;
void plot_map_grid(const char *path, const MapGrid *grid);

// A text of n tokens, once for each layer, each token on the colour of its group: group[layer * n + token], -1: none.
typedef struct {
    const char *title, *subtitle;
    const char *const *token, *const *layer_label; const int *group;
    size_t n, layers, groups;
} GroupedText;
void plot_grouped_text(const char *path, const GroupedText *text);
void plot_group_colour(size_t group, size_t groups, int rgb[3]);
#endif

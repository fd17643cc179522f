// plot.h: pictures of a run, drawn here and written as PNG with stb_image_write. Anti-aliased, with
// readable ticks and labels (stb_truetype over a system font; stb_easy_font where there is none).
#ifndef PLOT_H
#define PLOT_H
#include "util.h"

typedef struct { const char *label; const double *x, *y; size_t n; } Series;  // a NAN in y breaks the line
typedef struct {
    const char *title, *subtitle;      // subtitle: the flags that differ from the defaults; long ones are wrapped
    const char *x_label, *y_label;
    bool log_x, log_y;
    const Series *series; size_t count;
    const double *level; const char *const *level_label; size_t levels;  // horizontal dashed lines, e.g. the entropy floor
} Chart;
void plot_chart(const char *path, const Chart *chart);

// A grid of rows x columns values as colours, with a colour bar. NAN cells are blank.
typedef struct {
    const char *title, *subtitle, *x_label, *y_label, *value_label;
    const double *value; size_t rows, columns;   // value[row * columns + column]; row 0 is drawn at the top
    double x_low, x_high;                        // what the first and last column stand for (ticks)
    double low, high;                            // colour range; low == high: from the data
    const char *const *row_label;                // NULL: numbers
} HeatMap;
void plot_heat_map(const char *path, const HeatMap *map);

// Small multiples: `count` square maps of n x n in a grid of `columns`, each with its own label, for
// attention maps per layer and head. tick: one label per row and column (tokens), or NULL.
typedef struct {
    const char *title, *subtitle;
    const double *const *value; const char *const *label; size_t count, columns, n;
    const char *const *tick;
} MapGrid;
void plot_map_grid(const char *path, const MapGrid *grid);
#endif

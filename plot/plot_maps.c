// plot_maps.c: values as colours: the heat map, and the grid of small maps.
#include "plot/plot.h"
#include "plot/figure.h"
#include <stdlib.h>

// ---- maps of colours ---------------------------------------------------------------------------
typedef struct {
    const double *value; size_t rows, columns;  // value[row * columns + column]
    double low, high;                           // the colours' range
    bool root, causal;                          // colours along the square root; blank above the diagonal
} Cells;

static double cell_value(const Cells *m, size_t row, size_t column) {
    return m->causal && column > row ? NAN : m->value[row * m->columns + column];
}

static double shade(const Cells *m, double v) {  // 0 to 1 along the colour map
    double t = clamp((v - m->low) / (m->high - m->low), 0, 1);
    return m->root ? sqrt(t) : t;
}

static void range_include(Cells *m, const double *value, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (usable(value[i])) m->low = fmin(m->low, value[i]), m->high = fmax(m->high, value[i]);
}

// The part of cell [i, i+1] that lies in [low, high].
static double overlap(size_t i, double low, double high) { return fmin((double)i + 1, high) - fmax((double)i, low); }

// The mean of the cells under a box given in cells, weighted by area, and in `filled` the share that is not blank.
static double mean_of_cells(const Cells *m, double top, double left, double bottom, double right, double *filled) {
    double sum = 0, weight = 0;
    for (size_t r = (size_t)top; r < m->rows && (double)r < bottom; r++)
        for (size_t k = (size_t)left; k < m->columns && (double)k < right; k++) {
            double v = cell_value(m, r, k);
            if (!usable(v)) continue;
            double area = overlap(r, top, bottom) * overlap(k, left, right);
            sum += area * v, weight += area;
        }
    *filled = weight / ((bottom - top) * (right - left));
    return sum / weight;
}

static void draw_cells(Canvas *c, const Cells *m, double left, double top, double right, double bottom) {
    double rows = (double)m->rows / (bottom - top), columns = (double)m->columns / (right - left), filled;
    for (double y = top; y < bottom; y++)
        for (double x = left; x < right; x++) {
            double v = mean_of_cells(m, (y - top) * rows, (x - left) * columns, (y + 1 - top) * rows,
                                     (x + 1 - left) * columns, &filled);
            if (filled > 0) canvas_box(c, x, y, x + 1, y + 1, colour_ramp(shade(m, v)), fmin(filled, 1));
        }
}

// ---- colour bar --------------------------------------------------------------------------------
enum { BAR_WIDTH = 28, BAR_GAP = 40 };

static size_t bar_ticks(const Cells *m, double height, Tick *tick) {
    Axis axis = {.low = m->low, .high = m->high};
    size_t n = linear_ticks(&axis, floor(height / 70), tick);
    if (!m->root || n < 2) return n;
    // The first step takes most of a bar along the square root: it gets a tick inside.
    double part = nice_step(tick[1].value - tick[0].value, 5);
    tick[n].value = tick[0].value + part;
    write_number(tick[n].label, tick[n].value, part, fmax(fabs(m->low), fabs(m->high)));
    return n + 1;
}

static double bar_width(const Tick *tick, size_t n) { return BAR_GAP + BAR_WIDTH + 14 + widest_label(tick, n); }

static void draw_bar(Canvas *c, const Cells *m, double left, double top, double bottom, const Tick *tick, size_t n) {
    for (double y = top; y < bottom; y++)
        canvas_box(c, left, y, left + BAR_WIDTH, y + 1, colour_ramp((bottom - y - 0.5) / (bottom - top)), 1);
    for (size_t i = 0; i < n; i++) {
        double y = bottom - (bottom - top) * shade(m, tick[i].value);
        canvas_box(c, left + BAR_WIDTH, y - 1, left + BAR_WIDTH + 6, y + 1, grey, 1);
        canvas_text(c, tick_style, left + BAR_WIDTH + 14, y, tick[i].label);
    }
}

// ---- heat map ----------------------------------------------------------------------------------
static Cells heat_cells(const HeatMap *map) {
    Cells m = {map->value, map->rows, map->columns, map->low, map->high, false, false};
    if (usable(m.low) && usable(m.high) && m.low < m.high) return m;
    m.low = INFINITY, m.high = -INFINITY;
    range_include(&m, map->value, size_mul(map->rows, map->columns));
    Axis range = {.low = m.low, .high = m.high};
    axis_widen(&range);
    m.low = range.low, m.high = range.high;
    return m;
}

static char *row_name(const HeatMap *map, size_t row) {
    return map->row_label ? xprintf("%s", map->row_label[row] ? map->row_label[row] : "") : xprintf("%zu", row);
}

static double widest_row_name(const HeatMap *map) {
    double widest = 0;
    for (size_t r = 0; r < map->rows; r++) {
        char *name = row_name(map, r);
        widest = fmax(widest, text_width(tick_style, name));
        free(name);
    }
    return fmin(widest + 2, 360);
}

// Rows of `group` each (the last may have fewer), all of one height, with gaps between them.
typedef struct { size_t rows, count; double pitch, gap; } Groups;

static Groups make_groups(const HeatMap *map, double height) {
    Groups g = {.rows = map->group ? map->group : fmax(1, (double)map->rows)};
    g.count = (map->rows + g.rows - 1) / g.rows;
    double gaps = g.count > 1 ? (double)(g.count - 1) : 0;
    g.gap = floor(clamp(0.1 * height / (gaps + 1), 1, 14));
    g.pitch = (height - gaps * g.gap) / fmax(1, (double)map->rows);
    return g;
}

static double row_top(const Groups *g, const Frame *f, size_t row) {
    return f->top + g->pitch * (double)row + g->gap * (double)(row / g->rows);
}

static const char *group_name(const HeatMap *map, size_t group) {
    return map->group_label && map->group_label[group] ? map->group_label[group] : "";
}

static double widest_group_name(const HeatMap *map, size_t groups) {
    double widest = 0;
    for (size_t i = 0; i < groups; i++) widest = fmax(widest, text_width(label_style, group_name(map, i)));
    return widest > 0 ? fmin(widest, 240) + 22 : 0;
}

static void draw_groups(Canvas *c, const Frame *f, const Cells *m, const Groups *g) {
    for (size_t first = 0; first < m->rows; first += g->rows) {
        Cells part = *m;
        part.value += first * m->columns;
        part.rows = m->rows - first < g->rows ? m->rows - first : g->rows;
        double top = row_top(g, f, first);
        draw_cells(c, &part, f->left, floor(top), f->right, floor(top + g->pitch * (double)part.rows));
    }
}

// As many names as there is room for, the same round ones in each group.
static void draw_row_names(Canvas *c, const Frame *f, const HeatMap *map, const Groups *g) {
    size_t every = 1;
    while ((double)every * g->pitch < 26) every *= 2;
    double x = f->left - 14, width = widest_row_name(map);
    for (size_t r = 0; r < map->rows; r++) {
        if (r % g->rows % every) continue;
        char *name = row_name(map, r);
        draw_fitting(c, aligned(tick_style, 1), x, row_top(g, f, r) + 0.5 * g->pitch, width, name);
        free(name);
    }
    size_t step = (size_t)ceil(30 / (g->pitch * (double)g->rows + g->gap));
    for (size_t i = 0; i < g->count; i += step) {
        size_t last = (i + 1) * g->rows < map->rows ? (i + 1) * g->rows - 1 : map->rows - 1;
        double middle = 0.5 * (row_top(g, f, i * g->rows) + row_top(g, f, last) + g->pitch);
        draw_fitting(c, label_style, MARGIN, middle, 240, group_name(map, i));
    }
}

// Ticks stand at the middle of the columns, so the axis reaches half a column beyond the first and the last.
static Axis column_axis(const HeatMap *map) {
    bool numbers = map->x_low == map->x_high || map->columns < 2;
    double low = numbers ? 0 : map->x_low, high = numbers ? (double)map->columns - 1 : map->x_high;
    double half = map->columns > 1 ? (high - low) / ((double)map->columns - 1) / 2 : 0.5;
    return (Axis){low - half, high + half, false, numbers};
}

// Rows of up to 90 pixels; many rows make a tall picture, up to where they have no room for names anyway.
static double heat_height(const HeatMap *map, double room) {
    double rows = (double)map->rows;
    return floor(clamp(90 * rows, 200, fmax(room, fmin(26 * rows, 1700))));
}

void plot_heat_map(const char *path, const HeatMap *map) {
    Cells m = heat_cells(map);
    Tick x[MOST_TICKS], bar[MOST_TICKS];
    Frame f = {.x = column_axis(map), .y = {.high = 1}};
    double labels = map->y_label || map->value_label ? 52 : 20;
    f.top = ceil(draw_heading(NULL, PAGE_WIDTH, map->title, map->subtitle)) + labels;
    double below = map->x_label ? 112 : 70, height = heat_height(map, PAGE_HEIGHT - f.top - below);
    f.bottom = f.top + height;
    size_t bars = bar_ticks(&m, height, bar);
    Groups groups = make_groups(map, height);
    f.left = ceil(MARGIN + widest_group_name(map, groups.count) + 14 + widest_row_name(map));
    f.right = floor(PAGE_WIDTH - MARGIN - bar_width(bar, bars));
    size_t nx = make_x_ticks(&f.x, f.right - f.left, x);
    Canvas c = canvas_new(PAGE_WIDTH, f.bottom + below);
    draw_heading(&c, PAGE_WIDTH, map->title, map->subtitle);
    if (map->columns) draw_groups(&c, &f, &m, &groups);
    draw_row_names(&c, &f, map, &groups);
    draw_x_labels(&c, &f, x, nx, map->x_label);
    draw_y_labels(&c, &f, NULL, 0, map->y_label);
    draw_bar(&c, &m, f.right + BAR_GAP, f.top, f.bottom, bar, bars);
    if (map->value_label)
        draw_fitting(&c, aligned(label_style, 1), PAGE_WIDTH - MARGIN, f.top - 30, PAGE_WIDTH / 2, map->value_label);
    canvas_write(&c, path);
    canvas_free(&c);
}

// ---- grid of maps ------------------------------------------------------------------------------
// Maps shrink until the page is at most so large; what does not fit even then is left out, and the picture says so.
enum { MOST_WIDTH = 3200, MOST_HEIGHT = 6000, LEAST_SIDE = 4, MOST_SIDE = 560, LEAST_LABELLED = 90, NARROW_GAP = 4 };
typedef struct {
    size_t rows, columns, shown;          // maps
    double left, top, side, gap;          // of the first map; from map to map it is side + gap (+ heading) further
    double heading, names;                // room for the label above each map, and for names left of and below them
} Layout;

static bool above_diagonals_blank(const MapGrid *g) {
    for (size_t m = 0; m < g->count; m++)
        for (size_t r = 0; r < g->n; r++)
            for (size_t k = r + 1; k < g->n; k++) {
                double v = g->value[m][r * g->n + k];
                if (v != 0 && !isnan(v)) return false;
            }
    return true;
}

static Cells grid_cells(const MapGrid *g) {
    Cells m = {NULL, g->n, g->n, 0, -INFINITY, true, above_diagonals_blank(g)};
    for (size_t i = 0; i < g->count; i++) range_include(&m, g->value[i], size_mul(g->n, g->n));
    if (!(m.high > m.low)) m.high = m.low + 1;
    return m;
}

static const char *map_label(const MapGrid *g, size_t map) { return g->label && g->label[map] ? g->label[map] : ""; }

static TextStyle token_style(double cell) {
    TextStyle style = aligned(tick_style, 1);
    style.size = clamp(0.85 * cell, 13, style.size);
    return style;
}

// Room for the names of the tokens beside large maps, or for the label of a row of maps beside small ones.
static double names_width(const MapGrid *g, const Layout *l) {
    double widest = 0;
    TextStyle style = token_style(MOST_SIDE / (double)g->n);
    for (size_t i = 0; l->heading > 0 && g->tick && i < g->n; i++)
        if (g->tick[i]) widest = fmax(widest, text_width(style, g->tick[i]));
    for (size_t m = 0; l->heading <= 0 && m < l->shown; m += l->columns)
        widest = fmax(widest, text_width(tick_style, map_label(g, m)));
    return fmin(ceil(widest), 160) + (widest > 0 ? 12 : 0);
}

static Layout grid_layout(const MapGrid *g, double bar) {
    Layout l = {.gap = 28, .heading = 40, .left = MARGIN};
    size_t wanted = g->columns ? g->columns : (size_t)ceil(sqrt((double)g->count));
    double count = (double)g->count, least_pitch = LEAST_SIDE + NARROW_GAP;
    l.columns = (size_t)clamp((double)wanted, 1, fmax(1, fmin(count, MOST_WIDTH / least_pitch)));
    l.rows = (size_t)fmin(ceil(count / (double)l.columns), MOST_HEIGHT / least_pitch);
    l.shown = l.rows * l.columns < g->count ? l.rows * l.columns : g->count;
    l.names = names_width(g, &l);
    double across = PAGE_WIDTH - 2 * MARGIN - bar, columns = (double)l.columns;
    double down = MOST_HEIGHT / fmax(1, (double)l.rows);
    l.side = fmin((across - l.names) / columns, down - l.heading) - l.gap;
    if (g->tick) l.side = fmax(l.side, fmin(fmin(15 * (double)g->n, MOST_SIDE), MOST_WIDTH / columns - l.gap));
    if (l.side < LEAST_LABELLED) {
        l.gap = NARROW_GAP, l.heading = 0;
        l.names = names_width(g, &l);
        l.side = fmin((across - l.names) / columns, down) - l.gap;
    }
    l.side = floor(clamp(l.side, LEAST_SIDE, MOST_SIDE));
    double whole = (double)g->n * floor(l.side / (double)g->n);  // cells of whole pixels are crisp
    if (whole > 0.75 * l.side) l.side = whole;
    l.left += l.names;
    return l;
}

static Point map_corner(const Layout *l, size_t map) {
    return (Point){l->left + (l->side + l->gap) * (double)(map % l->columns),
                   l->top + l->heading + (l->side + l->gap + l->heading) * (double)(map / l->columns)};
}

static void draw_map(Canvas *c, const MapGrid *g, const Layout *l, const Cells *cells, size_t map) {
    Point at = map_corner(l, map);
    double right = at.x + l->side, bottom = at.y + l->side;
    canvas_box(c, at.x - 1, at.y - 1, right + 1, bottom + 1, faint, 1);
    canvas_box(c, at.x, at.y, right, bottom, (Colour){255, 255, 255}, 1);
    Cells m = *cells;
    m.value = g->value[map];
    draw_cells(c, &m, at.x, at.y, right, bottom);
    if (l->heading > 0) draw_fitting(c, tick_style, at.x, at.y - 20, l->side, map_label(g, map));
}

// From one token that has a name on to the next: every token, unless cells are too small for that.
static size_t named_step(const MapGrid *g, const Layout *l) {
    double cell = l->side / (double)g->n;
    return l->heading > 0 && g->tick ? (size_t)ceil(1.1 * token_style(cell).size / cell) : 1;
}

// The names of the tokens, left of the maps of the first column and below the last map of each column.
static void draw_tokens(Canvas *c, const MapGrid *g, const Layout *l, size_t map) {
    double cell = l->side / (double)g->n;
    TextStyle style = token_style(cell), upward = style;
    upward.upward = true;
    Point at = map_corner(l, map);
    for (size_t i = 0; i < g->n; i += named_step(g, l)) {
        const char *text = g->tick[i] ? g->tick[i] : "";
        double middle = ((double)i + 0.5) * cell;
        if (map % l->columns == 0) draw_fitting(c, style, at.x - 8, at.y + middle, l->names - 12, text);
        if (map + l->columns >= l->shown)
            draw_fitting(c, upward, at.x + middle, at.y + l->side + 8, l->names - 12, text);
    }
}

static void draw_maps(Canvas *c, const MapGrid *g, const Layout *l, const Cells *cells) {
    size_t every = l->columns * (size_t)ceil(24 / (l->side + l->gap));
    for (size_t m = 0; m < l->shown; m++) {
        draw_map(c, g, l, cells, m);
        if (l->heading > 0 && g->tick) draw_tokens(c, g, l, m);
        if (l->heading <= 0 && m % every == 0)
            draw_fitting(c, aligned(tick_style, 1), l->left - 12, map_corner(l, m).y + l->side / 2, l->names - 12,
                         map_label(g, m));
    }
}

void plot_map_grid(const char *path, const MapGrid *grid) {
    Cells cells = grid_cells(grid);
    Tick bar[MOST_TICKS];
    double bar_height = 400, below = MARGIN;
    size_t bars = bar_ticks(&cells, bar_height, bar);
    Layout l = grid_layout(grid, bar_width(bar, bars));
    double right = l.left + (l.side + l.gap) * (double)l.columns - l.gap;
    double width = fmax(1000, right + bar_width(bar, bars) + MARGIN);
    const char *given = grid->subtitle ? grid->subtitle : "";
    bool all = l.shown == grid->count;
    char *first = all ? xprintf("%s", "") : xprintf("the first %zu of %zu maps. ", l.shown, grid->count);
    size_t step = named_step(grid, &l);
    char *names = step > 1 ? xprintf(" One token in %zu is named.", step) : xprintf("%s", "");
    char *subtitle = xprintf("%s%s%s", first, given, names);
    l.top = ceil(draw_heading(NULL, width, grid->title, subtitle)) + 10;
    double bottom = l.top + (l.side + l.gap + l.heading) * (double)l.rows - l.gap;
    if (l.heading > 0) below += l.names;
    Canvas c = canvas_new(width, fmax(bottom, l.top + l.heading + bar_height) + below);
    draw_heading(&c, width, grid->title, subtitle);
    draw_maps(&c, grid, &l, &cells);
    draw_bar(&c, &cells, right + BAR_GAP, l.top + l.heading, l.top + l.heading + bar_height, bar, bars);
    canvas_write(&c, path);
    canvas_free(&c);
    free(first), free(names), free(subtitle);
}

// test_plot.c: pictures, read back from their PNG. Positions are checked against each other (levels, curves, cells),
// never against coordinates written down here, so that the layout can change.
#include "tests/test.h"
#include "plot/figure.h"
#include "plot/plot.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

static const Colour blue = {0, 114, 178}, vermilion = {213, 94, 0}, black = {34, 34, 34}, white = {255, 255, 255};

typedef struct { uint8_t *pixel; int width, height; } Picture;

static Picture picture_read(const char *path) {
    Picture p = {0};
    int channels;
    p.pixel = stbi_load(path, &p.width, &p.height, &channels, 3);
    CHECK(p.pixel != NULL, "%s: %s", path, stbi_failure_reason());
    CHECK(!p.pixel || channels == 3, "%s has %d channels", path, channels);
    return p;
}

static Picture chart_picture(const Chart *chart) {
    plot_chart(test_path("chart.png"), chart);
    return picture_read(test_path("chart.png"));
}

static bool is(const Picture *p, int x, int y, Colour c) {
    const uint8_t *v = p->pixel + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return v[0] == c.r && v[1] == c.g && v[2] == c.b;
}

// How many pixels of a box have the colour, and their mean position.
typedef struct { int count; double x, y; } Found;
static Found find(const Picture *p, int left, int top, int right, int bottom, Colour c) {
    Found f = {0};
    for (int y = top; y < bottom; y++)
        for (int x = left; x < right; x++)
            if (is(p, x, y, c)) f.count++, f.x += x, f.y += y;
    if (f.count) f.x /= f.count, f.y /= f.count;
    return f;
}

static Found find_all(const Picture *p, Colour c) { return find(p, 0, 0, p->width, p->height, c); }

// The rows of dashed lines, from top to bottom: each is the centre of a band in which ink fills most of a long row.
static int level_rows(const Picture *p, double row[], int most) {
    int n = 0, thick = 0;
    for (int y = 0; y < p->height; y++) {
        bool dashes = find(p, 0, y, p->width, y + 1, black).count > p->width / 3;
        if (dashes && thick++ == 0 && n < most) row[n++] = y;
        else if (dashes && n <= most) row[n - 1] += 0.5;
        if (!dashes) thick = 0;
    }
    return n;
}

// ---- the chart ---------------------------------------------------------------------------------
static void line_through(double *x, double *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = y[i] = 100.0 * (double)i / (double)(n - 1);
}

static void size_and_decoding(void) {
    double x[2] = {0, 1}, y[2] = {0, 1};
    Series s = {"line", x, y, 2};
    Picture p = chart_picture(&(Chart){.title = "a title", .series = &s, .count = 1});
    CHECK(p.width == PAGE_WIDTH && p.height == PAGE_HEIGHT, "%d x %d", p.width, p.height);
    CHECK(is(&p, 0, 0, white) && is(&p, p.width - 1, p.height - 1, white), "the corners are not white");
    CHECK(find_all(&p, blue).count > 1000, "the line is not there");
    free(p.pixel);
}

static void levels_stand_where_their_values_are(void) {
    double level[3] = {1, 2.5, 7}, row[4];
    const char *label[3] = {"floor", NULL, "top"};
    Chart c = {.level = level, .level_label = label, .levels = 3};
    Picture p = chart_picture(&c);
    int n = level_rows(&p, row, 4);
    CHECK(n == 3, "%d dashed lines instead of 3", n);
    // Each centre is known to half a pixel, so is what lies between.
    double expected = row[0] + (row[2] - row[0]) * (7 - 2.5) / (7 - 1);
    CHECK(fabs(row[1] - expected) <= 1, "2.5 stands at row %g instead of %g", row[1], expected);
    CHECK(row[2] > row[0] + 300, "the levels use rows %g to %g only", row[0], row[2]);
    Found text = find(&p, p.width - 200, (int)row[2] - 10, p.width, (int)row[2] + 10, black);
    CHECK(text.count > 20, "no label beside the lowest level: %d pixels", text.count);
    free(p.pixel);
}

static void levels_on_a_logarithmic_axis(void) {
    double level[3] = {1e-3, 1, 1e3}, row[4];
    Picture p = chart_picture(&(Chart){.level = level, .levels = 3, .log_y = true});
    int n = level_rows(&p, row, 4);
    CHECK(n == 3, "%d dashed lines instead of 3", n);
    CHECK(fabs(row[1] - (row[0] + row[2]) / 2) <= 1, "1 is not midway: rows %g %g %g", row[0], row[1], row[2]);
    free(p.pixel);
}

static void curve_passes_its_values(void) {
    enum { N = 2001 };
    static double x[N], y[N];
    line_through(x, y, N);
    double level[2] = {25, 75}, row[3];
    Series s = {"line", x, y, N};
    Picture p = chart_picture(&(Chart){.series = &s, .count = 1, .level = level, .levels = 2});
    int n = level_rows(&p, row, 3);
    CHECK(n == 2, "%d dashed lines instead of 2", n);
    // y runs with x, so the columns in which the curve meets the rows of 75 and 25 and of their mean are evenly spaced.
    double at[3] = {row[0] - 4, (row[0] + row[1]) / 2, row[1] + 4}, column[3];
    for (int i = 0; i < 3; i++) {
        Found f = find(&p, 0, (int)at[i], 1300, (int)at[i] + 1, blue);
        CHECK(f.count > 0 && f.count < 10, "the curve has %d pixels in row %g", f.count, at[i]);
        column[i] = f.x;
    }
    CHECK(column[0] > column[2] + 300, "it does not rise to the right: columns %g and %g", column[0], column[2]);
    CHECK(fabs(column[1] - (column[0] + column[2]) / 2) <= 2, "it is bent: %g %g %g", column[0], column[1], column[2]);
    free(p.pixel);
}

static void nan_breaks_the_line(void) {
    enum { N = 2001 };
    static double x[N], y[N];
    line_through(x, y, N);
    for (size_t i = 0; i < N; i++) y[i] = i > 800 && i < 1200 ? NAN : i == 1000 ? INFINITY : 5;
    Series s = {NULL, x, y, N};
    Picture p = chart_picture(&(Chart){.series = &s, .count = 1});
    Found all = find_all(&p, blue);
    int row = (int)lround(all.y), longest = 0, run = 0, left = p.width, right = 0;
    for (int i = 0; i < p.width; i++)
        if (is(&p, i, row, blue)) left = i < left ? i : left, right = i;
    for (int i = left; i < right; i++) {
        run = is(&p, i, row, blue) ? 0 : run + 1;
        if (run > longest) longest = run;
    }
    // 399 of 2000 steps are missing; the round ends of the line take 2.5 pixels.
    double expected = (right - left) * 400 / 2000.0;
    CHECK(fabs(longest - expected) <= 4, "a gap of %d pixels instead of %g", longest, expected);
    free(p.pixel);
}

static void markers_stand_before_a_pale_line(void) {
    enum { N = 700 };
    static double x[N], y[N], vx[11], vy[11];
    for (size_t i = 0; i < N; i++) x[i] = (double)i, y[i] = 1.3 + 4 * exp(-(double)i / 60) + 0.1 * sin(2.0 * (double)i);
    for (size_t i = 0; i < 11; i++) vx[i] = 69.9 * (double)i, vy[i] = 1.3 + 4 * exp(-vx[i] / 60);
    Series s[2] = {{"train", x, y, N}, {"validation", vx, vy, 11}};
    Picture p = chart_picture(&(Chart){.series = s, .count = 2});
    CHECK(find_all(&p, blue).count == 0, "the dense line is not pale");
    CHECK(find_all(&p, (Colour){128, 185, 217}).count + find_all(&p, (Colour){127, 184, 216}).count > 300,
          "the pale line is not there");
    CHECK(find_all(&p, vermilion).count > 11 * 150, "no markers");
    free(p.pixel);
}

// One point in 200,000 differs: thinning must not lose it.
static void a_spike_survives(void) {
    enum { N = 200000 };
    double *x = xmalloc(N * sizeof *x), *y = xmalloc(N * sizeof *y), level = 9, row[2];
    for (size_t i = 0; i < N; i++) x[i] = (double)i, y[i] = i == 123456 ? 10 : 1;
    Series s = {NULL, x, y, N};
    Picture p = chart_picture(&(Chart){.series = &s, .count = 1, .level = &level, .levels = 1});
    CHECK(level_rows(&p, row, 2) == 1, "the level is missing");
    Found f = find(&p, 0, (int)row[0] - 20, p.width, (int)row[0] - 10, blue);
    CHECK(f.count > 0, "the spike does not reach beyond 9");
    free(p.pixel), free(x), free(y);
}

// ---- the timeline ------------------------------------------------------------------------------
static int highest(const Picture *p, double from, double to, Colour c) {
    int left = (int)(from * p->width), right = (int)(to * p->width);
    for (int y = 0; y < p->height; y++)
        if (find(p, left, y, right, y + 1, c).count) return y;
    return p->height;
}

// Twice the value is twice as high, each panel has its own axis, and what is over at once is a line without a filling.
static void a_timeline(void) {
    Span span[] = {{0, 1, {8, 1, 0}}, {1, 2, {4, 1, 0}}, {2.5, 2.5 + 1e-6, {8, 1, 0}}, {4 - 1e-6, 4, {1, 1, 3}}};
    Timeline t = {.title = "t", .label = {"a", "b", "c"}, .most = {0, 4, 0}, .span = span, .spans = 4};
    plot_timeline(test_path("time.png"), &t);
    Picture p = picture_read(test_path("time.png"));
    int zero = p.height;
    for (int y = p.height; y-- > highest(&p, 0, 1, blue) && zero == p.height;)
        if (find(&p, p.width / 2, y, p.width, y + 1, blue).count > 40) zero = y;      // nothing: a line at 0
    double high = zero - highest(&p, 0.15, 0.25, blue), half = zero - highest(&p, 0.35, 0.45, blue);
    double spike = zero - highest(&p, 0.6, 0.7, blue);
    CHECK(fabs(high / half - 2) < 0.05 && fabs(spike - high) < 3, "%g, %g and %g pixels", high, half, spike);
    Colour pale = {140, 192, 220};
    CHECK(find(&p, (int)(0.15 * p.width), 0, (int)(0.25 * p.width), p.height, pale).count > 1000, "no filling");
    CHECK(find(&p, (int)(0.55 * p.width), 0, (int)(0.75 * p.width), p.height, pale).count < 10, "a peak is filled");
    double whole = p.height * 0.2, quarter = highest(&p, 0.35, 0.45, vermilion);
    CHECK(quarter > zero + whole / 3, "a quarter of a panel is drawn at %g, below %d", quarter, zero);
    free(p.pixel);
    plot_timeline(test_path("time.png"), &(Timeline){.label = {"a", "b", "c"}});
    p = picture_read(test_path("time.png"));
    CHECK(find_all(&p, blue).count == 0 && find_all(&p, black).count > 100, "without spans there are words");
    free(p.pixel);
}

// ---- ticks -------------------------------------------------------------------------------------
// What a label says: a number, with k, M, G, T for thousands.
static double read_label(const char *label) {
    char *end;
    double v = strtod(label, &end);
    const char *suffix = *end ? strchr("kMGT", *end) : NULL;
    return suffix ? v * pow(1000, (double)(suffix - "kMGT" + 1)) : v;
}

static void labels_say_their_value(void) {
    srand(1);
    for (int trial = 0; trial < 4000; trial++) {
        double scale = pow(10, rand() % 40 - 20), offset = rand() % 3 ? 0 : pow(10, rand() % 6) * scale;
        Axis a = {.low = offset - (rand() % 2) * scale, .high = offset + scale * (1 + rand() % 1000 / 100.0)};
        Tick tick[MOST_TICKS];
        size_t n = linear_ticks(&a, 3 + rand() % 9, tick);
        CHECK(n >= 2, "%zu ticks from %g to %g", n, a.low, a.high);
        for (size_t i = 0; i < n; i++) {
            double v = tick[i].value, step = tick[1].value - tick[0].value, said = read_label(tick[i].label);
            // 1e-13 of the size: labels have 15 digits at most.
            CHECK(fabs(said - v) <= 1e-6 * step + 1e-13 * fabs(said), "%s for %.15g", tick[i].label, v);
            CHECK(v >= a.low - 1e-6 * step && v <= a.high + 1e-6 * step, "%g not in %g .. %g", v, a.low, a.high);
            CHECK(strlen(tick[i].label) < 24, "the label %s is too long", tick[i].label);
        }
    }
}

static void ticks_read_well(void) {
    Tick t[MOST_TICKS];
    size_t n = linear_ticks(&(Axis){.low = -10, .high = 710}, 12, t);
    CHECK(n == 8 && !strcmp(t[1].label, "100") && !strcmp(t[7].label, "700"), "%zu ticks, %s, %s", n,
          t[1].label, t[7].label);
    n = linear_ticks(&(Axis){.low = 1, .high = 2.9, .whole = true}, 12, t);
    CHECK(n == 2 && !strcmp(t[1].label, "2"), "%zu whole ticks", n);
    n = make_ticks(&(Axis){.low = 0.9, .high = 1100, .logarithmic = true}, 12, t);
    char all[256] = "";
    for (size_t i = 0; i < n; i++) {
        if (t[i].label[0]) strcat(strcat(all, t[i].label), " ");
    }
    CHECK(!strcmp(all, "1 2 5 10 20 50 100 200 500 1000 "), "%s", all);
    write_number(all, 3e-4, 1e-4, 9e-4);
    CHECK(!strcmp(all, "3e-4"), "%s", all);
    write_number(all, 1.5e6, 5e5, 2e6);
    CHECK(!strcmp(all, "1.5M"), "%s", all);
}

// ---- maps --------------------------------------------------------------------------------------
static double brightness(Colour c) {
    return 0.2126 * pow(c.r / 255.0, 2.2) + 0.7152 * pow(c.g / 255.0, 2.2) + 0.0722 * pow(c.b / 255.0, 2.2);
}

static void colours_darken_evenly(void) {
    double last = 2, step = 0, previous = cbrt(brightness(colour_ramp(0)));
    for (int i = 0; i <= 1000; i++) {
        double b = brightness(colour_ramp(i / 1000.0));
        // 1%: neighbouring colours differ by less than one step of 8 bits.
        CHECK(b < last * 1.01, "brighter again at %g", i / 1000.0);
        last = b;
        if (i % 100 || i == 0) continue;
        step = previous - cbrt(b), previous = cbrt(b);
        // The cube root of brightness is about how light it looks: ten equal steps of 0.068, Oklab is not exactly this.
        CHECK(step > 0.04 && step < 0.10, "a step of %g at %g", step, i / 1000.0);
    }
}

static void heat_map_cells(void) {
    double value[4] = {1, NAN, NAN, 0.5};
    HeatMap m = {.title = "map", .value = value, .rows = 2, .columns = 2, .low = 0, .high = 1};
    plot_heat_map(test_path("map.png"), &m);
    Picture p = picture_read(test_path("map.png"));
    Found one = find_all(&p, colour_ramp(1)), half = find_all(&p, colour_ramp(0.5));
    CHECK(one.count > 10000 && abs(one.count - half.count) < one.count / 20, "cells of %d and %d pixels", one.count,
          half.count);
    CHECK(one.x < half.x - 100 && one.y < half.y - 50, "row 0 is not above, column 0 not left");
    Found blank = find(&p, (int)half.x - 20, (int)one.y - 20, (int)half.x + 20, (int)one.y + 20, white);
    CHECK(blank.count == 40 * 40, "%d of 1600 pixels of a NAN cell are blank", blank.count);
    free(p.pixel);
}

// Four rows in two groups: two blocks of one height, with white between them.
static void heat_map_groups(void) {
    double value[4] = {1, 1, 1, 1};
    const char *const name[] = {"above", "below"};
    HeatMap m = {.value = value, .rows = 4, .columns = 1, .low = 0, .high = 1, .group = 2, .group_label = name};
    plot_heat_map(test_path("map.png"), &m);
    Picture p = picture_read(test_path("map.png"));
    int blocks = 0, height[3] = {0}, x = p.width / 2;
    for (int y = 1; y < p.height; y++) {
        bool here = find(&p, x, y, x + 1, y + 1, colour_ramp(1)).count;
        bool before = find(&p, x, y - 1, x + 1, y, colour_ramp(1)).count;
        blocks += here && !before && blocks < 2;
        height[blocks] += here;
    }
    CHECK(blocks == 2 && height[1] > 50 && height[1] == height[2], "%d blocks, of %d and %d pixels", blocks, height[1],
          height[2]);
    m.group_label = NULL;
    plot_heat_map(test_path("unnamed.png"), &m);
    Picture q = picture_read(test_path("unnamed.png"));
    CHECK(find_all(&q, colour_ramp(1)).count > find_all(&p, colour_ramp(1)).count, "names take room on the left");
    free(p.pixel), free(q.pixel);
}

static void heat_map_mean(void) {
    enum { COLUMNS = 20000 };
    static double value[COLUMNS];
    for (size_t i = 0; i < COLUMNS; i++) value[i] = i % 2;
    HeatMap m = {.value = value, .rows = 1, .columns = COLUMNS, .x_low = 1, .x_high = COLUMNS};
    plot_heat_map(test_path("map.png"), &m);
    Picture p = picture_read(test_path("map.png"));
    // A pixel covers about 15 columns, so its mean is 0.5 +- 0.5 / 15: middle colours, none near the ends.
    int bar = p.width - 200;  // what stands right of here is the colour bar
    int ones = find(&p, 0, 0, bar, p.height, colour_ramp(1)).count;
    int zeros = find(&p, 0, 0, bar, p.height, colour_ramp(0)).count;
    CHECK(ones == 0 && zeros == 0, "single columns show through: %d and %d pixels", ones, zeros);
    free(p.pixel);
}

static Picture grid_picture(double above) {
    double value[2][64];
    for (size_t i = 0; i < 64; i++) value[0][i] = value[1][i] = i % 8 > i / 8 ? above : i % 8 == i / 8 ? 1 : 0;
    MapGrid g = {.value = (const double *const[]){value[0], value[1]}, .count = 2, .columns = 2, .n = 8};
    plot_map_grid(test_path("grid.png"), &g);
    return picture_read(test_path("grid.png"));
}

static void causal_maps_are_blank_above(void) {
    Picture causal = grid_picture(0), full = grid_picture(0.25);
    int diagonal = find_all(&causal, colour_ramp(1)).count, below = find_all(&causal, colour_ramp(0)).count;
    // 2 maps with 8 cells on and 28 below the diagonal; the colour bar adds less than 3%.
    CHECK(diagonal > 10000 && fabs(below * 8.0 / 28 / diagonal - 1) < 0.03, "%d and %d pixels", diagonal, below);
    CHECK(find_all(&full, colour_ramp(0.5)).count > below * 9 / 10, "the values above the diagonals are not drawn");
    free(causal.pixel), free(full.pixel);
}

static void many_maps_stay_small(void) {
    enum { MAPS = 200 * 16 };
    static double value[64];
    static const double *maps[MAPS];
    static const char *label[MAPS];
    for (size_t i = 0; i < 64; i++) value[i] = (double)i;
    for (size_t i = 0; i < MAPS; i++) maps[i] = value, label[i] = "layer head";
    MapGrid g = {.value = maps, .label = label, .count = MAPS, .columns = 16, .n = 8};
    plot_map_grid(test_path("grid.png"), &g);
    Picture p = picture_read(test_path("grid.png"));
    CHECK(p.width <= 3400 && p.height <= 6400, "%d x %d", p.width, p.height);
    CHECK(find_all(&p, colour_ramp(1)).count >= MAPS, "not every map is drawn");
    free(p.pixel);
}

// ---- strange input -----------------------------------------------------------------------------
static void draw_strange(const double *x, const double *y, size_t n, const char *label, bool log_x, bool log_y) {
    Series s[2] = {{label, x, y, n}, {NULL, y, x, n}};
    double level[3] = {NAN, INFINITY, n ? y[0] : -1};
    const char *names[3] = {"a", label, NULL};
    Chart c = {label, label, label, label, log_x, log_y, s, 2, level, names, 3};
    Picture p = chart_picture(&c);
    CHECK(p.width == PAGE_WIDTH && p.height == PAGE_HEIGHT, "%d x %d", p.width, p.height);
    free(p.pixel);
}

static void strange_series(void) {
    static const double data[][4] = {
        {1, 2, 3, 4},           {5, 5, 5, 5},          {NAN, NAN, NAN, NAN},         {INFINITY, -INFINITY, NAN, 1},
        {0, 0, 0, 0},           {-1e300, 1e300, 0, 1}, {1e-300, 1e300, 1, 2},        {1e-320, 2e-320, 0, 5e-324},
        {1e308, -1e308, 1e308}, {-3, -2, -1, -5},      {1, 1 + 1e-15, 1, 1 - 1e-16}, {1e-300, 1e-300, 2e-300, 1e-299},
        {1e-5, 2e-5, 1.5e-5},   {3e5 - 1, 3e5, 3e5},   {1e15, 1e15 + 1, 1e15 + 2},   {0.1, 0.10001, 0.2, 1e9}};
    static char line[20000];
    memset(line, 'w', sizeof line - 1);
    static const char *const label[] = {NULL, "", "x", line, "\xff\xfe\n\t\xe2\x82", "日本語 ∞ …"};
    for (size_t i = 0; i < sizeof data / sizeof *data; i++) {
        draw_strange(data[i / 2], data[i], i % 4 + 1, label[i % 6], i & 1, false);
        draw_strange(data[0], data[i], 4, label[(i + 1) % 6], i & 2, true);
    }
    Picture p = chart_picture(&(Chart){0});
    CHECK(p.width == PAGE_WIDTH, "an empty chart");
    free(p.pixel);
}

static void strange_maps(void) {
    static double value[300] = {NAN, INFINITY, -INFINITY, 1e308, -1e308, 1e-310};
    static const size_t size[][2] = {{0, 0}, {0, 5}, {5, 0}, {1, 1}, {2, 1}, {1, 300}, {300, 1}, {3, 2}};
    static const char *const name[] = {"\xff", "a row with a very, very, very, very long name", NULL, "\n", "", "x"};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        HeatMap m = {"t", NULL, "x", "y", "v", value, size[i][0], size[i][1], 0, (double)(i % 3), 0, 0, NULL, i % 4,
                     NULL};
        if (m.rows <= 5) m.row_label = name;
        plot_heat_map(test_path("map.png"), &m);
        free(picture_read(test_path("map.png")).pixel);
    }
    const double *maps[3] = {value, value + 1, value + 5};
    for (size_t n = 0; n <= 6; n++) {
        MapGrid g = {NULL, "s", maps, name, n % 4, n % 3, n, n % 2 ? name : NULL};
        plot_map_grid(test_path("grid.png"), &g);
        free(picture_read(test_path("grid.png")).pixel);
    }
}

// ---- text --------------------------------------------------------------------------------------
static void utf8(void) {
    static const struct { const char *text; size_t length; uint32_t code; } row[] = {
        {"a", 1, 'a'}, {"\xc3\xa9", 2, 0xe9}, {"…", 3, 0x2026}, {"\xf0\x9f\x98\x80", 4, 0x1f600}, {"", 1, 0},
        {"\xff", 1, 0xfffd}, {"\x80", 1, 0xfffd}, {"\xe2\x80", 1, 0xfffd}, {"\xc0\x80", 1, 0xfffd},
        {"\xed\xa0\x80", 1, 0xfffd}, {"\xf4\x90\x80\x80", 1, 0xfffd}, {"\xc3", 1, 0xfffd}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint32_t code;
        size_t length = utf8_decode(row[i].text, &code);
        CHECK(length == row[i].length && code == row[i].code, "row %zu: %zu bytes, U+%04X", i, length, code);
    }
}

static void text_is_measured(void) {
    const char *text = "--layers 4 --norm peri …";
    double width = text_width(label_style, text);
    CHECK(width > 150 && width < 500, "a width of %g", width);
    CHECK(text_fit(label_style, text, width + 0.01) == strlen(text), "it does not fit into its own width");
    size_t part = text_fit(label_style, text, width / 2);
    char *half = xprintf("%.*s", (int)part, text);
    CHECK(text_width(label_style, half) <= width / 2 + 1, "a beginning of %zu bytes is too wide", part);
    free(half);
}

static int ink_of(const char *text, TextStyle style) {
    Canvas c = canvas_new(400, 400);
    style.align = 0.5;
    canvas_text(&c, style, 200, 200, text);
    Picture p = {c.pixel, c.width, c.height};
    int painted = c.width * c.height - find_all(&p, white).count;
    canvas_free(&c);
    return painted;
}

static void text_without_a_font(void) {
    setenv("RECEIPTS_FONT", "", 1);
    CHECK(ink_of("Floor 1.234", label_style) > 300, "no text");
    CHECK(ink_of("日本 …\xff", label_style) > 20, "no text");
    TextStyle upward = label_style;
    upward.upward = true;
    CHECK(ink_of("Floor", upward) > 150 && ink_of("", upward) == 0, "upward");
    draw_strange((double[]){1, 2}, (double[]){1, 2}, 2, "label …", false, false);
}

static void draw_text(void *unused) {
    (void)unused;
    ink_of("text", label_style);
}

static void a_bad_font_is_refused(void) {
    setenv("RECEIPTS_FONT", test_path("none.ttf"), 1);
    CHECK(test_fails(1, "none.ttf", draw_text, NULL), "%s", test_message);
}

// A directory of one table that lies beyond the end of the file, as in a font whose download broke off.
static void a_cut_font_is_refused(void) {
    char font[200] = {0, 1, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 'g', 'l', 'y', 'f', 0, 0, 0, 0, 0, 0, 0, 28, 0, 1, 0, 0};
    write_whole_file(test_path("cut.ttf"), font, sizeof font);
    setenv("RECEIPTS_FONT", test_path("cut.ttf"), 1);
    CHECK(test_fails(1, "not a whole", draw_text, NULL), "%s", test_message);
}

// ---- files -------------------------------------------------------------------------------------
static void draw_to(void *path) { plot_chart(path, &(Chart){.title = "t"}); }

static void unwritable_path(void) {
    char *path = xprintf("%s", test_path("no/such/directory.png"));
    CHECK(test_fails(1, "directory.png", draw_to, path), "%s", test_message);
    free(path);
}

// A limit on the size of files behaves as a disk that fills up.
static void full_disk(void) {
    char *path = xprintf("%s", test_path("old.png"));
    write_whole_file(path, "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096});
    CHECK(test_fails(1, "old.png", draw_to, path), "%s", test_message);
    size_t bytes;
    char *left = read_whole_file(path, &bytes);
    CHECK(bytes == 3 && !memcmp(left, "old", 3), "the old picture was damaged: %zu bytes", bytes);
    free(left), free(path);
}

static const Test tests[] = {
    {"plot/size", "a chart is a PNG of the page's size", size_and_decoding},
    {"plot/levels", "dashed lines stand where their values are", levels_stand_where_their_values_are},
    {"plot/levels-log", "and on a logarithmic axis", levels_on_a_logarithmic_axis},
    {"plot/curve", "a curve passes where its values are", curve_passes_its_values},
    {"plot/gap", "NAN and infinity break the line", nan_breaks_the_line},
    {"plot/pale", "a dense line is pale behind one with markers", markers_stand_before_a_pale_line},
    {"plot/spike", "one point in 200,000 is still seen", a_spike_survives},
    {"plot/timeline", "what lasts is filled, what is over at once is a line", a_timeline},
    {"plot/labels", "a tick's label says its value, over forty orders of magnitude", labels_say_their_value},
    {"plot/ticks", "ticks are 1, 2, 5 and short", ticks_read_well},
    {"plot/colours", "the colour map darkens evenly", colours_darken_evenly},
    {"plot/cells", "cells of a heat map have their colour and place", heat_map_cells},
    {"plot/groups", "groups of rows are apart, and have names", heat_map_groups},
    {"plot/mean", "a pixel over many cells shows their mean", heat_map_mean},
    {"plot/causal", "causal maps are blank above the diagonal", causal_maps_are_blank_above},
    {"plot/many-maps", "200 layers of 16 heads fit a page", many_maps_stay_small},
    {"plot/strange-series", "empty, constant, huge, tiny, NAN and long labels are drawn", strange_series},
    {"plot/strange-maps", "empty, NAN, huge and single cells are drawn", strange_maps},
    {"plot/utf8", "characters are decoded, broken ones found", utf8},
    {"plot/text", "text is as wide as it says", text_is_measured},
    {"plot/no-font", "without a font there is text still", text_without_a_font},
    {"plot/bad-font", "RECEIPTS_FONT that is missing is refused", a_bad_font_is_refused},
    {"plot/cut-font", "RECEIPTS_FONT that is cut off is refused", a_cut_font_is_refused},
    {"plot/unwritable", "an unwritable path is one clear line", unwritable_path},
    {"plot/full-disk", "a full disk leaves the old picture", full_disk},
};
REGISTER_TESTS(tests)

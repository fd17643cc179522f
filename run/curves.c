// curves.c: reads log.jsonl and hands columns of numbers to plot.h.
#include "run/curves.h"
#include "plot/plot.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct { json_t **line; size_t count; } Log;

static Log read_log(const char *path) {
    size_t bytes, capacity = 0;
    char *text = read_regular_file(path, &bytes), *end;
    Log log = {0};
    for (char *at = text; (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        if (!line) fail("%s: line %zu is not JSON", path, log.count + 1);
        if (log.count == capacity) log.line = xrealloc(log.line, (capacity = 2 * capacity + 64) * sizeof *log.line);
        log.line[log.count++] = line;
    }
    free(text);
    return log;
}

static void free_log(Log *log) {
    for (size_t i = 0; i < log->count; i++) json_decref(log->line[i]);
    free(log->line);
}

// The lines that have `key`, as a series over their steps.
static Series series_of(const Log *log, const char *key, const char *label) {
    double *x = xmalloc((log->count + 1) * sizeof *x), *y = xmalloc((log->count + 1) * sizeof *y);
    size_t n = 0;
    for (size_t i = 0; i < log->count; i++) {
        const json_t *value = json_object_get(log->line[i], key);
        if (!json_is_number(value)) continue;
        x[n] = (double)json_integer_value(json_object_get(log->line[i], "step"));
        y[n++] = json_number_value(value);
    }
    return (Series){label, x, y, n};
}

// Losses fall by orders of magnitude towards a floor above zero: their logarithm shows both ends.
static void draw_loss(const Log *log, const char *path, const char *title, const char *subtitle, double floor) {
    Series series[2] = {series_of(log, "train_loss", "training"), series_of(log, "val_loss", "validation")};
    size_t n = series[1].n;
    char *last_label = xprintf("validation %.4f", n ? series[1].y[n - 1] : (double)NAN);
    if (n) series[1].label = last_label;
    char *floor_label = xprintf("entropy floor %.4f", floor);
    Chart chart = {
        .title = title,
        .subtitle = *subtitle ? subtitle : "every flag at its default",
        .x_label = "step",
        .y_label = "loss (nats per token)",
        .log_y = true,
        .series = series,
        .count = 2,
        .level = &floor,
        .level_label = (const char *const[]){floor_label},
        .levels = isfinite(floor) ? 1 : 0,
    };
    plot_chart(path, &chart);
    for (int i = 0; i < 2; i++) {
        free((void *)series[i].x);
        free((void *)series[i].y);
    }
    free(floor_label);
    free(last_label);
}

// ---- expert load -------------------------------------------------------------------------------
// A line's "experts" is an array with one object per layer that has experts; "load" in it is an array.
static json_t *load_of(const json_t *line, size_t layer) {
    return json_object_get(json_array_get(json_object_get(line, "experts"), layer), "load");
}

// Whether a line has as many layers and experts as another one, and all of their loads: so no picture has
// more cells than its log has numbers.
static bool has_loads(const json_t *line, const json_t *like) {
    size_t layers = json_array_size(json_object_get(like, "experts")), experts = json_array_size(load_of(like, 0));
    if (json_array_size(json_object_get(line, "experts")) != layers) return false;
    for (size_t l = 0; l < layers; l++)
        if (json_array_size(load_of(line, l)) != experts) return false;
    return layers * experts > 0;
}

static void draw_experts(const Log *log, const char *path, const char *title, const char *subtitle) {
    const json_t *first = NULL, *last = NULL;
    size_t columns = 0, column = 0;
    for (size_t i = 0; i < log->count; i++) {
        if (!has_loads(log->line[i], first ? first : log->line[i])) continue;
        first = first ? first : log->line[i], last = log->line[i], columns++;
    }
    if (!first) return;
    size_t layers = json_array_size(json_object_get(first, "experts")), experts = json_array_size(load_of(first, 0));
    double *value = xmalloc(size_mul(layers * experts, columns) * sizeof *value);
    const char **label = xmalloc(layers * experts * sizeof *label), **layer = xmalloc(layers * sizeof *layer);
    for (size_t i = 0; i < log->count; i++) {
        if (!has_loads(log->line[i], first)) continue;
        for (size_t r = 0; r < layers * experts; r++)
            value[r * columns + column] =
                json_number_value(json_array_get(load_of(log->line[i], r / experts), r % experts));
        column++;
    }
    for (size_t r = 0; r < layers * experts; r++) label[r] = xprintf("%zu", r % experts);
    for (size_t l = 0; l < layers; l++) {
        const json_t *described = json_array_get(json_object_get(first, "experts"), l);
        layer[l] = xprintf("layer %d", (int)json_integer_value(json_object_get(described, "layer")));
    }
    HeatMap map = {
        .title = title, .subtitle = subtitle, .x_label = "step", .y_label = "expert", .value_label = "share of tokens",
        .value = value, .rows = layers * experts, .columns = columns, .row_label = label,
        .group = experts, .group_label = layer,
        .x_low = (double)json_integer_value(json_object_get(first, "step")),
        .x_high = (double)json_integer_value(json_object_get(last, "step")),
    };
    plot_heat_map(path, &map);
    for (size_t r = 0; r < layers * experts; r++) free((void *)label[r]);
    for (size_t l = 0; l < layers; l++) free((void *)layer[l]);
    free(label);
    free(layer);
    free(value);
}

// ---- growth by depth ---------------------------------------------------------------------------
enum { MOMENTS = 5 };       // of the run: more lines than these would hide one another

static size_t layers_of(const json_t *line) { return json_array_size(json_object_get(line, "layers")); }

// The RMS of the residual stream after each layer, as one line of the log has it.
static Series growth_of(const json_t *line) {
    size_t n = layers_of(line);
    double *x = xmalloc(n * sizeof *x), *y = xmalloc(n * sizeof *y);
    for (size_t l = 0; l < n; l++) {
        const json_t *rms = json_object_get(json_array_get(json_object_get(line, "layers"), l), "rms");
        x[l] = (double)(l + 1), y[l] = json_is_number(rms) ? json_number_value(rms) : (double)NAN;
    }
    return (Series){xprintf("step %d", (int)json_integer_value(json_object_get(line, "step"))), x, y, n};
}

static void draw_depth(const Log *log, const char *path, const char *title, const char *subtitle) {
    size_t lines = 0, moments;
    const json_t **line = xmalloc((log->count + 1) * sizeof *line);
    for (size_t i = 0; i < log->count; i++)
        if (layers_of(log->line[i])) line[lines++] = log->line[i];
    Series series[MOMENTS];
    moments = lines < MOMENTS ? lines : MOMENTS;
    for (size_t k = 0; k < moments; k++)       // the first and the last, and evenly in between
        series[k] = growth_of(line[moments > 1 ? k * (lines - 1) / (moments - 1) : 0]);
    Chart chart = {.title = title, .subtitle = *subtitle ? subtitle : "every flag at its default",
                   .x_label = "layers passed", .y_label = "RMS of the residual stream", .log_y = true,
                   .series = series, .count = moments};
    if (moments) plot_chart(path, &chart);
    for (size_t k = 0; k < moments; k++) {
        free((void *)series[k].label);
        free((void *)series[k].x);
        free((void *)series[k].y);
    }
    free(line);
}

void curves_draw(const char *dir, const char *title, const char *subtitle, double floor) {
    char *log_path = xprintf("%s/log.jsonl", dir), *loss = xprintf("%s/loss.png", dir),
         *experts = xprintf("%s/experts.png", dir), *depth = xprintf("%s/depth.png", dir);
    Log log = read_log(log_path);
    char *experts_title = xprintf("%s: who gets the tokens", title);
    char *depth_title = xprintf("%s: how the stream grows with depth", title);
    draw_loss(&log, loss, title, subtitle, floor);
    draw_experts(&log, experts, experts_title, subtitle);
    draw_depth(&log, depth, depth_title, subtitle);
    free(experts_title), free(depth_title);
    free_log(&log);
    free(log_path);
    free(loss);
    free(experts), free(depth);
}

// events.c: which number of a line of log.jsonl is which curve of TensorBoard, and when it was.
#include "run/events.h"
#include "formats/tensorboard.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct Events {
    char *path;
    FILE *file;
    double start;              // seconds since 1970 where a line's "seconds" are 0
};

// A name before / is the heading under which TensorBoard puts the curve.
static const struct { const char *key, *tag; } scalars[] = {
    {"train_loss", "train/loss"}, {"val_loss", "val/loss"},   {"accuracy", "val/accuracy"},
    {"lr", "lr"},                 {"grad_norm", "grad_norm"}, {"tokens_per_second", "tokens_per_second"},
    {"acceptance", "val/acceptance"}, {"val_loss_exact", "val/loss_exact"},
};
enum { SCALARS = sizeof scalars / sizeof *scalars };

static void write_line(FILE *out, const json_t *line, double start) {
    Scalar found[SCALARS];
    size_t count = 0, step = (size_t)json_integer_value(json_object_get(line, "step"));
    for (size_t i = 0; i < SCALARS; i++) {
        const json_t *value = json_object_get(line, scalars[i].key);
        if (json_is_number(value)) found[count++] = (Scalar){scalars[i].tag, json_number_value(value)};
    }
    if (count)
        tensorboard_scalars(out, start + json_number_value(json_object_get(line, "seconds")), step, found, count);
}

// The file that the log so far gives. malloc'd.
static char *written_anew(const char *dir, double start, size_t *bytes) {
    char *path = xprintf("%s/log.jsonl", dir), *log = read_regular_file(path, NULL), *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    if (!out) fail("no memory for %s/" EVENTS_FILE, dir);
    tensorboard_begin(out, start);
    for (char *at = log, *end; (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        write_line(out, line, start);
        json_decref(line);
    }
    fclose(out);
    free(path), free(log);
    return text;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool events_begun(const char *dir) {
    char *path = xprintf("%s/" EVENTS_FILE, dir);
    bool begun = file_exists(path);
    free(path);
    return begun;
}

// A file that is as it should be is left, so that a TensorBoard that reads it goes on reading it.
Events *events_open(const char *dir, double seconds) {
    Events *e = xmalloc(sizeof *e);
    e->path = xprintf("%s/" EVENTS_FILE, dir);
    size_t old_bytes = 0, bytes;
    char *old = file_exists(e->path) ? read_regular_file(e->path, &old_bytes) : NULL;
    e->start = old ? tensorboard_begun(old, old_bytes) : NAN;
    if (!isfinite(e->start)) e->start = now() - seconds;
    char *anew = written_anew(dir, e->start, &bytes);
    if (!old || old_bytes != bytes || memcmp(old, anew, bytes) != 0) write_whole_file(e->path, anew, bytes);
    free(old), free(anew);
    e->file = append_to_file(e->path);
    return e;
}

void events_add(Events *e, const json_t *line) {
    if (!e) return;
    write_line(e->file, line, e->start);
    if (fflush(e->file) != 0 || ferror(e->file))
        fail("cannot write %s: %s; what was saved before is intact", e->path, strerror(errno));
}

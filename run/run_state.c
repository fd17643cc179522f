// run_state.c: what a run goes on from. Order of writing is what makes a kill at any instant harmless: the log is on
// the disk before the state that counts on it, and the state replaces the old one by a rename.
#include "run/run.h"
#include "formats/safetensors.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- state -------------------------------------------------------------------------------------
static const char *const part_names[] = {"", "adamw.mean.", "adamw.square."};
static real *part(const RunTensors *t, int which) { return which == 0 ? t->value : which == 1 ? t->mean : t->square; }

enum { COUNTERS = 9 };
typedef struct { const char *key[COUNTERS]; char text[COUNTERS][32]; } Counters;

static Counters counters_from(const RunState *s) {
    Counters c = {{"step", "tokens", "seconds", "train_seconds", "train_loss", "val_loss", "best_val_loss", "accuracy",
                   "loss_hash"},
                  {""}};
    const double numbers[] = {s->seconds, s->train_seconds, s->train_loss, s->val_loss, s->best_val_loss, s->accuracy};
    snprintf(c.text[0], sizeof c.text[0], "%zu", s->step);
    snprintf(c.text[1], sizeof c.text[1], "%zu", s->tokens);
    for (int i = 0; i < 6; i++) snprintf(c.text[2 + i], sizeof c.text[0], "%.17g", numbers[i]);
    snprintf(c.text[8], sizeof c.text[8], "%016llx", (unsigned long long)s->loss_hash);
    return c;
}

static RunState state_from(const SafeTensors *file) {
    Counters c = counters_from(&(RunState){0});
    const char *text[COUNTERS];
    for (int i = 0; i < COUNTERS; i++) {
        text[i] = safetensors_meta(file, c.key[i]);
        if (!text[i]) fail("%s lacks the entry '%s'; --fresh trains again", file->path, c.key[i]);
    }
    return (RunState){
        .step = strtoull(text[0], NULL, 10),
        .tokens = strtoull(text[1], NULL, 10),
        .seconds = strtod(text[2], NULL),
        .train_seconds = strtod(text[3], NULL),
        .train_loss = strtod(text[4], NULL),
        .val_loss = strtod(text[5], NULL),
        .best_val_loss = strtod(text[6], NULL),
        .accuracy = strtod(text[7], NULL),
        .loss_hash = strtoull(text[8], NULL, 16),
    };
}

// Of everything that a state holds: a byte that changed on the disk must not become another result.
static uint64_t content_hash(const RunTensors *t, const RunState *s) {
    Counters c = counters_from(s);
    uint64_t h = HASH_START;
    for (int i = 0; i < COUNTERS; i++) h = hash_text(h, c.text[i]);
    for (int which = 0; which < 3; which++)
        for (size_t i = 0; i < t->count; i++)
            h = hash_bytes(h, part(t, which) + t->tensor[i].offset, t->tensor[i].size * sizeof(real));
    return h;
}

static const char *hex(char out[17], uint64_t hash) {
    snprintf(out, 17, "%016llx", (unsigned long long)hash);
    return out;
}

void run_save(Run *r, const RunTensors *t, const RunState *s) {
    if (r->log && (fflush(r->log) != 0 || sync_file(fileno(r->log)) != 0))
        fail("cannot write %s/log.jsonl: %s", r->dir, strerror(errno));
    TensorOut *out = xmalloc(3 * t->count * sizeof *out);
    for (size_t i = 0; i < 3 * t->count; i++) {
        const RunTensor *tensor = &t->tensor[i % t->count];
        snprintf(out[i].name, sizeof out[i].name, "%s%s", part_names[i / t->count], tensor->name);
        out[i].rank = tensor->rank;
        memcpy(out[i].shape, tensor->shape, tensor->rank * sizeof *tensor->shape);
        out[i].data = part(t, (int)(i / t->count)) + tensor->offset;
    }
    Counters c = counters_from(s);
    Metadata meta[COUNTERS + 3];
    for (int i = 0; i < COUNTERS; i++) meta[i] = (Metadata){c.key[i], c.text[i]};
    char content[17], identity[17], steps[32];
    snprintf(steps, sizeof steps, "%zu", r->steps);
    meta[COUNTERS] = (Metadata){"content_hash", hex(content, content_hash(t, s))};
    meta[COUNTERS + 1] = (Metadata){"identity", hex(identity, r->identity)};
    meta[COUNTERS + 2] = (Metadata){"steps", steps};
    char *path = run_path(r, "state.safetensors");
    safetensors_write(path, out, 3 * t->count, meta, COUNTERS + 3);
    free(path);
    free(out);
}

static void read_tensor(const SafeTensors *file, const RunTensor *tensor, int which, real *out) {
    char name[TENSOR_NAME];
    snprintf(name, sizeof name, "%s%s", part_names[which], tensor->name);
    const TensorIn *in = safetensors_find(file, name);
    if (!in) fail("%s lacks the tensor %s; --fresh trains again", file->path, name);
    bool same = in->rank == tensor->rank && memcmp(in->shape, tensor->shape, tensor->rank * sizeof *tensor->shape) == 0;
    if (!same)
        fail("%s: %s has %zu elements in another shape, %zu were expected; --fresh trains again", file->path, name,
             in->elements, tensor->size);
    safetensors_copy(file, in, out + tensor->offset);
}

// The log's length up to the last complete line whose step is at most `step`.
static size_t log_length(const char *text, size_t bytes, bool has_state, size_t step) {
    size_t kept = 0;
    while (has_state && kept < bytes) {
        const char *end = memchr(text + kept, '\n', bytes - kept);
        json_t *line = end ? json_loadb(text + kept, (size_t)(end - text) - kept, 0, NULL) : NULL;
        const json_t *at = json_object_get(line, "step");
        bool keep = json_is_integer(at) && (size_t)json_integer_value(at) <= step;
        json_decref(line);
        if (!keep) break;
        kept = (size_t)(end - text) + 1;
    }
    return kept;
}

// The hash that the losses in these lines give, in the order in which they were logged.
static uint64_t log_hash(const char *text, size_t bytes) {
    uint64_t h = HASH_START;
    for (size_t at = 0; at < bytes;) {
        size_t length = (size_t)((const char *)memchr(text + at, '\n', bytes - at) - (text + at));
        json_t *line = json_loadb(text + at, length, 0, NULL);
        for (int i = 0; i < 2; i++) {
            const json_t *value = json_object_get(line, i ? "val_loss" : "train_loss");
            double loss = json_number_value(value);
            if (value) h = hash_bytes(h, &loss, sizeof loss);
        }
        json_decref(line);
        at += length + 1;
    }
    return h;
}

// The last step in the log's lines; one that a kill has torn counts for nothing.
static size_t last_step(const char *text, size_t bytes) {
    size_t last = 0;
    for (const char *end; bytes && (end = memchr(text, '\n', bytes));) {
        json_t *line = json_loadb(text, (size_t)(end - text), 0, NULL);
        json_int_t step = json_integer_value(json_object_get(line, "step"));
        if (step > 0 && (size_t)step > last) last = (size_t)step;
        json_decref(line);
        bytes -= (size_t)(end + 1 - text), text = end + 1;
    }
    return last;
}

// Weights are written after a state: where they are, there was one.
static void refuse_lost_state(const Run *r, const char *log, size_t bytes) {
    size_t step = last_step(log, bytes);
    char *weights = run_path(r, "model.safetensors");
    if (file_exists(weights))
        fail("%s holds a run that came to step %zu, but its state.safetensors, from which it would go on, is missing; "
             "put it back, or --fresh trains again", r->dir, step);
    free(weights);
}

static void open_log(Run *r, bool has_state, const RunState *s) {
    char *path = run_path(r, "log.jsonl");
    bool there = file_exists(path);
    if (!there && has_state)
        fail("%s is missing, but state.safetensors is at step %zu; --fresh trains again", path, s->step);
    size_t bytes = 0;
    char *text = there ? read_regular_file(path, &bytes) : NULL;
    size_t kept = log_length(text, bytes, has_state, s->step);
    if (has_state && log_hash(text, kept) != s->loss_hash)
        fail("%s was changed or cut: its losses up to step %zu are not those that state.safetensors remembers; "
             "--fresh trains again", path, s->step);
    r->log = append_to_file(path);
    if (!has_state) refuse_lost_state(r, text, bytes);
    if (kept < bytes && ftruncate(fileno(r->log), (off_t)kept) != 0)
        fail("cannot shorten %s: %s", path, strerror(errno));
    free(text), free(path);
}

// A training of `then` steps goes on as one of r->steps where the longer one would have come to this very state: with
// the same learning rates and rounding so far, and without the validation that only a last step has.
static void refuse_other_length(const Run *r, size_t then, size_t step) {
    if (step > r->steps) fail("%s is at step %zu already, of %zu; give more --steps", r->dir, step, then);
    size_t same = r->same_rates ? r->same_rates(r->flags, then, r->steps, step) : 0;
    if (same < step)
        fail("%s holds a run of %zu steps, which cannot go on to %zu: with this --schedule the learning rate of step "
             "%zu depends on --steps, or by --qat-start its rounding; --schedule constant goes on, and wsd up to its "
             "decay; choose another --out, or --fresh", r->dir, then, r->steps, same + 1);
    if (step == then && step % r->eval_every)
        fail("%s holds a run of %zu steps, which cannot go on to %zu: it ended with a validation that a longer run "
             "with --eval-every %zu does not have; choose another --out, or --fresh", r->dir, then, r->steps,
             r->eval_every);
}

// Older states do not say whose they are; their run.json does.
static void refuse_other_state(const Run *r, const SafeTensors *file, size_t step) {
    const char *identity = safetensors_meta(file, "identity"), *steps = safetensors_meta(file, "steps");
    char ours[17];
    if (identity && strcmp(identity, hex(ours, r->identity)) != 0)
        fail("%s is the state of a run with other flags or other data (%s; this one is %s); put back what was there, "
             "or --fresh trains again", file->path, identity, ours);
    size_t then = steps ? strtoull(steps, NULL, 10) : r->steps_before;
    if (then != r->steps) refuse_other_length(r, then, step);
}

bool run_resume(Run *r, const RunTensors *t, RunState *s) {
    char *path = run_path(r, "state.safetensors");
    bool has_state = file_exists(path);
    if (has_state) {
        SafeTensors *file = safetensors_open_advised(path, "--fresh trains again");
        *s = state_from(file);
        refuse_other_state(r, file, s->step);
        for (int which = 0; which < 3; which++)
            for (size_t i = 0; i < t->count; i++) read_tensor(file, &t->tensor[i], which, part(t, which));
        const char *content = safetensors_meta(file, "content_hash");
        if (!content || strtoull(content, NULL, 16) != content_hash(t, s))
            fail("%s was damaged: its contents do not have the hash that it states; --fresh trains again", path);
        safetensors_close(file);
    }
    if (r->status == RUN_NEW) run_write(r, "running");      // before anything else is there
    open_log(r, has_state, s);
    free(path);
    return has_state;
}

// ---- the digest --------------------------------------------------------------------------------
#define LOSSES "the logged losses"
uint64_t run_digest(const RunTensors *t, const RunState *s, json_t *each) {
    uint64_t digest = s->loss_hash;
    if (each) json_object_set_new(each, LOSSES, run_hash(s->loss_hash));
    for (size_t i = 0; i < t->count; i++) {
        const RunTensor *tensor = &t->tensor[i];
        uint64_t h = hash_text(HASH_START, tensor->name);
        h = hash_bytes(h, t->value + tensor->offset, tensor->size * sizeof(real));
        if (each) json_object_set_new(each, tensor->name, run_hash(h));
        digest = hash_bytes(digest, &h, sizeof h);
    }
    return digest;
}

// ---- a finished run ------------------------------------------------------------------------------
#define NOT_WHOLE "%s holds this run, finished, but "

static int by_place(const void *a, const void *b) {
    const TensorIn *s = *(const TensorIn *const *)a, *t = *(const TensorIn *const *)b;
    return (s->data > t->data) - (s->data < t->data);
}

// What run_digest() and content_hash() give for the tensors in a file, which lie there in the same order.
static uint64_t digest_of_file(const SafeTensors *file, const RunState *s, json_t *each, uint64_t *content) {
    const TensorIn **in = xmalloc((file->count + 1) * sizeof *in);
    Counters c = counters_from(s);
    uint64_t digest = s->loss_hash;
    json_object_set_new(each, LOSSES, run_hash(s->loss_hash));
    *content = HASH_START;
    for (int i = 0; i < COUNTERS; i++) *content = hash_text(*content, c.text[i]);
    for (size_t i = 0; i < file->count; i++) in[i] = &file->tensor[i];
    qsort(in, file->count, sizeof *in, by_place);
    for (size_t i = 0; i < file->count; i++) {
        size_t bytes = safetensors_bytes(in[i]);
        *content = hash_bytes(*content, in[i]->data, bytes);
        if (strncmp(in[i]->name, "adamw.", 6) == 0) continue;
        uint64_t h = hash_bytes(hash_text(HASH_START, in[i]->name), in[i]->data, bytes);
        json_object_set_new(each, in[i]->name, run_hash(h));
        digest = hash_bytes(digest, &h, sizeof h);
    }
    free(in);
    return digest;
}

static void check_log(const Run *r, const RunState *s) {
    char *path = run_path(r, "log.jsonl");
    size_t bytes;
    char *text = read_regular_file(path, &bytes);
    size_t kept = log_length(text, bytes, true, s->step);
    if (kept < bytes || log_hash(text, kept) != s->loss_hash)
        fail(NOT_WHOLE "its log.jsonl was changed or cut: its losses are not those that state.safetensors remembers; "
             "--fresh trains it again", r->dir);
    free(text), free(path);
}

static void check_final(const Run *r, const RunState *s) {
    const struct { const char *key; double value; } now[] = {
        {"step", (double)s->step}, {"tokens", (double)s->tokens}, {"train_loss", s->train_loss},
        {"val_loss", s->val_loss}, {"best_val_loss", s->best_val_loss}, {"accuracy", s->accuracy},
        {"seconds", s->seconds}, {"train_seconds", s->train_seconds}};
    const json_t *final = json_object_get(r->json, "final");
    for (size_t i = 0; i < sizeof now / sizeof now[0]; i++) {
        const json_t *said = json_object_get(final, now[i].key);
        double then = json_is_number(said) ? json_number_value(said) : (double)NAN;
        if (then == now[i].value || (isnan(then) && isnan(now[i].value))) continue;
        fail(NOT_WHOLE "its run.json says %s %.17g, its state.safetensors %.17g; --fresh trains it again", r->dir,
             now[i].key, then, now[i].value);
    }
}

static void check_hashes(const Run *r, const json_t *now, uint64_t digest) {
    const json_t *then = json_object_get(r->json, "hashes"), *said = json_object_get(r->json, "digest");
    json_t *found = run_hash(digest), *hash;
    const char *name;
    json_object_foreach((json_t *)now, name, hash)
        if (!json_equal(hash, json_object_get(then, name)))
            fail(NOT_WHOLE "its state.safetensors has another hash of %s than its run.json; --fresh trains it again",
                 r->dir, name);
    if (!json_equal(said, found))
        fail(NOT_WHOLE "its run.json says digest %s, its state.safetensors gives %s; --fresh trains it again", r->dir,
             json_is_string(said) ? json_string_value(said) : "(none)", json_string_value(found));
    json_decref(found);
}

RunState run_finished(const Run *r, uint64_t *digest) {
    static const char *const needed[] = {"log.jsonl", "state.safetensors"};
    for (size_t i = 0; i < 2; i++)
        if (!file_exists(run_path(r, needed[i])))
            fail(NOT_WHOLE "its %s is missing; --fresh trains it again", r->dir, needed[i]);
    run_check_files(r->dir, true, "--fresh trains it again");
    SafeTensors *file = safetensors_open_advised(run_path(r, "state.safetensors"), "--fresh trains it again");
    RunState s = state_from(file);
    json_t *hashes = json_object();
    uint64_t content;
    refuse_other_state(r, file, s.step);
    *digest = digest_of_file(file, &s, hashes, &content);
    const char *stated = safetensors_meta(file, "content_hash");
    if (!stated || strtoull(stated, NULL, 16) != content)
        fail(NOT_WHOLE "its state.safetensors was damaged: its contents do not have the hash that it states; --fresh "
             "trains it again", r->dir);
    check_log(r, &s);
    check_final(r, &s);
    check_hashes(r, hashes, *digest);
    json_decref(hashes);
    safetensors_close(file);
    return s;
}

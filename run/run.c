// run.c: the run directory. Order of writing is what makes a kill at any instant harmless: the log is on
// the disk before the state that counts on it, and the state replaces the old one by a rename.
#include "run/run.h"
#include "formats/safetensors.h"
#include "lib/machine.h"
#include "lib/simd.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef COMMIT
#define COMMIT "unknown"   // built without make
#endif
#define PRECISION (sizeof(real) == 4 ? "float32" : "float64")

const char *run_commit(void) { return COMMIT; }
const char *run_precision(void) { return PRECISION; }
char *run_path(const Run *r, const char *file) { return xprintf("%s/%s", r->dir, file); }
json_t *run_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

// ---- run.json ----------------------------------------------------------------------------------
static json_t *flag_to_json(const FlagTable *t, const void *flags, size_t i) {
    const char *field = (const char *)flags + t->flag[i].offset;
    switch (t->flag[i].kind) {
    case FLAG_SIZE: return json_integer((json_int_t)*(const size_t *)field);
    case FLAG_REAL: return json_real(*(const double *)field);
    case FLAG_BOOL: return json_boolean(*(const bool *)field);
    default: break;
    }
    char *text = flags_get(t, flags, i);
    json_t *value = json_string(text);
    free(text);
    if (!value) usage_error("--%s is not UTF-8, which run.json must be", t->flag[i].name);
    return value;
}

json_t *run_flags(const FlagTable *t, const void *flags) {
    json_t *all = json_object();
    for (size_t i = 0; i < t->count; i++)
        if (t->flag[i].kind != FLAG_GROUP) json_object_set_new(all, t->flag[i].name, flag_to_json(t, flags, i));
    return all;
}

char *run_flag_text(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_INTEGER: return xprintf("%lld", (long long)json_integer_value(value));
    case JSON_REAL: return flags_real_text(json_real_value(value));
    case JSON_TRUE: return xprintf("1");
    case JSON_FALSE: return xprintf("0");
    case JSON_STRING: return xprintf("%s", json_string_value(value));
    default: return xprintf("(nothing)");
    }
}

static json_t *read_json(const char *path) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    json_error_t error;
    json_t *root = json_loadb(text, bytes, 0, &error);
    free(text);
    if (!json_is_object(root))
        fail("%s is damaged at line %d: %s; --fresh trains again", path, root ? 1 : error.line,
             root ? "no object" : error.text);
    return root;
}

static char *after_string(char *quote) {
    char *p = quote + 1;
    while (*p != '"') p += *p == '\\' ? 2 : 1;
    return p + 1;
}

// Jansson writes 17 digits of a number where fewer are often as exact: 0.003, not 0.0030000000000000001. They are
// shortened in place; a whole number keeps a .0, which tells it from an integer. Where ours is the longer text (e-05
// for e-5, after as many digits) it would run over what is still to be read, and Jansson's stays.
static char *dump(const json_t *value, size_t layout) {
    char *text = json_dumps(value, layout | JSON_REAL_PRECISION(17)), *out = text;
    for (char *in = text, *end; in && *in; in = end) {
        bool number = *in == '-' || isdigit((unsigned char)*in);
        end = *in == '"' ? after_string(in) : number ? in + strspn(in, "+-.0123456789e") : in + 1;
        char *shorter = number && memchr(in, '.', (size_t)(end - in)) ? flags_real_text(strtod(in, NULL)) : NULL;
        if (shorter && strlen(shorter) > (size_t)(end - in)) free(shorter), shorter = NULL;
        size_t n = shorter ? strlen(shorter) : (size_t)(end - in);
        memmove(out, shorter ? shorter : in, n);
        out += n;
        if (shorter && !strpbrk(shorter, ".e")) memcpy(out, ".0", 2), out += 2;
        free(shorter);
    }
    if (out) *out = '\0';
    return text;
}

char *run_json_text(const json_t *object) {
    char *text = dump(object, JSON_INDENT(2));
    if (!text) fail("run.json could not be composed: a text in it is not UTF-8");
    return text;
}

void run_write(Run *r, const char *status) {
    json_object_set_new(r->json, "status", json_string(status));
    char *text = run_json_text(r->json), *path = run_path(r, "run.json");
    AtomicFile a = atomic_open(path);
    atomic_write(&a, text, strlen(text));
    atomic_write(&a, "\n", 1);
    atomic_close(&a);
    free(text);
    free(path);
}

// ---- the machine -------------------------------------------------------------------------------
json_t *run_machine(int threads) {
    char *cpu = machine_cpu(), *system = machine_system();
    json_t *machine = json_pack("{s:s, s:i, s:i, s:s, s:s, s:s}", "cpu", cpu, "cores", omp_get_num_procs(), "threads",
                                threads, "simd", simd_name(), "compiler", machine_compiler(), "system", system);
    free(cpu);
    free(system);
    return machine;
}

// ---- entering the directory --------------------------------------------------------------------
static bool same_directory(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static char *directory_of(const RunPlan *p) {
    if (*p->out) return xprintf("%s", p->out);
    char *identity = flags_summary(p->table, p->flags, true);
    uint64_t h = hash_text(hash_text(HASH_START, PRECISION), identity);
    free(identity);
    return xprintf("runs/%s-%08x", p->label, (unsigned)(h ^ h >> 32));
}

static void lock_directory(Run *r) {  // the lock goes with the process, however that ends
    r->lock = open(r->dir, O_RDONLY);
    if (r->lock >= 0 && flock(r->lock, LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK)
        fail("%s is in use by another process; wait for it, or choose another --out", r->dir);
    fail("cannot lock %s: %s; choose another --out", r->dir, strerror(errno));
}

static void refuse_other_run(const Run *r, const RunPlan *p, json_t *old) {
    json_t *now = json_object_get(r->json, "flags"), *then = json_object_get(old, "flags");
    for (size_t i = 0; i < p->table->count; i++) {
        const Flag *f = &p->table->flag[i];
        const json_t *value = json_object_get(then, f->name), *wanted = json_object_get(now, f->name);
        if (f->kind == FLAG_GROUP || f->same_numbers || !value || json_equal(value, wanted)) continue;
        fail("%s holds a run with --%s %s, not %s; choose another --out, or --fresh to replace it", r->dir,
             flags_shown(f->name, (char[64]){0}), run_flag_text(value), run_flag_text(wanted));
    }
    const char *const keys[] = {"data_hash", "precision"};
    for (size_t i = 0; i < 2; i++)
        if (!json_equal(json_object_get(old, keys[i]), json_object_get(r->json, keys[i])))
            fail("%s holds a run with another %s; choose another --out, or --fresh to replace it", r->dir, keys[i]);
}

// A directory without a run of ours may hold what somebody needs under the names that we write.
static void refuse_foreign(const Run *r) {
    static const char *const ours[] = {"run.json", "state.safetensors", "log.jsonl"};
    static const char *const written[] = {"model.safetensors", "config.json", "tokenizer.json", "sample.txt",
                                          "loss.png", "experts.png", "depth.png", "roofline.png"};
    bool found = false;
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
        char *path = run_path(r, ours[i]);
        found |= file_exists(path);
        free(path);
    }
    for (size_t i = 0; i < sizeof written / sizeof written[0] && !found; i++) {
        char *path = run_path(r, written[i]);
        if (file_exists(path)) fail("%s is there, but no run that it belongs to; choose another --out", path);
        free(path);
    }
}

// Takes over what an earlier process recorded, unless that was another run.
static void enter(Run *r, const RunPlan *p, const char *path) {
    json_t *old = read_json(path);
    refuse_other_run(r, p, old);
    const char *status = json_string_value(json_object_get(old, "status"));
    r->status = !status ? RUN_NEW : strcmp(status, "finished") == 0 ? RUN_FINISHED
                : strcmp(status, "diverged") == 0 ? RUN_DIVERGED : RUN_STARTED;
    if (r->status == RUN_FINISHED && !json_is_string(json_object_get(old, "receipt")))
        fail("%s is damaged: it says finished, but has no receipt; --fresh trains again", path);
    if (r->status == RUN_FINISHED || r->status == RUN_DIVERGED) {
        json_decref(r->json);
        r->json = old;
        return;
    }
    json_decref(old);
}

// run.json is replaced, never missing: it is what makes the directory ours.
static void forget(Run *r) {
    static const char *const files[] = {"state.safetensors", "log.jsonl"};
    for (size_t i = 0; i < 2; i++) {
        char *path = run_path(r, files[i]);
        if (unlink(path) != 0 && errno != ENOENT) fail("cannot remove %s: %s", path, strerror(errno));
        free(path);
    }
    run_write(r, "running");
}

Run *run_open(const RunPlan *p) {
    Run *r = xmalloc(sizeof *r);
    r->dir = directory_of(p);
    if (p->load && *p->load && same_directory(r->dir, p->load))
        fail("%s would be overwritten by the run that starts from it; choose another --out", p->load);
    make_directories(r->dir);
    lock_directory(r);
    char hash[17], *path = run_path(r, "run.json");
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)p->data_hash);
    r->json = json_pack("{s:s, s:s, s:s, s:s, s:s}", "status", "running", "command", p->command, "commit", COMMIT,
                        "data_hash", hash, "precision", PRECISION);
    if (!r->json) usage_error("the command line is not UTF-8, which run.json must be");
    json_object_set_new(r->json, "flags", run_flags(p->table, p->flags));
    refuse_foreign(r);
    if (p->fresh) forget(r);
    else if (file_exists(path)) enter(r, p, path);
    free(path);
    return r;
}

void run_close(Run *r) {
    if (r->log) fclose(r->log);
    close(r->lock);
    json_decref(r->json);
    free(r->dir);
    free(r);
}

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
    Metadata meta[COUNTERS + 1];
    for (int i = 0; i < COUNTERS; i++) meta[i] = (Metadata){c.key[i], c.text[i]};
    char content[17];
    snprintf(content, sizeof content, "%016llx", (unsigned long long)content_hash(t, s));
    meta[COUNTERS] = (Metadata){"content_hash", content};
    char *path = run_path(r, "state.safetensors");
    safetensors_write(path, out, 3 * t->count, meta, COUNTERS + 1);
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

static void open_log(Run *r, bool has_state, const RunState *s) {
    char *path = run_path(r, "log.jsonl");
    if (file_exists(path)) {
        size_t bytes;
        char *text = read_whole_file(path, &bytes);
        size_t kept = log_length(text, bytes, has_state, s->step);
        if (has_state && log_hash(text, kept) != s->loss_hash)
            fail("%s was changed or cut: its losses up to step %zu are not those that state.safetensors remembers; "
                 "--fresh trains again", path, s->step);
        if (kept < bytes && truncate(path, (off_t)kept) != 0) fail("cannot shorten %s: %s", path, strerror(errno));
        free(text);
    } else if (has_state) {
        fail("%s is missing, but state.safetensors is at step %zu; --fresh trains again", path, s->step);
    }
    r->log = fopen(path, "a");
    if (!r->log) fail("cannot write %s: %s", path, strerror(errno));
    free(path);
}

bool run_resume(Run *r, const RunTensors *t, RunState *s) {
    char *path = run_path(r, "state.safetensors");
    bool has_state = file_exists(path);
    if (has_state) {
        SafeTensors *file = safetensors_open(path);
        *s = state_from(file);
        for (int which = 0; which < 3; which++)
            for (size_t i = 0; i < t->count; i++) read_tensor(file, &t->tensor[i], which, part(t, which));
        const char *content = safetensors_meta(file, "content_hash");
        if (!content || strtoull(content, NULL, 16) != content_hash(t, s))
            fail("%s was damaged: its contents do not have the hash that it states; --fresh trains again", path);
        safetensors_close(file);
    }
    open_log(r, has_state, s);
    free(path);
    return has_state;
}

// ---- log and receipt ---------------------------------------------------------------------------
void run_log(Run *r, json_t *line) {
    char *text = dump(line, JSON_COMPACT);
    bool written = text && fprintf(r->log, "%s\n", text) > 0 && fflush(r->log) == 0;
    if (!written) fail("cannot write %s/log.jsonl: %s; what was saved before is intact", r->dir, strerror(errno));
    free(text);
    json_decref(line);
}

json_t *run_hash(uint64_t hash) {
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    return json_string(text);
}

uint64_t run_digest(const RunTensors *t, const RunState *s, json_t *each) {
    uint64_t digest = s->loss_hash;
    if (each) json_object_set_new(each, "the logged losses", run_hash(s->loss_hash));
    for (size_t i = 0; i < t->count; i++) {
        const RunTensor *tensor = &t->tensor[i];
        uint64_t h = hash_text(HASH_START, tensor->name);
        h = hash_bytes(h, t->value + tensor->offset, tensor->size * sizeof(real));
        if (each) json_object_set_new(each, tensor->name, run_hash(h));
        digest = hash_bytes(digest, &h, sizeof h);
    }
    return digest;
}

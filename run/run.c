// run.c: the run directory: its name, its lock, its record, and whose it is. What a run goes on from is in run_state.c,
// what others open in run_files.c.
#include "run/run.h"
#include "lib/machine.h"
#include "lib/process.h"
#include "lib/simd.h"
#include <ctype.h>
#include <dirent.h>
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

// Refused with --fresh too: what cannot be read may be somebody else's, and need not be a run.
static json_t *read_json(const char *path) {
    size_t bytes;
    char *text = read_regular_file(path, &bytes);
    json_error_t error;
    json_t *root = json_loadb(text, bytes, 0, &error);
    free(text);
    if (!json_is_object(root))
        fail("%s is damaged at line %d: %s; put back what was there, or choose another --out", path,
             root ? 1 : error.line, root ? "no object" : error.text);
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

// A process that a second signal ends has no time to compose anything: what run.json then says is ready.
#define READY ".run.json.tmp"
static struct { char text[1 << 16]; size_t bytes; int directory; } last_words;

static void write_last_words(void) {
    int at = last_words.directory;
    int file = openat(at, READY, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    bool whole = file >= 0 && write(file, last_words.text, last_words.bytes) == (ssize_t)last_words.bytes;
    if (file >= 0) close(file);
    if (!whole || renameat(at, READY, at, "run.json") != 0) unlinkat(at, READY, 0);
}

// Once the run has another status than "running", there is nothing to say.
static void prepare_last_words(const Run *r, const char *status) {
    process_last_words = NULL;
    if (strcmp(status, "running") != 0) return;
    json_object_set_new(r->json, "status", json_string("interrupted"));
    char *text = run_json_text(r->json);
    last_words.bytes = strlen(text), last_words.directory = r->lock;
    if (last_words.bytes < sizeof last_words.text) {
        memcpy(last_words.text, text, last_words.bytes);
        process_last_words = write_last_words;
    }
    free(text);
}

void run_write(Run *r, const char *status) {
    prepare_last_words(r, status);
    json_object_set_new(r->json, "status", json_string(status));
    char *text = run_json_text(r->json), *path = run_path(r, "run.json");
    AtomicFile a = atomic_open(path);
    atomic_write(&a, text, strlen(text));
    atomic_write(&a, "\n", 1);
    atomic_close(&a);
    free(text);
    free(path);
}

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

static bool is_steps(const Flag *f) { return strcmp(f->name, "steps") == 0; }

// What decides the numbers, but for how long the training is: a state goes on only where this is the same.
static uint64_t identity_of(const RunPlan *p) {
    uint64_t h = hash_text(HASH_START, PRECISION);
    h = hash_bytes(hash_bytes(h, &p->data_hash, sizeof p->data_hash), &p->load_hash, sizeof p->load_hash);
    if (p->teacher_hash) h = hash_bytes(h, &p->teacher_hash, sizeof p->teacher_hash);
    for (size_t i = 0; i < p->table->count; i++) {
        const Flag *f = &p->table->flag[i];
        if (f->kind == FLAG_GROUP || f->same_numbers || flags_is_default(p->table, p->flags, i)) continue;
        if (is_steps(f)) continue;
        char *value = flags_get(p->table, p->flags, i);
        h = hash_text(hash_text(h, f->name), value);
        free(value);
    }
    return h;
}

// The lock goes with the process, however that ends. It is on the directory and not on its name, and so is all that is
// written from now on.
static void lock_directory(Run *r) {
    r->lock = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->lock >= 0 && flock(r->lock, LOCK_EX | LOCK_NB) == 0) {
        hold_directory(r->dir, r->lock);
        return;
    }
    if (errno == EWOULDBLOCK)
        fail("%s is in use by another process; wait for it, or choose another --out", r->dir);
    fail("cannot lock %s: %s; choose another --out", r->dir, strerror(errno));
}

static size_t steps_of(const json_t *flags) { return (size_t)json_integer_value(json_object_get(flags, "steps")); }

// A longer training of the same kind may go on from a shorter one: run_resume() sees whether its state allows that.
static void refuse_other_flags(const Run *r, const RunPlan *p, const json_t *then) {
    const json_t *now = json_object_get(r->json, "flags");
    bool longer = steps_of(now) > steps_of(then);
    for (size_t i = 0; i < p->table->count; i++) {
        const Flag *f = &p->table->flag[i];
        const json_t *value = json_object_get(then, f->name), *wanted = json_object_get(now, f->name);
        if (f->kind == FLAG_GROUP || f->same_numbers || (value && json_equal(value, wanted))) continue;
        if (is_steps(f) && longer) continue;
        char shown[64], *had = value ? run_flag_text(value) : NULL;
        flags_shown(f->name, shown);
        if (!value && flags_is_default(p->table, p->flags, i)) continue;     // as it was before there was the flag
        if (!value)
            fail("%s holds a run of a program that had no --%s, so it is not one with %s; choose another --out, or "
                 "--fresh to replace it", r->dir, shown, run_flag_text(wanted));
        if (longer)
            fail("%s holds a run of %zu steps with --%s %s, not %s; with --%s %s it may go on to %zu steps; else "
                 "choose another --out, or --fresh to replace it", r->dir, steps_of(then), shown, had,
                 run_flag_text(wanted), shown, had, steps_of(now));
        fail("%s holds a run with --%s %s, not %s; choose another --out, or --fresh to replace it", r->dir, shown, had,
             run_flag_text(wanted));
    }
}

static void refuse_other_run(const Run *r, const RunPlan *p, json_t *old) {
    refuse_other_flags(r, p, json_object_get(old, "flags"));
    static const char *const keys[] = {"data_hash", "precision"};
    for (size_t i = 0; i < 2; i++)
        if (!json_equal(json_object_get(old, keys[i]), json_object_get(r->json, keys[i])))
            fail("%s holds a run with another %s; choose another --out, or --fresh to replace it", r->dir, keys[i]);
    const json_t *then = json_object_get(old, "load_hash"), *now = json_object_get(r->json, "load_hash");
    if (now && !then)
        fail("%s holds a run that does not say which weights it found in %s, so whether they are still the same cannot "
             "be told; --verify %s tells by training it again beside it, --fresh replaces it", r->dir, p->load, r->dir);
    if (now && !json_equal(then, now))
        fail("%s holds a run that started from other weights in %s (their hash was %s, it is %s now): this is another "
             "run; choose another --out, or --fresh to replace it", r->dir, p->load, json_string_value(then),
             json_string_value(now));
    const json_t *taught = json_object_get(r->json, "teacher_hash");
    if (taught && !json_equal(json_object_get(old, "teacher_hash"), taught))
        fail("%s holds a run that learned from other weights in %s: this is another run; choose another --out, or "
             "--fresh to replace it", r->dir, p->teacher);
}

// A directory without a run of ours may hold what somebody needs. We write no name that begins with a dot; a
// temporary run.json is what a kill at the very start leaves.
static void refuse_foreign(const Run *r) {
    int self = openat(r->lock, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = self < 0 ? NULL : fdopendir(self);
    if (!d) fail("cannot read the directory %s: %s", r->dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));)
        if (*e->d_name != '.' && strcmp(e->d_name, "run.json.tmp") != 0)
            fail("%s/%s is there, but no run.json, so no run that it belongs to; choose another --out", r->dir,
                 e->d_name);
    closedir(d);
}

// What new_record() writes, and has written in every version. NULL: all of it is there.
static const char *lacks(const json_t *record) {
    static const char *const texts[] = {"status", "commit", "precision", "data_hash"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (!json_is_string(json_object_get(record, texts[i]))) return texts[i];
    const char *hash = json_string_value(json_object_get(record, "data_hash"));
    if (strlen(hash) != 16 || strspn(hash, "0123456789abcdef") != 16) return "data_hash of 16 digits";
    return json_is_integer(json_object_get(json_object_get(record, "flags"), "steps")) ? NULL : "flags with steps";
}

// What an earlier process recorded; NULL: nothing.
static json_t *read_record(const Run *r) {
    char *path = run_path(r, "run.json");
    json_t *old = file_exists(path) ? read_json(path) : NULL;
    if (!old) refuse_foreign(r);
    else if (lacks(old))
        fail("%s is not that of a run: it has no %s; choose another --out", path, lacks(old));
    free(path);
    return old;
}

static RunStatus status_of(const Run *r, const json_t *old) {
    const char *status = json_string_value(json_object_get(old, "status"));
    if (!status) return RUN_NEW;
    if (strcmp(status, "diverged") == 0) return RUN_DIVERGED;
    if (strcmp(status, "finished") != 0) return RUN_STARTED;
    if (!json_is_string(json_object_get(old, "receipt")))
        fail("%s/run.json is damaged: it says finished, but has no receipt; --fresh trains again", r->dir);
    return r->steps_before < steps_of(json_object_get(r->json, "flags")) ? RUN_STARTED : RUN_FINISHED;
}

// Numbers may differ between versions, and a run that two of them computed is a run of neither.
static void note_commits(Run *r, const json_t *old) {
    json_t *begun = json_object_get(old, "begun_by"), *before = json_object_get(old, "commit");
    if (begun) json_object_set(r->json, "begun_by", begun);
    if (r->status != RUN_STARTED || !json_is_string(before) || strcmp(json_string_value(before), COMMIT) == 0) return;
    if (!begun) json_object_set(r->json, "begun_by", before);
    print_line(stderr, "note     %s was begun by another version (commit %s, this is %s); where the two compute other "
               "numbers it is a run of neither, and --fresh trains it anew\n", r->dir, json_string_value(before),
               COMMIT);
}

// Takes over what an earlier process recorded, unless that was another run.
static void enter(Run *r, const RunPlan *p, json_t *old) {
    refuse_other_run(r, p, old);
    r->steps_before = steps_of(json_object_get(old, "flags"));
    r->status = status_of(r, old);
    note_commits(r, old);
    bool ended = r->status == RUN_FINISHED || r->status == RUN_DIVERGED;
    json_decref(ended ? r->json : old);
    if (ended) r->json = old;
}

const char *const run_file_names[] = {"state.safetensors", "log.jsonl", EVENTS_FILE, "model.safetensors",
                                      "config.json", "tokenizer.json", "tokenizer_config.json",
                                      "tokenizer.receipts.json", "generation_config.json", "sample.txt", "loss.png",
                                      "experts.png", "depth.png", "roofline.png", NULL};

// run.json is replaced, never missing: it is what makes the directory ours. What the run before left must not pass for
// that of this one.
static void forget(Run *r) {
    for (size_t i = 0; run_file_names[i]; i++) {
        char *path = run_path(r, run_file_names[i]);
        remove_file(path);
        free(path);
    }
    run_write(r, "running");
}

static json_t *new_record(const RunPlan *p) {
    json_t *json = json_pack("{s:s, s:s, s:s, s:o, s:s}", "status", "running", "command", p->command, "commit", COMMIT,
                             "data_hash", run_hash(p->data_hash), "precision", PRECISION);
    if (!json) usage_error("the command line is not UTF-8, which run.json must be");
    if (p->load && *p->load) json_object_set_new(json, "load_hash", run_hash(p->load_hash));
    if (p->teacher && *p->teacher) json_object_set_new(json, "teacher_hash", run_hash(p->teacher_hash));
    json_object_set_new(json, "flags", run_flags(p->table, p->flags));
    return json;
}

// A run that ends before it wrote anything, as for want of memory, leaves no directory behind where there was none.
static char *made;
static void remove_made(void) {
    if (made) rmdir(made);              // fails where something is in it
}

static void make_directory(const char *dir) {
    static bool registered;
    if (!registered) registered = atexit(remove_made) == 0;
    free(made);
    made = file_exists(dir) ? NULL : xprintf("%s", dir);
    make_directories(dir);
}

Run *run_open(const RunPlan *p) {
    Run *r = xmalloc(sizeof *r);
    r->dir = directory_of(p);
    if (p->load && *p->load && same_directory(r->dir, p->load))
        fail("%s would be overwritten by the run that starts from it; choose another --out", p->load);
    if (p->teacher && *p->teacher && same_directory(r->dir, p->teacher))
        fail("%s would be overwritten by the run that learns from it; choose another --out", p->teacher);
    make_directory(r->dir);
    lock_directory(r);
    r->flags = p->flags, r->same_rates = p->same_rates;
    r->json = new_record(p);
    r->steps = r->steps_before = steps_of(json_object_get(r->json, "flags"));
    r->eval_every = (size_t)json_integer_value(json_object_get(json_object_get(r->json, "flags"), "eval_every"));
    r->identity = identity_of(p);
    json_t *old = read_record(r);
    if (p->fresh) forget(r);
    else if (old) enter(r, p, old);
    return r;
}

void run_note_move(const Run *r) {
    struct stat now, locked;
    bool there = stat(r->dir, &now) == 0 && fstat(r->lock, &locked) == 0;
    if (there && now.st_dev == locked.st_dev && now.st_ino == locked.st_ino) return;
    print_line(stderr, "note     the directory of this run is not %s any more: it was moved, all that was written is "
               "in it, and the same command goes on there with --out and its new name\n", r->dir);
}

void run_close(Run *r) {
    process_last_words = NULL;
    if (r->log) fclose(r->log);
    release_directory(r->lock);
    close(r->lock);
    json_decref(r->json);
    free(r->dir);
    free(r);
}

// verify.c: what a run recorded, against what training again gives: losses line by line, tensors by their
// hashes. Knows no layers and trains nothing itself.
#include "run/verify.h"
#include "formats/safetensors.h"
#include "lib/process.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define NOT_AS_SAVED "it is not as the run saved it, and cannot be compared; train it again"

// ---- the record --------------------------------------------------------------------------------
static json_t *read_record(const char *dir) {
    char *path = xprintf("%s/run.json", dir);
    if (!file_exists(path)) fail("--verify %s: there is no run.json, so no run to verify", dir);
    size_t bytes;
    char *text = read_regular_file(path, &bytes);
    json_error_t error;
    json_t *record = json_loadb(text, bytes, 0, &error);
    if (!json_is_object(json_object_get(record, "flags")))
        fail("--verify: %s is damaged at line %d: %s", path, record ? 1 : error.line, record ? "no flags" : error.text);
    free(text), free(path);
    return record;
}

static const char *text_at(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "unknown";
}

static bool same(const json_t *a, const json_t *b) { return a == b || json_equal(a, b); }

// A run that is being trained changes under the eyes of its reader. The lock goes with the process.
static void lock_for_reading(const char *dir) {
    int lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) fail("--verify %s: %s; the directory of a run was expected", dir, strerror(errno));
    if (flock(lock, LOCK_SH | LOCK_NB) == 0) {
        hold_directory(dir, lock);
        return;
    }
    if (errno == EWOULDBLOCK) fail("--verify %s: another process trains there; wait for it", dir);
    fail("--verify %s: cannot lock it: %s", dir, strerror(errno));
}

static size_t saved_step(const Verify *v) {
    json_t *last = json_object_get(json_object_get(v->record, "final"), "step");
    if (v->finished && json_is_integer(last)) return (size_t)json_integer_value(last);
    char *path = xprintf("%s/state.safetensors", v->dir);
    if (!file_exists(path)) fail("--verify %s: the run is not finished and has saved nothing yet", v->dir);
    SafeTensors *state = safetensors_open_advised(path, NOT_AS_SAVED);
    const char *step = safetensors_meta(state, "step");
    if (!step) fail("--verify: %s lacks the entry 'step'", path);
    size_t steps = strtoull(step, NULL, 10);
    safetensors_close(state);
    free(path);
    return steps;
}

// ---- its flags ---------------------------------------------------------------------------------
static void take_flag(const FlagTable *t, void *flags, size_t i, bool given, const char *recorded, const char *dir) {
    char *asked = flags_get(t, flags, i);
    flags_set(t, flags, t->flag[i].name, recorded);
    char *found = flags_get(t, flags, i);
    if (given && strcmp(asked, found) != 0)
        usage_error("--%s %s contradicts the run in %s, which has %s; leave the flag out",
                    flags_shown(t->flag[i].name, (char[64]){0}), asked, dir, found);
    free(asked), free(found);
}

static void take_flags(const FlagTable *t, void *flags, bool *given, const Verify *v) {
    const json_t *recorded = json_object_get(v->record, "flags");
    size_t known = 0;
    for (size_t i = 0; i < t->count; i++) {
        const Flag *f = &t->flag[i];
        const json_t *value = json_object_get(recorded, f->name);
        bool is_memory = strcmp(f->name, "micro_batch") == 0;    // decides how much, and no number
        bool is_written = strcmp(f->name, "save_dtype") == 0;    // model.safetensors is compared too
        known += value != NULL;
        if (value && (!f->same_numbers || is_written || (is_memory && !given[i]))) {
            char *text = run_flag_text(value);
            take_flag(t, flags, i, given[i], text, v->dir);
            free(text);
        }
        given[i] = false;
    }
    if (known < json_object_size(recorded))
        fail("--verify %s: its run.json has flags that this program does not know; it was recorded by commit %s",
             v->dir, text_at(v->record, "commit"));
}

// ---- where the rerun goes ----------------------------------------------------------------------
// It goes however the process ends, by a signal too: a handler may neither list a directory nor put names together.
enum { SCRATCH_FILES = 64, SCRATCH_NAME = 64 };
static struct { char path[256], name[SCRATCH_FILES][SCRATCH_NAME]; size_t names; int directory; } scratch;

static void remove_scratch(void) {
    for (size_t i = 0; i < scratch.names; i++) unlinkat(scratch.directory, scratch.name[i], 0);
    rmdir(scratch.path);
}

static void remove_later(const char *name) {
    if (scratch.names + 2 > SCRATCH_FILES) fail("a run has more files than --verify can remove");
    snprintf(scratch.name[scratch.names++], SCRATCH_NAME, "%s", name);
    snprintf(scratch.name[scratch.names++], SCRATCH_NAME, "%s.tmp", name);
}

static void make_scratch(void) {
    const char *temporary = getenv("TMPDIR");
    snprintf(scratch.path, sizeof scratch.path, "%s/receipts-verify-XXXXXX",
             temporary && *temporary ? temporary : "/tmp");
    for (size_t i = 0; run_file_names[i]; i++) remove_later(run_file_names[i]);
    remove_later("run.json"), remove_later(".run.json");
    if (!mkdtemp(scratch.path)) fail("--verify: cannot make the directory %s: %s", scratch.path, strerror(errno));
    scratch.directory = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scratch.directory < 0) fail("--verify: cannot open the directory %s: %s", scratch.path, strerror(errno));
    process_clean_up = remove_scratch;
    atexit(remove_scratch);
}

// Until the data is there, a mistake is not one of the command line: what the run used is no longer as it was.
static const char *recorded_dir;
static void cannot_repeat(int status, const char *message) {
    (void)status;
    fail_hook = NULL;
    fail("--verify %s: it cannot be trained again: %s", recorded_dir, message);
}

Verify *verify_begin(const FlagTable *t, void *flags, bool *given, const char *dir) {
    Verify *v = xmalloc(sizeof *v);
    v->dir = xprintf("%s", dir), v->table = t;
    lock_for_reading(dir);
    v->record = read_record(dir);
    v->finished = strcmp(text_at(v->record, "status"), "finished") == 0;
    v->steps = saved_step(v);
    if (strcmp(text_at(v->record, "precision"), run_precision()) != 0)
        fail("--verify %s: the run computed in %s, this program computes in %s", dir, text_at(v->record, "precision"),
             run_precision());
    take_flags(t, flags, given, v);
    make_scratch();
    flags_set(t, flags, "out", scratch.path);
    flags_set(t, flags, "save_every", "1000000000");    // once, at the end
    recorded_dir = v->dir, fail_hook = cannot_repeat;
    return v;
}

void verify_data(const Verify *v, uint64_t hash) {
    json_t *found = run_hash(hash), *recorded = json_object_get(v->record, "data_hash");
    fail_hook = NULL;
    if (!same(found, recorded))
        fail("--verify %s: the data %s has changed since: its hash is %s, the run has read %s", v->dir,
             text_at(json_object_get(v->record, "flags"), "data"), json_string_value(found),
             text_at(v->record, "data_hash"));
    json_decref(found);
}

// ---- comparing ---------------------------------------------------------------------------------
typedef struct { const Verify *v; const Run *rerun; size_t differences, losses, tensors; } Comparison;

static void PRINTF_LIKE(2, 3) differs(Comparison *c, const char *format, ...) {
    va_list arguments;
    char *line = NULL;
    size_t bytes;
    FILE *f = open_memstream(&line, &bytes);
    if (!f) fail("no memory for a line about a difference");
    va_start(arguments, format);
    vfprintf(f, format, arguments);
    va_end(arguments);
    fclose(f);
    print_line(stdout, "differs  %s\n", line);
    free(line);
    c->differences++;
}

// What cannot be compared is said, so that nobody takes it for verified.
static void not_checked(const char *what, const char *why) { print_line(stdout, "not checked: %s, %s\n", what, why); }

static char *shown(const json_t *value) {
    return !value ? xprintf("nothing") : json_is_number(value) ? xprintf("%.17g", json_number_value(value))
                  : run_flag_text(value);
}

// The lines of a log up to a step; what is torn or no JSON ends it.
static json_t *read_log(const char *dir, size_t last) {
    json_t *lines = json_array();
    char *path = xprintf("%s/log.jsonl", dir);
    char *text = file_exists(path) ? read_regular_file(path, NULL) : xprintf("%s", "");
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        const json_t *step = json_object_get(line, "step");
        bool wanted = json_is_integer(step) && (size_t)json_integer_value(step) <= last;
        if (!wanted || json_array_append(lines, line) != 0) end = at + strlen(at) - 1;
        json_decref(line);
    }
    free(text), free(path);
    return lines;
}

// The first logged step at which a loss differs.
static void compare_losses(Comparison *c) {
    static const char *const keys[] = {"step", "train_loss", "val_loss"};
    json_t *recorded = read_log(c->v->dir, c->v->steps), *again = read_log(c->rerun->dir, c->v->steps);
    size_t then_lines = json_array_size(recorded), now_lines = json_array_size(again);
    size_t lines = then_lines > now_lines ? then_lines : now_lines;
    for (size_t i = 0; i < lines && !c->differences; i++)
        for (int k = 0; k < 3 && !c->differences; k++) {
            const json_t *then = json_array_get(recorded, i), *now = json_array_get(again, i);
            const json_t *a = json_object_get(then, keys[k]), *b = json_object_get(now, keys[k]);
            c->losses += k > 0 && a;
            if (same(a, b)) continue;
            char *was = shown(a), *is = shown(b), *step = shown(json_object_get(now ? now : then, "step"));
            differs(c, "step %s: the log has %s %s, the rerun %s", step, keys[k], was, is);
            free(was), free(is), free(step);
        }
    json_decref(recorded), json_decref(again);
}

// The first name whose hash differs; both are objects.
static void compare_hashes(Comparison *c, const char *file, json_t *recorded, json_t *again) {
    const char *name;
    json_t *hash;
    json_object_foreach(again, name, hash) {
        const json_t *was = json_object_get(recorded, name);
        if (same(was, hash)) continue;
        differs(c, "%s: %s has the hash %s, in the rerun %s", file, name, was ? json_string_value(was) : "of nothing",
                json_string_value(hash));
        return;
    }
    if (json_object_size(recorded) > json_object_size(again)) differs(c, "%s: the rerun has fewer tensors", file);
}

static json_t *hashes_of_file(const char *path) {
    SafeTensors *file = safetensors_open_advised(path, NOT_AS_SAVED);
    json_t *all = json_object();
    for (size_t i = 0; i < file->count; i++) {
        const TensorIn *in = &file->tensor[i];
        real *copy = xmalloc(size_mul(in->elements, sizeof(real)));
        safetensors_copy(file, in, copy);
        uint64_t hash = hash_bytes(hash_text(HASH_START, in->name), copy, in->elements * sizeof(real));
        json_object_set_new(all, in->name, run_hash(hash));
        free(copy);
    }
    safetensors_close(file);
    return all;
}

// The first tensor whose bits differ in a file of both directories; a run may have been kept without its weights.
static void compare_tensors(Comparison *c, const char *name) {
    char *path = xprintf("%s/%s", c->v->dir, name), *other = xprintf("%s/%s", c->rerun->dir, name);
    if (file_exists(path)) {
        json_t *recorded = hashes_of_file(path), *again = hashes_of_file(other);
        compare_hashes(c, name, recorded, again);
        c->tensors += json_object_size(again);
        json_decref(recorded), json_decref(again);
    } else not_checked(name, "which is not there");
    free(path), free(other);
}

// ---- the files that others open ------------------------------------------------------------------
// Of a configuration or a tokenizer, what does not say how many threads there were, or where the run lay.
static json_t *read_json(const Verify *v, const char *dir, const char *name) {
    char *path = xprintf("%s/%s", dir, name), *text = file_exists(path) ? read_regular_file(path, NULL) : NULL;
    json_t *root = text ? json_loads(text, 0, NULL) : NULL, *flags = json_object_get(root, "receipts");
    for (size_t i = 0; i < v->table->count; i++)
        if (v->table->flag[i].same_numbers) json_object_del(flags, v->table->flag[i].name);
    free(path), free(text);
    return root;
}

// A later commit may write another form of the same, so there the run's own record decides.
static void compare_file(Comparison *c, const char *name, const json_t *then, const json_t *now) {
    json_t *old = read_json(c->v, c->v->dir, name), *new = read_json(c->v, c->rerun->dir, name);
    bool written_alike = same(json_object_get(c->v->record, "commit"), json_object_get(c->rerun->json, "commit"));
    if (then && !now) differs(c, "%s: it is not there, and run.json has a hash of it", name);
    else if (then && !same(then, now)) differs(c, "%s: it has another hash than when the run ended", name);
    else if (!now && new) not_checked(name, "which is not there");
    else if (now && !old) differs(c, "%s: it is not JSON", name);
    else if (now && written_alike && !same(old, new)) differs(c, "%s: the rerun has written another one", name);
    else if (now && !then && !written_alike) not_checked(name, "of which run.json has no hash, by another commit");
    json_decref(old), json_decref(new);
}

// The log and the weights have been compared with the rerun's where they can be; else their hashes decide.
static void compare_rest(Comparison *c, const char *name, const json_t *then, const json_t *now, const char *why) {
    if (then && now && !same(then, now)) differs(c, "%s: it has another hash than when the run ended", name);
    else if (then && !now) not_checked(name, "which is not there");
    else if (!then && why) not_checked(name, why);
}

static void compare_files(Comparison *c) {
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "tokenizer.receipts.json"};
    json_t *then = json_object_get(c->v->record, "files"), *now = run_file_hashes(c->v->dir);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        compare_file(c, names[i], json_object_get(then, names[i]), json_object_get(now, names[i]));
    if (!c->differences)
        compare_rest(c, "log.jsonl", json_object_get(then, "log.jsonl"), json_object_get(now, "log.jsonl"), NULL);
    if (!c->v->finished)
        compare_rest(c, "model.safetensors", json_object_get(then, "model.safetensors"),
                     json_object_get(now, "model.safetensors"), "which before the end may be of another step");
    json_decref(now);
}

// What the end of a run says of it, but for times and memory.
static void compare_final(Comparison *c) {
    static const char *const keys[] = {"step",          "tokens",   "train_loss", "val_loss",
                                       "best_val_loss", "accuracy", "floor"};
    const json_t *then = json_object_get(c->v->record, "final"), *now = json_object_get(c->rerun->json, "final");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *a = json_object_get(then, keys[i]), *b = json_object_get(now, keys[i]);
        if (!a || same(a, b)) continue;
        char *was = shown(a), *is = shown(b);
        differs(c, "run.json: the final %s is %s, in the rerun %s", keys[i], was, is);
        free(was), free(is);
    }
    const char *was = text_at(c->v->record, "receipt"), *is = text_at(c->rerun->json, "receipt");
    const char *timed = strstr(is, ", wall ");
    if (timed && strncmp(was, is, (size_t)(timed - is)) != 0)
        differs(c, "run.json: its %s, in the rerun %.*s", was, (int)(timed - is), is);
}

// ---- the verdict -------------------------------------------------------------------------------
static size_t print_change(const char *what, const json_t *then, const json_t *now, const char *key) {
    if (same(json_object_get(then, key), json_object_get(now, key))) return 0;
    print_line(stdout, "%-8s recorded with %s, now %s\n", what, text_at(then, key), text_at(now, key));
    return 1;
}

// What is not as it was when the run was recorded.
static size_t print_changes(const Comparison *c) {
    const json_t *then = c->v->record, *now = c->rerun->json;
    const json_t *old = json_object_get(then, "machine"), *new = json_object_get(now, "machine");
    return print_change("commit", then, now, "commit") + print_change("compiler", old, new, "compiler") +
           print_change("simd", old, new, "simd") + print_change("cpu", old, new, "cpu") +
           print_change("system", old, new, "system");
}

static void print_causes(const Comparison *c) {
    const char *loaded = text_at(json_object_get(c->v->record, "flags"), "load");
    if (same(json_object_get(c->v->record, "digest"), json_object_get(c->rerun->json, "digest"))) {
        printf("cause    the rerun has the recorded digest, so the files named here were changed after the run\n");
        return;
    }
    const char *begun = json_string_value(json_object_get(c->v->record, "begun_by"));
    if (begun) print_line(stdout, "cause    the run was begun by another version, commit %s\n", begun);
    printf("cause    %s\n", print_changes(c) ? "likely one of these changes; other code may well compute other numbers"
           : "commit, compiler and machine are as recorded: a file was changed after the run, or memory failed");
    const json_t *then = json_object_get(c->v->record, "load_hash");
    bool as_then = then && same(then, json_object_get(c->rerun->json, "load_hash"));
    if (*loaded && strcmp(loaded, "unknown") && !as_then)
        print_line(stdout, "cause    or other weights in %s, where it started\n", loaded);
    const json_t *taught = json_object_get(c->v->record, "teacher_hash");
    if (taught && !same(taught, json_object_get(c->rerun->json, "teacher_hash")))
        print_line(stdout, "cause    other weights in %s, from which it learned\n",
                   text_at(json_object_get(c->v->record, "flags"), "teacher"));
}

int verify_end(const Verify *v, const Run *rerun) {
    Comparison c = {v, rerun, 0, 0, 0};
    const json_t *digest = json_object_get(rerun->json, "digest");
    if (process_stopped) fail("interrupted at its end: nothing is verified");
    process_catch_signals(false);       // what follows only reads
    json_t *hashes = json_object_get(v->record, "hashes");
    compare_losses(&c);
    if (v->finished && hashes) compare_hashes(&c, "run.json", hashes, json_object_get(rerun->json, "hashes"));
    else if (v->finished) not_checked("the hashes of tensors in run.json", "which has none");
    compare_tensors(&c, "state.safetensors");
    if (v->finished) compare_tensors(&c, "model.safetensors");    // of an unfinished run it may be of another step
    compare_files(&c);
    if (v->finished && !same(json_object_get(v->record, "digest"), digest))
        differs(&c, "run.json: the digest is %s, in the rerun %s", text_at(v->record, "digest"),
                json_string_value(digest));
    if (v->finished) compare_final(&c);
    if (c.differences) print_causes(&c);
    else print_changes(&c);
    if (c.differences)
        print_line(stdout, "not verified: %s, %zu difference%s at step %zu\n", v->dir, c.differences,
                   plural(c.differences), v->steps);
    else print_line(stdout, "verified: digest %s at step %zu, %zu losses and %zu tensors of %s, bit for bit\n",
                    json_string_value(digest), v->steps, c.losses, c.tensors, v->dir);
    return c.differences != 0;
}

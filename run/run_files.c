// run_files.c: the files of a run that others open, against the hashes that its run.json has of them.
#include "run/run.h"
#include "formats/safetensors.h"
#include <stdlib.h>
#include <string.h>

#define WEIGHTS "model.safetensors"
#define LOG "log.jsonl"                // nothing that is computed later depends on it
static const char *const opened[] = {WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json",
                                     "tokenizer.receipts.json", LOG};
enum { OPENED = sizeof opened / sizeof opened[0] };

// ---- hashes --------------------------------------------------------------------------------------
// Of the bytes as they are there, whatever they are converted from and to: a type of lower precision has its own.
static json_t *tensor_hashes(const char *path) {
    SafeTensors *file = safetensors_open_advised(path, "it is not as the run saved it; put back what was there, or "
                                                       "train again, with --fresh");
    json_t *all = json_object();
    for (size_t i = 0; i < file->count; i++) {
        const TensorIn *t = &file->tensor[i];
        uint64_t h = hash_text(hash_text(HASH_START, t->name), t->dtype);
        json_object_set_new(all, t->name, run_hash(hash_bytes(h, t->data, safetensors_bytes(t))));
    }
    safetensors_close(file);
    return all;
}

static json_t *file_hash(const char *path) {
    size_t bytes;
    char *content = read_regular_file(path, &bytes);
    uint64_t hash = hash_bytes(HASH_START, content, bytes);
    free(content);
    return run_hash(hash);
}

// NULL where there is no such file.
static json_t *hash_of(const char *dir, const char *name) {
    char *path = xprintf("%s/%s", dir, name);
    json_t *hash = !file_exists(path) ? NULL : strcmp(name, WEIGHTS) == 0 ? tensor_hashes(path) : file_hash(path);
    free(path);
    return hash;
}

json_t *run_file_hashes(const char *dir) {
    json_t *all = json_object();
    for (size_t i = 0; i < OPENED; i++) {
        json_t *hash = hash_of(dir, opened[i]);
        if (hash) json_object_set_new(all, opened[i], hash);
    }
    return all;
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

// What is read of a directory: files of runs and of checkpoints of others.
static bool is_of_model(const char *name) {
    static const char *const theirs[] = {"run.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
                                         "merges.txt", "params.json"};
    for (size_t i = 0; i < sizeof theirs / sizeof theirs[0]; i++)
        if (strcmp(name, theirs[i]) == 0) return true;
    for (size_t i = 0; run_file_names[i]; i++)
        if (strcmp(name, run_file_names[i]) == 0) return !ends_with(name, ".png");
    return ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json") || ends_with(name, ".gguf");
}

void run_refuse_replacing(const char *flag, const char *path, const char *source) {
    const char *slash = strrchr(path, '/');
    char *directory = slash ? xprintf("%.*s", (int)(slash - path + 1), path) : xprintf(".");
    bool within = same_file(directory, source) && is_of_model(slash ? slash + 1 : path);
    free(directory);
    if (*source && (within || same_file(path, source)))
        fail("--%s %s would replace a file of the model in %s; choose another name", flag, path, source);
}

void run_end(Run *r, const char *status) {
    json_object_set_new(r->json, "files", run_file_hashes(r->dir));
    run_write(r, status);
    run_note_move(r);
}

// ---- checking ------------------------------------------------------------------------------------
// The first tensor that differs.
static const char *other_tensor(const json_t *then, const json_t *now) {
    const char *name;
    json_t *hash;
    json_object_foreach((json_t *)then, name, hash)
        if (!json_equal(hash, json_object_get(now, name))) return name;
    json_object_foreach((json_t *)now, name, hash)
        if (!json_object_get(then, name)) return name;
    return NULL;
}

static void check_file(const char *dir, const char *name, const json_t *then, bool whole, const char *advice) {
    json_t *now = hash_of(dir, name);
    const char *tensor = json_is_object(now) ? other_tensor(then, now) : NULL;
    if (!now && whole) fail("%s holds this run, finished, but its %s is missing; %s", dir, name, advice);
    if (!now && strcmp(name, WEIGHTS) == 0)
        fail("%s has no " WEIGHTS ", of which its run.json has hashes; put it back; where shards stand for it, %s", dir,
             advice);
    if (tensor)
        fail("%s/%s: the tensor %s is not as the run saved it: its run.json has another hash of it; %s", dir, name,
             tensor, advice);
    if (now && !json_equal(then, now))
        fail("%s/%s is not as the run saved it: its run.json has another hash of it; %s", dir, name, advice);
    json_decref(now);
}

// A run that was recorded without these hashes must at least have the files; they had one kind of tokenizer's file.
static void check_presence(const char *dir, const char *advice) {
    for (size_t i = 0; i < 3; i++) {
        char *path = xprintf("%s/%s", dir, opened[i]);
        if (!file_exists(path)) fail("%s holds this run, finished, but its %s is missing; %s", dir, opened[i], advice);
        free(path);
    }
}

void run_check_files(const char *dir, bool whole, const char *advice) {
    char *path = xprintf("%s/run.json", dir), *text = file_exists(path) ? read_regular_file(path, NULL) : NULL;
    json_t *record = text ? json_loads(text, 0, NULL) : NULL, *files = json_object_get(record, "files"), *then;
    const char *name;
    if (text && !record) fail("%s is damaged, so what belongs to it cannot be told; %s", path, advice);
    json_object_foreach(files, name, then)
        if (whole || strcmp(name, LOG) != 0) check_file(dir, name, then, whole, advice);
    if (!files && whole) check_presence(dir, advice);
    if (!files && json_object_get(record, "flags"))
        print_line(stderr, "note     not checked: the files of %s, of which its run.json has no hashes: the run goes "
                   "on, was killed, or is of an older version\n", dir);
    json_decref(record);
    free(text), free(path);
}

// memory.c: the peak resident memory of ./train, a few steps of it, against what `./train --dry-run` says beforehand.
#include "bench/bench.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define IID "--data iid --vocab 65 "
static const struct { const char *name, *flags; Effort from;
} settings[] = {
    {"default", "", TINY},
    {"baby", IID "--layers 6 --width 384 --heads 6 --context 256 --batch 8 --pos learned --norm-kind layer --ffn gelu",
     QUICK},
    {"large vocabulary", "--data iid --vocab 32000 --layers 2 --width 256 --context 128 --batch 8", FULL},
    {"large batch", IID "--batch 128 --context 256", FULL},
    {"naive attention", IID "--layers 2 --context 1024 --batch 2 --attn-kernel naive", FULL},
    {"long context", IID "--layers 2 --context 8192 --batch 1", QUICK},
    {"layers logged, thresholds", IID "--log-layers --experts 64 --router threshold --batch 64 --micro-batch 4", FULL},
    {"mla, experts", IID "--attn mla --experts 8 --top-k 2 --width 256 --context 256 --batch 8", QUICK},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

// ./train stands where this program's directory stands, or for another build in its build directory.
static char *train_path(void) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return xprintf("./train");
    for (int cut = 0; cut < 2; n--) cut += self[n - 1] == '/';      // .../bench/bench
    return xprintf("%.*s/train", (int)n, self);
}

static void remove_all(const char *directory) {
    char *remove = xprintf("rm -rf '%s'", directory);
    if (system(remove)) fprintf(stderr, "%s is left over\n", directory);
    free(remove);
}

// Runs ./train with flags and more, its output in a file. Ctrl-C goes to both: once ./train has ended, so do we.
static bool run_train(const char *train, const char *flags, const char *more, const char *directory) {
    char *command = xprintf("exec '%s' %s %s > '%s/output' 2>&1", train, flags, more, directory);
    fflush(stdout);
    int status = system(command);
    free(command);
    if (WIFSIGNALED(status) ? WTERMSIG(status) == SIGINT : WEXITSTATUS(status) == 128 + SIGINT) {
        remove_all(directory);
        raise(SIGINT);
    }
    return status == 0;
}

// Its own account of its peak, the pictures at its end included.
static double peak_of(const char *directory) {
    char *path = xprintf("%s/run/run.json", directory);
    json_t *run = json_load_file(path, 0, NULL);
    double bytes = json_number_value(json_object_get(json_object_get(run, "final"), "peak_memory_bytes"));
    json_decref(run);
    free(path);
    return bytes;
}

static double predicted(const char *output) {
    json_t *plan = json_load_file(output, 0, NULL);
    double bytes = json_number_value(json_object_get(json_object_get(plan, "machine"), "memory_bytes"));
    json_decref(plan);
    return bytes;
}

static void measure(Bench *b, size_t i, const char *train, const char *directory) {
    char *output = xprintf("%s/output", directory), *why = NULL;
    char *steps = xprintf("--threads %d --steps 3 --warmup 1 --eval-every 3 --eval-tokens 1 --sample-tokens 0 --fresh "
                          "--out '%s/run'", b->threads, directory);
    char *dry = xprintf("--threads %d --dry-run json", b->threads);
    double said = run_train(train, settings[i].flags, dry, directory) ? predicted(output) : 0;
    double found = said > 0 && run_train(train, settings[i].flags, steps, directory) ? peak_of(directory) : 0;
    if (said > 0 && found > 0)
        printf("%-17s %10.1f %10.1f %+8.1f%%\n", settings[i].name, said / (1 << 20), found / (1 << 20),
               100 * (found / said - 1));
    else printf("%-17s %s failed:\n%s", settings[i].name, train, why = read_whole_file(output, NULL));
    if (said > 0 && found > 0)
        add_result(b, "memory",
                   json_pack("{s:s, s:s, s:f, s:f}", "setting", settings[i].name, "flags", settings[i].flags,
                             "predicted_bytes", said, "peak_resident_bytes", found));
    free(output), free(steps), free(dry), free(why);
}

void bench_memory(Bench *b) {
    char directory[] = "/tmp/bench-XXXXXX", *train = train_path();
    if (!mkdtemp(directory)) fail("cannot make a directory in /tmp: %s", strerror(errno));
    printf("setting            predicted       peak   (MiB; the goal is within 2%%)\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if (settings[i].from <= b->effort) measure(b, i, train, directory);
    remove_all(directory);
    free(train);
}

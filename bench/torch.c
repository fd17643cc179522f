// torch.c: the training steps of small, mid and baby in PyTorch, eager and compiled, in turns with ours. PyTorch runs
// in a process of its own (torch_steps.py).
#include "run/run.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>

static const struct { const char *name, *flags; size_t vocab; double goal; Effort from; } settings[] = {
    {"small", small_flags, 65, 2.5, QUICK}, {"mid", mid_flags, 4096, 1, FULL}, {"baby", baby_flags, 65, 1.4, FULL}};
enum { SETTINGS = sizeof settings / sizeof settings[0], OURS = 0, EAGER, COMPILED, MODES };
static const char *const mode_name[MODES] = {"ours", "eager", "compiled"};

typedef struct { Peer *torch; int mode; const Config *config; bool failed; } Work;

static double run_torch(void *work, size_t steps) {
    Work *w = work;
    const Config *c = w->config;
    double seconds = NAN;
    if (!w->failed)
        w->failed = !peer_seconds(w->torch, &seconds, "%s %zu %zu %zu %zu %zu %zu %zu\n", mode_name[w->mode], c->layers,
                                  c->width, c->heads, c->context, c->batch, c->vocab, steps);
    return seconds;
}

// ---- in turns ------------------------------------------------------------------------------------
static void report(Bench *b, size_t i, const Trainer *t, Contestant c[MODES], const Work work[MODES]) {
    double tokens = (double)(t->config.batch * t->config.context), best = INFINITY;
    json_t *o =
        json_pack("{s:s, s:s, s:f}", "setting", settings[i].name, "flags", settings[i].flags, "goal", settings[i].goal);
    printf("%-6s", settings[i].name);
    for (int mode = 0; mode < MODES; mode++) {
        if (work[mode].failed) {
            printf("   %-24s", "failed");
            continue;
        }
        Summary s = seconds_of(b, &c[mode]);
        printf("   %8.0f tok/s %4.0f%% ±%-3.0f", tokens / s.median, 100 * share_of(b, &c[mode]).median,
               100 * spread_of(s));
        json_object_set_new(o, mode_name[mode], contestant_json(b, &c[mode]));
        if (mode == OURS) continue;
        Summary times = ratio_of(b, &c[OURS], &c[mode]);
        char *key = xprintf("times_%s", mode_name[mode]);
        json_object_set_new(o, key, summary_json(times));
        free(key);
        best = times.median < best ? times.median : best;
    }
    printf("   %5.2fx, goal %.1fx\n", best, settings[i].goal);
    json_object_set_new(o, "times_better_mode", run_number(best));
    add_result(b, "torch", o);
}

static void compare(Bench *b, Peer *torch) {
    Trainer *t[SETTINGS] = {NULL};
    Contestant c[SETTINGS][MODES] = {{{0}}};
    Work work[SETTINGS][MODES] = {{{0}}};
    for (size_t i = 0; i < SETTINGS; i++) {
        if (settings[i].from > b->effort) continue;
        t[i] = trainer_new(settings[i].flags, settings[i].vocab);
        for (int mode = 0; mode < MODES; mode++) {
            work[i][mode] = (Work){torch, mode, &t[i]->config, false};
            c[i][mode] = (Contestant){.run = mode == OURS ? trainer_run : run_torch,
                                      .work = mode == OURS ? (void *)t[i] : &work[i][mode],
                                      .flops = trainer_flops(t[i])};
        }
    }
    race(b, "torch", &c[0][0], SETTINGS * MODES);
    printf("PyTorch %s, in turns on the same %d threads\n", torch->version, b->threads);
    printf("setting     ours, share of FMA peak     eager                       compiled                 ours / the "
           "better of both\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if (t[i]) report(b, i, t[i], c[i], work[i]);
    if (*torch->error) printf("a mode failed: %s\n", torch->error);
    race_free(&c[0][0], SETTINGS * MODES);
    for (size_t i = 0; i < SETTINGS; i++) trainer_free(t[i]);
}

void bench_torch(Bench *b) {
    Peer torch;
    char threads[16];
    double least = b->least_seconds;
    if (!*b->python || b->effort == TINY) {
        printf("skipped: no PyTorch; `make bench TORCH=1` installs it into the cache folder (1.4 GB) and compares\n");
        return;
    }
    b->least_seconds = 10 * least;
    snprintf(threads, sizeof threads, "%d", b->threads);
    if (peer_start(&torch, b->python, "bench/torch_steps.py", threads)) compare(b, &torch);
    else
        printf("skipped: %s cannot run bench/torch_steps.py (start it from the root of the repository): %s\n",
               b->python, torch.error);
    b->least_seconds = least;
    peer_stop(&torch);
}

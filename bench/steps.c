// steps.c: whole training steps (forward, backward, clipping, AdamW), as a share of the FMA peak, for the useful FLOPs
// alone: 6 per matrix parameter and token, causal attention at half.
#include "bench/bench.h"
#include <stdlib.h>

// The modern settings have the baby's sizes; their goal is to come within 10% of its share.
#define MODERN "--layers 6 --width 384 --heads 6 --context 256 --batch 8 "
static const struct { const char *name, *flags; size_t vocab; double goal; Effort from; } settings[] = {
    {"small", small_flags, 65, 0.60, TINY},
    {"mid", mid_flags, 4096, 0.72, QUICK},
    {"baby", baby_flags, 65, 0.75, QUICK},
    {"modern", MODERN "--attn gqa --kv-heads 2", 65, 0, QUICK},     // RoPE, RMSNorm, SwiGLU are the defaults
    {"mla", MODERN "--attn mla", 65, 0, FULL},
    {"moe", MODERN "--experts 8 --top-k 2 --expert-width 512", 65, 0, QUICK},     // two experts: a dense one's 1024
};
enum { SETTINGS = sizeof settings / sizeof settings[0], BABY = 2 };

static void report(Bench *b, size_t i, const Trainer *t, const Contestant *c, const Contestant *baby) {
    Summary seconds = seconds_of(b, c), share = share_of(b, c);
    size_t tokens = t->config.batch * t->config.context;
    double of_baby = baby->run ? share.median / share_of(b, baby).median : 0;
    printf("%-7s %9zu %8.1f %9.0f %8.1f %6.1f%% ±%.1f%%", settings[i].name, t->size.parameters, 1e3 * seconds.median,
           (double)tokens / seconds.median, 1e-9 * c->flops / seconds.median, 100 * share.median,
           100 * spread_of(share));
    if (settings[i].goal > 0) printf("   %.0f%%\n", 100 * settings[i].goal);
    else printf("   %.2f of baby's share, goal 0.90\n", of_baby);
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "setting", settings[i].name, "flags", settings[i].flags,
                          "vocab", (json_int_t)settings[i].vocab, "parameters", (json_int_t)t->size.parameters, "step",
                          contestant_json(b, c), "tokens_per_second", json_real((double)tokens / seconds.median));
    if (settings[i].goal > 0) json_object_set_new(o, "goal", json_real(settings[i].goal));
    else json_object_set_new(o, "share_of_baby", json_real(of_baby));
    add_result(b, "steps", o);
    add_point(b, GROUP_STEPS, settings[i].name, c->flops, trainer_bytes(t), seconds.median);
}

void bench_steps(Bench *b) {
    Trainer *t[SETTINGS] = {NULL};
    Contestant c[SETTINGS] = {{0}};
    for (size_t i = 0; i < SETTINGS; i++) {
        if (settings[i].from > b->effort) continue;
        t[i] = trainer_new(settings[i].flags, settings[i].vocab);
        c[i] = (Contestant){.run = trainer_run, .work = t[i], .flops = trainer_flops(t[i])};
    }
    double least = b->least_seconds;
    b->least_seconds = 10 * least;
    race(b, "steps", c, SETTINGS);
    b->least_seconds = least;
    printf("setting    params  ms/step     tok/s  GFLOP/s  share of FMA peak   goal\n");
    for (size_t i = 0; i < SETTINGS; i++)
        if (t[i]) report(b, i, t[i], &c[i], &c[BABY]);
    race_free(c, SETTINGS);
    for (size_t i = 0; i < SETTINGS; i++) trainer_free(t[i]);
}

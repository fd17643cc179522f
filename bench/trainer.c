// trainer.c: training steps as train.c does them, on random tokens and without a run directory: what is learned does
// not change the speed.
#include "lib/rng.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OLD "--pos learned --norm-kind layer --ffn gelu"           // as in GPT-2
const char small_flags[] = "--layers 4 --width 128 --heads 4 --context 64 --batch 12 " OLD;
const char mid_flags[] = "--layers 4 --width 256 --heads 4 --context 256 --batch 8 " OLD;
const char baby_flags[] = "--layers 6 --width 384 --heads 6 --context 256 --batch 8 " OLD;

Config config_of(const char *flags, size_t vocab) {
    Config c;
    flags_parse_text(&config_table, &c, flags, NULL);
    c.vocab = vocab;
    config_resolve(&c);
    return c;
}

Trainer *trainer_new(const char *flags, size_t vocab) {
    Trainer *t = xmalloc(sizeof *t);
    t->config = config_of(flags, vocab);
    t->size = model_size(&t->config);
    t->model = model_new(&t->config, true);
    size_t M = t->config.batch * t->config.context;
    t->optimizer = optimizer_new(t->model);
    t->tokens = xmalloc(size_mul(M, sizeof(int))), t->targets = xmalloc(size_mul(M, sizeof(int)));
    t->row_loss = xmalloc(t->config.batch * sizeof(double));
    return t;
}

void trainer_free(Trainer *t) {
    if (!t) return;
    model_free(t->model);
    optimizer_free(&t->optimizer);
    free(t->tokens), free(t->targets), free(t->row_loss), free(t);
}

// Forward, backward, clipping, AdamW.
static void train_step(Trainer *t) {
    size_t B = t->config.batch, T = t->config.context;
    Rng random = rng_stream(1, RNG_TEST, t->step);
    for (size_t i = 0; i < B * T; i++) t->tokens[i] = (int)rng_below(&random, (uint32_t)t->config.vocab);
    for (size_t i = 0; i < B * T; i++) t->targets[i] = t->tokens[(i + 1) % (B * T)];
    model_zero_gradients(t->model);
    model_forward_backward(t->model, t->tokens, t->targets, B, T, 1 / (double)(B * T), 1 / (double)B, t->row_loss);
    model_finish_gradients(t->model);
    double norm = optimizer_norm(&t->optimizer, t->model);
    optimizer_step(&t->optimizer, t->model, norm, t->step++);
    model_update_routers(t->model);
    model_changed(t->model);
    if (!isfinite(t->row_loss[0]) || !isfinite(norm)) fail("a measured training diverged at step %zu", t->step);
}

double trainer_run(void *trainer, size_t steps) {
    double start = seconds_now();
    for (size_t i = 0; i < steps; i++) train_step(trainer);
    return seconds_now() - start;
}

double trainer_flops(const Trainer *t) {
    return t->size.flops_per_token * (double)(t->config.batch * t->config.context);
}

// Of each parameter: read and packed, read in both passes, its gradient zeroed, written and read, the moments read and
// written, the value written: 13 numbers. Activations are written once and read once.
double trainer_bytes(const Trainer *t) {
    return 13.0 * (double)t->size.parameter_bytes + 2.0 * (double)t->size.activation_bytes;
}

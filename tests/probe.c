// probe.c: our side of tests/oracle.py, which compares it with transformers.
//     build/probe DIR tokens.json OUT        logits and gradients of the model in DIR, as safetensors in OUT
//     build/probe DIR tokens.json OUT losses  the same with what the routers of a run of ours add to the loss
//     build/probe DIR tokens.json OUT --rope-scaling KIND ...  the same with rotations stretched
//     build/probe --random "FLAGS" DIR       saves a random model of ours, with no norm or bias at 1 or 0
//     build/probe --round DIR OUT            saves the model in DIR as --save-dtype bf16 does
#include "formats/hf.h"
#include "lib/rng.h"
#include "tests/config.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static void save_random(const char *words, const char *dir) {
    Config c = config_of(words, "", 0);
    Model *m = model_new(&c, false);
    const Param *p;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        Rng r = rng_stream(c.seed, RNG_TEST, i);
        for (size_t e = 0; e < p[i].size; e++) model_values(m)[p[i].offset + e] += (real)(0.1 * rng_normal(&r));
    }
    make_directories(dir);
    hf_save(m, dir);
    model_free(m);
}

static void save_rounded(const char *dir, const char *out) {
    Config c;
    flags_defaults(&config_table, &c);
    hf_config(&c, dir);
    c.save_dtype = SAVE_DTYPE_bf16;
    config_resolve(&c);
    Model *m = model_new(&c, false);
    hf_load(m, dir);
    make_directories(out);
    hf_save(m, out);
    model_free(m);
}

// Rows of T+1 tokens, of which the first T are read and the last T predicted.
typedef struct { int *tokens, *targets; size_t B, T; } Batch;

static Batch read_batch(const char *path) {
    json_error_t error;
    json_t *rows = json_load_file(path, 0, &error);
    Batch b = {.B = json_array_size(rows), .T = json_array_size(json_array_get(rows, 0))};
    if (b.T-- < 2) fail("%s: rows of at least two tokens were expected", path);
    b.tokens = xmalloc(b.B * b.T * sizeof(int));
    b.targets = xmalloc(b.B * b.T * sizeof(int));
    for (size_t i = 0; i < b.B * b.T; i++) {
        const json_t *row = json_array_get(rows, i / b.T);
        b.tokens[i] = (int)json_integer_value(json_array_get(row, i % b.T));
        b.targets[i] = (int)json_integer_value(json_array_get(row, i % b.T + 1));
    }
    json_decref(rows);
    return b;
}

static void write_logits(Model *m, const Batch *b, const char *path) {
    size_t V = model_config(m)->vocab;
    TensorOut out = {.name = "logits", .rank = 3, .shape = {b->B, b->T, V}};
    real *logits = xmalloc(b->B * b->T * V * sizeof *logits);
    for (size_t row = 0; row < b->B; row++)
        model_infer(m, NULL, b->tokens + row * b->T, b->T, true, logits + row * b->T * V);
    out.data = logits;
    safetensors_write(path, &out, 1, NULL, 0);
    free(logits);
}

// Under the names of the checkpoint that was read, also where rotations were stretched since.
static void write_gradients(Model *m, const Config *read, const Batch *b, const char *path) {
    double *row_loss = xmalloc(b->B * sizeof *row_loss);
    model_zero_gradients(m);
    double B = (double)b->B, T = (double)b->T;
    model_forward_backward(m, b->tokens, b->targets, b->B, b->T, 1 / (B * T), 1 / B, row_loss);
    model_finish_gradients(m);
    Model *names = model_new(read, false);
    hf_write_tensors(names, model_gradients(m), path);
    model_free(names);
    free(row_loss);
}

// flags: those of config/rope.def, after a word that stands for the program; or none.
static void probe(const char *dir, const char *tokens, const char *out, bool losses, int flags, char **flag) {
    Config c, all, stretched, read;
    Batch b = read_batch(tokens);
    flags_defaults(&config_table, &c);
    hf_config(&c, dir);
    read = c;
    config_resolve(&read);
    flags_parse(&config_table, &stretched, flags, flag, NULL);
    if (flags > 1) config_stretch(&c, &config_table, &stretched, 0);
    c.batch = b.B, c.eval_tokens = b.B * c.context;     // full batches, as a router that pools over them wants
    config_resolve(&c);
    flags_defaults(&config_table, &all);
    losses = losses && hf_flags(&all, dir);
    c.aux_loss = losses ? all.aux_loss : 0;  // else the loss that is differentiated is the cross-entropy alone
    c.z_loss = losses ? all.z_loss : 0;
    Model *m = model_new(&c, true);
    hf_load(m, dir);
    make_directories(out);
    write_logits(m, &b, xprintf("%s/logits.safetensors", out));
    write_gradients(m, &read, &b, xprintf("%s/gradients.safetensors", out));
    model_free(m);
}

int main(int argc, char **argv) {
    bool losses = argc == 5 && strcmp(argv[4], "losses") == 0;
    if (argc < 4) usage_error("probe DIR tokens.json OUT [losses | --rope-...], or probe --random FLAGS DIR");
    if (strcmp(argv[1], "--random") == 0) save_random(argv[2], argv[3]);
    else if (strcmp(argv[1], "--round") == 0) save_rounded(argv[2], argv[3]);
    else probe(argv[1], argv[2], argv[3], losses, losses ? 1 : argc - 3, argv + 3);
    return 0;
}

// probe.c: our side of tests/oracle.py, which compares it with transformers.
//     build/probe DIR tokens.json OUT        logits and gradients of the model in DIR, as safetensors in OUT
//     build/probe DIR tokens.json OUT losses  the same with what the routers of a run of ours add to the loss
//     build/probe DIR tokens.json OUT --rope-scaling KIND ...  the same with rotations stretched
//     build/probe --random "FLAGS" DIR       saves a random model of ours, with no norm or bias at 1 or 0
//     build/probe --round DIR OUT            saves the model in DIR as --save-dtype bf16 does
//     build/probe --tokens DIR texts.json    what the tokenizer in DIR makes of an array of texts: see print_tokens;
//         with OUT and an architecture behind it also saved there, as a run of that architecture has it
//     build/probe --quant FORMAT RULE COLUMNS NUMBERS OUT   floats in few bits, for tests/quant.py: see quantise
//     build/probe --tokenizer KIND DIR       saves a tokenizer of ours, char, byte or bpe:N, of DIR/text
#include "data/tokenizer.h"
#include "formats/hf.h"
#include "kernels/quant.h"
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

// ---- tokenizers ------------------------------------------------------------------------------------
static json_t *numbers(const int *token, size_t n) {
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(array, json_integer(token[i]));
    return array;
}

// The text that tokens give back, in hexadecimal digits, with marks or without.
static json_t *spoken(Tokenizer *t, const int *token, size_t n, bool marks) {
    char *hex = xmalloc(1);
    size_t length = 0;
    tokenizer_show_special(t, marks);
    for (size_t i = 0; i < n; i++) {
        const char *bytes;
        size_t count = tokenizer_decode(t, i ? token[i - 1] : -1, token[i], &bytes);
        hex = xrealloc(hex, length + 2 * count + 1);
        for (size_t j = 0; j < count; j++, length += 2) snprintf(hex + length, 3, "%02x", (unsigned char)bytes[j]);
    }
    json_t *text = json_stringn(hex, length);
    free(hex);
    return text;
}

// {"vocab": N, "end": token, "texts": [{"tokens", "prompt", "spoken", "marked"}]}; a text with a NUL is no prompt.
static void print_tokens(const char *dir, const char *path, const char *saved, const char *architecture) {
    json_error_t error;
    json_t *texts = json_load_file(path, JSON_ALLOW_NUL, &error), *out = json_array();
    Tokenizer *t = tokenizer_open_dir(dir);
    if (!t || !texts) fail("%s has no tokenizer, or %s no texts", dir, path);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        int *tokens, *prompt;
        size_t n = tokenizer_encode(t, text, json_string_length(json_array_get(texts, i)), &tokens);
        size_t m = tokenizer_prompt(t, text, &prompt);
        json_array_append_new(out, json_pack("{s:o, s:o, s:o, s:o}", "tokens", numbers(tokens, n), "prompt",
                                             numbers(prompt, m), "spoken", spoken(t, tokens, n, false), "marked",
                                             spoken(t, tokens, n, true)));
        free(tokens), free(prompt);
    }
    json_t *all = json_pack("{s:i, s:i, s:s, s:o}", "vocab", (int)tokenizer_vocab(t), "end", tokenizer_end(t), "kind",
                            tokenizer_kind(t), "texts", out);
    json_dumpf(all, stdout, JSON_COMPACT);
    if (saved) {
        make_directories(saved);
        tokenizer_save_beside(t, saved, architecture);
    }
}

static void save_tokenizer(const char *kind, const char *dir) {
    char *path = xprintf("%s/text", dir);
    size_t bytes, vocab = 0;
    char *text = read_whole_file(path, &bytes);
    bool bpe = sscanf(kind, "bpe:%zu", &vocab) == 1;
    Tokenizer *t = bpe ? tokenizer_bpe(text, bytes, vocab)
                 : strcmp(kind, "char") == 0 ? tokenizer_char(text, bytes) : tokenizer_byte();
    tokenizer_save_dir(t, dir);
}

// ---- numbers in few bits ---------------------------------------------------------------------------
// Floats of a file, in rows: the scale of the tensor, the bytes of all rows, what they mean.
static void quantise(const char *format, const char *rule, size_t columns, const char *path, const char *out) {
    Quant q = {0};
    size_t bytes;
    real *x = (real *)read_whole_file(path, &bytes);
    size_t n = bytes / sizeof *x, rows = columns ? n / columns : 0;
    if (!quant_find(format, &q.format) || !quant_mx_find(rule, &q.mx_scale) || rows * columns != n)
        usage_error("--quant %s %s %zu: no such format, rule or number of columns", format, rule, columns);
    size_t held = rows * quant_row_bytes(q.format, columns);
    unsigned char *codes = xmalloc(held);
    float scale = quant_tensor_scale(q.format, x, n);
    quant_encode_rows(q, codes, scale, x, rows, columns);
    quant_decode_rows(q.format, x, codes, scale, rows, columns);
    AtomicFile file = atomic_open(out);
    atomic_write(&file, &scale, sizeof scale), atomic_write(&file, codes, held), atomic_write(&file, x, bytes);
    atomic_close(&file);
}

// ---- models ----------------------------------------------------------------------------------------
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
    c.batch = b.B, c.eval_tokens = b.B * c.context;     // full batches, as a router that pools over them wants
    read = c;
    config_resolve(&read);
    flags_parse(&config_table, &stretched, flags, flag, NULL);
    if (flags > 1) config_stretch(&c, &config_table, &stretched, 0);
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
    else if (strcmp(argv[1], "--tokens") == 0) print_tokens(argv[2], argv[3], argv[4], argc > 5 ? argv[5] : NULL);
    else if (strcmp(argv[1], "--quant") == 0 && argc == 7)
        quantise(argv[2], argv[3], strtoul(argv[4], NULL, 10), argv[5], argv[6]);
    else if (strcmp(argv[1], "--tokenizer") == 0) save_tokenizer(argv[2], argv[3]);
    else probe(argv[1], argv[2], argv[3], losses, losses ? 1 : argc - 3, argv + 3);
    return 0;
}

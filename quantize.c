// quantize.c: main(). Writes a model as GGUF, with its matrices in another type.
//
//     ./quantize runs/NAME f16 -o model.gguf
//     ./quantize --help
//
// What the file says is the matter of formats/gguf_model.c and, for tokens, data/tokenizer_gguf.c.
#include "config/quantize.h"
#include "data/tokenizer.h"
#include "formats/gguf_model.h"
#include "formats/hf.h"
#include "lib/cpu.h"
#include "lib/process.h"
#include "model/rounding.h"
#include "run/report.h"
#include "run/run.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

// "RUN FORMAT -o FILE" as "--run RUN --format FORMAT --out FILE"; flags stay as they are.
static char **with_names(int *argc, char **argv) {
    static const char *const names[] = {"--run", "--format"};
    char **all = xmalloc((2 * (size_t)*argc + 1) * sizeof *all);
    int n = 0, words = 0;
    all[n++] = argv[0];
    for (int i = 1; i < *argc; i++) {
        bool flag = argv[i][0] == '-', follows = i > 1 && argv[i - 1][0] == '-' && !strchr(argv[i - 1], '=');
        if (!flag && !follows && words < 2) all[n++] = (char *)names[words++];
        all[n++] = strcmp(argv[i], "-o") == 0 ? "--out" : argv[i];
    }
    *argc = n;
    return all;
}

// As ggml writes it, too: Q8_0, q8-0.
static const GgufType *type_of(QuantizeOptions *o) {
    for (char *c = o->format; *c; c++) *c = *c == '-' ? '_' : (char)tolower((unsigned char)*c);
    const GgufType *type = gguf_type_named(o->format);
    char known[128] = "";
    for (const GgufType *t = gguf_types; t->name; t++)
        if (t->encode)
            snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", t->name);
    if (!type) usage_error("--format %s: one of %s was expected", o->format, known);
    return type;
}

static char *name_of_file(const QuantizeOptions *o) {
    if (*o->out) return xprintf("%s", o->out);
    size_t n = strlen(o->run);
    while (n > 1 && o->run[n - 1] == '/') n--;
    if (n > 5 && strncmp(o->run + n - 5, ".gguf", 5) == 0) n -= 5;
    return xprintf("%.*s.%s.gguf", (int)n, o->run, o->format);
}

static bool is_given(const bool *given, const char *name) { return given[flags_find(&quantize_table, name)]; }

// A run that was trained with rounded weights says how they are rounded, unless flags do. The file then has the codes
// of what it was trained as, and the model rounds (c->quant).
static void plan_rounding(QuantizeOptions *o, const bool *given, const GgufType *type, Config *c) {
    static Config trained;
    flags_defaults(&config_table, &trained);
    bool same = hf_rounding(&trained, o->run) && !strcmp(quant_name(rounding_format(&trained).format), type->name);
    if (same && !is_given(given, "mx_scale")) o->mx_scale = trained.mx_scale;
    if (same && !is_given(given, "quant_search")) o->quant_search = trained.quant_search;
    if (same && !is_given(given, "quant_embed")) o->quant_embed = trained.quant_embed;
    Config asked = trained;
    asked.mx_scale = o->mx_scale, asked.quant_search = o->quant_search, asked.quant_embed = o->quant_embed;
    same = same && config_rounds_alike(&asked, &trained);
    if (same && trained.hadamard)
        fail("%s was trained with --hadamard: its codes are of rotated weights, which GGUF cannot say; as f32 it has "
             "what they mean, rotated back", o->run);
    asked.quant_act = QUANT_ACT_none;
    if (same) config_round(c, &config_table, &asked);
    else if (strcmp(type->name, "f32") != 0)
        hf_note_rounded(o->run, "the exact ones are for its own format alone, with its flags");
}

static Model *load(QuantizeOptions *o, const bool *given, const GgufType *type) {
    static const char advice[] = "--unverified uses it all the same";
    static Config c;
    flags_defaults(&config_table, &c);
    bool ours = hf_flags(&c, o->run);
    if (!ours) hf_config(&c, o->run);
    size_t trained = ours ? c.context : hf_trained_context(o->run);
    config_resolve(&c);
    if (!ours) c.context = trained;
    const char *obstacle = gguf_obstacle(&c);
    if (obstacle) fail("%s cannot be written as GGUF: %s", o->run, obstacle);
    obstacle = gguf_type_obstacle(&c, type);
    if (obstacle) fail("%s cannot be written as %s: %s", o->run, type->name, obstacle);
    if (!o->unverified) run_check_files(o->run, false, advice);
    plan_rounding(o, given, type, &c);
    Model *m = model_new(&c, false);
    hf_load(m, o->run);
    if (!o->unverified) report_check_weights(m, o->run, advice);
    return m;
}

static void put_tokens(GgufHead *head, const QuantizeOptions *o, const Config *c) {
    Tokenizer *t = tokenizer_open_dir(o->run);
    const char *missing = "the run has no tokenizer";
    if (t && tokenizer_vocab(t) > c->vocab)
        fail("the tokenizer of %s has %zu tokens, but its model only %zu; they do not belong together", o->run,
             tokenizer_vocab(t), c->vocab);
    if (t) missing = tokenizer_put_gguf(t, head, c->vocab);
    else gguf_put_text(head, "tokenizer.ggml.model", "none");
    if (missing)
        print_line(stderr, "note     %s; in llama.cpp this model reads and writes tokens as numbers\n", missing);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    QuantizeOptions o;
    char **words = with_names(&argc, argv);
    bool *given = xmalloc(quantize_table.count * sizeof *given);
    flags_parse(&quantize_table, &o, argc, words, given);
    if (strcmp(o.out, "-") == 0) usage_error("-o -: a GGUF is not written to the terminal or a pipe; name a file");
    if (!*o.run) usage_error("name a run: ./quantize RUN FORMAT -o FILE (--help)");
    const GgufType *type = type_of(&o);
    for (size_t i = 0; i < quantize_table.count; i++)
        if (given[i]) flags_refuse_unused(&quantize_table, &o, i);
    char *path = name_of_file(&o);
    check_output("out", path, "GGUF");
    run_refuse_replacing("out", path, o.run);
    Model *m = load(&o, given, type);
    GgufHead head = {0};
    put_tokens(&head, &o, model_config(m));
    GgufKept kept = gguf_save(m, &head, type, (GgufPlan){{o.mx_scale, o.quant_search}, o.quant_embed}, path);
    print_line(stdout, "written  %s\n", path);
    if (kept.exact) print_line(stderr, "note     the embedding and the head are in f32: they are not rounded\n");
    if (kept.unscaled)
        print_line(stderr, "note     the embedding is in %s: llama.cpp has no place for its scale in %s\n",
                   model_config(m)->quant ? "f32" : "f16", type->name);
    if (kept.odd)
        print_line(stderr, "note     %zu matri%s with rows that are no whole blocks of %zu numbers %s in %s\n",
                   kept.odd, kept.odd == 1 ? "x" : "ces", type->block, kept.odd == 1 ? "is" : "are",
                   model_config(m)->quant ? "f32" : "f16");
    model_free(m);
    free(path), free(words), free(given);
    return 0;
}

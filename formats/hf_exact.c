// hf_exact.c: the exact weights of a run that was trained with --quant. Its model.safetensors has the rounded ones, and
// state.safetensors those that the optimizer moves, under our own names.
#include "formats/hf_config.h"
#include <stdlib.h>
#include <string.h>

void hf_note_rounded(const char *dir, const char *why) {
    static Config c;
    flags_defaults(&config_table, &c);
    if (!hf_rounding(&c, dir)) return;
    char *format = flags_get(&config_table, &c, flags_find(&config_table, "quant"));
    fprintf(stderr, "note     %s was trained with --quant %s: %sits weights are rounded, and rounding them again may "
            "change them; %s\n", dir, format, c.qat_start > 0 ? "if it has come to --qat-start, " : "", why);
    free(format);
}

static float from_brain(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// Whether a file holds these numbers, as they are or by --save-dtype bf16.
static bool holds(const real *saved, const real *x, size_t n) {
    size_t same = 0, brain = 0;
    for (size_t i = 0; i < n; i++) {
        same += (double)saved[i] == (double)x[i];
        brain += (double)saved[i] == (double)from_brain(safetensors_brain((double)x[i]));
    }
    return same == n || brain == n;
}

// Of one tensor; false where the file has another one, or what training made of it is not what the model has. A run
// that did not yet round has saved it as it is.
static bool read_exact(real *exact, const SafeTensors *file, const Config *c, const Param *p, const real *saved) {
    const TensorIn *t = safetensors_find(file, p->name);
    bool same_shape = t && t->rank == p->rank && memcmp(t->shape, p->shape, p->rank * sizeof *p->shape) == 0;
    if (!same_shape) return false;
    safetensors_copy(file, t, exact);
    if (holds(saved, exact, p->size)) return true;
    if (!model_rounds(c, p)) return false;
    real *rounded = xmalloc(p->size * sizeof *rounded);
    model_round(c, p, rounded, exact);
    bool belongs = holds(saved, rounded, p->size);
    free(rounded);
    return belongs;
}

// All of them, or none.
static const char *exchange(Model *m, const Config *trained, const char *dir) {
    char *path = xprintf("%s/state.safetensors", dir);
    const Param *p;
    size_t params = model_params(m, &p);
    if (!file_exists(path)) return free(path), "the exact ones are missing (state.safetensors)";
    SafeTensors *file = safetensors_open_advised(path, "move it away to round what is rounded");
    real *all = xmalloc(model_numbers(m) * sizeof *all), *values = model_values(m);
    bool belong = true;
    memcpy(all, values, model_numbers(m) * sizeof *all);
    for (size_t i = 0; i < params && belong; i++)
        if (model_rounds(model_config(m), &p[i]) || !model_rounds(trained, &p[i]))
            belong = read_exact(all + p[i].offset, file, trained, &p[i], values + p[i].offset);
    if (belong) memcpy(values, all, model_numbers(m) * sizeof *all);
    safetensors_close(file);
    free(all), free(path);
    return belong ? NULL : "state.safetensors has others: it is of another step or run";
}

static void note_activations(const Config *trained, const char *dir) {
    char *act = flags_get(&config_table, trained, flags_find(&config_table, "quant_act"));
    char *format = flags_get(&config_table, trained, flags_find(&config_table, "quant"));
    fprintf(stderr, "note     %s was trained with --quant-act %s, and is not computed so here; ./generate and ./serve "
            "do, with that flag and --quant %s\n", dir, act, format);
    free(act), free(format);
}

void hf_load_exact(Model *m, const char *dir) {
    static Config trained;
    trained = *model_config(m);
    if (!hf_rounding(&trained, dir)) return;
    if (trained.quant_act && model_config(m)->quant_act != trained.quant_act) note_activations(&trained, dir);
    if (!model_config(m)->quant) return;
    const char *why = "the exact ones are for that format alone, with its flags";
    if (config_rounds_alike(&trained, model_config(m))) why = exchange(m, &trained, dir);
    if (why) hf_note_rounded(dir, why);
    model_changed(m);
}

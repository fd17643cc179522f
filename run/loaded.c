// loaded.c: see loaded.h.
#include "run/loaded.h"
#include "formats/hf.h"
#include "run/run.h"
#include <stdlib.h>
#include <string.h>

// ---- where it starts ----------------------------------------------------------------------------
void loaded_config(Config *c, const bool *given) {
    Config asked = *c;
    hf_config(c, c->load);
    static Config theirs;
    theirs = *c;
    if (given[flags_find(&config_table, "rope_scaling")]) config_stretch(c, &config_table, &asked, 0);
    config_note_stretch(c, &theirs);
    if (given[flags_find(&config_table, "init_scale")] || given[flags_find(&config_table, "scaled_init")])
        usage_error("--init-scale and --scaled-init have no effect beside --load %s: leave them out", c->load);
    run_check_files(c->load, false, "move run.json away if that was on purpose");
    Config loaded = *c;
    config_name_biases(&asked), config_name_biases(&loaded);
    for (size_t i = 0; i < config_table.count; i++) {
        if (!given[i]) continue;
        char *wanted = flags_get(&config_table, &asked, i), *found = flags_get(&config_table, &loaded, i);
        if (strcmp(wanted, found))
            usage_error("--%s %s contradicts the model in %s, which has %s; leave the flag out",
                        flags_shown(config_table.flag[i].name, (char[64]){0}), wanted, c->load, found);
        free(wanted), free(found);
    }
}

// ---- from whom it learns -------------------------------------------------------------------------
static void refuse_other_tokens(const Config *c, const Config *theirs, const Tokenizer *words) {
    if (theirs->vocab != c->vocab)
        fail("--teacher %s has a vocabulary of %zu, --data %s one of %zu; a draft must have the same tokens",
             c->teacher, theirs->vocab, c->data, c->vocab);
    if (strcmp(tokenizer_kind(words), "numbers") == 0) return;
    Tokenizer *t = tokenizer_open_dir(c->teacher);
    if (!t)
        print_line(stderr, "note     --teacher %s has no tokenizer: whether its tokens mean the same is not known\n",
                   c->teacher);
    else if (!tokenizer_equal(t, words))
        fail("--teacher %s: its tokens mean other texts than those of --data %s", c->teacher, c->data);
    tokenizer_free(t);
}

Model *loaded_teacher(const Config *c, const Tokenizer *words, FILE *out) {
    static Config theirs;
    flags_defaults(&config_table, &theirs);
    bool ours = hf_flags(&theirs, c->teacher);
    if (!ours) hf_config(&theirs, c->teacher);
    config_resolve(&theirs);
    run_check_files(c->teacher, false, "a draft would learn from what nobody trained");
    refuse_other_tokens(c, &theirs, words);
    if (theirs.pos == POS_learned && theirs.context < c->context)
        fail("--teacher %s knows %zu positions, and rows have --context %zu; shorten them", c->teacher, theirs.context,
             c->context);
    Model *m = model_new(&theirs, false);
    hf_load(m, c->teacher);
    ModelSize s = model_size(&theirs);
    char *loss = flags_get(&config_table, c, flags_find(&config_table, "draft_loss"));
    print_line(out, "teacher  %s, %zu parameters, %.1f MiB beside the memory above; --draft-loss %s\n", c->teacher,
               s.parameters, (double)(s.parameter_bytes + s.packed_bytes) / (1 << 20), loss);
    free(loss);
    return m;
}

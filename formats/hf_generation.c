// hf_generation.c: what generation_config.json would have transformers do to a text, and we do not; where there is none
// it takes the same keys of config.json (GenerationConfig.from_model_config).
#include "formats/gguf.h"
#include "formats/hf_config.h"
#include <stdlib.h>
#include <string.h>

// flag: what applies it here, or NULL. neutral: the value, as JSON, at which it changes nothing; null never does.
// drawn: counts only where do_sample is true: else transformers takes the most probable token.
static const struct { const char *key, *flag, *neutral; bool drawn; } settings[] = {
    {"do_sample", "temperature", "true", false},
    {"temperature", "temperature", "1.0", true},
    {"top_k", "sample_top_k", "0", true},
    {"top_p", "top_p", "1.0", true},
    {"min_p", NULL, "0", true},
    {"top_h", NULL, NULL, true},
    {"typical_p", NULL, "1", true},
    {"epsilon_cutoff", NULL, "0", true},
    {"eta_cutoff", NULL, "0", true},
    {"repetition_penalty", NULL, "1", false},
    {"encoder_repetition_penalty", NULL, "1", false},
    {"no_repeat_ngram_size", NULL, "0", false},
    {"encoder_no_repeat_ngram_size", NULL, "0", false},
    {"suppress_tokens", NULL, "[]", false},
    {"begin_suppress_tokens", NULL, "[]", false},
    {"forced_bos_token_id", NULL, NULL, false},
    {"forced_eos_token_id", NULL, NULL, false},
    {"bad_words_ids", NULL, "[]", false},
    {"sequence_bias", NULL, "[]", false},
    {"exponential_decay_length_penalty", NULL, NULL, false},
    {"min_length", NULL, "0", false},
    {"min_new_tokens", NULL, "0", false},
    {"stop_strings", NULL, "[]", false},
    {"num_beams", NULL, "1", false},
    {"penalty_alpha", NULL, "0", false},
    {"guidance_scale", NULL, "1", false},
    {"watermarking_config", NULL, NULL, false},
};

// 1 is 1.0; an empty list is an empty object.
static bool is_same(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    bool holds_none = (json_is_array(a) && !json_array_size(a)) || (json_is_object(a) && !json_object_size(a));
    return json_equal(a, b) || (holds_none && json_is_array(b));
}

// Whether the flag does already what is asked for, or was given: then somebody has chosen.
static bool is_applied(size_t i, const json_t *value, const FlagTable *table, const void *flags, const bool *given) {
    size_t flag = settings[i].flag ? flags_find(table, settings[i].flag) : 0;
    if (!settings[i].flag) return false;
    char *text = flags_get(table, flags, flag);
    double now = strtod(text, NULL);
    free(text);
    if (json_is_boolean(value)) return given[flag] || now == 0;
    return given[flag] || now == json_number_value(value);
}

// "do_sample false" is a temperature of 0.
static void add_advice(char *out, size_t size, size_t i, const char *value) {
    char shown[64];
    if (!settings[i].flag) snprintf(out, size, "no flag does");
    else
        snprintf(out, size, "--%s %.20s would", flags_shown(i ? settings[i].flag : "temperature", shown),
                 i ? value : "0");
}

void hf_note_generation(const char *dir, const FlagTable *table, const void *flags, const bool *given) {
    if (gguf_is(dir)) return;
    char *path = xprintf("%s/generation_config.json", dir), names[600] = "";
    JsonFile j = hf_read_json(dir, file_exists(path) ? "generation_config.json" : "config.json");
    free(path);
    bool draws = json_is_true(json_object_get(j.json, "do_sample"));
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(j.json, settings[i].key);
        json_t *neutral = settings[i].neutral ? json_loads(settings[i].neutral, JSON_DECODE_ANY, NULL) : NULL;
        bool nothing = !value || json_is_null(value) || (settings[i].drawn && !draws);
        bool same = neutral && is_same(value, neutral) && (i == 0 || !settings[i].flag);
        json_decref(neutral);
        if (nothing || same || is_applied(i, value, table, flags, given)) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)), advice[100];
        add_advice(advice, sizeof advice, i, text);
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s %.20s%s (%s)", n ? ", " : "", settings[i].key, text,
                 strlen(text) > 20 ? "..." : "", advice);
        free(text);
    }
    if (*names) print_line(stderr, "note     %s does what is not done here: %s\n", j.path, names);
    hf_close_json(&j);
}

// report.c: formatting of what train.c knows. Nothing here changes a number.
#include "run/report.h"
#include "formats/hf.h"
#include "run/curves.h"
#include "run/events.h"
#include "lib/machine.h"
#include "kernels/optim.h"
#include "plot/profile_report.h"
#include "lib/simd.h"
#include "moe.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

char *report_command(int argc, char **argv) {
    char *all = flags_quote(argv[0]);
    for (int i = 1; i < argc; i++) {
        char *word = flags_quote(argv[i]), *longer = xprintf("%s %s", all, word);
        free(word);
        free(all);
        all = longer;
    }
    return all;
}

char *report_label(const char *data) {
    const char *base = strrchr(data, '/') ? strrchr(data, '/') + 1 : data;
    size_t length = strcspn(base, ".");
    char *label = xprintf("%.*s", (int)(length < 32 ? length : 32), base);
    for (char *p = label; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", *p)) *p = '-';
    return label;
}

// The floor is an expectation; this is the true distribution's loss on the very rows of the validation.
static double source_loss(const Config *c, const Data *d) {
    if (!d->truth) return NAN;
    size_t T = c->context, scored = 0;
    int *tokens = xmalloc(size_mul(T, sizeof(int))), *targets = xmalloc(size_mul(T, sizeof(int)));
    double sum = 0, *log_probability = xmalloc(size_mul(T, sizeof(double)));
    for (size_t r = 0; r < d->validation_rows; r++) {
        d->row(d, SPLIT_VALIDATION, r, T, tokens, targets, NULL);
        d->truth(d, T, tokens, targets, log_probability);
        for (size_t i = 0; i < T; i++)
            if (targets[i] >= 0) sum -= log_probability[i], scored++;
    }
    free(tokens);
    free(targets);
    free(log_probability);
    return scored ? sum / (double)scored : NAN;
}

Facts report_facts(const Config *c, const Data *d, const ModelSize *size, int argc, char **argv) {
    return (Facts){c, d, size, 1e9 * simd_fma_peak(omp_get_max_threads()), source_loss(c, d),
                   report_command(argc, argv), (size_t)machine_peak_memory(), NAN};
}

// ---- the start ---------------------------------------------------------------------------------
// A model knows its tokens as numbers alone: with another tokenizer they have another meaning, and it starts badly.
// That of others is opened only where it may be the same: ours that have no such form are another in any case.
void report_loaded_tokenizer(const Config *c, const Tokenizer *t, FILE *out) {
    static Config theirs;
    if (!*c->load || !tokenizer_in_dir(c->load)) return;
    bool open = hf_flags(&theirs, c->load) || strcmp(tokenizer_kind(t), "hf") == 0;
    Tokenizer *old = open ? tokenizer_open_dir(c->load) : NULL;
    if (old && !tokenizer_equal(old, t))
        print_line(out, "note     %s was trained with another tokenizer (%s, %zu tokens) than --data %s has (%s, "
                   "%zu): its tokens change their meaning\n", c->load, tokenizer_kind(old), tokenizer_vocab(old),
                   c->data, tokenizer_kind(t), tokenizer_vocab(t));
    if (!old)
        print_line(out, "note     %s was trained with a tokenizer of its own, not with that of --data %s (%s, %zu): "
                   "its tokens change their meaning\n", c->load, c->data, tokenizer_kind(t), tokenizer_vocab(t));
    tokenizer_free(old);
}

// A run says of its model that it was trained on rows of --context.
void report_loaded_context(const Config *c, FILE *out) {
    size_t trained = *c->load ? hf_trained_context(c->load) : c->context;
    if (trained != c->context)
        print_line(out, "note     %s was trained on %zu tokens, and this run trains rows of --context %zu, which its "
                   "config.json will say\n", c->load, trained, c->context);
}

void report_draft(const char *draft, size_t draft_vocab, const char *run, size_t vocab, const Tokenizer *words) {
    if (draft_vocab != vocab)
        fail("--draft %s has a vocabulary of %zu, %s one of %zu; a draft must have the same tokens", draft, draft_vocab,
             run, vocab);
    if (strcmp(tokenizer_kind(words), "numbers") == 0) return;
    Tokenizer *t = tokenizer_open_dir(draft);
    if (!t)
        print_line(stderr, "note     --draft %s has no tokenizer: whether its tokens mean the same is not known\n",
                   draft);
    else if (!tokenizer_equal(t, words)) fail("--draft %s: its tokens mean other texts than those of %s", draft, run);
    tokenizer_free(t);
}

uint64_t report_weights_hash(Model *m) {
    const Param *param;
    size_t params = m ? model_params(m, &param) : 0;
    uint64_t h = m ? HASH_START : 0;
    for (size_t i = 0; i < params; i++)
        h = hash_bytes(hash_text(h, param[i].name), model_values(m) + param[i].offset, param[i].size * sizeof(real));
    return h;
}

// Such runs are from before there was another precision for weights than the one that computed them.
void report_check_weights(Model *m, const char *dir, const char *advice) {
    char *path = xprintf("%s/run.json", dir), *text = file_exists(path) ? read_regular_file(path, NULL) : NULL;
    json_t *record = text ? json_loads(text, 0, NULL) : NULL;
    json_t *hashes = json_object_get(record, "hashes");
    const char *precision = json_string_value(json_object_get(record, "precision"));
    bool comparable = hashes && !json_object_get(record, "files") && precision && !strcmp(precision, run_precision());
    const Param *p;
    for (size_t i = 0, n = comparable ? model_params(m, &p) : 0; i < n; i++) {
        uint64_t h = hash_bytes(hash_text(HASH_START, p[i].name), model_values(m) + p[i].offset,
                                p[i].size * sizeof(real));
        json_t *now = run_hash(h);
        if (!json_equal(now, json_object_get(hashes, p[i].name)))
            fail("%s: the tensor %s is not as the run left it: its run.json has another hash of it; %s", dir, p[i].name,
                 advice);
        json_decref(now);
    }
    json_decref(record);
    free(path), free(text);
}

static void print_bytes(FILE *out, const char *what, size_t bytes) {
    double mib = (double)bytes / (1 << 20);
    fprintf(out, "%s %.*f MiB", what, mib < 10 ? 2 : 0, mib);
}

// With --log-layers, the parameters before an update.
static size_t memory_of_log(const Facts *f) { return f->config->log_layers ? f->size->parameter_bytes : 0; }

// With --quant, beside the exact weights.
static size_t memory_of_rounded(const Facts *f) { return f->config->quant ? f->size->parameter_bytes : 0; }

static size_t memory_of_training(const Facts *f) {
    const ModelSize *s = f->size;
    return s->parameter_bytes + memory_of_rounded(f) + s->gradient_bytes + s->moment_bytes + s->packed_bytes +
           s->activation_bytes + s->workspace_bytes + memory_of_log(f) + f->resident;
}

// What a router sees that a language model must not, and what a batch must not change.
static void print_router(const Config *c, FILE *out) {
    if (!config_router_pools(c)) return;
    char *router = flags_get(&config_table, c, flags_find(&config_table, "router"));
    fprintf(out, "router   %s pools tokens (--pool %s), ", router, c->pool);
    if (config_router_looks_ahead(c))
        fprintf(out, "later ones too: it is not causal, and the loss is not that of a language model\n");
    else if (config_pool(c).batch)
        fprintf(out, "of different rows: it is causal, but the loss of a row depends on the others\n");
    else fprintf(out, "each alone: it is causal\n");
    free(router);
}

void report_writing(const Config *c, FILE *out) {
    if (!c->experts) return;
    if (config_router_pools(c))
        fprintf(out, "warning  this model was trained with a router that pools tokens (--pool %s), and a text that is "
                "being written has no such pools.\n         ", c->pool);
    if (config_router_pools(c) && c->router == ROUTER_expert_choice)
        fprintf(out, "Each token takes its own %zu best experts instead: loads are no longer equal, and the loss on "
                "such texts is not the one that was measured\n", c->top_k);
    if (config_router_pools(c) && c->router == ROUTER_soft)
        fprintf(out, "Each token is mixed with itself alone and passes all %zu experts: the work is more, and the loss "
                "on such texts is not the one that was measured\n", c->experts);
    if (c->capacity > 0)
        fprintf(out, "warning  this model was trained with --capacity %g, where full experts drop tokens; here nothing "
                "is dropped\n", c->capacity);
}

static void print_warmup(const Config *c, FILE *out) {
    if (c->steps == 0 || c->warmup <= c->steps) return;
    fprintf(out, "note     --warmup %zu is longer than --steps %zu: the learning rate ends at %.3g and never reaches "
            "--lr %g\n", c->warmup, c->steps, c->lr * (double)c->steps / (double)c->warmup, c->lr);
}

void report_rounding(const Config *c, ModelSize s, FILE *out) {
    if (!c->quant) return;
    char *format = flags_get(&config_table, c, flags_find(&config_table, "quant"));
    print_line(out, "weights  %zu of %zu are rounded to %s: %.2f bits each, %.2f MiB of them packed, %.2f as floats\n",
               s.rounded, s.parameters, format, 8.0 * (double)s.format_bytes / (double)s.rounded,
               (double)s.format_bytes / (1 << 20), (double)(s.rounded * sizeof(float)) / (1 << 20));
    free(format);
    if (c->quant_act)
        print_line(out, "integers the numbers that they are multiplied by are rounded to int%d; they are held in %.2f "
                   "MiB\n", c->quant_act == QUANT_ACT_int4 ? 4 : 8, (double)s.integer_bytes / (1 << 20));
}

// Who else can open the run, or what would have to differ for that.
static void print_export(const Config *c, const char *tokenizer, FILE *out) {
    const char *architecture = hf_architecture(c);
    // transformers 5 gives Qwen2 a tokenizer of its own, whatever tokenizer.json and tokenizer_config.json say.
    bool ours = strcmp(tokenizer, "char") == 0 || strcmp(tokenizer, "bpe") == 0;
    bool replaced = architecture && ours && strcmp(architecture, "Qwen2ForCausalLM") == 0;
    if (architecture)
        fprintf(out, "export   transformers opens this run as %s%s\n", architecture, replaced ? ", its tokenizer with "
                "PreTrainedTokenizerFast: AutoTokenizer takes another for Qwen2" : "");
    else fprintf(out, "export   under our own names; %s\n", hf_obstacle(c));
}

void report_banner(const Facts *f, FILE *out) {
    const ModelSize *s = f->size;
    char *resolved = flags_summary(&config_table, f->config, false);
    fprintf(out, "flags    %s\n", resolved);
    print_warmup(f->config, out);
    print_line(out, "data     %s, a vocabulary of %zu", f->data->name, f->data->vocab);
    if (isfinite(f->data->floor))
        fprintf(out, "; floor %.4f nats per token (%s)", f->data->floor, f->data->floor_about);
    if (f->data->splits) fprintf(out, "; %s", f->data->splits);
    fprintf(out, "\nmodel    %zu parameters", s->parameters);
    if (s->active_parameters != s->parameters) fprintf(out, ", %zu of them active per token", s->active_parameters);
    fprintf(out, ", %.3g MFLOP per token to train\n", s->flops_per_token * 1e-6);
    print_router(f->config, out);
    report_rounding(f->config, *s, out);
    print_export(f->config, tokenizer_kind(f->data->tokenizer), out);
    print_bytes(out, "memory  ", memory_of_training(f));
    print_bytes(out, ": parameters", s->parameter_bytes);
    if (memory_of_rounded(f)) print_bytes(out, ", rounded weights", memory_of_rounded(f));
    print_bytes(out, ", gradients", s->gradient_bytes);
    print_bytes(out, ", moments", s->moment_bytes);
    print_bytes(out, ", packed weights", s->packed_bytes);
    print_bytes(out, ", activations", s->activation_bytes);
    print_bytes(out, ", workspaces", s->workspace_bytes);
    if (memory_of_log(f)) print_bytes(out, ", parameters of the step before", memory_of_log(f));
    print_bytes(out, ", program and data", f->resident);
    fprintf(out, "; a cache takes %zu bytes per token", s->cache_bytes_per_token);
    if (s->state_bytes) fprintf(out, " and %zu bytes of state per sequence, however long", s->state_bytes);
    fprintf(out, "\n");
    int threads = omp_get_max_threads();
    fprintf(out, "machine  %d thread%s, %s, FMA peak %.0f GFLOP/s\n", threads, plural((size_t)threads), simd_name(),
            f->peak * 1e-9);
    fflush(out);
    free(resolved);
}

static void put(json_t *object, const char *key, double x) { json_object_set_new(object, key, run_number(x)); }
static void put_size(json_t *object, const char *key, size_t n) {
    json_object_set_new(object, key, json_integer((json_int_t)n));
}

void report_describe(const Facts *f, json_t *run_json) {
    const ModelSize *s = f->size;
    json_t *data = json_object(), *model = json_object(), *machine = run_machine(omp_get_max_threads());
    json_object_set_new(data, "name", json_string(f->data->name));
    put_size(data, "vocab", f->data->vocab);
    put(data, "floor", f->data->floor);
    json_object_set_new(data, "floor_about", json_string(f->data->floor_about ? f->data->floor_about : ""));
    if (f->data->splits) json_object_set_new(data, "splits", json_string(f->data->splits));
    put(data, "source_loss", f->source_loss);
    put_size(model, "parameters", s->parameters);
    put_size(model, "active_parameters", s->active_parameters);
    put(model, "flops_per_token", s->flops_per_token);
    if (f->config->experts)
        json_object_set_new(model, "router_is_causal", json_boolean(!config_router_looks_ahead(f->config)));
    put_size(model, "parameter_bytes", s->parameter_bytes);
    if (s->rounded_bytes) put_size(model, "rounded_bytes", s->rounded_bytes);
    put_size(model, "gradient_bytes", s->gradient_bytes);
    put_size(model, "moment_bytes", s->moment_bytes);
    put_size(model, "packed_bytes", s->packed_bytes);
    put_size(model, "activation_bytes", s->activation_bytes);
    put_size(model, "workspace_bytes", s->workspace_bytes);
    put_size(model, "cache_bytes_per_token", s->cache_bytes_per_token);
    put_size(model, "state_bytes", s->state_bytes);
    put_size(machine, "memory_bytes", memory_of_training(f));
    put(machine, "peak_flops", f->peak);
    json_object_set_new(run_json, "data", data);
    json_object_set_new(run_json, "model", model);
    json_object_set_new(run_json, "machine", machine);
}

void report_json(const Facts *f, FILE *out) {
    json_t *all = json_object();
    json_object_set_new(all, "commit", json_string(run_commit()));
    json_object_set_new(all, "flags", run_flags(&config_table, f->config));
    report_describe(f, all);
    char *text = run_json_text(all);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(all);
}

// ---- what variants add to the log --------------------------------------------------------------
static json_t *describe_router(size_t layer, const RouterStats *s, size_t experts) {
    json_t *line = json_object(), *load = json_array();
    double total = 0;
    for (size_t e = 0; e < experts; e++) total += s->load[e];
    for (size_t e = 0; e < experts; e++) json_array_append_new(load, run_number(s->load[e] / total));
    put_size(line, "layer", layer);
    json_object_set_new(line, "load", load);
    put(line, "entropy", s->entropy);
    put(line, "max_violation", s->max_violation);
    put_size(line, "dead", s->dead);
    put(line, "aux_loss", s->aux_loss);
    put(line, "z_loss", s->z_loss);
    put(line, "experts_per_token", s->copies / s->tokens);
    put(line, "dropped", s->dropped);
    put(line, "skipped", s->skipped);
    put(line, "flops_per_token", s->flops);
    return line;
}

json_t *report_experts(Model *m) {
    const Config *c = model_config(m);
    json_t *all = json_array();
    for (size_t l = 0; l < c->layers; l++)
        if (config_layer_has_experts(c, l))
            json_array_append_new(all, describe_router(l, model_router_stats(m, l), c->experts));
    return all;
}

json_t *report_layers(Model *m, real *before, const double *squares, size_t numbers) {
    const Param *param;
    size_t params = model_params(m, &param);
    const real *value = model_values(m), *gradient = model_gradients(m);
    OptimRow *mine = xmalloc(params * sizeof *mine);
    json_t *all = json_array();
    for (size_t l = 0; l < model_config(m)->layers; l++) {
        size_t count = 0;
        for (size_t i = 0; i < params; i++) {
            if (param[i].layer != (int)l || !param[i].trained) continue;
            mine[count++] = (OptimRow){param[i].offset, param[i].size, false};
            for (size_t j = param[i].offset; j < param[i].offset + param[i].size; j++) before[j] = value[j] - before[j];
        }
        json_t *line = json_object();
        put(line, "rms", sqrt(squares[l] / (double)numbers));
        put(line, "grad_norm", optim_norm(mine, count, gradient));
        put(line, "update_ratio", optim_norm(mine, count, before) / optim_norm(mine, count, value));
        json_array_append_new(all, line);
    }
    free(mine);
    return all;
}

void report_profile(const Facts *f, Run *run) {
    Profile p = profile_stop();
    Roofs roofs = {1e-9 * f->peak, machine_read_bandwidth(omp_get_max_threads())};
    char *path = run_path(run, "roofline.png");
    profile_print(stdout, "training, with its validations and checkpoints", &p, roofs);
    profile_draw(path, "Where the time of this training went", &p, NULL, 1, roofs);
    json_object_set_new(run->json, "profile", profile_json(&p, roofs));
    print_line(stdout, "picture  %s\n", path);
    free(path);
}

// ---- the end -----------------------------------------------------------------------------------
static json_t *describe_end(const Facts *f, const RunState *s) {
    json_t *final = json_object();
    double rate = s->train_seconds > 0 ? (double)s->tokens / s->train_seconds : 0;
    put_size(final, "step", s->step);
    put_size(final, "tokens", s->tokens);
    put(final, "train_loss", s->train_loss);
    put(final, "val_loss", s->val_loss);
    put(final, "best_val_loss", s->best_val_loss);
    put(final, "accuracy", s->accuracy);
    if (*f->config->teacher) put(final, "acceptance", f->acceptance);
    put(final, "floor", f->data->floor);
    put(final, "seconds", s->seconds);
    put(final, "train_seconds", s->train_seconds);
    put(final, "tokens_per_second", rate);
    put(final, "mfu", rate * f->size->flops_per_token / f->peak);
    put(final, "peak_memory_bytes", machine_peak_memory());
    return final;
}

static char *receipt_text(const Facts *f, const RunState *s, const json_t *digest, const char *command) {
    char *floor = isfinite(f->data->floor) ? xprintf("%.4f", f->data->floor) : xprintf("unknown");
    char *text = xprintf("receipt: digest %s, loss %.4f, floor %s, tokens %zu, wall %.1f s, %s",
                         json_string_value(digest), s->val_loss, floor, s->tokens, s->seconds, command);
    free(floor);
    return text;
}

const char *report_receipt(const Facts *f, const RunTensors *t, const RunState *s, json_t *run_json, FILE *out) {
    json_t *hashes = json_object(), *digest = run_hash(run_digest(t, s, hashes)), *hash;
    const char *name;
    json_object_foreach(hashes, name, hash)
        if (f->config->digest) fprintf(out, "%s  %s\n", json_string_value(hash), name);
    char *receipt = receipt_text(f, s, digest, f->command);
    json_object_set_new(run_json, "final", describe_end(f, s));
    json_object_set_new(run_json, "hashes", hashes);
    json_object_set_new(run_json, "digest", digest);
    json_object_set_new(run_json, "receipt", json_string(receipt));
    free(receipt);
    return json_string_value(json_object_get(run_json, "receipt"));
}

static const char *receipt_again(const Facts *f, const Run *run) {
    const char *said = json_string_value(json_object_get(run->json, "receipt"));
    const char *command = json_string_value(json_object_get(run->json, "command"));
    uint64_t digest;
    const RunState s = run_finished(run, &digest);
    json_t *found = run_hash(digest);
    char *receipt = receipt_text(f, &s, found, command ? command : "");
    if (strcmp(said, receipt) != 0)
        fail("%s holds this run, finished, but its run.json has another receipt (%s) than follows from its state and "
             "its log (%s); --fresh trains it again", run->dir, said, receipt);
    json_decref(found);
    free(receipt);
    return said;
}

// Flags that change no number, but what a training leaves: a finished one has left it.
static void note_left_otherwise(const Facts *f, const Run *run, FILE *out) {
    static const struct { const char *name, *written; } flags[] = {
        {"log_layers", "log-layers"}, {"log_every", "log-every"}, {"sample_tokens", "sample-tokens"},
        {"profile", "profile"}, {"digest", "digest"},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        json_t *value = json_object_get(json_object_get(run->json, "flags"), flags[i].name);
        char *asked = flags_get(&config_table, f->config, flags_find(&config_table, flags[i].name));
        char *was = value ? run_flag_text(value) : NULL;
        if (was && strcmp(was, asked) != 0)
            print_line(out, "note     it was made with --%s %s; --fresh trains it again, with %s\n", flags[i].written,
                       was, asked);
        free(asked), free(was);
    }
}

// Nothing is saved again, so a note where it would be saved otherwise; curves can be made of the log at any time.
void report_finished(const Facts *f, const Run *run, FILE *out) {
    const char *receipt = receipt_again(f, run);
    const char *was = json_string_value(json_object_get(json_object_get(run->json, "flags"), "save_dtype"));
    char *asked = flags_get(&config_table, f->config, flags_find(&config_table, "save_dtype"));
    print_line(out, "%s holds this run, finished; --fresh trains it again\n", run->dir);
    if (strcmp(was ? was : "f32", asked) != 0)
        print_line(out, "note     its weights were saved with --save-dtype %s and stay so; --fresh trains again, and "
                   "saves as %s\n", was ? was : "f32", asked);
    note_left_otherwise(f, run, out);
    if (f->config->tensorboard)
        events_open(run->dir, json_number_value(json_object_get(json_object_get(run->json, "final"), "seconds")));
    print_line(out, "%s\n", receipt);
    free(asked);
}

void report_curves(const Facts *f, Run *run, const char *asked) {
    char *title = report_label(f->config->data);
    curves_draw(run->dir, title, asked, f->data->floor);
    put(json_object_get(run->json, "final"), "peak_memory_bytes", machine_peak_memory());
    free(title);
}

// train.c: main(). Trains a GPT and leaves a run directory that proves what happened.
//
//     ./train                    the default model on the synthetic language `stories`
//     ./train --help             every flag, grouped
//
// A training is prepared, announced, resumed where it was left, stepped, measured, logged, saved and
// receipted; main() at the end says so in that order. The model is in model.c, the data in data/, the
// optimizer in model/optimizer.c, the directory in run/run.c, the words in run/report.c. What this file is not:
// distributed, mixed precision, or clever.
#include "formats/hf.h"
#include "lib/cpu.h"
#include "lib/process.h"
#include "lib/profile.h"
#include "run/events.h"
#include "run/loaded.h"
#include "run/progress.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include "model/optimizer.h"
#include "moe.h"
#include "run/verify.h"
#include "run/report.h"
#include "infer/sample.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#ifndef _OPENMP
#error "without OpenMP training would silently use one core: compile with -fopenmp"
#endif

typedef struct {
    Config config;
    char *asked;                    // the flags that differ from the defaults, before anything was derived
    Data *data;
    Model *model, *teacher;         // teacher: with --teacher, for a draft
    ModelSize size;
    Facts facts;                    // all of that, for run/report.c
    Optimizer optimizer;
    RunTensors tensors;             // all parameters and their moments, as checkpoints see them
    real *before;                   // with --log-layers: [parameters] the values before the last update,
    double *squares;                // [layers] the sum of squares of the residual stream over the batch
    int *tokens, *targets;          // [batch, context]
    bool *is_answer, *hit;          // [micro_batch, context]
    double *row_loss;               // [batch]
    Run *run;
    Events *events;                 // with --tensorboard, now or when the run began
    Verify *verify;                 // with --verify: the recorded run that this one must be
    RunState state;
    Progress progress;
    double grad_norm, lr;           // of the last step
    double agreed;                  // with the teacher, of the last validation
    double started;                 // seconds_now(), less the seconds that earlier processes took
    RunState logged;                // the state at the last line of the log, for the rate since then
} Training;

// ---- preparing ---------------------------------------------------------------------------------
static void prepare(Training *t, int argc, char **argv) {
    Config *c = &t->config;
    bool *given = xmalloc(config_table.count * sizeof *given);
    flags_parse(&config_table, c, argc, argv, given);
    cpu_switch(c->simd, run_commit(), argv);
    if (*c->verify) t->verify = verify_begin(&config_table, c, given, c->verify);
    t->asked = flags_summary(&config_table, c, true);
    if (*c->load) loaded_config(c, given);
    config_refuse_unused(c, given);
    free(given);
    t->data = data_open(c);
    if (t->verify) verify_data(t->verify, t->data->hash);
    c->vocab = t->data->vocab;
    report_loaded_tokenizer(c, t->data->tokenizer, stderr);
    config_resolve(c);
    report_loaded_context(c, stderr);
    if (!t->verify) config_refuse_jump(c);
    if (c->threads) omp_set_num_threads((int)c->threads);
    t->size = model_size(c);
    t->facts = report_facts(c, t->data, &t->size, argc, argv);
}

static void make_buffers(Training *t) {
    size_t T = t->config.context, all = size_mul(t->config.batch, T), some = size_mul(t->config.micro_batch, T);
    t->tokens = xmalloc(size_mul(all, sizeof(int))), t->targets = xmalloc(size_mul(all, sizeof(int)));
    t->is_answer = xmalloc(some), t->hit = xmalloc(some);
    t->row_loss = xmalloc(size_mul(t->config.batch, sizeof(double)));
}

// The model's table becomes the checkpoint's names.
static void make_model(Training *t) {
    t->model = model_new(&t->config, true);
    if (*t->config.load) hf_load(t->model, t->config.load);
    const Param *param;
    size_t params = model_params(t->model, &param);
    RunTensor *tensor = xmalloc(params * sizeof *tensor);
    for (size_t i = 0; i < params; i++) {
        const Param *p = &param[i];
        tensor[i] = (RunTensor){p->name, p->rank, {p->shape[0], p->shape[1], p->shape[2]}, p->offset, p->size};
    }
    t->optimizer = optimizer_new(t->model);
    t->tensors = (RunTensors){tensor, params, model_values(t->model), t->optimizer.mean, t->optimizer.square};
    if (!t->config.log_layers) return;
    t->before = xmalloc(size_mul(model_numbers(t->model), sizeof(real)));
    t->squares = xmalloc(t->config.layers * sizeof(double));
}

// ---- one step ----------------------------------------------------------------------------------
// Loads `rows` rows of a split from number `first` on; returns how many of their tokens are scored. A row
// is a function of its number: there is no reading position to shuffle, save or lose.
static size_t load_rows(Training *t, Split split, size_t first, size_t rows) {
    size_t T = t->config.context, scored = 0;
    PROFILE(data, 0, 0);
    bool with_answers = split == SPLIT_VALIDATION;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < rows; i++)
        t->data->row(t->data, split, first + i, T, t->tokens + i * T, t->targets + i * T,
                     with_answers ? t->is_answer + i * T : NULL);
    for (size_t i = 0; i < rows * T; i++) scored += t->targets[i] >= 0;
    return scored;
}

// The gradient of the mean loss per scored token over the whole batch, whatever pieces it is cut into.
static void forward_backward(Training *t) {
    size_t B = t->config.batch, T = t->config.context, micro = t->config.micro_batch;
    size_t scored = load_rows(t, SPLIT_TRAIN, t->state.step * B, B), layers = t->squares ? t->config.layers : 0;
    double token_scale = 1 / (double)(scored ? scored : 1), loss = 0;
    model_zero_gradients(t->model);
    for (size_t l = 0; l < layers; l++) t->squares[l] = 0;
    for (size_t first = 0; first < B; first += micro) {
        size_t rows = B - first < micro ? B - first : micro;
        model_forward_backward(t->model, t->tokens + first * T, t->targets + first * T, rows, T, token_scale,
                               1 / (double)B, t->row_loss + first);
        for (size_t l = 0; l < layers; l++) t->squares[l] += model_residual_squares(t->model, l, rows);
    }
    model_finish_gradients(t->model);
    for (size_t i = 0; i < B; i++) loss += t->row_loss[i];
    t->state.train_loss = token_scale * loss;
}

static void update(Training *t) {
    if (t->before) memcpy(t->before, t->tensors.value, model_numbers(t->model) * sizeof(real));
    t->lr = optimizer_step(&t->optimizer, t->model, t->grad_norm, t->state.step);
    model_update_routers(t->model);
    model_changed_after(t->model, t->state.step + 1);
}

// False when the loss or its gradient is not finite, with the parameters untouched, or a weight is beyond --quant.
static bool train_step(Training *t) {
    double start = seconds_now();
    forward_backward(t);
    t->grad_norm = optimizer_norm(&t->optimizer, t->model);
    if (!isfinite(t->state.train_loss) || !isfinite(t->grad_norm)) return false;
    update(t);
    if (!model_fits_quant(t->model)) return false;
    t->state.step++;
    t->state.tokens += t->config.batch * t->config.context;
    t->state.train_seconds += seconds_now() - start;
    return true;
}

// Loss and accuracy over the validation rows, the same ones each time. Row losses are added one by one, so
// that the micro-batch cannot be seen in the sum.
static double validation_loss(Training *t, double *accuracy) {
    size_t rows = t->data->validation_rows, micro = t->config.micro_batch, T = t->config.context;
    size_t scored = 0, answers = 0, right = 0;
    double loss = 0, agreed = 0;
    for (size_t first = 0; first < rows; first += micro) {
        size_t B = rows - first < micro ? rows - first : micro;
        scored += load_rows(t, SPLIT_VALIDATION, first, B);
        model_evaluate(t->model, t->tokens, t->targets, B, T, t->row_loss, t->hit);
        for (size_t i = 0; i < B; i++) loss += t->row_loss[i], agreed += model_agreement(t->model, i);
        for (size_t i = 0; i < B * T; i++) {
            answers += t->is_answer[i];
            right += t->is_answer[i] && t->hit[i];
        }
    }
    if (t->data->has_accuracy && answers) *accuracy = (double)right / (double)answers;
    t->agreed = agreed / (double)(scored ? scored : 1);
    return loss / (double)(scored ? scored : 1);
}

static bool evaluate(Training *t) {     // false when the loss is not finite
    t->state.val_loss = validation_loss(t, &t->state.accuracy), t->facts.acceptance = t->agreed;
    if (!(t->state.best_val_loss <= t->state.val_loss)) t->state.best_val_loss = t->state.val_loss;
    return isfinite(t->state.val_loss);
}

static json_t *losses_without_layers(Training *t) {
    json_t *all = json_array();
    for (size_t l = 0; l < t->config.layers; l++) {
        model_drop_layer(t->model, l);
        json_array_append_new(all, run_number(validation_loss(t, &(double){0})));
    }
    model_drop_layer(t->model, t->config.layers);
    return all;
}

static json_t *loss_with(Training *t, void (*change)(Model *, bool)) {
    change(t->model, true);
    json_t *loss = run_number(validation_loss(t, &(double){0}));
    change(t->model, false);
    return loss;
}

// ---- logging -----------------------------------------------------------------------------------
// Where the run stands, with the speed since an earlier state.
static Standing standing(const Training *t, const RunState *since) {
    double seconds = t->state.train_seconds - since->train_seconds;
    double rate = seconds > 0 ? (double)(t->state.tokens - since->tokens) / seconds : 0;
    return (Standing){t->state.step, t->state.train_loss, t->state.val_loss, t->state.accuracy, rate,
                      rate * t->size.flops_per_token / t->facts.peak};
}

static void log_train(Training *t, json_t *line, const Standing *s) {
    json_object_update_new(line,
                           json_pack("{s:f, s:f, s:f, s:f, s:f}", "train_loss", s->train_loss, "lr", t->lr, "grad_norm",
                                     t->grad_norm, "tokens_per_second", s->tokens_per_second, "mfu", s->mfu));
    size_t numbers = t->config.batch * t->config.context * t->config.width;
    if (t->config.experts) json_object_set_new(line, "experts", report_experts(t->model));
    if (t->before) json_object_set_new(line, "layers", report_layers(t->model, t->before, t->squares, numbers));
    t->state.loss_hash = hash_bytes(t->state.loss_hash, &t->state.train_loss, sizeof(double));
}

static void log_validation(Training *t, json_t *line, const Standing *s) {
    json_object_set_new(line, "val_loss", json_real(s->val_loss));
    if (isfinite(s->accuracy)) json_object_set_new(line, "accuracy", json_real(s->accuracy));
    if (t->config.quant) json_object_set_new(line, "val_loss_exact", loss_with(t, model_use_exact));
    if (t->teacher) json_object_set_new(line, "acceptance", json_real(t->facts.acceptance));
    if (t->config.drop_layers) json_object_set_new(line, "val_loss_without", losses_without_layers(t));
    if (t->config.eval_alone) json_object_set_new(line, "val_loss_alone", loss_with(t, model_route_alone));
    t->state.loss_hash = hash_bytes(t->state.loss_hash, &t->state.val_loss, sizeof(double));
    progress_line(&t->progress, s);
}

// One line of log.jsonl. Its losses enter the digest.
static void log_step(Training *t, bool has_train, bool has_validation) {
    Standing s = standing(t, &t->logged);
    t->state.seconds = seconds_now() - t->started;
    json_t *line = json_pack("{s:I, s:I, s:f}", "step", (json_int_t)t->state.step, "tokens",
                             (json_int_t)t->state.tokens, "seconds", t->state.seconds);
    if (has_train) log_train(t, line, &s);
    if (has_validation) log_validation(t, line, &s);
    events_add(t->events, line);
    run_log(t->run, line);
    t->logged = t->state;
}

static void save(Training *t) {
    PROFILE(save, 0, 0);
    t->state.seconds = seconds_now() - t->started;
    run_save(t->run, &t->tensors, &t->state);
    hf_save(t->model, t->run->dir);
}

// ---- beginning, the loop, and the ways it ends -------------------------------------------------
// The run directory; what has already ended is not trained again.
static void open_run(Training *t) {
    const Config *c = &t->config;
    char *label = report_label(c->data);
    if (*c->load) make_model(t);        // what it starts from, and learns from, is part of what the run is
    if (*c->teacher) t->teacher = loaded_teacher(c, t->data->tokenizer, stdout);
    t->run = run_open(&(RunPlan){&config_table, c, c->out, label, t->facts.command, t->data->hash, c->fresh, c->load,
                                 report_weights_hash(t->model), c->teacher, report_weights_hash(t->teacher),
                                 optimizer_same_rates});
    free(label);
    if (t->run->status == RUN_DIVERGED)
        fail("the run in %s diverged at step %d; --fresh trains it again", t->run->dir,
             (int)json_integer_value(json_object_get(t->run->json, "diverged_at")));
    if (t->run->status != RUN_FINISHED) return;
    report_finished(&t->facts, t->run, stdout);
    flush_output("; the run itself is complete");
    exit(0);
}

static _Noreturn void stop_diverged(Training *t) {
    char *state = run_path(t->run, "state.safetensors");
    json_object_set_new(t->run->json, "diverged_at", json_integer((json_int_t)t->state.step));
    run_end(t->run, "diverged");
    progress_clear(&t->progress);
    // None of them is negative: fabs only takes the sign from a nan, which printf would show.
    fail("diverged after step %zu: training loss %g, gradient norm %g, validation loss %g; %s %s; try %s",
         t->state.step, fabs(t->state.train_loss), fabs(t->grad_norm), fabs(t->state.val_loss),
         file_exists(state) ? "the last saved state is intact in" : "nothing had been saved in", t->run->dir,
         t->state.step ? "a lower --lr or a longer --warmup" : "other flags of the model, or other --load weights");
}

static bool is_done(const Training *t) {
    const Config *c = &t->config;
    size_t seen = t->state.step - t->state.step % c->eval_every;       // by the last validation: rounded, if --quant
    bool reached = t->state.val_loss <= c->target_loss && (double)seen >= c->qat_start * (double)c->steps;
    return t->state.step >= (t->verify ? t->verify->steps : c->steps) || (c->target_loss > 0 && reached);
}

static void begin(Training *t) {
    t->state =
        (RunState){.train_loss = NAN, .val_loss = NAN, .best_val_loss = NAN, .accuracy = NAN, .loss_hash = HASH_START};
    bool resumed = run_resume(t->run, &t->tensors, &t->state);
    model_changed_after(t->model, t->state.step);
    bool curves = t->config.tensorboard || events_begun(t->run->dir);
    if (curves) t->events = events_open(t->run->dir, t->state.seconds);
    t->logged = t->state;
    t->started = seconds_now() - t->state.seconds;
    t->progress = progress_begin(stdout, t->state.step, t->config.steps, t->data->floor);
    report_describe(&t->facts, t->run->json);
    run_write(t->run, "running");
    tokenizer_save_beside(t->data->tokenizer, t->run->dir, hf_architecture(&t->config));
    print_line(stdout, "run      %s, %s step %zu of %zu\n", t->run->dir, resumed ? "resumed at" : "from",
               t->state.step, t->config.steps);
    if (resumed && t->teacher) validation_loss(t, &(double){0}), t->facts.acceptance = t->agreed;
    if (!resumed && !evaluate(t)) stop_diverged(t);
    if (!resumed) log_step(t, false, true);
    save(t);                            // resumed too: a kill within a save leaves the model of an older state
}

static void train(Training *t) {
    const Config *c = &t->config;
    RunState first = t->state;
    if (c->profile) profile_start();
    process_catch_signals(true);        // from now on, the first one finishes the step and saves
    for (bool stop = process_stopped; !is_done(t) && !stop;) {
        if (!train_step(t)) stop_diverged(t);
        stop = process_stopped;             // read once: what ends the loop is what saves
        size_t step = t->state.step;
        bool has_validation = step % c->eval_every == 0 || step == c->steps;
        if (has_validation && !evaluate(t)) stop_diverged(t);
        if (has_validation || step % c->log_every == 0) log_step(t, true, has_validation);
        Standing s = standing(t, &first);
        progress_draw(&t->progress, &s);
        if (step % c->save_every == 0 || is_done(t) || stop) save(t);
    }
    progress_clear(&t->progress);
    if (c->profile && t->state.step > first.step) report_profile(&t->facts, t->run);
}

static int stop_interrupted(Training *t) {
    if (t->verify) fail("interrupted at step %zu of %zu: nothing is verified", t->state.step, t->verify->steps);
    run_end(t->run, "interrupted");
    print_line(stdout, "interrupted at step %zu of %zu and saved; the same command%s goes on from there:\n%s\n",
               t->state.step, t->config.steps, t->config.fresh ? ", without --fresh," : "", t->facts.command);
    return 128 + process_stopped;
}

static bool append_text(void *file, const char *text, size_t bytes) {
    fwrite(text, 1, bytes, file);
    return !process_stopped;
}

// What the model says: whole in sample.txt, and on the screen without what would disturb a terminal.
static void write_sample(Training *t) {
    char *text = NULL, *path = run_path(t->run, "sample.txt");
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) fail("no memory for the sample");
    sample_text(t->model, t->data->tokenizer, t->data->default_prompt,
                sample_defaults(t->config.seed, t->config.sample_tokens), append_text, f);
    fclose(f);
    if (!process_stopped) write_whole_file(path, text, bytes);
    putchar('\n');
    text_print(stdout, text, bytes);
    if (process_stopped) puts("");
    else print_line(stdout, "\n\nsample   %s\n", path);
    free(path), free(text);
}

static int finish(Training *t) {
    const char *receipt = report_receipt(&t->facts, &t->tensors, &t->state, t->run->json, stdout);
    if (t->verify) return verify_end(t->verify, t->run);
    if (t->config.sample_tokens) write_sample(t);
    if (process_stopped) return stop_interrupted(t);
    model_free(t->model);               // pictures need memory too
    report_curves(&t->facts, t->run, t->asked);
    run_end(t->run, "finished");
    print_line(stdout, "curve    %s/loss.png\n%s\n", t->run->dir, receipt);
    return 0;
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    process_catch_closed_pipe();
    process_catch_signals(false);       // a model is built and measured for long, and what a kill leaves then is whole
    threads_wait_briefly(argv);
    static Training t;
    prepare(&t, argc, argv);
    if (t.config.dry_run == DRY_RUN_json) report_json(&t.facts, stdout);
    else report_banner(&t.facts, stdout);
    if (t.config.dry_run) flush_output(""), exit(0);
    open_run(&t);
    make_buffers(&t);
    if (!t.model) make_model(&t);
    model_learn_from(t.model, t.teacher, t.config.draft_loss);
    begin(&t);
    train(&t);
    if (!is_done(&t)) return stop_interrupted(&t);
    int status = finish(&t);
    run_close(t.run);
    flush_output(status == 0 ? "; the run itself is complete" : "");
    return status;
}

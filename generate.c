// generate.c: main(). Continues a text with the model of a run, token by token from a cache.
//
//     ./generate --run runs/NAME --prompt "Once upon a time"
//     ./generate --help
//
// The text goes to stdout as it comes, everything else to stderr: at the end, how fast the prompt was
// read (prefill: many tokens at once, bound by arithmetic) and how fast tokens were written (decode: one at
// a time, bound by memory). With --samples, several texts are written side by side, as one batch, and printed at
// the end. With --draft, guesses run ahead of the text (infer/speculate.h). The sampling itself is in infer/sample.c,
// the pictures of --picture are in infer/maps.c. What this file is not: a server, a batch of different prompts.
#include "config/generate.h"
#include "data/data.h"
#include "formats/gguf.h"
#include "formats/hf.h"
#include "lib/cpu.h"
#include "lib/machine.h"
#include "lib/process.h"
#include "plot/profile_report.h"
#include "run/run.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include "run/receipt.h"
#include "run/report.h"
#include "infer/maps.h"
#include "infer/questions.h"
#include "infer/sample.h"
#include "infer/served.h"
#include <dirent.h>
#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#ifdef __APPLE__
#define st_mtim st_mtimespec
#endif
#include <unistd.h>

// ---- the run -------------------------------------------------------------------------------------
typedef struct {
    char *dir;
    bool ours;              // written by ./train: its tokenizer and its data are known
    Config config;
    Model *model;
    Tokenizer *tokenizer;
} Source;

// The directory in runs/ whose weights were written last; "" if there is none.
static char *newest_run(void) {
    char *newest = xprintf("%s", "");
    struct timespec latest = {0};
    DIR *all = opendir("runs");
    for (struct dirent *e; all && (e = readdir(all));) {
        char *dir = xprintf("runs/%s", e->d_name), *weights = xprintf("%s/model.safetensors", dir);
        struct stat s;
        bool found = e->d_name[0] != '.' && stat(weights, &s) == 0;
        bool later = found && (s.st_mtim.tv_sec > latest.tv_sec ||
                               (s.st_mtim.tv_sec == latest.tv_sec && s.st_mtim.tv_nsec > latest.tv_nsec));
        if (later) latest = s.st_mtim;
        free(later ? newest : dir);
        if (later) newest = dir;
        free(weights);
    }
    if (all) closedir(all);
    return newest;
}

static char *find_run(const GenerateOptions *o) {
    char *dir = *o->run ? xprintf("%s", o->run) : newest_run(), *config = xprintf("%s/config.json", dir);
    struct stat s;
    if (!*dir) usage_error("there is no run in runs/ yet; ./train makes one, --run names one elsewhere");
    if (stat(dir, &s) != 0) fail("--run %s: %s; ./train makes a run, and names its directory", dir, strerror(errno));
    bool gguf = gguf_is(dir);
    if (!gguf && !S_ISDIR(s.st_mode)) fail("--run %s is a file, no GGUF; the directory of a run was expected", dir);
    if (!gguf && !file_exists(config))
        fail("--run %s has no config.json: no run, or nothing has been saved in it yet", dir);
    if (!*o->run) print_line(stderr, "run      %s\n", dir);
    free(config);
    return dir;
}

// Without a tokenizer tokens are numbers. Somebody else's that we cannot read need not be in the way of numbers.
static Tokenizer *open_tokenizer(const Source *s, const GenerateOptions *o, bool numbers) {
    bool known = s->ours || !numbers;
    Tokenizer *t = known ? tokenizer_open_dir(s->dir) : NULL;
    if (!t) {
        print_line(stderr, "note     %s: tokens are numbers, below and in the prompt\n",
                   known ? xprintf("%s has no tokenizer", s->dir) : "--prompt-tokens with a checkpoint of others");
        return tokenizer_numbers(s->config.vocab);
    }
    if (tokenizer_vocab(t) > s->config.vocab)
        fail("the tokenizer of %s has %zu tokens, but its model only %zu; they do not belong together", s->dir,
             tokenizer_vocab(t), s->config.vocab);
    tokenizer_show_special(t, o->show_special);
    return t;
}

// Weights are packed for the kernels on their first use: before the clocks start, as the model is read.
static void warm_up(Model *m) {
    const Config *c = model_config(m);
    real *logits = xmalloc(size_mul(c->vocab, sizeof *logits));
    Cache *cache = cache_new(m, 1, 2);
    for (size_t i = 0; i < 2 && i < c->context; i++) model_infer(m, cache, &(int){0}, 1, false, logits);
    cache_free(cache);
    free(logits);
}

static bool is_given(const bool *given, const char *name) { return given[flags_find(&generate_table, name)]; }

// Stretches the rotations as asked, in place of what the model says.
static void stretch(const GenerateOptions *o, const bool *given, Source *s, size_t trained) {
    if (!is_given(given, "rope_scaling")) return;
    bool none = o->rope_scaling == ROPE_SCALING_none;
    if (s->config.pos != POS_rope && !none)
        usage_error("--rope-scaling stretches the rotations of --pos rope, but %s has none", s->dir);
    config_stretch(&s->config, &generate_table, o, trained);
    if (o->rope_scaling == ROPE_SCALING_dynamic && s->config.context > s->config.rope_trained)
        s->config.context = s->config.rope_trained;
}

// What a directory says of its model, before anything is derived. Returns the trained context.
static size_t read_flags(Source *s) {
    flags_defaults(&config_table, &s->config);
    s->ours = hf_flags(&s->config, s->dir);
    if (s->ours) return s->config.context;
    hf_config(&s->config, s->dir);
    return hf_trained_context(s->dir);
}
// After that: flags of training, of which a checkpoint has none, may contradict the trained context.
static void derive_flags(Source *s, size_t trained) {
    config_resolve(&s->config);
    if (!s->ours) s->config.context = trained;
}

static const char unverified_advice[] = "--unverified uses it all the same";
static void check_files(const GenerateOptions *o, const Source *s) {
    if (!o->unverified) run_check_files(s->dir, false, unverified_advice);
}
static void load_weights(const GenerateOptions *o, Source *s) {
    config_round(&s->config, &generate_table, o);
    s->model = model_new(&s->config, false);
    hf_load(s->model, s->dir);
    if (!o->unverified) report_check_weights(s->model, s->dir, unverified_advice);
    warm_up(s->model);
}

static void refuse_long(const Config *c, size_t prompt, size_t tokens) {
    if (c->rope_scaling == ROPE_SCALING_dynamic && prompt + tokens > c->rope_trained)
        usage_error("the rotations of this model are dynamic: they are known for the %zu tokens that it was trained "
                    "on, but a prompt of %zu and --tokens %zu are more; give fewer, or --rope-scaling ntk or yarn",
                    c->rope_trained, prompt, tokens);
}

static Source open_source(const GenerateOptions *o, const bool *given) {
    Source s = {.dir = find_run(o)};
    size_t trained = read_flags(&s);
    stretch(o, given, &s, trained);
    derive_flags(&s, trained);
    check_files(o, &s);
    s.tokenizer = open_tokenizer(&s, o, is_given(given, "prompt_tokens"));
    if (!o->questions) hf_note_generation(s.dir, &generate_table, o, given);
    load_weights(o, &s);
    return s;
}

static size_t memory_of_text(const Source *s, size_t prompt, size_t tokens, const KeepOptions *keep) {
    ModelSize size = model_size(&s->config);
    size_t held = keep_most(keep, prompt, 0, sampler_window(s->model, prompt, tokens));
    size_t cache = size_mul(held, keep_is_on(keep) ? keep_slot_bytes(s->model, keep) : size.cache_bytes_per_token);
    return size_add(size_add(cache, size.state_bytes), size_mul(s->config.vocab, sizeof(real)));
}

// Before anything is allocated: a system that gives more memory than it has would be found out in the middle. Of a run
// and its draft, or NULL, which follow the same text.
static void check_memory(const Source *s, const Source *draft, size_t prompt, SampleOptions o,
                         const KeepOptions *keep) {
    size_t tokens = size_add(prompt, o.tokens);
    size_t each = size_add(size_mul(tokens, sizeof(int)), memory_of_text(s, prompt, o.tokens, keep));
    if (draft) each = size_add(each, memory_of_text(draft, prompt, o.tokens, keep));
    double need = (double)size_mul(o.samples, each), memory = machine_memory();
    if (memory > 0 && need > memory)
        fail("%zu text%s of %zu tokens need %.1f GiB of memory, this machine has %.1f; %s", o.samples,
             plural(o.samples), tokens, need / (1 << 30), memory / (1 << 30), memory_advice);
}

// ---- the draft -----------------------------------------------------------------------------------
// Guesses for a text of n + tokens tokens. Their model must mean the same by each token.
static Draft *open_draft(const GenerateOptions *o, const Source *s, Source *d, SampleOptions sampling, size_t n) {
    if (strcmp(o->draft, "lookup") == 0) return draft_lookup();
    *d = (Source){.dir = xprintf("%s", o->draft)};
    derive_flags(d, read_flags(d));
    check_files(o, d);
    report_draft(d->dir, d->config.vocab, s->dir, s->config.vocab, s->tokenizer);
    load_weights(o, d);
    KeepOptions all = keep_everything();
    check_memory(s, d, n, sampling, &all);
    size_t window = sampler_window(d->model, n, o->tokens);
    if (window < n + o->tokens)
        print_line(stderr, "note     --draft %s knows %zu positions: beyond them nothing is guessed\n", d->dir, window);
    return draft_of_model(d->model, tokenizer_spoken(s->tokenizer), sampling, o->accept == ACCEPT_ratio, window);
}

// Guesses in a step: those of --gamma, or 15 of which as many are used as pay.
static size_t read_gamma(const GenerateOptions *o) {
    enum { AUTOMATIC = 15 };
    char *end;
    if (strcmp(o->gamma, "auto") == 0) return AUTOMATIC;
    unsigned long n = strtoul(o->gamma, &end, 10);
    if (o->gamma[0] < '0' || o->gamma[0] > '9' || *end || n < 1 || n > MOST_GUESSES)
        usage_error("--gamma %s: auto was expected, or a number from 1 to %d", o->gamma, MOST_GUESSES);
    return n;
}

static void refuse_draft(const GenerateOptions *o) {
    if (!*o->draft) return;
    read_gamma(o);
    if (o->kv_policy != KV_POLICY_full)
        usage_error("--draft: a guess that was wrong has made pairs go that do not come back; leave out --kv-policy");
    if (o->samples > 1) usage_error("--draft runs ahead of one text, but --samples is %zu", o->samples);
    if (o->accept == ACCEPT_ratio && strcmp(o->draft, "lookup") == 0)
        usage_error("--accept ratio keeps no more guesses of lookup, which are certain, than exact does; leave it out");
}

// A state that has taken a wrong guess in cannot give it back.
static void refuse_state(const Source *s) {
    if (served_has_state(s->model))
        fail("--draft: %s has a recurrent state, which cannot forget a guess that was wrong", s->dir);
}

static void refuse_oracle(const GenerateOptions *o) {
    if (o->kv_policy == KV_POLICY_oracle && !o->questions)
        usage_error("--kv-policy oracle keeps what will be asked, which nobody knows of a text that is yet to be "
                    "written; --questions of a run on recall says it");
}

// ---- questions -----------------------------------------------------------------------------------
static void refuse_beside_questions(const bool *given) {
    static const char *const of_texts[] = {"prompt", "prompt_file", "prompt_tokens", "tokens", "samples", "ignore_eos",
                                           "show_special", "temperature", "sample_top_k", "top_p", "seed", "draft",
                                           "picture", "profile", "roofline"};
    for (size_t i = 0; i < sizeof of_texts / sizeof *of_texts; i++)
        if (is_given(given, of_texts[i]))
            usage_error("--%s has no effect with --questions, which writes no text",
                        flags_shown(of_texts[i], (char[64]){0}));
}

// A line of JSON to stdout, the same in words to stderr.
static void ask(const GenerateOptions *o, const Source *s, KeepOptions keep) {
    if (!s->ours) usage_error("--questions: %s does not say which data it was trained on", s->dir);
    Data *d = data_open(&s->config);
    double start = seconds_now();
    Questions q = questions_ask(s->model, d, (QuestionOptions){o->rows, o->questions, o->known, o->others, keep});
    double all = (double)q.answers, right = (double)q.right / all, held = (double)q.held / all;
    fprintf(stderr, "answers  %.4f right of %zu, %s before pairs went; the pair of %.4f was still there\n", right,
            q.answers, o->known && !o->others ? "known" : "not known", held);
    fprintf(stderr, "kept     %zu of %zu pairs per head, %zu of %zu bytes per text\n", q.pairs,
            q.tokens, q.bytes, q.bytes_full);
    printf("{\"accuracy\": %.17g, \"held\": %.17g, \"answers\": %zu, \"pairs_per_head\": %zu, \"tokens\": %zu, "
           "\"bytes\": %zu, \"bytes_full\": %zu}\n", right, held, q.answers, q.pairs, q.tokens, q.bytes, q.bytes_full);
    flush_output("");
    const ReceiptNumber number[] = {{"answered", right}, {"held", held}, {"ceiling", q.ceiling},
                                    {"above_ceiling", right - q.ceiling}, {"answers", all},
                                    {"kept_pairs", (double)q.pairs}, {"kept_bytes", (double)q.bytes},
                                    {"full_bytes", (double)q.bytes_full}, {"read_tokens", (double)q.tokens}};
    if (*o->receipt)
        receipt_write(&generate_table, o, number, sizeof number / sizeof *number, q.digest, seconds_now() - start,
                      o->receipt);
    data_close(d);
}

// ---- the prompt ----------------------------------------------------------------------------------
// What the data of the run starts with. A text file need not be there any more: it starts with nothing.
static char *default_prompt(const Source *s) {
    const Config *c = &s->config;
    if (strcmp(tokenizer_kind(s->tokenizer), "hf") == 0) return xprintf("%s", "");  // its mark for a begin
    if (!s->ours) usage_error("%s does not say what its texts start with; give --prompt or --prompt-tokens", s->dir);
    if (data_is_files(c->data)) return xprintf("%s", "");
    Data *d = data_open(c);
    char *prompt = xprintf("%s", d->default_prompt);
    data_close(d);
    return prompt;
}

static char *prompt_from_file(const char *path) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    if (strlen(text) != bytes) fail("--prompt-file %s: byte %zu is NUL; a text was expected", path, strlen(text));
    return text;
}

static size_t read_numbers(const char *text, size_t vocab, int **tokens) {
    static const char blanks[] = " \t\r\n";
    int *token = *tokens = xmalloc(strlen(text) * sizeof *token);
    for (const char *at = text + strspn(text, blanks), *end; *at; at = end + strspn(end, blanks)) {
        size_t digits = strspn(at, "0123456789"), value = strtoull(at, NULL, 10);
        end = at + strcspn(at, blanks);
        if (digits != (size_t)(end - at) || value >= vocab)
            usage_error("--prompt-tokens: numbers from 0 to %zu were expected, with spaces between them, but '%.*s' "
                        "was given", vocab - 1, (int)(end - at), at);
        *token++ = (int)value;
    }
    if (token == *tokens) usage_error("--prompt-tokens is empty; numbers from 0 to %zu were expected", vocab - 1);
    return (size_t)(token - *tokens);
}

static size_t read_prompt(const GenerateOptions *o, const bool *given, const Source *s, int **tokens) {
    bool text = is_given(given, "prompt"), file = is_given(given, "prompt_file");
    bool numbers = is_given(given, "prompt_tokens");
    if (text + file + numbers > 1) usage_error("--prompt, --prompt-file and --prompt-tokens: only one may be given");
    if (numbers) return read_numbers(o->prompt_tokens, s->config.vocab, tokens);
    char *prompt = text ? xprintf("%s", o->prompt) : file ? prompt_from_file(o->prompt_file) : default_prompt(s);
    size_t n = tokenizer_prompt(s->tokenizer, prompt, tokens);
    free(prompt);
    return n;
}

// ---- the text ------------------------------------------------------------------------------------
// A terminal obeys control characters, and an untrained model may write any.
static void print_text(const char *text, size_t bytes, bool terminal) {
    if (terminal) text_print(stdout, text, bytes);
    else fwrite(text, 1, bytes, stdout);
    if (fflush(stdout) != 0) fail("cannot write the text: %s", strerror(errno));
}

static void print_prompt(const char *text, size_t bytes, bool terminal) {
    bool bold = terminal && !getenv("NO_COLOR");
    if (bold) fputs("\033[1m", stdout);
    print_text(text, bytes, terminal);
    if (bold) fputs("\033[0m", stdout);
}

// Seconds; tokens that the prefill read; and with --profile, what prefill and decode spent their time on.
typedef struct { double start, prefill, first, decode; size_t read; bool profiled; Profile profile[2]; } Clock;

// One more token for every text; false when there are enough, when all have ended, or after Ctrl-C.
static bool next(Sampler *s, Clock *clock) {
    if (s->count == s->prompt + s->options.tokens || process_stopped || sampler_ended(s)) return false;
    sampler_next(s);
    if (s->count == s->prompt + 1) clock->first = seconds_now() - clock->start;
    return true;
}

// A text as it comes.
static void write_one(Sampler *s, Clock *clock, bool terminal) {
    const char *text;
    size_t bytes = sampler_text(s, 0, &text);
    print_prompt(text, bytes, terminal);
    while (next(s, clock)) {
        bytes = sampler_text(s, 0, &text);
        print_text(text, bytes, terminal);
    }
    print_text("\n", 1, terminal);
}

static void show_progress(const Sampler *s, double *shown) {
    if (seconds_now() - *shown < 0.1) return;
    *shown = seconds_now();
    fprintf(stderr, "\r%zu texts: %zu of %zu tokens", s->options.samples, s->count - s->prompt, s->options.tokens);
}

// Several texts, one after another when all are written; until then a terminal shows how far they are.
static void write_several(Sampler *s, Clock *clock, bool terminal) {
    const char *text;
    size_t given = sampler_text(s, 0, &text);
    char *prompt = memcpy(xmalloc(given), text, given);
    for (size_t i = 1; i < s->options.samples; i++) sampler_text(s, i, &text);    // the same prompt
    bool live = isatty(STDERR_FILENO);
    for (double shown = 0; next(s, clock);)
        if (live) show_progress(s, &shown);
    if (live) fputs("\r\033[K", stderr);
    for (size_t i = 0; i < s->options.samples && (s->count > s->prompt || !process_stopped); i++) {
        printf("=== text %zu\n", i + 1);
        print_prompt(prompt, given, terminal);
        size_t bytes = sampler_text(s, i, &text);
        print_text(text, bytes, terminal);
        print_text("\n", 1, terminal);
    }
    free(prompt);
}

static Sampler *write_texts(const Source *s, const int *prompt, size_t n, SampleOptions o, KeepOptions keep,
                            Speculation *ahead, Clock *clock) {
    bool terminal = isatty(STDOUT_FILENO);
    keep_fit(s->model, &keep);
    check_memory(s, NULL, n, o, &keep);
    clock->start = seconds_now();
    if (clock->profiled) profile_start();
    Sampler *sampler = sampler_new_kept(s->model, s->tokenizer, prompt, n, o, keep);
    process_catch_signals(true);        // from here on, the first one ends the text, and the report follows
    clock->prefill = sampler->prefill, clock->read = sampler->read;
    if (ahead->draft) {
        double start = seconds_now();
        sampler_speculate(sampler, ahead);
        clock->start += seconds_now() - start;       // what --gamma auto measures is no part of the text
    }
    if (clock->profiled) clock->profile[0] = profile_stop(), profile_start();
    (o.samples == 1 ? write_one : write_several)(sampler, clock, terminal);
    process_catch_signals(false);
    clock->decode = seconds_now() - clock->start - clock->first;
    if (clock->profiled) clock->profile[1] = profile_stop();
    return sampler;
}

// ---- the report ----------------------------------------------------------------------------------
static void report_kept(const Source *s, const Sampler *t) {
    const KeepOptions *o = &t->keep;
    size_t length = cache_length(t->cache), texts = t->options.samples;
    size_t bytes = keep_bytes(s->model, o, t->prompt, length);
    fprintf(stderr, "kept     %zu of %zu pairs per head", keep_held(o, t->prompt, length), length);
    if (o->bits < 16) fprintf(stderr, ", %zu of them in %zu bits", length ? keep_rounded(o, length - 1) : 0, o->bits);
    fprintf(stderr, ": %zu bytes per text, with what describes it%s\n", bytes, texts > 1 ? "; all texts alike" : "");
}

static void report(const Source *s, const Sampler *t, const Clock *clock) {
    size_t written = t->count - t->prompt, texts = t->options.samples;
    size_t decoded = written > 1 ? texts * (written - 1) : 0;                        // the prefill gave the first
    ModelSize size = model_size(&s->config);
    size_t each = size.cache_bytes_per_token, held = texts * cache_held(t->cache);
    size_t half = t->window > 1 ? t->window / 2 : 1;
    fprintf(stderr, "\nprefill  %zu token%s, %.0f tok/s", clock->read, plural(clock->read),
            (double)clock->read / clock->prefill);
    if (written) fprintf(stderr, "; %.1f ms to the first token", 1e3 * clock->first);
    if (decoded)
        fprintf(stderr, "\ndecode   %zu token%s, %.0f tok/s; %.2f ms per token", decoded, plural(decoded),
                (double)decoded / clock->decode, 1e3 * clock->decode / (double)decoded);
    if (decoded && texts > 1) fprintf(stderr, ", %zu texts at a time", texts);
    fprintf(stderr, "\ncache    %zu bytes per token", each);
    if (size.state_bytes) fprintf(stderr, " and %zu bytes of state per text", size.state_bytes);
    if (keep_is_on(&t->keep)) fprintf(stderr, " that is as it was computed\n"), report_kept(s, t);
    else
        fprintf(stderr, ", %.2f MiB for %zu token%s\n", (double)(each * held + texts * size.state_bytes) / (1 << 20),
                held, plural(held));
    if (t->ahead) {
        const Speculation *a = t->ahead;
        fprintf(stderr, "draft    %zu guess%s, %.0f%% kept; %.2f tokens a step\n", a->guessed,
                a->guessed == 1 ? "" : "es", a->guessed ? 100.0 * (double)a->accepted / (double)a->guessed : 0,
                a->steps ? (double)decoded / (double)a->steps : 0);
    }
    if (sampler_ended(t))
        fprintf(stderr, "note     the text%s ended with the token for that; --ignore-eos writes on\n", plural(texts));
    if (t->refills)
        fprintf(stderr, "note     the %zu learned position%s used up %zu time%s: each time the last %zu token%s read "
                "again\n", t->window, t->window == 1 ? " was" : "s were", t->refills, plural(t->refills), half,
                half == 1 ? " was" : "s were");
    else if (t->count > s->config.context)
        fprintf(stderr, "note     the text is longer than the %zu token%s that the model was trained on\n",
                s->config.context, plural(s->config.context));
}

// Tables, and with a path the picture.
static void show_profile(const Clock *clock, const char *path) {
    static const char *const label[2] = {"prefill", "decode"};
    int threads = omp_get_max_threads();
    Roofs roofs = {simd_fma_peak(threads), machine_read_bandwidth(threads)};
    for (size_t i = 0; i < 2; i++) profile_print(stderr, label[i], &clock->profile[i], roofs);
    if (!*path) return;
    profile_draw(path, "Generation: the prompt at once, then token by token", clock->profile, label, 2, roofs);
    print_line(stderr, "picture  %s\n", path);
}

// ---- the picture ---------------------------------------------------------------------------------
static void check_picture(const char *flag, const char *path) {
    size_t length = strlen(path);
    if (length < 5 || strcmp(path + length - 4, ".png") != 0)
        usage_error("--%s %s: a name that ends in .png was expected", flag, path);
    check_output(flag, path);
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    threads_wait_briefly(argv);
    GenerateOptions o;
    bool *given = xmalloc(generate_table.count * sizeof *given);
    flags_parse(&generate_table, &o, argc, argv, given);
    for (size_t i = 0; i < generate_table.count; i++)
        if (given[i]) flags_refuse_unused(&generate_table, &o, i);
    cpu_switch(o.simd, run_commit(), argv);
    if (o.threads) omp_set_num_threads((int)o.threads);
    if (*o.picture) check_picture("picture", o.picture);
    if (*o.roofline) check_picture("roofline", o.roofline);
    memory_advice = "choose a shorter prompt, or fewer --tokens, --samples or --picture-tokens";
    if (o.questions) refuse_beside_questions(given);
    refuse_draft(&o);
    KeepOptions keep = keep_options(&generate_table, &o);
    if (*o.draft) keep.ahead = MOST_GUESSES;
    refuse_oracle(&o);
    if (o.plan) {
        receipt_print_plan(&generate_table, &o);
        return 0;
    }
    Source s = open_source(&o, given);
    report_writing(&s.config, stderr);
    report_rounding(&s.config, model_size(&s.config), stderr);
    if (o.questions) {
        ask(&o, &s, keep);
        return 0;
    }
    int *prompt;
    size_t n = read_prompt(&o, given, &s, &prompt);
    refuse_long(&s.config, n, o.tokens);
    Clock clock = {.profiled = o.profile || *o.roofline};
    SampleOptions sampling = {o.temperature, o.sample_top_k, o.top_p, o.seed, o.tokens, o.samples,
                              .stop = !o.ignore_eos};
    Source smaller_one = {0};
    Speculation ahead = {0};
    if (*o.draft)
        ahead = (Speculation){.draft = open_draft(&o, &s, &smaller_one, sampling, n), .ratio = o.accept == ACCEPT_ratio,
                              .most = read_gamma(&o), .automatic = strcmp(o.gamma, "auto") == 0};
    if (*o.draft) refuse_state(&s);
    if (smaller_one.model) refuse_state(&smaller_one);
    Sampler *sampler = write_texts(&s, prompt, n, sampling, keep, &ahead, &clock);
    report(&s, sampler, &clock);
    process_catch_signals(true);        // a picture that has been begun is finished
    if (clock.profiled) show_profile(&clock, o.roofline);
    size_t held = sampler->count < sampler->window ? sampler->count : sampler->window;
    if (*o.picture) maps_draw(s.model, s.tokenizer, sampler->text[0].token, held, o.picture_tokens, s.dir, o.picture);
    process_catch_signals(false);
    sampler_free(sampler);
    model_free(s.model);
    tokenizer_free(s.tokenizer);
    free(prompt), free(s.dir), free(given);
    return 0;
}

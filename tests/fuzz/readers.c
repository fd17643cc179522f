// readers.c: one body per way in which a file is read. A body that accepts its input looks at all that it
// got, so that a wrong pointer or an uninitialised byte shows.
#include "tests/fuzz/fuzz.h"
#include "data/data.h"
#include "formats/gguf_model.h"
#include "formats/hf.h"
#include "infer/openai.h"
#include "run/curves.h"
#include "plot/plot.h"
#include "run/verify.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static Config flags_of(const char *text) {
    Config c;
    flags_parse_text(&config_table, &c, text, NULL);
    return c;
}

// ---- safetensors -------------------------------------------------------------------------------
static void look_at_tensors(const char *path) {
    SafeTensors *s = safetensors_open(path);
    for (size_t i = 0; i < s->metas; i++)
        if (!safetensors_meta(s, s->meta_key[i])) fuzz_fault("metadata %s is lost", s->meta_key[i]);
    for (size_t i = 0; i < s->count; i++) {
        const TensorIn *t = safetensors_find(s, s->tensor[i].name);
        if (!t) fuzz_fault("tensor %s is lost", s->tensor[i].name);
        real *copy = xmalloc(size_mul(t->elements, sizeof *copy));
        safetensors_copy(s, t, copy);
        free(copy);
    }
    safetensors_close(s);
}

void read_safetensors(const char *input, size_t bytes) {
    const char *path = fuzz_path("file.safetensors");
    fuzz_put(path, input, bytes);
    look_at_tensors(path);
}

void read_header(const char *input, size_t bytes) {
    const char *path = fuzz_path("file.safetensors");
    fuzz_put_tensors(path, input, bytes);
    look_at_tensors(path);
}

// ---- checkpoints -------------------------------------------------------------------------------
static Model *gpt2, *deepseek, *ours;

static Model *saved_model(const char *dir, const char *flags) {
    Config c = flags_of(flags);
    c.vocab = 5;
    config_resolve(&c);
    Model *m = model_new(&c, false);
    mkdir(dir, 0700);
    hf_save(m, dir);
    return m;
}

// As DeepSeek's own checkpoints are, with RoPE over neighbours.
static void interleave(const char *path) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes), *key = strstr(text, "\"rope_interleave\": false");
    if (!key) fuzz_fault("%s does not say how its pairs lie", path);
    memcpy(key, "\"rope_interleave\": true ", 24);
    write_whole_file(path, text, bytes);
    free(text);
}

// GPT-2 has matrices that are turned and joined, DeepSeek experts and interleaved pairs, ours our own names.
void prepare_models(void) {
    gpt2 = saved_model("gpt2", "--preset gpt2 --layers 1 --width 4 --heads 2 --context 3 --ffn-width 2");
    deepseek = saved_model("deepseek", "--preset deepseek --layers 1 --first-dense 0 --width 4 --heads 2 --kv-rank 2 "
                           "--q-rank 0 --head-dim 2 --rope-dim 2 --ffn-width 2 --experts 2 --top-k 2 --expert-width 1");
    interleave("deepseek/config.json");
    ours = saved_model("ours", "--attn gqa+mla --layers 2 --width 4 --heads 2 --ffn-width 2");
}

static void load_weights(Model *m, const char *dir, const char *input, size_t bytes) {
    fuzz_put_tensors(xprintf("%s/model.safetensors", dir), input, bytes);
    hf_load(m, dir);
}
void load_gpt2(const char *input, size_t bytes) { load_weights(gpt2, "gpt2", input, bytes); }
void load_deepseek(const char *input, size_t bytes) { load_weights(deepseek, "deepseek", input, bytes); }
void load_ours(const char *input, size_t bytes) { load_weights(ours, "ours", input, bytes); }

// The index of a model whose weights lie in a file with another name.
void load_shards(const char *input, size_t bytes) {
    rename("gpt2/model.safetensors", "gpt2/a.safetensors");
    fuzz_put("gpt2/model.safetensors.index.json", input, bytes);
    hf_load(gpt2, "gpt2");
}

// ---- GGUF ----------------------------------------------------------------------------------------
static Model *llama, *latent;

// One with pairs and experts, one with the halves of kv_b.
void prepare_ggufs(void) {
    llama = saved_model("llama", "--layers 1 --width 32 --heads 2 --ffn-width 32 --experts 2 --top-k 2 "
                        "--expert-width 2 --attn gqa --kv-heads 1");
    latent = saved_model("latent", "--attn mla --layers 1 --width 4 --heads 2 --kv-rank 2 --head-dim 2 --rope-dim 2 "
                         "--ffn-width 2 --norm-eps 1e-6");
}

void read_gguf(const char *input, size_t bytes) {
    const char *path = fuzz_path("file.gguf");
    fuzz_put(path, input, bytes);
    Gguf *g = gguf_open(path);
    double all = 0;
    for (size_t i = 0; i < g->keys; i++) {
        const GgufKey *k = gguf_key(g, g->key[i].name);
        if (k != &g->key[i]) fuzz_fault("key %s is lost", g->key[i].name);
        for (size_t j = 0; j < k->count; j++) {
            if (k->text) all += k->text[j].bytes ? k->text[j].at[k->text[j].bytes - 1] : 0;
            else all += gguf_number(k, j);
        }
    }
    for (size_t i = 0; i < g->tensors; i++) {
        const GgufTensor *t = gguf_tensor(g, g->tensor[i].name);
        if (t != &g->tensor[i]) fuzz_fault("tensor %s is lost", g->tensor[i].name);
        real *copy = xmalloc(size_mul(t->elements, sizeof *copy));
        gguf_copy(t, copy, 0, t->elements, 1);
        free(copy);
    }
    if (all == 0.5) fprintf(stderr, "half\n");
    gguf_close(g);
}

void load_gguf(const char *input, size_t bytes) {
    Config c;
    fuzz_put("file.gguf", input, bytes);
    flags_defaults(&config_table, &c);
    if (!gguf_is("file.gguf")) return;
    hf_config(&c, "file.gguf");
    config_resolve(&c);
    model_size(&c);
    hf_load(c.attn.at[0] == ATTN_mla ? latent : llama, "file.gguf");
}

void open_gguf_tokens(const char *input, size_t bytes) {
    fuzz_put("file.gguf", input, bytes);
    if (gguf_is("file.gguf")) tokenizer_free(tokenizer_open_dir("file.gguf"));
}

// As ./generate opens a run.
void open_config(const char *input, size_t bytes) {
    Config c;
    fuzz_put("config.json", input, bytes);
    flags_defaults(&config_table, &c);
    if (!hf_flags(&c, ".")) hf_config(&c, ".");
    config_resolve(&c);
    model_size(&c);
}

// As ./train --load does.
void load_config(const char *input, size_t bytes) {
    Config c = flags_of("--batch 2");
    fuzz_put("config.json", input, bytes);
    hf_config(&c, ".");
    config_resolve(&c);
    model_size(&c);
}

// ---- run directories ---------------------------------------------------------------------------
static real numbers[3][6];
static const RunTensor pieces[] = {{"embed.weight", 2, {2, 2}, 0, 4}, {"final_norm.weight", 1, {2}, 4, 2}};
static const RunTensors tensors = {pieces, 2, numbers[0], numbers[1], numbers[2]};
static const char log_lines[] = "{\"step\":0,\"val_loss\":2.5}\n{\"step\":1,\"train_loss\":2.25}\n";

static Run rerun = {.dir = "rerun"};   // what --verify compares a record with

// A state at step 1, and a log that fits to it.
static void put_state(void) {
    const double losses[] = {2.5, 2.25};
    RunState s = {.step = 1, .tokens = 4, .train_loss = losses[1], .val_loss = losses[0], .loss_hash = HASH_START};
    for (int i = 0; i < 2; i++) s.loss_hash = hash_bytes(s.loss_hash, &losses[i], sizeof losses[i]);
    run_save(&(Run){.dir = "run"}, &tensors, &s);
}

void prepare_run(void) {
    mkdir("run", 0700);
    put_state();
    mkdir("recorded", 0700);
    mkdir("rerun", 0700);
    fuzz_put("rerun/log.jsonl", log_lines, strlen(log_lines));
    rerun.json = json_pack("{s:s, s:{s:s}}", "digest", "0123456789abcdef", "hashes", "embed.weight",
                           "0123456789abcdef");
}
void prepare_log(void) {
    prepare_run();
    mkdir("nothing", 0700);
}

// Closes what this function saw opened last time, and remembers the descriptor that is opened next: locks stay
// open where a reader fails.
static void close_last_lock(void) {
    static int lock = -1;
    if (lock >= 0) close(lock);
    lock = dup(0);
    close(lock);
}

void enter_run(const char *input, size_t bytes) {
    Config c = flags_of("--out run");
    c.vocab = 629;
    config_resolve(&c);
    fuzz_put("run/run.json", input, bytes);
    close_last_lock();
    Run *r = run_open(&(RunPlan){&config_table, &c, c.out, "fuzz", "./train", 7, false, NULL, 0, NULL,
                              0, NULL});
    run_close(r);
}

void verify_run(const char *input, size_t bytes) {
    Config c = flags_of("");
    bool *given = xmalloc(config_table.count * sizeof *given);
    fuzz_put("recorded/run.json", input, bytes);
    close_last_lock();
    Verify *v = verify_begin(&config_table, &c, given, "recorded");
    rmdir(c.out);
    free(given);
    verify_end(v, &rerun);
}

static void resume(const char *dir) {
    Run r = {.dir = (char *)dir, .status = RUN_STARTED, .eval_every = 1};
    RunState s = {0};
    run_resume(&r, &tensors, &s);
    fclose(r.log);
}

void resume_state(const char *input, size_t bytes) {
    fuzz_put("run/log.jsonl", log_lines, strlen(log_lines));
    fuzz_put_tensors("run/state.safetensors", input, bytes);
    resume("run");
}

void resume_log(const char *input, size_t bytes) {
    fuzz_put("run/log.jsonl", input, bytes);
    resume("run");
}

// The pictures of a log, without drawing them: what would be drawn is only added up.
static volatile double sum;
void draw_log(const char *input, size_t bytes) {
    fuzz_put("nothing/log.jsonl", input, bytes);
    curves_draw("nothing", "fuzz", "", 1.5);
}

// The log of a record against that of its rerun.
void verify_log(const char *input, size_t bytes) {
    fuzz_put("recorded/log.jsonl", input, bytes);
    verify_end(&(Verify){.dir = "recorded", .table = &config_table, .record = rerun.json, .steps = 1}, &rerun);
}

void __wrap_plot_chart(const char *path, const Chart *chart);
void __wrap_plot_chart(const char *path, const Chart *chart) {
    if (!*path) fuzz_fault("a picture without a name");
    for (size_t i = 0; i < chart->count; i++)
        for (size_t j = 0; j < chart->series[i].n; j++) sum = sum + chart->series[i].x[j] + chart->series[i].y[j];
}
void __wrap_plot_heat_map(const char *path, const HeatMap *map);
void __wrap_plot_heat_map(const char *path, const HeatMap *map) {
    if (!*path) fuzz_fault("a picture without a name");
    for (size_t i = 0; i < map->rows * map->columns; i++) sum = sum + map->value[i];
    for (size_t i = 0; i < map->rows; i++) sum = sum + (double)strlen(map->row_label[i]);
}

// ---- data --------------------------------------------------------------------------------------
static void look_at_rows(const Data *d, size_t T) {
    int tokens[16], targets[16];
    for (uint64_t i = 0; i < 6; i++) {
        d->row(d, i % 2 ? SPLIT_TRAIN : SPLIT_VALIDATION, i, T, tokens, targets, NULL);
        for (size_t t = 0; t < T; t++)
            if (tokens[t] < 0 || (size_t)tokens[t] >= d->vocab || targets[t] >= (int)d->vocab)
                fuzz_fault("token %d, then %d, of a vocabulary of %zu", tokens[t], targets[t], d->vocab);
    }
}

static void look_at_data(const char *flags) {
    Config c = flags_of(flags);
    Data *d = data_open(&c);
    look_at_rows(d, c.context);
    data_close(d);
}

void open_shard(const char *input, size_t bytes) {
    fuzz_put("tokens.bin", input, bytes);
    look_at_data("--data tokens.bin --context 4 --eval-tokens 12");
}

// A split of its own for validation, and a tokenizer beside.
void open_shards(const char *input, size_t bytes) {
    static const char tokenizer[] = "{\"kind\":\"numbers\",\"vocab\":20}";
    mkdir("beside", 0700);
    fuzz_put("beside/train.bin", input, bytes);
    fuzz_put("beside/val.bin", input, bytes / 2 * 2);
    fuzz_put("beside/tokenizer.json", tokenizer, strlen(tokenizer));
    look_at_data("--data beside/train.bin --context 4 --eval-tokens 12");
}

// Two files in a row, as a directory and as a glob.
void open_several(const char *input, size_t bytes) {
    mkdir("several", 0700);
    fuzz_put("several/1.bin", input, bytes);
    fuzz_put("several/2.bin", input, bytes);
    look_at_data("--data several --context 4 --eval-tokens 12");
    look_at_data("--data several/[12].bin --context 4 --eval-tokens 12");
}

// Lines of JSON, and the same lines for validation.
void open_lines(const char *input, size_t bytes) {
    fuzz_put("lines.jsonl", input, bytes);
    look_at_data("--data lines.jsonl --field text --context 4 --eval-tokens 12 --val-fraction 0.3");
}
void open_named_lines(const char *input, size_t bytes) {
    fuzz_put("named.jsonl", input, bytes);
    fuzz_put("other.jsonl", "{\"text\": \"abc abc abc\"}\n", 24);
    look_at_data("--data other.jsonl --val named.jsonl --field text --tokenizer byte --context 4 --eval-tokens 12");
}

// The first line says how the text behind it becomes tokens.
void open_text(const char *input, size_t bytes) {
    const char *end = memchr(input, '\n', bytes);
    if (!end) return;
    Config c = flags_of("--data text --context 4 --eval-tokens 12 --val-fraction 0.3");
    char *tokenizer = xprintf("%.*s", (int)(end - input), input);
    flags_set(&config_table, &c, "tokenizer", tokenizer);
    fuzz_put("text", end + 1, bytes - (size_t)(end + 1 - input));
    Data *d = data_open(&c);
    look_at_rows(d, c.context);
    data_close(d);
}

// ---- tokenizers --------------------------------------------------------------------------------
// What was read must come back the same after it was saved.
static void check_saved(const Tokenizer *t) {
    mkdir("saved", 0700);
    tokenizer_save_dir(t, "saved");
    Tokenizer *again = tokenizer_open_dir("saved");
    bool same = tokenizer_vocab(t) == tokenizer_vocab(again) && tokenizer_start(t) == tokenizer_start(again);
    if (!same || strcmp(tokenizer_kind(t), tokenizer_kind(again))) fuzz_fault("a saved tokenizer is another");
    for (size_t i = 0; i < tokenizer_vocab(t) && i < 400; i++) {
        const char *a, *b;
        size_t n = tokenizer_decode(t, -1, (int)i, &a);
        bool equal = tokenizer_decode(again, -1, (int)i, &b) == n && memcmp(a, b, n) == 0;
        if (!equal) fuzz_fault("token %zu is another when saved", i);
    }
    tokenizer_free(again);
}

void decode_tokens(const char *input, size_t bytes) {
    fuzz_put("tokenizer", input, bytes);
    Tokenizer *t = tokenizer_load("tokenizer");
    size_t vocab = tokenizer_vocab(t), seen = 0;
    for (size_t i = 0; i < vocab && i < 400; i++) {
        const char *text;
        size_t n = tokenizer_decode(t, i ? (int)i - 1 : -1, (int)i, &text);
        seen = (size_t)hash_bytes(seen, text, n);
    }
    check_saved(t);
    tokenizer_free(t);
}

void encode_text(const char *input, size_t bytes) {
    static const char text[] = "the cat \"sat\" 1 2 3, it's\n\nthe end \xF0\x9F\x90\xB1.";
    fuzz_put("tokenizer", input, bytes);
    Tokenizer *t = tokenizer_load("tokenizer");
    int *tokens;
    size_t n = tokenizer_prompt(t, text, &tokens);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= tokenizer_vocab(t)) fuzz_fault("token %d of a prompt", tokens[i]);
    free(tokens);
    tokenizer_free(t);
}

// ---- requests of others ------------------------------------------------------------------------
enum { SPOKEN = 5, LONGEST_TEXT = 64, MOST_ANSWERS = 8 };

// A new tokenizer for each: what it remembers of an input goes with that.
static Speaker *open_speaker(void) {
    static const char *const known[SPOKEN] = {"the", "cat", "sat", ".", "\n\n"};
    Tokenizer *words = tokenizer_words(known, SPOKEN);
    return speaker_new("run", words, SPOKEN, LONGEST_TEXT, MOST_ANSWERS, sample_defaults(1, 0), 0);
}

static void close_speaker(Speaker *s) {
    tokenizer_free(s->words);
    speaker_free(s);
}

static void check_refusal(const Refusal *why) {
    char *text = refusal_text(why);
    json_t *root = json_loads(text, 0, NULL);
    if (!root || why->status < 400 || why->status > 499 || !*why->message) fuzz_fault("a refusal is %s", text);
    json_decref(root);
    free(text);
}

// What was let in keeps the limits that it was let in for.
static void check_call(const Reply *r) {
    const Call *c = r->call;
    if (c->answers > MOST_ANSWERS) fuzz_fault("%zu answers", c->answers);
    for (size_t i = 0; i < c->answers; i++) {
        size_t n = c->length[c->answer[i].prompt];
        if (!n || n + c->options.tokens > LONGEST_TEXT) fuzz_fault("%zu and %zu tokens", n, c->options.tokens);
        c->answer[i].token[c->options.tokens - 1] = 0;
        if (c->logprobs) c->answer[i].likely[c->options.tokens * (1 + c->likely) - 1] = (Likely){0, 0};
    }
    for (size_t i = 0; i < c->prompts; i++)
        for (size_t t = 0; t < c->length[i]; t++)
            if (c->prompt[i][t] < 0 || c->prompt[i][t] >= SPOKEN) fuzz_fault("token %d", c->prompt[i][t]);
    if (!(c->options.temperature >= 0) || !(c->options.top_p >= 0 && c->options.top_p <= 1)) fuzz_fault("sampling");
}

static void read_call(bool chat, const char *input, size_t bytes) {
    Speaker *s = open_speaker();
    Refusal why = {0};
    Reply *r = reply_read(s, chat, input, bytes, &why);
    if (!r) {
        check_refusal(&why);
    } else {
        Call *c = r->call;
        check_call(r);
        reply_free(r), call_free(c);
    }
    refusal_free(&why), close_speaker(s);
}
void read_completion(const char *input, size_t bytes) { read_call(false, input, bytes); }
void read_chat(const char *input, size_t bytes) { read_call(true, input, bytes); }

void read_tokens(const char *input, size_t bytes) {
    Speaker *s = open_speaker();
    for (int back = 0; back < 2; back++) {
        Refusal why = {0};
        char *text = (back ? speaker_detokenize : speaker_tokenize)(s, input, bytes, &why);
        json_t *root = text ? json_loads(text, 0, NULL) : NULL;
        if (text && !root) fuzz_fault("no JSON: %s", text);
        if (!text) check_refusal(&why);
        json_decref(root), free(text);
        refusal_free(&why);
    }
    close_speaker(s);
}

// test_train.c: the program ./train from outside, as a reader or a script sees it: exit statuses, what is
// printed, what is left on disk, and digests that neither interruption nor cutting the batch changes.
#include "tests/program.h"
#include "config/config.h"
#include <ctype.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// Small enough for a few milliseconds, large enough for every part: validations, checkpoints, a tail.
#define EVENTS_NAME "events.out.tfevents.receipts"
#define TINY "--data markov --vocab 20 --layers 2 --width 32 --heads 2 --context 32 --batch 5 --steps 13 --warmup 3 " \
             "--eval-every 4 --save-every 3 --log-every 1 --eval-tokens 256 --sample-tokens 20 "

static json_t *run_json(const char *dir) {
    json_t *root = json_load_file(test_path(xprintf("%s/run.json", dir)), 0, NULL);
    CHECK(root, "%s/run.json is JSON", dir);
    return root;
}

static const char *text_of(const char *dir, const char *key) {
    const char *text = json_string_value(json_object_get(run_json(dir), key));
    return text ? text : "";
}

// The digest of a finished run; "" when something went wrong, which is then a failure.
static const char *digest_of(const char *arguments, const char *dir) {
    Result r = train(xprintf("%s --out %s", arguments, dir));
    CHECK(r.status == 0 && !*r.error, "%s: status %d, %s", arguments, r.status, r.error);
    const char *digest = text_of(dir, "digest");
    CHECK(strlen(digest) == 16, "a digest: '%s'", digest);
    return digest;
}

static void same_digest(const char *a, const char *b, const char *what) {
    CHECK(*a && strcmp(a, b) == 0, "%s: %s and %s", what, a, b);
}

static char *file_text(const char *path) { return read_whole_file(test_path(path), NULL); }

// ---- a run from beginning to end ---------------------------------------------------------------
static void test_whole_run(void) {
    Result r = train(TINY "--out run");
    CHECK(r.status == 0 && !*r.error, "status %d: %s", r.status, r.error);
    for (const char *c = r.out; *c; c++) CHECK(!iscntrl((unsigned char)*c) || *c == '\n', "control character %d", *c);
    const char *receipt = strstr(r.out, "receipt: digest ");
    CHECK(receipt && strchr(receipt, '\n') && !strchr(receipt, '\n')[1], "the last line is the receipt: %s", r.out);
    CHECK(receipt && strstr(receipt, "tokens 2080, ") && strstr(receipt, "--out run\n"), "%s", receipt);
    static const char *const files[] = {"run.json",    "log.jsonl",         "loss.png",   "model.safetensors",
                                        "config.json", "state.safetensors", "sample.txt", "tokenizer.receipts.json"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        CHECK(file_exists(test_path(xprintf("run/%s", files[i]))), "%s", files[i]);
    CHECK(count_lines(file_text("run/log.jsonl")) == 14, "step 0 and 13 steps");
    json_t *json = run_json("run"), *final = json_object_get(json, "final");
    CHECK(json_integer_value(json_object_get(final, "step")) == 13, "final step");
    double loss = json_number_value(json_object_get(final, "val_loss")),
           floor = json_number_value(json_object_get(final, "floor"));
    CHECK(loss > floor && loss < log(20) + 0.05, "the loss %g is between the floor %g and that of a guess", loss,
          floor);
    CHECK(strcmp(text_of("run", "status"), "finished") == 0, "status");
    char *text = file_text("run/run.json");
    CHECK(strstr(text, "\"lr\": 0.003,") && strstr(text, "\"min_lr\": 0.0003,") && strstr(text, "\"clip\": 1.0,"),
          "numbers as short as they are exact: %s", text);
}

static void test_finished(void) {
    const char *digest = digest_of(TINY, "run"), *log = file_text("run/log.jsonl");
    Result again = train(TINY "--out run --threads 1");
    CHECK(again.status == 0 && strstr(again.out, "finished") && strstr(again.out, digest), "%s", again.out);
    CHECK(strcmp(log, file_text("run/log.jsonl")) == 0, "nothing was trained");
    same_digest(digest, digest_of(TINY "--fresh", "run"), "trained again");
    Result other = train(TINY "--out run --seed 2");
    CHECK(other.status == 1 && strstr(other.error, "seed 1, not 2") && count_lines(other.error) == 1, "%s",
          other.error);
}

static void test_same_digest(void) {
    const char *digest = digest_of(TINY, "whole");
    same_digest(digest, digest_of(TINY "--micro-batch 2", "micro"), "micro-batches");
    same_digest(digest, digest_of(TINY "--threads 3", "threads"), "threads");
    same_digest(digest, digest_of(TINY "--save-every 1 --log-layers --drop-layers --sample-tokens 0", "looking"),
                "looking changes nothing");
    CHECK(strstr(file_text("looking/log.jsonl"), "\"val_loss_without\":["), "the loss without each layer is logged");
    CHECK(file_exists(test_path("looking/depth.png")), "a picture of the growth");
    CHECK(strcmp(digest, digest_of(TINY "--seed 2", "seed")) != 0, "another seed gives another digest");
}

static void test_same_digest_moe(void) {
#define MOE TINY "--attn gqa+mla --experts 4 --top-k 2 --router bias --bias-rate 0.01 --gate sigmoid --first-dense 1 "
    const char *digest = digest_of(MOE, "whole");
    same_digest(digest, digest_of(MOE "--micro-batch 3", "micro"), "micro-batches");
    same_digest(digest, digest_of(MOE "--eval-alone", "alone"), "routing alone changes nothing");
    CHECK(strstr(file_text("alone/log.jsonl"), "\"val_loss_alone\":"), "the loss with every token routed alone");
    same_digest(digest, digest_of(MOE "--threads 3", "threads"), "threads");
    char *log = file_text("whole/log.jsonl");
    CHECK(strstr(log, "\"experts\":[{\"layer\":1,\"load\":[") && strstr(log, "\"max_violation\":"), "%.300s", log);
    CHECK(file_exists(test_path("whole/experts.png")), "a picture of the load");
}

// run.json repeats what --dry-run predicts: the model that is there by then is not counted as part of the program.
static void test_predicted_memory(void) {
#define WIDE "--data markov --vocab 20 --layers 2 --width 512 --context 32 --batch 8 --steps 1 --eval-tokens 32 "
    Result dry = train(WIDE "--dry-run json"), log = train(WIDE "--dry-run json --log-layers");
    json_t *predicted = json_loads(dry.out, 0, NULL), *logged = json_loads(log.out, 0, NULL);
    CHECK(train(WIDE "--sample-tokens 0 --out run").status == 0, "a short run");
    json_t *recorded = run_json("run");
    double bytes[3];
    json_t *all[] = {predicted, recorded, logged};
    for (int i = 0; i < 3; i++)
        bytes[i] = json_number_value(json_object_get(json_object_get(all[i], "machine"), "memory_bytes"));
    CHECK(fabs(bytes[1] / bytes[0] - 1) < 0.1, "%.0f bytes in run.json, %.0f by --dry-run", bytes[1], bytes[0]);
    CHECK(bytes[2] - bytes[0] > 4e6, "--log-layers keeps the parameters of the step before: %.0f, %.0f without",
          bytes[2], bytes[0]);
}

// ---- interrupted -------------------------------------------------------------------------------
static void wait_for_line(const char *path, const char *word) {
    for (int i = 0; i < 2000; i++, usleep(2000))
        if (file_exists(test_path(path)) && strstr(file_text(path), word)) return;
    CHECK(false, "%s never said %s", path, word);
}

// Whoever reads the output may have seen enough, as head has.
static void test_closed_pipe(void) {
    static const char flags[] = TINY "--steps 300 --eval-every 5 --save-every 300 ";
    const char *digest = digest_of(flags, "whole");
    Result r = shell(xprintf("'%s' %s --out cut | head -n 8 > first", train_binary(), flags));
    CHECK(r.status == 0 && count_lines(file_text("first")) == 8 && !*r.error, "%d: %s", r.status, r.error);
    for (int i = 0; i < 1000 && !strcmp(text_of("cut", "status"), "running"); i++) usleep(10000);
    CHECK(!strcmp(text_of("cut", "status"), "interrupted"), "%s", text_of("cut", "status"));
    CHECK(file_exists(test_path("cut/state.safetensors")), "it is saved");
    same_digest(digest, digest_of(flags, "cut"), "interrupted and resumed");
}

static void test_signals(void) {
    static const int signals[] = {SIGINT, SIGTERM};
    const char *digest = digest_of(TINY "--steps 400 --eval-every 100 --save-every 100", "whole");
    for (int i = 0; i < 2; i++) {
        char *line = xprintf(TINY "--steps 400 --eval-every 100 --save-every 100 --out cut%d", i),
             *dir = xprintf("cut%d", i);
        pid_t child = train_start(line);
        wait_for_line(xprintf("%s/log.jsonl", dir), "\"step\":7,");
        kill(child, signals[i]);
        Result r = shell_finish(child);
        CHECK(r.status == 128 + signals[i], "status %d", r.status);
        CHECK(strstr(r.out, "interrupted at step ") && strstr(r.out, line), "how to go on: %s", r.out);
        CHECK(strcmp(text_of(dir, "status"), "interrupted") == 0, "status");
        same_digest(digest, digest_of(TINY "--steps 400 --eval-every 100 --save-every 100", dir),
                    "interrupted and resumed");
        CHECK(count_lines(file_text(xprintf("%s/log.jsonl", dir))) == 401, "every step once");
    }
}

// The hint after Ctrl-C must not send anybody back to the start.
static void test_interrupted_fresh(void) {
    pid_t child = train_start(TINY "--steps 4000 --fresh --out run");
    wait_for_line("run/log.jsonl", "\"step\":7,");
    kill(child, SIGINT);
    Result r = shell_finish(child);
    CHECK(r.status == 128 + SIGINT && strstr(r.out, "the same command, without --fresh, goes on"), "%s", r.out);
}

static void test_killed(void) {
    const char *digest = digest_of(TINY "--steps 200 --eval-every 50 --save-every 10", "whole");
    for (int round = 0; round < 6; round++) {
        pid_t child = train_start(TINY "--steps 200 --eval-every 50 --save-every 10 --out cut");
        usleep(60000 + 20000 * (unsigned)round);
        kill(child, SIGKILL);
        shell_finish(child);
    }
    same_digest(digest, digest_of(TINY "--steps 200 --eval-every 50 --save-every 10", "cut"), "killed and resumed");
    CHECK(count_lines(file_text("cut/log.jsonl")) == 201, "every step once");
}

// A kill within the last save: the state is that of the last step, the model beside it is older, and the next
// process has nothing left to train.
static void test_killed_at_the_end(void) {
    static const char *const files[] = {"model.safetensors", "config.json"};
    const char *digest = digest_of(TINY, "run");
    for (size_t i = 0; i < 2; i++) {
        char *path = xprintf("%s/%s", test_path("run"), files[i]), *debris = xprintf("%s.tmp", path);
        char *json = xprintf("%s/run.json", test_path("run"));
        size_t bytes, bytes_now;
        char *whole = read_whole_file(path, &bytes);
        json_t *root = run_json("run");
        json_object_set_new(root, "status", json_string("running"));
        CHECK(json_dump_file(root, json, 0) == 0 && unlink(path) == 0, "as the kill left it");
        write_whole_file(debris, whole, bytes / 2);
        same_digest(digest, digest_of(TINY, "run"), files[i]);
        char *now = read_whole_file(path, &bytes_now);
        CHECK(bytes == bytes_now && memcmp(whole, now, bytes) == 0, "%s is that of the state", files[i]);
        CHECK(!file_exists(debris), "no debris: %s", debris);
    }
}

// ---- the ways it can go wrong ------------------------------------------------------------------
static void test_diverged(void) {
    Result r = train(TINY "--lr 1000 --init-scale 1000 --clip 0 --steps 400 --out run");
    CHECK(r.status == 1 && strstr(r.error, "diverged after step") && count_lines(r.error) == 1, "status %d: %s",
          r.status, r.error);
    CHECK(!strstr(r.error, "-nan"), "a nan has no sign: %s", r.error);
    CHECK(strcmp(text_of("run", "status"), "diverged") == 0, "run.json says so");
    CHECK(file_exists(test_path("run/state.safetensors")), "the last state is there");
    r = train(TINY "--lr 1000 --init-scale 1000 --clip 0 --steps 400 --out run");
    CHECK(r.status == 1 && strstr(r.error, "diverged at step"), "and again: %s", r.error);
}

static void test_full_disk(void) {
    Result r = train(TINY "--steps 4 --out run");
    CHECK(r.status == 0, "%s", r.error);
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = 50000;
    char *before = file_text("run/run.json");
    setrlimit(RLIMIT_FSIZE, &limit);
    r = train(TINY "--steps 4 --out full");
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(r.status == 1 && strstr(r.error, "cannot write") && count_lines(r.error) == 1, "status %d: %s", r.status,
          r.error);
    CHECK(!file_exists(test_path("full/state.safetensors.tmp")), "no debris");
    CHECK(strcmp(before, file_text("run/run.json")) == 0, "the other run is as it was");
    r = train(TINY "--steps 4 --out full");
    CHECK(r.status == 0, "once there is room again, the same command works: %s", r.error);
    same_digest(text_of("run", "digest"), text_of("full", "digest"), "after the full disk");
}

// `ulimit -f` would end a program by SIGXFSZ; here it is an error of a write, and the run goes on where it was saved.
static void test_file_size_limit(void) {
#define LIMITED TINY "--steps 60 --save-every 20 --eval-every 20 --log-every 1 "
    const char *digest = digest_of(LIMITED, "whole");
    struct stat state, log;
    CHECK(stat(test_path("whole/state.safetensors"), &state) == 0 && stat(test_path("whole/log.jsonl"), &log) == 0 &&
              state.st_size > 3 * log.st_size, "the state is the largest file");
    int blocks = (int)state.st_size / 1024;     // of 512 bytes: half of the state
    Result r = shell(xprintf("ulimit -f %d && exec '%s' " LIMITED "--out cut", blocks, train_binary()));
    CHECK(r.status == 1 && count_lines(r.error) == 1 && strstr(r.error, "File too large"), "at once: status %d: %s",
          r.status, r.error);
    CHECK(!file_exists(test_path("cut/state.safetensors")), "half a state is none");
    pid_t child = train_start(LIMITED "--steps 4000 --out late");
    wait_for_line("late/log.jsonl", "\"step\":25,");
    kill(child, SIGINT);
    shell_finish(child);
    size_t bytes, bytes_now;
    char *before = read_whole_file(test_path("late/state.safetensors"), &bytes);
    r = shell(xprintf("ulimit -f %d && exec '%s' " LIMITED "--steps 4000 --out late", blocks, train_binary()));
    char *now = read_whole_file(test_path("late/state.safetensors"), &bytes_now);
    CHECK(r.status == 1 && count_lines(r.error) == 1, "later: status %d: %s", r.status, r.error);
    CHECK(bytes == bytes_now && memcmp(before, now, bytes) == 0, "the last state is intact");
    same_digest(digest, digest_of(LIMITED, "cut"), "without the limit");
}

static void test_full_output(void) {
    static const char *const lines[] = {TINY "--out run", TINY "--out run", TINY "--dry-run", "--help"};
    for (size_t i = 0; i < 4; i++) {
        Result r = train(xprintf("%s > /dev/full", lines[i]));
        CHECK(r.status == 1 && count_lines(r.error) == 1 && strstr(r.error, "cannot write to standard output"),
              "%s: status %d: %s", lines[i], r.status, r.error);
    }
    CHECK(strcmp(text_of("run", "status"), "finished") == 0, "the run is complete all the same");
}

// What is finished is not said to be whole when it is not.
static void test_finished_with_a_gap(void) {
    static const char *const files[] = {"log.jsonl", "model.safetensors", "config.json", "state.safetensors",
                                        "tokenizer.receipts.json"};
    const char *digest = digest_of(TINY, "run");
    for (size_t i = 0; i < 5; i++) {
        char *path = xprintf("%s/%s", test_path("run"), files[i]), *aside = xprintf("%s/aside", test_path("run"));
        rename(path, aside);
        Result r = train(TINY "--out run");
        CHECK(r.status == 1 && count_lines(r.error) == 1 && strstr(r.error, files[i]) && strstr(r.error, "--fresh"),
              "without %s: status %d: %s", files[i], r.status, r.error);
        rename(aside, path);
    }
    Result r = train(TINY "--out run");
    CHECK(r.status == 0 && strstr(r.out, digest), "whole again: %s", r.error);
}

static void test_bad_lines(void) {
    static const struct { const char *line; int status; const char *says; } bad[] = {
        {"--layer 3", 2, "--layers"}, {TINY "--heads 3", 2, "--heads 3"}, {"--data none.txt", 1, "none.txt"},
        {TINY "--out out/run", 1, "out"}, {TINY "--load nowhere", 1, "nowhere"},
        {"--data storeis", 1, "the nearest is stories"}, {"--data /dev/zero", 1, "not a regular file"},
        {"--data .", 1, "is a directory"}, {"--data pipe", 1, "not a regular file"},
        {"--tokenizer char", 2, "--tokenizer belongs to --data FILE and has no effect with --data stories"},
        {"--pairs 8", 2, "--pairs belongs to --data recall|khop"},
        {"--preset gpt2 --preset llama", 2, "only one"}, {"--layers 2 --attn gqa+mla+mha", 2, "3 entries"},
        {"--data \"$(printf 'a\\nb\\033[1m')\"", 1, "--data a\\nb\\x1b[1m: neither"},
    };
    CHECK(mkfifo(test_path("pipe"), 0600) == 0, "a pipe");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Result r = train(bad[i].line);
        CHECK(r.status == bad[i].status && strstr(r.error, bad[i].says), "%s: status %d: %s", bad[i].line, r.status,
              r.error);
        CHECK(count_lines(r.error) == 1 && strncmp(r.error, "error: ", 7) == 0, "one line: %s", r.error);
    }
    CHECK(!file_exists(test_path("runs")), "nothing was made for a bad line");
}

// ---- flags of the loop -------------------------------------------------------------------------
static void test_dry_run(void) {
    Result r = train(TINY "--dry-run");
    CHECK(r.status == 0 && strstr(r.out, "parameters") && strstr(r.out, "FMA peak"), "%s", r.out);
    CHECK(!file_exists(test_path("runs")), "a dry run leaves nothing behind");
}

static void test_dry_run_large(void) {           // layers squared would be minutes
    Result r = train("--layers 100000 --dry-run");
    CHECK(r.status == 0 && strstr(r.out, "20096080640 parameters"), "%s%s", r.out, r.error);
}

static void test_dry_run_json(void) {
    Result r = train(TINY "--dry-run json");
    json_t *dry = json_loads(r.out, 0, NULL), *model;
    CHECK(r.status == 0 && dry, "JSON and nothing else: %s%s", r.out, r.error);
    digest_of(TINY, "run");
    model = json_object_get(run_json("run"), "model");
    CHECK(model && json_equal(json_object_get(dry, "model"), model), "the sizes foretold are those recorded");
    json_decref(dry);
}

static void test_target_loss(void) {
    const char *digest = digest_of(TINY "--steps 100000 --target-loss 2.9 --lr 0.01", "run");
    json_t *final = json_object_get(run_json("run"), "final");
    CHECK(*digest && json_number_value(json_object_get(final, "val_loss")) <= 2.9, "stopped at the target");
    CHECK(json_integer_value(json_object_get(final, "step")) < 2000, "and not much later");
    digest_of(TINY "--steps 60 --eval-every 4 --target-loss 5 --quant int2 --qat-start 0.5", "rounded");
    json_int_t step = json_integer_value(json_object_get(json_object_get(run_json("rounded"), "final"), "step"));
    CHECK(step >= 32 && step < 60 && step % 4 == 0, "step %d: a loss counts once the weights are rounded", (int)step);
}

static void test_load(void) {
    digest_of(TINY, "first");
    digest_of(TINY "--steps 0", "none");
    digest_of(TINY "--steps 0 --fresh", "none");                // a run of no steps is a run
    Result r = train(TINY "--steps 0 --load first --out second");
    CHECK(r.status == 0, "%s", r.error);
    double a = json_number_value(json_object_get(json_object_get(run_json("first"), "final"), "val_loss"));
    double b = json_number_value(json_object_get(json_object_get(run_json("second"), "final"), "val_loss"));
    CHECK(a == b, "the loaded model has the loss %.17g of the saved one: %.17g", a, b);
    CHECK(!*r.error, "the same tokenizer is nothing to note: %s", r.error);
}

// A model goes on with rows four times as long, its rotations slowed down; what is loaded after it is so by itself.
static void test_load_stretched(void) {
    digest_of(TINY, "first");
    CHECK(train(TINY "--load first --context 128 --rope-scaling yarn --rope-factor 4 --rope-trained 32 --out long")
              .status == 0, "trained on longer rows");
    Result same = train(TINY "--steps 0 --load long --context 128 --out again"),
           plain = train(TINY "--steps 0 --load long --context 128 --rope-scaling none --out plain"),
           part = train(TINY "--load long --context 128 --rope-factor 8");
    CHECK(same.status == 0 && plain.status == 0, "%s%s", same.error, plain.error);
    CHECK(!*same.error && strstr(plain.error, "note     --rope-scaling none takes the place of the yarn of the model "
          "in long"), "what was stretched otherwise is said: %s%s", same.error, plain.error);
    double loss[3];
    const char *const runs[] = {"long", "again", "plain"};
    for (int i = 0; i < 3; i++)
        loss[i] = json_number_value(json_object_get(json_object_get(run_json(runs[i]), "final"), "val_loss"));
    CHECK(loss[0] == loss[1] && loss[0] != loss[2], "%.17g, loaded %.17g, without yarn %.17g", loss[0], loss[1],
          loss[2]);
    CHECK(part.status == 2 && strstr(part.error, "--rope-factor"), "%s", part.error);
    Result sample = train(TINY "--rope-scaling dynamic --rope-trained 32 --sample-tokens 60 --out dynamic");
    CHECK(sample.status == 0, "a sample longer than what the model was trained on: %s", sample.error);
}

// A run that began with a file for TensorBoard goes on with it, whatever the command says then.
static void test_events_go_on(void) {
    digest_of(TINY "--schedule constant --steps 12 --tensorboard", "run");
    size_t before, after, whole;
    free(read_whole_file(test_path("run/" EVENTS_NAME), &before));
    digest_of(TINY "--schedule constant --steps 20", "run");
    digest_of(TINY "--schedule constant --steps 20 --tensorboard", "at-once");
    free(read_whole_file(test_path("run/" EVENTS_NAME), &after));
    free(read_whole_file(test_path("at-once/" EVENTS_NAME), &whole));
    CHECK(before < after && after == whole, "bytes: %zu, then %zu, at once %zu", before, after, whole);
}

static void test_load_refused(void) {
    static const struct { const char *line, *says; } bad[] = {
        {TINY "--load first --heads 4", "--heads 4 contradicts the model in first, which has 2; leave the flag out"},
        {TINY "--load first --attn-bias qkv", "--attn-bias qkv contradicts the model in first, which has none; leave"},
        {TINY "--load first --ffn-bias all", "--ffn-bias all contradicts the model in first, which has none; leave"},
        {TINY "--load first --attn mla", "contradicts the model in first, which has mha"},
        {TINY "--load first --vocab 30", "--vocab 30 contradicts"},
        {"--context 32 --load first", "first knows 20 tokens, but --data stories has"},
    };
    digest_of(TINY, "first");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Result r = train(bad[i].line);
        CHECK(r.status == 2 && count_lines(r.error) == 1 && strstr(r.error, bad[i].says), "%s: status %d: %s",
              bad[i].line, r.status, r.error);
    }
}

// Every flag of the architecture, at values that the model does not have: refused, or said with its name.
#define GROUP(help)
#define SIZE(name, ...) #name,
#define REAL(name, ...) #name,
#define BOOL(name, ...) #name,
#define ENUM(name, ...) #name,
#define PATTERN(name, ...) #name,
#define TEXT(name, ...) #name,
static const char *const architecture[] = {
#include "config/model.def"
#include "config/moe.def"
#include "config/rope.def"
};
#undef TEXT

// Which kernel computes it, and how it is trained.
static bool may_differ(const char *name) {
    static const char *const free_ones[] = {"attn_kernel", "tile", "aux_loss", "z_loss"};
    for (size_t i = 0; i < sizeof free_ones / sizeof *free_ones; i++)
        if (strcmp(name, free_ones[i]) == 0) return true;
    return false;
}

static void check_contradiction(const char *name, const char *value, const char *has) {
    char shown[64];
    if (strcmp(value, has) == 0 || (!strcmp(has, "auto") && !strcmp(value, "none"))) return;   // biases that it has not
    flags_shown(name, shown);
    Result r = train(xprintf("--data markov --load first --dry-run --%s %s", shown, value));
    CHECK(strstr(r.error, xprintf("--%s", shown)), "--%s %s, where the model has %s, is not said: status %d: %s", shown,
          value, has, r.status, r.error);
}

static void test_load_contradicted(void) {
    digest_of(TINY "--experts 4", "first");
    Config c;
    flags_parse_text(&config_table, &c, "", NULL);
    json_t *flags = json_object_get(run_json("first"), "flags");
    for (size_t i = 0; i < sizeof architecture / sizeof *architecture; i++) {
        const Flag *f = &config_table.flag[flags_find(&config_table, architecture[i])];
        if (may_differ(f->name)) continue;
        json_t *value = json_object_get(flags, f->name);
        const char *has = json_is_string(value) ? json_string_value(value) : json_dumps(value, JSON_ENCODE_ANY);
        double number = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
        if (f->kind == FLAG_BOOL) check_contradiction(f->name, number ? "0" : "1", "");
        else if (f->kind == FLAG_SIZE) check_contradiction(f->name, xprintf("%.0f", number + 2), "");
        else if (f->kind == FLAG_REAL) check_contradiction(f->name, xprintf("%g", number / 2 + 0.25), "");
        char *words = f->values ? xprintf("%s", f->values) : NULL;
        for (char *word = words ? strtok(words, "|") : NULL; word; word = strtok(NULL, "|"))
            if (f->kind != FLAG_TEXT) check_contradiction(f->name, word, has);
    }
}

// A model of one text goes on with another of as many characters: possible, but worth a line.
static void test_load_other_tokenizer(void) {
#define TEXT "--context 8 --layers 1 --width 32 --heads 2 --batch 2 --steps 2 --eval-tokens 16 --sample-tokens 0 "
    char text[600];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i % 7);
    write_whole_file(test_path("one.txt"), text, sizeof text);
    for (size_t i = 0; i < sizeof text; i++) text[i]++;
    write_whole_file(test_path("other.txt"), text, sizeof text);
    digest_of(TEXT "--data one.txt", "first");
    digest_of(TEXT "--data one.txt --load first", "same");     // and nothing on stderr
    Result longer = train(TEXT "--data one.txt --load first --context 16 --out longer");
    CHECK(longer.status == 0 && strstr(longer.error, "first was trained on 8 tokens"), "%s", longer.error);
    Result r = train(TEXT "--data other.txt --load first --tokenizer char --out second");
    bool told = strstr(r.error, "first was trained with another tokenizer (char,") != NULL;
    CHECK(r.status == 0 && count_lines(r.error) == 1 && told, "status %d: %s", r.status, r.error);
}

static void test_help_and_digest(void) {
    Result r = train("--help");
    CHECK(r.status == 0 && strstr(r.out, "--kv-heads"), "help");
    CHECK(!strcmp(train("--layers 3 -h").out, r.out), "-h is --help");
    r = train(TINY "--out run --digest");
    CHECK(strstr(r.out, "  layers.1.attn.q.weight\n") && strstr(r.out, "  the logged losses\n"), "%s", r.out);
}

// Without a legend: there is one group of points.
static void test_profile(void) {
    Result r = train(TINY "--profile --out run");
    CHECK(r.status == 0 && !*r.error, "status %d: %s", r.status, r.error);
    CHECK(strstr(r.out, "\nprofile  training") && strstr(r.out, "\nreceipt: digest "), "%s", r.out);
    CHECK(file_exists(test_path("run/roofline.png")) && json_object_get(run_json("run"), "profile"), "no profile");
}

// Where there is no run of ours, what has the name of a file that we write is not overwritten.
static void test_foreign_directory(void) {
    static const char *const names[] = {"model.safetensors", "config.json", "loss.png"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = xprintf("theirs%zu/%s", i, names[i]);
        make_directories(test_path(xprintf("theirs%zu", i)));
        write_whole_file(test_path(path), "theirs", 6);
        for (int fresh = 0; fresh < 2; fresh++) {
            Result r = train(xprintf(TINY "--out theirs%zu %s", i, fresh ? "--fresh" : ""));
            CHECK(r.status == 1 && strstr(r.error, path) && count_lines(r.error) == 1, "%d: %s", r.status, r.error);
        }
        CHECK(strcmp(read_whole_file(test_path(path), NULL), "theirs") == 0, "%s was overwritten", path);
    }
    digest_of(TINY, "first");
    char *weights = read_whole_file(test_path("first/config.json"), NULL);
    Result r = train(TINY "--load first --out ./first/../first --fresh");
    CHECK(r.status == 1 && strstr(r.error, "first would be overwritten") && count_lines(r.error) == 1, "%d: %s",
          r.status, r.error);
    CHECK(strcmp(weights, read_whole_file(test_path("first/config.json"), NULL)) == 0 &&
              file_exists(test_path("first/state.safetensors")), "the checkpoint has changed");
}

// ---- what else is written ----------------------------------------------------------------------
static void test_save_dtype(void) {
    struct stat exact, rounded;
    const char *digest = digest_of(TINY, "exact");
    same_digest(digest, digest_of(TINY "--save-dtype bf16", "run"), "the numbers of a file change no number");
    stat(test_path("exact/model.safetensors"), &exact), stat(test_path("run/model.safetensors"), &rounded);
    CHECK(exact.st_size > 18 * rounded.st_size / 10, "%d and %d bytes", (int)exact.st_size, (int)rounded.st_size);
    stat(test_path("exact/state.safetensors"), &exact), stat(test_path("run/state.safetensors"), &rounded);
    long difference = (long)(exact.st_size - rounded.st_size);       // the digits of the seconds that it took
    CHECK(labs(difference) < 64, "the state is exact: %d and %d", (int)exact.st_size, (int)rounded.st_size);
    CHECK(strstr(file_text("run/config.json"), "\"dtype\": \"bfloat16\""), "config.json says so");
    Result r = train("--verify run");
    CHECK(r.status == 0 && strstr(r.out, "\nverified: digest "), "status %d: %s%s", r.status, r.out, r.error);
    r = train(TINY "--steps 1 --load run --save-dtype bf16 --out more");
    CHECK(r.status == 0 && !*r.error, "status %d: %s", r.status, r.error);
    r = train(TINY "--save-dtype f32 --log-layers --out run");
    CHECK(r.status == 0 && strstr(r.out, "\nnote     its weights were saved with --save-dtype bf16 and stay so"), "%s",
          r.out);
    CHECK(strstr(r.out, "\nnote     it was made with --log-layers 0; --fresh trains it again, with 1"), "%s", r.out);
    r = train(TINY "--save-dtype f16 --out other");
    CHECK(r.status == 2 && strstr(r.error, "--save-dtype is one of f32|bf16"), "status %d: %s", r.status, r.error);
}

// The file is the same whether it was written on the way or made of the log of a run that has ended.
static void test_tensorboard(void) {
    const char *digest = digest_of(TINY, "late");
    same_digest(digest, digest_of(TINY "--tensorboard", "run"), "curves change no number");
    size_t bytes, late_bytes;
    read_whole_file(test_path("run/events.out.tfevents.receipts"), &bytes);
    CHECK(!file_exists(test_path("late/events.out.tfevents.receipts")), "only where it is asked for");
    digest_of(TINY "--tensorboard", "late");
    read_whole_file(test_path("late/events.out.tfevents.receipts"), &late_bytes);
    CHECK(bytes > 1000 && bytes == late_bytes, "%zu bytes, and %zu", bytes, late_bytes);
    digest_of(TINY "--fresh", "late");
    CHECK(!file_exists(test_path("late/events.out.tfevents.receipts")), "curves of another training");
}

// What a model says goes whole into sample.txt, and without what a terminal would obey to the screen.
static void test_sample_on_screen(void) {
    char text[6000] = "";
    for (int i = 0; i < 300; i++) strcat(text, "a\xC2\x9B" "31m\tb\n");
    write_whole_file(test_path("c1.txt"), text, strlen(text));
    Result r = train("--data c1.txt --layers 1 --width 32 --heads 2 --context 16 --batch 8 --steps 60 --warmup 2 "
                     "--lr 1e-2 --eval-tokens 64 --sample-tokens 60 --out run");
    const char *sample = file_text("run/sample.txt");
    CHECK(strstr(sample, "\xC2\x9B") && strchr(sample, '\t'), "the model has learned the text: %s", sample);
    CHECK(r.status == 0 && !strstr(r.out, "\xC2\x9B"), "%d: %s", r.status, r.out);
    CHECK(strstr(r.out, "\xEF\xBF\xBD") && strchr(r.out, '\t'), "%s", r.out);
}

static void test_warmup_note(void) {
    Result r = train(TINY "--warmup 26 --out run"), w = train(TINY "--schedule wsd --warmup 12 --out other");
    CHECK(r.status == 0 && strstr(r.out, "\nnote     --warmup 26 is longer than --steps 13: the learning rate ends at "
                                         "0.0015 and never reaches --lr 0.003\n"), "%s%s", r.error, r.out);
    CHECK(w.status == 2 && strstr(w.error, "--warmup 12 reaches into the decay") && count_lines(w.error) == 1, "%s",
          w.error);
    CHECK(!strstr(train(TINY "--warmup 13 --dry-run").out, "note "), "the last step has --lr");
}

static const Test tests[] = {
    {"train/save-dtype", "--save-dtype rounds the exported weights and nothing else", test_save_dtype},
    {"train/tensorboard", "--tensorboard leaves an event file and changes no number", test_tensorboard},
    {"train/sample", "what a model says does not command the terminal", test_sample_on_screen},
    {"train/warmup", "a warm-up longer than the run is noted, one into the decay refused", test_warmup_note},
    {"train/profile", "--profile leaves a table, a picture and a receipt", test_profile},
    {"train/foreign-directory", "files that are not of a run, or that it starts from, are not overwritten",
     test_foreign_directory},
    {"train/whole-run", "a run from banner to receipt, with all its files, in plain lines", test_whole_run},
    {"train/finished", "a finished run is not trained again, unless --fresh; another run is not overwritten",
     test_finished},
    {"train/same-digest", "micro-batches, threads and looking change not one bit", test_same_digest},
    {"train/same-digest-moe", "nor do they with experts, grouped and latent attention", test_same_digest_moe},
    {"train/closed-pipe", "./train | head saves and ends; the resumed run is the uninterrupted one", test_closed_pipe},
    {"train/signals", "SIGINT and SIGTERM save; the resumed run is the uninterrupted one", test_signals},
    {"train/interrupted-fresh", "what to type after Ctrl-C", test_interrupted_fresh},
    {"train/predicted-memory", "run.json says what --dry-run says", test_predicted_memory},
    {"train/killed", "kill -9 at any instant; the resumed run is the uninterrupted one", test_killed},
    {"train/killed-last-save", "a kill between the state and the model of the last save", test_killed_at_the_end},
    {"train/diverged", "a loss that is not finite ends in one line, and is remembered", test_diverged},
    {"train/full-disk", "a full disk ends in one line, and the run goes on later", test_full_disk},
    {"train/bad-lines", "bad command lines end in one line and leave nothing", test_bad_lines},
    {"train/dry-run", "a dry run prints sizes and leaves nothing", test_dry_run},
    {"train/dry-run-large", "a hundred thousand layers are counted", test_dry_run_large},
    {"train/dry-run-json", "the same sizes for programs, as in run.json", test_dry_run_json},
    {"train/target-loss", "training stops at the target loss", test_target_loss},
    {"train/load", "a saved model is loaded with the same loss", test_load},
    {"train/load-stretched", "a loaded model learns longer rows with slower rotations", test_load_stretched},
    {"train/file-size-limit", "a file that may not grow ends in one line, and what was saved stays",
     test_file_size_limit},
    {"train/full-output", "output that cannot be written is an error, and the run is complete", test_full_output},
    {"train/finished-with-a-gap", "a finished run that lacks a file is not taken for whole", test_finished_with_a_gap},
    {"train/load-contradicted", "a flag that says another architecture than the checkpoint is refused or noted",
     test_load_contradicted},
    {"train/events-go-on", "a file for TensorBoard does not become stale", test_events_go_on},
    {"train/load-refused", "a flag or data that contradicts a loaded model is refused", test_load_refused},
    {"train/load-other-tokenizer", "another tokenizer than the loaded model's is noted", test_load_other_tokenizer},
    {"train/help-and-digest", "--help explains, --digest names every tensor", test_help_and_digest},
};
REGISTER_TESTS(tests)

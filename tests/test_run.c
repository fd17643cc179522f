// test_run.c: the run directory: names, refusals, resume, kill -9 at random instants, log, digest.
#include "tests/program.h"
#include "config/config.h"
#include "formats/tensorboard.h"
#include "run/events.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOTAL = 600 };
static const RunTensor table[] = {
    {"embed.weight", 2, {10, 30}, 0, 300}, {"norm.weight", 1, {7}, 304, 7}, {"x.weight", 3, {2, 3, 40}, 320, 240}};
typedef struct { real value[TOTAL], mean[TOTAL], square[TOTAL]; } Numbers;
static Numbers numbers;
static const RunTensors tensors = {table, 3, numbers.value, numbers.mean, numbers.square};

// A "training" whose numbers at a step can be told from the step.
static void set_numbers(size_t step) {
    for (size_t i = 0; i < TOTAL; i++) {
        numbers.value[i] = (real)((double)i + 1000 * (double)step);
        numbers.mean[i] = (real)((double)i - (double)step);
        numbers.square[i] = (real)((double)i * (double)step);
    }
}

static bool numbers_are(size_t step) {
    Numbers found = numbers;
    set_numbers(step);
    bool same = true;
    for (size_t r = 0; r < 3; r++)
        for (size_t i = table[r].offset; i < table[r].offset + table[r].size; i++)
            same = same && found.value[i] == numbers.value[i] && found.mean[i] == numbers.mean[i] &&
                   found.square[i] == numbers.square[i];
    return same;
}

static Config config;
static RunPlan plan(const char *name) {
    flags_defaults(&config_table, &config);
    return (RunPlan){&config_table, &config, test_path(name), "test", "./train --out x", 42, false, NULL, 0, NULL, 0,
                     NULL};
}

// After `step` steps, each logged by log_step.
static RunState state_at(size_t step) {
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < step; i++) hash = hash_bytes(hash, &(double){1. / 3}, sizeof(double));
    return (RunState){.step = step,
                      .tokens = 64 * step,
                      .seconds = 0.1 * (double)step,
                      .train_seconds = 0.05,
                      .train_loss = 1. / 3,
                      .val_loss = NAN,
                      .best_val_loss = 2,
                      .accuracy = NAN,
                      .loss_hash = hash};
}

static void log_step(Run *r, size_t step) {
    run_log(r, json_pack("{s:I, s:f}", "step", (json_int_t)step, "train_loss", 1. / 3));
}

static char *log_of(const Run *r) {
    char *path = run_path(r, "log.jsonl"), *text = read_whole_file(path, NULL);
    free(path);
    return text;
}

// ---- tests -------------------------------------------------------------------------------------
static void test_resume(void) {
    RunPlan p = plan("a/run");
    RunState s = state_at(0);
    Run *r = run_open(&p);
    CHECK(r->status == RUN_NEW && !run_resume(r, &tensors, &s), "nothing is there yet");
    run_write(r, "running");
    for (size_t step = 1; step <= 3; step++) log_step(r, step);
    set_numbers(3);
    s = state_at(3);
    run_save(r, &tensors, &s);
    log_step(r, 4);
    fprintf(r->log, "{\"step\":5,\"tra");  // torn by a kill
    run_close(r);

    r = run_open(&p);
    memset(&numbers, 0, sizeof numbers);
    RunState back = {0};
    CHECK(r->status == RUN_STARTED && run_resume(r, &tensors, &back), "a started run is resumed");
    CHECK(numbers_are(3) && back.step == 3 && back.tokens == 192 && back.seconds == s.seconds,
          "tensors and counters are back");
    CHECK(back.train_loss == 1. / 3 && isnan(back.val_loss) && back.loss_hash == s.loss_hash, "to the bit");
    log_step(r, 4);
    char *log = log_of(r);
    size_t lines = 0;
    for (char *c = log; *c; c++) lines += *c == '\n';
    CHECK(lines == 4 && strstr(log, "\"step\":4,\"train_loss\":0.3333333333333333}\n"), "%s", log);
    free(log);
    run_close(r);
}

static void resume(void *name) {
    RunPlan p = plan(name);
    RunState s = {0};
    run_resume(run_open(&p), &tensors, &s);
}

// One byte of a file becomes another one.
static void damage(const char *path, size_t at) {
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    text[at < bytes ? at : bytes - at % 7 - 1] ^= 1;
    write_whole_file(path, text, bytes);
    free(text);
}

// Three steps, saved; then one byte of one file changes.
static void refuse_damage(const char *file, size_t at, const char *word) {
    RunPlan p = plan("run");
    Run *r = run_open(&p);
    RunState s = state_at(0);
    run_resume(r, &tensors, &s);
    run_write(r, "running");
    for (size_t step = 1; step <= 3; step++) log_step(r, step);
    set_numbers(3);
    s = state_at(3);
    run_save(r, &tensors, &s);
    char *path = run_path(r, file);
    run_close(r);
    damage(path, at);
    CHECK(test_fails(1, word, resume, "run"), "%s: %s", file, test_message);
    free(path);
}
// A digit of a loss; a byte of the last tensor.
static void test_changed_log(void) { refuse_damage("log.jsonl", 28, "changed or cut"); }
static void test_changed_state(void) { refuse_damage("state.safetensors", SIZE_MAX, "was damaged"); }

static void test_status(void) {
    RunPlan p = plan("run");
    static const char *const status[] = {"running", "interrupted", "finished", "diverged"};
    static const RunStatus expected[] = {RUN_STARTED, RUN_STARTED, RUN_FINISHED, RUN_DIVERGED};
    for (int i = 0; i < 4; i++) {
        p.fresh = true;
        Run *r = run_open(&p);
        CHECK(r->status == RUN_NEW, "fresh forgets");
        json_object_set_new(r->json, "receipt", json_string("the receipt"));
        run_write(r, status[i]);
        run_close(r);
        p.fresh = false;
        r = run_open(&p);
        CHECK(r->status == expected[i], "%s", status[i]);
        const char *receipt = json_string_value(json_object_get(r->json, "receipt"));
        CHECK((receipt != NULL) == (i >= 2), "what ended keeps its record, what goes on writes a new one");
        run_close(r);
    }
}

static void open_run(void *p) { run_close(run_open(p)); }

// A refused run_open ends its process, and with it the lock; here each refusal gets its own directory.
static RunPlan started(const char *name) {
    RunPlan p = plan(name);
    Run *r = run_open(&p);
    run_write(r, "running");
    run_close(r);
    return p;
}

static void test_refusals(void) {
    RunPlan p = started("busy");
    Run *r = run_open(&p);
    CHECK(test_fails(1, "in use by another process", open_run, &p), "%s", test_message);
    run_close(r);
    p = started("lr");
    config.threads = 3;
    open_run(&p);  // not part of the identity
    config.lr = 0.5;
    CHECK(test_fails(1, "lr 0.003, not 0.5", open_run, &p), "%s", test_message);
    p = started("fresh");
    p.data_hash = 43;
    p.fresh = true;
    open_run(&p);
    p = started("data");
    p.data_hash = 43;
    CHECK(test_fails(1, "another data_hash", open_run, &p), "%s", test_message);
    p = started("damage");
    write_whole_file(test_path("damage/run.json"), "{\"status\": ", 11);
    CHECK(test_fails(1, "is damaged at line 1", open_run, &p), "%s", test_message);
    p = started("receipt");
    Run *ended = run_open(&p);
    run_write(ended, "finished");
    run_close(ended);
    CHECK(test_fails(1, "has no receipt", open_run, &p), "%s", test_message);
    p.out = test_path("damage/run.json");
    CHECK(test_fails(1, "directory", open_run, &p), "%s", test_message);
}

static void resume_run(void *r) {
    RunState s;
    run_resume(r, &tensors, &s);
}

static void test_damaged_state(void) {
    RunPlan p = plan("run");
    RunState s = state_at(1);
    Run *r = run_open(&p);
    const RunTensors fewer = {table, 2, numbers.value, numbers.mean, numbers.square};
    run_save(r, &fewer, &s);
    CHECK(test_fails(1, "lacks the tensor x.weight", resume_run, r), "%s", test_message);
    RunTensor reshaped[] = {table[0], table[1], table[2]};
    reshaped[0].shape[0] = 30, reshaped[0].shape[1] = 10;
    const RunTensors other = {reshaped, 3, numbers.value, numbers.mean, numbers.square};
    run_save(r, &other, &s);
    CHECK(test_fails(1, "another shape", resume_run, r), "%s", test_message);
    const char *path = test_path("run/state.safetensors");
    size_t bytes;
    char *text = read_whole_file(path, &bytes);
    write_whole_file(path, text, bytes / 2);
    CHECK(test_fails(1, "state.safetensors", resume_run, r), "%s", test_message);
    free(text);
    run_close(r);
}

static void train_until_killed(const RunPlan *p) {
    RunState s = state_at(0);
    Run *r = run_open(p);
    run_resume(r, &tensors, &s);
    for (size_t step = s.step + 1;; step++) {
        set_numbers(step);
        log_step(r, step);
        s = state_at(step);
        run_save(r, &tensors, &s);
    }
}

// On a machine that has other work nothing is saved in such a time: where several rounds in a row have come no further,
// the next ones take longer, and there are more of them.
static void test_kill(void) {
    RunPlan p = plan("run");
    size_t reached = 0;
    unsigned patience = 1, idle = 0;
    for (int round = 0; round < 40 || (reached <= 5 && round < 400); round++) {
        pid_t child = fork();
        if (child == 0) train_until_killed(&p);
        usleep((3000 + 1777 * (unsigned)round % 20000) * patience);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        Run *r = run_open(&p);
        RunState s = state_at(0);
        run_resume(r, &tensors, &s);
        CHECK(s.step >= reached && (s.step == 0 || numbers_are(s.step)), "round %d: step %zu after %zu", round, s.step,
              reached);
        char *log = log_of(r), *last = xprintf("{\"step\":%zu,", s.step), *next = xprintf("{\"step\":%zu,", s.step + 1);
        CHECK((s.step == 0 || strstr(log, last)) && !strstr(log, next), "round %d: the log ends at the state", round);
        idle = s.step > reached ? 0 : idle + 1;
        if (idle == 8 && patience < 32) patience *= 2, idle = 0;
        reached = s.step;
        free(log), free(last), free(next);
        run_close(r);
    }
    CHECK(reached > 5, "the test must have saved something: %zu", reached);
}

static void test_flags_recorded(void) {
    RunPlan p = plan("run");
    static const char *const set[][2] = {{"attn", "gqa+mla"}, {"lr", "0.1"}, {"bias", "1"}, {"data", "it's \"here\""}};
    for (int i = 0; i < 4; i++) flags_set(&config_table, &config, set[i][0], set[i][1]);
    Run *r = run_open(&p);
    run_write(r, "running");
    json_t *json = json_load_file(test_path("run/run.json"), 0, NULL), *flags = json_object_get(json, "flags");
    CHECK(json_object_size(flags) > 60 && json_integer_value(json_object_get(flags, "layers")) == 4,
          "every flag, defaults too");
    CHECK(json_real_value(json_object_get(flags, "lr")) == 0.1 && json_is_true(json_object_get(flags, "bias")),
          "numbers, booleans");
    CHECK(strcmp(json_string_value(json_object_get(flags, "attn")), "gqa+mla") == 0, "patterns");
    CHECK(strcmp(json_string_value(json_object_get(flags, "data")), "it's \"here\"") == 0, "texts");
    json_decref(json);
    run_close(r);
}

static void test_names(void) {
    CHECK(chdir(test_directory()) == 0, "runs/ is made in the working directory");
    RunPlan p = plan("");
    p.out = "";
    Run *a = run_open(&p);
    char *first = xprintf("%s", a->dir);
    run_close(a);
    config.threads = 7;
    a = run_open(&p);
    CHECK(strncmp(first, "runs/test-", 10) == 0 && strcmp(a->dir, first) == 0, "%s, %s", first, a->dir);
    run_close(a);
    config.seed = 2;
    a = run_open(&p);
    CHECK(strcmp(a->dir, first) != 0, "another seed is another run");
    run_close(a);
    free(first);
}

static void test_digest(void) {
    RunState s = state_at(3), t;
    s.loss_hash = 0xfedcba9876543210ull, t = s;
    set_numbers(3);
    uint64_t before = run_digest(&tensors, &s, NULL);
    numbers.value[305] = -numbers.value[305];
    CHECK(run_digest(&tensors, &s, NULL) != before, "a changed sign");
    numbers.value[305] = -numbers.value[305];
    numbers.value[303] += 1;  // a gap between tensors
    CHECK(run_digest(&tensors, &s, NULL) == before, "padding does not count");
    t.loss_hash++;
    CHECK(run_digest(&tensors, &t, NULL) != before, "losses count");
    t = s;
    t.seconds++;
    CHECK(run_digest(&tensors, &t, NULL) == before, "time does not count");
    json_t *each = json_object();
    CHECK(run_digest(&tensors, &s, each) == before && json_object_size(each) == 4, "looking changes nothing");
    const char *losses = json_string_value(json_object_get(each, "the logged losses"));
    CHECK(losses && !strcmp(losses, "fedcba9876543210") && json_object_get(each, "x.weight"), "%s", losses);
}

// Each in a text of its own, because room that an earlier number leaves would hide one that becomes longer.
static void test_numbers(void) {
    static const double some[] = {0.003, 1, -2.5, 1e-4, 9.554359905560886e-05, 2.6942958916356998e-05, 1e300, 5e-324};
    enum { SOME = sizeof some / sizeof some[0], ALL = 2000 };
    for (int i = 0; i < ALL; i++) {
        double x = i < SOME ? some[i] : ldexp(1 + i * 0x1p-40 * i, i % 90 - 60);
        json_t *one = json_pack("[f, i]", x, 7), *back;
        char *text = run_json_text(one);
        back = json_loads(text, 0, NULL);
        CHECK(json_real_value(json_array_get(back, 0)) == x && json_integer_value(json_array_get(back, 1)) == 7,
              "%.17g and 7 became %s", x, text);
        json_decref(one);
        json_decref(back);
        free(text);
    }
}

// ---- event files -------------------------------------------------------------------------------
// Bytes as TensorBoard 2.21 writes them (RecordWriter over Event).
static void test_event_records(void) {
    static const char known[] =
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        "2c00000000000000f4aecc45090000000065cdcd4110ac022a1e0a110a0a747261696e2f6c6f737315000020400a090a026c7215a69b44"
        "3b21ef3418";
    char *text, hex[2 * 200 + 1] = "";
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    tensorboard_begin(f, 1.5);
    tensorboard_scalars(f, 1e9, 300, (const Scalar[]){{"train/loss", 2.5}, {"lr", 0.003}}, 2);
    fclose(f);
    for (size_t i = 0; i < bytes && i < 200; i++) snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
    CHECK(!strcmp(hex, known), "%s", hex);
    CHECK(tensorboard_begun(text, bytes) == 1.5 && isnan(tensorboard_begun(text, 20)), "when it began");
    free(text);
}

// What the file is when a run goes on is what it would have been without a stop; anything else is made anew.
static void test_events(void) {
    static const char log[] = "{\"step\":0,\"seconds\":0.5,\"val_loss\":3.0}\n"
                              "{\"step\":1,\"seconds\":1.0,\"lr\":0.1}\n{\"step\":2,\"seconds\":1.5,\"tokens\":7}\n";
    const char *dir = test_directory(), *path = test_path(EVENTS_FILE);
    write_whole_file(test_path("log.jsonl"), "", 0);
    Events *e = events_open(dir, 0);
    for (const char *at = log; *at; at = strchr(at, '\n') + 1)
        events_add(e, json_loadb(at, strcspn(at, "\n"), 0, NULL));
    size_t bytes, again;
    char *whole = read_whole_file(path, &bytes);
    CHECK(bytes > 100, "a file of %zu bytes", bytes);
    for (int cut = 0; cut < 3; cut++) {
        write_whole_file(path, whole, cut == 0 ? bytes : bytes - 40);
        write_whole_file(test_path("log.jsonl"), log, cut == 2 ? strlen(log) / 3 : strlen(log));
        events_open(dir, 1.5);
        char *now = read_whole_file(path, &again);
        bool same = again == bytes && !memcmp(whole, now, bytes);
        CHECK(cut == 2 ? again < bytes : same, "%d: %zu bytes of %zu", cut, again, bytes);
    }
    events_add(NULL, NULL);
}

// Weights had a state before them; what a kill leaves before the first one has neither.
static void test_lost_state(void) {
    RunPlan p = plan("lost");
    RunState s = state_at(0);
    Run *r = run_open(&p);
    CHECK(!run_resume(r, &tensors, &s), "nothing is there yet");
    log_step(r, 1);
    run_close(r);
    CHECK(!run_resume(r = run_open(&p), &tensors, &s), "killed before anything was saved: it starts");
    for (size_t step = 1; step <= 3; step++) log_step(r, step);
    write_whole_file(run_path(r, "model.safetensors"), "weights", 7);
    run_close(r);
    p.fresh = true;
    shell("cp -r lost fresh");
    CHECK(test_fails(1, "that came to step 3, but its state.safetensors", resume, "lost"), "%s", test_message);
    p.out = test_path("fresh");
    CHECK(!run_resume(run_open(&p), &tensors, &s), "--fresh trains again");
}

static const Test tests[] = {
    {"run/event-records", "records are byte for byte those of TensorBoard", test_event_records},
    {"run/events", "an event file goes on, or is made anew from the log", test_events},
    {"run/changed-log", "a digit that changed in the log is noticed", test_changed_log},
    {"run/changed-state", "a byte that changed in the state is noticed", test_changed_state},
    {"run/resume", "tensors, counters and log come back to the bit", test_resume},
    {"run/lost-state", "a run that was saved does not begin again because its state is gone", test_lost_state},
    {"run/status", "finished and diverged runs are known as such; fresh forgets them", test_status},
    {"run/refusals", "other flags, other data, damage and a busy directory are refused", test_refusals},
    {"run/damaged-state", "a state that lacks something is refused with the reason", test_damaged_state},
    {"run/kill", "killed at any instant, a run resumes from a complete state with a matching log", test_kill},
    {"run/flags-recorded", "run.json records every flag with its type", test_flags_recorded},
    {"run/numbers", "every number in a JSON text reads back equal, however many digits and whatever exponent it has",
     test_numbers},
    {"run/names", "the directory's name depends on the flags that change numbers", test_names},
    {"run/digest", "the digest sees every value, name and loss, and nothing else", test_digest},
};
REGISTER_TESTS(tests)

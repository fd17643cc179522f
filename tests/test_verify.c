// test_verify.c: ./train --verify. A recorded run is trained again, and every way in which its record can differ
// from that is told: a loss, a tensor, a digest, other data, another commit.
#include "tests/program.h"
#include <glob.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define TINY "--layers 2 --width 32 --heads 2 --context 32 --batch 5 --steps 12 --warmup 3 --eval-every 4 " \
             "--log-every 1 --eval-tokens 256 --sample-tokens 0 "
#define MARKOV "--data markov --vocab 20 " TINY

static char *file_text(const char *path) { return read_whole_file(test_path(path), NULL); }

// Runs `./train --verify run` and what else is given, with a temporary directory that must be empty afterwards.
static Result verify(const char *more) {
    setenv("TMPDIR", test_path("tmp"), 1);
    make_directories(test_path("tmp"));
    Result r = train(xprintf("--verify run %s", more));
    CHECK(rmdir(test_path("tmp")) == 0, "nothing is left in the temporary directory");
    return r;
}

static void verified(const char *more) {
    Result r = verify(more);
    CHECK(r.status == 0 && strstr(r.out, "\nverified: digest ") && !*r.error, "%s: status %d: %s%s", more, r.status,
          r.out, r.error);
}

static void unchecked(const char *what) {
    Result r = verify("");
    CHECK(r.status == 0 && strstr(r.out, xprintf("\nnot checked: %s\n", what)), "%s: status %d: %s", what, r.status,
          r.out);
}

static void differs(const char *first, const char *cause) {
    Result r = verify("");
    const char *found = strstr(r.out, "differs  ");
    CHECK(r.status == 1 && found && strncmp(found + 9, first, strlen(first)) == 0, "%s: status %d: %s", first, r.status,
          found ? found : r.out);
    CHECK(strstr(r.out, cause) && strstr(r.out, "\nnot verified: run, "), "%s: %s", cause, r.out);
}

static void refused(int status, const char *more, const char *says) {
    Result r = verify(more);
    CHECK(r.status == status && strstr(r.error, says) && count_lines(r.error) == 1, "%s: status %d: %s", says, r.status,
          r.error);
}

// ---- damaging a record -------------------------------------------------------------------------
static void edit_json(const char *object, const char *key, json_t *value) {
    json_t *root = json_load_file(test_path("run/run.json"), 0, NULL);
    json_t *in = *object ? json_object_get(root, object) : root;
    if (value) json_object_set_new(in, key, value);
    else json_object_del(in, key);
    json_dump_file(root, test_path("run/run.json"), JSON_REAL_PRECISION(17));
}

// Another last digit, five away, so that it is another double.
static void edit_log(const char *step, const char *key) {
    char *text = file_text("run/log.jsonl"), *end = strstr(strstr(text, step), key) + strlen(key);
    end += strcspn(end, ",}") - 1;
    *end = (char)('0' + (*end - '0' + 5) % 10);
    write_whole_file(test_path("run/log.jsonl"), text, strlen(text));
}

static void flip_byte(const char *file, size_t from_end) {
    size_t bytes;
    const char *path = test_path(xprintf("run/%s", file));
    char *text = read_whole_file(path, &bytes);
    text[bytes - from_end] ^= 1;
    write_whole_file(path, text, bytes);
}

// ---- tests -------------------------------------------------------------------------------------
static void test_verified(void) {
    CHECK(train(MARKOV "--attn gqa+mla --experts 4 --out run").status == 0, "a run");
    Result before = shell("ls -l --full-time run; cat run/*.json* | cksum");
    verified("");
    verified("--threads 3 --micro-batch 2");
    Result after = shell("ls -l --full-time run; cat run/*.json* | cksum");
    CHECK(strcmp(before.out, after.out) == 0, "the recorded run is as it was: %s%s", before.out, after.out);
    shell("rm run/*.safetensors");
    verified("");
    unchecked("state.safetensors, which is not there"), unchecked("model.safetensors, which is not there");
}

static void test_loaded(void) {
    CHECK(train(MARKOV "--out first").status == 0, "weights");
    CHECK(train(MARKOV "--seed 2 --load first --out run").status == 0, "a run that begins with them");
    verified("");
    shell("mv run third");
    CHECK(train(MARKOV "--seed 3 --fresh --out first").status == 0, "other weights");
    shell("mv third run");
    differs("step 0: the log has val_loss ", "other weights in first");
}

static void test_interrupted(void) {
    pid_t child = train_start(MARKOV "--steps 100000 --save-every 7 --out run");
    for (int i = 0; i < 2000; i++, usleep(2000))
        if (file_exists(test_path("run/log.jsonl")) && strstr(file_text("run/log.jsonl"), "\"step\":40,")) break;
    kill(child, SIGKILL);
    shell_finish(child);
    verified("--simd auto");
    unchecked("model.safetensors, which before the end may be of another step");
    edit_log("\"step\":12,", "\"train_loss\":");
    differs("step 12: the log has train_loss ", "a file was changed after the run, or memory failed");
    shell("rm run/state.safetensors");
    refused(1, "", "is not finished and has saved nothing yet");
}

static void test_losses(void) {
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    edit_log("\"step\":8,", "\"val_loss\":");
    differs("step 8: the log has val_loss ", "the rerun has the recorded digest, so the files named here were changed");
    edit_log("\"step\":5,", "\"train_loss\":");
    differs("step 5: the log has train_loss ", "files named here were changed");
    shell("sed -i 4d run/log.jsonl");
    differs("step 3: the log has step 4, the rerun 3", "files named here were changed");
    shell("rm run/log.jsonl");
    differs("step 0: the log has step nothing, the rerun 0", "files named here were changed");
}

static void test_tensors(void) {
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    flip_byte("state.safetensors", 3);
    differs("state.safetensors: adamw.square.", "files named here were changed");
    flip_byte("state.safetensors", 3);
    flip_byte("model.safetensors", 3);
    differs("model.safetensors: model.norm.weight has the hash ", "files named here were changed");
    flip_byte("model.safetensors", 3);
    verified("");
}

static void test_digest(void) {
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    edit_json("", "digest", json_string("0123456789abcdef"));
    differs("run.json: the digest is 0123456789abcdef, in the rerun ", "commit, compiler and machine are as recorded");
    edit_json("", "commit", json_string("fedcba987654"));
    differs("run.json: the digest is 0123456789abcdef", "commit   recorded with fedcba987654, now ");
    edit_json("machine", "compiler", json_string("GCC 1.27"));
    differs("run.json: the digest is 0123456789abcdef", "compiler recorded with GCC 1.27, now ");
    edit_json("hashes", "layers.1.ffn_norm.weight", json_string("0123456789abcdef"));
    differs("run.json: layers.1.ffn_norm.weight has the hash 0123456789abcdef, in the rerun ", "cause    likely");
}

// A file that run.json promises, one after the other; and a record that promises less.
static void test_absent(void) {
    static const char *const files[] = {"config.json", "tokenizer.receipts.json"};
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    for (size_t i = 0; i < 2; i++) {
        shell(xprintf("mv run/%s old", files[i]));
        differs(xprintf("%s: it is not there, and run.json has a hash of it", files[i]), "files named here were");
        shell(xprintf("mv old run/%s", files[i]));
    }
    shell("cp run/log.jsonl old; sed -i 's/\"tokens\":/\"token\":/' run/log.jsonl");
    differs("log.jsonl: it has another hash than when the run ended", "files named here were changed");
    shell("mv old run/log.jsonl");
    edit_json("", "hashes", NULL), edit_json("", "files", NULL);
    unchecked("the hashes of tensors in run.json, which has none");
    shell("mv run/config.json old");
    unchecked("config.json, which is not there");
    shell("mv old run/config.json");
    edit_json("", "commit", json_string("fedcba987654"));
    unchecked("config.json, of which run.json has no hash, by another commit");
}

// Before its first step, between steps, within one that takes minutes; what is in the temporary directory goes with it.
static void stopped(const char *flag, json_int_t value, const char *begun, bool again) {
    glob_t found = {0};
    setenv("TMPDIR", test_path("tmp"), 1);
    make_directories(test_path("tmp"));
    CHECK(train(MARKOV "--fresh --out run").status == 0, "a run");
    edit_json("flags", flag, json_integer(value));
    edit_json("final", "step", json_integer(100000));
    pid_t child = train_start("--verify run");
    for (int i = 0; i < 10000 && glob(test_path(begun), 0, NULL, &found) != 0; i++) usleep(5000);
    CHECK(found.gl_pathc == 1, "%s: it never was there", begun);
    usleep(200000);
    kill(child, SIGTERM);
    for (usleep(200000); again && !shell_ended(child); usleep(200000)) kill(child, SIGTERM);    // two may become one
    Result r = shell_finish(child);
    CHECK(r.status != 0 && !strstr(r.out, "verified"), "--%s: status %d: %s", flag, r.status, r.out);
    CHECK(rmdir(test_path("tmp")) == 0, "--%s: something is left in the temporary directory", flag);
}

static void test_stopped(void) {
    stopped("eval_tokens", 10000000, "tmp/*/run.json", false);
    stopped("steps", 100000, "tmp/*/state.safetensors", false);
    stopped("batch", 1000000, "tmp/*/state.safetensors", true);
}

static void test_final(void) {
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    edit_json("final", "seconds", json_real(1e-3));
    edit_json("final", "peak_memory_bytes", json_real(1));
    verified("");
    edit_json("", "receipt", json_string("receipt: digest 0123456789abcdef, loss 0.0001, floor unknown, tokens 1"));
    differs("run.json: its receipt: digest 0123456789abcdef, loss 0.0001, ", "files named here were changed");
    edit_json("final", "val_loss", json_real(0.001));
    differs("run.json: the final val_loss is 0.001, in the rerun ", "files named here were changed");
}

static void test_other_run(void) {   // recorded with one rate, trained with another
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    edit_json("flags", "lr", json_real(0.004));
    differs("step 2: the log has train_loss ", "differs  run.json: the digest is ");
}

static void test_data(void) {
    const char *text = "The same words again and again; the same words again. ";
    char *all = xprintf("%s", "");
    for (int i = 0; i < 40; i++) all = xprintf("%s%s", all, text);
    write_whole_file(test_path("text"), all, strlen(all));
    CHECK(train("--data text " TINY "--out run").status == 0, "a run");
    verified("");
    all[4] = 'w';
    write_whole_file(test_path("text"), all, strlen(all));
    refused(1, "", "the data text has changed since: its hash is ");
    all[4] = 'X';   // a character more
    write_whole_file(test_path("text"), all, strlen(all));
    refused(1, "", "--verify run: it cannot be trained again: --vocab 17 is too small for --data text, which has 18");
    unlink(test_path("text"));
    refused(1, "", "--verify run: it cannot be trained again: --data text: neither a file");
}

static void test_refused(void) {
    refused(1, "", "No such file or directory; the directory of a run was expected");
    make_directories(test_path("run"));
    refused(1, "", "there is no run.json");
    CHECK(train(MARKOV "--out run").status == 0, "a run");
    refused(2, "--seed 2", "--seed 2 contradicts the run in run, which has 1; leave the flag out");
    edit_json("", "precision", json_string("float16"));
    refused(1, "", "the run computed in float16");
    edit_json("", "precision", json_string("float32"));
    edit_json("flags", "nonesuch", json_string("1"));
    refused(1, "", "has flags that this program does not know; it was recorded by commit ");
    write_whole_file(test_path("run/run.json"), "{", 1);
    refused(1, "", "run.json is damaged at line 1");
}

static const Test tests[] = {
    {"verify/verified", "a run, with its weights or without, is verified, by other threads too, and not touched",
     test_verified},
    {"verify/loaded", "so is one that began with other weights, unless those have changed", test_loaded},
    {"verify/interrupted", "a killed run is verified up to its last saved step", test_interrupted},
    {"verify/losses", "a last digit, a missing line, a missing log: the first step is named", test_losses},
    {"verify/tensors", "one bit of a tensor: its name, in the state or among the weights", test_tensors},
    {"verify/absent", "a file that is not there is a difference, or is said to be not checked", test_absent},
    {"verify/stopped", "a signal ends it in every phase, and leaves nothing in the temporary directory", test_stopped},
    {"verify/digest", "another digest, with what has changed since: commit, compiler", test_digest},
    {"verify/final", "what the end of a run says of it, but for times and memory", test_final},
    {"verify/other-run", "a run with other flags than it records differs from the first step on", test_other_run},
    {"verify/data", "data that changed or went away", test_data},
    {"verify/refused", "no run, a damaged one, an unknown flag, a flag that says otherwise: one line", test_refused},
};
REGISTER_TESTS(tests)

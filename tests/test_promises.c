// test_promises.c: what a run directory promises (docs/RUNS.md), under misuse: each test breaks what a sentence there
// says cannot be broken.
#include "tests/program.h"
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TINY "--data markov --vocab 20 --layers 1 --width 16 --heads 2 --context 16 --batch 4 --warmup 3 " \
             "--eval-every 10 --log-every 5 --eval-tokens 64 --threads 1 "
#define QUIET TINY "--sample-tokens 0 "

static char *file_text(const char *path) { return read_whole_file(test_path(path), NULL); }

static void put(const char *path, const char *text) {
    FILE *f = fopen(test_path(path), "wb");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0, "cannot write %s", path);
}

static const char *text_of(const char *dir, const char *key) {
    json_t *root = json_load_file(test_path(xprintf("%s/run.json", dir)), 0, NULL);
    const char *text = json_string_value(json_object_get(root, key));
    return text ? text : "";
}

static const char *digest_of(const char *arguments, const char *dir) {
    Result r = train(xprintf("%s --out %s", arguments, dir));
    CHECK(r.status == 0 && !*r.error, "%s: status %d, %s", arguments, r.status, r.error);
    return text_of(dir, "digest");
}

static void refused(const Result r, int status, const char *says) {
    CHECK(r.status == status && strstr(r.error, says) && count_lines(r.error) == 1, "'%s': status %d: %s", says,
          r.status, r.error);
}

static Result generate(const char *arguments) {
    char *binary = xprintf("%.*sgenerate", (int)(strlen(train_binary()) - strlen("train")), train_binary());
    return shell(xprintf("exec '%s' %s", binary, arguments));
}

// Until a line with this word is in a file; a run is then in the middle.
static void wait_for(const char *path, const char *word) {
    for (int i = 0; i < 4000; i++, usleep(5000)) {
        bool there = file_exists(test_path(path));
        char *text = there ? file_text(path) : NULL;
        bool found = text && strstr(text, word);
        free(text);
        if (found) return;
    }
    CHECK(false, "%s never said %s", path, word);
}

static void interrupt(const char *arguments, const char *dir, const char *word) {
    pid_t child = train_start(xprintf("%s --out %s", arguments, dir));
    wait_for(xprintf("%s/log.jsonl", dir), word);
    kill(child, SIGTERM);
    CHECK(shell_finish(child).status == 128 + SIGTERM, "%s was interrupted", dir);
}

static void flip(const char *path, size_t from_end) {
    size_t bytes;
    char *text = read_whole_file(test_path(path), &bytes);
    text[bytes - from_end] ^= 1;
    write_whole_file(test_path(path), text, bytes);
    free(text);
}

static void replace_in(const char *path, const char *old, const char *with) {
    char *text = file_text(path), *at = strstr(text, old);
    CHECK(at != NULL, "%s has no %s", path, old);
    if (at) put(path, xprintf("%.*s%s%s", (int)(at - text), text, with, at + strlen(old)));
    free(text);
}

// ---- whose it is ---------------------------------------------------------------------------------
static void test_foreign(void) {
    static const char *const names[] = {"log.jsonl", "state.safetensors", "notes.txt", "run.json"};
    for (size_t i = 0; i < 4; i++) {
        const char *path = xprintf("d%zu/%s", i, names[i]);
        make_directories(test_path(xprintf("d%zu", i)));
        put(path, "{\"mine\":1}");
        refused(train(xprintf(QUIET "--steps 2 --out d%zu", i)), 1, path);
        refused(train(xprintf(QUIET "--steps 2 --fresh --out d%zu", i)), 1, path);
        CHECK(strcmp(file_text(path), "{\"mine\":1}") == 0, "%s is as it was", path);
    }
    make_directories(test_path("empty"));
    put("empty/.hidden", "");
    digest_of(QUIET "--steps 2", "empty");
}

static void test_links(void) {
    static const char *const names[] = {"state.safetensors.tmp", "run.json.tmp", "model.safetensors", "log.jsonl"};
    digest_of(QUIET "--steps 10", "run");
    for (size_t i = 0; i < 4; i++) {
        const char *link = test_path(xprintf("run/%s", names[i]));
        put("keep", "keep");
        unlink(link);
        CHECK(symlink("../keep", link) == 0, "a link");
        if (i < 3) digest_of(QUIET "--steps 10 --fresh", "run");
        else replace_in("run/run.json", "finished", "running");
        if (i == 3) unlink(test_path("run/state.safetensors")), put("keep", "");
        if (i == 3) refused(train(QUIET "--steps 10 --out run"), 1, "log.jsonl is a link");
        CHECK(strcmp(file_text("keep"), i < 3 ? "keep" : "") == 0, "%s was followed", names[i]);
    }
}

// A pipe would be waited for, a device read without end; what they are is said, by whoever meets them.
static void test_no_files(void) {
    static const char *const names[] = {"run.json", "log.jsonl", "state.safetensors", "model.safetensors",
                                        "config.json", "tokenizer.receipts.json"};
    static const char *const kinds[][2] = {{"mkfifo", "is a pipe"}, {"mkdir", "is a directory"},
                                           {"ln -s /dev/zero", "is a device"}};
    digest_of(QUIET "--steps 10", "whole");
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; k < 3; k++) {
            const char *says = xprintf("%s %s", names[i], kinds[k][1]);
            shell(xprintf("rm -rf run; cp -r whole run; rm run/%s; %s run/%s", names[i], kinds[k][0], names[i]));
            refused(train(QUIET "--steps 10 --out run"), 1, says);
            if (i != 1 && i != 2) refused(generate("--run run --tokens 5"), 1, says);
            if (i != 1 && i != 2) refused(train(QUIET "--steps 10 --load run --out other"), 1, says);
            refused(train("--verify run"), 1, says);
        }
    for (size_t k = 0; k < 3; k++) {        // where a run that goes on would write
        shell(xprintf("rm -rf run; cp -r whole run; cd run; sed -i s/finished/running/ run.json; rm config.json; "
                      "%s config.json; cd ..; rm -rf new; mkdir new; %s new/run.json.tmp", kinds[k][0], kinds[k][0]));
        refused(train(QUIET "--steps 10 --out run"), 1, "cannot write run/config.json: ");
        if (k == 1) refused(train(QUIET "--steps 10 --out new"), 1, "run.json.tmp: a directory stands there");
        else digest_of(QUIET "--steps 10", "new");
    }
}

// The first goes on in the directory that it has locked, under whatever name; its name is somebody else's by then.
static void test_moved(void) {
    const char *first = digest_of(QUIET "--steps 400", "one"), *second = digest_of(QUIET "--seed 2 --steps 20", "two");
    pid_t child = train_start(QUIET "--steps 400 --out run");
    wait_for("run/log.jsonl", "\"step\":10,");
    kill(child, SIGSTOP);
    CHECK(rename(test_path("run"), test_path("moved")) == 0, "moved");
    CHECK(strcmp(second, digest_of(QUIET "--seed 2 --steps 20", "run")) == 0, "another run took the name");
    refused(train(QUIET "--steps 400 --out moved"), 1, "in use by another process");
    kill(child, SIGCONT);
    Result r = shell_finish(child);
    CHECK(r.status == 0 && strstr(r.error, "is not run any more: it was moved"), "the moved run: %s", r.error);
    CHECK(strcmp(first, text_of("moved", "digest")) == 0, "as one that was left alone");
    CHECK(strcmp(first, digest_of(QUIET "--steps 400", "moved")) == 0, "and is whole");
    CHECK(strcmp(second, digest_of(QUIET "--seed 2 --steps 20", "run")) == 0, "the other one too");
    child = train_start(QUIET "--steps 100000 --out long");
    wait_for("long/log.jsonl", "\"step\":10,");
    CHECK(rename(test_path("long"), test_path("longer")) == 0, "moved");
    kill(child, SIGTERM);
    r = shell_finish(child);
    CHECK(r.status == 128 + SIGTERM && strstr(r.error, "with --out and its new name"), "%d: %s", r.status, r.error);
    interrupt(QUIET "--steps 100000", "longer", "\"step\":10,");
}

static void test_descriptors(void) {
    const char *digest = digest_of(QUIET "--steps 60", "whole");
    static const char *const closed[] = {"<&- >&-", "<&- >&- 2>&-", "2>&-"};
    for (size_t i = 0; i < 3; i++) {
        shell(xprintf("exec '%s' " QUIET "--steps 60 --out d%zu %s", train_binary(), i, closed[i]));
        CHECK(strcmp(digest, text_of(xprintf("d%zu", i), "digest")) == 0, "%s", closed[i]);
        CHECK(strncmp(file_text(xprintf("d%zu/log.jsonl", i)), "{\"step\":0,", 10) == 0, "%s: the log", closed[i]);
        CHECK(strcmp(digest, digest_of(QUIET "--steps 60", xprintf("d%zu", i))) == 0, "%s: it is whole", closed[i]);
    }
}

// ---- what it goes on from ------------------------------------------------------------------------
// A record says nothing of flags that came later: it is of a run without them.
static void test_older_records(void) {
    digest_of(QUIET "--steps 4", "run");
    replace_in("run/run.json", "\"rope_scaling\"", "\"rope_sealing\"");
    refused(train(QUIET "--steps 4 --rope-scaling linear --out run"), 1, "had no --rope-scaling");
    Result again = train(QUIET "--steps 4 --out run");
    CHECK(again.status == 0, "%s", again.error);
    interrupt(QUIET "--steps 100000", "old", "\"step\":10,");
    char *text = file_text("old/run.json"), *commit = strstr(text, "\"commit\": \"") + strlen("\"commit\": \"");
    commit[0] = commit[0] == 'x' ? 'y' : 'x';
    put("old/run.json", text);
    pid_t child = train_start(QUIET "--steps 100000 --out old");
    wait_for("old/run.json", "\"begun_by\": \"");
    kill(child, SIGTERM);
    CHECK(strstr(shell_finish(child).error, "was begun by another version"), "and no note");
}

// Somebody else's run.json is not ours to replace, and what the run before left is not the new one's.
static void test_fresh(void) {
    shell("mkdir other; echo precious > other/model.safetensors; echo '{\"flags\": {\"lr\": 1}}' > other/run.json");
    refused(train(QUIET "--steps 2 --fresh --out other"), 1, "is not that of a run");
    shell("echo '{} {}' > other/run.json");
    refused(train(QUIET "--steps 2 --fresh --out other"), 1, "choose another --out");
    shell("touch other/state.safetensors");
#define OTHERS "{\"status\": \"running\", \"commit\": \"x\", \"precision\": \"float32\", \"flags\": {\"steps\": 5}"
#define HASH ", \"data_hash\": \"0123456789abcdefg\"}"
    static const char *const theirs[] = {"", "{} {}", "[1]", OTHERS "}", OTHERS HASH};
    for (size_t i = 0; i < 5; i++) {
        put("other/run.json", theirs[i]);
        Result r = train(QUIET "--steps 2 --fresh --out other");
        refused(r, 1, i < 3 ? "other/run.json is damaged at line 1" : "other/run.json is not that of a run");
        CHECK(strstr(r.error, "choose another --out") && !strstr(r.error, "--fresh"), "%s", r.error);
        CHECK(strcmp(file_text("other/run.json"), theirs[i]) == 0, "%s was replaced", theirs[i]);
    }
    CHECK(strcmp(file_text("other/model.safetensors"), "precious\n") == 0, "it is overwritten");
    digest_of(TINY "--steps 2 --sample-tokens 5 --experts 2 --top-k 1 --norm-topk 0", "run");
    CHECK(file_exists(test_path("run/sample.txt")) && file_exists(test_path("run/experts.png")), "the first run's");
    digest_of(QUIET "--steps 2 --fresh", "run");
    CHECK(!file_exists(test_path("run/sample.txt")) && !file_exists(test_path("run/experts.png")), "they stayed");
}

static void test_other_state(void) {
    interrupt(QUIET "--steps 100000", "one", "\"step\":10,");
    interrupt(QUIET "--steps 100000 --seed 2", "two", "\"step\":10,");
    shell("cp one/state.safetensors one/log.jsonl two");
    refused(train(QUIET "--steps 100000 --seed 2 --out two"), 1, "the state of a run with other flags or other data");
    unlink(test_path("one/run.json"));
    refused(train(QUIET "--steps 100000 --seed 3 --out one"), 1, "no run.json");
}

static void test_loaded(void) {
    digest_of(QUIET "--steps 10", "first");
    const char *digest = digest_of(QUIET "--steps 10 --load first", "run");
    Result r = train(QUIET "--steps 10 --load first --out run");
    CHECK(r.status == 0 && strstr(r.out, digest), "the same weights, the same run: %s%s", r.out, r.error);
    digest_of(QUIET "--steps 10 --seed 2 --fresh", "first");
    r = train(QUIET "--steps 10 --load first --out run");
    CHECK(!strstr(r.out, "receipt"), "no receipt of other weights: %s", r.out);
    refused(r, 1, "started from other weights in first");
    CHECK(strcmp(digest, digest_of(QUIET "--steps 10 --load first --fresh", "run")) != 0, "another run");
    replace_in("run/run.json", "\"load_hash\"", "\"without\"");
    refused(train(QUIET "--steps 10 --load first --out run"), 1, "does not say which weights it found");
    flip("first/model.safetensors", 100);
    refused(train(QUIET "--steps 10 --load first --out other"), 1, "is not as the run saved it");
}

#define CONSTANT QUIET "--schedule constant "
static void test_longer(void) {
    const char *whole = digest_of(CONSTANT "--steps 90", "whole");
    digest_of(CONSTANT "--steps 60", "run");
    CHECK(strcmp(whole, digest_of(CONSTANT "--steps 90", "run")) == 0, "60 steps and 30 more are 90");
    CHECK(count_lines(file_text("run/log.jsonl")) == count_lines(file_text("whole/log.jsonl")), "with the same log");
    Result r = train("--verify run");
    CHECK(r.status == 0, "and are verified: %s%s", r.out, r.error);
    refused(train(CONSTANT "--steps 60 --out run"), 1, "holds a run with --steps 90, not 60");
    digest_of(QUIET "--steps 60", "cosine");
    refused(train(QUIET "--steps 90 --out cosine"), 1, "the learning rate of step 5 depends on --steps");
    CHECK(strstr(text_of("cosine", "receipt"), "receipt: "), "a refusal leaves the shorter run as it was");
    digest_of(CONSTANT "--steps 55", "odd");
    refused(train(CONSTANT "--steps 90 --out odd"), 1, "a longer run with --eval-every 10 does not have");
    digest_of(CONSTANT "--steps 60 --eval-every 0", "derived");
    refused(train(CONSTANT "--steps 90 --eval-every 0 --out derived"), 1, "with --eval-every 6 it may go on to 90");
}

// What one process has decided, a kill before the first save does not take back.
static void test_longer_killed(void) {
    const char *whole = digest_of(CONSTANT "--steps 90", "whole");
    digest_of(CONSTANT "--steps 60", "run");
    replace_in("run/run.json", "\"steps\": 60", "\"steps\": 90");
    replace_in("run/run.json", "\"finished\"", "\"running\"");
    CHECK(strcmp(whole, digest_of(CONSTANT "--steps 90", "run")) == 0, "a state of 60 steps, a record of 90");
    interrupt(QUIET "--schedule wsd --decay 0.1 --steps 100000", "wsd", "\"step\":10,");
    interrupt(QUIET "--schedule wsd --decay 0.1 --steps 110000", "wsd", "\"step\":30,");
    interrupt(QUIET "--steps 100000", "cosine", "\"step\":10,");
    refused(train(QUIET "--steps 110000 --out cosine"), 1, "depends on --steps");
}

// ---- what its receipt says -----------------------------------------------------------------------
static void test_receipt(void) {
    static const char *const files[] = {"model.safetensors", "state.safetensors", "log.jsonl", "config.json",
                                        "tokenizer.receipts.json"};
    const char *digest = digest_of(QUIET "--steps 20", "run");
    for (size_t i = 0; i < 5; i++) {
        const char *path = xprintf("run/%s", files[i]);
        shell(xprintf("cp %s old", path));
        for (int emptied = 0; emptied < 2; emptied++) {
            if (emptied) put(path, "");
            else flip(path, 40);
            Result r = train(QUIET "--steps 20 --out run");
            CHECK(!strstr(r.out, "receipt: "), "%s: %s", path, r.out);
            refused(r, 1, files[i]);
            shell(xprintf("cp old %s", path));
        }
    }
    static const char *const words[][2] = {{"\"val_loss\": ", "\"val_loss\": 1"}, {", loss ", ", loss 1"},
                                           {"\"digest\": \"", "\"digest\": \"0"}, {"tokens 1280", "tokens 1290"},
                                           {"\"accuracy\": null", "\"accuracy\": 1.0"}};
    for (size_t i = 0; i < 5; i++) {
        shell("cp run/run.json old");
        replace_in("run/run.json", words[i][0], words[i][1]);
        refused(train(QUIET "--steps 20 --out run"), 1, "run.json");
        shell("cp old run/run.json");
    }
    CHECK(strcmp(digest, digest_of(QUIET "--steps 20", "run")) == 0, "whole again");
}

// What is advised where a file was cut helps: a state cannot be downloaded, and what is gone cannot be used unverified.
static void test_cut(void) {
    interrupt(QUIET "--steps 100000", "run", "\"step\":10,");
    static const char *const files[] = {"run/state.safetensors", "run/model.safetensors"};
    for (size_t i = 0; i < 2; i++) {
        shell(xprintf("cp %s old; head -c 100 old > %s", files[i], files[i]));
        Result r = i ? generate("--run run --tokens 5") : train(QUIET "--steps 100000 --out run");
        refused(r, 1, xprintf("%s is not a sound safetensors file: ", files[i]));
        bool helps = strstr(r.error, "--fresh") && !strstr(r.error, "download") && !strstr(r.error, "unverified");
        CHECK(helps, "%s", r.error);
        shell(xprintf("cp old %s", files[i]));
    }
    unlink(test_path("run/model.safetensors"));
    refused(generate("--run run --tokens 5"), 1, "of which its run.json has hashes; put it back; ");
    put("run/state.safetensors", "");
    digest_of(QUIET "--steps 20 --fresh", "run");
}

static void test_verified_files(void) {
    digest_of(QUIET "--steps 20", "run");
    Result r = train("--verify run --threads 2");
    CHECK(r.status == 0, "%s%s", r.out, r.error);
    static const char *const files[] = {"config.json", "tokenizer.receipts.json"};
    for (size_t i = 0; i < 2; i++) {
        shell(xprintf("cp run/%s old", files[i]));
        flip(xprintf("run/%s", files[i]), 20);
        r = train("--verify run");
        CHECK(r.status == 1 && strstr(r.out, xprintf("differs  %s: ", files[i])), "%d: %s", r.status, r.out);
        shell(xprintf("cp old run/%s", files[i]));
    }
}

static void test_weights(void) {
    digest_of(QUIET "--steps 10", "run");
    digest_of(QUIET "--steps 10 --seed 2", "other");
    Result whole = generate("--run run --tokens 5");
    CHECK(whole.status == 0 && !strstr(whole.error, "not checked"), "%s", whole.error);
    flip("run/model.safetensors", 3);
    refused(generate("--run run --tokens 5"), 1, "the tensor model.norm.weight is not as the run saved it");
    CHECK(generate("--run run --tokens 5 --unverified").status == 0, "on purpose");
    shell("cp other/model.safetensors run");
    refused(generate("--run run --tokens 5"), 1, "the tensor ");
    replace_in("run/run.json", "\"files\"", "\"without\"");      // as one that was recorded before there were any
    Result other = generate("--run run --tokens 5");
    CHECK(other.status == 1 && strstr(other.error, " is not as the run left it"), "%d: %s", other.status, other.error);
    CHECK(generate("--run run --tokens 5 --unverified").status == 0, "on purpose");
    replace_in("other/run.json", "\"files\"", "\"without\"");
    whole = generate("--run other --tokens 5");
    CHECK(whole.status == 0 && strstr(whole.error, "not checked: the files of other, "), "%s", whole.error);
    shell("mv other/tokenizer.receipts.json other/tokenizer.json");     // its name then
    whole = train(QUIET "--steps 10 --seed 2 --out other");
    CHECK(whole.status == 0 && strstr(whole.error, "not checked: the files of other, "), "%s", whole.error);
    interrupt(QUIET "--steps 100000", "cut", "\"step\":10,");
    CHECK(generate("--run cut --tokens 5").status == 0, "an interrupted run");
    flip("cut/model.safetensors", 3);
    refused(generate("--run cut --tokens 5"), 1, "is not as the run saved it");
}

static void test_diverged(void) {
    Result r = train(QUIET "--steps 6 --norm-eps 0 --init-scale 0 --out run");
    refused(r, 1, "nothing had been saved in run");
    r = train(QUIET "--steps 60 --lr 1000 --init-scale 1000 --clip 0 --out late");
    refused(r, 1, "the last saved state is intact in late");
}

// ---- how it is stopped ---------------------------------------------------------------------------
static void test_stopped_sample(void) {
    pid_t child = train_start(TINY "--steps 10 --sample-tokens 1000000 --out run");
    wait_for("run/log.jsonl", "\"step\":10,");
    kill(child, SIGTERM);
    Result r = shell_finish(child);
    CHECK(r.status == 128 + SIGTERM && strstr(r.out, "interrupted at step "), "%d: %s", r.status, r.out);
    CHECK(strcmp(text_of("run", "status"), "interrupted") == 0, "%s", text_of("run", "status"));
    CHECK(strcmp(digest_of(QUIET "--steps 10", "whole"), digest_of(QUIET "--steps 10", "run")) == 0, "it goes on");
}

// Before the first step there is nothing to wait for, while a program reads or counts there is not either.
static void test_early_signal(void) {
    static const int signals[] = {SIGTERM, SIGINT};
    digest_of(QUIET "--steps 2", "model");
    shell("yes 5 | head -n 300000 > long");
    const char *const commands[] = {"train' " QUIET "--eval-tokens 10000000 --out run",
                                    "serve' --requests 100000000", "generate' --run model --prompt-file long"};
    for (int i = 0; i < 6; i++) {
        shell("rm -rf run");
        const char *folder = xprintf("%.*s", (int)(strlen(train_binary()) - strlen("train")), train_binary());
        pid_t child = shell_start(xprintf("exec '%s%s", folder, commands[i / 2]));
        if (i < 2) wait_for("run/run.json", "\"running\"");
        usleep(500000);
        double start = seconds_now();
        kill(child, signals[i % 2]);
        Result r = shell_finish(child);
        CHECK(r.status == 128 + signals[i % 2], "%s: %d: %s", commands[i / 2], r.status, r.error);
        CHECK(seconds_now() - start < 10, "%s: it took %g s", commands[i / 2], seconds_now() - start);
        CHECK(i > 1 || strcmp(text_of("run", "status"), "interrupted") == 0, "it is %s", text_of("run", "status"));
        CHECK(!file_exists(test_path("run/.run.json.tmp")), "nothing is left");
    }
}

// As before `| less`, which reads no further than its screen: that the pipe is full is no error of writing to it.
static void test_full_pipe(void) {
    char block[4096] = "", *printed;
    size_t bytes;
    FILE *all = open_memstream(&printed, &bytes);
    CHECK(mkfifo(test_path("pipe"), 0600) == 0, "a pipe");
    int pipe = open(test_path("pipe"), O_RDWR | O_NONBLOCK);
    while (write(pipe, block, sizeof block) > 0) {}
    CHECK(read(pipe, block, sizeof block) == sizeof block, "room for some lines");
    pid_t child = train_start(QUIET "--steps 100000 --eval-every 1 --save-every 100000 --out run > pipe");
    wait_for("run/log.jsonl", "\"step\":5,");
    for (size_t before = 0, now; (now = strlen(file_text("run/log.jsonl"))) != before; before = now) usleep(300000);
    kill(child, SIGINT);
    usleep(200000);
    ssize_t got;
    while (!shell_ended(child))
        if ((got = read(pipe, block, sizeof block)) > 0) fwrite(block, 1, (size_t)got, all);
        else usleep(1000);
    while ((got = read(pipe, block, sizeof block)) > 0) fwrite(block, 1, (size_t)got, all);
    fclose(all);
    Result r = shell_finish(child);
    for (size_t i = 0; i < bytes; i++) printed[i] += !printed[i];      // what the pipe was filled with
    size_t step = 0;
    for (const char *at = printed; (at = strstr(at, "\nstep ")); step++)
        CHECK(strtoull(at += strlen("\nstep "), NULL, 10) == step, "the line of step %zu is whole", step);
    CHECK(step > 5 && strstr(printed, "\ninterrupted at step "), "%zu steps, and the end is said", step);
    CHECK(r.status == 128 + SIGINT && !*r.error, "%d: %s", r.status, r.error);
    CHECK(strcmp(text_of("run", "status"), "interrupted") == 0, "it is %s", text_of("run", "status"));
}

// A step of minutes: the first signal waits for its end, the second one does not, whichever they are.
static void test_second_signal(void) {
    static const int signals[][2] = {{SIGTERM, SIGTERM}, {SIGINT, SIGTERM}};
    for (int i = 0; i < 2; i++) {
        pid_t child = train_start(xprintf(QUIET "--batch 1000000 --micro-batch %d --steps 2 --out run%d", 1 + i, i));
        wait_for(xprintf("run%d/state.safetensors", i), "");
        usleep(300000);
        kill(child, signals[i][0]);
        for (usleep(200000); !shell_ended(child); usleep(200000)) kill(child, signals[i][1]);    // two may become one
        CHECK(shell_finish(child).status == 128 + signals[i][1], "at once");
        const char *status = text_of(xprintf("run%d", i), "status");
        CHECK(strcmp(status, "interrupted") == 0, "it is %s", status);
        CHECK(!file_exists(test_path(xprintf("run%d/.run.json.tmp", i))), "nothing is left");
    }
}

static void test_generate_sizes(void) {
    digest_of(QUIET "--steps 2", "run");
    refused(generate("--run run --samples 1000000 --tokens 100000000"), 1, "of memory, this machine has ");
    refused(generate("--run run --prompt-file /dev/zero"), 1, "/dev/zero is no file");
    // Clang's OpenMP makes a file of 1024 bytes of its own.
    Result r = shell(xprintf("ulimit -f 4; exec '%.*sgenerate' --run run --tokens 5 --picture p.png",
                             (int)(strlen(train_binary()) - strlen("train")), train_binary()));
    CHECK(r.status == 1 && strstr(r.error, "cannot write p.png: File too large"), "%d: %s", r.status, r.error);
    CHECK(!file_exists(test_path("p.png")) && !file_exists(test_path("p.png.tmp")), "nothing is left");
}

static void test_stacks(void) {
    refused(shell(xprintf("ulimit -s 64; exec '%s' " QUIET "--out run", train_binary())), 1, "ulimit -s 8192");
    refused(shell(xprintf("OMP_STACKSIZE=16k exec '%s' " QUIET "--out run", train_binary())), 1, "STACKSIZE is 16k");
    CHECK(!file_exists(test_path("run")), "nothing was begun");
    Result r = shell(xprintf("ulimit -s 512; OMP_STACKSIZE=512k; export OMP_STACKSIZE; exec '%s' " TINY
                             "--attn gqa+mla --layers 2 --experts 4 --width 64 --steps 10 --threads 2 "
                             "--out run", train_binary()));
    CHECK(r.status == 0, "as much as is asked for is enough: %d: %s", r.status, r.error);
}

static const Test tests[] = {
    {"promises/foreign", "a directory that is not empty and has no run.json of ours is left alone", test_foreign},
    {"promises/links", "what a link in the directory leads to is not written", test_links},
    {"promises/no-files", "a pipe, a device or a directory in place of a file of a run is refused as what it is",
     test_no_files},
    {"promises/moved", "a run whose directory is renamed goes on there, and another may take the name", test_moved},
    {"promises/descriptors", "a program started with closed descriptors prints into no file", test_descriptors},
    {"promises/other-state", "the state of another run is refused, and one without its record", test_other_state},
    {"promises/older-records", "a record that lacks a flag is of a run without it; another version's is noted",
     test_older_records},
    {"promises/fresh", "--fresh replaces runs alone, and leaves nothing of the one before", test_fresh},
    {"promises/loaded", "other weights in the directory that --load names make another run", test_loaded},
    {"promises/longer", "a finished run goes on to more steps, bit for bit, or says why it cannot", test_longer},
    {"promises/longer-killed", "so does one that was interrupted or killed on the way", test_longer_killed},
    {"promises/receipt", "the receipt of a finished run is computed again, and none printed that does not follow",
     test_receipt},
    {"promises/cut", "what is advised where a file of a run was cut helps", test_cut},
    {"promises/verified-files", "--verify covers configuration and tokenizer", test_verified_files},
    {"promises/weights", "./generate refuses weights that the run did not save", test_weights},
    {"promises/diverged", "nothing is said to be saved that is not", test_diverged},
    {"promises/stopped-sample", "a signal ends the writing of a sample, and the run goes on later",
     test_stopped_sample},
    {"promises/early-signal", "before anything is saved, and where nothing is, the first signal ends it at once",
     test_early_signal},
    {"promises/full-pipe", "Ctrl-C while nobody reads what is printed saves the run", test_full_pipe},
    {"promises/second-signal", "a second signal ends a long step and leaves its run interrupted", test_second_signal},
    {"promises/sizes", "an endless prompt, more text than memory, a picture that may not grow: one line",
     test_generate_sizes},
    {"promises/stacks", "a stack that is too small is refused, and one that is as small as allowed is enough",
     test_stacks},
};
REGISTER_TESTS(tests)

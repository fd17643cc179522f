// test_prompts.c: what the requests of a trace say: random tokens, pieces of a run's data or of a text (--prompts).
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "infer/prompts.h"
#include <stdlib.h>
#include <string.h>

enum { MANY = 200, TEXT = 120 };

static Trace trace_of(const char *text, const char *flags) {
    ServeOptions o;
    flags_parse_text(&serve_table, &o, flags, NULL);
    if (!text) return trace_make(&o);
    write_whole_file(test_path("trace"), text, strlen(text));
    return trace_read(test_path("trace"), &o);
}
static Data *data_of(const char *flags) {
    Config c = config_of("", flags, 0);
    return data_open(&c);
}

// A text in which each token says its place.
static char *count_to(size_t from, size_t end) {
    char *text = xprintf("%s", "");
    for (size_t i = from; i < end; i++) text = xprintf("%s%zu ", text, i);
    return text;
}

// ---- pieces --------------------------------------------------------------------------------------
// Equal numbers are equal tokens, at their places; what no number covers is each request's own.
static void check_shared(Prompts p, const char *what) {
    Trace t = trace_of("{\"chat_id\": 1, \"timestamp\": 1, \"input_length\": 40, \"output_length\": 4, \"hash_ids\": "
                       "[5, 6]}\n{\"chat_id\": 2, \"timestamp\": 2, \"input_length\": 40, \"output_length\": 6, "
                       "\"hash_ids\": [5, 7]}\n{\"chat_id\": 3, \"timestamp\": 3, \"input_length\": 40, "
                       "\"output_length\": 6, \"hash_ids\": [9, 5]}\n{\"chat_id\": 4, \"timestamp\": 4, "
                       "\"input_length\": 10, \"output_length\": 6, \"hash_ids\": [5]}\n", "");
    int a[40], b[40], c[40], d[40];
    prompts_fit(&p, &t, what);
    prompts_write(&p, &t, 0, a), prompts_write(&p, &t, 1, b), prompts_write(&p, &t, 2, c);
    prompts_write(&p, &t, 3, d);
    CHECK(!memcmp(a, b, 16 * sizeof *a), "%s: the first piece is shared", what);
    CHECK(memcmp(a + 16, b + 16, 16 * sizeof *a), "%s: the second is not", what);
    CHECK(memcmp(a + 32, b + 32, 8 * sizeof *a), "%s: the rest is each one's own", what);
    CHECK(memcmp(a, a + 16, 16 * sizeof *a), "%s: two pieces of one prompt differ", what);
    CHECK(!memcmp(a + 1, c + 17, 15 * sizeof *a), "%s: the first piece again, at another place", what);
    CHECK(!memcmp(a, d, 10 * sizeof *a), "%s: the beginning of a piece", what);
    trace_free(&t);
    t = trace_of("{\"session_id\": \"a\", \"turns\": [{\"llm_calls\": [{\"timestamp\": 4, \"tokens\": {\"prompt\": 20, "
                 "\"completion\": 4}}, {\"timestamp\": 9, \"tokens\": {\"prompt\": 40, \"completion\": 6}}]}]}\n"
                 "{\"session_id\": \"b\", \"turns\": [{\"llm_calls\": [{\"timestamp\": 5, \"tokens\": {\"prompt\": 40, "
                 "\"completion\": 4}}]}]}\n", "");
    prompts_fit(&p, &t, what);
    prompts_write(&p, &t, 0, a), prompts_write(&p, &t, 1, b), prompts_write(&p, &t, 2, c);
    CHECK(t.asked[0].prompt == 20 && t.asked[2].prompt == 40, "%s: sessions in order of time", what);
    CHECK(!memcmp(a, c, 20 * sizeof *a) && memcmp(a + 1, b + 1, 19 * sizeof *a), "%s: a session begins alike", what);
    trace_free(&t);
}

static void shared(void) {
    static const char *const language[] = {"--data stories", "--data markov --vocab 900", "--data recall --context 256",
                                           "--data copy --vocab 900", "--data khop --context 256", "--data facts"};
    check_shared(prompts_random(1, 32768), "random");
    for (size_t i = 0; i < sizeof language / sizeof *language; i++)
        check_shared(prompts_of_data(1, data_of(language[i])), language[i]);
    Tokenizer *numbers = tokenizer_numbers(TEXT);
    char *text = count_to(0, TEXT);
    write_whole_file(test_path("text"), text, strlen(text));
    check_shared(prompts_of_file(1, test_path("text"), numbers, TEXT), "text");
    tokenizer_set_start(numbers, 7);
    check_shared(prompts_of_file(1, test_path("text"), numbers, TEXT), "with a first token");
    tokenizer_free(numbers);
}

// Pieces of a text are that text, from many places and around its end; a length or a neighbour moves no other prompt.
static void check_places(Prompts p, int first, int count, const char *what) {
    Trace t = trace_of(NULL, "--requests 200 --prompt-length 30"), longer = trace_of(NULL, "--prompt-length 50");
    bool begins[TEXT] = {false};
    size_t places = 0, around = 0;
    int a[TEXT], b[TEXT];
    prompts_fit(&p, &t, what);
    for (size_t i = 0; i < MANY; i++) {
        size_t n = t.asked[i].prompt, m = longer.asked[i].prompt;
        prompts_write(&p, &t, i, a), prompts_write(&p, &longer, i, b);
        for (size_t j = 1; j < n; j++)
            CHECK(a[j] == first + (a[j - 1] - first + 1) % count, "%s: %d follows %d", what, a[j], a[j - 1]);
        CHECK(a[0] >= first && a[0] < first + count, "%s: begins with %d", what, a[0]);
        CHECK(!memcmp(a, b, smaller(n, m) * sizeof *a), "%s: prompt %zu depends on its length", what, i);
        places += !begins[a[0] - first], begins[a[0] - first] = true, around += a[n - 1] < a[0];
    }
    CHECK(places > (size_t)count / 2 && around > 5, "%s: %zu places, %zu around the end", what, places, around);
    p.seed++;
    size_t same = 0;
    for (size_t i = 0; i < MANY; i++) {
        p.seed--, prompts_write(&p, &t, i, a), p.seed++, prompts_write(&p, &t, i, b);
        same += a[0] == b[0];
    }
    CHECK(same < MANY / 10, "%s: %zu of %d places are those of another seed", what, same, MANY);
    trace_free(&t), trace_free(&longer);
}

static void places(void) {
    Tokenizer *numbers = tokenizer_numbers(TEXT);
    char *text = count_to(0, TEXT);
    write_whole_file(test_path("text"), text, strlen(text));
    check_places(prompts_of_file(3, test_path("text"), numbers, TEXT), 0, TEXT, "a text");
    tokenizer_set_start(numbers, 7);
    Prompts p = prompts_of_file(3, test_path("text"), numbers, TEXT);
    Trace t = trace_of(NULL, "--prompt-length 30");
    int a[TEXT];
    for (size_t i = 0; i < 9; i++) {
        prompts_write(&p, &t, i, a);
        CHECK(a[0] == 7, "what texts of this tokenizer begin with: %d", a[0]);
    }
    tokenizer_free(numbers), trace_free(&t);
    // Of the data of a run the validation part alone: of characters that come in the order of their numbers.
    char letters[95 + 1] = "", train_text[] = "~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~";
    for (int i = 0; i < 90; i++) letters[i] = (char)(' ' + i);
    write_whole_file(test_path("train.txt"), train_text, strlen(train_text));
    write_whole_file(test_path("val.txt"), letters, strlen(letters));
    Data *d = data_of(xprintf("--data %s --val %s --context 8 --tokenizer char", test_path("train.txt"),
                              test_path("val.txt")));
    CHECK(d->length == 90, "%zu tokens for validation", d->length);
    check_places(prompts_of_data(3, d), 1, 90, "data");           // 0 is the newline between documents
    data_close(d);
}

static struct { const char *text, *flags; size_t vocab; } bad;
static void fit(void *nothing) {
    (void)nothing;
    Tokenizer *numbers = tokenizer_numbers(TEXT);
    if (bad.text) write_whole_file(test_path("text"), bad.text, strlen(bad.text));
    Prompts p = prompts_of_file(1, test_path(bad.text ? "text" : "none"), numbers, bad.vocab);
    Trace t = trace_of(NULL, bad.flags);
    prompts_fit(&p, &t, "text");
}

static void unfit(void) {
    static const struct { const char *word, *text, *flags; size_t vocab; int status; } cases[] = {
        {"request 0 wants 7 of it", "1 2 3 4 5 6", "--spread 0 --prompt-length 7", TEXT, 2},
        {"a text of 0 tokens", "", "", TEXT, 2}, {"/none: cannot read", NULL, "", TEXT, 1},
        {"its token 2 is 30, and the model knows 0 to 29", "1 2 30", "--prompt-length 2 --spread 0", 30, 1},
        {"text: byte 2 of the text: numbers", "1 x", "", TEXT, 1},
        {"request 1 wants 9 of it", "1 2 3 4 5 6", "--spread 0 --prompt-length 6 --agent-turns 2 --tool-tokens 9", TEXT,
         2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bad.text = cases[i].text, bad.flags = cases[i].flags, bad.vocab = cases[i].vocab;
        CHECK(test_fails(cases[i].status, cases[i].word, fit, NULL), "%s", test_message);
    }
    bad.text = "1 2 3 4 5 6", bad.flags = "--spread 0 --prompt-length 6 --agent-turns 4 --tool-tokens 6 --requests 4";
    bad.vocab = TEXT;
    fit(NULL);                              // a session is longer than the text, but none of what is said in it
}

// ---- the command ---------------------------------------------------------------------------------
static Result serve(const char *flags) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/serve' --requests 12 --records r.jsonl %s",
                         (int)(strrchr(beside, '/') - beside), beside, flags));
}
static const char *receipt_of(Result r) {
    const char *at = strstr(r.out, "receipt: ");
    return at ? at : "none";
}

#define TINY "--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 "
#define SHORT "--prompt-length 20 --answer-length 9"
#define HASHED "{\"chat_id\": %d, \"timestamp\": %d, \"input_length\": 40, \"output_length\": 9, " \
    "\"hash_ids\": [5, %d]}\n"

// One receipt for every pool, budget, thread, draft, clock and worker; whatever asks, the text makes it another one.
// Under the first `loads` of these.
static void check_command(const char *run, const char *prompts, size_t loads) {
    static const char *const load[] = {
        "--rate 1000 " SHORT, "--trace trace --time-scale 1e-3", "--arrivals closed --clients 3 " SHORT,
        "--arrivals bursts --rate 90 --lengths lognormal --cv 1.5 " SHORT,
        "--rate 1000 --agent-turns 3 --tool-seconds 0.01 --tool-tokens 6 " SHORT,
        "--rate 1000 --kv-policy h2o --kv-budget 7 " SHORT,
        "--rate 1000 --kv-bits 4 --kv-group 4 --kv-residual 6 " SHORT};
    static const struct { const char *flags; size_t loads; } same[] = {
        {"--block 1 --blocks 4000 --threads 1", 7}, {"--chunk 5 --budget 70 --running 3", 7},
        {"--block 5 --blocks 40 --admit chunk --watermark 0 --preempt swap", 7}, {"--prefix-cache", 5},
        {"--clock model", 5}, {"--clock both", 5}, {"--draft lookup --gamma 3", 5}, {"--draft small --gamma 3", 5},
        {"--disagg 1:1", 4}, {"--disagg 0:2 --clock both", 4}};
    for (size_t k = 0; k < loads; k++) {
        char *flags = xprintf("--run %s %s", run, load[k]), *other = xprintf("%s --prompts %s", flags, prompts);
        Result random = serve(flags), text = serve(other);
        CHECK(text.status == 0 && strstr(text.out, "12 received, 12 finished"), "%s: %s%s", other, text.out,
              text.error);
        CHECK(strcmp(receipt_of(random), receipt_of(text)), "%s: %s", other, text.out);
        CHECK(!strcmp(receipt_of(random), receipt_of(serve(xprintf("%s --prompts random", flags)))), "%s", flags);
        for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
            if (k >= same[i].loads) continue;
            Result r = serve(xprintf("%s %s", other, same[i].flags));
            CHECK(!strcmp(receipt_of(r), receipt_of(text)), "%s %s: %s%s", other, same[i].flags, r.out, r.error);
        }
        CHECK(strcmp(receipt_of(serve(xprintf("%s --seed 2", other))), receipt_of(text)), "%s: another seed", other);
    }
    Result found = serve(xprintf("--run %s --trace trace --prompts %s --prefix-cache --block 4 --clock model", run,
                                 prompts));
    const char *swapped = strstr(found.out, "blocks swapped, ");
    CHECK(swapped && strtoul(swapped + 16, NULL, 10) >= 11 * 16, "eleven prompts find their first piece: %s%s",
          found.out, found.error);
}

static void write_files(void) {
    char *trace = xprintf("%s", ""), *text = xprintf("%s", "");
    for (int i = 0; i < 12; i++) trace = xprintf("%s" HASHED, trace, i, i, 10 + i);
    for (int i = 0; i < 90; i++) text = xprintf("%sIt is %d o'clock, and all is well.\n", text, i * i);
    write_whole_file(test_path("trace"), trace, strlen(trace));
    write_whole_file(test_path("text.txt"), text, strlen(text));
    write_whole_file(test_path("all.txt"), text, strlen(text) / 2);
    train(TINY "--out stories"), train(TINY "--out run --data text.txt"), train(TINY "--out small --data text.txt");
}

static void command(void) {
    static const struct { const char *flags, *word; int status; } wrong[] = {
        {"--prompts data", "--prompts belongs to --run", 2},
        {"--prompts none.txt --run run", "--prompts none.txt: cannot read", 1},
        {"--prompts data --run run --prompt-length 4000", "give a longer one, or shorter prompts", 2},
        {"--prompts trace --run run", "--prompts trace: ", 1},
        {"--prompts data --run other", "does not say which data it was trained on", 2},
        {"--prompts data --run moved", "is not what moved has read", 1},
        {"--prompts data --run gone", "--prompts data: --data gone.txt: neither a file", 1},
        {"--prompts data --run run --port 0", "has no effect with --port", 2},
        {"--prompts data --run run --calibrate c.json", "has no effect with --calibrate", 2}};
    write_files();
    check_command("run", "data", 7), check_command("run", "all.txt", 2);
    Result language = serve("--run stories --rate 1000 --prompts data " SHORT);
    Result again = serve("--run stories --clock model --prompts data --block 3 --threads 1 " SHORT);
    CHECK(!strcmp(receipt_of(language), receipt_of(again)) && strcmp(receipt_of(again), "none"), "%s%s", again.out,
          again.error);
    shell("cp -r run other; rm other/run.json; sed -i.bak 's/\"receipts\"/\"_name_or_path\"/' other/config.json");
    train(TINY "--out moved --data all.txt"), shell("cp all.txt gone.txt"), train(TINY "--out gone --data gone.txt");
    shell("rm gone.txt");
    char *text = read_whole_file(test_path("all.txt"), NULL);
    memcpy(strstr(text, "all is"), "ill", 3);
    write_whole_file(test_path("all.txt"), text, strlen(text));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Result r = serve(wrong[i].flags);
        CHECK(r.status == wrong[i].status && strstr(r.error, wrong[i].word) && count_lines(r.error) == 1,
              "%s: status %d: %s", wrong[i].flags, r.status, r.error);
    }
    CHECK(serve("--prompts data --run moved --rate 1000 --unverified " SHORT).status == 0, "unverified");
    Result told = serve("--prompts all.txt --run run --rate 1000 --receipt receipt.json " SHORT);
    CHECK(told.status == 0 && strstr(read_whole_file(test_path("receipt.json"), NULL), "\"prompts\": \"all.txt\""),
          "%s", told.error);
}

static const Test tests[] = {
    {"prompts/shared", "equal numbers of pieces become equal tokens, of chance, of languages and of texts", shared},
    {"prompts/places", "pieces of a text are that text, from places that the seed says", places},
    {"prompts/unfit", "a text that is too short, is not there or is not the model's", unfit},
    {"prompts/command", "./serve --prompts: one receipt, whatever pool, threads, clock, draft and workers", command},
};
REGISTER_TESTS(tests)

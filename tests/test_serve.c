// test_serve.c: the event clock's table of costs, traces of others, percentiles, and ./serve as a command. The
// scheduler itself is in test_sched.c.
#include "tests/program.h"
#include "tests/test.h"
#include "infer/answers.h"
#include "infer/replay.h"
#include "infer/sessions.h"
#include "lib/process.h"
#include "lib/rng.h"
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>

// ---- costs ---------------------------------------------------------------------------------------

// Steps whose times are of the form that is fitted, with an error of `noise` that alternates in sign.
static size_t make_points(CostPoint *point, double noise) {
    size_t n = 0;
    for (int m = 1; m <= 64; m *= 2)
        for (int context = 0; context < 4; context++)
            for (int draws = 0; draws <= m; draws += m > 8 ? m / 2 : m, n++) {
                StepSize x = {m, 100.0 * context, n % 3 * 80.0, n % 5 * 1000.0 + m, draws};
                double t = 5e-3 + 1e-5 * m + 4e-4 * fmax(0, m - 12.0) + 1e-6 * x.keys + 3e-6 * x.packed +
                           2e-7 * x.pairs + (draws > 0) * 2e-3 + 1e-4 * draws + 3e-4 * fmax(0, draws - 12);
                point[n] = (CostPoint){x, t * (1 + (n % 2 ? noise : -noise))};
            }
    return n;
}

static CostTable fitted;
static void beyond(void *size) { cost_of(&fitted, *(StepSize *)size); }

static void costs(void) {
    CostPoint point[128];
    double knot[] = {4, 12, 32};
    size_t n = make_points(point, 0);
    fitted = cost_fit(point, n, knot, 3);
    for (size_t i = 0; i < n; i++)
        CHECK(fabs(cost_of(&fitted, point[i].size) / point[i].seconds - 1) < 1e-9, "point %zu: %g", i,
              point[i].seconds);
    CHECK(fitted.worst < 1e-9 && fabs(fitted.keys - 1e-6) < 1e-12 && fabs(fitted.packed - 3e-6) < 1e-12 &&
              fabs(fitted.head - 2e-3) < 1e-9 && fabs(fitted.crowd - 3e-4) < 1e-10 &&
              fabs(fitted.bend[1] - 4e-4) < 1e-10, "%g, %g, %g", fitted.worst, fitted.head, fitted.bend[1]);
    make_points(point, 0.03);
    CostTable noisy = cost_fit(point, n, knot, 3);
    CHECK(noisy.median > 0.01 && noisy.worst < 0.08, "held out: median %g, worst %g", noisy.median, noisy.worst);
    static StepSize large[] = {{65, 0, 0, 0, 0}, {1, 301, 0, 0, 0}, {1, 0, 161, 0, 0}, {1, 0, 0, 4065, 0},
                               {1, 0, 0, 0, 65}};
    static const char *const word[] = {"65 tokens, but the table of costs was measured up to 64", "up to 300",
                                       "up to 160", "up to 4064", "65 tokens that draw"};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        CHECK(test_fails(1, word[i], beyond, &large[i]), "%zu: %s", i, test_message);
        CHECK(!cost_is_known(&fitted, large[i]), "%s", word[i]);
    }
    CHECK(cost_is_known(&fitted, point[n - 1].size), "what was measured is known");
    noisy.cache_bytes = 512, noisy.layers = 3;
    cost_write(&noisy, point, n, test_path("cost.json"));
    CostTable read = cost_read(test_path("cost.json"));
    for (size_t i = 0; i < n; i++)
        CHECK(cost_of(&read, point[i].size) == cost_of(&noisy, point[i].size), "point %zu, read again", i);
    CHECK(read.worst == noisy.worst && read.replay.requests == 0, "%g", read.worst);
    CHECK(read.cache_bytes == 512 && read.layers == 3, "%g bytes in %zu layers", read.cache_bytes, read.layers);
    Replay seen = {200, 1.25, {0.01, -0.02, NAN}, {1, 2, 3}, {4, 5, 6}};
    cost_note_replay(test_path("cost.json"), &seen);
    Replay noted = cost_read(test_path("cost.json")).replay;
    CHECK(noted.requests == 200 && noted.pace == 1.25 && noted.ttft[1] == -0.02 && isnan(noted.ttft[2]) &&
              noted.latency[2] == 6, "%zu", noted.requests);
    CHECK(strstr(read_whole_file(test_path("cost.json"), NULL), "\"measured\": [\n  [1, 0, 0, 1, 0, "), "points");
}

// Noise as large as the costs themselves: no step that is known takes less than nothing.
static void noisy_costs(void) {
    double knot[] = {2, 4};
    size_t negative = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        CostPoint point[128];
        Rng r = rng_stream(seed, RNG_SAMPLE, 0);
        size_t n = 0;
        for (int m = 1; m <= 8; m++)
            for (int i = 0; i < 6; i++, n++)
                point[n] = (CostPoint){{m, rng_below(&r, 320), m > 2 ? rng_below(&r, 100) : 0, rng_below(&r, 500),
                                        i % 2 ? m : 0}, (2e-6 + 1e-7 * m) * (0.3 + rng_below(&r, 1000) / 500.0)};
        CostTable c = cost_fit(point, n, knot, 2);
        CHECK(cost_is_positive(&c) && isfinite(c.median), "seed %d: base %g", (int)seed, c.base);
        CHECK(cost_of(&c, (StepSize){1, 0, 0, 0, 0}) > 0 && cost_of(&c, c.most) > 0, "seed %d", (int)seed);
        negative += c.slope < 0 || c.keys < 0 || c.pairs < 0 || c.draw < 0 || c.packed < 0;
    }
    CHECK(negative > 0, "a negative term that makes no step negative stays");
}

// What a row is priced as: one that writes or checks guesses reads its keys once, a longer one packs them.
static void step_sizes(void) {
    StepRow row[] = {{.n = 1, .past = 9, .logits_from = 0}, {.n = 3, .past = 20, .logits_from = 0},
                     {.n = 9, .past = 0, .logits_from = 8}, {.n = 10, .past = 5, .logits_from = 10}};
    StepSize x = step_size(&(Step){.row = row, .rows = 4, .tokens = 23});
    CHECK(x.tokens == 23 && x.keys == 10 + 23 && x.packed == 9 + 15 && x.draws == 1 + 3 + 1, "%g %g %g %g", x.tokens,
          x.keys, x.packed, x.draws);
    CHECK(x.pairs == 10 + (21 + 22 + 23) + 45 + (50 + 55), "%g pairs", x.pairs);
}

// What a draft reads: all that is known, then each guess. By hand: two texts, one with two guesses, and a prompt.
static void draft_rounds(void) {
    Request writes = {.prompt = 5, .drafted = 2}, also = {.prompt = 5}, reads = {.prompt = 30};
    StepRow row[] = {{.request = &writes, .n = 3, .past = 9}, {.request = &also, .n = 1, .past = 6},
                     {.request = &reads, .n = 20, .past = 0, .logits_from = 20, .draw_from = 20}};
    Step step = {.row = row, .rows = 3, .tokens = 24};
    CostTable c = {.base = 1000, .slope = 1, .keys = 1e-3, .draw = 1e-6, .most = {100, 1e4, 1e4, 1e4, 100}};
    double first = 1000 + 22 + 17e-3 + 1e-6, second = 1000 + 1 + 11e-3 + 1e-6, third = 1000 + 1 + 12e-3;
    double exact = cost_of_draft(&c, &step, false, SIZE_MAX), ratio = cost_of_draft(&c, &step, true, SIZE_MAX);
    CHECK(fabs(exact - first - second - third) < 1e-9, "%.9g, not %.9g", exact, first + second + third);
    CHECK(fabs(ratio - exact - 2e-6) < 1e-9, "by ratio each text draws one more: %g", ratio - exact);
    double limited = cost_of_draft(&c, &step, false, 11);        // it knows positions 0 to 10
    CHECK(fabs(limited - (1000 + 13 + 17e-3 + 1e-6) - (1000 + 1 + 11e-3)) < 1e-9, "%.9g", limited);
    CostTable model = {.base = 1, .most = {100, 1e4, 1e4, 1e4, 100}}, same = model;
    CHECK(cost_best_guesses(&model, &same, &step, 0.3) == 0 && cost_best_guesses(&model, NULL, &step, 0.3) > 0,
          "guesses that cost a step each");
}

// As long as tokens cost nothing, guesses pay; where they cost as much as a step, none does; and none is wished for
// beyond what was measured.
static void guesses(void) {
    StepRow row[2] = {{.n = 1, .past = 9}, {.n = 4, .past = 20, .logits_from = 3, .draw_from = 3}};
    Step two = {.row = row, .rows = 2, .tokens = 5};
    CostTable flat = {.base = 1, .most = {20, 1000, 1000, 1000, 1000}}, steep = flat, bent = flat;
    steep.slope = 1, bent.knots = 1, bent.knot[0] = 12, bent.bend[0] = 1;
    CHECK(cost_best_guesses(&flat, NULL, &two, 0.5) == 9, "20 tokens are for two texts of a token and nine guesses");
    CHECK(cost_best_guesses(&steep, NULL, &two, 0.5) == 0, "every guess costs a step");
    CHECK(cost_best_guesses(&bent, NULL, &two, 0.9) == 5, "%zu: beyond 12 tokens they cost",
          cost_best_guesses(&bent, NULL, &two, 0.9));
    row[0].draw_from = 1, row[1].draw_from = 4;
    CHECK(cost_best_guesses(&flat, NULL, &two, 0.5) == 0, "no text writes");
}

// ---- replays ---------------------------------------------------------------------------------------
// A signal during a replay: it goes on, for what it replays has answers that are not written yet.
static void replayed(void) {
    ServeOptions o;
    flags_parse_text(&serve_table, &o, "--requests 40 --rate 5 --prompt-length 20 --answer-length 9", NULL);
    Service run = service_open(&o);
    sessions_open_trace(&run);
    Backend backend = answers_without_model(&run.seed);
    backend.sample = answers_random_token;
    answers_run(&run, backend);
    process_stopped = SIGTERM;
    Again again = replay(&run, false);
    Stats s = answers_stats(&run);
    CHECK(s.finished == 40 && again.stats.finished == 40 && again.stats.digest == s.digest,
          "%zu requests finished, %zu of them again", s.finished, again.stats.finished);
}

// ---- traces --------------------------------------------------------------------------------------

static Trace trace_of(const char *text, const char *flags) {
    ServeOptions o;
    flags_parse_text(&serve_table, &o, flags, NULL);
    write_whole_file(test_path("trace"), text, strlen(text));
    return trace_read(test_path("trace"), &o);
}

static void formats(void) {
    static const struct { const char *format, *text; double second_at; } file[] = {
        {"Azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31 23:59:59.5000000,10,4\n"
                  "2024-01-01 00:00:01.2500000,20,6\n", 1.75},
        {"Vidur", "arrived_at,num_prefill_tokens,num_decode_tokens,pd_ratio\n1.5,10,4,2.5\n3.25,20,6,3.3\n", 1.75},
        {"BurstGPT", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,10,4,14,"
                     "Conversation log\r\n6,ChatGPT,10,0,10,API log\r\n7,GPT-4,20,6,26,API log\r\n", 2},
        {"Mooncake", "{\"timestamp\": 3000, \"input_length\": 20, \"output_length\": 6, \"hash_ids\": [1]}\n"
                     "{\"timestamp\": 500, \"input_length\": 10, \"output_length\": 4, \"hash_ids\": [1]}\n", 2.5},
        {"Qwen-Bailian", "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 1.5, \"input_length\": 10, "
                         "\"output_length\": 4, \"type\": \"text\", \"turn\": 1, \"hash_ids\": [7]}\n{\"chat_id\": 2, "
                         "\"timestamp\": 2, \"input_length\": 20, \"output_length\": 6, \"hash_ids\": [7, 8]}\n", 0.5},
        {"agent sessions", "{\"session_id\": \"a\", \"turns\": [{\"llm_calls\": [{\"timestamp\": 4, \"tokens\": "
                           "{\"prompt\": 10, \"completion\": 4, \"cached\": 0}}, {\"timestamp\": 9, \"tokens\": "
                           "{\"prompt\": 20, \"completion\": 6}}]}]}\n", 5},
        {"ShareGPT", "[{\"conversations\": [{\"from\": \"human\", \"value\": \"0123456789\"}, {\"value\": \"abcd\"}]}, "
                     "{\"conversations\": []}, {\"conversations\": [{\"value\": \"01234567890123456789\"}, "
                     "{\"value\": \"abcdef\"}]}]", 0},
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        Trace t = trace_of(file[i].text, "");
        CHECK(!strcmp(t.format, file[i].format) && t.count == 2, "%s: read as %s, %zu requests", file[i].format,
              t.format, t.count);
        CHECK(t.asked[0].at == 0 && t.asked[1].at == file[i].second_at, "%s: %.17g", t.format, t.asked[1].at);
        CHECK(t.asked[0].prompt == 10 && t.asked[0].answer == 4 && t.asked[1].prompt == 20 && t.asked[1].answer == 6,
              "%s: %zu %zu", t.format, t.asked[0].prompt, t.asked[0].answer);
        trace_free(&t);
        t = trace_of(file[i].text, "--trace t --time-scale 2 --length-scale 0.5");
        CHECK(t.asked[1].at == 2 * file[i].second_at && t.asked[1].prompt == 10 && t.asked[1].answer == 3, "%s scaled",
              t.format);
        trace_free(&t);
    }
}

// Long tails: the average and the coefficient of variation are those that were asked for.
static void lengths(void) {
    ServeOptions o;
    flags_parse_text(&serve_table, &o, "--requests 20000 --lengths lognormal --cv 1.5 --answer-length 1000", NULL);
    Trace t = trace_make(&o);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < t.count; i++) sum += (double)t.asked[i].answer / (double)t.count;
    for (size_t i = 0; i < t.count; i++) squares += pow((double)t.asked[i].answer - sum, 2) / (double)t.count;
    CHECK(fabs(sum - 1000) < 40 && fabs(sqrt(squares) / sum - 1.5) < 0.15, "average %g, cv %g", sum,
          sqrt(squares) / sum);
    trace_free(&t);
}

// Equal numbers are equal tokens, at their places; what no number covers is each request's own.
static void shared_prompts(void) {
    Trace t = trace_of("{\"chat_id\": 1, \"timestamp\": 1, \"input_length\": 40, \"output_length\": 4, \"hash_ids\": "
                       "[5, 6]}\n{\"chat_id\": 2, \"timestamp\": 2, \"input_length\": 40, \"output_length\": 6, "
                       "\"hash_ids\": [5, 7]}\n{\"chat_id\": 3, \"timestamp\": 3, \"input_length\": 40, "
                       "\"output_length\": 6, \"hash_ids\": [9, 5]}\n", "");
    int a[40], b[40];
    trace_prompt(&t, 0, 1, 32768, a), trace_prompt(&t, 1, 1, 32768, b);
    CHECK(!memcmp(a, b, 16 * sizeof *a), "the first piece is shared");
    CHECK(memcmp(a + 16, b + 16, 16 * sizeof *a) && memcmp(a + 32, b + 32, 8 * sizeof *a), "the others are not");
    CHECK(memcmp(a, a + 16, 16 * sizeof *a), "two pieces of one prompt differ");
    int c[40];
    trace_prompt(&t, 2, 1, 32768, c);
    CHECK(!memcmp(a, c + 16, 16 * sizeof *a), "the first piece again, at another place");
    trace_free(&t);
}

static void read_bad(void *text) { trace_of(text, ""); }
static void bad_traces(void) {
    static char *const bad[][2] = {
        {"a,b\n1,2\n", "line 1"}, {"", "line 1"}, {"arrived_at,num_prefill_tokens,num_decode_tokens\n1,2\n", "line 2"},
        {"arrived_at,num_prefill_tokens,num_decode_tokens\n1,x,3\n", "a number of tokens"},
        {"arrived_at,num_prefill_tokens,num_decode_tokens\nsoon,2,3\n", "a time"},
        {"arrived_at,num_prefill_tokens,num_decode_tokens\n1,0,3\n", "at least a token"},
        {"arrived_at,num_prefill_tokens,num_decode_tokens\n", "has no request"},
        {"{\"timestamp\": 1}\n", "timestamp and lengths"}, {"{\n", "a JSON object"}, {"[1,", "a JSON list"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(test_fails(1, bad[i][1], read_bad, bad[i][0]), "%s: %s", bad[i][0], test_message);
}

// ---- statistics ----------------------------------------------------------------------------------

static void statistics(void) {
    double x[100];
    for (int i = 0; i < 100; i++) x[i] = 100 - i;
    Percentiles p = percentiles_of(x, 100);
    CHECK(p.p50 == 50 && p.p90 == 90 && p.p99 == 99, "%g %g %g", p.p50, p.p90, p.p99);
    CHECK(percentiles_of(x, 10).p99 == 10 && percentiles_of(x, 11).p50 == 6, "ranks are rounded up");
    CHECK(isnan(percentiles_of(x, 0).p50) && percentiles_of(x, 1).p99 == 1, "of none and of one");
    Record r[] = {{0, 1, 3, 10, 5, 0, 0, END_LENGTH, 1},   {0, 2, 3, 10, 5, 0, 0, END_LENGTH, 2},
                  {0, 1, 9, 10, 5, 0, 0, END_LENGTH, 3},   {0, 1, 1, 10, 1, 0, 0, END_STOP, 4},
                  {0, 1, 1, 10, 1, 0, 0, END_CANCELLED, 5}, {0, 0, 0, 10, 0, 0, 0, END_SHED, 6}};
    Stats s = stats_of(r, 6, 1, 0.5);
    CHECK(s.finished == 4 && s.good == 2 && s.tokens == 17 && s.tpot.count == 3, "%zu finished, %zu good", s.finished,
          s.good);
    CHECK(s.good_late == 0 && isinf(s.ttft_late), "the last got nothing: %g, %g", s.good_late, s.ttft_late);
    s = stats_of(r, 4, 1, 0.5);
    CHECK(s.good_late == 1 && s.ttft_late == 1, "the last of four was good: %g, %g", s.good_late, s.ttft_late);
}

// ---- the command ---------------------------------------------------------------------------------

static Result serve(const char *flags) {
    const char *train_path = train_binary();
    return shell(xprintf("'%.*s/serve' --requests 60 --records r.jsonl %s",
                         (int)(strrchr(train_path, '/') - train_path), train_path, flags));
}
static const char *digest_of(Result r) {
    const char *at = strstr(r.out, "receipt: ");
    return at ? at : "none";
}

// What a request gets depends on neither pool, budget, blocks nor preemption.
static void same_digest(void) {
    static const char *const flags[] = {
        "--block 1 --blocks 8192", "--budget 64 --chunk 7", "--running 2", "--sched static", "--rate 1000",
        "--sched padded --rate 1000",
        "--admit chunk --watermark 0 --blocks 48 --rate 1000", "--admit full", "--prefix-cache",
        "--admit chunk --watermark 0 --blocks 48 --rate 1000 --preempt swap --victim least-computed",
    };
    Result whole = serve("");
    CHECK(whole.status == 0 && strstr(whole.out, "60 received, 60 finished"), "%s%s", whole.out, whole.error);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        Result r = serve(flags[i]);
        CHECK(!strcmp(digest_of(r), digest_of(whole)), "%s: %s%s", flags[i], r.out, r.error);
        if (strstr(flags[i], "--blocks 48")) CHECK(!strstr(r.out, " 0 preemptions"), "%s: %s", flags[i], r.out);
    }
    CHECK(strcmp(digest_of(serve("--seed 2")), digest_of(whole)), "another seed");
}

static void refusals(void) {
    static const struct { const char *flags, *word; int status; } bad[] = {
        {"--budget 8 --running 9", "--budget 8 is less than --running 9", 2},
        {"--time-scale 2", "time-scale", 2}, {"--burst 3", "burst", 2}, {"--swap-blocks 3", "swap-blocks", 2},
        {"--blocks 1", "all 60 were refused", 1},
        {"--trace none.csv", "none.csv", 1}, {"--cost none.json", "none.json", 1},
        {"--temperature 1", "no effect without --run", 2}, {"--run x --cost y", "no effect on the real clock", 2},
        {"--backlog 61", "--backlog 61: of --requests 60", 2}, {"--backlog 1 --arrivals closed", "backlog", 2},
        {"--cv 2", "cv", 2}, {"--lengths lognormal --spread 0.5", "spread", 2},
        {"--agent-turns 7", "whole sessions of --agent-turns 7", 2}, {"--tool-tokens 7", "without --agent-turns", 2},
        {"--agent-turns 2 --shed 1", "leave out --shed", 2}, {"--ttl 3", "add --prefix-cache", 2},
        {"--agent-turns 2 --blocks 3", "the pool holds 48", 2}, {"--agent-turns 2 --arrivals closed", "agent-turns", 2},
        {"--sched padded --prefix-cache", "leave out --prefix-cache", 2},
        {"--picture a.svg", "ends in .png", 2}, {"--picture none/a.png", "none/a.png cannot be written", 1},
        {"--receipt none/a", "none/a cannot be written", 1}, {"--receipt r.jsonl", "are both r.jsonl", 2},
        {"--disagg 1:1 --picture a.png", "each worker has its own", 2},
        {"--trace none.csv --rate 3", "--rate has no effect with --trace", 2},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Result r = serve(bad[i].flags);
        CHECK(r.status == bad[i].status && strstr(r.error, bad[i].word), "%s: %d %s", bad[i].flags, r.status, r.error);
    }
}

// Minutes of requests, and a signal after the first steps: who has ended has, and the rest says so.
static void stopped(void) {
    const char *train_path = train_binary();
    Result r = shell(xprintf("'%.*s/serve' --requests 200000 --records r.jsonl > out.txt 2> error.txt & serve=$!; "
                             "sleep 1; kill -INT $serve; wait $serve", (int)(strrchr(train_path, '/') - train_path),
                             train_path));
    char *error = read_whole_file(test_path("error.txt"), NULL), *lines = read_whole_file(test_path("r.jsonl"), NULL);
    CHECK(r.status == 1 && strstr(error, "stopped by a signal (2); ") && strstr(error, " are cancelled in r.jsonl"),
          "%d: %s", r.status, error);
    CHECK(count_lines(lines) == 200000 && strstr(lines, "\"end\": \"cancelled\""), "%zu lines", count_lines(lines));
    free(error), free(lines);
}

static void arrivals(void) {
    Result closed = serve("--arrivals closed --clients 4 --running 4"), bursts = serve("--arrivals bursts --burst 20");
    CHECK(strstr(closed.out, "60 finished") && strstr(bursts.out, "60 finished"), "%s%s", closed.out, bursts.out);
    Result shed = serve("--rate 1000 --running 1 --shed 0.5"), large = serve("--blocks 8");
    CHECK(strstr(shed.out, " shed\n") && strstr(large.out, " refused\n") && strstr(large.out, " finished"),
          "%s%s", shed.out, large.out);
    char *lines = read_whole_file(test_path("r.jsonl"), NULL);
    CHECK(strstr(lines, "\"end\": \"refused\", ") && strstr(lines, "\"first\": null"), "%s", lines);
}

static json_t *receipt_of(const char *flags) {
    Result r = serve(xprintf("--receipt receipt.json %s", flags));
    CHECK(r.status == 0, "%s", r.error);
    json_t *all = json_load_file(test_path("receipt.json"), 0, NULL);
    CHECK(all, "receipt.json is no JSON");
    CHECK(strstr(r.out, json_string_value(json_object_get(all, "digest"))), "two digests: %s", r.out);
    return all;
}
static double final_of(json_t *all, const char *name) {
    return json_number_value(json_object_get(json_object_get(all, "final"), name));
}

// The receipt as JSON says what is printed; a backlog waits from the start, and changes no request's lengths.
static void receipts(void) {
    json_t *all = receipt_of("--rate 2"), *late = receipt_of("--rate 2 --backlog 40");
    const char *digest = json_string_value(json_object_get(all, "digest"));
    CHECK(!strcmp(digest, json_string_value(json_object_get(late, "digest"))), "a backlog changed what was asked");
    CHECK(final_of(all, "finished") == 60 && final_of(all, "useful") == final_of(all, "executed"), "counters");
    CHECK(final_of(late, "ttft_p50") > 2 * final_of(all, "ttft_p50"), "%g s after %g s", final_of(late, "ttft_p50"),
          final_of(all, "ttft_p50"));
    json_t *flags = json_object_get(late, "flags");
    CHECK(json_integer_value(json_object_get(flags, "backlog")) == 40, "the receipt has its flags");
    Result plan = serve("--rate 2 --dry-run");
    json_t *told = json_loads(plan.out, 0, NULL);
    CHECK(plan.status == 0 && told && !json_object_get(told, "final"), "%s", plan.out);
    CHECK(json_number_value(json_object_get(json_object_get(told, "flags"), "watermark")) == 0.05, "with defaults: %s",
          plan.out);
    Result drawn = serve("--rate 2 --picture time.png");
    CHECK(drawn.status == 0 && file_exists(test_path("time.png")) && strstr(drawn.error, "picture  time.png"), "%s",
          drawn.error);
    CHECK(!strcmp(digest_of(drawn), digest_of(serve("--rate 2"))), "a picture changes nothing");
    json_decref(all), json_decref(late), json_decref(told);
}

// Sessions of 3 turns, each 40, 8 and 12 tokens longer: what is computed follows from lengths and blocks alone.
static size_t computed_of(size_t block, size_t mark) {
    size_t sum = 0;
    for (size_t k = 0; k < 3; k++) {
        size_t prompt = 40 + k * (8 + 12), known = k ? (prompt - 12 - 1) / block * block : 0;
        if (k && mark) known = smaller(known, (mark - 1) / block * block);
        sum += prompt - known + 8 - 1;
    }
    return sum;
}

static void sessions(void) {
    static const char *const ttl[] = {"", "--ttl 5"};
    const char *lengths = "--requests 30 --agent-turns 3 --spread 0 --prompt-length 40 --answer-length 8 --tool-tokens "
                          "12 --prefix-cache --blocks 4000";
    for (size_t block = 1; block <= 16; block *= 4)
        for (size_t mark = 0; mark <= 34; mark += 17)
            for (size_t i = 0; i < 2; i++) {
                char *flags = xprintf("%s --block %zu --volatile-prefix %zu %s", lengths, block, mark, ttl[i]);
                json_t *all = receipt_of(flags);
                CHECK(final_of(all, "executed") == 10 * (double)computed_of(block, mark), "%s: %g, not %zu", flags,
                      final_of(all, "executed"), 10 * computed_of(block, mark));
                CHECK(final_of(all, "session_p50") > 2 && final_of(all, "begin_p50") < 1, "a tool takes its second");
                free(flags), json_decref(all);
            }
    json_t *all = receipt_of("--requests 30 --agent-turns 3 --spread 0 --prompt-length 40 --answer-length 8 "
                             "--tool-tokens 12");
    CHECK(final_of(all, "executed") == 10 * (40 + 60 + 80 + 3 * 7), "nothing is found: %g", final_of(all, "executed"));
    json_decref(all);
}

static const Test tests[] = {
    {"serve/replayed", "a signal does not stop a replay, whose run is not written yet", replayed},
    {"serve/costs", "the fit finds the costs it was made from; beyond what was measured it refuses", costs},
    {"serve/noisy-costs", "no step costs less than nothing, whatever was measured", noisy_costs},
    {"serve/step-sizes", "tokens, keys, pairs and draws of a step that mixes all kinds of rows", step_sizes},
    {"serve/draft-rounds", "a draft reads what is known, then guess after guess, and each round has its price",
     draft_rounds},
    {"serve/guesses", "as many guesses as pay by the table, which knows how many texts write", guesses},
    {"serve/formats", "each format of a trace: times, lengths, scales", formats},
    {"serve/lengths", "lengths of any spread have their average and their coefficient of variation", lengths},
    {"serve/shared-prompts", "equal numbers of pieces become equal tokens", shared_prompts},
    {"serve/bad-traces", "what is no trace is refused, with its line", bad_traces},
    {"serve/statistics", "percentiles by nearest rank; who is good", statistics},
    {"serve/same-digest", "pool, budget, blocks, order and preemption change no token", same_digest},
    {"serve/refusals", "flags without effect, files that are not there", refusals},
    {"serve/stopped", "a signal leaves the records of those that have ended", stopped},
    {"serve/receipts", "the receipt as JSON; a backlog; what is known beforehand", receipts},
    {"serve/sessions", "what an agent's turns compute follows from lengths, blocks and the place of a volatile token",
     sessions},
    {"serve/arrivals", "closed loop, bursts, shedding and refusals", arrivals},
};
REGISTER_TESTS(tests)

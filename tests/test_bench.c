// test_bench.c: bench/bench at its smallest sizes, for what it leaves behind. How fast anything is, is no test.
#include "run/run.h"
#include "tests/program.h"
#include <math.h>
#include <stdlib.h>

static char *bench_binary(void) {
    const char *train = train_binary();
    return xprintf("%.*sbench/bench", (int)(strrchr(train, '/') + 1 - train), train);
}

static Result bench(const char *arguments) { return shell(xprintf("exec '%s' %s", bench_binary(), arguments)); }

// Every number is finite (run_number makes null of others) and none is negative.
static size_t check_numbers(const json_t *value, const char *name) {
    size_t numbers = 0, i;
    const char *key;
    json_t *child;
    CHECK(!json_is_null(value), "%s is not a number", name);
    if (json_is_number(value))
        CHECK(json_number_value(value) >= 0, "%s is %g", name, json_number_value(value)), numbers++;
    json_object_foreach((json_t *)value, key, child) numbers += check_numbers(child, key);
    json_array_foreach(value, i, child) numbers += check_numbers(child, name);
    return numbers;
}

// With --llama the race in few bits is among them; --tiny starts no such program.
static void leaves_results(void) {
    static const char *const sections[] = {"products", "steps", "attention", "decode", "rows", "serve", "http",
                                           "threads", "memory", "packed"};
    Result r = bench(xprintf("--tiny --threads 1 --llama '%s' --out new/results.json", bench_binary()));
    CHECK(r.status == 0, "status %d: %s", r.status, r.error);
    json_t *root = json_load_file(test_path("new/results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(root, "the results are not JSON");
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        CHECK(json_array_size(json_object_get(all, sections[i])) > 0, "nothing about %s", sections[i]);
        CHECK(strstr(r.out, xprintf("== %s", sections[i])), "no table of %s", sections[i]);
    }
    CHECK(check_numbers(json_object_get(root, "limits"), "limits") == 4, "the machine was not measured");
    CHECK(check_numbers(all, "sections") > 50, "hardly any numbers");
    CHECK(file_exists(test_path("new/roofline.png")), "no picture");
    json_decref(root);
}

static void one_section(void) {
    Result r = bench("attention --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    json_t *first = json_array_get(json_object_get(all, "attention"), 0);
    CHECK(r.status == 0 && json_object_size(all) == 1 && first, "%d: %s", r.status, r.error);
    CHECK(json_object_get(json_object_get(first, "forward"), "swa"), "the window is not among the kinds of attention");
    json_decref(root);
    CHECK(strstr(bench("attention --tiny --out ''").error, "--out needs the name of a file"), "an empty name");
    r = bench("attention --tiny --out .");
    CHECK(r.status == 1 && strstr(r.error, "a directory stands there") && !strstr(r.out, "=="), "%d: %s", r.status,
          r.out);
    r = bench("walking --tiny");
    CHECK(r.status == 2 && strstr(r.error, "walking") && count_lines(r.error) == 1, "%d: %s", r.status, r.error);
}

// Products of quantised weights: every format beside our floats, by rows.
static void quantised(void) {
    Result r = bench("quant --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL);
    json_t *all = json_object_get(json_object_get(root, "sections"), "quant"), *first = json_array_get(all, 0);
    CHECK(r.status == 0 && json_array_size(all) == 56, "%d: %s", r.status, r.error);
    CHECK(check_numbers(all, "quant") > 200, "hardly any numbers");
    double floats = json_number_value(json_object_get(first, "weight_bytes"));
    double q8 = json_number_value(json_object_get(json_array_get(all, 2), "weight_bytes"));
    CHECK(fabs(q8 / floats - 8.5 / 32) < 0.01, "%g bytes of q8_0 beside %g of floats", q8, floats);
    json_decref(root);
}

// Whole models in integers, each format beside floats: writing to one and two texts, and reading.
static void in_integers(void) {
    Result r = bench("packed --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL);
    json_t *all = json_object_get(json_object_get(root, "sections"), "packed"), *first = json_array_get(all, 0);
    CHECK(r.status == 0 && json_array_size(all) == 6, "%d: %s", r.status, r.error);
    CHECK(check_numbers(all, "packed") > 60, "hardly any numbers");
    double floats = json_number_value(json_object_get(first, "float_bytes"));
    double q8 = json_number_value(json_object_get(first, "bytes")), keys = 128.0 * 2 * 2 * 64 * 4;
    CHECK(fabs((q8 - keys) / (floats - keys) - 8.5 / 32) < 0.02, "%g bytes of q8_0 beside %g of floats", q8, floats);
    json_decref(root);
}

// Flash taken apart, and narrow heads beside a hog, which ends with its section.
static void flash_apart(void) {
    Result r = bench("flash starved --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(r.status == 0 && root, "status %d: %s", r.status, r.error);
    static const struct { const char *name; size_t rows; } section[] = {
        {"flash", 6}, {"left", 6}, {"streams", 3}, {"starved", 24}, {"crossing", 3}};
    for (size_t i = 0; i < sizeof section / sizeof section[0]; i++) {
        size_t rows = json_array_size(json_object_get(all, section[i].name));
        CHECK(rows == section[i].rows, "%zu rows of %s", rows, section[i].name);
    }
    // 64 queries in strips of 24: 24 x 24 + 24 x 48 + 16 x 64 pairs of the 64 x 64; softmax of 64 x 65 / 2 in both.
    json_t *first = json_array_get(json_object_get(all, "flash"), 0);
    double pairs = 24 * 24 + 24 * 48 + 16 * 64, softmax = 26 * 64 * 65 / 2, of_pair = 4 * 16;
    double expected = (of_pair * 64 * 64 + softmax) / (of_pair * pairs + softmax);
    double saved = json_number_value(json_object_get(first, "flops_saved"));
    CHECK(fabs(saved - expected) < 1e-5, "flash saves %g of the FLOPs, and should %g", saved, expected);
    json_decref(root);
    CHECK(strstr(bench("--help").out, "starved"), "the help does not know the section");
}

// What a server's steps cost and are worth. Times are no test; that guesses, batches and blocks of several texts leave
// the bits alone is one, as is that two means of the same acceptance differ by the factor that arithmetic gives.
static void steps_of_servers(void) {
    Result r = bench("costs batches guesses shared --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(r.status == 0 && root, "status %d: %s", r.status, r.error);
    static const struct { const char *name; size_t rows; } section[] = {
        {"constants", 1}, {"grid", 8}, {"errors", 2}, {"knee", 1}, {"chunks", 11}, {"chunk", 1}, {"batches", 6},
        {"apart", 2}, {"acceptance", 1}, {"best", 5}, {"guessed", 1}, {"written", 6}, {"promise", 1}, {"bits", 1},
        {"shared", 4}};
    for (size_t i = 0; i < sizeof section / sizeof section[0]; i++) {
        size_t rows = json_array_size(json_object_get(all, section[i].name));
        CHECK(rows == section[i].rows, "%zu rows of %s", rows, section[i].name);
    }
    json_t *accepted = json_array_get(json_object_get(all, "acceptance"), 0);
    CHECK(json_number_value(json_object_get(accepted, "alike")) == 1, "texts differ in a batch");
    double mean = json_number_value(json_object_get(accepted, "mean"));
    double pooled = json_number_value(json_object_get(accepted, "pooled"));
    double factor = json_number_value(json_object_get(accepted, "factor"));
    CHECK(factor > 1.02 && fabs(mean / pooled - factor) < 1e-4, "%g over %g is not %g", mean, pooled, factor);
    json_t *bits = json_array_get(json_object_get(all, "bits"), 0);
    CHECK(json_number_value(json_object_get(bits, "same")) == 1, "guesses show in the bits");
    json_decref(root);
}

static void codecs(void) {
    Result r = bench("codecs --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL);
    json_t *all = json_object_get(json_object_get(root, "sections"), "codecs");
    CHECK(r.status == 0 && json_array_size(all) == 8, "status %d: %s%s", r.status, r.out, r.error);
    double whole = json_number_value(json_object_get(json_array_get(all, 0), "cache_bytes"));
    double least = json_number_value(json_object_get(json_array_get(all, 6), "cache_bytes"));
    CHECK(whole == 256 * 2 * 256 * 4 && least == whole * 18 / 128, "%g and %g bytes", whole, least);
    json_decref(root);
}

// Two processes with many requests under way and with few: that rates are there, and bits are not asked again.
static void many_and_few(void) {
    Result r = bench("split --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(r.status == 0 && json_array_size(json_object_get(all, "throughput")) == 6, "%d: %s", r.status, r.error);
    CHECK(check_numbers(all, "split") > 70, "hardly any numbers");
    json_decref(root);
}

// Where steps turn compute-bound, of integers too: they have the bytes that 8 bits and a scale have.
static void ridge(void) {
    Result r = bench("ridge --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    json_t *rows = json_object_get(all, "ridge"), *integers = json_array_get(rows, 1);
    CHECK(r.status == 0 && json_array_size(rows) == 3, "%d: %s", r.status, r.error);
    CHECK(check_numbers(rows, "ridge") > 60, "hardly any numbers");
    double share = json_number_value(json_object_get(integers, "bytes_of_floats"));
    CHECK(fabs(share - 8.5 / 32) < 0.01, "integers have %g of the bytes", share);
    json_decref(root);
}

// A text that was fetched goes on as one that was computed. Where the directory is memory there is no disk to measure.
static void tier(void) {
    Result r = bench("tier --tiny --threads 1 --out results.json");
    if (strstr(r.error, "file system in memory")) return;
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(r.status == 0 && json_array_size(json_object_get(all, "fetched")) == 15, "%d: %s", r.status, r.error);
    CHECK(check_numbers(all, "tier") > 100, "hardly any numbers");
    json_t *same = json_object_get(json_array_get(json_object_get(all, "tier"), 0), "same");
    CHECK(json_number_value(same) == 1, "it goes on differently");
    json_decref(root);
}

// Times are no test; that experts and dense layers of a total have as many parameters is.
static void experts_apart(void) {
    Result r = bench("experts --tiny --threads 1 --out results.json");
    json_t *root = json_load_file(test_path("results.json"), 0, NULL), *all = json_object_get(root, "sections");
    CHECK(r.status == 0 && root, "status %d: %s", r.status, r.error);
    json_t *rows = json_object_get(all, "experts"), *row;
    CHECK(json_array_size(rows) == 10 && json_array_size(json_object_get(all, "idle")) == 1, "rows are missing");
    size_t i;
    double one = json_number_value(json_object_get(json_array_get(rows, 0), "parameters"));
    json_array_foreach(rows, i, row) {
        double number = json_number_value(json_object_get(row, "number"));
        double more = json_number_value(json_object_get(row, "parameters")) - one;
        double router = strcmp(json_string_value(json_object_get(row, "kind")), "learned") ? 0 : 16 * (16 + 1);
        CHECK(more == (number - 1) * 3 * 16 * 16 + router, "%zu: %g parameters more", i, more);
        CHECK(json_number_value(json_object_get(row, "tokens")) == 16 * 48, "%zu: other tokens", i);
    }
    json_decref(root);
}

static const Test tests[] = {
    {"bench/results", "every section leaves numbers, a table, and the picture", leaves_results},
    {"bench/section", "a section runs alone; an unknown one is refused", one_section},
    {"bench/quant", "products of quantised weights are measured by format and rows", quantised},
    {"bench/packed", "models in integers are measured beside floats, by format", in_integers},
    {"bench/flash", "flash attention is taken apart, also beside a hog, and its FLOPs are counted", flash_apart},
    {"bench/codecs", "a packed cache is measured by codec", codecs},
    {"bench/split", "two processes are measured with many clients and with few", many_and_few},
    {"bench/ridge", "the ridge of integers is measured on as many bytes as they have", ridge},
    {"bench/tier", "a text from a disk goes on as one that was computed again", tier},
    {"bench/experts", "experts and dense layers take turns, and have the parameters that they should", experts_apart},
    {"bench/servers", "steps, batches and guesses leave numbers, and the bits as they were", steps_of_servers},
};
REGISTER_TESTS(tests)

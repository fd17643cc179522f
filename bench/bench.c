// bench.c: main(). How fast is it, as a share of what this machine can do?
//
//     make bench                                  everything, in about six minutes
//     make bench ARGS=--quick                     in one minute
//     make bench LLAMA=1                          and beside llama.cpp, in floats and in few bits: six more
//     bench/bench products decode                 two sections
//     bench/bench --help
//
// The machine is measured first. Tables go to the terminal, all figures to a JSON file, and a roofline picture lies
// beside it. What this is not: a test. Nothing here passes or fails; goals stand beside what was measured.
#include "lib/cpu.h"
#include "lib/process.h"
#include "run/run.h"
#include "lib/simd.h"
#include "lib/threads.h"
#include "bench/bench.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { const char *name, *what; void (*run)(Bench *b); } Section;
static const Section sections[] = {
    {"products", "matrix products at the shapes of real models, beside OpenBLAS", bench_products},
    {"steps", "whole training steps", bench_steps},
    {"attention", "attention alone: naive, band, flash, and with a window", bench_attention},
    {"decode", "reading a prompt, and writing token by token", bench_decode},
    {"context", "writing, by the length of the text before", bench_context},
    {"rows", "a step of 1 to 64 texts over blocks, each a token further", bench_rows},
    {"serve", "what ./serve takes beside the steps of its model", bench_serve},
    {"http", "what the scheduler and HTTP take, by the server's own count", bench_http},
    {"torch", "the training steps beside PyTorch", bench_torch},
    {"llama", "batched decoding beside llama.cpp", bench_llama},
    {"threads", "scaling over threads", bench_threads},
    {"memory", "peak memory against the prediction of --dry-run", bench_memory},
    {"quant", "products of quantised weights, by format and rows", bench_quant},
    {"packed", "models in integers, beside floats and llama.cpp", bench_packed},
    {"flash", "what flash attention saves, taken apart", bench_flash},
    {"starved", "attention with narrow heads where bandwidth is scarce", bench_starved},
    {"costs", "what a step costs, from three constants", bench_costs},
    {"batches", "the same requests, continuous, static and padded", bench_batches},
    {"guesses", "how many guesses pay, and what they do to the bits", bench_guesses},
    {"shared", "a step of texts that begin in the same blocks", bench_shared},
    {"disagg", "a process that reads and one that writes, over a link", bench_disagg},
    {"split", "two processes with many requests under way, and with few", bench_split},
    {"ridge", "where decoding turns compute-bound, and what moves that", bench_ridge},
    {"codecs", "writing after a long text whose keys and values are packed", bench_codecs},
    {"experts", "what experts cost in seconds", bench_experts},
    {"tier", "a text from a disk, beside computing it again", bench_tier},
};
enum { SECTIONS = sizeof sections / sizeof sections[0], BY_NAME = 14 };      // the last ones run where they are named

// ---- flags ---------------------------------------------------------------------------------------
typedef struct {
#define SECTIONS "bench/bench.def"
#include "config/fields.h"
} Options;

#define SECTIONS "bench/bench.def"
#define FLAGS_TARGET Options
#include "config/rows.h"

static const FlagTable table = {
    FLAGS_OF_SECTIONS,
    .program = "bench/bench [section]... [--name value]...",
    .about = "Measures this machine, then how much of it we use. Sections (default: those before quant; packed with "
             "--llama):\n"
             "  products    matrix products at the shapes of real models, beside OpenBLAS where that is installed\n"
             "  steps       whole training steps          attention   naive, band, flash, forward and backward\n"
             "  decode      reading and writing           context     writing, by the length of the text before\n"
             "  rows        a step of 1 to 64 texts       serve       event clock, scheduler, HTTP, prefix cache\n"
             "  torch       the steps beside PyTorch, with --torch\n"
             "  llama       batched decoding beside llama.cpp, with --llama\n"
             "  threads     scaling over threads          memory      peak memory against --dry-run\n"
             "  quant       products of quantised weights\n"
             "  packed      models in integers, beside floats, and beside llama.cpp with --llama (3 minutes)\n"
             "  flash       what flash saves, by parts    starved     attention where bandwidth is scarce (3 minutes)\n"
             "  costs       a step's, of three parts      batches     continuous, static, padded\n"
             "  guesses     how many of them pay          shared      texts that begin in the same blocks\n"
             "  disagg      a process reads, one writes   codecs      long texts over a packed cache\n"
             "  split       the same, many requests or few    ridge   of integers, and of one thread\n"
             "  experts     what they cost in seconds     tier        a text from a disk or computed again",
    .examples = "  bench/bench steps --rounds 15\n  bench/bench products attention --quick --out /tmp/mine.json\n",
};

// Words before the first flag are sections; returns how many there are. wanted[i] tells which.
static int parse_sections(int argc, char **argv, bool wanted[SECTIONS]) {
    int words = 0;
    for (size_t i = 0; i < SECTIONS; i++) wanted[i] = false;
    for (; words + 1 < argc && argv[words + 1][0] != '-'; words++) {
        bool known = false;
        for (size_t i = 0; i < SECTIONS; i++)
            if (!strcmp(argv[words + 1], sections[i].name)) wanted[i] = known = true;
        if (!known) usage_error("there is no section \"%s\"; bench/bench --help lists them", argv[words + 1]);
    }
    for (size_t i = 0; i + BY_NAME < SECTIONS && !words; i++) wanted[i] = true;
    return words;
}

// ---- the machine ---------------------------------------------------------------------------------
typedef struct { double peak, peak_one, bandwidth, bandwidth_one; } Limits;

static Limits measure_machine(Bench *b) {
    Limits l = {peak_now(b, b->threads), peak_now(b, 1), bandwidth_now(b, b->threads), bandwidth_now(b, 1)};
    return l;
}

static void print_machine(const Bench *b, const Limits *l, json_t *machine) {
    printf("machine  %s, %d threads, %s, %zu MiB of last-level cache\n",
           json_string_value(json_object_get(machine, "cpu")), b->threads, simd_name(), b->caches >> 20);
    printf(
        "limits   fused multiply-adds (%s) %.1f GFLOP/s, one thread %.1f; reading memory %.1f GB/s, one thread %.1f\n",
        sizeof(real) == 4 ? "fp32" : "fp64", l->peak, l->peak_one, l->bandwidth, l->bandwidth_one);
    // The limits are the best of short tries, which fit between other processes; what is measured must share the cores.
    if (b->load > 0.5)
        printf("busy     other processes wanted %.1f of %d cores in the last minute: shares will come out too low\n",
               b->load, omp_get_num_procs());
    if (b->rounds > 1)
        printf("         medians of %zu rounds in which all take turns; ± %% is half the distance of the quartiles\n",
               b->rounds);
    fflush(stdout);
}

static json_t *limits_json(const Limits *l) {
    return json_pack("{s:f, s:f, s:f, s:f}", "fma_gflops", l->peak, "fma_gflops_one_thread", l->peak_one,
                     "read_gbytes_per_second", l->bandwidth, "read_gbytes_per_second_one_thread", l->bandwidth_one);
}

// ---- what is left --------------------------------------------------------------------------------
static char *beside(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return xprintf("%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
}

static void draw(const Bench *b, const Limits *l, const char *cpu, const char *path) {
    static const char *const labels[GROUPS] = {"products", "training steps", "attention", "inference"};
    char *subtitle =
        xprintf("%s, %d threads, %s; percentages are shares of the roof above the point", cpu, b->threads, simd_name());
    roofline_draw(path, &(Roofline){.title = "What this machine allows, and what is reached",
                                    .subtitle = subtitle,
                                    .peak = l->peak,
                                    .bandwidth = l->bandwidth,
                                    .point = b->point,
                                    .points = b->points,
                                    .group_label = labels,
                                    .groups = GROUPS});
    free(subtitle);
}

static void write_results(const Bench *b, const Limits *first, const Limits *last, json_t *machine, const char *path) {
    char *directory = beside(path, ""), *picture = beside(path, "roofline.png");
    json_object_set_new(machine, "cache_bytes", json_integer((json_int_t)b->caches));
    json_object_set_new(machine, "load_before", json_real(b->load));
    json_t *all = json_pack("{s:s, s:s, s:I, s:O, s:o, s:o, s:O}", "commit", run_commit(), "effort",
                            b->effort == FULL    ? "full"
                            : b->effort == QUICK ? "quick"
                                                 : "tiny",
                            "rounds", (json_int_t)b->rounds, "machine", machine, "limits", limits_json(first),
                            "limits_at_the_end", limits_json(last), "sections", b->sections);
    if (*directory) make_directories(directory);
    char *text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    write_whole_file(path, text, strlen(text));
    if (b->points) draw(b, first, json_string_value(json_object_get(machine, "cpu")), picture);
    printf("\nat the end: fused multiply-adds %.1f GFLOP/s, reading memory %.1f GB/s\nresults  %s%s%s\n", last->peak,
           last->bandwidth, path, b->points ? ", " : "", b->points ? picture : "");
    free(text);
    json_decref(all);
    free(directory);
    free(picture);
}

// Before minutes of measuring, not after them.
static void check_out(const char *path) {
    if (!*path) usage_error("--out needs the name of a file");
    char *directory = beside(path, "");
    if (*directory) make_directories(directory);
    AtomicFile a = atomic_open(path);
    fclose(a.f);
    unlink(a.temporary);
    free(a.path), free(a.temporary), free(directory);
}

static Bench prepare(const Options *o) {
    Bench b = {.effort = o->tiny ? TINY : o->quick ? QUICK : FULL, .python = o->torch, .llama = o->llama};
    b.rounds = o->rounds ? o->rounds : b.effort == FULL ? 7 : b.effort == QUICK ? 3 : 1;
    b.least_seconds = b.effort == FULL ? 0.02 : 0.005;
    b.threads = o->threads ? (int)o->threads : omp_get_max_threads();
    b.caches = machine_cache_bytes();
    if (getloadavg(&b.load, 1) < 1) b.load = 0;
    b.sections = json_object();
    omp_set_num_threads(b.threads);
    return b;
}

int main(int argc, char **argv) {
    cpu_check(run_commit());
    process_begin();
    threads_wait_briefly(argv);
    Options o;
    bool wanted[SECTIONS];
    int words = parse_sections(argc, argv, wanted);
    flags_parse(&table, &o, argc - words, argv + words, NULL);
    for (size_t i = 0; i < SECTIONS && !words && *o.llama; i++)        // the race is in floats and in few bits
        if (sections[i].run == bench_packed) wanted[i] = true;
    check_out(o.out);
    if (*o.torch && access(o.torch, X_OK) != 0) usage_error("--torch %s: there is no such program", o.torch);
    if (*o.llama && access(o.llama, X_OK) != 0) usage_error("--llama %s: there is no such program", o.llama);
    Bench b = prepare(&o);
    json_t *machine = run_machine(b.threads);
    Limits first = measure_machine(&b);
    print_machine(&b, &first, machine);
    for (size_t i = 0; i < SECTIONS; i++) {
        if (!wanted[i]) continue;
        printf("\n== %s: %s\n", sections[i].name, sections[i].what);
        fflush(stdout);
        sections[i].run(&b);
    }
    Limits last = measure_machine(&b);
    write_results(&b, &first, &last, machine, o.out);
    return 0;
}

// flash.c: what flash attention saves, taken apart, beside what the machine's limits say. Four kernels over the same
// numbers, each a step from the one before it:
//   naive   the T x T matrix is computed whole and stored                  from naive to band: the masked half
//   band    that matrix, without the half that the mask hides              from band to strip: the matrix in memory
//   strip   24 queries at a time, with all their keys: flash, one wide tile     from strip to flash: smaller tiles
//   flash   tiles of 24 queries by 64 keys
// The same matrices are also gone over without attention (streams: a write, an update in place, a read), which says
// what they cost where nothing hides it. And all of it once more with one thread, alone and beside a hog: another
// process on every other core, which reads and writes memory as fast as it can.
#include "kernels/attention.h"
#include "lib/profile.h"
#include "lib/rng.h"
#include "lib/simd.h"
#include "bench/bench.h"
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { HEADS = 2, TILE = 64, ROWS = 24, WIDEST = 64, LEAST_TOKENS = 2048, PASSES = 2 };
typedef enum { NAIVE, BAND, STRIP, FLASH, KINDS } Kind;
static const char *const kind_name[KINDS] = {"naive", "band", "strip", "flash"};
static const char *const pass_name[PASSES] = {"forward", "backward"};

// ---- the hog -------------------------------------------------------------------------------------
// Stopped but where a contestant asks for it, so that quiet and starved ones take turns.
enum { MOST_HOGS = 64, HOG_BYTES = 256 << 20, HOG_WARM = 2000 };  // microseconds
static struct { pid_t pid[MOST_HOGS]; size_t count; } hog;

static void hog_run(void) {
    size_t n = HOG_BYTES / sizeof(real);
    real *x = xmalloc(HOG_BYTES);
    for (;; getppid() == 1 ? _exit(0) : (void)0)
        for (size_t i = 0; i + LANES <= n; i += LANES) vec_store(x + i, vec_add(vec_load(x + i), vec_set(1)));
}

static void hog_each(int signal) {
    for (size_t i = 0; i < hog.count; i++) kill(hog.pid[i], signal);
}

static void hog_end(void) {
    hog_each(SIGKILL);
    for (size_t i = 0; i < hog.count; i++) waitpid(hog.pid[i], NULL, 0);
    hog.count = 0;
}

// One for every core but the one that is measured; of a single core, one that shares it.
static void hog_start(void) {
    int cores = omp_get_num_procs();
    size_t count = cores > MOST_HOGS ? MOST_HOGS : cores > 1 ? (size_t)cores - 1 : 1;
    fflush(stdout), fflush(stderr);
    for (; hog.count < count; hog.count++) {
        pid_t pid = fork();
        if (pid < 0) fail("no process can be started beside the measurement: %s", strerror(errno));
        if (!pid) {
#ifdef __linux__
            prctl(PR_SET_PDEATHSIG, SIGKILL);                      // where this process is killed, the hog ends too
#endif
            hog_run();
        }
        hog.pid[hog.count] = pid;
        kill(pid, SIGSTOP);
    }
    atexit(hog_end);
}

typedef double Measure(void *work, size_t repeats);
static double beside_hog(Measure *run, void *work, size_t repeats) {
    hog_each(SIGCONT);
    usleep(HOG_WARM);
    double seconds = run(work, repeats);
    hog_each(SIGSTOP);
    return seconds;
}

// ---- streams -------------------------------------------------------------------------------------
// Over `count` numbers of each thread: what happens to a matrix of scores, without arithmetic.
typedef enum { READ, WRITE, UPDATE, STREAMS } StreamKind;
static const char *const stream_name[STREAMS] = {"read", "write", "update"};
typedef struct { StreamKind kind; real *data; size_t count; bool starved; } Stream;
enum { AT_ONCE = 4 * LANES };

static void write_all(real *x, size_t n) {
    vec value = vec_set((real)0.5);
    for (size_t i = 0; i + AT_ONCE <= n; i += AT_ONCE)
        for (size_t j = 0; j < AT_ONCE; j += LANES) vec_store(x + i + j, value);
}
static void update_all(real *x, size_t n) {
    vec one = vec_set(1);                                          // x = 1 - x stays in its range
    for (size_t i = 0; i + AT_ONCE <= n; i += AT_ONCE)
        for (size_t j = 0; j < AT_ONCE; j += LANES) vec_store(x + i + j, vec_sub(one, vec_load(x + i + j)));
}
static real read_all(const real *x, size_t n) {
    vec sum[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    for (size_t i = 0; i + AT_ONCE <= n; i += AT_ONCE)
        for (size_t j = 0; j < 4; j++) sum[j] = vec_add(sum[j], vec_load(x + i + j * LANES));
    return vec_sum(vec_add(vec_add(sum[0], sum[1]), vec_add(sum[2], sum[3])));
}

static double run_stream(void *work, size_t repeats) {
    Stream *s = work;
    volatile real cell = 0;                                        // keeps the sums alive
    real sum = 0;
    double start = seconds_now();
#pragma omp parallel reduction(+ : sum)
    {
        real *mine = s->data + (size_t)omp_get_thread_num() * s->count;
        for (size_t i = 0; i < repeats; i++) {
            OPAQUE(mine);
            if (s->kind == READ) sum += read_all(mine, s->count);
            else if (s->kind == WRITE) write_all(mine, s->count);
            else update_all(mine, s->count);
        }
    }
    cell = sum;
    (void)cell;
    return seconds_now() - start;
}
static double run_starved_stream(void *work, size_t repeats) { return beside_hog(run_stream, work, repeats); }

// ---- attention -----------------------------------------------------------------------------------
// B sequences, shared by all kernels: what they read, and what they leave.
typedef struct {
    size_t B, T, D;
    KvView view;
    Arena arena;
    real *q, *k, *v, *out, *dout, *dq, *dk, *dv, *lse, *matrix;
} Text;
typedef struct { Text *text; AttnShape shape; } Work;

static void lay_out(Text *t) {
    size_t n = t->B * t->T * HEADS * t->D * sizeof(real);
    real **each[] = {&t->q, &t->k, &t->v, &t->out, &t->dout, &t->dq, &t->dk, &t->dv};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) *each[i] = arena_take(&t->arena, n);
    t->lse = arena_take(&t->arena, t->B * HEADS * t->T * sizeof(real));
}

// matrix: room for B x HEADS x T x T numbers, which all texts share: what stands there has no influence on the time.
// Of short texts as many as give every thread something to do.
static void text_new(Text *t, size_t T, size_t D, real *matrix) {
    *t = (Text){.B = T < LEAST_TOKENS ? LEAST_TOKENS / T : 1, .T = T, .D = D, .arena = {.name = "attention"},
                .matrix = matrix};
    lay_out(t);
    arena_commit(&t->arena);
    lay_out(t);
    size_t row = HEADS * D;
    Rng random = rng_stream(1, RNG_TEST, T);
    real *const drawn[] = {t->q, t->k, t->v, t->dout};
    for (size_t i = 0; i < t->B * T * row; i++)
        for (size_t j = 0; j < sizeof drawn / sizeof drawn[0]; j++) drawn[j][i] = (real)(rng_uniform(&random) - 0.5);
    t->view = (KvView){.k = t->k, .v = t->v, .k_step = T * row, .k_stride = row, .k_head = D, .v_step = T * row,
                       .v_stride = row, .v_head = D, .length = T};
}

static AttnShape shape_of(size_t T, size_t D, Kind kind) {
    AttnKernel kernel = kind == NAIVE ? ATTENTION_naive : kind == BAND ? ATTENTION_band : ATTENTION_flash;
    return (AttnShape){.H = HEADS, .KV = HEADS, .D = D, .Dv = D, .scale = 1 / sqrt((double)D), .kernel = kernel,
                       .tile = kind == STRIP ? round_up(T, TILE) : TILE};
}

static AttnOutput output_of(const Work *w) {
    return (AttnOutput){w->text->out, HEADS * w->text->D, w->text->lse,
                        w->shape.kernel == ATTENTION_flash ? NULL : w->text->matrix};
}
static AttnInput input_of(const Work *w) {
    return (AttnInput){.q = w->text->q, .q_stride = HEADS * w->text->D, .view = w->text->view, .B = w->text->B,
                       .n = w->text->T};
}

static double run_forward(void *work, size_t repeats) {
    Work *w = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++) attention_forward(output_of(w), input_of(w), w->shape);
    return seconds_now() - start;
}
static double run_backward(void *work, size_t repeats) {
    Work *w = work;
    double start = seconds_now();
    for (size_t i = 0; i < repeats; i++)
        attention_backward((AttnGradient){w->text->dq, w->text->dk, w->text->dv}, w->text->dout, output_of(w),
                           input_of(w), w->shape);
    return seconds_now() - start;
}
static double run_starved_forward(void *work, size_t repeats) { return beside_hog(run_forward, work, repeats); }
static double run_starved_backward(void *work, size_t repeats) { return beside_hog(run_backward, work, repeats); }

// Pairs of a query and a key in the products of one head: all of them, or to the end of each strip of 24 queries.
static double pairs_of(size_t T, Kind kind) {
    double pairs = 0;
    for (size_t i = 0; i < T; i += ROWS) {
        size_t rows = smaller(ROWS, T - i);
        pairs += (double)rows * (double)(kind == NAIVE ? T : i + rows);
    }
    return pairs;
}

// Of one pass, as --profile counts them: products are two forward and four backward, and a fifth for flash, which has
// not kept the scores. Softmax is of what the mask leaves, in every kernel; flash computes it again.
static double flops_of(const Text *t, Kind kind, int pass) {
    double products = !pass ? 2 : kind < STRIP ? 4 : 5, seen = (double)t->T * (double)(t->T + 1) / 2;
    double softmax = !pass ? PROFILE_EXP + 4 : kind < STRIP ? 3 : PROFILE_EXP + 6;
    return (double)(t->B * HEADS) * (2 * products * pairs_of(t->T, kind) * (double)t->D + softmax * seen);
}

// ---- the first race: every kernel, over contexts and widths of a head -----------------------------
enum { CONTEXTS = 8, WIDTHS = 3 };
static const struct { size_t T; Effort from; } contexts[CONTEXTS] = {
    {64, TINY}, {128, FULL}, {256, QUICK}, {512, FULL}, {1024, QUICK}, {2048, FULL}, {4096, FULL}, {8192, FULL}};
static const size_t widths[WIDTHS] = {16, 32, WIDEST};
static Text texts[WIDTHS][CONTEXTS];
static Work works[WIDTHS][CONTEXTS][KINDS];
static Contestant grid[WIDTHS][CONTEXTS][KINDS][PASSES];

static size_t longest(const Bench *b) {
    size_t T = 0;
    for (size_t i = 0; i < CONTEXTS; i++)
        if (contexts[i].from <= b->effort) T = contexts[i].T;
    return T;
}

static void enter_grid(const Bench *b, real *matrix) {
    for (size_t d = 0; d < WIDTHS; d++)
        for (size_t i = 0; i < CONTEXTS; i++) {
            if (contexts[i].from > b->effort) continue;
            Text *t = &texts[d][i];
            text_new(t, contexts[i].T, widths[d], matrix);
            for (Kind kind = NAIVE; kind < KINDS; kind++) {
                works[d][i][kind] = (Work){t, shape_of(t->T, t->D, kind)};
                for (int pass = 0; pass < PASSES; pass++)
                    grid[d][i][kind][pass] = (Contestant){.run = pass ? run_backward : run_forward,
                                                          .work = &works[d][i][kind],
                                                          .flops = flops_of(t, kind, pass)};
            }
        }
}

// Steps between kernels, each as a speed over the one before.
enum { HALF, MATRIX, TILES, STEPS };
static const char *const step_name[STEPS] = {"band_times_naive", "strip_times_band", "flash_times_strip"};

// How many times fewer FLOPs flash does than naive; and how its speed differs from that.
static double flops_saved(const Contestant c[KINDS][PASSES], int pass) {
    return c[NAIVE][pass].flops / c[FLASH][pass].flops;
}
static double left_of(const Bench *b, const Contestant c[KINDS][PASSES], int pass) {
    return ratio_of(b, &c[FLASH][pass], &c[NAIVE][pass]).median / flops_saved(c, pass);
}

static json_t *pass_json(const Bench *b, const Contestant c[KINDS][PASSES], int pass) {
    json_t *o = json_object();
    for (Kind kind = NAIVE; kind < KINDS; kind++)
        json_object_set_new(o, kind_name[kind], contestant_json(b, &c[kind][pass]));
    for (int step = 0; step < STEPS; step++)
        json_object_set_new(o, step_name[step], summary_json(ratio_of(b, &c[step + 1][pass], &c[step][pass])));
    json_object_set_new(o, "flash_times_naive", summary_json(ratio_of(b, &c[FLASH][pass], &c[NAIVE][pass])));
    json_object_set_new(o, "flash_times_band", summary_json(ratio_of(b, &c[FLASH][pass], &c[BAND][pass])));
    json_object_set_new(o, "flops_saved", json_real(flops_saved(c, pass)));
    json_object_set_new(o, "left", json_real(left_of(b, c, pass)));
    return o;
}

// From a context on, of each width: the least and the most of what is left.
static void report_left(Bench *b, const char *section, size_t from) {
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t d = 0; d < WIDTHS; d++) {
            double low = INFINITY, high = 0;
            for (size_t i = 0; i < CONTEXTS; i++) {
                if (contexts[i].T < from) continue;
                double left = grid[d][i][NAIVE][pass].run ? left_of(b, grid[d][i], pass) : NAN;
                low = left < low ? left : low, high = left > high ? left : high;
            }
            printf("%-8s %5zu: flash/naive is the FLOPs saved, times %.2f to %.2f, from %zu tokens on\n",
                   pass_name[pass], widths[d], low, high, from);
            add_result(b, section, json_pack("{s:s, s:I, s:f, s:f}", "pass", pass_name[pass], "width",
                                             (json_int_t)widths[d], "low", low, "high", high));
        }
}

static void report_grid(Bench *b) {
    printf("pass     width context   naive ms      band     strip     flash  flash/naive = half x matrix x tiles\n");
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t d = 0; d < WIDTHS; d++)
            for (size_t i = 0; i < CONTEXTS; i++) {
                const Contestant (*c)[PASSES] = grid[d][i];
                if (!c[NAIVE][pass].run) continue;
                printf("%-8s %5zu %7zu", pass_name[pass], widths[d], contexts[i].T);
                for (Kind kind = NAIVE; kind < KINDS; kind++)
                    printf(" %9.3f", 1e3 * seconds_of(b, &c[kind][pass]).median);
                printf(" %10.2fx", ratio_of(b, &c[FLASH][pass], &c[NAIVE][pass]).median);
                for (int step = 0; step < STEPS; step++)
                    printf(" %7.2f", ratio_of(b, &c[step + 1][pass], &c[step][pass]).median);
                printf("\n");
                json_t *row = json_pack("{s:s, s:I, s:I}", "pass", pass_name[pass], "width", (json_int_t)widths[d],
                                        "context", (json_int_t)contexts[i].T);
                json_t *numbers = pass_json(b, c, pass);
                json_object_update(row, numbers);
                json_decref(numbers);
                add_result(b, "flash", row);
            }
}

// ---- the second race: streams, and attention where bandwidth is scarce ----------------------------
typedef enum { BOTH, ALONE, STARVED, PLACES } Place;
static const char *const place_name[PLACES] = {"all-cores", "one-core", "starved"};      // beside a hog
enum { SIZES = 8, NARROW = 4, MATRIX_BYTES = 64 << 20 };   // of one head of 4096 tokens
static const struct { size_t bytes; Effort from; } sizes[SIZES] = {     // of each thread
    {16 << 10, TINY}, {64 << 10, FULL}, {256 << 10, QUICK}, {1 << 20, FULL},
    {4 << 20, QUICK}, {16 << 20, FULL}, {64 << 20, FULL}, {256 << 20, FULL}};
static const size_t narrow[NARROW] = {8, 16, 32, WIDEST};
static Stream streams[PLACES][SIZES][STREAMS];
static Text narrow_text[NARROW];
static Work narrow_work[NARROW][KINDS];
static struct {
    Contestant stream[PLACES][SIZES][STREAMS];
    Contestant attention[PLACES][NARROW][KINDS][PASSES];
} second;

static int threads_at(Place place) { return place == BOTH ? 0 : 1; }

static void enter_streams(const Bench *b, real *matrix) {
    for (Place place = BOTH; place < PLACES; place++)
        for (size_t i = 0; i < SIZES; i++) {
            if (sizes[i].from > b->effort) continue;
            for (StreamKind kind = READ; kind < STREAMS; kind++) {
                streams[place][i][kind] = (Stream){kind, matrix, sizes[i].bytes / sizeof(real), place == STARVED};
                second.stream[place][i][kind] =
                    (Contestant){.run = place == STARVED ? run_starved_stream : run_stream,
                                 .work = &streams[place][i][kind], .threads = threads_at(place)};
            }
        }
}

static size_t starved_context(const Bench *b) { return b->effort == FULL ? 4096 : b->effort == QUICK ? 1024 : 64; }

static void enter_narrow(const Bench *b, real *matrix) {
    for (size_t d = 0; d < NARROW; d++) {
        Text *t = &narrow_text[d];
        text_new(t, starved_context(b), narrow[d], matrix);
        for (Kind kind = BAND; kind < KINDS; kind++) {
            narrow_work[d][kind] = (Work){t, shape_of(t->T, t->D, kind)};
            for (Place place = BOTH; place < PLACES; place++)
                for (int pass = 0; pass < PASSES; pass++)
                    second.attention[place][d][kind][pass] = (Contestant){
                        .run = place == STARVED ? (pass ? run_starved_backward : run_starved_forward)
                                                : (pass ? run_backward : run_forward),
                        .work = &narrow_work[d][kind], .flops = flops_of(t, kind, pass), .threads = threads_at(place)};
        }
    }
}

// GB/s of what stands in memory, by all threads: an update reads and writes it, a write often reads it first.
static double gbytes(const Bench *b, Place place, size_t size, StreamKind kind) {
    const Contestant *c = &second.stream[place][size][kind];
    double threads = place == BOTH ? b->threads : 1;
    return c->run ? 1e-9 * threads * (double)sizes[size].bytes / seconds_of(b, c).median : NAN;
}

static void report_streams(Bench *b) {
    printf("\nbytes of each thread          GB/s: read     write    update\n");
    for (Place place = BOTH; place < PLACES; place++)
        for (size_t i = 0; i < SIZES; i++) {
            if (!second.stream[place][i][READ].run) continue;
            json_t *row = json_pack("{s:s, s:I}", "place", place_name[place], "bytes", (json_int_t)sizes[i].bytes);
            printf("%-22s %10zu", place_name[place], sizes[i].bytes);
            for (StreamKind kind = READ; kind < STREAMS; kind++) {
                printf(" %9.1f", gbytes(b, place, i, kind));
                json_object_set_new(row, stream_name[kind], json_real(gbytes(b, place, i, kind)));
            }
            printf("\n");
            add_result(b, "streams", row);
        }
}

static void report_narrow(Bench *b) {
    printf("\n%zu tokens                         width   band ms     strip     flash\n", starved_context(b));
    for (Place place = BOTH; place < PLACES; place++)
        for (int pass = 0; pass < PASSES; pass++)
            for (size_t d = 0; d < NARROW; d++) {
                const Contestant (*c)[PASSES] = second.attention[place][d];
                printf("%-22s %-8s %7zu", place_name[place], pass_name[pass], narrow[d]);
                json_t *row = json_pack("{s:s, s:s, s:I, s:I}", "place", place_name[place], "pass", pass_name[pass],
                                        "width", (json_int_t)narrow[d], "context", (json_int_t)narrow_text[d].T);
                for (Kind kind = BAND; kind < KINDS; kind++) {
                    printf(" %9.3f", 1e3 * seconds_of(b, &c[kind][pass]).median);
                    json_object_set_new(row, kind_name[kind], contestant_json(b, &c[kind][pass]));
                }
                json_object_set_new(row, "strip_times_band",
                                    summary_json(ratio_of(b, &c[STRIP][pass], &c[BAND][pass])));
                printf(" %6.2f\n", ratio_of(b, &c[STRIP][pass], &c[BAND][pass]).median);
                add_result(b, "starved", row);
            }
}

// At which width of a head the matrix costs as much as the products do at the FMA peak, forward. Both are proportional
// to the pairs, which cancel: 4 D / F seconds a pair against a write, an update and a read of 4 bytes.
static double predicted_crossing(Bench *b, Place place) {
    size_t size = SIZES;
    while (!second.stream[place][size - 1][READ].run || sizes[size - 1].bytes > MATRIX_BYTES) size--;
    double seconds = 0;                                            // of a byte, of all threads: 1e-9
    for (StreamKind kind = READ; kind < STREAMS; kind++) seconds += 1 / gbytes(b, place, size - 1, kind);
    return peak_now(b, threads_at(place)) * seconds;
}

// What band takes beyond strip, over the time of the products at the peak: where that is 1, between the widths at which
// it was measured; beyond them as if the matrix cost the same at every width.
static double matrix_over_products(Bench *b, Place place, size_t d) {
    const Contestant (*c)[PASSES] = second.attention[place][d];
    double pairs = (double)narrow_text[d].B * HEADS * pairs_of(narrow_text[d].T, BAND);
    double cost = seconds_of(b, &c[BAND][0]).median - seconds_of(b, &c[STRIP][0]).median;
    double products = 4e-9 * (double)narrow[d] * pairs / peak_now(b, threads_at(place));
    return cost > 0 ? cost / products : 0;
}
static double measured_crossing(Bench *b, Place place) {
    double before = matrix_over_products(b, place, 0);
    if (before < 1) return before * (double)narrow[0];
    for (size_t d = 1; d < NARROW; d++) {
        double after = matrix_over_products(b, place, d);
        if (after < 1) {
            double part = log(before) / (log(before) - log(after > 0.01 ? after : 0.01));
            return (double)narrow[d - 1] * pow((double)narrow[d] / (double)narrow[d - 1], part);
        }
        before = after;
    }
    return before * (double)narrow[NARROW - 1];
}

static void report_crossing(Bench *b) {
    printf("\nwidth of a head at which the T x T matrix costs as much as the products: predicted, measured\n");
    for (Place place = BOTH; place < PLACES; place++) {
        double predicted = predicted_crossing(b, place), measured = measured_crossing(b, place);
        printf("%-22s %6.1f %6.1f\n", place_name[place], predicted, measured);
        add_result(b, "crossing", json_pack("{s:s, s:f, s:f, s:f}", "place", place_name[place], "fma_gflops",
                                            peak_now(b, threads_at(place)), "predicted", predicted, "measured",
                                            measured));
    }
}

// ---- the sections --------------------------------------------------------------------------------
// Room for the matrices of the longest text, and for a stream of every thread.
static real *matrix_new(const Bench *b, Arena *arena, size_t T) {
    *arena = (Arena){.name = "matrices of scores"};
    size_t tokens = T > LEAST_TOKENS ? T : LEAST_TOKENS, room = size_mul(HEADS * tokens, T * sizeof(real));
    for (size_t i = 0; i < SIZES; i++)
        if (sizes[i].from <= b->effort && sizes[i].bytes * (size_t)b->threads > room)
            room = sizes[i].bytes * (size_t)b->threads;
    arena_take(arena, room);
    arena_commit(arena);
    return arena_take(arena, room);
}

void bench_flash(Bench *b) {
    Arena arena;
    enter_grid(b, matrix_new(b, &arena, longest(b)));
    race(b, "flash", &grid[0][0][0][0], WIDTHS * CONTEXTS * KINDS * PASSES);
    report_grid(b);
    report_left(b, "left", 0), report_left(b, "left_from_512", 512);
    race_free(&grid[0][0][0][0], WIDTHS * CONTEXTS * KINDS * PASSES);
    for (size_t d = 0; d < WIDTHS; d++)
        for (size_t i = 0; i < CONTEXTS; i++) arena_free(&texts[d][i].arena);
    arena_free(&arena);
}

void bench_starved(Bench *b) {
    Arena arena;
    hog_start();                       // before there is memory that both would have to copy
    real *matrix = matrix_new(b, &arena, starved_context(b));
    enter_streams(b, matrix);
    enter_narrow(b, matrix);
    race(b, "starved", (Contestant *)&second, sizeof second / sizeof(Contestant));
    hog_end();
    report_streams(b);
    report_narrow(b);
    report_crossing(b);
    race_free((Contestant *)&second, sizeof second / sizeof(Contestant));
    for (size_t d = 0; d < NARROW; d++) arena_free(&narrow_text[d].arena);
    arena_free(&arena);
}

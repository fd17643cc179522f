// llama.c: batched decoding in llama.cpp, in turns with ours: a model of the same shape with random weights in fp32, 1
// to 32 texts, each a token further. llama.cpp runs in a process of its own (llama_steps.py).
#include "run/run.h"
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>

#define FLAGS "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 256"
static const size_t counts[] = {1, 4, 16, 32};
enum { COUNTS = sizeof counts / sizeof counts[0], VOCAB = 32000, PAST = 128, AGAIN = 14, OURS = 0, LLAMA, SIDES };
static const double goal = 1.2;

typedef struct { Peer *peer; size_t rows; bool failed; } Work;

static double run_llama(void *work, size_t steps) {
    Work *w = work;
    double seconds = NAN;
    if (!w->failed) w->failed = !peer_seconds(w->peer, &seconds, "%zu %d %zu\n", w->rows, PAST, steps);
    return seconds;
}

static void report(Bench *b, size_t k, Contestant c[SIDES], const Peer *peer, size_t disturbed) {
    double rows = (double)counts[k];
    Summary ours = seconds_of(b, &c[OURS]), theirs = seconds_of(b, &c[LLAMA]);
    Summary times = ratio_of(b, &c[OURS], &c[LLAMA]);
    printf("%5zu %9.0f tok/s %4.0f%% ±%-3.0f %9.0f tok/s %4.0f%% ±%-3.0f %6.2fx ±%-3.0f goal %.1fx\n", counts[k],
           rows / ours.median, 100 * share_of(b, &c[OURS]).median, 100 * spread_of(ours), rows / theirs.median,
           100 * share_of(b, &c[LLAMA]).median, 100 * spread_of(theirs), times.median, 100 * spread_of(times), goal);
    json_t *o = json_pack("{s:I, s:I, s:s, s:s, s:f, s:I, s:f, s:f}", "rows", (json_int_t)counts[k], "past",
                          (json_int_t)PAST, "version", peer->version, "flags", FLAGS, "goal", goal, "disturbed_rounds",
                          (json_int_t)disturbed, "tokens_per_second", rows / ours.median, "llama_tokens_per_second",
                          rows / theirs.median);
    json_object_set_new(o, "ours", contestant_json(b, &c[OURS]));
    json_object_set_new(o, "llama", contestant_json(b, &c[LLAMA]));
    json_object_set_new(o, "times_llama", summary_json(times));
    add_result(b, "llama", o);
}

static void compare(Bench *b, Peer *peer, const Config *config) {
    ModelSize size = model_size(config);
    Model *m = model_new(config, false);
    Blocks *blocks = blocks_new(m, MOST_ROWS * (PAST / ROW_BLOCK + 1), ROW_BLOCK);
    Server *s[COUNTS];
    Work work[COUNTS];
    Contestant c[COUNTS][SIDES] = {{{0}}};
    for (size_t k = 0; k < COUNTS; k++) {
        s[k] = server_new(m, blocks, counts[k], PAST), work[k] = (Work){peer, counts[k], false};
        for (int side = 0; side < SIDES; side++)
            c[k][side] = (Contestant){.run = side == OURS ? server_run : run_llama,
                                      .work = side == OURS ? (void *)s[k] : &work[k],
                                      .flops = server_flops(&size, counts[k]),
                                      .bytes = server_bytes(&size, counts[k], PAST)};
    }
    size_t disturbed = race_quiet(b, "llama.cpp", &c[0][0], COUNTS * SIDES, peer, AGAIN);
    printf("%s, in turns on the same %d threads, fp32, %d tokens before each\n", peer->version, b->threads, PAST);
    if (disturbed) printf("others used the cores in %zu of %zu rounds\n", disturbed, b->rounds);
    printf(" rows    ours, share of the limit     llama.cpp                   ours / llama.cpp\n");
    for (size_t k = 0; k < COUNTS && !*peer->error; k++) report(b, k, c[k], peer, disturbed);
    if (*peer->error) printf("llama.cpp failed: %s\n", peer->error);
    race_free(&c[0][0], COUNTS * SIDES);
    for (size_t k = 0; k < COUNTS; k++) server_free(s[k]);
    blocks_free(blocks), model_free(m);
}

void bench_llama(Bench *b) {
    Peer peer;
    double least = b->least_seconds;
    if (!*b->llama || b->effort == TINY) {
        printf("skipped: no llama.cpp; `make bench LLAMA=1` builds it into the cache folder (a quarter of an hour) and "
               "compares\n");
        return;
    }
    Config c = config_of(FLAGS, VOCAB);
    char *shape = xprintf("%d %zu %zu %zu %zu %zu %zu F32", b->threads, c.layers, c.width, c.heads, c.kv_heads, c.ffn_width,
                          c.vocab);
    b->least_seconds = 20 * least;
    if (peer_start(&peer, b->llama, "bench/llama_steps.py", shape)) compare(b, &peer, &c);
    else
        printf("skipped: %s cannot run bench/llama_steps.py (start it from the root of the repository): %s\n", b->llama,
               peer.error);
    b->least_seconds = least;
    peer_stop(&peer);
    free(shape);
}

// packed.c: whole models that compute in integers (--quant FORMAT --quant-act int8, embedding and head, too), in turns
// with the same in floats, and with llama.cpp where that is at hand: its weights are of the same format, made by the
// gguf package. Writing, of 1 to 64 texts, and reading a prompt. A step of one text must read all weights once: share
// is of the measured read bandwidth.
#include "bench/bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *name, *flags; size_t vocab, counts; Effort from; } sizes[] = {
    {"51M", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4", 32000, 5, QUICK},
    {"124M", "--layers 12 --width 768 --heads 12 --ffn-width 2048", 50257, 1, FULL},
    {"tiny", "--layers 2 --width 64 --heads 2", 256, 2, TINY},
};
static const struct { const char *ours, *theirs; double goal; } formats[] = {{"q8_0", "Q8_0", 1.3},
                                                                             {"q4_0", "Q4_0", 1.2}};
static const size_t counts[] = {1, 2, 4, 16, 64};
enum { SIZES = sizeof sizes / sizeof sizes[0], FORMATS = sizeof formats / sizeof formats[0],
       COUNTS = sizeof counts / sizeof counts[0], PAST = 128, PROMPT = 512, AGAIN = 14,
       FLOATS = 0, OURS, LLAMA, SIDES };
static const double prefill_goal = 1.5;

// Rows 0: a prompt is read.
typedef struct { Peer *peer; size_t rows, tokens; bool failed; } Work;
static double run_llama(void *work, size_t steps) {
    Work *w = work;
    double seconds = NAN;
    if (!w->failed) w->failed = !peer_seconds(w->peer, &seconds, "%zu %zu %zu\n", w->rows, w->tokens, steps);
    return seconds;
}

// ---- one model in one format ---------------------------------------------------------------------
typedef struct {
    size_t size, format, counts, prompt, disturbed;
    Model *model[2];                                        // in floats, in integers
    Blocks *blocks[2];
    ModelSize bytes[2];
    Peer peer;
    bool has_peer;
    Contestant all[COUNTS + 1][SIDES];                      // the last one reads
    Work work[COUNTS + 1];
} Match;

static Server *reader(Model *m, Blocks *blocks, size_t prompt) {
    static int token[PROMPT];
    Server *s = server_new(m, blocks, 1, prompt);
    for (size_t i = 0; i < prompt; i++) token[i] = (int)(i * 7919 % model_config(m)->vocab);
    s->row[0].tokens = token, s->row[0].n = prompt, s->row[0].past = 0, s->row[0].logits_from = prompt - 1;
    return s;
}

static void open_models(Match *t) {
    char *in_integers = xprintf("%s --quant %s --quant-act int8 --quant-embed", sizes[t->size].flags,
                                formats[t->format].ours);
    for (int side = FLOATS; side <= OURS; side++) {
        Config c = config_of(side == OURS ? in_integers : sizes[t->size].flags, sizes[t->size].vocab);
        size_t most = counts[t->counts - 1] * (PAST / ROW_BLOCK + 1), of_prompt = t->prompt / ROW_BLOCK + 1;
        t->bytes[side] = model_size(&c), t->model[side] = model_new(&c, false);
        t->blocks[side] = blocks_new(t->model[side], most > of_prompt ? most : of_prompt, ROW_BLOCK);
        for (size_t k = 0; k <= t->counts; k++) {
            bool reads = k == t->counts;
            Server *s = reads ? reader(t->model[side], t->blocks[side], t->prompt)
                              : server_new(t->model[side], t->blocks[side], counts[k], PAST);
            double bytes = reads ? 0 : server_bytes(&t->bytes[side], counts[k], PAST);
            t->all[k][side] = (Contestant){.run = server_run, .work = s, .bytes = bytes};
        }
    }
    free(in_integers);
}

static void open_peer(Bench *b, Match *t) {
    if (!*b->llama || b->effort == TINY) return;
    const Config *c = model_config(t->model[FLOATS]);
    char *shape = xprintf("%d %zu %zu %zu %zu %zu %zu %s", b->threads, c->layers, c->width, c->heads,
                          c->kv_heads ? c->kv_heads : c->heads, c->ffn_width, c->vocab, formats[t->format].theirs);
    t->has_peer = peer_start(&t->peer, b->llama, "bench/llama_steps.py", shape);
    if (!t->has_peer) printf("skipped: %s cannot run bench/llama_steps.py: %s\n", b->llama, t->peer.error);
    for (size_t k = 0; k <= t->counts && t->has_peer; k++) {
        t->work[k] = (Work){&t->peer, k < t->counts ? counts[k] : 0, k < t->counts ? PAST : t->prompt, false};
        double bytes = t->all[k][OURS].bytes;
        t->all[k][LLAMA] = (Contestant){.run = run_llama, .work = &t->work[k], .bytes = bytes};
    }
    free(shape);
}

static void close_match(Bench *b, Match *t) {
    race_free(&t->all[0][0], (t->counts + 1) * SIDES);
    for (int side = FLOATS; side <= OURS; side++) {
        for (size_t k = 0; k <= t->counts; k++) server_free(t->all[k][side].work);
        blocks_free(t->blocks[side]), model_free(t->model[side]);
    }
    if (*b->llama && b->effort != TINY) peer_stop(&t->peer);
}

// ---- the report ----------------------------------------------------------------------------------
static void report(Bench *b, const Match *t, size_t k) {
    const Contestant *c = t->all[k];
    bool reads = k == t->counts, llama = t->has_peer && !*t->peer.error;
    double tokens = (double)(reads ? t->prompt : counts[k]);
    Summary ours = seconds_of(b, &c[OURS]), times = ratio_of(b, &c[OURS], &c[FLOATS]);
    char *what = reads ? xprintf("reads %zu", t->prompt) : xprintf("writes %zu", counts[k]);
    printf("%-5s %-6s %-9s %8.1f %11.0f", sizes[t->size].name, formats[t->format].ours, what,
           1e-6 * c[OURS].bytes, tokens / ours.median);
    if (reads) printf("      ±%-3.0f", 100 * spread_of(ours));
    else printf(" %4.0f%% ±%-3.0f", 100 * share_of(b, &c[OURS]).median, 100 * spread_of(ours));
    printf(" %9.0f %6.2fx", tokens / seconds_of(b, &c[FLOATS]).median, times.median);
    json_t *o = json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:f, s:I}", "model", sizes[t->size].name, "format",
                          formats[t->format].ours, "reads", reads, "rows", (json_int_t)(reads ? 1 : counts[k]),
                          "tokens", (json_int_t)(reads ? t->prompt : PAST), "parameters",
                          (json_int_t)t->bytes[OURS].parameters, "bytes", (json_int_t)c[OURS].bytes, "goal",
                          reads ? prefill_goal : formats[t->format].goal, "disturbed_rounds",
                          (json_int_t)t->disturbed);
    json_object_set_new(o, "float_bytes", json_integer((json_int_t)c[FLOATS].bytes));
    json_object_set_new(o, "tokens_per_second", json_real(tokens / ours.median));
    json_object_set_new(o, "float_tokens_per_second", json_real(tokens / seconds_of(b, &c[FLOATS]).median));
    json_object_set_new(o, "ours", contestant_json(b, &c[OURS]));
    json_object_set_new(o, "floats", contestant_json(b, &c[FLOATS]));
    json_object_set_new(o, "times_float", summary_json(times));
    if (llama) {
        Summary theirs = seconds_of(b, &c[LLAMA]), ratio = ratio_of(b, &c[OURS], &c[LLAMA]);
        printf(" %9.0f", tokens / theirs.median);
        if (reads) printf("      ");
        else printf(" %4.0f%%", 100 * share_of(b, &c[LLAMA]).median);
        printf(" %6.2fx ±%.0f", ratio.median, 100 * spread_of(ratio));
        json_object_set_new(o, "version", json_string(t->peer.version));
        json_object_set_new(o, "llama_tokens_per_second", json_real(tokens / theirs.median));
        json_object_set_new(o, "llama", contestant_json(b, &c[LLAMA]));
        json_object_set_new(o, "times_llama", summary_json(ratio));
    }
    printf("\n");
    free(what);
    add_result(b, "packed", o);
}

static void match(Bench *b, size_t size, size_t format) {
    Match *t = xmalloc(sizeof *t);
    size_t most = b->effort == QUICK ? 3 : sizes[size].counts;
    *t = (Match){.size = size, .format = format, .counts = smaller(sizes[size].counts, most),
                 .prompt = b->effort == TINY ? 16 : PROMPT};
    open_models(t), open_peer(b, t);
    t->disturbed = race_quiet(b, "integers", &t->all[0][0], (t->counts + 1) * SIDES, t->has_peer ? &t->peer : NULL,
                              AGAIN);
    for (size_t k = 0; k <= t->counts; k++) report(b, t, k);
    if (t->has_peer && *t->peer.error) printf("llama.cpp failed: %s\n", t->peer.error);
    if (t->disturbed) printf("others used the cores in %zu of %zu rounds\n", t->disturbed, b->rounds);
    fflush(stdout);
    close_match(b, t);
    free(t);
}

void bench_packed(Bench *b) {
    double least = b->least_seconds;
    b->least_seconds = 10 * least;
    printf("weights in few bits, %d tokens before each text; share: of the read bandwidth\n", PAST);
    printf("model format tokens     MB/token  ours tok/s    share  float tok/s  times  llama.cpp tok/s    times\n");
    for (size_t i = 0; i < SIZES; i++)
        for (size_t f = 0; f < FORMATS; f++)
            if (b->effort == TINY ? sizes[i].from == TINY : sizes[i].from && sizes[i].from <= b->effort)
                match(b, i, f);
    b->least_seconds = least;
}

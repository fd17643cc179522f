// test_pipe.c: workers that are processes. Tokens and logits are those of one process, to the bit; bytes are those of
// the formula; a link takes its time; and whoever dies or is told to stop leaves one line and nobody behind.
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "infer/link.h"
#include "infer/pipe.h"
#include "lib/rng.h"
#include "model/transfer.h"
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VOCAB = 23, REQUESTS = 12, PROMPT = 30, ANSWER = 10, MANY = PROMPT + ANSWER };

// ---- a model, in one process and in two ----------------------------------------------------------
typedef struct { int prompt[PROMPT]; size_t n, answer; } Asked;
typedef struct { int token[ANSWER]; size_t got; } Got;

// What the logits were that each token was drawn from, told by whichever process drew it.
typedef struct { Served *served; uint64_t (*logits)[MANY]; } Watched;
static Watched watched;
static int (*sample_of_served)(void *, const StepRow *, size_t, size_t, const Request *, size_t);
static int sample(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    const Served *s = self;
    size_t V = model_config(s->model)->vocab, at = s->first[index] + i - row->logits_from;
    watched.logits[r->seed][position] = hash_bytes(HASH_START, s->logits + at * V, V * sizeof *s->logits);
    return sample_of_served(self, row, index, i, r, position);
}

typedef struct {
    const char *flags; KeepOptions keep; bool snapshots, overlap; size_t block, blocks, chunk, budget; int preempt;
    double link;
} Case;

static void ask(Asked *a) {
    Rng r = rng_stream(6, RNG_TEST, 0);
    for (size_t i = 0; i < REQUESTS; i++) {
        a[i] = (Asked){.n = 1 + rng_below(&r, PROMPT), .answer = 1 + rng_below(&r, ANSWER)};
        for (size_t t = 0; t < a[i].n; t++) a[i].prompt[t] = (int)rng_below(&r, VOCAB);
        if (i % 3 == 2) memcpy(a[i].prompt, a[i - 1].prompt, sizeof a->prompt);       // begins as the one before
    }
}

static Served *serve_of(Model *m, const Case *c) {
    Served *s = served_new_kept(m, c->blocks, c->block, 8, c->blocks, sample_defaults(7, 0), VOCAB, &c->keep);
    if (c->snapshots) served_keep_snapshots(s);
    return s;
}

static Backend backend_of(Served *s) {
    Backend b = served_backend(s);
    sample_of_served = b.sample, b.sample = sample;
    return b;
}

static SchedOptions sched_of(const Case *c) {
    return (SchedOptions){c->budget, 8, c->chunk, SCHED_continuous, ADMIT_chunk, VICTIM_last, c->preempt, 0, 0,
                          c->snapshots, keep_alters(&c->keep) ? served_slots : NULL, &c->keep, 0};
}

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Got *g = &((Got *)owner)[r->seed];
    for (size_t i = 0; i < count; i++) g->token[g->got++] = token[i];
}
static void receive_one(void *owner, size_t request, int token, double time) {
    Got *g = &((Got *)owner)[request];
    CHECK(time >= 0 && time < 1000, "a token at %g", time);
    g->token[g->got++] = token;
}

static void alone(Model *m, const Case *c, const Asked *asked, Got *got) {
    Served *s = serve_of(m, c);
    Pool *pool = pool_new(c->blocks, c->block, c->blocks, 1, 64);
    Sched *sched = sched_new(sched_of(c), pool);
    Engine e = {.sched = sched, .backend = backend_of(s), .emit = receive, .owner = got};
    for (size_t i = 0; i < REQUESTS; i++)
        sched_submit(sched, asked[i].prompt, asked[i].n, asked[i].n + asked[i].answer, 0, 0)->seed = i;
    while (engine_step(&e, 0)) {}
    engine_free(&e), sched_free(sched), pool_free(pool), served_free(s);
}

// How often one of them was preempted.
static size_t by_pipe(Model *m, const Case *c, size_t readers, size_t writers, const Asked *asked, Got *got) {
    Served *s = serve_of(m, c);
    PipeOptions o = {.readers = readers, .writers = writers, .link = c->link > 0 ? c->link : INFINITY,
                     .overlap = c->overlap, .sched = sched_of(c), .blocks = c->blocks, .block = c->block, .served = s,
                     .backend = backend_of(s), .threads = 1, .emit = receive_one, .owner = got};
    Pipe *p = pipe_new(&o, REQUESTS);
    double bytes = 0, start = 0;
    const char *reason = pipe_begin(p, &start);
    CHECK(start > 0, "times are counted from %g", start);
    for (size_t i = 0; i < REQUESTS; i++) {
        pipe_submit(p, asked[i].prompt, asked[i].n, asked[i].answer, 0);
        if (asked[i].answer > 1 && readers) bytes += (double)pipe_bytes(&o, asked[i].n);
    }
    while (!reason && pipe_flying(p)) reason = pipe_wait(p, INFINITY);
    if (!reason) reason = pipe_end(p);
    CHECK(!reason, "%s: %s", c->flags, reason);
    SchedCounters all = pipe_counters(p);
    CHECK(all.received == REQUESTS && all.ended[END_LENGTH] == REQUESTS, "%s: %zu of %zu ended", c->flags,
          all.ended[END_LENGTH], all.received);
    for (int who = !readers; who < 2; who++) {
        double busy = pipe_times(p, who == 0).busy;
        CHECK(reason || (busy >= 0 && busy < 1000), "%s: %g seconds of steps", c->flags, busy);
    }
    CHECK(pipe_link(p).bytes == bytes, "%s, %zu bits: %.0f bytes, not %.0f", c->flags, c->keep.bits, pipe_link(p).bytes,
          bytes);
    pipe_free(p), served_free(s);
    return all.preempted;
}

static uint64_t (*shared_logits(void))[MANY] {
    size_t bytes = REQUESTS * MANY * sizeof(uint64_t);
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("no shared memory");
    return at;
}

static size_t compare(const Case *c) {
    Config config = config_of("--width 32 --heads 4 --context 96 --ffn-width 40 --init-scale 10", c->flags, VOCAB);
    Model *m = model_new(&config, false);
    Asked asked[REQUESTS];
    Got one[REQUESTS] = {0}, two[REQUESTS] = {0}, both[REQUESTS] = {0};
    uint64_t (*of_one)[MANY] = shared_logits(), (*of_two)[MANY] = shared_logits(), (*of_both)[MANY] = shared_logits();
    ask(asked);
    watched.logits = of_one, alone(m, c, asked, one);
    watched.logits = of_two;
    size_t preempted = by_pipe(m, c, 1, 1, asked, two);
    watched.logits = of_both, by_pipe(m, c, 0, 2, asked, both);
    for (size_t i = 0; i < REQUESTS; i++) {
        size_t drawn = 0;
        for (size_t p = 0; p < MANY; p++) drawn += of_one[i][p] != 0;
        CHECK(one[i].got == asked[i].answer && drawn == one[i].got, "%s: %zu tokens", c->flags, one[i].got);
        CHECK(!memcmp(&one[i], &two[i], sizeof *one) && !memcmp(&one[i], &both[i], sizeof *one),
              "%s, %zu bits: request %zu gets other tokens in two processes", c->flags, c->keep.bits, i);
        CHECK(!memcmp(of_one[i], of_two[i], sizeof *of_one) && !memcmp(of_one[i], of_both[i], sizeof *of_one),
              "%s, %zu bits: request %zu gets other logits in two processes", c->flags, c->keep.bits, i);
    }
    model_free(m);
    return preempted;
}

static KeepOptions few(size_t bits, size_t group, size_t residual) {
    KeepOptions o = keep_everything();
    o.bits = bits, o.group = group, o.residual = residual;
    return o;
}

#define WIDE 16, 60, 30, 60, PREEMPT_recompute, 0
#define SMALL 4, 14, 7, 20
static void same_bits(void) {
    KeepOptions all = keep_everything();
    omp_set_num_threads(1);                                     // as ./serve has it: processes before threads
    const Case cases[] = {
        {"--attn mha", all, false, true, WIDE},
        {"--attn mha", all, false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn mha --pos learned", all, false, false, SMALL, PREEMPT_swap, 0},
        {"--attn gqa --kv-heads 2", all, false, true, SMALL, PREEMPT_swap, 2e5},
        {"--attn gqa --kv-heads 1", all, true, true, SMALL, PREEMPT_recompute, 0},
        {"--attn swa --window 6", all, false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn mla --kv-rank 8 --rope-dim 4", all, false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn mha+mla+swa --layers 3 --kv-rank 8 --rope-dim 4 --window 6", all, false, false, WIDE},
        {"--attn linear", all, false, true, SMALL, PREEMPT_swap, 0},
        {"--attn gla+mha --layers 2", all, false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn gated-delta", all, true, true, SMALL, PREEMPT_recompute, 0},
        {"--attn mamba2", all, false, false, SMALL, PREEMPT_recompute, 0},
        {"--attn mha", few(16, 32, 32), false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn gqa --kv-heads 2", few(8, 4, 0), false, true, SMALL, PREEMPT_recompute, 0},
        {"--attn mha", few(4, 3, 5), false, true, SMALL, PREEMPT_swap, 0},
        {"--attn mha", few(2, 5, 6), false, false, WIDE},
        {"--attn mla --kv-rank 8 --rope-dim 4", few(4, 4, 2), false, true, SMALL, PREEMPT_recompute, 0},
    };
    size_t preempted = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) preempted += compare(&cases[i]);
    CHECK(preempted > 50, "only %zu preemptions, in pools that are too small", preempted);
}

// ---- who is heard first --------------------------------------------------------------------------
// Each worker has a socket of its own, and a writer may be heard before the reader of the same request. Made so on
// purpose: the reader draws the first token of SECOND only when the parent is within the news of FIRST; there it stays
// until the writer has drawn a third token of SECOND, so that it has sent the one before. The writer is heard next.
enum { FIRST, SECOND };
typedef struct { _Atomic bool first_heard; _Atomic size_t drawn; } Signs;      // drawn: tokens of SECOND
static Signs *signs;

static void wait_for(bool (*come)(void), const char *what) {
    double from = seconds_now();
    while (!come() && seconds_now() - from < 60) usleep(1000);
    CHECK(come(), "%s does not come", what);
}
static bool first_is_heard(void) { return signs->first_heard; }
static bool third_is_drawn(void) { return signs->drawn >= 3; }

static int sample_in_turn(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    if (r->seed == SECOND && !signs->drawn) wait_for(first_is_heard, "the news of the first request");
    int token = sample_of_served(self, row, index, i, r, position);
    if (r->seed == SECOND) signs->drawn++;
    return token;
}
static void receive_late(void *owner, size_t request, int token, double time) {
    receive_one(owner, request, token, time);
    signs->first_heard = true;
    if (request == FIRST) wait_for(third_is_drawn, "a third token");
}

static void writer_first(void) {
    enum { BOTH = 2 };
    const Case c = {"--attn mha", keep_everything(), false, true, WIDE};
    omp_set_num_threads(1);
    Config config = config_of("--width 32 --heads 4 --context 96 --ffn-width 40 --init-scale 10", c.flags, VOCAB);
    Model *m = model_new(&config, false);
    Asked asked[REQUESTS];
    Got one[REQUESTS] = {0}, two[BOTH] = {0};
    ask(asked);
    asked[FIRST].answer = 1, asked[SECOND].answer = 5;
    watched.logits = shared_logits(), alone(m, &c, asked, one);
    signs = (void *)shared_logits();
    Served *s = serve_of(m, &c);
    Backend b = backend_of(s);
    b.sample = sample_in_turn;
    PipeOptions o = {.readers = 1, .writers = 1, .link = INFINITY, .overlap = true, .sched = sched_of(&c),
                     .blocks = c.blocks, .block = c.block, .served = s, .backend = b, .threads = 1,
                     .emit = receive_late, .owner = two};
    o.sched.running = 1;                                        // the reader has told of FIRST before it reads SECOND
    Pipe *p = pipe_new(&o, BOTH);
    double start = 0;
    const char *reason = pipe_begin(p, &start);
    for (size_t i = 0; i < BOTH; i++) pipe_submit(p, asked[i].prompt, asked[i].n, asked[i].answer, 0);
    while (!reason && pipe_flying(p)) reason = pipe_wait(p, INFINITY);
    if (!reason) reason = pipe_end(p);
    CHECK(!reason && signs->drawn == asked[SECOND].answer, "%s; %zu tokens", reason ? reason : "ended", signs->drawn);
    for (size_t i = 0; i < BOTH; i++)
        CHECK(!memcmp(&one[i], &two[i], sizeof *one), "request %zu is heard in another order than it was written", i);
    pipe_free(p), served_free(s), model_free(m);
}

// ---- one cache into another ----------------------------------------------------------------------

// Per token 2 layers of 2 heads of keys and values of 16 numbers; in groups of 16 each with two half floats: then bits
// move the bytes exactly in their ratio. What is younger than the residual goes whole.
static void bytes(void) {
    Config config = config_of("--width 64 --heads 4 --kv-heads 2 --layers 2 --context 96", "--attn gqa", VOCAB);
    Model *m = model_new(&config, false);
    Blocks *s = blocks_new(m, 8, 16);
    size_t token = 2 * 2 * 2 * 16;
    CHECK(transfer_bytes_of_text(m, s, 96) == 96 * token * 4, "%zu bytes", transfer_bytes_of_text(m, s, 96));
    for (size_t bits = 2; bits <= 16; bits *= 2) {
        KeepOptions o = few(bits, 16, 0), late = few(bits, 16, 20);
        blocks_free(s), s = blocks_new_kept(m, 8, 16, &o);
        size_t expected = 96 * token * bits / 8 + (bits < 16 ? 96 * token / 16 * 4 : 0);
        CHECK(transfer_bytes_of_text(m, s, 96) == expected, "%zu bits: %zu bytes", bits,
              transfer_bytes_of_text(m, s, 96));
        FleetOptions f = {.each = (double)token * 4, .keep = o};
        for (size_t n = 1; n < 96; n++) {
            f.keep = n % 2 ? o : late;
            blocks_free(s), s = blocks_new_kept(m, 8, 16, &f.keep);
            CHECK((double)transfer_bytes_of_text(m, s, n) == fleet_bytes(&f, n, true), "%zu bits, %zu tokens: %zu, and "
                  "on the event clock %g", bits, n, transfer_bytes_of_text(m, s, n), fleet_bytes(&f, n, true));
        }
    }
    blocks_free(s), model_free(m);
}

// ---- the link ------------------------------------------------------------------------------------
typedef struct { size_t parcels, wrong; uint64_t bytes; } Heard;
static void hear(void *owner, const LinkHead *head, const void *aside, const void *data) {
    Heard *h = owner;
    const unsigned char *x = data;
    h->wrong += head->id != h->parcels++ || head->aside != 3 || memcmp(aside, "abc", 3);
    for (size_t i = 0; i < head->bytes; i++) h->wrong += x[i] != (unsigned char)(i * 7 + head->id);
    h->bytes += head->bytes;
}

// 200 parcels of up to 2000 bytes at a megabyte per second; never faster, and slower only if the machine has no time.
static void throttled(void) {
    int ends[2];
    if (pipe(ends)) fail("no pipe");
    Heard heard = {0};
    size_t sum = 0;
    double rate = 1e6, from = seconds_now();
    LinkReceiver *r = link_receiver(ends[0], hear, &heard);
    LinkSender *s = link_sender(ends[1], rate);
    for (uint64_t id = 0; id < 200; id++) {
        size_t n = (size_t)id * 10;
        unsigned char *data = xmalloc(n);
        for (size_t i = 0; i < n; i++) data[i] = (unsigned char)(i * 7 + id);
        link_send(s, (LinkHead){.id = id, .aside = 3, .bytes = n}, "abc", data);
        sum += n;
    }
    LinkTraffic sent = link_sender_end(s), got = link_receiver_end(r);
    double seconds = seconds_now() - from;
    CHECK(!heard.wrong && heard.parcels == 200 && heard.bytes == sum, "%zu parcels, %zu wrong", heard.parcels,
          heard.wrong);
    CHECK(sent.bytes == (double)sum && got.bytes == (double)sum, "%g sent, %g got, of %zu", sent.bytes, got.bytes, sum);
    CHECK(seconds > (double)sum / rate - 1e-3 && seconds < 5 * (double)sum / rate + 5, "%g s for %g", seconds,
          (double)sum / rate);
}

// Nobody takes it: the sender must notice and end.
static void nobody_listens(void) {
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    if (pipe(ends)) fail("no pipe");
    close(ends[0]);
    LinkSender *s = link_sender(ends[1], 1e3);
    for (uint64_t id = 0; id < 5; id++) link_send(s, (LinkHead){.id = id, .bytes = 100000}, NULL, xmalloc(100000));
    double from = seconds_now();
    link_sender_end(s);
    CHECK(seconds_now() - from < 20, "it goes on for %g s", seconds_now() - from);
}

// ---- the command ---------------------------------------------------------------------------------
#define TINY "--layers 2 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --context 512 "
static char *serve_command(const char *flags) {
    const char *beside = train_binary();
    return xprintf("'%.*s/serve' --run run --requests 12 --rate 1000 --prompt-length 20 --answer-length 9 "
                   "--records r.jsonl %s", (int)(strrchr(beside, '/') - beside), beside, flags);
}
static Result serve(const char *flags) { return shell(serve_command(flags)); }
static const char *receipt_of(Result r) {
    const char *at = strstr(r.out, "receipt: ");
    return at ? at : "none";
}

static void command(void) {
    static const char *const same[] = {"--disagg 1:1", "--disagg 0:2", "--disagg 1:1 --threads 3 --link-gbps 0.05",
                                       "--disagg 1:1 --overlap 0 --chunk 5 --block 4 --blocks 30 --admit chunk"};
    static const struct { const char *flags, *word; } bad[] = {
        {"--disagg 2:1", "the event clock has as many"}, {"--disagg 1:2", "the event clock has as many"},
        {"--disagg 1:1 --clock model", "real clock"}, {"--disagg 1:1 --draft lookup --gamma 2", "leave out --draft"},
        {"--disagg 1:1 --kv-policy sink --kv-budget 9", "leave out --kv-policy"},
        {"--disagg 1:1 --sched static", "a batch ends as a whole"},
        {"--disagg 0:2 --link-gbps 1", "nothing crosses a link"}, {"--disagg 1:1 --agent-turns 2", "sessions"},
        {"--disagg 1:1 --preempt swap --kv-tier t", "leave out --kv-tier"},
    };
    train(TINY "--out run");
    Result first = serve("");
    CHECK(first.status == 0 && strcmp(receipt_of(first), "none"), "%s%s", first.out, first.error);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result r = serve(same[i]);
        CHECK(!strcmp(receipt_of(r), receipt_of(first)), "%s: %s%s", same[i], r.out, r.error);
        CHECK(strstr(r.out, "12 received, 12 finished"), "%s: %s", same[i], r.out);
    }
    CHECK(!strcmp(receipt_of(serve("--kv-bits 4 --kv-group 4 --kv-residual 6")),
                  receipt_of(serve("--disagg 1:1 --kv-bits 4 --kv-group 4 --kv-residual 6"))), "in four bits");
    Result eos = serve("--eos 1"), apart = serve("--eos 1 --disagg 1:1");
    CHECK(!strcmp(receipt_of(eos), receipt_of(apart)), "%s%s", apart.out, apart.error);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Result r = serve(bad[i].flags);
        CHECK(r.status == 2 && strstr(r.error, bad[i].word) && count_lines(r.error) == 1, "%s: %d, %s", bad[i].flags,
              r.status, r.error);
    }
}

// ---- ends before their time ----------------------------------------------------------------------

// The process that the note on stderr says does this.
static pid_t process_that(const char *what) {
    for (int tries = 0; tries < 1000; tries++, usleep(10000)) {
        char *said = file_exists(test_path("error")) ? read_whole_file(test_path("error"), NULL) : xprintf("%s", "");
        const char *at = strstr(said, what), *word = at;
        while (word > said && strncmp(word, "process ", 8)) word--;
        pid_t found = at ? (pid_t)strtol(word + 8, NULL, 10) : 0;
        if (found > 0 && strstr(at, "\n")) return found;
        free(said);
    }
    return 0;
}

static bool is_gone(pid_t process) {
    for (int tries = 0; tries < 500; tries++, usleep(10000))
        if (kill(process, 0)) return true;
    return false;
}

// Requests that have ended, each once; how many were cancelled.
static size_t check_records(const char *what) {
    char *lines = read_whole_file(test_path("r.jsonl"), NULL);
    size_t cancelled = 0, finished = 0;
    for (const char *at = lines; (at = strstr(at, "\"end\": \"")); at += 8) {
        cancelled += !strncmp(at + 8, "cancelled", 9), finished += !strncmp(at + 8, "length", 6);
    }
    CHECK(count_lines(lines) == 400 && cancelled + finished == 400, "%s: %zu lines, %zu cancelled, %zu finished", what,
          count_lines(lines), cancelled, finished);
    return cancelled;
}

static void ended_by(const char *what, int number, const char *word, const char *flags) {
    const char *many = "--requests 400 --rate 40 --prompt-length 100 --answer-length 200";
    pid_t child = shell_start(xprintf("exec %s", serve_command(xprintf("%s %s", many, flags))));
    pid_t reads = process_that("reads prompts"), writes = process_that("writes answers");
    CHECK(reads && writes, "no note of who does what");
    usleep(700000);
    kill(!strcmp(what, "reader") ? reads : !strcmp(what, "writer") ? writes : child, number);
    double from = seconds_now();
    Result r = shell_finish(child);
    const char *error = strstr(r.error, "error: ");
    CHECK(seconds_now() - from < 20, "%s: it took %g s to notice", what, seconds_now() - from);
    CHECK(is_gone(reads) && is_gone(writes), "%s: a process was left behind", what);
    if (number == SIGKILL && !strcmp(what, "all")) return;
    CHECK(r.status == 1 && error && strstr(error, word) && count_lines(error) == 1 && !strstr(r.out, "receipt"),
          "%s, signal %d: status %d, %s%s", what, number, r.status, r.out, r.error);
    CHECK(check_records(what) > 0, "%s: nothing was left to cancel", what);
    remove_file(test_path("error")), remove_file(test_path("r.jsonl"));
}

static void killed(void) {
    train(TINY "--out run");
    ended_by("reader", SIGKILL, "reads prompts, was ended by signal 9", "--disagg 1:1");
    ended_by("writer", SIGKILL, "writes answers, was ended by signal 9", "--disagg 1:1");
    ended_by("reader", SIGKILL, "reads prompts, was ended by signal 9", "--disagg 1:1 --link-gbps 0.0001");
    ended_by("writer", SIGKILL, "writes answers, was ended by signal 9", "--disagg 1:1 --link-gbps 0.0001 --overlap 0");
    ended_by("writer", SIGTERM, "writes answers, was ended by signal 15", "--disagg 1:1");
}
static void stopped(void) {
    train(TINY "--out run");
    ended_by("all", SIGINT, "stopped by a signal (2)", "--disagg 1:1");
    ended_by("all", SIGTERM, "stopped by a signal (15)", "--disagg 1:1 --link-gbps 0.0001");
    ended_by("all", SIGKILL, "", "--disagg 1:1");
}

static const Test tests[] = {
    {"pipe/bits", "two processes: tokens and logits of one, whatever the mixers remember, and the link is", same_bits},
    {"pipe/order", "a writer that is heard before the reader: its tokens wait for the first one", writer_first},
    {"pipe/bytes", "what crosses the link is k bytes for each token, by the ratio of the bits", bytes},
    {"pipe/link", "a throttled link: every byte, in order, not faster than it may", throttled},
    {"pipe/nobody", "a link whose other end has gone ends too", nobody_listens},
    {"pipe/command", "./serve --disagg with --run: one receipt, and what is refused", command},
    {"pipe/killed", "a worker that is killed: one line, no receipt, nobody left behind", killed},
    {"pipe/stopped", "a signal ends all of them, and every request once", stopped},
};
REGISTER_TESTS(tests)

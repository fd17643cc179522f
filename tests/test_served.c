// test_served.c: the engine with a true model. Many requests through a small pool get the tokens that ./generate draws
// for each of them alone, whatever the scheduler did meanwhile.
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "infer/calibrate.h"
#include "infer/served.h"
#include "lib/machine.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 23, REQUESTS = 9, PROMPT = 20, ANSWER = 12, MANY = PROMPT + ANSWER, SEED = 7 };

typedef struct { int prompt[PROMPT], answer[ANSWER]; size_t n, got; } Asked;

static Model *open_model(const char *flags) {
    Config c = config_of("--width 32 --heads 4 --layers 2 --context 96 --ffn-width 40 --init-scale 10", flags, VOCAB);
    return model_new(&c, false);
}

static void ask(Asked *a) {
    Rng r = rng_stream(6, RNG_TEST, 0);
    for (size_t i = 0; i < REQUESTS; i++) {
        a[i] = (Asked){.n = 1 + rng_below(&r, PROMPT)};
        for (size_t t = 0; t < a[i].n; t++) a[i].prompt[t] = (int)rng_below(&r, VOCAB);
        if (i % 3 == 2) memcpy(a[i].prompt, a[i - 1].prompt, sizeof a->prompt);       // begins as the one before
    }
}

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Asked *a = &((Asked *)owner)[r->seed];
    for (size_t i = 0; i < count && a->got < ANSWER; i++) a->answer[a->got++] = token[i];
}

static void check_alone(const char *flags, Model *m, const Asked *a, size_t i, SampleOptions o, KeepOptions keep) {
    Tokenizer *numbers = tokenizer_numbers(VOCAB);
    o.seed = SEED + i, o.tokens = ANSWER, o.samples = 1;
    Sampler *s = sampler_new_kept(m, numbers, a->prompt, a->n, o, keep);
    for (size_t t = 0; t < ANSWER; t++) sampler_next(s);
    size_t same = 0;
    while (same < ANSWER && a->answer[same] == s->text[0].token[a->n + same]) same++;
    CHECK(a->got == ANSWER && same == ANSWER, "%s: request %zu: %zu tokens, token %zu is another one alone", flags, i,
          a->got, same);
    sampler_free(s), tokenizer_free(numbers);
}

// A few tokens that may come next. Most of them will not, and what came of them has to be forgotten.
static void propose(Request *const *request, Rng *r) {
    for (size_t i = 0; i < REQUESTS; i++) {
        int draft[3] = {(int)rng_below(r, VOCAB), (int)rng_below(r, VOCAB), (int)rng_below(r, VOCAB)};
        if (request[i]->state == STATE_RUNNING) sched_propose(request[i], draft, rng_below(r, 4));
    }
}

typedef struct { size_t preempted, found, rejected, again; } Seen;
typedef struct { bool forks, drafts, snapshots; const KeepOptions *keep; size_t drawers, spared; } Tried;
static size_t spares;
static void count_spared(void *owner) { (void)owner, spares++; }

static Seen check_engine(const char *flags, Model *m, SchedOptions o, size_t blocks, size_t size, Tried tried) {
    Asked a[REQUESTS];
    SampleOptions sampling = sample_defaults(SEED, 0);
    Pool *pool = pool_new(blocks, size, o.preempt == PREEMPT_swap ? blocks : 0, 1, 64);
    KeepOptions keep = tried.keep ? *tried.keep : keep_everything();
    if (keep_alters(&keep)) o.slots = served_slots, o.keep = &keep;
    Sched *sched = sched_new(o, pool);
    Served *served = served_new_kept(m, blocks, size, o.running, o.preempt == PREEMPT_swap ? blocks : 0, sampling,
                                     VOCAB, &keep);
    if (tried.snapshots) served_keep_snapshots(served);
    served_drawers(served, tried.drawers);
    Engine e = {.sched = sched, .backend = served_backend(served), .emit = receive, .owner = a,
                .drawers = tried.drawers, .spared = tried.spared, .spare = tried.spared ? count_spared : NULL};
    size_t spared = spares, made = 0;
    ask(a);
    Rng r = rng_stream(7, RNG_TEST, 0);
    Request *request[REQUESTS];
    for (size_t i = 0; i < REQUESTS; i++) {
        bool forked = tried.forks && i % 3 == 2;
        if (forked) a[i] = a[i - 1];
        request[i] = forked ? sched_fork(sched, request[i - 1], 0)
                            : sched_submit(sched, a[i].prompt, a[i].n, a[i].n + ANSWER, 0, 0);
        request[i]->seed = i;
    }
    for (size_t steps = 0; engine_step(&e, 0); steps++) {
        made++;
        CHECK(!sched_check(sched) && steps < 4000, "%s", sched_check(sched) ? sched_check(sched) : "no end");
        if (tried.drafts) propose(request, &r);
    }
    for (size_t i = 0; i < REQUESTS; i++) check_alone(flags, m, &a[i], i, sampling, keep);
    CHECK(!tried.spared || (spares > spared && spares - spared <= made), "%zu spared in %zu steps", spares - spared,
          made);
    const SchedCounters *c = sched_counters(sched);
    Seen seen = {c->preempted, c->hits + c->rehits + c->shared, c->rejected, served->again};
    engine_free(&e), served_free(served);
    return seen;
}

static void check_model(const char *flags) {
    Model *m = open_model(flags);
    SchedOptions o = {.budget = 64, .running = 6, .chunk = 64, .watermark = 0.05, .admit = ADMIT_prompt};
    check_engine(flags, m, o, 200, 16, (Tried){0});
    o.chunk = 5, o.budget = 17, o.running = 2, o.prefix_cache = true;            // the second of two twins comes later
    Seen found = check_engine(flags, m, o, 200, 3, (Tried){.snapshots = true});
    CHECK(found.found > 0, "%s: nothing was found in the cache", flags);
    CHECK(found.again == 0, "%s: %zu tokens again, although every block has its state", flags, found.again);
    o.running = 6, o.admit = ADMIT_chunk, o.watermark = 0, o.prefix_cache = false;
    size_t preempted = check_engine(flags, m, o, 14, 5, (Tried){0}).preempted;
    o.preempt = PREEMPT_swap, o.victim = VICTIM_least_computed;
    Seen swapped = check_engine(flags, m, o, 14, 5, (Tried){0});
    CHECK(swapped.again == 0, "%s: %zu tokens again, although states are swapped with their blocks", flags,
          swapped.again);
    CHECK(preempted + swapped.preempted > 0, "%s: a pool of 14 blocks was enough, and nothing was tried", flags);
    model_free(m);
}

// Caches that keep less, in a pool that is too small: what goes gives blocks back, and nothing else changes.
static void kept(void) {
    static const KeepOptions keep[] = {
        {.policy = KV_POLICY_window, .budget = 9, .bits = 32}, {.policy = KV_POLICY_h2o, .budget = 7, .bits = 32},
        {.policy = KV_POLICY_sink, .budget = 6, .from = 1, .bits = 16, .packed = true},
        {.policy = KV_POLICY_snapkv, .budget = 8, .bits = 32}, {.policy = KV_POLICY_pool, .budget = 6, .bits = 32},
        {.policy = KV_POLICY_full, .bits = 2, .group = 4, .residual = 2, .ahead = 3},
        {.policy = KV_POLICY_full, .bits = 32, .quant = WEIGHTS_int8}};
    Model *m = open_model("--attn gqa --kv-heads 2");
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        char *name = xprintf("policy %d, %zu bits", keep[i].policy, keep[i].bits);
        SchedOptions o = {.budget = 40, .running = 6, .chunk = 9, .watermark = 0, .admit = ADMIT_chunk};
        Tried tried = {.forks = i % 2, .drafts = keep[i].ahead > 0, .keep = &keep[i]};      // most of them are wrong
        check_engine(name, m, o, 200, 3, tried);
        size_t preempted = check_engine(name, m, o, 14, 3, tried).preempted;
        o.preempt = PREEMPT_swap;
        preempted += check_engine(name, m, o, 14, 3, tried).preempted;
        o.admit = ADMIT_full;
        check_engine(name, m, o, 14, 3, tried);
        o.running = 2, o.admit = ADMIT_prompt, tried.forks = true;     // the second of two comes when the first is far
        check_engine(name, m, o, 200, 3, tried);
        CHECK((preempted == 0) == (keep[i].from == 1), "%s: preempted %zu times by a pool of 14 blocks", name,
              preempted);
        free(name);
    }
    model_free(m);
}

// Texts that share a prompt, and drafts: a state can only go back to where it was kept.
static void check_forks(const char *flags) {
    Model *m = open_model(flags);
    SchedOptions o = {.budget = 64, .running = 6, .chunk = 9, .admit = ADMIT_prompt};
    bool recurrent = served_has_state(m);
    for (int i = 0; i < 4; i++) {
        o.prefix_cache = i >= 2, o.preempt = i % 2 ? PREEMPT_swap : PREEMPT_recompute;
        Seen forked = check_engine(flags, m, o, i % 2 ? 20 : 200, 4, (Tried){.forks = true, .snapshots = i > 0});
        CHECK(forked.found > 0, "%s: no text shares its prompt", flags);
        CHECK(recurrent == (forked.again > 0), "%s: %zu tokens again", flags, forked.again);
        Seen drafted = check_engine(flags, m, o, i % 2 ? 20 : 200, 4, (Tried){.forks = true, .drafts = true,
                                                                                    .snapshots = i > 0});
        CHECK(drafted.rejected > 0, "%s: no draft was rejected", flags);
    }
    model_free(m);
}

static void alone(void) {
    static const char *const flags[] = {"", "--attn gqa --kv-heads 1 --pos alibi", "--attn swa --window 9",
                                        "--experts 4 --router bias", "--attn mla",
                                        "--attn mla+gqa --q-rank 9 --rope-dim 4", "--attn gla+mha",
                                        "--attn gated-delta", "--attn linear", "--attn mamba2+mla",
                                        "--quant q4_0 --quant-act int8 --quant-embed",
                                        "--attn mla+gated-delta --experts 4 --quant nvfp4 --quant-act int8"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_model(flags[i]);
}
static void forks(void) {
    static const char *const flags[] = {"", "--attn mla", "--attn gla+mha", "--attn delta",
                                        "--attn linear+swa --window 7", "--attn mamba2"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) check_forks(flags[i]);
}

// Threads that draw each for a row draw what one draws for all, also where one leaves before the last rows, of which a
// step is told once.
static void drawers(void) {
    Model *m = open_model("");
    SchedOptions o = {.budget = 64, .running = 8, .chunk = 64, .admit = ADMIT_prompt};
    for (size_t threads = 1; threads < 6; threads += 2)
        for (int drafts = 0; drafts < 2; drafts++)
            check_engine("", m, o, 200, 16, (Tried){.forks = true, .drafts = drafts, .drawers = threads}),
                check_engine("", m, o, 200, 16, (Tried){.drafts = drafts, .drawers = threads, .spared = 2});
    model_free(m);
}

// Answers that draw by other numbers than their seed's first ones, as those of one call to ./serve --port do: the draft
// and the model begin at the same place. A draft that is the model then loses no guess, and no draft moves a token.
enum { TEXTS = 4 };
static Drawing further(void *owner, const Request *r) {
    return (Drawing){*(const SampleOptions *)owner, (r->seed + 1) << 40};
}

// tight: in a pool that is too small, and logits of all prompts are wanted: who is preempted reads his prompt and what
// he wrote in one row, and is guessed behind it.
static size_t write_further(Model *m, Model *draft, bool ratio, size_t guesses, bool tight, Asked *a) {
    SampleOptions sampling = sample_defaults(SEED, 0);
    SchedOptions o = {.budget = 64, .running = TEXTS, .chunk = 64, .admit = ADMIT_chunk};
    size_t blocks = tight ? 10 : 200;
    Pool *pool = pool_new(blocks, 4, 0, 1, 64);
    Sched *sched = sched_new(o, pool);
    Served *served = served_new(m, blocks, 4, TEXTS, 0, sampling, VOCAB);
    served->drawing = further, served->owner = &sampling;
    Engine e = {.sched = sched, .backend = served_backend(served), .emit = receive, .owner = a, .guesses = guesses,
                .guess = draft_guess};
    if (draft) e.draft = draft_elsewhere(SIZE_MAX), served_guess(served, draft, ratio, SIZE_MAX, TEXTS, 0);
    for (size_t i = 0; i < TEXTS; i++) {                        // one prompt: only their numbers make them different
        a[i] = a[0], a[i].got = 0;
        Request *r = sched_submit(sched, a[i].prompt, a[i].n, a[i].n + ANSWER, 0, 0);
        r->seed = i, r->fresh = tight;
    }
    while (engine_step(&e, 0)) {}
    CHECK(!tight == !sched_counters(sched)->preempted, "%zu preempted", sched_counters(sched)->preempted);
    size_t rejected = sched_counters(sched)->rejected;
    draft_free(e.draft), engine_free(&e), served_free(served), sched_free(sched), pool_free(pool);
    return rejected;
}

static void drawings(void) {
    Model *m = open_model(""), *same = open_model(""), *other = open_model("--layers 1");
    Asked plain[REQUESTS], exact[REQUESTS], ratio[REQUESTS], again[REQUESTS];
    ask(plain), ask(exact), ask(ratio), ask(again);
    write_further(m, NULL, false, 0, false, plain);
    for (int i = 1; i < TEXTS; i++)
        CHECK(memcmp(plain[0].answer, plain[i].answer, sizeof plain->answer), "answer %d is the first one", i);
    write_further(m, other, true, 1, false, ratio);
    for (size_t guesses = 1; guesses < 6; guesses++) {
        CHECK(write_further(m, same, false, guesses, false, exact) == 0, "guesses of the model itself are rejected");
        CHECK(!memcmp(plain, exact, TEXTS * sizeof *plain), "%zu guesses of the model itself: another text", guesses);
        CHECK(write_further(m, other, false, guesses, false, exact) > 0, "every guess of another model is kept");
        CHECK(!memcmp(plain, exact, TEXTS * sizeof *plain), "%zu guesses of another model: another text", guesses);
        for (int tight = 0; tight < 2; tight++) {
            write_further(m, other, true, guesses, tight, again);
            CHECK(!memcmp(ratio, again, TEXTS * sizeof *plain), "by ratio, %zu guesses, tight %d: another text",
                  guesses, tight);
        }
    }
    model_free(m), model_free(same), model_free(other);
}

static Result serve(const char *flags) {
    const char *beside = train_binary();
    return shell(xprintf("'%.*s/serve' --run run --requests 12 --rate 1000 --prompt-length 20 --answer-length 9 "
                         "--records r.jsonl %s", (int)(strrchr(beside, '/') - beside), beside, flags));
}
static const char *receipt_of(Result r) {
    const char *at = strstr(r.out, "receipt: ");
    return at ? at : "none";
}

#define TINY "--layers 1 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 "

// A smaller run as the draft: by exact no flag moves the receipt, by ratio none but the draft itself.
static void drafts(void) {
    static const char *const same[] = {"--gamma 1", "--gamma 5 --blocks 12 --block 5 --admit chunk --watermark 0",
                                       "--gamma 31 --budget 70 --running 2 --threads 1 --prefix-cache 1",
                                       "--gamma 4 --blocks 4 --admit chunk --watermark 0 --preempt swap"};
    train(TINY "--width 32 --out run"), train(TINY "--width 16 --out small"), train(TINY "--width 16 --attn gla --out "
                                                                                    "state");
    train(TINY "--width 16 --data facts --out facts"), train(TINY "--width 16 --pos learned --context 16 --out brief");
    Result first = serve(""), ratio = serve("--draft small --gamma 2 --accept ratio");
    CHECK(strcmp(receipt_of(ratio), receipt_of(first)) && strcmp(receipt_of(ratio), "none"), "%s%s", ratio.out,
          ratio.error);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result exact = serve(xprintf("--draft small %s", same[i])), brief = serve(xprintf("--draft brief %s", same[i]));
        Result other = serve(xprintf("--draft small --accept ratio %s", same[i]));
        CHECK(!strcmp(receipt_of(exact), receipt_of(first)), "exact, %s: %s%s", same[i], exact.out, exact.error);
        CHECK(!strcmp(receipt_of(brief), receipt_of(first)), "exact, %s: %s%s", same[i], brief.out, brief.error);
        CHECK(!strcmp(receipt_of(other), receipt_of(ratio)), "ratio, %s: %s%s", same[i], other.out, other.error);
    }
    CHECK(strstr(serve("--draft brief --gamma 3").error, "knows 16 positions"), "a draft of few positions");
    Result itself = serve("--draft run --gamma 3"), state = serve("--draft state --gamma 3");
    CHECK(strstr(itself.out, "+ 0 rejected") && !strcmp(receipt_of(itself), receipt_of(first)), "%s", itself.out);
    CHECK(state.status == 1 && strstr(state.error, "recurrent state"), "%s", state.error);
    Result facts = serve("--draft facts --gamma 3"), none = serve("--draft nowhere --gamma 3");
    CHECK(facts.status == 1 && strstr(facts.error, "a draft must have the same tokens"), "%s", facts.error);
    CHECK(none.status == 1 && strstr(none.error, "nowhere"), "%s", none.error);
    size_t most = (size_t)(0.8 * machine_memory() / (64 * 2 * 32 * sizeof(real)));      // without a draft there is room
    Result large = serve(xprintf("--draft small --gamma 3 --block 64 --blocks %zu", most));
    CHECK(!most || (large.status == 1 && strstr(large.error, "also of --draft, and")), "%s", large.error);
}

// A policy has one receipt too; a file as swap area is refused where its directory is memory.
static void kept_commands(void) {
    static const char *const of[] = {"--kv-policy h2o --kv-budget 7", "--kv-bits 4 --kv-group 4 --kv-residual 6",
                                     "--kv-quant int8"};
    static const char small[] = "--block 3 --blocks 20 --chunk 4 --admit chunk --watermark 0 --threads 1";
    static const char *const wrong[] = {
        "--kv-policy window", "--kv-policy sink --kv-budget 9 --prefix-cache", "--kv-policy oracle --kv-budget 9",
        "--kv-policy sink --kv-budget 9 --draft lookup --gamma 2", "--kv-bits 4 --clock model", "--kv-tier t",
        "--kv-policy sink --kv-budget 9 --calibrate c.json", "--kv-budget 9",
        "--kv-bits 4 --prefix-cache", "--kv-bits 2 --draft run --gamma 3"};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        Result first = serve(of[i]), others = serve(xprintf("%s %s", of[i], small));
        CHECK(strstr(first.out, "kept      ") && !strcmp(receipt_of(first), receipt_of(others)), "%s: %s%s", of[i],
              first.out, others.out);
        Result disk = serve(xprintf("%s %s --preempt swap --kv-tier tier", of[i], small));
        bool memory = strstr(disk.error, "file system in memory") != NULL;
        CHECK(memory || (strstr(disk.out, "read back") && !strcmp(receipt_of(first), receipt_of(disk))), "%s: %s%s",
              of[i], disk.out, disk.error);
        CHECK(!file_exists(test_path("tier")), "the file has gone");
    }
    Result plain = serve("--kv-quant int8"), guessed = serve("--kv-quant int8 --draft lookup --gamma 3 --prefix-cache");
    CHECK(!strcmp(receipt_of(plain), receipt_of(guessed)), "%s%s", guessed.out, guessed.error);
    Result rounded = serve(of[1]), ahead = serve(xprintf("%s --temperature 0 --draft lookup --gamma 5", of[1]));
    CHECK(strcmp(receipt_of(rounded), "none") && !strcmp(receipt_of(serve(xprintf("%s --temperature 0", of[1]))),
                                                         receipt_of(ahead)), "%s%s", ahead.out, ahead.error);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Result r = serve(wrong[i]);
        CHECK(r.status == 2 && count_lines(r.error) == 1, "%s: status %d: %s", wrong[i], r.status, r.error);
    }
}

static void command(void) {
    static const char *const same[] = {"--threads 1 --block 1 --blocks 4000", "--clock model --running 2",
                                       "--blocks 4 --admit chunk --watermark 0 --preempt swap", "--prefix-cache 1",
                                       "--draft lookup --gamma 3", "--draft lookup --gamma 31 --blocks 8 --budget 70"};
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    Result first = serve("");
    CHECK(first.status == 0 && strstr(first.out, "12 received, 12 finished"), "%s%s", first.out, first.error);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result r = serve(same[i]);
        CHECK(!strcmp(receipt_of(r), receipt_of(first)), "%s: %s%s", same[i], r.out, r.error);
    }
    CHECK(strcmp(receipt_of(serve("--temperature 0")), receipt_of(first)), "another temperature");
    kept_commands();
    Result ahead = serve("--draft lookup --gamma 5 --temperature 0 --answer-length 60");
    const char *kept = strstr(ahead.out, " guesses, ");
    CHECK(kept && strtoul(kept + 10, NULL, 10) > 20, "a text that repeats itself is not guessed: %s%s", ahead.out,
          ahead.error);
    CHECK(!strcmp(receipt_of(ahead), receipt_of(serve("--temperature 0 --answer-length 60"))), "%s", ahead.out);
    static const char *const wrong[] = {"--draft run", "--draft lookup", "--draft lookup --gamma 32",
                                        "--draft lookup --gamma 3 --accept ratio", "--gamma 3",
                                        "--draft run --gamma 3 --clock both", "--calibrate c.json"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Result r = serve(wrong[i]);
        CHECK(r.status == 2 && count_lines(r.error) == 1, "%s: status %d: %s", wrong[i], r.status, r.error);
    }
    Result none = serve("--run none");
    CHECK(none.status == 1 && strstr(none.error, "none"), "%d %s", none.status, none.error);
    train("--attn gla --layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out state");
    Result state = serve("--run state");
    CHECK(strcmp(receipt_of(state), "none") && strcmp(receipt_of(state), receipt_of(first)), "%s", state.error);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result r = serve(xprintf("--run state %s", same[i]));
        CHECK(!strcmp(receipt_of(r), receipt_of(state)), "gla: %s: %s%s", same[i], r.out, r.error);
    }
}

// A disk that is full when the records are written: one line, nothing left over, and what was there before stays.
static void full_disk(void) {
    train(TINY "--width 32 --out run");
    CHECK(serve("--requests 60").status == 0, "once there is room");
    char *before = read_whole_file(test_path("r.jsonl"), NULL);
    const char *beside = train_binary();
    int length = (int)(strrchr(beside, '/') - beside);
    Result r = shell(xprintf("ulimit -f 8; '%.*s/serve' --run run --requests 2000 --rate 100000 --prompt-length 2 "
                             "--answer-length 1 --records r.jsonl", length, beside));
    CHECK(r.status == 1 && strstr(r.error, "error: cannot write r.jsonl") && strstr(r.out, "receipt: "), "%d %s",
          r.status, r.error);
    CHECK(!strcmp(before, read_whole_file(test_path("r.jsonl"), NULL)) && !file_exists(test_path("r.jsonl.tmp")),
          "what was there");
    if (!file_exists("/dev/full")) return;
    Result output = shell(xprintf("'%.*s/serve' --run run --requests 9 --records all.jsonl > /dev/full", length,
                                  beside));
    CHECK(output.status == 1 && strstr(output.error, "the records are written"), "%d %s", output.status, output.error);
    CHECK(count_lines(read_whole_file(test_path("all.jsonl"), NULL)) == 9, "and they are");
}

// No output takes the place of the model that it is made of, nor of a file of another kind.
static void replaces(void) {
    static const struct { const char *command, *said; } wrong[] = {
        {"quantize' run f16 -o run/model.safetensors", "a file of another kind"},
        {"quantize' run f16 -o run/new.gguf", "would replace a file of the model in run"},
        {"quantize' m.gguf q4_0 -o run/../m.gguf", "would replace a file of the model in m.gguf"},
        {"serve' --run m.gguf --requests 2 --records m.gguf", "a file of another kind"},
        {"serve' --run run --requests 2 --records run/config.json", "would replace a file of the model in run"},
        {"serve' --run run --requests 2 --receipt $PWD/run/tokenizer.json", "would replace a file of the model in run"},
        {"serve' --requests 2 --receipt t.csv --trace t.csv", "a file of another kind"},
        {"serve' --requests 2 --receipt r.json --records ./r.json", "--records and --receipt are both"},
        {"serve' --requests 2 --records words.txt", "a file of another kind"},
        {"serve' --requests 2 --cost c.json --receipt c.json", "would replace what --cost reads"},
        {"serve' --run run --calibrate run/config.json", "would replace a file of the model in run"},
        {"generate' --run run --picture words.png", "a file of another kind"},
    };
    const char *beside = train_binary();
    int length = (int)(strrchr(beside, '/') - beside);
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    shell("echo words > words.txt; cp words.txt words.png; cp words.txt t.csv; echo '{}' > c.json");
    Result made = shell(xprintf("'%.*s/quantize' run f16 -o m.gguf && rm -f r.json", length, beside));
    CHECK(made.status == 0, "%s", made.error);
    const char *sums = "cat run/*.json run/model.safetensors m.gguf words.* t.csv c.json | cksum";
    Result before = shell(sums);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Result r = shell(xprintf("'%.*s/%s", length, beside, wrong[i].command));
        CHECK(r.status != 0 && strstr(r.error, wrong[i].said), "%s: %d %s", wrong[i].command, r.status, r.error);
        CHECK(!strcmp(shell(sums).out, before.out), "%s: a file is another one now", wrong[i].command);
    }
    for (int again = 0; again < 2; again++)             // what was written so may be written again
        made = shell(xprintf("'%.*s/quantize' run f16 -o n.gguf && '%.*s/serve' --run run --requests 2 --rate 100 "
                             "--prompt-length 4 --answer-length 4 --records run/r.jsonl --receipt run/r.json", length,
                             beside, length, beside));
    CHECK(made.status == 0, "%s", made.error);
}

// A table that was measured prices every step that a scheduler with the same flags can make, and no larger one.
static void measured(void) {
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    const char *beside = train_binary();
    int length = (int)(strrchr(beside, '/') - beside);
    Result made = shell(xprintf("'%.*s/serve' --run run --budget 64 --running 8 --blocks 32 --calibrate cost.json "
                                "--threads 1", length, beside));
    CHECK(made.status == 0 && strstr(made.out, "held out") && !strstr(made.out, "nan"), "%d %s%s", made.status,
          made.out, made.error);
    CostTable c = cost_read(test_path("cost.json"));
    CHECK(c.most.tokens == 64 && c.most.keys == 32 * 16 && c.most.pairs >= 64 * 65 / 2 && c.most.draws == 64,
          "up to %g, %g, %g, %g", c.most.tokens, c.most.keys, c.most.pairs, c.most.draws);
    CHECK(c.knots == 3 && c.base > 0 && isfinite(c.median) && c.median <= c.worst, "%zu knots, base %g, error %g",
          c.knots, c.base, c.median);
    Result priced = serve("--budget 64 --running 8 --blocks 32 --clock model --cost cost.json");
    CHECK(priced.status == 0 && strcmp(receipt_of(priced), "none") && strstr(priced.out, "not replayed"), "%s%s",
          priced.out, priced.error);
    const char *guessing = "--budget 64 --running 8 --blocks 32 --clock both --cost cost.json --draft lookup --gamma 2";
    Result both = serve(guessing);
    CHECK(both.status == 0 && strstr(both.out, "\n  tpot    p90") && strstr(both.out, "\n  steps"), "%s%s", both.out,
          both.error);
    CHECK(!strcmp(receipt_of(both), receipt_of(priced)), "another clock, and guesses: other tokens");
    Result many = serve("--budget 64 --blocks 32 --running 2 --cost cost.json --draft lookup --temperature 0 "
                        "--answer-length 60");
    const char *kept = strstr(many.out, " guesses, ");
    CHECK(kept && strtoul(kept + 10, NULL, 10) > 20, "a text that repeats itself is not guessed: %s%s", many.out,
          many.error);
    CHECK(!strcmp(receipt_of(many), receipt_of(serve("--temperature 0 --answer-length 60"))), "guesses: other tokens");
    priced = serve("--budget 64 --running 8 --blocks 32 --clock model --cost cost.json");
    CHECK(strstr(priced.out, "replaying 12 requests"), "%s%s", priced.out, priced.error);
    // A draft that is a model: all at once, so that the replay makes the steps of the run, and costs what they cost.
    Result drafted = serve("--budget 64 --running 8 --blocks 32 --backlog 12 --clock both --cost cost.json --draft run "
                           "--draft-cost cost.json --gamma 3");
    CHECK(drafted.status == 0 && !strcmp(receipt_of(drafted), receipt_of(priced)), "%s%s", drafted.out, drafted.error);
    const char *time = strstr(drafted.out, "\n  time "), *steps = strstr(drafted.out, "\n  steps ");
    double replayed = time ? strtod(strstr(time, " s ") + 3, NULL) : 0;
    double added = steps ? strtod(strstr(steps, " s ") + 3, NULL) : 1;
    CHECK(replayed > 0 && fabs(replayed / added - 1) < 0.01, "the replay guesses otherwise: %s", drafted.out);
    Result automatic = serve("--budget 64 --running 8 --blocks 32 --clock model --cost cost.json --draft run "
                             "--draft-cost cost.json");
    CHECK(automatic.status == 0 && !strcmp(receipt_of(automatic), receipt_of(priced)) &&
              strstr(automatic.out, " guesses, "), "%s%s", automatic.out, automatic.error);
    Result unpriced = serve("--clock model --cost cost.json --draft run --gamma 3");
    CHECK(unpriced.status == 2 && strstr(unpriced.error, "--draft-cost FILE"), "%s", unpriced.error);
    Result larger = serve("--budget 128 --prompt-length 100 --clock model --cost cost.json");
    CHECK(larger.status == 1 && strstr(larger.error, "measured up to 64"), "%s%s", larger.out, larger.error);
    Result none = shell(xprintf("'%.*s/serve' --calibrate c.json", length, beside));
    CHECK(none.status == 2 && strstr(none.error, "--run"), "%d %s", none.status, none.error);
    none = shell(xprintf("'%.*s/serve' --run run --calibrate c.json --draft lookup --gamma 3", length, beside));
    CHECK(none.status == 2 && strstr(none.error, "--draft has no effect"), "%d %s", none.status, none.error);
}

// Under a clock that stands still every step takes no time: no table comes of it, and the old one stays.
static void unmeasurable(void) {
#ifdef __linux__
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    const char *beside = train_binary();
    int length = (int)(strrchr(beside, '/') - beside);
    Result r = shell("printf '#include <time.h>\\nint clock_gettime(clockid_t c, struct timespec *t) { (void)c; "
                     "*t = (struct timespec){1, 0}; return 0; }\\n' > still.c && cc -shared -fPIC still.c "
                     "-o still.so && printf '{ \"old\": 1 }' > cost.json");
    CHECK(r.status == 0, "%s", r.error);
    // A sanitizer wants to be loaded first, and is told that it need not be.
    r = shell(xprintf("ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 LD_PRELOAD=./still.so '%.*s/serve' --run "
                      "run --budget 64 --running 8 --blocks 32 --calibrate cost.json --threads 1", length, beside));
    CHECK(r.status == 1 && strstr(r.error, "take no time at all, so cost.json was left as it was"), "%d %s%s", r.status,
          r.out, r.error);
    CHECK(!strcmp(read_whole_file(test_path("cost.json"), NULL), "{ \"old\": 1 }"), "the old file is another one now");
#endif
}

// The steps that are measured: each fits into the pool and the budget, and the largest of all kinds are among them.
static void sizes(void) {
    Model *m = open_model("");
    Served *s = served_new(m, 40, 4, 8, 0, sample_defaults(1, 0), VOCAB);
    Measured steps = calibrate_sizes(s, 48, 8, 100);
    size_t n = steps.points, alone = 0, guessing = 0, mixed = 0;
    StepSize most = {0};
    for (size_t i = 0; i < n; i++) {
        StepSize x = steps.point[i].size;
        CHECK(x.tokens <= 48 && x.keys + x.packed <= 160 && x.tokens >= 1, "%g tokens, %g and %g keys", x.tokens,
              x.keys, x.packed);
        most = (StepSize){fmax(most.tokens, x.tokens), fmax(most.keys, x.keys), fmax(most.packed, x.packed),
                          fmax(most.pairs, x.pairs), fmax(most.draws, x.draws)};
        alone += x.tokens == 1, guessing += x.draws > 8, mixed += x.keys > 0 && x.packed > 0;
    }
    CHECK(n > 150 && alone > 2 && guessing > 5 && mixed > 20, "%zu sizes, %zu of one token, %zu guessing, %zu mixed", n,
          alone, guessing, mixed);
    CHECK(most.tokens == 48 && most.keys == 160 && most.packed >= 100 && most.pairs == 48 * 52 + 48 * 49 / 2 &&
              most.draws == 48, "at most %g, %g, %g, %g, %g", most.tokens, most.keys, most.packed, most.pairs,
          most.draws);
    served_free(s), model_free(m);
}

// A machine that is slower by half for as long as it likes: what steps cost beside each other is found all the same.
static void even_pace(void) {
    enum { POINTS = 160 };
    static double took[CALIBRATE_ROUNDS][MOST_POINTS];
    for (size_t slow_from = 0; slow_from < CALIBRATE_ROUNDS * POINTS; slow_from += 55)
        for (size_t slow_steps = 30; slow_steps < 500; slow_steps += 117) {
            Measured m = {.points = POINTS};
            size_t order[MOST_POINTS], at = 0;
            for (size_t r = 0; r < CALIBRATE_ROUNDS; r++) {
                calibrate_order(r, POINTS, order);
                for (size_t k = 0; k < POINTS; k++, at++) {
                    bool slow = at >= slow_from && at < slow_from + slow_steps;
                    took[r][order[k]] = (1 + (double)order[k]) * (slow ? 1.5 : 1);
                }
            }
            calibrate_even_out(took, &m);
            double scale = m.point[0].seconds, worst = 0;
            size_t off = 0;             // a stretch in which the machine changed is neither slow nor fast
            for (size_t i = 0; i < POINTS; i++) {
                double error = fabs(m.point[i].seconds / (1 + (double)i) / scale - 1);
                off += error > 0.01, worst = fmax(worst, error);
            }
            CHECK(off <= POINTS / 20 && worst < 0.2, "slow from %zu for %zu: %zu are off, by %.3f at most", slow_from,
                  slow_steps, off, worst);
        }
}

static const Test tests[] = {
    {"served/even-pace", "a slow minute while steps are measured does not show in what they cost", even_pace},
    {"served/calibrate", "costs that are measured price what they were measured for, and nothing larger", measured},
    {"served/unmeasurable", "costs that cannot be told leave the old table as it is", unmeasurable},
    {"served/sizes", "measured steps: all that a budget and a pool allow, and no others", sizes},
    {"served/alone", "requests through a small pool get the tokens that ./generate draws for each alone", alone},
    {"served/forks", "texts that share a prompt, and drafts that are rejected, whatever the mixers remember", forks},
    {"served/drawings", "answers that draw by later numbers: draft and model begin at the same place", drawings},
    {"served/drafts", "./serve --draft DIR: one receipt by exact, one by ratio, whatever the scheduler did", drafts},
    {"served/kept", "the same with caches that keep less, and give blocks back", kept},
    {"served/full-disk", "records and a receipt that cannot be written: one line, and the old ones stay", full_disk},
    {"served/replaces", "no output takes the place of what it is made of, or of a file of another kind", replaces},
    {"served/drawers", "threads that draw each for a row draw what one draws for all", drawers},
    {"served/command", "./serve --run: one receipt, whatever pool, threads and clock", command},
};
REGISTER_TESTS(tests)

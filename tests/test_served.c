// test_served.c: the engine with a true model. Many requests through a small pool get the tokens that ./generate draws
// for each of them alone, whatever the scheduler did meanwhile.
#include "tests/config.h"
#include "tests/program.h"
#include "tests/test.h"
#include "infer/served.h"
#include "lib/rng.h"
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

static void check_alone(const char *flags, Model *m, const Asked *a, size_t i, SampleOptions o) {
    Tokenizer *numbers = tokenizer_numbers(VOCAB);
    o.seed = SEED + i, o.tokens = ANSWER, o.samples = 1;
    Sampler *s = sampler_new(m, numbers, a->prompt, a->n, o);
    for (size_t t = 0; t < ANSWER; t++) sampler_next(s);
    size_t same = 0;
    while (same < ANSWER && a->answer[same] == s->text[0].token[a->n + same]) same++;
    CHECK(a->got == ANSWER && same == ANSWER, "%s: request %zu: %zu tokens, token %zu is another one alone", flags, i,
          a->got, same);
    sampler_free(s), tokenizer_free(numbers);
}

// Returns how often a request had to give way.
static size_t check_engine(const char *flags, Model *m, SchedOptions o, size_t blocks, size_t size) {
    Asked a[REQUESTS];
    SampleOptions sampling = sample_defaults(SEED, 0);
    Pool *pool = pool_new(blocks, size, o.preempt == PREEMPT_swap ? blocks : 0, 1, 64);
    Sched *sched = sched_new(o, pool);
    Served *served = served_new(m, blocks, size, o.running, o.preempt == PREEMPT_swap ? blocks : 0, sampling, VOCAB);
    Engine e = {sched, served_backend(served), receive, a, NULL, 0};
    ask(a);
    for (size_t i = 0; i < REQUESTS; i++) {
        Request *r = sched_submit(sched, a[i].prompt, a[i].n, a[i].n + ANSWER, 0, 0);
        r->seed = i;
    }
    for (size_t steps = 0; engine_step(&e, 0); steps++)
        CHECK(!sched_check(sched) && steps < 4000, "%s", sched_check(sched) ? sched_check(sched) : "no end");
    for (size_t i = 0; i < REQUESTS; i++) check_alone(flags, m, &a[i], i, sampling);
    size_t preempted = sched_counters(sched)->preempted;
    engine_free(&e), served_free(served);
    return preempted;
}

static void check_model(const char *flags, bool recurrent) {
    Model *m = open_model(flags);
    SchedOptions o = {.budget = 64, .running = 6, .chunk = 64, .watermark = 0.05, .admit = ADMIT_prompt};
    check_engine(flags, m, o, 200, 16);
    o.chunk = 5, o.budget = 17, o.prefix_cache = !recurrent;
    check_engine(flags, m, o, 200, 3);
    o.admit = ADMIT_chunk, o.watermark = 0;
    size_t preempted = check_engine(flags, m, o, 14, 5);
    o.preempt = PREEMPT_swap, o.victim = VICTIM_least_computed;
    if (!recurrent) preempted += check_engine(flags, m, o, 14, 5);
    CHECK(preempted > 0, "%s: a pool of 14 blocks was enough, and nothing was tried", flags);
    model_free(m);
}

static void alone(void) {
    check_model("", false), check_model("--attn gqa --kv-heads 1 --pos alibi", false);
    check_model("--attn swa --window 9", false), check_model("--experts 4 --router bias", false);
    check_model("--attn mla", false), check_model("--attn mla+gqa --q-rank 9 --rope-dim 4", false);
    check_model("--attn gla+mha", true), check_model("--attn gated-delta", true);
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

static void command(void) {
    static const char *const same[] = {"--threads 1 --block 1 --blocks 4000", "--clock model --running 2",
                                       "--blocks 4 --admit chunk --watermark 0 --preempt swap", "--prefix-cache 1"};
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    Result first = serve("");
    CHECK(first.status == 0 && strstr(first.out, "12 received, 12 finished"), "%s%s", first.out, first.error);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        Result r = serve(same[i]);
        CHECK(!strcmp(receipt_of(r), receipt_of(first)), "%s: %s%s", same[i], r.out, r.error);
    }
    CHECK(strcmp(receipt_of(serve("--temperature 0")), receipt_of(first)), "another temperature");
    Result none = serve("--run none");
    CHECK(none.status == 1 && strstr(none.error, "none"), "%d %s", none.status, none.error);
    train("--attn gla --layers 1 --width 32 --heads 2 --steps 1 --eval-tokens 128 --sample-tokens 0 --out state");
    Result state = serve("--run state --prefix-cache 1");
    CHECK(state.status == 2 && strstr(state.error, "recurrent states"), "%d %s", state.status, state.error);
}

static const Test tests[] = {
    {"served/alone", "requests through a small pool get the tokens that ./generate draws for each alone", alone},
    {"served/command", "./serve --run: one receipt, whatever pool, threads and clock", command},
};
REGISTER_TESTS(tests)

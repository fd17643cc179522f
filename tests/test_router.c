// test_router.c: models with each router: who sees the future, to the bit and in nats after a training; what a step
// tells; what moves the routers that learn without gradients; and runs with them from outside. The routing itself is in
// test_moe.c, gradients are in test_gradients.c.
#include "tests/config.h"
#include "tests/program.h"
#include "lib/rng.h"
#include "model.h"
#include "moe.h"
#include <jansson.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { VOCAB = 23, T = 24, ROWS = 4, E = 4 };

static Model *make(const char *router) {
    Config c = config_of("--width 32 --heads 4 --layers 2 --context 24 --batch 4 --eval-tokens 192 --ffn-width 24 "
                         "--init-scale 5 --experts 4 --router", router, VOCAB);
    omp_set_num_threads(1);
    return model_new(&c, true);
}

typedef struct { int token[ROWS * T], target[ROWS * T]; } Text;
static Text make_text(void) {
    Text x;
    Rng r = rng_stream(11, RNG_TEST, 0);
    for (size_t i = 0; i < ROWS * T; i++)
        x.token[i] = (int)rng_below(&r, VOCAB), x.target[i] = (int)rng_below(&r, VOCAB);
    return x;
}

static void step(Model *m, const Text *x) {
    double loss[ROWS];
    model_zero_gradients(m);
    model_forward_backward(m, x->token, x->target, ROWS, T, 1.0 / (ROWS * T), 1.0 / ROWS, loss);
    model_finish_gradients(m);
}

static real *state_of(Model *m, const char *name) {
    const Param *p = model_find(m, name);
    if (!p) fail("a test looks for %s, which is not there", name);
    return model_values(m) + p->offset;
}

// ---- who sees the future -------------------------------------------------------------------------

// The loss at one position, of row 0, with the token at another place changed.
static double loss_at(Model *m, size_t position, size_t row, size_t changed) {
    Text x = make_text();
    double loss[ROWS];
    for (size_t i = 0; i < ROWS * T; i++) x.target[i] = i == position ? x.target[i] : -1;
    if (changed) x.token[row * T + changed] = (x.token[row * T + changed] + 1) % VOCAB;
    model_evaluate(m, x.token, x.target, ROWS, T, loss, NULL);
    return loss[0];
}

// A causal router's losses do not depend on a later token, one that looks ahead has some that do; and only pools over
// the batch make a row depend on another.
static void looks_ahead(void) {
    static const struct { const char *flags; bool ahead, across; } routers[] = {
        {"topk", false, false}, {"topk --capacity 0.5", false, false}, {"bias", false, false},
        {"threshold", false, false}, {"relu", false, false}, {"hash", false, false}, {"dense", false, false},
        {"expert-choice", true, false}, {"expert-choice --pool time:8", true, false},
        {"expert-choice --pool batch", false, true}, {"expert-choice --pool all", true, true},
        {"soft", true, false}, {"soft --pool time:3", true, false}, {"soft --pool time:1 --top-k 4", false, false},
        {"soft --pool batch", false, true}, {"soft --pool all", true, true},
    };
    for (size_t i = 0; i < sizeof routers / sizeof *routers; i++) {
        Model *m = make(routers[i].flags);
        bool ahead = false, across = false;
        for (size_t t = 0; t < T; t++) {
            double loss = loss_at(m, t, 0, 0);
            for (size_t later = t + 1; later < T; later++) ahead |= loss_at(m, t, 0, later) != loss;
            across |= loss_at(m, t, 1, 1 + t % (T - 1)) != loss;
        }
        CHECK(ahead == routers[i].ahead && across == routers[i].across, "--router %s: %s later tokens, %s other rows",
              routers[i].flags, ahead ? "sees" : "does not see", across ? "sees" : "does not see");
        CHECK(config_router_looks_ahead(model_config(m)) == ahead, "--router %s: what it says of itself",
              routers[i].flags);
        model_free(m);
    }
}

// Routed alone, every token has the loss that it has in a text being written, whatever the router; and that is the loss
// of the evaluation itself, to the bit, where neither a capacity nor a pool makes tokens compete.
static void alone(void) {
    static const struct { const char *flags; bool same; } routers[] = {
        {"topk", true}, {"bias", true}, {"threshold", true}, {"relu", true}, {"hash", true}, {"dense", true},
        {"topk --capacity 0.5", false}, {"hash --capacity 0.5", false}, {"expert-choice", false},
        {"expert-choice --pool batch", false}, {"soft", false}, {"soft --pool batch", false},
    };
    Text x = make_text();
    for (size_t i = 0; i < sizeof routers / sizeof *routers; i++) {
        Model *m = make(routers[i].flags);
        double together[ROWS], by_itself[ROWS], back[ROWS];
        step(m, &x);                                // its memory is that of a training
        model_evaluate(m, x.token, x.target, ROWS, T, together, NULL);
        model_route_alone(m, true);
        model_evaluate(m, x.token, x.target, ROWS, T, by_itself, NULL);
        model_route_alone(m, false);
        model_evaluate(m, x.token, x.target, ROWS, T, back, NULL);
        bool same = !memcmp(together, by_itself, sizeof together);
        CHECK(same == routers[i].same && !memcmp(together, back, sizeof back), "--router %s: alone %.17g, together "
              "%.17g, then %.17g", routers[i].flags, by_itself[0], together[0], back[0]);
        for (size_t row = 0; row < ROWS; row++) {
            real *logits = xmalloc(T * VOCAB * sizeof *logits);
            model_infer(m, NULL, x.token + row * T, T, true, logits);
            double loss = 0;
            for (size_t t = 0; t < T; t++) {
                double sum = 0;
                for (size_t v = 0; v < VOCAB; v++) sum += exp((double)logits[t * VOCAB + v]);
                loss += log(sum) - (double)logits[t * VOCAB + (size_t)x.target[row * T + t]];
            }
            CHECK(fabs(loss - by_itself[row]) < 1e-4, "--router %s: a text written loses %.9g, its row alone %.9g",
                  routers[i].flags, loss, by_itself[row]);
            free(logits);
        }
        model_free(m);
    }
}

// The leak meter. Tokens are independent and uniform, so no model can expect a loss below log V, unless it sees the
// token it predicts. Each router is trained for 400 steps, where what is left of a causal model's loss above log V is
// below 2e-4. So its log-probabilities deviate by sqrt(2 * 2e-4) = 0.02, their mean over 16384 tokens by 2e-4: 1e-3 is
// five of these. Measured: causal routers between -1e-4 and +3e-4, those that look ahead 0.04 (expert-choice) and 0.13
// (soft) below.
static void leak_meter(void) {
    static const struct { const char *flags; bool ahead; } routers[] = {
        {"topk --norm-topk 0", false}, {"bias --norm-topk 0", false}, {"threshold --capacity 2", false},
        {"relu", false}, {"hash", false}, {"expert-choice --pool batch", false}, {"expert-choice", true},
        {"soft", true},
    };
    for (size_t i = 0; i < sizeof routers / sizeof *routers; i++) {
        Result r = train(xprintf("--data iid --vocab 4 --layers 2 --width 32 --heads 2 --context 16 --batch 16 "
                                 "--experts 4 --top-k 1 --steps 400 --warmup 20 --lr 1e-2 --eval-tokens 16384 "
                                 "--eval-every 400 --sample-tokens 0 --threads 1 --out run%zu --router %s", i,
                                 routers[i].flags));
        const char *receipt = strstr(r.out, "receipt: digest ");
        double leak = receipt ? log(4) - strtod(strstr(receipt, "loss ") + 5, NULL) : NAN;
        if (routers[i].ahead)
            CHECK(leak > 0.01, "--router %s sees the future, but gained %g nats", routers[i].flags, leak);
        else CHECK(fabs(leak) < 1e-3, "--router %s is %g nats below log V", routers[i].flags, leak);
        CHECK(r.status == 0 && (strstr(r.out, "it is not causal") != NULL) == routers[i].ahead, "%s%s", r.out, r.error);
    }
}

// ---- what a step tells ---------------------------------------------------------------------------

// FLOPs of an expert: three matrices of 32 by 24, of the router: one of 32 by 4; 6 per weight and token.
static void statistics(void) {
    Text x = make_text();
    Model *m = make("topk --capacity 0.5 --top-k 1 --norm-topk 0");
    step(m, &x);
    const RouterStats *r = model_router_stats(m, 0);
    double load = 0, most = 0;
    for (size_t e = 0; e < E; e++) load += r->load[e], most = fmax(most, r->load[e]);
    CHECK(r->tokens == ROWS * T && load == r->copies && r->copies + r->dropped == ROWS * T, "%g copies, %g dropped",
          r->copies, r->dropped);
    CHECK(most <= ROWS * 3 && r->dropped >= ROWS * T / 2, "capacity 3 per row: load %g, %g dropped", most, r->dropped);
    CHECK(r->skipped == r->dropped, "with one choice a token, the dropped ones pass no expert: %g", r->skipped);
    double flops = 6 * (r->copies / (ROWS * T) * 3 * 32 * 24 + 32 * 4);
    CHECK(fabs(r->flops - flops) < 1e-6 * flops, "%g FLOPs per token, expected %g", r->flops, flops);
    model_free(m);
    m = make("soft --pool time:8");                              // 4 slots for each expert, of a pool's 8 tokens
    step(m, &x);
    r = model_router_stats(m, 1);
    load = 0;
    for (size_t e = 0; e < E; e++) load += r->load[e];
    CHECK(fabs(load - ROWS * T) < 1e-3, "the weights of all tokens' outputs sum to %g", load);
    CHECK(r->copies == 2 * ROWS * T && r->dropped == 0, "slots of the size of top-2: %g", r->copies);
    flops = 6 * (2 * 3 * 32 * 24 + 32 * 16) + 12 * 16 * 32;
    CHECK(fabs(r->flops - flops) < 1e-6 * flops, "%g FLOPs per token, expected %g", r->flops, flops);
    model_free(m);
}

// ---- what moves without gradients ----------------------------------------------------------------

// At rate 1 the thresholds are the quantiles of the step: the same batch again gives each expert exactly its share.
static void thresholds(void) {
    Text x = make_text();
    Model *m = make("threshold --threshold-rate 1 --moe-layers moe+dense");    // one layer: nothing moves below it
    real *threshold = state_of(m, "layers.0.moe.router.threshold");
    CHECK(threshold[0] == (real)0.25, "it starts at the score of equal logits, not %g", (double)threshold[0]);
    step(m, &x);
    model_update_routers(m);
    step(m, &x);
    const RouterStats *r = model_router_stats(m, 0);
    for (size_t e = 0; e < E; e++) CHECK(r->load[e] == ROWS * T * 2 / E, "expert %zu: load %g", e, r->load[e]);
    model_free(m);
    Model *slow = make("threshold --threshold-rate 0.1 --moe-layers moe+dense");
    Model *fast = make("threshold --threshold-rate 1 --moe-layers moe+dense");
    step(slow, &x), step(fast, &x);
    model_update_routers(slow), model_update_routers(fast);
    for (size_t e = 0; e < E; e++) {
        double goal = (double)state_of(fast, "layers.0.moe.router.threshold")[e],
               found = (double)state_of(slow, "layers.0.moe.router.threshold")[e];
        CHECK(fabs(found - (0.25 + 0.1 * (goal - 0.25))) < 1e-6, "a tenth of the way to %g is %g", goal, found);
    }
    model_free(slow), model_free(fast);
}

// L1 grows by a fifth while more than K experts are open, and shrinks while fewer.
static void l1(void) {
    Text x = make_text();
    for (size_t k = 1; k <= E; k += E - 1) {
        Model *m = make(k == 1 ? "relu --top-k 1" : "relu --top-k 4");
        real *weight = state_of(m, "router.l1");
        CHECK(*weight == (real)1e-8, "it starts at %g", (double)*weight);
        step(m, &x);
        model_update_routers(m);
        double factor = (double)*weight / 1e-8;
        CHECK(fabs(factor - (k == 1 ? 1.2 : 1 / 1.2)) < 1e-5, "K = %zu: times %g", k, factor);
        model_free(m);
    }
}

// ---- runs ----------------------------------------------------------------------------------------
#define TINY "--data markov --vocab 20 --layers 2 --width 32 --heads 2 --context 32 --batch 4 --warmup 3 --experts 4 " \
             "--eval-tokens 256 --sample-tokens 0 --log-every 1 "

static const char *digest_of(const char *arguments) {
    Result r = train(arguments);
    const char *receipt = strstr(r.out, "receipt: digest ");
    CHECK(r.status == 0 && receipt, "%s: status %d: %s", arguments, r.status, r.error);
    return receipt ? xprintf("%.16s", receipt + 16) : "";
}

// test_model.c compares a step with every router, thread and micro-batch: here is what moves from step to step.
static void same_digests(void) {
    static const char *const moving[] = {"threshold --capacity 1", "relu"};
    for (size_t i = 0; i < 2; i++) {
        char *line = xprintf(TINY "--steps 12 --router %s", moving[i]);
        const char *digest = digest_of(xprintf("%s --out whole%zu --threads 1", line, i)),
                   *cut = digest_of(xprintf("%s --out cut%zu --threads 3 --micro-batch 3", line, i));
        CHECK(strcmp(digest, cut) == 0, "--router %s: %s, cut and with threads %s", moving[i], digest, cut);
    }
    const char *one = digest_of(TINY "--steps 12 --router expert-choice --pool all --threads 1 --out one"),
               *three = digest_of(TINY "--steps 12 --router expert-choice --pool all --threads 3 --out three");
    CHECK(strcmp(one, three) == 0, "--pool all: %s and %s", one, three);
}

// Thresholds and the weight of the L1 norm are saved with the weights.
static void resumed(void) {
    static const char *const with_state[] = {"threshold", "relu", "bias --bias-rate 0.01"};
    for (size_t i = 0; i < 3; i++) {
        char *line = xprintf(TINY "--steps 300 --eval-every 100 --save-every 100 --router %s", with_state[i]);
        const char *digest = digest_of(xprintf("%s --out whole%zu", line, i));
        char *log = xprintf("cut%zu/log.jsonl", i);
        pid_t child = train_start(xprintf("%s --out cut%zu", line, i));
        for (int wait = 0; wait < 2000; wait++, usleep(2000))
            if (file_exists(test_path(log)) && count_lines(read_whole_file(test_path(log), NULL)) > 20) break;
        kill(child, SIGTERM);
        Result r = shell_finish(child);
        CHECK(r.status == 128 + SIGTERM, "--router %s: it ended before it was interrupted: %s", with_state[i], r.error);
        const char *again = digest_of(xprintf("%s --out cut%zu", line, i));
        CHECK(strcmp(digest, again) == 0, "--router %s: %s, resumed %s", with_state[i], digest, again);
    }
    setenv("TMPDIR", test_directory(), 1);
    Result r = train("--verify cut0 --threads 2");
    CHECK(r.status == 0 && strstr(r.out, "verified: digest "), "%s%s", r.out, r.error);
}

static const char *const routers[] = {"topk --capacity 1", "expert-choice", "threshold", "relu", "hash", "soft",
                                      "dense"};
enum { ROUTERS = sizeof routers / sizeof *routers };

// What a run tells, and what ./generate cannot do with it.
static void told(void) {
    static const char *const keys[] = {"\"load\":[", "\"max_violation\":", "\"entropy\":", "\"dropped\":", "\"dead\":",
                                       "\"flops_per_token\":", "\"experts_per_token\":", "\"skipped\":"};
    static const char *const words[ROUTERS] = {"nothing is dropped", "its own 2 best experts", NULL, NULL, NULL,
                                               "passes all 4 experts", NULL};
    const char *train_path = train_binary();                                    // ./generate stands beside it
    char *generate = xprintf("%.*s/generate", (int)(strrchr(train_path, '/') - train_path), train_path);
    for (size_t i = 0; i < ROUTERS; i++) {
        Result r = train(xprintf(TINY "--steps 3 --out run%zu --router %s", i, routers[i]));
        char *log = read_whole_file(test_path(xprintf("run%zu/log.jsonl", i)), NULL);
        char *json = read_whole_file(test_path(xprintf("run%zu/run.json", i)), NULL);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            CHECK(strstr(log, keys[k]), "--router %s: no %s in the log", routers[i], keys[k]);
        bool ahead = !strcmp(routers[i], "expert-choice") || !strcmp(routers[i], "soft");
        CHECK(strstr(json, ahead ? "\"router_is_causal\": false" : "\"router_is_causal\": true"), "%s", routers[i]);
        CHECK((strstr(r.out, "not that of a language model") != NULL) == ahead, "%s: %s", routers[i], r.out);
        Result g = shell(xprintf("'%s' --run run%zu --tokens 3", generate, i));
        CHECK(g.status == 0 && !strstr(g.error, "warning") == !words[i], "%s: %s", routers[i], g.error);
        if (words[i]) CHECK(strstr(g.error, words[i]), "%s: %s", routers[i], g.error);
    }
}

static const Test tests[] = {
    {"router/looks-ahead", "which routers see later tokens or other rows, to the bit, and that they say so",
     looks_ahead},
    {"router/alone", "tokens routed alone lose what they do in a text being written, with most routers to the bit",
     alone},
    {"router/leak-meter", "trained on independent tokens, only routers that see the future get below log V",
     leak_meter},
    {"router/statistics", "loads, dropped tokens and FLOPs of a step", statistics},
    {"router/thresholds", "thresholds are running quantiles of the scores", thresholds},
    {"router/l1", "the weight of the L1 norm follows the sparsity", l1},
    {"router/same-digests", "micro-batches and threads change not one bit", same_digests},
    {"router/resumed", "a run with router state is resumed and verified bit for bit", resumed},
    {"router/told", "what banner, log, run.json and ./generate say", told},
};
REGISTER_TESTS(tests)

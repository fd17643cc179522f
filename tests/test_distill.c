// test_distill.c: a draft that learns from a teacher: the two losses against their naive twins and central differences,
// what they mean for the guesses that stay, and a training that resumes, is named and refuses as any other.
#include "tests/config.h"
#include "tests/program.h"
#include "kernels/distill.h"
#include "infer/draw.h"
#include "lib/rng.h"
#include "model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5, VOCAB = 301 };
static const int target[ROWS] = {4, 0, -1, 300, 7};

static void random_logits(real *x, int seed, double scale) {
    Rng r = rng_stream((uint64_t)seed, RNG_TEST, 9);
    for (int i = 0; i < ROWS * VOCAB; i++) x[i] = (real)(scale * rng_normal(&r));
    x[5] = x[6] = 200, x[VOCAB + 3] = -300;             // some are certain, some are out of reach
}

static void twins(void) {
    static real q[ROWS * VOCAB], p[ROWS * VOCAB], q2[ROWS * VOCAB], p2[ROWS * VOCAB];
    double loss[ROWS], agreement[ROWS], loss2[ROWS], agreement2[ROWS], small = sizeof(real) == 4 ? 4e-6 : 1e-13;
    for (int kind = DISTILL_KL; kind <= DISTILL_TV; kind++) {
        random_logits(q, 1, 3), random_logits(p, 2, 3);
        q[5] = 60;                                      // the teacher is as certain of another one as it can be
        memcpy(q2, q, sizeof q), memcpy(p2, p, sizeof p);
        distill_forward(loss, agreement, q, p, target, (DistillLoss)kind, ROWS, VOCAB);
        distill_forward_naive(loss2, agreement2, q2, p2, target, (DistillLoss)kind, ROWS, VOCAB);
        for (int m = 0; m < ROWS; m++) {
            CHECK(fabs(loss[m] - loss2[m]) <= 10 * small * (1 + loss2[m]), "loss %d, row %d: %.9g, naive %.9g", kind, m,
                  loss[m], loss2[m]);
            CHECK(fabs(agreement[m] - agreement2[m]) < small, "row %d: agreement %.9g, naive %.9g", m, agreement[m],
                  agreement2[m]);
            CHECK(target[m] >= 0 || (loss[m] == 0 && agreement[m] == 0), "a row that is not scored: %g", loss[m]);
            CHECK(kind != DISTILL_TV || target[m] < 0 || fabs(loss[m] + agreement[m] - 1) < 10 * small,
                  "TV %.9g and agreement %.9g are not 1", loss[m], agreement[m]);
            CHECK(isfinite(loss[m]) && loss[m] >= -small, "row %d: %g", m, loss[m]);
        }
        memcpy(q2, q, sizeof q), memcpy(p2, p, sizeof p);
        distill_backward(q, p, target, 0.7, (DistillLoss)kind, ROWS, VOCAB);
        distill_backward_naive(q2, p2, target, 0.7, (DistillLoss)kind, ROWS, VOCAB);
        for (int i = 0; i < ROWS * VOCAB; i++)
            CHECK(isnan(q2[i]) || fabs((double)q[i] - (double)q2[i]) < small, "loss %d, gradient %d: %.9g, naive %.9g",
                  kind, i, (double)q[i], (double)q2[i]);
    }
}

// The share that stays, as the rule of acceptance has it: the average over the draft's guesses of min(1, p/q).
static void meaning(void) {
    static real q[ROWS * VOCAB], p[ROWS * VOCAB];
    double agreement[ROWS], kl[ROWS], stays = 0, sum_p = 0, sum_q = 0;
    random_logits(q, 3, 1), random_logits(p, 4, 1);
    SampleOptions o = {.temperature = 1, .top_p = 1};
    static real a[VOCAB], b[VOCAB];
    memcpy(a, p + 3 * VOCAB, sizeof a), memcpy(b, q + 3 * VOCAB, sizeof b);
    draw_weights(a, VOCAB, &o), draw_weights(b, VOCAB, &o);
    for (int i = 0; i < VOCAB; i++) sum_p += (double)a[i], sum_q += (double)b[i];
    for (int i = 0; i < VOCAB; i++)
        stays += (double)b[i] / sum_q * fmin(1, (double)a[i] / sum_p / ((double)b[i] / sum_q));
    distill_forward(kl, agreement, q, p, target, DISTILL_KL, ROWS, VOCAB);
    CHECK(fabs(stays - agreement[3]) < 1e-5, "%.9g of the guesses stay, agreement %.9g", stays, agreement[3]);
    CHECK((1 - stays) * (1 - stays) <= kl[3] / 2, "Pinsker: TV %.9g, KL %.9g", 1 - stays, kl[3]);
}

// ---- gradients -----------------------------------------------------------------------------------
#ifdef REAL_DOUBLE
enum { T = 9, B = 2, V = 13 };

static double objective(Model *m, const int *tokens, const int *targets, size_t scored) {
    double row[B], sum = 0;
    model_changed(m), model_zero_gradients(m);
    model_forward_backward(m, tokens, targets, B, T, 1.0 / (double)scored, 1.0 / B, row);
    model_finish_gradients(m);
    for (size_t b = 0; b < B; b++) sum += row[b] / (double)scored;
    return sum;
}

// Every tensor along a random direction, by the fourth-order central difference.
static void check_gradients(const char *teacher_flags, int loss) {
    Config c = config_of("--width 12 --heads 2 --layers 2 --context 16 --ffn-width 10 --init-scale 12", "", V);
    Config theirs = config_of("--width 16 --heads 2 --layers 1 --context 16 --init-scale 14 --seed 5", teacher_flags,
                              V);
    Model *m = model_new(&c, true), *teacher = model_new(&theirs, false);
    int tokens[B * T], targets[B * T];
    size_t scored = 0;
    Rng r = rng_stream(3, RNG_TEST, 0);
    for (int i = 0; i < B * T; i++) {
        tokens[i] = (int)rng_below(&r, V), targets[i] = i % 5 == 3 ? -1 : (int)rng_below(&r, V);
        scored += targets[i] >= 0;
    }
    model_learn_from(m, teacher, loss);
    const Param *p;
    for (size_t i = 0, n = model_params(m, &p); i < n; i++) {
        double *x = model_values(m) + p[i].offset, *kept = xmalloc(p[i].size * sizeof *kept), h = 1e-4, sum = 0;
        double *direction = xmalloc(p[i].size * sizeof *direction), expected = 0;
        static const double step[4] = {1, -1, 2, -2}, weight[4] = {8, -8, -1, 1};
        memcpy(kept, x, p[i].size * sizeof *kept);
        objective(m, tokens, targets, scored);
        for (size_t j = 0; j < p[i].size; j++) {
            direction[j] = rng_normal(&r);
            expected += direction[j] * model_gradients(m)[p[i].offset + j];
        }
        for (int k = 0; k < 4; k++) {
            for (size_t j = 0; j < p[i].size; j++) x[j] = kept[j] + h * step[k] * direction[j];
            sum += weight[k] * objective(m, tokens, targets, scored);
        }
        memcpy(x, kept, p[i].size * sizeof *kept);
        CHECK(fabs(sum / (12 * h) - expected) < 1e-6 * (1e-2 + fabs(expected)), "loss %d, %s: %.12g, gradient %.12g",
              loss, p[i].name, sum / (12 * h), expected);
        free(kept), free(direction);
    }
    model_free(m), model_free(teacher);
}

static void gradients(void) {
    check_gradients("", DRAFT_LOSS_kl), check_gradients("", DRAFT_LOSS_tv), check_gradients("", DRAFT_LOSS_ce);
    check_gradients("--experts 4 --attn mla", DRAFT_LOSS_kl), check_gradients("--attn gla", DRAFT_LOSS_tv);
}
#else
static void gradients(void) {}
#endif

// ---- ./train --teacher ---------------------------------------------------------------------------
#define TINY "--data stories --layers 1 --width 16 --heads 2 --context 32 --batch 4 --warmup 1 --schedule constant " \
             "--eval-every 2 --eval-tokens 96 --sample-tokens 0 "

static const char *digest_of(Result r) {
    const char *at = strstr(r.out, "receipt: digest ");
    CHECK(r.status == 0 && at, "%d: %s%s", r.status, r.out, r.error);
    return at ? xprintf("%.16s", at + 16) : "none";
}
static double acceptance_of(const char *run) {
    const char *at = strstr(read_whole_file(test_path(xprintf("%s/run.json", run)), NULL), "\"acceptance\": ");
    return at ? strtod(at + 14, NULL) : NAN;
}
static void refused(int status, const char *flags, const char *word) {
    Result r = train(flags);
    CHECK(r.status == status && strstr(r.error, word) && count_lines(r.error) == 1, "%s: %d: %s", flags, r.status,
          r.error);
}

static void command(void) {
    train(TINY "--steps 20 --out big --width 32 --lr 1e-2"), train(TINY "--steps 2 --out facts --data facts");
    train(TINY "--steps 20 --out pools --experts 4 --capacity 1 --lr 1e-2");
    train(TINY "--steps 2 --out brief --pos learned --context 16");
    const char *none = digest_of(train(TINY "--steps 6 --out none"));
    CHECK(!strcmp(none, digest_of(train(TINY "--steps 6 --out ce --teacher big --draft-loss ce"))), "ce is no teacher");
    CHECK(acceptance_of("ce") > 0.05 && acceptance_of("ce") < 1 && isnan(acceptance_of("none")), "%g, %g",
          acceptance_of("ce"), acceptance_of("none"));
    static const char *const losses[] = {"--teacher big --draft-loss tv", "--teacher pools"};
    for (int i = 0; i < 2; i++) {
        const char *at_once = digest_of(train(xprintf(TINY "--steps 6 --out once-%d %s", i, losses[i])));
        train(xprintf(TINY "--steps 4 --out later-%d %s", i, losses[i]));
        const char *later = digest_of(train(xprintf(TINY "--steps 6 --out later-%d --micro-batch 3 --threads 3 %s", i,
                                                    losses[i])));
        CHECK(strcmp(at_once, none) && !strcmp(at_once, later), "%s: %s, in pieces %s", losses[i], at_once, later);
        CHECK(acceptance_of(xprintf("once-%d", i)) == acceptance_of(xprintf("later-%d", i)), "%s: %.17g, %.17g",
              losses[i], acceptance_of(xprintf("once-%d", i)), acceptance_of(xprintf("later-%d", i)));
    }
    Result itself = train(TINY "--steps 0 --out itself --load big --teacher big --width 32");
    CHECK(fabs(acceptance_of("itself") - 1) < 1e-5, "of its own guesses all stay: %s%s", itself.out, itself.error);
    refused(2, TINY "--draft-loss tv --out x", "--teacher");
    refused(1, TINY "--teacher nowhere --out x", "nowhere");
    refused(1, TINY "--teacher facts --out x", "must have the same tokens");
    refused(1, TINY "--teacher brief --out x", "16 positions");
    refused(1, TINY "--teacher big --out big --fresh", "overwritten");
    refused(1, TINY "--steps 6 --teacher big --out once-0", "--draft-loss");
    CHECK(train(TINY "--steps 20 --out big --width 32 --seed 2 --fresh").status == 0, "another teacher");
    refused(1, TINY "--steps 6 --teacher big --draft-loss tv --out once-0", "other weights in big");
}

static const Test tests[] = {
    {"distill/command", "./train --teacher: resumed, in pieces, refused in one line; ce is as without", command},
    {"distill/twins", "KL and TV and their gradients are those of the definitions", twins},
    {"distill/meaning", "the agreement is the share of guesses that the rule of ratio keeps", meaning},
    {"gradients/distill", "a draft's losses through the whole model, against central differences (double)", gradients},
};
REGISTER_TESTS(tests)

// test_speculation.c: a draft changes how a text is written, and not what: by exact the text of no draft, by ratio its
// law, which is computed here over all guesses and replacements.
#include "tests/config.h"
#include "tests/program.h"
#include "infer/sample.h"
#include "lib/rng.h"
#include <omp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 23, TOKENS = 70, PROMPT = 12 };

static Model *open_model(const char *flags) {
    Config c = config_of("--width 32 --heads 4 --layers 2 --context 150 --ffn-width 40 --init-scale 10", flags, VOCAB);
    return model_new(&c, false);
}

// ---- the same text -------------------------------------------------------------------------------

typedef struct { int token[PROMPT + TOKENS]; size_t refills; } Written;

// A prompt that repeats itself, so that lookup finds something. `draft` NULL: one token a step.
static Written write_kept(Model *m, SampleOptions o, KeepOptions keep, Draft *draft, Speculation *a) {
    static Tokenizer *t;
    if (!t) t = tokenizer_numbers(VOCAB);
    int prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = 3 + i % 4;
    Sampler *s = sampler_new_kept(m, t, prompt, PROMPT, o, keep);
    if (draft) a->draft = draft, sampler_speculate(s, a);
    for (size_t i = 0; i < TOKENS; i++) sampler_next(s);
    Written w = {.refills = s->refills};
    memcpy(w.token, s->text[0].token, sizeof w.token);
    sampler_free(s);
    return w;
}

static Written write_text(Model *m, SampleOptions o, Draft *draft, Speculation *a) {
    return write_kept(m, o, keep_everything(), draft, a);
}

static const SampleOptions drawn[] = {
    {.temperature = 0, .top_p = 1, .seed = 1, .tokens = TOKENS, .samples = 1},
    {.temperature = 1, .top_p = 1, .seed = 2, .tokens = TOKENS, .samples = 1},
    {.temperature = 0.7, .top_k = 4, .top_p = 0.9, .seed = 3, .tokens = TOKENS, .samples = 1},
};

static void check_exact(const char *flags, const char *draft_flags) {
    Model *m = open_model(flags), *other = open_model(draft_flags);
    for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++) {
        SampleOptions o = drawn[i];
        Written alone = write_text(m, o, NULL, NULL);
        for (size_t gamma = 1; gamma <= MOST_GUESSES; gamma = 3 * gamma + 1)
            for (int kind = 0; kind < 4; kind++) {
                Speculation a = {.most = smaller(gamma, MOST_GUESSES), .automatic = kind == 3};
                size_t room = sampler_window(kind == 1 ? m : other, PROMPT, TOKENS);
                Draft *d = kind == 0 ? draft_lookup()
                                     : draft_of_model(kind == 1 ? open_model(flags) : other, VOCAB, o, false, room);
                Written ahead = write_text(m, o, d, &a);
                CHECK(!memcmp(alone.token, ahead.token, sizeof alone.token) && alone.refills == ahead.refills,
                      "%s: draft %d, %zu guesses: another text", flags, kind, gamma);
                CHECK(a.steps + a.accepted + 1 == TOKENS, "%s: draft %d, %zu guesses: %zu steps and %zu kept are not "
                      "%d tokens", flags, kind, gamma, a.steps, a.accepted, TOKENS);
                CHECK(kind != 1 || a.accepted == a.guessed, "%s: %zu guesses of the model itself, but only %zu kept",
                      flags, a.guessed, a.accepted);
                CHECK(kind != 1 || alone.refills || a.steps <= TOKENS / (a.most + 1) + 1, "%s: %zu steps", flags,
                      a.steps);
                draft_free(d);
            }
    }
    model_free(m), model_free(other);
}

static void test_exact(void) {
    check_exact("", "--attn gqa --kv-heads 1 --layers 1");
    check_exact("--attn mla --attn-gate", "--attn swa --window 5 --tile 32");
    check_exact("--attn swa+mha --window 9 --tile 32", "--pos learned --context 40");
    check_exact("--pos learned --context 30", "");
    check_exact("--experts 4 --top-k 2 --attn gqa+mla --kv-heads 2", "--experts 3 --router relu");
    omp_set_num_threads(3);
    check_exact("--attn-kernel naive", "--attn mla");
}

// A cache that rounds groups of tokens: a guess that was wrong may have made a group go, which comes back whole.
static void test_rounding(void) {
    static const KeepOptions few[] = {{.policy = KV_POLICY_full, .bits = 2, .group = 4, .residual = 0},
                                      {.policy = KV_POLICY_full, .bits = 4, .group = 3, .residual = 5},
                                      {.policy = KV_POLICY_full, .bits = 8, .group = 16, .residual = 1}};
    static const char *const flags[] = {"--attn gqa --kv-heads 2", "--attn mla --kv-rank 8 --rope-dim 4",
                                        "--pos learned --context 30"};
    Model *other = open_model("--layers 1");
    size_t kept = 0, lost = 0, others = 0;
    for (size_t i = 0; i < 9; i++) {
        KeepOptions keep = few[i % 3];
        Model *m = open_model(flags[i / 3]);
        for (size_t gamma = 1, j = 0; gamma <= MOST_GUESSES; gamma = 3 * gamma + 1, j++) {
            SampleOptions o = drawn[j % 3];
            keep.ahead = 0;
            Written alone = write_kept(m, o, keep, NULL, NULL);
            Written whole = write_text(m, o, NULL, NULL);
            others += memcmp(whole.token, alone.token, sizeof alone.token) != 0;
            keep.ahead = gamma;
            for (int lookup = 0; lookup < 2; lookup++) {
                Speculation a = {.most = gamma};
                Draft *d = lookup ? draft_lookup() : draft_of_model(other, VOCAB, o, false, PROMPT + TOKENS);
                Written ahead = write_kept(m, o, keep, d, &a);
                CHECK(!memcmp(alone.token, ahead.token, sizeof alone.token), "%s, %zu bits, %zu guesses, lookup %d: "
                      "another text", flags[i / 3], keep.bits, gamma, lookup);
                kept += a.accepted, lost += a.guessed - a.accepted;
                draft_free(d);
            }
        }
        model_free(m);
    }
    CHECK(kept > 500 && lost > 500 && others > 10, "%zu guesses are kept, %zu lost; %zu texts show that bits are few",
          kept, lost, others);
    model_free(other);
}

// ---- the same law --------------------------------------------------------------------------------

// Logits of two models that agree more or less; some tokens tie, some are out of reach.
static void random_logits(real *x, int seed, double scale) {
    Rng r = rng_stream((uint64_t)seed, RNG_TEST, 1);
    for (int i = 0; i < VOCAB; i++) x[i] = (real)(scale * rng_normal(&r));
    x[2] = x[5], x[7] = -300;
}

// What comes out, summed over all guesses that q can give: each stays by its chance, else a residual is drawn.
static void law_of_ratio(double *law, const real *p, const real *q) {
    double total = 0, r[VOCAB];
    for (int x = 0; x < VOCAB; x++) law[x] = 0, total += (double)q[x];
    for (int guess = 0; guess < VOCAB; guess++) {
        double drawn_so = (double)q[guess] / total, stays = speculate_chance(p, q, VOCAB, guess), left = 0;
        if (q[guess] == 0) continue;
        speculate_residual(r, p, q, VOCAB, guess);
        for (int x = 0; x < VOCAB; x++) left += r[x];
        law[guess] += drawn_so * stays;
        for (int x = 0; x < VOCAB; x++) law[x] += drawn_so * (1 - stays) * r[x] / left;
    }
}

static void check_law(const char *what, const double *law, const real *p) {
    double total = 0;
    for (int x = 0; x < VOCAB; x++) total += (double)p[x];
    for (int x = 0; x < VOCAB; x++)
        CHECK(fabs(law[x] - (double)p[x] / total) < 1e-12, "%s: token %d comes with %.15g, not %.15g", what, x, law[x],
              (double)p[x] / total);
}

static void test_law(void) {
    double law[VOCAB], r[VOCAB];
    for (int seed = 0; seed < 40; seed++)
        for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
            for (size_t j = 0; j < sizeof drawn / sizeof *drawn; j++) {     // a draft may be warped otherwise
                real p[VOCAB], q[VOCAB];
                random_logits(p, seed, 2), random_logits(q, seed % 4 ? seed + 100 : seed, 2);
                draw_weights(p, VOCAB, &drawn[i]), draw_weights(q, VOCAB, &drawn[j]);
                law_of_ratio(law, p, q);
                check_law("a model's guess", law, p);
                for (int guess = 0; guess < VOCAB; guess += 5) {            // and of a guess that is certain
                    double stays = speculate_chance(p, NULL, VOCAB, guess), left = 0;
                    speculate_residual(r, p, NULL, VOCAB, guess);
                    for (int x = 0; x < VOCAB; x++) left += r[x];
                    for (int x = 0; x < VOCAB; x++) law[x] = (x == guess) * stays + (1 - stays) * r[x] / left;
                    check_law("a certain guess", law, p);
                }
            }
}

// What a guess and the token after it are together, in closed form: the guess by q, kept by its chance, else replaced
// by the residual. The token alone could have its law by luck; the pair only if the three numbers have nothing in
// common.
static void law_of_pairs(double law[VOCAB][VOCAB], const real *p, const real *q) {
    double total = 0, r[VOCAB];
    for (int x = 0; x < VOCAB; x++) total += (double)q[x];
    memset(law, 0, VOCAB * sizeof *law);
    for (int guess = 0; guess < VOCAB; guess++) {
        double drawn_so = (double)q[guess] / total, stays = speculate_chance(p, q, VOCAB, guess), left = 0;
        speculate_residual(r, p, q, VOCAB, guess);
        for (int x = 0; x < VOCAB; x++) left += r[x];
        for (int x = 0; x < VOCAB; x++) law[guess][x] = drawn_so * ((x == guess) * stays + (1 - stays) * r[x] / left);
    }
}

// With the random numbers that are really drawn, by a seed over its places or at a place over seeds: shares of 40,000
// pairs, of their tokens and of those guesses that stay, to five standard deviations.
static void check_draws(const SampleOptions *of_model, const SampleOptions *of_draft, bool seeds) {
    enum { DRAWS = 40000 };
    real p[VOCAB], q[VOCAB], logits[VOCAB], of_guess[VOCAB];
    double law[VOCAB][VOCAB], share[VOCAB] = {0};
    size_t found[VOCAB][VOCAB] = {0}, tokens[VOCAB] = {0};
    random_logits(logits, 1, 1.5), random_logits(of_guess, 2, 1.5);
    memcpy(p, logits, sizeof p), memcpy(q, of_guess, sizeof q);
    draw_weights(p, VOCAB, of_model), draw_weights(q, VOCAB, of_draft);
    law_of_pairs(law, p, q);
    for (uint64_t i = 0; i < DRAWS; i++) {
        SampleOptions model = *of_model, draft = *of_draft;
        uint64_t place = seeds ? 17 : i;
        if (seeds) model.seed = draft.seed = i;
        else draft.seed = model.seed;
        real now[VOCAB], then[VOCAB];
        memcpy(now, logits, sizeof now), memcpy(then, of_guess, sizeof then);
        int guess = draft_draw(then, VOCAB, &draft, true, place);
        int token = speculate_token(now, VOCAB, &model, place, guess, then);
        found[guess][token]++, tokens[token]++;
    }
    for (int guess = 0; guess < VOCAB; guess++)
        for (int x = 0; x < VOCAB; x++) {
            double expected = law[guess][x], spread = sqrt(expected * (1 - expected) / DRAWS);
            share[x] += expected;
            CHECK(fabs((double)found[guess][x] / DRAWS - expected) <= 5 * spread + 3. / DRAWS,
                  "guess %d, then token %d: share %.5f, not %.5f", guess, x, (double)found[guess][x] / DRAWS, expected);
        }
    for (int x = 0; x < VOCAB; x++)
        CHECK(fabs((double)tokens[x] / DRAWS - share[x]) <= 5 * sqrt(share[x] * (1 - share[x]) / DRAWS),
              "token %d: share %.4f, not %.4f", x, (double)tokens[x] / DRAWS, share[x]);
}

static void test_draws(void) {
    for (size_t i = 1; i < sizeof drawn / sizeof *drawn; i++)
        for (size_t j = 1; j < sizeof drawn / sizeof *drawn; j++)
            for (int seeds = 0; seeds < 2; seeds++) check_draws(&drawn[i], &drawn[j], seeds);
}

// A draft that is the model loses no guess; the same seed gives the same text.
static void test_ratio(void) {
    Model *m = open_model(""), *other = open_model("--layers 1");
    for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++) {
        Speculation a = {.ratio = true, .most = 5}, b = a, c = a;
        Draft *same = draft_of_model(open_model(""), VOCAB, drawn[i], true, PROMPT + TOKENS);
        write_text(m, drawn[i], same, &a);
        CHECK(a.guessed > 0 && a.accepted == a.guessed, "%zu of %zu guesses of the model itself are kept", a.accepted,
              a.guessed);
        Draft *one = draft_of_model(other, VOCAB, drawn[i], true, PROMPT + TOKENS);
        Draft *two = draft_of_model(other, VOCAB, drawn[i], true, PROMPT + TOKENS);
        Written first = write_text(m, drawn[i], one, &b), again = write_text(m, drawn[i], two, &c);
        CHECK(!memcmp(first.token, again.token, sizeof first.token), "the same seed, another text");
        CHECK(b.accepted < b.guessed, "no guess of another model was wrong");
        draft_free(same), draft_free(one), draft_free(two);
    }
    model_free(m), model_free(other);
}

// ---- guesses -------------------------------------------------------------------------------------

static void test_lookup(void) {
    static const int text[] = {1, 2, 3, 4, 9, 9, 1, 2, 3, 7, 8, 5, 6, 1, 2, 3};
    int guess[MOST_GUESSES];
    Draft *d = draft_lookup();
    size_t n = draft_guess(d, text, 16, 4, guess);
    CHECK(n == 4 && guess[0] == 4 && guess[1] == 9 && guess[3] == 1, "%zu guesses, %d first: those after the first "
          "1 2 3 were expected", n, guess[0]);
    n = draft_guess(d, text, 9, MOST_GUESSES, guess);
    CHECK(n == 6 && guess[5] == 3, "%zu guesses: as many as stand behind the place were expected", n);
    CHECK(draft_guess(d, text, 12, 4, guess) == 0, "8 5 was never there");
    CHECK(draft_guess(d, text, 3, 4, guess) == 0 && draft_weights_of(d, 0) == NULL, "a text too short to repeat");
    draft_free(d);
}

// A model's guesses are a function of the text: not of what the draft has read before, longer, shorter or another one.
static void test_reread(void) {
    enum { LONG = 40, GUESSES = 6 };
    Model *m = open_model("");
    Rng r = rng_stream(4, RNG_TEST, 2);
    int text[3][LONG], guess[GUESSES + 1], alone[GUESSES + 1];
    for (int i = 0; i < LONG; i++)
        text[0][i] = (int)rng_below(&r, VOCAB), text[1][i] = i < 9 ? text[0][i] : (int)rng_below(&r, VOCAB),
        text[2][i] = (int)rng_below(&r, VOCAB);
    for (int ratio = 0; ratio < 2; ratio++) {
        Draft *d = draft_of_model(m, VOCAB, drawn[1], ratio, 2 * LONG);
        for (int turn = 0; turn < 200; turn++) {
            const int *now = text[rng_below(&r, 3)];
            size_t count = 1 + rng_below(&r, LONG), n = 1 + rng_below(&r, GUESSES);
            Draft *fresh = draft_of_model(m, VOCAB, drawn[1], ratio, 2 * LONG);
            size_t found = draft_guess(d, now, count, n, guess), expected = draft_guess(fresh, now, count, n, alone);
            CHECK(found == n + (size_t)ratio && found == expected && !memcmp(guess, alone, found * sizeof *guess),
                  "%zu guesses after %zu tokens: others than from a draft that has read nothing else", found, count);
            for (size_t i = 0; i < found; i++)
                CHECK(!memcmp(draft_weights_of(d, i), draft_weights_of(fresh, i), VOCAB * sizeof(real)), "weights");
            draft_free(fresh);
        }
        draft_free(d);
    }
    model_free(m);
}

// What became of guesses of late is what the next ones are worth: shares that stay, and one that changes.
static void test_learn(void) {
    Speculation s = {0};
    for (int share = 1; share < 10; share += 4)
        for (int i = 0; i < 600; i++) {
            speculate_learn(&s, (7 * i) % 10 < share);
            double estimate = (s.kept + 1) / (s.tried + 2);
            CHECK(i < 300 || fabs(estimate - share / 10.) < 0.05, "%d of ten are kept, and taken for %.3f", share,
                  estimate);
        }
    CHECK(s.accepted == 60 + 300 + 540, "%zu kept", s.accepted);
}

static void test_best(void) {
    double flat[MOST_GUESSES + 1], steep[MOST_GUESSES + 1], ridge[MOST_GUESSES + 1];
    for (int g = 0; g <= MOST_GUESSES; g++) flat[g] = 1, steep[g] = g + 1, ridge[g] = g < 12 ? 1 : (g + 1) / 12.;
    CHECK(speculate_best(0.5, flat, 31, 0) == 31, "guesses for nothing: as many as there may be");
    CHECK(speculate_best(0.9, steep, 31, 0) == 0, "a step as long as its tokens: no guess pays");
    CHECK(speculate_best(0, flat, 31, 0) == 0 && speculate_best(0.9, flat, 31, 10) == 0, "wrong, or too dear");
    for (double a = 0.3; a < 0.91; a += 0.2)     // up to the ridge they are for nothing, whatever the acceptance
        CHECK(speculate_best(a, ridge, 31, 0) == 11, "a ridge of 12 tokens, %.1f: %zu guesses", a,
              speculate_best(a, ridge, 31, 0));
    for (size_t g = 1; g < 8; g++) {             // the closed form: where one more guess would cost more than it gives
        double a = 0.6, tokens = (1 - pow(a, (double)g + 1)) / (1 - a), next = tokens + pow(a, (double)g + 1);
        double each = (next - tokens) / (tokens * (double)(g + 1) - next * (double)g);
        CHECK(speculate_best(a, flat, g + 1, 0.999 * each) == g + 1, "%zu guesses pay", g + 1);
        CHECK(speculate_best(a, flat, g + 1, 1.001 * each) == g, "only %zu guesses pay", g);
    }
}

// ---- ./generate ----------------------------------------------------------------------------------

static Result generate(const char *arguments) {
    const char *train_path = train_binary();
    return shell(xprintf("%.*sgenerate %s", (int)(strlen(train_path) - strlen("train")), train_path, arguments));
}

#define TINY "--data stories --layers 1 --width 16 --heads 2 --context 32 --batch 4 --steps 2 --warmup 1 " \
             "--eval-tokens 64 --sample-tokens 0 --threads 1 "

static void refused(int status, const char *arguments, const char *word) {
    Result r = generate(arguments);
    CHECK(r.status == status && strstr(r.error, word) && !*r.out, "%s: status %d: %s%s", arguments, r.status, r.out,
          r.error);
}

static void test_command(void) {
    CHECK(train(TINY "--out a").status == 0 && train(TINY "--out b --width 8").status == 0 &&
          train(TINY "--out state --attn gla").status == 0 && train(TINY "--out facts --data facts").status == 0,
          "no runs");
    Result alone = generate("--run a --tokens 40"), lookup = generate("--run a --tokens 40 --draft lookup --gamma 6");
    Result draft = generate("--run a --tokens 40 --draft b");
    Result ratio = generate("--run a --tokens 40 --draft b --gamma 3 --accept ratio");
    CHECK(alone.status == 0 && !strcmp(alone.out, lookup.out) && !strcmp(alone.out, draft.out), "other texts: %s%s%s%s",
          alone.out, lookup.out, draft.out, draft.error);
    CHECK(ratio.status == 0 && strcmp(alone.out, ratio.out) != 0, "by ratio: %s%s", ratio.out, ratio.error);
    static const char rounded[] = "--run a --tokens 40 --kv-bits 4 --kv-group 4 --kv-residual 3";
    Result few = generate(rounded), guessed = generate(xprintf("%s --draft b --gamma 5", rounded));
    CHECK(few.status == 0 && !strcmp(few.out, guessed.out), "%s%s", guessed.out, guessed.error);
    CHECK(strstr(draft.error, "\ndraft    ") && strstr(draft.error, "tokens a step"), "%s", draft.error);
    refused(1, "--run a --draft nowhere", "nowhere");
    refused(1, "--run a --draft facts", "facts");
    refused(1, "--run a --draft state", "recurrent state");
    refused(1, "--run state --draft lookup", "recurrent state");
    refused(2, "--run a --draft b --gamma 32", "31");
    refused(2, "--run a --draft b --gamma 0", "1 to 31");
    refused(2, "--run a --draft b --gamma 4x", "1 to 31");
    refused(2, "--run a --draft b --samples 2", "--samples");
    refused(2, "--run a --draft lookup --accept ratio", "certain");
    refused(2, "--run a --gamma 4", "--draft");
    refused(2, "--run a --draft lookup --kv-policy window --kv-budget 9", "leave out --kv-policy");
}

static const Test tests[] = {
    {"speculation/exact", "with any draft and any number of guesses the text is that of no draft", test_exact},
    {"speculation/rounding", "also where the cache rounds groups of tokens, which a wrong guess brings back",
     test_rounding},
    {"speculation/law", "by ratio each token has the model's law: summed over all guesses, to 1e-12", test_law},
    {"speculation/draws", "and has it with the numbers that are drawn, guess and token together", test_draws},
    {"speculation/ratio", "a draft that is the model loses no guess; a seed is a text", test_ratio},
    {"speculation/lookup", "what followed the first place with the longest same end", test_lookup},
    {"speculation/reread", "a model's guesses are a function of the text, whatever it has read before", test_reread},
    {"speculation/learn", "the share of guesses that were kept of late", test_learn},
    {"speculation/best", "as many guesses as pay: up to the ridge, whatever the acceptance", test_best},
    {"speculation/command", "./generate --draft: the same text, a report, and refusals in one line", test_command},
};
REGISTER_TESTS(tests)

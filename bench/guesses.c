// guesses.c: how many guesses a step should check. Seconds of steps of B texts that check n - 1 guesses each, in turns,
// say which n gives most tokens per second for every chance that a guess is right; the ridge over B is what arithmetic
// alone says. Then texts are written so, with guesses that are right with that chance: are the bits those without
// guesses, and the speed the one that the steps promise?
#include "bench/answers.h"
#include <math.h>
#include <stdlib.h>

static const struct { const char *flags; size_t vocab, answer; } settings[] = {
    {"--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --context 512", 32000, 96},
    {"--layers 2 --width 64 --heads 2 --context 512", 256, 12},
};
enum { MOST_EACH = 32, MOST_TOKENS = 64, TEXTS = 5, CHANCES = 4, SIZES = 15, PAST = 64, MANY = 256, ROUNDS = 3 };
static const size_t texts[TEXTS] = {1, 2, 4, 8, 16};
static const double chances[CHANCES] = {0.3, 0.5, 0.7, 0.9};
static const size_t sizes[SIZES] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, MOST_EACH};    // tokens of a row

// ---- by the seconds of steps ---------------------------------------------------------------------
static double seconds[TEXTS][SIZES];    // NAN: more tokens than are tried

static double tokens_of(double a, double n) { return (1 - pow(a, n)) / (1 - a); }

// Between two sizes that were measured a straight line.
static double seconds_at(size_t t, size_t n) {
    size_t i = 1;
    while (i + 1 < SIZES && sizes[i] < n) i++;
    double part = (double)(n - sizes[i - 1]) / (double)(sizes[i] - sizes[i - 1]);
    return (1 - part) * seconds[t][i - 1] + part * seconds[t][i];
}

static size_t most_each(size_t t) {
    size_t most = 1;
    for (size_t i = 0; i < SIZES; i++) if (!isnan(seconds[t][i])) most = sizes[i];
    return most;
}

static double speed(size_t t, double a, size_t n) {
    return (double)texts[t] * tokens_of(a, (double)n) / seconds_at(t, n);
}

static size_t best_of(size_t t, double a) {
    size_t best = 1;
    for (size_t n = 2; n <= most_each(t); n++) if (speed(t, a, n) > speed(t, a, best)) best = n;
    return best;
}

// What the ridge says: as many tokens as a pass of the weights is worth, for all texts together.
static size_t by_ridge(size_t t, double ridge) {
    double n = floor(ridge / (double)texts[t] + 0.5);
    return n < 1 ? 1 : smaller((size_t)n, most_each(t));
}

static double measure_steps(Bench *b, Model *m) {
    struct { Contestant many, step[TEXTS][SIZES]; } c = {0};
    Blocks *blocks = blocks_new(m, MOST_TOKENS * (PAST / ROW_BLOCK + 3), ROW_BLOCK);
    c.many = (Contestant){.run = server_run, .work = step_new(m, blocks, 1, MANY, 0)};
    for (size_t t = 0; t < TEXTS; t++)
        for (size_t i = 0; i < SIZES; i++)
            if (texts[t] * sizes[i] <= MOST_TOKENS)
                c.step[t][i] = (Contestant){.run = server_run,
                                            .work = step_new(m, blocks, texts[t], sizes[i], PAST)};
    double least = b->least_seconds;
    b->least_seconds = 3 * least;
    Contestant *all = (Contestant *)&c;
    race(b, "guesses", all, sizeof c / sizeof *all);
    b->least_seconds = least;
    for (size_t t = 0; t < TEXTS; t++)
        for (size_t i = 0; i < SIZES; i++)
            seconds[t][i] = c.step[t][i].run ? seconds_of(b, &c.step[t][i]).median : NAN;
    double ridge = MANY * seconds[0][0] / seconds_of(b, &c.many).median;
    for (size_t i = 0; i < sizeof c / sizeof *all; i++) if (all[i].run) server_free(all[i].work);
    race_free(all, sizeof c / sizeof *all);
    blocks_free(blocks);
    return ridge;
}

// The other half of the knowledge: what is best for one text at this chance, for however many there are.
static size_t by_chance(size_t t, double a) { return smaller(best_of(0, a), most_each(t)); }

static void report_steps(Bench *b, double ridge) {
    double least = INFINITY, spread = 0, apart = 0, blind = INFINITY;
    printf("ridge %.1f tokens; best tokens of a row, by the chance that a guess is right\ntexts  ridge/texts", ridge);
    for (size_t k = 0; k < CHANCES; k++) printf(" %8.1f", chances[k]);
    printf("   least share of the best speed at ridge/texts\n");
    for (size_t t = 0; t < TEXTS; t++) {
        size_t n = by_ridge(t, ridge), low = MOST_EACH, high = 0;
        double share = INFINITY;
        json_t *row = json_pack("{s:I, s:f, s:I}", "texts", (json_int_t)texts[t], "ridge_over_texts",
                                ridge / (double)texts[t], "by_ridge", (json_int_t)n), *list = json_array();
        printf("%5zu %12zu", texts[t], n);
        for (size_t k = 0; k < CHANCES; k++) {
            size_t best = best_of(t, chances[k]);
            double kept = speed(t, chances[k], n) / speed(t, chances[k], best);
            blind = fmin(blind, speed(t, chances[k], by_chance(t, chances[k])) / speed(t, chances[k], best));
            low = best < low ? best : low, high = best > high ? best : high, share = fmin(share, kept);
            apart = fmax(apart, fabs((double)best - (double)n));
            printf(" %8zu", best);
            json_array_append_new(list, json_pack("{s:f, s:I, s:f, s:f}", "right", chances[k], "best",
                                                  (json_int_t)best, "kept", kept, "gain", speed(t, chances[k], best) /
                                                  speed(t, chances[k], 1)));
        }
        printf(" %10.2f\n", share);
        least = fmin(least, share), spread = fmax(spread, (double)(high - low));
        json_object_set_new(row, "chances", list), json_object_set_new(row, "kept", json_real(share));
        json_object_set_new(row, "moves", json_integer((json_int_t)(high - low)));
        json_t *times = json_array();
        for (size_t i = 0; i < SIZES && !isnan(seconds[t][i]); i++)
            json_array_append_new(times, json_pack("{s:I, s:f}", "tokens", (json_int_t)sizes[i], "ms",
                                                   1e3 * seconds[t][i]));
        json_object_set_new(row, "steps", times);
        add_result(b, "best", row);
    }
    printf("kept of the best speed at least: %.2f by the ridge alone, %.2f by the chance alone\n", least, blind);
    add_result(b, "guessed", json_pack("{s:f, s:f, s:f, s:f, s:f}", "ridge", ridge, "moves", spread, "apart", apart,
                                       "kept", least, "kept_by_chance", blind));
}

// ---- by writing ----------------------------------------------------------------------------------
typedef struct { size_t t, n; double right; } Try;
static const Try tries[] = {{0, 4, 0.5}, {0, 12, 0.5}, {0, 12, 0.9}, {2, 3, 0.7}, {2, 3, 0.9}, {4, 4, 0.7}};
enum { TRIES = sizeof tries / sizeof tries[0] };

// Answers with and without guesses, in turns. Returns how many times as much faster they are as the steps promise.
static double measure_try(Bench *b, Model *m, Try x, size_t tokens, size_t vocab) {
    size_t rounds = b->rounds < ROUNDS ? b->rounds : ROUNDS, count = texts[x.t], answer[TEXTS * MOST_EACH];
    double gain[ROUNDS], same = 0, kept = 0;
    for (size_t i = 0; i < count; i++) answer[i] = tokens;
    for (size_t r = 0; r < rounds; r++) {
        Asking ask = {.answer = answer, .count = count, .running = count, .temperature = 0.8};
        Answered plain = answer_all(m, &ask);
        int *text[TEXTS * MOST_EACH];
        for (size_t i = 0; i < count; i++) text[i] = plain.told[i].text;
        Oracle oracle = {text, answer, x.right, vocab};
        ask.guesses = x.n - 1, ask.oracle = &oracle;
        Answered guessed = answer_all(m, &ask);
        double steps = 0;
        for (size_t i = 0; i < count; i++) steps += (double)guessed.told[i].steps;
        same += guessed.digest == plain.digest, kept = guessed.tokens / steps;
        gain[r] = guessed.tokens / guessed.seconds / (plain.tokens / plain.seconds);
        answered_free(&plain), answered_free(&guessed);
    }
    Summary s = summary(gain, rounds);
    double promised = speed(x.t, x.right, x.n) / speed(x.t, x.right, 1);
    printf("%5zu %6zu %6.1f %12.2f %8.2f %9.2f %10s\n", texts[x.t], x.n, x.right, kept, s.median, promised,
           same == (double)rounds ? "the same" : "NOT the same");
    add_result(b, "written", json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "texts", (json_int_t)texts[x.t],
                                       "tokens", (json_int_t)x.n, "right", x.right, "tokens_per_step", kept, "gain",
                                       s.median, "promised", promised, "over_promised", s.median / promised, "same",
                                       same / (double)rounds));
    return s.median / promised;
}

// Bits at three temperatures, of lookup's guesses and of those that are mostly wrong.
static void measure_bits(Bench *b) {
    enum { COUNT = 24, TOKENS = 48 };
    static const double temperature[] = {0, 0.7, 1};
    Config config = config_of("--layers 2 --width 64 --heads 2 --context 512 --init-scale 4", 256);
    Model *m = model_new(&config, false);
    size_t answer[COUNT], same = 0, all = 0;
    for (size_t i = 0; i < COUNT; i++) answer[i] = TOKENS;
    for (size_t k = 0; k < 3; k++) {
        Asking ask = {.answer = answer, .count = COUNT, .running = 8, .temperature = temperature[k]};
        Answered plain = answer_all(m, &ask);
        int *text[COUNT];
        for (size_t i = 0; i < COUNT; i++) text[i] = plain.told[i].text;
        for (size_t n = 1; n <= 12; n += n < 4 ? 1 : 4)
            for (int lookup = 0; lookup < 2; lookup++) {
                Oracle oracle = {text, answer, 0.4, 256};
                ask.guesses = n, ask.lookup = lookup, ask.oracle = &oracle;
                Answered guessed = answer_all(m, &ask);
                for (size_t i = 0; i < COUNT; i++) same += guessed.told[i].digest == plain.told[i].digest, all++;
                answered_free(&guessed);
            }
        answered_free(&plain);
    }
    printf("bits: %zu of %zu texts as without guesses, at temperatures 0, 0.7 and 1\n", same, all);
    add_result(b, "bits", json_pack("{s:f, s:I}", "same", (double)same / (double)all, "texts", (json_int_t)all));
    model_free(m);
}

void bench_guesses(Bench *b) {
    size_t tiny = b->effort == TINY;
    Config config = config_of(settings[tiny].flags, settings[tiny].vocab);
    Model *m = model_new(&config, false);
    report_steps(b, measure_steps(b, m));
    printf("texts tokens  right  tokens/step    times  promised       bits\n");
    double apart = 0;
    for (size_t i = 0; i < TRIES; i++)
        apart = fmax(apart, fabs(measure_try(b, m, tries[i], settings[tiny].answer, settings[tiny].vocab) - 1));
    add_result(b, "promise", json_pack("{s:f}", "apart", apart));
    model_free(m);
    measure_bits(b);
}

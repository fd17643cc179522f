// speculate.c: see speculate.h.
#include "infer/speculate.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- drafts --------------------------------------------------------------------------------------

struct Draft {
    Model *model;                       // NULL: lookup, or a model that guesses elsewhere
    bool elsewhere;
    SampleOptions options;
    bool ratio;
    size_t spoken, capacity;
    Cache *cache; int *held;            // the tokens that the cache holds
    real *logits, *weights;             // [V], [MOST_GUESSES + 1, V]
};

Draft *draft_lookup(void) {
    Draft *d = xmalloc(sizeof *d);
    *d = (Draft){.model = NULL};
    return d;
}

Draft *draft_elsewhere(size_t capacity) {
    Draft *d = xmalloc(sizeof *d);
    *d = (Draft){.elsewhere = true, .capacity = capacity};
    return d;
}

Draft *draft_of_model(Model *m, size_t spoken, SampleOptions o, bool ratio, size_t capacity) {
    Draft *d = xmalloc(sizeof *d);
    size_t V = model_config(m)->vocab;
    *d = (Draft){.model = m, .options = o, .ratio = ratio, .spoken = spoken < V ? spoken : V, .capacity = capacity,
                 .cache = cache_new(m, 1, capacity), .held = xmalloc(size_mul(capacity, sizeof *d->held)),
                 .logits = xmalloc(size_mul(V, sizeof(real))),
                 .weights = xmalloc(size_mul(size_mul(MOST_GUESSES + 1, V), sizeof(real)))};
    return d;
}

void draft_free(Draft *d) {
    if (!d) return;
    cache_free(d->cache);
    free(d->held), free(d->logits), free(d->weights), free(d);
}

enum { LONGEST_END = 8, SHORTEST_END = 2 };

static size_t look_up(const int *text, size_t count, size_t n, int *guess) {
    for (size_t end = LONGEST_END; end >= SHORTEST_END; end--)
        for (size_t i = end; i < count; i++) {
            if (memcmp(text + i - end, text + count - end, end * sizeof *text) != 0) continue;
            size_t found = count - i < n ? count - i : n;
            memcpy(guess, text + i, found * sizeof *guess);
            return found;
        }
    return 0;
}

static void read_token(Draft *d, const int *token, size_t n) {
    memcpy(d->held + cache_length(d->cache), token, n * sizeof *token);
    model_infer(d->model, d->cache, token, n, false, d->logits);
}

int draft_draw(real *logits, size_t spoken, const SampleOptions *o, bool ratio, uint64_t draw) {
    if (!ratio) return sample_token(logits, spoken, o, draw);
    Rng r = rng_stream(o->seed, RNG_DRAFT, draw);
    if (!draw_weights(logits, spoken, o)) return -1;
    return (int)draw_pick(logits, spoken, rng_uniform(&r));
}

// Draws guess i, for this position, and keeps the weights that it came from.
static int draw_guess(Draft *d, size_t i, uint64_t position) {
    real *w = d->weights + i * model_config(d->model)->vocab;
    memcpy(w, d->logits, d->spoken * sizeof *w);
    return draw_sure(draft_draw(w, d->spoken, &d->options, d->ratio, position));
}

// With ratio one more is drawn than will be read: the token behind the last guess has its rule too.
static size_t guess_by_model(Draft *d, const int *text, size_t count, size_t n, int *guess) {
    size_t same = 0;
    while (same < cache_length(d->cache) && same < count - 1 && d->held[same] == text[same]) same++;
    cache_rewind(d->cache, same);
    read_token(d, text + same, count - same);
    for (size_t i = 0; i < n; i++) {
        guess[i] = draw_guess(d, i, count + i);
        if (i + 1 < n) read_token(d, &guess[i], 1);
    }
    return n;
}

size_t draft_guess(Draft *d, const int *text, size_t count, size_t n, int *guess) {
    if (!d->model && !d->elsewhere) return n && count > LONGEST_END ? look_up(text, count, n, guess) : 0;
    n = smaller(n + d->ratio, d->capacity > count ? d->capacity - count : 0);
    if (!n) return 0;
    if (d->model) return guess_by_model(d, text, count, n, guess);
    memset(guess, 0, n * sizeof *guess);
    return n;
}

const real *draft_weights_of(const Draft *d, size_t i) {
    return d->model ? d->weights + i * model_config(d->model)->vocab : NULL;
}

// ---- acceptance ----------------------------------------------------------------------------------

static double sum_of(const real *w, size_t V) {
    double sum = 0;
    for (size_t i = 0; i < V; i++) sum += (double)w[i];
    return sum;
}

double speculate_chance(const real *p, const real *q, size_t V, int guess) {
    double model = (double)p[guess] / sum_of(p, V), draft = q ? (double)q[guess] / sum_of(q, V) : 1;
    return model < draft ? model / draft : 1;
}

void speculate_residual(double *r, const real *p, const real *q, size_t V, int guess) {
    double left = 0, model = sum_of(p, V), draft = q ? sum_of(q, V) : 1;
    for (size_t i = 0; i < V; i++) {
        double more = (double)p[i] / model - (q ? (double)q[i] / draft : (double)((size_t)guess == i));
        left += r[i] = more > 0 ? more : 0;
    }
    for (size_t i = 0; left == 0 && i < V; i++) r[i] = (double)p[i] / model;
}

static size_t pick(const double *r, size_t V, double uniform) {
    size_t last = 0;
    double total = 0, sum = 0;
    for (size_t i = 0; i < V; i++) total += r[i];
    for (size_t i = 0; i < V && (sum == 0 || sum <= uniform * total); i++)
        if (r[i] > 0) sum += r[last = i];
    return last;
}

static double uniform_at(const SampleOptions *o, RngPurpose purpose, uint64_t draw) {
    Rng r = rng_stream(o->seed, purpose, draw);
    return rng_uniform(&r);
}

int speculate_token(real *logits, size_t V, const SampleOptions *o, uint64_t draw, int guess, const real *q) {
    if (!draw_weights(logits, V, o)) return -1;
    if (uniform_at(o, RNG_ACCEPT, draw) < speculate_chance(logits, q, V, guess)) return guess;
    double *r = xmalloc(size_mul(V, sizeof *r));
    speculate_residual(r, logits, q, V, guess);
    int token = (int)pick(r, V, uniform_at(o, RNG_RESIDUAL, draw));
    free(r);
    return token;
}

// ---- how many guesses ----------------------------------------------------------------------------

size_t speculate_best(double a, const double *seconds, size_t most, double draft_seconds) {
    size_t best = 0;
    double tokens = 1, chance = 1, fastest = 1 / seconds[0];
    for (size_t g = 1; g <= most; g++) {
        tokens += chance *= a;
        double speed = tokens / (seconds[g] + (double)g * draft_seconds);
        if (speed > fastest) fastest = speed, best = g;
    }
    return best;
}

// Now and then one guess where none would pay: a text changes, and with it what can be guessed.
enum { STEPS_TO_A_TRY = 16 };

static size_t wanted(const Speculation *s) {
    if (!s->automatic) return s->most;
    size_t g = speculate_best((s->kept + 1) / (s->tried + 2), s->seconds, s->most, s->draft_seconds);
    return g || s->steps % STEPS_TO_A_TRY ? g : 1;
}

void speculate_guess(Speculation *s, const int *text, size_t count, size_t room) {
    size_t n = wanted(s);
    if (n > room) n = room;
    double start = seconds_now();
    s->from = count, s->drawn = draft_guess(s->draft, text, count, n, s->guess), s->guesses = smaller(n, s->drawn);
    if (s->guesses) {
        double each = (seconds_now() - start) / (double)s->guesses;
        s->draft_seconds += (s->guessed ? 0.1 : 1) * (each - s->draft_seconds);
    }
    s->steps++, s->guessed += s->guesses;
}

// What was learned fades: the last fifty guesses or so count.
void speculate_learn(Speculation *s, bool accepted) {
    s->accepted += accepted;
    s->kept = 0.98 * s->kept + accepted, s->tried = 0.98 * s->tried + 1;
}

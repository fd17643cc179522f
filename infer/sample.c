// sample.c: the steps from logits to text: one draw from a distribution, the cache that follows the
// text, and characters put together from the bytes of their tokens.
#include "infer/sample.h"
#include "kernels/ops.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

SampleOptions sample_defaults(uint64_t seed, size_t tokens) {
    return (SampleOptions){.temperature = 0.8, .top_k = 0, .top_p = 1, .seed = seed, .tokens = tokens, .samples = 1};
}

// ---- one draw ------------------------------------------------------------------------------------

static size_t most_probable(const real *x, size_t V) {
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

// A heap of tokens, the most probable on top (equal ones: the lowest number), so that only as many are
// put in order as top-k and top-p keep.
typedef struct { const real *p; size_t *token, count; } Heap;

static bool comes_first(const Heap *h, size_t a, size_t b) {
    return h->p[a] > h->p[b] || (h->p[a] == h->p[b] && a < b);
}

static void sink(Heap *h, size_t i) {
    for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
        child += child + 1 < h->count && comes_first(h, h->token[child + 1], h->token[child]);
        if (!comes_first(h, h->token[child], h->token[i])) return;
        size_t above = h->token[i];
        h->token[i] = h->token[child], h->token[child] = above;
    }
}

// The top goes behind the end of the heap: after k calls the last k places hold the k most probable
// tokens, backwards.
static size_t pop(Heap *h) {
    size_t top = h->token[0];
    h->token[0] = h->token[--h->count], h->token[h->count] = top;
    sink(h, 0);
    return top;
}

// Sets the probability of every token to 0 that top-k and then top-p leave out. Top-p (nucleus sampling:
// Holtzman et al. 2020, eq. 2) keeps the token that reaches the share, so at least one.
static void keep_top(real *p, size_t V, size_t k, double share) {
    Heap h = {p, xmalloc(size_mul(V, sizeof *h.token)), V};
    size_t kept = 0;
    double total = 0, sum = 0;
    for (size_t i = 0; i < V; i++) h.token[i] = i;
    for (size_t i = V / 2; i-- > 0;) sink(&h, i);
    if (k < V) while (V - h.count < k) total += (double)p[pop(&h)];
    else for (size_t i = 0; i < V; i++) total += (double)p[i];
    for (; kept < k && (kept == 0 || sum < share * total); kept++) {
        if (h.count > V - kept - 1) pop(&h);
        sum += (double)p[h.token[V - kept - 1]];
    }
    for (size_t i = 0; i < V - kept; i++) p[h.token[i]] = 0;
    free(h.token);
}

// The token in whose share of the probability the random number falls, in the order of their numbers.
static size_t pick(const real *p, size_t V, double uniform) {
    size_t last = 0;
    double total = 0, sum = 0;
    for (size_t i = 0; i < V; i++) total += (double)p[i];
    for (size_t i = 0; i < V && (sum == 0 || sum <= uniform * total); i++)
        if (p[i] > 0) sum += (double)p[last = i];
    return last;
}

int sample_token(real *x, size_t V, const SampleOptions *o, uint64_t draw) {
    size_t best = most_probable(x, V), k = o->top_k && o->top_k < V ? o->top_k : V;
    real most = x[best];
    if (o->temperature > 0)
        for (size_t i = 0; i < V; i++) x[i] = (real)((double)(x[i] - most) / o->temperature);
    if (!isfinite(softmax_row(x, V)))
        fail("the model's logits are not numbers; its weights are damaged, or its training diverged");
    if (o->temperature == 0) return (int)best;
    if (k < V || o->top_p < 1) keep_top(x, V, k, o->top_p);
    Rng r = rng_stream(o->seed, RNG_SAMPLE, draw);
    return (int)pick(x, V, rng_uniform(&r));
}

// ---- the window ----------------------------------------------------------------------------------

size_t sampler_window(const Model *m, size_t prompt, size_t tokens) {
    const Config *c = model_config(m);
    bool dynamic = c->rope_scaling == ROPE_SCALING_dynamic && prompt + tokens > c->rope_trained;
    return c->pos == POS_learned ? c->context : dynamic ? c->rope_trained : prompt + tokens;
}

// Reads what the cache does not hold yet, of `rows` texts; a window that would overflow is begun anew with its
// last half.
static void read_tokens(Sampler *s, size_t first, size_t rows) {
    size_t n = s->count - first, half = s->window > 1 ? s->window / 2 : 1;
    if (cache_length(s->cache) + n > s->window) {
        cache_rewind(s->cache, 0);
        n = half;
        s->refills++;
    }
    int *token = xmalloc(size_mul(rows, n * sizeof *token));
    for (size_t i = 0; i < rows; i++) memcpy(token + i * n, s->text[i].token + s->count - n, n * sizeof *token);
    model_infer(s->model, s->cache, token, n, false, s->logits);
    free(token);
    s->read += n;
}

// All texts begin alike, so one is read, and the others get copies of its keys, values and logits.
static void read_prompt(Sampler *s) {
    size_t V = model_config(s->model)->vocab, samples = s->options.samples;
    s->cache = cache_new(s->model, 1, s->window);
    double start = seconds_now();
    read_tokens(s, 0, 1);
    s->prefill = seconds_now() - start;
    if (samples == 1) return;
    Cache *one = s->cache;
    s->cache = cache_repeat(s->model, one, samples);
    cache_free(one);
    for (size_t i = 1; i < samples; i++) memcpy(s->logits + i * V, s->logits, V * sizeof *s->logits);
}

// ---- characters ----------------------------------------------------------------------------------

// Number of bytes that the first byte of a UTF-8 character announces (RFC 3629, section 3); 1 for a byte
// that begins none.
static size_t announced(unsigned char c) {
    if (c < 0xC2 || c > 0xF4) return 1;
    return c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

// The bytes before a character that has begun at the end but is not complete.
static size_t complete(const char *text, size_t bytes) {
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        unsigned char c = (unsigned char)text[bytes - back];
        if ((c & 0xC0) != 0x80) return announced(c) > back ? bytes - back : bytes;
    }
    return bytes;
}

// Token i of a text becomes bytes.
static void decode(const Tokenizer *tokenizer, Text *t, size_t i) {
    bool starts = i == 0 || (i == 1 && t->token[0] == tokenizer_start(tokenizer));
    const char *bytes;
    size_t n = tokenizer_decode(tokenizer, starts ? -1 : t->token[i - 1], t->token[i], &bytes);
    if (t->count + n > t->capacity) t->bytes = xrealloc(t->bytes, t->capacity = 2 * (t->count + n) + 64);
    if (n) memcpy(t->bytes + t->count, bytes, n);
    t->count += n;
}

size_t sampler_text(Sampler *s, size_t sample, const char **bytes) {
    Text *t = &s->text[sample];
    t->count -= t->given;
    if (t->given) memmove(t->bytes, t->bytes + t->given, t->count);
    *bytes = t->bytes ? t->bytes : "";
    return t->given = complete(t->bytes, t->count);
}

// ---- texts ---------------------------------------------------------------------------------------

Sampler *sampler_new(Model *m, const Tokenizer *t, const int *prompt, size_t n, SampleOptions o) {
    Sampler *s = xmalloc(sizeof *s);
    *s = (Sampler){.model = m, .tokenizer = t, .options = o, .count = n, .prompt = n,
                   .window = sampler_window(m, n, o.tokens)};
    s->logits = xmalloc(size_mul(size_mul(o.samples, model_config(m)->vocab), sizeof *s->logits));
    s->text = xmalloc(size_mul(o.samples, sizeof *s->text));
    for (size_t i = 0; i < o.samples; i++) {
        Text *text = &s->text[i];
        text->token = xmalloc(size_mul(n + o.tokens, sizeof *text->token));
        memcpy(text->token, prompt, n * sizeof *prompt);
        for (size_t j = 0; j < n; j++) decode(t, text, j);
    }
    read_prompt(s);
    return s;
}

void sampler_free(Sampler *s) {
    cache_free(s->cache);
    for (size_t i = 0; i < s->options.samples; i++) free(s->text[i].token), free(s->text[i].bytes);
    free(s->logits), free(s->text), free(s);
}

// Every text draws its own random numbers, those of the first numbered by position alone.
static uint64_t draw_number(size_t sample, size_t position) { return (uint64_t)sample << 40 | position; }

void sampler_next(Sampler *s) {
    if (s->count > s->prompt) read_tokens(s, s->count - 1, s->options.samples);
    size_t V = model_config(s->model)->vocab, spoken = tokenizer_spoken(s->tokenizer);
    for (size_t i = 0; i < s->options.samples; i++) {
        Text *t = &s->text[i];
        int token = sample_token(s->logits + i * V, spoken < V ? spoken : V, &s->options, draw_number(i, s->count));
        t->token[s->count] = token;
        if (t->ended) continue;
        decode(s->tokenizer, t, s->count);
        if (s->options.stop && tokenizer_is_end(s->tokenizer, token)) t->ended = s->count + 1;
    }
    s->count++;
}

bool sampler_ended(const Sampler *s) {
    for (size_t i = 0; i < s->options.samples; i++)
        if (!s->text[i].ended) return false;
    return true;
}

void sample_text(Model *m, const Tokenizer *t, const char *prompt, SampleOptions o,
                 bool (*emit)(void *argument, const char *text, size_t bytes), void *argument) {
    int *tokens;
    size_t n = tokenizer_prompt(t, prompt, &tokens);
    Sampler *s = sampler_new(m, t, tokens, n, o);
    const char *text;
    n = sampler_text(s, 0, &text);
    bool more = emit(argument, text, n);
    for (size_t i = 0; i < o.tokens && more; i++) {
        sampler_next(s);
        n = sampler_text(s, 0, &text);
        more = emit(argument, text, n);
    }
    sampler_free(s);
    free(tokens);
}

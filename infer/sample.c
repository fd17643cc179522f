// sample.c: the steps from a prompt to text: the cache that follows the text, drafts that run ahead of it, and
// characters put together from the bytes of their tokens.
#include "infer/sample.h"
#include <stdlib.h>
#include <string.h>

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
        s->refills++, s->forgotten = s->count - half;
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
    s->cache = cache_new_kept(s->model, 1, s->window, &s->keep, s->prompt);
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
    return sampler_new_kept(m, t, prompt, n, o, keep_everything());
}

Sampler *sampler_new_kept(Model *m, const Tokenizer *t, const int *prompt, size_t n, SampleOptions o,
                          KeepOptions keep) {
    Sampler *s = xmalloc(sizeof *s);
    *s = (Sampler){.model = m, .tokenizer = t, .options = o, .keep = keep, .count = n, .prompt = n,
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

// ---- a draft that runs ahead -----------------------------------------------------------------------

// How long a step takes by its guesses: a few are measured behind the prompt and forgotten, the others lie between.
static void measure_steps(Sampler *s) {
    Speculation *a = s->ahead;
    size_t length = cache_length(s->cache), room = s->window - length;
    int token[MOST_GUESSES + 1];
    for (size_t i = 0; i <= MOST_GUESSES; i++) token[i] = s->text[0].token[s->count - 1];
    a->most = room ? smaller(a->most, room - 1) : 0;
    for (size_t g = 0, before = 0; room; before = g, g = smaller(2 * g + 1, a->most)) {
        for (int i = 0; i < 3; i++) {
            double start = seconds_now();
            model_infer(s->model, s->cache, token, g + 1, true, s->logits);
            double took = seconds_now() - start;
            if (i == 0 || took < a->seconds[g]) a->seconds[g] = took;
            cache_rewind(s->cache, length);
        }
        for (size_t between = before + 1; between < g; between++)
            a->seconds[between] = a->seconds[before] +
                (a->seconds[g] - a->seconds[before]) * (double)(between - before) / (double)(g - before);
        if (g == a->most) return;
    }
}

void sampler_speculate(Sampler *s, Speculation *ahead) {
    size_t V = model_config(s->model)->vocab;
    if (s->options.samples != 1) fail("a draft runs ahead of one text, but there are %zu", s->options.samples);
    real *logits = xmalloc(size_mul(size_mul(ahead->most + 1, V), sizeof *logits)), *after_prompt = s->logits;
    s->ahead = ahead, s->logits = logits;
    if (ahead->automatic) measure_steps(s);
    memcpy(logits, after_prompt, V * sizeof *logits);
    free(after_prompt);
}

// Reads the last token, and behind it what a draft guesses: logits for this position, and for those behind the guesses.
static void read_ahead(Sampler *s) {
    Speculation *a = s->ahead;
    size_t left = s->prompt + s->options.tokens - s->count - 1;      // tokens behind the one that comes next
    cache_rewind(s->cache, s->count - 1 - s->forgotten);
    size_t held = cache_length(s->cache) + 1, room = s->window > held ? s->window - held : 0;
    speculate_guess(a, s->text[0].token, s->count, smaller(left, room));
    if (!a->guesses) {
        read_tokens(s, s->count - 1, 1);
        return;
    }
    int token[MOST_GUESSES + 1] = {s->text[0].token[s->count - 1]};
    memcpy(token + 1, a->guess, a->guesses * sizeof *token);
    model_infer(s->model, s->cache, token, a->guesses + 1, true, s->logits);
    s->read++;
}

// The logits of the next token: the guesses before it may have been right, and then they are there already.
static real *logits_ahead(Sampler *s) {
    Speculation *a = s->ahead;
    size_t i = s->count - a->from;
    if (s->count == s->prompt) return s->logits;
    if (!a->from || i == 0 || i > a->guesses || s->text[0].token[s->count - 1] != a->guess[i - 1]) read_ahead(s);
    return s->logits + (s->count - a->from) * model_config(s->model)->vocab;
}

static int token_ahead(Sampler *s, size_t spoken) {
    Speculation *a = s->ahead;
    real *logits = logits_ahead(s);
    size_t i = s->count - a->from;
    bool guessed = a->from && i < (a->ratio ? a->drawn : a->guesses);
    int token = draw_sure(guessed && a->ratio
        ? speculate_token(logits, spoken, &s->options, s->count, a->guess[i], draft_weights_of(a->draft, i))
        : sample_token(logits, spoken, &s->options, s->count));
    if (guessed && i < a->guesses) speculate_learn(a, token == a->guess[i]);
    return token;
}

// ---- the next token ------------------------------------------------------------------------------

// Every text draws its own random numbers, those of the first numbered by position alone.
static uint64_t draw_number(size_t sample, size_t position) { return (uint64_t)sample << 40 | position; }

void sampler_next(Sampler *s) {
    size_t V = model_config(s->model)->vocab, spoken = smaller(tokenizer_spoken(s->tokenizer), V);
    if (s->count > s->prompt && !s->ahead) read_tokens(s, s->count - 1, s->options.samples);
    for (size_t i = 0; i < s->options.samples; i++) {
        Text *t = &s->text[i];
        int token = s->ahead ? token_ahead(s, spoken)
                             : draw_sure(sample_token(s->logits + i * V, spoken, &s->options,
                                                      draw_number(i, s->count)));
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

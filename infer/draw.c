// draw.c: one draw from a distribution.
#include "infer/draw.h"
#include "kernels/ops.h"
#include "lib/rng.h"
#include <math.h>
#include <stdlib.h>

SampleOptions sample_defaults(uint64_t seed, size_t tokens) {
    return (SampleOptions){.temperature = 0.8, .top_k = 0, .top_p = 1, .seed = seed, .tokens = tokens, .samples = 1};
}

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
size_t draw_pick(const real *p, size_t V, double uniform) {
    size_t last = 0;
    double total = 0, sum = 0;
    for (size_t i = 0; i < V; i++) total += (double)p[i];
    for (size_t i = 0; i < V && (sum == 0 || sum <= uniform * total); i++)
        if (p[i] > 0) sum += (double)p[last = i];
    return last;
}

const char draw_no_numbers[] = "the model's logits are not numbers; its weights are damaged, or its training diverged";

bool draw_weights(real *x, size_t V, const SampleOptions *o) {
    size_t best = most_probable(x, V), k = o->top_k && o->top_k < V ? o->top_k : V;
    real most = x[best];
    if (o->temperature > 0)
        for (size_t i = 0; i < V; i++) x[i] = (real)((double)(x[i] - most) / o->temperature);
    if (!isfinite(softmax_row(x, V))) return false;
    if (o->temperature > 0) {
        if (k < V || o->top_p < 1) keep_top(x, V, k, o->top_p);
    } else {
        for (size_t i = 0; i < V; i++) x[i] = i == best;
    }
    return true;
}

int sample_token(real *x, size_t V, const SampleOptions *o, uint64_t draw) {
    if (!draw_weights(x, V, o)) return -1;
    Rng r = rng_stream(o->seed, RNG_SAMPLE, draw);
    return (int)draw_pick(x, V, rng_uniform(&r));
}

int draw_sure(int token) {
    if (token < 0) fail("%s", draw_no_numbers);
    return token;
}

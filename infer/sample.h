// sample.h: turning a model and a prompt into text, or into several texts side by side, one token at a time
// from a cache. Shared by generate.c (streams it) and train.c (writes sample.txt). Flags and clocks are not
// known here.
#ifndef SAMPLE_H
#define SAMPLE_H
#include "data/tokenizer.h"
#include "infer/speculate.h"

// Samples one text and hands it out piece by piece: first the prompt, then each token's text as soon as it
// is known. A piece holds whole UTF-8 characters (as far as the model writes UTF-8) and may be empty.
// It ends where `emit` says false. The same model, prompt and options give the same text on every machine.
void sample_text(Model *m, const Tokenizer *t, const char *prompt, SampleOptions o,
                 bool (*emit)(void *argument, const char *text, size_t bytes), void *argument);

// ---- the same, step by step ----------------------------------------------------------------------
typedef struct {
    int *token;                      // the prompt's, then those that were sampled
    char *bytes; size_t count, given, capacity;  // decoded and not yet handed out: an unfinished character may wait
    size_t ended;                    // tokens of a text that came to its end; 0: it did not
} Text;

typedef struct {
    Model *model; const Tokenizer *tokenizer; SampleOptions options;
    KeepOptions keep;                // what the cache keeps (model/keep.h)
    Cache *cache;
    real *logits;                    // [samples, V], of the tokens that come next
    Text *text;                      // [samples]
    size_t count, prompt;            // tokens of each text so far; `prompt` of them were given
    size_t window;                   // tokens of a text that the cache may hold
    size_t refills;                  // how often a full window was begun anew with its last half
    size_t forgotten;                // tokens at the start of a text that are in no window any more
    size_t read;                     // tokens of each text that the model has read
    Speculation *ahead;              // NULL: one token a step
    double prefill;                  // seconds that the prompt took: without the memory for what comes after it
} Sampler;

size_t sampler_window(const Model *m, size_t prompt, size_t tokens);    // tokens of a text that the cache will hold
// Reads the prompt (n > 0 tokens) into a new cache: the prefill. With learned positions the window is the
// context, because there are no more positions: when it is full, its last half is read again as the
// start of a new window, and the text goes on; likewise the trained context with --rope-scaling dynamic. Otherwise
// positions go on, beyond the trained context too.
Sampler *sampler_new(Model *m, const Tokenizer *t, const int *prompt, size_t n, SampleOptions o);
// With a cache that keeps less. No draft may run ahead of it.
Sampler *sampler_new_kept(Model *m, const Tokenizer *t, const int *prompt, size_t n, SampleOptions o,
                          KeepOptions keep);
// Samples the next token of every text: the s->count-th.
void sampler_next(Sampler *s);
// From now on a draft runs ahead of the text, of which there may be one only; before its first token. logits become
// [guesses + 1, V]. `automatic` measures steps of the model here, for a few of them. What `ahead` counts is shared.
void sampler_speculate(Sampler *s, Speculation *ahead);
bool sampler_ended(const Sampler *s);   // whether all texts came to their ends: those that did get no more text
// What a text (a number below `samples`) has got since it was last asked for: at first the prompt, without a token
// that only marks the start of a document. Returns the number of bytes; they are valid until the next call.
size_t sampler_text(Sampler *s, size_t sample, const char **bytes);
void sampler_free(Sampler *s);
#endif

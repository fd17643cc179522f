// speaker.h: the tokenizer behind a server: from texts to tokens and back for many threads at a time, with refusals
// instead of the end of the program; and what it tells about itself as JSON.
#ifndef SPEAKER_H
#define SPEAKER_H
#include "data/tokenizer.h"
#include "infer/sample.h"
#include <jansson.h>
#include <pthread.h>

// One tokenizer for all threads, which it was not made for, and what an answer may be.
typedef struct {
    const char *model;             // its name
    Tokenizer *words; pthread_mutex_t lock;
    size_t vocab, context, answers;    // tokens that the model has; of a text at most; answers of a call at most
    SampleOptions defaults;
    uint64_t seeds;                // how many calls came without a seed: each gets the next one
    int chat;                      // CHAT_...
    double created;                // seconds since 1970
    char *start, *end;             // the tokens with which texts start and end, or NULL
} Speaker;
Speaker *speaker_new(const char *model, Tokenizer *words, size_t vocab, size_t context, size_t answers,
                     SampleOptions defaults, int chat);
void speaker_free(Speaker *s);

typedef struct { int status; char *message, *field; } Refusal;      // malloc'd; field may be NULL
void refusal_free(Refusal *r);
char *refusal_text(const Refusal *r);                               // the body of the response
void refusal_set(Refusal *r, int status, const char *field, const char *format, ...) PRINTF_LIKE(4, 5);

// ---- text ------------------------------------------------------------------------------------------
// Tokens of a text; whole: with those that every text begins with. spelled: special tokens that it spells out.
bool speaker_encode(Speaker *s, const char *text, bool whole, int **tokens, size_t *n, size_t *spelled, Refusal *why);
char *speaker_decode(Speaker *s, int previous, int token, size_t *bytes);       // what tokenizer_decode says, malloc'd
char *speaker_shown(const char *text, size_t bytes);     // a token's text as a name, malloc'd

// UTF-8 that grows by bytes which may end inside of a character; what never becomes one is U+FFFD.
typedef struct { char *text; size_t bytes, room; char part[4]; size_t parts; } Spelling;
void spelling_add(Spelling *s, const char *text, size_t bytes);
void spelling_end(Spelling *s);                          // no more bytes come; .text is never NULL then

// ---- JSON ------------------------------------------------------------------------------------------
char *json_text(const char *text, size_t bytes);                     // UTF-8 in quotes, malloc'd
char *json_line(json_t *j);                                          // takes it, malloc'd
// Whether all that an object has are `known` fields, up to NULL, or ask for nothing (null, false, []); else why says
// which one does not.
bool speaker_knows_fields(const json_t *object, const char *where, const char *const *known, Refusal *why);
json_t *body_of(const char *body, size_t bytes, Refusal *why);       // an object, or NULL
char *speaker_models(const Speaker *s);
char *speaker_model(const Speaker *s, const char *name, Refusal *why);   // the one of this name, or NULL
char *speaker_info(const Speaker *s);
char *speaker_tokenize(Speaker *s, const char *body, size_t bytes, Refusal *why);
char *speaker_detokenize(Speaker *s, const char *body, size_t bytes, Refusal *why);
#endif

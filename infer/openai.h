// openai.h: what clients of OpenAI's interface send as JSON, and what they are told. No sockets here: text comes in,
// text goes out. A field that would change the answer and is not known is refused by its name; one that asks for
// nothing (null, a penalty of 0) is not in the way.
#ifndef OPENAI_H
#define OPENAI_H
#include "infer/live.h"
#include "infer/speaker.h"

// ---- a call ----------------------------------------------------------------------------------------
typedef struct {
    size_t decoded;                // tokens of it that became text
    Spelling text; size_t given;   // `given` bytes of it went out
    size_t offset;                 // characters before its next token
    Why why; bool closed;          // closed: its end went out
    bool opened;
} Told;

typedef struct {
    Speaker *speaker; Live *live; Call *call;
    bool chat, stream, usage, echo;
    size_t tokens;                 // of an answer at most: 0 is one that nobody sees
    bool tokens_given;
    size_t top;                    // shown beside each token
    char **stop; size_t stops, longest;
    Told *told; size_t answers;
    bool done;                     // the stream has said that it is over
    char id[40], *head;            // head: what all chunks begin with, as JSON; NULL before the first
} Reply;

// NULL and *why, or a call that is ready to be submitted.
Reply *reply_read(Speaker *s, bool chat, const char *body, size_t bytes, Refusal *why);
void reply_free(Reply *r);         // not its call
// Turns what is new into text and looks for stop words; whether all answers are complete.
bool reply_listen(Reply *r);
// All answers at once, or NULL and *why.
char *reply_whole(Reply *r, Refusal *why);
// Server-sent events: a chunk for each step of each answer, which may be empty; malloc'd, NULL if there is nothing new.
char *reply_events(Reply *r);
#endif

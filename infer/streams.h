// streams.h: one thread that sends what each step brought to all who read their answers as they are written. A thread
// for each client would be woken for each token, with cold caches; here a step wakes one, which goes from stream to
// stream. Who takes nothing more, or is at its end, is handed back to a thread of its own, which may wait.
#ifndef STREAMS_H
#define STREAMS_H
#include "infer/meter.h"
#include "infer/openai.h"
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0               // macOS, where libmicrohttpd has told the socket so
#endif

typedef enum { STREAM_SENT, STREAM_ENDS, STREAM_SLOW, STREAM_GONE } StreamState;
typedef struct Stream {
    int socket; Reply *reply;
    double until;                    // when its time is over, by seconds_now(); 0: never
    // What has not gone out when it is handed back, malloc'd. ENDS: its last events, as they are. SLOW: bytes that were
    // framed as a chunk, of which `sent` went.
    char *text; size_t bytes, sent;
    StreamState state;
    pthread_cond_t back;
    struct Stream *next;
} Stream;

typedef struct Streams Streams;
Streams *streams_new(Live *live, Meter *meter);
void streams_end(Streams *s);        // hands all back as GONE, and those that come later at once; frees nothing
void streams_free(Streams *s);
// Sends events as chunks of HTTP/1.1 until it is handed back: ENDS, SLOW or GONE. Others leave socket and reply alone.
void streams_send(Streams *s, Stream *x);
bool socket_is_gone(int socket);     // closed, or its client will not say another word
#endif

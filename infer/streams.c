// streams.c: see streams.h.
#include "infer/streams.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const double LOOK = 0.05;     // seconds between two looks at whether clients are still there
static const double LONG = 3600;     // as long as there is no stream

struct Streams {
    Live *live; Meter *meter;
    pthread_t thread;
    pthread_mutex_t lock;
    Stream *first;
    bool over;
};

// A socket that was closed, or whose client will not say another word, has nothing to read and is at its end.
bool socket_is_gone(int socket) {
    char byte;
    ssize_t n = recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

// The events as one chunk, in one write.
static StreamState send_chunk(Stream *x, char *events) {
    char size[32];
    size_t n = strlen(events), head = (size_t)snprintf(size, sizeof size, "%zx\r\n", n);
    x->bytes = head + n + 2, x->text = xmalloc(x->bytes), x->sent = 0;
    memcpy(x->text, size, head), memcpy(x->text + head, events, n), memcpy(x->text + head + n, "\r\n", 2);
    free(events);
    ssize_t sent = send(x->socket, x->text, x->bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return STREAM_GONE;
    x->sent = sent > 0 ? (size_t)sent : 0;
    if (x->sent < x->bytes) return STREAM_SLOW;
    free(x->text), x->text = NULL;
    return STREAM_SENT;
}

static StreamState go_on(const Streams *s, Stream *x, double now, bool look) {
    const Call *c = x->reply->call;
    if (look && socket_is_gone(x->socket)) return STREAM_GONE;
    if (look && x->until > 0 && now > x->until)
        for (size_t i = 0; i < c->answers; i++) live_stop(s->live, &c->answer[i], WHY_TIMEOUT);
    char *events = reply_events(x->reply);
    if (!events) return STREAM_SENT;
    if (!x->reply->done) return send_chunk(x, events);
    x->text = events, x->bytes = strlen(events);
    return STREAM_ENDS;
}

static void hand_back(Streams *s, Stream **at, StreamState state) {
    Stream *x = *at;
    *at = x->next;
    live_listen(s->live, x->reply->call, false);
    x->state = state;
    pthread_cond_signal(&x->back);
}

// All streams once, under the lock.
static void send_news(Streams *s, double now, bool look) {
    for (Stream **at = &s->first; *at;) {
        StreamState state = s->over ? STREAM_GONE : go_on(s, *at, now, look);
        if (state == STREAM_SENT) at = &(*at)->next;
        else hand_back(s, at, state);
    }
}

static void *run(void *streams) {
    Streams *s = streams;
    double looked = seconds_now(), took = 0;
    for (bool any = false; live_hear(s->live, took, any ? LOOK : LONG), true;) {
        double now = seconds_now();
        bool look = now - looked >= LOOK;
        if (look) looked = now;
        pthread_mutex_lock(&s->lock);
        send_news(s, now, look);
        any = s->first != NULL;
        bool over = s->over;
        pthread_mutex_unlock(&s->lock);
        meter_note(s->meter);
        took = seconds_now() - now;
        if (over) return NULL;
    }
}

void streams_send(Streams *s, Stream *x) {
    pthread_cond_init(&x->back, NULL);
    live_listen(s->live, x->reply->call, true);
    pthread_mutex_lock(&s->lock);
    x->state = s->over ? STREAM_GONE : STREAM_SENT;
    if (!s->over) x->next = s->first, s->first = x;
    pthread_mutex_unlock(&s->lock);
    live_ring(s->live);              // there may be news already
    pthread_mutex_lock(&s->lock);
    while (x->state == STREAM_SENT) pthread_cond_wait(&x->back, &s->lock);
    pthread_mutex_unlock(&s->lock);
    pthread_cond_destroy(&x->back);
}

Streams *streams_new(Live *live, Meter *meter) {
    Streams *s = xmalloc(sizeof *s);
    *s = (Streams){.live = live, .meter = meter};
    pthread_mutex_init(&s->lock, NULL);
    int error = pthread_create(&s->thread, NULL, run, s);
    if (error) fail("no thread for streams: %s", strerror(error));
    return s;
}

void streams_end(Streams *s) {
    pthread_mutex_lock(&s->lock);
    s->over = true;
    pthread_mutex_unlock(&s->lock);
    live_ring(s->live);
    pthread_join(s->thread, NULL);
}

void streams_free(Streams *s) {
    pthread_mutex_destroy(&s->lock);
    free(s);
}

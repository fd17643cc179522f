// link.c: see link.h.
#ifdef __linux__
#define _GNU_SOURCE             // how much a pipe holds
#include <fcntl.h>
#endif
#include "infer/link.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void start(pthread_t *thread, void *(*run)(void *), void *of) {
    int error = pthread_create(thread, NULL, run, of);
    if (error) fail("no thread could be started for the link: %s", strerror(error));
}

// ---- sending -------------------------------------------------------------------------------------
typedef struct Parcel { struct Parcel *next; LinkHead head; char *aside, *bytes; } Parcel;
struct LinkSender {
    int pipe; double rate;
    pthread_t thread; pthread_mutex_t lock; pthread_cond_t come;
    Parcel *first, *last; bool ending;      // under the lock
    double free;                            // when the link will be, if it is not
    LinkTraffic traffic; bool broken;
};

static bool write_all(LinkSender *s, const void *data, size_t bytes) {
    for (const char *at = data; bytes && !s->broken;) {
        ssize_t n = write(s->pipe, at, bytes);
        if (n > 0) at += n, bytes -= (size_t)n;
        else if (errno != EINTR) s->broken = true;
    }
    return !s->broken;
}

static void sleep_until(double then) {
    for (double left; (left = then - seconds_now()) > 0;) {
        struct timespec t = {(time_t)left, (long)((left - floor(left)) * 1e9)};
        nanosleep(&t, NULL);
    }
}

// A byte arrives when it has gone through: so after its piece's time. A sleep that was too long is made up for, but
// not more than the bucket holds.
#define BUCKET_SECONDS 0.02
static void send_slowly(LinkSender *s, const char *bytes, size_t count) {
    enum { LEAST = 256, MOST = 1 << 16 };
    size_t piece = s->rate * 5e-4 > MOST ? MOST : s->rate * 5e-4 < LEAST ? LEAST : (size_t)(s->rate * 5e-4);
    for (size_t at = 0, n; at < count && !s->broken; at += n) {
        n = smaller(piece, count - at);
        s->free = fmax(s->free, seconds_now() - BUCKET_SECONDS) + (double)n / s->rate;
        sleep_until(s->free);
        if (write_all(s, bytes + at, n)) s->traffic.bytes += (double)n;
    }
}

static Parcel *next_parcel(LinkSender *s) {
    pthread_mutex_lock(&s->lock);
    bool idle = !s->first;
    while (!s->first && !s->ending) pthread_cond_wait(&s->come, &s->lock);
    Parcel *p = s->first;
    if (p && !(s->first = p->next)) s->last = NULL;
    pthread_mutex_unlock(&s->lock);
    if (idle) s->free = seconds_now();
    return p;
}

static void *send_all(void *of) {
    LinkSender *s = of;
    for (Parcel *p; (p = next_parcel(s));) {
        double from = seconds_now();
        write_all(s, &p->head, sizeof p->head), write_all(s, p->aside, p->head.aside);
        if (isinf(s->rate)) write_all(s, p->bytes, p->head.bytes), s->traffic.bytes += (double)p->head.bytes;
        else send_slowly(s, p->bytes, p->head.bytes);
        if (p->head.bytes) s->traffic.seconds += seconds_now() - from;
        free(p->aside), free(p->bytes), free(p);
    }
    return NULL;
}

// Sixteen pages, which a pipe has at first, are less than a layer of a prompt: then both sides wake each other many
// times for each, on cores that compute. A megabyte is what the system grants anybody; without it the link is slower.
static void widen(int pipe) {
#ifdef __linux__
    fcntl(pipe, F_SETPIPE_SZ, 1 << 20);
#else
    (void)pipe;
#endif
}

LinkSender *link_sender(int pipe, double rate) {
    LinkSender *s = xmalloc(sizeof *s);
    widen(pipe);
    *s = (LinkSender){.pipe = pipe, .rate = rate, .free = seconds_now()};
    pthread_mutex_init(&s->lock, NULL), pthread_cond_init(&s->come, NULL);
    start(&s->thread, send_all, s);
    return s;
}

void link_send(LinkSender *s, LinkHead head, const void *aside, void *bytes) {
    Parcel *p = xmalloc(sizeof *p);
    *p = (Parcel){.head = head, .bytes = bytes};
    if (head.aside) p->aside = memcpy(xmalloc(head.aside), aside, head.aside);
    pthread_mutex_lock(&s->lock);
    if (s->last) s->last->next = p;
    else s->first = p;
    s->last = p;
    pthread_cond_signal(&s->come);
    pthread_mutex_unlock(&s->lock);
}

LinkTraffic link_sender_end(LinkSender *s) {
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_signal(&s->come);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    LinkTraffic traffic = s->traffic;
    close(s->pipe);
    pthread_mutex_destroy(&s->lock), pthread_cond_destroy(&s->come);
    free(s);
    return traffic;
}

// ---- receiving -----------------------------------------------------------------------------------
struct LinkReceiver { int pipe; pthread_t thread; LinkArrive *arrive; void *owner; LinkTraffic traffic; };

static bool read_all(int pipe, void *data, size_t bytes) {
    for (char *at = data; bytes;) {
        ssize_t n = read(pipe, at, bytes);
        if (n > 0) at += n, bytes -= (size_t)n;
        else if (n == 0 || errno != EINTR) return false;
    }
    return true;
}

static void *receive_all(void *of) {
    LinkReceiver *r = of;
    for (LinkHead head; read_all(r->pipe, &head, sizeof head);) {
        double from = seconds_now();
        char *aside = xmalloc(head.aside), *bytes = xmalloc(head.bytes);
        bool whole = read_all(r->pipe, aside, head.aside) && read_all(r->pipe, bytes, head.bytes);
        if (whole) r->traffic.bytes += (double)head.bytes, r->traffic.seconds += seconds_now() - from;
        if (whole) r->arrive(r->owner, &head, aside, bytes);
        free(aside), free(bytes);
        if (!whole) break;
    }
    return NULL;
}

LinkReceiver *link_receiver(int pipe, LinkArrive *arrive, void *owner) {
    LinkReceiver *r = xmalloc(sizeof *r);
    *r = (LinkReceiver){.pipe = pipe, .arrive = arrive, .owner = owner};
    start(&r->thread, receive_all, r);
    return r;
}
LinkTraffic link_receiver_end(LinkReceiver *r) {
    pthread_join(r->thread, NULL);
    LinkTraffic traffic = r->traffic;
    close(r->pipe);
    free(r);
    return traffic;
}

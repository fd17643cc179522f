// mail.h: messages between two processes on one machine, over a stream socket: a kind, a number, some bytes. What is
// put waits here until the other side takes it, so that nobody stands still while the other one computes.
#ifndef MAIL_H
#define MAIL_H
#include "lib/util.h"

typedef struct { uint64_t kind, id, bytes; } MailHead;
typedef struct {
    int socket;
    char *out, *in; size_t out_from, out_to, out_room, in_from, in_to, in_room;     // bytes that wait: [from, to)
    bool closed;                        // the other side has gone; what it sent before can still be fetched
} Mail;

Mail mail_new(int socket);
void mail_free(Mail *m);                // closes the socket
// Two parts of one message; `more` may be NULL.
void mail_put(Mail *m, uint64_t kind, uint64_t id, const void *data, size_t bytes, const void *more, size_t rest);
void mail_send(Mail *m);                // as much as the other side takes now
void mail_send_all(Mail *m);            // waits until it has taken all, or has gone
void mail_read(Mail *m);                // what is there now
bool mail_fetch(Mail *m, MailHead *head, const void **data);    // the next whole message; valid until the next reading
static inline bool mail_waits(const Mail *m) { return m->out_from < m->out_to; }
#endif

// mail.c: see mail.h.
#include "infer/mail.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Who has gone is an error of send() here, and no signal.
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
Mail mail_new(int socket) {
#ifdef SO_NOSIGPIPE
    setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
    return (Mail){.socket = socket};
}
void mail_free(Mail *m) {
    close(m->socket);
    free(m->out), free(m->in);
    *m = (Mail){.socket = -1};
}

// Room for so many bytes more behind `to`.
static char *room(char **data, size_t *from, size_t *to, size_t *size, size_t bytes) {
    if (*from) memmove(*data, *data + *from, *to - *from), *to -= *from, *from = 0;
    if (*size - *to < bytes) *data = xrealloc(*data, *size = 2 * size_add(*to, bytes));
    return *data + *to;
}

void mail_put(Mail *m, uint64_t kind, uint64_t id, const void *data, size_t bytes, const void *more, size_t rest) {
    MailHead head = {kind, id, bytes + rest};
    char *at = room(&m->out, &m->out_from, &m->out_to, &m->out_room, sizeof head + bytes + rest);
    memcpy(at, &head, sizeof head);
    if (bytes) memcpy(at + sizeof head, data, bytes);
    if (rest) memcpy(at + sizeof head + bytes, more, rest);
    m->out_to += sizeof head + bytes + rest;
}

void mail_send(Mail *m) {
    while (mail_waits(m) && !m->closed) {
        ssize_t n = send(m->socket, m->out + m->out_from, m->out_to - m->out_from, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) m->out_from += (size_t)n;
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno != EINTR) m->closed = true;
    }
}
void mail_send_all(Mail *m) {
    for (mail_send(m); mail_waits(m) && !m->closed; mail_send(m)) {
        struct pollfd wait = {m->socket, POLLOUT, 0};
        poll(&wait, 1, -1);
    }
}

void mail_read(Mail *m) {
    enum { PIECE = 1 << 16 };
    while (!m->closed) {
        char *at = room(&m->in, &m->in_from, &m->in_to, &m->in_room, PIECE);
        ssize_t n = recv(m->socket, at, PIECE, MSG_DONTWAIT);
        if (n > 0) m->in_to += (size_t)n;
        else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        else if (n == 0 || errno != EINTR) m->closed = true;
    }
}

bool mail_fetch(Mail *m, MailHead *head, const void **data) {
    size_t there = m->in_to - m->in_from;
    if (there < sizeof *head) return false;
    memcpy(head, m->in + m->in_from, sizeof *head);
    if (there - sizeof *head < head->bytes) return false;
    *data = m->in + m->in_from + sizeof *head;
    m->in_from += sizeof *head + head->bytes;
    return true;
}

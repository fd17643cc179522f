// link.h: a pipe from one process to another that is as slow as asked for. A thread of each side keeps it busy, so that
// who computes never waits for it; what it has not taken yet waits in memory. Bytes count where they are keys and
// values: heads, and what is sent as `aside`, go beside them, uncounted and without delay.
#ifndef LINK_H
#define LINK_H
#include "lib/util.h"

typedef struct { uint64_t kind, id, tokens, layer, from, to, aside, bytes; } LinkHead;  // aside, bytes: that follow
typedef struct { double bytes, seconds; } LinkTraffic;      // that were counted; in which the link was busy

// rate: bytes per second, by a token bucket of a few milliseconds; INFINITY: no limit.
typedef struct LinkSender LinkSender;
LinkSender *link_sender(int pipe, double rate);
void link_send(LinkSender *s, LinkHead head, const void *aside, void *bytes);     // bytes: malloc'd, and freed here
LinkTraffic link_sender_end(LinkSender *s);         // when all has gone, or nobody takes it

// arrive() is called in a thread of its own, in the order of sending.
typedef struct LinkReceiver LinkReceiver;
typedef void LinkArrive(void *owner, const LinkHead *head, const void *aside, const void *bytes);
LinkReceiver *link_receiver(int pipe, LinkArrive *arrive, void *owner);
LinkTraffic link_receiver_end(LinkReceiver *r);     // when the other side has ended
#endif

// worker.h: one of the processes of infer/pipe.h, from its beginning to its end: a scheduler, a pool and a model of its
// own. It reads prompts and sends their keys and values over a link, or writes answers to those that arrive, or does
// both itself.
#ifndef WORKER_H
#define WORKER_H
#include "infer/link.h"
#include "infer/mail.h"
#include "infer/pipe.h"

// To a worker: where times are counted from; a request, its tokens behind it; that nothing comes any more. From it:
// that it has its memory; tokens that a step has drawn; the end of a request; its counters, after which it ends.
enum { MAIL_START, MAIL_ASK, MAIL_LEAVE, MAIL_READY, MAIL_TOKENS, MAIL_ENDED, MAIL_TOLD };
typedef struct { uint64_t tokens, most; double at; } MailAsk;
typedef struct { double time; uint64_t count; } MailTokens;
typedef struct { uint64_t id; int64_t token; } MailToken;
typedef struct { uint64_t end, preempted, hits; } MailEnded;
typedef struct { SchedCounters counters; WorkerTimes times; LinkTraffic link; uint64_t sent; } MailTold;

// writes: also, or only, where there is no link. mail: a socket; link: an end of a pipe, or -1.
typedef struct { const PipeOptions *o; bool writes; int mail, link; } WorkerPlace;
_Noreturn void worker_run(const WorkerPlace *place);
#endif

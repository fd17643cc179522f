// pipe.c: see pipe.h. This process computes nothing: it hands requests out, hears of tokens, and watches.
#ifdef __linux__
#define _GNU_SOURCE             // which cores a process may have
#include <sched.h>
#endif
#include "infer/worker.h"
#include "lib/process.h"
#include "model/transfer.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct { pid_t process; Mail mail; bool writes, ready, told; size_t flying; MailTold said; } Worker;
// begun: its first token was heard, which a reader drew. held: what a writer said before that, of `holds` tokens.
typedef struct { int token; double time; } Held;
typedef struct { bool ended, begun; MailEnded end; Worker *at; Held *held; size_t holds; } Asked;
struct Pipe {
    const PipeOptions *o;
    Worker *worker; size_t workers, threads; bool pinned;       // threads: of each
    double start;
    Asked *asked; size_t submitted, ended, counts[ENDS];
    char *reason;
};

// ---- processes -----------------------------------------------------------------------------------
// What a second signal ends at once (lib/process.h).
enum { MOST_WORKERS = 1000 };
static pid_t processes[MOST_WORKERS];
static volatile sig_atomic_t process_count;
static void end_processes(void) {
    for (int i = 0; i < process_count; i++)
        if (processes[i] > 0) kill(processes[i], SIGKILL);
}

static size_t cores_here(void) {
#ifdef __linux__
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all) == 0) return (size_t)CPU_COUNT(&all);
#endif
    return (size_t)omp_get_num_procs();
}

// Cores of its own for each worker, where there are as many. Elsewhere than on Linux no process can ask for that.
static void take_cores(size_t worker, size_t threads) {
#ifdef __linux__
    cpu_set_t all, own;
    size_t seen = 0;
    if (sched_getaffinity(0, sizeof all, &all)) return;
    CPU_ZERO(&own);
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, &all)) continue;
        if (seen / threads == worker) CPU_SET(core, &own);
        seen++;
    }
    sched_setaffinity(0, sizeof own, &own);
#else
    (void)worker, (void)threads;
#endif
}

static void make_sockets(int ends[2]) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) fail("no socket for a worker: %s", strerror(errno));
}

// The process that is to live here: it keeps its own ends and closes those of the others, so that all hear it when one
// of them ends.
static _Noreturn void become(const Pipe *p, size_t i, int mail, const int link[2]) {
    const Worker *w = &p->worker[i];
    process_clean_up = NULL;
    signal(SIGINT, SIG_IGN), signal(SIGHUP, SIG_IGN), signal(SIGPIPE, SIG_IGN), signal(SIGTERM, SIG_DFL);
    for (size_t k = 0; k < i; k++) close(p->worker[k].mail.socket);
    close(w->mail.socket);
    int own = link[0] < 0 ? -1 : link[w->writes ? 0 : 1];
    if (own >= 0) close(link[w->writes ? 1 : 0]);
    if (p->pinned) take_cores(i, p->threads);
    omp_set_num_threads((int)p->threads);
    worker_run(&(WorkerPlace){p->o, w->writes, mail, own});
}

static const char *what_of(const Pipe *p, const Worker *w) {
    return !p->o->readers ? "does both" : w->writes ? "writes answers" : "reads prompts";
}

void pipe_print(const Pipe *p, FILE *out) {
    fprintf(out, "note     ");
    for (size_t i = 0; i < p->workers; i++)
        fprintf(out, "%sprocess %ld %s", i ? ", " : "", (long)p->worker[i].process, what_of(p, &p->worker[i]));
    fprintf(out, "; %zu thread%s each%s\n", p->threads, plural(p->threads),
            p->pinned ? ", on cores of their own" : ", which share cores: times are not those of as many machines");
}

Pipe *pipe_new(const PipeOptions *o, size_t requests) {
    Pipe *p = xmalloc(sizeof *p);
    *p = (Pipe){.o = o, .workers = o->readers + o->writers, .asked = xmalloc(size_mul(requests + 1, sizeof *p->asked))};
    p->worker = xmalloc(size_mul(p->workers, sizeof *p->worker));
    size_t cores = cores_here(), share = cores / p->workers;
    p->threads = o->threads ? o->threads : share ? share : 1;
    p->pinned = cores >= p->threads * p->workers;
    int link[2] = {-1, -1};
    if (o->readers && pipe(link)) fail("no pipe for the link: %s", strerror(errno));
    process_count = 0, process_clean_up = end_processes;
    process_catch_signals(true);
    fflush(NULL);                                               // or each process would say it again
    for (size_t i = 0; i < p->workers; i++) {
        Worker *w = &p->worker[i];
        int ends[2];
        make_sockets(ends);
        *w = (Worker){.mail = mail_new(ends[0]), .writes = i >= o->readers};
        w->process = fork();
        if (w->process == 0) become(p, i, ends[1], link);
        if (w->process < 0) fail("no process for a worker: %s", strerror(errno));
        processes[i] = w->process, process_count = (int)i + 1;
        close(ends[1]);
    }
    if (o->readers) close(link[0]), close(link[1]);
    return p;
}

// None is left behind: not running, not dead and unburied.
static void end_all(Pipe *p) {
    end_processes();
    for (size_t i = 0; i < p->workers; i++) {
        Worker *w = &p->worker[i];
        while (w->process > 0 && waitpid(w->process, NULL, 0) < 0 && errno == EINTR) {}
        w->process = processes[i] = 0;
    }
    process_count = 0, process_clean_up = NULL;
}

void pipe_free(Pipe *p) {
    end_all(p);
    process_catch_signals(false);
    for (size_t i = 0; i < p->workers; i++) mail_free(&p->worker[i].mail);
    for (size_t i = 0; i < p->submitted; i++) free(p->asked[i].held);
    free(p->worker), free(p->asked), free(p->reason), free(p);
}

// ---- why it cannot go on -------------------------------------------------------------------------

static const char *stop(Pipe *p, char *reason) {
    end_all(p);
    free(p->reason);
    return p->reason = reason;
}

// A worker that failed has said why itself.
static const char *is_lost(Pipe *p, Worker *w) {
    int status = 0;
    long process = (long)w->process;
    while (waitpid(w->process, &status, 0) < 0 && errno == EINTR) {}
    w->process = processes[w - p->worker] = 0;
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    char *how = signal ? xprintf("was ended by signal %d (%s)", signal, strsignal(signal))
                       : xprintf("ended with status %d", WEXITSTATUS(status));
    char *reason = xprintf("process %ld, which %s, %s; %zu of %zu requests had ended", process, what_of(p, w), how,
                           p->ended, p->submitted);
    free(how);
    return stop(p, reason);
}

static const char *is_stopped(Pipe *p) {
    return stop(p, xprintf("stopped by a signal (%d); %zu of %zu requests had ended", (int)process_stopped, p->ended,
                           p->submitted));
}

// ---- requests ------------------------------------------------------------------------------------

void pipe_submit(Pipe *p, const int *prompt, size_t n, size_t answer, double now) {
    size_t i = p->submitted++;
    Worker *to = &p->worker[0];
    for (size_t k = 1; !p->o->readers && k < p->workers; k++)
        if (p->worker[k].flying < to->flying) to = &p->worker[k];
    MailAsk ask = {n, size_add(n, answer), now};
    mail_put(&to->mail, MAIL_ASK, i, &ask, sizeof ask, prompt, size_mul(n, sizeof *prompt));
    p->asked[i] = (Asked){.at = to};
    to->flying++;
}

size_t pipe_flying(const Pipe *p) { return p->submitted - p->ended; }

// A writer may be heard before the reader of the same request: each has a socket of its own, and nobody says which
// was written to first. Its tokens wait for the first one.
static void hear_token(const Pipe *p, const Worker *from, size_t id, Held h) {
    Asked *a = &p->asked[id];
    if (p->o->readers && from->writes && !a->begun) {
        if ((a->holds & (a->holds - 1)) == 0)       // room for the next power of two
            a->held = xrealloc(a->held, (a->holds ? 2 * a->holds : 1) * sizeof *a->held);
        a->held[a->holds++] = h;
        return;
    }
    p->o->emit(p->o->owner, id, h.token, h.time);
    for (size_t i = 0; i < a->holds; i++) p->o->emit(p->o->owner, id, a->held[i].token, a->held[i].time);
    free(a->held);
    a->begun = true, a->held = NULL, a->holds = 0;
}

static void hear_tokens(const Pipe *p, const Worker *from, const char *data) {
    MailTokens head;
    memcpy(&head, data, sizeof head);
    for (size_t i = 0; i < head.count; i++) {
        MailToken t;
        memcpy(&t, data + sizeof head + i * sizeof t, sizeof t);
        hear_token(p, from, t.id, (Held){(int)t.token, head.time});
    }
}

static void hear(Pipe *p, Worker *w) {
    MailHead head;
    const void *data;
    mail_read(&w->mail);
    while (mail_fetch(&w->mail, &head, &data)) {
        if (head.kind == MAIL_TOKENS) hear_tokens(p, w, data);
        else if (head.kind == MAIL_READY) w->ready = true;
        else if (head.kind == MAIL_TOLD) memcpy(&w->said, data, sizeof w->said), w->told = true;
        else {
            Asked *a = &p->asked[head.id];
            if (a->ended) fail("request %zu has ended twice; please report this", (size_t)head.id);
            a->ended = true, a->at->flying--, p->ended++;
            memcpy(&a->end, data, sizeof a->end);
            p->counts[a->end.end]++;
        }
    }
}

// poll() knows whole milliseconds, and a request that is late by one waits a step longer: the rest of one is slept,
// where nothing was heard. What is told meanwhile has its time with it.
static void sleep_rest(double left) {
    if (left > 0 && left < 1e-3) nanosleep(&(struct timespec){0, (long)(1e9 * left)}, NULL);
}

// A signal may come just before poll(): so it never waits for long.
#define LONGEST_WAIT 0.1
static const char *wait_until(Pipe *p, double until) {
    struct pollfd *wait = xmalloc(p->workers * sizeof *wait);
    for (size_t i = 0; i < p->workers; i++) {
        Worker *w = &p->worker[i];
        mail_send(&w->mail);
        wait[i] = (struct pollfd){w->told ? -1 : w->mail.socket, mail_waits(&w->mail) ? POLLIN | POLLOUT : POLLIN, 0};
    }
    double left = fmin(LONGEST_WAIT, until - (seconds_now() - p->start));
    if (poll(wait, (nfds_t)p->workers, left > 0 ? (int)(1000 * left) : 0) == 0)
        sleep_rest(until - (seconds_now() - p->start));
    free(wait);
    for (size_t i = 0; i < p->workers; i++) {
        Worker *w = &p->worker[i];
        hear(p, w);
        if (w->mail.closed && !w->told) return is_lost(p, w);
    }
    return process_stopped ? is_stopped(p) : NULL;
}
const char *pipe_wait(Pipe *p, double until) { return wait_until(p, until); }

const char *pipe_begin(Pipe *p, double *start) {
    for (size_t i = 0; i < p->workers; i++)
        while (!p->worker[i].ready) {
            const char *reason = wait_until(p, INFINITY);
            if (reason) return reason;
        }
    p->start = *start = seconds_now();
    for (size_t i = 0; i < p->workers; i++)
        mail_put(&p->worker[i].mail, MAIL_START, 0, &p->start, sizeof p->start, NULL, 0), mail_send(&p->worker[i].mail);
    return NULL;
}

// Readers first: then all that they have sent can arrive.
const char *pipe_end(Pipe *p) {
    for (size_t i = 0; i < p->workers; i++) {
        Worker *w = &p->worker[i];
        mail_put(&w->mail, MAIL_LEAVE, 0, NULL, 0, NULL, 0);
        while (!w->told) {
            const char *reason = wait_until(p, INFINITY);
            if (reason) return reason;
        }
        while (waitpid(w->process, NULL, 0) < 0 && errno == EINTR) {}
        w->process = processes[i] = 0;
    }
    process_count = 0, process_clean_up = NULL;
    if (p->o->readers && p->worker[0].said.link.bytes != p->worker[1].said.link.bytes)
        fail("%.0f bytes were sent and %.0f have arrived; please report this", p->worker[0].said.link.bytes,
             p->worker[1].said.link.bytes);
    return NULL;
}

// ---- what came of it -----------------------------------------------------------------------------

SchedCounters pipe_counters(const Pipe *p) {
    SchedCounters all = {.received = p->submitted};
    for (size_t i = 0; i < p->workers; i++) counters_add(&all, &p->worker[i].said.counters);
    memcpy(all.ended, p->counts, sizeof all.ended);
    return all;
}
LinkCounters pipe_link(const Pipe *p) {
    const MailTold *said = &p->worker[0].said;
    return p->o->readers ? (LinkCounters){said->link.bytes, said->link.seconds, said->sent} : (LinkCounters){0};
}
WorkerTimes pipe_times(const Pipe *p, bool readers) {
    size_t first = readers ? 0 : p->o->readers, end = readers ? p->o->readers : p->workers;
    WorkerTimes sum = {0};
    for (size_t i = first; i < end; i++)
        sum.busy += p->worker[i].said.times.busy, sum.held += p->worker[i].said.times.held,
            sum.priced += p->worker[i].said.times.priced;
    double n = end > first ? (double)(end - first) : 1;
    return (WorkerTimes){sum.busy / n, sum.held / n, sum.priced / n};
}
double pipe_priced(const Pipe *p) {
    double sum = 0;
    for (size_t i = 0; i < p->workers; i++) sum += p->worker[i].said.times.priced;
    return sum / (double)p->workers;
}
void pipe_tell(const Pipe *p, Record *record) {
    for (size_t i = 0; i < p->submitted; i++) {
        const Asked *a = &p->asked[i];
        record[i].end = a->ended ? (RequestEnd)a->end.end : END_CANCELLED;
        record[i].preempted = a->end.preempted, record[i].hits = a->end.hits;
    }
}

size_t pipe_bytes(const PipeOptions *o, size_t n) {
    return transfer_bytes_of_text(o->served->model, o->served->blocks, n);
}

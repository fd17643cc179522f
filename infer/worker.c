// worker.c: see worker.h.
#include "infer/worker.h"
#include "model/transfer.h"
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A request here. goes: it will go on elsewhere. sent: tokens whose keys and values have gone.
typedef struct {
    Request *request;
    uint64_t id, prompt, most, preempted, hits;
    bool goes; size_t sent;
} Job;

// What a reader says of a prompt that is on its way: its tokens, the first of its answer among them, stand behind this.
enum { LINK_PART, LINK_END, LINK_DROP };
typedef struct { uint64_t most, preempted, hits; double at; } Introduction;

// A prompt that arrives: what blocks_load() takes, block by block.
typedef struct Arrival {
    struct Arrival *next;
    uint64_t id, tokens;
    unsigned char *image, **place;
    Introduction said; int *token;
} Arrival;

typedef struct {
    PipeOptions o;
    bool writes, leaving;
    Pool *pool; Sched *sched; Engine engine;
    Mail mail;
    Job **job; size_t jobs, room;
    MailToken *token; size_t tokens, token_room;        // of the step that runs
    const StepRow *row; size_t rows;                    // that a reader computes
    LinkSender *sender;
    LinkReceiver *receiver;
    int wake[2];                                        // a byte for each prompt that has arrived
    pthread_mutex_t lock; Arrival *coming, *landing, *last;     // under the lock: in parts; whole, in their order
    double start, since;                                // times are counted from; since when it has not waited
    MailTold told;
} Worker;

static const Blocks *blocks_of(const Worker *w) { return w->o.served->blocks; }

// ---- what a reader sends -------------------------------------------------------------------------

// While the step runs its rows are known, and whose they are.
static void step(void *self, const StepRow *row, size_t rows) {
    Worker *w = self;
    w->row = row, w->rows = rows;
    w->o.backend.step(w->o.backend.self, row, rows);
}
static void copy(void *self, uint32_t from, uint32_t to) {
    const Backend *b = &((Worker *)self)->o.backend;
    b->copy(b->self, from, to);
}
static void save(void *self, uint32_t block, uint32_t place) {
    const Backend *b = &((Worker *)self)->o.backend;
    b->save(b->self, block, place);
}
static void load(void *self, uint32_t place, uint32_t block) {
    const Backend *b = &((Worker *)self)->o.backend;
    b->load(b->self, place, block);
}
static int sample(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    const Backend *b = &((Worker *)self)->o.backend;
    return b->sample(b->self, row, index, i, r, position);
}
static bool ends(void *self, const Request *r, int token) {
    const Backend *b = &((Worker *)self)->o.backend;
    return b->ends && b->ends(b->self, r, token);
}

static void send_layer(const Worker *w, const Job *job, const StepRow *row, size_t l) {
    const Model *m = w->o.served->model;
    const Blocks *s = blocks_of(w);
    size_t to = row->past + row->n;
    Transfer t = {l, job->sent, to, to == job->prompt};
    size_t bytes = to > job->sent ? transfer_bytes(m, s, t) : 0;
    if (!bytes) return;
    unsigned char *out = xmalloc(bytes);
    transfer_pack(m, s, t, row->block, out);
    link_send(w->sender, (LinkHead){LINK_PART, job->id, job->prompt, l, t.from, t.to, 0, bytes}, NULL, out);
}

static void layer_is_there(void *owner, size_t l) {
    const Worker *w = owner;
    for (size_t i = 0; i < w->rows; i++) {
        const Job *job = w->row[i].request->owner;
        if (job->goes) send_layer(w, job, &w->row[i], l);
    }
}

static void hand_over(Worker *w, Job *job, const StepRow *row) {
    const Request *r = job->request;
    for (size_t l = 0; !w->o.overlap && l < blocks_of(w)->layers; l++) send_layer(w, job, row, l);
    Introduction said = {job->most, r->preempted, r->hits, r->arrival};
    size_t bytes = sizeof said + r->length * sizeof *r->token;
    char *aside = xmalloc(bytes);
    memcpy(aside, &said, sizeof said), memcpy(aside + sizeof said, r->token, bytes - sizeof said);
    link_send(w->sender, (LinkHead){LINK_END, job->id, job->prompt, 0, 0, 0, bytes, 0}, aside, NULL);
    free(aside);
    w->told.sent++;
}

// ---- what a writer gets --------------------------------------------------------------------------

static Arrival *arrival_of(Worker *w, const LinkHead *head) {
    const Model *m = w->o.served->model;
    const Blocks *s = blocks_of(w);
    size_t bytes = blocks_bytes(m, s), places = transfer_places(s, head->tokens);
    for (Arrival *a = w->coming; a; a = a->next)
        if (a->id == head->id) return a;
    Arrival *a = xmalloc(sizeof *a);
    *a = (Arrival){.next = w->coming, .id = head->id, .tokens = head->tokens, .image = xmalloc(size_mul(places, bytes)),
                   .place = xmalloc(size_mul(places, sizeof *a->place))};
    for (size_t i = 0; i < places; i++) a->place[i] = a->image + i * bytes;
    return w->coming = a;
}

static void free_arrival(Arrival *a) { free(a->image), free(a->place), free(a->token), free(a); }

static void leave_coming(Worker *w, const Arrival *a) {
    Arrival **at = &w->coming;
    while (*at != a) at = &(*at)->next;
    *at = a->next;
}

// In the thread of the link: only it knows what is still coming.
static void arrive(void *owner, const LinkHead *head, const void *aside, const void *bytes) {
    Worker *w = owner;
    Arrival *a = arrival_of(w, head);
    Transfer t = {head->layer, head->from, head->to, head->to == head->tokens};
    if (head->kind == LINK_PART) transfer_unpack(w->o.served->model, blocks_of(w), t, bytes, a->place);
    if (head->kind == LINK_PART) return;
    leave_coming(w, a);
    if (head->kind == LINK_DROP) {
        free_arrival(a);
        return;
    }
    memcpy(&a->said, aside, sizeof a->said);
    a->token = xmalloc(head->aside - sizeof a->said), a->next = NULL;
    memcpy(a->token, (const char *)aside + sizeof a->said, head->aside - sizeof a->said);
    pthread_mutex_lock(&w->lock);
    if (w->last) w->last->next = a;
    else w->landing = a;
    w->last = a;
    pthread_mutex_unlock(&w->lock);
    if (write(w->wake[1], "", 1) < 0) fail("a worker cannot wake itself");
}

static Job *add_job(Worker *w, Job job) {
    if (w->jobs == w->room) w->job = xrealloc(w->job, (w->room = 2 * w->room + 16) * sizeof *w->job);
    Job *j = w->job[w->jobs++] = xmalloc(sizeof *j);
    *j = job;
    j->request->seed = j->id, j->request->owner = j;
    return j;
}

// Into the swap area, as far as it has room, in the order of arrival.
static void land(Worker *w) {
    for (;;) {
        pthread_mutex_lock(&w->lock);
        Arrival *a = w->landing;
        pthread_mutex_unlock(&w->lock);
        if (!a) return;
        Served *s = w->o.served;
        size_t bytes = blocks_bytes(s->model, s->blocks);
        Request *r = sched_receive(w->sched, a->token, a->tokens, a->tokens + 1, a->said.most, a->said.at);
        if (!r) return;
        size_t filled = smaller(r->places, transfer_places(s->blocks, a->tokens));
        for (size_t i = 0; i < filled; i++) memcpy(s->swap + r->place[i] * bytes, a->place[i], bytes);
        add_job(w, (Job){.request = r, .id = a->id, .prompt = a->tokens, .most = a->said.most,
                         .preempted = a->said.preempted, .hits = a->said.hits});
        pthread_mutex_lock(&w->lock);
        if (!(w->landing = a->next)) w->last = NULL;
        pthread_mutex_unlock(&w->lock);
        free_arrival(a);
    }
}

// ---- mail ----------------------------------------------------------------------------------------

static void take_request(Worker *w, uint64_t id, const char *data) {
    MailAsk ask;
    memcpy(&ask, data, sizeof ask);
    size_t n = ask.tokens, most = ask.most;
    bool fits = most <= keep_room(&blocks_of(w)->keep.o, w->o.blocks * w->o.block) + 1; // the last token needs no place
    int *token = xmalloc(size_mul(n, sizeof *token));
    memcpy(token, data + sizeof ask, n * sizeof *token);
    Request *r = sched_submit(w->sched, token, fits ? n : 0, w->writes ? most : n + 1, 0, ask.at);
    free(token);
    add_job(w, (Job){.request = r, .id = id, .prompt = n, .most = most, .goes = !w->writes && most > n + 1});
}

static void read_mail(Worker *w) {
    MailHead head;
    const void *data;
    mail_read(&w->mail);
    while (mail_fetch(&w->mail, &head, &data)) {
        if (head.kind == MAIL_ASK) take_request(w, head.id, data);
        else if (head.kind == MAIL_START) memcpy(&w->start, data, sizeof w->start);
        else w->leaving = true;
    }
    if (w->mail.closed) _exit(0);                               // nobody is there any more who would hear of it
}

// A request of one token more than its prompt, at a reader, has ended only here.
static bool goes_on(const Job *job) { return job->goes && job->request->end == END_LENGTH; }

static void let_go(Worker *w, size_t i) {
    Job *job = w->job[i];
    const Request *r = job->request;
    MailEnded ended = {r->end, r->preempted + job->preempted, r->hits + job->hits};
    if (!goes_on(job)) {
        mail_put(&w->mail, MAIL_ENDED, job->id, &ended, sizeof ended, NULL, 0);
        if (job->sent) link_send(w->sender, (LinkHead){LINK_DROP, job->id, job->prompt, 0, 0, 0, 0, 0}, NULL, NULL);
    }
    sched_release(w->sched, job->request);
    free(job);
    w->job[i] = w->job[--w->jobs];
}

static void receive(void *owner, Request *r, const int *token, size_t count) {
    Worker *w = owner;
    if (w->tokens + count > w->token_room)
        w->token = xrealloc(w->token, (w->token_room = 2 * (w->tokens + count)) * sizeof *w->token);
    for (size_t i = 0; i < count; i++) w->token[w->tokens++] = (MailToken){r->seed, token[i]};
}

static void tell(Worker *w, double now) {
    MailTokens head = {now, w->tokens};
    if (w->tokens) mail_put(&w->mail, MAIL_TOKENS, 0, &head, sizeof head, w->token, w->tokens * sizeof *w->token);
    w->tokens = 0;
    for (size_t i = w->jobs; i-- > 0;)
        if (w->job[i]->request->state == STATE_ENDED) let_go(w, i);
    mail_send_all(&w->mail);
}

// ---- its life ------------------------------------------------------------------------------------

static double now_of(const Worker *w) { return seconds_now() - w->start; }

// What lies between two steps, as telling of the first and taking in what has arrived, is of the second: nobody's token
// is computed meanwhile.
static bool take_step(Worker *w) {
    const Step *s = engine_schedule(&w->engine, now_of(w));
    if (!s->rows) return false;
    if (w->o.cost) w->told.times.priced += cost_of(w->o.cost, step_size(s));
    double held = (double)(pool_blocks(w->pool) - pool_available(w->pool)) / (double)pool_blocks(w->pool);
    engine_finish(&w->engine, s);
    for (size_t i = 0; !w->writes && i < s->rows; i++) {
        const StepRow *row = &s->row[i];
        Job *job = row->request->owner;
        if (row->request->state == STATE_ENDED && goes_on(job)) hand_over(w, job, row);
        size_t done = row->past + row->n;
        if (job->goes && w->o.overlap && done > job->sent) job->sent = done;
    }
    double now = now_of(w);
    w->told.times.busy += now - w->since, w->told.times.held += held * (now - w->since);
    w->since = now;
    tell(w, now);
    return true;
}

static void wait_for_news(Worker *w) {
    struct pollfd wait[] = {{w->mail.socket, POLLIN, 0}, {w->wake[0], POLLIN, 0}};
    char bytes[64];
    poll(wait, w->receiver ? 2 : 1, -1);
    if (w->receiver && wait[1].revents && read(w->wake[0], bytes, sizeof bytes) < 0) fail("a worker cannot be woken");
    w->since = now_of(w);
}

static void take_leave(Worker *w) {
    if (w->sender) w->told.link = link_sender_end(w->sender);
    if (w->receiver) w->told.link = link_receiver_end(w->receiver);
    w->told.counters = *sched_counters(w->sched);
    mail_put(&w->mail, MAIL_TOLD, 0, &w->told, sizeof w->told, NULL, 0);
    mail_send_all(&w->mail);
}

static void begin(Worker *w, const WorkerPlace *place) {
    uint64_t key = (uint64_t)getpid() << 20 ^ (uint64_t)(seconds_now() * 1e9);
    Blocks *s = w->o.served->blocks;
    w->pool = pool_new(w->o.blocks, w->o.block, w->o.blocks, key, 64);
    w->sched = sched_new(w->o.sched, w->pool);
    Backend own = {w, step, copy, save, load, sample, w->o.backend.ends ? ends : NULL};
    w->engine = (Engine){.sched = w->sched, .backend = own, .emit = receive, .owner = w};
    w->mail = mail_new(place->mail);
    pthread_mutex_init(&w->lock, NULL);
    if (place->link < 0) return;
    if (pipe(w->wake)) fail("no pipe for a worker's own use");
    if (w->writes) w->receiver = link_receiver(place->link, arrive, w);
    else {
        w->sender = link_sender(place->link, w->o.link);
        s->owner = w;
        if (w->o.overlap) s->filled = layer_is_there;
    }
}

// Pages that a process shares with the one that made it are copied when it first writes to them, and it is a few
// microseconds for each: a server that has run for a minute has none left, so none are to be found in steps.
static void take_memory(Worker *w, bool lands) {
    served_own(w->o.served, lands || w->o.sched.preempt == PREEMPT_swap);
    mail_put(&w->mail, MAIL_READY, 0, NULL, 0, NULL, 0);
    mail_send_all(&w->mail);
    while (!(w->start > 0) && !w->leaving) wait_for_news(w), read_mail(w);  // a prompt may arrive before it is told
    w->since = now_of(w);
}

void worker_run(const WorkerPlace *place) {
    Worker w = {.o = *place->o, .writes = place->writes};
    begin(&w, place);
    take_memory(&w, w.receiver != NULL);
    while (!w.leaving) {
        read_mail(&w);
        if (w.receiver) land(&w);
        if (!w.leaving && !take_step(&w)) {
            tell(&w, 0);                                        // those that a step has given up, or that were refused
            wait_for_news(&w);
        }
    }
    take_leave(&w);
    _exit(0);
}

// live.c: see live.h. The engine takes in what has come, makes a step without holding the lock, and then says under it
// what has grown and what has ended. Tokens stand where readers look, but beyond the count that these know.
#include "infer/live.h"
#include "lib/numeric.h"
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct Live {
    LiveOptions o;
    Sched *sched; Pool *pool; Served *served; const Tokenizer *words;
    Backend inner;
    Engine engine;
    Answer **active; size_t actives, room;       // the engine's: submitted to the scheduler and not ended
    uint32_t steps;
    pthread_mutex_t lock;
    pthread_cond_t work, heard;
    bool ring, unsaid;                           // for whoever hears; the engine's: it has not been woken yet
    size_t listened;                             // calls whose news are for whoever hears
    _Atomic bool drawing;                        // they come one after the other now
    Call *first, *last;                          // calls that have come, or have something to say
    Call *calls;                                 // all that were submitted and not freed
    size_t open;                                 // answers that have not ended
    uint64_t next;
    bool draining, wrong;                        // wrong: an answer has been, and that was said
    double deadline, watched, drawn;             // watched: when the picture was last asked for; drawn: made
    char *picture;
    LiveStats stats;
};

const char *why_name(Why why) {
    static const char *const name[WHYS] = {"in flight", "length", "stop", "abort", "timeout", "shed", "refused",
                                           "drain", "error"};
    return name[why];
}

static double now_of(const Live *l) { return seconds_now() - l->stats.start; }

// ---- histograms ------------------------------------------------------------------------------------
// Bounds go up by about the square root of ten.
static Histogram histogram(double least) {
    Histogram h = {.sum = 0};
    for (int i = 0; i < BUCKETS; i++) h.bound[i] = i % 2 ? 3 * h.bound[i - 1] : i ? h.bound[i - 2] * 10 : least;
    return h;
}

static void observe(Histogram *h, double x) {
    size_t i = 0;
    while (i < BUCKETS && x > h->bound[i]) i++;
    h->count[i]++, h->total++, h->sum += x;
}

// ---- calls -----------------------------------------------------------------------------------------
Call *call_new(size_t prompts, size_t n) {
    Call *c = xmalloc(sizeof *c);
    c->prompts = prompts, c->answers = size_mul(prompts, n);
    c->prompt = xmalloc(size_mul(prompts, sizeof *c->prompt)), c->length = xmalloc(size_mul(prompts, sizeof(size_t)));
    c->read = xmalloc(size_mul(prompts, sizeof *c->read));
    c->answer = xmalloc(size_mul(c->answers, sizeof *c->answer));
    for (size_t i = 0; i < c->answers; i++)
        c->answer[i] = (Answer){.call = c, .prompt = i / n, .index = i % n};
    pthread_cond_init(&c->come, NULL);
    return c;
}

void call_take_room(Call *c) {
    size_t each = size_mul(1 + c->likely, sizeof(Likely));
    for (size_t i = 0; i < c->answers; i++) {
        Answer *a = &c->answer[i];
        a->token = xmalloc(size_mul(c->options.tokens, sizeof *a->token));
        a->step = xmalloc(size_mul(c->options.tokens, sizeof *a->step));
        if (c->logprobs) a->likely = xmalloc(size_mul(c->options.tokens, each));
    }
}

void call_free(Call *c) {
    for (size_t i = 0; i < c->prompts; i++) free(c->prompt[i]), free(c->read[i]);
    for (size_t i = 0; i < c->answers; i++)
        free(c->answer[i].token), free(c->answer[i].step), free(c->answer[i].likely);
    pthread_cond_destroy(&c->come);
    free(c->prompt), free(c->length), free(c->read), free(c->answer), free(c);
}

// ---- outside the engine ----------------------------------------------------------------------------
static void push(Live *l, Call *c) {
    if (c->queued) return;
    c->queued = true, c->next = NULL;
    if (l->last) l->last->next = c;
    else l->first = c;
    l->last = c;
    pthread_cond_signal(&l->work);
}

Submitted live_submit(Live *l, Call *c) {
    Submitted done = SUBMIT_DONE;
    pthread_mutex_lock(&l->lock);
    if (l->draining) done = SUBMIT_DRAINING, l->stats.turned_away++;
    else if (l->open + c->answers > l->o.running + l->o.queue) done = SUBMIT_FULL, l->stats.turned_away++;
    else {
        c->id = l->next++, c->arrival = now_of(l), c->open = c->answers;
        l->open += c->answers, l->stats.received += c->answers;
        c->after = l->calls, l->calls = c;
        if (c->after) c->after->before = c;
        push(l, c);
    }
    pthread_mutex_unlock(&l->lock);
    return done;
}

static void wait_until(pthread_cond_t *on, pthread_mutex_t *lock, double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double until = (double)t.tv_nsec * 1e-9 + seconds;
    t.tv_sec += (time_t)until, t.tv_nsec = (long)((until - floor(until)) * 1e9);
    pthread_cond_timedwait(on, lock, &t);
}

void live_wait(Live *l, Call *c, double seconds) {
    pthread_mutex_lock(&l->lock);
    if ((c->whole || !c->news) && c->open) wait_until(&c->come, &l->lock, seconds);
    c->news = false;
    pthread_mutex_unlock(&l->lock);
}

Progress live_progress(const Answer *a) { return a->progress; }

void live_listen(Live *l, Call *c, bool listen) {
    pthread_mutex_lock(&l->lock);
    l->listened += (size_t)listen - (size_t)c->listened, c->listened = listen;
    pthread_mutex_unlock(&l->lock);
}

void live_ring(Live *l) {
    pthread_mutex_lock(&l->lock);
    l->ring = true;
    pthread_mutex_unlock(&l->lock);
    pthread_cond_signal(&l->heard);
}

void live_hear(Live *l, double seconds) {
    if (l->drawing) {
        sched_yield();
        return;
    }
    pthread_mutex_lock(&l->lock);
    if (!l->ring) wait_until(&l->heard, &l->lock, seconds);
    l->ring = false;
    pthread_mutex_unlock(&l->lock);
}

static void ask_to_end(Live *l, Answer *a, Why why) {
    if (live_progress(a).why || a->asked) return;
    a->asked = why;
    push(l, a->call);
}

// A word that ends an answer may be found after the engine has written it to its length.
void live_stop(Live *l, Answer *a, Why why) {
    pthread_mutex_lock(&l->lock);
    Progress p = a->progress;
    if (p.why == WHY_LENGTH && why == WHY_STOP && !a->counted) a->progress = (Progress){p.count, why};
    ask_to_end(l, a, why);
    pthread_mutex_unlock(&l->lock);
}

static void count_why(Live *l, Answer *a) {
    Why why = live_progress(a).why;
    if (why && !a->counted) l->stats.ended[why]++, a->counted = true;
}

static void forget_call(Live *l, Call *c) {
    if (c->before) c->before->after = c->after;
    else l->calls = c->after;
    if (c->after) c->after->before = c->before;
    call_free(c);
}

void live_leave(Live *l, Call *c, Why why) {
    pthread_mutex_lock(&l->lock);
    bool known = c->open || c->queued || c->before || c->after || l->calls == c;
    c->left = true;
    for (size_t i = 0; i < c->answers; i++) count_why(l, &c->answer[i]);
    for (size_t i = 0; i < c->answers && c->open; i++) ask_to_end(l, &c->answer[i], why);
    if (!known) call_free(c);
    else if (!c->open && !c->queued) forget_call(l, c);
    pthread_mutex_unlock(&l->lock);
}

bool live_draining(Live *l) {
    pthread_mutex_lock(&l->lock);
    bool draining = l->draining;
    pthread_mutex_unlock(&l->lock);
    return draining;
}

double live_retry_after(Live *l) {
    pthread_mutex_lock(&l->lock);
    const LiveStats *s = &l->stats;
    double rate = (double)s->finished / fmax(1, now_of(l));
    double ahead = (double)(l->open > l->o.running ? l->open - l->o.running : 1);
    pthread_mutex_unlock(&l->lock);
    return rate > 0 ? fmin(60, fmax(1, ceil(ahead / rate))) : 1;
}

LiveStats live_stats(Live *l) {
    pthread_mutex_lock(&l->lock);
    LiveStats s = l->stats;
    s.now = now_of(l);
    pthread_mutex_unlock(&l->lock);
    return s;
}

// What is there may be older than a moment: then the engine makes one as soon as it has finished its step.
char *live_picture(Live *l) {
    pthread_mutex_lock(&l->lock);
    l->watched = now_of(l);
    char *text = xprintf("%s", l->picture ? l->picture : "null");
    pthread_mutex_unlock(&l->lock);
    return text;
}

// ---- log-probabilities -----------------------------------------------------------------------------
// The token and the K most probable, of equal ones the lower numbers, all from one sum.
static void most_likely(Likely *out, size_t K, int token, const real *logit, size_t V) {
    real most = logit[0];
    double sum = 0;
    size_t found = 0;
    for (size_t v = 1; v < V; v++) most = logit[v] > most ? logit[v] : most;
    for (size_t v = 0; v < V; v++) {
        double x = (double)logit[v] - (double)most;
        if (x > -700) sum += num_exp(x);
        if (found == K && (K == 0 || logit[v] <= logit[out[K].token])) continue;
        size_t at = found < K ? ++found : K;
        for (; at > 1 && logit[v] > logit[out[at - 1].token]; at--) out[at] = out[at - 1];
        out[at].token = (int)v;
    }
    double all = (double)most + num_log(sum);
    out[0].token = token;
    for (size_t k = 0; k <= K; k++) out[k].logprob = (double)logit[out[k].token] - all;
}

// Numbers of an answer are none: it ends, and the others go on.
static void end_wrong(Live *l, Request *r, const char *wrong) {
    Answer *a = r->owner;
    pthread_mutex_lock(&l->lock);
    if (!a->asked) a->asked = WHY_ERROR, a->wrong = wrong;
    if (!l->wrong) print_line(stderr, "note     an answer ended with an error, as further ones may: %s\n", wrong);
    l->wrong = true;
    pthread_mutex_unlock(&l->lock);
    sched_cancel(l->sched, r);
}

static const real *logits_of(const Live *l, const StepRow *row, size_t index, size_t i) {
    return l->served->logits + (l->served->first[index] + i - row->logits_from) * model_config(l->served->model)->vocab;
}

// Of the tokens of a prompt, each from the logits of the one before it.
static void note_prompt(Live *l, const StepRow *row, size_t index) {
    Answer *a = row->request->owner;
    Call *c = a->call;
    if (!row->request->fresh || row->past >= c->length[a->prompt]) return;
    for (size_t i = row->logits_from; i < row->n && row->past + i + 1 < c->length[a->prompt]; i++) {
        size_t at = row->past + i + 1;
        most_likely(c->read[a->prompt] + at * (1 + c->likely), c->likely, c->prompt[a->prompt][at],
                    logits_of(l, row, index, i), model_config(l->served->model)->vocab);
        const char **wrong = &l->served->wrong[index];
        if (!*wrong && isnan(c->read[a->prompt][at * (1 + c->likely)].logprob)) *wrong = draw_no_numbers;
    }
}

// ---- what the engine computes with -------------------------------------------------------------------
static Drawing drawing(void *owner, const Request *r) {
    (void)owner;
    const Answer *a = r->owner;
    return (Drawing){a->call->options, (uint64_t)a->index << 40};
}

static int draw(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Live *l = self;
    Answer *a = r->owner;
    const Call *c = a->call;
    if (l->served->wrong[index]) return -1;                      // which is known
    int token = l->inner.sample(l->inner.self, row, index, i, r, position);
    if (token < 0) {
        end_wrong(l, row->request, l->served->wrong[index]);
        return token;
    }
    size_t at = position - c->length[a->prompt];
    if (c->logprobs)
        most_likely(a->likely + at * (1 + c->likely), c->likely, token, logits_of(l, row, index, i),
                    model_config(l->served->model)->vocab);
    return token;
}

static bool is_end(void *self, const Request *r, int token) {
    const Live *l = self;
    const Answer *a = r->owner;
    return !a->call->ignore_eos && l->words && tokenizer_is_end(l->words, token);
}

static void run_step(void *self, const StepRow *row, size_t rows) {
    Live *l = self;
    l->inner.step(l->inner.self, row, rows);
    for (size_t i = 0; i < rows; i++) {
        note_prompt(l, &row[i], i);
        if (l->served->wrong[i]) end_wrong(l, row[i].request, l->served->wrong[i]);
    }
}
static void copy_block(void *self, uint32_t from, uint32_t to) {
    const Live *l = self;
    l->inner.copy(l->inner.self, from, to);
}
static void save_block(void *self, uint32_t block, uint32_t place) {
    const Live *l = self;
    l->inner.save(l->inner.self, block, place);
}
static void load_block(void *self, uint32_t place, uint32_t block) {
    const Live *l = self;
    l->inner.load(l->inner.self, place, block);
}

static void receive(void *owner, Request *r, const int *token, size_t count) {
    const Live *l = owner;
    Answer *a = r->owner;
    for (size_t i = 0; i < count; i++) a->token[a->drawn] = token[i], a->step[a->drawn++] = l->steps;
    if (l->drawing && r->state != STATE_ENDED) a->progress = (Progress){(uint32_t)a->drawn, WHY_NONE};
}

Live *live_new(LiveOptions o, Sched *sched, Pool *pool, Served *served, const Tokenizer *words) {
    Live *l = xmalloc(sizeof *l);
    *l = (Live){.o = o, .sched = sched, .pool = pool, .served = served, .words = words, .watched = -1e9,
                .drawn = -1e9, .inner = served_backend(served)};
    l->engine = (Engine){.sched = sched, .backend = {l, run_step, copy_block, save_block, load_block, draw, is_end},
                         .emit = receive, .owner = l, .draft = o.draft, .guesses = o.guesses, .guess = draft_guess};
    served->drawing = drawing;
    served_survive(served, o.running);
    l->stats = (LiveStats){.start = seconds_now(), .blocks = pool_blocks(pool), .ttft = histogram(0.001),
                           .gap = histogram(0.0001), .latency = histogram(0.001), .queued = histogram(0.001),
                           .prompt = histogram(1), .answer = histogram(1)};
    l->engine.cost = o.cost, l->engine.draft_cost = o.draft_cost, l->engine.pays = cost_best_guesses;
    pthread_mutex_init(&l->lock, NULL), pthread_cond_init(&l->work, NULL), pthread_cond_init(&l->heard, NULL);
    return l;
}

void live_free(Live *l) {
    engine_free(&l->engine);
    pthread_mutex_destroy(&l->lock), pthread_cond_destroy(&l->work), pthread_cond_destroy(&l->heard);
    free(l->active), free(l->picture), free(l);
}

// ---- the engine: what has come -----------------------------------------------------------------------
static void begin(Live *l, Answer *a) {
    Call *c = a->call;
    size_t n = c->length[a->prompt], most = size_add(n, c->options.tokens);
    Answer *leader = a->index ? a - a->index : NULL;
    if (leader && leader->request) a->request = sched_fork(l->sched, leader->request, c->arrival);
    else a->request = sched_submit(l->sched, c->prompt[a->prompt], n, most, 0, c->arrival);
    a->request->owner = a;
    a->request->fresh = c->read[a->prompt] && a->index == 0;
    if (!a->request->fresh) l->stats.queries += n;
    l->stats.prompt_tokens += n;
    observe(&l->stats.prompt, (double)n);
    if (l->actives == l->room) l->active = xrealloc(l->active, (l->room = 2 * l->room + 16) * sizeof *l->active);
    l->active[l->actives++] = a;
}

static void take_in(Live *l) {
    for (Call *c; (c = l->first);) {
        l->first = c->next;
        if (!l->first) l->last = NULL;
        c->queued = false;
        bool fresh = !c->submitted;
        c->submitted = true;
        for (size_t i = 0; i < c->answers; i++) {
            Answer *a = &c->answer[i];
            if (fresh) begin(l, a);
            if (a->asked && a->request) sched_cancel(l->sched, a->request);
        }
        if (c->left && !c->open) forget_call(l, c);
    }
}

// ---- the engine: what has become of it ---------------------------------------------------------------
static Why why_of(const Answer *a) {
    switch (a->request->end) {
    case END_LENGTH: return a->asked == WHY_STOP ? WHY_STOP : WHY_LENGTH;
    case END_STOP: return WHY_STOP;
    case END_SHED: return WHY_SHED;
    case END_REFUSED: return WHY_REFUSED;
    default: return a->asked ? a->asked : WHY_GONE;
    }
}

static void count_ended(Live *l, Answer *a) {
    LiveStats *s = &l->stats;
    const Call *c = a->call;
    if (!c->words || c->left) count_why(l, a);
    Why why = live_progress(a).why;
    if (why != WHY_LENGTH && why != WHY_STOP) return;
    double tpot = a->drawn > 1 ? (a->last - a->first) / (double)(a->drawn - 1) : 0, ttft = a->first - c->arrival;
    s->good += ttft <= l->o.slo_ttft && tpot <= l->o.slo_tpot;
    observe(&s->latency, a->last - c->arrival), observe(&s->answer, (double)a->drawn);
    s->recent[s->finished++ % RECENT] = (Finished){ttft, tpot, a->last - c->arrival, s->now, c->length[a->prompt],
                                                   a->drawn, why};
}

// Whoever hears is woken once for all news of a step, and not into a lock that is still held.
static void tell(Live *l) {
    if (l->unsaid) pthread_cond_signal(&l->heard);
    l->unsaid = false;
}

// New tokens of an answer, and its end; whether it is still active.
static bool publish(Live *l, Answer *a) {
    LiveStats *s = &l->stats;
    Call *c = a->call;
    bool ended = a->request->state == STATE_ENDED;
    if (a->drawn == a->noted && !ended) return true;
    if (a->drawn > a->noted) {
        double since = a->noted ? a->last : c->arrival;
        observe(a->noted ? &s->gap : &s->ttft, s->now - since);
        if (!a->noted) a->first = s->now;
        a->last = s->now, s->tokens += a->drawn - a->noted, a->noted = a->drawn;
    }
    a->progress = (Progress){(uint32_t)a->drawn, ended ? why_of(a) : WHY_NONE};
    c->news = true;
    if (c->listened) l->ring = l->unsaid = true;
    else if (!c->whole) pthread_cond_signal(&c->come);
    if (!ended) return true;
    count_ended(l, a);
    sched_release(l->sched, a->request);
    a->request = NULL;
    c->open--, l->open--;
    if (c->whole && !c->open) pthread_cond_signal(&c->come);
    if (!c->open && c->left && !c->queued) forget_call(l, c);
    return false;
}

static void count_step(Live *l, const Step *step, double start) {
    LiveStats *s = &l->stats;
    if (!step->rows) return;
    s->busy += s->now - start, s->batch = step->rows, s->step_tokens = step->tokens;
    s->flops += l->o.flops_per_token * (double)step->tokens;
    s->bytes += l->o.weight_bytes;
    for (size_t i = 0; i < step->rows; i++) {
        Answer *a = step->row[i].request->owner;
        s->bytes += l->o.cache_bytes * (double)(step->row[i].past + step->row[i].n);
        if (!a->started) observe(&s->queued, start - a->call->arrival);
        a->started = true;
    }
}

static void publish_all(Live *l) {
    LiveStats *s = &l->stats;
    size_t kept = 0;
    for (size_t i = 0; i < l->actives; i++) {
        Answer *a = l->active[i];
        if (publish(l, a)) l->active[kept++] = a;
    }
    l->actives = kept;
    s->sched = *sched_counters(l->sched);
    s->running = sched_running(l->sched), s->waiting = sched_waiting(l->sched);
    s->held = pool_blocks(l->pool) - pool_available(l->pool);
    if (!kept) s->batch = s->step_tokens = 0;
}

// ---- the engine: a picture of it -----------------------------------------------------------------------
enum { SHOWN_BLOCKS = 4096, SHOWN_REQUESTS = 512 };
static const double FRAME = 0.05, WATCHED = 3;      // seconds: between pictures; after which nobody looks any more

static void print_requests(const Live *l, FILE *f) {
    static const char *const state[] = {"waiting", "running", "swapped", "ended"};
    for (size_t i = 0; i < l->actives && i < SHOWN_REQUESTS; i++) {
        const Request *r = l->active[i]->request;
        fprintf(f, "%s{\"id\":%zu,\"state\":\"%s\",\"prompt\":%zu,\"computed\":%zu,\"length\":%zu,\"most\":%zu,"
                "\"hits\":%zu,\"preempted\":%zu,\"age\":%.4f,\"blocks\":[", i ? "," : "", r->id, state[r->state],
                r->prompt, r->computed, r->length, r->most, r->hits, r->preempted,
                l->stats.now - l->active[i]->call->arrival);
        for (size_t b = 0, n = 0; b < r->blocks; b++)
            if (r->block[b] < SHOWN_BLOCKS) fprintf(f, "%s%u", n++ ? "," : "", r->block[b]);
        fprintf(f, "]}");
    }
}

static void print_recent(const LiveStats *s, FILE *f) {
    size_t from = s->finished > RECENT ? s->finished - RECENT : 0;
    for (size_t i = from; i < s->finished; i++) {
        const Finished *d = &s->recent[i % RECENT];
        fprintf(f, "%s[%.5g,%.5g,%.5g,%.6g,%zu,%zu]", i > from ? "," : "", d->ttft, d->tpot, d->latency, d->end,
                d->prompt, d->tokens);
    }
}

static void draw_picture(Live *l) {
    LiveStats *s = &l->stats;
    if (s->now - l->watched > WATCHED || s->now - l->drawn < FRAME) return;
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return;
    l->drawn = s->now;
    fprintf(f, "{\"now\":%.4f,\"busy\":%.6f,\"flops\":%.6g,\"bytes\":%.6g,\"peak_flops\":%.6g,\"peak_bytes\":%.6g,"
            "\"good\":%zu,\"tokens\":%zu,\"prompt_tokens\":%zu,\"steps\":%zu,\"batch\":%zu,\"step_tokens\":%zu,"
            "\"running\":%zu,\"waiting\":%zu,\"held\":%zu,\"blocks\":%zu,\"block\":%zu,"
            "\"most_running\":%zu,\"preempted\":%zu,\"hits\":%zu,\"queries\":%zu,\"recomputed\":%zu,\"received\":%zu,"
            "\"turned_away\":%zu,\"draining\":%s,\"slo_ttft\":%g,\"slo_tpot\":%g,\"ended\":{", s->now, s->busy,
            s->flops, s->bytes, l->o.peak_flops, l->o.peak_bytes, s->good, s->tokens, s->prompt_tokens, s->sched.steps,
            s->batch, s->step_tokens, s->running, s->waiting, s->held, s->blocks, pool_block_size(l->pool),
            l->o.running, s->sched.preempted, s->sched.hits, s->queries, s->sched.recomputed, s->received,
            s->turned_away, l->draining ? "true" : "false", l->o.slo_ttft, l->o.slo_tpot);
    for (int why = 1; why < WHYS; why++) fprintf(f, "%s\"%s\":%zu", why > 1 ? "," : "", why_name(why), s->ended[why]);
    fprintf(f, "},\"requests\":[");
    print_requests(l, f);
    fprintf(f, "],\"found\":[");
    for (uint32_t b = 0, n = 0; b < pool_blocks(l->pool) && b < SHOWN_BLOCKS; b++)
        if (pool_mark(l->pool, b) && !pool_holders(l->pool, b)) fprintf(f, "%s%u", n++ ? "," : "", b);
    fprintf(f, "],\"recent\":[");
    print_recent(s, f);
    fprintf(f, "]}");
    bool whole = fclose(f) == 0;
    free(whole ? l->picture : text);
    if (whole) l->picture = text;
}

// ---- the engine: its loop ------------------------------------------------------------------------------
static const double NAP = 0.05;         // seconds after which an idle engine looks for signals

static void drain(Live *l, bool stopped) {
    if (stopped && !l->draining) l->draining = true, l->deadline = now_of(l) + l->o.grace;
    if (!l->draining || now_of(l) < l->deadline) return;
    for (Call *c = l->calls; c; c = c->after)
        for (size_t i = 0; i < c->answers; i++) ask_to_end(l, &c->answer[i], WHY_DRAIN);
}

// One turn with the lock; a step, without it, is made between two turns. False: all is over.
static bool look_around(Live *l, bool stopped) {
    l->stats.now = now_of(l);
    drain(l, stopped);
    take_in(l);
    publish_all(l);                     // what was refused or cancelled right away
    draw_picture(l);
    if (l->actives) return true;
    if (l->draining && !l->open && !l->first) return false;
    tell(l);
    if (!l->first) wait_until(&l->work, &l->lock, NAP);
    return true;
}

// Where somebody listens, one core does not draw: whoever hears sends there what is drawn, token by token, and not
// beside the next step, which wants all cores.
static void say_while_drawing(Live *l) {
    size_t threads = (size_t)omp_get_max_threads();
    pthread_mutex_lock(&l->lock);
    if (l->listened && threads > 1) l->drawing = l->ring = true;
    pthread_mutex_unlock(&l->lock);
    if (l->drawing) pthread_cond_signal(&l->heard);
    l->engine.drawers = served_drawers(l->served, threads - l->drawing);
}

static void work(Live *l) {
    double start = now_of(l);
    l->steps++;
    Step *step = engine_schedule(&l->engine, start);
    if (step->rows) say_while_drawing(l);
    engine_finish(&l->engine, step);
    pthread_mutex_lock(&l->lock);
    l->drawing = false;
    l->stats.now = now_of(l);
    count_step(l, step, start);
    publish_all(l);
    if (!step->rows) tell(l);
    if (!step->rows && l->actives && !l->first) wait_until(&l->work, &l->lock, NAP);
    pthread_mutex_unlock(&l->lock);
    tell(l);
}

bool live_turn(Live *l, bool stopped) {
    pthread_mutex_lock(&l->lock);
    bool more = look_around(l, stopped), busy = l->actives > 0;
    pthread_mutex_unlock(&l->lock);
    tell(l);
    if (busy) work(l);
    return more;
}

void live_run(Live *l, const volatile sig_atomic_t *stopped) {
    while (live_turn(l, *stopped != 0)) {}
}

// sched.c: one step after another: first the running requests, those that decode before those that read a prompt, then
// new ones as far as budget and blocks go. The oldest running request is never preempted and every running one gets at
// least a token, so every step brings the oldest nearer to its end and no request waits for ever.
#include "infer/sched.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The published blocks of a request that has ended, held for whoever goes on from there.
typedef struct { uint32_t *block; size_t n; double until; } Pin;

struct Sched {
    SchedOptions o;
    Pool *pool;
    Request **running; size_t runs;     // in the order of admission; [o.running]
    size_t *slot, slots;                // free ones
    Request *first, *last; size_t waiting;
    Request **live; size_t lives, room; // all that have not been released
    Step step;
    size_t budget, unscheduled;         // of the step: tokens left, running requests that have none yet
    bool in_step;
    double now;                         // when the step began
    Pin *pin; size_t pins, pin_room;    // the first to end first
    SchedCounters count;
};

Sched *sched_new(SchedOptions o, Pool *pool) {
    if (o.budget < o.running)
        usage_error("--budget %zu is less than --running %zu: each running request takes a token of every step; raise "
                    "one or lower the other", o.budget, o.running);
    if (o.sched == SCHED_padded && o.prefix_cache)
        usage_error("--sched padded computes on where others may have found blocks; leave out --prefix-cache");
    Sched *s = xmalloc(sizeof *s);
    *s = (Sched){.o = o, .pool = pool, .slots = o.running};
    s->running = xmalloc(size_mul(o.running, sizeof *s->running));
    s->slot = xmalloc(size_mul(o.running, sizeof *s->slot));
    s->step.row = xmalloc(size_mul(o.running, sizeof *s->step.row));
    for (size_t i = 0; i < o.running; i++) s->slot[i] = o.running - 1 - i;
    return s;
}

static void free_request(Request *r) {
    free(r->token), free(r->block), free(r->place), free(r);
}

void sched_free(Sched *s) {
    for (size_t i = 0; i < s->lives; i++) free_request(s->live[i]);
    for (size_t i = 0; i < s->pins; i++) free(s->pin[i].block);
    free(s->running), free(s->slot), free(s->live), free(s->step.row), free(s->step.op), free(s->pin), free(s);
}

const SchedCounters *sched_counters(const Sched *s) { return &s->count; }
size_t sched_waiting(const Sched *s) { return s->waiting; }
size_t sched_running(const Sched *s) { return s->runs; }
const Request *sched_oldest(const Sched *s) { return s->runs ? s->running[0] : NULL; }

// ---- the queue -----------------------------------------------------------------------------------

static void queue_last(Sched *s, Request *r) {
    r->previous = s->last, r->next = NULL;
    if (s->last) s->last->next = r;
    else s->first = r;
    s->last = r, s->waiting++;
}

static void queue_first(Sched *s, Request *r) {
    r->previous = NULL, r->next = s->first;
    if (s->first) s->first->previous = r;
    else s->last = r;
    s->first = r, s->waiting++;
}

static void unqueue(Sched *s, Request *r) {
    if (r->previous) r->previous->next = r->next;
    else s->first = r->next;
    if (r->next) r->next->previous = r->previous;
    else s->last = r->previous;
    r->previous = r->next = NULL, s->waiting--;
}

// ---- begin and end of a request ------------------------------------------------------------------

static size_t blocks_for(const Sched *s, size_t positions) {
    size_t size = pool_block_size(s->pool);
    return (positions + size - 1) / size;
}
static size_t places_for(const Sched *s, const Request *r, size_t from, size_t to) {
    return s->o.slots ? s->o.slots(s->o.keep, r->prompt, from, to) : to;
}
// While the tokens from .. to-1 of a request are computed.
static size_t blocks_of(const Sched *s, const Request *r, size_t from, size_t to) {
    return blocks_for(s, places_for(s, r, from, to));
}
static size_t blocks_held(const Sched *s, const Request *r) { return blocks_of(s, r, r->computed, r->computed); }

// The last token is never computed: nothing is asked of it.
static size_t last_position(const Request *r) { return r->most - 1; }

static void release_blocks(Sched *s, Request *r) {
    pool_drop(s->pool, r->block, r->blocks);
    r->blocks = 0;
}

static void leave_running(Sched *s, Request *r) {
    size_t i = 0;
    while (s->running[i] != r) i++;
    memmove(s->running + i, s->running + i + 1, (--s->runs - i) * sizeof *s->running);
    s->slot[s->slots++] = r->slot;
    release_blocks(s, r);
}

static void leave_swap(Sched *s, Request *r) {
    while (r->places) pool_swap_give(s->pool, r->place[--r->places]);
}

// ---- what is held for those who go on ------------------------------------------------------------

static void pin(Sched *s, const Request *r) {
    Pin p = {xmalloc(size_mul(r->published, sizeof *p.block)), r->published, s->now + s->o.ttl};
    memcpy(p.block, r->block, p.n * sizeof *p.block);
    for (size_t i = 0; i < p.n; i++) pool_hold(s->pool, p.block[i]);
    if (s->pins == s->pin_room) s->pin = xrealloc(s->pin, (s->pin_room = 2 * s->pin_room + 16) * sizeof *s->pin);
    s->pin[s->pins++] = p;
}

// They can still be found, until they are taken for something else.
static void unpin(Sched *s, size_t i) {
    pool_drop(s->pool, s->pin[i].block, s->pin[i].n);
    free(s->pin[i].block);
    memmove(s->pin + i, s->pin + i + 1, (--s->pins - i) * sizeof *s->pin);
}

// Whoever has taken all blocks of a pin holds them now.
static void unpin_taken(Sched *s, const Request *r, size_t found) {
    for (size_t i = s->pins; i-- > 0;) {
        const Pin *p = &s->pin[i];
        if (p->n <= found && p->block[p->n - 1] == r->block[p->n - 1]) unpin(s, i);
    }
}

// In a padded batch the end of a text is the beginning of its padding.
static void end_request(Sched *s, Request *r, RequestEnd end) {
    if (s->o.sched == SCHED_padded && !r->padding && (end == END_STOP || end == END_LENGTH)) {
        r->padding = true, r->end = end;
        return;
    }
    if (r->padding) end = r->end;
    bool goes_on = end == END_STOP || end == END_LENGTH;
    if (s->o.ttl > 0 && goes_on && r->published) pin(s, r);
    if (r->state == STATE_RUNNING) leave_running(s, r);
    else if (r->state != STATE_ENDED && end != END_REFUSED) unqueue(s, r);
    leave_swap(s, r);
    r->state = STATE_ENDED, r->end = end;
    s->count.ended[end]++;
}

Request *sched_submit(Sched *s, const int *prompt, size_t n, size_t most, uint64_t domain, double now) {
    Request *r = xmalloc(sizeof *r);
    *r = (Request){.id = s->count.received++, .at = s->lives, .prompt = n, .length = n, .most = most, .arrival = now,
                   .root = pool_root(domain), .mark = pool_root(domain)};
    if (s->lives == s->room) s->live = xrealloc(s->live, (s->room = 2 * s->room + 16) * sizeof *s->live);
    s->live[s->lives++] = r;
    if (n == 0 || most <= n || blocks_of(s, r, 0, last_position(r)) > pool_blocks(s->pool)) {
        end_request(s, r, END_REFUSED);
        return r;
    }
    r->token = xmalloc(size_mul(most, sizeof *r->token));
    size_t blocks = blocks_of(s, r, 0, most), table = blocks > blocks_for(s, most) ? blocks : blocks_for(s, most);
    r->block = xmalloc(size_mul(table, sizeof *r->block));
    r->place = xmalloc(size_mul(table, sizeof *r->place));
    memcpy(r->token, prompt, n * sizeof *prompt);
    queue_last(s, r);
    return r;
}

Request *sched_fork(Sched *s, Request *leader, double now) {
    bool refused = leader->end == END_REFUSED;
    Request *r = sched_submit(s, leader->token, refused ? 0 : leader->prompt, leader->most, 0, now);
    r->root = r->mark = leader->root;
    r->leader = s->o.slots ? NULL : leader->leader ? leader->leader : leader;
    r->fresh = leader->fresh;
    if (r->leader) r->leader->leads = true;
    return r;
}

Request *sched_receive(Sched *s, const int *token, size_t prompt, size_t length, size_t most, double now) {
    size_t held = length - 1, places = blocks_for(s, s->o.slots ? s->o.slots(s->o.keep, prompt, held, held) : held);
    if (places > pool_swap_available(s->pool)) return NULL;
    Request *r = sched_submit(s, token, length, most, 0, now);
    if (r->state == STATE_ENDED) return r;
    r->prompt = prompt, r->computed = r->reached = length - 1, r->state = STATE_SWAPPED;
    while (r->places < places) r->place[r->places++] = pool_swap_take(s->pool);
    return r;
}

void sched_cancel(Sched *s, Request *r) {
    if (r->state == STATE_ENDED) return;
    if (s->in_step && r->n) r->cancelled = true;        // its blocks are being written
    else end_request(s, r, END_CANCELLED);
}

void sched_release(Sched *s, Request *r) {
    s->live[r->at] = s->live[--s->lives], s->live[r->at]->at = r->at;
    for (size_t k = 0; r->leads && k < s->lives; k++)
        if (s->live[k]->leader == r) s->live[k]->leader = NULL;
    free_request(r);
}

size_t sched_propose(Request *r, const int *draft, size_t n) {
    if (r->padding) return 0;
    size_t room = last_position(r) - r->length;
    if (n > room) n = room;
    if (n) memcpy(r->token + r->length, draft, n * sizeof *draft);
    return r->drafts = n;
}

// ---- blocks --------------------------------------------------------------------------------------

static void add_op(Sched *s, OpKind kind, uint32_t from, uint32_t to) {
    Step *step = &s->step;
    if (step->ops == step->capacity)
        step->op = xrealloc(step->op, (step->capacity = 2 * step->capacity + 16) * sizeof *step->op);
    step->op[step->ops++] = (Op){kind, from, to};
}

// The block that holds the first position to be written, if others can see it: only that one can be shared, for
// whole blocks of the past are never written again.
static bool must_copy(const Sched *s, const Request *r) {
    size_t i = r->computed / pool_block_size(s->pool);
    return i < r->blocks && pool_is_fixed(s->pool, r->block[i]);
}

static size_t lacking(const Sched *s, const Request *r, size_t end) {
    size_t need = blocks_of(s, r, r->computed, end);
    return (need > r->blocks ? need - r->blocks : 0) + must_copy(s, r);
}

// Blocks of its own for positions [computed, end).
static void reserve(Sched *s, Request *r, size_t end) {
    if (must_copy(s, r)) {
        uint32_t *entry = &r->block[r->computed / pool_block_size(s->pool)], own = pool_take(s->pool);
        add_op(s, OP_COPY, *entry, own);
        pool_drop(s->pool, entry, 1);
        *entry = own;
        s->count.copied++;
    }
    for (size_t need = blocks_of(s, r, r->computed, end); r->blocks < need;) r->block[r->blocks++] = pool_take(s->pool);
}

// ---- preemption ----------------------------------------------------------------------------------

static void add_row(Sched *s, Request *r, size_t n) {
    size_t missing = r->length - r->computed;
    r->drafted = n > missing ? n - missing : 0;
    r->row = s->step.rows++, r->n = n;
    s->step.row[r->row].request = r;
    s->budget -= n;
}

static void remove_row(Sched *s, Request *r) {
    Request *moved = s->step.row[--s->step.rows].request;
    s->step.row[r->row].request = moved, moved->row = r->row;
    s->budget += r->n, r->n = 0;
}

static void forget_computed(Request *r) {
    r->computed = r->published = 0, r->mark = r->root;
}

// Its keys and values go to the swap area, if there is room, or will be computed again.
static void preempt(Sched *s, Request *r) {
    size_t held = blocks_held(s, r);
    if (r->n) remove_row(s, r);
    else s->unscheduled--;
    bool swaps = s->o.preempt == PREEMPT_swap && held && held <= pool_swap_available(s->pool);
    for (size_t i = 0; swaps && i < held; i++) {
        r->place[r->places++] = pool_swap_take(s->pool);
        add_op(s, OP_SAVE, r->block[i], r->place[i]);
        s->count.saved++;
    }
    if (!swaps) forget_computed(r);
    leave_running(s, r);
    r->state = swaps ? STATE_SWAPPED : STATE_WAITING;
    r->drafts = 0;
    queue_first(s, r);
    r->preempted++, s->count.preempted++;
    s->step.preempted = true;
}

// What has ended does not come back.
static void give_way(Sched *s, Request *r) {
    if (!r->padding) {
        preempt(s, r);
        return;
    }
    if (r->n) remove_row(s, r);
    else s->unscheduled--;
    end_request(s, r, r->end);
}

// Never the oldest one, which is the promise that there is progress.
static Request *choose_victim(const Sched *s) {
    Request *victim = NULL;
    for (size_t i = 0; i < s->runs; i++) if (s->running[i]->padding) return s->running[i];
    for (size_t i = 1; i < s->runs; i++) {
        Request *r = s->running[i];
        if (!victim || s->o.victim == VICTIM_last || r->computed <= victim->computed) victim = r;
    }
    if (!victim) fail("the oldest request has no room, although it fits alone; please report this");
    return victim;
}

// ---- a step --------------------------------------------------------------------------------------

static bool is_decoding(const Request *r) { return r->length - r->computed == 1; }

// Tokens of r in this step: all that are missing, then drafts; others are left a token each.
static size_t share_of(const Sched *s, const Request *r, size_t others) {
    size_t missing = r->length - r->computed;
    size_t want = missing == 1 ? 1 + r->drafts : smaller(missing + r->drafts, s->o.chunk);
    return smaller(want, s->budget - others);
}

static void schedule_running(Sched *s, Request *r) {
    if (r->padding) {
        add_row(s, r, 1);
        s->unscheduled--;
        return;
    }
    size_t n = share_of(s, r, s->unscheduled - 1);
    size_t missing = r->length - r->computed;
    // A draft is not worth a preemption.
    if (n > missing && lacking(s, r, r->computed + n) > pool_available(s->pool)) n = missing;
    while (lacking(s, r, r->computed + n) > pool_available(s->pool)) {
        if (s->pins) unpin(s, 0);
        else give_way(s, choose_victim(s));
        if (r->state != STATE_RUNNING) return;
    }
    reserve(s, r, r->computed + n);
    add_row(s, r, n);
    s->unscheduled--;
}

// Preemption changes the list: look again from its start for one that has nothing yet.
static void schedule_all(Sched *s, bool decoding) {
    for (size_t i = 0; i < s->runs;) {
        Request *r = s->running[i];
        if (r->n || is_decoding(r) != decoding) {
            i++;
            continue;
        }
        size_t before = s->runs;
        schedule_running(s, r);
        if (s->runs != before) i = 0;
    }
}

// ---- admission -----------------------------------------------------------------------------------

// Blocks that are found go into the table but are not held yet. At least one token stays to be computed: its logits
// are wanted.
static size_t find_prefix(const Sched *s, Request *r, uint64_t *mark) {
    size_t size = pool_block_size(s->pool), found = 0, most = (r->length - 1) / size;
    *mark = r->root;
    if (!s->o.prefix_cache || r->fresh) return 0;
    for (; found < most; found++) {
        uint32_t b = pool_find(s->pool, *mark, r->token + found * size);
        if (b == NO_BLOCK) break;
        r->block[found] = b, *mark = pool_mark(s->pool, b);
    }
    return found;
}

// The leader's blocks, but for the last token, which each computes for itself: its logits are wanted. Where room is
// promised beforehand no block is shared that would be copied later.
static bool leader_is_ahead(const Request *r) {
    const Request *l = r->leader;
    return l && l->state == STATE_RUNNING && l->computed + 1 >= r->prompt && r->computed == 0 && r->length == r->prompt;
}
static bool waits_for_leader(const Request *r) {
    return r->leader && r->leader->state == STATE_RUNNING && r->length == r->prompt && !leader_is_ahead(r) &&
           r->state == STATE_WAITING;
}

typedef struct { size_t blocks, computed; uint64_t mark; bool of_leader; } Found;

static Found find_computed(const Sched *s, Request *r) {
    size_t size = pool_block_size(s->pool);
    Found f = {.mark = r->root};
    if (r->state == STATE_SWAPPED) return (Found){0, r->computed, r->mark, false};
    if (leader_is_ahead(r)) {
        f.of_leader = true;
        f.computed = s->o.admit == ADMIT_full ? (r->prompt - 1) / size * size : r->prompt - 1;
        f.blocks = blocks_for(s, f.computed);
        memcpy(r->block, r->leader->block, f.blocks * sizeof *r->block);
        return f;
    }
    f.blocks = find_prefix(s, r, &f.mark);
    f.computed = f.blocks * size;
    return f;
}

// With --admit full: what running requests may still take.
static size_t promised(const Sched *s) {
    size_t sum = 0;
    for (size_t i = 0; s->o.admit == ADMIT_full && i < s->runs; i++)
        sum += lacking(s, s->running[i], last_position(s->running[i])) - must_copy(s, s->running[i]);
    return sum;
}

static bool has_room(const Sched *s, const Request *r, const Found *f, size_t n) {
    size_t end = s->o.admit == ADMIT_full ? last_position(r) : s->o.admit == ADMIT_prompt ? r->length : f->computed + n;
    size_t need = blocks_of(s, r, f->computed, end > f->computed + n ? end : f->computed + n) - f->blocks;
    for (size_t i = 0; i < f->blocks; i++) need += pool_holders(s->pool, r->block[i]) == 0;
    need += f->blocks * pool_block_size(s->pool) > f->computed;       // the last shared block will be copied
    if (s->runs) need += promised(s) + (size_t)ceil(s->o.watermark * (double)pool_blocks(s->pool));
    return need <= pool_available(s->pool);
}

static void load_swapped(Sched *s, Request *r) {
    for (size_t i = 0; i < r->places; i++) {
        r->block[r->blocks++] = pool_take(s->pool);
        add_op(s, OP_LOAD, r->place[i], r->block[i]);
    }
    leave_swap(s, r);
}

static void take_found(Sched *s, Request *r, const Found *f, size_t size) {
    for (size_t i = 0; i < f->blocks; i++) pool_hold(s->pool, r->block[i]);
    r->blocks = f->blocks, r->computed = f->computed;
    r->mark = f->mark, r->published = f->of_leader ? 0 : f->blocks;
    if (!f->of_leader) unpin_taken(s, r, f->blocks);
    if (f->of_leader) s->count.shared += f->computed;
    else if (r->preempted) s->count.rehits += f->blocks * size;
    else s->count.hits += f->blocks * size, r->hits = f->blocks * size;
}

static bool admit(Sched *s, Request *r) {
    if (waits_for_leader(r)) return false;
    Found f = find_computed(s, r);
    size_t n = smaller(smaller(r->length - f.computed, s->o.chunk), s->budget);
    if (!has_room(s, r, &f, n)) return false;
    unqueue(s, r);
    if (r->state == STATE_SWAPPED) load_swapped(s, r);
    else take_found(s, r, &f, pool_block_size(s->pool));
    r->state = STATE_RUNNING;
    r->slot = s->slot[--s->slots];
    s->running[s->runs++] = r;
    reserve(s, r, r->computed + n);
    add_row(s, r, n);
    return true;
}

static void shed(Sched *s, double now) {
    for (Request *r = s->first, *next; s->o.shed > 0 && r; r = next) {
        next = r->next;
        if (r->preempted || r->reached) continue;       // it has been served in part
        if (now - r->arrival <= s->o.shed) return;      // those behind it came later
        end_request(s, r, END_SHED);
    }
}

static void fill_rows(Sched *s) {
    s->step.tokens = 0;
    for (size_t i = 0; i < s->step.rows; i++) {
        Request *r = s->step.row[i].request;
        size_t draw_from = r->computed + r->n >= r->length ? r->n - 1 - r->drafted : r->n;
        bool whole = r->fresh && r->computed < r->prompt;
        s->step.row[i] = (StepRow){r, r->token + r->computed, r->n, r->computed, r->block, whole ? 0 : draw_from,
                                   r->slot, draw_from};
        // Its last position once more: the same keys and values at the same place.
        if (r->padding)
            s->step.row[i] = (StepRow){r, r->token + r->computed - 1, 1, r->computed - 1, r->block, 0, r->slot, 1};
        s->step.tokens += r->n;
    }
}

Step *sched_step(Sched *s, double now) {
    s->step.rows = s->step.ops = 0, s->step.preempted = false;
    s->budget = s->o.budget, s->unscheduled = s->runs;
    bool open = s->o.sched == SCHED_continuous || s->runs == 0;
    s->now = now;
    while (s->pins && s->pin[0].until <= now) unpin(s, 0);
    shed(s, now);
    schedule_all(s, true);
    schedule_all(s, false);
    while (open && !s->step.preempted && s->first && s->runs < s->o.running && s->budget)
        if (!admit(s, s->first)) {
            if (s->runs || !s->pins) break;
            unpin(s, 0);                                // nobody runs whose end would make room
        }
    fill_rows(s);
    s->in_step = s->step.rows > 0;
    s->count.steps += s->in_step;
    return &s->step;
}

// ---- what came of it -----------------------------------------------------------------------------

// Only what is computed and accepted can be found by others.
static void publish(Sched *s, Request *r) {
    size_t size = pool_block_size(s->pool);
    for (; s->o.prefix_cache && (r->published + 1) * size <= r->computed; r->published++)
        r->mark = pool_publish(s->pool, r->block[r->published], r->mark, r->token + r->published * size);
}

// What has gone from a text's cache has made room at the end of its table.
static void give_back(Sched *s, Request *r) {
    size_t held = blocks_held(s, r);
    if (!s->o.slots || held >= r->blocks) return;
    pool_drop(s->pool, r->block + held, r->blocks - held);
    r->blocks = held;
}

static void count_tokens(Sched *s, const Request *r, size_t rejected) {
    size_t end = r->computed + r->n, again = r->reached > r->computed ? smaller(r->reached, end) - r->computed : 0;
    s->count.executed += r->n;
    s->count.recomputed += again;
    s->count.drafted += r->drafted, s->count.rejected += rejected;
    s->count.useful += r->n - again - rejected;
}

static void commit(Sched *s, const StepRow *row, const int *token, size_t count, bool stop) {
    Request *r = row->request;
    size_t rejected = r->drafted - (count ? count - 1 : 0);
    count_tokens(s, r, rejected);
    r->computed += r->n - rejected;
    if (r->computed > r->reached) r->reached = r->computed;
    if (count) memcpy(r->token + r->length, token, count * sizeof *token);
    r->length += count;
    r->n = r->drafted = r->drafts = 0;
    if (!r->cancelled) publish(s, r);           // its numbers may be why
    give_back(s, r);
    if (row == &s->step.row[s->step.rows - 1]) s->in_step = false;
    if (r->cancelled) end_request(s, r, END_CANCELLED);
    else if (stop) end_request(s, r, END_STOP);
    else if (r->length == r->most) end_request(s, r, END_LENGTH);
}

static void commit_padding(Sched *s, Request *r) {
    r->n = 0, s->count.executed++, s->count.padded++;
    if (r->cancelled) end_request(s, r, r->end);
}

// Where nothing but padding is left, its batch has ended.
static void end_padding(Sched *s) {
    size_t padding = 0;
    s->in_step = false;
    for (size_t i = 0; i < s->runs; i++) padding += s->running[i]->padding;
    for (; padding && padding == s->runs; padding--) end_request(s, s->running[0], s->running[0]->end);
}

void sched_commit(Sched *s, const StepRow *row, const int *token, size_t count, bool stop) {
    if (row->request->padding) commit_padding(s, row->request);
    else commit(s, row, token, count, stop);
    if (row == &s->step.row[s->step.rows - 1]) end_padding(s);
}

// ---- the checks ----------------------------------------------------------------------------------

static const char *check_request(const Sched *s, const Request *r, uint32_t *held) {
    for (size_t i = 0; i < r->blocks; i++) held[r->block[i]]++;
    if (r->state == STATE_ENDED) return r->blocks || r->places ? "a request has ended and still holds blocks" : NULL;
    if (r->padding) return r->state != STATE_RUNNING || !r->blocks ? "padding has lost its place" : NULL;
    if (r->computed >= r->length) return "a request has nothing left to compute";
    if (r->length >= r->most) return "a request is complete and has not ended";
    if (r->state == STATE_RUNNING && blocks_held(s, r) > r->blocks) return "a table is too short";
    if (r->state == STATE_WAITING && r->computed) return "a request without blocks counts computed tokens";
    if (r->state != STATE_RUNNING && r->blocks) return "a request that does not run holds blocks";
    if (r->state == STATE_SWAPPED && r->places != blocks_held(s, r)) return "places are missing";
    if (r->published * pool_block_size(s->pool) > r->computed) return "published before it was computed";
    return NULL;
}

const char *sched_check(const Sched *s) {
    const SchedCounters *c = &s->count;
    uint32_t *held = xmalloc(pool_blocks(s->pool) * sizeof *held);
    const char *wrong = NULL;
    size_t ended = 0, flying = s->waiting + s->runs;
    for (size_t i = 0; i < s->lives && !wrong; i++) wrong = check_request(s, s->live[i], held);
    for (size_t i = 0; i < s->pins; i++)
        for (size_t k = 0; k < s->pin[i].n; k++) held[s->pin[i].block[k]]++;
    for (size_t i = 1; i < s->pins && !wrong; i++)
        if (s->pin[i].until < s->pin[i - 1].until) wrong = "a block is held longer than its time";
    if (!wrong) wrong = pool_check(s->pool, held);
    free(held);
    for (size_t i = 0; i < ENDS; i++) ended += c->ended[i];
    if (!wrong && c->received != ended + flying) wrong = "received requests are not the ended and those in flight";
    if (!wrong && c->executed != c->useful + c->recomputed + c->rejected + c->padded)
        wrong = "executed tokens are not the useful, recomputed, rejected and padded ones";
    if (!wrong && s->slots + s->runs != s->o.running) wrong = "a slot is lost";
    return wrong;
}

const char *sched_check_step(const Sched *s, const Step *step) {
    size_t size = pool_block_size(s->pool), used = 0;
    if (step->tokens > s->o.budget) return "more tokens than the budget";
    if (step->rows != s->runs) return "a running request has no row";
    for (size_t i = 0; i < step->rows; i++) {
        const StepRow *w = &step->row[i];
        if (w->n == 0) return "a row without tokens";
        if (places_for(s, w->request, w->past, w->past + w->n) > w->request->blocks * size)
            return "a row writes beyond its table";
        for (size_t k = w->past / size; k * size < w->past + w->n && k < w->request->blocks; k++)
            if (pool_is_fixed(s->pool, w->block[k])) return "a block that others can see is written";
    }
    for (uint32_t b = 0; b < pool_blocks(s->pool); b++) used += pool_holders(s->pool, b) > 0;
    if (used + pool_available(s->pool) != pool_blocks(s->pool)) return "free and held blocks are not all blocks";
    return NULL;
}

// sessions.c: see sessions.h.
#include "infer/sessions.h"
#include <string.h>

void sessions_expect(Service *run, const Request *r) {
    size_t next = r->seed + 1;
    if (r->state != STATE_ENDED || next % run->trace.turns == 0) return;
    run->record[next].arrival = run->now + run->o.tool_seconds;
    run->due[run->dues++] = next;
}

static bool comes_before(const Service *run, size_t a, size_t b) {
    double x = run->record[a].arrival, y = run->record[b].arrival;
    return x != y ? x < y : a < b;
}

// The request that comes next, with its time in its record; trace.count: none, as long as no step ends an answer.
size_t sessions_next(const Service *run) {
    size_t next = run->begun;
    if (next < run->trace.count) run->record[next].arrival = run->trace.asked[next].at;
    for (size_t i = 0; i < run->dues; i++)
        if (next == run->trace.count || comes_before(run, run->due[i], next)) next = run->due[i];
    return next;
}

void sessions_take(Service *run, size_t i) {
    if (i == run->begun) {
        run->begun += run->trace.turns;
        return;
    }
    size_t at = 0;
    while (run->due[at] != i) at++;
    run->due[at] = run->due[--run->dues];
}

// Its tokens, and how many: all that its session has said, and then what is new.
size_t sessions_prompt(const Service *run, size_t i, int *token) {
    const Asked *a = &run->trace.asked[i];
    size_t n = a->prompt, mark = run->o.volatile_prefix;
    prompts_write(&run->prompts, &run->trace, i, token);
    if (i % run->trace.turns == 0) return n;
    const Request *before = run->request[i - 1];
    size_t new = n - a[-1].prompt - a[-1].answer;
    int fresh = mark && mark <= before->length ? token[mark - 1] : 0;
    memmove(token + before->length, token + n - new, new * sizeof *token);
    memcpy(token, before->token, before->length * sizeof *token);
    if (mark && mark <= before->length)
        token[mark - 1] = fresh == token[mark - 1] ? (int)((size_t)(fresh + 1) % run->vocab) : fresh;
    return before->length + new;
}

static void refuse_sessions(const Service *run) {
    const ServeOptions *o = &run->o;
    size_t places = size_mul(o->blocks, o->block);
    if (o->agent_turns == 1) return;
    if (o->requests % o->agent_turns) usage_error("--requests %zu: whole sessions of --agent-turns %zu were expected",
                                                  o->requests, o->agent_turns);
    if (o->shed > 0 || o->backlog || o->sched == SCHED_padded)
        usage_error("--agent-turns: a session goes on when its answer has come; leave out %s",
                    o->shed > 0 ? "--shed" : o->backlog ? "--backlog" : "--sched padded");
    for (size_t i = o->agent_turns - 1; i < run->trace.count; i += o->agent_turns)
        if (run->trace.asked[i].prompt + run->trace.asked[i].answer - 1 > places)
            usage_error("--agent-turns %zu: request %zu has %zu tokens at its end, and the pool holds %zu; raise "
                        "--blocks", o->agent_turns, i, run->trace.asked[i].prompt + run->trace.asked[i].answer, places);
}

void sessions_open_trace(Service *run) {
    const ServeOptions *o = &run->o;
    run->trace = *o->trace ? trace_read(o->trace, o) : trace_make(o);
    refuse_sessions(run);
}

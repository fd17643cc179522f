// replay.c: see replay.h.
#include "infer/replay.h"
#include "infer/answers.h"
#include "infer/workers.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The tokens that the run on the real clock drew, so that what is found, guessed and ended is the same again.
static int same_token(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Service *timed = self;
    const Request *as = timed->request[r->seed];
    return as && position < as->length ? as->token[position]
                                       : answers_random_token(&timed->seed, row, index, i, r, position);
}

static int same_answer(void *self, const StepRow *row, size_t index, size_t i, const Request *r, size_t position) {
    Service *timed = self;
    size_t at = position - timed->record[r->seed].prompt;
    return at < timed->record[r->seed].answer ? timed->answer[r->seed][at]
                                              : answers_random_token(&timed->seed, row, index, i, r, position);
}

static double pace_of(WorkerTimes t) { return t.priced > 0 ? t.busy / t.priced : 0; }

// Reading is arithmetic and writing is memory, of which two processes do not lose alike.
Again replay_workers(Service *timed, bool paced) {
    Service run = service_open(&timed->o);
    run.real = false, run.trace = timed->trace, run.vocab = timed->vocab, run.prompts = timed->prompts;
    workers_open(&run);
    if (paced) run.workers.pace[0] = pace_of(timed->writing), run.workers.pace[1] = pace_of(timed->reading);
    run.workers.layers = timed->config.layers;
    run.workers.each = (double)model_size(&timed->config).cache_bytes_per_token;
    Backend b = answers_without_model(timed);
    b.sample = same_answer, b.ends = timed->o.eos ? answers_is_end : NULL;
    workers_run(&run, b);
    Again again = {answers_stats(&run), run.now, run.took};
    pool_free(run.pool), sched_free(run.sched), fleet_free(run.fleet);
    free(run.record);
    return again;
}

Again replay(Service *timed, bool paced) {
    Service run = service_open(&timed->o);
    run.real = false, run.trace = timed->trace, run.cost = timed->cost, run.vocab = timed->vocab, run.paced = paced;
    run.timed = timed, run.knows = timed->knows, run.prompts = timed->prompts;
    if (serve_has_model_draft(&run.o)) run.draft = draft_elsewhere(run.knows);
    Backend b = answers_without_model(timed);
    b.sample = same_token, b.ends = timed->o.eos ? answers_is_end : NULL;
    answers_run(&run, b);
    Again again = {answers_stats(&run), run.now, run.took};
    pool_free(run.pool), sched_free(run.sched), draft_free(run.draft), engine_free(&run.engine);
    free(run.record), free(run.request), free(run.due);
    return again;
}

// What fewer than ten requests are beyond is chance: of two hundred, p99 is the second largest.
static void compare(double error[3], const char *what, Percentiles timed, Percentiles priced, Percentiles paced) {
    enum { BEYOND = 10 };
    static const size_t percent[] = {50, 90, 99};
    double r[] = {timed.p50, timed.p90, timed.p99}, p[] = {priced.p50, priced.p90, priced.p99};
    double q[] = {paced.p50, paced.p90, paced.p99};
    for (int i = 0; i < 3; i++) {
        bool known = timed.count * (100 - percent[i]) >= 100 * BEYOND;
        error[i] = known ? q[i] / r[i] - 1 : NAN;
        printf("  %-8sp%zu %10.4g s  %10.4g s  %+6.1f%%  %10.4g s  ", what, percent[i], r[i], p[i],
               100 * (p[i] / r[i] - 1), q[i]);
        if (known) printf("%+6.1f%%\n", 100 * error[i]);
        else printf("of too few\n");
    }
}

// Twice: by the table as it is, which is a prediction; and at the pace that the machine had in each stretch of time
// while it answered, which leaves what is the table's form and the event clock's.
void replay_print(const Service *run, const Stats *timed, const Again again[2]) {
    Replay r = {.requests = run->trace.count, .pace = run->busy / run->priced};
    const Stats *priced = &again[0].stats, *paced = &again[1].stats;
    printf("replay      real clock    by the table   error   at its pace   error\n");
    compare(r.ttft, "ttft", timed->ttft, priced->ttft, paced->ttft);
    compare(r.tpot, "tpot", timed->tpot, priced->tpot, paced->tpot);
    compare(r.latency, "latency", timed->latency, priced->latency, paced->latency);
    printf("  time       %10.4g s  %10.4g s  %+6.1f%%  %10.4g s  %+6.1f%%\n", run->now, again[0].now,
           100 * (again[0].now / run->now - 1), again[1].now, 100 * (again[1].now / run->now - 1));
    printf("  steps      %10.4g s  %10.4g s  %+6.1f%% (those of the real clock, each priced): a pace of %.3f\n",
           run->busy, run->priced, 100 * (run->priced / run->busy - 1), r.pace);
    printf("  scheduler  %10.4g s: the replay itself, which computes nothing\n", again[0].took);
    for (int i = 0; i < 2; i++)
        if (run->o.shed == 0 && timed->digest != again[i].stats.digest)
            fail("the replay has other tokens than the run; please report this");
    if (strcmp(run->o.cost, "built-in") && !*run->o.disagg) cost_note_replay(run->o.cost, &r);
}

static double largest(const double error[3]) {
    return 100 * fmax(fabs(error[0]), fmax(fabs(error[1]), fabs(error[2])));
}

// What a simulated figure rests on.
void replay_print_table(const Service *run) {
    const CostTable *c = &run->cost;
    printf("table     %s: ", run->o.cost);
    if (isnan(c->median)) printf("nothing held out");
    else printf("%.1f%% off in the median of held-out steps, %.1f%% at most", 100 * c->median, 100 * c->worst);
    if (c->replay.requests)
        printf("; replaying %zu requests, at %.3f of its pace: ttft %.1f%%, tpot %.1f%%, latency %.1f%% at most off at "
               "p50, p90, p99\n", c->replay.requests, c->replay.pace, largest(c->replay.ttft),
               largest(c->replay.tpot), largest(c->replay.latency));
    else printf("; not replayed beside the real clock (--clock both)\n");
}

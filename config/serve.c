// serve.c: the table of flags that serve.def expands to, and which of them cannot stand beside each other.
#include "config/serve.h"
#include "lib/util.h"
#include <string.h>
#include "config/widths.h"

#define SECTIONS "config/serve.def"
#define FLAGS_TARGET ServeOptions
#include "config/rows.h"

const FlagTable serve_table = {
    FLAGS_OF_SECTIONS,
    .translate = widths_translate,
    .program = "./serve [--name value]...",
    .about = "Requests through the scheduler and the pool of blocks: by a model, in the time that it takes (--run),\n"
             "or on an event clock, where steps take what a table of measured costs says and no weights are needed;\n"
             "or by HTTP, as OpenAI's interface has it (--port), with a page that shows the engine at work.\n"
             "Prints a receipt, and writes a line per request. What a request gets depends on weights, prompt,\n"
             "sampling and seed alone: not on the others, on blocks, budget, preemption, or threads.",
    .examples = "  ./serve --run runs/NAME --port 8000                 a server: curl, openai, lm-eval, vllm bench\n"
                "  ./serve --run runs/NAME --requests 50 --rate 20     answers of a model, as fast as they come\n"
                "  ./serve --requests 1000 --rate 2                     Poisson arrivals\n"
                "  ./serve --arrivals closed --clients 32              the next request when one has ended\n"
                "  ./serve --trace conv.csv --time-scale 10            arrivals and lengths of a public trace\n"
                "  ./serve --admit chunk --watermark 0 --blocks 512    preempting more than working\n",
};

static bool is_given(const bool *given, const char *name) { return given[flags_find(&serve_table, name)]; }

// ---- what goes with what -------------------------------------------------------------------------

#define LOAD "arrivals rate burst clients prompt_length answer_length spread lengths cv backlog agent_turns " SESSIONS
#define SESSIONS "tool_tokens tool_seconds volatile_prefix"
#define OFFLINE LOAD " requests prompts trace time_scale length_scale clock eos records receipt picture dry_run disagg"
#define ONLINE "host api_key chat max_length queue timeout idle connections grace"
#define OF_MODELS "temperature sample_top_k top_p draft kv_policy kv_quant kv_tier"
#define NO_MODEL "without --run: tokens are random then"

// Of these flags, with spaces between them, none may be given.
static void refuse_idle(const bool *given, const char *flags, const char *why) {
    char name[64], shown[64];
    for (size_t n; *flags; flags += n + (flags[n] == ' ')) {
        n = strcspn(flags, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, flags);
        if (is_given(given, name)) usage_error("--%s has no effect %s", flags_shown(name, shown), why);
    }
}

void serve_refuse(const ServeOptions *o, const bool *given) {
    bool port = is_given(given, "port"), run = *o->run, apart = *o->disagg, calibrate = *o->calibrate;
    bool draft = *o->draft, model = serve_has_model_draft(o), pays = serve_guesses_what_pays(o);
    bool timed = o->clock == CLOCK_real, evicts = o->kv_policy != KV_POLICY_full, seals = o->kv_bits > KV_BITS_16;
    bool priced = (!apart || run) && (calibrate || !timed);
    const struct { bool so; const char *flags, *why; } idle[] = {
        {o->agent_turns == 1, SESSIONS, "without --agent-turns"},
        {!run, OF_MODELS, NO_MODEL},
        {!run && !apart, "kv_bits", NO_MODEL},
        {!model, "draft_cost", "with --draft lookup, whose guesses cost nothing"},
        {run && timed && !port && !calibrate && !pays, "cost draft_cost",
         "on the real clock; add --clock model, or --draft with --gamma auto"},
        {*o->trace, LOAD, "with --trace, which has arrivals and lengths of its own"},
        {port, OFFLINE, "with --port, where requests come by HTTP"},
        {port && !pays, "cost draft_cost", "with --port, unless --draft has --gamma auto"},
        {calibrate, OFFLINE " cost draft_cost", "with --calibrate, which makes steps of its own"},
        {!port, ONLINE, "without --port"},
    };
    const struct { bool so; const char *why; } wrong[] = {
        {port && !run, "--port answers with a model: name its directory with --run"},
        {calibrate && (port || !run), "--calibrate measures steps of a model, without clients: name its directory with "
                                      "--run"},
        {o->ttl > 0 && !o->prefix_cache, "--ttl holds blocks for those who would find them; add --prefix-cache"},
        {apart && *o->picture, "--picture is of one batch, one pool and one queue; with --disagg each worker has its "
                               "own"},
        {apart && o->agent_turns > 1, "--disagg: workers do not know of sessions, which go on where their blocks are; "
                                      "leave out --agent-turns"},
        {apart && run && o->clock == CLOCK_model, "--disagg with --run is on the real clock; leave out --clock model, "
                                                  "or --run, whose tokens no time of the event clock depends on"},
        {apart && run && !timed && o->kv_quant != WEIGHTS_none, "--disagg with --clock both: what goes over the link "
            "of the event clock is counted in --kv-bits; leave out --kv-quant"},
        {apart && run && draft, "--disagg with --run: a draft reads what the model reads, and would be of both "
                                "workers; leave out --draft"},
        {apart && run && *o->kv_tier, "--disagg with --run: the swap area is where prompts arrive; leave out "
                                      "--kv-tier"},
        {apart && run && evicts, "--disagg with --run: what goes over the link are all pairs of a prompt; leave out "
                                 "--kv-policy"},
        {apart && run && o->sched != SCHED_continuous, "--disagg with --run: a batch ends as a whole in one worker, "
                                                       "not in two; leave out --sched"},
        {o->kv_policy == KV_POLICY_oracle, "--kv-policy oracle keeps what will be asked, which nobody knows of a text "
                                           "that is yet to be written; ./generate --questions does"},
        {evicts && o->prefix_cache, "--prefix-cache: --kv-policy makes of each text's blocks what only that text can "
                                    "use; leave one out"},
        {seals && o->prefix_cache, "--prefix-cache: who begins in a text needs the tokens before it whole, and those "
            "that --kv-bits has rounded are not; leave one out, or use --kv-quant, which rounds each token by itself"},
        {evicts && draft, "--draft: a guess that was wrong has made pairs go that do not come back; leave out "
                          "--kv-policy"},
        {seals && model, "--draft DIR: its pairs stand in blocks of the same numbers, and --kv-bits leaves the model "
                         "fewer than that has tokens; use --draft lookup, or --kv-quant"},
        {(evicts || seals) && priced, "--kv-policy and --kv-bits: a table of costs has a price for each cached token, "
            "whether it is kept or not; use --clock real, without --calibrate"},
        {evicts && o->sched == SCHED_padded, "--sched padded: a text that has ended keeps its row, and what "
                                             "--kv-policy lets go is not of it; use --sched static"},
    };
    for (size_t i = 0; i < serve_table.count; i++)
        if (given[i]) flags_refuse_unused(&serve_table, o, i);
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++)
        if (idle[i].so) refuse_idle(given, idle[i].flags, idle[i].why);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (wrong[i].so) usage_error("%s", wrong[i].why);
    if (o->backlog > o->requests)
        usage_error("--backlog %zu: of --requests %zu; raise these", o->backlog, o->requests);
    if (model && !timed && !*o->draft_cost)
        usage_error("--draft %s: its steps have a price in a table of their own: --run %s --calibrate FILE measures "
                    "it, --draft-cost FILE gives it", o->draft, o->draft);
}

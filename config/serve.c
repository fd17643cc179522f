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

static void refuse_beside_port(const ServeOptions *o, const bool *given) {
    static const char *const offline[] = {"requests", "arrivals", "rate", "burst", "clients", "prompt_length", "spread",
                                          "lengths", "cv", "answer_length", "trace", "time_scale", "length_scale",
                                          "clock", "eos", "records", "backlog", "agent_turns", "tool_tokens",
                                          "tool_seconds", "volatile_prefix", "receipt", "picture", "dry_run", "disagg"};
    static const char *const online[] = {"host", "api_key", "chat", "max_length", "queue", "timeout", "idle",
                                         "connections", "grace"};
    bool port = is_given(given, "port");
    const char *instead = port ? "--port, where requests come by HTTP"
                        : *o->calibrate ? "--calibrate, which makes steps of its own" : NULL;
    for (size_t i = 0; instead && i < sizeof offline / sizeof *offline; i++)
        if (is_given(given, offline[i]))
            usage_error("--%s has no effect with %s", flags_shown(offline[i], (char[64]){0}), instead);
    if (instead && is_given(given, "cost") && (!port || !serve_guesses_what_pays(o)))
        usage_error("--cost has no effect with %s", instead);
    for (size_t i = 0; !port && i < sizeof online / sizeof *online; i++)
        if (is_given(given, online[i]))
            usage_error("--%s has no effect without --port", flags_shown(online[i], (char[64]){0}));
    if (*o->calibrate && (port || !*o->run))
        usage_error("--calibrate measures steps of a model, without clients: name its directory with --run");
    if (port && !*o->run) usage_error("--port answers with a model: name its directory with --run");
}

// What has gone, or been rounded, since a guess or for another text does not come back.
static void refuse_kept(const ServeOptions *o) {
    bool once = o->kv_policy != KV_POLICY_full || o->kv_bits > KV_BITS_16;
    const char *flag = o->kv_policy != KV_POLICY_full ? "--kv-policy" : "--kv-bits";
    if (o->kv_policy == KV_POLICY_oracle)
        usage_error("--kv-policy oracle keeps what will be asked, which nobody knows of a text that is yet to be "
                    "written; ./generate --questions does");
    if (once && o->prefix_cache)
        usage_error("--prefix-cache: %s makes of each text's blocks what only that text can use; leave one out", flag);
    if (once && *o->draft)
        usage_error("--draft: a guess that was wrong has made pairs go, or be rounded, that do not come back; leave %s "
                    "out", flag);
    if (once && (!*o->disagg || *o->run) && (*o->calibrate || o->clock != CLOCK_real))
        usage_error("%s: a table of costs has a price for each cached token, whether it is kept or not; use --clock "
                    "real, without --calibrate", flag);
}

static void refuse_apart(const ServeOptions *o) {
    if (!*o->disagg) return;
    if (*o->picture)
        usage_error("--picture is of one batch, one pool and one queue; with --disagg each worker has its own");
    if (o->agent_turns > 1)
        usage_error("--disagg: workers do not know of sessions, which go on where their blocks are; leave out "
                    "--agent-turns");
    if (!*o->run) return;
    if (o->clock == CLOCK_both && o->kv_quant != WEIGHTS_none)
        usage_error("--disagg with --clock both: what goes over the link of the event clock is counted in --kv-bits; "
                    "leave out --kv-quant");
    if (o->clock == CLOCK_model)
        usage_error("--disagg with --run is on the real clock; leave out --clock model, or --run, whose tokens no time "
                    "of the event clock depends on");
    if (o->kv_policy != KV_POLICY_full || *o->draft || *o->kv_tier || o->sched != SCHED_continuous)
        usage_error("--disagg with --run: %s; leave out %s",
                    *o->draft ? "a draft reads what the model reads, and would be of both workers"
                    : *o->kv_tier ? "the swap area is where prompts arrive"
                    : o->kv_policy != KV_POLICY_full ? "what goes over the link are all pairs of a prompt"
                    : "a batch ends as a whole in one worker, not in two",
                    *o->draft ? "--draft" : *o->kv_tier ? "--kv-tier" : o->kv_policy != KV_POLICY_full ? "--kv-policy"
                    : "--sched");
}

void serve_refuse(const ServeOptions *o, const bool *given) {
    static const char *const of_models[] = {"temperature", "sample_top_k", "top_p", "draft", "kv_policy", "kv_bits",
                                            "kv_quant", "kv_tier"};
    static const char *const replaced[] = {"arrivals", "rate", "burst", "clients", "prompt_length", "answer_length",
                                           "spread", "lengths", "cv", "backlog", "agent_turns", "tool_tokens",
                                           "tool_seconds", "volatile_prefix"};
    static const char *const of_sessions[] = {"tool_tokens", "tool_seconds", "volatile_prefix"};
    for (size_t i = 0; i < serve_table.count; i++)
        if (given[i]) flags_refuse_unused(&serve_table, o, i);
    for (size_t i = 0; o->agent_turns == 1 && i < sizeof of_sessions / sizeof *of_sessions; i++)
        if (is_given(given, of_sessions[i]))
            usage_error("--%s has no effect without --agent-turns", flags_shown(of_sessions[i], (char[64]){0}));
    if (o->ttl > 0 && !o->prefix_cache)
        usage_error("--ttl holds blocks for those who would find them; add --prefix-cache");
    for (size_t i = 0; !*o->run && i < sizeof of_models / sizeof *of_models; i++)
        if (is_given(given, of_models[i]) && !(*o->disagg && !strcmp(of_models[i], "kv_bits")))
            usage_error("--%s has no effect without --run: tokens are random then",
                        flags_shown(of_models[i], (char[64]){0}));
    if (o->backlog > o->requests)
        usage_error("--backlog %zu: of --requests %zu; raise these", o->backlog, o->requests);
    if (*o->run && o->clock == CLOCK_real && is_given(given, "cost") && !serve_guesses_what_pays(o))
        usage_error("--cost has no effect on the real clock; add --clock model, or --draft with --gamma auto");
    if (serve_has_model_draft(o) && o->clock != CLOCK_real && !*o->draft_cost)
        usage_error("--draft %s: its steps have a price in a table of their own: --run %s --calibrate FILE measures "
                    "it, --draft-cost FILE gives it", o->draft, o->draft);
    if (*o->draft_cost && !serve_has_model_draft(o))
        usage_error("--draft-cost has no effect with --draft lookup, whose guesses cost nothing");
    if (*o->draft_cost && *o->run && o->clock == CLOCK_real && !serve_guesses_what_pays(o))
        usage_error("--draft-cost has no effect on the real clock; add --clock model, or leave --gamma at auto");
    refuse_apart(o);
    refuse_kept(o);
    if (o->sched == SCHED_padded && o->kv_policy != KV_POLICY_full)
        usage_error("--sched padded: a text that has ended keeps its row, and what --kv-policy lets go is not of it; "
                    "use --sched static");
    for (size_t i = 0; *o->trace && i < sizeof replaced / sizeof *replaced; i++)
        if (is_given(given, replaced[i]))
            usage_error("--%s has no effect with --trace, which has arrivals and lengths of its own",
                        flags_shown(replaced[i], (char[64]){0}));
    refuse_beside_port(o, given);
}

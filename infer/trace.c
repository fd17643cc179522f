// trace.c: arrivals by chance, and six formats of public traces, which have lengths and times but no texts. Where they
// have numbers for the pieces of a prompt, equal numbers become equal tokens, so that what was shared is shared again.
#include "infer/trace.h"
#include "lib/numeric.h"
#include "lib/rng.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- by chance -----------------------------------------------------------------------------------

// Of exp(sigma z - sigma^2 / 2) for a normal z the mean is 1, and the coefficient of variation sqrt(exp(sigma^2) - 1).
static double factor(Rng *r, const ServeOptions *o) {
    if (o->lengths == LENGTHS_uniform) return 1 + o->spread * (2 * rng_uniform(r) - 1);
    double variance = num_log(1 + o->cv * o->cv);
    return num_exp(sqrt(variance) * rng_normal(r) - variance / 2);
}

static size_t length(Rng *r, const ServeOptions *o, size_t mean) {
    double x = (double)mean * factor(r, o);
    return x < 1 ? 1 : (size_t)(x + 0.5);
}

Trace trace_make(const ServeOptions *o) {
    static const char *const name[] = {"poisson", "bursts", "closed"};
    Trace t = {name[o->arrivals], xmalloc(size_mul(o->requests, sizeof(Asked))), o->requests, .turns = o->agent_turns};
    size_t together = t.turns * (o->arrivals == ARRIVALS_bursts ? o->burst : 1);
    double now = 0;
    for (size_t i = 0; i < t.count; i++) {
        Rng r = rng_stream(o->seed, RNG_DATA, i);
        if (i % together == 0 && o->arrivals != ARRIVALS_closed) {
            double gap = -num_log(1 - rng_uniform(&r)) * (double)together / o->rate;
            if (i >= o->backlog) now += gap;        // drawn all the same: lengths do not depend on the backlog
        }
        bool later = i % t.turns > 0;
        size_t said = later ? size_add(t.asked[i - 1].prompt, t.asked[i - 1].answer) : 0;
        size_t prompt = size_add(said, length(&r, o, later ? o->tool_tokens : o->prompt_length));
        t.asked[i] = (Asked){now, prompt, length(&r, o, o->answer_length), NULL, 0, i};
    }
    return t;
}

// ---- from files ----------------------------------------------------------------------------------

typedef struct { const char *path; const ServeOptions *o; Trace *t; size_t line, room; } Reader;

static _Noreturn void bad(const Reader *r, const char *expected) {
    fail("--trace %s: line %zu: %s was expected", r->path, r->line, expected);
}

static Asked *add(Reader *r, double at, double prompt, double answer) {
    Trace *t = r->t;
    if (!(isfinite(at) && prompt >= 1 && prompt <= 1e9 && answer >= 0 && answer <= 1e9))
        bad(r, "a time, and lengths of at least a token and at most 10^9");
    if (answer == 0) {                                  // a failure of theirs
        t->left_out++;
        return NULL;
    }
    if (t->count == r->room) t->asked = xrealloc(t->asked, (r->room = 2 * r->room + 64) * sizeof *t->asked);
    size_t in = (size_t)fmax(1, rint(prompt * r->o->length_scale));
    size_t out = (size_t)fmax(1, rint(answer * r->o->length_scale));
    t->asked[t->count] = (Asked){at * r->o->time_scale, in, out, NULL, 0, t->count};
    return &t->asked[t->count++];
}

// Days since 1970 of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
static double days_from(int y, int m, int d) {
    y -= m <= 2;
    int era = y / 400, year = y - era * 400, day = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097.0 + year * 365 + year / 4 - year / 100 + day - 719468;
}

// Seconds, as a number or as "2023-11-16 18:17:03.9799600".
static double time_from(const Reader *r, const char *text) {
    int y, m, d, hour, minute;
    double second;
    char *end;
    if (sscanf(text, "%d-%d-%d%*1[ T]%d:%d:%lf", &y, &m, &d, &hour, &minute, &second) == 6)
        return days_from(y, m, d) * 86400 + hour * 3600 + minute * 60 + second;
    double x = strtod(text, &end);
    if (end == text || (*end && !strchr("\r\n", *end))) bad(r, "a time");
    return x;
}

enum { COLUMNS = 32 };
static size_t split(char *line, char *field[COLUMNS]) {
    size_t n = 0;
    line[strcspn(line, "\r\n")] = '\0';
    for (char *at = line; at && n < COLUMNS; n++) {
        field[n] = at;
        if ((at = strchr(at, ','))) *at++ = '\0';
    }
    return n;
}

static const struct { const char *format, *time, *prompt, *answer; } tables[] = {
    {"Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens"},
    {"Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens"},
    {"BurstGPT", "Timestamp", "Request tokens", "Response tokens"},
};
enum { TABLES = sizeof tables / sizeof *tables };

static size_t column(char *const field[COLUMNS], size_t n, const char *name) {
    size_t i = 0;
    while (i < n && strcmp(field[i], name)) i++;
    return i;
}

static double number(const Reader *r, const char *text) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end) bad(r, "a number of tokens");
    return x;
}

static void read_table(Reader *r, char *text) {
    char *field[COLUMNS], *rest, *line = strtok_r(text, "\n", &rest);
    size_t n = line ? split(line, field) : 0, at[3], kind = 0;
    for (; kind < TABLES; kind++) {
        at[0] = column(field, n, tables[kind].time), at[1] = column(field, n, tables[kind].prompt);
        at[2] = column(field, n, tables[kind].answer);
        if (at[0] < n && at[1] < n && at[2] < n) break;
    }
    if (kind == TABLES) bad(r, "the head of a table of Azure, Vidur or BurstGPT, or JSON,");
    r->t->format = tables[kind].format;
    for (r->line = 2; (line = strtok_r(NULL, "\n", &rest)) && r->t->count < r->o->requests; r->line++) {
        if (split(line, field) < n) bad(r, "as many columns as in the head");
        add(r, time_from(r, field[at[0]]), number(r, field[at[1]]), number(r, field[at[2]]));
    }
}

// Mooncake: milliseconds, pieces of 512 tokens; Qwen-Bailian: seconds, pieces of 16.
static void read_hashed(Reader *r, json_t *row) {
    bool qwen = json_object_get(row, "chat_id") != NULL;
    json_t *time = json_object_get(row, "timestamp"), *hash = json_object_get(row, "hash_ids");
    json_t *in = json_object_get(row, "input_length"), *out = json_object_get(row, "output_length");
    if (!json_is_number(time) || !json_is_number(in) || !json_is_number(out)) bad(r, "timestamp and lengths");
    double scaled = (qwen ? 16 : 512) * r->o->length_scale;
    r->t->format = qwen ? "Qwen-Bailian" : "Mooncake";
    r->t->hash_size = scaled < 1 ? 1 : (size_t)rint(scaled);
    Asked *a = add(r, json_number_value(time) / (qwen ? 1 : 1000), json_number_value(in), json_number_value(out));
    if (!a) return;
    a->hashes = json_array_size(hash);
    a->hash = xmalloc((a->hashes + 1) * sizeof *a->hash);
    for (size_t i = 0; i < a->hashes; i++) a->hash[i] = (uint64_t)json_integer_value(json_array_get(hash, i));
}

// Each call reads the whole session again: the prompts of a session begin alike.
static void read_session(Reader *r, json_t *session) {
    size_t i, k;
    json_t *turn, *call;
    const char *id = json_string_value(json_object_get(session, "session_id"));
    r->t->format = "agent sessions", r->t->hash_size = SIZE_MAX;
    json_array_foreach(json_object_get(session, "turns"), i, turn)
        json_array_foreach(json_object_get(turn, "llm_calls"), k, call) {
            json_t *time = json_object_get(call, "timestamp"), *tokens = json_object_get(call, "tokens");
            json_t *in = json_object_get(tokens, "prompt"), *out = json_object_get(tokens, "completion");
            if (!id || !time || !json_is_number(in) || !json_is_number(out)) bad(r, "a session with calls");
            double at = json_is_string(time) ? time_from(r, json_string_value(time)) : json_number_value(time);
            Asked *a = add(r, at, json_number_value(in), json_number_value(out));
            if (!a) continue;
            a->hash = xmalloc(sizeof *a->hash), a->hashes = 1;
            a->hash[0] = hash_text(HASH_START, id);
        }
}

// Texts without times: all at once. A byte is a token.
static void read_texts(Reader *r, json_t *all) {
    size_t i;
    json_t *one;
    r->t->format = "ShareGPT";
    json_array_foreach(all, i, one) {
        json_t *said = json_object_get(one, "conversations");
        const char *question = json_string_value(json_object_get(json_array_get(said, 0), "value"));
        const char *answer = json_string_value(json_object_get(json_array_get(said, 1), "value"));
        if (r->t->count == r->o->requests) return;
        if (!question || !answer || !*question) r->t->left_out++;
        else add(r, 0, (double)strlen(question), (double)strlen(answer));
    }
}

static void read_lines(Reader *r, char *text) {
    char *rest, *line = strtok_r(text, "\n", &rest);
    for (r->line = 1; line && r->t->count < r->o->requests; line = strtok_r(NULL, "\n", &rest), r->line++) {
        json_t *row = json_loads(line, 0, NULL);
        if (!json_is_object(row)) bad(r, "a JSON object");
        if (json_object_get(row, "turns")) read_session(r, row);
        else read_hashed(r, row);
        json_decref(row);
    }
}

static int by_time(const void *a, const void *b) {
    const Asked *x = a, *y = b;
    return x->at != y->at ? (x->at > y->at) - (x->at < y->at) : (x->line > y->line) - (x->line < y->line);
}

Trace trace_read(const char *path, const ServeOptions *o) {
    Trace t = {.turns = 1};
    Reader r = {path, o, &t, 1, 0};
    char *text = read_whole_file(path, NULL);
    if (*text == '[') {
        json_t *all = json_loads(text, 0, NULL);
        if (!all) bad(&r, "a JSON list");
        read_texts(&r, all);
        json_decref(all);
    } else if (*text == '{') read_lines(&r, text);
    else read_table(&r, text);
    free(text);
    if (t.count == 0) fail("--trace %s has no request", path);
    if (t.count > o->requests) t.count = o->requests;
    qsort(t.asked, t.count, sizeof *t.asked, by_time);
    double start = t.asked[0].at;
    for (size_t i = 0; i < t.count; i++) t.asked[i].at -= start;
    return t;
}

void trace_free(Trace *t) {
    for (size_t i = 0; i < t->count; i++) free(t->asked[i].hash);
    free(t->asked);
}

// openai.c: from tokens to what a client is told: text whose characters are whole, log-probabilities, chunks, usage.
#include "infer/openai.h"
#include <stdlib.h>
#include <string.h>

// ---- tokens to text --------------------------------------------------------------------------------
// Token `at` of prompt and answer together.
static int token_at(const Call *c, const Answer *a, size_t at) {
    size_t n = c->length[a->prompt];
    return at < n ? c->prompt[a->prompt][at] : a->token[at - n];
}

// As ./generate does it: nothing stands before the first token, nor before the one after the mark of a start.
static int before(const Speaker *s, const Call *c, const Answer *a, size_t at) {
    bool starts = at == 0 || (at == 1 && token_at(c, a, 0) == tokenizer_start(s->words));
    return starts ? -1 : token_at(c, a, at - 1);
}

static char *piece(Speaker *s, const Call *c, const Answer *a, size_t at, int token, size_t *bytes) {
    return speaker_decode(s, before(s, c, a, at), token, bytes);
}

static void end_text(Told *t, Why why) {
    spelling_end(&t->text);
    t->why = why;
}

// Looks for stop words in what came with the last bytes.
static bool cut_at_stop(const Reply *r, Spelling *t, size_t before_bytes) {
    size_t from = before_bytes > r->longest ? before_bytes - r->longest : 0, found = SIZE_MAX;
    for (size_t i = 0; i < r->stops && t->text; i++) {
        const char *at = strstr(t->text + from, r->stop[i]);
        if (at && (size_t)(at - t->text) < found) found = (size_t)(at - t->text);
    }
    if (found == SIZE_MAX) return false;
    t->text[t->bytes = found] = 0, t->parts = 0;
    return true;
}

// The next token of an answer becomes text, if there is one.
static bool hear(Reply *r, size_t i, Progress p) {
    Told *t = &r->told[i];
    Answer *a = &r->call->answer[i];
    if (t->why) return false;
    if (t->decoded < p.count && t->decoded < r->tokens) {
        size_t bytes, had = t->text.bytes, at = r->call->length[a->prompt] + t->decoded;
        char *text = piece(r->speaker, r->call, a, at, token_at(r->call, a, at), &bytes);
        spelling_add(&t->text, text, bytes);
        free(text);
        t->decoded++;
        if (cut_at_stop(r, &t->text, had)) {
            end_text(t, WHY_STOP);
            live_stop(r->live, a, WHY_STOP);
        } else if (t->decoded == p.count && p.why) {
            end_text(t, p.why);
        }
        return true;
    }
    if (!p.why) return false;
    end_text(t, p.why);
    return true;
}

bool reply_listen(Reply *r) {
    bool all = true;
    for (size_t i = 0; i < r->answers; i++) {
        Progress p = live_progress(&r->call->answer[i]);
        while (hear(r, i, p)) {}
        all &= r->told[i].why != WHY_NONE;
    }
    return all;
}

// ---- log-probabilities -------------------------------------------------------------------------------
static const Likely *likely_at(const Call *c, const Answer *a, size_t at) {
    size_t n = c->length[a->prompt];
    if (at >= n) return a->likely + (at - n) * (1 + c->likely);
    return at ? c->read[a->prompt] + at * (1 + c->likely) : NULL;
}

static size_t characters(const char *text, size_t bytes) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) count += (text[i] & 0xC0) != 0x80;
    return count;
}

static json_t *top_of(Reply *r, const Answer *a, size_t at, const Likely *l) {
    json_t *top = json_object();
    for (size_t k = 0; k <= r->call->likely; k++) {
        size_t bytes;
        char *text = piece(r->speaker, r->call, a, at, l[k].token, &bytes);
        char *name = speaker_shown(text, bytes);
        json_t *known = json_object_get(top, name);      // two tokens may have one text: the likelier is shown
        if (!known || json_real_value(known) < l[k].logprob) json_object_set_new(top, name, json_real(l[k].logprob));
        free(text), free(name);
    }
    return top;
}

// Of positions [from, to) of prompt and answer.
static json_t *logprobs_of_text(Reply *r, size_t i, size_t from, size_t to) {
    json_t *tokens = json_array(), *own = json_array(), *top = json_array(), *offset = json_array();
    const Answer *a = &r->call->answer[i];
    for (size_t at = from; at < to; at++) {
        size_t bytes;
        char *text = piece(r->speaker, r->call, a, at, token_at(r->call, a, at), &bytes);
        char *name = speaker_shown(text, bytes);
        const Likely *l = likely_at(r->call, a, at);
        json_array_append_new(tokens, json_string(name));
        json_array_append_new(own, l ? json_real(l->logprob) : json_null());
        json_array_append_new(top, l ? top_of(r, a, at, l) : json_null());
        json_array_append_new(offset, json_integer((json_int_t)r->told[i].offset));
        r->told[i].offset += characters(text, bytes);
        free(text), free(name);
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", own, "top_logprobs", top,
                     "text_offset", offset);
}

static json_t *entry_of_chat(Reply *r, const Answer *a, size_t at, Likely l) {
    size_t bytes;
    char *text = piece(r->speaker, r->call, a, at, l.token, &bytes), *name = speaker_shown(text, bytes);
    json_t *list = json_array();
    for (size_t b = 0; b < bytes; b++) json_array_append_new(list, json_integer((unsigned char)text[b]));
    json_t *entry = json_pack("{s:s, s:f, s:o}", "token", name, "logprob", l.logprob, "bytes", list);
    free(text), free(name);
    return entry;
}

static json_t *logprobs_of_chat(Reply *r, size_t i, size_t from, size_t to) {
    json_t *content = json_array();
    const Answer *a = &r->call->answer[i];
    for (size_t at = from; at < to; at++) {
        const Likely *l = likely_at(r->call, a, at);
        json_t *entry = entry_of_chat(r, a, at, l[0]), *top = json_array();
        for (size_t k = 1; k <= r->call->likely; k++) json_array_append_new(top, entry_of_chat(r, a, at, l[k]));
        json_object_set_new(entry, "top_logprobs", top);
        json_array_append_new(content, entry);
    }
    return json_pack("{s:o}", "content", content);
}

// Of tokens [from, to) of the answer; echo: and of the prompt before them.
static json_t *logprobs_of(Reply *r, size_t i, size_t from, size_t to, bool echo) {
    size_t n = r->call->length[r->call->answer[i].prompt];
    if (!r->call->logprobs) return json_null();
    return r->chat ? logprobs_of_chat(r, i, n + from, n + to) : logprobs_of_text(r, i, echo ? 0 : n + from, n + to);
}

// ---- what is told ----------------------------------------------------------------------------------
static const char *finish_of(Why why) { return why == WHY_LENGTH ? "length" : why == WHY_STOP ? "stop" : NULL; }

// The prompt as the model saw it; malloc'd.
static char *text_of_prompt(Reply *r, const Answer *a) {
    Spelling t = {0};
    for (size_t at = 0; at < r->call->length[a->prompt]; at++) {
        size_t bytes;
        char *text = piece(r->speaker, r->call, a, at, token_at(r->call, a, at), &bytes);
        spelling_add(&t, text, bytes);
        free(text);
    }
    spelling_end(&t);
    return t.text;
}

static json_t *usage_of(const Reply *r) {
    json_int_t read = 0, written = 0;
    for (size_t i = 0; i < r->call->prompts; i++) read += (json_int_t)r->call->length[i];
    for (size_t i = 0; i < r->answers; i++) written += (json_int_t)r->told[i].decoded;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", read, "completion_tokens", written, "total_tokens",
                     read + written);
}

// What every response begins with. The seed is ours: with it ./generate writes the same text.
static json_t *head_of(Reply *r, bool chunk) {
    const char *object = !r->chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
    if (!*r->id)
        snprintf(r->id, sizeof r->id, "%s-%llu-%llu", r->chat ? "chatcmpl" : "cmpl",
                 (unsigned long long)r->speaker->created, (unsigned long long)r->call->id);
    return json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", r->id, "object", object, "created",
                     (json_int_t)(r->speaker->created + r->call->arrival), "model", r->speaker->model, "seed",
                     (json_int_t)r->call->options.seed);
}

static bool has_failed(const Reply *r, Refusal *why) {
    for (size_t i = 0; i < r->answers; i++) {
        switch (r->told[i].why) {
        case WHY_TIMEOUT: return refusal_set(why, 504, NULL, "the request took longer than --timeout"), true;
        case WHY_SHED: return refusal_set(why, 503, NULL, "the request waited longer than --shed"), true;
        case WHY_ERROR: return refusal_set(why, 500, NULL, "%s", r->call->answer[i].wrong), true;
        case WHY_DRAIN: return refusal_set(why, 503, NULL, "the server is shutting down"), true;
        case WHY_REFUSED: return refusal_set(why, 400, "prompt", "the request does not fit the pool of blocks"), true;
        case WHY_GONE: return refusal_set(why, 499, NULL, "the client has gone"), true;
        default: break;
        }
    }
    return false;
}

static json_t *whole_choice(Reply *r, size_t i) {
    Told *t = &r->told[i];
    json_t *logprobs = logprobs_of(r, i, 0, t->decoded, r->echo);
    char *prompt = r->echo ? text_of_prompt(r, &r->call->answer[i]) : xprintf("%s", ""),
         *text = xprintf("%s%s", prompt, t->text.text);
    json_t *choice =
        r->chat ? json_pack("{s:I, s:{s:s, s:s}, s:o, s:s}", "index", (json_int_t)i, "message", "role", "assistant",
                            "content", text, "logprobs", logprobs, "finish_reason", finish_of(t->why))
                : json_pack("{s:I, s:s, s:o, s:s}", "index", (json_int_t)i, "text", text, "logprobs", logprobs,
                            "finish_reason", finish_of(t->why));
    free(prompt), free(text);
    return choice;
}

char *reply_whole(Reply *r, Refusal *why) {
    if (has_failed(r, why)) return NULL;
    json_t *root = head_of(r, false), *choices = json_array();
    for (size_t i = 0; i < r->answers; i++) json_array_append_new(choices, whole_choice(r, i));
    json_object_set_new(root, "choices", choices);
    json_object_set_new(root, "usage", usage_of(r));
    return json_line(root);
}

// ---- events ----------------------------------------------------------------------------------------
typedef struct { char *text; size_t bytes, room; } Events;

// What may go out: all of it, but for an end that may yet turn out to begin a stop word.
static size_t safe_bytes(const Reply *r, const Told *t) {
    size_t hold = r->stops && !t->why ? r->longest - 1 : 0, safe = t->text.bytes > hold ? t->text.bytes - hold : 0;
    while (safe && safe < t->text.bytes && (t->text.text[safe] & 0xC0) == 0x80) safe--;
    return safe > t->given ? safe : t->given;
}

// Room for n more bytes and the end; doubled, for a step's events are put together of many small pieces.
static void add_bytes(Events *all, const char *text, size_t n) {
    if (all->bytes + n >= all->room) all->text = xrealloc(all->text, all->room = 2 * (all->bytes + n) + 256);
    memcpy(all->text + all->bytes, text, n);
    all->text[all->bytes += n] = 0;
}
static void add_text(Events *all, const char *text) { add_bytes(all, text, strlen(text)); }

static void add_event(Events *all, json_t *event) {
    char *line = json_line(event);
    add_text(all, "data: "), add_text(all, line), add_text(all, "\n\n");
    free(line);
}

// Most chunks are one text among words that stay: no tree is built for them. The bytes are those of add_full_chunk.
static void add_plain_chunk(Reply *r, size_t i, const char *text, size_t n, Why why, Events *all) {
    const char *reason = finish_of(why);
    char *said = json_text(text, n), index[32];
    if (!r->head) r->head = json_line(head_of(r, true));
    snprintf(index, sizeof index, "%zu", i);
    add_text(all, "data: "), add_bytes(all, r->head, strlen(r->head) - 1);
    add_text(all, ",\"choices\":[{\"index\":"), add_text(all, index);
    add_text(all, r->chat ? ",\"delta\":{\"content\":" : ",\"text\":"), add_text(all, said);
    add_text(all, r->chat ? "},\"logprobs\":null,\"finish_reason\":" : ",\"logprobs\":null,\"finish_reason\":");
    if (reason) add_text(all, "\""), add_text(all, reason), add_text(all, "\"");
    else add_text(all, "null");
    add_text(all, r->usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    free(said);
}

static void add_full_chunk(Reply *r, size_t i, size_t from, bool first, const char *text, Events *all) {
    const Told *t = &r->told[i];
    json_t *root = head_of(r, true), *logprobs = logprobs_of(r, i, from, t->decoded, r->echo && first), *choice;
    if (r->chat) {
        choice = json_pack("{s:I, s:{s:s}, s:o, s:s?}", "index", (json_int_t)i, "delta", "content", text, "logprobs",
                           logprobs, "finish_reason", finish_of(t->why));
        if (first) json_object_set_new(json_object_get(choice, "delta"), "role", json_string("assistant"));
    } else {
        choice = json_pack("{s:I, s:s, s:o, s:s?}", "index", (json_int_t)i, "text", text, "logprobs", logprobs,
                           "finish_reason", finish_of(t->why));
    }
    json_object_set_new(root, "choices", json_pack("[o]", choice));
    if (r->usage) json_object_set_new(root, "usage", json_null());
    add_event(all, root);
}

static void add_chunk(Reply *r, size_t i, size_t from, Events *all) {
    Told *t = &r->told[i];
    bool first = !t->opened, plain = !r->call->logprobs && !(first && (r->chat || r->echo));
    size_t safe = safe_bytes(r, t), n = safe - t->given;
    const char *new = t->text.text ? t->text.text + t->given : "";
    t->opened = true, t->given = safe, t->closed = t->why != WHY_NONE;
    if (plain) {
        add_plain_chunk(r, i, new, n, t->why, all);
        return;
    }
    char *prompt = r->echo && first ? text_of_prompt(r, &r->call->answer[i]) : xprintf("%s", "");
    char *text = xprintf("%s%.*s", prompt, (int)n, new);
    add_full_chunk(r, i, from, first, text, all);
    free(prompt), free(text);
}

// A chunk for the tokens of each step.
static void tell(Reply *r, size_t i, Events *all) {
    Told *t = &r->told[i];
    const Answer *a = &r->call->answer[i];
    Progress p = live_progress(a);
    for (size_t from = t->decoded; !t->closed && hear(r, i, p); from = t->decoded) {
        while (t->decoded < p.count && t->decoded > from && a->step[t->decoded] == a->step[from] && hear(r, i, p)) {}
        if (t->why && !finish_of(t->why)) return;
        add_chunk(r, i, from, all);
    }
}

char *reply_events(Reply *r) {
    Events all = {0};
    bool over = true;
    Refusal why = {0};
    for (size_t i = 0; i < r->answers && !r->done; i++) {
        tell(r, i, &all);
        over &= r->told[i].why != WHY_NONE;
    }
    if (r->done || !over) return all.text;
    r->done = true;
    if (has_failed(r, &why)) {
        char *text = refusal_text(&why);
        add_event(&all, json_loads(text, 0, NULL));
        free(text);
    } else if (r->usage) {
        json_t *root = head_of(r, true);
        json_object_set_new(root, "choices", json_array());
        json_object_set_new(root, "usage", usage_of(r));
        add_event(&all, root);
    }
    refusal_free(&why);
    add_text(&all, "data: [DONE]\n\n");
    return all.text;
}

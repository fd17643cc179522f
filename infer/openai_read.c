// openai_read.c: from JSON to a call.
#include "infer/openai.h"
#include <stdlib.h>
#include <string.h>

// ---- fields ----------------------------------------------------------------------------------------
typedef struct {
    Reply *reply; Refusal *why;
    SampleOptions sampling;
    bool ignore_eos, logprobs, seeded, whole;
    size_t n, best, top_of_chat;
    const json_t *prompt, *messages;
} Reading;

static bool bad(Reading *r, const char *field, const char *expected, const json_t *found) {
    char *text = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    refusal_set(r->why, 400, field, "%s: %s was expected, but %.120s was given", field, expected,
                text ? text : "nothing");
    free(text);
    return false;
}

static bool take_number(Reading *r, const char *field, const json_t *v, double low, double high, double *out) {
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= low && x <= high)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
        return bad(r, field, expected, v);
    }
    *out = x;
    return true;
}

static bool take_count(Reading *r, const char *field, const json_t *v, size_t low, size_t high, size_t *out) {
    json_int_t x = json_integer_value(v);
    if (!json_is_integer(v) || x < (json_int_t)low || x > (json_int_t)high) {
        char expected[64];
        snprintf(expected, sizeof expected, "a whole number from %zu to %zu", low, high);
        return bad(r, field, expected, v);
    }
    *out = (size_t)x;
    return true;
}

static bool take_bool(Reading *r, const char *field, const json_t *v, bool *out) {
    if (!json_is_boolean(v)) return bad(r, field, "true or false", v);
    *out = json_is_true(v);
    return true;
}

enum { MOST_TOKENS = 1 << 30, MOST_LIKELY = 20, MOST_TEXTS = 128, MOST_STOPS = 16, MOST_ROOM = 32 << 20 };

static bool take_model(Reading *r, const char *field, const json_t *v) {
    if (!json_is_string(v)) return bad(r, field, "a name", v);
    if (!strcmp(json_string_value(v), r->reply->speaker->model)) return true;
    refusal_set(r->why, 404, field, "The model `%.200s` does not exist; this is `%.200s`", json_string_value(v),
           r->reply->speaker->model);
    return false;
}
static bool take_prompt(Reading *r, const char *field, const json_t *v) { (void)field; r->prompt = v; return true; }
static bool take_messages(Reading *r, const char *field, const json_t *v) { (void)field; r->messages = v; return true; }
// Under the old name and the new one: both may be there, but not with two numbers.
static bool take_most(Reading *r, const char *field, const json_t *v) {
    Reply *p = r->reply;
    size_t before = p->tokens;
    bool given = p->tokens_given;
    p->tokens_given = true;
    if (!take_count(r, field, v, 0, MOST_TOKENS, &p->tokens)) return false;
    if (!given || p->tokens == before) return true;
    refusal_set(r->why, 400, field, "%s is %zu, and the other of max_tokens and max_completion_tokens is %zu; give one "
                "of them", field, p->tokens, before);
    return false;
}
static bool take_temperature(Reading *r, const char *field, const json_t *v) {
    return take_number(r, field, v, 0, 1000, &r->sampling.temperature);
}
static bool take_top_p(Reading *r, const char *field, const json_t *v) {
    return take_number(r, field, v, 0, 1, &r->sampling.top_p);
}
static bool take_top_k(Reading *r, const char *field, const json_t *v) {
    r->sampling.top_k = 0;
    if (json_is_integer(v) && json_integer_value(v) == -1) return true;
    return take_count(r, field, v, 0, MOST_TOKENS, &r->sampling.top_k);
}
static bool take_seed(Reading *r, const char *field, const json_t *v) {
    if (!json_is_integer(v)) return bad(r, field, "a whole number", v);
    r->sampling.seed = (uint64_t)json_integer_value(v), r->seeded = true;
    return true;
}
static bool take_n(Reading *r, const char *field, const json_t *v) {
    return take_count(r, field, v, 1, MOST_TEXTS, &r->n);
}
static bool take_best(Reading *r, const char *field, const json_t *v) {
    return take_count(r, field, v, 1, MOST_TEXTS, &r->best);
}
static bool take_echo(Reading *r, const char *field, const json_t *v) {
    return take_bool(r, field, v, &r->reply->echo);
}
static bool take_stream(Reading *r, const char *field, const json_t *v) {
    return take_bool(r, field, v, &r->reply->stream);
}
static bool take_ignore_eos(Reading *r, const char *field, const json_t *v) {
    return take_bool(r, field, v, &r->ignore_eos);
}
static bool take_special(Reading *r, const char *field, const json_t *v) { return take_bool(r, field, v, &r->whole); }

// {"include_usage": true}; usage in each chunk is not offered.
static bool take_stream_options(Reading *r, const char *field, const json_t *v) {
    const char *key;
    json_t *value;
    if (!json_is_object(v)) return bad(r, field, "an object", v);
    json_object_foreach((json_t *)v, key, value) {
        if (!strcmp(key, "include_usage")) {
            if (!json_is_null(value) && !take_bool(r, "stream_options.include_usage", value, &r->reply->usage))
                return false;
        } else if (!json_is_null(value) && !json_is_false(value)) {
            char name[80];
            snprintf(name, sizeof name, "stream_options.%.60s", key);
            return bad(r, name, "nothing but include_usage", value);
        }
    }
    return true;
}

// A number of alternatives for texts; for chats whether there are any, and their number is in top_logprobs.
static bool take_logprobs(Reading *r, const char *field, const json_t *v) {
    if (r->reply->chat) return take_bool(r, field, v, &r->logprobs);
    if (json_is_false(v)) return true;
    r->logprobs = true;
    return take_count(r, field, v, 0, MOST_LIKELY, &r->reply->top);
}
static bool take_top_logprobs(Reading *r, const char *field, const json_t *v) {
    if (!r->reply->chat) return bad(r, field, "nothing (texts have \"logprobs\": N)", v);
    return take_count(r, field, v, 0, MOST_LIKELY, &r->top_of_chat);
}

static bool take_stop(Reading *r, const char *field, const json_t *v) {
    Reply *p = r->reply;
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    if (count > MOST_STOPS) return bad(r, field, "a text, or up to 16 of them", v);
    for (size_t i = 0; i < p->stops; i++) free(p->stop[i]);
    p->stop = xrealloc(p->stop, (count + 1) * sizeof *p->stop), p->stops = p->longest = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *word = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(word)) return bad(r, field, "a text, or a list of texts", v);
        if (!json_string_length(word)) return bad(r, field, "a text that is not empty", v);
        p->stop[p->stops++] = xprintf("%s", json_string_value(word));
        if (json_string_length(word) > p->longest) p->longest = json_string_length(word);
    }
    return true;
}

typedef struct { const char *name; bool (*take)(Reading *r, const char *field, const json_t *v); } Field;
static const Field fields[] = {
    {"model", take_model}, {"prompt", take_prompt}, {"messages", take_messages}, {"max_tokens", take_most},
    {"max_completion_tokens", take_most}, {"temperature", take_temperature}, {"top_p", take_top_p},
    {"top_k", take_top_k}, {"seed", take_seed}, {"n", take_n}, {"best_of", take_best}, {"echo", take_echo},
    {"stream", take_stream}, {"stream_options", take_stream_options}, {"logprobs", take_logprobs},
    {"top_logprobs", take_top_logprobs}, {"stop", take_stop}, {"ignore_eos", take_ignore_eos},
    {"add_special_tokens", take_special},
};

// Fields that ask for nothing where they have this value; and those that never change an answer.
static const struct { const char *name, *value; } neutral[] = {
    {"frequency_penalty", "0"}, {"presence_penalty", "0"}, {"repetition_penalty", "1"}, {"length_penalty", "1"},
    {"min_p", "0"}, {"min_tokens", "0"}, {"use_beam_search", "false"}, {"early_stopping", "false"}, {"suffix", "\"\""},
    {"logit_bias", "{}"}, {"stop_token_ids", "[]"}, {"include_stop_str_in_output", "false"},
    {"skip_special_tokens", "true"}, {"spaces_between_special_tokens", "true"}, {"detokenize", "true"},
    {"add_generation_prompt", "true"}, {"continue_final_message", "false"}, {"response_format", "{\"type\":\"text\"}"},
    {"tools", "[]"}, {"tool_choice", "\"none\""}, {"tool_choice", "\"auto\""}, {"functions", "[]"}, {"priority", "0"},
    {"modalities", "[\"text\"]"}, {"store", "false"}, {"return_token_ids", "false"},
    {"return_tokens_as_token_ids", "false"}, {"do_sample", "true"}, {"typical_p", "1"}, {"chat_template_kwargs", "{}"},
};
static const char *const ignored[] = {"user", "metadata", "request_id", "service_tier", "safety_identifier",
                                      "prompt_cache_key", "parallel_tool_calls"};

static bool is_equal(const json_t *v, const char *text) {
    json_t *other = json_loads(text, JSON_DECODE_ANY, NULL);
    bool both = json_is_number(v) && json_is_number(other);
    bool equal = both ? json_number_value(v) == json_number_value(other) : json_equal(v, other);
    json_decref(other);
    return equal;
}

static bool take_other(Reading *r, const char *name, const json_t *v) {
    const char *only = NULL;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (!strcmp(ignored[i], name)) return true;
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++) {
        if (strcmp(neutral[i].name, name)) continue;
        if (is_equal(v, neutral[i].value)) return true;
        only = neutral[i].value;
    }
    char *value = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (only) refusal_set(r->why, 400, name, "%s is %.120s, and only %s is supported", name, value, only);
    else
        refusal_set(r->why, 400, name, "%.80s (here %.120s) is not supported, and ignoring it could change the answer; "
                    "leave it out", name, value);
    free(value);
    return false;
}

static bool take_field(Reading *r, const char *name, const json_t *v) {
    if (json_is_null(v)) return true;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(fields[i].name, name)) return fields[i].take(r, name, v);
    return take_other(r, name, v);
}

// ---- messages --------------------------------------------------------------------------------------
// The content of a message: a text, or parts that are texts. malloc'd; NULL: refused.
static char *content_of(Reading *r, const json_t *message) {
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) return xprintf("%s", json_string_value(content));
    char *all = xprintf("%s", "");
    for (size_t i = 0; json_is_array(content) && i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i), *type = json_object_get(part, "type");
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(type) || strcmp(json_string_value(type), "text") || !json_is_string(text)) {
            bad(r, "messages", "parts of the type text", part);
            return free(all), NULL;
        }
        char *more = xprintf("%s%s", all, json_string_value(text));
        free(all), all = more;
    }
    if (json_is_array(content)) return all;
    bad(r, "messages", "messages with a content", message);
    return free(all), NULL;
}

// A content that spells out the marks of the template would speak in another's name.
static bool is_plain(Reading *r, const char *content) {
    int *tokens;
    size_t n, spelled;
    if (!speaker_encode(r->reply->speaker, content, false, &tokens, &n, &spelled, r->why)) return false;
    free(tokens);
    if (!spelled) return true;
    refusal_set(r->why, 400, "messages", "a message spells out a special token of this model, which may stand "
                "in a prompt of /v1/completions but not in a message");
    return false;
}

static char *add_message(int chat, char *before, const char *role, const char *content) {
    char *all = chat == CHAT_chatml ? xprintf("%s<|im_start|>%s\n%s<|im_end|>\n", before, role, content)
              : chat == CHAT_llama3 ? xprintf("%s<|start_header_id|>%s<|end_header_id|>\n\n%s<|eot_id|>", before, role,
                                              content)
                                    : xprintf("%s%s%s", before, *before ? "\n" : "", content);
    free(before);
    return all;
}

static char *text_of_messages(Reading *r) {
    static const char *const roles[] = {"system", "developer", "user", "assistant"};
    static const char *const begin[] = {[CHAT_chatml] = "<|im_start|>assistant\n", [CHAT_plain] = "",
                                        [CHAT_llama3] = "<|start_header_id|>assistant<|end_header_id|>\n\n"};
    int chat = r->reply->speaker->chat;
    if (!json_is_array(r->messages) || !json_array_size(r->messages))
        return bad(r, "messages", "a list of messages", r->messages), NULL;
    char *all = xprintf("%s", "");
    for (size_t i = 0; i < json_array_size(r->messages); i++) {
        const json_t *message = json_array_get(r->messages, i), *role = json_object_get(message, "role");
        static const char *const parts[] = {"role", "content", NULL};
        if (!speaker_knows_fields(message, "a message", parts, r->why)) return free(all), NULL;
        size_t known = 0;
        while (known < 4 && (!json_is_string(role) || strcmp(json_string_value(role), roles[known]))) known++;
        if (known == 4) return free(all), bad(r, "messages", "a role system, user or assistant", role), NULL;
        char *content = content_of(r, message);
        if (!content || (chat != CHAT_plain && !is_plain(r, content))) return free(all), free(content), NULL;
        all = add_message(chat, all, roles[known == 1 ? 0 : known], content);
        free(content);
    }
    char *text = xprintf("%s%s", all, begin[chat]);
    free(all);
    return text;
}

// ---- prompts ---------------------------------------------------------------------------------------
static bool check_length(Reading *r, size_t n) {
    const Reply *p = r->reply;
    size_t most = p->speaker->context, wanted = p->tokens_given ? p->tokens : 1;
    const char *field = p->chat ? "messages" : "prompt";
    if (n && n <= most && wanted <= most - n) return true;      // none wanted: a text that is to be scored may fill it
    if (!n) refusal_set(r->why, 400, field, "the prompt is empty; at least one token was expected");
    else
        refusal_set(r->why, 400, field, "This model's maximum context length is %zu tokens. However, you requested "
                    "%zu tokens (%zu in the prompt, %zu for the answer)", most, n + wanted, n, wanted);
    return false;
}

static bool prompt_from_text(Reading *r, const char *text, bool whole, size_t i) {
    Call *c = r->reply->call;
    size_t spelled;
    return speaker_encode(r->reply->speaker, text, whole, &c->prompt[i], &c->length[i], &spelled, r->why) &&
           check_length(r, c->length[i]);
}

static bool prompt_from_numbers(Reading *r, const json_t *list, size_t i) {
    Call *c = r->reply->call;
    size_t n = json_array_size(list);
    if (n > r->reply->speaker->context) return check_length(r, n);
    c->prompt[i] = xmalloc(size_mul(n, sizeof(int))), c->length[i] = n;
    for (size_t t = 0; t < n; t++) {
        const json_t *v = json_array_get(list, t);
        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            (size_t)json_integer_value(v) >= r->reply->speaker->vocab) {
            char expected[64];
            snprintf(expected, sizeof expected, "tokens from 0 to %zu", r->reply->speaker->vocab - 1);
            return bad(r, "prompt", expected, v);
        }
        c->prompt[i][t] = (int)json_integer_value(v);
    }
    return check_length(r, n);
}

// A text, texts, tokens, or lists of tokens.
static bool take_prompts(Reading *r) {
    const json_t *p = r->prompt;
    bool several = json_is_array(p) && json_array_size(p) && !json_is_integer(json_array_get(p, 0));
    size_t count = several ? json_array_size(p) : 1;
    if (!json_is_string(p) && !json_is_array(p)) return bad(r, "prompt", "a text, tokens, or a list of them", p);
    if (count * r->n > r->reply->speaker->answers) {
        refusal_set(r->why, 400, "prompt", "%zu prompts with n = %zu are more answers than the %zu that may run and "
                    "wait here; raise --queue, or ask in pieces", count, r->n, r->reply->speaker->answers);
        return false;
    }
    r->reply->call = call_new(count, r->n);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = several ? json_array_get(p, i) : p;
        if (json_is_string(one) ? !prompt_from_text(r, json_string_value(one), r->whole, i)
                                : !json_is_array(one) ? !bad(r, "prompt", "a text or a list of tokens", one)
                                                      : !prompt_from_numbers(r, one, i)) return false;
    }
    return true;
}

static bool take_chat(Reading *r) {
    char *text = text_of_messages(r);
    if (!text) return false;
    r->reply->call = call_new(1, r->n);
    bool fine = prompt_from_text(r, text, true, 0);
    free(text);
    return fine;
}

// ---- a call ----------------------------------------------------------------------------------------
static bool fit_together(Reading *r) {
    Reply *p = r->reply;
    if (p->chat && r->prompt) return bad(r, "prompt", "messages, in a chat", r->prompt);
    if (!p->chat && r->messages)
        return bad(r, "messages", "a prompt; messages go to /v1/chat/completions", r->messages);
    if (p->chat && p->echo) return bad(r, "echo", "false, in a chat,", json_true());
    if (r->best && r->best != r->n) {
        refusal_set(r->why, 400, "best_of", "best_of is %zu, and only n (%zu) is supported", r->best, r->n);
        return false;
    }
    if (r->top_of_chat && !r->logprobs) return bad(r, "logprobs", "true beside top_logprobs", json_false());
    if (p->usage && !p->stream) return bad(r, "stream_options", "\"stream\": true beside it", json_false());
    if (p->tokens_given && !p->tokens && !p->echo) {
        refusal_set(r->why, 400, "max_tokens", "max_tokens is 0: that asks for nothing, but for an \"echo\": true");
        return false;
    }
    if (p->chat) p->top = r->top_of_chat;
    return true;
}

// How long an answer may be where nobody says it: as OpenAI has it, 16 tokens of a text, and all there is room for in
// a chat.
static size_t length_of_answer(const Reply *p) {
    size_t longest = 0;
    for (size_t i = 0; i < p->call->prompts; i++)
        if (p->call->length[i] > longest) longest = p->call->length[i];
    size_t room = p->speaker->context - longest;
    return p->tokens_given ? p->tokens : p->chat ? room : smaller(16, room);
}

// A few words can ask for much: answers times tokens times alternatives.
static bool check_room(Reading *r) {
    const Reply *p = r->reply;
    const Call *c = p->call;
    double each = 8 + (r->logprobs ? (1 + (double)p->top) * sizeof(Likely) : 0), tokens = 0;
    for (size_t i = 0; i < c->prompts; i++) tokens += p->echo ? (double)c->length[i] : 0;
    tokens += (double)c->answers * (double)length_of_answer(p);
    if (tokens * each <= MOST_ROOM) return true;
    refusal_set(r->why, 400, "max_tokens", "answers of %.0f tokens together would take %.0f MiB here, and %d are "
                "allowed; ask for fewer answers, tokens or logprobs", tokens, tokens * each / (1 << 20),
                MOST_ROOM >> 20);
    return false;
}

static void settle(Reading *r) {
    Reply *p = r->reply;
    Call *c = p->call;
    if (!r->seeded) {
        pthread_mutex_lock(&p->speaker->lock);
        r->sampling.seed += p->speaker->seeds++;
        pthread_mutex_unlock(&p->speaker->lock);
    }
    p->tokens = length_of_answer(p);
    c->options = r->sampling, c->options.tokens = p->tokens ? p->tokens : 1;
    c->ignore_eos = r->ignore_eos, c->logprobs = r->logprobs, c->likely = p->top;
    c->words = p->stops > 0, c->whole = !p->stream && !p->stops;
    call_take_room(c);
    for (size_t i = 0; i < c->prompts && p->echo && r->logprobs; i++)
        c->read[i] = xmalloc(size_mul(c->length[i], size_mul(1 + c->likely, sizeof(Likely))));
    p->told = xmalloc(size_mul(c->answers, sizeof *p->told)), p->answers = c->answers;
}

static bool read_body(Reading *r, const json_t *body) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)body, key, value)
        if (!take_field(r, key, value)) return false;
    return fit_together(r) && (r->reply->chat ? take_chat(r) : take_prompts(r)) && check_room(r);
}

Reply *reply_read(Speaker *s, bool chat, const char *body, size_t bytes, Refusal *why) {
    json_t *root = body_of(body, bytes, why);
    if (!root) return NULL;
    Reply *p = xmalloc(sizeof *p);
    p->speaker = s, p->chat = chat;
    Reading r = {.reply = p, .why = why, .sampling = s->defaults, .n = 1, .whole = true};
    bool fine = read_body(&r, root);
    if (fine) settle(&r);
    json_decref(root);
    if (fine) return p;
    if (p->call) call_free(p->call);
    reply_free(p);
    return NULL;
}

void reply_free(Reply *r) {
    for (size_t i = 0; i < r->stops; i++) free(r->stop[i]);
    for (size_t i = 0; i < r->answers; i++) free(r->told[i].text.text);
    free(r->stop), free(r->told), free(r->head), free(r);
}

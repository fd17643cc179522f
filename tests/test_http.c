// test_http.c: ./serve --port from outside: what it answers, what it refuses, and that an answer is that of ./generate.
#include "tests/client.h"
#include "infer/meter.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char COMPLETIONS[] = "/v1/completions", CHATS[] = "/v1/chat/completions";

static void train_run(void) {
    train("--layers 1 --width 32 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
}

static void train_small(void) {
    train("--layers 1 --width 16 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out small");
}

// The text that ./generate writes after the prompt.
static char *generated(const char *run, const char *prompt, const char *flags) {
    const char *beside = train_binary();
    Result r = shell(xprintf("'%.*s/generate' --run '%s' --prompt '%s' %s", (int)(strrchr(beside, '/') - beside),
                             beside, run, prompt, flags));
    CHECK(r.status == 0, "%s", r.error);
    size_t n = strlen(r.out);
    if (n && r.out[n - 1] == '\n') r.out[n - 1] = 0;
    return strncmp(r.out, prompt, strlen(prompt)) ? r.out : r.out + strlen(prompt);
}

static const json_t *choice_of(const json_t *root, size_t i) {
    return json_array_get(json_object_get(root, "choices"), i);
}
static const char *text_of(const json_t *root, size_t i) {
    const char *text = json_string_value(json_object_get(choice_of(root, i), "text"));
    return text ? text : "(none)";
}
static const char *finish_of(const json_t *root, size_t i) {
    const char *text = json_string_value(json_object_get(choice_of(root, i), "finish_reason"));
    return text ? text : "(none)";
}
static json_int_t number_in(const json_t *root, const char *object, const char *key) {
    return json_integer_value(json_object_get(json_object_get(root, object), key));
}

// ---- events ------------------------------------------------------------------------------------
typedef struct { char *text, *finish; size_t chunks; json_t *usage, *last; bool done; } Events;

// What the chunks of one choice say together.
static Events events_of(Response r, json_int_t index) {
    Events e = {.text = xprintf("%s", ""), .finish = "(none)"};
    for (const char *at = r.body, *end; (end = strstr(at, "\n\n")); at = end + 2) {
        e.done = !strncmp(at, "data: [DONE]", 12);
        if (e.done) continue;
        json_t *root = strncmp(at, "data: ", 6) ? NULL : json_loadb(at + 6, (size_t)(end - at - 6), 0, NULL);
        CHECK(root, "no event: %.*s", (int)(end - at), at);
        const json_t *choice = choice_of(root, 0), *delta = json_object_get(choice, "delta");
        if (json_is_object(json_object_get(root, "usage"))) e.usage = json_object_get(root, "usage");
        e.last = root;
        if (!choice || json_integer_value(json_object_get(choice, "index")) != index) continue;
        const json_t *text = json_object_get(delta ? delta : choice, delta ? "content" : "text");
        const json_t *finish = json_object_get(choice, "finish_reason");
        e.text = xprintf("%s%s", e.text, json_string_value(text));
        if (json_is_string(finish)) e.finish = xprintf("%s", json_string_value(finish));
        e.chunks++;
    }
    return e;
}

// ---- answers -----------------------------------------------------------------------------------
static void check_answers(const Server *s, const char *flags, const char *const expected[4]) {
    json_t *one = json_of(ask(s, COMPLETIONS, "{'model': 'run', 'prompt': 'Once there was', 'max_tokens': 30, "
                              "'seed': 7}"));
    CHECK(!strcmp(text_of(one, 0), expected[0]), "%s: \"%s\", but ./generate wrote \"%s\"", flags, text_of(one, 0),
          expected[0]);
    CHECK(number_in(one, "usage", "completion_tokens") == 30 && !strcmp(finish_of(one, 0), "length"), "usage");
    json_t *greedy = json_of(ask(s, COMPLETIONS, "{'prompt': ['Once there was'], 'max_tokens': 12, "
                                 "'temperature': 0}"));
    CHECK(!strcmp(text_of(greedy, 0), expected[1]), "%s: greedy: \"%s\", \"%s\"", flags, text_of(greedy, 0),
          expected[1]);
    json_t *two = json_of(ask(s, COMPLETIONS, "{'prompt': ['Once there was', 'Once there was'], 'n': 2, "
                              "'max_tokens': 9, 'seed': 5, 'top_k': 20, 'top_p': 0.9, 'temperature': 1.5}"));
    for (size_t i = 0; i < 4; i++)
        CHECK(!strcmp(text_of(two, i), expected[2 + i % 2]), "%s: answer %zu: \"%s\", \"%s\"", flags, i,
              text_of(two, i), expected[2 + i % 2]);
    Response stream = ask(s, COMPLETIONS, "{'prompt': 'Once there was', 'max_tokens': 30, 'seed': 7, 'stream': "
                          "true, 'stream_options': {'include_usage': true}}");
    Events e = events_of(stream, 0);
    bool several = strstr(flags, "small");              // tokens in a step, which is a chunk
    CHECK(!strcmp(e.text, expected[0]) && (several ? e.chunks < 30 : e.chunks == 30) && e.done && e.usage,
          "%s: %zu chunks: %s", flags, e.chunks,
          stream.body);
    CHECK(json_array_size(json_object_get(e.last, "choices")) == 0, "usage comes last, without choices");
}

static void answers(void) {
    static const char *const flags[] = {"", "--block 3 --running 2 --chunk 2 --threads 1", "--prefix-cache 1",
                                        "--blocks 4 --admit chunk --watermark 0 --preempt swap",
                                        "--draft lookup --gamma 4", "--draft lookup --gamma 9 --prefix-cache 1",
                                        "--draft small --gamma 3 --prefix-cache 1"};
    train_run(), train_small();
    char *two = generated("run", "Once there was", "--tokens 9 --seed 5 --top-k 20 --top-p 0.9 --temperature 1.5 "
                          "--samples 2"), *first = strstr(two, "Once there was"), *second;
    CHECK(first, "%s", two);
    first += strlen("Once there was"), second = strstr(first, "\n=== text 2\nOnce there was");
    CHECK(second, "%s", two);
    *second = 0, second += strlen("\n=== text 2\nOnce there was");
    const char *const expected[] = {generated("run", "Once there was", "--tokens 30 --seed 7"),
                                    generated("run", "Once there was", "--tokens 12 --temperature 0"), first, second};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        Server s;
        if (!server_start(&s, xprintf("--run run %s", flags[i]))) return;
        check_answers(&s, flags[i], expected);
        Result r = server_stop(&s);
        CHECK(r.status == 0 && strstr(r.out, "requests  7 received, 7 length"), "%d: %s%s", r.status, r.out, r.error);
    }
}

// By ratio the text is that of ./generate with the same draft, though others write beside it and guesses are fewer.
static void ratio(void) {
    Server s;
    train_run(), train_small();
    const char *expected = generated("run", "Once there was", "--tokens 40 --seed 7 --draft small --accept ratio "
                                     "--gamma 2");
    if (!server_start(&s, "--run run --draft small --gamma 5 --accept ratio --block 4 --chunk 3 --budget 8 --running "
                      "3")) return;
    int other = client_open(&s);
    client_post(other, COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 90, 'temperature': 2, 'top_k': 5, 'n': 2}");
    json_t *whole = json_of(ask(&s, COMPLETIONS, "{'prompt': 'Once there was', 'max_tokens': 40, 'seed': 7}"));
    CHECK(!strcmp(text_of(whole, 0), expected), "\"%s\", \"%s\"", text_of(whole, 0), expected);
    CHECK(strcmp(expected, generated("run", "Once there was", "--tokens 40 --seed 7")), "the text of no draft");
    CHECK(client_read(other, 20).status == 200, "the other one");
    server_stop(&s);
}

static void chats(void) {
    Server s;
    train_run();
    const char *expected = generated("run", "Once there was", "--tokens 11 --seed 3");
    if (!server_start(&s, "--run run")) return;
    json_t *whole = json_of(ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': 'Once there was'}], "
                                "'max_completion_tokens': 11, 'seed': 3}"));
    const json_t *message = json_object_get(choice_of(whole, 0), "message");
    const char *said = json_string_value(json_object_get(message, "content"));
    CHECK(said && !strcmp(said, expected), "\"%s\", \"%s\"", said, expected);
    Events e = events_of(ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': "
                             "'Once '}, {'type': 'text', 'text': 'there was'}]}], 'max_tokens': 11, 'seed': "
                             "3, 'stream': true}"), 0);
    CHECK(!strcmp(e.text, expected) && e.chunks == 11 && e.done && !strcmp(e.finish, "length"), "%s", e.text);
    // What a client sends back of an assistant's message, as it got it from OpenAI.
    const char *chat = "{'messages': [{'role': 'user', 'content': 'Once'}, {'role': 'assistant', 'content': 'there', "
                       "%s}, {'role': 'user', 'content': 'was'}], 'max_tokens': 2}";
    Response again = ask(&s, CHATS, xprintf(chat, "'tool_calls': [], 'refusal': null, 'annotations': [], 'audio': "
                                            "null, 'function_call': null"));
    CHECK(again.status == 200, "%s", again.body);
    static const char *const asked[] = {"'name': 'Anna'", "'tool_calls': [{}]", "'refusal': 'no'"};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        Response refused = ask(&s, CHATS, xprintf(chat, asked[i]));
        CHECK(refused.status == 400 && strstr(refused.body, "not supported in a message"), "%s: %s", asked[i],
              refused.body);
    }
    json_t *rest = json_of(ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': 'Once there was'}]}"));
    CHECK(number_in(rest, "usage", "total_tokens") == 128, "without a limit an answer takes what the context leaves");
    server_stop(&s);
}

// A run whose tokenizer has marks, of which one ends a text.
static void train_marked(void) {
    char *text = xprintf("%s", "");
    for (int i = 0; i < 9; i++) text = xprintf("%sthe cat sat on the mat. where is the dog? in the house.\n", text);
    write_whole_file(test_path("t.txt"), text, strlen(text));
    const char *flags = "--context 32 --layers 1 --width 32 --heads 2 --steps 2 --eval-tokens 32 --sample-tokens 0";
    train(xprintf("--data t.txt --tokenizer byte %s --out bytes", flags));
    make_directories(test_path("marks"));
    json_t *t = json_load_file(test_path("bytes/tokenizer.json"), 0, NULL), *added = json_array();
    static const char *const marks[] = {"<|im_start|>", "<|im_end|>"};
    for (int i = 0; i < 2; i++)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 256 + i, "content",
                                               marks[i], "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                               "special", 1));
    json_object_set_new(t, "added_tokens", added);
    json_dump_file(t, test_path("marks/tokenizer.json"), 0);
    const char *config = "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"eos_token\": \"<|im_end|>\"}";
    write_whole_file(test_path("marks/tokenizer_config.json"), config, strlen(config));
    train(xprintf("--data t.txt --tokenizer marks/tokenizer.json %s --out marked", flags));
}

// Without a client it does so with --eos, in both clocks after the same token.
static void ends_alone(void) {
    const char *beside = train_binary();
    int length = (int)(strrchr(beside, '/') - beside);
    const char *flags = "--requests 6 --rate 1000 --prompt-length 5 --answer-length 900 --spread 0 --temperature 4";
    train_marked();
    Result r = shell(xprintf("'%.*s/serve' --run marked %s --eos 1 --clock both", length, beside, flags));
    CHECK(r.status == 0 && strstr(r.out, " stop") && strstr(r.out, "\n  scheduler"), "%d %s%s", r.status, r.out,
          r.error);
    Result on = shell(xprintf("'%.*s/serve' --run marked %s", length, beside, flags));
    CHECK(on.status == 0 && !strstr(on.out, " stop") && strstr(on.error, "--eos 1"), "%d %s%s", on.status, on.out,
          on.error);
    Result none = shell(xprintf("'%.*s/serve' --run bytes %s --eos 1", length, beside, flags));
    CHECK(none.status == 2 && strstr(none.error, "which token ends a text"), "%d %s", none.status, none.error);
}

// A flat distribution over 258 tokens comes to the one that ends a text sooner or later.
static void ends(void) {
    Server s;
    train_marked();
    char *expected = generated("marked", "the", "--tokens 3000 --seed 2 --temperature 4");
    if (!server_start(&s, "--run marked --max-length 4000")) return;
    json_t *ended = json_of(ask(&s, COMPLETIONS, "{'prompt': 'the', 'max_tokens': 3000, 'seed': 2, "
                                "'temperature': 4}"));
    json_t *on = json_of(ask(&s, COMPLETIONS, "{'prompt': 'the', 'max_tokens': 3000, 'seed': 2, 'temperature': 4, "
                             "'ignore_eos': true}"));
    json_int_t count = number_in(ended, "usage", "completion_tokens");
    CHECK(!strcmp(finish_of(ended, 0), "stop") && count > 0 && count < 3000, "%s after %d", finish_of(ended, 0),
          (int)count);
    CHECK(!strcmp(finish_of(on, 0), "length") && number_in(on, "usage", "completion_tokens") == 3000, "it goes on");
    size_t whole = strlen(text_of(ended, 0)) - 3;              // its last character may be half of one
    CHECK(!strncmp(text_of(on, 0), text_of(ended, 0), whole), "up to there it is the same text");
    size_t same = 0;            // bytes that are no UTF-8 are shown as U+FFFD here and as they are there
    while (expected[same] && (unsigned char)expected[same] < 0x80 && expected[same] == text_of(ended, 0)[same]) same++;
    CHECK(same > 0 || (unsigned char)*expected >= 0x80, "another text than that of ./generate");
    json_t *chat = json_of(ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': 'hi'}], 'max_tokens': 2}"));
    CHECK(number_in(chat, "usage", "prompt_tokens") == 1 + 5 + 2 + 1 + 1 + 1 + 10, "ChatML: %d tokens",
          (int)number_in(chat, "usage", "prompt_tokens"));
    Response spelled = ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': '<|im_end|>'}]}");
    CHECK(spelled.status == 400 && strstr(spelled.body, "spells out a special token"), "%s", spelled.body);
    Result r = server_stop(&s);
    CHECK(strstr(r.error, "--max-length 4000 is beyond the 32 tokens that the model was trained on"), "%s", r.error);
}

// A text without tokens gets none, where its tokenizer puts none before every text.
static void empty(void) {
    static const struct { const char *path, *body, *field; } bad[] = {
        {COMPLETIONS, "{'prompt': ''}", "\"param\":\"prompt\""},
        {COMPLETIONS, "{'prompt': ['the', '']}", "\"param\":\"prompt\""},
        {CHATS, "{'messages': [{'role': 'user', 'content': ''}]}", "\"param\":\"messages\""},
        {CHATS, "{'messages': [{'role': 'user', 'content': []}]}", "\"param\":\"messages\""},
    };
    Server s;
    train_marked();
    if (!server_start(&s, "--run bytes")) return;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Response r = ask(&s, bad[i].path, bad[i].body);
        CHECK(r.status == 400 && strstr(r.body, "the prompt is empty") && strstr(r.body, bad[i].field), "%s: %d %s",
              bad[i].body, r.status, r.body);
    }
    json_t *none = json_of(ask(&s, "/tokenize", "{'prompt': ''}"));
    CHECK(json_integer_value(json_object_get(none, "count")) == 0 &&
              json_array_size(json_object_get(none, "tokens")) == 0, "tokens of nothing");
    server_stop(&s);
    train_run();
    if (!server_start(&s, "--run run")) return;
    json_t *start = json_of(ask(&s, "/tokenize", "{'prompt': ''}"));
    CHECK(json_integer_value(json_object_get(start, "count")) == 1, "the start of a story");
    server_stop(&s);
}

static void stop_words(void) {
    Server s;
    train_run();
    if (!server_start(&s, "--run run --max-length 70000 --blocks 5000")) return;
    json_t *whole = json_of(ask(&s, COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 40, 'seed': 4}"));
    const char *text = text_of(whole, 0), *words[3] = {text + 30, "nowhere at all", text + 55};
    char *stop = xprintf("\"stop\": [\"%s\", \"%.4s\", \"%.5s\"]", words[1], words[2], words[0]);
    const char *found = strstr(text, xprintf("%.5s", words[0]));
    for (int stream = 0; stream < 2; stream++) {
        Response r = ask(&s, COMPLETIONS, xprintf("{'prompt': 'Once', 'max_tokens': 40, 'seed': 4, %s, 'stream': "
                                                  "%s}", stop, stream ? "true" : "false"));
        Events e = stream ? events_of(r, 0) : (Events){0};
        const char *got = stream ? e.text : text_of(json_of(r), 0);
        const char *finish = stream ? e.finish : finish_of(json_of(r), 0);
        CHECK(!strcmp(finish, "stop") && strlen(got) <= (size_t)(found - text) && !strncmp(got, text, strlen(got)),
              "\"%s\" of \"%s\" until %s: %s", got, text, stop, finish);
    }
    double had = metric(&s, "vllm:generation_tokens_total");
    json_t *early = json_of(ask(&s, COMPLETIONS, xprintf("{'prompt': 'Once', 'max_tokens': 60000, 'seed': 4, %s}",
                                                         stop)));
    CHECK(!strcmp(finish_of(early, 0), "stop") && strlen(text_of(early, 0)) < 40, "%s", text_of(early, 0));
    metric_becomes(&s, "vllm:num_requests_running", 0, 30);
    CHECK(metric(&s, "vllm:generation_tokens_total") < had + 60000, "the engine wrote on");
    // The engine had come to the length long before the word was found.
    metric_becomes(&s, "receipts:requests_ended_total,finished_reason=stop", 3, 30);
    metric_becomes(&s, "receipts:requests_ended_total,finished_reason=length", 1, 30);
    server_stop(&s);
}

// ---- log-probabilities -------------------------------------------------------------------------
static const json_t *logprobs_of(const json_t *root, const char *key) {
    return json_object_get(json_object_get(choice_of(root, 0), "logprobs"), key);
}

// The prompt and its greedy continuation, read as a prompt by a server with other chunks: the same numbers, to the bit.
static void check_echo(const Server *s, const json_t *written, const json_t *tokens, size_t prompt) {
    char *list = json_dumps(tokens, JSON_COMPACT);
    for (int again = 0; again < 2; again++) {
        json_t *read = json_of(ask(s, COMPLETIONS, xprintf("{'prompt': [%s], 'max_tokens': 1, 'echo': true, "
                                   "'logprobs': 1, 'temperature': 0, 'seed': 1234}", list)));
        const json_t *own = logprobs_of(read, "token_logprobs"), *top = logprobs_of(read, "top_logprobs");
        CHECK(json_array_size(own) == json_array_size(tokens) + 1, "%zu", json_array_size(own));
        CHECK(json_is_null(json_array_get(own, 0)) && json_is_null(json_array_get(top, 0)), "nothing before the first");
        const json_t *before = logprobs_of(written, "token_logprobs");
        for (size_t i = 0; i < json_array_size(before); i++) {
            double a = json_real_value(json_array_get(before, i)), b = json_real_value(json_array_get(own, prompt + i));
            CHECK(a == b && a < 0, "token %zu: written with %.17g, read with %.17g", i, a, b);
            double most = -INFINITY;
            const char *key;
            json_t *value;
            json_object_foreach((json_t *)(uintptr_t)json_array_get(top, prompt + i), key, value)
                most = fmax(most, json_real_value(value));
            CHECK(most == b, "a greedy token is the most probable: %.17g, %.17g", b, most);
        }
    }
}

static void logprobs(void) {
    static const char *const flags[] = {"", "--chunk 3 --block 2", "--prefix-cache 1 --block 1",
                                        "--draft lookup --gamma 3"};
    train_run();
    json_t *written = NULL;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        Server s;
        if (!server_start(&s, xprintf("--run run %s", flags[i]))) return;
        json_t *tokens = json_object_get(json_of(ask(&s, "/tokenize", "{'prompt': 'Once there was a'}")), "tokens");
        size_t prompt = json_array_size(tokens);
        if (!written)
            written = json_of(ask(&s, COMPLETIONS, "{'prompt': 'Once there was a', 'max_tokens': 20, 'temperature': "
                                  "0, 'logprobs': 1}"));
        json_t *more = json_object_get(json_of(ask(&s, "/tokenize", xprintf("{'prompt': 'Once there was a%s'}",
                                                                            text_of(written, 0)))), "tokens");
        check_echo(&s, written, more, prompt);
        server_stop(&s);
    }
    Server s;
    if (!server_start(&s, "--run run")) return;
    json_t *sum = json_of(ask(&s, COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 1, 'logprobs': 20}"));
    CHECK(json_object_size(json_array_get(logprobs_of(sum, "top_logprobs"), 0)) >= 20, "as many as were asked for");
    json_t *chat = json_of(ask(&s, CHATS, "{'messages': [{'role': 'user', 'content': 'Once'}], 'max_tokens': 2, "
                               "'logprobs': true, 'top_logprobs': 3}"));
    const json_t *entry = json_array_get(logprobs_of(chat, "content"), 1);
    CHECK(json_array_size(json_object_get(entry, "top_logprobs")) == 3 && json_object_get(entry, "bytes"), "chat");
    server_stop(&s);
}

// No token is asked for, so the prompt may fill the context; its numbers are those of a shorter one.
static void scores(void) {
    Server s;
    char *list[3] = {"1", "", ""};
    train_run();
    if (!server_start(&s, "--run run --block 4 --chunk 9")) return;
    for (int i = 2; i <= 129; i++) {
        char *longer = xprintf("%s, %d", list[0], i);
        if (i == 127) list[1] = longer;
        if (i == 128) list[2] = longer;
        list[0] = longer;
    }
    const char *body = "{'prompt': [%s], 'max_tokens': 0, 'echo': true, 'logprobs': 1}";
    json_t *shorter = json_of(ask(&s, COMPLETIONS, xprintf(body, list[1])));
    json_t *whole = json_of(ask(&s, COMPLETIONS, xprintf(body, list[2])));
    const json_t *a = logprobs_of(shorter, "token_logprobs"), *b = logprobs_of(whole, "token_logprobs");
    CHECK(json_array_size(a) == 127 && json_array_size(b) == 128, "%zu, %zu", json_array_size(a), json_array_size(b));
    CHECK(number_in(whole, "usage", "completion_tokens") == 0, "nothing is written");
    for (size_t i = 1; i < 127; i++) {
        double x = json_real_value(json_array_get(a, i)), y = json_real_value(json_array_get(b, i));
        CHECK(x == y && x < 0, "token %zu: %.17g, %.17g", i, x, y);
    }
    CHECK(json_real_value(json_array_get(b, 127)) < 0, "the last one");
    Response beyond = ask(&s, COMPLETIONS, xprintf(body, list[0]));
    CHECK(beyond.status == 400 && strstr(beyond.body, "129 in the prompt, 0 for the answer"), "%s", beyond.body);
    Response one = ask(&s, COMPLETIONS, xprintf("{'prompt': [%s], 'max_tokens': 1}", list[2]));
    CHECK(one.status == 400 && strstr(one.body, "128 in the prompt, 1 for the answer"), "%s", one.body);
    server_stop(&s);
}

// ---- refusals ----------------------------------------------------------------------------------
static void refusals(void) {
    static const struct { const char *path, *body, *word; int status; } bad[] = {
        {COMPLETIONS, "{", "not JSON", 400}, {COMPLETIONS, "[]", "a JSON object", 400},
        {COMPLETIONS, "", "not JSON", 400},
        {COMPLETIONS, "{}", "prompt", 400}, {COMPLETIONS, "{'prompt': 'Once', 'prompt': 'Once'}", "uplicate", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'model': 'other'}", "`other` does not exist", 404},
        {COMPLETIONS, "{'prompt': 'Once', 'presence_penalty': 0.5}", "presence_penalty is 0.5", 400},
        {COMPLETIONS, "{\"prompt\": \"Once\", \"grammar\": \"x\"}", "grammar (here \\\"x\\\") is not supported", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'temperature': -1}", "a number from 0", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'temperature': 'hot'}", "a number from 0", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 0}", "asks for nothing", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 127}", "maximum context length is 128", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 1.5}", "a whole number", 400},
        {COMPLETIONS, "{'prompt': [1, 629]}", "tokens from 0 to 628", 400},
        {COMPLETIONS, "{'prompt': [1, -1]}", "tokens from 0 to 628", 400},
        {COMPLETIONS, "{'prompt': [[]]}", "empty", 400},
        {COMPLETIONS, "{'prompt': []}", "empty", 400}, {COMPLETIONS, "{'prompt': {}}", "a text, tokens", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'n': 0}", "from 1 to 128", 400},
        {COMPLETIONS, "{'prompt': ['Once', 'Once', 'Once'], 'n': 128}", "more answers than the 320", 400},
        {COMPLETIONS, "{'prompt': 'zzz'}", "is not among the 629 words", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'best_of': 3}", "only n (1) is supported", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'logprobs': 21}", "from 0 to 20", 400},
        {COMPLETIONS, "{\"prompt\": \"Once\", \"stop\": [\"\"]}", "not empty", 400},
        {COMPLETIONS, "{'prompt': 'Once', 'stream_options': {'include_usage': true}}", "stream", 400},
        {COMPLETIONS, "{'messages': []}", "/v1/chat/completions", 400}, {CHATS, "{'messages': []}", "a list of", 400},
        {CHATS, "{'messages': [{'role': 'tool', 'content': 'x'}]}", "a role", 400},
        {CHATS, "{'messages': [{'role': 'user'}]}", "a content", 400},
        {CHATS, "{'messages': [{'role': 'user', 'content': 'Once'}], 'echo': true}", "echo", 400},
        {CHATS, "{'messages': [{'role': 'user', 'content': 'Once'}], 'tools': [{}]}", "tools", 400},
        {"/tokenize", "{}", "a text was expected", 400}, {"/detokenize", "{'tokens': [629]}", "from 0 to 628", 400},
        {"/v1/embeddings", "{}", "no such path", 404}, {"/health", "{}", "takes GET", 405},
    };
    Server s;
    train_run();
    if (!server_start(&s, "--run run")) return;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Response r = ask(&s, bad[i].path, bad[i].body);
        CHECK(r.status == bad[i].status && strstr(r.body, bad[i].word), "%s %s: %d %s", bad[i].path, bad[i].body,
              r.status, r.body);
        CHECK(json_is_object(json_object_get(json_of(r), "error")), "an error is an object");
    }
    json_t *neutral = json_of(ask(&s, COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 2, 'repetition_penalty': 1.0, "
                                  "'logprobs': null, 'user': 'x', 'frequency_penalty': 0, 'nonsense': null}"));
    CHECK(choice_of(neutral, 0), "what asks for nothing is not in the way");
    CHECK(metric(&s, "receipts:requests_received_total") == 1, "the others did not get to the engine");
    server_stop(&s);
}

static void flags(void) {
    const char *beside = train_binary();
    char *serve = xprintf("'%.*s/serve'", (int)(strrchr(beside, '/') - beside), beside);
    static const struct { const char *flags, *word; } bad[] = {
        {"--port 0", "name its directory with --run"},
        {"--port 0 --run run --rate 3", "--rate has no effect with --port"},
        {"--queue 3", "no effect without --port"}, {"--run run --host x", "--host has no effect without --port"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Result r = shell(xprintf("%s %s", serve, bad[i].flags));
        CHECK(r.status == 2 && strstr(r.error, bad[i].word), "%s: %d %s", bad[i].flags, r.status, r.error);
    }
}

// ---- the other paths ---------------------------------------------------------------------------
static void paths(void) {
    Server s;
    train_run();
    if (!server_start(&s, "--run run --api-key secret --prefix-cache 1 --block 2")) return;
    static const char *const closed[] = {"/v1/models", "/metrics", "/live", "/tokenizer_info"};
    static const char *const keys[] = {"", "Authorization: Bearer secre\r\n", "Authorization: Bearer secrets\r\n",
                                       "Authorization: secret\r\n", "Authorization: Bearer \r\n"};
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            Response r = client_ask(&s, "GET", closed[i], keys[k], "");
            CHECK(r.status == 401 && strstr(r.head, "WWW-Authenticate"), "%s %s: %d", closed[i], keys[k], r.status);
        }
        Response r = client_ask(&s, "GET", closed[i], "Authorization: Bearer secret\r\n", "");
        CHECK(r.status == 200, "%s: %d %s", closed[i], r.status, r.body);
        r = client_ask(&s, "GET", closed[i], "authorization: bearer secret\r\n", "");
        CHECK(r.status == 200, "the name of a scheme has no case (RFC 9110, section 11.1): %d", r.status);
    }
    Response home = client_ask(&s, "GET", "/", "", ""), health = client_ask(&s, "GET", "/health", "", "");
    CHECK(home.status == 200 && strstr(home.head, "text/html") && strstr(home.body, "</html>"), "%s", home.head);
    CHECK(health.status == 200 && strstr(health.body, "ok"), "%s", health.body);
    server_stop(&s);
    if (!server_start(&s, "--run run --prefix-cache 1 --block 2")) return;
    json_t *models = json_of(client_ask(&s, "GET", "/v1/models", "", ""));
    const json_t *model = json_array_get(json_object_get(models, "data"), 0);
    CHECK(!strcmp(json_string_value(json_object_get(model, "id")), "run"), "its name is that of the directory");
    json_t *retrieved = json_of(client_ask(&s, "GET", "/v1/models/run", "", ""));
    CHECK(json_equal(retrieved, model), "the same by its name");
    Response other = client_ask(&s, "GET", "/v1/models/other", "", "");
    CHECK(other.status == 404 && strstr(other.body, "`other` does not exist"), "%d %s", other.status, other.body);
    json_t *tokens = json_of(ask(&s, "/tokenize", "{'prompt': 'Once there was a'}"));
    char *list = json_dumps(json_object_get(tokens, "tokens"), JSON_COMPACT);
    Response back = ask(&s, "/detokenize", xprintf("{'tokens': %s}", list));
    CHECK(strstr(back.body, "\"Once there was a\""), "%s", back.body);
    for (int i = 0; i < 2; i++) ask(&s, COMPLETIONS, "{'prompt': 'Once there was a', 'max_tokens': 3, 'seed': 1}");
    CHECK(metric(&s, "vllm:prefix_cache_hits_total") == 4, "blocks of 2 of the 5 tokens are found");
    CHECK(metric(&s, "vllm:prefix_cache_queries_total") == 10, "queries");
    CHECK(metric(&s, "vllm:generation_tokens_total") == 6, "tokens");
    CHECK(metric(&s, "vllm:time_to_first_token_seconds_count") == 2, "first tokens");
    CHECK(metric(&s, "vllm:inter_token_latency_seconds_bucket,le=+Inf") == 4, "gaps");
    CHECK(metric(&s, "receipts:mbu") > 0, "bandwidth");
    Response live = {0};
    for (int i = 0; i < 100 && (i == 0 || !strcmp(live.body, "null")); i++)
        live = client_ask(&s, "GET", "/live", "", ""), usleep(20000);
    json_t *picture = json_of(live);
    CHECK(json_integer_value(json_object_get(picture, "tokens")) == 6 &&
          json_array_size(json_object_get(picture, "found")) > 2, "%s", live.body);
    server_stop(&s);
}

// ---- what it costs -------------------------------------------------------------------------------
// CPU seconds of this thread, so that a busy machine does not make it shorter.
static double own_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Takes a tenth of a second and notes that; then as much again, which only its end notes.
static void *take_time(void *meter) {
    while (own_seconds() < 0.1) {}
    meter_note(meter);
    while (own_seconds() < 0.2) {}
    return NULL;
}
static void *sleep_on(void *meter) {
    meter_note(meter);
    usleep(300000);
    return NULL;
}

static void meters(void) {
    Meter *m = meter_new();
    pthread_t thread[6];
    for (size_t i = 0; i < 6; i++) pthread_create(&thread[i], NULL, i < 3 ? take_time : sleep_on, m);
    for (size_t i = 0; i < 6; i++) pthread_join(thread[i], NULL);
    double all = meter_seconds(m);
    CHECK(all > 0.59 && all < 0.7, "three threads took 0.6 s, and three slept: %g", all);
    meter_free(m);
}

// Nothing waits in a loop for tokens: while a step computes, HTTP takes nothing, and afterwards a little for each.
static void takes_little(void) {
    Server s;
    train("--layers 2 --width 256 --heads 4 --data copy --vocab 4000 --steps 0 --context 128 "
          "--eval-tokens 128 --sample-tokens 0 --out run");
    if (!server_start(&s, "--run run --threads 2")) return;
    enum { CLIENTS = 4 };
    int client[CLIENTS];
    double before[3], after[3];
    static const char *const names[] = {"receipts:http_seconds_total", "receipts:scheduler_seconds_total",
                                        "receipts:busy_seconds_total"};
    for (int i = 0; i < 3; i++) before[i] = metric(&s, names[i]);
    for (int i = 0; i < CLIENTS; i++) {
        client[i] = client_open(&s);
        client_post(client[i], COMPLETIONS, "{'prompt': [1, 2, 3], 'max_tokens': 100, 'stream': true, 'ignore_eos': "
                    "true}");
    }
    for (int i = 0; i < CLIENTS; i++) CHECK(client_read(client[i], 60).status == 200, "client %d", i);
    for (int i = 0; i < 3; i++) after[i] = metric(&s, names[i]) - before[i];
    CHECK(after[0] > 0 && after[1] > 0 && after[2] > 0, "%g s of HTTP, %g of the scheduler, %g of steps", after[0],
          after[1], after[2]);
    CHECK(after[1] < after[2], "the scheduler takes a part of the steps: %g s of %g", after[1], after[2]);
    CHECK(after[0] < after[2], "HTTP takes a part of the steps, too: %g s of %g", after[0], after[2]);
    server_stop(&s);
}

// A web page of somebody else gets nothing from here, neither by a form nor by a name that points to this machine.
static void origins(void) {
    static const struct { const char *host, *origin; int open, closed; } cases[] = {
        {"localhost:8000", NULL, 200, 200}, {"LOCALHOST", NULL, 200, 200}, {"127.0.0.1:1", NULL, 200, 200},
        {"[::1]:8000", NULL, 200, 200}, {"localhost", "http://localhost", 200, 200},
        {"localhost", "http://localhost:1", 403, 200}, {"localhost", "https://evil.example", 403, 200},
        {"localhost", "null", 403, 200}, {"evil.example", NULL, 403, 200}, {"localhost.evil.example", NULL, 403, 200},
        {"evil.example:80", "http://evil.example:80", 403, 200}, {"localhost:x", NULL, 403, 200},
    };
    train_run();
    for (int keyed = 0; keyed < 2; keyed++) {
        Server s;
        if (!server_start(&s, keyed ? "--run run --api-key k" : "--run run")) return;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            int to = client_open(&s);
            char *origin = cases[i].origin ? xprintf("Origin: %s\r\n", cases[i].origin) : "";
            char *text = xprintf("GET /v1/models HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\nAuthorization: "
                                 "Bearer k\r\n\r\n", cases[i].host, origin);
            client_send(to, text, strlen(text));
            Response r = client_read(to, 20);
            CHECK(r.status == (keyed ? cases[i].closed : cases[i].open), "%d: %s: %d", keyed, text, r.status);
        }
        Response form = client_ask(&s, "POST", COMPLETIONS, "Content-Type: application/x-www-form-urlencoded\r\n",
                                   "{\"prompt\": \"Once\", \"max_tokens\": 1}");
        CHECK(form.status == (keyed ? 401 : 200), "what curl -d sends: %d %s", form.status, form.body);
        server_stop(&s);
    }
}

static const Test tests[] = {
    {"http/meters", "CPU seconds of threads, also of those that have ended", meters},
    {"http/cost", "what HTTP and the scheduler take is counted, and is little", takes_little},
    {"http/answers", "an answer has the text of ./generate with its seed, whatever the flags of the engine", answers},
    {"http/ratio", "with a draft and --accept ratio, too, the text is that of ./generate", ratio},
    {"http/chats", "messages, whole and in events", chats},
    {"http/ends-alone", "--eos: the same without HTTP, on both clocks", ends_alone},
    {"http/ends", "tokens that end a text end an answer, unless ignore_eos; ChatML", ends},
    {"http/stop-words", "a text ends before a stop word, and the engine lets it go", stop_words},
    {"http/logprobs", "log-probabilities of an echo are those of writing, bit for bit, also after chunks and hits",
     logprobs},
    {"http/empty", "a text without tokens is refused, and has none", empty},
    {"http/scores", "a prompt that is only to be scored may fill the context", scores},
    {"http/origins", "what a web page of somebody else asks is refused, unless there is a key", origins},
    {"http/refusals", "what is wrong or would change an answer is refused by its name", refusals},
    {"http/flags", "flags without effect", flags},
    {"http/paths", "keys, models, tokens, metrics, the picture, the page", paths},
};
REGISTER_TESTS(tests)

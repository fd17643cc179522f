// test_http_faults.c: ./serve --port among clients that go away, say nonsense, say nothing, do not listen, or are too
// many; and signals under load. Whatever happens, every request ends once, and blocks, descriptors and memory stay.
#include "tests/client.h"
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define RUNNING "vllm:num_requests_running"
#define WAITING "vllm:num_requests_waiting"
#define HELD "vllm:kv_cache_usage_perc"
#define RECEIVED "receipts:requests_received_total"
static const char COMPLETIONS[] = "/v1/completions";
// An answer of so many tokens takes longer than a test.
static const char LONG[] = "{'prompt': 'Once', 'max_tokens': 65000, 'stream': %s}";
static const char SHORT[] = "{'prompt': 'Once', 'max_tokens': 3, 'seed': 1}";
#define ROOM "--run run --max-length 66000 --blocks 12000 "

static void train_run(void) {
    train("--layers 2 --width 64 --heads 2 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
}

static int post(const Server *s, const char *format, bool stream) {
    int to = client_open(s);
    char *body = xprintf("%s", format), *at = strstr(body, "%s");
    if (at) body = xprintf("%.*s%s%s", (int)(at - body), body, stream ? "true" : "false", at + 2);
    client_post(to, COMPLETIONS, body);
    return to;
}

static double ended(const Server *s) {
    static const char *const reasons[] = {"length", "stop", "abort", "timeout", "shed", "refused", "drain",
                                          "error"};
    double sum = 0;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        sum += metric(s, xprintf("receipts:requests_ended_total,finished_reason=%s", reasons[i]));
    return sum;
}

// Soon as many have ended as were received, and nothing is held.
static void check_books(const Server *s, const char *after) {
    metric_becomes(s, RUNNING, 0, 20), metric_becomes(s, WAITING, 0, 20);
    for (int i = 0; i < 500 && ended(s) != metric(s, RECEIVED); i++) usleep(10000);
    CHECK(ended(s) == metric(s, RECEIVED), "after %s: %g received, %g ended", after, metric(s, RECEIVED), ended(s));
    CHECK(metric(s, HELD) == 0, "after %s blocks are held: %g", after, metric(s, HELD));
    Response r = ask(s, COMPLETIONS, SHORT);
    CHECK(r.status == 200 && r.whole, "after %s: %d %s", after, r.status, r.body);
}

// Of the server, where the system says it; NAN elsewhere.
static double open_files(const Server *s) {
    DIR *d = opendir(xprintf("/proc/%d/fd", (int)s->process));
    double count = 0;
    if (!d) return NAN;
    while (readdir(d)) count++;
    closedir(d);
    return count;
}
static double resident(const Server *s) {
    char *path = xprintf("/proc/%d/status", (int)s->process);
    const char *text = file_exists(path) ? read_whole_file(path, NULL) : "";
    const char *at = strstr(text, "VmRSS:");
    return at ? 1024 * strtod(at + 6, NULL) : NAN;
}

// ---- who goes away -----------------------------------------------------------------------------
static void leave_queued(const Server *s, bool stream) {
    int busy[2], queued[3];
    for (int i = 0; i < 2; i++) busy[i] = post(s, LONG, true);
    metric_becomes(s, RUNNING, 2, 10);
    for (int i = 0; i < 3; i++) queued[i] = post(s, LONG, stream);
    metric_becomes(s, WAITING, 3, 10);
    for (int i = 0; i < 3; i++) close(queued[i]);
    metric_becomes(s, WAITING, 0, 10);
    CHECK(metric(s, RUNNING) == 2, "the others go on");
    for (int i = 0; i < 2; i++) close(busy[i]);
}

static void leave_reading(const Server *s, bool stream) {       // while the engine reads its prompt, in small chunks
    char *prompt = xmalloc(2 * 40000 + 1);
    for (size_t i = 0; i < 40000; i++) memcpy(prompt + 2 * i, i ? ",3" : " 0", 2);
    int to = client_open(s);
    client_post(to, COMPLETIONS, xprintf("{'prompt': [%s], 'max_tokens': 9, 'stream': %s}", prompt,
                                         stream ? "true" : "false"));
    metric_becomes(s, RUNNING, 1, 10);
    close(to);
    free(prompt);
}

static void leave_writing(const Server *s, bool stream) {
    char some[64];
    int to = post(s, LONG, stream);
    if (stream) CHECK(recv(to, some, sizeof some, 0) > 0, "the first bytes");
    else metric_becomes(s, RUNNING, 1, 10);
    close(to);
}

static void leave_half_said(const Server *s, bool stream) {
    static const char half[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
                               "{'prompt': 'On";
    int to = client_open(s);
    client_send(to, half, stream ? sizeof half - 1 : 30);
    close(to);
}

// A client that will say no more (SHUT_WR) cannot be told from one that has gone, and is let go.
static void leave_by_half(const Server *s, bool stream) {
    int to = post(s, LONG, stream);
    metric_becomes(s, RUNNING, 1, 10);
    shutdown(to, SHUT_WR);
    metric_becomes(s, RUNNING, 0, 10);
    close(to);
}

static void leave_unread(const Server *s, bool stream) {        // an answer that is complete
    int to = post(s, stream ? LONG : SHORT, stream);
    if (!stream) metric_becomes(s, RUNNING, 0, 10);
    close(to);
}

static void disconnects(void) {
    static void (*const leave[])(const Server *, bool) = {leave_queued, leave_reading, leave_writing, leave_half_said,
                                                          leave_by_half, leave_unread};
    static const char *const state[] = {"queued", "reading", "writing", "half said", "by half", "unread"};
    Server s;
    train_run();
    if (!server_start(&s, ROOM "--running 2 --budget 16 --chunk 16")) return;
    for (size_t i = 0; i < sizeof leave / sizeof *leave; i++)
        for (int round = 0; round < 6; round++) {
            leave[i](&s, round % 2);
            check_books(&s, state[i]);
        }
    CHECK(metric(&s, "receipts:requests_ended_total,finished_reason=abort") > 6 * 6, "aborted");
    Result r = server_stop(&s);
    CHECK(r.status == 0, "%d %s", r.status, r.error);
}

// ---- limits ------------------------------------------------------------------------------------
static void limits(void) {
    Server s;
    train_run();
    if (!server_start(&s, ROOM "--running 1 --queue 1 --timeout 2.5 --idle 1")) return;
    int first = post(&s, LONG, true);
    metric_becomes(&s, RUNNING, 1, 10);
    int second = post(&s, SHORT, false);
    metric_becomes(&s, WAITING, 1, 10);
    Response third = ask(&s, COMPLETIONS, SHORT);
    CHECK(third.status == 429 && strstr(third.head, "Retry-After: ") && strstr(third.body, "queue is full"), "%d %s",
          third.status, third.body);
    CHECK(metric(&s, "receipts:turned_away_total") == 1, "it is counted");
    Response late = client_read(first, 20);                    // takes longer than --timeout; the second waits longer
    CHECK(late.status == 200 && strstr(late.body, "\"code\":504") && strstr(late.body, "data: [DONE]"), "%d ...%s",
          late.status, late.body + (strlen(late.body) > 300 ? strlen(late.body) - 300 : 0));
    Response waited = client_read(second, 20);                 // than --idle, which is no fault of its client
    CHECK(waited.status == 200 || waited.status == 504, "%d %s", waited.status, waited.body);
    Response whole = client_read(post(&s, LONG, false), 20);
    CHECK(whole.status == 504 && strstr(whole.body, "--timeout"), "%d %s", whole.status, whole.body);
    Response large = ask(&s, COMPLETIONS, "{'prompt': 'Once', 'n': 2, 'logprobs': 20, 'max_tokens': 65000}");
    CHECK(large.status == 400 && strstr(large.body, "fewer answers"), "%d %s", large.status, large.body);
    check_books(&s, "timeouts");
    server_stop(&s);
    if (!server_start(&s, ROOM "--running 1 --idle 1 --shed 1.5")) return;
    first = post(&s, LONG, true);
    metric_becomes(&s, RUNNING, 1, 10);
    Response shed = ask(&s, COMPLETIONS, SHORT);
    CHECK(shed.status == 503 && strstr(shed.body, "--shed"), "%d %s", shed.status, shed.body);
    close(first);
    check_books(&s, "shedding");
    server_stop(&s);
}

// ---- nonsense ----------------------------------------------------------------------------------
static void check_closed(int to, double seconds, const char *what) {
    double start = seconds_now();
    Response r = client_read(to, seconds + 5);
    CHECK(seconds_now() - start < seconds + 4 && r.status != 200, "%s: %d after %g s", what, r.status,
          seconds_now() - start);
}

static Response hear_of(const Server *s, const char *text) {
    int to = client_open(s);
    client_send(to, text, strlen(text));
    return client_read(to, 5);
}

static void say(const Server *s, const char *text) {
    Response r = hear_of(s, text);
    CHECK(r.status == 0 || r.status >= 400, "%s: %d", text, r.status);
}

// One request to a proxy and two to us, if a body's end is read in two ways: an error, and the other is not answered.
static void say_two_ways(const Server *s) {
    static const char *const ways[] = {
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 3\r\n\r\n",
        "Content-Length: +0\r\n\r\n", "Content-Length: 0x0\r\n\r\n", "Content-Length: 0, 0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        Response r = hear_of(s, xprintf("POST /tokenize HTTP/1.1\r\nHost: localhost\r\n%s"
                                        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", ways[i]));
        CHECK((r.status == 0 || r.status >= 400) && !strstr(r.body, "HTTP/1.1 2"), "%s: %d %s", ways[i], r.status,
              r.body);
    }
}

static void say_nonsense(const Server *s) {
    static const char *const nonsense[] = {
        "\r\n\r\n", "GET\r\n\r\n", "nothing at all\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /%zz HTTP/1.1\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\xff\xfe{",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    };
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) say(s, nonsense[i]);
    say_two_ways(s);
    size_t many = 1 << 16;
    char *header = xmalloc(many + 1);
    memset(header, 'x', many);
    say(s, xprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", header));
    char *deep = xmalloc(1 << 20);
    memset(deep, '[', (1 << 20) - 1);
    Response r = ask(s, COMPLETIONS, xprintf("{'prompt': %s", deep));
    CHECK(r.status == 400, "a million brackets: %d", r.status);
    free(header), free(deep);
}

static void say_too_much(const Server *s) {
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    char *chunk = xmalloc(0x10000 + 10);
    memcpy(chunk, "10000\r\n", 7), memset(chunk + 7, ' ', 0x10000), memcpy(chunk + 7 + 0x10000, "\r\n", 2);
    int to = client_open(s);
    client_send(to, head, sizeof head - 1);
    size_t sent = 0;
    while (sent < 1000 && client_send(to, chunk, 0x10000 + 9)) sent++;
    CHECK(sent < 1000, "a body without an end was taken");
    close(to);
    free(chunk);
}

// Nothing, half a line, half a body: closed when --idle is over; meanwhile others are answered.
static void say_little(const Server *s) {
    static const char half[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    static const char *const little[] = {"", "GET /hea", half};
    int to[9];
    for (int i = 0; i < 9; i++) to[i] = client_open(s), client_send(to[i], little[i % 3], strlen(little[i % 3]));
    CHECK(ask(s, COMPLETIONS, SHORT).status == 200, "others are answered");
    for (int i = 0; i < 9; i++) check_closed(to[i], 3, little[i % 3]);
}

// A connection that is kept after a stream is no other than one that never said anything.
static void stay_after_stream(const Server *s) {
    static const char body[] = "{\"prompt\": \"Once\", \"max_tokens\": 3, \"stream\": true}";
    char *text = xprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s", COMPLETIONS,
                         strlen(body), body);
    int to = client_open(s);
    double start = seconds_now();
    client_send(to, text, strlen(text));
    Response r = client_read(to, 8);
    CHECK(r.whole && seconds_now() - start < 6, "%d, closed after %g s", r.status, seconds_now() - start);
    free(text);
}

// A client that reads nothing does not hold up the engine, and is cut off.
static void listen_to_nothing(const Server *s) {
    int small = 4096, to = client_open(s);
    setsockopt(to, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_post(to, COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 65000, 'stream': true, 'logprobs': 20}");
    metric_becomes(s, RUNNING, 1, 10);
    CHECK(ask(s, COMPLETIONS, SHORT).status == 200, "others are answered");
    metric_becomes(s, RUNNING, 0, 150);                   // as soon as the buffers between them are full
    check_books(s, "a reader that does not read");
    close(to);
}

// A client that reads slowly gets all of it, and nobody waits for it meanwhile.
static void listen_slowly(const Server *s) {
    static const char body[] = "{'prompt': 'Once', 'max_tokens': 900, 'seed': 1, 'stream': true}";
    int small = 2048, to = client_open(s);
    setsockopt(to, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_post(to, COMPLETIONS, body);
    size_t bytes = 0, room = 1 << 20;
    char *text = xmalloc(room + 1);
    for (ssize_t n = 1; n > 0 && bytes < room; bytes += n > 0 ? (size_t)n : 0) {
        n = recv(to, text + bytes, smaller(700, room - bytes), 0);
        usleep(500);
        if (bytes < 700) CHECK(ask(s, COMPLETIONS, SHORT).status == 200, "others are answered");
    }
    CHECK(bytes > 50000 && strstr(text, "data: [DONE]") && strstr(text, "\"finish_reason\":\"length\""), "%zu bytes",
          bytes);
    close(to);
    free(text);
}

// Where there are more clients than --connections, as those that have gone still are for a moment, others are cut off.
static bool becomes_healthy(const Server *s) {
    for (int i = 0; i < 500; i++) {
        if (client_ask(s, "GET", "/health", "", "").status == 200) return true;
        usleep(10000);
    }
    return false;
}

static void many(const Server *s, int count) {
    for (int i = 0; i < count; i++) {
        int to = client_open(s);
        if (to < 0) return;
        switch (i % 4) {
        case 0: break;
        case 1: client_send(to, "GET /health HTTP/1.1\r\n", 22); break;
        case 2: client_post(to, COMPLETIONS, SHORT); break;
        default: CHECK(becomes_healthy(s), "connection %d", i); break;
        }
        close(to);
    }
}

static void faults(void) {
    Server s;
    train_run();
    if (!server_start(&s, ROOM "--idle 1 --connections 32 --running 4 --queue 400")) return;
    many(&s, 400), say_nonsense(&s), check_books(&s, "nonsense");         // what is allocated once is there now
    metric_becomes(&s, RUNNING, 0, 30);
    double files = open_files(&s), memory = resident(&s);
    bool sanitized = getenv("ASAN_OPTIONS") || getenv("TSAN_OPTIONS");      // they keep what was freed, and are slow
    many(&s, sanitized ? 2000 : 10000);
    say_nonsense(&s), say_too_much(&s), say_little(&s), stay_after_stream(&s), listen_slowly(&s);
    listen_to_nothing(&s);
    check_books(&s, "all of it");
    for (int i = 0; i < 300 && open_files(&s) > files; i++) usleep(10000);
    CHECK(!(open_files(&s) > files), "%g descriptors, %g before", open_files(&s), files);
    CHECK(sanitized || !(resident(&s) > memory + (24 << 20)), "%g bytes resident, %g before", resident(&s), memory);
    Result r = server_stop(&s);
    CHECK(r.status == 0, "%d %s", r.status, r.error);
}

// ---- signals -----------------------------------------------------------------------------------
static void drain(void) {
    Server s;
    train_run();
    if (!server_start(&s, ROOM "--grace 4 --running 3")) return;
    int whole = post(&s, LONG, false), stream = post(&s, LONG, true);
    int brief = post(&s, "{'prompt': 'Once', 'max_tokens': 30, 'seed': 1}", false);
    metric_becomes(&s, RECEIVED, 3, 10);
    kill(s.process, SIGTERM);
    for (int i = 0; i < 100 && client_ask(&s, "GET", "/health", "", "").status != 503; i++) usleep(10000);
    Response health = client_ask(&s, "GET", "/health", "", ""), late = ask(&s, COMPLETIONS, SHORT);
    CHECK(health.status == 503 && late.status == 503 && strstr(late.head, "Retry-After"), "%d %d", health.status,
          late.status);
    Response done = client_read(brief, 20), cut = client_read(whole, 20), ended = client_read(stream, 20);
    CHECK(done.status == 200 && done.whole, "what can be finished is finished: %d %s", done.status, done.body);
    CHECK(cut.status == 503 && strstr(cut.body, "shutting down"), "%d %s", cut.status, cut.body);
    CHECK(ended.whole && strstr(ended.body, "\"code\":503") && strstr(ended.body, "data: [DONE]"), "%d", ended.status);
    Result r = server_wait(&s);
    CHECK(r.status == 0 && strstr(r.out, "3 received, 1 length, 2 drain; 1 call turned away"), "%d %s%s", r.status,
          r.out, r.error);
    if (!server_start(&s, ROOM "--grace 1000")) return;
    int held = post(&s, LONG, true);
    metric_becomes(&s, RUNNING, 1, 10);
    kill(s.process, SIGTERM);
    for (int i = 0; i < 100 && client_ask(&s, "GET", "/health", "", "").status != 503; i++) usleep(10000);
    kill(s.process, SIGTERM);
    r = server_wait(&s);
    CHECK(r.status == 128 + SIGTERM, "a second signal ends it at once: %d", r.status);
    close(held);
}

// A signal while many write, wait, read nothing, have half said what they want, say nothing, or have just gone.
static void drain_many(void) {
    enum { KINDS = 7, EACH = 4, ASKING = 5 };
    static const char half[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    Server s;
    int to[KINDS * EACH];
    train_run();
    if (!server_start(&s, ROOM "--grace 1 --running 3 --queue 40 --connections 64 --idle 5")) return;
    for (int i = 0; i < KINDS * EACH; i++) {
        int kind = i % KINDS, small = 4096;
        to[i] = client_open(&s);
        if (kind == 0) setsockopt(to[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        if (kind < 2) client_post(to[i], COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 65000, 'stream': true}");
        if (kind == 2) client_post(to[i], COMPLETIONS, "{'prompt': 'Once', 'max_tokens': 65000}");
        if (kind == 3 || kind == 4) client_post(to[i], COMPLETIONS, SHORT);
        if (kind == 5) client_send(to[i], half, sizeof half - 1);
    }
    metric_becomes(&s, RECEIVED, ASKING * EACH, 20);
    for (int i = 1; i < KINDS * EACH; i += KINDS) close(to[i]);
    kill(s.process, SIGTERM);
    Result r = server_wait(&s);
    const char *at = strstr(r.out, " received, ");
    size_t sum = 0;
    for (const char *next = at; next && *next && *next != '\n'; next++)
        if (next[0] == ',' && next[1] == ' ') sum += strtoul(next + 2, NULL, 10);
    CHECK(r.status == 0 && strstr(r.out, "20 received, ") && sum == ASKING * EACH, "%d, %zu ends: %s%s", r.status, sum,
          r.out, r.error);
    for (int i = 0; i < KINDS * EACH; i++)
        if (i % KINDS != 1) close(to[i]);
}

// ---- numbers that are none ---------------------------------------------------------------------
// The run once more, with a token whose embedding is no number: a text that has it has no logits, and no other text.
static void damage_run(int token) {
    size_t bytes;
    char *file = read_whole_file(test_path("run/model.safetensors"), &bytes);
    uint64_t head;
    memcpy(&head, file, sizeof head);
    json_t *names = json_loadb(file + 8, head, 0, NULL);
    const json_t *embed = json_object_get(names, "model.embed_tokens.weight");
    size_t width = (size_t)json_integer_value(json_array_get(json_object_get(embed, "shape"), 1));
    size_t at = (size_t)json_integer_value(json_array_get(json_object_get(embed, "data_offsets"), 0));
    CHECK(width, "no embedding in %.*s", (int)head, file + 8);
    float none = NAN;
    memcpy(file + 8 + head + at + (size_t)token * width * sizeof none, &none, sizeof none);
    write_whole_file(test_path("run/model.safetensors"), file, bytes);
    json_decref(names), free(file);
}

// Whoever has asked for it is told, in each form of an answer; the others get what they would have got.
static void bad_numbers(void) {
    static const struct { const char *flags, *message; } cases[] = {
        {"", "logits are not numbers"}, {"--prefix-cache 1 --chunk 2", "logits are not numbers"},
        {"--draft lookup --gamma 3", "logits are not numbers"}, {"--draft sound --gamma 2", "model's logits are not"},
        {"--run sound --draft run --gamma 2", "logits of --draft are not numbers"},
        {"--kv-quant q8_0 --prefix-cache 1", "too large for --kv-quant"},
        {"--kv-bits 4 --chunk 3", "too large for --kv-quant"}};
    static const char *const bad[] = {
        "{'prompt': [5, 6, 77, 8, 9], 'max_tokens': 9}", "{'prompt': [77], 'max_tokens': 9, 'stream': true}",
        "{'prompt': [5, 6, 77, 8], 'max_tokens': 3, 'n': 3, 'logprobs': 2, 'echo': true}",
        "{'prompt': [[5, 77, 8], [5, 6, 7, 8]], 'max_tokens': 3, 'stream': true}"};
    static const char SOUND[] = "{'prompt': [5, 6, 7, 8, 9], 'max_tokens': 60, 'seed': 3}";
    train("--layers 2 --width 64 --heads 2 --tie 0 --steps 3 --eval-tokens 128 --sample-tokens 0 --out sound");
    train("--layers 2 --width 64 --heads 2 --tie 0 --steps 3 --eval-tokens 128 --sample-tokens 0 --out run");
    damage_run(77);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Server s;
        if (!server_start(&s, xprintf("--unverified 1 %s %s", strstr(cases[i].flags, "--run") ? "" : "--run run",
                                         cases[i].flags))) return;
        Response before = ask(&s, COMPLETIONS, SOUND);
        int beside = post(&s, SOUND, false);
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            Response r = ask(&s, COMPLETIONS, bad[k]);
            bool stream = strstr(bad[k], "stream") != NULL;
            CHECK(r.whole && r.status == (stream ? 200 : 500) && strstr(r.body, cases[i].message) &&
                      strstr(r.body, "\"code\":500"), "%s: %s: %d %s", cases[i].flags, bad[k], r.status, r.body);
        }
        Response other = client_read(beside, 20), after = ask(&s, COMPLETIONS, SOUND);
        const char *text = strstr(before.body, "\"choices\"");
        CHECK(before.status == 200 && text && strstr(other.body, text) && strstr(after.body, text), "%s: %s\n%s\n%s",
              cases[i].flags, before.body, other.body, after.body);
        if (!strstr(cases[i].flags, "--run")) check_books(&s, cases[i].flags);      // which knows a model "run"
        Result r = server_stop(&s);
        CHECK(r.status == 0 && strstr(r.out, " error") && strstr(r.error, "note     an answer ended with an error"),
              "%d %s%s", r.status, r.out, r.error);
    }
}

static const Test tests[] = {
    {"http/disconnects", "clients that go away in every state: each request ends once, and gives its blocks back",
     disconnects},
    {"http/limits", "a full queue, time, shedding; who waits is not idle", limits},
    {"http/faults", "nonsense, too much, too little, readers that do not read, many: descriptors and memory stay",
     faults},
    {"http/bad-numbers", "numbers that are none, or too large for the cache, end the request that has them alone",
     bad_numbers},
    {"http/drain", "a signal under load: what can be finished is, the rest is cancelled; a second one ends it", drain},
    {"http/drain-many", "a signal among clients of all kinds: it ends in time, and each request once", drain_many},
};
REGISTER_TESTS(tests)

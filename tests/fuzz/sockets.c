// sockets.c: the server behind a socket: bytes come in pieces (0xFF stands between them), in one thread and with an
// engine of a tiny model, which makes a step whenever a request waits for one. Whatever comes, the server does not end,
// each request ends once, and no block of the pool stays taken.
#include "infer/live.h"
#include "tests/fuzz/fuzz.h"
#ifdef HTTP
static void step_instead(Live *l, Call *c, double seconds);
#endif
#define live_wait step_instead
#include "infer/http.c"
#undef live_wait

#ifndef HTTP
void prepare_http(void) {}
void ask_server(const char *input, size_t bytes) { (void)input, (void)bytes; }      // nothing listens
#else
enum { VOCAB = 11, LONGEST = 48, BLOCKS = 40, BLOCK = 4, RUNNING = 4 };
static Http http;
static struct MHD_Daemon *server;
static Config config;

static void step_instead(Live *l, Call *c, double seconds) {
    (void)seconds;
    if (c->open) live_turn(l, false);
}

static void end_of_server(int status, const char *message) {
    fuzz_fault("the server ended with status %d: %s", status, message);
}

static size_t connections(void) {
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(server, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return i ? i->num_connections : 0;
}

// What the server says is HTTP from its first byte on; `seen` bytes were looked at before.
static size_t listen_to(int client, size_t seen) {
    static const char begins[] = "HTTP/1.";
    char part[4096];
    for (ssize_t n; (n = recv(client, part, sizeof part, MSG_DONTWAIT)) > 0; seen += (size_t)n)
        for (size_t i = 0; i < (size_t)n && seen + i < sizeof begins - 1; i++)
            if (part[i] != begins[seen + i]) fuzz_fault("it answers with \"%.*s\"", (int)n, part);
    return seen;
}

static void run_server(int client, size_t *seen, size_t turns) {
    for (size_t i = 0; i < turns && connections(); i++) {
        MHD_run(server);
        *seen = listen_to(client, *seen);
    }
}

static void talk(const char *input, size_t bytes) {
    enum { TURNS = 1000 };
    int pair[2];
    size_t seen = 0;
    struct sockaddr_in nobody = {.sin_family = AF_INET};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) fuzz_fault("no sockets: %s", strerror(errno));
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    if (MHD_add_connection(server, pair[1], (struct sockaddr *)&nobody, sizeof nobody) != MHD_YES)
        fuzz_fault("the server takes no connection");
    for (const char *at = input, *end = input + bytes, *cut; at < end; at = cut + 1) {
        cut = memchr(at, 0xFF, (size_t)(end - at));
        if (!cut) cut = end;
        if (send(pair[0], at, (size_t)(cut - at), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
        run_server(pair[0], &seen, 3);
    }
    run_server(pair[0], &seen, 6);
    if (bytes % 2) shutdown(pair[0], SHUT_WR), run_server(pair[0], &seen, TURNS);
    close(pair[0]);
    for (size_t i = 0; connections(); i++) {
        MHD_run(server);
        if (i > TURNS) fuzz_fault("a connection that was closed stays open");
    }
    if (http.visits) fuzz_fault("%zu requests do not end", http.visits);
}

void ask_server(const char *input, size_t bytes) {
    SchedOptions o = {.budget = 16, .running = RUNNING, .chunk = 8, .prefix_cache = true};
    SampleOptions sampling = sample_defaults(1, 0);
    Model *model = model_new(&config, false);
    Pool *pool = pool_new(BLOCKS, BLOCK, 0, 1, 64);
    Sched *sched = sched_new(o, pool);
    Served *served = served_new(model, BLOCKS, BLOCK, RUNNING, 0, sampling, VOCAB);
    Tokenizer *words = tokenizer_numbers(VOCAB);
    fail_hook = end_of_server;
    http.told = (LiveOptions){.queue = 2, .running = RUNNING, .slo_ttft = 1, .slo_tpot = 1};
    http.o.key = bytes % 3 ? "" : "key";
    http.speaker = speaker_new("fuzz", words, VOCAB, LONGEST, 6, sampling, CHAT_auto);
    http.live = live_new(http.told, sched, pool, served, words);
    talk(input, bytes);
    for (size_t turns = 0; live_turn(http.live, true); turns++)
        if (turns > 10000) fuzz_fault("the engine does not come to an end");
    LiveStats s = live_stats(http.live);
    size_t ended = 0;
    for (int why = 0; why < WHYS; why++) ended += s.ended[why];
    if (ended != s.received) fuzz_fault("%zu requests, %zu ends", s.received, ended);
    if (pool_available(pool) != BLOCKS) fuzz_fault("%zu blocks stay taken", BLOCKS - pool_available(pool));
    const char *wrong = sched_check(sched);
    if (wrong) fuzz_fault("%s", wrong);
    live_free(http.live), speaker_free(http.speaker), tokenizer_free(words);
    served_free(served), sched_free(sched), pool_free(pool), model_free(model);
}

void prepare_http(void) {
    flags_parse_text(&config_table, &config, "--layers 1 --width 8 --heads 1 --context 48 --vocab 11", NULL);
    config.vocab = VOCAB;
    config_resolve(&config);
    http.o = (HttpOptions){.host = "localhost", .key = "", .connections = 4, .idle = 1000};
    pthread_mutex_init(&http.lock, NULL);
    server = MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, &http, MHD_OPTION_NOTIFY_COMPLETED,
                              on_end, &http, MHD_OPTION_CONNECTION_LIMIT, 4u, MHD_OPTION_END);
    if (!server) fail("no server to feed");
    // What kernels keep for all time is allocated before anybody counts.
    static const char first[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\n"
                                "Content-Length: 80\r\n\r\n"
                                "{\"prompt\": \"1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9\", "
                                "\"max_tokens\": 24, \"n\": 4     }";
    ask_server(first, sizeof first - 1);
    fail_hook = NULL;
}
#endif

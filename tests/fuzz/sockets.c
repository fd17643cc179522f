// sockets.c: the server behind a socket: bytes come in pieces (0xFF stands between them), in one thread and with an
// engine of a tiny model, which makes a step whenever a request waits for one. Bytes behind 0xFE say what happens while
// an answer is sent as it comes: the client reads all, little or nothing, goes, or its time is over. Whatever comes,
// the server does not end, each request ends once, no block of the pool stays taken and no byte of memory.
#include "infer/live.h"
#include "tests/fuzz/fuzz.h"
#ifdef HTTP
#include <poll.h>
static void step_instead(Live *l, Call *c, double seconds);
static int wait_instead(pthread_cond_t *back, pthread_mutex_t *lock);
static int poll_instead(struct pollfd *p, nfds_t count, int wait);
#endif
#define pthread_create(thread, how, run, self) ((void)(run), 0)
#define pthread_join(thread, result) ((void)0)
#define pthread_cond_wait wait_instead
#define LOOK BETWEEN_LOOKS
#include "infer/streams.c"
#undef LOOK
#undef pthread_create
#undef pthread_join
#undef pthread_cond_wait
#define live_wait step_instead
#define poll poll_instead
#include "infer/http.c"
#undef live_wait
#undef poll

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

// ---- the client ------------------------------------------------------------------------------------
typedef enum { READS, READS_LITTLE, READS_NOTHING, HALF_GONE, GONE, IN_TIME, SERVER_ENDS, NO_STEP, MOODS } Mood;
static struct { int socket; size_t seen; const unsigned char *mood; size_t moods, turns; } client;

// What the server says is HTTP from its first byte on.
static void listen_to(size_t most) {
    static const char begins[] = "HTTP/1.";
    char part[4096];
    for (ssize_t n; client.socket >= 0 && most; client.seen += (size_t)n, most -= (size_t)n) {
        n = recv(client.socket, part, smaller(most, sizeof part), MSG_DONTWAIT);
        if (n <= 0) return;
        for (size_t i = 0; i < (size_t)n && client.seen + i < sizeof begins - 1; i++)
            if (part[i] != begins[client.seen + i]) fuzz_fault("it answers with \"%.*s\"", (int)n, part);
    }
}

static void go_away(void) {
    if (client.socket >= 0) close(client.socket);
    client.socket = -1;
}

// One moment of whoever reads an answer as it comes. In the end he reads, so that all of it can come to an end.
static Mood be_moody(void) {
    Mood m = client.moods ? (Mood)(*client.mood % MOODS) : READS;
    if (client.moods) client.mood++, client.moods--;
    if (client.turns++ > 20000) fuzz_fault("a stream does not end");
    if (m == READS || m == READS_LITTLE) listen_to(m == READS ? SIZE_MAX : 64);
    if (m == HALF_GONE && client.socket >= 0) shutdown(client.socket, SHUT_WR);
    if (m == GONE) go_away();
    return m;
}

// Instead of the thread of all streams: a step, and then what that thread does.
static int wait_instead(pthread_cond_t *back, pthread_mutex_t *lock) {
    Streams *s = http.streams;
    Mood m = be_moody();
    (void)back;
    for (Stream *x = s->first; m == IN_TIME && x; x = x->next) x->until = 1e-9;
    s->over |= m == SERVER_ENDS;
    pthread_mutex_unlock(lock);
    if (m != NO_STEP) live_turn(http.live, false);
    pthread_mutex_lock(lock);
    send_news(s, seconds_now(), true);
    return 0;
}

static int poll_instead(struct pollfd *p, nfds_t count, int wait) {
    Mood m = be_moody();
    (void)wait;
    return m == IN_TIME || m == SERVER_ENDS ? 0 : poll(p, count, 0) > 0 || m != READS_NOTHING;
}

static void run_server(size_t turns) {
    for (size_t i = 0; i < turns && connections(); i++) {
        MHD_run(server);
        listen_to(SIZE_MAX);
    }
}

static void talk(const char *input, size_t bytes) {
    enum { TURNS = 1000, LEAST = 1 };                   // the kernel makes of it the smallest buffer that it has
    int pair[2];
    struct sockaddr_in nobody = {.sin_family = AF_INET};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) fuzz_fault("no sockets: %s", strerror(errno));
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){LEAST}, sizeof(int));
    if (MHD_add_connection(server, pair[1], (struct sockaddr *)&nobody, sizeof nobody) != MHD_YES)
        fuzz_fault("the server takes no connection");
    client.socket = pair[0], client.seen = client.turns = 0;
    for (const char *at = input, *end = input + bytes, *cut; at < end && client.socket >= 0; at = cut + 1) {
        cut = memchr(at, 0xFF, (size_t)(end - at));
        if (!cut) cut = end;
        if (send(pair[0], at, (size_t)(cut - at), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
        run_server(3);
    }
    run_server(6);
    if (bytes % 2 && client.socket >= 0) shutdown(client.socket, SHUT_WR), run_server(TURNS);
    go_away();
    for (size_t i = 0; connections(); i++) {
        MHD_run(server);
        if (i > TURNS) fuzz_fault("a connection that was closed stays open");
    }
    if (http.visits) fuzz_fault("%zu requests do not end", http.visits);
}

void ask_server(const char *input, size_t bytes) {
    const char *moods = memchr(input, 0xFE, bytes);
    client.mood = (const unsigned char *)(moods ? moods + 1 : input + bytes);
    client.moods = (size_t)(input + bytes - (const char *)client.mood);
    if (moods) bytes = (size_t)(moods - input);
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
    http.meter = meter_new();
    http.streams = streams_new(http.live, http.meter);
    talk(input, bytes);
    streams_end(http.streams), streams_free(http.streams), meter_free(http.meter);
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
    fuzz_check_freed();
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

// http.c: see http.h. Built with -DHTTP; without it there is only the word that it is missing.
#include "infer/http.h"

#ifndef HTTP
bool http_is_there(void) { return false; }
void http_serve(HttpOptions o, Live *live, LiveOptions told, Speaker *speaker, const volatile sig_atomic_t *stopped) {
    (void)o, (void)live, (void)told, (void)speaker, (void)stopped;
    usage_error("this ./serve was built without libmicrohttpd");
}
#else
#include "infer/metrics.h"
#include "infer/origin.h"
#include "infer/streams.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

bool http_is_there(void) { return true; }

static const char page[] =
#include "page.inc"
;

enum { MOST_BODY = 4 << 20, STACK = 1 << 20, CHUNK = 16 << 10 };
static const double LOOK = 0.05;            // seconds between two looks at whether the client is still there

typedef struct {
    HttpOptions o; LiveOptions told;
    Live *live; Speaker *speaker; Streams *streams;
    const char *own;                        // --host where this machine alone is heard, else NULL
    pthread_mutex_t lock; size_t visits;    // requests under way
} Http;

// A request of a client, from its first line to the end of its response.
typedef struct {
    Http *http;
    struct MHD_Connection *connection;
    char *body; size_t bytes, room;
    double start;
    Reply *reply;
    bool chunks;                            // HTTP/1.1
    bool unclear;                           // where its body ends
    const char *rest;                       // of its path, behind the one that is known
    char *pending; size_t length, given;    // events that the client has not taken yet
} Visit;

// ---- responses -------------------------------------------------------------------------------------
static enum MHD_Result send_response(Visit *v, int status, struct MHD_Response *r, const char *type) {
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    enum MHD_Result done = MHD_queue_response(v->connection, (unsigned)status, r);
    MHD_destroy_response(r);
    return done;
}

static enum MHD_Result send_text(Visit *v, int status, char *text, const char *type) {
    return send_response(v, status, MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE), type);
}
static enum MHD_Result send_json(Visit *v, char *text) { return send_text(v, 200, text, "application/json"); }

static enum MHD_Result send_refusal(Visit *v, Refusal *why) {
    char *text = refusal_text(why), seconds[32];
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    int status = why->status;
    refusal_free(why);
    snprintf(seconds, sizeof seconds, "%.0f", live_retry_after(v->http->live));
    if (r && (status == 429 || status == 503)) MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    if (r && status == 401) MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (r && (status == 503 || v->unclear)) MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    return send_response(v, status, r, "application/json");
}

static enum MHD_Result send_error(Visit *v, int status, const char *message) {
    Refusal why = {0};
    refusal_set(&why, status, NULL, "%s", message);
    return send_refusal(v, &why);
}

// ---- a call ----------------------------------------------------------------------------------------
static int socket_of(const Visit *v) {
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(v->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

// Waiting for the engine is not the client's silence: its clock stands still meanwhile.
static void hold_idle_clock(const Visit *v, bool hold) {
    unsigned seconds = hold ? 0 : (unsigned)ceil(v->http->o.idle);
    MHD_set_connection_option(v->connection, MHD_CONNECTION_OPTION_TIMEOUT, seconds);
}

static void check_time(Visit *v) {
    Call *c = v->reply->call;
    if (v->http->o.timeout == 0 || seconds_now() - v->start < v->http->o.timeout) return;
    for (size_t i = 0; i < c->answers; i++) live_stop(v->http->live, &c->answer[i], WHY_TIMEOUT);
}

// A moment of it; false: nobody waits for the answer any more.
static bool wait_a_moment(Visit *v) {
    hold_idle_clock(v, true);
    live_wait(v->http->live, v->reply->call, LOOK);
    hold_idle_clock(v, false);
    check_time(v);
    return !socket_is_gone(socket_of(v));
}

static void leave_call(Visit *v, Why why) {
    if (!v->reply) return;
    Call *c = v->reply->call;
    reply_free(v->reply);
    v->reply = NULL;
    live_leave(v->http->live, c, why);
}

static enum MHD_Result answer_whole(Visit *v) {
    Refusal why = {0};
    while (!reply_listen(v->reply))
        if (!wait_a_moment(v)) return MHD_NO;
    char *text = reply_whole(v->reply, &why);
    leave_call(v, WHY_GONE);
    return text ? send_json(v, text) : send_refusal(v, &why);
}

// The rest of a chunk, to a client who takes its time, but not more of it than --idle for anything at all.
static bool send_rest(const Visit *v, const Stream *x) {
    int wait = v->http->o.idle > 0 ? (int)fmin(1e9, ceil(1e3 * v->http->o.idle)) : -1;
    for (size_t sent = x->sent; sent < x->bytes;) {
        struct pollfd p = {.fd = x->socket, .events = POLLOUT};
        if (poll(&p, 1, wait) <= 0) return false;
        ssize_t n = send(x->socket, x->text + sent, x->bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
        sent += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// The headers are out and libmicrohttpd waits here for a first chunk: until there is one that it has to send, those of
// the stream's thread go to the socket past it. False: nobody listens any more.
static bool send_as_they_come(Visit *v) {
    double limit = v->http->o.timeout;
    Stream x = {.socket = socket_of(v), .reply = v->reply, .until = limit > 0 ? v->start + limit : 0};
    hold_idle_clock(v, true);
    streams_send(v->http->streams, &x);
    bool there = x.state == STREAM_ENDS || (x.state == STREAM_SLOW && send_rest(v, &x));
    hold_idle_clock(v, false);
    if (there && x.state == STREAM_ENDS) v->pending = x.text, v->length = x.bytes, v->given = 0;
    else free(x.text);
    return there;
}

// What libmicrohttpd calls for the next bytes of a stream.
static ssize_t read_stream(void *visit, uint64_t position, char *to, size_t most) {
    Visit *v = visit;
    bool direct = position == 0 && v->chunks && v->http->streams;
    if (direct && !send_as_they_come(v)) return MHD_CONTENT_READER_END_WITH_ERROR;
    while (v->given == v->length) {
        if (v->reply->done) return MHD_CONTENT_READER_END_OF_STREAM;
        free(v->pending);
        v->pending = reply_events(v->reply), v->given = 0;
        v->length = v->pending ? strlen(v->pending) : 0;
        if (!v->pending && !wait_a_moment(v)) return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t n = smaller(most, v->length - v->given);
    memcpy(to, v->pending + v->given, n);
    v->given += n;
    return (ssize_t)n;
}

static enum MHD_Result answer_call(Visit *v, bool chat) {
    Refusal why = {0};
    v->reply = reply_read(v->http->speaker, chat, v->body, v->bytes, &why);
    if (!v->reply) return send_refusal(v, &why);
    v->reply->live = v->http->live;
    switch (live_submit(v->http->live, v->reply->call)) {
    case SUBMIT_FULL: return leave_call(v, WHY_GONE), send_error(v, 429, "the queue is full; try again later");
    case SUBMIT_DRAINING: return leave_call(v, WHY_GONE), send_error(v, 503, "the server is shutting down");
    default: break;
    }
    if (!v->reply->stream) return answer_whole(v);
    return send_response(v, 200, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, CHUNK, read_stream, v, NULL),
                         "text/event-stream");
}

// ---- the other paths -------------------------------------------------------------------------------
static enum MHD_Result get_page(Visit *v) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(sizeof page - 1, (void *)(uintptr_t)page, MHD_RESPMEM_PERSISTENT);
    if (r) MHD_add_response_header(r, "Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; "
                                   "style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'");
    return send_response(v, 200, r, "text/html; charset=utf-8");
}
static enum MHD_Result get_health(Visit *v) {
    if (live_draining(v->http->live)) return send_error(v, 503, "the server is shutting down");
    return send_text(v, 200, xprintf("{\"status\":\"ok\"}"), "application/json");
}
static enum MHD_Result get_models(Visit *v) { return send_json(v, speaker_models(v->http->speaker)); }
static enum MHD_Result get_model(Visit *v) {
    Refusal why = {0};
    char *text = speaker_model(v->http->speaker, v->rest, &why);
    return text ? send_json(v, text) : send_refusal(v, &why);
}
static enum MHD_Result get_info(Visit *v) { return send_json(v, speaker_info(v->http->speaker)); }
static enum MHD_Result get_live(Visit *v) { return send_json(v, live_picture(v->http->live)); }
static enum MHD_Result get_metrics(Visit *v) {
    LiveStats s = live_stats(v->http->live);
    return send_text(v, 200, metrics_text(&s, &v->http->told, v->http->speaker->model), "text/plain; version=0.0.4");
}
static enum MHD_Result post_completion(Visit *v) { return answer_call(v, false); }
static enum MHD_Result post_chat(Visit *v) { return answer_call(v, true); }
static enum MHD_Result post_tokenize(Visit *v) {
    Refusal why = {0};
    char *text = speaker_tokenize(v->http->speaker, v->body, v->bytes, &why);
    return text ? send_json(v, text) : send_refusal(v, &why);
}
static enum MHD_Result post_detokenize(Visit *v) {
    Refusal why = {0};
    char *text = speaker_detokenize(v->http->speaker, v->body, v->bytes, &why);
    return text ? send_json(v, text) : send_refusal(v, &why);
}

static const struct { const char *path, *method; bool open; enum MHD_Result (*answer)(Visit *v); } paths[] = {
    {"/", "GET", true, get_page}, {"/health", "GET", true, get_health}, {"/v1/models", "GET", false, get_models},
    {"/v1/models/", "GET", false, get_model},
    {"/metrics", "GET", false, get_metrics}, {"/live", "GET", false, get_live},
    {"/tokenizer_info", "GET", false, get_info}, {"/tokenize", "POST", false, post_tokenize},
    {"/detokenize", "POST", false, post_detokenize}, {"/v1/completions", "POST", false, post_completion},
    {"/v1/chat/completions", "POST", false, post_chat},
};
enum { PATHS = sizeof paths / sizeof *paths };

// As long for a wrong key as for the right one, wherever they differ.
static bool knows_key(const Visit *v) {
    const char *key = v->http->o.key, *sent;
    static const char bearer[] = "Bearer ";
    if (!*key) return true;
    sent = MHD_lookup_connection_value(v->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!sent || strncasecmp(sent, bearer, strlen(bearer))) return false;
    sent += strlen(bearer);
    size_t n = strlen(sent), m = strlen(key);
    volatile unsigned char other = n != m;
    for (size_t i = 0; i < n; i++) other |= (unsigned char)(sent[i] ^ key[i % m]);
    return !other;
}

// One that ends in a slash has a name behind it.
static bool is_path(const char *known, const char *path) {
    size_t n = strlen(known);
    return !strcmp(known, path) || (n > 1 && known[n - 1] == '/' && !strncmp(known, path, n));
}

static enum MHD_Result answer(Visit *v, const char *path, const char *method) {
    size_t i = 0;
    while (i < PATHS && !is_path(paths[i].path, path)) i++;
    const char *foreign = *v->http->o.key ? NULL : origin_is_foreign(
        MHD_lookup_connection_value(v->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST),
        MHD_lookup_connection_value(v->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ORIGIN), v->http->own);
    if (foreign) return send_error(v, 403, foreign);
    if (i < PATHS && !paths[i].open && !knows_key(v))
        return send_error(v, 401, "\"Authorization: Bearer KEY\" lacks, or its key is not that of --api-key");
    if (i == PATHS)
        return send_error(v, 404, "there is no such path; /v1/completions, /v1/chat/completions, /v1/models, /health, "
                          "/metrics, /tokenize, /detokenize, /tokenizer_info and / are there");
    bool head = !strcmp(method, "HEAD") && !strcmp(paths[i].method, "GET");
    if (!head && strcmp(paths[i].method, method)) {
        char message[64];
        snprintf(message, sizeof message, "this path takes %s", paths[i].method);
        return send_error(v, 405, message);
    }
    v->rest = path + strlen(paths[i].path);
    return paths[i].answer(v);
}

// ---- libmicrohttpd ---------------------------------------------------------------------------------
static Visit *visit_new(Http *h, struct MHD_Connection *connection, bool chunks) {
    Visit *v = xmalloc(sizeof *v);
    *v = (Visit){.http = h, .connection = connection, .start = seconds_now(), .chunks = chunks};
    pthread_mutex_lock(&h->lock);
    h->visits++;
    pthread_mutex_unlock(&h->lock);
    return v;
}

static enum MHD_Result take_body(Visit *v, const char *data, size_t bytes) {
    if (v->bytes + bytes > MOST_BODY) return MHD_NO;        // it did not say beforehand that it is so long
    if (v->http->o.timeout > 0 && seconds_now() - v->start > v->http->o.timeout) return MHD_NO;
    if (v->bytes + bytes > v->room) v->body = xrealloc(v->body, v->room = 2 * (v->bytes + bytes));
    memcpy(v->body + v->bytes, data, bytes);
    v->bytes += bytes;
    return MHD_YES;
}

// Where a body ends must be said once and plainly: else the server and whoever stands before it may see two requests in
// one, and libmicrohttpd would answer both (RFC 9112, section 6.3).
typedef struct { size_t said; bool odd; } Framing;
static enum MHD_Result look_at_header(void *framing, enum MHD_ValueKind kind, const char *name, const char *value) {
    Framing *f = framing;
    bool length = !strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH);
    (void)kind;
    if (!length && strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING)) return MHD_YES;
    f->said++;
    f->odd |= !value || (length ? !*value || value[strspn(value, "0123456789")] : strcasecmp(value, "chunked") != 0);
    return MHD_YES;
}

static enum MHD_Result begin_visit(Visit *v) {
    Framing f = {0};
    MHD_get_connection_values(v->connection, MHD_HEADER_KIND, look_at_header, &f);
    v->unclear = f.said > 1 || f.odd;
    if (v->unclear)
        return send_error(v, 400, "one Content-Length, a number, was expected, or \"Transfer-Encoding: chunked\"");
    const char *length = MHD_lookup_connection_value(v->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (length && strtod(length, NULL) > MOST_BODY) return send_error(v, 413, "a body has 4 MiB at most");
    return MHD_YES;
}

static enum MHD_Result on_request(void *http, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *data, size_t *bytes, void **visit) {
    if (!*visit) return begin_visit(*visit = visit_new(http, connection, !strcmp(version, "HTTP/1.1")));
    if (!*bytes) return answer(*visit, path, method);
    enum MHD_Result taken = take_body(*visit, data, *bytes);
    *bytes = 0;
    return taken;
}

static void on_end(void *http, struct MHD_Connection *connection, void **visit,
                   enum MHD_RequestTerminationCode cause) {
    Http *h = http;
    Visit *v = *visit;
    (void)connection, (void)cause;
    if (!v) return;
    leave_call(v, WHY_GONE);
    free(v->body), free(v->pending), free(v);
    *visit = NULL;
    pthread_mutex_lock(&h->lock);
    h->visits--;
    pthread_mutex_unlock(&h->lock);
}

static void be_quiet(void *nobody, const char *format, va_list arguments) {
    (void)nobody, (void)format, (void)arguments;
}

// ---- listening -------------------------------------------------------------------------------------
static int listen_at(const HttpOptions *o) {
    char port[16];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    snprintf(port, sizeof port, "%zu", o->port);
    int error = getaddrinfo(o->host, port, &hints, &found);
    if (error) usage_error("--host %s: %s; an address of this machine was expected", o->host, gai_strerror(error));
    int s = socket(found->ai_family, SOCK_STREAM, 0), yes = 1;
    if (s >= 0) setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes), fcntl(s, F_SETFD, FD_CLOEXEC);
    if (s < 0 || bind(s, found->ai_addr, found->ai_addrlen) != 0 || listen(s, 1024) != 0)
        fail("cannot listen at port %zu of %s: %s; --port 0 takes a free one", o->port, o->host, strerror(errno));
    freeaddrinfo(found);
    return s;
}

static unsigned port_of(int s) {
    struct sockaddr_storage a;
    socklen_t size = sizeof a;
    char port[16] = "0";
    if (getsockname(s, (struct sockaddr *)&a, &size) == 0)
        getnameinfo((struct sockaddr *)&a, size, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    return (unsigned)atoi(port);
}

// A descriptor for each client, and some for us.
static void check_descriptors(size_t connections) {
    struct rlimit r;
    rlim_t need = (rlim_t)connections + 64;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= need) return;
    r.rlim_cur = need;
    if (r.rlim_cur > r.rlim_max || setrlimit(RLIMIT_NOFILE, &r) != 0)
        usage_error("--connections %zu need %zu open files, and no more than %zu are allowed; lower it, or raise "
                    "ulimit -n", connections, (size_t)need, (size_t)r.rlim_max);
}

static struct MHD_Daemon *start(Http *h, int socket) {
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL | MHD_USE_ITC |
                     MHD_USE_ERROR_LOG;
    sigset_t all, before;            // signals are for the thread that computes
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    h->streams = streams_new(h->live);
    struct MHD_Daemon *d = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, be_quiet, NULL, MHD_OPTION_LISTEN_SOCKET,
        socket, MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->o.connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)ceil(h->o.idle), MHD_OPTION_NOTIFY_COMPLETED, on_end, h, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!d) fail("cannot start a server at port %u of %s: %s", port_of(socket), h->o.host, strerror(errno));
    return d;
}

// Responses that are still on their way have as long as the engine had, but at least a second.
static void wait_for_visits(Http *h) {
    double until = seconds_now() + fmax(1, h->o.grace);
    for (size_t left = 1; left && seconds_now() < until;) {
        nanosleep(&(struct timespec){0, 10000000}, NULL);
        pthread_mutex_lock(&h->lock);
        left = h->visits;
        pthread_mutex_unlock(&h->lock);
    }
}

void http_serve(HttpOptions o, Live *live, LiveOptions told, Speaker *speaker, const volatile sig_atomic_t *stopped) {
    Http h = {.o = o, .told = told, .live = live, .speaker = speaker};
    pthread_mutex_init(&h.lock, NULL);
    check_descriptors(o.connections);
    int socket = listen_at(&o);
    h.own = origin_is_loopback(socket) ? o.host : NULL;
    struct MHD_Daemon *d = start(&h, socket);
    bool six = strchr(o.host, ':') != NULL;
    fprintf(stderr, "listening http://%s%s%s:%u/\n", six ? "[" : "", o.host, six ? "]" : "", port_of(socket));
    live_run(live, stopped);
    wait_for_visits(&h);
    streams_end(h.streams);
    MHD_stop_daemon(d);
    streams_free(h.streams);
    pthread_mutex_destroy(&h.lock);
}
#endif

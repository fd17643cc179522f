// client.c: see client.h.
#include "tests/client.h"
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// ---- the server --------------------------------------------------------------------------------
static pid_t started;        // ended with the test, however that ends

static void end_started(void) {
    if (started > 0) kill(started, SIGKILL);
}
static void on_crash(int number) {
    end_started();
    signal(number, SIG_DFL);
    raise(number);
}

static void pause_for(double seconds) {
    nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)}, NULL);
}

bool server_start(Server *s, const char *flags) {
    const char *beside = train_binary(), *out = test_path("serve.out"), *error = test_path("serve.error");
    remove_file(error);
    signal(SIGPIPE, SIG_IGN);
    s->process = shell_start(xprintf("exec '%.*s/serve' --port 0 %s > '%s' 2> '%s'",
                                     (int)(strrchr(beside, '/') - beside), beside, flags, out, error));
    started = s->process;
    atexit(end_started);
    signal(SIGALRM, on_crash), signal(SIGSEGV, on_crash), signal(SIGABRT, on_crash);
    for (double start = seconds_now(); seconds_now() - start < 120; pause_for(0.02)) {
        char *said = file_exists(error) ? read_whole_file(error, NULL) : xprintf("%s", "");
        const char *at = strstr(said, "listening http://"), *end = at ? strstr(at, "/\n") : NULL;
        if (end) {
            while (end[-1] != ':') end--;
            s->port = atoi(end);
            return true;
        }
        if (waitpid(s->process, NULL, WNOHANG) == s->process) {
            bool missing = strstr(said, "--port needs libmicrohttpd");
            if (missing) printf("absent  libmicrohttpd: not tried\n");
            started = 0;
            CHECK(missing, "the server ended: %s", said);
            return false;
        }
        free(said);
    }
    server_kill(s);
    CHECK(false, "%s: the server does not listen", flags);
    return false;
}

Result server_wait(Server *s) {
    int status;
    waitpid(s->process, &status, 0);
    started = 0;
    int shown = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    char *out = read_whole_file(test_path("serve.out"), NULL), *error = read_whole_file(test_path("serve.error"), NULL);
    return (Result){shown, out, error};
}

Result server_stop(Server *s) {
    kill(s->process, SIGTERM);
    return server_wait(s);
}

void server_kill(Server *s) {
    kill(s->process, SIGKILL);
    server_wait(s);
}

// ---- the client --------------------------------------------------------------------------------
int client_open(const Server *s) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int to = socket(AF_INET, SOCK_STREAM, 0);
    if (to >= 0 && connect(to, (struct sockaddr *)&a, sizeof a) == 0) return to;
    CHECK(false, "cannot connect: %s", strerror(errno));
    if (to >= 0) close(to);
    return -1;
}

bool client_send(int to, const char *text, size_t bytes) {
    while (bytes) {
        ssize_t n = send(to, text, bytes, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        text += n, bytes -= (size_t)n;
    }
    return true;
}

static void send_head(int to, const char *method, const char *path, const char *headers, const char *body) {
    char *text = xprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
                         method, path, headers, strlen(body));
    client_send(to, text, strlen(text));
    client_send(to, body, strlen(body));
    free(text);
}

// {'a': 1} is easier to read in C than {\"a\": 1}.
static char *with_quotes(const char *body) {
    char *text = xprintf("%s", body);
    for (char *c = text; !strncmp(body, "{'", 2) && *c; c++)
        if (*c == '\'') *c = '"';
    return text;
}

void client_post(int to, const char *path, const char *body) {
    send_head(to, "POST", path, "Content-Type: application/json\r\n", with_quotes(body));
}

// Takes the chunks apart, in place; whether the last one was there.
static bool join_chunks(char *body) {
    char *to = body, *from = body, *end = body + strlen(body);
    for (;;) {
        char *line = strstr(from, "\r\n");
        size_t n = line ? strtoul(from, NULL, 16) : 0;
        if (!line || !n || line + 2 + n > end) {
            *to = 0;
            return line && !n;
        }
        memmove(to, line + 2, n);
        to += n, from = line + 2 + n + 2;
    }
}

static Response take_apart(char *text, size_t bytes) {
    char *gap = strstr(text, "\r\n\r\n");
    Response r = {0};
    if (!gap || sscanf(text, "HTTP/1.1 %d", &r.status) != 1) return (Response){0, text, text + bytes, false};
    gap[2] = 0;
    r.head = text, r.body = gap + 4;
    const char *length = strstr(text, "Content-Length: ");
    r.whole = length ? strlen(r.body) >= strtoul(length + 16, NULL, 10) : join_chunks(r.body);
    return r;
}

Response client_read(int from, double seconds) {
    size_t bytes = 0, room = 1 << 16;
    char *text = xmalloc(room);
    struct timeval limit = {(time_t)seconds, (int)((seconds - floor(seconds)) * 1e6)};
    setsockopt(from, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    for (ssize_t n; (n = recv(from, text + bytes, room - bytes - 1, 0)) > 0;) {
        bytes += (size_t)n;
        if (room - bytes < 2) text = xrealloc(text, room *= 2);
    }
    text[bytes] = 0;
    close(from);
    return take_apart(text, bytes);
}

Response client_ask(const Server *s, const char *method, const char *path, const char *headers, const char *body) {
    int to = client_open(s);
    if (to < 0) return (Response){0, "", "", false};
    send_head(to, method, path, headers, body);
    return client_read(to, 60);
}

Response ask(const Server *s, const char *path, const char *body) {
    return client_ask(s, "POST", path, "Content-Type: application/json\r\n", with_quotes(body));
}

json_t *json_of(Response r) {
    json_error_t error;
    json_t *j = json_loads(r.body, 0, &error);
    CHECK(j, "%d, no JSON: %s: %s", r.status, error.text, r.body);
    return j ? j : json_object();
}

double metric(const Server *s, const char *name) {
    Response r = client_ask(s, "GET", "/metrics", "", "");
    size_t n = strcspn(name, ",");
    const char *value = strchr(name, '=');
    char *line = value ? xprintf("\n%.*s{model_name=\"run\"%.*s\"%s\"} ", (int)n, name, (int)(value + 1 - name - n),
                                 name + n, value + 1)
                       : xprintf("\n%s{model_name=\"run\"} ", name), *at = strstr(r.body, line);
    double x = at ? strtod(at + strlen(line), NULL) : NAN;
    free(line), free(r.head);
    return x;
}

bool metric_becomes(const Server *s, const char *name, double x, double seconds) {
    for (double start = seconds_now(); seconds_now() - start < seconds; pause_for(0.01))
        if (metric(s, name) == x) return true;
    CHECK(false, "%s is %g, and does not become %g", name, metric(s, name), x);
    return false;
}

// serve.c: what ./serve takes beside the model's own steps, each as a ratio with its goal beside it: the event clock's
// speed, the scheduler, HTTP on this machine, batches at saturation against what the costs of single steps predict, and
// the first token behind a prefix that was found. All of it through ./serve as its users have it.
#include "bench/bench.h"
#include <netinet/in.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    const char *model, *event, *costs, *full, *load;     // flags: of ./train; of ./serve
    size_t running, clients, requests, prompt, answer;            // by HTTP and beside it
    size_t found; double pause;                          // tokens of a prefix; seconds between those who ask for it
} Setting;
static const Setting settings[] = {
    {"--layers 8 --width 512 --heads 8 --attn gqa --kv-heads 4 --vocab 8000", "--requests 10000 --rate 0.5",
     "--budget 128 --running 16 --blocks 512", "--requests 1000 --prompt-length 64 --answer-length 32",
     "--budget 128 --running 8 --blocks 512", 16, 8, 16, 64, 128, 1008, 0.5},
    {"--layers 1 --width 32 --heads 2 --vocab 300", "--requests 200 --rate 0.5", "--budget 16 --running 4 --blocks 24",
     "--requests 8 --prompt-length 9 --answer-length 6", "--budget 16 --running 4 --blocks 24", 4, 2, 4, 8, 8, 64, 0.1},
};

typedef struct { char *programs, *room, *threads; const Setting *with; } Served;

// ---- commands ------------------------------------------------------------------------------------
// Where ./serve and ./train stand: beside this program's directory, or in another build's own.
static char *programs(void) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    for (int cut = 0; n > 0 && cut < 2; n--) cut += self[n - 1] == '/';
    return n > 0 ? xprintf("%.*s", (int)n, self) : xprintf(".");
}

// What it said on stdout and stderr; NULL: it failed.
static char *output_of(const char *command) {
    char *text = NULL, *all = xprintf("%s 2>&1", command);
    size_t bytes, n;
    FILE *to = open_memstream(&text, &bytes), *from = popen(all, "r");
    if (!to || !from) fail("%s: cannot be started", command);
    for (char part[4096]; (n = fread(part, 1, sizeof part, from));) fwrite(part, 1, n, to);
    fclose(to);
    if (pclose(from)) fprintf(stderr, "%s: %s", command, text), text = NULL;
    free(all);
    return text;
}

static double number_after(const char *text, const char *words) {
    const char *at = text ? strstr(text, words) : NULL;
    return at ? strtod(at + strlen(words), NULL) : NAN;
}

static char *serve(const Served *s, const char *flags) {
    char *command = xprintf("'%s/serve' %s %s --records '%s/requests.jsonl'", s->programs, flags, s->threads, s->room);
    char *text = output_of(command);
    free(command);
    return text;
}

static char *of_model(const Served *s, const char *flags) { return xprintf("--run '%s/run' %s", s->room, flags); }

// ---- what is left --------------------------------------------------------------------------------
static const char *section = "serve";
static void report(Bench *b, const char *name, const char *what, Summary x, double goal, bool at_most) {
    printf("%-38s %10.4g ±%.0f%% %10.4g  %s %.3f\n", what, x.median, 100 * spread_of(x), goal,
           at_most ? "of what it may be" : "times the goal", x.median / goal);
    add_result(b, section, json_pack("{s:s, s:o, s:f, s:b}", "what", name, "measured", summary_json(x), "goal", goal,
                                     "at_most", at_most));
}

// ---- the event clock, and full batches -----------------------------------------------------------
static void measure_event_clock(Bench *b, const Served *s) {
    double *rate = xmalloc(b->rounds * sizeof *rate);
    for (size_t r = 0; r < b->rounds; r++) {
        char *text = serve(s, s->with->event), *line = text ? strstr(text, "\nclock    ") : NULL;
        rate[r] = number_after(line, "steps, ");
        free(text);
    }
    report(b, "event clock", "event clock: steps per second", summary(rate, b->rounds), 1e6, false);
    free(rate);
}

// How far off the replay's percentiles are, at most and at the machine's pace, as it has noted in the table.
static double replay_error(const char *table) {
    static const char *const names[] = {"ttft", "tpot", "latency"};
    json_t *root = json_load_file(table, 0, NULL), *value;
    double most = 0;
    size_t k;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        json_array_foreach(json_object_get(json_object_get(root, "replay"), names[i]), k, value)
            most = fmax(most, fabs(json_number_value(value)));
    json_decref(root);
    return most;
}

typedef struct { double share, scheduler, error, rate; } Replayed;
static Replayed replay(const Served *s, const char *table, const char *arrivals) {
    char *flags = of_model(s, xprintf("--clock both --cost '%s' %s %s %s", table, s->with->costs, s->with->full,
                                      arrivals));
    char *text = serve(s, flags), *line = text ? strstr(text, "\n  time ") : NULL;
    double took = number_after(line, "\n  time "), predicted = line ? number_after(line, " s ") : NAN;
    Replayed r = {predicted / took, number_after(text, "\n  scheduler") / number_after(text, "\n  steps  "),
                  replay_error(table), number_after(text, " tokens/s, ")};
    free(flags), free(text);
    return r;
}

static Summary once(double x) { return summary(&x, 1); }

// The table first, then the same requests in both clocks: as many at a time as may run, and at random times, with work
// for seven tenths of the time.
static void measure_full(Bench *b, const Served *s) {
    enum { MOST = 3 };
    char *table = xprintf("%s/cost.json", s->room);
    char *command = xprintf("'%s/serve' --run '%s/run' %s --calibrate '%s' %s", s->programs, s->room, s->with->costs,
                            table, s->threads), *text = output_of(command);
    size_t rounds = b->rounds < MOST ? b->rounds : MOST;
    double share[MOST], scheduler[MOST], error[MOST], rate[MOST];
    const char *held_out = text ? strstr(text, "\nerror  ") : NULL;
    if (!held_out) fail("no table of costs was measured");
    double off = number_after(held_out, "\nerror  ") / 100;
    report(b, "held out", "table of costs: error, held out", once(off), 0.05, true);
    for (size_t r = 0; r < rounds; r++) {
        Replayed x = replay(s, table, xprintf("--arrivals closed --clients %zu", s->with->running));
        share[r] = x.share, scheduler[r] = x.scheduler, error[r] = x.error, rate[r] = x.rate;
    }
    report(b, "replay, saturated", "replay, saturated: largest error", summary(error, rounds), 0.1, true);
    report(b, "replay", "replay, at 0.7 of that: largest error",
           once(replay(s, table, xprintf("--rate %g", 0.7 * summary(rate, rounds).median)).error), 0.1, true);
    report(b, "saturation", "saturation: of what step costs predict", summary(share, rounds), 0.9, false);
    report(b, "scheduler", "scheduler: of the time of steps", summary(scheduler, rounds), 0.02, true);
    free(table), free(command), free(text);
}

// ---- a prefix that is found ------------------------------------------------------------------------
// Requests one after another whose prompts differ in their last token alone: times until the first token, in steps.
static void measure_prefix(Bench *b, const Served *s) {
    enum { ASK = 9 };
    size_t pieces = s->with->found / 16, n = 0;
    char *path = xprintf("%s/trace.jsonl", s->room), *records = xprintf("%s/requests.jsonl", s->room);
    FILE *f = fopen(path, "w");
    if (!f) fail("%s cannot be written", path);
    for (size_t i = 0; i < ASK; i++) {
        fprintf(f, "{\"chat_id\": %zu, \"timestamp\": %g, \"input_length\": %zu, \"output_length\": 12, ", i,
                (double)i * s->with->pause, s->with->found + 1);
        fprintf(f, "\"hash_ids\": [");
        for (size_t k = 0; k < pieces; k++) fprintf(f, "%s%zu", k ? ", " : "", k);
        fprintf(f, "]}\n");
    }
    fclose(f);
    char *flags = of_model(s, xprintf("--trace '%s' --prefix-cache 1 %s", path, s->with->load));
    char *text = serve(s, flags);
    double steps[ASK];
    json_error_t error;
    f = text ? fopen(records, "r") : NULL;
    for (json_t *row; f && n < ASK && (row = json_loadf(f, JSON_DISABLE_EOF_CHECK, &error)); json_decref(row)) {
        double arrival, first, last, hits;
        if (json_unpack(row, "{s:F, s:F, s:F, s:F}", "arrival", &arrival, "first", &first, "last", &last, "hits",
                        &hits))
            break;
        if (hits == (double)s->with->found) steps[n++] = (first - arrival) / ((last - first) / 11);
    }
    if (f) fclose(f);
    char *what = xprintf("%zu tokens found: first token, in steps", s->with->found);
    if (n == ASK - 1) report(b, "prefix", what, summary(steps, n), 1.2, true);
    else printf("%s: only %zu of %d found it\n", what, n, ASK - 1);
    free(path), free(records), free(flags), free(text), free(what);
}

// ---- HTTP ------------------------------------------------------------------------------------------
// asleep: woken once, when its answer is complete.
typedef struct { int port; size_t requests; const char *body; bool asleep, whole; } Client;

static int connect_client(const Client *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int to = socket(AF_INET, SOCK_STREAM, 0), all = 1 << 20;
    if (c->asleep)
        setsockopt(to, SOL_SOCKET, SO_RCVBUF, &all, sizeof all),
            setsockopt(to, SOL_SOCKET, SO_RCVLOWAT, &all, sizeof all);
    if (to >= 0 && connect(to, (struct sockaddr *)&a, sizeof a) == 0) return to;
    close(to);
    return -1;
}

static void *ask(void *owner) {
    Client *c = owner;
    char *request = xprintf("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
                            "%zu\r\n\r\n%s", strlen(c->body), c->body);
    for (size_t i = 0; i < c->requests; i++) {
        int to = connect_client(c);
        char part[8192 + 1];
        ssize_t n = 0, kept = 0;
        bool done = false;
        if (to >= 0 && send(to, request, strlen(request), 0) == (ssize_t)strlen(request))
            while ((n = recv(to, part + kept, (size_t)(8192 - kept), 0)) > 0) {
                part[kept + n] = '\0';
                done |= strstr(part, "data: [DONE]") != NULL;
                kept = kept + n < 16 ? kept + n : 16;            // the mark may come in two parts
                memmove(part, part + strlen(part) - (size_t)kept, (size_t)kept);
            }
        if (to >= 0) close(to);
        c->whole &= done;
    }
    free(request);
    return NULL;
}

// Seconds until all clients have had all their answers; NAN: one did not.
static double seconds_by_http(int port, size_t clients, size_t each, const char *body, bool asleep) {
    enum { MOST = 32 };
    pthread_t thread[MOST];
    Client c[MOST];
    bool whole = true;
    double start = seconds_now();
    for (size_t i = 0; i < clients; i++) {
        c[i] = (Client){port, each, body, asleep, true};
        pthread_create(&thread[i], NULL, ask, &c[i]);
    }
    for (size_t i = 0; i < clients; i++) pthread_join(thread[i], NULL), whole &= c[i].whole;
    return whole ? seconds_now() - start : NAN;
}

typedef struct { pid_t process; int port; } Child;

// Its port, which it says when it listens; 0: it has ended.
static Child server_start(const Served *s, const char *flags) {
    int said[2];
    char *command = xprintf("exec '%s/serve' --port 0 %s %s", s->programs, flags, s->threads);
    if (pipe(said)) fail("no pipe for ./serve");
    Child server = {fork(), 0};
    if (server.process == 0) {
        dup2(said[1], 1), dup2(said[1], 2), close(said[0]);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(said[1]);
    FILE *f = fdopen(said[0], "r");
    for (char line[4096]; f && !server.port && fgets(line, sizeof line, f);) {
        const char *at = strncmp(line, "listening ", 10) ? NULL : strrchr(line, ':');
        if (at) server.port = atoi(at + 1);
        else if (strstr(line, "libmicrohttpd")) printf("absent   libmicrohttpd: HTTP is left out\n");
    }
    free(command);      // the pipe stays open, for the server writes to it when it ends
    return server;
}

static char *body_of(size_t prompt, size_t answer) {
    char *body = NULL;
    size_t bytes;
    FILE *f = open_memstream(&body, &bytes);
    fprintf(f, "{\"max_tokens\": %zu, \"ignore_eos\": true, \"stream\": true, \"prompt\": [", answer);
    for (size_t i = 0; i < prompt; i++) fprintf(f, "%s%zu", i ? ", " : "", i % 200);
    fprintf(f, "]}");
    fclose(f);
    return body;
}

static void server_end(Child server) {
    if (server.port) kill(server.process, SIGTERM);
    waitpid(server.process, NULL, 0);
}

// Beside clients that sleep until their answers are complete, which leaves what the server takes; and beside clients
// who are woken for each token, on the cores that compute.
static void measure_http(Bench *b, const Served *s) {
    const Setting *with = s->with;
    char *body = body_of(with->prompt, with->answer), *flags = of_model(s, with->load);
    size_t each = with->requests / with->clients;
    char *alone = xprintf("%s --arrivals closed --clients %zu --requests %zu --spread 0 --prompt-length %zu "
                          "--answer-length %zu", flags, with->clients, with->requests, with->prompt, with->answer);
    enum { TURNS = 7 };         // short ones: memory that others share is faster or slower from minute to minute
    double reading[TURNS], asleep[TURNS];
    size_t turns = b->effort == TINY ? 2 : TURNS;
    Child server = server_start(s, flags);
    if (server.port) seconds_by_http(server.port, with->clients, each, body, false);
    for (size_t r = 0; server.port && r < turns; r++) {
        double read = seconds_by_http(server.port, with->clients, each, body, false);
        char *text = serve(s, alone);
        double slept = seconds_by_http(server.port, with->clients, each, body, true);
        double time = number_after(text, "\ntime ");
        reading[r] = read / time, asleep[r] = slept / time;
        free(text);
    }
    server_end(server);
    if (server.port) report(b, "http", "HTTP: time, of the time without", summary(asleep, turns), 1.02, true);
    if (server.port)
        report(b, "http, clients here", "and clients on the same cores, woken", summary(reading, turns), 1.02, true);
    free(body), free(flags), free(alone);
}

// ---- what the server's own threads take -------------------------------------------------------------
// By its own count (receipts:..._seconds_total), so that the work of clients on the same cores is not in it: thirty-two
// that read what they are sent, token by token.
static const struct { const char *name, *model; Effort from; size_t clients, prompt, answer; } sized[] = {
    {"51M", "--layers 12 --width 512 --heads 8 --attn gqa --kv-heads 4 --vocab 32000", QUICK, 32, 16, 96},
    {"124M", "--layers 12 --width 768 --heads 12 --ffn-width 2048 --vocab 50257", FULL, 32, 16, 48},
    {"tiny", "--layers 1 --width 32 --heads 2 --vocab 300", TINY, 4, 8, 8},
};
enum { SIZED = sizeof sized / sizeof *sized };
typedef struct { double http, scheduler, steps, tokens; } Taken;

static Taken taken_until_now(int port) {
    enum { ROOM = 1 << 16 };
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char *text = xmalloc(ROOM);
    size_t had = 0;
    int to = connect_client(&(Client){.port = port});
    if (to >= 0 && send(to, request, sizeof request - 1, 0) > 0)
        for (ssize_t n; (n = recv(to, text + had, ROOM - 1 - had, 0)) > 0;) had += (size_t)n;
    if (to >= 0) close(to);
    text[had] = 0;
    Taken t = {number_after(text, "\nreceipts:http_seconds_total{model_name=\"run\"}"),
               number_after(text, "\nreceipts:scheduler_seconds_total{model_name=\"run\"}"),
               number_after(text, "\nreceipts:busy_seconds_total{model_name=\"run\"}"),
               number_after(text, "\nvllm:generation_tokens_total{model_name=\"run\"}")};
    free(text);
    return t;
}

static void measure_threads(Bench *b, const Served *s, size_t i) {
    enum { MOST = 9 };
    double all[MOST], http[MOST], scheduler[MOST];
    size_t clients = sized[i].clients, rounds = b->rounds < MOST ? b->rounds : MOST;
    char *body = body_of(sized[i].prompt, sized[i].answer), *name = xprintf("threads, %s", sized[i].name);
    char *what = xprintf("%s, %zu rows: scheduler and HTTP", sized[i].name, clients);
    char *flags = of_model(s, xprintf("--budget 128 --running %zu --blocks 512", clients));
    Child server = server_start(s, flags);
    if (server.port) seconds_by_http(server.port, clients, 1, body, false);
    for (size_t r = 0; server.port && r < rounds; r++) {
        Taken before = taken_until_now(server.port);
        double whole = seconds_by_http(server.port, clients, 1, body, false);
        Taken after = taken_until_now(server.port);
        double steps = after.steps - before.steps, tokens = after.tokens - before.tokens;
        scheduler[r] = (after.scheduler - before.scheduler) / steps;
        all[r] = isnan(whole) ? NAN : (after.http - before.http) / steps + scheduler[r];
        http[r] = 1e6 * (after.http - before.http) / tokens;
    }
    server_end(server);
    if (server.port) {
        report(b, name, what, summary(all, rounds), 0.02, true);
        printf("  of these the scheduler %.2f%%; HTTP takes %.1f us of a core for a token\n",
               100 * summary(scheduler, rounds).median, summary(http, rounds).median);
    }
    free(body), free(name), free(what), free(flags);
}

// A model of random weights.
static void make_model(const Served *s, const char *flags) {
    char *train = xprintf("'%s/train' %s --data copy --steps 0 --eval-tokens 128 --sample-tokens 0 --context 256 "
                          "--fresh --out '%s/run'", s->programs, flags, s->room), *text = output_of(train);
    if (!text) fail("a model for ./serve was not written");
    free(train), free(text);
}

static Served begin(const Bench *b, char *room) {
    signal(SIGPIPE, SIG_IGN);          // a server that ends is noticed when its answer is missing
    if (!mkdtemp(room)) fail("no directory in /tmp");
    printf("%-38s %10s %15s\n", "", "measured", "goal");
    return (Served){programs(), room, xprintf("--threads %d", b->threads), &settings[b->effort == TINY]};
}

static void end(Served s) {
    char *remove = xprintf("rm -rf '%s'", s.room);
    if (system(remove)) fprintf(stderr, "%s is left over\n", s.room);
    free(remove), free(s.programs), free(s.threads);
}

void bench_serve(Bench *b) {
    section = "serve";
    char room[] = "/tmp/receipts-bench-XXXXXX";
    Served s = begin(b, room);
    make_model(&s, s.with->model);
    measure_event_clock(b, &s), measure_full(b, &s), measure_http(b, &s), measure_prefix(b, &s);
    end(s);
}

void bench_http(Bench *b) {
    section = "http";
    char room[] = "/tmp/receipts-bench-XXXXXX";
    Served s = begin(b, room);
    for (size_t i = 0; i < SIZED; i++)
        if (b->effort == TINY ? sized[i].from == TINY : sized[i].from != TINY && sized[i].from <= b->effort)
            make_model(&s, sized[i].model), measure_threads(b, &s, i);
    end(s);
}

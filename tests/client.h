// client.h: ./serve --port started by a test at a free port, and a client of HTTP made of plain sockets.
#ifndef CLIENT_H
#define CLIENT_H
#include "tests/program.h"
#include <jansson.h>

typedef struct { pid_t process; int port; } Server;
// `flags` beside --port 0. False where it was built without libmicrohttpd: there is nothing to test then.
bool server_start(Server *s, const char *flags);
Result server_wait(Server *s);             // its end, which comes by itself or after a signal
Result server_stop(Server *s);             // SIGTERM, and its end
void server_kill(Server *s);

typedef struct { int status; char *head, *body; bool whole; } Response;     // status 0: none came
int client_open(const Server *s);
bool client_send(int socket, const char *text, size_t bytes);
Response client_read(int socket, double seconds);         // until its end, the connection's, or the time's; closes
void client_post(int socket, const char *path, const char *body);     // likewise, without waiting
Response client_ask(const Server *s, const char *method, const char *path, const char *headers, const char *body);
Response ask(const Server *s, const char *path, const char *body);    // POST; {'a': 1} is sent as {"a": 1}
json_t *json_of(Response r);                               // fails the test if it is none
// As it stands in /metrics, of the model "run"; "NAME,LABEL=VALUE" where there are others; NAN: not there.
double metric(const Server *s, const char *name);
bool metric_becomes(const Server *s, const char *name, double x, double seconds);
#endif

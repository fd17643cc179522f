// http.h: a server of HTTP around a live engine, made of libmicrohttpd: a thread for each client, which reads, turns
// text into tokens and waits; none of them computes. This is the only file that knows sockets.
#ifndef HTTP_H
#define HTTP_H
#include "infer/openai.h"

typedef struct {
    const char *host, *key;            // key: "" if all may ask
    size_t port, connections;          // port: 0 for a free one
    double timeout, idle, grace;       // seconds
} HttpOptions;

bool http_is_there(void);              // whether it was built with libmicrohttpd
// Serves until *stopped is not 0 and the engine has drained; fails if it cannot listen.
void http_serve(HttpOptions o, Live *live, LiveOptions told, Speaker *speaker, const volatile sig_atomic_t *stopped);
#endif

// origin.h: whether a request comes from a web page of somebody else. A browser lets any page send a form to this
// machine, and a name that a page's owner makes point to it (DNS rebinding) even lets the page read what comes back.
#ifndef ORIGIN_H
#define ORIGIN_H
#include <stdbool.h>

// Why it is not answered, or NULL. host, origin: the headers, or NULL where there is none, which no browser leaves out.
// own: --host where this machine alone is heard: other names than that one and localhost are then not ours. NULL:
// others are let in, who may know this machine by any name.
const char *origin_is_foreign(const char *host, const char *origin, const char *own);
bool origin_is_loopback(int socket);        // it listens to this machine alone
#endif

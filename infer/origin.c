// origin.c: see origin.h.
#include "infer/origin.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

// Of a name that may be in brackets and have a port behind it.
static bool is_named(const char *host, const char *name) {
    size_t n = strlen(name), bracket = *host == '[';
    if (strncasecmp(host + bracket, name, n) != 0) return false;
    const char *end = host + bracket + n;
    if (bracket && *end++ != ']') return false;
    return !*end || (*end == ':' && end[1] && !end[1 + strspn(end + 1, "0123456789")]);
}

static bool is_ours(const char *host, const char *own) {
    static const char *const here[] = {"localhost", "127.0.0.1", "::1"};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (is_named(host, here[i])) return true;
    return is_named(host, own);
}

// A page's own calls name the host that it came from.
static bool is_same(const char *origin, const char *host) {
    const char *at = strstr(origin, "://");
    return at && host && !strcasecmp(at + 3, host);
}

const char *origin_is_foreign(const char *host, const char *origin, const char *own) {
    if (own && host && !is_ours(host, own))
        return "Host names another machine than this one, as a web page of somebody else would; ask localhost, or give "
               "--host or --api-key";
    if (origin && !is_same(origin, host))
        return "Origin names a web page of somebody else, which may not ask here without an --api-key";
    return NULL;
}

bool origin_is_loopback(int socket) {
    struct sockaddr_storage a;
    socklen_t size = sizeof a;
    if (getsockname(socket, (struct sockaddr *)&a, &size) != 0) return false;
    if (a.ss_family == AF_INET) return ntohl(((struct sockaddr_in *)&a)->sin_addr.s_addr) >> 24 == 127;
    return a.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&a)->sin6_addr);
}

/* Where a socket is to be bound, as text. */
#ifndef KEEL_ADDRESS_H
#define KEEL_ADDRESS_H

#include <netinet/in.h>
#include <sys/socket.h>

struct endpoint {
    int type; /* SOCK_DGRAM or SOCK_STREAM */
    socklen_t length;
    union {
        struct sockaddr any;
        struct sockaddr_in ipv4;
        struct sockaddr_in6 ipv6;
    } address;
};

/* "udp:127.0.0.11:53", "tcp:[fd00::1]:53". -1: it is not one. */
int parse_endpoint(const char *text, struct endpoint *endpoint);

#endif

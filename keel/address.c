/* Addresses from text, without the C library's resolver. Source: RFC 4291 section 2.2. */
#include "address.h"

#include <string.h>

/* A decimal number of at most `limit`; -1: none, or a larger one. */
static int take_decimal(const char **at, int limit) {
    int value = -1;
    for (; **at >= '0' && **at <= '9'; ++*at) {
        value = (value < 0 ? 0 : value * 10) + (**at - '0');
        if (value > limit)
            return -1;
    }
    return value;
}

static int take_ipv4(const char **at, uint8_t bytes[4]) {
    for (int i = 0; i < 4; i++) {
        int number = take_decimal(at, 255);
        if (number < 0 || (i < 3 && *(*at)++ != '.'))
            return -1;
        bytes[i] = (uint8_t)number;
    }
    return 0;
}

static int hex_digit(char character) {
    if (character >= '0' && character <= '9')
        return character - '0';
    char lower = character | ' ';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* One group of at most four digits; -1: none. */
static int take_group(const char **at) {
    int value = -1;
    for (int digits = 0; digits < 4 && hex_digit(**at) >= 0; digits++, ++*at)
        value = (value < 0 ? 0 : value << 4) | hex_digit(**at);
    return value;
}

/* Groups of hexadecimal digits up to ']', one run of zeros left out as "::". */
static int take_ipv6(const char **at, uint8_t bytes[16]) {
    int groups[8], count = 0, gap = -1;
    if (**at == ':') {
        gap = 0;
        if (*++*at != ':')
            return -1;
        ++*at;
    }
    while (**at != ']') {
        if (count == 8 || (groups[count++] = take_group(at)) < 0)
            return -1;
        if (**at == ']')
            break;
        if (*(*at)++ != ':' || **at == ']')
            return -1;
        if (**at != ':')
            continue;
        if (gap >= 0)
            return -1;
        gap = count;
        ++*at;
    }
    if (gap < 0 ? count != 8 : count == 8)
        return -1;
    memset(bytes, 0, 16);
    for (int i = 0; i < count; i++) {
        int place = gap >= 0 && i >= gap ? 8 - count + i : i;
        bytes[2 * place] = (uint8_t)(groups[i] >> 8);
        bytes[2 * place + 1] = (uint8_t)groups[i];
    }
    ++*at;
    return 0;
}

int parse_endpoint(const char *text, struct endpoint *endpoint) {
    const char *at = text + 4;
    *endpoint = (struct endpoint){0};
    if (strncmp(text, "udp:", 4) == 0)
        endpoint->type = SOCK_DGRAM;
    else if (strncmp(text, "tcp:", 4) == 0)
        endpoint->type = SOCK_STREAM;
    else
        return -1;
    int six = *at == '[';
    at += six;
    uint8_t bytes[16];
    if ((six ? take_ipv6(&at, bytes) : take_ipv4(&at, bytes)) < 0 || *at++ != ':')
        return -1;
    int port = take_decimal(&at, 65535);
    if (port <= 0 || *at)
        return -1;
    if (six) {
        endpoint->length = sizeof endpoint->address.ipv6;
        endpoint->address.ipv6.sin6_family = AF_INET6;
        endpoint->address.ipv6.sin6_port = htons((uint16_t)port);
        memcpy(&endpoint->address.ipv6.sin6_addr, bytes, 16);
    } else {
        endpoint->length = sizeof endpoint->address.ipv4;
        endpoint->address.ipv4.sin_family = AF_INET;
        endpoint->address.ipv4.sin_port = htons((uint16_t)port);
        memcpy(&endpoint->address.ipv4.sin_addr, bytes, 4);
    }
    return 0;
}

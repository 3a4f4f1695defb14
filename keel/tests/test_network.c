/* Addresses from text, and what the kernel answers on a netlink socket. */
#include "../address.h"
#include "../netlink.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

/* From memory of exactly this size, so that the sanitizer sees a byte read too much. */
static int parse(const char *text, struct endpoint *endpoint) {
    char *exact = malloc(strlen(text) + 1);
    CHECK(exact);
    memcpy(exact, text, strlen(text) + 1);
    int result = parse_endpoint(exact, endpoint);
    free(exact);
    return result;
}

static void test_ipv4(void) {
    struct endpoint endpoint;
    CHECK(parse("udp:127.0.0.11:53", &endpoint) == 0);
    CHECK(endpoint.type == SOCK_DGRAM && endpoint.length == sizeof(struct sockaddr_in));
    CHECK(endpoint.address.ipv4.sin_family == AF_INET);
    CHECK(ntohl(endpoint.address.ipv4.sin_addr.s_addr) == 0x7f00000b);
    CHECK(ntohs(endpoint.address.ipv4.sin_port) == 53);
    CHECK(parse("tcp:255.0.10.1:65535", &endpoint) == 0 && endpoint.type == SOCK_STREAM);
}

/* As the C library reads them. */
static void test_ipv6(void) {
    static const char *const addresses[] = {
        "::",      "::1",       "1::",           "fe80::1",          "1:2:3:4:5:6:7:8",
        "1::8",    "ABCD::Ef0", "1:2:3:4:5:6::", "::2:3:4:5:6:7:8",  "1:2::5:6:7:8",
        "0:0:0::", "::ffff:1",  "1:2:3:4:5:6:7::", "fd00:1::ff:fe00:102",
    };
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        struct endpoint endpoint;
        struct in6_addr expected;
        char text[80];
        snprintf(text, sizeof text, "udp:[%s]:1", addresses[i]);
        CHECK(inet_pton(AF_INET6, addresses[i], &expected) == 1);
        CHECK(parse(text, &endpoint) == 0);
        CHECK(endpoint.address.ipv6.sin6_family == AF_INET6);
        CHECK(memcmp(&endpoint.address.ipv6.sin6_addr, &expected, sizeof expected) == 0);
    }
}

static void test_what_is_none(void) {
    static const char *const texts[] = {
        "", "u", "udp", "udp:", "sctp:1.2.3.4:5", "udp:1.2.3:4", "udp:1.2.3.4", "udp:1.2.3.4:",
        "udp:1.2.3.4:0", "udp:1.2.3.4:65536", "udp:1.2.3.4:5x", "udp:1.2.3.256:5", "udp:1..3.4:5",
        "udp:1.2.3.4.5:6", "udp:4294967297.2.3.4:5", "udp:1.2.3.4:18446744073709551669", "udp:[]:1",
        "udp:[:]:1", "udp:[:::]:1", "udp:[1:2:3:4:5:6:7]:1", "udp:[1:2:3:4:5:6:7:8:9]:1",
        "udp:[1::2::3]:1", "udp:[1:2:3:4:5:6:7:8::]:1", "udp:[12345::]:1", "udp:[g::]:1",
        "udp:[::1:]:1", "udp:[::1", "udp:[::1]", "udp:[::1]53", "udp:[1:]:1", "udp:::1:53",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct endpoint endpoint;
        if (parse(texts[i], &endpoint) == 0)
            fprintf(stderr, "%s\n", texts[i]);
        CHECK(parse(texts[i], &endpoint) < 0);
    }
}

/* A real refusal, in the three forms that the kernel has, then cut at every byte. */
static void test_answers(int capped, int words_wanted) {
    static const struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
        struct nlattr attribute;
        char name[4];
    } request = {
        {sizeof request, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 7, 0},
        {.ifi_family = AF_UNSPEC, .ifi_index = -5},
        {8, IFLA_IFNAME},
        "x",
    };
    char answer[512], words[128];
    int error = 0, netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    CHECK(netlink >= 0);
    CHECK(setsockopt(netlink, SOL_NETLINK, NETLINK_CAP_ACK, &capped, sizeof capped) == 0);
    CHECK(setsockopt(netlink, SOL_NETLINK, NETLINK_EXT_ACK, &words_wanted, sizeof capped) == 0);
    CHECK(write(netlink, &request, sizeof request) == (ssize_t)sizeof request);
    ssize_t got = recv(netlink, answer, sizeof answer, 0);
    CHECK(got > 0);
    CHECK(netlink_answer(answer, (size_t)got, 8, &error, words, sizeof words) == 0);
    CHECK(netlink_answer(answer, (size_t)got, 7, &error, words, sizeof words) == 1);
    CHECK(error != 0);
    CHECK(!words[0] == !words_wanted);
    if (words_wanted) { /* cut to the room there is */
        char few[4];
        CHECK(netlink_answer(answer, (size_t)got, 7, &error, few, sizeof few) == 1);
        CHECK(strlen(few) == 3 && strncmp(few, words, 3) == 0);
    }
    for (size_t size = 0; size < (size_t)got; size++) {
        char *exact = malloc(size ? size : 1);
        CHECK(exact);
        memcpy(exact, answer, size);
        CHECK(netlink_answer(exact, size, 7, &error, words, sizeof words) == 0);
        free(exact);
    }
    close(netlink);
}

int main(void) {
    test_ipv4();
    test_ipv6();
    test_what_is_none();
    for (int form = 0; form < 4; form++)
        test_answers(form & 1, form >> 1);
    return 0;
}

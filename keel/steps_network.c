/* The container's links and the engine's sockets inside: the steps of the network namespace.
 *
 * Messages are sent one by one, since the first that the kernel refuses ends the step. The kernel
 * carries a request out before it returns from the write: its answer is there, or never comes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "netlink.h"
#include "syscalls.h"
#include "walk.h"

enum { ANSWER_BYTES = 1024, WORDS_BYTES = 256, BACKLOG = 64 };

static const struct {
    unsigned type;
    const char *name;
} MESSAGES[] = {
    {RTM_NEWLINK, "RTM_NEWLINK"},   {RTM_DELLINK, "RTM_DELLINK"},   {RTM_SETLINK, "RTM_SETLINK"},
    {RTM_NEWADDR, "RTM_NEWADDR"},   {RTM_DELADDR, "RTM_DELADDR"},   {RTM_NEWROUTE, "RTM_NEWROUTE"},
    {RTM_DELROUTE, "RTM_DELROUTE"}, {RTM_NEWNEIGH, "RTM_NEWNEIGH"}, {RTM_NEWRULE, "RTM_NEWRULE"},
};

/* Fill the failure for one message from errno and the kernel's words. */
static int fail_message(struct walk *walk, const struct nlmsghdr *message, uint32_t count,
                        const char *words) {
    char call[48];
    const char *name = NULL;
    for (size_t i = 0; i < sizeof MESSAGES / sizeof *MESSAGES; i++)
        if (MESSAGES[i].type == message->nlmsg_type)
            name = MESSAGES[i].name;
    if (name)
        snprintf(call, sizeof call, "netlink %s", name);
    else
        snprintf(call, sizeof call, "netlink message of type %u", message->nlmsg_type);
    return fail(walk->failure, call, "message %u of %u%s%s", message->nlmsg_seq, count,
                *words ? ": " : "", words);
}

static int exchange(struct walk *walk, int netlink, const struct nlmsghdr *message,
                    uint32_t count) {
    char answer[ANSWER_BYTES], words[WORDS_BYTES];
    int error = 0;
    ssize_t got = write(netlink, message, message->nlmsg_len);
    if (got < 0)
        return fail_message(walk, message, count, "");
    do {
        got = recv(netlink, answer, sizeof answer, MSG_DONTWAIT);
        if (got < 0 && errno != EINTR) {
            errno = errno == EAGAIN ? EPROTO : errno;
            return fail_message(walk, message, count, "it was not acknowledged");
        }
    } while (got < 0 || !netlink_answer(answer, (size_t)got, message->nlmsg_seq, &error, words,
                                        sizeof words));
    errno = error;
    return error ? fail_message(walk, message, count, words) : 0;
}

static int open_netlink(struct walk *walk) {
    int on = 1;
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0)
        return fail(walk->failure, "socket", "NETLINK_ROUTE");
    /* a kernel without them answers at greater length and in fewer words */
    (void)setsockopt(netlink, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    (void)setsockopt(netlink, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    return netlink;
}

/* `batch` is ours to change. Its borders are looked at again: a pid may lie in a length. */
static int send_batch(struct walk *walk, char *batch, size_t size) {
    uint32_t count = netlink_count(batch, size), number = 0;
    SCOPED_FD netlink = open_netlink(walk);
    if (netlink < 0)
        return -1;
    for (size_t at = 0, span; at < size; at += span) {
        struct nlmsghdr *message = (struct nlmsghdr *)(void *)(batch + at);
        if (!(span = netlink_span(batch + at, size - at))) {
            errno = EBADMSG;
            return fail(walk->failure, "netlink", "message %u is cut short", number + 1);
        }
        message->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
        message->nlmsg_seq = ++number;
        message->nlmsg_pid = 0;
        if (exchange(walk, netlink, message, count) < 0)
            return -1;
    }
    return 0;
}

/* The plan itself stays as it is, and aligned the messages are not in it. */
static char *copy_batch(struct walk *walk, const struct blob *messages) {
    char *batch = malloc(messages->length);
    if (batch)
        memcpy(batch, messages->bytes, messages->length);
    else
        fail(walk->failure, "malloc", "%u bytes", messages->length);
    return batch;
}

int step_send_netlink(struct walk *walk, const struct step *step) {
    const struct numbers *offsets = &step->field[1].numbers;
    uint32_t pid = (uint32_t)walk->child;
    SCOPED_MEMORY char *batch = copy_batch(walk, &step->field[0].text);
    if (!batch)
        return -1;
    for (uint32_t i = 0; i < offsets->count; i++)
        memcpy(batch + offsets->items[i], &pid, sizeof pid);
    return send_batch(walk, batch, step->field[0].text.length);
}

/* "ipv6/conf/eth0/accept_ra=0". Init has not left the host's tree: this procfs is the host's, and
 * shows each process the parameters of its own network namespace. */
static int write_setting(struct walk *walk, int parameters, const char *setting) {
    char name[256];
    const char *value = strchr(setting, '=');
    struct open_how how = {
        .flags = O_WRONLY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
    };
    if (!value || (size_t)(value - setting) >= sizeof name) {
        errno = EINVAL;
        return fail(walk->failure, "write", "%s", setting);
    }
    snprintf(name, sizeof name, "%.*s", (int)(value++ - setting), setting);
    SCOPED_FD file = sys_openat2(parameters, name, &how);
    if (file < 0)
        return fail(walk->failure, "openat2", "/proc/sys/net/%s", name);
    if (write(file, value, strlen(value)) < 0)
        return fail(walk->failure, "write", "%s to /proc/sys/net/%s", value, name);
    return 0;
}

static int write_settings(struct walk *walk, const struct list *settings) {
    if (!settings->count)
        return 0;
    SCOPED_FD parameters = open("/proc/sys/net", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parameters < 0)
        return fail(walk->failure, "open", "/proc/sys/net");
    for (uint32_t i = 0; i < settings->count; i++)
        if (write_setting(walk, parameters, settings->items[i]) < 0)
            return -1;
    return 0;
}

/* The parameters first: links that come up heed them at once. */
int step_configure_network(struct walk *walk, const struct step *step) {
    if (write_settings(walk, &step->field[1].list) < 0)
        return -1;
    SCOPED_MEMORY char *batch = copy_batch(walk, &step->field[0].text);
    return batch ? send_batch(walk, batch, step->field[0].text.length) : -1;
}

static int bind_one(struct walk *walk, const char *text) {
    struct endpoint endpoint;
    int on = 1;
    errno = EINVAL;
    if (parse_endpoint(text, &endpoint) < 0)
        return fail(walk->failure, "bind", "%s", text);
    int family = endpoint.address.any.sa_family;
    int fd = socket(family, endpoint.type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(walk->failure, "socket", "%s", text);
    SCOPED_FD made = fd;
    /* one for each family, never one for both */
    if (family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0)
        return fail(walk->failure, "setsockopt", "IPV6_V6ONLY");
    if (bind(fd, &endpoint.address.any, endpoint.length) < 0)
        return fail(walk->failure, "bind", "%s", text);
    if (endpoint.type == SOCK_STREAM && listen(fd, BACKLOG) < 0)
        return fail(walk->failure, "listen", "%s", text);
    made = -1;
    return fd;
}

/* Close-on-exec as every descriptor here: the application never has them, the monitor is sent them
 * with the next baton. */
int step_bind_sockets(struct walk *walk, const struct step *step) {
    const struct list *sockets = &step->field[0].list;
    for (uint32_t i = 0; i < sockets->count; i++) {
        int fd = bind_one(walk, sockets->items[i]);
        if (fd < 0)
            return -1;
        slot_fill(walk, SLOT_SOCKETS + i, fd);
    }
    return 0;
}

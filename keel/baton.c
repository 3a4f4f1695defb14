/* The baton between monitor and init: who acts, and the descriptors the other one lacks. It does
 * not know what is done with them. */
#include "baton.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { MESSAGE_SLOTS = 64 };

struct header {
    uint32_t kind;
    uint32_t value;
    uint32_t slots;
    uint16_t slot[MESSAGE_SLOTS];
};

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * MESSAGE_SLOTS)];
};

void slot_fill(struct walk *walk, unsigned slot, int fd) {
    if (walk->slot[slot] >= 0)
        close(walk->slot[slot]);
    walk->slot[slot] = fd;
    walk->filled[slot] = 1;
}

int slot_get(struct walk *walk, uint64_t slot) {
    int fd = slot < SLOTS ? walk->slot[slot] : -1;
    if (fd >= 0)
        return fd;
    errno = EBADF;
    return fail(walk->failure, "slot", "slot %llu is empty", (unsigned long long)slot);
}

static size_t failure_bytes(const struct failure *failure) {
    return offsetof(struct failure, facts) + strlen(failure->facts) + 1;
}

static void collect(struct walk *walk, struct header *header, int *fds) {
    for (unsigned slot = 0; slot < SLOT_LIMIT && header->slots < MESSAGE_SLOTS; slot++) {
        if (!walk->filled[slot] || walk->slot[slot] < 0)
            continue;
        walk->filled[slot] = 0;
        fds[header->slots] = walk->slot[slot];
        header->slot[header->slots++] = (uint16_t)slot;
    }
}

static int send_one(struct walk *walk, struct header *header, const int *fds, int with_failure) {
    union control control = {0};
    struct iovec parts[2] = {
        {header, sizeof *header},
        {walk->failure, with_failure ? failure_bytes(walk->failure) : 0},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = with_failure ? 2 : 1};
    if (header->slots) {
        size_t bytes = sizeof(int) * header->slots;
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(bytes)};
        memcpy(CMSG_DATA(&control.header), fds, bytes);
    }
    ssize_t sent;
    do
        sent = sendmsg(walk->baton, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

int baton_send(struct walk *walk, enum baton_kind kind, uint32_t value) {
    int fds[MESSAGE_SLOTS];
    struct header header = {.kind = BATON_SLOTS};
    for (;;) {
        header.slots = 0;
        collect(walk, &header, fds);
        if (header.slots < MESSAGE_SLOTS)
            break;
        if (send_one(walk, &header, fds, 0) < 0)
            return -1;
    }
    header.kind = kind;
    header.value = value;
    return send_one(walk, &header, fds, kind == BATON_WARNED || kind == BATON_FAILED);
}

int baton_flush(struct walk *walk) {
    for (unsigned slot = 0; slot < SLOT_LIMIT; slot++)
        if (walk->filled[slot])
            return baton_send(walk, BATON_SLOTS, 0);
    return 0;
}

static int accept_slots(struct walk *walk, const struct header *header, struct msghdr *message) {
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (header->slots == 0)
        return 0;
    if (message->msg_flags & MSG_CTRUNC || !control || header->slots > MESSAGE_SLOTS ||
        control->cmsg_len != CMSG_LEN(sizeof(int) * header->slots)) {
        errno = EMFILE; /* what the kernel cuts descriptors off for */
        return -1;
    }
    int fds[MESSAGE_SLOTS];
    memcpy(fds, CMSG_DATA(control), sizeof(int) * header->slots);
    for (uint32_t i = 0; i < header->slots; i++) {
        slot_fill(walk, header->slot[i], fds[i]);
        walk->filled[header->slot[i]] = 0;
    }
    return 0;
}

int baton_receive(struct walk *walk, enum baton_kind *kind, uint32_t *value) {
    do {
        struct header header;
        union control control;
        struct iovec parts[2] = {{&header, sizeof header}, {walk->failure, sizeof *walk->failure}};
        struct msghdr message = {.msg_iov = parts,
                                 .msg_iovlen = 2,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control};
        ssize_t got;
        /* ECONNRESET, once: the other one ended with a message unread. Its last words follow. */
        do
            got = recvmsg(walk->baton, &message, MSG_CMSG_CLOEXEC);
        while (got < 0 && (errno == EINTR || errno == ECONNRESET));
        if (got < 0)
            return -1;
        if (got < (ssize_t)sizeof header) {
            *kind = BATON_GONE;
            return 0;
        }
        if (accept_slots(walk, &header, &message) < 0)
            return -1;
        *kind = (enum baton_kind)header.kind;
        *value = header.value;
    } while (*kind == BATON_SLOTS);
    return 0;
}

/* The agent of a seccomp filter: connected to while the host's paths are in sight, told of the
 * listener when the filter is loaded. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "syscalls.h"
#include "walk.h"

int step_connect_agent(struct walk *walk, const struct step *step) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct blob *path = &step->field[2].text;
    if (path->length >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return fail(walk->failure, "connect", "%s", path->bytes);
    }
    memcpy(address.sun_path, path->bytes, path->length);
    SCOPED_FD agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (agent < 0 || connect(agent, (const struct sockaddr *)&address, sizeof address) < 0)
        return fail(walk->failure, "connect", "%s", path->bytes);
    int state = state_file(walk, &step->field[3].list, walk->child);
    if (state < 0)
        return -1;
    slot_fill(walk, (unsigned)number_of(step, 1), state);
    slot_fill(walk, (unsigned)number_of(step, 0), agent);
    agent = -1;
    return 0;
}

/* The whole state, and the listener along with its first byte. The filter holds already, so nothing
 * but sendmsg is called before the agent can answer. */
static int send_listener(int agent, int listener, const char *state, size_t size) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS,
                            .cmsg_len = CMSG_LEN(sizeof(int))}};
    memcpy(CMSG_DATA(&control.header), &listener, sizeof listener);
    while (size) {
        struct iovec part = {(void *)(uintptr_t)state, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (listener >= 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof control.bytes;
        }
        ssize_t sent = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return -1;
        if (sent < 0)
            continue;
        listener = -1;
        state += sent;
        size -= (size_t)sent;
    }
    return 0;
}

int agent_prepare(struct walk *walk, const struct step *step, struct agent *agent) {
    struct stat facts;
    agent->socket = slot_get(walk, number_of(step, 2));
    int state = agent->socket < 0 ? -1 : slot_get(walk, number_of(step, 3));
    if (state < 0)
        return -1;
    if (fstat(state, &facts) < 0)
        return fail(walk->failure, "fstat", "the state for the agent");
    agent->size = (size_t)facts.st_size;
    void *state_bytes = mmap(NULL, agent->size, PROT_READ, MAP_SHARED, state, 0);
    if (state_bytes == MAP_FAILED)
        return fail(walk->failure, "mmap", "the state for the agent");
    agent->state = state_bytes;
    return 0;
}

int agent_tell(struct walk *walk, const struct step *step, const struct agent *agent,
               int listener) {
    if (send_listener(agent->socket, listener, agent->state, agent->size) < 0)
        return fail(walk->failure, "sendmsg", "the listener to the seccomp agent");
    /* who holds a listener is waited for: if the agent is gone, calls must not wait for us */
    close(listener);
    slot_fill(walk, (unsigned)number_of(step, 2), -1);
    return 0;
}

/* The control socket: messages from the engine and from its successors, and the answers.
 *
 * One message is one packet (README.md). A peer that sends nonsense is not answered; one that does
 * not read is waited for once, for the last message, and only for a moment: the exit record holds
 * the same facts. */
#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { REQUEST_BYTES = 64, PATIENCE_MS = 2000, BACKLOG = 16, TRIES = 50, PAUSE_MS = 10 };

static const char SOCKET_NAME[] = "monitor.sock";

struct started {
    uint32_t type, pid;
    uint64_t start_time, realtime_ns;
} __attribute__((packed));

struct exited {
    uint32_t type;
    int32_t code, signal;
    uint32_t core_dumped;
    uint64_t realtime_ns, runtime_ns;
} __attribute__((packed));

enum { MAX_PASSED = 1 + MAX_SOCKETS };

/* Whether a send failed because nobody will ever receive it. */
static bool is_gone(int number) {
    return number == EPIPE || number == ECONNRESET || number == ENOTCONN || number == EBADF;
}

/* Send one packet; a full queue is waited for, and a kernel that lacks something just now is asked
 * again: the peer acts on what it hears, and would wait for ever. `passed`: descriptors to pass. */
static int send_packet(int socket, struct iovec *parts, size_t count, const int *passed,
                       size_t passed_count) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * MAX_PASSED)];
    } control = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    if (passed_count) {
        size_t bytes = sizeof(int) * passed_count;
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(bytes);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(&control.header), passed, bytes);
    }
    for (int tries = 0;;) {
        if (sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EAGAIN && errno != EINTR) {
            if (is_gone(errno) || ++tries == TRIES)
                return -1;
            poll(NULL, 0, PAUSE_MS);
            continue;
        }
        struct pollfd room = {.fd = socket, .events = POLLOUT};
        if (poll(&room, 1, PATIENCE_MS) <= 0)
            return -1;
    }
}

/* One message: its words go to `words` (what is missing is 0), its descriptor to `passed` (or -1).
 * Returns the number of bytes, 0 at the end, -1 with errno. */
static ssize_t receive(int socket, uint32_t words[3], int *passed, int flags) {
    unsigned char bytes[REQUEST_BYTES];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        /* LEN, not SPACE: room for exactly one; the kernel discards any other. */
        .msg_controllen = CMSG_LEN(sizeof(int)),
    };
    *passed = -1;
    memset(words, 0, 3 * sizeof words[0]);
    ssize_t length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
    if (length < 0)
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(passed, CMSG_DATA(header), sizeof *passed);
    size_t usable = (size_t)length < 3 * sizeof words[0] ? (size_t)length : 3 * sizeof words[0];
    memcpy(words, bytes, usable);
    return length;
}

/* The terminal's size; before there is a terminal it is kept for later. */
void resize_terminal(struct supervision *sup, uint32_t rows, uint32_t columns) {
    struct winsize size = {
        .ws_row = (unsigned short)(rows > UINT16_MAX ? UINT16_MAX : rows),
        .ws_col = (unsigned short)(columns > UINT16_MAX ? UINT16_MAX : columns),
    };
    sup->rows = rows;
    sup->columns = columns;
    if (sup->terminal && sup->input.file >= 0 && ioctl(sup->input.file, TIOCSWINSZ, &size) < 0)
        complain("resize", errno);
}

static void send_exited(const struct supervision *sup, int socket) {
    struct exited packet = {
        .type = KEEL_EXITED,
        .code = sup->exit.code,
        .signal = sup->exit.signal,
        .core_dumped = sup->exit.core_dumped,
        .realtime_ns = sup->exit.realtime_ns,
        .runtime_ns = sup->exit.runtime_ns,
    };
    struct iovec part = {&packet, sizeof packet};
    (void)send_packet(socket, &part, 1, NULL, 0); /* the record has it too */
}

/* Tell one peer who runs, with a pidfd. One that cannot be told is left: it hears that. */
void send_started(struct supervision *sup, unsigned index) {
    struct started packet = {
        .type = KEEL_STARTED,
        .pid = sup->process.pid,
        .start_time = sup->process.start_time,
        .realtime_ns = sup->process.realtime_ns,
    };
    struct iovec part = {&packet, sizeof packet};
    int passed[MAX_PASSED] = {sup->pidfd};
    size_t count = 1;
    for (unsigned i = 0; i < MAX_SOCKETS; i++)
        if (sup->sockets[i] >= 0)
            passed[count++] = sup->sockets[i];
    if (sup->connections[index].file >= 0 &&
        send_packet(sup->connections[index].file, &part, 1, passed, count) < 0)
        forget(sup, &sup->connections[index]);
}

/* Carry out one message. `passed` is owned. Returns true for GO. */
static bool obey(struct supervision *sup, unsigned index, const uint32_t words[3],
                 ssize_t length, int passed) {
    bool complete = length >= (ssize_t)sizeof words[0];
    switch (complete ? words[0] : 0) {
    case KEEL_GO:
        return true;
    case KEEL_ATTACH:
        if (passed >= 0 && length >= 8) {
            attach_client(sup, passed, words[1]);
            return false;
        }
        break;
    case KEEL_RESIZE:
        if (length >= 12)
            resize_terminal(sup, words[1], words[2]);
        break;
    case KEEL_CLOSE_STDIN:
        end_stdin(sup);
        break;
    case KEEL_INFO:
        if (sup->ended)
            send_exited(sup, sup->connections[index].file);
        else if (sup->process.pid != 0)
            send_started(sup, index);
        break;
    }
    if (passed >= 0)
        close(passed);
    return false;
}

/* Take one message of a peer. False: the peer is gone. */
bool serve_connection(struct supervision *sup, unsigned index) {
    struct watched *connection = &sup->connections[index];
    uint32_t words[3];
    int passed;
    ssize_t length = receive(connection->file, words, &passed, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (length > 0) {
        obey(sup, index, words, length, passed);
        return true;
    }
    forget(sup, connection);
    return false;
}

int control_wait_go(struct monitor *m) {
    for (;;) {
        struct pollfd ready = {.fd = m->control, .events = POLLIN};
        if (poll(&ready, 1, -1) < 0 && errno != EINTR)
            return fail(&m->failure, "poll", "control socket");
        uint32_t words[3];
        int passed;
        ssize_t length = receive(m->control, words, &passed, MSG_DONTWAIT);
        if (length < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (length <= 0) {
            errno = length < 0 ? errno : EPIPE;
            return fail(&m->failure, "recvmsg", "the engine closed the control socket before GO");
        }
        if (obey(m->own, 0, words, length, passed))
            return 0;
    }
}

int control_send_cloned(int control, pid_t pid, int pidfd) {
    uint32_t packet[2] = {KEEL_CLONED, (uint32_t)pid};
    struct iovec part = {packet, sizeof packet};
    return send_packet(control, &part, 1, &pidfd, 1);
}

int control_send_started(int control, const struct monitor *m, const int *passed, size_t count) {
    struct started packet = {
        .type = KEEL_STARTED,
        .pid = (uint32_t)m->child,
        .start_time = m->child_start_time,
        .realtime_ns = m->started_ns,
    };
    struct iovec part = {&packet, sizeof packet};
    return send_packet(control, &part, 1, passed, count);
}

int control_send_exited(int control, const siginfo_t *info) {
    struct exited packet = {.type = KEEL_EXITED, .code = -1, .realtime_ns = realtime_ns()};
    if (info->si_code == CLD_EXITED)
        packet.code = info->si_status;
    else
        packet.signal = info->si_status;
    packet.core_dumped = info->si_code == CLD_DUMPED;
    struct iovec part = {&packet, sizeof packet};
    return send_packet(control, &part, 1, NULL, 0);
}

void control_send_failed(int control, uint32_t type, const struct failure *failure) {
    struct {
        uint32_t type, step, opcode;
        int32_t error;
    } head = {type, failure->step, failure->opcode, failure->error};
    uint32_t call = (uint32_t)strnlen(failure->call, sizeof failure->call);
    uint32_t detail = (uint32_t)strnlen(failure->detail, sizeof failure->detail);
    uint32_t facts = (uint32_t)strnlen(failure->facts, sizeof failure->facts);
    struct iovec parts[] = {
        {&head, sizeof head},
        {&call, sizeof call},
        {(char *)failure->call, call},
        {&detail, sizeof detail},
        {(char *)failure->detail, detail},
        {&facts, sizeof facts},
        {(char *)failure->facts, facts},
    };
    if (control >= 0 && send_packet(control, parts, sizeof parts / sizeof parts[0], NULL, 0) < 0)
        complain(failure->detail, failure->error);
}

void settle_control(int control) {
    char byte;
    shutdown(control, SHUT_RD);
    while (recv(control, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) > 0)
        ; /* descriptors that come along are dropped by the kernel */
}

/* sun_path holds 108 bytes and a run directory may be deeper: go through its descriptor. */
static void socket_address(const struct supervision *sup, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    struct text text = {address->sun_path, address->sun_path + sizeof address->sun_path - 1};
    text_string(&text, "/proc/self/fd/");
    text_u64(&text, (uint64_t)sup->run_directory);
    text_string(&text, "/");
    text_string(&text, SOCKET_NAME);
}

/* A socket file that a killed monitor left may be replaced; one that answers may not. */
static int remove_stale(const struct supervision *sup, const struct sockaddr_un *address) {
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return -1;
    int answers = connect(probe, (const struct sockaddr *)address, sizeof *address) == 0;
    int number = errno;
    close(probe);
    if (!answers && number == ECONNREFUSED)
        return unlinkat(sup->run_directory, SOCKET_NAME, 0);
    errno = EADDRINUSE;
    return -1;
}

/* Bind monitor.sock, mode 0600 from its first moment. Returns 0, or -1 with errno. */
int control_listen(struct supervision *sup) {
    struct sockaddr_un address;
    socket_address(sup, &address);
    const struct sockaddr *name = (const struct sockaddr *)&address;
    int file = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (file < 0)
        return -1;
    if (fchmod(file, 0600) < 0)
        goto failed;
    if (bind(file, name, sizeof address) < 0 &&
        (errno != EADDRINUSE || remove_stale(sup, &address) < 0 ||
         bind(file, name, sizeof address) < 0))
        goto failed;
    if (listen(file, BACKLOG) < 0)
        goto failed;
    sup->listener = (struct watched){file, UNWATCHED};
    return 0;
failed:
    close(file);
    return -1;
}

/* Take one successor in. */
void serve_listener(struct supervision *sup) {
    int file = accept4(sup->listener.file, NULL, NULL, SOCK_CLOEXEC);
    if (file < 0)
        return;
    unsigned index = 1; /* 0 stays the engine's, whose end may mean the child's */
    while (index < MAX_CONNECTIONS && sup->connections[index].file >= 0)
        index++;
    if (index == MAX_CONNECTIONS) {
        close(file);
        return;
    }
    sup->connections[index] = (struct watched){file, UNWATCHED};
    watch(sup, &sup->connections[index], SOURCE_CONNECTION, index, EPOLLIN);
}

/* Tell everyone how it ended, those too who knock at the last moment. */
void tell_exit(struct supervision *sup) {
    int late;
    if (sup->listener.file >= 0)
        unlinkat(sup->run_directory, SOCKET_NAME, 0);
    for (unsigned index = 0; index < MAX_CONNECTIONS; index++)
        if (sup->connections[index].file >= 0)
            send_exited(sup, sup->connections[index].file);
    while (sup->listener.file >= 0 &&
           (late = accept4(sup->listener.file, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        send_exited(sup, late);
        settle_control(late);
        close(late);
    }
    forget(sup, &sup->listener);
}

void close_connections(struct supervision *sup) {
    for (unsigned index = 0; index < MAX_CONNECTIONS; index++) {
        if (sup->connections[index].file < 0)
            continue;
        settle_control(sup->connections[index].file);
        forget(sup, &sup->connections[index]);
    }
}

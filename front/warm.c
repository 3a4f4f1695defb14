/* Connects to the warm process and hands it what makes up a command. Prints nothing. */
#include "warm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* A warm process answers in well under a millisecond; the plain command line takes 50. */
enum { PATIENCE_S = 2, MAX_REQUEST_BYTES = 8 << 20, PASSED_FDS = 5 };

static const char SOCKET_NAME[] = "warm.sock";

struct head {
    char magic[8];
    uint32_t size; /* of what follows */
    uint32_t mask; /* umask */
    uint64_t ignored;
    uint32_t arguments;
    uint32_t variables;
};
_Static_assert(sizeof(struct head) == 32, "the request's head is part of the contract");

/* The address of `directory`/warm.sock; a path too long is reached through a descriptor. */
static int address_of(struct sockaddr_un *address, const char *directory, int *dirfd) {
    size_t size = sizeof address->sun_path;
    int length = snprintf(address->sun_path, size, "%s/%s", directory, SOCKET_NAME);
    if (length >= 0 && (size_t)length < size)
        return 0;
    *dirfd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dirfd < 0)
        return -1;
    snprintf(address->sun_path, size, "/proc/self/fd/%d/%s", *dirfd, SOCKET_NAME);
    return 0;
}

static int connect_to(int sock, const char *directory) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int dirfd = -1;
    int failed = address_of(&address, directory, &dirfd);
    if (!failed)
        failed = connect(sock, (struct sockaddr *)&address, sizeof address);
    if (dirfd >= 0)
        close(dirfd);
    return failed;
}

/* Only a process of our own user may be given our terminal and our environment. */
static int is_our_own(int sock) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

static void set_patience(int sock, time_t seconds) {
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

int dial_warm(const char *run_directory) {
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return -1;
    set_patience(sock, PATIENCE_S);
    if (connect_to(sock, run_directory) == 0 && is_our_own(sock))
        return sock;
    close(sock);
    return -1;
}

/* Bit n-1: signal n is ignored, as under nohup. */
static uint64_t ignored_signals(void) {
    uint64_t ignored = 0;
    struct sigaction action;
    for (int number = 1; number < 32; number++)
        if (sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            ignored |= UINT64_C(1) << (number - 1);
    return ignored;
}

static mode_t current_umask(void) {
    mode_t mask = umask(077);
    umask(mask);
    return mask;
}

/* The size of the strings with their zeros; `count` is how many. */
static size_t measure(char *const *strings, uint32_t *count) {
    size_t size = 0;
    for (*count = 0; strings[*count]; ++*count)
        size += strlen(strings[*count]) + 1;
    return size;
}

static char *append(char *at, char *const *strings) {
    for (; *strings; strings++)
        at = stpcpy(at, *strings) + 1;
    return at;
}

/* The whole request in memory of its own; NULL when it is too large. */
static char *compose(char *const *arguments, char *const *environment, size_t *size) {
    struct head head = {.magic = "ONGGIWM", .mask = current_umask(), .ignored = ignored_signals()};
    size_t body = sizeof ONGGI_VERSION + measure(arguments, &head.arguments) +
                  measure(environment, &head.variables);
    if (body > MAX_REQUEST_BYTES)
        return NULL;
    head.magic[7] = 1;
    head.size = (uint32_t)body;
    *size = sizeof head + body;
    char *request = malloc(*size);
    if (!request)
        return NULL;
    memcpy(request, &head, sizeof head);
    char *at = stpcpy(request + sizeof head, ONGGI_VERSION) + 1;
    append(append(at, arguments), environment);
    return request;
}

static int send_all(int sock, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(sock, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* The descriptors travel with the first byte. */
static int send_request(int sock, const char *data, size_t size, const int *fds) {
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(PASSED_FDS * sizeof(int))];
    } control = {.space = {0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof control.space,
    };
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(PASSED_FDS * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, PASSED_FDS * sizeof(int));
    ssize_t sent = sendmsg(sock, &message, MSG_NOSIGNAL);
    return sent <= 0 ? -1 : send_all(sock, data + sent, size - (size_t)sent);
}

static int send_world(int connection, char *const *arguments, char *const *environment) {
    int failed = -1;
    size_t size;
    char *request = compose(arguments, environment, &size);
    int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (request && here >= 0 && root >= 0) {
        int fds[PASSED_FDS] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, here, root};
        failed = send_request(connection, request, size, fds);
    }
    if (here >= 0)
        close(here);
    if (root >= 0)
        close(root);
    free(request);
    return failed;
}

/* The one descriptor that came along; -1 for none. */
static int received_fd(struct msghdr *message) {
    int fd = -1;
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (control && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS &&
        control->cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(control), sizeof fd);
    return fd;
}

/* The pidfd of the child that took the command; -1 when none did. */
static int receive_taken(int connection) {
    struct answer answer = {0, 0};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = &answer, .iov_len = sizeof answer};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof control.space,
    };
    if (recvmsg(connection, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof answer)
        return -1;
    int fd = received_fd(&message);
    if (fd >= 0 && answer.kind != ANSWER_TAKEN) {
        close(fd);
        return -1;
    }
    return fd;
}

int hand_over(int connection, char *const *arguments, char *const *environment) {
    if (send_world(connection, arguments, environment) < 0)
        return -1;
    return receive_taken(connection);
}

int begin(int connection) {
    if (send_all(connection, "G", 1) < 0)
        return -1;
    set_patience(connection, 0);
    return 0;
}

static void take_passed(struct msghdr *message, struct passed *passed) {
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (!control || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
        return;
    size_t size = control->cmsg_len - CMSG_LEN(0);
    size_t room = sizeof passed->fds - (size_t)passed->count * sizeof(int);
    if (size > room)
        return;
    memcpy(passed->fds + passed->count, CMSG_DATA(control), size);
    passed->count += (int)(size / sizeof(int));
}

int next_answer(int connection, struct answer *answer, struct passed *passed) {
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(MAX_PASSED * sizeof(int))];
    } control;
    char *at = (char *)answer;
    size_t missing = sizeof *answer;
    passed->count = 0;
    while (missing) {
        struct iovec part = {.iov_base = at, .iov_len = missing};
        struct msghdr message = {
            .msg_iov = &part,
            .msg_iovlen = 1,
            .msg_control = control.space,
            .msg_controllen = sizeof control.space,
        };
        ssize_t got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR)
            continue;
        if (got > 0)
            take_passed(&message, passed);
        if (got <= 0) {
            close_passed(passed);
            return -1;
        }
        at += got;
        missing -= (size_t)got;
    }
    return 0;
}

void close_passed(struct passed *passed) {
    while (passed->count)
        close(passed->fds[--passed->count]);
}

void reset_signals(void) {
    sigset_t none;
    struct sigaction plain = {.sa_handler = SIG_DFL};
    for (int number = 1; number < 32; number++)
        sigaction(number, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* supervise() with a real child, and this program as its engine. Built with ASan and UBSan.
 * The walk is stood in for by fork: pipes or a terminal, then /bin/sh. */
#include "../supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno));  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { WAIT_MS = 20000 };

static char run_name[] = "keel-run-XXXXXX";
static int run_directory;

struct task {
    pid_t monitor;
    int control;
};

static pid_t start_child(struct monitor *m, const char *script) {
    int pipes[3][2];
    bool terminal = m->cfg.terminal;
    if (terminal) {
        m->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        CHECK(m->terminal >= 0 && grantpt(m->terminal) == 0 && unlockpt(m->terminal) == 0);
    } else {
        for (int i = 0; i < 3; i++)
            CHECK(pipe2(pipes[i], O_CLOEXEC) == 0);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        setsid();
        int peer = terminal ? ioctl(m->terminal, TIOCGPTPEER, O_RDWR) : -1;
        for (int i = 0; i < 3; i++)
            dup2(terminal ? peer : pipes[i][i == 0 ? 0 : 1], i);
        if (terminal)
            ioctl(0, TIOCSCTTY, 0);
        execl("/bin/sh", "sh", "-c", script, NULL);
        _exit(127);
    }
    if (!terminal) {
        for (int i = 0; i < 3; i++)
            close(pipes[i][i == 0 ? 0 : 1]);
        m->stdin_w = pipes[0][1];
        m->stdout_r = pipes[1][0];
        m->stderr_r = pipes[2][0];
        if (!m->cfg.stdin_open) {
            close(m->stdin_w);
            m->stdin_w = -1;
        }
    }
    return child;
}

static int monitor_main(int control, const struct supervise_config *cfg, const char *script) {
    struct timespec now;
    static struct monitor m;
    signal(SIGPIPE, SIG_IGN);
    m = (struct monitor){.control = control, .cfg = *cfg};
    m.mount_namespace = m.terminal = m.stdin_w = m.stdout_r = m.stderr_r = -1;
    for (unsigned i = 0; i < MAX_SOCKETS; i++)
        m.sockets[i] = -1;
    CHECK(monitor_open(&m) == 0);
    if (control_wait_go(&m) < 0) {
        monitor_close(&m);
        return 3;
    }
    if (strcmp(script, "fail") == 0) {
        monitor_prepare(&m);
        errno = ENOENT;
        fail(&m.failure, "execve", "/nowhere");
        control_send_failed(m.control, KEEL_FAILED, &m.failure);
        monitor_close(&m);
        return 2;
    }
    m.child = start_child(&m, script);
    m.pidfd = (int)syscall(SYS_pidfd_open, m.child, 0);
    CHECK(m.pidfd >= 0);
    m.child_start_time = 42;
    monitor_prepare(&m);
    CHECK(faccessat(run_directory, ".state.tmp", F_OK, 0) == 0);
    CHECK(faccessat(run_directory, "state", F_OK, 0) < 0);
    clock_gettime(CLOCK_REALTIME, &now);
    m.started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    m.started_mono_ns = monotonic_ns();
    return supervise(&m) == 0 ? 0 : 1;
}

static struct task start(struct supervise_config cfg, const char *script) {
    int ends[2];
    cfg.run_dir = cfg.log_dir = run_name;
    cfg.record_name = "exit";
    cfg.log_name = cfg.log_name ? cfg.log_name : "";
    cfg.journal_socket = cfg.journal_socket ? cfg.journal_socket : "";
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    fflush(NULL);
    pid_t monitor = fork();
    CHECK(monitor >= 0);
    if (monitor == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing */
        close(ends[0]);
        exit(monitor_main(ends[1], &cfg, script));
    }
    close(ends[1]);
    return (struct task){monitor, ends[0]};
}

static void tell(int control, uint32_t type, uint32_t first, uint32_t second, size_t length,
                 int passed) {
    uint32_t words[3] = {type, first, second};
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {words, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &passed, sizeof passed);
    }
    CHECK(sendmsg(control, &message, 0) == (ssize_t)length);
}

static void go(const struct task *task) { tell(task->control, KEEL_GO, 0, 0, 4, -1); }

static int attach(int control, uint32_t mask) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    tell(control, KEEL_ATTACH, mask, 0, 8, ends[1]);
    close(ends[1]);
    return ends[0];
}

static ssize_t wait_read(int file, void *into, size_t size) {
    struct pollfd ready = {.fd = file, .events = POLLIN};
    CHECK(poll(&ready, 1, WAIT_MS) == 1);
    return read(file, into, size);
}

static void expect_message(int control, uint32_t type, uint32_t words[8]) {
    memset(words, 0, 8 * sizeof words[0]);
    CHECK(wait_read(control, words, 8 * sizeof words[0]) >= 24);
    CHECK(words[0] == type);
}

/* The exit code as EXITED has it, after STARTED; then the end of the socket and of the monitor. */
static int finish(const struct task *task) {
    uint32_t words[8];
    int status;
    expect_message(task->control, KEEL_EXITED, words);
    CHECK(wait_read(task->control, words + 3, 4) == 0);
    CHECK(waitpid(task->monitor, &status, 0) == task->monitor);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(task->control);
    CHECK(faccessat(run_directory, "monitor.sock", F_OK, 0) < 0);
    CHECK(faccessat(run_directory, "exit", F_OK, 0) == 0);
    unlinkat(run_directory, "exit", 0);
    unlinkat(run_directory, "state", 0);
    return words[2] != 0 ? -(int)words[2] : (int)words[1];
}

static void expect_started(const struct task *task) {
    uint32_t words[8];
    expect_message(task->control, KEEL_STARTED, words);
    CHECK(words[1] > 0 && words[2] == 42);
}

/* All frames until the end of the socket; the bytes of one stream go to `into`. */
static size_t read_frames(int client, int stream, char *into, size_t size) {
    unsigned char header[8];
    size_t total = 0;
    for (;;) {
        CHECK(poll(&(struct pollfd){.fd = client, .events = POLLIN}, 1, WAIT_MS) == 1);
        ssize_t got = recv(client, header, sizeof header, MSG_WAITALL);
        if (got == 0)
            break;
        CHECK(got == 8 && (header[0] == 1 || header[0] == 2) && !header[1] && !header[2]);
        size_t length = (size_t)header[4] << 24 | (size_t)header[5] << 16 |
                        (size_t)header[6] << 8 | header[7];
        static char frame[CHUNK_BYTES];
        CHECK(length > 0 && length <= sizeof frame);
        CHECK(recv(client, frame, length, MSG_WAITALL) == (ssize_t)length);
        if (header[0] == stream) {
            CHECK(total + length < size);
            memcpy(into + total, frame, length);
            total += length;
        }
    }
    close(client);
    into[total] = '\0';
    return total;
}

static char buffer[4 << 20];

static void test_code_and_streams(void) {
    struct task task = start((struct supervise_config){0}, "echo out; echo err >&2; exit 7");
    int out = attach(task.control, 2), err = attach(task.control, 4), both = attach(task.control, 6);
    go(&task);
    expect_started(&task);
    read_frames(out, 1, buffer, sizeof buffer);
    CHECK(strcmp(buffer, "out\n") == 0);
    read_frames(err, 2, buffer, sizeof buffer);
    CHECK(strcmp(buffer, "err\n") == 0);
    read_frames(both, 2, buffer, sizeof buffer);
    CHECK(strcmp(buffer, "err\n") == 0);
    CHECK(finish(&task) == 7);
}

static void test_stdin(void) {
    struct task task = start((struct supervise_config){.stdin_open = 1}, "cat; echo end");
    int client = attach(task.control, 3);
    go(&task);
    expect_started(&task);
    CHECK(write(client, "hello\n", 6) == 6);
    CHECK(shutdown(client, SHUT_WR) == 0);
    read_frames(client, 1, buffer, sizeof buffer);
    CHECK(strcmp(buffer, "hello\nend\n") == 0);
    CHECK(finish(&task) == 0);
}

/* Neither direction moves until the other end takes: 1 MB goes through both, nothing is lost. */
static void test_back_pressure(void) {
    struct task task = start((struct supervise_config){.stdin_open = 1}, "cat");
    int input = attach(task.control, 1), output = attach(task.control, 2);
    go(&task);
    expect_started(&task);
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        close(output);
        for (unsigned i = 0; i < 1 << 18; i++)
            if (write(input, &i, sizeof i) != sizeof i)
                _exit(1);
        _exit(0); /* its end closes the socket: input only, so stdin ends */
    }
    close(input);
    poll(NULL, 0, 50);
    CHECK(read_frames(output, 1, buffer, sizeof buffer) == 1 << 20);
    for (unsigned i = 0; i < 1 << 18; i++)
        CHECK(memcmp(buffer + i * sizeof i, &i, sizeof i) == 0);
    CHECK(waitpid(writer, NULL, 0) == writer);
    CHECK(finish(&task) == 0);
}

/* One client never reads and one vanishes: the container still ends, and nothing waits for them. */
static void test_bad_clients(void) {
    struct task task =
        start((struct supervise_config){0}, "echo x; head -c 200000 /dev/zero; exit 5");
    int stalled = attach(task.control, 2), vanished = attach(task.control, 2);
    int good = attach(task.control, 2);
    go(&task);
    expect_started(&task);
    close(vanished);
    CHECK(read_frames(good, 1, buffer, sizeof buffer) == 200002);
    CHECK(finish(&task) == 5);
    CHECK(read_frames(stalled, 1, buffer, sizeof buffer) == 200002);
}

/* A process left behind holds the pipe: what was written is there, and the wait for more is short. */
static void test_left_behind(void) {
    struct task task = start((struct supervise_config){0}, "sleep 60 & echo $!; exit 0");
    int client = attach(task.control, 2);
    go(&task);
    expect_started(&task);
    read_frames(client, 1, buffer, sizeof buffer);
    CHECK(finish(&task) == 0);
    pid_t left = (pid_t)strtol(buffer, NULL, 10);
    CHECK(left > 1 && kill(left, SIGKILL) == 0);
}

/* A process left behind that never stops writing: its end is not waited for. */
static void test_left_writing(void) {
    struct task task = start((struct supervise_config){0},
                             "(while :; do echo more; sleep 0.01; done) & echo $!; exit 2");
    int client = attach(task.control, 2);
    go(&task);
    expect_started(&task);
    read_frames(client, 1, buffer, sizeof buffer);
    CHECK(finish(&task) == 2);
    pid_t left = (pid_t)strtol(buffer[0] == 'm' ? strchr(buffer, '\n') + 1 : buffer, NULL, 10);
    CHECK(left == 0 || kill(left, SIGKILL) == 0 || errno == ESRCH); /* SIGPIPE may be first */
}

static void test_terminal(void) {
    struct task task = start((struct supervise_config){.terminal = 1},
                             "stty size; read line; stty size; echo got $line; tty >&2");
    int client = attach(task.control, 7);
    tell(task.control, KEEL_RESIZE, 30, 100, 12, -1);
    go(&task);
    expect_started(&task);
    char first[64] = "";
    size_t length = 0;
    while (!memchr(first, '\n', length) && length < sizeof first)
        length += (size_t)wait_read(client, first + length, 1);
    CHECK(memcmp(first + 8, "30 100\r\n", 8) == 0);
    tell(task.control, KEEL_RESIZE, 40, 120, 12, -1);
    CHECK(write(client, "word\r", 5) == 5);
    read_frames(client, 1, buffer, sizeof buffer);
    CHECK(strstr(buffer, "word\r\n")); /* the echo */
    CHECK(strstr(buffer, "40 120\r\n"));
    CHECK(strstr(buffer, "got word\r\n"));
    CHECK(strstr(buffer, "/dev/pts/"));
    CHECK(finish(&task) == 0);
}

static void test_die_with_engine(void) {
    struct task task = start((struct supervise_config){.die_with_engine = 1}, "sleep 60");
    go(&task);
    expect_started(&task);
    close(task.control);
    CHECK(waitpid(task.monitor, NULL, 0) == task.monitor);
    int file = openat(run_directory, "exit", O_RDONLY);
    CHECK(read(file, buffer, 512) > 0 && strstr(buffer, "\"code\":-1,\"signal\":9"));
    close(file);
    unlinkat(run_directory, "exit", 0);
    unlinkat(run_directory, "state", 0);
}

/* The engine goes; a successor finds the socket, is told who runs, and how it ended. */
static void test_successor(void) {
    struct task task = start((struct supervise_config){.stdin_open = 1}, "cat; exit 9");
    go(&task);
    expect_started(&task);
    close(task.control);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/monitor.sock", run_name);
    task.control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(connect(task.control, (struct sockaddr *)&address, sizeof address) == 0);
    struct stat facts;
    CHECK(fstatat(run_directory, "monitor.sock", &facts, 0) == 0);
    CHECK((facts.st_mode & 07777) == 0600);
    tell(task.control, 999, 0, 0, 4, -1); /* unknown: not answered */
    tell(task.control, KEEL_ATTACH, 7, 0, 8, -1); /* without a socket */
    tell(task.control, KEEL_RESIZE, 1, 0, 6, -1); /* too short */
    tell(task.control, KEEL_INFO, 0, 0, 4, -1);
    expect_started(&task);
    tell(task.control, KEEL_CLOSE_STDIN, 0, 0, 4, -1);
    CHECK(finish(&task) == 9);
}

/* Words that the engine says while the monitor ends do not cost it the EXITED. */
static void test_last_words(void) {
    struct task task = start((struct supervise_config){0}, "sleep 60");
    uint32_t words[8];
    go(&task);
    expect_message(task.control, KEEL_STARTED, words);
    CHECK(kill(task.monitor, SIGSTOP) == 0 && kill((pid_t)words[1], SIGKILL) == 0);
    for (int i = 0; i < 64; i++)
        tell(task.control, KEEL_RESIZE, 1, 1, 12, i % 2 ? run_directory : -1);
    CHECK(kill(task.monitor, SIGCONT) == 0);
    CHECK(waitpid(task.monitor, NULL, 0) == task.monitor);
    expect_message(task.control, KEEL_EXITED, words);
    CHECK(words[2] == SIGKILL && wait_read(task.control, words, sizeof words) == 0);
    close(task.control);
    unlinkat(run_directory, "exit", 0);
    unlinkat(run_directory, "state", 0);
}

static void test_before_go(void) {
    int status;
    struct task task = start((struct supervise_config){0}, "exit 0");
    close(task.control);
    CHECK(waitpid(task.monitor, &status, 0) == task.monitor);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    task = start((struct supervise_config){0}, "fail");
    int client = attach(task.control, 2);
    go(&task);
    uint32_t words[8];
    expect_message(task.control, KEEL_FAILED, words);
    CHECK(words[3] == ENOENT && words[4] == 6 && memcmp(words + 5, "execve", 6) == 0);
    CHECK(read_frames(client, 1, buffer, sizeof buffer) == 0);
    CHECK(waitpid(task.monitor, NULL, 0) == task.monitor);
    close(task.control);
    CHECK(faccessat(run_directory, "monitor.sock", F_OK, 0) < 0);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    CHECK(mkdtemp(run_name));
    run_directory = open(run_name, O_RDONLY | O_DIRECTORY);
    CHECK(run_directory >= 0);
    test_code_and_streams();
    test_stdin();
    test_back_pressure();
    test_bad_clients();
    test_left_behind();
    test_left_writing();
    test_terminal();
    test_die_with_engine();
    test_successor();
    test_last_words();
    test_before_go();
    CHECK(rmdir(run_name) == 0);
    puts("supervise: ok");
    return 0;
}

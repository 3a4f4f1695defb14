/* Hands a command to a warm process, or runs the plain command line.
 *
 * A command that a child of the warm process carries out looks like one of this process: signals
 * go on to it, it ends as it ends, and it ends when this process does. No verb is known here.
 */
#include "face.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "warm.h"

static const int FORWARDED[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1,  SIGUSR2, SIGALRM,
                                SIGTERM, SIGCONT, SIGTSTP, SIGWINCH, SIGIO,   SIGPWR};

/* Set before the handlers are. */
static int child_pidfd = -1;

static int signal_child(int number) {
    return (int)syscall(SYS_pidfd_send_signal, child_pidfd, number, NULL, 0);
}

static void forward(int number) {
    int saved = errno;
    signal_child(number); /* a child that has ended needs none */
    errno = saved;
}

static void forward_signals(void) {
    struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < sizeof FORWARDED / sizeof *FORWARDED; i++)
        sigaction(FORWARDED[i], &action, NULL);
}

/* Nothing that is opened later may be taken for a standard stream: a closed one becomes a
 * descriptor that answers EBADF to its use. */
static int keep_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        int made = open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
        if (made < 0)
            return -1;
        if (made != fd) {
            if (dup2(made, fd) < 0)
                return -1;
            close(made);
        }
    }
    return 0;
}

/* Another process cannot be stopped for touching our terminal from the background (it is not its
 * own): such a command runs here, where the kernel sees to it. */
static int in_background(void) {
    pid_t foreground = tcgetpgrp(STDIN_FILENO);
    return foreground > 0 && foreground != getpgrp();
}

/* `onggi load -i <(…)`: another process has our standard streams, but not what else is open. */
static int names_descriptor(char **arguments) {
    for (; *arguments; arguments++)
        if (strstr(*arguments, "/dev/fd/") || strstr(*arguments, "/proc/self/fd/"))
            return 1;
    return 0;
}

static int wants_plain(char **arguments) {
    const char *asked = getenv("ONGGI_NO_WARM");
    if ((asked && *asked) || names_descriptor(arguments))
        return 1;
    return geteuid() != getuid() || getegid() != getgid() || in_background();
}

/* Run the plain command line from the directory that this program is in. Returns on failure. */
static void run_plain(const struct face *face, char **argv) {
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - strlen(face->plain) - 1);
    char *slash = length > 0 ? memrchr(path, '/', (size_t)length) : NULL;
    if (slash) {
        strcpy(slash + 1, face->plain);
        execv(path, argv);
    } else {
        strcpy(path, face->plain);
        execvp(face->plain, argv);
    }
    fprintf(stderr, "%s: cannot run %s: %s — install onggi again\n", face->name, path,
            strerror(errno));
}

/* End as the child did. */
static int die_by(int number) {
    struct rlimit no_core = {0, 0};
    struct sigaction fatal = {.sa_handler = SIG_DFL};
    sigset_t only;
    setrlimit(RLIMIT_CORE, &no_core); /* the child's is the one worth having */
    sigaction(number, &fatal, NULL);
    sigemptyset(&only);
    sigaddset(&only, number);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    raise(number);
    return 128 + number;
}

/* Stop as the child did; when somebody wakes us, it goes on too. */
static void stop_by(int number) {
    struct sigaction stop = {.sa_handler = SIG_DFL};
    struct sigaction before;
    int replaced = number != SIGSTOP && sigaction(number, &stop, &before) == 0;
    raise(number); /* does nothing in an orphaned process group, as for any program */
    if (replaced)
        sigaction(number, &before, NULL);
    signal_child(SIGCONT);
}

static int watch(const struct face *face, int connection) {
    struct answer answer;
    struct passed passed;
    while (next_answer(connection, &answer, &passed) == 0) {
        if (answer.kind == ANSWER_SPAWN && face->serves_spawn)
            face->serves_spawn(&passed);
        close_passed(&passed);
        if (answer.kind == ANSWER_EXITED)
            return answer.value;
        if (answer.kind == ANSWER_KILLED)
            return die_by(answer.value);
        if (answer.kind == ANSWER_STOPPED)
            stop_by(answer.value);
    }
    fprintf(stderr,
            "%s: the process that ran this command is gone, and how it ended is not known — "
            "look at the result; ONGGI_NO_WARM=1 runs commands without it\n",
            face->name);
    return face->lost;
}

int face_main(const struct face *face, int argc, char **argv, char **environment) {
    char directory[PATH_MAX];
    char **arguments = argc > 0 ? argv + 1 : argv;
    if (keep_standard_streams() < 0)
        return face->lost;
    int connection = -1;
    int placed = !wants_plain(arguments) && face->directory(directory, sizeof directory, arguments) == 0;
    if (placed)
        connection = dial_warm(directory);
    if (connection >= 0) {
        child_pidfd = hand_over(connection, arguments, environment);
        if (child_pidfd >= 0 && signal_child(0) == 0) {
            forward_signals();
            if (begin(connection) == 0)
                return watch(face, connection);
        }
        close(connection);
    }
    if (face->variable && placed)
        setenv(face->variable, directory, 1);
    else if (face->variable)
        unsetenv(face->variable);
    run_plain(face, argv);
    return face->lost;
}

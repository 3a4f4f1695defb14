/* RUN_HOST_HOOK, RUN_HOOK: a program of the configuration runs to its end; that it exits with 0 is
 * part of the start. The state comes as its standard input, what it writes is kept for the report. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "syscalls.h"
#include "walk.h"

enum { SAID_BYTES = 640, LOOK_MS = 10, HOOK_UMASK = 022 };

/* What a hook has written, its end if it was much. */
struct said {
    char text[SAID_BYTES + 1];
    size_t length;
};

static int put_text(int file, const char *text) {
    size_t length = strlen(text);
    return write(file, text, length) == (ssize_t)length ? 0 : -1;
}

int state_file(struct walk *walk, const struct list *pieces, pid_t pid) {
    char number[16];
    int file = sys_memfd_create("state", MFD_CLOEXEC);
    if (file < 0)
        return fail(walk->failure, "memfd_create", "the state");
    snprintf(number, sizeof number, "%d", pid);
    int result = 0;
    for (uint32_t i = 0; result == 0 && i < pieces->count; i++) {
        result = i ? put_text(file, number) : 0;
        result = result < 0 ? result : put_text(file, pieces->items[i]);
    }
    if (result == 0 && lseek(file, 0, SEEK_SET) == 0)
        return file;
    fail(walk->failure, "write", "the state");
    close(file);
    return -1;
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Why it could not be executed goes back as an errno, which an execve that succeeds closes. */
static _Noreturn void become_hook(const struct walk *walk, const struct step *step, int state,
                                  int output, int report) {
    const char *directory = text_of(step, 4);
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        sys_set_handler(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    umask(HOOK_UMASK);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && dup2(state, STDIN_FILENO) >= 0 &&
        dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0 &&
        (*directory ? chdir(directory) : fchdir(walk->root)) == 0)
        execve(text_of(step, 1), (char **)step->field[2].list.items,
               (char **)step->field[3].list.items);
    int error = errno;
    _exit(write(report, &error, sizeof error) == sizeof error ? 127 : 126);
}

/* 0 at the end of the output. */
static int listen_to(struct said *said, int output) {
    char piece[256];
    ssize_t got = read(output, piece, sizeof piece);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    if (said->length + (size_t)got > SAID_BYTES) {
        size_t dropped = said->length + (size_t)got - SAID_BYTES;
        memmove(said->text, said->text + dropped, said->length - dropped);
        said->length -= dropped;
    }
    memcpy(said->text + said->length, piece, (size_t)got);
    said->length += (size_t)got;
    return 1;
}

/* Its exit status, or -1 when the time is over. It may leave somebody behind who keeps the output
 * open: its own end is what counts. */
static int await_hook(pid_t hook, int output, uint64_t timeout_ms, struct said *said) {
    struct pollfd watched = {.fd = output, .events = POLLIN};
    uint64_t end = now_ms() + timeout_ms;
    int status = 0;
    for (;;) {
        pid_t ended = waitpid(hook, &status, WNOHANG);
        if (ended == hook || (ended < 0 && errno != EINTR))
            break;
        if (timeout_ms && now_ms() >= end)
            return -1;
        if (poll(&watched, 1, LOOK_MS) > 0 && !listen_to(said, output))
            watched.fd = -1;
    }
    while (watched.fd >= 0 && poll(&watched, 1, 0) > 0 && listen_to(said, output))
        ;
    return status;
}

static int tell_failure(struct walk *walk, const struct step *step, int status, struct said *said) {
    said->text[said->length] = '\0';
    errno = ECANCELED;
    return fail(walk->failure, "hook", "%s hook %s %s %d%s%s", text_of(step, 0), text_of(step, 1),
                WIFEXITED(status) ? "exited with" : "was ended by signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                said->length ? ": " : "", said->text);
}

static int finish_hook(struct walk *walk, const struct step *step, pid_t hook, int output,
                       int report) {
    struct said said = {.length = 0};
    int error = 0;
    if (read(report, &error, sizeof error) == sizeof error) {
        while (waitpid(hook, NULL, 0) < 0 && errno == EINTR)
            ;
        errno = error;
        return fail(walk->failure, "hook", "%s", text_of(step, 1));
    }
    int status = await_hook(hook, output, number_of(step, 5), &said);
    if (status == 0)
        return 0;
    if (status > 0)
        return tell_failure(walk, step, status, &said);
    if (kill(-hook, SIGKILL) < 0)
        kill(hook, SIGKILL);
    while (waitpid(hook, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = ETIMEDOUT;
    return fail(walk->failure, "hook", "%s hook %s ran for more than %llu ms", text_of(step, 0),
                text_of(step, 1), (unsigned long long)number_of(step, 5));
}

static int run_hook(struct walk *walk, const struct step *step, pid_t pid) {
    int output[2];
    int report[2];
    SCOPED_FD state = state_file(walk, &step->field[6].list, pid);
    if (state < 0)
        return -1;
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) < 0)
        return fail(walk->failure, "pipe2", "a hook's output");
    SCOPED_FD output_r = output[0];
    SCOPED_FD output_w = output[1];
    if (pipe2(report, O_CLOEXEC) < 0)
        return fail(walk->failure, "pipe2", "a hook's execve");
    SCOPED_FD report_r = report[0];
    SCOPED_FD report_w = report[1];
    /* the hook's own end blocks, as programs expect */
    if (fcntl(output_w, F_SETFL, 0) < 0)
        return fail(walk->failure, "fcntl", "a hook's output");
    pid_t hook = fork();
    if (hook < 0)
        return fail(walk->failure, "fork", "a hook");
    if (hook == 0)
        become_hook(walk, step, state, output_w, report_w);
    close(report_w);
    close(output_w);
    report_w = output_w = -1;
    return finish_hook(walk, step, hook, output_r, report_r);
}

int step_run_host_hook(struct walk *walk, const struct step *step) {
    return run_hook(walk, step, walk->child);
}

int step_run_hook(struct walk *walk, const struct step *step) {
    return init_root(walk) < 0 ? -1 : run_hook(walk, step, getpid());
}

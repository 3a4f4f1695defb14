/* A program runs to its end; that it exits with 0 is part of the start. A hook of the configuration
 * (RUN_HOST_HOOK, RUN_HOOK), whose standard input is the state; or one of the host's that keel needs.
 * What it writes is kept for the report. */
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

enum { SAID_BYTES = 640, LOOK_MS = 10, PROGRAM_UMASK = 022 };

/* What a program has written, its end if it was much. */
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
static _Noreturn void become(const struct program *program, int output, int report) {
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        sys_set_handler(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    umask(PROGRAM_UMASK);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && dup2(program->input, STDIN_FILENO) >= 0 &&
        dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0 &&
        (*program->directory ? chdir(program->directory) : fchdir(program->root)) == 0)
        execve(program->path, (char **)program->arguments, (char **)program->environment);
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
static int await_end(pid_t child, int output, uint64_t timeout_ms, struct said *said) {
    struct pollfd watched = {.fd = output, .events = POLLIN};
    uint64_t end = now_ms() + timeout_ms;
    int status = 0;
    for (;;) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child || (ended < 0 && errno != EINTR))
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

static int tell_failure(struct walk *walk, const struct program *program, int status,
                        struct said *said) {
    said->text[said->length] = '\0';
    errno = ECANCELED;
    return fail(walk->failure, program->call, "%s%s %s %d%s%s", program->kind, program->path,
                WIFEXITED(status) ? "exited with" : "was ended by signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                said->length ? ": " : "", said->text);
}

static int finish(struct walk *walk, const struct program *program, pid_t child, int output,
                  int report) {
    struct said said = {.length = 0};
    int error = 0;
    if (read(report, &error, sizeof error) == sizeof error) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        errno = error;
        return fail(walk->failure, program->call, "%s", program->path);
    }
    int status = await_end(child, output, program->timeout_ms, &said);
    if (status == 0)
        return 0;
    if (status > 0)
        return tell_failure(walk, program, status, &said);
    if (kill(-child, SIGKILL) < 0)
        kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = ETIMEDOUT;
    return fail(walk->failure, program->call, "%s%s ran for more than %llu ms", program->kind,
                program->path, (unsigned long long)program->timeout_ms);
}

int run_program(struct walk *walk, const struct program *program) {
    int output[2];
    int report[2];
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) < 0)
        return fail(walk->failure, "pipe2", "a program's output");
    SCOPED_FD output_r = output[0];
    SCOPED_FD output_w = output[1];
    if (pipe2(report, O_CLOEXEC) < 0)
        return fail(walk->failure, "pipe2", "a program's execve");
    SCOPED_FD report_r = report[0];
    SCOPED_FD report_w = report[1];
    /* the program's own end blocks, as programs expect */
    if (fcntl(output_w, F_SETFL, 0) < 0)
        return fail(walk->failure, "fcntl", "a program's output");
    pid_t child = fork();
    if (child < 0)
        return fail(walk->failure, "fork", "%s", program->path);
    if (child == 0)
        become(program, output_w, report_w);
    close(report_w);
    close(output_w);
    report_w = output_w = -1;
    return finish(walk, program, child, output_r, report_r);
}

static int run_hook(struct walk *walk, const struct step *step, pid_t pid) {
    char kind[64];
    SCOPED_FD state = state_file(walk, &step->field[6].list, pid);
    if (state < 0)
        return -1;
    snprintf(kind, sizeof kind, "%s hook ", text_of(step, 0));
    const struct program hook = {
        .call = "hook",
        .kind = kind,
        .path = text_of(step, 1),
        .arguments = step->field[2].list.items,
        .environment = step->field[3].list.items,
        .directory = text_of(step, 4),
        .root = walk->root,
        .input = state,
        .timeout_ms = number_of(step, 5),
    };
    return run_program(walk, &hook);
}

int step_run_host_hook(struct walk *walk, const struct step *step) {
    return run_hook(walk, step, walk->child);
}

int step_run_hook(struct walk *walk, const struct step *step) {
    return init_root(walk) < 0 ? -1 : run_hook(walk, step, getpid());
}

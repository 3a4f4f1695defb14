#include "reap.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Signals that are about this process itself, not messages for the container. */
static const int OWN[] = {SIGCHLD, SIGSEGV, SIGBUS, SIGILL,  SIGFPE,
                          SIGTRAP, SIGABRT, SIGSYS, SIGTTIN, SIGTTOU};

void reap_prepare_application(void) {
    sigset_t none;
    sigset_t output;
    setpgid(0, 0);
    /* a background group that takes the terminal is sent SIGTTOU; without a terminal this is ENOTTY
     */
    sigemptyset(&output);
    sigaddset(&output, SIGTTOU);
    sigprocmask(SIG_BLOCK, &output, NULL);
    tcsetpgrp(STDIN_FILENO, getpgrp());
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int exit_code(int status) {
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void reap_ended(pid_t application) {
    int status;
    pid_t ended;
    while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
        if (ended == application)
            _exit(exit_code(status)); /* the kernel ends the rest of the pid namespace */
}

void reap(pid_t application) {
    sigset_t waited;
    siginfo_t info;
    sigfillset(&waited);
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++)
        sigdelset(&waited, OWN[i]);
    sigaddset(&waited, SIGCHLD);
    sigprocmask(SIG_SETMASK, &waited, NULL);
    for (;;) {
        reap_ended(application);
        int number = sigwaitinfo(&waited, &info);
        if (number > 0 && number != SIGCHLD)
            kill(application, number);
        if (number < 0 && errno != EINTR)
            _exit(1);
    }
}

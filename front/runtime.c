/* onggi-runtime: the OCI runtime's command line.
 *
 * What it makes must be its caller's offspring, so the child that carries a command out asks this
 * process to start keel. The warm process belongs to this very program file: another one, or a newer
 * one, has a warm process of its own. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "face.h"
#include "warm.h"

enum {
    EXIT_FAILED = 1,
    PLAN_FD = 3,  /* keel/README.md: plan, control socket, borrowed descriptors */
    LOWEST = 300, /* above all that keel is given */
};

/* Descriptors of ours that the application is to have, or that a path of ours leads to (what a shell
 * writes for <(command)), cannot be handed over. */
static int keeps_descriptors(char *const *arguments) {
    static const char *const ours[] = {"-preserve-fds", "/dev/fd/", "/dev/std", "/proc/self/",
                                       "/proc/thread-self/"};
    const char *listened = getenv("LISTEN_FDS");
    if (listened && *listened)
        return 1;
    for (; *arguments; arguments++)
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (strstr(*arguments, ours[i]))
                return 1;
    return 0;
}

/* What CRIU restores is its own caller's offspring, never keel's: the plain command line's. A
 * container of such a name is slower, and nothing else. */
static int is_for_criu(char *const *arguments) {
    for (; *arguments; arguments++)
        if (strcmp(*arguments, "checkpoint") == 0 || strcmp(*arguments, "restore") == 0)
            return 1;
    return 0;
}

static int warm_directory(char *out, size_t size, char *const *arguments) {
    struct stat self;
    if (geteuid() != 0 || keeps_descriptors(arguments) || is_for_criu(arguments) ||
        stat("/proc/self/exe", &self) < 0)
        return -1;
    int length = snprintf(out, size, "/run/onggi-runtime.warm/%llx-%llx",
                          (unsigned long long)self.st_dev, (unsigned long long)self.st_ino);
    return length >= 0 && (size_t)length < size ? 0 : -1;
}

/* In the child: passed[0] is keel, the others become 3, 4, 5 … Returns on failure. */
static void become_keel(const struct passed *passed) {
    char count[16];
    int held[MAX_PASSED];
    char *const argv[] = {(char *)"keel", (char *)"create", count, NULL};
    char *const environment[] = {NULL};
    snprintf(count, sizeof count, "%d", passed->count - 3);
    for (int i = 0; i < passed->count; i++)
        if ((held[i] = fcntl(passed->fds[i], F_DUPFD_CLOEXEC, LOWEST)) < 0)
            return;
    for (int i = 1; i < passed->count; i++)
        if (dup2(held[i], PLAN_FD + i - 1) < 0)
            return;
    fexecve(held[0], argv, environment);
}

static pid_t started = -1;

/* A failure shows in the child's control socket, which closes. */
static void serve_spawn(const struct passed *passed) {
    if (passed->count < 3 || started >= 0)
        return;
    started = fork();
    if (started != 0)
        return;
    reset_signals();
    become_keel(passed);
    _exit(EXIT_FAILED);
}

int main(int argc, char **argv, char **environment) {
    static const struct face FACE = {
        .name = "onggi-runtime",
        .plain = "onggi-runtime-python",
        .lost = EXIT_FAILED,
        .directory = warm_directory,
        .variable = "ONGGI_RUNTIME_WARM",
        .serves_spawn = serve_spawn,
    };
    int code = face_main(&FACE, argc, argv, environment);
    /* keel ends before the command does, unless something was killed: it must not be left unread */
    while (started > 0 && waitpid(started, NULL, 0) < 0 && errno == EINTR)
        ;
    return code;
}

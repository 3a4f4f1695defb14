/* A container whose caller supervises it: init waits to be started, its creator lets go of it.
 *
 * Promises: from the moment it waits, init needs nobody; whoever reaches its socket may start it, once,
 * and is told if that fails. Until the spawner has put on record who runs, the creator holds on: a
 * spawner that dies first leaves no process. It knows neither records nor hooks. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "baton.h"
#include "explain.h"
#include "syscalls.h"
#include "walk.h"

enum { BACKLOG = 16, SHORTAGE_MS = 10 };

/* What EXECUTE will not find is told by `create` already. A file that is there may still turn out
 * not to be a program. */
static int find_executable(struct walk *walk) {
    const struct list *candidates = &walk->plan->steps[walk->plan->count - 1].field[2].list;
    const char *decisive = candidates->items[0];
    int error = ENOENT;
    for (uint32_t i = 0; i < candidates->count; i++) {
        struct stat facts;
        const char *path = candidates->items[i];
        if (stat(path, &facts) < 0)
            continue;
        if (S_ISREG(facts.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0)
            return 0;
        decisive = error == EACCES ? decisive : path;
        error = EACCES;
    }
    errno = error;
    fail(walk->failure, "execve", "%s", decisive);
    explain_executable(decisive, walk->failure->facts, sizeof walk->failure->facts);
    return -1;
}

/* The kernel drops what a first process of a pid namespace neither handles nor blocks. Whoever asks an
 * init that only waits to end is obeyed, as by runc's; its code is what shells make of the signal. */
static void end_when_asked(int listener) {
    static const int ASKING[] = {SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGTERM};
    sigset_t asking;
    sigset_t before;
    sigemptyset(&asking);
    for (size_t i = 0; i < sizeof ASKING / sizeof *ASKING; i++)
        sigaddset(&asking, ASKING[i]);
    sigprocmask(SIG_BLOCK, &asking, &before);
    SCOPED_FD asked = signalfd(-1, &asking, SFD_CLOEXEC);
    struct pollfd ends[2] = {{.fd = listener, .events = POLLIN}, {.fd = asked, .events = POLLIN}};
    while (asked >= 0 && !ends[0].revents && (poll(ends, 2, -1) > 0 || errno == EINTR)) {
        struct signalfd_siginfo info;
        if (ends[1].revents && read(asked, &info, sizeof info) == sizeof info)
            _exit(128 + (int)info.ssi_signo);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Wait for whoever says GO; a connection that only looks is let go. */
static int wait_for_start(int listener) {
    for (;;) {
        uint32_t word = 0;
        end_when_asked(listener);
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) {
            if (errno != EINTR && errno != ECONNABORTED)
                poll(NULL, 0, SHORTAGE_MS); /* of memory or descriptors: it passes, and who waits, waits */
            continue;
        }
        ssize_t got;
        do
            got = recv(connection, &word, sizeof word, 0);
        while (got < 0 && errno == EINTR);
        if (got == (ssize_t)sizeof word && word == KEEL_GO)
            return connection;
        close(connection);
    }
}

static void let_go(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The slots that steps after this one use: a filter's agent. */
static int is_needed(const struct walk *walk, const struct step *step, unsigned slot) {
    const struct step *end = walk->plan->steps + walk->plan->count;
    for (const struct step *later = step + 1; later < end; later++)
        if (later->opcode == STEP_LOAD_SECCOMP &&
            (number_of(later, 2) == slot || number_of(later, 3) == slot))
            return 1;
    return slot == number_of(step, 0);
}

/* Trees and cgroups of the host are not to stay open while nobody knows for how long. */
static void drop_unneeded(struct walk *walk, const struct step *step) {
    for (unsigned slot = 0; slot < SLOT_LIMIT; slot++)
        if (!is_needed(walk, step, slot))
            let_go(&walk->slot[slot]);
    let_go(&walk->root);
    let_go(&walk->root_place);
    let_go(&walk->empty_tree);
}

int step_hold(struct walk *walk, const struct step *step) {
    if (slot_get(walk, number_of(step, 0)) < 0 || find_executable(walk) < 0 ||
        init_disarm(walk) < 0)
        return -1;
    int listener = slot_get(walk, number_of(step, 0)); /* it may have moved */
    /* who listens is whom a connection names (SO_PEERCRED) */
    if (listen(listener, BACKLOG) < 0)
        return fail(walk->failure, "listen", "the start socket");
    if (baton_send(walk, BATON_HELD, 0) < 0)
        return fail(walk->failure, "sendmsg", "the baton");
    let_go(&walk->baton);
    drop_unneeded(walk, step);
    walk->starter = wait_for_start(listener);
    let_go(&walk->slot[number_of(step, 0)]);
    return 0;
}

/* Descriptors that are still needed make room for the application's, which begin at 3. */
static int move_up(struct walk *walk, int *fd, int lowest) {
    if (*fd < 0 || *fd >= lowest)
        return 0;
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, lowest);
    if (moved < 0)
        return fail(walk->failure, "fcntl", "F_DUPFD_CLOEXEC %d", lowest);
    *fd = moved;
    return 0;
}

int init_place_preserved(struct walk *walk) {
    const struct step *first = &walk->plan->steps[0];
    if (first->opcode != STEP_HAND_OVER)
        return 0;
    const struct numbers *preserved = &first->field[2].numbers;
    int lowest = 3 + (int)preserved->count;
    if (!preserved->count)
        return 0;
    if (move_up(walk, &walk->baton, lowest) < 0 || move_up(walk, &walk->root, lowest) < 0)
        return -1;
    for (unsigned slot = 0; slot < SLOT_LIMIT; slot++)
        if (move_up(walk, &walk->slot[slot], lowest) < 0)
            return -1;
    for (uint32_t i = 0; i < preserved->count; i++) {
        int fd = slot_get(walk, preserved->items[i]);
        if (fd < 0)
            return -1;
        if (dup2(fd, 3 + (int)i) < 0)
            return fail(walk->failure, "dup2", "fd %u", 3 + i);
    }
    return 0;
}

static int put_on_record(struct monitor *m) {
    int passed[2] = {m->pidfd, m->terminal};
    uint32_t word;
    ssize_t got;
    if (control_send_started(m->control, m, passed, m->terminal >= 0 ? 2 : 1) < 0)
        return -1;
    do
        got = recv(m->control, &word, sizeof word, 0);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof word && word == KEEL_GO ? 0 : -1;
}

static siginfo_t wait_for_child(const struct monitor *m) {
    siginfo_t info = {0};
    while (waitid(P_PID, (id_t)m->child, &info, WEXITED | __WALL) < 0 && errno == EINTR)
        ;
    return info;
}

int hand_over(struct monitor *m, int waits) {
    if (put_on_record(m) < 0) {
        sys_pidfd_send_signal(m->pidfd, SIGKILL);
        wait_for_child(m);
        return -1;
    }
    if (!waits)
        return 0;
    if (m->terminal >= 0)
        close(m->terminal); /* the spawner has it, and is to see its end */
    siginfo_t info = wait_for_child(m);
    return control_send_exited(m->control, &info);
}

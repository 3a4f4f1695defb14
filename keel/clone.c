/* CLONE_INTO: init is cloned into its new namespaces and into those that it joins.
 *
 * All new namespaces come from one clone3, so that each is owned by the new user namespace. Joining
 * happens in a stage process, because the monitor must stay outside; the stage clones init with
 * CLONE_PARENT, so that the monitor is init's parent and can wait for it. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "baton.h"
#include "syscalls.h"
#include "walk.h"

enum { MAX_JOINS = 16 };

struct join {
    int fd;
    int owned; /* opened here by path */
    int mask;
    const char *name;
};

static const struct {
    const char *name;
    int flag;
} KINDS[] = {
    {"user", CLONE_NEWUSER},   {"mount", CLONE_NEWNS}, {"mnt", CLONE_NEWNS},
    {"pid", CLONE_NEWPID},     {"uts", CLONE_NEWUTS},  {"ipc", CLONE_NEWIPC},
    {"network", CLONE_NEWNET}, {"net", CLONE_NEWNET},  {"cgroup", CLONE_NEWCGROUP},
    {"time", CLONE_NEWTIME},
};

/* "net:/proc/7/ns/net" → an open join. */
static int open_join(struct walk *walk, const char *text, struct join *join) {
    const char *path = strchr(text, ':');
    for (size_t i = 0; path && i < sizeof KINDS / sizeof *KINDS; i++) {
        size_t length = strlen(KINDS[i].name);
        if ((size_t)(path - text) != length || strncmp(text, KINDS[i].name, length) != 0)
            continue;
        *join = (struct join){open(path + 1, O_RDONLY | O_CLOEXEC), 1, KINDS[i].flag, text};
        return join->fd < 0 ? fail(walk->failure, "open", "namespace %s", text) : 0;
    }
    errno = EINVAL;
    return fail(walk->failure, "setns", "unknown kind of namespace in %s", text);
}

/* Joins in the order of the plan: by path, then by pidfd. Their number, or -1. */
static int open_joins(struct walk *walk, const struct step *step, struct join *joins) {
    const struct list *paths = &step->field[1].list;
    const struct numbers *pidfds = &step->field[2].numbers;
    int count = 0;
    if (paths->count + pidfds->count / 2 > MAX_JOINS) {
        errno = E2BIG;
        return fail(walk->failure, "setns", "more than %d namespaces to join", MAX_JOINS);
    }
    for (uint32_t i = 0; i < paths->count; i++)
        if (open_join(walk, paths->items[i], &joins[count++]) < 0)
            return -1;
    for (uint32_t i = 0; i < pidfds->count; i += 2) {
        int fd = slot_get(walk, pidfds->items[i]);
        if (fd < 0)
            return -1;
        joins[count++] = (struct join){fd, 0, (int)pidfds->items[i + 1], "those of a process"};
    }
    return count;
}

/* Enter those with (`user`) or without a user namespace. What the present credentials do not allow
 * is left for a later pass; `last`: nothing is left. */
static int join_some(struct walk *walk, struct join *joins, int count, int user, int last) {
    for (int i = 0; i < count; i++) {
        if (joins[i].fd < 0 || !(joins[i].mask & CLONE_NEWUSER) != !user)
            continue;
        if (setns(joins[i].fd, joins[i].mask) < 0) {
            if (errno == EPERM && !last)
                continue;
            return fail(walk->failure, "setns", "%s (mask %#x)", joins[i].name,
                        (unsigned)joins[i].mask);
        }
        if (joins[i].owned)
            close(joins[i].fd);
        joins[i].fd = -1;
    }
    return 0;
}

/* Namespaces that the host owns are entered while the host's privileges last, those that belong to
 * the joined user namespace can be entered before or after it. */
static int join_all(struct walk *walk, struct join *joins, int count) {
    if (join_some(walk, joins, count, 0, 0) < 0 || join_some(walk, joins, count, 1, 1) < 0)
        return -1;
    return join_some(walk, joins, count, 0, 1);
}

static pid_t clone_process(struct walk *walk, const struct step *step, uint64_t extra, int cgroup,
                           int *pidfd) {
    struct clone_args arguments = {
        .flags = number_of(step, 0) | CLONE_PIDFD | extra,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        /* with CLONE_PARENT the stage's own exit signal is inherited: SIGCHLD */
        .exit_signal = extra & CLONE_PARENT ? 0u : (uint64_t)SIGCHLD,
    };
    if (cgroup >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (__u64)cgroup;
    }
    pid_t pid = sys_clone3(&arguments);
    if (pid < 0)
        return fail(walk->failure, "clone3", "namespaces %#llx%s",
                    (unsigned long long)number_of(step, 0), cgroup >= 0 ? ", into a cgroup" : "");
    return pid;
}

static int stage_clone(struct walk *walk, const struct step *step, struct join *joins, int count) {
    int user_joined = 0;
    int pidfd = -1;
    for (int i = 0; i < count; i++)
        user_joined |= joins[i].mask & CLONE_NEWUSER;
    if (join_all(walk, joins, count) < 0)
        return -1;
    /* entering a user namespace may have made this process inspectable */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return fail(walk->failure, "prctl", "PR_SET_DUMPABLE");
    pid_t pid = clone_process(walk, step, CLONE_PARENT, -1, &pidfd);
    if (pid == 0)
        init_main(walk, user_joined);
    if (pid < 0)
        return -1;
    slot_fill(walk, SLOT_PIDFD, pidfd);
    return baton_send(walk, BATON_CLONED, (uint32_t)pid) < 0
               ? fail(walk->failure, "sendmsg", "the pidfd of init")
               : 0;
}

/* The stage itself is born in the cgroup, and init in it after: once a user namespace is joined, its
 * caller may no longer touch the host's cgroups; and moving there would wait for a grace period. */
static pid_t clone_stage(struct walk *walk, int cgroup, int *pidfd) {
    struct clone_args arguments = {
        .flags = CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
    };
    if (cgroup >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (__u64)cgroup;
    }
    pid_t stage = sys_clone3(&arguments);
    return stage < 0 ? fail(walk->failure, "clone3", "the stage that joins namespaces") : stage;
}

/* Whether there is a message. A stage that was killed may have left an init, which waits for us and
 * holds the other end of the baton open. */
static int stage_speaks(const struct walk *walk, int stage) {
    struct pollfd ends[2] = {{.fd = walk->baton, .events = POLLIN}, {.fd = stage, .events = POLLIN}};
    while (poll(ends, 2, -1) < 0 && errno == EINTR)
        ;
    return ends[0].revents || poll(ends, 1, 0) > 0; /* it may have spoken before it ended */
}

/* Receive what the stage made. The stage has ended when this returns. */
static int clone_by_stage(struct walk *walk, const struct step *step, struct join *joins, int count,
                          int cgroup, int init_end) {
    enum baton_kind kind = BATON_GONE;
    uint32_t value = 0;
    SCOPED_FD stage_pidfd = -1;
    pid_t stage = clone_stage(walk, cgroup, &stage_pidfd);
    if (stage < 0)
        return -1;
    if (stage == 0) {
        close(walk->baton);
        walk->baton = init_end;
        if (stage_clone(walk, step, joins, count) < 0)
            _exit(baton_send(walk, BATON_FAILED, 0) < 0 ? 2 : 1);
        _exit(0);
    }
    close(init_end);
    int received = stage_speaks(walk, stage_pidfd) ? baton_receive(walk, &kind, &value) : 0;
    if (received < 0 || kind != BATON_CLONED || walk->slot[SLOT_PIDFD] < 0) {
        /* there may be an init (a failure may be its own word, which overtook the stage's): it
         * ends when nobody holds the other end */
        close(walk->baton);
        walk->baton = -1;
        while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
            ;
        if (received == 0 && kind == BATON_FAILED)
            return -1;
        errno = ECHILD;
        return fail(walk->failure, "clone3",
                    "the stage that joins namespaces ended without a word");
    }
    while (waitpid(stage, NULL, 0) < 0 && errno == EINTR)
        ;
    walk->child = (pid_t)value;
    walk->pidfd = walk->slot[SLOT_PIDFD];
    walk->slot[SLOT_PIDFD] = -1;
    return 0;
}

/* /proc/PID/uid_map is root's, and newuidmap refuses, as long as PID is not inspectable. Only who has
 * the host's user namespace can look, and that is the user: init is in no container yet. */
static int stay_inspectable(struct walk *walk, const struct step *step) {
    walk->inspectable = number_of(step, 0) & CLONE_NEWUSER && geteuid() != 0;
    return walk->inspectable && prctl(PR_SET_DUMPABLE, 1) < 0
               ? fail(walk->failure, "prctl", "PR_SET_DUMPABLE")
               : 0;
}

static int clone_directly(struct walk *walk, const struct step *step, int cgroup, int init_end) {
    pid_t pid = stay_inspectable(walk, step) < 0
                    ? -1
                    : clone_process(walk, step, 0, cgroup, &walk->pidfd);
    if (pid == 0) {
        close(walk->baton);
        walk->baton = init_end;
        init_main(walk, 0);
    }
    close(init_end);
    if (pid < 0)
        return -1;
    walk->child = pid;
    if (walk->inspectable && prctl(PR_SET_DUMPABLE, 0) < 0)
        return fail(walk->failure, "prctl", "PR_SET_DUMPABLE");
    return 0;
}

int clone_init(struct walk *walk, const struct step *step) {
    struct join joins[MAX_JOINS];
    int ends[2];
    int cgroup = -1;
    if (step->field[3].integer >= 0 && (cgroup = slot_get(walk, number_of(step, 3))) < 0)
        return -1;
    int count = open_joins(walk, step, joins);
    if (count < 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return fail(walk->failure, "socketpair", "the baton");
    walk->baton = ends[0];
    /* both actors start with the same slots */
    memset(walk->filled, 0, sizeof walk->filled);
    int result = count ? clone_by_stage(walk, step, joins, count, cgroup, ends[1])
                       : clone_directly(walk, step, cgroup, ends[1]);
    for (int i = 0; i < count; i++)
        if (joins[i].owned && joins[i].fd >= 0)
            close(joins[i].fd);
    cgroups_close(walk);
    return result;
}

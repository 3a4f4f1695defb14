/* Init: keel as the cloned child, from the clone to the application's execve.
 *
 * It takes its turns in the walk, becomes root of its user namespace when the maps are written, and
 * does not outlive a monitor that dies before the application runs. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "baton.h"
#include "syscalls.h"
#include "walk.h"

/* Without a mapping for 0 the present ids stay: then what init may do rests on capabilities alone.
 */
static int become_root(struct walk *walk) {
    if ((setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) && errno != EINVAL)
        return fail(walk->failure, "setresuid", "root of the user namespace");
    /* the engine's groups; EPERM: the maps were written with setgroups denied */
    if (setgroups(0, NULL) < 0 && errno != EPERM)
        return fail(walk->failure, "setgroups", "none");
    walk->inspectable = walk->root_due = 0;
    return init_arm(walk);
}

int init_arm(struct walk *walk) {
    if ((!walk->inspectable && prctl(PR_SET_DUMPABLE, 0) < 0) ||
        (walk->armed && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0))
        return fail(walk->failure, "prctl", "dumpable, parent-death signal");
    return 0;
}

int init_disarm(struct walk *walk) {
    char byte;
    if (!walk->armed)
        return 0;
    walk->armed = 0;
    if (baton_flush(walk) < 0)
        return fail(walk->failure, "sendmsg", "descriptors for the monitor");
    if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        return fail(walk->failure, "close_range", "from 3");
    if (init_place_preserved(walk) < 0)
        return -1;
    if (prctl(PR_SET_PDEATHSIG, 0) < 0)
        return fail(walk->failure, "prctl", "PR_SET_PDEATHSIG");
    if (recv(walk->baton, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        errno = EPIPE;
        return fail(walk->failure, "recv", "the monitor is gone");
    }
    return 0;
}

/* Pipes belong to who makes them: made here, root inside may give them to the container's user. */
static int make_pipe(struct walk *walk, int fd, unsigned slot) {
    int ends[2];
    int inside = fd == STDIN_FILENO ? 0 : 1;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return fail(walk->failure, "pipe2", "fd %d", fd);
    slot_fill(walk, slot, ends[!inside]);
    if (dup2(ends[inside], fd) < 0)
        return fail(walk->failure, "dup2", "fd %d", fd);
    close(ends[inside]);
    walk->pipe_ends[fd] = fd;
    return 0;
}

int init_provide_stdio(struct walk *walk) {
    if (walk->stdio_known || walk->terminal_comes)
        return 0;
    walk->stdio_known = 1;
    if (walk->stdin_open && make_pipe(walk, STDIN_FILENO, SLOT_STDIN) < 0)
        return -1;
    if (make_pipe(walk, STDOUT_FILENO, SLOT_STDOUT) < 0)
        return -1;
    return make_pipe(walk, STDERR_FILENO, SLOT_STDERR);
}

int init_root(struct walk *walk) {
    if (walk->root < 0)
        walk->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return walk->root < 0 ? fail(walk->failure, "open", "/") : walk->root;
}

/* What the application must not inherit: ignored signals, a blocked mask, the engine's umask. */
static void reset_process(void) {
    sigset_t none;
    for (int number = 1; number < NSIG; number++)
        sys_set_handler(number, SIG_DFL); /* KILL and STOP refuse */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(0);
    setsid();
}

/* The directory that ATTACH_ROOT names may lie below one that only the host's root can search. */
static int open_root_place(const struct plan *plan) {
    for (uint32_t i = plan->clone_index; i < plan->count; i++)
        if (plan->steps[i].opcode == STEP_ATTACH_ROOT)
            return open(text_of(&plan->steps[i], 1), O_PATH | O_DIRECTORY | O_CLOEXEC);
    return -1;
}

static int maps_written(const struct plan *plan, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++)
        if (plan->steps[i].opcode == STEP_WRITE_ID_MAPS)
            return 1;
    return 0;
}

/* Trees of the host are taken with the ids that came along: root inside may be somebody whom the
 * host's directories do not let pass. */
static int is_root_due(const struct walk *walk, const struct step *step) {
    return walk->root_due && step->opcode != STEP_TAKE_TREE;
}

static int take_turn(struct walk *walk, uint32_t *index) {
    while (is_init_step(&walk->plan->steps[*index])) {
        if (is_root_due(walk, &walk->plan->steps[*index]) && become_root(walk) < 0)
            return -1;
        int result = carry_out(walk, *index);
        if (result < 0)
            return -1;
        if (result > 0 && walk->starter >= 0)
            control_send_failed(walk->starter, KEEL_WARNED, walk->failure);
        else if (result > 0 && baton_send(walk, BATON_WARNED, *index) < 0)
            return -1;
        ++*index;
    }
    return baton_send(walk, BATON_PASS, *index);
}

/* Before anything is allocated: init counts from its first page on. */
static int enter_cgroups(struct walk *walk) {
    for (uint32_t i = 0; i < walk->cgroups; i++)
        if (write(walk->cgroup[i], "0", 1) != 1) {
            walk->failure->step = (uint32_t)(walk->cgroup_step - walk->plan->steps);
            walk->failure->opcode = STEP_JOIN_CGROUPS;
            return fail(walk->failure, "write", "%s", walk->cgroup_step->field[0].list.items[i]);
        }
    cgroups_close(walk);
    return 0;
}

static int live(struct walk *walk, int user_namespace_joined) {
    uint32_t index = walk->plan->clone_index + 1;
    enum baton_kind kind = BATON_GONE;
    walk->armed = 1;
    close(CONTROL_FD); /* its end is to tell that the monitor has ended */
    if (enter_cgroups(walk) < 0 || init_arm(walk) < 0)
        return -1;
    prctl(PR_SET_NAME, "keel:init");
    reset_process();
    walk->root_place = open_root_place(walk->plan);
    if (user_namespace_joined && become_root(walk) < 0)
        return -1;
    for (;;) {
        uint32_t next = index;
        if (baton_receive(walk, &kind, &next) < 0)
            return fail(walk->failure, "recvmsg", "the baton");
        if (kind != BATON_PASS)
            _exit(1); /* the monitor is gone: nobody is left to report to */
        walk->failure->step = index;
        walk->failure->opcode = walk->plan->steps[index].opcode;
        walk->root_due |= maps_written(walk->plan, index, next);
        index = next;
        if (take_turn(walk, &index) < 0)
            return -1;
    }
}

void init_main(struct walk *walk, int user_namespace_joined) {
    walk->failure->step = walk->plan->clone_index;
    walk->failure->opcode = STEP_CLONE_INTO;
    live(walk, user_namespace_joined);
    if (walk->starter >= 0)
        control_send_failed(walk->starter, KEEL_FAILED, walk->failure);
    else
        baton_send(walk, BATON_FAILED, 0);
    _exit(1);
}

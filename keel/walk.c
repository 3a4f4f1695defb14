/* The walk: two actors carry out one list of steps in turns.
 *
 * Promises: steps happen in the order of the plan, exactly one actor acts at a time, and a walk
 * that fails leaves no process. It knows whose step it is, not what a step does. */
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "baton.h"
#include "syscalls.h"

static int (*const CARRY_OUT[STEP_LIMIT])(struct walk *, const struct step *) = {
    [STEP_OPEN_TREE] = step_open_tree,
    [STEP_OPEN_PEER_TREE] = step_open_peer_tree,
    [STEP_MAKE_NODE] = step_make_node,
    [STEP_SET_TIME_OFFSETS] = step_set_time_offsets,
    [STEP_CLONE_INTO] = clone_init,
    [STEP_WRITE_ID_MAPS] = step_write_id_maps,
    [STEP_JOIN_CGROUPS] = step_join_cgroups,
    [STEP_IDMAP_TREE] = step_idmap_tree,
    [STEP_SET_OOM_SCORE] = step_set_oom_score,
    [STEP_SET_RLIMIT] = step_set_rlimit,
    [STEP_SEND_NETLINK] = step_send_netlink,
    [STEP_SET_ROOT_PROPAGATION] = step_set_root_propagation,
    [STEP_JOIN_KEYRING] = step_join_keyring,
    [STEP_UNSHARE_CGROUP] = step_unshare_cgroup,
    [STEP_RAISE_LOOPBACK] = step_raise_loopback,
    [STEP_TAKE_TREE] = step_take_tree,
    [STEP_SET_HOSTNAME] = step_set_hostname,
    [STEP_SET_DOMAINNAME] = step_set_domainname,
    [STEP_MOUNT_OVERLAY] = step_mount_overlay,
    [STEP_ATTACH_ROOT] = step_attach_root,
    [STEP_MOUNT_FILESYSTEM] = step_mount_filesystem,
    [STEP_BIND_TREE] = step_bind_tree,
    [STEP_MAKE_DIRECTORY] = step_make_directory,
    [STEP_MAKE_SYMLINK] = step_make_symlink,
    [STEP_MAKE_DEVICE] = step_make_device,
    [STEP_OPEN_TERMINAL] = step_open_terminal,
    [STEP_PIVOT_ROOT] = step_pivot_root,
    [STEP_WRITE_SYSCTL] = step_write_sysctl,
    [STEP_SET_PATH_READONLY] = step_set_path_readonly,
    [STEP_MASK_PATH] = step_mask_path,
    [STEP_SET_ROOT_READONLY] = step_set_root_readonly,
    [STEP_SET_UMASK] = step_set_umask,
    [STEP_SET_NO_NEW_PRIVILEGES] = step_set_no_new_privileges,
    [STEP_LOAD_SECCOMP] = step_load_seccomp,
    [STEP_BECOME_USER] = step_become_user,
    [STEP_CHANGE_DIRECTORY] = step_change_directory,
    [STEP_EXECUTE] = step_execute,
    [STEP_CONFIGURE_NETWORK] = step_configure_network,
    [STEP_BIND_SOCKETS] = step_bind_sockets,
    [STEP_HOLD] = step_hold,
    [STEP_RUN_HOST_HOOK] = step_run_host_hook,
    [STEP_CONNECT_AGENT] = step_connect_agent,
    [STEP_SET_SCHEDULER] = step_set_scheduler,
    [STEP_SET_CPU_AFFINITY] = step_set_cpu_affinity,
    [STEP_RUN_HOOK] = step_run_hook,
    [STEP_SET_IO_PRIORITY] = step_set_io_priority,
    [STEP_SET_MEMORY_POLICY] = step_set_memory_policy,
    [STEP_SET_PERSONALITY] = step_set_personality,
    [STEP_CHANGE_MOUNT] = step_change_mount,
    [STEP_SET_LABEL] = step_set_label,
};

int is_init_step(const struct step *step) {
    return is_of_init(step->opcode);
}

int carry_out(struct walk *walk, uint32_t index) {
    const struct step *step = &walk->plan->steps[index];
    if (CARRY_OUT[step->opcode](walk, step) == 0)
        return 0;
    walk->failure->step = index;
    walk->failure->opcode = step->opcode;
    return step->optional ? 1 : -1;
}

/* What supervision needs from /proc/PID/stat; `executed`: the process has called execve. */
static int read_stat(int file, uint64_t *start_time, int *executed) {
    enum { FORKED_NOT_EXECUTED = 0x40, FIELD_FLAGS = 9, FIELD_START_TIME = 22 };
    char text[1024];
    ssize_t got = pread(file, text, sizeof text - 1, 0);
    if (got <= 0)
        return -1;
    text[got] = '\0';
    const char *at = strrchr(text, ')'); /* the name may hold anything */
    for (int field = 2; at && field < FIELD_START_TIME; field++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
        if (at && field + 1 == FIELD_FLAGS)
            *executed = !(parse_u64(&at) & FORKED_NOT_EXECUTED);
    }
    if (!at) {
        errno = EBADMSG;
        return -1;
    }
    *start_time = parse_u64(&at);
    return 0;
}

/* What need not wait until the application runs is done while init works. */
static int prepare(struct monitor *m, struct walk *walk) {
    char path[32];
    int executed;
    snprintf(path, sizeof path, "/proc/%d/stat", walk->child);
    walk->stat = open(path, O_RDONLY | O_CLOEXEC);
    if (walk->stat < 0 || read_stat(walk->stat, &m->child_start_time, &executed) < 0)
        return fail(walk->failure, "read", "%s", path);
    m->child = walk->child;
    if (number_of(&walk->plan->steps[walk->plan->clone_index], 0) & CLONE_NEWNS) {
        /* an ordinary user may not: then the kernel unmounts before it tells of the end */
        snprintf(path, sizeof path, "/proc/%d/ns/mnt", walk->child);
        m->mount_namespace = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (m->own)
        monitor_prepare(m);
    return 0;
}

/* Mounts and directories must not live as long as the task. */
static void close_slots(struct walk *walk) {
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (walk->slot[slot] >= 0)
            close(walk->slot[slot]);
        walk->slot[slot] = -1;
    }
}

static int is_last_turn(const struct plan *plan, uint32_t index) {
    while (index < plan->count && is_init_step(&plan->steps[index]))
        index++;
    return index == plan->count;
}

/* Hand the baton over and wait until it comes back. The next index, the number of steps when the
 * application runs, or -1 with the failure filled. */
static int64_t monitor_let_init(struct monitor *m, struct walk *walk, uint32_t index) {
    enum baton_kind kind = BATON_GONE;
    uint32_t value = 0;
    int result = baton_send(walk, BATON_PASS, index);
    if (result < 0 && errno == EPIPE)
        result = 0; /* it has ended, and why is still to be read */
    if (walk->stat < 0 && prepare(m, walk) < 0) {
        walk->failure->step = index;
        walk->failure->opcode = walk->plan->steps[index].opcode;
        return -1;
    }
    if (is_last_turn(walk->plan, index))
        close_slots(walk); /* init has its own */
    while (result == 0 && (result = baton_receive(walk, &kind, &value)) == 0) {
        switch (kind) {
        case BATON_WARNED:
            control_send_failed(m->control, KEEL_WARNED, walk->failure);
            break;
        case BATON_PASS:
            return value;
        case BATON_FAILED:
            return -1;
        case BATON_HELD:
            walk->held = 1;
            return walk->plan->count;
        default:
            return walk->plan->count; /* closed: by execve, or by death */
        }
    }
    walk->failure->step = index;
    walk->failure->opcode = walk->plan->steps[index].opcode;
    return fail(walk->failure, "baton", "talking to init");
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The child's end of the baton is closed: tell an execve from a death. */
static int monitor_confirm(struct monitor *m, struct walk *walk) {
    const struct step *last = &walk->plan->steps[walk->plan->count - 1];
    int reaps = number_of(last, 3) != 0; /* then it is init's child that executes */
    int executed = 0;
    m->started_ns = now_ns(CLOCK_REALTIME);
    m->started_mono_ns = now_ns(CLOCK_MONOTONIC);
    if (read_stat(walk->stat, &m->child_start_time, &executed) < 0)
        return fail(walk->failure, "read", "/proc/%d/stat", walk->child);
    if (executed || reaps || walk->held)
        return 0;
    errno = ECHILD;
    return fail(walk->failure, "execve", "init ended before it could execute the application");
}

static void reap_child(struct walk *walk) {
    siginfo_t how = {0};
    if (walk->child <= 0)
        return;
    if (sys_pidfd_send_signal(walk->pidfd, SIGKILL) < 0)
        kill(walk->child, SIGKILL);
    while (waitid(P_PID, (id_t)walk->child, &how, WEXITED) < 0 && errno == EINTR)
        ;
    size_t length = strlen(walk->failure->detail);
    if (walk->failure->error == ECHILD && how.si_code != CLD_EXITED && how.si_status)
        snprintf(walk->failure->detail + length, sizeof walk->failure->detail - length,
                 " (signal %d)", how.si_status);
    close(walk->pidfd);
    walk->child = 0;
}

static void hand_to_supervision(struct monitor *m, struct walk *walk) {
    m->pidfd = walk->pidfd;
    m->terminal = walk->slot[SLOT_TERMINAL];
    m->stdin_w = walk->slot[SLOT_STDIN];
    m->stdout_r = walk->slot[SLOT_STDOUT];
    m->stderr_r = walk->slot[SLOT_STDERR];
    for (unsigned i = 0; i < MAX_SOCKETS; i++)
        m->sockets[i] = walk->slot[SLOT_SOCKETS + i];
    close_slots(walk); /* what init has sent since */
    close(walk->baton);
    close(walk->stat);
}

/* Before init can execute anything, whoever supervises it in our place is able to end it: from then
 * on it outlives a creator that is killed. */
static int announce(struct monitor *m, struct walk *walk, uint32_t index) {
    if (walk->plan->steps[0].opcode != STEP_HAND_OVER ||
        control_send_cloned(m->control, walk->child, walk->pidfd) >= 0)
        return 0;
    walk->failure->step = index;
    walk->failure->opcode = STEP_CLONE_INTO;
    return fail(walk->failure, "sendmsg", "who was cloned");
}

static int monitor_walk(struct monitor *m, struct walk *walk) {
    uint32_t index = 1; /* SUPERVISE and HAND_OVER are the monitor itself */
    while (index < walk->plan->count) {
        if (is_init_step(&walk->plan->steps[index])) {
            int64_t next = monitor_let_init(m, walk, index);
            if (next < 0)
                return -1;
            index = (uint32_t)next;
            continue;
        }
        int result = carry_out(walk, index);
        if (result < 0)
            return -1;
        if (result > 0)
            control_send_failed(m->control, KEEL_WARNED, walk->failure);
        if (walk->plan->steps[index].opcode == STEP_CLONE_INTO && announce(m, walk, index) < 0)
            return -1;
        index++;
    }
    if (monitor_confirm(m, walk) == 0)
        return 0;
    walk->failure->step = walk->plan->count - 1;
    walk->failure->opcode = STEP_EXECUTE;
    return -1;
}

int walk_plan(struct monitor *m, const struct plan *plan, unsigned borrowed) {
    struct walk walk = {
        .plan = plan,
        .failure = &m->failure,
        .baton = -1,
        .pidfd = -1,
        .stat = -1,
        .stdin_open = m->cfg.stdin_open,
        .stdio_known = plan->steps[0].opcode == STEP_HAND_OVER,
        .terminal_comes = m->cfg.terminal,
        .root = -1,
        .root_place = -1,
        .empty_tree = -1,
        .pipe_ends = {-1, -1, -1},
        .starter = -1,
    };
    for (unsigned slot = 0; slot < SLOT_LIMIT; slot++)
        walk.slot[slot] = slot < borrowed ? FIRST_SLOT_FD + (int)slot : -1;
    if (monitor_walk(m, &walk) == 0) {
        hand_to_supervision(m, &walk);
        return 0;
    }
    reap_child(&walk);
    control_send_failed(m->control, KEEL_FAILED, &m->failure);
    return -1;
}

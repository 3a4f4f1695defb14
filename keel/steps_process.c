/* Init's own properties: names, keyring, limits on what it may do, user, working directory. */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

enum { LAST_CAPABILITY = 63 };

int step_join_keyring(struct walk *walk, const struct step *step) {
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, text_of(step, 0), 0, 0, 0) < 0)
        return fail(walk->failure, "keyctl", "join session keyring %s", text_of(step, 0));
    return 0;
}

int step_unshare_cgroup(struct walk *walk, const struct step *step) {
    (void)step;
    return unshare(CLONE_NEWCGROUP) < 0 ? fail(walk->failure, "unshare", "CLONE_NEWCGROUP") : 0;
}

int step_raise_loopback(struct walk *walk, const struct step *step) {
    struct ifreq request = {.ifr_name = "lo"};
    (void)step;
    SCOPED_FD any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0 || ioctl(any, SIOCGIFFLAGS, &request) < 0)
        return fail(walk->failure, "ioctl", "SIOCGIFFLAGS lo");
    request.ifr_flags |= IFF_UP;
    return ioctl(any, SIOCSIFFLAGS, &request) < 0 ? fail(walk->failure, "ioctl", "SIOCSIFFLAGS lo")
                                                  : 0;
}

int step_set_hostname(struct walk *walk, const struct step *step) {
    if (sethostname(text_of(step, 0), step->field[0].text.length) < 0)
        return fail(walk->failure, "sethostname", "%s", text_of(step, 0));
    return 0;
}

int step_set_domainname(struct walk *walk, const struct step *step) {
    if (setdomainname(text_of(step, 0), step->field[0].text.length) < 0)
        return fail(walk->failure, "setdomainname", "%s", text_of(step, 0));
    return 0;
}

int step_set_umask(struct walk *walk, const struct step *step) {
    umask((mode_t)number_of(step, 0));
    walk->umask_known = 1;
    return 0;
}

int step_set_no_new_privileges(struct walk *walk, const struct step *step) {
    (void)step;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
               ? fail(walk->failure, "prctl", "PR_SET_NO_NEW_PRIVS")
               : 0;
}

/* From here on the filter decides which calls succeed, so what needs more than it may allow is done
 * before. */
int step_load_seccomp(struct walk *walk, const struct step *step) {
    const struct blob *program = &step->field[1].text;
    struct agent agent;
    if (init_provide_stdio(walk) < 0 || init_disarm(walk) < 0)
        return -1;
    if (program->length / sizeof(struct sock_filter) > BPF_MAXINSNS) {
        errno = E2BIG;
        return fail(walk->failure, "seccomp", "more than %d instructions", BPF_MAXINSNS);
    }
    /* only the kernel reads it, which does not mind that it is not aligned */
    struct sock_fprog filter = {(unsigned short)(program->length / sizeof(struct sock_filter)),
                                (struct sock_filter *)(uintptr_t)program->bytes};
    int asks = number_of(step, 2) != NO_SLOT;
    if (asks && agent_prepare(walk, step, &agent) < 0)
        return -1;
    int listener = sys_seccomp(SECCOMP_SET_MODE_FILTER, (unsigned)number_of(step, 0), &filter);
    if (listener < 0)
        return fail(walk->failure, "seccomp", "%u instructions, flags %#llx", filter.len,
                    (unsigned long long)number_of(step, 0));
    return asks ? agent_tell(walk, step, &agent, listener) : 0;
}

static int drop_bounding(struct walk *walk, uint64_t keep) {
    for (unsigned capability = 0; capability <= LAST_CAPABILITY; capability++) {
        if (keep >> capability & 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
            continue;
        if (errno == EINVAL)
            return 0; /* past the last one this kernel knows */
        return fail(walk->failure, "prctl", "PR_CAPBSET_DROP %u", capability);
    }
    return 0;
}

static int set_groups(struct walk *walk, const struct numbers *numbers) {
    SCOPED_MEMORY gid_t *groups = calloc((size_t)numbers->count + 1, sizeof *groups);
    if (!groups)
        return fail(walk->failure, "calloc", "%u groups", numbers->count);
    for (uint32_t i = 0; i < numbers->count; i++)
        groups[i] = (gid_t)numbers->items[i];
    if (setgroups(numbers->count, groups) == 0)
        return 0;
    /* with setgroups denied by the maps there is nothing to drop that another could give */
    return errno == EPERM && numbers->count == 0
               ? 0
               : fail(walk->failure, "setgroups", "%u groups", numbers->count);
}

static int set_capabilities(struct walk *walk, uint64_t effective, uint64_t permitted,
                            uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    if (syscall(SYS_capset, &header, data) < 0)
        return fail(walk->failure, "capset", "effective %#llx permitted %#llx inheritable %#llx",
                    (unsigned long long)effective, (unsigned long long)permitted,
                    (unsigned long long)inheritable);
    return 0;
}

static int raise_ambient(struct walk *walk, uint64_t mask) {
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return fail(walk->failure, "prctl", "PR_CAP_AMBIENT_CLEAR_ALL");
    for (unsigned capability = 0; capability <= LAST_CAPABILITY; capability++)
        if (mask >> capability & 1 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
            return fail(walk->failure, "prctl", "PR_CAP_AMBIENT_RAISE %u", capability);
    return 0;
}

/* The caller's pipes and sockets too; never its files and devices. Where the caller's are not ours to
 * give they serve as they are. */
static void give_callers_stdio(uid_t uid) {
    struct stat facts;
    for (int fd = 0; fd < 3; fd++)
        if (fstat(fd, &facts) == 0 && (S_ISFIFO(facts.st_mode) || S_ISSOCK(facts.st_mode)) &&
            facts.st_uid != uid && fchown(fd, uid, (gid_t)-1) < 0)
            continue;
}

/* So that the user can open /dev/stdout again. Only what was made for this container: fd 0 may be
 * the host's /dev/null. A terminal keeps its group. Where 0 is not mapped the pipes are nobody's
 * inside (EPERM): then they serve as they are. */
static int give_stdio(struct walk *walk, uid_t uid, gid_t gid) {
    for (int fd = 0; fd < 3; fd++)
        if (walk->pipe_ends[fd] >= 0 && fchown(fd, uid, gid) < 0 && errno != EPERM)
            return fail(walk->failure, "fchown", "fd %d", fd);
    if (walk->plan->steps[0].opcode == STEP_HAND_OVER && !walk->terminal_known)
        give_callers_stdio(uid);
    if (walk->terminal_known && fchown(STDIN_FILENO, uid, (gid_t)-1) < 0)
        return fail(walk->failure, "fchown", "the terminal");
    return 0;
}

int step_become_user(struct walk *walk, const struct step *step) {
    uid_t uid = (uid_t)number_of(step, 0);
    gid_t gid = (gid_t)number_of(step, 1);
    if (init_provide_stdio(walk) < 0 || give_stdio(walk, uid, gid) < 0)
        return -1;
    if (drop_bounding(walk, number_of(step, 3)) < 0)
        return -1;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return fail(walk->failure, "prctl", "PR_SET_KEEPCAPS");
    if (set_groups(walk, &step->field[2].numbers) < 0)
        return -1;
    if (setresgid(gid, gid, gid) < 0)
        return fail(walk->failure, "setresgid", "%u", gid);
    if (setresuid(uid, uid, uid) < 0)
        return fail(walk->failure, "setresuid", "%u", uid);
    if (set_capabilities(walk, number_of(step, 4), number_of(step, 5), number_of(step, 6)) < 0 ||
        raise_ambient(walk, number_of(step, 7)) < 0)
        return -1;
    if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
        return fail(walk->failure, "prctl", "PR_SET_KEEPCAPS");
    return init_arm(walk);
}

int step_change_directory(struct walk *walk, const struct step *step) {
    char real[PATH_MAX];
    const char *path = text_of(step, 0);
    int root = init_root(walk);
    /* limits follow this step, and one on open files must not fail our own pipes */
    if (root < 0 || init_provide_stdio(walk) < 0)
        return -1;
    SCOPED_FD made = number_of(step, 1) ? make_in(root, path, S_IFDIR | 0755) : -1;
    if (number_of(step, 1) && made < 0)
        return fail(walk->failure, "mkdirat", "%s", path);
    SCOPED_FD directory = resolve_in(root, path, O_PATH | O_DIRECTORY, 0);
    if (directory < 0)
        return fail(walk->failure, "openat2", "%s", path);
    if (fchdir(directory) < 0)
        return fail(walk->failure, "fchdir", "%s", path);
    /* the raw call answers "(unreachable)…" for what lies outside the root */
    if (syscall(SYS_getcwd, real, sizeof real) < 0 || real[0] != '/') {
        errno = EXDEV;
        return fail(walk->failure, "getcwd", "%s lies outside the root", path);
    }
    return 0;
}

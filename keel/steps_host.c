/* The monitor's steps: what only the host's side can do, to or for the child. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

/* One write: the kernel takes these files whole or not at all. */
static int write_file(struct walk *walk, const char *path, const char *text, size_t length) {
    SCOPED_FD fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return fail(walk->failure, "open", "%s", path);
    ssize_t written = write(fd, text, length);
    if (written == (ssize_t)length)
        return 0;
    if (written >= 0)
        errno = EIO;
    return fail(walk->failure, "write", "%s to %s", text, path);
}

int write_process_file(struct walk *walk, pid_t pid, const char *name, const char *text,
                       size_t length) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return write_file(walk, path, text, length);
}

int step_open_tree(struct walk *walk, const struct step *step) {
    unsigned recursive = number_of(step, 2) ? AT_RECURSIVE : 0;
    int tree =
        open_tree(AT_FDCWD, text_of(step, 1), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
    if (tree < 0)
        return fail(walk->failure, "open_tree", "%s", text_of(step, 1));
    slot_fill(walk, (unsigned)number_of(step, 0), tree);
    return 0;
}

/* By init, of its own mount namespace: its slots are nobody else's. */
int step_take_tree(struct walk *walk, const struct step *step) {
    if (step_open_tree(walk, step) < 0)
        return -1;
    walk->filled[number_of(step, 0)] = 0;
    return 0;
}

/* A copy of the mount at `path` of the root of the mount namespace that this process is in. */
static int clone_in_root(const char *path) {
    SCOPED_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return -1;
    SCOPED_FD place = resolve_in(root, path, O_PATH | O_DIRECTORY, 0);
    if (place < 0)
        return -1;
    return open_tree(place, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
}

/* Copied by who is where it is mounted: the kernel clones no mount of another namespace. setns
 * leaves a process at the root of the namespace that it enters, so ours is entered anew. */
int step_open_peer_tree(struct walk *walk, const struct step *step) {
    SCOPED_FD ours = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    SCOPED_FD root = ours < 0 ? -1 : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    SCOPED_FD theirs = root < 0 ? -1 : open(text_of(step, 1), O_RDONLY | O_CLOEXEC);
    if (theirs < 0)
        return fail(walk->failure, "open", "mount namespace %s", text_of(step, 1));
    if (setns(theirs, CLONE_NEWNS) < 0)
        return fail(walk->failure, "setns", "mount namespace %s", text_of(step, 1));
    int tree = clone_in_root(text_of(step, 2));
    int error = errno;
    if (setns(ours, CLONE_NEWNS) < 0 || fchdir(root) < 0 || chroot(".") < 0) {
        close(tree);
        return fail(walk->failure, "setns", "back from mount namespace %s", text_of(step, 1));
    }
    errno = error;
    if (tree < 0)
        return fail(walk->failure, "open_tree", "%s of another container", text_of(step, 2));
    slot_fill(walk, (unsigned)number_of(step, 0), tree);
    return 0;
}

int step_set_time_offsets(struct walk *walk, const struct step *step) {
    if (unshare(CLONE_NEWTIME) < 0)
        return fail(walk->failure, "unshare", "CLONE_NEWTIME");
    return write_file(walk, "/proc/self/timens_offsets", text_of(step, 0),
                      step->field[0].text.length);
}

static int write_maps(struct walk *walk, pid_t pid, const struct blob *users,
                      const struct blob *groups) {
    if (write_process_file(walk, pid, "uid_map", users->bytes, users->length) < 0)
        return -1;
    return write_process_file(walk, pid, "gid_map", groups->bytes, groups->length);
}

/* Only opened here: a process of one thread that moves itself takes no lock that waits, whereas a
 * pid written from outside waits for an RCU grace period (5 to 25 ms). The kernel asks for the
 * rights of who opened the file, so init may write although it is nobody on the host. */
int step_join_cgroups(struct walk *walk, const struct step *step) {
    const struct list *paths = &step->field[0].list;
    if (walk->cgroup_step || paths->count > MAX_CGROUPS) {
        errno = E2BIG;
        return fail(walk->failure, "open", "one step joins at most %d cgroups", MAX_CGROUPS);
    }
    walk->cgroup_step = step;
    for (uint32_t i = 0; i < paths->count; i++) {
        int fd = open(paths->items[i], O_WRONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
            return fail(walk->failure, "open", "%s", paths->items[i]);
        walk->cgroup[walk->cgroups++] = fd;
    }
    return 0;
}

void cgroups_close(struct walk *walk) {
    while (walk->cgroups)
        close(walk->cgroup[--walk->cgroups]);
}

static int open_user_namespace(struct walk *walk, pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    int user = open(path, O_RDONLY | O_CLOEXEC);
    return user < 0 ? fail(walk->failure, "open", "%s", path) : user;
}

/* A user namespace with these maps, in which nobody lives: a process holds it until it is open. */
static int make_user_namespace(struct walk *walk, const struct blob *users,
                               const struct blob *groups) {
    struct clone_args arguments = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    pid_t holder = sys_clone3(&arguments);
    if (holder == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            poll(NULL, 0, -1);
    }
    if (holder < 0)
        return fail(walk->failure, "clone3", "a user namespace for a mount");
    int user = write_maps(walk, holder, users, groups) < 0 ? -1 : open_user_namespace(walk, holder);
    kill(holder, SIGKILL);
    while (waitpid(holder, NULL, 0) < 0 && errno == EINTR)
        ;
    return user;
}

int step_idmap_tree(struct walk *walk, const struct step *step) {
    const struct blob *users = &step->field[2].text;
    int tree = slot_get(walk, number_of(step, 0));
    if (tree < 0)
        return -1;
    SCOPED_FD user = users->length ? make_user_namespace(walk, users, &step->field[3].text)
                                   : open_user_namespace(walk, walk->child);
    if (user < 0)
        return -1;
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (__u64)user};
    unsigned recursive = number_of(step, 1) ? AT_RECURSIVE : 0;
    if (mount_setattr(tree, "", AT_EMPTY_PATH | recursive, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "idmap of slot %llu",
                    (unsigned long long)number_of(step, 0));
    return 0;
}

/* Before the clone it is the monitor's own, and the child's from its birth: what an ordinary user may
 * do only to a process that is inspectable, which one inside a container must not be. */
int step_set_oom_score(struct walk *walk, const struct step *step) {
    char text[32];
    int length = snprintf(text, sizeof text, "%lld", (long long)step->field[0].integer);
    if (walk->child)
        return write_process_file(walk, walk->child, "oom_score_adj", text, (size_t)length);
    if (prctl(PR_SET_DUMPABLE, 1) < 0)
        return fail(walk->failure, "prctl", "PR_SET_DUMPABLE");
    int result = write_file(walk, "/proc/self/oom_score_adj", text, (size_t)length);
    int error = errno;
    prctl(PR_SET_DUMPABLE, 0);
    errno = error;
    return result;
}

int step_set_rlimit(struct walk *walk, const struct step *step) {
    struct rlimit limit = {number_of(step, 1), number_of(step, 2)};
    if (prlimit(walk->child, (enum __rlimit_resource)number_of(step, 0), &limit, NULL) < 0)
        return fail(walk->failure, "prlimit", "resource %llu soft %llu hard %llu",
                    (unsigned long long)number_of(step, 0), (unsigned long long)limit.rlim_cur,
                    (unsigned long long)limit.rlim_max);
    return 0;
}

/* MAKE_NODE: a device for who may not make one.
 *
 * A file system that a user namespace mounts has no devices, so the node is made in one of the host's,
 * in a mount namespace that lasts for this step: the kernel copies no mount that is attached nowhere
 * (before 6.15). The copy holds the file system; nobody can name it. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fsmount.h"
#include "syscalls.h"
#include "walk.h"

static const char NODE[] = "node";

static int make_in(struct walk *walk, const struct step *step, int directory) {
    mode_t type = number_of(step, 1) == 'b' ? S_IFBLK : S_IFCHR;
    dev_t device = makedev((unsigned)number_of(step, 2), (unsigned)number_of(step, 3));
    if (mknodat(directory, NODE, type | 0600, device) < 0)
        return fail(walk->failure, "mknodat", "device %llu:%llu",
                    (unsigned long long)number_of(step, 2), (unsigned long long)number_of(step, 3));
    if (fchownat(directory, NODE, (uid_t)number_of(step, 5), (gid_t)number_of(step, 6),
                 AT_SYMLINK_NOFOLLOW) < 0)
        return fail(walk->failure, "fchownat", "a device");
    return fchmodat(directory, NODE, (mode_t)number_of(step, 4), 0) < 0
               ? fail(walk->failure, "fchmodat", "a device")
               : 0;
}

/* A copy of the node's mount; the file system is attached at the root of the passing namespace. */
static int make_and_copy(struct walk *walk, const struct step *step) {
    if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
        return fail(walk->failure, "mount", "private");
    SCOPED_FD context = context_open(walk->failure, "tmpfs");
    if (context < 0)
        return -1;
    SCOPED_FD top = context_mount(walk->failure, context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
                                  "tmpfs for a device");
    if (top < 0)
        return -1;
    if (move_mount(top, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fail(walk->failure, "move_mount", "tmpfs for a device");
    if (make_in(walk, step, top) < 0)
        return -1;
    int tree = open_tree(top, NODE, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    return tree < 0 ? fail(walk->failure, "open_tree", "a device") : tree;
}

int step_make_node(struct walk *walk, const struct step *step) {
    SCOPED_FD ours = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    SCOPED_FD root = ours < 0 ? -1 : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return fail(walk->failure, "open", "the mount namespace");
    if (unshare(CLONE_NEWNS) < 0)
        return fail(walk->failure, "unshare", "CLONE_NEWNS");
    int tree = make_and_copy(walk, step);
    if (setns(ours, CLONE_NEWNS) < 0 || fchdir(root) < 0 || chroot(".") < 0) {
        if (tree >= 0)
            close(tree);
        return fail(walk->failure, "setns", "back from a passing mount namespace");
    }
    if (tree < 0)
        return -1;
    slot_fill(walk, (unsigned)number_of(step, 0), tree);
    return 0;
}

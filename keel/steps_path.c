/* Init's steps on paths of the root: made, made read-only, covered. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fsmount.h"
#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

/* Where the last component of a path is to be made. */
static int open_parent(struct walk *walk, const char *path, char *name) {
    int root = init_root(walk);
    int parent = root < 0 ? -1 : make_parent_in(root, path, name);
    return root >= 0 && parent < 0 ? fail(walk->failure, "openat2", "parent of %s", path) : parent;
}

int step_make_directory(struct walk *walk, const struct step *step) {
    char name[NAME_MAX + 1];
    const char *path = text_of(step, 0);
    SCOPED_FD parent = open_parent(walk, path, name);
    if (parent < 0)
        return -1;
    if (mkdirat(parent, name, 0700) < 0) {
        if (errno != EEXIST)
            return fail(walk->failure, "mkdirat", "%s", path);
        SCOPED_FD existing = make_in(init_root(walk), path, S_IFDIR | 0755);
        SCOPED_FD directory =
            existing < 0 ? -1 : resolve_in(init_root(walk), path, O_PATH | O_DIRECTORY, 0);
        return directory < 0 ? fail(walk->failure, "openat2", "%s", path) : 0;
    }
    if (fchownat(parent, name, (uid_t)number_of(step, 2), (gid_t)number_of(step, 3),
                 AT_SYMLINK_NOFOLLOW) < 0)
        return fail(walk->failure, "fchownat", "%s", path);
    if (fchmodat(parent, name, (mode_t)number_of(step, 1), 0) < 0)
        return fail(walk->failure, "fchmodat", "%s", path);
    return 0;
}

int step_make_symlink(struct walk *walk, const struct step *step) {
    char name[NAME_MAX + 1];
    SCOPED_FD parent = open_parent(walk, text_of(step, 1), name);
    if (parent < 0)
        return -1;
    if (symlinkat(text_of(step, 0), parent, name) < 0 && errno != EEXIST)
        return fail(walk->failure, "symlinkat", "%s", text_of(step, 1));
    return 0;
}

static mode_t device_type(uint64_t kind) {
    switch (kind) {
    case 'c':
    case 'u':
        return S_IFCHR;
    case 'b':
        return S_IFBLK;
    case 'p':
        return S_IFIFO;
    default:
        return 0;
    }
}

/* A node that is there already must be the one that is asked for (config-linux.md#devices). */
static int make_node(int parent, const char *name, mode_t type, dev_t device) {
    struct stat facts;
    if (mknodat(parent, name, type | 0600, device) == 0)
        return 0;
    if (errno != EEXIST || fstatat(parent, name, &facts, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if ((facts.st_mode & S_IFMT) == type && (type == S_IFIFO || facts.st_rdev == device))
        return 0;
    errno = EEXIST;
    return -1;
}

int step_make_device(struct walk *walk, const struct step *step) {
    char name[NAME_MAX + 1];
    const char *path = text_of(step, 0);
    mode_t type = device_type(number_of(step, 1));
    dev_t device = makedev((unsigned)number_of(step, 2), (unsigned)number_of(step, 3));
    if (!type) {
        errno = EINVAL;
        return fail(walk->failure, "mknodat", "%s: unknown kind of device", path);
    }
    SCOPED_FD parent = open_parent(walk, path, name);
    if (parent < 0)
        return -1;
    if (make_node(parent, name, type, type == S_IFIFO ? 0 : device) < 0)
        return fail(walk->failure, "mknodat", "%s", path);
    if (fchownat(parent, name, (uid_t)number_of(step, 5), (gid_t)number_of(step, 6),
                 AT_SYMLINK_NOFOLLOW) < 0)
        return fail(walk->failure, "fchownat", "%s", path);
    if (fchmodat(parent, name, (mode_t)number_of(step, 4), 0) < 0)
        return fail(walk->failure, "fchmodat", "%s", path);
    return 0;
}

/* A path to protect, or -1: `*missing` set when there is nothing to protect. */
static int open_existing(struct walk *walk, const char *path, int *missing) {
    int root = init_root(walk);
    int fd = root < 0 ? -1 : resolve_in(root, path, O_PATH, 0);
    *missing = root >= 0 && fd < 0 && (errno == ENOENT || errno == ENOTDIR);
    if (root < 0 || fd >= 0 || *missing)
        return fd;
    return fail(walk->failure, "openat2", "%s", path);
}

int step_set_path_readonly(struct walk *walk, const struct step *step) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    const char *path = text_of(step, 0);
    int missing;
    SCOPED_FD target = open_existing(walk, path, &missing);
    if (target < 0)
        return missing ? 0 : -1;
    SCOPED_FD tree =
        open_tree(target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
    if (tree < 0)
        return fail(walk->failure, "open_tree", "%s", path);
    if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "%s read-only", path);
    if (attach_tree(tree, target) < 0)
        return fail(walk->failure, "move_mount", "%s", path);
    return 0;
}

/* /dev/null, if it is what it says (CVE-2025-31133). O_PATH descriptor. */
static int open_null(struct walk *walk) {
    struct stat facts;
    int null = resolve_in(init_root(walk), "/dev/null", O_PATH, 0);
    if (null < 0)
        return fail(walk->failure, "openat2", "/dev/null");
    if (fstat(null, &facts) == 0 && S_ISCHR(facts.st_mode) && facts.st_rdev == makedev(1, 3))
        return null;
    close(null);
    errno = ENODEV;
    return fail(walk->failure, "fstat", "/dev/null is not the null device");
}

/* A tree that hides `what` is open on; owned. */
static int masking_tree(struct walk *walk, int directory) {
    const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;
    if (directory && walk->empty_tree < 0) {
        SCOPED_FD context = context_open(walk->failure, "tmpfs");
        if (context < 0 || context_option(walk->failure, context, "nr_inodes=1") < 0 ||
            context_option(walk->failure, context, "mode=0555") < 0)
            return -1;
        walk->empty_tree = context_mount(walk->failure, context,
                                         MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                             MOUNT_ATTR_NOEXEC,
                                         "the empty directory");
        return walk->empty_tree < 0 ? -1 : fcntl(walk->empty_tree, F_DUPFD_CLOEXEC, 3);
    }
    SCOPED_FD null = directory ? -1 : open_null(walk);
    if (!directory && null < 0)
        return -1;
    /* the first one is attached by now, so that kernels before 6.15 clone it too */
    int tree = open_tree(directory ? walk->empty_tree : null, "", flags);
    return tree < 0 ? fail(walk->failure, "open_tree", "a mask") : tree;
}

int step_mask_path(struct walk *walk, const struct step *step) {
    struct stat facts;
    const char *path = text_of(step, 0);
    int missing;
    SCOPED_FD target = open_existing(walk, path, &missing);
    if (target < 0)
        return missing ? 0 : -1;
    if (fstat(target, &facts) < 0)
        return fail(walk->failure, "fstat", "%s", path);
    SCOPED_FD tree = masking_tree(walk, S_ISDIR(facts.st_mode));
    if (tree < 0)
        return -1;
    return attach_tree(tree, target) < 0 ? fail(walk->failure, "move_mount", "a mask onto %s", path)
                                         : 0;
}

int step_set_root_readonly(struct walk *walk, const struct step *step) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    int root = init_root(walk);
    (void)step;
    if (root < 0)
        return -1;
    if (mount_setattr(root, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "the root read-only");
    return 0;
}

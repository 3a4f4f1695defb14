/* Init's mounts: the root, file systems and trees in it, and leaving the host's root behind. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "copy_up.h"
#include "fsmount.h"
#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

enum { PROPAGATION_TYPES = MS_PRIVATE | MS_SLAVE | MS_SHARED | MS_UNBINDABLE };

static int set_propagation(struct walk *walk, int tree, uint64_t flags, const char *what) {
    struct mount_attr attributes = {.propagation = flags & PROPAGATION_TYPES};
    unsigned recursive = flags & MS_REC ? AT_RECURSIVE : 0;
    if (!attributes.propagation)
        return 0;
    if (mount_setattr(tree, "", AT_EMPTY_PATH | recursive, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "propagation of %s", what);
    return 0;
}

int step_set_root_propagation(struct walk *walk, const struct step *step) {
    if (mount(NULL, "/", NULL, number_of(step, 0), NULL) < 0)
        return fail(walk->failure, "mount", "propagation of / to %#llx",
                    (unsigned long long)number_of(step, 0));
    return 0;
}

int step_attach_root(struct walk *walk, const struct step *step) {
    const char *path = text_of(step, 1);
    int tree = slot_get(walk, number_of(step, 0));
    if (tree < 0)
        return -1;
    if (walk->root_place < 0 &&
        (walk->root_place = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return fail(walk->failure, "open", "%s", path);
    if (attach_tree(tree, walk->root_place) < 0)
        return fail(walk->failure, "move_mount", "the root onto %s", path);
    walk->root = fcntl(tree, F_DUPFD_CLOEXEC, 3);
    if (walk->root < 0)
        return fail(walk->failure, "fcntl", "the root");
    return set_propagation(walk, tree, number_of(step, 2), "the root");
}

/* What the host shows of the kernel must be gone: where a whole procfs is left anywhere in the mount
 * namespace, a user namespace inside may mount another without the container's masks (kernel
 * fs/namespace.c mount_too_revealing). One that is locked is covered, and stays so for who copies it. */
static int hide_views(struct walk *walk, const struct list *places) {
    for (uint32_t i = 0; i < places->count; i++) {
        if (umount2(places->items[i], MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
            continue;
        if (errno != EINVAL && errno != EPERM)
            return fail(walk->failure, "umount2", "%s", places->items[i]);
        if (mount("tmpfs", places->items[i], "tmpfs", MS_RDONLY, "nr_inodes=1,mode=0") < 0)
            return fail(walk->failure, "mount", "tmpfs over %s", places->items[i]);
    }
    return 0;
}

/* The host's root stays below, out of reach: "/" and ".." end at what is mounted over it. */
static int move_root(struct walk *walk, const struct list *views) {
    if (hide_views(walk, views) < 0)
        return -1;
    SCOPED_FD slash = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (slash < 0 || fchdir(walk->root) < 0)
        return fail(walk->failure, "fchdir", "the root");
    if (attach_tree(walk->root, slash) < 0)
        return fail(walk->failure, "move_mount", "the root onto /");
    return chroot(".") < 0 || chdir("/") < 0 ? fail(walk->failure, "chroot", "the root") : 0;
}

/* pivot_root(".", ".") stacks the old root on the new one, from where it is detached. */
static int pivot_root(struct walk *walk) {
    SCOPED_FD old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0)
        return fail(walk->failure, "open", "/");
    if (fchdir(walk->root) < 0 || sys_pivot_root(".", ".") < 0)
        return fail(walk->failure, "pivot_root", "the root");
    /* the unmounts must not spread to the host, whatever the plan asked of the old root */
    if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return fail(walk->failure, "mount", "MS_SLAVE of the host's root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return fail(walk->failure, "umount2", "the host's root");
    return 0;
}

int step_pivot_root(struct walk *walk, const struct step *step) {
    if (walk->root < 0) {
        errno = EINVAL;
        return fail(walk->failure, "pivot_root", "no root was attached");
    }
    if ((number_of(step, 0) ? move_root(walk, &step->field[1].list) : pivot_root(walk)) < 0)
        return -1;
    close(walk->root);
    walk->root = -1;
    return init_root(walk) < 0 ? -1 : 0;
}

static int is_fstype(const struct step *step, const char *name) {
    return strcmp(text_of(step, 0), name) == 0;
}

/* cgroup v1 takes each controller as a flag: "cpu,cpuacct" is two. Elsewhere a comma may be part of
 * a value. */
static int give_option(struct walk *walk, int context, const char *option, int split) {
    char piece[256];
    while (split && strchr(option, ',')) {
        size_t length = strcspn(option, ",");
        if (length >= sizeof piece)
            break;
        memcpy(piece, option, length);
        piece[length] = '\0';
        if (context_option(walk->failure, context, piece) < 0)
            return -1;
        option += length + 1;
    }
    return context_option(walk->failure, context, option);
}

static int new_filesystem(struct walk *walk, const struct step *step) {
    const struct list *options = &step->field[5].list;
    SCOPED_FD context = context_open(walk->failure, text_of(step, 0));
    if (context < 0)
        return -1;
    if (step->field[1].text.length &&
        fsconfig(context, FSCONFIG_SET_STRING, "source", text_of(step, 1), 0) < 0)
        return context_fail(walk->failure, context, "fsconfig", "source");
    for (uint32_t i = 0; i < options->count; i++)
        if (give_option(walk, context, options->items[i], is_fstype(step, "cgroup")) < 0)
            return -1;
    return context_mount(walk->failure, context, (unsigned)number_of(step, 3), text_of(step, 0));
}

/* A link at /proc or /sys would put them where nobody looks for them, and what is written "to
 * /proc" somewhere else (CVE-2019-19921). */
static int open_target(struct walk *walk, const struct step *step, int root, int *made) {
    const char *target = text_of(step, 2);
    int fd = resolve_in(root, target, O_PATH, 0);
    *made = fd < 0;
    if (fd >= 0)
        close(fd);
    fd = make_target_in(root, target, S_IFDIR | 0755);
    if (fd >= 0 && (is_fstype(step, "proc") || is_fstype(step, "sysfs"))) {
        close(fd);
        fd = resolve_in(root, target, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
    }
    return fd < 0 ? fail(walk->failure, "openat2", "mount point %s", target) : fd;
}

enum { OPTION_BYTES = 255, DATA_BYTES = 4096 };

/* fsconfig takes values of up to 255 bytes; overlay's lists of directories may be longer. */
static int has_long_option(const struct step *step) {
    const struct list *options = &step->field[5].list;
    for (uint32_t i = 0; i < options->count; i++) {
        const char *value = strchr(options->items[i], '=');
        if (value && strlen(value + 1) > OPTION_BYTES)
            return 1;
    }
    return 0;
}

static unsigned long mount_flags(uint64_t attributes) {
    static const struct {
        uint64_t attribute;
        unsigned long flag;
    } same[] = {
        {MOUNT_ATTR_RDONLY, MS_RDONLY},         {MOUNT_ATTR_NOSUID, MS_NOSUID},
        {MOUNT_ATTR_NODEV, MS_NODEV},           {MOUNT_ATTR_NOEXEC, MS_NOEXEC},
        {MOUNT_ATTR_NOATIME, MS_NOATIME},       {MOUNT_ATTR_STRICTATIME, MS_STRICTATIME},
        {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME}, {MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW},
    };
    unsigned long flags = 0;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        flags |= attributes & same[i].attribute ? same[i].flag : 0;
    return flags;
}

/* mount(2) has a page for all options. The target is named by its descriptor, as the directory that
 * init is in: what is mounted there covers it for whoever resolves the path again. */
static int mount_in_one_call(struct walk *walk, const struct step *step, int target) {
    const struct list *options = &step->field[5].list;
    const char *path = text_of(step, 2);
    char data[DATA_BYTES] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < options->count; i++) {
        size_t length = strlen(options->items[i]);
        if (used + length + 2 > sizeof data) {
            errno = E2BIG;
            return fail(walk->failure, "mount", "the options for %s", path);
        }
        memcpy(data + used, options->items[i], length);
        used += length;
        data[used++] = i + 1 < options->count ? ',' : '\0';
    }
    if (fchdir(target) < 0 || mount(text_of(step, 1), ".", text_of(step, 0),
                                    mount_flags(number_of(step, 3)), data) < 0)
        return fail(walk->failure, "mount", "%s onto %s", text_of(step, 0), path);
    if (chdir("/") < 0)
        return fail(walk->failure, "chdir", "/");
    SCOPED_FD mounted = resolve_in(init_root(walk), path, O_PATH, 0);
    return mounted < 0 ? fail(walk->failure, "openat2", "%s", path)
                       : set_propagation(walk, mounted, number_of(step, 6), path);
}

/* The mode of the directory that is covered, for one that covers it. */
static int take_mode(int from, int to) {
    struct stat facts;
    SCOPED_FD top = openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || fstat(from, &facts) < 0)
        return -1;
    return fchmod(top, facts.st_mode & 07777);
}

enum { COPY_ALL = 1, COPY_MODE = 2 };

int step_mount_filesystem(struct walk *walk, const struct step *step) {
    const char *path = text_of(step, 2);
    int made = 0;
    int root = init_root(walk);
    SCOPED_FD target = root < 0 ? -1 : open_target(walk, step, root, &made);
    if (target < 0)
        return -1;
    if (has_long_option(step))
        return mount_in_one_call(walk, step, target);
    SCOPED_FD tree = new_filesystem(walk, step);
    if (tree < 0)
        return -1;
    if (number_of(step, 4) == COPY_ALL && copy_up(target, tree) < 0)
        return fail(walk->failure, "copy_up", "%s", path);
    if (number_of(step, 4) == COPY_MODE && !made && take_mode(target, tree) < 0)
        return fail(walk->failure, "fchmod", "%s", path);
    if (attach_tree(tree, target) < 0)
        return fail(walk->failure, "move_mount", "%s onto %s", text_of(step, 0), path);
    return set_propagation(walk, tree, number_of(step, 6), path);
}

static mode_t target_mode(int tree) {
    struct stat facts;
    return fstat(tree, &facts) == 0 && S_ISDIR(facts.st_mode) ? S_IFDIR | 0755 : S_IFREG | 0644;
}

/* Fields from 2 on: those of the topmost mount, then those of all, then the propagation. */
static int change_tree(struct walk *walk, const struct step *step, unsigned first, int tree) {
    static const unsigned REACH[] = {0, AT_RECURSIVE};
    const char *path = text_of(step, first - 1);
    for (unsigned i = 0; i < 2; i++) {
        struct mount_attr attributes = {.attr_set = number_of(step, first + 2 * i),
                                        .attr_clr = number_of(step, first + 2 * i + 1)};
        if (!attributes.attr_set && !attributes.attr_clr)
            continue;
        if (mount_setattr(tree, "", AT_EMPTY_PATH | REACH[i], &attributes, sizeof attributes) < 0)
            return fail(walk->failure, "mount_setattr", "%s set %#llx clear %#llx", path,
                        (unsigned long long)attributes.attr_set,
                        (unsigned long long)attributes.attr_clr);
    }
    return 0;
}

int step_bind_tree(struct walk *walk, const struct step *step) {
    const char *path = text_of(step, 1);
    int root = init_root(walk);
    int tree = root < 0 ? -1 : slot_get(walk, number_of(step, 0));
    if (tree < 0 || change_tree(walk, step, 2, tree) < 0)
        return -1;
    SCOPED_FD target = make_target_in(root, path, target_mode(tree));
    if (target < 0)
        return fail(walk->failure, "openat2", "mount point %s", path);
    if (attach_tree(tree, target) < 0)
        return fail(walk->failure, "move_mount", "a tree onto %s", path);
    return set_propagation(walk, tree, number_of(step, 6), path);
}

int step_change_mount(struct walk *walk, const struct step *step) {
    const char *path = text_of(step, 0);
    int root = init_root(walk);
    SCOPED_FD mounted = root < 0 ? -1 : resolve_in(root, path, O_PATH, 0);
    if (mounted < 0)
        return root < 0 ? -1 : fail(walk->failure, "openat2", "%s", path);
    if (change_tree(walk, step, 1, mounted) < 0)
        return -1;
    return set_propagation(walk, mounted, number_of(step, 5), path);
}

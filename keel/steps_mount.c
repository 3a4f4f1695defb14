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

/* pivot_root(".", ".") stacks the old root on the new one, from where it is detached. */
int step_pivot_root(struct walk *walk, const struct step *step) {
    (void)step;
    SCOPED_FD old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0 || walk->root < 0) {
        errno = walk->root < 0 ? EINVAL : errno;
        return fail(walk->failure, "pivot_root", "no root was attached");
    }
    if (fchdir(walk->root) < 0 || sys_pivot_root(".", ".") < 0)
        return fail(walk->failure, "pivot_root", "the root");
    /* the unmounts must not spread to the host, whatever the plan asked of the old root */
    if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return fail(walk->failure, "mount", "MS_SLAVE of the host's root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return fail(walk->failure, "umount2", "the host's root");
    close(walk->root);
    walk->root = -1;
    return init_root(walk) < 0 ? -1 : 0;
}

static uint64_t propagation_flags(const char *name) {
    static const struct {
        const char *name;
        uint64_t flag;
    } types[] = {{"private", MS_PRIVATE},
                 {"slave", MS_SLAVE},
                 {"shared", MS_SHARED},
                 {"unbindable", MS_UNBINDABLE}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, types[i].name) == 0)
            return types[i].flag;
        if (name[0] == 'r' && strcmp(name + 1, types[i].name) == 0)
            return types[i].flag | MS_REC;
    }
    return 0;
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
    const struct list *options = &step->field[6].list;
    SCOPED_FD context = context_open(walk->failure, text_of(step, 0));
    if (context < 0)
        return -1;
    if (step->field[1].text.length &&
        fsconfig(context, FSCONFIG_SET_STRING, "source", text_of(step, 1), 0) < 0)
        return context_fail(walk->failure, context, "fsconfig", "source");
    for (uint32_t i = 0; i < options->count; i++)
        if (give_option(walk, context, options->items[i], is_fstype(step, "cgroup")) < 0)
            return -1;
    return context_mount(walk->failure, context, (unsigned)number_of(step, 4), text_of(step, 0));
}

/* A link at /proc or /sys would put them where nobody looks for them, and what is written "to
 * /proc" somewhere else (CVE-2019-19921). */
static int open_target(struct walk *walk, const struct step *step, int root) {
    const char *target = text_of(step, 2);
    int fd = make_target_in(root, target, S_IFDIR | 0755);
    if (fd >= 0 && (is_fstype(step, "proc") || is_fstype(step, "sysfs"))) {
        close(fd);
        fd = resolve_in(root, target, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
    }
    return fd < 0 ? fail(walk->failure, "openat2", "mount point %s", target) : fd;
}

int step_mount_filesystem(struct walk *walk, const struct step *step) {
    const char *propagation = text_of(step, 7);
    uint64_t flags = propagation_flags(propagation);
    if (*propagation && !flags) {
        errno = EINVAL;
        return fail(walk->failure, "mount_setattr", "unknown propagation %s", propagation);
    }
    int root = init_root(walk);
    SCOPED_FD target = root < 0 ? -1 : open_target(walk, step, root);
    SCOPED_FD tree = target < 0 ? -1 : new_filesystem(walk, step);
    if (tree < 0)
        return -1;
    if (number_of(step, 5) && copy_up(target, tree) < 0)
        return fail(walk->failure, "copy_up", "%s", text_of(step, 2));
    if (attach_tree(tree, target) < 0)
        return fail(walk->failure, "move_mount", "%s onto %s", text_of(step, 0), text_of(step, 2));
    return set_propagation(walk, tree, flags, text_of(step, 2));
}

static mode_t target_mode(int tree) {
    struct stat facts;
    return fstat(tree, &facts) == 0 && S_ISDIR(facts.st_mode) ? S_IFDIR | 0755 : S_IFREG | 0644;
}

int step_bind_tree(struct walk *walk, const struct step *step) {
    const char *path = text_of(step, 1);
    struct mount_attr attributes = {.attr_set = number_of(step, 2), .attr_clr = number_of(step, 3)};
    unsigned recursive = number_of(step, 4) ? AT_RECURSIVE : 0;
    int root = init_root(walk);
    int tree = root < 0 ? -1 : slot_get(walk, number_of(step, 0));
    if (tree < 0)
        return -1;
    if ((attributes.attr_set || attributes.attr_clr) &&
        mount_setattr(tree, "", AT_EMPTY_PATH | recursive, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "%s set %#llx clear %#llx", path,
                    (unsigned long long)attributes.attr_set,
                    (unsigned long long)attributes.attr_clr);
    SCOPED_FD target = make_target_in(root, path, target_mode(tree));
    if (target < 0)
        return fail(walk->failure, "openat2", "mount point %s", path);
    if (attach_tree(tree, target) < 0)
        return fail(walk->failure, "move_mount", "a tree onto %s", path);
    return set_propagation(walk, tree, number_of(step, 5), path);
}

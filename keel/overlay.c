/* MOUNT_OVERLAY: a stack of trees that are in slots, mounted by init with its own credentials.
 *
 * Since Linux 6.13 overlayfs takes the layers as descriptors. Before, it takes paths, and before
 * 6.15 only paths of mounts that are attached; then the trees are attached for a moment to a private
 * tmpfs. Source: Documentation/filesystems/overlayfs.rst. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "fsmount.h"
#include "syscalls.h"
#include "walk.h"

/* Where upper and work lie: two directories of one tree (they must be on one mount), or two trees. */
struct place {
    int tree;
    const char *name; /* "" for the tree itself */
};

struct stack {
    const struct numbers *lowers;
    int writable;
    struct place upper;
    struct place work;
    const struct list *options;
};

static int open_place(struct walk *walk, const struct place *place) {
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };
    int fd = sys_openat2(place->tree, place->name[0] ? place->name : ".", &how);
    return fd < 0 ? fail(walk->failure, "openat2", "%s of the overlay", place->name) : fd;
}

static int give_layer(int context, const char *key, int fd) {
    return fsconfig(context, FSCONFIG_SET_FD, key, NULL, fd);
}

/* A detached overlay; -1 with the failure filled; -2: this kernel takes no descriptors. */
static int mount_by_descriptors(struct walk *walk, const struct stack *stack) {
    SCOPED_FD context = context_open(walk->failure, "overlay");
    if (context < 0)
        return -1;
    for (uint32_t i = 0; i < stack->lowers->count; i++)
        if (give_layer(context, "lowerdir+", walk->slot[stack->lowers->items[i]]) < 0)
            return i == 0 && errno == EINVAL ? -2 : context_fail(walk->failure, context, "fsconfig", "lowerdir+");
    if (stack->writable) {
        SCOPED_FD upper = open_place(walk, &stack->upper);
        SCOPED_FD work = upper < 0 ? -1 : open_place(walk, &stack->work);
        if (work < 0)
            return -1;
        if (give_layer(context, "upperdir", upper) < 0)
            return context_fail(walk->failure, context, "fsconfig", "upperdir");
        if (give_layer(context, "workdir", work) < 0)
            return context_fail(walk->failure, context, "fsconfig", "workdir");
    }
    for (uint32_t i = 0; i < stack->options->count; i++)
        if (context_option(walk->failure, context, stack->options->items[i]) < 0)
            return -1;
    return context_mount(walk->failure, context, stack->writable ? 0 : MOUNT_ATTR_RDONLY, "overlay");
}

/* Attach the tree at `name` in the present directory. */
static int show_tree(struct walk *walk, int tree, const char *name) {
    if (mkdir(name, 0700) < 0 && errno != EEXIST)
        return fail(walk->failure, "mkdir", "%s in the overlay's stage", name);
    if (move_mount(tree, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fail(walk->failure, "move_mount", "%s in the overlay's stage", name);
    return 0;
}

/* The option text for mount(2), in names relative to the stage; the trees are attached there. */
static int show_stack(struct walk *walk, const struct stack *stack, char *text, size_t size) {
    char name[16];
    size_t used = (size_t)snprintf(text, size, "lowerdir=");
    for (uint32_t i = 0; i < stack->lowers->count && used < size; i++) {
        snprintf(name, sizeof name, "%u", i);
        if (show_tree(walk, walk->slot[stack->lowers->items[i]], name) < 0)
            return -1;
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ":" : "", name);
    }
    if (stack->writable && used < size) {
        int same = stack->upper.tree == stack->work.tree;
        if (show_tree(walk, stack->upper.tree, "u") < 0 || (!same && show_tree(walk, stack->work.tree, "w") < 0))
            return -1;
        used += (size_t)snprintf(text + used, size - used, ",upperdir=u/%s,workdir=%s/%s", stack->upper.name,
                                 same ? "u" : "w", stack->work.name);
    }
    for (uint32_t i = 0; i < stack->options->count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, ",%s", stack->options->items[i]);
    if (used < size)
        return 0;
    errno = E2BIG;
    return fail(walk->failure, "mount", "the options of the overlay do not fit a page");
}

static int mount_on_stage(struct walk *walk, const struct stack *stack) {
    char text[4096];
    unsigned long flags = stack->writable ? 0 : MS_RDONLY;
    if (show_stack(walk, stack, text, sizeof text) < 0)
        return -1;
    if (mkdir("m", 0700) < 0)
        return fail(walk->failure, "mkdir", "m in the overlay's stage");
    if (mount("overlay", "m", "overlay", flags, text) < 0)
        return fail(walk->failure, "mount", "overlay %s", text);
    int tree = open_tree(AT_FDCWD, "m", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    return tree < 0 ? fail(walk->failure, "open_tree", "the overlay") : tree;
}

static int mount_by_paths(struct walk *walk, const struct stack *stack) {
    SCOPED_FD context = context_open(walk->failure, "tmpfs");
    SCOPED_FD tmpfs = context < 0 ? -1 : context_mount(walk->failure, context, 0, "the overlay's stage");
    if (tmpfs < 0)
        return -1;
    if (walk->root_place < 0 || attach_tree(tmpfs, walk->root_place) < 0)
        return fail(walk->failure, "move_mount", "the overlay's stage");
    if (fchdir(tmpfs) < 0)
        return fail(walk->failure, "fchdir", "the overlay's stage");
    int tree = mount_on_stage(walk, stack);
    int error = errno;
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        if (tree >= 0)
            close(tree);
        return fail(walk->failure, "umount2", "the overlay's stage");
    }
    errno = error;
    return tree;
}

/* overlayfs wants two lower layers where there is no upper one; a single layer needs no overlay. */
static int show_single(struct walk *walk, int tree) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    int copy = fcntl(tree, F_DUPFD_CLOEXEC, 3);
    if (copy < 0 || mount_setattr(copy, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "the only layer, read-only");
    return copy;
}

int step_mount_overlay(struct walk *walk, const struct step *step) {
    uint64_t upper = number_of(step, 2);
    uint64_t work = number_of(step, 3);
    struct stack stack = {
        .lowers = &step->field[1].numbers, .writable = upper != NO_SLOT, .options = &step->field[4].list};
    for (uint32_t i = 0; i < stack.lowers->count; i++)
        if (slot_get(walk, stack.lowers->items[i]) < 0)
            return -1;
    if (stack.writable) {
        stack.upper = (struct place){slot_get(walk, upper), upper == work ? "fs" : ""};
        stack.work = (struct place){slot_get(walk, work), upper == work ? "work" : ""};
        if (stack.upper.tree < 0 || stack.work.tree < 0)
            return -1;
    }
    int tree = stack.writable || stack.lowers->count > 1 ? mount_by_descriptors(walk, &stack)
                                                         : show_single(walk, walk->slot[stack.lowers->items[0]]);
    if (tree == -2)
        tree = mount_by_paths(walk, &stack);
    if (tree < 0)
        return -1;
    slot_fill(walk, (unsigned)number_of(step, 0), tree);
    return 0;
}

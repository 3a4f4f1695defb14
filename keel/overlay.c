/* MOUNT_OVERLAY: a stack of trees that are in slots, mounted by init with its own credentials.
 *
 * overlayfs takes only layers whose mount namespace belongs to the caller (seen on 6.18: EPERM for
 * a detached tree of the host's), so the trees are attached first, one over the other where the
 * root will be, out of everybody's sight. Since 6.13 the layers are given as descriptors, before
 * that by name below /proc/self/fd. overlayfs keeps the path of each and shows it to the container
 * in mountinfo; it looks for it from the caller's root, so that is where the layers are meanwhile.
 * Source: Documentation/filesystems/overlayfs.rst. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fsmount.h"
#include "syscalls.h"
#include "walk.h"

/* Where upper and work lie: two directories of one tree (one mount is required), or two trees. */
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
    int host_root; /* init's own root */
};

static int open_place(struct walk *walk, const struct place *place) {
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };
    int fd = sys_openat2(place->tree, place->name[0] ? place->name : ".", &how);
    return fd < 0 ? fail(walk->failure, "openat2", "%s of the overlay", place->name) : fd;
}

/* Attach the tree in `slot` to init's mount namespace, once. */
static int attach_layer(struct walk *walk, uint64_t slot) {
    int tree = slot_get(walk, slot);
    if (tree < 0)
        return -1;
    if (!walk->attached[slot] && attach_tree(tree, walk->root_place) < 0)
        return fail(walk->failure, "move_mount", "layer in slot %llu", (unsigned long long)slot);
    walk->attached[slot] = 1;
    return 0;
}

static int attach_layers(struct walk *walk, const struct step *step) {
    const struct numbers *lowers = &step->field[1].numbers;
    for (uint32_t i = 0; i < lowers->count; i++)
        if (attach_layer(walk, lowers->items[i]) < 0)
            return -1;
    if (number_of(step, 2) == NO_SLOT)
        return 0;
    return attach_layer(walk, number_of(step, 2)) < 0 || attach_layer(walk, number_of(step, 3)) < 0
               ? -1
               : 0;
}

static int set_root(struct walk *walk, int directory) {
    return fchdir(directory) < 0 || chroot(".") < 0
               ? fail(walk->failure, "chroot", "to name the layers")
               : 0;
}

/* Before Linux 6.13: by name, relative to /proc/self/fd as one option holds 255 bytes. */
static int name_lowers(struct walk *walk, int context, const struct stack *stack) {
    char text[256];
    size_t used = 0;
    /* names are looked up when they are given or, before Linux 6.5, at the end */
    if (set_root(walk, stack->host_root) < 0)
        return -1;
    if (chdir("/proc/self/fd") < 0)
        return fail(walk->failure, "chdir", "/proc/self/fd");
    for (uint32_t i = 0; i < stack->lowers->count && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i ? ":" : "",
                                 walk->slot[stack->lowers->items[i]]);
    if (used < sizeof text) {
        int result = fsconfig(context, FSCONFIG_SET_STRING, "lowerdir", text, 0);
        return result < 0 ? context_fail(walk->failure, context, "fsconfig", "lowerdir") : 0;
    }
    /* since Linux 6.8 one by one */
    for (uint32_t i = 0; i < stack->lowers->count; i++) {
        snprintf(text, sizeof text, "%d", walk->slot[stack->lowers->items[i]]);
        if (fsconfig(context, FSCONFIG_SET_STRING, "lowerdir+", text, 0) < 0)
            return context_fail(walk->failure, context, "fsconfig", "lowerdir+");
    }
    return 0;
}

/* 0: done; 1: done by name, as this kernel takes no descriptors; -1. */
static int give_lowers(struct walk *walk, int context, const struct stack *stack) {
    for (uint32_t i = 0; i < stack->lowers->count; i++) {
        if (fsconfig(context, FSCONFIG_SET_FD, "lowerdir+", NULL,
                     walk->slot[stack->lowers->items[i]]) == 0)
            continue;
        /* before 6.5 overlayfs is a legacy file system, whose options are strings */
        if (i > 0 || (errno != EINVAL && errno != EOPNOTSUPP))
            return context_fail(walk->failure, context, "fsconfig", "lowerdir+");
        return name_lowers(walk, context, stack) < 0 ? -1 : 1;
    }
    return 0;
}

static int give_directory(struct walk *walk, int context, const char *key, int fd, int by_name) {
    char name[16];
    snprintf(name, sizeof name, "%d", fd);
    int result = by_name ? fsconfig(context, FSCONFIG_SET_STRING, key, name, 0)
                         : fsconfig(context, FSCONFIG_SET_FD, key, NULL, fd);
    return result < 0 ? context_fail(walk->failure, context, "fsconfig", key) : 0;
}

static int mount_stack(struct walk *walk, const struct stack *stack) {
    SCOPED_FD context = context_open(walk->failure, "overlay");
    if (context < 0 || set_root(walk, walk->root_place) < 0)
        return -1;
    int by_name = give_lowers(walk, context, stack);
    if (by_name < 0)
        return -1;
    SCOPED_FD upper = stack->writable ? open_place(walk, &stack->upper) : -1;
    SCOPED_FD work = upper < 0 ? -1 : open_place(walk, &stack->work);
    if (stack->writable &&
        (work < 0 || give_directory(walk, context, "upperdir", upper, by_name) < 0 ||
         give_directory(walk, context, "workdir", work, by_name) < 0))
        return -1;
    for (uint32_t i = 0; i < stack->options->count; i++)
        if (context_option(walk->failure, context, stack->options->items[i]) < 0)
            return -1;
    return context_mount(walk->failure, context, stack->writable ? 0 : MOUNT_ATTR_RDONLY,
                         "overlay");
}

/* overlayfs wants two lower layers where there is no upper one; a single layer needs no overlay. */
static int show_single(struct walk *walk, int tree) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    int copy = fcntl(tree, F_DUPFD_CLOEXEC, 3);
    if (copy < 0 || mount_setattr(copy, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
        return fail(walk->failure, "mount_setattr", "the only layer, read-only");
    return copy;
}

/* Init's root is the place of the layers meanwhile, also when this fails half-way. */
static int mount_layers(struct walk *walk, const struct step *step) {
    uint64_t upper = number_of(step, 2);
    uint64_t work = number_of(step, 3);
    SCOPED_FD host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stack stack = {.lowers = &step->field[1].numbers,
                          .writable = upper != NO_SLOT,
                          .options = &step->field[4].list,
                          .host_root = host_root};
    if (host_root < 0)
        return fail(walk->failure, "open", "/");
    if (attach_layers(walk, step) < 0)
        return -1;
    if (stack.writable) {
        stack.upper = (struct place){slot_get(walk, upper), upper == work ? "fs" : ""};
        stack.work = (struct place){slot_get(walk, work), upper == work ? "work" : ""};
    }
    int tree = mount_stack(walk, &stack);
    return set_root(walk, host_root) < 0 ? -1 : tree;
}

int step_mount_overlay(struct walk *walk, const struct step *step) {
    const struct numbers *lowers = &step->field[1].numbers;
    int tree;
    if (number_of(step, 2) == NO_SLOT && lowers->count == 1) {
        int only = slot_get(walk, lowers->items[0]);
        tree = only < 0 ? -1 : show_single(walk, only);
    } else {
        tree = mount_layers(walk, step);
    }
    if (tree < 0)
        return -1;
    slot_fill(walk, (unsigned)number_of(step, 0), tree);
    return 0;
}

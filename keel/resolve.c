#include "resolve.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "keel.h"
#include "syscalls.h"

enum { EAGAIN_TRIES = 256, MAX_LINKS = 40, PARENT_MODE = 0755 };

int resolve_in(int root, const char *path, uint64_t flags, uint64_t resolve) {
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
    };
    for (int i = 0; i < EAGAIN_TRIES; i++) {
        /* EAGAIN: something was renamed or mounted anywhere while ".." was resolved */
        int fd = sys_openat2(root, path, &how);
        if (fd >= 0 || errno != EAGAIN)
            return fd;
    }
    return -1;
}

int is_on(int fd, unsigned long magic) {
    struct statfs facts;
    return fstatfs(fd, &facts) == 0 && (unsigned long)facts.f_type == magic;
}

/* Put where the dangling link `name` in `parent` points, and `rest`, into `todo`. `prefix` is the
 * length of the part of `todo` that names the parent. */
static int expand_link(int parent, const char *name, char *todo, size_t prefix, const char *rest) {
    char link[PATH_MAX];
    char expanded[PATH_MAX];
    ssize_t length = readlinkat(parent, name, link, sizeof link - 1);
    if (length < 0)
        return -1;
    link[length] = '\0';
    int size = snprintf(expanded, sizeof expanded, "%.*s/%s/%s", link[0] == '/' ? 0 : (int)prefix,
                        todo, link, rest);
    if (size < 0 || (size_t)size >= sizeof expanded) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(todo, expanded, (size_t)size + 1);
    return 0;
}

static int make_one(int parent, const char *name, mode_t mode) {
    return S_ISDIR(mode) ? mkdirat(parent, name, mode & 07777) : mknodat(parent, name, mode, 0);
}

/* Walk `todo` and make what is missing. The descriptor, -1 with errno, or -2: a dangling link was
 * expanded, walk again. */
static int make_once(int root, char *todo, mode_t mode) {
    size_t end = 0;
    size_t parent_end = 0;
    SCOPED_FD parent = resolve_in(root, "/", O_PATH | O_DIRECTORY, 0);
    while (parent >= 0) {
        size_t start = end + strspn(todo + end, "/");
        end = start + strcspn(todo + start, "/");
        int last = todo[end + strspn(todo + end, "/")] == '\0';
        if (start == end)
            return resolve_in(root, "/", O_PATH, 0);
        char after = todo[end];
        todo[end] = '\0';
        int here = resolve_in(root, todo, O_PATH, 0);
        if (here < 0 && errno == ENOENT) {
            if (make_one(parent, todo + start, last ? mode : S_IFDIR | PARENT_MODE) == 0)
                here = resolve_in(root, todo, O_PATH, 0);
            else if (errno == EEXIST)
                return expand_link(parent, todo + start, todo, parent_end,
                                   after ? todo + end + 1 : "") < 0
                           ? -1
                           : -2;
        }
        todo[end] = after;
        if (here < 0 || last)
            return here;
        close(parent);
        parent = here;
        parent_end = end;
    }
    return -1;
}

int make_in(int root, const char *path, mode_t mode) {
    char todo[PATH_MAX];
    int fd = resolve_in(root, path, O_PATH, 0);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (strlen(path) >= sizeof todo) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(todo, path);
    for (int i = 0; i < MAX_LINKS; i++) {
        fd = make_once(root, todo, mode);
        if (fd != -2)
            return fd;
    }
    errno = ELOOP;
    return -1;
}

int make_target_in(int root, const char *path, mode_t mode) {
    int fd = make_in(root, path, mode);
    if (fd < 0 || !is_on(fd, PROC_SUPER_MAGIC))
        return fd;
    close(fd);
    return resolve_in(root, path, O_PATH, RESOLVE_NO_SYMLINKS);
}

int make_parent_in(int root, const char *path, char *name) {
    char directory[PATH_MAX];
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/')
        length--;
    size_t start = length;
    while (start > 0 && path[start - 1] != '/')
        start--;
    size_t size = length - start;
    int dots = (size == 1 && path[start] == '.') ||
               (size == 2 && path[start] == '.' && path[start + 1] == '.');
    if (size == 0 || dots || size > NAME_MAX || start >= sizeof directory) {
        errno = size > NAME_MAX || start >= sizeof directory ? ENAMETOOLONG : EINVAL;
        return -1;
    }
    memcpy(name, path + start, size);
    name[size] = '\0';
    memcpy(directory, path, start);
    directory[start] = '\0';
    return make_in(root, start ? directory : "/", S_IFDIR | PARENT_MODE);
}

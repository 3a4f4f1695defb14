/* Init's writes to its procfs: kernel parameters, security labels. Only a file of a procfs that
 * nothing covers is written to (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881). */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

enum { PROC_ROOT_INODE = 1 };

/* /proc of the root, and only if it is the root of a procfs. */
static int open_proc(struct walk *walk) {
    struct stat facts;
    int root = init_root(walk);
    int proc = root < 0 ? -1 : resolve_in(root, "/proc", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
    if (root < 0 || proc < 0)
        return root < 0 ? -1 : fail(walk->failure, "openat2", "/proc");
    if (is_on(proc, PROC_SUPER_MAGIC) && fstat(proc, &facts) == 0 &&
        facts.st_ino == PROC_ROOT_INODE)
        return proc;
    close(proc);
    errno = EXDEV;
    return fail(walk->failure, "fstatfs", "/proc is not a procfs");
}

/* A file of procfs to write to; nothing may be mounted over it: a write meant for a setting would
 * reach something else. */
static int open_in_proc(int proc, const char *path) {
    struct open_how how = {
        .flags = O_WRONLY | O_CLOEXEC | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
    };
    return sys_openat2(proc, path, &how);
}

/* "net.ipv4.ip_forward" → "sys/net/ipv4/ip_forward"; a key with slashes is taken as it is
 * (sysctl(8): dots in an interface's name). */
static int sysctl_path(const char *key, char *path, size_t size) {
    int length = snprintf(path, size, "sys/%s", key);
    if (length < 0 || (size_t)length >= size) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (char *at = path; !strchr(key, '/') && (at = strchr(at, '.'));)
        *at = '/';
    return 0;
}

int step_write_sysctl(struct walk *walk, const struct step *step) {
    char path[512];
    const char *key = text_of(step, 0);
    const struct blob *value = &step->field[1].text;
    if (sysctl_path(key, path, sizeof path) < 0)
        return fail(walk->failure, "openat2", "%s", key);
    SCOPED_FD proc = open_proc(walk);
    if (proc < 0)
        return -1;
    SCOPED_FD file = open_in_proc(proc, path);
    if (file < 0)
        return fail(walk->failure, "openat2", "/proc/%s", path);
    if (write(file, value->bytes, value->length) != (ssize_t)value->length)
        return fail(walk->failure, "write", "%s to /proc/%s", value->bytes, path);
    return 0;
}

/* /proc/self is a link, which is not followed: its target is a number, and nothing else. */
static int own_directory(int proc, char *name, size_t size) {
    ssize_t length = readlinkat(proc, "self", name, size - 1);
    if (length <= 0)
        return -1;
    name[length] = '\0';
    if ((size_t)length == strspn(name, "0123456789"))
        return 0;
    errno = EXDEV;
    return -1;
}

int step_set_label(struct walk *walk, const struct step *step) {
    char self[16];
    char path[128];
    const struct blob *label = &step->field[2].text;
    SCOPED_FD proc = open_proc(walk);
    if (proc < 0)
        return -1;
    if (own_directory(proc, self, sizeof self) < 0)
        return fail(walk->failure, "readlink", "/proc/self");
    SCOPED_FD file = -1;
    for (unsigned i = 0; i < 2 && file < 0 && *text_of(step, i); i++) {
        snprintf(path, sizeof path, "%s/attr/%s", self, text_of(step, i));
        file = open_in_proc(proc, path);
        if (file < 0 && errno != ENOENT)
            break;
    }
    if (file < 0)
        return fail(walk->failure, "openat2", "/proc/%s", path);
    if (write(file, label->bytes, label->length) != (ssize_t)label->length)
        return fail(walk->failure, "write", "%s to /proc/%s", label->bytes, path);
    return 0;
}

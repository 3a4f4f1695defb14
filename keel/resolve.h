/* Paths inside the container's root: resolved from its descriptor, never as strings of the host. */
#ifndef KEEL_RESOLVE_H
#define KEEL_RESOLVE_H

#include <stdint.h>
#include <sys/types.h>

/* openat2 in `root`: symbolic links and ".." cannot leave it, magic links are refused. `resolve`:
 * further RESOLVE_* bits. Owned descriptor, close-on-exec, or -1 with errno. */
int resolve_in(int root, const char *path, uint64_t flags, uint64_t resolve);

/* O_PATH descriptor of `path`; what is missing is made: parents as directories (0755), the last
 * component by `mode` (S_IFDIR or S_IFREG with permissions). The targets of dangling symbolic links
 * are made too, inside the root. -1 with errno. */
int make_in(int root, const char *path, mode_t mode);

/* As make_in, for a mount point. On procfs no symbolic link is followed (ELOOP): what lies there is
 * the process's own view, and a link in it leads elsewhere for everyone. */
int make_target_in(int root, const char *path, mode_t mode);

/* O_PATH descriptor of the directory that holds the last component of `path`, made if missing; the
 * component is written to `name` (NAME_MAX + 1 bytes). */
int make_parent_in(int root, const char *path, char *name);

/* 1 if `fd` lies on a file system of this magic (statfs(2)). */
int is_on(int fd, unsigned long magic);

#endif

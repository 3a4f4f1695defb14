/* System calls that glibc 2.36 does not wrap, or wraps without what is needed here. */
#ifndef KEEL_SYSCALLS_H
#define KEEL_SYSCALLS_H

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef FSOPEN_CLOEXEC
#error "glibc 2.36 or newer is needed for the mount API"
#endif

static inline int sys_openat2(int dirfd, const char *path, struct open_how *how) {
    return (int)syscall(SYS_openat2, dirfd, path, how, sizeof *how);
}

static inline pid_t sys_clone3(struct clone_args *arguments) {
    return (pid_t)syscall(SYS_clone3, arguments, sizeof *arguments);
}

static inline int sys_pivot_root(const char *new_root, const char *put_old) {
    return (int)syscall(SYS_pivot_root, new_root, put_old);
}

static inline ssize_t sys_getxattr(const char *path, const char *name, void *value, size_t size) {
    return (ssize_t)syscall(SYS_getxattr, path, name, value, size);
}

static inline int sys_seccomp(unsigned operation, unsigned flags, void *arguments) {
    return (int)syscall(SYS_seccomp, operation, flags, arguments);
}

static inline int sys_memfd_create(const char *name, unsigned flags) {
    return (int)syscall(SYS_memfd_create, name, flags);
}

/* Ignore a signal or not; no handlers. The C library's call refuses its own two signals. */
static inline int sys_set_handler(int number, void (*handler)(int)) {
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } action = {.handler = handler};
    return (int)syscall(SYS_rt_sigaction, number, &action, NULL, sizeof action.mask);
}

static inline int sys_pidfd_send_signal(int pidfd, int signal) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

/* Attach a detached tree (or move an attached one) onto what `target` is open on. */
static inline int attach_tree(int tree, int target) {
    return move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

#endif

/* The calls that keel makes of the kernel, as their manual pages (section 2) have them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "call.h"

enum { KERNEL_SIGSET_BYTES = 8 };

/* ---- files ---- */

int openat(int directory, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return (int)CALL(SYS_openat, directory, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat(AT_FDCWD, path, flags, mode);
}
int close(int file) { return (int)CALL(SYS_close, file); }
int close_range(unsigned first, unsigned last, int flags) {
    return (int)CALL(SYS_close_range, first, last, flags);
}
ssize_t read(int file, void *into, size_t size) { return CALL(SYS_read, file, into, size); }
ssize_t pread(int file, void *into, size_t size, off_t offset) {
    return CALL(SYS_pread64, file, into, size, offset);
}
ssize_t write(int file, const void *from, size_t size) { return CALL(SYS_write, file, from, size); }
off_t lseek(int file, off_t offset, int whence) { return CALL(SYS_lseek, file, offset, whence); }
int ftruncate(int file, off_t size) { return (int)CALL(SYS_ftruncate, file, size); }
ssize_t sendfile(int to, int from, off_t *offset, size_t count) {
    return CALL(SYS_sendfile, to, from, offset, count);
}
int dup2(int file, int number) { return (int)CALL(SYS_dup2, file, number); }
int pipe2(int ends[2], int flags) { return (int)CALL(SYS_pipe2, ends, flags); }
int fcntl(int file, int operation, ...) {
    va_list rest;
    va_start(rest, operation);
    long argument = va_arg(rest, long);
    va_end(rest);
    return (int)CALL(SYS_fcntl, file, operation, argument);
}
int ioctl(int file, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    long argument = va_arg(rest, long);
    va_end(rest);
    return (int)CALL(SYS_ioctl, file, request, argument);
}
int fstatat(int directory, const char *restrict path, struct stat *restrict facts, int flags) {
    return (int)CALL(SYS_newfstatat, directory, path, facts, flags);
}
int fstat(int file, struct stat *facts) { return (int)CALL(SYS_fstat, file, facts); }
int stat(const char *restrict path, struct stat *restrict facts) {
    return (int)CALL(SYS_stat, path, facts);
}
int statfs(const char *path, struct statfs *facts) { return (int)CALL(SYS_statfs, path, facts); }
int fstatfs(int file, struct statfs *facts) { return (int)CALL(SYS_fstatfs, file, facts); }
int faccessat(int directory, const char *path, int mode, int flags) {
    return (int)CALL(SYS_faccessat2, directory, path, mode, flags);
}
ssize_t getdents64(int directory, void *into, size_t size) {
    return CALL(SYS_getdents64, directory, into, size);
}
ssize_t readlinkat(int directory, const char *restrict path, char *restrict into, size_t size) {
    return CALL(SYS_readlinkat, directory, path, into, size);
}
int mkdirat(int directory, const char *path, mode_t mode) {
    return (int)CALL(SYS_mkdirat, directory, path, mode);
}
int mknodat(int directory, const char *path, mode_t mode, dev_t device) {
    return (int)CALL(SYS_mknodat, directory, path, mode, device);
}
int symlinkat(const char *target, int directory, const char *path) {
    return (int)CALL(SYS_symlinkat, target, directory, path);
}
int unlinkat(int directory, const char *path, int flags) {
    return (int)CALL(SYS_unlinkat, directory, path, flags);
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return (int)CALL(SYS_renameat, from_directory, from, to_directory, to);
}
int fchown(int file, uid_t uid, gid_t gid) { return (int)CALL(SYS_fchown, file, uid, gid); }
int fchownat(int directory, const char *path, uid_t uid, gid_t gid, int flags) {
    return (int)CALL(SYS_fchownat, directory, path, uid, gid, flags);
}
int fchmod(int file, mode_t mode) { return (int)CALL(SYS_fchmod, file, mode); }
int fchmodat(int directory, const char *path, mode_t mode, int flags) {
    if (flags) {
        errno = EINVAL;
        return -1;
    }
    return (int)CALL(SYS_fchmodat, directory, path, mode);
}
int utimensat(int directory, const char *path, const struct timespec times[2], int flags) {
    return (int)CALL(SYS_utimensat, directory, path, times, flags);
}
mode_t umask(mode_t mask) { return (mode_t)CALL(SYS_umask, mask); }
int chdir(const char *path) { return (int)CALL(SYS_chdir, path); }
int fchdir(int directory) { return (int)CALL(SYS_fchdir, directory); }
int chroot(const char *path) { return (int)CALL(SYS_chroot, path); }

/* ---- mounts ---- */

int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data) {
    return (int)CALL(SYS_mount, source, target, type, flags, data);
}
int umount2(const char *target, int flags) { return (int)CALL(SYS_umount2, target, flags); }
int open_tree(int directory, const char *path, unsigned flags) {
    return (int)CALL(SYS_open_tree, directory, path, flags);
}
int move_mount(int from_directory, const char *from, int to_directory, const char *to,
               unsigned flags) {
    return (int)CALL(SYS_move_mount, from_directory, from, to_directory, to, flags);
}
int mount_setattr(int directory, const char *path, unsigned flags, struct mount_attr *attributes,
                  size_t size) {
    return (int)CALL(SYS_mount_setattr, directory, path, flags, attributes, size);
}
int fsopen(const char *type, unsigned flags) { return (int)CALL(SYS_fsopen, type, flags); }
int fsconfig(int context, unsigned command, const char *key, const void *value, int number) {
    return (int)CALL(SYS_fsconfig, context, command, key, value, number);
}
int fsmount(int context, unsigned flags, unsigned attributes) {
    return (int)CALL(SYS_fsmount, context, flags, attributes);
}

/* ---- processes ---- */

pid_t fork(void) { return (pid_t)CALL(SYS_fork); }
int execve(const char *path, char *const arguments[], char *const environment[]) {
    return (int)CALL(SYS_execve, path, arguments, environment);
}
uid_t geteuid(void) { return (uid_t)CALL(SYS_geteuid); }
pid_t getpid(void) { return (pid_t)CALL(SYS_getpid); }
pid_t getpgrp(void) { return (pid_t)CALL(SYS_getpgrp); }
int setpgid(pid_t pid, pid_t group) { return (int)CALL(SYS_setpgid, pid, group); }
pid_t setsid(void) { return (pid_t)CALL(SYS_setsid); }
int tcsetpgrp(int terminal, pid_t group) { return ioctl(terminal, TIOCSPGRP, &group); }
pid_t waitpid(pid_t pid, int *status, int options) {
    return (pid_t)CALL(SYS_wait4, pid, status, options);
}
int waitid(idtype_t kind, id_t id, siginfo_t *info, int options) {
    return (int)CALL(SYS_waitid, kind, id, info, options);
}
int prctl(int operation, ...) {
    va_list rest;
    long arguments[4];
    va_start(rest, operation);
    for (int i = 0; i < 4; i++)
        arguments[i] = va_arg(rest, long);
    va_end(rest);
    return (int)CALL(SYS_prctl, operation, arguments[0], arguments[1], arguments[2], arguments[3]);
}
int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit,
            struct rlimit *old) {
    return (int)CALL(SYS_prlimit64, pid, resource, limit, old);
}
int unshare(int flags) { return (int)CALL(SYS_unshare, flags); }
int setns(int file, int kind) { return (int)CALL(SYS_setns, file, kind); }
int sethostname(const char *name, size_t length) {
    return (int)CALL(SYS_sethostname, name, length);
}
int setdomainname(const char *name, size_t length) {
    return (int)CALL(SYS_setdomainname, name, length);
}
int setgroups(size_t count, const gid_t *groups) {
    return (int)CALL(SYS_setgroups, count, groups);
}
int setresuid(uid_t real, uid_t effective, uid_t saved) {
    return (int)CALL(SYS_setresuid, real, effective, saved);
}
int setresgid(gid_t real, gid_t effective, gid_t saved) {
    return (int)CALL(SYS_setresgid, real, effective, saved);
}

/* ---- signals ---- */

int kill(pid_t pid, int number) { return (int)CALL(SYS_kill, pid, number); }
int sigemptyset(sigset_t *set) {
    *set = (sigset_t){0};
    return 0;
}
int sigfillset(sigset_t *set) {
    *set = (sigset_t){{~0ul}};
    return 0;
}
int sigaddset(sigset_t *set, int number) {
    set->__val[0] |= 1ul << (number - 1);
    return 0;
}
int sigdelset(sigset_t *set, int number) {
    set->__val[0] &= ~(1ul << (number - 1));
    return 0;
}
int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old) {
    return (int)CALL(SYS_rt_sigprocmask, how, set, old, KERNEL_SIGSET_BYTES);
}
int signalfd(int file, const sigset_t *set, int flags) {
    return (int)CALL(SYS_signalfd4, file, set, KERNEL_SIGSET_BYTES, flags);
}
int sigwaitinfo(const sigset_t *restrict set, siginfo_t *restrict info) {
    return (int)CALL(SYS_rt_sigtimedwait, set, info, NULL, KERNEL_SIGSET_BYTES);
}

/* ---- sockets and events ---- */

int socket(int domain, int type, int protocol) {
    return (int)CALL(SYS_socket, domain, type, protocol);
}
int socketpair(int domain, int type, int protocol, int ends[2]) {
    return (int)CALL(SYS_socketpair, domain, type, protocol, ends);
}
int bind(int file, __CONST_SOCKADDR_ARG address, socklen_t size) {
    return (int)CALL(SYS_bind, file, address.__sockaddr__, size);
}
int connect(int file, __CONST_SOCKADDR_ARG address, socklen_t size) {
    return (int)CALL(SYS_connect, file, address.__sockaddr__, size);
}
int listen(int file, int backlog) { return (int)CALL(SYS_listen, file, backlog); }
int accept4(int file, __SOCKADDR_ARG address, socklen_t *restrict size, int flags) {
    return (int)CALL(SYS_accept4, file, address.__sockaddr__, size, flags);
}
int shutdown(int file, int how) { return (int)CALL(SYS_shutdown, file, how); }
int setsockopt(int file, int level, int name, const void *value, socklen_t size) {
    return (int)CALL(SYS_setsockopt, file, level, name, value, size);
}
ssize_t recv(int file, void *into, size_t size, int flags) {
    return CALL(SYS_recvfrom, file, into, size, flags);
}
ssize_t recvmsg(int file, struct msghdr *message, int flags) {
    return CALL(SYS_recvmsg, file, message, flags);
}
ssize_t sendmsg(int file, const struct msghdr *message, int flags) {
    return CALL(SYS_sendmsg, file, message, flags);
}
int poll(struct pollfd *files, nfds_t count, int timeout_ms) {
    return (int)CALL(SYS_poll, files, count, timeout_ms);
}
int epoll_create1(int flags) { return (int)CALL(SYS_epoll_create1, flags); }
int epoll_ctl(int epoll, int operation, int file, struct epoll_event *event) {
    return (int)CALL(SYS_epoll_ctl, epoll, operation, file, event);
}
int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout_ms) {
    return (int)CALL(SYS_epoll_wait, epoll, events, count, timeout_ms);
}

/* ---- memory and time ---- */

void *mmap(void *address, size_t size, int protection, int flags, int file, off_t offset) {
    return (void *)CALL(SYS_mmap, address, size, protection, flags, file, offset);
}
int munmap(void *address, size_t size) { return (int)CALL(SYS_munmap, address, size); }
int madvise(void *address, size_t size, int advice) {
    return (int)CALL(SYS_madvise, address, size, advice);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    return (int)CALL(SYS_clock_gettime, clock, now);
}

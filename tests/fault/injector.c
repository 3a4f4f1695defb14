/* Follows processes and all that they spawn; counts their effectful system calls, and lets one fail
 * or be the last of whoever makes it.
 *
 *   injector ROOTS                    counts until SIGTERM, then prints `role call count` lines
 *   injector ROOTS ROLE CALL N KIND   strikes the N-th CALL of ROLE, prints `hit`, and lets go of all
 *
 * ROOTS is `ROLE=PID,ROLE=PID`: every thread of these has that role. Others' are `spawn` (a root's child
 * before it executes something), `keel` (executed from a descriptor, and not yet named), or a process's
 * name (`keel:monitor`, `nft`, …), which a root without a role has too. KIND is KILL (before the call is made) or the number of
 * an errno, which is answered without the call being made. `ready` is printed once all roots are traced.
 * Tracees are seized: when the injector ends they go on. */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/ptrace.h>

#ifndef __x86_64__
#error "the registers that hold a call and its answer are known for x86-64 only"
#endif

struct call {
    const char *name;
    long number;
};
#define CALL(name) {#name, SYS_##name},
/* Calls that change something, or without which nothing can be changed. */
static const struct call calls[] = {
    CALL(openat) CALL(openat2) CALL(open) CALL(write) CALL(writev) CALL(pwrite64) CALL(mkdir)
    CALL(mkdirat) CALL(rename) CALL(renameat) CALL(renameat2) CALL(unlink) CALL(unlinkat)
    CALL(rmdir) CALL(truncate) CALL(ftruncate) CALL(fsync) CALL(fdatasync) CALL(syncfs)
    CALL(fchmod) CALL(fchmodat) CALL(fchown) CALL(fchownat) CALL(chmod) CALL(chown) CALL(lchown)
    CALL(symlink) CALL(symlinkat) CALL(link) CALL(linkat) CALL(mknod) CALL(mknodat)
    CALL(setxattr) CALL(lsetxattr) CALL(fsetxattr) CALL(utimensat) CALL(fallocate)
    CALL(sendfile) CALL(copy_file_range) CALL(clone) CALL(clone3) CALL(vfork) CALL(fork)
    CALL(execve) CALL(execveat) CALL(memfd_create) CALL(pidfd_open) CALL(pidfd_send_signal)
    CALL(kill) CALL(tgkill) CALL(socket) CALL(socketpair) CALL(bind) CALL(listen) CALL(connect)
    CALL(sendto) CALL(sendmsg) CALL(sendmmsg) CALL(setsockopt) CALL(accept4) CALL(setns)
    CALL(unshare) CALL(fsopen) CALL(fsconfig) CALL(fsmount) CALL(open_tree) CALL(move_mount)
    CALL(mount_setattr) CALL(mount) CALL(umount2) CALL(pivot_root) CALL(chroot) CALL(chdir)
    CALL(fchdir) CALL(fcntl) CALL(dup2) CALL(dup3) CALL(pipe2) CALL(ioctl) CALL(flock)
    CALL(epoll_create1) CALL(epoll_ctl) CALL(eventfd2) CALL(signalfd4) CALL(timerfd_create)
    CALL(timerfd_settime) CALL(inotify_init1) CALL(inotify_add_watch) CALL(prctl) CALL(seccomp)
    CALL(capset) CALL(setresuid) CALL(setresgid) CALL(setuid) CALL(setgid) CALL(setgroups)
    CALL(sethostname) CALL(setdomainname) CALL(setsid) CALL(setpgid) CALL(prlimit64)
    CALL(sched_setaffinity) CALL(keyctl) CALL(add_key) CALL(bpf) CALL(close_range)
};
enum { CALLS = sizeof calls / sizeof *calls, ROLE = 16, TRACEES = 4096, ROLES = 64, ROOTS = 16 };

struct root {
    pid_t pid;
    char role[ROLE]; /* empty: its name */
    char name[ROLE];
};

struct tracee {
    pid_t tid;
    char role[ROLE];
    int answer; /* errno that the call it is in has to answer */
};
static struct tracee tracees[TRACEES];
static int tracee_count;
static char roles[ROLES][ROLE];
static unsigned counts[ROLES][CALLS];
static struct root roots[ROOTS];
static int root_count;
static const char *struck_role;
static int struck_call, struck_errno, kills;
static unsigned struck_number;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct tracee *tracee_of(pid_t tid) {
    for (int i = 0; i < tracee_count; i++)
        if (tracees[i].tid == tid) return &tracees[i];
    if (tracee_count == TRACEES) die("too many tracees");
    tracees[tracee_count] = (struct tracee){.tid = tid};
    return &tracees[tracee_count++];
}

static void name_of(pid_t tid, char name[ROLE]) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", tid);
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(name, ROLE, file) == NULL) name[0] = 0;
    if (file != NULL) fclose(file);
    name[strcspn(name, "\n")] = 0;
    for (char *at = name; *at; at++)
        if (*at == ' ') *at = '_';
}

static int is_thread_of(pid_t tid, pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", pid, tid);
    return access(path, F_OK) == 0;
}

static const char *role_of(struct tracee *tracee) {
    if (tracee->role[0]) return tracee->role;
    for (int i = 0; i < root_count; i++)
        if (roots[i].role[0] && is_thread_of(tracee->tid, roots[i].pid))
            return strcpy(tracee->role, roots[i].role);
    name_of(tracee->tid, tracee->role);
    for (int i = 0; i < root_count; i++)
        if (roots[i].role[0] && strcmp(tracee->role, roots[i].name) == 0)
            strcpy(tracee->role, "spawn");
    if (strspn(tracee->role, "0123456789") == strlen(tracee->role)) strcpy(tracee->role, "keel");
    return tracee->role;
}

static unsigned count(const char *role, int call) {
    int at = 0;
    while (at < ROLES - 1 && roles[at][0] && strcmp(roles[at], role) != 0) at++;
    strcpy(roles[at], role);
    return ++counts[at][call];
}

static int known(long number) {
    for (int i = 0; i < CALLS; i++)
        if (calls[i].number == number) return i;
    return -1;
}

static void let_go(void) {
    puts("hit");
    fflush(stdout);
    exit(0); /* what was seized goes on */
}

static void entered(struct tracee *tracee, long number) {
    int call = known(number);
    if (call < 0) return;
    const char *role = role_of(tracee);
    unsigned nth = count(role, call);
    if (struck_role != NULL && call == struck_call && nth == struck_number &&
        strcmp(role, struck_role) == 0) {
        if (kills) {
            kill(tracee->tid, SIGKILL);
            let_go();
        }
        struct user_regs_struct registers;
        if (ptrace(PTRACE_GETREGS, tracee->tid, 0, &registers) != 0) return;
        registers.orig_rax = (unsigned long)-1;
        if (ptrace(PTRACE_SETREGS, tracee->tid, 0, &registers) != 0) return;
        tracee->answer = struck_errno;
    }
    if (number == SYS_prctl || number == SYS_execve || number == SYS_execveat)
        tracee->role[0] = 0; /* it may have another name afterwards */
}

static void answered(struct tracee *tracee) {
    if (tracee->answer == 0) return;
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, tracee->tid, 0, &registers) == 0) {
        registers.rax = (unsigned long)-tracee->answer;
        ptrace(PTRACE_SETREGS, tracee->tid, 0, &registers);
        let_go();
    }
    tracee->answer = 0;
}

static void stopped(pid_t tid, int status) {
    struct tracee *tracee = tracee_of(tid);
    int sig = WSTOPSIG(status), event = status >> 16, pass = 0;
    if (sig == (SIGTRAP | 0x80)) {
        struct ptrace_syscall_info info;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0) {
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
                entered(tracee, (long)info.entry.nr);
            else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
                answered(tracee);
        }
    } else if (event == PTRACE_EVENT_STOP &&
               (sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU)) {
        ptrace(PTRACE_LISTEN, tid, 0, 0);
        return;
    } else if (event == 0) {
        pass = sig;
    }
    ptrace(PTRACE_SYSCALL, tid, 0, pass);
}

static void seize(pid_t tid) {
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                   PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
    if (ptrace(PTRACE_SEIZE, tid, 0, options) != 0) {
        if (errno == EPERM || errno == ESRCH) return; /* seized by its parent's clone, or gone */
        die("ptrace");
    }
    ptrace(PTRACE_INTERRUPT, tid, 0, 0);
}

static void seize_all(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL) return; /* it has ended */
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        if (entry->d_name[0] != '.') seize(atoi(entry->d_name));
    closedir(tasks);
}

static int striking(void) {
    for (int i = 0; i < tracee_count; i++)
        if (tracees[i].answer) return 1;
    return 0;
}

static void report(void) {
    for (int role = 0; role < ROLES && roles[role][0]; role++)
        for (int call = 0; call < CALLS; call++)
            if (counts[role][call])
                printf("%s %s %u\n", roles[role], calls[call].name, counts[role][call]);
    exit(0);
}

static void parse_roots(char *text) {
    for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
        char *equals = strchr(word, '=');
        if (root_count == ROOTS || equals == NULL || equals - word >= ROLE) {
            fprintf(stderr, "not a root: %s\n", word);
            exit(2);
        }
        struct root *root = &roots[root_count++];
        memcpy(root->role, word, (size_t)(equals - word));
        root->pid = atoi(equals + 1);
        name_of(root->pid, root->name);
    }
}

static void parse(char **words) {
    struck_role = words[0];
    for (struck_call = 0; struck_call < CALLS; struck_call++)
        if (strcmp(calls[struck_call].name, words[1]) == 0) break;
    if (struck_call == CALLS) {
        fprintf(stderr, "unknown call %s\n", words[1]);
        exit(2);
    }
    struck_number = (unsigned)atoi(words[2]);
    kills = strcmp(words[3], "KILL") == 0;
    struck_errno = kills ? 0 : atoi(words[3]);
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 6) {
        fputs("usage: injector ROLE=PID[,ROLE=PID] [ROLE CALL N KILL|ERRNO]\n", stderr);
        return 2;
    }
    parse_roots(argv[1]);
    if (argc == 6) parse(argv + 2);
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGTERM);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    for (int i = 0; i < root_count; i++)
        seize_all(roots[i].pid);
    puts("ready");
    fflush(stdout);
    for (int ending = 0;;) {
        int status;
        pid_t tid;
        while ((tid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
            if (WIFSTOPPED(status))
                stopped(tid, status);
            else
                *tracee_of(tid) = tracees[--tracee_count];
        }
        if (tid < 0) report(); /* nobody is left */
        ending |= sigwaitinfo(&awaited, NULL) == SIGTERM;
        if (ending && !striking()) report();
    }
}

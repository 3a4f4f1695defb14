"""Onggi's own allow-list, as a value of the type that users' profiles have.

The facts are those of Docker's default profile (moby, profiles/seccomp/default.json), so that
what runs there runs here. Not in the list, and so never allowed by default: keyctl, add_key,
request_key, io_uring_*, userfaultfd, kexec_*, swapon, nfsservctl, migrate_pages; and without the
capability that they need: mount and its newer kin, bpf, perf_event_open, setns, unshare, clone
into new namespaces.

Different from Docker's, each for a reason:
- ioctl refuses TIOCSTI and TIOCLINUX, which put input into a terminal (CVE-2017-5226), with EIO as
  a kernel without them does. The kernel drops the upper half of the register that has the command,
  so only the lower is compared (CVE-2019-10063).
- socket lists the families above AF_ALG one by one: "greater than AF_VSOCK" would let through
  AF_ALG with a bit set in the upper half of the register.
- SPEC_ALLOW, as runc sets it when a profile says nothing of flags: before Linux 5.16 every filtered
  process would lose speculation otherwise.

32-bit x86 can still make any socket through socketcall(2): its arguments lie in memory, and the C
library of 32-bit programs uses nothing else.
"""

from __future__ import annotations

from onggi.kernel.seccomp.profile_format import ConditionalRule, Filter, MappedArchitecture, Profile
from onggi.specs.runtime import SeccompArg

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_EPERM = 1
_EIO = 5
_ENOSYS = 38

_ALWAYS = """
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir
chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range
creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32
fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
io_submit ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync
munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32
setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr
setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink
symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64
utimes vfork vmsplice wait4 waitid waitpid write writev
"""

#: CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET.
_NAMESPACE_FLAGS = 0x7E02_0000
_COMMAND_BITS = 0xFFFF_FFFF
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_AF_ALG = 38
#: AF_NFC, and from AF_KCM to AF_MCTP; AF_ALG and AF_VSOCK are what is left out.
_LATE_FAMILIES = (39, 41, 42, 43, 44, 45)
#: linux/personality.h: PER_LINUX, PER_LINUX32, UNAME26, both, and "only tell me".
_PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)


def _allow(
    names: str,
    *args: SeccompArg,
    includes: Filter | None = None,
    excludes: Filter | None = None,
) -> ConditionalRule:
    return ConditionalRule(
        _ALLOW, tuple(names.split()), args=args, includes=includes, excludes=excludes
    )


def _with(*caps: str) -> Filter:
    return Filter(caps=tuple(f"CAP_{cap}" for cap in caps))


_IOCTL = (
    *(
        ConditionalRule(
            _ERRNO,
            ("ioctl",),
            errno_ret=_EIO,
            args=(SeccompArg(1, _COMMAND_BITS, "SCMP_CMP_MASKED_EQ", command),),
        )
        for command in (_TIOCSTI, _TIOCLINUX)
    ),
    # Always true, but a rule with arguments: one without would come before the two above.
    _allow("ioctl", SeccompArg(1, 0, "SCMP_CMP_GE")),
)

_SOCKET = (
    _allow("socket", SeccompArg(0, _AF_ALG, "SCMP_CMP_LT")),
    *(_allow("socket", SeccompArg(0, family, "SCMP_CMP_EQ")) for family in _LATE_FAMILIES),
)

_PERSONALITY = tuple(
    _allow("personality", SeccompArg(0, value, "SCMP_CMP_EQ")) for value in _PERSONALITIES
)

_ARCHITECTURES = (
    _allow(
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        includes=Filter(arches=("arm", "arm64")),
    ),
    _allow("arch_prctl modify_ldt", includes=Filter(arches=("amd64",))),
    _allow("riscv_flush_icache riscv_hwprobe", includes=Filter(arches=("riscv64",))),
)

_CLONE = (
    # clone3's flags lie in memory: without it, C libraries fall back to clone.
    ConditionalRule(_ERRNO, ("clone3",), errno_ret=_ENOSYS, excludes=_with("SYS_ADMIN")),
    _allow(
        "clone",
        SeccompArg(0, _NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ", 0),
        excludes=_with("SYS_ADMIN"),
    ),
)

_CAPABILITIES = (
    _allow("open_by_handle_at", includes=_with("DAC_READ_SEARCH")),
    _allow(
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
        "lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount "
        "open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog "
        "umount umount2 unshare",
        includes=_with("SYS_ADMIN"),
    ),
    _allow("reboot", includes=_with("SYS_BOOT")),
    _allow("chroot", includes=_with("SYS_CHROOT")),
    _allow("delete_module init_module finit_module", includes=_with("SYS_MODULE")),
    _allow("acct", includes=_with("SYS_PACCT")),
    _allow(
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
        includes=_with("SYS_PTRACE"),
    ),
    # Before 4.8 a tracer could change the call after the filter had seen it.
    _allow("process_vm_readv process_vm_writev ptrace", includes=Filter(min_kernel="4.8")),
    _allow("iopl ioperm", includes=_with("SYS_RAWIO")),
    _allow("settimeofday stime clock_settime clock_settime64", includes=_with("SYS_TIME")),
    _allow("vhangup", includes=_with("SYS_TTY_CONFIG")),
    _allow("get_mempolicy mbind set_mempolicy set_mempolicy_home_node", includes=_with("SYS_NICE")),
    _allow("syslog", includes=_with("SYSLOG")),
    _allow("bpf", includes=_with("BPF")),
    _allow("perf_event_open", includes=_with("PERFMON")),
)

DEFAULT = Profile(
    default_action=_ERRNO,
    default_errno_ret=_EPERM,
    arch_map=(
        MappedArchitecture("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
        MappedArchitecture("SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
        MappedArchitecture("SCMP_ARCH_RISCV64"),
    ),
    flags=("SECCOMP_FILTER_FLAG_SPEC_ALLOW",),
    syscalls=(
        _allow(_ALWAYS),
        *_IOCTL,
        *_SOCKET,
        *_PERSONALITY,
        *_ARCHITECTURES,
        *_CLONE,
        *_CAPABILITIES,
    ),
)

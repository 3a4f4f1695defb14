// What a hostile program in a container would try, one call at a time: `probe NAME [NUMBER]`.
// Prints the errno's number, 0 when the kernel let it pass. Each call is written so that passing
// does no harm to a host. mqueue, shm and shmat keep what they made and print 0.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long number;

static long be_root(void) {
    errno = EPERM;
    return geteuid() == 0 ? 0 : -1;
}

static long unshare_user(void) { return unshare(CLONE_NEWUSER); }
static long unshare_mount(void) { return unshare(CLONE_NEWNS); }
static long unshare_net(void) { return unshare(CLONE_NEWNET); }

static long clone_user(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long keyring(void) { return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0); }
static long new_key(void) { return syscall(SYS_add_key, "user", "probe", "x", 1, KEY_SPEC_SESSION_KEYRING); }
static long load_kernel(void) { return syscall(SYS_kexec_load, 0, 0, NULL, 0); }
static long load_module(void) { return syscall(SYS_init_module, "no module", 9, ""); }
static long delete_module(void) { return syscall(SYS_delete_module, "no_such_module", O_NONBLOCK); }

static long bpf_program(void) {
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_TRACEPOINT, .insn_cnt = 2,
                           .insns = (unsigned long)code, .license = (unsigned long)"GPL"};
    return syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

static long set_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return clock_settime(CLOCK_REALTIME, &now);
}

static long reboot_keys(void) { return syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL); }
static long mount_tmpfs(void) { return mount("probe", "/tmp", "tmpfs", 0, NULL); }
static long bind_proc(void) { return mount("/tmp", "/proc/sys", NULL, MS_BIND, NULL); }
static long remount_sys(void) { return mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long unmask_proc(void) { return umount2("/proc/keys", MNT_DETACH); }
static long disk_node(void) { return mknod("/tmp/disk", S_IFBLK | 0600, (dev_t)number); }
static long attach_to(void) { return ptrace(PTRACE_ATTACH, (pid_t)number, NULL, NULL); }
static long signal_to(void) { return kill((pid_t)number, 0); }

static long read_memory(void) {
    char byte;
    struct iovec ours = {&byte, 1}, theirs = {(void *)0x400000, 1};
    return process_vm_readv((pid_t)number, &ours, 1, &theirs, 1, 0);
}

static long by_handle(void) {
    char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    struct file_handle *handle = (void *)room;
    handle->handle_bytes = MAX_HANDLE_SZ;
    int id, at = open("/", O_RDONLY);
    if (name_to_handle_at(at, "", handle, &id, AT_EMPTY_PATH) < 0 && errno != EOPNOTSUPP)
        return -1;
    return open_by_handle_at(at, handle, O_RDONLY);
}

static long swap(void) { return swapon("/no/such/swap", 0); }
static long accounting(void) { return syscall(SYS_acct, NULL); }
static long host_name(void) { return sethostname("probe", 5); }
static long kernel_log(void) { return syscall(SYS_syslog, 3, &number, sizeof number); }

static long performance(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr};
    return syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0);
}

static long page_faults(void) { return syscall(SYS_userfaultfd, 0); }
static long io_ring(void) { return syscall(SYS_io_uring_setup, 1, NULL); }
static long quota(void) { return syscall(SYS_quotactl, 0x800001 << 8, NULL, 0, NULL); }
static long ports(void) {
#ifdef SYS_iopl
    return syscall(SYS_iopl, 3);
#else
    errno = EPERM;
    return -1;
#endif
}

static long make_shm(void) { return shmget((key_t)number, 4096, IPC_CREAT | IPC_EXCL | 0666); }
static long find_shm(void) { return shmget((key_t)number, 0, 0); }
static long make_queue(void) { return mq_open("/probe", O_CREAT | O_EXCL | O_RDWR, 0666, NULL); }
static long find_queue(void) { return mq_open("/probe", O_RDONLY); }

static const struct {
    const char *name;
    long (*call)(void);
} calls[] = {
    {"unshare_user", unshare_user}, {"unshare_mount", unshare_mount}, {"unshare_net", unshare_net},
    {"clone_user", clone_user},     {"keyring", keyring},             {"new_key", new_key},
    {"load_kernel", load_kernel},   {"load_module", load_module},     {"bpf_program", bpf_program},
    {"delete_module", delete_module}, {"set_time", set_time},         {"reboot_keys", reboot_keys},
    {"mount_tmpfs", mount_tmpfs},   {"bind_proc", bind_proc},         {"remount_sys", remount_sys},
    {"unmask_proc", unmask_proc},   {"disk_node", disk_node},         {"attach_to", attach_to},
    {"signal_to", signal_to},       {"read_memory", read_memory},     {"by_handle", by_handle},
    {"swap", swap},                 {"accounting", accounting},       {"host_name", host_name},
    {"kernel_log", kernel_log},     {"performance", performance},     {"page_faults", page_faults},
    {"io_ring", io_ring},           {"quota", quota},                 {"ports", ports},
    {"make_shm", make_shm},         {"find_shm", find_shm},           {"make_queue", make_queue},
    {"find_queue", find_queue},     {"be_root", be_root},
};

// Every call in a child of its own, so that one cannot spoil the next.
static int attempt(long (*call)(void)) {
    int report[2], answer = -1;
    if (pipe(report) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        errno = 0;
        answer = call() < 0 ? errno : 0;
        if (write(report[1], &answer, sizeof answer) != sizeof answer)
            _exit(1);
        _exit(0);
    }
    close(report[1]);
    if (read(report[0], &answer, sizeof answer) != sizeof answer)
        answer = -1;
    close(report[0]);
    waitpid(pid, NULL, 0);
    return answer;
}

int main(int argc, char **argv) {
    for (int at = 1; at < argc; at++) {
        char *equals = strchr(argv[at], '=');
        number = equals ? strtol(equals + 1, NULL, 0) : 0;
        size_t length = equals ? (size_t)(equals - argv[at]) : strlen(argv[at]);
        for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
            if (strlen(calls[i].name) == length && !strncmp(calls[i].name, argv[at], length))
                printf("%s %d\n", calls[i].name, attempt(calls[i].call));
    }
    return 0;
}

/* keel: `keel monitor N` starts and supervises one task (README.md). */
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "syscalls.h"
#include "walk.h"

enum { PLAN_FD = 3, CONTROL_FD = 4, MAX_PLAN_BYTES = 64 << 20, EXIT_USAGE = 2 };

/* The failure report makes it too large for a stack frame. */
static struct monitor the_monitor = {
    .control = CONTROL_FD,
    .run_dirfd = -1,
    .log_dirfd = -1,
    .pidfd = -1,
    .terminal = -1,
    .stdin_w = -1,
    .stdout_r = -1,
    .stderr_r = -1,
};

/* Be out of everybody's way: the spawner's signals, terminal and descriptors are not the monitor's.
 */
static int become_monitor(struct failure *failure, unsigned borrowed) {
    static const int IGNORED[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct sigaction restore = {.sa_handler = SIG_DFL};
    for (size_t i = 0; i < sizeof IGNORED / sizeof *IGNORED; i++)
        sigaction(IGNORED[i], &ignore, NULL);
    sigaction(SIGCHLD, &restore, NULL); /* ignored, it would reap the child unseen */
    setsid();
    umask(077);
    prctl(PR_SET_NAME, "keel:monitor");
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return fail(failure, "prctl", "PR_SET_DUMPABLE");
    if (close_range(FIRST_SLOT_FD + borrowed, ~0u, 0) < 0 ||
        close_range(PLAN_FD, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        return fail(failure, "close_range", "from %u", FIRST_SLOT_FD + borrowed);
    return chdir("/") < 0 ? fail(failure, "chdir", "/") : 0;
}

/* The whole of fd 3, which is closed. */
static uint8_t *read_plan(struct failure *failure, size_t *size) {
    struct stat facts;
    SCOPED_FD plan = PLAN_FD;
    if (fstat(plan, &facts) < 0 || facts.st_size < 0 || facts.st_size > MAX_PLAN_BYTES) {
        errno = errno ? errno : EFBIG;
        fail(failure, "fstat", "the plan");
        return NULL;
    }
    *size = (size_t)facts.st_size;
    uint8_t *bytes = malloc(*size + 1);
    size_t used = 0;
    while (bytes && used < *size) {
        ssize_t got = pread(plan, bytes + used, *size - used, (off_t)used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    if (bytes && used == *size)
        return bytes;
    fail(failure, "read", "the plan");
    free(bytes);
    return NULL;
}

static void configure(struct monitor *m, const struct plan *plan) {
    const struct step *supervise = &plan->steps[0];
    m->cfg = (struct supervise_config){
        .run_dir = text_of(supervise, 0),
        .log_dir = text_of(supervise, 1),
        .log_name = text_of(supervise, 2),
        .record_name = text_of(supervise, 3),
        .terminal = number_of(supervise, 4) != 0,
        .stdin_open = number_of(supervise, 5) != 0,
        .log_max_bytes = number_of(supervise, 6),
        .log_max_files = number_of(supervise, 7),
        .die_with_engine = number_of(supervise, 8) != 0,
    };
}

/* Before monitor_open nobody serves the control socket, but the engine may send up to its GO and
 * must find someone there: a report that comes before is lost if a send fails. Attach sockets that
 * come along are dropped by the kernel. */
static void await_go(int control) {
    uint32_t type = 0;
    while (type != KEEL_GO && recv(control, &type, sizeof type, MSG_TRUNC) > 0)
        ;
}

/* A socket that is closed with messages unread makes the other end forget what we told it
 * (ECONNRESET): take no more, and read what is there. */
static void settle_control(int control) {
    char byte;
    shutdown(control, SHUT_RD);
    while (recv(control, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) > 0)
        ;
}

/* Report what m->failure says, or errno where it says nothing. */
static int report(struct monitor *m, const char *call) {
    if (!m->failure.error)
        fail(&m->failure, call, "%s", m->cfg.run_dir ? m->cfg.run_dir : "");
    await_go(CONTROL_FD);
    control_send_failed(m, KEEL_FAILED, &m->failure);
    settle_control(CONTROL_FD);
    return EXIT_FAILURE;
}

static int start(struct monitor *m, const struct plan *plan, unsigned borrowed) {
    m->failure.opcode = STEP_SUPERVISE;
    if (monitor_open(m) < 0) {
        report(m, "monitor_open");
        monitor_close(m);
        return EXIT_FAILURE;
    }
    if (control_wait_go(m) < 0 || walk_plan(m, plan, borrowed) < 0) {
        settle_control(CONTROL_FD);
        monitor_close(m);
        return EXIT_FAILURE;
    }
    return supervise(m) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int monitor_main(unsigned borrowed) {
    struct plan plan;
    size_t size = 0;
    if (become_monitor(&the_monitor.failure, borrowed) < 0)
        return report(&the_monitor, "keel");
    SCOPED_MEMORY uint8_t *bytes = read_plan(&the_monitor.failure, &size);
    if (!bytes || decode_plan(bytes, size, &plan, &the_monitor.failure) < 0)
        return report(&the_monitor, "keel");
    configure(&the_monitor, &plan);
    int result = start(&the_monitor, &plan, borrowed);
    free_plan(&plan);
    return result;
}

int main(int argc, char **argv) {
    char *end = NULL;
    unsigned long borrowed = argc == 3 ? strtoul(argv[2], &end, 10) : SLOTS;
    if (borrowed >= NO_SLOT || *end || end == argv[2] || strcmp(argv[1], "monitor") != 0) {
        static const char usage[] =
            "usage: keel monitor N (spawned by onggi, see keel/README.md)\n";
        return write(STDERR_FILENO, usage, sizeof usage - 1) < 0 ? EXIT_FAILURE : EXIT_USAGE;
    }
    return monitor_main((unsigned)borrowed);
}

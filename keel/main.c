/* keel: `keel monitor N` starts and supervises one task, `keel create N` starts one that others
 * supervise, `keel hold 0` keeps a cgroup's place (README.md). */
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "syscalls.h"
#include "walk.h"

enum { PLAN_FD = 3, MAX_PLAN_BYTES = 64 << 20, EXIT_USAGE = 2 };

/* The failure report makes it too large for a stack frame. */
static struct monitor the_monitor;

/* Be out of everybody's way: the spawner's signals, terminal and descriptors are not the monitor's.
 */
static int become_monitor(struct failure *failure, unsigned borrowed) {
    static const int IGNORED[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof IGNORED / sizeof *IGNORED; i++)
        sys_set_handler(IGNORED[i], SIG_IGN);
    sys_set_handler(SIGCHLD, SIG_DFL); /* ignored, it would reap the child unseen */
    setsid();
    umask(077);
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
        .journal_socket = text_of(supervise, 9),
        .journal_fields = supervise->field[10].list.items,
        .journal_field_count = supervise->field[10].list.count,
    };
}

/* Report what m->failure says, or errno where it says nothing. */
static int report(struct monitor *m, const char *call) {
    if (!m->failure.error)
        fail(&m->failure, call, "%s", m->cfg.run_dir ? m->cfg.run_dir : "");
    control_send_failed(m->control, KEEL_FAILED, &m->failure);
    settle_control(CONTROL_FD);
    return EXIT_FAILURE;
}

/* All that is done before the task runs. */
static int start(struct monitor *m, const struct plan *plan, unsigned borrowed) {
    configure(m, plan);
    m->failure.opcode = STEP_SUPERVISE;
    if (monitor_open(m) < 0) {
        report(m, "monitor_open");
        monitor_close(m);
        return -1;
    }
    if (control_wait_go(m) < 0 || walk_plan(m, plan, borrowed) < 0) {
        settle_control(CONTROL_FD);
        monitor_close(m);
        return -1;
    }
    return 0;
}

static int supervise_task(struct monitor *m, struct plan *plan, uint8_t *bytes, unsigned borrowed) {
    int started = start(m, plan, borrowed);
    /* nobody needs the plan from here on, and a monitor lives long */
    m->cfg = (struct supervise_config){0};
    free_plan(plan);
    free(bytes);
    return started == 0 && supervise(m) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int create_task(struct monitor *m, const struct plan *plan, unsigned borrowed) {
    m->cfg.terminal = number_of(&plan->steps[0], 0) != 0;
    int made = walk_plan(m, plan, borrowed) == 0 && hand_over(m, number_of(&plan->steps[0], 1) != 0) == 0;
    settle_control(CONTROL_FD);
    return made ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int keel_main(struct monitor *m, uint16_t role, unsigned borrowed) {
    struct plan plan;
    size_t size = 0;
    m->control = CONTROL_FD;
    m->run_dirfd = m->log_dirfd = m->pidfd = m->mount_namespace = -1;
    m->terminal = m->stdin_w = m->stdout_r = m->stderr_r = -1;
    for (unsigned i = 0; i < MAX_SOCKETS; i++)
        m->sockets[i] = -1;
    if (become_monitor(&m->failure, borrowed) < 0)
        return report(m, "keel");
    uint8_t *bytes = read_plan(&m->failure, &size);
    if (!bytes || decode_plan(bytes, size, &plan, &m->failure) < 0)
        return report(m, "keel");
    if (plan.steps[0].opcode != role) {
        errno = EBADMSG;
        fail(&m->failure, "decode", "the plan is for another role");
        return report(m, "keel");
    }
    return role == STEP_SUPERVISE ? supervise_task(m, &plan, bytes, borrowed)
                                  : create_task(m, &plan, borrowed);
}

/* Be there, in whatever cgroup others move us to, until the spawner closes fd 3 or ends. */
static int hold_place(void) {
    char nothing;
    setsid();
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || close_range(PLAN_FD + 1, ~0u, 0) < 0)
        return EXIT_FAILURE;
    while (read(PLAN_FD, &nothing, 1) < 0 && errno == EINTR)
        ;
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    const char *at = argc == 3 ? argv[2] : "";
    uint64_t borrowed = parse_u64(&at);
    int monitors = argc == 3 && strcmp(argv[1], "monitor") == 0;
    int creates = argc == 3 && strcmp(argv[1], "create") == 0;
    int holds = argc == 3 && strcmp(argv[1], "hold") == 0;
    if (!(monitors || creates || holds) || borrowed > NO_SLOT || *at || at == argv[2]) {
        static const char usage[] =
            "usage: keel monitor|create|hold N (spawned by onggi, see keel/README.md)\n";
        return write(STDERR_FILENO, usage, sizeof usage - 1) < 0 ? EXIT_FAILURE : EXIT_USAGE;
    }
    if (holds) {
        prctl(PR_SET_NAME, "keel:hold");
        return hold_place();
    }
    prctl(PR_SET_NAME, monitors ? "keel:monitor" : "keel:create");
    return keel_main(&the_monitor, monitors ? STEP_SUPERVISE : STEP_HAND_OVER, (unsigned)borrowed);
}

/* The border between keel's two halves: the walk (plan, steps, init) and the supervision
 * (log, attach, control socket, exit record). The walk fills `struct monitor`, the supervision
 * keeps it alive until the child has ended. */
#ifndef KEEL_H
#define KEEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* Message types on the control socket (README.md). */
enum {
    KEEL_GO = 1,
    KEEL_ATTACH = 2,
    KEEL_RESIZE = 3,
    KEEL_CLOSE_STDIN = 4,
    KEEL_INFO = 5,
    KEEL_STARTED = 65,
    KEEL_FAILED = 66,
    KEEL_WARNED = 67,
    KEEL_EXITED = 68,
    KEEL_CLONED = 69,
};

enum { MAX_SOCKETS = 8 }; /* that one BIND_SOCKETS makes */

/* Why a step failed. Texts are NUL-terminated; `facts` is for EXECUTE only. */
struct failure {
    uint32_t step;   /* index in the plan */
    uint32_t opcode; /* 0: the plan itself could not be decoded */
    int32_t error;   /* errno */
    char call[48];
    char detail[1024];
    char facts[16384];
};

/* Fill call, detail and error (from errno) and return -1, so that a step can `return fail(…)`. */
int fail(struct failure *failure, const char *call, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The decimal number at `*at`, which moves behind it. Not moved: there is none. */
uint64_t parse_u64(const char **at);

/* SUPERVISE as decoded. The strings live until the task runs; absent ones are "". */
struct supervise_config {
    const char *run_dir;
    const char *log_dir;
    const char *log_name;
    const char *record_name;
    int terminal;
    int stdin_open;
    uint64_t log_max_bytes;
    uint64_t log_max_files;
    int die_with_engine;
    const char *journal_socket;
    const char *const *journal_fields; /* "KEY=VALUE" */
    uint32_t journal_field_count;
};

struct supervision; /* private to the supervision half */

/* One per task. Descriptors that are absent are -1; all are close-on-exec. */
struct monitor {
    int control;   /* to the engine: fd 4 */
    int run_dirfd; /* opened by monitor_open */
    int log_dirfd; /* opened by monitor_open; -1 without a log */
    struct supervise_config cfg;

    /* Filled by the walk before supervise() is called. */
    pid_t child; /* in the monitor's pid namespace; the monitor's own child, not reaped */
    int pidfd;   /* of child */
    uint64_t child_start_time; /* field 22 of /proc/child/stat */
    uint64_t started_ns;       /* CLOCK_REALTIME when EXECUTE succeeded */
    uint64_t started_mono_ns;  /* CLOCK_MONOTONIC at the same moment */
    int mount_namespace;       /* the child's own. Held, so that its end does not wait for unmounts */
    int terminal;              /* master of the child's terminal, blocking mode */
    int stdin_w;               /* ends of the child's pipes, blocking mode */
    int stdout_r;
    int stderr_r;
    int sockets[MAX_SOCKETS]; /* of BIND_SOCKETS, for the engine; held as long as the child lives */

    struct failure failure;  /* what to report when a function below returns -1 */
    struct supervision *own; /* made by monitor_open */
};

/* Supervision half. -1 means: errno is set and, where the call is known, monitor->failure filled.
 */

/* Open the run and log directories and bind monitor.sock. Called once, after the plan is decoded.
 */
int monitor_open(struct monitor *m);

/* Handle ATTACH, RESIZE … until GO. -1: the engine is gone, nothing is to be started. */
int control_wait_go(struct monitor *m);

/* Send FAILED or WARNED (`type`) on a control socket; works before monitor_open too. */
void control_send_failed(int control, uint32_t type, const struct failure *failure);

/* Send CLONED on a control socket. -1 with errno. */
int control_send_cloned(int control, pid_t pid, int pidfd);

/* Send STARTED about m->child on `control`, with `count` descriptors. -1 with errno. */
int control_send_started(int control, const struct monitor *m, const int *passed, size_t count);
/* Send EXITED with what waitid(2) told. -1 with errno. */
int control_send_exited(int control, const siginfo_t *info);

/* Before a control socket is closed: take no more, and read what is there. Closed with messages
 * unread it would make the other end forget what it was told (ECONNRESET). */
void settle_control(int control);

/* The child is made and busy: prepare what takes time and needs no more than m->child and
 * m->child_start_time. Nothing is to be seen of it yet. */
void monitor_prepare(struct monitor *m);

/* The child runs: commit state, send STARTED, loop until it has ended and its output is written,
 * reap it, write the exit record, send EXITED, remove monitor.sock. 0 when all of it was done. */
int supervise(struct monitor *m);

/* The walk failed and the child is reaped: remove monitor.sock, close attach sockets. */
void monitor_close(struct monitor *m);

/* Scope-bound cleanup: `SCOPED_FD fd = open(…)`; -1 is left alone, errno is kept. */
void close_scoped(const int *fd);
void free_scoped(void *pointer);
#define SCOPED_FD __attribute__((cleanup(close_scoped))) int
#define SCOPED_MEMORY __attribute__((cleanup(free_scoped)))

#endif

/* The monitor's second life: one loop from the moment the child runs until all is told.
 *
 * Order at the end, on which the engine relies: the child is reaped, its output is drained to the
 * log and to the clients, clients are closed, the exit record is there, monitor.sock is gone (its
 * directory can be used again), EXITED is sent, the container's mounts are gone, the control socket
 * is closed. It does not know how the child was made. */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* After the child's end a pipe may be held open by a process that it left behind. When the pid
     * namespace ended with the child there is none and end of file comes at once. */
    GRACE_MS = 300,
    DEADLINE_MS = 2000,
    QUIET_MS = 1000,
    DEAF_MS = 200, /* until what could not be watched is tried again */
};

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

static struct supervision the_supervision;

/* Change what the loop waits for on a descriptor; UNWATCHED takes it out of the set. What the
 * kernel refuses the loop tries again: a monitor that does not hear of its child's end, for
 * instance, would wait for ever. */
void watch(struct supervision *sup, struct watched *watched, enum source source, unsigned index,
           int interest) {
    if (watched->file < 0 || sup->epoll < 0 || watched->interest == interest)
        return;
    int operation = interest == UNWATCHED            ? EPOLL_CTL_DEL
                    : watched->interest == UNWATCHED ? EPOLL_CTL_ADD
                                                     : EPOLL_CTL_MOD;
    struct epoll_event event = {
        .events = (uint32_t)interest,
        .data.u64 = (uint64_t)source << 32 | index,
    };
    if (epoll_ctl(sup->epoll, operation, watched->file, &event) < 0) {
        complain("epoll_ctl", errno);
        sup->deaf = true;
    } else {
        watched->interest = interest;
    }
}

/* Close a descriptor and stop waiting for it. */
void forget(struct supervision *sup, struct watched *watched) {
    if (watched->file < 0)
        return;
    watch(sup, watched, SOURCE_CHILD, 0, UNWATCHED);
    close(watched->file);
    *watched = (struct watched){-1, UNWATCHED};
}

static int copy_name(char *into, const char *name) {
    if (strlen(name) > 255 || strchr(name, '/')) {
        errno = EINVAL;
        return -1;
    }
    memcpy(into, name, strlen(name) + 1);
    return 0;
}

static void set_absent(struct supervision *sup) {
    const struct watched absent = {-1, UNWATCHED};
    sup->epoll = sup->run_directory = sup->pidfd = sup->terminal_peer = sup->log.file = -1;
    sup->child = sup->listener = sup->input = absent;
    for (unsigned stream = 0; stream <= STREAM_STDERR; stream++)
        sup->output[stream] = absent;
    for (unsigned index = 0; index < MAX_SOCKETS; index++)
        sup->sockets[index] = -1;
    for (unsigned index = 0; index < MAX_CONNECTIONS; index++)
        sup->connections[index] = absent;
    for (unsigned index = 0; index < MAX_CLIENTS; index++)
        sup->clients[index].socket = absent;
}

static int open_directory(const char *path) {
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int monitor_open(struct monitor *m) {
    struct supervision *sup = &the_supervision;
    const struct supervise_config *cfg = &m->cfg;
    set_absent(sup);
    m->own = sup;
    m->run_dirfd = m->log_dirfd = -1;
    sup->terminal = cfg->terminal;
    sup->takes_stdin = cfg->terminal || cfg->stdin_open;
    sup->die_with_engine = cfg->die_with_engine;
    sup->connections[0].file = m->control;
    if (copy_name(sup->record_name, cfg->record_name) < 0)
        return fail(&m->failure, "supervise", "record name %s", cfg->record_name);
    if (copy_name(sup->log_name, cfg->log_name) < 0)
        return fail(&m->failure, "supervise", "log name %s", cfg->log_name);
    m->run_dirfd = sup->run_directory = open_directory(cfg->run_dir);
    if (m->run_dirfd < 0)
        return fail(&m->failure, "open", "run directory %s", cfg->run_dir);
    if (sup->log_name[0]) {
        m->log_dirfd = open_directory(cfg->log_dir);
        if (m->log_dirfd < 0)
            return fail(&m->failure, "open", "log directory %s", cfg->log_dir);
        if (log_open(&sup->log, m->log_dirfd, sup->log_name, cfg->log_max_bytes,
                     cfg->log_max_files) < 0)
            return fail(&m->failure, "open", "log %s/%s", cfg->log_dir, cfg->log_name);
    }
    if (cfg->journal_socket[0]) {
        if (journal_open(&sup->journal, cfg->journal_socket, cfg->journal_fields,
                         cfg->journal_field_count) < 0)
            return fail(&m->failure, "journal", "%s and the fields of its entries",
                        cfg->journal_socket);
        sup->log.journal = &sup->journal;
    }
    if (control_listen(sup) < 0)
        return fail(&m->failure, "bind", "%s/monitor.sock", cfg->run_dir);
    return 0;
}

void monitor_close(struct monitor *m) {
    struct supervision *sup = m->own;
    if (!sup)
        return;
    close_clients(sup);
    if (sup->staged) {
        discard_file(sup->run_directory, STATE_NAME);
        discard_file(sup->run_directory, sup->record_name);
    }
    if (sup->listener.file >= 0)
        unlinkat(sup->run_directory, "monitor.sock", 0);
    forget(sup, &sup->listener);
}

/* The record's file is made now so that later a full disk or a slow one has less to say about it. */
void monitor_prepare(struct monitor *m) {
    struct supervision *sup = m->own;
    sup->process.pid = (uint32_t)m->child;
    sup->process.start_time = m->child_start_time;
    if (!sup->record_name[0])
        return;
    sup->staged = true;
    if (stage_state(sup->run_directory, &sup->process) < 0)
        complain(STATE_NAME, errno);
    if (stage_file(sup->run_directory, sup->record_name, "", 0) < 0)
        complain("exit record", errno);
}

static void set_nonblocking(int file) {
    int flags = file < 0 ? 0 : fcntl(file, F_GETFL);
    if (file >= 0 && (flags < 0 || fcntl(file, F_SETFL, flags | O_NONBLOCK) < 0))
        complain("fcntl", errno);
}

/* Take over the descriptors that the walk left: the child's terminal or its pipes. */
static void take_streams(struct supervision *sup, const struct monitor *m) {
    if (sup->terminal && m->terminal >= 0) {
        sup->output[STREAM_STDOUT].file = m->terminal;
        /* One open file under two numbers: each direction has its own place in the epoll set. */
        sup->input.file = fcntl(m->terminal, F_DUPFD_CLOEXEC, 3);
        sup->terminal_peer = ioctl(m->terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    } else {
        sup->input.file = m->stdin_w;
        sup->output[STREAM_STDOUT].file = m->stdout_r;
        sup->output[STREAM_STDERR].file = m->stderr_r;
    }
    set_nonblocking(sup->input.file);
    set_nonblocking(sup->output[STREAM_STDOUT].file);
    set_nonblocking(sup->output[STREAM_STDERR].file);
    if (sup->terminal && sup->rows > 0)
        resize_terminal(sup, sup->rows, sup->columns);
    if (sup->input.file < 0 || sup->stdin_ends)
        close_input(sup);
}

static void watch_all(struct supervision *sup) {
    sup->deaf = false;
    watch(sup, &sup->child, SOURCE_CHILD, 0, sup->exited ? UNWATCHED : EPOLLIN);
    watch(sup, &sup->listener, SOURCE_LISTENER, 0, EPOLLIN);
    for (unsigned index = 0; index < MAX_CONNECTIONS; index++)
        watch(sup, &sup->connections[index], SOURCE_CONNECTION, index, EPOLLIN);
    watch_streams(sup);
    watch_clients(sup);
    if (sup->input_start < sup->input_end)
        watch(sup, &sup->input, SOURCE_INPUT, 0, EPOLLOUT);
}

static void kill_child(struct supervision *sup) {
    if (!sup->exited && syscall(SYS_pidfd_send_signal, sup->pidfd, SIGKILL, NULL, 0) < 0)
        complain("pidfd_send_signal", errno);
}

static void note_owed(struct supervision *sup) {
    for (int stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++) {
        int waiting = 0;
        if (sup->output[stream].file >= 0 && ioctl(sup->output[stream].file, FIONREAD, &waiting) == 0)
            sup->owed[stream] = (size_t)waiting;
    }
}

/* An open one would hold the network namespace that just lost its last process, and its links. */
static void close_sockets(struct supervision *sup) {
    for (unsigned i = 0; i < MAX_SOCKETS; i++) {
        if (sup->sockets[i] >= 0)
            close(sup->sockets[i]);
        sup->sockets[i] = -1;
    }
}

static void reap(struct supervision *sup) {
    if (sup->exited)
        return; /* its descriptor could not be taken out of the set yet */
    siginfo_t info = {0};
    int found;
    do
        found = waitid(P_PID, sup->process.pid, &info, WEXITED | __WALL);
    while (found < 0 && errno == EINTR);
    uint64_t now_ns = monotonic_ns();
    /* Unknown is -1 without a signal, never 0. */
    sup->exit = (struct exit_facts){.code = -1, .realtime_ns = realtime_ns()};
    sup->exit.runtime_ns = now_ns - sup->started_monotonic_ns;
    if (found < 0)
        complain("waitid", errno);
    else if (info.si_code == CLD_EXITED)
        sup->exit.code = info.si_status;
    else
        sup->exit.signal = info.si_status;
    sup->exit.core_dumped = found == 0 && info.si_code == CLD_DUMPED;
    sup->exited = true;
    sup->deadline_ns = now_ns + DEADLINE_MS * 1000000ull;
    watch(sup, &sup->child, SOURCE_CHILD, 0, UNWATCHED);
    if (sup->terminal_peer >= 0)
        close(sup->terminal_peer);
    sup->terminal_peer = -1;
    note_owed(sup);
    close_sockets(sup);
    close_input(sup);
    widen_clients(sup);
}

static void dispatch(struct supervision *sup, const struct epoll_event *event) {
    unsigned index = (unsigned)event->data.u64;
    switch ((enum source)(event->data.u64 >> 32)) {
    case SOURCE_CHILD:
        reap(sup);
        break;
    case SOURCE_LISTENER:
        serve_listener(sup);
        break;
    case SOURCE_CONNECTION:
        if (!serve_connection(sup, index) && index == 0 && sup->die_with_engine)
            kill_child(sup);
        break;
    case SOURCE_CLIENT:
        serve_client(sup, index, event->events);
        break;
    case SOURCE_INPUT:
        serve_input(sup);
        break;
    case SOURCE_OUTPUT:
        serve_output(sup, (int)index);
        break;
    }
}

/* Buffers that hold nothing go back to the kernel; they read as zeros when they are used again. */
static void release_buffers(struct supervision *sup) {
    if (sup->pending_clients == 0)
        madvise(sup->chunk, sizeof sup->chunk, MADV_DONTNEED);
    if (sup->input_start == sup->input_end)
        madvise(sup->input_bytes, sizeof sup->input_bytes, MADV_DONTNEED);
    log_release(&sup->log);
    sup->buffers_used = false;
}

static bool has_output(const struct supervision *sup) {
    return sup->output[STREAM_STDOUT].file >= 0 || sup->output[STREAM_STDERR].file >= 0;
}

/* The child has ended and somebody holds things up: first a client that does not read, then a
 * process that holds a pipe. What the child itself wrote is always read, however slow the disk. */
static void give_up(struct supervision *sup, bool silent) {
    if (sup->pending_clients > 0) {
        drop_stalled_clients(sup);
    } else if (silent || sup->owed[STREAM_STDOUT] + sup->owed[STREAM_STDERR] == 0) {
        end_output(sup, STREAM_STDOUT);
        end_output(sup, STREAM_STDERR);
    }
}

/* One event at a time: a handler may close any other descriptor, and no stale event follows. */
static void loop(struct supervision *sup) {
    while (!sup->exited || has_output(sup) || sup->pending_clients > 0) {
        struct epoll_event event;
        if (sup->deaf)
            watch_all(sup);
        int timeout_ms = sup->exited         ? GRACE_MS
                         : sup->deaf         ? DEAF_MS
                         : sup->buffers_used ? QUIET_MS
                                             : -1;
        int count = epoll_wait(sup->epoll, &event, 1, timeout_ms);
        if (count > 0)
            dispatch(sup, &event);
        else if (count == 0 && !sup->exited)
            release_buffers(sup);
        if (sup->exited && (count == 0 || monotonic_ns() > sup->deadline_ns))
            give_up(sup, count == 0);
    }
}

int supervise(struct monitor *m) {
    struct supervision *sup = m->own;
    bool durable = sup->record_name[0] != '\0';
    int result = 0;
    sup->pidfd = sup->child.file = m->pidfd;
    memcpy(sup->sockets, m->sockets, sizeof sup->sockets);
    sup->process.realtime_ns = m->started_ns;
    sup->started_monotonic_ns = m->started_mono_ns;
    sup->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (sup->epoll < 0) {
        kill_child(sup);
        return fail(&m->failure, "epoll_create1", "the child is killed");
    }
    if (durable && commit_file(sup->run_directory, STATE_NAME) < 0) {
        complain(STATE_NAME, errno);
        result = -1;
    }
    send_started(sup, 0);
    take_streams(sup, m);
    watch_all(sup);
    loop(sup);
    close_clients(sup);
    if (durable && write_exit_record(sup->run_directory, sup->record_name, &sup->process,
                                     &sup->exit, sup->log.dropped_lines) < 0) {
        complain("exit record", errno);
        result = -1;
    }
    sup->ended = true;
    tell_exit(sup);
    if (m->mount_namespace >= 0)
        close(m->mount_namespace);
    close_connections(sup);
    return result;
}

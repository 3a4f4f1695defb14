/* What the files of the supervision half share. The core (plan, walk, steps) never includes it.
 *
 * One static struct supervision, fixed buffers, no allocation: a page of a buffer costs memory only
 * once output has touched it, and is given back when the container falls silent. */
#ifndef KEEL_SUPERVISE_H
#define KEEL_SUPERVISE_H

#include "keel.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>
#include <time.h>

enum {
    PAGE_BYTES = 4096,

    STREAM_STDIN = 0, /* as in Docker's stream format */
    STREAM_STDOUT = 1,
    STREAM_STDERR = 2,

    LOG_LINE_BYTES = 16 * 1024,
    LOG_BATCH_BYTES = 128 * 1024,
    LOG_NAME_BYTES = 256 + 8,
    JOURNAL_FIELDS_BYTES = 8 * 1024,
    CHUNK_BYTES = 32 * 1024,
    STDIN_BYTES = 16 * 1024,
    MAX_CLIENTS = 32,
    MAX_CONNECTIONS = 8,
    UNWATCHED = -1, /* in `watched`: not in the epoll set, so that a hang-up cannot spin */
};

/* ---- record.c: text without stdio, and the two files in the run directory ---- */

struct text {
    char *at, *end; /* what does not fit is left out */
};
void text_string(struct text *text, const char *string);
void text_u64(struct text *text, uint64_t value);
void text_i64(struct text *text, int64_t value);

struct exit_facts {
    int code;   /* -1: a signal ended it */
    int signal; /* 0: none */
    bool core_dumped;
    uint64_t realtime_ns;
    uint64_t runtime_ns;
};
struct process_facts {
    uint32_t pid;
    uint64_t start_time; /* clock ticks since boot: field 22 of /proc/PID/stat */
    uint64_t realtime_ns;
};
uint64_t realtime_ns(void);
uint64_t monotonic_ns(void);
#define STATE_NAME "state"
/* A file under a temporary name; nobody sees it under its own before it is committed. What is there
 * is overwritten. -1 with errno. */
int stage_file(int directory, const char *name, const char *bytes, size_t length);
int commit_file(int directory, const char *name);
void discard_file(int directory, const char *name);
int stage_state(int run_directory, const struct process_facts *process);
int write_exit_record(int run_directory, const char *name, const struct process_facts *process,
                      const struct exit_facts *facts, uint64_t dropped_log_lines);
void complain(const char *what, int number);

/* ---- journal.c ---- */

struct journal {
    int file;
    bool stalled; /* it did not take the last entry, and is not waited for again */
    struct sockaddr_un address;
    size_t fields_length;
    char fields[JOURNAL_FIELDS_BYTES]; /* as they stand in every entry */
};
/* Entries go to the journal that listens on `path`, which need not be there yet. `fields`:
 * "KEY=VALUE" as its protocol wants them. -1 with errno. */
int journal_open(struct journal *journal, const char *path, const char *const *fields,
                 uint32_t count);
/* One line, or a part of one, which no newline ends. False: it is lost. */
bool journal_send(struct journal *journal, int stream, const unsigned char *bytes, size_t length);

/* ---- log.c ---- */

struct log {
    int directory;
    int file;                /* -1: there is no log file */
    struct journal *journal; /* lines go there instead; NULL: no journal */
    const char *name;
    uint64_t max_bytes, max_files, size, dropped_lines;
    size_t batch_length;
    uint64_t batch_entries;
    size_t line_lengths[2]; /* of stdout's and stderr's line that has no newline yet */
    alignas(PAGE_BYTES) unsigned char lines[2][LOG_LINE_BYTES];
    alignas(PAGE_BYTES) char batch[LOG_BATCH_BYTES];
};
int log_open(struct log *log, int directory, const char *name, uint64_t max_bytes,
             uint64_t max_files);
bool log_wanted(const struct log *log);
void log_append(struct log *log, int stream, const unsigned char *bytes, size_t length,
                const struct timespec *now);
void log_end_stream(struct log *log, int stream, const struct timespec *now);
void log_flush(struct log *log);
void log_release(struct log *log);

/* ---- the event loop's view of a descriptor ---- */

enum source {
    SOURCE_CHILD,
    SOURCE_LISTENER,
    SOURCE_CONNECTION,
    SOURCE_CLIENT,
    SOURCE_INPUT,
    SOURCE_OUTPUT,
};
struct watched {
    int file;     /* -1: none */
    int interest; /* the epoll events asked for, or UNWATCHED */
};
struct client {
    struct watched socket;
    uint32_t streams; /* bit per stream, 1 << STREAM_* */
    bool input_only;  /* attached nothing but stdin */
    bool pending;     /* has not taken all of the current frame */
    size_t sent;      /* of the current frame, header included */
};

struct supervision {
    int epoll; /* -1 until the child runs: nothing is watched before */
    int run_directory;
    bool terminal, takes_stdin, die_with_engine;
    bool exited;      /* the child has ended: `exit` holds */
    bool ended;       /* its output has ended too, and the record is written */
    bool staged;      /* files in the run directory have temporary names */
    bool stdin_ends;  /* close stdin once what is buffered is written */
    bool buffers_used; /* more than their first pages */
    bool deaf;         /* something is not watched that should be */
    int pidfd;
    int sockets[MAX_SOCKETS]; /* -1: absent; passed with every STARTED, never read here */
    int terminal_peer; /* a slave kept open, so that the master does not hang up before the end */
    uint32_t rows, columns; /* a size asked for before there was a terminal; 0: none */
    struct process_facts process;
    struct exit_facts exit;
    uint64_t started_monotonic_ns;
    uint64_t deadline_ns; /* monotonic; holds once exited */
    size_t owed[3];       /* by stream: what lay in the pipe when the child ended, not yet read */
    struct watched child; /* the pidfd */
    struct watched listener;
    struct watched connections[MAX_CONNECTIONS]; /* 0: the engine that spawned us */
    struct client clients[MAX_CLIENTS];
    struct watched input;     /* the container's stdin: our end of the pipe, or the pty master */
    struct watched output[3]; /* by stream; in terminal mode only STREAM_STDOUT, the master */
    size_t input_start, input_end;
    unsigned pending_clients;
    unsigned char frame_header[8];
    size_t frame_length;
    char log_name[LOG_NAME_BYTES];
    char record_name[LOG_NAME_BYTES];
    struct log log;
    struct journal journal; /* untouched where there is none */
    alignas(PAGE_BYTES) unsigned char chunk[CHUNK_BYTES];
    alignas(PAGE_BYTES) unsigned char input_bytes[STDIN_BYTES];
};

/* ---- supervise.c ---- */
void watch(struct supervision *sup, struct watched *watched, enum source source, unsigned index,
           int interest);
void forget(struct supervision *sup, struct watched *watched);

/* ---- attach.c: clients, frames, stdin ---- */
void attach_client(struct supervision *sup, int socket, uint32_t mask);
void serve_client(struct supervision *sup, unsigned index, uint32_t events);
void serve_input(struct supervision *sup);
void serve_output(struct supervision *sup, int stream);
void end_output(struct supervision *sup, int stream);
void watch_streams(struct supervision *sup);
void watch_clients(struct supervision *sup);
void end_stdin(struct supervision *sup);
void close_input(struct supervision *sup);
void widen_clients(struct supervision *sup);
void drop_stalled_clients(struct supervision *sup);
void close_clients(struct supervision *sup);

/* ---- control.c: the engine and its successors ---- */
int control_listen(struct supervision *sup);
void serve_listener(struct supervision *sup);
bool serve_connection(struct supervision *sup, unsigned index);
void send_started(struct supervision *sup, unsigned index);
void tell_exit(struct supervision *sup);
void close_connections(struct supervision *sup);
void resize_terminal(struct supervision *sup, uint32_t rows, uint32_t columns);

#endif

/* The two files in the run directory, the state and the exit record, and text without stdio.
 *
 * Promises: a reader sees a whole file or none (temporary name, then rename). It does not know why
 * a process ended. The run directory belongs to one boot (boot_id says which), so nothing is
 * synced to disk: after a power loss the record would be void anyway. */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { RECORD_BYTES = 512, BOOT_ID_BYTES = 36 };

void text_string(struct text *text, const char *string) {
    while (*string && text->at < text->end)
        *text->at++ = *string++;
}

void text_u64(struct text *text, uint64_t value) {
    char digits[21], *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    text_string(text, at);
}

void text_i64(struct text *text, int64_t value) {
    if (value < 0)
        text_string(text, "-");
    text_u64(text, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static void text_field(struct text *text, const char *before, int64_t value) {
    text_string(text, before);
    text_i64(text, value);
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t realtime_ns(void) { return nanoseconds(CLOCK_REALTIME); }

uint64_t monotonic_ns(void) { return nanoseconds(CLOCK_MONOTONIC); }

/* One line on the engine's error log. */
void complain(const char *what, int number) {
    char line[RECORD_BYTES];
    struct text text = {line, line + sizeof line};
    text_string(&text, "keel: ");
    text_string(&text, what);
    text_string(&text, ": errno ");
    text_i64(&text, number);
    text_string(&text, "\n");
    if (write(2, line, (size_t)(text.at - line)) < 0)
        return; /* there is nobody left to tell */
}

static size_t read_small(const char *path, char *into, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, into, size);
    close(file);
    return length > 0 ? (size_t)length : 0;
}

static void text_boot_id(struct text *text) {
    char id[BOOT_ID_BYTES + 1];
    id[read_small("/proc/sys/kernel/random/boot_id", id, BOOT_ID_BYTES)] = '\0';
    text_string(text, ",\"boot_id\":\"");
    text_string(text, id);
    text_string(text, "\"");
}

static void temporary_name(char into[LOG_NAME_BYTES], const char *name) {
    struct text text = {into, into + LOG_NAME_BYTES - 1};
    text_string(&text, ".");
    text_string(&text, name);
    text_string(&text, ".tmp");
    *text.at = '\0';
}

int stage_file(int directory, const char *name, const char *bytes, size_t length) {
    char temporary[LOG_NAME_BYTES];
    temporary_name(temporary, name);
    int file = openat(directory, temporary,
                      O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return -1;
    ssize_t written = write(file, bytes, length);
    int number = written < 0 ? errno : ENOSPC;
    close(file);
    if (written == (ssize_t)length)
        return 0;
    unlinkat(directory, temporary, 0);
    errno = number;
    return -1;
}

int commit_file(int directory, const char *name) {
    char temporary[LOG_NAME_BYTES];
    temporary_name(temporary, name);
    return renameat(directory, temporary, directory, name);
}

void discard_file(int directory, const char *name) {
    char temporary[LOG_NAME_BYTES];
    temporary_name(temporary, name);
    unlinkat(directory, temporary, 0);
}

/* Who runs: for a successor of the engine that finds this directory. Returns 0, or -1 with errno. */
int stage_state(int run_directory, const struct process_facts *process) {
    char record[RECORD_BYTES];
    struct text text = {record, record + sizeof record};
    text_field(&text, "{\"monitor_pid\":", getpid());
    text_field(&text, ",\"pid\":", process->pid);
    text_string(&text, ",\"start_time\":");
    text_u64(&text, process->start_time);
    text_boot_id(&text);
    text_string(&text, "}\n");
    return stage_file(run_directory, STATE_NAME, record, (size_t)(text.at - record));
}

/* How it ended. Returns 0, or -1 with errno. */
int write_exit_record(int run_directory, const char *name, const struct process_facts *process,
                      const struct exit_facts *facts, uint64_t dropped_log_lines) {
    char record[RECORD_BYTES];
    struct text text = {record, record + sizeof record};
    text_field(&text, "{\"pid\":", process->pid);
    text_field(&text, ",\"code\":", facts->code);
    text_field(&text, ",\"signal\":", facts->signal);
    text_field(&text, ",\"core\":", facts->core_dumped);
    text_field(&text, ",\"started_ns\":", (int64_t)process->realtime_ns);
    text_field(&text, ",\"exited_ns\":", (int64_t)facts->realtime_ns);
    text_field(&text, ",\"runtime_ns\":", (int64_t)facts->runtime_ns);
    text_boot_id(&text);
    text_field(&text, ",\"dropped_log_lines\":", (int64_t)dropped_log_lines);
    text_string(&text, "}\n");
    if (stage_file(run_directory, name, record, (size_t)(text.at - record)) < 0)
        return -1;
    return commit_file(run_directory, name);
}

/* The container's log: lines of output as docker's json-file entries, rotated by size, or to a
 * journal.
 *
 * Promises: the log fields of all entries, joined, are the output (invalid UTF-8 repaired); a file
 * never grows beyond max_bytes unless one entry alone is larger; entries are whole, also when the
 * disk is full. It does not know clients or processes.
 * Source: docker daemon/logger/jsonfilelog (its escapes, its 16 KiB lines, its file names). */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 1000, FRAMING_BYTES = 128 };

/* One entry at its worst: every byte six characters (an escape), and what stands around it. */
_Static_assert(sizeof(((struct log *)0)->batch) >= LOG_LINE_BYTES * 6 + FRAMING_BYTES,
               "the batch holds any entry");

static int open_file(const struct log *log) {
    return openat(log->directory, log->name,
                  O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK,
                  0640);
}

/* Start the log in `directory` (borrowed) under `name` (borrowed). An existing file is continued.
 * max_bytes 0: without limit. Returns 0 or -1 with errno. */
int log_open(struct log *log, int directory, const char *name, uint64_t max_bytes,
             uint64_t max_files) {
    struct stat facts;
    log->directory = directory;
    log->name = name;
    log->max_bytes = max_bytes;
    log->max_files = max_files > MAX_FILES ? MAX_FILES : max_files;
    log->file = open_file(log);
    if (log->file < 0 || fstat(log->file, &facts) < 0)
        return -1;
    if (!S_ISREG(facts.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    log->size = (uint64_t)facts.st_size;
    return 0;
}

/* Room for ".", the digits of MAX_FILES and a NUL beside the name. */
static void numbered_name(char *into, const char *name, unsigned number) {
    struct text text = {into, into + LOG_NAME_BYTES - 1};
    text_string(&text, name);
    if (number > 0) {
        text_string(&text, ".");
        text_u64(&text, number);
    }
    *text.at = '\0';
}

/* name → name.1 → … → name.(max_files - 1), which is the oldest that is kept. */
static void rotate(struct log *log) {
    char from[LOG_NAME_BYTES], to[LOG_NAME_BYTES];
    if (log->max_files <= 1) {
        if (ftruncate(log->file, 0) == 0)
            log->size = 0;
        return;
    }
    for (unsigned number = (unsigned)log->max_files - 1; number > 0; number--) {
        numbered_name(from, log->name, number - 1);
        numbered_name(to, log->name, number);
        if (renameat(log->directory, from, log->directory, to) < 0 && errno != ENOENT)
            return; /* go on in the file there is: too large is better than lost */
    }
    int fresh = open_file(log);
    if (fresh < 0)
        return;
    close(log->file);
    log->file = fresh;
    log->size = 0;
}

/* Write the first `length` bytes of the batch, which are `entries` whole entries, or count them. */
static void write_batch(struct log *log, size_t length, uint64_t entries) {
    if (length == 0)
        return;
    ssize_t written = write(log->file, log->batch, length);
    if (written == (ssize_t)length) {
        log->size += length;
        return;
    }
    if (written > 0) {
        /* The disk became full inside an entry: take the torn part back. */
        off_t end = lseek(log->file, 0, SEEK_CUR);
        if (end < written || ftruncate(log->file, end - written) < 0)
            log->size += (uint64_t)written;
    }
    log->dropped_lines += entries;
}

/* Hand what was gathered to the kernel, in one write. */
void log_flush(struct log *log) {
    write_batch(log, log->batch_length, log->batch_entries);
    log->batch_length = 0;
    log->batch_entries = 0;
}

/* The length of the well-formed UTF-8 sequence at `bytes`; 0: ill-formed; -1: cut off by `left`.
 * Source: Unicode standard table 3-7 (no overlong forms, no surrogates, nothing above U+10FFFF). */
static int utf8_length(const unsigned char *bytes, size_t left) {
    unsigned first = bytes[0], low = 0x80, high = 0xbf;
    int length;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        length = 2;
    else if (first >= 0xe0 && first <= 0xef)
        length = 3;
    else if (first >= 0xf0 && first <= 0xf4)
        length = 4;
    else
        return 0;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= left)
            return -1;
        if (bytes[i] < low || bytes[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

/* How many bytes at the end begin a character whose rest is still to come: 0 to 3. */
static size_t unfinished_tail(const unsigned char *bytes, size_t length) {
    for (size_t tail = 1; tail <= 3 && tail <= length; tail++) {
        int found = utf8_length(bytes + length - tail, tail);
        if (found < 0)
            return tail;
        if (found > 0)
            break;
    }
    return 0;
}

static char *put(char *at, const char *string) {
    size_t length = strlen(string);
    memcpy(at, string, length);
    return at + length;
}

static int is_plain(unsigned char byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<' &&
           byte != '>' && byte != '&';
}

static char *escape_byte(char *at, unsigned char byte) {
    static const char digits[] = "0123456789abcdef";
    switch (byte) {
    case '\n': return put(at, "\\n");
    case '\r': return put(at, "\\r");
    case '"': return put(at, "\\\"");
    case '\\': return put(at, "\\\\");
    }
    at = put(at, "\\u00");
    *at++ = digits[byte >> 4];
    *at++ = digits[byte & 15];
    return at;
}

/* The text of a JSON string: at most six characters for each byte. */
static char *escape(char *at, const unsigned char *bytes, size_t length) {
    size_t i = 0;
    while (i < length) {
        size_t plain = i;
        while (plain < length && is_plain(bytes[plain]))
            plain++;
        memcpy(at, bytes + i, plain - i);
        at += plain - i;
        i = plain;
        if (i == length)
            break;
        int sequence = utf8_length(bytes + i, length - i);
        if (sequence <= 0) {
            at = put(at, "\\ufffd");
            i++;
        } else if (sequence == 1) {
            at = escape_byte(at, bytes[i++]);
        } else if (sequence == 3 && bytes[i] == 0xe2 && bytes[i + 1] == 0x80 &&
                   (bytes[i + 2] & 0xfe) == 0xa8) {
            /* U+2028 and U+2029 end a line in JavaScript. */
            at = put(at, bytes[i + 2] == 0xa8 ? "\\u2028" : "\\u2029");
            i += 3;
        } else {
            memcpy(at, bytes + i, (size_t)sequence);
            at += sequence;
            i += (size_t)sequence;
        }
    }
    return at;
}

static char *put_digits(char *at, unsigned long value, int width) {
    for (int i = width - 1; i >= 0; i--) {
        at[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return at + width;
}

/* RFC 3339 in UTC with all nine digits, so that text order is time order. No C library calendar:
 * it would load time zones. Days to date: H. Hinnant, "chrono-compatible low-level date algorithms". */
static char *put_time(char *at, const struct timespec *now) {
    unsigned long seconds = (unsigned long)now->tv_sec;
    unsigned long days = seconds / 86400 + 719468, rest = seconds % 86400;
    unsigned long era = days / 146097, day_of_era = days % 146097;
    unsigned long year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned long day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned long shifted = (5 * day_of_year + 2) / 153;
    unsigned long month = shifted < 10 ? shifted + 3 : shifted - 9;
    at = put_digits(at, year_of_era + era * 400 + (month <= 2), 4);
    *at++ = '-';
    at = put_digits(at, month, 2);
    *at++ = '-';
    at = put_digits(at, day_of_year - (153 * shifted + 2) / 5 + 1, 2);
    *at++ = 'T';
    at = put_digits(at, rest / 3600, 2);
    *at++ = ':';
    at = put_digits(at, rest / 60 % 60, 2);
    *at++ = ':';
    at = put_digits(at, rest % 60, 2);
    *at++ = '.';
    at = put_digits(at, (unsigned long)now->tv_nsec, 9);
    *at++ = 'Z';
    return at;
}

static void add_entry(struct log *log, int stream, const unsigned char *bytes, size_t length,
                      const struct timespec *now) {
    if (log->journal) {
        log->dropped_lines += !journal_send(log->journal, stream, bytes, length);
        return;
    }
    if (sizeof log->batch - log->batch_length < length * 6 + FRAMING_BYTES)
        log_flush(log);
    char *start = log->batch + log->batch_length;
    char *at = put(start, "{\"log\":\"");
    at = escape(at, bytes, length);
    at = put(at, stream == STREAM_STDERR ? "\",\"stream\":\"stderr\",\"time\":\""
                                         : "\",\"stream\":\"stdout\",\"time\":\"");
    at = put_time(at, now);
    at = put(at, "\"}\n");
    size_t size = (size_t)(at - start), before = log->size + log->batch_length;
    if (log->max_bytes > 0 && before > 0 && before + size > log->max_bytes) {
        log_flush(log);
        rotate(log);
        memmove(log->batch, start, size);
    }
    log->batch_length += size;
    log->batch_entries++;
}

/* Whether lines are kept anywhere. */
bool log_wanted(const struct log *log) { return log->file >= 0 || log->journal; }

/* Move bytes of one line to where it waits for its end, and write it if it ended or is full. */
static void extend_line(struct log *log, int stream, const unsigned char *bytes, size_t take,
                        bool ends, const struct timespec *now) {
    unsigned char *line = log->lines[stream == STREAM_STDERR];
    size_t *length = &log->line_lengths[stream == STREAM_STDERR];
    memcpy(line + *length, bytes, take);
    *length += take;
    if (!ends && *length < LOG_LINE_BYTES)
        return;
    size_t tail = ends ? 0 : unfinished_tail(line, *length);
    add_entry(log, stream, line, *length - tail, now);
    memmove(line, line + *length - tail, tail);
    *length = tail;
}

/* Gather output of a stream; what has no newline yet waits for the rest of its line. */
void log_append(struct log *log, int stream, const unsigned char *bytes, size_t length,
                const struct timespec *now) {
    const size_t *waiting = &log->line_lengths[stream == STREAM_STDERR];
    while (length > 0) {
        const unsigned char *newline = memchr(bytes, '\n', length);
        size_t take = newline ? (size_t)(newline - bytes) + 1 : length;
        size_t room = LOG_LINE_BYTES - *waiting;
        if (newline && *waiting == 0 && take <= room)
            add_entry(log, stream, bytes, take, now);
        else if (take <= room)
            extend_line(log, stream, bytes, take, newline != NULL, now);
        else
            extend_line(log, stream, bytes, take = room, false, now);
        bytes += take;
        length -= take;
    }
}

/* The stream ended: write its last line even though no newline ends it. */
void log_end_stream(struct log *log, int stream, const struct timespec *now) {
    size_t *length = &log->line_lengths[stream == STREAM_STDERR];
    if (*length > 0)
        add_entry(log, stream, log->lines[stream == STREAM_STDERR], *length, now);
    *length = 0;
}

/* Give unused pages back. */
void log_release(struct log *log) {
    madvise(log->batch, sizeof log->batch, MADV_DONTNEED);
    for (int i = 0; i < 2; i++)
        if (log->line_lengths[i] == 0)
            madvise(log->lines[i], sizeof log->lines[i], MADV_DONTNEED);
}

/* Lines of output as entries of systemd's journal, a datagram each.
 *
 * Promises: an entry is whole or counted as lost, and a journal that is away or hangs never stops
 * the container: it is waited for once, until it takes entries again. It does not know lines.
 * Source: systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7). */
#include "supervise.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

enum { MAX_KEY_BYTES = 64, LENGTH_BYTES = 8, PATIENCE_S = 1 };

/* The part of a field before its value: "KEY=", or, where the value holds a newline, "KEY", newline
 * and its length in 64 bits. Returns its length; `into` has room for it. */
static size_t put_head(char *into, const char *key, size_t key_length, const void *value,
                       size_t length) {
    size_t used = key_length;
    memcpy(into, key, key_length);
    if (!memchr(value, '\n', length)) {
        into[used++] = '=';
        return used;
    }
    into[used++] = '\n';
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        into[used++] = (char)((uint64_t)length >> (8 * i));
    return used;
}

/* The length of the key in "KEY=VALUE"; 0: the journal would not take it. A leading underscore is
 * for what the journal itself vouches for. */
static size_t key_length(const char *field) {
    size_t length = strspn(field, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    int wrong = field[0] == '_' || (field[0] >= '0' && field[0] <= '9');
    return wrong || length > MAX_KEY_BYTES || field[length] != '=' ? 0 : length;
}

static int add_field(struct journal *journal, const char *field) {
    char head[MAX_KEY_BYTES + 1 + LENGTH_BYTES];
    size_t key = key_length(field);
    if (!key) {
        errno = EINVAL;
        return -1;
    }
    const char *value = field + key + 1;
    size_t length = strlen(value), head_length = put_head(head, field, key, value, length);
    if (sizeof journal->fields - journal->fields_length < head_length + length + 1) {
        errno = E2BIG;
        return -1;
    }
    char *at = journal->fields + journal->fields_length;
    memcpy(at, head, head_length);
    memcpy(at + head_length, value, length);
    at[head_length + length] = '\n';
    journal->fields_length += head_length + length + 1;
    return 0;
}

int journal_open(struct journal *journal, const char *path, const char *const *fields,
                 uint32_t count) {
    struct timeval patience = {.tv_sec = PATIENCE_S};
    if (strlen(path) >= sizeof journal->address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    journal->address.sun_family = AF_UNIX;
    memcpy(journal->address.sun_path, path, strlen(path) + 1);
    journal->fields_length = 0;
    for (uint32_t i = 0; i < count; i++)
        if (add_field(journal, fields[i]) < 0)
            return -1;
    journal->file = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (journal->file < 0)
        return -1;
    return setsockopt(journal->file, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

bool journal_send(struct journal *journal, int stream, const unsigned char *bytes, size_t length) {
    static const char key[] = "MESSAGE";
    bool whole = length > 0 && bytes[length - 1] == '\n';
    size_t text = whole ? length - 1 : length;
    char head[sizeof key + LENGTH_BYTES];
    const char *tail = stream == STREAM_STDERR ? "\nPRIORITY=3\n" : "\nPRIORITY=6\n";
    static const char part[] = "CONTAINER_PARTIAL_MESSAGE=true\n";
    struct iovec parts[] = {
        {journal->fields, journal->fields_length},
        {head, put_head(head, key, sizeof key - 1, bytes, text)},
        {(void *)(uintptr_t)bytes, text},
        {(void *)(uintptr_t)tail, strlen(tail)},
        {(void *)(uintptr_t)part, whole ? 0 : sizeof part - 1},
    };
    struct msghdr message = {
        .msg_name = &journal->address, /* each time: a journal that comes back has another socket */
        .msg_namelen = sizeof journal->address,
        .msg_iov = parts,
        .msg_iovlen = sizeof parts / sizeof parts[0],
    };
    ssize_t sent;
    do
        sent = sendmsg(journal->file, &message,
                       MSG_NOSIGNAL | (journal->stalled ? MSG_DONTWAIT : 0));
    while (sent < 0 && errno == EINTR);
    journal->stalled = sent < 0 && errno == EAGAIN;
    return sent >= 0;
}

#include "copy_up.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "keel.h"
#include "syscalls.h"

enum { MAX_DEPTH = 64, CHUNK_BYTES = 1 << 20, ENTRIES_BYTES = 8192 };

static int copy_directory(int from, int to, int depth);

static int copy_file(int from, int to, const char *name) {
    SCOPED_FD source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    SCOPED_FD copy =
        source < 0 ? -1 : openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t sent = copy < 0 ? -1 : 1;
    while (sent > 0)
        sent = sendfile(copy, source, NULL, CHUNK_BYTES);
    return sent < 0 ? -1 : 0;
}

static int copy_link(int from, int to, const char *name) {
    char target[PATH_MAX];
    ssize_t length = readlinkat(from, name, target, sizeof target - 1);
    if (length < 0)
        return -1;
    target[length] = '\0';
    return symlinkat(target, to, name);
}

static int copy_entry(int from, int to, const char *name, int depth) {
    struct stat facts;
    int result;
    if (fstatat(from, name, &facts, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (S_ISDIR(facts.st_mode)) {
        SCOPED_FD source = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (source < 0 || mkdirat(to, name, 0700) < 0)
            return -1;
        SCOPED_FD copy = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        result = copy < 0 ? -1 : copy_directory(source, copy, depth + 1);
    } else if (S_ISREG(facts.st_mode)) {
        result = copy_file(from, to, name);
    } else if (S_ISLNK(facts.st_mode)) {
        result = copy_link(from, to, name);
    } else {
        result = mknodat(to, name, facts.st_mode, facts.st_rdev);
    }
    struct timespec times[2] = {facts.st_atim, facts.st_mtim};
    if (result < 0 || fchownat(to, name, facts.st_uid, facts.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    /* after the owner: chown takes set-id bits away */
    if (!S_ISLNK(facts.st_mode) && fchmodat(to, name, facts.st_mode & 07777, 0) < 0)
        return -1;
    return utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_entries(int from, int to, const char *entries, size_t bytes, int depth) {
    for (size_t at = 0; at < bytes;) {
        const struct dirent64 *entry = (const void *)(entries + at);
        at += entry->d_reclen;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (copy_entry(from, to, entry->d_name, depth) < 0)
            return -1;
    }
    return 0;
}

static int copy_directory(int from, int to, int depth) {
    _Alignas(struct dirent64) char entries[ENTRIES_BYTES];
    if (depth > MAX_DEPTH) {
        errno = ELOOP;
        return -1;
    }
    SCOPED_FD directory = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ssize_t got = directory < 0 ? -1 : 1;
    while (got > 0) {
        got = getdents64(directory, entries, sizeof entries);
        if (got > 0 && copy_entries(directory, to, entries, (size_t)got, depth) < 0)
            return -1;
    }
    return got < 0 ? -1 : 0;
}

int copy_up(int from, int to) {
    struct stat facts;
    if (copy_directory(from, to, 0) < 0 || fstat(from, &facts) < 0)
        return -1;
    SCOPED_FD top = openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || fchown(top, facts.st_uid, facts.st_gid) < 0)
        return -1;
    return fchmod(top, facts.st_mode & 07777);
}

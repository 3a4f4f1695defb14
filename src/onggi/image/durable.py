"""Crash-safe files and directories: staging places, locks, atomic replacement, safe deletion.

A staging place is a name in a private directory, held with an flock while somebody works on it; so
what a crash left behind is told from what is in progress, by any process, without records.
Nothing here knows what the content is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator

from onggi.errors import EngineError, Internal, from_os_error

#: How many directories deep `delete_tree` goes by itself: a descriptor and a frame for each.
MAX_DEPTH = 32


_LONG_BYTES = struct.calcsize("l")
#: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of include/uapi/linux/fs.h.
_GET_FLAGS = 2 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 2
_TOP_DIRECTORY = 0x00020000


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unique_name(prefix: str = "") -> str:
    """A name nobody else has."""
    return prefix + secrets.token_hex(12)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`. Raises: OSError."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.write(fd, view[written:])


def replace_file(path: str, data: bytes, staging: str) -> None:
    """Put `data` at `path`: the old content or the new, never a part; durable on return.

    Raises:
        ResourceExhausted: the disk is full; `path` is as before.
    """
    temporary = ""
    try:
        fd, temporary = staged_file(staging, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise from_os_error(error, "writing") from error


def keep_reserve(path: str, size_bytes: int) -> None:
    """Set so much space aside in the file `path`, if it is not yet and the disk has it."""
    # A full disk is no reason to fail: whoever frees space comes here again.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < size_bytes:
                os.posix_fallocate(fd, 0, size_bytes)
        finally:
            os.close(fd)


def drop_reserve(path: str) -> bool:
    """Give the space of `keep_reserve` back; whether there was any."""
    try:
        size_bytes = os.stat(path).st_size
        os.unlink(path)
    except FileNotFoundError:
        return False
    # ext4 hands freed blocks out again only when the deletion is committed.
    sync_directory(os.path.dirname(path))
    return size_bytes > 0


def sealed(data: bytes) -> bytes:
    """`data` behind a line with its checksum, so that a damaged record is never believed."""
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def unsealed(data: bytes) -> bytes | None:
    """What was sealed, None if any bit of it or of its checksum is another now."""
    checksum, newline, rest = data.partition(b"\n")
    right = newline and checksum == hashlib.sha256(rest).hexdigest().encode()
    return rest if right else None


def staged_file(staging: str, mode: int) -> tuple[int, str]:
    """A new file in a staging directory, open for writing and locked until it is closed.

    Raises: OSError.
    """
    with _no_sweep(staging):
        path = os.path.join(staging, unique_name())
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd, path


def staged_directory(staging: str) -> tuple[int, str]:
    """A new directory (0700) in a staging directory, locked until its descriptor is closed.

    Raises: OSError.
    """
    with _no_sweep(staging):
        path = os.path.join(staging, unique_name())
        os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd, path


@contextlib.contextmanager
def _no_sweep(directory: str) -> Iterator[None]:
    """Keep `sweep_staging` away between making a name and locking it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock on the file `path` (made if missing) across threads and processes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked_if_free(path: str) -> Iterator[bool]:
    """Like `locked`, but yields False at once when somebody else holds the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield try_lock(fd)
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take an exclusive flock on an open file if nobody has one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep_staging(directory: str) -> int:
    """Delete what crashes left in a staging directory, keep what is locked; the number deleted."""
    swept = 0
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        for name in os.listdir(parent):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            except FileNotFoundError:
                continue  # committed or given up meanwhile
            try:
                if try_lock(fd):
                    delete_tree(parent, name)
                    swept += 1
            finally:
                os.close(fd)
    finally:
        os.close(parent)
    return swept


def spread_directories(path: str) -> None:
    """Have ext4 put each new directory in `path` where inodes are free, far from the others.

    ext4 does not reuse an inode within a minute of its deletion, and looks at each such inode again
    whenever a file is made nearby: after an image was removed, unpacking the next one took seven
    times as long. Other file systems have no such flag, and no such trouble.

    Source: chattr(1), attribute T; ioctl_iflags(2).
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(_LONG_BYTES)))[0]
            if not flags & _TOP_DIRECTORY:
                fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_DIRECTORY))
        finally:
            os.close(fd)


def delete_tree(parent: int, name: str | bytes) -> None:
    """Delete a file or a whole directory, however deep; never follows a symlink.

    Subdirectories far down are moved up beside their root, so that depth costs neither descriptors
    nor stack: a container can nest directories far beyond PATH_MAX. Works on a full disk, where a
    directory may not grow: as many are moved as there is room for.

    Raises:
        EngineError: something could not be deleted, a mount inside for instance.
    """
    pending: list[str | bytes] = [name]
    while pending:
        top = pending[-1]
        moved: list[str | bytes] = []
        try:
            if not _is_directory(parent, top):
                os.unlink(top, dir_fd=parent)
                pending.pop()
            elif _empty_directory(parent, top, parent, moved):
                os.rmdir(top, dir_fd=parent)
                pending.pop()
        except FileNotFoundError:
            pending.remove(top)
        except OSError as error:
            raise _undeletable(error, top) from error
        pending += moved


def _undeletable(error: OSError, name: str | bytes) -> EngineError:
    shown = os.fsdecode(name)
    if error.errno == errno.EBUSY:
        return Internal(f"deleting {shown}: something is still mounted in it")
    return from_os_error(error, f"deleting {shown}")


def _is_directory(parent: int, name: str | bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _empty_directory(
    place: int, name: str | bytes, root: int, moved: list[str | bytes], depth: int = 0
) -> bool:
    """Delete what a directory holds; what lies too deep is `moved` to `root`.

    False: `root` has no room for more, so something is left. Raises: OSError.
    """
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    try:
        with os.scandir(fd) as entries:
            listing = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in listing:
            if not is_directory:
                os.unlink(child, dir_fd=fd)
            elif not _delete_directory(fd, child, root, moved, depth):
                return False
    finally:
        os.close(fd)
    return True


def _delete_directory(
    place: int, name: str, root: int, moved: list[str | bytes], depth: int
) -> bool:
    if depth < MAX_DEPTH:
        try:
            os.rmdir(name, dir_fd=place)
            return True
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        if not _empty_directory(place, name, root, moved, depth + 1):
            return False
        os.rmdir(name, dir_fd=place)
        return True
    fresh = unique_name()
    try:
        os.rename(name, fresh, src_dir_fd=place, dst_dir_fd=root)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not moved:
            raise
        return False
    moved.append(fresh)
    return True

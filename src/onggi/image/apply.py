"""A layer's tar becomes a directory, whiteouts in overlayfs's form.

Works below one directory descriptor that nobody else writes to, one component at a time without
following symlinks. Knows nothing of digests, other layers or where layers are kept. Parents that
the archive leaves out are made plain, and named in the answer.

Source: image-spec layer.md; kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from onggi.errors import EngineError, ResourceExhausted, from_os_error
from onggi.image.apply_inodes import make_special, set_xattrs, write_sparse
from onggi.image.compression import DEFAULT_LIMITS, Limits
from onggi.image.durable import delete_tree, write_all
from onggi.image.layer_rules import (
    DEFAULT_ACL,
    MAX_MISSING_BYTES,
    MAX_NAME_BYTES,
    OPAQUE_NAME,
    PLAIN_MODE,
    WHITEOUT_PREFIX,
    ParentAttributes,
    hidden_name,
    link_target_missing,
    name_too_long,
    parent_is_no_directory,
    parent_is_whiteout,
    refused,
    split_link,
    split_name,
    too_much_missing,
)
from onggi.image.overlay import is_whiteout, set_opaque
from onggi.image.tar_reader import (
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)

__all__ = [
    "OPAQUE_NAME",
    "PLAIN_MODE",
    "WHITEOUT_PREFIX",
    "Applied",
    "ParentAttributes",
    "apply_layer",
]

MAX_OPEN_DIRECTORIES = 64

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BAD_ENTRY = frozenset(
    getattr(errno, name)
    for name in "ENAMETOOLONG EINVAL ELOOP ENOTDIR EISDIR EMLINK ENOENT EFBIG E2BIG ERANGE".split()
)


class Applied(Struct, frozen=True):
    """What a layer came to.

    `missing`: directories that the archive left out (b"" is the root), parents first; they belong
    to root with PLAIN_MODE (the given directory itself: to whom it did). A later entry may have put
    something else in the place of one.
    """

    entries: int
    size_bytes: int
    missing: tuple[bytes, ...] = ()


def apply_layer(
    chunks: Iterator[bytes],
    directory_fd: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Applied:
    """Unpack the plain tar stream `chunks` into the empty directory `directory_fd` (borrowed).

    The stream is read to its end, so that a caller can hash all of it. After an error the directory
    holds a part; throw it away.

    Raises:
        InvalidArgument: damaged or hostile; names the entry.
        ResourceExhausted: more entries than `limits`, or the disk is full.
    Source: image-spec layer.md#applying-changesets.
    """
    applier = _Applier(directory_fd, limits)
    try:
        return applier.apply(TarReader(chunks))
    finally:
        applier.close()


class _Applier:
    def __init__(self, root: int, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._missing = dict.fromkeys((b"",))
        self._missing_bytes = 0
        self._open: dict[bytes, int] = {}
        self._late: dict[bytes, tuple[int, bytes | None]] = {b"": (0, None)}
        self._size_bytes = 0
        self._reader: TarReader

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def apply(self, reader: TarReader) -> Applied:
        self._reader = reader
        count = 0
        for entry in reader:
            count += 1
            if count > self._limits.entries:
                raise ResourceExhausted(f"layer has more than {self._limits.entries} entries")
            try:
                self._apply_entry(entry)
            except OSError as error:
                raise _unpackable(error, entry) from error
        try:
            self._finish_directories()
        except OSError as error:
            raise from_os_error(error, "finishing a directory") from error
        return Applied(count, self._size_bytes, tuple(self._missing))

    def _apply_entry(self, entry: Entry) -> None:
        parts = split_name(entry, entry.name)
        if not parts:
            if entry.type != DIRECTORY:
                raise refused(entry, "the root is no directory")
            self._dress_directory(self._root, b"", entry)
            return
        base = parts.pop()
        path = b"/".join(parts)
        parent = self._open.get(path, -1)
        if parent < 0:
            parent = self._parent(parts, entry) if parts else self._root
        if base.startswith(WHITEOUT_PREFIX):
            self._whiteout(parent, base, entry)
        elif entry.type == REGULAR:
            self._file(parent, base, entry)
        elif entry.type == DIRECTORY:
            self._directory(parent, base, path + b"/" + base if path else base, entry)
        else:
            self._other(parent, base, entry)

    # Directories.

    def _parent(self, parts: list[bytes], entry: Entry) -> int:
        """The open parent directory, made if the archive left it out."""
        fd = self._root
        path = b""
        for part in parts:
            path = path + b"/" + part if path else part
            known = self._open.get(path)
            fd = known if known is not None else self._enter(fd, part, path, entry)
        return fd

    def _enter(self, parent: int, name: bytes, path: bytes, entry: Entry) -> int:
        if name.startswith(WHITEOUT_PREFIX):
            raise parent_is_whiteout(entry)
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            self._make_missing(parent, name, path, entry)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise parent_is_no_directory(entry) from None
            raise
        if len(self._open) >= MAX_OPEN_DIRECTORIES:
            self._forget_directories(keep=parent)
        self._open[path] = fd
        return fd

    def _forget_directories(self, keep: int = -1) -> None:
        for path, fd in list(self._open.items()):
            if fd != keep:
                os.close(fd)
                del self._open[path]

    def _make_missing(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        self._late[path] = (0, None)
        self._missing[path] = None
        self._missing_bytes += len(path)
        if self._missing_bytes > MAX_MISSING_BYTES:
            raise too_much_missing(entry)
        os.mkdir(name, 0o700, dir_fd=parent)
        # Whatever the umask is, and though a set-group-id parent hands its group down.
        os.chown(name, 0, 0, dir_fd=parent)
        os.chmod(name, PLAIN_MODE, dir_fd=parent)

    def _directory(self, parent: int, base: bytes, path: bytes, entry: Entry) -> None:
        there = _status(parent, base)
        opaque = there is not None and is_whiteout(there)
        if there is None or not stat.S_ISDIR(there.st_mode):
            if there is not None:
                self._remove(parent, base)
            os.mkdir(base, 0o700, dir_fd=parent)
            self._late.pop(path, None)
        fd = self._enter(parent, base, path, entry) if path not in self._open else self._open[path]
        self._dress_directory(fd, path, entry)
        if opaque:
            set_opaque(fd)

    def _dress_directory(self, fd: int, path: bytes, entry: Entry) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        _, acl = self._late.get(path, (0, None))
        if entry.xattrs:
            set_xattrs(fd, entry)
            if DEFAULT_ACL in entry.xattrs:
                acl = entry.xattrs[DEFAULT_ACL]
                os.removexattr(fd, DEFAULT_ACL)
        self._late[path] = (entry.mtime_ns, acl)
        self._missing.pop(path, None)

    def _finish_directories(self) -> None:
        """Last: what is made in a directory changes its mtime, and inherits its default ACL."""
        for path, (mtime_ns, acl) in sorted(self._late.items(), reverse=True):
            try:
                fd = self._reopen(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry put something else in its place
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue
                raise
            if acl is not None:
                os.setxattr(fd, DEFAULT_ACL, acl)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        self._forget_directories()

    def _reopen(self, path: bytes) -> int:
        if not path:
            return self._root
        fd = self._root
        reached = b""
        for part in path.split(b"/"):
            reached = reached + b"/" + part if reached else part
            known = self._open.get(reached)
            if known is None:
                known = os.open(part, _DIRECTORY, dir_fd=fd)
                if len(self._open) >= MAX_OPEN_DIRECTORIES:
                    self._forget_directories(keep=fd)
                self._open[reached] = known
            fd = known
        return fd

    # Everything else.

    def _file(self, parent: int, base: bytes, entry: Entry) -> None:
        try:
            fd = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, base)
            fd = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is not None:
                write_sparse(fd, entry, self._reader)
            elif entry.size_bytes:
                self._reader.copy_data(lambda view: write_all(fd, view))
            self._size_bytes += entry.size_bytes
            # In this order: chown drops setuid bits and file capabilities.
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _other(self, parent: int, base: bytes, entry: Entry) -> None:
        if entry.type == HARD_LINK:
            self._hard_link(parent, base, entry)
            return
        try:
            make_special(parent, base, entry)
        except FileExistsError:
            self._remove(parent, base)
            make_special(parent, base, entry)
        os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        path = f"/proc/self/fd/{parent}/".encode() + base
        if entry.type != SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent)
        if entry.xattrs:
            set_xattrs(path, entry)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(base, ns=times, dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parent: int, base: bytes, entry: Entry) -> None:
        if len(base) > MAX_NAME_BYTES:
            raise name_too_long(entry)  # before the target is looked for, as in the other form
        parts = split_link(entry)
        source_name = parts.pop()
        # Looking up the one, or making room, closes descriptors that the other is reached by.
        with contextlib.ExitStack() as held:
            parent = _held(parent, held)
            source = _held(self._parent(parts, entry) if parts else self._root, held)
            try:
                status = os.stat(source_name, dir_fd=source, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    raise refused(entry, "a hard link to a directory")
                self._link(source_name, source, base, parent, status)
            except FileNotFoundError:
                raise link_target_missing(entry) from None

    def _link(
        self, name: bytes, source: int, base: bytes, parent: int, status: os.stat_result
    ) -> None:
        flags = {"src_dir_fd": source, "dst_dir_fd": parent, "follow_symlinks": False}
        try:
            os.link(name, base, **flags)  # type: ignore[arg-type]
        except FileExistsError:
            there = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return
            self._remove(parent, base)
            os.link(name, base, **flags)  # type: ignore[arg-type]

    def _whiteout(self, parent: int, base: bytes, entry: Entry) -> None:
        """A whiteout hides what lies below; what this layer itself has stays."""
        if base == OPAQUE_NAME:
            set_opaque(parent)
            return
        target = hidden_name(entry, base)
        if not target:
            return
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            status = os.stat(target, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(target, _DIRECTORY, dir_fd=parent)
                try:
                    set_opaque(fd)
                finally:
                    os.close(fd)

    def _remove(self, parent: int, base: bytes) -> None:
        """Make room for an entry that comes a second time."""
        if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            self._forget_directories(keep=parent)
            delete_tree(parent, base)
        else:
            os.unlink(base, dir_fd=parent)


def _status(parent: int, base: bytes) -> os.stat_result | None:
    try:
        return os.stat(base, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _held(fd: int, stack: contextlib.ExitStack) -> int:
    copy = os.dup(fd)
    stack.callback(os.close, copy)
    return copy


def _unpackable(error: OSError, entry: Entry) -> EngineError:
    if error.errno in _BAD_ENTRY:
        return refused(entry, os.strerror(error.errno or 0))
    return from_os_error(error, f"unpacking {entry.shown}")

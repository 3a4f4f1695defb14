"""A layer's tar becomes a directory, whiteouts in overlayfs's form.

Works below one directory descriptor that nobody else writes to, one component at a time without
following symlinks. Knows nothing of digests or where layers are kept. Parents that the archive
leaves out take mode and owner from the layers below.

Source: image-spec layer.md; kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from msgspec import Struct

from onggi.errors import EngineError, InvalidArgument, ResourceExhausted, Unsupported, from_os_error
from onggi.image.compression import DEFAULT_LIMITS, Limits
from onggi.image.durable import delete_tree, write_all
from onggi.image.overlay import OVERLAY_XATTRS, is_whiteout, set_opaque
from onggi.image.tar_reader import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
MAX_OPEN_DIRECTORIES = 64

_ODD_PARTS = frozenset((b"", b".", b".."))
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_BAD_ENTRY = frozenset(
    getattr(errno, name)
    for name in "ENAMETOOLONG EINVAL ELOOP ENOTDIR EISDIR EMLINK ENOENT EFBIG E2BIG ERANGE".split()
)


class ParentAttributes(Struct, frozen=True):
    """What a directory has in the layers below."""

    mode: int
    uid: int
    gid: int


class Applied(Struct, frozen=True):
    """What a layer came to."""

    entries: int
    size_bytes: int


def apply_layer(
    chunks: Iterator[bytes],
    directory_fd: int,
    *,
    below: Callable[[bytes], ParentAttributes | None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Applied:
    """Unpack the plain tar stream `chunks` into the empty directory `directory_fd` (borrowed).

    `below` answers for a relative path what the layers below have there. The stream is read to its
    end, so that a caller can hash all of it. After an error the directory holds a part; throw it
    away.

    Raises:
        InvalidArgument: damaged or hostile; names the entry.
        ResourceExhausted: more entries than `limits`, or the disk is full.
    Source: image-spec layer.md#applying-changesets.
    """
    applier = _Applier(directory_fd, below, limits)
    try:
        return applier.apply(TarReader(chunks))
    finally:
        applier.close()


def split_name(entry: Entry, name: bytes) -> list[bytes]:
    """The components of a name in an archive; none for the root itself.

    Raises:
        InvalidArgument: absolute, or with `..`.
    """
    parts = name.split(b"/")
    if _ODD_PARTS.isdisjoint(parts):
        return parts
    if name.startswith(b"/"):
        raise InvalidArgument(f"archive member {entry.shown}: an absolute name")
    if b".." in parts:
        raise InvalidArgument(f"archive member {entry.shown}: '..' in a name")
    return [part for part in parts if part not in _ODD_PARTS]


class _Applier:
    def __init__(
        self,
        root: int,
        below: Callable[[bytes], ParentAttributes | None] | None,
        limits: Limits,
    ) -> None:
        self._root = root
        self._below = below
        self._limits = limits
        self._open: dict[bytes, int] = {}
        self._mtimes: dict[bytes, int] = {}
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
                raise _refused(error, entry) from error
        try:
            self._set_directory_times()
        except OSError as error:
            raise from_os_error(error, "setting a directory's mtime") from error
        return Applied(count, self._size_bytes)

    def _apply_entry(self, entry: Entry) -> None:
        parts = split_name(entry, entry.name)
        if not parts:
            if entry.type != DIRECTORY:
                raise InvalidArgument(f"archive member {entry.shown}: the root is no directory")
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
            raise InvalidArgument(f"archive member {entry.shown}: a whiteout as a directory")
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            self._make_missing(parent, name, path)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise InvalidArgument(
                    f"archive member {entry.shown}: its parent is a symlink or no directory"
                ) from None
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

    def _make_missing(self, parent: int, name: bytes, path: bytes) -> None:
        found = self._below(path) if self._below is not None else None
        attributes = found or ParentAttributes(0o755, 0, 0)
        os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.fchown(fd, attributes.uid, attributes.gid)
            os.fchmod(fd, attributes.mode)
        finally:
            os.close(fd)

    def _directory(self, parent: int, base: bytes, path: bytes, entry: Entry) -> None:
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                opaque = is_whiteout(status)
                self._remove(parent, base)
                os.mkdir(base, 0o700, dir_fd=parent)
        fd = self._enter(parent, base, path, entry) if path not in self._open else self._open[path]
        self._dress_directory(fd, path, entry)
        if opaque:
            set_opaque(fd)

    def _dress_directory(self, fd: int, path: bytes, entry: Entry) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            _set_xattrs(fd, entry)
        self._mtimes[path] = entry.mtime_ns

    def _set_directory_times(self) -> None:
        """Last, because every file made in a directory changes its mtime."""
        for path, mtime_ns in sorted(self._mtimes.items(), reverse=True):
            try:
                fd = self._reopen(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry put something else in its place
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue
                raise
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
                self._write_sparse(fd, entry)
            elif entry.size_bytes:
                self._reader.copy_data(lambda view: write_all(fd, view))
            self._size_bytes += entry.size_bytes
            # In this order: chown drops setuid bits and file capabilities.
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _write_sparse(self, fd: int, entry: Entry) -> None:
        os.ftruncate(fd, entry.real_size_bytes)
        pieces = [(offset, length) for offset, length in entry.sparse or () if length]
        pieces.reverse()
        left = 0

        def write(view: memoryview) -> None:
            nonlocal left
            while view:
                if not left:
                    offset, left = pieces.pop()
                    os.lseek(fd, offset, os.SEEK_SET)
                step = min(left, len(view))
                write_all(fd, view[:step])
                view = view[step:]
                left -= step

        self._reader.copy_data(write)

    def _other(self, parent: int, base: bytes, entry: Entry) -> None:
        if entry.type == HARD_LINK:
            self._hard_link(parent, base, entry)
            return
        try:
            _make_special(parent, base, entry)
        except FileExistsError:
            self._remove(parent, base)
            _make_special(parent, base, entry)
        os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        path = f"/proc/self/fd/{parent}/".encode() + base
        if entry.type != SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent)
        if entry.xattrs:
            _set_xattrs(path, entry)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(base, ns=times, dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parent: int, base: bytes, entry: Entry) -> None:
        parts = split_name(entry, entry.link)
        if not parts:
            raise InvalidArgument(f"archive member {entry.shown}: a hard link to nothing")
        source_name = parts.pop()
        # Two descriptors are in use at once: the second look-up must not close the first.
        held = os.dup(parent)
        try:
            source = self._parent(parts, entry) if parts else self._root
            status = os.stat(source_name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise InvalidArgument(f"archive member {entry.shown}: a hard link to a directory")
            self._link(source_name, source, base, held, status)
        except FileNotFoundError:
            raise InvalidArgument(
                f"archive member {entry.shown}: the target of the hard link is not in this layer"
            ) from None
        finally:
            os.close(held)

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
        if base.startswith(WHITEOUT_PREFIX * 2):
            return  # AUFS's own bookkeeping
        target = base[len(WHITEOUT_PREFIX) :]
        if target in _ODD_PARTS:
            raise InvalidArgument(f"archive member {entry.shown}: a whiteout of {target!r}")
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


def _make_special(parent: int, base: bytes, entry: Entry) -> None:
    if entry.type == SYMLINK:
        if not entry.link:
            raise InvalidArgument(f"archive member {entry.shown}: a symlink to nothing")
        os.symlink(entry.link, base, dir_fd=parent)
    elif entry.type == FIFO:
        os.mkfifo(base, 0o600, dir_fd=parent)
    else:
        kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}[entry.type]
        os.mknod(base, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)


def _set_xattrs(where: int | bytes, entry: Entry) -> None:
    """Set what belongs to an image; labels of another host's security modules do not."""
    for name, value in (entry.xattrs or {}).items():
        if name.startswith(OVERLAY_XATTRS):
            raise InvalidArgument(
                f"archive member {entry.shown}: carries the attribute {name[:80]!r}"
            )
        if not name.startswith(_KEPT_XATTRS):
            continue
        try:
            if isinstance(where, int):
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise InvalidArgument(
                    f"archive member {entry.shown}: attribute {name[:80]!r}: {error.strerror}"
                ) from None
            raise Unsupported(
                f"archive member {entry.shown}: the filesystem keeps no attribute {name[:80]!r}",
                hint="keep images on ext4, xfs, btrfs or a recent tmpfs",
            ) from None


def _refused(error: OSError, entry: Entry) -> EngineError:
    if error.errno in _BAD_ENTRY:
        return InvalidArgument(f"archive member {entry.shown}: {error.strerror}")
    return from_os_error(error, f"unpacking {entry.shown}")

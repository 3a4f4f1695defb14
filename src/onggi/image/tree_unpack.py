"""A tar becomes files below a directory that others may change meanwhile.

Every member's directory is looked up from the one descriptor, without a link and never above it, so
that neither the archive nor whoever swaps a directory for a link can lead a write elsewhere. What
stands in the way gives way, but never a directory to a file or the other way round. Knows nothing
of containers.

Source: docker-cp(1); openat2(2) RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from msgspec import Struct

from onggi.errors import Conflict, FailedPrecondition, InvalidArgument, SyscallError, from_os_error
from onggi.image.apply_inodes import make_special, write_sparse
from onggi.image.durable import delete_tree, write_all
from onggi.image.layer_rules import split_link, split_name
from onggi.image.tar_reader import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
    shown,
)
from onggi.image.trees import open_beneath
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import mount_identity

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_TRIES = 64


class Rules(Struct, frozen=True):
    """How members become files.

    `owner`: the owner of a member on this file system; (-1, -1): ours. `keep_set_ids`: set-user-id
    bits mean something only to the owner they were given by. `overwrite`: a directory may take a
    file's place and the other way round. `renamed`: the components of a name → those it gets.
    """

    owner: Callable[[Entry], tuple[int, int]] = lambda _: (-1, -1)
    keep_set_ids: bool = False
    overwrite: bool = False
    renamed: Callable[[list[bytes]], list[bytes]] = lambda parts: parts


def unpack(chunks: Iterator[bytes], root: int, rules: Rules) -> int:
    """Unpack the tar stream `chunks` below the directory `root` (borrowed, O_PATH will do).

    The directory itself stays as it is. The answer is the number of device nodes, which are left
    out. After an error, what was unpacked by then is there.

    Raises:
        InvalidArgument: not a tar, or a name that leads out. FailedPrecondition: something is in
        the way. EngineError: it cannot be written.
    """
    return _Unpacker(root, rules).unpack(TarReader(chunks))


class _Unpacker:
    def __init__(self, root: int, rules: Rules) -> None:
        self._root = root
        self._rules = rules
        self._dressed: dict[bytes, Entry] = {}

    def unpack(self, reader: TarReader) -> int:
        devices = 0
        for entry in reader:
            if entry.type in (CHARACTER, BLOCK_DEVICE):
                devices += 1
                continue
            parts = self._rules.renamed(split_name(entry, entry.name))
            if not parts:
                if entry.type != DIRECTORY:
                    raise InvalidArgument(f"archive member {entry.shown}: not a directory")
                continue
            try:
                self._put(reader, entry, parts)
            except OSError as error:
                raise from_os_error(error, f"unpacking {entry.shown}") from None
        self._finish()
        return devices

    def _put(self, reader: TarReader, entry: Entry, parts: list[bytes]) -> None:
        with self._parent(parts[:-1]) as parent:
            base, path = parts[-1], b"/".join(parts)
            if entry.type == DIRECTORY:
                self._directory(parent, base, path, entry)
            elif entry.type == REGULAR:
                self._file(reader, parent, base, entry)
            elif entry.type == HARD_LINK:
                self._hard_link(parent, base, entry)
            else:
                self._make(parent, base, entry, lambda: make_special(parent, base, entry))
                self._dress_special(parent, base, entry)

    def _parent(self, parts: list[bytes]) -> Descriptor:
        """The directory of a member, made where the archive left it out."""
        path = b"/".join(parts)
        try:
            return open_beneath(self._root, path, _DIRECTORY)
        except SyscallError as error:
            if error.errno != errno.ENOENT or not parts:
                raise _in_the_way(error, path) from None
        # Another may be faster; the next open tells what it has made.
        with self._parent(parts[:-1]) as above, contextlib.suppress(FileExistsError):
            os.mkdir(parts[-1], 0o755, dir_fd=above)
        try:
            return open_beneath(self._root, path, _DIRECTORY)
        except SyscallError as error:
            raise _in_the_way(error, path) from None

    def _directory(self, parent: int, base: bytes, path: bytes, entry: Entry) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            there = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                self._give_way(parent, base, entry, there)
                os.mkdir(base, 0o700, dir_fd=parent)
        self._dressed[path] = entry

    def _file(self, reader: TarReader, parent: int, base: bytes, entry: Entry) -> None:
        fd = self._make(parent, base, entry, lambda: os.open(base, _NEW, 0o600, dir_fd=parent))
        try:
            if entry.sparse is not None:
                write_sparse(fd, entry, reader)
            elif entry.size_bytes:
                reader.copy_data(lambda view: write_all(fd, view))
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _hard_link(self, parent: int, base: bytes, entry: Entry) -> None:
        parts = self._rules.renamed(split_link(entry))
        if not parts:
            raise InvalidArgument(f"archive member {entry.shown}: a hard link to the root")
        with self._parent(parts[:-1]) as source:

            def link() -> int:
                os.link(
                    parts[-1], base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False
                )
                return -1

            self._make(parent, base, entry, link)

    def _make(self, parent: int, base: bytes, entry: Entry, make: Callable[[], int | None]) -> int:
        """Do it; what has the name already gives way first. Somebody may put it back each time."""
        for _ in range(_TRIES):
            try:
                return make() or 0
            except FileExistsError:
                try:
                    there = os.stat(base, dir_fd=parent, follow_symlinks=False)
                    if (
                        entry.type == REGULAR
                        and stat.S_ISREG(there.st_mode)
                        and _is_mount(parent, base)
                    ):
                        return _emptied(parent, base)
                    self._give_way(parent, base, entry, there)
                except FileNotFoundError:
                    continue
        raise Conflict(f"{shown(entry.name)} is put back as often as it is taken away")

    def _give_way(self, parent: int, base: bytes, entry: Entry, there: os.stat_result) -> None:
        directory = stat.S_ISDIR(there.st_mode)
        if not self._rules.overwrite and directory != (entry.type == DIRECTORY):
            what, there_is = ("file", "directory") if directory else ("directory", "file")
            raise FailedPrecondition(
                f"the {what} {entry.shown} cannot take the place of a {there_is}",
                hint="remove what is there, or copy to another name",
            )
        if directory:
            delete_tree(parent, base)
        else:
            os.unlink(base, dir_fd=parent)

    def _dress(self, fd: int, entry: Entry) -> None:
        uid, gid = self._rules.owner(entry)
        if (uid, gid) != (-1, -1):
            os.fchown(fd, uid, gid)
        os.fchmod(fd, entry.mode if self._rules.keep_set_ids else entry.mode & ~_SET_IDS)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _dress_special(self, parent: int, base: bytes, entry: Entry) -> None:
        """A link or a FIFO, which was made just now; whatever it may be by now, it is no link."""
        fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            uid, gid = self._rules.owner(entry)
            if (uid, gid) != (-1, -1):
                os.chown(f"/proc/self/fd/{fd}", uid, gid)  # the link itself, not where it leads
            if entry.type != SYMLINK and stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.chmod(f"/proc/self/fd/{fd}", entry.mode & ~_SET_IDS)
        finally:
            os.close(fd)

    def _finish(self) -> None:
        """Directories last, the deepest first: what is made in one changes its time, and one that
        its owner may not write can only then be made so."""
        for path, entry in sorted(self._dressed.items(), reverse=True):
            try:
                with open_beneath(self._root, path, _DIRECTORY) as fd:
                    self._dress(fd, entry)
            except SyscallError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
            except OSError as error:
                raise from_os_error(error, f"unpacking {entry.shown}") from None


def _is_mount(parent: int, base: bytes) -> bool:
    """Whether a file is mounted there, as a container's /etc/hosts: its name cannot be removed."""
    with open_beneath(parent, base, os.O_PATH) as fd:
        return mount_identity(fd)[1]


def _emptied(parent: int, base: bytes) -> int:
    """The regular file itself, emptied, to be written."""
    with open_beneath(parent, base, os.O_PATH) as found:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise FileNotFoundError(errno.ENOENT, "replaced meanwhile")
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{found}", flags)


def _in_the_way(error: SyscallError, path: bytes) -> Exception:
    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
        return error
    return FailedPrecondition(
        f"{shown(path)} is a file or a link, not a directory to unpack in",
        hint="name the directory itself as the destination",
    )

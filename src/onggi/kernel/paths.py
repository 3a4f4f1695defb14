"""Paths inside a root that somebody else fills: resolved from a held descriptor, never as strings.

Every path is taken as a process with that root would take it: `/`, `..` and absolute symbolic links
end at the root, and links of procfs lead nowhere. `root` is a borrowed directory descriptor (O_PATH
will do). Whoever can write below the root may rename things between two calls, and reach at most
other things below the root.

Source: openat2(2).
"""

from __future__ import annotations

import errno
import os
import stat

from onggi.errors import FailedPrecondition, ResourceExhausted, SyscallError
from onggi.kernel.constants import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import openat2

#: How often a `..` may lose a race against a rename somewhere on the host (openat2(2) EAGAIN).
MAX_TRIES = 256

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_in_root(root: int, path: str, flags: int, *, mode: int = 0) -> Descriptor:
    """Open a path below the root; a final symbolic link is followed unless O_NOFOLLOW is given.

    Flags other than O_PATH can block on a FIFO and start a device: look at it through O_PATH first
    unless who made the file is trusted.

    Raises:
        SyscallError: openat2 says so; EAGAIN once something renames without an end.
    """
    return _open(root, path, flags, mode, RESOLVE_IN_ROOT)


def open_beneath(root: int, path: str, flags: int) -> Descriptor:
    """The same for a path that must not even try to leave the root, by `..` or an absolute link.

    Raises:
        SyscallError: EXDEV where it does; else as `open_in_root`.
    """
    return _open(root, path, flags, 0, RESOLVE_BENEATH)


def _open(root: int, path: str, flags: int, mode: int, resolve: int) -> Descriptor:
    tries = MAX_TRIES
    while True:
        try:
            return openat2(root, path, flags, mode=mode, resolve=resolve | RESOLVE_NO_MAGICLINKS)
        except SyscallError as error:
            tries -= 1
            if error.errno != errno.EAGAIN or tries == 0:
                raise


def make_directories(
    root: int, path: str, *, mode: int = 0o755, uid: int = -1, gid: int = -1
) -> Descriptor:
    """The directory at `path`, made with its missing parents; an O_PATH descriptor of it.

    What exists is left as it is. New directories get exactly `mode` whatever the umask, and the
    owner given (-1: ours).

    Raises:
        SyscallError: ENOTDIR where something else stands, ENOENT behind a link to nothing.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root, path, flags)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    names = [name for name in path.split("/") if name not in ("", ".")]
    reached = open_in_root(root, "/", flags)
    try:
        for depth, name in enumerate(names, 1):
            # From the root each time: seen from below, an absolute link would end elsewhere.
            below = _enter(root, "/".join(names[:depth]), reached.fileno(), name, (mode, uid, gid))
            reached.close()
            reached = below
    except BaseException:
        reached.close()
        raise
    return reached


def _enter(
    root: int, path: str, parent: int, name: str, attributes: tuple[int, int, int]
) -> Descriptor:
    """Open `path`; if nothing is there, make `name` in `parent` first."""
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root, path, flags)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    try:
        _make_directory(parent, name, attributes)
    except FileExistsError:
        pass  # another was faster, or a link to nothing: the next open tells which
    except OSError as error:
        raise SyscallError("mkdirat", repr(path), error.errno or 0) from None
    try:
        return open_in_root(root, path, flags)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
        hint = f"{path!r} is a symbolic link to nothing; remove it or make what it names"
        raise SyscallError("openat2", error.arguments, error.errno, hint=hint) from None


def _make_directory(parent: int, name: str, attributes: tuple[int, int, int]) -> None:
    mode, uid, gid = attributes
    os.mkdir(name, 0o700, dir_fd=parent)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with Descriptor(os.open(name, flags, dir_fd=parent)) as made:
        os.fchown(made, uid, gid)
        os.fchmod(made, mode)


def create_file(
    root: int, path: str, *, mode: int = 0o644, uid: int = -1, gid: int = -1
) -> Descriptor:
    """A new empty file, open for writing, with exactly this mode and owner (-1: ours).

    If it cannot be given them, it stays behind empty, with mode 0600.

    Raises:
        SyscallError: EEXIST if anything has the name, be it a link to nothing.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    file = open_in_root(root, path, flags, mode=0o600)
    try:
        os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode)
    except OSError as error:
        file.close()
        raise SyscallError("fchown", repr(path), error.errno or 0) from None
    return file


def open_regular(root: int, path: str, flags: int = os.O_RDONLY) -> Descriptor:
    """Open a file only if it is a regular one; links are followed, inside the root.

    Nothing but a regular file is opened even for an instant: it is looked at through O_PATH, then
    that very inode is opened. So a FIFO cannot block, nor a device node start a watchdog.

    Raises:
        FailedPrecondition: it is something else. SyscallError: it cannot be opened.
    """
    with open_in_root(root, path, os.O_PATH | flags & os.O_NOFOLLOW) as found:
        kind = stat.S_IFMT(os.fstat(found).st_mode)
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "something unknown")
            raise FailedPrecondition(f"{path!r} in the root is {what}, not a regular file")
        try:
            return open_found(found, flags)
        except OSError as error:
            raise SyscallError("open", repr(path), error.errno or 0) from None


def open_found(found: int, flags: int = os.O_RDONLY) -> Descriptor:
    """Open the regular file that the O_PATH descriptor `found` is. Raises: OSError."""
    # The process's own procfs, not the root's.
    path = f"/proc/self/fd/{found}"
    waiting = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return Descriptor(os.open(path, flags & ~os.O_NOFOLLOW | waiting))


def read_file_bounded(
    root: int, path: str, maximum_bytes: int, *, follow_symlinks: bool = True
) -> bytes:
    """The whole content of a regular file below the root.

    Raises:
        FailedPrecondition: not a regular file. ResourceExhausted: more than `maximum_bytes`.
        SyscallError: it cannot be opened or read.
    """
    flags = os.O_RDONLY | (0 if follow_symlinks else os.O_NOFOLLOW)
    with open_regular(root, path, flags) as file:
        content = bytearray()
        while len(content) <= maximum_bytes:
            try:
                part = os.read(file, min(maximum_bytes + 1 - len(content), 1 << 20))
            except OSError as error:
                raise SyscallError("read", repr(path), error.errno or 0) from None
            if not part:
                return bytes(content)
            content += part
    raise ResourceExhausted(f"{path!r} in the root is larger than {maximum_bytes} bytes")

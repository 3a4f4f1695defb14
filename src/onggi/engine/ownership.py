"""Changing the owners of a tree that others may be changing, too.

Everything is reached from one descriptor, without following links and without leaving the mount;
what is changed is what was looked at. Source: podman-run(1) --volume `:U`; chown(2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from onggi.errors import FailedPrecondition, InvalidArgument, SyscallError, from_os_error
from onggi.kernel.constants import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import openat2
from onggi.runtime.printable import printable

_BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
#: Nothing in these is anybody's to give away; nor is any directory right below the root.
_SYSTEM = frozenset("bin boot dev etc lib lib32 lib64 libx32 proc sbin sys usr".split())


def check_place(fd: int) -> None:
    """Refuse the host's own directories as a tree whose owners are changed.

    Raises:
        InvalidArgument: it is one.
    """
    path = _name(fd)
    parts = path.strip("/").split("/")
    if len(parts) < 2 or parts[0] in _SYSTEM:
        raise InvalidArgument(
            f"the owners of {path} are not changed: the host needs them",
            hint="make a directory of its own for the container",
        )


def give(tree: Descriptor, uid: int, gid: int, *, linked: bool) -> int:
    """Make `uid` and `gid` the owner of everything in a tree; how many owners were changed.

    Takes and closes `tree`. Mounts in it are left alone. `linked`: also files that have several
    names; otherwise such a file is refused, before anything is changed, unless its owner is right:
    its other names may be anywhere. What vanishes meanwhile is left out.

    Raises:
        FailedPrecondition: a file with several names. EngineError: the file system refuses.
    """
    with tree as root:
        try:
            if not linked:
                for path in _others(root, uid, gid):
                    _change(root, path, -1, -1, linked=False)
            others = _others(root, uid, gid)
            return sum(_change(root, path, uid, gid, linked=linked) for path in others)
        except OSError as error:
            raise from_os_error(error, "changing owners") from None


def _others(root: int, uid: int, gid: int) -> Iterator[bytes]:
    """Paths in the tree whose owner is another; b"" is the root."""
    status = os.fstat(root)
    if (status.st_uid, status.st_gid) != (uid, gid):
        yield b""
    pending = [b""] if stat.S_ISDIR(status.st_mode) else []
    while pending:
        path = pending.pop()
        opened = _open(root, path, os.O_RDONLY | os.O_DIRECTORY)
        if opened is None:
            continue
        with opened as fd, os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                name = os.fsencode(entry.name)
                below = path + b"/" + name if path else name
                if (status.st_uid, status.st_gid) != (uid, gid):
                    yield below
                if stat.S_ISDIR(status.st_mode):
                    pending.append(below)


def _change(root: int, path: bytes, uid: int, gid: int, *, linked: bool) -> bool:
    """Change one owner, -1: only look whether it may be; False: it has vanished or is a mount."""
    opened = _open(root, path, os.O_PATH) if path else Descriptor(os.dup(root))
    if opened is None:
        return False
    with opened as fd:
        status = os.fstat(fd)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) and not linked:
            raise FailedPrecondition(
                f"{_name(fd)} has {status.st_nlink} names (hard links),"
                " so changing its owner would change them all, wherever they are",
                hint="chown it yourself, or copy it",
            )
        if uid == gid == -1:
            return False
        try:
            # By the descriptor: that very inode, be it a link.
            os.chown(f"/proc/self/fd/{fd}", uid, gid)
        except OSError as error:
            error.filename = _name(fd)
            raise from_os_error(error, "changing the owner of") from None
    return True


def _name(fd: int) -> str:
    """What the kernel calls the file of a descriptor, in one line."""
    return printable(os.readlink(f"/proc/self/fd/{fd}"), 4096)


def _open(root: int, path: bytes, flags: int) -> Descriptor | None:
    """A path of the tree; None: it is there no more, or something is mounted on it."""
    try:
        return openat2(root, os.fsdecode(path) or ".", flags | os.O_NOFOLLOW, resolve=_BELOW)
    except SyscallError as error:
        if error.errno in _GONE or error.errno == errno.EXDEV:
            return None
        if error.errno == errno.ENAMETOOLONG:
            raise FailedPrecondition(
                "the tree is too deep to change its owners: a path is longer than 4,096 bytes"
            ) from None
        raise

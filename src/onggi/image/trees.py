"""Looking at directory trees that others wrote: from a descriptor, never through a symlink."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from onggi.errors import SyscallError, from_os_error
from onggi.image.overlay import OVERLAY_XATTRS
from onggi.kernel.constants import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import openat2

#: How a path fails that somebody took away, or put something else in the way of.
GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_UNREACHABLE = GONE | {errno.ENAMETOOLONG}


class Node(Struct, frozen=True):
    """One inode of a tree: its path from the root (b"" is the root) and its lstat."""

    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class Usage(Struct, frozen=True):
    """What a tree takes on disk; a hard-linked inode counts once."""

    size_bytes: int
    inodes: int


def measure(path: str) -> Usage:
    """What the directory at `path` takes, as far as paths reach; it may be in use.

    Raises: NotFound, EngineError.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, "measuring") from error
    try:
        blocks: dict[tuple[int, int], int] = {}
        for node in walk(fd, live=True):
            blocks[node.status.st_dev, node.status.st_ino] = node.status.st_blocks
    finally:
        os.close(fd)
    return Usage(sum(blocks.values()) * 512, len(blocks))


def open_beneath(root: int, path: bytes, flags: int) -> Descriptor:
    """Open a path below the directory `root` without following any symlink; b"" is the root.

    Raises: SyscallError.
    """
    where = os.fsdecode(path) or "."
    return openat2(
        root, where, flags | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    )


def walk(root: int, *, live: bool = False) -> Iterator[Node]:
    """Every inode, directories before what they hold, names in bytewise order.

    `live`: somebody is changing the tree; what vanished, or lies deeper than PATH_MAX, is left out.

    Raises:
        SyscallError: a path longer than PATH_MAX, which a container can make, for instance.
    """
    with open_beneath(root, b"", os.O_PATH) as fd:
        yield Node(b"", os.fstat(fd))
    pending = [b""]
    while pending:
        try:
            nodes = _children(root, pending.pop(), live)
        except SyscallError as error:
            if live and error.errno in _UNREACHABLE:
                continue
            raise
        yield from nodes
        pending += [node.path for node in reversed(nodes) if node.is_directory]


def _children(root: int, path: bytes, live: bool) -> list[Node]:
    nodes = []
    with open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if live:
                    continue
                raise
            nodes.append(Node(path + b"/" + name if path else name, status))
    return nodes


def kept_xattrs(fd: int, name: bytes = b"") -> dict[str, bytes] | None:
    """The attributes that belong to an image, of `name` in the open directory `fd` or of `fd`."""
    path = f"/proc/self/fd/{fd}".encode() + (b"/" + name if name else b"")
    follow = not name
    found = {}
    for key in os.listxattr(path, follow_symlinks=follow):
        if key.startswith(_KEPT_XATTRS) and not key.startswith(OVERLAY_XATTRS):
            found[key] = os.getxattr(path, key, follow_symlinks=follow)
    return found or None

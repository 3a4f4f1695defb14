"""Looking at directory trees that others wrote: from a descriptor, never through a symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from onggi.image.apply import OPAQUE_XATTRS, OVERLAY_XATTRS
from onggi.kernel.constants import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import openat2

_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")


class Node(Struct, frozen=True):
    """One inode of a tree: its path from the root (b"" is the root) and its lstat."""

    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def open_beneath(root: int, path: bytes, flags: int) -> Descriptor:
    """Open a path below the directory `root` without following any symlink; b"" is the root.

    Raises: SyscallError.
    """
    where = os.fsdecode(path) or "."
    return openat2(
        root, where, flags | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    )


def walk(root: int) -> Iterator[Node]:
    """Every inode, directories before what they hold, names in bytewise order.

    Raises:
        SyscallError: a path longer than PATH_MAX, which a container can make, for instance.
    """
    with open_beneath(root, b"", os.O_PATH) as fd:
        yield Node(b"", os.fstat(fd))
    pending = [b""]
    while pending:
        path = pending.pop()
        with open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
            below = []
            for name in names:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                node = Node(path + b"/" + name if path else name, status)
                yield node
                if node.is_directory:
                    below.append(node.path)
        pending += reversed(below)


def kept_xattrs(fd: int, name: bytes = b"") -> dict[str, bytes] | None:
    """The attributes that belong to an image, of `name` in the open directory `fd` or of `fd`."""
    path = f"/proc/self/fd/{fd}".encode() + (b"/" + name if name else b"")
    follow = not name
    found = {}
    for key in os.listxattr(path, follow_symlinks=follow):
        if key.startswith(_KEPT_XATTRS) and not key.startswith(OVERLAY_XATTRS):
            found[key] = os.getxattr(path, key, follow_symlinks=follow)
    return found or None


def is_opaque(fd: int) -> bool:
    """Whether overlayfs shows nothing of the layers below in this directory (O_PATH will do)."""
    path = f"/proc/self/fd/{fd}"
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            continue  # not set, or not readable for us: then overlayfs cannot have set it either
    return False

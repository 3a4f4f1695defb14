"""A file or directory in use as a tar, read through descriptors alone.

Whoever owns the tree may change it meanwhile and reaches nothing with that but other content of
the same tree: below the top no link is followed, and only regular files are ever opened. Knows
nothing of containers. Attributes beyond owner, mode and time are not kept.

Source: pax(1); openat2(2) RESOLVE_BENEATH.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from onggi.errors import SyscallError, from_os_error
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK
from onggi.image.tar_writer import TarWriter, entry_of
from onggi.image.trees import GONE, open_beneath
from onggi.kernel.paths import open_found

Owner = Callable[[int], int]
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def pack(
    top: int,
    name: bytes,
    write: Callable[[bytes], object],
    *,
    owner: Owner = lambda number: number,
    left_out: frozenset[int] = frozenset(),
) -> None:
    """Write what the O_PATH descriptor `top` is as a tar whose first member is `name` (b"": what is
    in the directory `top`, without a name before it).

    `owner`: what the archive calls a user or group id. File systems `left_out` (st_dev) appear as
    an empty directory. What vanishes meanwhile is left out, and so are sockets.

    Raises:
        Conflict: a file shrinks while it is read. EngineError: it cannot be read or written.
    """
    packer = _Packer(TarWriter(write), owner)
    try:
        packer.add(name or b"./", top)
        pending = [b""] if stat.S_ISDIR(os.fstat(top).st_mode) else []
        while pending:
            pending += reversed(_pack_directory(packer, top, name, pending.pop(), left_out))
    except OSError as error:
        raise from_os_error(error, "archiving") from None
    packer.writer.finish()


def _pack_directory(
    packer: _Packer, top: int, name: bytes, path: bytes, left_out: frozenset[int]
) -> list[bytes]:
    """Write what is in one directory; the paths of the directories to go on with."""
    below = []
    try:
        opened = open_beneath(top, path, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno in GONE:
            return []
        raise
    with opened as directory:
        for base in sorted(map(os.fsencode, os.listdir(directory))):
            child = path + b"/" + base if path else base
            try:
                found = os.open(base, _LOOK, dir_fd=directory)
            except FileNotFoundError:
                continue
            try:
                packer.add(name + b"/" + child if name else child, found)
                status = os.fstat(found)
            finally:
                os.close(found)
            if stat.S_ISDIR(status.st_mode) and status.st_dev not in left_out:
                below.append(child)
    return below


class _Packer:
    """Writes members, and what was written already under another name as a hard link to it."""

    def __init__(self, writer: TarWriter, owner: Owner) -> None:
        self.writer = writer
        self._owner = owner
        self._links: dict[tuple[int, int], bytes] = {}

    def add(self, name: bytes, found: int) -> None:
        """One member: what the O_PATH descriptor `found` is."""
        status = os.fstat(found)
        entry = entry_of(name, status)
        if entry is None:
            return
        entry.uid, entry.gid = self._owner(status.st_uid), self._owner(status.st_gid)
        if status.st_nlink > 1 and entry.type != DIRECTORY:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                entry.type, entry.link, entry.size_bytes = HARD_LINK, first, 0
                entry.major = entry.minor = 0
        if entry.type == SYMLINK:
            entry.link = os.readlink(b"", dir_fd=found)
        if entry.type != REGULAR or not entry.size_bytes:
            self.writer.add(entry)
            return
        with open_found(found) as data:
            entry.size_bytes = os.fstat(data).st_size
            self.writer.add_stream(entry, lambda size: os.read(data, size))

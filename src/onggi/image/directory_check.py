"""Whether an unpacked layer is what its archive makes, without unpacking that a second time.

The archive becomes a tree in memory (`erofs.tree`) and a file without a name, its plain tar; every
file of the layer is compared with both, several at a time. Knows "the same" and "maybe not": what
the tree cannot tell, and what differs, is for `layer_check`, which compares two directories.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from onggi.errors import SyscallError
from onggi.image.compression import Limits, Read, plain_chunks
from onggi.image.durable import write_all
from onggi.image.erofs.format import is_whiteout as is_packed_whiteout
from onggi.image.erofs.format import pack_device_number
from onggi.image.erofs.nodes import Directory, Leaf
from onggi.image.erofs.tree import LayerTree, index_layer
from onggi.image.erofs.unpack import Facts, extents, facts_of
from onggi.image.layer_check import compared_xattrs
from onggi.image.overlay import is_whiteout
from onggi.image.trees import open_beneath

_PIECE_BYTES = 1 << 20
_DIRECTORIES_AT_ONCE = 32


def is_as_archived(
    read: Read,
    diff_id: str,
    found: int,
    *,
    staging: str,
    limits: Limits,
    dress: Callable[[LayerTree], None],
) -> bool:
    """Whether the directory `found` (borrowed) is what the layer behind `read(size)` makes.

    Nobody writes to it. `dress` gives the directories that the archive left out what they have from
    the layers below; `staging`: where the tar has room. False: it may be all the same.

    Raises:
        InvalidArgument, ResourceExhausted: the archive is damaged or hostile.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in plain_chunks(read, limits):
            digest.update(chunk)
            yield chunk

    try:
        tar = os.open(staging, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        tree = index_layer(hashed(), functools.partial(write_all, tar), limits)
        if tree.obstacle or f"sha256:{digest.hexdigest()}" != diff_id:
            return False
        dress(tree)
        return _Comparison(tar, found).same(tree.root)
    except (OSError, SyscallError):
        return False
    finally:
        os.close(tar)


class _Comparison:
    """Of the directory `found` with a tree whose data are in `tar`."""

    def __init__(self, tar: int, found: int) -> None:
        self._tar = tar
        self._found = found
        self._inodes: dict[int, int] = {}  # of what has several names, by the leaf's identity
        self._differs = False

    def same(self, root: Directory) -> bool:
        every = list(_directories(root))
        starts = range(0, len(every), _DIRECTORIES_AT_ONCE)
        batches = (every[start : start + _DIRECTORIES_AT_ONCE] for start in starts)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return all(list(pool.map(self._same_batch, batches)))

    def _same_batch(self, batch: list[tuple[bytes, Directory]]) -> bool:
        if self._differs:
            return False  # the rest does not matter any more
        try:
            same = all(self._same_directory(path, directory) for path, directory in batch)
        except BaseException:
            self._differs = True
            raise
        self._differs = self._differs or not same
        return same

    def _same_directory(self, path: bytes, directory: Directory) -> bool:
        with open_beneath(self._found, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            status = os.fstat(fd)
            wanted = (stat.S_IFDIR | directory.mode, directory.uid, directory.gid)
            if wanted != (status.st_mode, status.st_uid, status.st_gid):
                return False
            if directory.mtime_ns != status.st_mtime_ns:
                return False
            if compared_xattrs(fd, b"") != (directory.xattrs or {}):
                return False
            names = [os.fsencode(name) for name in os.listdir(fd)]
            children = directory.children
            return len(names) == len(children) and all(
                self._same_child(fd, name, children.get(name)) for name in names
            )

    def _same_child(self, parent: int, name: bytes, node: Leaf | Directory | None) -> bool:
        if not isinstance(node, Leaf):
            return node is not None  # a directory, which is opened as one when its turn comes
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        facts = facts_of(node)
        if not _same_owner(facts, status) or compared_xattrs(parent, name) != facts.xattrs:
            return False
        if is_packed_whiteout(node.image):
            return is_whiteout(status)  # an archive says nothing more of one
        if (facts.mtime_ns, node.links) != (status.st_mtime_ns, status.st_nlink):
            return False
        if id(node) in self._inodes:
            return self._inodes[id(node)] == status.st_ino
        return self._same_content(parent, name, status, facts) and self._is_one(node, status)

    def _is_one(self, node: Leaf, status: os.stat_result) -> bool:
        """Whether all names of a file, seen by any thread, lead to one inode."""
        return node.links == 1 or self._inodes.setdefault(id(node), status.st_ino) == status.st_ino

    def _same_content(self, parent: int, name: bytes, status: os.stat_result, facts: Facts) -> bool:
        """For nodes of the same kind."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return status.st_size == facts.size_bytes and self._same_data(parent, name, facts)
        if kind == stat.S_IFLNK:
            return os.readlink(name, dir_fd=parent) == facts.rest
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            device = status.st_rdev
            return facts.number == pack_device_number(os.major(device), os.minor(device))
        return True

    def _same_data(self, parent: int, name: bytes, facts: Facts) -> bool:
        if not facts.size_bytes:
            return True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        try:
            return all(self._same_extent(fd, *extent) for extent in extents(facts))
        finally:
            os.close(fd)

    def _same_extent(self, fd: int, start: int, length: int, in_tar: int | None) -> bool:
        for done in range(0, length, _PIECE_BYTES):
            size = min(_PIECE_BYTES, length - done)
            have = os.pread(fd, size, start + done)
            want = bytes(size) if in_tar is None else os.pread(self._tar, size, in_tar + done)
            if len(have) != size or have != want:
                return False
        return True


def _same_owner(facts: Facts, status: os.stat_result) -> bool:
    owned = (status.st_mode, status.st_uid, status.st_gid)
    return (facts.mode, facts.uid, facts.gid) == owned


def _directories(root: Directory) -> Iterator[tuple[bytes, Directory]]:
    """A directory and all below it, with their paths."""
    pending = [(b"", root)]
    while pending:
        path, directory = pending.pop()
        yield path, directory
        prefix = path + b"/" if path else b""
        pending += [
            (prefix + name, child)
            for name, child in directory.children.items()
            if isinstance(child, Directory)
        ]

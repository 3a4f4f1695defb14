"""A directory in overlayfs's form (an upper, a layer) becomes a layer's tar; undoes `apply`.

Reproducible: names in bytewise order, whole seconds. Owners as on disk, which are unshifted. Holes
of large sparse files stay holes in a layer; a plain filesystem's tar does not depend on them.

Source: image-spec layer.md#representing-changes; lseek(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from onggi.errors import InvalidArgument, SyscallError, from_os_error
from onggi.image.apply import OPAQUE_NAME, WHITEOUT_PREFIX
from onggi.image.overlay import is_opaque, is_whiteout
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, shown
from onggi.image.tar_writer import TarWriter, Write, entry_of
from onggi.image.trees import GONE, Node, kept_xattrs, open_beneath, walk
from onggi.kernel.paths import open_found

#: A file with fewer bytes of holes is written whole, as others do.
MIN_HOLE_BYTES = 1 << 16
MAX_PIECES = 10_000
_COPY_BYTES = 1 << 18


def write_layer(directory_fd: int, write: Write) -> None:
    """Write the layer that `directory_fd` (borrowed) holds, as an uncompressed tar.

    Symlinks are never followed, so nothing outside is read. Somebody may write below it meanwhile:
    what vanishes is left out.

    Raises:
        InvalidArgument: a file's name means a whiteout.
        Conflict: a file became shorter while it was read.
        SyscallError: something cannot be read.
    """
    nodes = walk(directory_fd, live=True)
    write_tree(((node, directory_fd) for node in nodes), write, whiteouts=True)


def write_tree(nodes: Iterable[tuple[Node, int]], write: Write, *, whiteouts: bool) -> None:
    """Write nodes as a tar; each comes with the root (a descriptor) that its data is below.

    `whiteouts`: write overlayfs's marks as a layer's; else the nodes are a plain filesystem.

    Raises: as `write_layer`.
    """
    writer = TarWriter(write)
    links: dict[tuple[int, int], bytes] = {}
    try:
        for node, root in nodes:
            _write_node(writer, node, root, links, whiteouts)
    except OSError as error:
        raise from_os_error(error, "archiving a directory") from error
    writer.finish()


def _write_node(
    writer: TarWriter,
    node: Node,
    root: int,
    links: dict[tuple[int, int], bytes],
    whiteouts: bool,
) -> None:
    if whiteouts and node.path.rpartition(b"/")[2].startswith(WHITEOUT_PREFIX):
        raise InvalidArgument(
            f"file {shown(node.path)} cannot be in a layer: its name means a whiteout",
            hint="remove or rename it in the container",
        )
    try:
        found = open_beneath(root, node.path, os.O_PATH)
    except SyscallError as error:
        if error.errno in GONE:
            return
        raise
    with found as fd:
        _write_inode(writer, node.path, fd, links, whiteouts)


def _write_inode(
    writer: TarWriter,
    path: bytes,
    fd: int,
    links: dict[tuple[int, int], bytes],
    whiteouts: bool,
) -> None:
    """All is read from the one inode (O_PATH), whatever has its name by now."""
    status = os.fstat(fd)
    if whiteouts and is_whiteout(status):
        directory, slash, base = path.rpartition(b"/")
        writer.add(_mark(directory + slash + WHITEOUT_PREFIX + base))
        return
    entry = entry_of(path or b"./", status)
    if entry is None:
        return
    if status.st_nlink > 1 and entry.type != DIRECTORY:
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            entry.type, entry.link, entry.size_bytes = HARD_LINK, first, 0
            entry.major = entry.minor = 0
            writer.add(entry)
            return
    entry.xattrs = kept_xattrs(fd)
    if entry.type == SYMLINK:
        entry.link = os.readlink(b"", dir_fd=fd)
    if entry.type == REGULAR and entry.size_bytes:
        _write_file(writer, entry, fd, status, holes=whiteouts)
        return
    writer.add(entry)
    if whiteouts and entry.type == DIRECTORY and path and is_opaque(fd):
        writer.add(_mark(path + b"/" + OPAQUE_NAME))


def _write_file(
    writer: TarWriter, entry: Entry, found: int, status: os.stat_result, *, holes: bool
) -> None:
    with open_found(found) as fd:
        hole_bytes = entry.size_bytes - status.st_blocks * 512
        pieces = None
        if holes and hole_bytes >= MIN_HOLE_BYTES:
            pieces = _data_pieces(fd, entry.size_bytes)
        if pieces is None:
            writer.add_stream(entry, lambda size: os.read(fd, size))
            return
        entry.sparse = pieces
        entry.real_size_bytes = entry.size_bytes
        entry.size_bytes = sum(length for _, length in pieces)
        chunks = _read_pieces(fd, pieces)
        writer.add_stream(entry, lambda _: next(chunks, b""))


def _data_pieces(fd: int, size_bytes: int) -> list[tuple[int, int]] | None:
    """Where a file has data: (offset, length); None: nothing is won by knowing."""
    pieces: list[tuple[int, int]] = []
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size_bytes)
        if start < end:
            pieces.append((start, end - start))
        if len(pieces) > MAX_PIECES:
            return None
    if pieces == [(0, size_bytes)]:
        return None
    if not pieces or sum(pieces[-1]) < size_bytes:
        pieces.append((size_bytes, 0))  # GNU tar takes the size from the last piece
    return pieces


def _read_pieces(fd: int, pieces: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, length in pieces:
        at = offset
        while at < offset + length:
            data = os.pread(fd, min(_COPY_BYTES, offset + length - at), at)
            if not data:
                return  # shorter by now: the writer tells
            yield data
            at += len(data)


def _mark(name: bytes) -> Entry:
    return Entry(name, REGULAR, 0o600, 0, 0, 0, 0, b"")

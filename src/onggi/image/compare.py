"""A directory in overlayfs's form (an upper, a layer) becomes a layer's tar; undoes `apply`.

Reproducible: names in bytewise order, whole seconds. Owners as on disk, which are unshifted.

Source: image-spec layer.md#representing-changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from onggi.errors import InvalidArgument, from_os_error
from onggi.image.apply import OPAQUE_NAME, WHITEOUT_PREFIX
from onggi.image.overlay import is_opaque, is_whiteout
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, shown
from onggi.image.tar_writer import TarWriter, Write, entry_of
from onggi.image.trees import Node, kept_xattrs, open_beneath, walk
from onggi.kernel.paths import open_regular


def write_layer(directory_fd: int, write: Write) -> None:
    """Write the layer that `directory_fd` (borrowed) holds, as an uncompressed tar.

    Nobody should write below it meanwhile; symlinks are never followed, so nothing outside is read.

    Raises:
        InvalidArgument: a file's name means a whiteout.
        Conflict: a file changed.
        SyscallError: something cannot be read.
    """
    write_tree(((node, directory_fd) for node in walk(directory_fd)), write, whiteouts=True)


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
    path, status = node.path, node.status
    base = path.rpartition(b"/")[2]
    if whiteouts and base.startswith(WHITEOUT_PREFIX):
        raise InvalidArgument(
            f"file {shown(path)} cannot be in a layer: its name means a whiteout",
            hint="remove or rename it in the container",
        )
    if whiteouts and is_whiteout(status):
        writer.add(_mark(path[: len(path) - len(base)] + WHITEOUT_PREFIX + base))
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
    _write_inode(writer, entry, node, root, whiteouts)


def _write_inode(writer: TarWriter, entry: Entry, node: Node, root: int, whiteouts: bool) -> None:
    with open_beneath(root, node.path, os.O_PATH) as fd:
        entry.xattrs = kept_xattrs(fd)
        if entry.type == REGULAR:
            if entry.size_bytes:
                _write_file(writer, entry, root, node.path)
                return
        elif entry.type == DIRECTORY:
            writer.add(entry)
            if whiteouts and node.path and is_opaque(fd):
                writer.add(_mark(node.path + b"/" + OPAQUE_NAME))
            return
        else:
            entry.link = os.readlink(b"", dir_fd=fd) if entry.type == SYMLINK else b""
        writer.add(entry)


def _write_file(writer: TarWriter, entry: Entry, root: int, path: bytes) -> None:
    with open_regular(root, os.fsdecode(path), os.O_RDONLY | os.O_NOFOLLOW) as fd:
        writer.add_stream(entry, lambda size: os.read(fd, size))


def _mark(name: bytes) -> Entry:
    return Entry(name, REGULAR, 0o600, 0, 0, 0, 0, b"")

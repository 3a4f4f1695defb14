"""A layer's tar becomes a tree of inodes while it streams by; nothing is unpacked.

By the rules of `layer_rules` and with the refusals of `apply`, whose directory a mounted image must
not be told from: a later member wins, a directory over a directory keeps what it has, a whiteout
hides only what lies below. Times of what the archive left out are 0.

Source: image-spec layer.md#applying-changesets.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from onggi.errors import InvalidArgument, ResourceExhausted
from onggi.image.compression import DEFAULT_LIMITS, Limits
from onggi.image.erofs.format import NotExpressible, is_whiteout
from onggi.image.erofs.nodes import (
    Directory,
    Leaf,
    file_leaf,
    special_leaf,
    symlink_leaf,
    whiteout_leaf,
)
from onggi.image.erofs.writer import write_image
from onggi.image.erofs.xattrs import checked_xattrs, pack_xattrs
from onggi.image.layer_rules import (
    ACCESS_ACL,
    MAX_MISSING_BYTES,
    MAX_NAME_BYTES,
    ODD_PARTS,
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    ParentAttributes,
    hidden_name,
    link_target_missing,
    name_too_long,
    parent_is_no_directory,
    parent_is_whiteout,
    refused,
    split_link,
    split_name,
    too_much_missing,
)
from onggi.image.overlay import OPAQUE_XATTRS
from onggi.image.tar_reader import (
    BLOCK,
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

_KINDS = {
    REGULAR: stat.S_IFREG,
    CHARACTER: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
}
#: What packed inodes and attributes may take in memory while a layer streams by.
MAX_HELD_BYTES = 256 << 20

_OPAQUE = dict.fromkeys(OPAQUE_XATTRS, b"y")


class LayerTree:
    """What a layer holds: `entries` members of the archive, `size_bytes` of files.

    Until `write` succeeds, directories that the archive left out can be dressed.
    `obstacle`: what of the archive `root` does not tell right, or "".
    """

    def __init__(
        self, root: Directory, entries: int, size_bytes: int, data_end: int, obstacle: str
    ) -> None:
        self.entries = entries
        self.size_bytes = size_bytes
        self.root = root
        self._data_end = data_end
        self.obstacle = obstacle

    @property
    def missing(self) -> list[bytes]:
        """The directories that the archive left out, parents first; b'' is the root."""
        found = []
        pending = [(b"", self.root)]
        while pending:
            path, directory = pending.pop()
            if directory.missing:
                found.append(path)
            prefix = path + b"/" if path else b""
            pending += [
                (prefix + name, child)
                for name, child in directory.children.items()
                if isinstance(child, Directory)
            ]
        return sorted(found)

    def dress(self, path: bytes, attributes: ParentAttributes) -> None:
        """Give a directory, one of `missing`, what it has in the layers below.

        Raises:
            InvalidArgument: this layer has no such directory.
        """
        directory = self.root
        for part in path.split(b"/") if path else ():
            child = directory.children.get(part)
            if not isinstance(child, Directory):
                raise InvalidArgument(f"the layer has no directory {path[:200]!r}")
            directory = child
        directory.mode = attributes.mode
        directory.uid = attributes.uid
        directory.gid = attributes.gid
        directory.mtime_ns = attributes.mtime_ns

    def write(self, fd: int, tar_bytes: int) -> None:
        """Write the image for a tar of `tar_bytes` into the empty file `fd` (borrowed), unsynced.

        The same archive, dressed alike, gives the same bytes.

        Raises:
            NotExpressible: only a directory can hold this layer; nothing was written.
            OSError: from writing.
        """
        if self.obstacle:
            raise NotExpressible(f"erofs cannot hold this layer: {self.obstacle}")
        if self._data_end > tar_bytes // BLOCK * BLOCK:
            # Linux 6.18 answers EIO for a block that the tar has a part of.
            raise NotExpressible("erofs cannot hold this layer: the tar ends inside a file's block")
        write_image(self.root, fd, tar_bytes)


def index_layer(
    chunks: Iterator[bytes],
    write: Callable[[bytes], object],
    limits: Limits = DEFAULT_LIMITS,
) -> LayerTree:
    """Read the plain tar stream `chunks` to its end, handing all of it to `write` on the way.

    What erofs cannot express is said by `LayerTree.write` only: by then the tar is stored, and a
    directory can be made of it.

    Raises:
        InvalidArgument: damaged or hostile; names the entry.
        ResourceExhausted: more entries than `limits`.
        Whatever `chunks` and `write` raise.
    """

    def stored() -> Iterator[bytes]:
        for chunk in chunks:
            write(chunk)
            yield chunk

    indexer = _Indexer()
    reader = TarReader(stored())
    count = 0
    for entry in reader:
        count += 1
        if count > limits.entries:
            raise ResourceExhausted(f"layer has more than {limits.entries} entries")
        indexer.add(entry, reader.data_offset)
    return LayerTree(indexer.root, count, indexer.size_bytes, indexer.data_end, indexer.obstacle)


class _Indexer:
    def __init__(self) -> None:
        self.root = Directory()
        self.size_bytes = 0
        self.data_end = 0  # in the archive
        self.obstacle = ""
        self._held_bytes = 0
        self._missing_bytes = 0
        # Archives go directory by directory: the last one is worth remembering.
        self._prefix: bytes | None = None
        self._here = self.root

    def add(self, entry: Entry, data_offset: int) -> None:
        name = entry.name
        start = name.rfind(b"/") + 1
        base = name[start:]
        if name[:start] == self._prefix and base not in ODD_PARTS:
            parent = self._here
        else:
            parts = split_name(entry, name)
            if not parts:
                self._add_root(entry)
                return
            last = parts.pop()
            parent = self._enter(parts, entry)
            if last == base:
                self._prefix, self._here = name[:start], parent
            base = last
        if base.startswith(WHITEOUT_PREFIX):
            self._whiteout(parent, base, entry)
        elif len(base) > MAX_NAME_BYTES:
            raise name_too_long(entry)
        elif entry.type == DIRECTORY:
            self._directory(parent, base, entry)
        elif entry.type == HARD_LINK:
            self._hard_link(parent, base, entry)
        else:
            self._put(parent, base, self._leaf(entry, data_offset))

    # Directories.

    def _add_root(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise refused(entry, "the root is no directory")
        self._dress(self.root, entry)

    def _enter(self, parts: list[bytes], entry: Entry) -> Directory:
        """The directory, made if the archive left it out."""
        directory = self.root
        length = -1
        for part in parts:
            length += len(part) + 1
            child = directory.children.get(part)
            if child is None:
                child = directory.children[part] = self._missing(part, length, entry)
            elif isinstance(child, Leaf):
                raise parent_is_no_directory(entry)
            directory = child
        return directory

    def _missing(self, name: bytes, path_bytes: int, entry: Entry) -> Directory:
        if name.startswith(WHITEOUT_PREFIX):
            raise parent_is_whiteout(entry)
        if len(name) > MAX_NAME_BYTES:
            raise name_too_long(entry)
        self._missing_bytes += path_bytes
        if self._missing_bytes > MAX_MISSING_BYTES:
            raise too_much_missing(entry)
        return Directory()

    def _directory(self, parent: Directory, base: bytes, entry: Entry) -> None:
        there = parent.children.get(base)
        opaque = False
        if isinstance(there, Directory):
            directory = there
        else:
            opaque = there is not None and is_whiteout(there.image)
            directory = Directory()
            self._put(parent, base, directory)
        self._dress(directory, entry)
        if opaque:
            _make_opaque(directory)

    def _dress(self, directory: Directory, entry: Entry) -> None:
        directory.missing = False
        directory.uid = entry.uid
        directory.gid = entry.gid
        directory.mtime_ns = entry.mtime_ns
        try:
            new = checked_xattrs(entry, stat.S_IFDIR | entry.mode) if entry.xattrs else {}
            old = directory.xattrs or {}
            if entry.mode != directory.mode and ACCESS_ACL in old and ACCESS_ACL not in new:
                raise NotExpressible("its mode changes under its access control list")
            self._hold(len(pack_xattrs(new)))
            if new:
                directory.xattrs = old | new
        except NotExpressible as error:
            self._cannot(entry, error)
        directory.mode = entry.mode

    # Everything else.

    def _leaf(self, entry: Entry, data_offset: int) -> Leaf:
        if entry.type == REGULAR:
            self.size_bytes += entry.size_bytes
            if entry.size_bytes:
                self.data_end = data_offset + entry.size_bytes
        try:
            leaf = _packed_leaf(entry, data_offset)
            self._hold(len(leaf.image) + len(leaf.data))
        except NotExpressible as error:
            self._cannot(entry, error)
            return whiteout_leaf()
        return leaf

    def _hold(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._held_bytes > MAX_HELD_BYTES:
            raise NotExpressible(f"more than {MAX_HELD_BYTES} bytes of metadata")

    def _hard_link(self, parent: Directory, base: bytes, entry: Entry) -> None:
        parts = split_link(entry)
        name = parts.pop()
        holder = self._enter(parts, entry)
        source = holder.children.get(name)
        if len(name) > MAX_NAME_BYTES:
            raise name_too_long(entry)
        if source is None:
            raise link_target_missing(entry)
        if isinstance(source, Directory):
            raise refused(entry, "a hard link to a directory")
        there = parent.children.get(base)
        if there is source:
            return
        if isinstance(there, Directory) and holder in _directories(there):
            raise link_target_missing(entry)  # what makes room for the link takes its target away
        source.links += 1
        self._put(parent, base, source)

    def _whiteout(self, parent: Directory, base: bytes, entry: Entry) -> None:
        """A whiteout hides what lies below; what this layer itself has stays."""
        if base == OPAQUE_NAME:
            _make_opaque(parent)
            return
        target = hidden_name(entry, base)
        if not target:
            return
        if len(target) > MAX_NAME_BYTES:
            raise name_too_long(entry)
        there = parent.children.get(target)
        if there is None:
            parent.children[target] = whiteout_leaf()
        elif isinstance(there, Directory):
            _make_opaque(there)

    def _put(self, parent: Directory, base: bytes, node: Leaf | Directory) -> None:
        there = parent.children.get(base)
        if there is not None:
            self._forget(there)
        parent.children[base] = node

    def _forget(self, node: Leaf | Directory) -> None:
        """Take away the names that a replaced node stood for."""
        self._prefix = None
        if isinstance(node, Leaf):
            node.links -= 1
            return
        for directory in _directories(node):
            for child in directory.children.values():
                if isinstance(child, Leaf):
                    child.links -= 1

    def _cannot(self, entry: Entry, error: NotExpressible) -> None:
        self.obstacle = self.obstacle or f"archive member {entry.shown}: {error.message}"


def _packed_leaf(entry: Entry, data_offset: int) -> Leaf:
    kind = entry.type
    mode = 0o120777 if kind == SYMLINK else _KINDS[kind] | entry.mode
    if kind == SYMLINK and not entry.link:
        raise refused(entry, "a symlink to nothing")
    xattrs = checked_xattrs(entry, mode) if entry.xattrs else {}
    if kind == REGULAR:
        return file_leaf(entry, mode, xattrs, data_offset)
    if kind == SYMLINK:
        return symlink_leaf(entry, mode, xattrs)
    return special_leaf(entry, mode, xattrs)


def _make_opaque(directory: Directory) -> None:
    directory.xattrs = (directory.xattrs or {}) | _OPAQUE


def _directories(top: Directory) -> list[Directory]:
    """A directory and all below it."""
    found = [top]
    for directory in found:
        found += [child for child in directory.children.values() if isinstance(child, Directory)]
    return found

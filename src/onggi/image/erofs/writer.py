"""A tree becomes an EROFS image of metadata, whose files' data lies in a second file, the tar.

Inodes come first, a directory's children side by side; then the blocks of what is too long to stand
behind its inode. Always the same bytes for the same tree.

Source: Linux fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from onggi.image.durable import write_all
from onggi.image.erofs.format import (
    ADDRESS_OFFSET,
    BLOCK,
    DIRECTORY_TYPE,
    DIRENT_BYTES,
    DIRENT_TYPES,
    FIRST_INODE,
    INLINE,
    INODE_BYTES,
    LINKS_OFFSET,
    MAX_BLOCKS,
    PLAIN,
    SLOT,
    NotExpressible,
    pack_directory_block,
    pack_head,
    pack_inode,
    patched,
)
from onggi.image.erofs.nodes import Directory, Leaf
from onggi.image.erofs.xattrs import pack_xattrs

__all__ = ["NotExpressible", "write_image"]

_WRITE_BYTES = 1 << 20


def write_image(root: Directory, fd: int, tar_bytes: int) -> None:
    """Write the image of a tree over a tar of `tar_bytes` into the empty file `fd` (borrowed).

    Raises:
        NotExpressible: larger than block addresses reach; nothing was written.
        OSError: from writing.
    """
    layout = _Layout(root)
    tar_blocks = tar_bytes // BLOCK
    if max(tar_blocks, layout.blocks) >= MAX_BLOCKS:
        raise NotExpressible("erofs cannot hold this layer: a tar of more than 2 TiB")
    digest = hashlib.sha256()
    os.lseek(fd, FIRST_INODE, os.SEEK_SET)
    for data in _gathered(layout.pieces()):
        digest.update(data)
        write_all(fd, data)
    # Overlayfs names lower files by the file system's uuid: the same layer keeps its names.
    head = pack_head(
        root_nid=root.nid,
        inodes=len(layout.placed),
        meta_blocks=layout.blocks,
        tar_blocks=tar_blocks,
        uuid=digest.digest()[:16],
    )
    os.lseek(fd, 0, os.SEEK_SET)
    write_all(fd, head)


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _WRITE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


class _Listing:
    """A directory with its names in the kernel's order, cut into blocks.

    `starts`: the index of each block's first name. `inline`: whether the last block stands behind
    the inode.
    """

    __slots__ = ("directory", "inline", "names", "parent", "starts", "tail_bytes", "xattrs")

    def __init__(self, directory: Directory, parent: Directory) -> None:
        self.directory = directory
        self.parent = parent
        self.xattrs = pack_xattrs(directory.xattrs or {})
        self.names = sorted((b".", b"..", *directory.children))
        self.starts = [0]
        used = 0
        for index, name in enumerate(self.names):
            size = DIRENT_BYTES + len(name)
            if used + size > BLOCK:
                self.starts.append(index)
                used = 0
            used += size
        self.tail_bytes = used
        self.inline = INODE_BYTES + len(self.xattrs) + used <= BLOCK

    @property
    def inode_bytes(self) -> int:
        return INODE_BYTES + len(self.xattrs) + (self.tail_bytes if self.inline else 0)

    @property
    def data_blocks(self) -> int:
        return len(self.starts) - self.inline

    def inode(self) -> bytes:
        """With its attributes, and the last block if it is inline."""
        directory = self.directory
        links = 2 + sum(isinstance(child, Directory) for child in directory.children.values())
        inode = pack_inode(
            INLINE if self.inline else PLAIN,
            0o040000 | directory.mode,
            (len(self.starts) - 1) * BLOCK + self.tail_bytes,
            uid=directory.uid,
            gid=directory.gid,
            mtime_ns=directory.mtime_ns,
            address=directory.block,
            links=links,
            xattr_bytes=len(self.xattrs),
        )
        return inode + self.xattrs + (self._block(len(self.starts) - 1) if self.inline else b"")

    def data(self) -> Iterator[bytes]:
        """The blocks that are not inline."""
        for number in range(self.data_blocks):
            yield self._block(number).ljust(BLOCK, b"\0")

    def _block(self, number: int) -> bytes:
        end = self.starts[number + 1] if number + 1 < len(self.starts) else None
        children = self.directory.children
        entries = []
        for name in self.names[self.starts[number] : end]:
            child = children.get(name)
            if isinstance(child, Leaf):
                entries.append((name, child.nid, DIRENT_TYPES[child.image[5] >> 4]))
            elif child is not None:
                entries.append((name, child.nid, DIRECTORY_TYPE))
            else:
                directory = self.directory if name == b"." else self.parent
                entries.append((name, directory.nid, DIRECTORY_TYPE))
        return pack_directory_block(entries)


class _Layout:
    """Where each inode and each block goes; `placed` is in the order of the inodes on disk."""

    def __init__(self, root: Directory) -> None:
        self.placed: list[Leaf | _Listing] = []
        self._end = FIRST_INODE
        self._linked: set[int] = set()
        pending = [self._place_directory(root, root)]
        while pending:
            pending += self._place_children(pending.pop())
        self._first_block = self.blocks = -(-self._end // BLOCK)
        self._place_data()

    def _place_children(self, listing: _Listing) -> list[_Listing]:
        """Put a directory's children side by side; the subdirectories, last first."""
        below = []
        children = listing.directory.children
        for name in listing.names:
            child = children.get(name)
            if isinstance(child, Leaf):
                if child.links == 1 or id(child) not in self._linked:
                    self._place_leaf(child)
            elif child is not None:
                below.append(self._place_directory(child, listing.directory))
        below.reverse()
        return below

    def _place_leaf(self, leaf: Leaf) -> None:
        image = leaf.image
        if leaf.links > 1:
            self._linked.add(id(leaf))
        leaf.nid = self._place(len(image), whole=image[0] == INLINE)
        self.placed.append(leaf)

    def _place_directory(self, directory: Directory, parent: Directory) -> _Listing:
        listing = _Listing(directory, parent)
        directory.nid = self._place(listing.inode_bytes, whole=listing.inline)
        self.placed.append(listing)
        return listing

    def _place(self, size: int, *, whole: bool) -> int:
        """The nid for an inode of `size` bytes; one with inline data must be `whole` in a block."""
        at = self._end
        if whole and at % BLOCK + size > BLOCK:
            at = -(-at // BLOCK) * BLOCK
        self._end = -(-(at + size) // SLOT) * SLOT
        return at // SLOT

    def _place_data(self) -> None:
        for node in self.placed:
            if isinstance(node, _Listing):
                node.directory.block = self.blocks
                self.blocks += node.data_blocks
            elif isinstance(node, Leaf) and node.data:
                self.blocks += -(-len(node.data) // BLOCK)

    def pieces(self) -> Iterator[bytes]:
        """Everything from FIRST_INODE on."""
        at = FIRST_INODE
        block = self._first_block
        for node in self.placed:
            if isinstance(node, Leaf):
                nid, image = node.nid, node.image
                if node.links != 1:
                    image = patched(image, LINKS_OFFSET, node.links)
                if node.data:
                    image = patched(image, ADDRESS_OFFSET, block)
                    block += -(-len(node.data) // BLOCK)
            else:
                nid, image = node.directory.nid, node.inode()
                block += node.data_blocks
            start = nid * SLOT
            if start != at:
                yield bytes(start - at)
            yield image
            at = start + len(image)
        yield bytes(-at % BLOCK)
        for node in self.placed:
            if isinstance(node, _Listing):
                yield from node.data()
            elif isinstance(node, Leaf) and node.data:
                yield node.data + bytes(-len(node.data) % BLOCK)

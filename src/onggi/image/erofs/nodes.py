"""What a layer's tree is made of in memory: directories, and leaves that are packed already.

A layer may have millions of entries: a leaf is one packed inode and little else, and the garbage
collector does not look at it.
"""

from __future__ import annotations

from msgspec import Struct, field

from onggi.image.erofs.format import (
    BLOCK,
    CHUNKED,
    HOLE,
    INLINE,
    MAX_CHUNK_BITS,
    PLAIN,
    NotExpressible,
    chunk_bits,
    chunk_format,
    pack_chunk,
    pack_device_number,
    pack_inode,
)
from onggi.image.erofs.xattrs import pack_xattrs
from onggi.image.layer_rules import PLAIN_MODE
from onggi.image.tar_reader import Entry

#: 512 KiB of indexes: what a small archive may make of one file.
MAX_SPARSE_CHUNKS = 1 << 16


class Leaf(Struct, gc=False, eq=False):
    """A file that is no directory: its inode with what follows it, as it will stand on disk.

    `data` is what needs blocks of its own, their address to be patched in. `links` counts names.
    `nid` is the writer's.
    """

    image: bytes
    data: bytes = b""
    links: int = 1
    nid: int = 0


class Directory(Struct, eq=False):
    """A directory; `missing` while the archive has only told of something in it.

    `nid` and `block` are the writer's.
    """

    mode: int = PLAIN_MODE
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    missing: bool = True
    xattrs: dict[str, bytes] | None = None
    children: dict[bytes, Leaf | Directory] = field(default_factory=dict)
    nid: int = 0
    block: int = 0


def packed(
    entry: Entry,
    mode: int,
    xattrs: dict[str, bytes],
    *,
    layout: int = PLAIN,
    size_bytes: int = 0,
    address: int = 0,
) -> bytes:
    """The inode of a leaf with its attributes; `mode` is the full one."""
    body = pack_xattrs(xattrs) if xattrs else b""
    inode = pack_inode(
        layout,
        mode,
        size_bytes,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        address=address,
        xattr_bytes=len(body),
    )
    return inode + body


def file_leaf(entry: Entry, mode: int, xattrs: dict[str, bytes], data_offset: int) -> Leaf:
    """A regular file whose data starts at a byte offset of the tar, which is a block's.

    Raises:
        NotExpressible: holes that begin or end inside a block, or too far into the tar.
    """
    if entry.sparse is not None:
        return _sparse_leaf(entry, mode, xattrs, data_offset)
    size = entry.size_bytes
    if not size:
        return Leaf(packed(entry, mode, xattrs))
    bits = chunk_bits(size)
    if bits > MAX_CHUNK_BITS:
        raise NotExpressible("a file of more than 1 TiB")
    return _chunked(entry, mode, xattrs, size, bits, pack_chunk(data_offset // BLOCK))


def _chunked(
    entry: Entry,
    mode: int,
    xattrs: dict[str, bytes],
    size_bytes: int,
    bits: int,
    indexes: bytes,
) -> Leaf:
    inode = packed(
        entry, mode, xattrs, layout=CHUNKED, size_bytes=size_bytes, address=chunk_format(bits)
    )
    return Leaf(inode + bytes(-len(inode) % 8) + indexes)


def _sparse_leaf(entry: Entry, mode: int, xattrs: dict[str, bytes], data_offset: int) -> Leaf:
    size = entry.real_size_bytes
    pieces = [piece for piece in entry.sparse or () if piece[1]]
    if not size:
        return Leaf(packed(entry, mode, xattrs))
    bits = _common_chunk_bits(pieces, size)
    chunk = BLOCK << bits
    count = -(-size // chunk)
    if count > MAX_SPARSE_CHUNKS:
        raise NotExpressible(f"a sparse file of {count} chunks")
    indexes = [HOLE] * count
    at = data_offset // BLOCK
    for offset, length in pieces:
        for start in range(offset, offset + length, chunk):
            indexes[start // chunk] = pack_chunk(at + (start - offset) // BLOCK)
        at += length // BLOCK
    return _chunked(entry, mode, xattrs, size, bits, b"".join(indexes))


def _common_chunk_bits(pieces: list[tuple[int, int]], size: int) -> int:
    """The largest chunk of which each is all data, in one run of blocks, or all hole."""
    edges = 0
    for offset, length in pieces:
        edges |= offset
        if offset + length != size:  # behind the file's end there is nothing to be wrong
            edges |= offset + length
    if edges % BLOCK:
        raise NotExpressible("a sparse file whose holes begin or end inside a block")
    whole = chunk_bits(size)
    aligned = (edges & -edges).bit_length() - 1 - (BLOCK.bit_length() - 1) if edges else whole
    return min(whole, aligned, MAX_CHUNK_BITS)


def symlink_leaf(entry: Entry, mode: int, xattrs: dict[str, bytes]) -> Leaf:
    """A symlink; a short target lies behind its inode."""
    size = len(entry.link)
    inode = packed(entry, mode, xattrs, layout=INLINE, size_bytes=size)
    if len(inode) + size <= BLOCK:
        return Leaf(inode + entry.link)
    return Leaf(packed(entry, mode, xattrs, layout=PLAIN, size_bytes=size), entry.link)


def special_leaf(entry: Entry, mode: int, xattrs: dict[str, bytes]) -> Leaf:
    """A device or a FIFO."""
    number = pack_device_number(entry.major, entry.minor)
    return Leaf(packed(entry, mode, xattrs, address=number))


def whiteout_leaf() -> Leaf:
    """What overlayfs reads as "deleted here"."""
    return Leaf(pack_inode(PLAIN, 0o020000, 0, uid=0, gid=0, mtime_ns=0))

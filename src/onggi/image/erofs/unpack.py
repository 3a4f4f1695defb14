"""Reading back what `nodes` packed: the facts of one inode, and where its data lies.

For whoever compares a layer with something else; the kernel reads images by itself.

Source: Linux fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from onggi.image.erofs.format import (
    BLOCK,
    CHUNK_BYTES,
    HOLE,
    INODE,
    INODE_BYTES,
    chunk_bits_of,
    chunk_block,
)
from onggi.image.erofs.nodes import Leaf
from onggi.image.erofs.xattrs import unpack_xattrs


class Facts(Struct, frozen=True):
    """What a packed inode says. `number`: of a device, as pack_device_number() has it.

    `rest`: what stands behind the attributes: a short link target, or the chunks' indexes.
    """

    mode: int
    size_bytes: int
    uid: int
    gid: int
    mtime_ns: int
    number: int
    xattrs: dict[str, bytes]
    rest: bytes


def facts_of(leaf: Leaf) -> Facts:
    """The facts of a leaf that was packed here."""
    image = leaf.image
    _, count, mode, _, size, address, _, uid, gid, seconds, nanoseconds, _ = INODE.unpack_from(
        image
    )
    end = INODE_BYTES + (12 + 4 * (count - 1) if count else 0)
    xattrs = unpack_xattrs(image[INODE_BYTES:end]) if count else {}
    mtime_ns = seconds * 1_000_000_000 + nanoseconds
    return Facts(mode, size, uid, gid, mtime_ns, address, xattrs, leaf.data or image[end:])


def extents(facts: Facts) -> Iterator[tuple[int, int, int | None]]:
    """The pieces of a regular file in order: offset, length, offset in the tar (None: a hole)."""
    if not facts.size_bytes:
        return
    chunk_size = BLOCK << chunk_bits_of(facts.number)
    count = -(-facts.size_bytes // chunk_size)
    at = len(facts.rest) - count * CHUNK_BYTES  # behind the padding
    for offset in range(0, facts.size_bytes, chunk_size):
        index = facts.rest[at : at + CHUNK_BYTES]
        at += CHUNK_BYTES
        length = min(chunk_size, facts.size_bytes - offset)
        yield offset, length, None if index == HOLE else chunk_block(index) * BLOCK

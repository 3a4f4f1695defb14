"""EROFS on disk: the structures that an image over a tar needs, as numbers and packers.

Blocks are 512 bytes, a tar's own. Inodes lie anywhere behind the superblock on slots of 32 bytes;
their number (nid) is the slot's. The tar is device 1, addressed in blocks. Nothing here knows what
a layer is.

Source: Linux fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import struct

from onggi.errors import Unsupported

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
SLOT = 32
#: The superblock's checksum covers one block, which also holds the device table.
SUPER_OFFSET = 1024
FIRST_INODE = SUPER_OFFSET + BLOCK
INODE_BYTES = 64
#: Block addresses have 32 bits, and all ones mean a hole.
MAX_BLOCKS = 0xFFFFFFFF
MAX_CHUNK_BITS = 31
MAX_XATTR_BYTES = 12 + 4 * 0xFFFE
DIRENT_BYTES = 12

_MAGIC = 0xE0F5E1E2
_COMPAT_CHECKSUM = 0x1
_COMPAT_MTIME = 0x2
_INCOMPAT_CHUNKS = 0x4
_INCOMPAT_DEVICES = 0x8
_TAR_DEVICE = 1
_CHUNK_INDEXES = 0x20

# i_format: bit 0 the extended inode, from bit 1 the data's layout.
PLAIN = 1 | 0 << 1
INLINE = 1 | 2 << 1
CHUNKED = 1 | 4 << 1

#: Where a number can be patched into a packed inode.
ADDRESS_OFFSET = 16
LINKS_OFFSET = 44

DIRECTORY_TYPE = 2
#: File type (mode >> 12) to a directory entry's.
DIRENT_TYPES = {0o10: 1, 0o04: DIRECTORY_TYPE, 0o02: 3, 0o06: 4, 0o01: 5, 0o14: 6, 0o12: 7}

# i_format, xattr count, mode, -, size, address or device, ino, uid, gid, mtime s, ns, nlink, -.
INODE = struct.Struct("<HHHHQIIIIqII16x")
_CHUNK = struct.Struct("<HHI")
CHUNK_BYTES = _CHUNK.size
_DIRENT = struct.Struct("<QHBx")
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_DEVICE = struct.Struct("<64sII56x")


class NotExpressible(Unsupported):
    """EROFS over a tar cannot say what this layer says; a directory can."""


def pack_inode(
    layout: int,
    mode: int,
    size_bytes: int,
    *,
    uid: int,
    gid: int,
    mtime_ns: int,
    address: int = 0,
    links: int = 1,
    xattr_bytes: int = 0,
) -> bytes:
    """An extended inode; `xattr_bytes` is the length of what `pack_xattrs` made."""
    count = (xattr_bytes - 12) // 4 + 1 if xattr_bytes else 0
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    return INODE.pack(
        layout, count, mode, 0, size_bytes, address, 0, uid, gid, seconds, nanoseconds, links
    )


def patched(inode: bytes, offset: int, value: int) -> bytes:
    """A packed inode with another 32-bit number at ADDRESS_OFFSET or LINKS_OFFSET."""
    return inode[:offset] + value.to_bytes(4, "little") + inode[offset + 4 :]


def mode_of(inode: bytes) -> int:
    """The mode in a packed inode."""
    return inode[4] | inode[5] << 8


def is_whiteout(inode: bytes) -> bool:
    """Whether overlayfs reads a packed inode as "deleted here"."""
    return inode[5] >> 4 == 0o02 and inode[ADDRESS_OFFSET : ADDRESS_OFFSET + 4] == b"\0\0\0\0"


def pack_device_number(major: int, minor: int) -> int:
    """A device number as the kernel's new_encode_dev()."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def chunk_bits(size_bytes: int) -> int:
    """The smallest chunk (512 << bits bytes) that holds `size_bytes`."""
    return ((size_bytes - 1) >> BLOCK_BITS).bit_length()


def chunk_format(bits: int) -> int:
    """What a chunked inode has for its address."""
    return _CHUNK_INDEXES | bits


def chunk_bits_of(address: int) -> int:
    """What `chunk_format` was given."""
    return address & ~_CHUNK_INDEXES


def chunk_block(index: bytes) -> int:
    """What `pack_chunk` was given."""
    block: int = _CHUNK.unpack(index)[2]
    return block


def pack_chunk(block: int) -> bytes:
    """The index of a chunk in the tar. Raises: NotExpressible: too far."""
    if block >= MAX_BLOCKS:
        raise NotExpressible("a tar of more than 2 TiB")
    return _CHUNK.pack(0, _TAR_DEVICE, block)


HOLE = _CHUNK.pack(0, 0, 0xFFFFFFFF)


def pack_directory_block(entries: list[tuple[bytes, int, int]]) -> bytes:
    """One block of a directory from sorted (name, nid, type), not padded."""
    offset = DIRENT_BYTES * len(entries)
    parts = []
    for name, nid, kind in entries:
        parts.append(_DIRENT.pack(nid, offset, kind))
        offset += len(name)
    parts += [entry[0] for entry in entries]
    return b"".join(parts)


def pack_head(
    *, root_nid: int, inodes: int, meta_blocks: int, tar_blocks: int, uuid: bytes
) -> bytes:
    """Everything before the first inode: superblock and device table."""
    slot = (SUPER_OFFSET + _SUPER.size) // _DEVICE.size
    superblock = _SUPER.pack(
        _MAGIC,
        0,
        _COMPAT_CHECKSUM | _COMPAT_MTIME,
        BLOCK_BITS,
        0,
        root_nid,
        inodes,
        0,
        0,
        meta_blocks,
        0,
        0,
        uuid,
        b"",
        _INCOMPAT_CHUNKS | _INCOMPAT_DEVICES,
        0,
        1,
        slot,
        0,
        0,
        0,
        0,
        0,
    )
    checked = (superblock + _DEVICE.pack(b"", tar_blocks, 0)).ljust(BLOCK, b"\0")
    checksum = crc32c(checked).to_bytes(4, "little")
    return bytes(SUPER_OFFSET) + checked[:4] + checksum + checked[8:]


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum as the kernel's crc32c(~0, …): not inverted at the end."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value

"""Writes tar: ustar headers, PAX records only where ustar has no room; equal input, equal bytes.

Times are whole seconds, as in Docker's layers. Knows nothing of layers.

Source: pax(1); GNU tar manual, "PAX Format, Version 1.0".
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable

from onggi.errors import Conflict, InvalidArgument
from onggi.image.tar_reader import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    REGULAR,
    SYMLINK,
    Entry,
)

_HEADER = struct.Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12x")
_MAX_OCTAL_7 = 0o7777777
_MAX_OCTAL_11 = 0o77777777777
_COPY_BYTES = 1 << 18
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}

Write = Callable[[bytes], object]


def entry_of(name: bytes, status: os.stat_result) -> Entry | None:
    """The member that stands for an inode; None for a socket, which no archive holds."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return Entry(
        name,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size if kind == REGULAR else 0,
        status.st_mtime_ns // 1_000_000_000 * 1_000_000_000,
        b"",
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
    )


class TarWriter:
    """Hands an archive to `write`, member by member; `finish` ends it."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def add(self, entry: Entry, data: bytes = b"") -> None:
        """Write a member whose data is at hand; `entry.size_bytes` is its length."""
        self.begin(entry)
        if data:
            self._write(data)
            self.end(entry)

    def begin(self, entry: Entry) -> None:
        """Write a member's header; exactly `entry.size_bytes` of data and `end` must follow.

        With `entry.sparse` the data is that of the pieces, one behind the other.
        """
        self._write(encode_header(entry) + encode_sparse_map(entry))

    def end(self, entry: Entry) -> None:
        """Fill up the last block of a member's data."""
        if entry.size_bytes % BLOCK:
            self._write(bytes(-entry.size_bytes % BLOCK))

    def add_stream(self, entry: Entry, read: Callable[[int], bytes]) -> None:
        """Write a regular file's member, its data from `read(size)`.

        Raises:
            Conflict: there is less than `entry.size_bytes` by now.
        """
        self.begin(entry)
        left = entry.size_bytes
        while left:
            data = read(min(left, _COPY_BYTES))
            if not data:
                raise Conflict(f"file {entry.shown} became shorter while it was being archived")
            self._write(data)
            left -= len(data)
        self.end(entry)

    def finish(self) -> None:
        """Write the end mark."""
        self._write(bytes(2 * BLOCK))


def encode_header(entry: Entry) -> bytes:
    """The header blocks of a member, extended ones included."""
    name = entry.name
    if entry.type == DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    records: dict[bytes, bytes] = {}
    if entry.sparse is not None:
        records[b"GNU.sparse.major"] = b"1"
        records[b"GNU.sparse.minor"] = b"0"
        records[b"GNU.sparse.name"] = name
        records[b"GNU.sparse.realsize"] = b"%d" % entry.real_size_bytes
        name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2][-80:]
    prefix, short = _split(name)
    if prefix is None:
        records[b"path"] = name
        prefix, short = b"", name[:100]
    if len(entry.link) > 100:
        records[b"linkpath"] = entry.link
    mtime_s = entry.mtime_ns // 1_000_000_000
    if not 0 <= mtime_s <= _MAX_OCTAL_11:
        records[b"mtime"] = b"%d" % mtime_s
        mtime_s = 0
    uid = _fit(records, b"uid", entry.uid, _MAX_OCTAL_7)
    gid = _fit(records, b"gid", entry.gid, _MAX_OCTAL_7)
    stored_bytes = entry.size_bytes + len(encode_sparse_map(entry))
    size = _fit(records, b"size", stored_bytes, _MAX_OCTAL_11)
    for key, value in (entry.xattrs or {}).items():
        if "=" in key:
            raise InvalidArgument(f"file {entry.shown}: attribute {key[:80]!r} cannot be archived")
        records[b"SCHILY.xattr." + os.fsencode(key)] = value
    numbers = (entry.mode, uid, gid, size, mtime_s, entry.major, entry.minor)
    main = _block(short, prefix, entry.link[:100], entry.type, numbers)
    return _extended(short, records) + main if records else main


def encode_sparse_map(entry: Entry) -> bytes:
    """The blocks before a sparse member's data that say where its pieces belong; else b"".

    Source: GNU tar manual, "Storing Sparse Files", PAX format 1.0.
    """
    if entry.sparse is None:
        return b""
    lines = [b"%d\n" % len(entry.sparse)]
    lines += [b"%d\n%d\n" % piece for piece in entry.sparse]
    data = b"".join(lines)
    return data + bytes(-len(data) % BLOCK)


def _fit(records: dict[bytes, bytes], key: bytes, value: int, maximum: int) -> int:
    if value <= maximum:
        return value
    records[key] = b"%d" % value
    return 0


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """ustar's prefix and name; None when the name has no room there."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return None, b""
    slash = name.find(b"/", len(name) - 101, len(name) - 1)
    if slash <= 0 or slash > 155:
        return None, b""
    return name[:slash], name[slash + 1 :]


def _extended(name: bytes, records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    header_name = b"PaxHeaders/" + name.rstrip(b"/")[-80:].lstrip(b"/")
    header = _block(header_name, b"", b"", ord("x"), (0o644, 0, 0, len(body), 0, 0, 0))
    return header + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _block(name: bytes, prefix: bytes, link: bytes, kind: int, numbers: tuple[int, ...]) -> bytes:
    mode, uid, gid, size, mtime_s, major, minor = numbers
    block = _HEADER.pack(
        name,
        b"%07o" % mode,
        b"%07o" % uid,
        b"%07o" % gid,
        b"%011o" % size,
        b"%011o" % mtime_s,
        b" " * 8,
        kind,
        link,
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % major,
        b"%07o" % minor,
        prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]

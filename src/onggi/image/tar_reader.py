"""A strict streaming tar reader: ustar, GNU long names, PAX, old GNU and PAX sparse files.

Archives are hostile. What two readers could understand differently is refused, with the entry's
name: conflicting sizes, two sources for one name, NULs in names, negative or huge numbers. It does
not know what a name means to a filesystem or to an image; `apply` does.

Source: pax(1) ustar and pax formats; tar(5); GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from zlib import adler32

from msgspec import Struct

from onggi.errors import InvalidArgument
from onggi.image.tar_pax import PaxHeader, parse_pax

BLOCK = 512
MAX_PATH_BYTES = 4096
MAX_PAX_BYTES = 1 << 20
MAX_ID = 2**32 - 2
MAX_TIME_S = 2**40
MAX_SPARSE_SIZE_BYTES = 1 << 44
MAX_FRAGMENTS = 1 << 20

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0123456"

_HEADER = struct.Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12x")
_ZERO = bytes(BLOCK)
_NO_DATA = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_KNOWN = _NO_DATA | {REGULAR, ord("7"), 0, ord("S")}
_PADDED_SUM = 8 * 32
_HALF = BLOCK // 2


class Entry(Struct, gc=False):
    """One member. Names are bytes as archived; `size_bytes`: data that follows in the archive.

    `sparse`: (offset, length) of the data's pieces in a file of `real_size_bytes`.
    """

    name: bytes
    type: int
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    link: bytes
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] | None = None
    sparse: list[tuple[int, int]] | None = None
    real_size_bytes: int = 0

    @property
    def shown(self) -> str:
        """The name for a message."""
        return shown(self.name)


def shown(name: bytes) -> str:
    """A name of an archive for a message: short, and no control characters."""
    text = name[:200].decode("utf-8", "replace")
    return repr(text + ("..." if len(name) > 200 else ""))


class ByteStream:
    """Exact reads from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._data: bytes = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._before + self._at

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes, or b'' at the very end. Raises: InvalidArgument (cut short)."""
        at = self._at
        data = self._data[at : at + size]
        if len(data) == size:
            self._at = at + size
            return data
        parts = [data]
        missing = size - len(data)
        while (chunk := self._next_chunk()) is not None:
            self._at = min(missing, len(chunk))
            parts.append(chunk[: self._at])
            missing -= self._at
            if not missing:
                return b"".join(parts)
        if missing == size:
            return b""
        raise InvalidArgument("the archive is cut short")

    def copy(self, size: int, write: Callable[[memoryview], object]) -> None:
        """Hand exactly `size` bytes to `write`. Raises: InvalidArgument (cut short)."""
        while size:
            have = len(self._data) - self._at
            if not have:
                if self._next_chunk() is None:
                    raise InvalidArgument("the archive is cut short")
                continue
            step = min(have, size)
            write(memoryview(self._data)[self._at : self._at + step])
            self._at += step
            size -= step

    def skip(self, size: int, padding: int = 0) -> None:
        """Read past `size` bytes and `padding` more, which a stream that ends may lack.

        Raises: InvalidArgument (cut short).
        """
        size += padding
        while size > len(self._data) - self._at:
            size -= len(self._data) - self._at
            self._at = len(self._data)
            if self._next_chunk() is None:
                if size <= padding:
                    return
                raise InvalidArgument("the archive is cut short")
        self._at += size

    def _next_chunk(self) -> bytes | None:
        """Go on to the next chunk, if there is one; the present one is read."""
        self._before += len(self._data)
        self._data, self._at = b"", 0
        chunk = next(self._chunks, None)
        if chunk is not None:
            self._data = chunk
        return chunk

    def drain(self) -> None:
        """Read to the end, for whoever counts or hashes below."""
        self._data, self._at = b"", 0
        for _ in self._chunks:
            pass


class TarReader:
    """Iterates over the members; between two of them `copy_data` may be called once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._stream = ByteStream(chunks)
        self._unread = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Members in order; reads the stream to its very end.

        Raises:
            InvalidArgument: not a tar, damaged, or ambiguous; with the entry's name.
        """
        while (entry := self._next()) is not None:
            yield entry
        self._stream.drain()

    @property
    def data_offset(self) -> int:
        """Where in the archive the present member's data starts, or goes on; a block's start."""
        return self._stream.position

    def copy_data(self, write: Callable[[memoryview], object]) -> None:
        """Hand the present member's stored data to `write`, piece by piece."""
        size, self._unread = self._unread, 0
        self._stream.copy(size, write)

    def read_data(self, maximum_bytes: int) -> bytes:
        """The present member's data. Raises: InvalidArgument when larger."""
        if self._unread > maximum_bytes:
            raise InvalidArgument(f"archive member is larger than {maximum_bytes} bytes")
        parts: list[bytes] = []
        self.copy_data(lambda view: parts.append(bytes(view)))
        return b"".join(parts)

    def _next(self) -> Entry | None:
        self._skip_rest()
        pax: PaxHeader | None = None
        long_name = long_link = b""
        while True:
            raw = self._stream.take(BLOCK)
            if not raw or raw == _ZERO:
                self._check_end(raw, dangling=bool(pax or long_name or long_link))
                return None
            fields = _HEADER.unpack(raw)
            kind = fields[7]
            _check_sum(raw, fields)
            if kind == 0x78:  # x
                if pax is not None:
                    raise InvalidArgument("two PAX headers for one archive member")
                pax = parse_pax(self._take_meta(fields, MAX_PAX_BYTES))
            elif kind == 0x67:  # g
                _check_global(parse_pax(self._take_meta(fields, MAX_PAX_BYTES)))
            elif kind == 0x4C:  # L
                long_name = _once(long_name, self._take_meta(fields, MAX_PATH_BYTES + 2))
            elif kind == 0x4B:  # K
                long_link = _once(long_link, self._take_meta(fields, MAX_PATH_BYTES + 2))
            else:
                return self._entry(raw, fields, pax, long_name, long_link)

    def _check_end(self, raw: bytes, *, dangling: bool) -> None:
        if dangling:
            raise InvalidArgument("the archive ends behind an extended header")
        if raw and self._stream.take(BLOCK).strip(b"\0"):
            raise InvalidArgument("the archive goes on behind its end mark")

    def _skip_rest(self) -> None:
        if self._unread or self._padding:
            # Some writers leave the last member's padding out, and Go's reader does not miss it.
            self._stream.skip(self._unread, self._padding)
            self._unread = self._padding = 0

    def _take_meta(self, fields: tuple[bytes, ...], maximum_bytes: int) -> bytes:
        size = _number(fields[4], "size", fields[0])
        if size > maximum_bytes:
            raise InvalidArgument(f"extended tar header of {size} bytes, more than {maximum_bytes}")
        data = self._stream.take(-(-size // BLOCK) * BLOCK)
        if size and not data:
            raise InvalidArgument("the archive is cut short")
        return data[:size]

    def _entry(
        self,
        raw: bytes,
        fields: tuple[bytes, ...],
        pax: PaxHeader | None,
        long_name: bytes,
        long_link: bytes,
    ) -> Entry:
        entry = _plain_entry(raw, fields)
        if long_name:
            entry.name = _long(long_name)
        if long_link:
            entry.link = _long(long_link)
        if pax is not None:
            if (long_name and pax.path) or (long_link and pax.link):
                raise InvalidArgument(f"archive member {entry.shown}: two long names")
            _apply_pax(entry, pax)
        _check_names(entry)
        kind = entry.type
        if kind == ord("S"):
            self._read_gnu_sparse(raw, entry)
        elif kind not in _KNOWN:
            raise InvalidArgument(f"archive member {entry.shown}: unknown type {chr(kind)!r}")
        elif kind not in _NO_DATA:
            entry.type = REGULAR
            if entry.name.endswith(b"/") and kind == 0:
                entry.type = DIRECTORY  # as before POSIX
        if entry.type in _NO_DATA and entry.size_bytes:
            raise InvalidArgument(f"archive member {entry.shown}: data behind what has none")
        self._unread = entry.size_bytes
        self._padding = -entry.size_bytes % BLOCK
        if pax is not None and pax.sparse:
            self._read_pax_sparse(entry, pax)
        if entry.sparse is not None:
            _check_sparse(entry, self._unread)
        return entry

    def _read_gnu_sparse(self, raw: bytes, entry: Entry) -> None:
        entry.type = REGULAR
        pieces = _gnu_pieces(raw, 386, 4, entry)
        more = raw[482]
        while more:
            block = self._stream.take(BLOCK)
            if not block:
                raise InvalidArgument("the archive is cut short")
            pieces += _gnu_pieces(block, 0, 21, entry)
            more = block[504]
            if len(pieces) > MAX_FRAGMENTS:
                raise InvalidArgument(f"archive member {entry.shown}: too many sparse pieces")
        entry.sparse = pieces
        entry.real_size_bytes = _number(raw[483:495], "real size", entry.name)

    def _read_pax_sparse(self, entry: Entry, pax: PaxHeader) -> None:
        if entry.type != REGULAR or pax.real_size is None:
            raise InvalidArgument(f"archive member {entry.shown}: incomplete sparse header")
        entry.real_size_bytes = pax.real_size
        if pax.sparse_map is not None:
            entry.sparse = pax.sparse_map
            return
        if pax.sparse_version != (1, 0):
            raise InvalidArgument(f"archive member {entry.shown}: unknown sparse format")
        lines = self._sparse_lines(entry)
        count = next(lines)
        if count > MAX_FRAGMENTS:
            raise InvalidArgument(f"archive member {entry.shown}: too many sparse pieces")
        entry.sparse = [(next(lines), next(lines)) for _ in range(count)]
        entry.size_bytes = self._unread

    def _sparse_lines(self, entry: Entry) -> Iterator[int]:
        """Decimal lines in whole blocks at the start of the data (PAX sparse 1.0)."""
        rest = b""
        while True:
            line, newline, behind = rest.partition(b"\n")
            if newline and line.isdigit() and len(line) < 20:
                rest = behind
                yield int(line)
                continue
            if newline or len(rest) > 20 or self._unread < BLOCK:
                raise InvalidArgument(f"archive member {entry.shown}: damaged sparse map")
            block = self._stream.take(BLOCK)
            if not block:  # or a size of many would be many steps
                raise InvalidArgument("the archive is cut short")
            rest += block
            self._unread -= BLOCK


def _plain_entry(raw: bytes, fields: tuple[bytes, ...]) -> Entry:
    name = fields[0].split(b"\0", 1)[0]
    kind: int = fields[7]  # type: ignore[assignment]
    magic = fields[9]
    if raw[345]:
        if magic[:6] == b"ustar\0":
            name = fields[14].split(b"\0", 1)[0] + b"/" + name
        elif magic != b"ustar  \0":  # old GNU tar has times there
            raise InvalidArgument(f"archive member {shown(name)}: a prefix without ustar's magic")
    entry = Entry(
        name,
        kind,
        _number(fields[1], "mode", name) & 0o7777,
        _number(fields[2], "uid", name),
        _number(fields[3], "gid", name),
        _number(fields[4], "size", name),
        _number(fields[5], "mtime", name, negative=True) * 1_000_000_000,
        fields[8].split(b"\0", 1)[0],
    )
    if kind in (CHARACTER, BLOCK_DEVICE):
        entry.major = _number(fields[12], "device number", name)
        entry.minor = _number(fields[13], "device number", name)
    return entry


def _number(field: bytes, what: str, name: bytes, *, negative: bool = False) -> int:
    digits = field.rstrip(b"\0 ")
    if digits.isdigit() and b"8" not in digits and b"9" not in digits:
        return int(digits, 8)
    first = field[0]
    if first == 0x80:
        value = int.from_bytes(field[1:], "big")
    elif first & 0x80:  # a number with anything but 0xFF there is of 56 bits or more
        value = int.from_bytes(field, "big", signed=True) if first == 0xFF else -(2**63)
    else:
        text = field.split(b"\0", 1)[0].strip(b" ")
        try:
            value = int(text, 8) if text.isdigit() else -1 if text else 0
        except ValueError:
            value = -1
        if value < 0:
            raise InvalidArgument(f"archive member {shown(name)}: the {what} is not a number")
    if not (-MAX_TIME_S if negative else 0) <= value <= 2**63 - 1:
        raise InvalidArgument(f"archive member {shown(name)}: the {what} is out of range")
    return value


def _check_sum(raw: bytes, fields: tuple[bytes, ...]) -> None:
    stored = fields[6]
    text = stored.split(b"\0", 1)[0].strip(b" ")
    try:
        expected = int(text, 8) if text.isdigit() else -1
    except ValueError:
        expected = -1
    # Adler-32's low half is 1 + the sum of the bytes, as long as that is below 65521.
    total = (adler32(raw[:_HALF]) & 0xFFFF) + (adler32(raw[_HALF:]) & 0xFFFF) - 2
    if total - sum(stored) + _PADDED_SUM != expected:
        raise InvalidArgument("not a tar archive, or a damaged one: wrong header checksum")


def _check_global(pax: PaxHeader) -> None:
    """A global header that names every member alike has no honest use."""
    if pax.path or pax.link or pax.size is not None or pax.sparse:
        raise InvalidArgument("a global PAX header sets names or sizes")


def _once(old: bytes, new: bytes) -> bytes:
    if old:
        raise InvalidArgument(f"archive member {shown(old)}: two long names")
    if not new.rstrip(b"\0"):
        raise InvalidArgument("an empty long name in the archive")
    return new


def _long(data: bytes) -> bytes:
    """A GNU long name ends with one NUL or none."""
    return data[:-1] if data.endswith(b"\0") else data


def _apply_pax(entry: Entry, pax: PaxHeader) -> None:
    entry.name = pax.path or entry.name
    entry.link = pax.link or entry.link
    if pax.size is not None:
        if entry.size_bytes != pax.size and pax.size < 8 << 30:
            raise InvalidArgument(f"archive member {entry.shown}: two different sizes")
        entry.size_bytes = pax.size
    if pax.uid is not None:
        entry.uid = pax.uid
    if pax.gid is not None:
        entry.gid = pax.gid
    if pax.mtime_ns is not None:
        entry.mtime_ns = pax.mtime_ns
    entry.xattrs = pax.xattrs


def _check_names(entry: Entry) -> None:
    if not entry.name:
        raise InvalidArgument("an archive member without a name")
    for name in (entry.name, entry.link):
        if len(name) >= MAX_PATH_BYTES:
            raise InvalidArgument(
                f"archive member {entry.shown}: a name of {len(name)} bytes is longer than any path"
            )
        if b"\0" in name:
            raise InvalidArgument(f"archive member {entry.shown}: a NUL in a name")
    if entry.uid > MAX_ID or entry.gid > MAX_ID:
        raise InvalidArgument(f"archive member {entry.shown}: the owner is out of range")
    if abs(entry.mtime_ns) > MAX_TIME_S * 1_000_000_000:
        raise InvalidArgument(f"archive member {entry.shown}: the mtime is out of range")
    if entry.major > 0xFFF or entry.minor > 0xFFFFF:
        raise InvalidArgument(f"archive member {entry.shown}: the device number is out of range")


def _gnu_pieces(block: bytes, at: int, count: int, entry: Entry) -> list[tuple[int, int]]:
    pieces = []
    for start in range(at, at + 24 * count, 24):
        if not block[start]:
            break
        offset = _number(block[start : start + 12], "sparse offset", entry.name)
        length = _number(block[start + 12 : start + 24], "sparse length", entry.name)
        pieces.append((offset, length))
    return pieces


def _check_sparse(entry: Entry, stored_bytes: int) -> None:
    end = total = 0
    for offset, length in entry.sparse or ():
        if offset < end:
            raise InvalidArgument(f"archive member {entry.shown}: overlapping sparse pieces")
        end = offset + length
        total += length
    if end > entry.real_size_bytes or total != stored_bytes:
        raise InvalidArgument(f"archive member {entry.shown}: sparse pieces of wrong length")
    if entry.real_size_bytes > MAX_SPARSE_SIZE_BYTES:
        raise InvalidArgument(f"archive member {entry.shown}: the size is out of range")

"""PAX extended headers: `length key=value` records, read strictly.

Source: pax(1), "pax Extended Header"; GNU tar manual, "PAX Format, Versions 0.0 to 1.0".
"""

from __future__ import annotations

import re

from msgspec import Struct

from onggi.errors import InvalidArgument

_XATTR = b"SCHILY.xattr."
_TIME = re.compile(rb"(-?)([0-9]{1,13})(?:\.([0-9]{0,30}))?")
_MAX_MAP = 1 << 20
_REPEATED = frozenset((b"GNU.sparse.offset", b"GNU.sparse.numbytes"))


class PaxHeader(Struct):
    """The records that matter here; None or empty: not given."""

    path: bytes = b""
    link: bytes = b""
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: dict[str, bytes] | None = None
    sparse: bool = False
    sparse_version: tuple[int, int] | None = None
    sparse_map: list[tuple[int, int]] | None = None
    real_size: int | None = None


def parse_pax(data: bytes) -> PaxHeader:
    """Read one extended header.

    Raises:
        InvalidArgument: a record is damaged, given twice, or not a number where one is due.
    """
    header = PaxHeader()
    values: dict[bytes, bytes] = {}
    pieces: list[int] = []
    at = 0
    while at < len(data):
        at, key, value = _record(data, at)
        if key in _REPEATED:
            if (len(pieces) % 2 == 0) != (key == b"GNU.sparse.offset"):
                raise InvalidArgument("damaged sparse map in a PAX header")
            pieces.append(_integer(key, value))
            continue
        if key in values:
            raise InvalidArgument(f"PAX record {key[:60]!r} is given twice for one archive member")
        values[key] = value
        if key.startswith(_XATTR):
            name = key[len(_XATTR) :].decode("utf-8", "surrogateescape")
            header.xattrs = header.xattrs or {}
            header.xattrs[name] = value
    header.path = values.get(b"path", b"")
    header.link = values.get(b"linkpath", b"")
    header.size = _optional(values, b"size")
    header.uid = _optional(values, b"uid")
    header.gid = _optional(values, b"gid")
    if b"mtime" in values:
        header.mtime_ns = _time_ns(values[b"mtime"])
    _read_sparse(header, values, pieces)
    return header


def _record(data: bytes, at: int) -> tuple[int, bytes, bytes]:
    space = data.find(b" ", at, at + 12)
    length = data[at:space] if space > 0 else b""
    if not length.isdigit():
        raise InvalidArgument("damaged PAX header: a record without a length")
    end = at + int(length)
    if end > len(data) or end <= space + 2 or data[end - 1] != 0x0A:
        raise InvalidArgument("damaged PAX header: a record of wrong length")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not equals or not key:
        raise InvalidArgument("damaged PAX header: a record without a key")
    if (b"\0" in value or b"\0" in key) and not key.startswith(_XATTR):
        raise InvalidArgument(f"a NUL in the PAX record {key[:60]!r}")
    return end, key, value


def _integer(key: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) >= 2**63:
        raise InvalidArgument(f"PAX record {key[:60]!r} is not a number in range")
    return int(value)


def _optional(values: dict[bytes, bytes], key: bytes) -> int | None:
    value = values.get(key)
    return None if value is None else _integer(key, value)


def _time_ns(value: bytes) -> int:
    match = _TIME.fullmatch(value)
    if match is None:
        raise InvalidArgument("PAX record 'mtime' is not a time")
    nanoseconds = int((match[3] or b"0")[:9].ljust(9, b"0"))
    total = int(match[2]) * 1_000_000_000 + nanoseconds
    return -total if match[1] else total


def _read_sparse(header: PaxHeader, values: dict[bytes, bytes], pieces: list[int]) -> None:
    major = _optional(values, b"GNU.sparse.major")
    minor = _optional(values, b"GNU.sparse.minor")
    text = values.get(b"GNU.sparse.map")
    # Of an incomplete set, some readers take the name and others nothing: all of it is checked.
    header.sparse = bool(pieces) or any(key.startswith(b"GNU.sparse.") for key in values)
    if not header.sparse:
        return
    header.sparse_version = (major or 0, minor or 0)
    header.real_size = _optional(values, b"GNU.sparse.realsize")
    if header.real_size is None:
        header.real_size = _optional(values, b"GNU.sparse.size")
    header.path = values.get(b"GNU.sparse.name", header.path)
    if text is not None:
        if pieces or len(text) > _MAX_MAP:
            raise InvalidArgument("damaged sparse map in a PAX header")
        pieces = [_integer(b"GNU.sparse.map", part) for part in text.split(b",")] if text else []
    if len(pieces) % 2:
        raise InvalidArgument("damaged sparse map in a PAX header")
    if major != 1:
        header.sparse_map = list(zip(pieces[::2], pieces[1::2], strict=True))

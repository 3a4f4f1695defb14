"""Tars for tests, honest and not: members as keyword arguments, or raw blocks."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from onggi.image.tar_reader import Entry
from onggi.image.tar_writer import encode_header

END = bytes(1024)


def member(name: bytes, kind: bytes = b"0", data: bytes = b"", **fields: Any) -> bytes:
    """One member by our own writer; `fields` as in `Entry`."""
    values: dict[str, Any] = {
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size_bytes": len(data),
        "mtime_ns": 0,
        "link": b"",
    } | fields
    entry = Entry(name, kind[0], **values)
    return encode_header(entry) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def patched(block: bytes, at: int, value: bytes) -> bytes:
    """A header with some bytes replaced and a right checksum."""
    changed = block[:at] + value + block[at + len(value) :]
    changed = changed[:148] + b" " * 8 + changed[156:]
    return changed[:148] + b"%06o\0 " % sum(changed[:512]) + changed[156:]


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header with these records, exactly as given."""
    body = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        body += str(length).encode() + rest
    return raw_pax(body, kind)


def raw_pax(body: bytes, kind: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", kind, body)


def gnu_long(kind: bytes, value: bytes) -> bytes:
    return member(b"././@LongLink", kind, value + b"\0")


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    """The data in chunks that respect no block."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def python_tar(members: list[tuple[dict[str, Any], bytes]], tar_format: int) -> bytes:
    """A tar by the standard library, as a second opinion."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for fields, data in members:
            info = tarfile.TarInfo()
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()

"""Netlink messages as bytes: pure encoding and decoding, of any netlink protocol.

Messages are numbered when they are sent, or by `batch` for a sender that only writes. What links,
addresses and rules look like is known to the rooms that build them.
Source: netlink(7), linux/netlink.h.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
HEADER_BYTES = 16

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


# Encoding


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One request, padded; its number is put in when it is sent."""
    size = HEADER_BYTES + len(body)
    return _HEADER.pack(size, kind, flags | NLM_F_REQUEST, 0, 0) + body + bytes(-size % 4)


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute whose value is attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def string(kind: int, text: str) -> bytes:
    """A text with the NUL that the kernel expects behind it."""
    return attribute(kind, text.encode() + b"\0")


def flag(kind: int) -> bytes:
    """An attribute that says something by being there."""
    return attribute(kind, b"")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=Q", value))


def be16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def be64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def batch(messages: Sequence[bytes]) -> bytes:
    """The messages one behind the other, numbered from 1, each asking to be acknowledged.

    For a sender that only writes bytes: acknowledgement n belongs to the nth message.
    """
    return numbered(messages, 1, NLM_F_ACK)


def split(data: bytes) -> list[bytes]:
    """The messages of a batch."""
    return [data[start:end] for _, start, end in frames(data)]


def numbered(messages: Sequence[bytes], first: int, flags: int) -> bytes:
    """The messages one behind the other, numbered from `first`, with `flags` added to theirs."""
    data = bytearray(b"".join(messages))
    offset = 0
    for number in range(first, first + len(messages)):
        size, kind, old_flags, _, _ = _HEADER.unpack_from(data, offset)
        _HEADER.pack_into(data, offset, size, kind, old_flags | flags, number, 0)
        offset += size + -size % 4
    return bytes(data)


def with_flags(request: bytes, flags: int) -> bytes:
    """The message with `flags` added to its own."""
    size, kind, old_flags, number, port = _HEADER.unpack_from(request)
    return _HEADER.pack(size, kind, old_flags | flags, number, port) + request[HEADER_BYTES:]


# Decoding


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute, in order; an unfinished one at the end is left out."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + size]
        offset += size + -size % 4


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind; of a kind that comes several times, the last."""
    return dict(each_attribute(data))


def text_of(data: bytes) -> str:
    """The text in an attribute, without its NUL."""
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end (padding included) of each message."""
    offset, end = 0, len(data)
    while offset + HEADER_BYTES <= end:
        size, kind = struct.unpack_from("=IH", data, offset)
        if size < HEADER_BYTES or offset + size > end:
            return
        yield kind, offset, min(end, offset + size + -size % 4)
        offset += size + -size % 4

"""DNS messages: one question read strictly, answers written. Pure.

Who asks is hostile: nothing is followed twice, nothing is longer than it may be, and what cannot be
understood is answered with the code that says so.
Source: RFC 1035, RFC 2181, RFC 6891 (EDNS), RFC 2308 (negative answers).
"""

from __future__ import annotations

import socket
import struct

from msgspec import Struct

A, PTR, SOA, AAAA, OPT, ANY = 1, 12, 6, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
#: Answers over UDP without EDNS, and the most that we send with it (RFC 6891, DNS flag day 2020).
PLAIN_BYTES, EDNS_BYTES = 512, 1232
MAX_NAME_BYTES = 255
TTL_S = 5

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
#: The question's name, as every answer points to it.
_NAME_POINTER = b"\xc0\x0c"


class Query(Struct, frozen=True):
    """One question. `name`: lower case, without the last dot; `question`: its bytes, which answers
    repeat; `edns`: whether the client can take more than 512 bytes, `size_bytes` how many."""

    number: int
    flags: int
    name: str
    kind: int
    question: bytes
    edns: bool
    size_bytes: int


class MalformedError(Exception):
    """Not a question that can be answered; `answer` says so, None: not even that can be sent."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__("malformed question")
        self.answer = answer


def read_query(packet: bytes) -> Query:
    """The question in a packet.

    Raises:
        MalformedError: it has none, several, or is damaged.
    """
    if len(packet) < _HEADER.size:
        raise MalformedError(None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _QR:
        raise MalformedError(None)  # an answer to nothing: two servers must not talk in circles
    if flags & _OPCODE:
        raise MalformedError(_refusal(number, flags, NOTIMP))
    if questions != 1 or answers or authorities:
        raise MalformedError(_refusal(number, flags, FORMERR))
    try:
        name, at = _read_name(packet, _HEADER.size)
        kind, group = _QUESTION.unpack_from(packet, at)
        at += _QUESTION.size
        edns_bytes = _read_edns(packet, at, additional)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise MalformedError(_refusal(number, flags, FORMERR)) from None
    if group != IN:
        raise MalformedError(_refusal(number, flags, REFUSED))
    return Query(
        number=number,
        flags=flags,
        name=name,
        kind=kind,
        question=packet[_HEADER.size : at],
        edns=edns_bytes is not None,
        size_bytes=max(PLAIN_BYTES, min(edns_bytes or PLAIN_BYTES, EDNS_BYTES)),
    )


def _read_name(packet: bytes, at: int) -> tuple[str, int]:
    """A name without pointers: in a question there is nothing to point to."""
    labels = []
    begin = at
    while length := packet[at]:
        if length > 63 or at + 1 + length > len(packet) or at - begin > MAX_NAME_BYTES:
            raise IndexError
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _read_edns(packet: bytes, at: int, additional: int) -> int | None:
    """The payload size of an OPT record, which is the only one that a question may carry."""
    if not additional or packet[at] != 0:
        return None
    kind, size_bytes, _, _ = _RECORD.unpack_from(packet, at + 1)
    return size_bytes if kind == OPT else None


def _refusal(number: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(number, _QR | _RA | (flags & (_OPCODE | _RD)) | code, 0, 0, 0, 0)


def head(packet: bytes) -> tuple[int, int]:
    """Number and flags of any message. Raises: struct.error."""
    number, flags = struct.unpack_from("!HH", packet)
    return number, flags


def reply(query: Query, code: int = NOERROR, records: bytes = b"", count: int = 0) -> bytes:
    """An answer of ours, with `count` records that `addresses` or `pointers` has made."""
    flags = _QR | _AA | _RA | (query.flags & _RD) | code
    extra = _edns(query)
    return (
        _HEADER.pack(query.number, flags, 1, count, 0, 1 if extra else 0)
        + query.question
        + records
        + extra
    )


def truncated(query: Query) -> bytes:
    """An answer that sends the client to TCP."""
    flags = _QR | _AA | _TC | _RA | (query.flags & _RD)
    extra = _edns(query)
    head_bytes = _HEADER.pack(query.number, flags, 1, 0, 0, 1 if extra else 0)
    return head_bytes + query.question + extra


def _edns(query: Query) -> bytes:
    return b"\0" + _RECORD.pack(OPT, EDNS_BYTES, 0, 0) if query.edns else b""


def addresses(found: tuple[str, ...]) -> bytes:
    """Records for the question's name: A for IPv4, AAAA for IPv6."""
    parts = []
    for text in found:
        six = ":" in text
        data = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, text)
        parts.append(_NAME_POINTER + _RECORD.pack(AAAA if six else A, IN, TTL_S, len(data)) + data)
    return b"".join(parts)


def pointers(names: tuple[str, ...]) -> bytes:
    """PTR records for the question's name."""
    return b"".join(
        _NAME_POINTER + _RECORD.pack(PTR, IN, TTL_S, len(data)) + data
        for data in map(write_name, names)
    )


def write_name(name: str) -> bytes:
    """A name as a message has it, uncompressed."""
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_reverse(name: str) -> str | None:
    """The address that a name of in-addr.arpa or ip6.arpa is about; None: it is no such name."""
    labels = name.split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return socket.inet_ntoa(bytes(int(label) for label in reversed(labels[:4])))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("".join(reversed(labels[:32]))))
    except (ValueError, OSError):
        return None
    return None

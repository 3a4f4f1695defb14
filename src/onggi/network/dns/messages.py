"""DNS messages: one question read strictly, answers written, others' answers checked. Pure.

Who asks and who answers is hostile: nothing is followed (a question's name has no pointers, those
of records are stepped over), no count is believed further than its bytes reach, and what cannot be
understood is answered with the code that says so. Names are bytes as in a message, in lower case:
a label may hold any byte, a dot too (RFC 2181 section 11). Knows no socket and no container.
Source: RFC 1035, RFC 2181, RFC 6891 (EDNS), RFC 2308 (negative answers), RFC 3225, RFC 4035 (CD).
"""

from __future__ import annotations

import struct

from msgspec import Struct

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
#: The most over UDP without EDNS, the most that we send with it (dnsflagday.net/2020), over TCP.
PLAIN_BYTES, EDNS_BYTES, TCP_BYTES = 512, 1232, 65535
#: Longer, and a client that keeps answers calls a container that has gone; 0 is misread by some.
TTL_S = 1

_IN = 1
_MAX_LABEL_BYTES, _MAX_NAME_BYTES = 63, 255
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_HEADER_BYTES, _RECORD_BYTES = _HEADER.size, _RECORD.size
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE, _CODE = 0x7800, 0x000F
_DO = 0x8000
#: Questions about a transport or a transfer, not about a name: TKEY to MAILA, and OPT itself.
_META_KINDS = frozenset((OPT, *range(249, 255)))
#: A record's owner: the question's name, which begins behind the header.
_POINTER = b"\xc0\x0c"
_A_HEAD = _POINTER + _RECORD.pack(A, _IN, TTL_S, 4)
_AAAA_HEAD = _POINTER + _RECORD.pack(AAAA, _IN, TTL_S, 16)
_PLAIN_OPT = b"\0" + _RECORD.pack(OPT, EDNS_BYTES, 0, 0)
_DNSSEC_OPT = b"\0" + _RECORD.pack(OPT, EDNS_BYTES, _DO, 0)
_BAD_VERSION_OPT = b"\0" + _RECORD.pack(OPT, EDNS_BYTES, BADVERS >> 4 << 24, 0)


class Query(Struct, frozen=True):
    """One question.

    `packet`: the whole message; `question`: its bytes of it, which answers repeat; `name`: in lower
    case; `top`: its last label; `size_bytes`: what the client takes over UDP; `opt`: the record
    that answers carry in return for its own, `opt_at` where that begins, 0: it has none.
    """

    packet: bytes
    flags: int
    question: bytes
    name: bytes
    top: bytes
    kind: int
    size_bytes: int
    opt: bytes
    opt_at: int


class Rejected(Exception):  # noqa: N818 - it is the client's mistake, not ours
    """Not a question that can be answered: `answer` says so; empty: nothing is said."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__("not a question")
        self.answer = answer


def read_query(packet: bytes) -> Query:
    """The question in a packet.

    Raises:
        Rejected: it has none or several, is damaged, or asks for what we do not do.
    """
    if len(packet) < _HEADER_BYTES:
        raise Rejected
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _QR:
        raise Rejected  # an answer to nothing: two servers must not talk in circles
    if flags & _OPCODE:
        raise Rejected(_refusal(packet, flags, NOTIMP))
    if questions != 1 or answers or authorities:
        raise Rejected(_refusal(packet, flags, FORMERR))
    try:
        top, at = _name_end(packet)
        kind, group = _QUESTION.unpack_from(packet, at)
        end = at + _QUESTION.size
        size_bytes, opt, opt_at, behind = PLAIN_BYTES, b"", 0, end
        if additional:
            size_bytes, opt, opt_at, behind = _read_additional(packet, end, additional)
        if behind != len(packet):
            raise ValueError
    except (IndexError, ValueError, struct.error):
        raise Rejected(_refusal(packet, flags, FORMERR)) from None
    query = Query(
        packet, flags, packet[_HEADER_BYTES:end], packet[_HEADER_BYTES:at].lower(), top, kind,
        size_bytes, opt, opt_at,
    )  # fmt: skip
    if opt is _BAD_VERSION_OPT:
        raise Rejected(reply(query))
    if group != _IN or kind in _META_KINDS:
        raise Rejected(reply(query, REFUSED if group != _IN else NOTIMP))
    return query


def _name_end(packet: bytes) -> tuple[bytes, int]:
    """The last label, in lower case, of the question's name, and where the name ends."""
    at = last = _HEADER_BYTES
    while length := packet[at]:
        if length > _MAX_LABEL_BYTES:  # a pointer: there is nothing yet to point to
            raise ValueError
        last = at
        at += 1 + length
    if at + 1 - _HEADER_BYTES > _MAX_NAME_BYTES:
        raise ValueError
    return packet[last + 1 : at].lower(), at + 1


def _read_additional(packet: bytes, at: int, count: int) -> tuple[int, bytes, int, int]:
    """What EDNS says: the size, our record in return, where theirs is; and where all ends."""
    size_bytes, opt, opt_at = PLAIN_BYTES, b"", 0
    for _ in range(count):
        begin, at = at, _skip_name(packet, at)
        kind, number, rest, length = _RECORD.unpack_from(packet, at)
        at += _RECORD_BYTES + length
        if at > len(packet):
            raise ValueError
        if kind != OPT:
            continue
        if opt or packet[begin]:  # a second one, or one with a name (RFC 6891 section 6.1.1)
            raise ValueError
        size_bytes, opt_at = max(PLAIN_BYTES, min(number, EDNS_BYTES)), begin
        opt = _DNSSEC_OPT if rest & _DO else _PLAIN_OPT
        if rest >> 16 & 0xFF:
            opt = _BAD_VERSION_OPT
    return size_bytes, opt, opt_at, at


def _skip_name(packet: bytes, at: int) -> int:
    """Where the name at `at` ends; a pointer ends it and is not followed."""
    while length := packet[at]:
        if length > _MAX_LABEL_BYTES:
            if length < 0xC0:
                raise ValueError
            return at + 2
        at += 1 + length
    return at + 1


def _refusal(packet: bytes, flags: int, code: int) -> bytes:
    return packet[:2] + _HEADER.pack(0, _QR | _RA | flags & (_OPCODE | _RD) | code, 0, 0, 0, 0)[2:]


def reply(
    query: Query,
    code: int = NOERROR,
    records: tuple[bytes, ...] = (),
    limit_bytes: int = TCP_BYTES,
) -> bytes:
    """An answer of ours. Of the records, which `address_record` and `pointer_record` make, those
    are left out that go beyond the limit: the mark TC then sends the client to TCP.

    No answer that something is not there has an SOA, so nobody keeps it (RFC 2308 section 5): a
    container of that name may come at any moment.
    """
    body, bits = b"".join(records), code
    count = len(records)
    room_bytes = limit_bytes - _HEADER_BYTES - len(query.question) - len(query.opt)
    if len(body) > room_bytes:
        bits |= _TC
        body, count = _fitting(records, room_bytes)
    return _write(query, bits, body, count)


def truncated(query: Query) -> bytes:
    """An answer without records that sends the client to TCP."""
    return _write(query, _TC, b"", 0)


def _write(query: Query, bits: int, body: bytes, count: int) -> bytes:
    opt = query.opt
    flags = _QR | _AA | _RA | query.flags & (_RD | _CD) | bits
    head = _HEADER.pack(0, flags, 1, count, 0, 1 if opt else 0)
    return query.packet[:2] + head[2:] + query.question + body + opt


def _fitting(records: tuple[bytes, ...], room_bytes: int) -> tuple[bytes, int]:
    taken: list[bytes] = []
    for record in records:
        room_bytes -= len(record)
        if room_bytes < 0:
            break
        taken.append(record)
    return b"".join(taken), len(taken)


def address_record(address: bytes) -> bytes:
    """The question's name has this address: A for 4 bytes, AAAA for 16."""
    return (_A_HEAD if len(address) == 4 else _AAAA_HEAD) + address


def pointer_record(name: bytes) -> bytes:
    """The question's address is called so."""
    return _POINTER + _RECORD.pack(PTR, _IN, TTL_S, len(name)) + name


def wire_name(text: str) -> bytes:
    """A name as messages have it, in lower case. Raises: ValueError: nobody could ask for it."""
    labels = text.removesuffix(".").encode("utf-8", "surrogateescape").lower().split(b".")
    if not all(0 < len(label) <= _MAX_LABEL_BYTES for label in labels):
        raise ValueError(f"{text!r} is no name")
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(name) > _MAX_NAME_BYTES:
        raise ValueError(f"{text!r} is no name")
    return name


def read_reverse(name: bytes) -> bytes | None:
    """The address, 4 or 16 bytes, that a name of in-addr.arpa or ip6.arpa is about; None: it is
    not the name of one. Source: RFC 1035 section 3.5, RFC 3596 section 2.5."""
    labels = _labels(name)
    try:
        if labels[-2:] == [b"in-addr", b"arpa"] and len(labels) == 6:
            return bytes(map(_octet, labels[3::-1]))
        if labels[-2:] == [b"ip6", b"arpa"] and len(labels) == 34:
            address = bytes.fromhex(b"".join(labels[31::-1]).decode("ascii"))
            return address if len(address) == 16 else None
    except ValueError:
        return None
    return None


def _octet(label: bytes) -> int:
    if not label.isdigit() or (len(label) > 1 and label.startswith(b"0")):
        raise ValueError
    return int(label)


def _labels(name: bytes) -> list[bytes]:
    labels, at = [], 0
    while length := name[at]:
        labels.append(name[at + 1 : at + 1 + length])
        at += 1 + length
    return labels


# -- what others answer ----------------------------------------------------------------------


def passed_on(query: Query, number: bytes) -> bytes:
    """The question as another server is asked it, under another number. All of EDNS goes with it,
    but for a size beyond ours."""
    packet, at = query.packet, query.opt_at
    if not at:
        return number + packet[2:]
    size = query.size_bytes.to_bytes(2, "big")
    return number + packet[2 : at + 3] + size + packet[at + 5 :]


def answers(query: Query, number: bytes, packet: bytes) -> bool:
    """Whether this is an answer to the question that was asked under this number (RFC 5452
    section 9.1). One that only tells of a failure may leave the question out."""
    if len(packet) < _HEADER_BYTES or packet[:2] != number:
        return False
    _, flags, questions, *_ = _HEADER.unpack_from(packet)
    if not flags & _QR or flags & _OPCODE:
        return False
    if questions == 0:
        return flags & _CODE in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    end = _HEADER_BYTES + len(query.question)
    return questions == 1 and packet[_HEADER_BYTES:end].lower() == query.question.lower()


def is_truncated(packet: bytes) -> bool:
    """Whether a message that `answers` let through says that there is more over TCP."""
    return bool(packet[2] & _TC >> 8)


def failure(packet: bytes) -> int:
    """The code with which a server says that it cannot tell; 0: it can. For what `answers` let
    through. That a name does not exist is no failure."""
    _, flags, questions, *_ = _HEADER.unpack_from(packet)
    code = flags & _CODE
    if code not in (NOERROR, NXDOMAIN):
        return code if code in (FORMERR, NOTIMP, REFUSED) else SERVFAIL
    return NOERROR if questions and (flags & _TC or _whole(packet)) else SERVFAIL


def _whole(packet: bytes) -> bool:
    """Whether all records that the header counts are there."""
    _, _, _, *counts = _HEADER.unpack_from(packet)
    try:
        at = _skip_name(packet, _HEADER_BYTES) + _QUESTION.size
        for _ in range(sum(counts)):
            at = _skip_name(packet, at)
            at += _RECORD_BYTES + _RECORD.unpack_from(packet, at)[3]
            if at > len(packet):
                return False
    except (IndexError, ValueError, struct.error):
        return False
    return True


def handed_back(query: Query, packet: bytes, limit_bytes: int) -> bytes:
    """Another server's answer as the client gets it: its own number, and its question to the letter
    (draft-vixie-dnsext-dns0x20)."""
    if len(packet) > limit_bytes or (is_truncated(packet) and not _whole(packet)):
        return truncated(query)
    end = _HEADER_BYTES + len(query.question)
    return query.packet[:2] + packet[2:_HEADER_BYTES] + query.question + packet[end:]

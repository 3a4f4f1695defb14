"""What is answered without asking any other server: pure, but for the turn among those who share a
name.

A name of ours never leaves, whatever type is asked for: what a container is called is nobody's
business outside. Only exact names are ours, as with docker: `db.example.com` may be another `db`,
though `example.com` is searched; the option ndots:0 lets clients ask for `db` itself first.
Source: RFC 6761 (localhost, invalid), RFC 7686 (onion), RFC 6303 (reverse zones of one's own).
"""

from __future__ import annotations

from collections.abc import Sequence

from onggi.network.dns.messages import (
    AAAA,
    ANY,
    NXDOMAIN,
    PTR,
    A,
    Query,
    address_record,
    pointer_record,
    read_reverse,
    reply,
    wire_name,
)
from onggi.network.dns.zones import Zones

_LENGTHS = {A: (4,), AAAA: (16,), ANY: (4, 16)}
_LOOPBACK = {4: b"\x7f\0\0\1", 16: bytes(15) + b"\1"}
_LOCALHOST = wire_name("localhost")
#: Names that no server can know: a question would only tell others what was asked.
_NOWHERE = frozenset((b"invalid", b"onion"))


def own_answer(
    zones: Zones, networks: Sequence[str], query: Query, limit_bytes: int, *, leave: bool
) -> bytes | None:
    """The answer, where it is ours to give; None: other servers are to be asked.

    `leave` False: the container has no way out, so beyond its networks nothing exists. (Docker says
    SERVFAIL, for which some resolvers wait many seconds; NXDOMAIN ends the search at once.)
    """
    name, kind = query.name, query.kind
    if query.top == b"localhost":
        return _reply(query, tuple(_LOOPBACK[n] for n in _LENGTHS.get(kind, ())), limit_bytes)
    holders = zones.find(networks, name)
    if holders is not None:
        found: tuple[bytes, ...] = ()
        for length in _LENGTHS.get(kind, ()):
            found += holders.addresses(length)
        return _reply(query, found, limit_bytes)
    if query.top == b"arpa":
        answer = _reverse(zones, networks, query, limit_bytes)
        if answer is not None:
            return answer
    if not leave or query.top in _NOWHERE:
        return reply(query, NXDOMAIN)
    return None


def _reply(query: Query, found: tuple[bytes, ...], limit_bytes: int) -> bytes:
    return reply(query, records=tuple(map(address_record, found)), limit_bytes=limit_bytes)


def _reverse(zones: Zones, networks: Sequence[str], query: Query, limit_bytes: int) -> bytes | None:
    """What an address is called. One that belongs to a network of ours is asked of nobody else,
    not even when the asker is in another network: to it, nobody has that address."""
    address = read_reverse(query.name)
    if address is None:
        return None
    names: tuple[bytes, ...] = tuple(map(wire_name, zones.names(networks, address)[:1]))
    if address in _LOOPBACK.values():
        names = (_LOCALHOST,)
    if names:
        records = tuple(map(pointer_record, names)) if query.kind in (PTR, ANY) else ()
        return reply(query, records=records, limit_bytes=limit_bytes)
    if address[:1] == b"\x7f" and len(address) == 4:
        return reply(query, NXDOMAIN)
    return reply(query, NXDOMAIN) if zones.covers(address) else None

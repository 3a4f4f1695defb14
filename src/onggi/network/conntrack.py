"""Connection tracking: entries that outlived what they lead to are forgotten.

The kernel keeps translating a flow as it began. Without this, a client that goes on sending would
reach an address where nobody, or somebody else, is by now.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import msgspec
from msgspec import Struct

from onggi.errors import SyscallError
from onggi.network.elements import NFPROTO_IPV4, NFPROTO_IPV6, covers, is_wide
from onggi.network.netlink_messages import (
    attribute,
    attributes,
    be16,
    be32,
    message,
    nested,
    u8,
    u32,
)

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onggi.network.netlink import Netlink
    from onggi.network.values import Publication

_NFNL_SUBSYS_CTNETLINK, _GET, _DELETE = 1, 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 18, 25, 26
_IPS_SRC_NAT, _IPS_DST_NAT = 0x10, 0x20
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_F_IP_SRC, _F_IP_DST, _F_PROTO_NUM, _F_SRC_PORT, _F_DST_PORT = 1, 2, 1 << 3, 1 << 4, 1 << 5
#: By the tuple: the attribute with its flags, and those of its address and port.
_FILTERS = {
    _TUPLE_ORIG: (_FILTER_ORIG_FLAGS, _F_IP_DST, _F_DST_PORT),
    _TUPLE_REPLY: (_FILTER_REPLY_FLAGS, _F_IP_SRC, _F_SRC_PORT),
}
_IPPROTO = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
#: Kernels that are known to heed the status in a filter. Others would ignore it.
_STATUS_FILTERS = (6, 0)
#: Errnos of kernels before 5.8, which do not know filters.
_WITHOUT_FILTERS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT)


class Flows(Struct, frozen=True):
    """Flows to be forgotten: those whose first packet went `to` an address and port, and whose
    answers come `from` an address and port. Empty and 0: any. `translated`: those with another
    destination than they were sent to, or those that nobody translated at all; None: any."""

    family: int
    protocol: int = 0
    to_address: str = ""
    to_port: int = 0
    from_address: str = ""
    from_port: int = 0
    translated: bool | None = None


def flows_through(publications: Iterable[Publication]) -> list[Flows]:
    """What goes through publications."""
    return [
        msgspec.structs.replace(
            flows, from_address=target, from_port=one.container_port, translated=True
        )
        for one in publications
        for flows, target in _arriving(one)
    ]


def flows_before(publications: Iterable[Publication]) -> list[Flows]:
    """Datagrams that were sent to ports before these were published.

    Only UDP: each of its datagrams prolongs a flow, while a new TCP connection has a new port.
    """
    return [
        msgspec.structs.replace(flows, translated=False)
        for one in publications
        if one.protocol == "udp"
        for flows, _ in _arriving(one)
    ]


def _arriving(one: Publication) -> Iterator[tuple[Flows, str]]:
    """What arrives at a publication, of each family that leads somewhere, and where to."""
    address = "" if is_wide(one.host_address) else one.host_address
    for family, proto, target in (
        (socket.AF_INET, NFPROTO_IPV4, one.ipv4),
        (socket.AF_INET6, NFPROTO_IPV6, one.ipv6),
    ):
        if target and covers(one.host_address, proto):
            yield Flows(family, _IPPROTO[one.protocol], address, one.host_port), target


def forget(nl: Netlink, flows: Iterable[Flows]) -> None:
    """Delete all entries of such flows; there need be none. `nl` is one of netfilter.

    Raises:
        SyscallError: the kernel refused, or has no interface to its connection tracking.
    """
    for one in flows:
        filter = _filterable(one)
        if filter is None:
            _forget_each(nl, one)
            continue
        try:
            nl.request([message(_kind(_DELETE), 0, _head(filter) + _filter(filter))])
        except SyscallError as error:
            if error.errno not in _WITHOUT_FILTERS:
                raise
            _forget_each(nl, one)


def _filterable(flows: Flows) -> Flows | None:
    """What the kernel's filter selects rightly, in one walk over its table (0.1 ms, where a dump
    takes 10). None: nothing does.

    Up to Linux 6.18 at least, its comparison of IPv6 addresses is the wrong way round: it selects
    what has another address. The ports of a published port of every address are enough, as only
    flows through it are translated so.
    """
    if flows.translated is not None and _release() < _STATUS_FILTERS:
        return None
    if flows.family == socket.AF_INET or not (flows.to_address or flows.from_address):
        return flows
    if flows.translated and flows.to_port and flows.from_port and not flows.to_address:
        return msgspec.structs.replace(flows, from_address="")
    return None


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def forget_address(nl: Netlink, address: str) -> None:
    """Delete every entry whose answers come from an address, of any protocol and port.

    Raises:
        SyscallError: as `forget`.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    forget(nl, [Flows(family, from_address=address)])


def _head(flows: Flows) -> bytes:
    return struct.pack("=BBH", flows.family, 0, 0)


def _filter(flows: Flows) -> bytes:
    body, flags = b"", b""
    for which, (kind, port_kind), address, port in _sides(flows):
        parts, bits = b"", 0
        filter, ip_bit, port_bit = _FILTERS[which]
        if address:
            packed = attribute(kind, socket.inet_pton(flows.family, address))
            parts += nested(_TUPLE_IP, packed)
            bits |= ip_bit
        if flows.protocol:
            side = be16(port_kind, port) if port else b""
            parts += nested(_TUPLE_PROTO, u8(_PROTO_NUM, flows.protocol), side)
            bits |= _F_PROTO_NUM | (port_bit if port else 0)
        if parts:
            body += nested(which, parts)
        flags += u32(filter, bits)
    if flows.translated is not None:
        mask = _IPS_DST_NAT if flows.translated else _IPS_DST_NAT | _IPS_SRC_NAT
        value = _IPS_DST_NAT if flows.translated else 0
        body += be32(_STATUS, value) + be32(_STATUS_MASK, mask)
    return body + nested(_FILTER, flags)


def _sides(flows: Flows) -> tuple[tuple[int, tuple[int, int], str, int], ...]:
    """Tuple, kinds of its address and port, address, port: of the first packet, of the answers."""
    four = flows.family == socket.AF_INET
    to, source = (_V4_DST, _V4_SRC) if four else (_V6_DST, _V6_SRC)
    return (
        (_TUPLE_ORIG, (to, _PROTO_DST_PORT), flows.to_address, flows.to_port),
        (_TUPLE_REPLY, (source, _PROTO_SRC_PORT), flows.from_address, flows.from_port),
    )


def _forget_each(nl: Netlink, flows: Flows) -> None:
    """The same, one by one: the kernel is asked for those with the ports, which it may understand,
    and what it answers is looked at."""
    asked = msgspec.structs.replace(flows, to_address="", from_address="", translated=None)
    for _, body in nl.dump(message(_kind(_GET), 0, _head(flows) + _filter(asked))):
        found = attributes(body[4:])
        if not _fits(flows, found):
            continue
        zone = attribute(_ZONE, found[_ZONE]) if _ZONE in found else b""
        one = nested(_TUPLE_ORIG, found[_TUPLE_ORIG]) + zone
        try:
            nl.request([message(_kind(_DELETE), 0, _head(flows) + one)])
        except SyscallError as error:
            if error.errno != errno.ENOENT:  # it ended by itself
                raise


def _fits(flows: Flows, found: dict[int, bytes]) -> bool:
    status = int.from_bytes(found.get(_STATUS, b""))
    if flows.translated and not status & _IPS_DST_NAT:
        return False
    if flows.translated is False and status & (_IPS_DST_NAT | _IPS_SRC_NAT):
        return False
    for which, (kind, port_kind), address, port in _sides(flows):
        parts = attributes(found.get(which, b""))
        there = attributes(parts.get(_TUPLE_IP, b"")).get(kind)
        proto = attributes(parts.get(_TUPLE_PROTO, b""))
        if address and there != socket.inet_pton(flows.family, address):
            return False
        if flows.protocol and proto.get(_PROTO_NUM) != bytes([flows.protocol]):
            return False
        if port and proto.get(port_kind) != struct.pack(">H", port):
            return False
    return True


def _kind(number: int) -> int:
    return _NFNL_SUBSYS_CTNETLINK << 8 | number

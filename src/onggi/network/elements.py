"""Elements of the ruleset's sets and maps: their meaning, their bytes and their text. Pure.

A key or a value of several parts is those parts one behind the other, each padded to four bytes and
in network order. What the sets are for is told by `ruleset`.
Source: linux/netfilter/nf_tables.h, nft(8) CONCATENATIONS.
"""

from __future__ import annotations

import socket
import struct

from msgspec import Struct

from onggi.network.netlink_messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    attribute,
    attributes,
    be32,
    each_attribute,
    message,
    nested,
    string,
    text_of,
)

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onggi.network.values import Bridge, Publication

NFPROTO_IPV4, NFPROTO_IPV6 = 2, 10
NFNL_SUBSYS_NFTABLES = 10
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS, _DATA_VALUE = 1, 2, 3, 1
_INTERVAL_END = 1
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_IFNAMSIZ = 16
#: The length of a nested attribute has 16 bits, and an element takes up to 100 bytes.
_AT_ONCE = 400


class Element(Struct, frozen=True):
    """One element. `family`: NFPROTO_IPV4 or NFPROTO_IPV6; `value` empty: the set is no map;
    `end`: the first key behind an interval."""

    family: int
    set: str
    key: bytes
    value: bytes = b""
    end: bool = False


# Meaning


def of_bridge(bridge: Bridge) -> Iterator[Element]:
    """The elements that a bridge is, in both tables."""
    name = bridge.name.encode().ljust(_IFNAMSIZ, b"\0")
    for family in (NFPROTO_IPV4, NFPROTO_IPV6):
        yield Element(family, "bridges", name)
        yield Element(family, "pairs", name + name)
        if bridge.internal:
            yield Element(family, "internal", name)
            continue
        gateway = bridge.ipv4 if family == NFPROTO_IPV4 else bridge.ipv6
        if gateway:
            first, end = _bounds(gateway)
            yield Element(family, "subnets", first)
            if any(end):
                yield Element(family, "subnets", end, end=True)


def of_publication(publication: Publication) -> Iterator[Element]:
    """The elements that a published port is, in the tables of the families that it has.

    None for a family that the container or the host's address has not. [::1] has none, either: the
    kernel routes nothing to or from it.
    """
    port = struct.pack(">BxxxHxx", _PROTOCOLS[publication.protocol], publication.host_port)
    address = publication.host_address
    for family, target in ((NFPROTO_IPV4, publication.ipv4), (NFPROTO_IPV6, publication.ipv6)):
        if not target:
            continue
        to = _packed(target) + struct.pack(">Hxx", publication.container_port)
        if is_wide(address):
            if covers(address, family):
                yield Element(family, "any_port", port)
                yield Element(family, "any_target", port, to)
        elif address != "::1" and covers(address, family):
            yield Element(family, "own_port", _packed(address) + port)
            yield Element(family, "own_target", _packed(address) + port, to)


def is_wide(host_address: str) -> bool:
    """Whether it stands for every address of the host, of one family or (empty) of both."""
    return host_address in ("", "0.0.0.0", "::")  # noqa: S104 - compared, nothing is bound


def covers(host_address: str, family: int) -> bool:
    """Whether an address of the host is of a family; an empty one is of both."""
    return not host_address or (":" in host_address) == (family == NFPROTO_IPV6)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _bounds(text: str) -> tuple[bytes, bytes]:
    """The first address of a range, and the first behind it (zero: there is none)."""
    address, _, length = text.partition("/")
    packed = _packed(address)
    bits = 8 * len(packed)
    size = 1 << (bits - int(length))
    first = int.from_bytes(packed) & -size
    end = (first + size) % (1 << bits)
    return first.to_bytes(len(packed)), end.to_bytes(len(packed))


# Bytes


def add(table: str, elements: Iterable[Element]) -> list[bytes]:
    """Messages that add elements; EEXIST when one is there."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return [_message(_NEWSETELEM, flags, table, *group) for group in _grouped(elements)]


def delete(table: str, elements: Iterable[Element]) -> list[bytes]:
    """Messages that delete elements; ENOENT when one is not there."""
    return [_message(_DELSETELEM, 0, table, *group) for group in _grouped(elements)]


def clear(table: str, family: int, name: str) -> bytes:
    """The message that deletes all elements of a set."""
    return message(_kind(_DELSETELEM), 0, _head(family, table, name))


def ask(table: str, family: int, name: str) -> bytes:
    """The request, for `Netlink.dump`, that is answered with the elements of a set."""
    return message(_kind(_GETSETELEM), 0, _head(family, table, name))


def read(body: bytes) -> Iterator[Element]:
    """The elements in one message about a set."""
    found = attributes(body[4:])
    name = text_of(found.get(_LIST_SET, b""))
    for kind, data in each_attribute(found.get(_LIST_ELEMENTS, b"")):
        if kind != _LIST_ELEM:
            continue
        parts = attributes(data)
        end = bool(int.from_bytes(parts.get(_ELEM_FLAGS, b"")) & _INTERVAL_END)
        key, value = (_value(parts.get(part, b"")) for part in (_ELEM_KEY, _ELEM_DATA))
        if not end or any(key):  # nft lets a set of intervals begin with an end at zero
            yield Element(body[0], name, key, value, end)


def _grouped(elements: Iterable[Element]) -> Iterator[tuple[int, str, list[Element]]]:
    groups: dict[tuple[int, str], list[Element]] = {}
    for element in elements:
        groups.setdefault((element.family, element.set), []).append(element)
    for (family, name), group in groups.items():
        for start in range(0, len(group), _AT_ONCE):
            yield family, name, group[start : start + _AT_ONCE]


def _message(
    kind: int, flags: int, table: str, family: int, name: str, group: list[Element]
) -> bytes:
    listed = nested(_LIST_ELEMENTS, *(_element(element) for element in group))
    return message(_kind(kind), flags, _head(family, table, name) + listed)


def _element(element: Element) -> bytes:
    parts = [nested(_ELEM_KEY, attribute(_DATA_VALUE, element.key))]
    if element.value:
        parts.append(nested(_ELEM_DATA, attribute(_DATA_VALUE, element.value)))
    if element.end:
        parts.append(be32(_ELEM_FLAGS, _INTERVAL_END))
    return nested(_LIST_ELEM, *parts)


def _kind(number: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | number


def _head(family: int, table: str, name: str) -> bytes:
    return struct.pack("=BBH", family, 0, 0) + string(_LIST_TABLE, table) + string(_LIST_SET, name)


def _value(data: bytes) -> bytes:
    return attributes(data).get(_DATA_VALUE, b"")


# Text


def as_text(table: str, elements: Iterable[Element]) -> str:
    """The lines by which nft(8) adds elements."""
    lines = []
    for family, name, group in _grouped(elements):
        words = ", ".join(_words(name, group))
        table_family = "ip6" if family == NFPROTO_IPV6 else "ip"
        lines.append(f"add element {table_family} {table} {name} {{ {words} }}\n")
    return "".join(lines)


def describe(element: Element) -> str:
    """An element as a person reads it: `any_port tcp . 8080`."""
    if element.end:
        return f"{element.set} up to {_address(element.key)}"
    if element.set == "subnets":
        return f"subnets from {_address(element.key)}"
    return f"{element.set} {next(_words(element.set, [element]))}"


def _words(name: str, group: list[Element]) -> Iterator[str]:
    if name == "subnets":
        yield from _ranges(group)
        return
    for element in group:
        text = " . ".join(_parts(name, element.key))
        if element.value:
            size = len(element.value) - 4
            port = struct.unpack_from(">H", element.value, size)[0]
            text += f" : {_address(element.value[:size])} . {port}"
        yield text


def _ranges(group: list[Element]) -> Iterator[str]:
    """An end follows its start; without one, the range goes up to the last address."""
    for index, element in enumerate(group):
        if element.end:
            continue
        after = group[index + 1] if index + 1 < len(group) else None
        if after is not None and after.end:
            last = (int.from_bytes(after.key) - 1).to_bytes(len(after.key))
        else:
            last = b"\xff" * len(element.key)
        yield f"{_address(element.key)}-{_address(last)}"


def _parts(name: str, key: bytes) -> Iterator[str]:
    if name in ("bridges", "internal", "pairs"):
        for start in range(0, len(key), _IFNAMSIZ):
            yield f'"{text_of(key[start : start + _IFNAMSIZ])}"'
        return
    size = len(key) - 8
    if size:
        yield _address(key[:size])
    protocol, port = struct.unpack_from(">BxxxH", key, size)
    yield next((text for text, number in _PROTOCOLS.items() if number == protocol), str(protocol))
    yield str(port)


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)

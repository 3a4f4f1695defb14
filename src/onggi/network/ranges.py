"""Address ranges as numbers: bounds, order, overlap. Pure; IPv4 and IPv6 alike."""

from __future__ import annotations

import ipaddress
import socket

from onggi.errors import InvalidArgument

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_network(text: str, what: str) -> Network:
    """The range that a user wrote; `what` it is for the user.

    Raises:
        InvalidArgument: malformed, without a prefix length, or with bits behind the prefix.
    """
    if "/" not in text:
        raise InvalidArgument(
            f"{what} {text!r} has no prefix length", hint="write it like 10.89.7.0/24"
        )
    try:
        found = ipaddress.ip_interface(text).network
    except ValueError:
        raise InvalidArgument(
            f"invalid {what} {text!r}", hint="write it like 10.89.7.0/24 or fd00:7::/64"
        ) from None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise InvalidArgument(
            f"{what} {text} has bits behind its prefix", hint=f"write {found}"
        ) from None


def parse_address(text: str, what: str) -> Address:
    """The address that a user wrote; `what` it is for the user.

    Raises:
        InvalidArgument: malformed, or of one link only (`%eth0`).
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(
            f"invalid {what} {text!r}", hint="write it like 10.89.7.5 or fd00:7::5"
        ) from None
    if found.version == 6 and found.scope_id:
        raise InvalidArgument(f"{what} {text} names a link", hint="leave out % and what follows")
    return found


def number(text: str) -> int:
    """The number of an address that is known to be one."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int.from_bytes(socket.inet_pton(family, text))


def text_of(value: int, version: int) -> str:
    """The address of a number, in its one usual form."""
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16))


def span(network: Network) -> tuple[int, int]:
    """The first and the last address, as numbers."""
    return int(network.network_address), int(network.broadcast_address)


def merged(networks: Iterable[Network]) -> list[tuple[int, int]]:
    """The spans of networks of one version in order, without overlaps."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(map(span, networks)):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def overlapping(network: Network, others: Iterable[Network]) -> Network | None:
    """One of the others that has an address in common; None when none has."""
    first, last = span(network)
    for other in others:
        if other.version == network.version:
            other_first, other_last = span(other)
            if first <= other_last and other_first <= last:
                return other
    return None

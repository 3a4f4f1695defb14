"""Address management: which range a network gets, and which address of it a container.

Pure: what is taken is told, what was chosen is remembered by the caller. Work grows with what is
taken, never with the size of a range. Addresses are texts as inet_ntop(3) writes them.
Source: RFC 1918, RFC 4193 (unique local IPv6), docker-network-create(1).
"""

from __future__ import annotations

import hashlib
import ipaddress

from msgspec import Struct

from onggi.errors import Conflict, InvalidArgument, ResourceExhausted
from onggi.network.ranges import (
    Network,
    merged,
    number,
    overlapping,
    parse_address,
    parse_network,
    span,
    text_of,
)

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

#: Where IPv4 networks come from unless the settings say otherwise, as first and last address.
_POOLS4 = (
    ("10.89.0.0", "10.255.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.168.0.0", "192.168.255.255"),
)
#: 1,022 addresses of IPv4: a bridge of Linux has 1,023 ports.
_PREFIX = {4: 22, 6: 64}
_POOL_HINT = (
    "remove networks that are not used with `onggi network prune`, name a range with --subnet, or "
    "set `pools` in the section [network] of the configuration"
)


class Subnet(Struct, frozen=True):
    """A network's range, complete and checked. `first`, `last`: the bounds of what is given out, as
    numbers; `reserved`: never given out, the gateway among them."""

    network: Network
    gateway: str
    first: int
    last: int
    reserved: frozenset[str]

    @property
    def version(self) -> int:
        return self.network.version

    def with_length(self, address: str) -> str:
        """The address as an interface of this network has it: `10.89.0.2/24`."""
        return f"{address}/{self.network.prefixlen}"


# Ranges


def choose_ipv4_subnet(taken: Iterable[Network], pools: Sequence[str] = ()) -> Network:
    """A free range for a new network: the first one that overlaps nothing that is taken.

    `pools`: ranges to cut it from; none of IPv4 there: private ranges.

    Raises:
        InvalidArgument: a pool is no range.
        ResourceExhausted: everything in the pools is taken.
    """
    bounds = _bounds(pools, 4) or [(number(first), number(last)) for first, last in _POOLS4]
    return _free(4, bounds, taken)


def choose_ipv6_subnet(
    instance: str, network_id: str, taken: Iterable[Network], pools: Sequence[str] = ()
) -> Network:
    """A free range for a new network out of `pools` or, when none there is IPv6, out of the unique
    local /48 that belongs to the instance; the network's id says where to begin.

    Raises:
        InvalidArgument: a pool is no range.
        ResourceExhausted: everything in the pools is taken.
    """
    taken = list(taken)
    bounds = _bounds(pools, 6)
    if bounds:
        return _free(6, bounds, taken)
    site = int.from_bytes(b"\xfd" + _digest("site", instance)[:5] + bytes(10))
    start = site + (int.from_bytes(_digest("network", network_id)[:2]) << 64)
    return _free(6, [(start, site + (1 << 80) - 1), (site, start - 1)], taken)


def _bounds(pools: Sequence[str], version: int) -> list[tuple[int, int]]:
    found = (parse_network(pool, "pool") for pool in pools)
    return [span(network) for network in found if network.version == version]


def _free(version: int, bounds: list[tuple[int, int]], taken: Iterable[Network]) -> Network:
    busy = merged(network for network in taken if network.version == version)
    bits = 32 if version == 4 else 128
    for first, last in bounds:
        if first > last:
            continue
        # A pool smaller than the usual range is one range.
        size = min(1 << (bits - _PREFIX[version]), 1 << ((last - first + 1).bit_length() - 1))
        cursor = first
        for start, end in busy:
            if cursor + size - 1 < start:
                break
            if end >= cursor:
                cursor = -(-(end + 1) // size) * size
        if cursor + size - 1 <= last:
            return ipaddress.ip_network((cursor, bits - size.bit_length() + 1))
    raise ResourceExhausted(f"no range is free for an IPv{version} network", hint=_POOL_HINT)


def complete_subnet(
    subnet: str,
    gateway: str = "",
    range: str = "",
    reserved: Sequence[str] = (),
    others: Mapping[str, Iterable[Network]] | None = None,
) -> Subnet:
    """A range that a user or a record names, with its gateway: by default its first address.

    `range`: the part that is given out; `others`: ranges of other networks by the network's name.

    Raises:
        InvalidArgument: a part is malformed, lies outside, or cannot be used.
        Conflict: it overlaps the range of another network, which the message names.
    """
    network = parse_network(subnet, "subnet")
    _refuse_unusable(network)
    for name, ranges in (others or {}).items():
        other = overlapping(network, ranges)
        if other is not None:
            raise Conflict(
                f"subnet {network} overlaps {other} of network {name}",
                hint=f"choose another --subnet, or remove network {name}",
            )
    low, high = span(network)
    first, last = low + 1, high - (network.version == 4)
    if range:
        part = parse_network(range, "range")
        if part.version != network.version or not low <= span(part)[0] <= span(part)[1] <= high:
            raise InvalidArgument(f"range {range} lies outside subnet {network}")
        first, last = max(first, span(part)[0]), min(last, span(part)[1])
        if first > last:
            raise InvalidArgument(f"range {range} holds no address that could be given out")
    gate = _inside(network, gateway, "gateway") if gateway else text_of(low + 1, network.version)
    kept = (_inside(network, address, "reserved address") for address in reserved)
    return Subnet(network, gate, first, last, frozenset((gate, *kept)))


def _refuse_unusable(network: Network) -> None:
    why = ""
    longest, shortest = (30, 8) if network.version == 4 else (126, 16)
    if network.prefixlen > longest:
        why = f"too small: a gateway and a container need /{longest} or a shorter prefix"
    elif network.prefixlen < shortest:
        why = f"too large: /{shortest} is the shortest prefix"
    elif network.is_multicast:
        why = "for multicast"
    elif network.is_loopback:
        why = "the loopback range"
    elif network.is_link_local:
        why = "link-local"
    elif overlapping(network, _SPECIAL) is not None:
        why = "set aside by the Internet's standards"
    if why:
        raise InvalidArgument(
            f"subnet {network} cannot be a network's: it is {why}",
            hint="use a private range, for instance --subnet 10.89.7.0/24",
        )


#: "This host", future use, protocol assignments (our own turnstile's addresses among them), and
#: what stands for IPv4 in IPv6.
_SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "192.0.0.0/24", "224.0.0.0/3", "::/16", "ff00::/8")
)


# Addresses


def choose_address(subnet: Subnet, taken: Collection[str], last: str = "") -> str:
    """The next free address after `last`, the one given out before; from the start when there is
    none. So an address just freed is not another container's at once.

    `taken` may hold addresses of other ranges, too.

    Raises:
        ResourceExhausted: all are taken.
    """
    begin = number(last) + 1 if last else subnet.first
    return _next_free(subnet, taken, begin)


def derive_address(subnet: Subnet, taken: Collection[str], *seed: str) -> str:
    """A free address that is the same for the same seed, unless it is taken: the next one then.

    Raises:
        ResourceExhausted: all are taken.
    """
    size = subnet.last - subnet.first + 1
    offset = int.from_bytes(_digest("address", *seed)[:16]) % size if size > 0 else 0
    return _next_free(subnet, taken, subnet.first + offset)


def _next_free(subnet: Subnet, taken: Collection[str], begin: int) -> str:
    size = subnet.last - subnet.first + 1
    begin = begin if subnet.first <= begin <= subnet.last else subnet.first
    # More than what is taken or reserved need not be looked at: one of them must be free.
    for step in range(min(size, len(taken) + len(subnet.reserved) + 1)):
        text = text_of(subnet.first + (begin - subnet.first + step) % size, subnet.version)
        if text not in taken and text not in subnet.reserved:
            return text
    low, high = span(subnet.network)
    used = sum((":" in a) == (subnet.version == 6) and low <= number(a) <= high for a in taken)
    raise ResourceExhausted(
        f"no address of {subnet.network} is free: {used} are in use",
        hint="disconnect or remove containers, or make a network with a larger --subnet",
    )


def check_address(subnet: Subnet, address: str, holders: Mapping[str, str]) -> str:
    """An address that a user names, as it is written everywhere else.

    `holders`: who has which address.

    Raises:
        InvalidArgument: malformed, outside the subnet, or one that no container can have.
        Conflict: taken; the message names the holder.
    """
    text = _inside(subnet.network, address, "address")
    if text == subnet.gateway:
        raise InvalidArgument(f"address {text} is the gateway of {subnet.network}")
    if text in subnet.reserved:
        raise Conflict(f"address {text} is reserved in {subnet.network}")
    if text in holders:
        raise Conflict(
            f"address {text} is taken by {holders[text]}",
            hint="choose another one, or disconnect its holder from the network",
        )
    return text


def _inside(network: Network, address: str, what: str) -> str:
    """The address in its usual form, when a host of the network can have it."""
    found = parse_address(address, what)
    low, high = span(network)
    if found.version != network.version or not low <= int(found) <= high:
        raise InvalidArgument(
            f"{what} {address} lies outside {network}",
            hint=f"choose one from {text_of(low + 1, network.version)} on",
        )
    if int(found) == low:
        raise InvalidArgument(f"{what} {address} is the address of {network} itself")
    if int(found) == high and network.version == 4:
        raise InvalidArgument(f"{what} {address} is the broadcast address of {network}")
    return text_of(int(found), network.version)


def check_link_local(address: str) -> str:
    """A further address of an interface, with the prefix length that link-local addresses have.

    Raises:
        InvalidArgument: not a link-local address.
    """
    found = parse_address(address, "link-local address")
    if not found.is_link_local:
        raise InvalidArgument(
            f"{address} is not a link-local address",
            hint="choose one of 169.254.0.0/16 or fe80::/64",
        )
    return f"{text_of(int(found), found.version)}/{16 if found.version == 4 else 64}"


# MAC addresses


def derive_mac(*seed: str) -> str:
    """A MAC address that is always the same for the same seed: local, unicast, `02:…`."""
    return (b"\x02" + _digest("mac", *seed)[:5]).hex(":")


def check_mac(mac: str) -> str:
    """A MAC address that a user names, as the kernel writes it.

    Raises:
        InvalidArgument: malformed, or not the address of one interface.
    """
    text = mac.lower().replace("-", ":")
    parts = text.split(":")
    digits = frozenset("0123456789abcdef")
    if len(parts) != 6 or not all(len(part) == 2 and digits.issuperset(part) for part in parts):
        raise InvalidArgument(
            f"invalid MAC address {mac!r}", hint="write it like 02:42:ac:11:00:02"
        )
    if int(parts[0], 16) & 1 or text == "00:00:00:00:00:00":
        raise InvalidArgument(
            f"MAC address {mac} does not belong to one interface",
            hint="the first byte must be even and not all may be zero, for instance 02:…",
        )
    return text


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()

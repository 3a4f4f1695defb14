"""What the host's own network looks like: ranges in use, the MTU of the way out, IPv6 or not.

Read once when a network is made; nothing is changed here.
Source: rtnetlink(7), Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from onggi.network import links
from onggi.network.netlink import Netlink, attributes

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from onggi.network.ranges import Network

_RTN_OF_THE_HOST = (2, 3, 4, 5)  # local, broadcast, anycast, multicast: addresses tell as much
_RTA_PRIORITY, _RTA_MULTIPATH = 6, 9
#: Shorter prefixes are ways out by another name: VPNs write a default route as 0/1 and 128/1.
_SHORTEST_PREFIX = 8
_DEFAULT_MTU = 1500
_IPV6_SWITCH = "/proc/sys/net/ipv6/conf/all/disable_ipv6"


def used_ranges(nl: Netlink) -> frozenset[Network]:
    """Every range that the host has an address in or a route to, of both families.

    Default routes, link-local and multicast ranges are no use of a range.

    Raises:
        SyscallError: the kernel refused.
    """
    found: set[Network] = set()
    for _, body in nl.dump(links.get_addresses()):
        text = links.read_address(body)
        if text:
            found.add(ipaddress.ip_interface(text).network)
    for family in (socket.AF_INET, socket.AF_INET6):
        found.update(_routed(nl, family))
    return frozenset(range for range in found if _counts(range))


def nameservers(resolv_conf: str) -> frozenset[Network]:
    """The servers that a resolv.conf names, as ranges of one address: a network that had theirs
    would cut the host from its names."""
    found: set[Network] = set()
    for line in resolv_conf.splitlines():
        keyword, _, address = line.strip().partition(" ")
        if keyword == "nameserver":
            try:
                found.add(ipaddress.ip_network(address.strip().partition("%")[0]))
            except ValueError:
                continue  # resolvers ignore such a line, too
    return frozenset(range for range in found if _counts(range))


def default_mtu(nl: Netlink) -> int:
    """The MTU of the link that the host's default route leads through; 1500 without one.

    Raises:
        SyscallError: the kernel refused.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        ways = [way for _, body in nl.dump(links.get_routes(family)) if (way := _way_out(body))]
        if ways:
            return _mtu_of(nl, min(ways)[1])
    return _DEFAULT_MTU


def kernel_has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all, switched off or not: what `attach` asks for."""
    return os.path.exists(_IPV6_SWITCH)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 and it is not switched off for the network namespace."""
    try:
        with open(_IPV6_SWITCH, "rb") as file:
            return file.read().strip() == b"0"
    except FileNotFoundError:
        return False


def _routed(nl: Netlink, family: int) -> Iterator[Network]:
    for _, body in nl.dump(links.get_routes(family)):
        length, kind = body[1], body[7]
        target = attributes(body[12:]).get(links.RTA_DST)
        if target and kind not in _RTN_OF_THE_HOST:
            text = f"{socket.inet_ntop(family, target)}/{length}"
            yield ipaddress.ip_network(text, strict=False)


def _counts(found: Network) -> bool:
    if found.is_link_local or found.is_multicast or found.is_loopback:
        return False
    return found.prefixlen >= _SHORTEST_PREFIX


def _way_out(body: bytes) -> tuple[int, int] | None:
    """Metric and link of a default route of the main table; None: it is another route."""
    found = attributes(body[12:])
    table = _number(found.get(links.RTA_TABLE)) or body[4]
    if body[1] or body[7] in _RTN_OF_THE_HOST or table != links.RT_TABLE_MAIN:
        return None
    index = _number(found.get(links.RTA_OIF))
    if not index and len(found.get(_RTA_MULTIPATH, b"")) >= 8:
        index = struct.unpack_from("=i", found[_RTA_MULTIPATH], 4)[0]
    return (_number(found.get(_RTA_PRIORITY)), index) if index else None


def _mtu_of(nl: Netlink, index: int) -> int:
    body = nl.query(links.get_link(index))[0][1]
    return _number(attributes(body[16:]).get(links.IFLA_MTU)) or _DEFAULT_MTU


def _number(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data else 0

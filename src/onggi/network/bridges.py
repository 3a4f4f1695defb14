"""The bridge of a network: made, repaired where it differs from what is wanted, removed.

Works on the network namespace of its socket, and for sysctls on that of the calling thread: both
are the host's. Which networks there are is not known here.
Source: ip-link(8), Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import os
import struct

from msgspec import Struct

from onggi.errors import Conflict, SyscallError
from onggi.network import links
from onggi.network.netlink import attributes, text_of

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from onggi.network.netlink import Netlink
    from onggi.network.values import Bridge

#: Routers need a link-local address to ask for their neighbours' MAC addresses.
LINK_LOCAL_GATEWAY = "fe80::1/64"
_SYSCTLS = "/proc/sys/net"


class Link(Struct, frozen=True):
    """A link as the kernel shows it. `kind` is empty for hardware; `master` 0: port of none."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: int


def ensure_bridge(nl: Netlink, bridge: Bridge) -> int:
    """The index of a bridge that is up and as described, whatever was there before.

    Idempotent; ports and what they carry are not disturbed.

    Raises:
        Conflict: a link of another kind has the name.
        SyscallError: the kernel refused, with the message it refused.
    """
    found = find_link(nl, bridge.name)
    if found is None:
        found = _create(nl, bridge)
    if found.kind != "bridge":
        raise Conflict(
            f"the link {bridge.name} is a {found.kind or 'device'}, not a bridge",
            hint=f"remove or rename it, for instance with `ip link delete {bridge.name}`",
        )
    if found.mac != bridge.mac:
        nl.request([links.configure_bridge(found.index, bridge.mac)])
    if found.mtu != bridge.mtu:
        nl.request([links.set_mtu(found.index, bridge.mtu)])
    _quieten(nl, bridge, found)
    if not found.up:
        nl.request([links.set_up(found.index)])
    _match_addresses(nl, found.index, bridge)
    return found.index


def remove_bridge(nl: Netlink, name: str) -> None:
    """Remove a bridge; its ports stay, as ports of none. One that is not there is no error.

    Raises:
        SyscallError: the kernel refused.
    """
    try:
        nl.request([links.delete_link(name)])
    except SyscallError as error:
        if error.errno != errno.ENODEV:
            raise


def find_link(nl: Netlink, name: str) -> Link | None:
    """The link of this name; None when there is none.

    Raises:
        SyscallError: the kernel refused.
    """
    try:
        return _read_link(nl.query(links.get_link(name))[0][1])
    except SyscallError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def links_named(nl: Netlink, prefix: str, kind: str = "") -> dict[str, int]:
    """Name → index of every link whose name begins so; only those of a kind, where one is given.

    Raises:
        SyscallError: the kernel refused.
    """
    found = (_read_link(body) for _, body in nl.dump(links.get_links(kind)))
    return {link.name: link.index for link in found if link.name.startswith(prefix)}


def set_link_sysctl(family: str, link: str, name: str, value: int) -> None:
    """Write `net.FAMILY.conf.LINK.NAME` (family `ipv4` or `ipv6`) where it differs.

    Raises:
        SyscallError: the kernel has no such setting, or refused.
    """
    path = f"{_SYSCTLS}/{family}/conf/{link}/{name}"
    try:
        with open(path, "r+b", buffering=0) as file:
            if file.read().strip() != b"%d" % value:
                file.seek(0)
                file.write(b"%d" % value)
    except OSError as error:
        text = f"net.{family}.conf.{link}.{name} = {value}"
        raise SyscallError("sysctl", text, error.errno or 0) from None


def _create(nl: Netlink, bridge: Bridge) -> Link:
    try:
        nl.request([links.create_bridge(bridge.name, bridge.mac)])
    except SyscallError as error:
        if error.errno != errno.EEXIST:
            raise
    return _read_link(nl.query(links.get_link(bridge.name))[0][1])


def _quieten(nl: Netlink, bridge: Bridge, found: Link) -> None:
    """IPv6 as it is given, never what a container advertises or the kernel makes up."""
    if not os.path.isdir(f"{_SYSCTLS}/ipv6/conf/{bridge.name}"):
        return
    nl.request([links.no_generated_address(found.index)])
    wanted = {"accept_ra": 0, "accept_dad": 0, "dad_transmits": 0, "accept_redirects": 0}
    if bridge.ipv6:
        wanted["disable_ipv6"] = 0
    for name, value in wanted.items():
        set_link_sysctl("ipv6", bridge.name, name, value)


def _match_addresses(nl: Netlink, index: int, bridge: Bridge) -> None:
    wanted = {bridge.ipv4} if bridge.ipv4 else set()
    if bridge.ipv6:
        wanted |= {bridge.ipv6, LINK_LOCAL_GATEWAY}
    there = set(link_addresses(nl, index))
    nl.request(
        [
            *(links.delete_address(index, address) for address in sorted(there - wanted)),
            *(links.add_address(index, address) for address in sorted(wanted - there)),
        ]
    )


def link_addresses(nl: Netlink, index: int) -> tuple[str, ...]:
    """The addresses of a link with their prefix lengths, both families.

    Raises:
        SyscallError: the kernel refused.
    """
    return tuple(
        text
        for body in (body for _, body in nl.dump(links.get_addresses(index)))
        if struct.unpack_from("=I", body, 4)[0] == index and (text := links.read_address(body))
    )


def _read_link(body: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = attributes(body[16:])
    info = attributes(found.get(links.IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=text_of(found[links.IFLA_IFNAME]),
        kind=text_of(info.get(links.IFLA_INFO_KIND, b"")),
        mac=found.get(links.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(links.IFLA_MTU)),
        up=bool(flags & links.IFF_UP),
        master=_number(found.get(links.IFLA_MASTER)),
    )


def _number(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data else 0

"""The turnstile: a veth pair of the host's own, through which each new connection to a published
port passes once its first packet has passed the host's input rules.

`dup` in chain `turn` sends a copy into one end; at the other it arrives as a packet from outside,
which is translated there. Why is told in `ruleset`. Works on the network namespace of its socket,
and for sysctls on that of the calling thread.
Source: nft(8) DUP STATEMENT, Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import os

from onggi.errors import SyscallError
from onggi.network import links
from onggi.network.attach import host_index
from onggi.network.bridges import find_link, link_addresses, set_link_sysctl
from onggi.network.netlink_messages import HEADER_BYTES
from onggi.network.ruleset import TURN4, TURN6

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from onggi.network.bridges import Link
    from onggi.network.netlink import Netlink
    from onggi.network.ruleset import Names

#: Of a range for protocols (RFC 6890) that no network has. Connected ranges, so that several
#: instances may have the same: the kernel keeps such routes apart by their link. The outer end's is
#: needed where the host checks reverse paths: a link without an address takes nothing then.
_INNER4, _OUTER4, _INNER6 = "192.0.0.8/29", "192.0.0.11/32", "fe80::8/64"
#: Reassembled datagrams pass whole.
_MTU = 65535
#: Where struct ifaddrmsg has the scope.
_IFA_SCOPE_OFFSET, _RT_SCOPE_LINK = 3, 253


def ensure_turnstile(nl: Netlink, names: Names, *, ipv6: bool = True) -> None:
    """Both ends are there and set up afterwards, whatever was before. Idempotent.

    The links' indexes derive from their names, so that rules, which name an index, stay right when
    the links are made again. `ipv6`: this kernel has IPv6.

    Raises:
        SyscallError: the kernel refused.
    """
    inner, outer = find_link(nl, names.turn_in), find_link(nl, names.turn_out)
    if inner is None or outer is None or {inner.kind, outer.kind} != {"veth"}:
        _create(nl, names)
        inner, outer = find_link(nl, names.turn_in), find_link(nl, names.turn_out)
    if inner is None or outer is None:
        raise SyscallError("netlink", f"newlink {names.turn_in}", errno.ENODEV)
    _set_sysctls(names, ipv6)
    _set_up(nl, inner, {_INNER4, _INNER6} if ipv6 else {_INNER4}, ipv6)
    _set_up(nl, outer, {_OUTER4}, ipv6)
    known = (TURN4, TURN6) if ipv6 else (TURN4,)
    nl.request([links.add_neighbour(inner.index, address, outer.mac) for address in known])


def turnstile_there(nl: Netlink, names: Names) -> bool:
    """Whether both ends are there and up.

    Raises:
        SyscallError: the kernel refused.
    """
    ends = (find_link(nl, names.turn_in), find_link(nl, names.turn_out))
    return all(end is not None and end.up for end in ends)


def remove_turnstile(nl: Netlink, names: Names) -> None:
    """Remove both ends; what is not there is no error.

    Raises:
        SyscallError: the kernel refused.
    """
    for name in (names.turn_in, names.turn_out):
        try:
            nl.request([links.delete_link(name)])
        except SyscallError as error:
            if error.errno != errno.ENODEV:
                raise


def _create(nl: Netlink, names: Names) -> None:
    """What has one of the names is no pair of ours, and goes."""
    remove_turnstile(nl, names)
    inner, outer = host_index(names.turn_in), host_index(names.turn_out)
    try:
        nl.request([_pair(names, inner, outer)])
    except SyscallError as error:
        if error.errno not in (errno.EEXIST, errno.EBUSY):
            raise
        nl.request([_pair(names, 0, 0)])  # another link has the index


def _pair(names: Names, index: int, peer_index: int) -> bytes:
    # Given MAC addresses: those that the kernel makes up are changed by tools of some hosts, and
    # the neighbour entries would be wrong.
    macs = [f"02:{number:02x}:" + b"onti".hex(":") for number in (1, 2)]
    return links.create_veth(
        names.turn_in,
        _MTU,
        index=index,
        mac=macs[0],
        peer=names.turn_out,
        peer_index=peer_index,
        peer_mac=macs[1],
    )


def _set_up(nl: Netlink, end: Link, addresses: set[str], ipv6: bool) -> None:
    if ipv6:
        # An address that the kernel generates would be checked for a second before it is used.
        nl.request([links.no_generated_address(end.index)])
    if not end.up:
        nl.request([links.set_up(end.index)])
    missing = addresses - set(link_addresses(nl, end.index))
    nl.request([_address(end.index, address) for address in sorted(missing)])


def _address(index: int, address: str) -> bytes:
    """Of the link only: no other traffic ever has it as its source."""
    made = bytearray(links.add_address(index, address))
    made[HEADER_BYTES + _IFA_SCOPE_OFFSET] = _RT_SCOPE_LINK
    return bytes(made)


def _set_sysctls(names: Names, ipv6: bool) -> None:
    """Copies have any source, of this host too, and 127.0.0.1 at either end."""
    settings = {"rp_filter": 2, "accept_local": 1, "route_localnet": 1, "forwarding": 1}
    for name, value in settings.items():
        set_link_sysctl("ipv4", names.turn_out, name, value)
    if ipv6 and os.path.isdir(f"/proc/sys/net/ipv6/conf/{names.turn_out}"):
        for end in (names.turn_in, names.turn_out):
            for name, value in {"disable_ipv6": 0, "accept_ra": 0, "accept_dad": 0}.items():
                set_link_sysctl("ipv6", end, name, value)

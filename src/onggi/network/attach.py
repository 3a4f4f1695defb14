"""A container's interface: the messages that make it, on the host and inside, and one line of it.

The messages are composed before anything exists; keel sends them when a container starts, and
`connect` sends the same ones to a container that runs. Which addresses are free is not known here.
"""

from __future__ import annotations

import errno
import hashlib
import socket

from msgspec import Struct

from onggi.errors import SyscallError
from onggi.network import links
from onggi.network.bridges import set_link_sysctl
from onggi.network.namespaces import call_in, netlink_in
from onggi.network.netlink_messages import batch

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from onggi.network.netlink import Netlink
    from onggi.network.values import Attachment

#: The interface `eth0` has this index inside, `eth1` the next …; the kernel's own choices are low.
FIRST_INDEX = 100
_CHOSEN = 1 << 30
#: What a container says unasked goes to every port of the bridge, at each start. Nobody on a bridge
#: may tell it where its routes lead (RFC 4861 section 6.3.7), and nobody counts who listens to
#: multicast, so what it has said of that is not said again within the hour (RFC 3810 section 9.11).
_QUIET = {"accept_ra": 0, "mldv2_unsolicited_report_interval": 3_600_000}


class Batch(Struct, frozen=True):
    """Netlink messages to send at once, numbered from 1, each of which is acknowledged.

    `pid_offsets`: where the pid of the container's first process is to be written (u32, native).
    """

    messages: bytes
    pid_offsets: tuple[int, ...] = ()


def host_batch(
    attachment: Attachment, bridge_index: int, *, isolated: bool = False, ipv6: bool = True
) -> Batch:
    """What is sent on the host once the container's process exists: the pair, one end of it a port
    of the bridge, the other in the network namespace of the pid.

    `isolated`: no traffic with other isolated ports. `ipv6`: this kernel has IPv6.
    """
    made, pid_offset = links.create_veth_for_pid(
        attachment.host_name,
        attachment.mtu,
        index=host_index(attachment.host_name),
        master=bridge_index,
        peer=attachment.interface,
        peer_index=attachment.index,
        peer_mac=attachment.mac,
    )
    rest = _port(attachment.host_name, isolated, ipv6)
    return Batch(messages=batch([made, *rest]), pid_offsets=(pid_offset,))


def host_index(host_name: str) -> int:
    """The index of an interface's end on the host: the kernel lets us choose one inside only where
    both are chosen. It is far above those that the kernel gives out itself."""
    return _CHOSEN | int.from_bytes(hashlib.sha256(host_name.encode()).digest()[:4]) & _CHOSEN - 1


def inside_batch(attachments: Sequence[Attachment], *, ipv6: bool = True) -> bytes:
    """What is sent inside, after the host's part: loopback, and every interface with its addresses
    and routes. `ipv6`: this kernel has IPv6."""
    messages = [links.set_up(links.LOOPBACK_INDEX)]
    for attachment in attachments:
        messages += _inside(attachment, ipv6)
    return batch(messages)


def inside_settings(attachments: Sequence[Attachment], *, ipv6: bool = True) -> tuple[str, ...]:
    """Parameters below the container's /proc/sys/net that are set before."""
    return tuple(
        f"ipv6/conf/{attachment.interface}/{name}={value}"
        for attachment in attachments
        for name, value in (_QUIET.items() if ipv6 else ())
    )


def connect(
    nl: Netlink,
    netns_fd: int,
    attachment: Attachment,
    bridge_index: int,
    *,
    isolated: bool = False,
    ipv6: bool = True,
) -> None:
    """Give a running container one more interface, or leave nothing behind.

    `nl` is the host's, `netns_fd` the container's network namespace.

    Raises:
        SyscallError: the kernel refused; EEXIST, the container has an interface of that name.
    """
    made = links.create_veth(
        attachment.host_name,
        attachment.mtu,
        index=host_index(attachment.host_name),
        master=bridge_index,
        peer=attachment.interface,
        peer_index=attachment.index,
        peer_mac=attachment.mac,
        netns_fd=netns_fd,
    )
    nl.request([made])
    try:
        nl.request(_port(attachment.host_name, isolated, ipv6))
        if ipv6:
            call_in(netns_fd, lambda: _quieten(attachment.interface))
        with netlink_in(netns_fd) as inside:
            inside.request(_inside(attachment, ipv6))
    except BaseException:
        disconnect(nl, attachment.host_name)
        raise


def disconnect(nl: Netlink, host_name: str) -> None:
    """Remove an interface, both ends of it; one that is gone is no error.

    Raises:
        SyscallError: the kernel refused.
    """
    try:
        nl.request([links.delete_link(host_name)])
    except SyscallError as error:
        if error.errno != errno.ENODEV:
            raise


def set_default_routes(netns_fd: int, attachment: Attachment) -> None:
    """Let a running container's default routes lead through this interface from now on.

    Raises:
        SyscallError: the kernel refused.
    """
    with netlink_in(netns_fd) as inside:
        inside.request(_default_routes(attachment))


def lines(attachment: Attachment) -> tuple[str, ...]:
    """What a person should know of an interface, a line each."""
    first = (
        f"{attachment.interface}: {attachment.host_name} on bridge {attachment.bridge}, "
        f"MAC {attachment.mac}, MTU {attachment.mtu}"
    )
    found = [first]
    for address, gateway in (
        (attachment.ipv4, attachment.gateway4),
        (attachment.ipv6, attachment.gateway6),
    ):
        if address:
            way = f", everything else through {gateway}" if gateway else ", no way out"
            found.append(f"{attachment.interface}: address {address}{way}")
    found += (f"{attachment.interface}: address {address}" for address in attachment.extra)
    return tuple(found)


def _port(name: str, isolated: bool, ipv6: bool) -> list[bytes]:
    """The settings come first: a port that is up without them gets an IPv6 address of its own."""
    return [links.set_port(name, isolated=isolated, ipv6=ipv6), links.set_up(name)]


def _quieten(interface: str) -> None:
    for name, value in _QUIET.items():
        set_link_sysctl("ipv6", interface, name, value)


def _inside(attachment: Attachment, ipv6: bool) -> list[bytes]:
    index = attachment.index
    addresses = [a for a in (attachment.ipv4, attachment.ipv6, *attachment.extra) if a]
    if attachment.ipv6:
        addresses.append(link_local_address(attachment.mac))
    return [
        *([links.no_generated_address(index)] if ipv6 else []),
        links.set_up(index),
        *(links.add_address(index, address) for address in dict.fromkeys(addresses)),
        *_default_routes(attachment),
    ]


def _default_routes(attachment: Attachment) -> list[bytes]:
    gateways = (attachment.gateway4, attachment.gateway6)
    return [links.default_route(attachment.index, gateway) for gateway in gateways if gateway]


def link_local_address(mac: str) -> str:
    """The link-local IPv6 address that belongs to a MAC address. Source: RFC 4291 appendix A."""
    packed = links.mac_bytes(mac)
    identifier = bytes([packed[0] ^ 2]) + packed[1:3] + b"\xff\xfe" + packed[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + identifier) + "/64"

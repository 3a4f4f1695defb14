"""Links, addresses and routes as netlink messages: pure, one function per thing the kernel does.

Links are named by their index or, where it is not known yet, by their name. Nothing is sent here.
Source: rtnetlink(7), ip-link(8), linux/if_link.h, linux/if_addr.h.
"""

from __future__ import annotations

import socket
import struct

from onggi.network.netlink_messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    message,
    nested,
    string,
    u8,
    u32,
)

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    #: A link by its index, or by its name where that is not known yet.
    Link = int | str

LOOPBACK_INDEX = 1
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 19, 20, 26, 28, 29
_IFLA_NEW_IFINDEX = 49
IFLA_INFO_KIND, IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_MCAST_SNOOPING, _BR_NF_CALLS = 1, 5, 23, (36, 37, 38)
_BRPORT_HAIRPIN, _BRPORT_ISOLATED = 4, 33
_VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x2
_LINK_LOCAL: dict[int, bytes] = {socket.AF_INET: b"\xa9\xfe", socket.AF_INET6: b"\xfe\x80"}
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
_RTNH_F_ONLINK = 0x4
RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 254, 4, 0, 253
_NUD_PERMANENT = 0x80
_NDA_DST, _NDA_LLADDR = 1, 2


def mac_bytes(mac: str) -> bytes:
    """The six bytes of `02:00:00:00:00:01`."""
    return bytes.fromhex(mac.replace(":", ""))


def _link(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def _named(link: Link) -> tuple[int, bytes]:
    return (link, b"") if isinstance(link, int) else (0, string(IFLA_IFNAME, link))


def _no_generated_address() -> bytes:
    mode = u8(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE)
    return nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))


def _mac(mac: str) -> bytes:
    return attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b""


def _hardware(mac: str, mtu: int) -> bytes:
    return _mac(mac) + u32(IFLA_MTU, mtu)


# Links


def create_bridge(name: str, mac: str) -> bytes:
    """Make a bridge that is down; EEXIST when the name is taken.

    It speaks no spanning tree and forwards at once; what it forwards between its ports does not
    pass the host's IP rules; it floods multicast, as nobody here would ask who listens. Its MTU
    comes from `set_mtu`: one given at birth would follow that of its ports.
    """
    body = (_link(), string(IFLA_IFNAME, name), _mac(mac), _bridge_info())
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, b"".join(body))


def configure_bridge(index: int, mac: str) -> bytes:
    """Give a bridge that is there the values of a new one."""
    return message(RTM_NEWLINK, 0, _link(index) + _mac(mac) + _bridge_info())


def _bridge_info() -> bytes:
    settings = (
        u32(_BR_FORWARD_DELAY, 0),
        u32(_BR_STP_STATE, 0),
        u8(_BR_MCAST_SNOOPING, 0),
        *(u8(kind, 0) for kind in _BR_NF_CALLS),
    )
    info = (string(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, *settings))
    return nested(IFLA_LINKINFO, *info)


def create_veth(
    name: str,
    mtu: int,
    *,
    index: int = 0,
    mac: str = "",
    master: int = 0,
    peer: str,
    peer_index: int = 0,
    peer_mac: str = "",
    netns_fd: int | None = None,
) -> bytes:
    """Make two ends of one wire, both down: one here, as a port of `master`; `peer` in the network
    namespace `netns_fd`, or here too.

    An index of 0: the kernel chooses, and then for both ends: it heeds `peer_index` only where
    `index` is given, too. An empty MAC address: a random one.
    """
    there = b"" if netns_fd is None else u32(_IFLA_NET_NS_FD, netns_fd)
    return _veth(name, mtu, index, mac, master, peer, peer_index, peer_mac, there)


def create_veth_for_pid(
    name: str, mtu: int, *, index: int, master: int, peer: str, peer_index: int, peer_mac: str
) -> tuple[bytes, int]:
    """As `create_veth`, with the peer in the network namespace of a process that is not born yet,
    and the offset at which its pid (u32, native order) is to be written."""
    there = u32(_IFLA_NET_NS_PID, 0)
    made = _veth(name, mtu, index, "", master, peer, peer_index, peer_mac, there)
    # It is the last attribute of the last attribute, and needs no padding.
    return made, len(made) - 4


def _veth(
    name: str,
    mtu: int,
    index: int,
    mac: str,
    master: int,
    peer: str,
    peer_index: int,
    peer_mac: str,
    there: bytes,
) -> bytes:
    other = (_link(peer_index), string(IFLA_IFNAME, peer), _hardware(peer_mac, mtu), there)
    data = nested(IFLA_INFO_DATA, nested(_VETH_INFO_PEER, *other))
    body = (
        _link(index),
        string(IFLA_IFNAME, name),
        _hardware(mac, mtu),
        u32(IFLA_MASTER, master) if master else b"",
        nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "veth"), data),
    )
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, b"".join(body))


def move_for_pid(index: int, name: str) -> tuple[bytes, int]:
    """Move a link into the network namespace of a process that is not born yet, under a name; and
    the offset at which its pid (u32, native order) is to be written. It keeps its index."""
    body = string(IFLA_IFNAME, name) + u32(_IFLA_NEW_IFINDEX, index) + u32(_IFLA_NET_NS_PID, 0)
    made = message(RTM_NEWLINK, 0, _link(index) + body)
    return made, len(made) - 4


def set_port(link: Link, *, isolated: bool = False, ipv6: bool = True) -> bytes:
    """Settings of a bridge's port: what came in by it may leave by it (a container that uses its
    own published port); `isolated`: it exchanges nothing with other isolated ports.

    `ipv6`: this kernel has IPv6; the port then gets no address of it.
    """
    index, name = _named(link)
    flags = u8(_BRPORT_HAIRPIN, 1) + u8(_BRPORT_ISOLATED, int(isolated))
    slave = (string(_IFLA_INFO_SLAVE_KIND, "bridge"), nested(_IFLA_INFO_SLAVE_DATA, flags))
    quiet = _no_generated_address() if ipv6 else b""
    return message(RTM_NEWLINK, 0, _link(index) + name + nested(IFLA_LINKINFO, *slave) + quiet)


def set_up(link: Link, up: bool = True) -> bytes:
    """Bring a link up, or down."""
    index, name = _named(link)
    return message(RTM_NEWLINK, 0, _link(index, IFF_UP if up else 0, IFF_UP) + name)


def set_mtu(link: Link, mtu: int) -> bytes:
    """Change the longest packet that a link takes."""
    index, name = _named(link)
    return message(RTM_NEWLINK, 0, _link(index) + name + u32(IFLA_MTU, mtu))


def set_master(link: Link, master: int) -> bytes:
    """Make a link a port of a bridge; 0: of none."""
    index, name = _named(link)
    return message(RTM_NEWLINK, 0, _link(index) + name + u32(IFLA_MASTER, master))


def set_alias(link: Link, text: str) -> bytes:
    """A text that `ip link` shows beside the link, at most 255 bytes."""
    index, name = _named(link)
    return message(RTM_NEWLINK, 0, _link(index) + name + attribute(IFLA_IFALIAS, text.encode()))


def no_generated_address(link: Link) -> bytes:
    """Let a link have only those IPv6 addresses that it is given. Before it is up."""
    index, name = _named(link)
    return message(RTM_NEWLINK, 0, _link(index) + name + _no_generated_address())


def delete_link(link: Link) -> bytes:
    """Remove a link, and the other end with one end of a veth."""
    index, name = _named(link)
    return message(RTM_DELLINK, 0, _link(index) + name)


def get_link(link: Link) -> bytes:
    """Ask for one link."""
    index, name = _named(link)
    return message(RTM_GETLINK, 0, _link(index) + name + _without_statistics())


def get_links(kind: str = "") -> bytes:
    """Ask for all links, or those of one kind (`bridge`, `veth`)."""
    only = nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, kind)) if kind else b""
    return message(RTM_GETLINK, 0, _link() + only + _without_statistics())


def _without_statistics() -> bytes:
    return u32(_IFLA_EXT_MASK, 1 << 3)


# Addresses


def add_address(index: int, address: str) -> bytes:
    """Give a link an address with its prefix length (`10.89.0.2/24`).

    An IPv6 address is usable at once: nobody is asked whether it is a duplicate.
    """
    flags = NLM_F_CREATE | NLM_F_EXCL
    return message(RTM_NEWADDR, flags, _address(index, address))


def delete_address(index: int, address: str) -> bytes:
    """Take an address from a link; EADDRNOTAVAIL when it has it not."""
    return message(RTM_DELADDR, 0, _address(index, address))


def get_addresses(index: int = 0) -> bytes:
    """Ask for the addresses of one link, or (0) of all, both families."""
    return message(RTM_GETADDR, 0, struct.pack("=BBBBI", 0, 0, 0, 0, index))


def read_address(body: bytes) -> str:
    """The address, with its prefix length, in a message about one."""
    found = attributes(body[8:])
    packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    return f"{socket.inet_ntop(body[0], packed)}/{body[1]}" if packed else ""


def _address(index: int, address: str) -> bytes:
    family, packed, length = _packed(address)
    link_local = packed.startswith(_LINK_LOCAL[family])
    scope = _RT_SCOPE_LINK if link_local else _RT_SCOPE_UNIVERSE
    body = struct.pack("=BBBBI", family, length, 0, scope, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if family == socket.AF_INET6:
        return body + u32(_IFA_FLAGS, _IFA_F_NODAD)
    if length < 31:
        last = int.from_bytes(packed) | (1 << (32 - length)) - 1
        body += attribute(_IFA_BROADCAST, last.to_bytes(4))
    return body


def _packed(text: str) -> tuple[int, bytes, int]:
    """Family, bytes and prefix length of an address or range; without a length it is all bits.

    ipaddress would take ten times as long, on the path of every start.
    """
    address, _, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return family, packed, int(length) if length else 8 * len(packed)


# Routes and neighbours


def add_route(index: int, destination: str, gateway: str = "", *, onlink: bool = False) -> bytes:
    """Reach a range (`0.0.0.0/0` or `::/0`: everything) through a link.

    `onlink`: the gateway is on the link although no range of it says so.
    """
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return message(RTM_NEWROUTE, flags, _route(index, destination, gateway, onlink))


def delete_route(index: int, destination: str, gateway: str = "") -> bytes:
    """Forget a route; ESRCH when there is none."""
    return message(RTM_DELROUTE, 0, _route(index, destination, gateway, onlink=False))


def default_route(index: int, gateway: str) -> bytes:
    """Send through a link, to the gateway, whatever no other route is for."""
    everything = "::/0" if ":" in gateway else "0.0.0.0/0"
    return add_route(index, everything, gateway)


def get_routes(family: int) -> bytes:
    """Ask for the routes of a family, of all tables."""
    return message(RTM_GETROUTE, 0, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0))


def _route(index: int, destination: str, gateway: str, onlink: bool) -> bytes:
    family, target, length = _packed(destination)
    far = gateway or family == socket.AF_INET6
    head = struct.pack(
        "=BBBBBBBBI",
        family,
        length,
        0,
        0,
        RT_TABLE_MAIN,
        _RTPROT_STATIC,
        _RT_SCOPE_UNIVERSE if far else _RT_SCOPE_LINK,
        1,
        _RTNH_F_ONLINK if onlink else 0,
    )
    where = attribute(RTA_DST, target) if length else b""
    via = attribute(RTA_GATEWAY, _packed(gateway)[1]) if gateway else b""
    return head + where + via + u32(RTA_OIF, index)


def add_neighbour(index: int, address: str, mac: str) -> bytes:
    """Tell a link, for good, which MAC address an address has."""
    family, packed, _ = _packed(address)
    head = struct.pack("=BxxxiHBB", family, index, _NUD_PERMANENT, 0, 0)
    both = attribute(_NDA_DST, packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, head + both)

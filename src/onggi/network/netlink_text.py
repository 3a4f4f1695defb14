"""Netlink failures as a person would say them: what a message was about, and what to do.

Pure. Source: linux/rtnetlink.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno as e
import socket
import struct

_ROUTE, _NETFILTER = 0, 12
_NFNL_SUBSYS_CTNETLINK, _NFNL_SUBSYS_NFTABLES = 1, 10

_ROUTE_KINDS = {
    16: "newlink",
    17: "dellink",
    18: "getlink",
    19: "setlink",
    20: "newaddr",
    21: "deladdr",
    22: "getaddr",
    24: "newroute",
    25: "delroute",
    26: "getroute",
    28: "newneigh",
    29: "delneigh",
    30: "getneigh",
}
_NFTABLES_KINDS = (
    "newtable gettable deltable newchain getchain delchain newrule getrule delrule newset getset "
    "delset newsetelem getsetelem delsetelem newgen getgen trace newobj getobj delobj"
).split()
_CTNETLINK_KINDS = ("newconntrack", "getconntrack", "delconntrack")

#: (errno, beginning of what failed) → hint. The first that fits is taken.
_HINTS: tuple[tuple[int, str, str], ...] = (
    (e.EPERM, "", "it needs CAP_NET_ADMIN in the user namespace that owns the network namespace"),
    (e.EOPNOTSUPP, "newlink", "this kernel lacks it; try `modprobe bridge veth`"),
    (e.EOPNOTSUPP, "nft", "this kernel lacks it; try `modprobe nf_tables nft_chain_nat`"),
    (e.EAFNOSUPPORT, "", "the kernel has no IPv6; remove ipv6.disable=1 from its command line"),
    (e.EEXIST, "newlink", "another link has this name; `ip link` lists all"),
    (e.EXFULL, "newlink", "a bridge takes 1,023 ports; put some containers into another network"),
    (e.EXFULL, "setlink", "a bridge takes 1,023 ports; put some containers into another network"),
    (e.ENFILE, "newlink", "there are too many links of this kind in the network namespace"),
    (e.ENODEV, "", "the link is gone; `ip link` lists those there are"),
    (e.ESRCH, "newlink", "the process whose network namespace was meant has ended"),
    (e.ENETUNREACH, "newroute", "the gateway lies in no subnet of the interface"),
    (e.EHOSTUNREACH, "newroute", "the gateway lies in no subnet of the interface"),
    (e.ENOBUFS, "", "messages of the kernel were lost; look at everything again"),
)


def hint_for(what: str, errno: int) -> str | None:
    """What to do about a failed message, where that is known."""
    return next(
        (t for number, part, t in _HINTS if number == errno and what.startswith(part)), None
    )


def describe(message: bytes, protocol: int) -> str:
    """What a message is about: `newlink ov0123`, `newaddr 10.89.0.2/24 on link 100`.

    Never fails: it is used while a failure is told.
    """
    if len(message) < 16:
        return "message"
    kind = struct.unpack_from("=H", message, 4)[0]
    try:
        if protocol == _ROUTE:
            return _route(kind, message[16:])
        if protocol == _NETFILTER:
            return _netfilter(kind, message[16:])
    except (struct.error, ValueError):
        pass
    return f"message of kind {kind}"


def _route(kind: int, body: bytes) -> str:
    name = _ROUTE_KINDS.get(kind, f"message of kind {kind}")
    if kind in (16, 17, 18, 19):
        index = struct.unpack_from("=i", body, 4)[0]
        return f"{name} {_text(body, 16, 3) or f'link {index}'}"
    if kind in (20, 21):
        family, length, index = body[0], body[1], struct.unpack_from("=I", body, 4)[0]
        return f"{name} {_address(family, _find(body, 8, 1))}/{length} on link {index}"
    if kind in (24, 25):
        family, length = body[0], body[1]
        target = f"{_address(family, _find(body, 12, 1))}/{length}" if length else "default"
        return f"{name} {target} via {_address(family, _find(body, 12, 5))}"
    if kind in (28, 29):
        index = struct.unpack_from("=i", body, 4)[0]
        return f"{name} {_address(body[0], _find(body, 12, 1))} on link {index}"
    return name


def _netfilter(kind: int, body: bytes) -> str:
    number = kind & 0xFF
    if kind >> 8 == _NFNL_SUBSYS_NFTABLES and number < len(_NFTABLES_KINDS):
        family = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}.get(body[0], "")
        words = ("nft", _NFTABLES_KINDS[number], family, _text(body, 4, 1), _text(body, 4, 2))
        return " ".join(word for word in words if word)
    if kind >> 8 == _NFNL_SUBSYS_CTNETLINK and number < len(_CTNETLINK_KINDS):
        return _CTNETLINK_KINDS[number]
    return {0x10: "nft transaction", 0x11: "nft transaction"}.get(kind, f"message of kind {kind}")


def _find(body: bytes, offset: int, wanted: int) -> bytes:
    while offset + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, offset)
        if kind & 0x3FFF == wanted:
            return body[offset + 4 : offset + size]
        offset += max(4, size + -size % 4)
    return b""


def _text(body: bytes, offset: int, wanted: int) -> str:
    text = _find(body, offset, wanted).split(b"\0")[0].decode("ascii", "replace")
    return text if text.isprintable() else ""


def _address(family: int, packed: bytes) -> str:
    return socket.inet_ntop(family, packed) if packed else "nothing"

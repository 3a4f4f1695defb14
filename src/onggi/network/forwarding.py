"""Forwarding between the host's links: switched on where containers need it, and off again.

Works on the network namespace of the calling thread.
Source: Documentation/networking/ip-sysctl.rst (ip_forward, forwarding, accept_ra).
"""

from __future__ import annotations

import os

from msgspec import Struct

from onggi.errors import SyscallError

_IPV4 = "/proc/sys/net/ipv4/ip_forward"
_IPV6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_IPV4_LINKS, _IPV6_LINKS = "/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"
#: Bridges of every instance begin so.
_BRIDGE_PREFIX = "og"


class Switched(Struct, frozen=True):
    """The families whose forwarding was off, and is on because of us."""

    ipv4: bool = False
    ipv6: bool = False


_BOTH = Switched(ipv4=True, ipv6=True)


def switch_on(*, ipv6: bool) -> Switched:
    """Let the host forward IPv4 and, when asked, IPv6; the answer tells what was off before.

    What was off must not make the host a router for others: `Firewall.install` guards it.

    Raises:
        SyscallError: the kernel refused.
    """
    changed6 = False
    if ipv6 and os.path.exists(_IPV6) and _read(_IPV6) == 0:
        # A router heeds other routers' advertisements only where a link says 2: with 1, the host's
        # own default route would vanish at the moment of switching.
        for link in os.listdir(_IPV6_LINKS):
            if link != "all":
                _keep_advertisements(f"{_IPV6_LINKS}/{link}/accept_ra")
        changed6 = _write(_IPV6, 1)
    return Switched(ipv4=_write(_IPV4, 1), ipv6=changed6)


def switch_off(switched: Switched = _BOTH) -> None:
    """Undo what `switch_on` did, unless another instance's bridges need it.

    `accept_ra` stays: to a host, 2 is the same as 1.

    Raises:
        SyscallError: the kernel refused.
    """
    if any(link.startswith(_BRIDGE_PREFIX) for link in os.listdir(_IPV4_LINKS)):
        return
    if switched.ipv4:
        _write(_IPV4, 0)
    if switched.ipv6 and os.path.exists(_IPV6):
        _write(_IPV6, 0)


def _keep_advertisements(path: str) -> None:
    try:
        if _read(path) == 1:
            _write(path, 2)
    except SyscallError:
        if os.path.exists(path):
            raise  # else the link has gone meanwhile


def _read(path: str) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            return int(file.read())
    except OSError as error:
        raise SyscallError("sysctl", path, error.errno or 0) from None


def _write(path: str, value: int) -> bool:
    """Whether it was another value before."""
    if _read(path) == value:
        return False
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(b"%d" % value)
    except OSError as error:
        raise SyscallError(
            "sysctl",
            f"{path} = {value}",
            error.errno or 0,
            hint="where /proc/sys is read-only, set it on the host: sysctl net.ipv4.ip_forward=1",
        ) from None
    return True

"""What the rooms of this floor tell each other: bridges, attachments, publications."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Bridge(Struct, frozen=True):
    """A network's link on the host. `ipv4`, `ipv6`: the gateway with its prefix length
    (`10.89.0.1/24`); empty: the network has not that family. `internal`: no way out and none in."""

    name: str
    mac: str
    mtu: int = 1500
    ipv4: str = ""
    ipv6: str = ""
    internal: bool = False


class Attachment(Struct, frozen=True):
    """One interface of a container: a veth whose other end, `host_name`, is a port of `bridge`.

    `index`: the number of `interface` inside. Addresses with prefix length; an empty gateway: no
    default route leads through this interface. `extra`: further addresses with prefix length.
    """

    interface: str
    index: int
    host_name: str
    bridge: str
    mac: str
    mtu: int = 1500
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    extra: tuple[str, ...] = ()


class Publication(Struct, frozen=True):
    """A port of the host that leads to a port of a container.

    `host_address` empty: every address of the host, of both families. `ipv4`, `ipv6`: the
    container's, without prefix length; empty: it has none of that family.
    """

    protocol: Literal["tcp", "udp"]
    host_address: str
    host_port: int
    container_port: int
    ipv4: str = ""
    ipv6: str = ""

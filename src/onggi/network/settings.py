"""What an administrator decides about networks: the section `[network]`."""

from __future__ import annotations

from msgspec import Struct


class NetworkSettings(Struct, frozen=True):
    """`pools`: address ranges (CIDR) that new networks are cut from, empty: private ranges that the
    host does not use. `ipv6`: new networks have IPv6 where the host has. `mtu` 0: as the host's way
    out."""

    pools: tuple[str, ...] = ()
    ipv6: bool = True
    mtu: int = 0

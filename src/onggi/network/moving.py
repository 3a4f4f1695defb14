"""Devices of the host that go into a container for as long as it lives (`linux.netDevices`).

A device keeps its MAC address and MTU by itself; its lasting addresses go along, because the kernel
takes them away on the move. At the container's end the kernel brings a physical device back.
Source: runtime-spec config-linux.md#network-devices, rtnetlink(7).
"""

from __future__ import annotations

import struct

from onggi.errors import NotFound, SyscallError
from onggi.network import links
from onggi.network.netlink import Netlink
from onggi.network.netlink_messages import batch
from onggi.runtime.request import LinkSetup

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping

    from onggi.specs.runtime import NetDevice

_PERMANENT = 0x80  # IFA_F_PERMANENT
_UNIVERSE = 0


def move_devices(devices: Mapping[str, NetDevice]) -> LinkSetup:
    """What moves the devices once the container's process exists, and sets them up inside.

    Raises:
        NotFound: there is no such device.
        SyscallError: the kernel does not answer.
    """
    outside, offsets, inside, lines = [], [], [], []
    size = 0
    with Netlink.open() as nl:
        for name, device in devices.items():
            index = _index_of(nl, name)
            called = device.name or name
            message, offset = links.move_for_pid(index, called)
            outside.append(message)
            offsets.append(size + offset)
            size += len(message)
            lines.append(f"{called}: {name} of the host")
            for address in _lasting_addresses(nl, index):
                inside.append(links.add_address(index, address))
                lines.append(f"{called}: address {address}")
            inside.append(links.set_up(index))
    return LinkSetup(
        host_messages=batch(outside),
        pid_offsets=tuple(offsets),
        inside_messages=batch(inside),
        lines=tuple(lines),
    )


def _index_of(nl: Netlink, name: str) -> int:
    try:
        ((_, body),) = nl.query(links.get_link(name))
    except SyscallError as error:
        if error.kind in ("NotFound", "Internal"):
            raise NotFound(
                f"$.linux.netDevices: the host has no network device {name!r}",
                hint="`ip link` lists them",
            ) from None
        raise
    return int(struct.unpack_from("=i", body, 4)[0])


def _lasting_addresses(nl: Netlink, index: int) -> list[str]:
    found = []
    for _, body in nl.dump(links.get_addresses()):
        flags, scope, owner = struct.unpack_from("=BBI", body, 2)
        if owner == index and scope == _UNIVERSE and flags & _PERMANENT:
            found.append(links.read_address(body))
    return found

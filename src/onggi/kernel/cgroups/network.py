"""net_cls and net_prio: mark the packets of a cgroup. v1 only.

On v2 neither exists: packets are matched by cgroup path in nftables (`socket cgroupv2`).
Source: Documentation/admin-guide/cgroup-v1/net_cls.rst and net_prio.rst,
runtime-spec config-linux.md#network.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.kernel.cgroups.rule import Change, Files, Lacking, Write
from onggi.specs.runtime import Resources


def class_v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """The class id that tc(8) and nftables see, 0xAAAABBBB for the class AAAA:BBBB."""
    network = resources.network
    if network is None or network.class_id is None:
        return ()
    return (Write("net_cls.classid", str(network.class_id)),)


def class_v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Nothing can be done, and that is said."""
    asked = class_v1(resources, files)
    return (Lacking("a network class id does not exist on cgroup v2"),) if asked else ()


def priorities_v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """One write for each interface of the host.

    Raises:
        InvalidArgument: an interface name with a space in it.
    """
    changes = []
    for entry in resources.network.priorities if resources.network else ():
        if not entry.name or any(character.isspace() for character in entry.name):
            raise InvalidArgument(f"network interface name {entry.name!r} is not one")
        changes.append(Write("net_prio.ifpriomap", f"{entry.name} {entry.priority}"))
    return tuple(changes)


def priorities_v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Nothing can be done, and that is said."""
    asked = priorities_v1(resources, files)
    return (Lacking("network priorities do not exist on cgroup v2"),) if asked else ()

"""The cpuset controller: on which CPUs and memory nodes.

Values are lists as the kernel writes them (`0-3,8`). A v1 cpuset with no CPUs or no nodes takes no
process, so that a new one is filled from its parent; v2 inherits by itself.
Source: Documentation/admin-guide/cgroup-v1/cpusets.rst, cgroup-v2.rst#cpuset,
runtime-spec config-linux.md#cpu.
"""

from __future__ import annotations

from onggi.kernel.cgroups.rule import Change, Files, Write
from onggi.specs.runtime import Resources

FILES = ("cpuset.cpus", "cpuset.mems")
_ONLINE = ("/sys/devices/system/cpu/online", "/sys/devices/system/node/online")


def online() -> tuple[str, str]:
    """The host's CPUs and memory nodes, as lists; a kernel without NUMA has the node 0.

    Source: Documentation/ABI/stable/sysfs-devices-system-cpu, sysfs-devices-node.
    """
    found = []
    for path in _ONLINE:
        try:
            with open(path, encoding="ascii") as file:
                found.append(file.read().strip())
        except FileNotFoundError:
            found.append("0")
    return found[0], found[1]


def both(resources: Resources, files: Files) -> tuple[Change, ...]:
    """The same two files on both versions; an empty list is none."""
    cpu = resources.cpu
    if cpu is None:
        return ()
    wanted = zip(FILES, (cpu.cpus, cpu.mems), strict=True)
    return tuple(Write(file, value) for file, value in wanted if value)


def inherit(parent: Files, child: Files) -> tuple[Write, ...]:
    """What a new v1 cpuset takes over from its parent before a process can join it."""
    return tuple(
        Write(file, value)
        for file in FILES
        if not (child.read(file) or "").strip() and (value := (parent.read(file) or "").strip())
    )
